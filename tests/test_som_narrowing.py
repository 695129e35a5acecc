"""The search that a coarser map narrows: the units of a search among all."""

import functools
import itertools

import jax
from jax import extend
import jax.numpy as jnp
import numpy as np
import pytest
import som_oracles as plain

from dmm_jax import som
from dmm_jax.som import narrowing
from dmm_jax.som import searching

KEY = jax.random.key(0)
GRID = 8, 9


def blobs(n=200, d=30, seed=0, spread=0.2):
  rng = np.random.default_rng(seed)
  centres = rng.normal(size=(6, d))
  found = centres[np.arange(n) % 6] + spread * rng.normal(size=(n, d))
  return found.astype(np.float32)


def smooth_units(xs, sigma=1.5, seed=0):
  """Units of a map after a step, so that neighbours are alike."""
  begin = np.random.default_rng(seed).permutation(xs)[:72].reshape(*GRID, -1)
  names = dict(topology='rectangular', periodic=False, neighborhood='gaussian')
  return plain.batch_step(begin, xs, sigma, 'euclidean', **names)[0].reshape(
    72, -1
  )


@functools.partial(jax.jit, static_argnames=('num', 'distance'))
def narrowed(xs, usable, units, num=3, distance='euclidean'):
  """Which units are possible, and which is nearest."""
  prepared = searching.prepare(units, distance)
  coarse = narrowing.prepare(prepared, GRID, num)
  x = searching.directions(xs, distance)
  view = narrowing.view(x - prepared.centre[None], coarse.basis)
  index = narrowing.nearest(x, usable, view, prepared, coarse, distance)
  return narrowing.possible(view, usable, coarse), index, view, coarse


HARD = {
  'blobs': blobs(),
  'tiny': blobs() * np.float32(1e-25),
  'huge': blobs() * np.float32(1e25),
  'offset': blobs() + np.float32(1e3),
  'two scales': blobs() * np.where(np.arange(200) < 99, 1e-4, 1e4)[:, None],
  'outlier': np.concatenate([blobs(), np.full((1, 30), 1e20)]),
  'ties': np.repeat(blobs(20), 10, axis=0),
  'a line': blobs()[:, :1] * np.ones(30),
  'equal': np.ones((200, 30)),
}


@pytest.mark.parametrize('distance', ['euclidean', 'cosine', 'correlation'])
@pytest.mark.parametrize('name', HARD)
def test_no_code_gets_another_unit_than_among_all(name, distance):
  xs = HARD[name].astype(np.float32)
  for units in (smooth_units(xs.astype(float)), xs[:72]):
    units = units.astype(np.float32)
    usable = plain.is_usable(xs, distance)
    is_possible, index, *_ = narrowed(xs, usable, units, distance=distance)
    away = plain.all_distances(xs, units, distance)
    least = away.min(axis=1)
    rounding = 1e-5 * least + np.finfo(np.float32).tiny
    if distance != 'euclidean':
      # Directions are rounded, and squared.
      rounding = 1e-5 * (np.sqrt(least) + 1e-5)
    found = np.take_along_axis(away, np.asarray(index)[:, None], 1)[:, 0]
    known = usable & np.isfinite(least)
    assert np.all((found <= least + rounding)[known])
    # What is excluded is farther, even by exact arithmetic.
    beyond = np.where(np.asarray(is_possible)[None], np.inf, away)
    assert np.all((beyond.min(axis=1) >= least)[known])


def test_few_units_are_possible_where_a_map_is_smooth_or_codes_are_of_blobs():
  xs = blobs()
  usable = np.ones(200, bool)
  units = smooth_units(xs).astype(np.float32)
  of_one = np.arange(200) % 6 == 2
  for num, most in ((3, 0.3), (2, 0.7)):
    is_possible, *_ = narrowed(xs, of_one, units, num)
    assert 0 < is_possible.mean() < most
  # Of unusable codes nothing is.
  assert not np.any(narrowed(xs, ~usable, units)[0])
  everything = narrowed(xs, usable, units)[0]
  union = [narrowed(xs, np.arange(200) % 6 == i, units)[0] for i in range(6)]
  np.testing.assert_array_equal(everything, np.any(union, axis=0))
  # Wide maps are nearly those of their patches.
  flat = smooth_units(xs, 20.0).astype(np.float32)
  assert narrowed(xs, of_one, flat)[0].mean() < 0.2


def test_overflow_excludes_nothing():
  xs = blobs()
  units = smooth_units(xs).astype(np.float32)
  xs[0] = 1e30
  one = np.arange(200) == 0
  assert np.all(narrowed(xs, one, units)[0])
  xs[0], units[3] = 1, 3e38
  assert narrowed(xs, one, units)[0][3]
  assert np.all(narrowed(xs, one, np.full_like(units, np.nan))[0])


@pytest.mark.parametrize('num_possible', [1, 4, 5, 6, 18, 19, 72])
def test_parts_hold_all_possible_units(num_possible, monkeypatch):
  # Of 72 units a part holds 5 or 18; those that are not possible fill it up.
  rng = np.random.default_rng(num_possible)
  xs, units = rng.normal(size=(2, 72, 30)).astype(np.float32)
  chosen = np.zeros(72, bool)
  chosen[rng.permutation(72)[:num_possible]] = True
  monkeypatch.setattr(narrowing, 'possible', lambda *_: jnp.asarray(chosen))
  sizes = []
  search = searching.nearest

  def spy(codes, usable, part, distance):
    sizes.append(len(part.codes))
    return search(codes, usable, part, distance)

  monkeypatch.setattr(searching, 'nearest', spy)
  xs, usable = jnp.asarray(xs), jnp.ones(72, bool)
  prepared = searching.prepare(jnp.asarray(units), 'euclidean')
  coarse = narrowing.prepare(prepared, GRID, 3)
  view = narrowing.view(xs - prepared.centre[None], coarse.basis)
  found = narrowing.nearest(xs, usable, view, prepared, coarse, 'euclidean')
  assert set(sizes) == {5, 18, 72}
  away = plain.all_distances(xs, units)
  among = np.where(chosen[None], away, np.inf).argmin(axis=1)
  # Nothing but the filling is nearer than the nearest of those.
  got = np.asarray(found)
  at = np.arange(72)
  assert np.all(away[at, got] <= away[at, among])
  if num_possible in (5, 18, 72):
    np.testing.assert_array_equal(got, among)


def test_the_first_of_equal_units_is_found():
  xs = blobs(40)
  units = np.tile(xs[:9], (8, 1)).astype(np.float32)
  index = narrowed(xs[:9], np.ones(9, bool), units)[1]
  np.testing.assert_array_equal(index, np.arange(9))


# --- What a coarser map sees -----------------------------------------------


@pytest.mark.parametrize('num', [1, 2, 3])
def test_patches_are_even_and_their_means_are_spanned(num):
  xs = blobs()
  units = smooth_units(xs).astype(np.float32)
  _, _, view, coarse = narrowed(xs, np.ones(200, bool), units, num)
  centre = np.asarray(searching.prepare(jnp.asarray(units), 'euclidean').centre)
  x, w = xs.astype(float) - centre, units.astype(float) - centre
  basis = np.asarray(coarse.basis, float)
  assert basis.shape == (num**2, 30)
  np.testing.assert_allclose(basis @ basis.T, np.eye(num**2), atol=1e-5)
  parts = [np.array_split(np.arange(n), num) for n in GRID]
  if num == 2:  # 9 columns: 5 and 4, as they are counted.
    parts[1] = [np.arange(5), np.arange(5, 9)]
  means = np.array(
    [
      w.reshape(*GRID, -1)[np.ix_(a, b)].mean((0, 1))
      for a, b in itertools.product(*parts)
    ]
  )
  np.testing.assert_allclose(means @ basis.T @ basis, means, atol=1e-4)
  np.testing.assert_allclose(coarse.patches, means @ basis.T, atol=1e-4)
  for of, seen, beyond in (
    (x, view.seen, view.beyond),
    (w, coarse.seen, coarse.beyond),
  ):
    np.testing.assert_allclose(seen, of @ basis.T, atol=1e-4)
    rest = np.linalg.norm(of - of @ basis.T @ basis, axis=1)
    np.testing.assert_allclose(beyond, rest, rtol=0.05, atol=0.05)
  np.testing.assert_allclose(view.length, np.linalg.norm(x, axis=1), rtol=1e-5)
  assert np.all(
    np.asarray(view.beyond, float)
    >= np.linalg.norm(x - x @ basis.T @ basis, axis=1)
  )
  # The docstring's bounds.
  relative = (3 * num + 4) * 38 * np.finfo(np.float32).eps / 2
  size = np.linalg.norm(w, axis=1)
  np.testing.assert_allclose(coarse.rounding, relative * size, rtol=1e-3)
  half = size**2 / 2
  np.testing.assert_allclose((coarse.low + coarse.high) / 2, half, rtol=1e-6)
  np.testing.assert_allclose(
    (coarse.high - coarse.low) / 2, relative * 2 * half, rtol=0.05
  )


def test_codes_are_ordered_by_the_nearest_patch():
  xs = blobs()
  units = smooth_units(xs).astype(np.float32)
  _, _, view, coarse = narrowed(xs, np.ones(200, bool), units)
  away = plain.all_distances(view.seen, np.asarray(coarse.patches))
  want = np.argsort(away.argmin(axis=1), kind='stable')
  order = jax.jit(narrowing.order)
  np.testing.assert_array_equal(order(view.seen, coarse), want)
  # One column of numbers, but for more codes than it can hold.
  for num, columns in ((2**31 // 9, 1), (2**31 // 9 + 1, 2)):
    seen = jax.ShapeDtypeStruct((num, 9), jnp.float32)
    (found,) = equations('sort', narrowing.order, seen, coarse)
    assert len(found.invars) == columns


def equations(name, function, *args):
  """The equations of a primitive in a function's program."""
  found, pending = [], [jax.make_jaxpr(function)(*args).jaxpr]
  while pending:
    for equation in pending.pop().eqns:
      found += [equation] if equation.primitive.name == name else []
      pending += extend.core.jaxprs_in_params(equation.params)
  return found


@pytest.mark.parametrize(
  'grid, d, distance, want',
  [
    # A coarser map of 25 patches is an eighth of 400 units by 512.
    ((20, 20), 512, 'euclidean', 5),
    ((50, 50), 512, 'cosine', 7),
    ((100, 100), 4096, 'correlation', 7),
    ((20, 20), 512, 'l1', 0),
    ((20, 20), 512, 'linf', 0),
    ((16, 16), 256, 'euclidean', 4),
    ((15, 17), 255, 'euclidean', 0),
    ((20, 20), 64, 'euclidean', 0),
    ((400, 1), 512, 'euclidean', 0),
    ((4, 100), 512, 'euclidean', 4),
  ],
)
def test_patches_are_few_beside_units_and_features(grid, d, distance, want):
  assert narrowing.num_patches(grid, d, distance) == want


def test_other_backends_search_among_all(monkeypatch):
  monkeypatch.setattr(jax, 'default_backend', lambda: 'gpu')
  assert narrowing.num_patches((50, 50), 512, 'euclidean') == 0


# --- Fits ------------------------------------------------------------------


@pytest.fixture
def always(monkeypatch):
  """Narrows the search on maps of 8 x 9 units."""
  number = lambda grid, d, distance: 3 if distance in TRIED else 0
  monkeypatch.setattr(narrowing, 'num_patches', number)
  jax.clear_caches()
  yield
  jax.clear_caches()


TRIED = ('euclidean', 'cosine', 'correlation')


@pytest.mark.parametrize(
  'distance, topology, divide',
  [
    ('euclidean', 'rectangular', True),
    ('cosine', 'hexagonal', False),
    ('correlation', 'rectangular', True),
  ],
)
def test_a_fit_is_that_of_numpy(always, distance, topology, divide):
  xs = blobs().astype(float)
  xs[3, 2], xs[5, 0], xs[7], xs[9] = np.nan, np.inf, 0, 2.5
  begin = blobs(72, seed=1).astype(float).reshape(*GRID, -1)
  with jax.enable_x64(True):
    got = som.fit(
      KEY,
      xs,
      grid=GRID,
      num_epochs=3,
      init=begin,
      sigma=(3, 0.8),
      distance=distance,
      topology=topology,
      divide=divide,
      search_bytes=8 * 72 * 48,
    )
  names = dict(topology=topology, periodic=False, neighborhood='gaussian')
  want, history = begin, []
  for sigma in plain.schedule('exponential', 3, 0.8, 3):
    want, away = plain.batch_step(want, xs, sigma, distance, **names)
    history.append(away)
  np.testing.assert_allclose(got.codebook, want, atol=1e-10)
  np.testing.assert_allclose(got.history, history, rtol=1e-10)


def test_stacks_of_maps_and_derivatives(always):
  keys = jax.random.split(KEY, 2)
  xs = np.stack([blobs(), blobs(seed=1)])
  fit = functools.partial(som.fit, grid=GRID, num_epochs=2, divide=False)
  many = jax.vmap(fit)(keys, xs)
  for i in range(2):
    one = fit(keys[i], xs[i])
    np.testing.assert_allclose(many.codebook[i], one.codebook, atol=1e-5)
    np.testing.assert_allclose(many.history[i], one.history, rtol=1e-5)
  # Each is narrowed by itself, and takes one branch of three.
  choices = equations('cond', jax.vmap(fit), keys, xs)
  assert 3 in [len(v.params['branches']) for v in choices]
  ours = som.Map(jnp.asarray(blobs(72, seed=1).reshape(*GRID, -1)))

  def first(x):
    return som.batch_step(ours, x, 1.5, divide=False).codebook[0, 0, 0]

  slope = jax.grad(first)(jnp.asarray(xs[0]))
  # Means of codes: a shift of all of them moves each unit as far.
  np.testing.assert_allclose(slope.sum(0), np.eye(30)[0], atol=1e-5)
