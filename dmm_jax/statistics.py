"""Numbers with their intervals: bootstrap, proportions, quantiles, slopes.

A sample is an array `[m, k]`: m units drawn independently, k values of each,
which stay together. A statistic reduces the last two axes of one or several
samples, and keeps the axes before them: `sample_median`, or what `quantile`
returns. An entry, as summaries hold them, is `{'value': number, 'interval':
[low, high]}`, the interval at 95 %.
"""

from collections.abc import Callable
import functools
import warnings

import numpy as np
from scipy import special
from scipy import stats

Z = special.ndtri(0.975)


def sample_median(values: np.ndarray) -> np.ndarray:
  """Returns the median of samples: over the last two axes."""
  return np.median(values, axis=(-2, -1))


def quantile(percent: float) -> Callable:
  """Returns a statistic: the least value that `percent` % do not exceed.

  Without interpolation, which would make NaN of infinite neighbours.
  """
  return functools.partial(
    np.percentile, q=percent, axis=(-2, -1), method='inverted_cdf'
  )


def bootstrap(
  statistic: Callable,
  samples: list[np.ndarray],
  *,
  resamples: int = 1000,
  seed: int = 0,
) -> tuple[float, float]:
  """Returns the 95 % percentile-bootstrap interval of a statistic.

  Args:
    statistic: `*samples -> number`, where each sample is `[..., m, k]` and the
      last two axes are to be reduced: m units drawn independently, k values of
      each, which stay together.
    samples: arrays `[m_i, k]`, resampled over the m_i, independently.
    resamples: how many.
    seed: of the resampling.

  Returns:
    Its ends; NaN where a sample has fewer than two units.
  """

  def of_rows(*rows, axis):
    del axis
    return statistic(*(s[r] for s, r in zip(samples, rows, strict=True)))

  if min(map(len, samples)) < 2:
    return float('nan'), float('nan')
  # Infinite values, of failed searches, are meant; scipy warns of them.
  with np.errstate(invalid='ignore'), warnings.catch_warnings():
    warnings.simplefilter('ignore', stats.DegenerateDataWarning)
    result = stats.bootstrap(
      [np.arange(len(s)) for s in samples],
      of_rows,
      n_resamples=resamples,
      batch=50,
      method='percentile',
      vectorized=True,
      rng=np.random.default_rng(seed),
    )
  interval = result.confidence_interval
  return float(interval.low), float(interval.high)


def estimate(statistic: Callable, *samples: np.ndarray) -> dict:
  """Returns a statistic of samples and its bootstrap interval, as an entry."""
  low, high = bootstrap(statistic, list(samples))
  return {'value': float(statistic(*samples)), 'interval': [low, high]}


def median(values: np.ndarray) -> dict:
  """Returns the median of a column `[m]`, as an entry.

  The least value that half of them do not exceed: infinity counts.
  """
  return estimate(quantile(50), np.asarray(values, float)[:, None])


def mean(values: np.ndarray) -> dict:
  """Returns the mean of a column `[m]`, as an entry."""
  column = np.asarray(values, float)[:, None]
  return estimate(lambda v: np.mean(v, axis=(-2, -1)), column)


def t_mean(values: np.ndarray) -> dict:
  """Returns the mean of a column `[m]` with Student's interval, as an entry.

  For few independent values, as of networks, whose means are about normal.
  """
  value = float(np.mean(values))
  half = float(stats.sem(values) * stats.t.ppf(0.975, len(values) - 1))
  return {'value': value, 'interval': [value - half, value + half]}


def pair_mean(values: np.ndarray, *, same: bool) -> dict:
  """Returns the mean over pairs of networks, as an entry.

  The interval is Student's by the jackknife over networks, each of which is in
  many pairs: leaving out one leaves out all of its pairs.

  Args:
    values: of every pair `[m, m']`; a pair of NaN does not count.
    same: whether rows and columns are the same networks; then the diagonal does
      not count.
  """
  values = np.array(values, float)
  if same:
    np.fill_diagonal(values, np.nan)
  counts = np.isfinite(values).astype(float)
  values = np.where(counts > 0, values, 0.0)
  square = 0.0
  for axis in (0,) if same else (0, 1):
    # Without network i its row and, of both sides, its column.
    left = [
      v.sum() - v.sum(1 - axis) - (v.sum(axis) if same else 0.0)
      for v in (values, counts)
    ]
    means = left[0] / np.where(left[1] > 0, left[1], np.nan)
    num = len(means)
    square += (num - 1) / num * np.sum((means - means.mean()) ** 2)
  total = counts.sum()
  value = float(values.sum() / total) if total else float('nan')
  least = min(values.shape)
  half = float(stats.t.ppf(0.975, max(least - 1, 1)) * np.sqrt(square))
  half = half if least > (2 if same else 1) else float('nan')
  return {'value': value, 'interval': [value - half, value + half]}


def welch(a: np.ndarray, b: np.ndarray) -> dict:
  """Returns the mean of `b` less that of `a`, Welch's interval, as an entry.

  Two columns of independent values, as of networks under two conditions.
  """
  found = stats.ttest_ind(b, a, equal_var=False).confidence_interval()
  return {
    'value': float(np.mean(b) - np.mean(a)),
    'interval': [float(found.low), float(found.high)],
  }


def partial_rank(x: np.ndarray, y: np.ndarray, given: np.ndarray) -> float:
  """Returns Spearman's correlation of two columns `[m]`, given a third one.

  That of what is left of both ranks after regression on the third's; NaN where
  nothing is left of one.
  """
  ranks = [stats.rankdata(v) for v in (x, y, given)]
  design = np.stack([np.ones(len(x)), ranks[2]], axis=1)
  rest = []
  for r in ranks[:2]:
    left = r - design @ np.linalg.lstsq(design, r, rcond=None)[0]
    # By rounding a rank that the third one gives has a rest of its own.
    if left.std() < 1e-9 * len(x):
      return float('nan')
    rest.append(left)
  return float(np.corrcoef(*rest)[0, 1])


def rank_correlation(x: np.ndarray, y: np.ndarray) -> dict:
  """Returns Spearman's correlation of two columns `[m]`, as an entry."""

  def correlate(rows):
    ranks = stats.rankdata(rows, axis=-2)
    ranks = ranks - ranks.mean(axis=-2, keepdims=True)
    sizes = np.sqrt(np.sum(ranks**2, axis=-2)).prod(axis=-1)
    with np.errstate(invalid='ignore'):
      return ranks.prod(axis=-1).sum(axis=-1) / sizes

  return estimate(correlate, np.stack([x, y], axis=1))


def wilson(
  fraction: np.ndarray | float, num: int
) -> tuple[np.ndarray, np.ndarray]:
  """Returns the ends of the 95 % Wilson interval of a proportion.

  As `scipy.stats.binomtest(k, num).proportion_ci(method='wilson')`, for many
  proportions at once, which need not be whole counts over `num`: a unit may
  count in part, as one that is seen under several networks does.

  Args:
    fraction: the proportions, each between 0 and 1.
    num: how many units each is a proportion of.
  """
  fraction = np.asarray(fraction, float)
  scale = 2 * (num + Z**2)
  centre = (2 * num * fraction + Z**2) / scale
  half = Z / scale * np.sqrt(4 * num * fraction * (1 - fraction) + Z**2)
  # No rounding errors at 0 and 1, where the interval ends at the proportion.
  low = np.where(fraction == 0, 0.0, centre - half)
  return low, np.where(fraction == 1, 1.0, centre + half)


def proportion(hits: np.ndarray) -> dict:
  """Returns the proportion of true values `[m]`, by `wilson`, as an entry."""
  value = float(hits.mean())
  return {'value': value, 'interval': [*map(float, wilson(value, len(hits)))]}


def log_slope(n: np.ndarray) -> Callable:
  """Returns `y [..., len(n)] -> [...]`: least squares of log y on log n."""
  centred = np.log(n) - np.mean(np.log(n))

  def slope(y):
    # A median of infinity, where most searches failed, has no slope: NaN.
    with np.errstate(divide='ignore', invalid='ignore'):
      return np.log(y) @ centred / (centred @ centred)

  return slope


def excess(values: np.ndarray, at: np.ndarray, bound: np.ndarray) -> float:
  """Returns by how much, at most, a distribution exceeds a bound of it.

  Args:
    values: a sample `[m]` of the distribution; may be infinite.
    at: where it is compared `[b]`.
    bound: of the proportion of values up to `at`, likewise.
  """
  below = np.mean(values[None] <= at[:, None], axis=1)
  return float(np.max(below - bound))
