"""Figures of distances from the boundary, drawn from made-up tables."""

import itertools

import figures
import numpy as np
import pytest

from dmm_jax import statistics
from experiments.figures import boundary_distances
from experiments.lib import runner
from experiments.lib import tables

NORMS = (1.0, 2.0)
COUNTS = {'trained': 3, 'untrained': 2}
EXAMPLES = 30


def table(columns, rows):
  made = map(np.array, zip(*rows, strict=True))
  return dict(zip(columns.split(), made, strict=True))


def where(columns, **wanted):
  return np.all([columns[k] == v for k, v in wanted.items()], axis=0)


def result_columns(norms=NORMS, counts=COUNTS, certified=('trained',)):
  rng = np.random.default_rng(0)
  rows = []
  for kind, norm in itertools.product(counts, norms):
    for network in range(counts[kind]):
      for index in range(EXAMPLES):
        distance = rng.exponential(0.2 * norm * (1 + (kind == 'trained')))
        distance = {3: 0.0, 7: np.inf}.get(index, distance)
        lower = 0.6 * distance if kind in certified else np.nan
        rows.append((kind, norm, network, distance, lower))
  return table('kind norm network distance lower', rows)


def point_columns(channels=1, examples=8):
  rng = np.random.default_rng(0)
  rows = []
  for norm, index in itertools.product(NORMS, range(examples)):
    x = rng.uniform(size=(3, 2, channels))
    point = x + rng.normal(size=x.shape) / 9
    # The second norm's points were not found, but for one.
    target = 3 if norm == 1 or index == 6 else -1
    rows.append((norm, 'trained', 5, target, 0.5 + index, x, point))
  return table('norm kind predicted target distance x point', rows)


def report_of(results, names=()):
  names = dict(names)
  estimate = lambda norm: statistics.Estimate(0.3 * norm, 0.2, 0.9, 3, '')
  rows = [
    [f'l{norm:g}', names.get(kind, kind), estimate(norm)]
    for norm in np.unique(results['norm'])
    for kind in dict.fromkeys(results['kind'])
  ]
  names = ('norm', 'networks', 'median')
  columns = [tables.Column(name, '', '') for name in names]
  return runner.Report('So far.', [], [tables.Table('', columns, rows)])


def draw(results, points, names=()):
  found = boundary_distances.draw(
    report_of(results, names), {'results': results, 'points': points}
  )
  return ({k: v[i] for k, v in found.items()} for i in (0, 1))


@pytest.fixture(scope='module')
def drawn():
  results, points = result_columns(), point_columns()
  return results, points, *draw(results, points)


def distances(results, column='distance', **wanted):
  num = COUNTS[wanted['kind']]
  return results[column][where(results, **wanted)].reshape(num, EXAMPLES)


def farthest(results, norm):
  of = results['distance'][results['norm'] == norm]
  return np.quantile(of[np.isfinite(of)], 0.99)


def test_robust_accuracy_is_the_share_of_examples_beyond(drawn):
  results, _, found, captions = drawn
  for ax, norm in zip(found['robust_accuracy'].axes, NORMS, strict=True):
    eps = np.linspace(0, farthest(results, norm), 200)
    curves, areas = figures.curves(ax), figures.areas(ax)
    for area, kind in zip(areas, COUNTS, strict=True):
      far = distances(results, kind=kind, norm=norm)
      each = np.array([[np.mean(v > e) for v in far] for e in eps])
      label = f'{kind}, nearest point found'
      np.testing.assert_allclose(curves.pop(label), [eps, each.mean(1)])
      for place in (0, 40, 199):  # The band is over networks.
        band = statistics.t_mean(each[place], unit='networks')
        ends = np.clip([band.low, band.high], 0, 1)
        np.testing.assert_allclose(area[1:, place], ends, atol=1e-12)
    lower = distances(results, 'lower', kind='trained', norm=norm)
    share = [np.mean(lower > e) for e in eps]
    np.testing.assert_allclose(curves.pop('trained, certified'), [eps, share])
    assert not curves  # Untrained networks have no certified ones here.
    far = distances(results, kind='untrained', norm=norm)
    middle = np.sort(far.ravel())[far.size // 2 - 1]
    beyond = np.mean(distances(results, kind='trained', norm=norm) > middle)
    assert f'{beyond:.0%} in l{norm:g}' in captions['robust_accuracy']
  assert 'mean of 3 trained and 2 untrained' in captions['robust_accuracy']
  figures.assert_looks('boundary_distances', found)


def test_each_network_has_its_median_and_middle_half(drawn):
  results, _, found, captions = drawn
  assert captions['networks'].startswith('So far. Each mark is a network')
  for ax, norm in zip(found['networks'].axes, NORMS, strict=True):
    marks = figures.curves(ax)['median']
    lines, areas = figures.others(ax), figures.areas(ax)
    assert marks[0][0].tolist() == [0, 1, 2]
    assert marks[1][0].tolist() == [4, 5]
    ticks = [v.get_text() for v in ax.get_xticklabels()]
    assert ticks == ['trained', 'untrained']
    assert ax.get_xticks().tolist() == [1, 4.5]
    bars = [v for v in ax.collections if hasattr(v, 'get_segments')]
    for kind, mark, bar, mean, area in zip(
      COUNTS, marks, bars, lines, areas, strict=True
    ):
      far = distances(results, kind=kind, norm=norm)
      far = np.sort(far, axis=1)
      far = far[np.argsort(far[:, EXAMPLES // 2 - 1])]
      np.testing.assert_allclose(mark[1], far[:, EXAMPLES // 2 - 1])
      ends = far[:, [7, 22]].T  # A quarter of 30 is 7.5.
      segments = np.array(bar.get_segments())
      np.testing.assert_allclose(segments[:, :, 1].T, ends)
      np.testing.assert_allclose(mean[1], 0.3 * norm)
      np.testing.assert_allclose(area[1:], [[0.2, 0.2], [0.9, 0.9]])


def test_nearest_points_that_were_found(drawn):
  _, points, found, captions = drawn
  for norm, columns in ((1.0, 6), (2.0, 1)):
    figure = found[f'points_l{norm:g}']
    keep = where(points, norm=norm) & (points['target'] >= 0)
    rows = np.flatnonzero(keep)[:columns]
    panels = np.reshape(figure.axes, (3, columns))
    moved = []
    for (top, middle, bottom), row in zip(panels.T, rows, strict=True):
      x, point = points['x'][row], points['point'][row]
      step = (point - x)[..., 0]
      for ax, wanted in ((top, x[..., 0]), (middle, step)):
        np.testing.assert_array_equal(ax.images[0].get_array(), wanted)
      np.testing.assert_array_equal(bottom.images[0].get_array(), point[..., 0])
      size = np.abs(step).max()
      assert middle.images[0].get_clim() == (-size, size)
      assert middle.get_title() == rf'$\pm${size:.2g}'
      said = rf'5 $\rightarrow$ 3{chr(10)}at {points["distance"][row]:.3g}'
      assert top.get_title() == said
      moved.append(np.sum(np.abs(step) > 0.1 * size))
    caption = captions[f'points_l{norm:g}']
    ends = [f'{points["distance"][rows[i]]:.2g}' for i in (0, -1)]
    assert f'{ends[0]} to {ends[1]} away' in caption
    assert f'{columns} examples, at one trained network' in caption
    assert f'On average {np.mean(moved):.0f} of 6 pixels' in caption


def test_images_whose_channels_are_first_look_alike():
  results, points = result_columns(), point_columns(channels=3)
  first = dict(points)
  for name in ('x', 'point'):
    first[name] = np.moveaxis(points[name], -1, 1).repeat(2, axis=2)
    points[name] = points[name].repeat(2, axis=1)
  wanted, wanted_captions = draw(results, points)
  found, captions = draw(results, first)
  assert captions == wanted_captions
  for name in ('points_l1', 'points_l2'):
    axes = found[name].axes, wanted[name].axes
    for ax, wanted_ax in zip(*axes, strict=True):
      shown = ax.images[0].get_array()
      np.testing.assert_array_equal(shown, wanted_ax.images[0].get_array())


def test_untrained_networks_alone_and_sets_without_images():
  results = result_columns((2.0,), {'untrained': 2}, ('untrained',))
  points = point_columns()
  points['x'] = points['x'].reshape(len(points['x']), -1)
  found, captions = draw(results, points)
  assert [*found] == ['robust_accuracy', 'networks']
  assert [*figures.curves(found['robust_accuracy'].axes[0])] == [
    'untrained, nearest point found',
    'untrained, certified',
  ]
  assert 'the untrained median' not in captions['robust_accuracy']
  figures.assert_looks('boundary_distances_l2', found)


def test_one_network_of_a_user_has_its_name_and_no_bands_over_networks():
  results = result_columns((2.0,), {'trained': 1})
  points, name = point_columns(), 'mine:network'
  found, captions = draw(results, points, {'trained': name})
  ax, other = (found[v].axes[0] for v in ('robust_accuracy', 'networks'))
  assert [*figures.curves(ax)] == [
    f'{name}, nearest point found',
    f'{name}, certified',
  ]
  assert not figures.areas(ax)
  assert [v.get_text() for v in other.get_xticklabels()] == [name]
  np.testing.assert_allclose(figures.areas(other)[0][1:, 0], [0.2, 0.9])
  assert f'farther than eps, of {name}. Lines' in captions['robust_accuracy']
  assert captions['networks'].startswith('So far. The mark is its median')
  assert (
    'median with its 95 % interval over the examples' in (captions['networks'])
  )
  assert f'of 6 examples, at {name}: the' in captions['points_l1']
  for caption in captions.values():
    assert not any(v in caption for v in ('mean', 'networks', 'trained'))


@pytest.mark.parametrize(
  'counts, of_curves, of_marks',
  [
    ({'trained': 1}, ', of one trained network. Lines', 'The mark is its'),
    (
      {'trained': 1, 'untrained': 1},
      ', of one trained network and of one untrained network. Lines',
      'Lines and grey bands: the median with',
    ),
    (
      {'trained': 1, 'untrained': 2},
      ', of one trained network; mean of 2 untrained networks, with 95 % bands',
      "networks' medians, with its 95 % interval; of one trained network the "
      'median with',
    ),
  ],
)
def test_captions_of_few_networks_promise_what_there_is(
  counts, of_curves, of_marks
):
  results = result_columns((2.0,), counts, certified=())
  _, captions = draw(results, point_columns())
  assert of_curves in captions['robust_accuracy']
  assert 'certified' not in captions['robust_accuracy']
  assert of_marks in captions['networks']


@pytest.mark.filterwarnings('error', 'ignore::DeprecationWarning')
@pytest.mark.parametrize('none', [np.inf, 0.0])
def test_where_nothing_was_found_the_axes_have_some_length(none):
  results = result_columns()
  results['distance'][:] = none
  points = point_columns()
  points['target'][:] = -1
  found, _ = draw(results, points)
  assert [*found] == ['robust_accuracy', 'networks']
  assert found['robust_accuracy'].axes[0].get_xlim() == (0, 1)
  for figure in found.values():
    figure.draw_without_rendering()
