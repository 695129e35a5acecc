"""Figures of `experiments.bit_strings`."""

import numpy as np

from dmm_jax.plots import canvas
from experiments.lib import tables as tables_lib

SHOWN = 300  # Networks of a size in the scatter.


def draw(report, tables):
  """Draws flips against the number of bits, and against |f|."""
  greedy, fits, _, randomly = map(tables_lib.to_dicts, report.tables)
  figures = {'flips': flips(report, greedy, fits, randomly)}
  figures['margin'] = margin(tables['results'])
  return figures


def flips(report, greedy, fits, randomly):
  """Greedy and random flips against n, beside their predictions."""
  figure, axes = canvas.grid(1, 2, width=4.4, height=4.4)
  left, right = axes[0]
  n = np.array([row['bits'] for row in greedy])
  fine = np.geomspace(n.min(), n.max(), 100)
  label = 'mean of networks, 95 %'
  canvas.estimates(
    left, n, [row['flips'] for row in greedy], canvas.STYLES[0], label
  )
  curves = {'sqrt(n / ln n)': np.sqrt(fine / np.log(fine)),
            'sqrt(n)': np.sqrt(fine)}  # fmt: skip
  factors = {row['flips as']: row['a'] for row in fits}
  looks = (('#0b3c5d', '-'), ('#b4344f', '--'))
  for (name, curve), (color, dash) in zip(curves.items(), looks, strict=True):
    fitted = f'fit: {factors[name].value:.3f} {name}'
    left.plot(fine, factors[name].value * curve, dash, color=color, lw=1,
              label=fitted)  # fmt: skip
  left.plot(n, [row['infinite'] for row in greedy], 'x', color='black',
            label='infinite width, first order')  # fmt: skip
  least = np.sqrt(fine / (2 * np.pi * np.log(fine)))
  left.plot(fine, least, ':', color='black', label='lower bound of the paper')
  left.axhline(1, color='0.6', lw=1, ls='-.',
               label='uniformly random function')  # fmt: skip
  canvas.log_values(left)
  left.set(ylabel='greedy flips until the class changes')
  n = np.array([row['bits'] for row in randomly])
  shares = [row['flips / n'] for row in randomly]
  canvas.estimates(right, n, shares, canvas.STYLES[2], label)
  right.plot(n, [row['infinite'] for row in randomly], '+', color='black',
             ms=9, label='infinite width, exact')  # fmt: skip
  right.axhline(0.334, color='0.4', ls='--', lw=1, label="the authors' 0.334")
  right.plot(n, 2 / n, '-.', color='0.6', lw=1,
             label='uniformly random function')  # fmt: skip
  right.set(ylabel='random flips until the class changes, over n')
  right.set_ylim(bottom=0)
  for ax, rows in ((left, greedy), (right, randomly)):
    canvas.log_n(ax, [row['bits'] for row in rows])
    ax.set_xlabel('number of bits n')
    ax.legend(fontsize=8)
  caption = (
    f'{report.answer} Left: chosen flips, with two fits; crosses are the '
    'infinitely wide network without a fit. Right: flips in random order, over '
    'n; the mean counts n where no flip changes the class. In a uniformly '
    'random function 1 chosen flip would do, or 2 random ones.'
  )
  return figure, caption


def margin(rows):
  """Greedy flips against |f|, at three sizes."""
  figure, ((ax,),) = canvas.grid(1, 1, width=5.0, height=4.0)
  sizes = np.unique(rows['n'])
  shown = dict.fromkeys((sizes[0], sizes[len(sizes) // 2], sizes[-1]))
  for n, look in zip(shown, canvas.STYLES, strict=False):
    keep = rows['n'] == n
    size = np.abs(rows['output'][keep]) / np.sqrt(2 * n / (n + 1))
    ax.plot(
      size[:SHOWN],
      rows['flips'][keep][:SHOWN] / np.sqrt(n / np.log(n)),
      linestyle='',
      marker=look['marker'],
      color=look['color'],
      ms=3,
      alpha=0.6,
      label=f'n = {n}',
    )
  ax.plot([0, 3], [0, 1.5], 'k--', label='|f| / 2, for large n')
  ax.set(
    xlabel='|f| over its standard deviation',
    ylabel=r'greedy flips over $\sqrt{n\,/\,\ln n}$',
  )
  ax.legend(fontsize=8)
  caption = (
    'Greedy flips against the size of the output, a mark for each network, at '
    f'{len(shown)} sizes. They grow in proportion to |f|, near the dashed line '
    'at large n, and a little above it at small n, where whole flips count.'
  )
  return figure, caption
