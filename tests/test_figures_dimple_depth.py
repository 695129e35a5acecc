"""Figures of the depth of dimples, drawn from made-up tables."""

import figures
import numpy as np
import pytest

from dmm_jax import statistics
from experiments.figures import dimple_depth as drawing
from experiments.lib import runner
from experiments.lib import tables

KINDS = ('plain', 'plain again', 'PGD l2', 'TRADES')
IMAGES = 6


def result_columns():
  rng = np.random.default_rng(0)
  rows = []
  for kind in KINDS:
    for network in range(3):
      for index in range(IMAGES):
        free = rng.uniform(0.3, 0.9)
        right = index != network  # Each network gets one image wrong.
        smoothed = free - 0.1 * KINDS.index(kind)
        other = (index + 1) % IMAGES
        place = rng.uniform(0.2, 0.8)
        rows.append((kind, network, right, free, smoothed, other, place))
  columns = 'kind network correct free smoothed other place'.split()
  made = map(np.array, zip(*rows, strict=True))
  return dict(zip(columns, made, strict=True))


class Numbers:
  """Estimates that differ."""

  def __init__(self):
    self.values = figures.Values()

  def __call__(self):
    value = self.values.number()
    return statistics.Estimate(value, 0.8 * value, 1.5 * value, 3, 'networks')


def table(names, kinds, number):
  columns = [tables.Column(name, '', '') for name in ('trained', *names)]
  rows = [[kind, *(number() for _ in names)] for kind in kinds]
  return tables.Table('', columns, rows)


@pytest.fixture(scope='module')
def drawn():
  number = Numbers()
  made = [
    table(
      ('free', 'on', 'off', 'off/on', 'random', 'by normals'),
      KINDS[1:],
      number,
    ),
    table(('depth', 'bend', 'random bend'), KINDS, number),
    table(('displaced',), KINDS[1:], number),
    table((), (), number),
  ]
  results = result_columns()
  found = drawing.draw(runner.Report('So far.', [], made), {'results': results})
  rows = [tables.to_dicts(t) for t in made]
  return results, rows, *({k: v[i] for k, v in found.items()} for i in (0, 1))


def assert_series(ax, label, estimates, shift):
  value, low, high = np.array([e[:3] for e in estimates]).T
  places = np.arange(len(value)) + shift
  found = figures.bars(ax)[label]
  np.testing.assert_allclose(found, [value, places, low, high], atol=1e-12)


def names_of(ax):
  return [v.get_text().split('\n')[0] for v in ax.get_yticklabels()]


def test_growth_of_distances_and_of_off_over_on(drawn):
  _, (rows, *_), found, captions = drawn
  left, right = found['growth'].axes
  for ax, columns in (
    (
      left,
      {
        'in any direction': 'free',
        'on the manifold': 'on',
        'off the manifold': 'off',
      },
    ),
    (
      right,
      {
        'measured, manifold': 'off/on',
        'measured, random subspace': 'random',
        'flat boundary with these normals': 'by normals',
      },
    ),
  ):
    for (label, name), shift in zip(
      columns.items(), (-0.2, 0, 0.2), strict=True
    ):
      assert_series(ax, label, [row[name] for row in rows], shift)
    assert figures.curves(ax)['no growth'][0].tolist() == [1, 1]
    assert names_of(ax) == [*KINDS[1:]]
    assert ax.get_yticklabels()[0].get_text().endswith('(the null)')
  assert captions['growth'].startswith('So far. Geometric mean over networks')
  assert '(triangles)' in captions['growth']
  figures.assert_looks('dimple_depth', found)


def test_the_boundary_and_the_smoothed_one(drawn):
  results, (_, rows, *_), found, captions = drawn
  left, right = found['depth'].axes
  for name, label, shift in (
    ('free', 'of the network', -0.1),
    ('smoothed', 'of the smoothed network', 0.1),
  ):
    wanted = []
    for kind in KINDS:
      medians = []
      for network in range(3):
        keep = (results['kind'] == kind) & (results['network'] == network)
        kept = np.sort(results[name][keep & results['correct']])
        medians.append(kept[2])  # Of 5.
      wanted.append(statistics.t_mean(np.array(medians), unit='networks'))
    assert_series(left, label, wanted, shift)
  for name, label, shift in (
    ('bend', 'along the manifold', -0.1),
    ('random bend', 'in random directions', 0.1),
  ):
    assert_series(right, label, [row[name] for row in rows], shift)
  assert figures.curves(right)['flat'][0].tolist() == [0, 0]
  assert left.get_xlim()[0] <= 0
  for ax in (left, right):
    assert names_of(ax) == [*KINDS]
  for row in rows:
    said = tables.cell(row['depth'], '.2g')
    assert f'{row["trained"]} {said}' in captions['depth']


def test_crossings_of_lines_between_images_that_are_right(drawn):
  results, (_, _, rows, _), found, captions = drawn
  left, right = found['crossings'].axes
  for kind in KINDS:
    places = []
    for network in range(3):
      keep = (results['kind'] == kind) & (results['network'] == network)
      # The image that is wrong ends two of the lines.
      good = [i for i in range(IMAGES) if network not in (i, (i + 1) % IMAGES)]
      places += results['place'][keep][good].tolist()
    assert len(places) == 12
    x, y = figures.curves(left)[kind]
    np.testing.assert_allclose(x, [0, *sorted(places), 1])
    np.testing.assert_allclose(y, [0, *np.arange(1, 13) / 12, 1])
  assert figures.curves(left)['middle'][0].tolist() == [0.5, 0.5]
  assert_series(right, 'mean displacement', [r['displaced'] for r in rows], 0)
  null = rows[0]['displaced'].value
  assert figures.curves(right)['by retraining'][0].tolist() == [null, null]
  assert 'share of the lines whose first crossing' in captions['crossings']


@pytest.mark.filterwarnings('error')
def test_what_has_no_value_is_left_out():
  nothing = statistics.Estimate(*3 * [np.nan], 1, 'networks')
  made = [
    table(('free', 'on', 'off', 'off/on', 'random', 'by normals'), KINDS[1:],
          lambda: nothing),
    table(('depth', 'bend', 'random bend'), KINDS, lambda: nothing),
    table(('displaced',), KINDS[1:], lambda: nothing),
    table((), (), lambda: nothing),
  ]  # fmt: skip
  results = result_columns()
  results['correct'][:] = False
  found = drawing.draw(runner.Report('', [], made), {'results': results})
  for figure, _ in found.values():
    figure.draw_without_rendering()
