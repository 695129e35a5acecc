"""Linear relaxation of ReLU networks (CROWN).

Source: Zhang et al. (2018), "Efficient neural network robustness certification
with general activation functions", https://arxiv.org/abs/1811.00866.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from dmm_jax.certify import layers as layers_lib
from dmm_jax.certify import regions

# Entries, for one pair of layers, beyond which all rows share their slopes:
# 32 MB an example.
MAX_SLOPES = 2**22


class Lines(NamedTuple):
  """Linear bounds of a layer of ReLUs: lower z <= relu(z) <= upper z + gap.

  Attributes:
    unstable: where the sign of z is not known `[n]`.
    lower: slope below, 0 or 1 `[n]`.
    upper, gap: slope and offset above `[n]`.
  """

  unstable: jax.Array
  lower: jax.Array
  upper: jax.Array
  gap: jax.Array


def relax(low: jax.Array, high: jax.Array) -> Lines:
  """Returns the chord above, and the line below of the smaller area."""
  unstable = (low < 0) & (high > 0)
  width = jnp.where(unstable, high - low, 1.0)
  active = (low >= 0).astype(low.dtype)
  upper = jnp.where(unstable, high / width, active)
  lower = jnp.where(unstable, (high > -low).astype(low.dtype), active)
  return Lines(unstable, lower, upper, jnp.where(unstable, -upper * low, 0.0))


def _least(rows, offset, layers, lines, slopes, region, norm):
  """Returns lower bounds of `rows @ h + offset`, `[m]`, over a region.

  h is what leaves the ReLUs behind the last of `layers`. The bounds are carried
  back through one layer after the other. `slopes`, below each layer's ReLUs,
  are `[m or 1, n]`, or all None for those of `lines`; any in [0, 1] are valid.
  """
  for (w, b), line, own in reversed(
    list(zip(layers, lines, slopes, strict=True))
  ):
    lower = line.lower[None]
    if own is not None:
      free = jnp.clip(own, 0.0, 1.0)
      lower = jnp.where(line.unstable[None], free, lower)
    rising, falling = jnp.maximum(rows, 0.0), jnp.minimum(rows, 0.0)
    offset = offset + falling @ line.gap
    rows = rising * lower + falling * line.upper[None]
    offset, rows = offset + rows @ b, rows @ w.T
  return regions.least(rows, offset, region, norm)


def neurons(
  layers: layers_lib.Layers,
  region: regions.Region,
  slopes: list,
  norm: jax.Array,
) -> tuple[list, list]:
  """Bounds of the values before every ReLU, each by CROWN, and its lines."""
  bounds: list[tuple] = []
  lines: list[Lines] = []
  for i, (w, b) in enumerate(layers[:-1]):
    rows, offset = jnp.concatenate([w.T, -w.T]), jnp.concatenate([b, -b])
    found = _least(rows, offset, layers[:i], lines, slopes[i], region, norm)
    low, high = found[: len(b)], -found[len(b) :]
    bounds.append((low, high))
    lines.append(relax(low, high))
  return bounds, lines


def leads(
  layers: layers_lib.Layers,
  label: jax.Array,
  region: regions.Region,
  slopes: list,
  norm: jax.Array,
) -> tuple[jax.Array, list]:
  """Lower bounds of the label's logit minus each, `[k]`; and the lines."""
  _, lines = neurons(layers, region, slopes, norm)
  w, b = layers[-1]
  rows, offset = (w[:, label][:, None] - w).T, b[label] - b
  bound = _least(rows, offset, layers[:-1], lines, slopes[-1], region, norm)
  return bound, lines


def adaptive(layers: layers_lib.Layers) -> list:
  """Stands for the slopes that `relax` chooses."""
  return [[None] * i for i in range(len(layers))]


def free_slopes(layers: layers_lib.Layers, lines: list) -> list:
  """The slopes that `relax` chose, as arrays: for every layer, of all before.

  Each row of each layer has its own, as far as `MAX_SLOPES` allows.
  """
  slopes = []
  for i, (_, b) in enumerate(layers):
    m = len(b) * (1 if i == len(layers) - 1 else 2)
    rows = [m if m * line.lower.size <= MAX_SLOPES else 1 for line in lines[:i]]
    slopes.append(
      [
        jnp.broadcast_to(line.lower[None], (r, line.lower.size))
        for r, line in zip(rows, lines, strict=False)
      ]
    )
  return slopes
