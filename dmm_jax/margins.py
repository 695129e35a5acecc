"""Margins: by how much a class leads the others."""

import jax
import jax.numpy as jnp


def runner_up(logits: jax.Array, label: jax.Array) -> jax.Array:
  """Returns the class, other than `label`, with the largest logit [k >= 2]."""
  return jnp.argmax(_without(logits, label)).astype(jnp.int32)


def margin(logits: jax.Array, label: jax.Array) -> jax.Array:
  """Returns the logit of `label` minus the largest other one.

  Positive inside the region of `label`, 0 on the decision boundary, NaN where
  a logit is NaN. In the units of the logits.
  """
  return logits[label] - jnp.max(_without(logits, label))


def lead(logits: jax.Array, label: jax.Array) -> jax.Array:
  """Returns the margin plus what rounding may do to it.

  Negative only where another class leads by more than 8 units of rounding of
  the largest logit, so that the class differs at any batch size and under any
  compilation: what boundary searches take for the far side.
  """
  rounding = 8 * jnp.finfo(logits.dtype).eps * jnp.max(jnp.abs(logits))
  return margin(logits, label) + rounding


def _without(logits, label):
  return jnp.where(jnp.arange(logits.size) == label, -jnp.inf, logits)
