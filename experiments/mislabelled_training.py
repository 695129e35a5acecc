"""Does training on adversarial examples with wrong labels teach the right ones?

Shamir, Melamed, BenShmuel (2021), https://arxiv.org/abs/2106.10151: "a network
that was adversarially trained with incorrectly labeled images might still
correctly classify most test images". The dimpled manifold model says why: a
step overshoots a dimple off the manifold of the images, and the new boundary
passes between the displaced image and the original.

  python -m experiments.mislabelled_training
  python -m experiments.mislabelled_training --preset=mnist --data_dir=DIR

The first takes 1 minute on 2 CPU cores, --preset=quick less, mnist 4 minutes;
cifar trains convolutional networks, for a GPU. A run that was killed goes on
where it was.

A source network is trained. Every training image is moved towards a wrong class
by projected gradient ascent, in l2 within --radii. New networks are trained on
nothing but these images with the wrong labels, for the same number of steps
whatever the `ARMS`, and tested on clean images with the right ones. The unit is
the source, which all that is random is drawn anew for; of it each arm has the
mean over its new networks.

Claims are about the largest of --radii. What refutes one is an accuracy that is
no more than a guess, than after random steps of the same length (`noise`), than
after `mistakes` of the source early in its training without any step (Wallace,
https://doi.org/10.23915/distill.00019.6), or than after steps within the
manifold, that is --k principal directions, or a random subspace.

No claim is tested where networks that are trained on clean images do not get
half way from a guess to no errors, or less than half of its steps reach their
target. --radii and --brief_steps were chosen on digits and mnist.
"""

import dataclasses
import functools
import operator
from typing import Any
from typing import NamedTuple

import jax
import numpy as np

from dmm_jax import data
from dmm_jax import manifold
from dmm_jax import parallel
from dmm_jax import programs
from dmm_jax import records
from dmm_jax import statistics
from dmm_jax import train
from dmm_jax.train import adversarial
from dmm_jax.train import targeted
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
STATEMENTS = {
  'most test images': 'A network that was adversarially trained with '
  'incorrectly labeled images might still correctly classify most test images.',
  'better than a guess': 'Training on adversarial examples with wrong labels '
  'alone teaches the right ones (the weak form, ours).',
  'more than mistakes alone': 'Adversarial steps with wrong labels teach more '
  'than mistakes of a network without any step (ours, after Wallace 2019).',
  'a step adds to mistakes': 'Mistakes teach more where their images are moved '
  'to their labels (ours).',
  'off the manifold': 'Adversarial steps off the manifold teach: they '
  'overshoot a dimple.',
  'off more than on': 'Steps off the manifold teach more than steps on it.',
  'off more than on, beyond a random subspace': 'They do so by more than for '
  'as many random directions (ours).',
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
  epochs: int = flags.flag(30, 'Passes of each network.', least=1)
  learning_rate: float = flags.flag(
    1e-3, 'Rate of Adam at the start; falls to 0.', least=0
  )
  num_sources: int = flags.flag(3, 'Source networks.', least=2)
  num_seeds: int = flags.flag(3, 'New networks of an arm and source.', least=1)
  radii: tuple[float, ...] = flags.flag(
    (0.5, 1.0, 2.0), 'Longest steps, l2, in pixel values of [0, 1].', least=0
  )
  attack_steps: int = flags.flag(20, 'Gradients of each step.', least=1)
  k: int = flags.flag(8, 'Directions that stand for the manifold.', least=1)
  brief_steps: int = flags.flag(
    8, 'Steps of training after which mistakes are taken.', least=1
  )


PRESETS = {
  'quick': dict(radii=(2.0,), num_seeds=2, epochs=15),
  'default': {},
  'mnist': dict(
    dataset='mnist',
    num_train=10000,
    radii=(2.0, 4.0),
    epochs=6,
    k=16,
    brief_steps=50,
  ),
  'cifar': dict(
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
  labels = inputs.test_set[1]
  guess = data.commonest_share(labels)
  return records.stack(
    [
      {
        'source': source,
        'step': pause.step,
        'guess': guess,
        'parameters': networks.flatten(networks.variables(pause.state)),
        **grades(forward, pause.state, inputs, inputs.xs, inputs.labels),
      }
      for pause in pauses
    ]
  )


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
  return records.stack(
    [grades(forward, end, inputs, images, labels) for end in ends]
  )


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


def wrong_labels(config, inputs, source, goal):
  """Returns a wrong class for each image: the next one, or any `[n]`."""
  shift = 1
  if goal == 'random':
    key = key_of(config, source, 'labels')
    shift = jax.random.randint(key, inputs.labels.shape, 1, inputs.num_classes)
  wrong = (inputs.labels + np.asarray(shift)) % inputs.num_classes
  return wrong.astype(np.int32)


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
  project = {'on': manifold.on, 'off': manifold.off}.get(side)
  return targeted.move(
    jax.random.fold_in(jax.random.wrap_key_data(key), row),
    lambda v: module.apply(variables, v)[0],
    x,
    label,
    adversarial.Adversary(radius, 2, num_steps),
    project=project and functools.partial(project, basis=basis),
  )


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
    key = key_of(config, source.number, 'noise')
    images = targeted.noise_like(key, xs, images)
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
  sources = []
  for number in range(config.num_sources):
    rows = functools.partial(train_source, config, inputs, number)
    unit = runner.Unit(f'source-{number:02d}', rows, 'sources')
    brief, last = (
      networks.unflatten(inputs.module, inputs.xs[0], flat)
      for flat in (yield unit).result()['parameters']
    )
    early = networks.predictions(inputs.module, brief, inputs.xs)
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
  found = {'fitted': np.nan, 'accuracy': np.nan}
  length = reached = np.nan
  if len(rows):  # Else a network without mistakes.
    found = train_new(config, inputs, source.number, images, labels)
    length = np.mean(targeted.lengths(images - inputs.xs[rows]))
    given = networks.predictions(inputs.module, source.variables, images)
    reached = np.mean(given == labels)
  return records.broadcast(
    (num,),
    source=np.int32(source.number),
    arm=arm,
    radius=radius,
    seed=np.arange(num, dtype=np.int32),
    examples=np.int32(len(np.unique(rows))),
    length=float(length),
    reached=float(reached),
    **found,
  )


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
  of, sources = Found(config, found['results']), found['sources']
  judged = judge(of, float(sources['guess'][0]))
  shown = [accuracy_table(of), source_table(sources)]
  return runner.Report(answer(of, judged), judged, shown)


def judge(of, guess):
  """The claims, with what would refute each."""
  why = {
    arm: why_not_tested(of, guess, arm)
    for arm in ('random', 'next', 'off', 'mistakes_moved')
  }
  known = ''
  if not np.all(of.of('mistakes', 'examples')):
    known = 'a source network made no mistakes early in its training'

  def claim(name, conditions, trouble, targets=''):
    said = STATEMENTS[name]
    return claims.Claim(PAPER, name + targets, said, (*conditions,), trouble)

  def above_zero(what, gap):
    return claims.above(f'{what}, accuracies,', gap, 0.0)

  def beyond(arm, noise=True):
    """Conditions that an arm teaches: more than a guess, and than noise."""
    found = [claims.above('accuracy', of.accuracy(arm), guess)]
    if noise:
      found.append(above_zero(f'{arm} less noise', of.gap(arm, 'noise')))
    return found

  judged = []
  for arm in ('random', 'next'):
    targets, most = f', {arm} targets', of.accuracy(arm)
    # Next targets without a step teach less than a guess: they have no noise.
    more = beyond(arm, noise=arm != 'next')
    judged += [
      claim('most test images', [claims.above('accuracy', most, 0.5)],
            why[arm], targets),
      claim('better than a guess', more, why[arm], targets),
    ]  # fmt: skip
  alone = above_zero('random less mistakes', of.gap('random', 'mistakes'))
  moved = above_zero('with less without', of.gap('mistakes_moved', 'mistakes'))
  sides = above_zero('off less on', of.gap('off', 'on'))
  null = of.of('off_null') - of.of('on_null')
  gap = of.of('off') - of.of('on')
  gap = statistics.paired_difference(gap, null, unit=UNIT)
  both = above_zero('difference of both', gap)
  return [
    *judged,
    claim('more than mistakes alone', [alone], why['random'] or known),
    claim('a step adds to mistakes', [moved], known or why['mistakes_moved']),
    claim('off the manifold', beyond('off'), why['off']),
    claim('off more than on', [sides], why['off']),
    claim('off more than on, beyond a random subspace', [both], why['off']),
  ]


def why_not_tested(of, guess, arm):
  """Why an arm says nothing of the claims, or ''."""
  clean, reached = of.of('clean').mean(), of.of(arm, 'reached').mean()
  whose = 'networks trained on clean images'
  untrained = claims.why_untrained(clean, guess, whose=whose)
  if untrained or reached >= LEAST_REACHED:
    return untrained
  return (
    f'{reached:.0%} of the steps up to {max(of.config.radii):g} reach their '
    f'target: {ARMS[arm]}'
  )


def answer(of, judged):
  """One sentence."""
  config = of.config
  value = lambda arm: tables.cell(of.accuracy(arm), '.1%')
  return (
    f'Networks trained only on {config.dataset} images that were moved to a '
    f'random wrong class, by l2 steps up to {max(config.radii):g}, and given '
    f'that label classify {value("random")} of clean test images correctly, '
    f'beside {value("noise")} after random steps of the same length and '
    f'{value("mistakes")} after mistakes of a network without any step '
    f'({config.num_sources} source networks, {config.num_seeds} new ones of '
    f'each); {claims.tally(judged)}.'
  )


# --- Tables ----------------------------------------------------------------


def accuracy_table(of):
  """One row an arm and radius."""
  rows, order = [], [*ARMS]
  for arm, radius in sorted(arms(of.config), key=lambda v: order.index(v[0])):
    means = [
      float(np.mean(of.of(arm, name, radius)))
      for name in ('examples', 'length', 'reached', 'fitted')
    ]
    noise = None
    if arm not in (*WITHOUT_STEP, 'noise'):
      noise = of.gap(arm, 'noise', radius=radius)
    accuracy = of.accuracy(arm, radius=radius)
    rows.append([arm, ARMS[arm], radius or None, *means, accuracy, noise])
  return tables.table(
    f'Accuracy on clean test images of {of.config.dataset}, right labels',
    [
      ('arm', ''),
      ('trained on', 'what new networks are'),
      ('radius', 'longest step, l2', 'pixel values', 'g'),
      ('images', 'different ones', '', '.0f'),
      ('length', 'mean of the steps', 'pixel values', '.2f'),
      ('reached', 'share that the source gives their label', '', '.0%'),
      ('fitted', 'share that the new network does', '', '.0%'),
      ('accuracy', 'mean over new networks', '', '.1%'),
      ('over noise', 'accuracy less that of noise', '', '.1%'),
    ],
    rows,
  )


def source_table(sources):
  """Source networks early in their training, and at its end."""
  rows = []
  for step in np.unique(sources['step']):
    at = records.select(sources, step=step)
    share = [
      statistics.proportion(at[name], unit=UNIT)
      for name in ('fitted', 'accuracy')
    ]
    rows.append([int(step), *share])
  return tables.table(
    'Source networks',
    [
      ('step', 'of training; mistakes are those after the first'),
      ('fitted', 'training images classified correctly'),
      ('accuracy', 'test images classified correctly'),
    ],
    rows,
    spec='.1%',
  )


EXPERIMENT = runner.Experiment(
  'experiments.mislabelled_training', __doc__, Config, PRESETS, COLUMNS,
  measure, analyze, figures.draw, load=load,
)  # fmt: skip
run = EXPERIMENT.run

if __name__ == '__main__':
  EXPERIMENT.main()
