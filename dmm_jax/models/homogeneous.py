"""Networks without biases, as lists of weights `[outputs, inputs]`.

A factor of all weights of a layer is one of the logits: it moves no boundary.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp


def draw(key: jax.Array, sizes: Sequence[int]) -> list[jax.Array]:
  """Returns weights that are uniform, of standard deviation 1 / sqrt(3 n).

  Args:
    key: of the draw.
    sizes: of the input, the hidden layers and the output; n is the one before.
  """
  keys = jax.random.split(key, len(sizes) - 1)
  return [
    jax.random.uniform(k, (m, n), minval=-(n**-0.5), maxval=n**-0.5)
    for k, n, m in zip(keys, sizes[:-1], sizes[1:], strict=True)
  ]


def logits(weights: Sequence[jax.Array], x: jax.Array) -> jax.Array:
  """Returns the logits of an input `[n]`, with ReLUs between the layers.

  Of a network with one output these are that and 0.
  """
  for layer in weights[:-1]:
    x = jax.nn.relu(layer @ x)
  out = weights[-1] @ x
  return jnp.append(out, 0.0) if len(out) == 1 else out


def forward(
  params: Any, stats: Any, x: jax.Array, key: jax.Array, train: bool
) -> tuple[tuple[jax.Array, dict], Any]:
  """Returns `((logits, no codes), stats)`, as `train.fit` wants it."""
  del key, train
  return (logits(params, x), {}), stats
