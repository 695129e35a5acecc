"""Figures of `experiments.random_scaling`."""

from collections.abc import Collection
from collections.abc import Sequence
import pathlib

from matplotlib import axes
from matplotlib import ticker
import numpy as np
from scipy import stats

from dmm_jax import records
from dmm_jax.plots import canvas

HALF_NORMAL_MEDIAN = 0.67449


def random_scaling(run_dir: pathlib.Path) -> list[pathlib.Path]:
  """Draws every figure of `experiments.random_scaling`; returns their paths."""
  run_dir = pathlib.Path(run_dir)
  summary = records.read_json(run_dir / 'summary.json')
  results = records.load_columns(run_dir / 'results.npz')
  path = run_dir / 'bounds.npz'
  bounds = records.load_columns(path) if path.exists() else None
  figures = {
    'distance': _distance(summary),
    'relative': _relative(summary),
    'law': _law(summary, results, bounds),
    'margin': _margin(summary, results),
    'excess': _excess(summary),
  }
  return [
    canvas.save(f, run_dir / 'figures' / name) for name, f in figures.items()
  ]


def _axes_by_norm(summary):
  norms = list(dict.fromkeys(row['norm'] for row in summary['rows']))
  figure, axes = canvas.grid(1, len(norms), height=3.8)
  return figure, dict(zip(norms, axes[0], strict=True))


def _style(summary, architecture):
  names = list(dict.fromkeys(row['architecture'] for row in summary['rows']))
  return canvas.STYLES[names.index(architecture) % len(canvas.STYLES)]


def points(
  ax: axes.Axes, n: np.ndarray, entries: Sequence[dict], style: dict, label: str
) -> None:
  """Values with their intervals; values that are infinite are left out."""
  value = np.array([e['value'] for e in entries], float)
  ends = np.array([e['interval'] for e in entries], float)
  shown = np.isfinite(value)
  n, value, ends = np.array(n)[shown], value[shown], ends[shown]
  # An end at infinity, or none at all, is not drawn.
  ends = np.where(np.isfinite(ends), ends, value[:, None])
  spread = np.abs(ends.T - value)
  look = {k: style[k] for k in ('color', 'marker')}
  ax.errorbar(
    n, value, spread, **look, linestyle='none', capsize=3, ms=5, label=label
  )


def _log_n(ax, summary):
  log_n(ax, {s['n'] for row in summary['rows'] for s in row['sizes']})


def log_n(ax: axes.Axes, n: Collection[int]) -> None:
  """A logarithmic axis of dimensions, with at most six of them on it."""
  ticks = sorted(n)
  ax.set(xscale='log', xlabel='input dimension n (pixels x channels)')
  shown = ticks[:: -(-len(ticks) // 6)]
  ax.set_xticks(shown, [str(v) for v in shown])
  ax.xaxis.set_minor_locator(ticker.NullLocator())


def _distance(summary):
  """Median distance against n, with the prediction drawn through it."""
  figure, axes = _axes_by_norm(summary)
  for row in summary['rows']:
    ax, style = axes[row['norm']], _style(summary, row['architecture'])
    n = [s['n'] for s in row['sizes']]
    points(
      ax, n, [s['median'] for s in row['sizes']], style, row['architecture']
    )
    line = {k: style[k] for k in ('color', 'linestyle')}
    own = row['sizes'][0]['predicted_from'] == 'infinite width'
    source = 'infinite width' if own else 'own gradients'
    ax.plot(
      n,
      [s['predicted'] for s in row['sizes']],
      **line,
      lw=1.3,
      label=f'{row["architecture"]}, predicted: {source}',
    )
  shown = {row['architecture'] for row in summary['rows']}
  for norm, ax in axes.items():
    if 'resnet20' in shown and summary['inputs'] == 'uniform':
      there = [s['n'] for row in summary['rows'] for s in row['sizes']]
      released = [
        r
        for r in summary['released_resnet20_medians']
        if min(there) <= r['n'] <= max(there)
      ]
      ax.plot(
        [r['n'] for r in released],
        [r[norm] for r in released],
        linestyle='none',
        marker='x',
        color='black',
        ms=6,
        label='resnet20, released by De Palma et al.',
      )
    ax.set_title(f'${canvas.NORMS[norm]}$')
    canvas.log_values(ax)
    _log_n(ax, summary)
  first = next(iter(axes.values()))
  first.set_ylabel(
    'median distance to the boundary\n(input units, pixels in [0, 1])'
  )
  figure.suptitle(
    f'Distance against dimension, {summary["inputs"]} inputs; 95 % intervals;'
    ' predictions are not fitted',
    fontsize=10,
  )
  canvas.legend(figure, first, ncols=3)
  return figure


def _relative(summary):
  """Median of d_p / ||x||_p against n, with the 1 / sqrt(n) line."""
  figure, axes = _axes_by_norm(summary)
  for row in summary['rows']:
    ax, style = axes[row['norm']], _style(summary, row['architecture'])
    n = np.array([s['n'] for s in row['sizes']])
    entries = [s['relative'] for s in row['sizes']]
    points(ax, n, entries, style, row['architecture'])
    if 'predicted_relative' in row['sizes'][0]:
      ax.plot(
        n,
        [s['predicted_relative'] for s in row['sizes']],
        color=style['color'],
        linestyle=style['linestyle'],
        lw=1.3,
      )
  for norm, ax in axes.items():
    n = np.array(sorted({s['n'] for r in summary['rows'] for s in r['sizes']}))
    ax.plot(
      n,
      0.4 / np.sqrt(n),
      color='black',
      lw=2.5,
      alpha=0.25,
      label=r'slope of $1/\sqrt{n}$',
    )
    if norm == '1.0':
      ax.plot(
        n,
        0.7 / np.sqrt(n * np.log(n)),
        color='black',
        lw=1,
        ls=':',
        label=r'slope of $1/\sqrt{n\,\ln n}$',
      )
    ax.set_title(f'${canvas.NORMS[norm]}$')
    canvas.log_values(ax)
    _log_n(ax, summary)
  first = next(iter(axes.values()))
  first.set_ylabel(r'median of $d_p(x)\,/\,\|x\|_p$')
  figure.suptitle(
    f'Relative distance, {summary["inputs"]} inputs; 95 % intervals; '
    'coloured lines: infinite width',
    fontsize=10,
  )
  canvas.legend(figure, first, ncols=4)
  return figure


def _panels(summary, results, x_label, y_label):
  """A figure with a panel for each architecture and norm.

  Returns:
    `(figure, panels)`; a panel is its axes, its row of the summary, and its
    rows of the results.
  """
  names = list(dict.fromkeys(r['architecture'] for r in summary['rows']))
  norms = list(dict.fromkeys(r['norm'] for r in summary['rows']))
  figure, axes = canvas.grid(len(names), len(norms), height=2.4)
  for ax in axes[:, 0]:
    ax.set_ylabel(y_label)
  for ax in axes[-1]:
    ax.set_xlabel(x_label)
  panels = []
  for ax, row in zip(axes.flat, summary['rows'], strict=True):
    name, norm = row['architecture'], float(row['norm'])
    found = records.select(results, architecture=name, norm=norm)
    panels.append((ax, row, found))
  return figure, panels


def _law(summary, results, bounds):
  """Distribution of distances at the largest n, beside law and flip bound."""
  figure, panels = _panels(
    summary, results, 'radius / predicted scale', 'share of inputs within'
  )
  for ax, row, found in panels:
    last = row['sizes'][-1]
    distance = np.sort(records.select(found, n=last['n'])['distance'])
    share = (np.arange(len(distance)) + 1) / len(distance)
    unit = last['predicted'] / HALF_NORMAL_MEDIAN
    inside = np.isfinite(distance)
    ax.step(
      distance[inside] / unit,
      share[inside],
      where='post',
      color='#0b3c5d',
      lw=1.6,
      label='finite networks',
    )
    _draw_prediction(ax, row, unit, bounds)
    ax.set(xlim=(0, 3), ylim=(0, 1.03))
    norm = canvas.NORMS[row['norm']]
    title = f'{row["architecture"]}, ${norm}$, n = {last["n"]}'
    ax.set_title(title, fontsize=9)
  canvas.legend(figure, panels[0][0], ncols=3)
  return figure


def _draw_prediction(ax, row, unit, bounds):
  """The law, as averaged over inputs if it was, and the flip bound."""
  look = dict(color='#d9822b', ls='--', lw=1.4, label='half-normal law')
  name = row['architecture']
  if bounds is None or not np.any(bounds['architecture'] == name):
    grid = np.linspace(0, 3, 61)
    ax.plot(grid, stats.halfnorm.cdf(grid), **look)
    return
  n, norm = row['sizes'][-1]['n'], float(row['norm'])
  at = records.select(bounds, architecture=name, n=n, norm=norm)
  ax.plot(at['radius'] / unit, at['law'], **look)
  ax.plot(
    at['radius'] / unit,
    at['bound'],
    color='black',
    ls=':',
    lw=1.4,
    label='flip bound: no distribution may exceed it',
  )


def _margin(summary, results):
  """Distance against |f(x)|, both in units of their own scale."""
  figure, panels = _panels(
    summary,
    results,
    r'$|f(x)|$ / its root mean square',
    'distance / predicted scale',
  )
  for ax, row, found in panels:
    for size, shade in (
      (row['sizes'][0], '#b8b8b8'),
      (row['sizes'][-1], '#0b3c5d'),
    ):
      at = records.select(found, n=size['n'])
      margin, distance = at['margin'], at['distance']
      ax.plot(
        margin[:2000] / np.sqrt(np.mean(margin**2)),
        distance[:2000] / (size['predicted'] / HALF_NORMAL_MEDIAN),
        '.',
        color=shade,
        ms=3,
        label=f'n = {size["n"]}',
        rasterized=True,
      )
    law = dict(color='#d9822b', ls='--', lw=1.3, label='law: proportional')
    ax.plot([0, 3], [0, 3], **law)
    ax.set(xlim=(0, 3), ylim=(0, 4.5))
    norm = canvas.NORMS[row['norm']]
    ax.set_title(f'{row["architecture"]}, ${norm}$', fontsize=9)
  canvas.legend(figure, panels[0][0], ncols=3)
  return figure


def _excess(summary):
  """Found distance over its one-gradient estimate: what curvature adds."""
  figure, axes = _axes_by_norm(summary)
  for row in summary['rows']:
    ax, style = axes[row['norm']], _style(summary, row['architecture'])
    n = [s['n'] for s in row['sizes']]
    points(
      ax, n, [s['excess'] for s in row['sizes']], style, row['architecture']
    )
    drawn = [s for s in row['sizes'] if 'infinite_excess' in s]
    if drawn:
      points(
        ax,
        [s['n'] for s in drawn],
        [s['infinite_excess'] for s in drawn],
        dict(color='black', marker='x'),
        'infinitely wide dense networks, straight along the gradient',
      )
  for norm, ax in axes.items():
    ax.axhline(1, color='black', lw=0.8)
    ax.set_title(f'${canvas.NORMS[norm]}$')
    _log_n(ax, summary)
  first = next(iter(axes.values()))
  first.set_ylabel('median of distance / one-gradient estimate')
  canvas.legend(figure, first, ncols=3)
  return figure
