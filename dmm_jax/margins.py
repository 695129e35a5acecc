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


def _without(logits, label):
  return jnp.where(jnp.arange(logits.size) == label, -jnp.inf, logits)
