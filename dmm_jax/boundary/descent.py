"""What the gradient searches share: looks, their record, steps in the box."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from dmm_jax import convolutions
from dmm_jax import norms
from dmm_jax.boundary import point as point_lib
from dmm_jax.boundary.point import Segment
from dmm_jax.boundary.point import Status


class Look(NamedTuple):
  """What one gradient at a point tells.

  Attributes:
    loss: lower is nearer to, or deeper in, another class.
    gradient: of it, within the subspace of allowed perturbations.
    lead, rival: as in `point.leads`.
    finite: whether all of it is.
  """

  loss: jax.Array
  gradient: jax.Array
  lead: jax.Array
  rival: jax.Array
  finite: jax.Array


def look(
  loss: Callable,
  logits_fn: point_lib.LogitsFn,
  p: jax.Array,
  label: jax.Array,
  targets: jax.Array,
  project: point_lib.Project,
) -> Look:
  """Evaluates `loss(logits, label, targets)` and its gradient at `p`."""

  def at(p):
    logits = logits_fn(p)
    return loss(logits, label, targets), logits

  slope = convolutions.in_order(jax.value_and_grad(at, has_aux=True))
  (value, logits), gradient = slope(p)
  lead, rival = point_lib.leads(logits, label)
  finite = jnp.isfinite(lead) & jnp.all(jnp.isfinite(gradient))
  if project is not None:
    gradient = project(gradient)
  return Look(value, gradient, lead, rival, finite)


def expand(
  logits_fn: point_lib.LogitsFn,
  p: jax.Array,
  label: jax.Array,
  targets: jax.Array,
  project: point_lib.Project,
) -> Look:
  """Looks at all targets: losses are gaps `[t]`, gradients `[t, ...]`."""
  linear = point_lib.linearize(logits_fn, p, label, targets)
  gradients = linear.gradients
  finite = jnp.isfinite(linear.lead) & jnp.all(jnp.isfinite(gradients))
  if project is not None:
    gradients = jax.vmap(project)(gradients)
  return Look(linear.gaps, gradients, linear.lead, linear.rival, finite)


def reaches(gaps: jax.Array, gradients: jax.Array, norm: float) -> jax.Array:
  """How far the linearised boundaries `[t]` are; inf without a gradient."""
  dual = norms.dual(norm)
  sizes = jax.vmap(lambda gradient: norms.norm(gradient, dual))(gradients)
  reach = gaps / jnp.where(sizes > 0, sizes, 1.0)
  return jnp.where(sizes > 0, reach, jnp.inf)


def hard_margin(
  logits: jax.Array, label: jax.Array, targets: jax.Array
) -> jax.Array:
  """The label's logit minus the largest of the targets'."""
  return logits[label] - jnp.max(logits[targets])


def soft_margin(
  logits: jax.Array, label: jax.Array, targets: jax.Array
) -> jax.Array:
  """As `hard_margin`, with a smooth maximum: cross-entropy's log-odds.

  Cross-entropy is an increasing function of it, so that the two gradients have
  one direction; this one does not vanish where the network is confident.
  """
  return logits[label] - jax.nn.logsumexp(logits[targets])


def distance(segment: Segment, norm: float) -> jax.Array:
  """How far the outer end of a segment is; inf if it is not beyond."""
  found = segment.status == Status.FOUND
  length = norms.norm(segment.outer - segment.inner, norm)
  return jnp.where(found, length, jnp.inf)


def begin(x: jax.Array, first: Look, rows: int = 1) -> Segment:
  """Returns the segment of a search that has looked at `x` alone.

  NOT_FOUND where the search can go on; FOUND, at distance 0, where `x` itself
  lies beyond the boundary. The look took `rows` gradients.
  """
  zero = jnp.zeros((), jnp.int32)
  status = jnp.select(
    [~first.finite, first.lead < 0, ~jnp.any(first.gradient)],
    [Status.NON_FINITE, Status.FOUND, Status.ZERO_GRADIENT],
    Status.NOT_FOUND,
  ).astype(jnp.int32)
  return Segment(
    x, x, first.lead, first.lead, first.rival, status, zero + rows, zero
  )


def record(
  segment: Segment,
  p: jax.Array,
  seen: Look,
  *,
  norm: float,
  gradients: jax.Array | int = 1,
  forwards: jax.Array | int = 0,
) -> Segment:
  """Counts a look at `p`, and keeps `p` if it is beyond and the nearest yet.

  NON_FINITE after NaN or infinity, unless a point has been found before.
  """
  length = norms.norm(p - segment.inner, norm)
  keep = (seen.lead < 0) & (length < distance(segment, norm))
  found = keep | (segment.status == Status.FOUND)
  status = jnp.select(
    [found, seen.finite], [Status.FOUND, segment.status], Status.NON_FINITE
  )
  return Segment(
    inner=segment.inner,
    outer=jnp.where(keep, p, segment.outer),
    lead_inner=segment.lead_inner,
    lead_outer=jnp.where(keep, seen.lead, segment.lead_outer),
    target=jnp.where(keep, seen.rival, segment.target),
    status=status.astype(jnp.int32),
    gradients=segment.gradients + gradients,
    forwards=segment.forwards + forwards,
  )


def going(segment: Segment, seen: Look, max_gradients: int) -> jax.Array:
  """Whether a search can and may look once more.

  It cannot after NaN or infinity, nor where the first gradient was zero.
  """
  able = segment.status != Status.ZERO_GRADIENT
  return able & seen.finite & (segment.gradients < max_gradients)


def inside(
  project: point_lib.Project, step: jax.Array, low: jax.Array, high: jax.Array
) -> jax.Array:
  """Brings a step into the subspace, then the box, and keeps it in both.

  Without a subspace it is clipped, with one it is shrunk towards zero: an
  active bound that it pushes against then stops it altogether.
  """
  if project is None:
    return jnp.clip(step, low, high)
  return shrink(project(step), low, high)


def shrink(step: jax.Array, low: jax.Array, high: jax.Array) -> jax.Array:
  """Shortens a step, its direction kept, until it lies in the box."""
  size = jnp.abs(step)
  room = jnp.where(step > 0, high, -low)
  fits = jnp.where(size > 0, room / jnp.where(size > 0, size, 1.0), jnp.inf)
  return step * jnp.minimum(1.0, jnp.min(fits))


def straight_ahead(
  seen: Look, low: jax.Array, high: jax.Array, *, norm: float
) -> tuple[jax.Array, jax.Array]:
  """Returns the smallest step that closes a gap to first order, and its norm.

  Where the box blocks every coordinate, the norm is what it would be without.
  """
  gap = jnp.abs(seen.loss)
  step = norms.smallest_step(-seen.gradient, gap, low, high, norm=norm)
  size = norms.norm(seen.gradient, norms.dual(norm))
  free = gap / jnp.where(size > 0, size, 1.0)
  length = norms.norm(step, norm)
  return step, jnp.where(length > 0, length, free)


def direction(v: jax.Array, otherwise: jax.Array) -> jax.Array:
  """Returns `v` at unit l2 length, or another vector where `v` is zero."""
  size = norms.norm(v, 2)
  return jnp.where(size > 0, v / jnp.where(size > 0, size, 1.0), otherwise)


def farthest(
  x: jax.Array,
  low: jax.Array,
  high: jax.Array,
  length: jax.Array,
  *,
  norm: float,
) -> jax.Array:
  """A radius that no search need exceed: the box's, or a huge finite one."""
  room = jnp.maximum(high - x, x - low)
  corner = norms.norm(room, norm)
  huge = 1e6 * (length + norms.norm(x, norm))
  # The l2 norm of infinities is NaN.
  return jnp.where(jnp.all(room < jnp.inf), jnp.minimum(corner, huge), huge)


def cosine(start: float, end: float, fraction: jax.Array) -> jax.Array:
  """Goes from `start` to `end`, slowly at both ends."""
  return end + (start - end) * (1 + jnp.cos(jnp.pi * fraction)) / 2
