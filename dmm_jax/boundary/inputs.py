"""Checks at the door, each with a sentence that names the argument."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
import numpy as np

from dmm_jax import norms
from dmm_jax.boundary import problem as problem_lib

# Inputs may lie outside bounds by their own rounding, in units of it.
ROUNDING = 8


def check_options(
  norm: float, method: str, methods: Sequence[str], max_gradients: int
) -> None:
  """Raises ValueError or TypeError for options that do not exist."""
  norms.check(norm)
  if method not in methods:
    raise ValueError(f'method must be one of {methods}, got {method!r}')
  if isinstance(norm, jax.Array) and method in ('apgd', 'ddn'):
    raise ValueError(f'method {method} needs a norm that is not traced')
  check_count('max_gradients', max_gradients)


def check_count(name: str, value: Any) -> int:
  """Returns a positive integer, or raises TypeError or ValueError."""
  if isinstance(value, bool) or not isinstance(value, int | np.integer):
    raise TypeError(f'{name} must be a positive integer, got {value!r}')
  if value < 1:
    raise ValueError(f'{name} must be a positive integer, got {value}')
  return int(value)


def check_seed(seed: Any) -> Any:
  """Returns a seed in the range of int32; any integer is one."""
  if isinstance(seed, int | np.integer) and not isinstance(seed, bool):
    return np.int32(int(seed) % 2**31)
  if isinstance(seed, jax.Array) and jnp.issubdtype(seed.dtype, jnp.integer):
    if seed.ndim == 0:
      return seed
  raise TypeError(f'seed must be an integer, got {seed!r}')


def check_inputs(xs: ArrayLike) -> np.ndarray:
  """Returns inputs `[n, ...]` in a dtype that JAX has."""
  xs = np.asarray(xs)
  if not jnp.issubdtype(xs.dtype, jnp.floating):
    raise TypeError(
      f'inputs must be floating point, got {xs.dtype}: '
      'distances between integers are not defined; convert and rescale first'
    )
  if not xs.ndim:
    raise ValueError('xs must be inputs [n, ...], got a single number')
  return xs.astype(jax.dtypes.canonicalize_dtype(xs.dtype), copy=False)


def check_label(label: Any, num_classes: int) -> jax.Array:
  """Returns the class of one input as int32; it may be traced."""
  dtype = jax.dtypes.result_type(label)
  if np.shape(label) or not jnp.issubdtype(dtype, jnp.integer):
    raise TypeError(
      f'label must be one integer, got {dtype} of shape {np.shape(label)}'
    )
  known = isinstance(label, int | np.integer)
  if known and not 0 <= label < num_classes:
    raise ValueError(f'label must lie in [0, {num_classes}), got {label}')
  return jnp.asarray(label, jnp.int32)


def check_labels(
  labels: ArrayLike, xs: np.ndarray, num_classes: int
) -> np.ndarray:
  """Returns class numbers `[n]` as int32."""
  labels = np.asarray(labels)
  one_hot = labels.ndim == 2 and labels.shape == (len(xs), num_classes)
  if one_hot or (labels.size and not np.issubdtype(labels.dtype, np.integer)):
    raise TypeError(
      f'labels must be integers [n], got {labels.dtype} of shape '
      f'{labels.shape}; for one-hot labels use labels.argmax(-1)'
    )
  if labels.shape != (len(xs),):
    raise ValueError(
      f'{len(xs)} inputs need as many labels, got shape {labels.shape}'
    )
  if labels.size and not 0 <= labels.min() <= labels.max() < num_classes:
    raise ValueError(
      f'labels must lie in [0, {num_classes}), got '
      f'[{labels.min()}, {labels.max()}]'
    )
  return labels.astype(np.int32)


def _pair(bounds):
  """The two ends; infinite where there is none."""
  if bounds is None:
    bounds = None, None
  if not isinstance(bounds, list | tuple) or len(bounds) != 2:
    raise ValueError(
      'bounds must be None or (low, high), each a number, an array or None for '
      f'no end; got {bounds!r}'
    )
  low, high = bounds
  return -np.inf if low is None else low, np.inf if high is None else high


def _check_order(low, high):
  if np.isnan(low).any() or np.isnan(high).any():
    raise ValueError('bounds must not be NaN; None or inf stands for no end')
  if not np.all(low <= high):
    raise ValueError(
      'bounds must be (low, high) with low <= high everywhere, got '
      f'{np.sum(~(low <= high))} entries where low is above high'
    )


def check_bounds(
  xs: np.ndarray, bounds: tuple | None
) -> tuple[np.ndarray, np.ndarray, bool]:
  """Returns the box of every input, in the dtype of the inputs.

  Args:
    xs: inputs `[n, ...]`.
    bounds: None, or `(low, high)`: numbers, arrays as one input, arrays
      `[n, ...]` of each input's own, or None for no end.

  Returns:
    `(low, high, own)`: of the shape of one input, or of all where each has its
    `own`. Inputs outside by no more than rounding count as inside.

  Raises:
    ValueError: for bounds that are no box, or inputs outside.
  """
  ends = [np.asarray(end).astype(xs.dtype) for end in _pair(bounds)]
  for name, end in zip(('low', 'high'), ends, strict=True):
    if end.shape not in ((), xs.shape[1:], xs.shape):
      raise ValueError(
        f'bounds: {name} must be a number or an array of shape {xs.shape[1:]} '
        f'or {xs.shape}, got shape {end.shape}'
      )
  own = any(end.shape == xs.shape and end.ndim > 0 for end in ends)
  own = own and not all(end.shape in ((), xs.shape[1:]) for end in ends)
  shape = xs.shape if own else xs.shape[1:]
  low, high = (np.broadcast_to(end, shape) for end in ends)
  _check_order(low, high)
  with np.errstate(invalid='ignore', over='ignore'):
    size = np.maximum(
      *(np.where(np.isfinite(v), np.abs(v), 0) for v in (low, high))
    )
    rounding = (ROUNDING * jnp.finfo(xs.dtype).eps * size).astype(xs.dtype)
    outside = (xs < low - rounding) | (xs > high + rounding)
  outside = outside.any(axis=tuple(range(1, xs.ndim)))
  if outside.any():
    raise ValueError(
      f'{outside.sum()} of {len(xs)} inputs lie outside bounds (the first is '
      f'number {outside.argmax()}); clip them, or widen the bounds'
    )
  return low, high, own


def check_box(
  bounds: tuple | None, x: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """Returns the box of one input, as the input; ends may be traced.

  It is widened to hold the input, so that rounding does not leave it outside.
  """
  ends, given = [], _pair(bounds)
  if not any(isinstance(end, jax.Array) for end in given):
    _check_order(*map(np.asarray, given))  # Arrays of JAX may be traced.
  for name, end in zip(('low', 'high'), given, strict=True):
    end = jnp.asarray(end, x.dtype)
    if end.shape not in ((), x.shape):
      raise ValueError(
        f'bounds: {name} must be a number or an array of shape {x.shape}, got '
        f'shape {end.shape}'
      )
    ends.append(jnp.broadcast_to(end, x.shape))
  low, high = ends
  return jnp.minimum(low, x), jnp.maximum(high, x)


def check_project(project: Any, x: Any, *rows: Any) -> None:
  """Raises TypeError or ValueError for what is no projection of inputs."""
  if not callable(project):
    raise TypeError(f'project must be a function or None, got {project!r}')
  shape = getattr(jax.eval_shape(project, x, *rows), 'shape', None)
  if shape != x.shape:
    raise ValueError(
      f'project must map an array {x.shape} to one of that shape, got {shape}'
    )


def check_rows(
  project: problem_lib.Project, rows: tuple, xs: np.ndarray
) -> tuple[np.ndarray, ...]:
  """Returns arrays `[n, ...]`, one row an input, for `project`."""
  if rows and project is None:
    raise ValueError('project_rows are arguments of project, which is None')
  rows = tuple(map(np.asarray, rows))
  for row in rows:
    if len(row) != len(xs):
      raise ValueError(
        f'{len(xs)} inputs need as many rows, got {len(row)} rows'
      )
  return rows
