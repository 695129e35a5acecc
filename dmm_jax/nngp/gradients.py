"""The law of an infinitely wide network's gradient at one input."""

from collections.abc import Callable
import functools

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
import numpy as np

EXACT_SIZE = 512  # Inputs up to this size get their whole C.


def double_precision(fn: Callable) -> Callable:
  """Runs `fn` with JAX in float64, so that float inputs stay exact."""

  @functools.wraps(fn)
  def wrapped(*args, **kwargs):
    with jax.enable_x64(True):
      return fn(*args, **kwargs)

  return wrapped


@functools.lru_cache(maxsize=64)
def pair(kernel_fn: Callable) -> tuple[Callable, Callable]:
  """`(k, (x, v) -> C v)` for one pair of inputs, compiled once a shape."""

  def k(x, y):
    return kernel_fn(x[None], y[None], 'nngp')[0, 0]

  def covariance_times(x, v):
    # `a` moves and y stays at x: only mixed derivatives, none of y twice.
    along = lambda a: jax.jvp(lambda y: k(a, y), (x,), (v,))[1]
    return jax.grad(along)(x)

  def rows(x, vs):
    # In parts: kernels of large images take much memory for each row.
    return jax.lax.map(lambda v: covariance_times(x, v), vs, batch_size=4)

  return jax.jit(k), jax.jit(rows)


def as_double(x: ArrayLike) -> jax.Array:
  """Returns an array in float64; within `double_precision`."""
  return jnp.asarray(np.asarray(x, np.float64))


@double_precision
def output_variance(kernel_fn: Callable, x: ArrayLike) -> float:
  """Returns K(x, x), the variance of the output at one input."""
  x = as_double(x)
  return float(pair(kernel_fn)[0](x, x))


@double_precision
def gradient_covariance(kernel_fn: Callable, x: ArrayLike) -> np.ndarray:
  """Returns C = d^2 K / dx dy at y = x, `[n, n]`, exactly: n products."""
  x = as_double(x)
  basis = jnp.eye(x.size).reshape(-1, *x.shape)
  c = np.asarray(pair(kernel_fn)[1](x, basis)).reshape(x.size, x.size)
  return (c + c.T) / 2


@double_precision
def gradient_variance(
  kernel_fn: Callable,
  x: ArrayLike,
  *,
  num_probes: int | None = None,
  seed: int = 0,
) -> np.ndarray:
  """Returns the diagonal of C, the variance of each partial derivative of f.

  Averages z * (C z) over random signs z (Hutchinson 1990; Bekas, Kokiopoulou,
  Saad 2007, https://doi.org/10.1016/j.apnum.2007.01.003). Where C is diagonal,
  as for every bias-free ReLU network without pooling, one probe is exact;
  else an entry has variance sum_{j != i} C_ij^2 / num_probes.

  Args:
    kernel_fn: as of an architecture above.
    x: one input.
    num_probes: None for the exact diagonal up to `EXACT_SIZE` inputs and 32
      probes beyond.
    seed: of the probes.

  Returns:
    float64, as `x`. Estimates below zero are raised to zero.
  """
  if num_probes is None and np.size(x) <= EXACT_SIZE:
    return (
      np.diag(gradient_covariance(kernel_fn, x)).reshape(np.shape(x)).copy()
    )
  x = as_double(x)
  shape = (num_probes or 32, *x.shape)
  signs = jax.random.rademacher(jax.random.key(seed), shape, jnp.float64)
  return np.maximum(np.mean(signs * pair(kernel_fn)[1](x, signs), 0), 0.0)


def square_root(covariance: np.ndarray) -> np.ndarray:
  """Returns a symmetric square root; negative rounding errors become zero."""
  values, vectors = np.linalg.eigh(covariance)
  return (vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T
