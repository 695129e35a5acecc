"""The infinitely wide network after training: regression with its kernel."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
import numpy as np
from scipy import linalg

from dmm_jax import data
from dmm_jax import programs
from dmm_jax.nngp import checks
from dmm_jax.nngp import gradients
from dmm_jax.nngp.gradients import double_precision

KINDS = ('nngp', 'ntk')
# Numbers that one part of a kernel matrix may take, at each of its layers.
_PART = 2**24


class Regression(NamedTuple):
  """What an infinitely wide network has learnt; a pytree.

  Attributes:
    xs: the inputs that it was trained on `[n, ...]`.
    weights: of their kernels with a new input, `[n, k]`.
  """

  xs: jax.Array
  weights: jax.Array


def regressor(
  kernel_fn: Callable,
  xs: ArrayLike,
  labels: ArrayLike,
  *,
  kind: str = 'nngp',
  ridge: float = 1e-4,
  num_classes: int | None = None,
) -> Callable:
  """Returns the `logits_fn` of a trained infinitely wide network.

  `posterior_mean` of `fit_regression`, to be given to whatever takes a network,
  as `boundary.measure`. The training inputs become constants of what is
  compiled: for thousands of large ones pass a `Regression` as an argument.

  Args:
    kernel_fn, xs, labels, kind, ridge, num_classes: as for `fit_regression`.
  """
  fitted = fit_regression(
    kernel_fn, xs, labels, kind=kind, ridge=ridge, num_classes=num_classes
  )
  return lambda x: posterior_mean(kernel_fn, fitted, x, kind=kind)


@double_precision
def fit_regression(
  kernel_fn: Callable,
  xs: ArrayLike,
  labels: ArrayLike,
  *,
  kind: str = 'nngp',
  ridge: float = 1e-4,
  num_classes: int | None = None,
) -> Regression:
  """Trains the infinitely wide network on labelled inputs, exactly.

  Solves (K + ridge mean(diag K) I) weights = one-hot targets less 1 / k, by
  Cholesky in double precision: O(n^3), for n up to some thousands.

  With the NNGP kernel that is the mean of the Gaussian process given its values
  at the inputs (Lee et al. 2018, https://arxiv.org/abs/1711.00165), as Bayesian
  training or training of the last layer alone comes to. With the neural tangent
  kernel it is where gradient descent on the squared loss takes all layers, on
  average over the start (Jacot et al. 2018, https://arxiv.org/abs/1806.07572).

  Args:
    kernel_fn: as of an architecture of `nngp`.
    xs: inputs `[n, ...]`, finite.
    labels: `[n]`, integers in [0, k).
    kind: 'nngp' or 'ntk'.
    ridge: added to the diagonal, in units of its mean.
    num_classes: k, at least 2. None takes the largest label plus 1, and each
      class then needs an example.

  Returns:
    A `Regression`, float32.

  Raises:
    ValueError, TypeError: for another kind, a ridge that is negative or NaN,
      inputs that are not finite, labels that are not those of k classes.
    scipy.linalg.LinAlgError: where the matrix is not positive definite, as with
      repeated inputs and no ridge.
  """
  _check(kind)
  if not ridge >= 0:
    raise ValueError(f'ridge must be 0 or larger, got {ridge!r}')
  # Labels for a shape of inputs that is none say less than that shape.
  xs = checks.check_finite(xs, 'xs')
  k = _num_classes(labels, len(xs), num_classes)
  targets = np.eye(k)[np.asarray(labels)] - 1 / k
  matrix = kernel_matrix(kernel_fn, xs, kind=kind)
  matrix[np.diag_indices(len(matrix))] += ridge * np.mean(np.diag(matrix))
  weights = linalg.solve(matrix, targets, assume_a='pos', overwrite_a=True)
  xs, weights = (np.asarray(v, np.float32) for v in (xs, weights))
  return Regression(jnp.asarray(xs), jnp.asarray(weights))


def _num_classes(labels, num, num_classes):
  """Returns the number of classes, if labels are theirs."""
  if num_classes is not None and num_classes < 2:
    raise ValueError(f'num_classes must be at least 2, got {num_classes}')
  data.check_labels(labels, (num,), num_classes)
  if num_classes is not None:
    return num_classes
  counts = np.bincount(labels, minlength=2)
  missing = np.flatnonzero(counts[: int(np.max(labels)) + 1] == 0)
  if missing.size:
    raise ValueError(
      f'labels must be those of classes 0 to k - 1, got none of class '
      f'{missing[0]} and some of class {np.max(labels)}; number the classes '
      'from 0, or pass num_classes where one has no example'
    )
  return len(counts)


@double_precision
def kernel_matrix(
  kernel_fn: Callable, xs: ArrayLike, *, kind: str = 'nngp'
) -> np.ndarray:
  """Returns the kernel `[n, n]` of all pairs of `xs`, float64, in parts."""
  _check(kind)
  xs = checks.as_double(xs, 'xs')
  num = len(xs)
  rows = max(1, min(num, _PART // xs.size))
  kernel = gradients.program(_kernel, kernel_fn, xs[:rows], xs, kind=kind)
  out = np.empty((num, num))
  for start in range(0, num, rows):
    # The last rows come with ones before them: one shape, compiled once.
    start = min(start, num - rows)
    part = xs[start : start + rows]
    out[start : start + rows] = gradients.call(kernel, part, xs)
  return (out + out.T) / 2


def posterior_mean(
  kernel_fn: Callable, fitted: Regression, x: jax.Array, *, kind: str = 'nngp'
) -> jax.Array:
  """Returns the trained infinitely wide network's logits `[k]` at one input.

  One row of the kernel. Works under `jit`, `vmap` and `grad`, also at the
  training inputs themselves. There a tangent kernel of ReLU networks has a
  cusp, as of a cone: its derivative counts as 0, the mean of all sides. Inputs
  whose angle is less than about 0.003 in float32 (1e-7 in float64) count as the
  same.

  Args:
    kernel_fn, kind: as given to `fit_regression`.
    fitted: what that returned.
    x: one input. Where it has a NaN, logits are NaN.

  Returns:
    Of the dtype of `x`. Rounding errors are about those of a sum of n terms as
    large as the weights, which a small ridge makes larger than the logits.
  """
  xs, weights = (v.astype(x.dtype) for v in fitted)
  if not gradients.is_own(kernel_fn):
    return kernel_fn(x[None], xs, kind)[0] @ weights
  # Traced once: neural-tangents takes a second for that.
  kernel = programs.bind(_kernel, kernel_fn=kernel_fn, kind=kind)
  return gradients.call(kernel, x[None], xs)[0] @ weights


def _kernel(xs1, xs2, *, kernel_fn, kind):
  return kernel_fn(xs1, xs2, kind)


def _check(kind):
  if kind not in KINDS:
    raise ValueError(f'kind must be one of {KINDS}, got {kind!r}')
