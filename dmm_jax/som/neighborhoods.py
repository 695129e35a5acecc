"""Influence of units on each other, by their distance on the grid.

With d the distance and s the width sigma:
  gaussian     exp(-d^2 / 2 s^2)
  mexican_hat  (1 - d^2 / s^2) exp(-d^2 / 2 s^2), negative beyond s
  bubble       1 within s, else 0
  triangle     1 - d / s within s, else 0
On rectangular grids bubble and triangle are products over the two axes, a
square and a pyramid, as in MiniSom; on hexagonal grids they are functions of d.
The influence of a unit on itself is 1.
"""

import jax
import jax.numpy as jnp

from dmm_jax.som import grids

NEIGHBORHOODS = ('gaussian', 'bubble', 'triangle', 'mexican_hat')


def check(neighborhood: str) -> None:
  """Raise ValueError for an unknown neighbourhood."""
  if neighborhood not in NEIGHBORHOODS:
    raise ValueError(
      f'neighborhood must be one of {NEIGHBORHOODS}, got {neighborhood!r}'
    )


def weigh(square: jax.Array, sigma: jax.Array, neighborhood: str) -> jax.Array:
  """Return the influence at squared distances, any shape."""
  ratio = square / sigma**2
  if neighborhood == 'gaussian':
    return jnp.exp(-ratio / 2)
  if neighborhood == 'mexican_hat':
    return (1 - ratio) * jnp.exp(-ratio / 2)
  if neighborhood == 'bubble':
    return (ratio < 1).astype(ratio.dtype)
  return jnp.maximum(1 - jnp.sqrt(ratio), 0)


def factors(
  sigma: jax.Array, grid: tuple[int, int], periodic: bool, neighborhood: str
) -> list[tuple[jax.Array, jax.Array]]:
  """Return the influence on a rectangular grid as a sum of products.

  `h[(r, c), (r', c')] = sum over pairs (a, b) of a[r, r'] b[c, c']`.

  Returns:
    Pairs of `[rows, rows]` and `[cols, cols]`: one pair, or two for the mexican
    hat.
  """
  squares = [
    jnp.asarray(grids.axis_offsets(n, periodic) ** 2, sigma.dtype) for n in grid
  ]
  if neighborhood != 'mexican_hat':
    down, right = (weigh(s, sigma, neighborhood) for s in squares)
    return [(down, right)]
  (bell, other) = (weigh(s, sigma, 'gaussian') for s in squares)
  dip = [s / sigma**2 for s in squares]
  return [((1 - dip[0]) * bell, other), (-bell, dip[1] * other)]


def smooth(
  values: jax.Array,
  sigma: jax.Array,
  topology: str,
  periodic: bool,
  neighborhood: str,
) -> jax.Array:
  """Return each unit's sum of all units' values, weighted by influence.

  Args:
    values: `[rows, cols, m]`.
    sigma: the width, in units of the grid.
    topology, periodic, neighborhood: options of the map.

  Returns:
    `[rows, cols, m]`.
  """
  rows, cols, _ = values.shape
  sum_by = lambda spec, *operands: jnp.einsum(
    spec, *operands, precision=jax.lax.Precision.HIGHEST
  )
  if topology == 'rectangular':
    parts = [
      sum_by('cd,rdm->rcm', b, sum_by('rs,sdm->rdm', a, values))
      for a, b in factors(sigma, (rows, cols), periodic, neighborhood)
    ]
    return jnp.asarray(sum(parts))
  influence = all_pairs(sigma, (rows, cols), topology, periodic, neighborhood)
  flat = values.reshape(rows * cols, -1)
  return sum_by('uv,vm->um', influence, flat).reshape(values.shape)


def all_pairs(
  sigma: jax.Array,
  grid: tuple[int, int],
  topology: str,
  periodic: bool,
  neighborhood: str,
) -> jax.Array:
  """Return the influence of all pairs of units, `[units, units]`."""
  if topology == 'rectangular':
    pairs = factors(sigma, grid, periodic, neighborhood)
    return jnp.asarray(sum(jnp.kron(a, b) for a, b in pairs))
  square = grids.all_squared_distances(grid, topology, periodic)
  return weigh(square.astype(sigma.dtype), sigma, neighborhood)


def around(
  units: jax.Array,
  sigma: jax.Array,
  grid: tuple[int, int],
  topology: str,
  periodic: bool,
  neighborhood: str,
) -> jax.Array:
  """Return the influence of one unit `[2]` on all, `[rows, cols]`."""
  if topology == 'rectangular':
    pairs = factors(sigma, grid, periodic, neighborhood)
    parts = (a[units[0]][:, None] * b[units[1]][None] for a, b in pairs)
    return jnp.asarray(sum(parts))
  all_units = jnp.moveaxis(jnp.indices(grid), 0, -1)
  square = grids.squared_distances(
    all_units, units[None, None], grid, topology, periodic
  )
  return weigh(square.astype(sigma.dtype), sigma, neighborhood)
