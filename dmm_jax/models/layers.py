"""What the trained networks are put together from."""

from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
import numpy as np

# The first keeps the variance through a ReLU, the second without one.
he_normal = nn.initializers.he_normal()
lecun_normal = nn.initializers.lecun_normal()


def batch_norm(
  h: jax.Array,
  name: str,
  train: bool,
  *,
  affine: bool = True,
  dtype: DTypeLike | None = None,
) -> jax.Array:
  """Normalises channels by the batch and its pixels, or by running averages."""
  norm = nn.BatchNorm(
    use_running_average=not train,
    momentum=0.9,
    dtype=dtype,
    use_bias=affine,
    use_scale=affine,
    axis_name='batch' if train else None,
    name=name,
  )
  return norm(h)


def conv(
  h: jax.Array,
  features: int,
  name: str,
  *,
  size: int = 3,
  stride: int = 1,
  padding: str | int = 'SAME',
  use_bias: bool = True,
  kernel_init: nn.initializers.Initializer = he_normal,
  dtype: DTypeLike | None = None,
) -> jax.Array:
  """Convolves an image `[h, w, c]`."""
  layer = nn.Conv(
    features,
    (size, size),
    strides=stride,
    padding=padding,
    use_bias=use_bias,
    kernel_init=kernel_init,
    dtype=dtype,
    name=name,
  )
  out = layer(h)
  if not out.size:
    raise ValueError(
      f'{name} of size {size} leaves nothing of {h.shape[:2]} pixels: the '
      'input is too small for this network'
    )
  return out


def conv_norm(
  h: jax.Array,
  features: int,
  name: str,
  train: bool,
  *,
  norm: bool,
  affine: bool = True,
  dtype: DTypeLike | None = None,
  **options: Any,
) -> jax.Array:
  """Convolves, then normalises; without the norm, adds a bias instead."""
  h = conv(h, features, name, use_bias=not norm, dtype=dtype, **options)
  if norm:
    h = batch_norm(h, f'{name}_norm', train, affine=affine, dtype=dtype)
  return h


class Doubling(nn.Module):
  """A transposed 4x4 convolution of stride 2: doubles an image `[h, w, c]`.

  `nn.ConvTranspose(features, (4, 4), (2, 2))`, with the same parameters.
  """

  features: int
  use_bias: bool = True
  kernel_init: nn.initializers.Initializer = he_normal
  dtype: DTypeLike | None = None

  @nn.compact
  def __call__(self, h: jax.Array) -> jax.Array:
    """Returns the image `[2 h, 2 w, features]`."""
    rows, cols, channels = h.shape
    shape = (4, 4, channels, self.features)
    kernel = self.param('kernel', self.kernel_init, shape)
    zeros = nn.initializers.zeros_init()
    bias = self.param('bias', zeros, shape[-1:]) if self.use_bias else None
    h, kernel, bias = nn.dtypes.promote_dtype(h, kernel, bias, dtype=self.dtype)
    # The 2x2 pixels around a corner of four pixels depend on these alone: one
    # product makes them. Not nn.ConvTranspose: on CPUs its gradient takes
    # several times as long.
    parts = jnp.flip(kernel, (0, 1)).reshape(2, 2, 2, 2, channels, -1)
    parts = jnp.flip(parts, (0, 2)).transpose(0, 2, 4, 1, 3, 5)
    wide = jnp.pad(h, ((1, 1), (1, 1), (0, 0)))
    near = [
      wide[i : i + rows + 1, j : j + cols + 1] for i in (0, 1) for j in (0, 1)
    ]
    corners = jnp.concatenate(near, -1) @ parts.reshape(4 * channels, -1)
    out = corners.reshape(rows + 1, cols + 1, 2, 2, -1).transpose(0, 2, 1, 3, 4)
    out = out.reshape(2 * rows + 2, 2 * cols + 2, -1)[1:-1, 1:-1]
    return out if bias is None else out + bias[None, None]


def dense(
  h: jax.Array,
  features: int,
  name: str,
  *,
  kernel_init: nn.initializers.Initializer = he_normal,
  dtype: DTypeLike | None = None,
) -> jax.Array:
  """A dense layer, in `dtype`."""
  return nn.Dense(features, kernel_init=kernel_init, dtype=dtype, name=name)(h)


def at_least_float32(h: jax.Array) -> jax.Array:
  """Returns `h` in float32, or in its own type if that is wider."""
  return h.astype(jnp.promote_types(h.dtype, jnp.float32))


def head(
  h: jax.Array,
  features: int,
  *,
  kernel_init: nn.initializers.Initializer = lecun_normal,
) -> jax.Array:
  """The last layer: float32 or better, whatever the others compute in."""
  h = at_least_float32(h).ravel()
  return dense(h, features, 'head', kernel_init=kernel_init)


def max_pool(h: jax.Array) -> jax.Array:
  """Halves an image `[h, w, c]`; odd sizes round up, so that none vanishes.

  Largest of 2 x 2 pixels; where several are, they share the gradient.
  """
  # Not nn.max_pool: on CPUs its gradient takes longer than the convolutions'.
  rows, cols, channels = h.shape
  fill = (0, rows % 2), (0, cols % 2), (0, 0)
  h = jnp.pad(h, fill, constant_values=-jnp.inf)
  h = h.reshape(-(-rows // 2), 2, -(-cols // 2), 2, channels)
  return jnp.max(h, axis=(1, 3))


def dense_layers(
  params: dict,
) -> list[tuple[jax.Array, jax.Array | np.ndarray]]:
  """Returns the layers `(weights, biases)` of a dense ReLU network.

  As `certify` takes them: of a `FullyConnected`, whose biases are 0, an `MLP`
  or a `Linear`.

  Args:
    params: as `init` returns them.
  """
  weights = params['params']
  names = [f'dense{i}' for i in range(len(weights) - 1)] + ['head']
  kernels = [weights[name]['kernel'] for name in names]
  biases = [
    weights[name].get('bias', np.zeros(w.shape[1:], np.float32))
    for name, w in zip(names, kernels, strict=True)
  ]
  return list(zip(kernels, biases, strict=True))
