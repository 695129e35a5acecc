"""Residual networks to train."""

import collections

from flax import linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from dmm_jax.models import layers


class Residual(nn.Module):
  """Stacks of two-convolution blocks, each with its input added.

  He, Zhang, Ren, Sun (2016), https://arxiv.org/abs/1512.03385 (post-activation:
  ReLU after the sum) and https://arxiv.org/abs/1603.05027 (pre-activation: the
  sum stays clean; where the shape changes, the shortcut too starts from the
  normalised and rectified input). Strided convolutions see the pixels around
  those that the shortcut keeps: one pixel of padding, not SAME.

  De Palma et al.'s ResNet20 as they train it, but for that padding, is
  `Residual(32, num_classes=2, batch_norm=False, projection=True,
  pooled=False)`. Without batch norm the logits grow with depth.

  Attributes:
    width: channels of the first stack; twice as many in each that follows.
    blocks: of each stack.
    batch_norm: or biases in its place.
    pre_activation: which of the two forms.
    projection: shortcuts that change the shape are 1x1 convolutions; otherwise
      every second pixel, with channels of 0 added.
    pooled: average the pixels before the head.
  """

  width: int = 16
  blocks: tuple[int, ...] = (3, 3, 3)
  num_classes: int = 10
  batch_norm: bool = True
  pre_activation: bool = False
  projection: bool = False
  pooled: bool = True
  dtype: DTypeLike | None = None

  @nn.compact
  def __call__(
    self, x: jax.Array, train: bool = False
  ) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Returns `(logits [num_classes], codes)` of one input."""
    codes, h = collections.OrderedDict(), self._conv(x, self.width, 'conv0')
    if not self.pre_activation:
      h = self._act(h, 'conv0', train)
    codes['conv0'] = h
    for stack, num_blocks in enumerate(self.blocks):
      for i in range(num_blocks):
        name = f'stack{stack}_block{i}'
        block = self._pre_block if self.pre_activation else self._post_block
        stride = 2 if stack and not i else 1
        inner, h = block(h, self.width * 2**stack, stride, name, train)
        codes[f'{name}_conv0'], codes[name] = inner, h
    if self.pre_activation:
      h = codes['last'] = self._act(h, 'last', train)
    if self.pooled:
      h = codes['pool'] = layers.at_least_float32(h).mean((0, 1))
    return layers.head(h, self.num_classes), codes

  def _conv(self, h, features, name, *, size=3, stride=1):
    return layers.conv(
      h,
      features,
      name,
      size=size,
      stride=stride,
      padding=size // 2,
      use_bias=not self.batch_norm,
      dtype=self.dtype,
    )

  def _norm(self, h, name, train):
    if not self.batch_norm:
      return h
    return layers.batch_norm(h, f'{name}_norm', train, dtype=self.dtype)

  def _act(self, h, name, train):
    return nn.relu(self._norm(h, name, train))

  def _skip(self, h, features, stride, name):
    if self.projection:
      return self._conv(h, features, name, size=1, stride=stride)
    added = features - h.shape[-1]
    return jnp.pad(h[::stride, ::stride], ((0, 0), (0, 0), (0, added)))

  def _post_block(self, h, features, stride, name, train):
    skip = h
    if h.shape[-1] != features:
      skip = self._skip(h, features, stride, f'{name}_skip')
      if self.projection:
        skip = self._norm(skip, f'{name}_skip', train)
    h = self._conv(h, features, f'{name}_conv0', stride=stride)
    inner = self._act(h, f'{name}_conv0', train)
    h = self._conv(inner, features, f'{name}_conv1')
    return inner, nn.relu(skip + self._norm(h, f'{name}_conv1', train))

  def _pre_block(self, h, features, stride, name, train):
    skip, h = h, self._act(h, f'{name}_conv0', train)
    if h.shape[-1] != features:
      skip = self._skip(h, features, stride, f'{name}_skip')
    h = self._conv(h, features, f'{name}_conv0', stride=stride)
    inner = self._act(h, f'{name}_conv1', train)
    return inner, skip + self._conv(inner, features, f'{name}_conv1')


class ResNet18(Residual):
  """ResNet-18 with a CIFAR stem: one 3x3 convolution, no pooling after it."""

  width: int = 64
  blocks: tuple[int, ...] = (2, 2, 2, 2)
  projection: bool = True


class ResNet20(Residual):
  """He et al.'s ResNet-20 for CIFAR10: shortcuts without parameters."""
