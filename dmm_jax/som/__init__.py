"""Self-organising maps: codes laid out on a grid.

  trained = som.fit(key, codes, grid=(20, 20))
  units = som.best_matching_units(trained, codes)

A `Map` is a pytree; `init`, `step` (online) and `batch_step` are what
`fit` is made of.
"""

from dmm_jax.som.batches import step as batch_step
from dmm_jax.som.fitting import METHODS
from dmm_jax.som.fitting import fit
from dmm_jax.som.fitting import step
from dmm_jax.som.grids import TOPOLOGIES
from dmm_jax.som.grids import coordinates
from dmm_jax.som.grids import spans
from dmm_jax.som.grids import squared_distances
from dmm_jax.som.initial import INITS
from dmm_jax.som.initial import init
from dmm_jax.som.initial import pad
from dmm_jax.som.maps import Map
from dmm_jax.som.maps import from_minisom
from dmm_jax.som.maps import load
from dmm_jax.som.maps import save
from dmm_jax.som.maps import to_minisom
from dmm_jax.som.neighborhoods import NEIGHBORHOODS
from dmm_jax.som.reading import best_matching_units
from dmm_jax.som.reading import component_planes
from dmm_jax.som.reading import distances
from dmm_jax.som.reading import distortion
from dmm_jax.som.reading import flat
from dmm_jax.som.reading import hits
from dmm_jax.som.reading import label_counts
from dmm_jax.som.reading import label_map
from dmm_jax.som.reading import quantization_error
from dmm_jax.som.reading import topographic_error
from dmm_jax.som.reading import two_best_units
from dmm_jax.som.reading import u_matrix
from dmm_jax.som.schedules import SCHEDULES
from dmm_jax.som.schedules import values as schedule
from dmm_jax.som.searching import DISTANCES

__all__ = (
  'DISTANCES',
  'INITS',
  'METHODS',
  'NEIGHBORHOODS',
  'SCHEDULES',
  'TOPOLOGIES',
  'Map',
  'batch_step',
  'best_matching_units',
  'component_planes',
  'coordinates',
  'distances',
  'distortion',
  'fit',
  'flat',
  'from_minisom',
  'hits',
  'init',
  'label_counts',
  'label_map',
  'load',
  'pad',
  'quantization_error',
  'save',
  'schedule',
  'spans',
  'squared_distances',
  'step',
  'to_minisom',
  'topographic_error',
  'two_best_units',
  'u_matrix',
)
