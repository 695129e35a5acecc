"""The search for nearest units: exact for any codes, and how it is certain."""

import itertools

import jax
from jax import extend
import jax.numpy as jnp
import numpy as np
import pytest
import som_oracles as plain

from dmm_jax import som
from dmm_jax.som import candidates
from dmm_jax.som import chunks
from dmm_jax.som import lengths
from dmm_jax.som import searching


def draw(n=60, d=5, seed=0):
  return np.random.default_rng(seed).normal(size=(n, d))


# --- Any codes -------------------------------------------------------------


def with_sentinels(size, n=300, d=5):
  xs = draw(n, d).astype(np.float32)
  xs[0], xs[1, 0] = size, -size
  return xs


HARD_CODES = {
  'outlier 1e3': with_sentinels(1e3),
  'outlier 1e6': with_sentinels(1e6),
  'outlier 1e20': with_sentinels(1e20),
  'tiny': draw(300) * 1e-25,
  'offset': draw(300).astype(np.float32) + np.float32(1e4),
  'sentinel column': draw(300)
  + np.where(np.arange(300) % 2, 1e6, 0)[:, None] * np.eye(5)[0],
  'two scales': draw(300) * np.where(np.arange(300) < 150, 1e-4, 1e4)[:, None],
  'ties': np.repeat(draw(3), 100, axis=0),
}


@pytest.mark.parametrize('distance', som.DISTANCES)
def test_nearest_units_are_exact_for_any_codes(distance):
  @jax.jit
  def search(units, xs):
    ours = som.Map(units, distance=distance)
    pairs = som.two_best_units(ours, xs)
    one = som.best_matching_units(ours, xs)
    return som.flat(ours, pairs), som.flat(ours, one), som.distances(ours, xs)

  for name, codes in HARD_CODES.items():
    xs = codes.astype(np.float32)
    # Units are codes and close neighbours of codes, so that many nearly tie.
    near = (xs[:100] * np.float32(1 + 1e-3)).astype(np.float32)
    units = np.concatenate([xs[:60], near, xs[:10]])
    if name == 'offset':
      xs = xs[:, ::-1].copy()
    away = plain.all_distances(xs, units, distance)
    pairs, one, got = map(np.array, search(units.reshape(17, 10, -1), xs))
    known = pairs[:, 0] >= 0
    pairs, away, one, got = (v[known] for v in (pairs, away, one, got))
    rounding = 1e-5 * away.min(axis=1) + np.finfo(np.float32).tiny
    if distance in ('cosine', 'correlation'):
      # Directions are rounded, and squared.
      rounding = 4e-7 * (np.sqrt(away.min(axis=1)) + 1e-6)
      if distance == 'correlation' and name == 'offset':
        rounding *= 10
    order = np.sort(away, axis=1)
    found = np.take_along_axis(away, pairs, axis=1)
    assert np.all(found[:, 0] <= order[:, 0] + rounding), name
    assert np.all(found[:, 1] <= order[:, 1] * (1 + 1e-5) + rounding), name
    assert known.sum() > 100 and np.all(pairs[:, 0] != pairs[:, 1]), name
    found = np.take_along_axis(away, one[:, None], axis=1)[:, 0]
    assert np.all(found <= order[:, 0] + rounding), name
    assert np.all(np.abs(got - order[:, 0]) <= rounding), name


def test_nearest_units_are_exact_in_double_precision():
  # One unit of each pair is nearer by 1e-7 of its length; also one dimension.
  xs = with_sentinels(1e12).astype(float)

  @jax.jit
  def search(units, xs):
    ours = som.Map(units)
    unit = som.flat(ours, som.best_matching_units(ours, xs))
    return unit, som.distances(ours, xs)

  for d in (5, 1):
    units = np.concatenate([xs[:60], xs[:60] * (1 + 1e-7)])[:, :d]
    away = plain.all_distances(xs[:, :d], units)
    with jax.enable_x64(True):
      unit, least = search(units.reshape(12, 10, d), xs[:, :d])
    np.testing.assert_array_equal(unit, away.argmin(axis=1))
    np.testing.assert_allclose(least, away.min(axis=1), rtol=1e-13, atol=1e-300)


def test_the_first_of_equal_units_is_found():
  xs = draw(40, 3).astype(np.float32)
  # More than a few copies of each, far from the centre.
  many = np.tile(xs, (8, 1)).reshape(8, 40, 3) + np.float32(1e3)
  units = som.two_best_units(som.Map(jnp.asarray(many)), xs + np.float32(1e3))
  np.testing.assert_array_equal(units[:, 0, 0], 0)
  np.testing.assert_array_equal(units[:, 1, 0], 1)
  np.testing.assert_array_equal(units[:, 0, 1], np.arange(40))
  np.testing.assert_array_equal(units[:, 1, 1], np.arange(40))


def test_more_units_than_codes():
  xs = with_sentinels(1e4, n=7, d=3)
  units = draw(1200, 3, 1).astype(np.float32)
  units[3:10] = xs
  ours = som.Map(jnp.asarray(units.reshape(30, 40, 3)))
  found = som.flat(ours, som.best_matching_units(ours, xs))
  np.testing.assert_array_equal(found, np.arange(3, 10))


def test_minisoms_chebyshev_bug_is_not_ours():
  # max(x - w) without absolute values is least at the far unit.
  ours = som.Map(jnp.array([[[0.1, 0.1], [5.0, 5.0]]]), distance='linf')
  x = np.zeros((1, 2))
  assert np.argmin((x - ours.units).max(-1)) == 1
  np.testing.assert_array_equal(som.best_matching_units(ours, x), [[0, 0]])


# --- Distances -------------------------------------------------------------


def test_distances_of_codes_and_what_has_none():
  xs = draw(6, 4).astype(np.float32) + 5
  units = draw(5, 4, 1).astype(np.float32) + 5
  xs[2], xs[3] = 0, 2.5
  units[1], units[2] = 0, -1.5
  holed = np.concatenate([xs, xs[:3]])
  holed[6, 1], holed[7, 3], holed[8] = np.nan, np.inf, -np.inf

  @jax.jit
  def all_of_them(xs, units):
    return {
      distance: (
        searching.measure(xs[:, None], units[None], distance),
        searching.scores(
          searching.directions(xs, distance),
          searching.prepare(units, distance),
          distance,
        ).T,
        searching.is_usable(xs, distance),
        jnp.linalg.norm(searching.directions(xs, distance), axis=1),
      )
      for distance in som.DISTANCES
    }

  for distance, found in all_of_them(holed, units).items():
    away, table, usable, length = found
    want = plain.all_distances(xs, units, distance)
    np.testing.assert_allclose(away[:6], want, rtol=2e-5, atol=1e-6)
    np.testing.assert_allclose(table[:6], want, rtol=2e-5, atol=1e-6)
    np.testing.assert_array_equal(usable, plain.is_usable(holed, distance))
    if distance in ('cosine', 'correlation'):
      want = plain.is_usable(xs, distance) * 1.0
    else:
      want = np.linalg.norm(xs, axis=1)
    np.testing.assert_allclose(length[:6], want, rtol=1e-6)
  # A large offset does not spoil a correlation.
  away = searching.measure(xs[:1] + 1000, units[:1], 'correlation')
  want = plain.all_distances(xs[:1] + 1000, units[:1], 'correlation')
  np.testing.assert_allclose(away, want[0], rtol=1e-5)
  with pytest.raises(ValueError, match=r"distance must be one of .* 'l3'"):
    searching.check('l3')


@pytest.mark.parametrize('dtype, ends', [(np.float32, 38), (np.float64, 307)])
def test_lengths_of_any_size(dtype, ends):
  x, w = draw(2, 7)
  with jax.enable_x64(True):
    length = jax.jit(lengths.length)
    for power in np.linspace(2 - ends, ends - 1, 50):
      a, b = (v.astype(dtype) * dtype(10.0**power) for v in (x, w))
      want = np.linalg.norm(np.longdouble(a) - b)
      rtol = 200 * np.finfo(dtype).eps if power > 8 - ends else 0.2
      np.testing.assert_allclose(
        np.longdouble(length(a, b)), want, rtol=rtol, atol=0
      )
    mixed = np.array(
      [[3e30, 4e30, 0], [0, 0, 0], [3e-30, 0, 4e-30]], np.float32
    )
    np.testing.assert_allclose(length(mixed), [5e30, 0, 5e-30], rtol=1e-6)
    assert np.isinf(length(np.array([np.inf, 1], np.float32)))


@pytest.mark.parametrize('num', [1, 2, 7, 14, 15, 16, 31, 46])
def test_the_middle_is_a_median_of_a_few_rows(num):
  rows = np.round(3 * draw(num, 4, seed=num)).astype(np.float32)
  some = rows[:: -(-num // 15)]
  assert len(some) <= 15
  want = np.sort(some, axis=0)[len(some) // 2]
  np.testing.assert_array_equal(lengths.middle(jnp.asarray(rows)), want)


# --- Certain and uncertain units -------------------------------------------


def test_scores_have_bounds_that_hold_and_are_narrow():
  rng = np.random.default_rng(0)
  d = 40
  for of_code, of_unit in itertools.product((1e-3, 1, 1e4), (1e-2, 1e3)):
    codes = (of_code * rng.normal(size=(50, d))).astype(np.float32)
    units = (of_unit * rng.normal(size=(30, d))).astype(np.float32)
    found = jax.jit(candidates.score)(codes, units)
    product, low, high, rounding, length = (np.asarray(v, float) for v in found)
    x, w = codes.astype(float), units.astype(float)
    half = np.sum(w**2, axis=1) / 2
    exact = half[:, None] - w @ x.T
    np.testing.assert_allclose((low + high) / 2, half, rtol=1e-6)
    np.testing.assert_allclose(
      product, -w @ x.T, atol=1e-5 * of_code * of_unit * d
    )
    below, above = (np.asarray(v, float) for v in found.bounds())
    slack = rounding[:, None] * length[None]
    np.testing.assert_allclose(below, product + low[:, None] - slack, rtol=1e-5)
    np.testing.assert_allclose(
      above, product + high[:, None] + slack, rtol=1e-5
    )
    assert np.all(below <= exact) and np.all(above >= exact)
    # The docstring's bound, half of which is for the order of summation.
    u = np.finfo(np.float32).eps / 2
    sizes = [np.linalg.norm(v, axis=1) for v in (x, w)]
    np.testing.assert_allclose(length, sizes[0], rtol=1e-5)
    np.testing.assert_allclose(rounding, (d + 8) * u * sizes[1], rtol=1e-3)
    want = (d + 8) * u * 2 * half
    np.testing.assert_allclose((high - low) / 2, want, rtol=0.05)
  one = found.take(jnp.array([3, 1]))
  np.testing.assert_array_equal(one.product, found.product[:, [3, 1]])
  np.testing.assert_array_equal(one.length, found.length[np.array([3, 1])])
  np.testing.assert_array_equal(one.low, found.low)


def bounds(seed, k=9, m=40):
  """Scores of few values, so that candidates are one, few or many."""
  rng = np.random.default_rng(seed)
  product = rng.integers(0, 12, (k, m)).astype(np.float32)
  middle, width = rng.integers(0, 6, k), rng.choice([0.25, 0.5, 2], k)
  rounding, length = rng.choice([0.25, 0.5], k), rng.choice([0, 0.125, 1], m)
  return candidates.Scores(
    jnp.asarray(product),
    jnp.asarray(middle - width, jnp.float32),
    jnp.asarray(middle + width, jnp.float32),
    jnp.asarray(rounding, jnp.float32),
    jnp.asarray(length, jnp.float32),
  )


def possible(scores, num, excluded=None):
  """Units that can be among the `num` nearest, `[k, m]`."""
  error = scores.rounding[:, None] * scores.length[None]
  low = np.array(scores.product + scores.low[:, None] - error)
  high = np.array(scores.product + scores.high[:, None] + error)
  if excluded is not None:
    columns = np.arange(low.shape[1])
    low[excluded, columns] = high[excluded, columns] = np.inf
  limit = np.sort(high, axis=0)[num - 1]
  return low <= limit


def test_units_that_can_be_nearest():
  seen = set()
  for seed in range(4):
    scores = bounds(seed)
    excluded = np.random.default_rng(seed).integers(0, 9, 40)
    for left_out in (None, excluded):
      table = possible(scores, 1, left_out)
      index, is_certain = candidates.only(scores, left_out)
      np.testing.assert_array_equal(is_certain, table.sum(0) == 1)
      want = np.where(table.sum(0) == 1, table.argmax(0), 0)
      np.testing.assert_array_equal(index, want)
    for num in (1, 2):
      table = possible(scores, num)
      index, is_certain = candidates.few(scores, num)
      rows = np.where(table, np.arange(9)[:, None], 9)
      np.testing.assert_array_equal(index, np.sort(rows, axis=0)[:4])
      count = table.sum(0)
      np.testing.assert_array_equal(is_certain, (count >= num) & (count <= 4))
      seen |= set(count)
  assert seen >= {1, 2, 4, 5}


@pytest.mark.parametrize('num_rows', [1, 3, 50])
def test_uncertain_units_are_replaced_a_few_codes_at_a_time(num_rows):
  rng = np.random.default_rng(0)
  m = 11
  is_certain, is_found = rng.integers(0, 2, (2, m)).astype(bool)
  found, new = rng.integers(0, 9, (2, 2, m))
  sizes = []

  def search(rows):
    sizes.append(rows.shape)
    at = jnp.minimum(rows, m - 1)
    return jnp.asarray(new)[:, at], jnp.asarray(is_found)[at]

  got, certain = candidates.replace(
    search, jnp.asarray(found), jnp.asarray(is_certain), num_rows
  )
  np.testing.assert_array_equal(got, np.where(is_certain, found, new))
  np.testing.assert_array_equal(certain, is_certain | is_found)
  assert set(sizes) == {(min(num_rows, m),)}


def test_the_least_of_each_column_is_the_first_of_equals():
  values = np.random.default_rng(0).integers(0, 4, (5, 30)).astype(np.float32)
  index, least = candidates.smallest(jnp.asarray(values))
  np.testing.assert_array_equal(index, values.argmin(0))
  np.testing.assert_array_equal(least, values.min(0))
  left = candidates.without(index, jnp.asarray(values))
  want = values.copy()
  want[values.argmin(0), np.arange(30)] = np.inf
  np.testing.assert_array_equal(left, want)
  # An index within the column where nothing is comparable.
  index, _ = candidates.smallest(jnp.full((3, 2), jnp.nan))
  np.testing.assert_array_equal(index, 2)


# --- Chunks ----------------------------------------------------------------


def test_chunks_of_given_memory():
  rows = lambda num, distance, limit, d=64: chunks.chunk_rows(
    num, 400, d, 4, distance, limit
  )
  # One code's distances from 400 units are 1600 bytes; from differences in 64
  # dimensions 64 times as much. Multiples of 16, as even as these allow.
  for num, distance, limit, want in (
    (100, 'euclidean', 1600 * 100, 100),
    (101, 'euclidean', 1600 * 100, 64),
    (192, 'cosine', 1600 * 100, 96),
    (193, 'euclidean', 1600 * 100, 80),
    (200, 'euclidean', 1600 * 15, 15),
    (200, 'euclidean', 1600 * 16, 16),
    (200, 'euclidean', 1600 * 7 + 1599, 7),
    (200, 'euclidean', 1, 1),
    (0, 'euclidean', None, 1),
    (100, 'l1', 1600 * 100, 1),
    (100, 'linf', 64 * 1600 * 100, 100),
    (101, 'l1', 64 * 1600 * 50, 48),
  ):
    assert rows(num, distance, limit) == want, (num, distance, limit)


def test_chunks_of_a_cpus_cache():
  rows = lambda num, units, distance, d=64: chunks.chunk_rows(
    num, units, d, 4, distance, None
  )
  # 2^20 bytes of scores and 2^19 of codes, but 256 rows; 2^24 of differences.
  assert rows(655, 400, 'euclidean') == 655
  assert rows(656, 400, 'euclidean') == 336
  assert rows(512, 400, 'euclidean', 256) == 512
  assert rows(513, 400, 'euclidean', 256) == 272
  assert rows(256, 400, 'euclidean', 5000) == 256
  assert rows(256, 40_000, 'correlation') == 256
  assert rows(257, 40_000, 'euclidean') == 144
  assert rows(163, 400, 'l1') == 163
  assert rows(164, 400, 'l1') == 96


def test_chunks_of_another_backend(monkeypatch):
  monkeypatch.setattr(jax, 'default_backend', lambda: 'gpu')
  rows = lambda num, distance: chunks.chunk_rows(
    num, 400, 64, 4, distance, None
  )
  assert rows(167_772, 'euclidean') == 167_772
  assert rows(167_773, 'euclidean') == 83_888
  assert rows(2622, 'l1') == 1312


def test_codes_are_divided_in_order_with_zeros_at_the_end():
  xs = draw(7, 2)
  for rows, multiple, num in ((3, 1, 3), (3, 2, 4), (7, 1, 1), (2, 3, 6)):
    out = chunks.in_chunks(jnp.asarray(xs), rows, multiple)
    assert out.shape == (num, rows, 2)
    flat = np.asarray(out).reshape(-1, 2)
    np.testing.assert_allclose(flat[:7], xs, rtol=1e-6)
    assert not np.any(flat[7:])
  assert chunks.in_chunks(jnp.arange(5), 2).shape == (3, 2)


def largest(function, *args):
  """Entries of the largest array that a function makes."""
  most = 0
  pending = [jax.make_jaxpr(function)(*args).jaxpr]
  while pending:
    jaxpr = pending.pop()
    for equation in jaxpr.eqns:
      sizes = [v.aval.size for v in equation.outvars if hasattr(v.aval, 'size')]
      most = max(most, *sizes, 0)
      pending += extend.core.jaxprs_in_params(equation.params)
  return most


READERS = {
  'best_matching_units': (),
  'two_best_units': (),
  'distances': (),
  'quantization_error': (),
  'topographic_error': (),
  'distortion': (1.5,),
  'batch_step': (1.5,),
}


@pytest.mark.parametrize('name', READERS)
def test_search_bytes_limit_memory(name):
  ours = som.Map(jnp.zeros((5, 10, 3)))
  xs = jnp.zeros((600, 3))
  read = lambda limit: largest(
    lambda v: getattr(som, name)(ours, v, *READERS[name], search_bytes=limit),
    xs,
  )
  # 16 codes' distances from 50 units, or those of all; the codes are 1800.
  assert read(4 * 50 * 16) < 3000
  assert read(None) >= 300 * 50


def test_search_bytes_that_are_no_number_of_bytes_are_refused():
  ours = som.Map(jnp.zeros((2, 3, 3)))
  chunks.check_bytes(None)
  chunks.check_bytes(np.int64(1))
  for limit in (0, -1, 1.5, 'many'):
    with pytest.raises(ValueError, match='search_bytes must be None or a pos'):
      chunks.check_bytes(limit)
  with pytest.raises(ValueError, match='search_bytes'):
    som.distances(ours, np.zeros((2, 3)), search_bytes=0)
