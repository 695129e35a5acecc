"""Classifiers to train: dense and plain convolutional ones, with biases."""

import collections

from flax import linen as nn
import jax
from jax.typing import DTypeLike

from dmm_jax.models import layers


class Linear(nn.Module):
  """Logistic regression; its distances have a closed form."""

  num_classes: int = 10
  dtype: DTypeLike | None = None

  @nn.compact
  def __call__(
    self, x: jax.Array, train: bool = False
  ) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Returns `(logits [num_classes], codes)` of one input."""
    del train
    return layers.head(x, self.num_classes), collections.OrderedDict()


class DeepLinear(nn.Module):
  """Dense layers and nothing between: linear in the input, not in weights."""

  widths: tuple[int, ...] = (256, 256)
  num_classes: int = 10
  dtype: DTypeLike | None = None

  @nn.compact
  def __call__(
    self, x: jax.Array, train: bool = False
  ) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Returns `(logits [num_classes], codes)` of one input."""
    del train
    codes, h = collections.OrderedDict(), x.ravel()
    for i, width in enumerate(self.widths):
      h = codes[f'linear{i}'] = layers.dense(
        h,
        width,
        f'linear{i}',
        kernel_init=layers.lecun_normal,
        dtype=self.dtype,
      )
    return layers.head(h, self.num_classes), codes


class MLP(nn.Module):
  """Dense ReLU layers.

  784-256-256-10 is the MNIST network of the dimpled manifold's experiments, as
  Melamed and Karner released them; theirs has dropout. Melamed's bias-free
  variant is `FullyConnected((784, 784), 10)`.
  """

  widths: tuple[int, ...] = (256, 256)
  num_classes: int = 10
  dtype: DTypeLike | None = None

  @nn.compact
  def __call__(
    self, x: jax.Array, train: bool = False
  ) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Returns `(logits [num_classes], codes)` of one input."""
    del train
    codes, h = collections.OrderedDict(), x.ravel()
    for i, width in enumerate(self.widths):
      h = nn.relu(layers.dense(h, width, f'dense{i}', dtype=self.dtype))
      codes[f'dense{i}'] = h
    return layers.head(h, self.num_classes), codes


class CNN(nn.Module):
  """3x3 convolutions with pooling, then dense layers.

  conv32-pool-conv64-pool-128-10 by default, for MNIST. `CNN((32, 64, 64),
  (64,))` is the customary one for CIFAR10, whose third is not pooled.

  Attributes:
    channels: of the convolutions.
    widths: of the hidden dense layers.
    pools: how many convolutions, from the first on, 2x2 max pooling follows.
    strides: of the convolutions; None for 1 each.
    pooled: average the pixels before the dense layers.
  """

  channels: tuple[int, ...] = (32, 64)
  widths: tuple[int, ...] = (128,)
  pools: int = 2
  strides: tuple[int, ...] | None = None
  pooled: bool = False
  num_classes: int = 10
  dtype: DTypeLike | None = None

  @nn.compact
  def __call__(
    self, x: jax.Array, train: bool = False
  ) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Returns `(logits [num_classes], codes)` of one input."""
    del train
    codes, h = collections.OrderedDict(), x
    strides = self.strides or (1,) * len(self.channels)
    for i, (features, stride) in enumerate(
      zip(self.channels, strides, strict=True)
    ):
      h = layers.conv(h, features, f'conv{i}', stride=stride, dtype=self.dtype)
      h = nn.relu(h)
      codes[f'conv{i}'] = h
      if i < self.pools:
        h = layers.max_pool(h)
    h = layers.at_least_float32(h).mean((0, 1)) if self.pooled else h.ravel()
    for i, width in enumerate(self.widths):
      h = nn.relu(layers.dense(h, width, f'dense{i}', dtype=self.dtype))
      codes[f'dense{i}'] = h
    return layers.head(h, self.num_classes), codes


class LeNet5(nn.Module):
  """LeNet-5 as it is taught today; 28 x 28 pixels, 9 x 9 at least.

  LeCun, Bottou, Bengio, Haffner (1998), "Gradient-based learning applied to
  document recognition", https://doi.org/10.1109/5.726791. Deviations: ReLU for
  tanh, max for trained average pooling, every map of the second convolution
  sees all of the first, a linear head. SAME padding stands for the frame of 2
  pixels that the paper puts around the digits.
  """

  num_classes: int = 10
  dtype: DTypeLike | None = None

  @nn.compact
  def __call__(
    self, x: jax.Array, train: bool = False
  ) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Returns `(logits [num_classes], codes)` of one input."""
    del train
    codes, h = collections.OrderedDict(), x
    for i, (features, padding) in enumerate([(6, 'SAME'), (16, 'VALID')]):
      name = f'conv{i}'
      h = codes[name] = nn.relu(
        layers.conv(
          h, features, name, size=5, padding=padding, dtype=self.dtype
        )
      )
      h = layers.max_pool(h)
    h = h.ravel()
    for i, width in enumerate((120, 84)):
      h = nn.relu(layers.dense(h, width, f'dense{i}', dtype=self.dtype))
      codes[f'dense{i}'] = h
    return layers.head(h, self.num_classes), codes


class PlaygroundCNN(nn.Module):
  """The CIFAR10 network of the dimpled manifold's experiments.

  Seven 3x3 convolutions, the last without padding; batch norm without scale and
  shift. From https://github.com/aaron-xichen/pytorch-playground, as Karner's
  reproduction and Melamed's auto-encoders use it.

  Attributes:
    width: channels of the first convolution, 8 times as many in the last.
  """

  width: int = 128
  batch_norm: bool = True
  num_classes: int = 10
  dtype: DTypeLike | None = None

  @nn.compact
  def __call__(
    self, x: jax.Array, train: bool = False
  ) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Returns `(logits [num_classes], codes)` of one input."""
    codes, h = collections.OrderedDict(), x
    for i, factor in enumerate((1, 1, 2, 2, 4, 4, 8)):
      name = f'conv{i}'
      h = layers.conv_norm(
        h,
        factor * self.width,
        name,
        train,
        norm=self.batch_norm,
        affine=False,
        padding='VALID' if i == 6 else 'SAME',
        dtype=self.dtype,
      )
      h = codes[name] = nn.relu(h)
      if i in (1, 3, 5, 6):
        h = layers.max_pool(h)
    return layers.head(h, self.num_classes), codes


class VGG16(nn.Module):
  """VGG16 in its CIFAR form: 13 convolutions and one dense layer.

  Simonyan, Zisserman (2015), configuration D, https://arxiv.org/abs/1409.1556.
  Deviations, customary for 32 x 32 pixels: batch norm after each convolution,
  and no hidden dense layers.

  Attributes:
    stages: channels of the convolutions; pooling follows each stage.
  """

  stages: tuple[tuple[int, ...], ...] = (
    (64,) * 2,
    (128,) * 2,
    (256,) * 3,
    (512,) * 3,
    (512,) * 3,
  )
  batch_norm: bool = True
  num_classes: int = 10
  dtype: DTypeLike | None = None

  @nn.compact
  def __call__(
    self, x: jax.Array, train: bool = False
  ) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Returns `(logits [num_classes], codes)` of one input."""
    codes, h = collections.OrderedDict(), x
    for i, stage in enumerate(self.stages):
      for j, features in enumerate(stage):
        name = f'stage{i}_conv{j}'
        h = layers.conv_norm(
          h,
          features,
          name,
          train,
          norm=self.batch_norm,
          dtype=self.dtype,
        )
        h = codes[name] = nn.relu(h)
      h = layers.max_pool(h)
    return layers.head(h, self.num_classes), codes
