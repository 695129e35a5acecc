"""Figures of `experiments.random_scaling`."""

from matplotlib import legend_handler
import numpy as np

from dmm_jax.plots import canvas
from experiments.lib import tables as tables_lib


def draw(report, tables):
  """The law against dimension, and distances beside the released ones."""
  slopes, medians, *more = (tables_lib.to_dicts(t) for t in report.tables)
  found = {'scaling': (scaling(slopes, medians), caption(report))}
  beside = next((t for t in more if t and 'released' in t[0]), None)
  if beside:
    found['released'] = (
      released(beside),
      'Median distance of random ResNet20s from the boundary against input '
      'dimension. Filled marks: ours, controlled; hollow: ours, raw; crosses: '
      "the authors' (De Palma et al., figure 1). 95 % intervals; lines are the "
      'powers of n that the law says, through the middle of the crosses.',
    )
  return found


def caption(report):
  return (
    f'{report.answer} Filled marks: controlled medians with 95 % intervals; '
    'hollow marks: raw medians, whose scatter is that of the margin. Coloured '
    'lines: the infinitely wide network, not fitted to anything. Grey: '
    "the law's slope, through the prediction at the smallest n."
  )


def scaling(slopes, medians):
  """Relative distance against n, a panel for each norm."""
  norms = list(dict.fromkeys(row['p'] for row in slopes))
  columns = min(len(norms), 3)
  rows = -(-len(norms) // columns)
  figure, axes = canvas.grid(rows, columns, width=4.4, height=4.8)
  for ax in axes.flat[len(norms) :]:
    ax.remove()
  names = list(dict.fromkeys(row['network'] for row in slopes))
  for p, ax in zip(norms, axes.flat, strict=False):
    anchor, entries = None, {}
    of_norm = [row for row in slopes if row['p'] == p]
    for place, row in enumerate(of_norm):
      look = canvas.STYLES[names.index(row['network']) % len(canvas.STYLES)]
      at = [m for m in medians if (m['network'], m['p']) == (row['network'], p)]
      n = np.array([m['n'] for m in at], float)
      moved = n * 1.045 ** (place - (len(of_norm) - 1) / 2)
      raw = marks(ax, moved * 0.98, [m['raw'] for m in at], look, hollow=True)
      handles = [marks(ax, moved, [m['controlled'] for m in at], look)]
      own = [m['infinite'] for m in at]
      if own[0] is not None:
        line = {k: look[k] for k in ('color', 'linestyle')}
        handles += ax.plot(n, own, lw=1.4, **line)
        anchor = anchor or (n, own[0])
      entries[label(row)] = tuple(handles)
    entries['hollow: medians as measured (raw)'] = raw
    entries |= law(ax, *anchor, p) if anchor else {}
    ax.set_title(canvas.norm(p))
    canvas.log_values(ax)
    canvas.log_n(ax, {m['n'] for m in medians if m['p'] == p})
    ax.legend(
      entries.values(),
      entries.keys(),
      fontsize=8,
      loc='upper center',
      bbox_to_anchor=(0.5, -0.2),
      frameon=False,
      handlelength=3,
      handler_map={tuple: legend_handler.HandlerTuple(None, pad=-1)},
    )
  for ax in axes[:, 0]:
    ax.set_ylabel(r'median of $d_p(x)\,/\,\|x\|_p$')
  return figure


def label(row):
  """The network, its slope with the interval, and that at infinite width."""
  found = row['controlled']
  text = (
    f'{row["network"]}: slope {found.value:.2f} '
    f'[{found.low:.2f}, {found.high:.2f}]'
  )
  own = row['infinite']
  return text if own is None else f'{text}; line: infinite width, {own:.2f}'


def marks(ax, n, found, look, text=None, hollow=False):
  """Estimates with their intervals; infinite ones are left out."""
  value, low, high = np.array([e[:3] for e in found], float).T
  keep = np.isfinite(value)
  n, value = n[keep], value[keep]
  # An infinite end is not drawn.
  ends = [np.where(np.isfinite(v), v, value) for v in (low[keep], high[keep])]
  return ax.errorbar(
    n,
    value,
    np.abs(np.array(ends) - value),
    color=look['color'],
    marker=look['marker'],
    markerfacecolor='none' if hollow else look['color'],
    alpha=0.55 if hollow else 1,
    linestyle='none',
    capsize=2,
    ms=5,
    label=text,
  )


def law(ax, n, first, p):
  """The slopes that laws say, through one point; returns legend entries."""
  n = np.geomspace(n[0], n[-1], 50)
  grey = dict(color='black', alpha=0.3)
  text = r'law: slope $-1/2$, through the prediction'
  entries = {text: ax.plot(n, first * np.sqrt(n[0] / n), lw=3, **grey)[0]}
  if p == 1:
    fall = np.sqrt(n[0] * np.log(n[0]) / (n * np.log(n)))
    text = r'$\sqrt{n/\ln n}$ in place of $\sqrt{n}$'
    entries[text] = ax.plot(n, first * fall, lw=2, ls=':', **grey)[0]
  return entries


def released(rows):
  """Distances against n, a panel for each norm."""
  norms = list(dict.fromkeys(row['p'] for row in rows))
  figure, axes = canvas.grid(1, len(norms), width=3.8, height=3.8)
  ours, theirs = canvas.STYLES[0], dict(color='black', marker='x')
  for p, ax in zip(norms, axes[0], strict=True):
    at = [row for row in rows if row['p'] == p]
    n = np.array([row['n'] for row in at], float)
    column = lambda name, at=at: [row[name] for row in at]
    marks(ax, n * 1.01, column('controlled'), ours, 'ours, controlled')
    marks(ax, n * 0.99, column('raw'), ours, 'ours, raw', hollow=True)
    marks(ax, n, column('released'), theirs, 'released')
    power = 0.5 if p == 0 else 1 / p - 0.5
    middle = np.exp(np.mean([np.log(r['released'].value) for r in at]))
    line = middle * (n / np.exp(np.log(n).mean())) ** power
    ax.plot(n, line, color='black', alpha=0.3, lw=3, label='law')
    ax.set_title(canvas.norm(p))
    canvas.log_values(ax)
    canvas.log_n(ax, set(n.astype(int)))
  axes[0, 0].set_ylabel('median distance (pixel values in [0, 1])')
  canvas.legend(figure, axes[0, 0], ncols=4)
  return figure
