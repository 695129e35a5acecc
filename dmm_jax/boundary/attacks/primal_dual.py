"""Primal-dual proximal gradient descent on the Lagrangian of the distance."""

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
  first_step: float = 1.0,
  last_step: float = 0.01,
  first_change: float = 0.1,
  last_change: float = 0.01,
) -> Segment:
  """Descends distance and margin together; a dual variable weighs them.

  Minimises `(1 - dual) |step|_p + dual margin`. Each round takes a gradient
  step on the margin and a proximal one on the norm, within the box; then the
  log-odds of `dual` go up before the boundary and down beyond it. No ball
  constrains the path, which helps in l1, where balls are all corners.

  Source: Matyasko and Chau (2021), "PDPGD: primal-dual proximal gradient
  descent adversarial attack", https://arxiv.org/abs/2106.01538. Deviations:
  gradients are divided by their dual norm, which makes even odds the balance
  at any scale of input and logits, and are followed without Adam's
  preconditioner, so that the proximal step is exact; `dual` is that of the
  last round alone, where the authors' code averages the dual variable over
  rounds; it holds the box, too; steps are in units of the l2 length of the
  first linear step.

  Args:
    problem: what is searched; the loss is the margin over its likely targets.
    budget: gradients, all of them used; each round takes one, `x` another.
    key: not used.
    first_step, last_step: length of primal steps; between them a cosine.
    first_change, last_change: of the log-odds in a round, likewise.

  Returns:
    A `Segment` from the input to the nearest point found beyond the boundary.
  """
  targets = problem.targets
  x, norm, low, high = problem.x, problem.norm, *problem.step_bounds
  evaluate = lambda p: descent.evaluate(
    problem, descent.hard_margin, p, targets
  )

  def advance(state):
    segment, at, p, odds = state
    fraction = (segment.gradients / budget).astype(x.dtype)
    dual = jax.nn.sigmoid(odds)
    length = scale * steps.cosine(first_step, last_step, fraction)
    size = norms.norm(at.gradient, 2)
    steepness = norms.norm(at.gradient, norms.dual(norm))
    weight = length * (1 - dual) * steepness / jnp.where(size > 0, size, 1.0)
    heading = descent.direction(-at.gradient, jnp.zeros_like(x))
    new = p - x + length * dual * heading
    new = norms.prox(new, weight, low, high, norm=norm)
    new = descent.into_box(problem, new)
    at = evaluate(new)
    segment = descent.update_best(segment, new, at, norm=norm)
    change = steps.cosine(first_change, last_change, fraction)
    odds = odds + jnp.where(at.margin < 0, -change, change)
    return segment, at, new, odds

  first = evaluate(x)
  step, _ = descent.linear_step(problem, first)
  scale = norms.norm(step, 2)
  start = descent.init(x, first), first, x, jnp.zeros((), x.dtype)
  return jax.lax.while_loop(
    lambda state: descent.should_continue(*state[:2], budget), advance, start
  )[0]
