"""Populations: networks of one architecture that differ in a chosen way.

All networks of a population train at once, each from its own weights and in its
own order. A `Condition` says what else they share: labels, parts of the data.
"""

from collections.abc import Callable
from collections.abc import Sequence
import functools
import operator
from typing import Any
from typing import NamedTuple

from flax import linen as nn
import jax
from jax import flatten_util
import jax.numpy as jnp
import numpy as np

from dmm_jax import data
from dmm_jax import parallel
from dmm_jax.train import config as config_lib
from dmm_jax.train import loop


class Condition(NamedTuple):
  """Which labels and which examples the networks of a population have.

  Successive networks form groups. Each group has one draw of labels and of
  parts, independent of those of the other groups; the networks of a group take
  turns at its parts. So pairs of networks on disjoint halves, each pair with a
  division of its own, are `Condition(parts=2, group=2)`; pairs that share
  random labels are `Condition(random_labels=True, group=2)`.

  Attributes:
    random_labels: whether labels are in random order, each class with its
      count.
    wrong: share of the labels that are replaced by another class, drawn
      uniformly.
    parts: number of disjoint random parts of one size; 1 is no division.
    part_size: examples of a part; 0 for as many as there are.
    group: networks of a group; 0 for all networks of the population.
  """

  random_labels: bool = False
  wrong: float = 0.0
  parts: int = 1
  part_size: int = 0
  group: int = 1


PLAIN = Condition()  # Everything, with the right labels.


class Examples(NamedTuple):
  """What each of m networks is trained on.

  Attributes:
    labels: of all n examples `[m, n]`, int32; of those that a network does not
      see too.
    rows: of the examples that it sees `[m, r]`.
  """

  labels: np.ndarray
  rows: np.ndarray


class Population(NamedTuple):
  """Trained networks, on the host.

  Attributes:
    forward: as of `train.flax_forward`.
    examples: what they were trained on.
    steps: of the snapshots, rising `[s]`.
    parameters: parameters and other variables of each network at each step, as
      flat vectors `[s, m, p]`.
    unravel: one such vector -> `(params, stats)`.
  """

  forward: loop.Forward
  examples: Examples
  steps: np.ndarray
  parameters: np.ndarray
  unravel: Callable[[np.ndarray], tuple[Any, Any]]

  def network(self, number: int, step: int | None = None) -> tuple[Any, Any]:
    """Returns `(params, stats)` of a network at a step; None: the last."""
    place = -1
    if step is not None:
      found = np.flatnonzero(self.steps == step)
      if not len(found):
        raise ValueError(f'snapshots are of steps {self.steps}, not of {step}')
      place = int(found[0])
    return self.unravel(self.parameters[place, number])


def constant_rate(
  learning_rate: float, optimizer: str = 'momentum', **more: Any
) -> config_lib.TrainConfig:
  """Returns how to train for a number of steps, which no schedule knows of.

  Args:
    learning_rate: constant.
    optimizer: as of `train.TrainConfig`.
    **more: other fields of it; batches have 64 examples.
  """
  return config_lib.TrainConfig(
    optimizer=optimizer,
    learning_rate=learning_rate,
    schedule='constant',
    **{'batch_size': 64, **more},
  )


def draw_examples(
  key: jax.Array, condition: Condition, labels: np.ndarray, num: int
) -> Examples:
  """Returns what each of `num` networks is trained on.

  Args:
    key: of the labels and parts; group g draws from `fold_in(key, g)`.
    condition: what networks share.
    labels: the right ones `[n]`, from 0.
    num: how many networks.

  Raises:
    ValueError: for a condition that the examples do not suffice for.
  """
  total = len(labels)
  size = condition.part_size or total // condition.parts
  if not 0 < size * condition.parts <= total:
    raise ValueError(
      f'{condition.parts} parts of {size} examples need '
      f'{size * condition.parts}, got {total}'
    )
  given = np.tile(labels.astype(np.int32), (num, 1))
  rows = np.tile(np.arange(size), (num, 1))
  group = condition.group or num
  for first in range(0, num, group):
    of_labels, of_noise, of_parts = jax.random.split(
      jax.random.fold_in(key, first // group), 3
    )
    mine = slice(first, min(first + group, num))
    if condition.random_labels:
      given[mine] = data.shuffle_labels(of_labels, given[first])
    if condition.wrong:
      num_classes = int(labels.max()) + 1
      given[mine] = data.noisy_labels(
        of_noise, given[first], condition.wrong, num_classes
      )
    if size < total:
      order = np.asarray(jax.random.permutation(of_parts, total))
      parts = order[: size * condition.parts].reshape(-1, size)
      turns = np.arange(mine.stop - first) % condition.parts
      rows[mine] = parts[turns]
  return Examples(given, rows.astype(np.int32))


def fit(
  key: jax.Array,
  module: nn.Module,
  xs: np.ndarray,
  labels: np.ndarray,
  *,
  condition: Condition = PLAIN,
  num: int,
  config: config_lib.TrainConfig,
  num_steps: int,
  pause_steps: Sequence[int] = (),
) -> Population:
  """Trains a population of networks.

  Networks with convolutions train one after the other on CPUs, where those of
  several networks at once are several times slower.

  Args:
    key: of weights, orders, labels and parts.
    module: of Flax, `x -> (logits, codes)`.
    xs, labels: examples `[n, ...]`, and their right labels `[n]`.
    condition: what they share.
    num: how many networks.
    config: how to train. `num_epochs` is not used: a schedule spans the epochs
      that `num_steps` steps begin.
    num_steps: of training, the same whatever the number of examples.
    pause_steps: further steps to keep snapshots of; 0 is before training.

  Returns:
    The population, with snapshots of `pause_steps` and `num_steps`.
  """
  weights, order, draw = jax.random.split(key, 3)
  examples = draw_examples(draw, condition, labels, num)
  seen = examples.rows.shape[1]
  per_epoch = config_lib.steps_per_epoch(config, seen)
  config = config._replace(num_epochs=-(-num_steps // per_epoch))
  optimizer = config_lib.make_optimizer(config, seen)
  first = jnp.asarray(xs[0])
  keys = jax.random.split(weights, num)
  states = loop.init_state(keys, module, first, optimizer)
  steps = sorted({*pause_steps, num_steps})
  orders, forward = jax.random.split(order, num), loop.flax_forward(module)
  run = functools.partial(
    loop.fit, config=config, pause_steps=tuple(steps), each_epoch=False
  )
  columns, axes = _columns(xs, condition, examples)
  if jax.default_backend() == 'cpu' and _convolves(module, first):
    found = _one_by_one(run, orders, forward, states, columns, axes, steps)
  else:
    history = run(orders, forward, states, *columns, data_axes=(*axes, None))
    found = _snapshots(history, steps, num)
  unravel = unraveler(module, xs[0])
  return Population(forward, examples, np.array(steps), found, unravel)


def fit_ends(
  weights: jax.Array,
  orders: jax.Array,
  module: nn.Module,
  xs: np.ndarray,
  labels: np.ndarray,
  *,
  config: config_lib.TrainConfig,
  together: bool = True,
) -> tuple[np.ndarray, np.ndarray]:
  """Trains networks from keys of their own; keeps how they begin and end.

  Args:
    weights, orders: keys of each network `[m]`.
    module: of Flax, `x -> (logits, codes)`.
    xs, labels: examples `[n, ...]`, and their labels `[n]`.
    config: how to train.
    together: whether all train at once; else one after the other, which is
      faster for convolutions on CPUs.

  Returns:
    Parameters before and after training, flat `[m, p]` each, on the host: other
    devices need not wait for those that train.
  """
  optimizer = config_lib.make_optimizer(config, len(xs))
  before = loop.init_state(weights, module, xs[0], optimizer)
  flatten = lambda params: flatten_util.ravel_pytree(params)[0]
  run = functools.partial(
    loop.fit,
    forward=loop.flax_forward(module),
    xs=xs,
    targets=labels,
    config=config,
    each_epoch=False,
  )
  if together:
    *_, last = run(orders, state=before)
    after = jax.vmap(flatten)(last.state.params)
  else:
    on_host, ends = jax.device_get(before), []
    for i, order in enumerate(orders):
      state = jax.tree.map(operator.itemgetter(i), on_host)
      *_, last = run(order, state=state)
      ends.append(flatten(last.state.params))
    after = jnp.stack(ends)
  return jax.device_get((jax.vmap(flatten)(before.params), after))


def logits(forward: loop.Forward, network: tuple, x: jax.Array) -> jax.Array:
  """Returns the logits of a network, `(params, stats)`, of one input."""
  params, stats = network
  return forward(params, stats, x, None, False)[0][0]


class Stacked(NamedTuple):
  """Networks of one module, to be evaluated together.

  Attributes:
    module: of Flax, `x -> (logits, codes)`.
    variables: `(params, stats)` of m networks, stacked.
  """

  module: nn.Module
  variables: tuple

  def of_each(self, fn: Callable, *columns: np.ndarray) -> Any:
    """Returns `fn(logits_fn, *example)` of each network and example.

    Args:
      fn: `fn(logits_fn, *example)` -> pytree of arrays.
      *columns: of n examples, arrays `[n, ...]`.

    Returns:
      The pytree of `fn` with numpy leaves `[m, n, ...]`.
    """
    forward = loop.flax_forward(self.module)

    def each(*row):
      *example, stacked = row
      of = lambda v: fn(functools.partial(logits, forward, v), *example)
      return jax.lax.map(of, stacked)

    found = parallel.map_examples(each, columns, shared=(self.variables,))
    return jax.tree.map(lambda v: v.swapaxes(0, 1), found)

  def classify(self, xs: np.ndarray) -> np.ndarray:
    """Returns the class that each network gives each input `[m, n]`."""
    return self.of_each(lambda logits_fn, x: logits_fn(x).argmax(), xs)


def stack(module: nn.Module, parameters: np.ndarray, x: np.ndarray) -> Stacked:
  """Stacks networks, given as flat vectors `[m, p]`, for inputs like `x`."""
  each = map(unraveler(module, x), parameters)
  return Stacked(module, jax.tree.map(lambda *v: np.stack(v), *each))


def unraveler(module: nn.Module, x: np.ndarray) -> Callable:
  """Returns the function from a flat vector `[p]` to `(params, stats)`.

  Args:
    module: of Flax.
    x: an input.
  """
  like = dict(_shapes(module, x))
  params = like.pop('params')
  zeros = jax.tree.map(
    lambda leaf: np.zeros(leaf.shape, leaf.dtype), (params, like)
  )
  return flatten_util.ravel_pytree(zeros)[1]


def _shapes(module, x):
  keys = {'params': jax.random.key(0), 'latent': jax.random.key(0)}
  return jax.eval_shape(module.init, keys, x)


def _convolves(module, x):
  """Whether a network has convolutions."""
  return 'conv_general_dilated' in str(
    jax.make_jaxpr(module.apply)(_shapes(module, x), x)
  )


def _columns(xs, condition, examples):
  """Inputs and labels, and the axes of networks; once what all share."""
  given, rows = examples
  if condition.parts > 1 or condition.part_size:
    return (xs[rows], np.take_along_axis(given, rows, 1)), (0, 0)
  if condition.group != 0 and (condition.random_labels or condition.wrong):
    return (xs, given), (None, 0)
  return (xs, given[0]), (None, None)


def _one_by_one(run, orders, forward, states, columns, axes, steps):
  """Snapshots `[s, m, p]` of networks that train one after the other."""
  states, found = jax.device_get(states), []
  for i in range(len(orders)):
    state = jax.tree.map(operator.itemgetter(i), states)
    mine = [
      column if axis is None else column[i]
      for column, axis in zip(columns, axes, strict=True)
    ]
    history = run(orders[i], forward, state, *mine)
    found.append(_snapshots(history, steps, 1))
  return np.concatenate(found, axis=1)


def _snapshots(history, steps, num):
  """Flat variables `[s, m, p]` of the networks that train together."""
  found = []
  for pause in history:
    if pause.step in steps:
      # On the host first: rows of arrays that lie on several devices are
      # gathered by one program each, and CPUs end where many of these wait.
      leaves = jax.device_get(
        jax.tree.leaves((pause.state.params, pause.state.stats))
      )
      rows = [leaf.reshape(num, -1) for leaf in leaves]
      found.append(np.concatenate(rows, axis=1))
    if pause.step == steps[-1]:  # The rest of the epoch is left.
      break
  return np.stack(found)
