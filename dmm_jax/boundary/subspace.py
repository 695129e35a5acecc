"""Steps that have to stay in a linear subspace and in a box at once."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from dmm_jax import norms

# Measured on random subspaces of up to 200 inputs with up to 30 of them at a
# bound: fewer of either leave promises unkept that could be kept.
ROUNDS = 8  # Guesses of which bounds hold the step, before it promises less.
SOLVES = 6  # Conjugate gradients a guess.
LEVELS = 3  # Promises: all, half, a quarter.
ENOUGH = 0.999  # Of the promise.
ROUNDING = 16  # Units of rounding of the largest entry.


def confine(
  project: Callable[[jax.Array], jax.Array],
  step: jax.Array,
  gradient: jax.Array,
  low: jax.Array,
  high: jax.Array,
) -> tuple[jax.Array, jax.Array]:
  """Replaces a step by one in a subspace and a box that promises as much.

  The promise is `gradient . step`. The step is projected on the subspace and
  lengthened until it keeps the promise. If that leaves the box, the shortest
  step (l2) of the subspace within the box that keeps the promise takes its
  place, whatever the norm: a primal-dual active set method guesses which bounds
  hold it, conjugate gradients solve for their multipliers, at up to
  `LEVELS * ROUNDS * (SOLVES + 2)` calls of `project`. Where no step keeps the
  promise it is halved. A fixed effort: what is out of reach only just may be
  given up too early. For l1 and linf expect 1 to 1.8 times the least norm.

  Source: Hintermueller, Ito, Kunisch (2002), "The primal-dual active set
  strategy as a semismooth Newton method",
  https://doi.org/10.1137/S1052623401383558.

  Args:
    project: linear, symmetric, idempotent map onto the subspace.
    step: any shape.
    gradient: as `step`.
    low, high: as `step` or scalars; the box holds 0.

  Returns:
    `(step, kept)`: within the box exactly, within the subspace to
    `ROUNDING` units of rounding of its largest entry; and the share of the
    promise that it keeps, 0 to 1, also 1 where there was nothing to keep.
  """
  inside = project(step)
  promise, left = jnp.sum(gradient * step), jnp.sum(gradient * inside)
  inside = inside * jnp.where(
    left > 0, promise / jnp.where(left > 0, left, 1), 0
  )
  straight = fit(inside, low, high)
  downhill = project(gradient)
  steep = norms.norm(downhill, 2)
  # In units of the shortest step without a box, so that squares are harmless.
  unit = downhill / jnp.where(steep > 0, steep, 1.0)
  length = promise / jnp.where(steep > 0, steep, 1.0)
  able = length > 0
  scale = jnp.where(able, length, 1.0)
  kept = jnp.sum(unit * straight) / scale
  shortest, most = _shortest(
    project, unit, jnp.where(able, kept, 1.0), low / scale, high / scale
  )
  better = able & (most > kept)
  share = jnp.where(promise > 0, jnp.where(better, most, kept), 1.0)
  step = jnp.where(better, jnp.clip(scale * shortest, low, high), straight)
  return step, jnp.clip(share, 0.0, 1.0)


def reach(step: jax.Array, low: jax.Array, high: jax.Array) -> jax.Array:
  """Returns the largest t with `t step` in the box, but for rounding; or inf.

  Without the slack, noise where there is no room at all would make it 0.
  """
  size = jnp.abs(step)
  slack = ROUNDING * jnp.finfo(step.dtype).eps * jnp.max(size)
  room = jnp.where(step > 0, high, -low) + slack
  return jnp.min(
    jnp.where(size > 0, room / jnp.where(size > 0, size, 1.0), jnp.inf)
  )


def fit(step: jax.Array, low: jax.Array, high: jax.Array) -> jax.Array:
  """Shortens a step until it lies in the box, but for rounding: that is cut."""
  return jnp.clip(step * jnp.minimum(reach(step, low, high), 1.0), low, high)


def _shortest(project, unit, kept, low, high):
  """The shortest v in subspace and box with `unit . v = 1`, or as near as can.

  Nothing happens if `kept`, what the caller has already, is enough.

  Returns:
    `(v, unit . v)`.
  """
  across = lambda w: project(w) - unit * jnp.sum(unit * w)

  def unfinished(s):
    going = s['number'] < LEVELS * ROUNDS
    return going & (s['kept'] < ENOUGH * s['target'])

  def advance(s):
    anew = s['number'] % ROUNDS == 0
    target = jnp.where(anew & (s['number'] > 0), s['target'] / 2, s['target'])
    start = target * unit
    push = jnp.where(anew, 0.0, s['push'])
    # Bounds hold what would cross them, and what they push back.
    wish = jnp.where(anew, start, s['v']) - push
    held = (wish < low) | (wish > high)
    push = jnp.where(held, push, 0.0)
    v, push = _hold(
      across, start + across(push), push, held, jnp.clip(wish, low, high)
    )
    # Where guesses go wrong pushes grow, and rounding with them.
    new = fit(project(v), low, high)
    gain = jnp.sum(unit * new)
    return dict(
      number=s['number'] + 1,
      target=target,
      v=v,
      push=push,
      best=jnp.where(gain > s['kept'], new, s['best']),
      kept=jnp.maximum(gain, s['kept']),
    )

  start = dict(
    number=0,
    target=jnp.ones_like(kept),
    v=unit,
    push=0 * unit,
    best=0 * unit,
    kept=kept,
  )
  end = jax.lax.while_loop(unfinished, advance, start)
  return end['best'], end['kept']


def _hold(across, v, push, held, bound):
  """Solves `v + across(push) = bound` where `held`, for pushes there."""
  rest = jnp.where(held, bound - v, 0.0)

  def conjugate(_, s):
    v, push, rest, way, size = s
    turn = across(way)
    bend = jnp.sum(way * turn)
    # Directions that the subspace does not see would only amplify noise.
    sees = bend > 1e-6 * jnp.sum(way**2)
    t = jnp.where(sees, size / jnp.where(sees, bend, 1.0), 0.0)
    rest = rest - t * jnp.where(held, turn, 0.0)
    new = jnp.sum(rest**2)
    ratio = jnp.where(sees, new / jnp.where(size > 0, size, 1.0), 0.0)
    return v + t * turn, push + t * way, rest, rest + ratio * way, new

  s = v, push, rest, rest, jnp.sum(rest**2)
  return jax.lax.fori_loop(0, SOLVES, conjugate, s)[:2]
