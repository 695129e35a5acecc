"""Networks as functions: read as layers, and certified from both sides."""

from flax import linen
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dmm_jax import boundary
from dmm_jax import certify
from dmm_jax.certify import functions
from dmm_jax.certify import layers as layers_lib
from dmm_jax.certify import rewriting

SHAPE = 4, 4, 2
SIZE = 32
BOX = np.zeros(SIZE), np.ones(SIZE)
FREE = np.full(SIZE, -np.inf), np.full(SIZE, np.inf)


def draw(seed, *shape):
  return np.random.default_rng(seed).normal(size=shape) / shape[0] ** 0.5


W, B = np.float32(draw(0, SIZE, 5)), np.float32(draw(1, 5))


class Plain(linen.Module):
  """Convolutions, batch normalisation, mean pooling, dense layers."""

  @linen.compact
  def __call__(self, x):
    x = linen.Conv(3, (3, 3))(x[None])
    x = linen.BatchNorm(use_running_average=True)(x)
    x = linen.avg_pool(linen.relu(x), (2, 2), (2, 2))
    x = linen.Conv(4, (2, 2), padding='VALID')(x)
    return linen.Dense(3)(jnp.maximum(x.reshape(-1), 0))


class Residual(linen.Module):
  """Sums of different depths, max pooling, leaky ReLU."""

  @linen.compact
  def __call__(self, x):
    x = linen.leaky_relu(linen.Conv(2, (3, 3))(x[None]), 0.2)
    y = linen.Conv(2, (3, 3))(linen.relu(linen.Conv(2, (3, 3))(x)))
    x = linen.max_pool(linen.relu(x + y), (2, 2), (1, 2))
    return linen.Dense(3)(x.reshape(-1))


def flax(module, seed=0):
  variables = module().init(jax.random.key(seed), jnp.zeros(SHAPE))
  return lambda x: module().apply(variables, x)


def pieces(kind):
  dense = lambda x: x.reshape(-1) @ W + B
  return {
    'linear': dense,
    'abs': lambda x: jnp.abs(dense(x)),
    'max': lambda x: jnp.maximum(dense(x), 2 * dense(x)[::-1]),
    'min': lambda x: jnp.minimum(dense(x), 0.3),
    'clip': lambda x: jnp.clip(dense(x), -0.2, 0.4),
    'relu6': lambda x: jax.nn.relu6(4 * dense(x)),
    'leaky': lambda x: jax.nn.leaky_relu(dense(x)),
    'reduce_max': lambda x: x.max((0, 2)) * 2 + dense(x)[:4],
    'branches': lambda x: jnp.concatenate(
      [jax.nn.relu(dense(x))[:2], jax.nn.relu(-dense(x))]
    ),
    'late': lambda x: jax.nn.relu(jax.nn.relu(dense(x)) - 0.1) + dense(x),
    'arithmetic': lambda x: (1 - dense(x) / 3)[1:] * jnp.arange(4) + x[0, 0, 0],
    'chosen': lambda x: jnp.where(jnp.arange(5) > 2, dense(x), -dense(x)),
    'constant': lambda x: jnp.arange(3.0),
    'dynamic': lambda x: jax.lax.dynamic_slice(dense(x), (1,), (3,)),
    'jitted': jax.jit(lambda x: jax.nn.relu(dense(x))),
    'checkpointed': jax.checkpoint(lambda x: jax.nn.relu(dense(x))),
  }[kind]


KINDS = (
  'linear abs max min clip relu6 leaky reduce_max branches late arithmetic '
  'chosen constant dynamic jitted checkpointed'
).split()


def given(kind):
  if kind in KINDS:
    return pieces(kind)
  return flax({'plain': Plain, 'residual': Residual}[kind])


@pytest.mark.parametrize('kind', [*KINDS, 'plain', 'residual'])
def test_layers_are_the_function(kind):
  fn = given(kind)
  layers = functions.as_layers(fn, jnp.zeros(SHAPE), *BOX)
  xs = np.random.default_rng(0).uniform(size=(40, *SHAPE))
  with jax.enable_x64(True):
    want = np.stack([fn(jnp.asarray(x)) for x in xs])
  for x, one in zip(xs, want, strict=True):
    logits = layers_lib.preactivations(layers, x.ravel())[-1]
    np.testing.assert_allclose(logits, one, rtol=1e-6, atol=1e-6)


def test_what_is_carried_through_a_relu_is_no_relu_in_the_box():
  layers = functions.as_layers(pieces('late'), jnp.zeros(SHAPE), *BOX)
  assert [w.shape for w, _ in layers] == [(SIZE, 10), (10, 10), (10, 5)]
  ends = np.zeros((2, SIZE))
  for row in range(5):  # The corners of the box at which an entry is extreme.
    ends[0], ends[1] = W[:, row] < 0, W[:, row] > 0
    values = ends @ layers[0][0] + layers[0][1]
    assert np.sum(np.isclose(values[0], 0, atol=1e-6)) >= 1
  corners = np.random.default_rng(0).integers(2, size=(200, SIZE))
  values = corners @ layers[0][0] + layers[0][1]
  np.testing.assert_array_less(-1e-6, values.min(0).max())


@pytest.mark.parametrize(
  ('fn', 'words'),
  [
    (
      lambda x: jnp.cos(x).ravel(),
      r"'cos' \(.*test_certify_functions.py:\d+",
    ),
    (lambda x: (x * x).ravel(), 'is not'),
    (lambda x: jnp.sort(x.ravel()), "'sort'"),
    (lambda x: jax.nn.softmax(x.ravel()), 'is not'),
    (
      lambda x: linen.max_pool(x, (2, 2), (1, 1), 'SAME').ravel(),
      "'reduce_window_max'.* of windows that are padded",
    ),
    (lambda x: x, r'logits \[k\], got shapes \[\(4, 4, 2\)\]'),
    (lambda x: (x.ravel(), x.ravel()), r'got shapes \[\(32,\), \(32,\)\]'),
    (lambda x: 1.0 / (1 + x.ravel()), "'div'"),
    # Programs of one step are no calls.
    (
      lambda x: jax.lax.reduce(x, 0.0, lambda a, b: a + 2 * b, (0, 1)),
      "'reduce'",
    ),
    (
      lambda x: jax.lax.fori_loop(0, 2, lambda i, v: 2 * v, x.ravel()),
      'is not',
    ),
  ],
)
def test_what_is_not_supported_is_said(fn, words):
  with pytest.raises(ValueError, match=words):
    certify.lower_bound(fn, np.zeros(SHAPE, np.float32), 0)


def test_layers_that_are_not_the_function_are_found(monkeypatch):
  wrong = lambda a, b: jnp.maximum(a - b, 0) + 2 * b
  monkeypatch.setitem(rewriting.REWRITTEN, 'max', wrong)
  x = np.ones(SHAPE, np.float32)
  with pytest.raises(ValueError, match='read as layers that have other logits'):
    certify.lower_bound(pieces('max'), x, 0, bounds=(0.0, 1.0))


def test_half_precision_and_wide_layers_are_refused(monkeypatch):
  x = np.zeros(SHAPE, np.float32)
  half = lambda x: x.astype(jnp.bfloat16).ravel()
  with pytest.raises(TypeError, match=r'computes in bfloat16.*certify it in'):
    certify.lower_bound(half, x, 0)
  with pytest.raises(TypeError, match='floating point, got int32'):
    certify.lower_bound(pieces('linear'), x.astype(np.int32), 0)
  with pytest.raises(ValueError, match='within finite bounds alone'):
    certify.lower_bound(pieces('late'), x, 0, bounds=(0.0, None))
  monkeypatch.setattr(functions, 'LARGEST', 159)
  with pytest.raises(ValueError, match=r'32 x 5 weights .* at most 159'):
    certify.lower_bound(pieces('linear'), x, 0)


@pytest.mark.parametrize('norm', [1, 2, np.inf, 3])
def test_bounds_of_a_function_are_those_of_its_layers(norm):
  layers = [(draw(2, SIZE, 8), draw(3, 8)), (draw(4, 8, 3), draw(5, 3))]
  fn = lambda x: layers_lib.logits(layers, x.ravel())
  xs = np.random.default_rng(1).uniform(size=(5, *SHAPE))
  labels = np.array([np.argmax(fn(x)) for x in xs])
  for bounds in (None, (0.0, 1.0)):
    options = dict(norm=norm, bounds=bounds)
    np.testing.assert_allclose(
      certify.lower_bounds(fn, xs, labels, **options),
      certify.lower_bounds(layers, xs, labels, **options),
      rtol=1e-6,
    )
  assert certify.lower_bounds(fn, xs[:0], labels[:0]).shape == (0,)


@pytest.mark.parametrize(
  'module', [Plain, pytest.param(Residual, marks=pytest.mark.slow)]
)
@pytest.mark.parametrize(
  'norm', [*(pytest.param(p, marks=pytest.mark.slow) for p in (1, 2)), np.inf]
)
def test_no_bound_is_above_a_point_that_was_found(module, norm):
  for seed in range(2):
    fn = flax(module, seed)
    xs = np.random.default_rng(seed).uniform(size=(6, *SHAPE))
    xs = xs.astype(np.float32)
    found = boundary.measure(
      fn, xs, norm=norm, bounds=(0.0, 1.0), method='deepfool'
    )
    labels = np.asarray(jnp.argmax(jax.vmap(fn)(xs), 1))
    lower = certify.lower_bounds(
      fn, xs, labels, norm=norm, bounds=(0.0, 1.0), num_steps=5
    )
    assert np.all(lower <= found.distance * (1 + 1e-5))
    there = np.isfinite(found.distance)
    assert np.all(lower[there] > 0.05 * found.distance[there])


@pytest.mark.parametrize(
  'kind', ['plain', pytest.param('leaky', marks=pytest.mark.slow)]
)
@pytest.mark.parametrize(
  'norm', [*(pytest.param(p, marks=pytest.mark.slow) for p in (1, 2)), np.inf]
)
def test_both_ends_meet(kind, norm):
  fn = given(kind)
  x = np.random.default_rng(3).uniform(size=SHAPE).astype(np.float32)
  label = int(jnp.argmax(fn(x)))
  lower, upper, point = certify.interval(
    fn, x, label, norm=norm, bounds=(0.0, 1.0)
  )
  assert 0 < lower <= upper <= lower * (1 + 1e-4)
  assert point.shape == SHAPE and point.min() >= 0 and point.max() <= 1
  np.testing.assert_allclose(
    np.linalg.norm((point - x).ravel(), norm), upper, rtol=1e-9
  )
  with jax.enable_x64(True):
    logits = np.asarray(fn(jnp.asarray(point)))
  assert logits[label] - np.delete(logits, label).max() < 1e-5
  # A search finds no nearer one, and without programs the ends bracket it.
  options = {'norm': norm, 'bounds': (0.0, 1.0), 'method': 'deepfool'}
  found = boundary.measure(fn, x[None], np.array([label]), **options)
  assert found.distance[0] >= lower * (1 - 1e-5)
  early = certify.interval(
    fn, x, label, norm=norm, bounds=(0.0, 1.0), time_limit=0
  )
  assert 0 < early[0] <= lower * (1 + 1e-6) and early[1] >= upper * (1 - 1e-6)


@pytest.mark.parametrize('norm', [1, 2, np.inf, 3])
def test_ends_of_a_linear_network_are_its_distance(norm):
  w = np.float32(draw(7, SIZE, 2))
  x = np.random.default_rng(7).uniform(size=SHAPE)
  slope = np.subtract(*w.T.astype(float))
  gap = x.ravel() @ slope
  label = int(gap < 0)
  dual = {1: np.inf, 2: 2, 3: 1.5, np.inf: 1}[norm]
  want = abs(gap) / np.linalg.norm(slope, dual)
  fn = lambda x: x.ravel() @ jnp.asarray(w)
  lower, upper, _ = certify.interval(fn, x, label, norm=norm)
  np.testing.assert_allclose([lower, upper], want, rtol=1e-4)
  assert lower <= upper and lower <= want * (1 + 1e-9)
  again = certify.interval([(w, np.zeros(2))], x, label, norm=norm)
  np.testing.assert_allclose(again[:2], [lower, upper], rtol=1e-6)
  wrong = certify.interval(fn, x, 1 - label, norm=norm)
  assert wrong[:2] == (0, 0)
  np.testing.assert_array_equal(wrong[2], x)


def test_a_box_without_a_boundary_has_none():
  fn = lambda x: jnp.stack([2 + x.sum(), -1.0])
  x = np.full(SHAPE, 0.5)
  lower, upper, point = certify.interval(fn, x, 0, bounds=(0.0, 1.0))
  assert lower == upper == np.inf
  np.testing.assert_array_equal(point, x)
  with pytest.raises(ValueError, match='time_limit must be'):
    certify.interval(fn, x, 0, time_limit=-1.0)
  with pytest.raises(ValueError, match='norm must be a number'):
    certify.interval(fn, x, 0, norm=0.5)
  with pytest.raises(TypeError, match='got a function'):
    certify.exact_distance(fn, x, 0)
