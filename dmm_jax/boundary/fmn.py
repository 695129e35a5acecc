"""Fast minimum-norm attack: descent on a ball whose radius follows."""

import jax
import jax.numpy as jnp

from dmm_jax import norms
from dmm_jax.boundary import descent
from dmm_jax.boundary import point as point_lib
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
  project: point_lib.Project = None,
  targets: jax.Array,
  max_gradients: int,
  gamma: float = 0.05,
  last_gamma: float = 0.001,
  first_step: float = 1.0,
  last_step: float = 0.01,
) -> Segment:
  """Descends the margin on a ball that closes in on the boundary.

  Each round takes a gradient step and projects it on the ball: the smallest
  that the boundary's linear estimate asks for until a point beyond has been
  seen, then by `gamma` smaller after each point beyond and larger after each
  other. Steps and changes of the radius fall along a cosine.

  Source: Pintor et al. (2021), "Fast minimum-norm adversarial attacks through
  adaptive norm constraints", https://arxiv.org/abs/2102.12827. Deviations:
  the projection is on the ball and the box at once, and the linear estimate
  counts only coordinates that the box leaves free to move (with the box apart,
  saturated coordinates hold the search back for ever); before the first point
  beyond, the radius grows by at least `gamma`; steps are in units of the l2
  length of the first linear step, so that inputs need not be images.

  Args:
    logits_fn, x, label, low, high, project, targets: as for
      `deepfool.search`; the loss is the margin over the targets.
    norm: 1, 2 or inf.
    max_gradients: budget, all of it used; each round takes one, `x` another.
    gamma, last_gamma: change of the radius, relative, in the first and the
      last round.
    first_step, last_step: length of steps, likewise.

  Returns:
    A `Segment` from the input to the nearest point seen beyond the boundary.

  Raises:
    ValueError: for another norm.
  """
  norms.check(norm)

  see = lambda p: descent.look(
    descent.hard_margin, logits_fn, p, label, targets, project
  )
  box = low - x, high - x

  def advance(state):
    segment, seen, p, radius, heading = state
    fraction = segment.gradients / max_gradients
    heading = descent.direction(-seen.gradient, heading)
    stride = scale * descent.cosine(first_step, last_step, fraction)
    new = p - x + stride * heading
    new = norms.project_ball(new, radius, *box, norm=norm)
    new = jnp.clip(x + descent.inside(project, new, *box), low, high)
    seen = see(new)
    segment = descent.record(segment, new, seen, norm=norm)
    radius = next_radius(
      segment,
      radius,
      norms.norm(new - x, norm) + to_boundary(new, seen, low, high, norm),
      seen.lead < 0,
      descent.cosine(gamma, last_gamma, fraction),
      norm,
    )
    return segment, seen, new, jnp.minimum(radius, limit), heading

  first = see(x)
  step, length = descent.straight_ahead(first, *box, norm=norm)
  scale = norms.norm(step, 2)
  limit = descent.farthest(x, low, high, length, norm=norm)
  radius = jnp.minimum(to_boundary(x, first, low, high, norm), limit)
  start = descent.begin(x, first), first, x, radius, jnp.zeros_like(x)
  return jax.lax.while_loop(
    lambda state: descent.going(*state[:2], max_gradients), advance, start
  )[0]


def to_boundary(
  p: jax.Array, seen: descent.Look, low: jax.Array, high: jax.Array, norm: float
) -> jax.Array:
  """The linear estimate of how far the boundary is, along free coordinates.

  0 where there are none.
  """
  free = jnp.where(seen.gradient > 0, p > low, p < high)
  steep = jnp.where(free, seen.gradient, 0.0)
  size = norms.norm(steep, norms.dual(norm))
  gap = jnp.abs(seen.loss)
  return jnp.where(size > 0, gap / jnp.where(size > 0, size, 1.0), 0.0)


def next_radius(
  segment: Segment,
  radius: jax.Array,
  estimate: jax.Array,
  beyond: jax.Array,
  gamma: jax.Array | float,
  norm: float,
) -> jax.Array:
  """Shrinks beyond the boundary; grows before it, to the estimate at first."""
  grown = (1 + gamma) * radius
  found = segment.status == Status.FOUND
  return jnp.where(
    beyond,
    jnp.minimum((1 - gamma) * radius, descent.distance(segment, norm)),
    jnp.where(found, grown, jnp.maximum(grown, estimate)),
  )
