"""Problems for boundary searches, as `boundary.nearest_point` makes them."""

import dataclasses

import jax.numpy as jnp

from dmm_jax.boundary import network
from dmm_jax.boundary import problem


def create(
  logits_fn,
  x,
  label,
  *,
  norm=2,
  low=-jnp.inf,
  high=jnp.inf,
  project=None,
  targets=None,
  groups=None,
):
  """One input's problem; `targets` [t] in place of the likely ones."""
  x = jnp.asarray(x)
  created = problem.create(
    network.trace(logits_fn, x),
    x,
    label,
    norm=norm,
    low=jnp.broadcast_to(jnp.asarray(low, x.dtype), x.shape),
    high=jnp.broadcast_to(jnp.asarray(high, x.dtype), x.shape),
    project=project,
    groups=groups,
  )
  if targets is not None:
    created = dataclasses.replace(created, targets=targets)
  return created
