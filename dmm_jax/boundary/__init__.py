"""The nearest point of a network's decision boundary, seen from an input."""

from dmm_jax.boundary.measuring import measure
from dmm_jax.boundary.nearest import METHODS
from dmm_jax.boundary.nearest import nearest_point
from dmm_jax.boundary.network import Network
from dmm_jax.boundary.point import BoundaryPoint
from dmm_jax.boundary.point import Status
from dmm_jax.boundary.rays import Crossing
from dmm_jax.boundary.rays import first_crossing

__all__ = (
  'METHODS',
  'BoundaryPoint',
  'Crossing',
  'Network',
  'Status',
  'first_crossing',
  'measure',
  'nearest_point',
)
