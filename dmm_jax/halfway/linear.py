"""How deep linear networks learn: products of matrices, updates of low rank.

After "Redundancy in Deep Linear Networks" (BenShmuel 2022,
https://arxiv.org/abs/2206.04490) and Arora, Cohen, Hazan (2018),
https://arxiv.org/abs/1802.06509.
"""

import functools
import operator

import jax
import jax.numpy as jnp


def product_of(weights: list[jax.Array]) -> jax.Array:
  """Returns the one matrix `[d, k]` of layers `[d, w], ..., [v, k]`.

  Rows act: an input x becomes `x @ weights[0] @ ... @ weights[-1]`.
  """
  return functools.reduce(operator.matmul, weights)


def product_change(weights: list[jax.Array], slope: jax.Array) -> jax.Array:
  """Returns how the product moves, per unit of learning rate, to first order.

  `-sum_j A_j A_j^T G B_j^T B_j`, with A_j the product of the layers before
  layer j, and B_j that of those after it: what one layer that is to match the
  deep network has to do instead of `-G`. One gradient step of rate h on all
  layers moves the product by h times this, but for terms of order h^2.

  Args:
    weights: layers, as for `product_of`.
    slope: of the loss with respect to the product `[d, k]`.
  """
  total = jnp.zeros_like(slope)
  for j in range(len(weights)):
    change = slope
    if j:
      before = product_of(weights[:j])
      change = before @ (before.T @ change)
    if j + 1 < len(weights):
      after = product_of(weights[j + 1 :])
      change = (change @ after.T) @ after
    total = total - change
  return total


def num_directions(matrix: jax.Array, share: float = 0.9) -> jax.Array:
  """Returns how many singular directions hold a share of a matrix.

  The least number whose squared singular values sum to `share` of all: 1 for
  one of rank one, 0 for zeros.
  """
  squares = jnp.linalg.svd(matrix, compute_uv=False) ** 2
  total = jnp.cumsum(squares)
  return jnp.where(
    total[-1] > 0, jnp.sum(total < share * total[-1]) + 1, 0
  ).astype(jnp.int32)
