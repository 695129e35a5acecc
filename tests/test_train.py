"""Training against optax by hand, and against itself: resumed, many, shared."""

import functools

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import oracles
import pytest

from dmm_jax import data
from dmm_jax import train
from dmm_jax.train import loop
from dmm_jax.train import losses

KEY = jax.random.key(1)


def problem():
  rng = np.random.default_rng(0)
  labels = rng.integers(0, 3, 50).astype(np.int32)
  xs = rng.normal(size=(50, 4)) + 3 * np.eye(4)[labels]
  return xs.astype(np.float32), labels, jnp.zeros((3, 4))


def linear(params, stats, x, key, train):
  del key, train
  return (params @ x, {}), stats


def begin(config, num=50, params=None):
  params = jnp.zeros((3, 4)) if params is None else params
  inner = train.make_optimizer(config, num).init(params)
  return train.State(params, {}, inner)


def run(config, key=KEY, **options):
  xs, labels, _ = problem()
  state = begin(config)
  history = train.fit(key, linear, state, xs, labels, config=config, **options)
  return list(history)


@pytest.mark.parametrize(
  'config, optimizer',
  [
    (train.TrainConfig(), optax.adam(optax.cosine_decay_schedule(1e-3, 3))),
    (
      train.TrainConfig(
        optimizer='sgd', schedule='constant', learning_rate=0.1
      ),
      optax.sgd(0.1),
    ),
    (
      train.TrainConfig(
        optimizer='momentum',
        schedule='constant',
        learning_rate=0.1,
        weight_decay=0.2,
      ),
      optax.chain(optax.add_decayed_weights(0.2), optax.sgd(0.1, momentum=0.9)),
    ),
    (
      train.TrainConfig(
        optimizer='adamw', schedule='constant', weight_decay=0.3, warmup=1 / 3
      ),
      optax.adamw(lambda i: 1e-3 * (i > 0), weight_decay=0.3),
    ),
  ],
)
def test_one_batch_an_epoch_is_the_optimizer_by_hand(config, optimizer):
  xs, labels, params = problem()
  state = optimizer.init(params)
  found = run(config._replace(batch_size=128, num_epochs=3))
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


CONFIG = train.TrainConfig(learning_rate=0.1, batch_size=16, num_epochs=10)


def test_it_learns_and_repeats_to_the_same_bits():
  first, again = run(CONFIG), run(CONFIG, in_loop=True)
  assert first[-1].loss < 0.3 * first[0].loss
  assert first[-1].step == 30 and first[-1].epoch == 10
  for one, other in zip(first, again, strict=True):
    np.testing.assert_allclose(
      one.state.params, other.state.params, rtol=1e-5, atol=1e-6
    )
    np.testing.assert_allclose(one.loss, other.loss, rtol=1e-5)
  once_more = run(CONFIG)
  np.testing.assert_array_equal(
    first[-1].state.params, once_more[-1].state.params
  )


@pytest.mark.parametrize('in_loop', [False, True])
def test_pauses_change_nothing_and_any_state_goes_on_to_the_same_bits(in_loop):
  whole = run(CONFIG, in_loop=in_loop)
  paused = run(CONFIG, in_loop=in_loop, pause_steps=(0, 1, 2, 5, 7, 30))
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
      config=CONFIG,
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
  one = begin(CONFIG)
  stacked = jax.tree.map(lambda v: jnp.stack([v] * num), one)
  *_, last = train.fit(
    keys,
    linear,
    stacked,
    xs,
    shuffled,
    config=CONFIG,
    data_axes=(None, 0, None),
  )
  assert last.loss.shape == (num,)
  spread = not last.state.params.sharding.is_fully_replicated
  assert spread == (num % jax.device_count() == 0)
  for i in range(num):
    *_, alone = train.fit(keys[i], linear, one, xs, shuffled[i], config=CONFIG)
    np.testing.assert_allclose(last.loss[i], alone.loss, rtol=1e-4)
    np.testing.assert_allclose(
      last.state.params[i], alone.state.params, rtol=1e-3, atol=1e-4
    )


def test_rates_rise_and_fall_where_they_should():
  config = train.TrainConfig(
    optimizer='sgd',
    learning_rate=1.0,
    schedule='steps',
    warmup=0.25,
    batch_size=10,
    num_epochs=4,
  )
  transform = train.make_optimizer(config, 20)
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

  config = train.TrainConfig('reconstruction', batch_size=50, num_epochs=3)
  history = train.fit(
    KEY, noisy, begin(config), xs, 0.0 * labels, config=config, in_loop=True
  )
  values = [float(p.loss) for p in history]
  assert len(set(values)) == 3
  # 50 draws of mean 1 / 3, standard error 0.04: not one for all examples.
  np.testing.assert_allclose(values, 1 / 3, atol=0.17)


def test_weights_and_soft_targets_count():
  xs, labels, _ = problem()
  config = train.TrainConfig(batch_size=50, num_epochs=4, learning_rate=0.1)
  fit = functools.partial(train.fit, KEY, linear, begin(config), config=config)
  weights = (labels != 2).astype(np.float32)
  *_, weighted = fit(xs, labels, weights=weights)
  kept = labels != 2
  halves = train.TrainConfig(batch_size=50, num_epochs=4, learning_rate=0.1)
  *_, without = train.fit(
    KEY, linear, begin(halves), xs[kept], labels[kept], config=halves
  )
  np.testing.assert_allclose(weighted.loss, without.loss, rtol=1e-4)
  *_, hard = fit(xs, labels)
  *_, soft = fit(xs, np.eye(3, dtype=np.float32)[labels])
  np.testing.assert_allclose(
    hard.state.params, soft.state.params, rtol=1e-5, atol=1e-6
  )


def test_a_loss_that_is_not_finite_names_its_step():
  xs, labels, _ = problem()
  config = CONFIG._replace(loss='squared', optimizer='sgd', learning_rate=1e9)
  with pytest.raises(FloatingPointError, match=r'at step \d+'):
    list(train.fit(KEY, linear, begin(config), xs, labels, config=config))
  with (
    np.errstate(all='ignore'),
    pytest.raises(FloatingPointError, match='at step 0'),
  ):
    broken = np.where(np.arange(50)[:, None] >= 0, np.nan, xs)
    list(train.fit(KEY, linear, begin(CONFIG), broken, labels, config=CONFIG))


@pytest.mark.parametrize('field', ['loss', 'optimizer', 'schedule'])
def test_unknown_choices_name_the_known_ones(field):
  with pytest.raises(ValueError, match=f"{field} must be one of .*'magic'"):
    run(CONFIG._replace(**{field: 'magic'}))


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
  config = train.TrainConfig(batch_size=50, num_epochs=1, learning_rate=0.0)
  module = Normed()
  state = train.init_state(KEY, module, xs[0], train.make_optimizer(config, 50))
  forward = train.flax_forward(module)
  *_, last = train.fit(KEY, forward, state, xs, labels, config=config)
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
  config = train.TrainConfig(crop=1, flip=True)
  seen = set()
  for key in jax.random.split(KEY, 200):
    out = loop._augment(key, jnp.asarray(image), config)
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
  config = train.TrainConfig(num_epochs=2, batch_size=batch_size)
  fit = functools.partial(
    train.fit, KEY, linear, begin(config), config=config, pause_steps=(0, 3)
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
    config=config,
    first_step=found[1].step,
  )
  *_, last = rest
  np.testing.assert_array_equal(last.state.params, found[-1].state.params)
  with pytest.raises(ValueError, match='need inputs in memory'):
    next(fit(column, labels, in_loop=True))


def test_pauses_may_be_the_chosen_ones_alone():
  config = train.TrainConfig(num_epochs=3, batch_size=10)
  every, few = run(config), run(config, pause_steps=(7,), each_epoch=False)
  assert [p.step for p in every] == [5, 10, 15]
  assert [p.step for p in few] == [7, 15]
  np.testing.assert_array_equal(few[-1].state.params, every[-1].state.params)


def fit(
  xs, targets, *, loss='cross_entropy', key=KEY, forward=linear, **options
):
  config = options.pop('config', train.TrainConfig(loss, num_epochs=1))
  state = begin(config)
  if key.ndim:
    state = jax.tree.map(lambda v: jnp.stack([v] * len(key)), state)
  return train.fit(key, forward, state, xs, targets, config=config, **options)


LABELS = {
  'unlabelled': (lambda y: 0 * y - 1, ValueError, r'in \[0, 3\), got .* -1'),
  'another set': (lambda y: 0 * y + 99, ValueError, r'in \[0, 3\), got .* 99'),
  'from 1': (lambda y: y + 1, ValueError, r'in \[0, 3\), got .* from 1 to 3'),
  'a column': (lambda y: y[:, None], ValueError, r'shape \(50,\).*\(50, 1\)'),
  'floats': (lambda y: y.astype(float), TypeError, 'integers, got float'),
  'NaN': (lambda y: y * np.nan, TypeError, 'integers, got float'),
  'truths': (lambda y: y > 0, TypeError, 'integers, got bool'),
  'words': (lambda y: y.astype(str), TypeError, 'targets must be numbers'),
  'fewer': (lambda y: y[:-1], ValueError, 'each of 50 inputs, got 49'),
  'four classes': (lambda y: np.eye(4)[y], ValueError, r'shape \(4,\) an exam'),
  'one number': (lambda y: y[0], ValueError, r'targets must have shape \[n'),
}


@pytest.mark.parametrize('loss', ['cross_entropy', 'squared', 'hinge'])
@pytest.mark.parametrize('name', LABELS)
def test_labels_that_are_no_classes_are_refused_at_the_call(name, loss):
  xs, labels, _ = problem()
  change, error, words = LABELS[name]
  with pytest.raises(error, match=words) as caught:
    fit(xs, change(labels), loss=loss)
  assert 'label' in str(caught.value) or 'target' in str(caught.value)
  if name not in ('words', 'one number'):
    with pytest.raises(error):
      fit(xs, jnp.asarray(change(labels)), loss=loss)


@pytest.mark.parametrize('wrong', [-1, 3])
def test_labels_of_each_of_many_networks_are_checked(wrong):
  xs, labels, _ = problem()
  keys = jax.random.split(KEY, 2)
  many, axes = np.stack([labels, labels]), (None, 0, None)
  next(fit(xs, many, key=keys, data_axes=axes))
  many[1, 7] = wrong
  with pytest.raises(ValueError, match=r'labels must lie in \[0, 3\)'):
    fit(xs, many, key=keys, data_axes=axes)
  with pytest.raises(ValueError, match=r'shape \(2, 50\), got \(2, 50, 1\)'):
    fit(xs, many[..., None], key=keys, data_axes=axes)
  with pytest.raises(ValueError, match=r'must have shape \[2, n, ...\]'):
    fit(xs, labels, key=keys, data_axes=axes)
  with pytest.raises(ValueError, match=r'one row for each of 50 inputs, got 2'):
    fit(xs, many, key=keys)


def test_probabilities_are_checked():
  xs, labels, _ = problem()
  rows = np.eye(3, dtype=np.float32)[labels]
  soft = 0.9 * rows + 0.1 / 3
  for good in (rows, soft, soft.astype(np.float16), rows.astype(int), rows > 0):
    next(fit(xs, good))
  for bad in (2 * rows, rows - soft, -rows, 1.5 * rows - 0.5 / 3):
    with pytest.raises(ValueError, match=r'targets .* class probabilities'):
      fit(xs, bad)
    next(fit(xs, bad, loss='squared'))
  for loss in ('cross_entropy', 'squared'):
    with pytest.raises(ValueError, match='targets must be finite'):
      fit(xs, np.where(rows > 0, np.nan, rows), loss=loss)
  with pytest.raises(ValueError, match='one class number an example; got'):
    fit(xs, soft, loss='hinge')


def test_images_have_the_shape_of_the_outputs():
  xs, labels, _ = problem()
  for loss in ('reconstruction', 'evidence'):
    targets = xs[:, :3]
    with pytest.raises(ValueError, match=r'targets .* \(3,\), got \(4,\)'):
      fit(xs, xs, loss=loss)
    with pytest.raises(ValueError, match=r'targets .* \(3,\), got \(\)'):
      fit(xs, labels, loss=loss)
    with pytest.raises(TypeError, match=r'targets .* floating .* got uint8'):
      fit(xs, targets.astype(np.uint8), loss=loss)
    with pytest.raises(ValueError, match='targets must be finite'):
      fit(xs, targets * np.inf, loss=loss)
  next(fit(xs, xs[:, :3], loss='reconstruction'))


@pytest.mark.parametrize(
  'weights, error, words',
  [
    (np.full(50, np.nan), ValueError, 'finite and not negative'),
    (np.full(50, np.inf), ValueError, 'finite and not negative'),
    (np.arange(50) - 1.0, ValueError, 'got weights from -1 to 48'),
    (np.zeros(50), ValueError, 'not all 0'),
    (np.ones(49), ValueError, 'each of 50 inputs, got 49'),
    (np.ones((50, 1)), ValueError, r'one number an example, got .*\(50, 1\)'),
    (np.full(50, 'one'), TypeError, 'weights must be numbers'),
  ],
)
def test_weights_are_checked(weights, error, words):
  xs, labels, _ = problem()
  with pytest.raises(error, match=words):
    fit(xs, labels, weights=weights)


def test_inputs_are_checked():
  xs, labels, _ = problem()
  with pytest.raises(TypeError, match=r'inputs must be floating.*uint8.*/ 255'):
    fit((255 * xs).astype(np.uint8), labels)
  with pytest.raises(ValueError, match=r'one example, got shape \(0, 4\)'):
    fit(xs[:0], labels[:0])
  with pytest.raises(TypeError, match=r'jax\.random\.key, .* got uint32'):
    fit(xs, labels, key=jax.random.PRNGKey(0))
  with pytest.raises(ValueError, match='data_axes must be three'):
    fit(xs, labels, data_axes=(0, None))
  logits = lambda params, stats, x, key, train: params @ x
  with pytest.raises(TypeError, match=r'must return \(\(outputs, codes\)'):
    fit(xs, labels, forward=logits)
  scalar = lambda params, stats, x, key, train: ((x[0], {}), stats)
  with pytest.raises(ValueError, match=r'needs a network .* of shape \(\)'):
    fit(xs, labels, forward=scalar)


def test_images_on_disk_are_targets_too():
  xs, labels, _ = problem()
  column = data.Column(lambda keys: [xs[k] for k in keys], np.arange(50), (4,))
  square = lambda params, stats, x, key, train: ((params[0] * x, {}), stats)
  config = train.TrainConfig('reconstruction', num_epochs=1, batch_size=10)
  found, wanted = (
    list(fit(v, v, forward=square, config=config, in_loop=False))[-1].loss
    for v in (column, xs)
  )
  np.testing.assert_allclose(found, wanted, rtol=1e-5)
  with pytest.raises(ValueError, match=r'targets .* \(3,\), got \(4,\)'):
    fit(column, column, config=config)
  with pytest.raises(ValueError, match='must be labels, one class'):
    fit(column, column)
  with pytest.raises(ValueError, match='labels must lie in'):
    fit(column, labels + 1)


def test_inputs_lie_in_the_range_of_the_adversary():
  xs, labels, _ = problem()
  low, high = float(xs.min()), float(xs.max())
  config = train.TrainConfig(num_epochs=1)
  with pytest.raises(ValueError, match='low=0 to high=1, got inputs from -'):
    fit(xs, labels, config=config._replace(adversary=ADVERSARY))
  for adversary in (
    ADVERSARY._replace(low=low, high=high),
    ADVERSARY._replace(low=low * (1 - 1e-7), high=high * (1 - 1e-7)),
    ADVERSARY._replace(low=-np.inf, high=np.inf),
  ):
    next(fit(xs, labels, config=config._replace(adversary=adversary)))
  with pytest.raises(ValueError, match=f'low={low:g} to high=1, got'):
    fit(
      xs,
      labels,
      config=config._replace(adversary=ADVERSARY._replace(low=low)),
    )


ADVERSARY = train.adversarial.Adversary(0.1, np.inf, num_steps=2)


@pytest.mark.parametrize('array', [np.asarray, jnp.asarray])
@pytest.mark.parametrize('adversary', [None, ADVERSARY])
@pytest.mark.parametrize('num', [None, 2])
def test_arrays_that_a_network_captures_are_those_of_the_call(
  array, adversary, num
):
  xs, labels, _ = problem()
  xs = (xs - xs.min()) / (xs.max() - xs.min())
  held = {}

  def captured(params, stats, x, key, train):
    return (params @ (held['scale'] * x), {}), stats

  def plain(params, stats, x, key, train):
    return (params @ x, {}), stats

  def run(forward, scale):
    config = CONFIG._replace(num_epochs=2, adversary=adversary)
    key = KEY if num is None else jax.random.split(KEY, num)
    *_, last = fit(xs, labels, forward=forward, config=config, key=key)
    one = jax.tree.map(lambda v: v if num is None else v[0], last.state)
    return last.state.params, train.outputs(forward, one, xs[:3])

  for factor in (1.0, 0.25):
    held['scale'] = array(np.full(4, factor, np.float32))
    params, logits = run(captured, factor)
    scaled = lambda params, stats, x, key, train, factor=factor: plain(
      params, stats, factor * x, key, train
    )
    want, wanted_logits = run(scaled, factor)
    np.testing.assert_allclose(params, want, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(logits, wanted_logits, rtol=1e-4, atol=1e-6)


def test_equal_networks_compile_once():
  xs, labels, _ = problem()

  def flax():
    config = CONFIG._replace(num_epochs=1)
    net = Normed()
    optimizer = train.make_optimizer(config, 50)
    state = train.init_state(KEY, net, xs[0], optimizer)
    *_, last = train.fit(
      KEY, train.flax_forward(net), state, xs, labels, config=config
    )
    train.accuracy(train.flax_forward(net), last.state, xs, labels)

  def closure(scale=2.0):
    scale = jnp.full(4, scale)
    forward = lambda params, stats, x, key, train: (
      (params @ (scale * x), {}),
      stats,
    )
    *_, last = fit(xs, labels, forward=forward)
    return last.state.params

  for run in (flax, closure):
    run()
    with oracles.compilations() as compiled:
      run()
    assert not compiled, run
  assert not np.array_equal(closure(), closure(3.0))
