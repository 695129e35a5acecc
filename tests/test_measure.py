"""`boundary.measure` over a data set: who is searched, seeds, invariances."""

import functools
import itertools
import json
import pathlib
import subprocess
import sys
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest

from dmm_jax import boundary
from dmm_jax import norms
from dmm_jax.boundary import subspace
from dmm_jax.boundary.point import Status

NORMS = (1, 2, np.inf)
ROOT = pathlib.Path(__file__).parent.parent
BUDGET = 60  # Of 'portfolio': a contest of all targets, but a short one.
METHODS = ('fast', 'portfolio')
SIZE, CLASSES = 6, 5
slow = lambda *values: pytest.param(*values, marks=pytest.mark.slow)
each_method = pytest.mark.parametrize('method', METHODS)


def layers(seed, widths=(SIZE, 16, CLASSES)):
  rng = np.random.default_rng(seed)
  return [
    (rng.normal(size=(m, n)) * (2 / m) ** 0.5).astype(np.float32)
    for m, n in itertools.pairwise(widths)
  ]


def network(weights):
  def logits_fn(x):
    for w in weights[:-1]:
      x = jax.nn.relu(x @ w.astype(x.dtype))
    return x @ weights[-1].astype(x.dtype)

  return logits_fn


def inputs(seed, num=12):
  rng = np.random.default_rng(100 + seed)
  return rng.normal(size=(num, SIZE)).astype(np.float32)


def measure(weights, xs, labels=None, method='fast', **options):
  options.setdefault('max_gradients', BUDGET)
  return boundary.measure(
    network(weights), xs, labels, method=method, **options
  )


def solver(method):
  def solve(x, *weights):
    return boundary.nearest_point(
      network(weights),
      x,
      jnp.argmax(network(weights)(x)),
      method=method,
      max_gradients=BUDGET,
    )

  return solve


@functools.cache
def base(seed, method):
  """What the invariances are held against: computed once."""
  return measure(layers(seed), inputs(seed), method=method)


def assert_same(got, want, *, rtol):
  """Equal distances, and points where the class was seen to differ."""
  np.testing.assert_allclose(got.distance, want.distance, rtol=rtol)
  np.testing.assert_array_equal(got.status, want.status)


@each_method
@pytest.mark.parametrize('seed', range(3))
def test_scale_of_the_logits_does_not_matter(method, seed):
  *rest, last = layers(seed)
  want = base(seed, method)
  for factor in (2.0**-10, 2.0**10):
    scaled = [*rest, last * np.float32(factor)]
    got = measure(scaled, inputs(seed), method=method)
    assert_same(got, want, rtol=1e-6)
    np.testing.assert_array_equal(got.target, want.target)


@each_method
@pytest.mark.parametrize('seed', range(3))
def test_order_of_the_classes_does_not_matter(method, seed):
  *rest, last = layers(seed)
  order = np.random.default_rng(seed).permutation(CLASSES)
  got = measure([*rest, last[:, order]], inputs(seed), method=method)
  assert_same(got, base(seed, method), rtol=1e-4)
  np.testing.assert_array_equal(order[got.target], base(seed, method).target)


@each_method
@pytest.mark.parametrize('seed', range(3))
def test_order_of_the_coordinates_does_not_matter(method, seed):
  # Random points, where there are any, are other ones.
  first, *rest = layers(seed)
  order = np.random.default_rng(seed).permutation(SIZE)
  got = measure([first[order], *rest], inputs(seed)[:, order], method=method)
  assert_same(got, base(seed, method), rtol=0.01)


@pytest.mark.parametrize('batch_size', (1, 7, 64))
@pytest.mark.parametrize('method', ('fast', slow('portfolio')))
def test_batch_size_does_not_matter(method, batch_size):
  xs = inputs(0)
  got = measure(layers(0), xs, method=method, batch_size=batch_size)
  # Every point is pulled back to within 1e-5 of the boundary, no closer.
  assert_same(got, base(0, method), rtol=3e-5)
  logits = jax.vmap(network(layers(0)))
  differs = jnp.argmax(logits(got.point), 1) != jnp.argmax(logits(xs), 1)
  assert np.all(differs == (got.status == Status.FOUND))


@pytest.mark.parametrize('method', list(map(slow, METHODS)))
def test_one_example_with_jit_and_without(method):
  x = jnp.asarray(inputs(0)[0])
  solve = functools.partial(solver(method), x)
  got, want = solve(*layers(0)), jax.jit(solve)(*layers(0))
  np.testing.assert_allclose(got.distance, want.distance, rtol=1e-4)
  np.testing.assert_allclose(
    want.distance, base(0, method).distance[0], rtol=1e-5
  )
  assert got.target == want.target


@pytest.mark.parametrize('method', ('fast', slow('portfolio')))
def test_precision_does_not_matter(method):
  want = base(0, method)
  with jax.enable_x64(True):
    got = measure(layers(0), inputs(0).astype(np.float64), method=method)
  assert got.distance.dtype == got.point.dtype == np.float64
  assert_same(got, want, rtol=1e-3)


@pytest.mark.parametrize('method', ('projection', slow('portfolio')))
def test_a_seed_repeats_and_others_find_the_same(method):
  solve = functools.partial(
    measure, layers(0), inputs(0), method=method, max_gradients=400
  )
  first = solve(seed=3)
  with oracles.compilations() as compiled:
    again, large, negative = (solve(seed=s) for s in (3, 2**40 + 5, -1))
  assert not compiled
  jax.tree.map(np.testing.assert_array_equal, first, again)
  # A single search ends in a local optimum: at the kink next to one of these
  # inputs 30 seeds spread over 1.8 %, everywhere else over 0.1 %.
  for other in (large, negative):
    assert_same(other, first, rtol=0.02 if method == 'projection' else 0.01)
    assert np.mean(np.isclose(other.distance, first.distance, 2e-3)) >= 0.9
    assert np.any(other.point != first.point)


def broken(x):
  """Five logits, not finite on one side."""
  return network(layers(0))(x) + jnp.where(x[0] > 1, jnp.nan, 0.0)


@pytest.mark.parametrize('method', ('deepfool', slow('fast')))
def test_only_what_needs_a_search_is_searched(method):
  xs = inputs(0, num=23)
  predicted = np.array(jnp.argmax(jax.vmap(broken)(xs), 1))
  labels = predicted.copy()
  labels[::3] = (labels[::3] + 1) % CLASSES
  found = boundary.measure(broken, xs, labels, method=method, batch_size=8)
  # What every example had before any was left out of the search.
  solve = functools.partial(boundary.nearest_point, broken, method=method)
  want = jax.jit(jax.vmap(solve))(xs, labels)
  statuses = set(found.status.tolist())
  assert {Status.FOUND, Status.MISCLASSIFIED, Status.NON_FINITE} <= statuses
  np.testing.assert_array_equal(found.status, want.status)
  np.testing.assert_array_equal(found.target, want.target)
  for name in ('distance', 'margin', 'point', 'normal'):
    got, before = getattr(found, name), getattr(want, name)
    assert got.dtype == before.dtype, name
    np.testing.assert_allclose(got, before, rtol=2e-4, atol=2e-4, err_msg=name)
  wrong = found.status == Status.MISCLASSIFIED
  np.testing.assert_array_equal(found.point[wrong], xs[wrong])
  np.testing.assert_array_equal(found.target[wrong], predicted[wrong])
  searched = (predicted == labels) & (xs[:, 0] <= 1)
  np.testing.assert_array_equal(
    found.gradients[searched], want.gradients[searched]
  )
  assert np.all(found.gradients[~searched] <= 1)
  assert np.all(found.forwards[~searched] == 1)


def test_number_of_searches_compiles_nothing():
  xs = inputs(0, num=20)
  labels = np.array(jnp.argmax(jax.vmap(network(layers(0)))(xs), 1))
  solve = functools.partial(
    measure, layers(0), xs, method='deepfool', batch_size=8
  )
  labels[0] = (labels[0] + 1) % CLASSES
  solve(labels)
  with oracles.compilations() as compiled:
    for wrong in (slice(3), slice(15), slice(18), slice(20)):
      other = labels.copy()
      other[wrong] = (other[wrong] + 1) % CLASSES
      solve(other)
  assert not compiled


def test_probabilities_are_warned_of():
  logits_fn, xs = network(layers(0)), inputs(0)
  softmax = lambda x: jax.nn.softmax(logits_fn(x))
  solve = functools.partial(boundary.measure, method='linear')
  with pytest.warns(UserWarning, match='look like probabilities') as seen:
    solve(softmax, xs)
    assert len(seen) == 1
    solve(softmax, xs, np.zeros(len(xs), int))
    assert len(seen) == 2
  with warnings.catch_warnings():
    warnings.simplefilter('error')
    solve(logits_fn, xs)
    solve(logits_fn, xs[:0])
    solve(lambda x: jnp.log(softmax(x)), xs)


@pytest.mark.parametrize('p', NORMS)
@pytest.mark.parametrize('num_labels', (None, 0))
def test_no_example_is_no_result(p, num_labels):
  labels = None if num_labels is None else np.zeros(0, int)
  found = measure(layers(0), inputs(0)[:0], labels, norm=p)
  assert found.point.shape == found.normal.shape == (0, SIZE)
  assert found.status.shape == (0,) and found.status.dtype == np.int32


@pytest.mark.parametrize('p', NORMS)
def test_every_input_may_have_bounds_of_its_own(p):
  weights, xs = layers(3, (SIZE, 2)), inputs(3)
  low = np.array([-np.inf, -3, -3, -2.5, -9, -3], np.float32)
  high = np.array([np.inf, 3, 2.5, np.inf, 3, 9], np.float32)
  xs = np.clip(xs, low, high)
  found = measure(weights, xs, norm=p, bounds=(low, high), method='deepfool')
  assert np.all((found.point >= low) & (found.point <= high))
  logits = xs @ weights[0]
  gap = logits.max(1) - logits.min(1)
  rows = weights[0].T[np.argmin(logits, 1)] - weights[0].T[np.argmax(logits, 1)]
  steps = jax.vmap(functools.partial(norms.smallest_step, norm=p))(
    rows, gap, low - xs, high - xs
  )
  within_reach = np.sum(rows * steps, 1) > gap * (1 - 1e-4)
  assert within_reach.sum() > 6
  np.testing.assert_array_equal(found.status == Status.FOUND, within_reach)
  want = jax.vmap(functools.partial(norms.norm, p=p))(steps)
  np.testing.assert_allclose(
    found.distance[within_reach], want[within_reach], rtol=1e-3
  )
  with pytest.raises(ValueError, match='lie outside bounds'):
    measure(weights, xs + 100, bounds=(low, high))


def subspace_problem(seed, size=20, rank=8, at_bound=3):
  rng = np.random.default_rng(seed)
  basis = np.linalg.qr(rng.normal(size=(size, rank)))[0]
  x = rng.uniform(size=size)
  x[:at_bound] = 0
  return basis, basis @ (basis.T @ rng.normal(size=size)), -x, 1 - x


@functools.cache
def project_feasible():
  return jax.jit(
    lambda basis, *args: subspace.project_feasible(
      lambda v: basis @ (basis.T @ v), *args
    )
  )


@pytest.mark.parametrize('p', NORMS)
@pytest.mark.parametrize('share', (0.3, 0.8, 1.5))
def test_steps_in_subspace_and_box_agree_with_scipy(p, share):
  """`share` of what the subspace and the box allow at most is predicted."""
  reached, lengths = [], []
  for seed in range(8):
    basis, g, low, high = subspace_problem(seed)
    most = oracles.largest_gain(basis, g, low, high)
    gap = share * most
    step = norms.smallest_step(*map(jnp.float32, (g, gap, low, high)), norm=p)
    step, left = project_feasible()(
      *map(jnp.float32, (basis, step, g, low, high))
    )
    step = np.asarray(step, float)
    assert np.all((step >= np.float32(low)) & (step <= np.float32(high)))
    off = np.linalg.norm(step - basis @ (basis.T @ step))
    assert off <= 1e-5 * np.linalg.norm(step)
    gain = g @ step
    decrease = g @ np.asarray(
      norms.smallest_step(*map(jnp.float32, (g, gap, low, high)), norm=p)
    )
    np.testing.assert_allclose(gain / decrease, left, atol=1e-3)
    assert gain <= most * (1 + 1e-5)
    reached.append(gain / min(decrease, most))
    want = oracles.smallest_step(basis, g, gain, low, high, p)
    lengths.append(np.linalg.norm(step, p) / want)
  assert min(reached) >= (0.999 if share < 0.5 else 0.35)
  assert np.mean(reached) >= {0.3: 0.999, 0.8: 0.8, 1.5: 0.6}[share]
  assert min(lengths) >= 1 - 1e-3
  assert np.median(lengths) <= (1.01 if p == 2 else 1.6)


def test_decreases_that_fit_are_preserved():
  basis, g, low, high = map(jnp.float32, subspace_problem(0))
  for bounds in ((-jnp.inf, jnp.inf), (-99 + 0 * low, 99 + 0 * high)):
    step, left = project_feasible()(basis, 0.1 * g, g, *bounds)
    np.testing.assert_allclose(step, 0.1 * g, atol=1e-6)
    np.testing.assert_allclose(left, 1.0, rtol=1e-5)
  for gradient in (0 * g, g):
    step, left = project_feasible()(basis, 0 * g, gradient, low, high)
    assert not np.any(step) and left == 1


@pytest.mark.parametrize(
  'method',
  (
    'linear',
    'deepfool',
    'projection',
    slow('fast'),
  ),
)
@pytest.mark.parametrize('p', (2, slow(1), slow(np.inf)))
def test_points_lie_in_subspace_and_box(method, p):
  size, rank = 30, 12
  weights = layers(0, (size, 32, CLASSES))
  rng = np.random.default_rng(0)
  xs = rng.uniform(-0.1, 1.1, (16, size)).clip(0, 1).astype(np.float32)
  basis = np.linalg.qr(rng.normal(size=(size, rank)))[0].astype(np.float32)
  found = measure(
    weights,
    xs,
    norm=p,
    bounds=(0.0, 1.0),
    project=lambda v: jnp.asarray(basis @ basis.T) @ v,
    method=method,
  )
  assert np.all((found.point >= 0) & (found.point <= 1))
  step = found.point - xs
  np.testing.assert_allclose(step @ basis @ basis.T, step, atol=1e-5)
  # Each has inputs at bounds, which used to stop all but a few of them.
  assert np.mean(np.any((xs == 0) | (xs == 1), axis=1)) > 0.9
  assert np.mean(np.isfinite(found.distance)) > 0.7


MEMORY = """
import json, resource
import jax, jax.numpy as jnp, numpy as np
from dmm_jax import boundary

rng = np.random.default_rng(0)
first = rng.normal(size=(3072, 64)).astype(np.float32) / 40
last = rng.normal(size=(64, 1000)).astype(np.float32) / 8
xs = rng.uniform(size=(10_000, 3072)).astype(np.float32)
found = boundary.measure(
  lambda x: jax.nn.relu((x - 0.5) @ first) @ last,
  xs,
  bounds=(0.0, 1.0),
  method='fast',
  batch_size=256,
)
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(json.dumps([peak / 2**20, int((found.status == 0).sum())]))
"""


@pytest.mark.slow
def test_ten_thousand_images_of_a_thousand_classes_take_little_memory():
  out = subprocess.run(
    [sys.executable, '-c', MEMORY],
    cwd=ROOT,
    check=True,
    capture_output=True,
    text=True,
  )
  gibibytes, num_found = json.loads(out.stdout.splitlines()[-1])
  print(f'peak resident memory: {gibibytes:.2f} GiB')
  assert num_found == 10_000
  assert gibibytes < 4
