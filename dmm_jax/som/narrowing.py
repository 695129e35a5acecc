"""The nearest unit of each code: a coarser map narrows the search.

The means of patches of the grid are the units of a coarser map. In the few
directions that it spans, codes and units are quick to compare; of the rest of a
score, the product of the lengths that these directions leave is a bound. Codes
that are nearest to the same patch are searched for together, among the units
that can be nearest to any of them: a few where the map is smooth or the codes
lie in clusters; at worst all, which takes a fifth longer than without. A code's
unit is that of a search among all units.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from dmm_jax.som import candidates
from dmm_jax.som import searching

# Patches along a side of the grid, and the part of a search among all units
# that looking at all by a coarser map may take. More patches narrow better.
_FEWEST, _MOST, _SHARE = 4, 7, 8
# Parts of the units that are searched, the least that holds those possible.
_PARTS = (16, 4, 1)


class Coarse(NamedTuple):
  """Units `[k, d]` as a coarser map sees them, all less a centre.

  Attributes:
    basis: r directions of length 1 at right angles, `[r, d]`.
    patches: the coarser map's units in these, `[r, r]`.
    seen: the map's units in these, `[k, r]`.
    beyond: lengths of what they leave of units, `[k]`.
    rounding: of a score, over the length of the code, `[k]`.
    low, high: bounds on half the squared lengths of units, `[k]`.
  """

  basis: jax.Array
  patches: jax.Array
  seen: jax.Array
  beyond: jax.Array
  rounding: jax.Array
  low: jax.Array
  high: jax.Array


class View(NamedTuple):
  """Codes `[m, d]` as a coarser map sees them, less the same centre.

  Attributes:
    seen: codes in its directions, `[m, r]`.
    beyond: bounds on the lengths of what they leave of codes, `[m]`.
    length: of whole codes, `[m]`.
  """

  seen: jax.Array
  beyond: jax.Array
  length: jax.Array


def num_patches(grid: tuple[int, int], d: int, distance: str) -> int:
  """Return the patches along a side of the grid; 0 where they gain nothing."""
  if distance in searching.DIRECT or jax.default_backend() != 'cpu':
    return 0
  num_units = math.prod(grid)
  most = num_units * d // (num_units + d) // _SHARE
  num = min(math.isqrt(most), *grid, _MOST)
  return num if num >= _FEWEST else 0


def prepare(units: searching.Units, grid: tuple[int, int], num: int) -> Coarse:
  """Return units as seen by the means of `num` x `num` patches."""
  codes = jax.lax.stop_gradient(units.codes - units.centre[None])
  rows, cols = (jnp.arange(n) * num // n for n in grid)
  patch = (rows[:, None] * num + cols[None]).ravel()
  sums = jnp.zeros((num**2, codes.shape[1]), codes.dtype).at[patch].add(codes)
  means = sums / jnp.bincount(patch, length=num**2)[:, None]
  basis = jnp.linalg.qr(means.T)[0].T
  seen, square = _product(codes, basis), jnp.sum(codes**2, axis=1)
  rest = jnp.sum((codes - _product(seen, basis.T)) ** 2, axis=1)
  relative, tiny = _rounding(basis)
  error = relative * square + tiny
  return Coarse(
    basis,
    _product(means, basis),
    seen,
    jnp.sqrt(rest + tiny),
    relative * jnp.sqrt(square + tiny) + tiny**0.5,
    square / 2 - error,
    square / 2 + error,
  )


def _rounding(basis):
  """Bounds on errors of squares and of products, over those of whole lengths.

  With u = eps / 2, what is seen of a code x is off by at most sqrt(r) d u |x|,
  and the basis is at right angles but for sqrt(r) d u, which is generous. So
  the square of what is seen is off by less than (3 sqrt(r) + 2) (d + 8) u |x|^2
  as a bound on that of x, and so is, with a unit w that is what is seen of it
  and a rest, the product of what is seen of both and of both rests.
  """
  (r, d), limits = basis.shape, jnp.finfo(basis.dtype)
  relative = (3 * r**0.5 + 4) * (d + 8) * limits.eps / 2
  return relative, (d + 8) * limits.tiny


def view(codes: jax.Array, basis: jax.Array) -> View:
  """Return codes `[m, d]`, less the centre, as a coarser map sees them."""
  seen, square = _product(codes, basis), jnp.sum(codes**2, axis=1)
  rest = jnp.maximum(square - jnp.sum(seen**2, axis=1), 0)
  relative, tiny = _rounding(basis)
  beyond = jnp.sqrt(rest + relative * square + tiny)
  return View(seen, beyond, jnp.sqrt(square + tiny))


def order(seen: jax.Array, coarse: Coarse) -> jax.Array:
  """Return the numbers of codes, seen as `[n, r]`, patch by patch, `[n]`."""
  half = jnp.sum(coarse.patches**2, axis=1) / 2
  scores = half[:, None] - _product(coarse.patches, seen)
  patch, _ = candidates.smallest(scores)
  num = len(seen)
  if len(half) * num >= 2**31:
    return jnp.argsort(patch)
  # One column: CPUs sort two of them more slowly.
  return jnp.sort(patch * num + jnp.arange(num, dtype=jnp.int32)) % num


def possible(view: View, usable: jax.Array, coarse: Coarse) -> jax.Array:
  """Return which units can be nearest to a usable code, booleans `[k]`."""
  product = _product(coarse.seen, view.seen)
  error = coarse.beyond[:, None] * view.beyond[None]
  error += coarse.rounding[:, None] * view.length[None]
  high = coarse.high[:, None] - product + error
  limit = jax.lax.optimization_barrier(high.min(axis=0))
  # Comparisons with NaN or infinity, from overflow, exclude nothing.
  excluded = coarse.low[:, None] - product - error > limit[None]
  return jnp.any(~excluded & usable[None], axis=1)


def nearest(
  codes: jax.Array,
  usable: jax.Array,
  view: View,
  units: searching.Units,
  coarse: Coarse,
  distance: str,
) -> jax.Array:
  """Return the nearest unit of each code, as `searching.nearest`, `[m]`.

  Args:
    codes: `directions` of codes, `[m, d]`, finite.
    usable: whether a code is searched for, `[m]`.
    view: of the codes less the units' centre.
    units, coarse: prepared.
    distance: one that is not `DIRECT`.
  """

  # Under `vmap`, `switch` would take all its branches.
  @jax.custom_batching.sequential_vmap
  def search(codes, usable, view, units, coarse):
    is_possible = possible(view, usable, coarse)
    # The possible ones first, in order; some others, which are farther, fill
    # up the part.
    count, place = jnp.cumsum(is_possible), jnp.arange(len(is_possible))
    place = jnp.where(is_possible, count - 1, count[-1] + place - count)
    rows = jnp.zeros_like(place).at[place].set(jnp.arange(len(place)))

    def among(size):
      some = units.codes[rows[:size]]
      # Less a unit among them, scores are small, and so are their roundings.
      part = searching.Units(some, some[0])
      return rows[searching.nearest(codes, usable, part, distance)[0]]

    sizes = [-(-len(rows) // part) for part in _PARTS]
    fits = sum((count[-1] > size).astype(jnp.int32) for size in sizes[:-1])
    return jax.lax.switch(fits, [lambda s=s: among(s) for s in sizes])

  fixed = jax.lax.stop_gradient((codes, usable, view, units, coarse))
  return search(*fixed)


def _product(x, w):
  return jnp.matmul(x, w.T, precision=jax.lax.Precision.HIGHEST)
