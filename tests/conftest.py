"""Strict JAX, on two CPU devices so that sharded code runs sharded."""

import os

os.environ.setdefault('JAX_PLATFORMS', 'cpu')

import jax
import matplotlib

jax.config.update('jax_num_cpu_devices', 2)
jax.config.update('jax_numpy_rank_promotion', 'raise')
matplotlib.use('Agg')
