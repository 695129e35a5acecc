"""The loop: one network or many at once, the same for the same key."""

from collections.abc import Callable
from collections.abc import Iterator
import functools
from typing import Any
from typing import NamedTuple

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from dmm_jax import adversarial
from dmm_jax import data
from dmm_jax import losses
from dmm_jax import parallel
from dmm_jax.train import recipes


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
    state: as it stands.
    loss: mean over the steps since the last pause, scalar or `[m]`; NaN at 0.
  """

  step: int
  epoch: int
  state: State
  loss: np.ndarray


Forward = Callable[..., tuple[Any, Any]]


@functools.cache
def flax_forward(module: nn.Module) -> Forward:
  """Returns `(params, stats, x, key, train) -> (outputs, stats)` of one input.

  Batch norm sees the batch through the axis name 'batch'; see `models`.
  """

  def forward(params, stats, x, key, train):
    variables = {'params': params, **stats}
    rngs = {'latent': key} if train else None
    if not train or not stats:
      return module.apply(variables, x, train=train, rngs=rngs), stats
    mutable = list(stats)
    return module.apply(variables, x, train=True, rngs=rngs, mutable=mutable)

  return forward


def start(
  key: jax.Array,
  module: nn.Module,
  x: jax.Array,
  transform: optax.GradientTransformation,
) -> State:
  """The state of a fresh Flax module, for inputs like `x`."""
  variables = dict(module.init({'params': key, 'latent': key}, x))
  params = variables.pop('params')
  return State(params, variables, transform.init(params))


def fit(
  key: jax.Array,
  forward: Forward,
  state: State,
  xs: jax.Array,
  targets: jax.Array,
  *,
  recipe: recipes.Recipe,
  weights: jax.Array | np.ndarray | None = None,
  data_axes: tuple = (None, None, None),
  first_step: int = 0,
  stops: tuple[int, ...] = (),
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

  Args:
    key: one, or `[m]`.
    forward: as of `flax_forward`.
    state: to start from, as of `start`.
    xs: inputs `[n, ...]`; or a `data.Column`, of which every process reads its
      own part of each batch alone; all of it where the devices do not divide
      the batch.
    targets: `[n, ...]`, what the recipe's loss takes: class numbers, class
      probabilities, images.
    recipe: how to train.
    weights: of the examples' losses `[n]`; None for equal ones.
    data_axes: for many networks, 0 where each of them has its own `xs`,
      `targets` or `weights`, `[m, n, ...]`.
    first_step: the number of steps that led to `state`.
    stops: further steps to pause at; 0 pauses before the first.
    each_epoch: False pauses at `stops` and at the end alone.
    in_loop: whether the steps between two pauses are one call of the device;
      None for always, but for convolutions on CPUs, which are several times
      slower there.

  Yields:
    `Progress`, the last one at the end of the last epoch.

  Raises:
    FloatingPointError: where a loss is not finite, naming the step. The state
      of the last pause is as good as it was.
  """
  many = key.ndim > 0
  num = xs.shape[1] if many and data_axes[0] == 0 else len(xs)
  weights = np.ones(num, np.float32) if weights is None else weights
  on_disk = isinstance(xs, data.Column)
  if on_disk and (many or in_loop):
    raise ValueError(
      'many networks at once, and steps in one call of the device, need inputs '
      'in memory'
    )
  if on_disk:
    in_loop = False
  elif in_loop is None:
    in_loop = jax.default_backend() != 'cpu' or not _convolves(
      forward, state, xs, key, data_axes
    )
  table = xs, targets, weights
  whole = None if on_disk else parallel.replicate(table)
  # Each device trains its own networks, or has its part of each batch.
  apart = (
    many and jax.process_count() == 1 and not len(key) % jax.device_count()
  )
  if apart:
    key, state = parallel.spread((key, state))
  else:
    state = parallel.replicate(state)
  size = min(recipe.batch_size, num)
  per_epoch = recipes.steps_per_epoch(recipe, num)
  total = recipe.num_epochs * per_epoch
  pauses = {s for s in stops if 0 < s} | {total}
  if each_epoch:
    pauses |= {per_epoch * (i + 1) for i in range(recipe.num_epochs)}
  task = dict(forward=forward, recipe=recipe, num=num, apart=apart)
  task['axes'] = tuple(data_axes) if many else None
  blank = np.full(key.shape, np.nan, np.float32)
  if 0 in stops and first_step == 0:
    yield Progress(0, 0, state, blank)
  zero, never = np.zeros(key.shape, np.float32), np.iinfo(np.int32).max
  fresh = zero, np.full(key.shape, never, np.int32)
  step, epoch, order, sums = first_step, -1, None, fresh
  for pause in sorted(p for p in pauses if first_step < p <= total):
    since = step
    while step < pause:
      # No chunk spans two epochs: each has one permutation.
      if step // per_epoch != epoch:
        epoch = step // per_epoch
        order = _order(key, epoch, num=num)
        rows: Any = np.asarray(order) if on_disk else None
      end = min(pause, (epoch + 1) * per_epoch) if in_loop else step + 1
      given = whole, order
      if on_disk:
        place = step % per_epoch * size
        batch = parallel.put_rows(table, rows[place : place + size])
        given = batch, None
      if jax.default_backend() == 'cpu' and jax.device_count() > 1:
        # Queued collectives of several steps can lock each other out there.
        jax.block_until_ready(state)
      state, *sums = _advance(
        key, state, *sums, *given, step, end, in_loop=in_loop, **task
      )
      step = end
    bad = int(np.min(sums[1]))
    if bad < never:
      raise FloatingPointError(f'the loss is not finite at step {bad}')
    loss = np.asarray(sums[0]) / (step - since)
    yield Progress(step, step // per_epoch, state, loss)
    sums = fresh


def _convolves(forward, state, xs, key, data_axes):
  """Whether a network has convolutions."""
  many = key.ndim > 0
  one = lambda tree, drop: jax.tree.map(
    lambda v: jax.ShapeDtypeStruct(v.shape[drop:], v.dtype), tree
  )
  x = one(xs, 2 if many and data_axes[0] == 0 else 1)
  params, stats = one((state.params, state.stats), int(many))
  plain = lambda *args: forward(*args, None, False)
  return 'conv_general_dilated' in str(jax.make_jaxpr(plain)(params, stats, x))


@functools.partial(jax.jit, static_argnames='num')
def _order(key, epoch, *, num):
  """The permutation of an epoch, for each key."""
  one = lambda key: jax.random.permutation(jax.random.fold_in(key, epoch), num)
  return jax.vmap(one)(key) if key.ndim else one(key)


@functools.partial(
  jax.jit,
  static_argnames=('forward', 'recipe', 'num', 'axes', 'apart', 'in_loop'),
)
def _advance(
  key,
  state,
  total,
  bad,
  table,
  order,
  begin,
  end,
  *,
  forward,
  recipe,
  num,
  axes,
  apart,
  in_loop,
):
  """Steps `begin` to `end` of one epoch, or `begin` alone.

  `table` are the whole columns, or without an `order` the batch itself.
  Returns `(state, total, bad)`: the sum of losses goes on, and the first step
  whose loss was not finite.
  """
  transform = recipes.make_optimizer(recipe, num)
  size = min(recipe.batch_size, num)

  def run(key, state, total, bad, table, order):
    def one_step(i, carry):
      state, total, bad = carry
      batch = table
      if order is not None:
        place = i % (num // size) * size
        rows = jax.lax.dynamic_slice(order, (place,), (size,))
        batch = [column[rows] for column in table]
        batch = batch if apart else parallel.share(batch)
      noise = jax.random.fold_in(jax.random.fold_in(key, 2**31 - 1), i)
      keys = jax.random.split(noise, size)
      objective = functools.partial(_objective, forward, recipe, state.stats)
      grad = jax.value_and_grad(objective, has_aux=True)
      (loss, stats), slope = grad(state.params, keys, *batch)
      change, inner = transform.update(slope, state.optimizer, state.params)
      params = optax.apply_updates(state.params, change)
      bad = jnp.where(jnp.isfinite(loss), bad, jnp.minimum(bad, i))
      return State(params, stats, inner), total + loss, bad

    carry = state, total, bad
    if not in_loop:
      return one_step(begin, carry)
    return jax.lax.fori_loop(begin, end, one_step, carry)

  if axes is not None:
    run = jax.vmap(run, in_axes=(0, 0, 0, 0, axes, 0))
  return run(key, state, total, bad, table, order)


def _objective(forward, recipe, stats, params, keys, xs, targets, weights):
  """The weighted mean loss of a batch, and the network's other variables."""
  loss = recipes.choice(losses.LOSSES, recipe.loss, 'loss')

  def one(key, x, target):
    view, attack, inner = jax.random.split(key, 3)
    x = _augment(view, x, recipe)
    outputs = functools.partial(forward, params, stats)
    if recipe.adversary is None:
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
      recipe.adversary,
    )

  values, new = jax.vmap(one, axis_name='batch')(keys, xs, targets)
  mean = jnp.sum(weights * values) / jnp.sum(weights)
  # Batch norm's statistics are those of the batch: the same for each example.
  return mean, jax.tree.map(lambda v: v[0], new)


def _augment(key, x, recipe):
  """Shifts and mirrors an image `[h, w, c]` at random."""
  if not recipe.crop and not recipe.flip:
    return x
  shift, side = jax.random.split(key)
  if recipe.crop:
    pad = recipe.crop
    wide = jnp.pad(x, ((pad, pad), (pad, pad), (0, 0)))
    corner = jax.random.randint(shift, (2,), 0, 2 * pad + 1)
    x = jax.lax.dynamic_slice(wide, (*corner, 0), x.shape)
  if recipe.flip:
    x = jnp.where(jax.random.bernoulli(side), x[:, ::-1], x)
  return x
