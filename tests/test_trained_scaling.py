"""Distances of trained networks against dimension, at toy size."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import resume

from dmm_jax import data
from dmm_jax import models
from dmm_jax import records
from dmm_jax import scaling
from experiments import trained_scaling
from experiments.lib import flags

TOY = dict(
  sizes=(4, 6),
  models=('mlp',),
  num_networks=2,
  num_train=256,
  num_test=50,
  num_examples=5,
  epochs=3,
  method='linear',
)


def toy(workdir, **more):
  return trained_scaling.Config(workdir=str(workdir), **(TOY | more))


@pytest.fixture(scope='module')
def finished(tmp_path_factory):
  return resume.run_keeping_chunks(
    trained_scaling.run, toy, tmp_path_factory.mktemp('run')
  )


@pytest.mark.parametrize('name', ['mlp', 'cnn'])
def test_networks_have_a_logit_for_each_class(name):
  net = trained_scaling.module(name, 7)
  x = jax.ShapeDtypeStruct((12, 12, 1), jnp.float32)
  (logits, _), _ = jax.eval_shape(
    lambda x: net.init_with_output(jax.random.key(0), x), x
  )
  assert logits.shape == (7,)


def test_networks_of_each_size_are_measured(finished, capsys):
  run_dir, summary, _ = finished
  table = records.load_columns(run_dir / 'results.npz')
  # Sizes, contents, trained or not, networks, norms, images and noise.
  assert len(table['distance']) == 2 * 2 * 2 * 2 * 3 * 10
  true, same = summary['rows'][:2]
  assert (true['content'], same['content']) == ('true', 'same')
  assert true['n'] == [16, 36] and true['accuracy'][0]['value'] > 0.2
  # At the smallest size, contents are one.
  assert (
    true['series']['trained_images']['relative'][0]
    == (same['series']['trained_images']['relative'][0])
  )
  of = dict(norm=2.0, content='true', inputs='images', trained=True)
  part = records.select(table, model='mlp', **of)
  medians = [
    np.median(p['distance'] / p['input_norm'])
    for p in (records.select(part, n=n) for n in (16, 36))
  ]
  want = np.log(medians[1] / medians[0]) / np.log(36 / 16)
  slope = summary['rows'][2]['series']['trained_images']['slope']
  np.testing.assert_allclose(slope['value'], want, rtol=1e-5)
  written = (run_dir / 'summary.json').read_text()
  assert json.dumps(summary, indent=2) + '\n' == written
  for name in ('relative', 'distance'):
    assert (run_dir / f'figures/{name}.png').is_file()
  trained_scaling.report(summary)
  assert 'slope at true less same content' in capsys.readouterr().out


def test_a_broken_run_ends_with_the_same_bytes(finished, tmp_path):
  resume.assert_goes_on(
    trained_scaling.run,
    toy,
    finished,
    tmp_path,
    lost='mlp-6-same',
    kept=(),
    same=('results.npz', 'summary.json'),
  )


def test_enlarged_images_keep_the_content_of_the_smallest_size():
  xs, _ = data.load('digits', 'test[:3]')
  config = toy('unused', sizes=(4, 8))
  make = lambda content, size: trained_scaling.resized(
    config, xs, content, size
  )
  np.testing.assert_array_equal(make('true', 8), xs)
  np.testing.assert_array_equal(make('same', 4), make('true', 4))
  again = data.resize(make('same', 4), 8, 1)
  np.testing.assert_allclose(make('same', 8), again, atol=1e-6)
  # Maps of a linear space: of 4 x 4 dimensions, whatever the pixels are.
  many, _ = data.load('digits', 'test[:60]')
  enlarged = trained_scaling.resized(config, many, 'same', 8).reshape(60, -1)
  assert np.linalg.matrix_rank(enlarged, tol=1e-3) <= 16
  assert np.linalg.matrix_rank(many.reshape(60, -1), tol=1e-3) > 40


def test_distances_of_a_linear_network_are_exact():
  net = models.Linear(2)
  x = np.full((2, 2, 1), 0.5, np.float32)
  params = net.init(jax.random.key(0), x)['params']
  weights = np.asarray(jax.tree.leaves(params)[-1])
  measure = functools.partial(
    trained_scaling.measure_image, net=net, method='linear', max_gradients=20
  )
  gap = weights[:, 0] - weights[:, 1]
  want = np.abs(x.ravel() @ gap) / np.linalg.norm(gap)
  assert want < 0.5  # The box is no bound.
  found = jax.jit(measure)(x, params, np.float32(2))
  np.testing.assert_allclose(found['distance'], want, rtol=1e-4)
  np.testing.assert_allclose(found['input_norm'], 1.0)


def test_slopes_of_power_laws():
  n = np.array([10.0, 20, 50, 100])
  rng = np.random.default_rng(0)
  noise = 1 + 0.001 * rng.normal(size=(4, 3, 5))
  fast = [e * v**-0.5 for e, v in zip(noise, n, strict=True)]
  slow = [e * 7 * v**0.2 for e, v in zip(noise, n, strict=True)]
  np.testing.assert_allclose(scaling.median_slope(n)(*fast), -0.5, atol=0.01)
  pairs = [np.concatenate(p, 1) for p in zip(fast, slow, strict=True)]
  found = trained_scaling.slope_difference(n)(*pairs)
  np.testing.assert_allclose(found, -0.7, atol=1e-6)
  effect = trained_scaling.content_effect({'n': n}, slow, fast)
  np.testing.assert_allclose(effect['value'], 0.7, atol=0.01)
  assert effect['verdict'] == 'content matters'
  assert set(scaling.laws(n, 2.0)) == {'sqrt(n)'}
  want = np.polyfit(np.log(n), np.log((n * np.log(n)) ** -0.5), 1)[0]
  np.testing.assert_allclose(scaling.laws(n, 1.0)['sqrt(n/ln n)'], want)


def test_verdicts_follow_the_rules():
  survival = trained_scaling.survival
  assert survival((-0.54, -0.3), -0.5) == 'survives'
  assert survival((-0.7, -0.56), -0.5) == 'does not survive'
  assert survival((-0.6, -0.5), -0.5) == 'undecided'
  assert survival((-0.4, 0.0), -0.5) == 'undecided'
  assert survival((np.nan, np.nan), -0.5) == 'undecided'
  change = trained_scaling.change
  assert change((0.1, 0.2)) == 'falls more slowly than untrained'
  assert change((-0.2, -0.1)) == 'falls faster than untrained'
  assert change((-0.2, 0.1)) == 'no difference seen'
  assert change((0.2, np.inf)) == 'no difference seen'


@pytest.mark.parametrize(
  'given, message',
  [
    (dict(sizes=(4,)), r'--sizes: a slope needs two'),
    (dict(models=('vit',)), r'--models=vit is unknown'),
    (dict(method='luck'), r'--method=luck: .*portfolio'),
  ],
)
def test_bad_flags_are_named(tmp_path, given, message):
  with pytest.raises(flags.FlagError, match=message):
    trained_scaling.run(toy(tmp_path / 'run', **given))
  assert not (tmp_path / 'run').exists()
