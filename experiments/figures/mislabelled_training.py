"""Figures of `experiments.mislabelled_training`."""

import numpy as np

from dmm_jax.plots import canvas
from experiments.lib import tables as tables_lib

LOOKS = {'random': canvas.STYLES[0], 'noise': canvas.STYLES[1]}


def draw(report, tables):
  """Draws every arm's accuracy, and accuracy against the longest step."""
  results, guess = tables['results'], float(tables['sources']['guess'][0])
  rows = tables_lib.to_dicts(report.tables[0])
  figures = {'arms': arms(report, results, rows, guess)}
  if len({row['radius'] for row in rows} - {None}) > 1:
    figures['radii'] = radii(results, rows, guess)
  return figures


def per_source(results, arm, radius):
  """Returns the mean accuracy of an arm's new networks, of each source."""
  at = (results['arm'] == arm) & (results['radius'] == radius)
  source, accuracy = results['source'][at], results['accuracy'][at]
  return np.array([accuracy[source == s].mean() for s in np.unique(source)])


def arms(report, results, rows, guess):
  """One line an arm, at the largest radius: each source, mean and interval."""
  largest = results['radius'].max()
  shown = [row for row in rows if row['radius'] in (None, largest)]
  figure, ((ax,),) = canvas.grid(1, 1, width=6.6, height=4.8)
  (noise,) = [row['accuracy'] for row in shown if row['arm'] == 'noise']
  ax.axvspan(noise.low, noise.high, color='0.85', label='random steps, 95 %')
  ax.axvline(guess, color='0.35', linestyle='--', label='a guess')
  ax.axvline(0.5, color='0.35', linestyle=':', label='half of the images')
  for place, row in enumerate(shown):
    each = per_source(results, row['arm'], row['radius'] or 0.0)
    ax.plot(
      each,
      np.full(len(each), place - 0.25),
      '|',
      color='black',
      ms=7,
      label=None if place else 'one source network',
    )
  found = [row['accuracy'] for row in shown]
  places = range(len(found))
  canvas.estimates(
    ax, places, found, LOOKS['random'], 'mean, 95 %', across=True
  )
  ax.set(
    xlim=(-0.02, 1.02),
    ylim=(len(shown) - 0.4, -0.6),
    xlabel='accuracy on clean test images with their right labels',
  )
  ax.set_yticks(
    range(len(shown)), [row['trained on'] for row in shown], fontsize=9
  )
  canvas.legend(figure, ax, ncols=3)
  caption = (
    f'{report.answer} Each line says what new networks were trained on. Ticks: '
    'means over the new networks of one source network; points: means over '
    'source networks, with 95 % intervals.'
  )
  return figure, caption


def radii(results, rows, guess):
  """Accuracy against the longest step, with and without a direction."""
  figure, ((ax,),) = canvas.grid(1, 1, width=4.6, height=3.8)
  names = {'random': 'towards a wrong class', 'noise': 'random steps'}
  for arm, label in names.items():
    at = [row for row in rows if row['arm'] == arm]
    at.sort(key=lambda row: row['radius'])
    places = [row['radius'] for row in at]
    found = [row['accuracy'] for row in at]
    canvas.estimates(ax, places, found, LOOKS[arm], label, line=True)
  ax.axhline(guess, color='0.35', linestyle='--', label='a guess')
  ax.set(
    ylim=(-0.02, 1.02),
    xlabel='longest step, l2 (pixel values in [0, 1])',
    ylabel='accuracy on clean test images',
  )
  canvas.legend(figure, ax, ncols=3)
  least, most = min(places), max(places)
  ends = [
    f'{per_source(results, "random", radius).mean():.0%} with steps up to '
    f'{radius:g}'
    for radius in (least, most)
  ]
  caption = (
    'Accuracy of networks trained on images with random wrong labels, against '
    'the longest step towards these labels, and after random steps of the same '
    f'length: {" and ".join(ends)}. Means over source networks with 95 % '
    'intervals.'
  )
  return figure, caption
