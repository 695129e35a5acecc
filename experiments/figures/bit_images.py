"""Figures of `experiments.bit_images`."""

import numpy as np

from dmm_jax.plots import canvas
from experiments.lib import tables as tables_lib

KINDS = {
  'train': 'training images',
  'test': 'test images',
  'wrong': 'misclassified test images',
  'random': 'random bits',
}


def draw(report, tables):
  """Draws how many strings change their class within so many flips."""
  results = tables['results']
  rows = {row['strings']: row for row in tables_lib.to_dicts(report.tables[0])}
  kinds = [kind for kind in KINDS if kind in results['kind']]
  figure, axes = canvas.grid(1, len(kinds), width=2.7, height=3.4)
  n = int(results['n'][0])
  least = np.sqrt(n / (2 * np.pi * np.log(n)))
  most = np.quantile(np.minimum(results['flips'], n), 0.995)
  for ax, kind in zip(axes[0], kinds, strict=True):
    for name, look in zip(
      ('trained', 'untrained'), canvas.STYLES, strict=False
    ):
      keep = results['kind'] == kind
      keep &= results['trained'] == (name == 'trained')
      flips = np.sort(results['flips'][keep])
      ax.step(flips, (np.arange(len(flips)) + 1) / len(flips), where='post',
              color=look['color'], linestyle=look['linestyle'],
              label=f'{name} networks')  # fmt: skip
      mean = rows[KINDS[kind]][name]
      if np.isfinite(mean.low):
        ax.axvspan(mean.low, mean.high, color=look['color'], alpha=0.25, lw=0)
    ax.axvline(least, color='black', linestyle=':',
               label=r'$\sqrt{n\,/\,(2\pi\ln n)}$: random network')  # fmt: skip
    ax.set(xlabel='greedy flips', xlim=(0, most + 1), ylim=(0, 1.02))
    ax.set_title(KINDS[kind], fontsize=9)
  axes[0][0].set_ylabel('share of strings that have changed')
  canvas.legend(figure, axes[0][0], ncols=3)
  caption = (
    f'{report.answer} Share of strings of each kind whose class has changed '
    'after so many flips, of trained networks and of the same ones before '
    'training; bands: 95 % intervals, over networks, of the mean. Where the '
    'solid line lies right of the dashed one, training made the class harder '
    'to change.'
  )
  return {'flips': (figure, caption)}
