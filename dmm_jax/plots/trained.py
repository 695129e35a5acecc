"""Figures of `experiments.trained_vs_random`."""

import pathlib

import numpy as np

from dmm_jax import records
from dmm_jax.plots import canvas

_TYPES = ('train', 'test', 'random')
_IMAGES = {
  'train': 'training images',
  'test': 'test images',
  'random': 'random images',
}
_SHIFTS = (-0.2, 0.0, 0.2)
_MOST = 2000  # Points of one scatter.


def trained_vs_random(run_dir: pathlib.Path) -> list[pathlib.Path]:
  """Draws medians, profiles, ratios and margins; returns the paths."""
  run_dir = pathlib.Path(run_dir)
  summary = records.read_json(run_dir / 'summary.json')
  results = records.load_columns(run_dir / 'results.npz')
  figures = {
    'medians': _medians(summary),
    'profile': _profile(summary, results),
    'prediction': _prediction(summary),
    'margin': _margin(summary, results),
  }
  return [
    canvas.save(f, run_dir / 'figures' / name) for name, f in figures.items()
  ]


def _cases(summary):
  """`(architecture, state)`, in order."""
  return list(
    dict.fromkeys((r['architecture'], r['state']) for r in summary['rows'])
  )


def _norms(summary):
  return list(dict.fromkeys(row['norm'] for row in summary['rows']))


def _rows(summary, **wanted):
  return [
    row
    for row in summary['rows']
    if all(row[name] == value for name, value in wanted.items())
  ]


def _panels(summary, title):
  """One panel a norm, a line for each architecture and state."""
  cases, norms = _cases(summary), _norms(summary)
  figure, axes = canvas.grid(
    1, len(norms), width=3.4, height=1.4 + 0.5 * len(cases)
  )
  for norm, ax in zip(norms, axes[0], strict=True):
    ax.set_title(canvas.norm(norm))
    ax.set(ylim=(len(cases) - 0.5, -0.5), yticks=range(len(cases)))
    ax.set_yticklabels([])
  axes[0][0].set_yticklabels([f'{name}\n{state}' for name, state in cases])
  about = f'{summary["dataset"]}, {summary["labels"]}'
  figure.suptitle(f'{about}: {title}', fontsize=9)
  return figure, dict(zip(norms, axes[0], strict=True))


def _medians(summary):
  """Median distances, with percentiles, intervals and predictions."""
  figure, panels = _panels(
    summary,
    'thick: 45 and 55 % of the distances; thin: 95 % interval of the median',
  )
  for norm, ax in panels.items():
    for kind, look, shift in zip(_TYPES, canvas.STYLES, _SHIFTS, strict=False):
      rows = _rows(summary, norm=norm, type=kind)
      canvas.dots(ax, [r['median'] for r in rows], look, _IMAGES[kind], shift)
      places = np.arange(len(rows)) + shift
      low, high = ([r[q] for r in rows] for q in ('q45', 'q55'))
      ax.hlines(places, low, high, color=look['color'], lw=4, alpha=0.5)
      ax.plot(
        [r['predicted'] for r in rows],
        places,
        'x',
        color='black',
        ms=5,
        label='law, not fitted' if kind == 'random' else None,
      )
    canvas.log_values(ax, 'x')
    ax.tick_params(axis='x', labelsize=7, rotation=45)
    ax.set_xlabel('median distance (input units)')
  canvas.legend(figure, next(iter(panels.values())), ncols=4)
  return figure


def _prediction(summary):
  """Distances over what the infinite random network says at the input."""
  figure, panels = _panels(
    summary, 'distance over the law at the same input, median and 95 %'
  )
  for norm, ax in panels.items():
    ax.axvline(1, color='0.4', ls='--', lw=1, label='law')
    for kind, look, shift in zip(_TYPES, canvas.STYLES, _SHIFTS, strict=False):
      rows = _rows(summary, norm=norm, type=kind)
      canvas.dots(ax, [r['relative'] for r in rows], look, _IMAGES[kind], shift)
    canvas.log_values(ax, 'x')
    ax.tick_params(axis='x', labelsize=7, rotation=45)
    ax.set_xlabel('median of distance / predicted median')
  canvas.legend(figure, next(iter(panels.values())), ncols=4)
  return figure


def _main_norm(summary):
  """The law is exactly half-normal in l2."""
  norms = _norms(summary)
  return '2.0' if '2.0' in norms else norms[0]


def _grid(summary, columns):
  """One panel an architecture and column: `(figure, {(name, column): ax})`."""
  names = list(dict.fromkeys(r['architecture'] for r in summary['rows']))
  figure, axes = canvas.grid(len(names), len(columns), width=3.2, height=2.9)
  panels = {
    (name, column): axes[i][j]
    for i, name in enumerate(names)
    for j, column in enumerate(columns)
  }
  return figure, panels


def _profile(summary, results):
  """Sorted distances against their share, with straight starts."""
  norm = _main_norm(summary)
  figure, panels = _grid(summary, _TYPES)
  states = list(dict.fromkeys(state for _, state in _cases(summary)))
  for (name, kind), ax in panels.items():
    rows = _rows(summary, architecture=name, type=kind, norm=norm)
    top = 0.0
    for row in rows:
      look = canvas.STYLES[states.index(row['state'])]
      part = records.select(
        results,
        architecture=name,
        type=kind,
        state=row['state'],
        norm=np.float32(norm),
      )
      distance = np.sort(part['distance'])
      share = (np.arange(len(distance)) + 0.5) / len(distance)
      shown = np.isfinite(distance)
      line = dict(color=look['color'], ls=look['linestyle'])
      label = row['state']
      ax.plot(share[shown], distance[shown], **line, lw=1.5, label=label)
      ends = np.array([0, 0.3])
      start = 'line through its first quarter'
      slope = row['slope']['value']
      only = start if row is rows[-1] else None
      ax.plot(ends, slope * ends, color=look['color'], lw=0.7, label=only)
      if shown.any():
        top = max(top, np.quantile(distance[shown], 0.95))
    slope = rows[0]['predicted_slope']
    law = dict(color='black', lw=1.4, ls=':')
    ax.plot([0, 0.5], [0, 0.5 * slope], **law, label='slope of the law')
    # Where nothing was found, the law alone.
    ylim = 0, top or None
    ax.set(xlim=(0, 1), ylim=ylim, title=f'{name}, {kind}')
    ax.title.set_fontsize(8)
    ax.set_xlabel('share of images that are nearer')
    if kind == _TYPES[0]:
      ax.set_ylabel(f'{canvas.norm(norm)} distance (input units)')
  _legend(figure, panels, 4)
  return figure


def _margin(summary, results):
  """Distance against |margin|, both in units of their own state."""
  norm = _main_norm(summary)
  states = list(dict.fromkeys(state for _, state in _cases(summary)))
  figure, panels = _grid(summary, states)
  for (name, state), ax in panels.items():
    rows = _rows(summary, architecture=name, state=state, norm=norm)
    if not rows:
      ax.set_visible(False)
      continue
    said = []
    for row, look in zip(rows, canvas.STYLES, strict=False):
      part = records.select(
        results,
        architecture=name,
        type=row['type'],
        state=state,
        norm=np.float32(norm),
      )
      size = np.sqrt(np.mean(part['margin'] ** 2))
      kept = slice(0, _MOST)
      ax.plot(
        part['margin'][kept] / size,
        part['distance'][kept] / row['predicted'] * summary['unit'],
        look['marker'],
        color=look['color'],
        ms=2,
        alpha=0.6,
        label=_IMAGES[row['type']],
        rasterized=True,
      )
      said.append(f'{row["correlation"]["value"]:.2f}')
    law = dict(color='black', ls='--', lw=1)
    ax.plot([0, 3], [0, 3], **law, label='law: proportional')
    ax.set(xlim=(0, 3), ylim=(0, None), title=f'{name}, {state}')
    ax.title.set_fontsize(8)
    ax.set_xlabel(
      f'|margin| / its root mean square\nrank correlations {", ".join(said)}',
      fontsize=8,
    )
    if state == states[0]:
      ax.set_ylabel(f'{canvas.norm(norm)} distance / predicted scale')
  _legend(figure, panels, 4)
  return figure


def _legend(figure, panels, ncols):
  canvas.legend(figure, next(iter(panels.values())), ncols=ncols)
