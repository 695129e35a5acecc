"""Steps towards a label, and noise as long as they are."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dmm_jax import manifold
from dmm_jax.train import adversarial
from dmm_jax.train import targeted

WEIGHTS = np.random.default_rng(0).normal(size=(16, 2)).astype(np.float32)


@pytest.mark.parametrize('side', [None, manifold.on, manifold.off])
def test_steps_of_a_linear_network_are_as_steep_as_their_subspace_lets(side):
  basis = manifold.random_basis(jax.random.key(3), 4, 16)
  project = side and (lambda v: side(v, basis))
  x = jnp.full((4, 4), 0.5)
  moved = targeted.move(
    jax.random.key(0),
    lambda v: v.ravel() @ WEIGHTS,
    x,
    jnp.int32(0),
    adversarial.Adversary(0.3, 2, 60),
    project=project,
  )
  step = np.asarray(moved - x)
  assert 0.29 < np.linalg.norm(step) <= 0.3 + 1e-5
  way = jnp.asarray(WEIGHTS[:, 0] - WEIGHTS[:, 1]).reshape(4, 4)
  way = np.asarray(project(way) if project else way)
  size = np.linalg.norm(step) * np.linalg.norm(way)
  assert np.sum(step * way) / size > 0.99
  if project:
    np.testing.assert_allclose(project(step), step, atol=1e-5)


def test_noise_is_as_long_as_the_steps_also_at_the_ends_of_the_range():
  xs = np.zeros((5, 4, 4, 1), np.float32)
  xs[:, 2:] = 1
  moved = np.abs(xs - 0.05 * np.arange(1, 6)[:, None, None, None])
  noise = targeted.noise_like(jax.random.key(0), xs, moved) - xs
  size = lambda v: np.linalg.norm(v.reshape(5, -1), axis=1)
  np.testing.assert_allclose(size(noise), size(moved - xs), rtol=1e-5)
  assert np.all(noise[:, :2] >= 0) and np.all(noise[:, 2:] <= 0)
  inside = targeted.noise_like(jax.random.key(0), xs * 0 + 0.5, xs * 0 + 0.51)
  assert 0.2 < np.mean(inside > 0.5) < 0.8
