"""Figures of `experiments.boundary_distances`."""

import numpy as np

from dmm_jax import statistics
from dmm_jax.plots import canvas
from experiments.lib import tables as tables_lib

LOOKS = {
  'trained': dict(color='#0b3c5d', linestyle='-', linewidth=1.8),
  'untrained': dict(color='#d9822b', linestyle='--', linewidth=1.8),
}
DOTS = {'trained': ':', 'untrained': (0, (1, 3))}
NUM_PICTURES = 6


def draw(report, tables):
  """Draws robust accuracy, each network's quantiles, and nearest points.

  Sheets of nearest points are left out where inputs are not images or no point
  was found.
  """
  results, points = tables['results'], tables['points']
  names = names_of(results, report)
  figures = {
    'robust_accuracy': robust_accuracy(results, names),
    'networks': networks(results, report, names),
  }
  for norm in np.unique(points['norm']):
    keep = (points['norm'] == norm) & (points['target'] >= 0)
    if points['x'].ndim == 4 and keep.any():
      shown = {k: v[keep][:NUM_PICTURES] for k, v in points.items()}
      figures[f'points_l{norm:g}'] = pictures(shown, norm, names)
  return figures


def kinds_of(results):
  """Returns the kinds of networks that there are, trained ones first."""
  return [kind for kind in LOOKS if kind in results['kind']]


def names_of(results, report):
  """Returns what the report calls the networks of each kind.

  That is the kind, or the name of the one network that a user gave.
  """
  rows = tables_lib.to_dicts(report.tables[0])
  called = dict.fromkeys(row['networks'] for row in rows)
  return dict(zip(kinds_of(results), called, strict=True))


def one_of(names, kind):
  """Returns one network of a kind, in words."""
  name = names[kind]
  return f'one {kind} network' if name == kind else name


def per_network(results, column, **wanted):
  """Returns a column of the rows that are wanted `[networks, examples]`."""
  keep = np.all([results[k] == v for k, v in wanted.items()], axis=0)
  num = results['network'][keep].max() + 1
  return results[column][keep].reshape(num, -1)


def panels(results):
  """Returns a figure, and a panel for each norm."""
  norms = np.unique(results['norm'])
  width = max(3.3, 6.2 / len(norms))  # Legend and text need the width of two.
  figure, axes = canvas.grid(1, len(norms), width=width, height=3.6)
  for norm, ax in zip(norms, axes[0], strict=True):
    ax.set_title(canvas.norm(norm))
  return figure, dict(zip(norms.tolist(), axes[0], strict=True))


def farthest(results, norm):
  """Returns where an axis of distances ends: beyond nearly all found."""
  far = results['distance'][results['norm'] == norm]
  far = far[np.isfinite(far)]
  return float(np.quantile(far, 0.99)) or 1.0 if far.size else 1.0


def shares(values, eps):
  """Returns mean and 95 % band, over networks, of the share beyond eps."""
  each = np.mean(values[:, :, None] > eps, axis=1)
  found = [statistics.t_mean(column, unit='networks') for column in each.T]
  return np.array([v[:3] for v in found]).T


def quantiles(values, probabilities):
  """Returns quantiles of each row, without interpolation: some are infinite."""
  return np.quantile(values, probabilities, axis=1, method='inverted_cdf')


def robust_accuracy(results, names):
  """The share of examples farther than eps, against eps."""
  figure, axes = panels(results)
  kinds, farther, certified = kinds_of(results), [], False
  for norm, ax in axes.items():
    eps = np.linspace(0, farthest(results, norm), 200)
    for kind in kinds:
      far = per_network(results, 'distance', kind=kind, norm=norm)
      mean, low, high = shares(far, eps)
      look = LOOKS[kind]
      if len(far) > 1:
        band = np.clip([low, high], 0, 1)
        ax.fill_between(eps, *band, color=look['color'], alpha=0.2, lw=0)
      ax.plot(eps, mean, **look, label=f'{names[kind]}, nearest point found')
      bound = per_network(results, 'lower', kind=kind, norm=norm)
      if not np.isnan(bound).any():
        certified = True
        label = f'{names[kind]}, certified'
        ax.plot(eps, shares(bound, eps)[0], color=look['color'],
                linestyle=DOTS[kind], label=label)  # fmt: skip
    ax.set(
      xlim=(0, eps[-1]), ylim=(0, 1.02), xlabel=r'$\epsilon$ (input units)'
    )
    if len(kinds) == 2:
      (middle,) = quantiles(far.reshape(1, -1), (0.5,))
      trained = per_network(results, 'distance', kind='trained', norm=norm)
      farther.append(f'{np.mean(trained > middle):.0%} in l{norm:g}')
  first = next(iter(axes.values()))
  first.set_ylabel(r'share of examples farther than $\epsilon$')
  canvas.legend(figure, first, ncols=2)
  caption = (
    'Share of examples whose boundary is farther than eps, '
    f'{whose(results, names)}. Lines are of the nearest point found, from above'
  )
  caption += '; dots of certified lower bounds, from below.' * certified or '.'
  if farther:
    caption += (
      " Share of trained networks' examples that are farther than the "
      f'untrained median: {", ".join(farther)}.'
    )
  return figure, caption


def count(results):
  """Returns how many networks there are of each kind."""
  return {
    kind: len(np.unique(results['network'][results['kind'] == kind]))
    for kind in kinds_of(results)
  }


def whose(results, names):
  """Returns whose share of examples a curve is, in words."""
  found = count(results)
  one = [one_of(names, kind) for kind, num in found.items() if num == 1]
  more = [f'{num} {kind}' for kind, num in found.items() if num > 1]
  parts = [f'of {" and of ".join(one)}'] if one else []
  if more:
    parts.append(
      f'mean of {" and ".join(more)} networks, with 95 % bands over networks'
    )
  return '; '.join(parts)


def networks(results, report, names):
  """Each network's median and middle half, and the means of both kinds."""
  figure, axes = panels(results)
  rows = {
    (row['norm'], row['networks']): row
    for row in tables_lib.to_dicts(report.tables[0])
  }
  for norm, ax in axes.items():
    start, ticks, end = 0, [], farthest(results, norm)
    for kind in kinds_of(results):
      far = per_network(results, 'distance', kind=kind, norm=norm)
      low, middle, high = quantiles(far, (0.25, 0.5, 0.75))
      order = np.argsort(middle)
      place = start + np.arange(len(far))
      look = dict(color=LOOKS[kind]['color'])
      bars = np.minimum([low, high], end)[:, order]  # Some are infinite.
      ax.vlines(place, *bars, lw=3, alpha=0.45, **look)
      marker = 'o' if kind == 'trained' else 's'
      ax.plot(place, middle[order], marker, ms=5, label='median', **look)
      mean = rows[f'l{norm:g}', names[kind]]['median']
      ends = place[[0, -1]] + [-0.5, 0.5]
      ax.plot(ends, 2 * [mean.value], color='black', lw=1)
      ax.fill_between(
        ends, mean.low, mean.high, color='black', alpha=0.15, lw=0
      )
      ticks.append(place.mean())
      start = place[-1] + 2
    ax.set_xticks(ticks, [*names.values()])
    ax.tick_params(axis='x', length=0)
    ax.set_ylim(bottom=0)
  next(iter(axes.values())).set_ylabel('distance (input units)')
  return figure, f'{report.answer} {marks(results, names)}'


def marks(results, names):
  """Returns what marks, bars, lines and grey bands are, in words."""
  found = count(results)
  one = [one_of(names, kind) for kind, num in found.items() if num == 1]
  mean = (
    "Lines and grey bands: geometric mean of the networks' medians, with its "
    '95 % interval'
  )
  median = 'the median with its 95 % interval over the examples'
  if sum(found.values()) == 1:
    return (
      'The mark is its median distance, the bar the middle half of its '
      f'examples; line and grey band are {median}.'
    )
  said = (
    'Each mark is a network: its median distance, and as a bar the middle half '
    'of its examples. '
  )
  if not one:
    return f'{said}{mean}.'
  if len(one) == len(found):
    return f'{said}Lines and grey bands: {median}.'
  return f'{said}{mean}; of {one[0]} {median}.'


def pictures(points, norm, names):
  """Example, change and nearest point, of a few examples; one a column."""
  xs, nearest = (canvas.channels_last(points[k]) for k in ('x', 'point'))
  change = nearest - xs
  figure, axes = canvas.grid(3, len(xs), width=1.35, height=1.5)
  sizes = np.abs(change).max((1, 2, 3))
  for j, column in enumerate(axes.T):
    canvas.image(column[0], xs[j])
    canvas.change(column[1], change[j], sizes[j])
    canvas.image(column[2], nearest[j])
    column[0].set_title(
      rf'{points["predicted"][j]} $\rightarrow$ {points["target"][j]}'
      f'\nat {points["distance"][j]:.3g}',
      fontsize=9,
    )
    column[1].set_title(rf'$\pm${sizes[j]:.2g}', fontsize=8)
    for ax in column:
      ax.set(xticks=[], yticks=[])
  for ax, text in zip(axes[:, 0], ('example', 'change', 'point'), strict=True):
    ax.set_ylabel(text, fontsize=9)
  moved = np.abs(change).max(-1) > 0.1 * sizes[:, None, None]
  far = points['distance']
  caption = (
    f'Nearest boundary points in l{norm:g} of {len(xs)} examples, at '
    f'{one_of(names, points["kind"][0])}: the example, the change (dark takes '
    'away, bright adds, up to the number above it) and the point where the '
    f'class changes, {far.min():.2g} to {far.max():.2g} away. On average '
    f'{moved.sum((1, 2)).mean():.0f} of {moved[0].size} pixels change by more '
    'than a tenth of the largest change.'
  )
  return figure, caption
