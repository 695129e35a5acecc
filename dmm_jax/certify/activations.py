"""Activations other than ReLU, and linear bounds of them on intervals.

Of a function whose second derivative is at most M in size, the largest distance
from a chord of length d is M d^2 / 8. So its difference from a line is bounded
on an interval by its values at `POINTS` of a grid, and that much: a proof for
any slope, convex or not.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

POINTS = 129  # Of the grid on an interval.
ROUNDING = 1e-12  # Of a value in float64, relative to it and to 1.
AGREE = 1e-5  # Between a function of the user's and one of `SMOOTH`, float32.


class Smooth(NamedTuple):
  """An activation and a bound of its second derivative's size."""

  fn: Callable
  bend: float


def _gelu(z):
  return jax.nn.gelu(z, approximate=False)


def _gelu_tanh(z):
  return jax.nn.gelu(z, approximate=True)


# Largest second derivatives: 3^0.5 / 18 = 0.0962, 4 / 27^0.5 = 0.770, 1/4 and
# 1/2 at 0, and (2 / pi)^0.5 = 0.798 at 0 for both kinds of GELU.
SMOOTH = {
  'logistic': Smooth(jax.nn.sigmoid, 0.0963),
  'tanh': Smooth(jnp.tanh, 0.7699),
  'softplus': Smooth(jax.nn.softplus, 0.2501),
  'silu': Smooth(jax.nn.silu, 0.5001),
  'gelu': Smooth(_gelu, 0.7979),
  'gelu_tanh': Smooth(_gelu_tanh, 0.7979),
}
KINDS = ('relu', 'identity', *SMOOTH)
# Of several values together; the second is of 0 too. See `operators`.
MAXIMA = ('max', 'relu_max')


def recognize(fn: Callable, shape: tuple) -> str | None:
  """Return the name of an elementwise function in `SMOOTH`, or None.

  By its values at several thousand numbers from -40 to 40, so that a function
  is what it does, not what it is called.

  Args:
    fn: a function of one array.
    shape: of the array.
  """
  size = int(np.prod(shape, dtype=int))
  ends = np.concatenate([np.linspace(-6, 6, 4001), np.linspace(-40, 40, 999)])
  tried = np.resize(ends, (-(-len(ends) // size), *shape))
  found = np.stack([np.asarray(fn(z)) for z in tried])
  for name, (smooth, _) in SMOOTH.items():
    want = np.asarray(smooth(tried))
    if np.all(np.abs(found - want) <= AGREE * (1 + np.abs(want))):
      return name
  return None


def values(kinds: jax.Array, z: jax.Array) -> jax.Array:
  """Return the activations of values z; `kinds` are places in `KINDS`."""
  kinds = jnp.broadcast_to(kinds, z.shape)
  found = jnp.where(kinds == 0, jnp.maximum(z, 0.0), z)
  for name, smooth in SMOOTH.items():
    kind = KINDS.index(name)
    found = jnp.where(kinds == kind, smooth.fn(z), found)
  return found


def bounds(kinds: jax.Array, low: jax.Array, high: jax.Array) -> tuple:
  """Return lines below and above each activation on `[low, high]`, `[n]` each.

  Returns:
    `(slope, offset, slope, offset)`, of the lines below and above. For ReLUs
    and identities it is the identity's.
  """
  one, zero = jnp.ones_like(low), jnp.zeros_like(low)
  found: tuple = one, zero, one, zero
  for name, smooth in SMOOTH.items():
    lines = lines_of(smooth, low, high)
    here = kinds == KINDS.index(name)
    pairs = zip(lines, found, strict=True)
    found = tuple(jnp.where(here, new, old) for new, old in pairs)
  return found


def lines_of(smooth: Smooth, low: jax.Array, high: jax.Array) -> tuple:
  """Return lines below and above one activation on `[low, high]`, as `bounds`.

  Of several slopes those whose lines are closest in the middle.
  """
  middle, width = (low + high) / 2, high - low
  share = jnp.linspace(0.0, 1.0, POINTS, dtype=low.dtype)
  grid = low[None] + width[None] * share[:, None]
  heights = smooth.fn(grid)
  derivative = jax.vmap(jax.grad(smooth.fn))
  chord = (heights[-1] - heights[0]) / jnp.where(width > 0, width, 1.0)
  slopes = jnp.stack([chord, *map(derivative, (low, middle, high))])
  gaps = heights[None] - slopes[:, None] * grid[None]
  tallest, farthest = (jnp.max(jnp.abs(v), 0) for v in (heights, grid))
  size = 1 + tallest[None] + jnp.abs(slopes) * farthest[None]
  slack = smooth.bend * (width / (POINTS - 1)) ** 2 / 8
  slack = slack[None] + ROUNDING * size
  below, above = jnp.min(gaps, 1) - slack, jnp.max(gaps, 1) + slack
  pick = lambda v, i: jnp.take_along_axis(v, i[None], 0)[0]
  lowest = jnp.argmax(slopes * middle[None] + below, 0)
  highest = jnp.argmin(slopes * middle[None] + above, 0)
  return (
    pick(slopes, lowest),
    pick(below, lowest),
    pick(slopes, highest),
    pick(above, highest),
  )
