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

The effective dimension of a layer's standardized codes, k90, cannot exceed 90 %
of the channels, the ceiling, and channels grow along the paper's networks: so
networks of one width stand beside those whose width grows, and k90 over the
ceiling beside k90. The narrowest layer of a network is the one that is
narrowest in the other networks, so that no minimum is chosen by its own noise.
Codes are laid out on self-organising maps, fitted to training images; the unit
of every interval is the network.

What would refute each claim: the narrowest layer has more than half of what it
could hold of the input's k90, or the last one less than twice the k90 of the
narrowest (telescope; also over the ceiling, and at one width); k90 rises no
more than in the untrained network; units of maps point no farther apart in the
last layer than in the first, or their distance rises no more than in the
untrained one; classes of test images lie no closer together on the map of the
last layer than on the first one's, or the untrained last one's; k-means and
random bits know no more of the classes in the last layer; classes of test
images lie more than 0.1 farther apart there than those of training ones; of
networks with right, half wrong and random labels, those whose codes diversify
more, or whose k90 rises more, are less accurate. Thresholds came from digits,
which are no test of them.
"""

import dataclasses
import functools
import itertools

import jax
import numpy as np

from dmm_jax import codes
from dmm_jax import data
from dmm_jax import records
from dmm_jax import som
from dmm_jax import statistics
from dmm_jax import train
from dmm_jax.train import populations
from experiments.figures import som_codes as figures
from experiments.lib import claims
from experiments.lib import flags
from experiments.lib import layer_codes
from experiments.lib import runner
from experiments.lib import tables

TIMES = 2.0  # That dimensions fall and rise, at least.
CLOSE = 0.1  # Of dispersions.
LEARNED = 0.25  # Of the way from a guess to no errors, to be tested.
POOLINGS = ('mean', 'max')  # Over pixels, or tokens.
RIGHT, HALF, RANDOM = 'right', 'half_wrong', 'random'
UNTRAINED = 'untrained'
CONDITIONS = {
  RIGHT: populations.PLAIN,
  HALF: populations.Condition(wrong=0.5),
  RANDOM: populations.Condition(random_labels=True),
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
    choices=tuple(layer_codes.MODELS),
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
  num_steps: int = flags.num_steps(300)
  optimizer: str = flags.flag(
    'momentum', 'SGD with momentum 0.9, or adam.', choices=('momentum', 'adam')
  )
  learning_rate: float = flags.flag(0.05, 'Learning rate; constant.', least=0)
  map_size: int = layer_codes.map_size()
  num_epochs: int = layer_codes.num_epochs()


PRESETS = {
  'quick': dict(
    num_train=700,
    width=32,
    labels=(RIGHT, RANDOM),
    num_steps=150,
    map_size=8,
    num_epochs=15,
  ),
  'default': {},
  'modern': dict(
    models=('resnet18', 'vit', 'vgg16'),
    labels=(RIGHT,),
    num_networks=3,
    optimizer='adam',
    learning_rate=0.002,
  ),
  'mnist': dict(
    dataset='mnist',
    num_train=3000,
    num_test=1000,
    width=32,
    labels=(RIGHT, RANDOM),
    num_steps=250,
  ),
  'cifar': dict(
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


def load(config):
  """Returns images and labels by split."""
  inputs = layer_codes.load(config, 'num_test')
  for model in config.models:  # Refuses layers that a model does not have.
    layers_of(config, build(config, inputs, model), inputs, model)
  return inputs


def build(config, inputs, model):
  return layer_codes.build(model, config.width, inputs)


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
    rows = functools.partial(
      layer_codes.train_rows, config, inputs, module, number,
      optimizer=config.optimizer, condition=CONDITIONS[labels],
      num=config.num_networks,
    )  # fmt: skip
    unit = runner.Unit(f'train-{number}', rows, f'parameters_{number}')
    parameters = (yield unit).result()
    ends = {UNTRAINED: parameters['start']} if labels == RIGHT else {}
    for name, flat in (ends | {labels: parameters['end']}).items():
      for network, row in enumerate(flat):
        of = {'model': model, 'labels': name, 'network': network}
        rows = functools.partial(
          measure_network, config, inputs, module, of, row
        )
        yield runner.Unit(f'{model}-{name}-{network:02d}', rows)
    if labels == RIGHT:
      first = parameters['end'][0]
      rows = functools.partial(map_rows, config, inputs, module, model, first)
      yield runner.Unit(f'maps-{model}', rows, 'maps')


def encode(config, inputs, module, model, network):
  """Returns codes of training and of test images by pooling and layer."""
  layers = layers_of(config, module, inputs, model)
  return [
    layer_codes.encode(module, network, xs, pooling=POOLINGS, layers=layers)
    for xs in (inputs.train[0], inputs.test[0])
  ]


def fit_maps(config, inputs, found, number):
  """Returns maps of the layers' codes of training images."""
  return layer_codes.fit_maps(
    config, found, inputs.train[1], number, width=2 * config.width
  )


def measure_input(inputs):
  """The row of the images themselves, of which no map is made."""
  raw = inputs.train[0].reshape(len(inputs.train[0]), -1)
  row = dict.fromkeys(OF_MAPS, np.nan) | dimensions(raw)
  row |= {'model': '', 'labels': '', 'network': 0, 'pooling': ''}
  row |= {'layer': 'input', 'accuracy': np.nan, 'chance': chance(inputs)}
  return records.stack([row])


def chance(inputs):
  """Returns the share of test images of the commonest class."""
  return data.commonest_share(inputs.test[1])


def dimensions(raw):
  """Returns the effective dimension of codes `[n, d]`, and its ceiling."""
  standard = codes.standardize(raw)
  return {
    'ceiling': codes.most_components(standard),
    'k90': codes.num_components(codes.spectrum(standard)),
  }


def measure_network(config, inputs, module, of, flat):
  """Rows of a network: layers under each pooling."""
  network = layer_codes.unraveler(module, inputs)(flat)
  forward, state = train.flax_forward(module), train.State(*network, None)
  right = train.accuracy(forward, state, *inputs.test)
  of = of | {'accuracy': right, 'chance': chance(inputs)}
  both, rows = encode(config, inputs, module, of['model'], network), []
  for pooling in POOLINGS:
    seen, unseen = (by_pooling[pooling] for by_pooling in both)
    maps = fit_maps(config, inputs, seen, of['network'])
    units = codes.place(maps, unseen)
    by_layer = codes.map_statistics(maps, seen, inputs.train[1])
    by_layer |= without_map(config, inputs, maps, seen, pooling, of['labels'])
    by_layer['unseen'] = codes.class_dispersion(maps, units, inputs.test[1])
    for number, layer in enumerate(maps.layers):
      row = of | dimensions(seen[layer]) | {'pooling': pooling, 'layer': layer}
      rows.append(row | {name: v[number] for name, v in by_layer.items()})
  return records.stack(rows)


def without_map(config, inputs, maps, seen, pooling, labels):
  """Returns what clusters and random bits know of the classes, by layer.

  Of trained networks' first and last layers, by the first pooling.
  """
  clusters, bits = np.full((2, len(maps.layers)), np.nan)
  if (labels, pooling) == (RIGHT, POOLINGS[0]):
    standard, num = codes.scale(maps, seen), config.map_size**2
    for layer in (0, -1):
      own = standard[layer]
      found = codes.kmeans(0, own, num, n_init=1, max_iter=50)
      units = som.flat(found, som.best_matching_units(found, own))
      sides = codes.random_bits(jax.random.key(0), own, int(np.log2(num)))
      clusters[layer] = codes.nmi(np.asarray(units), inputs.train[1])
      bits[layer] = codes.nmi(sides, inputs.train[1])
  return {'clusters': clusters, 'bits': bits}


def map_rows(config, inputs, module, model, flat):
  """Rows of the first network's maps, for figures: layers and poolings."""
  network = layer_codes.unraveler(module, inputs)(flat)
  square, rows = (config.map_size, config.map_size), []
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
  return records.stack(rows)


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
mean = functools.partial(statistics.t_mean, unit='networks')


def times(logs):
  """Estimates a ratio from its logarithms."""
  return statistics.transform(mean(logs), np.exp)


def group(results, model, labels, pooling):
  """Returns columns `[networks, layers]` of a population."""
  of = dict(model=model, labels=labels, pooling=pooling)
  return records.by_unit(records.select(results, **of)) | {
    'input': records.select(results, layer='input')['k90']
  }


def telescope(of, over_ceiling=False):
  """Returns `codes.Telescope` of networks."""
  (of_input,) = of['input']
  return codes.telescope(
    of['k90'], of['ceiling'], of_input, over_ceiling=over_ceiling
  )


def first_of(config, grows):
  """Returns the first model whose width grows, or does not; '' for none."""
  models = layer_codes.MODELS
  return next((m for m in config.models if models[m] == grows), '')


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
  growing, constant = (first_of(config, grows) for grows in (True, False))
  models = [model for model in (growing, constant) if model]
  found = telescopes(results, growing, constant)
  found |= along_layers(results, models)
  linked = links(config, results)
  for i, name in enumerate(('generalisation', 'generalisation, telescope')):
    found[name, ''] = [
      claims.above(f'rank correlation, {p},', linked[p][i], 0) for p in linked
    ]
  why = why_not_tested(results, models)
  return [
    claims.Claim(
      '2205.10952',
      f'{name}, {p}' if p else name,
      STATEMENTS[name] + (f' ({p} over pixels).' if p else ''),
      tuple(conditions),
      why or ('' if conditions else 'no such networks were trained'),
    )
    for (name, p), conditions in found.items()
  ]


def telescopes(results, growing, constant):
  """Returns conditions by claim and pooling, none for a model that is ''."""
  found = {}
  for name, model, over_ceiling in (
    ('telescope', growing, False),
    ('telescope over width', growing, True),
    ('telescope at one width', constant, False),
  ):
    for p in POOLINGS:
      found[name, p] = []
      if model:
        of = telescope(group(results, model, RIGHT, p), over_ceiling)
        found[name, p] = [
          claims.above('fall to the narrowest layer,', times(of.fall), TIMES),
          claims.above('rise to the last layer,', times(of.rise), TIMES),
        ]
  return found


def along_layers(results, models):
  """Returns conditions by claim, each on all models and poolings."""
  above, below, rise = claims.above, claims.below, layer_codes.rise
  pairs = {
    f'{model}, {p}': [group(results, model, v, p) for v in (RIGHT, UNTRAINED)]
    for model in models
    for p in POOLINGS
  }

  def each(side, what, value, limit=0, of=mean):
    """Conditions on pairs of trained and untrained networks."""
    return [
      side(f'{what}, {name},', of(value(*pair)), limit)
      for name, pair in pairs.items()
    ]

  longer = lambda a, b: telescope(a).rise - telescope(b).rise
  diverse = lambda a, b: rise(a['cosine'])
  more_diverse = lambda a, b: rise(a['cosine']) - rise(b['cosine'])
  nearer = lambda a, b: rise(a['unseen'])
  learned = lambda a, b: (a['unseen'] - b['unseen'])[:, -1]
  farther = lambda a, b: (a['unseen'] - a['dispersion'])[:, -1]
  return {
    ('telescope, learned', ''): each(
      above, 'rise over untrained', longer, 1, times
    ),
    ('diverse', ''): each(above, 'rise of cosine distance', diverse),
    ('diverse, learned', ''): each(
      above, 'rise beyond untrained', more_diverse
    ),
    ('classes', ''): each(below, 'change of dispersion', nearer),
    ('classes, learned', ''): each(
      below, 'dispersion beyond untrained', learned
    ),
    ('without a map', ''): [
      above(f'rise, {text}, {name},', mean(rise(pairs[name][0][column])), 0)
      for column, text in (('clusters', 'k-means'), ('bits', 'random bits'))
      for name in (f'{model}, {POOLINGS[0]}' for model in models)
    ],
    ('unseen images', ''): each(
      below, 'unseen beyond training', farther, CLOSE
    ),
  }


def links(config, results):
  """Returns rank correlations with test accuracy by pooling, each two.

  Of how much codes diversify, and of how much k90 rises, over networks of the
  first model with all labels, each once, at its end.
  """
  if len(config.labels) < 2:
    return {}
  found = {}
  for pooling in POOLINGS:
    groups = [
      group(results, config.models[0], labels, pooling)
      for labels in config.labels
    ]
    right = np.concatenate([of['accuracy'][:, 0] for of in groups])
    wider = np.concatenate([layer_codes.rise(of['cosine']) for of in groups])
    longer = np.concatenate([telescope(of).rise for of in groups])
    found[pooling] = [
      statistics.rank_correlation(right, v, unit='networks')
      for v in (wider, longer)
    ]
  return found


def why_not_tested(results, models):
  """Why networks are no trained ones, or ''."""
  reasons = []
  for model in models:
    of = group(results, model, RIGHT, POOLINGS[0])
    right, chance = of['accuracy'].mean(), of['chance'].mean()
    reasons.append(
      claims.why_untrained(
        right, chance, whose=f'{model} networks', way=LEARNED
      )
    )
  return next(filter(None, reasons), '')


def answer(config, results, judged):
  """One sentence."""
  model, parts = config.models[0], []
  for pooling in POOLINGS:
    of = group(results, model, RIGHT, pooling)
    low = np.exp(np.log(of['k90']).mean(0))
    parts.append(
      f'{of["input"][0]} in the input, {low.min():.0f} in the narrowest and '
      f'{low[-1]:.0f} in the last layer by the {pooling}'
    )
  return (
    f'Effective dimensions of {model} on {config.dataset}: {"; ".join(parts)} '
    f'over pixels ({config.num_networks} networks); {claims.tally(judged)}.'
  )


# --- Tables ----------------------------------------------------------------


def telescope_table(config, results):
  """Ratios of effective dimensions, with and without the control for width."""
  rows = []
  for model, p in itertools.product(config.models, POOLINGS):
    for labels, start in ((RIGHT, ''), (UNTRAINED, ' start')):
      of = group(results, model, labels, p)
      whole = map(times, telescope(of))
      over = times(telescope(of, over_ceiling=True).rise)
      rows.append([f'{model} {p}{start}', *whole, over])
  narrowest = 'of the narrowest layer'
  columns = [
    ('networks', 'start: before training'),
    ('bare fall', f"the input's over that {narrowest}"),
    ('fall', f'what it could hold of that, over that {narrowest}'),
    ('rise', f"the last layer's over that {narrowest}"),
    ('rise/w', 'rise of k90 over the ceiling, likewise'),
  ]
  title = 'Effective dimensions: ratios (the telescope needs 2)'
  return tables.table(title, columns, rows, spec='.2f')


def some_of(names, most):
  """Returns places of at most so many layers, evenly along the network."""
  return np.unique(np.linspace(0, len(names) - 1, most).round().astype(int))


def layer_table(results, model):
  """k90 of each layer of a model, at most 20 of them."""
  groups = {
    (pooling, labels): group(results, model, labels, pooling)
    for pooling in POOLINGS
    for labels in (RIGHT, UNTRAINED)
  }
  of = groups[POOLINGS[0], RIGHT]
  names = of['layer'][0]
  (top,) = records.select(results, layer='input')['ceiling']
  rows = [['input', int(top), *len(groups) * [int(of['input'][0])]]]
  for i in some_of(names, 19):
    k90 = [mean(of['k90'][:, i]) for of in groups.values()]
    rows.append([names[i], int(of['ceiling'][:, i].max()), *k90])
  heads = []
  for pooling, labels in groups:
    text = ', untrained' * (labels == UNTRAINED)
    heads.append((pooling + text, f'{pooling} over pixels{text}'))
  columns = [('layer', ''), ('ceiling', 'the largest k90'), *heads]
  title = f'Effective dimension k90 of {model}'
  return tables.table(title, columns, rows, spec='.0f')


def map_table(results, model):
  """What maps of the first model's layers say, by the first pooling."""
  of, start = (
    group(results, model, v, POOLINGS[0]) for v in (RIGHT, UNTRAINED)
  )
  names, rows = of['layer'][0], []
  for i in some_of(names, 20):
    pairs = [
      mean(v[name][:, i]) for name in ('cosine', 'unseen') for v in (of, start)
    ]
    rows.append([names[i], *pairs, of['folds'][:, i].mean()])
  columns = [
    ('layer', ''),
    ('cosine', 'mean cosine distance of units'),
    ('cosine, start', 'the same before training'),
    ('dispersion', 'of classes of test images; 1: none gather'),
    ('dispersion, start', 'the same before training'),
    ('folds', 'topographic error'),
  ]
  title = f'Maps of {model}, {POOLINGS[0]} over pixels'
  return tables.table(title, columns, rows, spec='.2f')


def network_table(results):
  """Accuracies, and what goes with them."""
  rows = []
  kinds = zip(
    results['model'].tolist(), results['labels'].tolist(), strict=True
  )
  for model, labels in dict.fromkeys(kinds):
    if model:
      of = group(results, model, labels, POOLINGS[0])
      right = statistics.proportion(of['accuracy'][:, 0], unit='networks')
      wider = mean(layer_codes.rise(of['cosine']))
      rows.append([model, labels, right, wider, times(telescope(of).rise)])
  columns = [
    ('model', ''),
    ('labels', 'that it was trained on'),
    ('accuracy', 'on test images', '', '.1%'),
    ('diversity', 'rise of cosine distance, first to last layer', '', 'z.2f'),
    ('rise', 'of k90, narrowest to last layer', '', '.2f'),
  ]
  title = f'Networks, {POOLINGS[0]} over pixels'
  return tables.table(title, columns, rows)


EXPERIMENT = runner.Experiment(
  'experiments.som_codes', __doc__, Config, PRESETS, COLUMNS,
  measure, analyze, figures.draw, load=load, check=check,
)  # fmt: skip
run = EXPERIMENT.run

if __name__ == '__main__':
  EXPERIMENT.main()
