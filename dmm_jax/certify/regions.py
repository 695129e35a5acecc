"""Linear functions over an l^p ball intersected with a box."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

HALVINGS = 40  # For the l1 multiplier.
LEVELS = 8  # Rounds for the l2 multiplier; few coordinates fill up later.
# Relative to the sum of absolute terms. Sums of n float64 terms are off by at
# most n * 1.1e-16 of it: this covers 9000 terms.
ROUNDING = 1e-12


class Region(NamedTuple):
  """All x + v with `|v|_p <= radius` and `-down <= v <= up`.

  Attributes:
    x: the centre `[n]`.
    down, up: `[n]`, >= 0, inf where there is no bound.
    radius: scalar >= 0, finite.
  """

  x: jax.Array
  down: jax.Array
  up: jax.Array
  radius: jax.Array


def least(
  rows: jax.Array, offset: jax.Array, region: Region, norm: jax.Array
) -> jax.Array:
  """Returns the least value of `rows @ x' + offset` over a region, `[m]`.

  Exact for linf. For l1 and l2 it is the value of the dual at a multiplier
  close to the best one; any multiplier gives a bound from below. What rounding
  may do is subtracted, see `ROUNDING`: an estimate for the sums made here, not
  interval arithmetic throughout.

  Args:
    rows: `[m, n]`.
    offset: `[m]`.
    region: the region.
    norm: 1, 2 or inf, traced: all norms share one compiled program.
  """
  size = jnp.abs(rows)
  room = jnp.where(rows > 0, region.down[None], region.up[None])
  room = jnp.minimum(room, region.radius)
  index = jnp.where(norm == 1, 0, jnp.where(norm == 2, 1, 2))
  branches = _reach_l1, _reach_l2, _reach_linf
  reach = jax.lax.switch(index, branches, size, room, region.radius)
  terms = size @ (jnp.abs(region.x) + region.radius) + jnp.abs(offset)
  return rows @ region.x + offset - reach - ROUNDING * terms


def _reach_linf(size, room, radius):
  """max size . v over 0 <= v <= room, which is at most the radius."""
  del radius
  return jnp.sum(size * room, -1)


def _reach_l1(size, room, radius):
  """max size . v over 0 <= v <= room, |v|_1 <= radius, from above.

  The dual: for any price >= 0 of the budget, at most radius * price + the sum
  of max(size - price, 0) * room. The best price has no influence to first
  order, so it needs no gradient.
  """
  price = _price(*jax.lax.stop_gradient((size, room, radius)))
  gain = jnp.sum(jnp.maximum(size - price[:, None], 0.0) * room, -1)
  return radius * price + gain


def _price(size, room, radius):
  """The entry of `size` at which the steepest coordinates use up the budget.

  By bisection: on CPUs, sorting the entries takes four times as long.
  """

  def halve(_, state):
    low, high = state
    price = (low + high) / 2
    spent = jnp.sum(jnp.where(size > price[:, None], room, 0.0), -1)
    over = spent > radius
    return jnp.where(over, price, low), jnp.where(over, high, price)

  largest = jnp.max(size, -1)
  start = jnp.zeros_like(largest), largest
  return jax.lax.fori_loop(0, HALVINGS, halve, start)[1]


def _reach_l2(size, room, radius):
  """max size . v over 0 <= v <= room, |v|_2 <= radius, from above.

  With the multiplier 1 / level of the ball, v = min(level * size, room).
  """
  level = _level(*jax.lax.stop_gradient((size, room, radius)))
  v = jnp.minimum(level[:, None] * size, room)
  ball = jnp.sum(size * v - v**2 / (2 * level[:, None]), -1)
  return jnp.minimum(ball + radius**2 / (2 * level), jnp.sum(size * room, -1))


def _level(size, room, radius):
  """Solves |min(level * size, room)|_2 = radius, or stops below the root."""

  def climb(_, level):
    full = size * level[:, None] >= room
    rest = radius**2 - jnp.sum(jnp.where(full, room, 0.0) ** 2, -1)
    rate = jnp.sum(jnp.where(full, 0.0, size) ** 2, -1)
    new = jnp.sqrt(jnp.maximum(rest, 0.0) / jnp.where(rate > 0, rate, 1.0))
    # Full coordinates only ever add up: the level climbs to its root.
    return jnp.where(rate > 0, jnp.maximum(new, level), level)

  length = jnp.sqrt(jnp.sum(size**2, -1))
  level = radius / jnp.where(length > 0, length, 1.0)
  level = jax.lax.fori_loop(0, LEVELS, climb, level)
  return jnp.where(level > 0, level, 1.0)
