"""Codes from what is not a map: do conclusions hold with these too?"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from sklearn import cluster

from dmm_jax import som


def kmeans(seed: int, codes: np.ndarray, num: int, **options: Any) -> som.Map:
  """Returns k-means clusters as a map of one row, in no order.

  What needs no grid may be asked of it: units, quantization error, NMI.

  Args:
    seed: of the initial centres.
    codes: `[n, d]`; rows that are not finite are left out.
    num: of clusters; at most as many as there are codes.
    **options: of `sklearn.cluster.KMeans`.
  """
  codes = codes[np.all(np.isfinite(codes), axis=1)]
  found = cluster.KMeans(
    min(num, len(codes)), random_state=seed, **({'n_init': 3} | options)
  ).fit(codes)
  return som.Map(jnp.asarray(found.cluster_centers_)[None])


def random_bits(
  key: jax.Array, codes: jax.Array | np.ndarray, num_bits: int
) -> np.ndarray:
  """Returns on which side of random hyperplanes codes lie, as one number.

  Locality-sensitive hashing by cosine (Charikar 2002): hyperplanes through the
  mean of the codes, normals uniform. Of 2^num_bits numbers, which do not
  depend on how codes are distributed beyond that.

  Args:
    key: of the normals.
    codes: `[n, d]`.
    num_bits: at most 30; log2 of the units it is held against.

  Returns:
    Integers `[n]`; -1 for codes that are not finite.
  """
  if not 0 < num_bits <= 30:
    raise ValueError(f'num_bits: 1 to 30, not {num_bits}')
  usable = jnp.all(jnp.isfinite(codes), axis=1)
  codes = jnp.where(usable[:, None], codes, 0)
  mean = codes.sum(axis=0, keepdims=True) / jnp.maximum(usable.sum(), 1)
  normals = jax.random.normal(key, (codes.shape[1], num_bits), codes.dtype)
  bits = (codes - mean) @ normals > 0
  number = jnp.sum(bits * 2 ** jnp.arange(num_bits)[None], axis=1)
  return np.asarray(jnp.where(usable, number, -1))
