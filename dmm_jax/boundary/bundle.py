"""Polishing by a bundle of linearisations: down to the bottom of a kink.

A proximal bundle method, which improves a boundary point until it is a local
optimum. The nearest point of a piecewise linear boundary usually lies where
several pieces meet, and one linearisation sees one piece. The last ones
together are a polyhedron; each round finds its nearest point to the input that
is also close to the best point so far, follows the ray there to the boundary,
and adds the linearisation. Gains loosen the tie to the best point, failures
tighten it. Cuts that the best point violates belong to a non-convex kink and
are dropped. It does not look for other local optima, and does nothing before a
boundary point was found.

Source: Kiwiel (1990), "Proximity control in bundle methods for convex
nondifferentiable minimization", https://doi.org/10.1007/BF01585731; here the
constraint, not the objective, is the nonsmooth one.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from dmm_jax import norms
from dmm_jax.boundary import problem as problem_lib
from dmm_jax.boundary import rays
from dmm_jax.boundary.point import Status
from dmm_jax.boundary.state import State

VALID = 1e-3  # How far the best point may violate a cut, of its l2 length.
OVERSHOOT = 1.0005  # Of a step to the model's boundary.
LEVEL = 0.05  # Relative gain that a round aims at, for linf, at tightness 1.
LOOSEN = 1 / 1.5  # Factor of the tie to the best point, after a gain.
SWEEPS = 3  # Over all cuts; each round starts where the last one ended.


class Model(NamedTuple):
  """The boundary by its last linearisations: cuts . v + offsets <= 0.

  Attributes:
    cuts, offsets: unit gradients `[m, n]`, and offsets `[m]` at the input.
    on: which of them count.
    used: in which round each was last of use.
    weights: multipliers of the last round's solution.
    tightness: of the tie to the best point.
  """

  cuts: jax.Array
  offsets: jax.Array
  on: jax.Array
  used: jax.Array
  weights: jax.Array
  tightness: jax.Array


def empty(
  problem: problem_lib.Problem, size: int = 8, tightness: float = 3.0
) -> Model:
  """Returns the model before the first round.

  Args:
    problem: what is searched.
    size: linearisations kept.
    tightness: of the first tie to the best point, relative to the objective.
  """
  x = problem.x
  return Model(
    cuts=jnp.zeros((size, x.size), x.dtype),
    offsets=jnp.zeros(size, x.dtype),
    on=jnp.zeros(size, bool),
    used=jnp.full(size, -1, jnp.int32),
    weights=jnp.zeros(size, x.dtype),
    tightness=jnp.asarray(tightness, x.dtype),
  )


def next_step(
  problem: problem_lib.Problem,
  s: State,
  model: Model,
  linear: problem_lib.Linear,
  i: jax.Array,
) -> tuple[jax.Array, Model]:
  """Adds a cut; returns the step to the model's nearest point, and the model.

  Args:
    problem: what is searched.
    s: where the search stands.
    model: the cuts so far.
    linear: the network to first order at `s.point`, toward `s.target`.
    i: which round this is.
  """
  model = _add_cut(problem, s, model, linear, i)
  low, high = (v.ravel() for v in problem.step_bounds)
  best = (s.best - problem.x).ravel()
  step, weights = _nearest(
    model, low, high, best, norm=problem.norm, distance=s.distance
  )
  # A cut that holds the step stays; the others leave, oldest first.
  used = jnp.where(weights > 0, i, model.used)
  step = step.reshape(problem.x.shape)
  step = step if problem.project is None else problem.project(step)
  return OVERSHOOT * step, model._replace(weights=weights, used=used)


def follow(
  problem: problem_lib.Problem, s: State, model: Model, ray: rays.RayPoint
) -> tuple[State, Model]:
  """Returns state and model after the step was followed to the boundary."""
  length = norms.norm(ray.point - problem.x, problem.norm)
  found = s.status == Status.FOUND
  gain = found & ray.found & (length < s.distance)
  factor = jnp.where(gain, LOOSEN, jnp.where(ray.found, 1.5, 1.2))
  tightness = model.tightness * factor.astype(length.dtype)
  usable = jnp.isfinite(ray.margin)
  s = s._replace(
    point=jnp.where(usable, ray.point, s.point),
    target=jnp.where(usable, ray.runner_up, s.target),
    best=jnp.where(gain, ray.point, s.best),
    distance=jnp.where(gain, length, s.distance),
    forwards=s.forwards + ray.forwards,
  )
  return s, model._replace(tightness=jnp.clip(tightness, 0.1, 1e5))


def _add_cut(problem, s, model, linear, i):
  """Replaces the cut unused for longest by the linearisation at `s.point`."""
  gradient = linear.gradients[0].ravel()
  length = jnp.maximum(norms.norm(gradient, 2), jnp.finfo(gradient.dtype).tiny)
  offset = linear.gaps[0] - gradient @ (s.point - problem.x).ravel()
  row = jnp.argmin(jnp.where(model.on, model.used, -1))
  cuts = model.cuts.at[row].set(gradient / length)
  offsets = model.offsets.at[row].set(offset / length)
  best = (s.best - problem.x).ravel()
  valid = cuts @ best + offsets <= VALID * norms.norm(best, 2)
  on = (model.on & valid).at[row].set(True)
  return model._replace(
    cuts=cuts,
    offsets=offsets,
    on=on,
    used=model.used.at[row].set(i),
    weights=jnp.where(on, model.weights, 0.0).at[row].set(0.0),
  )


def _nearest(model, low, high, best, *, norm, distance):
  """The short step, close to `best`, that satisfies all cuts.

  Minimises |v|_1 + t/2 |v - best|^2, |v|^2/2 + t/2 |v - best|^2, or for linf
  |v - best|^2/2 within a cube somewhat smaller than the distance, subject to
  cuts . v + offsets <= 0 and the box, by coordinate ascent on the dual: the
  primal solution is separable. Other powers are expanded around `best`, to the
  second order, which is t/2 times the tie too. Starts from the multipliers of
  the last round, of which one cut is new.

  Returns:
    `(v [n], weights [m])`, the cuts' multipliers.
  """
  cuts, offsets, tightness = model.cuts, model.offsets, model.tightness
  squares = jnp.maximum(jnp.sum(best**2), jnp.finfo(best.dtype).tiny)
  # For l1 in units in which |v|_1 and |v|^2 weigh the same at `best`.
  tie = jnp.where(norm == 1, tightness * distance / squares, tightness)
  tie = jnp.where(norm == jnp.inf, 1.0, tie)
  stiffness = jnp.where(norm == 2, 1 + tie, tie)
  threshold = jnp.where(norm == 1, 1 / tie, 0.0)
  level = jnp.where(
    norm == jnp.inf, distance * (1 - LEVEL / tightness), jnp.inf
  )
  low, high = jnp.maximum(low, -level), jnp.minimum(high, level)
  center = tie * best
  if isinstance(norm, jax.Array) or norm not in norms.PLAIN:
    plain = (norm == 1) | (norm == 2) | (norm == jnp.inf)
    slope, curvature = _expand_power(best, norm)
    stiffness = jnp.where(plain, stiffness, curvature * (1 + tie))
    center = jnp.where(plain, center, stiffness * best - slope)
  give = 1 / stiffness
  squares = cuts**2 * jnp.broadcast_to(give, best.shape)[None]

  def primal(pull):
    v = give * (center - pull)
    shrunk = jnp.sign(v) * jnp.maximum(jnp.abs(v) - threshold, 0.0)
    return jnp.clip(shrunk, low, high)

  def ascend(k, dual):
    weights, pull = dual
    i = k % len(cuts)
    v = primal(pull)
    free = (v > low) & (v < high) & ((v != 0) | (threshold == 0))
    slope = jnp.sum(jnp.where(free, squares[i], 0.0))
    slope = jnp.maximum(slope, 1e-3 * jnp.min(give))
    moved = weights[i] + (offsets[i] + cuts[i] @ v) / slope
    moved = jnp.where(model.on[i], jnp.maximum(moved, 0.0), 0.0)
    pull = pull + (moved - weights[i]) * cuts[i]
    return weights.at[i].set(moved), pull

  rounds = SWEEPS * len(cuts)
  dual = model.weights, model.weights @ cuts
  weights, pull = jax.lax.fori_loop(0, rounds, ascend, dual)
  return primal(pull), weights


def _expand_power(v, p):
  """The slope of `scale^2 |v / scale|_p^p / p`, and a bound of its curvature.

  `scale` is the largest entry. The curvature is that of entries of no less than
  a share of it: below p = 2 it has no bound, above p = 2 it may vanish.
  """
  scale = jnp.max(jnp.abs(v))
  unit = jnp.abs(v) / jnp.where(scale > 0, scale, 1.0)
  least = jnp.where(p < 2, 0.01, 0.1)
  curvature = jnp.maximum(p - 1, 1) * jnp.maximum(unit, least) ** (p - 2)
  return scale * jnp.sign(v) * unit ** (p - 1), curvature
