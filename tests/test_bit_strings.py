"""Flips of bits, held against trying all strings; the experiment, toy size."""

import functools
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
from experiments.lib import flags

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


SYMBOLS = ((-1.0, 1.0), (0.5, 2.0))


@pytest.fixture(autouse=True)
def empty_figures(monkeypatch):
  resume.draw_quickly(monkeypatch)


@pytest.fixture(scope='module', params=SYMBOLS)
def searched(request):
  """Of 40 networks 9-12-12-1: weights, string, order, and what is found."""
  symbols = request.param

  def one(key):
    keys = jax.random.split(key, 4)
    shapes = ((N, 12), (12, 12), (12,))
    weights = map(jax.random.normal, keys[:3], shapes)
    network = bit_strings.Network(*weights)
    bits = jax.random.bernoulli(keys[3], shape=(N,))
    x = jnp.where(bits, symbols[1], symbols[0])
    options = dict(symbols=symbols)
    return (
      network,
      x,
      bit_strings.greedy(network, x, **options),
      bit_strings.greedy(network, x, candidates=3, **options),
      bit_strings.random_flips(key, network, x, block=4, **options),
      jax.random.permutation(key, N),
      bit_strings.exhaustive(network, x, **options),
      bit_strings.exhaustive(network, x, reach=2, **options),
    )

  keys = jax.random.split(jax.random.key(0), 40)
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(bit_strings, '_CHUNK', 20)  # Of 36 and 84 sets of bits.
    found = jax.device_get(jax.jit(lambda k: jax.lax.map(one, k))(keys))
  at = lambda i: jax.tree.map(lambda v: np.asarray(v, float)[i], found)
  return symbols, [at(i) for i in range(40)]


def outputs(network, strings):
  first, second, head = network
  return np.maximum(np.maximum(strings @ first, 0) @ second, 0) @ head


def gradient(network, x):
  first, second, head = network
  inner = x @ first
  back = second @ (head * (np.maximum(inner, 0) @ second > 0))
  return first @ (back * (inner > 0))


def greedy(network, x, symbols, candidates):
  """Flips, worst rank and whether the class changed, bit by bit."""
  x, left, flips, rank = x.copy(), [*range(N)], 0, 0
  sign = np.sign(outputs(network, x))
  while sign * outputs(network, x) > 0 and left:
    gain = -sign * gradient(network, x) * (sum(symbols) - 2 * x)
    tried = sorted(left, key=lambda i: -gain[i])[:candidates]
    flipped = np.repeat(x[None], len(tried), 0)
    flipped[range(len(tried)), tried] = sum(symbols) - x[tried]
    best = int(np.argmin(sign * outputs(network, flipped)))
    x, flips, rank = flipped[best], flips + 1, max(rank, best)
    left.remove(tried[best])
  return flips, rank, sign * outputs(network, x) <= 0


def test_searches_agree_with_trying_all_strings(searched):
  symbols, cases = searched
  strings = np.array([*itertools.product(symbols, repeat=N)])
  seen, differ, alive = set(), 0, 0
  for network, x, full, few, randomly, order, nearest, near in cases:
    values = outputs(network, strings)
    if not values.all():  # A string that no unit answers is on the boundary.
      continue
    alive += 1
    distance = (strings != x).sum(1)
    value = outputs(network, x)
    other = values * value <= 0
    best = distance[other].min(initial=N + 1)
    assert nearest == (best if best <= 3 else np.inf)
    assert near == (best if best <= 2 else np.inf)
    seen.add(int(best))
    for found, candidates in ((full, N), (few, 3)):
      np.testing.assert_allclose(found.output, value, rtol=1e-4)
      flips, rank, crossed = greedy(network, x, symbols, candidates)
      assert found.flips == (flips if crossed else np.inf)
      assert found.rank == rank
    assert full.flips == best or 2 < full.flips > best
    differ += full.flips != few.flips
    path = np.repeat(x[None], N, 0)
    for i, place in enumerate(order.astype(int)):
      path[i:, place] = sum(symbols) - x[place]
    crossed = outputs(network, path) * value <= 0
    assert randomly == (crossed.argmax() + 1 if crossed.any() else np.inf)
    # One gradient counts the bits that make up for the output.
    gain = -np.sign(value) * gradient(network, x) * (sum(symbols) - 2 * x)
    reached = np.cumsum(-np.sort(-gain)) >= abs(value)
    straight = reached.argmax() + 1 if reached.any() else np.inf
    assert full.straight == few.straight == straight
  assert {1, 2, 3} < seen and differ and alive > 30


def test_signs_are_the_usual_symbols_and_all_bits_are_candidates():
  network = bit_strings.draw(jax.random.key(1), N)
  x = jnp.ones(N).at[2].set(-1.0)
  key = jax.random.key(4)
  for search in (
    bit_strings.greedy,
    functools.partial(bit_strings.random_flips, key),
    bit_strings.exhaustive,
  ):
    found = search(network, x)
    wanted = search(network, x, symbols=(-1.0, 1.0))
    jax.tree.map(np.testing.assert_array_equal, found, wanted)
  more = bit_strings.greedy(network, x, candidates=N + 5)
  jax.tree.map(
    np.testing.assert_array_equal, more, bit_strings.greedy(network, x)
  )
  # A network that is positive by nothing is as far as its first flip.
  zero = network._replace(head=0 * network.head)
  assert bit_strings.greedy(zero, x).flips == 0
  assert bit_strings.exhaustive(zero, x) == 1


def test_random_networks_are_drawn_as_the_authors_do():
  """The output's variance is 2 n / (n + 1), and parts are independent."""
  n = 24
  draws = jax.jit(jax.vmap(lambda k: bit_strings.draw(k, n)))(
    jax.random.split(jax.random.key(0), 1500)
  )
  for layer in draws[:2]:
    assert layer.shape == (1500, n, n)
    np.testing.assert_allclose(np.var(layer), 2 / n, rtol=0.01)
    # Truncated at two standard deviations of the normal before that.
    most = 2 * np.sqrt(2 / n) / 0.87962566103423978
    assert 0.99 * most < np.abs(layer).max() <= most * 1.0001
  assert draws.head.shape == (1500, n)
  most = np.sqrt(6 / (n + 1))
  assert 0.99 * most < np.abs(draws.head).max() <= most
  np.testing.assert_allclose(np.var(draws.head), 2 / (n + 1), rtol=0.02)
  assert abs(np.mean(draws.first * draws.second)) * n < 0.02
  x = jnp.where(jnp.arange(n) % 3 == 0, 1.0, -1.0)
  values = jax.vmap(bit_strings.output, (0, None))(draws, x)
  np.testing.assert_allclose(np.var(values), 2 * n / (n + 1), rtol=0.12)
  one = jax.tree.map(lambda v: np.asarray(v[3], float), draws)
  np.testing.assert_allclose(values[3], outputs(one, np.asarray(x)), rtol=1e-4)


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


def test_greedy_flips_at_infinite_width():
  n = 2000
  leading = np.sqrt(n / (2 * np.pi * np.log(n)))
  assert 0.9 < bit_strings.greedy_law(n, 1000).mean() / leading < 1.1
  # One bit, or the larger one of two, always makes up for the sum.
  assert set(bit_strings.greedy_law(1, 150)) == {1}
  assert set(bit_strings.greedy_law(2, 150)) == {1}
  rng = np.random.default_rng(5)
  wanted = []
  for gradient in rng.normal(size=(4000, 40)):
    value, flips = gradient.sum(), 0
    parts = sorted(np.sign(value) * gradient)
    rest = abs(value)
    while rest > 0:
      rest, flips = rest - 2 * parts.pop(), flips + 1
    wanted.append(flips)
  flips = bit_strings.greedy_law(40)
  assert len(flips) == 4000 and len(bit_strings.greedy_law(40, 130)) == 130
  counts = [np.bincount(np.int64(v), minlength=9)[:9] for v in (flips, wanted)]
  np.testing.assert_allclose(*counts, atol=4 * np.sqrt(max(counts[1])))
  np.testing.assert_array_equal(flips, bit_strings.greedy_law(40, seed=0))
  assert np.any(flips != bit_strings.greedy_law(40, seed=1))


def test_random_flips_at_infinite_width():
  # Two bits: three Gaussians, whose signs agree with a known probability.
  flips = bit_strings.random_law(2)
  assert len(flips) == 40000
  path = np.array([[1.0, 1], [-1, 1], [-1, -1]])
  kernel = oracles.dense_kernel(path, path, 2, np.sqrt(2), 0.0) / 2
  one, two, both = np.arcsin(kernel[[0, 1, 0], [1, 2, 2]])
  never = 1 / 4 + (one + two + both) / (2 * np.pi)
  np.testing.assert_allclose(np.isinf(flips).mean(), never, atol=0.01)
  first = np.arccos(kernel[0, 1]) / np.pi
  np.testing.assert_allclose(np.mean(flips == 1), first, atol=0.01)
  assert set(flips) == {1, 2, np.inf}
  few = bit_strings.random_law(5, 2500)
  assert len(few) == 2500 and set(few) <= {1, 2, 3, 4, 5, np.inf}
  np.testing.assert_array_equal(few, bit_strings.random_law(5, 2500, seed=0))
  assert np.any(few != bit_strings.random_law(5, 2500, seed=1))


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
    assert (run_dir / f'figures/{name}.png').is_file()
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
  assert (tmp_path / 'figures/images.png').is_file()
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
  'given, message',
  [
    (dict(num_networks=(3,)), r'--num_networks has 1 numbers, --sizes 2'),
    (dict(sizes=(2, 20)), r'--sizes=2 is too small'),
  ],
)
def test_bad_flags_are_named(tmp_path, given, message):
  config = experiment.Config(workdir=str(tmp_path / 'run'), **(TOY | given))
  with pytest.raises(flags.FlagError, match=message):
    experiment.run(config)
  assert not (tmp_path / 'run').exists()
