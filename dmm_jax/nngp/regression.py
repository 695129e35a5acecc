"""The infinitely wide network after training: regression with its kernel."""

from collections.abc import Callable
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
import numpy as np
from scipy import linalg

from dmm_jax.nngp.gradients import as_double
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
) -> Callable:
  """Returns the `logits_fn` of a trained infinitely wide network.

  `posterior_mean` of `fit_regression`, to be given to whatever takes a network,
  as `boundary.measure`. The training inputs become constants of what is
  compiled: for thousands of large ones pass a `Regression` as an argument.

  Args:
    kernel_fn, xs, labels, kind, ridge: as for `fit_regression`.
  """
  fitted = fit_regression(kernel_fn, xs, labels, kind=kind, ridge=ridge)
  return lambda x: posterior_mean(kernel_fn, fitted, x, kind=kind)


@double_precision
def fit_regression(
  kernel_fn: Callable,
  xs: ArrayLike,
  labels: ArrayLike,
  *,
  kind: str = 'nngp',
  ridge: float = 1e-4,
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
    xs: inputs `[n, ...]`.
    labels: `[n]`, from 0; the largest tells the number k of classes, at least
      2.
    kind: 'nngp' or 'ntk'.
    ridge: added to the diagonal, in units of its mean.

  Returns:
    A `Regression`, float32.

  Raises:
    ValueError: for another kind.
    scipy.linalg.LinAlgError: where the matrix is not positive definite, as with
      repeated inputs and no ridge.
  """
  _check(kind)
  k = max(int(np.max(labels)) + 1, 2)
  targets = np.eye(k)[np.asarray(labels)] - 1 / k
  matrix = kernel_matrix(kernel_fn, xs, kind=kind)
  matrix[np.diag_indices(len(matrix))] += ridge * np.mean(np.diag(matrix))
  weights = linalg.solve(matrix, targets, assume_a='pos', overwrite_a=True)
  xs, weights = (np.asarray(v, np.float32) for v in (xs, weights))
  return Regression(jnp.asarray(xs), jnp.asarray(weights))


@double_precision
def kernel_matrix(
  kernel_fn: Callable, xs: ArrayLike, *, kind: str = 'nngp'
) -> np.ndarray:
  """Returns the kernel `[n, n]` of all pairs of `xs`, float64, in parts."""
  _check(kind)
  xs = as_double(xs)
  num = len(xs)
  rows = max(1, min(num, _PART // xs.size))
  part = _kernels(kernel_fn, kind)
  out = np.empty((num, num))
  for start in range(0, num, rows):
    # The last rows come with ones before them: one shape, compiled once.
    start = min(start, num - rows)
    out[start : start + rows] = part(xs[start : start + rows], xs)
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
    x: one input.

  Returns:
    Of the dtype of `x`. Rounding errors are about those of a sum of n terms as
    large as the weights, which a small ridge makes larger than the logits.
  """
  xs, weights = (v.astype(x.dtype) for v in fitted)
  return _kernels(kernel_fn, kind)(x[None], xs)[0] @ weights


@functools.lru_cache(maxsize=16)
def _kernels(kernel_fn, kind):
  # Compiled, and traced once: neural-tangents takes a second for that.
  return jax.jit(lambda xs1, xs2: kernel_fn(xs1, xs2, kind))


def _check(kind):
  if kind not in KINDS:
    raise ValueError(f'kind must be one of {KINDS}, got {kind!r}')
