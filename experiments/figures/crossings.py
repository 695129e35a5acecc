"""Figures of `experiments.crossings`."""

import numpy as np

from dmm_jax import records
from dmm_jax import statistics
from dmm_jax.plots import canvas
from experiments.lib import tables as tables_lib

KINDS = {'train': 'random pairs', 'near': 'nearest of another class'}
LOOKS = {'right labels': canvas.STYLES[0], 'random labels': canvas.STYLES[1]}
STRONG = 0.7  # Concordance that the strong claims ask for.


def draw(report, tables):
  """Draws where boundaries cross, since when, and how networks agree."""
  results, segments = tables['results'], tables['segments']
  first = report.tables[0].rows[0][0]
  results = {k: v[results['model'] == first] for k, v in results.items()}
  return {
    'crossings': crossings(report, results, segments),
    'training': training(report, results),
    'concordance': concordance(report),
  }


def crossings(report, results, segments):
  """Histograms of t* at the end, of random pairs and of nearest ones."""
  figure, axes = canvas.grid(1, 2, width=4.2)
  last = results['step'] == results['step'].max()
  kinds = segments['kind'][segments['pair'] == 0]  # The same for all pairs.
  for ax, (kind, title) in zip(axes[0], KINDS.items(), strict=True):
    for name, look in LOOKS.items():
      rows = results['fraction'][last & (results['trained_on'] == name)]
      values = rows[:, kinds == kind].ravel()
      ax.hist(
        values[np.isfinite(values)],
        bins=np.linspace(0, 1, 41),
        density=True,
        histtype='step',
        color=look['color'],
        linestyle=look['linestyle'],
        linewidth=1.3,
        label=name,
      )
    ax.axvline(0.5, color='0.4', linewidth=0.8, label='half way')
    ax.set(title=title, xlabel='first crossing t* (part of the way)')
  axes[0, 0].set_ylabel('density')
  canvas.legend(figure, axes[0, 0], ncols=3)
  caption = (
    f'{report.answer} Left: segments between random training samples of '
    'different class; right: from training samples to the nearest one of '
    'another class. All networks of a kind together, at the end of training.'
  )
  return figure, caption


def training(report, results):
  """Deviations along training, right labels beside random ones."""
  figure, ((ax,),) = canvas.grid(1, 1, width=5.4, height=3.8)
  for name, look in LOOKS.items():
    rows = records.by_unit(records.select(results, trained_on=name), 'step')
    found = [
      statistics.t_mean(far.reshape(-1, 2).mean(1), unit='pairs of networks')
      for far in rows['deviation']
    ]
    canvas.band(ax, rows['step'][:, 0], found, look, name)
  early = report.tables[0].rows[1][4]
  ax.axhline(
    early.value,
    color='0.4',
    linestyle=':',
    label='right labels, when 90 % of segments first crossed',
  )
  ax.set(
    xscale='log',
    ylim=(0, 0.52),
    xlabel='training step',
    ylabel='deviation: median |t* - 1/2|',
  )
  canvas.legend(figure, ax, ncols=2)
  caption = (
    'How far from the middle boundaries cross between random training samples '
    'of different class, along training; 1/2 where no more than half of the '
    f'segments cross. At the end {tables_lib.cell(report.tables[0].rows[0][4])}'
    ' with right labels. Bands: 95 % over pairs of networks.'
  )
  return figure, caption


def concordance(report):
  """How far networks cross at one place, one line a pair of kinds."""
  rows = report.tables[1].rows
  figure, ((ax,),) = canvas.grid(1, 1, width=6.0, height=0.9 + 0.42 * len(rows))
  null = np.array([segments == 'train' for _, segments, _ in rows])
  for chosen, look, label in (
    (~null, canvas.STYLES[0], 'right labels, test images'),
    (null, canvas.STYLES[1], 'random labels, training images'),
  ):
    places = np.flatnonzero(chosen)
    found = [rows[place][2] for place in places]
    canvas.estimates(ax, places, found, look, label, across=True)
  ax.axvline(STRONG, color='0.4', linestyle='--', label='strong claims')
  ax.axvline(0.0, color='0.7', linewidth=0.8)
  ax.set(ylim=(len(rows) - 0.5, -0.5), xlabel='concordance: correlation of t*')
  ax.set_yticks(range(len(rows)), [name for name, *_ in rows])
  canvas.legend(figure, ax, ncols=2)
  caption = (
    'How far two networks cross segments at the same place. Networks on '
    'disjoint halves of the training images and of different architecture '
    'beside those that saw the same images with the same random labels, or one '
    'with right and one with random ones. 95 % intervals over pairs of '
    'networks.'
  )
  return figure, caption
