"""How distributions of distances begin, and ratios of their statistics."""

from collections.abc import Callable

import numpy as np

from dmm_jax import statistics


def start_slope(values: np.ndarray, share: float = 0.25) -> np.ndarray:
  """Returns the slope of sorted values against their share, where they begin.

  By least squares of a line through 0. The quantile function of distances
  |N(0, 1)| s begins straight, with slope sqrt(pi / 2) s.

  Args:
    values: `[..., m, k]`; the last two axes are the sample.
    share: of the sample, from its least value on, at least 2 values.

  Returns:
    `[...]`; infinite where so many values are.
  """
  flat = values.reshape(*values.shape[:-2], -1)
  num = max(2, int(share * flat.shape[-1]))
  shares = (np.arange(num) + 0.5) / flat.shape[-1]
  return np.sort(flat, axis=-1)[..., :num] @ shares / (shares @ shares)


def sample_ratio(
  statistic: Callable, *parts: np.ndarray, unit: str
) -> statistics.Estimate:
  """Estimates a ratio of statistics of the same units, on the log scale.

  Args:
    statistic: as of `statistics.estimate`.
    *parts: `[m, k]` to multiply by and to divide by, in turn; one alone has no
      ratio, but the statistic itself.
    unit: what m counts; the interval is bootstrapped over them.

  Returns:
    The estimate; NaN where a statistic is not positive and finite.
  """
  ends = np.cumsum([part.shape[1] for part in parts])[:-1]
  signs = np.resize([1, -1], len(parts))

  def log_ratio(values):
    with np.errstate(invalid='ignore', divide='ignore'):
      logs = [np.log(statistic(v)) for v in np.split(values, ends, axis=-1)]
      return np.tensordot(signs, np.array(logs), 1)

  both = np.concatenate(parts, axis=1)
  found = statistics.estimate(log_ratio, both, unit=unit)
  return statistics.transform(found, np.exp)
