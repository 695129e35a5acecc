import fractions
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
    margin = values[label] - np.delete(values, label).max()
    assert margin <= 1e-6
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


def test_relaxation_of_a_relu_by_hand():
  # Unstable either way, active, inactive; below it the smaller area.
  low, high = jnp.array([[-1.0, -2, 1, -3], [2, 1, 3, -1]])
  relu = relaxation.relax(low, high)
  assert relu.unstable.tolist() == [True, True, False, False]
  assert relu.lower.tolist() == [1, 0, 1, 0]
  np.testing.assert_allclose(relu.upper, [2 / 3, 1 / 3, 1, 0], rtol=1e-6)
  np.testing.assert_allclose(relu.intercept, [2 / 3, 2 / 3, 0, 0], rtol=1e-6)


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
    found = regions.minimize(jnp.asarray(rows), jnp.ones(3), region, p)
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
  assert distance == lower == 0 and point.dtype == np.float64
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


@pytest.mark.parametrize('p', NORMS)
def test_without_time_the_bounds_still_hold(p):
  layers, x = network(WIDTHS, seed=10), np.zeros(3)
  label = predicted(layers, x)
  # No limit is a limit too.
  best, proven, _ = certify.exact_distance(
    layers, x, label, norm=p, time_limit=np.inf
  )
  assert proven >= best * (1 - 2e-5)
  distance, lower, point = certify.exact_distance(
    layers, x, label, norm=p, time_limit=0.0
  )
  # No program, which would close the gap, has run.
  assert 0 < lower < best * 0.9 and best * (1 - 1e-9) <= distance < np.inf
  np.testing.assert_allclose(np.linalg.norm(point - x, p), distance)


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


def linear_examples(num=4):
  """A linear network, inputs [num, 2, 3] and their classes."""
  layers = network((6, 4), seed=0)
  xs = np.random.default_rng(1).uniform(-0.9, 0.9, (num, 2, 3))
  return layers, xs, predicted(layers, xs.reshape(num, 6))


def test_default_norm_is_l2():
  layers, xs, labels = linear_examples()
  _, want = closed_form(layers, xs[0].ravel(), 2, None)
  distance, lower, _ = certify.exact_distance(layers, xs[0], labels[0])
  bound = certify.lower_bound(layers, xs[0], labels[0])
  np.testing.assert_allclose([distance, lower, bound], want, rtol=2e-5)
  assert want > 1.1 * closed_form(layers, xs[0].ravel(), np.inf, None)[1]


LOW, HIGH = -np.linspace(0.9, 1.1, 6), np.linspace(0.9, 1.0, 6)
ENDS = {
  'no low end': (None, 0.95),
  'no high end': (np.float32(-0.95), None),
  'no end': (None, None),
  'one input': (LOW.reshape(2, 3), HIGH.reshape(2, 3)),
  'a list, in JAX': [jnp.full((2, 3), -1.0), jnp.array(1.0)],
}


@pytest.mark.parametrize('name', ENDS)
@pytest.mark.parametrize('p', NORMS)
def test_ends_of_bounds_on_a_linear_network(p, name):
  layers, xs, labels = linear_examples()
  low, high = ENDS[name]
  lower = certify.lower_bounds(
    layers, xs, labels, norm=p, bounds=ENDS[name], num_steps=0
  )
  box = tuple(
    np.broadcast_to(np.float64(none if end is None else end), (2, 3)).ravel()
    for end, none in ((low, -np.inf), (high, np.inf))
  )
  want = [closed_form(layers, x.ravel(), p, box)[1] for x in xs]
  np.testing.assert_allclose(lower, want, rtol=1e-6)
  distance, proven, point = certify.exact_distance(
    layers, xs[0], labels[0], norm=p, bounds=ENDS[name]
  )
  np.testing.assert_allclose([distance, proven], want[0], rtol=2e-5)
  assert np.all((point.ravel() >= box[0]) & (point.ravel() <= box[1]))


@pytest.mark.parametrize('p', NORMS)
def test_each_input_may_have_its_own_bounds(p):
  layers, xs, labels = linear_examples()
  rng = np.random.default_rng(2)
  low, high = (xs + s * rng.uniform(0.0, 0.3, xs.shape) for s in (-1, 1))
  lower = certify.lower_bounds(
    layers, xs, labels, norm=p, bounds=(low, high), batch_size=3
  )
  want = [
    closed_form(layers, x.ravel(), p, (a.ravel(), b.ravel()))[1]
    for x, a, b in zip(xs, low, high, strict=True)
  ]
  np.testing.assert_allclose(lower, want, rtol=1e-6)
  assert 2 <= np.isfinite(want).sum() < 4
  # One end of each input's own, the other of all.
  lower = certify.lower_bounds(layers, xs, labels, norm=p, bounds=(low, 1.0))
  want = closed_form(layers, xs[3].ravel(), p, (low[3].ravel(), np.ones(6)))
  np.testing.assert_allclose(lower[3], want[1], rtol=1e-6)


@pytest.mark.parametrize('dtype', (np.float64, np.float32, np.float16))
@pytest.mark.parametrize('p', NORMS)
def test_inputs_that_were_clipped_lie_within_bounds(p, dtype):
  layers, raw, _ = linear_examples()
  # Standardised pixels: bounds that no dtype represents.
  low, high = (0 - 0.1307) / 0.3081, (1 - 0.1307) / 0.3081
  xs = np.clip(3 * raw, low, high).astype(dtype)
  double = xs.astype(np.float64).reshape(4, 6)
  labels = predicted(layers, double)
  box = np.full(6, low), np.full(6, high)
  rtol = 1e-6 if dtype == np.float64 else 5 * np.finfo(dtype).eps
  want = [closed_form(layers, np.clip(x, *box), p, box)[1] for x in double]
  lower = certify.lower_bounds(layers, xs, labels, norm=p, bounds=(low, high))
  np.testing.assert_allclose(lower, want, rtol=4 * rtol)
  distance, _, point = certify.exact_distance(
    layers, xs[0], labels[0], norm=p, bounds=(low, high)
  )
  np.testing.assert_allclose(distance, want[0], rtol=4 * rtol)
  # Outside the bounds is the input's own rounding at most.
  outside = np.maximum(low - point, point - high)
  assert np.max(outside) <= high * np.finfo(dtype).eps


def test_box_holds_its_inputs_and_is_widened_by_rounding_alone():
  # In float32 0.7 is smaller and 0.8 is larger than the number.
  xs = np.array([[0.7, 0.8], [0.75, 0.75]], np.float32)
  low, high = layers_lib.check_bounds(xs, (0.7, 0.8))
  double = xs.astype(np.float64)
  assert low[0, 0] == double[0, 0] < 0.7 and high[0, 1] == double[0, 1] > 0.8
  np.testing.assert_array_equal(low.ravel()[1:], 0.7)
  np.testing.assert_array_equal(high.ravel()[[0, 2, 3]], 0.8)
  # In float64 these inputs are outside.
  with pytest.raises(ValueError, match='1 of 2 inputs lie outside bounds'):
    layers_lib.check_bounds(double, (0.7, 0.8))
  # Three units of rounding are accepted, three hundred are not.
  xs = np.array([[-1.0, 1.0]], np.float32)
  low, _ = layers_lib.check_bounds(xs, (3e-7 - 1, 1.0))
  np.testing.assert_array_equal(low, [[-1.0, 3e-7 - 1]])
  with pytest.raises(ValueError, match='1 of 1 inputs lie outside bounds'):
    layers_lib.check_bounds(xs, (3e-5 - 1, 1.0))


FUNCTIONS = {
  'lower_bounds': lambda layers, x, label, **options: certify.lower_bounds(
    layers, np.asarray(x)[None], np.asarray(label)[None], **options
  ),
  'lower_bound': certify.lower_bound,
  'exact_distance': certify.exact_distance,
}
each_function = pytest.mark.parametrize('function', FUNCTIONS)


@pytest.mark.parametrize(
  'bounds, message',
  (
    (1.0, 'must be None or a pair'),
    ((0.0, 0.5, 1.0), 'must be None or a pair'),
    ('01', 'must be None or a pair'),
    ({'low': 0.0, 'high': 1.0}, 'must be None or a pair'),
    ((np.nan, 1.0), 'must not be NaN, got 1 in low'),
    ((None, [1.0, np.nan, np.nan]), 'must not be NaN, got 2 in high'),
    ((1.0, -1.0), 'low > high in 1 entries'),
    ((np.array([-1.0, 2.0, 3.0]), 1.0), 'low > high in 2 entries'),
    ((np.zeros(4), 1.0), r'of shape \(3,\).* shape \(4,\) for low'),
    ((-1.0, np.ones((5, 3))), r'got shape \(5, 3\) for high'),
    ((-1.0, np.ones((3, 1))), r'got shape \(3, 1\) for high'),
    ((-1.0, np.ones(1)), r'got shape \(1,\) for high.* np.broadcast_to'),
    (('low', 1.0), "numbers, arrays or None, got 'low' for low"),
    ((-1.0, [1.0, [2.0]]), 'numbers, arrays or None, got .* for high'),
    ((-1.0, 1j), 'numbers, arrays or None, got 1j for high'),
    ((0.5, 1.0), '1 of 1 inputs lie outside bounds'),
    ((None, -0.5), '1 of 1 inputs lie outside bounds'),
  ),
)
@each_function
def test_refuses_bad_bounds(function, bounds, message):
  layers = network((3, 4, 2), seed=0)
  with pytest.raises(ValueError, match=f'bounds.*{message}|{message}'):
    FUNCTIONS[function](layers, np.zeros(3), 0, bounds=bounds)


@pytest.mark.parametrize(
  'label, error, message',
  (
    (np.array([1.0, 0.0]), TypeError, 'labels.argmax'),
    (np.array([1, 0]), TypeError, 'labels.argmax'),
    (1.0, TypeError, 'labels must be integers .* float64'),
    (True, TypeError, 'labels must be integers .* bool'),
    (None, TypeError, 'labels must be integers .* object'),
    (np.array([1]), ValueError, r'need as many labels \[1\], got .*1, 1'),
    (2, ValueError, r'labels must lie in \[0, 2\), got .* 2'),
    (-1, ValueError, r'labels must lie in \[0, 2\), got .* -1'),
  ),
)
@each_function
def test_refuses_bad_labels(function, label, error, message):
  layers = network((3, 4, 2), seed=0)
  with pytest.raises(error, match=message):
    FUNCTIONS[function](layers, np.zeros(3), label)


@pytest.mark.parametrize(
  'x, error, message',
  (
    (np.zeros(4), ValueError, r'takes 3 inputs an example, .* \(1, 4\)'),
    (np.zeros(()), ValueError, r'takes 3 inputs an example, .* \(1,\)'),
    (np.zeros(3, np.uint8), TypeError, 'inputs must be floating .* uint8'),
    (np.zeros(3, bool), TypeError, 'inputs must be floating .* bool'),
    (np.array([0, np.nan, 0]), ValueError, '1 of 1 inputs are not finite'),
    (np.array([0, 0, np.inf]), ValueError, '1 of 1 inputs are not finite'),
  ),
)
@each_function
def test_refuses_bad_inputs(function, x, error, message):
  layers = network((3, 4, 2), seed=0)
  with pytest.raises(error, match=message):
    FUNCTIONS[function](layers, x, 0)


@pytest.mark.parametrize('count', (4, 6, 0))
def test_refuses_too_many_or_too_few_labels(count):
  layers = network((3, 4, 2), seed=0)
  with pytest.raises(ValueError, match=rf'5 inputs .* \({count},\)'):
    certify.lower_bounds(layers, np.zeros((5, 3)), np.zeros(count, np.int32))


@pytest.mark.parametrize(
  'option, functions, error, values',
  (
    ('norm', FUNCTIONS, ValueError, (3, 0, np.nan, '2', None, [2])),
    ('batch_size', ('lower_bounds',), ValueError, (0, -1)),
    ('batch_size', ('lower_bounds',), TypeError, (2.0, True, '8', None)),
    ('num_steps', ('lower_bounds', 'lower_bound'), ValueError, (-1,)),
    ('num_steps', ('lower_bounds', 'lower_bound'), TypeError, (1.0, False)),
    ('time_limit', ('exact_distance',), ValueError, (np.nan, -1.0, -np.inf)),
    ('time_limit', ('exact_distance',), TypeError, ('60', None, [1.0])),
  ),
)
def test_refuses_bad_options(option, functions, error, values):
  allowed = {
    'norm': '1, 2 or inf',
    'batch_size': 'an integer, 1 or more',
    'num_steps': 'an integer, 0 or more',
    'time_limit': 'a number of seconds, 0 or more',
  }
  layers = network((3, 4, 2), seed=0)
  for function, value in itertools.product(functions, values):
    with pytest.raises(error, match=f'{option} must be {allowed[option]}, got'):
      FUNCTIONS[function](layers, np.zeros(3), 0, **{option: value})


W, B = np.zeros((3, 2)), np.zeros(2)
FORM = r'must be layers \[\(W \[in, out\], b \[out\]\), \.\.\.\]'


@pytest.mark.parametrize(
  'layers, error, message',
  (
    (lambda x: x @ W, TypeError, f'{FORM}.* got a function'),
    ({'dense0': (W, B)}, TypeError, f'{FORM}.* got dict'),
    (None, TypeError, f'{FORM}.* got NoneType'),
    ('layers', TypeError, f'{FORM}.* got str'),
    ([], ValueError, f'{FORM}.* got none'),
    ((W, B), TypeError, f'{FORM}.* a ndarray as layer 0'),
    ([W], TypeError, f'{FORM}.* a ndarray as layer 0'),
    ([(W, B, B)], TypeError, f'{FORM}.* a tuple of 3 as layer 0'),
    ([(W, B), {'kernel': W}], TypeError, f'{FORM}.* a dict as layer 1'),
    ([(W.T, np.zeros(2))], ValueError, 'layer 0 must have .* pass W.T'),
    ([(np.eye(3), np.zeros(3)), (W.T, B)], ValueError, 'layer 1 .* pass W.T'),
    ([(np.eye(3), np.zeros(3)), (np.eye(4), np.zeros(4))], ValueError, 'layer'),
    ([(W, np.zeros(3))], ValueError, r'layer 0 .* \(3, 2\) and \(3,\)'),
    ([(W, 0.0)], ValueError, r'layer 0 .* \(3, 2\) and \(\)'),
    ([(W[:, :0], B[:0])], ValueError, 'layer 0 must have'),
    ([(W, None)], TypeError, 'b of layer 0 must be .* real numbers'),
    ([(W + 1j, B)], TypeError, 'W of layer 0 must be .* complex128'),
    ([([[1.0], [1.0, 2.0]], B)], TypeError, 'W of layer 0 must be'),
    ([(W, np.array([0.0, np.nan]))], ValueError, 'layer 0 .* not finite'),
    ([(W - np.inf, B)], ValueError, 'layer 0 .* not finite'),
    ([(W[:, :1], B[:1])], ValueError, 'at least two classes, got 1'),
  ),
)
@each_function
def test_refuses_what_is_not_layers(function, layers, error, message):
  with pytest.raises(error, match=message):
    FUNCTIONS[function](layers, np.zeros(3), 0)


@pytest.mark.parametrize('dtype', ('float16', 'bfloat16', 'float8_e4m3fn'))
@pytest.mark.parametrize('which', ('W of layer 0', 'b of layer 1'))
@each_function
def test_refuses_weights_in_half_precision(function, which, dtype):
  # Linear and exact in half precision: its values are not what is missing.
  names = ('W of layer 0', 'b of layer 0'), ('W of layer 1', 'b of layer 1')
  arrays = (np.eye(3), np.zeros(3)), (np.eye(3)[:, :2], np.zeros(2))
  layers = [
    tuple(
      jnp.asarray(v, dtype if name == which else jnp.float32)
      for name, v in zip(*pair, strict=True)
    )
    for pair in zip(names, arrays, strict=True)
  ]
  with pytest.raises(TypeError, match=f'{which} is {dtype}.* to float32'):
    FUNCTIONS[function](layers, np.array([1.0, 0.0, 0.0], np.float32), 0)


def test_inputs_in_half_precision_are_those_numbers():
  layers, xs, _ = linear_examples()
  xs = jnp.asarray(xs, jnp.bfloat16)
  double = np.asarray(xs).astype(np.float64)
  labels = predicted(layers, double.reshape(4, 6))
  np.testing.assert_array_equal(
    certify.lower_bounds(layers, xs, labels),
    certify.lower_bounds(layers, double, labels),
  )


@pytest.mark.parametrize('size', (1e39, -1e39))
@each_function
def test_refuses_weights_beyond_float32(function, size):
  layers = network((3, 4, 2), seed=0)
  layers[1][1][0] = size
  with pytest.raises(ValueError, match=r'layer 1 has .* size 1e\+39'):
    FUNCTIONS[function](layers, np.zeros(3), 0)


@each_function
def test_refuses_inputs_that_overflow_float32_in_the_network(function):
  # Logits of 1e40 and 2e40; a run in float32 has inf - inf.
  scale = np.float32(1e20)
  layers = [
    (scale * np.eye(2, dtype=np.float32), np.zeros(2, np.float32)),
    (scale * np.eye(2, dtype=np.float32), np.zeros(2, np.float32)),
  ]
  x = np.array([1.0, 2.0], np.float32)
  run = layers_lib.logits(layers, jnp.asarray(x))
  assert run.dtype == np.float32 and np.all(np.isinf(run))
  with pytest.raises(ValueError, match='1 of 1 inputs overflow float32'):
    FUNCTIONS[function](layers, x, 1)
  with pytest.raises(ValueError, match='1 of 1 inputs overflow float32'):
    FUNCTIONS[function](network((2, 2), 0), np.array([1e39, 0.0]), 1)
  # Smaller ones do not overflow, though the weights would allow it.
  small = np.float32(1e-4) * x
  assert np.all(np.isfinite(layers_lib.logits(layers, jnp.asarray(small))))
  found = certify.lower_bound(layers, small, 1)
  np.testing.assert_allclose(found, 0.5**0.5 * 1e-4, rtol=1e-4)


@pytest.mark.parametrize('p', NORMS)
def test_no_example_gives_no_bound(p):
  layers, _, _ = linear_examples()
  xs = np.zeros((0, 2, 3))
  for labels, bounds in (([], None), (np.zeros(0, np.int32), (xs, 1.0))):
    found = certify.lower_bounds(layers, xs, labels, norm=p, bounds=bounds)
    assert found.shape == (0,) and found.dtype == np.float64


@pytest.mark.parametrize(
  'change, error, message',
  (
    (dict(stride=0), ValueError, 'stride must be an integer'),
    (dict(stride=1.0), TypeError, 'stride must be an integer'),
    (dict(kernel=np.zeros((3, 3, 4))), ValueError, 'kernel must be'),
    (dict(bias=np.zeros(1)), ValueError, r'bias \[out\] .* \(1,\)'),
    (dict(bias=np.zeros((6, 4))), ValueError, r'bias \[out\] .* \(6, 4\)'),
    (dict(input_shape=(7, 6, 1)), ValueError, r'input_shape .*\(7, 6, 1\)'),
    (dict(input_shape=(7, 6)), ValueError, r'input_shape .*\(7, 6\)'),
    (
      dict(kernel=np.zeros((3, 3, 2, 4), np.float16)),
      TypeError,
      'kernel is float16',
    ),
  ),
)
def test_refuses_what_is_no_convolution(change, error, message):
  given = dict(
    kernel=np.zeros((3, 3, 2, 4)), bias=np.zeros(4), input_shape=(7, 6, 2)
  )
  with pytest.raises(error, match=message):
    certify.dense_from_convolution(**(given | change))
