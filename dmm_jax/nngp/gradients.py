"""The law of an infinitely wide network's gradient at one input."""

from collections.abc import Callable
from collections.abc import Hashable
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
import numpy as np

from dmm_jax import programs
from dmm_jax.nngp import checks

EXACT_SIZE = 512  # Inputs up to this size get their whole C.


def double_precision(fn: Callable) -> Callable:
  """Runs `fn` with JAX in float64, so that float inputs stay exact."""

  @functools.wraps(fn)
  def wrapped(*args, **kwargs):
    with jax.enable_x64(True):
      return fn(*args, **kwargs)

  return wrapped


def is_own(kernel_fn: Callable) -> bool:
  """Whether a kernel is of an architecture of `nngp`: one without arrays."""
  return getattr(kernel_fn, 'captures_nothing', False)


def program(
  fn: Callable, kernel_fn: Callable, *args: Any, **options: Hashable
) -> Callable:
  """Returns `fn(*args, kernel_fn=kernel_fn, **options)` as a value, for `call`.

  A kernel of `nngp` captures nothing and is compiled once. Any other is traced
  here, with the arrays that it captures as they are now; where the structure is
  equal, it is compiled once.

  Args:
    fn: a function at the top level of a module.
    kernel_fn: any kernel.
    *args: examples of the arguments, of the shapes that `call` is given.
    **options: further arguments of `fn`.
  """
  if is_own(kernel_fn):
    return programs.bind(fn, kernel_fn=kernel_fn, **options)
  given = functools.partial(fn, kernel_fn=kernel_fn, **options)
  return programs.trace(given, *args)


@jax.jit
def call(program: Callable, *args: Any) -> Any:
  """Returns `program(*args)`, compiled once for equal programs."""
  return program(*args)


def evaluate(
  fn: Callable, kernel_fn: Callable, *args: Any, **options: Hashable
) -> Any:
  """Returns `fn(*args, kernel_fn=kernel_fn, **options)`; see `program`."""
  return call(program(fn, kernel_fn, *args, **options), *args)


def covariance(x: jax.Array, y: jax.Array, *, kernel_fn: Callable) -> jax.Array:
  """Returns K(x, y) for one pair of inputs."""
  return kernel_fn(x[None], y[None], 'nngp')[0, 0]


def _gradient_covariance_times(x, vs, *, kernel_fn):
  """Returns C v for rows `vs [m, ...]`."""
  k = functools.partial(covariance, kernel_fn=kernel_fn)

  def times(v):
    # `a` moves and y stays at x: only mixed derivatives, none of y twice.
    along = lambda a: jax.jvp(lambda y: k(a, y), (x,), (v,))[1]
    return jax.grad(along)(x)

  # In parts: kernels of large images take much memory for each row.
  return jax.lax.map(times, vs, batch_size=4)


@double_precision
def output_variance(kernel_fn: Callable, x: ArrayLike) -> float:
  """Returns K(x, x), the variance of the output at one input."""
  x = checks.as_double(x)
  return float(evaluate(covariance, kernel_fn, x, x))


@double_precision
def gradient_covariance(kernel_fn: Callable, x: ArrayLike) -> np.ndarray:
  """Returns C = d^2 K / dx dy at y = x, `[n, n]`, exactly: n products."""
  x = checks.as_double(x)
  basis = jnp.eye(x.size).reshape(-1, *x.shape)
  rows = evaluate(_gradient_covariance_times, kernel_fn, x, basis)
  c = np.asarray(rows).reshape(x.size, x.size)
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
  x = checks.as_double(x)
  shape = (num_probes or 32, *x.shape)
  signs = jax.random.rademacher(jax.random.key(seed), shape, jnp.float64)
  products = evaluate(_gradient_covariance_times, kernel_fn, x, signs)
  return np.maximum(np.mean(signs * products, 0), 0.0)


def square_root(covariance: np.ndarray) -> np.ndarray:
  """Returns a symmetric square root; negative rounding errors become zero."""
  values, vectors = np.linalg.eigh(covariance)
  return (vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T
