"""Figures of `experiments.transfer`."""

import numpy as np

from dmm_jax import halfway
from dmm_jax import records
from dmm_jax.plots import canvas
from experiments.lib import tables as tables_lib

WITHIN, POOLED = canvas.STYLES[:2]


def draw(report, tables):
  """Draws who fools whom, what explains how often, and the first steps."""
  rates, shares, _, early = (tables_lib.to_dicts(v) for v in report.tables)
  return {
    'matrices': matrices(rates),
    'explained': explained(tables, rates, shares),
    'first_steps': first_steps(early, report.tables[3].columns[-1].meaning),
  }


def matrices(rates):
  """Rates between populations: sources are rows, targets are columns."""
  sources, targets = [row['examples'] for row in rates], [*rates[0]][1:]
  values = np.array([[row[to].value for to in targets] for row in rates])
  figure, ((ax,),) = canvas.grid(
    1, 1, 2.4 + 1.15 * len(targets), 1.5 + 0.5 * len(rates)
  )
  shown = ax.imshow(values, cmap='Greys', vmin=0, vmax=1, aspect='auto')
  for (i, j), value in np.ndenumerate(values):
    found = rates[i][targets[j]]
    look = dict(ha='center', color='white' if value > 0.55 else 'black')
    ax.text(j, i - 0.04, f'{value:.0%}', va='bottom', fontsize=11, **look)
    ends = f'{found.low:.0%} to {found.high:.0%}'
    ax.text(j, i + 0.08, ends, va='top', fontsize=8, **look)
  ax.axhline(len(targets) - 0.5, color='black', linewidth=1.5)
  ax.set_xticks(range(len(targets)), targets, rotation=20, ha='right')
  ax.set_yticks(range(len(sources)), sources)
  ax.set(xlabel='network that is fooled', ylabel='network whose examples fool')
  figure.colorbar(shown, label='share of images', aspect=30)
  at = lambda row: tables_lib.cell(row[targets[0]], '.0%')
  controls = [at(row) for row in rates[len(targets) :]]
  caption = (
    "Share of the images at which examples of the row's networks fool other "
    f'networks of the column; {at(rates[0])} of {targets[0]} by each other. '
    'Small: 95 % intervals over networks. On the diagonal, source and target '
    'differ in their seeds, and those on parts of the data have no common '
    'training image. Below the line are controls, which a rate has to exceed '
    'to count as transfer: examples of networks that learned random labels '
    f'({controls[0]} of {targets[0]}), steps of other images ({controls[1]}), '
    f'noise of the same size ({controls[2]}).'
  )
  return figure, caption


def explained(tables, rates, shares):
  """Each pair's rate against its concordance; what explains rates."""
  figure, ((left, right),) = canvas.grid(1, 2, width=4.6, height=3.8)
  pairs(left, tables, targets=[*rates[0]][1:])
  canvas.legend(figure, left, ncols=4)
  variances(right, shares)
  within = [tables_lib.cell(row['within strata'], 'z.2f') for row in shares]
  caption = (
    'Left: every ordered pair of networks that learned right labels. Right: '
    "shares of the variance of the rates' logits that are explained for pairs "
    'of unseen networks, with 95 % intervals over networks. Concordance: how '
    'alike two networks are in where they cross segments between images. '
    'Within strata, where pairs from the same two populations are compared '
    'with each other alone, concordance and cosine explain '
    f'{within[0]}, accuracies {within[1]}, and the draw of images leaves '
    f'{within[-1]}.'
  )
  return figure, caption


def pairs(ax, tables, targets):
  """Draws a point for each ordered pair of networks, by what they share."""
  networks = tables['networks']
  rows = records.select(tables['results'], kind='own')
  names, source, target = networks['population'], rows['source'], rows['target']
  rate = rows['hits'].sum(1) / np.maximum(rows['images'].sum(1), 1)
  agree = halfway.concordance(networks['fraction'])[source, target]
  others = (source != target) & np.isin(names[source], targets)
  same = names[source] == names[target]
  part = np.array([' on ' in name for name in names])
  part = part[source] | part[target]
  for which, label, look in (
    (~same & part, 'populations with parts of the data', canvas.STYLES[4]),
    (same & part, 'one part size', canvas.STYLES[2]),
    (~same & ~part, 'two architectures', canvas.STYLES[1]),
    (same & ~part, 'one architecture', canvas.STYLES[0]),
  ):
    keep = others & which
    ax.plot(
      agree[keep],
      rate[keep],
      look['marker'],
      color=look['color'],
      ms=3,
      alpha=0.6,
      label=label,
    )
  ax.set(
    xlabel='concordance of where boundaries cross',
    ylabel='share of images fooled',
    ylim=(-0.02, 1.02),
  )


def variances(ax, shares):
  """Draws shares of the variance with their intervals, a line a share."""
  for name, look, shift in (
    ('within strata', WITHIN, -0.12),
    ('all pairs', POOLED, 0.12),
  ):
    found = [row[name] for row in shares]
    ends = [[v.value - v.low for v in found], [v.high - v.value for v in found]]
    ax.errorbar(
      [v.value for v in found],
      np.arange(len(found)) + shift,
      xerr=ends,
      color=look['color'],
      marker=look['marker'],
      linestyle='',
      capsize=3,
      label=name,
    )
  ax.axvline(0, color='0.4', linewidth=0.8)
  ax.set_yticks(range(len(shares)), [row['explained by'] for row in shares])
  ax.set(
    ylim=(len(shares) - 0.5, -0.5),
    xlabel='share of the variance of rates (logits)',
  )
  above = dict(loc='lower center', bbox_to_anchor=(0.5, 1.0), ncols=2)
  ax.legend(fontsize=8, **above)


def first_steps(early, meaning):
  """Accuracy, cosine and rate along the first steps, one a panel.

  Args:
    early: rows of the table of first steps.
    meaning: of its column `decides`.
  """
  panels = (
    ('accuracy', 'accuracy on test images'),
    ('cosine', 'cosine of directions'),
    ('rate', 'share of images fooled'),
  )
  figure, (axes,) = canvas.grid(1, 3, width=3.3)
  steps = [row['step'] for row in early]
  deciding = [row['step'] for row in early if row['decides']]
  for ax, (name, label) in zip(axes, panels, strict=True):
    found = [row[name] for row in early]
    look = canvas.STYLES[0]
    ax.plot(steps, [v.value for v in found], ms=4, **look, label='mean, 95 %')
    low, high = [v.low for v in found], [v.high for v in found]
    ax.fill_between(steps, low, high, color=look['color'], alpha=0.2, lw=0)
    ax.axhline(
      found[0].value, color='0.4', linestyle='--', label='before training'
    )
    for step in deciding:
      ax.axvline(step, color='0.2', linestyle=':', label='decides the claim')
    ax.set_xscale('symlog', linthresh=1)
    ax.set(xlabel='step of training', ylabel=label, xlim=(-0.1, None))
  canvas.legend(figure, axes[0], ncols=3)
  said = [f'Dotted, step {step}, decides {meaning}.' for step in deciding]
  caption = (
    'Networks in their first steps, at a small learning rate: accuracy, the '
    'cosine of the adversarial directions of two of them, and how often their '
    'examples fool finished networks. Bands are 95 % over networks. '
    f'At step {steps[-1]} they are at {early[-1]["accuracy"].value:.0%}, '
    f'{early[-1]["cosine"].value:z.2f} and {early[-1]["rate"].value:.0%}, from '
    f'{early[0]["accuracy"].value:.0%}, {early[0]["cosine"].value:z.2f} and '
    f'{early[0]["rate"].value:.0%} before training. '
  )
  caption += (
    said[0]
    if said
    else "None decides the claim 'before accuracy': accuracy rises with the "
    'first one.'
  )
  return figure, caption
