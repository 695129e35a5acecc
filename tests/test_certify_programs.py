"""Points of the boundary, mixed-integer programs and what is made of them."""

import types

import certify_oracles
import numpy as np
import pytest
from scipy import optimize

from dmm_jax import certify
from dmm_jax.certify import cells
from dmm_jax.certify import crown
from dmm_jax.certify import exact
from dmm_jax.certify import layers as layers_lib
from dmm_jax.certify import programs

NORMS = (1, 2, np.inf)
every_norm = pytest.mark.parametrize('p', NORMS)
network, logits = certify_oracles.network, certify_oracles.logits


# Points of the boundary within a linear region.


def problem_of(layers, x, p, low=-np.inf, high=np.inf, label=None):
  layers = layers_lib.check(layers)
  label = certify_oracles.predicted(layers, x) if label is None else label
  low, high = (np.broadcast_to(v, x.shape).astype(float) for v in (low, high))
  return cells.Problem(layers, x, int(label), low, high, p)


def test_points_count_once_they_are_seen_beyond():
  """One that rounding left short goes up to 1e-6 further, within the box."""
  layers = [(np.array([[2.0, 0, 1], [0, 0, -1], [0, 2, 0]]), np.zeros(3))]
  x = np.array([1.0, 3.0, 0.0])  # Logits 2, 0, -2: a margin of 2.
  problem = problem_of(layers, x, 2, high=[1e3, 1e3, 1.0])
  assert cells.margin(problem, x) == 2
  target = np.array([1.0, 0, 1.0])  # Classes 0 and 1 meet there: z = 2, 2, 1.
  assert cells.margin(problem, target) == 0
  assert cells.distance(problem, x + np.array([3, -4, 0])) == 5
  for p, want in ((1, 7), (np.inf, 4)):
    assert (
      cells.distance(problem._replace(norm=p), x + np.array([3, -4, 0])) == want
    )
  open_problem = problem._replace(high=np.full(3, np.inf))
  np.testing.assert_array_equal(cells.verify(problem, target), target)
  for step in (1e-10, 1e-9, 1e-8, 1e-7, 1e-6):
    short = x + (target - x) / (1 + 0.7 * step)
    found = cells.verify(open_problem, short)
    np.testing.assert_allclose(
      found - target, 0.3 * step * (target - x), rtol=2e-3, atol=2e-16
    )
    assert cells.margin(open_problem, found) <= 0
  assert cells.verify(open_problem, x + (target - x) * (1 - 3e-6)) is None
  # The box holds it back, and then margins count that are almost 0.
  flat = problem._replace(
    high=np.array([1e3, 1e3, 1 - 4e-7]), low=np.array([1.0, 0, 0])
  )
  held = cells.verify(flat, np.array([1.0, 0.0, 1 - 4e-7]))
  np.testing.assert_array_equal(held, [1.0, 0.0, 1 - 4e-7])
  assert 0 < cells.margin(flat, held) <= 1e-6
  flat = flat._replace(high=np.array([1e3, 1e3, 1 - 0.8e-6]))
  assert cells.verify(flat, np.array([1.0, 0.0, 1 - 0.8e-6])) is None
  # Smaller margins at x make it stricter: 1e-6 of 2e-3.
  scaled = [(1e-3 * layers[0][0], np.zeros(3))]
  for gap, seen in ((0.9e-6, True), (1.1e-6, False)):
    end = np.array([1.0, 0.0, 1 - gap])
    small = problem_of(scaled, x, 2, flat.low, [1e3, 1e3, 1 - gap])
    assert (cells.verify(small, end) is not None) == seen


TWO_LAYERS = network((3, 4, 3, 4), seed=1)


def test_constraints_are_the_network_within_its_region():
  """For steps in the region, slacks are the values before ReLUs."""
  rng = np.random.default_rng(0)
  x = np.array([0.3, -0.2, 0.5])
  problem = problem_of(TWO_LAYERS, x, 2)
  for point in rng.normal(size=(6, 3)):
    rows, limits = cells._constraints(problem, point)
    assert rows.shape == (8, 3) and limits.shape == (8,)
    zs = [np.concatenate(layers_lib.preactivations(problem.layers, point)[:2])]
    near = point + 1e-3 * rng.normal(size=(20, 3))
    for v in near:
      *values, last = layers_lib.preactivations(problem.layers, v)
      z = np.concatenate(values)
      if np.all((z > 0) == (zs[0] > 0)):
        slack = limits - rows @ (v - x)
        np.testing.assert_allclose(slack[:-1], np.abs(z), atol=1e-12)
        other = np.delete(last, problem.label).max()
        np.testing.assert_allclose(
          slack[-1], other - last[problem.label], atol=1e-12
        )


@pytest.mark.parametrize('boxed', (False, True))
@every_norm
def test_nearest_points_of_linear_regions(p, boxed):
  """Held to programs over the same region."""
  rng = np.random.default_rng(1)
  x = np.array([0.3, -0.2, 0.5])
  low, high = (
    ([-1.0, -0.6, 0.1], [0.4, 1.5, np.inf]) if boxed else (-np.inf, np.inf)
  )
  problem = problem_of(TWO_LAYERS, x, p, low, high)
  found = 0
  for start in x + 2 * rng.normal(size=(40, 3)):
    start = np.clip(start, problem.low, problem.high)
    if cells.margin(problem, start) > 0:
      continue
    rows, limits = cells._constraints(problem, start)
    want = certify_oracles.shortest(
      rows, limits, problem.low - x, problem.high - x, p
    )
    point = cells.nearest(problem, start)
    np.testing.assert_allclose(cells.distance(problem, point), want, rtol=2e-6)
    assert cells.margin(problem, point) <= 1e-6
    assert np.all((point >= problem.low) & (point <= problem.high))
    assert want <= cells.distance(problem, start) * (1 + 1e-9)
    # From region to region it ends at a local minimum, no farther.
    last = cells.descend(problem, start)
    again = cells.nearest(problem, last)
    assert cells.distance(problem, last) <= want * (1 + 2e-6)
    if again is not None:
      assert cells.distance(problem, again) >= cells.distance(problem, last) * (
        1 - 1e-8
      )
    found += cells.distance(problem, last) < want * (1 - 1e-3)
  assert cells.nearest(problem, x) is None
  assert found > 0


@every_norm
def test_nearest_points_despite_a_neuron_without_weights(p):
  """Its row is all zeros; the nearest point is in closed form."""
  w = np.array([[1.0, 0, 0], [0, 0, 2.0]])
  layers = [(w, np.array([5.0, 1, 5])), (np.eye(3), np.array([0, -9.0, 0.4]))]
  problem = problem_of(layers, np.array([1.0, 0.1]), p, label=0)
  point = cells.nearest(problem, np.array([1.0, 3.0]))
  gap = 0.4 / np.linalg.norm([1.0, 2.0], {1: np.inf, 2: 2, np.inf: 1}[p])
  np.testing.assert_allclose(cells.distance(problem, point), gap, rtol=1e-6)


@every_norm
def test_nearest_points_have_units(p):
  """A tiny distance, and an input far from 0, where a step is rounding."""
  layers = [(np.diag([1.0, 2.0]), np.array([0.0, -1e-7]))]
  x = np.array([1.0, 0.5])
  problem = problem_of(layers, x, p, label=0)
  point = cells.nearest(problem, x + np.array([-1e-6, 5e-6]))
  gap = 1e-7 / np.linalg.norm([1.0, 2.0], {1: np.inf, 2: 2, np.inf: 1}[p])
  np.testing.assert_allclose(cells.distance(problem, point), gap, rtol=1e-5)


def test_solvers_that_find_nothing_say_so(monkeypatch):
  """No region, or too many iterations."""
  x = np.zeros(2)
  rows, limits = np.array([[1.0, 0], [-1.0, 0]]), np.array([-1.0, -1.0])
  free = np.full(2, np.inf)
  for p in (1, np.inf):
    assert cells._solve_linear(rows, limits, -free, free, p) is None
  assert cells._solve_l2(rows, limits, -free, free, 2) is None
  problem = problem_of([(np.eye(2), np.array([0.5, 0.0]))], x, 2)
  assert cells.nearest(problem, np.array([0.0, 1.0])) is not None

  def fails(matrix, target, maxiter):
    assert maxiter == 20 * matrix.shape[1]
    raise RuntimeError('too many iterations')

  monkeypatch.setattr(optimize, 'nnls', fails)
  assert cells.nearest(problem, np.array([0.0, 1.0])) is None
  # Then the point that was given is the last.
  np.testing.assert_array_equal(cells.descend(problem, np.ones(2)), [1, 1])


# Mixed-integer programs.


def test_programs_are_what_is_added_to_them(monkeypatch):
  """Most of x + 3 n - y / 2 with x + n <= 2.5, n <= 2 y, n an integer."""
  program = programs.Program()
  x = program.add_variables(
    np.array([-1.0, 0.5]), np.array([1.0, 0.5]), cost=-1.0
  )
  n = program.add_variables(np.zeros(1), 5.0, cost=-3.0, integer=True)
  y = program.add_variables(np.zeros(1), np.full(1, 9.0), cost=0.5)
  free = program.add_variables(np.full(2, 4.0), np.full(2, 7.0))
  assert (x, n, y, free, program.size) == (0, 2, 3, 4, 6)
  one = np.ones((1, 1))
  program.add_rows([(x, np.array([[1.0, 0]])), (n, one)], upper=2.5)
  program.add_rows([(n, one), (y, -2 * one)], -np.inf, 0.0)
  program.add_rows(
    [(x, np.eye(2)), (free, -np.eye(2))], lower=np.array([-6.5, -6.0])
  )
  result = program.solve(np.inf, 1e-9)
  np.testing.assert_allclose(result.x[:4], [-0.5, 0.5, 3, 1.5], atol=1e-9)
  assert np.all(result.x[4:] <= [6.0, 6.5]) and np.all(result.x[4:] >= 4)
  np.testing.assert_allclose(result.fun, 0.5 - 0.5 - 9 + 0.75)
  given = []
  monkeypatch.setattr(
    optimize, 'milp', lambda cost, **options: given.append(options['options'])
  )
  for seconds in (7.5, np.inf, 0.3, -2.0):
    program.solve(seconds, 1e-3)
  assert [v['time_limit'] for v in given] == [7.5, np.inf, 0.3, 0.01]
  assert {v['mip_rel_gap'] for v in given} == {1e-3}


def solved(program, parts, problem, radius):
  """Distance of a program's solution, with tangents where that is needed."""
  n = problem.x.size
  if problem.norm == 2:
    points = np.array([-0.8, -0.4, -0.2, -0.1, 0.1, 0.2, 0.4, 0.8])
    programs.add_tangents(program, np.outer(points, np.ones(n)))
  for _ in range(60):
    result = program.solve(np.inf, 1e-10)
    if result.x is None:
      return result.status, None
    step = sum(sign * result.x[i : i + n] for i, sign in parts)
    if problem.norm != 2:
      return radius * result.fun, problem.x + radius * step
    if step @ step - result.fun < 2e-6:
      return radius * result.fun**0.5, problem.x + radius * step
    programs.add_tangents(program, step[None])
  raise AssertionError('tangents do not converge')


@pytest.mark.parametrize('seed', (2, 3))
@every_norm
def test_programs_find_the_nearest_point_of_each_class(p, seed):
  layers = network((3, 4, 3, 3), seed)
  x = np.random.default_rng(seed).uniform(-0.5, 0.5, 3)
  low, high = x - [0.9, 0.4, 2.0], x + np.array([2.0, 1.1, 0.3])
  problem = problem_of(layers, x, p, low, high)
  want = certify_oracles.distances(layers, x, problem.label, p, low, high)
  tolerance = {'rtol': 1e-4 if p == 2 else 1e-5}
  for target in np.delete(np.arange(3), problem.label):
    nearest = want[target]
    radius = 1.3 * nearest if np.isfinite(nearest) else 2.0
    neurons = crown.neuron_bounds(
      problem.layers, x, radius, problem.low, problem.high, norm=p
    )

    def solve(low, high, args=(problem, target, radius, neurons)):
      limits = np.array([low, high]) ** (2 if p == 2 else 1)
      return solved(*programs.build(*args, limits), problem, args[2])

    found, point = solve(0.0, 1.0)
    if not np.isfinite(nearest):
      assert found == programs.INFEASIBLE == 2 and point is None
      continue
    np.testing.assert_allclose(found, nearest, **tolerance)
    distance = cells.distance(problem, point)
    np.testing.assert_allclose(distance, found, **tolerance)
    values = logits(layers, point)
    assert abs(values[target] - values[problem.label]) < 1e-5
    assert np.all(point >= low - 1e-6) and np.all(point <= high + 1e-6)
    # Costs are bounded from both sides.
    found, _ = solve(1.1 / 1.3, 1.0)
    np.testing.assert_allclose(found, 1.1 * nearest, **tolerance)
    assert solve(0.0, 0.98 / 1.3)[0] == programs.INFEASIBLE
    # Beyond a smaller ball.
    args = problem, target, 0.95 * nearest, neurons
    assert solve(0.0, 1.0, args)[0] == programs.INFEASIBLE


def test_tangents_bound_squares_from_below():
  program = programs.Program()
  u = program.add_variables(np.array([0.3, -0.8]), np.array([0.3, -0.8]))
  squares = program.add_variables(np.zeros(2), np.full(2, 2.0), cost=0.5)
  assert (u, squares) == (0, 2)
  points = np.array([[0.2, -0.5], [0.5, -0.7]])
  programs.add_tangents(program, points)
  result = program.solve(np.inf, 1e-9)
  want = (2 * points * [0.3, -0.8] - points**2).max(0)
  np.testing.assert_allclose(result.x[2:] / 2, want, rtol=1e-9)
  np.testing.assert_allclose(result.fun, want.sum(), rtol=1e-9)


# What exact distances make of programs.


NET = network((3, 4, 3, 3), seed=2)


class Clock:
  """Seconds that pass with each look at the time."""

  def __init__(self, step):
    self.now, self.step = 1000.0, step

  def monotonic(self):
    self.now += self.step
    return self.now


def with_solver(monkeypatch, solve, step=0.0):
  """Replaces the programs' solver, and the clock."""
  calls = []

  def record(self, time_limit, rel_gap):
    calls.append((time_limit, rel_gap))
    return solve(len(calls))

  monkeypatch.setattr(programs.Program, 'solve', record)
  monkeypatch.setattr(exact, 'time', Clock(step))
  return calls


def result(status=1, bound=None, x=None, fun=None):
  return types.SimpleNamespace(
    status=status, mip_dual_bound=bound, x=x, fun=fun
  )


X3 = np.array([0.2, -0.1, 0.3])


@every_norm
def test_time_limits_reach_the_solver(p, monkeypatch):
  label = certify_oracles.predicted(NET, X3)
  calls = with_solver(monkeypatch, lambda i: result())
  run = lambda **o: certify.exact_distance(NET, X3, label, norm=p, **o)
  distance, lower, point = run(time_limit=7.5)
  assert 0 < lower < distance < np.inf
  np.testing.assert_allclose(np.linalg.norm(point - X3, p), distance)
  gap = 1e-7 if p == 2 else 1e-9
  assert calls and calls[0] == (7.5, pytest.approx(gap))
  assert {v[0] for v in calls} == {7.5}
  calls.clear()
  run()
  assert {v[0] for v in calls} == {60.0}
  # Time goes by: 1 s a look, which the program is not given.
  calls.clear()
  monkeypatch.setattr(exact, 'time', Clock(1.0))
  run(time_limit=2.5)
  assert [v[0] for v in calls] == [0.5]
  calls.clear()
  monkeypatch.setattr(exact, 'time', Clock(1.0))
  again = run(time_limit=0.5)
  assert not calls
  np.testing.assert_allclose(again[:2], (distance, lower), rtol=1e-12)
  monkeypatch.setattr(exact, 'time', Clock(0.0))
  run(time_limit=0.0)
  assert calls


@every_norm
def test_bounds_of_programs_that_end_early(p, monkeypatch):
  """Their dual bound counts, between that of before and the ball's radius."""
  problem = problem_of(NET, X3, p, -9.0, 9.0)
  point, radius = X3 + np.array([0.0, 2.0, 0.0]), 2.0
  search = lambda point, lower: exact._search_class(
    problem, 1, radius, point, lower, np.inf
  )
  rtol = 1e-5 if p == 2 else 1e-7
  upper = radius * (1 - rtol)
  for bound, want in (
    (0.3**2 if p == 2 else 0.3, 0.6),
    (None, 0.1),
    (-0.5, 0.1),
    (1e-4**2, 0.1),
    (50.0, upper),
  ):
    with_solver(monkeypatch, lambda i, bound=bound: result(1, bound))
    found, lower = search(point, 0.1)
    assert found is point
    np.testing.assert_allclose(lower, want, rtol=1e-12)
  assert search(None, 0.1)[0] is None
  with_solver(monkeypatch, lambda i: result(1, 50.0))
  assert search(None, 0.1)[1] == radius
  with_solver(monkeypatch, lambda i: result(programs.INFEASIBLE))
  found, lower = search(point, 0.1)
  assert found is point and lower == upper
  assert search(None, 0.1) == (None, np.inf)


def test_the_nearest_class_is_searched_first_and_far_ones_are_not(monkeypatch):
  problem = problem_of(NET, X3, np.inf, -3.0, [5.0, 2.0, 2.0])
  calls, answers = [], {}

  def search(problem, target, radius, point, lower, deadline):
    calls.append((target, radius, lower))
    return answers.get(target, (point, lower))

  monkeypatch.setattr(exact, '_search_class', search)
  close = lambda point, lower: exact._close_gap(
    problem, point, np.array(lower), np.inf
  )
  point = X3 + np.array([0.0, 0.0, 1.0])
  found, lower = close(point, [0.5, np.inf, 0.2])
  assert calls == [(2, 1.0, 0.2), (0, 1.0, 0.5)]
  assert found is point and lower == 0.2
  # What is found first makes the ball smaller; bounds rise, and never fall.
  nearer = X3 + np.array([0.0, 0.4, 0.0])
  answers = {2: (nearer, 0.3), 0: (nearer, 0.1)}
  calls.clear()
  found, lower = close(point, [0.35, np.inf, 0.2])
  assert calls == [(2, 1.0, 0.2), (0, pytest.approx(0.4), 0.35)]
  assert found is nearer and lower == 0.3
  calls.clear()
  close(point, [1 - 0.5e-7, np.inf, 1 - 2e-7])
  assert [v[0] for v in calls] == [2]
  # Without a point the box is searched, from x to its farthest corner.
  answers.clear()
  calls.clear()
  close(None, [0.5, np.inf, 9.0])
  assert calls == [(0, 5.0 - 0.2, 0.5)]
  for p, want in ((1, 4.8 + 2.9 + 3.3), (2, np.linalg.norm([4.8, 2.9, 3.3]))):
    calls.clear()
    exact._close_gap(
      problem._replace(norm=p), None, np.array([0.5, np.inf, 99]), np.inf
    )
    np.testing.assert_allclose(calls[0][1], want)
  # Without a box there is nothing to search.
  calls.clear()
  free = problem._replace(low=np.full(3, -np.inf))
  assert exact._close_gap(free, None, np.array([0.5, np.inf, 0.7]), np.inf) == (
    None,
    0.5,
  )
  assert not calls


def test_the_nearer_of_two_points_is_kept():
  problem = problem_of(NET, X3, 2)
  beyond = next(
    v
    for v in X3 + np.random.default_rng(0).normal(size=(99, 3))
    if cells.margin(problem, v) < 0
  )
  last = cells.descend(problem, beyond)
  np.testing.assert_array_equal(exact._nearer(problem, None, beyond), last)
  far, near = X3 + 5 * (last - X3), X3 + 0.5 * (last - X3)
  np.testing.assert_array_equal(exact._nearer(problem, far, beyond), last)
  assert exact._nearer(problem, near, beyond) is near
  assert exact._nearer(problem, far, X3 + 1e-3) is far
  assert exact._nearer(problem, None, X3 + 1e-3) is None
