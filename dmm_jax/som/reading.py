"""What a trained map says of codes, and how good it is.

Codes without a nearest unit (`searching`) get unit (-1, -1) and distance NaN,
and do not count in means.
"""

import functools

import jax
import jax.numpy as jnp

from dmm_jax.som import grids
from dmm_jax.som import maps
from dmm_jax.som import neighborhoods
from dmm_jax.som import searching


@functools.partial(jax.jit, static_argnames='search_bytes')
def best_matching_units(
  som: maps.Map, codes: jax.Array, *, search_bytes: int | None = None
) -> jax.Array:
  """Returns row and column of each code's nearest unit, integers `[n, 2]`.

  The first of equally near ones; (-1, -1) where there is none.
  """
  return _search(som, codes, search_bytes)[:, 0]


@functools.partial(jax.jit, static_argnames='search_bytes')
def two_best_units(
  som: maps.Map, codes: jax.Array, *, search_bytes: int | None = None
) -> jax.Array:
  """Returns the nearest and the second nearest unit, `[n, 2, 2]`.

  The second of a map of one unit is that unit.
  """
  return _search(som, codes, search_bytes)


def flat(som: maps.Map, units: jax.Array) -> jax.Array:
  """Returns units `[..., 2]` as numbers `row * cols + col`, below 0 if none."""
  return units[..., 0] * som.grid[1] + units[..., 1]


@functools.partial(jax.jit, static_argnames='search_bytes')
def distances(
  som: maps.Map, codes: jax.Array, *, search_bytes: int | None = None
) -> jax.Array:
  """Returns each code's distance from its unit, in the map's own, `[n]`."""
  score = _scorer(som, som.distance)

  def nearest(codes, usable):
    values = score(codes)
    units = som.units[searching.smallest(values)[0]]
    away = searching.measure(codes, units, som.distance)
    return jnp.where(usable, away, jnp.nan)

  return _over_chunks(nearest, som, codes, search_bytes)


@functools.partial(jax.jit, static_argnames='search_bytes')
def quantization_error(
  som: maps.Map, codes: jax.Array, *, search_bytes: int | None = None
) -> jax.Array:
  """Returns the mean of `distances`; NaN if no code has one."""
  return jnp.nanmean(distances(som, codes, search_bytes=search_bytes))


@functools.partial(jax.jit, static_argnames='search_bytes')
def topographic_error(
  som: maps.Map, codes: jax.Array, *, search_bytes: int | None = None
) -> jax.Array:
  """Returns the share of codes whose two nearest units are not neighbours.

  Neighbours as `grids.adjacent` has them: 8 of them, or 6, across the seam of a
  torus too. NaN for a map of one unit, or if no code has a unit.
  """
  pairs = two_best_units(som, codes, search_bytes=search_bytes)
  known = pairs[:, 0, 0] >= 0
  near = grids.adjacent(
    pairs[:, 0], pairs[:, 1], som.grid, som.topology, som.periodic
  )
  count = jnp.sum(known) if som.units.shape[0] > 1 else jnp.nan
  return jnp.sum(known & ~near) / jnp.where(count > 0, count, jnp.nan)


@functools.partial(jax.jit, static_argnames='search_bytes')
def distortion(
  som: maps.Map,
  codes: jax.Array,
  sigma: float,
  *,
  search_bytes: int | None = None,
) -> jax.Array:
  """Returns what training lowers: squared distances by influence.

  The mean over codes x of `sum_u h(unit of x, u) |x - w_u|^2`, in squared
  units of codes; a euclidean measure, whatever the map's distance.
  """
  place = (som.grid, som.topology, som.periodic)
  influence = neighborhoods.all_pairs(
    jnp.asarray(sigma, som.codebook.dtype), *place, som.neighborhood
  )

  score, half = _scorer(som, som.distance), _scorer(som, 'euclidean')

  def of_chunk(codes, usable):
    index, _ = searching.smallest(score(codes))
    length = searching.sizes(codes - _middle(som), 'euclidean')
    square = jnp.maximum(length[:, None] + 2 * half(codes).T, 0)
    total = jnp.sum(influence[index] * square, axis=1)
    return jnp.where(usable, total, jnp.nan)

  return jnp.nanmean(_over_chunks(of_chunk, som, codes, search_bytes))


@functools.partial(jax.jit, static_argnames='reduce')
def u_matrix(som: maps.Map, *, reduce: str = 'mean') -> jax.Array:
  """Returns euclidean distances of each unit's code from its neighbours'.

  Ultsch, Siemon (1990). MiniSom's `distance_map(scaling=reduce)` is this over
  its largest value.

  Args:
    som: the map.
    reduce: over the neighbours, 'mean' or 'sum'.

  Returns:
    `[rows, cols]`, in units of codes; 0 for a unit without neighbours.
  """
  if reduce not in ('mean', 'sum'):
    raise ValueError(f"reduce: 'mean' or 'sum', not {reduce!r}")
  table = grids.neighbors(som.grid, som.topology, som.periodic)
  there = jnp.asarray(table >= 0)
  units = som.units
  # One neighbour of all units at a time: no array of neighbours' codes.
  away = jax.lax.map(
    lambda column: searching.measure(units, units[column], 'euclidean'),
    jnp.asarray(table.T),
  ).T
  total = jnp.sum(jnp.where(there, away, 0), axis=1)
  if reduce == 'mean':
    total = total / jnp.maximum(there.sum(axis=1), 1)
  return total.reshape(som.grid)


@jax.jit
def hits(som: maps.Map, codes: jax.Array) -> jax.Array:
  """Returns how many codes each unit is nearest to, integers `[rows, cols]`."""
  return label_counts(som, codes, jnp.zeros(len(codes), int), 1)[..., 0]


@functools.partial(jax.jit, static_argnames='num_classes')
def label_counts(
  som: maps.Map, codes: jax.Array, labels: jax.Array, num_classes: int
) -> jax.Array:
  """Returns how many codes of each class a unit has, `[rows, cols, classes]`.

  Args:
    som: the map.
    codes: `[n, d]`.
    labels: their classes, integers `[n]`; those below 0 do not count.
    num_classes: how many there are.
  """
  unit = flat(som, best_matching_units(som, codes))
  known = (unit >= 0) & (labels >= 0) & (labels < num_classes)
  size = som.units.shape[0] * num_classes
  cell = jnp.where(known, unit * num_classes + labels, size)
  return jnp.bincount(cell, length=size + 1)[:-1].reshape(*som.grid, -1)


@functools.partial(jax.jit, static_argnames='num_classes')
def label_map(
  som: maps.Map, codes: jax.Array, labels: jax.Array, num_classes: int
) -> jax.Array:
  """Returns the commonest class of each unit's codes, `[rows, cols]`.

  The lowest of equally common ones; -1 for a unit without codes.
  """
  counts = label_counts(som, codes, labels, num_classes)
  return jnp.where(counts.sum(axis=-1) > 0, counts.argmax(axis=-1), -1)


def component_planes(som: maps.Map) -> jax.Array:
  """Returns the map of each entry of the code, `[d, rows, cols]`."""
  return jnp.moveaxis(som.codebook, -1, 0)


def _over_chunks(fn, som, codes, search_bytes):
  """Maps `fn(codes [m, d], usable [m]) -> [m, ...]` over chunks of all."""
  codes = jnp.asarray(codes).astype(som.codebook.dtype)
  usable = searching.is_usable(codes, som.distance)
  num, d = codes.shape
  rows = searching.chunk_rows(
    max(num, 1),
    som.units.shape[0],
    d,
    codes.dtype.itemsize,
    som.distance,
    search_bytes,
  )
  codes = jnp.where(usable[:, None], codes, 0)
  chunks = [searching.in_chunks(v, rows) for v in (codes, usable)]
  out = jax.lax.map(lambda chunk: fn(*chunk), tuple(chunks))
  return out.reshape(-1, *out.shape[2:])[:num]


def _middle(som):
  """The mean unit, `[1, d]`."""
  return som.units.mean(axis=0, keepdims=True)


def _scorer(som, distance):
  """Returns `codes [m, d] -> searching.scores [k, m]` of a map's units."""
  centre = _middle(som) if distance == 'euclidean' else 0
  prepared = searching.prepare(som.units - centre, distance)
  return lambda codes: searching.scores(codes - centre, prepared, distance)


def _search(som, codes, search_bytes):
  score = _scorer(som, som.distance)

  def nearest(codes, usable):
    both = jnp.stack(searching.two_smallest(score(codes)), axis=1)
    units = jnp.stack(jnp.unravel_index(both, som.grid), axis=-1)
    return jnp.where(usable[:, None, None], units, -1)

  return _over_chunks(nearest, som, codes, search_bytes)
