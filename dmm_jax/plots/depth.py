"""Figures of `experiments.dimple_depth`."""

import pathlib

from dmm_jax import records
from dmm_jax.plots import canvas

_SIDES = {
  'free': 'unrestricted',
  'on': 'on the manifold',
  'off': 'off the manifold',
}


def dimple_depth(run_dir: pathlib.Path) -> list[pathlib.Path]:
  """Draws distances and normals, network by network; returns the paths."""
  run_dir = pathlib.Path(run_dir)
  summary = records.read_json(run_dir / 'summary.json')
  rows = summary['rows']
  figure, axes = canvas.grid(1, 2, width=4.2, height=2.4 + 0.35 * len(rows))
  left, right = axes[0]
  for (side, label), look, shift in zip(
    _SIDES.items(), canvas.STYLES, (-0.15, 0, 0.15), strict=False
  ):
    canvas.dots(left, [row[side] for row in rows], look, label, shift)
  canvas.log_values(left, 'x')
  left.set(xlabel='median l2 distance to the boundary (input units)')
  canvas.dots(
    right,
    [row['fraction'] for row in rows],
    canvas.STYLES[3],
    'part of the normal in tangents',
    0,
  )
  right.axvline(
    summary['random_fraction'],
    color='0.4',
    linestyle='--',
    label='random direction',
  )
  right.set(xlim=(0, None), xlabel='part of the normal in the tangent space')
  for ax in (left, right):
    ax.set(ylim=(len(rows) - 0.5, -0.5), yticks=range(len(rows)))
    ax.set_yticklabels([pathlib.Path(row['network']).name for row in rows])
    ax.legend(fontsize=7, loc='lower center', bbox_to_anchor=(0.5, 1.0))
  figure.suptitle(
    f'{summary["dataset"]}: distances and normals before and after adversarial '
    'training, median and 95 %',
    fontsize=9,
  )
  return [canvas.save(figure, run_dir / 'figures' / 'depth')]
