"""Quadratic bounds, and branch and bound, beside the exact distance."""

import time

import certify_oracles
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dmm_jax import certify
from dmm_jax.certify import ascent
from dmm_jax.certify import branch
from dmm_jax.certify import cells
from dmm_jax.certify import exact
from dmm_jax.certify import layers as layers_lib
from dmm_jax.certify import quadratic
from dmm_jax.certify import regions

WIDTHS = (6, 8, 8, 3)
SMALL = (6, 8, 3)  # Takes a third of the time to compile.
BOX = (-1.0, 1.0)
network, predicted = certify_oracles.network, certify_oracles.predicted


def example(seed, p, widths=WIDTHS):
  layers = layers_lib.check(network(widths, seed))
  x = np.random.default_rng(seed + 50).uniform(-1, 1, widths[0])
  low, high = (np.full(len(x), end) for end in BOX)
  label = int(predicted(layers, x))
  return cells.Problem(layers, x, label, low, high, p)


def small_and(p):
  """Cases of a small network in a norm, and, slow, of a deeper one in all."""
  slow = (
    pytest.param(WIDTHS, q, marks=pytest.mark.slow) for q in (1, 2, np.inf)
  )
  return pytest.mark.parametrize(('widths', 'p'), [(SMALL, p), *slow])


@small_and(1)
def test_radii_are_below_the_distance_and_above_the_linear_ones(widths, p):
  gained = 0
  for seed in range(4):
    problem = example(seed, p, widths)
    given = problem.layers, problem.x, problem.label
    options = dict(norm=p, bounds=BOX)
    distance, _, _ = certify.exact_distance(*given, **options)
    linear = certify.lower_bound(*given, **options)
    found = certify.lower_bound(*given, quadratic_steps=60, **options)
    assert linear <= found <= distance * (1 + 1e-9)
    gained += found > 1.005 * linear
  assert gained >= 2


def random_duals(rng, layers):
  draw = lambda n: jnp.asarray(rng.normal(size=n))
  widths = [len(layers[0][0])] + [b.size for _, b in layers]
  return quadratic.Duals(
    [draw(n) for n in widths[1:]],
    [draw(n) - 2 for n in widths[1:]],
    [draw(n) for n in widths[:-1]],
    [draw(n) for n in widths[:-1]],
  )


@pytest.mark.parametrize('p', (1.0, 2.0, np.inf))
def test_any_duals_give_a_lower_bound(p):
  """Of margins at random points, for duals that nothing has optimised."""
  with jax.enable_x64(True):
    for seed in range(40):
      rng = np.random.default_rng(seed)
      problem = example(seed % 5, p)
      layers, x = problem.layers, problem.x
      radius = rng.uniform(0.1, 1.0)
      steps = rng.normal(size=(2000, x.size))
      size = np.linalg.norm(steps, p, axis=1, keepdims=True)
      reach = radius * rng.uniform(size=(2000, 1)) ** 0.2
      points = np.clip(x + steps / size * reach, *BOX)
      zs = [layers_lib.preactivations(layers, v) for v in points]
      boxes = [
        (np.min(z, 0), np.max(z, 0)) for z in list(zip(*zs, strict=True))[:-1]
      ]
      row, offset = rng.normal(size=layers[-1][0].shape[0]), rng.normal()
      region = regions.Region(
        x, x - problem.low, problem.high - x, np.float64(radius)
      )
      given = quadratic.Problem(layers[:-1], row, offset, boxes, region, p)
      bound = float(bound_of(random_duals(rng, layers[:-1]), given))
      values = [np.maximum(z[-2], 0) @ row + offset for z in zs]
      assert np.isfinite(bound) and bound <= min(values)


@jax.jit
def bound_of(duals, problem):
  tops = quadratic.eigenvalues(duals, problem)
  return quadratic.margin(duals, tops, problem)


def test_terms_are_least_where_a_grid_says():
  rng = np.random.default_rng(0)
  with jax.enable_x64(True):
    given = rng.normal(size=(6, 500))
    given[1], given[4] = abs(given[1]), abs(given[4]) * (rng.random(500) < 0.7)
    term = quadratic.Term(*map(jnp.asarray, given))
    low, high = np.sort(rng.normal(size=(2, 500)), 0)
    found = np.asarray(term.least(low, high))
    grid = low + (high - low) * np.linspace(0, 1, 4001)[:, None]
    least = np.asarray(jax.vmap(term.value)(grid)).min(0)
    below, above = map(np.asarray, term.minima(low, high))
  assert np.all(found <= least + 1e-12)
  np.testing.assert_allclose(found, least, atol=2e-3)
  assert np.all((below >= low) & (above <= high) & (below <= above))
  both = (low < 0) & (high > 0)
  assert np.all(below[both] <= 0) and np.all(above[both] >= 0)


def region_of(x, radius):
  return regions.Region(x, x + 1, 1 - x, np.float64(radius))


def open_problem(layers, row, x, p, radius=0.3):
  """With intervals of both signs, of one unit each that is 0 and linear."""
  boxes = []
  for _, b in layers:
    low, high = np.full(b.size, -1.5), np.full(b.size, 1.2)
    high[0], low[-1] = -0.1, 0.2
    boxes.append((low, high))
  return quadratic.Problem(layers, row, 0.7, boxes, region_of(x, radius), p)


@pytest.mark.parametrize('p', (1.0, 2.0))
def test_eigenvalues_are_upper_bounds_that_are_met(p):
  problem = example(0, p)
  layers = problem.layers[:-1]
  given = open_problem(layers, np.ones(8), problem.x, p)
  with jax.enable_x64(True):
    duals = random_duals(np.random.default_rng(1), layers)
    tops = [float(v) for v in quadratic.eigenvalues(duals, given)]
  e = np.zeros(8)
  for i in (1, 0):
    w, curvature = layers[i][0], np.exp(np.asarray(duals.curvatures[i]))
    curvature[0], curvature[-1] = 0, e[-1]
    inner = np.exp(-np.asarray(duals.weights[i]) / 2)
    want = np.linalg.norm(inner[:, None] * w * np.sqrt(curvature), 2) ** 2
    if p == 1 and i == 0:  # The vertices of the l1 ball.
      want = max(v @ (w * curvature) @ w.T @ v for v in np.eye(len(w)))
    assert want <= tops[i] <= want * (1 + 1e-8)
    e = tops[i] * np.exp(np.asarray(duals.weights[i]))


def test_terms_of_relus_of_one_sign_are_constant():
  problem, rng = example(0, 2.0), np.random.default_rng(2)
  layers = problem.layers[:-1]
  given = open_problem(layers, rng.normal(size=8), problem.x, 2.0)
  with jax.enable_x64(True):
    duals = random_duals(rng, layers)
    tops = quadratic.eigenvalues(duals, given)
    terms, _ = quadratic.unit_terms(duals, tops, given)
    for term, (low, high) in zip(terms, given.boxes, strict=True):
      at = [np.asarray(term.value(v)) for v in (low, (low + high) / 2, high)]
      for unit in (0, -1):
        np.testing.assert_allclose(at[0][unit], [v[unit] for v in at])
      assert np.ptp([v[1:-1] for v in at], axis=0).min() > 1e-3
  assert float(terms[0].e[-1]) > 0 and float(terms[0].curvature[0]) == 0


@pytest.mark.parametrize('p', (1.0, 2.0, np.inf))
@pytest.mark.parametrize('bent', (0.0, 1.0))
def test_terms_of_the_input_are_below_points_and_those_of_a_solver(p, bent):
  """The dual of the ball: what it leaves is nothing without squares."""
  rng, n = np.random.default_rng(4), 7
  with jax.enable_x64(True):
    minimum = jax.jit(quadratic._input_minimum)
    solve = jax.jit(regions.minimize)
    for _ in range(20):
      x = rng.uniform(-1, 1, n)
      q, e = rng.normal(size=n), bent * rng.random(n)
      centre, radius = x + 0.3 * rng.normal(size=n), rng.uniform(0.1, 1.5)
      problem = open_problem([], q, x, p, radius)
      found = float(minimum(q, e, centre, problem))
      steps = rng.normal(size=(4000, n)) * rng.random((4000, n)) ** 3
      size = np.linalg.norm(steps, p, axis=1, keepdims=True)
      points = np.clip(x + radius * steps / size, -1, 1)
      values = points @ q - ((points - centre) ** 2) @ e / 2
      assert found <= values.min() + 1e-12
      if not bent:
        box = problem.region
        want = solve(q[None], jnp.zeros(1), box, jnp.asarray(p))[0]
        np.testing.assert_allclose(found, want, atol=2e-4)
      elif p == np.inf:  # Coordinates are free of each other.
        ends = np.clip(x + radius * np.array([[-1], [1]]), -1, 1)
        want = (ends * q - (ends - centre) ** 2 * e / 2).min(0).sum()
        np.testing.assert_allclose(found, want, rtol=1e-9)


def test_in_l1_the_first_squares_take_what_the_vertices_do():
  """The parts of the bound, in numpy; the input has no squares of its own."""
  problem, rng = example(1, 1.0), np.random.default_rng(8)
  layers, x, radius = problem.layers[:-1], problem.x, 0.4
  given = open_problem(layers, rng.normal(size=8), x, 1.0, radius)
  with jax.enable_x64(True):
    duals = random_duals(rng, layers)
    first, second = duals.curvatures
    duals = duals._replace(curvatures=[first + 4, second])
    tops = quadratic.eigenvalues(duals, given)
    terms, (q, e, _) = quadratic.unit_terms(duals, tops, given)
    found = float(quadratic.margin(duals, tops, given))
    want = 0.7 - 0.5 * radius**2 * float(tops[0])
    for term, (_, b), box in zip(terms, layers, given.boxes, strict=True):
      want += float(np.sum(term.least(*box)) + term.g @ b)
    np.testing.assert_array_equal(e, 0)
    # Around x, whatever the duals' centre of the input is.
    np.testing.assert_allclose(terms[0].centre, x @ layers[0][0] + layers[0][1])
    box = given.region
    offset, norm = jnp.zeros(1), jnp.asarray(1.0)
    want += float(regions.minimize(q[None], offset, box, norm)[0])
  np.testing.assert_allclose(found, want, rtol=1e-4)
  assert 0.5 * radius**2 * float(tops[0]) > 1e-2 * abs(want)


def test_concave_kinks_start_with_the_largest_curvatures():
  problem = example(0, 2.0)
  layers = problem.layers[:-1]
  row = np.linspace(-1, 1, 8)
  given = open_problem(layers, row, problem.x, 2.0)
  with jax.enable_x64(True):
    duals, units = jax.jit(quadratic.start)(given)
  curvatures = np.exp(np.asarray(duals.curvatures[1]))[1:-1]
  even = quadratic.EVEN * np.sqrt(np.mean(row**2)) / float(units.widths[1])
  want = (np.maximum(-row[1:-1], 0) / 2.7) + even
  np.testing.assert_allclose(curvatures / curvatures[0], want / want[0])


@pytest.mark.parametrize('p', (1.0, 2.0, np.inf))
def test_derivatives_are_those_of_differences(p):
  """Of the whole bound, whose t are held; the ball's dual is found anew."""
  problem, rng = example(1, p), np.random.default_rng(6)
  layers = problem.layers[:-1]
  given = open_problem(layers, rng.normal(size=8), problem.x, p)
  with jax.enable_x64(True):
    duals = random_duals(rng, layers)
    tops = quadratic.eigenvalues(duals, given)
    bound = jax.jit(lambda d: quadratic.margin(d, tops, given))
    found = jax.grad(bound)(duals)
    for part in ('slopes', 'curvatures', 'centres', 'weights'):
      for i in range(2):
        value, way = getattr(duals, part)[i], rng.normal(size=8)
        way = way[: value.size]

        def moved(step, part=part, i=i, value=value, way=way):
          new = list(getattr(duals, part))
          new[i] = value + step * way
          return float(bound(duals._replace(**{part: new})))

        want = (moved(1e-6) - moved(-1e-6)) / 2e-6
        got = float(getattr(found, part)[i] @ way)
        np.testing.assert_allclose(got, want, rtol=2e-3, atol=2e-4)


@pytest.fixture(scope='module')
def ascend():
  """One program for all norms."""
  return jax.jit(ascent.ascend, static_argnums=3)


@pytest.mark.parametrize('p', (1.0, 2.0, np.inf))
def test_ascent_goes_beyond_the_linear_bound(ascend, p):
  problem = example(2, p, (20, 40, 30, 3))
  setting = branch._Setting(
    problem.layers,
    np.int32(problem.label),
    region_of(problem.x, 0.1 if p == np.inf else 0.3),
    np.float64(p),
  )
  with jax.enable_x64(True):
    node = branch._root(setting, (problem.label + 1) % 3, np.float64(0.1))
    given = branch._problem(setting, node.target, node.boxes)
    flat = [jnp.full_like(v, -jnp.inf) for v in node.duals.curvatures]
    linear = float(bound_of(node.duals._replace(curvatures=flat), given))
    raised = [ascend(node.duals, node.rates, given, num) for num in (30, 120)]
    later = [float(bound_of(duals, given)) for duals in raised]
  assert linear < later[0] < later[1] + 0.02 * abs(linear)
  assert later[1] > linear + 0.1 * abs(linear)


def test_intervals_are_narrower_and_hold():
  problem = example(3, np.inf, (20, 40, 30, 3))
  setting = branch._Setting(
    problem.layers,
    np.int32(problem.label),
    regions.Region(
      problem.x,
      problem.x - problem.low,
      problem.high - problem.x,
      np.float64(0.5),
    ),
    np.float64(np.inf),
  )
  target = (problem.label + 1) % 3
  with jax.enable_x64(True):
    node = branch._root(setting, target, np.float64(0.1))
    narrow = jax.tree.map(np.asarray, branch._narrow(setting, node))
  rng = np.random.default_rng(0)
  points = problem.x + rng.uniform(-0.5, 0.5, (5000, problem.x.size))
  points[::2] = problem.x + 0.5 * np.sign(points[::2] - problem.x)
  points = np.clip(points, *BOX)
  zs = np.array(
    [layers_lib.preactivations(problem.layers, v)[1] for v in points]
  )
  low, high = narrow[1]
  assert np.all(zs >= low) and np.all(zs <= high)
  width = np.asarray(node.boxes[1][1] - node.boxes[1][0])
  assert np.all(high - low <= width) and np.mean((high - low) / width) < 0.99


@small_and(np.inf)
def test_branch_and_bound_is_below_the_distance_and_closes(widths, p):
  gained = 0
  for seed in range(3):
    problem = example(seed, p, widths)
    given = problem.layers, problem.x, problem.label
    distance, _, _ = certify.exact_distance(*given, norm=p, bounds=BOX)
    linear = certify.lower_bound(*given, norm=p, bounds=BOX)
    lower = np.where(np.arange(3) == problem.label, np.inf, linear)
    late = time.monotonic() + 20
    found = branch.raise_bounds(problem, lower, distance, late)
    assert np.all(found >= lower) and found[problem.label] == np.inf
    # All classes' bounds are up to the distance, the nearest class's too.
    assert lower.min() <= found.min() <= distance
    gained += lower.min() * 1.005 < found.min()
    each = class_distances(problem)
    assert np.all(found.clip(max=distance) <= each + 1e-6)
    early = branch.raise_bounds(problem, lower, distance, 0.0)
    np.testing.assert_array_equal(early, lower)
  assert gained >= 1


def class_distances(problem):
  """Distances of each class, by the programs alone."""
  found = np.full(3, np.inf)
  for target in range(3):
    if target != problem.label:
      w, b = problem.layers[-1]
      pair = np.array([problem.label, target])
      two = (*problem.layers[:-1], (w[:, pair], b[pair]))
      found[target], _, _ = certify.exact_distance(
        two, problem.x, 0, norm=problem.norm, bounds=BOX
      )
  return found


def test_nodes_split_at_the_chosen_relu():
  boxes = [(-np.ones(3), np.ones(3)), (-2 * np.ones(2), 2 * np.ones(2))]
  node = branch.Node(0, boxes, None, None, 0.1, np.int32(4))
  off, on = branch._split(node)
  np.testing.assert_array_equal(off.boxes[1][1], [2, 0])
  np.testing.assert_array_equal(on.boxes[1][0], [-2, 0])
  for kid in (off, on):
    np.testing.assert_array_equal(kid.boxes[0], boxes[0])
  np.testing.assert_array_equal(boxes[1], [[-2, -2], [2, 2]])
  off, on = branch._split(node._replace(choice=np.int32(2)))
  assert off.boxes[0][1][2] == 0 and on.boxes[0][0][2] == 0


def test_intervals_of_large_networks_come_from_branch_and_bound(monkeypatch):
  problem = example(0, np.inf, SMALL)
  given = problem.layers, problem.x, problem.label
  options = dict(norm=np.inf, bounds=BOX)
  want = certify.exact_distance(*given, **options)[0]
  seen = []
  inner = branch.raise_bounds
  record = lambda *args: seen.append(inner(*args)) or seen[-1]
  monkeypatch.setattr(branch, 'raise_bounds', record)
  certify.interval(*given, **options)
  assert not seen
  monkeypatch.setattr(exact, 'LARGE', 0)
  lower, upper, _ = certify.interval(*given, **options)
  assert len(seen) == 1
  np.testing.assert_allclose([lower, upper], want, rtol=1e-6)
  # Quadratic bounds come first, where there is time.
  given = []
  monkeypatch.setattr(exact.crown, 'least_bound', lambda *_, **__: 0.9 * want)
  record = lambda _, lower, *__: given.append(lower) or lower
  monkeypatch.setattr(branch, 'raise_bounds', record)
  certify.interval(*problem[:3], **options)
  assert given[0].min() >= 0.9 * want
  early = certify.interval(*problem[:3], time_limit=0, **options)
  assert early[0] < given[0].min() or early[0] == given[1].min()


def test_intervals_of_branches_are_those_of_a_radius_little_larger(monkeypatch):
  """And they are computed again when that is certified."""
  problem, reached = example(2, np.inf), []
  monkeypatch.setattr(
    branch,
    '_raise_to',
    lambda _, lower, reach, late: (
      reached.append(reach) or np.maximum(lower, reach if reach < 0.2 else 0.15)
    ),
  )
  late = time.monotonic() + 100
  found = branch.raise_bounds(problem, np.array([0.1, 0.12, np.inf]), 1.0, late)
  step = branch.REACH
  want = [0.1 * step**i for i in range(1, 7)]
  np.testing.assert_allclose(reached, want[: len(reached)])
  assert reached[-1] >= 0.2 > reached[-2] and found.min() == reached[-2]
  reached.clear()
  branch.raise_bounds(problem, np.array([0.1, 0.12, np.inf]), 0.11, late)
  assert reached == [0.11]
  branch.raise_bounds(problem, np.array([0.0, 0.12, np.inf]), 0.15, late)
  assert reached[1:] == [0.15]
  reached.clear()
  branch.raise_bounds(problem, np.array([0.1, 0.12, np.inf]), 1.0, 0.0)
  assert reached == [0.1 * step]


@pytest.mark.parametrize('p', (1.0, 2.0, np.inf))
def test_step_sizes_leave_the_centre_of_the_input(p):
  units = quadratic.Units([2.0, 3.0], [5.0, 7.0])
  rates = ascent.step_sizes(units, jnp.float32(p), 60)
  assert float(rates.centres[0]) == 0
  assert float(rates.centres[1]) == pytest.approx(ascent.RATES['centres'] * 5)
  assert rates.slopes == [ascent.RATES['slopes'] * v for v in (2, 3)]
  np.testing.assert_allclose(rates.curvatures, ascent.RATES['curvatures'])
  of_z = ascent.RATES['weights']
  of_input = of_z if p == np.inf else ascent.INPUT_TRAVEL / 60
  np.testing.assert_allclose(rates.weights, [of_input, of_z])


def test_what_rounding_may_do_is_subtracted(monkeypatch):
  """Of each term's size, beside a sum in numpy."""
  problem, rng = example(1, 2.0), np.random.default_rng(3)
  layers, x = problem.layers[:-1], problem.x
  region = regions.Region(x, x + 1, 1 - x, np.float64(0.3))
  boxes = [(-rng.random(b.size), 2 * rng.random(b.size)) for _, b in layers]
  row, offset = rng.normal(size=len(problem.layers[-1][0])), 0.7
  given = quadratic.Problem(layers, row, offset, boxes, region, 2.0)
  with jax.enable_x64(True):
    duals = random_duals(rng, layers)
    tops = quadratic.eigenvalues(duals, given)
    found = quadratic.unit_terms(duals, tops, given)
    terms, (a, e, h) = jax.tree.map(np.asarray, found)
    monkeypatch.setattr(regions, 'ROUNDING', 0.0)
    whole = float(quadratic.margin(duals, tops, given))
    monkeypatch.setattr(regions, 'ROUNDING', 1.0)
    less = float(quadratic.margin(duals, tops, given))
  want = offset
  for t, (_, b), (low, high) in zip(terms, layers, boxes, strict=True):
    reach = np.maximum(-low, high)
    want += np.sum((abs(t.a) + 2 * abs(t.g)) * reach + abs(t.g * b))
    want += np.sum(t.curvature * (reach + abs(t.centre)) ** 2)
    want += np.sum(t.e * (reach + abs(t.h)) ** 2)
  reach = abs(x) + 0.3
  want += np.sum(abs(a) * reach + e * (reach + abs(h)) ** 2)
  np.testing.assert_allclose(whole - less, want, rtol=1e-9)


def test_what_is_always_0_is_held_at_its_centre():
  problem = example(0, 2.0)
  layers, x = problem.layers[:-1], problem.x
  high = np.linspace(-1, 2, layers[0][1].size)
  boxes = [(high - 3, high), (-np.ones(8), np.ones(8))]
  region = regions.Region(x, x + 1, 1 - x, np.float64(0.3))
  given = quadratic.Problem(layers, np.ones(8), 0.0, boxes, region, 2.0)
  with jax.enable_x64(True):
    centres, weights = quadratic._centres(given)
  value = np.maximum(x @ layers[0][0] + layers[0][1], 0)
  np.testing.assert_allclose(centres[1], np.where(high <= 0, 0, value))
  want = np.where(high <= 0, quadratic.CONSTANT, 0)
  np.testing.assert_array_equal(weights[1], want)
  reach = np.minimum(x + 1, 0.3) + np.minimum(1 - x, 0.3)
  want = -np.log(reach / 2 + 0.015)
  np.testing.assert_allclose(weights[0], want)


@pytest.mark.parametrize(('first', 'want'), [(0.1, 0.16), (3.0, 4.0)])
def test_the_first_radius_is_a_little_larger(first, want):
  problem = example(0, 2.0)
  asked = []

  class Stop(Exception):
    pass

  def boxes_fn(radius):
    asked.append(float(radius))
    raise Stop

  with jax.enable_x64(True), pytest.raises(Stop):
    ascent.class_radii(
      problem.layers,
      0,
      None,
      boxes_fn,
      jnp.asarray(first),
      jnp.asarray(4.0),
      2.0,
      num_steps=1,
    )
  assert asked == [pytest.approx(want)]
