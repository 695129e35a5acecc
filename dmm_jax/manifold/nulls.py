"""Subspaces that do not know an image's own tangents: what those are held to.

Each is `[n, k, d]`, an orthonormal basis of k of the d dimensions of each of n
inputs, as the tangent spaces that it stands beside.
"""

import jax
import numpy as np

from dmm_jax import parallel
from dmm_jax.manifold.bases import frequency_basis
from dmm_jax.manifold.bases import principal_basis
from dmm_jax.manifold.bases import random_basis


def common_nulls(
  key: jax.Array, xs: np.ndarray, known: np.ndarray, k: int
) -> dict[str, np.ndarray]:
  """Returns subspaces that need no tangent space, by name.

  Args:
    key: of the random ones.
    xs: images `[n, h, w, c]`, that they are for.
    known: images that the data's directions are of `[m, h, w, c]`.
    k: dimensions.

  Returns:
    random: uniformly random, another one for each image. frequency: cosines of
    lowest frequency, smooth as images are. principal: principal directions of
    `known`.
  """
  num, size = len(xs), xs[0].size
  draw = lambda i: random_basis(jax.random.fold_in(key, i), k, size)
  every = lambda basis: np.broadcast_to(basis, (num, k, size))
  return {
    'random': parallel.map_examples(draw, (np.arange(num),)),
    'frequency': every(frequency_basis(xs.shape[1:], k)),
    'principal': every(principal_basis(known, k)),
  }


def own_nulls(key: jax.Array, bases: np.ndarray) -> dict[str, np.ndarray]:
  """Returns subspaces made of tangent spaces `[n, k, d]`, by name.

  Args:
    key: of the permutation.
    bases: of the tangent spaces.

  Returns:
    other: the tangent space at another input. permuted: the input's own with
    the entries of inputs permuted, all in one order.
  """
  entries = np.asarray(jax.random.permutation(key, bases.shape[-1]))
  return {'other': np.roll(bases, 1, 0), 'permuted': bases[..., entries]}
