"""Flips of bits, held against trying all strings; the experiment, toy size."""

import itertools
import json

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
import resume

from dmm_jax import bit_strings
from dmm_jax import records
from experiments import bit_strings as experiment
from experiments import common

N = 9
TOY = dict(
  sizes=(12, 20),
  num_networks=(30, 20),
  full_size=12,
  candidates=6,
  reach=2,
  num_exhaustive=25,
  random_sizes=(12, 20),
  num_random=20,
  orders=2,
)


@pytest.fixture(scope='module')
def searched():
  """Of 40 networks: weights, order, and what the searches find."""

  def one(key):
    network, x = bit_strings.draw(key, N), jnp.ones(N)
    return (
      network,
      bit_strings.greedy(network, x),
      bit_strings.greedy(network, x, candidates=2),
      bit_strings.random_flips(key, network, x, block=4),
      jax.random.permutation(key, N),
      bit_strings.exhaustive(network, x, reach=3),
    )

  keys = jax.random.split(jax.random.key(0), 40)
  return jax.device_get(jax.jit(lambda k: jax.lax.map(one, k))(keys))


def outputs(networks, i, strings):
  first, second, head = (w[i].astype(float) for w in networks)
  return np.maximum(np.maximum(strings @ first, 0) @ second, 0) @ head


def test_searches_agree_with_trying_all_strings(searched):
  networks, full, few, randomly, order, nearest = searched
  strings = np.array([*itertools.product((1.0, -1.0), repeat=N)])
  distance = (strings < 0).sum(1)
  seen = set()
  for i in range(40):
    values = outputs(networks, i, strings)
    other = values * values[0] <= 0
    best = distance[other].min(initial=N + 1)
    assert nearest[i] == (best if best <= 3 else np.inf)
    seen.add(int(best))
    np.testing.assert_allclose(full.output[i], values[0], rtol=1e-4)
    # Greed, by itself.
    x, flips = np.ones(N), 0
    while outputs(networks, i, x) * values[0] > 0 and flips < N:
      trials = np.where(np.eye(N, dtype=bool), -x, x)[x > 0]
      after = outputs(networks, i, trials) * np.sign(values[0])
      x, flips = trials[after.argmin()], flips + 1
    crossed = outputs(networks, i, x) * values[0] <= 0
    assert full.flips[i] == (flips if crossed else np.inf)
    assert full.flips[i] == best or 2 < full.flips[i] > best
    if full.rank[i] < 2:
      assert few.flips[i] == full.flips[i]
    path = 1.0 - 2 * (np.arange(N)[:, None] >= np.argsort(order[i]))
    crossed = outputs(networks, i, path) * values[0] <= 0
    want = crossed.argmax() + 1 if crossed.any() else np.inf
    assert randomly[i] == want
  assert {1, 2, 3} < seen
  # The gradient ranks the best flips first.
  assert np.mean(full.rank) < 2.5


def test_one_gradient_counts_the_bits_that_make_up_for_the_output(searched):
  networks, full, *_ = searched
  slope = jax.vmap(
    jax.grad(lambda x, w: bit_strings.output(w, x)), in_axes=(None, 0)
  )(jnp.ones(N), bit_strings.Network(*networks))
  for i in range(40):
    gain = -np.sort(-2 * np.asarray(slope[i]) * np.sign(full.output[i]))
    reached = np.cumsum(gain) >= abs(full.output[i])
    assert full.straight[i] == reached.argmax() + 1


def test_bits_may_be_zero_and_one():
  # f = w . x, as the difference of two ReLUs.
  w = jnp.array([2.0, 1.0, -1.0, -1.2, -0.1])
  network = bit_strings.Network(
    jnp.stack([w, -w], 1), jnp.eye(2), jnp.array([1.0, -1.0])
  )
  x = jnp.array([1.0, 1.0, 0.0, 0.0, 1.0])
  found = bit_strings.greedy(network, x, symbols=(0.0, 1.0))
  np.testing.assert_allclose(found.output, 2.9, rtol=1e-6)
  # 2.9 - 2 - 1.2 < 0: the first bit goes, the fourth comes.
  assert found.flips == found.straight == 2 and found.rank == 0
  # Only the last two may flip, and they do not make up for the rest.
  stuck = network._replace(first=network.first.at[:3].set(1e3))
  found = bit_strings.greedy(stuck, jnp.ones(5), symbols=(1.0, 1.0))
  assert np.isinf(found.flips) and np.isinf(found.straight)


def test_laws_of_infinite_width():
  n = 2000
  leading = np.sqrt(n / (2 * np.pi * np.log(n)))
  assert 0.9 < bit_strings.greedy_law(n, 1000).mean() / leading < 1.1
  # Two bits: three Gaussians, whose signs agree with a known probability.
  flips = bit_strings.random_law(2, 40000)
  path = np.array([[1.0, 1], [-1, 1], [-1, -1]])
  kernel = oracles.dense_kernel(path, path, 2, np.sqrt(2), 0.0) / 2
  one, two, both = np.arcsin(kernel[[0, 1, 0], [1, 2, 2]])
  never = 1 / 4 + (one + two + both) / (2 * np.pi)
  np.testing.assert_allclose(np.isinf(flips).mean(), never, atol=0.01)
  first = np.arccos(kernel[0, 1]) / np.pi
  np.testing.assert_allclose(np.mean(flips == 1), first, atol=0.01)


def test_means_slopes_and_fits():
  rng = np.random.default_rng(0)
  size = np.abs(rng.normal(size=500))
  flips = 2 + 3 * size + rng.normal(size=500)
  values = np.stack([flips, size], -1)
  slope, constant = np.polyfit(size, flips, 1)
  found, correlation = experiment.line(values)
  np.testing.assert_allclose(found, slope)
  np.testing.assert_allclose(correlation, np.corrcoef(flips, size)[0, 1])
  mean = constant + slope * np.sqrt(2 / np.pi)
  np.testing.assert_allclose(experiment.controlled(values), mean)
  np.testing.assert_allclose(
    experiment.controlled(np.stack([values, values])), [mean, mean]
  )
  basis, means = np.array([1.0, 2, 4]), np.array([1.1, 1.9, 4.2])
  a, residual = experiment.scale(means, basis)
  want, squares, *_ = np.linalg.lstsq(basis[:, None], means, rcond=None)
  np.testing.assert_allclose([a, 3 * residual**2], [want[0], squares[0]])


@pytest.fixture(scope='module')
def finished(tmp_path_factory):
  return resume.run_keeping_chunks(
    experiment.run,
    lambda path: experiment.Config(workdir=str(path), **TOY),
    tmp_path_factory.mktemp('run'),
  )


def test_random_networks_are_measured(finished, capsys):
  run_dir, summary, _ = finished
  table = records.load_columns(run_dir / 'results.npz')
  assert len(table['n']) == 30 + 20 + 25 + 2 * 20 * 2
  first, second = summary['rows']
  assert first['networks'] == 30 and first['screened'] and first['tried'] == 12
  assert second['screened'] is None and second['rank'] < second['tried'] == 6
  one = records.select(table, kind='greedy', n=12)
  np.testing.assert_allclose(first['plain']['value'], one['flips'].mean())
  assert summary['exhaustive']['networks'] == 25
  assert len(summary['fit']['verdicts']) == 3
  for row in summary['random']:
    assert 0 < row['share']['value'] < 1 and 0 < row['law'] < 1
  written = (run_dir / 'summary.json').read_text()
  assert json.dumps(summary, indent=2) + '\n' == written
  for name in ('flips', 'margin'):
    assert (run_dir / f'figures/{name}.png').stat().st_size > 5000
  experiment.report(summary)
  assert 'all strings up to 2 flips at n = 12' in capsys.readouterr().out


def test_a_broken_run_ends_with_the_same_bytes(finished, tmp_path):
  resume.assert_goes_on(
    experiment.run,
    lambda path: experiment.Config(workdir=str(path), **TOY),
    finished,
    tmp_path,
    lost='random-20-00018',
    kept=(),
    same=('results.npz', 'summary.json'),
  )


def test_networks_trained_on_images_of_bits(tmp_path, capsys):
  summary = experiment.run(
    experiment.Config(
      workdir=str(tmp_path),
      dataset='digits',
      threshold=0.5,
      num_trained=2,
      num_examples=6,
      epochs=4,
    )
  )
  table = records.load_columns(tmp_path / 'results.npz')
  assert len(table['flips']) == 2 * 2 * 3 * 6
  rows = {row['kind']: row for row in summary['rows']}
  assert rows['train']['right']['value'] > 0.6
  part = records.select(table, kind='test', trained=True)
  np.testing.assert_allclose(
    rows['test']['trained']['value'], part['flips'].mean()
  )
  right = part['right'].astype(bool)
  np.testing.assert_allclose(
    rows['test']['of_right']['value'], part['flips'][right].mean()
  )
  assert (tmp_path / 'figures/images.png').stat().st_size > 5000
  assert 'digits, 64 bits' in capsys.readouterr().out


def test_verdicts_follow_the_rules():
  agreement = experiment.agreement
  assert agreement((0.39, 0.42), 0.405) == 'within 5 %'
  assert agreement((0.43, 0.45), 0.405) == 'not within 5 %'
  assert agreement((0.42, 0.45), 0.405).startswith('undecided')
  assert experiment.better((0.1, 0.2)).startswith('sqrt(n/ln n) fits better')
  assert experiment.better((-0.2, -0.1)).startswith('sqrt(n) fits better')
  assert experiment.better((-0.2, 0.1)).startswith('undecided')
  assert experiment.linear((0.96, 0.99)) == 'linear in |f|'
  assert experiment.linear((0.9, 0.99)) == 'not seen to be linear'
  assert experiment.beside((1.1, 1.2)) == 'farther'
  assert experiment.beside((0.8, 0.9)) == 'nearer'
  assert experiment.beside((np.nan, np.nan)) == 'undecided'


@pytest.mark.parametrize(
  'flags, message',
  [
    (dict(num_networks=(3,)), r'--num_networks has 1 numbers, --sizes 2'),
    (dict(sizes=(2, 20)), r'--sizes=2 is too small'),
  ],
)
def test_bad_flags_are_named(tmp_path, flags, message):
  config = experiment.Config(workdir=str(tmp_path / 'run'), **(TOY | flags))
  with pytest.raises(common.FlagError, match=message):
    experiment.run(config)
  assert not (tmp_path / 'run').exists()
