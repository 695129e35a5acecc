"""Random networks: without biases, one set of weights for each example.

On accelerators many networks run at once, and their convolutions are matrix
products of image patches: with weights of its own for each example, a grouped
convolution runs several times slower than the batched product. On CPUs
networks run one after the other (`vmap_size=1` of `parallel.map_examples`), and
XLA's own convolution runs faster, and compiles in half the time.
"""

import collections
from collections.abc import Callable
from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp

Initializer = Callable

he_normal = nn.initializers.variance_scaling(2.0, 'fan_in', 'truncated_normal')
glorot_uniform = nn.initializers.glorot_uniform()


def conv_by_patches(
  x: jax.Array,
  kernel: jax.Array,
  strides: tuple[int, int],
  padding: str,
  *,
  dimension_numbers: Any = None,
  **unused: Any,
) -> jax.Array:
  """Convolves `[b, h, w, c]` with `[kh, kw, c, out]` as one matrix product.

  A drop-in for `lax.conv_general_dilated` where padding is SAME and nothing
  is dilated or grouped, as in all networks here.
  """
  del dimension_numbers, unused
  if padding != 'SAME':
    raise ValueError(f'only SAME padding is supported, got {padding!r}')
  b, h, w, c = x.shape
  kh, kw, _, out = kernel.shape
  sh, sw = strides
  rows, cols = -(-h // sh), -(-w // sw)
  ph, pw = max((rows - 1) * sh + kh - h, 0), max((cols - 1) * sw + kw - w, 0)
  pads = ((0, 0), (ph // 2, ph - ph // 2), (pw // 2, pw - pw // 2), (0, 0))
  padded = jnp.pad(x, pads)
  patches = [
    padded[
      :, i : i + (rows - 1) * sh + 1 : sh, j : j + (cols - 1) * sw + 1 : sw
    ]
    for i in range(kh)
    for j in range(kw)
  ]
  flat = jnp.concatenate(patches, -1).reshape(b * rows * cols, kh * kw * c)
  return (flat @ kernel.reshape(-1, out)).reshape(b, rows, cols, out)


def conv(
  features: int,
  kernel_init: Initializer = he_normal,
  *,
  size: int = 3,
  stride: int = 1,
  name: str | None = None,
) -> nn.Conv:
  """A convolution without bias: all networks here start with biases of 0."""
  return nn.Conv(
    features,
    (size, size),
    strides=stride,
    use_bias=False,
    kernel_init=kernel_init,
    conv_general_dilated=(
      None if jax.default_backend() == 'cpu' else conv_by_patches
    ),
    name=name,
  )


def dense(
  features: int, kernel_init: Initializer = he_normal, name: str | None = None
) -> nn.Dense:
  """A dense layer without bias, as for `conv`."""
  return nn.Dense(features, use_bias=False, kernel_init=kernel_init, name=name)


def _pool(x):
  return nn.avg_pool(x, (2, 2), strides=(2, 2))


class FullyConnected(nn.Module):
  """Dense ReLU layers; De Palma et al.'s FCN by default."""

  widths: tuple[int, ...] = (100, 100)
  num_classes: int = 2

  @nn.compact
  def __call__(self, x: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Returns `(logits [num_classes], codes)` of one input."""
    codes, h = collections.OrderedDict(), x.ravel()
    for i, width in enumerate(self.widths):
      h = codes[f'dense{i}'] = nn.relu(dense(width, name=f'dense{i}')(h))
    return dense(self.num_classes, name='head')(h), codes


class Convolutional(nn.Module):
  """3x3 convolutions, then a dense head; De Palma et al.'s simple CNN.

  Deviation: theirs draws convolutions with variance 0.02 / fan_in instead of
  2 / fan_in. It scales the logits, by 1e-4, and moves no boundary.
  """

  widths: tuple[int, ...] = (128, 128, 128, 128)
  num_classes: int = 2

  @nn.compact
  def __call__(self, x: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Returns `(logits [num_classes], codes)` of one input."""
    codes, h = collections.OrderedDict(), x
    for i, width in enumerate(self.widths):
      h = codes[f'conv{i}'] = nn.relu(conv(width, name=f'conv{i}')(h))
    head = dense(self.num_classes, glorot_uniform, name='head')
    return head(h.ravel()), codes


class LeNet(nn.Module):
  """De Palma et al.'s: four convolutions, pooled twice, two dense layers."""

  width: int = 128
  dense_width: int = 512
  num_classes: int = 2

  @nn.compact
  def __call__(self, x: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Returns `(logits [num_classes], codes)` of one input."""
    codes, h = collections.OrderedDict(), x
    for i in range(4):
      h = codes[f'conv{i}'] = nn.relu(conv(self.width, name=f'conv{i}')(h))
      if i % 2:
        h = _pool(h)
    h = h.ravel()
    for i in range(2):
      layer = dense(self.dense_width, name=f'dense{i}')
      h = codes[f'dense{i}'] = nn.relu(layer(h))
    return dense(self.num_classes, glorot_uniform, name='head')(h), codes


class ResNet(nn.Module):
  """Residual network without normalisation, three stacks of two-conv blocks.

  Post-activation is De Palma et al.'s ResNet20: convolve, add the shortcut,
  then ReLU. Pre-activation leaves the shortcut clean, and has a closed
  infinite-width kernel (`nngp.resnet`). No global pooling before the head.

  Attributes:
    width: channels of the first stack; 2 and 4 times as many in the others.
    blocks: of each stack; 3 makes a ResNet-20.
    pre_activation: which of the two forms.
  """

  width: int = 32
  blocks: int = 3
  pre_activation: bool = False
  num_classes: int = 2

  @nn.compact
  def __call__(self, x: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Returns `(logits [num_classes], codes)` of one input."""
    act = nn.relu
    codes, h = collections.OrderedDict(), conv(self.width, name='conv0')(x)
    if not self.pre_activation:
      h = act(h)
    for stack in range(3):
      for block in range(self.blocks):
        name = f'stack{stack}_block{block}'
        features = self.width * 2**stack
        stride = 2 if stack and not block else 1
        skip = h
        if stride > 1:
          short = conv(features, size=1, stride=stride, name=f'{name}_skip')
          skip = short(h)
        if self.pre_activation:
          h = act(h)
        h = act(conv(features, stride=stride, name=f'{name}_conv0')(h))
        h = skip + conv(features, name=f'{name}_conv1')(h)
        if not self.pre_activation:
          h = act(h)
        codes[name] = h
    if self.pre_activation:
      h = act(h)
    return dense(self.num_classes, name='head')(h.ravel()), codes
