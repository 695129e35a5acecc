"""Units and distances of codes on a trained map, and measures of the map.

Units are nearest up to the rounding of distances, for any codes (`searching`).
Unusable codes have unit (-1, -1) and distance NaN, and do not count in means.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from dmm_jax.som import chunks
from dmm_jax.som import grids
from dmm_jax.som import maps
from dmm_jax.som import neighborhoods
from dmm_jax.som import searching


@functools.partial(jax.jit, static_argnames='search_bytes')
def best_matching_units(
  som: maps.Map, codes: jax.Array, *, search_bytes: int | None = None
) -> jax.Array:
  """Return the row and column of each code's nearest unit.

  Args:
    som: the map.
    codes: `[n, d]`, real numbers.
    search_bytes: memory for the distances of one search, in bytes; None chooses
      by the backend.

  Returns:
    Integers `[n, 2]`: the first, row by row, of equally near units; (-1, -1)
    for an unusable code (`searching`).
  """
  return _search(som, codes, search_bytes, 1)[:, 0]


@functools.partial(jax.jit, static_argnames='search_bytes')
def two_best_units(
  som: maps.Map, codes: jax.Array, *, search_bytes: int | None = None
) -> jax.Array:
  """Return each code's nearest and second nearest unit, integers `[n, 2, 2]`.

  `[:, i]` is as in `best_matching_units`. On a map with one unit both are that
  unit.
  """
  return _search(som, codes, search_bytes, 2)


def flat(som: maps.Map, units: jax.Array) -> jax.Array:
  """Return units `[..., 2]` as integers `row * cols + col`, below 0 if none."""
  return units[..., 0] * som.grid[1] + units[..., 1]


@functools.partial(jax.jit, static_argnames='search_bytes')
def distances(
  som: maps.Map, codes: jax.Array, *, search_bytes: int | None = None
) -> jax.Array:
  """Return each code's distance from its nearest unit, `[n]`.

  In the map's own distance, from differences (`searching.measure`), in units of
  the codes except under cosine and correlation; NaN for an unusable code.
  """
  prepared = searching.prepare(som.units, som.distance)

  def nearest(codes, usable):
    x = searching.directions(codes, som.distance)
    index = searching.nearest(x, usable, prepared, som.distance)[0]
    away = searching.separation(x, prepared.codes[index], som.distance)
    return jnp.where(usable, away, jnp.nan)

  return _over_chunks(nearest, som, codes, search_bytes)


@functools.partial(jax.jit, static_argnames='search_bytes')
def quantization_error(
  som: maps.Map, codes: jax.Array, *, search_bytes: int | None = None
) -> jax.Array:
  """Return the mean of `distances`, a scalar; NaN if no code is usable."""
  return jnp.nanmean(distances(som, codes, search_bytes=search_bytes))


@functools.partial(jax.jit, static_argnames='search_bytes')
def topographic_error(
  som: maps.Map, codes: jax.Array, *, search_bytes: int | None = None
) -> jax.Array:
  """Return the fraction of codes whose two nearest units are not neighbours.

  A unit has 8 neighbours on a rectangular grid and 6 on a hexagonal one; on a
  torus they include those across the edges. NaN for a map with one unit, or if
  no code is usable.
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
  """Return the squared distances of codes weighted by influence, a scalar.

  The mean over codes x of `sum_u h(c, u) |x - w_u|^2`, with c the nearest unit
  of x, which batch training lowers. Euclidean whatever the map's distance.

  Args:
    som: the map.
    codes: `[n, d]`.
    sigma: width of the neighbourhood, in units of the grid.
    search_bytes: as for `best_matching_units`.

  Returns:
    In squared units of the codes; NaN if no code is usable.
  """
  units = som.units
  influence = neighborhoods.all_pairs(
    jnp.asarray(sigma, units.dtype),
    som.grid,
    som.topology,
    som.periodic,
    som.neighborhood,
  )
  prepared = searching.prepare(units, som.distance)

  # |x - w_u|^2 = |x - w_c|^2 - 2 (x - w_c)(w_u - w_c) + |w_u - w_c|^2, whose
  # sums over u are of differences between units: no large lengths cancel.
  def around(c):
    away = units - units[c][None]
    square = jnp.sum(away**2, axis=-1)
    shift = jnp.sum(influence[c][:, None] * away, axis=0)
    return shift, jnp.sum(influence[c] * square)

  shifts, spreads = jax.lax.map(around, jnp.arange(len(units)))
  weights = jnp.sum(influence, axis=1)

  def of_chunk(codes, usable):
    x = searching.directions(codes, som.distance)
    index = searching.nearest(x, usable, prepared, som.distance)[0]
    away = codes - units[index]
    own = weights[index] * jnp.sum(away**2, axis=-1)
    cross = jnp.sum(away * shifts[index], axis=-1)
    return jnp.where(usable, own - 2 * cross + spreads[index], jnp.nan)

  return jnp.nanmean(_over_chunks(of_chunk, som, codes, search_bytes))


@functools.partial(jax.jit, static_argnames='reduce')
def u_matrix(som: maps.Map, *, reduce: str = 'mean') -> jax.Array:
  """Return euclidean distances between each unit's code and its neighbours'.

  Ultsch, Siemon (1990). MiniSom's `distance_map(scaling=reduce)` is this
  divided by its largest value.

  Args:
    som: the map.
    reduce: 'mean' or 'sum', over the neighbours.

  Returns:
    `[rows, cols]`, in units of codes; 0 for a unit without neighbours.
  """
  if reduce not in ('mean', 'sum'):
    raise ValueError(f"reduce must be 'mean' or 'sum', got {reduce!r}")
  maps.check(som)
  table = grids.neighbors(som.grid, som.topology, som.periodic)
  exists = jnp.asarray(table >= 0)
  units = som.units
  # One neighbour of each unit at a time, since an array of all neighbours'
  # codes is large.
  away = jax.lax.map(
    lambda column: searching.measure(units, units[column], 'euclidean'),
    jnp.asarray(table.T),
  ).T
  total = jnp.sum(jnp.where(exists, away, 0), axis=1)
  if reduce == 'mean':
    total = total / jnp.maximum(exists.sum(axis=1), 1)
  return total.reshape(som.grid)


@jax.jit
def hits(som: maps.Map, codes: jax.Array) -> jax.Array:
  """Return how many codes each unit is nearest to, integers `[rows, cols]`."""
  return label_counts(som, codes, jnp.zeros(len(codes), int), 1)[..., 0]


@functools.partial(jax.jit, static_argnames='num_classes')
def label_counts(
  som: maps.Map, codes: jax.Array, labels: jax.Array, num_classes: int
) -> jax.Array:
  """Return how many codes of each class each unit is nearest to.

  Args:
    som: the map.
    codes: `[n, d]`.
    labels: classes of the codes, integers `[n]`. Codes with labels outside of
      0 .. num_classes - 1 do not count.
    num_classes: number of classes.

  Returns:
    Integers `[rows, cols, num_classes]`.
  """
  labels = jnp.asarray(labels)
  if not jnp.issubdtype(labels.dtype, jnp.integer):
    raise ValueError(f'labels must be integers, got dtype {labels.dtype}')
  if labels.shape != (len(codes),):
    raise ValueError(
      f'labels must be [{len(codes)}], one for each code, got shape '
      f'{labels.shape}'
    )
  if not isinstance(num_classes, int | np.integer) or num_classes < 1:
    raise ValueError(
      f'num_classes must be a positive integer, got {num_classes!r}'
    )
  unit = flat(som, best_matching_units(som, codes))
  known = (unit >= 0) & (labels >= 0) & (labels < num_classes)
  size = som.units.shape[0] * num_classes
  cell = jnp.where(known, unit * num_classes + labels, size)
  return jnp.bincount(cell, length=size + 1)[:-1].reshape(*som.grid, -1)


@functools.partial(jax.jit, static_argnames='num_classes')
def label_map(
  som: maps.Map, codes: jax.Array, labels: jax.Array, num_classes: int
) -> jax.Array:
  """Return the commonest class of each unit's codes, integers `[rows, cols]`.

  The lowest of equally common classes; -1 for a unit without codes.
  """
  counts = label_counts(som, codes, labels, num_classes)
  return jnp.where(counts.sum(axis=-1) > 0, counts.argmax(axis=-1), -1)


def component_planes(som: maps.Map) -> jax.Array:
  """Return each entry of the units' codes as a map, `[d, rows, cols]`."""
  return jnp.moveaxis(som.codebook, -1, 0)


def _over_chunks(fn, som, codes, search_bytes):
  """Maps `fn(codes [m, d], usable [m]) -> [m, ...]` over chunks of codes."""
  codes = maps.check_codes(som, codes)
  chunks.check_bytes(search_bytes)
  usable = searching.is_usable(codes, som.distance)
  num, d = codes.shape
  rows = chunks.chunk_rows(
    max(num, 1),
    som.units.shape[0],
    d,
    codes.dtype.itemsize,
    som.distance,
    search_bytes,
  )
  codes = jnp.where(usable[:, None], codes, 0)
  columns = tuple(chunks.in_chunks(v, rows) for v in (codes, usable))
  out = jax.lax.map(lambda chunk: fn(*chunk), columns)
  return out.reshape(-1, *out.shape[2:])[:num]


def _search(som, codes, search_bytes, num):
  """Returns rows and columns of the `num` nearest units, `[n, num, 2]`."""
  prepared = searching.prepare(som.units, som.distance)

  def nearest(codes, usable):
    x = searching.directions(codes, som.distance)
    index = searching.nearest(x, usable, prepared, som.distance, num).T
    units = jnp.stack(jnp.unravel_index(index, som.grid), axis=-1)
    return jnp.where(usable[:, None, None], units, -1)

  return _over_chunks(nearest, som, codes, search_bytes)
