"""Fast adaptive boundary attack: projections drawn towards the input."""

import jax
import jax.numpy as jnp

from dmm_jax import norms
from dmm_jax.boundary import descent
from dmm_jax.boundary import point as point_lib
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
  overshoot: float = 0.05,
  max_bias: float = 0.1,
  shrink: float = 0.9,
) -> Segment:
  """Projects the point and the input on the nearest linearised boundary.

  Each round projects both within the box and moves to a mean of the two, in
  which the input's share is `max_bias` at most. From a point beyond the
  boundary it goes back towards the input, to `shrink` of the way. With many
  targets the rounds are few: aim at one target at a time where that matters.

  Source: Croce and Hein (2020), "Minimally distorted adversarial examples with
  a fast adaptive boundary attack", https://arxiv.org/abs/1907.02044.
  Deviations: no random restarts; the final search on a line is the caller's.

  Args:
    logits_fn, x, label, low, high, project, targets: as for
      `deepfool.search`.
    norm: 1, 2 or inf.
    max_gradients: budget; each round takes `t`, and one forward.
    overshoot: how far beyond the plane to step, of the way to it.
    max_bias: share of the input's own projection, at most.
    shrink: what is kept of a perturbation that reaches beyond.

  Returns:
    A `Segment` from the input to the nearest point seen beyond the boundary.

  Raises:
    ValueError: for another norm.
  """
  norms.check(norm)
  rows = len(targets)
  see = lambda p: descent.expand(logits_fn, p, label, targets, project)

  def aim(p, seen):
    reaches = descent.reaches(jnp.abs(seen.loss), seen.gradient, norm)
    i = jnp.argmin(reaches)
    gap, gradient = seen.loss[i], seen.gradient[i]
    here = onto_plane(gradient, gap, low - p, high - p, norm=norm)
    gap += jnp.sum(gradient * (x - p))
    there = onto_plane(gradient, gap, low - x, high - x, norm=norm)
    near, far = norms.norm(here, norm), norms.norm(there, norm)
    bias = near / jnp.where(near + far > 0, near + far, 1.0)
    bias = jnp.minimum(bias, max_bias)
    here = p - x + (1 + overshoot) * here
    step = (1 - bias) * here + bias * (1 + overshoot) * there
    step = descent.inside(project, step, low - x, high - x)
    return jnp.clip(x + step, low, high)

  def advance(state):
    segment, seen, p = state
    new = aim(p, seen)
    lead, rival = point_lib.leads(logits_fn(new), label)
    ahead = seen._replace(lead=lead, rival=rival, finite=jnp.isfinite(lead))
    segment = descent.record(
      segment, new, ahead, norm=norm, gradients=0, forwards=1
    )
    back = jnp.clip(x + shrink * (new - x), low, high)
    new = jnp.where(lead < 0, back, new)
    seen = see(new)
    segment = descent.record(segment, new, seen, norm=norm, gradients=rows)
    return segment, seen, new

  first = see(x)
  return jax.lax.while_loop(
    lambda state: descent.going(*state[:2], max_gradients - rows + 1),
    advance,
    (descent.begin(x, first, rows), first, x),
  )[0]
