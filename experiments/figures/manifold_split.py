"""Figures of `experiments.manifold_split`."""

import textwrap

from matplotlib import ticker
import numpy as np

from dmm_jax import manifold
from dmm_jax.plots import canvas
from experiments.lib import tables as tables_lib

DIRECTION, DISTANCE = canvas.STYLES[0], canvas.STYLES[1]
OWN = 'manifold'
# Of classifiers alone, and of pairs with auto-encoders.
EACH = 'each network', 'each pair of networks'
SINGLE = 'classifiers', 'pairs of a classifier and an auto-encoder'
SPACE = 'subspace', 'tangent space'


def draw(report, tables):
  """Draws shares beside nulls, the curved search, and nearest points.

  What is curved is left out where no search was; pictures where inputs are no
  images or none was found.
  """
  results = tables['results']
  parts, contrasts, *more = map(tables_lib.to_dicts, report.tables)
  figures = {'shares': shares(results, parts, contrasts, report)}
  if len(more) > 1:
    figures['curved'] = curved(results, more[0])
  shown = chosen(tables['points'])
  if len(shown['x']) and shown['x'].ndim == 4:
    figures['pictures'] = pictures(shown, has_pairs(results))
  return figures


def dots(ax, shift, found, look, label):
  """Estimates with their intervals, one below the other."""
  places = np.arange(len(found)) + shift
  canvas.estimates(ax, places, found, look, label, across=True)


def names_at(ax, names, labelled=True):
  ax.set(ylim=(len(names) - 0.4, -0.6), yticks=range(len(names)))
  names = [textwrap.fill(name, 20) for name in names]
  ax.set_yticklabels(names if labelled else [], fontsize=9)
  ax.grid(axis='x', color='0.9', linewidth=0.6)


def of_cells(rows, statistic):
  """A statistic of each pair of networks, of the images that are right."""
  right = (rows['free'] > 0) & np.isfinite(rows['free'])
  pairs = np.stack([rows['classifier'], rows['autoencoder']], axis=1)
  return [
    statistic({n: v[right & np.all(pairs == pair, axis=1)]
               for n, v in rows.items()})
    for pair in np.unique(pairs[right], axis=0)
  ]  # fmt: skip


def select(columns, **wanted):
  keep = np.all([columns[k] == v for k, v in wanted.items()], axis=0)
  return {name: column[keep] for name, column in columns.items()}


def shares(results, parts, contrasts, report):
  """Shares of squared length, and their odds over those of each null."""
  k, d = int(results['k'][0]), int(results['d'][0])
  paired = has_pairs(results)
  figure, axes = canvas.grid(1, 2, width=3.9, height=4.2)
  left, right = axes[0]
  kinds = dict.fromkeys(results['kind'][results['start'] == 'image'])
  order = sorted(kinds, key=('manifold random frequency other principal '
                             'permuted').split().index)  # fmt: skip
  for place, kind in enumerate(order):
    rows = select(results, start='image', kind=kind)
    cells = of_cells(rows, lambda one: np.mean(one['share']))
    left.plot(
      cells,
      np.full(len(cells), place - 0.28),
      '|',
      color='0.45',
      ms=7,
      label=None if place else EACH[paired],
    )
  by_distance = [odds(row['A by distance'], k, d) for row in parts]
  dots(left, -0.08, [row['share'] for row in parts], DIRECTION,
       'by direction, 95 % interval')  # fmt: skip
  dots(left, 0.16, by_distance, DISTANCE, 'by distance, 95 % interval')
  left.axvline(k / d, color='black', lw=1, ls='--',
               label='k / d: a random subspace')  # fmt: skip
  left.axvline(0.5, color='black', lw=1, ls=':',
               label='1/2: an angle of 45 degrees')  # fmt: skip
  left.set(xlabel='share of squared length\nin the subspace', xlim=(0, 1))
  names_at(left, [row['subspace'] for row in parts])
  for name, look, shift in (
    ('by direction', DIRECTION, 0.92),
    ('by distance', DISTANCE, 1.16),
  ):
    dots(right, shift, [row[name] for row in contrasts], look, None)
  right.axvline(1, color='black', lw=1, ls='--')
  canvas.log_values(right, 'x')
  right.xaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
  own = parts[0]['subspace']
  right.set_xlabel(
    f"odds of the {SPACE[paired]}'s share\nover odds of the null's"
  )
  names_at(right, [row['subspace'] for row in parts], labelled=False)
  canvas.legend(figure, left, ncols=2)
  side = [row['by direction'] for row in contrasts]
  below, above = (
    sum(v.high < 1 for v in side), sum(v.low > 1 for v in side)
  )  # fmt: skip
  caption = (
    f'{report.answer} Left: share of the squared length of nearest '
    'perturbations that lies in each subspace, by the direction of the '
    'perturbation and as distances on and off the subspace imply it; grey '
    f'ticks are single {SINGLE[paired]}. Right: odds of the share in {own} '
    "over the null's; left of 1 less of the perturbation lies in it than in "
    f'the null. By direction {below} of {len(side)} intervals lie left of 1, '
    f'{above} right.'
  )
  return figure, caption


def odds(found, k, d):
  """The share that an enrichment stands for, with its interval."""
  share = lambda a: a * k / (a * k + d - k)
  return found._replace(
    value=share(found.value), low=share(found.low), high=share(found.high)
  )


def curved(results, rows):
  """Distances from decoded images, over the free one."""
  k, d = int(results['k'][0]), int(results['d'][0])
  decoded = select(results, start='decoded', kind=OWN)
  figure, axes = canvas.grid(1, 1, width=6.2, height=2.8)
  ax = axes[0, 0]
  for place, column in enumerate(('on', 'curved')):
    cells = of_cells(
      decoded, lambda one, c=column: np.median(one[c] / one['free'])
    )
    ax.plot(
      cells,
      np.full(len(cells), place - 0.2),
      '|',
      color='0.45',
      ms=8,
      label='each pair of networks' if place == 0 else None,
    )
  dots(ax, 0.0, [row['over free'] for row in rows], DIRECTION,
       'mean, 95 % interval')  # fmt: skip
  ax.axvline(manifold.random_ratio(k, d), color='black', lw=1, ls='--',
             label='random subspace, flat boundary')  # fmt: skip
  ax.axvline(1, color='black', lw=1, ls=':', label='without restriction')
  canvas.log_values(ax, 'x')
  ax.set_xlabel('distance over the free distance (median over images)')
  names_at(ax, [row['search'] for row in rows])
  canvas.legend(figure, ax, ncols=2)
  plane, bent = (row['over free'] for row in rows)
  caption = (
    'Distance of the boundary from images as decoded, over the free distance: '
    f'{tables_lib.cell(plane, ".2f")} within the tangent plane, '
    f'{tables_lib.cell(bent, ".2f")} on the curved manifold, through the '
    f'decoder. A random subspace of {k} of {d} dimensions would have '
    f'{manifold.random_ratio(k, d):.2f} at a flat boundary. Grey ticks are '
    f'single {SINGLE[True]}.'
  )
  return figure, caption


def chosen(points):
  """Rows of the tangent space at images whose searches all found a boundary."""
  rows = select(points, start='image', kind=OWN)
  found = np.isfinite(rows['free'] + rows['on'] + rows['off'])
  return {name: column[found] for name, column in rows.items()}


def has_pairs(results):
  """Whether classifiers were measured beside auto-encoders."""
  return bool(np.any(results['autoencoder'] >= 0))


def pictures(points, paired):
  """Image, and change and result on and off the tangent space."""
  xs = canvas.channels_last(points['x'])
  sheets = ('free', 'on', 'off')
  figure, axes = canvas.grid(1 + 2 * len(sheets), len(xs), 1.2, 1.25)
  for j, x in enumerate(xs):
    canvas.image(axes[0, j], x)
    label = points['label'][j]
    axes[0, j].set_title(f'true class {label}', fontsize=8)
    for i, side in enumerate(sheets):
      point = canvas.channels_last(points[f'{side}_point'][j])
      size = float(np.abs(point - x).max()) or 1.0
      top, bottom = axes[1 + 2 * i, j], axes[2 + 2 * i, j]
      canvas.change(top, point - x, size)
      top.set_title(rf'$\pm${size:.2g}', fontsize=8)
      canvas.image(bottom, point)
      target, far = points[f'{side}_target'][j], points[side][j]
      bottom.set_title(
        rf'{label} $\rightarrow$ {target} at {far:.2g}', fontsize=8
      )
  names, short = ['image'], SPACE[paired].removesuffix(' space')
  for text in ('free', f'on {short}', f'off {short}'):
    names += [f'change,\n{text}', f'result,\n{text}']
  for ax, name in zip(axes[:, 0], names, strict=True):
    ax.set_ylabel(name, fontsize=8)
  for ax in axes.flat:
    ax.set(xticks=[], yticks=[])
  ratio = np.median(points['on'] / points['off'])
  space = SPACE[paired]
  caption = (
    f'Nearest boundary points of {len(xs)} images at one classifier: the '
    'change (dark takes away, bright adds, up to the number above it) and the '
    'result, with the class that it is taken for and its l2 distance; without '
    f'restriction, within the {space} of '
    'one manifold and orthogonal to it. Here the change within the '
    f'{space} is {ratio:.2g} times as long as that orthogonal to it '
    '(median).'
  )
  return figure, caption
