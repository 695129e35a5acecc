"""The unit nearest to a code, by matrix products, in chunks of bounded memory.

A code without a nearest unit is `unusable`: one that holds NaN or infinity, one
of zeros under cosine, a constant one under correlation.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

_LANES = 16
DISTANCES = ('euclidean', 'cosine', 'correlation', 'l1', 'linf')


def check(distance: str) -> None:
  """Raises ValueError for a distance that does not exist."""
  if distance not in DISTANCES:
    raise ValueError(f'distance: one of {DISTANCES}, not {distance!r}')


def is_usable(codes: jax.Array, distance: str) -> jax.Array:
  """Whether codes `[..., d]` have a nearest unit, `[...]`."""
  usable = jnp.all(jnp.isfinite(codes), axis=-1)
  if distance == 'cosine':
    return usable & jnp.any(codes != 0, axis=-1)
  if distance == 'correlation':
    return usable & (codes.max(axis=-1) > codes.min(axis=-1))
  return usable


def measure(x: jax.Array, w: jax.Array, distance: str) -> jax.Array:
  """Returns the distance of codes and units, `[..., d]` both, `[...]`.

  From differences, without the search's cancellation. Under cosine a unit of
  zeros has distance 1 from everything, as has a constant one under correlation.
  """
  if distance == 'euclidean':
    return jnp.sqrt(jnp.sum((x - w) ** 2, axis=-1))
  if distance == 'l1':
    return jnp.sum(jnp.abs(x - w), axis=-1)
  if distance == 'linf':
    return jnp.max(jnp.abs(x - w), axis=-1)
  x, w = _unit_length(x, distance), _unit_length(w, distance)
  return 1 - jnp.sum(x * w, axis=-1)


class Units(NamedTuple):
  """Units as `scores` wants them; made once, outside of loops over codes.

  Attributes:
    matrix: the units, or what codes are multiplied by, `[k, d]`.
    bias: what is added to products, `[k]`.
  """

  matrix: jax.Array
  bias: jax.Array


def prepare(units: jax.Array, distance: str) -> Units:
  """Returns units `[k, d]` for `scores`."""
  none = jnp.zeros(len(units), units.dtype)
  if distance == 'euclidean':
    return Units(-units, jnp.sum(units**2, axis=-1) / 2)
  if distance in ('l1', 'linf'):
    return Units(units, none)
  return Units(-_unit_length(units, distance), none)


def scores(codes: jax.Array, units: Units, distance: str) -> jax.Array:
  """Returns what the nearest unit minimises, `[k, m]`.

  Args:
    codes: `[m, d]`.
    units: of `prepare`; under euclidean both should be centred, since squared
      lengths cancel.
    distance: `l1` and `linf` give distances; euclidean half the squared one
      less half the code's squared length; cosine and correlation the distance
      less 1, times the code's length.
  """
  if distance in ('l1', 'linf'):
    return measure(codes[None], units.matrix[:, None], distance)
  product = jnp.matmul(
    units.matrix, codes.T, precision=jax.lax.Precision.HIGHEST
  )
  # The product is an array of its own; adding to it is part of what reads it.
  return product + units.bias[:, None]


def smallest(values: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Returns where each column `[k, m]` is least, the first, and its value.

  Two plain reductions, which CPUs vectorise, for `argmin`, which they do not.
  """
  index = jnp.arange(len(values), dtype=jnp.int32)[:, None]
  least = jax.lax.optimization_barrier(values.min(axis=0))
  first = jnp.where(values == least[None], index, len(values)).min(axis=0)
  return jnp.minimum(first, len(values) - 1), least


def two_smallest(values: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Returns where each column `[k, m]` is least, and where second."""
  first, _ = smallest(values)
  index = jnp.arange(len(values), dtype=jnp.int32)[:, None]
  second, _ = smallest(jnp.where(index == first[None], jnp.inf, values))
  return first, second


def chunk_rows(
  num: int,
  num_units: int,
  d: int,
  itemsize: int,
  distance: str,
  limit: int | None,
) -> int:
  """Returns how many codes to search at once, within `limit` bytes.

  At least one, at most `num`; the scores are what takes memory. None allows
  what a CPU keeps in its cache, little of what other devices have.
  """
  products = distance not in ('l1', 'linf')
  # Not even where a compiler keeps the differences.
  size = num_units * itemsize * (1 if products else d)
  if limit is not None:
    rows = limit // size
  elif jax.default_backend() != 'cpu':
    rows = 2**28 // size
  else:
    # 256 keep a product busy; scores are read again while they are near.
    rows = max(256, 2**20 // size) if products else 2**24 // size
  if num <= rows:
    return max(1, num)
  if rows < _LANES:
    return max(1, rows)
  # Products are slower of odd sizes; chunks are even, to fill the last one.
  rows -= rows % _LANES
  even = -(-num // -(-num // rows))
  return -(-even // _LANES) * _LANES


def in_chunks(codes: jax.Array, rows: int, multiple: int = 1) -> jax.Array:
  """Returns codes `[n, ...]` as `[chunks, rows, ...]`, with zeros at the end.

  Args:
    codes: what is divided.
    rows: of a chunk.
    multiple: what the number of chunks is one of.
  """
  num = -(-len(codes) // (rows * multiple)) * multiple
  padding = [(0, num * rows - len(codes))] + [(0, 0)] * (codes.ndim - 1)
  return jnp.pad(codes, padding).reshape(num, rows, *codes.shape[1:])


def sizes(codes: jax.Array, distance: str) -> jax.Array:
  """Returns what `from_scores` wants of codes `[..., d]`, `[...]`.

  Their squared length, under correlation that of the code less its mean.
  """
  if distance == 'correlation':
    codes = codes - codes.mean(axis=-1, keepdims=True)
  return jnp.sum(codes**2, axis=-1)


def from_scores(least: jax.Array, sizes: jax.Array, distance: str) -> jax.Array:
  """Returns the distances that `scores` stand for.

  Cancellation leaves an error of up to 1e-3 of a code's length in float32.
  """
  if distance in ('l1', 'linf'):
    return least
  if distance == 'euclidean':
    return jnp.sqrt(jnp.maximum(sizes + 2 * least, 0))
  return 1 + least / jnp.sqrt(jnp.where(sizes > 0, sizes, 1))


def _unit_length(vectors, distance):
  if distance == 'correlation':
    # Less their first entry, so that a large offset does not spoil the mean.
    vectors = vectors - vectors[..., :1]
    vectors = vectors - vectors.mean(axis=-1, keepdims=True)
  size = jnp.sqrt(jnp.sum(vectors**2, axis=-1, keepdims=True))
  return vectors / jnp.where(size > 0, size, 1)
