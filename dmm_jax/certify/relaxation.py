"""Linear relaxation of networks (CROWN).

Source: Zhang et al. (2018), "Efficient neural network robustness certification
with general activation functions", https://arxiv.org/abs/1811.00866.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from dmm_jax.certify import activations
from dmm_jax.certify import layers as layers_lib
from dmm_jax.certify import regions

# Entries, for one pair of layers, beyond which all rows share their slopes:
# 32 MB an example.
MAX_SLOPES = 2**22


class Relaxation(NamedTuple):
  """Bounds: lower * z + offset <= activation(z) <= upper * z + intercept.

  Attributes:
    unstable: ReLUs whose sign is not known `[n]`.
    lower, offset: slope and offset of the lower bound, 0 or 1, and 0, of ReLUs
      `[n]`.
    upper, intercept: slope and offset of the upper bound `[n]`.
  """

  unstable: jax.Array
  lower: jax.Array
  offset: jax.Array
  upper: jax.Array
  intercept: jax.Array


def relax(
  low: jax.Array, high: jax.Array, kinds: jax.Array | None = None
) -> Relaxation:
  """Return linear bounds of activations of values in `[low, high]`, `[n]` each.

  For ReLUs the upper bound is the chord; of the lower bounds 0 and z it is the
  one that leaves the smaller area. `kinds` are places in `activations.KINDS`;
  None for ReLUs.
  """
  unstable = (low < 0) & (high > 0)
  width = jnp.where(unstable, high - low, 1.0)
  active = (low >= 0).astype(low.dtype)
  upper = jnp.where(unstable, high / width, active)
  lower = jnp.where(unstable, (high > -low).astype(low.dtype), active)
  intercept = jnp.where(unstable, -upper * low, 0.0)
  relus = unstable, lower, jnp.zeros_like(lower), upper, intercept
  if kinds is None:
    return Relaxation(*relus)
  others = jnp.zeros_like(unstable), *activations.bounds(kinds, low, high)
  pairs = zip(relus, others, strict=True)
  return Relaxation(*(jnp.where(kinds == 0, *pair) for pair in pairs))


def _minimize(rows, offset, layers, relaxed, slopes, region, norm):
  """Return lower bounds of `rows @ h + offset`, `[m]`, over a region.

  h is the output of the ReLUs behind the last of `layers`. The bounds are
  propagated back through one layer after the other. `slopes` of the lower
  bounds of each layer's ReLUs are `[m or 1, n]`, or all None for those of
  `relaxed`; any in [0, 1] are valid.
  """
  for (w, b, *_), relu, free in reversed(
    list(zip(layers, relaxed, slopes, strict=True))
  ):
    lower = relu.lower[None]
    if free is not None:
      clipped = jnp.clip(free, 0.0, 1.0)
      lower = jnp.where(relu.unstable[None], clipped, lower)
    positive, negative = jnp.maximum(rows, 0.0), jnp.minimum(rows, 0.0)
    offset = offset + negative @ relu.intercept + positive @ relu.offset
    rows = positive * lower + negative * relu.upper[None]
    offset, rows = offset + rows @ b, rows @ w.T
  return regions.minimize(rows, offset, region, norm)


def neurons(
  layers: layers_lib.Layers,
  region: regions.Region,
  slopes: list,
  norm: jax.Array,
) -> tuple[list, list]:
  """Bound the values before every ReLU over a region, each by CROWN.

  Args:
    layers: as `layers.check` returns them.
    region: a ball within a box.
    slopes: of the lower bounds, as `default_slopes` or `free_slopes` return.
    norm: any p >= 1, traced.

  Returns:
    `([(low [n], high [n]), ...], [Relaxation, ...])`, one a layer of ReLUs.
  """
  bounds: list[tuple] = []
  relaxed: list[Relaxation] = []
  for i, (w, b, *kinds) in enumerate(layers[:-1]):
    rows, offset = jnp.concatenate([w.T, -w.T]), jnp.concatenate([b, -b])
    least = _minimize(
      rows, offset, layers[:i], relaxed, slopes[i], region, norm
    )
    low, high = least[: len(b)], -least[len(b) :]
    bounds.append((low, high))
    relaxed.append(relax(low, high, *kinds))
  return bounds, relaxed


def margins(
  layers: layers_lib.Layers,
  label: jax.Array,
  region: regions.Region,
  slopes: list,
  norm: jax.Array,
) -> jax.Array:
  """Return lower bounds of the label's logit minus each class's, `[k]`.

  Arguments are those of `neurons`, and the class `label`.
  """
  _, relaxed = neurons(layers, region, slopes, norm)
  w, b = layers[-1]
  rows, offset = (w[:, label][:, None] - w).T, b[label] - b
  return _minimize(rows, offset, layers[:-1], relaxed, slopes[-1], region, norm)


def default_slopes(layers: layers_lib.Layers) -> list:
  """Return placeholders for the slopes that `relax` chooses."""
  return [[None] * i for i in range(len(layers))]


def free_slopes(layers: layers_lib.Layers, relaxed: list) -> list:
  """Return the slopes that `relax` chose as arrays, to be improved.

  For every layer there is one array for each layer before it. Each row of each
  layer has its own slopes, unless they exceed `MAX_SLOPES` entries.
  """
  slopes = []
  for i, (_, b, *_) in enumerate(layers):
    m = len(b) * (1 if i == len(layers) - 1 else 2)
    rows = [
      m if m * relu.lower.size <= MAX_SLOPES else 1 for relu in relaxed[:i]
    ]
    slopes.append(
      [
        jnp.broadcast_to(relu.lower[None], (r, relu.lower.size))
        for r, relu in zip(rows, relaxed, strict=False)
      ]
    )
  return slopes
