"""Figures of `experiments.som_codes`."""

import numpy as np

from dmm_jax import records
from dmm_jax import statistics
from dmm_jax.plots import canvas

RIGHT, UNTRAINED = 'right', 'untrained'
CURVES = {
  (RIGHT, 'mean'): canvas.STYLES[0],
  (UNTRAINED, 'mean'): canvas.STYLES[1],
  (RIGHT, 'max'): canvas.STYLES[2],
  (UNTRAINED, 'max'): canvas.STYLES[3],
}
MEASURES = {
  'cosine': 'cosine distance of units',
  'unseen': 'dispersion of classes',
  'nmi': 'NMI of units and classes',
}


def draw(report, tables):
  """Draws dimensions by layer, measures of maps, and maps of one network."""
  results, maps = tables['results'], tables['maps']
  found = {
    'telescope': telescope(report, results),
    'maps_by_layer': measures(results),
  }
  for pooling in dict.fromkeys(maps['pooling'].tolist()):
    found[f'maps_{pooling}'] = pictures(maps, pooling)
  return found


def layer_axis(ax, names):
  """Names layers, at most twelve of them."""
  step = -(-len(names) // 12)
  ax.set_xticks(
    np.arange(len(names))[::step], names[::step], rotation=60, fontsize=8
  )


def columns_of(results, model, labels, pooling, column):
  """Returns names of the layers and a column `[networks, layers]`."""
  of = dict(model=model, labels=labels, pooling=pooling)
  found = records.by_unit(records.select(results, **of))
  return found['layer'][0].tolist(), found[column]


def by_layer(ax, values, look, label, first):
  """Draws means over networks with their 95 % intervals."""
  found = [statistics.t_mean(v, unit='networks') for v in values.T]
  canvas.band(ax, np.arange(len(found)) + first, found, look, label)


def models_of(results):
  return [m for m in dict.fromkeys(results['model'].tolist()) if m]


def telescope(report, results):
  """k90 with its ceiling above, k90 over the ceiling below."""
  models = models_of(results)
  figure, axes = canvas.grid(2, len(models), width=3.9, height=3.1)
  given = records.select(results, layer='input')
  for (top, bottom), model in zip(axes.T, models, strict=True):
    for (labels, pooling), look in CURVES.items():
      of = results, model, labels, pooling
      names, k90 = columns_of(*of, 'k90')
      _, ceiling = columns_of(*of, 'ceiling')
      start = np.full((len(k90), 1), given['k90'][0])
      text = f'{pooling}, {"trained" if labels == RIGHT else UNTRAINED}'
      by_layer(top, np.hstack([start, k90]), look, text, 0)
      by_layer(bottom, k90 / np.maximum(ceiling, 1), look, text, 1)
    most = np.hstack([given['ceiling'], ceiling.max(0)])
    top.plot(
      range(len(most)), most, color='0.4', linestyle=(0, (1, 1)),
      drawstyle='steps-mid', label='ceiling',
    )  # fmt: skip
    bottom.axhline(
      given['k90'][0] / given['ceiling'][0], color='0.4', linewidth=0.8
    )
    top.set(title=model)
    top.set_yscale('log')
    low, high = top.get_ylim()
    if high < 100 * low:
      canvas.log_values(top)
    bottom.set_ylim(0, 1)
    for ax in (top, bottom):
      layer_axis(ax, ['input', *names])
      ax.set_xlim(-0.3, len(names) + 0.3)
  axes[0, 0].set_ylabel('effective dimension k90')
  axes[1, 0].set_ylabel('k90 over its ceiling')
  canvas.legend(figure, axes[0, 0], ncols=5)
  caption = (
    f'{report.answer} Above, principal components of 90 % of the variance of '
    "each layer's codes, under their ceiling, set by channels and images; "
    'below, in relation to it, beside that of the input (grey line). Codes '
    'are the mean or the maximum of each channel over the pixels. Bands: 95 % '
    'over networks.'
  )
  return figure, caption


def measures(results):
  """Diversity and classes on maps, trained beside untrained."""
  models = models_of(results)
  figure, axes = canvas.grid(len(models), len(MEASURES), width=3.6, height=2.9)
  for line, model in zip(axes, models, strict=True):
    for ax, (column, label) in zip(line, MEASURES.items(), strict=True):
      for (labels, pooling), look in CURVES.items():
        names, values = columns_of(results, model, labels, pooling, column)
        text = f'{pooling}, {"trained" if labels == RIGHT else UNTRAINED}'
        by_layer(ax, values, look, text, 0)
      layer_axis(ax, names)
      ax.set(ylim=(0, 1.05), ylabel=label)
    line[1].set_title(model)
  canvas.legend(figure, axes[0, 0], ncols=4)
  caption = (
    'Maps of the layers, trained networks beside the same before training. '
    'Left, how far units point apart (0: all codes are alike); middle, how far '
    'test images of a class lie apart on the map, over how far all do (1: they '
    'do not gather); right, what units know of the classes. Bands: 95 % over '
    'networks.'
  )
  return figure, caption


def pictures(maps, pooling):
  """U-matrix, hits and classes of a network's layers, on shared scales."""
  first = maps['model'][0]
  rows = records.select(maps, model=first, pooling=pooling)
  chosen = np.unique(
    np.linspace(0, len(rows['layer']) - 1, 6).round().astype(int)
  )
  figure, axes = canvas.grid(3, len(chosen), width=2.1, height=2.1)
  num_classes = int(rows['class'].max()) + 1
  looks = {
    'u_matrix': ('distance from neighbours', dict(cmap='Greys', vmin=0)),
    'hits': ('images of a unit', dict(cmap='Greys', vmin=0)),
    'class': (
      'commonest class',
      dict(cmap='tab10', vmin=-0.5, vmax=max(9.5, num_classes - 0.5)),
    ),
  }
  for line, (column, (label, look)) in zip(axes, looks.items(), strict=True):
    values = rows[column][chosen].astype(float)
    if column == 'class':
      values[values < 0] = np.nan
    else:
      look = look | dict(vmax=np.percentile(values, 99))
    for ax, value in zip(line, values, strict=True):
      picture = ax.imshow(value, **look)
      ax.set(xticks=[], yticks=[])
      if column == 'class':
        for (i, j), number in np.ndenumerate(value):
          if np.isfinite(number):
            ax.text(j, i, f'{number:.0f}', ha='center', va='center', fontsize=5)
    line[0].set_ylabel(label, fontsize=9)
    if column != 'class':
      figure.colorbar(picture, ax=list(line), shrink=0.8)
  for ax, layer in zip(axes[0], rows['layer'][chosen], strict=True):
    ax.set_title(str(layer), fontsize=9)
  caption = (
    f'Maps of the layers of one {first} network, {pooling} over pixels. Each '
    'row has one scale for all layers: distance of a unit from its neighbours '
    'in units of the size of the codes; training images of a unit; their '
    'commonest class (empty units are white).'
  )
  return figure, caption
