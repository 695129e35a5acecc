"""What explains a matrix of pairs of networks, of networks not seen before."""

from typing import NamedTuple

import numpy as np

from dmm_jax import statistics


class Explained(NamedTuple):
  """Shares of the variance of pairs within strata.

  Attributes:
    alone: what each set of features explains, by its name.
    added: what each adds to all others, by its name.
    together: what all of them explain.
    left: what the draw of halves leaves to explain.
    of_left: `alone` over `left`.
  """

  alone: dict[str, statistics.Estimate]
  added: dict[str, statistics.Estimate]
  together: statistics.Estimate
  left: statistics.Estimate
  of_left: dict[str, statistics.Estimate]


def explained(
  halves: np.ndarray,
  features: dict[str, np.ndarray],
  strata: np.ndarray,
  *,
  unit: str,
) -> Explained:
  """Estimate how much of what is measured of pairs features explain.

  By the errors of `pair_errors`, over those of the means of strata: 0 where
  features predict no better than these, below 0 where they predict worse.

  Args:
    halves: two independent measurements of each ordered pair of networks
      `[m, m, 2]`, of which the mean is explained; NaN where there is none. The
      diagonal does not count.
    features: by name, `[m, m, f]`; pairs with one that is not finite do not
      count.
    strata: number of the stratum of each pair `[m, m]`, from 0.
    unit: what m counts. Intervals are over these, by the jackknife.
  """
  known = np.all([np.isfinite(v).all(-1) for v in features.values()], axis=0)
  halves = np.where(known[..., None], halves, np.nan)
  y = halves.mean(-1)

  def errors(*names):
    used = [np.nan_to_num(features[name]) for name in names]
    empty = np.zeros((*y.shape, 0))
    return pair_errors(y, np.concatenate([empty, *used], axis=-1), strata)

  whole, all_of = errors(), errors(*features)
  apart = halves @ [0.5, -0.5]
  drawn = pair_errors(apart, np.zeros((*y.shape, 0)), strata)
  each = {name: errors(name) for name in features}
  rest = {
    name: errors(*(other for other in features if other != name))
    for name in features
  }
  ratio = lambda a, b: pair_ratio(a, b, unit=unit)
  return Explained(
    {name: ratio(whole - left, whole) for name, left in each.items()},
    {name: ratio(left - all_of, whole) for name, left in rest.items()},
    ratio(whole - all_of, whole),
    ratio(whole - drawn, whole),
    {name: ratio(whole - left, whole - drawn) for name, left in each.items()},
  )


def pair_errors(
  y: np.ndarray, features: np.ndarray, strata: np.ndarray
) -> np.ndarray:
  """Return squared errors of predictions of pairs by least squares.

  Pairs that share a network are not independent. Each pair is predicted by a
  fit to the pairs that have neither of its two networks: what is unrelated
  predicts no better than the mean, whatever networks add to all of their pairs.
  The fit has one slope of each feature, and a mean of each stratum.

  Args:
    y: to be predicted, of ordered pairs `[m, m]`; NaN where there is nothing.
      The diagonal does not count.
    features: `[m, m, f]`, finite; f may be 0.
    strata: number of the stratum of each pair `[m, m]`, from 0.

  Returns:
    `[m, m]`; NaN where y is, on the diagonal, and where a stratum has no other
    pairs.
  """
  known = np.isfinite(y) & ~np.eye(len(y), dtype=bool)
  values = np.concatenate([y[..., None], features], axis=-1)
  values = np.where(known[..., None], values, 0.0)
  member = np.eye(strata.max() + 1)[strata] * known[..., None]
  count = _of_others(member)
  total = _of_others(member[..., None] * values[..., None, :])
  gram = _of_others(values[..., :, None] * values[..., None, :])
  count = count.round()[..., None]
  mean = np.where(count > 0, total / np.maximum(count, 1), np.nan)
  about = np.nan_to_num(mean)
  gram = gram - (count * about).swapaxes(-1, -2) @ about
  slope = np.linalg.pinv(gram[..., 1:, 1:], hermitian=True) @ gram[..., 1:, :1]
  own = np.take_along_axis(mean, strata[..., None, None], axis=2)[:, :, 0]
  rest = values - own
  error = rest[..., 0] - np.sum(rest[..., 1:] * slope[..., 0], axis=-1)
  return np.where(known, error**2, np.nan)


def _of_others(v):
  """Sums `[m, m, ...]`, for each pair, over those with neither network."""
  touching = v.sum(0) + v.sum(1)
  left = v.sum((0, 1)) - touching[:, None] - touching[None]
  # Both of the pair's own directions have been taken away twice.
  return left + v + v.swapaxes(0, 1)


def pair_ratio(
  a: np.ndarray, b: np.ndarray, *, unit: str
) -> statistics.Estimate:
  """Estimate sum(a) / sum(b) over pairs of networks.

  Linearised about its value; the interval is that of `statistics.pair_mean`.

  Args:
    a, b: `[m, m]`; pairs that are not finite, and the diagonal, do not count.
    unit: what m counts.
  """
  known = np.isfinite(a * b) & ~np.eye(len(a), dtype=bool)
  value = a[known].sum() / b[known].sum()
  linear = value + (a - value * b) / b[known].mean()
  return statistics.pair_mean(linear, same=True, unit=unit)
