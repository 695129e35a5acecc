"""Gradients and draws of infinitely wide networks, and what is refused."""

import jax
import numpy as np
import oracles
import pytest
from scipy import linalg
from scipy import stats

from dmm_jax import nngp
from dmm_jax.nngp import checks
from dmm_jax.nngp import draws as draws_lib
from dmm_jax.nngp import gradients as gradients_lib

SQRT_2 = np.sqrt(2)
KEY, OTHER = jax.random.key(0), jax.random.key(1)
# A covariance of four gradients that is not diagonal; its probes differ.
MIXED = np.array(
  [[0.9, 0.3, 0, -0.2], [0.3, 0.4, 0.1, 0], [0, 0.1, 2, 0.5], [-0.2, 0, 0.5, 1]]
)
X4 = np.array([[0.3, -1.2], [0.7, 2.0]])


def linear(matrix):
  """The kernel x^T M y of linear functions, whose gradients have covariance M.

  `a` and `b` are inputs of any shape; without `b` it is that of all pairs.
  """

  def kernel_fn(a, b, get):
    assert get == 'nngp'
    b = a if b is None else b
    return a.reshape(len(a), -1) @ matrix @ b.reshape(len(b), -1).T

  return kernel_fn


def features(*functions):
  """The kernel of sums of functions of one number, weighted by normals."""

  def kernel_fn(a, b, get):
    b = a if b is None else b
    return sum(f(a) @ f(b).T for f in functions)

  return kernel_fn


def check_second_moments(draws, covariance):
  """Within 4.5 standard errors, those of products of normals, and normal."""
  variances = np.diag(covariance)
  error = np.outer(variances, variances) + covariance**2
  gap = draws.T @ draws / len(draws) - covariance
  assert np.all(np.abs(gap) < 4.5 * np.sqrt(error / len(draws)) + 1e-9)
  for column, variance in zip(draws.T, variances, strict=True):
    law = stats.norm(scale=np.sqrt(variance))
    assert stats.kstest(column, law.cdf).pvalue > 1e-4


# Gradients.


def test_covariances_agree_with_differences_of_the_recursion():
  kernel_fn = nngp.fully_connected(2, 1.3, 0.2, activation='erf')[2]
  x = np.random.default_rng(0).uniform(size=(1, 3))
  k = lambda a, b: oracles.dense_kernel(
    x + a.reshape(1, 3), x + b.reshape(1, 3), 2, 1.3, 0.2, 'erf'
  ).item()
  h, zero = 1e-4, np.zeros(3)
  steps = h * np.eye(3)
  want = np.empty((4, 4))
  want[0, 0] = k(zero, zero)
  want[0, 1:] = [(k(zero, e) - k(zero, -e)) / (2 * h) for e in steps]
  want[1:, 0] = want[0, 1:]
  want[1:, 1:] = [
    [(k(e, f) - k(e, -f) - k(-e, f) + k(-e, -f)) / (4 * h * h) for f in steps]
    for e in steps
  ]
  c = nngp.gradient_covariance(kernel_fn, x)
  np.testing.assert_allclose(c, want[1:, 1:], rtol=1e-5, atol=1e-7)
  np.testing.assert_array_equal(c, c.T)
  variance = nngp.output_variance(kernel_fn, x)
  np.testing.assert_allclose(variance, want[0, 0], rtol=1e-12)
  joint = gradients_lib.double_precision(draws_lib._joint_covariance)
  found = joint(kernel_fn, jax.numpy.asarray(x))
  np.testing.assert_allclose(found, want, rtol=1e-5, atol=1e-7)
  np.testing.assert_array_equal(
    nngp.gradient_variance(kernel_fn, x)[0], np.diag(c)
  )


@pytest.mark.parametrize(
  'depth, sigma_w, sigma_b', [(1, SQRT_2, 0.3), (3, 1.2, 0)]
)
def test_gradient_covariance_of_relu_networks(depth, sigma_w, sigma_b):
  """A multiple of the identity, the same everywhere."""
  kernel_fn = nngp.fully_connected(depth, sigma_w, sigma_b)[2]
  for seed in (0, 1):
    x = np.random.default_rng(seed).normal(size=(3, 2))
    c = nngp.gradient_covariance(kernel_fn, x)
    want = sigma_w**2 * (sigma_w**2 / 2) ** depth
    np.testing.assert_allclose(c, want / 6 * np.eye(6), rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize(
  'make',
  [
    lambda: nngp.convolutional(1),
    pytest.param(nngp.lenet, marks=pytest.mark.slow),
    pytest.param(lambda: nngp.resnet(7), marks=pytest.mark.slow),
  ],
)
def test_euler_identity_of_homogeneous_networks(make):
  """f(cx) = c f(x) makes x^T C x = K(x, x)."""
  kernel_fn = make()[2]
  x = np.random.default_rng(3).uniform(size=(4, 5, 1))
  c = nngp.gradient_covariance(kernel_fn, x)
  np.testing.assert_allclose(
    x.ravel() @ c @ x.ravel(), nngp.output_variance(kernel_fn, x), rtol=1e-9
  )
  assert np.linalg.eigvalsh(c)[0] > -1e-12


def test_all_is_in_double_precision():
  x, kernel_fn = np.array([1.0, 1e-5]), linear(np.eye(2))
  variance = nngp.output_variance(kernel_fn, x)
  np.testing.assert_allclose(variance - 1, 1e-10, rtol=1e-5)
  for call in (nngp.gradient_covariance, nngp.gradient_variance):
    found = call(kernel_fn, x)
    assert type(found) is np.ndarray and found.dtype == np.float64
  assert not jax.config.jax_enable_x64


def test_gradient_variance_by_probes(monkeypatch):
  kernel_fn = linear(MIXED)
  exact = np.diag(MIXED).reshape(2, 2)
  found = nngp.gradient_variance(kernel_fn, X4)
  np.testing.assert_allclose(found, exact, rtol=1e-12)
  found[0] = 0  # It is the caller's own.
  estimate = lambda **o: nngp.gradient_variance(kernel_fn, X4, **o)
  many = estimate(num_probes=400)
  error = np.sqrt((np.sum(MIXED**2, 1) - np.diag(MIXED) ** 2) / 400)
  assert np.all(np.abs(many - exact).ravel() < 4.5 * error)
  assert np.all(many != exact)
  np.testing.assert_array_equal(many, estimate(num_probes=400, seed=0))
  assert np.all(many != estimate(num_probes=400, seed=1))
  # One probe: each entry of C z times its sign, and none below zero.
  signs = np.array(np.meshgrid(*[[-1, 1]] * 4)).reshape(4, -1)
  values = np.maximum(signs * (MIXED @ signs), 0.0).round(9)
  possible = {tuple(v) for v in values.T}
  seen = set()
  for seed in range(12):
    one = estimate(num_probes=1, seed=seed).ravel()
    seen.add(tuple(one.round(9) + 0.0))
  assert seen <= possible and len(seen) > 2
  np.testing.assert_allclose(
    nngp.gradient_variance(linear(np.diag([1, 2, 3, 4.0])), X4, num_probes=1),
    [[1, 2], [3, 4]],
  )
  small = np.array([[0.01, 0.05], [0.05, 1.0]])
  lowest = [
    nngp.gradient_variance(linear(small), X4[0], num_probes=1, seed=s).min()
    for s in range(8)
  ]
  assert np.min(lowest) == 0 and np.max(lowest) == pytest.approx(0.06)
  # Exact up to a size, by 32 probes beyond.
  monkeypatch.setattr(gradients_lib, 'EXACT_SIZE', 4)
  np.testing.assert_allclose(estimate(), exact, rtol=1e-12)
  monkeypatch.setattr(gradients_lib, 'EXACT_SIZE', 3)
  np.testing.assert_array_equal(estimate(), estimate(num_probes=32))


def test_square_roots_are_symmetric_and_real():
  root = gradients_lib.square_root(MIXED)
  np.testing.assert_allclose(
    root, linalg.sqrtm(MIXED).real, rtol=1e-9, atol=1e-12
  )
  rough = np.diag([4.0, -1e-17, 9.0])
  np.testing.assert_array_equal(
    gradients_lib.square_root(rough), np.diag([2.0, 0.0, 3.0])
  )


# Draws.


def test_gradient_draws_have_the_joint_covariance():
  kernel_fn = linear(MIXED)
  values, slopes = nngp.gradient_draws(KEY, kernel_fn, X4, 20000)
  assert values.shape == (20000,) and slopes.shape == (20000, 2, 2)
  # A linear function is its gradient times the input.
  np.testing.assert_allclose(
    values, np.sum(slopes * X4, axis=(1, 2)), atol=1e-6
  )
  check_second_moments(slopes.reshape(-1, 4), MIXED)
  again, _ = nngp.gradient_draws(KEY, kernel_fn, X4, 20000)
  np.testing.assert_array_equal(again, values)
  other, _ = nngp.gradient_draws(OTHER, kernel_fn, X4, 20000)
  assert abs(stats.pearsonr(values, other)[0]) < 4.5 / np.sqrt(20000)
  # Draws are independent of each other.
  assert abs(stats.pearsonr(values[1:], values[:-1])[0]) < 4.5 / np.sqrt(20000)


def test_ray_draws_have_the_kernel_covariance():
  kernel_fn = linear(MIXED)
  direction = np.array([[2.0, 0.5], [-1.0, 0.3]])
  reach = np.array([0.5, 0.0, 2.0])
  call = lambda key: nngp.ray_draws(key, kernel_fn, X4, direction, reach, 20000)
  draws = call(KEY)
  assert draws.shape == (20000, 3)
  # Along a ray linear functions are lines.
  np.testing.assert_allclose(
    draws[:, 0], 0.75 * draws[:, 1] + 0.25 * draws[:, 2], atol=1e-6
  )
  points = X4.ravel() + reach[:, None] * direction.ravel()
  check_second_moments(draws, points @ MIXED @ points.T)
  np.testing.assert_array_equal(call(KEY), draws)
  correlation, _ = stats.pearsonr(draws[:, 0], call(OTHER)[:, 0])
  assert abs(correlation) < 4.5 / np.sqrt(20000)


@pytest.mark.parametrize('norm', [1, 1.5, 2, np.inf])
def test_linear_functions_cross_where_they_are_linear(norm):
  kernel_fn = linear(MIXED)
  call = lambda **o: nngp.distance_draws(
    KEY, kernel_fn, X4, norm, 4000, num_points=5, **o
  )
  near, straight = call(reach=2.0)
  np.testing.assert_allclose(straight, near, rtol=1e-6, atol=1e-6)
  # The distance |g . x| / ||g||_q of linear functions that numpy draws.
  q = {1: np.inf, np.inf: 1}.get(norm) or norm / (norm - 1)
  root = np.linalg.cholesky(MIXED)
  g = np.random.default_rng(0).normal(size=(20000, 4)) @ root.T
  law = np.abs(g @ X4.ravel()) / np.linalg.norm(g, q, axis=1)
  assert stats.ks_2samp(near, law).pvalue > 1e-3
  again, beyond = call(reach=0.9)
  np.testing.assert_array_equal(again, near)
  assert np.all(np.isinf(beyond))


def test_draws_meet_the_first_of_the_points_beyond():
  """f(x0 + t) = a (1 + 3 t^2) + 2 b t, with normal a and b."""
  x0 = 0.4
  kernel_fn = features(lambda v: 1 + 3 * (v - x0) ** 2, lambda v: 2 * (v - x0))
  near, straight = nngp.distance_draws(
    KEY, kernel_fn, np.array([x0]), 2, 4000, reach=3.0, num_points=12
  )
  # |a / 2 b|, where a / b has Cauchy's law.
  assert stats.kstest(2 * near, stats.halfcauchy.cdf).pvalue > 1e-3
  # In units of the linear estimate, f / a is 1 - u + 3 (near u)^2.
  u = np.linspace(0, 3, 13)
  f = 1 - u + 3 * near[:, None] ** 2 * u**2
  want = np.full(4000, np.inf)
  for row in np.flatnonzero(f.min(1) < 0):
    i = np.flatnonzero(f[row] < 0)[0]
    want[row] = np.interp(0, [f[row, i], f[row, i - 1]], [u[i], u[i - 1]])
  sure = np.abs(f).min(1) > 1e-6
  np.testing.assert_allclose(straight[sure], (want * near)[sure], rtol=1e-5)
  assert np.sum(sure) > 3990 and 0.1 < np.mean(np.isinf(straight)) < 0.9


def test_what_draws_do_not_know_of_a_ray_is_drawn_independently():
  """f(t) = a + b t + 2 c t^2: given f and its slope, c is as it was."""
  kernel_fn = features(lambda v: v**0, lambda v: v, lambda v: 2 * v**2)
  call = lambda key, **o: nngp.distance_draws(
    key, kernel_fn, np.zeros(1), np.inf, 6000, **o
  )
  # As many points as numbers are known: equal keys would make them equal.
  near, straight = call(KEY, reach=2.0, num_points=2)
  a, b, c = np.random.default_rng(1).normal(size=(3, 200000))
  length = np.abs(a / b)
  f = np.abs(a) * np.array([1 + 0 * a, 0 * a, -1 + 0 * a])
  f[1:] += 2 * c * (np.array([[1.0], [2.0]]) * length) ** 2
  first = np.where(f[1] < 0, f[0] / (f[0] - f[1]), np.inf)
  second = np.where(f[2] < 0, 1 + f[1] / (f[1] - f[2]), np.inf)
  want = np.where(f[1] < 0, first, second)
  ratio = straight / near
  for r in (0.3, 0.6, 0.9, 1.1, 1.4, 1.8, 2.0):
    share = np.mean(want <= r)
    error = np.sqrt(share * (1 - share) * (1 / 6000 + 1 / 200000))
    assert abs(np.mean(ratio <= r) - share) < 4 * error
  # Together with the linear estimate too: curvature counts far away.
  for part, own in ((near > 1, length > 1), (near < 0.3, length < 0.3)):
    share = np.mean(want[own] <= 1.2)
    error = np.sqrt(share * (1 - share) / np.sum(part))
    assert abs(np.mean(ratio[part] <= 1.2) - share) < 4 * error
  again = call(KEY, reach=2.0, num_points=2)
  np.testing.assert_array_equal([near, straight], again)
  other, _ = call(OTHER, reach=2.0, num_points=2)
  assert abs(stats.spearmanr(near, other)[0]) < 4.5 / np.sqrt(6000)


def test_draws_walk_64_points_up_to_four_times_the_estimate_by_default():
  kernel_fn = features(lambda v: v**0, lambda v: v, lambda v: v**2 / 4)
  call = lambda **o: nngp.distance_draws(
    KEY, kernel_fn, np.zeros(1), 1, 80, **o
  )
  near, straight = call()
  _, again = call(reach=4.0, num_points=64)
  np.testing.assert_array_equal(straight, again)
  assert 1 < np.max((straight / near)[np.isfinite(straight)]) <= 4


def test_infinite_networks_follow_the_law_below_the_bound():
  """guarantees.md: |N(0, 1)| s to first order; flip_bound at every n."""
  x = np.random.default_rng(8).uniform(size=60)
  kernel_fn = nngp.fully_connected(1)[2]
  linear_estimate, straight = nngp.distance_draws(
    KEY, kernel_fn, x, np.inf, 1500, num_points=16
  )
  scale = nngp.distance_scale(kernel_fn, x, np.inf)
  for found in (linear_estimate, straight):
    assert stats.kstest(found / scale, stats.halfnorm.cdf).statistic < 0.06
  for radius in np.array([0.05, 0.1, 0.3, 1.0]) * scale:
    share = np.mean(straight <= radius)
    error = np.sqrt(share * (1 - share) / 1500)
    bound = nngp.flip_bound(kernel_fn, x, radius, np.inf)
    assert share - 4 * error <= bound <= min(1.0, 4 * share + 0.1)


@pytest.mark.slow
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


def test_blank_inputs_lie_on_the_boundary_of_networks_without_biases():
  kernel_fn, blank = linear(MIXED), np.zeros((2, 2))
  for norm in (1, 2, np.inf):
    assert nngp.distance_scale(kernel_fn, blank, norm) == 0
    bound = nngp.flip_bound(kernel_fn, blank, np.array([0.0, 1e-6, 1]), norm)
    np.testing.assert_array_equal(bound, 1)
  assert nngp.distance_scale(kernel_fn, blank, 1, bounds=(0.0, 1.0)) == 0
  assert nngp.flip_bound(kernel_fn, blank, 0.1, 2).shape == ()
  for found in nngp.distance_draws(KEY, kernel_fn, blank, 2, 3):
    np.testing.assert_array_equal(found, np.zeros(3))
  network = nngp.fully_connected(1)[2]
  assert nngp.distance_scale(network, blank, 2) == 0
  # With biases it is like others.
  network = nngp.fully_connected(1, sigma_b=0.5)[2]
  assert 0 < nngp.distance_scale(network, blank, 2) < np.inf
  assert nngp.flip_bound(network, blank, 0.0, 2) == 0


# What is given.


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
    1.0, np.ones(4), x, 2
  ),
  'gradient_draws': lambda k, x: nngp.gradient_draws(KEY, k, x, 2),
  'ray_draws': lambda k, x: nngp.ray_draws(KEY, k, x, np.ones(4), [0.1], 2),
  'direction': lambda k, x: nngp.ray_draws(KEY, k, np.ones(4), x, [0.1], 2),
  'distances': lambda k, x: nngp.ray_draws(
    KEY, k, np.ones(4), np.ones(4), x, 2
  ),
  'distance_draws': lambda k, x: nngp.distance_draws(
    KEY, k, x, 2, 2, num_points=3
  ),
}


@pytest.mark.parametrize('name', OF_INPUT)
def test_inputs_that_are_not_finite_are_refused(name):
  what = name if name in ('direction', 'distances') else 'inputs'
  for value, count in ((np.nan, 1), (np.inf, 2), (-np.inf, 1)):
    x = np.arange(4.0)
    x[:count] = value
    words = rf'{what} must be finite numbers, .* which {count} of 4 are NaN or'
    with pytest.raises(ValueError, match=words):
      OF_INPUT[name](linear(MIXED), x)
  words = rf'{what} .* at least one, got .* shape \(0,\); leave'
  with pytest.raises(ValueError, match=words):
    OF_INPUT[name](linear(MIXED), np.zeros(0))


def test_norms_and_radii_are_checked():
  kernel_fn = linear(MIXED)
  for norm in (0, 0.5, -1, np.nan):
    for call in (
      checks.check_norm,
      lambda p: nngp.distance_scale(kernel_fn, X4, p),
      lambda p: nngp.scale_of_gradient(0.0, np.ones(4), X4, p),
      lambda p: nngp.flip_bound(kernel_fn, X4, 0.1, p),
      lambda p: nngp.distance_draws(KEY, kernel_fn, X4, p, 2),
    ):
      with pytest.raises(ValueError, match='norm must be a number p >= 1'):
        call(norm)
  for norm in (1, 1.0, 7, np.inf):
    checks.check_norm(norm)
  for radius in (-0.1, np.nan, [0.1, np.nan], [0.1, -1e-9]):
    for call in (
      lambda r: nngp.flip_bound(kernel_fn, X4, r, 2),
      lambda r: nngp.distance_cdf([1.0], r),
    ):
      with pytest.raises(ValueError, match='radius must be 0 or larger, got'):
        call(radius)
  assert checks.check_radius([0, 2]).dtype == np.float64
  with pytest.raises(ValueError, match='gain must be finite and not negative'):
    nngp.flip_bound(kernel_fn, X4, 0.1, 2, gain=-1.0)


# Kernels as arguments.


def test_kernels_that_capture_an_array_are_those_of_the_call():
  held, x = {}, np.arange(1.0, 6.0)
  kernel_fn = lambda a, b, get: linear(np.diag(held['w']))(a, b, get)
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
      nngp.distance_scale(kernel_fn, x, 2), np.sqrt(variance / held['w'].sum())
    )
    near, straight = nngp.distance_draws(KEY, kernel_fn, x, 2, 20, num_points=4)
    np.testing.assert_allclose(straight, near, rtol=1e-5)


def test_equal_kernels_compile_once():
  weights = [np.random.default_rng(s).uniform(1, 2, 5) for s in range(2)]
  x = np.arange(5.0)

  def run(kernel_fn):
    nngp.distance_scale(kernel_fn, x, 2)
    nngp.distance_draws(KEY, kernel_fn, x, 2, 3, num_points=3)

  plain = lambda w: lambda a, b, get: (a * w[None]) @ (a if b is None else b).T
  own = nngp.fully_connected(1)[2]
  for first, again in ((own, own), (plain(weights[0]), plain(weights[1]))):
    run(first)
    with oracles.compilations() as compiled:
      run(again)
    assert not compiled
