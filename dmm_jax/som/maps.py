"""A self-organising map: its codebook and what it was trained by."""

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
    history: the mean distance of codes from their units, as each epoch of `fit`
      found it before its update, `[num_epochs]`. From the scores of the search:
      rounding adds up to 1e-3 of the codes' length in float32.
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
    """Rows and columns."""
    rows, cols = self.codebook.shape[-3:-1]
    return rows, cols

  @property
  def units(self) -> jax.Array:
    """The codebook with units in a row, `[rows * cols, d]`."""
    shape = self.codebook.shape
    return self.codebook.reshape(*shape[:-3], -1, shape[-1])


def check(som: Map) -> None:
  """Raises ValueError where a map's grid or one of its names does not exist."""
  grids.check(som.grid, som.topology, som.periodic)
  searching.check(som.distance)
  neighborhoods.check(som.neighborhood)


def save(path: str | pathlib.Path, som: Map) -> None:
  """Writes a map, or a stack of them, as .npz."""
  fields = {f.name: getattr(som, f.name) for f in dataclasses.fields(som)}
  columns = {k: np.asarray(v)[None] for k, v in fields.items()}
  records.save_columns(pathlib.Path(path), columns)


def load(path: str | pathlib.Path) -> Map:
  """Reads what `save` wrote."""
  columns = records.load_columns(pathlib.Path(path))
  arrays: dict[str, Any] = {
    k: jnp.asarray(columns.pop(k)[0]) for k in ('codebook', 'history')
  }
  names = {k: v[0].item() for k, v in columns.items()}
  return Map(**arrays, **names)


def from_minisom(weights: np.ndarray, **names: Any) -> Map:
  """Returns the map of MiniSom's weights `[x, y, d]`: x across, y down.

  Args:
    weights: as its `get_weights()` returns them.
    **names: `topology`, `distance`, `neighborhood`, in our words ('l1' for its
      'manhattan'); MiniSom has no torus.
  """
  som = Map(jnp.asarray(np.swapaxes(weights, 0, 1)), **names)
  check(som)
  return som


def to_minisom(som: Map) -> np.ndarray:
  """Returns a planar map's codebook as MiniSom's weights, `[x, y, d]`.

  Its unit (x, y) is the one at row y, column x, at the same place of the grid.
  """
  if som.periodic:
    raise ValueError('MiniSom has no torus')
  return np.swapaxes(np.asarray(som.codebook), 0, 1)
