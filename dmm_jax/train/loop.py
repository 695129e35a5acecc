"""The training loop: one network or many at once, the same for the same key."""

from collections.abc import Callable
from collections.abc import Iterator
import functools
import inspect
from typing import Any
from typing import NamedTuple

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from dmm_jax import _xla_cpu
from dmm_jax import data
from dmm_jax import parallel
from dmm_jax import programs
from dmm_jax.train import adversarial
from dmm_jax.train import checks
from dmm_jax.train import config as config_lib
from dmm_jax.train import losses


class State(NamedTuple):
  """What training changes; a pytree, to be stacked for many networks.

  Attributes:
    params: parameters.
    stats: other variables of the network, as of batch norm; or {}.
    optimizer: the optimizer's state.
  """

  params: Any
  stats: Any
  optimizer: Any


class Progress(NamedTuple):
  """A pause in training.

  Attributes:
    step: steps taken since the beginning.
    epoch: passes finished.
    state: parameters, other variables and optimizer after that step.
    loss: mean over the steps since the last pause, scalar or `[m]`; NaN at 0.
  """

  step: int
  epoch: int
  state: State
  loss: np.ndarray


Forward = Callable[..., tuple[Any, Any]]


class _Task(NamedTuple):
  """What is the same in all steps of one call of `fit`; hashable.

  Attributes:
    config: how to train.
    num: examples.
    axes: for many networks, `data_axes`; None for a single one.
    apart: whether each device trains its own networks, not its part of a batch.
    in_loop: whether the steps between two pauses are one call of the device.
  """

  config: config_lib.TrainConfig
  num: int
  axes: tuple | None
  apart: bool
  in_loop: bool

  @property
  def size(self) -> int:
    """Examples a step."""
    return min(self.config.batch_size, self.num)

  @property
  def per_epoch(self) -> int:
    """Steps an epoch."""
    return config_lib.steps_per_epoch(self.config, self.num)


def flax_forward(module: nn.Module) -> Forward:
  """Returns `(params, stats, x, key, train) -> (outputs, stats)` of one input.

  Batch norm sees the batch through the axis name 'batch'; see `models`. Equal
  modules give equal functions, which compile once. A module that has no
  argument `train` is the same in training.
  """
  return programs.bind(_flax_forward, module=module)


def _flax_forward(params, stats, x, key, train, *, module):
  variables = {'params': params, **stats}
  rngs = {'latent': key} if train else None
  if not train or not stats:
    options = {'train': train} if _asks(module) else {}
    return module.apply(variables, x, rngs=rngs, **options), stats
  mutable = list(stats)
  return module.apply(variables, x, train=True, rngs=rngs, mutable=mutable)


def _asks(module):
  """Whether a module wants to know if it is being trained."""
  if not isinstance(module, nn.Module):
    return True
  parameters = inspect.signature(type(module).__call__).parameters.values()
  return any(p.name == 'train' or p.kind == p.VAR_KEYWORD for p in parameters)


def init_state(
  key: jax.Array,
  module: nn.Module,
  x: jax.Array,
  optimizer: optax.GradientTransformation,
) -> State:
  """Returns the state of a fresh Flax module, or of many, for inputs like `x`.

  Args:
    key: one key; or keys `[m]` for the stacked states of m networks, each that
      of its own key.
    module: hashable, as modules are whose attributes are; equal ones compile
      once.
    x: one input.
    optimizer: as of `make_optimizer`.
  """
  x = jnp.asarray(x)
  nested = isinstance(key, jax.core.Tracer) or isinstance(x, jax.core.Tracer)
  draw = _draw_weights if nested else _weights()
  variables = dict(draw(key, x, module=module))
  params = variables.pop('params')
  begin = jax.vmap(optimizer.init) if key.ndim else optimizer.init
  return State(params, variables, begin(params))


@functools.cache
def _weights():
  """The jitted `_draw_weights`."""
  return jax.jit(
    _draw_weights,
    static_argnames='module',
    compiler_options=_xla_cpu.compiler_options(),
  )


def _draw_weights(key, x, *, module):
  one = lambda key: module.init({'params': key, 'latent': key}, x)
  return jax.vmap(one)(key) if key.ndim else one(key)


def fit(
  key: jax.Array,
  forward: Forward,
  state: State,
  xs: jax.Array | np.ndarray | data.Column,
  targets: jax.Array | np.ndarray | data.Column,
  *,
  config: config_lib.TrainConfig,
  weights: jax.Array | np.ndarray | None = None,
  data_axes: tuple = (None, None, None),
  first_step: int = 0,
  pause_steps: tuple[int, ...] = (),
  each_epoch: bool = True,
  in_loop: bool | None = None,
) -> Iterator[Progress]:
  """Trains, and pauses after every epoch, at chosen steps and at the end.

  Each epoch goes once through a permutation of the examples. Everything random
  depends on the key and the number of the step alone: training that starts
  again from a state and its step ends with the same bits, on as many devices.
  All devices share each batch; the data lie on every one of them.

  Many networks train at once where `key` is an array of keys `[m]` and the
  leaves of `state` are stacked, `[m, ...]`. If the devices of one process
  divide them, each trains its own ones.

  Arrays that `forward` captures are used as they are at this call. A function
  of `flax_forward` compiles once for equal modules; any other is traced at each
  call, and compiles once for equal structure.

  Args:
    key: one, or `[m]`, of `jax.random.key`.
    forward: as of `flax_forward`.
    state: to start from, as of `init_state`.
    xs: inputs `[n, ...]`, floating point; or a `data.Column`, of which every
      process reads its own part of each batch alone; all of it where the
      devices do not divide the batch.
    targets: what the loss of `config` takes. 'cross_entropy', 'squared' and
      'hinge' take labels `[n]`, integers in [0, k); the first also class
      probabilities `[n, k]`, 'squared' any `[n, k]`; 'reconstruction' and
      'evidence' take images of the shape that the network returns.
    config: how to train.
    weights: of the examples' losses `[n]`, not negative; None for equal ones.
    data_axes: for many networks, 0 where each of them has its own `xs`,
      `targets` or `weights`, `[m, n, ...]`.
    first_step: the number of steps that led to `state`.
    pause_steps: further steps to pause at; 0 pauses before the first.
    each_epoch: False pauses at `pause_steps` and at the end alone.
    in_loop: whether the steps between two pauses are one call of the device;
      None for always, but for convolutions on CPUs, which are several times
      slower there.

  Returns:
    An iterator of `Progress`, the last one at the end of the last epoch. It
    raises FloatingPointError, naming the step, where a loss is not finite; the
    last yielded state remains valid.

  Raises:
    ValueError, TypeError: at the call, before training starts: for targets that
      the loss cannot take, such as labels of no class; for inputs, targets and
      weights of unequal length; for inputs outside of the adversary's range.
  """
  checks.check_key(key)
  many = len(key) if key.ndim else None
  table, axes, num = checks.columns(xs, targets, weights, data_axes, many)
  on_disk = any(isinstance(column, data.Column) for column in table)
  if on_disk and (many is not None or in_loop):
    raise ValueError(
      'many networks at once, and steps in one call of the device, need inputs '
      'in memory, got a data.Column; load it with in_memory=True'
    )
  checks.check_adversary(table[0], config.adversary)
  example = _example(key, state, table, axes, min(config.batch_size, num))
  outputs, convolves = _trace_forward(forward, *example[:4])
  checks.check_targets(table[1], config, outputs, own=axes[1] == 0)
  if on_disk:
    in_loop = False
  elif in_loop is None:
    in_loop = jax.default_backend() != 'cpu' or not convolves
  alone = jax.process_count() == 1 and many is not None
  task = _Task(
    config,
    num,
    axes=None if many is None else axes,
    apart=alone and not len(key) % jax.device_count(),
    in_loop=in_loop,
  )
  pauses = {*pause_steps, config.num_epochs * task.per_epoch}
  if each_epoch:
    pauses |= {task.per_epoch * (i + 1) for i in range(config.num_epochs)}
  gradient = _gradient_of(forward, config, example)
  return _train(key, gradient, state, table, task, first_step, pauses)


def _example(key, state, table, axes, size):
  """Shapes of what one network sees in one step.

  Returns:
    `(params, stats, keys, inputs, targets, weights)`, the last four of a batch.
  """
  network = jax.tree.map(
    lambda leaf: jax.ShapeDtypeStruct(
      np.shape(leaf)[key.ndim :], jax.dtypes.result_type(leaf)
    ),
    (state.params, state.stats),
  )
  batch = [
    jax.ShapeDtypeStruct(
      (size, *column.shape[1 + (axis == 0) :]),
      jax.dtypes.canonicalize_dtype(column.dtype),
    )
    for column, axis in zip(table, axes, strict=True)
  ]
  return *network, jax.ShapeDtypeStruct((size,), key.dtype), *batch


def _trace_forward(forward, params, stats, keys, xs):
  """Returns the shapes of a network's outputs, and whether it convolves."""

  def batch(params, stats, keys, xs):
    one = lambda key, x: forward(params, stats, x, key, True)
    return jax.vmap(one, axis_name='batch')(keys, xs)

  jaxpr, found = jax.make_jaxpr(batch, return_shape=True)(
    params, stats, keys, xs
  )
  pair = isinstance(found, tuple) and len(found) == 2
  if not pair or not isinstance(found[0], tuple):
    raise TypeError(
      'forward must return ((outputs, codes), stats) of one input, as that of '
      f'train.flax_forward does, got {jax.tree.structure(found)}'
    )
  outputs = jax.tree.map(
    lambda v: jax.ShapeDtypeStruct(v.shape[1:], v.dtype), found[0]
  )
  return outputs, 'conv_general_dilated' in str(jaxpr)


def _gradient_of(forward, config, example):
  """Returns `_gradient` of a network as a pytree, an argument of `jit`.

  Its structure is the same for equal networks; arrays that the network captures
  are its leaves.
  """
  if isinstance(forward, programs.Bound):
    return programs.bind(_gradient, forward=forward, config=config)
  # Not of `forward` alone: a trace has no rules for derivatives.
  gradient = functools.partial(_gradient, forward=forward, config=config)
  return programs.trace(gradient, *example)


def _train(key, gradient, state, table, task, first_step, pauses):
  """Yields the pauses of `fit`."""
  on_disk = any(isinstance(column, data.Column) for column in table)
  whole = None if on_disk else parallel.replicate(table)
  gradient = parallel.replicate(gradient)
  zero, never = np.zeros(key.shape, np.float32), np.iinfo(np.int32).max
  fresh = [zero, np.full(key.shape, never, np.int32)]
  if task.apart:
    key, state, fresh = parallel.shard((key, state, fresh))
  else:
    state, fresh = parallel.replicate((state, fresh))
  if 0 in pauses and first_step == 0:
    yield Progress(0, 0, state, np.full(key.shape, np.nan, np.float32))
  step, epoch, order, sums = first_step, -1, None, fresh
  total = task.config.num_epochs * task.per_epoch
  for pause in sorted(p for p in pauses if first_step < p <= total):
    since = step
    while step < pause:
      # No call spans two epochs: each has one permutation.
      if step // task.per_epoch != epoch:
        epoch = step // task.per_epoch
        order = _order(key, epoch, num=task.num)
        rows: Any = np.asarray(order) if on_disk else None
      end = min(pause, (epoch + 1) * task.per_epoch)
      given = whole, order
      if on_disk:
        place = step % task.per_epoch * task.size
        batch = parallel.put_rows(table, rows[place : place + task.size])
        given = batch, None
      if jax.default_backend() == 'cpu' and jax.device_count() > 1:
        # Queued collectives of several steps can lock each other out there.
        jax.block_until_ready(state)
      end = end if task.in_loop else step + 1
      state, *sums = _advance(
        key, gradient, state, *sums, *given, step, end, task=task
      )
      step = end
    bad = int(np.min(sums[1]))
    if bad < never:
      raise FloatingPointError(f'the loss is not finite at step {bad}')
    loss = np.asarray(sums[0]) / (step - since)
    yield Progress(step, step // task.per_epoch, state, loss)
    sums = fresh


@functools.partial(jax.jit, static_argnames='num')
def _order(key, epoch, *, num):
  """The permutation of an epoch, for each key."""
  one = lambda key: jax.random.permutation(jax.random.fold_in(key, epoch), num)
  return jax.vmap(one)(key) if key.ndim else one(key)


@functools.partial(jax.jit, static_argnames='task')
def _advance(
  key, gradient, state, total, bad, table, order, begin, end, *, task
):
  """Takes steps `begin` to `end` of one epoch, or `begin` alone.

  `table` has the whole columns, or without an `order` the batch itself.
  Returns `(state, total, bad)`: the sum of losses goes on, and the first step
  whose loss was not finite.
  """
  optimizer = config_lib.make_optimizer(task.config, task.num)

  def run(key, state, total, bad, table, order):
    def one_step(i, carry):
      state, total, bad = carry
      batch = table
      if order is not None:
        place = i % task.per_epoch * task.size
        rows = jax.lax.dynamic_slice(order, (place,), (task.size,))
        batch = [column[rows] for column in table]
        batch = batch if task.apart else parallel.constrain(batch)
      noise = jax.random.fold_in(jax.random.fold_in(key, 2**31 - 1), i)
      keys = jax.random.split(noise, task.size)
      loss, stats, slope = gradient(state.params, state.stats, keys, *batch)
      change, inner = optimizer.update(slope, state.optimizer, state.params)
      params = optax.apply_updates(state.params, change)
      bad = jnp.where(jnp.isfinite(loss), bad, jnp.minimum(bad, i))
      return State(params, stats, inner), total + loss, bad

    carry = state, total, bad
    if not task.in_loop:
      return one_step(begin, carry)
    return jax.lax.fori_loop(begin, end, one_step, carry)

  if task.axes is not None:
    run = jax.vmap(run, in_axes=(0, 0, 0, 0, task.axes, 0))
  return run(key, state, total, bad, table, order)


def _gradient(params, stats, keys, *batch, forward, config):
  """Returns `(loss, other variables, gradient)` of the mean loss of a batch."""
  objective = functools.partial(_objective, forward, config, stats)
  grad = jax.value_and_grad(objective, has_aux=True)
  (loss, new), slope = grad(params, keys, *batch)
  return loss, new, slope


def _objective(forward, config, stats, params, keys, xs, targets, weights):
  """The weighted mean loss of a batch, and the network's other variables."""
  loss = losses.LOSSES[config.loss]

  def one(key, x, target):
    view, attack, inner = jax.random.split(key, 3)
    x = _augment(view, x, config)
    outputs = functools.partial(forward, params, stats)
    if config.adversary is None:
      out, new = outputs(x, inner, True)
      return loss(out, target), new
    frozen = jax.lax.stop_gradient((params, stats))
    plain = lambda v: forward(*frozen, v, inner, False)[0]
    return adversarial.loss(
      attack,
      lambda v: outputs(v, inner, True),
      plain,
      loss,
      x,
      target,
      config.adversary,
    )

  values, new = jax.vmap(one, axis_name='batch')(keys, xs, targets)
  mean = jnp.sum(weights * values) / jnp.sum(weights)
  # Batch norm's statistics are those of the batch: the same for each example.
  return mean, jax.tree.map(lambda v: v[0], new)


def _augment(key, x, config):
  """Shifts and mirrors an image `[h, w, c]` at random."""
  if not config.crop and not config.flip:
    return x
  shift, side = jax.random.split(key)
  if config.crop:
    pad = config.crop
    wide = jnp.pad(x, ((pad, pad), (pad, pad), (0, 0)))
    corner = jax.random.randint(shift, (2,), 0, 2 * pad + 1)
    x = jax.lax.dynamic_slice(wide, (*corner, 0), x.shape)
  if config.flip:
    x = jnp.where(jax.random.bernoulli(side), x[:, ::-1], x)
  return x
