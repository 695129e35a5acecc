"""Workarounds for XLA on CPUs, each with the versions that need it.

Convolutions (seen in jaxlib 0.10 and 0.12): outside of loops XLA brings those
that derivatives are made of into the one memory layout for which it has a fast
routine. Inside loops it does not, and they take 4 to 10 times as long. Those
that go from patches back to pixels, of strides as long as the kernel, multiply
by all the zeros between: products of matrices leave these out.

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
  apart = _spreads_patches(kernel.shape, rhs, params)
  if rhs != wanted[1]:
    kernel = move(kernel, rhs, wanted[1])
    if not apart:  # Kept from being undone.
      kernel = jax.lax.optimization_barrier(kernel)
  if apart:
    found = _spread_patches(images, kernel, params['padding'])
  else:
    found = jax.lax.conv_general_dilated_p.bind(
      images,
      kernel,
      dimension_numbers=jax.lax.ConvDimensionNumbers(*wanted),
      **params,
    )
  return found if out == wanted[2] else move(found, wanted[2], out)


def _spreads_patches(shape, spec, params):
  """Whether each input goes to a patch of its own: the derivative of patches.

  Strides as long as the kernel, as a vision transformer's first layer has them.
  """
  sides = tuple(shape[axis] for axis in spec[2:])
  return (
    max(sides, default=1) > 1
    and params['feature_group_count'] == params['batch_group_count'] == 1
    and set(params['window_strides']) == set(params['rhs_dilation']) == {1}
    and tuple(params['lhs_dilation']) == sides
    and all(
      low == side - 1 <= high
      for side, (low, high) in zip(sides, params['padding'], strict=True)
    )
    and params.get('preferred_element_type') is None
  )


def _spread_patches(images, kernel, padding):
  """That convolution as a product: XLA multiplies by all the zeros between."""
  sides, pixels = kernel.shape[:-2], images.shape[1:-1]
  kernel = jnp.flip(kernel, range(len(sides)))
  found = jnp.tensordot(images, kernel, [[-1], [-2]])
  # Batch, pixels, places in a patch, features: each place beside its pixel.
  num = len(sides)
  order = [axis for i in range(num) for axis in (1 + i, 1 + num + i)]
  found = jnp.transpose(found, [0, *order, 2 * num + 1])
  whole = [side * count for side, count in zip(sides, pixels, strict=True)]
  found = found.reshape(len(images), *whole, kernel.shape[-1])
  beyond = [(0, high - low) for low, high in padding]  # No patch has these.
  return jnp.pad(found, [(0, 0), *beyond, (0, 0)])
