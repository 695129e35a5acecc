"""Figures of `experiments.bit_strings`."""

import pathlib

import numpy as np

from dmm_jax import records
from dmm_jax.plots import canvas


def bit_strings(run_dir: pathlib.Path) -> list[pathlib.Path]:
  """Draws the figures of a run, of random networks or of images."""
  run_dir = pathlib.Path(run_dir)
  summary = records.read_json(run_dir / 'summary.json')
  table = records.load_columns(run_dir / 'results.npz')
  if 'dataset' in summary:
    figures = {'images': _images(summary, table)}
  else:
    figures = {
      'flips': _flips(summary),
      'margin': _margin(summary, table),
    }
  return [
    canvas.save(f, run_dir / 'figures' / name) for name, f in figures.items()
  ]


def _errors(ax, n, entries, look, label):
  value = np.array([e['value'] for e in entries])
  ends = np.array([e['interval'] for e in entries]).T
  style = look | {'linestyle': ''}
  ax.errorbar(n, value, np.abs(ends - value), capsize=3, label=label, **style)


def _flips(summary):
  """Greedy and random flips against the number of bits, with predictions."""
  figure, axes = canvas.grid(1, 2, width=4.6, height=4.0)
  greedy, randomly = axes[0]
  rows, fit = summary['rows'], summary['fit']
  n = np.array([row['n'] for row in rows])
  fine = np.geomspace(n.min(), n.max(), 100)
  looks = canvas.STYLES
  _errors(
    greedy, n, [r['mean'] for r in rows], looks[0], 'greedy: mean and 95 %'
  )
  curves = {
    'sqrt(n/ln n)': (np.sqrt(fine / np.log(fine)), r'\sqrt{n/\ln n}'),
    'sqrt(n)': (np.sqrt(fine), r'\sqrt{n}'),
  }
  for look, (name, (curve, text)) in zip(looks, curves.items(), strict=False):
    a = fit[name]['a']['value']
    greedy.plot(
      fine,
      a * curve,
      color=look['color'],
      linestyle=look['linestyle'],
      label=f'fit ${a:.3f}' + text + '$',
    )
  greedy.plot(
    n, [r['law'] for r in rows], 'kx', label='infinite width, first order'
  )
  greedy.plot(
    n, [r['leading'] for r in rows], 'k:', label=r'$\sqrt{n/(2\pi\ln n)}$'
  )
  greedy.set(
    xscale='log',
    xlabel='bits n',
    ylabel='greedy flips until the class changes',
  )
  canvas.log_values(greedy)
  rows = summary['random']
  n = np.array([row['n'] for row in rows])
  _errors(
    randomly,
    n,
    [r['share'] for r in rows],
    looks[2],
    'random order: mean and 95 %; n if never',
  )
  randomly.plot(
    n, [r['law'] for r in rows], 'k+', label='infinite width, exact'
  )
  randomly.axhline(0.334, color='0.5', linestyle='--', label='0.334 (authors)')
  randomly.set(
    xscale='log',
    xlabel='bits n',
    ylabel='random flips until the class changes, over n',
    ylim=(0, None),
  )
  for ax in axes[0]:
    ax.legend(fontsize=7)
  figure.suptitle('Flips of bits that change a random network', fontsize=10)
  return figure


def _margin(summary, table):
  """Greedy flips against |f|: linear, slope 1/2 in these units."""
  sizes = [row['n'] for row in summary['rows']]
  figure, axes = canvas.grid(1, 1, width=5.0, height=3.8)
  (ax,) = axes[0]
  shown = list(dict.fromkeys((sizes[0], sizes[len(sizes) // 2], sizes[-1])))
  for n, look in zip(shown, canvas.STYLES, strict=False):
    part = records.select(table, kind='greedy', n=n)
    size = np.abs(part['output']) / np.sqrt(2 * n / (n + 1))
    ax.plot(
      size[:300],
      part['flips'][:300] / np.sqrt(n / np.log(n)),
      linestyle='',
      marker=look['marker'],
      color=look['color'],
      markersize=3,
      alpha=0.6,
      label=f'n = {n}',
    )
  ax.plot([0, 3], [0, 1.5], 'k--', label='leading order: |f| / 2')
  ax.set(
    xlabel='|f| over its standard deviation',
    ylabel=r'greedy flips / $\sqrt{n/\ln n}$',
  )
  ax.legend(fontsize=8)
  figure.suptitle('Flips grow linearly with the output', fontsize=10)
  return figure


def _images(summary, table):
  """Distributions of flips of trained and untrained networks, by kind."""
  kinds = [row['kind'] for row in summary['rows']]
  figure, axes = canvas.grid(1, len(kinds), width=3.2, height=3.2)
  most = int(np.max(table['flips'][np.isfinite(table['flips'])]))
  for ax, row in zip(axes[0], summary['rows'], strict=True):
    for name, trained, look in (
      ('trained', True, canvas.STYLES[0]),
      ('untrained', False, canvas.STYLES[1]),
    ):
      part = records.select(table, kind=row['kind'], trained=trained)
      flips = np.sort(part['flips'])
      entry = row[name]
      ax.step(
        flips,
        (np.arange(len(flips)) + 1) / len(flips),
        where='post',
        color=look['color'],
        linestyle=look['linestyle'],
        label=name,
      )
      ax.axvspan(*entry['interval'], color=look['color'], alpha=0.25, lw=0)
    ax.axvline(
      summary['leading'],
      color='black',
      linestyle=':',
      label=r'$\sqrt{n/(2\pi\ln n)}$, random networks at strings of signs',
    )
    ax.set(xlabel='greedy flips', xlim=(0, most), ylim=(0, 1.02))
    ax.set_title(f'{row["kind"]} strings', fontsize=9)
  axes[0][0].set_ylabel('share of strings within')
  canvas.legend(figure, axes[0][0], ncols=3)
  figure.suptitle(
    f'{summary["dataset"]}, {summary["n"]} bits; bands: 95 % of the means',
    fontsize=9,
  )
  return figure
