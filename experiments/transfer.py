"""Why do adversarial examples of one network fool another, and since when?

BenShmuel (2022), "Meet You Halfway", https://arxiv.org/abs/2206.04463, and
"Early Transferability", https://arxiv.org/abs/2206.04472. Only the abstracts
could be had: definitions and thresholds are ours.

  python -m experiments.transfer
  python -m experiments.transfer --preset=mnist --data_dir=DIR
  python -m experiments.transfer --preset=cifar --data_dir=DIR
  python -m experiments.transfer --network=my.nets:a,my.nets:b,my.nets:c,... \
    --num_networks=4

The first takes 3 minutes of one core, --preset=quick 1.5; mnist and cifar about
20. A run that was killed goes on where it was.

Networks of several populations attack all networks with right labels, within
the radius up to which 90 % of the images have a nearest boundary point of the
source's population. A rate is the share of the images that the target has right
before and not after. Intervals are over networks, of parts over pairs of
networks, on the logit scale.

Rates' logits are explained by what two networks have in common at other images
(concordance: the correlation of where segments between images are crossed;
cosine of adversarial directions), or by the accuracies of both. Each pair is
predicted by a fit to the pairs of all other networks, so that what is unrelated
explains nothing. Within strata, the mean of each population of sources at each
of targets is known, and not explained. Halves of the images tell how much their
draw leaves to explain.

Rates stand beside those of noise and of steps of other images of the same size,
and of examples of networks that learned random labels; what networks have in
common stands beside what accuracies predict. Either is refuted where it is no
larger. Two networks on disjoint parts have no common image. Nothing is tested
where networks get less than half way from a guess to no errors, or where a
population's examples fool less than 0.7 of their own sources, and nothing of
the first steps where accuracy rises with the first of them. Digits are no test
of 0.7 and 0.05, which came from them.
"""

import dataclasses
import functools
from typing import Any
from typing import NamedTuple

from flax import linen as nn
import jax
import numpy as np
from scipy import special

from dmm_jax import boundary
from dmm_jax import data
from dmm_jax import halfway
from dmm_jax import models
from dmm_jax import records
from dmm_jax import statistics
from dmm_jax import train
from dmm_jax.train import populations
from experiments.figures import transfer as figures
from experiments.lib import claims
from experiments.lib import flags
from experiments.lib import own
from experiments.lib import runner
from experiments.lib import splits
from experiments.lib import tables

SMALL = {
  'cnn': dict(channels=(16, 32), strides=(2, 2), pools=0, widths=()),
  'mlp': dict(widths=(100, 100)),
  'deep_linear': dict(widths=(100, 100)),
}
OTHER = 'other image'
KINDS = ('own', OTHER, 'noise')  # Steps away from an image.
MATCHED = 100  # Images that tell the radius of an attack.
LEAST_SUCCESS = 0.7  # Of examples at their own sources, to be tested.
EXPLAINED = 0.7  # Share of what can be, in the strong claim.
RISE = 0.02  # Of accuracy, up to which it has not left its initial value.
LEAST = 0.05  # Cosine, and gain in rate, by then.
COLUMNS = {
  'parameters': ('', 'variables of the network, flat'),
  'population': ('', 'its architecture, and what it was trained on'),
  'network': ('', 'its number in its population'),
  'accuracy': ('', 'share of test images that it gives the right class'),
  'chance': ('', 'share of test images of the commonest class'),
  'radius': ('input units', 'that holds most nearest points; 0: not sought'),
  'fraction': ('', 'of the way, where segments are crossed; NaN for nowhere'),
  'cosine': ('', 'of adversarial directions with each network; mean'),
  'source': ('', 'row of networks.npz: whose examples'),
  'target': ('', 'row of networks.npz: who may be fooled'),
  'kind': ('', 'what moves the images: one of KINDS'),
  'images': ('', 'that the target has right, of each half of the images'),
  'hits': ('', 'those of them that it has not right after the step'),
  'step': ('', 'of training'),
  'rate': ('', 'share of such images, at each finished network'),
}


@dataclasses.dataclass(frozen=True)
class Config:
  preset: str = flags.preset()
  workdir: str = flags.workdir('runs/transfer')
  seed: int = flags.seed()
  dataset: str = flags.dataset()
  data_dir: str = flags.data_dir()
  num_classes: int = flags.num_classes()
  num_train: int = flags.num_train()
  models: tuple[str, ...] = flags.flag(
    ('mlp', 'cnn', 'linear'),
    'Architectures; the first one also has parts, random labels, small steps.',
    choices=('mlp', 'cnn', 'deep_linear', 'linear'),
  )
  parts: tuple[int, ...] = flags.flag(
    (50, 700), 'Images of each of two disjoint parts.', least=10
  )
  network: str = own.beside_models()
  data: str = flags.flag('', own.DATA_HELP + ' Inputs lie in [0, 1].')
  num_networks: int = flags.flag(
    16, 'Number of networks of each population; even.', least=4
  )
  num_steps: int = flags.num_steps(1000)
  learning_rate: float = flags.learning_rate(0.05)
  early_rate: float = flags.flag(
    0.001, 'Learning rate where the first steps are followed.', least=0
  )
  early_steps: int = flags.flag(100, 'How many steps are.', least=1)
  num_images: int = flags.flag(
    360, 'Test images that are attacked; as many others compare.', least=20
  )
  num_segments: int = flags.flag(1000, 'Segments between the latter.', least=30)


PRESETS = {
  'quick': dict(
    models=('mlp', 'linear'),
    num_networks=12,
    num_steps=300,
    num_segments=300,
  ),
  'default': {},
  'mnist': dict(
    dataset='mnist',
    num_train=10000,
    parts=(100, 5000),
    num_networks=12,
    num_images=500,
  ),
  'cifar': dict(
    dataset='cifar10',
    num_classes=2,
    models=('cnn', 'mlp', 'linear'),
    parts=(200, 2000),
    num_networks=8,
    num_steps=600,
    learning_rate=0.01,
    num_images=500,
  ),
}


# --- Data and networks -----------------------------------------------------


class Inputs(NamedTuple):
  """Images and labels, and pairs of the others of different class."""

  train: tuple
  test: tuple
  given: Any  # The user's networks as a module; None without.
  attacked: tuple  # Of the test images.
  others: tuple  # Of the training images.
  pairs: np.ndarray


def load(config):
  """Returns `Inputs`."""
  sets, given = splits.load_with_networks(config)
  known, test = sets['train'], sets['test']
  for flag, wanted, there in (
    ('num_classes', config.num_classes, len(np.unique(known[1]))),
    ('parts', 2 * max(config.parts), len(known[1])),
    ('num_images', config.num_images, min(len(known[1]), len(test[1]))),
  ):
    if wanted > there:
      raise flags.FlagError(f'--{flag} asks for {wanted}, there are {there}')
  if config.num_networks % 2:
    raise flags.FlagError(f'--num_networks={config.num_networks} is not even')
  if any(xs.min() < 0 or xs.max() > 1 for xs, _ in (known, test)):
    raise flags.FlagError(f'--data={config.data}: inputs outside [0, 1]')
  rng, drawn = np.random.default_rng(config.seed), []
  for pair in (test, known):
    rows = rng.permutation(len(pair[1]))[: config.num_images]
    drawn.append(tuple(column[rows] for column in pair))
  key = jax.random.key(config.seed)
  pairs = halfway.opposite_pairs(key, drawn[1][1], config.num_segments)
  return Inputs(known, test, given, *drawn, pairs)


class Kind(NamedTuple):
  """A population: its name, its network, and what its examples share."""

  name: str
  module: nn.Module
  condition: populations.Condition


def populations_of(config, given=None):
  """Returns the `Kind` of each population; random labels come last."""
  first, condition = config.models[0], populations.Condition
  kinds = [(model, model, condition()) for model in own.architectures(config)]
  kinds += [
    (f'{first} on {num}', first, condition(parts=2, part_size=num, group=2))
    for num in sorted(config.parts)
  ]
  kinds.append((f'{first}, random', first, condition(random_labels=True)))

  def make(model):
    if model == own.GIVEN:
      return given
    options = SMALL.get(model, {})
    return models.CLASSIFIERS[model](num_classes=config.num_classes, **options)

  return [Kind(name, make(model), c) for name, model, c in kinds]


def fit(config, inputs, kind, number, rate, steps):
  """Trains networks from seeds of their own; parameters `[steps, m, p]`."""
  return populations.fit(
    jax.random.fold_in(jax.random.key(config.seed), number),
    kind.module,
    *inputs.train,
    condition=kind.condition,
    num=config.num_networks,
    config=populations.constant_rate(rate),
    num_steps=steps[-1],
    pause_steps=steps,
  ).parameters


# --- Measuring -------------------------------------------------------------


def measure(config, inputs):
  """Yields the units: populations, what they have in common, their attacks.

  networks: a row a network; results: a row a (source, target, kind); early: a
  row a (step of training, network).
  """
  kinds, everyone = populations_of(config, inputs.given), []
  for number, kind in enumerate(kinds):
    rows = functools.partial(train_rows, config, inputs, kind, number)
    unit = runner.Unit(f'train-{number}', rows, f'parameters_{number}')
    parameters = (yield unit).result()['parameters']
    image = inputs.train[0][0]
    everyone.append(populations.stack(kind.module, parameters, image))
  rows = functools.partial(describe, config, inputs, kinds, everyone)
  radius = (yield runner.Unit('networks', rows, 'networks')).result()['radius']
  radius = radius.reshape(len(everyone), -1).mean(1)
  radius[-1] = radius[0]  # Random labels have no boundary points of their own.
  for number, size in enumerate(radius):
    rows = functools.partial(attack, config, inputs, everyone, number, size)
    yield runner.Unit(f'attack-{number}', rows)
  rows = functools.partial(
    first_steps, config, inputs, kinds[0], everyone[0], radius[0]
  )
  yield runner.Unit('early', rows, 'early')


def train_rows(config, inputs, kind, number):
  """Rows of a population's parameters; of the user's: numbers of networks."""
  if kind.name == own.GIVEN:
    numbers = np.arange(config.num_networks, dtype=np.int32)
    return {'parameters': numbers[:, None]}
  steps = (config.num_steps,)
  found = fit(config, inputs, kind, number, config.learning_rate, steps)
  return {'parameters': found[-1]}


def describe(config, inputs, kinds, everyone):
  """Rows of all networks: accuracy, radius, crossings, cosines."""
  parts, directions, (xs, labels) = [], [], inputs.others
  segments = [v[side] for v in (xs, labels) for side in inputs.pairs.T]
  num, (images, truth) = config.num_networks, inputs.test
  for kind, networks in zip(kinds, everyone, strict=True):
    directions.append(networks.of_each(halfway.loss_direction, xs, labels))
    radius = np.zeros(num)
    if not kind.condition.random_labels:
      radius = [matched_radius(inputs, networks, i) for i in range(num)]
    parts.append(
      {
        'population': np.full(num, kind.name),
        'network': np.arange(num),
        'accuracy': np.mean(networks.classify(images) == truth, axis=1),
        'chance': np.full(num, data.commonest_share(truth)),
        'radius': np.array(radius),
        'fraction': networks.of_each(halfway.crossings, *segments).fraction,
      }
    )
  cosine = halfway.cosines(np.concatenate(directions))
  return records.concatenate(parts) | {'cosine': cosine}


def matched_radius(inputs, networks, number):
  """The radius within which most images have a nearest boundary point."""
  found = boundary.measure(
    functools.partial(populations.logits, train.flax_forward(networks.module)),
    *(column[:MATCHED] for column in inputs.attacked),
    params=jax.tree.map(lambda leaf: leaf[number], networks.variables),
    norm=np.inf,
    bounds=(0.0, 1.0),
    method='fast',
  )
  return halfway.matched_radius(found.distance)


def attacked(inputs, sources, radius):
  """Returns images after each kind of step `[m, kinds, n, ...]`."""
  xs, labels = inputs.attacked
  columns = xs, labels, np.arange(len(xs)), np.full(len(xs), radius, np.float32)
  moved, noisy = sources.of_each(halfway.step_and_noise, *columns)
  other = np.clip(xs + np.roll(moved - xs, 1, axis=1), 0.0, 1.0)
  return np.stack([moved, other, noisy], axis=1)


def count(inputs, targets, moved):
  """Returns images and hits `[m, targets, kinds, 2]` after steps of sources."""
  xs, labels = inputs.attacked
  after = targets.classify(moved.reshape(-1, *xs.shape[1:]))
  after = after.reshape(-1, *moved.shape[:3])
  return halfway.count_hits(targets.classify(xs), after, labels)


def attack(config, inputs, everyone, number, radius):
  """Rows of a population: images and hits at all targets, of all kinds."""
  moved = attacked(inputs, everyone[number], radius)
  found = [count(inputs, targets, moved) for targets in everyone[:-1]]
  images, hits = (np.concatenate(v, axis=1) for v in zip(*found, strict=True))
  source, target, kind = np.indices(hits.shape[:3]).reshape(3, -1)
  return {
    'source': number * config.num_networks + source,
    'target': target,
    'kind': np.array(KINDS)[kind],
    'images': images.reshape(-1, 2),
    'hits': hits.reshape(-1, 2),
  }


def first_steps(config, inputs, kind, finished, radius):
  """Rows of networks in their first steps, which attack finished ones."""
  num, last = config.num_networks, config.early_steps
  steps = sorted({0, *np.geomspace(1, last, 10).round().astype(int).tolist()})
  # Of other seeds than those of finished networks.
  found = fit(config, inputs, kind, 1000, config.early_rate, tuple(steps))
  (xs, labels), parts = inputs.test, []
  for step, parameters in zip(steps, found, strict=True):
    begun = populations.stack(kind.module, parameters, xs[0])
    directions = begun.of_each(halfway.loss_direction, *inputs.others)
    moved = attacked(inputs, begun, radius)[:, :1]
    images, hits = (v.sum((2, 3)) for v in count(inputs, finished, moved))
    parts.append(
      {
        'step': np.full(num, step),
        'network': np.arange(num),
        'accuracy': np.mean(begun.classify(xs) == labels, axis=1),
        'cosine': halfway.cosines(directions),
        'rate': hits / np.maximum(images, 1),
      }
    )
  return records.concatenate(parts)


# --- Judging ---------------------------------------------------------------


class Found(NamedTuple):
  """Matrices of networks: sources are rows, targets are columns.

  Attributes:
    networks: columns of networks.npz.
    names: of the populations: the first architecture, ..., random labels.
    parts: those of them on parts of the data, the smallest first.
    logits: of rates by kind, at halves of the images `[m, m, 2]`; NaN at
      targets with random labels.
    concordance: of crossings `[m, m]`.
  """

  networks: dict
  names: list
  parts: list
  logits: dict
  concordance: np.ndarray

  def at(self, name):
    """Returns the places of a population's networks."""
    return np.flatnonzero(self.networks['population'] == name)

  def mean(self, matrix, source, target):
    """Estimates the mean of pairs; of one on parts: of disjoint ones."""
    values = matrix[np.ix_(self.at(source), self.at(target))]
    if source == target and source in self.parts:
      apart = values[::2, 1::2].diagonal() + values[1::2, ::2].diagonal()
      return statistics.t_mean(apart / 2, unit='pairs of networks')
    return statistics.pair_mean(values, same=source == target, unit='networks')

  def rate(self, kind, source, target):
    """Estimates a rate, from the mean of logits."""
    found = self.mean(self.logits[kind].mean(-1), source, target)
    return statistics.transform(found, special.expit)

  def itself(self, name):
    """Returns how often examples fool their sources."""
    rates = self.logits['own'].mean(-1).diagonal()[self.at(name)]
    return float(special.expit(rates).mean())


def gather(config, found):
  """Returns `Found` of the tables."""
  networks, logits = found['networks'], {}
  names = list(dict.fromkeys(networks['population'].tolist()))
  num = len(networks['population'])
  for kind in KINDS:
    rows = records.select(found['results'], kind=kind)
    # Half a hit more, and half a miss: logits stay finite.
    share = (rows['hits'] + 0.5) / (rows['images'] + 1)
    logits[kind] = np.full((num, num, 2), np.nan)
    logits[kind][rows['source'], rows['target']] = special.logit(share)
  concordance = halfway.concordance(networks['fraction'])
  parts = names[len(own.architectures(config)) : -1]
  return Found(networks, names, parts, logits, concordance)


def explain(of, pooled):
  """Returns what explains rates: within strata, or of all pairs pooled."""
  names = of.networks['population']
  _, strata = np.unique(
    np.char.add(names[:, None], names[None]), return_inverse=True
  )
  fisher = lambda r: np.arctanh(np.clip(r, -0.999, 0.999))
  common = fisher(of.concordance), fisher(of.networks['cosine'])
  right = special.logit(np.clip(of.networks['accuracy'], 1e-3, 1 - 1e-3))
  accuracies = np.broadcast_arrays(right[:, None], right)
  return halfway.explained(
    of.logits['own'],
    {'common': np.stack(common, -1), 'accuracy': np.stack(accuracies, -1)},
    strata.reshape(2 * [len(names)]) * (not pooled),
    unit='networks',
  )


def along(rows):
  """Returns estimates along the first steps of training, a dict a step."""
  pairs = functools.partial(statistics.pair_mean, unit='networks')
  found, first = [], records.select(rows, step=0)
  for step in np.unique(rows['step']).tolist():
    at = records.select(rows, step=step)
    found.append(
      {
        'step': step,
        'accuracy': statistics.proportion(at['accuracy'], unit='networks'),
        'cosine': pairs(at['cosine'], same=True),
        'rate': pairs(at['rate'], same=False),
        'gain in rate': pairs(at['rate'] - first['rate'], same=False),
      }
    )
  return found


def analyze(config, found):
  """Rates, what explains them, and the first steps."""
  of, early = gather(config, found), along(found['early'])
  within, pooled = explain(of, False), explain(of, True)
  before = before_rise(early)
  shown = [
    rate_table(of),
    explained_table(within, pooled),
    network_table(of),
    early_table(early, before),
  ]
  judged = judge(config, of, within, before)
  return runner.Report(answer(config, of, within), judged, shown)


STATEMENTS = {
  'transfer': 'Adversarial examples transfer between models.',
  'transfer, strong': 'They do so by more than steps of other images, between '
  'architectures, and without a common training image.',
  'explained': 'They transfer because models come to common boundaries.',
  'explained, strong': 'Common boundaries explain most of what can be.',
  'more data': 'The more data models learn from, the more they share.',
  'directions align': 'Adversarial directions of independent networks align.',
  'before accuracy': 'They begin to align, and examples to transfer, in the '
  'first few steps, before accuracy leaves its initial bad value.',
}


def conditions(config, of, within, before):
  """Returns the conditions of each claim; `before`: the step it is about."""
  first, random, above = of.names[0], of.names[-1], claims.above
  least, most = of.parts[0], of.parts[-1]
  rates, cosine = of.logits['own'].mean(-1), of.networks['cosine']
  odds = {k: rates - v.mean(-1) for k, v in of.logits.items()}
  pairs = [(first, first), (most, most)]
  for model in own.architectures(config)[1:]:
    pairs += [(first, model), (model, first)]

  def beside(what, matrix, pair, null):
    text = f'{what} of {pair[0]}, beside {null[0]},'
    return above(text, of.mean(matrix, *pair), of.mean(matrix, *null))

  return {
    'transfer': [
      above('log odds over noise', of.mean(odds['noise'], first, first), 0),
      beside('logit of the rate', rates, (first, first), (random, first)),
    ],
    'transfer, strong': [
      above(f'log odds, {" to ".join(v)},', of.mean(odds[OTHER], *v), 0)
      for v in pairs
    ],
    'explained': [
      above('share within strata', within.alone['common'], 0),
      above('share added to accuracies', within.added['common'], 0),
    ],
    'explained, strong': [
      above('share of what can be', within.of_left['common'], EXPLAINED)
    ],
    'more data': [
      beside('concordance', of.concordance, (most, most), (least, least))
    ],
    'directions align': [
      beside('cosine', cosine, (first, first), (random, random))
    ],
    'before accuracy': [
      above(f'{name} at step {row["step"]}', row[name], LEAST)
      for row in before
      for name in ('cosine', 'gain in rate')
    ],
  }


def before_rise(early):
  """Returns the last step before accuracy rises, in a list; [] for none."""
  start, *later = early
  risen = [
    row['accuracy'].value - start['accuracy'].value > RISE for row in later
  ]
  return later[: np.argmax([*risen, True])][-1:]


def judge(config, of, within, before):
  """Returns the claims of both papers; `before` is of `before_rise`."""
  found = conditions(config, of, within, before)
  why = why_not_tested(of)
  drawn = why or ('' if within.left.low > 0 else 'images alone explain')
  sudden = why or ('' if before else 'accuracy rises with the first step')
  trouble = {'explained': drawn, 'explained, strong': drawn}
  trouble['before accuracy'] = sudden
  papers = 5 * ['2206.04463'] + 2 * ['2206.04472']
  return [
    claims.Claim(paper, name, text, tuple(found[name]), trouble.get(name, why))
    for paper, (name, text) in zip(papers, STATEMENTS.items(), strict=True)
  ]


def why_not_tested(of):
  """Why rates say nothing of the claims, or ''."""
  first, guess = of.names[0], of.networks['chance'][0]
  right = of.networks['accuracy'][of.at(first)].mean()
  if why := claims.why_untrained(right, guess, whose=f'{first} networks'):
    return why
  for name in of.names[:-1]:
    if of.itself(name) < LEAST_SUCCESS:
      return f'examples of {name} fool {of.itself(name):.0%} of their sources'
  return ''


def answer(config, of, within):
  """One sentence."""
  first, cell = of.names[0], lambda value: tables.cell(value, '.0%')
  alike, noise = (of.rate(kind, first, first) for kind in ('own', 'noise'))
  common, accuracy = (within.alone[name] for name in ('common', 'accuracy'))
  return (
    f'Examples of one {first} on {own.source(config)} fool another '
    f'at {cell(alike)} of the images, noise of their size at {cell(noise)}; '
    f'within strata, common boundaries explain {cell(common)} of the variance '
    f'of rates and accuracies {cell(accuracy)}, of {cell(within.left)} that is '
    f'not the draw of images ({config.num_networks} networks in each '
    'population).'
  )


# --- Tables ----------------------------------------------------------------


def rate_table(of):
  """Who fools whom how often; below, controls that rates have to exceed."""
  first, targets = of.names[0], of.names[:-1]
  sources = [(name, 'own', name) for name in of.names]
  sources += [(f'{first}, {kind}', kind, first) for kind in KINDS[1:]]
  columns = [
    (
      'examples',
      'of these networks; the last three rows are controls: networks that '
      'learned random labels, steps of other images, noise of the same size',
    )
  ]
  rows = [
    [text, *(of.rate(kind, source, target) for target in targets)]
    for text, kind, source in sources
  ]
  return tables.table(
    'Share of images at which examples (rows) fool other networks (columns)',
    columns + [(target, '') for target in targets],
    rows,
    spec='.0%',
  )


def explained_table(within, pooled):
  """Shares of the variance of rates, by what explains them."""
  both = within, pooled
  rows = [
    ['concordance and cosine', *(v.alone['common'] for v in both)],
    ['accuracies', *(v.alone['accuracy'] for v in both)],
    ['concordance and cosine, added', *(v.added['common'] for v in both)],
    ['what is not the draw of images', *(v.left for v in both)],
  ]
  columns = [
    (
      'explained by',
      'what two networks have in common: concordance, where they cross '
      'segments between images; cosine, of their adversarial directions; or '
      'the accuracies of both. Last, the most that can be explained: the rest '
      'is which images were drawn',
    ),
    (
      'within strata',
      'a stratum is all pairs from one population of sources and one of '
      'targets; they are compared with each other alone, so that what '
      'populations differ in explains nothing',
    ),
    ('all pairs', 'of all populations together: mostly how these differ'),
  ]
  title = (
    'Share of the variance of rates (logits) that is explained at networks '
    'not fitted to'
  )
  return tables.table(title, columns, rows, spec='z.2f')


def network_table(of):
  """What networks of one population have in common."""
  rows = []
  for name in of.names:
    right = of.networks['accuracy'][of.at(name)]
    common = (
      of.mean(v, name, name) for v in (of.concordance, of.networks['cosine'])
    )
    right = statistics.proportion(right, unit='networks')
    rows.append([name, right, *common])
  columns = [
    ('population', ''),
    ('accuracy', 'on test images', '', '.1%'),
    (
      'concordance',
      'of two networks: correlation, over segments between images, of where '
      'their boundaries cross them; 1 for the same boundaries',
    ),
    ('cosine', 'of adversarial directions'),
  ]
  title = (
    'Networks of one population; of those on parts, two without common images'
  )
  return tables.table(title, columns, rows, spec='z.2f')


def early_table(early, before):
  """Networks in their first steps; `before` is of `before_rise`."""
  columns = [
    ('step', ''),
    ('accuracy', 'on test images', '', '.1%'),
    ('cosine', 'of adversarial directions', '', 'z.2f'),
    ('rate', 'images at which examples fool finished networks', '', '.1%'),
    (
      'decides',
      "the claim 'before accuracy': the last step at which accuracy has not "
      f'yet risen by more than {RISE:g}, as the claim is about what comes '
      'before',
    ),
  ]
  deciding = [row['step'] for row in before]
  rows = [
    [*(row[name] for name, *_ in columns[:-1]), row['step'] in deciding]
    for row in early
  ]
  return tables.table('First steps of training', columns, rows)


EXPERIMENT = runner.Experiment(
  'experiments.transfer', __doc__, Config, PRESETS, COLUMNS,
  measure, analyze, figures.draw, load=load,
)  # fmt: skip
run = EXPERIMENT.run

if __name__ == '__main__':
  EXPERIMENT.main()
