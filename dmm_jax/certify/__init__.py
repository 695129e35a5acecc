"""Certified lower bounds and exact distances.

A network is a function from one input to logits, which is read as dense layers
of ReLUs and smooth activations, or as linear operators where these would be
large; or a list of layers `[(W [in, out], b [out]), ...]`, a ReLU between each
two.
All is computed in float64, for the network with these weights in exact
arithmetic.
"""

from dmm_jax.certify.crown import lower_bound
from dmm_jax.certify.crown import lower_bounds
from dmm_jax.certify.exact import exact_distance
from dmm_jax.certify.exact import interval
from dmm_jax.certify.functions import check_network
from dmm_jax.certify.layers import dense_from_convolution

__all__ = (
  'check_network',
  'dense_from_convolution',
  'exact_distance',
  'interval',
  'lower_bound',
  'lower_bounds',
)
