"""Figures of `experiments.initial_scale`."""

import pathlib

import numpy as np

from dmm_jax import records
from dmm_jax.plots import canvas

_SIDES = {
  'free': 'unrestricted',
  'on': 'within the span of the data',
  'off': 'orthogonal to it',
}


def initial_scale(run_dir: pathlib.Path) -> list[pathlib.Path]:
  """Draws distances against the factor of the start; returns the path."""
  run_dir = pathlib.Path(run_dir)
  summary = records.read_json(run_dir / 'summary.json')
  rows = sorted(summary['rows'], key=lambda row: row['factor'])
  factors = np.array([row['factor'] for row in rows])
  figure, axes = canvas.grid(1, 1, width=5.2, height=3.6)
  (ax,) = axes[0]
  for (side, label), look in zip(_SIDES.items(), canvas.STYLES, strict=False):
    value = np.array([row[side]['value'] for row in rows])
    low, high = np.array([row[side]['interval'] for row in rows]).T
    ax.errorbar(
      factors,
      value,
      (value - low, high - value),
      label=f'{label}, mean and 95 %',
      capsize=2,
      **look | {'linestyle': ''},
    )
  middle = rows[len(rows) // 2]
  ax.plot(
    factors,
    middle['off']['value'] * factors / middle['factor'],
    color='0.4',
    linestyle='--',
    label='proportional to the factor',
  )
  ax.set(
    xscale='log',
    xlabel='factor that the first layer is divided by at the start',
    ylabel='l2 distance to the boundary (input units)',
  )
  canvas.log_values(ax)
  canvas.log_values(ax, 'x')
  canvas.legend(figure, ax, ncols=2)
  figure.suptitle(
    f'{summary["dataset"]}: distances of trained networks at training points',
    fontsize=9,
  )
  return [canvas.save(figure, run_dir / 'figures' / 'initial_scale')]
