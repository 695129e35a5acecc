"""Losses of one example: `(outputs of a network, target) -> scalar`.

A classifier's outputs are `(logits [k], codes)`, an auto-encoder's
`(reconstruction, latent)`.
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from dmm_jax import margins


def cross_entropy(outputs: Any, target: jax.Array) -> jax.Array:
  """Returns the cross entropy in nats, of a label or of probabilities `[k]`."""
  logits = outputs[0]
  return optax.softmax_cross_entropy(logits, _probabilities(logits, target))


def squared(outputs: Any, target: jax.Array) -> jax.Array:
  """Returns half the squared distance of the logits from the target.

  The target is a label, meaning its one-hot vector, or any vector `[k]`.
  """
  logits = outputs[0]
  return jnp.sum((logits - _probabilities(logits, target)) ** 2) / 2


def hinge(outputs: Any, target: jax.Array) -> jax.Array:
  """Returns how much the margin of a label falls short of 1.

  Source: Crammer and Singer (2001),
  https://www.jmlr.org/papers/v2/crammer01a.html.
  """
  return jnp.maximum(1 - margins.margin(outputs[0], target), 0.0)


def reconstruction(outputs: Any, target: jax.Array) -> jax.Array:
  """Returns the mean squared difference from the target, over pixels."""
  return jnp.mean((outputs[0] - target) ** 2)


def evidence(outputs: Any, target: jax.Array) -> jax.Array:
  """Returns a VAE's negative evidence lower bound, in nats, up to a constant.

  Pixels are Gaussian with a variance of 0.01 (0.1 of the grey scale).

  Source: Kingma and Welling (2014), https://arxiv.org/abs/1312.6114.
  """
  image, (mean, log_variance) = outputs
  fit = jnp.sum((image - target) ** 2) / (2 * 0.01)
  code = jnp.exp(log_variance) + mean**2 - 1 - log_variance
  return fit + jnp.sum(code) / 2


LOSSES = {
  'cross_entropy': cross_entropy,
  'squared': squared,
  'hinge': hinge,
  'reconstruction': reconstruction,
  'evidence': evidence,
}


def _probabilities(logits, target):
  if target.ndim:
    return target
  return jax.nn.one_hot(target, logits.size, dtype=logits.dtype)
