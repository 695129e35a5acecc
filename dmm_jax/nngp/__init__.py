"""Infinitely wide random networks: their kernels and the distance law.

As its width grows, a network with random weights becomes a Gaussian process f
whose kernel K depends on the architecture alone: the NNGP. Its class is the
sign of f (for two logits f is their difference, with kernel 2 K, and every
distance below is the same). Architectures are triples `(init_fn, apply_fn,
kernel_fn)` as in neural-tangents. What follows from the kernel at one input x:

  C = d^2 K / dx dy at y = x, the covariance of the gradient of f;
  s_p = sqrt(K(x, x)) / E||N(0, C)||_q, with 1/p + 1/q = 1: the l^p distance of
  x from the boundary is asymptotically |N(0, 1)| s_p (`distance_scale`);
  an upper bound on the probability that it is small (`flip_bound`);
  what training makes of the network: regression with its kernel (`regressor`).

All of it is computed in double precision whatever JAX's default, and on the
host: call these functions outside `jit`. `posterior_mean` alone, and what
`regressor` returns, are for within.
"""

from dmm_jax.nngp.architectures import convolutional
from dmm_jax.nngp.architectures import fully_connected
from dmm_jax.nngp.architectures import lenet
from dmm_jax.nngp.architectures import resnet
from dmm_jax.nngp.draws import distance_draws
from dmm_jax.nngp.draws import gradient_draws
from dmm_jax.nngp.draws import ray_draws
from dmm_jax.nngp.gradients import gradient_covariance
from dmm_jax.nngp.gradients import gradient_variance
from dmm_jax.nngp.gradients import output_variance
from dmm_jax.nngp.law import distance_cdf
from dmm_jax.nngp.law import distance_quantile
from dmm_jax.nngp.law import distance_scale
from dmm_jax.nngp.law import distance_slope
from dmm_jax.nngp.law import flip_bound
from dmm_jax.nngp.law import scale_of_gradient
from dmm_jax.nngp.medians import median_distances
from dmm_jax.nngp.regression import Regression
from dmm_jax.nngp.regression import fit_regression
from dmm_jax.nngp.regression import kernel_matrix
from dmm_jax.nngp.regression import posterior_mean
from dmm_jax.nngp.regression import regressor

__all__ = (
  'Regression',
  'convolutional',
  'distance_cdf',
  'distance_draws',
  'distance_quantile',
  'distance_scale',
  'distance_slope',
  'fit_regression',
  'flip_bound',
  'fully_connected',
  'gradient_covariance',
  'gradient_draws',
  'gradient_variance',
  'kernel_matrix',
  'lenet',
  'median_distances',
  'output_variance',
  'posterior_mean',
  'ray_draws',
  'regressor',
  'resnet',
  'scale_of_gradient',
)
