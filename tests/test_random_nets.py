"""Random networks: their sizes, their weights, their distances."""

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
  assert name != 'resnet20' or (
    random_nets.ARCHITECTURES['resnet'].module(0)
    == models.ResNet(32, 1, pre_activation=True)
  )
  x = jnp.ones((16, 16, 3))
  params = jax.eval_shape(module.init, jax.random.key(0), x)
  assert count(params) == weights
  logits, codes = jax.eval_shape(module.apply, params, x)
  assert logits.shape == (2,) and codes


@pytest.mark.parametrize(
  'name', [name for name in random_nets.ARCHITECTURES if name != 'resnet20']
)
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


def test_architectures_are_of_any_width_and_have_their_least_image():
  wide = {
    'fully_connected': models.FullyConnected((5, 5)),
    'convolutional': models.Convolutional((5,) * 4),
    'lenet': models.LeNet(5, 20),
    'resnet': models.ResNet(5, 1, pre_activation=True),
    'resnet20': models.ResNet(5, pre_activation=False),
  }
  least = dict(zip(wide, (1, 3, 4, 4, 4), strict=True))
  assert [*random_nets.ARCHITECTURES] == [*wide]
  for name, of in random_nets.ARCHITECTURES.items():
    assert of.module(5) == wide[name]
    assert of.infinite == (None if name == 'resnet20' else name)
    assert of.min_size == least[name]
    x = jnp.ones((of.min_size, of.min_size, 1))
    (logits, _), _ = jax.eval_shape(
      wide[name].init_with_output, jax.random.key(0), x
    )
    assert logits.shape == (2,)


def test_released_medians_follow_the_square_roots():
  """The paper's claim: l2 is constant, l1 grows and linf falls as sqrt n."""
  n = 3 * np.arange(12, 61, 4) ** 2
  of = random_nets.RELEASED_RESNET20
  assert {*of} == {0, *NORMS} and all([*of[p]] == n.tolist() for p in NORMS)
  # Of changed inputs, medians of every second size: they grow as l1 does.
  counts = np.array([median for median, *_ in of[0].values()])
  assert [*of[0]] == n[::2].tolist() and np.all(np.diff(counts) > 0)
  assert np.all(np.diff(np.log(counts)) < np.diff(np.log(n[::2])))
  every = np.array([[of[p][v] for v in n] for p in NORMS])
  assert np.all(every[..., 1] < every[..., 0])
  assert np.all(every[..., 0] < every[..., 2])
  one, two, inf = every[..., 0]
  for values, least, most in (
    (one / np.sqrt(n), 0.18, 0.26),
    (two, 0.49, 0.63),
    (inf * np.sqrt(n), 0.62, 0.83),
  ):
    assert least < values.min() and values.max() < most


# --- Distances -------------------------------------------------------------

WEIGHTS = np.random.default_rng(0).normal(size=(6, 3)).astype(np.float32)


def test_distances_of_a_linear_network_are_exact():
  x = np.random.default_rng(1).uniform(size=(2, 3)).astype(np.float32)
  measure = lambda scale, bounds=None: jax.jit(
    lambda x: random_nets.distances(
      lambda v: scale * v.ravel() @ WEIGHTS,
      x,
      exponents=NORMS,
      bounds=bounds,
      method='deepfool',
    )
  )(x)  # fmt: skip
  found = measure(0.1)
  logits = 0.1 * x.ravel() @ WEIGHTS
  first, second = np.argsort(-logits)[:2]
  assert first != 0
  margin = logits[first] - logits[second]
  slope = 0.1 * (WEIGHTS[:, first] - WEIGHTS[:, second])
  np.testing.assert_allclose(found.margin, margin, rtol=1e-4)
  estimates = [margin / np.linalg.norm(slope, q) for q in (np.inf, 2, 1)]
  np.testing.assert_allclose(found.estimate, estimates, rtol=1e-4)
  gaps = logits[first] - np.delete(logits, first)
  slopes = 0.1 * (WEIGHTS[:, [first]] - np.delete(WEIGHTS, first, 1))
  exact = [
    np.min(gaps / np.linalg.norm(slopes, q, axis=0)) for q in (np.inf, 2, 1)
  ]
  np.testing.assert_allclose(found.distance, exact, rtol=2e-4)
  sizes = [np.linalg.norm(x.ravel(), p) for p in NORMS]
  np.testing.assert_allclose(found.input_norm, sizes, rtol=1e-5)
  assert np.all(found.status == boundary.Status.FOUND)
  assert np.all(found.gradients > 0) and np.all(found.forwards > 0)
  # In a box one pixel alone does not reach it.
  assert measure(0.1, (0.0, 1.0)).distance[0] > exact[0] * 1.01
  flat = measure(0.0)
  assert np.all(np.isinf(flat.estimate)) and np.all(np.isinf(flat.distance))


def test_searches_get_what_was_asked_for(monkeypatch):
  asked = []
  search = boundary.nearest_point

  def nearest_point(logits_fn, x, label, *, norm, **options):
    asked.append(options)
    return search(logits_fn, x, label, norm=norm, **options)

  monkeypatch.setattr(boundary, 'nearest_point', nearest_point)
  for more in ({}, {'max_gradients': 7}):
    random_nets.distances(
      lambda v: v @ WEIGHTS,
      jnp.ones(6),
      exponents=(2.0,),
      bounds=(0.0, 2.0),
      method='linear',
      **more,
    )
    assert asked.pop() == {
      'bounds': (0.0, 2.0),
      'method': 'linear',
      'max_gradients': 50,
      'rtol': 1e-4,
      'with_normal': False,
      **more,
    }


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
    draw, (np.arange(networks),), batch_size=8, vmap_size=1
  )


@pytest.fixture(scope='module')
def dense():
  """400 networks of one image each, by one gradient."""
  return sample(networks=400, bounds=None, method='linear')


def test_estimate_is_margin_over_gradient(dense):
  assert dense.distance.shape == (400, 1, 3)
  np.testing.assert_allclose(dense.distance, dense.estimate, rtol=1e-3)
  module = random_nets.ARCHITECTURES['fully_connected'].module(16)
  for i in range(2):
    keys = jax.random.split(jax.random.fold_in(jax.random.key(0), i))
    x = jax.random.uniform(keys[1], (1, 6, 6, 3))[0]
    params = module.init(keys[0], x)
    difference = lambda v: jnp.diff(module.apply(params, v)[0])[0]  # noqa: B023
    margin, gradient = abs(difference(x)), jax.grad(difference)(x).ravel()
    np.testing.assert_allclose(dense.margin[i, 0], margin, rtol=1e-4)
    want = [margin / np.linalg.norm(gradient, q) for q in (np.inf, 2, 1)]
    np.testing.assert_allclose(dense.estimate[i, 0], want, rtol=1e-4)
    sizes = [np.linalg.norm(x.ravel(), p) for p in NORMS]
    np.testing.assert_allclose(dense.input_norm[i, 0], sizes, rtol=1e-4)


def test_dense_networks_follow_the_half_normal_law(dense):
  # For bias-free ReLU networks s = ||x||_2 / sqrt(n).
  scale = dense.input_norm[:, 0, 1] / np.sqrt(6 * 6 * 3)
  z = dense.distance[:, 0, 1] / scale
  # At width 16 gradients still fluctuate; the median is what is left.
  assert abs(np.median(z) / stats.halfnorm.ppf(0.5) - 1) < 0.2


def test_convolutional_networks_are_measured():
  found = sample('convolutional', networks=4, images=2)
  hit = found.status == boundary.Status.FOUND
  assert hit[..., 1].mean() > 0.5  # l1 is harder, on images this small.
  # Norms of one perturbation are ordered, so are the least ones.
  distance = found.distance[np.all(hit, axis=-1)]
  assert np.all(distance[:, 0] >= 0.99 * distance[:, 2])
  assert np.all(np.isinf(found.distance[~hit]))
