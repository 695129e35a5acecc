"""Do attacks enter a network where its codes are crowded?

Lee and Vijayan, https://arxiv.org/abs/2205.10952: homogeneous codes of shallow
layers may underlie the vulnerability to adversarial perturbations; codes, the
units of self-organising maps, go with predictions; inputs of a unit can be
estimated. Only abstracts and a summary could be had: attacks, measures and
thresholds are ours. What layers are is in `experiments.som_codes`.

  python -m experiments.attack_codes
  python -m experiments.attack_codes --preset=mnist --data_dir=DIR
  python -m experiments.attack_codes --preset=cifar --data_dir=DIR

The first takes 4 minutes of one core, --preset=quick 1, mnist and cifar 3.
A run that was killed goes on where it was.

Each layer's codes (means over pixels, or maxima) of the training images are
laid out on a map. Test images are moved by projected gradient ascent within
linf --radius, and to the nearest point of the decision boundary in l2; beside
either stands noise of the same size at the same images. Shifts are distances on
the map. Images that a network has wrong are not attacked.

The separation of an image is the distance from its unit's code to that of the
nearest unit of another class, in units of what noise moves codes: small where
codes are crowded. A network's crowding is the partial rank correlation, over
its images, of separation and distance to the boundary, given the margin of the
logits. The unit of every interval is the network.

Claims, each with what would refute it:

  shifts               shifts over those of noise are no larger in the last
                       hidden layer than in the first
  adversarial units    in the last layer, images that ascent fools lie on units
                       of the wrong class no more often than under noise, or no
                       more often than in the first layer
  predictions          units' classes are no more often the predicted ones in
                       the last layer than in the first
  predictions, strong  for wrongly classified images, the last layer's units are
                       rather of the right class than of the predicted one
  crowding             crowding in the first layer is not positive: images with
                       crowded codes are no nearer to the boundary
  crowding, learned    it is no larger than by the layer before training, to
                       which no boundary has been told
  robust               the first layer's units point no farther apart in
                       adversarially trained networks than in others
  detection            attacked images lie on units that doubt the predicted
                       class no more than images under noise do
  features             inputs synthesized for units lie on other units in half
                       of the cases or more

Not tested where networks get less than a quarter of the way from a guess to no
errors, where ascent fools less than a tenth of the images, or, for `robust`,
where one of the adversarially trained networks gets no farther either, or their
training moves no boundary away.
"""

import dataclasses
import functools
from typing import Any
from typing import NamedTuple

import jax
import numpy as np
import optax

from dmm_jax import boundary
from dmm_jax import codes
from dmm_jax import data
from dmm_jax import models
from dmm_jax import parallel
from dmm_jax import programs
from dmm_jax import records
from dmm_jax import statistics
from dmm_jax import train
from dmm_jax.train import adversarial
from dmm_jax.train import populations
from experiments.figures import attack_codes as figures
from experiments.lib import claims
from experiments.lib import flags
from experiments.lib import runner
from experiments.lib import tables

PLAIN, ROBUST = 'plain', 'adversarial'
ASCENT, NEAREST = KINDS = ('ascent', 'nearest point')
LEARNED, FOOLED = 0.25, 0.1
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
  num_steps: int = flags.flag(400, 'Steps of training.', least=1)
  learning_rate: float = flags.flag(
    0.05, 'Learning rate of SGD with momentum 0.9; constant.', least=0
  )
  radius: float = flags.flag(
    0.1, 'Radius of ascent in linf, of input units.', least=0
  )
  train_radius: float = flags.flag(
    0.1, 'The same of adversarial training.', least=0
  )
  map_size: int = flags.flag(
    12, 'Units along each side of a map.', least=2, most=100
  )
  num_epochs: int = flags.flag(30, 'Epochs of fitting a map.', least=1)
  num_units: int = flags.flag(
    6, 'Units of a layer that inputs are synthesized for.', least=1
  )


PRESETS = {
  'quick': dict(
    workdir='runs/attack_codes_quick',
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
    workdir='runs/attack_codes_mnist',
    dataset='mnist',
    num_train=3000,
    num_images=200,
    num_networks=8,
    num_robust=4,
    num_steps=250,
  ),
  'cifar': dict(
    workdir='runs/attack_codes_cifar',
    dataset='cifar10',
    num_train=3000,
    num_images=200,
    num_networks=8,
    num_robust=0,
    num_steps=300,
    learning_rate=0.03,
    radius=0.01,
  ),
}


def check(config):
  """Raises FlagError for flags that do not go together."""
  if config.width % 2:
    raise flags.FlagError(f'--width={config.width} is not even')
  if config.num_units > config.map_size**2:
    raise flags.FlagError(
      f'--num_units={config.num_units}: a map has {config.map_size**2}'
    )


# --- Data and networks -----------------------------------------------------


class Inputs(NamedTuple):
  """Images and labels, and an untrained network for them."""

  train: tuple
  test: tuple
  module: Any


def load(config):
  """Returns `Inputs`."""
  sets = []
  for split, flag in (('train', 'num_train'), ('test', 'num_images')):
    pair = data.load(config.dataset, split, config.data_dir or None)
    num = getattr(config, flag)
    if num > len(pair[1]):
      raise flags.FlagError(f'--{flag}={num}: there are {len(pair[1])} images')
    sets.append(tuple(column[: num or None] for column in pair))
  widths = tuple(config.width * k // 2 for k in (1, 2, 2, 4))
  num_classes = int(sets[0][1].max()) + 1
  module: Any = models.MLP(widths, num_classes)
  if config.model == 'cnn':
    stride = 1 if sets[0][0].shape[1] < 16 else 2
    module = models.CNN(
      widths, (), 0, (stride, 2, 1, 2), pooled=True, num_classes=num_classes
    )
  return Inputs(*sets, module)


def measure(config, inputs):
  """Yields the units: populations, then what attacks do in each network."""
  ball = adversarial.Adversary(config.train_radius, np.inf, num_steps=1)
  kinds = {
    PLAIN: (config.num_networks, None),
    ROBUST: (config.num_robust, ball),
  }
  for number, (name, (num, adversary)) in enumerate(kinds.items()):
    if not num:
      continue
    rows = functools.partial(train_rows, config, inputs, number, num, adversary)
    parameters = (
      yield runner.Unit(f'train-{name}', rows, f'parameters_{name}')
    ).result()
    for network in range(num):
      flat = {when: parameters[when][network] for when in ('start', 'end')}
      of = {'training': name, 'network': network}
      rows = functools.partial(measure_network, config, inputs, of, flat)
      yield runner.Unit(f'{name}-{network:02d}', rows)
      if name == PLAIN:
        rows = functools.partial(show_units, config, inputs, of, flat['end'])
        yield runner.Unit(f'features-{network:02d}', rows, 'features')
    if name == PLAIN:
      first = parameters['end'][0]
      rows = functools.partial(trajectories, config, inputs, first)
      yield runner.Unit('trajectories', rows, 'trajectories')


def train_rows(config, inputs, number, num, adversary):
  """Rows of a population's parameters, before and after training."""
  found = populations.fit(
    jax.random.fold_in(jax.random.key(config.seed), number),
    inputs.module,
    *inputs.train,
    num=num,
    config=train.TrainConfig(
      optimizer='momentum',
      learning_rate=config.learning_rate,
      schedule='constant',
      batch_size=64,
      adversary=adversary,
    ),
    num_steps=config.num_steps,
    pause_steps=[0],
  )
  return dict(zip(('start', 'end'), found.parameters, strict=True))


# --- Measuring -------------------------------------------------------------


def call(x, params, stats, *, forward):
  """Returns logits and codes of one image and one network."""
  return forward(params, stats, x, None, False)[0]


def ascend(x, label, number, params, stats, *, forward, radius):
  """Returns an image after projected gradient ascent of its label's loss."""
  logits_fn = functools.partial(populations.logits, forward, (params, stats))
  loss = lambda v: optax.losses.softmax_cross_entropy_with_integer_labels(
    logits_fn(v), label
  )
  ball = adversarial.Adversary(radius, np.inf, num_steps=20, step_size=0.2)
  return adversarial.perturb(jax.random.key(number), loss, x, ball)


class Attacked(NamedTuple):
  """Test images after each kind of attack, and after noise `[kinds, n, ...]`.

  Attributes:
    moved, noisy: the images.
    wrong: the class that the attack leads to `[kinds, n]`.
    distance: of the nearest point `[n]`, 0 of images that are wrong already.
  """

  moved: np.ndarray
  noisy: np.ndarray
  wrong: np.ndarray
  distance: np.ndarray


def attack(config, inputs, network):
  """Returns `Attacked`."""
  (xs, labels), forward = inputs.test, train.flax_forward(inputs.module)
  numbers = np.arange(len(xs))
  ascended = parallel.map_examples(
    programs.bind(ascend, forward=forward, radius=config.radius),
    (xs, labels, numbers),
    shared=network,
  )
  found = boundary.measure(
    functools.partial(populations.logits, forward),
    *(xs, labels),
    params=network,
    bounds=(0.0, 1.0),
    method='fast',
  )
  moved = np.stack([ascended, found.point])
  keys = jax.vmap(jax.random.key)(numbers + len(xs))
  like = functools.partial(codes.matched_noise, bounds=(0.0, 1.0))
  noisy = [
    jax.device_get(jax.vmap(functools.partial(like, norm=norm))(keys, xs, v))
    for norm, v in zip((np.inf, 2), moved, strict=True)
  ]
  after = encode(config, inputs, network, ascended)['logits'].argmax(1)
  wrong = np.stack([after, np.where(found.target < 0, labels, found.target)])
  return Attacked(moved, np.stack(noisy), wrong, found.distance)


def encode(config, inputs, network, xs):
  """Returns codes of images by hidden layer, and logits."""
  found = codes.of_network(
    programs.bind(call, forward=train.flax_forward(inputs.module)),
    xs,
    shared=network,
    pooling=config.pooling,
  )
  del found['input']
  return found


def fit_maps(config, inputs, network, number):
  """Returns maps of the hidden layers' codes of training images, and these."""
  found = encode(config, inputs, network, inputs.train[0])
  del found['logits']
  maps = codes.fit_maps(
    jax.random.fold_in(jax.random.key(config.seed + 1), number),
    found,
    inputs.train[1],
    grid=2 * (config.map_size,),
    num_epochs=config.num_epochs,
  )
  return maps, found


def measure_network(config, inputs, of, flat):
  """Rows of a network: kinds of attack and layers."""
  unravel = populations.unraveler(inputs.module, inputs.train[0][0])
  network, (xs, labels) = unravel(flat['end']), inputs.test
  found = attack(config, inputs, network)
  maps, trained_on = fit_maps(config, inputs, network, of['network'])
  clean = encode(config, inputs, network, xs)
  predicted, units = clean['logits'].argmax(1), codes.place(maps, clean)
  right = predicted == labels
  top = np.sort(clean['logits'], axis=1)
  ranked = found.distance, top[:, -1] - top[:, -2], right
  before = unravel(flat['start'])
  untrained, _ = fit_maps(config, inputs, before, of['network'])
  by_layer = codes.agreement(maps, units, predicted, labels) | {
    'cosine': codes.map_statistics(maps, trained_on, inputs.train[1])['cosine'],
    'crowding': crowding(config, inputs, network, maps, found, ranked),
    'crowding_start': crowding(
      config, inputs, before, untrained, found, ranked
    ),
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
      'chance': np.bincount(labels).max() / len(labels),
      'distance': np.median(found.distance[right]),
      'fooled': np.mean(wrong != labels[right]),
    }
    for layer, name in enumerate(maps.layers):
      row = same | {'layer': name}
      rows.append(row | {key: v[layer] for key, v in columns.items()})
  return {name: np.array([row[name] for row in rows]) for name in rows[0]}


def crowding(config, inputs, network, maps, found, ranked):
  """Returns the correlation of separation and distance by layer `[L]`."""
  clean, noisy = (
    encode(config, inputs, network, v) for v in (inputs.test[0], found.noisy[0])
  )
  away = codes.class_separation(maps, clean, inputs.test[1], noisy)
  distance, margin, right = ranked
  result = []
  for of_layer in away:
    known = right & ~np.isnan(of_layer)
    columns = (v[known] for v in (distance, of_layer, margin))
    enough = known.sum() > 3
    result.append(statistics.partial_rank(*columns) if enough else np.nan)
  return np.array(result)


def synthesize(number, target, start, shift, slope, params, stats, *, options):
  """Returns an image whose code is near that of a unit."""
  forward, layer, pooling = options

  def encode_one(x):
    _, hidden = call(x, params, stats, forward=forward)
    return (codes.pool(hidden[layer], pooling) - shift) / slope

  return codes.synthesize(
    jax.random.key(number), encode_one, target, start, num_steps=100,
    roughness=0.01,
  )  # fmt: skip


def show_units(config, inputs, of, flat):
  """Rows of the units with most images, in the first and the last layer."""
  unravel = populations.unraveler(inputs.module, inputs.train[0][0])
  network, xs, rows = unravel(flat), inputs.train[0], []
  maps, found = fit_maps(config, inputs, network, of['network'])
  forward = train.flax_forward(inputs.module)
  for layer in (0, len(maps.layers) - 1):
    name, hits = maps.layers[layer], maps.counts[layer].sum(-1)
    chosen = np.argsort(-hits, kind='stable')[: config.num_units]
    width = found[name].shape[1]
    own = np.asarray(maps.layer(name).units)[:, :width]
    made = parallel.map_examples(
      programs.bind(synthesize, options=(forward, name, config.pooling)),
      (chosen, own[chosen]),
      shared=(
        np.full_like(xs[0], 0.5),
        maps.mean[layer, :width],
        maps.spread[layer, :width],
        *network,
      ),
    )
    mine = [maps.units[layer] == unit for unit in chosen]
    means = np.stack([xs[v].mean(0) if v.any() else 0 * xs[0] for v in mine])
    lie = lambda v, i=layer: codes.place(
      maps, encode(config, inputs, network, v)
    )[i]
    standard = codes.scale(maps, found)[layer, :, :width]
    near = [np.argmin(np.sum((standard - own[u]) ** 2, 1)) for u in chosen]
    rows.append(
      {
        'network': np.full(len(chosen), of['network']),
        'layer': np.full(len(chosen), name),
        'hits': hits[chosen],
        'mean': means,
        'nearest': xs[near],
        'synthesized': made,
        'aimed': lie(made) == chosen,
        'mean_aimed': lie(means) == chosen,
      }
    )
  return records.concatenate(rows)


def trajectories(config, inputs, flat, most=10):
  """Rows of the layers of the first network: where ascent leads images."""
  unravel = populations.unraveler(inputs.module, inputs.train[0][0])
  network, (xs, labels) = unravel(flat), inputs.test
  found = attack(config, inputs, network)
  maps, _ = fit_maps(config, inputs, network, 0)
  clean = encode(config, inputs, network, xs)
  right = clean['logits'].argmax(1) == labels
  fooled = np.flatnonzero(right & (found.wrong[0] != labels))[:most]
  after = encode(config, inputs, network, found.moved[0])
  ends = [codes.place(maps, v)[:, fooled] for v in (clean, after)]
  num, square = len(maps.layers), 2 * (config.map_size,)
  return {
    'layer': np.array(maps.layers),
    'class': maps.classes.reshape(num, *square),
    'before': ends[0],
    'after': ends[1],
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


class Group(NamedTuple):
  """Columns `[networks, layers]` of networks under one kind of attack."""

  columns: dict

  def ends(self, name):
    """Returns a column in the first and in the last hidden layer."""
    return self.columns[name][:, 0], self.columns[name][:, -1]

  def rise(self, name):
    """Returns how much more there is in the last than in the first."""
    first, last = self.ends(name)
    return last - first

  def ratio(self):
    """Returns logarithms of shifts over those by noise; NaN of no shift."""
    with np.errstate(divide='ignore', invalid='ignore'):
      found = np.log(self.columns['shift'] / self.columns['noise_shift'])
    return np.where(np.isfinite(found), found, np.nan)


def group(results, training, kind):
  """Returns a `Group`; None where there are no such networks."""
  rows = records.select(results, training=training, kind=kind)
  many = len(np.unique(rows['network']))
  columns = {k: v.reshape(many, -1) for k, v in rows.items()} if many else {}
  return Group(columns) if many else None


def times(logs):
  """Estimates a ratio from its logarithms."""
  found = mean(logs)
  value, low, high = np.exp(found[:3]).tolist()
  return found._replace(value=value, low=low, high=high)


def known(values):
  """Estimates the mean over the networks that have a value."""
  return mean(values[np.isfinite(values)])


def needed(values):
  """Returns how many networks would decide the sign of a mean, 4 times in 5.

  Of as large a mean and spread as these networks have; the normal
  approximation of the power of Student's test.
  """
  size = abs(np.mean(values)) / np.std(values, ddof=1)
  return int(np.ceil((2.80 / size) ** 2)) + 2 if size > 0 else None


def analyze(config, found):
  """What attacks do in layers, and what the claims say."""
  results, features = found['results'], found['features']
  judged = judge(config, results, features)
  shown = [
    shift_table(results),
    crowding_table(results),
    network_table(results),
    feature_table(features),
  ]
  return runner.Report(answer(config, results, judged), judged, shown)


def judge(config, results, features):
  """The claims of the module's docstring."""
  above = claims.above
  kinds = {kind: group(results, PLAIN, kind) for kind in KINDS}
  ascent, robust = kinds[ASCENT], group(results, ROBUST, ASCENT)
  grow = {k: v.ratio()[:, -1] - v.ratio()[:, 0] for k, v in kinds.items()}
  told = {k: (v.columns['auroc'] - v.columns['noise_auroc'])[:, -1]
          for k, v in kinds.items()}  # fmt: skip
  hit = (ascent.columns['hit'] - ascent.columns['noise_hit'])[:, -1]
  crowded, before = (ascent.ends(v)[0] for v in ('crowding', 'crowding_start'))
  found = {
    'shifts': [
      above(f'last over first layer, {k},', times(v), 1.0)
      for k, v in grow.items()
    ],
    'adversarial units': [
      above('share beyond that under noise,', known(hit), 0.0),
      above(
        'share beyond that in the first layer,', known(ascent.rise('hit')), 0.0
      ),
    ],
    'predictions': [
      above(
        'rise of the share of such units,', mean(ascent.rise('agreement')), 0
      )
    ],
    'predictions, strong': [
      above(
        'share of the predicted class beyond that of the right one,',
        known(ascent.ends('lean')[1]),
        0.0,
      )
    ],
    'crowding': [above('correlation in the first layer,', mean(crowded), 0.0)],
    'crowding, learned': [
      above(
        'correlation beyond that before training,', mean(crowded - before), 0.0
      )
    ],
    'robust': [],
    'detection': [
      above(f'AUROC beyond that of noise, {k},', known(v), 0.0)
      for k, v in told.items()
    ],
    'features': [
      above(f'share in {layer},', of_units(features, layer, 'aimed'), 0.5)
      for layer in dict.fromkeys(features['layer'].tolist())
    ],
  }
  if robust:
    ends = (np.log(v.ends('cosine')[0]) for v in (ascent, robust))
    change = statistics.welch(*ends, unit='networks')
    found['robust'] = [above('log ratio of cosine distances,', change, 0.0)]
  why = why_not_tested(ascent)
  trouble = dict.fromkeys(STATEMENTS, why['learned'])
  for name in ('shifts', 'adversarial units', 'detection'):
    trouble[name] = why['learned'] or why['fooled']
  trouble['robust'] = why['learned'] or why_not_robust(ascent, robust)
  return [
    claims.Claim('2205.10952', name, said, tuple(found[name]), trouble[name])
    for name, said in STATEMENTS.items()
  ]


def why_not_tested(of):
  """Why networks or attacks say nothing, by what is wrong; '' each, or why."""
  right, chance = (of.columns[v].mean() for v in ('accuracy', 'chance'))
  fooled, why = of.columns['fooled'].mean(), {'learned': '', 'fooled': ''}
  if right < chance + LEARNED * (1 - chance):
    why['learned'] = (
      f'{right:.0%} of test images are classified correctly, less than a '
      f'quarter of the way from a guess ({chance:.0%}) to all'
    )
  if fooled < FOOLED:
    why['fooled'] = f'ascent fools {fooled:.0%} of the images'
  return why


def why_not_robust(plain, robust):
  """Why no network is a robust one, or ''."""
  if robust is None:
    return 'no network was trained adversarially'
  worst, chance = (robust.columns[v].min() for v in ('accuracy', 'chance'))
  if worst < chance + LEARNED * (1 - chance):
    return (
      f'an adversarially trained network classifies {worst:.0%} of test images '
      'correctly'
    )
  ends = [of.columns['distance'][:, 0] for of in (plain, robust)]
  if statistics.above(statistics.welch(*ends, unit='networks'), 0.0):
    return ''
  return (
    'adversarial training moved no boundary away: median distance '
    f'{ends[1].mean():.2g}, of plain networks {ends[0].mean():.2g}'
  )


def of_units(features, layer, column):
  """Estimates a share of units, over networks."""
  rows = records.select(features, layer=layer)
  many = len(np.unique(rows['network']))
  shares = rows[column].reshape(many, -1).mean(1)
  return statistics.proportion(shares, unit='networks')


def answer(config, results, judged):
  """One sentence."""
  ascent = group(results, PLAIN, ASCENT)
  ends = [times(ascent.ratio()[:, i]) for i in (0, -1)]
  crowded = mean(ascent.ends('crowding')[0])
  held = sum(claim.verdict == claims.SUPPORTED for claim in judged)
  return (
    f'Attacks within {config.radius:g} move codes on the maps of '
    f'{config.dataset} {tables.cell(ends[0])} times as far as noise in the '
    f'first hidden layer and {tables.cell(ends[1])} times in the last; the '
    'distance of images to the boundary goes with how separate their first '
    f'codes are by a partial rank correlation of {tables.cell(crowded)} '
    f'({config.num_networks} networks); {held} of {len(judged)} claims are '
    'supported.'
  )


# --- Tables ----------------------------------------------------------------


def table(title, columns, rows):
  made = [tables.Column(name, '', said, spec) for name, said, spec in columns]
  return tables.Table(title, made, rows)


def shift_table(results):
  """Kinds of attack and layers: what attacks do, beside noise."""
  rows = []
  for kind in KINDS:
    of = group(results, PLAIN, kind)
    for i, layer in enumerate(of.columns['layer'][0]):
      at = lambda name, of=of, i=i: known(of.columns[name][:, i])
      rows.append(
        [
          kind,
          layer,
          times(of.ratio()[:, i]),
          at('hit'),
          float(of.columns['noise_hit'][:, i].mean()),
          at('auroc'),
          float(of.columns['noise_auroc'][:, i].mean()),
        ]
      )
  return table(
    'Attacks on the maps',
    [
      ('attack', '', ''),
      ('layer', '', ''),
      ('shift', 'on the map, over that of noise', '.2f'),
      ('wrong unit', 'share of fooled images on units of that class', '.2f'),
      ('noise', 'the same images under noise', '.2f'),
      ('AUROC', 'of telling them by how units doubt the class', '.2f'),
      ('noise ', 'the same images under noise', '.2f'),
    ],
    rows,
  )


def crowding_table(results):
  """Layers: crowding, and how many networks would decide on it."""
  of, rows = group(results, PLAIN, ASCENT), []
  for i, layer in enumerate(of.columns['layer'][0]):
    crowded, before = (
      of.columns[v][:, i] for v in ('crowding', 'crowding_start')
    )
    less = crowded - before
    rows.append([layer, mean(crowded), mean(before), mean(less), needed(less)])
  return table(
    'Crowding: partial rank correlation of separation and distance',
    [
      ('layer', '', ''),
      ('trained', '', 'z.3f'),
      ('untrained', 'by the layer before training', 'z.3f'),
      ('difference', '', 'z.3f'),
      ('networks', 'that would decide its sign with a power of 80 %', ''),
    ],
    rows,
  )


def network_table(results):
  """Accuracy, distance, units and predictions, by training."""
  rows = []
  for training in (PLAIN, ROBUST):
    if of := group(results, training, ASCENT):
      share = functools.partial(statistics.proportion, unit='networks')
      rows.append(
        [
          training,
          share(of.columns['accuracy'][:, 0]),
          mean(of.columns['distance'][:, 0]),
          share(of.columns['fooled'][:, 0]),
          times(np.log(of.ends('cosine')[0])),
          share(of.ends('agreement')[1]),
        ]
      )
  return table(
    'Networks',
    [
      ('training', '', ''),
      ('accuracy', 'on test images', '.1%'),
      ('distance', 'median, l2', '.2f'),
      ('fooled', 'by ascent', '.0%'),
      ('cosine', 'distance of units of the first layer', '.1e'),
      ('agreement', "units' classes that are predicted, last layer", '.0%'),
    ],
    rows,
  )


def feature_table(features):
  """Inputs that were synthesized for units."""
  rows = [
    [layer, *(of_units(features, layer, v) for v in ('aimed', 'mean_aimed'))]
    for layer in dict.fromkeys(features['layer'].tolist())
  ]
  return table(
    'Share of inputs that lie on the unit that they stand for',
    [
      ('layer', '', ''),
      ('synthesized', '', '.0%'),
      ('mean image', 'of the images on the unit', '.0%'),
    ],
    rows,
  )


EXPERIMENT = runner.Experiment(
  'experiments.attack_codes', __doc__, Config, PRESETS, COLUMNS,
  measure, analyze, figures.draw, load=load, check=check,
)  # fmt: skip
run = EXPERIMENT.run

if __name__ == '__main__':
  EXPERIMENT.main()
