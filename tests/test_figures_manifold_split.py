"""Figures of perturbations and the manifold, drawn from made-up tables."""

import figures
import numpy as np
import pytest

from dmm_jax import manifold
from dmm_jax import statistics
from experiments.figures import manifold_split
from experiments.lib import runner
from experiments.lib import tables

KINDS = ('manifold', 'random', 'frequency', 'other', 'principal', 'permuted')
K, D = 4, 20


def estimates(rng, num):
  values = rng.uniform(0.1, 0.6, num)
  return [statistics.Estimate(v, 0.8 * v, 1.5 * v, 3, '') for v in values]


def make_report(rng, curved=True):
  column = lambda name: tables.Column(name, '', '')
  parts = [
    [kind, share, found]
    for kind, share, found in zip(
      KINDS, estimates(rng, 6), estimates(rng, 6), strict=True
    )
  ]
  contrasts = [
    [kind, a, b]
    for kind, a, b in zip(
      KINDS[1:], estimates(rng, 5), estimates(rng, 5), strict=True
    )
  ]
  contrasts[2][1] = statistics.Estimate(2.0, 1.5, 2.5, 3, '')
  contrasts[3][1] = statistics.Estimate(0.9, 0.8, 1.2, 3, '')
  made = [
    tables.Table(
      '', [*map(column, ('subspace', 'share', 'A by distance'))], parts
    ),
    tables.Table(
      '', [*map(column, ('null', 'by direction', 'by distance'))], contrasts
    ),
  ]
  if curved:
    rows = zip(('plane', 'curved'), estimates(rng, 2), strict=True)
    made.append(
      tables.Table('', [*map(column, ('search', 'over free'))], [*rows])
    )
  made.append(tables.Table('', [column('instrument')], []))
  return runner.Report('So far.', [], made)


def result_columns(rng):
  """Two classifiers beside two auto-encoders, 5 images; 1 of them is wrong."""
  rows = []
  for start in ('image', 'decoded'):
    for kind in KINDS if start == 'image' else KINDS[:1]:
      coders = (-1,) if kind in ('random', 'frequency', 'principal') else (0, 1)
      for classifier in (0, 1):
        for coder in coders:
          for index in range(5):
            free = 0.0 if index == 3 else rng.uniform(0.5, 1)
            share, on, curved = rng.uniform(0.1, 2, 3)
            rows.append(
              (start, kind, classifier, coder, index, free, share, on, curved)
            )
  names = 'start kind classifier autoencoder index free share on curved'
  columns = dict(
    zip(names.split(), map(np.array, zip(*rows, strict=True)), strict=True)
  )
  num = len(rows)
  return columns | {'k': np.full(num, K), 'd': np.full(num, D)}


def point_columns(rng, examples=3):
  num = 2 * examples
  x = rng.uniform(size=(num, 3, 2, 1))
  step = lambda: x + rng.normal(size=x.shape) / 9
  columns = {
    'start': np.full(num, 'image'),
    'kind': np.repeat(['manifold', 'other'], examples),
    'label': np.arange(num),
    'free': 0.1 + np.arange(num),
    'on': 0.4 + np.arange(num),
    'off': 0.2 + np.arange(num),
    'x': x,
  }
  for number, side in enumerate(('free', 'on', 'off')):
    columns[f'{side}_point'] = step()
    columns[f'{side}_target'] = np.arange(num) + 10 * number
  columns['off'][1] = np.inf  # Not found: that image is not shown.
  columns['free_point'][0] = x[0]  # No change at all.
  return columns


def draw(report, results, points):
  found = manifold_split.draw(report, {'results': results, 'points': points})
  return ({k: v[i] for k, v in found.items()} for i in (0, 1))


@pytest.fixture(scope='module')
def drawn():
  rng = np.random.default_rng(0)
  report, results, points = (
    make_report(rng),
    result_columns(rng),
    point_columns(rng),
  )
  return report, results, points, *draw(report, results, points)


def cells(results, statistic, **wanted):
  """A number of each pair of networks, of images that are not misclassified."""
  found = []
  keep = np.all([results[k] == v for k, v in wanted.items()], axis=0)
  keep &= results['free'] > 0
  for c in (0, 1):
    for a in (-1, 0, 1):
      of = keep & (results['classifier'] == c) & (results['autoencoder'] == a)
      if of.any():
        found.append(statistic({k: v[of] for k, v in results.items()}))
  return found


def assert_dots(ax, label, found, shift):
  value, low, high = np.array([v[:3] for v in found]).T
  places = np.arange(len(found)) + shift
  np.testing.assert_allclose(
    figures.bars(ax)[label], [value, places, low, high]
  )


def test_shares_stand_beside_their_nulls(drawn):
  report, results, _, found, captions = drawn
  left, right = found['shares'].axes
  parts, contrasts, *_ = map(tables.to_dicts, report.tables)
  assert_dots(
    left, 'by direction, 95 % interval', [r['share'] for r in parts], -0.08
  )
  implied = [
    [a * K / (a * K + D - K) for a in row['A by distance'][:3]] for row in parts
  ]
  assert_dots(left, 'by distance, 95 % interval', implied, 0.16)
  curves = figures.curves(left)
  assert curves['k / d: a random subspace'][0].tolist() == [0.2, 0.2]
  assert curves['1/2: an angle of 45 degrees'][0].tolist() == [0.5, 0.5]
  mean = lambda one: one['share'].mean()
  ticks = [curves['each pair of networks'], *figures.others(left)]
  for place, kind in enumerate(KINDS):
    wanted = cells(results, mean, kind=kind, start='image')
    np.testing.assert_allclose(ticks[place][0], wanted)
    np.testing.assert_allclose(ticks[place][1], place - 0.28)
  said = [v.get_text() for v in left.get_yticklabels()]
  assert said == list(KINDS) and left.get_ylim() == (5.6, -0.6)
  for name, shift in (('by direction', 0.92), ('by distance', 1.16)):
    value, low, high = np.array([row[name][:3] for row in contrasts]).T
    bars = [v for v in error_bars(right) if np.isclose(v[1][0], shift)]
    np.testing.assert_allclose(
      bars[0], [value, np.arange(5) + shift, low, high]
    )
  assert not any(v.get_text() for v in right.get_yticklabels())
  assert right.get_ylim() == left.get_ylim()
  caption = captions['shares']
  assert caption.startswith('So far. Left:')
  assert '3 of 5 intervals lie left of 1, 1 right' in caption
  figures.assert_looks('manifold_split', found)


def error_bars(ax):
  """Error bars without a label: x, y, low, high."""
  found = []
  for bar in ax.containers:
    segments = np.array(bar[2][0].get_segments())
    found.append((*bar[0].get_data(), *segments[:, :, 0].T))
  return found


def test_curved_search_beside_the_plane(drawn):
  report, results, _, found, captions = drawn
  (ax,) = found['curved'].axes
  rows = tables.to_dicts(report.tables[2])
  assert_dots(ax, 'mean, 95 % interval', [r['over free'] for r in rows], 0.0)
  curves = figures.curves(ax)
  ticks = [curves['each pair of networks'], *figures.others(ax)]
  for place, name in enumerate(('on', 'curved')):
    ratio = lambda one, name=name: np.median(one[name] / one['free'])
    wanted = cells(results, ratio, kind='manifold', start='decoded')
    np.testing.assert_allclose(ticks[place][0], wanted)
  null = manifold.random_ratio(K, D)
  assert curves['random subspace, flat boundary'][0].tolist() == [null, null]
  assert f'would have {null:.2f} at' in captions['curved']
  plane = rows[0]['over free']
  assert f'{plane.value:.2f} [{plane.low:.2f}' in captions['curved']


def test_nearest_points_on_and_off(drawn):
  _, _, points, found, captions = drawn
  panels = np.reshape(found['pictures'].axes, (7, 2))
  for column, row in zip(panels.T, (0, 2), strict=True):
    x = points['x'][row]
    np.testing.assert_array_equal(column[0].images[0].get_array(), x[..., 0])
    assert column[0].get_title() == f'true class {row}'
    for i, side in enumerate(('free', 'on', 'off')):
      top, bottom = column[1 + 2 * i : 3 + 2 * i]
      point = points[f'{side}_point'][row]
      step = (point - x)[..., 0]
      np.testing.assert_array_equal(top.images[0].get_array(), step)
      size = np.abs(step).max() or 1
      assert top.images[0].get_clim() == (-size, size)
      np.testing.assert_array_equal(bottom.images[0].get_array(), point[..., 0])
      said = rf'{row} $\rightarrow$ {row + 10 * i} at {points[side][row]:.2g}'
      assert bottom.get_title() == said
  ratio = np.median([0.4 / 0.2, 2.4 / 2.2])
  assert f'space is {ratio:.2g} times as long' in captions['pictures']
  assert 'of 2 images' in captions['pictures']


@pytest.mark.filterwarnings('error')
def test_without_a_curved_search_and_without_images():
  rng = np.random.default_rng(1)
  results, points = result_columns(rng), point_columns(rng)
  report = make_report(rng, curved=False)
  nothing = statistics.Estimate(np.nan, np.nan, np.nan, 0, '')
  report.tables[0].rows[2][1] = nothing
  points['x'] = points['x'].reshape(len(points['x']), -1)
  found, _ = draw(report, results, points)
  assert [*found] == ['shares']
  found['shares'].draw_without_rendering()
  points['off'][:] = np.inf
  found, _ = draw(make_report(rng), results, points)
  assert [*found] == ['shares', 'curved']


def test_without_auto_encoders_nothing_is_said_of_pairs():
  rng = np.random.default_rng(2)
  results, points = result_columns(rng), point_columns(rng)
  results['autoencoder'][:] = -1
  found, captions = draw(make_report(rng, curved=False), results, points)
  left, right = found['shares'].axes
  labels = left.get_legend_handles_labels()[1]
  assert 'each network' in labels and 'each pair of networks' not in labels
  assert right.get_xlabel().startswith("odds of the subspace's share")
  assert 'single classifiers. Right' in captions['shares']
  assert 'the share in manifold over' in captions['shares']
  said = [ax.get_ylabel() for ax in found['pictures'].axes]
  assert 'change,\non subspace' in said and 'change,\non tangent' not in said
  assert 'within the subspace of one' in captions['pictures']
