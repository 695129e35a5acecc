"""A self-organising map: its codebook and the options it was trained with."""

import dataclasses
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dmm_jax import records
from dmm_jax.som import grids
from dmm_jax.som import neighborhoods
from dmm_jax.som import searching

_static = lambda value: dataclasses.field(
  default=value, metadata={'static': True}
)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Map:
  """A self-organising map; a pytree, of which `vmap` makes stacks.

  Attributes:
    codebook: the code of each unit, `[rows, cols, d]`.
    history: the mean distance of codes from their nearest units in each epoch
      of `fit`, before its update, `[num_epochs]`.
    topology: 'rectangular' or 'hexagonal'.
    periodic: whether the grid is a torus.
    distance: between codes and units; one of `DISTANCES`.
    neighborhood: one of `NEIGHBORHOODS`.
  """

  codebook: jax.Array
  history: jax.Array = dataclasses.field(default_factory=lambda: jnp.zeros(0))
  topology: str = _static('rectangular')
  periodic: bool = _static(False)
  distance: str = _static('euclidean')
  neighborhood: str = _static('gaussian')

  @property
  def grid(self) -> tuple[int, int]:
    """The numbers of rows and columns."""
    rows, cols = self.codebook.shape[-3:-1]
    return rows, cols

  @property
  def units(self) -> jax.Array:
    """The codes of all units, row by row, `[rows * cols, d]`, floats."""
    shape, dtype = self.codebook.shape, self.codebook.dtype
    units = self.codebook.reshape(*shape[:-3], -1, shape[-1])
    return units.astype(jnp.result_type(dtype, jnp.float32))


def check(som: Map) -> None:
  """Raise ValueError for a map with an invalid codebook, grid or option."""
  if som.codebook.ndim != 3:
    raise ValueError(
      f'codebook must be [rows, cols, d], got shape {som.codebook.shape}'
    )
  grids.check(som.grid, som.topology, som.periodic)
  searching.check(som.distance)
  neighborhoods.check(som.neighborhood)


def check_codes(som: Map, codes: jax.Array) -> jax.Array:
  """Return codes in the precision of a valid map's units.

  Raises:
    ValueError: where the map is not valid, or codes are not real numbers
      `[n, d]` with the map's d.
  """
  check(som)
  codes, d = jnp.asarray(codes), som.codebook.shape[-1]
  _check_dtype(codes.dtype)
  if codes.ndim != 2 or codes.shape[1] != d:
    raise ValueError(
      f"codes must be [n, {d}], as the map's codebook is [rows, cols, {d}], "
      f'got shape {codes.shape}'
    )
  return codes.astype(som.units.dtype)


def training_codes(codes: Any) -> Any:
  """Return codes as an array, one on the host where they were no `jax.Array`.

  Raises:
    ValueError: where they are not a non-empty array `[n, d]` of real numbers.
  """
  # Not on a device: each of several processes gives all codes.
  codes = codes if isinstance(codes, jax.Array) else np.asarray(codes)
  if codes.ndim != 2 or not codes.size:
    raise ValueError(
      f'codes must be a non-empty [n, d] array, got shape {codes.shape}'
    )
  _check_dtype(codes.dtype)
  return codes


def _check_dtype(dtype):
  real = jnp.integer, jnp.floating, jnp.bool_
  if not any(jnp.issubdtype(dtype, kind) for kind in real):
    raise ValueError(f'codes must be real numbers, got dtype {dtype}')


def save(path: str | pathlib.Path, som: Map) -> None:
  """Write a map, or a stack of maps, as .npz."""
  fields = {f.name: getattr(som, f.name) for f in dataclasses.fields(som)}
  columns = {k: np.asarray(v)[None] for k, v in fields.items()}
  records.save_columns(pathlib.Path(path), columns)


def load(path: str | pathlib.Path) -> Map:
  """Read a map that `save` wrote."""
  columns = records.load_columns(pathlib.Path(path))
  arrays: dict[str, Any] = {
    k: jnp.asarray(columns.pop(k)[0]) for k in ('codebook', 'history')
  }
  names = {k: v[0].item() for k, v in columns.items()}
  return Map(**arrays, **names)


def from_minisom(weights: np.ndarray, **names: Any) -> Map:
  """Return the map with MiniSom's weights `[x, y, d]`: x across, y down.

  Args:
    weights: the array that its `get_weights()` returns.
    **names: `topology`, `distance`, `neighborhood` of the `Map`, by our names
      ('l1' for MiniSom's 'manhattan').
  """
  if np.ndim(weights) != 3:
    raise ValueError(
      f'weights must be [x, y, d], got shape {np.shape(weights)}'
    )
  som = Map(jnp.asarray(np.swapaxes(weights, 0, 1)), **names)
  check(som)
  return som


def to_minisom(som: Map) -> np.ndarray:
  """Return a planar map's codebook as MiniSom's weights, `[x, y, d]`.

  MiniSom's unit (x, y) is the unit at row y, column x, at the same position.

  Raises:
    ValueError: for a periodic map, which MiniSom does not have.
  """
  if som.periodic:
    raise ValueError(
      'MiniSom has no periodic grid (torus): the map must not be'
    )
  return np.swapaxes(np.asarray(som.codebook), 0, 1)
