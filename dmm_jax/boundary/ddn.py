"""Decoupled direction and norm: along the boundary on a sphere."""

import jax
import jax.numpy as jnp

from dmm_jax import norms
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
  gamma: float = 0.05,
  first_step: float = 1.0,
  last_step: float = 0.01,
) -> Segment:
  """Walks along the boundary on a sphere that shrinks beyond it.

  Each round steps down the loss, and rescales the perturbation to a radius
  that shrinks by `gamma` where the class differs and grows by `gamma` where it
  does not. The nearest point seen is up to `gamma` too far, which the caller's
  refinement removes. It does not help where the nearest boundary is that of
  another class than the loss leads to; and several targets of like probability
  draw the search between their boundaries, a few percent too far.

  Source: Rony et al. (2019), "Decoupling direction and norm for efficient
  gradient-based L2 adversarial attacks and defenses",
  https://arxiv.org/abs/1811.09600. Deviations: no quantisation of the input;
  the first radius is the linear estimate instead of 1, and steps are in units
  of the radius, so that inputs need not be images; a gradient of zero keeps
  the previous direction instead of drawing one; the radius shrinks from no
  more than the length that the box has left.

  Args:
    logits_fn, x, label, low, high, project, targets: as for
      `deepfool.search`; the loss is cross-entropy among label and targets.
    norm: 2.
    max_gradients: budget, all of it used; each round takes one, `x` another.
    gamma: change of the radius, relative, in a round.
    first_step, last_step: length of steps, in radii; between them a cosine.

  Returns:
    A `Segment` from the input to the nearest point seen beyond the boundary.

  Raises:
    ValueError: for another norm.
  """
  if norm != 2:
    raise ValueError(f'norm must be 2, got {norm!r}')

  see = lambda p: descent.look(
    descent.soft_margin, logits_fn, p, label, targets, project
  )
  box = low - x, high - x

  def advance(state):
    segment, seen, p, radius, heading = state
    fraction = segment.gradients / max_gradients
    heading = descent.direction(-seen.gradient, heading)
    stride = radius * descent.cosine(first_step, last_step, fraction)
    new = descent.direction(p - x + stride * heading, heading)
    new = jnp.clip(x + descent.inside(project, radius * new, *box), low, high)
    seen = see(new)
    segment = descent.record(segment, new, seen, norm=2)
    radius = jnp.where(
      seen.lead < 0,
      (1 - gamma) * jnp.minimum(radius, norms.norm(new - x, 2)),
      jnp.minimum((1 + gamma) * radius, limit),
    )
    return segment, seen, new, radius, heading

  first = see(x)
  _, radius = descent.straight_ahead(first, *box, norm=2)
  limit = descent.farthest(x, low, high, radius, norm=2)
  radius = jnp.minimum(radius, limit)
  start = descent.begin(x, first), first, x, radius, jnp.zeros_like(x)
  return jax.lax.while_loop(
    lambda state: descent.going(*state[:2], max_gradients), advance, start
  )[0]
