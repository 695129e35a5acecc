"""Certified lower bounds and exact distances of dense ReLU networks.

A network is a list of dense layers `[(W [in, out], b [out]), ...]` with a ReLU
between each two; `dense_from_convolution` writes a convolution as one. All is
computed in float64, for the network with these weights in exact arithmetic.
"""

from dmm_jax.certify.crown import lower_bound
from dmm_jax.certify.crown import lower_bounds
from dmm_jax.certify.exact import exact_distance
from dmm_jax.certify.layers import dense_from_convolution

__all__ = (
  'dense_from_convolution',
  'exact_distance',
  'lower_bound',
  'lower_bounds',
)
