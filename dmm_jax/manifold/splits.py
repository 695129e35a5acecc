"""A vector's part in a subspace, and what a random one would have of it."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy import stats

from dmm_jax import norms
from dmm_jax.manifold.bases import Decode


def on(vector: jax.Array, basis: jax.Array) -> jax.Array:
  """Projects a vector, any shape, on the span of a basis `[k, d]`.

  For `boundary.measure(project=on, project_rows=(bases,))`.
  """
  return ((basis @ vector.ravel()) @ basis).reshape(vector.shape)


def off(vector: jax.Array, basis: jax.Array) -> jax.Array:
  """Projects a vector on the orthogonal complement of a basis's span."""
  return vector - on(vector, basis)


def split(vector: jax.Array, basis: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Returns `(on, off)`: a vector's parts in the span and orthogonal to it."""
  part = on(vector, basis)
  return part, vector - part


def tangent_projection(
  decode: Decode,
  z: jax.Array,
  *,
  damping: float = 1e-6,
  max_steps: int = 200,
  tol: float = 1e-6,
) -> Callable[[jax.Array], jax.Array]:
  """Returns `v -> on`: the projection on the tangent space, without a basis.

  `J (J^T J + mu I)^-1 J^T v` by conjugate gradients on products with J and its
  transpose: for where a basis `[k, d]` does not fit in memory.

  Args:
    decode, z: as for `tangent_basis`.
    damping: mu, as a share of the mean squared length of J's columns, estimated
      from one random product. What is shrunk is the part along directions of
      singular values near sqrt(mu): it keeps `s^2 / (s^2 + mu)` of its length.
    max_steps: of conjugate gradients, each two products.
    tol: their relative residual.
  """
  _, push = jax.linearize(decode, z)
  transpose = jax.linear_transpose(push, z)
  pull = lambda v: transpose(v)[0]
  probe = jax.random.rademacher(jax.random.key(0), z.shape, z.dtype)
  mu = damping * jnp.sum(push(probe) ** 2) / z.size

  def project(v):
    normal = lambda w: pull(push(w)) + mu * w
    inner = jax.scipy.sparse.linalg.cg(
      normal, pull(v), tol=tol, maxiter=max_steps
    )[0]
    return push(inner)

  return project


def tangent_fraction(vector: jax.Array, basis: jax.Array) -> jax.Array:
  """Returns the length of the part in the span over the vector's: a cosine.

  In [0, 1], that of the angle between vector and subspace; NaN for a vector of
  zeros.
  """
  size = norms.norm(vector, 2)
  unit = vector / jnp.where(size > 0, size, jnp.nan)
  return jnp.minimum(norms.norm(on(unit, basis), 2), 1.0)


def shares(vectors: np.ndarray, bases: np.ndarray) -> np.ndarray:
  """Returns shares of squared length `[n]` of vectors within subspaces.

  The squares of `tangent_fraction`, of rows: `vectors` are `[n, ...]`, `bases`
  `[n, k, d]`. NaN for a vector of zeros.
  """
  flat = vectors.reshape(len(vectors), -1)
  inside = np.einsum('nkd,nd->nk', bases, flat)
  with np.errstate(invalid='ignore'):
    return (inside**2).sum(1) / (flat**2).sum(1)


def fraction_null(k: int, n: int) -> Any:
  """Returns the law of the *squared* tangent fraction of a random k-subspace.

  Beta(k/2, (n-k)/2), exactly, for any fixed vector in R^n; mean k/n. A frozen
  distribution of scipy.
  """
  if not 0 < k < n:
    raise ValueError(f'a proper subspace of R^{n} has no dimension {k}')
  return stats.beta(k / 2, (n - k) / 2)


def random_ratio(k: int, n: int) -> float:
  """Returns the median of d_T / d of a flat boundary over random k-subspaces T.

  `1 / sqrt(median of Beta(k/2, (n-k)/2))`, near sqrt(n/k); d is the distance
  without restriction.
  """
  return float(fraction_null(k, n).median() ** -0.5)


def enrichment(
  on_distance: np.ndarray | float,
  off_distance: np.ndarray | float,
  k: int,
  n: int,
) -> np.ndarray | float:
  """Returns `(off / on)^2 (n - k) / k`: A, from two distances of one example.

  How much more of the normal's squared length a tangent dimension has than one
  off the manifold, where the boundary is flat; 1 on average for a random
  subspace. Broadcasts. 0 where nothing was found on the manifold, infinite
  where nothing off it, NaN where neither.
  """
  with np.errstate(divide='ignore', invalid='ignore'):
    ratio = np.divide(off_distance, on_distance)
  return ratio**2 * (n - k) / k


def fraction_enrichment(
  fraction: np.ndarray | float, k: int, n: int
) -> np.ndarray | float:
  """Returns A from a tangent fraction f of a normal: `f^2/k (n-k)/(1-f^2)`."""
  square = np.square(fraction)
  with np.errstate(divide='ignore'):
    return square / k * (n - k) / (1 - square)


def implied_fraction(
  on_distance: np.ndarray | float, off_distance: np.ndarray | float
) -> np.ndarray | float:
  """Returns the tangent fraction of the normal that two distances imply.

  `off / sqrt(on^2 + off^2)`: exact where the boundary is flat. NaN where both
  are infinite.
  """
  with np.errstate(divide='ignore', invalid='ignore'):
    along, across = np.power(on_distance, -2.0), np.power(off_distance, -2.0)
    return np.sqrt(along / (along + across))


def unconstrained(
  on_distance: np.ndarray | float, off_distance: np.ndarray | float
) -> np.ndarray | float:
  """Returns the distance that two orthogonal ones make, for a flat boundary.

  `1 / d^2 = 1 / d_on^2 + 1 / d_off^2`, in l2 without a box. A diagnostic: where
  the measured distance differs, the boundary is curved at this scale.
  """
  with np.errstate(divide='ignore'):
    inverse = np.power(on_distance, -2.0) + np.power(off_distance, -2.0)
    return np.power(inverse, -0.5)
