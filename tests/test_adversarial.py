"""Perturbations in training against closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dmm_jax.train import adversarial
from dmm_jax.train import losses

KEY = jax.random.key(0)
W = jnp.asarray(np.random.default_rng(0).normal(size=(3, 6)), jnp.float32)
X = jnp.full(6, 0.5)


@pytest.mark.parametrize('norm', [2, np.inf])
def test_a_linear_loss_is_climbed_to_the_top_of_the_ball(norm):
  adversary = adversarial.Adversary(0.1, norm, 50, 0.25)
  got = adversarial.perturb(KEY, lambda v: W[0] @ v, X, adversary) - X
  g = np.asarray(W[0])
  want = 0.1 * (g / np.linalg.norm(g) if norm == 2 else np.sign(g))
  np.testing.assert_allclose(got, want, atol=2e-3)
  assert np.linalg.norm(got, norm) <= 0.1 * (1 + 1e-5)


def test_the_range_of_inputs_holds():
  adversary = adversarial.Adversary(3.0, 2, low=0.2, high=0.6)
  got = adversarial.perturb(KEY, lambda v: W[0] @ v, X, adversary)
  assert got.min() >= 0.2 - 1e-6 and got.max() <= 0.6 + 1e-6
  np.testing.assert_allclose(got, np.where(W[0] > 0, 0.6, 0.2), atol=1e-5)


def test_a_flat_loss_moves_nothing_but_the_start():
  adversary = adversarial.Adversary(0.1, 2)
  got = adversarial.perturb(KEY, lambda v: 0.0 * jnp.sum(v), X, adversary)
  assert np.all(np.isfinite(got)) and np.linalg.norm(got - X) <= 0.1 + 1e-6


@pytest.mark.parametrize(
  'change, words',
  [
    ({'norm': 1}, 'norm of an adversary must be 2 or inf, got 1'),
    ({'norm': np.nan}, 'norm .* 2 or inf, got nan'),
    ({'radius': np.nan}, 'radius .* finite and not negative, got nan'),
    ({'radius': -0.1}, 'radius .* finite and not negative, got -0.1'),
    ({'radius': np.inf}, 'radius .* finite'),
    ({'num_steps': 0}, 'num_steps .* at least 1, got 0'),
    ({'step_size': np.nan}, 'step_size .* finite and not negative'),
    ({'trades': -1.0}, 'trades .* finite and not negative'),
    ({'low': 1.0, 'high': 0.0}, 'low .* below high, got 1.0 and 0.0'),
    ({'low': np.nan}, 'low .* below high, got nan'),
  ],
)
def test_values_that_are_none_are_named(change, words):
  adversary = adversarial.Adversary(0.1)._replace(**change)
  with pytest.raises(ValueError, match=words):
    adversarial.perturb(KEY, jnp.sum, X, adversary)
  # Also where inputs are traced.
  with pytest.raises(ValueError, match=words):
    jax.jit(lambda x: adversarial.perturb(KEY, jnp.sum, x, adversary))(X)


def test_the_radius_may_be_traced():
  perturb = lambda radius: adversarial.perturb(
    KEY, lambda v: W[0] @ v, X, adversarial.Adversary(radius, np.inf)
  )
  np.testing.assert_allclose(jax.jit(perturb)(0.1), perturb(0.1), atol=1e-6)


@pytest.mark.parametrize('norm', [2, np.inf])
@pytest.mark.parametrize('low, high', [(0.0, 1.0), (-np.inf, np.inf), (9, 10)])
def test_steps_stay_in_the_ball_wherever_inputs_are(norm, low, high):
  xs = jnp.asarray(np.random.default_rng(1).normal(0, 2, (40, 6)), jnp.float32)
  adversary = adversarial.Adversary(0.1, norm, low=low, high=high)
  one = lambda key, x: adversarial.perturb(
    key, lambda v: jnp.sum(jnp.sin(7 * v)), x, adversary
  )
  moved = np.asarray(jax.vmap(one)(jax.random.split(KEY, 40), xs))
  step = moved - xs
  assert np.linalg.norm(step, norm, axis=1).max() <= 0.1 * (1 + 1e-5)
  # Outside of the range numbers move towards it alone.
  assert np.all(moved <= np.maximum(xs, high) + 1e-6)
  assert np.all(moved >= np.minimum(xs, low) - 1e-6)
  if low == 9:
    assert np.all(step >= 0) and np.any(step > 0.01)


def value(adversary, weights=W):
  outputs = lambda v: ((weights @ v, {}), {})
  frozen = jax.lax.stop_gradient(weights)
  plain = lambda v: (frozen @ v, {})
  loss, _ = adversarial.loss(
    KEY, outputs, plain, losses.hinge, X, jnp.int32(0), adversary
  )
  return loss


def test_madry_s_loss_is_that_of_the_worst_point():
  # Of two classes the worst of a ball is known: the margin falls by
  # radius times the dual norm of the difference of their weights.
  two = W[:2]
  margin = (two[0] - two[1]) @ X
  for norm, dual in ((2, 2), (np.inf, 1)):
    got = value(adversarial.Adversary(0.1, norm, 50, 0.25), two)
    fall = 0.1 * np.linalg.norm(two[0] - two[1], dual)
    assert got == pytest.approx(float(1 - margin + fall), rel=1e-3)


def test_trades_is_clean_loss_and_divergence():
  none = value(adversarial.Adversary(1e-6, 2, trades=5.0))
  clean = losses.hinge((W @ X, {}), jnp.int32(0))
  assert none == pytest.approx(float(clean), abs=1e-4)
  once, twice = (
    value(adversarial.Adversary(0.3, 2, trades=beta)) - clean
    for beta in (1.0, 2.0)
  )
  assert once > 0 and twice == pytest.approx(float(2 * once), rel=1e-4)


def test_the_divergence_is_from_the_clean_prediction():
  p, q = np.array([0.5, 0.3, 0.2]), np.array([0.1, 0.6, 0.3])
  got = adversarial._divergence(jnp.log(p), jnp.log(q) + 3)
  np.testing.assert_allclose(got, np.sum(p * np.log(p / q)), rtol=1e-5)


@pytest.mark.parametrize('trades', [0.0, 2.0])
def test_gradients_do_not_pass_through_the_search(trades):
  adversary = adversarial.Adversary(0.1, 2, trades=trades)
  slope = jax.grad(lambda w: value(adversary, w))(W)
  assert np.all(np.isfinite(slope)) and np.any(slope != 0)
  if not trades:
    worst = adversarial.perturb(
      KEY, lambda v: losses.hinge((W @ v, {}), jnp.int32(0)), X, adversary
    )
    want = jax.grad(lambda w: losses.hinge((w @ worst, {}), jnp.int32(0)))(W)
    np.testing.assert_allclose(slope, want, rtol=1e-4, atol=1e-5)
