"""How distances from the boundary depend on the dimension of inputs."""

from collections.abc import Callable

import numpy as np

from dmm_jax import statistics


def laws(n: np.ndarray, norm: float) -> dict[str, float]:
  """Returns slopes of log(d_p / ||x||_p) on log n, by what d_p grows as."""
  slope = statistics.log_slope(n)
  found = {'sqrt(n)': -0.5}
  if norm == 1:
    found['sqrt(n/ln n)'] = float(slope(np.sqrt(n / np.log(n)) / n))
  return found


def median_slope(n: np.ndarray) -> Callable:
  """Returns a statistic: least squares of log median on log n.

  Its samples, one for each n, are `[networks, images]`.
  """
  slope = statistics.log_slope(n)
  return lambda *rows: slope(
    np.stack([statistics.sample_median(r) for r in rows], -1)
  )
