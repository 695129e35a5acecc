"""Figures of `experiments.transfer`."""

import pathlib

import numpy as np

from dmm_jax import records
from dmm_jax.plots import canvas


def transfer(run_dir: pathlib.Path) -> list[pathlib.Path]:
  """Draws a run's figures from its files; returns the paths."""
  run_dir = pathlib.Path(run_dir)
  summary = records.read_json(run_dir / 'summary.json')
  folder = run_dir / 'figures'
  return [
    canvas.save(_matrices(summary), folder / 'matrices'),
    canvas.save(_along(summary), folder / 'training'),
    canvas.save(_parts(summary), folder / 'parts'),
  ]


def _matrices(summary):
  """Rates between populations, an attack a panel, noise as the last row."""
  names = list(summary['networks'])
  chosen = list(summary['attacks'])
  figure, axes = canvas.grid(
    -(-len(chosen) // 4), min(len(chosen), 4), 3.3, 3.2
  )
  for ax in axes.ravel()[len(chosen) :]:
    ax.axis('off')
  for ax, attack in zip(axes.ravel(), chosen, strict=False):
    rows = summary['attacks'][attack]
    values = np.array(
      [[rows[s][t]['transfer']['value'] for t in names] for s in names]
      + [[rows[names[0]][t]['noise']['value'] for t in names]],
      float,
    )
    ax.imshow(values, cmap='Greys', vmin=0, vmax=1)
    for (i, j), value in np.ndenumerate(values):
      shown = '-' if np.isnan(value) else f'{value:.2f}'.lstrip('0')
      ax.text(
        j,
        i,
        shown,
        ha='center',
        va='center',
        fontsize=6,
        color='white' if value > 0.55 else 'black',
      )
    ax.axhline(len(names) - 0.5, color='0.3', linewidth=0.8)
    ax.set_title(attack, fontsize=9)
    ax.set_xticks(range(len(names)), names, rotation=60, fontsize=6, ha='right')
    ax.set_yticks(
      range(len(names) + 1), [*names, f'noise of {names[0]}'], fontsize=6
    )
  for ax in axes[:, 0]:
    ax.set_ylabel('source')
  figure.suptitle(
    f'{summary["dataset"]}: share of examples that fool the target, of those '
    'that fool the source',
    fontsize=10,
  )
  return figure


def _along(summary):
  """Alignment and accuracy along training, and unfinished sources."""
  figure, axes = canvas.grid(1, 2, width=4.4)
  rows = summary['alignment']['rows']
  left, right = axes[0]
  for number, (name, label) in enumerate(
    (('accuracy', 'accuracy, test'), ('cosine', 'cosine of directions'))
  ):
    canvas.band(
      left, [r['step'] for r in rows], [r[name] for r in rows], number, label
    )
  chance = summary['alignment']['chance']
  left.axhline(chance, color='0.5', linewidth=0.8, label='chance')
  left.set(ylim=(-0.1, 1.03), ylabel='share; cosine')
  left.set_title('two networks of other seeds', fontsize=9)
  rows = summary['unfinished']['rows']
  for number, name in enumerate(('transfer', 'noise')):
    canvas.band(
      right, [r['step'] for r in rows], [r[name] for r in rows], number, name
    )
  right.set(ylim=(-0.05, 1.03), ylabel='share that fools')
  right.set_title(
    f'{summary["unfinished"]["attack"]} of unfinished sources on finished ones',
    fontsize=9,
  )
  for ax in axes[0]:
    ax.set_xlabel('training step of the source')
    ax.set_xscale('symlog', linthresh=1)
    ax.set_xlim(left=-0.1)
    ax.legend(fontsize=8)
  figure.suptitle(f'{summary["dataset"]}; bands 95 %', fontsize=10)
  return figure


def _parts(summary):
  """What networks on parts of the data have in common."""
  figure, axes = canvas.grid(1, 1, width=5.2, height=3.6)
  ax, rows = axes[0, 0], summary['parts']
  places = [row['samples'] for row in rows]
  for number, (name, label) in enumerate(
    (
      ('concordance', 'concordance of t*'),
      ('cosine', 'cosine of directions'),
      ('transfer', 'transfer, matched success'),
      ('noise', 'noise of the same size'),
      ('accuracy', 'accuracy, test'),
    )
  ):
    canvas.band(ax, places, [row[name] for row in rows], number, label)
  ax.set(
    xscale='log',
    ylim=(-0.05, 1.03),
    xlabel='samples of each of two parts that share none',
    ylabel='share; correlation',
  )
  ax.set_xticks(places, [str(p) for p in places])
  ax.minorticks_off()
  canvas.legend(figure, ax, ncols=2)
  figure.suptitle(
    f'{summary["dataset"]}: networks on parts of the data; bands 95 %',
    fontsize=10,
  )
  return figure
