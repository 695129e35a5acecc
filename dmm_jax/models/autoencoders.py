"""Auto-encoders: their decoders stand for the manifold of the data.

Each maps one image `[h, w, c]` to `(reconstruction in [0, 1], z [latent])`, and
has the methods `encode(x) -> z` and `decode(z) -> x`:

  decode = lambda z: module.apply(variables, z, method='decode')

Batch norm and `train` work as for classifiers.
"""

import math
from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from dmm_jax.models import layers


def softplus(h: jax.Array, sharpness: float = 100.0) -> jax.Array:
  """A smooth ReLU: a decoder made of it has tangents everywhere."""
  return nn.softplus(sharpness * h) / sharpness


class Encoder(nn.Module):
  """4x4 convolutions of stride 2, then one dense layer."""

  outputs: int
  widths: tuple[int, ...]
  batch_norm: bool
  dtype: DTypeLike | None

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> jax.Array:
    """Returns the code `[outputs]` of an image."""
    h = x
    for i, width in enumerate(self.widths):
      h = layers.conv_norm(
        h,
        width,
        f'conv{i}',
        train,
        norm=self.batch_norm,
        size=4,
        stride=2,
        padding=1,
        dtype=self.dtype,
      )
      h = softplus(h)
    return layers.head(h, self.outputs)


class Decoder(nn.Module):
  """A dense layer, then transposed 4x4 convolutions of stride 2.

  The image is doubled until it covers the wanted one, then cropped around its
  centre.
  """

  shape: tuple[int, int, int]
  widths: tuple[int, ...]
  batch_norm: bool
  dtype: DTypeLike | None

  @nn.compact
  def __call__(self, z: jax.Array, train: bool) -> jax.Array:
    """Returns the image in [0, 1] of a code."""
    *widths, top = self.widths
    scale = 2 ** len(widths)
    rows, cols, channels = self.shape
    small = -(-rows // scale), -(-cols // scale)
    h = layers.dense(z, small[0] * small[1] * top, 'dense', dtype=self.dtype)
    h = softplus(h).reshape(*small, top)
    for i, width in enumerate(reversed(widths)):
      layer = layers.Doubling(
        width,
        use_bias=not self.batch_norm,
        dtype=self.dtype,
        name=f'conv{i}',
      )
      h = layer(h)
      if self.batch_norm:
        h = layers.batch_norm(h, f'conv{i}_norm', train, dtype=self.dtype)
      h = softplus(h)
    i, j = (h.shape[0] - rows) // 2, (h.shape[1] - cols) // 2
    h = h[i : i + rows, j : j + cols]
    h = layers.conv(
      h,
      channels,
      'out',
      size=1,
      kernel_init=layers.lecun_normal,
      dtype=self.dtype,
    )
    return nn.sigmoid(layers.at_least_float32(h))


class AutoEncoder(nn.Module):
  """What all share; `setup` gives each its encoder and decoder."""

  def encode(self, x: jax.Array, train: bool = False) -> jax.Array:
    """Returns the latent code `[latent]` of one image."""
    return self.encoder(x, train)

  def decode(self, z: jax.Array, train: bool = False) -> jax.Array:
    """Returns the image in [0, 1] of a latent code."""
    return self.decoder(z, train)

  def __call__(
    self, x: jax.Array, train: bool = False
  ) -> tuple[jax.Array, Any]:
    """Returns `(reconstruction, z [latent])` of an image."""
    z = self.encode(x, train)
    return self.decode(z, train), z


class ConvAutoEncoder(AutoEncoder):
  """The auto-encoder of the dimpled manifold's MNIST and CIFAR10 experiments.

  As in Karner's reproduction, https://github.com/LukasKarner/dimpled-manifolds:
  16 latent numbers for MNIST, 128 for CIFAR10. Softplus makes it smooth.
  Deviation: the output passes through a sigmoid, so that it stays an image.

  Attributes:
    shape: of the images, `(h, w, c)`.
    latent: how many numbers stand for an image.
    widths: channels; each halves the image, 8 x 8 pixels three times at most.
  """

  shape: tuple[int, int, int] = (28, 28, 1)
  latent: int = 16
  widths: tuple[int, ...] = (128, 256, 512, 1024)
  batch_norm: bool = True
  dtype: DTypeLike | None = None

  def setup(self) -> None:
    """Makes the encoder and the decoder."""
    rest = self.widths, self.batch_norm, self.dtype
    self.encoder = Encoder(self.latent, *rest)
    self.decoder = Decoder(self.shape, *rest)


class DenseAutoEncoder(AutoEncoder):
  """A smooth auto-encoder of dense layers: small, and trained in seconds.

  Attributes:
    shape: of the images.
    latent: how many numbers stand for an image.
  """

  shape: tuple[int, ...]
  latent: int

  def setup(self) -> None:
    """Makes the layers."""
    width = 16 * max(8, self.latent)
    self.inner = nn.Dense(width), nn.Dense(self.latent)
    self.outer = nn.Dense(width), nn.Dense(math.prod(self.shape))

  def encode(self, x: jax.Array, train: bool = False) -> jax.Array:
    """Returns the code `[latent]` of an image."""
    del train
    return self.inner[1](softplus(self.inner[0](x.ravel()), 10.0))

  def decode(self, z: jax.Array, train: bool = False) -> jax.Array:
    """Returns the image in [0, 1] of a code."""
    del train
    out = self.outer[1](softplus(self.outer[0](z), 10.0))
    return nn.sigmoid(out).reshape(self.shape)


class VAE(ConvAutoEncoder):
  """A variational auto-encoder with the layers of `ConvAutoEncoder`.

  Kingma, Welling (2014), https://arxiv.org/abs/1312.6114. Returns
  `(reconstruction, (mean, log_variance))`, of the normal distribution that the
  encoder gives to z; `encode` returns the mean. In training the reconstruction
  is of a sample, drawn from `rngs={'latent': key}`, with one key an example;
  otherwise it is of the mean.
  """

  def setup(self) -> None:
    """Makes the encoder and the decoder."""
    rest = self.widths, self.batch_norm, self.dtype
    self.encoder = Encoder(2 * self.latent, *rest)
    self.decoder = Decoder(self.shape, *rest)

  def posterior(
    self, x: jax.Array, train: bool = False
  ) -> tuple[jax.Array, jax.Array]:
    """Returns `(mean [latent], log_variance [latent])`, given one image."""
    both = self.encoder(x, train)
    return both[: self.latent], both[self.latent :]

  def encode(self, x: jax.Array, train: bool = False) -> jax.Array:
    """Returns the mean of z `[latent]`, given one image."""
    return self.posterior(x, train)[0]

  def __call__(
    self, x: jax.Array, train: bool = False
  ) -> tuple[jax.Array, Any]:
    """Returns `(reconstruction, (mean, log_variance))` of an image."""
    mean, log_variance = self.posterior(x, train)
    z = mean
    if train:
      noise = jax.random.normal(self.make_rng('latent'), z.shape, z.dtype)
      z = mean + jnp.exp(log_variance / 2) * noise
    return self.decode(z, train), (mean, log_variance)
