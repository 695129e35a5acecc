"""Units that may be nearest to a code, given the rounding errors of scores.

A score is half a squared distance from a matrix product, less what all units
have in common. Units whose lower bound is above another's upper bound cannot be
nearest. Comparisons with NaN or infinity, from overflow, prove nothing.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from dmm_jax.som import lengths

# Candidates of an uncertain code that are compared before all units are.
_FEW = 4


class Scores(NamedTuple):
  """Scores of units for codes, and their bounds.

  Attributes:
    product: of codes and units, `[k, m]`.
    low, high: bounds on what a score has of the unit alone, `[k]`.
    rounding, length: the product is off by at most a unit's `[k]` times a
      code's `[m]`.
  """

  product: jax.Array
  low: jax.Array
  high: jax.Array
  rounding: jax.Array
  length: jax.Array

  def take(self, rows: jax.Array) -> 'Scores':
    """Return the scores for some of the codes."""
    return self._replace(
      product=self.product[:, rows], length=self.length[rows]
    )

  def bounds(self) -> tuple[jax.Array, jax.Array]:
    """Return lower and upper bounds of scores, each `[k, m]`."""
    error = self.rounding[:, None] * self.length[None]
    low = self.product + self.low[:, None] - error
    return low, self.product + self.high[:, None] + error


def score(codes: jax.Array, units: jax.Array) -> Scores:
  """Return scores of units `[k, d]` for codes `[m, d]`, both less a centre.

  With u = eps / 2, a product of d terms is off by at most d u |x| |w|, whatever
  the order of summation; rounding of centring and of sums adds less than
  5 u |x| |w|. Half of |w|^2 is off by less than (d / 2 + 4) u |w|^2.
  """
  product = -jnp.matmul(units, codes.T, precision=jax.lax.Precision.HIGHEST)
  d = codes.shape[1]
  limits = jnp.finfo(codes.dtype)
  # With terms of second order in u, and what underflows.
  relative = (d + 8) * limits.eps / 2 * (1 + 2 * d * limits.eps)
  tiny = (d + 8) * limits.tiny
  of_code, of_unit = lengths.length(codes), lengths.length(units)
  half = jnp.sum(units**2, axis=-1) / 2
  error = relative * 2 * half + 2 * tiny
  rounding, length = relative * of_unit + tiny**0.5, of_code + 4 * tiny**0.5
  return Scores(product, half - error, half + error, rounding, length)


def only(
  scores: Scores, excluded: jax.Array | None = None
) -> tuple[jax.Array, jax.Array]:
  """Return the one unit that can be nearest, where there is only one.

  Args:
    scores: of k units for m codes.
    excluded: None, or a unit of each code that is left out, `[m]`.

  Returns:
    Indices `[m]`, and whether no other unit can be nearer, `[m]`.
  """
  size = len(scores.product)
  low, high = scores.bounds()
  if excluded is not None:
    low, high = without(excluded, low), without(excluded, high)
  limit = jax.lax.optimization_barrier(high.min(axis=0))
  # One sum gives the candidate and whether it is the only one; in floats, which
  # do not wrap around and are exact up to 2^23 units.
  numbers = jnp.arange(size, 2 * size, dtype=jnp.float32)[:, None]
  total = jnp.sum(jnp.where(low > limit[None], 0, numbers), axis=0)
  is_certain = (total >= size) & (total < 2 * size)
  return jnp.where(is_certain, total - size, 0).astype(jnp.int32), is_certain


def few(scores: Scores, num: int) -> tuple[jax.Array, jax.Array]:
  """Return the first few units that can be among the `num` nearest.

  Returns:
    Indices `[few, m]`, rising, k where there are no more; and whether these are
    all, `[m]`.
  """
  size = len(scores.product)
  low, high = scores.bounds()
  for _ in range(num - 1):
    high = without(smallest(high)[0], high)
  is_candidate = ~(low > high.min(axis=0)[None])
  rows = jnp.arange(size, dtype=jnp.int32)[:, None]
  count = is_candidate.sum(axis=0)
  found: list[jax.Array] = []
  for _ in range(_FEW):
    found.append(jnp.where(is_candidate, rows, size).min(axis=0))
    is_candidate &= rows != found[-1][None]
  return jnp.stack(found), (count >= num) & (count <= _FEW)


def replace(
  search: Callable, found: jax.Array, is_certain: jax.Array, num_rows: int
) -> tuple[jax.Array, jax.Array]:
  """Replace uncertain indices `[num, m]`, a few codes at a time.

  Args:
    search: rows -> indices `[num, rows]`, and whether these are certain.
    found, is_certain: indices `[num, m]`, and booleans `[m]`.
    num_rows: number of codes to search at once.

  Returns:
    `found` and `is_certain` after the search.
  """
  m = len(is_certain)
  num_rows = min(num_rows, m)
  order = jnp.arange(m, dtype=jnp.int32)

  def step(state):
    found, is_certain, is_pending = state
    # The first uncertain code of each residue class modulo `num_rows`; m, which
    # reads the last row and writes none, where there is none.
    rows = jnp.where(is_pending, order, m)
    rows = jnp.pad(rows, (0, -m % num_rows), constant_values=m)
    rows = rows.reshape(-1, num_rows).min(axis=0)
    index, is_found = search(rows)
    return (
      found.at[:, rows].set(index),
      is_certain.at[rows].set(is_found),
      is_pending.at[rows].set(False),
    )

  should_continue = lambda state: jnp.any(state[2])
  state = found, is_certain, ~is_certain
  return jax.lax.while_loop(should_continue, step, state)[:2]


def smallest(values: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Return where each column `[k, m]` is least, the first, and its value.

  Two plain reductions, which CPUs vectorise, in place of `argmin`, which they
  do not.
  """
  index = jnp.arange(len(values), dtype=jnp.int32)[:, None]
  least = jax.lax.optimization_barrier(values.min(axis=0))
  first = jnp.where(values == least[None], index, len(values)).min(axis=0)
  return jnp.minimum(first, len(values) - 1), least


def without(index: jax.Array, values: jax.Array) -> jax.Array:
  """Return `values` `[k, m]` with one entry of each column infinite."""
  rows = jnp.arange(len(values), dtype=jnp.int32)[:, None]
  return jnp.where(rows == index[None], jnp.inf, values)
