"""What does a network learn, step by step? Trains a classifier and keeps it.

  python -m experiments.train_classifier
  python -m experiments.train_classifier --preset=mnist_mlp --data_dir=DIR
  python -m experiments.boundary_distances --checkpoint=runs/train_classifier

The first takes 20 seconds on 2 CPU cores. Checkpoints of chosen steps (0, 1, 2,
3, 5, 10, 20, 50, ..., and the end) stay in the run directory for measuring
along training. A run killed at any moment goes on from its last checkpoint when
started again, to the same parameters, bit by bit, on as many devices.

Presets, with the test accuracy seen (seed 0) and the time on 2 CPU cores:
  default                digits, MLP: 91 % of the last 360, the hardest; 20 s
  mnist_mlp              98.4 %
  mnist_cnn              99.1 %; 5 minutes
  mnist_cnn_adversarial  l2, radius 2: 98.5 %, and 67 % of 200 images at an l2
                         distance above 2 (boundary_distances); 23 minutes
  cifar_cnn              79 % from 25,000 training images; 20 minutes
  cifar_resnet18         for a GPU; not run to its end yet

Accuracies have 95 % Wilson intervals over examples; the draw of the weights is
not in them: train other seeds for that. Verdict, by a rule fixed here:
"learned" if the interval lies above the share of the largest class.
"""

import dataclasses
import functools

import jax
import numpy as np

from dmm_jax import data
from dmm_jax import models
from dmm_jax import statistics
from dmm_jax import train
from dmm_jax.train import adversarial
from experiments import networks
from experiments import training
from experiments.figures import train_classifier as figures
from experiments.lib import flags
from experiments.lib import runner
from experiments.lib import tables


@dataclasses.dataclass(frozen=True)
class Config(training.Config):
  workdir: str = flags.workdir('runs/train_classifier')
  labels: str = flags.flag(
    'true',
    'Labels: true, parity (even or odd), or shuffled in training.',
    choices=('true', 'parity', 'shuffled'),
  )
  in_memory: bool = flags.flag(
    True,
    'Hold all images in memory; false reads each batch from disk, for sets '
    'larger than memory.',
  )
  label_noise: float = flags.flag(
    0.0, 'Share of training labels that are made wrong.', least=0, most=1
  )
  model: str = flags.flag(
    'mlp', 'Architecture.', choices=tuple(models.CLASSIFIERS)
  )
  widths: str = flags.flag(
    '',
    "Widths of hidden dense layers, such as 256,256; empty: the model's own.",
    numbers=1,
  )
  channels: str = flags.flag(
    '',
    "Channels of convolutions, such as 32,64; empty: the model's own.",
    numbers=1,
  )
  width: int = flags.flag(
    0,
    "Width of the first layer, in models that scale with it; 0: the model's "
    'own.',
    least=0,
  )
  loss: str = flags.flag(
    'cross_entropy', 'Loss.', choices=('cross_entropy', 'squared', 'hinge')
  )
  radius: float = flags.flag(
    0.0, 'Radius of adversarial training, input units; 0 for none.', least=0
  )
  norm: float = flags.flag(2.0, 'Norm of the radius.', choices=(2.0, np.inf))
  attack_steps: int = flags.flag(
    10, 'Steps of projected gradient in adversarial training.', least=1
  )
  trades: float = flags.flag(
    0.0,
    'Weight of the divergence in TRADES; 0: plain adversarial training.',
    least=0,
  )


MNIST = dict(dataset='mnist', epochs=10)
CIFAR = dict(dataset='cifar10', crop=4, flip=True)
PRESETS = {
  'default': {},
  'quick': dict(workdir='runs/train_quick', epochs=3, widths='32'),
  'mnist_mlp': dict(workdir='runs/mnist_mlp', **MNIST),
  'mnist_cnn': dict(workdir='runs/mnist_cnn', model='cnn', **MNIST),
  'mnist_cnn_adversarial': dict(
    workdir='runs/mnist_cnn_adversarial',
    model='cnn',
    radius=2.0,
    attack_steps=5,
    **MNIST | dict(epochs=8),
  ),
  'cifar_cnn': dict(
    workdir='runs/cifar_cnn', model='playground', width=32, epochs=15, **CIFAR
  ),
  'cifar_resnet18': dict(
    workdir='runs/cifar_resnet18',
    model='resnet18',
    optimizer='momentum',
    learning_rate=0.1,
    weight_decay=5e-4,
    warmup=0.05,
    dtype='bfloat16',
    epochs=60,
    **CIFAR,
  ),
}

COLUMNS = training.COLUMNS | {
  'train_accuracy': (
    '',
    'share of the first num_test training images classified as their labels in '
    'training say; NaN within an epoch',
  ),
  'test_accuracy': (
    '',
    'share of test images classified correctly; NaN within an epoch',
  ),
  'guess': ('', 'share of test images of the commonest class'),
  'num_test': ('', 'number of test images'),
}


def check(config):
  """Raises FlagError for flags that do not go together."""
  if config.trades and not config.radius:
    raise flags.FlagError(f'--trades={config.trades} needs a --radius')


def load(config):
  """Returns images and labels by split, labels as the flags say."""
  sets = training.load(config, in_memory=config.in_memory)
  if config.labels == 'parity':
    sets = {name: (xs, data.parity(v)) for name, (xs, v) in sets.items()}
  xs, labels = sets['train']
  shuffle, noise = jax.random.split(jax.random.key(config.seed + 1))
  if config.labels == 'shuffled':
    labels = data.shuffle_labels(shuffle, labels)
  if config.label_noise:
    classes = int(labels.max()) + 1
    labels = data.noisy_labels(noise, labels, config.label_noise, classes)
  sets = sets | {'train': (xs, labels)}
  describe(config, sets)  # Refuses attributes that the model does not have.
  return sets


# --- Measuring -------------------------------------------------------------


def measure(config, inputs):
  """Yields the only unit: training, which has checkpoints of its own."""
  yield runner.Unit('training', functools.partial(fit, config, inputs))


def fit(config, inputs):
  """Trains; accuracies after every epoch, on equally many of both sets."""
  labels = inputs['test'][1]
  num = len(labels)
  shown = {name: tuple(c[:num] for c in pair) for name, pair in inputs.items()}

  def evaluate(forward, state):
    return {
      f'{name}_accuracy': train.accuracy(forward, state, *pair)
      for name, pair in shown.items()
    }

  plan = training.train_config(config, config.loss, adversary(config))
  rows = training.fit(
    config, describe(config, inputs), plan, *inputs['train'], evaluate
  )
  guess = data.commonest_share(labels)
  same = lambda value: np.full(len(rows['step']), value)
  return rows | {'guess': same(guess), 'num_test': same(num)}


def adversary(config) -> adversarial.Adversary | None:
  if not config.radius:
    return None
  return adversarial.Adversary(
    config.radius, config.norm, config.attack_steps, trades=config.trades
  )


def describe(config, inputs):
  """Returns what checkpoints say of the network, to rebuild it from."""
  xs, labels = inputs['train']
  about = networks.describe(
    'classifier',
    config.model,
    widths=flags.as_numbers('widths', config.widths) or None,
    channels=flags.as_numbers('channels', config.channels) or None,
    width=config.width or None,
    num_classes=max(int(labels.max()) + 1, 2),
    **training.attributes(config),
  )
  return about | {'dataset': config.dataset, 'input_shape': list(xs.shape[1:])}


# --- Judging ---------------------------------------------------------------


def analyze(config, found):
  """Holds the accuracy at the end against the largest class."""
  last = {name: column[-1].item() for name, column in found['results'].items()}
  accuracy, num = last['test_accuracy'], last['num_test']
  low, high = map(float, statistics.wilson(accuracy, num))
  test = statistics.Estimate(accuracy, low, high, num, 'images')
  learned = statistics.above(test, last['guess'])
  verdict = 'learned' if learned else 'not told apart from chance'
  answer = (
    f'After {last["step"]:,} steps the {config.model} classifies '
    f'{tables.cell(test, ".1%")} of {num:,} test images of {config.dataset} '
    f'correctly, a constant guess {last["guess"]:.1%}: {verdict}.'
  )
  return runner.Report(
    answer, [], [accuracy_table(config, last, test, verdict)]
  )


def accuracy_table(config, last, test, verdict):
  column = tables.Column
  columns = [
    column('model', '', ''),
    column('parameters', '', ''),
    column('steps', '', ''),
    column('loss', '', 'in training, mean since the last pause', '.4f'),
    column(
      'training set',
      '',
      'share classified as their labels in training say, of the first images, '
      'as many as of test',
      '.1%',
    ),
    column('test set', '', 'share classified correctly', '.1%'),
    column('guess', '', COLUMNS['guess'][1], '.1%'),
    column(
      'verdict',
      '',
      'learned: the interval of the test set lies above the guess',
    ),
  ]
  row = [
    config.model,
    last['parameters'],
    last['step'],
    last['loss'],
    last['train_accuracy'],
    test,
    last['guess'],
    verdict,
  ]
  return tables.Table(
    f'The network after training on {config.dataset}', columns, [row]
  )


EXPERIMENT = runner.Experiment(
  'experiments.train_classifier', __doc__, Config, PRESETS, COLUMNS,
  measure, analyze, figures.draw, load=load, check=check,
)  # fmt: skip
run = EXPERIMENT.run

if __name__ == '__main__':
  EXPERIMENT.main()
