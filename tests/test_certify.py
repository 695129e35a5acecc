"""Certified bounds and exact distances, by closed forms and enumeration."""

import certify_oracles
import jax
import jax.numpy as jnp
import kernel_oracles
import numpy as np
import pytest

from dmm_jax import boundary
from dmm_jax import certify
from dmm_jax.certify import layers as layers_lib

NORMS = (1, 2, np.inf)
BOX = (-1.0, 1.0)
WIDTHS = (3, 4, 2, 3)  # Of most tests: they share compiled programs.
WIDE = (3, 8, 8, 3)
network, logits = certify_oracles.network, certify_oracles.logits
predicted = certify_oracles.predicted


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
  label = values.argmax()
  if bounds is not None:
    return label, certify_oracles.distance(layers, x, label, p, *bounds)
  others = np.delete(np.arange(b.size), label)
  dual = {1: np.inf, 2: 2, np.inf: 1}[p]
  sizes = np.linalg.norm(w[:, [label]] - w[:, others], dual, axis=0)
  return label, np.min((values[label] - values[others]) / sizes)


@pytest.mark.parametrize('boxed', (False, True))
@pytest.mark.parametrize('p', NORMS)
def test_linear_network_has_closed_form(p, boxed):
  layers = network((6, 4), seed=0)
  xs = np.random.default_rng(1).uniform(-0.9, 0.9, (5, 2, 3))
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


@pytest.mark.parametrize(
  'p', (pytest.param(1.1, marks=pytest.mark.slow), 1.5, 3.0, 8.0)
)
def test_lower_bounds_of_any_norm(p):
  """Exact for a linear network; below any boundary point of a deep one."""
  layers, rng = network((6, 4), seed=0), np.random.default_rng(3)
  (w, b), x = layers[0], rng.uniform(-0.9, 0.9, 6)
  values = x @ w + b
  label = int(values.argmax())
  gaps = np.delete(values[label] - values, label)
  rows = np.delete(w[:, [label]] - w, label, 1)
  sizes = np.linalg.norm(rows, p / (p - 1), axis=0)
  lower = certify.lower_bound(layers, x, label, norm=p)
  np.testing.assert_allclose(lower, np.min(gaps / sizes), rtol=1e-6)
  deep, bounds = network(WIDTHS, 2), (-1.2, 0.9)
  x = rng.uniform(-1, 0.9, 3)
  label = predicted(deep, x)
  lower = certify.lower_bound(deep, x, label, norm=p, bounds=bounds)
  steps = rng.normal(size=(20000, 3))
  steps *= rng.uniform(0, 3, (20000, 1)) / np.linalg.norm(steps, p, 1)[:, None]
  points = np.clip(x + steps, *bounds)
  crossed = logits(deep, points).argmax(1) != label
  nearest = np.linalg.norm(points - x, p, 1)[crossed].min()
  assert 0.5 * nearest < lower <= nearest


@pytest.mark.parametrize(
  ('p', 'bounds'),
  [
    *((1, None), (2, (-1.2, 0.9)), (np.inf, (-1.2, 0.9))),
    pytest.param(1, (-1.2, 0.9), marks=pytest.mark.slow),
    *(pytest.param(p, None, marks=pytest.mark.slow) for p in (2, np.inf)),
  ],
)
def test_exact_distances_are_those_of_all_linear_regions(p, bounds):
  """guarantees.md: lower <= true distance <= distance, and how close."""
  finite = 0
  # Of the third one no boundary is within the box; x has no gradient.
  for seed in (2, 4, 7, 8, 13):
    layers = network(WIDTHS, seed)
    x = np.random.default_rng(seed + 10).uniform(-1, 0.9, 3)
    label = predicted(layers, x)
    want = certify_oracles.distance(layers, x, label, p, *(bounds or ()))
    options = {'norm': p, 'bounds': bounds}
    found = certify.exact_distance(layers, x, label, **options)
    distance, proven, point = found
    plain = certify.lower_bound(layers, x, label, num_steps=0, **options)
    lower = certify.lower_bound(layers, x, label, **options)
    assert 0 < plain <= lower
    if seed == 7:
      assert distance == np.inf and max(lower, proven) <= want
      assert np.isinf(proven) == np.isinf(want) == bool(bounds)
      np.testing.assert_array_equal(point, x)
      continue
    finite += 1
    np.testing.assert_allclose(distance, want, rtol=2e-6)
    assert proven <= distance <= proven * (1 + (1.01e-5 if p == 2 else 1.01e-7))
    assert lower <= distance * (1 + 1e-9)
    np.testing.assert_allclose(np.linalg.norm(point - x, p), distance)
    values = logits(layers, point)
    margin = values[label] - np.delete(values, label).max()
    assert margin <= 1e-6
    if bounds:
      assert np.all((point >= bounds[0]) & (point <= bounds[1]))
  assert finite == 4


def check_random_network(seed, p, bounds):
  """Holds bounds, exact distances and a search against each other."""
  layers = network(WIDE, seed)
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
  stacks = [network(WIDE, s) for s in seeds]
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


@pytest.mark.slow
@pytest.mark.parametrize('bounds', (None, BOX))
@pytest.mark.parametrize('p', NORMS)
def test_bounds_are_in_order_on_many_random_networks(p, bounds):
  check_random_networks(range(1000, 1170), p, bounds)


@pytest.mark.parametrize('stride', (1, 2, 3))
def test_convolution_as_dense_layer(stride):
  """By sums of shifted images; windows that are not square, odd sizes."""
  rng = np.random.default_rng(stride)
  shape = 7, 6
  kernel, bias = rng.normal(size=(3, 3, 2, 4)), rng.normal(size=4)
  given = [v.astype(np.float32) for v in (kernel, bias)]
  w, b = certify.dense_from_convolution(*given, (*shape, 2), stride=stride)
  assert w.dtype == b.dtype == np.float64
  kernel, bias = (v.astype(float) for v in given)
  images = rng.normal(size=(2, *shape, 2))
  shifts, after = kernel_oracles.shifts(('convolve', 3, stride), shape)
  parts = kernel.reshape(9, 2, 4)
  for image in images:
    flat = image.reshape(-1, 2)
    want = sum(s @ flat @ v for s, v in zip(shifts, parts, strict=True)) + bias
    np.testing.assert_allclose(image.ravel() @ w + b, want.ravel(), atol=1e-12)
  assert b.shape == (np.prod(after) * 4,)
  if stride == 1:
    again = certify.dense_from_convolution(*given, (*shape, 2))
    np.testing.assert_array_equal(again[0], w)


def test_convolution_of_a_large_image_comes_in_parts():
  """More than 1024 inputs; a window of 1 x 2, whose second pixel is padded."""
  kernel = np.array([2.0, 5.0]).reshape(1, 2, 1, 1)
  w, b = certify.dense_from_convolution(kernel, np.array([0.5]), (2, 515, 1))
  want = np.kron(np.eye(2), 2 * np.eye(515) + 5 * np.eye(515, k=-1))
  np.testing.assert_array_equal(w, want)
  np.testing.assert_array_equal(b, np.full(1030, 0.5))


def test_misclassified_input_is_at_distance_zero():
  layers = network(WIDTHS, seed=0)
  x = np.full(3, 0.1, np.float32)
  wrong = (predicted(layers, x) + 1) % 3
  assert certify.lower_bound(layers, x, wrong) == 0
  distance, lower, point = certify.exact_distance(layers, x, wrong, norm=2)
  assert distance == lower == 0 and point.dtype == np.float64
  np.testing.assert_array_equal(point, x)
  # So are ties.
  layers = [(np.ones((3, 2)), np.zeros(2))]
  for label in (0, 1):
    assert certify.lower_bound(layers, x, label, num_steps=0) == 0
    distance, lower, point = certify.exact_distance(layers, x[:, None], label)
    assert distance == lower == 0 and point.shape == (3, 1)


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
  layers, x = network(WIDTHS, seed=16), np.zeros(3)
  label = predicted(layers, x)
  free = certify_oracles.distance(layers, x, label, np.inf)
  # Too close to the boundary for linear bounds, but not for the programs.
  options = dict(norm=p, bounds=(-0.999 * free, 0.999 * free))
  assert 0 < certify.lower_bound(layers, x, label, **options) < np.inf
  distance, lower, point = certify.exact_distance(layers, x, label, **options)
  assert distance == lower == np.inf
  np.testing.assert_array_equal(point, x)
  # Without time it is unknown: inf for no point, but no proof.
  distance, lower, _ = certify.exact_distance(
    layers, x, label, time_limit=0.0, **options
  )
  assert distance == np.inf and 0 < lower < np.inf
  options['bounds'] = (-1.001 * free, 1.001 * free)
  assert np.isfinite(certify.exact_distance(layers, x, label, **options)[0])


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
  if p == 2 and name != 'no low end':  # Seconds.
    return
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
  if p == 2 and dtype != np.float32:  # Seconds.
    return
  distance, _, point = certify.exact_distance(
    layers, xs[0], labels[0], norm=p, bounds=(low, high)
  )
  np.testing.assert_allclose(distance, want[0], rtol=4 * rtol)
  # Outside the bounds is the input's own rounding at most.
  outside = np.maximum(low - point, point - high)
  assert np.max(outside) <= high * np.finfo(dtype).eps


def test_box_holds_its_inputs_and_is_widened_by_rounding_alone():
  # guarantees.md: which inputs the box is widened by.
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


def test_inputs_in_half_precision_are_those_numbers():
  layers, xs, _ = linear_examples()
  xs = jnp.asarray(xs, jnp.bfloat16)
  double = np.asarray(xs).astype(np.float64)
  labels = predicted(layers, double.reshape(4, 6))
  np.testing.assert_array_equal(
    certify.lower_bounds(layers, xs, labels),
    certify.lower_bounds(layers, double, labels),
  )


@pytest.mark.parametrize('p', NORMS)
def test_no_example_gives_no_bound(p):
  layers, _, _ = linear_examples()
  xs = np.zeros((0, 2, 3))
  for labels, bounds in (([], None), (np.zeros(0, np.int32), (xs, 1.0))):
    found = certify.lower_bounds(layers, xs, labels, norm=p, bounds=bounds)
    assert found.shape == (0,) and found.dtype == np.float64
