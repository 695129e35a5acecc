"""Figures of `experiments.trained_scaling`."""

import pathlib

import numpy as np

from dmm_jax import records
from dmm_jax.plots import canvas

_SERIES = (
  ('true', 'trained_images', 'trained, images'),
  ('same', 'trained_images', 'trained, images of the same content'),
  ('true', 'untrained_images', 'untrained, images'),
  ('true', 'trained_noise', 'trained, noise'),
  ('true', 'untrained_noise', 'untrained, noise'),
)
_LABELS = {
  'relative': r'median of $d_p(x)\,/\,\|x\|_p$',
  'distance': 'median distance\n(input units, pixels in [0, 1])',
}


def trained_scaling(run_dir: pathlib.Path) -> list[pathlib.Path]:
  """Draws distances against dimension, relative and plain; returns paths."""
  run_dir = pathlib.Path(run_dir)
  summary = records.read_json(run_dir / 'summary.json')
  return [
    canvas.save(_against_n(summary, what), run_dir / 'figures' / what)
    for what in _LABELS
  ]


def _against_n(summary, what):
  names = list(dict.fromkeys(row['model'] for row in summary['rows']))
  exponents = list(dict.fromkeys(row['norm'] for row in summary['rows']))
  figure, axes = canvas.grid(len(names), len(exponents), height=3.2)
  for i, name in enumerate(names):
    for ax, norm in zip(axes[i], exponents, strict=True):
      rows = {
        row['content']: row
        for row in summary['rows']
        if (row['model'], row['norm']) == (name, norm)
      }
      _panel(ax, rows, what, float(norm))
      ax.set_title(f'{name}, {canvas.norm(norm)}', fontsize=9)
    axes[i][0].set_ylabel(_LABELS[what])
  canvas.legend(figure, axes[0][0], ncols=3)
  figure.suptitle(
    f'{summary["dataset"]} resized: {summary["networks"]} networks of each '
    f'size, {summary["examples"]} inputs each; 95 % intervals over networks',
    fontsize=9,
  )
  return figure


def _panel(ax, rows, what, norm):
  n = np.array(rows['true']['n'], float)
  for (content, name, label), look in zip(_SERIES, canvas.STYLES, strict=True):
    entries = rows[content]['series'][name][what]
    canvas.points(ax, n, entries, look, label)
    ax.plot(
      n,
      [e['value'] for e in entries],
      color=look['color'],
      linestyle=look['linestyle'],
      lw=1,
    )
  # The law, through the untrained networks' first point at images.
  law = n ** rows['true']['law']
  if what == 'distance':
    law = law * n ** (1 / norm)
  start = rows['true']['series']['untrained_images'][what][0]['value']
  ax.plot(
    n,
    law / law[0] * start,
    color='black',
    alpha=0.3,
    lw=3,
    label='slope of the law',
  )
  canvas.log_values(ax)
  canvas.log_n(ax, [int(v) for v in n])
