"""The nearest boundary point of one example."""

from collections.abc import Iterator
import contextlib
from typing import NamedTuple

import jax
import jax.numpy as jnp

from dmm_jax import margins
from dmm_jax import norms
from dmm_jax.boundary import inputs
from dmm_jax.boundary import network as network_lib
from dmm_jax.boundary import paths
from dmm_jax.boundary import portfolio
from dmm_jax.boundary import problem as problem_lib
from dmm_jax.boundary import projection
from dmm_jax.boundary import rays
from dmm_jax.boundary import sparse
from dmm_jax.boundary import steps
from dmm_jax.boundary.attacks import apgd
from dmm_jax.boundary.attacks import ddn
from dmm_jax.boundary.attacks import deepfool
from dmm_jax.boundary.attacks import fab
from dmm_jax.boundary.attacks import fmn
from dmm_jax.boundary.attacks import primal_dual
from dmm_jax.boundary.attacks import sigma_zero
from dmm_jax.boundary.attacks import superdeepfool
from dmm_jax.boundary.point import BoundaryPoint
from dmm_jax.boundary.point import Status

RTOL = 1e-5  # How far beyond the boundary, relative to the distance.
# Of a ray, in units of its linear estimate; further is not "nearest".
RAY_LENGTH = 10
RAY_PROBES = 64

# By the number of changed inputs.
COUNTED = {'portfolio': sparse.search, 'fast': sparse.search}
SEARCHES = {
  'portfolio': portfolio.search,
  'fast': portfolio.search,
  'projection': projection.search,
  'deepfool': deepfool.search,
  'superdeepfool': superdeepfool.search,
  'fab': fab.search,
  'ddn': ddn.search,
  'fmn': fmn.search,
  'apgd': apgd.search,
  'primal_dual': primal_dual.search,
  'sigma_zero': sigma_zero.search,
}
METHODS = (*SEARCHES, 'ray', 'linear')


def nearest_point(
  logits_fn: network_lib.LogitsFn | network_lib.Network,
  x: jax.Array,
  label: jax.Array | int,
  *,
  norm: float = 2,
  bounds: tuple | None = None,
  project: problem_lib.Project = None,
  groups: int | tuple[int, ...] | None = None,
  method: str = 'portfolio',
  max_gradients: int = 2000,
  seed: jax.Array | int = 0,
  rtol: float = RTOL,
  with_normal: bool = True,
) -> BoundaryPoint:
  """Returns the nearest point of the decision boundary that a search finds.

  The distance is that of a point where the class was seen to differ, so it is
  an upper bound of the true one (but for `method='linear'`). Works under
  `jit` and `vmap`; as part of a program of yours, it sees what that program
  sees: arrays that a jitted function captures are frozen by `jax.jit`.

  Networks and inputs in float16 or bfloat16 are measured in float32: the
  network is given each point rounded to its own dtype. What counts as beyond
  the boundary is a margin of more than the rounding of the two logits that
  meet (`margins.dtype_resolution`), so that distances have that resolution.

  Args:
    logits_fn: one input -> logits `[k]`, k >= 2. A class at -inf, or masked by
      a low logit, is never met.
    x: one input, any shape, floating point.
    label: its class; an input of another class is at distance 0.
    norm: any p >= 1, `np.inf`, or 0: the distance is then the number of changed
      inputs, `bounds` have two finite ends, and changes go to one of these
      before all of them are shortened alike. Norms of at least 1 may be traced
      (see `norms`), but for 'apgd' and 'ddn'.
    bounds: None, or `(low, high)`, each a number, an array as `x` or None for
      no end: the box that the point has to stay in. `x` is taken to lie in it.
    project: linear, symmetric, idempotent map `v -> v` onto the subspace that
      perturbations are restricted to, or None.
    groups: for norm 0, axes of an input whose entries count as one change: -1
      for the channels of an image [height, width, channels]. None for none.
    method: 'portfolio', short searches toward each likely class (the nine
      nearest to first order where there are more), then longer ones toward the
      nearest from several starts, then polish; 'fast', the same in at most 40
      gradients; 'projection', one search, toward the class met first:
      repeatedly projects the input onto the linearised boundary; 'deepfool',
      'superdeepfool', 'fab', 'ddn' (l2), 'fmn', 'apgd', 'primal_dual',
      'sigma_zero' (norm 0), as published (see their modules); 'ray', the first
      crossing along the step that is nearest to first order, for norm 0 along
      its `boundary.paths.Path`; or 'linear', that step itself, whose end need
      not lie on the boundary (`Status.ESTIMATE`).
    max_gradients: budget of value-and-gradient evaluations. One for `normal`
      comes on top. Single methods need one for each class that they aim at.
    seed: of the random points near the boundary at which 'portfolio', 'fast'
      and 'projection' take gradients; an integer, may be traced.
    rtol: how far beyond the boundary, relative to `distance`, the point may be.
    with_normal: False saves the gradient at the point; `normal` is then zeros.

  Returns:
    A `BoundaryPoint`, in the dtype of the input, at least float32.

  Raises:
    ValueError, TypeError: while tracing, for an argument that is not supported.
  """
  x = jnp.asarray(x)
  inputs.check_options(norm, method, METHODS, max_gradients)
  if isinstance(logits_fn, network_lib.Network):
    network = logits_fn
  else:
    network = network_lib.trace(logits_fn, x)
  x = x.astype(network.dtype)
  if project is not None:
    inputs.check_project(project, x)
  with plain_arithmetic():
    low, high = inputs.check_box(bounds, x)
    inputs.check_counting(norm, method, project, inputs.pair(bounds), groups)
    problem = problem_lib.create(
      network,
      x,
      inputs.check_label(label, network.num_classes),
      norm=norm,
      low=low,
      high=high,
      project=project,
      groups=paths.check_groups(groups, x.shape),
    )
    key = jax.random.key(inputs.check_seed(seed))
    found = _search(problem, method, max_gradients, key, rtol)
    return _result(problem, found, with_normal)


def unsearched_point(
  network: network_lib.Network, x: jax.Array, label: jax.Array
) -> tuple[BoundaryPoint, jax.Array]:
  """Returns the result of an input that needs no search, and its logits.

  NOT_FOUND, at inf, where it needs one.
  """
  far = jnp.full((), jnp.inf, network.dtype)
  x = x.astype(network.dtype)
  problem = problem_lib.create(
    network,
    x,
    label,
    norm=2,
    low=jnp.broadcast_to(-far, x.shape),
    high=jnp.broadcast_to(far, x.shape),
  )
  none = _Found(far, x, far, -1, Status.NOT_FOUND, 0, 0)
  return _result(problem, none, True), problem.logits


@contextlib.contextmanager
def plain_arithmetic() -> Iterator[None]:
  """Geometry in JAX's own rules, whatever is strict for the network.

  Searches mix Python numbers and integers with floats, and NaN is a signal.
  """
  with (
    jax.numpy_dtype_promotion('standard'),
    jax.debug_nans(False),
    jax.debug_infs(False),
  ):
    yield


class _Found(NamedTuple):
  """What a search found, for an input that is classified correctly."""

  distance: jax.Array
  point: jax.Array
  margin: jax.Array
  target: jax.Array | int
  status: jax.Array | int
  gradients: jax.Array | int
  forwards: jax.Array | int


def _search(problem, method, max_gradients, key, rtol):
  """Runs one of `METHODS` and moves what it found onto the boundary."""
  if method == 'linear':
    return _linear_estimate(problem)
  if method == 'ray':
    return _first_crossing(problem, rtol)
  budget = portfolio.FAST_GRADIENTS if method == 'fast' else max_gradients
  searches = SEARCHES | COUNTED if paths.counts(problem) else SEARCHES
  segment = searches[method](problem, budget, key)
  found = segment.status == Status.FOUND
  length = paths.length(problem, segment.outer - segment.inner)
  before = paths.length(problem, segment.inner - problem.x) / length
  # Without a segment there is nothing to refine.
  tolerance = jnp.where(found & (length > 0), rtol, jnp.inf).astype(
    length.dtype
  )
  point, margin, target, forwards = rays.refine_crossing(
    problem, segment, tolerance=tolerance, before=before
  )
  distance = paths.length(problem, point - problem.x)
  return _Found(
    jnp.where(found, distance, jnp.inf),
    point,
    margin,
    target,
    segment.status,
    segment.gradients,
    segment.forwards + forwards,
  )


def _linear_step(problem):
  linear = problem_lib.linearize(problem, problem.x, problem.targets)
  # Margins as they are: an estimate is no point that has to lie beyond.
  gaps = problem.logits[problem.label] - problem.logits[problem.targets]
  gaps = jnp.where(jnp.isfinite(gaps), gaps, linear.gaps)
  step, distance, i = steps.nearest_linear(
    problem, problem.x, gaps, linear.gradients
  )
  useful = jnp.isfinite(distance)
  distance = jnp.where(useful, paths.length(problem, step), jnp.inf)
  failed = steps.why_none(linear.gradients)
  return step, distance, problem.targets[i], failed


def _linear_estimate(problem):
  """The nearest step to first order; its end is not evaluated."""
  step, distance, target, failed = _linear_step(problem)
  status = jnp.where(jnp.isfinite(distance), Status.ESTIMATE, failed)
  unknown = jnp.full_like(distance, jnp.nan)
  rows = len(problem.targets)
  return _Found(distance, problem.x + step, unknown, target, status, rows, 0)


def _first_crossing(problem, rtol):
  """The first crossing along the nearest step to first order."""
  step, distance, _, failed = _linear_step(problem)
  useful = jnp.isfinite(distance)
  length = RAY_LENGTH * jnp.where(useful, distance, 0.0)
  if paths.counts(problem):
    crossing = sparse.cross_path(problem, length, num_probes=RAY_PROBES)
  else:
    crossing = rays.cross_ray(
      problem, step, length, num_probes=RAY_PROBES, rtol=rtol
    )
  failed = jnp.where(useful, Status.NOT_FOUND, failed)
  return _Found(
    crossing.distance,
    crossing.point,
    crossing.margin,
    crossing.target,
    jnp.where(crossing.found, Status.FOUND, failed),
    len(problem.targets),
    crossing.forwards,
  )


def _result(problem, found, with_normal):
  """The one place that writes a `BoundaryPoint`.

  Inputs of another class are at distance 0, those that are not finite at inf,
  whatever a search has found.
  """
  x, logits = problem.x, problem.logits
  predicted = jnp.argmax(logits).astype(jnp.int32)
  finite = jnp.all(jnp.isfinite(x)) & ~jnp.any(
    jnp.isnan(logits) | (logits == jnp.inf)
  )
  wrong = finite & (predicted != problem.label)
  # Without a finite margin there is nothing to search.
  finite &= wrong | jnp.isfinite(problem.margin)
  status = jnp.select(
    [~finite, wrong], [Status.NON_FINITE, Status.MISCLASSIFIED], found.status
  )
  stays = wrong | ~finite | ~jnp.isfinite(found.distance)
  distance = jnp.where(finite, found.distance, jnp.inf)
  distance = jnp.where(wrong, 0.0, distance).astype(x.dtype)
  point = jnp.where(stays, x, found.point)
  gradients = jnp.asarray(found.gradients, jnp.int32)
  normal = jnp.zeros_like(x)
  if with_normal:
    normal = _normal(problem, point)
    normal = jnp.where(jnp.isfinite(distance), normal, 0.0)
    gradients = gradients + 1
  margin = problem_lib.margin_of(problem, logits).plain
  target = jnp.where(wrong, predicted, jnp.where(stays, -1, found.target))
  return BoundaryPoint(
    distance=distance,
    point=point,
    target=target.astype(jnp.int32),
    normal=normal,
    margin=jnp.where(stays, margin, found.margin).astype(x.dtype),
    status=status.astype(jnp.int32),
    gradients=gradients,
    forwards=jnp.asarray(found.forwards + 1, jnp.int32),
  )


def _normal(problem, p):
  """The unit l2 gradient of the label's margin; zeros where there is none."""
  logits, pull = network_lib.logits_and_pull(problem.network, p)
  gradient = pull(jax.grad(margins.margin)(logits, problem.label))
  size = norms.norm(gradient, 2)
  usable = jnp.isfinite(size) & (size > 0)
  return jnp.where(usable, gradient / size, 0.0)
