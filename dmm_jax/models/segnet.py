"""SegNet: VGG16's convolutions and their mirror image, as an auto-encoder."""

import math

from flax import linen as nn
import jax
from jax.typing import DTypeLike

from dmm_jax.models import autoencoders
from dmm_jax.models import classifiers
from dmm_jax.models import layers

NORMAL = nn.initializers.normal(0.01)


class Encoder(nn.Module):
  """Stages of 3x3 convolutions and max pooling, then one dense layer."""

  outputs: int
  stages: tuple[tuple[int, ...], ...]
  batch_norm: bool
  dtype: DTypeLike | None

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> jax.Array:
    """Returns the code `[outputs]` of an image."""
    h = x
    for i, stage in enumerate(self.stages):
      for j, features in enumerate(stage):
        h = layers.conv_norm(
          h,
          features,
          f'stage{i}_conv{j}',
          train,
          norm=self.batch_norm,
          dtype=self.dtype,
        )
        h = nn.relu(h)
      h = layers.max_pool(h)
    return layers.head(h, self.outputs, kernel_init=NORMAL)


class Decoder(nn.Module):
  """A dense layer, then the encoder's stages backwards, pixels repeated."""

  shape: tuple[int, int, int]
  stages: tuple[tuple[int, ...], ...]
  batch_norm: bool
  dtype: DTypeLike | None

  @nn.compact
  def __call__(self, z: jax.Array, train: bool) -> jax.Array:
    """Returns the image in [0, 1] of a code."""
    rows, cols, channels = self.shape
    depth = len(self.stages)
    sizes = [(-(-rows // 2**i), -(-cols // 2**i)) for i in range(depth + 1)]
    size = (*sizes[-1], self.stages[-1][-1])
    h = layers.dense(
      z, math.prod(size), 'dense', kernel_init=NORMAL, dtype=self.dtype
    ).reshape(size)
    for i in reversed(range(depth)):
      h = _double(h, sizes[i])
      below = self.stages[i - 1][-1] if i else channels
      outputs = (*self.stages[i][-2::-1], below)
      for j, features in enumerate(outputs):
        last = i == 0 and j == len(outputs) - 1
        h = layers.conv_norm(
          h,
          features,
          f'stage{i}_conv{j}',
          train,
          norm=self.batch_norm and not last,
          dtype=self.dtype,
        )
        if not last:
          h = nn.relu(h)
    return nn.sigmoid(layers.at_least_float32(h))


def _double(h: jax.Array, size: tuple[int, int]) -> jax.Array:
  """Repeats every pixel in both directions, up to `size`."""
  return h.repeat(2, 0).repeat(2, 1)[: size[0], : size[1]]


class SegNetAutoEncoder(autoencoders.AutoEncoder):
  """The VGG16 auto-encoder for CIFAR10, with 128 latent numbers.

  The first of those that Melamed released with the dimpled manifold's code,
  https://github.com/odeliamel/off-manifold-robustness, after SegNet
  (Badrinarayanan, Kendall, Cipolla, https://arxiv.org/abs/1511.00561). Made of
  ReLUs: tangents jump from piece to piece. Deviations: the output passes
  through a sigmoid, and the last convolution has no batch norm.

  Attributes:
    shape: of the images, `(h, w, c)`.
    latent: how many numbers stand for an image.
    stages: channels of the encoder's convolutions; pooling follows each stage.
  """

  shape: tuple[int, int, int] = (32, 32, 3)
  latent: int = 128
  stages: tuple[tuple[int, ...], ...] = classifiers.VGG16.stages
  batch_norm: bool = True
  dtype: DTypeLike | None = None

  def setup(self) -> None:
    """Makes the encoder and the decoder."""
    rest = self.stages, self.batch_norm, self.dtype
    self.encoder = Encoder(self.latent, *rest)
    self.decoder = Decoder(self.shape, *rest)
