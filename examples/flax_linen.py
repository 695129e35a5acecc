"""A Flax Linen module and its variables.

python -m experiments.boundary_distances --network=examples.flax_linen:network
"""

from flax import linen as nn
import jax
import jax.numpy as jnp

from dmm_jax import interop


class Network(nn.Module):
  """Of a batch of images."""

  @nn.compact
  def __call__(self, x, train):
    x = nn.relu(nn.Conv(16, (3, 3))(x))
    x = nn.BatchNorm(use_running_average=not train)(x)
    return nn.Dense(10)(x.reshape(len(x), -1))


def network():
  module = Network()
  # Or what your checkpoint holds.
  variables = module.init(jax.random.key(0), jnp.zeros((1, 8, 8, 1)), False)
  return interop.from_flax(module, variables)
