import fractions
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize

from dmm_jax import boundary
from dmm_jax import certify
from dmm_jax import norms
from dmm_jax.certify import cells
from dmm_jax.certify import crown
from dmm_jax.certify import layers as layers_lib
from dmm_jax.certify import regions
from dmm_jax.certify import relaxation

NORMS = (1, 2, np.inf)
BOX = (-1.0, 1.0)
WIDTHS = (3, 8, 8, 3)  # Of most tests: they share compiled programs.


def network(widths, seed):
  """Dense layers with weights of He's size and small biases."""
  rng = np.random.default_rng(seed)
  return [
    (rng.normal(size=(m, n)) * (2 / m) ** 0.5, 0.3 * rng.normal(size=n))
    for m, n in itertools.pairwise(widths)
  ]


def logits(layers, xs):
  for w, b in layers[:-1]:
    xs = np.maximum(xs @ w + b, 0.0)
  return xs @ layers[-1][0] + layers[-1][1]


def predicted(layers, xs):
  return logits(layers, xs).argmax(-1)


def in_ball(rng, shape, p):
  """Steps of l^p norm at most 1, many of them on the sphere or in corners."""
  steps = rng.normal(size=shape) * (rng.random(shape) < 0.6)
  steps[::3] = np.sign(steps[::3])
  size = np.linalg.norm(steps, p, axis=-1, keepdims=True)
  steps = steps / np.where(size > 0, size, 1.0)
  return steps * rng.random((*shape[:-1], 1)) ** 0.2


def closed_form(layers, x, p, bounds):
  """Distance of a linear network: the nearest of its hyperplanes."""
  (w, b), values = layers[0], logits(layers, x)
  label, distances = values.argmax(), []
  for k in np.delete(np.arange(b.size), label):
    row, gap = w[:, label] - w[:, k], values[label] - values[k]
    if bounds is None:
      distances.append(gap / np.linalg.norm(row, norms.dual(p)))
    elif p == 2:
      low, high = bounds[0] - x, bounds[1] - x
      with jax.enable_x64(True):
        step = np.asarray(norms.smallest_step(-row, gap, low, high, norm=2))
      reached = -row @ step > gap * (1 - 1e-9)
      distances.append(np.linalg.norm(step) if reached else np.inf)
    else:
      distances.append(linear_program(row, gap, x, p, bounds))
  return label, min(distances)


def linear_program(row, gap, x, p, bounds):
  n = x.size
  eye, slack = np.eye(n), np.eye(n) if p == 1 else np.ones((n, 1))
  m = slack.shape[1]
  matrix = np.block(
    [[eye, -slack], [-eye, -slack], [row[None], np.zeros((1, m))]]
  )
  found = optimize.linprog(
    np.append(np.zeros(n), np.ones(m)),
    matrix,
    np.append(np.zeros(2 * n), -gap),
    bounds=[*zip(bounds[0] - x, bounds[1] - x, strict=True)] + [(0, None)] * m,
  )
  return found.fun if found.status == 0 else np.inf


@pytest.mark.parametrize('boxed', (False, True))
@pytest.mark.parametrize('p', NORMS)
def test_linear_network_has_closed_form(p, boxed):
  layers = network((6, 4), seed=0)
  xs = np.random.default_rng(1).uniform(-0.9, 0.9, (6, 2, 3))
  bounds, box = None, None
  if boxed:
    bounds = np.full((2, 3), -1.0), np.linspace(0.9, 1.0, 6).reshape(2, 3)
    box = [b.ravel() for b in bounds]
  finite = 0
  for x in xs:
    label, want = closed_form(layers, x.ravel(), p, box)
    options = dict(norm=p, bounds=bounds)
    lower = certify.lower_bound(layers, x, label, **options)
    distance, proven, point = certify.exact_distance(
      layers, x, label, **options
    )
    np.testing.assert_allclose(lower, want, rtol=1e-6)
    np.testing.assert_allclose(distance, want, rtol=1e-6)
    np.testing.assert_allclose(proven, want, rtol=2e-5)
    assert lower <= distance * (1 + 1e-12) and proven <= distance
    assert point.shape == x.shape
    finite += np.isfinite(want)
  assert finite >= 3


@pytest.mark.parametrize('p', NORMS)
def test_two_dimensions_against_a_grid(p):
  layers = network(WIDTHS, seed=3)
  layers[0][0][2] = 0.0  # The third input does nothing.
  axis = np.linspace(*BOX, 801)
  grid = np.stack([*np.meshgrid(axis, axis), np.zeros((801, 801))], -1)
  grid = grid.reshape(-1, 3)
  classes = predicted(layers, grid)
  spacing = (axis[1] - axis[0]) * np.linalg.norm(np.ones(2), p)
  for x in np.random.default_rng(0).uniform(-0.9, 0.9, (6, 3)):
    x[2] = 0.0
    label = predicted(layers, x)
    want = np.linalg.norm(grid[classes != label] - x, p, axis=1).min()
    distance, proven, point = certify.exact_distance(
      layers, x, label, norm=p, bounds=BOX
    )
    lower = certify.lower_bound(layers, x, label, norm=p, bounds=BOX)
    assert lower <= distance <= want * (1 + 1e-9)
    assert want <= distance + spacing
    assert proven >= distance * (1 - 2e-5)
    np.testing.assert_allclose(np.linalg.norm(point - x, p), distance)


def check_random_network(seed, p, bounds):
  """Holds bounds, exact distances and a search against each other."""
  layers = network(WIDTHS, seed)
  rng = np.random.default_rng(seed + 10**6)
  x = rng.uniform(-1, 1, 3)
  label = predicted(layers, x)
  options = dict(norm=p, bounds=bounds)
  distance, proven, point = certify.exact_distance(layers, x, label, **options)
  plain = certify.lower_bound(layers, x, label, num_steps=0, **options)
  lower = certify.lower_bound(layers, x, label, **options)
  assert plain <= lower <= distance * (1 + 1e-9)
  if np.isfinite(distance):
    assert proven <= distance <= proven * (1 + 2e-5)
    np.testing.assert_allclose(np.linalg.norm(point - x, p), distance)
    values = logits(layers, point)
    lead = values[label] - np.delete(values, label).max()
    assert lead <= 1e-6
    # What is searched at random is never nearer.
    reach = proven * (1 - 1e-9)
  else:
    reach = min(lower, proven, 3.0)
  assert bounds is None or np.all(np.abs(point) <= 1)
  points = x + reach * in_ball(rng, (2000, 3), p)
  if bounds is not None:
    points = np.clip(points, *bounds)
  assert np.all(predicted(layers, points) == label)
  return distance


def check_random_networks(seeds, p, bounds):
  distances = np.array([check_random_network(s, p, bounds) for s in seeds])
  xs = [np.random.default_rng(s + 10**6).uniform(-1, 1, 3) for s in seeds]
  stacks = [network(WIDTHS, s) for s in seeds]
  stacked = jax.tree.map(lambda *v: np.stack(v), *stacks)
  box = (-np.inf, np.inf) if bounds is None else bounds
  found = np.asarray(search(stacked, np.stack(xs), p, box))
  assert np.all(distances <= found * (1 + 1e-4))
  both = np.isfinite(found)
  ratio = distances[both] / found[both]
  assert len(ratio) > len(seeds) / 3 and np.median(ratio) > 0.8


@jax.jit
def search(layers, xs, p, box):
  """Distances that DeepFool finds, of one network for each input."""

  def one(layers, x):
    logits_fn = lambda v: layers_lib.logits(layers, v)
    label = jnp.argmax(logits_fn(x))
    return boundary.nearest_point(
      logits_fn, x, label, norm=p, bounds=box, method='fast'
    ).distance

  return jax.vmap(one)(layers, xs)


@pytest.mark.parametrize('bounds', (None, BOX))
@pytest.mark.parametrize('p', NORMS)
def test_bounds_are_in_order_on_random_networks(p, bounds):
  check_random_networks(range(12), p, bounds)


@pytest.mark.slow
@pytest.mark.parametrize('bounds', (None, BOX))
@pytest.mark.parametrize('p', NORMS)
def test_bounds_are_in_order_on_many_random_networks(p, bounds):
  check_random_networks(range(1000, 1170), p, bounds)


@pytest.mark.parametrize('p', NORMS)
def test_neuron_bounds_hold_and_are_tighter_than_intervals(p):
  layers = layers_lib.check(network((5, 12, 12, 3), seed=1))
  rng = np.random.default_rng(0)
  x, low, high = rng.uniform(-1, 1, 5), np.full(5, -1.0), np.full(5, 1.0)
  found = crown.neuron_bounds(layers, x, 0.4, low, high, norm=p)
  points = np.clip(x + 0.4 * in_ball(rng, (20000, 5), p), low, high)
  values = [layers_lib.preactivations(layers, v) for v in points]
  for i, (least, most) in enumerate(found):
    z = np.stack([v[i] for v in values])
    assert np.all(z >= least - 1e-9) and np.all(z <= most + 1e-9)
  # The first layer's bounds are attained.
  slack = np.concatenate([z_min(found, values), z_max(found, values)])
  assert np.max(slack) < 0.35 and np.median(slack) < 0.15
  w, b = layers[1]
  floor, ceiling = (np.maximum(v, 0.0) for v in found[0])
  interval = floor @ np.maximum(w, 0) + ceiling @ np.minimum(w, 0) + b
  assert np.mean(found[1][0] - interval) > 0.05


def test_lines_around_a_relu_by_hand():
  # Unstable either way, active, inactive; below it the smaller area.
  low, high = jnp.array([[-1.0, -2, 1, -3], [2, 1, 3, -1]])
  line = relaxation.relax(low, high)
  assert line.unstable.tolist() == [True, True, False, False]
  assert line.lower.tolist() == [1, 0, 1, 0]
  np.testing.assert_allclose(line.upper, [2 / 3, 1 / 3, 1, 0], rtol=1e-6)
  np.testing.assert_allclose(line.gap, [2 / 3, 2 / 3, 0, 0], rtol=1e-6)


@pytest.mark.parametrize('p', NORMS)
def test_nearest_point_of_a_linear_region(p):
  layers = layers_lib.check(network((5, 4), seed=2))
  x, free = np.full(5, 0.1), np.full(5, np.inf)
  label, (w, _) = predicted(layers, x), layers[0]
  others = np.arange(4) != label
  problem = cells.Problem(layers, x, label, -free, free, p)
  for k in np.flatnonzero(others):
    start = x + 100 * (w[:, k] - w[:, label])
    values = np.where(others, logits(layers, start), -np.inf)
    k = values.argmax()  # Who leads there.
    gap = np.diff(logits(layers, x)[[k, label]])[0]
    want = gap / np.linalg.norm(w[:, label] - w[:, k], norms.dual(p))
    point = cells.nearest(problem, start)
    np.testing.assert_allclose(cells.distance(problem, point), want, rtol=1e-5)


@pytest.mark.parametrize('p', (1, np.inf))
def test_least_values_stay_below_exact_ones_by_rounding_alone(p):
  rng = np.random.default_rng(0)
  rows, x = rng.normal(size=(3, 40)), rng.normal(size=40)
  free = np.full(40, np.inf)
  with jax.enable_x64(True):
    region = regions.Region(*map(jnp.asarray, (x, free, free, 0.3)))
    found = regions.least(jnp.asarray(rows), jnp.ones(3), region, p)
  exact = lambda values: [fractions.Fraction(float(v)) for v in values]
  for row, least in zip(rows, found, strict=True):
    size = exact(np.abs(row))
    reach = max(size) if p == 1 else sum(size)
    want = 1 - exact([0.3])[0] * reach
    want += sum(a * b for a, b in zip(exact(row), exact(x), strict=True))
    assert 0 < want - exact([least])[0] < 1e-9


def z_min(found, values):
  return np.min([v[0] for v in values], 0) - found[0][0]


def z_max(found, values):
  return found[0][1] - np.max([v[0] for v in values], 0)


@pytest.mark.parametrize('stride', (1, 2))
def test_convolution_as_dense_layer(stride):
  rng = np.random.default_rng(stride)
  kernel, bias = rng.normal(size=(3, 3, 2, 4)), rng.normal(size=4)
  images = rng.normal(size=(6, 7, 6, 2))
  w, b = certify.dense_from_convolution(kernel, bias, (7, 6, 2), stride=stride)
  with jax.enable_x64(True):
    want = jax.lax.conv_general_dilated(
      images,
      kernel,
      (stride, stride),
      'SAME',
      dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
    )
    want = np.asarray(want) + bias
  got = images.reshape(6, -1) @ w + b
  np.testing.assert_allclose(got, want.reshape(6, -1), atol=1e-12)
  head = network((w.shape[1], 3), seed=0)
  x = 0.3 * images[0]
  layers = [(w, b), *head]
  label = predicted(layers, x.ravel())
  assert certify.lower_bound(layers, x, label, num_steps=0) > 0


def test_misclassified_input_is_at_distance_zero():
  layers = network(WIDTHS, seed=0)
  x = np.full(3, 0.1, np.float32)
  wrong = (predicted(layers, x) + 1) % 3
  assert certify.lower_bound(layers, x, wrong) == 0
  distance, lower, point = certify.exact_distance(layers, x, wrong, norm=2)
  assert distance == lower == 0
  np.testing.assert_array_equal(point, x)


@pytest.mark.parametrize('p', NORMS)
def test_network_without_boundary(p):
  layers = network(WIDTHS, seed=0)
  w, _ = layers[-1]
  layers[-1] = 0 * w, np.array([0.0, 1.0, 0.5])
  x = np.zeros(3)
  assert 1e50 < certify.lower_bound(layers, x, 1, norm=p) < np.inf
  assert certify.lower_bound(layers, x, 1, norm=p, bounds=BOX) == np.inf
  for bounds in (None, BOX):
    distance, lower, point = certify.exact_distance(
      layers, x, 1, norm=p, bounds=bounds
    )
    assert distance == np.inf and lower > 1e50
    np.testing.assert_array_equal(point, x)


@pytest.mark.parametrize('p', NORMS)
def test_box_that_holds_no_boundary(p):
  layers, x = network(WIDTHS, seed=1), np.zeros(3)
  label = predicted(layers, x)
  free, *_ = certify.exact_distance(layers, x, label, norm=np.inf)
  # Too close to the boundary for linear bounds, but not for the programs.
  options = dict(norm=p, bounds=(-0.999 * free, 0.999 * free))
  assert 0 < certify.lower_bound(layers, x, label, **options) < np.inf
  distance, lower, point = certify.exact_distance(layers, x, label, **options)
  assert distance == lower == np.inf
  np.testing.assert_array_equal(point, x)
  options['bounds'] = (-1.001 * free, 1.001 * free)
  assert np.isfinite(certify.exact_distance(layers, x, label, **options)[0])


def test_without_time_the_bounds_still_hold():
  layers, x = network(WIDTHS, seed=10), np.zeros(3)
  label = predicted(layers, x)
  best, *_ = certify.exact_distance(layers, x, label)
  distance, lower, point = certify.exact_distance(
    layers, x, label, time_limit=0.0
  )
  assert 0 < lower < best * 0.9 and best * 1.1 < distance < np.inf
  np.testing.assert_allclose(np.max(np.abs(point - x)), distance)


def test_logits_in_jax_are_those_in_numpy():
  layers = network(WIDTHS, seed=0)
  x = np.random.default_rng(0).uniform(-1, 1, 3)
  want = logits(layers, x)
  got = layers_lib.logits(layers, jnp.asarray(x))
  np.testing.assert_allclose(got, want, rtol=1e-5)
  np.testing.assert_allclose(
    layers_lib.preactivations(layers, x)[-1], want, rtol=1e-12
  )


def test_many_examples_agree_with_one():
  layers = network(WIDTHS, seed=0)
  xs = np.random.default_rng(0).uniform(-1, 1, (5, 3, 1))
  labels = predicted(layers, xs.reshape(5, -1))
  labels[2] = (labels[2] + 1) % 3
  many = certify.lower_bounds(layers, xs, labels, bounds=BOX, batch_size=2)
  for x, label, bound in zip(xs, labels, many, strict=True):
    alone = certify.lower_bound(layers, x, label, bounds=BOX)
    np.testing.assert_allclose(bound, alone, rtol=1e-6)
  assert many[2] == 0 and np.all(np.delete(many, 2) > 0)


def test_refuses_bad_input():
  layers, x = network((3, 4, 2), seed=0), np.zeros(3)
  bound = functools.partial(certify.lower_bound, layers)
  with pytest.raises(ValueError, match='norm must be'):
    bound(x, 0, norm=3)
  with pytest.raises(ValueError, match='takes 3 inputs'):
    bound(np.zeros(4), 0)
  with pytest.raises(ValueError, match='outside bounds'):
    bound(x, 0, bounds=(0.5, 1.0))
  with pytest.raises(ValueError, match=r'\[0, 2\)'):
    bound(x, 2)
  with pytest.raises(ValueError, match='layer 1 must have'):
    certify.lower_bound([layers[0], (np.zeros((5, 2)), np.zeros(2))], x, 0)
  with pytest.raises(ValueError, match='not finite'):
    certify.exact_distance([(np.full((3, 2), np.nan), np.zeros(2))], x, 0)
