"""Estimates with 95 % intervals: quantiles, means, ratios, bootstraps.

Most functions take a column `[n]`, one value of each independent unit, and say
in `unit` what a unit is: a network, an image, a pair. An interval over images
says nothing about another network. For statistics of several columns, or of
units with several values each, `estimate` resamples the units.

`above`, `below` and `within` compare estimates; `docs/guarantees.md` lists how
often each interval covers, at 4 to 150 units.
"""

from collections.abc import Callable
from collections.abc import Sequence
import math
from typing import NamedTuple

import numpy as np
from scipy import special
from scipy import stats

Z = special.ndtri(0.975)
_NAN = float('nan')
# Values that a bootstrap holds at once.
_BATCH = 2_000_000


class Estimate(NamedTuple):
  """A number with its 95 % interval.

  `_asdict()` is the form that report.json holds.

  Attributes:
    value: the estimate.
    low, high: ends of the interval; NaN where there are too few units for one,
      infinite where the sample does not bound the value on that side.
    n: number of independent units; of several samples, that of the smallest.
    unit: what n counts: 'networks', 'images', 'pairs'.
  """

  value: float
  low: float
  high: float
  n: int
  unit: str


# --- Quantiles of a column -------------------------------------------------


def median(values: np.ndarray, *, unit: str) -> Estimate:
  """Estimate the median of a column; see `quantile`."""
  return quantile(values, 0.5, unit=unit)


def quantile(values: np.ndarray, probability: float, *, unit: str) -> Estimate:
  """Estimate a quantile, with an interval between order statistics.

  The value is the least one that a fraction `probability` of the column does
  not exceed. The ends are the order statistics that leave out at most 2.5 % on
  each side by the binomial distribution of the number of values below the
  quantile, so the interval covers at least 95 % whatever the distribution.
  Infinite values count.

  Source: Conover (1999), Practical Nonparametric Statistics, section 3.2.

  Args:
    values: `[n]`.
    probability: between 0 and 1.
    unit: what n counts.

  Returns:
    The estimate. An end is -inf or inf where the sample is too small to bound
    the quantile on that side: both ends of a median below 6 units, the upper
    end of a 95 % quantile below 72. All NaN without units or with a NaN.

  Raises:
    ValueError: for a probability that is not between 0 and 1.
  """
  if not 0 < probability < 1:
    raise ValueError(
      f'probability must lie between 0 and 1, got {probability}; it is a '
      'fraction, not a percentage'
    )
  values = _column(values)
  num = len(values)
  if num == 0 or np.isnan(values).any():
    return Estimate(_NAN, _NAN, _NAN, num, unit)
  ordered = np.concatenate([[-np.inf], np.sort(values), [np.inf]])
  below = stats.binom.ppf([0.025, 0.975], num, probability).astype(int)
  value = ordered[_rank(probability * num)]
  low, high = ordered[below[0]], ordered[below[1] + 1]
  return Estimate(float(value), float(low), float(high), num, unit)


def paired_ratio(a: np.ndarray, b: np.ndarray, *, unit: str) -> Estimate:
  """Estimate the median of a / b over pairs; see `quantile`.

  A pair whose ratio is undefined (0 / 0, inf / inf) makes the estimate NaN:
  leave such pairs out beforehand, and count them.

  Args:
    a, b: `[n]`.
    unit: what n counts.

  Returns:
    The estimate.
  """
  a, b = _columns(a, b)
  with np.errstate(divide='ignore', invalid='ignore'):
    return median(a / b, unit=unit)


# --- Means of a column -----------------------------------------------------


def t_mean(values: np.ndarray, *, unit: str) -> Estimate:
  """Estimate the mean of a column, with Student's interval.

  For about normal values, as accuracies of networks often are; `mean` covers
  better where values are skewed.

  Args:
    values: `[n]`.
    unit: what n counts.

  Returns:
    The estimate; the ends are NaN below 2 units.
  """
  values = _column(values)
  value, variance = _moments(values)
  return _student(value, [variance], [len(values)], unit)


def mean(values: np.ndarray, *, unit: str) -> Estimate:
  """Estimate the mean of a column, with an interval corrected for skewness.

  Student's interval after Hall's cubic transformation, which removes the
  skewness of the t statistic. It covers as often as the bootstrap-t interval,
  and needs no resampling; very heavy tails are beyond both.

  Source: Hall (1992), On the removal of skewness by transformation, J. R.
  Statist. Soc. B 54, 221-228; compared with others in Zhou, Dinh (2005),
  https://doi.org/10.1093/biostatistics/kxi002. Student's quantiles stand in
  for normal ones.

  Args:
    values: `[n]`.
    unit: what n counts.

  Returns:
    The estimate; the ends are NaN below 2 units, or with an infinite value.
  """
  values = _column(values)
  num = len(values)
  value, variance = _moments(values)
  if not variance > 0:
    return _student(value, [variance], [num], unit)
  centred = values - value
  skewness = np.mean(centred**3) / np.mean(centred**2) ** 1.5
  reach = stats.t.ppf(0.975, num - 1) / np.sqrt(num)
  shifted = np.array([reach, -reach]) - skewness / (6 * num)
  # The inverse 3 / g (cbrt(1 + g s) - 1), in a form that holds at g = 0.
  root = np.cbrt(1 + skewness * shifted)
  steps = 3 * shifted / (root**2 + root + 1)
  low, high = value - np.sqrt(variance * num) * steps
  return Estimate(value, float(low), float(high), num, unit)


def geometric_mean(values: np.ndarray, *, unit: str) -> Estimate:
  """Estimate the geometric mean of a column, with Student's interval of logs.

  For ratios, which multiply: networks' ratios of two distances.

  Args:
    values: `[n]`.
    unit: what n counts.

  Returns:
    The estimate; NaN where a value is not positive and finite, the ends also
    below 2 units.
  """
  values = _column(values)
  usable = (values > 0) & (values < np.inf)
  logs = np.log(np.where(usable, values, np.nan))
  return transform(t_mean(logs, unit=unit), np.exp)


def transform(a: Estimate, function: Callable) -> Estimate:
  """Return the estimate of an increasing function of what was estimated.

  Args:
    a: the estimate.
    function: of numpy, from a number to a number.
  """
  with np.errstate(over='ignore'):
    value, low, high = (float(function(v)) for v in a[:3])
  return a._replace(value=value, low=low, high=high)


def num_needed(values: np.ndarray) -> int | None:
  """Return how many units would decide the sign of a mean, 4 times in 5.

  Of as large a mean and spread as these have. Normal approximation to the power
  of Student's two-sided test at 5 %: (z_0.975 + z_0.8)^2 / (mean / spread)^2,
  and 2 more for the estimated spread. Source: Cohen (1988), Statistical Power
  Analysis for the Behavioral Sciences, section 2.4.

  Args:
    values: `[n]`, n >= 2.

  Returns:
    None where the mean is 0 or not finite.
  """
  values = _column(values)
  average, spread = np.mean(values), np.std(values, ddof=1)
  if not (average and np.isfinite(average)):
    return None
  size = (Z + special.ndtri(0.8)) * spread / average
  return math.ceil(size**2) + 2


def paired_difference(a: np.ndarray, b: np.ndarray, *, unit: str) -> Estimate:
  """Estimate the mean of a - b over pairs, with Student's interval.

  Args:
    a, b: `[n]`.
    unit: what n counts.

  Returns:
    The estimate; the ends are NaN below 2 units.
  """
  a, b = _columns(a, b)
  with np.errstate(invalid='ignore'):
    return t_mean(a - b, unit=unit)


def welch(a: np.ndarray, b: np.ndarray, *, unit: str) -> Estimate:
  """Estimate mean(b) - mean(a) of two independent columns, by Welch's t.

  The order is that of a change from `a` to `b`, and the opposite of
  `difference` and `paired_difference`.

  Args:
    a, b: `[n]`, `[m]`, as of networks under two conditions.
    unit: what n and m count.

  Returns:
    The estimate; the ends are NaN where a column has fewer than 2 units.
  """
  a, b = _column(a), _column(b)
  (first, of_a), (second, of_b) = _moments(a), _moments(b)
  return _student(second - first, [of_a, of_b], [len(a), len(b)], unit)


def ratio_of_sums(a: np.ndarray, b: np.ndarray, *, unit: str) -> Estimate:
  """Estimate sum(a) / sum(b) of paired columns.

  The replacement for means of ratios, which a single small denominator
  dominates. The interval is Student's on the log scale, with the standard
  error by the jackknife over pairs, which covers better than the delta method
  in small samples.

  Source: Efron, Stein (1981), The jackknife estimate of variance,
  https://doi.org/10.1214/aos/1176345462.

  Args:
    a, b: `[n]`, with positive sums.
    unit: what n counts.

  Returns:
    The estimate; the ends are NaN below 2 units, and where a sum is not
    positive or would not be without one of the units.
  """
  a, b = _columns(a, b)
  num = len(a)
  with np.errstate(divide='ignore', invalid='ignore'):
    value = float(np.divide(a.sum(), b.sum()))
    without = np.log(a.sum() - a) - np.log(b.sum() - b)
    half = _t(num - 1) * _jackknife_error(without)
    low, high = np.log(value) - half, np.log(value) + half
  return Estimate(value, float(np.exp(low)), float(np.exp(high)), num, unit)


def pair_mean(values: np.ndarray, *, same: bool, unit: str) -> Estimate:
  """Estimate the mean over pairs of networks, each of which is in many pairs.

  The interval is Student's by the jackknife over networks: leaving out one
  leaves out all of its pairs.

  Args:
    values: `[m, m']`, one for every pair; pairs that are not finite do not
      count.
    same: whether rows and columns are the same networks; then the diagonal does
      not count.
    unit: what m and m' count: networks, not pairs.

  Returns:
    The estimate, n the lesser of m and m'; the ends are NaN below 2 rows or
    columns, 3 where they are the same.
  """
  values = np.array(values, float)
  if same:
    np.fill_diagonal(values, np.nan)
  counts = np.isfinite(values).astype(float)
  values = np.where(counts > 0, values, 0.0)
  total = counts.sum()
  value = float(values.sum() / total) if total else _NAN
  variances, sizes = [], []
  for axis in range(1 if same else 2):
    # Without network i its row and, where they are the same, its column.
    left = [
      v.sum() - v.sum(1 - axis) - (v.sum(axis) if same else 0.0)
      for v in (values, counts)
    ]
    means = left[0] / np.where(left[1] > 0, left[1], np.nan)
    variances.append(_jackknife_error(means) ** 2)
    sizes.append(len(means))
  return _student(value, variances, sizes, unit)


# --- Proportions -----------------------------------------------------------


def proportion(values: np.ndarray, *, unit: str) -> Estimate:
  """Estimate the mean of values in [0, 1]: of hits, or of shares.

  The interval never leaves [0, 1]. For hits (every value 0 or 1) it is
  Wilson's. For shares, as of each network's images, it is Student's on the
  logit scale, with the standard error by the delta method.

  Args:
    values: `[n]`, booleans or numbers between 0 and 1, one of each unit.
    unit: what n counts.

  Returns:
    The estimate; the ends are NaN without units, or of a single share.

  Raises:
    ValueError: for a value outside [0, 1].
  """
  values = _column(values)
  if np.any((values < 0) | (values > 1)):
    raise ValueError(
      f'values must lie in [0, 1], got {values.min()} to {values.max()}'
    )
  num = len(values)
  value, variance = _moments(values)
  if num and np.isin(values, (0, 1)).all():
    low, high = wilson(value, num)
  else:
    half = _t(num - 1) * np.sqrt(variance) / (value * (1 - value))
    center = special.logit(value)
    low, high = special.expit([center - half, center + half])
  return Estimate(value, float(low), float(high), num, unit)


def wilson(
  fraction: np.ndarray | float, num: int
) -> tuple[np.ndarray, np.ndarray]:
  """Return the ends of the 95 % Wilson interval of a proportion.

  As `scipy.stats.binomtest(k, num).proportion_ci(method='wilson')`, for many
  proportions at once, which need not be whole counts over `num`: a unit may
  count in part, as one that is seen under several networks does.

  Source: Wilson (1927), https://doi.org/10.1080/01621459.1927.10502953.

  Args:
    fraction: the proportions, each between 0 and 1.
    num: how many units each is a proportion of.

  Returns:
    The lower and the upper ends, in the shape of `fraction`.
  """
  fraction = np.asarray(fraction, float)
  scale = 2 * (num + Z**2)
  centre = (2 * num * fraction + Z**2) / scale
  half = Z / scale * np.sqrt(4 * num * fraction * (1 - fraction) + Z**2)
  # No rounding errors at 0 and 1, where the interval ends at the proportion.
  low = np.where(fraction == 0, 0.0, centre - half)
  return low, np.where(fraction == 1, 1.0, centre + half)


# --- Rank correlations -----------------------------------------------------


def rank_correlation(x: np.ndarray, y: np.ndarray, *, unit: str) -> Estimate:
  """Estimate Spearman's correlation of two columns.

  The interval is Student's on Fisher's z scale. Its standard error is the
  larger of the jackknife's, which holds for any joint distribution, and Bonett
  and Wright's, which holds in small samples; below 8 units it spans nearly all
  of [-1, 1]. A perfect correlation of n units counts as one that is half a step
  of the statistic lower.

  Source: Bonett, Wright (2000), Sample size requirements for estimating
  Pearson, Kendall and Spearman correlations,
  https://doi.org/10.1007/BF02294183.

  Args:
    x, y: `[n]`; infinite values count.
    unit: what n counts.

  Returns:
    The estimate; NaN where a column is constant, and its ends where one would
    be constant without one of the units, or below 4 units.
  """
  x, y = _columns(x, y)
  num = len(x)
  ranks = stats.rankdata([x, y], axis=1) - (num + 1) / 2
  value = float(_cosine(*ranks))
  if num < 4:
    return Estimate(value, _NAN, _NAN, num, unit)
  limit = 1 - 6 / (num * (num**2 - 1))
  clipped = np.clip([value, *_rank_correlations_without(x, y)], -limit, limit)
  fisher = np.arctanh(clipped)
  closed = np.sqrt((1 + clipped[0] ** 2 / 2) / (num - 3))
  half = _t(num - 2) * np.maximum(_jackknife_error(fisher[1:]), closed)
  low, high = np.tanh([fisher[0] - half, fisher[0] + half])
  # The limit keeps the ends off 1, which a perfect correlation is at.
  low, high = np.minimum(low, value), np.maximum(high, value)
  return Estimate(value, float(low), float(high), num, unit)


def partial_rank(x: np.ndarray, y: np.ndarray, given: np.ndarray) -> float:
  """Return Spearman's correlation of two columns `[n]`, given a third one.

  That of what is left of both ranks after regression on the third's; NaN where
  nothing is left of one.
  """
  ranks = [stats.rankdata(v) for v in (x, y, given)]
  design = np.stack([np.ones(len(x)), ranks[2]], axis=1)
  rest = []
  for r in ranks[:2]:
    left = r - design @ np.linalg.lstsq(design, r)[0]
    # By rounding a rank that the third one gives has a rest of its own.
    if left.std() < 1e-9 * len(x):
      return _NAN
    rest.append(left)
  return float(np.corrcoef(*rest)[0, 1])


def _cosine(a, b):
  """Correlation of centred values over the last axis; NaN of zeros."""
  with np.errstate(invalid='ignore'):
    return np.sum(a * b, -1) / np.sqrt(np.sum(a**2, -1) * np.sum(b**2, -1))


def _rank_correlations_without(x, y):
  """Spearman's correlations `[n]` of the columns without unit i."""
  num = len(x)
  ranks = stats.rankdata([x, y], axis=1)
  found = []
  step = max(1, _BATCH // num)
  for start in range(0, num, step):
    units = np.arange(start, min(start + step, num))
    left = []
    for column, of_all in zip((x, y), ranks, strict=True):
      removed = column[units, None]
      # Without a lower value, ranks fall by 1; without a tied one, by half.
      rank = of_all - (removed < column) - 0.5 * (removed == column) - num / 2
      rank[np.arange(len(units)), units] = 0.0
      left.append(rank)
    found.append(_cosine(*left))
  return np.concatenate(found)


# --- Bootstrap -------------------------------------------------------------


def sample_median(values: np.ndarray) -> np.ndarray:
  """Return the median over the last two axes: a statistic for `estimate`."""
  return np.median(values, axis=(-2, -1))


def sample_quantile(percent: float) -> Callable:
  """Return a statistic for `estimate`: the quantile over the last two axes.

  The least value that `percent` % of the values do not exceed, without
  interpolation, which would make NaN of infinite neighbours. NaN if one is.

  Raises:
    ValueError: for a percentage that is not between 0 and 100.
  """
  if not 0 <= percent <= 100:
    raise ValueError(f'percent must lie in [0, 100], got {percent}')

  def statistic(values):
    flat = np.reshape(values, (*np.shape(values)[:-2], -1))
    place = _rank(percent / 100 * flat.shape[-1]) - 1
    # NaN come last.
    ordered = np.partition(flat, (place, -1))
    return np.where(np.isnan(ordered[..., -1]), np.nan, ordered[..., place])

  return statistic


def estimate(
  statistic: Callable, *samples: np.ndarray, unit: str, levels: int = 1
) -> Estimate:
  """Estimate a statistic of samples, with its `bootstrap` interval.

  Args:
    statistic, samples, levels: as for `bootstrap`.
    unit: what the rows of the samples are.

  Returns:
    The estimate, n the rows of the smallest sample.
  """
  low, high = bootstrap(statistic, samples, levels=levels)
  with np.errstate(invalid='ignore'):
    value = float(statistic(*samples))
  return Estimate(value, low, high, min(map(len, samples)), unit)


def bootstrap(
  statistic: Callable,
  samples: Sequence[np.ndarray],
  *,
  levels: int = 1,
  resamples: int = 1000,
  seed: int = 0,
) -> tuple[float, float]:
  """Return the ends of a 95 % bootstrap interval, widened for few units.

  The percentile interval of m units is too narrow by sqrt(1 - 1/m), and takes
  normal quantiles where Student's are due: of 4 units it covers 80 %. Here its
  deviations from the value are multiplied by sqrt(m / (m - 1)) t_{m-1} / z.
  For several samples, Satterthwaite's degrees of freedom stand in for m - 1;
  they need the part of the variance that each sample causes, which is the
  covariance of the resampled statistic with the resampling counts (the
  infinitesimal jackknife).

  The ends may leave the range of a bounded statistic: bootstrap its logarithm
  or logit and transform the ends. One level covers all variance between units
  and within them. A second level adds the variance within units once more:
  the interval of units that do not differ is 1.4 times too wide, and 1.7 times
  at 4 units. Neither level covers the choice of images that all networks share.

  Source: Hesterberg (2015), What teachers should know about the bootstrap,
  https://arxiv.org/abs/1411.5279 (the factor, there applied to the level);
  Efron (2014), https://doi.org/10.1080/01621459.2013.823775, and Wager, Hastie,
  Efron (2014), https://arxiv.org/abs/1311.4555 (infinitesimal jackknife, less
  its Monte Carlo error).

  Args:
    statistic: `*samples -> number`; samples come as `[..., m, k]`, the last two
      axes are to be reduced and the others kept.
    samples: `[m_i, k_i]`: m_i units drawn independently, k_i values of each.
      Samples are resampled independently; what is paired goes into one sample.
    levels: 1 resamples units, whose values stay together; 2 resamples units,
      then each unit's values, which must be exchangeable.
    resamples: how many.
    seed: of the resampling.

  Returns:
    The low and the high end. NaN where a sample has fewer than 2 units or a
    resampled statistic is NaN; infinite where failed searches, of infinite
    distance, reach into the statistic. About an infinite value the percentile
    interval is not widened.

  Raises:
    ValueError: for samples that are not `[m, k]`, or other levels.
  """
  samples = [np.asarray(s) for s in samples]
  for sample in samples:
    if sample.ndim != 2:
      raise ValueError(
        f'samples must be [units, values], got shape {sample.shape}; give a '
        'column as column[:, None]'
      )
  if levels not in (1, 2):
    raise ValueError(f'levels must be 1 or 2, got {levels}')
  sizes = np.array([len(s) for s in samples])
  if sizes.min() < 2:
    return _NAN, _NAN
  # Infinite values, of failed searches, are meant.
  with np.errstate(invalid='ignore'):
    value = float(statistic(*samples))
    found, rows = _resample(
      statistic, samples, levels, resamples, np.random.default_rng(seed)
    )
  ends = np.array(
    [
      np.percentile(found, 2.5, method='lower'),
      np.percentile(found, 97.5, method='higher'),
    ]
  )
  if not np.isinf(value):
    parts = _variance_parts(found, rows, sizes)
    wider = np.sum(parts * sizes / (sizes - 1)) / np.sum(parts)
    wider = np.sqrt(wider) * _t(_freedom(parts, sizes)) / Z
    ends = value + wider * (ends - value)
  return float(ends[0]), float(ends[1])


def _resample(statistic, samples, levels, resamples, rng):
  """Resampled statistics `[b]`, and the rows `[b, m]` drawn of each sample."""
  batch = max(1, _BATCH // sum(s.size for s in samples))
  found, drawn = [], []
  for start in range(0, resamples, batch):
    num = min(batch, resamples - start)
    rows = [
      rng.integers(len(s), size=(num, len(s)), dtype=np.int32) for s in samples
    ]
    taken = [s[r] for s, r in zip(samples, rows, strict=True)]
    if levels == 2:
      taken = [
        np.take_along_axis(t, rng.integers(t.shape[-1], size=t.shape), -1)
        for t in taken
      ]
    found.append(statistic(*taken))
    drawn.append(rows)
  rows = [np.concatenate(r) for r in zip(*drawn, strict=True)]
  return np.concatenate(found), rows


def _variance_parts(found, rows, sizes):
  """How much of the variance each sample causes, up to a factor."""
  kept = np.isfinite(found)
  if kept.any():
    centred = found[kept] - np.mean(found[kept])
    parts = []
    for drawn, size in zip(rows, sizes, strict=True):
      weights = np.repeat(centred, size)
      covariance = np.bincount(drawn[kept].ravel(), weights, size) / kept.sum()
      noise = (size - 1) * np.mean(centred**2) / kept.sum()
      parts.append(max(np.sum(covariance**2) - noise, 0.0))
    if any(parts):
      return np.array(parts)
  # The smallest sample causes all: fewest degrees of freedom.
  return (np.arange(len(sizes)) == np.argmin(sizes)).astype(float)


# --- Comparisons -----------------------------------------------------------


def difference(a: Estimate, b: Estimate) -> Estimate:
  """Estimate a - b from two independent estimates.

  MOVER: the distances of the two estimates to the ends that lie towards an end
  of the difference are added as squares. For estimates on the same units, which
  are not independent, take `paired_difference` or `estimate`.

  Source: Zou, Donner (2008), Construction of confidence limits about effect
  measures, https://doi.org/10.1002/sim.3095; Newcombe (1998) for proportions.

  Args:
    a, b: the estimates.

  Returns:
    The estimate, n the lesser of both, the unit that of `a`; NaN ends where
    either has them, all NaN where both values are infinite. Where a distance is
    infinite, the end is that of interval arithmetic.
  """
  value = a.value - b.value
  if np.isnan(value):
    return Estimate(_NAN, _NAN, _NAN, min(a.n, b.n), a.unit)
  low = _mover(a.value, a.low, b.value, b.high)
  high = _mover(a.value, a.high, b.value, b.low)
  return Estimate(value, low, high, min(a.n, b.n), a.unit)


def ratio(a: Estimate, b: Estimate) -> Estimate:
  """Estimate a / b from two independent estimates of positive numbers.

  As `difference`, of logarithms.

  Args:
    a, b: the estimates; ends below 0 count as 0.

  Returns:
    The estimate, n the lesser of both, the unit that of `a`; all NaN where a
    value is negative, or both are 0 or infinite.
  """
  found = difference(_logarithm(a), _logarithm(b))
  value, low, high = (float(np.exp(v)) for v in found[:3])
  return found._replace(value=value, low=low, high=high)


def within(a: Estimate, target: float, tolerance: float) -> bool | None:
  """Judge whether an estimate agrees with a number, to within a tolerance.

  Args:
    a: the estimate.
    target, tolerance: what it should be, and how far off it may lie.

  Returns:
    True if the whole interval lies within `target` +- `tolerance`, False if it
    lies wholly outside, else None: undecided. None for a NaN interval.
  """
  least, most = target - tolerance, target + tolerance
  if least <= a.low and a.high <= most:
    return True
  if a.high < least or most < a.low:
    return False
  return None


def above(a: Estimate, b: Estimate | float) -> bool | None:
  """Judge whether an estimate lies above a number or another estimate.

  Args:
    a: the estimate.
    b: a number, or an independent estimate, whose interval of `difference` then
      decides.

  Returns:
    True if the whole interval lies above, False if it lies wholly below, else
    None: undecided. None for a NaN interval.
  """
  if isinstance(b, Estimate):
    a, b = difference(a, b), 0.0
  if a.low > b:
    return True
  if a.high < b:
    return False
  return None


def below(a: Estimate, b: Estimate | float) -> bool | None:
  """Judge whether an estimate lies below a number or another estimate.

  Args:
    a, b: as for `above`.

  Returns:
    True if the whole interval lies below, False if it lies wholly above, else
    None.
  """
  found = above(a, b)
  return None if found is None else not found


def _logarithm(a):
  numbers = np.array([a.value, max(a.low, 0.0), a.high])
  with np.errstate(divide='ignore', invalid='ignore'):
    value, low, high = np.log(numbers).tolist()
  return a._replace(value=value, low=low, high=high)


def _mover(a, a_end, b, b_end):
  """The end of a - b toward which `a_end` and `b_end` lie."""
  value, end = a - b, a_end - b_end
  far = float(np.hypot(a - a_end, b - b_end))
  if not math.isfinite(far):
    return end
  return value + math.copysign(far, end - value)


# --- Statistics without intervals ------------------------------------------


def log_slope(n: np.ndarray) -> Callable:
  """Return `y [..., len(n)] -> [...]`: least squares of log y on log n.

  NaN or infinite where a y is 0 or infinite.
  """
  centred = np.log(n) - np.mean(np.log(n))

  def slope(y):
    # A median of infinity, where most searches failed, has no slope: NaN.
    with np.errstate(divide='ignore', invalid='ignore'):
      return np.log(y) @ centred / (centred @ centred)

  return slope


def excess(values: np.ndarray, at: np.ndarray, bound: np.ndarray) -> float:
  """Return by how much, at most, a distribution exceeds a bound of it.

  Args:
    values: a sample `[m]` of the distribution; may be infinite.
    at: where it is compared `[b]`.
    bound: of the proportion of values up to `at`, likewise.
  """
  below = np.mean(values[None] <= at[:, None], axis=1)
  return float(np.max(below - bound))


# --- Parts -----------------------------------------------------------------


def _column(values):
  values = np.asarray(values, float)
  if values.ndim != 1:
    raise ValueError(
      f'values must be a column [n], one of each unit, got shape {values.shape}'
    )
  return values


def _columns(a, b):
  a, b = _column(a), _column(b)
  if len(a) != len(b):
    raise ValueError(
      f'paired columns must have one length, got {len(a)} and {len(b)}'
    )
  return a, b


def _rank(count):
  """Which of the ordered values, from 1, `count` do not exceed."""
  # 0.55 * 100 is above 55 by rounding.
  return max(1, math.ceil(round(count, 9)))


def _moments(values):
  """Mean of a column, and the variance of that mean; NaN of too few."""
  num = len(values)
  with np.errstate(invalid='ignore'):
    value = float(np.mean(values)) if num else _NAN
    variance = float(np.var(values, ddof=1) / num) if num > 1 else _NAN
  return value, variance


def _student(value, variances, sizes, unit):
  """Estimate with Student's interval.

  Args:
    value: of the estimate.
    variances, sizes: parts of its variance, and the number of units that each
      comes from.
    unit: what sizes count.
  """
  half = _t(_freedom(variances, sizes)) * np.sqrt(np.sum(variances))
  low, high = float(value - half), float(value + half)
  return Estimate(value, low, high, int(min(sizes)), unit)


def _freedom(variances, sizes):
  """Satterthwaite's degrees of freedom, https://doi.org/10.2307/3002019."""
  variances, sizes = np.asarray(variances, float), np.asarray(sizes)
  if min(sizes) < 2:
    return _NAN
  total = np.sum(variances)
  if not total > 0:
    return float(min(sizes) - 1)
  return float(1 / np.sum((variances / total) ** 2 / (sizes - 1)))


def _t(freedom):
  """97.5 % quantile of Student's t; NaN without degrees of freedom."""
  return float(stats.t.ppf(0.975, freedom))


def _jackknife_error(without):
  """Standard error, from a statistic without each of the units."""
  num = len(without)
  return np.sqrt((num - 1) * np.var(without)) if num > 1 else _NAN
