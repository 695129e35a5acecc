"""Division of codes into chunks of bounded memory."""

import jax
import jax.numpy as jnp
import numpy as np

from dmm_jax.som import searching

# A whole number of vector registers.
_MULTIPLE = 16


def check_bytes(limit: int | None) -> None:
  """Raise ValueError for a `search_bytes` that is no number of bytes."""
  if limit is None or (isinstance(limit, int | np.integer) and limit > 0):
    return
  raise ValueError(
    f'search_bytes must be None or a positive integer, got {limit!r}'
  )


def chunk_rows(
  num: int,
  num_units: int,
  d: int,
  itemsize: int,
  distance: str,
  limit: int | None,
) -> int:
  """Return how many codes to search at once, within `limit` bytes.

  At least one, at most `num`; the scores take the memory. None allows what fits
  the cache of a CPU, and a small part of other devices' memory.
  """
  uses_products = distance not in searching.DIRECT
  # Differences count even where a compiler does not keep them.
  size = num_units * itemsize * (1 if uses_products else d)
  if limit is not None:
    rows = limit // size
  elif jax.default_backend() != 'cpu':
    rows = 2**28 // size
  else:
    # Products are slow of fewer than 256 rows; scores should stay in the cache,
    # since they are read twice, and so should codes.
    fits = min(2**20 // size, 2**19 // (d * itemsize))
    rows = max(256, fits) if uses_products else 2**24 // size
  if num <= rows:
    return max(1, num)
  if rows < _MULTIPLE:
    return max(1, rows)
  # Products of odd sizes are slower; chunks are even, to fill the last one.
  rows -= rows % _MULTIPLE
  even = -(-num // -(-num // rows))
  return -(-even // _MULTIPLE) * _MULTIPLE


def in_chunks(codes: jax.Array, rows: int, multiple: int = 1) -> jax.Array:
  """Return codes `[n, ...]` as `[chunks, rows, ...]`, zeros at the end.

  Args:
    codes: the array to divide.
    rows: rows of a chunk.
    multiple: the number of chunks is a multiple of it.
  """
  num = -(-len(codes) // (rows * multiple)) * multiple
  padding = [(0, num * rows - len(codes))] + [(0, 0)] * (codes.ndim - 1)
  return jnp.pad(codes, padding).reshape(num, rows, *codes.shape[1:])
