"""Figures of `experiments.random_scaling`."""

import pathlib

from matplotlib import ticker
import numpy as np
from scipy import stats

from dmm_jax import records
from dmm_jax.plots import canvas


def random_scaling(run_dir: pathlib.Path) -> list[pathlib.Path]:
  """Draws every figure of `experiments.random_scaling`; returns their paths."""
  run_dir = pathlib.Path(run_dir)
  summary = records.read_json(run_dir / 'summary.json')
  results = records.load_columns(run_dir / 'results.npz')
  bounds = _load_if_there(run_dir / 'bounds.npz')
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


def _load_if_there(path):
  return records.load_columns(path) if path.exists() else None


def _axes_by_norm(summary):
  norms = list(dict.fromkeys(row['norm'] for row in summary['rows']))
  figure, axes = canvas.grid(1, len(norms), height=3.8)
  return figure, dict(zip(norms, axes[0], strict=True))


def _style(summary, architecture):
  names = list(dict.fromkeys(row['architecture'] for row in summary['rows']))
  return canvas.STYLES[names.index(architecture) % len(canvas.STYLES)]


def _points(ax, n, entries, style, label):
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
  n = sorted({s['n'] for row in summary['rows'] for s in row['sizes']})
  ax.set(xscale='log', xlabel='input dimension n (pixels x channels)')
  shown = n if len(n) <= 6 else n[:: -(-len(n) // 6)]
  ax.set_xticks(shown, [str(v) for v in shown])
  ax.xaxis.set_minor_locator(ticker.NullLocator())


def _distance(summary):
  """Median distance against n, with the prediction drawn through it."""
  figure, axes = _axes_by_norm(summary)
  for row in summary['rows']:
    ax, style = axes[row['norm']], _style(summary, row['architecture'])
    n = [s['n'] for s in row['sizes']]
    _points(
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
    _points(ax, n, entries, style, row['architecture'])
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


def _law(summary, results, bounds):
  """Distribution of distances at the largest n, beside law and flip bound."""
  names = list(dict.fromkeys(r['architecture'] for r in summary['rows']))
  norms = list(dict.fromkeys(r['norm'] for r in summary['rows']))
  figure, axes = canvas.grid(len(names), len(norms), height=2.4)
  for i, name in enumerate(names):
    for j, norm in enumerate(norms):
      ax = axes[i, j]
      row = next(
        r
        for r in summary['rows']
        if r['architecture'] == name and r['norm'] == norm
      )
      last = row['sizes'][-1]
      keep = (results['architecture'] == name) & (results['n'] == last['n'])
      keep &= results['norm'] == float(norm)
      distance = np.sort(results['distance'][keep])
      share = (np.arange(len(distance)) + 1) / len(distance)
      unit = last['predicted'] / 0.67449
      inside = np.isfinite(distance)
      ax.step(
        distance[inside] / unit,
        share[inside],
        where='post',
        color='#0b3c5d',
        lw=1.6,
        label='finite networks',
      )
      grid = np.linspace(0, 3, 61)
      if bounds is not None and np.any(bounds['architecture'] == name):
        at = (bounds['architecture'] == name) & (bounds['n'] == last['n'])
        at &= bounds['norm'] == float(norm)
        radius = bounds['radius'][at] / unit
        ax.plot(
          radius,
          bounds['law'][at],
          color='#d9822b',
          ls='--',
          lw=1.4,
          label='half-normal law',
        )
        ax.plot(
          radius,
          bounds['bound'][at],
          color='black',
          ls=':',
          lw=1.4,
          label='flip bound: no distribution may exceed it',
        )
      else:
        ax.plot(
          grid,
          stats.halfnorm.cdf(grid),
          color='#d9822b',
          ls='--',
          lw=1.4,
          label='half-normal law',
        )
      ax.set(xlim=(0, 3), ylim=(0, 1.03))
      ax.set_title(
        f'{name}, ${canvas.NORMS[norm]}$, n = {last["n"]}', fontsize=9
      )
      if j == 0:
        ax.set_ylabel('share of inputs within')
      if i == len(names) - 1:
        ax.set_xlabel('radius / predicted scale')
  canvas.legend(figure, axes[0, 0], ncols=3)
  return figure


def _margin(summary, results):
  """Distance against |f(x)|, both in units of their own scale."""
  names = list(dict.fromkeys(r['architecture'] for r in summary['rows']))
  norms = list(dict.fromkeys(r['norm'] for r in summary['rows']))
  figure, axes = canvas.grid(len(names), len(norms), height=2.4)
  for i, name in enumerate(names):
    for j, norm in enumerate(norms):
      ax = axes[i, j]
      keep = (results['architecture'] == name) & (
        results['norm'] == float(norm)
      )
      row = next(
        r
        for r in summary['rows']
        if r['architecture'] == name and r['norm'] == norm
      )
      for size, shade in (
        (row['sizes'][0], '#b8b8b8'),
        (row['sizes'][-1], '#0b3c5d'),
      ):
        at = keep & (results['n'] == size['n'])
        margin, distance = results['margin'][at], results['distance'][at]
        ax.plot(
          margin[:2000] / np.sqrt(np.mean(margin**2)),
          distance[:2000] / (size['predicted'] / 0.67449),
          '.',
          color=shade,
          ms=3,
          label=f'n = {size["n"]}',
          rasterized=True,
        )
      ax.plot(
        [0, 3],
        [0, 3],
        color='#d9822b',
        ls='--',
        lw=1.3,
        label='law: proportional',
      )
      ax.set(xlim=(0, 3), ylim=(0, 4.5))
      ax.set_title(f'{name}, ${canvas.NORMS[norm]}$', fontsize=9)
      if j == 0:
        ax.set_ylabel('distance / predicted scale')
      if i == len(names) - 1:
        ax.set_xlabel(r'$|f(x)|$ / its root mean square')
  canvas.legend(figure, axes[0, 0], ncols=3)
  return figure


def _excess(summary):
  """Found distance over its one-gradient estimate: what curvature adds."""
  figure, axes = _axes_by_norm(summary)
  for row in summary['rows']:
    ax, style = axes[row['norm']], _style(summary, row['architecture'])
    n = [s['n'] for s in row['sizes']]
    _points(
      ax, n, [s['excess'] for s in row['sizes']], style, row['architecture']
    )
    drawn = [s for s in row['sizes'] if 'infinite_excess' in s]
    if drawn:
      _points(
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
