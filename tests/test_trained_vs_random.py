"""Distances before and after training, at toy size."""

import json

import jax
import numpy as np
import pytest
import resume
from scipy import stats

from dmm_jax import boundary
from dmm_jax import nngp
from dmm_jax import records
from experiments import trained_vs_random as experiment
from experiments.lib import flags

TOY = dict(
  architectures=('fully_connected',),
  widths='16',
  num_networks=4,
  together=2,
  num_images=3,
  norms=(2.0,),
  num_train=64,
  num_test=50,
  epochs=5,
  method='ray',
  max_gradients=10,
  kinds=('nngp',),
  num_infinite=6,
)


def toy(workdir, **more):
  return experiment.Config(workdir=str(workdir), **(TOY | more))


@pytest.fixture(scope='module')
def finished(tmp_path_factory):
  return resume.run_keeping_chunks(
    experiment.run, toy, tmp_path_factory.mktemp('run')
  )


def test_all_states_are_measured_at_the_same_images(finished, capsys):
  run_dir, summary, _ = finished
  table = records.load_columns(run_dir / 'results.npz')
  before = records.select(table, state='untrained')
  after = records.select(table, state='trained')
  infinite = records.select(table, state='nngp')
  assert len(before['distance']) == len(after['distance']) == 4 * 9
  assert len(infinite['distance']) == 2 * 9
  for column in ('scale', 'type', 'network', 'image'):
    np.testing.assert_array_equal(before[column], after[column])
    np.testing.assert_array_equal(before[column][:18], infinite[column])
  assert np.all(before['margin'] != after['margin'])
  assert after['train_right'].mean() > before['train_right'].mean() + 0.1
  found = after['status'] == boundary.Status.FOUND
  assert np.all(after['distance'][found] >= 0.9 * after['estimate'][found])
  row = next(r for r in summary['rows'] if r['state'] == 'trained')
  assert (row['type'], row['n'], row['images']) == ('train', 4, 12)
  values = [
    np.sort(records.select(part, type='train')['distance'])[5]
    for part in (after, before)
  ]
  np.testing.assert_allclose(row['median']['value'], values[0])
  np.testing.assert_allclose(row['ratio']['value'], values[0] / values[1])
  written = (run_dir / 'summary.json').read_text()
  assert json.dumps(summary, indent=2) + '\n' == written
  for name in ('medians', 'profile', 'prediction', 'margin'):
    assert (run_dir / f'figures/{name}.png').is_file()
  experiment.report(summary)
  assert 'the law is kept in' in capsys.readouterr().out


def test_scales_are_those_of_the_images(finished):
  run_dir, _, _ = finished
  table = records.load_columns(run_dir / 'results.npz')
  config = toy('unused')
  sets = {split: experiment.load(config, split) for split in ('train', 'test')}
  images = experiment.images_of(config, sets, 3)
  part = records.select(table, state='trained', network=3)
  sizes = np.linalg.norm(images.reshape(9, -1), axis=1)
  # In l2 the law of a dense network is ||x|| / sqrt(n), but for the box.
  np.testing.assert_allclose(part['scale'], sizes / 8, rtol=0.35)
  assert np.all(part['scale'] >= sizes / 8 * 0.98)
  blended = np.abs(images[:3, None] - sets['train'][0][None]).max((2, 3, 4))
  assert np.all(blended.min(1) <= 1 / 256)
  assert set(sets['train'][1]) == {0, 1}


def test_a_broken_run_ends_with_the_same_bytes(finished, tmp_path, monkeypatch):
  draw = lambda run_dir: []
  monkeypatch.setattr(experiment.plots, 'trained_vs_random', draw)
  resume.assert_goes_on(
    experiment.run,
    toy,
    finished,
    tmp_path,
    lost='fully_connected-0002',
    kept=(),
    same=('results.npz', 'summary.json'),
  )


def test_verdicts_follow_the_rules():
  judge = lambda *ends: experiment.verdict(ends, 'kept', 'grows', 'shrinks')
  assert judge(0.81, 1.24) == judge(1.01, 1.2) == 'kept'
  assert judge(1.01, 1.3) == 'grows' and judge(0.5, 0.99) == 'shrinks'
  assert judge(0.7, 1.1) == judge(np.nan, np.nan) == 'undecided'
  rng = np.random.default_rng(0)
  before = np.abs(rng.normal(size=(300, 2)))
  say = lambda after: experiment.against_untrained(
    (after, after), (before, before)
  )['verdict']
  assert say(1.1 * before) == 'law kept: scale kept, profile kept'
  assert say(2 * before) == 'law not kept: scale grows, profile kept'
  assert say(before + 0.5).endswith('scale grows, profile fewer near')
  assert say(before**2).endswith('profile more near')
  other = np.abs(rng.normal(size=(300, 2)))
  few = experiment.against_untrained((other[:9],) * 2, (before[:9],) * 2)
  assert few['verdict'].startswith('law not shown to be kept')


def test_profiles_of_the_law_start_as_it_says():
  for num, error in (2, 0.02), (10, 0.09):  # What the law itself bends.
    middle = nngp.distance_quantile(1.0, 0.5, num)
    slope = experiment.law_profile(num) * middle
    np.testing.assert_allclose(slope, nngp.distance_slope(1.0, num), rtol=error)
  straight = np.arange(0.5, 400)[::-1].reshape(100, 4) / 400
  np.testing.assert_allclose(experiment.start(3 * straight), 3)
  straight[straight > 0.26] = np.inf
  np.testing.assert_allclose(experiment.start(3 * straight), 3)


def test_correlations_are_of_ranks():
  rng = np.random.default_rng(0)
  margins = rng.uniform(size=(5, 8))
  distance = margins**3 + 0.1 * rng.uniform(size=(5, 8))
  distance[0, 0] = np.inf
  each = [
    stats.spearmanr(*pair).statistic
    for pair in zip(margins, distance, strict=True)
  ]
  got = experiment.correlation(margins, distance, False)
  np.testing.assert_allclose(got['value'], np.mean(each))
  got = experiment.correlation(margins, distance, True)
  whole = stats.spearmanr(margins.ravel(), distance.ravel()).statistic
  np.testing.assert_allclose(got['value'], whole)


def test_ten_classes_and_networks_without_a_closed_form():
  config = toy('unused', architectures=('resnet20',), widths='3')
  (module,) = experiment.modules(config, 10).values()
  shapes = jax.eval_shape(module.init, jax.random.key(0), np.ones((8, 8, 1)))
  assert shapes['params']['head']['kernel'].shape[1] == 10
  rng = np.random.default_rng(0)
  blank = lambda size: {
    'architecture': np.full(size, 'resnet20'),
    'type': np.full(size, 'test'),
    'norm': np.full(size, 2.0),
    'scale': np.full(size, np.nan),
    'train_right': np.full(size, 0.9),
    'test_right': np.full(size, 0.8),
    'network': np.repeat(np.arange(size // 4), 4),
    'image': np.tile(np.arange(4), size // 4),
  }
  gaps = np.sort(rng.normal(size=(400, 10)))[:, -2:] @ [-1, 1]
  parts = [
    {
      **blank(400),
      'state': np.full(400, state, 'U9'),
      'margin': gaps,
      'estimate': size * gaps,
      'distance': size * gaps,
    }
    for state, size in (('untrained', 1.0), ('trained', 3.0))
  ]
  before, after = experiment.compare(records.concatenate(parts), 10)
  np.testing.assert_allclose(before['relative']['value'], 1, rtol=0.01)
  np.testing.assert_allclose(after['relative']['value'], 3, rtol=0.01)
  np.testing.assert_allclose(before['profile']['value'], 1, rtol=0.2)
  np.testing.assert_allclose(after['ratio']['value'], 3, rtol=1e-6)


@pytest.mark.parametrize(
  'given, message',
  [
    (dict(widths='16,16'), r'--widths=16,16 is not 1 numbers'),
    (dict(infinite=('resnet20',)), r'--infinite=resnet20 is unknown'),
    (dict(num_networks=1), r'--num_networks=1 is too small'),
    (dict(method='luck'), r'--method=luck: .*portfolio'),
  ],
)
def test_bad_flags_are_named(tmp_path, given, message):
  with pytest.raises(flags.FlagError, match=message):
    experiment.run(toy(tmp_path / 'run', **given))
  assert not (tmp_path / 'run').exists()
