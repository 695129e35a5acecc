import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import problems
import pytest
from scipy import optimize

from dmm_jax import boundary
from dmm_jax import margins
from dmm_jax import norms
from dmm_jax.boundary import bundle
from dmm_jax.boundary import portfolio
from dmm_jax.boundary import problem as problem_lib
from dmm_jax.boundary import projection
from dmm_jax.boundary import rays
from dmm_jax.boundary.point import Segment
from dmm_jax.boundary.point import Status

NORMS = (1, 2, np.inf)
slow = lambda *values: pytest.param(*values, marks=pytest.mark.slow)
SEARCHES = ('portfolio', 'fast', 'projection', 'deepfool', 'ray')


def linear_network(num_classes=4, shape=(5,), seed=0):
  rng = np.random.default_rng(seed)
  size = int(np.prod(shape))
  weights = rng.normal(size=(num_classes, size)).astype(np.float32)
  bias = rng.normal(size=num_classes).astype(np.float32)
  logits_fn = lambda x: jnp.asarray(weights) @ x.ravel() + jnp.asarray(bias)
  return logits_fn, weights, bias


def linear_distance(weights, bias, x, p):
  logits = weights @ x.ravel() + bias
  label = logits.argmax()
  others = np.delete(np.arange(len(bias)), label)
  reach = [
    (logits[label] - logits[c])
    / np.linalg.norm(weights[label] - weights[c], norms.dual(p))
    for c in others
  ]
  return label, others[np.argmin(reach)], np.min(reach)


@pytest.mark.parametrize('method', (*SEARCHES, 'linear'))
@pytest.mark.parametrize('p', NORMS)
def test_linear_network_has_closed_form(method, p):
  logits_fn, weights, bias = linear_network(shape=(2, 3, 1))
  xs = np.random.default_rng(1).normal(size=(8, 2, 3, 1)).astype(np.float32)
  labels, targets, want = zip(
    *(linear_distance(weights, bias, x, p) for x in xs), strict=True
  )
  labels, targets = np.array(labels), np.array(targets)
  found = boundary.measure(logits_fn, xs, labels, norm=p, method=method)
  np.testing.assert_allclose(found.distance, want, rtol=2e-4)
  assert np.all(found.distance >= np.array(want) * (1 - 1e-5))
  np.testing.assert_array_equal(found.target, targets)
  if method == 'linear':
    assert np.all(found.status == Status.ESTIMATE)
    return
  assert np.all(found.status == Status.FOUND)
  reached = jax.vmap(lambda v: jnp.argmax(logits_fn(v)))(found.point)
  np.testing.assert_array_equal(reached, targets)
  rows = weights[labels] - weights[targets]
  rows /= np.linalg.norm(rows, axis=1, keepdims=True)
  np.testing.assert_allclose(found.normal.reshape(8, 6), rows, atol=1e-5)


@pytest.mark.parametrize('method', ('deepfool', 'ray'))
def test_one_example_under_jit_and_without(method):
  logits_fn, weights, bias = linear_network()
  x = np.random.default_rng(0).normal(size=5).astype(np.float32)
  label, _, want = linear_distance(weights, bias, x, 2)
  solve = functools.partial(boundary.nearest_point, logits_fn, method=method)
  for fn in (solve, jax.jit(solve)):
    np.testing.assert_allclose(
      fn(jnp.asarray(x), label).distance, want, rtol=2e-4
    )


def sphere_network(x):
  """Class 0 inside the unit sphere, class 1 outside."""
  return jnp.stack([1 - jnp.sum(x**2), jnp.zeros((), x.dtype)])


@pytest.mark.parametrize(
  'method', (slow('portfolio'), 'fast', 'projection', 'deepfool')
)
def test_sphere_has_closed_form(method):
  solve = functools.partial(
    boundary.nearest_point, sphere_network, method=method
  )
  for radius in (0.3, 0.8, 1.7, 3.0):
    x = radius * jnp.array([0.6, 0.0, -0.8])
    label = int(radius > 1)
    found = solve(x, label)
    np.testing.assert_allclose(found.distance, abs(radius - 1), rtol=2e-4)
    outwards = jnp.array([0.6, 0.0, -0.8]) * (1 if label else -1)
    np.testing.assert_allclose(found.normal, outwards, atol=1e-3)
    np.testing.assert_allclose(jnp.linalg.norm(found.point), 1, rtol=1e-3)


@pytest.mark.parametrize('method', (slow('portfolio'), *SEARCHES[1:]))
@pytest.mark.parametrize('p', NORMS)
def test_points_stay_in_the_box(method, p):
  logits_fn, *_ = linear_network(shape=(8,), num_classes=2, seed=3)
  x = jnp.linspace(0.0, 1.0, 8)
  label = int(jnp.argmax(logits_fn(x)))
  free = boundary.nearest_point(logits_fn, x, label, norm=p, method=method)
  boxed = boundary.nearest_point(
    logits_fn, x, label, norm=p, bounds=(0.0, 1.0), method=method
  )
  assert boxed.status == Status.FOUND
  assert jnp.all((boxed.point >= 0) & (boxed.point <= 1))
  assert boxed.distance >= free.distance * (1 - 1e-4)
  step = norms.smallest_step(
    jax.grad(lambda v: margins.margin(logits_fn(v), 1 - label))(x),
    margins.margin(logits_fn(x), label),
    -x,
    1 - x,
    norm=p,
  )
  if method != 'ray':  # A ray in a box need not end in the box's solution.
    np.testing.assert_allclose(boxed.distance, norms.norm(step, p), rtol=3e-4)


def test_box_that_holds_no_boundary():
  logits_fn = lambda x: jnp.stack([jnp.sum(x) + 1, jnp.zeros(())])
  for method in SEARCHES:
    found = boundary.nearest_point(
      logits_fn, jnp.ones(3), 0, bounds=(0.0, 1.0), method=method
    )
    assert found.status == Status.NOT_FOUND and jnp.isinf(found.distance)
    np.testing.assert_array_equal(found.point, jnp.ones(3))
    assert found.target == -1 and not jnp.any(found.normal)


@pytest.mark.parametrize('p', NORMS)
def test_projected_search_stays_in_its_subspace(p):
  logits_fn, weights, bias = linear_network(shape=(6,), num_classes=2)
  basis = np.linalg.qr(np.random.default_rng(5).normal(size=(6, 2)))[0]
  project = lambda v: jnp.asarray(basis @ basis.T, v.dtype) @ v
  x = jnp.ones(6)
  label = int(jnp.argmax(logits_fn(x)))
  found = boundary.nearest_point(logits_fn, x, label, norm=p, project=project)
  step = found.point - x
  np.testing.assert_allclose(project(step), step, atol=1e-4)
  if p == 2:
    gradient = basis.T @ (weights[0] - weights[1])
    gap = abs((weights[0] - weights[1]) @ np.ones(6) + bias[0] - bias[1])
    np.testing.assert_allclose(
      found.distance, gap / np.linalg.norm(gradient), rtol=3e-4
    )


def status_of(logits_fn, x=None, label=0, **options):
  x = jnp.ones(3) if x is None else x
  return boundary.nearest_point(logits_fn, x, label, **options)


@pytest.mark.parametrize('method', (*SEARCHES, 'linear'))
def test_inputs_that_need_no_search(method):
  logits_fn, *_ = linear_network(shape=(3,))
  wrong = (int(jnp.argmax(logits_fn(jnp.ones(3)))) + 1) % 4
  found = status_of(logits_fn, label=wrong, method=method)
  assert found.status == Status.MISCLASSIFIED and found.distance == 0
  np.testing.assert_array_equal(found.point, jnp.ones(3))

  constant = status_of(
    lambda x: jnp.array([1.0, 0.0]) + 0 * x[:2], method=method
  )
  assert constant.status == Status.ZERO_GRADIENT
  assert jnp.isinf(constant.distance) and constant.target == -1

  broken = status_of(lambda x: jnp.array([1.0, jnp.nan]) * x[0], method=method)
  assert broken.status == Status.NON_FINITE and jnp.isinf(broken.distance)


@pytest.mark.parametrize('method', SEARCHES)
def test_nan_met_on_the_way_is_no_boundary(method):
  trap = lambda x: jnp.where(x[0] < 0.5, jnp.nan, x[0])
  found = status_of(lambda x: jnp.stack([trap(x), 0 * x[0]]), method=method)
  assert jnp.isinf(found.distance)
  assert found.status in (Status.NON_FINITE, Status.NOT_FOUND)


def relu_network(widths=(6, 16, 16, 5), seed=0):
  keys = jax.random.split(jax.random.key(seed), len(widths) - 1)
  sizes = zip(keys, widths[:-1], widths[1:], strict=True)
  layers = [jax.random.normal(k, (m, n)) * (2 / m) ** 0.5 for k, m, n in sizes]

  def logits_fn(x):
    for w in layers[:-1]:
      x = jax.nn.relu(x @ w)
    return x @ layers[-1]

  return logits_fn


@pytest.mark.parametrize('p', (slow(1), 2, slow(np.inf)))
def test_portfolio_is_the_best_and_never_below_sampling(p):
  logits_fn = relu_network()
  xs = jax.random.normal(jax.random.key(1), (20, 6))
  results = {
    m: boundary.measure(logits_fn, xs, norm=p, method=m) for m in SEARCHES
  }
  best = results['portfolio'].distance
  for result in results.values():
    # Two searches may reach one crossing, each to its tolerance of 1e-5.
    assert np.all(best <= result.distance * (1 + 2e-5))
    flipped = jax.vmap(lambda v: jnp.argmax(logits_fn(v)))
    found = result.status == Status.FOUND
    assert np.all(flipped(result.point)[found] != flipped(xs)[found])
    distance = jax.vmap(lambda v: norms.norm(v, p))(result.point - xs)
    np.testing.assert_allclose(
      distance[found], result.distance[found], rtol=1e-5
    )


def test_invariances():
  logits_fn = relu_network()
  xs = jax.random.normal(jax.random.key(2), (9, 6))
  base = boundary.measure(logits_fn, xs, method='fast')
  scaled = boundary.measure(lambda x: 37.0 * logits_fn(x), xs, method='fast')
  np.testing.assert_allclose(base.distance, scaled.distance, rtol=1e-3)
  order = jnp.array([3, 1, 0, 4, 2])
  mixed = boundary.measure(lambda x: logits_fn(x)[order], xs, method='fast')
  np.testing.assert_allclose(base.distance, mixed.distance, rtol=1e-3)
  np.testing.assert_array_equal(base.target, order[mixed.target])
  alone = boundary.measure(logits_fn, xs, method='fast', batch_size=1)
  np.testing.assert_allclose(base.distance, alone.distance, rtol=1e-4)


@pytest.mark.parametrize('p', (2, np.inf))
def test_projection_improves_on_deepfool_and_meets_the_normal(p):
  logits_fn = relu_network()
  xs = jax.random.normal(jax.random.key(1), (40, 6))
  rough = boundary.measure(logits_fn, xs, norm=p, method='deepfool')
  # Every target is tried: no example is further than DeepFool's.
  every = boundary.measure(logits_fn, xs, norm=p, max_gradients=500)
  assert np.all(every.distance <= rough.distance * 1.001)
  fine = boundary.measure(logits_fn, xs, norm=p, method='projection')
  ratio = fine.distance[rough.status == 0] / rough.distance[rough.status == 0]
  assert np.mean(ratio) < 0.995
  # At a local optimum the step spends its length along the normal.
  step = fine.point - xs
  found = fine.status == 0
  spent = -np.sum(step * fine.normal, 1)
  steepness = np.linalg.norm(fine.normal, norms.dual(p), axis=1)
  best = fine.distance[found] * steepness[found]
  assert np.median(spent[found] / best) > 0.99


def test_projection_on_an_ellipse_agrees_with_scipy():
  axes = np.array([1.0, 2.0, 0.5])
  logits_fn = lambda x: jnp.stack([1 - jnp.sum((x / axes) ** 2), jnp.zeros(())])
  xs = np.array(
    [[0.2, 0.3, 0.1], [0.1, -0.5, 0.2], [2.0, 1.0, 1.0]], np.float32
  )
  found = boundary.measure(logits_fn, xs, method='projection')
  for x, distance in zip(xs, found.distance, strict=True):
    starts = np.random.default_rng(0).normal(size=(20, 3))
    want = min(
      optimize.minimize(
        lambda v, x=x: np.sum((v - x) ** 2),
        start,
        constraints={
          'type': 'eq',
          'fun': lambda v: np.sum((v / axes) ** 2) - 1,
        },
      ).fun
      for start in starts
    )
    assert np.sqrt(want) * (1 - 1e-3) <= distance <= np.sqrt(want) * 1.01


def test_measure_keeps_order_and_counts():
  logits_fn, weights, bias = linear_network()
  xs = np.random.default_rng(0).normal(size=(37, 5)).astype(np.float32)
  found = boundary.measure(logits_fn, xs, batch_size=8)
  want = [linear_distance(weights, bias, x, 2)[2] for x in xs]
  np.testing.assert_allclose(found.distance, want, rtol=2e-4)
  assert (
    isinstance(found.distance, np.ndarray) and found.point.shape == xs.shape
  )
  empty = boundary.measure(logits_fn, xs[:0])
  assert empty.distance.shape == (0,) and empty.point.shape == (0, 5)


def test_measure_refuses_bad_input():
  logits_fn, *_ = linear_network()
  xs = np.zeros((3, 5), np.float32)
  measure = functools.partial(boundary.measure, logits_fn)
  with pytest.raises(ValueError, match='norm must be'):
    measure(xs, norm=3)
  with pytest.raises(ValueError, match='method must be'):
    measure(xs, method='magic')
  with pytest.raises(TypeError, match='floating point'):
    measure(xs.astype(int))
  with pytest.raises(ValueError, match='as many labels'):
    measure(xs, np.zeros(2, int))
  with pytest.raises(ValueError, match=r'\[0, 4\)'):
    measure(xs, np.full(3, 4))
  with pytest.raises(TypeError, match='labels must be integers'):
    measure(xs, np.zeros(3))
  with pytest.raises(ValueError, match='3 of 3 inputs lie outside'):
    measure(xs - 1, bounds=(0.0, 1.0))
  with pytest.raises(ValueError, match='k >= 2'):
    boundary.measure(lambda x: x[:1], xs)


def test_thousand_classes():
  logits_fn, weights, bias = linear_network(num_classes=1000, shape=(4,))
  xs = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)
  found = boundary.measure(logits_fn, xs, max_gradients=400)
  want = [linear_distance(weights, bias, x, 2)[2] for x in xs]
  # Of the 18 classes of largest logit the nine nearest are aimed at.
  logits = xs @ weights.T + bias
  for x, row, distance, least in zip(
    xs, logits, found.distance, want, strict=True
  ):
    top = np.argsort(-row)[:19]
    most = linear_distance(weights[top], bias[top], x, 2)[2]
    assert least * (1 - 1e-4) <= distance <= most * (1 + 1e-3) + 1e-5
  assert np.all(found.status == Status.FOUND)


def unit_segment(margin_fn):
  """The segment from 0 to 1, for a network whose class 0 has this margin."""
  logits_fn = lambda p: jnp.stack([margin_fn(p), jnp.zeros(())])
  problem = problems.create(logits_fn, jnp.zeros(1), 0)
  ends = jnp.zeros(1), jnp.ones(1)
  start, end = (problem_lib.margin_at(problem, p).value for p in ends)
  return problem, Segment(*ends, start, end, 1, Status.FOUND, 0, 0)


@pytest.mark.parametrize('tolerance', [1e-2, 1e-4, 1e-6])
def test_refined_crossing_brackets_the_root(tolerance):
  for margin_fn, root in (
    (lambda p: 0.3 - p[0], 0.3),
    (lambda p: jnp.where(p[0] < 0.7, 1.0, -1e-3), 0.7),
    (lambda p: jnp.cos(p[0] * jnp.pi) ** 3, 0.5),
    (lambda p: jnp.exp(-20 * p[0]) - 1e-6, 6 * np.log(10) / 20),
  ):
    outer, margin, target, forwards = rays.refine_crossing(
      *unit_segment(margin_fn), tolerance=tolerance
    )
    assert margin < 0 and target == 1
    np.testing.assert_allclose(margin, margin_fn(outer), rtol=1e-5)
    assert root - 2e-6 <= outer[0] <= root + tolerance + 3e-6
    assert forwards <= 40


def test_refinement_on_a_linear_piece_takes_two_evaluations():
  *_, forwards = rays.refine_crossing(
    *unit_segment(lambda p: 0.2 - p[0]), tolerance=1e-4
  )
  assert forwards == 2


def test_first_crossing():
  slabs = lambda x: jnp.stack([jnp.cos(x[0]), jnp.zeros(())])
  look = functools.partial(
    boundary.first_crossing, slabs, jnp.zeros(2), max_distance=5.0
  )
  found = look(jnp.array([3.0, 0.0]), 0)
  np.testing.assert_allclose(found.distance, np.pi / 2, rtol=1e-4)
  assert found.found and slabs(found.point)[0] < 0
  assert not look(jnp.array([0.0, 1.0]), 0).found
  assert jnp.isinf(look(jnp.zeros(2), 0).distance)
  assert look(jnp.array([1.0, 0.0]), 1).distance == 0
  # The stated limit: a region thinner than the probes' spacing is missed.
  thin = boundary.first_crossing(
    lambda x: jnp.stack([jnp.abs(x[0] - 0.51) - 0.001, jnp.zeros(())]),
    jnp.zeros(1),
    jnp.ones(1),
    0,
    max_distance=1.0,
    num_probes=4,
  )
  assert not thin.found


def test_margins():
  logits = jnp.array([1.0, 4.0, 2.0])
  assert margins.margin(logits, 1) == 2 and margins.runner_up(logits, 1) == 2
  assert margins.margin(logits, 0) == -3 and margins.runner_up(logits, 0) == 1
  chex.assert_shape(margins.margin(logits, 0), ())
  # 4 units of rounding are no lead of another class, 16 are.
  near = lambda units: jnp.array([1.0, 1 + units * 2.0**-23])
  with_tolerance = margins.margin_with_tolerance
  assert with_tolerance(near(4), 0) > 0 > with_tolerance(near(16), 0)
  # The rounding of the two that meet counts, not of a class far away.
  for mask in (-1e9, -jnp.inf):
    masked = jnp.append(near(16), mask)
    assert with_tolerance(masked, 0) == with_tolerance(near(16), 0)


def test_a_bundle_finds_the_bottom_of_a_kink():
  cuts = jnp.array([[2.0, -1.0], [-1.0, 2.0]])
  logits_fn = lambda x: jnp.stack([1.0, jnp.min(cuts @ x)])
  x, start = jnp.zeros(2), jnp.array([1.25, 1.5])  # On the first piece.
  problem = problems.create(logits_fn, x, 0)
  state = projection.blank(problem)._replace(
    point=start,
    iterate=start,
    best=start,
    distance=jnp.linalg.norm(start),
    target=jnp.int32(1),
    status=jnp.int32(Status.FOUND),
  )
  end = jax.jit(lambda state: bundle.polish(problem, state, rounds=30))(state)
  np.testing.assert_allclose(end.distance, 2**0.5, rtol=3e-3)
  assert end.distance >= 2**0.5 * (1 - 1e-5)


def test_budget_is_what_all_tasks_take():
  for budget, num_classes in ((40, 10), (200, 10), (2000, 2), (2000, 10)):
    expanded, stages = portfolio.plan(budget, num_classes)
    tasks = portfolio._tasks(stages, jnp.float32)
    rounds = int(np.sum(tasks.rounds + tasks.polish))
    assert rounds == sum(stage.cost for stage in stages)
    assert 0.9 * budget <= expanded + rounds <= budget
