"""Does training on adversarial examples with wrong labels teach the right ones?

Shamir, Melamed, BenShmuel (2021), https://arxiv.org/abs/2106.10151: "a network
that was adversarially trained with incorrectly labeled images might still
correctly classify most test images". The dimpled manifold model says why: a
step overshoots a dimple off the manifold of the images, and the new boundary
passes between the displaced image and the original.

  python -m experiments.mislabelled_training
  python -m experiments.mislabelled_training --preset=mnist --data_dir=DIR
  python -m experiments.mislabelled_training --preset=cifar --data_dir=DIR

The first takes 1 minute on 2 CPU cores, --preset=quick less, mnist 4 minutes;
cifar trains convolutional networks, for a GPU. A run that was killed goes on
where it was.

A source network is trained. Every training image is moved towards a wrong class
by projected gradient ascent, in l2 within --radii. New networks are trained on
nothing but these images with the wrong labels, and tested on clean images with
the right ones. `ARMS` lists what else they are trained on. All take the same
number of steps: where there are fewer examples, these are repeated.

Everything random is drawn anew for each source: its weights and order, the
wrong labels, the steps' starts, the new networks' weights and order. The unit
of all intervals and comparisons is the source, of which each arm has the mean
over its --num_seeds new networks: Student's t, for accuracies on the logit
scale. Images, for training and for tests, are the same for all.

Claims, about the largest of --radii, and what would refute each:

  most test images     an accuracy of at most 1/2
  better than a guess  an accuracy of at most the share of the commonest class;
                       for random targets also one not above that after random
                       steps of the same length, with the same labels: `noise`.
                       Next targets have no `noise`: without a step they teach
                       that each image is of a wrong class, less than a guess
  more than mistakes alone
                       mistakes of the source early in its training, with the
                       labels that it gave then and without any step, teach as
                       much (Wallace, https://doi.org/10.23915/distill.00019.6)
  a step adds to mistakes
                       the same images with the same labels teach as much
                       without a step towards these labels
  off the manifold     steps that are kept orthogonal to the first --k principal
                       directions teach no more than a guess, or than noise
  off more than on     steps within these directions teach as much
  off more than on, beyond a random subspace
                       steps orthogonal to and within as many random directions
                       differ as much: then it is their number alone

No claim is tested where networks that are trained on clean images do not get
half way from a guess to no errors, or less than half of the steps that it is
about reach their target. --radii and --brief_steps were chosen on digits and
mnist.
"""

import dataclasses
import functools
import operator
from typing import Any
from typing import NamedTuple

import jax
from jax import flatten_util
import jax.numpy as jnp
import numpy as np
import optax

from dmm_jax import manifold
from dmm_jax import parallel
from dmm_jax import programs
from dmm_jax import records
from dmm_jax import statistics
from dmm_jax import train
from dmm_jax.train import adversarial
from experiments import networks
from experiments.figures import mislabelled_training as figures
from experiments.lib import claims
from experiments.lib import flags
from experiments.lib import runner
from experiments.lib import splits
from experiments.lib import tables

PAPER = '2106.10151'
UNIT = 'source networks'
LEAST_REACHED = 0.5  # Share of the steps, where a claim is tested.
ARMS = {
  'clean': 'images as they are, right labels',
  'random': 'moved to a random wrong class',
  'next': 'moved to the class after the right one',
  'off': 'moved to a random class, off the manifold',
  'on': 'moved to a random class, on the manifold',
  'off_null': 'the same, off a random subspace',
  'on_null': 'the same, on a random subspace',
  'noise': 'random steps of the same length',
  'unmoved': 'no step, random wrong labels',
  'mistakes': 'mistakes alone',
  'mistakes_moved': 'the same mistakes, moved to their labels',
}
WITHOUT_STEP = ('clean', 'unmoved', 'mistakes')
AT_EVERY_RADIUS = ('random', 'noise')


@dataclasses.dataclass(frozen=True)
class Config:
  preset: str = flags.preset()
  workdir: str = flags.workdir('runs/mislabelled_training')
  seed: int = flags.seed()
  dataset: str = flags.dataset()
  data_dir: str = flags.data_dir()
  num_train: int = flags.num_train()
  model: str = flags.flag(
    'mlp', 'Architecture of all networks.', choices=('mlp', 'cnn')
  )
  epochs: int = flags.flag(
    30, 'Passes of each network over its images.', least=1
  )
  learning_rate: float = flags.flag(
    1e-3, 'Learning rate of Adam at the start; falls to 0.', least=0
  )
  num_sources: int = flags.flag(
    3, 'Number of source networks, each with its own draws.', least=2
  )
  num_seeds: int = flags.flag(
    3, 'New networks for each arm and source network.', least=1
  )
  radii: tuple[float, ...] = flags.flag(
    (0.5, 1.0, 2.0), 'Longest steps, l2, in pixel values of [0, 1].', least=0
  )
  attack_steps: int = flags.flag(
    20, 'Gradients of the search for each step.', least=1
  )
  k: int = flags.flag(
    8, 'Principal directions that stand for the manifold.', least=1
  )
  brief_steps: int = flags.flag(
    8, 'Steps of training after which mistakes are taken.', least=1
  )


PRESETS = {
  'quick': dict(
    workdir='runs/mislabelled_quick', radii=(2.0,), num_seeds=2, epochs=15
  ),
  'default': {},
  'mnist': dict(
    workdir='runs/mislabelled_mnist',
    dataset='mnist',
    num_train=10000,
    radii=(2.0, 4.0),
    epochs=6,
    k=16,
    brief_steps=50,
  ),
  'cifar': dict(
    workdir='runs/mislabelled_cifar',
    dataset='cifar10',
    model='cnn',
    radii=(0.5, 1.0),
    epochs=15,
    k=128,
    brief_steps=200,
  ),
}
COLUMNS = {
  'source': ('', 'number of the source network'),
  'step': ('', 'steps of its training'),
  'guess': ('', 'share of test images of the commonest class'),
  'parameters': ('', 'its variables, as ravel_pytree orders them'),
  'arm': ('', 'what the new network is trained on: a key of ARMS'),
  'radius': ('pixel values', 'longest step, l2; 0 without one'),
  'seed': ('', 'number of the new network among those of its source'),
  'examples': ('', 'different images that it is trained on'),
  'length': ('pixel values', 'mean l2 length of the steps'),
  'reached': ('', 'share of these images that the source gives their label'),
  'fitted': ('', 'share of its training images that it gives their label'),
  'accuracy': ('', 'share of clean test images that it gives the right label'),
}


# --- Data and networks -----------------------------------------------------


class Inputs(NamedTuple):
  """The network, images and labels to train on, and to test on."""

  module: Any
  xs: np.ndarray
  labels: np.ndarray
  test_set: tuple
  num_classes: int


def load(config):
  """Returns `Inputs`."""
  (xs, labels), test_set = splits.load(config.dataset, config.data_dir).values()
  num_classes = int(labels.max()) + 1
  about = networks.describe('classifier', config.model, num_classes=num_classes)
  first = slice(config.num_train or None)
  module = networks.build(about)
  xs, labels = xs[first], labels[first]
  num, size = len(xs), xs[0].size
  if config.k >= min(num - 1, size):
    raise flags.FlagError(
      f'--k={config.k} has to be less than the {size} numbers of an image, and '
      f'than the {num} images less 1'
    )
  steps = config.epochs * train.steps_per_epoch(plan_of(config), num)
  if config.brief_steps >= steps:
    raise flags.FlagError(
      f'--brief_steps={config.brief_steps} has to be less than the {steps} '
      'steps of training'
    )
  return Inputs(module, xs, labels, test_set, num_classes)


def plan_of(config):
  return train.TrainConfig(
    num_epochs=config.epochs, learning_rate=config.learning_rate
  )


DRAWS = ('source', 'labels', 'starts', 'noise', 'subspace', 'new networks')


def key_of(config, source, draw):
  """Returns the key of one of the `DRAWS` of a source."""
  key = jax.random.fold_in(jax.random.key(config.seed), source)
  return jax.random.fold_in(key, DRAWS.index(draw))


def train_source(config, inputs, source):
  """Rows of one source network: early in training, and at its end."""
  plan, forward = plan_of(config), train.flax_forward(inputs.module)
  optimizer = train.make_optimizer(plan, len(inputs.xs))
  weights, order = jax.random.split(key_of(config, source, 'source'))
  state = train.init_state(weights, inputs.module, inputs.xs[0], optimizer)
  pauses = train.fit(
    order,
    forward,
    state,
    inputs.xs,
    inputs.labels,
    config=plan,
    pause_steps=(config.brief_steps,),
    each_epoch=False,
  )
  rows = []
  for pause in pauses:
    flat, _ = flatten_util.ravel_pytree(networks.variables(pause.state))
    rows.append(
      {
        'source': source,
        'step': pause.step,
        'guess': np.bincount(inputs.test_set[1]).max()
        / len(inputs.test_set[1]),
        'parameters': np.asarray(flat),
        **grades(forward, pause.state, inputs, inputs.xs, inputs.labels),
      }
    )
  return {name: np.array([row[name] for row in rows]) for name in rows[0]}


def train_new(config, inputs, source, images, labels):
  """Rows of the new networks of a source, without what they are trained on."""
  plan, forward = plan_of(config), train.flax_forward(inputs.module)
  optimizer = train.make_optimizer(plan, len(images))
  keys = jax.random.split(
    key_of(config, source, 'new networks'), (config.num_seeds, 2)
  )
  begin = lambda key: train.init_state(key, inputs.module, images[0], optimizer)
  fit = functools.partial(train.fit, config=plan, each_epoch=False)
  if config.model == 'cnn' and jax.default_backend() == 'cpu':
    # Convolutions of several networks at once are several times slower there.
    ends = [
      last.state
      for weights, order in keys
      for last in fit(order, forward, begin(weights), images, labels)
    ]
  else:
    states = begin(keys[:, 0])
    (last,) = fit(keys[:, 1], forward, states, images, labels)
    # On the host first: rows of arrays that lie on several devices are gathered
    # by one program each, and CPUs end where many of these wait.
    every = jax.device_get(last.state)
    ends = [
      jax.tree.map(operator.itemgetter(i), every) for i in range(len(keys))
    ]
  rows = [grades(forward, end, inputs, images, labels) for end in ends]
  return {name: np.array([row[name] for row in rows]) for name in rows[0]}


def grades(forward, state, inputs, images, labels):
  """How well a network fits its images, and does on clean test images."""
  return {
    'fitted': train.accuracy(forward, state, images, labels),
    'accuracy': train.accuracy(forward, state, *inputs.test_set),
  }


# --- What new networks are trained on --------------------------------------


class Source(NamedTuple):
  """A source network.

  Attributes:
    number: of it.
    variables: as `module.apply` takes them.
    early: what it called the training images early in training `[n]`.
  """

  number: int
  variables: Any
  early: np.ndarray


def predictions(inputs, variables, images):
  """Returns what a network calls images `[n]`."""
  predict = programs.bind(predict_one, module=inputs.module)
  found = parallel.map_examples(predict, (images,), shared=(variables,))
  return found.astype(np.int32)


def predict_one(x, variables, *, module):
  return jnp.argmax(module.apply(variables, x)[0])


def wrong_labels(config, inputs, source, goal):
  """Returns a wrong class for each image: the next one, or any `[n]`."""
  shift = 1
  if goal == 'random':
    key = key_of(config, source, 'labels')
    shift = jax.random.randint(key, inputs.labels.shape, 1, inputs.num_classes)
  return ((inputs.labels + np.asarray(shift)) % inputs.num_classes).astype(
    np.int32
  )


def move(config, inputs, source, rows, labels, radius, side='', basis=None):
  """Returns images of the training set, moved towards labels.

  Args:
    config, inputs, source: flags, data, and the network that is attacked.
    rows: of the training set `[m]`.
    labels: to move towards `[m]`.
    radius: longest step.
    side: 'on' or 'off' keeps the steps within the span of a basis `[k, d]`, or
      orthogonal to it.
    basis: that basis.
  """
  step = programs.bind(
    move_one, module=inputs.module, num_steps=config.attack_steps, side=side
  )
  key = jax.random.key_data(key_of(config, source.number, 'starts'))
  basis = np.zeros((1, inputs.xs[0].size)) if basis is None else basis
  return parallel.map_examples(
    step,
    (inputs.xs[rows], labels, rows.astype(np.int32)),
    shared=(
      np.float32(radius),
      np.asarray(key),
      np.asarray(basis, np.float32),
      source.variables,
    ),
  )


def move_one(
  x, label, row, radius, key, basis, variables, *, module, num_steps, side
):
  """Moves one image towards a label: as far as the radius, within [0, 1]."""

  def kept(v):
    project = {'on': manifold.on, 'off': manifold.off}.get(side)
    return v if project is None else x + project(v - x, basis)

  def log_probability(v):
    logits = module.apply(variables, kept(v))[0]
    return -optax.losses.softmax_cross_entropy_with_integer_labels(
      logits, label
    )

  start = jax.random.fold_in(jax.random.wrap_key_data(key), row)
  ball = adversarial.Adversary(radius, 2, num_steps)
  moved = adversarial.perturb(start, log_probability, x, ball)
  return jnp.clip(kept(moved), 0.0, 1.0)


def noisy(key, xs, moved):
  """Returns images moved in random directions, as far as by their steps.

  Noise that would leave [0, 1] has the other sign, so that few pixels are cut.
  """
  noise = np.asarray(jax.random.normal(key, xs.shape))
  factor = lengths(moved - xs) / lengths(noise)
  noise = noise * factor.reshape(-1, *[1] * (xs.ndim - 1))
  outside = (xs + noise < 0) | (xs + noise > 1)
  return np.clip(xs + np.where(outside, -noise, noise), 0.0, 1.0)


def lengths(steps):
  return np.linalg.norm(steps.reshape(len(steps), -1), axis=1)


def examples(config, inputs, moved, source, arm, radius):
  """Returns images, labels, and rows of the training set that they are from.

  Args:
    config, inputs: flags and data.
    moved: `(source, goal, radius) -> images`; `move`, kept for several arms.
    source: a `Source`.
    arm: a key of `ARMS`.
    radius: longest step.
  """
  xs, rows = inputs.xs, np.arange(len(inputs.xs))
  if arm.startswith('mistakes'):
    wrong = np.flatnonzero(source.early != inputs.labels)
    # Repeated, in order; none where there are none.
    rows = np.resize(wrong, len(xs) if len(wrong) else 0)
    labels, images = source.early[rows], xs[rows]
    if arm == 'mistakes_moved' and len(wrong):
      images = move(config, inputs, source, rows, labels, radius)
    return images, labels, rows
  if arm == 'clean':
    return xs, inputs.labels, rows
  goal = 'next' if arm == 'next' else 'random'
  labels = wrong_labels(config, inputs, source.number, goal)
  if arm == 'unmoved':
    return xs, labels, rows
  side, _, null = arm.partition('_')
  if side in ('on', 'off'):
    key, size = key_of(config, source.number, 'subspace'), xs[0].size
    basis = (
      manifold.random_basis(key, config.k, size)
      if null
      else manifold.principal_basis(xs, config.k)
    )
    images = move(config, inputs, source, rows, labels, radius, side, basis)
  else:
    images = moved(source.number, goal, radius)
  if arm == 'noise':
    images = noisy(key_of(config, source.number, 'noise'), xs, images)
  return images.astype(np.float32), labels, rows


# --- Measuring -------------------------------------------------------------


def arms(config):
  """Returns `(arm, radius)` of all arms, by the images that they share."""
  found = [(arm, 0.0) for arm in WITHOUT_STEP]
  for radius in config.radii:
    largest = radius == max(config.radii)
    found += [
      (arm, radius)
      for arm in ARMS
      if arm not in WITHOUT_STEP and (largest or arm in AT_EVERY_RADIUS)
    ]
  return found


def measure(config, inputs):
  """Yields the units: each source network, then the arms of each.

  sources: two rows a source; results: one row a new network.
  """
  shape = jax.eval_shape(inputs.module.init, jax.random.key(0), inputs.xs[0])
  zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shape)
  _, unravel = flatten_util.ravel_pytree(zeros)
  sources = []
  for number in range(config.num_sources):
    rows = functools.partial(train_source, config, inputs, number)
    unit = runner.Unit(f'source-{number:02d}', rows, 'sources')
    brief, last = map(unravel, (yield unit).result()['parameters'])
    early = predictions(inputs, brief, inputs.xs)
    sources.append(Source(number, last, early))

  @functools.lru_cache(maxsize=2)  # Several arms share them, of this run alone.
  def moved(number, goal, radius):
    labels = wrong_labels(config, inputs, number, goal)
    rows = np.arange(len(inputs.xs))
    return move(config, inputs, sources[number], rows, labels, radius)

  for source in sources:
    for arm, radius in arms(config):
      rows = functools.partial(
        measure_arm, config, inputs, moved, source, arm, radius
      )
      yield runner.Unit(f'{arm}-{radius:g}-{source.number:02d}', rows)


def measure_arm(config, inputs, moved, source, arm, radius):
  """Rows of the new networks of one arm and source."""
  num = config.num_seeds
  images, labels, rows = examples(config, inputs, moved, source, arm, radius)
  found = {'fitted': np.full(num, np.nan), 'accuracy': np.full(num, np.nan)}
  length = reached = np.nan
  if len(rows):  # Else a network without mistakes.
    found = train_new(config, inputs, source.number, images, labels)
    length = np.mean(lengths(images - inputs.xs[rows]))
    given = predictions(inputs, source.variables, images)
    reached = np.mean(given == labels)
  return {
    'source': np.full(num, source.number, np.int32),
    'arm': np.full(num, arm, 'U14'),
    'radius': np.full(num, radius),
    'seed': np.arange(num, dtype=np.int32),
    'examples': np.full(num, len(np.unique(rows)), np.int32),
    'length': np.full(num, length, float),
    'reached': np.full(num, reached, float),
    **found,
  }


# --- Judging ---------------------------------------------------------------


class Found(NamedTuple):
  """What was found, as a mean over the new networks of each source `[s]`."""

  config: Config
  results: dict

  def of(self, arm: str, column: str = 'accuracy', radius=None) -> np.ndarray:
    """Returns a column of an arm, at the largest radius unless told."""
    if radius is None:
      radius = 0.0 if arm in WITHOUT_STEP else max(self.config.radii)
    rows = records.select(self.results, arm=arm, radius=radius)
    return np.array(
      [
        np.mean(rows[column][rows['source'] == source])
        for source in np.unique(rows['source'])
      ]
    )

  def accuracy(self, arm: str, **where) -> statistics.Estimate:
    return statistics.proportion(self.of(arm, **where), unit=UNIT)

  def gap(self, arm: str, other: str, **where) -> statistics.Estimate:
    """Returns by how much one arm is above another, of the same sources."""
    a, b = self.of(arm, **where), self.of(other, **where)
    return statistics.paired_difference(a, b, unit=UNIT)


def analyze(config, found):
  """Accuracies, what they say of the claims, and the source networks."""
  of = Found(config, found['results'])
  sources = found['sources']
  judged = judge(of, float(sources['guess'][0]))
  return runner.Report(
    answer(of, judged), judged, [accuracy_table(of), source_table(of, sources)]
  )


def judge(of, guess):
  """The claims of the module's docstring."""
  random = why_not_tested(of, guess, 'random')
  known = (
    ''
    if np.all(of.of('mistakes', 'examples'))
    else ('a source network made no mistakes early in its training')
  )

  def claim(name, statement, conditions, trouble=random):
    return claims.Claim(PAPER, name, statement, tuple(conditions), trouble)

  judged = []
  for arm, said in (('random', 'random'), ('next', 'next')):
    trouble, right = why_not_tested(of, guess, arm), of.accuracy(arm)
    judged += [
      claim(
        f'most test images, {said} targets',
        'A network that was adversarially trained with incorrectly labeled '
        'images might still correctly classify most test images.',
        [claims.above('accuracy', right, 0.5)],
        trouble,
      ),
      claim(
        f'better than a guess, {said} targets',
        'Training on adversarial examples with wrong labels alone teaches the '
        'right ones (the weak form, ours).',
        beyond(of, arm, guess, noise=arm != 'next'),
        trouble,
      ),
    ]
  return [
    *judged,
    claim(
      'more than mistakes alone',
      'Adversarial steps with wrong labels teach more than mistakes of a '
      'network without any step (ours, after Wallace 2019).',
      [above_zero('random less mistakes', of.gap('random', 'mistakes'))],
      random or known,
    ),
    claim(
      'a step adds to mistakes',
      'Mistakes teach more where their images are moved to their labels '
      '(ours).',
      [above_zero('with less without', of.gap('mistakes_moved', 'mistakes'))],
      known or why_not_tested(of, guess, 'mistakes_moved'),
    ),
    claim(
      'off the manifold',
      'Adversarial steps off the manifold teach: they overshoot a dimple.',
      beyond(of, 'off', guess),
      why_not_tested(of, guess, 'off'),
    ),
    claim(
      'off more than on',
      'Steps off the manifold teach more than steps on it.',
      [above_zero('off less on', of.gap('off', 'on'))],
      why_not_tested(of, guess, 'off'),
    ),
    claim(
      'off more than on, beyond a random subspace',
      'They do so by more than for as many random directions (ours).',
      [above_zero('difference of both', beyond_null(of))],
      why_not_tested(of, guess, 'off'),
    ),
  ]


def above_zero(what, gap):
  return claims.above(f'{what}, accuracies,', gap, 0.0)


def beyond(of, arm, guess, noise=True):
  """Conditions that an arm teaches: more than a guess, and than noise."""
  found = [claims.above('accuracy', of.accuracy(arm), guess)]
  if noise:
    found.append(above_zero(f'{arm} less noise', of.gap(arm, 'noise')))
  return found


def beyond_null(of):
  """By how much off is above on, less the same of a random subspace."""
  gap = of.of('off') - of.of('on')
  null = of.of('off_null') - of.of('on_null')
  return statistics.paired_difference(gap, null, unit=UNIT)


def why_not_tested(of, guess, arm):
  """Why an arm says nothing of the claims, or ''."""
  clean, reached = of.of('clean').mean(), of.of(arm, 'reached').mean()
  if clean < (1 + guess) / 2:
    return (
      f'networks trained on clean images classify {clean:.0%} of test images '
      f'correctly, less than half way from a guess ({guess:.0%}) to all'
    )
  if reached < LEAST_REACHED:
    return (
      f'{reached:.0%} of the steps up to {max(of.config.radii):g} reach their '
      f'target: {ARMS[arm]}'
    )
  return ''


def answer(of, judged):
  """One sentence."""
  config = of.config
  value = lambda arm: tables.cell(of.accuracy(arm), '.1%')
  held = sum(claim.verdict == claims.SUPPORTED for claim in judged)
  return (
    f'Networks trained only on {config.dataset} images that were moved to a '
    f'random wrong class, by l2 steps up to {max(config.radii):g}, and given '
    f'that label classify {value("random")} of clean test images correctly, '
    f'beside {value("noise")} after random steps of the same length and '
    f'{value("mistakes")} after mistakes of a network without any step '
    f'({config.num_sources} source networks, {config.num_seeds} new ones of '
    f'each); {held} of {len(judged)} claims are supported.'
  )


# --- Tables ----------------------------------------------------------------


def accuracy_table(of):
  """One row an arm and radius."""
  column, rows = tables.Column, []
  for arm, radius in sorted(arms(of.config), key=lambda v: [*ARMS].index(v[0])):
    mean = lambda name, arm=arm, radius=radius: float(
      np.mean(of.of(arm, name, radius))
    )
    noise = None
    if arm not in (*WITHOUT_STEP, 'noise'):
      a, b = of.of(arm, radius=radius), of.of('noise', radius=radius)
      noise = statistics.paired_difference(a, b, unit=UNIT)
    rows.append(
      [
        arm,
        ARMS[arm],
        radius or None,
        *(mean(name) for name in ('examples', 'length', 'reached', 'fitted')),
        of.accuracy(arm, radius=radius),
        noise,
      ]
    )
  return tables.Table(
    f'Accuracy on clean test images of {of.config.dataset}, right labels',
    [
      column('arm', '', ''),
      column('trained on', '', 'what new networks are'),
      column('radius', 'pixel values', 'longest step, l2', 'g'),
      column('images', '', 'different ones', '.0f'),
      column('length', 'pixel values', 'mean of the steps', '.2f'),
      column('reached', '', 'share that the source gives their label', '.0%'),
      column('fitted', '', 'share that the new network does', '.0%'),
      column('accuracy', '', 'mean over new networks', '.1%'),
      column('over noise', '', 'accuracy less that of noise', '.1%'),
    ],
    rows,
  )


def source_table(of, sources):
  """Source networks early in their training, and at its end."""
  column, rows = tables.Column, []
  for step in np.unique(sources['step']):
    at = records.select(sources, step=step)
    share = lambda name, at=at: statistics.proportion(at[name], unit=UNIT)
    rows.append([int(step), share('fitted'), share('accuracy')])
  return tables.Table(
    'Source networks',
    [
      column('step', '', 'of training; mistakes are those after the first'),
      column('fitted', '', 'training images classified correctly', '.1%'),
      column('accuracy', '', 'test images classified correctly', '.1%'),
    ],
    rows,
  )


EXPERIMENT = runner.Experiment(
  'experiments.mislabelled_training', __doc__, Config, PRESETS, COLUMNS,
  measure, analyze, figures.draw, load=load,
)  # fmt: skip
run = EXPERIMENT.run

if __name__ == '__main__':
  EXPERIMENT.main()
