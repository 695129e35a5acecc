"""Linear functions over regions, relaxations and the search for a radius."""

import fractions

import certify_oracles
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize

from dmm_jax import certify
from dmm_jax.certify import crown
from dmm_jax.certify import layers as layers_lib
from dmm_jax.certify import radii
from dmm_jax.certify import regions
from dmm_jax.certify import relaxation

NORMS = (1, 2, np.inf)
every_norm = pytest.mark.parametrize('p', (*NORMS, 1.05, 1.5, 4.0))
network = certify_oracles.network


def double(fn):
  """Compiled in float64; results in numpy."""
  jitted = jax.jit(fn)

  def run(*args):
    with jax.enable_x64(True):
      return jax.tree.map(np.asarray, jitted(*args))

  return run


def region(x, down, up, radius):
  return regions.Region(*(np.asarray(v, float) for v in (x, down, up, radius)))


# Linear functions over a ball within a box.

minimize = double(regions.minimize)
ROWS = np.array(
  [[1.0, -2, 0.5, 0.3], [0, 0, 0, 0], [-1, 1, 1, -1], [0.0, 3, -1e-3, 0]]
)
OFFSET, CENTRE = (
  np.array([0.3, -0.7, 0.0, 2.0]),
  np.array([0.2, -1.0, 3.0, 0.5]),
)
DOWN, UP = np.array([0.5, np.inf, 0.1, 0]), np.array([np.inf, 0.2, 0.4, 1.0])


def longest(size, slack, radius, p=2):
  """The steepest step of a length in a box; `slack` where that is shorter."""
  with np.errstate(divide='ignore'):
    growth = np.log(size) / (p - 1)
  step = lambda c: np.minimum(np.exp(c + growth), slack)
  length = lambda c: np.linalg.norm(step(c).ravel(), p) - radius
  if length(200) <= 0:
    return slack
  return step(optimize.brentq(length, -200, 200, xtol=1e-13))


@pytest.mark.parametrize('radius', (0.0, 0.15, 0.7, 3.0))
@every_norm
def test_least_values_over_a_ball_within_a_box(p, radius):
  found = minimize(
    ROWS, OFFSET, region(CENTRE, DOWN, UP, radius), np.float64(p)
  )
  for row, offset, least in zip(ROWS, OFFSET, found, strict=True):
    want = row @ CENTRE + offset
    size = np.abs(row)
    slack = np.minimum(np.where(row > 0, DOWN, UP), radius)
    if p not in (1, np.inf) and radius and size.any():
      want -= size @ longest(size, slack, radius, p)
    elif radius:
      ball = np.ones((1, 4)) if p == 1 else np.zeros((1, 4))
      want += optimize.linprog(
        -size, ball, [radius], bounds=[(0, v) for v in slack]
      ).fun
    np.testing.assert_allclose(least, want, rtol=1e-9, atol=1e-9)
    assert least < want + 1e-14


@every_norm
def test_least_values_stay_below_exact_ones_by_rounding_alone(p):
  """guarantees.md: less 1e-12 of the sum of absolute terms."""
  rng = np.random.default_rng(0)
  rows, x = rng.normal(size=(3, 40)), 1e5 * rng.normal(size=40)
  free, offset = np.full(40, np.inf), 1e7 * np.array([1.0, -2.0, 0.0])
  found = minimize(rows, offset, region(x, free, free, 3e4), np.float64(p))
  values = lambda v: [fractions.Fraction(float(w)) for w in v]
  for row, least, free in zip(rows, found, offset, strict=True):
    size = values(np.abs(row))
    reach = {1: max(size), np.inf: sum(size)}.get(p)
    if reach is None:
      reach = values([np.linalg.norm(row, p / (p - 1))])[0]
    want = values([free])[0] - values([3e4])[0] * reach
    want += sum(a * b for a, b in zip(values(row), values(x), strict=True))
    terms = np.abs(row) @ (np.abs(x) + 3e4) + abs(free)
    gap = float(want - values([least])[0])
    np.testing.assert_allclose(gap, 1e-12 * terms, rtol=0.05)


def test_many_inputs_that_saturate_one_after_the_other():
  """The scale that fills the ball comes from below, in eight steps."""
  size = 2.0 ** np.arange(6)[None]
  down = np.full(6, 0.1)
  for p, shares in ((2, (0.5, 0.8, 0.98)), (1.5, (0.5, 0.8)), (5, (0.9, 0.98))):
    for share in shares:
      radius = share * np.linalg.norm(down, p)
      at = region(np.zeros(6), down, down, radius)
      found = minimize(size, np.zeros(1), at, np.float64(p))[0]
      want = -np.sum(size * longest(size, 0.1, radius, p))
      np.testing.assert_allclose(found, want, rtol=1e-9)


# Relaxations.


def test_relaxation_of_a_relu_by_hand():
  # Unstable either way, active, inactive, on the edges; below it the smaller
  # area.
  low, high = jnp.array([[-1.0, -2, 1, -3, 0, -1, 0], [2, 1, 3, -1, 2, 0, 0]])
  relu = relaxation.relax(low, high)
  assert relu.unstable.tolist() == [True, True] + [False] * 5
  assert relu.lower.tolist() == [1, 0, 1, 0, 1, 0, 1]
  want = [2 / 3, 1 / 3, 1, 0, 1, 0, 1]
  np.testing.assert_allclose(relu.upper, want, rtol=1e-6)
  want = [2 / 3, 2 / 3, 0, 0, 0, 0, 0]
  np.testing.assert_allclose(relu.intercept, want, rtol=1e-6)


LAYERS = tuple(network((3, 4, 5, 4), seed=10))
AT = np.array([0.1, -0.3, 0.4])


def least_by_program(layers, relaxed, lowers, row, offset, at):
  """Least `row @ h + offset`, h behind the ReLUs, by a linear program.

  Variables are the input within its box, and then the values before and behind
  each layer of ReLUs, bounded by their lines.
  """
  n = len(at.x)
  bounds = [*zip(at.x - at.down, at.x + at.up, strict=True)]
  equal, values, rows, limits, start = [], [], [], [], 0
  total = n + 2 * sum(len(b) for _, b in layers)
  for (w, b), relu, lower in zip(layers, relaxed, lowers, strict=True):
    m, after = len(b), start + len(w)
    eye, place = np.eye(m), np.zeros((3, m, total))
    place[0][:, start:after] = w.T
    place[0][:, after : after + m] = -eye
    equal.append(place[0])
    values.append(-b)
    place[1][:, after : after + m] = np.diag(lower)
    place[1][:, after + m : after + 2 * m] = -eye
    place[2][:, after : after + m] = -np.diag(relu.upper)
    place[2][:, after + m : after + 2 * m] = eye
    rows += [*place[1:]]
    limits += [np.zeros(m), relu.intercept]
    bounds += [(None, None)] * 2 * m
    start = after + m
  cost = np.zeros(total)
  cost[start:] = row
  if not layers:
    cost[:n] = row
  found = optimize.linprog(
    cost,
    np.concatenate(rows) if rows else None,
    np.concatenate(limits) if rows else None,
    np.concatenate(equal) if rows else None,
    np.concatenate(values) if rows else None,
    bounds=bounds,
  )
  assert found.status == 0
  return found.fun + offset


@pytest.mark.parametrize('free', (False, True))
def test_bounds_of_values_are_those_of_linear_programs(free):
  """Propagated back, with given lines below and above each ReLU."""
  down, up = np.array([0.5, 0.3, 0.4]), np.array([0.2, 0.6, 0.5])
  at = region(AT, down, up, 9.0)
  rng, label = np.random.default_rng(0), 2
  sizes, slopes = (4, 5), relaxation.default_slopes(LAYERS)
  assert slopes == [[], [None], [None, None]]
  if free:  # Beyond 0 and 1, these are their slopes.
    m = [None, 10, 4]
    slopes = [
      [rng.uniform(-0.3, 1.3, (m[i], sizes[j])) for j in range(i)]
      for i in range(3)
    ]

  @double
  def run(at, slopes, norm):
    bounds, relaxed = relaxation.neurons(LAYERS, at, slopes, norm)
    found = relaxation.margins(LAYERS, label, at, slopes, norm)
    return bounds, relaxed, found

  bounds, relaxed, margins = run(at, slopes, np.float64(np.inf))
  unstable = [relu.unstable for relu in relaxed]
  assert unstable[0].any() and not unstable[0].all() and unstable[1].any()
  for i, (low, high) in enumerate(bounds):
    for least, most, relu in zip(
      low, high, np.array(relaxed[i]).T, strict=True
    ):
      want = relaxation.relax(*np.array([[least], [most]]))
      np.testing.assert_allclose(relu, np.ravel(want), rtol=1e-6)

  def check(i, rows, offsets, found):
    for r, (row, offset) in enumerate(zip(rows, offsets, strict=True)):
      lowers = [
        np.where(v.unstable, np.clip(s[r], 0, 1), v.lower) if free else v.lower
        for v, s in zip(relaxed[:i], slopes[i], strict=True)
      ]
      want = least_by_program(LAYERS[:i], relaxed[:i], lowers, row, offset, at)
      np.testing.assert_allclose(found[r], want, rtol=1e-8, atol=1e-8)

  for i, (low, high) in enumerate(bounds):
    w, b = LAYERS[i]
    rows, offsets = np.vstack([w.T, -w.T]), np.append(b, -b)
    check(i, rows, offsets, np.append(low, -high))
  w, b = LAYERS[2]
  check(2, (w[:, [label]] - w).T, b[label] - b, margins)


def test_slopes_to_improve_are_those_of_the_relaxation(monkeypatch):
  relaxed = [
    relaxation.relax(*(jnp.asarray(v) for v in pair))
    for pair in (
      ([-1.0, -2, 1, -3], [2.0, 1, 3, -1]),
      ([-1.0, 1, -1, -2, -3], [3.0, 2, -1, 1, 4]),
    )
  ]
  slopes = relaxation.free_slopes(LAYERS, relaxed)
  shapes = [[v.shape for v in one] for one in slopes]
  assert shapes == [[], [(10, 4)], [(4, 4), (4, 5)]]
  for one in slopes:
    for v, relu in zip(one, relaxed[: len(one)], strict=True):
      np.testing.assert_array_equal(v, np.tile(relu.lower, (len(v), 1)))
  # All rows share those of more entries than allowed.
  for most, want in ((20, [(1, 4)]), (40, [(10, 4)]), (39, [(1, 4)])):
    monkeypatch.setattr(relaxation, 'MAX_SLOPES', most)
    slopes = relaxation.free_slopes(LAYERS, relaxed)
    assert [v.shape for v in slopes[1]] == want
    assert [v.shape for v in slopes[2]] == [(4, 4), (4, 5)]
  # Enough for an array of 32 MB.
  monkeypatch.undo()
  assert relaxation.MAX_SLOPES * 8 == 32 * 2**20


@every_norm
def test_neuron_bounds_hold_and_are_tighter_than_intervals(p):
  layers = layers_lib.check(network((3, 6, 6, 3), seed=1))
  rng = np.random.default_rng(0)
  x, low, high = rng.uniform(-1, 1, 3), np.full(3, -1.2), np.full(3, 1.0)
  found = crown.neuron_bounds(layers, x, 0.4, low, high, norm=p)
  points = rng.normal(size=(20000, 3)) * (rng.random((20000, 3)) < 0.6)
  size = np.linalg.norm(points, p, axis=1, keepdims=True)
  points = x + 0.4 * points / np.maximum(size, 1e-9)
  points = np.clip(points, low, high)
  values, z = [], points
  for w, b in layers[:-1]:
    values.append(z @ w + b)
    z = np.maximum(values[-1], 0.0)
  for (least, most), z in zip(found, values, strict=True):
    assert isinstance(least, np.ndarray) and least.dtype == np.float64
    assert np.all(z >= least - 1e-9) and np.all(z <= most + 1e-9)
  # The first layer's bounds are attained.
  np.testing.assert_allclose(found[0][0], values[0].min(0), atol=0.05)
  np.testing.assert_allclose(found[0][1], values[0].max(0), atol=0.05)
  w, b = layers[1]
  floor, ceiling = (np.maximum(v, 0.0) for v in found[0])
  interval = floor @ np.maximum(w, 0) + ceiling @ np.minimum(w, 0) + b
  assert np.mean(found[1][0] - interval) > 0.02


# The search for a radius.


def search_radius(fn, start, cap=1e60):
  """The radius found, and all that were tried."""
  tried = []

  def margin_fn(radius):
    tried.append(float(radius))
    return jnp.asarray(fn(float(radius)))

  with jax.enable_x64(True), jax.disable_jit():
    found = radii.largest(
      margin_fn, jnp.asarray(fn(0.0)), jnp.asarray(start), jnp.asarray(cap)
    )
  return float(found), tried


@pytest.mark.parametrize(
  'fn, root, most',
  [
    (lambda r: 2 - r / 3, 6.0, 30),
    (lambda r: 1 - r**2, 1.0, 36),
    (lambda r: 1e-3 - r**9, 1e-3 ** (1 / 9), 40),
    (lambda r: np.exp(-4 * r) - 1e-3, np.log(1e3) / 4, 34),
    (lambda r: 1.0 if r <= 0.37 else -np.inf, 0.37, 95),
  ],
)
@pytest.mark.parametrize('start', (1e-2, 50.0))
def test_radius_search_ends_just_below_the_root(fn, root, most, start):
  found, tried = search_radius(fn, start)
  assert root * (1 - 1.01e-7) <= found <= root * (1 + 1e-15)
  assert found in tried and fn(found) > 0  # It was itself seen to be certified.
  assert tried[0] == start and len(tried) <= most
  found, tried = search_radius(fn, start, cap=0.3)
  assert found == 0.3 == max(tried)


def test_radius_search_has_ends():
  # No margin to start with: nothing is tried.
  for margin in (0.0, -1.0):
    assert search_radius(lambda r: margin, 0.1) == (0.0, [])  # noqa: B023
  # A margin that is gone at once: a hundred rounds, and no radius.
  found, tried = search_radius(lambda r: -1.0 if r else 1.0, 0.1)
  assert found == 0 and len(tried) == 100
  # None that is never gone: the cap, in steps of eight times.
  found, tried = search_radius(lambda r: 1.0, 0.1, cap=50.0)
  assert found == 50 and len(tried) == 4
  # A margin of 0 is none.
  found, _ = search_radius(lambda r: 1.0 if r < 0.25 else 0.0, 0.25, cap=1.0)
  assert 0.25 * (1 - 2e-7) < found < 0.25
  # A bound that falls and rises again: a radius that was tried.
  found, tried = search_radius(lambda r: 0.3 + np.cos(r), 1.0, cap=20.0)
  assert found in tried and 0.3 + np.cos(found) > 0


def radius_by_program(layers, x, label, low, high, tightest):
  """linf radius that plain or best slopes certify, of one hidden layer.

  With plain ones the margin is bounded by the chosen lines; with the best ones
  by the triangle of each ReLU, the lines 0 and z both.
  """
  (w, b), last = layers[0], layers[1]

  def least(radius):
    down, up = np.minimum(x - low, radius), np.minimum(high - x, radius)
    at, centre = regions.Region(x, down, up, radius), x @ w + b
    spread = [
      np.maximum(w, 0).T @ d + np.maximum(-w, 0).T @ u
      for d, u in ((down, up), (up, down))
    ]
    relu = relaxation.relax(centre - spread[0], centre + spread[1])
    relu = relaxation.Relaxation(*map(np.asarray, relu))
    found = []
    for k in np.delete(np.arange(len(last[1])), label):
      row = last[0][:, label] - last[0][:, k]
      args = [(w, b)], [relu]
      offset = last[1][label] - last[1][k]
      if not tightest:
        found.append(least_by_program(*args, [relu.lower], row, offset, at))
        continue
      found.append(triangle(w, b, relu, row, offset, at))
    return min(found)

  return optimize.brentq(least, 1e-6, 50, rtol=1e-9)


def triangle(w, b, relu, row, offset, at):
  """Least `row @ h + offset` over the triangles, by a linear program."""
  n, m = w.shape
  eye = np.eye(m)
  low, high = (
    np.where(relu.unstable, 0.0, relu.lower),
    np.where(relu.unstable, 1.0, relu.lower),
  )
  rows = np.vstack(
    [
      np.hstack([low[:, None] * w.T, -eye]),
      np.hstack([high[:, None] * w.T, -eye]),
      np.hstack([-relu.upper[:, None] * w.T, eye]),
    ]
  )
  limits = np.concatenate(
    [-low * b, -high * b, relu.upper * b + relu.intercept]
  )
  bounds = [*zip(at.x - at.down, at.x + at.up, strict=True)] + [
    (None, None)
  ] * m
  found = optimize.linprog(
    np.append(np.zeros(n), row), rows, limits, bounds=bounds
  )
  assert found.status == 0
  return found.fun + offset


@pytest.mark.parametrize('seed', (1, 3, 4, 5, 7))
def test_certified_radii_of_one_hidden_layer(seed):
  """Plain ones exactly; improved slopes come close to the best there are."""
  (w, b), (last, offset) = network((4, 8, 3), seed)
  x, low, high = np.random.default_rng(seed).uniform(-1, 1, (3, 4))
  low, high = x - 2 - low, x + 2 + high
  # A large margin, so that the signs of many ReLUs change before it is gone.
  label = certify_oracles.predicted([(w, 2 * b), (last, offset)], x)
  offset[label] += 1.5
  layers = layers_lib.check([(w, 2 * b), (last, offset)])
  options = {'norm': np.inf, 'bounds': (low, high)}
  args = layers, x, label, low, high
  plain = certify.lower_bound(layers, x, label, num_steps=0, **options)
  np.testing.assert_allclose(plain, radius_by_program(*args, False), rtol=1e-6)
  best = radius_by_program(*args, True)
  assert plain < 0.83 * best
  improved = certify.lower_bound(layers, x, label, num_steps=60, **options)
  assert 0.99 * best <= improved <= best * (1 + 1e-6)


def test_options_of_lower_bounds_are_those_of_the_search(monkeypatch):
  given = {}

  def record(fn, columns, shared, **options):
    given.update(
      options, columns=columns, shared=shared, num_steps=dict(fn.options)
    )
    return np.arange(1.0, len(columns[0]) + 1)

  monkeypatch.setattr(crown.parallel, 'map_examples', record)
  layers = network((3, 4, 3), seed=0)
  xs, labels = np.zeros((2, 3)), np.array([2, 0])
  found = certify.lower_bounds(layers, xs, labels)
  assert found.tolist() == [1, 2]
  assert given['batch_size'] == 64 and given['progress'] is None
  assert (
    given['num_steps'] == {'num_steps': 20, 'quadratic_steps': 0}
    and given['shared'][1] == 2
  )
  assert given['shared'][1].dtype == np.float64
  flat, classes, others, low, high = given['columns']
  np.testing.assert_array_equal(flat, xs)
  np.testing.assert_array_equal(classes, labels)
  assert others.tolist() == [[True, True, False], [False, True, True]]
  assert np.all(np.isneginf(low)) and np.all(np.isposinf(high))
  certify.lower_bounds(
    layers,
    xs,
    labels,
    norm=np.inf,
    bounds=(-2, 1),
    num_steps=3,
    batch_size=5,
    progress=True,
  )
  assert given['batch_size'] == 5 and given['progress'] == 'certified distances'
  assert (
    given['num_steps'] == {'num_steps': 3, 'quadratic_steps': 0}
    and given['shared'][1] == np.inf
  )
  low, high = given['columns'][3:]
  assert low.tolist() == [[-2] * 3] * 2 and high.tolist() == [[1] * 3] * 2
  assert certify.lower_bound(layers, xs[0], 1) == 1
  assert (
    given['num_steps'] == {'num_steps': 20, 'quadratic_steps': 0}
    and given['shared'][1] == 2
  )
  certify.lower_bound(layers, xs[0], 1, norm=1, bounds=(-2, 1), num_steps=4)
  assert (
    given['num_steps'] == {'num_steps': 4, 'quadratic_steps': 0}
    and given['shared'][1] == 1
  )
  assert given['columns'][3].tolist() == [[-2] * 3]
  # Without a ReLU there are no slopes.
  certify.lower_bounds(layers[:1], xs, labels)
  assert given['num_steps'] == {'num_steps': 0, 'quadratic_steps': 0}


@pytest.mark.parametrize('p', NORMS)
def test_bounds_of_each_class(p):
  """Of a linear network: distances of its planes, inf for the label."""
  layers = layers_lib.check(network((3, 4), seed=5))
  x, low, high = np.array([0.1, -0.4, 0.3]), np.full(3, -2.0), np.full(3, 3.0)
  label = 1
  while certify_oracles.predicted(layers, x) != label:
    x = x + 0.3 * (layers[0][0][:, label] - layers[0][0].mean(1))
  found = crown.class_bounds(layers, x, label, x + low, x + high, norm=p)
  want = certify_oracles.distances(layers, x, label, p, x + low, x + high)
  np.testing.assert_allclose(found, want, rtol=1e-6)
  assert np.isfinite(want).sum() >= 2
