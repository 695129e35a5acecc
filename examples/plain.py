"""A function of JAX and its parameters.

python -m experiments.boundary_distances --network=examples.plain:network
"""

import jax


def logits_fn(params, x):
  hidden = jax.nn.relu(x.reshape(-1) @ params['hidden'])
  return hidden @ params['logits']


def network():
  keys = jax.random.split(jax.random.key(0))
  params = {
    'hidden': jax.random.normal(keys[0], (64, 100)) / 8,
    'logits': jax.random.normal(keys[1], (100, 10)) / 10,
  }
  return logits_fn, params
