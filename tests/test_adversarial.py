"""Perturbations in training against numpy and closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

from dmm_jax.train import adversarial
from dmm_jax.train import losses

KEY = jax.random.key(0)
W = jnp.asarray(np.random.default_rng(0).normal(size=(3, 6)), jnp.float32)
X = jnp.full(6, 0.5)
X_ = np.full(6, 0.5)
FREE = dict(low=-np.inf, high=np.inf)


def starts(norm, num, radius=0.3):
  """First points around `X` for many keys: a flat loss moves nothing else."""
  adversary = adversarial.Adversary(radius, norm)
  flat = lambda key: adversarial.perturb(
    key, lambda v: 0.0 * jnp.sum(v), X, adversary
  )
  return np.asarray(jax.jit(jax.vmap(flat))(jax.random.split(KEY, num))) - X_


@pytest.mark.parametrize('norm', [2, np.inf])
def test_searches_start_anywhere_in_the_ball(norm):
  found = starts(norm, 2000) / 0.3
  assert np.linalg.norm(found, norm, axis=1).max() <= 1 + 1e-5
  np.testing.assert_allclose(found.mean(0), 0, atol=0.06)
  # Uniform: E x_i^2 is 1 / (n + 2) in the l2 ball, 1 / 3 in the cube.
  second = 1 / 8 if norm == 2 else 1 / 3
  np.testing.assert_allclose((found**2).mean(0), second, rtol=0.15)
  # The volume within half of the radius.
  inside = np.linalg.norm(found, norm, axis=1) < 0.9
  np.testing.assert_allclose(inside.mean(), 0.9**6, atol=0.05)
  if norm == np.inf:
    assert found.min() < -0.98 and found.max() > 0.98


def ascend(x, first, gradient, norm, radius, size, num_steps, low, high):
  """Projected gradient ascent in numpy; a box for linf alone."""
  step = first
  for _ in range(num_steps):
    slope = gradient(x + step)
    ahead = np.sign(slope) if norm == np.inf else slope / np.linalg.norm(slope)
    step = step + size * ahead
    if norm == 2:
      step *= min(1, radius / np.linalg.norm(step))
    else:
      step = np.clip(
        step,
        np.maximum(-radius, np.minimum(low - x, 0)),
        np.minimum(radius, np.maximum(high - x, 0)),
      )
  return x + step


@pytest.mark.parametrize(
  'norm, options, num_steps, size',
  [
    # Ten steps of a quarter of the radius; l2 and pixels in [0, 1].
    (2, {}, 10, 0.25),
    (2, dict(num_steps=3, step_size=0.2, **FREE), 3, 0.2),
    (2, dict(num_steps=4, **FREE), 4, 0.625),
    (np.inf, dict(num_steps=3), 3, 2.5 / 3),
    (np.inf, dict(num_steps=2, step_size=0.3, low=0.45, high=0.65), 2, 0.3),
  ],
)
def test_steps_are_those_of_gradient_ascent(norm, options, num_steps, size):
  matrix = np.asarray(W.T @ W, float)
  at = lambda v: matrix @ (v - 0.4) + np.arange(6) / 3
  loss = lambda v: jnp.sum((W @ (v - 0.4)) ** 2) / 2 + v @ (jnp.arange(6.0) / 3)
  adversary = adversarial.Adversary(
    0.3, **({} if norm == 2 else {'norm': norm}), **options
  )
  low, high = options.get('low', 0.0), options.get('high', 1.0)
  first = np.clip(starts(norm, 1)[0], low - X_, high - X_)
  key = jax.random.split(KEY, 1)[0]
  found = adversarial.perturb(key, loss, X, adversary)
  want = ascend(X_, first, at, norm, 0.3, 0.3 * size, num_steps, low, high)
  np.testing.assert_allclose(found, want, atol=1e-5)


def test_attacks_increase_the_cross_entropy_of_a_label():
  adversary = adversarial.Adversary(0.1, np.inf, num_steps=20, **FREE)
  logits_fn = lambda v: W @ v
  found = adversarial.attack(KEY, logits_fn, X, jnp.int32(1), adversary)
  p = special.softmax(np.asarray(W) @ np.asarray(found))
  slope = np.asarray(W).T @ (p - np.eye(3)[1])
  np.testing.assert_allclose(found - X, 0.1 * np.sign(slope), atol=1e-6)


def test_the_range_of_inputs_holds():
  adversary = adversarial.Adversary(3.0, 2, low=0.2, high=0.6)
  got = adversarial.perturb(KEY, lambda v: W[0] @ v, X, adversary)
  assert got.min() >= 0.2 - 1e-6 and got.max() <= 0.6 + 1e-6
  np.testing.assert_allclose(got, np.where(W[0] > 0, 0.6, 0.2), atol=1e-5)


@pytest.mark.parametrize(
  'change, words',
  [
    ({'norm': 1}, 'norm of an adversary must be 2 or inf, got 1'),
    ({'norm': np.nan}, 'norm .* 2 or inf, got nan'),
    ({'radius': np.nan}, 'radius .* finite and not negative, got nan'),
    ({'radius': -0.1}, 'radius .* finite and not negative, got -0.1'),
    ({'radius': np.inf}, 'radius .* finite'),
    ({'num_steps': 0}, 'num_steps .* at least 1, got 0'),
    ({'num_steps': True}, 'num_steps .* at least 1, got True'),
    ({'step_size': np.nan}, 'step_size .* finite and not negative'),
    ({'trades': -1.0}, 'trades .* finite and not negative'),
    ({'low': 1.0, 'high': 0.0}, 'low .* below high, got 1.0 and 0.0'),
    ({'low': 1.0}, 'low .* below high, got 1.0 and 1.0'),
    ({'low': np.nan}, 'low .* below high, got nan'),
  ],
)
def test_values_that_are_none_are_named(change, words):
  adversary = adversarial.Adversary(0.1)._replace(**change)
  with pytest.raises(ValueError, match=words):
    adversarial.perturb(KEY, jnp.sum, X, adversary)
  # Also where inputs are traced.
  with pytest.raises(ValueError, match=words):
    jax.eval_shape(lambda x: adversarial.perturb(KEY, jnp.sum, x, adversary), X)


def test_values_at_the_ends_of_their_ranges_are_taken():
  for change in (
    dict(radius=0.0, step_size=0.0, trades=0.0),
    dict(num_steps=1, norm=np.inf),
    dict(radius=0.5, trades=0.5, step_size=0.5),
  ):
    adversarial.check(adversarial.Adversary(0.1)._replace(**change))


def test_numbers_of_an_adversary_may_be_traced():
  def perturb(radius, size, low, high):
    adversary = adversarial.Adversary(radius, np.inf, 4, size, 0.0, low, high)
    return adversarial.perturb(KEY, lambda v: W[0] @ v, X, adversary)

  values = 0.2, 0.5, 0.4, 0.65
  found, wanted = jax.jit(perturb)(*values), perturb(*values)
  np.testing.assert_allclose(found, wanted, atol=1e-6)
  one = jax.jit(lambda low: perturb(0.2, 0.5, low, 0.65))(0.4)
  np.testing.assert_allclose(one, wanted, atol=1e-6)


@pytest.mark.parametrize('norm', [2, np.inf])
def test_steps_stay_in_the_ball_wherever_inputs_are(norm):
  xs = jnp.asarray(np.random.default_rng(1).normal(0, 2, (40, 6)), jnp.float32)

  @jax.jit
  def perturb(low, high):
    adversary = adversarial.Adversary(0.1, norm, low=low, high=high)
    one = lambda key, x: adversarial.perturb(
      key, lambda v: jnp.sum(jnp.sin(7 * v)), x, adversary
    )
    return jax.vmap(one)(jax.random.split(KEY, 40), xs)

  for low, high in ((0.0, 1.0), (9.0, 10.0)):
    moved = np.asarray(perturb(low, high))
    step = moved - xs
    assert np.linalg.norm(step, norm, axis=1).max() <= 0.1 * (1 + 1e-5)
    # Outside of the range numbers move towards it alone.
    assert np.all(moved <= np.maximum(xs, high) + 1e-6)
    assert np.all(moved >= np.minimum(xs, low) - 1e-6)
    if low == 9:
      assert np.all(step >= 0) and np.any(step > 0.01)


def forwards(weights, shift=0.2):
  """A network in training, and in inference: logits differ by the former's."""
  codes = lambda v: 7.0 * jnp.ones_like(weights @ v)
  outputs = lambda v: ((weights @ v + shift * jnp.arange(3.0), codes(v)), v)
  plain = lambda v: (jax.lax.stop_gradient(weights) @ v, codes(v))
  return outputs, plain


def test_madry_s_loss_is_that_of_the_worst_point():
  for norm, dual in ((2, 2), (np.inf, 1)):
    # Of two classes the worst of a ball is known: the margin falls by radius
    # times the dual norm of the difference of their weights.
    two = jnp.stack([W[0], W[1], 0 * W[0] - 100.0])
    adversary = adversarial.Adversary(0.1, norm, 50, 0.25)
    value, worst = adversarial.loss(
      KEY, *forwards(two), losses.hinge, X, jnp.int32(0), adversary
    )
    gap = np.asarray(two[0] - two[1])
    fall = 0.1 * np.linalg.norm(gap, dual)
    # The loss is the training network's, whose second logit is more by 0.2.
    want = 1 - gap @ X + 0.2 + fall
    assert value == pytest.approx(float(want), rel=1e-3)
    ahead = gap / np.linalg.norm(gap) if norm == 2 else np.sign(gap)
    np.testing.assert_allclose(worst, X - 0.1 * ahead, atol=2e-3)


def test_trades_is_clean_loss_and_divergence_from_the_clean_prediction():
  outputs, plain = forwards(W)
  log_p = np.log(special.softmax(np.asarray(W @ X)))
  divergence = lambda v: jnp.sum(
    np.exp(log_p) * (log_p - jax.nn.log_softmax(W @ v))
  )
  adversary = adversarial.Adversary(0.4, np.inf, num_steps=3, trades=5.0)
  value, new = adversarial.loss(
    KEY, outputs, plain, losses.cross_entropy, X, jnp.int32(2), adversary
  )
  # Other variables are those of the clean example.
  np.testing.assert_array_equal(new, X)
  worst = adversarial.perturb(KEY, divergence, X, adversary)
  assert np.abs(worst - X).max() > 0.1
  clean, moved = (
    special.log_softmax(np.asarray(outputs(v)[0][0], float)) for v in (X, worst)
  )
  apart = np.exp(clean) @ (clean - moved)
  back = np.exp(moved) @ (moved - clean)
  assert apart > 0.1 and abs(apart - back) > 0.02 * apart
  np.testing.assert_allclose(value, -clean[2] + 5 * apart, rtol=1e-4)


def test_the_divergence_is_that_of_scipy():
  p, q = np.array([0.5, 0.3, 0.2]), np.array([0.1, 0.6, 0.3])
  got = adversarial._divergence(jnp.log(p), jnp.log(q) + 3)
  np.testing.assert_allclose(got, special.rel_entr(p, q).sum(), rtol=1e-5)


def test_gradients_do_not_pass_through_the_search():
  adversary = adversarial.Adversary(0.1, 2)

  def value(w):
    return adversarial.loss(
      KEY, *forwards(w), losses.cross_entropy, X, jnp.int32(1), adversary
    )

  slope, worst = jax.grad(value, has_aux=True)(W)
  # (softmax - onehot) x^T at the perturbed point.
  p = special.softmax(np.asarray(W @ worst) + 0.2 * np.arange(3))
  want = np.outer(p - np.eye(3)[1], worst)
  np.testing.assert_allclose(slope, want, rtol=1e-4, atol=1e-5)
