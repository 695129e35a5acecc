"""Networks by name: built from flags, read back from a training run."""

import dataclasses
from typing import Any
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dmm_jax import checkpoints
from dmm_jax import models
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
      raise flags.FlagError(f'--{attribute}: --model={name} has no such thing')
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


def size(tree) -> int:
  """How many numbers a pytree of arrays holds."""
  return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(tree))
