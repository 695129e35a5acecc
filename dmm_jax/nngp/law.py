"""The distance law, and a bound that holds at every dimension."""

from collections.abc import Callable
import functools
import math

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
import numpy as np
import numpy.typing as npt
from scipy import optimize
from scipy import special
from scipy import stats

from dmm_jax import norms
from dmm_jax.nngp import checks
from dmm_jax.nngp.gradients import EXACT_SIZE
from dmm_jax.nngp.gradients import gradient_covariance
from dmm_jax.nngp.gradients import gradient_variance
from dmm_jax.nngp.gradients import output_variance
from dmm_jax.nngp.gradients import square_root

SQRT_2 = math.sqrt(2.0)


def distance_scale(
  kernel_fn: Callable,
  x: ArrayLike,
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
    x: one input, of n entries, all finite.
    norm: any p >= 1; or 0, the number of changed inputs, within bounds.
    bounds: None, or the box `(low, high)` that x is and stays in. In a box the
      law is not half-normal; s is then chosen to make the median right. It
      matters for p = 1, whose shortest step would change one pixel without
      limit, and all the more for p = 0.
    num_probes: as for `gradient_variance`.
    num_draws: gradients drawn where there is no closed form; the error of s is
      about 0.3 % with the default. Beyond `EXACT_SIZE` inputs their entries
      are drawn independently, which is exact where C is diagonal.
    seed: of all draws.

  Returns:
    s in input units; 0 if K(x, x) is 0, as for a blank image without biases,
    where the output is 0 and x lies on the boundary; else inf if the gradient
    is zero.

  Raises:
    ValueError: for a norm below 1, an input that is not finite or outside of
      the bounds.
  """
  checks.check_norm(norm, bounds)
  variance = output_variance(kernel_fn, x)
  if variance == 0:
    return 0.0
  if np.size(x) <= EXACT_SIZE and num_probes is None:
    root = square_root(gradient_covariance(kernel_fn, x))
  else:
    diagonal = gradient_variance(kernel_fn, x, num_probes=num_probes, seed=seed)
    root = np.sqrt(diagonal.ravel())
  return scale_of_gradient(
    math.sqrt(variance),
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
  x: ArrayLike,
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
  checks.check_norm(norm, bounds)
  x = checks.check_finite(x)
  if bounds is not None:
    x = _within(x, bounds)
  if sigma == 0:
    return 0.0
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


def _within(x, bounds):
  """Returns `x`, clipped to the bounds where rounding moved it out of them."""
  low, high = bounds
  rounding = 1e-6 * max([1.0, *(abs(v) for v in bounds if np.isfinite(v))])
  if not (
    low < high and low - rounding <= x.min() and x.max() <= high + rounding
  ):
    raise ValueError(
      f'x must lie within bounds, low < high, got numbers from {x.min():g} to '
      f'{x.max():g} and bounds {bounds!r}; give the range of the inputs'
    )
  return np.clip(x, low, high)


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


def distance_cdf(
  scales: npt.ArrayLike, radius: ArrayLike, num_classes: int = 2
) -> np.ndarray:
  """Returns P(distance <= radius) under the law, averaged over `scales`.

  Of more than two classes with independent logits of one kernel, the runner-up
  decides: |N(0, 1)| gives way to the gap between the largest two of
  `num_classes` standard normals, over sqrt(2). Where a scale is 0, all
  distances are 0.
  """
  radius, scales = checks.check_radius(radius), np.ravel(scales)
  with np.errstate(divide='ignore', invalid='ignore'):
    ratio = np.where(scales == 0, np.inf, radius[..., None] / scales)
  if num_classes == 2:
    return np.mean(special.erf(ratio / SQRT_2), axis=-1)
  top = np.linspace(-8.0, 8.0, 401)
  others = special.ndtr(top - SQRT_2 * ratio[..., None]) ** (num_classes - 1)
  density = stats.norm.pdf(top) * num_classes
  return np.mean(1 - np.trapezoid(density * others, top), axis=-1)


def distance_quantile(
  scales: npt.ArrayLike, probability: float, num_classes: int = 2
) -> float:
  """Returns the quantile of the law over inputs of the given `scales`.

  One input has the half-normal quantile `0.6745 s` for the median of two
  classes; several have the quantile of their mixture.
  """
  scales = np.ravel(scales)
  unit = stats.halfnorm.ppf(probability)
  if num_classes > 2:
    # More classes come nearer: the half-normal quantile is an upper end.
    unit = optimize.brentq(
      lambda r: distance_cdf(1.0, r, num_classes) - probability, 0.0, unit
    )
  low, high = unit * np.min(scales), unit * np.max(scales)
  if not low < high or not np.isfinite(high):
    return float(high)
  if distance_cdf(scales, low, num_classes) >= probability:
    return float(low)
  return optimize.brentq(
    lambda r: distance_cdf(scales, r, num_classes) - probability,
    low,
    high,
    rtol=1e-10,
  )


def distance_slope(scales: npt.ArrayLike, num_classes: int = 2) -> float:
  """Returns how steeply the law's quantiles start: 1.2533 s for two classes.

  The inverse of its density at 0, averaged over inputs of the given `scales`.
  """
  tops = np.linspace(-8.0, 8.0, 401)
  both = stats.norm.pdf(tops) ** 2 * special.ndtr(tops) ** (num_classes - 2)
  density = SQRT_2 * num_classes * (num_classes - 1) * np.trapezoid(both, tops)
  with np.errstate(divide='ignore'):
    return float(1 / (density * np.mean(1 / np.ravel(scales))))


def flip_bound(
  kernel_fn: Callable,
  x: ArrayLike,
  radius: ArrayLike,
  norm: float,
  *,
  gain: float | None = None,
  variance: float | None = None,
) -> np.ndarray:
  """Bounds the probability that the boundary lies within `radius` of x.

  Holds at every n, not only asymptotically. With M as in `gain` below, lambda
  = M ||x||_2 / sqrt(n K), and r_2 the largest l2 norm in the l^p ball of
  radius r,

    P(d_p(x) <= r) <= sqrt(2/pi) lambda (r E||g||_q / ||x||_2)
                      / (1 - lambda r_2 / ||x||_2),   g ~ N(0, I_n),

  and 1 where the right side exceeds it, where its denominator is not positive,
  and where K(x, x) is 0: a blank image without biases lies on the boundary.

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
    x: one input, of n entries, all finite.
    radius: number or array, in input units, 0 or larger.
    norm: any p >= 1.
    gain: M^2, such that E(f(y) - f(z))^2 <= M^2 ||y - z||_2^2 / n for all y, z.
      None takes what the architecture knows of itself: sigma_w^2 (sigma_w^2
      g)^depth, with g = 1/2 for ReLU and 4/pi for erf, or else n times the
      largest entry of C at x, which is exact for ReLU without pooling, where C
      is diagonal and the same everywhere.
    variance: K(x, x), if it is at hand.

  Returns:
    The bound, as `radius`.

  Raises:
    ValueError: for a norm below 1, a radius that is negative or NaN, an input
      that is not finite.
  """
  checks.check_norm(norm)
  x, radius = checks.check_finite(x), checks.check_radius(radius)
  n = x.size
  if variance is None:
    variance = output_variance(kernel_fn, x)
  if variance == 0:
    return np.ones_like(radius)
  gain = getattr(kernel_fn, 'gain', None) if gain is None else gain
  if gain is None:
    gain = n * float(np.max(gradient_variance(kernel_fn, x, num_probes=32)))
  for name, value in (('gain', gain), ('variance', variance)):
    if not 0 <= value < np.inf:
      raise ValueError(f'{name} must be finite and not negative, got {value!r}')
  per_unit = math.sqrt(gain / n / variance)
  widest = radius * n ** max(0.0, 0.5 - 1 / norm)
  rest = 1 - per_unit * widest
  slope = math.sqrt(2 / math.pi) * per_unit * _mean_dual_norm(n, norm)
  with np.errstate(divide='ignore', invalid='ignore'):
    bound = np.where(rest > 0, slope * radius / rest, 1.0)
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
