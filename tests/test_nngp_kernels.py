"""Architectures of infinite width: finite networks, kernels and their gain."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import kernel_oracles
import numpy as np
import oracles
import pytest
from scipy import integrate
from scipy import special

from dmm_jax import nngp
from dmm_jax import pooled_kernel
from dmm_jax._neural_tangents import nt
from dmm_jax._neural_tangents import stax
from dmm_jax.nngp import architectures

SQRT_2 = np.sqrt(2)
SIGMAS = {'sigma_w': 1.3, 'sigma_b': 0.4}
RNG = np.random.default_rng(0)
# Odd and even, neither square nor of one channel; one has blank patches.
XS, YS = RNG.normal(size=(3, 7, 6, 2)), 1.7 * RNG.normal(size=(2, 7, 6, 2))
XS[0, :4] = 0.0
SMALL = {
  'fully_connected': (
    lambda **o: nngp.fully_connected(3, width=5, **o),
    kernel_oracles.fully_connected(3),
  ),
  'convolutional': (
    lambda **o: nngp.convolutional(2, width=3, **o),
    kernel_oracles.convolutional(2),
  ),
  'lenet': (
    lambda **o: nngp.lenet(width=3, dense_width=5, **o),
    kernel_oracles.lenet(),
  ),
  'resnet': (
    lambda **o: nngp.resnet(7, width=2, **o),
    kernel_oracles.resnet(7),
  ),
}


def shapes_of(init_fn, shape):
  """Shapes of the parameters, without their numbers."""
  made = jax.eval_shape(lambda k: init_fn(k, shape)[1], jax.random.key(0))
  return made, [v.shape for v in jax.tree.leaves(made)]


def test_imports_bring_in_no_tensorflow_and_hide_one_warning():
  code = (
    'import sys, warnings\n'
    'import dmm_jax; assert "neural_tangents" not in sys.modules\n'
    'assert "tensorflow" not in sys.modules\n'
    'from dmm_jax import nngp, boundary, random_nets, data\n'
    'assert "neural_tangents" in sys.modules\n'
    'assert "tensorflow" not in sys.modules\n'
    'with warnings.catch_warnings(record=True) as told:\n'
    '  warnings.warn("`FanIn` layers assume independent inputs")\n'
    '  warnings.warn("another one")\n'
    'assert [str(v.message) for v in told] == ["another one"], told'
  )
  subprocess.run([sys.executable, '-c', code], check=True)


@pytest.mark.parametrize('activation', ['relu', 'erf'])
@pytest.mark.parametrize('name', SMALL)
def test_finite_networks_are_those_layers(name, activation):
  make, layers = SMALL[name]
  init_fn, apply_fn, _ = make(activation=activation, **SIGMAS)
  made, _ = shapes_of(init_fn, XS.shape)
  rng = np.random.default_rng(1)
  params = jax.tree.map(lambda v: rng.normal(size=v.shape), made)
  leaves = jax.tree.leaves(params)
  want = [
    kernel_oracles.forward(layers, leaves, x, 1.3, 0.4, activation) for x in XS
  ]
  with jax.enable_x64(True):
    got = jax.jit(apply_fn)(params, XS)
  np.testing.assert_allclose(got, want, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize('activation', ['relu', 'erf'])
@pytest.mark.parametrize('name', SMALL)
def test_kernels_are_the_recursion(name, activation):
  """guarantees.md: the kernels agree with a recursion of our own."""
  make, layers = SMALL[name]
  kernel_fn = make(activation=activation, **SIGMAS)[2]
  want = kernel_oracles.kernels(layers, XS, YS, 1.3, 0.4, activation)
  broken = XS.copy()
  broken[1, 0, 1] = np.nan
  kernel = jax.jit(lambda a, b: kernel_fn(a, b))
  with jax.enable_x64(True):
    got, of_broken = kernel(XS, YS), kernel(broken, YS)
  np.testing.assert_allclose(got, want, rtol=1e-9)
  want[1] = np.nan
  np.testing.assert_allclose(of_broken, want, rtol=1e-9)


@pytest.mark.parametrize('name', ['convolutional', 'lenet'])
def test_kernels_without_biases_of_images_with_blanks(name):
  make, layers = SMALL[name]
  kernel_fn = make(sigma_w=0.8)[2]
  with jax.enable_x64(True):
    got = jax.jit(lambda a: kernel_fn(a, None, 'nngp'))(XS)
  want = kernel_oracles.kernels(layers, XS, XS, 0.8, 0.0, 'relu')
  np.testing.assert_allclose(got, want, rtol=1e-9)


def test_defaults_are_those_of_the_signatures():
  shape = (1, 8, 4, 2)
  conv = lambda a, b, size=3: (size, size, a, b)
  _, found = shapes_of(nngp.fully_connected()[0], shape)
  assert found == [(64, 100), (100, 100), (100, 1)]
  _, found = shapes_of(nngp.convolutional()[0], shape)
  assert found == [conv(2, 128), *[conv(128, 128)] * 3, (32 * 128, 1)]
  _, found = shapes_of(nngp.lenet()[0], shape)
  assert found == [
    conv(2, 128),
    *[conv(128, 128)] * 3,
    *((2 * 128, 512), (512, 512), (512, 1)),
  ]
  _, found = shapes_of(nngp.resnet()[0], shape)
  assert found == [
    *(conv(2, 32), *[conv(32, 32)] * 6),
    *(conv(32, 64), conv(64, 64), conv(32, 64, 1), *[conv(64, 64)] * 4),
    *(conv(64, 128), conv(128, 128), conv(64, 128, 1), *[conv(128, 128)] * 4),
    (2 * 128, 1),
  ]
  xs, ys = RNG.normal(size=(2, 4, 5, 1)), RNG.normal(size=(1, 4, 5, 1))
  for make, layers in (
    (nngp.fully_connected, kernel_oracles.fully_connected(2)),
    (nngp.convolutional, kernel_oracles.convolutional(4)),
    (nngp.lenet, kernel_oracles.lenet()),
  ):
    with jax.enable_x64(True):
      got = jax.jit(make()[2])(xs, ys)
    want = kernel_oracles.kernels(layers, xs, ys, SQRT_2, 0.0, 'relu')
    np.testing.assert_allclose(got, want, rtol=1e-9)


def test_unknown_activations_and_depths_are_named():
  for make in (nngp.fully_connected, nngp.convolutional, nngp.lenet):
    with pytest.raises(ValueError, match="relu, erf, got 'tanh'"):
      make(activation='tanh')
  for depth in (8, 6, 1, -5):
    with pytest.raises(ValueError, match=f'7, 13, 19, ..., got {depth}'):
      nngp.resnet(depth)


def test_kernels_of_our_own_serve_the_nngp_alone():
  own = lambda a, b: ('ours', a, b)
  _, _, kernel_fn = architectures._triple(
    [stax.Flatten(), stax.Dense(1, W_std=3.0)], 2.5, own
  )
  xs, ys = np.eye(3)[:2], np.arange(6.0).reshape(2, 3)
  for found in (kernel_fn(xs, ys), kernel_fn(xs, ys, 'nngp')):
    assert found == ('ours', xs, ys)
  assert kernel_fn(xs)[2] is None
  for found in (
    kernel_fn(xs, ys, ('nngp',)).nngp,
    kernel_fn(xs, ys, 'nngp', mask_constant=100.0),
    kernel_fn(xs, ys, 'ntk'),
  ):
    np.testing.assert_allclose(found, 9 * xs @ ys.T / 3, rtol=1e-6)
  assert kernel_fn.gain == 2.5 and kernel_fn.captures_nothing is True
  plain = architectures._triple([stax.Flatten(), stax.Dense(1)], None)[2]
  np.testing.assert_allclose(plain(xs, ys), xs @ ys.T / 3, rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize('name', ['lenet', 'convolutional'])
def test_kernels_are_those_of_neural_tangents(name):
  """Tangent kernels come from there too, of the same network."""
  kernel_fn = SMALL[name][0](activation='erf', **SIGMAS)[2]
  xs, ys = XS[:2, :5, :4], YS[:, :5, :4]
  with jax.enable_x64(True):
    ours = kernel_fn(xs, ys, 'nngp')
    theirs = jax.jit(lambda a, b: kernel_fn(a, b, ('nngp', 'ntk')))(xs, ys)
  np.testing.assert_allclose(ours, theirs.nngp, rtol=1e-9)
  assert np.all(np.diag(theirs.ntk) > np.diag(theirs.nngp))


ARCHITECTURES = {
  'fully_connected': (nngp.fully_connected, {'width': 256}),
  'convolutional': (nngp.convolutional, {'depth': 2, 'width': 128}),
  'lenet': (nngp.lenet, {'width': 64, 'dense_width': 128}),
  'resnet': (nngp.resnet, {'depth': 7, 'width': 32}),
}
IMAGE = np.random.default_rng(0).uniform(size=(6, 6, 2))


def test_one_hidden_layer_agrees_with_monte_carlo_at_any_width():
  """guarantees.md: the kernels agree with Monte Carlo."""
  init_fn, apply_fn, kernel_fn = nngp.fully_connected(1, width=3, **SIGMAS)
  xs = XS[:, :2, :1].astype(np.float32)
  made, _ = shapes_of(init_fn, xs.shape)
  rng = np.random.default_rng(2)
  params = jax.tree.map(
    lambda v: rng.normal(size=(40000, *v.shape)).astype(np.float32), made
  )
  draws = np.asarray(jax.jit(jax.vmap(apply_fn, (0, None)))(params, xs))[..., 0]
  products = draws[:, :, None] * draws[:, None]
  error = np.std(products, axis=0) / np.sqrt(len(draws))
  want = np.asarray(jax.jit(kernel_fn)(xs))
  assert np.all(np.abs(np.mean(products, axis=0) - want) < 4.5 * error)
  assert np.all(error < 0.03 * want)


@pytest.mark.slow
@pytest.mark.parametrize('name', ARCHITECTURES)
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


@pytest.mark.slow
@pytest.mark.parametrize('name', ARCHITECTURES)
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


@pytest.mark.slow
def test_shim_serves_pooling_and_monte_carlo_kernels():
  init_fn, apply_fn, kernel_fn = stax.serial(
    stax.Conv(64, (3, 3)), stax.Erf(), stax.GlobalAvgPool(), stax.Dense(1)
  )
  xs = jax.random.normal(jax.random.key(0), (2, 5, 5, 1))
  sampled = nt.monte_carlo_kernel_fn(init_fn, apply_fn, jax.random.key(1), 1000)
  np.testing.assert_allclose(
    sampled(xs, None, 'nngp'), kernel_fn(xs, None, 'nngp'), rtol=0.15, atol=2e-3
  )


def test_the_shim_restores_what_is_named():
  from dmm_jax import _neural_tangents

  for name in _neural_tangents._CORE:
    found = getattr(jax.core, name)
    assert found is getattr(jax.extend.core, name, found)
  assert jax.tree_map(lambda a: a + 1, [1, (2,)]) == [2, (3,)]
  assert list(jax.util.safe_map(lambda a, b: a - b, [5, 3], [1, 2])) == [4, 1]
  assert list(jax.util.safe_zip([1, 2], 'ab')) == [(1, 'a'), (2, 'b')]
  with pytest.raises((ValueError, AssertionError)):
    jax.util.safe_zip([1, 2], 'a')
  assert isinstance(jax.random.normal(jax.random.key(0)), jax.random.KeyArray)


# The three expectations, at variances of any size and all correlations.
K1 = np.array([1.3, 0.7, 1e-10, 1e10, 2.0, 0.9, 4.0])
K2 = np.array([0.4, 2.2, 1e10, 1e-10, 2.0, 0.9, 0.3])
COSINES = np.array([0.3, -0.8, 0.5, -0.5, 0.999, 0.0, -0.99])
K12 = COSINES * np.sqrt(K1 * K2)


def test_expectations_of_relu_have_closed_forms():
  size, angle = np.sqrt(K1 * K2), np.arccos(COSINES)
  both = (np.pi - angle) / (2 * np.pi)
  with jax.enable_x64(True):
    args = K12, K1, K2
    value = jax.jit(pooled_kernel.expect_relu)(*args)
    active = jax.jit(pooled_kernel.expect_both_active)(*args)
    one = jax.grad(pooled_kernel.expect_relu, argnums=(0, 1, 2))
    slopes = jax.jit(jax.vmap(one))(*args)
  np.testing.assert_allclose(value, oracles._expect(*args, 'relu'), rtol=1e-9)
  np.testing.assert_allclose(active, both, rtol=1e-9)
  # By Price's theorem: E phi'(u) phi'(v), and half of E phi''(u) phi(v).
  np.testing.assert_allclose(slopes[0], both, rtol=1e-9)
  sine = size * np.sin(angle) / (4 * np.pi)
  np.testing.assert_allclose(slopes[1], sine / K1, rtol=1e-9)
  np.testing.assert_allclose(slopes[2], sine / K2, rtol=1e-9)
  # By quadrature, of one pair.
  cosine, a, b = 0.3, 1.3**0.5, 0.4**0.5
  rest = np.sqrt(1 - cosine**2)

  def inner(u):
    mean, spread = b * cosine * u, b * rest
    ratio = mean / spread
    second = mean * special.ndtr(ratio)
    second += spread * np.exp(-(ratio**2) / 2) / np.sqrt(2 * np.pi)
    return a * u * second * np.exp(-(u**2) / 2) / np.sqrt(2 * np.pi)

  want = integrate.quad(inner, 0, np.inf)[0]
  np.testing.assert_allclose(value[0], want, rtol=1e-7)


def test_expectations_of_relu_where_both_are_one():
  """Equal, opposite and absent inputs, where closed forms have 0 / 0."""
  k1 = np.array([2.0, 3.0, 0.25, 0.0, 0.0, 5.0])
  k2 = np.array([2.0, 3.0, 0.25, 0.0, 4.0, 0.0])
  k12 = np.array([2.0, -3.0, 0.25, 0.0, 0.0, 0.0])
  with jax.enable_x64(True):
    value = jax.jit(pooled_kernel.expect_relu)(k12, k1, k2)
    active = jax.jit(pooled_kernel.expect_both_active)(k12, k1, k2)
    one = jax.grad(pooled_kernel.expect_relu, argnums=(0, 1, 2))
    slopes = np.array(jax.jit(jax.vmap(one))(k12, k1, k2))
    # Rounding of the cosine is no angle; a real one, of 1e-5, is.
    near = 2 * np.array([1 - 1e-15, np.cos(1e-5), -np.cos(1e-5)])
    two = np.full(3, 2.0)
    close = np.array(jax.jit(jax.vmap(one))(near, two, two))
  np.testing.assert_allclose(value, [1.0, 0, 0.125, 0, 0, 0], atol=1e-15)
  np.testing.assert_allclose(active[:3], [0.5, 0.0, 0.5], atol=1e-15)
  np.testing.assert_allclose(slopes[0, :3], [0.5, 0, 0.5], atol=1e-15)
  np.testing.assert_array_equal(slopes[1:], 0)
  assert np.all(np.isfinite(slopes))
  np.testing.assert_array_equal(close[:, 0], [0.5, 0, 0])
  want = np.array([np.pi - 1e-5, 1e-5]) / (2 * np.pi)
  np.testing.assert_allclose(close[0, 1:], want, rtol=1e-5)
  np.testing.assert_allclose(close[1:, 1:], 1e-5 / (4 * np.pi), rtol=1e-5)


def test_expectations_of_erf_have_closed_forms():
  index = [0, 1, 4, 6]
  k12, k1, k2 = K12[index], K1[index], K2[index]
  points, weights = np.polynomial.hermite_e.hermegauss(100)
  weights = weights / np.sqrt(2 * np.pi)
  want = []
  for k, a, b in zip(k12, k1, k2, strict=True):
    u = np.sqrt(a) * points[:, None]
    v = k / a * u + np.sqrt(b - k**2 / a) * points[None]
    want.append(weights @ (special.erf(u) * special.erf(v)) @ weights)
  with jax.enable_x64(True):
    got = pooled_kernel.expect_erf(*map(jnp.asarray, (k12, k1, k2)))
  np.testing.assert_allclose(got, want, rtol=1e-4)


@pytest.mark.parametrize(
  'convs, dense, shape',
  [((1,), 1, (3, 5, 2)), ((2, 1), 0, (7, 4, 3)), ((0, 0, 1), 1, (9, 12, 1))],
)
def test_pooled_kernels_are_the_recursion(convs, dense, shape):
  layers = []
  for count in convs:
    layers += [*[kernel_oracles.CONVOLVE, 'activate'] * count, 'pool']
  layers += kernel_oracles.fully_connected(dense)
  rng = np.random.default_rng(3)
  xs, ys = rng.normal(size=(2, *shape)), 2 * rng.normal(size=(3, *shape))
  kernel = pooled_kernel.kernel_fn(
    convs=convs,
    dense=dense,
    sigma_w=1.4,
    sigma_b=0.3,
    expect=pooled_kernel.expect_relu,
  )
  with jax.enable_x64(True):
    got = jax.jit(kernel)(xs, ys)
  want = kernel_oracles.kernels(layers, xs, ys, 1.4, 0.3)
  np.testing.assert_allclose(got, want, rtol=1e-9)


def test_derivatives_of_pooled_kernels_are_those_of_the_recursion():
  """Mixed second derivatives at one input: products with C."""
  layers = [kernel_oracles.CONVOLVE, 'activate', 'pool', 'flatten', 'dense']
  x, v = np.random.default_rng(4).normal(size=(2, 4, 5, 1))
  kernel = pooled_kernel.kernel_fn(
    convs=(1,),
    dense=0,
    sigma_w=1.3,
    sigma_b=0.4,
    expect=pooled_kernel.expect_relu,
  )
  k = lambda a, b: kernel((x + a * v)[None], (x + b * v)[None])[0, 0]
  with jax.enable_x64(True):
    got = jax.jit(jax.grad(jax.grad(k), 1))(0.0, 0.0)
  own = lambda a, b: kernel_oracles.kernel(
    layers, x + a * v, x + b * v, 1.3, 0.4
  )
  h = 1e-4
  mixed = own(h, h) - own(h, -h) - own(-h, h) + own(-h, -h)
  np.testing.assert_allclose(got, mixed / (4 * h**2), rtol=1e-3)


@pytest.mark.parametrize(
  'activation, factor', [('relu', 0.5), ('erf', 4 / np.pi)]
)
def test_gains_are_attained(activation, factor):
  """E(f(x) - f(y))^2 <= M^2 ||x - y||^2 / n, with equality.

  For ReLU between multiples of one input, for erf where inputs are small.
  """
  options = {'sigma_w': 1.2, 'activation': activation}
  kernel_fn = nngp.fully_connected(3, **options)[2]
  x = 1e-4 * RNG.normal(size=(1, 5))
  pair = np.concatenate([x, -0.3 * x if activation == 'erf' else 0.3 * x])
  k = kernel_oracles.kernels(
    kernel_oracles.fully_connected(3),
    pair[:, None],
    pair[:, None],
    1.2,
    0.0,
    activation,
  )
  increment = k[0, 0] + k[1, 1] - 2 * k[0, 1]
  limit = kernel_fn.gain * np.sum((pair[0] - pair[1]) ** 2) / 5
  np.testing.assert_allclose(increment, limit, rtol=1e-5)
  # One for each activation, wherever its layer stands; depths are their number.
  np.testing.assert_allclose(kernel_fn.gain, 1.44 * (1.44 * factor) ** 3)
  for depth in (2, 3):
    pair = (
      nngp.convolutional(depth, **options),
      nngp.fully_connected(depth, **options),
    )
    assert pair[0][2].gain == pair[1][2].gain
  six = nngp.fully_connected(6, **options)[2].gain
  assert nngp.lenet(**options)[2].gain == six
  assert nngp.resnet(7, **options)[2].gain is None


@pytest.mark.parametrize(
  'name, activation',
  [
    ('fully_connected', 'erf'),
    ('convolutional', 'relu'),
    ('lenet', 'erf'),
    ('lenet', 'relu'),
  ],
)
def test_gain_bounds_every_increment(name, activation):
  """E(f(x) - f(y))^2 <= M^2 ||x - y||^2 / n, far apart and close together."""
  make, layers = SMALL[name]
  gain = make(sigma_w=SQRT_2, activation=activation)[2].gain
  rng = np.random.default_rng(7)
  for step in (1e-2, 0.3, 3.0):
    for flat in (False, True):  # A constant shift is the worst of pooling.
      other = IMAGE + step * (1 if flat else rng.normal(size=IMAGE.shape))
      pair = np.stack([IMAGE, other])
      k = kernel_oracles.kernels(layers, pair, pair, SQRT_2, 0.0, activation)
      increment = k[0, 0] + k[1, 1] - 2 * k[0, 1]
      limit = gain * np.sum((IMAGE - other) ** 2) / IMAGE.size
      assert increment <= limit * (1 + 1e-9)
