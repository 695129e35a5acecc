"""Decoupled direction and norm: along the boundary on a sphere."""

import jax
import jax.numpy as jnp

from dmm_jax import norms
from dmm_jax.boundary import problem as problem_lib
from dmm_jax.boundary import steps
from dmm_jax.boundary.attacks import descent
from dmm_jax.boundary.point import Segment


def search(
  problem: problem_lib.Problem,
  budget: int,
  key: jax.Array | None = None,
  *,
  gamma: float = 0.05,
  first_step: float = 1.0,
  last_step: float = 0.01,
) -> Segment:
  """Walks along the boundary on a sphere that shrinks beyond it.

  Each round steps down the loss, and rescales the perturbation to a radius
  that shrinks by `gamma` where the class differs and grows by `gamma` where it
  does not. The nearest point found is up to `gamma` too far, which the caller's
  refinement removes. It does not help where the nearest boundary is that of
  another class than the loss leads to; and several targets of like probability
  draw the search between their boundaries, a few percent too far.

  Source: Rony et al. (2019), "Decoupling direction and norm for efficient
  gradient-based L2 adversarial attacks and defenses",
  https://arxiv.org/abs/1811.09600. Deviations: no quantisation of the input;
  the first radius is the linear estimate instead of 1, and steps are in units
  of the radius, so that inputs need not be images; a gradient of zero keeps
  the previous direction instead of drawing one; the radius shrinks from no
  more than the length that the box has left.

  Args:
    problem: what is searched, in norm 2; the loss is cross-entropy among the
      label and its likely targets.
    budget: gradients, all of them used; each round takes one, `x` another.
    key: not used.
    gamma: change of the radius, relative, in a round.
    first_step, last_step: length of steps, in radii; between them a cosine.

  Returns:
    A `Segment` from the input to the nearest point found beyond the boundary.
  """
  targets, x = problem.targets, problem.x
  evaluate = lambda p: descent.evaluate(
    problem, descent.soft_margin, p, targets
  )

  def advance(state):
    segment, at, p, radius, heading = state
    fraction = (segment.gradients / budget).astype(x.dtype)
    heading = descent.direction(-at.gradient, heading)
    size = radius * steps.cosine(first_step, last_step, fraction)
    new = descent.direction(p - x + size * heading, heading)
    new = descent.into_box(problem, radius * new)
    at = evaluate(new)
    segment = descent.update_best(segment, new, at, norm=2)
    radius = jnp.where(
      at.margin < 0,
      (1 - gamma) * jnp.minimum(radius, norms.norm(new - x, 2)),
      jnp.minimum((1 + gamma) * radius, limit),
    )
    return segment, at, new, radius, heading

  first = evaluate(x)
  _, radius = descent.linear_step(problem, first)
  limit = descent.max_radius(problem, radius)
  radius = jnp.minimum(radius, limit)
  start = descent.init(x, first), first, x, radius, jnp.zeros_like(x)
  return jax.lax.while_loop(
    lambda state: descent.should_continue(*state[:2], budget), advance, start
  )[0]
