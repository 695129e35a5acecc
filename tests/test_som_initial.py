"""Initial codebooks, and layers padded to one width, against plain numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import som_oracles as plain

from dmm_jax import som

KEY = jax.random.key(0)


def draw(n=60, d=5, seed=0):
  return np.random.default_rng(seed).normal(size=(n, d))


@pytest.fixture
def double():
  with jax.enable_x64(True):
    yield


@pytest.mark.parametrize('distance', ['euclidean', 'cosine'])
def test_initial_codebooks_of_codes_and_directions(distance):
  xs = draw(30, 4).astype(np.float32) * np.float32([4, 2, 1, 1]) + 7
  xs[3], xs[8, 1] = 0, np.inf
  good = xs[plain.is_usable(xs, distance)]
  init = jax.jit(
    lambda key, xs, name: (
      som.init(key, xs, grid=(4, 6), init=name, distance=distance).units
    ),
    static_argnums=2,
  )
  rows = {tuple(row) for row in good}
  sample = np.asarray(init(KEY, xs, 'sample'))
  assert {tuple(row) for row in sample} <= rows
  assert len({tuple(row) for row in sample}) == 24
  other = init(jax.random.key(1), xs, 'sample')
  assert {tuple(row) for row in np.asarray(other)} != set(map(tuple, sample))
  # Of few codes each comes at most once more than any other.
  some = np.where(np.arange(30)[:, None] < 12, xs, np.nan)
  few, counts = np.unique(init(KEY, some, 'sample'), axis=0, return_counts=True)
  num = np.sum(plain.is_usable(xs[:12], distance))
  assert len(few) == num and set(counts) <= {24 // num, -(-24 // num)}
  assert {tuple(row) for row in few} <= rows
  # Directions are of length 1, and of no half of space.
  random = np.asarray(init(KEY, xs, 'random'))
  np.testing.assert_allclose(np.linalg.norm(random, axis=1), 1, rtol=1e-5)
  assert np.linalg.norm(random.mean(0)) < 0.4
  assert np.any(random != init(jax.random.key(1), xs, 'random'))
  alone = np.where(np.arange(30)[:, None] == 5, xs, np.nan)
  for name in som.INITS:
    assert np.all(np.isnan(init(KEY, np.nan * xs, name)))
    if name != 'random':
      found = np.asarray(init(KEY, alone, name))
      np.testing.assert_allclose(found, np.tile(xs[5], (24, 1)), atol=1e-5)


def sheet(xs, grid):
  """A sheet along the principal directions, by a decomposition of numpy."""
  values, vectors = np.linalg.eigh(
    np.cov(xs.T, bias=True).reshape(2 * xs.shape[1:])
  )
  axes = (np.sqrt(np.maximum(values, 0)) * vectors).T[::-1][:2]
  axes = np.array([a * np.sign(a[np.abs(a).argmax()]) for a in axes])
  axes = np.concatenate([axes, np.zeros((2, xs.shape[1]))])[:2]
  sides = [np.linspace(-1, 1, n) if n > 1 else np.zeros(1) for n in grid]
  first, second = axes if grid[0] >= grid[1] else axes[::-1]
  return (
    xs.mean(0)
    + sides[0][:, None, None] * first
    + sides[1][None, :, None] * second
  )


def test_initial_sheets_are_of_principal_directions(double):
  xs = draw(30, 4) * [0.1, 0.4, 0.05, 0.2] + 7
  xs[3, 0] = np.nan
  good = np.delete(xs, 3, axis=0)
  for grid, d in (
    ((4, 6), 4),
    ((6, 4), 4),
    ((3, 3), 4),
    ((1, 5), 4),
    ((2, 3), 1),
  ):
    ours = som.init(KEY, xs[:, :d], grid=grid, init='pca')
    np.testing.assert_allclose(
      ours.codebook, sheet(good[:, :d], grid), atol=1e-9
    )


def test_a_given_codebook_and_the_names_of_a_map():
  xs, begin = draw(9, 3), draw(8, 3, 1).reshape(4, 2, 3)
  names = dict(
    topology='hexagonal',
    periodic=True,
    distance='linf',
    neighborhood='bubble',
  )
  ours = som.init(KEY, xs, grid=[4, 2], init=begin, **names)
  np.testing.assert_allclose(ours.codebook, begin, rtol=1e-6)
  assert {k: getattr(ours, k) for k in names} == names
  assert ours.history.shape == (0,)
  assert som.init(KEY, xs).grid == (20, 20)
  begun = {tuple(v) for v in np.asarray(som.init(KEY, xs).units)}
  assert begun == {tuple(v) for v in xs.astype(np.float32)}
  half = som.init(KEY, xs.astype(np.float16), grid=(1, 2))
  assert half.codebook.dtype == jnp.float32
  for wrong, options, message in (
    (xs, dict(distance='l3'), 'distance must be one of'),
    (xs, dict(init=begin, grid=(4, 2), topology='round'), 'topology must be'),
    (xs, dict(grid=(0, 2)), 'grid must be two positive integers'),
    (xs[:0], {}, 'codes must be a non-empty'),
    (xs * 1j, {}, 'codes must be real numbers'),
  ):
    with pytest.raises(ValueError, match=message):
      som.init(KEY, wrong, **options)


def test_layers_are_padded_with_zeros():
  layers = [draw(4, 2), draw(4, 5, 1), draw(4, 3, 2)]
  stack = som.pad(layers)
  assert stack.shape == (3, 4, 5)
  for row, layer in zip(stack, layers, strict=True):
    np.testing.assert_array_equal(row[:, : layer.shape[1]], layer)
    assert not np.any(row[:, layer.shape[1] :])
  for wrong in ([], [draw(2, 1), draw(3, 1)], [draw(2, 1), draw(2, 1)[0]]):
    with pytest.raises(ValueError, match=r'layers must be \[n, d_i\] arrays'):
      som.pad(wrong)
