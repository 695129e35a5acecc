"""Sequential boundary projection: the nearest point, not just some point."""

import jax
import jax.numpy as jnp

from dmm_jax import norms
from dmm_jax.boundary import deepfool
from dmm_jax.boundary import point as point_lib
from dmm_jax.boundary import rays
from dmm_jax.boundary.point import Segment
from dmm_jax.boundary.point import Status

RAY_RTOL = 1e-3  # How closely a round follows its ray to the boundary.


def search(
  logits_fn: point_lib.LogitsFn,
  x: jax.Array,
  label: jax.Array,
  *,
  norm: float,
  low: jax.Array,
  high: jax.Array,
  project=None,
  targets: jax.Array,
  max_gradients: int,
  last_stride: float = 0.02,
  start_norm: float | None = None,
) -> Segment:
  """Projects the input, again and again, on the boundary seen from afar.

  Starts from DeepFool's point. Each round linearises the margin at a boundary
  point, projects the *original* input on that hyperplane within the box, steps
  towards the projection, and pulls the result back to the boundary along the
  ray from the input; the nearest point of all rounds counts. Strides fall from
  1 to `last_stride`, whether a round gained or not: where the boundary has a
  kink, its two sides alternate, and ever shorter strides average them. A search
  that only ever accepts gains stops at the first kink. It ends in a local
  optimum, which other starts and targets may undercut.

  Ours; a step is that of FAB (Croce and Hein 2020,
  https://arxiv.org/abs/1907.02044) taken from the input alone.

  Args:
    logits_fn, x, label, norm, low, high, project, targets: as for
      `deepfool.search`.
    max_gradients: budget; what DeepFool leaves of it goes to rounds.
    last_stride: of the way to the projection, in the last round.
    start_norm: in which DeepFool looks for the first point; None for `norm`.
      Other norms lead to other local optima.

  Returns:
    A `Segment` whose inner end is the input.
  """
  space = dict(norm=norm, low=low, high=high, project=project)
  first = deepfool.search(
    logits_fn,
    x,
    label,
    **(space | {'norm': norm if start_norm is None else start_norm}),
    targets=targets,
    max_gradients=max(2 * len(targets), max_gradients),
  )
  lead = point_lib.leads(logits_fn(x), label)[0]
  on_ray = lambda p, beyond: _on_ray(logits_fn, x, label, lead, p, *beyond)
  rounds = jnp.where(
    first.status == Status.FOUND, max_gradients - first.gradients, 0
  )
  rounds = jnp.maximum(rounds, 0)

  def advance(i, state):
    here, target, best, distance, forwards = state
    step = _project_input(logits_fn, x, label, here, target, **space)
    stride = last_stride ** (i / jnp.maximum(rounds - 1, 1))
    new = (1 - stride) * (here - x) + stride * step
    # A little beyond, so that a straight boundary is crossed.
    new = jnp.clip(x + 1.01 * new, low, high)
    ahead = point_lib.leads(logits_fn(new), label)
    crossing, rival, used = on_ray(new, ahead)
    beyond = ahead[0] < 0
    length = jnp.where(beyond, norms.norm(crossing - x, norm), jnp.inf)
    gain = length < distance
    return (
      jnp.where(beyond, crossing, new),
      jnp.where(beyond, rival, target),
      jnp.where(gain, crossing, best),
      jnp.where(gain, length, distance),
      forwards + used + 1,
    )

  point, target, used = on_ray(first.outer, (first.lead_outer, first.target))
  state = point, target, point, norms.norm(point - x, norm), used
  *_, best, _, forwards = jax.lax.fori_loop(0, rounds, advance, state)
  counts = first.gradients + rounds, first.forwards + forwards
  return settle(logits_fn, x, label, lead, best, first, counts)


def settle(logits_fn, x, label, lead, point, fallback, counts) -> Segment:
  """The segment from the input to `point`, if that is seen again beyond."""
  beyond, target = point_lib.leads(logits_fn(point), label)
  stands = (fallback.status == Status.FOUND) & (beyond < 0)
  return Segment(
    x,
    jnp.where(stands, point, fallback.outer),
    lead,
    jnp.where(stands, beyond, fallback.lead_outer),
    jnp.where(stands, target, fallback.target),
    fallback.status,
    counts[0],
    counts[1] + 2,
  )


def _on_ray(logits_fn, x, label, lead, p, beyond, target):
  """The crossing between the input and a point beyond the boundary."""
  found = jnp.int32(Status.FOUND)
  segment = Segment(x, p, lead, beyond, target, found, 0, 0)
  tolerance = jnp.where(beyond < 0, RAY_RTOL, jnp.inf)
  point, _, target, forwards = rays.pull_back(
    logits_fn, label, segment, tolerance=tolerance, max_forwards=8
  )
  return point, target, forwards


def _project_input(logits_fn, x, label, p, target, *, norm, low, high, project):
  """From the input onto the boundary as it looks, to first order, from `p`."""
  linear = point_lib.linearize(logits_fn, p, label, target[None])
  gradient = linear.gradients[0]
  if project is not None:
    gradient = project(gradient)
  gap = linear.gaps[0] + jnp.sum(gradient * (x - p))
  step = norms.smallest_step(-gradient, gap, low - x, high - x, norm=norm)
  return deepfool.within(project, step, -gradient, low - x, high - x)
