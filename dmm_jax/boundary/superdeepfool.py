"""SuperDeepFool: DeepFool's point, turned until it meets the boundary."""

import jax
import jax.numpy as jnp

from dmm_jax import norms
from dmm_jax.boundary import deepfool
from dmm_jax.boundary import descent
from dmm_jax.boundary import point as point_lib
from dmm_jax.boundary.point import Segment


def search(
  logits_fn: point_lib.LogitsFn,
  x: jax.Array,
  label: jax.Array,
  *,
  norm: float,
  low: jax.Array,
  high: jax.Array,
  project: point_lib.Project = None,
  targets: jax.Array,
  max_gradients: int,
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
    logits_fn, x, label, low, high, project, targets: as for
      `deepfool.search`.
    norm: 1, 2 or inf.
    max_gradients: budget; each step and each projection takes `t`.
    overshoot: of DeepFool's steps, as a fraction of the gap.
    rtol: the least gain, relative, from one of DeepFool's points to the next.

  Returns:
    A `Segment` from the input to the nearest point seen beyond the boundary.

  Raises:
    ValueError: for another norm.
  """
  norms.check(norm)
  rows = len(targets)
  see = lambda p: descent.expand(logits_fn, p, label, targets, project)

  def onwards(p, seen):
    gaps = jnp.abs(seen.loss)
    linear = point_lib.Linear(seen.lead, seen.rival, gaps, seen.gradient)
    step, _, _ = deepfool.nearest_linear(
      linear,
      low - p,
      high - p,
      norm=norm,
      overshoot=overshoot,
      least_gap=least_gap,
    )
    return p - x + step

  def projection(p, seen):
    downhill = -seen.gradient[jnp.argmin(seen.loss)]
    gain = jnp.maximum(jnp.sum(downhill * (p - x)), 0.0)
    return norms.smallest_step(downhill, gain, low - x, high - x, norm=norm)

  def advance(state):
    segment, seen, p, _ = state
    crossed, least = seen.lead < 0, descent.distance(segment, norm)
    step = jnp.where(crossed, projection(p, seen), onwards(p, seen))
    step = descent.inside(project, step, low - x, high - x)
    new = jnp.clip(x + step, low, high)
    seen = see(new)
    segment = descent.record(segment, new, seen, norm=norm, gradients=rows)
    stalled = norms.norm(new - x, norm) > (1 - rtol) * least
    return segment, seen, new, (seen.lead < 0) & (crossed | stalled)

  def searching(state):
    segment, seen, _, done = state
    return descent.going(segment, seen, max_gradients - rows + 1) & ~done

  first = see(x)
  least_gap = 0.05 * jnp.min(jnp.abs(first.loss))
  start = descent.begin(x, first, rows), first, x, jnp.bool_(False)
  return jax.lax.while_loop(searching, advance, start)[0]
