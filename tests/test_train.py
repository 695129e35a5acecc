"""Training against optax by hand, and against itself: resumed, many, shared."""

import functools

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dmm_jax import data
from dmm_jax import losses
from dmm_jax import train
from dmm_jax.train import loop

KEY = jax.random.key(1)


def problem():
  rng = np.random.default_rng(0)
  labels = rng.integers(0, 3, 50).astype(np.int32)
  xs = rng.normal(size=(50, 4)) + 3 * np.eye(4)[labels]
  return xs.astype(np.float32), labels, jnp.zeros((3, 4))


def linear(params, stats, x, key, train):
  del key, train
  return (params @ x, {}), stats


def begin(recipe, num=50, params=None):
  params = jnp.zeros((3, 4)) if params is None else params
  inner = train.make_optimizer(recipe, num).init(params)
  return train.State(params, {}, inner)


def run(recipe, key=KEY, **options):
  xs, labels, _ = problem()
  state = begin(recipe)
  history = train.fit(key, linear, state, xs, labels, recipe=recipe, **options)
  return list(history)


@pytest.mark.parametrize(
  'recipe, optimizer',
  [
    (train.Recipe(), optax.adam(optax.cosine_decay_schedule(1e-3, 3))),
    (
      train.Recipe(optimizer='sgd', schedule='constant', learning_rate=0.1),
      optax.sgd(0.1),
    ),
    (
      train.Recipe(
        optimizer='momentum',
        schedule='constant',
        learning_rate=0.1,
        weight_decay=0.2,
      ),
      optax.chain(optax.add_decayed_weights(0.2), optax.sgd(0.1, momentum=0.9)),
    ),
    (
      train.Recipe(
        optimizer='adamw', schedule='constant', weight_decay=0.3, warmup=1 / 3
      ),
      optax.adamw(lambda i: 1e-3 * (i > 0), weight_decay=0.3),
    ),
  ],
)
def test_one_batch_an_epoch_is_the_optimizer_by_hand(recipe, optimizer):
  xs, labels, params = problem()
  state = optimizer.init(params)
  found = run(recipe._replace(batch_size=128, num_epochs=3))
  assert [pause.step for pause in found] == [1, 2, 3]

  def loss(w):
    rows = jax.nn.log_softmax(xs @ w.T)
    return -jnp.mean(rows[jnp.arange(50), labels])

  for pause in found:
    want, slope = jax.value_and_grad(loss)(params)
    change, state = optimizer.update(slope, state, params)
    params = optax.apply_updates(params, change)
    np.testing.assert_allclose(pause.loss, want, rtol=1e-5)
    np.testing.assert_allclose(pause.state.params, params, rtol=1e-4, atol=1e-5)


RECIPE = train.Recipe(learning_rate=0.1, batch_size=16, num_epochs=10)


def test_it_learns_and_repeats_to_the_same_bits():
  first, again = run(RECIPE), run(RECIPE, in_loop=True)
  assert first[-1].loss < 0.3 * first[0].loss
  assert first[-1].step == 30 and first[-1].epoch == 10
  for one, other in zip(first, again, strict=True):
    np.testing.assert_allclose(
      one.state.params, other.state.params, rtol=1e-5, atol=1e-6
    )
    np.testing.assert_allclose(one.loss, other.loss, rtol=1e-5)
  once_more = run(RECIPE)
  np.testing.assert_array_equal(
    first[-1].state.params, once_more[-1].state.params
  )


@pytest.mark.parametrize('in_loop', [False, True])
def test_pauses_change_nothing_and_any_state_goes_on_to_the_same_bits(in_loop):
  whole = run(RECIPE, in_loop=in_loop)
  paused = run(RECIPE, in_loop=in_loop, stops=(0, 1, 2, 5, 7, 30))
  assert [p.step for p in paused[:6]] == [0, 1, 2, 3, 5, 6]
  assert np.isnan(paused[0].loss)
  np.testing.assert_array_equal(whole[-1].state.params, paused[-1].state.params)
  xs, labels, _ = problem()
  for pause in paused[1:8:2]:
    rest = train.fit(
      KEY,
      linear,
      pause.state,
      xs,
      labels,
      recipe=RECIPE,
      first_step=pause.step,
      in_loop=in_loop,
    )
    np.testing.assert_array_equal(
      whole[-1].state.params, list(rest)[-1].state.params
    )


@pytest.mark.parametrize('num', (3, 4))  # Two devices divide only the latter.
def test_many_networks_train_as_each_alone(num):
  keys = jax.random.split(KEY, num)
  xs, labels, _ = problem()
  shuffled = np.stack([np.roll(labels, i) for i in range(num)])
  one = begin(RECIPE)
  stacked = jax.tree.map(lambda v: jnp.stack([v] * num), one)
  *_, last = train.fit(
    keys,
    linear,
    stacked,
    xs,
    shuffled,
    recipe=RECIPE,
    data_axes=(None, 0, None),
  )
  assert last.loss.shape == (num,)
  spread = not last.state.params.sharding.is_fully_replicated
  assert spread == (num % jax.device_count() == 0)
  for i in range(num):
    *_, alone = train.fit(keys[i], linear, one, xs, shuffled[i], recipe=RECIPE)
    np.testing.assert_allclose(last.loss[i], alone.loss, rtol=1e-4)
    np.testing.assert_allclose(
      last.state.params[i], alone.state.params, rtol=1e-3, atol=1e-4
    )


def test_rates_rise_and_fall_where_they_should():
  recipe = train.Recipe(
    optimizer='sgd',
    learning_rate=1.0,
    schedule='steps',
    warmup=0.25,
    batch_size=10,
    num_epochs=4,
  )
  transform = train.make_optimizer(recipe, 20)
  update = jax.jit(transform.update)
  state, rates = transform.init(jnp.float32(0)), []
  for _ in range(8):
    change, state = update(jnp.float32(1), state)
    rates.append(-float(change))
  want = [0, 0.5, 1, 1, 1, 0.1, 0.01, 0.01]
  np.testing.assert_allclose(rates, want, rtol=1e-5)


def test_every_step_draws_anew():
  xs, labels, _ = problem()

  def noisy(params, stats, x, key, train):
    return (0 * params[0, 0] + jax.random.uniform(key), {}), stats

  recipe = train.Recipe('reconstruction', batch_size=50, num_epochs=3)
  history = train.fit(
    KEY, noisy, begin(recipe), xs, 0.0 * labels, recipe=recipe, in_loop=True
  )
  values = [float(p.loss) for p in history]
  assert len(set(values)) == 3
  # 50 draws of mean 1 / 3, standard error 0.04: not one for all examples.
  np.testing.assert_allclose(values, 1 / 3, atol=0.17)


def test_weights_and_soft_targets_count():
  xs, labels, _ = problem()
  recipe = train.Recipe(batch_size=50, num_epochs=4, learning_rate=0.1)
  fit = functools.partial(train.fit, KEY, linear, begin(recipe), recipe=recipe)
  weights = (labels != 2).astype(np.float32)
  *_, weighted = fit(xs, labels, weights=weights)
  kept = labels != 2
  halves = train.Recipe(batch_size=50, num_epochs=4, learning_rate=0.1)
  *_, without = train.fit(
    KEY, linear, begin(halves), xs[kept], labels[kept], recipe=halves
  )
  np.testing.assert_allclose(weighted.loss, without.loss, rtol=1e-4)
  *_, hard = fit(xs, labels)
  *_, soft = fit(xs, np.eye(3, dtype=np.float32)[labels])
  np.testing.assert_allclose(
    hard.state.params, soft.state.params, rtol=1e-5, atol=1e-6
  )


def test_a_loss_that_is_not_finite_names_its_step():
  xs, labels, _ = problem()
  recipe = RECIPE._replace(loss='squared', optimizer='sgd', learning_rate=1e9)
  with pytest.raises(FloatingPointError, match=r'at step \d+'):
    list(train.fit(KEY, linear, begin(recipe), xs, labels, recipe=recipe))
  with (
    np.errstate(all='ignore'),
    pytest.raises(FloatingPointError, match='at step 0'),
  ):
    broken = np.where(np.arange(50)[:, None] >= 0, np.nan, xs)
    list(train.fit(KEY, linear, begin(RECIPE), broken, labels, recipe=RECIPE))


@pytest.mark.parametrize('field', ['loss', 'optimizer', 'schedule'])
def test_unknown_choices_name_the_known_ones(field):
  with pytest.raises(ValueError, match=f"{field} must be one of .*'magic'"):
    run(RECIPE._replace(**{field: 'magic'}))


class Normed(nn.Module):
  """One layer and batch norm."""

  @nn.compact
  def __call__(self, x, train=False):
    h = nn.Dense(3)(x)
    norm = nn.BatchNorm(
      use_running_average=not train,
      axis_name='batch' if train else None,
      momentum=0.5,
    )
    return norm(h), {}


def test_batch_norm_sees_the_whole_batch():
  xs, labels, _ = problem()
  recipe = train.Recipe(batch_size=50, num_epochs=1, learning_rate=0.0)
  module = Normed()
  state = train.start(KEY, module, xs[0], train.make_optimizer(recipe, 50))
  forward = train.flax_forward(module)
  *_, last = train.fit(KEY, forward, state, xs, labels, recipe=recipe)
  layer = state.params['Dense_0']
  h = xs @ np.asarray(layer['kernel']) + np.asarray(layer['bias'])
  found = last.state.stats['batch_stats']['BatchNorm_0']
  np.testing.assert_allclose(found['mean'], 0.5 * h.mean(0), rtol=1e-4)
  np.testing.assert_allclose(found['var'], 0.5 + 0.5 * h.var(0), rtol=1e-4)


def test_images_are_shifted_and_mirrored():
  image = np.arange(48, dtype=np.float32).reshape(4, 4, 3) + 1
  wide = np.pad(image, ((1, 1), (1, 1), (0, 0)))
  views = [
    wide[i : i + 4, j : j + 4][:, ::side]
    for i in range(3)
    for j in range(3)
    for side in (1, -1)
  ]
  recipe = train.Recipe(crop=1, flip=True)
  seen = set()
  for key in jax.random.split(KEY, 200):
    out = loop._augment(key, jnp.asarray(image), recipe)
    hits = [i for i, v in enumerate(views) if np.array_equal(out, v)]
    assert len(hits) == 1
    seen |= set(hits)
  assert len(seen) == len(views)


def test_log_spaced_steps():
  assert train.log_spaced(60) == [0, 1, 2, 3, 5, 10, 20, 50]
  assert train.log_spaced(0) == [0]


def test_losses_in_closed_form():
  logits, target = jnp.array([1.0, 3.0, 2.0]), jnp.int32(2)
  outputs = logits, {}
  log_p = np.asarray(logits) - np.log(np.exp(np.asarray(logits)).sum())
  np.testing.assert_allclose(
    losses.cross_entropy(outputs, target), -log_p[2], rtol=1e-6
  )
  assert losses.squared(outputs, target) == (1 + 9 + 1) / 2
  assert losses.hinge(outputs, target) == 2
  assert losses.hinge(outputs, jnp.int32(1)) == 0
  image = jnp.ones(4)
  assert losses.reconstruction((image, None), jnp.zeros(4)) == 1
  mean, log_variance = jnp.array([1.0, 0.0]), jnp.array([0.0, np.log(2.0)])
  found = losses.evidence((image, (mean, log_variance)), 0.9 * image)
  # KL of N(1, 1) and of N(0, 2) from N(0, 1).
  want = 4 * 0.01 / 0.02 + 0.5 + (2 - 1 - np.log(2)) / 2
  np.testing.assert_allclose(found, want, rtol=1e-5)


def test_accuracy_counts_hits():
  xs, labels, _ = problem()
  state = train.State(jnp.eye(3, 4), {}, ())
  want = np.mean(np.argmax(xs[:, :3], 1) == labels)
  assert train.accuracy(linear, state, xs, labels) == pytest.approx(want)
  broken = state._replace(params=jnp.full((3, 4), np.nan))
  assert train.accuracy(linear, broken, xs, 0 * labels) == 0


@pytest.mark.parametrize('batch_size', (8, 7))  # Of two devices, and of one.
def test_inputs_on_disk_train_to_the_same_parameters(batch_size):
  xs, labels, _ = problem()
  column = data.Column(lambda keys: [xs[k] for k in keys], np.arange(50), (4,))
  recipe = train.Recipe(num_epochs=2, batch_size=batch_size)
  fit = functools.partial(
    train.fit, KEY, linear, begin(recipe), recipe=recipe, stops=(0, 3)
  )
  wanted = list(fit(xs, labels, in_loop=False))
  found = list(fit(column, labels))
  assert [p.step for p in found] == [p.step for p in wanted]
  for a, b in zip(found, wanted, strict=True):
    np.testing.assert_allclose(a.state.params, b.state.params, atol=1e-6)
    np.testing.assert_allclose(a.loss, b.loss, rtol=1e-5)
  rest = train.fit(
    KEY,
    linear,
    found[1].state,
    column,
    labels,
    recipe=recipe,
    first_step=found[1].step,
  )
  *_, last = rest
  np.testing.assert_array_equal(last.state.params, found[-1].state.params)
  with pytest.raises(ValueError, match='need inputs in memory'):
    next(fit(column, labels, in_loop=True))


def test_pauses_may_be_the_chosen_ones_alone():
  recipe = train.Recipe(num_epochs=3, batch_size=10)
  every, few = run(recipe), run(recipe, stops=(7,), each_epoch=False)
  assert [p.step for p in every] == [5, 10, 15]
  assert [p.step for p in few] == [7, 15]
  np.testing.assert_array_equal(few[-1].state.params, every[-1].state.params)
