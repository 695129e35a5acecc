"""Figures of `experiments.trained_vs_random`."""

import numpy as np

from dmm_jax.plots import canvas
from experiments.lib import tables as tables_lib

TYPES = {
  'train': 'training images',
  'test': 'test images',
  'random': 'random images',
}
STATES = ('untrained', 'trained')
SHORT = {'fully_connected': 'dense', 'convolutional': 'conv'}


def draw(report, tables):
  """Draws medians before and after training, and sorted distances."""
  medians, ratios, _ = map(tables_lib.to_dicts, report.tables)
  return {
    'training': training(report, medians),
    'sorted': sorted_distances(tables['results'], ratios),
  }


def training(report, rows):
  """Median distances: a panel a norm, a line a network and state."""
  names = list(dict.fromkeys(row['network'] for row in rows))
  norms = list(dict.fromkeys(row['p'] for row in rows))
  lines = [(name, state) for name in names for state in STATES]
  height = 1.5 + 0.55 * len(lines)
  figure, axes = canvas.grid(1, len(norms), width=3.3, height=height)
  for norm, ax in zip(norms, axes[0], strict=True):
    for number, (kind, look) in enumerate(
      zip(TYPES, canvas.STYLES, strict=False)
    ):
      of = {
        row['network']: row
        for row in rows
        if (row['p'], row['at']) == (norm, kind)
      }
      found = [of[name][state] for name, state in lines]
      places = np.arange(len(lines)) + 0.22 * (number - 1)
      canvas.estimates(ax, places, found, look, TYPES[kind], across=True)
    for place in range(2, len(lines), 2):
      ax.axhline(place - 0.5, color='0.8', lw=0.8)
    ax.set(title=canvas.norm(norm), xlabel='median distance (pixel values)')
    ax.set(ylim=(len(lines) - 0.5, -0.5), yticks=range(len(lines)))
    ax.set_yticklabels([])
    canvas.log_values(ax, 'x')
    ax.tick_params(axis='x', labelsize=8, labelrotation=45)
  axes[0][0].set_yticklabels([f'{name},\n{state}' for name, state in lines])
  canvas.legend(figure, axes[0][0], ncols=3)
  caption = (
    f'{report.answer} Median distances from the boundary at images of the '
    'training set, of the test set and of random pixels, before and after '
    'training, with 95 % intervals over networks. The lower bound survives '
    'where no mark moves left.'
  )
  return figure, caption


def sorted_distances(results, ratios):
  """Sorted distances against their share, in the paper's norm."""
  norms = np.unique(results['norm'])
  norm = 1.0 if 1.0 in norms else float(norms[0])
  names = list(dict.fromkeys(results['architecture'].tolist()))
  figure, axes = canvas.grid(len(names), len(TYPES), width=3.0, height=2.8)
  for name, line in zip(names, axes, strict=True):
    for kind, ax in zip(TYPES, line, strict=True):
      keep = (results['architecture'] == name) & (results['type'] == kind)
      keep &= results['norm'] == np.float32(norm)
      top = 0.0
      for state, look in zip(STATES, (1, 0), strict=True):
        trained = results['trained'] == (state == 'trained')
        far = np.sort(results['distance'][keep & trained])
        share = (np.arange(len(far)) + 0.5) / len(far)
        shown = np.isfinite(far)
        style = canvas.STYLES[look]
        ax.plot(share[shown], far[shown], color=style['color'],
                linestyle=style['linestyle'], lw=1.6, label=state)  # fmt: skip
        first = max(2, int(0.25 * len(far)))
        slope = far[:first] @ share[:first] / (share[:first] @ share[:first])
        ends = np.array([0, 0.5])
        if np.isfinite(slope):
          ax.plot(ends, slope * ends, color=style['color'], lw=0.8, ls=':',
                  label=f'line through its first quarter, {state}')  # fmt: skip
        top = max(top, np.quantile(far[shown], 0.95) if shown.any() else 0.0)
      (row,) = [
        row
        for row in ratios
        if (row['network'], row['p'], row['at'])
        == (SHORT.get(name, name), norm, kind)
      ]
      title = f'{SHORT.get(name, name)}, {TYPES[kind]}\nstart after / before: '
      ax.set_title(f'{title}{tables_lib.cell(row["start"], ".2f")}', fontsize=8)
      ax.set(xlim=(0, 1), ylim=(0, top or 1), xlabel='share of images nearer')
    line[0].set_ylabel(f'{canvas.norm(norm)} distance (pixel values)')
  canvas.legend(figure, axes[0][0], ncols=2)
  caption = (
    f'Sorted l{norm:g} distances of all images of a type against the share of '
    'images that are nearer, before and after training, with lines through 0 '
    'fitted to the first quarter. In random networks they begin straight: the '
    'share of images within r grows linearly in r. A steeper start after '
    'training means that fewer images lie near the boundary.'
  )
  return figure, caption
