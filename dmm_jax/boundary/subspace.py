"""Steps that have to stay in a linear subspace and in a box at once."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from dmm_jax import norms

# Measured on random subspaces of up to 200 inputs with up to 30 of them at a
# bound: fewer of either give up decreases that are possible.
ROUNDS = 8  # Guesses of the active bounds, before the decrease is halved.
SOLVES = 6  # Conjugate gradients a guess.
LEVELS = 3  # Predicted decreases: all, half, a quarter.
ENOUGH = 0.999  # Of the predicted decrease.
ROUNDING = 16  # Units of rounding of the largest entry.


def project_feasible(
  project: Callable[[jax.Array], jax.Array],
  step: jax.Array,
  gradient: jax.Array,
  low: jax.Array,
  high: jax.Array,
) -> tuple[jax.Array, jax.Array]:
  """Projects a step on a subspace and a box, preserving the predicted decrease.

  The predicted decrease is `gradient . step`. The step is projected on the
  subspace and lengthened until its decrease is the same. If that leaves the
  box, the shortest step (l2) of the subspace within the box with this decrease
  takes its place, whatever the norm: a primal-dual active set method guesses
  which bounds are active, conjugate gradients solve for their multipliers, at
  up to `LEVELS * ROUNDS * (SOLVES + 2)` calls of `project`. Where no step has
  the decrease it is halved. The effort is fixed: a decrease that is only just
  possible may be given up too early. For l1 and linf expect 1 to 1.8 times the
  least norm.

  Source: Hintermueller, Ito, Kunisch (2002), "The primal-dual active set
  strategy as a semismooth Newton method",
  https://doi.org/10.1137/S1052623401383558.

  Args:
    project: linear, symmetric, idempotent map onto the subspace.
    step: any shape.
    gradient: as `step`.
    low, high: as `step` or scalars; the box holds 0.

  Returns:
    `(step, fraction)`: within the box exactly, within the subspace to
    `ROUNDING` units of rounding of its largest entry; and the fraction of the
    predicted decrease that is left, 0 to 1, also 1 where there was none.
  """
  projected = project(step)
  decrease = jnp.sum(gradient * step)
  left = jnp.sum(gradient * projected)
  projected = projected * jnp.where(left > 0, decrease / left, 0)
  scaled = fit(projected, low, high)
  downhill = project(gradient)
  steepness = norms.norm(downhill, 2)
  # In units of the shortest step without a box, so that squares are harmless.
  unit = downhill / jnp.where(steepness > 0, steepness, 1.0)
  length = decrease / jnp.where(steepness > 0, steepness, 1.0)
  able = length > 0
  scale = jnp.where(able, length, 1.0)
  fraction = jnp.sum(unit * scaled) / scale
  shortest, most = _shortest(
    project, unit, jnp.where(able, fraction, 1.0), low / scale, high / scale
  )
  better = able & (most > fraction)
  step = jnp.where(better, jnp.clip(scale * shortest, low, high), scaled)
  fraction = jnp.where(better, most, fraction)
  fraction = jnp.where(decrease > 0, fraction, 1.0)
  return step, jnp.clip(fraction, 0.0, 1.0)


def reach(step: jax.Array, low: jax.Array, high: jax.Array) -> jax.Array:
  """Returns the largest t with `t step` in the box, but for rounding; or inf.

  Without the tolerance, rounding at a bound that is reached would make it 0.
  """
  size = jnp.abs(step)
  tolerance = ROUNDING * jnp.finfo(step.dtype).eps * jnp.max(size)
  slack = jnp.where(step > 0, high, -low) + tolerance
  return jnp.min(jnp.where(size > 0, slack / size, jnp.inf))


def fit(step: jax.Array, low: jax.Array, high: jax.Array) -> jax.Array:
  """Shortens a step until it lies in the box, but for rounding: that is cut."""
  return jnp.clip(step * jnp.minimum(reach(step, low, high), 1.0), low, high)


def _shortest(project, unit, fraction, low, high):
  """The shortest v in subspace and box with `unit . v = 1`, or close to it.

  Returns at once if `fraction`, that of the caller's step, suffices.

  Returns:
    `(v, unit . v)`.
  """
  across = lambda w: project(w) - unit * jnp.sum(unit * w)

  def unfinished(s):
    allowed = s['number'] < LEVELS * ROUNDS
    return allowed & (s['fraction'] < ENOUGH * s['goal'])

  def advance(s):
    restart = s['number'] % ROUNDS == 0
    halve = restart & (s['number'] > 0)
    goal = jnp.where(halve, s['goal'] / 2, s['goal'])
    start = goal * unit
    multipliers = jnp.where(restart, 0.0, s['multipliers'])
    # Active are bounds that the step would cross, or that push it back.
    free = jnp.where(restart, start, s['v']) - multipliers
    active = (free < low) | (free > high)
    multipliers = jnp.where(active, multipliers, 0.0)
    v, multipliers = _solve_active(
      across,
      start + across(multipliers),
      multipliers,
      active,
      jnp.clip(free, low, high),
    )
    # Where guesses go wrong multipliers grow, and rounding with them.
    new = fit(project(v), low, high)
    gain = jnp.sum(unit * new)
    return dict(
      number=s['number'] + 1,
      goal=goal,
      v=v,
      multipliers=multipliers,
      best=jnp.where(gain > s['fraction'], new, s['best']),
      fraction=jnp.maximum(gain, s['fraction']),
    )

  start = dict(
    number=jnp.zeros((), jnp.int32),
    goal=jnp.ones_like(fraction),
    v=unit,
    multipliers=0 * unit,
    best=0 * unit,
    fraction=fraction,
  )
  end = jax.lax.while_loop(unfinished, advance, start)
  return end['best'], end['fraction']


def _solve_active(across, v, multipliers, active, bound):
  """Solves `v + across(multipliers) = bound` where `active`."""
  residual = jnp.where(active, bound - v, 0.0)

  def conjugate(_, s):
    v, multipliers, residual, direction, square = s
    image = across(direction)
    curvature = jnp.sum(direction * image)
    # Directions that the subspace does not contain would only amplify noise.
    inside = curvature > 1e-6 * jnp.sum(direction**2)
    t = jnp.where(inside, square / curvature, 0.0)
    residual = residual - t * jnp.where(active, image, 0.0)
    new = jnp.sum(residual**2)
    ratio = jnp.where(inside, new / square, 0.0)
    direction_new = residual + ratio * direction
    return (
      v + t * image,
      multipliers + t * direction,
      residual,
      direction_new,
      new,
    )

  s = v, multipliers, residual, residual, jnp.sum(residual**2)
  return jax.lax.fori_loop(0, SOLVES, conjugate, s)[:2]
