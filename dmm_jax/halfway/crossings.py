"""Where a network changes its mind between two inputs of different classes."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

_FINER = 8  # Cells that each of the two refinements makes of one.


class Crossings(NamedTuple):
  """Zeros of the difference of two classes' logits along a segment.

  Attributes:
    fraction: of the way where the difference first changes its sign; NaN if it
      does not.
    count: changes of sign that the cells show; two within one cell show none.
    parted: whether each end is on its own side.
    ends: the difference at the start and at the end `[2]`.
  """

  fraction: jax.Array
  count: jax.Array  # type: ignore[assignment]
  parted: jax.Array
  ends: jax.Array


def crossings(
  logits_fn: Callable,
  start: jax.Array,
  end: jax.Array,
  first: jax.Array,
  second: jax.Array,
  *,
  num_cells: int = 32,
) -> Crossings:
  """Returns where the boundary between two classes crosses a segment.

  It is where the difference `logits[first] - logits[second]` is 0. Its signs on
  a grid count the crossings and bracket the first one; two finer grids and a
  secant refine it, without a loop, in which convolutions are slow on CPUs. For
  a linear network the fraction is that of the margins, `start / (start + end)`:
  one half where both ends have equal ones, as opposite support vectors have.

  Args:
    logits_fn: one input -> logits `[k]`.
    start, end: inputs.
    first, second: their classes.
    num_cells: of the first grid.

  Returns:
    `Crossings`; the fraction is exact to 1 / (64 num_cells) at worst, and to
    rounding where the difference is linear on the last cell.
  """

  def difference(t):
    logits = logits_fn(start + t.astype(start.dtype) * (end - start))
    return logits[first] - logits[second]

  grid = jnp.linspace(0.0, 1.0, num_cells + 1)
  values = jax.vmap(difference)(grid)
  above = values > 0
  changes = above[1:] != above[:-1]
  found = jnp.any(changes) & jnp.all(jnp.isfinite(values))
  low, width = grid[jnp.argmax(changes)], 1.0 / num_cells
  for _ in range(2):
    width = width / _FINER
    cells = low + width * jnp.arange(_FINER + 1)
    finer = jax.vmap(difference)(cells)
    change = (finer[1:] > 0) != (finer[:-1] > 0)
    cell = jnp.argmax(change)
    low, bracket = cells[cell], (finer[cell], finer[cell + 1])
  drop = bracket[0] - bracket[1]
  secant = jnp.clip(bracket[0] / jnp.where(drop == 0, 1.0, drop), 0.0, 1.0)
  return Crossings(
    fraction=jnp.where(found, low + width * secant, jnp.nan),
    count=jnp.sum(changes),
    parted=above[0] & ~above[-1],
    ends=values[jnp.array([0, -1])],
  )


def concordance(fractions: np.ndarray) -> np.ndarray:
  """Returns how crossings on the same segments agree between networks.

  Args:
    fractions: of m networks on n segments `[m, n]`; NaN where there is none.

  Returns:
    Pearson's correlations `[m, m]` over the segments that both networks cross;
    NaN for fewer than three of these, or no spread.
  """
  rows = np.asarray(fractions, float)
  there = np.isfinite(rows)
  known = there.astype(float)
  # About one half, so that the sums below lose no digits.
  rows = np.where(there, rows - 0.5, 0.0)
  count = known @ known.T
  with np.errstate(invalid='ignore', divide='ignore'):
    mean = rows @ known.T / count
    spread = rows**2 @ known.T / count - mean**2
    joint = rows @ rows.T / count - mean * mean.T
    size = np.sqrt(np.maximum(spread * spread.T, 0.0))
    result = joint / np.where(size > 1e-12, size, np.nan)
  return np.where(count < 3, np.nan, np.clip(result, -1.0, 1.0))
