"""Initial codebooks."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dmm_jax import decompositions
from dmm_jax.som import grids
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
  """Return an untrained map.

  Args:
    key: a `jax.random` key, for the codes or directions that are drawn.
    codes: `[n, d]`; only usable ones (`searching`) count.
    grid: numbers of rows and columns.
    init: 'sample' draws from the codes, without replacement while there are
      enough of them; 'random' draws directions of length 1; 'pca' is a sheet
      through the mean along the two principal directions, one standard
      deviation to each side, the first along the longer side of the grid
      (MiniSom's extends a length of 1); or a codebook `[rows, cols, d]`.
    **names: `topology`, `periodic`, `distance`, `neighborhood` of the `Map`.

  Returns:
    A `Map`; its codebook is NaN where no code is usable.

  Raises:
    ValueError: for an invalid shape or option.
  """
  codes = jnp.asarray(maps.training_codes(codes))
  dtype = jnp.result_type(codes.dtype, jnp.float32)
  codes = codes.astype(dtype)
  grid = grids.check_shape(grid)
  shape = (*grid, codes.shape[-1])
  if not isinstance(init, str):
    if jnp.shape(init) != shape:
      raise ValueError(
        'init must be a codebook [rows, cols, d] for the grid and the codes, '
        f'here of shape {shape}, got shape {jnp.shape(init)}'
      )
    codebook = jnp.asarray(init, dtype)
  elif init not in INITS:
    raise ValueError(
      f'init must be a codebook [rows, cols, d] or one of {INITS}, got {init!r}'
    )
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
  """Return codes of several layers `[n, d_i]` as one stack `[layers, n, d]`.

  Narrower layers are filled with zeros, which changes no distance except
  correlation. `vmap(fit, (None, 0))` then trains one map for each layer.
  """
  shapes = [np.shape(layer) for layer in layers]
  if (
    not all(len(s) == 2 and s[0] == shapes[0][0] for s in shapes) or not shapes
  ):
    raise ValueError(
      f'layers must be [n, d_i] arrays with the same n, got shapes {shapes}'
    )
  width = max(layer.shape[1] for layer in layers)
  return np.stack(
    [np.pad(v, [(0, 0), (0, width - v.shape[1])]) for v in layers]
  )


def _sample(key, codes, usable, grid):
  order = jax.random.permutation(key, len(codes))
  # Usable codes first, in random order; they repeat where there are too few.
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
  # The sign of an eigenvector is arbitrary: make its largest entry positive.
  largest = jnp.argmax(jnp.abs(axes), axis=1, keepdims=True)
  axes = axes * jnp.where(jnp.take_along_axis(axes, largest, 1) < 0, -1, 1)
  axes = jnp.pad(axes, [(0, 2 - len(axes)), (0, 0)])
  if grid[0] < grid[1]:
    axes = axes[::-1]
  # A single row or column lies at the mean, not at an end.
  sides = [jnp.linspace(-1, 1, n) if n > 1 else jnp.zeros(1) for n in grid]
  down, right = (s.astype(codes.dtype) for s in sides)
  sheet = jnp.stack(jnp.meshgrid(down, right, indexing='ij'), axis=-1) @ axes
  return mean[None, None] + sheet
