"""How the distances of random networks depend on the dimension of inputs.

What the tables that `experiments.random_scaling` writes say: medians at each
dimension beside their predictions, and the slope over dimensions.
"""

from collections.abc import Callable

import numpy as np
from scipy import stats

from dmm_jax import boundary
from dmm_jax import nngp
from dmm_jax import records
from dmm_jax import statistics


def by_dimension(
  tables: dict[str, dict[str, np.ndarray]], architecture: str, norm: float
) -> dict:
  """Returns what was found of one architecture in one norm.

  Args:
    tables: `results`, one row a (network, image, norm), and where there is any,
      `predictions`, `bounds` (see `predictions.law`) and `infinite` (see
      `predictions.draws`).
    architecture, norm: which rows count.

  Returns:
    `slope` of log(median d_p / ||x||_p) on log n, an entry (see `statistics`),
    or None where there is one dimension only; the slopes that it is held
    against, `laws` by name and `infinite_slope` of the same medians as
    predicted, None where they are not; and `sizes`, see `at_size`.
  """
  of = {
    name: records.select(table, architecture=architecture, norm=norm)
    for name, table in tables.items()
    if name in ('results', 'predictions', 'bounds')
  }
  sizes = [
    at_size(**{name: records.select(table, n=n) for name, table in of.items()})
    for n in np.unique(of['results']['n'])
  ]
  if architecture == 'fully_connected' and 'infinite' in tables:
    for row in sizes:
      drawn = records.select(tables['infinite'], norm=norm, n=row['n'])
      if len(drawn['n']):
        ratio = (drawn['straight'] / drawn['linear'])[:, None]
        row['infinite_excess'] = statistics.estimate(
          statistics.sample_median, ratio
        )
  return {**_slopes(of['results'], sizes, norm), 'sizes': sizes}


def at_size(
  results: dict, predictions: dict | None = None, bounds: dict | None = None
) -> dict:
  """Returns what was measured and predicted at one dimension.

  Args:
    results, predictions, bounds: the rows of one architecture, norm and n; of
      the last two there may be none.

  Returns:
    Medians of the distance, over ||x||_p (`relative`), over the one-gradient
    estimate (`excess`) and over the predicted median (`ratio`); the latter, and
    where it is from; and how far the distances exceed the flip bound, which
    they may by chance alone with probability 5 %.
  """
  grid = lambda column: _by_network(results, results[column])
  distance, estimate = grid('distance'), grid('estimate')
  relative = distance / grid('input_norm')
  met = boundary.Status.FOUND, boundary.Status.ESTIMATE
  median, interval = statistics.sample_median, statistics.estimate
  row = {
    'n': int(results['n'][0]),
    'networks': len(distance),
    'images': distance.size,
    'not_found': int(np.sum(~np.isin(results['status'], met))),
    'median': interval(median, distance),
    'relative': interval(median, relative),
    'excess': interval(median, distance / estimate),
    'quantile_40_50': interval(_quantile_ratio(40), estimate),
    'quantile_60_50': interval(_quantile_ratio(60), estimate),
    'gradients': float(np.mean(results['gradients'])),
  }
  if predictions is None or not len(predictions['n']):
    row |= _predicted_by_itself(results)
  else:
    row |= _predicted(distance, predictions, bounds)
  for name, values in (('ratio', distance), ('estimate_ratio', estimate)):
    row[name] = interval(lambda v: median(v) / row['predicted'], values)
  return row


def _by_network(results, column):
  """`[networks, images]`: the images of one network stay together."""
  return column.reshape(-1, results['image'].max() + 1)


def _quantile_ratio(percent):
  def ratio(values):
    part = np.percentile(values, percent, axis=(-2, -1))
    return part / statistics.sample_median(values)

  return ratio


def _predicted_by_itself(results):
  # No closed form: the finite networks' own root mean square margin over
  # their mean gradient, which knows nothing of the boundary's place.
  gradient = results['margin'] / results['estimate']
  scale = np.sqrt(np.mean(results['margin'] ** 2)) / np.mean(gradient)
  return {
    'predicted': float(stats.halfnorm.ppf(0.5) * scale),
    'predicted_from': 'finite networks',
  }


def _predicted(distance, predictions, bounds):
  scale = predictions['scale']
  return {
    'predicted': nngp.distance_quantile(scale, 0.5),
    'predicted_relative': nngp.distance_quantile(
      scale / predictions['input_norm'], 0.5
    ),
    'predicted_from': 'infinite width',
    'bound_excess': statistics.excess(
      distance.ravel(), bounds['radius'], bounds['bound']
    ),
    # One-sided 95 % band of an empirical distribution (Massart 1990).
    'bound_excess_by_chance': float(np.sqrt(np.log(20) / 2 / len(distance))),
  }


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


def _slopes(results, sizes, norm):
  n = np.array([row['n'] for row in sizes], float)
  if len(n) < 2:
    return {'slope': None, 'laws': laws(n, norm)}
  relative = results['distance'] / results['input_norm']
  samples = [_by_network(results, relative[results['n'] == v]) for v in n]
  measured = statistics.estimate(median_slope(n), *samples)
  own = None
  if all('predicted_relative' in row for row in sizes):
    slope = statistics.log_slope(n)
    own = float(slope(np.array([row['predicted_relative'] for row in sizes])))
  return {'slope': measured, 'laws': laws(n, norm), 'infinite_slope': own}
