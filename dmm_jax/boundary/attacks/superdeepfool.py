"""SuperDeepFool: DeepFool's point, turned until it meets the boundary."""

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
  overshoot: float = 0.02,
  rtol: float = 1e-3,
) -> Segment:
  """Alternates DeepFool with a projection on the boundary's normal.

  DeepFool runs until the class changes; the perturbation there gives way to
  the smallest one of equal length along the gradient there; if that falls
  short of the boundary, DeepFool goes on from it. Ends when a projection lies
  beyond, or when DeepFool's points come no nearer. Cheap, but it ends up to a
  few percent from a local optimum where the boundary has a kink.

  Source: Abdollahpoorrostam, Abroshan, Moosavi-Dezfooli (2024),
  "SuperDeepFool: a new fast and accurate minimal adversarial attack",
  https://arxiv.org/abs/2303.12481, SDF(inf, 1). Deviations: steps are exact
  projections within the box; norms other than l2, by their dual directions;
  the overshoot is part of each step and at least 0.1 % of the first gap, so
  that rounding cannot stall it; it ends where the two moves alternate without
  gain; the final search on a line is the caller's.

  Args:
    problem: what is searched.
    budget: gradients; each step and each projection takes one a target.
    key: not used.
    overshoot: of DeepFool's steps, as a fraction of the gap.
    rtol: the least gain, relative, from one of DeepFool's points to the next.

  Returns:
    A `Segment` from the input to the nearest point found beyond the boundary.
  """
  targets = problem.targets
  rows, x, norm = len(targets), problem.x, problem.norm
  evaluate = lambda p: descent.expand(problem, p, targets)

  def deepfool_step(p, at):
    step, _, _ = steps.nearest_linear(
      problem,
      p,
      jnp.abs(at.loss),
      at.gradient,
      overshoot=overshoot,
      least_gap=least_gap,
    )
    return p - x + step

  def projection(p, at):
    downhill = -at.gradient[jnp.argmin(at.loss)]
    gain = jnp.maximum(jnp.sum(downhill * (p - x)), 0.0)
    return norms.smallest_step(downhill, gain, *problem.step_bounds, norm=norm)

  def advance(state):
    segment, at, p, _ = state
    crossed, least = at.margin < 0, descent.distance(segment, norm)
    step = jnp.where(crossed, projection(p, at), deepfool_step(p, at))
    new = descent.into_box(problem, step)
    at = evaluate(new)
    segment = descent.update_best(segment, new, at, norm=norm, gradients=rows)
    stalled = norms.norm(new - x, norm) > (1 - rtol) * least
    return segment, at, new, (at.margin < 0) & (crossed | stalled)

  def searching(state):
    segment, at, _, done = state
    return descent.should_continue(segment, at, budget - rows + 1) & ~done

  first = evaluate(x)
  least_gap = 0.05 * jnp.min(jnp.abs(first.loss))
  start = descent.init(x, first, rows), first, x, jnp.bool_(False)
  return jax.lax.while_loop(searching, advance, start)[0]
