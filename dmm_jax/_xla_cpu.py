"""Workarounds for XLA on CPUs, each with the versions that need it.

Convolutions (seen in jaxlib 0.10 and 0.12): outside of loops XLA brings those
that derivatives are made of into the one memory layout for which it has a fast
routine. Inside loops it does not, and they take 4 to 10 times as long.

Compiling: what LLVM does beyond its first level (seen in jaxlib 0.10 and 0.12)
is a fifth of the time that a search takes to compile, and four fifths of that
of drawing weights, and makes neither faster. The emitters of fused loops (seen
in jaxlib 0.10; 0.12 leaves no choice) are a third to a half of what is left;
searches are as fast without them, training is not.
"""

from collections.abc import Callable
import functools

import jax
import jax.numpy as jnp

from dmm_jax import programs


@functools.cache
def compiler_options() -> dict:
  """Returns the options of `jax.jit` for searches; none but on CPUs."""
  if jax.default_backend() != 'cpu':
    return {}
  least = {'xla_backend_optimization_level': 1}
  wanted = least | {'xla_cpu_use_fusion_emitters': False}
  return wanted if _known(wanted) else least


def _known(options):
  """Whether this jaxlib has such options."""
  try:
    jax.jit(lambda: 0, compiler_options=options)()
  except (jax.errors.JaxRuntimeError, ValueError):
    return False
  return True


def channels_last_gradients(fn: Callable) -> Callable:
  """Returns `fn` with its convolutions in the layout that is fast on CPUs.

  For gradients inside loops. Values and derivatives are those of `fn`, to
  rounding; on other devices than CPUs, `fn` itself is returned.

  Args:
    fn: of pytrees of arrays, traced once more than without this.
  """
  if jax.default_backend() != 'cpu':
    return fn
  return programs.rewrite(fn, {'conv_general_dilated': _channels_last})


def _channels_last(images, kernel, *, dimension_numbers, **params):
  """The convolution, of arrays whose axes are brought into order first."""
  lhs, rhs, out = dimension_numbers
  axes = range(images.ndim)
  # Batch, pixels, features; pixels, inputs, outputs.
  last = (0, images.ndim - 1, *axes[1:-1])
  wanted = (last, (images.ndim - 1, images.ndim - 2, *axes[:-2]), last)
  move = lambda array, spec, to: jnp.transpose(
    array, [spec[to.index(axis)] for axis in axes]
  )
  if lhs != wanted[0]:
    images = move(images, lhs, wanted[0])
  if rhs != wanted[1]:
    # Kept from being undone.
    kernel = jax.lax.optimization_barrier(move(kernel, rhs, wanted[1]))
  found = jax.lax.conv_general_dilated_p.bind(
    images,
    kernel,
    dimension_numbers=jax.lax.ConvDimensionNumbers(*wanted),
    **params,
  )
  return found if out == wanted[2] else move(found, wanted[2], out)
