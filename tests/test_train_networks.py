"""Networks in training: Flax modules, functions that capture, and outputs."""

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import oracles
import pytest
from scipy import special

from dmm_jax import models
from dmm_jax import train

KEY = jax.random.key(1)
NUM, DIM, CLASSES = 50, 4, 3
RNG = np.random.default_rng(0)
LABELS = RNG.integers(0, CLASSES, NUM).astype(np.int32)
XS = (RNG.normal(size=(NUM, DIM)) + 3 * np.eye(DIM)[LABELS]).astype(np.float32)
PARAMS = RNG.normal(size=(CLASSES, DIM)).astype(np.float32)
CONFIG = train.TrainConfig(learning_rate=0.1, batch_size=16, num_epochs=1)
ADVERSARY = train.adversarial.Adversary(0.1, np.inf, num_steps=2)


def fit(xs=XS, *, key=KEY, forward, config=CONFIG):
  params = jnp.asarray(PARAMS)
  inner = train.make_optimizer(config, NUM).init(params)
  state = train.State(params, {}, inner)
  if key.ndim:
    state = jax.tree.map(lambda v: jnp.stack([v] * len(key)), state)
  return train.fit(key, forward, state, xs, LABELS, config=config)


class Normed(nn.Module):
  """One layer and batch norm; with noise in training."""

  noise: float = 0.0

  @nn.compact
  def __call__(self, x, train=False):
    h = nn.Dense(3)(x)
    norm = nn.BatchNorm(
      use_running_average=not train,
      axis_name='batch' if train else None,
      momentum=0.5,
    )
    if train and self.noise:
      h = h + self.noise * jax.random.normal(self.make_rng('latent'), h.shape)
    return norm(h), {}


def test_batch_norm_sees_the_whole_batch():
  config = train.TrainConfig(batch_size=50, num_epochs=1, learning_rate=0.0)
  module = Normed()
  state = train.init_state(KEY, module, XS[0], train.make_optimizer(config, 50))
  forward = train.flax_forward(module)
  *_, last = train.fit(KEY, forward, state, XS, LABELS, config=config)
  layer = state.params['Dense_0']
  h = XS @ np.asarray(layer['kernel']) + np.asarray(layer['bias'])
  found = jax.tree.map(
    np.asarray, last.state.stats['batch_stats']['BatchNorm_0']
  )
  np.testing.assert_allclose(found['mean'], 0.5 * h.mean(0), rtol=1e-4)
  np.testing.assert_allclose(found['var'], 0.5 + 0.5 * h.var(0), rtol=1e-4)
  # The loss is that of the normalised batch; inference has running averages.
  normal = (h - h.mean(0)) / np.sqrt(h.var(0) + 1e-5)
  want = -special.log_softmax(normal, 1)[np.arange(NUM), LABELS].mean()
  np.testing.assert_allclose(last.loss, want, rtol=1e-4)
  logits = train.outputs(forward, last.state, XS)
  wanted = (h - found['mean']) / np.sqrt(found['var'] + 1e-5)
  np.testing.assert_allclose(logits, wanted, rtol=1e-4, atol=1e-5)


class Noisy(nn.Module):
  """Adds noise in training; without other variables."""

  @nn.compact
  def __call__(self, x, train=False):
    scale = self.param('scale', nn.initializers.ones, ())
    if train:
      x = x + jax.random.normal(self.make_rng('latent'), x.shape)
    return scale * x, {}


def test_flax_modules_draw_in_training_alone():
  module = Noisy()
  state = train.init_state(KEY, module, XS[0], optax.sgd(0.1, momentum=0.9))
  assert state.stats == {} and state.params == {'scale': 1.0}
  assert jax.tree.leaves(state.optimizer) == [0.0]
  forward = train.flax_forward(module)
  call = lambda key, flag: forward(state.params, {}, XS[0], key, flag)
  keys = jax.random.split(KEY)
  (quiet, _), stats = call(None, False)
  np.testing.assert_array_equal(quiet, XS[0])
  assert stats == {}
  (one, _), stats = call(keys[0], True)
  np.testing.assert_array_equal(one, call(keys[0], True)[0][0])
  assert stats == {} and np.abs(one - XS[0]).max() > 0.1
  assert np.abs(one - call(keys[1], True)[0][0]).max() > 0.1


def test_noise_reaches_a_module_that_has_other_variables():
  module = Normed(noise=1.0)
  state = train.init_state(KEY, module, XS[0], optax.sgd(0.1))
  forward = train.flax_forward(module)
  one = lambda x, key: forward(state.params, state.stats, x, key, True)
  call = jax.jit(jax.vmap(one, axis_name='batch'))
  (same, _), stats = call(XS[:5], jnp.stack([KEY] * 5))
  (each, _), _ = call(XS[:5], jax.random.split(KEY, 5))
  assert np.abs(each - same).max() > 0.1
  # Each example is handed the other variables of the whole batch.
  mean = stats['batch_stats']['BatchNorm_0']['mean']
  assert mean.shape == (5, 3) and np.abs(mean).max() > 0.1
  np.testing.assert_array_equal(mean, np.broadcast_to(mean[0], (5, 3)))


@pytest.mark.parametrize('num', [None, 2])
def test_arrays_that_a_network_captures_are_those_of_the_call(num):
  array = jnp.asarray if num else np.asarray
  adversary = ADVERSARY if num else None
  xs = (XS - XS.min()) / (XS.max() - XS.min())
  config = CONFIG._replace(adversary=adversary)
  key = jax.random.split(KEY, num) if num else KEY
  held = {}

  def captured(params, stats, x, key, train):
    return (params @ (held['scale'] * x), {}), stats

  def run(forward):
    *_, last = fit(xs, forward=forward, config=config, key=key)
    one = jax.tree.map(lambda v: v[0] if num else v, last.state)
    return last.state.params, train.outputs(forward, one, xs[:3])

  for factor in (1.0, 0.25):
    held['scale'] = array(np.full(4, factor, np.float32))
    params, logits = run(captured)
    want, wanted_logits = run(
      lambda params, stats, x, key, train, factor=factor: (
        (params @ (factor * x), {}),
        stats,
      )
    )
    np.testing.assert_allclose(params, want, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(logits, wanted_logits, rtol=1e-4, atol=1e-6)


def test_equal_networks_compile_once():
  config = CONFIG

  def flax():
    net = Normed()
    optimizer = train.make_optimizer(config, 50)
    state = train.init_state(KEY, net, XS[0], optimizer)
    *_, last = train.fit(
      KEY, train.flax_forward(net), state, XS, LABELS, config=config
    )
    train.accuracy(train.flax_forward(net), last.state, XS, LABELS)

  def closure(scale=2.0):
    scale = jnp.full(4, scale)
    forward = lambda params, stats, x, key, train: (
      (params @ (scale * x), {}),
      stats,
    )
    *_, last = fit(forward=forward, config=config)
    return last.state.params

  for run in (flax, closure):
    run()
    with oracles.compilations() as compiled:
      run()
    assert not compiled, run
  assert not np.array_equal(closure(), closure(3.0))


def test_outputs_are_those_of_inference():
  def forward(params, stats, x, key, train):
    assert key is None and train is False
    return (params @ x + stats['shift'], x), stats

  state = train.State(jnp.asarray(PARAMS), {'shift': jnp.arange(3.0)}, ())
  want = XS @ PARAMS.T + np.arange(3.0)
  for size in (256, 7):
    found = train.outputs(forward, state, XS, batch_size=size)
    np.testing.assert_allclose(found, want, rtol=1e-5, atol=1e-5)
  right = np.argmax(want, 1) == LABELS
  assert 0 < right.mean() < 1
  assert train.accuracy(forward, state, XS, LABELS) == pytest.approx(
    right.mean()
  )
  # One class at -inf is enough for the example to count as wrong.
  broken = state._replace(stats={'shift': jnp.array([-np.inf, 0.0, 0.0])})
  assert train.accuracy(forward, broken, XS, LABELS) == 0
  with pytest.raises(ValueError, match=r'labels must have shape \(50,\)'):
    train.accuracy(forward, state, XS, LABELS[:, None])


@pytest.mark.parametrize('nested', [False, True], ids=['', 'under vmap'])
def test_many_fresh_networks_are_those_of_their_keys(nested):
  module = models.MLP((5,), num_classes=3)
  optimizer = optax.adam(0.1)
  start = lambda key: train.init_state(key, module, XS[0], optimizer)
  keys = jax.random.split(KEY, 4)
  many = jax.vmap(start)(keys) if nested else start(keys)
  for number, key in enumerate(keys):
    own = jax.tree.map(lambda leaf: leaf[number], many)  # noqa: B023
    plain = module.init({'params': key, 'latent': key}, XS[0])['params']
    for want in (start(key), train.State(plain, {}, optimizer.init(plain))):
      jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7),
        own,
        want,
      )


def test_modules_without_an_argument_train_are_the_same_in_training():
  module = models.FullyConnected((5,), 3)
  x = jnp.arange(4.0)
  variables = module.init(jax.random.key(0), x)
  forward = train.flax_forward(module)
  logits = module.apply(variables, x)[0]
  for training in (True, False):
    (found, _), stats = forward(
      variables['params'], {}, x, jax.random.key(1), training
    )
    np.testing.assert_array_equal(found, logits)
    assert stats == {}
