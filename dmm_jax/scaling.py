"""How distances from the boundary depend on the dimension of inputs."""

from collections.abc import Callable

import numpy as np
from scipy import special

from dmm_jax import statistics


def laws(n: np.ndarray, norm: float) -> dict[str, float]:
  """Returns slopes of log(d_p / ||x||_p) on log n, by what d_p grows as."""
  slope = statistics.log_slope(n)
  found = {'sqrt(n)': -0.5}
  if norm == 1:
    found['sqrt(n/ln n)'] = float(slope(np.sqrt(n / np.log(n)) / n))
  return found


def mixture_median(scales: np.ndarray) -> np.ndarray:
  """Returns the median of |N(0, s^2)|, s drawn from `scales`.

  Newton's method on the mixture's distribution function, which is concave: from
  below it climbs to the root.

  Args:
    scales: 0 or larger `[..., m, k]`; the last two axes are the sample.

  Returns:
    `[...]`, to rounding; 0 where at least half of the scales are 0.
  """
  scales = np.asarray(scales, float)
  positive = scales > 0
  scales = np.where(positive, scales, 1.0)
  median = np.zeros(scales.shape[:-2])
  for _ in range(60):
    z = np.where(positive, median[..., None, None] / scales, np.inf)
    rest = 0.5 - special.erf(z / np.sqrt(2)).mean((-2, -1))
    density = (np.exp(-(z**2) / 2) / scales).mean((-2, -1))
    slope = density * np.sqrt(2 / np.pi)
    step = np.maximum(rest, 0) / np.where(slope > 0, slope, 1.0)
    median = median + step
    if not np.any(np.abs(step) > 1e-12 * median):
      break
  return median


def median_slope(n: np.ndarray) -> Callable:
  """Returns a statistic: least squares of log median on log n.

  Its samples, one for each n, are `[networks, images]`.
  """
  slope = statistics.log_slope(n)
  return lambda *rows: slope(
    np.stack([statistics.sample_median(r) for r in rows], -1)
  )


def less_certain(
  found: statistics.Estimate,
  constant: statistics.Estimate,
  *,
  factor: bool = False,
) -> statistics.Estimate:
  """Returns an estimate with the uncertainty of a constant that went into it.

  Only the interval changes: by that of a sum of two independent estimates, as
  of `statistics.difference`, or of a product (`statistics.ratio`).

  Args:
    found: made with the value of `constant` as if that were exact.
    constant: a term, or a factor, of it.
    factor: which.
  """
  value, low, high = constant[:3]
  if factor:
    one = constant._replace(value=1.0, low=value / high, high=value / low)
    return statistics.ratio(found, one)._replace(value=found.value)
  none = constant._replace(value=0.0, low=value - high, high=value - low)
  return statistics.difference(found, none)
