"""sigma-zero: descent of a smooth count of changes, with a threshold."""

import jax
import jax.numpy as jnp

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
  last_step: float = 0.0,
  sharpness: float = 1e-3,
  threshold: float = 0.3,
  change: float = 0.01,
) -> Segment:
  """Descends the margin and the share of changed inputs at once.

  The share is smoothed, `mean(v^2 / (v^2 + sharpness))`. Steps are in units of
  the largest entry of the gradient, and fall along a cosine; after each one,
  changes below a threshold are undone. The threshold rises beyond the boundary
  and falls before it, by `change` of the step.

  Source: Cina et al. (2025), "sigma-zero: gradient-based optimization of
  l0-norm adversarial examples", https://arxiv.org/abs/2402.01879, algorithm 1.
  Deviations: lengths are in units of the box, so that inputs need not be images
  in [0, 1]; beyond the boundary the margin still counts as 0.

  Args:
    problem: what is searched, in norm 0; the loss is the margin over its likely
      targets.
    budget: gradients, all of them used; each round takes one, `x` another.
    key: not used.
    first_step, last_step: length of steps.
    sharpness: sigma, of the smooth count.
    threshold: of a change that stays, in the first round.
    change: of the threshold, per unit of the step.

  Returns:
    A `Segment` from the input to the point found beyond the boundary with the
    fewest changes.
  """
  x, width = problem.x, problem.high - problem.low
  unit = jnp.where(width > 0, width, 1.0)
  evaluate = lambda p: descent.evaluate(
    problem, descent.hard_margin, p, problem.targets
  )

  def count_slope(v):
    return 2 * v * sharpness / (v**2 + sharpness) ** 2 / v.size

  def advance(state):
    segment, at, p, least = state
    size = steps.cosine(first_step, last_step, segment.gradients / budget)
    size = size.astype(x.dtype)
    v = (p - x) / unit
    slope = jnp.where(at.margin > 0, at.gradient * unit, 0.0) + count_slope(v)
    largest = jnp.max(jnp.abs(slope))
    slope = slope / jnp.where(largest > 0, largest, 1.0)
    new = jnp.clip(x + unit * (v - size * slope), problem.low, problem.high)
    new = jnp.where(jnp.abs(new - x) < least * unit, x, new)
    at = evaluate(new)
    segment = descent.update_best(segment, new, at, norm=0)
    moved = jnp.where(at.margin < 0, change, -change) * size
    return segment, at, new, jnp.clip(least + moved, 0.0, 1.0)

  first = evaluate(x)
  start = descent.init(x, first), first, x, jnp.asarray(threshold, x.dtype)
  return jax.lax.while_loop(
    lambda state: descent.should_continue(*state[:2], budget), advance, start
  )[0]
