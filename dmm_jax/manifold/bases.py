"""Orthonormal bases of subspaces of input space.

Tangent spaces of the data, and those that they are held against.
"""

from collections.abc import Callable
import math

import jax
import jax.numpy as jnp
import numpy as np
from scipy import fft

from dmm_jax import decompositions

Decode = Callable[[jax.Array], jax.Array]


def tangent_basis(
  decode: Decode, z: jax.Array, rank: int | float | None = None
) -> jax.Array:
  """Returns a basis `[k, d]` of the tangent space of a decoder's image.

  The columns of the Jacobian at `z`, by k forward derivatives at once, made
  orthonormal. Latents that move nothing of their own, to rounding, get a row of
  zeros: what rows are left span the column space either way.

  Args:
    decode: one code `[k]` -> input, any shape; k is at most d.
    z: the code, floating point.
    rank: None for the whole space, by Gram and Schmidt; an integer for that
      many leading left singular vectors; or a number below 1, for those whose
      singular value is at least this share of the largest, the others replaced
      by zeros. Shares below the root of the rounding unit (3e-4 in float32) are
      not told apart.
  """
  columns = jax.jacfwd(decode)(z).reshape(-1, z.size)
  d, k = columns.shape
  if k > d:
    raise ValueError(f'{k} latents cannot span tangents of {d} entries')
  basis = decompositions.orthonormalize(columns.T)
  if rank is None:
    return basis
  small = basis @ columns
  squares, vectors = decompositions.eigh(small @ small.T)
  rotated = vectors[:, ::-1].T @ basis
  squares = squares[::-1]
  least = max(rank if rank < 1 else 0.0, (d * jnp.finfo(z.dtype).eps) ** 0.5)
  large = (squares > 0) & (squares >= least**2 * squares[0])
  rotated = jnp.where(large[:, None], rotated, 0.0)
  return rotated if rank < 1 else rotated[: int(rank)]


def principal_basis(xs: np.ndarray, k: int) -> np.ndarray:
  """Returns the first k principal directions `[k, d]` of data `[n, ...]`."""
  # Of the covariance, in double precision: exact, and cheap for n >> d.
  flat = np.asarray(xs, np.float64).reshape(len(xs), -1)
  n, d = flat.shape
  if not 0 < k <= min(n - 1, d):
    raise ValueError(f'{n} points of {d} entries have no {k} directions')
  flat = flat - flat.mean(0)
  if n > d:
    _, vectors = np.linalg.eigh(flat.T @ flat)
    return vectors[:, ::-1][:, :k].T.astype(np.float32)
  return np.linalg.svd(flat, full_matrices=False)[2][:k].astype(np.float32)


def principal_residuals(
  xs: np.ndarray, known: np.ndarray, k: int
) -> np.ndarray:
  """Returns what k principal directions of `known` leave of `xs`, `[n, d]`.

  Both about the mean of `known`: the errors of PCA, which an auto-encoder with
  as many latents should not exceed.
  """
  flat = xs.reshape(len(xs), -1)
  rest = flat - known.reshape(len(known), -1).mean(0)
  basis = principal_basis(known, k)
  return rest - rest @ basis.T @ basis


def neighbor_basis(xs: jax.Array, x: jax.Array, k: int, num: int) -> jax.Array:
  """Returns the first k principal directions of the points nearest to `x`.

  Local PCA: of the `num` nearest rows of `xs` in l2, `x` itself and up to `num`
  copies of it left out, about their mean.

  Args:
    xs: data `[n, ...]`.
    x: one input.
    k: directions, fewer than `num`.
    num: neighbours.
  """
  if not 0 < k < num < len(xs):
    raise ValueError(f'{num} of {len(xs)} neighbours have no {k} directions')
  flat, point = xs.reshape(len(xs), -1), x.ravel()
  # Twice as many by one product, which rounds; of these the nearest, exactly.
  centre = jnp.mean(flat, axis=0)
  moved = flat - centre[None]
  rough = jnp.sum(moved**2, axis=1) - 2 * moved @ (point - centre)
  near = flat[jax.lax.top_k(-rough, min(2 * num, len(xs)))[1]]
  gaps = jnp.sum((near - point[None]) ** 2, axis=1)
  gaps = jnp.where(gaps > 0, gaps, jnp.inf)
  near = near[jax.lax.top_k(-gaps, num)[1]]
  near = near - jnp.mean(near, axis=0, keepdims=True)
  vectors = decompositions.eigh(near @ near.T)[1]
  return decompositions.orthonormalize(vectors[:, ::-1][:, :k].T @ near)


def neighbor_error(xs: jax.Array, x: jax.Array, k: int, num: int) -> jax.Array:
  """Returns the mean squared distance of `x` from its neighbours' plane.

  That of their first k principal directions, through their mean; per entry of
  an input. Arguments as for `neighbor_basis`; `x` is none of `xs`.
  """
  basis = neighbor_basis(xs, x, k, num)
  gaps = jnp.sum((xs - x[None]) ** 2, axis=range(1, xs.ndim))
  centre = jnp.mean(xs[jax.lax.top_k(-gaps, num)[1]], axis=0)
  rest = (x - centre).ravel()
  return jnp.mean((rest - (basis @ rest) @ basis) ** 2)


def random_basis(key: jax.Array, k: int, d: int) -> jax.Array:
  """Returns a basis `[k, d]` of a uniformly random subspace (Haar)."""
  return decompositions.orthonormalize(jax.random.normal(key, (k, d)))


def frequency_basis(shape: tuple[int, ...], k: int) -> np.ndarray:
  """Returns the k cosines `[k, d]` of lowest frequency of images `[h, w, c]`.

  Of the two-dimensional cosine transform (DCT-II), in the order of
  `(u / h)^2 + (v / w)^2`; of one frequency, all channels after one another.
  """
  rows, cols, _ = shape
  if not 0 < k <= math.prod(shape):
    raise ValueError(f'images of shape {shape} have no {k} cosines')
  u, v, c = np.indices(shape).reshape(3, -1)
  order = np.lexsort((c, v, u, (u / rows) ** 2 + (v / cols) ** 2))[:k]
  waves = np.zeros((k, *shape))
  waves[np.arange(k), u[order], v[order], c[order]] = 1.0
  waves = fft.idctn(waves, axes=(1, 2), norm='ortho')
  return waves.reshape(k, -1).astype(np.float32)
