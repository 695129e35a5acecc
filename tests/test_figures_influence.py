"""Figures of what a step carries along, drawn from made-up tables."""

import figures
import numpy as np
import pytest
from scipy import special
from scipy import stats

from experiments.figures import influence
from experiments.lib import runner

STEPS, NUM = (0, 10, 100), 3


@pytest.fixture(scope='module')
def drawn():
  rng, rows = np.random.default_rng(0), []
  for name in influence.LOOKS:
    for step in STEPS:
      rows += [(name, step, *rng.uniform(0.1, 0.9, 4)) for _ in range(NUM)]
  names = 'trained_on step same other leads inputs_leads'.split()
  results = dict(
    zip(names, map(np.array, zip(*rows, strict=True)), strict=True)
  )
  report = runner.Report('So far.', [], [])
  made = influence.draw(report, {'results': results})
  pictures = {name: figure for name, (figure, _) in made.items()}
  captions = {name: caption for name, (_, caption) in made.items()}
  return results, pictures, captions


def by_step(results, name, column):
  return results[column][results['trained_on'] == name].reshape(3, NUM)


def test_ratios_of_both_kinds_have_one_axis(drawn):
  results, pictures, captions = drawn
  axes = pictures['ratios'].axes
  assert [ax.get_title() for ax in axes] == [*influence.LOOKS]
  labels = {'same': 'images of the class', 'other': 'images of other classes'}
  for ax, name in zip(axes, influence.LOOKS, strict=True):
    for (column, label), area in zip(
      labels.items(), figures.areas(ax), strict=True
    ):
      each = by_step(results, name, column)
      mean = each.mean(1)
      np.testing.assert_allclose(figures.curves(ax)[label], [[0, 1, 2], mean])
      half = stats.t.ppf(0.975, 2) * each.std(1, ddof=1) / np.sqrt(NUM)
      np.testing.assert_allclose(area, [[0, 1, 2], mean - half, mean + half])
    assert [v.get_text() for v in ax.get_xticklabels()] == ['0', '10', '100']
  assert axes[0].get_ylim() == axes[1].get_ylim()
  assert axes[0].get_ylim()[0] <= 0
  assert captions['ratios'].startswith('So far. How far')
  figures.assert_looks('influence', pictures)


def test_shares_stand_beside_their_nulls(drawn):
  results, pictures, captions = drawn
  (ax,) = pictures['leads'].axes
  for name, area in zip(influence.LOOKS, figures.areas(ax), strict=True):
    each = by_step(results, name, 'leads')
    mean = each.mean(1)
    np.testing.assert_allclose(figures.curves(ax)[name], [[0, 1, 2], mean])
    half = stats.t.ppf(0.975, 2) * each.std(1, ddof=1) / np.sqrt(NUM)
    scale = half / (mean * (1 - mean))
    low, high = (
      special.expit(special.logit(mean) + s * scale) for s in (-1, 1)
    )
    np.testing.assert_allclose(area, [[0, 1, 2], low, high])
  inputs = by_step(results, 'right labels', 'inputs_leads')[0].mean()
  assert figures.curves(ax)['inputs alone'][1] == pytest.approx(2 * [inputs])
  assert figures.curves(ax)['classes do not matter'][1].tolist() == [0.5, 0.5]
  assert f'do so for {inputs:.0%}' in captions['leads']
