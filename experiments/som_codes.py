"""Do shallow layers compress what they see, and do deep layers expand it?

Lee and Vijayan, https://arxiv.org/abs/2205.10952: shallow layers condense the
features of inputs, deep ones expand them, the "functional telescope"; later
versions say that shallow codes are homogeneous and deep ones diverse. Only its
abstracts and a summary could be had: measures and thresholds are ours. What
attacks do in layers is in `experiments.attack_codes`.

  python -m experiments.som_codes
  python -m experiments.som_codes --preset=modern
  python -m experiments.som_codes --preset=mnist --data_dir=DIR
  python -m experiments.som_codes --preset=cifar --data_dir=DIR

The first takes 3 minutes of one core, --preset=quick 1, mnist and cifar 3.
A run that was killed goes on where it was.

A layer's code is the mean, or the maximum, of each channel over the pixels (or
tokens). Its effective dimension, k90, is the number of principal components of
the standardized codes that hold 90 % of their variance. It cannot exceed 90 %
of the channels, the ceiling, and channels grow along the paper's networks: so
networks of one width stand beside those whose width grows, and k90 over the
ceiling beside k90. The narrowest layer of a network is the one that is
narrowest in the other networks, so that no minimum is chosen by its own noise.
Standardized codes are laid out on self-organising maps, fitted to training
images; the unit of every interval is the network.

Claims, each with what would refute it:

  telescope             in networks whose width grows, the narrowest layer has
                        more than half of what it could hold of the input's k90
                        (the input's, or the ceiling), or the last less than
                        twice the k90 of the narrowest
  ... over width        the same of k90 over the ceiling: a rise that more
                        channels bring is none
  ... at one width      the same in networks of one width
  telescope, learned    k90 rises no more than in the untrained network
  diverse               the mean cosine distance of a map's units does not rise
                        from the first to the last hidden layer
  diverse, learned      it rises no more than in the untrained network
  classes               classes lie no closer together on the map of the last
                        hidden layer than on that of the first (test images)
  classes, learned      than on that of the last layer before training
  without a map         clusters by k-means and random bits know no more of the
                        classes in the last layer than in the first
  unseen images         classes of test images lie more than 0.1 farther apart
                        on the map of the last layer than those of training ones
  generalisation        networks with right, half wrong and random labels: the
                        more codes diversify, the lower the test accuracy
  ..., telescope        the more k90 rises, the lower the test accuracy

Thresholds came from digits, which are no test of them. Not tested where trained
networks get less than a quarter of the way from a guess to no errors.
"""

import dataclasses
import functools
from typing import NamedTuple

import jax
import numpy as np

from dmm_jax import codes
from dmm_jax import data
from dmm_jax import models
from dmm_jax import programs
from dmm_jax import records
from dmm_jax import som
from dmm_jax import statistics
from dmm_jax import train
from dmm_jax.train import populations
from experiments.figures import som_codes as figures
from experiments.lib import claims
from experiments.lib import flags
from experiments.lib import runner
from experiments.lib import tables

TIMES, CLOSE, LEARNED = 2.0, 0.1, 0.25
POOLINGS = ('mean', 'max')  # Over pixels, or tokens.
RIGHT, HALF, RANDOM = 'right', 'half_wrong', 'random'
UNTRAINED = 'untrained'
CONDITIONS = {
  RIGHT: populations.PLAIN,
  HALF: populations.Condition(wrong=0.5),
  RANDOM: populations.Condition(random_labels=True),
}
# Whether channels grow along layers.
MODELS = {
  'cnn': True,
  'cnn_constant': False,
  'mlp': True,
  'mlp_constant': False,
  'resnet18': True,
  'vgg16': True,
  'vit': False,
}
COLUMNS = {
  'start': ('', 'variables of the network before training, flat'),
  'end': ('', 'the same after training'),
  'model': ('', 'architecture'),
  'labels': ('', 'that it was trained on; untrained: before training'),
  'network': ('', 'its number in its population'),
  'accuracy': ('', 'share of test images that it gives the right class'),
  'chance': ('', 'share of test images of the commonest class'),
  'pooling': ('', 'over pixels or tokens: mean or max'),
  'layer': ('', 'its name; input: the images'),
  'ceiling': ('', 'the largest k90 of its channels and the images'),
  'k90': ('', 'principal components of 90 % of the variance'),
  'cosine': ('', "mean cosine distance of the map's units"),
  'dispersion': ('', 'of classes of training images on the map; 1: none'),
  'unseen': ('', 'the same of test images'),
  'nmi': ('', 'normalized mutual information of units and classes'),
  'clusters': ('', 'the same of clusters by k-means; NaN: not made'),
  'bits': ('', 'the same of sides of random hyperplanes; NaN: not made'),
  'folds': ('', 'share of codes whose two nearest units do not touch'),
  'settled': ('epochs', 'until the distance from units is within 5 %'),
  'u_matrix': ('', "distance of units from neighbours, over the codes' size"),
  'hits': ('', 'training images of each unit'),
  'class': ('', 'the commonest class of each unit; -1: it has no image'),
}
OF_MAPS = 'cosine dispersion unseen nmi clusters bits folds settled'.split()


@dataclasses.dataclass(frozen=True)
class Config:
  preset: str = flags.preset()
  workdir: str = flags.workdir('runs/som_codes')
  seed: int = flags.seed()
  dataset: str = flags.dataset()
  data_dir: str = flags.data_dir()
  num_train: int = flags.num_train()
  num_test: int = flags.flag(
    0, 'Number of test images, the first ones; 0 takes all.', least=0
  )
  models: tuple[str, ...] = flags.flag(
    ('cnn', 'cnn_constant'),
    'Architectures. Claims are about the first one whose width grows, and the '
    'first one of constant width (cnn_constant, mlp_constant, vit).',
    choices=tuple(MODELS),
  )
  labels: tuple[str, ...] = flags.flag(
    (RIGHT, HALF, RANDOM),
    'Labels that the first model is trained on; the others have right ones.',
    choices=tuple(CONDITIONS),
  )
  width: int = flags.flag(
    48,
    'Channels of constant networks, and of the middle of growing ones; even.',
    least=4,
    most=2048,
  )
  layers: tuple[str, ...] = flags.flag(
    ('all',), 'Hidden layers by name, or all.'
  )
  num_networks: int = flags.flag(
    8, 'Number of networks of each population.', least=3
  )
  num_steps: int = flags.flag(300, 'Steps of training.', least=1)
  optimizer: str = flags.flag(
    'momentum', 'SGD with momentum 0.9, or adam.', choices=('momentum', 'adam')
  )
  learning_rate: float = flags.flag(0.05, 'Learning rate; constant.', least=0)
  map_size: int = flags.flag(
    12, 'Units along each side of a map.', least=2, most=100
  )
  num_epochs: int = flags.flag(30, 'Epochs of fitting a map.', least=1)


PRESETS = {
  'quick': dict(
    workdir='runs/som_codes_quick',
    num_train=700,
    width=32,
    labels=(RIGHT, RANDOM),
    num_steps=150,
    map_size=8,
    num_epochs=15,
  ),
  'default': {},
  'modern': dict(
    workdir='runs/som_codes_modern',
    models=('resnet18', 'vit', 'vgg16'),
    labels=(RIGHT,),
    num_networks=3,
    optimizer='adam',
    learning_rate=0.002,
  ),
  'mnist': dict(
    workdir='runs/som_codes_mnist',
    dataset='mnist',
    num_train=3000,
    num_test=1000,
    width=32,
    labels=(RIGHT, RANDOM),
    num_steps=250,
  ),
  'cifar': dict(
    workdir='runs/som_codes_cifar',
    dataset='cifar10',
    num_train=4000,
    num_test=1000,
    width=32,
    labels=(RIGHT,),
    num_steps=400,
    optimizer='adam',
    learning_rate=0.004,
  ),
}


def check(config):
  """Raises FlagError for flags that do not go together."""
  if RIGHT not in config.labels:
    raise flags.FlagError(f'--labels={",".join(config.labels)} has no {RIGHT}')


# --- Data and networks -----------------------------------------------------


class Inputs(NamedTuple):
  """Images and labels."""

  train: tuple
  test: tuple


def load(config):
  """Returns `Inputs`."""
  sets = []
  for split, num in (('train', config.num_train), ('test', config.num_test)):
    pair = data.load(config.dataset, split, config.data_dir or None)
    if num > len(pair[1]):
      raise flags.FlagError(
        f'--num_{split}={num}: there are {len(pair[1])} images'
      )
    sets.append(tuple(column[: num or None] for column in pair))
  inputs = Inputs(*sets)
  for model in config.models:  # Refuses layers that a model does not have.
    layers_of(config, build(config, inputs, model), inputs, model)
  return inputs


def build(config, inputs, model):
  """Returns an untrained network of an architecture."""
  shape, wide = inputs.train[0].shape[1:], config.width
  if wide % 2:
    raise flags.FlagError(f'--width={wide} is not even')
  growing, constant = (wide // 2, wide, wide, 2 * wide), (wide,) * 4
  stride = 1 if shape[0] < 16 else 2
  make = functools.partial(
    models.CNN, widths=(), pools=0, strides=(stride, 2, 1, 2), pooled=True
  )
  stages = tuple(
    (c,) * n for c, n in zip((*growing, 2 * wide), (2, 2, 3, 3, 3), strict=True)
  )
  made = {
    'cnn': lambda k: make(growing, num_classes=k),
    'cnn_constant': lambda k: make(constant, num_classes=k),
    'mlp': lambda k: models.MLP(growing, k),
    'mlp_constant': lambda k: models.MLP(constant, k),
    'resnet18': lambda k: models.ResNet18(max(1, wide // 4), num_classes=k),
    'vgg16': lambda k: models.VGG16(stages, num_classes=k),
    'vit': lambda k: models.ViT(shape[0] // 4, wide, 4, 2, num_classes=k),
  }
  return made[model](int(inputs.train[1].max()) + 1)


def layers_of(config, module, inputs, model):
  """Returns the names of the hidden layers that are measured."""
  init = lambda x: module.init_with_output(jax.random.key(0), x)[0]
  names = list(jax.eval_shape(init, inputs.train[0][0])[1])
  if config.layers == ('all',):
    return names
  if unknown := set(config.layers) - set(names):
    raise flags.FlagError(
      f'--layers={",".join(sorted(unknown))}: {model} has {", ".join(names)}'
    )
  if len(config.layers) < 2:
    raise flags.FlagError(
      f'--layers={config.layers[0]}: give two or more, which are compared'
    )
  return [name for name in names if name in config.layers]


# --- Measuring -------------------------------------------------------------


def measure(config, inputs):
  """Yields the units: the input, populations, and networks one by one."""
  yield runner.Unit('input', functools.partial(measure_input, inputs))
  kinds = [(config.models[0], name) for name in config.labels]
  kinds += [(model, RIGHT) for model in config.models[1:]]
  for number, (model, labels) in enumerate(kinds):
    module = build(config, inputs, model)
    rows = functools.partial(train_rows, config, inputs, module, labels, number)
    unit = runner.Unit(f'train-{number}', rows, f'parameters_{number}')
    parameters = (yield unit).result()
    ends = {UNTRAINED: parameters['start']} if labels == RIGHT else {}
    for name, flat in (ends | {labels: parameters['end']}).items():
      for network, row in enumerate(flat):
        of = {'model': model, 'labels': name, 'network': network}
        rows = functools.partial(
          measure_network, config, inputs, module, of, row
        )
        title = f'{model}-{name}-{network:02d}'.replace(' ', '-')
        yield runner.Unit(title, rows)
    if labels == RIGHT:
      rows = functools.partial(
        map_rows, config, inputs, module, model, parameters['end'][0]
      )
      yield runner.Unit(f'maps-{model}', rows, 'maps')


def train_rows(config, inputs, module, labels, number):
  """Rows of a population's parameters, before and after training."""
  found = populations.fit(
    jax.random.fold_in(jax.random.key(config.seed), number),
    module,
    *inputs.train,
    condition=CONDITIONS[labels],
    num=config.num_networks,
    config=train.TrainConfig(
      optimizer=config.optimizer,
      learning_rate=config.learning_rate,
      schedule='constant',
      batch_size=64,
    ),
    num_steps=config.num_steps,
    pause_steps=[0],
  )
  return dict(zip(('start', 'end'), found.parameters, strict=True))


def call(x, params, stats, *, forward):
  """Returns logits and codes of one image and one network."""
  return forward(params, stats, x, None, False)[0]


def encode(config, inputs, module, model, network):
  """Returns codes of training and of test images by pooling and layer."""
  return [
    codes.of_network(
      programs.bind(call, forward=train.flax_forward(module)),
      xs,
      shared=network,
      pooling=POOLINGS,
      layers=layers_of(config, module, inputs, model),
    )
    for xs, _ in inputs
  ]


def fit_maps(config, inputs, found, number):
  """Returns maps of the layers' codes of training images."""
  return codes.fit_maps(
    jax.random.fold_in(jax.random.key(config.seed + 1), number),
    found,
    inputs.train[1],
    grid=2 * (config.map_size,),
    num_epochs=config.num_epochs,
    width=2 * config.width,
  )


def measure_input(inputs):
  """The row of the images themselves, of which no map is made."""
  raw = inputs.train[0].reshape(len(inputs.train[0]), -1)
  row = dict.fromkeys(OF_MAPS, np.nan) | dimensions(raw)
  row |= {'model': '', 'labels': '', 'network': 0, 'pooling': ''}
  row |= {'layer': 'input', 'accuracy': np.nan, 'chance': chance(inputs)}
  return {name: np.array([value]) for name, value in row.items()}


def chance(inputs):
  """Returns the share of test images of the commonest class."""
  return np.bincount(inputs.test[1]).max() / len(inputs.test[1])


def dimensions(raw):
  """Returns the effective dimension of codes `[n, d]`, and its ceiling."""
  standard = codes.standardize(raw)
  return {
    'ceiling': codes.most_components(standard),
    'k90': codes.num_components(codes.spectrum(standard)),
  }


def measure_network(config, inputs, module, of, flat):
  """Rows of a network: layers under each pooling."""
  network = populations.unraveler(module, inputs.train[0][0])(flat)
  forward, state = train.flax_forward(module), train.State(*network, None)
  right = train.accuracy(forward, state, *inputs.test)
  of = of | {'accuracy': right, 'chance': chance(inputs)}
  both, rows = encode(config, inputs, module, of['model'], network), []
  for pooling in POOLINGS:
    seen, unseen = (by_pooling[pooling] for by_pooling in both)
    maps = fit_maps(config, inputs, seen, of['network'])
    said = codes.map_statistics(maps, seen, inputs.train[1])
    said['unseen'] = codes.class_dispersion(
      maps, codes.place(maps, unseen), inputs.test[1]
    )
    said |= without_map(config, inputs, maps, seen, pooling, of['labels'])
    for number, layer in enumerate(maps.layers):
      row = of | dimensions(seen[layer]) | {'pooling': pooling, 'layer': layer}
      rows.append(row | {name: v[number] for name, v in said.items()})
  return {name: np.array([row[name] for row in rows]) for name in rows[0]}


def without_map(config, inputs, maps, seen, pooling, labels):
  """Returns what clusters and random bits know of the classes, by layer.

  Of trained networks' first and last layers, by the first pooling.
  """
  found = {
    name: np.full(len(maps.layers), np.nan) for name in ('clusters', 'bits')
  }
  if (labels, pooling) != (RIGHT, POOLINGS[0]):
    return found
  standard, num = codes.scale(maps, seen), config.map_size**2
  for layer in (0, -1):
    clusters = codes.kmeans(0, standard[layer], num, n_init=1, max_iter=50)
    units = som.flat(
      clusters, som.best_matching_units(clusters, standard[layer])
    )
    bits = codes.random_bits(
      jax.random.key(0), standard[layer], int(np.log2(num))
    )
    for name, of in (('clusters', np.asarray(units)), ('bits', bits)):
      found[name][layer] = codes.nmi(of, inputs.train[1])
  return found


def map_rows(config, inputs, module, model, flat):
  """Rows of the first network's maps, for figures: layers and poolings."""
  network = populations.unraveler(module, inputs.train[0][0])(flat)
  square, rows = 2 * (config.map_size,), []
  by_pooling, _ = encode(config, inputs, module, model, network)
  for pooling, found in by_pooling.items():
    maps = fit_maps(config, inputs, found, 0)
    for place, layer in enumerate(maps.layers):
      size = np.sqrt(max(1, np.isfinite(maps.spread[place]).sum()))
      rows.append(
        {
          'model': model,
          'pooling': pooling,
          'layer': layer,
          'u_matrix': np.asarray(som.u_matrix(maps.layer(layer))) / size,
          'hits': maps.counts[place].sum(-1).reshape(square),
          'class': maps.classes[place].reshape(square),
        }
      )
  return {name: np.array([row[name] for row in rows]) for name in rows[0]}


# --- Judging ---------------------------------------------------------------

STATEMENTS = {
  'telescope': 'Shallow layers compress features into condensed space, deep '
  'layers expand it',
  'telescope over width': 'Shallow layers compress and deep layers expand '
  'features in relation to their channels',
  'telescope at one width': 'Shallow layers compress and deep layers expand '
  'features where all have as many channels',
  'telescope, learned': 'Training makes deep layers expand features more.',
  'diverse': 'Codes are homogeneous in shallow layers, diverse in deep ones.',
  'diverse, learned': 'Training makes the codes of deep layers more diverse.',
  'classes': 'Units of inputs of a class lie closer together in deep layers.',
  'classes, learned': 'Training brings the units of a class in deep layers '
  'closer together.',
  'without a map': 'Clusters and random bits, which are no map, see classes '
  'gather in deep layers too.',
  'unseen images': 'Classes of unseen images gather as those of training '
  'images do.',
  'generalisation': 'Networks whose codes diversify more generalise better.',
  'generalisation, telescope': 'Networks whose layers expand features more '
  'generalise better.',
}


class Group(NamedTuple):
  """Columns `[networks, layers]` of a population under one pooling."""

  columns: dict
  input_k90: int

  def ends(self, name):
    """Returns a column in the first and in the last hidden layer."""
    return self.columns[name][:, 0], self.columns[name][:, -1]

  def rise(self, name):
    """Returns how much more there is in the last than in the first."""
    first, last = self.ends(name)
    return last - first

  def telescope(self, over_ceiling=False):
    """Returns `codes.Telescope` of the networks."""
    k90, ceiling = self.columns['k90'], self.columns['ceiling']
    return codes.telescope(
      k90, ceiling, self.input_k90, over_ceiling=over_ceiling
    )


def group(results, model, labels, pooling):
  """Returns a `Group`."""
  of = dict(model=model, labels=labels, pooling=pooling)
  rows = records.select(results, **of)
  many = len(np.unique(rows['network']))
  columns = {k: v.reshape(many, -1) for k, v in rows.items()}
  (given,) = records.select(results, layer='input')['k90']
  return Group(columns, int(given))


mean = functools.partial(statistics.t_mean, unit='networks')


def times(logs):
  """Estimates a ratio from its logarithms."""
  found = mean(logs)
  value, low, high = np.exp(found[:3]).tolist()
  return found._replace(value=value, low=low, high=high)


def first_of(config, grows):
  """Returns the first model whose width grows, or does not; '' for none."""
  return next((m for m in config.models if MODELS[m] == grows), '')


def analyze(config, found):
  """What layers do along networks, and what the claims say."""
  results = found['results']
  judged = judge(config, results)
  shown = [telescope_table(config, results)]
  shown += [layer_table(results, model) for model in config.models]
  shown += [map_table(results, config.models[0]), network_table(results)]
  return runner.Report(answer(config, results, judged), judged, shown)


def judge(config, results):
  """The claims of the module's docstring."""
  above, below = claims.above, claims.below
  kinds = {grows: first_of(config, grows) for grows in (True, False)}
  pairs = {
    f'{model}, {p}': [group(results, model, v, p) for v in (RIGHT, UNTRAINED)]
    for model in filter(None, kinds.values())
    for p in POOLINGS
  }

  def each(value, what, limit=0.0, of=mean, side=above):
    return [
      side(f'{what}, {name},', of(value(*pair)), limit)
      for name, pair in pairs.items()
    ]

  found = {}
  for name, grows, over in (
    ('telescope', True, False),
    ('telescope over width', True, True),
    ('telescope at one width', False, False),
  ):
    for p in POOLINGS:
      found[name, p] = []
      if kinds[grows]:
        trained = pairs[f'{kinds[grows]}, {p}'][0].telescope(over)
        found[name, p] = [
          above('fall to the narrowest layer,', times(trained.fall), TIMES),
          above('rise to the last layer,', times(trained.rise), TIMES),
        ]
  longer = lambda a, b: a.telescope().rise - b.telescope().rise
  found['telescope, learned', ''] = each(
    longer, 'rise over untrained', 1, times
  )
  wider = lambda a, b: a.rise('cosine')
  found['diverse', ''] = each(wider, 'rise of cosine distance')
  wider = lambda a, b: a.rise('cosine') - b.rise('cosine')
  found['diverse, learned', ''] = each(wider, 'rise beyond untrained')
  nearer = lambda a, b: a.rise('unseen')
  found['classes', ''] = each(nearer, 'change of dispersion', side=below)
  nearer = lambda a, b: a.ends('unseen')[1] - b.ends('unseen')[1]
  found['classes, learned', ''] = each(
    nearer, 'dispersion beyond untrained', side=below
  )
  found['without a map', ''] = [
    above(f'rise, {text}, {name},', mean(pairs[name][0].rise(column)), 0.0)
    for column, text in (('clusters', 'k-means'), ('bits', 'random bits'))
    for name in list(pairs)[:: len(POOLINGS)]
  ]
  farther = lambda a, b: a.ends('unseen')[1] - a.ends('dispersion')[1]
  found['unseen images', ''] = each(
    farther, 'unseen beyond training', CLOSE, side=below
  )
  linked = links(config, results)
  for i, name in enumerate(('generalisation', 'generalisation, telescope')):
    found[name, ''] = [
      above(f'rank correlation, {p},', linked[p][i], 0.0) for p in linked
    ]
  why = why_not_tested(results, filter(None, kinds.values()))
  said = lambda name, p: (
    STATEMENTS[name] + (f' ({p} over pixels).' if p else '')
  )
  return [
    claims.Claim(
      '2205.10952',
      f'{name}, {p}' if p else name,
      said(name, p),
      tuple(conditions),
      why or ('' if conditions else 'no such networks were trained'),
    )
    for (name, p), conditions in found.items()
  ]


def links(config, results):
  """Returns rank correlations with test accuracy by pooling, each two.

  Of how much codes diversify, and of how much k90 rises, over networks of the
  first model with all labels, each once, at its end.
  """
  found = {}
  for pooling in POOLINGS if len(config.labels) > 1 else ():
    groups = [
      group(results, config.models[0], labels, pooling)
      for labels in config.labels
    ]
    right = np.concatenate([of.ends('accuracy')[0] for of in groups])
    columns = (
      np.concatenate([of.rise('cosine') for of in groups]),
      np.concatenate([of.telescope().rise for of in groups]),
    )
    found[pooling] = [
      statistics.rank_correlation(right, v, unit='networks') for v in columns
    ]
  return found


def why_not_tested(results, kinds):
  """Why networks are no trained ones, or ''."""
  for model in kinds:
    of = group(results, model, RIGHT, POOLINGS[0]).columns
    right, chance = of['accuracy'].mean(), of['chance'].mean()
    if right < chance + LEARNED * (1 - chance):
      return (
        f'{model} classifies {right:.0%} of test images correctly, less than '
        f'a quarter of the way from a guess ({chance:.0%}) to all'
      )
  return ''


def answer(config, results, judged):
  """One sentence."""
  model, said = config.models[0], []
  for pooling in POOLINGS:
    of = group(results, model, RIGHT, pooling)
    low = np.exp(np.log(of.columns['k90']).mean(0))
    said.append(
      f'{of.input_k90} in the input, {low.min():.0f} in the narrowest and '
      f'{low[-1]:.0f} in the last layer by the {pooling}'
    )
  held = sum(claim.verdict == claims.SUPPORTED for claim in judged)
  return (
    f'Effective dimensions of {model} on {config.dataset}: {"; ".join(said)} '
    f'over pixels ({config.num_networks} networks); {held} of {len(judged)} '
    'claims are supported.'
  )


# --- Tables ----------------------------------------------------------------


def table(title, columns, rows):
  made = [tables.Column(name, '', said, spec) for name, said, spec in columns]
  return tables.Table(title, made, rows)


def telescope_table(config, results):
  """Ratios of effective dimensions, with and without the control for width."""
  rows = []
  for model in config.models:
    for pooling in POOLINGS:
      for labels in (RIGHT, UNTRAINED):
        of = group(results, model, labels, pooling)
        whole, over = of.telescope(), of.telescope(True)
        rows.append(
          [
            f'{model} {pooling}' + (' start' * (labels == UNTRAINED)),
            *map(times, (whole.bare_fall, whole.fall, whole.rise)),
            times(over.rise),
          ]
        )
  said = 'of the narrowest layer'
  return table(
    'Effective dimensions: ratios (the telescope needs 2)',
    [
      ('networks', 'start: before training', ''),
      ('bare fall', f"the input's over that {said}", '.2f'),
      ('fall', f'what it could hold of that, over that {said}', '.2f'),
      ('rise', f"the last layer's over that {said}", '.2f'),
      ('rise/w', 'rise of k90 over the ceiling, likewise', '.2f'),
    ],
    rows,
  )


def layer_table(results, model):
  """k90 of each layer of a model, at most 20 of them."""
  groups = [
    group(results, model, labels, pooling)
    for pooling in POOLINGS
    for labels in (RIGHT, UNTRAINED)
  ]
  names = groups[0].columns['layer'][0]
  chosen = np.unique(np.linspace(0, len(names) - 1, 19).round().astype(int))
  (top,) = records.select(results, layer='input')['ceiling']
  rows = [['input', int(top), *4 * [groups[0].input_k90]]]
  rows += [
    [
      names[i],
      int(groups[0].columns['ceiling'][:, i].max()),
      *(mean(of.columns['k90'][:, i]) for of in groups),
    ]
    for i in chosen
  ]
  heads = [
    (pooling + text, f'{pooling} over pixels{text}', '.0f')
    for pooling in POOLINGS
    for text in ('', ', untrained')
  ]
  return table(
    f'Effective dimension k90 of {model}',
    [('layer', '', ''), ('ceiling', 'the largest k90', ''), *heads],
    rows,
  )


def map_table(results, model):
  """What maps of the first model's layers say, by the first pooling."""
  a, b = (group(results, model, v, POOLINGS[0]) for v in (RIGHT, UNTRAINED))
  names = a.columns['layer'][0]
  chosen = np.unique(np.linspace(0, len(names) - 1, 20).round().astype(int))
  at = lambda of, name, i: mean(of.columns[name][:, i])
  return table(
    f'Maps of {model}, {POOLINGS[0]} over pixels',
    [
      ('layer', '', ''),
      ('cosine', 'mean cosine distance of units', '.2f'),
      ('untrained', 'the same before training', '.2f'),
      ('dispersion', 'of classes of test images; 1: none gather', '.2f'),
      ('untrained ', 'the same before training', '.2f'),
      ('folds', 'topographic error', '.2f'),
    ],
    [
      [
        names[i],
        at(a, 'cosine', i),
        at(b, 'cosine', i),
        at(a, 'unseen', i),
        at(b, 'unseen', i),
        float(a.columns['folds'][:, i].mean()),
      ]
      for i in chosen
    ],
  )


def network_table(results):
  """Accuracies, and what goes with them."""
  rows = []
  kinds = zip(
    results['model'].tolist(), results['labels'].tolist(), strict=True
  )
  for model, labels in dict.fromkeys(kinds):
    if model:
      of = group(results, model, labels, POOLINGS[0])
      rows.append(
        [
          model,
          labels,
          statistics.proportion(of.ends('accuracy')[0], unit='networks'),
          mean(of.rise('cosine')),
          times(of.telescope().rise),
        ]
      )
  return table(
    f'Networks, {POOLINGS[0]} over pixels',
    [
      ('model', '', ''),
      ('labels', 'that it was trained on', ''),
      ('accuracy', 'on test images', '.1%'),
      ('diversity', 'rise of cosine distance, first to last layer', 'z.2f'),
      ('rise', 'of k90, narrowest to last layer', '.2f'),
    ],
    rows,
  )


EXPERIMENT = runner.Experiment(
  'experiments.som_codes', __doc__, Config, PRESETS, COLUMNS,
  measure, analyze, figures.draw, load=load, check=check,
)  # fmt: skip
run = EXPERIMENT.run

if __name__ == '__main__':
  EXPERIMENT.main()
