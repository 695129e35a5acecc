"""What is read from a trained map, by brute force and by hand."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import som_oracles as plain

from dmm_jax import som

GRID = 4, 7
# Every distance, and every kind of grid.
slow = lambda *values: pytest.param(*values, marks=pytest.mark.slow)
MAPS = [
  ('euclidean', 'rectangular', False, 'gaussian'),
  slow('l1', 'hexagonal', True, 'bubble'),
  slow('linf', 'rectangular', True, 'triangle'),
  ('cosine', 'hexagonal', True, 'mexican_hat'),
  slow('cosine', 'hexagonal', False, 'mexican_hat'),
  slow('correlation', 'rectangular', False, 'triangle'),
]


def draw(n=60, d=5, seed=0):
  return np.random.default_rng(seed).normal(size=(n, d))


def make(codebook, **names):
  return som.Map(jnp.asarray(codebook), **names)


@jax.jit
def read_all(ours, xs, labels):
  return {
    'two': som.two_best_units(ours, xs),
    'best': som.best_matching_units(ours, xs),
    'distances': som.distances(ours, xs),
    'quantization': som.quantization_error(ours, xs),
    'topographic': som.topographic_error(ours, xs),
    'distortion': som.distortion(ours, xs, 1.4),
    'u_matrix': som.u_matrix(ours),
    'u_sum': som.u_matrix(ours, reduce='sum'),
    'hits': som.hits(ours, xs),
    'counts': som.label_counts(ours, xs, labels, 3),
    'labels': som.label_map(ours, xs, labels, 3),
  }


@pytest.mark.parametrize('distance, topology, periodic, neighborhood', MAPS)
def test_all_readings_of_a_map(distance, topology, periodic, neighborhood):
  xs, codebook = draw(70, 3), draw(28, 3, 1).reshape(*GRID, 3)
  xs[3, 1], xs[5, 0], xs[7], xs[9] = np.nan, np.inf, 0, 1.5
  # Labels outside of 0, 1, 2 do not count.
  labels = np.random.default_rng(2).integers(-1, 4, 70)
  place = dict(topology=topology, periodic=periodic)
  names = dict(distance=distance, neighborhood=neighborhood, **place)
  with jax.enable_x64(True):
    found = read_all(make(codebook, **names), xs, labels)
  usable = plain.is_usable(xs, distance)
  good, units = xs[usable], codebook.reshape(28, 3)
  away = plain.all_distances(good, units, distance)
  order = np.argsort(away, axis=1, kind='stable')[:, :2]
  pairs = np.full((70, 2, 2), -1)
  pairs[usable] = np.stack(np.unravel_index(order, GRID), -1)
  np.testing.assert_array_equal(found['two'], pairs)
  np.testing.assert_array_equal(found['best'], pairs[:, 0])
  close = lambda got, want: np.testing.assert_allclose(got, want, rtol=1e-9)
  least = np.full(70, np.nan)
  least[usable] = away.min(1)
  close(found['distances'], least)
  close(found['quantization'], np.nanmean(least))
  near = plain.adjacent(GRID, topology, periodic)
  error = 1 - near[order[:, 0], order[:, 1]].mean()
  assert 0 < error < 1
  close(found['topographic'], error)
  close(
    found['distortion'],
    plain.distortion(
      codebook, good, 1.4, distance, neighborhood=neighborhood, **place
    ),
  )
  close(found['u_matrix'], plain.u_matrix(codebook, **place))
  close(found['u_sum'], plain.u_matrix(codebook, **place, reduce=np.sum))
  counts = np.zeros((28, 3), int)
  labels = labels[usable]
  known = (labels >= 0) & (labels < 3)
  np.add.at(counts, (order[known, 0], labels[known]), 1)
  np.testing.assert_array_equal(found['counts'].reshape(28, 3), counts)
  np.testing.assert_array_equal(
    found['hits'].ravel(), np.bincount(order[:, 0], minlength=28)
  )
  want = np.where(counts.sum(1) > 0, counts.argmax(1), -1)
  np.testing.assert_array_equal(found['labels'].ravel(), want)
  assert set(want) == {-1, 0, 1, 2}


def test_distances_have_gradients():
  # Of a code: the direction from its nearest unit.
  codebook, xs = draw(12, 3, 1).reshape(3, 4, 3), draw(6, 3)
  xs[2, 1] = np.nan
  with jax.enable_x64(True):
    slope = jax.jit(
      jax.grad(lambda v: som.quantization_error(make(codebook), v))
    )(xs)
  units = codebook.reshape(12, 3)
  away = xs - units[plain.all_distances(xs, units).argmin(1)]
  want = away / np.linalg.norm(away, axis=1, keepdims=True) / 5
  want[2] = 0
  np.testing.assert_allclose(slope, want, atol=1e-12)


def test_many_chunks_read_as_one():
  ours = make(draw(28, 3, 1).reshape(*GRID, 3).astype(np.float32))
  xs = draw(70, 3).astype(np.float32)
  for read in (som.two_best_units, som.distances):
    few = read(ours, xs, search_bytes=4 * 28 * 9)
    np.testing.assert_allclose(few, read(ours, xs), rtol=1e-5)


def test_u_matrices_of_every_grid():
  # Small tori too, on which a unit is a neighbour from two sides.
  @jax.jit
  def all_of_them(codebooks):
    return [
      som.u_matrix(make(v, topology=topology, periodic=periodic))
      for v in codebooks
      for topology, periodic in places
      if topology == 'rectangular' or len(v) % 2 == 0 or not periodic
    ]

  places = list(itertools.product(som.TOPOLOGIES, (False, True)))
  grids = (2, 2), (2, 5), (6, 3), (5, 1), (1, 1)
  codebooks = [draw(r * c, 2, seed=c).reshape(r, c, 2) for r, c in grids]
  found = iter(all_of_them(codebooks))
  for codebook in codebooks:
    for topology, periodic in places:
      if topology == 'hexagonal' and len(codebook) % 2 and periodic:
        continue
      want = plain.u_matrix(codebook, topology, periodic)
      np.testing.assert_allclose(next(found), want, rtol=1e-5)
  with pytest.raises(ValueError, match="reduce must be 'mean' or 'sum', got"):
    som.u_matrix(make(codebooks[0]), reduce='max')


def test_readings_of_one_unit_or_of_no_usable_code():
  ours = make([[[0.5, 1.0]]])
  xs = draw(8, 2).astype(np.float32)
  np.testing.assert_array_equal(som.two_best_units(ours, xs), 0)
  assert np.isnan(som.topographic_error(ours, xs))
  np.testing.assert_array_equal(som.u_matrix(ours), [[0]])
  two = make([[[0.5, 1.0], [2.0, 3.0]]])
  assert (
    som.topographic_error(two, xs) == som.topographic_error(two, xs[:1]) == 0
  )
  nothing = np.full((3, 2), np.nan)
  for error in (som.quantization_error, som.topographic_error):
    assert np.isnan(error(two, nothing))
  assert np.isnan(som.distortion(two, nothing, 1.0))
  assert som.best_matching_units(two, xs[:0]).shape == (0, 2)


def test_distortion_is_squared_and_at_the_width_asked_for():
  # MiniSom's takes lengths, and the width of the first update.
  ours = make([[[0.0], [1.0]]])
  h = np.exp(-1 / 2 / 0.5**2)
  value = som.distortion(ours, np.full((1, 1), -2.0), 0.5)
  np.testing.assert_allclose(value, 4 + 9 * h, rtol=1e-6)


def test_distortion_beside_an_outlying_unit():
  # It is too far away on the grid to count for these codes.
  codebook = draw(20, seed=1).reshape(4, 5, 5).astype(np.float32)
  codebook[0, 0] = 1e5
  xs = codebook[3] + np.float32(1e-3)
  names = dict(topology='rectangular', periodic=False, neighborhood='gaussian')
  want = plain.distortion(
    codebook.astype(float), xs.astype(float), 0.3, 'euclidean', **names
  )
  got = som.distortion(make(codebook), xs, 0.3)
  np.testing.assert_allclose(got, want, rtol=1e-4)


# --- Maps ------------------------------------------------------------------


def test_planes_flat_units_and_stacks_of_a_map():
  ours = make(np.arange(24).reshape(2, 3, 4))
  np.testing.assert_array_equal(
    som.component_planes(ours), np.moveaxis(np.asarray(ours.codebook), -1, 0)
  )
  units = np.array([[1, 2], [0, 1], [-1, -1]])
  np.testing.assert_array_equal(som.flat(ours, units), [5, 1, -4])
  assert ours.units.dtype == jnp.float32 and ours.history.shape == (0,)
  np.testing.assert_array_equal(ours.units, np.arange(24).reshape(6, 4))
  half = make(np.zeros((2, 3, 4), np.float16))
  assert half.units.dtype == jnp.float32
  stack = make(np.arange(120.0).reshape(5, 2, 3, 4))
  assert stack.grid == (2, 3) and stack.units.shape == (5, 6, 4)
  np.testing.assert_array_equal(stack.units[1, 2], [32, 33, 34, 35])


def test_maps_are_saved_whole(tmp_path):
  ours = som.Map(
    jnp.asarray(draw(6, 2).reshape(2, 3, 2)),
    history=jnp.arange(3.0),
    topology='hexagonal',
    periodic=True,
    distance='l1',
    neighborhood='bubble',
  )
  for name in (tmp_path / 'map.npz', str(tmp_path / 'other.npz')):
    som.save(name, ours)
    again = som.load(name)
    assert jax.tree.structure(again) == jax.tree.structure(ours)
    assert type(again.periodic) is bool and type(again.distance) is str
    np.testing.assert_array_equal(again.codebook, ours.codebook)
    np.testing.assert_array_equal(again.history, ours.history)
  # Options are part of the program, arrays are its arguments.
  assert len(jax.tree.leaves(ours)) == 2


def test_maps_from_and_to_minisom():
  weights = draw(24, 4).reshape(3, 8, 4)
  ours = som.from_minisom(weights, topology='hexagonal', distance='l1')
  assert ours.grid == (8, 3)
  assert ours.topology == 'hexagonal' and ours.distance == 'l1'
  np.testing.assert_allclose(ours.codebook[5, 2], weights[2, 5], rtol=1e-6)
  np.testing.assert_allclose(som.to_minisom(ours), weights, rtol=1e-6)
  with pytest.raises(ValueError, match=r'weights must be \[x, y, d\], got'):
    som.from_minisom(weights[0])
  with pytest.raises(ValueError, match='distance must be one of'):
    som.from_minisom(weights, distance='manhattan')
  with pytest.raises(ValueError, match='MiniSom has no periodic grid'):
    som.to_minisom(make(np.zeros((2, 2, 1)), periodic=True))


def test_codes_and_labels_of_any_kind_are_cast_or_refused():
  ours = make(np.arange(6).reshape(1, 3, 2))
  whole = np.array([[0, 1], [4, 5]])
  best = som.best_matching_units
  for xs in (whole, whole.astype(np.uint8), whole.astype(np.float16)):
    np.testing.assert_array_equal(best(ours, xs), [[0, 0], [0, 2]])
  np.testing.assert_array_equal(best(ours, whole > 0), [[0, 0], [0, 0]])
  counts = lambda labels, num: som.label_counts(ours, whole, labels, num)
  np.testing.assert_array_equal(counts([0, 0], np.int64(1)), [[[1], [0], [1]]])
  for call, message in (
    (lambda: best(ours, np.zeros((2, 3))), r'codes must be \[n, 2\], as the m'),
    (lambda: som.quantization_error(ours, np.zeros(2)), r'codes must be \[n'),
    (lambda: som.step(ours, np.zeros(3), 1.0, 1.0), r'codes must be \[n, 2\]'),
    (lambda: som.distances(ours, whole * 1j), 'codes must be real numbers'),
    (lambda: som.hits(make(np.zeros((2, 2))), whole), r'codebook must be \[ro'),
    (lambda: best(make(np.zeros((1, 2, 2)), topology='round'), whole), 'topol'),
    (lambda: best(make(np.zeros((1, 2, 2)), distance='l3'), whole), 'distance'),
    (
      lambda: best(make(np.zeros((1, 2, 2)), neighborhood='cone'), whole),
      'neighborhood must be one of',
    ),
    (lambda: som.u_matrix(make(np.zeros((2, 2)))), r'codebook must be \[rows'),
    (lambda: counts(np.zeros(2), 3), 'labels must be integers, got dtype'),
    (
      lambda: counts(np.zeros(3, int), 3),
      r'labels must be \[2\], one for each',
    ),
    (lambda: counts(np.zeros((2, 1), int), 3), r'labels must be \[2\]'),
    (lambda: counts(np.zeros(2, int), 0), 'num_classes must be a positive'),
    (lambda: counts(np.zeros(2, int), 1.5), 'num_classes must be a positive'),
  ):
    with pytest.raises(ValueError, match=message):
      call()
