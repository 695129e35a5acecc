"""An Equinox model.

python -m experiments.boundary_distances --network=examples.equinox_mlp:network
"""

import equinox as eqx
import jax
import jax.numpy as jnp

from dmm_jax import interop


class Network(eqx.Module):
  """Of one image."""

  mlp: eqx.nn.MLP

  def __call__(self, x):
    return self.mlp(jnp.ravel(x))


def network():
  return interop.from_equinox(
    Network(eqx.nn.MLP(64, 10, 100, 1, key=jax.random.key(0)))
  )
