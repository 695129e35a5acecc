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
from experiments.lib import claims
from experiments.lib import flags
from experiments.lib import runner
from experiments.lib import tables

N = 9
TOY = dict(
  sizes=(12, 20),
  num_networks=(30, 20),
  full_size=12,
  candidates=6,
  num_exhaustive=25,
  random_sizes=(12, 20),
  num_random=20,
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
  found, correlation = bit_strings.output_line(values)
  np.testing.assert_allclose(found, slope)
  np.testing.assert_allclose(correlation, np.corrcoef(flips, size)[0, 1])
  mean = constant + slope * np.sqrt(2 / np.pi)
  np.testing.assert_allclose(bit_strings.controlled_mean(values), mean)
  np.testing.assert_allclose(
    bit_strings.controlled_mean(np.stack([values, values])), [mean, mean]
  )
  basis, means = np.array([1.0, 2, 4]), np.array([1.1, 1.9, 4.2])
  a, residual = bit_strings.fit_factor(means, basis)
  want, squares, *_ = np.linalg.lstsq(basis[:, None], means, rcond=None)
  np.testing.assert_allclose([a, 3 * residual**2], [want[0], squares[0]])


# --- The experiment ----------------------------------------------------------


def toy(workdir, **more):
  return experiment.Config(workdir=str(workdir), **(TOY | more))


@pytest.fixture(scope='module')
def finished(tmp_path_factory):
  return resume.run_keeping_chunks(
    experiment.run, toy, tmp_path_factory.mktemp('run')
  )


def test_random_networks_are_measured(finished, capsys):
  run_dir, result, _ = finished
  rows = result.table
  np.testing.assert_equal(rows, records.load_columns(run_dir / 'results.npz'))
  assert len(rows['n']) == 30 + 20
  assert len(result.tables['exhaustive']['n']) == 25
  randomly = result.tables['random']
  assert len(randomly['n']) == 2 * 20 * experiment.ORDERS
  for n in (12, 20):
    of = records.select(randomly, n=n)
    assert of['network'].tolist() == [*np.repeat(range(20), 4)]
    assert of['order'].tolist() == 20 * [0, 1, 2, 3]
    # Orders of one network begin at one output.
    assert len({*of['output']}) == 20
  greedy, fits, search, table = map(tables.to_dicts, result.report.tables)
  for row, n in zip(greedy, (12, 20), strict=True):
    flips = records.select(rows, n=n)['flips']
    assert (row['bits'], row['networks']) == (n, len(flips))
    np.testing.assert_allclose(row['raw'].value, flips.mean())
    wanted = np.sqrt(n / (2 * np.pi * np.log(n)))
    np.testing.assert_allclose(row['least'], wanted)
    assert row['infinite'] == bit_strings.greedy_law(n).mean()
  assert [row['flips as'] for row in fits] == [
    'sqrt(n / ln n)', 'sqrt(n)', 'constant', 'infinite'
  ]  # fmt: skip
  first, second = search
  assert first['tried'] == 12 and second['tried'] == 6 > second['rank']
  exact = result.tables['exhaustive']['flips']
  nearer = np.mean(exact < records.select(rows, n=12)['flips'][:25])
  assert first['nearer'].value == nearer and second['nearer'] is None
  for row in table:
    of = records.select(randomly, n=row['bits'])['flips']
    wanted = np.minimum(of, row['bits']).mean() / row['bits']
    np.testing.assert_allclose(row['flips / n'].value, wanted)
    np.testing.assert_allclose(row['never'].value, np.isinf(of).mean())
  assert runner.to_text(result.report)
  saved = json.loads((run_dir / 'report.json').read_text())
  assert len(saved['claims']) == len(NAMES)
  before = (run_dir / 'results.npz').stat().st_mtime_ns
  assert experiment.run(toy(run_dir)).report.answer in capsys.readouterr().out
  assert (run_dir / 'results.npz').stat().st_mtime_ns == before


@pytest.mark.parametrize('lost', ['random-20-00018', 'results-12-00003', '*'])
def test_a_broken_run_ends_with_the_same_bytes(finished, tmp_path, lost):
  measured = resume.assert_same_bytes(
    experiment.run, toy, finished, tmp_path, lost=[lost]
  )
  chunks = {path.stem for path in finished[2].iterdir()}
  assert measured == (chunks if lost == '*' else {lost})


@pytest.mark.parametrize(
  'given, message',
  [
    (dict(num_networks=(3,)), r'--num_networks has 1 numbers, --sizes 2'),
    (dict(sizes=(2, 20)), r'--sizes=2 is too small'),
    (dict(sizes=(20,), num_networks=(9,)), r'--sizes: a slope needs two'),
    (dict(random_sizes=(20,)), r'--random_sizes: a slope needs two'),
  ],
)
def test_bad_flags_are_named(tmp_path, given, message):
  with pytest.raises(flags.FlagError, match=message):
    experiment.run(toy(tmp_path / 'run', **given))
  assert not (tmp_path / 'run').exists()


# --- The rule ----------------------------------------------------------------

NAMES = (
  'at least sqrt(n / (2 pi ln n))',
  'as sqrt(n / ln n)',
  '0.405 sqrt(n / ln n)',
  'linear in |f|',
  'random flips linear in n',
  '0.334 n',
)
NUM = 60  # Networks of a size in made-up worlds.
WORLD = toy(
  '',
  sizes=(100, 400, 1600, 6400),
  num_networks=(NUM, NUM, NUM, NUM),
  candidates=6,
  full_size=10000,
  random_sizes=(100, 400),
  num_random=NUM,
)


def made_up(
  a=0.405,
  basis=bit_strings.growth,
  *,
  share=0.334,
  power=1.0,
  bound=2.0,
  scatter=0.05,
  rank=3,
  seed=0,
):
  """Tables of networks whose flips go as a law in n, and scatter about it.

  Args:
    a, basis: mean flips are a basis(n), in proportion to |f|.
    share, power: random flips are share n^power 100^(1 - power).
    bound: flips of the nearest string, by trying all.
    scatter: of flips that |f| does not cause, over their mean.
    rank: of all flips.
    seed: of these.
  """
  rng = np.random.default_rng(seed)
  parts, randomly = [], []
  for n in WORLD.sizes:
    size = np.abs(rng.normal(size=NUM))
    flips = a * basis(n) * size * np.sqrt(np.pi / 2)
    flips = flips + a * basis(n) * scatter * rng.normal(size=NUM)
    parts.append(
      {
        'n': np.full(NUM, n),
        'flips': flips,
        'output': size * np.sqrt(2 * n / (n + 1)),
        'rank': np.full(NUM, rank),
      }
    )
  for n in WORLD.random_sizes:
    mean = share * n**power * 100 ** (1 - power)
    flips = mean * rng.uniform(0.9, 1.1, (NUM, 1)) * np.ones(experiment.ORDERS)
    randomly.append({'n': np.full(flips.size, n), 'flips': flips.ravel()})
  exact = bound + 0.1 * rng.normal(size=100)
  return {
    'results': records.concatenate(parts),
    'random': records.concatenate(randomly),
    'exhaustive': {'n': np.full(100, 100), 'flips': exact},
  }


@pytest.fixture
def cheap_laws(monkeypatch):
  """Random flips at infinite width are 0.334 n; no draws of 40,000 paths."""
  monkeypatch.setattr(
    bit_strings, 'random_law', lambda n: np.full(9, 0.334 * n)
  )
  monkeypatch.setattr(
    bit_strings, 'greedy_law', lambda n: np.full(9, 0.4 * bit_strings.growth(n))
  )


def verdicts(found, config=WORLD):
  report = experiment.analyze(config, found)
  json.dumps(runner.to_json(report, '', '', ''), allow_nan=False)
  return {claim.name: claim.verdict for claim in report.claims}


@pytest.mark.filterwarnings('error')
def test_a_world_as_the_paper_says_supports_every_claim(cheap_laws):
  found = verdicts(made_up())
  assert tuple(found) == NAMES
  assert set(found.values()) == {claims.SUPPORTED}


@pytest.mark.parametrize(
  'changes, changed',
  [
    # A uniformly random function: one flip, or two random ones.
    (
      dict(a=1.0, basis=np.ones_like, share=0.02, power=0.0, bound=1.0),
      dict.fromkeys((*NAMES[:3], *NAMES[4:]), 'not supported'),
    ),
    (
      dict(a=0.14, basis=np.sqrt),
      {NAMES[1]: 'not supported'},
    ),
    (dict(bound=1.0), {NAMES[0]: 'not supported'}),
    (dict(a=0.44), {NAMES[2]: 'not supported'}),
    (dict(a=0.36), {NAMES[0]: 'not supported', NAMES[2]: 'not supported'}),
    (dict(scatter=0.7), {NAMES[3]: 'not supported'}),
    (dict(share=0.39), {NAMES[5]: 'not supported'}),
    (dict(power=0.5), {NAMES[4]: 'not supported', NAMES[5]: 'not supported'}),
  ],
)  # fmt: skip
def test_what_refutes_each_claim(cheap_laws, changes, changed):
  found = verdicts(made_up(**changes))
  for name, verdict in changed.items():
    assert found[name] == verdict, name


def test_searches_that_do_not_do_test_nothing(cheap_laws):
  broken = made_up()
  broken['results']['flips'][5] = np.inf
  found = experiment.analyze(WORLD, broken).claims
  assert [c.verdict for c in found[:4]] == 4 * [claims.NOT_TESTED]
  assert found[0].reason == '1 greedy searches did not change the class'
  assert found[4].verdict == claims.SUPPORTED
  (*_, found) = experiment.analyze(WORLD, made_up(rank=7)).claims[:1]
  assert found.reason.startswith('--candidates=6 would have changed 100%')
  few = WORLD.__class__(**(vars(WORLD) | {'full_size': 50}))
  assert experiment.analyze(few, made_up(rank=7)).claims[0].verdict != (
    claims.NOT_TESTED
  )


@pytest.mark.slow
def test_worlds_on_the_border_are_rarely_supported(cheap_laws):
  """At the border of each rule: supported in at most 5 % of the worlds."""
  borders = {
    NAMES[0]: dict(a=experiment.LEAST, scatter=0.2),
    NAMES[2]: dict(a=0.405 * 1.05, scatter=0.2),
    NAMES[4]: dict(power=0.9),
    NAMES[5]: dict(share=0.334 * 1.05),
  }
  for name, border in borders.items():
    hits = sum(
      verdicts(made_up(**border, seed=seed))[name] == claims.SUPPORTED
      for seed in range(10)
    )
    assert hits <= 2, name  # Of 10 at 2.5 %: more in 1 of 600 tests.
