"""Dense networks as lists of layers, in float64; checks of arguments."""

from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Sequence
import functools
import numbers
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
import numpy as np

from dmm_jax.boundary import inputs
from dmm_jax.certify import activations

Layers = Sequence[tuple]

NORMS = (1, 2, np.inf)
FORM = '[(W [in, out], b [out]), ...] with a ReLU between each two'
FLOAT32_MAX = float(np.finfo(np.float32).max)


def check(layers: Layers) -> tuple:
  """Return the layers as float64 numpy arrays, or refuse them.

  Args:
    layers: `[(W [in, out], b [out]), ...]`, at least one; float32, float64 or
      integers.

  Raises:
    TypeError: for anything but pairs of arrays of numbers, and for weights in
      half precision: a certificate in float64 does not cover a network that
      runs in float16 or bfloat16.
    ValueError: where shapes do not fit together, fewer than two classes come
      out, or a weight is not finite in float32.
  """
  double = _double(_pairs(layers))
  if not double:
    raise ValueError(f'network must be layers {FORM}, at least one; got none')
  width = double[0][0].shape[0] if double[0][0].ndim else 0
  for i, (w, b) in enumerate(double):
    _check_layer(i, w, b, width)
    width = w.shape[1]
  if width < 2:
    raise ValueError(
      f'network must have at least two classes, got {width}; for one output z '
      'add a second column of zeros to the last W and b'
    )
  return double


def check_smooth(layers: list) -> tuple:
  """As `check`, of layers `[(W, b, kinds), ..., (W, b)]` of any activation.

  `kinds` `[out]` are places in `activations.KINDS`.
  """
  pairs = check([layer[:2] for layer in layers])
  return tuple(
    (*pair, *layer[2:]) for pair, layer in zip(pairs, layers, strict=True)
  )


def is_relu(layers: Layers) -> bool:
  """Return whether all activations between layers are ReLUs."""
  return all(isinstance(v, list | tuple) and len(v) == 2 for v in layers)


def activate(layer: tuple, z: Any) -> Any:
  """Return the activations behind a layer of values z."""
  if len(layer) == 2:
    return np.maximum(z, 0.0) if isinstance(z, np.ndarray) else jax.nn.relu(z)
  if not isinstance(z, np.ndarray):
    return activations.values(layer[2], z)
  with jax.enable_x64(True):
    return np.asarray(activations.values(layer[2], jnp.asarray(z)))


def _double(pairs):
  return tuple(
    (_to_float64(f'W of layer {i}', w), _to_float64(f'b of layer {i}', b))
    for i, (w, b) in enumerate(pairs)
  )


def _pairs(layers):
  """Return the layers as a list of pairs, of anything that is one."""
  if (
    callable(layers)
    or isinstance(layers, Mapping | str)
    or not isinstance(layers, Iterable)
  ):
    given = 'a function' if callable(layers) else type(layers).__name__
    raise TypeError(
      f'network must be layers {FORM}, got {given}; list its dense layers, and '
      'convolutions by dense_from_convolution'
    )
  pairs = list(layers)
  for i, pair in enumerate(pairs):
    if not isinstance(pair, list | tuple) or len(pair) != 2:
      given = type(pair).__name__
      if isinstance(pair, list | tuple):
        given += f' of {len(pair)}'
      raise TypeError(
        f'network must be layers {FORM}, got a {given} as layer {i}; pass '
        'pairs (W, b), with zeros for a missing b'
      )
  return pairs


def _to_float64(name, value):
  try:
    array = np.asarray(value)
  except ValueError:  # Rows of different lengths.
    array = np.empty(0, object)
  dtype = array.dtype
  floating = jnp.issubdtype(dtype, np.floating)
  if floating and dtype.itemsize < 4:
    raise TypeError(
      f'{name} is {dtype}, and a certificate says nothing of a network that '
      f'runs in {dtype}; cast all weights to float32, run the network so, and '
      'certify that'
    )
  if not (floating or jnp.issubdtype(dtype, np.integer)):
    raise TypeError(f'{name} must be an array of real numbers, got {dtype}')
  return array.astype(np.float64)


def _check_layer(i, w, b, width):
  if w.ndim != 2 or not w.size or len(w) != width or b.shape != w.shape[1:]:
    transposed = w.ndim == 2 and b.shape == w.shape[:1] != w.shape[1:]
    raise ValueError(
      f'layer {i} must have W [{width if i else "in"}, out] and b [out], got '
      f'shapes {w.shape} and {b.shape}'
      + ('; W looks transposed, pass W.T' if transposed else '')
    )
  if not (np.isfinite(w).all() and np.isfinite(b).all()):
    raise ValueError(f'layer {i} has weights that are not finite')
  largest = max(_largest(w), _largest(b))
  if largest > FLOAT32_MAX:
    raise ValueError(
      f'layer {i} has weights of size {largest:.3g}, which are infinite in '
      'float32; scale the weights down'
    )


def _largest(array):
  """Return the largest absolute value, without a copy of the array."""
  return max(float(array.max()), -float(array.min()))


def check_norm(norm: float) -> None:
  """Raise ValueError for a norm that exact distances do not know."""
  if not isinstance(norm, numbers.Real) or norm not in NORMS:
    raise ValueError(
      f'norm must be 1, 2 or inf for an exact distance, got {norm!r}; '
      'lower_bound takes any p >= 1'
    )


def check_seconds(name: str, value: float) -> None:
  """Raise TypeError or ValueError for what is not a time; inf is one."""
  message = f'{name} must be a number of seconds, 0 or more, got {value!r}'
  if isinstance(value, bool) or not isinstance(value, numbers.Real):
    raise TypeError(message)
  if not value >= 0:
    raise ValueError(message)


def check_examples(
  layers: Layers, xs: ArrayLike, labels: ArrayLike, bounds: tuple | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
  """Return inputs, labels and bounds as flat float64 vectors, or refuse them.

  Args:
    layers: as `check` returns them.
    xs: inputs `[n, ...]`, floating point; n may be 0.
    labels: `[n]` integers.
    bounds: as of `check_bounds`.

  Returns:
    `(xs [n, in], labels [n] int32, low [n, in], high [n, in])`; the bounds may
    be views that repeat one row.

  Raises:
    TypeError: for inputs that are not floating point, labels that are not
      integers, among them one-hot labels.
    ValueError: for inputs that do not fit the network, are not finite, lie
      outside the bounds or overflow float32 within the network; for labels
      that are no classes or too many or few; for bounds that are none.
  """
  sizes = len(layers[0][0]), len(layers[-1][1])
  columns = check_columns(*sizes, xs, labels, bounds)
  _check_range(layers, columns[0])
  return columns


def check_columns(
  num_inputs: int,
  num_classes: int,
  xs: ArrayLike,
  labels: ArrayLike,
  bounds: tuple | None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
  """As `check_examples`, for any network of so many inputs and classes."""
  examples = _check_inputs(num_inputs, np.asarray(xs))
  shape = len(examples), num_inputs
  classes = inputs.check_labels(labels, len(examples), num_classes)
  low, high = (b.reshape(shape) for b in check_bounds(examples, bounds))
  return examples.astype(np.float64).reshape(shape), classes, low, high


def _check_inputs(size, xs):
  if xs.ndim < 1 or np.prod(xs.shape[1:], dtype=int) != size:
    raise ValueError(
      f'the network takes {size} inputs an example, got an array of examples '
      f'of shape {xs.shape}'
    )
  if not jnp.issubdtype(xs.dtype, np.floating):
    raise TypeError(
      f'inputs must be floating point, got {xs.dtype}: distances between '
      'integers are not defined; convert and rescale first'
    )
  finite = np.isfinite(xs).reshape(len(xs), size).all(axis=1)
  if not finite.all():
    raise ValueError(
      f'{np.sum(~finite)} of {len(xs)} inputs are not finite (the first is '
      f'number {finite.argmin()}); leave them out'
    )
  return xs


def check_bounds(
  xs: np.ndarray, bounds: tuple | None
) -> tuple[np.ndarray, np.ndarray]:
  """Return the box of each input, widened to hold the input as given.

  Inputs and bounds are compared in the dtype of the inputs, up to rounding:
  clipped in float32 to at least 0.7, an input may be 0.69999999. The box that
  is returned is in float64 and holds every input as given. Where an input is
  outside by rounding that widens its box, by at most 8 units of rounding of the
  inputs' dtype, relative to the larger end.

  Args:
    xs: finite inputs `[n, ...]`, floating point.
    bounds: None, or `(low, high)`, each None for no end, a number, an array of
      one input's shape, or an array `[n, ...]` of each input's own.

  Returns:
    `(low, high)`, float64 of the shape of `xs`, perhaps read-only views;
    infinite where there is no end.

  Raises:
    ValueError: for what is not such a pair, for NaN, ends of other shapes,
      `low` above `high`, and inputs outside.
  """
  inputs.check_bounds(xs, bounds)
  low, high = inputs.ends(bounds, xs.shape[1:], xs.shape)
  double = xs.astype(np.float64)
  if np.any(double < low):
    low = np.minimum(double, low)
  if np.any(double > high):
    high = np.maximum(double, high)
  return np.broadcast_to(low, xs.shape), np.broadcast_to(high, xs.shape)


def _check_range(layers, xs):
  """Refuse inputs at which an evaluation in float32 may overflow."""
  if not xs.size:
    return
  bounds = [_largest(xs)]
  for w, b, *_ in layers:
    # No activation adds more than 1 to the size of what goes into it.
    bounds.append(len(w) * (bounds[-1] + 1) * _largest(w) + _largest(b))
  if max(bounds) <= FLOAT32_MAX:  # So it is for networks in use, at no cost.
    return
  values, worst = xs, np.abs(xs).max(axis=1)
  with np.errstate(over='ignore', invalid='ignore'):
    for layer in layers:
      w, b = layer[:2]
      terms = np.abs(values) @ np.abs(w) + np.abs(b)
      worst = np.maximum(worst, terms.max(axis=1))
      values = activate(layer, values @ w + b)
  overflows = ~(worst <= FLOAT32_MAX)
  if overflows.any():
    raise ValueError(
      f'{overflows.sum()} of {len(xs)} inputs overflow float32 within the '
      f'network (the first is number {overflows.argmax()}), where it runs with '
      'infinite values; scale weights and inputs down'
    )


def preactivations(layers: Layers, x: np.ndarray) -> list[np.ndarray]:
  """Return the values before each activation, the logits last, in numpy."""
  zs: list[np.ndarray] = []
  for i, (w, b, *_) in enumerate(layers):
    zs.append((activate(layers[i - 1], zs[-1]) if zs else x) @ w + b)
  return zs


def logits(layers: Layers, x: jax.Array) -> jax.Array:
  """Return the logits `[k]` of a flat input, in JAX.

  They are float64 only under `jax.enable_x64`; `preactivations` always are.
  """
  for layer in layers[:-1]:
    x = activate(layer, x @ layer[0] + layer[1])
  return x @ layers[-1][0] + layers[-1][1]


def dense_from_convolution(
  kernel: np.ndarray,
  bias: np.ndarray,
  input_shape: tuple[int, int, int],
  *,
  stride: int = 1,
) -> tuple[np.ndarray, np.ndarray]:
  """Return the dense layer `(W, b)` that equals a SAME convolution.

  Convolves each unit image, so that padding and strides are those of
  `jax.lax.conv_general_dilated`, which Flax uses. W holds in * out float64:
  28 x 28 x 1 to 14 x 14 x 16 takes 20 MB, 32 x 32 x 32 to itself 8.6 GB. Input
  and output are images `[h, w, c]` in C order, so that layers chain as they
  are.

  Args:
    kernel: `[kh, kw, in, out]`.
    bias: `[out]`.
    input_shape: `(h, w, in)`, pixels and channels.
    stride: in both directions, 1 or more.

  Returns:
    float64 `W [h * w * in, h' * w' * out]` and `b`, with h' = ceil(h / stride).

  Raises:
    TypeError: for weights in half precision, as of `lower_bounds`.
    ValueError: for shapes that do not fit together, or a bad stride.
  """
  inputs.check_count('stride', stride)
  kernel, bias = _to_float64('kernel', kernel), _to_float64('bias', bias)
  if (
    kernel.ndim != 4
    or len(input_shape) != 3
    or kernel.shape[2] != input_shape[2]
    or bias.shape != kernel.shape[3:]
  ):
    raise ValueError(
      'kernel must be [kh, kw, in, out], bias [out] and input_shape '
      f'(h, w, in), got {kernel.shape}, {bias.shape} and {input_shape}'
    )
  size = int(np.prod(input_shape))
  with jax.enable_x64(True):
    out = _convolve(np.zeros((1, *input_shape)), kernel, stride=stride)
    w = np.empty((size, out.size))
    # In parts, since all unit images at once take as much memory as W.
    for start in range(0, size, 1024):
      rows = np.arange(start, min(start + 1024, size))
      units = np.zeros((len(rows), size))
      units[np.arange(len(rows)), rows] = 1.0
      images = units.reshape(-1, *input_shape)
      part = _convolve(images, kernel, stride=stride)
      w[rows] = np.asarray(part).reshape(len(rows), -1)
  b = np.broadcast_to(bias, out.shape[1:])
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
