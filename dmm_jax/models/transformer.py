"""A small vision transformer."""

import collections

from flax import linen as nn
import jax
from jax.typing import DTypeLike

from dmm_jax.models import layers


class ViT(nn.Module):
  """Vision transformer whose tokens are averaged before the head.

  Dosovitskiy et al. (2021), https://arxiv.org/abs/2010.11929. Deviation: the
  average stands for the class token, as in Beyer, Zhai, Kolesnikov (2022),
  https://arxiv.org/abs/2205.01580.

  Attributes:
    patch: side of the square patches, in pixels.
    width: of a token; the hidden layer of each MLP is 4 times as wide.
    depth: number of blocks.
    heads: of attention, each of width / heads dimensions.
  """

  patch: int = 4
  width: int = 192
  depth: int = 6
  heads: int = 3
  num_classes: int = 10
  dtype: DTypeLike | None = None

  @nn.compact
  def __call__(
    self, x: jax.Array, train: bool = False
  ) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Returns `(logits [num_classes], codes)` of one input."""
    del train
    if x.shape[0] % self.patch or x.shape[1] % self.patch:
      raise ValueError(
        f'patches of {self.patch} pixels do not tile an image of {x.shape[:2]}'
      )
    codes = collections.OrderedDict()
    embed = nn.Conv(
      self.width,
      (self.patch, self.patch),
      strides=self.patch,
      padding='VALID',
      dtype=self.dtype,
      name='embed',
    )
    h = embed(x).reshape(-1, self.width)
    positions = self.param('positions', nn.initializers.normal(0.02), h.shape)
    h = codes['embed'] = h + positions.astype(h.dtype)
    for i in range(self.depth):
      h = self._attend(h, f'block{i}')
      codes[f'block{i}_attention'] = h
      h = codes[f'block{i}'] = self._mlp(h, f'block{i}')
    h = layers.at_least_float32(nn.LayerNorm(dtype=self.dtype, name='norm')(h))
    h = codes['pool'] = h.mean(0)
    return layers.head(h, self.num_classes), codes

  def _attend(self, h, name):
    norm = nn.LayerNorm(dtype=self.dtype, name=f'{name}_norm0')
    attention = nn.MultiHeadDotProductAttention(
      self.heads,
      dtype=self.dtype,
      kernel_init=nn.initializers.xavier_uniform(),
      force_fp32_for_softmax=True,
      name=f'{name}_attention',
    )
    return h + attention(norm(h))

  def _mlp(self, h, name):
    out = nn.LayerNorm(dtype=self.dtype, name=f'{name}_norm1')(h)
    for i, width in enumerate((4 * self.width, self.width)):
      layer = nn.Dense(
        width,
        kernel_init=nn.initializers.xavier_uniform(),
        dtype=self.dtype,
        name=f'{name}_dense{i}',
      )
      out = layer(out)
      if not i:
        out = nn.gelu(out)
    return h + out
