"""Grids of maps, and influence on them, by their definitions."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import som_oracles as plain

from dmm_jax import som
from dmm_jax.som import grids
from dmm_jax.som import neighborhoods

PLACES = list(itertools.product(som.TOPOLOGIES, (False, True)))
SHAPES = [(4, 7), (2, 5), (6, 3), (1, 1), (2, 2), (1, 4), (3, 1)]


def fits(grid, topology, periodic):
  return topology == 'rectangular' or not periodic or grid[0] % 2 == 0


@pytest.mark.parametrize('topology, periodic', PLACES)
def test_places_distances_and_neighbours_of_units(topology, periodic):
  for grid in SHAPES + [(5, 4), (3, 6)] * (not periodic):
    if not fits(grid, topology, periodic):
      continue
    num = grid[0] * grid[1]
    where = som.coordinates(grid, topology)
    np.testing.assert_allclose(
      where.reshape(-1, 2), plain.places(grid, topology), atol=1e-12
    )
    height = np.sqrt(0.75) if topology == 'hexagonal' else 1
    np.testing.assert_allclose(
      som.spans(grid, topology), [grid[0] * height, grid[1]]
    )
    away = plain.offsets(grid, topology, periodic)
    square = np.sum(away**2, axis=-1)
    np.testing.assert_allclose(
      grids.all_squared_distances(grid, topology, periodic), square, atol=1e-4
    )
    near = plain.adjacent(grid, topology, periodic)
    units = np.indices(grid).reshape(2, -1).T
    pairs = (units[:, None], units[None], grid, topology, periodic)
    np.testing.assert_array_equal(
      grids.adjacent(*pairs), near | np.eye(num, dtype=bool)
    )
    table = grids.neighbors(grid, topology, periodic)
    assert table.shape == (num, 8 if topology == 'rectangular' else 6)
    for row, own in zip(table, near, strict=True):
      want = np.flatnonzero(own)
      np.testing.assert_array_equal(row[: len(want)], want)
      assert np.all(row[len(want) :] == -1)


def test_distances_along_one_axis():
  np.testing.assert_array_equal(
    grids.axis_offsets(4, False),
    [[0, 1, 2, 3], [1, 0, 1, 2], [2, 1, 0, 1], [3, 2, 1, 0]],
  )
  np.testing.assert_array_equal(grids.axis_offsets(5, True)[1], [1, 0, 1, 2, 2])


def test_influence_of_units_on_each_other():
  # Of all pairs, of one unit on all, and in sums, in one program.
  grid = 4, 7
  cases = [(*v, n) for v in PLACES for n in som.NEIGHBORHOODS]
  values = np.random.default_rng(0).normal(size=(*grid, 3))

  @jax.jit
  def all_cases(sigma, unit):
    return [
      (
        neighborhoods.all_pairs(sigma, grid, *case),
        neighborhoods.around(unit, sigma, grid, *case),
        neighborhoods.smooth(jnp.asarray(values), sigma, *case),
      )
      for case in cases
    ]

  with jax.enable_x64(True):
    for sigma, unit in ((1.7, (1, 5)), (2.2, (3, 0))):
      found = all_cases(jnp.asarray(sigma), jnp.asarray(unit))
      for case, (pairs, around, sums) in zip(cases, found, strict=True):
        h = plain.influence(grid, sigma, *case)
        close = lambda a, b, c=case: np.testing.assert_allclose(
          a, b, atol=1e-12, err_msg=str(c)
        )
        close(pairs, h)
        close(around, h[unit[0] * 7 + unit[1]].reshape(grid))
        close(sums.reshape(28, 3), h @ values.reshape(28, 3))


def test_influence_by_hand():
  square, width = jnp.array([0.0, 1, 3.99, 4, 16]), jnp.asarray(2.0)
  weigh = lambda name: neighborhoods.weigh(square, width, name)
  r = np.array(square) / 4
  np.testing.assert_allclose(weigh('gaussian'), np.exp(-r / 2), rtol=1e-6)
  hat = (1 - r) * np.exp(-r / 2)
  np.testing.assert_allclose(weigh('mexican_hat'), hat, atol=1e-6)
  # Beyond the width is nothing, at it neither; triangles have height 1.
  np.testing.assert_array_equal(weigh('bubble'), [1, 1, 1, 0, 0])
  lower = np.maximum(1 - np.sqrt(r), 0)
  np.testing.assert_allclose(weigh('triangle'), lower, atol=1e-6)


def test_grids_that_do_not_exist_are_refused():
  assert grids.check_shape([np.int64(2), 3]) == (2, 3)
  assert grids.check_shape((1, 1)) == (1, 1)
  for grid in ((0, 2), (2, 0), (3.0, 2), (-3, 2), (3,), 4, (1, 2, 3)):
    with pytest.raises(ValueError, match='grid must be two positive integers'):
      grids.check_shape(grid)
  with pytest.raises(ValueError, match='topology must be one of'):
    grids.check((2, 2), 'round', False)
  with pytest.raises(ValueError, match='even number of rows'):
    grids.check((3, 4), 'hexagonal', True)
  for case in ((3, 4), 'hexagonal', False), ((3, 4), 'rectangular', True):
    grids.check(*case)
  grids.check((4, 3), 'hexagonal', True)
  with pytest.raises(ValueError, match='neighborhood must be one of'):
    neighborhoods.check('cone')
