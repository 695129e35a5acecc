"""Sequential boundary projection: the nearest point, not just some point."""

import jax
import jax.numpy as jnp

from dmm_jax import norms
from dmm_jax.boundary import deepfool
from dmm_jax.boundary import point as point_lib
from dmm_jax.boundary import rays
from dmm_jax.boundary.point import Segment
from dmm_jax.boundary.point import Status


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
  rtol: float = 1e-4,
  num_rounds: int = 10,
) -> Segment:
  """Projects the input, again and again, on the boundary seen from afar.

  Starts from DeepFool's point. Each round linearises the margin at the best
  boundary point so far, projects the *original* input on that hyperplane
  within the box, steps towards the projection, and pulls the result back to
  the boundary along the ray from the input. A step that brings no gain is
  halved. Where it converges, the perturbation is the dual direction of the
  boundary's normal: a local optimum, which DeepFool's points are not.

  Args:
    logits_fn, x, label, norm, low, high, project, targets: as for
      `deepfool.search`.
    max_gradients: budget; half of it at most goes to DeepFool.
    rtol: how closely a ray is followed to the boundary, of the distance.
    num_rounds: projections, of one gradient each.

  Returns:
    A `Segment` whose inner end is the input.
  """
  space = dict(norm=norm, low=low, high=high)
  first = deepfool.search(
    logits_fn,
    x,
    label,
    **space,
    project=project,
    targets=targets,
    max_gradients=max(2 * len(targets), max_gradients // 2),
  )
  found = first.status == Status.FOUND
  at_x = point_lib.linearize(logits_fn, x, label, targets)

  def on_ray(p, lead, target):
    """The crossing between the input and a point beyond the boundary."""
    segment = Segment(
      x, p, at_x.lead, lead, target, jnp.int32(Status.FOUND), 0, 0
    )
    tolerance = jnp.where(lead < 0, rtol, jnp.inf)
    point, _, target, forwards = rays.pull_back(
      logits_fn, label, segment, tolerance=tolerance
    )
    return point, target, forwards

  def project_input(p, target):
    linear = point_lib.linearize(logits_fn, p, label, target[None])
    gradient = linear.gradients[0]
    if project is not None:
      gradient = project(gradient)
    gap = linear.gaps[0] + jnp.sum(gradient * (x - p))
    step = norms.smallest_step(-gradient, gap, low - x, high - x, norm=norm)
    return deepfool.within(project, step, -gradient, low - x, high - x)

  def advance(i, state):
    point, target, distance, stride, forwards = state
    step = project_input(point, target)
    new = (1 - stride) * (point - x) + stride * step
    # A little beyond, so that a straight boundary is crossed.
    new = jnp.clip(x + 1.01 * new, low, high)
    logits = logits_fn(new)
    ahead = point_lib.leads(logits, label)
    crossing, rival, used = on_ray(new, *ahead)
    length = norms.norm(crossing - x, norm)
    gain = (ahead[0] < 0) & (length < distance)
    return (
      jnp.where(gain, crossing, point),
      jnp.where(gain, rival, target),
      jnp.where(gain, length, distance),
      jnp.where(gain, jnp.minimum(1.5 * stride, 1.0), stride / 2),
      forwards + used + 1,
    )

  point, target, used = on_ray(first.outer, first.lead_outer, first.target)
  state = (
    point,
    target,
    norms.norm(point - x, norm),
    jnp.ones((), x.dtype),
    first.forwards + used,
  )
  rounds = jnp.where(
    found, jnp.minimum(num_rounds, max_gradients - first.gradients), 0
  )
  point, target, _, _, forwards = jax.lax.fori_loop(0, rounds, advance, state)
  lead, target = point_lib.leads(logits_fn(point), label)
  # Seen again to lie beyond; else DeepFool's point, which does, stands.
  beyond = found & (lead < 0)
  return Segment(
    x,
    jnp.where(beyond, point, first.outer),
    at_x.lead,
    jnp.where(beyond, lead, first.lead_outer),
    jnp.where(beyond, target, first.target),
    first.status,
    first.gradients + rounds,
    forwards + 1,
  )
