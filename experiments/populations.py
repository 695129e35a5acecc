"""Many networks that differ in one thing: seed, architecture, data, labels."""

import dataclasses
from typing import Any
from typing import NamedTuple

import jax
from jax import flatten_util
import jax.numpy as jnp
import numpy as np
import optax
from sklearn import datasets
import tqdm

from dmm_jax import data
from dmm_jax import models
from dmm_jax import records
from dmm_jax import train
from dmm_jax.train import adversarial
from experiments import networks
from experiments.lib import flags

_DENSE = ('linear', 'deep_linear', 'mlp')
PLANE = ('gaussians', 'moons', 'rings')
ARCHITECTURES = tuple(models.CLASSIFIERS)
CONDITIONS = ('plain', 'halves', 'shared', 'own')
# Small enough to train by the dozen; the models' own attributes otherwise.
_SMALL = {
  'cnn': dict(channels=(16, 32), strides=(1, 2), pools=0, widths=()),
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
    'digits',
    'digits (embedded), an image set of tensorflow-datasets, or in the plane '
    'gaussians, moons, rings.',
  )
  data_dir: str = flags.flag('', 'Of tensorflow-datasets.')
  num_train: int = flags.flag(0, 'Only so many, drawn; 0 for all.', least=0)
  num_test: int = flags.flag(0, 'Likewise, of the test set.', least=0)
  models: tuple[str, ...] = flags.flag(
    ('mlp', 'cnn', 'linear'),
    'Architectures; the first one is also trained under --conditions.',
    choices=ARCHITECTURES,
  )
  conditions: tuple[str, ...] = flags.flag(
    CONDITIONS,
    'plain: other seeds; halves: as many networks on each half of the data; '
    'shared, own: random labels, the same for all or own ones for each.',
    choices=CONDITIONS,
  )
  num_networks: int = flags.flag(
    4, 'Of each population; of each half of the data.', least=2
  )
  num_steps: int = flags.flag(1000, 'Of training.', least=1)
  early: int = flags.flag(
    0, 'Snapshots of every step up to this one, beside 1, 2, 5, ...', least=0
  )
  learning_rate: float = flags.flag(0.05, 'Constant; momentum 0.9.', least=0)
  batch_size: int = flags.flag(64, 'Examples a step.', least=1)


class Population(NamedTuple):
  """Networks of one architecture under one condition, along training.

  Attributes:
    name: architecture, and condition unless it is plain.
    model, condition: of these.
    forward: as of `train.flax_forward`.
    steps: of the snapshots.
    snapshots: parameters and other variables, flat `[steps, m, p]`.
    unravel: one flat vector -> `(params, stats)`.
    labels: that each network was trained on `[m, n]`.
    rows: of the training set that each network saw `[m, r]`; under 'halves'
      the first half of the networks has one half of them.
  """

  name: str
  model: str
  condition: str
  forward: train.Forward
  steps: np.ndarray
  snapshots: np.ndarray
  unravel: Any
  labels: np.ndarray
  rows: np.ndarray

  def network(self, step: int, number: int) -> tuple:
    """`(params, stats)` of one network at a step."""
    (place,) = np.flatnonzero(self.steps == step)
    return self.unravel(self.snapshots[place, number])


def load(config) -> dict[str, tuple[np.ndarray, np.ndarray]]:
  """Images and labels of 'train' and 'test'.

  The embedded digits' own test set is the hardest part of them; here both parts
  are drawn anew from all, 1,400 and 397.
  """
  key = jax.random.key(config.seed)
  if config.dataset in PLANE:
    xs, labels = _plane(config.dataset, config.seed)
    sets = {'train': (xs[::2], labels[::2]), 'test': (xs[1::2], labels[1::2])}
  else:
    sets = {
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


def _plane(name, seed, num=1000):
  """Two classes in the unit square, as scikit-learn draws them."""
  if name == 'moons':
    xs, labels = datasets.make_moons(num, noise=0.1, random_state=seed)
  elif name == 'rings':
    xs, labels = datasets.make_circles(
      num, noise=0.06, factor=0.5, random_state=seed
    )
  else:
    xs, labels = datasets.make_blobs(
      num, centers=[[-2, 0], [2, 0]], random_state=seed
    )
  xs = (xs - xs.min(0)) / (xs.max(0) - xs.min(0))
  return xs.astype(np.float32), labels.astype(np.int32)


def names(config, parts: tuple[int, ...] = ()) -> list[str]:
  """Of all populations, in order; `parts` as for `build`."""
  first, *_ = config.models
  return [
    *(config.models if 'plain' in config.conditions else ()),
    *(f'{first}-{c}' for c in config.conditions if c != 'plain'),
    *(f'{first}-part{num}' for num in parts),
  ]


def check(config) -> None:
  """Raises FlagError for flags that do not fit together."""
  if config.dataset in PLANE:
    for model in config.models:
      if model not in _DENSE:
        raise flags.FlagError(
          f'--models={model} needs images; --dataset={config.dataset} has '
          'points of the plane'
        )


def build(
  config,
  run_dir,
  sets,
  parts: tuple[int, ...] = (),
  adversary: adversarial.Adversary | None = None,
  attributes: dict[str, dict] | None = None,
) -> list[Population]:
  """Trains every population, or reads what it came to before.

  The networks of one population train together. Snapshots of log-spaced steps
  stay in the run directory, in `networks/`.

  Args:
    config, run_dir, sets: flags, where, and as of `load`.
    parts: further conditions, as 'halves', but of so many samples each.
    adversary: of the condition 'adversarial'.
    attributes: of models by name, where they are not the small ones.
  """
  result = []
  todo = names(config, parts)
  with tqdm.tqdm(total=len(todo), unit='population', desc='training') as bar:
    for name in todo:
      bar.set_description(f'training {name}')
      sizes = _SMALL | (attributes or {})
      result.append(_train(config, run_dir, sets, name, sizes, adversary))
      bar.update()
  return result


def _train(config, run_dir, sets, name, sizes, adversary):
  xs, labels = sets['train']
  model, _, condition = name.partition('-')
  condition = condition or 'plain'
  weights, order, other = jax.random.split(_key(config, model, condition), 3)
  many = config.num_networks * (2 if _parted(condition) else 1)
  given, rows = task(other, condition, labels, many)
  module = networks.build(
    networks.describe(
      'classifier',
      model,
      num_classes=int(labels.max()) + 1,
      **sizes.get(model, {}),
    )
  )
  attacked = condition == 'adversarial'
  plan = _train_config(config, rows.shape[1], adversary if attacked else None)
  optimizer = train.make_optimizer(plan, rows.shape[1])
  begin = jax.vmap(
    lambda key: train.init_state(key, module, jnp.asarray(xs[0]), optimizer)
  )
  keys = jax.random.split(weights, many)
  forward = train.flax_forward(module)
  path = run_dir / 'networks' / f'{name}.npz'
  if not records.agree(path.exists()):
    states, orders = jax.jit(begin)(keys), jax.random.split(order, many)
    task_of = _columns(xs, given, rows, condition)
    parts = _together(model, many)
    tables = [
      _fit(config, forward, plan, part, orders, states, *task_of)
      for part in parts
    ]
    records.save_columns(
      path,
      {
        'step': tables[0]['step'],
        'parameters': np.concatenate([t['parameters'] for t in tables], axis=1),
      },
    )
  table = records.load_columns(path)
  like = jax.eval_shape(begin, keys)
  one = lambda v: np.zeros(v.shape[1:], v.dtype)
  _, unravel = flatten_util.ravel_pytree(
    jax.tree.map(one, (like.params, like.stats))
  )
  snapshots = table['step'], table['parameters']
  return Population(
    name, model, condition, forward, *snapshots, unravel, given, rows
  )


def _key(config, model, condition):
  """The same for the same population, whatever others there are."""
  number = 10 * list(models.CLASSIFIERS).index(model)
  if condition in CONDITIONS:
    number += CONDITIONS.index(condition)
  elif condition == 'adversarial':
    number += len(CONDITIONS)
  elif condition.startswith('labels'):
    number += 500 + _share_of(condition)
  else:
    number += 1000 * _size_of(condition)
  return jax.random.fold_in(jax.random.key(config.seed + 1), number)


def _parted(condition):
  return condition == 'halves' or condition.startswith('part')


def _size_of(condition):
  return int(condition[len('part') :])


def _share_of(condition):
  return int(condition[len('labels') :])


def _train_config(config, num, adversary):
  size = min(config.batch_size, num)
  return train.TrainConfig(
    optimizer='momentum',
    learning_rate=config.learning_rate,
    schedule='constant',
    batch_size=size,
    num_epochs=-(-config.num_steps // (num // size)),
    adversary=adversary,
  )


def pause_steps(config) -> list[int]:
  """Steps of the snapshots."""
  early = range(min(config.early, config.num_steps) + 1)
  return sorted({*train.log_spaced(config.num_steps), *early, config.num_steps})


def _together(model, many):
  """Which networks train at once: all, but on CPUs convolutions one by one.

  Those of several networks at once are several times slower there.
  """
  if model in _DENSE or jax.default_backend() != 'cpu':
    return [slice(0, many)]
  return [slice(i, i + 1) for i in range(many)]


def _columns(xs, given, rows, condition):
  """What networks are trained on; what all share lies there once."""
  if _parted(condition):
    return (xs[rows], np.take_along_axis(given, rows, 1)), (0, 0, None)
  if condition == 'own' or condition.startswith('labels'):
    return (xs, given), (None, 0, None)
  return (xs, given[0]), (None, None, None)


def _fit(config, forward, plan, part, orders, states, columns, axes):
  """Snapshots of the networks of a slice: columns of one row a step."""
  own = [
    c if axis is None else c[part]
    for c, axis in zip(columns, axes, strict=False)
  ]
  keys, state = orders[part], jax.tree.map(lambda v: v[part], states)
  single = len(keys) == 1
  if single:
    keys, state = keys[0], jax.tree.map(lambda v: v[0], state)
    own = [
      c if axis is None else c[0] for c, axis in zip(own, axes, strict=False)
    ]
  history = train.fit(
    keys,
    forward,
    state,
    *own,
    config=plan,
    data_axes=(None, None, None) if single else axes,
    pause_steps=tuple(pause_steps(config)),
    each_epoch=False,
  )
  flat = lambda tree: flatten_util.ravel_pytree(tree)[0]
  flat = (lambda tree, f=flat: f(tree)[None]) if single else jax.vmap(flat)
  steps, rows = [], []
  for pause in history:
    if pause.step in pause_steps(config):
      steps.append(pause.step)
      rows.append(np.asarray(flat((pause.state.params, pause.state.stats))))
    if pause.step == config.num_steps:  # The rest of the epoch is left.
      break
  return {'step': np.array(steps, np.int32), 'parameters': np.stack(rows)}


def task(key, condition, labels, many):
  """The labels `[m, n]` and rows `[m, r]` that each network is trained on."""
  num = len(labels)
  given = np.tile(labels, (many, 1))
  rows = np.tile(np.arange(num), (many, 1))
  if _parted(condition):
    size = num // 2 if condition == 'halves' else _size_of(condition)
    order = np.asarray(jax.random.permutation(key, num))[: 2 * size]
    rows = np.repeat(order.reshape(2, size), many // 2, axis=0)
  elif condition == 'shared':
    given[:] = data.shuffle_labels(key, labels)
  elif condition == 'own':
    keys = jax.random.split(key, many)
    given = np.stack([data.shuffle_labels(k, labels) for k in keys])
  elif condition.startswith('labels'):
    wrong, num_classes = _share_of(condition) / 100, int(labels.max()) + 1
    given = np.stack(
      [
        data.noisy_labels(k, labels, wrong, num_classes)
        for k in jax.random.split(key, many)
      ]
    )
  return given, rows


def logits(forward: train.Forward, network: tuple, x):
  """Returns the logits of one network, `(params, stats)`, at one input."""
  params, stats = network
  return forward(params, stats, x, None, False)[0][0]


def logits_of(forward: train.Forward, params, stats):
  """Returns one network as a function of one input."""
  return lambda x: logits(forward, (params, stats), x)


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
