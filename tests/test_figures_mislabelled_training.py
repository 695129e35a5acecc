"""Figures of training on wrong labels, drawn from made-up tables."""

import figures
import numpy as np
import pytest

from dmm_jax import statistics
from experiments.figures import mislabelled_training
from experiments.lib import runner
from experiments.lib import tables

ARMS = ('clean', 'random', 'noise', 'mistakes')
NAMES = {arm: f'what {arm} is' for arm in ARMS}


def made(radii):
  """A report and tables of three sources with two new networks each."""
  rng, rows, shown = np.random.default_rng(0), [], []
  for arm in ARMS:
    free = arm in ('clean', 'mistakes')
    for radius in (0.0,) if free else radii:
      each = rng.uniform(0.1, 0.9, (3, 2))
      for source in (2, 0, 1):  # In any order.
        rows += [(arm, radius, source, v) for v in each[source]]
      low, high = each.mean() - 0.1, each.mean() + 0.05
      found = statistics.Estimate(each.mean(), low, high, 3, 'sources')
      shown.append([arm, NAMES[arm], radius or None, found])
  names = 'arm', 'radius', 'source', 'accuracy'
  results = dict(
    zip(names, map(np.array, zip(*rows, strict=True)), strict=True)
  )
  columns = [
    tables.Column(name, '', '')
    for name in ('arm', 'trained on', 'radius', 'accuracy')
  ]
  report = runner.Report('So far.', [], [tables.Table('', columns, shown)])
  return report, {'results': results, 'sources': {'guess': np.full(6, 0.125)}}


def draw(radii):
  report, found = made(radii)
  drawn = mislabelled_training.draw(report, found)
  rows = tables.to_dicts(report.tables[0])
  pictures = {k: v[0] for k, v in drawn.items()}
  return rows, found['results'], pictures, {k: v[1] for k, v in drawn.items()}


@pytest.mark.parametrize('radii', [(0.5, 2.0), (1.0,)])
def test_arms_at_the_largest_radius(radii):
  rows, results, found, captions = draw(radii)
  (ax,) = found['arms'].axes
  shown = [row for row in rows if row['radius'] in (None, max(radii))]
  assert [row['arm'] for row in shown] == list(ARMS)
  value, place, low, high = figures.bars(ax)['mean, 95 %']
  wanted = np.array([row['accuracy'][:3] for row in shown]).T
  np.testing.assert_allclose([value, low, high], wanted)
  assert place.tolist() == [0, 1, 2, 3]
  said = [v.get_text() for v in ax.get_yticklabels()]
  assert said == list(NAMES.values())
  curves = figures.curves(ax)
  assert curves['a guess'][0].tolist() == [0.125, 0.125]
  assert curves['half of the images'][0].tolist() == [0.5, 0.5]
  first = curves['one source network'][0]
  at = results['arm'] == 'clean'
  each = [
    results['accuracy'][at & (results['source'] == s)].mean() for s in range(3)
  ]
  np.testing.assert_allclose(first, each)
  ticks = [v for v in figures.others(ax) if len(v[0]) == 3]
  at = (results['arm'] == 'noise') & (results['radius'] == max(radii))
  each = [
    results['accuracy'][at & (results['source'] == s)].mean() for s in range(3)
  ]
  assert any(np.allclose(v[0], each) and np.all(v[1] == 1.75) for v in ticks)
  assert captions['arms'].startswith('So far. Each line')
  assert ('radii' in found) == (len(radii) > 1)
  figures.assert_looks(f'mislabelled_training_{len(radii)}', found)


def test_accuracy_against_the_longest_step():
  rows, results, found, captions = draw((2.0, 0.5))
  (ax,) = found['radii'].axes
  of = {'towards a wrong class': 'random', 'random steps': 'noise'}
  for label, arm in of.items():
    at = sorted((r for r in rows if r['arm'] == arm), key=lambda r: r['radius'])
    wanted = np.array([row['accuracy'][:3] for row in at]).T
    place, value, low, high = figures.bars(ax)[label]
    np.testing.assert_allclose([value, low, high], wanted)
    assert place.tolist() == [0.5, 2.0]
  assert figures.curves(ax)['a guess'][1].tolist() == [0.125, 0.125]
  for radius in (0.5, 2.0):
    at = (results['arm'] == 'random') & (results['radius'] == radius)
    mean = results['accuracy'][at].mean()
    assert f'{mean:.0%} with steps up to {radius:g}' in captions['radii']


@pytest.mark.filterwarnings('error')
def test_an_end_that_is_none_is_not_drawn():
  report, found = made((1.0,))
  rows = report.tables[0].rows
  rows[1][3] = rows[1][3]._replace(low=np.nan, high=np.nan)
  rows[3][3] = statistics.Estimate(np.nan, np.nan, np.nan, 3, 'sources')
  figure, _ = mislabelled_training.draw(report, found)['arms']
  figure.draw_without_rendering()
  value, place, low, high = figures.bars(figure.axes[0])['mean, 95 %']
  assert low[1] == high[1] == value[1] and 3 not in place
