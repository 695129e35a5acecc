"""Figures of `experiments.mislabelled_training`."""

import pathlib

from dmm_jax import records
from dmm_jax.plots import canvas


def mislabelled_training(run_dir: pathlib.Path) -> list[pathlib.Path]:
  """Draws the accuracy of every arm, one panel a radius; returns the paths."""
  run_dir = pathlib.Path(run_dir)
  summary = records.read_json(run_dir / 'summary.json')
  rows = summary['rows']
  radii = sorted({row['radius'] for row in rows if row['radius']})
  figure, axes = canvas.grid(1, len(radii), width=max(3.2, 6 / len(radii)))
  for radius, ax in zip(radii, axes[0], strict=True):
    shown = [row for row in rows if row['radius'] in (0, radius)]
    entries = [row['accuracy'] for row in shown]
    canvas.dots(ax, entries, canvas.STYLES[0], 'new networks, mean and 95 %')
    ax.axvline(
      summary['guess'], color='0.4', linestyle='--', label='random guess'
    )
    ax.set(
      title=f'l2 steps up to {radius:g}',
      xlim=(-0.03, 1.03),
      ylim=(len(shown) - 0.5, -0.5),
      yticks=range(len(shown)),
      xlabel='accuracy on clean test images',
    )
    ax.set_yticklabels([row['arm'] for row in shown])
  canvas.legend(figure, axes[0, 0], ncols=2)
  figure.suptitle(
    f'{summary["dataset"]}: trained on moved images with wrong labels',
    fontsize=10,
  )
  return [canvas.save(figure, run_dir / 'figures' / 'accuracy')]
