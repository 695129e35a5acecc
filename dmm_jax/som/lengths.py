"""Lengths of differences, and a centre to take them from."""

import jax
import jax.numpy as jnp


def middle(units: jax.Array) -> jax.Array:
  """Return the median of up to 15 evenly spaced rows `[k, d]`, `[d]`.

  A centre that a few outliers do not move.
  """
  some = units[:: -(-len(units) // 15)]
  # The least value with a rank above the half; CPUs sort much more slowly.
  rank = jnp.sum(some[None] <= some[:, None], axis=1)
  return jnp.min(jnp.where(rank > len(some) // 2, some, jnp.inf), axis=0)


def length(x: jax.Array, w: jax.Array | float = 0.0) -> jax.Array:
  """Return the length of `x - w` `[..., d]`, also where squares overflow.

  Differences are scaled only where some square leaves the range of numbers,
  since that takes longer.
  """
  plain = jnp.sqrt(jnp.sum((x - w) ** 2, axis=-1))
  limits = jnp.finfo(plain.dtype)
  low, high = (limits.tiny / limits.eps) ** 0.5, limits.max**0.5

  def scaled():
    away = jnp.abs(x - w)
    largest = away.max(axis=-1, keepdims=True)
    safe = jnp.where((largest > 0) & jnp.isfinite(largest), largest, 1)
    total = jnp.sum((away / safe) ** 2, axis=-1)
    return safe[..., 0] * jnp.sqrt(total)

  in_range = jnp.all((plain > low) & (plain < high))
  return jax.lax.cond(in_range, lambda: plain, scaled)
