"""Losses, schedules and optimizers in closed form."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate
from scipy import special
from scipy import stats

from dmm_jax import train
from dmm_jax.train import losses

RNG = np.random.default_rng(3)
LOGITS = np.array([1.0, -0.5, 2.5, 0.75], np.float32)
OUTPUTS = jnp.asarray(LOGITS), jnp.full(4, 7.0)
LOG_P = special.log_softmax(LOGITS)
SOFT = np.array([0.1, 0.4, 0.3, 0.2], np.float32)


def test_losses_of_classifiers():
  of = lambda loss, scale=1: np.asarray(
    jax.vmap(lambda label: loss((scale * OUTPUTS[0], OUTPUTS[1]), label))(
      jnp.arange(4)
    )
  )
  margins = [v - np.delete(LOGITS, i).max() for i, v in enumerate(LOGITS)]
  square = lambda target: np.sum((LOGITS - target) ** 2, -1) / 2
  for loss, wanted in (
    (losses.cross_entropy, -LOG_P),
    (losses.squared, square(np.eye(4))),
    # The largest logit leads by 1.5, which is enough; the others fall short.
    (losses.hinge, 1 - np.minimum(margins, 1)),
  ):
    np.testing.assert_allclose(of(loss), wanted, rtol=1e-6)
    rough = OUTPUTS[0].astype(jnp.bfloat16), {}
    assert jax.eval_shape(loss, rough, jnp.int32(1)).dtype == jnp.bfloat16
  assert of(losses.hinge, 0.5)[2] == 0.25
  soft = jnp.asarray(SOFT)
  np.testing.assert_allclose(
    losses.cross_entropy(OUTPUTS, soft), -SOFT @ LOG_P, rtol=1e-6
  )
  np.testing.assert_allclose(
    losses.squared(OUTPUTS, soft), square(SOFT), rtol=1e-6
  )


def test_losses_of_auto_encoders():
  image, target = RNG.uniform(size=(2, 3, 2, 1)).astype(np.float32)
  code = RNG.normal(size=(2, 5)).astype(np.float32)
  np.testing.assert_allclose(
    losses.reconstruction((image, code), target),
    np.mean((image - target) ** 2),
    rtol=1e-6,
  )
  # Beside the constant of six pixels' density, by integrals.
  density = stats.norm.logpdf(image, target, 0.1).sum()
  constant = 6 * stats.norm.logpdf(0, 0, 0.1)

  def divergence(mean, log_variance):
    q = stats.norm(mean, np.exp(log_variance / 2))
    gap = lambda z: q.pdf(z) * (q.logpdf(z) - stats.norm.logpdf(z))
    return integrate.quad(gap, mean - 30, mean + 30, points=[mean])[0]

  want = constant - density + sum(map(divergence, *code))
  found = losses.evidence((image, tuple(code)), target)
  np.testing.assert_allclose(found, want, rtol=1e-5)


def rates(config, num, steps):
  """The rate of each step: the change for a slope of 1, without momentum."""
  optimizer = train.make_optimizer(config, num)
  update = jax.jit(optimizer.update)
  params = jnp.float32(0)
  state, found = optimizer.init(params), []
  for _ in range(steps):
    change, state = update(jnp.float32(1), state, params)
    found.append(-float(change))
  return np.array(found)


def test_rates_rise_and_fall_where_they_should():
  # 7 steps an epoch, as a batch of 3 goes whole into 23; 28 in all.
  base = dict(optimizer='sgd', learning_rate=0.5, batch_size=3, num_epochs=4)
  config = train.TrainConfig(schedule='constant', **base)
  np.testing.assert_allclose(rates(config, 23, 3), 0.5, rtol=1e-6)
  steps = np.arange(29)
  half = np.cos(np.pi * np.minimum(steps / 28, 1)) / 2 + 0.5
  config = config._replace(schedule='cosine')
  np.testing.assert_allclose(rates(config, 23, 29), 0.5 * half, atol=1e-6)
  # A quarter of the steps to rise; of the other 21, 10 whole and 5 at a tenth.
  want = np.r_[np.arange(7) / 7, np.ones(10), [0.1] * 5, [0.01] * 6]
  config = config._replace(schedule='steps', warmup=0.25)
  np.testing.assert_allclose(rates(config, 23, 28), 0.5 * want, rtol=1e-5)
  # Ones that rise to the end do so in as many steps as there are.
  config = config._replace(schedule='constant', warmup=1.0)
  found = rates(config, 23, 29)
  np.testing.assert_allclose(found, 0.5 * np.arange(29) / 28, atol=1e-6)
  config = config._replace(schedule='cosine')
  np.testing.assert_allclose(rates(config, 23, 29)[28], 0.5, rtol=1e-6)
  assert rates(config, 23, 30)[29] == 0
  # A batch larger than the set takes all of it.
  assert train.steps_per_epoch(config._replace(batch_size=30), 23) == 1
  assert train.steps_per_epoch(config, 23) == 7


def test_defaults_train_ten_epochs_in_batches_of_128():
  config = train.TrainConfig()
  assert train.steps_per_epoch(config, 6 * 128) == 6
  # Without a warm-up adam's first step is the rate; the last of 60 ends at 0.
  found = rates(config, 6 * 128, 61)
  np.testing.assert_allclose(found[0], 1e-3, rtol=1e-5)
  assert found[59] > 0 and found[60] == 0


def test_weight_decay_is_added_to_the_slope_or_decoupled():
  def change(name, decay):
    config = train.TrainConfig(
      optimizer=name, weight_decay=decay, schedule='constant', learning_rate=0.1
    )
    optimizer = train.make_optimizer(config, 5)
    params = jnp.float32(4)
    step = optimizer.update(jnp.float32(2), optimizer.init(params), params)[0]
    return float(step)

  for name, plain, decayed in (
    ('sgd', -0.2, -0.1 * (2 + 0.3 * 4)),
    ('momentum', -0.2, -0.1 * (2 + 0.3 * 4)),
    # Its first step is the sign of the slope.
    ('adam', -0.1, -0.1),
    ('adamw', -0.1, -0.1 - 0.1 * 0.3 * 4),
  ):
    np.testing.assert_allclose(change(name, 0.0), plain, rtol=1e-5)
    np.testing.assert_allclose(change(name, 0.3), decayed, rtol=1e-5)


@pytest.mark.parametrize('field', ['optimizer', 'schedule'])
def test_unknown_choices_name_the_known_ones(field):
  config = train.TrainConfig()._replace(**{field: 'magic'})
  with pytest.raises(ValueError, match=f"{field} must be one of .*'magic'"):
    train.make_optimizer(config, 5)


def test_log_spaced_steps():
  assert train.log_spaced(60) == [0, 1, 2, 3, 5, 10, 20, 50]
  assert train.log_spaced(500)[-4:] == [50, 100, 200, 500]
  assert train.log_spaced(0) == [0]
  # Longer trainings than anybody's.
  assert len(train.log_spaced(10**14)) == 5 + 3 * 12
