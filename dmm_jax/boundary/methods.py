"""Every method by its name, each brought to the same accuracy in the end."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from dmm_jax import norms
from dmm_jax.boundary import apgd
from dmm_jax.boundary import ddn
from dmm_jax.boundary import deepfool
from dmm_jax.boundary import fab
from dmm_jax.boundary import fmn
from dmm_jax.boundary import point as point_lib
from dmm_jax.boundary import portfolio
from dmm_jax.boundary import primal_dual
from dmm_jax.boundary import projection
from dmm_jax.boundary import rays
from dmm_jax.boundary import superdeepfool
from dmm_jax.boundary.point import BoundaryPoint
from dmm_jax.boundary.point import Status

SEARCHES: dict[str, Callable] = {
  'projection': projection.search,
  'deepfool': deepfool.search,
  'superdeepfool': superdeepfool.search,
  'fab': fab.search,
  'ddn': ddn.search,
  'fmn': fmn.search,
  'apgd': apgd.search,
  'primal_dual': primal_dual.search,
}
METHODS = ('portfolio', 'fast', *SEARCHES, 'ray', 'linear')


def run(
  logits_fn: point_lib.LogitsFn,
  x: jax.Array,
  label: jax.Array,
  method: str,
  *,
  norm: float,
  low: jax.Array,
  high: jax.Array,
  project: point_lib.Project,
  max_gradients: int,
  rtol: float,
  seed: jax.Array | int,
) -> BoundaryPoint:
  """Runs one of `METHODS`, and pulls what it found back onto the boundary.

  Single methods aim at the `portfolio.MAX_TARGETS` classes of largest logit.

  Args:
    logits_fn, x, label, norm, low, high, project: as for `deepfool.search`.
    method: its name; 'portfolio' and 'projection' draw random points.
    max_gradients: budget; 'fast', 'ray' and 'linear' have their own.
    rtol: how far beyond the boundary, relative to the distance.
    seed: of the random points.

  Returns:
    A `BoundaryPoint` without its normal, as if `x` was correctly classified.
  """
  space: dict[str, Any] = dict(norm=norm, low=low, high=high, project=project)
  if method in ('portfolio', 'fast'):
    fast = method == 'fast'
    budget = portfolio.FAST_GRADIENTS if fast else max_gradients
    segment = portfolio.search(
      logits_fn, x, label, **space, max_gradients=budget, seed=seed
    )
    return _refine(segment, logits_fn, x, label, norm, rtol)
  logits = logits_fn(x)
  num_targets = min(logits.size - 1, portfolio.MAX_TARGETS)
  targets = point_lib.likely_targets(logits, label, num_targets)
  if method in ('ray', 'linear'):
    verify = method == 'ray'
    return _straight(logits_fn, x, label, targets, verify, rtol, **space)
  if method == 'projection':
    space['seed'] = seed
  segment = SEARCHES[method](
    logits_fn, x, label, **space, targets=targets, max_gradients=max_gradients
  )
  return _refine(segment, logits_fn, x, label, norm, rtol)


def _straight(
  logits_fn, x, label, targets, verify, rtol, *, norm, low, high, project
):
  """The nearest step to first order, or the first crossing along it."""
  linear = point_lib.linearize(logits_fn, x, label, targets)
  step, reach, i = deepfool.nearest_linear(
    linear, low - x, high - x, norm=norm, project=project
  )
  leads_on = jnp.isfinite(reach)
  distance = jnp.where(leads_on, norms.norm(step, norm), jnp.inf)
  if not verify:
    return _pack(
      distance,
      x + step,
      jnp.full_like(linear.lead, jnp.nan),
      targets[i],
      jnp.where(leads_on, Status.ESTIMATE, Status.ZERO_GRADIENT),
      len(targets),
      0,
    )
  # Ten times as far as a linear margin would need; further is not "nearest".
  crossing = rays.first_crossing(
    logits_fn,
    x,
    step,
    label,
    max_distance=10 * jnp.where(leads_on, distance, 0.0),
    norm=norm,
    bounds=(low, high),
    num_probes=64,
    rtol=rtol,
  )
  failed = jnp.where(leads_on, Status.NOT_FOUND, Status.ZERO_GRADIENT)
  return _pack(
    crossing.distance,
    crossing.point,
    crossing.margin,
    crossing.target,
    jnp.where(crossing.found, Status.FOUND, failed),
    len(targets),
    crossing.forwards,
  )


def _refine(segment, logits_fn, x, label, norm, rtol):
  """Pulls the far end of a search's last step back onto the boundary."""
  found = segment.status == Status.FOUND
  length = norms.norm(segment.outer - segment.inner, norm)
  total = norms.norm(segment.outer - x, norm)
  tolerance = rtol * total / jnp.where(length > 0, length, 1.0)
  tolerance = jnp.where(found, tolerance, jnp.inf)
  segment = segment._replace(
    lead_inner=jnp.where(found, segment.lead_inner, 1.0),
    lead_outer=jnp.where(found, segment.lead_outer, -1.0),
  )
  point, margin, target, forwards = rays.pull_back(
    logits_fn, label, segment, tolerance=tolerance
  )
  distance = jnp.where(found, norms.norm(point - x, norm), jnp.inf)
  return _pack(
    distance,
    point,
    margin,
    target,
    segment.status,
    segment.gradients,
    segment.forwards + forwards,
  )


def _pack(distance, point, margin, target, status, gradients, forwards):
  """A `BoundaryPoint` without its normal."""
  integer = lambda v: jnp.asarray(v, jnp.int32)
  return BoundaryPoint(
    distance,
    point,
    integer(target),
    jnp.zeros_like(point),
    margin,
    integer(status),
    integer(gradients),
    integer(forwards),
  )
