import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from scipy import stats

from dmm_jax import nngp
from dmm_jax._neural_tangents import nt
from dmm_jax._neural_tangents import stax

IMAGE = np.random.default_rng(0).uniform(size=(6, 6, 2))
SQRT_2 = np.sqrt(2)


def test_imports_bring_in_no_tensorflow():
  code = (
    'import sys, dmm_jax; assert "neural_tangents" not in sys.modules\n'
    'assert "tensorflow" not in sys.modules\n'
    'from dmm_jax import nngp, boundary, random_nets, data\n'
    'assert "neural_tangents" in sys.modules\n'
    'assert "tensorflow" not in sys.modules'
  )
  subprocess.run([sys.executable, '-c', code], check=True)


@pytest.mark.parametrize('activation', ['relu', 'erf'])
@pytest.mark.parametrize('depth', [0, 1, 3])
@pytest.mark.parametrize('sigma_w, sigma_b', [(SQRT_2, 0.0), (1.1, 0.4)])
def test_dense_kernel_is_the_recursion(activation, depth, sigma_w, sigma_b):
  xs = np.random.default_rng(1).normal(size=(4, 3, 2, 1)).astype(np.float32)
  _, _, kernel_fn = nngp.fully_connected(
    depth, sigma_w, sigma_b, activation=activation
  )
  want = oracles.dense_kernel(xs, xs[:3], depth, sigma_w, sigma_b, activation)
  got = kernel_fn(xs, xs[:3], 'nngp')
  np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)
  np.testing.assert_allclose(
    kernel_fn(xs, None, 'nngp')[:, :3], want, rtol=1e-5, atol=1e-6
  )


ARCHITECTURES = {
  'fully_connected': (nngp.fully_connected, {'width': 256}),
  'convolutional': (nngp.convolutional, {'depth': 2, 'width': 128}),
  'lenet': (nngp.lenet, {'width': 64, 'dense_width': 128}),
  'resnet': (nngp.resnet, {'depth': 7, 'width': 32}),
}


# LeNet's kernel is held to neural-tangents' besides, below; that of dense
# networks has closed forms.
MONTE_CARLO = (
  pytest.param('fully_connected', marks=pytest.mark.slow),
  'convolutional',
  pytest.param('lenet', marks=pytest.mark.slow),
  pytest.param('resnet', marks=pytest.mark.slow),
)


@pytest.mark.parametrize('name', MONTE_CARLO)
def test_kernel_agrees_with_monte_carlo(name):
  make, options = ARCHITECTURES[name]
  init_fn, apply_fn, kernel_fn = make(sigma_b=0.1, **options)
  xs = jnp.asarray(
    np.random.default_rng(2).uniform(size=(2, 6, 6, 2)), jnp.float32
  )

  def outputs(key):
    _, params = init_fn(key, xs.shape)
    return apply_fn(params, xs)[:, 0]

  keys = jax.random.split(jax.random.key(0), 1500)
  run = oracles.optimized(lambda k: jax.lax.map(outputs, k, batch_size=100))
  draws = np.asarray(run(keys))
  want = kernel_fn(xs, None, 'nngp')
  # A variance from 1500 draws has a standard error of 3.7 %.
  np.testing.assert_allclose(draws.T @ draws / len(draws), want, rtol=0.14)


@pytest.mark.parametrize(
  'activation, sigma_b, shape',
  [
    ('relu', 0.0, (6, 5, 1)),
    pytest.param('relu', 0.3, (4, 8, 2), marks=pytest.mark.slow),
    ('erf', 0.3, (6, 5, 1)),
  ],
)
def test_pooled_kernel_is_neural_tangents(activation, sigma_b, shape):
  kernel_fn = nngp.lenet(1.3, sigma_b, activation=activation)[2]
  xs = np.random.default_rng(0).uniform(size=(3, *shape))
  xs[0, :4] = 0.0  # Whole patches of zeros, as images have.
  with jax.enable_x64(True):
    ours = lambda a, b: kernel_fn(a, b, 'nngp')
    theirs = lambda a, b: kernel_fn(a, b, ('nngp',)).nngp
    np.testing.assert_allclose(
      ours(xs, xs[:2]), jax.jit(theirs)(xs, xs[:2]), rtol=1e-10
    )
    x = jnp.asarray(xs[1])
    v = jnp.asarray(np.random.default_rng(1).normal(size=shape))

    def product(kernel):
      k = lambda a, b: kernel(a[None], b[None])[0, 0]
      along = lambda a: jax.jvp(lambda b: k(a, b), (x,), (v,))[1]
      return jax.jit(jax.grad(along))(x)

    np.testing.assert_allclose(
      product(ours), product(theirs), rtol=1e-6, atol=1e-9
    )


def test_shim_serves_pooling_and_monte_carlo_kernels():
  init_fn, apply_fn, kernel_fn = stax.serial(
    stax.Conv(64, (3, 3)), stax.Erf(), stax.GlobalAvgPool(), stax.Dense(1)
  )
  xs = jax.random.normal(jax.random.key(0), (2, 5, 5, 1))
  sampled = nt.monte_carlo_kernel_fn(init_fn, apply_fn, jax.random.key(1), 1000)
  np.testing.assert_allclose(
    sampled(xs, None, 'nngp'), kernel_fn(xs, None, 'nngp'), rtol=0.15, atol=2e-3
  )


@pytest.mark.parametrize('depth', [1, 2, 4])
@pytest.mark.parametrize('sigma_w', [SQRT_2, 1.2])
@pytest.mark.parametrize('sigma_b', [0.0, 0.3])
def test_gradient_covariance_of_relu_networks(depth, sigma_w, sigma_b):
  kernel_fn = nngp.fully_connected(depth, sigma_w, sigma_b)[2]
  c = nngp.gradient_covariance(kernel_fn, IMAGE)
  want = sigma_w**2 * (sigma_w**2 / 2) ** depth
  np.testing.assert_allclose(np.trace(c), want, rtol=1e-4)
  np.testing.assert_allclose(np.diag(c), want / len(c), rtol=1e-4)
  assert np.max(np.abs(c - np.diag(np.diag(c)))) < 1e-4 * want / len(c)


def test_gradient_covariance_agrees_with_finite_differences():
  kernel_fn = nngp.fully_connected(2, 1.3, 0.2, activation='erf')[2]
  x = IMAGE.ravel()[:5]
  c = nngp.gradient_covariance(kernel_fn, x)
  k = lambda a, b: oracles.dense_kernel(a[None], b[None], 2, 1.3, 0.2, 'erf')[
    0, 0
  ]
  h = 1e-4
  for i, j in ((0, 0), (1, 3), (4, 2)):
    e, f = h * np.eye(5)[i], h * np.eye(5)[j]
    want = k(x + e, x + f) - k(x + e, x - f) - k(x - e, x + f) + k(x - e, x - f)
    np.testing.assert_allclose(c[i, j], want / (4 * h * h), rtol=1e-4)


@pytest.mark.parametrize('make', [nngp.convolutional, nngp.resnet, nngp.lenet])
def test_euler_identity_of_homogeneous_networks(make):
  """f(cx) = c f(x) makes x^T C x = K(x, x)."""
  kernel_fn = make(7)[2] if make is nngp.resnet else make()[2]
  x = np.random.default_rng(3).uniform(size=(8, 8, 1))
  c = nngp.gradient_covariance(kernel_fn, x)
  np.testing.assert_allclose(
    x.ravel() @ c @ x.ravel(), nngp.output_variance(kernel_fn, x), rtol=1e-9
  )
  assert np.linalg.eigvalsh(c)[0] > -1e-12


@pytest.mark.parametrize('name', MONTE_CARLO)
def test_gradient_covariance_agrees_with_monte_carlo(name):
  make, options = ARCHITECTURES[name]
  init_fn, apply_fn, kernel_fn = make(**options)
  x = jnp.asarray(IMAGE, jnp.float32)

  def sizes(key):
    _, params = init_fn(key, (1, *x.shape))
    value, gradient = jax.value_and_grad(
      lambda v: apply_fn(params, v[None])[0, 0]
    )(x)
    return value**2, jnp.sum(gradient**2)

  keys = jax.random.split(jax.random.key(0), 1000)
  run = oracles.optimized(lambda k: jax.lax.map(sizes, k, batch_size=50))
  value, gradient = run(keys)
  want = nngp.output_variance(kernel_fn, IMAGE)
  np.testing.assert_allclose(np.mean(value), want, rtol=0.15)
  want = np.trace(nngp.gradient_covariance(kernel_fn, IMAGE))
  np.testing.assert_allclose(np.mean(gradient), want, rtol=0.15)


def test_gradient_variance_by_probes():
  plain = nngp.convolutional(2)[2]
  exact = np.diag(nngp.gradient_covariance(plain, IMAGE)).reshape(IMAGE.shape)
  one = nngp.gradient_variance(plain, IMAGE, num_probes=1)
  np.testing.assert_allclose(one, exact, rtol=1e-6)
  pooled, small = nngp.lenet()[2], IMAGE[:4, :4]
  c = nngp.gradient_covariance(pooled, small)
  many = nngp.gradient_variance(pooled, small, num_probes=600)
  error = np.sqrt((np.sum(c**2, 1) - np.diag(c) ** 2) / 600)
  assert np.all(np.abs(many.ravel() - np.diag(c)) < 5 * error)


@pytest.mark.parametrize('norm', [1, 1.5, 2, 3, np.inf])
def test_distance_scale_of_dense_networks_has_closed_form(norm):
  x = np.random.default_rng(4).uniform(size=700)
  scale = nngp.distance_scale(nngp.fully_connected()[2], x, norm)
  g = np.random.default_rng(5).normal(size=(4000, x.size))
  q = {1: np.inf, np.inf: 1}.get(norm) or norm / (norm - 1)
  want = np.linalg.norm(x) / np.mean(np.linalg.norm(g, q, axis=1))
  np.testing.assert_allclose(scale, want, rtol=0.02)
  if norm == 2:
    np.testing.assert_allclose(
      scale, np.linalg.norm(x) / np.sqrt(x.size), rtol=1e-6
    )


def test_distance_scale_in_a_box():
  x = np.full(300, 0.5)
  kernel_fn = nngp.fully_connected()[2]
  # A box too far away to matter, and one so near that it must.
  for norm in (2, np.inf):
    np.testing.assert_allclose(
      nngp.distance_scale(kernel_fn, x, norm, bounds=(-9.0, 9.0)),
      nngp.distance_scale(kernel_fn, x, norm),
      rtol=0.02,
    )
  free = nngp.distance_scale(kernel_fn, x, 1)
  boxed = nngp.distance_scale(kernel_fn, x, 1, bounds=(0.0, 1.0))
  assert free * 1.1 < boxed < free * 2
  # The greedy rule by hand: whole pixels in order of |gradient|.
  rng = np.random.default_rng(0)
  distances = []
  for _ in range(4000):
    gap = abs(rng.normal()) * np.linalg.norm(x)
    g = np.sort(np.abs(rng.normal(size=x.size)))[::-1]
    filled = np.concatenate([[0], np.cumsum(g * 0.5)])
    k = np.searchsorted(filled, gap) - 1
    distances.append(0.5 * k + (gap - filled[k]) / g[k])
  want = np.median(distances) / stats.halfnorm.ppf(0.5)
  np.testing.assert_allclose(boxed, want, rtol=0.05)


def test_law_of_several_inputs_is_their_mixture():
  scales = np.array([1.0, 2.0, 4.0])
  median = nngp.distance_quantile(scales, 0.5)
  draws = np.abs(np.random.default_rng(0).normal(size=(200000, 3))) * scales
  np.testing.assert_allclose(median, np.median(draws), rtol=0.01)
  np.testing.assert_allclose(nngp.distance_cdf(scales, median), 0.5, rtol=1e-6)
  assert nngp.distance_quantile([3.0], 0.5) == pytest.approx(3 * 0.67449, 1e-4)


def test_flip_bound_formula_and_limits():
  x = np.random.default_rng(6).uniform(size=900)
  kernel_fn = nngp.fully_connected()[2]
  size = np.linalg.norm(x)
  t = np.array([0.0, 0.1, 0.5])
  want = np.sqrt(2 / np.pi) * t / (1 - t / 30)
  bound = nngp.flip_bound(kernel_fn, x, t * size / 30, 2)
  np.testing.assert_allclose(bound, want, rtol=1e-3)
  # A cube's corners are sqrt(n) times as far as its sides, E|g|_1 is 718.
  want = 2 / np.pi * t / (1 - t / 30)
  bound = nngp.flip_bound(kernel_fn, x, t * size / 900, np.inf)
  np.testing.assert_allclose(bound, want, rtol=1e-3)
  radii = np.array([0.0, 1e-3, 1e-2, 0.1, 1.0, 100.0])
  for norm in (1, 1.5, 2, 4, np.inf):
    bound = nngp.flip_bound(kernel_fn, x, radii, norm)
    assert np.all(np.diff(bound) >= 0) and bound[0] == 0 and bound[-1] == 1
  assert nngp.flip_bound(kernel_fn, x, 100.0, 2).shape == ()


@pytest.mark.parametrize(
  'make, activation',
  [
    (nngp.fully_connected, 'relu'),
    (nngp.fully_connected, 'erf'),
    (nngp.convolutional, 'relu'),
    (nngp.lenet, 'erf'),
    (nngp.lenet, 'relu'),
    pytest.param(nngp.resnet, 'relu', marks=pytest.mark.slow),
  ],
)
def test_gain_bounds_every_increment(make, activation):
  """E(f(x) - f(y))^2 <= M^2 ||x - y||^2 / n, far apart and close together."""
  kernel_fn = make(activation=activation)[2]
  rng = np.random.default_rng(7)
  gain = kernel_fn.gain
  if gain is None:
    variance = nngp.gradient_variance(kernel_fn, IMAGE, num_probes=4)
    gain = IMAGE.size * variance.max()
  for step in (1e-2, 0.3, 3.0):
    for flat in (False, True):  # A constant shift is the worst of pooling.
      other = IMAGE + step * (1 if flat else rng.normal(size=IMAGE.shape))
      pair = np.stack([IMAGE, other]).astype(np.float32)
      k = np.asarray(kernel_fn(pair, None, 'nngp'), float)
      increment = k[0, 0] + k[1, 1] - 2 * k[0, 1]
      limit = gain * np.sum((IMAGE - other) ** 2) / IMAGE.size
      assert increment <= limit * (1 + 1e-3) + 1e-6


def test_gradient_draws_have_the_joint_covariance():
  kernel_fn = nngp.fully_connected(2, 1.3, 0.2)[2]
  x = IMAGE.ravel()[:4]
  values, gradients = nngp.gradient_draws(
    jax.random.key(0), kernel_fn, x, 40000
  )
  np.testing.assert_allclose(
    np.var(values), nngp.output_variance(kernel_fn, x), rtol=0.03
  )
  c = nngp.gradient_covariance(kernel_fn, x)
  np.testing.assert_allclose(np.cov(gradients.T), c, atol=0.03 * c.max())
  # cov(f, grad f) is half the gradient of K(x, x).
  h = 1e-5
  k = lambda v: oracles.dense_kernel(v[None], v[None], 2, 1.3, 0.2)[0, 0]
  want = [(k(x + h * e) - k(x - h * e)) / (4 * h) for e in np.eye(4)]
  got = np.mean(values[:, None] * gradients, axis=0)
  np.testing.assert_allclose(got, want, atol=0.03 * np.max(want))


def test_ray_draws_have_the_kernel_covariance():
  kernel_fn = nngp.fully_connected()[2]
  x, direction = IMAGE.ravel()[:6], np.eye(6)[0]
  reach = np.array([0.0, 0.1, 1.0])
  draws = nngp.ray_draws(
    jax.random.key(0), kernel_fn, x, direction, reach, 40000
  )
  points = x + reach[:, None] * direction
  want = oracles.dense_kernel(points, points, 2, SQRT_2, 0.0)
  np.testing.assert_allclose(
    draws.T @ draws / len(draws), want, atol=0.03 * want.max()
  )


@pytest.mark.parametrize('norm', [1, 2, np.inf])
def test_linear_functions_cross_where_they_are_linear(norm):
  product = lambda x, y, get: x @ (x if y is None else y).T
  linear, straight = nngp.distance_draws(
    jax.random.key(0), product, IMAGE.ravel()[:5], norm, 50, num_points=6
  )
  np.testing.assert_allclose(straight, linear, rtol=1e-5)
  assert len(np.unique(linear)) == 50


@pytest.mark.parametrize('norm', [2, np.inf])
def test_infinite_networks_follow_the_law_and_wide_finite_ones(norm):
  from dmm_jax import models
  from dmm_jax import parallel
  from dmm_jax import random_nets

  x = np.random.default_rng(8).uniform(size=200).astype(np.float32)
  kernel_fn = nngp.fully_connected()[2]
  linear, straight = nngp.distance_draws(
    jax.random.key(0), kernel_fn, x, norm, 2000
  )
  scale = nngp.distance_scale(kernel_fn, x, norm)
  assert stats.kstest(linear / scale, stats.halfnorm.cdf).pvalue > 1e-3
  sample = random_nets.sampler(
    models.FullyConnected((200, 200)),
    exponents=(norm,),
    bounds=None,
    method='ray',
  )
  found = parallel.map_examples(
    lambda i: sample(jax.random.fold_in(jax.random.key(1), i), x[None]),
    (np.arange(800),),
    vmap_size=1,
    batch_size=800,
  )
  wide = found.distance.ravel()
  assert stats.ks_2samp(found.estimate.ravel(), linear).pvalue > 1e-3
  near = lambda d: np.minimum(d, 4 * scale)  # Both give up, at other reaches.
  assert stats.ks_2samp(near(wide), near(straight)).pvalue > 1e-3


def test_bad_arguments_are_named():
  with pytest.raises(ValueError, match='relu, erf'):
    nngp.fully_connected(activation='tanh')
  with pytest.raises(ValueError, match='7, 13, 19'):
    nngp.resnet(8)


OF_INPUT = {
  'output_variance': nngp.output_variance,
  'gradient_covariance': nngp.gradient_covariance,
  'gradient_variance': lambda k, x: nngp.gradient_variance(k, x, num_probes=1),
  'distance_scale': lambda k, x: nngp.distance_scale(k, x, 2),
  'flip_bound': lambda k, x: nngp.flip_bound(k, x, 0.1, 2),
  'flip_bound of a variance': lambda k, x: nngp.flip_bound(
    k, x, 0.1, 2, gain=1.0, variance=1.0
  ),
  'scale_of_gradient': lambda k, x: nngp.scale_of_gradient(
    1.0, np.ones(6), x, 2
  ),
  'gradient_draws': lambda k, x: nngp.gradient_draws(
    jax.random.key(0), k, x, 2
  ),
  'ray_draws': lambda k, x: nngp.ray_draws(
    jax.random.key(0), k, x, np.ones(6), [0.1], 2
  ),
  'direction of ray_draws': lambda k, x: nngp.ray_draws(
    jax.random.key(0), k, np.ones(6), x, [0.1], 2
  ),
  'distance_draws': lambda k, x: nngp.distance_draws(
    jax.random.key(0), k, x, 2, 2, num_points=3
  ),
}


@pytest.mark.parametrize('name', OF_INPUT)
def test_inputs_that_are_not_finite_are_refused(name):
  kernel_fn = nngp.fully_connected(1)[2]
  for value, count in ((np.nan, 1), (np.inf, 2), (-np.inf, 1)):
    x = np.arange(6.0)
    x[:count] = value
    words = rf'must be finite numbers, .* of which {count} of 6 are NaN or inf'
    with pytest.raises(ValueError, match=words):
      OF_INPUT[name](kernel_fn, x)
  with pytest.raises(ValueError, match=r'at least one, got .* shape \(0,\)'):
    OF_INPUT[name](kernel_fn, np.zeros(0))


def test_norms_radii_and_bounds_are_checked():
  kernel_fn, x = nngp.fully_connected(1)[2], np.full(6, 0.5)
  for norm in (0, 0.5, -1, np.nan):
    for call in (
      lambda p: nngp.distance_scale(kernel_fn, x, p),
      lambda p: nngp.scale_of_gradient(1.0, np.ones(6), x, p),
      lambda p: nngp.flip_bound(kernel_fn, x, 0.1, p),
      lambda p: nngp.distance_draws(jax.random.key(0), kernel_fn, x, p, 2),
    ):
      with pytest.raises(ValueError, match='norm must be a number p >= 1'):
        call(norm)
  for radius in (-0.1, np.nan, [0.1, np.nan]):
    with pytest.raises(ValueError, match='radius must be 0 or larger'):
      nngp.flip_bound(kernel_fn, x, radius, 2)
    with pytest.raises(ValueError, match='radius must be 0 or larger'):
      nngp.distance_cdf([1.0], radius)
  for name in ('gain', 'variance'):
    for value in (-1.0, np.nan):
      with pytest.raises(ValueError, match=f'{name} must be finite and not'):
        nngp.flip_bound(kernel_fn, x, 0.1, 2, **{name: value})
  for bounds in ((0.6, 1.0), (0.0, 0.4), (1.0, 0.0), (0.0, np.nan)):
    with pytest.raises(ValueError, match='x must lie within bounds'):
      nngp.distance_scale(kernel_fn, x, 1, bounds=bounds)
  with pytest.raises(ValueError, match='norm must be 1, 2 or inf'):
    nngp.distance_scale(kernel_fn, x, 3, bounds=(0.0, 1.0))
  # Rounding is no reason.
  near = nngp.distance_scale(kernel_fn, x, 1, bounds=(0.5 + 1e-8, 1.0))
  assert near == nngp.distance_scale(kernel_fn, x, 1, bounds=(0.5, 1.0))


@pytest.mark.parametrize(
  'make', [nngp.fully_connected, nngp.convolutional, nngp.resnet]
)
def test_a_blank_image_lies_on_the_boundary(make):
  """Without biases its output is 0, whatever the weights are."""
  kernel_fn = make(7)[2] if make is nngp.resnet else make()[2]
  blank, radii = np.zeros((4, 4, 1)), np.array([0.0, 1e-6, 1.0])
  for norm in (1, 2, np.inf):
    assert nngp.distance_scale(kernel_fn, blank, norm) == 0
    bound = nngp.flip_bound(kernel_fn, blank, radii, norm)
    np.testing.assert_array_equal(bound, 1)
  assert nngp.distance_scale(kernel_fn, blank, 1, bounds=(0.0, 1.0)) == 0
  assert nngp.flip_bound(kernel_fn, blank, 0.1, 2).shape == ()
  for found in nngp.distance_draws(jax.random.key(0), kernel_fn, blank, 2, 3):
    np.testing.assert_array_equal(found, 0)


def test_a_blank_image_with_biases_is_like_others():
  kernel_fn, blank = nngp.fully_connected(sigma_b=0.5)[2], np.zeros(9)
  assert 0 < nngp.distance_scale(kernel_fn, blank, 2) < np.inf
  assert nngp.flip_bound(kernel_fn, blank, 0.0, 2) == 0


@pytest.mark.parametrize('num_classes', [2, 3])
def test_the_law_with_scales_of_zero(num_classes):
  scales = [0.0, 1.0]
  cdf = nngp.distance_cdf(scales, [0.0, 0.5], num_classes)
  alone = nngp.distance_cdf([1.0], [0.0, 0.5], num_classes)
  np.testing.assert_allclose(cdf, (1 + alone) / 2, atol=1e-6)
  assert nngp.distance_quantile(scales, 0.3, num_classes) == 0
  median = nngp.distance_quantile([1.0], 0.5, num_classes)
  np.testing.assert_allclose(
    nngp.distance_quantile(scales, 0.75, num_classes), median, rtol=1e-4
  )
  assert nngp.distance_slope(scales, num_classes) == 0


def test_kernels_that_capture_an_array_are_those_of_the_call():
  held, x = {}, np.arange(1.0, 6.0)
  kernel_fn = lambda a, b, get: (
    (a * held['w'][None]) @ (a if b is None else b).T
  )
  key = jax.random.key(0)
  for seed in (1, 2):
    held['w'] = np.random.default_rng(seed).uniform(1, 2, 5)
    variance = np.sum(held['w'] * x**2)
    np.testing.assert_allclose(nngp.output_variance(kernel_fn, x), variance)
    np.testing.assert_allclose(
      nngp.gradient_covariance(kernel_fn, x), np.diag(held['w']), atol=1e-12
    )
    np.testing.assert_allclose(
      nngp.gradient_variance(kernel_fn, x, num_probes=2), held['w']
    )
    np.testing.assert_allclose(
      nngp.distance_scale(kernel_fn, x, 2),
      np.sqrt(variance / held['w'].sum()),
    )
    linear, straight = nngp.distance_draws(
      key, kernel_fn, x, 2, 20, num_points=4
    )
    np.testing.assert_allclose(straight, linear, rtol=1e-5)


def test_equal_kernels_compile_once():
  weights = [np.random.default_rng(s).uniform(1, 2, 5) for s in range(2)]
  x = np.arange(5.0)

  def run(kernel_fn):
    nngp.distance_scale(kernel_fn, x, 2)
    nngp.distance_draws(jax.random.key(0), kernel_fn, x, 2, 3, num_points=3)

  def linear(w):
    return lambda a, b, get: (a * w[None]) @ (a if b is None else b).T

  own = nngp.fully_connected(1)[2]
  for first, again in ((own, own), (linear(weights[0]), linear(weights[1]))):
    run(first)
    with oracles.compilations() as compiled:
      run(again)
    assert not compiled
