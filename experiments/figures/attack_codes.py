"""Figures of `experiments.attack_codes`."""

import numpy as np

from dmm_jax import records
from dmm_jax import statistics
from dmm_jax.plots import canvas

PLAIN = 'plain'
KINDS = {'ascent': canvas.STYLES[0], 'nearest point': canvas.STYLES[1]}
NOISE = {'ascent': canvas.STYLES[2], 'nearest point': canvas.STYLES[3]}


def draw(report, tables):
  """Draws shifts and crowding by layer, ways on maps, and units' inputs."""
  found = {'attacks': attacks(report, tables['results'])}
  found['crowding'] = crowding(tables['results'])
  if tables['trajectories']['before'].shape[1]:
    found['trajectories'] = trajectories(tables['trajectories'])
  found['features'] = features(tables['features'])
  return found


def columns_of(results, kind, column):
  """Returns names of the layers and a column `[networks, layers]`."""
  rows = records.select(results, training=PLAIN, kind=kind)
  found = records.by_unit(rows)
  return found['layer'][0], found[column]


def by_layer(ax, names, values, look, label, transform=lambda v: v):
  """Draws means over networks with their 95 % intervals."""
  found = [
    statistics.t_mean(v[np.isfinite(v)], unit='networks') for v in values.T
  ]
  places = np.arange(len(names))
  canvas.band(ax, places, [transform(v[:3]) for v in found], look, label)
  ax.set_xticks(places, names, rotation=45)


def attacks(report, results):
  """Shifts over noise, units of the wrong class, and detection."""
  figure, ((shift, hit, tell),) = canvas.grid(1, 3, width=3.7, height=3.3)
  for kind, look in KINDS.items():
    names, moved = columns_of(results, kind, 'shift')
    noise = columns_of(results, kind, 'noise_shift')[1]
    with np.errstate(divide='ignore', invalid='ignore'):
      by_layer(shift, names, np.log(moved / noise), look, kind, np.exp)
    for ax, column in ((hit, 'hit'), (tell, 'auroc')):
      for prefix, style, text in (
        ('', look, kind),
        ('noise_', NOISE[kind], f'{kind}: noise'),
      ):
        values = columns_of(results, kind, prefix + column)[1]
        by_layer(ax, names, values, style, text)
  shift.set_yscale('log')
  low, high = shift.get_ylim()
  if high < 100 * low:
    canvas.log_values(shift)
  shift.axhline(1, color='0.5', linewidth=0.8)
  shift.set_ylabel('shift on the map, over that of noise')
  hit.set(ylabel='share on units of the wrong class', ylim=(-0.02, 1.02))
  tell.axhline(0.5, color='0.5', linewidth=0.8)
  tell.set(ylabel='AUROC of doubt by units', ylim=(0, 1.02))
  canvas.legend(figure, hit, ncols=4)
  caption = (
    f'{report.answer} Left, how far attacks move images on the map of each '
    'layer, over noise of the same size (line: no farther). Middle, the share '
    'of fooled images that lie on units of the class they are taken for. '
    'Right, how well a unit tells these images from clean ones, by how few of '
    'its images have the class that is predicted (AUROC, the area under the '
    'curve of hits against false alarms: 1 for always, the line at 1/2 for not '
    'at all). Bands: 95 % over networks.'
  )
  return figure, caption


def crowding(results):
  """Correlation of separation and distance, trained beside untrained."""
  figure, ((ax,),) = canvas.grid(1, 1, width=4.6, height=3.4)
  for column, look, label in (
    ('crowding', canvas.STYLES[0], 'trained layer'),
    ('crowding_start', canvas.STYLES[1], 'the layer before training'),
  ):
    by_layer(ax, *columns_of(results, 'ascent', column), look, label)
  ax.axhline(0, color='0.5', linewidth=0.8)
  ax.set_ylabel('partial rank correlation')
  canvas.legend(figure, ax, ncols=2)
  caption = (
    "Whether images whose codes are far from other classes' units lie far "
    'from the decision boundary: partial rank correlation over the images of a '
    'network, given the margin of its logits. Bands: 95 % over networks.'
  )
  return figure, caption


def trajectories(rows):
  """Where ascent leads images, layer by layer, on one scale of classes."""
  figure, axes = canvas.grid(1, len(rows['layer']), width=2.6, height=2.8)
  side = rows['class'].shape[1]
  most = max(9.5, rows['class'].max() + 0.5)
  for ax, place in zip(axes[0], range(len(rows['layer'])), strict=True):
    classes = rows['class'][place].astype(float)
    classes[classes < 0] = np.nan
    picture = ax.imshow(classes, cmap='tab10', vmin=-0.5, vmax=most, alpha=0.4)
    ends = [np.divmod(rows[name][place], side) for name in ('before', 'after')]
    for number, ((y, x), (to_y, to_x)) in enumerate(
      zip(zip(*ends[0], strict=True), zip(*ends[1], strict=True), strict=True)
    ):
      look = dict(arrowstyle='->', color='0.15', linewidth=0.9)
      ax.annotate('', (to_x, to_y), (x, y), arrowprops=look)
      for at, column, weight in (
        ((x, y), 'class_before', 'normal'),
        ((to_x, to_y), 'class_after', 'bold'),
      ):
        ax.text(
          *at, str(rows[column][place, number]), fontsize=8, weight=weight,
          ha='center', va='center',
        )  # fmt: skip
    ax.set(xticks=[], yticks=[], title=str(rows['layer'][place]))
  figure.colorbar(
    picture, ax=list(axes[0]), shrink=0.8, label='commonest class',
    ticks=range(int(most + 0.5)),
  )  # fmt: skip
  caption = (
    f'The ways of {rows["before"].shape[1]} images of one network on the map '
    'of each layer, under ascent: from their units, with their class, to those '
    'after the attack, with the class that they are taken for (bold). Colours: '
    'the commonest class of a unit, on one scale.'
  )
  return figure, caption


def features(table):
  """Mean, nearest and synthesized inputs of units, of the first network."""
  table = records.select(table, network=0)
  layers = list(dict.fromkeys(table['layer'].tolist()))
  kinds = ('mean', 'nearest', 'synthesized')
  num = len(table['layer']) // len(layers)
  figure, axes = canvas.grid(3 * len(layers), num, width=0.95, height=0.95)
  for ax in axes.ravel():
    ax.set(xticks=[], yticks=[])
  for i, layer in enumerate(layers):
    rows = records.select(table, layer=layer)
    for j, kind in enumerate(kinds):
      line = axes[3 * i + j]
      for ax, pixels in zip(line, rows[kind], strict=True):
        canvas.image(ax, pixels)
      line[0].set_ylabel(
        f'{layer}\n{kind}', fontsize=8, rotation=0, ha='right', va='center'
      )
    for ax, aimed in zip(axes[3 * i + 2], rows['aimed'], strict=True):
      for spine in ax.spines.values():
        spine.set(linewidth=2.5 if aimed else 0.8)
  caption = (
    'Inputs of the units with most images, in the first and the last hidden '
    'layer of one network: the mean of their images, the image nearest to the '
    'unit, and one synthesized for it, in a thick frame where it does lie on '
    'that unit.'
  )
  return figure, caption
