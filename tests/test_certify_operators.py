"""Networks of linear operators: convolutions that are not made matrices."""

import functools

from flax import linen
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dmm_jax import boundary
from dmm_jax import certify
from dmm_jax.certify import affine
from dmm_jax.certify import backward
from dmm_jax.certify import functions
from dmm_jax.certify import operators
from dmm_jax.certify import regions

SHAPE = 8, 8, 1
BOX = 0.0, 1.0


class Pooled(linen.Module):
  """Convolutions, each with a ReLU and max pooling, and dense layers."""

  @linen.compact
  def __call__(self, x):
    x = linen.relu(linen.Conv(2, (3, 3), bias_init=noise)(x[None]))
    x = linen.max_pool(x, (2, 2), (2, 2))
    x = linen.Conv(3, (3, 3), bias_init=noise)(x)
    x = linen.relu(linen.max_pool(x, (2, 2), (2, 2)))
    x = linen.relu(linen.Dense(5, bias_init=noise)(x.reshape(-1)))
    return linen.Dense(3)(x)


class Mixed(linen.Module):
  """Strides, a residual sum, mean pooling, smooth activations."""

  @linen.compact
  def __call__(self, x):
    x = linen.leaky_relu(linen.Conv(2, (3, 3), (2, 2))(x[None]))
    x = x + linen.Conv(2, (3, 3))(linen.tanh(linen.Conv(2, (3, 3))(x)))
    x = linen.avg_pool(linen.relu(x), (2, 2), (2, 2))
    return linen.Dense(3)(jax.nn.gelu(x).reshape(-1))


noise = linen.initializers.normal(0.2)
MODULES = {'pooled': Pooled, 'mixed': Mixed}


intervals = jax.jit(backward.intervals)


@functools.cache
def network(name):
  module = MODULES[name]()
  variables = module.init(jax.random.key(0), jnp.zeros(SHAPE))
  return jax.jit(lambda x: module.apply(variables, x))


@functools.cache
def levels(name):
  read, _ = functions._read(network(name), np.zeros(SHAPE), maxima=True)
  return operators.build(read)


def region(rng, norm, radius=0.05):
  x = rng.uniform(size=SHAPE).ravel()
  at = regions.Region(x, x, 1 - x, np.float64(radius))
  steps = rng.normal(size=(400, x.size))
  size = np.linalg.norm(steps, norm, axis=1, keepdims=True)
  points = np.clip(x + radius * steps / size, 0, 1)
  return at, points


@pytest.mark.parametrize('name', MODULES)
def test_levels_are_the_function(name):
  fn, found = network(name), levels(name)
  logits_fn = jax.jit(operators.logits)
  xs = np.random.default_rng(0).uniform(size=(20, *SHAPE))
  with jax.enable_x64(True):
    for x in xs:
      want = np.asarray(fn(jnp.asarray(x)))
      logits = logits_fn(found, x.ravel())
      np.testing.assert_allclose(logits, want, rtol=1e-6, atol=1e-6)


def test_a_relu_and_the_maximum_after_it_are_one_activation():
  kinds = [level.blocks for level in levels('pooled')]
  assert kinds == [
    (operators.Block('relu_max', 4, 32),),
    (operators.Block('max', 4, 12),),
    (operators.Block('relu', 1, 12),),
    (operators.Block('relu', 1, 5),),
    (),
  ]


@pytest.mark.parametrize('name', MODULES)
def test_values_of_one_row_depend_on_different_inputs(name):
  found = levels(name)
  assert found[0].num_rows < found[0].bias.size / 2
  for i, level in enumerate(found[:-1]):
    if level.inputs is None:
      assert level.num_rows == level.bias.size
      continue
    jacobian = np.abs(_jacobians(found[: i + 1])).max(0)
    for row in range(level.num_rows):
      values = np.flatnonzero(level.row == row)
      assert np.all((jacobian[values] > 0).sum(0) <= 1)
    for value, own in enumerate(level.inputs):
      used = set(np.flatnonzero(jacobian[value]))
      assert used <= set(own.tolist())


def _jacobians(found):
  """Of the last level's values, at some inputs."""

  def values(x):
    for level in found[:-1]:
      x = operators.activate(level, level.affine(x))
    return found[-1].affine(x)

  xs = np.random.default_rng(1).normal(size=(30, found[0].num_inputs)) * 3
  with jax.enable_x64(True):
    return np.asarray(jax.lax.map(jax.jacobian(values), jnp.asarray(xs)))


@pytest.mark.parametrize('name', MODULES)
@pytest.mark.parametrize(
  'norm', [pytest.param(1, marks=pytest.mark.slow), 2, np.inf, 3]
)
def test_intervals_hold_at_points(name, norm):
  found, rng = levels(name), np.random.default_rng(2)
  at, points = region(rng, norm)
  with jax.enable_x64(True):
    boxes = intervals(found, at, np.float64(norm))
    values = jax.jit(jax.vmap(lambda x: every(found, x)))(points)
    boxes, values = jax.tree.map(np.asarray, (boxes, values))
  for (low, high), z in zip(boxes, values, strict=True):
    assert np.all(z >= low) and np.all(z <= high)
  if norm == np.inf:  # They are met where there is no activation before.
    low, high = boxes[0]
    corners = np.sign(_jacobians(found[:1])[0])
    ends = np.clip(at.x + 0.05 * corners, 0, 1)
    with jax.enable_x64(True):
      most = [every(found[:2], v)[0][i] for i, v in enumerate(ends)]
    np.testing.assert_allclose(np.array(most), high, atol=1e-9)


def every(found, x):
  zs = []
  for level in found[:-1]:
    zs.append(level.affine(x))
    x = operators.activate(level, zs[-1])
  return zs


@pytest.mark.parametrize('name', MODULES)
def test_rows_that_are_shared_give_what_single_rows_give(name):
  found = levels(name)
  alone = tuple(
    operators.Level(
      level.affine,
      level.bias,
      np.arange(level.bias.size, dtype=np.int32),
      None,
      level.owner,
      level.blocks,
      level.bias.size,
      level.num_inputs,
    )
    for level in found
  )
  at, _ = region(np.random.default_rng(3), 2)
  with jax.enable_x64(True):
    for norm in np.array([1.0, 2.0, np.inf]):
      both = (intervals(rows, at, norm) for rows in (found, alone))
      for shared, single in zip(*both, strict=True):
        np.testing.assert_allclose(shared, single, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize('kind', ['relu', 'max', 'relu_max', 'identity'])
@pytest.mark.parametrize('free', [False, True])
def test_lines_hold(kind, free):
  """On a grid of values, for any choice of what is free."""
  rng = np.random.default_rng(4)
  group = 3 if 'max' in kind else 1
  num = 40
  block = operators.Block(kind, group, num)
  low = rng.normal(size=(group, num))
  high = low + rng.uniform(0, 2, (group, num)) * (rng.random(num) < 0.9)
  level = operators.Level(
    None, np.zeros(group * num), None, None, None, (block,), 0, 0
  )
  chosen = None
  if free:
    chosen = backward.Free(
      jnp.asarray(rng.uniform(-0.2, 1.2, group * num)),
      jnp.asarray(rng.uniform(-0.2, 1.2, num)),
    )
  with jax.enable_x64(True):
    lines = backward.relax(level, low.ravel(), high.ravel(), chosen)
    lines = [np.asarray(v, np.float64) for v in lines]
    share = rng.uniform(size=(500, group, num))
    share[:100] = rng.integers(2, size=(100, group, num))
    z = low + share * (high - low)
    value = jax.vmap(lambda v: operators.activate(level, v))
    value = np.asarray(value(z.reshape(500, -1)))
  add = lambda slopes: (slopes.reshape(group, num) * z).sum(1)
  assert np.all(add(lines[0]) + lines[2] <= value + 1e-12)
  assert np.all(add(lines[1]) + lines[3] >= value - 1e-12)
  if group == 1:  # Where it is known what an activation does, lines are it.
    known = (low == high) | ((high <= 0) | (low >= 0)) * (kind == 'relu')
    known = known[0] | (kind == 'identity')
    for slopes, rest in (lines[::2], lines[1::2]):
      line = slopes[None] * z[:, 0] + rest[None]
      np.testing.assert_allclose(line[:, known], value[:, known], atol=1e-12)


@pytest.mark.parametrize(
  'dimensions', [('NHWC', 'HWIO', 'NHWC'), ('NCHW', 'OIHW', 'NCHW')]
)
@pytest.mark.parametrize(
  'options',
  [
    {'padding': 'SAME'},
    {'padding': 'VALID', 'window_strides': (2, 3)},
    {'padding': [(2, 1), (0, 3)], 'rhs_dilation': (2, 1)},
    {'padding': [(1, 1), (1, 2)], 'lhs_dilation': (2, 2)},
    {'padding': 'SAME', 'feature_group_count': 2},
  ],
)
def test_convolutions_by_products(dimensions, options):
  groups = options.get('feature_group_count', 1)
  x = np.random.default_rng(5).normal(size=(2, 7, 6, 4))
  kernel = np.random.default_rng(6).normal(size=(3, 2, 4 // groups, 6))
  if dimensions[0] == 'NCHW':
    x, kernel = x.transpose(0, 3, 1, 2), kernel.transpose(3, 2, 0, 1)
  options = {'window_strides': (1, 1), **options}
  run = lambda x: jax.lax.conv_general_dilated(
    x, kernel, dimension_numbers=dimensions, **options
  )
  with jax.enable_x64(True):
    [equation] = jax.make_jaxpr(run)(x).eqns
    found = affine.convolve(jnp.asarray(x), kernel, **equation.params)
    np.testing.assert_allclose(found, run(x), atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize('name', MODULES)
@pytest.mark.parametrize('norm', [2, np.inf])
def test_bounds_are_near_those_of_matrices(monkeypatch, name, norm):
  fn = network(name)
  rng = np.random.default_rng(7)
  xs = rng.uniform(size=(4, *SHAPE)).astype(np.float32)
  labels = np.asarray(jnp.argmax(jax.vmap(fn)(xs), 1))
  options = dict(norm=norm, bounds=BOX)
  dense = certify.lower_bounds(fn, xs, labels, num_steps=0, **options)
  monkeypatch.setattr(functions, 'DENSE', 0)
  plain = certify.lower_bounds(fn, xs, labels, num_steps=0, **options)
  found = certify.lower_bounds(fn, xs, labels, num_steps=10, **options)
  upper = boundary.measure(
    fn, xs, labels, norm=norm, bounds=BOX, max_gradients=200
  ).distance
  assert np.all(plain > 0.7 * dense) and np.all(found >= 0.99 * plain)
  assert np.all(found <= upper * (1 + 1e-6))
  wrong = certify.lower_bounds(fn, xs, (labels + 1) % 3, **options)
  np.testing.assert_array_equal(wrong, 0)


def test_what_overflows_is_refused(monkeypatch):
  monkeypatch.setattr(functions, 'DENSE', 0)
  xs = np.ones((2, *SHAPE), np.float32)
  fn = lambda x: jnp.stack([x.sum() * 1e38, -x.sum()])
  with pytest.raises(ValueError, match='2 of 2 inputs overflow float32'):
    certify.lower_bounds(fn, xs, np.zeros(2, int))


@pytest.mark.slow
def test_an_interval_of_operators_has_both_ends(monkeypatch):
  monkeypatch.setattr(functions, 'DENSE', 0)
  inner, middle = network('pooled'), jnp.full(SHAPE, 0.5)
  fn = lambda x: inner(x) - inner(middle)
  x = np.random.default_rng(8).uniform(0.4, 0.6, SHAPE).astype(np.float32)
  label = int(jnp.argmax(fn(x)))
  lower, upper, point = certify.interval(fn, x, label, norm=2, bounds=BOX)
  assert 0 < lower < upper < 20 * lower
  assert int(jnp.argmax(fn(point))) != label
  np.testing.assert_allclose(np.linalg.norm(point - x), upper, rtol=1e-6)
