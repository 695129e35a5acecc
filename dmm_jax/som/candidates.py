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
    low, high: `product + low` and `product + high` are a score's bounds but for
      what depends on the code alone, `[k]`.
    margin: twice that, `[m]`.
  """

  product: jax.Array
  low: jax.Array
  high: jax.Array
  margin: jax.Array

  def take(self, rows: jax.Array) -> 'Scores':
    """Return the scores for some of the codes."""
    return self._replace(
      product=self.product[:, rows], margin=self.margin[rows]
    )


def score(codes: jax.Array, units: jax.Array) -> Scores:
  """Return scores of units `[k, d]` for codes `[m, d]`, both less a centre.

  With u = eps / 2, a product of d terms is off by at most d u |x| |w|, whatever
  the order of summation; rounding of centring and of sums adds less than
  5 u |x| |w|. Half of |w|^2 is off by less than (d / 2 + 4) u |w|^2. As
  2 |x| |w| <= t |x|^2 + |w|^2 / t, bounds are sums of a code's and a unit's
  part; with t the ratio of typical lengths they are not much wider.
  """
  product = -jnp.matmul(units, codes.T, precision=jax.lax.Precision.HIGHEST)
  d = codes.shape[1]
  limits = jnp.finfo(codes.dtype)
  # With terms of second order in u, and what underflows.
  relative = (d + 8) * limits.eps / 2 * (1 + 2 * d * limits.eps)
  tiny = (d + 8) * limits.tiny
  of_code, of_unit = lengths.length(codes), lengths.length(units)
  typical = [lengths.middle(v[:, None])[0] for v in (of_code, of_unit)]
  ratio = typical[1] / typical[0]
  ratio = jnp.where((ratio > 0) & jnp.isfinite(ratio), ratio, 1)
  half = jnp.sum(units**2, axis=-1) / 2
  error = relative * (2 * half + of_unit / ratio * of_unit / 2) + 2 * tiny
  margin = relative * (ratio * of_code * of_code) + 4 * tiny * (1 + of_code)
  return Scores(product, half - error, half + error, margin)


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
  low = scores.product + scores.low[:, None]
  high = scores.product + scores.high[:, None]
  if excluded is not None:
    low, high = without(excluded, low), without(excluded, high)
  limit = jax.lax.optimization_barrier(high.min(axis=0)) + scores.margin
  # One sum gives the candidate and whether it is the only one; in floats, which
  # do not wrap around and are exact up to 2^23 units.
  numbers = jnp.arange(size, 2 * size, dtype=jnp.float32)[:, None]
  total = jnp.sum(jnp.where(low <= limit[None], numbers, 0), axis=0)
  is_certain = (total >= size) & (total < 2 * size)
  return jnp.where(is_certain, total - size, 0).astype(jnp.int32), is_certain


def few(scores: Scores, num: int) -> tuple[jax.Array, jax.Array]:
  """Return the first few units that can be among the `num` nearest.

  Returns:
    Indices `[few, m]`, rising, k where there are no more; and whether these are
    all, `[m]`.
  """
  size = len(scores.product)
  low = scores.product + scores.low[:, None]
  high = scores.product + scores.high[:, None]
  for _ in range(num - 1):
    high = without(smallest(high)[0], high)
  is_candidate = low <= (high.min(axis=0) + scores.margin)[None]
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
