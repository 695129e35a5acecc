"""Maps against plain numpy and other libraries, on ordinary and hard codes."""

import functools
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import som_oracles as plain

from dmm_jax import som
from dmm_jax.som import chunks

KEY = jax.random.key(0)


def draw(n=60, d=5, seed=0):
  return np.random.default_rng(seed).normal(size=(n, d))


def make(codebook, **names):
  return som.Map(jnp.asarray(codebook), **names)


def as_ours(weights, **names):
  return som.from_minisom(weights, **names)


@pytest.fixture
def double():
  with jax.enable_x64(True):
    yield


@pytest.mark.parametrize('distance', som.DISTANCES)
def test_batch_step_is_the_closed_form(double, distance):
  xs, weights = draw(), draw(9, seed=1).reshape(3, 3, 5)
  want = plain.batch(weights, xs, 0.9, 'rectangular', 'gaussian', distance)
  got = som.batch_step(as_ours(weights, distance=distance), xs, 0.9)
  np.testing.assert_allclose(som.to_minisom(got), want, rtol=0, atol=1e-10)


@pytest.mark.parametrize('neighborhood', ['gaussian', 'bubble', 'triangle'])
@pytest.mark.parametrize('topology', som.TOPOLOGIES)
def test_batch_step_on_every_grid(double, topology, neighborhood):
  xs, weights = draw(), draw(20, seed=1).reshape(4, 5, 5)
  names = dict(topology=topology, neighborhood=neighborhood)
  want = plain.batch(weights, xs, 2.0, **names)
  # Small chunks: what is searched at once does not matter.
  got = som.batch_step(as_ours(weights, **names), xs, 2.0, search_bytes=2000)
  np.testing.assert_allclose(som.to_minisom(got), want, rtol=0, atol=1e-10)


@pytest.mark.parametrize('num', [0, 1, 15, 100, 4000, 20_000])
@pytest.mark.parametrize('limit', [None, 1, 4 * 400 * 7, 4 * 400 * 70])
def test_chunks_are_even_and_within_memory(num, limit):
  rows = chunks.chunk_rows(num, 400, 64, 4, 'euclidean', limit)
  count = -(-num // rows)
  assert rows >= 1 and count * rows - num < max(16 * count, 2)
  if limit:
    assert rows == 1 or 4 * 400 * rows <= limit
  # Of one multiple that products like, or all at once.
  assert rows == max(num, 1) or rows % 16 == 0 or rows < 16


def test_fit_is_batch_steps(double):
  xs = draw()
  begin = som.init(KEY, jnp.asarray(xs), grid=(3, 4))
  steps = begin
  away = []
  for sigma in (2.0, 1.0, 0.5):
    away.append(som.quantization_error(steps, xs))
    steps = som.batch_step(steps, xs, sigma)
  options = dict(grid=(3, 4), num_epochs=3, sigma=(2, 0.5))
  got = som.fit(KEY, xs, init=begin.codebook, **options)
  np.testing.assert_allclose(got.codebook, steps.codebook, atol=1e-10)
  np.testing.assert_allclose(got.history, away, atol=1e-10)
  none = som.fit(KEY, xs, init=begin.codebook, **options | {'num_epochs': 0})
  np.testing.assert_allclose(none.codebook, begin.codebook, atol=1e-12)
  # Undivided, too; and at float32's precision.
  alone = som.fit(KEY, xs, init=begin.codebook, divide=False, **options)
  np.testing.assert_allclose(alone.codebook, got.codebook, atol=1e-12)
  single = som.fit(KEY, np.float32(xs), init=begin.codebook, **options)
  assert single.codebook.dtype == jnp.float32
  np.testing.assert_allclose(single.codebook, got.codebook, atol=1e-5)


@pytest.mark.parametrize('topology', som.TOPOLOGIES)
@pytest.mark.parametrize('neighborhood', som.NEIGHBORHOODS)
def test_online_steps_are_minisoms(double, topology, neighborhood):
  xs, weights = draw(12), draw(20, seed=1).reshape(4, 5, 5)
  t = np.arange(12)
  sigmas, rates = 2 / (1 + t / 6), 0.5 / (1 + t / 6)
  np.testing.assert_allclose(sigmas, som.schedule('asymptotic', 2, 0, 12))
  names = dict(topology=topology, neighborhood=neighborhood)
  want = plain.online(weights, xs, sigmas, rates, distance='l1', **names)
  begin = as_ours(weights, distance='l1', **names)

  @jax.jit
  def run(begin):
    one = lambda state, now: (som.step(state, *now), None)
    return jax.lax.scan(one, begin, (xs, sigmas, rates))[0]

  got = som.to_minisom(run(begin))
  np.testing.assert_allclose(got, want, rtol=1e-9, atol=1e-9)


def test_online_fit_uses_every_code_once_an_epoch():
  # With rate 1 throughout and no neighbours, one unit keeps the last code.
  xs = np.arange(1.0, 8)[:, None]
  fit = lambda epochs: som.fit(
    KEY,
    xs,
    grid=(1, 1),
    num_epochs=epochs,
    method='online',
    rate=(1, 1),
    init=np.zeros((1, 1, 1)),
  )
  last = [float(fit(n).codebook[0, 0, 0]) for n in (1, 4)]
  assert len(set(last)) > 1 and set(last) <= set(xs.ravel())
  # A jump is |x - the one before|: all differ by 1 or more, 4 on average at
  # most.
  history = fit(4).history
  assert np.all((history >= 1) & (history <= 4))


@pytest.mark.parametrize('topology', som.TOPOLOGIES)
@pytest.mark.parametrize('shape', [(5, 5), (4, 6)])
def test_errors_and_u_matrix(topology, shape):
  xs, weights = draw(200, 2), draw(np.prod(shape), 2, 1).reshape(*shape, 2)
  ours = as_ours(weights, topology=topology)
  close = functools.partial(np.testing.assert_allclose, rtol=1e-5)
  close(som.quantization_error(ours, xs), plain.quantization_error(weights, xs))
  error = plain.topographic_error(weights, xs, topology)
  assert 0 < error < 1
  close(som.topographic_error(ours, xs), error)
  close(som.u_matrix(ours).T, plain.u_matrix(weights, topology))
  pairs = [plain.two_best(x, weights) for x in xs]
  np.testing.assert_array_equal(som.two_best_units(ours, xs)[..., ::-1], pairs)


@pytest.mark.parametrize('topology', som.TOPOLOGIES)
def test_torus(topology):
  grid = 4, 5
  units = np.indices(grid).reshape(2, -1).T
  away = np.sqrt(
    som.squared_distances(units[:, None], units[None], grid, topology, True)
  )
  want = plain.torus_distances(grid, topology)
  np.testing.assert_allclose(away, want, atol=1e-6)
  # One unit far from the others shows which are its neighbours.
  codebook = np.zeros((*grid, 1))
  codebook[0, 0] = 8
  raised = som.u_matrix(make(codebook, topology=topology, periodic=True))
  ring = {'rectangular': 8, 'hexagonal': 6}[topology]
  near = want[0] < {'rectangular': 1.5, 'hexagonal': 1.1}[topology]
  want = np.where(near, 8 / ring, 0).reshape(grid)
  want[0, 0] = 8
  assert near.sum() == ring + 1
  np.testing.assert_allclose(raised, want, rtol=1e-6)
  # Opposite corners are neighbours here, and are not in the plane.
  codebook = np.full((*grid, 1), 9.0)
  codebook[0, 0], codebook[-1, 0] = 0.0, 0.1
  for periodic, error in ((True, 0), (False, 1)):
    ours = make(codebook, topology=topology, periodic=periodic)
    assert som.topographic_error(ours, np.zeros((3, 1))) == error


def test_smoothing_on_a_torus_is_by_its_distances(double):
  xs, codebook = draw(), draw(20, seed=1).reshape(4, 5, 5)
  for topology in som.TOPOLOGIES:
    ours = make(codebook, topology=topology, periodic=True)
    unit = np.asarray(som.flat(ours, som.best_matching_units(ours, xs)))
    square = plain.torus_distances((4, 5), topology) ** 2
    h = np.exp(-square / 2 / 1.3**2)[:, unit]
    want = (h @ xs / h.sum(1, keepdims=True)).reshape(4, 5, 5)
    got = som.batch_step(ours, xs, 1.3).codebook
    np.testing.assert_allclose(got, want, atol=1e-10)


def test_distortion(double):
  xs, weights = draw(), draw(20, seed=1).reshape(4, 5, 5)
  for topology in som.TOPOLOGIES:
    want = np.mean(
      [
        np.sum(
          plain.influence(
            (4, 5), plain.winner(x, weights), 1.5, topology, 'gaussian'
          )
          * np.sum((x - weights) ** 2, -1)
        )
        for x in xs
      ]
    )
    got = som.distortion(as_ours(weights, topology=topology), xs, 1.5)
    np.testing.assert_allclose(got, want, rtol=1e-10)


def test_minisoms_chebyshev_bug_is_not_ours():
  # max(x - w) without absolute values is least at the far unit.
  ours = make([[[0.1, 0.1], [5.0, 5.0]]], distance='linf')
  x = np.zeros((1, 2))
  assert np.argmin((x - ours.units).max(-1)) == 1
  np.testing.assert_array_equal(som.best_matching_units(ours, x), [[0, 0]])


def test_errors_are_in_the_maps_own_distance():
  # MiniSom's and others' are euclidean whatever the map's.
  ours = make([[[3.0, 0.0], [0.0, 1.0]]], distance='cosine')
  x = np.array([[1.0, 0.9]])
  away = 1 - 1 / np.hypot(1, 0.9)
  np.testing.assert_allclose(som.quantization_error(ours, x), away, rtol=1e-5)
  assert np.linalg.norm(x - ours.units, axis=1).argmin() == 1


def test_distortion_is_squared_and_at_the_width_asked_for():
  # MiniSom's takes lengths, and the width of the first update.
  ours = make([[[0.0], [1.0]]])
  h = np.exp(-1 / 2 / 0.5**2)
  value = som.distortion(ours, np.full((1, 1), -2.0), 0.5)
  np.testing.assert_allclose(value, 4 + 9 * h, rtol=1e-6)


@pytest.mark.parametrize('rows', [4, 5])
def test_hexagonal_u_matrix_uses_the_grids_neighbours(rows):
  # MiniSom's, of an even number of rows, are units that are not at distance 1.
  codebook = np.random.default_rng(0).normal(size=(rows, 4, 3))
  ours = make(codebook, topology='hexagonal')
  want = plain.u_matrix(som.to_minisom(ours), 'hexagonal').T
  np.testing.assert_allclose(som.u_matrix(ours), want, rtol=1e-5)


def test_widths_fall_from_half_the_longer_side():
  xs = draw(20, 2).astype(np.float32)
  fit = functools.partial(som.fit, KEY, xs, grid=(2, 7), num_epochs=3)
  np.testing.assert_array_equal(fit().codebook, fit(sigma=(3.5, 0.7)).codebook)


def test_triangle_never_overshoots():
  # MiniSom's has height sigma^2: the unit would go 4 times the way.
  begin = make(np.zeros((3, 3, 1)), neighborhood='triangle')
  moved = som.step(begin, np.ones(1), 2.0, 1.0).codebook
  np.testing.assert_allclose(moved.max(), 1)


def test_planar_neighbourhood_is_of_squared_distance():
  # A peer's is exp(-d / 2 s^2) where its torus has exp(-d^2 / 2 s^2).
  begin = make(np.zeros((1, 3, 1)))
  moved = som.step(begin, np.ones(1), 1.0, 1.0).codebook.ravel()
  np.testing.assert_allclose(moved, np.exp([0, -0.5, -2]), rtol=1e-5)


def test_batch_is_not_averaged_by_parts():
  # Peers that average an update over a batch of m lag: W += mean(h (x - w)).
  xs = draw(300, 3).astype(np.float32) + 5
  ours = som.fit(KEY, xs, grid=(1, 1), num_epochs=1, init=np.zeros((1, 1, 3)))
  np.testing.assert_allclose(ours.codebook[0, 0], xs.mean(0), rtol=1e-5)


def test_online_and_batch_find_as_good_maps():
  xs = draw(400, 2).astype(np.float32)
  fit = functools.partial(som.fit, KEY, xs, grid=(5, 5), num_epochs=5)
  errors = [
    som.quantization_error(fit(method=m), xs) for m in ('batch', 'online')
  ]
  np.testing.assert_allclose(*errors, rtol=0.2)
  assert som.topographic_error(fit(), xs) < 0.1


def test_vmap_over_seeds_and_layers():
  layers = [draw(50, d, seed=d).astype(np.float32) for d in (3, 6)]
  stack = som.pad(layers)
  assert stack.shape == (2, 50, 6)
  keys = jax.random.split(KEY, 2)
  fit = functools.partial(som.fit, grid=(3, 3), num_epochs=4)
  many = jax.vmap(lambda k: jax.vmap(functools.partial(fit, k))(stack))(keys)
  assert many.codebook.shape == (2, 2, 3, 3, 6)
  error = lambda m: jax.vmap(som.quantization_error)(m, stack)
  found = jax.vmap(error)(many)
  for i, j in np.ndindex(2, 2):
    one = fit(keys[i], layers[j])
    codebook = many.codebook[i, j]
    np.testing.assert_allclose(
      codebook[..., : layers[j].shape[1]], one.codebook, atol=1e-5
    )
    np.testing.assert_allclose(
      found[i, j], som.quantization_error(one, layers[j]), rtol=1e-4
    )
  np.testing.assert_allclose(many.codebook[:, 0, ..., 3:], 0)


def test_a_fit_is_compiled_once():
  from dmm_jax.som import fitting

  before = fitting._fit._cache_size()
  for seed in (1, 2):
    xs = draw(40, 3, seed).astype(np.float32)
    som.fit(
      jax.random.key(seed), xs, grid=(2, 3), num_epochs=2, sigma=(seed, 0.5)
    )
  assert fitting._fit._cache_size() == before + 1


def test_counts_labels_and_planes(tmp_path):
  ours = make([[[0.0], [1.0], [2.0]]], topology='hexagonal')
  xs = np.array([[0.1], [0.9], [1.2], [1.1], [np.nan]])
  labels = np.array([1, 0, 2, 2, 0])
  np.testing.assert_array_equal(som.hits(ours, xs), [[1, 3, 0]])
  np.testing.assert_array_equal(
    som.label_counts(ours, xs, labels, 3),
    [[[0, 1, 0], [1, 0, 2], [0, 0, 0]]],
  )
  np.testing.assert_array_equal(
    som.label_map(ours, xs, labels, 3), [[1, 2, -1]]
  )
  np.testing.assert_array_equal(som.component_planes(ours), [[[0, 1, 2]]])
  som.save(tmp_path / 'map.npz', ours)
  again = som.load(tmp_path / 'map.npz')
  assert jax.tree.structure(again) == jax.tree.structure(ours)
  np.testing.assert_array_equal(again.codebook, ours.codebook)
  np.testing.assert_array_equal(som.to_minisom(ours).shape, (3, 1, 1))
  with pytest.raises(ValueError, match='torus'):
    som.to_minisom(make(np.zeros((2, 2, 1)), periodic=True))


def test_initial_codebooks():
  xs = draw(30, 4).astype(np.float32) * [4, 2, 1, 1] + 7
  xs[3] = np.nan
  good = np.delete(xs, 3, axis=0)
  init = functools.partial(som.init, KEY, jnp.asarray(xs), grid=(4, 6))
  sample = init(init='sample').units
  rows = {tuple(row) for row in np.float32(good)}
  assert {tuple(row) for row in np.asarray(sample)} <= rows
  assert len({tuple(row) for row in np.asarray(sample)}) == 24
  # Of few codes each comes at most once more than any other.
  some = np.where(np.arange(30)[:, None] < 9, xs, np.nan)
  few = som.init(KEY, some, grid=(4, 6)).units
  np.testing.assert_array_equal(
    np.unique(few, axis=0, return_counts=True)[1], 3
  )
  assert {tuple(row) for row in np.asarray(few)} <= rows
  np.testing.assert_allclose(
    np.linalg.norm(init(init='random').units, axis=1), 1, rtol=1e-5
  )
  sheet = np.asarray(init(init='pca').codebook)
  np.testing.assert_allclose(sheet.mean((0, 1)), good.mean(0), atol=1e-4)
  values, vectors = np.linalg.eigh(np.cov(good.T, bias=True))
  # The longer side, columns, goes along the first direction.
  for side, span in (
    (-1, sheet[0, -1] - sheet[0, 0]),
    (-2, sheet[-1, 0] - sheet[0, 0]),
  ):
    want = 2 * np.sqrt(values[side]) * vectors[:, side]
    np.testing.assert_allclose(np.abs(span), np.abs(want), atol=1e-4)


@pytest.mark.parametrize(
  'method, init', [('batch', 'sample'), ('batch', 'pca'), ('online', 'random')]
)
def test_degenerate_codes(method, init):
  # Of one shape, fewer than units but enough to fit again and again.
  options = dict(grid=(3, 4), num_epochs=3, method=method, init=init)
  fit = lambda v: som.fit(KEY, v, sigma=(1, 0.5), **options)
  whole = draw(10, 2).astype(np.float32)
  dead = whole * np.float32([1, 0])
  found = fit(dead)
  assert np.all(np.isfinite(found.codebook))
  assert np.all(np.isfinite(som.u_matrix(found)))
  flat = np.full((10, 2), 3.0, np.float32)
  found = fit(flat)
  if init != 'random':
    np.testing.assert_allclose(found.codebook, 3, atol=1e-5)
    assert som.quantization_error(found, flat) < 1e-5
  assert som.topographic_error(found, flat) in (0, 1)
  # NaN and infinite codes count for nothing.
  holed = whole.copy()
  holed[8:] = [[np.nan, 1], [np.inf, 0]]
  found = fit(holed)
  assert np.all(np.isfinite(found.codebook))
  assert np.all(np.isfinite(found.history))
  units = som.best_matching_units(found, holed)
  np.testing.assert_array_equal(units[:, 0] < 0, np.arange(10) >= 8)
  away = som.distances(found, holed)
  np.testing.assert_array_equal(np.isnan(away), np.arange(10) >= 8)
  error = som.quantization_error(found, holed)
  np.testing.assert_allclose(error, np.mean(away[:8]), rtol=1e-5)
  assert np.isfinite(som.topographic_error(found, holed))
  # No usable code at all.
  nothing = np.full((10, 2), np.nan, np.float32)
  assert np.all(np.isnan(fit(nothing).codebook))
  assert np.isnan(som.quantization_error(found, nothing))


def test_one_dimension_lies_in_order():
  xs = np.random.default_rng(0).uniform(size=(60, 1)).astype(np.float32)
  ours = som.fit(KEY, xs, grid=(1, 8), init='pca', sigma=(2, 0.5))
  assert np.all(np.diff(ours.codebook[0, :, 0]) > 0)
  assert som.topographic_error(ours, xs) == 0


def test_nan_codes_change_nothing():
  xs = draw(20, 3).astype(np.float32)
  holed = np.insert(xs, 5, np.nan, axis=0)
  begin = np.random.default_rng(1).normal(size=(2, 3, 3)).astype(np.float32)
  fit = lambda v: som.fit(KEY, v, grid=(2, 3), num_epochs=3, init=begin)
  np.testing.assert_allclose(fit(holed).codebook, fit(xs).codebook, atol=1e-5)


def test_codes_without_a_direction():
  xs = np.array([[1.0, 2, 3], [0, 0, 0], [2, 2, 2], [3, 2, 1]], np.float32)
  for distance, without in (('cosine', [1]), ('correlation', [1, 2])):
    ours = som.fit(KEY, xs, grid=(1, 2), num_epochs=3, distance=distance)
    units = som.best_matching_units(ours, xs)
    assert np.flatnonzero(units[:, 0] < 0).tolist() == without
    assert np.all(np.isfinite(ours.codebook))


def test_one_unit():
  xs = draw(8, 2).astype(np.float32)
  ours = som.fit(KEY, xs, grid=(1, 1), num_epochs=2)
  np.testing.assert_allclose(ours.codebook[0, 0], xs.mean(0), atol=1e-6)
  assert np.isnan(som.topographic_error(ours, xs))
  np.testing.assert_array_equal(som.u_matrix(ours), [[0]])
  np.testing.assert_array_equal(som.best_matching_units(ours, xs), 0)


def test_large_offsets_do_not_cancel():
  xs = draw(200, 3).astype(np.float32)
  begin = xs[:12].reshape(3, 4, 3)
  fit = lambda v, b: som.fit(KEY, v, grid=(3, 4), num_epochs=3, init=b)
  near, far = fit(xs, begin), fit(xs + 256, begin + 256)
  np.testing.assert_allclose(far.codebook - 256, near.codebook, atol=1e-3)


def with_sentinels(size, n=300, d=5):
  xs = draw(n, d).astype(np.float32)
  xs[0], xs[1, 0] = size, -size
  return xs


HARD_CODES = {
  'outlier 1e3': with_sentinels(1e3),
  'outlier 1e6': with_sentinels(1e6),
  'outlier 1e20': with_sentinels(1e20),
  'tiny': (draw(300) * 1e-25).astype(np.float32),
  'offset': draw(300).astype(np.float32) + np.float32(1e4),
  'sentinel column': draw(300).astype(np.float32)
  + np.where(np.arange(300) % 2, 1e6, 0)[:, None] * np.eye(5)[0],
  'two scales': draw(300) * np.where(np.arange(300) < 150, 1e-4, 1e4)[:, None],
  'one dimension': with_sentinels(1e5, d=1),
  'ties': np.repeat(draw(3), 100, axis=0),
}


@pytest.mark.parametrize('distance', som.DISTANCES)
@pytest.mark.parametrize('name', list(HARD_CODES))
def test_nearest_units_are_exact_for_any_codes(name, distance):
  xs = HARD_CODES[name].astype(np.float32)
  if distance == 'correlation' and xs.shape[1] == 1:
    pytest.skip('A code of one entry is constant.')
  # Units are codes and close neighbours of codes, so that many nearly tie.
  near = (xs[:100] * np.float32(1 + 1e-3)).astype(np.float32)
  units = np.concatenate([xs[:60], near, xs[:10]])
  ours = make(units.reshape(17, 10, -1), distance=distance)
  if name == 'offset':
    xs = xs[:, ::-1].copy()
  away = plain.all_distances(xs, units, distance)
  pairs = np.asarray(som.flat(ours, som.two_best_units(ours, xs)))
  known = pairs[:, 0] >= 0
  pairs, away = pairs[known], away[known]
  rounding = 1e-5 * away.min(axis=1) + np.finfo(np.float32).tiny
  if distance in ('cosine', 'correlation'):
    # Directions are rounded, and squared.
    rounding = 4e-7 * (np.sqrt(away.min(axis=1)) + 1e-6)
    if distance == 'correlation' and name == 'offset':
      rounding *= 10
  order = np.sort(away, axis=1)
  found = np.take_along_axis(away, pairs, axis=1)
  assert np.all(found[:, 0] <= order[:, 0] + rounding)
  assert np.all(found[:, 1] <= order[:, 1] * (1 + 1e-5) + rounding)
  assert known.sum() > 100 and np.all(pairs[:, 0] != pairs[:, 1])
  one = np.asarray(som.flat(ours, som.best_matching_units(ours, xs)))[known]
  found = np.take_along_axis(away, one[:, None], axis=1)[:, 0]
  assert np.all(found <= order[:, 0] + rounding)
  got = np.asarray(som.distances(ours, xs), float)[known]
  assert np.all(np.abs(got - order[:, 0]) <= rounding)
  np.testing.assert_allclose(
    som.quantization_error(ours, xs), got.mean(), rtol=1e-5
  )


def test_nearest_units_are_exact_in_double_precision(double):
  xs = with_sentinels(1e12).astype(float)
  units = np.concatenate([xs[:60], xs[:60] * (1 + 1e-7)])
  ours = make(units.reshape(12, 10, 5))
  away = plain.all_distances(xs, units, 'euclidean')
  unit = som.flat(ours, som.best_matching_units(ours, xs))
  np.testing.assert_array_equal(unit, away.argmin(axis=1))
  np.testing.assert_allclose(
    som.distances(ours, xs), away.min(axis=1), rtol=1e-13, atol=1e-300
  )


def test_the_first_of_equal_units_is_found():
  xs = draw(40, 3).astype(np.float32)
  # More than a few copies of each, far from the centre.
  ours = make(np.tile(xs, (8, 1)).reshape(8, 40, 3) + np.float32(1e3))
  units = som.two_best_units(ours, xs + np.float32(1e3))
  np.testing.assert_array_equal(units[:, 0, 0], 0)
  np.testing.assert_array_equal(units[:, 1, 0], 1)
  np.testing.assert_array_equal(units[:, 0, 1], np.arange(40))
  np.testing.assert_array_equal(units[:, 1, 1], np.arange(40))
  assert som.hits(ours, xs + np.float32(1e3)).sum() == 40


def test_more_units_than_codes():
  xs = with_sentinels(1e4, n=7, d=3)
  units = draw(1200, 3, 1).astype(np.float32)
  units[:7] = xs
  ours = make(units.reshape(30, 40, 3))
  found = som.flat(ours, som.best_matching_units(ours, xs))
  np.testing.assert_array_equal(found, np.arange(7))
  fit = som.fit(KEY, xs, grid=(30, 40), num_epochs=3)
  assert np.all(np.isfinite(fit.codebook))


@pytest.mark.parametrize('size', [1e5, 1e6])
def test_fit_with_an_outlier_is_the_closed_form(size):
  xs = with_sentinels(size, n=200)
  start = draw(12, seed=1).reshape(3, 4, 5).astype(np.float32)
  got = som.fit(
    KEY, xs, grid=(3, 4), num_epochs=4, sigma=(1.5, 0.5), init=start
  )
  weights = som.to_minisom(make(start)).astype(float)
  history = []
  for sigma in som.schedule('exponential', 1.5, 0.5, 4):
    history.append(plain.quantization_error(weights, xs.astype(float)))
    weights = plain.batch(
      weights, xs.astype(float), float(sigma), 'rectangular', 'gaussian'
    )
  # Of a mean that holds the outlier, some float32 roundings of its weight.
  scale = 1e-5 * (np.abs(weights).max(axis=-1, keepdims=True) + 1)
  assert np.all(np.abs(som.to_minisom(got) - weights) <= scale)
  np.testing.assert_allclose(got.history, history, rtol=1e-5)
  many = jax.vmap(
    lambda v: som.fit(
      KEY, v, grid=(3, 4), num_epochs=4, sigma=(1.5, 0.5), init=start
    )
  )(np.stack([xs, draw(200).astype(np.float32)]))
  np.testing.assert_allclose(many.codebook[0], got.codebook, rtol=1e-4)


def test_history_is_the_mean_distance_of_near_codes():
  # Codes next to their units, far from the centre: the expansion cancels.
  xs = np.repeat(draw(20, 3).astype(np.float32) * 100, 5, axis=0)
  xs = xs + 1e-3 * draw(100, 3, 1).astype(np.float32)
  start = xs[::5].reshape(4, 5, 3)
  got = som.fit(KEY, xs, grid=(4, 5), num_epochs=1, init=start)
  away = plain.all_distances(xs, start.reshape(-1, 3), 'euclidean').min(axis=1)
  np.testing.assert_allclose(got.history, [away.mean()], rtol=1e-5)


def test_distortion_beside_an_outlying_unit():
  # It is too far away on the grid to count for these codes.
  weights = draw(20, seed=1).reshape(4, 5, 5).astype(np.float32)
  weights[0, 0] = 1e5
  xs = weights[3] + np.float32(1e-3)
  want = plain.distortion(weights.astype(float), xs.astype(float), 0.3)
  got = som.distortion(as_ours(weights), xs, 0.3)
  np.testing.assert_allclose(got, want, rtol=1e-4)


def test_codes_and_labels_of_any_kind_are_cast_or_refused():
  ours = make(np.arange(6).reshape(1, 3, 2))
  whole = np.array([[0, 1], [4, 5]])
  np.testing.assert_array_equal(
    som.best_matching_units(ours, whole), [[0, 0], [0, 2]]
  )
  trained = som.fit(jax.random.PRNGKey(0), whole.astype(np.uint8), grid=[1, 2])
  assert trained.codebook.dtype == jnp.float32
  assert som.best_matching_units(ours, whole[:0]).shape == (0, 2)
  counts = functools.partial(som.label_counts, ours, whole)
  for call, message in (
    (lambda: som.best_matching_units(ours, np.zeros((2, 3))), r'codes .*n, 2'),
    (lambda: som.quantization_error(ours, np.zeros(2)), 'codes must be'),
    (lambda: som.distances(ours, whole * 1j), 'codes must be real'),
    (lambda: som.fit(KEY, whole * 1j), 'codes must be real'),
    (lambda: som.hits(make(np.zeros((2, 2))), whole), 'codebook must be'),
    (lambda: counts(np.zeros(2), 3), 'labels must be integers'),
    (lambda: counts(np.zeros(3, int), 3), 'labels must be'),
    (lambda: counts(np.zeros(2, int), 0), 'num_classes must be'),
    (lambda: counts(np.zeros(2, int), 1.5), 'num_classes must be'),
    (lambda: som.u_matrix(ours, reduce='max'), 'reduce must be'),
    (lambda: som.fit(0, whole), 'key must be'),
    (lambda: som.fit(jax.random.split(KEY), whole), 'key must be'),
    (lambda: som.pad([np.zeros((2, 1)), np.zeros((3, 1))]), 'layers must be'),
  ):
    with pytest.raises(ValueError, match=message):
      call()


@pytest.mark.parametrize(
  'options, message',
  [
    (dict(topology='round'), 'topology'),
    (dict(topology='hexagonal', periodic=True, grid=(3, 4)), 'even'),
    (dict(distance='l3'), 'distance'),
    (dict(neighborhood='cone'), 'neighborhood'),
    (dict(neighborhood='mexican_hat'), 'online'),
    (dict(method='both'), 'method'),
    (dict(init='zeros'), 'init'),
    (dict(init=np.zeros((1, 1, 3))), 'init'),
    (dict(schedule='cosine'), 'schedule'),
    (dict(sigma=(1, 0)), 'sigma'),
    (dict(grid=(0, 2)), 'grid must be two positive integers'),
    (dict(grid=(3.0, 2)), 'grid must be'),
    (dict(grid=(-3, 2)), 'grid must be'),
    (dict(grid=(3,)), 'grid must be'),
    (dict(grid=4), 'grid must be'),
    (dict(sigma=(1, 2, 3)), 'sigma must be two'),
    (dict(sigma=2.0), 'sigma must be two'),
    (dict(sigma=(np.inf, 1)), 'sigma'),
    (dict(rate=(0.5,)), 'rate must be two'),
    (dict(num_epochs=2.5), 'num_epochs'),
    (dict(search_bytes=0), 'search_bytes'),
    (dict(num_epochs=-1), 'num_epochs'),
  ],
)
def test_invalid_options_are_refused(options, message):
  options = dict(grid=(4, 4)) | options
  with pytest.raises(ValueError, match=message):
    som.fit(KEY, draw(9, 3), **options)
  with pytest.raises(ValueError, match=r'non-empty \[n, d\] array'):
    som.fit(KEY, np.zeros((0, 3)))


@pytest.mark.parametrize('topology', som.TOPOLOGIES)
def test_agrees_with_minisom(topology):
  minisom = pytest.importorskip('minisom')
  xs = draw(100, 4)
  peer = minisom.MiniSom(6, 5, 4, sigma=2.0, topology=topology, random_seed=0)
  begin = peer.get_weights().copy()
  peer.train(xs, 100)
  sigmas, rates = (som.schedule('asymptotic', v, 0, 100) for v in (2.0, 0.5))
  with jax.enable_x64(True):
    state = as_ours(begin, topology=topology)
    one = lambda state, now: (som.step(state, *now), None)
    scan = jax.jit(lambda s: jax.lax.scan(one, s, (xs, sigmas, rates))[0])
    got = scan(state)
    np.testing.assert_allclose(
      som.to_minisom(got), peer.get_weights(), atol=1e-6
    )
    np.testing.assert_allclose(
      som.quantization_error(got, xs), peer.quantization_error(xs), rtol=1e-6
    )
    error = som.topographic_error(got, xs)
    np.testing.assert_allclose(error, peer.topographic_error(xs), atol=1e-9)
    for reduce in ('mean', 'sum'):
      ours = som.u_matrix(got, reduce=reduce).T
      theirs = peer.distance_map(scaling=reduce)
      np.testing.assert_allclose(ours / ours.max(), theirs, rtol=1e-6)


def test_agrees_with_xpysom():
  with warnings.catch_warnings():
    warnings.simplefilter('ignore')
    xpysom = pytest.importorskip('xpysom')
  xs = draw(100, 4).astype(np.float32)
  peer = xpysom.XPySom(
    6, 5, 4, sigma=2.5, sigmaN=0.8, std_coeff=1.0, random_seed=0, xp=np
  )
  begin = peer.get_weights().copy()
  peer.train(xs, 4)
  # Its exponential schedule stops one step short of the end.
  end = 2.5 * (0.8 / 2.5) ** (3 / 4)
  got = som.fit(
    KEY,
    xs,
    grid=(5, 6),
    num_epochs=4,
    sigma=(2.5, end),
    init=begin.swapaxes(0, 1),
  )
  np.testing.assert_allclose(som.to_minisom(got), peer.get_weights(), atol=1e-4)
