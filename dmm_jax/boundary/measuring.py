"""The nearest boundary points of a data set."""

from collections.abc import Callable
from typing import Any
from typing import NamedTuple
import warnings

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
import numpy as np

from dmm_jax import parallel
from dmm_jax import programs
from dmm_jax.boundary import inputs
from dmm_jax.boundary import nearest
from dmm_jax.boundary import network as network_lib
from dmm_jax.boundary import paths
from dmm_jax.boundary import problem as problem_lib
from dmm_jax.boundary.point import BoundaryPoint
from dmm_jax.boundary.point import Status


def measure(
  logits_fn: Callable,
  xs: ArrayLike,
  labels: ArrayLike | None = None,
  *,
  params: Any = None,
  norm: float = 2,
  bounds: tuple | None = None,
  project: problem_lib.Project = None,
  project_rows: tuple = (),
  groups: int | tuple[int, ...] | None = None,
  method: str = 'portfolio',
  max_gradients: int = 2000,
  seed: int = 0,
  batch_size: int = 256,
  progress: bool = False,
) -> BoundaryPoint:
  """Measures the distance of every example of a data set from the boundary.

  `nearest_point` over all devices. Given labels, all logits are evaluated
  first, and only what is classified correctly is searched: the other examples
  cost one forward evaluation each and a gradient, for the normal.

  The network is measured as it is at each call: `params` and all arrays that
  `logits_fn` captures are read anew, and are arguments of the compiled program.
  A network of the same structure compiles nothing anew, whatever function it
  comes as, and so do other bounds of the same kind and other seeds: `logits_fn`
  is traced at each call, and the structure is what was traced, with the shapes
  and dtypes of the arrays. Python numbers and numpy scalars in it belong to the
  structure, as do arrays inside the body of a loop. A host callback is called
  at each evaluation, and is of the same structure as itself alone; custom
  derivative rules have been applied when gradients are traced. What the network
  has under `jax.jit` itself is frozen by `jax.jit`: give `params`.

  One seed serves all examples: results do not depend on their order in a batch.
  Other batch sizes and other numbers of devices compile other programs, which
  round otherwise, and rounding may send a search to another optimum: see
  "Batches" in `docs/guarantees.md` for how often, and how far.

  Warns where the network returns probabilities instead of logits.

  Args:
    logits_fn: one input -> logits `[k]`; or, with `params`, `(params, input)`
      -> logits.
    xs: `[n, ...]`, floating point; every one within `bounds`. float64 becomes
      float32, unless JAX has 64 bits (`jax_enable_x64`).
    labels: `[n]` integers, or None for the network's own predictions.
    params: None, or a pytree of arrays, the first argument of `logits_fn`.
    norm, project, groups, method, max_gradients: as for `nearest_point`.
    bounds: as for `nearest_point`, or arrays `[n, ...]` of each example's own.
    project_rows: arrays `[n, ...]` for a subspace of each example's own:
      `project(v, *rows)` then takes the example's rows of them, as
      `manifold.on` and `manifold.off` take a basis.
    seed: of the random points that searches take; an integer.
    batch_size: examples a step; memory grows with it.
    progress: whether to show a progress bar.

  Returns:
    A `BoundaryPoint` of numpy columns `[n, ...]`, in order.

  Raises:
    ValueError: for an unsupported option, labels or rows of the wrong number,
      labels outside `[0, k)`, or inputs outside the bounds.
    TypeError: for integer inputs or labels that are not integers.
    ValueError, TypeError: for a network that fails at its first call, from its
      own error: with what it has to take, and a remedy where one is known.
  """
  xs = inputs.check_inputs(xs)
  inputs.check_options(norm, method, nearest.METHODS, max_gradients)
  batch_size = inputs.check_count('batch_size', batch_size)
  example = jax.ShapeDtypeStruct(xs.shape[1:], xs.dtype)
  network = network_lib.trace(logits_fn, example, params, batch=xs.shape)
  low, high = inputs.check_bounds(xs, bounds)
  inputs.check_counting(norm, method, project, (low, high), groups)
  groups = paths.check_groups(groups, xs.shape[1:])
  own_box = low.ndim == xs.ndim
  rows = inputs.check_rows(project, project_rows, xs)
  project = _trace_project(project, example, rows)
  own = labels is None
  if labels is None:
    labels = np.zeros(len(xs), np.int32)
  labels = inputs.check_labels(labels, len(xs), network.num_classes)
  search = programs.bind(
    _search,
    norm=float(norm),
    method=method,
    max_gradients=int(max_gradients),
    groups=groups,
    own=own,
    own_box=own_box,
  )
  box = (low, high) if own_box else ()
  shared = (network, project, inputs.check_seed(seed))
  shared += () if own_box else (low, high)

  def solve(columns):
    return parallel.map_examples(
      search,
      columns,
      shared=shared,
      batch_size=batch_size,
      progress='boundary distances' if progress else None,
    )

  with nearest.plain_arithmetic():
    # Own predictions are never wrong: the first batch is for the warning alone.
    checked = slice(batch_size if own else None)
    first = parallel.map_examples(
      programs.bind(_prescreen),
      (xs[checked], labels[checked]),
      shared=(network,),
      batch_size=batch_size,
    )
    _warn_of_probabilities(first)
    columns = (xs, labels, *box, *rows)
    if own or first.needs_search.all():
      return solve(columns)
    scatter(first.point, first.needs_search, solve, columns, batch_size)
    return first.point


def _trace_project(project, example, rows):
  """The projection, traced with the arrays that it captures; or None."""
  if project is None:
    return None
  dtype = network_lib.geometry_dtype(example.dtype)
  shapes = [jax.ShapeDtypeStruct(example.shape, dtype)]
  for row in rows:
    dtype = jax.dtypes.canonicalize_dtype(row.dtype)
    shapes.append(jax.ShapeDtypeStruct(row.shape[1:], dtype))
  inputs.check_project(project, *shapes)
  return programs.trace(project, *shapes)


def _search(x, label, *rest, norm, groups, method, max_gradients, own, own_box):
  """Searches one example: its columns come first, then what is shared."""
  if own_box:
    low, high, *rows, network, project, seed = rest
  else:
    *rows, network, project, seed, low, high = rest
  if own:
    label = jnp.argmax(network_lib.logits(network, x))
  return nearest.nearest_point(
    network,
    x,
    label,
    norm=norm,
    bounds=(low, high),
    project=None if project is None else lambda v: project(v, *rows),
    groups=groups,
    method=method,
    max_gradients=max_gradients,
    seed=seed,
  )


class Prescreen(NamedTuple):
  """What one evaluation of each example tells, before any search.

  Attributes:
    point: the result of examples that need no search.
    needs_search: whether the label is predicted, and all is finite.
    probabilities: whether logits are (`network.are_probabilities`).
  """

  point: BoundaryPoint
  needs_search: jax.Array
  probabilities: jax.Array


def _prescreen(x, label, network):
  point, logits = nearest.unsearched_point(network, x, label)
  return Prescreen(
    point,
    point.status == Status.NOT_FOUND,
    network_lib.are_probabilities(logits, network.resolution),
  )


def _warn_of_probabilities(first):
  known = first.probabilities[first.point.status != Status.NON_FINITE]
  if known.size and known.all():
    warnings.warn(
      'logits_fn returns numbers in [0, 1] that add up to 1: these look like '
      'probabilities. A softmax saturates and its gradients vanish, so that '
      'boundaries are missed; return the logits before it instead',
      stacklevel=3,
    )


def scatter(
  results: Any,
  chosen: np.ndarray,
  run: Callable,
  columns: tuple,
  batch_size: int,
) -> None:
  """Writes what `run(columns)` is for the chosen rows into these rows.

  Short selections are filled up to the batch that all rows would make, so that
  their number does not decide what is compiled.

  Args:
    results: pytree of numpy arrays `[n, ...]`; changed in place.
    chosen: booleans `[n]`.
    run: `run(columns)` -> pytree as `results`.
    columns: arrays `[n, ...]`.
    batch_size: of `run`.
  """
  rows = np.flatnonzero(chosen)
  if rows.size:
    padded = np.resize(rows, max(rows.size, min(batch_size, chosen.size)))
    new = run(tuple(column[padded] for column in columns))

    def write(old, new):
      old[rows] = new[: rows.size]

    jax.tree.map(write, results, new)
