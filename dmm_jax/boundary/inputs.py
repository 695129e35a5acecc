"""Checks at the door, each with a sentence that names the argument."""

from collections.abc import Mapping
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
# Methods for norm 0; those of them that know groups.
COUNTING = ('portfolio', 'fast', 'sigma_zero', 'fmn', 'ray', 'linear')
GROUPING = ('portfolio', 'fast', 'ray', 'linear')


def check_options(
  norm: float, method: str, methods: Sequence[str], max_gradients: int
) -> None:
  """Raises ValueError or TypeError for options that do not exist."""
  norms.check(norm, counts=True)
  if method not in methods:
    raise ValueError(f'method must be one of {methods}, got {method!r}')
  counts = not isinstance(norm, jax.Array) and norm == 0
  if counts and method not in COUNTING:
    raise ValueError(
      f'method {method} has no steps for norm 0, the number of changed inputs; '
      f'these have: {", ".join(m for m in methods if m in COUNTING)}'
    )
  if method == 'sigma_zero' and not counts:
    raise ValueError(f'norm must be 0 for method sigma_zero, got {norm!r}')
  if isinstance(norm, jax.Array) and method in ('apgd', 'ddn'):
    raise ValueError(
      f'method {method} needs a norm that is not traced: one norm at a time'
    )
  if method == 'ddn' and norm != 2:
    raise ValueError(
      f'norm must be 2 for method ddn, got {norm!r}; fmn and apgd are for '
      'other norms'
    )
  check_count('max_gradients', max_gradients)


def check_counting(
  norm: float, method: str, project: Any, bounds: tuple, groups: Any
) -> None:
  """Raises ValueError for what does not go with norm 0, or groups without it.

  Args:
    norm, method: as `check_options` has passed them.
    project: a subspace, or None.
    bounds: pair of numbers or arrays; traced ones are not looked at.
    groups: axes whose inputs count once, or None.
  """
  counts = not isinstance(norm, jax.Array) and norm == 0
  if groups is not None and not (counts and method in GROUPING):
    raise ValueError(
      f'groups are for norm 0 and methods {", ".join(GROUPING)}, got norm '
      f'{norm!r} and method {method!r}'
    )
  if not counts:
    return
  if project is not None:
    raise ValueError(
      'norm 0 counts changed inputs, and a subspace changes all: give either '
      'norm=0 or project'
    )
  known = [end for end in bounds if not isinstance(end, jax.core.Tracer)]
  if not all(np.all(np.isfinite(np.asarray(end))) for end in known):
    raise ValueError(
      'norm 0 counts changed inputs, each of which may go as far as it can: '
      'give bounds=(low, high) with two finite ends'
    )


def check_count(name: str, value: Any, least: int = 1) -> int:
  """Returns an integer of at least `least`, or raises TypeError, ValueError."""
  message = f'{name} must be an integer, {least} or more, got {value!r}'
  if isinstance(value, bool) or not isinstance(value, int | np.integer):
    raise TypeError(message)
  if value < least:
    raise ValueError(message)
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
  """Returns inputs `[n, ...]` in a dtype that JAX has.

  float64 becomes float32, unless JAX has 64 bits (`jax_enable_x64`).
  """
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


def check_labels(labels: ArrayLike, num: int, num_classes: int) -> np.ndarray:
  """Returns class numbers `[num]` as int32."""
  labels = np.asarray(labels)
  one_hot = labels.ndim == 2 and labels.shape == (num, num_classes)
  if one_hot or (labels.size and not np.issubdtype(labels.dtype, np.integer)):
    raise TypeError(
      f'labels must be integers [{num}], got {labels.dtype} of shape '
      f'{labels.shape}; of one-hot labels pass labels.argmax(-1)'
    )
  if labels.shape != (num,):
    raise ValueError(
      f'{num} inputs need as many labels [{num}], got shape {labels.shape}'
    )
  if labels.size and not 0 <= labels.min() <= labels.max() < num_classes:
    raise ValueError(
      f'labels must lie in [0, {num_classes}), got labels from {labels.min()} '
      f'to {labels.max()}'
    )
  return labels.astype(np.int32)


def pair(bounds: Any) -> tuple[Any, Any]:
  """Returns the two ends of bounds, infinite where there is none."""
  if bounds is None:
    bounds = None, None
  if isinstance(bounds, Mapping | str) or not _has_length(bounds, 2):
    raise ValueError(f'bounds must be None or a pair (low, high), got {bounds}')
  low, high = bounds
  return -np.inf if low is None else low, np.inf if high is None else high


def _has_length(value, length):
  try:
    return len(value) == length
  except TypeError:
    return False


def ends(bounds: tuple | None, *shapes: tuple) -> list[np.ndarray]:
  """Returns both ends of bounds as float64 arrays of one of `shapes` or ().

  Raises:
    ValueError: for what is no pair, for NaN, other shapes and low > high.
  """
  found = []
  for name, end in zip(('low', 'high'), pair(bounds), strict=True):
    try:
      end = np.asarray(end, np.float64)
    except (TypeError, ValueError):
      raise ValueError(
        f'bounds must be numbers, arrays or None, got {end!r} for {name}'
      ) from None
    if np.isnan(end).any():
      raise ValueError(
        f'bounds must not be NaN, got {np.isnan(end).sum()} in {name}; None '
        'stands for no end'
      )
    if end.shape not in ((), *shapes):
      known = ' or '.join(map(str, shapes))
      raise ValueError(
        f'bounds must be numbers or arrays of shape {known}, got shape '
        f'{end.shape} for {name}; np.broadcast_to expands one value a channel'
      )
    found.append(end)
  crossed = np.count_nonzero(found[0] > found[1])
  if crossed:
    raise ValueError(
      f'bounds must have low <= high, got low > high in {crossed} entries'
    )
  return found


def check_bounds(
  xs: np.ndarray, bounds: tuple | None
) -> tuple[np.ndarray, np.ndarray]:
  """Returns the box of the inputs, in their dtype.

  Inputs outside by no more than `ROUNDING` units of rounding count as inside.

  Args:
    xs: inputs `[n, ...]`.
    bounds: None, or `(low, high)`: numbers, arrays as one input, arrays
      `[n, ...]` of each input's own, or None for no end.

  Returns:
    `(low, high)`: of the shape of one input, or of all where each has its own.

  Raises:
    ValueError: for bounds that are no box, or inputs outside.
  """
  with np.errstate(over='ignore'):  # Beyond the range of the dtype: no end.
    low, high = (
      end.astype(xs.dtype) for end in ends(bounds, xs.shape[1:], xs.shape)
    )
  own = max(low.ndim, high.ndim) == xs.ndim
  shape = xs.shape if own else xs.shape[1:]
  low, high = np.broadcast_to(low, shape), np.broadcast_to(high, shape)
  size = [np.where(np.isfinite(v), np.abs(v), 0) for v in (low, high)]
  rounding = ROUNDING * float(jnp.finfo(xs.dtype).eps) * np.maximum(*size)
  rounding = rounding.astype(xs.dtype)
  entries = (xs < low - rounding) | (xs > high + rounding)
  outside = np.any(entries, axis=tuple(range(1, xs.ndim)))
  if outside.any():
    raise ValueError(
      f'{outside.sum()} of {len(xs)} inputs lie outside bounds (the first is '
      f'number {outside.argmax()}); clip them, or widen the bounds'
    )
  return low, high


def check_box(
  bounds: tuple | None, x: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """Returns the box of one input, as the input; ends may be traced.

  It is widened to hold the input, so that rounding does not leave it outside.
  """
  given, box = pair(bounds), []
  if not any(isinstance(end, jax.Array) for end in given):
    ends(bounds, x.shape)  # Arrays of JAX may be traced.
  for name, end in zip(('low', 'high'), given, strict=True):
    end = jnp.asarray(end, x.dtype)
    if end.shape not in ((), x.shape):
      raise ValueError(
        f'bounds must be numbers or arrays of shape {x.shape}, got shape '
        f'{end.shape} for {name}'
      )
    box.append(jnp.broadcast_to(end, x.shape))
  low, high = box
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
