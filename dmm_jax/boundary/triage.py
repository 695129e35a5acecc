"""Which examples of a data set need a search, and values for the others."""

from collections.abc import Callable
import functools
from typing import Any
from typing import NamedTuple
import warnings

import jax
import jax.numpy as jnp
import numpy as np

from dmm_jax import margins
from dmm_jax import normals
from dmm_jax import parallel
from dmm_jax.boundary import point as point_lib
from dmm_jax.boundary.point import BoundaryPoint
from dmm_jax.boundary.point import Status


class Look(NamedTuple):
  """What the logits of an input tell before any search.

  Attributes:
    predicted: the class.
    margin: of the label, in logits.
    finite: whether all logits are.
    probabilities: whether they lie in [0, 1] and add up to 1, within 1e-3.
  """

  predicted: jax.Array
  margin: jax.Array
  finite: jax.Array
  probabilities: jax.Array


def look(
  logits_fn: point_lib.LogitsFn,
  xs: np.ndarray,
  labels: np.ndarray,
  *,
  batch_size: int,
) -> Look:
  """Evaluates the logits of a data set once, in batches.

  Args:
    logits_fn: one input -> logits `[k]`.
    xs: `[n, ...]`.
    labels: integers `[n]`.
    batch_size: examples a step.

  Returns:
    A `Look` of numpy columns `[n]`.
  """
  return parallel.map_examples(
    _looker(logits_fn), (xs, labels), batch_size=batch_size
  )


# One function object for one network, so that `jit` finds it again.
@functools.lru_cache(maxsize=32)
def _looker(logits_fn):
  def one(x, label):
    logits = logits_fn(x)
    sums_to_one = jnp.abs(jnp.sum(logits) - 1) <= 1e-3
    return Look(
      jnp.argmax(logits).astype(jnp.int32),
      margins.margin(logits, label),
      jnp.all(jnp.isfinite(logits)),
      jnp.all((logits >= 0) & (logits <= 1)) & sums_to_one,
    )

  return one


@functools.lru_cache(maxsize=32)
def _normal(logits_fn):
  return lambda x, label: normals.normal(logits_fn, x, label)


def warn_of_probabilities(first: Look) -> None:
  """Warns where every output of the network looks like that of a softmax."""
  seen = first.probabilities[first.finite]
  if seen.size and seen.all():
    warnings.warn(
      'logits_fn returns numbers in [0, 1] that add up to 1: these look like '
      'probabilities. A softmax saturates and its gradients vanish, so that '
      'boundaries are missed; return the logits before it instead',
      stacklevel=3,
    )


def settle(
  logits_fn: point_lib.LogitsFn,
  xs: np.ndarray,
  labels: np.ndarray,
  first: Look,
  *,
  batch_size: int,
) -> BoundaryPoint:
  """Returns the values of examples that need no search.

  MISCLASSIFIED, at distance 0, where another class is predicted, and
  NON_FINITE, at inf, elsewhere: rows that do need one are to be overwritten.

  Returns:
    A `BoundaryPoint` of new numpy columns `[n, ...]`.
  """
  wrong = first.finite & (first.predicted != labels)
  status = np.where(wrong, Status.MISCLASSIFIED, Status.NON_FINITE)
  columns: dict[str, Any] = dict(
    distance=np.where(wrong, 0.0, np.inf).astype(xs.dtype),
    point=xs.copy(),
    target=np.where(wrong, first.predicted, -1).astype(np.int32),
    normal=np.zeros_like(xs),
    margin=np.array(first.margin),
    status=status.astype(np.int32),
    gradients=wrong.astype(np.int32),
    forwards=np.ones(len(xs), np.int32),
  )
  result = BoundaryPoint(**columns)
  normal = functools.partial(
    parallel.map_examples, _normal(logits_fn), batch_size=batch_size
  )
  overwrite(
    result.normal,
    np.asarray(wrong),
    normal,
    (xs, labels),
    batch_size=batch_size,
  )
  return result


def overwrite(
  results: Any,
  chosen: jax.Array | np.ndarray,
  run: Callable,
  columns: tuple,
  *,
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
