"""The nearest unit of each code: by matrix products, certified or recomputed.

Squared distances from a matrix product cancel where lengths differ much, as
with sentinels or outliers. Bounds on their rounding errors (`candidates`) show
for most codes that only one unit can be nearest; for the others distances are
taken from differences. The result is nearest up to the rounding of `measure`.

Under cosine and correlation the search is euclidean among directions: vectors
(less their mean under correlation) divided by their length.

A code without a nearest unit is `unusable`: one that holds NaN or infinity, a
zero code under cosine, a constant one under correlation.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from dmm_jax.som import candidates
from dmm_jax.som import lengths

DISTANCES = ('euclidean', 'cosine', 'correlation', 'l1', 'linf')
# Distances that no matrix product gives.
DIRECT = ('l1', 'linf')
# Distances between directions.
ANGULAR = ('cosine', 'correlation')


def check(distance: str) -> None:
  """Raise ValueError for an unknown distance."""
  if distance not in DISTANCES:
    raise ValueError(f'distance must be one of {DISTANCES}, got {distance!r}')


def is_usable(codes: jax.Array, distance: str) -> jax.Array:
  """Return whether codes `[..., d]` have a nearest unit, booleans `[...]`."""
  usable = jnp.all(jnp.isfinite(codes), axis=-1)
  if distance == 'cosine':
    return usable & jnp.any(codes != 0, axis=-1)
  if distance == 'correlation':
    return usable & (codes.max(axis=-1) > codes.min(axis=-1))
  return usable


def measure(x: jax.Array, w: jax.Array, distance: str) -> jax.Array:
  """Return the distance between codes and units, from differences.

  The relative error is about d eps, with eps the machine precision; under
  cosine and correlation rounding of directions adds about eps sqrt(distance).

  Args:
    x, w: codes and units, `[..., d]`; they broadcast.
    distance: one of `DISTANCES`.

  Returns:
    `[...]`. Under cosine a zero vector has distance 1 from everything, as has a
    constant one under correlation.
  """
  return separation(directions(x, distance), directions(w, distance), distance)


def directions(vectors: jax.Array, distance: str) -> jax.Array:
  """Return vectors `[..., d]` of length 1 under cosine and correlation.

  Zero vectors stay zero. Under other distances vectors are returned unchanged.
  """
  if distance not in ANGULAR:
    return vectors
  if distance == 'correlation':
    # Less their first entry, so that a large offset does not spoil the mean.
    vectors = vectors - vectors[..., :1]
    vectors = vectors - vectors.mean(axis=-1, keepdims=True)
  size = lengths.length(vectors)[..., None]
  return vectors / jnp.where(size > 0, size, 1)


def separation(x: jax.Array, w: jax.Array, distance: str) -> jax.Array:
  """Return `measure` of codes and units, given their `directions`."""
  if distance == 'l1':
    return jnp.sum(jnp.abs(x - w), axis=-1)
  if distance == 'linf':
    return jnp.max(jnp.abs(x - w), axis=-1)
  away = lengths.length(x, w)
  if distance == 'euclidean':
    return away
  both = jnp.any(x != 0, axis=-1) & jnp.any(w != 0, axis=-1)
  return jnp.where(both, away**2 / 2, 1)


class Units(NamedTuple):
  """Units prepared for `nearest`, outside of loops over codes.

  Attributes:
    codes: the units' `directions`, `[k, d]`.
    centre: their `lengths.middle`, `[d]`.
  """

  codes: jax.Array
  centre: jax.Array


def prepare(units: jax.Array, distance: str) -> Units:
  """Return units `[k, d]` prepared for `nearest`."""
  codes = directions(units, distance)
  return Units(codes, lengths.middle(codes))


def nearest(
  codes: jax.Array,
  usable: jax.Array,
  units: Units,
  distance: str,
  num: int = 1,
) -> jax.Array:
  """Return the `num` nearest units of each code, nearest first.

  Args:
    codes: `directions` of codes, `[m, d]`, finite.
    usable: whether a code is searched for, `[m]`.
    units: from `prepare`.
    distance: one of `DISTANCES`.
    num: 1 or 2.

  Returns:
    Indices of units `[num, m]`; of equally near ones the first. The second
    nearest of a single unit is that unit.
  """
  codes, units = jax.lax.stop_gradient((codes, units))
  if distance in DIRECT:
    return _smallest(scores(codes, units, distance), num)
  centre = units.centre[None]
  scored = candidates.score(codes - centre, units.codes - centre)
  index, is_certain = candidates.only(scored)
  found = index[None]
  if num == 2:
    second, is_second = candidates.only(scored, index)
    found, is_certain = jnp.stack([index, second]), is_certain & is_second
  is_certain |= ~usable

  def among_few(rows):
    index, is_certain = candidates.few(scored.take(rows), num)
    nearby = units.codes[jnp.minimum(index, len(units.codes) - 1)]
    away = separation(codes[rows][None], nearby, distance)
    away = jnp.where(index < len(units.codes), away, jnp.inf)
    return jnp.take_along_axis(index, _smallest(away, num), 0), is_certain

  def among_all(rows):
    away = scores(codes[rows], units, distance)
    return _smallest(away, num), jnp.ones(len(rows), bool)

  # Differences take no more memory than the scores. Few rows on CPUs, where
  # most chunks have few uncertain codes and steps of a loop cost little.
  few, most = (16, 4) if jax.default_backend() == 'cpu' else (1024, 1024)
  found, is_certain = candidates.replace(among_few, found, is_certain, few)
  most = min(most, max(1, len(codes) // codes.shape[1]))
  return candidates.replace(among_all, found, is_certain, most)[0]


def scores(codes: jax.Array, units: Units, distance: str) -> jax.Array:
  """Return the distances of all codes from all units, from differences.

  Args:
    codes: `directions` of codes, `[m, d]`.
    units: from `prepare`.
    distance: one of `DISTANCES`.

  Returns:
    `[k, m]`, slow beside the products of `nearest`.
  """
  return separation(codes[None], units.codes[:, None], distance)


def _smallest(values, num):
  """Returns where each column `[k, m]` is least, and second: `[num, m]`."""
  first, _ = candidates.smallest(values)
  if num == 1:
    return first[None]
  second, _ = candidates.smallest(candidates.without(first, values))
  return jnp.stack([first, second])


smallest = candidates.smallest  # For `codes.shifts`.
