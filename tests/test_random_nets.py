import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from dmm_jax import boundary
from dmm_jax import models
from dmm_jax import parallel
from dmm_jax import random_nets

NORMS = (1.0, 2.0, np.inf)


@pytest.mark.parametrize('stride', [1, 2])
@pytest.mark.parametrize('size', [1, 3])
@pytest.mark.parametrize('shape', [(2, 6, 6, 3), (1, 7, 5, 2)])
def test_patches_are_a_convolution(stride, size, shape):
  x = jax.random.normal(jax.random.key(0), shape)
  kernel = jax.random.normal(jax.random.key(1), (size, size, shape[-1], 4))
  want = jax.lax.conv_general_dilated(
    x, kernel, (stride,) * 2, 'SAME', dimension_numbers=('NHWC', 'HWIO', 'NHWC')
  )
  got = models.conv_by_patches(x, kernel, (stride,) * 2, 'SAME')
  np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


def count(params):
  return sum(p.size for p in jax.tree.leaves(params))


@pytest.mark.parametrize(
  'name, weights',
  [
    ('fully_connected', 768 * 100 + 100 * 100 + 100 * 2),
    ('convolutional', 9 * 128 * (3 + 3 * 128) + 256 * 128 * 2),
    (
      'lenet',
      9 * 128 * (3 + 3 * 128) + 16 * 128 * 512 + 512 * 512 + 512 * 2,
    ),
    (
      'resnet20',
      9 * (3 * 32 + 6 * 32**2 + 32 * 64 + 5 * 64**2 + 64 * 128 + 5 * 128**2)
      + 32 * 64
      + 64 * 128
      + 4 * 4 * 128 * 2,
    ),
  ],
)
def test_architectures_have_the_papers_weights(name, weights):
  module = random_nets.ARCHITECTURES[name].module(0)
  x = jnp.ones((16, 16, 3))
  params = jax.eval_shape(module.init, jax.random.key(0), x)
  assert count(params) == weights
  logits, codes = jax.eval_shape(module.apply, params, x)
  assert logits.shape == (2,) and codes


@pytest.mark.parametrize('name', random_nets.ARCHITECTURES)
def test_weights_have_the_stated_variance_and_truncation(name):
  module = random_nets.ARCHITECTURES[name].module(64)
  params = module.init(jax.random.key(0), jnp.ones((8, 8, 3)))['params']
  for layer, leaves in params.items():
    kernel = np.asarray(leaves['kernel'])
    fan_in = np.prod(kernel.shape[:-1])
    variance = 2 / fan_in
    if layer == 'head' and name in ('convolutional', 'lenet'):
      variance = 2 / (fan_in + kernel.shape[-1])
    elif kernel.size > 2000:
      # Truncated at two standard deviations of the normal before truncation.
      limit = 2 * np.sqrt(variance) / 0.87962566103423978
      assert np.abs(kernel).max() <= limit * 1.001
    if kernel.size > 2000:
      np.testing.assert_allclose(np.var(kernel), variance, rtol=0.1)


def sample(name='fully_connected', networks=40, images=1, **options):
  options = (
    dict(exponents=NORMS, bounds=(0.0, 1.0), method='deepfool') | options
  )
  one = random_nets.sampler(
    random_nets.ARCHITECTURES[name].module(16), **options
  )
  shape = (images, 6, 6, 3)

  def draw(i):
    keys = jax.random.split(jax.random.fold_in(jax.random.key(0), i))
    return one(keys[0], jax.random.uniform(keys[1], shape))

  return parallel.map_examples(
    draw, (np.arange(networks),), batch_size=networks, vmap_size=1
  )


def test_estimate_is_margin_over_gradient():
  found = sample()
  assert found.distance.shape == (40, 1, 3)
  module = random_nets.ARCHITECTURES['fully_connected'].module(16)
  for i in range(3):
    keys = jax.random.split(jax.random.fold_in(jax.random.key(0), i))
    x = jax.random.uniform(keys[1], (1, 6, 6, 3))[0]
    params = module.init(keys[0], x)
    difference = lambda v: jnp.diff(module.apply(params, v)[0])[0]  # noqa: B023
    margin, gradient = abs(difference(x)), jax.grad(difference)(x).ravel()
    np.testing.assert_allclose(found.margin[i, 0], margin, rtol=1e-4)
    want = [margin / np.linalg.norm(gradient, q) for q in (np.inf, 2, 1)]
    np.testing.assert_allclose(found.estimate[i, 0], want, rtol=1e-4)
    sizes = [np.linalg.norm(x.ravel(), p) for p in NORMS]
    np.testing.assert_allclose(found.input_norm[i, 0], sizes, rtol=1e-4)


@pytest.mark.parametrize('name', random_nets.ARCHITECTURES)
def test_every_architecture_is_measured(name):
  found = sample(name, networks=4, images=2)
  hit = found.status == boundary.Status.FOUND
  assert hit[..., 1].mean() > 0.5  # l1 is harder, on images this small.
  # Norms of one perturbation are ordered, so are the least ones.
  distance = found.distance[np.all(hit, axis=-1)]
  assert np.all(distance[:, 0] >= 0.99 * distance[:, 2])
  assert np.all(np.isinf(found.distance[~hit]))


def test_networks_are_independent_of_batching():
  few, many = sample(networks=3), sample(networks=8)
  np.testing.assert_allclose(few.distance, many.distance[:3], rtol=1e-5)


def test_dense_networks_follow_the_half_normal_law():
  found = sample(networks=400, exponents=(2.0,), bounds=None, method='linear')
  # For bias-free ReLU networks s = ||x||_2 / sqrt(n).
  scale = found.input_norm.ravel() / np.sqrt(6 * 6 * 3)
  z = found.distance.ravel() / scale
  # At width 16 gradients still fluctuate; the median is what is left.
  assert abs(np.median(z) / stats.halfnorm.ppf(0.5) - 1) < 0.2
