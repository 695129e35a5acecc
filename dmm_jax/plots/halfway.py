"""Figures of `experiments.halfway`."""

import pathlib

import numpy as np

from dmm_jax import records
from dmm_jax.plots import canvas


def halfway(run_dir: pathlib.Path) -> list[pathlib.Path]:
  """Draws a run's figures from its files; returns the paths."""
  run_dir = pathlib.Path(run_dir)
  summary = records.read_json(run_dir / 'summary.json')
  table = records.load_columns(run_dir / 'results.npz')
  pairs = records.load_columns(run_dir / 'pairs.npz')
  folder = run_dir / 'figures'
  return [
    canvas.save(_crossings(summary, table, pairs), folder / 'crossings'),
    canvas.save(_along(summary), folder / 'training'),
    canvas.save(_influence(summary), folder / 'influence'),
  ]


def _crossings(summary, table, pairs):
  """Histograms of t* at the end, for drawn and for nearest pairs."""
  last = records.select(table, step=summary['steps'][-1])
  kinds = {'train': 'random pairs', 'near': 'nearest opposite pairs'}
  names = list(summary['populations'])
  first = names[0]
  shown = [first, *(n for n in names if n == f'{first}-shared')]
  figure, axes = canvas.grid(1, 2, width=4.2)
  for ax, (kind, title) in zip(axes[0], kinds.items(), strict=True):
    for name, look in zip(shown, canvas.STYLES, strict=False):
      values = records.select(last, population=name)['fraction']
      values = values[:, pairs['kind'] == kind].ravel()
      ax.hist(
        values[np.isfinite(values)],
        bins=np.linspace(0, 1, 41),
        density=True,
        histtype='step',
        color=look['color'],
        linestyle=look['linestyle'],
        label=name.replace('-shared', ', shared random labels'),
      )
    ax.axvline(0.5, color='0.5', linewidth=0.8, label='halfway')
    ax.set(title=title, xlabel='first crossing t*, part of the way')
  axes[0, 0].set_ylabel('density')
  canvas.legend(figure, axes[0, 0], ncols=3)
  figure.suptitle(
    f'{summary["dataset"]}: where the boundary crosses between two samples',
    fontsize=10,
  )
  return figure


def _along(summary):
  """Spread, alignment, concordance and accuracy along training."""
  figure, axes = canvas.grid(2, 2, width=4.4)
  panels = (
    (axes[0, 0], 'populations', 'spread_train', 'spread of t*'),
    (axes[0, 1], 'populations', 'test_accuracy', 'accuracy, test'),
    (axes[1, 0], 'relations', 'cosine', 'cosine of adversarial directions'),
    (axes[1, 1], 'relations', 'concordance_train', 'concordance of t*'),
  )
  for ax, group, name, label in panels:
    for (who, curve), number in zip(
      summary[group].items(), range(100), strict=False
    ):
      _line(ax, summary['steps'], curve, name, number, who)
    ax.set(xlabel='training step', ylabel=label)
    _steps(ax, summary['steps'])
  for ax in axes[1]:
    ax.axhline(0.0, color='0.6', linewidth=0.8)
    ax.set_ylim(-0.35, 1.03)  # Bands of few networks go beyond.
  for ax, title in (
    (axes[0, 1], 'networks'),
    (axes[1, 1], 'pairs of networks'),
  ):
    ax.legend(
      fontsize=7, title=title, loc='center left', bbox_to_anchor=(1.02, 0.5)
    )
  figure.suptitle(
    f'{summary["dataset"]}: what networks come to have in common; bands 95 %',
    fontsize=10,
  )
  return figure


def _influence(summary):
  """Meeting ratios of the own class and of others, along training."""
  names = list(summary['populations'])
  figure, axes = canvas.grid(-(-len(names) // 4), min(len(names), 4), 2.6, 2.6)
  panels = axes.ravel()
  for ax in panels[len(names) :]:
    ax.axis('off')
  for ax, name in zip(panels, names, strict=False):
    curve = summary['populations'][name]
    for number, (key, label) in enumerate(
      (('same', 'own class'), ('other', 'other classes'))
    ):
      _line(ax, summary['steps'], curve, key, number, label)
    ax.set(title=name, xlabel='training step')
    ax.title.set_fontsize(9)
    _steps(ax, summary['steps'])
  shown = panels[: len(names)]
  low = min(ax.get_ylim()[0] for ax in shown)
  high = max(ax.get_ylim()[1] for ax in shown)
  for ax in shown:
    ax.set_ylim(low, high)
  for ax in axes[:, 0]:
    ax.set_ylabel('meeting ratio')
  canvas.legend(figure, axes[0, 0], ncols=2)
  figure.suptitle(
    f'{summary["dataset"]}: how far a step at one sample carries others; '
    'bands 95 %',
    fontsize=10,
  )
  return figure


def _line(ax, steps, curve, name, number, label):
  entries = [curve[str(step)][name] for step in steps]
  canvas.band(ax, np.arange(len(steps)), entries, number, label)


def _steps(ax, steps):
  """Steps at equal distances: 0 and log-spaced ones."""
  ax.set_xticks(range(len(steps)), [str(s) for s in steps], rotation=60)
  ax.tick_params(axis='x', labelsize=7)
