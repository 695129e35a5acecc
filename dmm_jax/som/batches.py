"""An epoch of batch training: search, sums of each unit's codes, smoothing."""

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from dmm_jax import parallel
from dmm_jax.som import maps
from dmm_jax.som import neighborhoods
from dmm_jax.som import searching


class Chunks(NamedTuple):
  """Codes as an epoch wants them.

  Attributes:
    codes: less `centre`, `[chunks, rows, d]`; 0 where unusable.
    usable: `[chunks, rows]`; False too for what fills the last chunk.
    sizes: their `searching.sizes`, likewise.
    centre: the mean under euclidean, else 0, `[d]`.
  """

  codes: jax.Array
  usable: jax.Array
  sizes: jax.Array
  centre: jax.Array


def prepare(
  som: maps.Map, codes: jax.Array, search_bytes: int | None, divide: bool
) -> Chunks:
  """Returns codes `[n, d]` in chunks, as many as the devices can share."""
  if som.neighborhood == 'mexican_hat':
    raise ValueError(
      'mexican_hat has negative weights, of which a batch makes no mean: '
      "method='online'"
    )
  codes = codes.astype(som.codebook.dtype)
  usable = searching.is_usable(codes, som.distance)
  codes = jnp.where(usable[:, None], codes, 0)
  centre = jnp.zeros(codes.shape[1], codes.dtype)
  if som.distance == 'euclidean':
    centre = codes.sum(axis=0) / jnp.maximum(usable.sum(), 1)
    codes = jnp.where(usable[:, None], codes - centre[None], 0)
  devices = parallel.num_shares() if divide else 1
  rows = searching.chunk_rows(
    -(-len(codes) // devices),
    som.units.shape[0],
    codes.shape[1],
    codes.dtype.itemsize,
    som.distance,
    search_bytes,
  )
  shape = lambda v: searching.in_chunks(v, rows, devices)
  sizes = searching.sizes(codes, som.distance)
  return Chunks(shape(codes), shape(usable), shape(sizes), centre)


@functools.partial(jax.jit, static_argnames=('search_bytes', 'divide'))
def step(
  som: maps.Map,
  codes: jax.Array,
  sigma: jax.Array,
  *,
  search_bytes: int | None = None,
  divide: bool = True,
) -> maps.Map:
  """Sets each unit to the mean of all codes by influence: one batch epoch.

  Args:
    som: the map.
    codes: `[n, d]`; unusable ones (`searching`) count for nothing.
    sigma: width of the neighbourhood, in units of the grid.
    search_bytes, divide: as for `fit`.

  Returns:
    The map, its `history` as it was. A unit without influence to speak of, less
    than about 1e-31 of a code in float32, keeps its code.
  """
  chunks = prepare(som, codes, search_bytes, divide)
  shift = chunks.centre[None]
  sigma = jnp.asarray(sigma, shift.dtype)
  units, _ = epoch(som, som.units - shift, chunks, sigma, divide)
  codebook = (units + shift).reshape(som.codebook.shape)
  return dataclasses.replace(som, codebook=codebook)


def train(
  som: maps.Map,
  codes: jax.Array,
  sigmas: jax.Array,
  search_bytes: int | None,
  divide: bool,
) -> maps.Map:
  """Returns the map after an epoch at each width `[num_epochs]`."""
  chunks = prepare(som, codes, search_bytes, divide)
  shift = chunks.centre[None]
  units, history = jax.lax.scan(
    lambda units, sigma: epoch(som, units, chunks, sigma, divide),
    som.units - shift,
    sigmas.astype(shift.dtype),
  )
  codebook = (units + shift).reshape(som.codebook.shape)
  return dataclasses.replace(som, codebook=codebook, history=history)


def epoch(
  som: maps.Map,
  units: jax.Array,
  chunks: Chunks,
  sigma: jax.Array,
  divide: bool,
) -> tuple[jax.Array, jax.Array]:
  """Returns the next units `[k, d]`, and the mean distance from these.

  Args:
    som: gives everything but the codebook.
    units: the codebook less `chunks.centre`.
    chunks, sigma, divide: as elsewhere here.
  """
  total = functools.partial(_sums, distance=som.distance)
  if divide:
    sums, counts, away = parallel.sum_of_shares(total, chunks[:3], (units,))
  else:
    sums, counts, away = total(*chunks[:3], units)
  known = jnp.concatenate([sums, counts[:, None]], axis=1)
  known = neighborhoods.smooth(
    known.reshape(*som.grid, -1),
    sigma,
    som.topology,
    som.periodic,
    som.neighborhood,
  ).reshape(known.shape)
  weight = known[:, -1:]
  limits = jnp.finfo(weight.dtype)
  reached = weight > limits.tiny / limits.eps
  mean = known[:, :-1] / jnp.where(reached, weight, 1)
  return jnp.where(reached, mean, units), away / jnp.sum(counts)


def _sums(codes, usable, sizes, units, distance):
  """Sums `[k, d]` and numbers `[k]` of each unit's codes, sum of distances."""
  prepared = searching.prepare(units, distance)

  def add(total, chunk):
    codes, usable, sizes = chunk
    values = searching.scores(codes, prepared, distance)
    index, least = searching.smallest(values)
    away = searching.from_scores(least, sizes, distance)
    # To a unit that does not exist nothing is added.
    index = jnp.where(usable, index, len(units))
    # Rows added where they belong, while they are near, are next to nothing
    # beside the search; a product with zeros and ones would cost as much.
    sums, counts, far = total
    sums = sums.at[index].add(codes, mode='drop')
    counts = counts.at[index].add(1, mode='drop')
    return (sums, counts, far + jnp.sum(jnp.where(usable, away, 0))), None

  zeros = jnp.zeros_like(units)
  begin = zeros, zeros[:, 0], jnp.zeros((), units.dtype)
  return jax.lax.scan(add, begin, (codes, usable, sizes))[0]
