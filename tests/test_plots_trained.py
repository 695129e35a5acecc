"""Figures of networks before and after training, from made-up runs."""

import itertools

import figures
import numpy as np
import pytest
from scipy import stats

from dmm_jax import plots

UNIT = stats.halfnorm.ppf(0.5)


def table(columns, rows):
  return dict(
    zip(columns.split(), map(np.array, zip(*rows, strict=False)), strict=True)
  )


def where(columns, **wanted):
  return np.all([columns[k] == v for k, v in wanted.items()], axis=0)


# --- Trained and random networks -------------------------------------------


TYPES = {
  'train': 'training images',
  'test': 'test images',
  'random': 'random images',
}


@pytest.fixture(scope='module')
def of_trained(tmp_path_factory):
  rng = np.random.default_rng(0)
  values = figures.Values()
  cases = [('dense', 'untrained'), ('dense', 'trained'), ('conv', 'untrained')]
  rows = [
    {
      'architecture': name,
      'state': state,
      'norm': norm,
      'type': kind,
      **{k: values.number() for k in 'q45 q55 predicted'.split()},
      'predicted_slope': values.number(),
      **values.entries('median relative slope correlation'),
    }
    for name, state in cases
    for norm in ('inf', '2.0')
    for kind in TYPES
  ]
  summary = {'dataset': 'digits', 'labels': 'parity', 'unit': 0.7, 'rows': rows}
  columns = [
    (row['architecture'], row['state'], float(row['norm']), row['type'])
    for row in rows
    for _ in range(2010)
  ]
  results = table('architecture state norm type', columns)
  results['norm'] = results['norm'].astype(np.float32)
  results['margin'] = rng.exponential(size=len(columns))
  results['distance'] = rng.exponential(size=len(columns))
  results['distance'][::9] = np.inf
  run_dir = tmp_path_factory.mktemp('trained')
  found = figures.drawn(
    plots.trained_vs_random, run_dir, summary, results=results
  )
  return summary, results, found


def rows_of(summary, **wanted):
  return [
    row
    for row in summary['rows']
    if all(row[k] == v for k, v in wanted.items())
  ]


def test_medians_and_ratios_of_every_state(of_trained):
  summary, _, found = of_trained
  for figure, key in (('medians', 'median'), ('prediction', 'relative')):
    for ax, norm in zip(found[figure].axes, ('inf', '2.0'), strict=True):
      predicted = figures.curves(ax).get('law, not fitted')
      for kind, shift in zip(TYPES, (-0.2, 0, 0.2), strict=True):
        rows = rows_of(summary, norm=norm, type=kind)
        entries = [row[key] for row in rows]
        figures.assert_dots(ax, TYPES[kind], entries, shift)
        places = np.arange(3) + shift
        law = [[r['predicted'] for r in rows], places]
        if figure == 'prediction':
          continue
        bars = [
          v.get_segments()
          for v in ax.collections
          if v.get_alpha() == 0.5
          and np.isclose(v.get_segments()[0][0, 1], shift)
        ]
        ends = [
          [(r[q], y) for q in ('q45', 'q55')]
          for r, y in zip(rows, places, strict=False)
        ]
        np.testing.assert_allclose(bars, [ends])
        drawn = predicted if kind == 'random' else None
        marks = [drawn] if drawn is not None else figures.others(ax)
        assert any(np.allclose(m, law) for m in marks)
      if figure == 'prediction':
        assert figures.curves(ax)['law'][0].tolist() == [1, 1]
  figures.assert_looks('trained_vs_random', found)


def test_profiles_are_sorted_distances(of_trained):
  summary, results, found = of_trained
  panels = zip(
    itertools.product(('dense', 'conv'), TYPES), found['profile'].axes,
    strict=True,
  )  # fmt: skip
  for (name, kind), ax in panels:
    rows = rows_of(summary, architecture=name, type=kind, norm='2.0')
    curves, lines = figures.curves(ax), figures.others(ax)
    tops = []
    for number, row in enumerate(rows):
      of = where(
        results, architecture=name, type=kind, state=row['state'], norm=2.0
      )
      far = np.sort(results['distance'][of])
      share = (np.arange(len(far)) + 0.5) / len(far)
      there = np.isfinite(far)
      np.testing.assert_allclose(
        curves[row['state']], [share[there], far[there]]
      )
      tops.append(np.quantile(far[there], 0.95))
      last = number == len(rows) - 1
      start = (
        curves['line through its first quarter'] if last else lines[number]
      )
      np.testing.assert_allclose(
        start, [[0, 0.3], [0, 0.3 * row['slope']['value']]]
      )
    slope = 0.5 * rows[0]['predicted_slope']
    figures.assert_curve(ax, 'slope of the law', [0, 0.5], [0, slope])
    np.testing.assert_allclose(ax.get_ylim(), [0, max(tops)])


def test_margins_and_distances_in_units_of_their_state(of_trained):
  summary, results, found = of_trained
  panels = itertools.product(('dense', 'conv'), ('untrained', 'trained'))
  for (name, state), ax in zip(panels, found['margin'].axes, strict=True):
    rows = rows_of(summary, architecture=name, state=state, norm='2.0')
    assert ax.get_visible() == bool(rows)
    for row in rows:
      of = where(
        results, architecture=name, type=row['type'], state=state, norm=2.0
      )
      margin, far = results['margin'][of], results['distance'][of]
      x = margin[:2000] / np.sqrt(np.mean(margin**2))
      y = far[:2000] / row['predicted'] * 0.7
      figures.assert_curve(ax, TYPES[row['type']], x, y)
    if rows:
      said = ', '.join(f'{r["correlation"]["value"]:.2f}' for r in rows)
      assert ax.get_xlabel().endswith(f'rank correlations {said}')
      law = figures.curves(ax)['law: proportional']
      assert law.tolist() == [[0, 3], [0, 3]]


def test_the_main_norm_is_l2_if_it_was_measured(of_trained, tmp_path):
  summary, results, _ = of_trained
  rows = [row for row in summary['rows'] if row['norm'] == 'inf']
  keep = np.isinf(results['norm'])
  results = {k: v[keep] for k, v in results.items()}
  results['distance'][:] = np.inf
  found = figures.drawn(
    plots.trained_vs_random, tmp_path, summary | {'rows': rows}, results=results
  )
  label = found['profile'].axes[0].get_ylabel()
  assert label == r'$\ell^\infty$ distance (input units)'
