"""Training against optax by hand, and against itself: resumed, many, shared."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import special

from dmm_jax import data
from dmm_jax import train
from dmm_jax.train import loop

KEY = jax.random.key(1)
# Examples, inputs and classes; a batch of 16 leaves two examples out.
NUM, DIM, CLASSES = 50, 4, 3
RNG = np.random.default_rng(0)
LABELS = RNG.integers(0, CLASSES, NUM).astype(np.int32)
XS = (RNG.normal(size=(NUM, DIM)) + 3 * np.eye(DIM)[LABELS]).astype(np.float32)
PARAMS = RNG.normal(size=(CLASSES, DIM)).astype(np.float32)
CONFIG = train.TrainConfig(learning_rate=0.1, batch_size=16, num_epochs=10)


def linear(params, stats, x, key, train):
  del key, train
  return (params @ x, {}), stats


def begin(config, params=PARAMS, num=NUM):
  inner = train.make_optimizer(config, num).init(jnp.asarray(params))
  return train.State(jnp.asarray(params), {}, inner)


def stack(state, num):
  return jax.tree.map(lambda v: jnp.stack([v] * num), state)


def fit(xs=XS, targets=LABELS, *, key=KEY, forward=linear, config, **options):
  state = begin(config)
  if key.ndim:
    state = stack(state, len(key))
  return train.fit(key, forward, state, xs, targets, config=config, **options)


# --- The order of the examples ---------------------------------------------


@functools.cache
def order_of(seed, num, size, epochs):
  """Rows of each step `[steps, size]`, seen from outside.

  With one-hot inputs, a step of gradient descent moves the parameters of the
  examples in its batch alone.
  """
  config = train.TrainConfig(
    'squared',
    'sgd',
    learning_rate=0.5,
    schedule='constant',
    batch_size=size,
    num_epochs=epochs,
  )
  steps = num // size * epochs
  history = train.fit(
    jax.random.key(seed),
    linear,
    begin(config, np.zeros((1, num), np.float32), num),
    np.eye(num, dtype=np.float32),
    np.ones((num, 1), np.float32),
    config=config,
    pause_steps=tuple(range(steps + 1)),
    each_epoch=False,
  )
  params = np.array([pause.state.params[0] for pause in history])
  moved = np.diff(params, axis=0) > 0
  assert moved.shape == (steps, num) and np.all(moved.sum(1) == size)
  return np.array([np.flatnonzero(row) for row in moved])


def test_every_epoch_is_a_permutation_of_its_own():
  size, per_epoch, epochs = 3, 3, 40
  rows = order_of(1, 11, size, epochs).reshape(epochs, per_epoch * size)
  # No example twice in an epoch, and other ones left out of each.
  assert all(len(set(epoch)) == per_epoch * size for epoch in rows)
  seen = np.bincount(rows.ravel(), minlength=11)
  # Binomial, 40 draws of 9 / 11: a standard deviation of 2.4.
  assert np.all(np.abs(seen - 40 * 9 / 11) < 10)
  batches = order_of(1, 11, size, epochs).reshape(epochs, per_epoch, size)
  assert len({epoch.tobytes() for epoch in batches}) == epochs
  # The first batch has each example equally often: 40 * 3 / 11 +- 2.8.
  first = np.bincount(batches[:, 0].ravel(), minlength=11)
  assert np.all(np.abs(first - 120 / 11) < 11)
  other = order_of(2, 11, size, epochs)
  assert not np.array_equal(other, batches.reshape(-1, size))


# --- Steps -----------------------------------------------------------------


def slope_of(loss, params, xs, targets, weights):
  """The weighted mean loss of a batch and its gradient, in closed form."""
  logits = xs @ params.T
  onehot = np.eye(CLASSES)[targets] if targets.ndim == 1 else targets
  if loss == 'cross_entropy':
    values = -(onehot * special.log_softmax(logits, 1)).sum(1)
    pull = special.softmax(logits, 1) - onehot
  elif loss == 'squared':
    values = ((logits - onehot) ** 2).sum(1) / 2
    pull = logits - onehot
  else:
    rivals = np.where(onehot > 0, -np.inf, logits)
    gap = 1 - (logits[onehot > 0] - rivals.max(1))
    values = np.maximum(gap, 0)
    pull = (np.eye(CLASSES)[rivals.argmax(1)] - onehot) * (gap > 0)[:, None]
  share = weights / weights.sum()
  return share @ values, (share[:, None] * pull).T @ xs


def by_hand(loss, optimizer, rows, xs, targets, weights):
  """Losses and parameters after each step."""
  params = jnp.asarray(PARAMS)
  state, update = optimizer.init(params), jax.jit(optimizer.update)
  for batch in rows:
    value, slope = slope_of(
      loss, np.asarray(params, float), xs[batch], targets[batch], weights[batch]
    )
    change, state = update(jnp.asarray(slope, jnp.float32), state, params)
    params = optax.apply_updates(params, change)
    yield value, params


SOFT = 0.8 * np.eye(CLASSES, dtype=np.float32)[LABELS] + 0.2 / CLASSES
# Nine steps. A rate of 1e-3 and a cosine are the defaults.
BY_HAND = {
  'adam': (
    {},
    LABELS,
    optax.adam(optax.cosine_decay_schedule(1e-3, 9)),
  ),
  'momentum': (
    dict(
      loss='squared',
      optimizer='momentum',
      schedule='constant',
      learning_rate=0.03,
      weight_decay=0.2,
    ),
    SOFT,
    optax.chain(optax.add_decayed_weights(0.2), optax.sgd(0.03, momentum=0.9)),
  ),
  'adamw': (
    dict(optimizer='adamw', weight_decay=0.3, warmup=1 / 3),
    SOFT,
    optax.adamw(
      optax.warmup_cosine_decay_schedule(0.0, 1e-3, 3, 9), weight_decay=0.3
    ),
  ),
  'sgd': (
    dict(loss='hinge', optimizer='sgd', schedule='steps', learning_rate=0.1),
    LABELS,
    optax.sgd(lambda i: 0.1 * 10.0 ** -((i >= 4) * 1.0 + (i >= 6))),
  ),
}


@pytest.mark.parametrize('name', BY_HAND)
def test_steps_are_those_of_the_optimizer_by_hand(name):
  options, targets, optimizer = BY_HAND[name]
  config = train.TrainConfig(batch_size=16, num_epochs=3)._replace(**options)
  weights = np.linspace(0.5, 2.5, NUM, dtype=np.float32)
  given = None if name == 'adam' else weights
  counted = np.ones(NUM) if name == 'adam' else weights
  found = list(
    fit(XS, targets, config=config, weights=given, pause_steps=(0, 1, 5))
  )
  # The ends of epochs, and the chosen steps.
  assert [v.step for v in found] == [0, 1, 3, 5, 6, 9]
  assert [v.epoch for v in found] == [0, 0, 1, 1, 2, 3]
  assert np.isnan(found[0].loss)
  np.testing.assert_array_equal(found[0].state.params, PARAMS)
  rows = order_of(1, NUM, 16, 3)
  hand = [*by_hand(config.loss, optimizer, rows, XS, targets, counted)]
  losses = np.array([value for value, _ in hand])
  since = 0
  for pause in found[1:]:
    # The mean of the losses since the last pause.
    np.testing.assert_allclose(
      pause.loss, losses[since : pause.step].mean(), rtol=1e-5
    )
    np.testing.assert_allclose(
      pause.state.params, hand[pause.step - 1][1], rtol=1e-5, atol=2e-6
    )
    since = pause.step


def test_pauses_change_nothing_and_any_state_goes_on_to_the_same_bits():
  # guarantees.md: a run started again ends with the same bytes.
  config = CONFIG._replace(num_epochs=4)
  whole = {}
  for in_loop in (False, True):
    run = functools.partial(fit, config=config, in_loop=in_loop)
    *_, last = run()
    whole[in_loop] = last.state.params
    paused = list(run(pause_steps=(1, 2, 5, 7, 12)))
    assert [p.step for p in paused] == [1, 2, 3, 5, 6, 7, 9, 12]
    np.testing.assert_array_equal(paused[-1].state.params, whole[in_loop])
    for pause in (paused[1], paused[4]):
      rest = train.fit(
        KEY,
        linear,
        pause.state,
        XS,
        LABELS,
        config=config,
        first_step=pause.step,
        in_loop=in_loop,
        pause_steps=(0, pause.step),
      )
      rest = list(rest)
      # Neither what is over nor the state itself is a pause again.
      assert rest[0].step == pause.step + 1 or rest[0].step == 9
      np.testing.assert_array_equal(rest[-1].state.params, whole[in_loop])
  np.testing.assert_allclose(whole[True], whole[False], rtol=1e-5, atol=1e-6)
  few = list(fit(config=config, each_epoch=False, pause_steps=(7, 99)))
  assert [p.step for p in few] == [7, 12]
  np.testing.assert_array_equal(few[-1].state.params, whole[True])


@pytest.mark.parametrize(
  'num, axes', [(3, (0, 0, 0)), (4, (None, 0, None))]
)  # Two devices divide only the latter.
def test_many_networks_train_as_each_alone(num, axes):
  config = CONFIG._replace(num_epochs=3)
  keys = jax.random.split(KEY, num)
  weights = np.linspace(1, 3, NUM, dtype=np.float32)
  own = [
    np.stack([(1 + 0.2 * i) * XS for i in range(num)]),
    np.stack([np.roll(LABELS, i) for i in range(num)]),
    np.stack([np.roll(weights, i) for i in range(num)]),
  ]
  table = [v if axis == 0 else v[0] for v, axis in zip(own, axes, strict=True)]
  *_, last = fit(
    *table[:2],
    key=keys,
    config=config,
    weights=table[2],
    data_axes=axes,
  )
  assert last.loss.shape == (num,)
  spread = not last.state.params.sharding.is_fully_replicated
  assert spread == (num % jax.device_count() == 0)
  for i in range(num):
    xs, labels, part = (
      v[i] if axis == 0 else v for v, axis in zip(table, axes, strict=True)
    )
    # Axes are of many networks: a single one has none.
    *_, alone = fit(
      xs, labels, key=keys[i], config=config, weights=part, data_axes=axes
    )
    np.testing.assert_allclose(last.loss[i], alone.loss, rtol=1e-4)
    np.testing.assert_allclose(
      last.state.params[i], alone.state.params, rtol=1e-3, atol=1e-4
    )


def test_a_loss_that_is_not_finite_names_its_step():
  config = CONFIG._replace(num_epochs=2)
  rows = order_of(1, NUM, 16, 2)
  bad = rows[4][0]
  step = int(np.argmax((rows == bad).any(1)))
  xs = np.where(np.arange(NUM)[:, None] == bad, np.nan, XS).astype(np.float32)
  with np.errstate(all='ignore'):
    for in_loop in (True, False):
      seen = []
      with pytest.raises(FloatingPointError, match=f'at step {step}$'):
        for pause in fit(
          xs, config=config, in_loop=in_loop, pause_steps=(0, step)
        ):
          seen.append(pause)
      assert seen[-1].step == step
      assert np.all(np.isfinite(seen[-1].state.params))
    # The first of many networks' steps.
    many = np.stack([XS, xs])
    keys = jnp.stack([KEY, KEY])
    with pytest.raises(FloatingPointError, match=f'at step {step}$'):
      list(fit(many, key=keys, config=config, data_axes=(0, None, None)))


@pytest.mark.parametrize('batch_size', (8, 7))  # Of two devices, and of one.
def test_inputs_on_disk_train_to_the_same_parameters(batch_size):
  column = data.Column(lambda rows: [XS[k] for k in rows], np.arange(NUM), (4,))
  config = train.TrainConfig(num_epochs=2, batch_size=batch_size)
  run = functools.partial(fit, config=config, pause_steps=(0, 3))
  wanted = list(run(in_loop=False))
  found = list(run(column))
  assert [p.step for p in found] == [p.step for p in wanted]
  for a, b in zip(found, wanted, strict=True):
    np.testing.assert_allclose(a.state.params, b.state.params, atol=1e-6)
    np.testing.assert_allclose(a.loss, b.loss, rtol=1e-5)
  *_, last = train.fit(
    KEY,
    linear,
    found[1].state,
    column,
    LABELS,
    config=config,
    first_step=found[1].step,
  )
  np.testing.assert_array_equal(last.state.params, found[-1].state.params)


# --- Calls of the device, seen by a stand-in for the steps ------------------


def convolving(params, stats, x, key, train):
  out = jax.lax.conv(x[None, None, None], params[:, None, None], (1, 1), 'SAME')
  return (out.mean((0, 2, 3)), {}), stats


def calls_of(monkeypatch, xs=XS, **options):
  """What each call of the device is given: first and last step, and rows."""
  calls = []

  def advance(key, gradient, state, total, bad, table, order, begin, end, task):
    del key, gradient
    rows = None if order is None else np.asarray(order).tolist()
    calls.append((begin, end, rows, [np.asarray(v) for v in table]))
    return state, total + begin, bad

  monkeypatch.setattr(loop, '_advance', advance)
  config = train.TrainConfig(batch_size=16, num_epochs=2)
  return list(fit(xs, config=config, **options)), calls


def test_steps_between_pauses_are_one_call_unless_networks_convolve(
  monkeypatch,
):
  find = functools.partial(calls_of, monkeypatch)
  single = [(i, i + 1) for i in range(6)]
  # No call spans two epochs, each of which has its permutation.
  pauses = dict(pause_steps=(2,), each_epoch=False)
  found, calls = find(**pauses)
  assert [v[:2] for v in calls] == [(0, 2), (2, 3), (3, 6)]
  assert calls[0][2] == calls[1][2] != calls[2][2]
  assert all(sorted(v[2]) == list(range(NUM)) for v in calls)
  # Sums of what the stand-in adds, over the steps since the last pause.
  np.testing.assert_allclose([v.loss for v in found], [0, (2 + 3) / 4])
  for in_loop, forward, several in (
    (False, linear, False),
    (None, convolving, False),
    (True, convolving, True),
  ):
    _, calls = find(forward=forward, in_loop=in_loop, **pauses)
    assert ([v[:2] for v in calls] == single) != several


def test_batches_from_disk_are_those_of_the_order(monkeypatch):
  order = order_of(1, NUM, 16, 2)
  read = []

  def rows_of(rows):
    read.extend(rows)
    return [XS[k] for k in rows]

  column = data.Column(rows_of, np.arange(NUM), (DIM,))
  _, calls = calls_of(monkeypatch, column)
  assert [v[:3] for v in calls] == [(i, i + 1, None) for i in range(6)]
  for (*_, (xs, labels, weights)), rows in zip(calls, order, strict=True):
    assert sorted(map(tuple, xs.tolist())) == sorted(
      map(tuple, XS[rows].tolist())
    )
    assert sorted(labels) == sorted(LABELS[rows]) and np.all(weights == 1)
  # Nothing but the batches is read.
  assert len(read) == 6 * 16
  for options in (
    dict(in_loop=True),
    dict(key=jax.random.split(KEY, 2)),
  ):
    with pytest.raises(ValueError, match='need inputs in memory, got a data'):
      calls_of(monkeypatch, column, **options)


# --- Random numbers of a step ----------------------------------------------


def test_every_step_and_example_draws_anew():
  def noisy(params, stats, x, key, train):
    return (0 * params[0, 0] + jax.random.uniform(key), {}), stats

  config = train.TrainConfig('reconstruction', batch_size=50, num_epochs=3)
  history = fit(XS, 0.0 * LABELS, forward=noisy, config=config)
  values = [float(p.loss) for p in history]
  assert len(set(values)) == 3
  # 50 draws of mean 1 / 3, standard error 0.04: not one for all examples.
  np.testing.assert_allclose(values, 1 / 3, atol=0.17)


def loss_of(forward, config, xs):
  """The mean squared output in training of a network without parameters."""
  call = jax.jit(functools.partial(loop._objective, forward, config, {}))
  num = len(xs)
  keys = jax.random.split(KEY, num)
  return call(jnp.float32(0), keys, xs, jnp.zeros(num), jnp.ones(num))[0]


def test_views_perturbations_and_networks_draw_apart():
  # What the network is shown, beside the same draw from the network's own key.
  images = jnp.broadcast_to(jnp.array([[[0.0], [1.0]]]), (400, 1, 2, 1))

  def mirrored(params, stats, x, key, train):
    own = jax.random.bernoulli(jax.random.split(key)[1])
    return ((x[0, 0, 0] == own) + 2 * x[0, 0, 0], {}), stats

  config = train.TrainConfig('reconstruction', flip=True)
  # E (e + 2 x)^2 of independent bits is 3.5 +- 0.2; 5 for equal draws, and 0.5
  # where nothing is mirrored.
  np.testing.assert_allclose(loss_of(mirrored, config, images), 3.5, atol=0.7)

  def start(params, stats, x, key, train):
    own = jax.random.uniform(key, x.shape, x.dtype, -1.0, 1.0)
    return (jnp.sum(jax.lax.stop_gradient(x * own)), {}), stats

  config = train.TrainConfig(
    'reconstruction',
    adversary=train.adversarial.Adversary(1.0, np.inf, 1, low=-9.0, high=9.0),
  )
  # E (u1 v1 + u2 v2)^2 = 2 / 9 for independent ones; for equal ones 28 / 45.
  found = loss_of(start, config, jnp.zeros((400, 2)))
  np.testing.assert_allclose(found, 2 / 9, atol=0.06)


def test_images_are_shifted_and_mirrored_equally_often():
  image = np.arange(60, dtype=np.float32).reshape(4, 5, 3) + 1

  def views(crop, flip):
    wide = np.pad(image, ((crop, crop), (crop, crop), (0, 0)))
    return [
      wide[i : i + 4, j : j + 5][:, ::side]
      for i in range(2 * crop + 1)
      for j in range(2 * crop + 1)
      for side in ((1, -1) if flip else (1,))
    ]

  keys = jax.random.split(KEY, 1000)
  for crop, flip in ((2, True), (1, False), (0, True), (0, False)):
    config = train.TrainConfig(crop=crop, flip=flip)
    view = functools.partial(loop._augment, x=jnp.asarray(image), config=config)
    seen = jax.vmap(view)
    wanted = np.stack(views(crop, flip))
    equal = np.asarray(seen(keys))[:, None] == wanted
    hits = equal.all((2, 3, 4))
    assert np.all(hits.sum(1) == 1)
    share = 1000 / len(wanted)
    # Within five standard deviations; the whole table, so shifts and sides are
    # independent.
    assert np.all(np.abs(hits.sum(0) - share) <= 5 * share**0.5)
