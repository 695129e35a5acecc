"""The shape of a boundary at a distance: by crossings, which also see kinks."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from dmm_jax.boundary.rays import first_crossing

Margin = Callable[[jax.Array], jax.Array]


def signed_crossing(
  margin: Margin,
  start: jax.Array,
  direction: jax.Array,
  reach: jax.Array | float,
) -> jax.Array:
  """Returns where a margin changes its sign on a line, nearest to its start.

  As `first_crossing`: regions thinner than reach / 32 can be stepped over.

  Args:
    margin: input -> number, positive within the class.
    start, direction: of the line; only the direction of the second matters.
    reach: how far it is sought.

  Returns:
    The distance: forwards from within the class; backwards, as a negative
    number, from beyond its boundary. Infinite, with that sign, where the margin
    keeps its sign as far as the reach.
  """
  inside = margin(start) >= 0
  sign = jnp.where(inside, 1.0, -1.0)
  found = first_crossing(
    lambda v: jnp.stack([margin(v), jnp.zeros(())]),
    start,
    sign * direction,
    jnp.where(inside, 0, 1),
    max_distance=reach,
  )
  return sign * found.distance


def bend(
  margin: Margin,
  point: jax.Array,
  normal: jax.Array,
  directions: jax.Array,
  offset: jax.Array | float,
  reach: jax.Array | float,
) -> jax.Array:
  """Returns the curvature of a boundary toward the class whose margin it is.

  2 h / offset^2, with h the mean height of the boundary over its tangent plane
  at an offset in each direction. Kinks of ReLUs, which show in no second
  derivative (`normals.curvature`), count. For a class inside a sphere of radius
  r: 1 / r, to a relative (offset / 2r)^2.

  Args:
    margin: of the class.
    point, normal: of the boundary, and its unit normal into the class.
    directions: `[m, ...]`, made unit tangents; in opposite pairs, of which an
      error of the normal cancels.
    offset, reach: lengths; heights beyond `reach` count as `reach`.

  Returns:
    A number in 1 / input unit.
  """

  def height(u):
    u = u - jnp.sum(u * normal) * normal
    size = jnp.linalg.norm(u.ravel())
    u = u / jnp.where(size > 0, size, 1.0)
    away = signed_crossing(margin, point + offset * u, -normal, reach)
    return -jnp.clip(away, -reach, reach)

  return 2 * jnp.mean(jax.lax.map(height, directions)) / offset**2
