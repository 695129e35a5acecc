"""Figures of distances from the boundary, drawn from made-up runs."""

import itertools

import figures
import numpy as np
import pytest
from scipy import stats

from dmm_jax import plots
from dmm_jax import statistics
from dmm_jax.plots import distances
from dmm_jax.plots import scaling

UNIT = stats.halfnorm.ppf(0.5)


def table(columns, rows):
  return dict(
    zip(columns.split(), map(np.array, zip(*rows, strict=False)), strict=True)
  )


def where(columns, **wanted):
  return np.all([columns[k] == v for k, v in wanted.items()], axis=0)


# --- Distances of one set --------------------------------------------------


def distance_columns(norms=(1.0, 2.0), examples=30):
  rng = np.random.default_rng(0)
  rows = []
  for norm, (name, draw) in itertools.product(
    norms, (('trained', 0), ('fresh', 0), ('fresh', 1))
  ):
    for index in range(examples):
      distance = rng.exponential(0.2 * norm)
      distance = {3: 0.0, 7: np.inf}.get(index, distance)
      lower = 0.6 * distance if name == 'trained' else np.nan
      rows.append((norm, name, draw, index, distance, lower))
  return table('norm network draw index distance lower', rows)


def point_columns(channels=1, examples=8):
  rng = np.random.default_rng(0)
  rows = []
  for norm, name, draw in itertools.product(
    (1.0, 2.0), ('trained', 'fresh'), (0, 1)
  ):
    for index in range(examples):
      x = rng.uniform(size=(3, 2, channels))
      point = x + rng.normal(size=x.shape) / 9
      distance = [0.5 + index, 0.0, np.inf][max(0, 2 - index) % 3]
      # The second norm's points were not found, but for the last ones.
      target = -1 if norm == 2 and index != 6 else 3
      rows.append((norm, name, draw, 5, target, distance, x, point))
  return table('norm network draw label target distance x point', rows)


@pytest.fixture(scope='module')
def of_distances(tmp_path_factory):
  results, points = distance_columns(), point_columns()
  run_dir = tmp_path_factory.mktemp('distances')
  found = figures.drawn(
    plots.boundary_distances, run_dir, results=results, points=points
  )
  return results, points, found


def test_robust_accuracy_is_the_share_of_examples_beyond(of_distances):
  results, _, found = of_distances
  for ax, norm in zip(found['robust_accuracy'].axes, (1.0, 2.0), strict=True):
    of = results['distance'][results['norm'] == norm]
    eps = np.linspace(0, np.quantile(of[np.isfinite(of)], 0.995), 400)
    curves, areas = figures.curves(ax), figures.areas(ax)
    names = {'trained': 'trained', 'fresh': 'untrained, own labels'}
    for area, (name, label) in zip(areas, names.items(), strict=True):
      rows = where(results, norm=norm, network=name)
      far = results['distance'][rows]
      share = [np.mean(far > e) for e in eps]
      np.testing.assert_allclose(
        curves.pop(f'{label}: nearest found'), [eps, share]
      )
      # The band counts 30 examples, however many draws there are.
      for place in (0, 100, 399):
        low, high = statistics.wilson(share[place], 30)
        np.testing.assert_allclose(area[1:, place], (low, high), atol=1e-12)
    lower = results['lower'][where(results, norm=norm, network='trained')]
    certified = curves.pop('trained: certified')
    np.testing.assert_allclose(
      certified, [eps, [np.mean(lower > e) for e in eps]]
    )
    assert not curves  # Untrained networks have no certified ones here.
  figures.assert_looks('boundary_distances', found)


def test_histograms_are_of_what_was_found_as_shares_of_all(of_distances):
  results, _, found = of_distances
  for ax, norm in zip(found['histogram'].axes, (1.0, 2.0), strict=True):
    of = results['distance'][results['norm'] == norm]
    end = np.quantile(of[np.isfinite(of)], 0.995)
    filled, trained, _, fresh = ax.patches
    for patch, name in ((trained, 'trained'), (fresh, 'fresh')):
      far = results['distance'][where(results, norm=norm, network=name)]
      kept = far[(far > 0) & np.isfinite(far)]
      counts, _ = np.histogram(kept, np.linspace(0, end, 31))
      x, y = patch.get_xy().T
      np.testing.assert_allclose(x[[0, -1]], [0, end])
      np.testing.assert_allclose(y[1:-1], np.repeat(counts / len(far), 2))
      said = ax.get_title().split('\n')[1 + (name == 'fresh')]
      assert '3.3% misclassified, 3.3% not found' in said
    area = filled.get_xy()[:, 1]
    assert set(np.round(area, 9)) == set(np.round(trained.get_xy()[:, 1], 9))


def test_nearest_points_of_the_first_draw_that_were_found(of_distances):
  _, points, found = of_distances
  keep = where(points, network='trained', draw=0)
  keep &= np.isfinite(points['distance']) & (points['distance'] > 0)
  keep &= points['target'] >= 0
  for norm, columns in ((1.0, 6), (2.0, 1)):
    figure = found[f'points_l{norm:g}']
    rows = np.flatnonzero(keep & (points['norm'] == norm))[:columns]
    panels = np.reshape(figure.axes, (3, columns))
    for (top, middle, bottom), row in zip(panels.T, rows, strict=True):
      x, point = points['x'][row], points['point'][row]
      step = (point - x)[..., 0]
      for ax, wanted in ((top, x[..., 0]), (middle, step)):
        np.testing.assert_array_equal(ax.images[0].get_array(), wanted)
      np.testing.assert_array_equal(bottom.images[0].get_array(), point[..., 0])
      assert middle.images[0].get_clim() == (
        -np.abs(step).max(),
        np.abs(step).max(),
      )
      said = rf'5 $\rightarrow$ 3{chr(10)}at {points["distance"][row]:.3g}'
      assert top.get_title() == said


def test_certified_untrained_networks_and_sets_without_images(tmp_path):
  results = distance_columns((2.0,))
  results['lower'] = 0.5 * results['distance']
  points = point_columns()
  points['x'] = points['x'].reshape(len(points['x']), -1)
  found = figures.drawn(
    plots.boundary_distances, tmp_path, results=results, points=points
  )
  assert [*found] == ['robust_accuracy', 'histogram']
  curves = figures.curves(found['robust_accuracy'].axes[0])
  assert 'untrained, own labels: certified' in curves
  figures.assert_looks('boundary_distances_l2', found)
  # Where nothing was found, the axis has some length.
  for none in (np.inf, 0.0):
    nothing = {'norm': np.ones(2), 'distance': np.full(2, none)}
    assert distances._farthest(nothing, 1.0) == 1


# --- Distances against dimension -------------------------------------------


def size_of(values, n, own):
  entries = 'median relative excess'
  return {
    'n': n,
    'predicted': values.number(),
    'predicted_from': 'infinite width' if own else 'finite networks',
    **values.entries(entries),
    **({'predicted_relative': values.number()} if own else {}),
    **({'infinite_excess': values.entry()} if own and n > 12 else {}),
  }


@pytest.fixture(scope='module')
def of_scaling(tmp_path_factory):
  rng = np.random.default_rng(0)
  values = figures.Values()
  sizes = [12, 48, 108, 192, 300, 432, 588]
  names = ['fully_connected', 'resnet20']
  summary = {
    'inputs': 'uniform',
    'released_resnet20_medians': [
      {'n': n, '1.0': 5.0, '2.0': 0.01 * n} for n in (10, 12, 300, 588, 600)
    ],
    'rows': [
      {
        'architecture': name,
        'norm': norm,
        'sizes': [size_of(values, n, own=name != 'resnet20') for n in sizes],
      }
      for name in names
      for norm in ('1.0', '2.0')
    ],
  }
  rows = [
    (name, norm, n, rng.normal(), rng.exponential(0.3 * norm))
    for name, norm, n in itertools.product(names, (1.0, 2.0), (12, 588))
    for _ in range(2100)
  ]
  results = table('architecture norm n margin distance', rows)
  results['distance'][::7] = np.inf
  rows = [
    ('fully_connected', norm, n, r, r / 5, 2 * r)
    for norm, n, r in itertools.product((1.0, 2.0), (12, 588), (0.1, 0.2, 0.3))
  ]
  bounds = table('architecture norm n radius law bound', rows)
  bounds['law'] = bounds['law'] + bounds['norm']
  run_dir = tmp_path_factory.mktemp('scaling')
  found = figures.drawn(
    plots.random_scaling, run_dir, summary, results=results, bounds=bounds
  )
  return summary, results, bounds, found


def test_medians_and_predictions_against_dimension(of_scaling):
  summary, _, _, found = of_scaling
  for name, what in (
    ('distance', 'median'),
    ('relative', 'relative'),
    ('excess', 'excess'),
  ):
    for ax, norm in zip(found[name].axes, ('1.0', '2.0'), strict=True):
      rows = [row for row in summary['rows'] if row['norm'] == norm]
      for row in rows:
        n, entries = zip(
          *((s['n'], s[what]) for s in row['sizes']), strict=False
        )
        figures.assert_points(ax, row['architecture'], n, entries)
      assert len(figures.bars(ax)) == 2 + (name == 'excess')
      ticks = ax.get_xticks()
      assert ticks.tolist() == [12, 108, 300, 588]  # At most six.
      assert [t.get_text() for t in ax.get_xticklabels()] == [
        str(v) for v in ticks
      ]
  figures.assert_looks('random_scaling', found)


def test_what_medians_are_held_against(of_scaling):
  summary, _, _, found = of_scaling
  for number, norm in enumerate(('1.0', '2.0')):
    dense, resnet = (r for r in summary['rows'] if r['norm'] == norm)
    n = np.array([s['n'] for s in dense['sizes']])
    of = lambda row, name: [s[name] for s in row['sizes']]
    ax = found['distance'].axes[number]
    for row, source in ((dense, 'infinite width'), (resnet, 'own gradients')):
      label = f'{row["architecture"]}, predicted: {source}'
      figures.assert_curve(ax, label, n, of(row, 'predicted'))
    released = figures.curves(ax)['resnet20, released by De Palma et al.']
    medians = {'1.0': 3 * [5.0], '2.0': [0.12, 3, 5.88]}
    np.testing.assert_allclose(released, [[12, 300, 588], medians[norm]])
    ax = found['relative'].axes[number]
    (own,) = figures.others(ax)
    np.testing.assert_allclose(own, [n, of(dense, 'predicted_relative')])
    figures.assert_curve(ax, r'slope of $1/\sqrt{n}$', n, 0.4 * n**-0.5)
    label = r'slope of $1/\sqrt{n\,\ln n}$'
    if norm == '1.0':
      figures.assert_curve(ax, label, n, 0.7 * (n * np.log(n)) ** -0.5)
    else:
      assert label not in figures.curves(ax)
    ax = found['excess'].axes[number]
    label = 'infinitely wide dense networks, straight along the gradient'
    drawn = [s['infinite_excess'] for s in dense['sizes'][1:]]
    figures.assert_points(ax, label, n[1:], drawn)
    assert figures.others(ax)[0][1].tolist() == [1, 1]


def test_distributions_beside_law_and_bound(of_scaling):
  summary, results, bounds, found = of_scaling
  for ax, row in zip(found['law'].axes, summary['rows'], strict=True):
    norm, name = float(row['norm']), row['architecture']
    of = where(results, architecture=name, norm=norm, n=588)
    unit = row['sizes'][-1]['predicted'] / UNIT
    far = np.sort(results['distance'][of])
    share = np.arange(1, len(far) + 1) / len(far)
    there = np.isfinite(far)
    curves = figures.curves(ax)
    np.testing.assert_allclose(
      curves['finite networks'], [far[there] / unit, share[there]], rtol=1e-5
    )
    if name == 'resnet20':
      grid = np.linspace(0, 3, 61)
      law = [grid, stats.halfnorm.cdf(grid)]
      np.testing.assert_allclose(curves['half-normal law'], law)
      continue
    at = where(bounds, norm=norm, n=588)
    radius = bounds['radius'][at] / unit
    for label, column in (
      ('half-normal law', 'law'),
      ('flip bound: no distribution may exceed it', 'bound'),
    ):
      wanted = [radius, bounds[column][at]]
      np.testing.assert_allclose(curves[label], wanted, rtol=1e-5)


def test_distances_against_margins_in_units_of_their_scale(of_scaling):
  summary, results, _, found = of_scaling
  for ax, row in zip(found['margin'].axes, summary['rows'], strict=True):
    for n, size in ((12, row['sizes'][0]), (588, row['sizes'][-1])):
      of = where(
        results, architecture=row['architecture'], norm=float(row['norm']), n=n
      )
      margin, far = results['margin'][of], results['distance'][of]
      x = margin[:2000] / np.sqrt(np.mean(margin**2))
      y = far[:2000] * UNIT / size['predicted']
      figures.assert_curve(ax, f'n = {n}', x, y)
    law = figures.curves(ax)['law: proportional']
    assert law.tolist() == [[0, 3], [0, 3]]


def test_few_dimensions_and_other_inputs(tmp_path):
  values = figures.Values()
  row = {
    'architecture': 'resnet20',
    'norm': '2.0',
    'sizes': [size_of(values, n, own=False) for n in (12, 48, 75)],
  }
  row['sizes'][1]['median'] = {'value': 0.3, 'interval': [0.2, np.inf]}
  row['sizes'][2]['median'] = {'value': np.inf, 'interval': [1, np.inf]}
  summary = {
    'inputs': 'digits',
    'released_resnet20_medians': [{'n': 12, '2.0': 1}],
    'rows': [row],
  }
  rows = [('resnet20', 2.0, n, 1.0, 0.5) for n in (12, 48, 75)]
  results = table('architecture norm n margin distance', rows)
  found = figures.drawn(
    plots.random_scaling, tmp_path, summary, results=results
  )
  (ax,) = found['distance'].axes
  assert ax.get_xticks().tolist() == [12, 48, 75]
  first = row['sizes'][0]['median']
  # An end at infinity is not drawn, nor is a value there.
  shown = [first, {'value': 0.3, 'interval': [0.2, 0.3]}]
  figures.assert_points(ax, 'resnet20', [12, 48], shown)
  assert [*figures.curves(ax)] == ['resnet20, predicted: own gradients']
  np.testing.assert_allclose(scaling.HALF_NORMAL_MEDIAN, UNIT, rtol=1e-5)


def test_resized_images_against_dimension(tmp_path):
  values = figures.Values()
  inputs = 'trained_images untrained_images trained_noise untrained_noise'
  n = [16, 64, 144]
  rows = [
    {
      'model': model,
      'norm': norm,
      'content': content,
      'n': n,
      'law': -0.5,
      'series': {
        name: {w: [values.entry() for _ in n] for w in ('relative', 'distance')}
        for name in inputs.split()
      },
    }
    for model in ('mlp', 'cnn')
    for norm in ('1.0', '2.0', 'inf')
    for content in ('true', 'same')
  ]
  summary = {'dataset': 'digits', 'networks': 4, 'examples': 9, 'rows': rows}
  found = figures.drawn(plots.trained_scaling, tmp_path, summary)
  series = (
    ('true', 'trained_images', 'trained, images'),
    ('same', 'trained_images', 'trained, images of the same content'),
    ('true', 'untrained_images', 'untrained, images'),
    ('true', 'trained_noise', 'trained, noise'),
    ('true', 'untrained_noise', 'untrained, noise'),
  )
  for what in ('relative', 'distance'):
    for ax, pair in zip(
      found[what].axes, np.reshape(rows, (6, 2)), strict=True
    ):
      of = {row['content']: row['series'] for row in pair}
      for line, (content, name, label) in zip(
        figures.others(ax), series, strict=True
      ):
        entries = of[content][name][what]
        figures.assert_points(ax, label, n, entries)
        np.testing.assert_allclose(line, [n, [e['value'] for e in entries]])
      start = of['true']['untrained_images'][what][0]['value']
      power = -0.5
      if what == 'distance':  # ||x||_p grows as n^(1 / p).
        power += {'1.0': 1, '2.0': 0.5, 'inf': 0}[pair[0]['norm']]
      law = start * (np.array(n) / 16) ** power
      figures.assert_curve(ax, 'slope of the law', n, law)
  figures.assert_looks('trained_scaling', found)
