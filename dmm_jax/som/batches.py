"""Epochs of batch training: search, sums of each unit's codes, smoothing."""

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from dmm_jax import parallel
from dmm_jax.som import chunks
from dmm_jax.som import lengths
from dmm_jax.som import maps
from dmm_jax.som import narrowing
from dmm_jax.som import neighborhoods
from dmm_jax.som import searching


class Columns(NamedTuple):
  """Codes in chunks.

  Attributes:
    codes: `[chunks, rows, d]`, 0 where unusable.
    usable: `[chunks, rows]`, False too for the rows that fill the last chunk.
    directions: of `codes`, likewise; None where they are equal.
    centre: `lengths.middle` of codes, `[d]`.
  """

  codes: jax.Array
  usable: jax.Array
  directions: jax.Array | None
  centre: jax.Array


def prepare(
  som: maps.Map, codes: jax.Array, search_bytes: int | None, divide: bool
) -> Columns:
  """Return codes `[n, d]` in chunks, a multiple of the number of devices."""
  if som.neighborhood == 'mexican_hat':
    raise ValueError(
      "neighborhood 'mexican_hat' has negative weights, which batch training "
      "cannot average: use method='online'"
    )
  codes = maps.check_codes(som, codes)
  usable = searching.is_usable(codes, som.distance)
  codes = jnp.where(usable[:, None], codes, 0)
  devices = parallel.num_shards() if divide else 1
  rows = chunks.chunk_rows(
    -(-len(codes) // devices),
    som.units.shape[0],
    codes.shape[1],
    codes.dtype.itemsize,
    som.distance,
    search_bytes,
  )
  split = functools.partial(chunks.in_chunks, rows=rows, multiple=devices)
  directions = None
  if som.distance in searching.ANGULAR:
    directions = split(searching.directions(codes, som.distance))
  centre = lengths.middle(codes)
  return Columns(split(codes), split(usable), directions, centre)


@functools.partial(jax.jit, static_argnames=('search_bytes', 'divide'))
def step(
  som: maps.Map,
  codes: jax.Array,
  sigma: jax.Array,
  *,
  search_bytes: int | None = None,
  divide: bool = True,
) -> maps.Map:
  """Set each unit to the weighted mean of all codes: one batch epoch.

  A code's weight is the influence of its nearest unit on the unit that is set.

  Args:
    som: the map.
    codes: `[n, d]`; unusable ones (`searching`) do not count.
    sigma: width of the neighbourhood, in units of the grid.
    search_bytes, divide: as for `fit`.

  Returns:
    The map, its `history` unchanged. A unit whose weights sum to less than
    about 1e-31 in float32 keeps its code.
  """
  columns = prepare(som, codes, search_bytes, divide)
  units = som.units
  sigma = jnp.asarray(sigma, units.dtype)
  units, _ = epoch(som, units, columns, sigma, divide)
  return dataclasses.replace(som, codebook=units.reshape(som.codebook.shape))


def train(
  som: maps.Map,
  codes: jax.Array,
  sigmas: jax.Array,
  search_bytes: int | None,
  divide: bool,
) -> maps.Map:
  """Return the map after one epoch at each width `[num_epochs]`."""
  columns = prepare(som, codes, search_bytes, divide)
  units, history = jax.lax.scan(
    lambda units, sigma: epoch(som, units, columns, sigma, divide),
    som.units,
    sigmas.astype(som.units.dtype),
  )
  codebook = units.reshape(som.codebook.shape)
  return dataclasses.replace(som, codebook=codebook, history=history)


def epoch(
  som: maps.Map,
  units: jax.Array,
  columns: Columns,
  sigma: jax.Array,
  divide: bool,
) -> tuple[jax.Array, jax.Array]:
  """Return the next units `[k, d]`, and the mean distance from the given ones.

  Args:
    som: the map, for everything but its codebook.
    units: the codebook `[k, d]`.
    columns: from `prepare`.
    sigma, divide: as for `step`.
  """
  prepared = searching.prepare(units, som.distance)
  num = narrowing.num_patches(som.grid, units.shape[1], som.distance)
  coarse = narrowing.prepare(prepared, som.grid, num) if num else None
  shared = prepared, coarse, columns.centre
  total = functools.partial(_sums, distance=som.distance)
  if divide:
    sums, counts, away = parallel.psum(total, columns[:3], shared)
  else:
    sums, counts, away = total(*columns[:3], *shared)
  both = jnp.concatenate([sums, counts[:, None]], axis=1)
  both = neighborhoods.smooth(
    both.reshape(*som.grid, -1),
    sigma,
    som.topology,
    som.periodic,
    som.neighborhood,
  ).reshape(both.shape)
  weight = both[:, -1:]
  limits = jnp.finfo(weight.dtype)
  reached = weight > limits.tiny / limits.eps
  mean = columns.centre[None] + both[:, :-1] / jnp.where(reached, weight, 1)
  return jnp.where(reached, mean, units), away / jnp.sum(counts)


def _sums(codes, usable, directions, units, coarse, centre, distance):
  """Sums `[k, d]` and numbers `[k]` of each unit's codes, sum of distances."""
  chunks, search = _chunks(codes, usable, directions, units, coarse, distance)

  def add(total, chunk):
    codes, usable, x, index = search(chunk)
    away = searching.separation(x, units.codes[index], distance)
    # Index k does not exist, so that nothing is added.
    index = jnp.where(usable, index, len(units.codes))
    # Adding rows in place costs little beside the search; a product with zeros
    # and ones would cost as much.
    sums, counts, far = total
    # Less a centre, so that a large offset does not round the means.
    sums = sums.at[index].add(codes - centre[None], mode='drop')
    counts = counts.at[index].add(1, mode='drop')
    return (sums, counts, far + jnp.sum(jnp.where(usable, away, 0))), None

  zeros = jnp.zeros_like(units.codes)
  start = zeros, zeros[:, 0], jnp.zeros((), zeros.dtype)
  return jax.lax.scan(add, start, chunks)[0]


def _chunks(codes, usable, directions, units, coarse, distance):
  """Chunks, and what returns a chunk's codes, directions and nearest units."""
  xs = codes if directions is None else directions

  def plain(chunk):
    _, usable, x = chunk
    return *chunk, searching.nearest(x, usable, units, distance)[0]

  if coarse is None:
    return (codes, usable, xs), plain
  # By chunks, to stay in the cache.
  view = jax.lax.map(
    lambda x: narrowing.view(x - units.centre[None], coarse.basis),
    jax.lax.stop_gradient(xs),
  )
  flatten = lambda v: v.reshape(-1, *v.shape[2:])
  flat, view = jax.tree.map(flatten, ((codes, usable, xs), view))

  def narrowed(rows):
    codes, usable, x = (v[rows] for v in flat)
    seen = narrowing.View(*(v[rows] for v in view))
    found = narrowing.nearest(x, usable, seen, units, coarse, distance)
    return codes, usable, x, found

  order = narrowing.order(view.seen, coarse)
  return order.reshape(usable.shape), narrowed
