"""Figures of where boundaries cross, drawn from made-up tables."""

import figures
import numpy as np
import pytest
from scipy import stats

from dmm_jax import statistics
from experiments import crossings as experiment
from experiments.figures import crossings
from experiments.lib import runner
from experiments.lib import tables

STEPS, NUM, SEGMENTS = (5, 10, 100), 4, 40
RELATIONS = {'mlp and mlp': 'test', 'halves': 'test', 'random': 'train'}


def estimate(value, gap=0.02):
  return statistics.Estimate(value, value - gap, value + 2 * gap, 2, 'pairs')


def made():
  """A report and tables of four networks of two kinds along training."""
  rng, rows = np.random.default_rng(0), []
  for model, kind in (
    ('mlp', 'right labels'),
    ('mlp', 'random labels'),
    ('cnn', 'right labels'),
  ):
    for step in STEPS:
      for network in range(NUM):
        fraction = rng.uniform(0.2, 0.7, 3 * SEGMENTS)
        fraction[rng.uniform(size=3 * SEGMENTS) < 0.1] = np.nan
        rows.append(
          (model, kind, step, network, rng.uniform(0.1, 0.5), fraction)
        )
  names = 'model trained_on step network deviation fraction'.split()
  results = dict(
    zip(names, map(np.array, zip(*rows, strict=True)), strict=True)
  )
  kind = np.repeat(['train', 'near', 'test'], SEGMENTS)
  pair = np.repeat([0, 1], 3 * SEGMENTS)
  first = [
    ['mlp', 'right labels', 0.9, 1.0, estimate(0.08)],
    ['mlp', 'right, at first', None, None, estimate(0.123)],
  ]
  second = [
    [name, of, estimate(0.2 + 0.3 * i)]
    for i, (name, of) in enumerate(RELATIONS.items())
  ]
  report = runner.Report(
    'So far.', [], [tables.Table('', [], first), tables.Table('', [], second)]
  )
  return report, {
    'results': results,
    'segments': {'kind': np.tile(kind, 2), 'pair': pair},
  }


@pytest.fixture(scope='module')
def drawn():
  report, found = made()
  made_figures = crossings.draw(report, found)
  pictures = {name: figure for name, (figure, _) in made_figures.items()}
  captions = {name: caption for name, (_, caption) in made_figures.items()}
  return report, found, pictures, captions


def test_histograms_are_of_the_first_architecture_at_the_end(drawn):
  _, found, pictures, captions = drawn
  results = found['results']
  kinds = found['segments']['kind'][: 3 * SEGMENTS]
  axes = pictures['crossings'].axes
  assert [ax.get_title() for ax in axes] == [*crossings.KINDS.values()]
  for ax, kind in zip(axes, ('train', 'near'), strict=True):
    steps = {v.get_label(): v.get_xy() for v in ax.patches}
    for name in crossings.LOOKS:
      at = (results['model'] == 'mlp') & (results['trained_on'] == name)
      at &= results['step'] == 100
      values = results['fraction'][at][:, kinds == kind]
      values = values[np.isfinite(values)]
      heights, _ = np.histogram(values, np.linspace(0, 1, 41), density=True)
      np.testing.assert_allclose(steps[name][1:-1:2, 1], heights)
    assert figures.curves(ax)['half way'][0].tolist() == [0.5, 0.5]
  assert captions['crossings'].startswith('So far. Left')
  figures.assert_looks('crossings', pictures)


def test_deviations_along_training_have_bands_over_pairs(drawn):
  _, found, pictures, captions = drawn
  results = found['results']
  (ax,) = pictures['training'].axes
  for name, area in zip(crossings.LOOKS, figures.areas(ax), strict=True):
    at = (results['model'] == 'mlp') & (results['trained_on'] == name)
    each = results['deviation'][at].reshape(3, 2, 2).mean(2)
    np.testing.assert_allclose(figures.curves(ax)[name], [STEPS, each.mean(1)])
    half = stats.t.ppf(0.975, 1) * each.std(1, ddof=1) / np.sqrt(2)
    wanted = [STEPS, each.mean(1) - half, each.mean(1) + half]
    np.testing.assert_allclose(area, wanted)
  (label,) = [v for v in figures.curves(ax) if '90 %' in v]
  assert figures.curves(ax)[label][1].tolist() == [0.123, 0.123]
  assert (
    'At the end 0.08 [0.06, 0.12] with right labels' in captions['training']
  )


def test_concordances_stand_one_below_the_other(drawn):
  report, _, pictures, _ = drawn
  (ax,) = pictures['concordance'].axes
  said = [v.get_text() for v in ax.get_yticklabels()]
  assert said == [*RELATIONS]
  bars = figures.bars(ax)
  for label, places in (
    ('right labels, test images', [0, 1]),
    ('random labels, training images', [2]),
  ):
    value, place, low, high = bars[label]
    wanted = np.array([report.tables[1].rows[i][2][:3] for i in places]).T
    np.testing.assert_allclose([value, low, high], wanted)
    assert place.tolist() == places
  strong = figures.curves(ax)['strong claims'][0]
  assert strong.tolist() == 2 * [experiment.CONCORDANT]


@pytest.mark.filterwarnings('error')
def test_an_interval_without_ends_is_not_drawn():
  report, found = made()
  nothing = statistics.Estimate(0.5, np.nan, np.nan, 1, 'pairs')
  report.tables[1].rows[0][2] = nothing
  figure, _ = crossings.draw(report, found)['concordance']
  figure.draw_without_rendering()
  value, _, low, high = figures.bars(figure.axes[0])[
    'right labels, test images'
  ]
  assert low[0] == high[0] == value[0]
