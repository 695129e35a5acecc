"""Figures of `experiments.initial_scale`."""

import numpy as np

from dmm_jax.plots import canvas
from experiments.lib import tables as tables_lib

SIDES = {
  'whole': ('without restriction', canvas.STYLES[0]),
  'on': ("within the data's subspace", canvas.STYLES[1]),
  'off': ('orthogonal to it', canvas.STYLES[2]),
  'off random': ('orthogonal to a random subspace', canvas.STYLES[4]),
}


def draw(report, tables):
  """Draws distances against the factor, and their ratios to the author's."""
  del tables
  distances, _, *more = (tables_lib.to_dicts(t) for t in report.tables)
  theirs = more[0] if more else []
  figures = {'distances': distances_figure(report, distances, theirs)}
  if theirs:
    figures['beside_author'] = ratios_figure(theirs)
  return figures


def distances_figure(report, rows, theirs):
  """Mean distances against the factor, a panel for each set of data."""
  names = list(dict.fromkeys(row['data'] for row in rows))
  width = max(4.2, 6.4 / len(names))
  figure, axes = canvas.grid(1, len(names), width=width, height=4.4)
  for name, ax in zip(names, axes[0], strict=True):
    at = sorted(
      (row for row in rows if row['data'] == name), key=lambda r: r['factor']
    )
    factors = np.array([row['factor'] for row in at])
    for side, (label, look) in SIDES.items():
      found = [row[side] for row in at]
      canvas.estimates(ax, factors, found, look, label, line=True)
    large = factors >= np.median(factors)
    last = at[-1]['off'].value
    ax.plot(
      factors[large],
      last * factors[large] / factors[-1],
      color='0.3',
      linestyle=':',
      label='in proportion to the factor',
    )
    mine = [row for row in theirs if row['data'] == name]
    for number, row in enumerate(mine):
      ax.plot(
        row['factor'],
        row['theirs'].value,
        'x',
        color='black',
        ms=7,
        zorder=5,
        label=None if number else "the author's means",
      )
    ax.set(title=name, xlabel='factor that the first layer is divided by')
    canvas.log_values(ax)
    canvas.log_values(ax, 'x')
  axes[0, 0].set_ylabel('mean l2 distance to the boundary (input units)')
  labelled = max(axes[0], key=lambda ax: len(ax.get_legend_handles_labels()[1]))
  canvas.legend(figure, labelled, ncols=2)
  caption = (
    f'{report.answer} Means over networks with 95 % intervals, against the '
    'factor that the first layer is divided by before training. The grey marks '
    'are the null: as many dimensions, at random. Dots: growth in proportion, '
    'through the last mark.'
  )
  if theirs:
    caption += " Crosses: the author's own means."
  return figure, caption


def ratios_figure(theirs):
  """Our mean distances over the author's, side by side at each factor."""
  figure, ((ax,),) = canvas.grid(1, 1, width=5.6, height=3.8)
  cases = list(dict.fromkeys((row['data'], row['factor']) for row in theirs))
  ax.axhspan(0.9, 1.1, color='0.88', label='within 10 %')
  ax.axhline(1, color='0.35', linestyle='--')
  inside = 0
  for number, side in enumerate(('whole', 'on', 'off')):
    label, look = SIDES[side]
    at = [row for row in theirs if row['distance'] == side]
    places = [cases.index((row['data'], row['factor'])) for row in at]
    found = [row['ratio'] for row in at]
    inside += sum(0.9 <= v.low and v.high <= 1.1 for v in found)
    shifted = np.array(places) + 0.18 * (number - 1)
    canvas.estimates(ax, shifted, found, look, label)
  several = len({name for name, _ in cases}) > 1
  ax.set_xticks(
    range(len(cases)),
    [f'{name}\n{factor:g}' if several else f'{factor:g}'
     for name, factor in cases],
  )  # fmt: skip
  ax.set(
    xlabel='factor that the first layer is divided by',
    ylabel="our mean distance over the author's",
  )
  canvas.legend(figure, ax, ncols=2)
  caption = (
    "Our mean distances over the author's, with 95 % intervals over the "
    f'networks of both: {inside} of {len(theirs)} intervals lie wholly within '
    '10 %, the tolerance that was stated in advance.'
  )
  return figure, caption
