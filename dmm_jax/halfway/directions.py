"""Adversarial directions, and what they have in common between networks."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dmm_jax import norms


def loss_direction(
  logits_fn: Callable, x: jax.Array, label: jax.Array
) -> jax.Array:
  """Returns the unit l2 gradient of the cross-entropy at `x`.

  Returns:
    An array as `x`: zeros where the gradient vanishes or is not finite.
  """
  loss = lambda v: optax.losses.softmax_cross_entropy_with_integer_labels(
    logits_fn(v), label
  )
  slope = jax.grad(loss)(x)
  size = norms.norm(slope, 2)
  usable = jnp.isfinite(size) & (size > 0)
  return jnp.where(usable, slope / jnp.where(usable, size, 1.0), 0.0)


def cosines(directions: np.ndarray) -> np.ndarray:
  """Returns mean cosines `[m, m]` of unit directions `[m, n, ...]`.

  Over the n examples; where there is no direction, zeros, the cosine is 0.
  """
  flat = np.asarray(directions).reshape(*directions.shape[:2], -1)
  return np.einsum('and,bnd->ab', flat, flat, optimize=True) / flat.shape[1]
