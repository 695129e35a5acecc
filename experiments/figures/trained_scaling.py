"""Figures of `experiments.trained_scaling`."""

import numpy as np

from dmm_jax import statistics
from dmm_jax.plots import canvas
from experiments.lib import tables as tables_lib

# Label, whether trained, content, inputs.
SERIES = (
  ('trained, images', True, 'images', 'images'),
  ('trained, blown up images', True, 'blown up', 'images'),
  ('trained, noise', True, 'images', 'noise'),
  ('untrained, noise', False, 'images', 'noise'),
  ('untrained, images', False, 'images', 'images'),
)
PLACES = ('images', 'blown up images', 'noise')


def draw(report, tables):
  """Draws distances against dimension, and constants."""
  rows = tables_lib.to_dicts(report.tables[0])
  return {
    'distances': distances(report, tables['results'], rows),
    'constants': constants_figure(rows),
  }


def medians(rows, trained, content, inputs):
  """Medians of d_p / ||x||_p over networks' inputs, by n, with intervals."""
  keep = (rows['trained'] == trained) & (rows['inputs'] == inputs)
  found = []
  for n in np.unique(rows['n']):
    at = keep & (rows['n'] == n)
    own = at & (rows['content'] == content)
    at = own if own.any() else at  # Contents are one at the smallest size.
    relative = rows['distance'][at] / rows['input_norm'][at]
    num = rows['network'][at].max() + 1
    with np.errstate(divide='ignore'):
      log = statistics.estimate(
        lambda v: np.log(statistics.sample_median(v)),
        relative.reshape(num, -1),
        unit='networks',
      )
    value, low, high = np.exp(log[:3]).tolist()
    found.append(log._replace(value=value, low=low, high=high))
  return found


def distances(report, results, slopes):
  """Relative distances against n; a panel for each network and norm."""
  names = list(dict.fromkeys(row['network'] for row in slopes))
  norms = list(dict.fromkeys(row['p'] for row in slopes))
  figure, axes = canvas.grid(len(names), len(norms), width=3.1, height=3.3)
  for i, name in enumerate(names):
    for ax, norm in zip(axes[i], norms, strict=True):
      keep = (results['model'] == name) & (results['norm'] == norm)
      rows = {k: v[keep] for k, v in results.items()}
      n = np.unique(rows['n']).astype(float)
      for look, (label, *series) in zip(canvas.STYLES, SERIES, strict=True):
        found = medians(rows, *series)
        canvas.estimates(ax, n, found, look, label, line=True)
      laws = {(row['network'], row['p']): row['law'] for row in slopes}
      law = laws[name, norm]
      # Through the untrained networks' first point at images, the last drawn.
      line = found[0].value * (n / n[0]) ** law
      ax.plot(n, line, color='0.6', lw=3, alpha=0.5, zorder=0,
              label='slope of the law')  # fmt: skip
      ax.set_title(f'{name}, {canvas.norm(norm)}', fontsize=10)
      canvas.log_values(ax)
      canvas.log_n(ax, n.astype(int))
      ax.set_xlabel('numbers of an input, n')
    axes[i][0].set_ylabel(r'median of $d_p\,/\,\|x\|_p$')
  canvas.legend(figure, axes[0][0], ncols=3)
  caption = (
    f'{report.answer} Median distance over the norm of the input, against the '
    'dimension, with 95 % intervals over networks. The grey line has the slope '
    "of the random networks' law, through the untrained networks' first point: "
    'a curve that falls less steeply keeps the lower bound.'
  )
  return figure, caption


def constants_figure(rows):
  """Trained over untrained medians, by network, norm and inputs."""
  names = list(dict.fromkeys(row['network'] for row in rows))
  norms = list(dict.fromkeys(row['p'] for row in rows))
  cases = [(name, norm) for name in names for norm in norms]
  figure, ((ax,),) = canvas.grid(
    1, 1, width=5.6, height=1.6 + 0.45 * len(cases)
  )
  for number, (place, look) in enumerate(
    zip(PLACES, canvas.STYLES, strict=False)
  ):
    found = [row['constant'] for row in rows if row['at'] == place]
    places = np.arange(len(cases)) + 0.2 * (number - 1)
    canvas.estimates(ax, places, found, look, place, across=True)
  ax.axvline(1, color='black', lw=1, label='as before training')
  ax.axvline(0.8, color='black', lw=1, ls=':',
             label='least that keeps the lower bound')  # fmt: skip
  ax.set_yticks(
    range(len(cases)), [f'{name}, {canvas.norm(norm)}' for name, norm in cases]
  )
  ax.set_ylim(len(cases) - 0.5, -0.5)
  canvas.log_values(ax, 'x')
  ax.set_xlabel('median distance of trained over untrained networks')
  canvas.legend(figure, ax, ncols=3)
  below = sum(row['constant'].high < 0.8 for row in rows)
  caption = (
    'Median distances of trained networks over those of the same networks '
    'before training, geometric means over sizes, with 95 % intervals over '
    f'networks. {below} of {len(rows)} lie wholly below 0.8.'
  )
  return figure, caption
