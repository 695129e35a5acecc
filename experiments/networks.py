"""Networks by name: built from flags, read back from a training run."""

from collections.abc import Sequence
import dataclasses
from typing import Any
from typing import NamedTuple

import jax
from jax import flatten_util
import jax.numpy as jnp
import numpy as np

from dmm_jax import checkpoints
from dmm_jax import models
from dmm_jax import parallel
from dmm_jax import programs
from dmm_jax import train
from experiments.lib import flags

KINDS = {'classifier': models.CLASSIFIERS, 'autoencoder': models.AUTOENCODERS}


class Trained(NamedTuple):
  """A network as a run of training left it.

  Attributes:
    module: of Flax.
    state: its parameters and statistics, of numpy; no optimizer's.
    description: as given to `checkpoints.writer`.
    step: of training.
  """

  module: Any
  state: train.State
  description: dict
  step: int


def describe(kind: str, name: str, **wanted) -> dict:
  """What rebuilds a module: its name, and its attributes that are not None.

  Raises:
    FlagError: for one that the module does not have.
  """
  module = KINDS[kind][name]
  known = {field.name for field in dataclasses.fields(module)}
  attributes = {k: v for k, v in wanted.items() if v is not None}
  for attribute in attributes:
    if attribute not in known:
      raise flags.FlagError(
        f'--{attribute}: --model={name} has no attribute {attribute!r}'
      )
  return {'kind': kind, 'model': name, 'attributes': attributes}


def build(description: dict):
  """The module of a description, whose lists may have been tuples."""
  attributes = {
    name: _frozen(value) for name, value in description['attributes'].items()
  }
  if 'dtype' in attributes:
    attributes['dtype'] = jnp.dtype(attributes['dtype'])
  return KINDS[description['kind']][description['model']](**attributes)


def _frozen(value):
  return tuple(map(_frozen, value)) if isinstance(value, list) else value


def read(run_dir, step: int | None = None, kind: str = 'classifier') -> Trained:
  """The network of a training run's last checkpoint, or of one of its steps.

  Raises:
    CheckpointError: where there is none, or of another kind, or it is damaged:
      an earlier one is another network.
  """
  folder = f'{run_dir}/checkpoints'
  if step is None:
    step = max(checkpoints.steps(folder), default=None)
  found = checkpoints.read(folder, step=step)
  description = found.description
  if description.get('kind') != kind:
    other = description.get('kind', 'something else')
    raise checkpoints.CheckpointError(
      f'the checkpoints in {run_dir} are of kind {other!r}, not {kind!r}'
    )
  state = train.State(found.state['params'], found.state['stats'] or {}, ())
  return Trained(build(description), state, description, found.step)


def read_for(
  run_dir, shape: tuple, num_classes: int | None = None, kind='classifier'
) -> Trained:
  """As `read`, of a network that fits the data.

  Args:
    run_dir, kind: as for `read`.
    shape: of an input.
    num_classes: of the data, for a classifier.

  Raises:
    CheckpointError: as for `read`.
    FlagError: for inputs of another shape, or another number of classes.
  """
  found = read(run_dir, kind=kind)
  there = tuple(found.description['input_shape'])
  known = found.description['attributes'].get('num_classes')
  if there == tuple(shape) and known == num_classes:
    return found
  count = lambda num: '' if num is None else f', {num} classes'
  raise flags.FlagError(
    f'the network in {run_dir} was trained on {found.description["dataset"]}: '
    f'inputs {there}{count(known)}; the data have inputs {tuple(shape)}'
    f'{count(num_classes)}'
  )


def variables(state: train.State) -> dict:
  """As a module's `apply` takes them; batch norm then uses its averages."""
  return {'params': state.params, **state.stats}


class Group(NamedTuple):
  """Networks of one architecture.

  Attributes:
    module: of Flax.
    given: their variables; empty to train them.
    num: how many.
  """

  module: Any
  given: list
  num: int

  def variables(self, number: int, key, xs, targets, plan: train.TrainConfig):
    """A network that was given, or one trained with a key as a plan says."""
    if self.given:
      return self.given[number]
    weights, order = jax.random.split(key)
    optimizer = train.make_optimizer(plan, len(xs))
    state = train.init_state(weights, self.module, xs[0], optimizer)
    forward = train.flax_forward(self.module)
    for pause in train.fit(order, forward, state, xs, targets, config=plan):
      state = pause.state
    return variables(state)


def read_group(flag: str, paths: Sequence[str], shape: tuple, **fits) -> Group:
  """Networks of directories that a flag names, all of one architecture.

  Args:
    flag: its name.
    paths: the directories.
    shape: of an input.
    **fits: what else `read_for` takes.

  Raises:
    CheckpointError, FlagError: as for `read_for`, and for other architectures.
  """
  found = [read_for(path, shape, **fits) for path in paths]
  if any(one.module != found[0].module for one in found):
    names = ', '.join(paths)
    raise flags.FlagError(f'--{flag}: different architectures in {names}')
  given = [variables(one.state) for one in found]
  return Group(found[0].module, given, len(given))


def flatten(variables) -> np.ndarray:
  """Variables in one row `[p]`, as a table of networks holds them."""
  return np.asarray(flatten_util.ravel_pytree(variables)[0])


def unflatten(module, x: np.ndarray, flat: np.ndarray):
  """Variables from a row of `flatten`; `x` is an input of the module."""
  keys = {'params': jax.random.key(0), 'latent': jax.random.key(0)}
  like = jax.eval_shape(module.init, keys, x)
  like = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), like)
  return flatten_util.ravel_pytree(like)[1](jnp.asarray(flat))


def predictions(module, variables, xs: np.ndarray) -> np.ndarray:
  """The classes `[n]` int32 that a classifier gives inputs `[n, ...]`."""
  predict = programs.bind(_predict, module=module)
  found = parallel.map_examples(predict, (xs,), shared=(variables,))
  return found.astype(np.int32)


def _predict(x, variables, *, module):
  return jnp.argmax(module.apply(variables, x)[0])


def reconstructions(module, variables, xs: np.ndarray, **options) -> tuple:
  """The codes `[n, k]` of inputs at an auto-encoder, and what it decodes.

  Args:
    module, variables: of the auto-encoder.
    xs: inputs `[n, ...]`.
    **options: of `parallel.map_examples`.
  """
  code = programs.bind(_reconstruct, module=module)
  return parallel.map_examples(code, (xs,), shared=(variables,), **options)


def _reconstruct(x, variables, *, module):
  z = module.apply(variables, x, method='encode')
  return z, module.apply(variables, z, method='decode')


def size(tree) -> int:
  """How many numbers a pytree of arrays holds."""
  return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(tree))
