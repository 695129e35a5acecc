"""DeepFool: iterated linearisation."""

from typing import Any

import jax
import jax.numpy as jnp

from dmm_jax import norms
from dmm_jax.boundary import descent
from dmm_jax.boundary import point as point_lib
from dmm_jax.boundary import subspace
from dmm_jax.boundary.point import Status


def nearest_linear(
  linear: point_lib.Linear,
  low: jax.Array,
  high: jax.Array,
  *,
  norm: float,
  project: point_lib.Project = None,
  overshoot: float = 0.0,
  least_gap: float = 0.0,
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Returns the smallest step that closes the nearest target's gap.

  Args:
    linear: a `point.Linear`.
    low, high: what a step may be at least and at most, as the input.
    norm: 1, 2 or inf.
    project: linear map onto the subspace of allowed steps, or None.
    overshoot: how much more than the gap is closed, as a fraction of it.
    least_gap: and of which at least this much.

  Returns:
    `(step, distance, index)`; a step of zeros and inf where no gradient leads
    anywhere.
  """
  if project is not None:
    linear = linear._replace(gradients=jax.vmap(project)(linear.gradients))
  reach = descent.reaches(linear.gaps, linear.gradients, norm)
  i = jnp.argmin(reach)
  gap = linear.gaps[i]
  gap = gap + overshoot * jnp.maximum(gap, least_gap)
  downhill = -linear.gradients[i]
  step = norms.smallest_step(downhill, gap, low, high, norm=norm)
  return within(project, step, downhill, low, high), reach[i], i


def within(
  project: point_lib.Project,
  step: jax.Array,
  gradient: jax.Array,
  low: jax.Array,
  high: jax.Array,
) -> jax.Array:
  """Brings a step into a linear subspace and the box, keeping its promise.

  `gradient . step` stays what it was where `subspace.confine` finds room.
  """
  if project is None:
    return step
  return subspace.confine(project, step, gradient, low, high)[0]


def onwards(
  p: jax.Array,
  linear: point_lib.Linear,
  low: jax.Array,
  high: jax.Array,
  **aim: Any,
) -> tuple[jax.Array, jax.Array]:
  """Returns where `nearest_linear` leads from `p`, and the distance there."""
  step, reach, _ = nearest_linear(linear, low - p, high - p, **aim)
  return jnp.clip(p + step, low, high), reach


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
) -> point_lib.Segment:
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
    logits_fn: one input -> logits `[k]`.
    x: one input, any shape, with the label's margin positive.
    label: its class.
    norm: 1, 2 or inf.
    low, high: the box, as `x`.
    project: linear map onto the subspace of allowed perturbations, or None.
    targets: the classes to aim at `[t]`.
    max_gradients: budget; each round takes `t`.
    overshoot: as a fraction of the gap.

  Returns:
    The last `Segment`.
  """
  rows = len(targets)
  look = lambda p: point_lib.linearize(logits_fn, p, label, targets)

  first = look(x)
  least_gap = 0.05 * jnp.min(first.gaps)

  def searching(s):
    segment, _ = s
    budget = segment.gradients + rows <= max_gradients
    return (segment.status == Status.NOT_FOUND) & budget

  def advance(s):
    segment, linear = s
    new, reach = onwards(
      segment.outer,
      linear,
      low,
      high,
      project=project,
      norm=norm,
      overshoot=overshoot,
      least_gap=least_gap,
    )
    ahead = look(new)
    status = jnp.select(
      [~jnp.isfinite(ahead.lead) | jnp.isnan(reach), jnp.isinf(reach)],
      [Status.NON_FINITE, Status.ZERO_GRADIENT],
      jnp.where(ahead.lead < 0, Status.FOUND, Status.NOT_FOUND),
    )
    segment = point_lib.Segment(
      segment.outer,
      new,
      segment.lead_outer,
      ahead.lead,
      ahead.rival,
      status,
      segment.gradients + rows,
      segment.forwards,
    )
    return segment, ahead

  zero = jnp.zeros((), jnp.int32)
  status = jnp.where(
    jnp.isfinite(first.lead), Status.NOT_FOUND, Status.NON_FINITE
  )
  start = point_lib.Segment(
    x, x, first.lead, first.lead, first.rival, status, zero + rows, zero
  )
  return jax.lax.while_loop(searching, advance, (start, first))[0]
