"""The largest radius that a bound certifies, and slopes that enlarge it."""

from collections.abc import Callable
from typing import Any
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

RTOL = 1e-7  # Width of the last bracket of a radius, relative to it.


class Bracket(NamedTuple):
  """The radius searched for lies in `[low, high]`, once `high` has failed.

  Attributes:
    low: a certified radius.
    margin_low: lower bound of the margin there, > 0.
    high: a radius that is not certified, or not yet tried.
    margin_high: lower bound of the margin there.
    failed: whether `high` was tried, and is not certified.
    rounds: number of radii tried.
  """

  low: jax.Array
  margin_low: jax.Array
  high: jax.Array
  margin_high: jax.Array
  failed: jax.Array
  rounds: jax.Array


def largest(
  margin_fn: Callable, margin: jax.Array, start: jax.Array, cap: jax.Array
) -> jax.Array:
  """Return the largest certified radius up to `cap`, within `RTOL`.

  Regula falsi (the Illinois rule), with a bisection every third round. The
  radius returned was itself seen to be certified, whether or not the bound
  decreases with the radius.

  Args:
    margin_fn: radius -> lower bound of the margin.
    margin: its value at 0.
    start: the first radius tried.
    cap: no radius beyond it is tried.
  """

  def should_continue(s):
    wide = s.high - s.low > RTOL * s.high
    possible = (s.margin_low > 0) & (s.rounds < 100) & (s.low < cap)
    return possible & (wide | ~s.failed)

  def step(s):
    fraction = s.margin_low / (s.margin_low - s.margin_high)
    usable = jnp.isfinite(fraction) & (s.rounds % 3 != 2)
    fraction = jnp.where(usable, jnp.clip(fraction, 0.0, 1.0), 0.5)
    between = s.low + fraction * (s.high - s.low)
    radius = jnp.where(s.failed, between, s.high)
    new = margin_fn(radius)
    certified = new > 0
    next_high = jnp.where(s.failed, s.high, jnp.minimum(8 * radius, cap))
    # Illinois rule: halve the value at the retained endpoint.
    return Bracket(
      jnp.where(certified, radius, s.low),
      jnp.where(certified, new, s.margin_low / 2),
      jnp.where(certified, next_high, radius),
      jnp.where(certified, s.margin_high / 2, new),
      s.failed | ~certified,
      s.rounds + 1,
    )

  zero = jnp.zeros_like(start)
  first = Bracket(zero, margin, jnp.minimum(start, cap), zero, zero > 0, zero)
  return jax.lax.while_loop(should_continue, step, first).low


def ascend(
  margins_fn: Callable,
  radius: jax.Array,
  cap: jax.Array,
  slopes: Any,
  num_steps: int,
) -> tuple[Any, jax.Array]:
  """Improve the slopes by Adam, while the radius follows the bound's root.

  Args:
    margins_fn: `(radius, slopes)` -> lower bounds of margins `[k]`.
    radius: the first radius, > 0.
    cap: no radius beyond it is tried.
    slopes: a pytree, each entry from 0 to 1.
    num_steps: number of steps.

  Returns:
    The slopes and the last radius, which need not be certified.
  """
  optimizer = optax.adam(optax.cosine_decay_schedule(0.3, num_steps))

  def loss(slopes, radius):
    margins = margins_fn(radius, slopes)
    finite = jnp.isfinite(margins)
    # All classes near the nearest count, or steps alternate between them.
    fixed = jax.lax.stop_gradient(margins)
    spread = 0.1 * jnp.mean(jnp.abs(fixed), where=finite) + 1e-300
    weight = jax.nn.softmax(-fixed / spread)
    mean = jnp.sum(jnp.where(finite, weight * margins, 0.0))
    return -mean, jnp.min(margins)

  def step(_, state):
    slopes, moments, radius = state
    grad_fn = jax.grad(loss, argnums=(0, 1), has_aux=True)
    (descent, rate), margin = grad_fn(slopes, radius)
    update, moments = optimizer.update(descent, moments)
    add = lambda s, u: jnp.clip(s + u, 0.0, 1.0)
    slopes = jax.tree.map(add, slopes, update)
    newton = radius + margin / jnp.where(rate > 0, rate, jnp.inf)
    radius = jnp.clip(newton, 0.8 * radius, jnp.minimum(1.2 * radius, cap))
    return slopes, moments, radius

  state = slopes, optimizer.init(slopes), radius
  slopes, _, radius = jax.lax.fori_loop(0, num_steps, step, state)
  return slopes, radius
