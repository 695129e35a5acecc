"""Figures of `experiments.dimple_depth`."""

from matplotlib import ticker
import numpy as np

from dmm_jax import statistics
from dmm_jax.plots import canvas
from experiments.lib import tables as tables_lib

AGAIN = 'plain again'
MEANS = 'mean over networks with 95 % intervals'


def draw(report, tables):
  """Draws growth of distances, depth and bend, and crossings."""
  distances, depths, places, _ = map(tables_lib.to_dicts, report.tables)
  results = tables['results']
  return {
    'growth': growth(distances, report.answer),
    'depth': depth(results, depths),
    'crossings': crossings(results, places),
  }


def series(ax, rows, number, label, shift=0.0):
  """Estimates, one row below the other, with their intervals."""
  places = np.arange(len(rows)) + shift
  look = canvas.STYLES[number]
  canvas.estimates(ax, places, rows, look, label, across=True)


def name_rows(ax, kinds):
  """Names the rows after kinds of networks; the null is said to be one."""
  names = [f'{kind}\n(the null)' if kind == AGAIN else kind for kind in kinds]
  ax.set(ylim=(len(kinds) - 0.5, -0.5), yticks=range(len(kinds)))
  ax.set_yticklabels(names, fontsize=9)


def below(ax, **options):
  """A legend below a panel."""
  ax.legend(
    fontsize=8,
    loc='upper center',
    bbox_to_anchor=(0.5, -0.22),
    frameon=False,
    **options,
  )


def panels(rows):
  return canvas.grid(1, 2, width=4.3, height=2.5 + 0.35 * rows)


def line(ax, at, label):
  ax.axvline(at, color='black', linestyle=(0, (1, 2)), lw=1, label=label)


def growth(rows, answer):
  """Distances over those of the plain network, and off over on."""
  figure, axes = panels(len(rows))
  kinds = [row['trained'] for row in rows]
  shown = (
    (
      ('free', 'in any direction'),
      ('on', 'on the manifold'),
      ('off', 'off the manifold'),
    ),
    (
      ('off/on', 'measured, manifold'),
      ('random', 'measured, random subspace'),
      ('by normals', 'flat boundary with these normals'),
    ),
  )
  titles = 'growth of distances (ratio)', 'growth of off/on (ratio)'
  for ax, columns, title in zip(axes[0], shown, titles, strict=True):
    for number, (name, label) in enumerate(columns):
      shift = 0.2 * (number - 1)
      series(ax, [row[name] for row in rows], number, label, shift)
    line(ax, 1.0, 'no growth')
    canvas.log_values(ax, 'x')
    ax.set_xlabel(title)
    name_rows(ax, kinds)
    below(ax, ncols=2)
  caption = (
    f'{answer} Geometric {MEANS}, over the plain network of the same weights. '
    'Left: distances. Right: off over on. Where the boundary is flat, the '
    'circles follow from the normals (triangles): both say one thing.'
  )
  return figure, caption


def depth(results, rows):
  """The boundary and the smoothed one on the same ray, and bend."""
  figure, axes = panels(len(rows))
  kinds = [row['trained'] for row in rows]
  left, right = axes[0]
  for number, (name, label) in enumerate(
    (('free', 'of the network'), ('smoothed', 'of the smoothed network'))
  ):
    found = [median_of(results, kind, name) for kind in kinds]
    series(left, found, number, label, 0.2 * number - 0.1)
  left.set_xlabel('boundary on the ray: distance (input units)')
  left.set_xlim(left=min(0, left.get_xlim()[0]))
  for number, (name, label) in enumerate(
    (('bend', 'along the manifold'), ('random bend', 'in random directions'))
  ):
    look = 2 + number
    series(right, [row[name] for row in rows], look, label, 0.2 * number - 0.1)
  line(right, 0.0, 'flat')
  right.xaxis.set_major_locator(ticker.MaxNLocator(4))
  right.set_xlabel('bend toward the image (1 / input unit)')
  for ax in axes[0]:
    name_rows(ax, kinds)
    below(ax, ncols=2)
  said = '; '.join(
    f'{row["trained"]} {tables_lib.cell(row["depth"], ".2g")}' for row in rows
  )
  caption = (
    "Left: where the ray to the nearest boundary point crosses the network's "
    'boundary, and that of its mean over a ball; the first less the second is '
    f'the depth (medians over images: {said}). Right: curvature toward the '
    f'image at the nearest point. {MEANS.capitalize()}.'
  )
  return figure, caption


def median_of(results, kind, name):
  """Mean over networks of the median over images that are right."""
  of = {k: v[results['kind'] == kind] for k, v in results.items()}
  medians = [
    statistics.median(
      of[name][(of['network'] == network) & of['correct']], unit='images'
    ).value
    for network in np.unique(of['network'])
  ]
  usable = np.where(np.isfinite(medians), medians, np.nan)
  return statistics.t_mean(usable, unit='networks')


def crossings(results, rows):
  """Where lines between images are crossed, and how far that moves."""
  figure, axes = panels(len(rows))
  left, right = axes[0]
  kinds = ['plain', *(row['trained'] for row in rows)]
  for number, kind in enumerate(kinds):
    place = np.sort(places_of(results, kind))
    look = {k: v for k, v in canvas.STYLES[number].items() if k != 'marker'}
    left.step(
      [0, *place, 1],
      [0, *np.arange(1, len(place) + 1) / max(len(place), 1), 1],
      where='post',
      label=kind,
      **look,
    )
  line(left, 0.5, 'middle')
  left.set(
    xlim=(0, 1),
    ylim=(0, 1),
    xlabel='first crossing (0: image, 1: the other one)',
    ylabel='share of lines crossed so far',
  )
  below(left, ncols=3)
  series(right, [row['displaced'] for row in rows], 0, 'mean displacement')
  null = next(row['displaced'] for row in rows if row['trained'] == AGAIN)
  line(right, null.value, 'by retraining')
  right.set_xlim(left=0)
  right.set_xlabel('crossing moves by (share of the line)')
  name_rows(right, kinds[1:])
  below(right, ncols=2)
  caption = (
    'Lines from each image to the nearest one of another class. Left: share of '
    'the lines whose first crossing lies before a place. Right: how far '
    'crossings lie from those of the plain network of the same weights, '
    f'{MEANS}; retraining from other weights moves them too.'
  )
  return figure, caption


def places_of(results, kind):
  """First crossings of lines both of whose ends are classified correctly."""
  found = []
  for network in np.unique(results['network']):
    keep = (results['kind'] == kind) & (results['network'] == network)
    right, other = results['correct'][keep], results['other'][keep]
    found.append(results['place'][keep][right & right[other]])
  return np.concatenate(found)
