"""The NNGP kernel of convolutional networks with average pooling.

Pooling couples pixels, so a kernel has to follow covariances between different
pixels of two images. neural-tangents follows all (h w)^2 of them; but 2x2
pooling only ever asks for pairs a few pixels apart, and a convolution keeps
the offset of a pair. Following those alone takes 49 h w numbers for LeNet: at
32 x 32 pixels a twentieth of the work. (There, too, XLA's CPU backend crashes
on neural-tangents' four-dimensional kernels, with JAX 0.10 and 0.12.)
"""

from collections.abc import Callable
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def pooled_kernel(
  x: jax.Array,
  y: jax.Array,
  *,
  convs: tuple[int, ...],
  dense: int,
  sigma_w: float,
  sigma_b: float,
  expect: Callable,
) -> jax.Array:
  """Returns K(x, y) of convolutions, pooled, then dense layers.

  Args:
    x, y: images `[h, w, c]`.
    convs: numbers of 3x3 SAME convolutions, each followed by the activation;
      a 2x2 average pooling, stride 2, ends each group.
    dense: hidden dense layers after flattening.
    sigma_w, sigma_b: as in `nngp.lenet`.
    expect: (k12, k1, k2) -> E phi(u) phi(v) for jointly normal u, v.
  """
  affine = lambda k: sigma_b**2 + sigma_w**2 * k
  # Each pooling with outputs up to r pixels apart has inputs 2 r + 1 apart.
  radius = 2 ** len(convs) - 1
  # Three arrays in one, x with itself, y with itself, x with y:
  # [3, h, w, 2 r + 1, 2 r + 1] holds the covariances of pixel (i, j) of the
  # first and pixel (i + a - r, j + b - r) of the second, 0 outside of it.
  first, second = jnp.stack([x, y, x]), jnp.stack([x, y, y])
  k = jnp.einsum('kijc,kijabc->kijab', first, _shifted(second, radius))
  k = k / x.shape[-1]
  for count in convs:
    for _ in range(count):
      k = _activate(affine(_average(k)), expect)
    radius = (radius - 1) // 2
    k = _pool(k, radius)
  k = affine(jnp.mean(k, axis=(1, 2, 3, 4)))
  for _ in range(dense):
    k = affine(expect(k, *_variances(k)))
  return k[2]


def _variances(k):
  """Of the first and second member of each of the three kinds of pair."""
  return jnp.stack([k[0], k[1], k[0]]), jnp.stack([k[0], k[1], k[1]])


def _shifted(values, radius):
  """`[3, h, w, ...]` -> `[3, h, w, d, d, ...]`: what lies at each offset."""
  rows, cols = (_moved(size, radius) for size in values.shape[1:3])
  # Products with 0 and 1: what compiles to a gather has a slow derivative.
  return jnp.einsum('kij...,ria,sjb->krsab...', values, rows, cols)


def _moved(size, radius):
  """`[i, j, a]`: whether line i + a - radius is line j."""
  lines = np.arange(size)
  offsets = np.arange(-radius, radius + 1)
  return (lines[:, None, None] + offsets == lines[None, :, None]).astype(float)


def _average(k):
  """A 3x3 window over both pixels at once: the offset stays."""
  rows, cols = (
    np.abs(np.subtract.outer(i, i)) <= 1 for i in map(np.arange, k.shape[1:3])
  )
  return jnp.einsum('kijab,ir,js->krsab', k, rows / 3, cols / 3)


def _activate(k, expect):
  radius = k.shape[3] // 2
  first, second = _variances(k[..., radius, radius])
  inside = _inside(k)
  # Outside the image both arguments are made harmless, the result 0.
  first = jnp.broadcast_to(first[..., None, None], k.shape)
  second = jnp.where(inside, _shifted(second, radius), 1.0)
  return jnp.where(inside, expect(k, first, second), 0.0)


def _pool(k, radius):
  """Averages 2x2 pixels of both images; offsets up to `radius` remain."""
  old = k.shape[3] // 2
  _, h, w, *_ = k.shape
  k = k[:, : h // 2 * 2, : w // 2 * 2]
  # Lines p and q of two pairs that are `new` pairs apart: 2 new + q - p lines.
  line, offset, new = np.ix_(
    (0, 1), range(-old, old + 1), range(-radius, radius + 1)
  )
  share = sum(offset == 2 * new + q - line for q in (0, 1)) / 4
  pairs = k.reshape(3, h // 2, 2, w // 2, 2, *k.shape[3:])
  k = jnp.einsum('kipjqab,pac,qbd->kijcd', pairs, share, share)
  # An odd image loses its last line: pairs with it are outside from now on.
  return jnp.where(_inside(k), k, 0.0)


def _inside(k):
  """Whether the second pixel of a pair lies within the image."""
  radius = k.shape[3] // 2
  rows, cols = (_moved(size, radius).any(1) for size in k.shape[1:3])
  return rows[:, None, :, None] & cols[None, :, None, :]


@jax.custom_jvp
def expect_relu(k12: jax.Array, k1: jax.Array, k2: jax.Array) -> jax.Array:
  """E relu(u) relu(v); Cho and Saul (2009), https://arxiv.org/abs/1112.3712.

  The derivative is in closed form: second derivatives at u = v, where automatic
  ones subtract infinities, then come out exact.
  """
  sine, angle = _sine_and_angle(k12, k1, k2)
  return (sine + (jnp.pi - angle) * k12) / (2 * jnp.pi)


@expect_relu.defjvp
def _expect_relu_jvp(primals, tangents):
  k12, k1, k2 = primals
  d12, d1, d2 = tangents
  sine, angle = _sine_and_angle(k12, k1, k2)
  inverse = lambda k: jnp.where(k > 0, 1 / jnp.where(k > 0, k, 1.0), 0.0)
  out = (jnp.pi - angle) / 2 * d12
  out += sine / 4 * (d1 * inverse(k1) + d2 * inverse(k2))
  return expect_relu(k12, k1, k2), out / jnp.pi


def expect_both_active(
  k12: jax.Array, k1: jax.Array, k2: jax.Array
) -> jax.Array:
  """E relu'(u) relu'(v), the probability that u and v are both positive."""
  return (1 - _sine_and_angle(k12, k1, k2)[1] / jnp.pi) / 2


def _sine_and_angle(k12, k1, k2):
  """sqrt(k1 k2) sin(t) and t, with no derivative where u and v coincide."""
  square = k1 * k2 - k12**2
  apart = square > 64 * jnp.finfo(k12.dtype).eps * k1 * k2
  sine = jnp.sqrt(jnp.where(apart, square, 1.0))
  angle = jnp.arctan2(sine, jnp.where(apart, k12, 1.0))
  along = jnp.where(k12 < 0, jnp.pi, 0.0)
  return jnp.where(apart, sine, 0.0), jnp.where(apart, angle, along)


def expect_erf(k12: jax.Array, k1: jax.Array, k2: jax.Array) -> jax.Array:
  """E erf(u) erf(v); Williams (1997)."""
  return (
    2 / jnp.pi * jnp.arcsin(2 * k12 / jnp.sqrt((1 + 2 * k1) * (1 + 2 * k2)))
  )


EXPECT = {'relu': expect_relu, 'erf': expect_erf}


def kernel_fn(**architecture: Any) -> Callable:
  """Returns `(xs1, xs2) -> [n1, n2]` for the arguments of `pooled_kernel`."""
  one = functools.partial(pooled_kernel, **architecture)

  def kernel(xs1, xs2=None):
    xs2 = xs1 if xs2 is None else xs2
    return jax.vmap(lambda x: jax.vmap(lambda y: one(x, y))(xs2))(xs1)

  return kernel
