"""Fast adaptive boundary attack: projections drawn towards the input."""

import jax
import jax.numpy as jnp

from dmm_jax import norms
from dmm_jax.boundary import problem as problem_lib
from dmm_jax.boundary import steps
from dmm_jax.boundary.attacks import descent
from dmm_jax.boundary.point import Segment


def onto_plane(
  gradient: jax.Array,
  gap: jax.Array,
  low: jax.Array,
  high: jax.Array,
  *,
  norm: float,
) -> jax.Array:
  """Returns the smallest step, within a box, that closes a gap of any sign."""
  downhill = -jnp.where(gap < 0, -1.0, 1.0) * gradient
  return norms.smallest_step(downhill, jnp.abs(gap), low, high, norm=norm)


def search(
  problem: problem_lib.Problem,
  budget: int,
  key: jax.Array | None = None,
  *,
  overshoot: float = 0.05,
  max_bias: float = 0.1,
  shrink: float = 0.9,
) -> Segment:
  """Projects the point and the input on the nearest linearised boundary.

  Each round projects both within the box and moves to a mean of the two, in
  which the weight of the input's is `max_bias` at most. From a point beyond the
  boundary it goes back towards the input, to `shrink` of the way. With many
  targets the rounds are few: aim at one target at a time where that matters.

  Source: Croce and Hein (2020), "Minimally distorted adversarial examples with
  a fast adaptive boundary attack", https://arxiv.org/abs/1907.02044.
  Deviations: no random restarts; the final search on a line is the caller's.

  Args:
    problem: what is searched.
    budget: gradients; each round takes one a target, and one forward.
    key: not used.
    overshoot: how far beyond the plane to step, of the way to it.
    max_bias: weight of the input's own projection, at most.
    shrink: what is kept of a perturbation that reaches beyond.

  Returns:
    A `Segment` from the input to the nearest point found beyond the boundary.
  """
  targets = problem.targets
  rows, x, norm = len(targets), problem.x, problem.norm
  low, high = problem.low, problem.high
  evaluate = lambda p: descent.expand(problem, p, targets)

  def project_both(p, at):
    distances = steps.plane_distances(jnp.abs(at.loss), at.gradient, norm)
    i = jnp.argmin(distances)
    gap, gradient = at.loss[i], at.gradient[i]
    here = onto_plane(gradient, gap, low - p, high - p, norm=norm)
    gap += jnp.sum(gradient * (x - p))
    there = onto_plane(gradient, gap, low - x, high - x, norm=norm)
    near, far = norms.norm(here, norm), norms.norm(there, norm)
    bias = near / jnp.where(near + far > 0, near + far, 1.0)
    bias = jnp.minimum(bias, max_bias)
    here = p - x + (1 + overshoot) * here
    step = (1 - bias) * here + bias * (1 + overshoot) * there
    return descent.into_box(problem, step)

  def advance(state):
    segment, at, p = state
    new = project_both(p, at)
    margin = problem_lib.margin_at(problem, new)
    ahead = at._replace(
      margin=margin.value,
      runner_up=margin.runner_up,
      finite=jnp.isfinite(margin.value),
    )
    segment = descent.update_best(
      segment, new, ahead, norm=norm, gradients=0, forwards=1
    )
    back = jnp.clip(x + shrink * (new - x), low, high)
    new = jnp.where(margin.value < 0, back, new)
    at = evaluate(new)
    segment = descent.update_best(segment, new, at, norm=norm, gradients=rows)
    return segment, at, new

  first = evaluate(x)
  return jax.lax.while_loop(
    lambda state: descent.should_continue(*state[:2], budget - rows + 1),
    advance,
    (descent.init(x, first, rows), first, x),
  )[0]
