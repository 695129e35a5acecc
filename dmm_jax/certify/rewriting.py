"""Operations that are others together: maxima by ReLUs, and what follows."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np


def _maximum(a, b):
  return jnp.maximum(a - b, 0) + b


def _minimum(a, b):
  return a - jnp.maximum(a - b, 0)


def _absolute(x):
  return 2 * jnp.maximum(x, 0) - x


def _clamp(low, x, high):
  return _minimum(_maximum(x, low), high)


def _leaky(x, slope):
  return slope * x + (1 - slope) * jnp.maximum(x, 0)


def _reduce_max(x, *, axes, **_):
  for axis in sorted(axes, reverse=True):
    parts = [
      jax.lax.index_in_dim(x, i, axis, False) for i in range(x.shape[axis])
    ]
    x = _largest(parts)
  return x


def _pool_max(x, **params):
  return _largest(list(windows(x, **params)))


def windows(
  x: jax.Array,
  *,
  window_dimensions: tuple,
  window_strides: tuple,
  padding: tuple,
  **rest: tuple,
) -> jax.Array:
  """Return the entries of windows, one after the other, `[entries, ...]`."""
  if any(map(any, padding)) or any(d != 1 for key in rest for d in rest[key]):
    raise ValueError('windows that are padded or dilated')
  lengths = [
    (n - w) // s + 1
    for n, w, s in zip(x.shape, window_dimensions, window_strides, strict=True)
  ]
  parts = []
  for start in np.ndindex(*window_dimensions):
    ends = [
      i + (n - 1) * s + 1
      for i, n, s in zip(start, lengths, window_strides, strict=True)
    ]
    parts.append(jax.lax.slice(x, start, ends, window_strides))
  return jnp.stack(parts)


def _largest(parts):
  """The maximum of arrays, two by two."""
  while len(parts) > 1:
    pairs = zip(parts[::2], parts[1::2], strict=False)
    parts = [_maximum(a, b) for a, b in pairs] + parts[len(parts) & ~1 :]
  return parts[0]


# What an operation is in terms of others.
REWRITTEN: dict[str, Callable] = {
  'abs': _absolute,
  'clamp': _clamp,
  'leaky_relu': _leaky,
  'max': _maximum,
  'min': _minimum,
  'reduce_max': _reduce_max,
  'reduce_window_max': _pool_max,
}
