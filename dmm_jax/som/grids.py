"""Where the units of a map lie, how far apart, and which are neighbours.

Units have unit spacing. On a hexagonal grid rows are sqrt(3)/2 apart, and every
second one, from the last row on, lies half a unit to the left (as in MiniSom).
A periodic grid is a torus: distances are those of the nearest copies.
"""

import itertools
import operator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

TOPOLOGIES = ('rectangular', 'hexagonal')
ROW_HEIGHT = np.sqrt(0.75)  # Of the hexagonal grid.


def check(grid: tuple[int, int], topology: str, periodic: bool) -> None:
  """Raise ValueError for a grid that does not exist."""
  rows, _ = check_shape(grid)
  if topology not in TOPOLOGIES:
    raise ValueError(f'topology must be one of {TOPOLOGIES}, got {topology!r}')
  if topology == 'hexagonal' and periodic and rows % 2:
    raise ValueError(
      'grid must have an even number of rows where it is hexagonal and '
      f'periodic, got {grid}'
    )


def check_shape(grid: Any) -> tuple[int, int]:
  """Return a grid's numbers of rows and columns as integers.

  Raises:
    ValueError: where they are not two positive integers.
  """
  try:
    rows, cols = map(operator.index, grid)
  except (TypeError, ValueError):
    rows = cols = 0
  if rows < 1 or cols < 1:
    raise ValueError(
      f'grid must be two positive integers (rows, cols), got {grid!r}'
    )
  return rows, cols


def coordinates(grid: tuple[int, int], topology: str) -> np.ndarray:
  """Return positions of units, `[rows, cols, 2]`: vertical, horizontal."""
  down, right = np.meshgrid(*map(np.arange, grid), indexing='ij')
  if topology == 'hexagonal':
    shifted = (grid[0] - 1 - down) % 2 == 0
    down, right = down * ROW_HEIGHT, right - 0.5 * shifted
  return np.stack([down, right], axis=-1).astype(float)


def spans(grid: tuple[int, int], topology: str) -> np.ndarray:
  """Return the height and the width of a torus, `[2]`."""
  height = ROW_HEIGHT if topology == 'hexagonal' else 1.0
  return np.array([grid[0] * height, float(grid[1])])


def axis_offsets(num: int, periodic: bool) -> np.ndarray:
  """Return distances along one axis of a rectangular grid, `[num, num]`."""
  offset = np.abs(np.subtract.outer(np.arange(num), np.arange(num)))
  return np.minimum(offset, num - offset) if periodic else offset


def squared_distances(
  start: jax.Array | np.ndarray,
  end: jax.Array | np.ndarray,
  grid: tuple[int, int],
  topology: str,
  periodic: bool,
) -> jax.Array:
  """Return squared distances between units on the grid.

  Args:
    start, end: rows and columns of units, integers `[..., 2]`; they broadcast.
    grid, topology, periodic: options of the map.

  Returns:
    `[...]`, in squares of the grid's spacing.
  """
  where = jnp.asarray(coordinates(grid, topology), jnp.result_type(float))
  offset = where[start[..., 0], start[..., 1]] - where[end[..., 0], end[..., 1]]
  if not periodic:
    return jnp.sum(offset**2, axis=-1)
  # The nearest copy. On a hexagonal torus too, since after an even number of
  # rows the shift of rows repeats.
  around = jnp.broadcast_to(spans(grid, topology), offset.shape)
  offset = jnp.abs(offset) % around
  rest = around - offset
  return jnp.sum(jnp.minimum(offset, rest) ** 2, axis=-1)


def all_squared_distances(
  grid: tuple[int, int], topology: str, periodic: bool
) -> jax.Array:
  """Return squared distances of all pairs of units, `[units, units]`."""
  units = np.indices(grid).reshape(2, -1).T
  return squared_distances(
    units[:, None], units[None, :], grid, topology, periodic
  )


def adjacent(
  start: jax.Array | np.ndarray,
  end: jax.Array | np.ndarray,
  grid: tuple[int, int],
  topology: str,
  periodic: bool,
) -> jax.Array:
  """Return whether units are neighbours, or the same: booleans `[...]`.

  A unit has 8 neighbours on a rectangular grid and 6 on a hexagonal one.
  Arguments as for `squared_distances`.
  """
  square = squared_distances(start, end, grid, topology, periodic)
  return square < (1.01 if topology == 'hexagonal' else 2.01)


def neighbors(
  grid: tuple[int, int], topology: str, periodic: bool
) -> np.ndarray:
  """Return the flat indices of each unit's neighbours, `[units, 8 or 6]`.

  -1 where a unit has fewer, at an edge or on a small torus.
  """
  rows, cols = grid
  if topology == 'rectangular':
    steps: list[tuple] = [
      s for s in itertools.product((-1, 0, 1), repeat=2) if any(s)
    ]
    by_shift = [steps, steps]
  else:
    sides: list[tuple] = [(0, -1), (0, 1)]
    # Neighbours in a row that lies to the right of the rows above and below,
    # and in a row that lies to the left of them.
    right = sides + [(i, j) for i in (-1, 1) for j in (0, 1)]
    left = sides + [(i, j) for i in (-1, 1) for j in (-1, 0)]
    by_shift = [right, left]
  out = np.full((rows * cols, len(by_shift[0])), -1)
  for r, c in itertools.product(range(rows), range(cols)):
    shifted = (rows - 1 - r) % 2 == 0
    found = set()
    for i, j in by_shift[shifted]:
      at = ((r + i) % rows, (c + j) % cols) if periodic else (r + i, c + j)
      if 0 <= at[0] < rows and 0 <= at[1] < cols and at != (r, c):
        found.add(at[0] * cols + at[1])
    out[r * cols + c, : len(found)] = sorted(found)
  return out
