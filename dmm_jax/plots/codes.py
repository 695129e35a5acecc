"""Figures of `experiments.som_codes`."""

import pathlib

import numpy as np

from dmm_jax import records
from dmm_jax.plots import canvas

_CURVES = {
  'k90': 'components of 90 % of the variance',
  'diversity_units': 'cosine distance of units',
  'nmi': 'NMI of units and labels',
  'dispersion_train_train': 'dispersion of classes',
}
_NULL = dict(color='0.4', linestyle=':', linewidth=1)


def som_codes(run_dir: pathlib.Path) -> list[pathlib.Path]:
  """Draws a run's figures from its files; returns the paths."""
  run_dir = pathlib.Path(run_dir)
  summary = records.read_json(run_dir / 'summary.json')
  folder = run_dir / 'figures'
  paths = [
    canvas.save(_telescope(summary), folder / 'telescope'),
    canvas.save(_shifts(summary), folder / 'shifts'),
  ]
  for pooling in summary['layers']:
    layers = [
      {k: v[0] for k, v in records.load_columns(path).items()}
      for path in sorted((run_dir / 'maps').glob(f'{pooling}-*.npz'))
    ]
    paths += [
      canvas.save(_maps(summary, pooling, layers), folder / f'maps_{pooling}'),
      canvas.save(
        _trajectories(summary, pooling, layers),
        folder / f'trajectories_{pooling}',
      ),
    ]
  features = sorted((run_dir / 'features').glob('*.npz'))
  paths.append(canvas.save(_features(features), folder / 'features'))
  return paths


def _telescope(summary):
  """Measures by layer, trained networks beside their controls."""
  poolings = list(summary['layers'])
  figure, axes = canvas.grid(len(poolings), len(_CURVES), 3.7, 2.9)
  for row, pooling in zip(axes, poolings, strict=True):
    groups = summary['layers'][pooling]
    first, trained = _trained(groups)
    names = [layer['layer'] for layer in trained]
    # Other architectures have layers of their own.
    shown = {first: trained} | {
      name: rows
      for name, rows in groups.items()
      if [r['layer'] for r in rows] == names and ' step ' not in name
    }
    for ax, (measure, label) in zip(row, _CURVES.items(), strict=True):
      for number, (name, rows) in enumerate(shown.items()):
        canvas.band(
          ax, range(len(names)), [r[measure] for r in rows], number, name
        )
      _name_layers(ax, names)
      ax.set_ylabel(label, fontsize=8)
      if measure in ('k90', 'diversity_units'):
        ax.set_yscale('log')
        low, high = ax.get_ylim()
        if high < 100 * low:
          canvas.log_values(ax)
      else:
        ax.set_ylim(0, 1.1)
    row[0].set_title(f'{pooling} over pixels', fontsize=9)
  canvas.legend(figure, axes[0, 0], ncols=5)
  figure.suptitle(
    f'{summary["dataset"]}: layers of {first} networks beside '
    'controls; bands 95 % over networks',
    fontsize=10,
  )
  return figure


def _shifts(summary):
  """What attacks do on the maps, beside noise; detection; the link."""
  groups = next(iter(summary['layers'].values()))
  name, rows = _trained(groups)
  names = [layer['layer'] for layer in rows]
  places = range(len(names))
  figure, axes = canvas.grid(1, 4, 3.7, 3.4)
  shift, adopted, detect, link = axes[0]
  for number, attack in enumerate(summary['attacks']):
    of = lambda kind, n=number: [row[kind][n] for row in rows]
    canvas.band(shift, places, of('ratio'), number, attack)
    canvas.band(adopted, places, of('adopted'), number, attack)
    canvas.band(detect, places, of('auroc'), number, attack)
    for ax, kind in ((adopted, 'adopted_noise'), (detect, 'auroc_noise')):
      ax.plot(places, [entry['value'] for entry in of(kind)], **_NULL)
  shift.axhline(1, color='0.5', linewidth=0.8)
  shift.set_yscale('log')
  shift.set_ylabel('shift on the map over that of noise')
  adopted.set_ylabel('share on a unit of the adversarial class')
  detect.set_ylabel("AUROC of a unit's doubt of the class")
  detect.axhline(0.5, color='0.5', linewidth=0.8)
  for number, (kind, label) in enumerate(
    ((name, 'trained'), (f'{name} untrained', 'untrained layer'))
  ):
    canvas.band(
      link,
      places,
      [row['link_unit_room'] for row in groups[kind]],
      number,
      label,
    )
  link.axhline(0, color='0.5', linewidth=0.8)
  link.set_ylabel('correlation of room and distance')
  adopted.set_ylim(-0.05, 1.05)
  detect.set_ylim(0, 1.05)
  link.legend(fontsize=7)
  for ax in axes[0]:
    _name_layers(ax, names)
    ax.yaxis.label.set_fontsize(8)
  canvas.legend(figure, shift, ncols=len(summary['attacks']))
  figure.suptitle(
    f'{summary["dataset"]}: {name} networks under attack; bands 95 %, dotted '
    'the same images under noise of the same size',
    fontsize=10,
  )
  return figure


def _name_layers(ax, names):
  few = len(names) <= 8
  ax.set_xticks(
    range(len(names)),
    names,
    rotation=45 if few else 90,
    fontsize=7 if few else 5,
  )


def _trained(groups):
  """The first group of finished networks on all labels."""
  for name, rows in groups.items():
    if ' ' not in name:
      return name, rows
  raise ValueError('no trained network')


def _maps(summary, pooling, layers):
  """U-matrix, hits and commonest class of each layer's map."""
  figure, axes = canvas.grid(3, len(layers), 2.1, 2.2)
  for number, layer in enumerate(layers):
    counts = layer['counts']
    hits = counts.sum(-1)
    labels = np.where(hits > 0, counts.argmax(-1), np.nan)
    shown = (
      (layer['u_matrix'], dict(cmap='Greys')),
      (hits, dict(cmap='Greys', vmin=0)),
      (labels, dict(cmap='tab10', vmin=-0.5, vmax=9.5)),
    )
    for ax, (values, look) in zip(axes[:, number], shown, strict=True):
      ax.imshow(values, **look)
      ax.set(xticks=[], yticks=[])
    for (i, j), value in np.ndenumerate(labels):
      if np.isfinite(value):
        axes[2, number].text(
          j, i, f'{value:.0f}', ha='center', va='center', fontsize=5
        )
    axes[0, number].set_title(str(layer['layer']), fontsize=9)
  for ax, text in zip(
    axes[:, 0],
    ('distance from neighbours', 'codes of a unit', 'commonest class'),
    strict=True,
  ):
    ax.set_ylabel(text, fontsize=8)
  figure.suptitle(
    f'{summary["dataset"]}: maps of the layers of one network, {pooling} over '
    'pixels; dark is more',
    fontsize=10,
  )
  return figure


def _trajectories(summary, pooling, layers):
  """Where images lie on each layer's map before and after an attack."""
  attack = len(summary['attacks']) - 2
  figure, axes = canvas.grid(1, len(layers), 2.4, 2.7)
  first = layers[0]
  fooled = np.flatnonzero(first['said_moved'][attack] != first['said'])[:12]
  for ax, layer in zip(axes[0], layers, strict=True):
    counts = layer['counts']
    labels = np.where(counts.sum(-1) > 0, counts.argmax(-1), np.nan)
    ax.imshow(labels, cmap='tab10', vmin=-0.5, vmax=9.5, alpha=0.35)
    for image in fooled:
      (y, x), (to_y, to_x) = (
        layer['start'][image],
        layer['moved'][attack][image],
      )
      ax.annotate(
        '',
        (to_x, to_y),
        (x, y),
        arrowprops=dict(arrowstyle='->', color='0.2', linewidth=0.8),
      )
      ax.text(x, y, f'{layer["said"][image]}', fontsize=6, ha='center')
      ax.text(
        to_x,
        to_y,
        f'{layer["said_moved"][attack][image]}',
        fontsize=7,
        ha='center',
        weight='bold',
      )
    ax.set(xticks=[], yticks=[])
    ax.set_title(str(layer['layer']), fontsize=9)
  figure.suptitle(
    f'{summary["dataset"]}: units of {len(fooled)} images before (class) and '
    f'after (class, bold) {summary["attacks"][attack]}; colours: commonest '
    'class of a unit',
    fontsize=10,
  )
  return figure


def _features(paths):
  """Mean, nearest and synthesized inputs of the units with most codes."""
  tables = [(path.stem, records.load_columns(path)) for path in paths]
  kinds = ('mean', 'nearest', 'synthesized')
  most = max(len(table['unit']) for _, table in tables)
  figure, axes = canvas.grid(len(kinds) * len(tables), most, 0.8, 0.85)
  for ax in axes.ravel():
    ax.set(xticks=[], yticks=[], frame_on=False)
  for number, (name, table) in enumerate(tables):
    for row, kind in enumerate(kinds):
      line = axes[len(kinds) * number + row]
      for ax, pixels in zip(line, table[kind], strict=False):
        canvas.image(ax, pixels)
      line[0].set_ylabel(
        f'{name}\n{kind}', fontsize=6, rotation=0, ha='right', va='center'
      )
    last = axes[len(kinds) * number + 2]
    for ax, again in zip(last, table['reencoded'], strict=False):
      ax.set_xlabel('its unit' if again else 'another', fontsize=5)
  figure.suptitle(
    'inputs of the units with most codes: their mean, the nearest, and one '
    'synthesized for the unit (whose own unit is that one, or another)',
    fontsize=9,
  )
  return figure
