"""Figures of `experiments.influence`."""

import numpy as np

from dmm_jax import records
from dmm_jax import statistics
from dmm_jax.plots import canvas

RIGHT = 'right labels'
LOOKS = {RIGHT: canvas.STYLES[0], 'random labels': canvas.STYLES[1]}


def draw(report, tables):
  """Draws meeting ratios of the class and of others, and who leads."""
  results = tables['results']
  return {
    'ratios': ratios(report, results),
    'leads': leads(report, results),
  }


def along(ax, results, name, column, estimate, look, label):
  """Draws a column with its intervals over steps at equal distances."""
  rows = records.by_unit(records.select(results, trained_on=name), 'step')
  found = [estimate(values, unit='networks') for values in rows[column]]
  places = np.arange(len(found))
  canvas.band(ax, places, found, look, label)
  ax.set_xticks(places, [str(step) for step in rows['step'][:, 0]])
  ax.set_xlabel('training step')


def ratios(report, results):
  """Median meeting ratios along training, right labels beside random ones."""
  figure, axes = canvas.grid(1, 2, width=3.9, height=3.6)
  names = {'same': 'images of the class', 'other': 'images of other classes'}
  for ax, title in zip(axes[0], LOOKS, strict=True):
    for (column, label), look in zip(
      names.items(), canvas.STYLES[:2], strict=True
    ):
      along(ax, results, title, column, statistics.t_mean, look, label)
    ax.set(title=title)
  ends = np.array([ax.get_ylim() for ax in axes[0]])
  for ax in axes[0]:
    ax.set_ylim(min(0, ends.min()), ends.max())
  axes[0, 0].set_ylabel('meeting ratio')
  canvas.legend(figure, axes[0, 0], ncols=2)
  caption = (
    f'{report.answer} How far a gradient step at a training sample moves the '
    'logit of its class at other images, over the change at the sample: test '
    'images for right labels, other training images for random ones. Medians '
    'over images and samples; bands 95 % over networks.'
  )
  return figure, caption


def leads(report, results):
  """Share of samples whose class is carried farther, beside the nulls."""
  figure, ((ax,),) = canvas.grid(1, 1, width=5.0, height=3.6)
  for name, look in LOOKS.items():
    along(ax, results, name, 'leads', statistics.proportion, look, name)
  start = (results['trained_on'] == RIGHT) & (results['step'] == 0)
  inputs = results['inputs_leads'][start].mean()
  ax.axhline(inputs, color='0.4', linestyle='-.', label='inputs alone')
  ax.axhline(0.5, color='0.4', linestyle=':', label='classes do not matter')
  ax.set(ylim=(0, 1.03), ylabel='share of samples that lead')
  canvas.legend(figure, ax, ncols=2)
  caption = (
    'Share of training samples from which a gradient step carries images of '
    'the same class farther than images of other classes, along training; '
    f'inner products of the inputs alone do so for {inputs:.0%}. Bands: 95 % '
    'over networks.'
  )
  return figure, caption
