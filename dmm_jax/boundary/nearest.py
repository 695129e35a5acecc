"""The public face: the nearest boundary point of one example or a data set."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from dmm_jax import margins
from dmm_jax import norms
from dmm_jax import parallel
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

SEARCHES = {
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


def nearest_point(
  logits_fn: point_lib.LogitsFn,
  x: jax.Array,
  label: jax.Array,
  *,
  norm: float = 2,
  bounds: tuple | None = None,
  project=None,
  method: str = 'portfolio',
  max_gradients: int = 2000,
  rtol: float = 1e-5,
  with_normal: bool = True,
) -> BoundaryPoint:
  """Returns the nearest point of the decision boundary that a search finds.

  The distance is that of a point where the class was seen to differ, so it is
  an upper bound of the true one (but for `method='linear'`). Works under
  `jit` and `vmap`.

  Args:
    logits_fn: one input -> logits `[k]`, k >= 2, of the dtype of the input.
    x: one input, any shape, floating point.
    label: its class; an input of another class is at distance 0.
    norm: 1, 2 or inf; may be traced (see `norms`).
    bounds: None, or `(low, high)`, numbers or arrays as `x`: the box that the
      point has to stay in. `x` is taken to lie in it.
    project: linear, symmetric, idempotent map `v -> v` onto the subspace that
      perturbations are restricted to, or None.
    method: 'portfolio', the best point that projection and polish find over all
      targets (the nine nearest to first order where there are more); 'fast',
      the same in at most 40 gradients (plus one a class beyond ten);
      'projection', DeepFool improved until the perturbation meets the boundary
      head on; 'deepfool', 'superdeepfool', 'fab', 'ddn' (l2), 'fmn', 'apgd',
      'primal_dual', as published (see their modules); 'ray', the first
      crossing straight ahead, along the step that is nearest to first order; or
      'linear', that step itself, whose end need not lie on the boundary
      (`Status.ESTIMATE`).
    max_gradients: budget of value-and-gradient evaluations. One for `normal`
      comes on top.
    rtol: how far beyond the boundary, relative to `distance`, the point may be.
    with_normal: False saves the gradient at the point; `normal` is then zeros.

  Returns:
    A `BoundaryPoint`.

  Raises:
    ValueError, TypeError: while tracing, for a norm, method or input that is
      not supported.
  """
  _check(x, norm, method)
  num_classes = _num_classes(logits_fn, x)
  low, high = _box(x, bounds)
  label = jnp.asarray(label, jnp.int32)
  logits = logits_fn(x)
  targets = point_lib.likely_targets(
    logits, label, min(num_classes - 1, portfolio.MAX_TARGETS)
  )
  space = dict(norm=norm, low=low, high=high, project=project)
  if method in ('portfolio', 'fast'):
    fast = method == 'fast'
    segment = portfolio.search(
      logits_fn,
      x,
      label,
      **space,
      max_gradients=portfolio.FAST_GRADIENTS if fast else max_gradients,
    )
    best = _refine(segment, logits_fn, x, label, norm, rtol)
  else:
    best = _solve(
      logits_fn,
      x,
      label,
      method,
      targets,
      max_gradients=max_gradients,
      rtol=rtol,
      **space,
    )
  best = _settle(best, x, logits, label)
  return _add_normal(best, logits_fn, label) if with_normal else best


def _check(x, norm, method):
  norms.check(norm)
  if method not in METHODS:
    raise ValueError(f'method must be one of {METHODS}, got {method!r}')
  if not jnp.issubdtype(x.dtype, jnp.floating):
    raise TypeError(
      f'inputs must be floating point, got {x.dtype}: '
      'distances between integers are not defined; convert and rescale first'
    )


def _num_classes(logits_fn, x):
  shape = jax.eval_shape(logits_fn, x).shape
  if len(shape) != 1 or shape[0] < 2:
    raise ValueError(
      f'logits_fn must map one input {x.shape} to logits [k], k >= 2; '
      f'it returned shape {shape}'
    )
  return shape[0]


def _box(x, bounds):
  low, high = (-np.inf, np.inf) if bounds is None else bounds
  fill = lambda b: jnp.broadcast_to(jnp.asarray(b, x.dtype), x.shape)
  return fill(low), fill(high)


def _solve(
  logits_fn, x, label, method, targets, *, max_gradients, rtol, norm, **space
):
  """Runs one search, and refines what it found."""
  shared = dict(norm=norm, low=space['low'], high=space['high'])
  if method in SEARCHES:
    segment = SEARCHES[method](
      logits_fn,
      x,
      label,
      targets=targets,
      max_gradients=max_gradients,
      **shared,
      project=space['project'],
    )
    return _refine(segment, logits_fn, x, label, norm, rtol)
  linear = point_lib.linearize(logits_fn, x, label, targets)
  if space['project'] is not None:
    rows = jax.vmap(space['project'])(linear.gradients)
    linear = linear._replace(gradients=rows)
  low, high = space['low'] - x, space['high'] - x
  step, reach, i = deepfool.nearest_linear(linear, low, high, norm=norm)
  step = deepfool.within(
    space['project'], step, -linear.gradients[i], low, high
  )
  distance = jnp.where(jnp.isfinite(reach), norms.norm(step, norm), jnp.inf)
  if method == 'linear':
    return _pack(
      distance,
      x + step,
      jnp.full_like(linear.lead, jnp.nan),
      targets[i],
      jnp.where(jnp.isfinite(reach), Status.ESTIMATE, Status.ZERO_GRADIENT),
      len(targets),
      0,
    )
  # Ten times as far as a linear margin would need; further is not "nearest".
  crossing = rays.first_crossing(
    logits_fn,
    x,
    step,
    label,
    max_distance=10 * jnp.where(jnp.isfinite(distance), distance, 0.0),
    norm=norm,
    bounds=(space['low'], space['high']),
    num_probes=64,
    rtol=rtol,
  )
  return _pack(
    crossing.distance,
    crossing.point,
    crossing.margin,
    crossing.target,
    jnp.where(
      crossing.found,
      Status.FOUND,
      jnp.where(jnp.isfinite(reach), Status.NOT_FOUND, Status.ZERO_GRADIENT),
    ),
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


def _settle(best, x, logits, label):
  """Gives inputs that need no search, or whose search failed, their values."""
  predicted = jnp.argmax(logits).astype(jnp.int32)
  finite = jnp.all(jnp.isfinite(logits))
  wrong = finite & (predicted != label)
  status = jnp.select(
    [~finite, wrong], [Status.NON_FINITE, Status.MISCLASSIFIED], best.status
  )
  stays = wrong | ~finite | ~jnp.isfinite(best.distance)
  distance = jnp.where(finite, best.distance, jnp.inf)
  return best._replace(
    distance=jnp.where(wrong, 0.0, distance).astype(x.dtype),
    point=jnp.where(stays, x, best.point),
    target=jnp.where(wrong, predicted, jnp.where(stays, -1, best.target)),
    margin=jnp.where(stays, margins.margin(logits, label), best.margin),
    status=status.astype(jnp.int32),
    forwards=best.forwards + 1,
  )


def _add_normal(best, logits_fn, label):
  gradient = jax.grad(lambda p: margins.margin(logits_fn(p), label))(best.point)
  size = norms.norm(gradient, 2)
  normal = gradient / jnp.where(size > 0, size, 1.0)
  usable = jnp.isfinite(best.distance) & jnp.isfinite(size)
  return best._replace(
    normal=jnp.where(usable, normal, 0.0), gradients=best.gradients + 1
  )


def measure(
  logits_fn: point_lib.LogitsFn,
  xs,
  labels=None,
  *,
  norm: float = 2,
  bounds: tuple | None = None,
  project=None,
  method: str = 'portfolio',
  max_gradients: int = 2000,
  seed: int = 0,
  batch_size: int = 256,
  progress: bool = False,
) -> BoundaryPoint:
  """Measures the distance of every example of a data set from the boundary.

  `nearest_point` over all local devices. Calls with the same `logits_fn` and
  options compile once.

  Args:
    logits_fn: one input -> logits `[k]`.
    xs: `[n, ...]`, floating point; every one within `bounds`.
    labels: `[n]` integers, or None for the network's own predictions.
    norm, bounds, project, method, max_gradients: as for `nearest_point`.
    seed: of random starts; no method of today draws any.
    batch_size: examples a step; memory grows with it, results do not change.
    progress: whether to show a progress bar.

  Returns:
    A `BoundaryPoint` of numpy columns `[n, ...]`, in order.

  Raises:
    ValueError: for an unsupported option, labels of the wrong number or
      outside `[0, k)`, or inputs outside the bounds.
    TypeError: for integer inputs or labels that are not integers.
  """
  del seed
  xs = np.asarray(xs)
  example = jax.ShapeDtypeStruct(
    xs.shape[1:], jax.dtypes.canonicalize_dtype(xs.dtype)
  )
  _check(example, norm, method)
  num_classes = _num_classes(logits_fn, example)
  own = labels is None
  labels = _check_labels(
    np.zeros(len(xs), np.int32) if own else labels, xs, num_classes
  )
  box = (-np.inf, np.inf) if bounds is None else bounds
  low, high = (np.asarray(b, example.dtype) for b in box)
  outside = np.any((xs < low) | (xs > high), axis=tuple(range(1, xs.ndim)))
  if outside.any():
    raise ValueError(
      f'{outside.sum()} of {len(xs)} inputs lie outside bounds (the first is '
      f'number {outside.argmax()}); clip them, or widen the bounds'
    )
  solver = _solver(logits_fn, norm, project, method, max_gradients, own)
  return parallel.map_examples(
    solver,
    (xs, labels),
    shared=(low, high),
    batch_size=batch_size,
    progress='boundary distances' if progress else None,
  )


def _check_labels(labels, xs, num_classes):
  labels = np.asarray(labels)
  if labels.shape != (len(xs),):
    raise ValueError(
      f'{len(xs)} inputs need as many labels, got {labels.shape}'
    )
  if not np.issubdtype(labels.dtype, np.integer):
    raise TypeError(f'labels must be integers, got {labels.dtype}')
  if labels.size and not 0 <= labels.min() <= labels.max() < num_classes:
    raise ValueError(
      f'labels must lie in [0, {num_classes}), got '
      f'[{labels.min()}, {labels.max()}]'
    )
  return labels.astype(np.int32)


@functools.lru_cache(maxsize=32)
def _solver(logits_fn, norm, project, method, max_gradients, own):
  """One function object for equal options, so that `jit` finds it again."""

  def solve(x, label, low, high):
    label = jnp.argmax(logits_fn(x)) if own else label
    return nearest_point(
      logits_fn,
      x,
      label,
      norm=norm,
      bounds=(low, high),
      project=project,
      method=method,
      max_gradients=max_gradients,
    )

  return solve
