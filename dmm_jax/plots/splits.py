"""Figures of `experiments.manifold_split`."""

import pathlib

import numpy as np

from dmm_jax import records
from dmm_jax.plots import canvas


def manifold_split(run_dir: pathlib.Path) -> list[pathlib.Path]:
  """Draws distances and enrichments against their nulls, and a picture sheet.

  Returns the figures' paths.
  """
  run_dir = pathlib.Path(run_dir)
  summary = records.read_json(run_dir / 'summary.json')
  points = records.load_columns(run_dir / 'points.npz')
  figures = {'ratios': _ratios(summary), 'enrichment': _enrichment(summary)}
  if points['x'].ndim == 4:
    figures['pictures'] = _pictures(points)
  return [
    canvas.save(f, run_dir / 'figures' / name) for name, f in figures.items()
  ]


def _panels(summary):
  """A figure, and `(axis, rows)` for each start (down) and k (across)."""
  rows = summary['rows']
  bases = list(dict.fromkeys(row['base'] for row in rows))
  ks = sorted({row['k'] for row in rows})
  of = lambda base, k: [r for r in rows if (r['base'], r['k']) == (base, k)]
  most = max(len(of(base, k)) for base in bases for k in ks)
  width = max(2.8, 7 / len(ks))
  figure, axes = canvas.grid(
    len(bases), len(ks), width=width, height=max(2.0, 1.0 + 0.3 * most)
  )
  panels = []
  for line, base in zip(axes, bases, strict=True):
    for ax, k in zip(line, ks, strict=True):
      shown = of(base, k)
      ax.set_title(f'from the {base}, k = {k}', fontsize=9)
      ax.set(ylim=(len(shown) - 0.4, -0.6), yticks=range(len(shown)))
      ax.set_yticklabels([row['kind'] for row in shown], fontsize=8)
      canvas.log_values(ax, 'x')
      ax.grid(axis='x', color='0.9', linewidth=0.6)
      panels.append((ax, shown))
  return figure, panels


def _pairs(ax, rows, labels):
  """Two dots a row, `{column: label}`."""
  for (column, label), look, shift in zip(
    labels.items(), canvas.STYLES, (-0.12, 0.12), strict=False
  ):
    canvas.dots(ax, [row[column] for row in rows], look, label, shift)


def _ratios(summary):
  figure, panels = _panels(summary)
  labels = {
    f'{side}_over_free': f'{side} / free, median and 95 %'
    for side in ('on', 'off')
  }
  for ax, rows in panels:
    _pairs(ax, rows, labels)
    for side, look, line in zip(
      ('on', 'off'), canvas.STYLES, (':', '--'), strict=False
    ):
      ax.axvline(
        rows[0][f'random_{side}_over_free'],
        color=look['color'],
        linestyle=line,
        label=f'{side}: flat boundary, random subspace',
      )
    ax.set_xlabel('distance / free distance')
  canvas.legend(figure, panels[0][0], ncols=2)
  figure.suptitle(
    f'{summary["dataset"]}: l2 distance to the boundary\nwithin subspaces (on) '
    'and orthogonal to them (off)',
    fontsize=9,
  )
  return figure


def _enrichment(summary):
  figure, panels = _panels(summary)
  for ax, rows in panels:
    labels = {
      f'enrichment_by_{name}': f'by {name}, 95 %'
      for name in ('distance', 'normal')
    }
    _pairs(ax, rows, labels)
    ax.axvline(1.0, color='0.4', linestyle='--', label='random subspace')
    ax.set_xlabel('enrichment A')
  canvas.legend(figure, panels[0][0], ncols=3)
  figure.suptitle(
    f"{summary['dataset']}: the boundary normal's squared length\nfor each "
    'dimension within a subspace, over that outside',
    fontsize=9,
  )
  return figure


_ROWS = (
  ('free', 'free', 'free'),
  ('decoder', 'on', 'on the manifold'),
  ('decoder', 'off', 'off the manifold'),
  ('random', 'on', 'random subspace'),
)


def _pictures(points):
  """Change and result of each search, for a few images, one a column."""
  points = records.select(points, base=points['base'][0])
  sheets = []
  for kind, side, text in _ROWS:
    of = records.select(points, kind=kind, side=side)
    if len(of['k']):
      sheets.append((text, records.select(of, k=of['k'].max())))
  columns = len(sheets[0][1]['x'])
  figure, axes = canvas.grid(1 + 2 * len(sheets), columns, 1.2, 1.25)
  for j in range(columns):
    canvas.image(axes[0, j], sheets[0][1]['x'][j])
    axes[0, j].set_title(f'class {sheets[0][1]["label"][j]}', fontsize=8)
  axes[0, 0].set_ylabel('image', fontsize=7)
  for i, (text, found) in enumerate(sheets):
    top, bottom = axes[1 + 2 * i], axes[2 + 2 * i]
    for j in range(columns):
      change = found['point'][j] - found['x'][j]
      size = float(np.abs(change).max()) or 1.0
      canvas.change(top[j], change, size)
      canvas.image(bottom[j], found['point'][j])
      top[j].set_title(rf'$\pm${size:.2g}', fontsize=7)
      bottom[j].set_title(
        rf'$\rightarrow$ {found["target"][j]} at {found["distance"][j]:.3g}',
        fontsize=7,
      )
    top[0].set_ylabel('change', fontsize=7)
    bottom[0].set_ylabel(text, fontsize=7)
  for ax in axes.flat:
    ax.set(xticks=[], yticks=[])
  figure.suptitle(
    'Nearest boundary points: change, then result with class and l2 distance',
    fontsize=9,
  )
  return figure
