"""Dense ReLU networks as lists of layers, in double precision."""

from collections.abc import Sequence
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
import numpy as np

Layers = Sequence[tuple[Any, Any]]


def check(layers: Layers) -> tuple:
  """Returns the layers as float64 numpy arrays.

  Args:
    layers: `[(W [in, out], b [out]), ...]`, at least one.

  Raises:
    ValueError: where shapes do not fit together, fewer than two classes come
      out, or a weight is not finite.
  """
  double = tuple(
    (np.asarray(w, np.float64), np.asarray(b, np.float64)) for w, b in layers
  )
  if not double:
    raise ValueError('a network needs at least one layer')
  width = len(double[0][0])
  for i, (w, b) in enumerate(double):
    if w.ndim != 2 or len(w) != width or b.shape != w.shape[1:]:
      raise ValueError(
        f'layer {i} must have W [{width}, out] and b [out], '
        f'got {w.shape} and {b.shape}'
      )
    if not (np.isfinite(w).all() and np.isfinite(b).all()):
      raise ValueError(f'layer {i} has weights that are not finite')
    width = w.shape[1]
  if width < 2:
    raise ValueError('a network needs at least two classes')
  return double


def check_examples(
  layers: Layers, xs: ArrayLike, labels: ArrayLike, bounds: tuple | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
  """Returns inputs, labels and bounds as flat vectors.

  Args:
    layers: as `check` returns them.
    xs: inputs `[n, ...]`.
    labels: `[n]` integers.
    bounds: None or `(low, high)`, numbers or arrays as one input.

  Returns:
    `(xs [n, in], labels [n], low [in], high [in])`; the bounds are infinite
    where there are none.

  Raises:
    ValueError: for inputs that do not fit the network, are not finite or lie
      outside the bounds, or labels that are no classes.
  """
  xs, labels = np.asarray(xs), np.asarray(labels)
  size, num_classes = len(layers[0][0]), len(layers[-1][1])
  low, high = (-np.inf, np.inf) if bounds is None else bounds
  low, high = (
    np.broadcast_to(np.asarray(b, np.float64), xs.shape[1:]).ravel()
    for b in (low, high)
  )
  if low.size != size:
    raise ValueError(f'the network takes {size} inputs, got {xs.shape[1:]}')
  flat = xs.astype(np.float64).reshape(len(xs), -1)
  inside = np.all((flat >= low) & (flat <= high) & np.isfinite(flat), axis=1)
  if not inside.all():
    raise ValueError(
      f'{np.sum(~inside)} of {len(xs)} inputs lie outside bounds, or are not '
      f'finite (the first is number {inside.argmin()})'
    )
  if (
    labels.shape != (len(xs),) or not np.isin(labels, range(num_classes)).all()
  ):
    raise ValueError(
      f'{len(xs)} inputs need as many labels in [0, {num_classes})'
    )
  return flat, labels.astype(np.int32), low, high


def preactivations(layers: Layers, x: np.ndarray) -> list[np.ndarray]:
  """Returns the values before each ReLU, and the logits last."""
  zs: list[np.ndarray] = []
  for w, b in layers:
    zs.append((np.maximum(zs[-1], 0.0) if zs else x) @ w + b)
  return zs


def logits(layers: Layers, x: jax.Array) -> jax.Array:
  """Returns the logits `[k]` of a flat input, in JAX.

  In float64 only where JAX is told so; `preactivations` always is.
  """
  for w, b in layers[:-1]:
    x = jax.nn.relu(x @ w + b)
  return x @ layers[-1][0] + layers[-1][1]


def dense_from_convolution(
  kernel: np.ndarray,
  bias: np.ndarray,
  input_shape: tuple[int, int, int],
  *,
  stride: int = 1,
) -> tuple[np.ndarray, np.ndarray]:
  """Returns the dense layer `(W, b)` that equals a SAME convolution.

  Convolves each unit image, so that padding and strides are those of
  `jax.lax.conv_general_dilated`, which Flax uses. W holds in * out float64:
  28 x 28 x 1 to 14 x 14 x 16 takes 20 MB, 32 x 32 x 32 to itself 8.6 GB. Input
  and output are images `[h, w, c]` in C order: layers chain as they are.

  Args:
    kernel: `[kh, kw, in, out]`.
    bias: `[out]`.
    input_shape: `(h, w, in)`.
    stride: in both directions, 1 or more.

  Returns:
    `W [h * w * in, h' * w' * out]` and `b`, with h' = ceil(h / stride).
  """
  kernel = np.asarray(kernel, np.float64)
  size = int(np.prod(input_shape))
  with jax.enable_x64(True):
    out = _convolve(np.zeros((1, *input_shape)), kernel, stride=stride)
    w = np.empty((size, out.size))
    # In parts: all unit images at once take as much memory as W.
    for start in range(0, size, 1024):
      rows = np.arange(start, min(start + 1024, size))
      units = np.zeros((len(rows), size))
      units[np.arange(len(rows)), rows] = 1.0
      images = units.reshape(-1, *input_shape)
      part = _convolve(images, kernel, stride=stride)
      w[rows] = np.asarray(part).reshape(len(rows), -1)
  b = np.broadcast_to(np.asarray(bias, np.float64), out.shape[1:])
  return w, b.ravel()


@functools.partial(jax.jit, static_argnames='stride')
def _convolve(images, kernel, *, stride):
  return jax.lax.conv_general_dilated(
    jnp.asarray(images),
    kernel,
    (stride, stride),
    'SAME',
    dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
    precision='highest',
  )
