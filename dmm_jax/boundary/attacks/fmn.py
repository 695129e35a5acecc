"""Fast minimum-norm attack: descent on a ball whose radius follows."""

import jax
import jax.numpy as jnp

from dmm_jax import norms
from dmm_jax.boundary import paths
from dmm_jax.boundary import problem as problem_lib
from dmm_jax.boundary import steps
from dmm_jax.boundary.attacks import descent
from dmm_jax.boundary.point import Segment
from dmm_jax.boundary.point import Status


def search(
  problem: problem_lib.Problem,
  budget: int,
  key: jax.Array | None = None,
  *,
  gamma: float = 0.05,
  last_gamma: float = 0.001,
  first_step: float = 1.0,
  last_step: float = 0.01,
) -> Segment:
  """Descends the margin on a ball that closes in on the boundary.

  Each round takes a gradient step and projects it on the ball: the smallest
  that the boundary's linear estimate asks for until a point beyond has been
  found, then by `gamma` smaller after each point beyond and larger after each
  other. Steps and changes of the radius fall along a cosine.

  Source: Pintor et al. (2021), "Fast minimum-norm adversarial attacks through
  adaptive norm constraints", https://arxiv.org/abs/2102.12827; for norm 0 the
  radius is a number of changes, one at first, and moves by one at least, as
  there. Deviations:
  the projection is on the ball and the box at once, and the linear estimate
  counts only coordinates that the box leaves free to move (with the box apart,
  saturated coordinates hold the search back for ever); before the first point
  beyond, the radius grows by at least `gamma`; steps are in units of the l2
  length of the first linear step, so that inputs need not be images.

  Args:
    problem: what is searched; the loss is the margin over its likely targets.
    budget: gradients, all of them used; each round takes one, `x` another.
    key: not used.
    gamma, last_gamma: change of the radius, relative, in the first and the
      last round.
    first_step, last_step: length of steps, likewise.

  Returns:
    A `Segment` from the input to the nearest point found beyond the boundary.
  """
  targets = problem.targets
  x, norm, low, high = problem.x, problem.norm, *problem.step_bounds
  evaluate = lambda p: descent.evaluate(
    problem, descent.hard_margin, p, targets
  )

  def advance(state):
    segment, at, p, radius, heading = state
    fraction = (segment.gradients / budget).astype(x.dtype)
    heading = descent.direction(-at.gradient, heading)
    size = scale * steps.cosine(first_step, last_step, fraction)
    new = p - x + size * heading
    new = norms.project_ball(new, radius, low, high, norm=norm)
    new = descent.into_box(problem, new)
    at = evaluate(new)
    segment = descent.update_best(segment, new, at, norm=norm)
    radius = next_radius(
      segment,
      radius,
      norms.norm(new - x, norm) + linear_distance(problem, new, at),
      at.margin < 0,
      steps.cosine(gamma, last_gamma, fraction),
      norm,
    )
    return segment, at, new, jnp.minimum(radius, limit), heading

  first = evaluate(x)
  step, length = descent.linear_step(problem, first)
  scale = norms.norm(step, 2)
  limit = descent.max_radius(problem, length)
  radius = jnp.minimum(linear_distance(problem, x, first), limit)
  start = descent.init(x, first), first, x, radius, jnp.zeros_like(x)
  return jax.lax.while_loop(
    lambda state: descent.should_continue(*state[:2], budget), advance, start
  )[0]


def linear_distance(
  problem: problem_lib.Problem, p: jax.Array, at: descent.Evaluation
) -> jax.Array:
  """Returns the boundary's linear distance, along coordinates free to move.

  0 where there are none.
  """
  free = jnp.where(at.gradient > 0, p > problem.low, p < problem.high)
  gradient = jnp.where(free, at.gradient, 0.0)
  if paths.counts(problem):
    return jnp.any(gradient).astype(p.dtype)
  size = norms.norm(gradient, norms.dual(problem.norm))
  gap = jnp.abs(at.loss)
  return jnp.where(size > 0, gap / size, 0.0)


def next_radius(
  segment: Segment,
  radius: jax.Array,
  estimate: jax.Array,
  beyond: jax.Array,
  gamma: jax.Array | float,
  norm: float,
) -> jax.Array:
  """Shrinks beyond the boundary; grows before it, to the estimate at first."""
  grown, shrunk = (1 + gamma) * radius, (1 - gamma) * radius
  if not isinstance(norm, jax.Array) and norm == 0:
    grown = jnp.maximum(jnp.ceil(grown), radius + 1)
    shrunk = jnp.minimum(jnp.floor(shrunk), radius - 1)
  found = segment.status == Status.FOUND
  return jnp.where(
    beyond,
    jnp.minimum(shrunk, descent.distance(segment, norm)),
    jnp.where(found, grown, jnp.maximum(grown, estimate)),
  )
