"""Figures of the scale of the start, drawn from made-up tables."""

import figures
import numpy as np
import pytest

from dmm_jax import statistics
from experiments.figures import initial_scale
from experiments.lib import runner
from experiments.lib import tables

FACTORS = (4.0, 1.0, 2.0)  # In any order.
SIDES = tuple(initial_scale.SIDES)
LABELS = [label for label, _ in initial_scale.SIDES.values()]


def table(names, rows):
  return tables.Table('', [tables.Column(n, '', '') for n in names], rows)


def estimates():
  rng = np.random.default_rng(0)
  while True:
    value = rng.uniform(0.8, 3)
    yield statistics.Estimate(value, 0.8 * value, 1.5 * value, 5, 'networks')


def ratio(side):
  """One that agrees, one that may, and one that does not."""
  value = {'whole': 1.01, 'on': 0.92, 'off': 1.3}[side]
  return statistics.Estimate(value, value - 0.03, value + 0.05, 5, 'networks')


def made(names=('sphere', 'digits'), beside=('sphere',)):
  found = estimates()
  distances = [
    [name, factor, *(next(found) for _ in SIDES)]
    for name in names
    for factor in FACTORS
  ]
  theirs = [
    [name, side, factor, next(found), ratio(side)]
    for name in beside
    for side in SIDES[:3]
    for factor in FACTORS[:2]
  ]
  shown = [
    table(('data', 'factor', *SIDES), distances),
    table(('data',), []),
  ]
  if beside:
    names = ('data', 'distance', 'factor', 'theirs', 'ratio')
    shown.append(table(names, theirs))
  return runner.Report('So far.', [], shown)


def draw(report):
  drawn = initial_scale.draw(report, {})
  return ({k: v[i] for k, v in drawn.items()} for i in (0, 1))


def test_distances_against_the_factor():
  report = made()
  found, captions = draw(report)
  rows = tables.to_dicts(report.tables[0])
  theirs = tables.to_dicts(report.tables[2])
  axes = found['distances'].axes
  for ax, name in zip(axes, ('sphere', 'digits'), strict=True):
    at = sorted(
      (r for r in rows if r['data'] == name), key=lambda r: r['factor']
    )
    assert ax.get_title() == name
    bars = figures.bars(ax)
    for side, label in zip(SIDES, LABELS, strict=True):
      wanted = np.array([row[side][:3] for row in at]).T
      np.testing.assert_allclose(bars[label], [[1, 2, 4], *wanted])
    # From the median on, through the last mark.
    last = at[-1]['off'].value
    line = [[2, 4], [last / 2, last]]
    curves = figures.curves(ax)
    np.testing.assert_allclose(curves['in proportion to the factor'], line)
    assert ("the author's means" in curves) == (name == 'sphere')
  crosses = [
    tuple(v.get_xydata()[0])
    for v in axes[0].get_lines()
    if v.get_marker() == 'x'
  ]
  assert crosses == [(r['factor'], r['theirs'].value) for r in theirs]
  assert captions['distances'].startswith('So far. Means over networks')
  assert "author's own means" in captions['distances']
  figures.assert_looks('initial_scale', found)


@pytest.mark.parametrize('beside', [('sphere',), ('sphere', 'mnist')])
def test_ratios_to_the_author(beside):
  report = made(beside, beside)
  found, captions = draw(report)
  theirs = tables.to_dicts(report.tables[2])
  (ax,) = found['beside_author'].axes
  cases = [(name, factor) for name in beside for factor in FACTORS[:2]]
  for number, (side, label) in enumerate(zip(SIDES[:3], LABELS, strict=False)):
    at = [row for row in theirs if row['distance'] == side]
    places = [
      cases.index((r['data'], r['factor'])) + 0.18 * (number - 1) for r in at
    ]
    wanted = np.array([row['ratio'][:3] for row in at]).T
    np.testing.assert_allclose(figures.bars(ax)[label], [places, *wanted])
  said = [v.get_text() for v in ax.get_xticklabels()]
  if len(beside) == 1:
    assert said == ['4', '1']
  else:
    assert said == ['sphere\n4', 'sphere\n1', 'mnist\n4', 'mnist\n1']
  inside = [
    0.9 <= row['ratio'].low and row['ratio'].high <= 1.1 for row in theirs
  ]
  assert 0 < sum(inside) < len(theirs)
  said = f'{sum(inside)} of {len(theirs)} intervals lie wholly within 10 %'
  assert said in captions['beside_author']
  figures.assert_looks(f'initial_scale_{len(beside)}', found)


@pytest.mark.filterwarnings('error')
def test_data_without_an_author_have_no_crosses_and_no_second_figure():
  report = made(('digits',), ())
  rows = report.tables[0].rows
  rows[0][2] = rows[0][2]._replace(low=np.nan, high=np.nan)
  found, captions = draw(report)
  assert [*found] == ['distances']
  assert 'author' not in captions['distances']
  (ax,) = found['distances'].axes
  found['distances'].draw_without_rendering()
  _, value, low, high = figures.bars(ax)[LABELS[0]]
  assert low[2] == high[2] == value[2]
