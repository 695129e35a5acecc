"""The data's own manifold: its tangent spaces, and perturbations beside them.

A basis is orthonormal rows `[k, d]`, d the number of entries of an input in the
order of `x.ravel()`; a row of zeros stands for a direction that is missing.
"""

from dmm_jax.manifold.bases import frequency_basis
from dmm_jax.manifold.bases import neighbor_basis
from dmm_jax.manifold.bases import neighbor_error
from dmm_jax.manifold.bases import principal_basis
from dmm_jax.manifold.bases import principal_residuals
from dmm_jax.manifold.bases import random_basis
from dmm_jax.manifold.bases import tangent_basis
from dmm_jax.manifold.curved import CurvedPoint
from dmm_jax.manifold.curved import nearest_on_manifold
from dmm_jax.manifold.curved import project_on_manifold
from dmm_jax.manifold.nulls import common_nulls
from dmm_jax.manifold.nulls import own_nulls
from dmm_jax.manifold.sides import SIDES
from dmm_jax.manifold.sides import SideTask
from dmm_jax.manifold.sides import measure_sides
from dmm_jax.manifold.sides import restrict
from dmm_jax.manifold.splits import enrichment
from dmm_jax.manifold.splits import fraction_enrichment
from dmm_jax.manifold.splits import fraction_null
from dmm_jax.manifold.splits import implied_fraction
from dmm_jax.manifold.splits import off
from dmm_jax.manifold.splits import on
from dmm_jax.manifold.splits import random_ratio
from dmm_jax.manifold.splits import shares
from dmm_jax.manifold.splits import split
from dmm_jax.manifold.splits import tangent_fraction
from dmm_jax.manifold.splits import tangent_projection
from dmm_jax.manifold.splits import unconstrained

__all__ = (
  'SIDES',
  'CurvedPoint',
  'SideTask',
  'common_nulls',
  'enrichment',
  'fraction_enrichment',
  'fraction_null',
  'frequency_basis',
  'implied_fraction',
  'measure_sides',
  'nearest_on_manifold',
  'neighbor_basis',
  'neighbor_error',
  'off',
  'on',
  'own_nulls',
  'principal_basis',
  'principal_residuals',
  'project_on_manifold',
  'random_basis',
  'random_ratio',
  'restrict',
  'shares',
  'split',
  'tangent_basis',
  'tangent_fraction',
  'tangent_projection',
  'unconstrained',
)
