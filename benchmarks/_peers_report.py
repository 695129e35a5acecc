"""Scores, tables and figures of `boundary_peers`, from its files."""

import itertools
import pathlib

import numpy as np

from dmm_jax import records
from dmm_jax.plots import canvas

HEADER = (
  'network, norm, attack, budget, gradients, success, mean, median, <0.1%, '
  '<1%, better, optimality, seconds, first'
).split(', ')
_GREYS = ('0.15', '0.3', '0.45', '0.58', '0.7')
_DASHES = ('--', ':', '-.', (0, (5, 1, 1, 1)), (0, (1, 1)), (0, (7, 2)))
_MARKERS = 'sv^D<>pXPdh*8'
_FLOOR = 1e-5  # Of the logarithmic axes: 0.001 %.


def local_optimality(distances, best, clean_accuracy=1.0):
  """AttackBench's local optimality: 1 where every distance is the best known.

  1 - (A - A_best) / (clean_accuracy * eps_max - A_best), where A is the area
  below the curve of robust accuracy up to eps_max, the largest best distance:
  the mean of min(distance, eps_max), in closed form. AttackBench's trapezoids
  differ from it by up to 0.05 at 30 examples, 0.01 at 1000.

  Source: Cina et al. (2024), "AttackBench", https://arxiv.org/abs/2404.19460.

  Args:
    distances: found by an attack, `[n]`; inf where it failed.
    best: the least that any attack found, `[n]`; 0 where misclassified.
    clean_accuracy: share of examples classified correctly.
  """
  largest = np.max(best)
  area = np.mean(np.minimum(distances, largest))
  least = np.mean(best)
  room = clean_accuracy * largest - least
  return float(1 - (area - least) / room) if room > 0 else float('nan')


def score(cell, reference, best):
  """One attack's row of the summary.

  Args:
    cell: what the attack found and used.
    reference: best known distances before this run, `[n]`.
    best: the least of these and all that this run found, `[n]`.
  """
  distance = np.asarray(cell['distance'])
  ratio = np.full(len(distance), np.inf)
  np.divide(distance, reference, out=ratio, where=np.isfinite(distance))
  keys = 'network, norm, attack, budget, error, seconds, first_seconds'
  return {k: cell[k] for k in keys.split(', ')} | {
    'n': len(distance),
    'gradients': float(np.mean(cell['gradients'])),
    'forwards': float(np.mean(cell['forwards'])),
    'success': float(np.mean(np.isfinite(distance))),
    'mean_ratio': float(np.mean(ratio)),
    'median_ratio': float(np.median(ratio)),
    'within_0.1%': float(np.mean(ratio <= 1.001)),
    'within_1%': float(np.mean(ratio <= 1.01)),
    'better_by_0.1%': float(np.mean(ratio < 0.999)),
    'local_optimality': local_optimality(distance, best, np.mean(best > 0)),
  }


def summarize(cells, references):
  """Scores of all cells, of each network and norm from best to worst.

  Args:
    cells: a list of what attacks found.
    references: `{(network, norm): best known distances [n]}`.
  """
  best = dict(references)
  for cell in cells:
    key = cell['network'], cell['norm']
    best[key] = np.minimum(best[key], cell['distance'])
  rows = []
  for cell in cells:
    key = cell['network'], cell['norm']
    rows.append(score(cell, references[key], best[key]))
  order = list(references)
  return sorted(
    rows,
    key=lambda r: (
      order.index((r['network'], r['norm'])),
      r['mean_ratio'],
      -r['success'],
      r['gradients'],
    ),
  )


def table(rows):
  """Rows of text under `HEADER`; attacks that raised come as they are."""
  lines = []
  for r in rows:
    share = lambda key, r=r: f'{r[key]:.2f}'
    ours = r['attack'].startswith('ours')
    lines.append(
      [
        r['network'],
        r['norm'],
        r['attack'],
        str(r['budget'] or '-'),
        f'{r["gradients"]:.0f}',
        share('success'),
        f'{r["mean_ratio"]:.4f}',
        f'{r["median_ratio"]:.4f}',
        share('within_0.1%'),
        share('within_1%'),
        share('better_by_0.1%'),
        f'{r["local_optimality"]:.4f}',
        f'{r["seconds"]:.2f}',
        f'{r["first_seconds"]:.1f}' if ours else '-',
      ]
    )
  return lines


def count_changes(cells):
  """Numbers of changed inputs, from few to many: rows of cells of norm 0.

  The median is of all examples; the mean of those on which the attack succeeds.
  """
  rows = []
  for cell in cells:
    count = np.asarray(cell['distance'])
    if cell['norm'] == '0.0' and not cell['error']:
      found = count[np.isfinite(count)]
      row = {k: cell[k] for k in ('network', 'attack', 'budget', 'gradients')}
      row |= dict(
        success=len(found) / len(count),
        median=float(np.median(count)),
        mean=float(np.mean(found)) if len(found) else np.inf,
        seconds=cell['seconds'],
      )
      rows.append(row)
  networks = list(dict.fromkeys(r['network'] for r in rows))
  order = lambda r: (networks.index(r['network']), -r['success'], r['mean'])
  return sorted(rows, key=order)


def compare(cells):
  """Each attack of ours beside each peer, and beside the best of all peers.

  Every attack counts at its largest budget. `nearer`, `equal` and `farther` are
  shares of all examples: in norm 0, of fewer, as many and more changes. Ratios
  are ours by theirs, where the peer succeeds; infinite where ours does not.
  """
  groups = {}
  cells = [cell for cell in cells if not cell['error']]
  for cell in sorted(cells, key=lambda c: c['budget']):
    key = cell['network'], cell['norm']
    groups.setdefault(key, {})[cell['attack']] = np.asarray(cell['distance'])
  rows = []
  for (network, norm), found in groups.items():
    ours = {a: d for a, d in sorted(found.items()) if a.startswith('ours')}
    peers = {a: d for a, d in sorted(found.items()) if a not in ours}
    if peers:
      peers['best_of_peers'] = np.min(list(peers.values()), axis=0)
    for name, peer in itertools.product(ours, peers):
      row = dict(network=network, norm=norm, ours=name, peer=peer)
      rows.append(row | _beside(ours[name], peers[peer]))
  return rows


def _beside(mine, theirs):
  some = np.isfinite(theirs)
  ratio = mine[some] / theirs[some]
  value = lambda fn: float(fn(ratio)) if len(ratio) else np.nan
  return {
    'nearer': float(np.mean(mine < theirs)),
    'equal': float(np.mean(mine == theirs)),
    'farther': float(np.mean(mine > theirs)),
    'mean_ratio': value(np.mean),
    'max_ratio': value(np.max),
    'above_1.005': value(lambda r: np.mean(r > 1.005)),
  }


def plain_table(rows):
  """Header and lines of text of rows that share their keys."""
  text = lambda v: f'{v:.5g}' if isinstance(v, float) else str(v)
  return list(rows[0]), [[text(v) for v in row.values()] for row in rows]


def looks(attacks):
  """A line for each attack: ours bold and black, peers distinct in grey."""
  styles = {}
  peers = [a for a in attacks if not a.startswith('ours')]
  for i, name in enumerate(sorted(peers)):
    styles[name] = dict(
      color=_GREYS[i % len(_GREYS)],
      linestyle=_DASHES[i % len(_DASHES)],
      marker=_MARKERS[i % len(_MARKERS)],
      linewidth=1.1,
      markersize=4,
    )
  for i, name in enumerate(sorted(set(attacks) - set(peers))):
    styles[name] = dict(
      color='black',
      linestyle=('-', '--', ':', '-.')[i % 4],
      marker='o*sD^v'[i % 6],
      linewidth=2.6,
      markersize=7,
      zorder=3,
    )
  return styles


def draw(out_dir: pathlib.Path) -> list[pathlib.Path]:
  """Draws every figure from `summary.json` and `results.npz`."""
  rows = records.read_json(out_dir / 'summary.json')['rows']
  rows = [r for r in rows if not r['error']]
  columns = records.load_columns(out_dir / 'results.npz')
  return [
    _against_gradients(
      rows,
      lambda r: r['mean_ratio'] - 1,
      'mean ratio to best known - 1\n(1e-5: equal or better)',
      out_dir / 'figures' / 'ratio',
    ),
    _against_gradients(
      rows,
      lambda r: 1 - r['local_optimality'],
      '1 - local optimality',
      out_dir / 'figures' / 'optimality',
    ),
    _robust_accuracy(rows, columns, out_dir / 'figures' / 'robust_accuracy'),
  ]


def _panels(rows):
  """A row of panels for each network, a column for each norm."""
  networks = list(dict.fromkeys(r['network'] for r in rows))
  norms = sorted({r['norm'] for r in rows}, key=float)
  height = 3 + 1.5 / max(len(networks), 1)  # With room for the legend.
  figure, axes = canvas.grid(len(networks), len(norms), height=height)
  panels = []
  for i, network in enumerate(networks):
    for j, norm in enumerate(norms):
      mine = [r for r in rows if (r['network'], r['norm']) == (network, norm)]
      axes[i, j].set_title(f'{network}, {canvas.norm(norm)}', fontsize=9)
      panels.append((axes[i, j], mine))
  return figure, panels


def _against_gradients(rows, value, label, stem):
  styles = looks({r['attack'] for r in rows})
  handles = {}
  figure, panels = _panels(rows)
  for ax, mine in panels:
    for name in sorted({r['attack'] for r in mine}):
      line = sorted(
        # NaN, where all are as far away, counts as the floor.
        (max(r['gradients'], 1), max(_FLOOR, value(r)))
        for r in mine
        if r['attack'] == name
      )
      xs, ys = np.array(line).T
      handles[name] = ax.plot(xs, ys, **styles[name])[0]
      failed = xs[~np.isfinite(ys)]  # Some examples: open, at the top edge.
      ax.plot(
        failed,
        np.full_like(failed, 0.98),
        transform=ax.get_xaxis_transform(),
        **styles[name] | dict(linestyle='', fillstyle='none'),
      )
    ax.set(xscale='log', yscale='log')
    ax.set(xlabel='gradients an example', ylabel=label)
  return _finish(figure, handles, stem)


def _robust_accuracy(rows, columns, stem):
  styles = looks({r['attack'] for r in rows})
  handles = {}
  figure, panels = _panels(rows)
  for ax, mine in panels:
    last = {r['attack']: r for r in sorted(mine, key=lambda r: r['budget'])}
    for name, r in sorted(last.items()):
      keys = 'network', 'norm', 'attack', 'budget'
      chosen = np.all([columns[k] == r[k] for k in keys], axis=0)
      style = styles[name] | dict(marker='')
      handles[name] = _curve(ax, columns['distance'][chosen], **style)
    known = _curve(ax, columns['best'][chosen], color='0.8', linewidth=4)
    handles['best known'] = known
    ax.set(xlim=(0, 1.4 * max(columns['best'][chosen])), ylim=(0, 1.02))
    ax.set(xlabel='distance', ylabel='robust accuracy')
  return _finish(figure, handles, stem)


def _curve(ax, distances, **style):
  """Share of the examples whose boundary is further away."""
  steps = np.sort(distances[np.isfinite(distances)])
  shares = 1 - np.arange(len(steps) + 1) / len(distances)
  return ax.step(np.r_[0, steps], shares, where='post', **style)[0]


def _finish(figure, handles, stem):
  # Ours first.
  names = sorted(handles, key=lambda n: (not n.startswith('ours'), n))
  figure.legend(
    [handles[n] for n in names],
    names,
    loc='outside lower center',
    ncols=4,
    fontsize=8,
  )
  return canvas.save(figure, stem)
