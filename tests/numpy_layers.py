"""Layers of networks in numpy, in double precision, for one input."""

import jax
import jax.numpy as jnp
import numpy as np


def shapes(module, shape):
  """Variables of a module for inputs of a shape, without values."""
  return jax.eval_shape(module.init, jax.random.key(0), jnp.zeros(shape))


def init(module, shape, seed=0):
  """Variables of random numbers, also where initialisers put 0 or 1."""
  rng = np.random.default_rng(seed)

  def draw(path, leaf):
    normal = rng.normal(size=leaf.shape)
    if path[-1].key == 'kernel':
      value = normal * np.sqrt(2 / np.prod(leaf.shape[:-1]))
    else:
      value = 0.3 * normal + (path[-1].key in ('scale', 'var'))
    if path[-1].key == 'var':
      value = np.abs(value) + 0.1
    return jnp.asarray(value, leaf.dtype)

  return jax.tree_util.tree_map_with_path(draw, shapes(module, shape))


def numbers(tree):
  """The same tree of numpy arrays in double precision."""
  return jax.tree.map(lambda v: np.asarray(v, float), tree)


def relu(h):
  return np.maximum(h, 0)


def dense(h, layer):
  return np.ravel(h) @ layer['kernel'] + layer.get('bias', 0)


def conv(h, layer, stride=1, padding='SAME'):
  """Convolves `[h, w, c]`; padding as JAX has it, or a number of pixels."""
  kernel = layer['kernel']
  pads = []
  for length, size in zip(h.shape, kernel.shape[:2], strict=False):
    whole = max((-(-length // stride) - 1) * stride + size - length, 0)
    same = (whole // 2, whole - whole // 2)
    pads.append({'SAME': same, 'VALID': (0, 0)}.get(padding, (padding,) * 2))
  h = np.pad(h, (*pads, (0, 0)))
  views = np.lib.stride_tricks.sliding_window_view(h, kernel.shape[:2], (0, 1))
  out = np.einsum('rcikl,klio->rco', views[::stride, ::stride], kernel)
  return out + layer.get('bias', 0)


def doubled(h, layer):
  """A transposed 4x4 convolution of stride 2: pixels apart by zeros."""
  rows, cols, channels = h.shape
  wide = np.zeros((2 * rows - 1, 2 * cols - 1, channels))
  wide[::2, ::2] = h
  return conv(wide, layer, padding=2)


def norm(h, affine, stats):
  """Batch norm by given averages."""
  h = (h - stats['mean']) / np.sqrt(stats['var'] + 1e-5)
  return h * affine.get('scale', 1) + affine.get('bias', 0)


def max_pool(h):
  """Of 2x2 pixels; odd sizes are filled up."""
  fill = ((0, h.shape[0] % 2), (0, h.shape[1] % 2), (0, 0))
  h = np.pad(h, fill, constant_values=-np.inf)
  return blocks(h).max((1, 3))


def mean_pool(h):
  """Of 2x2 pixels; what is left at odd sizes is dropped."""
  return blocks(h[: h.shape[0] // 2 * 2, : h.shape[1] // 2 * 2]).mean((1, 3))


def blocks(h):
  rows, cols, channels = h.shape
  return h.reshape(rows // 2, 2, cols // 2, 2, channels)
