"""The codebook that training starts from."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dmm_jax import decompositions
from dmm_jax.som import maps
from dmm_jax.som import searching

INITS = ('sample', 'random', 'pca')


def init(
  key: jax.Array,
  codes: jax.Array,
  *,
  grid: tuple[int, int] = (20, 20),
  init: str | jax.Array = 'sample',
  **names: Any,
) -> maps.Map:
  """Returns a map that has learned nothing yet.

  Args:
    key: of what is drawn.
    codes: `[n, d]`; only usable ones (`searching`) count.
    grid: rows and columns.
    init: 'sample', codes of the set, each at most once more than any other;
      'random', directions of length 1; 'pca', a sheet through the mean along
      the two principal directions, one standard deviation to each side, the
      first along the longer side of the grid (MiniSom's goes a length of 1); or
      the codebook itself, `[rows, cols, d]`.
    **names: `topology`, `periodic`, `distance`, `neighborhood` of the `Map`.

  Returns:
    A `Map`; of NaN where no code is usable.
  """
  codes = jnp.asarray(codes)
  dtype = jnp.result_type(codes.dtype, jnp.float32)
  codes = codes.astype(dtype)
  shape = (*grid, codes.shape[-1])
  if not isinstance(init, str):
    if init.shape != shape:
      raise ValueError(f'init: {shape}, not {init.shape}')
    codebook = init.astype(dtype)
  elif init not in INITS:
    raise ValueError(f'init: a codebook or one of {INITS}, not {init!r}')
  else:
    usable = searching.is_usable(codes, names.get('distance', 'euclidean'))
    codes = jnp.where(usable[:, None], codes, 0)
    draw = {'sample': _sample, 'random': _random, 'pca': _principal}[init]
    codebook = draw(key, codes, usable, grid).reshape(shape)
    codebook = jnp.where(jnp.any(usable), codebook, jnp.nan)
  som = maps.Map(codebook, **names)
  maps.check(som)
  return som


def pad(layers: Sequence[np.ndarray]) -> np.ndarray:
  """Returns codes of several layers `[n, d_i]` as one stack `[layers, n, d]`.

  With zeros for what a layer lacks, which changes no distance but correlation:
  `vmap(fit, (None, 0))` makes a map of each.
  """
  width = max(layer.shape[1] for layer in layers)
  return np.stack(
    [np.pad(v, [(0, 0), (0, width - v.shape[1])]) for v in layers]
  )


def _sample(key, codes, usable, grid):
  order = jax.random.permutation(key, len(codes))
  # Usable ones first, in random order; over again where there are too few.
  order = order[jnp.argsort(~usable[order])]
  count = jnp.maximum(jnp.sum(usable), 1)
  return codes[order[jnp.arange(grid[0] * grid[1]) % count]]


def _random(key, codes, usable, grid):
  del usable
  shape = grid[0] * grid[1], codes.shape[-1]
  out = jax.random.normal(key, shape, codes.dtype)
  return out / jnp.sqrt(jnp.sum(out**2, axis=-1, keepdims=True))


def _principal(key, codes, usable, grid):
  del key
  count = jnp.maximum(jnp.sum(usable), 1)
  mean = codes.sum(axis=0) / count
  away = jnp.where(usable[:, None], codes - mean[None], 0)
  square = jnp.matmul(away.T, away, precision=jax.lax.Precision.HIGHEST)
  variances, directions = decompositions.eigh(square / count)
  axes = (directions * jnp.sqrt(jnp.maximum(variances, 0))[None]).T[::-1][:2]
  # A sign of its own, not the library's: the largest entry is positive.
  largest = jnp.argmax(jnp.abs(axes), axis=1, keepdims=True)
  axes = axes * jnp.where(jnp.take_along_axis(axes, largest, 1) < 0, -1, 1)
  axes = jnp.pad(axes, [(0, 2 - len(axes)), (0, 0)])
  if grid[0] < grid[1]:
    axes = axes[::-1]
  # One row or column lies at the middle, not at an end.
  sides = [jnp.linspace(-1, 1, n) if n > 1 else jnp.zeros(1) for n in grid]
  down, right = (s.astype(codes.dtype) for s in sides)
  sheet = jnp.stack(jnp.meshgrid(down, right, indexing='ij'), axis=-1) @ axes
  return mean[None, None] + sheet
