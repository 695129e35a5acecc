"""DeepFool: iterated linearisation."""

import jax
import jax.numpy as jnp

from dmm_jax.boundary import problem as problem_lib
from dmm_jax.boundary import steps
from dmm_jax.boundary.point import Segment
from dmm_jax.boundary.point import Status


def search(
  problem: problem_lib.Problem,
  budget: int,
  key: jax.Array | None = None,
  *,
  overshoot: float = 0.02,
) -> Segment:
  """Follows linearised boundaries until the class changes.

  Each round linearises the margins over all `targets`, steps onto the nearest
  linearised boundary within the box, and `overshoot` beyond it. It finds a
  boundary point, not the nearest one: where the margin curves, expect 5 to
  30 % more than the least distance.

  Source: Moosavi-Dezfooli, Fawzi, Frossard (2016), "DeepFool: a simple and
  accurate method to fool deep neural networks",
  https://arxiv.org/abs/1511.04599. Deviations: steps are exact projections
  within the box instead of clipped ones; the overshoot is part of each step
  and at least 0.1 % of the first gap, so that rounding cannot stall it; the
  caller refines the last segment.

  Args:
    problem: what is searched.
    budget: gradients; each round takes one a target.
    key: not used.
    overshoot: as a fraction of the gap.

  Returns:
    The last `Segment`.
  """
  targets = problem.targets
  rows = len(targets)
  evaluate = lambda p: problem_lib.linearize(problem, p, targets)
  first = evaluate(problem.x)
  least_gap = 0.05 * jnp.min(first.gaps)

  def searching(s):
    segment, _ = s
    affordable = segment.gradients + rows <= budget
    return (segment.status == Status.NOT_FOUND) & affordable

  def advance(s):
    segment, linear = s
    step, distance, _ = steps.nearest_linear(
      problem,
      segment.outer,
      linear.gaps,
      linear.gradients,
      overshoot=overshoot,
      least_gap=least_gap,
    )
    new = jnp.clip(segment.outer + step, problem.low, problem.high)
    ahead = evaluate(new)
    status = jnp.select(
      [~jnp.isfinite(ahead.margin), distance == jnp.inf],
      [Status.NON_FINITE, steps.why_none(linear.gradients)],
      jnp.where(ahead.margin < 0, Status.FOUND, Status.NOT_FOUND),
    )
    segment = Segment(
      segment.outer,
      new,
      segment.margin_outer,
      ahead.margin,
      ahead.runner_up,
      status.astype(jnp.int32),
      segment.gradients + rows,
      segment.forwards,
    )
    return segment, ahead

  zero, x = jnp.zeros((), jnp.int32), problem.x
  status = jnp.where(
    jnp.isfinite(first.margin), Status.NOT_FOUND, Status.NON_FINITE
  ).astype(jnp.int32)
  start = Segment(
    x,
    x,
    first.margin,
    first.margin,
    first.runner_up,
    status,
    zero + rows,
    zero,
  )
  return jax.lax.while_loop(searching, advance, (start, first))[0]
