"""Networks of `experiments.som_codes`: seeds, architectures and conditions."""

import dataclasses
from typing import NamedTuple

import jax
import numpy as np
import optax
import tqdm

from dmm_jax import data
from dmm_jax import models
from dmm_jax import records
from dmm_jax import train
from dmm_jax.train import adversarial
from dmm_jax.train import populations
from experiments import networks
from experiments.lib import flags

ARCHITECTURES = tuple(models.CLASSIFIERS)
ADVERSARIAL = 'adversarial'
CONDITIONS = {
  'plain': populations.PLAIN,
  'own': populations.Condition(random_labels=True),
  ADVERSARIAL: populations.PLAIN,
  'labels25': populations.Condition(wrong=0.25),
  'labels50': populations.Condition(wrong=0.5),
}
# Small enough to train by the dozen; the models' own attributes otherwise.
_SMALL = {
  'resnet18': dict(width=16),
  'vgg16': dict(
    stages=((16,) * 2, (32,) * 2, (64,) * 3, (128,) * 3, (128,) * 3)
  ),
  'playground': dict(width=16),
}


@dataclasses.dataclass(frozen=True)
class Config:
  preset: str = flags.flag(
    'default', 'Values for the flags that are not given; see above.'
  )
  workdir: str = flags.flag('runs/populations', 'Run directory.')
  seed: int = flags.flag(0, 'Of weights, order, labels and pairs.', least=0)
  dataset: str = flags.flag(
    'digits', 'digits (embedded), or an image set of tensorflow-datasets.'
  )
  data_dir: str = flags.flag('', 'Of tensorflow-datasets.')
  num_train: int = flags.flag(0, 'Only so many, drawn; 0 for all.', least=0)
  num_test: int = flags.flag(0, 'Likewise, of the test set.', least=0)
  models: tuple[str, ...] = flags.flag(
    ('cnn',),
    'Architectures; the first one is also trained under --conditions.',
    choices=ARCHITECTURES,
  )
  conditions: tuple[str, ...] = flags.flag(
    ('plain',), 'Of training.', choices=tuple(CONDITIONS)
  )
  num_networks: int = flags.flag(4, 'Of each population.', least=2)
  num_steps: int = flags.flag(1000, 'Of training.', least=1)
  learning_rate: float = flags.flag(0.05, 'Constant; momentum 0.9.', least=0)
  batch_size: int = flags.flag(64, 'Examples a step.', least=1)


class Population(NamedTuple):
  """Networks of one architecture under one condition.

  Attributes:
    model, condition: architecture, and a key of `CONDITIONS`.
    trained: the networks.
  """

  model: str
  condition: str
  trained: populations.Population

  @property
  def name(self) -> str:
    plain = self.condition == 'plain'
    return self.model if plain else f'{self.model}-{self.condition}'

  @property
  def forward(self):
    return self.trained.forward

  @property
  def steps(self) -> np.ndarray:
    return self.trained.steps

  @property
  def labels(self) -> np.ndarray:
    return self.trained.examples.labels

  def network(self, step: int, number: int) -> tuple:
    """`(params, stats)` of one network at a step."""
    return self.trained.network(number, step)


def load(config) -> dict[str, tuple[np.ndarray, np.ndarray]]:
  """Images and labels of 'train' and 'test'.

  The embedded digits' own test set is the hardest part of them; here both parts
  are drawn anew from all, 1,400 and 397.
  """
  key = jax.random.key(config.seed)
  sets: dict = {
    split: data.load(config.dataset, split, config.data_dir or None)
    for split in ('train', 'test')
  }
  if config.dataset == 'digits':
    xs, labels = (
      np.concatenate(parts) for parts in zip(*sets.values(), strict=True)
    )
    order = np.asarray(jax.random.permutation(key, len(xs)))
    parts = {'train': order[:1400], 'test': order[1400:]}
    sets = {split: (xs[rows], labels[rows]) for split, rows in parts.items()}
  wanted = {'train': config.num_train, 'test': config.num_test}
  for number, (split, (xs, labels)) in enumerate(sets.items()):
    draw = jax.random.permutation(jax.random.fold_in(key, number), len(xs))
    rows = np.asarray(draw)[: wanted[split] or None]
    sets[split] = xs[rows], labels[rows]
  return sets


def pause_steps(config) -> list[int]:
  """Steps of the snapshots."""
  return sorted({*train.log_spaced(config.num_steps), config.num_steps})


def build(
  config,
  run_dir,
  sets,
  adversary: adversarial.Adversary,
  attributes: dict[str, dict],
) -> list[Population]:
  """Trains every population, or reads what it came to before.

  Snapshots stay in the run directory, in `networks/`.

  Args:
    config, run_dir, sets: flags, where, and as of `load`.
    adversary: of the condition 'adversarial'.
    attributes: of models by name, where they are not the small ones.
  """
  first, *_ = config.models
  todo = [(model, 'plain') for model in config.models]
  todo += [(first, c) for c in config.conditions if c != 'plain']
  result = []
  with tqdm.tqdm(total=len(todo), unit='population', desc='training') as bar:
    for model, condition in todo:
      bar.set_description(f'training {model}, {condition}')
      sizes = (_SMALL | attributes).get(model, {})
      given = adversary if condition == ADVERSARIAL else None
      trained = _train(config, run_dir, sets, model, condition, sizes, given)
      result.append(Population(model, condition, trained))
      bar.update()
  return result


def _train(config, run_dir, sets, model, condition, sizes, adversary):
  """The networks of a population, from its file if there is one."""
  xs, labels = sets['train']
  number = 10 * list(models.CLASSIFIERS).index(model)
  number += list(CONDITIONS).index(condition)
  key = jax.random.fold_in(jax.random.key(config.seed + 1), number)
  num_classes = int(labels.max()) + 1
  module = networks.build(
    networks.describe('classifier', model, num_classes=num_classes, **sizes)
  )
  name = model if condition == 'plain' else f'{model}-{condition}'
  path = run_dir / 'networks' / f'{name}.npz'
  if not records.agree(path.exists()):
    found = populations.fit(
      key,
      module,
      xs,
      labels,
      condition=CONDITIONS[condition],
      num=config.num_networks,
      config=train.TrainConfig(
        optimizer='momentum',
        learning_rate=config.learning_rate,
        schedule='constant',
        batch_size=min(config.batch_size, len(xs)),
        adversary=adversary,
      ),
      num_steps=config.num_steps,
      pause_steps=pause_steps(config),
    )
    columns = {'step': found.steps, 'parameters': found.parameters}
    records.save_columns(path, columns)
  table = records.load_columns(path)
  examples = populations.draw_examples(
    jax.random.split(key, 3)[2],
    CONDITIONS[condition],
    labels,
    config.num_networks,
  )
  return populations.Population(
    train.flax_forward(module),
    examples,
    table['step'],
    table['parameters'],
    populations.unraveler(module, xs[0]),
  )


def logits_of(forward: train.Forward, params, stats):
  """Returns one network as a function of one input."""
  return lambda x: populations.logits(forward, (params, stats), x)


def classes(population: Population, network: tuple, xs, **options):
  """Of images: what one network of a population calls them `[n]`.

  `options` are those of `parallel.map_examples`.
  """
  params, stats = network
  state = train.State(params, stats, None)
  return train.outputs(population.forward, state, xs, **options).argmax(1)


def ascend(key, logits_fn, x, label, radius, steps: int):
  """Returns an image moved away from a label by projected gradient, linf."""
  loss = lambda v: optax.losses.softmax_cross_entropy_with_integer_labels(
    logits_fn(v), label
  )
  # Steps of a fifth of the radius, as is usual for twenty.
  ball = adversarial.Adversary(radius, np.inf, steps, step_size=0.2)
  return adversarial.perturb(key, loss, x, ball)
