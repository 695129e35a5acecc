"""Does training on adversarial examples with wrong labels teach the right ones?

A network is trained; every training image is moved towards a wrong class until
the network sees that class; a new network is trained on these images with the
wrong labels alone, and tested on clean images with the right ones.

  python -m experiments.mislabelled_training
  python -m experiments.mislabelled_training --preset=mnist --data_dir=DIR

The first takes a minute on 2 CPU cores, --preset=mnist 12. A run killed at any
moment goes on where it was.

Arms, what the new networks are trained on:
  clean      the images as they are, right labels: the most there is to reach
  random     moved to a random wrong class, with that label
  next       moved to the class after the right one, with that label
  on         as random, but only the part of the step within the tangent space
             of principal directions
  off        as random, but only the part orthogonal to it
  noise      as random, but a random step of the same length: the null
  unmoved    as random, but no step at all
  mistakes   no step: only what a briefly trained network gets wrong, with the
             labels that it gives (Wallace 2019): learning from errors alone
The dimpled manifold model explains why `random` and `next` should do well: the
step overshoots a dimple, and the new boundary passes between the displaced
image and the original. If `mistakes` does as well, wrong labels of a network
teach without any step, and `random` does not speak for the model by itself.

Seen on mnist (MLPs, 3 seeds, steps up to 4): clean 98.1 % [97.8, 98.3], random
51.9 % [48.1, 55.7], next 27.7 % [22.1, 33.2], noise 0.2 % [0.1, 0.3]; and
mistakes, without any step, 81.7 % [81.2, 82.2]. On cifar10 (--preset=cifar
--model=mlp, 3 seeds, clean 48.0 % [46.3, 49.7]): steps up to 1, random 24.8 %
[24.7, 24.9], next 19.7 % [19.0, 20.4], noise 7.8 % [0.0, 15.6]; steps up to 0.5
are not told apart from noise; mistakes 31.2 % [31.1, 31.3].

Steps are those of projected gradient, towards the target, in l2 within each of
--radii. Accuracy is that on the clean test set, mean over --num_seeds new
networks, with a 95 % interval of Student's t over these; a random guess is
right for one in as many as there are classes. Verdict on each arm, by a rule
fixed here: "teaches" if the interval lies above both a random guess and the
interval of `noise` at the same radius, "teaches the opposite" if it lies below
both, else "not told apart from noise".
"""

import dataclasses
import functools
import operator

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dmm_jax import data
from dmm_jax import manifold
from dmm_jax import parallel
from dmm_jax import plots
from dmm_jax import programs
from dmm_jax import records
from dmm_jax import statistics
from dmm_jax import train
from dmm_jax.train import adversarial
from experiments import common
from experiments import networks
from experiments import training
from experiments.lib import flags

FREE = ('clean', 'unmoved', 'mistakes')  # Of the radius.
MOVED = ('random', 'next', 'on', 'off', 'noise')


@dataclasses.dataclass(frozen=True)
class Config:
  preset: str = flags.flag(
    'default',
    'Values for the flags that are not given: default, quick, mnist, cifar.',
  )
  workdir: str = flags.flag('runs/mislabelled_training', 'Run directory.')
  seed: int = flags.flag(0, 'Of weights, targets and noise.', least=0)
  dataset: str = flags.flag(
    'digits', 'digits (embedded), or an image set of tensorflow-datasets.'
  )
  data_dir: str = flags.flag('', 'Of tensorflow-datasets.')
  num_train: int = flags.flag(0, 'Only the first so many; 0 for all.', least=0)
  model: str = flags.flag('mlp', 'Of all networks.', choices=('mlp', 'cnn'))
  epochs: int = flags.flag(30, 'Of each network.', least=1)
  learning_rate: float = flags.flag(1e-3, 'Of Adam, at the start.', least=0)
  num_seeds: int = flags.flag(5, 'New networks of each arm.', least=2)
  radii: tuple[float, ...] = flags.flag(
    (0.5, 1.0, 2.0), 'Longest steps, l2, input units.', least=0
  )
  attack_steps: int = flags.flag(20, 'Of projected gradient.', least=1)
  k: int = flags.flag(8, 'Principal directions, for on and off.', least=1)
  brief_steps: int = flags.flag(
    8, 'Of training before the mistakes are taken.', least=1
  )


PRESETS = {
  'default': {},
  'quick': dict(
    workdir='runs/mislabelled_quick', radii=(1.0,), num_seeds=3, epochs=10
  ),
  'mnist': dict(
    workdir='runs/mislabelled_mnist',
    dataset='mnist',
    radii=(1.0, 2.0, 4.0),
    epochs=5,
    num_seeds=3,
    k=16,
    brief_steps=50,
  ),
  'cifar': dict(
    workdir='runs/mislabelled_cifar',
    dataset='cifar10',
    model='cnn',
    radii=(0.5, 1.0),
    epochs=10,
    num_seeds=3,
    k=128,
    brief_steps=200,
  ),
}


def run(config: Config) -> dict:
  """Runs the experiment, and returns what it wrote to summary.json."""
  flags.check(config)
  sets: dict[str, tuple] = {
    split: data.load(config.dataset, split, config.data_dir or None)
    for split in ('train', 'test')
  }
  sets['train'] = tuple(v[: config.num_train or None] for v in sets['train'])
  return common.conduct(
    config,
    'experiments.mislabelled_training',
    collect=lambda config, run_dir: collect(config, run_dir, sets),
    summarize=lambda config, run_dir: summarize(config, run_dir, sets),
    draw=plots.mislabelled_training,
    report=report,
  )


# --- What networks are trained on ------------------------------------------


def about(config, sets):
  classes = int(sets['train'][1].max()) + 1
  return networks.describe('classifier', config.model, num_classes=classes)


def train_config(config):
  return train.TrainConfig(
    num_epochs=config.epochs, learning_rate=config.learning_rate
  )


def wrong_labels(key, labels, classes):
  """Uniform over the other classes."""
  shift = jax.random.randint(key, labels.shape, 1, classes)
  return ((labels + np.asarray(shift)) % classes).astype(np.int32)


def move_to_target(x, target, number, radius, variables, *, config, module):
  """Moves one example to a class; also whether it gets there."""
  loss = lambda v: (
    -optax.losses.softmax_cross_entropy_with_integer_labels(
      module.apply(variables, v)[0], target
    )
  )
  key = jax.random.fold_in(jax.random.key(config.seed), number)
  adversary = adversarial.Adversary(radius, 2, config.attack_steps)
  moved = adversarial.perturb(key, loss, x, adversary)
  return moved, jnp.argmax(module.apply(variables, moved)[0]) == target


def in_part(config, xs, moved, arm):
  """Images moved by only a part of their steps."""
  basis = manifold.principal_basis(xs, config.k)
  side = programs.bind(getattr(manifold, arm))
  steps = parallel.map_examples(side, (moved - xs,), shared=(basis,))
  return np.clip(xs + steps, 0.0, 1.0)


def noisy(key, xs, moved):
  """Images moved in random directions, as far as by their steps."""
  flat = lambda v: np.asarray(v).reshape(len(v), -1)
  noise = flat(jax.random.normal(key, xs.shape))
  size = np.linalg.norm(flat(moved - xs), axis=1, keepdims=True)
  noise = noise * size / np.linalg.norm(noise, axis=1, keepdims=True)
  return np.clip(xs + noise.reshape(xs.shape), 0.0, 1.0)


def mistakes(config, sets):
  """What a briefly trained network gets wrong, and the labels that it gives."""
  xs, labels = sets['train']
  module, plan = networks.build(about(config, sets)), train_config(config)
  optimizer = train.make_optimizer(plan, len(xs))
  weights, order = jax.random.split(jax.random.key(config.seed + 3))
  forward = train.flax_forward(module)
  state = train.init_state(weights, module, xs[0], optimizer)
  pauses = train.fit(
    order,
    forward,
    state,
    xs,
    labels,
    config=plan,
    pause_steps=(config.brief_steps,),
  )
  logits = train.outputs(forward, next(pauses).state, xs)
  given = np.argmax(logits, axis=1).astype(np.int32)
  wrong = given != labels
  return xs[wrong], given[wrong]


# --- Training and testing --------------------------------------------------


def collect(config, run_dir, sets):
  """Trains arm by arm: results.npz, one row a new network."""
  xs, labels = sets['train']
  classes = int(labels.max()) + 1
  key = jax.random.key(config.seed)
  module, variables = training.fit_once(
    run_dir, key, about(config, sets), xs, labels, train_config(config)
  )
  draws, noise = jax.random.split(jax.random.fold_in(key, 1))
  targets = {
    'random': wrong_labels(draws, labels, classes),
    'next': ((labels + 1) % classes).astype(np.int32),
  }

  @functools.lru_cache(maxsize=2)  # By plain values, for this run alone.
  def moved(arm, radius):
    return parallel.map_examples(
      programs.bind(move_to_target, config=config, module=module),
      (xs, targets[arm], np.arange(len(xs))),
      shared=(np.float32(radius), variables),
    )

  def examples(arm, radius):
    """`(images, labels, share of steps that reached their target)`."""
    if arm == 'clean':
      return xs, labels, np.nan
    if arm == 'unmoved':
      return xs, targets['random'], np.nan
    if arm == 'mistakes':
      return *mistakes(config, sets), np.nan
    goal = 'next' if arm == 'next' else 'random'
    ends, reached = moved(goal, radius)
    if arm in ('on', 'off'):
      ends = in_part(config, xs, ends, arm)
    elif arm == 'noise':
      ends = noisy(noise, xs, ends)
    return ends.astype(np.float32), targets[goal], np.mean(reached)

  arms = [(arm, 0.0) for arm in FREE]
  arms += [(arm, radius) for radius in config.radii for arm in MOVED]

  def compute(done):
    for arm, radius in arms[done:]:
      images, given, reached = examples(arm, radius)
      accuracy = train_anew(config, sets, images, given)
      count = len(accuracy)
      yield {
        'arm': np.full(count, arm, 'U10'),
        'radius': np.full(count, radius, np.float32),
        'seed': np.arange(count, dtype=np.int32),
        'examples': np.full(count, len(images), np.int32),
        'reached': np.full(count, reached, np.float32),
        'accuracy': accuracy,
      }

  names = [f'{arm}-{radius:g}' for arm, radius in arms]
  common.gather(run_dir, names, compute, 'arm')


def train_anew(config, sets, xs, labels):
  """Accuracies on the clean test set of new networks `[seeds]`."""
  if not len(xs):  # A network without mistakes.
    return np.full(config.num_seeds, np.nan)
  module, plan = networks.build(about(config, sets)), train_config(config)
  optimizer = train.make_optimizer(plan, len(xs))
  forward = train.flax_forward(module)
  keys = jax.random.split(jax.random.key(config.seed + 2), config.num_seeds)
  states = jax.vmap(
    lambda key: train.init_state(key, module, jnp.asarray(xs[0]), optimizer)
  )(keys)
  *_, last = train.fit(keys, forward, states, xs, labels, config=plan)
  each = [
    jax.tree.map(operator.itemgetter(i), last.state)
    for i in range(config.num_seeds)
  ]
  test = sets['test']
  return np.array([train.accuracy(forward, one, *test) for one in each])


# --- Judging ---------------------------------------------------------------


def summarize(config, run_dir, sets):
  """Every number with n, interval, null and verdict."""
  table = records.load_columns(run_dir / 'results.npz')
  guess = 1 / (int(sets['train'][1].max()) + 1)
  rows = []
  for arm, radius in dict.fromkeys(
    zip(table['arm'].tolist(), table['radius'].tolist(), strict=True)
  ):
    part = records.select(table, arm=arm, radius=np.float32(radius))
    rows.append(
      {
        'arm': arm,
        'radius': radius,
        'n': len(part['accuracy']),
        'examples': int(part['examples'][0]),
        'reached': float(part['reached'][0]),
        'accuracy': common.entry(
          statistics.t_mean(part['accuracy'], unit='networks')
        ),
      }
    )
  for row in rows:
    (null,) = [
      other['accuracy']['interval']
      for other in rows
      if other['arm'] == 'noise'
      and other['radius'] == (row['radius'] or np.float32(max(config.radii)))
    ]
    row['verdict'] = verdict(row, null, guess)
  return {
    'question': flags.question(__doc__),
    'dataset': config.dataset,
    'guess': guess,
    'test_examples': len(sets['test'][1]),
    'rows': rows,
  }


def verdict(row, null, guess):
  """The rule of the module's docstring, in words."""
  if row['arm'] == 'noise':
    return 'the null'
  low, high = row['accuracy']['interval']
  if low > max(guess, null[1]):
    return 'teaches'
  if high < min(guess, null[0]):
    return 'teaches the opposite'
  return 'not told apart from noise'


def report(summary):
  """Prints the summary as a table."""
  print(
    f'\n{summary["dataset"]}: accuracy on {summary["test_examples"]} clean '
    'test images with their right labels; a guess is right for '
    f'{summary["guess"]:.0%}\n'
  )
  common.print_table(
    [
      'trained on',
      'radius',
      'networks',
      'examples',
      'reached',
      'accuracy [95 %]',
      'verdict',
    ],
    [
      [
        row['arm'],
        f'{row["radius"]:g}' if row['radius'] else '-',
        str(row['n']),
        str(row['examples']),
        '-' if np.isnan(row['reached']) else f'{row["reached"]:.0%}',
        common.with_interval(row['accuracy'], '.1%'),
        row['verdict'],
      ]
      for row in summary['rows']
    ],
  )


if __name__ == '__main__':
  flags.main(run, Config, PRESETS)
