"""Infinitely wide random networks: their kernels and the distance law.

As its width grows, a network with random weights becomes a Gaussian process f
whose kernel K depends on the architecture alone: the NNGP. Its class is the
sign of f (for two logits f is their difference, with kernel 2 K, and every
distance below is the same). Architectures are triples `(init_fn, apply_fn,
kernel_fn)` as in neural-tangents. What follows from the kernel at one input x:

  C = d^2 K / dx dy at y = x, the covariance of the gradient of f;
  s_p = sqrt(K(x, x)) / E||N(0, C)||_q, with 1/p + 1/q = 1: the l^p distance of
  x from the boundary is asymptotically |N(0, 1)| s_p (`distance_scale`);
  an upper bound on the probability that it is small (`flip_bound`).

All of it is computed in double precision whatever JAX's default, and on the
host: call these functions outside `jit`.
"""

from collections.abc import Callable
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from scipy import optimize
from scipy import special
from scipy import stats

from dmm_jax import norms
from dmm_jax import pooled_kernel
from dmm_jax._neural_tangents import stax

SQRT_2 = math.sqrt(2.0)
EXACT_SIZE = 512  # Inputs up to this size get their whole C.

_ACTIVATIONS = {'relu': stax.Relu, 'erf': stax.Erf}
# Largest E(phi(u) - phi(v))^2 / E(u - v)^2 over jointly normal u, v.
_ACTIVATION_GAIN = {'relu': 0.5, 'erf': 4 / math.pi}


def fully_connected(
  depth: int = 2,
  sigma_w: float = SQRT_2,
  sigma_b: float = 0.0,
  *,
  width: int = 100,
  activation: str = 'relu',
):
  """Returns `(init_fn, apply_fn, kernel_fn)` of a dense network, scalar output.

  Args:
    depth: hidden layers.
    sigma_w: weights are N(0, sigma_w^2 / fan_in).
    sigma_b: biases are N(0, sigma_b^2).
    width: of hidden layers of the finite network; the kernel has none.
    activation: 'relu' or 'erf'.
  """
  dense = functools.partial(_dense, sigma_w=sigma_w, sigma_b=sigma_b)
  layers = [stax.Flatten()]
  for _ in range(depth):
    layers += [dense(width), _activation(activation)]
  gain = _gain(depth, sigma_w, activation)
  return _triple([*layers, dense(1)], gain)


def convolutional(
  depth: int = 4,
  sigma_w: float = SQRT_2,
  sigma_b: float = 0.0,
  *,
  width: int = 128,
  activation: str = 'relu',
):
  """Returns the triple of `depth` 3x3 convolutions, then a dense readout.

  Inputs are `[h, w, c]`; padding is SAME. Arguments as `fully_connected`;
  `width` counts channels.
  """
  layers = []
  for _ in range(depth):
    layers += [_conv(width, sigma_w, sigma_b), _activation(activation)]
  layers += [stax.Flatten(), _dense(1, sigma_w, sigma_b)]
  return _triple(layers, _gain(depth, sigma_w, activation))


def lenet(
  sigma_w: float = SQRT_2,
  sigma_b: float = 0.0,
  *,
  width: int = 128,
  dense_width: int = 512,
  activation: str = 'relu',
):
  """Returns the triple of De Palma et al.'s LeNet: 4 convolutions, 2 dense.

  Average pooling, 2x2, follows the second and the fourth convolution. Inputs
  are `[h, w, c]` with h, w >= 4. Its NNGP kernel is our own (`pooled_kernel`).
  """
  conv = lambda: _conv(width, sigma_w, sigma_b)
  dense = functools.partial(_dense, sigma_w=sigma_w, sigma_b=sigma_b)
  act = lambda: _activation(activation)
  pool = lambda: stax.AvgPool((2, 2), strides=(2, 2))
  stage = lambda: [conv(), act(), conv(), act(), pool()]
  head = [dense(dense_width), act(), dense(dense_width), act(), dense(1)]
  # Averaging lengthens no difference of features, so pooling adds no gain.
  gain = _gain(6, sigma_w, activation)
  fast = pooled_kernel.kernel_fn(
    convs=(2, 2),
    dense=2,
    sigma_w=sigma_w,
    sigma_b=sigma_b,
    expect=pooled_kernel.EXPECT[activation],
  )
  return _triple([*stage(), *stage(), stax.Flatten(), *head], gain, fast)


def resnet(
  depth: int = 19,
  sigma_w: float = SQRT_2,
  sigma_b: float = 0.0,
  *,
  width: int = 32,
  activation: str = 'relu',
):
  """Returns the triple of a pre-activation residual network, three stacks.

  Channels are `width` times 1, 2, 4; the second and third stack halve the
  image, with a 1x1 convolution on the shortcut. `depth` counts the hidden 3x3
  convolutions, 1 + 6 per block of each stack: 19 is a ResNet-20 with its
  readout. The post-addition form of De Palma et al. has no closed kernel.
  """
  if depth < 7 or depth % 6 != 1:
    raise ValueError(f'depth must be 7, 13, 19, ..., got {depth}')
  act = lambda: _activation(activation)
  layers = [_conv(width, sigma_w, sigma_b)]
  for stack in range(3):
    for block in range((depth - 1) // 6):
      channels, stride = width * 2**stack, 2 if stack and not block else 1
      conv = functools.partial(
        _conv, channels, sigma_w=sigma_w, sigma_b=sigma_b
      )
      skip = stax.Identity() if stride == 1 else conv(size=1, stride=2)
      branch = stax.serial(act(), conv(stride=stride), act(), conv())
      layers += [stax.FanOut(2), stax.parallel(branch, skip), stax.FanInSum()]
  layers += [act(), stax.Flatten(), _dense(1, sigma_w, sigma_b)]
  return _triple(layers, None)


def _activation(name):
  if name not in _ACTIVATIONS:
    known = ', '.join(_ACTIVATIONS)
    raise ValueError(f'activation must be one of {known}, got {name!r}')
  return _ACTIVATIONS[name]()


def _dense(width, sigma_w, sigma_b):
  return stax.Dense(width, W_std=sigma_w, b_std=sigma_b or None)


def _conv(width, sigma_w, sigma_b, *, size=3, stride=1):
  return stax.Conv(
    width,
    (size, size),
    strides=(stride, stride),
    padding='SAME',
    W_std=sigma_w,
    b_std=sigma_b or None,
  )


def _gain(depth, sigma_w, activation):
  """M^2 with E(f(x) - f(y))^2 <= M^2 ||x - y||_2^2 / n, for plain stacks."""
  _activation(activation)
  return sigma_w**2 * (sigma_w**2 * _ACTIVATION_GAIN[activation]) ** depth


def _triple(layers, gain, fast=None):
  init_fn, apply_fn, full_kernel_fn = stax.serial(*layers)

  def kernel_fn(xs1, xs2=None, get='nngp', **options):
    """Returns the kernel `[n1, n2]` between the rows of `xs1` and `xs2`."""
    if fast is not None and get == 'nngp' and not options:
      return fast(xs1, xs2)
    return full_kernel_fn(xs1, xs2, get, **options)

  kernel_fn.gain = gain
  return init_fn, apply_fn, kernel_fn


def double_precision(fn):
  """Runs `fn` with JAX in float64, so that float inputs stay exact."""

  @functools.wraps(fn)
  def wrapped(*args, **kwargs):
    with jax.enable_x64(True):
      return fn(*args, **kwargs)

  return wrapped


@functools.lru_cache(maxsize=64)
def _pair(kernel_fn):
  """`(k, (x, v) -> C v)` for one pair of inputs, compiled once a shape."""

  def k(x, y):
    return kernel_fn(x[None], y[None], 'nngp')[0, 0]

  def covariance_times(x, v):
    # `a` moves and y stays at x: only mixed derivatives, none of y twice.
    along = lambda a: jax.jvp(lambda y: k(a, y), (x,), (v,))[1]
    return jax.grad(along)(x)

  def rows(x, vs):
    # In parts: kernels of large images take much memory for each row.
    return jax.lax.map(lambda v: covariance_times(x, v), vs, batch_size=4)

  return jax.jit(k), jax.jit(rows)


def _as_double(x):
  return jnp.asarray(np.asarray(x, np.float64))


@double_precision
def output_variance(kernel_fn: Callable, x) -> float:
  """Returns K(x, x), the variance of the output at one input."""
  x = _as_double(x)
  return float(_pair(kernel_fn)[0](x, x))


@double_precision
def gradient_covariance(kernel_fn: Callable, x) -> np.ndarray:
  """Returns C = d^2 K / dx dy at y = x, `[n, n]`, exactly: n products."""
  x = _as_double(x)
  basis = jnp.eye(x.size).reshape(-1, *x.shape)
  c = np.asarray(_pair(kernel_fn)[1](x, basis)).reshape(x.size, x.size)
  return (c + c.T) / 2


@double_precision
def gradient_variance(
  kernel_fn: Callable, x, *, num_probes: int | None = None, seed: int = 0
) -> np.ndarray:
  """Returns the diagonal of C, the variance of each partial derivative of f.

  Averages z * (C z) over random signs z (Hutchinson 1990; Bekas, Kokiopoulou,
  Saad 2007, https://doi.org/10.1016/j.apnum.2007.01.003). Where C is diagonal,
  as for every bias-free ReLU network without pooling, one probe is exact;
  else an entry has variance sum_{j != i} C_ij^2 / num_probes.

  Args:
    kernel_fn: as of an architecture above.
    x: one input.
    num_probes: None for the exact diagonal up to `EXACT_SIZE` inputs and 32
      probes beyond.
    seed: of the probes.

  Returns:
    float64, as `x`. Estimates below zero are raised to zero.
  """
  if num_probes is None and np.size(x) <= EXACT_SIZE:
    return (
      np.diag(gradient_covariance(kernel_fn, x)).reshape(np.shape(x)).copy()
    )
  x = _as_double(x)
  shape = (num_probes or 32, *x.shape)
  signs = jax.random.rademacher(jax.random.key(seed), shape, jnp.float64)
  return np.maximum(np.mean(signs * _pair(kernel_fn)[1](x, signs), 0), 0.0)


def distance_scale(
  kernel_fn: Callable,
  x,
  norm: float,
  *,
  bounds: tuple[float, float] | None = None,
  num_probes: int | None = None,
  num_draws: int = 1000,
  seed: int = 0,
) -> float:
  """Returns s such that the l^p distance of x is asymptotically |N(0, 1)| s.

  To first order the distance is |f(x)| / ||grad f(x)||_q. The numerator is
  |N(0, K)|, and the denominator concentrates: on sqrt(tr C) for p = 2, on
  sqrt(2 / pi) sum_i sqrt(C_ii) for p = inf, and on E||N(0, C)||_q, drawn,
  otherwise. What can mislead is curvature at small n: a margin that bends
  makes real distances larger, by a relative amount that vanishes with n.

  Args:
    kernel_fn: as of an architecture above.
    x: one input, of n entries.
    norm: any p >= 1.
    bounds: None, or the box `(low, high)` that perturbed inputs stay in (norm
      1, 2 or inf). In a box the law is not half-normal; s is then chosen to
      make the median right. It matters for p = 1, whose shortest step would
      change one pixel without limit.
    num_probes: as for `gradient_variance`.
    num_draws: gradients drawn where there is no closed form; the error of s is
      about 0.3 % with the default. Beyond `EXACT_SIZE` inputs their entries
      are drawn independently, which is exact where C is diagonal.
    seed: of all draws.

  Returns:
    s in input units; inf if the gradient is zero.
  """
  if np.size(x) <= EXACT_SIZE and num_probes is None:
    root = _square_root(gradient_covariance(kernel_fn, x))
  else:
    variance = gradient_variance(kernel_fn, x, num_probes=num_probes, seed=seed)
    root = np.sqrt(variance.ravel())
  return scale_of_gradient(
    math.sqrt(output_variance(kernel_fn, x)),
    root,
    x,
    norm,
    bounds=bounds,
    num_draws=num_draws,
    seed=seed,
  )


def scale_of_gradient(
  sigma: float,
  root: np.ndarray,
  x,
  norm: float,
  *,
  bounds: tuple[float, float] | None = None,
  num_draws: int = 1000,
  seed: int = 0,
) -> float:
  """Returns `distance_scale` for f(x) ~ N(0, sigma^2) and a given gradient law.

  Args:
    sigma: standard deviation of the output.
    root: standard deviations of the gradient's entries `[n]` if independent,
      or a symmetric square root of their covariance `[n, n]`.
    x, norm, bounds, num_draws, seed: as for `distance_scale`.
  """
  if bounds is None and norm in (2, np.inf):
    deviations = root if root.ndim == 1 else np.linalg.norm(root, axis=1)
    mean_abs = math.sqrt(2 / math.pi) * np.sum(deviations)
    return _ratio(sigma, np.linalg.norm(root) if norm == 2 else mean_abs)
  rng = np.random.default_rng(seed)
  noise = rng.standard_normal((num_draws, np.size(x)))
  gradients = noise * root if root.ndim == 1 else noise @ root
  if bounds is None:
    size = np.linalg.norm(gradients, norms.dual(norm), axis=1)
    return _ratio(sigma, np.mean(size))
  # Evenly spaced quantiles of |f| instead of draws: the median needs no luck.
  gaps = sigma * stats.halfnorm.ppf((np.arange(num_draws) + 0.5) / num_draws)
  steps = _box_distances(
    gradients.astype(np.float32),
    gaps.astype(np.float32),
    np.ravel(x).astype(np.float32),
    np.float32(bounds[0]),
    np.float32(bounds[1]),
    norm=norm,
  )
  return float(np.median(steps) / stats.halfnorm.ppf(0.5))


def _ratio(sigma, size):
  return float(sigma / size) if size > 0 else math.inf


@functools.partial(jax.jit, static_argnames='norm')
def _box_distances(gradients, gaps, x, low, high, *, norm):
  """l^p distances to linear boundaries within a box; inf out of reach."""

  def one(gradient, gap):
    step = norms.smallest_step(gradient, gap, low - x, high - x, norm=norm)
    reached = jnp.sum(gradient * step) >= gap * (1 - 1e-3)
    return jnp.where(reached, norms.norm(step, norm), jnp.inf)

  return jax.vmap(one)(gradients, gaps)


def _square_root(covariance):
  """Returns a symmetric square root; negative rounding errors become zero."""
  values, vectors = np.linalg.eigh(covariance)
  return (vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T


def distance_cdf(scales, radius) -> np.ndarray:
  """Returns P(distance <= radius) under the law, averaged over `scales`."""
  radius = np.asarray(radius, float)
  ratio = radius[..., None] / np.ravel(scales) / SQRT_2
  return np.mean(special.erf(ratio), axis=-1)


def distance_quantile(scales, probability: float) -> float:
  """Returns the quantile of the law over inputs of the given `scales`.

  One input has the half-normal quantile `0.6745 s` for the median; several
  have the quantile of their mixture.
  """
  scales = np.ravel(scales)
  unit = stats.halfnorm.ppf(probability)
  low, high = unit * np.min(scales), unit * np.max(scales)
  if not low < high or not np.isfinite(high):
    return float(high)
  return optimize.brentq(
    lambda r: distance_cdf(scales, r) - probability, low, high, rtol=1e-10
  )


def flip_bound(
  kernel_fn: Callable,
  x,
  radius,
  norm: float,
  *,
  gain: float | None = None,
  variance: float | None = None,
):
  """Bounds the probability that the boundary lies within `radius` of x.

  Holds at every n, not only asymptotically. With M as in `gain` below, lambda
  = M ||x||_2 / sqrt(n K), and r_2 the largest l2 norm in the l^p ball of
  radius r,

    P(d_p(x) <= r) <= sqrt(2/pi) lambda (r E||g||_q / ||x||_2)
                      / (1 - lambda r_2 / ||x||_2),   g ~ N(0, I_n),

  and 1 where the right side exceeds it or its denominator is not positive.

  Proof sketch. Regress f on its value at x: f(y) = rho(y) f(x) + psi(y) with
  psi independent of f(x), zero at x, and |1 - rho(y)| <= M ||y - x||_2 /
  sqrt(n K) by Cauchy-Schwarz. A sign change within the ball needs sup psi >=
  min rho |f(x)|; as the density of |f(x)| is at most sqrt(2 / (pi K)), that
  has probability at most sqrt(2 / (pi K)) E[sup psi] / min rho. The increments
  of psi are no larger than those of the linear process M g.(y - x) / sqrt(n),
  so by Sudakov-Fernique E[sup psi] <= M r E||g||_q / sqrt(n).

  This is our own derivation, with the scaling of De Palma, Kiani, Lloyd (2021),
  https://arxiv.org/abs/2004.05923; it is not their theorem.

  Args:
    kernel_fn: as of an architecture above.
    x: one input, of n entries.
    radius: number or array, in input units.
    norm: any p >= 1.
    gain: M^2, such that E(f(y) - f(z))^2 <= M^2 ||y - z||_2^2 / n for all y, z.
      None takes what the architecture knows of itself: sigma_w^2 (sigma_w^2
      g)^depth, with g = 1/2 for ReLU and 4/pi for erf, or else n times the
      largest entry of C at x, which is exact for ReLU without pooling, where C
      is diagonal and the same everywhere.
    variance: K(x, x), if it is at hand.

  Returns:
    The bound, as `radius`.
  """
  x, radius = np.asarray(x, float), np.asarray(radius, float)
  n = x.size
  gain = getattr(kernel_fn, 'gain', None) if gain is None else gain
  if gain is None:
    gain = n * float(np.max(gradient_variance(kernel_fn, x, num_probes=32)))
  if variance is None:
    variance = output_variance(kernel_fn, x)
  per_unit = math.sqrt(gain / n / variance)
  widest = radius * n ** max(0.0, 0.5 - 1 / norm)
  room = 1 - per_unit * widest
  slope = math.sqrt(2 / math.pi) * per_unit * _mean_dual_norm(n, norm)
  with np.errstate(divide='ignore', invalid='ignore'):
    bound = np.where(room > 0, slope * radius / room, 1.0)
  return np.clip(bound, 0.0, 1.0)


def _mean_dual_norm(n, norm):
  """An upper bound on E||g||_q, g ~ N(0, I_n); exact for p = 2 and inf."""
  if norm == 1:
    return math.sqrt(2 * math.log(2 * n))
  if norm == 2:
    return SQRT_2 * math.exp(
      special.gammaln((n + 1) / 2) - special.gammaln(n / 2)
    )
  q = norms.dual(norm)
  moment = math.exp(special.gammaln((q + 1) / 2)) / math.sqrt(math.pi)
  return n ** (1 / q) * SQRT_2 * moment ** (1 / q)


@double_precision
def gradient_draws(
  key: jax.Array, kernel_fn: Callable, x, num: int
) -> tuple[np.ndarray, np.ndarray]:
  """Draws (f(x), grad f(x)) of `num` infinite networks, jointly and exactly.

  Builds the covariance of all n + 1 numbers: O(n^3), for n up to some
  thousands.

  Returns:
    `[num]` and `[num, ...]`.
  """
  root = _square_root(_joint_covariance(kernel_fn, _as_double(x)))
  noise = np.asarray(jax.random.normal(key, (num, len(root)), jnp.float64))
  draws = noise @ root
  return draws[:, 0], draws[:, 1:].reshape(num, *np.shape(x))


def _joint_covariance(kernel_fn, x):
  """Covariance of (f(x), grad f(x)), `[1 + n, 1 + n]`."""
  k = _pair(kernel_fn)[0]
  out = np.empty((x.size + 1, x.size + 1))
  out[0, 0] = k(x, x)
  out[0, 1:] = out[1:, 0] = np.ravel(jax.grad(k, 1)(x, x))
  out[1:, 1:] = gradient_covariance(kernel_fn, x)
  return out


@double_precision
def ray_draws(
  key: jax.Array, kernel_fn: Callable, x, direction, distances, num: int
) -> np.ndarray:
  """Draws f at `x + distance * direction` for `num` infinite networks.

  Returns:
    `[num, len(distances)]`, exact at those points.
  """
  x, direction = _as_double(x), _as_double(direction)
  steps = _as_double(distances).reshape(-1, *([1] * x.ndim))
  points = x[None] + steps * direction[None]
  covariance = np.asarray(kernel_fn(points, None, 'nngp'))
  noise = jax.random.normal(key, (num, len(points)), jnp.float64)
  return np.asarray(noise) @ _square_root(covariance)


@double_precision
def distance_draws(
  key: jax.Array,
  kernel_fn: Callable,
  x,
  norm: float,
  num: int,
  *,
  reach: float = 4.0,
  num_points: int = 64,
) -> tuple[np.ndarray, np.ndarray]:
  """Draws how far infinite networks' boundaries are, straight ahead.

  Each draw takes (f(x), grad f(x)), walks in the direction that is nearest to
  first order, and draws f at evenly spaced points of that ray given both: the
  first sign change, interpolated, is a distance that has the margin's real
  curvature in it, where |f| / ||grad f||_q has none.

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
    crossing, inf where the sign did not change within reach.
  """
  x = _as_double(x)
  joint = _joint_covariance(kernel_fn, x)
  key_draws, key_rays = jax.random.split(key)
  root = _square_root(joint)
  draws = jax.random.normal(key_draws, (num, len(root)), jnp.float64) @ root
  inverse = jnp.asarray(np.linalg.pinv(joint, hermitian=True))
  noise = jax.random.normal(key_rays, (num, num_points), jnp.float64)
  fractions = reach * (jnp.arange(num_points) + 1) / num_points
  walk = _walker(kernel_fn, norm)
  linear, straight = walk(x, draws, noise, inverse, fractions)
  return np.asarray(linear), np.asarray(straight)


@functools.lru_cache(maxsize=16)
def _walker(kernel_fn, norm):
  k = _pair(kernel_fn)[0]
  q = norms.dual(norm)

  def one(x, draw, noise, inverse, fractions):
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
    share = f[i - 1] / jnp.where(found, f[i - 1] - f[i], 1.0)
    crossing = ends[i - 1] + share * (ends[i] - ends[i - 1])
    return linear, jnp.where(found, crossing * linear, jnp.inf)

  @jax.jit
  def walk(x, draws, noise, inverse, fractions):
    run = lambda args: one(x, *args, inverse, fractions)
    return jax.lax.map(run, (draws, noise))

  return walk


def _dual_direction(gradient, q):
  """The v with ||v||_p = 1 that maximises gradient . v = ||gradient||_q."""
  size = jnp.abs(gradient)
  if q == np.inf:
    return jnp.sign(gradient) * (size == jnp.max(size))
  return jnp.sign(gradient) * (size / norms.norm(gradient, q)) ** (q - 1)
