"""The public face: the nearest boundary point of one example or a data set."""

import functools

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
import numpy as np

from dmm_jax import margins
from dmm_jax import normals
from dmm_jax import norms
from dmm_jax import parallel
from dmm_jax.boundary import methods
from dmm_jax.boundary import point as point_lib
from dmm_jax.boundary import triage
from dmm_jax.boundary.point import BoundaryPoint
from dmm_jax.boundary.point import Status


def nearest_point(
  logits_fn: point_lib.LogitsFn,
  x: jax.Array,
  label: jax.Array | int,
  *,
  norm: float = 2,
  bounds: tuple | None = None,
  project: point_lib.Project = None,
  method: str = 'portfolio',
  max_gradients: int = 2000,
  seed: jax.Array | int = 0,
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
    method: 'portfolio', a contest of the likely targets (the nine nearest to
      first order where there are more): short projections at each, longer
      ones of the nearest from several starts, then polish; 'fast', the same in
      at most 40 gradients; 'projection', one search, of the class met first:
      the input projected on the boundary seen from afar, again and again;
      'deepfool', 'superdeepfool', 'fab', 'ddn' (l2), 'fmn', 'apgd',
      'primal_dual', as published (see their modules); 'ray', the first
      crossing straight ahead, along the step that is nearest to first order; or
      'linear', that step itself, whose end need not lie on the boundary
      (`Status.ESTIMATE`).
    max_gradients: budget of value-and-gradient evaluations. One for `normal`
      comes on top.
    seed: of the random points near the boundary at which 'portfolio', 'fast'
      and 'projection' take gradients; an integer, may be traced. The same seed
      gives the same result, whatever else is in the batch.
    rtol: how far beyond the boundary, relative to `distance`, the point may be.
    with_normal: False saves the gradient at the point; `normal` is then zeros.

  Returns:
    A `BoundaryPoint`.

  Raises:
    ValueError, TypeError: while tracing, for a norm, method or input that is
      not supported.
  """
  _check(x, norm, method)
  _num_classes(logits_fn, x)
  low, high = _box(x, bounds)
  label = jnp.asarray(label, jnp.int32)
  best = methods.run(
    logits_fn,
    x,
    label,
    method,
    norm=norm,
    low=low,
    high=high,
    project=project,
    max_gradients=max_gradients,
    rtol=rtol,
    seed=seed,
  )
  best = _settle(best, x, logits_fn(x), label)
  return _add_normal(best, logits_fn, label) if with_normal else best


def _check(x, norm, method):
  norms.check(norm)
  if method not in methods.METHODS:
    raise ValueError(f'method must be one of {methods.METHODS}, got {method!r}')
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
  normal = normals.normal(logits_fn, best.point, label)
  return best._replace(
    normal=jnp.where(jnp.isfinite(best.distance), normal, 0.0),
    gradients=best.gradients + 1,
  )


def measure(
  logits_fn: point_lib.LogitsFn,
  xs: ArrayLike,
  labels: ArrayLike | None = None,
  *,
  norm: float = 2,
  bounds: tuple | None = None,
  project: point_lib.Project = None,
  project_rows: tuple = (),
  method: str = 'portfolio',
  max_gradients: int = 2000,
  seed: int = 0,
  batch_size: int = 256,
  progress: bool = False,
) -> BoundaryPoint:
  """Measures the distance of every example of a data set from the boundary.

  `nearest_point` over all devices. Calls with the same `logits_fn` and options,
  but for bounds and seed, compile once. Given labels, all logits are evaluated
  first, and only what is classified correctly is searched: the other examples
  cost one forward evaluation each (and a gradient, for the normal).

  Warns where the network returns probabilities instead of logits.

  Args:
    logits_fn: one input -> logits `[k]`.
    xs: `[n, ...]`, floating point; every one within `bounds`.
    labels: `[n]` integers, or None for the network's own predictions.
    norm, bounds, project, method, max_gradients: as for `nearest_point`.
    project_rows: arrays `[n, ...]` for a subspace of each example's own:
      `project(v, *rows)` then takes the example's rows of them, as
      `manifold.on` and `manifold.off` take a basis.
    seed: as for `nearest_point`, one for all examples: results depend neither
      on their order nor on their batch.
    batch_size: examples a step; memory grows with it, results do not change.
    progress: whether to show a progress bar.

  Returns:
    A `BoundaryPoint` of numpy columns `[n, ...]`, in order.

  Raises:
    ValueError: for an unsupported option, labels or rows of the wrong number,
      labels outside `[0, k)`, or inputs outside the bounds.
    TypeError: for integer inputs or labels that are not integers.
  """
  xs = np.asarray(xs)
  example = jax.ShapeDtypeStruct(
    xs.shape[1:], jax.dtypes.canonicalize_dtype(xs.dtype)
  )
  _check(example, norm, method)
  num_classes = _num_classes(logits_fn, example)
  low, high = _check_bounds(xs, bounds, example.dtype)
  own = labels is None
  if labels is None:
    labels = np.zeros(len(xs), np.int32)
  labels = _check_labels(labels, xs, num_classes)
  xs = xs.astype(example.dtype, copy=False)
  rows = _check_rows(project, project_rows, xs)
  # Own predictions are never wrong: the first batch is for the warning alone.
  seen = slice(batch_size if own else None)
  first = triage.look(logits_fn, xs[seen], labels[seen], batch_size=batch_size)
  triage.warn_of_probabilities(first)
  solve = functools.partial(
    parallel.map_examples,
    _solver(logits_fn, norm, project, method, max_gradients, own),
    # Any integer is a seed, and none is compiled for.
    shared=(low, high, np.int32(seed % 2**31)),
    batch_size=batch_size,
    progress='boundary distances' if progress else None,
  )
  needs_search = first.finite & (first.predicted == labels[seen])
  if own or needs_search.all():
    return solve((xs, labels, *rows))
  result = triage.settle(logits_fn, xs, labels, first, batch_size=batch_size)
  triage.overwrite(
    result, needs_search, solve, (xs, labels, *rows), batch_size=batch_size
  )
  return result


def _check_rows(project, rows, xs):
  if rows and project is None:
    raise ValueError('project_rows are arguments of project, which is None')
  rows = tuple(map(np.asarray, rows))
  for row in rows:
    if len(row) != len(xs):
      raise ValueError(
        f'{len(xs)} inputs need as many rows, got {len(row)} rows'
      )
  return rows


def _check_bounds(xs, bounds, dtype):
  box = (-np.inf, np.inf) if bounds is None else bounds
  low, high = (np.asarray(b, dtype) for b in box)
  outside = np.any((xs < low) | (xs > high), axis=tuple(range(1, xs.ndim)))
  if outside.any():
    raise ValueError(
      f'{outside.sum()} of {len(xs)} inputs lie outside bounds (the first is '
      f'number {outside.argmax()}); clip them, or widen the bounds'
    )
  return low, high


def _check_labels(
  labels: ArrayLike, xs: np.ndarray, num_classes: int
) -> np.ndarray:
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

  def solve(x, label, *rest):
    *rows, low, high, seed = rest
    label = jnp.argmax(logits_fn(x)) if own else label
    onto = (lambda v: project(v, *rows)) if rows else project
    return nearest_point(
      logits_fn,
      x,
      label,
      norm=norm,
      bounds=(low, high),
      project=onto,
      method=method,
      max_gradients=max_gradients,
      seed=seed,
    )

  return solve
