"""Draws of the infinitely wide network itself."""

from collections.abc import Callable
import functools

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
import numpy as np

from dmm_jax import norms
from dmm_jax.nngp import checks
from dmm_jax.nngp import gradients
from dmm_jax.nngp.checks import as_double
from dmm_jax.nngp.gradients import double_precision
from dmm_jax.nngp.gradients import gradient_covariance
from dmm_jax.nngp.gradients import square_root


@double_precision
def gradient_draws(
  key: jax.Array, kernel_fn: Callable, x: ArrayLike, num: int
) -> tuple[np.ndarray, np.ndarray]:
  """Draws (f(x), grad f(x)) of `num` infinite networks, jointly and exactly.

  Builds the covariance of all n + 1 numbers: O(n^3), for n up to some
  thousands.

  Returns:
    `[num]` and `[num, ...]`.
  """
  root = square_root(_joint_covariance(kernel_fn, as_double(x)))
  noise = np.asarray(jax.random.normal(key, (num, len(root)), jnp.float64))
  draws = noise @ root
  return draws[:, 0], draws[:, 1:].reshape(num, *np.shape(x))


def _joint_covariance(kernel_fn, x):
  """Covariance of (f(x), grad f(x)), `[1 + n, 1 + n]`."""
  value, slope = gradients.evaluate(_value_and_slope, kernel_fn, x)
  out = np.empty((x.size + 1, x.size + 1))
  out[0, 0] = value
  out[0, 1:] = out[1:, 0] = np.ravel(slope)
  out[1:, 1:] = gradient_covariance(kernel_fn, x)
  return out


def _value_and_slope(x, *, kernel_fn):
  """Returns `(K(x, y), dK(x, y) / dy)` at y = x."""
  k = functools.partial(gradients.covariance, kernel_fn=kernel_fn)
  return jax.value_and_grad(k, 1)(x, x)


@double_precision
def ray_draws(
  key: jax.Array,
  kernel_fn: Callable,
  x: ArrayLike,
  direction: ArrayLike,
  distances: ArrayLike,
  num: int,
) -> np.ndarray:
  """Draws f at `x + distance * direction` for `num` infinite networks.

  Returns:
    `[num, len(distances)]`, exact at those points.
  """
  x, direction = as_double(x), as_double(direction, 'direction')
  steps = as_double(distances, 'distances').reshape(-1, *([1] * x.ndim))
  points = x[None] + steps * direction[None]
  covariance = np.asarray(kernel_fn(points, None, 'nngp'))
  noise = jax.random.normal(key, (num, len(points)), jnp.float64)
  return np.asarray(noise) @ square_root(covariance)


@double_precision
def distance_draws(
  key: jax.Array,
  kernel_fn: Callable,
  x: ArrayLike,
  norm: float,
  num: int,
  *,
  reach: float = 4.0,
  num_points: int = 64,
) -> tuple[np.ndarray, np.ndarray]:
  """Draws how far infinite networks' boundaries are, straight ahead.

  Each draw takes (f(x), grad f(x)), walks in the direction that is nearest to
  first order, and draws f at evenly spaced points of that ray given both: the
  first sign change, interpolated, is a distance that includes the margin's
  curvature, where |f| / ||grad f||_q has none.

  Args:
    key: for all draws.
    kernel_fn: as of an architecture above; dense and unpooled ones are fast.
    x: one input of at most some thousand entries (see `gradient_draws`).
    norm: any p >= 1.
    num: networks.
    reach: how far to walk, in units of the linear estimate.
    num_points: on the ray; the distance's resolution is far finer.

  Returns:
    `(linear, straight)`, both `[num]`, in `norm`: the linear estimate, and the
    crossing, inf where the sign did not change within reach. Both are 0 where
    K(x, x) is 0, as for a blank image without biases: x is on the boundary.
  """
  checks.check_norm(norm)
  x = as_double(x)
  joint = _joint_covariance(kernel_fn, x)
  if joint[0, 0] == 0:
    return np.zeros(num), np.zeros(num)
  key_draws, key_rays = jax.random.split(key)
  root = square_root(joint)
  draws = jax.random.normal(key_draws, (num, len(root)), jnp.float64) @ root
  inverse = jnp.asarray(np.linalg.pinv(joint, hermitian=True))
  noise = jax.random.normal(key_rays, (num, num_points), jnp.float64)
  fractions = reach * (jnp.arange(num_points) + 1) / num_points
  args = x, draws, noise, inverse, fractions
  linear, straight = gradients.evaluate(
    _walk, kernel_fn, *args, norm=float(norm)
  )
  return np.asarray(linear), np.asarray(straight)


def _walk(x, draws, noise, inverse, fractions, *, kernel_fn, norm):
  """Returns `distance_draws` of draws `[m, 1 + n]` and noise `[m, points]`."""
  k = functools.partial(gradients.covariance, kernel_fn=kernel_fn)
  q = norms.dual(norm)

  def one(draw, noise):
    value, gradient = draw[0], draw[1:].reshape(x.shape)
    linear = jnp.abs(value) / norms.norm(gradient, q)
    downhill = -jnp.sign(value) * _dual_direction(gradient, q)
    steps = (fractions * linear).reshape(-1, *([1] * x.ndim))
    points = x[None] + steps * downhill[None]
    to_value = jax.vmap(lambda p: k(p, x))(points)
    to_gradient = jax.vmap(lambda p: jax.grad(k, 1)(p, x).ravel())(points)
    known = jnp.concatenate([to_value[:, None], to_gradient], 1)
    weights = known @ inverse
    among = jax.vmap(lambda p: jax.vmap(lambda r: k(p, r))(points))(points)
    values, vectors = jnp.linalg.eigh(among - weights @ known.T)
    root = vectors * jnp.sqrt(jnp.maximum(values, 0.0))[None]
    f = weights @ draw + root @ noise
    f = jnp.concatenate([value[None], f]) * jnp.sign(value)
    i = jnp.argmax(f < 0)
    found = f[i] < 0
    ends = jnp.concatenate([jnp.zeros(1), fractions])
    fraction = f[i - 1] / jnp.where(found, f[i - 1] - f[i], 1.0)
    crossing = ends[i - 1] + fraction * (ends[i] - ends[i - 1])
    return linear, jnp.where(found, crossing * linear, jnp.inf)

  return jax.lax.map(lambda args: one(*args), (draws, noise))


def _dual_direction(gradient, q):
  """The v with ||v||_p = 1 that maximises gradient . v = ||gradient||_q."""
  size = jnp.abs(gradient)
  if q == np.inf:
    return jnp.sign(gradient) * (size == jnp.max(size))
  return jnp.sign(gradient) * (size / norms.norm(gradient, q)) ** (q - 1)
