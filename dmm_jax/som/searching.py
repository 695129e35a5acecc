"""The unit nearest to a code, by matrix products, in chunks of bounded memory.

A code without a nearest unit is `unusable`: one that holds NaN or infinity, one
of zeros under cosine, a constant one under correlation.
"""

import jax
import jax.numpy as jnp

DISTANCES = ('euclidean', 'cosine', 'correlation', 'l1', 'linf')


def check(distance: str) -> None:
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


def scores(codes: jax.Array, units: jax.Array, distance: str) -> jax.Array:
  """Returns what the nearest unit minimises, `[k, m]`.

  Args:
    codes: `[m, d]`.
    units: `[k, d]`; both should be centred under euclidean, since squared
      lengths cancel.
    distance: `l1` and `linf` themselves, half the squared euclidean distance
      less that of the code from 0, cosine and correlation up to the code's
      length.
  """
  if distance in ('l1', 'linf'):
    return measure(codes[None], units[:, None], distance)
  product = lambda u: jnp.matmul(
    u, codes.T, precision=jax.lax.Precision.HIGHEST
  )
  if distance == 'euclidean':
    # The product is an array of its own; adding to it is part of what reads it.
    return jnp.sum(units**2, axis=-1)[:, None] / 2 + product(-units)
  return product(-_unit_length(units, distance))


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
  what a CPU keeps in its cache, or little of what other devices have.
  """
  if limit is None:
    limit = 2**22 if jax.default_backend() == 'cpu' else 2**28
  # Not even where a compiler keeps the differences.
  width = d if distance in ('l1', 'linf') else 1
  rows = limit // (num_units * width * itemsize)
  return max(1, min(num, rows))


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


def from_score(least: jax.Array, codes: jax.Array, distance: str) -> jax.Array:
  """Returns the distances that `scores` `[m]` of codes `[m, d]` stand for.

  Cancellation leaves an error of up to 1e-3 of a code's length in float32.
  """
  if distance in ('l1', 'linf'):
    return least
  if distance == 'euclidean':
    square = jnp.sum(codes**2, axis=-1) + 2 * least
    return jnp.sqrt(jnp.maximum(square, 0))
  if distance == 'correlation':
    codes = codes - codes.mean(axis=-1, keepdims=True)
  size = jnp.sqrt(jnp.sum(codes**2, axis=-1))
  return 1 + least / jnp.where(size > 0, size, 1)


def _unit_length(vectors, distance):
  if distance == 'correlation':
    # Less their first entry, so that a large offset does not spoil the mean.
    vectors = vectors - vectors[..., :1]
    vectors = vectors - vectors.mean(axis=-1, keepdims=True)
  size = jnp.sqrt(jnp.sum(vectors**2, axis=-1, keepdims=True))
  return vectors / jnp.where(size > 0, size, 1)
