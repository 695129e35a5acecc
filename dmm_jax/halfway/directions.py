"""Adversarial directions, and what they have in common between networks."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dmm_jax import margins
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
  return _unit(jax.grad(loss)(x))


def between_means(
  logits_fn: Callable, x: jax.Array, label: jax.Array, means: jax.Array
) -> jax.Array:
  """Returns the unit direction from a class's mean to the runner-up's.

  The part of an adversarial direction that knows nothing but the two means.

  Args:
    logits_fn: one input -> logits `[k]`; names the runner-up at `x`.
    x, label: an example.
    means: of the classes `[k, ...]`.
  """
  other = margins.runner_up(logits_fn(x), label)
  return _unit(means[other] - means[label])


def cosines(directions: np.ndarray) -> np.ndarray:
  """Returns mean cosines `[m, m]` of unit directions `[m, n, ...]`.

  Over the n examples; where there is no direction, zeros, the cosine is 0.
  """
  flat = np.asarray(directions).reshape(*directions.shape[:2], -1)
  return np.einsum('and,bnd->ab', flat, flat, optimize=True) / flat.shape[1]


def _unit(vector):
  size = norms.norm(vector, 2)
  usable = jnp.isfinite(size) & (size > 0)
  return jnp.where(usable, vector / jnp.where(usable, size, 1.0), 0.0)
