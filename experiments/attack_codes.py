"""Do attacks enter a network where its codes are crowded?

Lee and Vijayan, https://arxiv.org/abs/2205.10952: homogeneous codes of shallow
layers may underlie the vulnerability to adversarial perturbations; codes, the
units of self-organising maps, go with predictions; inputs of a unit can be
estimated. Only abstracts and a summary could be had: attacks, measures and
thresholds are ours. What layers are is in `experiments.som_codes`.

  python -m experiments.attack_codes
  python -m experiments.attack_codes --preset=mnist --data_dir=DIR
  python -m experiments.attack_codes --preset=cifar --data_dir=DIR

The first takes 4 minutes of one core, --preset=quick 1, mnist 3, cifar 7.
A run that was killed goes on where it was.

Test images are moved by projected gradient ascent, and to the nearest point of
the decision boundary in l2; beside either stands noise of the same size at the
same images. Images that a network has wrong are not attacked.

The separation of an image is the distance from its unit's code to that of the
nearest unit of another class, in units of what noise moves codes: small where
codes are crowded. A network's crowding is the partial rank correlation, over
its images, of separation and distance to the boundary, given the margin of the
logits. The unit of every interval is the network.

What would refute each claim: shifts over those of noise are no larger in the
last hidden layer than in the first; images that ascent fools lie on units of
the wrong class no more often than under noise, or than in the first layer;
units' classes are the predicted ones no more often in the last layer than in
the first, and for wrong images are rather the right ones; crowding in the first
layer is not positive, or no larger than by the layer before training, which
does not depend on the boundary; units point no farther apart in adversarially
trained networks; attacked images lie on units that doubt the predicted class no
more than under noise; synthesized inputs lie on other units in half of the
cases.
"""

import dataclasses
import functools

import numpy as np

from dmm_jax import codes
from dmm_jax import data
from dmm_jax import records
from dmm_jax import statistics
from dmm_jax import train
from dmm_jax.train import adversarial
from dmm_jax.train import populations
from experiments.figures import attack_codes as figures
from experiments.lib import claims
from experiments.lib import flags
from experiments.lib import layer_codes
from experiments.lib import runner
from experiments.lib import tables

PLAIN, ROBUST = 'plain', 'adversarial'
ASCENT, NEAREST = KINDS = ('ascent', 'nearest point')
LEARNED = 0.25  # Of the way from a guess to no errors, to be tested.
FOOLED = 0.1  # Share of the images, to be tested.
COLUMNS = {
  'start': ('', 'variables of the network before training, flat'),
  'end': ('', 'the same after training'),
  'training': ('', 'plain or adversarial'),
  'network': ('', 'its number in its population'),
  'layer': ('', 'its name'),
  'kind': ('', 'of attack: ascent in linf, or nearest point in l2'),
  'accuracy': ('', 'share of test images that it gives the right class'),
  'chance': ('', 'share of test images of the commonest class'),
  'distance': ('input units', 'median l2 distance to the boundary'),
  'fooled': ('', 'share of images that the attack leads to another class'),
  'shift': ('units', 'mean distance on the map that it moves images'),
  'noise_shift': ('units', 'the same of noise of its size'),
  'hit': ('', 'share of fooled images on a unit of the wrong class'),
  'noise_hit': ('', 'the same of them under noise'),
  'auroc': ('', 'of telling fooled images by how units doubt the class'),
  'noise_auroc': ('', 'the same of them under noise'),
  'agreement': ('', "share of test images whose unit's class is predicted"),
  'lean': ('', 'share of wrong images on units of the predicted less right'),
  'cosine': ('', "mean cosine distance of the map's units"),
  'crowding': ('', 'correlation of separation and distance, given margin'),
  'crowding_start': ('', 'the same with the layer before training'),
  'hits': ('', 'training images of the unit'),
  'mean': ('', 'mean of those'),
  'nearest': ('', 'image whose code is nearest to the unit'),
  'synthesized': ('', 'image made for the unit'),
  'aimed': ('', 'whether it lies on the unit that it was made for'),
  'mean_aimed': ('', 'whether the mean image does'),
  'class': ('', 'the commonest class of each unit; -1: it has no image'),
  'before': ('', 'units of images before ascent'),
  'after': ('', 'and after it'),
  'class_before': ('', 'predicted class of these images'),
  'class_after': ('', 'and after it'),
}


@dataclasses.dataclass(frozen=True)
class Config:
  preset: str = flags.preset()
  workdir: str = flags.workdir('runs/attack_codes')
  seed: int = flags.seed()
  dataset: str = flags.dataset()
  data_dir: str = flags.data_dir()
  num_train: int = flags.num_train()
  num_images: int = flags.flag(
    300, 'Number of test images, the first ones; all are attacked.', least=20
  )
  model: str = flags.flag(
    'cnn', 'Architecture; its width grows.', choices=('cnn', 'mlp')
  )
  width: int = flags.flag(
    32, 'Channels in the middle of the network; even.', least=4, most=2048
  )
  pooling: str = flags.flag(
    'mean', 'Of each channel over pixels.', choices=('mean', 'max')
  )
  num_networks: int = flags.flag(16, 'Number of networks.', least=3)
  num_robust: int = flags.flag(
    8, 'Number of adversarially trained ones; 0 for none.', least=0
  )
  num_steps: int = flags.num_steps(400)
  learning_rate: float = flags.learning_rate(0.05)
  radius: float = flags.flag(
    0.1, 'Radius of ascent in linf, of input units.', least=0
  )
  train_radius: float = flags.flag(
    0.1, 'The same of adversarial training.', least=0
  )
  map_size: int = layer_codes.map_size()
  num_epochs: int = layer_codes.num_epochs()
  num_units: int = flags.flag(
    6, 'Units of a layer that inputs are synthesized for.', least=1
  )


PRESETS = {
  'quick': dict(
    num_train=700,
    num_images=100,
    num_networks=8,
    num_robust=0,
    num_steps=150,
    map_size=8,
    num_epochs=15,
    num_units=3,
  ),
  'default': {},
  'mnist': dict(
    dataset='mnist',
    num_train=3000,
    num_images=200,
    num_networks=8,
    num_robust=4,
    num_steps=250,
  ),
  'cifar': dict(
    dataset='cifar10',
    num_train=5000,
    num_images=200,
    num_networks=8,
    num_robust=0,
    num_steps=1200,
    learning_rate=0.03,
    radius=0.01,
  ),
}


def check(config):
  """Raises FlagError for flags that do not go together."""
  if config.num_units > config.map_size**2:
    raise flags.FlagError(
      f'--num_units={config.num_units}: a map has {config.map_size**2}'
    )


def load(config):
  """Returns images and labels, and an untrained network for them."""
  inputs = layer_codes.load(config, 'num_images')
  module = layer_codes.build(config.model, config.width, inputs)
  return inputs._replace(module=module)


# --- Measuring -------------------------------------------------------------


def measure(config, inputs):
  """Yields the units: populations, then what attacks do in each network."""
  ball = adversarial.Adversary(config.train_radius, np.inf, num_steps=1)
  kinds = (PLAIN, config.num_networks, None), (ROBUST, config.num_robust, ball)
  for number, (name, num, adversary) in enumerate(kinds):
    if not num:
      continue
    rows = functools.partial(
      layer_codes.train_rows, config, inputs, inputs.module, number,
      num=num, adversary=adversary,
    )  # fmt: skip
    unit = runner.Unit(f'train-{name}', rows, f'parameters_{name}')
    parameters = (yield unit).result()
    for network in range(num):
      flat = {when: parameters[when][network] for when in ('start', 'end')}
      of = {'training': name, 'network': network}
      rows = functools.partial(measure_network, config, inputs, of, flat)
      yield runner.Unit(f'{name}-{network:02d}', rows)
      if name == PLAIN:
        rows = functools.partial(show_units, config, inputs, network, flat)
        yield runner.Unit(f'features-{network:02d}', rows, 'features')
    if name == PLAIN:
      first = parameters['end'][0]
      rows = functools.partial(trajectories, config, inputs, first)
      yield runner.Unit('trajectories', rows, 'trajectories')


def encode(config, inputs, network, xs):
  """Returns codes of images by hidden layer, and logits."""
  found = layer_codes.encode(inputs.module, network, xs, pooling=config.pooling)
  del found['input']
  return found


def fit_maps(config, inputs, network, number):
  """Returns maps of the hidden layers' codes of training images, and these."""
  found = encode(config, inputs, network, inputs.train[0])
  del found['logits']
  maps = layer_codes.fit_maps(config, found, inputs.train[1], number)
  return maps, found


def attack(config, inputs, network):
  """Returns the test images after attacks and noise, as `codes.Attacked`."""
  logits_fn = functools.partial(
    populations.logits, train.flax_forward(inputs.module)
  )
  return codes.attacked(logits_fn, network, *inputs.test, radius=config.radius)


def measure_network(config, inputs, of, flat):
  """Rows of a network: kinds of attack and layers."""
  xs, labels = inputs.test
  unravel = layer_codes.unraveler(inputs.module, inputs)
  network, before = unravel(flat['end']), unravel(flat['start'])
  found = attack(config, inputs, network)
  maps, trained_on = fit_maps(config, inputs, network, of['network'])
  untrained, _ = fit_maps(config, inputs, before, of['network'])
  clean = encode(config, inputs, network, xs)
  predicted, units = clean['logits'].argmax(1), codes.place(maps, clean)
  right = predicted == labels
  top = np.sort(clean['logits'], axis=1)
  margin = top[:, -1] - top[:, -2]

  def crowding(network, maps):
    clean, noisy = (
      encode(config, inputs, network, v) for v in (xs, found.noisy[0])
    )
    away = codes.class_separation(maps, clean, labels, noisy)
    return codes.crowding(away[:, right], found.distance[right], margin[right])

  by_layer = codes.agreement(maps, units, predicted, labels) | {
    'cosine': codes.map_statistics(maps, trained_on, inputs.train[1])['cosine'],
    'crowding': crowding(network, maps),
    'crowding_start': crowding(before, untrained),
  }
  rows = []
  for number, kind in enumerate(KINDS):
    after, noisy = (
      encode(config, inputs, network, v[number])
      for v in (found.moved, found.noisy)
    )
    wrong = found.wrong[number][right]
    columns = by_layer | codes.attack_statistics(
      maps,
      units[:, right],
      *(codes.place(maps, v)[:, right] for v in (after, noisy)),
      predicted=labels[right],
      predicted_noisy=noisy['logits'].argmax(1)[right],
      wrong=wrong,
    )
    same = of | {
      'kind': kind,
      'accuracy': right.mean(),
      'chance': data.commonest_share(labels),
      'distance': np.median(found.distance[right]),
      'fooled': np.mean(wrong != labels[right]),
    }
    rows += [
      same | {'layer': name} | {key: v[i] for key, v in columns.items()}
      for i, name in enumerate(maps.layers)
    ]
  return records.stack(rows)


def show_units(config, inputs, number, flat):
  """Rows of the units with most images, in the first and the last layer."""
  network = layer_codes.unraveler(inputs.module, inputs)(flat['end'])
  xs, rows = inputs.train[0], []
  maps, found = fit_maps(config, inputs, network, number)
  forward = train.flax_forward(inputs.module)
  for layer in (0, -1):
    name, hits = maps.layers[layer], maps.counts[layer].sum(-1)
    units = np.argsort(-hits, kind='stable')[: config.num_units]

    def encode_one(network, x, name=name):
      _, hidden = layer_codes.forward_one(x, *network, forward=forward)
      return codes.pool(hidden[name], config.pooling)

    images = codes.unit_inputs(
      encode_one, network, maps, name, units, found[name], xs
    )
    aimed = {
      kind: codes.place(maps, encode(config, inputs, network, v))[layer]
      for kind, v in images.items()
    }
    rows.append(
      {
        'network': np.full(len(units), number),
        'layer': np.full(len(units), name),
        'hits': hits[units],
        'aimed': aimed['synthesized'] == units,
        'mean_aimed': aimed['mean'] == units,
      }
      | images
    )
  return records.concatenate(rows)


def trajectories(config, inputs, flat, most=10):
  """Rows of the layers of the first network: where ascent leads images."""
  network = layer_codes.unraveler(inputs.module, inputs)(flat)
  xs, labels = inputs.test
  found = attack(config, inputs, network)
  maps, _ = fit_maps(config, inputs, network, 0)
  clean, after = (
    encode(config, inputs, network, v) for v in (xs, found.moved[0])
  )
  right = clean['logits'].argmax(1) == labels
  fooled = np.flatnonzero(right & (found.wrong[0] != labels))[:most]
  num, side = len(maps.layers), config.map_size
  return {
    'layer': np.array(maps.layers),
    'class': maps.classes.reshape(num, side, side),
    'before': codes.place(maps, clean)[:, fooled],
    'after': codes.place(maps, after)[:, fooled],
    'class_before': np.tile(labels[fooled], (num, 1)),
    'class_after': np.tile(found.wrong[0][fooled], (num, 1)),
  }


# --- Judging ---------------------------------------------------------------

STATEMENTS = {
  'shifts': 'Perturbations by attacks grow along layers.',
  'adversarial units': 'Codes of adversarial inputs in deep layers are those '
  'of the wrong class.',
  'predictions': 'Codes of deep layers are correlated with predictions.',
  'predictions, strong': 'Codes are correlated with predictions where these '
  'are wrong.',
  'crowding': 'Homogeneous codes of shallow layers underlie vulnerability.',
  'crowding, learned': 'What makes shallow codes homogeneous, and inputs '
  'vulnerable, is learned.',
  'robust': 'Robust networks have more diverse codes in shallow layers.',
  'detection': 'Units tell adversarial inputs from others.',
  'features': 'Inputs that units stand for can be estimated.',
}
mean = functools.partial(statistics.t_mean, unit='networks')
share = functools.partial(statistics.proportion, unit='networks')
times = functools.partial(statistics.geometric_mean, unit='networks')


def known(values):
  """Estimates the mean over the networks that have a value."""
  return mean(values[np.isfinite(values)])


def group(results, training, kind):
  """Returns columns `[networks, layers]` under one kind of attack."""
  return records.by_unit(records.select(results, training=training, kind=kind))


def over_noise(of):
  """Returns shifts over those by noise `[networks, layers]`."""
  with np.errstate(divide='ignore', invalid='ignore'):
    return of['shift'] / of['noise_shift']


def of_units(features, layer, column):
  """Estimates a share of units, over networks."""
  rows = records.by_unit(records.select(features, layer=layer))
  return share(rows[column].mean(1))


def analyze(config, found):
  """What attacks do in layers, and what the claims say."""
  results, features = found['results'], found['features']
  judged = judge(results, features)
  shown = [
    shift_table(results),
    crowding_table(results),
    network_table(results),
    feature_table(features),
  ]
  return runner.Report(answer(config, results, judged), judged, shown)


def conditions(kinds, robust, features):
  """Returns the conditions of each claim."""
  above, rise = claims.above, layer_codes.rise
  ascent = kinds[ASCENT]
  beyond = lambda of, name: known((of[name] - of[f'noise_{name}'])[:, -1])
  growth = {k: over_noise(of) for k, of in kinds.items()}
  growth = {k: times(v[:, -1] / v[:, 0]) for k, v in growth.items()}
  deeper = known(rise(ascent['hit']))
  agreement = mean(rise(ascent['agreement']))
  lean = known(ascent['lean'][:, -1])
  crowding, start = (ascent[v][:, 0] for v in ('crowding', 'crowding_start'))
  learned = mean(crowding - start)
  aimed = {
    layer: of_units(features, layer, 'aimed')
    for layer in dict.fromkeys(features['layer'].tolist())
  }
  found = {
    'shifts': [
      above(f'last over first layer, {k},', v, 1) for k, v in growth.items()
    ],
    'adversarial units': [
      above('share beyond that under noise,', beyond(ascent, 'hit'), 0),
      above('share beyond that in the first layer,', deeper, 0),
    ],
    'predictions': [above('rise of the share of such units,', agreement, 0)],
    'predictions, strong': [
      above(
        'share of the predicted class beyond that of the right one,', lean, 0
      )
    ],
    'crowding': [above('correlation in the first layer,', mean(crowding), 0)],
    'crowding, learned': [
      above('correlation beyond that before training,', learned, 0)
    ],
    'robust': [],
    'detection': [
      above(f'AUROC beyond that of noise, {k},', beyond(of, 'auroc'), 0)
      for k, of in kinds.items()
    ],
    'features': [above(f'share in {k},', v, 0.5) for k, v in aimed.items()],
  }
  if len(robust['network']):
    ends = (np.log(of['cosine'][:, 0]) for of in (ascent, robust))
    change = statistics.welch(*ends, unit='networks')
    found['robust'] = [above('log ratio of cosine distances,', change, 0)]
  return found


def judge(results, features):
  """The claims of the module's docstring."""
  kinds = {kind: group(results, PLAIN, kind) for kind in KINDS}
  ascent, robust = kinds[ASCENT], group(results, ROBUST, ASCENT)
  found = conditions(kinds, robust, features)
  untrained = why_untrained(ascent['accuracy'].mean(), ascent, 'networks')
  trouble = dict.fromkeys(STATEMENTS, untrained)
  fooled = ascent['fooled'].mean()
  weak = f'ascent fools {fooled:.0%} of the images' if fooled < FOOLED else ''
  for name in ('shifts', 'adversarial units', 'detection'):
    trouble[name] = untrained or weak
  trouble['robust'] = untrained or why_not_robust(ascent, robust)
  return [
    claims.Claim('2205.10952', name, text, tuple(found[name]), trouble[name])
    for name, text in STATEMENTS.items()
  ]


def why_untrained(accuracy, of, whose):
  """Why networks of such an accuracy say nothing, or ''."""
  return claims.why_untrained(
    accuracy, of['chance'].mean(), whose=whose, way=LEARNED
  )


def why_not_robust(plain, robust):
  """Why no network is a robust one, or ''."""
  if not len(robust['network']):
    return 'no network was trained adversarially'
  whose = 'the worst adversarially trained networks'
  if why := why_untrained(robust['accuracy'].min(), robust, whose):
    return why
  ends = [of['distance'][:, 0] for of in (plain, robust)]
  if statistics.above(statistics.welch(*ends, unit='networks'), 0.0):
    return ''
  return (
    'adversarial training moved no boundary away: median distance '
    f'{ends[1].mean():.2g}, of plain networks {ends[0].mean():.2g}'
  )


def answer(config, results, judged):
  """One sentence."""
  ascent = group(results, PLAIN, ASCENT)
  ends = [tables.cell(times(over_noise(ascent)[:, i])) for i in (0, -1)]
  crowding = tables.cell(mean(ascent['crowding'][:, 0]))
  return (
    f'Attacks within {config.radius:g} move codes on the maps of '
    f'{config.dataset} {ends[0]} times as far as noise in the first hidden '
    f'layer and {ends[1]} times in the last; the distance of images to the '
    'boundary goes with how separate their first codes are by a partial rank '
    f'correlation of {crowding} ({config.num_networks} networks); '
    f'{claims.tally(judged)}.'
  )


# --- Tables ----------------------------------------------------------------


def shift_table(results):
  """Kinds of attack and layers: what attacks do, beside noise."""
  rows = []
  for kind in KINDS:
    of = group(results, PLAIN, kind)
    for i, layer in enumerate(of['layer'][0]):
      hits = known(of['hit'][:, i]), of['noise_hit'][:, i].mean()
      tells = known(of['auroc'][:, i]), of['noise_auroc'][:, i].mean()
      rows.append([kind, layer, times(over_noise(of)[:, i]), *hits, *tells])
  columns = [
    ('attack', ''),
    ('layer', ''),
    ('shift', 'on the map, over that of noise'),
    ('wrong unit', 'share of fooled images on units of that class'),
    ('unit, noise', 'the same images under noise'),
    ('AUROC', 'of telling them by how units doubt the class'),
    ('AUROC, noise', 'the same images under noise'),
  ]
  return tables.table('Attacks on the maps', columns, rows, spec='.2f')


def crowding_table(results):
  """Layers: crowding, and how many networks would decide on it."""
  of, rows = group(results, PLAIN, ASCENT), []
  for i, layer in enumerate(of['layer'][0]):
    crowding, start = of['crowding'][:, i], of['crowding_start'][:, i]
    less = crowding - start
    three = mean(crowding), mean(start), mean(less)
    rows.append([layer, *three, statistics.num_needed(less)])
  columns = [
    ('layer', ''),
    ('trained', ''),
    ('untrained', 'by the layer before training'),
    ('difference', ''),
    ('networks', 'that would decide its sign with a power of 80 %'),
  ]
  title = 'Crowding: partial rank correlation of separation and distance'
  return tables.table(title, columns, rows, spec='z.3f')


def network_table(results):
  """Accuracy, distance, units and predictions, by training."""
  groups = {v: group(results, v, ASCENT) for v in (PLAIN, ROBUST)}
  rows = [
    [
      training,
      share(of['accuracy'][:, 0]),
      mean(of['distance'][:, 0]),
      share(of['fooled'][:, 0]),
      times(of['cosine'][:, 0]),
      share(of['agreement'][:, -1]),
    ]
    for training, of in groups.items()
    if len(of['network'])
  ]
  columns = [
    ('training', ''),
    ('accuracy', 'on test images', '', '.1%'),
    ('distance', 'median, l2', '', '.2f'),
    ('fooled', 'by ascent', '', '.0%'),
    ('cosine', 'distance of units of the first layer', '', '.1e'),
    ('agreement', "units' classes that are predicted, last layer", '', '.0%'),
  ]
  return tables.table('Networks', columns, rows)


def feature_table(features):
  """Inputs that were synthesized for units."""
  rows = [
    [layer, *(of_units(features, layer, v) for v in ('aimed', 'mean_aimed'))]
    for layer in dict.fromkeys(features['layer'].tolist())
  ]
  columns = [
    ('layer', ''),
    ('synthesized', ''),
    ('mean image', 'of the images on the unit'),
  ]
  title = 'Share of inputs that lie on the unit that they stand for'
  return tables.table(title, columns, rows, spec='.0%')


EXPERIMENT = runner.Experiment(
  'experiments.attack_codes', __doc__, Config, PRESETS, COLUMNS,
  measure, analyze, figures.draw, load=load, check=check,
)  # fmt: skip
run = EXPERIMENT.run

if __name__ == '__main__':
  EXPERIMENT.main()
