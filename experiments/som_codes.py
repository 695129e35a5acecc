"""Do shallow layers condense what they see, and is that where attacks get in?

Lee and Vijayan (arXiv 2205.10952) map layers' codes by self-organising maps:
shallow layers compress inputs into condensed, homogeneous codes, deep ones
expand them again ("functional telescope"), and homogeneous codes may underlie
adversarial vulnerability. Their map's size, how they make a vector of a layer,
and all their numbers are unknown; what follows is our test of the claims.

Each layer of each network becomes vectors (--poolings over pixels), which are
standardized and laid out on maps, one for each of --num_maps seeds. Beside the
trained networks stand untrained ones, networks trained on shuffled labels
("own"), with a part of the labels wrong ("labels25"), adversarially, and of
several steps. Images are attacked by projected gradient within linf balls and
moved to the nearest point of the boundary; beside either stands noise of the
same size.

Claims and rules, fixed here, for each pooling, on 95 % intervals over networks
(Student's, of means over maps; of ratios, of their logarithms):
- telescope: k90 (principal components of 90 % of the variance) falls to less
  than half of the input's at some hidden layer, and rises to more than twice
  that up to the last one.
- telescope is learned: that rise is larger than in untrained networks.
- codes become diverse: the mean cosine distance of codes as they are rises from
  the first to the last hidden layer, by more than in untrained networks.
- classes gather: their dispersion on the map (1 for none) is lower in the last
  than in the first hidden layer, and lower there than in untrained networks.
- units are for predictions: the share of test images whose unit's commonest
  class is the network's is higher in the last than in the first hidden layer.
- attacks grow in deep layers: shift on the map over that of noise, at the
  smallest radius, is larger in the last than in the first hidden layer.
- crowded shallow codes are vulnerable: over correctly classified images, the
  partial rank correlation of minimal distance and the room around the image's
  unit (distance to the nearest unit of another class over the displacement by
  noise; first hidden layer), given the margin of the logits, is above 0, and
  above that with the same layer of the untrained network.
- robust networks have diverse codes: the diversity of the first hidden layer is
  higher in adversarially trained networks than in plain ones; undecided where
  those are not more accurate than untrained ones.
- not the map's doing: k-means and random bits show classes gathering too (NMI
  with labels higher in the last than in the first hidden layer).

Seen on digits (--num_steps=1000, 3 networks each, 3 maps): with the mean over
pixels k90 goes 31, 7, 8, 18, 18 from the input to the last hidden layer: it
falls to less than half (4.69 [3.11, 7.09]) and rises 2.7 times [1.23, 5.97]:
the telescope is undecided by that rule; with the maximum, 31, 21, 35, 33, 23,
it is not supported (1.48 [1.48, 1.48] and 1.09 [0.903, 1.32]). 8 networks
(--num_networks=8 --models=cnn --conditions=plain --num_images=100 --radii=0.05)
decide it: supported by the mean (4.73 [4.13, 5.42] and 2.6 [2.09, 3.22]), not
by the maximum (1.47 [1.43, 1.51] and 1.05 [0.992, 1.11]). It is not learned:
untrained networks go up to 48 [40, 58], and theirs rises more (0.409 [0.357,
0.468] times that, of the 8). Crowded codes stay undecided there (0.241 [0.191,
0.29], above untrained by 0.0259 [-0.0305, 0.0823]). Of the 3 networks: codes
become diverse (0.324 [0.269, 0.38], by 0.297 [0.241, 0.354] more than
untrained) and classes gather (dispersion falls by 0.474 [0.436, 0.513]);
attacks move codes like noise at first and 3.71 [1.76, 7.8] times more in the
last hidden layer. Crowded shallow codes: 0.164 [0.0499, 0.277], above the
untrained layer's by 0.0285 [-0.0422, 0.0993], undecided. Adversarially trained
networks have more diverse first codes by the mean (log ratio 0.658 [0.269,
1.05]), undecided by the maximum (-0.00696 [-0.584, 0.57]). The rest by the
maximum: diversity 0.257 [0.195, 0.319] above untrained, dispersion falls by 0.5
[0.35, 0.65], attacks 3.28 [1.72, 6.28], crowding -0.027 [-0.142, 0.0876].
The default run (600 steps; mean): of the images that a radius of 0.2 fools 0.09
[0.01, 0.16] lie on a unit of the adversarial class at the input, 0.89 [0.86,
0.92] at the logits; of the same images under noise 0.09 [0.09, 0.09] and 0.06
[0.03, 0.08]. Doubt of the class, by the unit, tells them from clean images with
an AUROC of 0.93 [0.89, 0.97] at the input and 0.54 [0.54, 0.55] at the logits,
but noise just so, 0.92 [0.92, 0.93] and 0.55 [0.54, 0.56]: it sees the size of
a change, not the attack. Of nearest boundary points it sees more in the last
hidden layer, 0.87 [0.87, 0.88] beside 0.50 [0.50, 0.50] of noise.
On mnist (--preset=mnist; 3 networks each): the telescope is supported by the
mean (32.4 [15.8, 66.5] and 6.51 [2.71, 15.7]) and undecided by the maximum
(8.26 [7.73, 8.83] and 1.97 [1.9, 2.04]); it is not told apart from that of
untrained networks (0.712 [0.367, 1.38] times; 0.585 [0.509, 0.673] by the
maximum). Diversity rises by 0.394 [0.335, 0.454] more than untrained,
dispersion falls by 0.488 [0.366, 0.609], attacks move codes 5.72 [3.56, 9.18]
times more in the last layer. Crowding 0.124 [-0.0188, 0.266], above untrained
by -0.0467 [-0.248, 0.155]: undecided. First codes of robust networks are less
diverse by the mean (-1.23 [-2.4, -0.0716]), undecided by the maximum (0.151
[-0.349, 0.651]).
On cifar10 (--preset=cifar --learning_rate=0.05; 43 % right) the telescope is
supported by the mean (9.33 [7.27, 12] and 9.43 [7.24, 12.3]) and by the maximum
(6.81 [6.12, 7.57] and 6.98 [6.04, 8.06]), and learned (1.62 [1.29, 2.05] times
untrained; 1.46 [1.18, 1.81]); crowding is supported by the mean (0.196 [0.0889,
0.303], above untrained by 0.177 [0.114, 0.24]) and undecided by the maximum
(0.158 [0.0658, 0.25], 0.0772 [-0.106, 0.261]); attacks 5.07 [0.728, 35.4] times
more in the last layer, undecided; adversarial training learned nothing at that
rate. At the preset's own rate (--models=cnn --conditions=plain,adversarial
--train_radius=0.01; 46 and 45 % right) the telescope is supported again (12.2
[10, 14.7] and 9.71 [7.85, 12]), crowding is not told apart (0.0653 [-0.165,
0.296], -0.07 [-0.174, 0.0344]), nor is the diversity of robust networks (-0.216
[-0.831, 0.399]; -0.0229 [-0.668, 0.622] by the maximum).

  python -m experiments.som_codes
  python -m experiments.som_codes --preset=mnist --data_dir=DIR

A run killed at any moment goes on where it was, to the same bytes.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from dmm_jax import parallel
from dmm_jax import plots
from dmm_jax import programs
from dmm_jax import records
from dmm_jax import som
from dmm_jax import statistics
from dmm_jax.train import adversarial
from experiments import common
from experiments import layer_codes
from experiments import populations
from experiments.lib import flags


@dataclasses.dataclass(frozen=True)
class Config(populations.Config):
  workdir: str = flags.flag('runs/som_codes', 'Run directory.')
  models: tuple[str, ...] = flags.flag(
    ('cnn', 'mlp'),
    'Architectures; the first one is also trained under --conditions.',
    choices=populations.ARCHITECTURES,
  )
  conditions: tuple[str, ...] = flags.flag(
    ('plain', 'own', 'adversarial', 'labels50'),
    'plain; own: random labels; adversarial: within linf --train_radius; '
    'labels25, labels50: that part of the labels wrong, in percent.',
    choices=tuple(populations.CONDITIONS),
  )
  stride: int = flags.flag(
    1, 'Of the first two convolutions of cnn; the last two have 2.', least=1
  )
  num_networks: int = flags.flag(3, 'Of each population.', least=2)
  num_steps: int = flags.flag(600, 'Of training.', least=1)
  train_radius: float = flags.flag(
    0.1, 'Of adversarial training, linf.', least=0
  )
  train_steps: int = flags.flag(3, 'Of its projected gradient.', least=1)
  steps: tuple[int, ...] = flags.flag(
    (20,), 'Snapshots of the first architecture, beside 0 and the last.'
  )
  layers: tuple[str, ...] = flags.flag(
    ('all',), 'Hidden layers by name, of all models, or all.'
  )
  poolings: tuple[str, ...] = flags.flag(
    ('mean', 'max'),
    'Over the pixels of a convolution.',
    choices=('mean', 'max', 'flat'),
  )
  scaling: str = flags.flag(
    'standardized', 'Of codes before a map.', choices=('standardized', 'raw')
  )
  side: int = flags.flag(12, "Units along a map's side.", least=2)
  num_maps: int = flags.flag(3, 'Seeds of each map.', least=1)
  num_epochs: int = flags.flag(40, 'Of the maps.', least=1)
  topology: str = flags.flag(
    'rectangular', 'Of the maps.', choices=som.TOPOLOGIES
  )
  periodic: bool = flags.flag(False, 'Maps on a torus.')
  radii: tuple[float, ...] = flags.flag(
    (0.05, 0.1, 0.2), 'Of linf attacks.', least=0
  )
  attack_steps: int = flags.flag(20, 'Of projected gradient.', least=1)
  max_gradients: int = flags.flag(40, 'Of a search, l2.', least=2)
  num_images: int = flags.flag(
    300, 'Of the test set, attacked; all, if fewer.', least=10
  )


PRESETS = {
  'default': {},
  'quick': dict(
    workdir='runs/som_codes_quick',
    models=('cnn',),
    conditions=('plain', 'adversarial'),
    num_networks=3,
    num_steps=150,
    steps=(10,),
    poolings=('mean',),
    num_train=500,
    num_test=200,
    num_images=60,
    side=8,
    num_maps=2,
    radii=(0.05, 0.2),
  ),
  'mnist': dict(
    workdir='runs/som_codes_mnist',
    dataset='mnist',
    num_steps=1000,
    num_train=5000,
    num_test=2000,
    num_images=200,
    stride=2,
    side=16,
  ),
  'cifar': dict(
    workdir='runs/som_codes_cifar',
    dataset='cifar10',
    num_train=5000,
    num_test=2000,
    num_images=200,
    num_steps=2000,
    learning_rate=0.01,
    stride=2,
    side=16,
    radii=(0.005, 0.01, 0.03),
    train_radius=0.03,
  ),
  'full': dict(
    workdir='runs/som_codes_full',
    dataset='cifar10',
    models=('resnet18', 'vgg16', 'cnn', 'mlp'),
    num_steps=4000,
    num_images=1000,
    side=30,
    radii=(0.005, 0.01, 0.03),
    train_radius=0.03,
    train_steps=7,
  ),
}


def run(config: Config) -> dict:
  """Runs the experiment, and returns what it wrote to summary.json."""
  flags.check(config)
  if 'linear' in config.models:
    raise flags.FlagError('--models=linear has no hidden layers')
  if 'plain' not in config.conditions:
    raise flags.FlagError('--conditions: without plain nothing is compared')
  known = set(populations.pause_steps(config))
  if extra := set(config.steps) - known:
    raise flags.FlagError(
      f'--steps={sorted(extra)}: snapshots are of steps {sorted(known)}'
    )
  sets = populations.load(config)
  return common.conduct(
    config,
    'experiments.som_codes',
    collect=lambda config, run_dir: collect(config, run_dir, sets),
    summarize=summarize,
    draw=plots.som_codes,
    report=report,
  )


# --- Measuring -------------------------------------------------------------


def looked_at(config, found):
  """`(population, number, step)` of all networks that are measured."""
  rows = []
  for population in found:
    last = int(population.steps[-1])
    steps = [last]
    if population.condition == 'plain':
      # The untrained first: what comes later is held against it.
      steps = [0, last]
    if population is found[0]:
      steps = sorted({*steps, *config.steps})
    for number in range(len(population.labels)):
      rows += [(population, number, step) for step in steps]
  return rows


def layers_of(config, population, image) -> dict[str, bool]:
  """Layers from the input to the logits, and whether they have pixels."""
  network = population.network(int(population.steps[-1]), 0)
  _, codes_of = jax.eval_shape(
    lambda x: layer_codes.logits_and_codes(
      x, *network, forward=population.forward
    ),
    image,
  )
  hidden = {name: code.ndim > 1 for name, code in codes_of.items()}
  if config.layers != ('all',):
    hidden = {k: v for k, v in hidden.items() if k in config.layers}
    if not hidden:
      raise flags.FlagError(
        f'--layers={",".join(config.layers)}: {population.model} has '
        f'{", ".join(codes_of)}'
      )
  return {'input': False, **hidden, 'logits': False}


def sizes(config) -> dict:
  """Of the CNN: as pilots had it, all pixels averaged at the end."""
  return dict(
    channels=(32, 64, 64, 128),
    strides=(config.stride, config.stride, 2, 2),
    pools=0,
    widths=(),
    pooled=True,
  )


def collect(config, run_dir, sets):
  """Trains, then looks network by network: results.npz, a row a map."""
  found = populations.build(
    config,
    run_dir,
    sets,
    adversary=adversarial.Adversary(
      config.train_radius, np.inf, config.train_steps
    ),
    attributes={'cnn': sizes(config)},
  )
  todo = looked_at(config, found)
  shown = todo.index((found[0], 0, int(found[0].steps[-1])))
  # The same for all networks, and the largest layer.
  inputs = layer_codes.lay(
    config,
    *(sets[split][0].reshape(len(sets[split][0]), -1) for split in sets),
    sets['train'][1],
    controls=True,
  )

  def compute(done):
    for place in range(done, len(todo)):
      folder = run_dir if place == shown else None
      yield look(config, folder, sets, inputs, *todo[place])

  names = [f'{p.name}-{number}-step{step}' for p, number, step in todo]
  common.gather(run_dir, names, compute, 'network')


def look(config, folder, sets, inputs, population, number, step):
  """Rows of one network: of every pooling, layer and map.

  Args:
    config, sets: flags and data.
    folder: where a network's maps are kept for figures; None for nowhere.
    inputs: maps of the input.
    population, number, step: which network.
  """
  network, forward = population.network(step, number), population.forward
  xs = sets['test'][0][: config.num_images]
  batch = int(np.clip(2**18 // xs[0].size, 32, 512))
  said = populations.classes(population, network, xs, batch_size=batch)
  tried = parallel.map_examples(
    programs.bind(
      layer_codes.attack_image,
      forward=forward,
      steps=config.attack_steps,
      max_gradients=config.max_gradients,
    ),
    (xs, said, np.arange(len(xs))),
    shared=(np.array(config.radii, np.float32), *network),
    batch_size=batch,
  )
  layers = layers_of(config, population, xs[0])
  finished = population.condition == 'plain' and step == population.steps[-1]
  once, tables = {}, []
  for pooling in config.poolings:
    seen = layer_codes.encode(
      forward, network, sets, tried, pooling, list(layers), batch
    )
    facts = layer_codes.facts_of(sets, seen)
    for depth, (layer, pooled) in enumerate(layers.items()):
      if not pooled and layer in once:
        laid, columns = once[layer]
      else:
        laid = inputs
        if layer != 'input':
          raw = seen.train[layer], seen.test[layer]
          laid = layer_codes.lay(
            config, *raw, facts['train'], controls=finished
          )
        columns = layer_codes.describe(laid, seen, layer, facts)
        once[layer] = laid, columns
      if folder:
        show(folder, seen, facts, laid, pooling, depth, layer)
      tables.append(
        about(population, number, step, pooling, depth, layer, config.num_maps)
        | columns
        | of_images(tried, facts, config.num_maps)
      )
    hidden = list(layers)[1:-1]
    for layer in dict.fromkeys((hidden[0], hidden[-1])) if folder else ():
      columns = layer_codes.features(
        once[layer][0], seen, layer, pooling, sets['train'][0], forward, network
      )
      place = folder / 'features' / f'{pooling}-{layer}.npz'
      records.save_columns(place, columns)
  return records.concatenate(tables)


def about(population, number, step, pooling, depth, layer, num):
  """Columns that say what a row is of."""
  text = lambda v: np.full(num, v, 'U40')
  count = lambda v: np.full(num, v, np.int32)
  return {
    'population': text(population.name),
    'network': count(number),
    'step': count(step),
    'pooling': text(pooling),
    'depth': count(depth),
    'layer': text(layer),
    'map': np.arange(num, dtype=np.int32),
  }


def of_images(tried, facts, num):
  """Columns `[num, n]` that are the same for each layer: of the images."""
  said, truth = (facts[k][: len(tried['distance'])] for k in ('said', 'test'))
  right, fooled = said == truth, facts['said_moved'] != said
  one = {
    'distance': np.where(right, tried['distance'], 0.0).astype(np.float32),
    'margin': tried['margin'].astype(np.float32),
    'right': right,
    'test_accuracy': np.mean(facts['said'] == facts['test']),
    'fooled': fooled.mean(1),
  }
  return {name: np.stack([np.asarray(v)] * num) for name, v in one.items()}


def show(folder, seen, facts, laid, pooling, depth, layer):
  """Writes a layer's first map, and where images lie on it, for figures."""
  trained = laid.maps[0]
  at = lambda v: np.asarray(som.best_matching_units(trained, v))
  moved = laid.scale(seen.moved[layer])
  num = moved.shape[1]
  values = {
    'layer': layer,
    'u_matrix': som.u_matrix(trained),
    'counts': som.label_counts(
      trained, laid.train, jnp.asarray(facts['train']), facts['num_classes']
    ),
    'start': at(laid.test[:num]),
    'moved': np.stack([at(v) for v in moved]),
    'said': facts['said'][:num],
    'said_moved': facts['said_moved'],
  }
  records.save_columns(
    folder / 'maps' / f'{pooling}-{depth:02d}.npz',
    {name: np.asarray(value)[None] for name, value in values.items()},
  )


# --- Judging ---------------------------------------------------------------

OF_IMAGES = 'distance margin right fooled test_accuracy'.split()
ONE_EACH = (
  'dimensions k90 participation diversity diversity_standardized '
  'diversity_units nmi_kmeans nmi_bits'
).split()
POSITIVE = 'k90 participation diversity diversity_units'.split()
OF_MAPS = (
  'quantization topographic occupancy entropy purity nmi accuracy agreement '
  'settled wrong_said wrong_true auroc_error dispersion_train_train '
  'dispersion_train_test dispersion_test_train dispersion_test_test'
).split()


def summarize(config, run_dir):
  """Every number with n, interval, null and verdict."""
  table = records.load_columns(run_dir / 'results.npz')
  groups = {
    pooling: gather_groups(config, records.select(table, pooling=pooling))
    for pooling in config.poolings
  }
  first = groups[config.poolings[0]]
  attacks = layer_codes.attack_names(config.radii)
  summary = {
    'question': flags.question(__doc__),
    'dataset': config.dataset,
    'images': int(table['distance'].shape[1]),
    'units': config.side**2,
    'attacks': attacks,
    'networks': {
      name: {
        'n': len(group['test_accuracy']),
        'accuracy': common.entry(
          statistics.t_mean(group['test_accuracy'], unit='networks')
        ),
        'distance': common.entry(
          statistics.t_mean(
            np.median(group['distance'], axis=1), unit='networks'
          )
        ),
        'not_found': common.entry(
          statistics.t_mean(
            np.isinf(group['distance']).mean(1), unit='networks'
          )
        ),
        'fooled': [
          common.entry(statistics.t_mean(v, unit='networks'))
          for v in group['fooled'].T
        ],
      }
      for name, group in first.items()
    },
    'layers': {
      pooling: {
        name: [of_layer(group, place) for place in range(len(group['layers']))]
        for name, group in found.items()
      }
      for pooling, found in groups.items()
    },
    'generalisation': {
      pooling: generalisation(config, found)
      for pooling, found in groups.items()
    },
  }
  summary['verdicts'] = {
    pooling: judge(config, found) for pooling, found in groups.items()
  }
  features = sorted((run_dir / 'features').glob('*.npz'))
  summary['features'] = {
    path.stem: common.entry(
      statistics.proportion(
        records.load_columns(path)['reencoded'], unit='images'
      )
    )
    for path in features
  }
  return summary


def gather_groups(config, table) -> dict:
  """`{kind of network: {name: [networks, layers]}}`, means over maps.

  What is of images and not of layers is `[networks]` or `[networks, images]`.
  """
  groups = {}
  last = table['step'].max()
  kinds = zip(table['population'].tolist(), table['step'].tolist(), strict=True)
  for population, step in dict.fromkeys(kinds):
    part = records.select(table, population=population, step=step)
    many = len(np.unique(part['network']))
    fold = lambda v, m=many: v.reshape(m, -1, config.num_maps, *v.shape[1:])
    name = population if step == last else f'{population} step {step}'
    name = f'{population} untrained' if step == 0 else name
    group = {
      k: fold(v)[:, 0, 0] if k in OF_IMAGES else fold(v.astype(float)).mean(2)
      for k, v in part.items()
      if k not in ('population', 'pooling', 'layer')
    }
    group['layers'] = fold(part['layer'])[0, :, 0].tolist()
    groups[name] = group
  for name, group in groups.items():
    end = groups[name.split(' ')[0]]
    # What an untrained layer says of the trained network's distances.
    target = end if name.endswith('untrained') else group
    for kind in ('unit_room', 'room'):
      group[f'link_{kind}'] = links(group[kind], target)
  return groups


def links(room, target):
  """Partial correlations `[networks, layers]` of distance and room.

  Over images that the network has right; a distance that was not found, or room
  without a unit of another class, is infinite and ranks as that.
  """
  found = np.full(room.shape[:2], np.nan)
  for i, j in np.ndindex(*found.shape):
    columns = target['distance'][i], room[i, j], target['margin'][i]
    keep = target['right'][i] & ~np.isnan(columns).any(axis=0)
    if keep.sum() > 3:
      found[i, j] = statistics.partial_rank(*(v[keep] for v in columns))
  return found


def of_layer(group, place):
  """Entries of one layer, over networks."""
  entry = lambda v: common.entry(
    statistics.t_mean(v[:, place], unit='networks')
  )
  names = [*ONE_EACH, *OF_MAPS, 'link_unit_room', 'link_room']
  found = {'layer': group['layers'][place]}
  found |= {name: entry(group[name]) for name in names}
  # Of what is positive: an interval below 0 says nothing.
  found |= {k: relative(logs(group[k][:, place])) for k in POSITIVE}
  count = group['fooled'].shape[1]
  for kind in (
    'shift',
    'still',
    'changed',
    'adopted',
    'adopted_noise',
    'auroc',
    'auroc_noise',
  ):
    found[kind] = [entry(group[f'{kind}{a}']) for a in range(count)]
  found['ratio'] = [relative(ratio(group, a)[:, place]) for a in range(count)]
  return found


def logs(values):
  """NaN where there is none."""
  return np.log(np.where(values > 0, values, np.nan))


def ratio(group, attack):
  """Logarithms of shifts by an attack over those by noise."""
  return logs(group[f'shift{attack}']) - logs(group[f'still{attack}'])


def relative(values):
  """Of logarithms: their exponential mean, as an entry."""
  found = common.entry(statistics.t_mean(values, unit='networks'))
  return {
    'value': float(np.exp(found['value'])),
    'interval': np.exp(found['interval']).tolist(),
  }


def rise_of(group):
  """Logarithms: input over least k90 of a hidden layer, last one over it."""
  k90 = np.log(np.maximum(group['k90'], 1))
  least = k90[:, 1:-1].min(axis=1)
  return k90[:, 0] - least, k90[:, -2] - least


def generalisation(config, groups):
  """Rank correlations with test accuracy, over networks of one architecture."""
  first = config.models[0]
  rows = []
  for name, group in groups.items():
    if name.split(' ')[0].partition('-')[0] != first:
      continue
    diversity = group['diversity_units']
    growth = logs(diversity[:, -2]) - logs(diversity[:, 1])
    rows.append(
      np.stack([group['test_accuracy'], rise_of(group)[1], growth], axis=1)
    )
  rows = np.concatenate(rows)
  rows = rows[np.all(np.isfinite(rows), axis=1)]
  return {
    'n': len(rows),
    'telescope': common.entry(
      statistics.rank_correlation(rows[:, 0], rows[:, 1], unit='networks')
    ),
    'diversity': common.entry(
      statistics.rank_correlation(rows[:, 0], rows[:, 2], unit='networks')
    ),
  }


def judge(config, groups):
  """The rules of the module's docstring: claim -> verdict and why."""
  first = config.models[0]
  plain, fresh = groups[first], groups[f'{first} untrained']
  shrink, rise = rise_of(plain)
  _, rise_fresh = rise_of(fresh)
  step = lambda group, name: group[name][:, -2] - group[name][:, 1]
  text = lambda entry: common.with_interval(entry, '.3g')
  t_mean = lambda v: common.entry(statistics.t_mean(v, unit='networks'))
  # Claim -> entries, each with the number it has to lie above.
  claims = {
    'telescope': {
      'k90 of the input over the least': (relative(shrink), 2),
      'of the last over the least': (relative(rise), 2),
    },
    'telescope is learned': {
      'that rise over the untrained one': (relative(rise - rise_fresh), 1)
    },
    'codes become diverse': {
      'rise of cosine distance': (t_mean(step(plain, 'diversity_units')), 0),
      'more than untrained by': (
        t_mean(step(plain, 'diversity_units') - step(fresh, 'diversity_units')),
        0,
      ),
    },
    'classes gather': {
      'fall of dispersion': (
        t_mean(-step(plain, 'dispersion_train_train')),
        0,
      ),
      'in the last layer below untrained by': (
        t_mean(
          (fresh['dispersion_train_train'] - plain['dispersion_train_train'])[
            :, -2
          ]
        ),
        0,
      ),
    },
    'units are for predictions': {
      'rise of agreement': (t_mean(step(plain, 'agreement')), 0)
    },
    'attacks grow in deep layers': {
      'ratio in the last over the first': (
        relative(ratio(plain, 0)[:, -2] - ratio(plain, 0)[:, 1]),
        1,
      )
    },
    'crowded shallow codes are vulnerable': {
      'partial correlation': (t_mean(plain['link_unit_room'][:, 1]), 0),
      'above that with the untrained layer by': (
        t_mean((plain['link_unit_room'] - fresh['link_unit_room'])[:, 1]),
        0,
      ),
    },
    "not the map's doing": {
      f'rise of NMI, {name}': (t_mean(step(plain, f'nmi_{key}')), 0)
      for name, key in (('k-means', 'kmeans'), ('random bits', 'bits'))
    },
  }
  robust = groups.get(f'{first}-adversarial')
  if robust:
    ends = (logs(g['diversity_units'][:, 1]) for g in (plain, robust))
    claims['robust networks have diverse codes'] = {
      'log of the ratio to plain ones': (
        common.entry(statistics.welch(*ends, unit='networks')),
        0,
      )
    }
  found = {
    claim: {
      'verdict': common.decide(
        [common.below(least, entry) for entry, least in parts.values()],
        [common.below(entry, least) for entry, least in parts.values()],
      ),
      'why': '; '.join(f'{k} {text(e)}' for k, (e, _) in parts.items()),
    }
    for claim, parts in claims.items()
  }
  # A network that did not learn is no robust one.
  if robust and not common.below(
    common.entry(statistics.t_mean(fresh['test_accuracy'], unit='networks')),
    common.entry(statistics.t_mean(robust['test_accuracy'], unit='networks')),
  ):
    entry = found['robust networks have diverse codes']
    entry['verdict'] = 'undecided'
    entry['why'] += '; adversarial training learned nothing'
  return found


def report(summary):
  """Prints the summary as tables."""
  cell = lambda entry, spec='.2f': (
    '-' if np.isnan(entry['value']) else common.with_interval(entry, spec)
  )
  print(
    f'\n{summary["dataset"]}, maps of {summary["units"]} units, '
    f'{summary["images"]} images attacked. Means over networks [95 %].\n'
  )
  common.print_table(
    [
      'network',
      'n',
      'accuracy',
      'l2 distance',
      'not found',
      *summary['attacks'][:-1],
      '',
    ],
    [
      [
        name,
        str(row['n']),
        cell(row['accuracy'], '.3f'),
        cell(row['distance'], '.3g'),
        cell(row['not_found']),
        *(cell(v) for v in row['fooled'][:-1]),
        'fooled' if not number else '',
      ]
      for number, (name, row) in enumerate(summary['networks'].items())
    ],
  )
  told = set()
  for pooling, groups in summary['layers'].items():
    # Layers without pixels are the same under every pooling, NaN and all.
    fresh = {k: v for k, v in groups.items() if repr(v) not in told}
    told |= set(map(repr, fresh.values()))
    for rows in by_layers(fresh):
      report_layers(summary, pooling, rows, cell)
  for pooling, verdicts in summary['verdicts'].items():
    print(f'\n{pooling} over pixels')
    for name, entry in verdicts.items():
      print(f'  {name}: {entry["verdict"]} ({entry["why"]})')
    found = summary['generalisation'][pooling]
    print(
      f'  rank correlation with test accuracy, {found["n"]} networks: '
      f'telescope {cell(found["telescope"])}, growth of diversity '
      f'{cell(found["diversity"])}'
    )
  print('\nsynthesized inputs whose unit is the one aimed at:')
  for name, entry in summary['features'].items():
    print(f'  {name}: {cell(entry)}')


SHOWN = {
  'k90': ('components of 90 % of the variance', '.0f'),
  'diversity_units': ('mean cosine distance of units, as they are', '.3f'),
  'nmi': ('NMI of units and labels', '.3f'),
  'dispersion_train_train': ('dispersion of classes on the map', '.2f'),
  'agreement': ("share whose unit's commonest class is the network's", '.3f'),
  'link_unit_room': (
    'rank correlation of room and distance, given margin',
    '.2f',
  ),
}


def by_layers(groups):
  """Groups of kinds of networks that have the same layers."""
  found = {}
  for name, rows in groups.items():
    layers = tuple(row['layer'] for row in rows)
    found.setdefault(layers, {})[name] = rows
  return found.values()


def report_layers(summary, pooling, groups, cell):
  """Tables of one architecture: networks by layers, and attacks on one."""
  layers = [row['layer'] for row in next(iter(groups.values()))]
  for measure, (title, spec) in SHOWN.items():
    print(f'\n{pooling} over pixels: {title}')
    common.print_table(
      ['network', *layers, ''],
      [
        [name, *(cell(row[measure], spec) for row in rows), '']
        for name, rows in groups.items()
      ],
    )
  name = next(name for name in groups if ' ' not in name)
  columns = {
    'shift over that of noise': ('ratio',),
    'share that lands on a unit of the adversarial class': (
      'adopted',
      'adopted_noise',
    ),
    "AUROC of a unit's doubt of the class": ('auroc', 'auroc_noise'),
  }
  for title, (kind, *null) in columns.items():
    print(f'\n{pooling} over pixels, {name} networks: {title}')
    lines = []
    for number, attack in enumerate(summary['attacks']):
      line = lambda of, n=number: [cell(row[of][n]) for row in groups[name]]
      lines.append([attack, *line(kind), ''])
      lines += [['  the same by noise', *line(of), ''] for of in null]
    common.print_table(['attack', *layers, ''], lines)


if __name__ == '__main__':
  flags.main(run, Config, PRESETS)
