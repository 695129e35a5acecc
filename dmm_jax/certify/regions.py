"""Linear functions over an l^p ball intersected with a box."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

BISECTIONS = 40  # For the dual variable of l1.
NEWTON_STEPS = 8  # For that of l2; few coordinates saturate later than this.
# Relative to the sum of absolute terms. Sums of n float64 terms are off by at
# most n * 1.1e-16 of it: this covers 9000 terms.
ROUNDING = 1e-12


class Region(NamedTuple):
  """All x + v with `|v|_p <= radius` and `-down <= v <= up`.

  Attributes:
    x: the centre `[n]`.
    down, up: distances from `x` to the box `[n]`, >= 0, inf for no end.
    radius: scalar >= 0, finite.
  """

  x: jax.Array
  down: jax.Array
  up: jax.Array
  radius: jax.Array


def minimize(
  rows: jax.Array, offset: jax.Array, region: Region, norm: jax.Array
) -> jax.Array:
  """Return lower bounds of `rows @ x' + offset` over a region, `[m]`.

  The minimum itself for linf. For other norms it is the value of the dual at a
  dual variable close to the best one; any value of it gives a lower bound. What
  rounding may do is subtracted, see `ROUNDING`: an estimate for the sums made
  here, not interval arithmetic throughout.

  Args:
    rows: `[m, n]`.
    offset: `[m]`.
    region: the region.
    norm: any p >= 1, traced: all norms share one compiled program.
  """
  size = jnp.abs(rows)
  slack = jnp.where(rows > 0, region.down[None], region.up[None])
  slack = jnp.minimum(slack, region.radius)
  index = jnp.select([norm == 1, norm == 2, norm == jnp.inf], range(3), 3)
  branches = [
    lambda *args, rule=rule: rule(*args[:3])
    for rule in (_support_l1, _support_l2, _support_linf)
  ]
  support = jax.lax.switch(
    index, [*branches, _support_power], size, slack, region.radius, norm
  )
  terms = size @ (jnp.abs(region.x) + region.radius) + jnp.abs(offset)
  return rows @ region.x + offset - support - ROUNDING * terms


def _support_linf(size, slack, radius):
  """Return max size . v over 0 <= v <= slack, which is at most the radius."""
  del radius
  return jnp.sum(size * slack, -1)


def _support_l1(size, slack, radius):
  """Bound max size . v over 0 <= v <= slack, |v|_1 <= radius from above.

  For any dual variable d >= 0 of the ball it is at most radius * d + the sum of
  max(size - d, 0) * slack. At the best d the derivative in d is 0, so that no
  gradient has to pass through it.
  """
  dual = dual_l1(*jax.lax.stop_gradient((size, slack, radius)))
  gain = jnp.sum(jnp.maximum(size - dual[:, None], 0.0) * slack, -1)
  return radius * dual + gain


def dual_l1(size: jax.Array, slack: jax.Array, radius: jax.Array) -> jax.Array:
  """Return the entry of `size` down to which slacks add up to the radius.

  By bisection: on CPUs, sorting the entries takes four times as long.
  """

  def bisect(_, bracket):
    low, high = bracket
    middle = (low + high) / 2
    used = jnp.sum(jnp.where(size > middle[:, None], slack, 0.0), -1)
    exceeds = used > radius
    return jnp.where(exceeds, middle, low), jnp.where(exceeds, high, middle)

  largest = jnp.max(size, -1)
  bracket = jnp.zeros_like(largest), largest
  return jax.lax.fori_loop(0, BISECTIONS, bisect, bracket)[1]


def _support_l2(size, slack, radius):
  """Bound max size . v over 0 <= v <= slack, |v|_2 <= radius from above.

  With the dual variable 1 / scale of the ball, v = min(scale * size, slack).
  """
  scale = scale_l2(*jax.lax.stop_gradient((size, slack, radius)))
  v = jnp.minimum(scale[:, None] * size, slack)
  value = jnp.sum(size * v - v**2 / (2 * scale[:, None]), -1)
  value = value + radius**2 / (2 * scale)
  return jnp.minimum(value, jnp.sum(size * slack, -1))


def scale_l2(size: jax.Array, slack: jax.Array, radius: jax.Array) -> jax.Array:
  """Solve |min(scale * size, slack)|_2 = radius, or stop below the root."""

  def newton(_, scale):
    saturated = size * scale[:, None] >= slack
    rest = radius**2 - jnp.sum(jnp.where(saturated, slack, 0.0) ** 2, -1)
    rate = jnp.sum(jnp.where(saturated, 0.0, size) ** 2, -1)
    new = jnp.sqrt(jnp.maximum(rest, 0.0) / jnp.where(rate > 0, rate, 1.0))
    # Saturated coordinates stay so: the scale rises to its root.
    return jnp.where(rate > 0, jnp.maximum(new, scale), scale)

  length = jnp.sqrt(jnp.sum(size**2, -1))
  scale = radius / jnp.where(length > 0, length, 1.0)
  scale = jax.lax.fori_loop(0, NEWTON_STEPS, newton, scale)
  return jnp.where(scale > 0, scale, 1.0)


def _support_power(size, slack, radius, p):
  """Bound max size . v over 0 <= v <= slack, |v|_p <= radius from above.

  Any split of `size` into a and a rest gives one: radius |a|_q + rest . slack.
  At the best, a is `size` where v = (scale size)^(1 / (p - 1)) is free, and
  what makes v the slack elsewhere.
  """
  level = _level_power(*jax.lax.stop_gradient((size, slack, radius, p)))
  some = (size > 0) & (slack > 0)
  log = lambda v: jnp.log(jnp.where(some, v, 1.0))
  held = jnp.exp((p - 1) * (log(slack) - level[:, None]))
  part = jnp.where(some, jnp.minimum(size, held), 0.0)
  dual = jax.vmap(lambda row: _power_norm(row, p / (p - 1)))(part)
  value = radius * dual + jnp.sum((size - part) * slack, -1)
  return jnp.minimum(value, jnp.sum(size * slack, -1))


def _power_norm(v, q):
  """Return the l^q norm of v >= 0; its derivative is finite, at 0 too."""
  scale = jnp.max(v, initial=0.0)
  some = v > 0
  unit = jnp.where(some, v, 1.0) / jnp.where(scale > 0, scale, 1.0)
  total = jnp.sum(jnp.where(some, unit**q, 0.0))
  return scale * jnp.where(total > 0, total, 1.0) ** (1 / q)


def _level_power(size, slack, radius, p):
  """Solve |min(exp(level) size^(1 / (p - 1)), slack)|_p = radius, as in l2.

  By logarithms: the power is below any number as p nears 1.
  """
  some = (size > 0) & (slack > 0)
  log = lambda v: jnp.log(jnp.where(some, v, 1.0))
  growth = jnp.where(some, log(size) / (p - 1), -jnp.inf)
  full = jnp.where(some, log(slack) - growth, -jnp.inf)
  share = jnp.where(some, (slack / radius) ** p, 0.0)

  def newton(_, level):
    saturated = full <= level[:, None]
    rest = 1 - jnp.sum(jnp.where(saturated, share, 0.0), -1)
    rate = jax.nn.logsumexp(jnp.where(saturated, -jnp.inf, p * growth), -1)
    able = (rest > 0) & jnp.isfinite(rate)
    new = jnp.log(radius) + (jnp.log(jnp.where(able, rest, 1.0)) - rate) / p
    return jnp.where(able, jnp.maximum(new, level), level)

  # From below: nothing is saturated at the least of all.
  level = jnp.log(radius) - jax.nn.logsumexp(p * growth, -1) / p
  level = jnp.where(jnp.isfinite(level), level, 0.0)
  return jax.lax.fori_loop(0, NEWTON_STEPS, newton, level)
