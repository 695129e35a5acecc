"""Layers' codes on self-organising maps: where they lie, what units are for."""

from collections.abc import Mapping
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dmm_jax import som
from dmm_jax.codes import classes as classes_lib
from dmm_jax.codes import measures


class LayerMaps(NamedTuple):
  """A map of the standardized codes of each of L layers.

  All of them live in as many features as the widest layer has; those that a
  layer lacks are 0, which changes no distance.

  Attributes:
    layers: their names.
    trained: the maps, a `som.Map` with L as its first axis.
    mean, spread: of the codes that the maps were fitted to `[L, d]`; a spread
      of inf stands for a feature that does not vary.
    units: where those codes lie `[L, n]`, -1 for none.
    counts: how many codes of each class each unit has `[L, units, classes]`.
  """

  layers: tuple[str, ...]
  trained: som.Map
  mean: np.ndarray
  spread: np.ndarray
  units: np.ndarray
  counts: np.ndarray

  def layer(self, name: str) -> som.Map:
    """Returns the map of one layer."""
    place = self.layers.index(name)
    return jax.tree.map(lambda leaf: leaf[place], self.trained)

  @property
  def classes(self) -> np.ndarray:
    """The commonest class of each unit `[L, units]`; -1 of an empty one."""
    return np.where(self.counts.any(-1), self.counts.argmax(-1), -1)


def fit_maps(
  key: jax.Array,
  codes: Mapping[str, np.ndarray],
  labels: np.ndarray,
  *,
  grid: tuple[int, int],
  num_epochs: int,
  width: int = 0,
) -> LayerMaps:
  """Fits a map to the codes of each layer, all in one program.

  Args:
    key: of the maps.
    codes: by layer `[n, d]`, as they are; they are standardized here.
    labels: their classes, integers `[n]`.
    grid, num_epochs: as for `som.fit`.
    width: features to fill all codes up to; 0 for those of the widest layer.
      One width for several networks compiles one program for them.
  """
  layers = tuple(codes)
  wide = som.pad([np.asarray(codes[name], np.float32) for name in layers])
  wide = np.pad(wide, ((0, 0), (0, 0), (0, max(0, width - wide.shape[2]))))
  mean, spread = wide.mean(axis=1), wide.std(axis=1)
  # What is constant has, by rounding, a spread of its own.
  varies = spread > 1e-6 * np.abs(wide).max(axis=1)
  spread = np.where(varies, spread, np.inf).astype(np.float32)
  standard = (wide - mean[:, None]) / spread[:, None]
  trained = _fit(
    jax.random.split(key, len(layers)),
    standard,
    grid=grid,
    num_epochs=num_epochs,
  )
  trained = jax.tree.map(jnp.asarray, jax.device_get(trained))
  units = np.asarray(_units(trained, standard))
  counts = np.zeros((len(layers), np.prod(grid), int(labels.max()) + 1), int)
  for place, of_layer in enumerate(units):
    known = of_layer >= 0
    np.add.at(counts[place], (of_layer[known], labels[known]), 1)
  return LayerMaps(layers, trained, mean, spread, units, counts)


@functools.partial(jax.jit, static_argnames=('grid', 'num_epochs'))
def _fit(keys, codes, *, grid, num_epochs):
  def fit(key, given):
    return som.fit(key, given, grid=grid, num_epochs=num_epochs, divide=False)

  return jax.vmap(fit)(keys, codes)


@jax.jit
def _units(trained, codes):
  """Numbers of the codes' units `[L, n]`, -1 for none."""
  place = lambda m, given: som.flat(m, som.best_matching_units(m, given))
  return jnp.maximum(jax.vmap(place)(trained, codes), -1)


def scale(maps: LayerMaps, codes: Mapping[str, np.ndarray]) -> np.ndarray:
  """Returns codes as the maps have them `[L, n, d]`.

  Args:
    maps: of the layers.
    codes: by layer `[n, d]`, as they are.
  """
  width = maps.mean.shape[1]
  wide = [
    np.pad(codes[name], ((0, 0), (0, width - codes[name].shape[1])))
    for name in maps.layers
  ]
  return (np.stack(wide) - maps.mean[:, None]) / maps.spread[:, None]


def place(maps: LayerMaps, codes: Mapping[str, np.ndarray]) -> np.ndarray:
  """Returns numbers of the units that codes lie on `[L, n]`, -1 for none.

  Args:
    maps, codes: as for `scale`.
  """
  return np.asarray(_units(maps.trained, scale(maps, codes)))


def unit_codes(maps: LayerMaps, name: str, width: int) -> np.ndarray:
  """Returns the codes of a layer's units, as codes are before standardizing.

  Args:
    maps: of the layers.
    name: of the layer.
    width: its number of features.

  Returns:
    `[units, width]`.
  """
  number = maps.layers.index(name)
  spread = maps.spread[number]
  found = np.asarray(maps.layer(name).units) * np.where(
    np.isfinite(spread), spread, 0
  )
  return (found + maps.mean[number])[:, :width]


def map_statistics(
  maps: LayerMaps, codes: Mapping[str, np.ndarray], labels: np.ndarray
) -> dict[str, np.ndarray]:
  """Returns what maps say of layers, by name, a column `[L]` each.

  cosine: mean cosine distance of the units' codes before standardizing;
  dispersion: as of `class_dispersion`; nmi: of units and classes;
  folds: topographic error; settled: epochs until codes are within 5 % of their
  last mean distance from units.

  Args:
    maps: of the layers.
    codes: that they were fitted to.
    labels: their classes `[n]`.
  """
  standard, rows = scale(maps, codes), []
  for number, name in enumerate(maps.layers):
    trained, units = maps.layer(name), maps.units[number]
    history = np.asarray(trained.history)
    late = np.flatnonzero(history > 1.05 * history[-1])
    own = unit_codes(maps, name, codes[name].shape[1])
    rows.append(
      {
        'cosine': measures.diversity(own),
        'nmi': classes_lib.nmi(units, labels),
        'folds': float(som.topographic_error(trained, standard[number])),
        'settled': 1 + np.max(late, initial=-1),
      }
    )
  found = {key: np.array([row[key] for row in rows]) for key in rows[0]}
  return found | {'dispersion': class_dispersion(maps, maps.units, labels)}


def class_dispersion(
  maps: LayerMaps, units: np.ndarray, labels: np.ndarray
) -> np.ndarray:
  """Returns `dispersion` of classes on each layer's map `[L]`.

  Args:
    maps: of the layers.
    units: of codes, by number `[L, n]`, as of `place`.
    labels: their classes `[n]`.
  """
  found = []
  for name, of_layer in zip(maps.layers, units, strict=True):
    trained = maps.layer(name)
    # -1, no unit, stays below 0.
    where = np.stack(np.divmod(of_layer, trained.grid[1]), axis=1)
    found.append(classes_lib.dispersion(trained, where, labels))
  return np.array(found)


def class_uncertainty(
  maps: LayerMaps, units: np.ndarray, classes: np.ndarray
) -> np.ndarray:
  """Returns how little units speak for classes `[L, n]`.

  1 less the share of the unit's codes that are of the class; 1 for a unit
  without codes, and for no unit.

  Args:
    maps: of the layers.
    units: `[L, n]`, as of `place`.
    classes: integers `[n]`.
  """
  total = np.maximum(maps.counts.sum(-1), 1)
  number = np.arange(len(units))[:, None]
  share = maps.counts[number, units, classes] / total[number, units]
  return np.where(units < 0, 1.0, 1 - share)


def unit_distance(
  trained: som.Map, before: np.ndarray, after: np.ndarray
) -> np.ndarray:
  """Returns distances on the grid between units given by number.

  Args:
    trained: a map; of several, all have its grid.
    before, after: `[...]`, -1 for none.

  Returns:
    `[...]`, NaN where one of the two is none.
  """
  start, end = (
    np.stack(np.divmod(v, trained.grid[1]), axis=-1) for v in (before, after)
  )
  square = som.squared_distances(
    start, end, trained.grid, trained.topology, trained.periodic
  )
  known = (np.asarray(before) >= 0) & (np.asarray(after) >= 0)
  return np.where(known, np.sqrt(square), np.nan)
