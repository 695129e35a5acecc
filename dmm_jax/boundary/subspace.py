"""Steps that have to stay in a linear subspace and in a box at once."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from dmm_jax import norms

# In subspaces of at most so many dimensions the path is followed.
FEW = 24
PROBES = 8  # Normal vectors that estimate how many.
ACTIVE = 32  # Bounds that may be active at once.
TURNS = 48  # Of the path.
LEAST_RATE = 1e-4  # Decrease that it gains, of what it gained without a box.
# Of larger ones bounds are guessed. Measured on random subspaces of up to 200
# inputs with up to 30 of them at a bound: fewer give up possible decreases.
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
  rank: jax.Array | float,
) -> tuple[jax.Array, jax.Array]:
  """Projects a step on a subspace and a box, preserving the predicted decrease.

  The predicted decrease is `gradient . step`. The step is projected on the
  subspace and lengthened until its decrease is the same. If that leaves the
  box, the shortest step (l2) of the subspace within the box with this decrease
  takes its place, whatever the norm, or one with the largest decrease that is
  possible. In few dimensions the path of these steps is followed, from no
  decrease on, bound by bound. In many, a primal-dual active set method guesses
  which bounds are active, conjugate gradients solve for their multipliers, at
  up to `LEVELS * ROUNDS * (SOLVES + 2)` calls of `project`, and where no step
  has the decrease it is halved. The effort is fixed: a decrease that is only
  just possible may be given up too early. For l1 and linf expect 1 to 1.8 times
  the least norm.

  Sources: the path is that of a parametric active set method, as in Best
  (1996), "An algorithm for the solution of the parametric quadratic programming
  problem", https://doi.org/10.1007/978-3-642-99789-1_5; Hintermueller, Ito,
  Kunisch (2002), "The primal-dual active set strategy as a semismooth Newton
  method", https://doi.org/10.1137/S1052623401383558.

  Args:
    project: linear, symmetric, idempotent map onto the subspace.
    step: any shape.
    gradient: as `step`.
    low, high: as `step` or scalars; the box holds 0.
    rank: about the subspace's dimensions.

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
  few = jnp.asarray(rank) <= FEW
  done = ~able | (fraction >= ENOUGH)
  box = low / scale, high / scale
  along, gain = _follow_path(project, unit, ~few | done, *box)
  guessed, most = _shortest(
    project, unit, jnp.where(few | ~able, 1.0, fraction), *box
  )
  shortest = jnp.where(few, along, guessed)
  most = jnp.where(few, gain, most)
  better = able & (most > fraction)
  step = jnp.where(better, jnp.clip(scale * shortest, low, high), scaled)
  fraction = jnp.where(better, most, fraction)
  fraction = jnp.where(decrease > 0, fraction, 1.0)
  return step, jnp.clip(fraction, 0.0, 1.0)


def rank(project: Callable[[jax.Array], jax.Array], x: jax.Array) -> jax.Array:
  """Estimates the dimensions of the subspace of perturbations of `x`.

  By the mean squared length of projected normal vectors, which has a relative
  standard deviation of `sqrt(2 / (PROBES k))` in k dimensions.
  """
  normal = jax.random.normal(jax.random.key(0), (PROBES, *x.shape), x.dtype)
  return jnp.sum(jax.vmap(project)(normal) ** 2) / PROBES


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


class _Path(NamedTuple):
  """Where a path stands: at the shortest v with a `unit . v`, or `ended`.

  `v = t unit - project(sum of multipliers at the active bounds)`, for some t.

  Attributes:
    v: the point, as the step.
    active: which entries stay at their bound, as the step.
    at: which entries these are, flat `[ACTIVE]`.
    on: which of the places are in use `[ACTIVE]`.
    side: of the bounds there, 1 of upper and -1 of lower ones `[ACTIVE]`.
    multipliers: of the active bounds, of the sign of `side` `[ACTIVE]`.
    inverse: of the projection's rows and columns `at`; 0 elsewhere.
    turns: so far.
    ended: the goal is reached, or no larger one can be.
  """

  v: jax.Array
  active: jax.Array
  at: jax.Array
  on: jax.Array
  side: jax.Array
  multipliers: jax.Array
  inverse: jax.Array
  turns: jax.Array
  ended: jax.Array


def _follow_path(project, unit, ended, low, high):
  """Follows the shortest v in subspace and box as `unit . v` grows to 1.

  Straight on until an entry meets its bound, which then becomes active, or a
  multiplier is 0, whose bound then is no longer.

  Returns:
    `(v, unit . v)`, less than 1 where no more is possible.
  """
  shape = unit.shape
  flat = lambda v: jnp.broadcast_to(v, shape).ravel()
  low, high, unit = flat(low), flat(high), unit.ravel()
  onto = lambda v: project(v.reshape(shape)).ravel()
  rounding = ROUNDING * jnp.finfo(unit.dtype).eps

  def turn(s):
    # Rates, as `unit . v` grows: of multipliers, and of entries.
    pull = s.inverse @ jnp.where(s.on, unit[s.at], 0.0)
    across = onto(jnp.zeros_like(unit).at[s.at].add(pull))
    rate = jnp.where(s.active, 0.0, unit - across)
    steepness = unit @ rate
    moves = jnp.abs(rate) > rounding * jnp.max(jnp.abs(rate))
    slack = jnp.maximum(jnp.where(rate > 0, high - s.v, s.v - low), 0.0)
    meets = jnp.where(moves, slack / jnp.abs(rate), jnp.inf)
    shrinks = s.on & (s.side * pull < 0)
    leaves = jnp.where(shrinks, jnp.abs(s.multipliers / pull), jnp.inf)
    i, j = jnp.argmin(meets).astype(jnp.int32), jnp.argmin(leaves)
    goal = (1 - unit @ s.v) / steepness
    t = jnp.minimum(jnp.minimum(meets[i], leaves[j]), goal)
    stuck = ~(steepness > LEAST_RATE)
    drops = leaves[j] <= meets[i]
    last = (s.turns + 1 == TURNS) | (~drops & jnp.all(s.on))
    s = s._replace(
      v=jnp.where(stuck, s.v, s.v + t * rate),
      multipliers=jnp.where(stuck, s.multipliers, s.multipliers + t * pull),
      turns=s.turns + 1,
      ended=stuck | (goal <= t) | last,
    )
    dropped, added = _drop(s, j), _add(s, i, jnp.sign(rate[i]), onto)
    choose = lambda *of: jnp.where(s.ended, of[0], jnp.where(drops, *of[1:]))
    return jax.tree.map(choose, s, dropped, added)

  start = _Path(
    v=0 * unit,
    active=jnp.zeros(unit.shape, bool),
    at=jnp.zeros(ACTIVE, jnp.int32),
    on=jnp.zeros(ACTIVE, bool),
    side=jnp.zeros(ACTIVE, unit.dtype),
    multipliers=jnp.zeros(ACTIVE, unit.dtype),
    inverse=jnp.zeros((ACTIVE, ACTIVE), unit.dtype),
    turns=jnp.zeros((), jnp.int32),
    ended=ended,
  )
  end = jax.lax.while_loop(lambda s: ~s.ended, turn, start)
  bounds = jnp.where(end.side > 0, high[end.at], low[end.at])

  def settle(_, v):  # Rounding has added up over the turns.
    pull = end.inverse @ jnp.where(end.on, v[end.at] - bounds, 0.0)
    return onto(v - jnp.zeros_like(v).at[end.at].add(pull))

  v = fit(jax.lax.fori_loop(0, 3, settle, end.v), low, high)
  return v.reshape(shape), unit @ v


def _add(s, i, side, onto):
  """The path with entry `i` active, where a place is free."""
  column = onto(jnp.zeros_like(s.v).at[i].set(1.0))
  shared = jnp.where(s.on, column[s.at], 0.0)
  solved = s.inverse @ shared
  rest = column[i] - shared @ solved
  place = jnp.argmin(s.on)
  border = solved.at[place].set(-1.0)
  least = jnp.finfo(rest.dtype).eps * column[i]
  inverse = s.inverse + jnp.outer(border, border) / jnp.maximum(rest, least)
  return s._replace(
    active=s.active.at[i].set(True),
    at=s.at.at[place].set(i),
    on=s.on.at[place].set(True),
    side=s.side.at[place].set(side),
    multipliers=s.multipliers.at[place].set(0.0),
    inverse=inverse,
  )


def _drop(s, j):
  """The path without the active bound at place `j`."""
  column = s.inverse[:, j]
  inverse = s.inverse - jnp.outer(column, column) / column[j]
  return s._replace(
    active=s.active.at[s.at[j]].set(False),
    on=s.on.at[j].set(False),
    multipliers=s.multipliers.at[j].set(0.0),
    inverse=inverse.at[j].set(0.0).at[:, j].set(0.0),
  )


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
