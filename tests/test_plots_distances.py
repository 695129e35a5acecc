"""Figures of distances from the boundary, drawn from made-up runs."""

import figures
import numpy as np
from scipy import stats

from dmm_jax import plots

UNIT = stats.halfnorm.ppf(0.5)


def table(columns, rows):
  return dict(
    zip(columns.split(), map(np.array, zip(*rows, strict=False)), strict=True)
  )


def where(columns, **wanted):
  return np.all([columns[k] == v for k, v in wanted.items()], axis=0)


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
