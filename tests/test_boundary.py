"""Whole searches: closed forms, statuses, counts, and how near they come.

One program a method, over all cases at once, in float64.
"""

import functools
import inspect
import json

import jax
import jax.numpy as jnp
import numpy as np
import plain
import pytest
import quality
from scipy import optimize

from dmm_jax import boundary
from dmm_jax import margins
from dmm_jax.boundary import nearest
from dmm_jax.boundary.point import Status

NORMS = (1, 2, np.inf)
SIZE, CLASSES = quality.SIZE, quality.CLASSES
ZERO = np.zeros((CLASSES, SIZE))
FIRST = np.zeros((quality.HIDDEN, SIZE)), np.zeros((CLASSES, quality.HIDDEN))
BUDGET = {m: v[-1] for m, v in quality.BUDGETS.items()}
# How much farther than the least distance a search may end on linear networks
# of two classes that meet.
EXCESS = {'fab': 5e-3, 'ddn': 1e-2, 'fmn': 1e-2, 'apgd': 0.03}
EXCESS |= {'primal_dual': 0.05, 'projection': 2e-3, 'deepfool': 0.03}
EXCESS |= {'superdeepfool': 0.03}


def flat(direct=ZERO, squares=ZERO, bias=(0.0, 0.0, 0.0, 0.0)):
  """A network without a hidden layer."""
  return *FIRST, False, direct, squares, np.array(bias, float)


def linear_cases():
  """`(case, distance)`: two of four classes meet; free and in boxes."""
  rng = np.random.default_rng(0)
  for number in range(6):
    params = flat(rng.normal(size=(CLASSES, SIZE)), ZERO, (0, -60, 0.3, -70))
    x = rng.normal(size=SIZE)
    low, high = -np.inf, np.inf
    if number % 2:
      low = x - [0, 2, 1, 3, 0.6, 2]
      high = x + np.array([2, 0, 3, 0.5, 1, 2])
    label = int(np.argmax(quality.logits(params, x)))
    other = 2 - label
    row = params[3][other] - params[3][label]
    z = quality.logits(params, x)
    for p in NORMS:
      case = quality.case(params, x, p, low=low, high=high)
      step = plain.smallest_step(
        row, z[label] - z[other], case[4] - x, case[5] - x, p
      )
      reached = row @ step > (z[label] - z[other]) * (1 - 1e-9)
      yield case, np.linalg.norm(step, p) if reached else np.inf


def sphere_cases():
  """Class 3 inside the unit sphere, class 1 outside, the others nowhere."""
  for radius in (0.3, 0.8, 1.7):
    squares = ZERO.copy()
    squares[3] = -1
    params = flat(ZERO, squares, (-99, 0, -99, 1))
    x = radius * np.array([0.6, 0, -0.8, 0, 0, 0])
    yield quality.case(params, x, 2), abs(radius - 1)


def odd_cases():
  """`(case, statuses)` of what cannot be found, or needs no search."""
  rng = np.random.default_rng(1)
  direct, x = rng.normal(size=(CLASSES, SIZE)), rng.normal(size=SIZE)
  lead = np.array([0, 60.0, 0, 0])
  small = x - 0.01, x + 0.01
  for p in NORMS:
    case = functools.partial(quality.case, x=x, p=p)
    yield case(flat(bias=lead), label=1), {Status.ZERO_GRADIENT}
    yield (
      case(flat(direct, ZERO, lead), label=1, low=small[0], high=small[1]),
      {Status.NOT_FOUND},
    )
    for bad in (np.nan, np.inf):
      broken = flat(direct, ZERO, lead * [1, 1, 1, 0] + [0, 0, bad, 0])
      yield case(broken, label=1), {Status.NON_FINITE}
    yield case(flat(direct, ZERO, lead), label=2), {Status.MISCLASSIFIED}
    squares = ZERO.copy()
    squares[1] = 1  # The margin only grows away from its least value.
    yield (
      case(flat(1e-3 * direct, squares, lead), label=1),
      {Status.NOT_FOUND, Status.NON_FINITE},
    )


def slope(params, x, label, other):
  """Gradient of the margin of two classes."""
  first, last, curved, direct, squares, _ = params
  h = first @ x
  bend = 1 - np.tanh(h) ** 2 if curved else (h > 0).astype(float)
  every = last @ (bend[:, None] * first) + direct + 2 * squares * x
  return every[label] - every[other]


def assert_points_are_as_reported(rows, found):
  """Guarantees of FOUND, whatever the search."""
  for i, (params, x, label, p, low, high, _) in enumerate(rows):
    row = jax.tree.map(lambda v, i=i: v[i], found)
    assert row.forwards > 0
    if row.status != Status.FOUND:
      stays = row.status == Status.MISCLASSIFIED
      assert row.distance == (0 if stays else np.inf)
      np.testing.assert_array_equal(row.point, x)
      predicted = np.argmax(quality.logits(params, x))
      assert row.target == (predicted if stays else -1)
      assert stays or not np.any(row.normal)
      continue
    z = quality.logits(params, row.point)
    # Another class leads, by no less than its rounding.
    assert row.target == np.argmax(np.delete(z, label)) + (
      np.argmax(np.delete(z, label)) >= label
    )
    assert z[row.target] >= z[label] - 1e-14
    np.testing.assert_allclose(
      row.distance, np.linalg.norm(row.point - x, p), rtol=1e-9
    )
    assert np.all((row.point >= low) & (row.point <= high))
    assert row.margin < 0
    np.testing.assert_allclose(row.margin, z[label] - z[row.target], atol=1e-12)
    normal = slope(params, row.point, label, row.target)
    normal /= np.linalg.norm(normal)
    np.testing.assert_allclose(row.normal, normal, atol=1e-7)


def assert_boundary_is_close(row, case):
  """`point` is farther along by at most `rtol`: a little nearer is inside."""
  params, x, label, *_ = case
  inside = x + (1 - 1.1e-5) * (row.point - x)
  z = quality.logits(params, inside)
  assert np.argmax(z) == label


# Norm 0 has tests of its own; steps of published attacks are in test_attacks.
OURS = {'portfolio', 'fast', 'projection', 'ray', 'linear', 'deepfool'}
OTHERS = {*boundary.METHODS} - OURS - {'sigma_zero'}


@pytest.mark.parametrize(
  'method',
  [
    *sorted(OURS),
    *(pytest.param(m, marks=pytest.mark.slow) for m in sorted(OTHERS)),
  ],
)
def test_searches_find_what_they_promise(method):
  """guarantees.md: statuses, points beyond, and by how much; the record."""
  rows, budgets = quality.rows_of(method)
  num = len(rows)
  linear, spheres, odd = (
    [v for v in every if method != 'ddn' or v[0][3] == 2]
    for every in (linear_cases(), sphere_cases(), odd_cases())
  )
  for case, _ in (*linear, *spheres, *odd):
    rows.append(case)
    budgets.append(BUDGET[method])
  found = quality.solve(method, rows, budgets)
  # What a search may take, and one gradient for the normal.
  most = np.array(budgets) + 1
  if method in ('portfolio', 'fast', 'projection'):
    np.testing.assert_array_equal(found.gradients, most)
  elif method in ('ray', 'linear'):
    assert np.all(found.gradients == 3 + 1)
  else:
    assert np.all(found.gradients <= most)
  places = iter(range(num, len(rows)))

  def at():
    i = next(places)
    return jax.tree.map(lambda v: v[i], found)

  if method == 'linear':
    assert np.all(found.forwards == 1)
    for case, want in linear:
      row = at()
      if np.isfinite(want):
        assert row.status == Status.ESTIMATE and np.isnan(row.margin)
        np.testing.assert_allclose(row.distance, want, rtol=1e-8)
        np.testing.assert_allclose(
          np.linalg.norm(row.point - case[1], case[3]), want, rtol=1e-8
        )
  else:
    assert_points_are_as_reported(rows, found)
    straight = method not in ('ray',)
    for case, want in (*linear, *spheres):
      row = at()
      free = np.all(np.isinf(case[4]))
      if np.isinf(want):
        assert row.status == Status.NOT_FOUND
        continue
      if not free and not straight:
        continue  # A ray in a box need not end in the box's solution.
      assert row.status == Status.FOUND
      assert row.distance >= want * (1 - 1e-8)
      assert row.distance <= want * (1 + EXCESS.get(method, 2e-5)), case
      if method in ('portfolio', 'fast', 'projection', 'ray'):
        assert_boundary_is_close(row, case)
    for case, statuses in odd:
      row = at()
      assert row.status in statuses, (case, row.status)
  if num:
    record = json.loads(quality.FILE.read_text())
    summary = quality.summarize(
      rows[:num], budgets[:num], found.distance[:num], record['least']
    )
    worse, better = quality.compare(summary, record[method])
    assert not worse
    if better:
      print('nearer than recorded, renew the record:', *better, sep='\n')


def test_the_record_orders_the_searches_as_they_are_described():
  """The portfolio comes nearest; longer searches come nearer."""
  record = json.loads(quality.FILE.read_text())
  mean = lambda method, p, budget: record[method][f'{p}, {budget} gradients'][0]
  for p in ('l1', 'l2', 'linf'):
    assert mean('portfolio', p, 400) < 1.005
    assert mean('portfolio', p, 150) < 1.005
    assert mean('fast', p, 40) < mean('projection', p, 24)
    assert mean('projection', p, 90) < mean('deepfool', p, 90)
    for method in ('fmn', 'fab', 'primal_dual', 'apgd'):
      short, long = quality.BUDGETS[method]
      assert mean(method, p, long) <= mean(method, p, short) + 1e-3


# --- One example at a time ----------------------------------------------------


def bowl(x):
  """Class 1 outside a ball; the margin is no line along a ray."""
  return jnp.stack([1 - jnp.sum(x**2) ** 2, 0 * x[0], 0 * x[0] - 9])


def test_rtol_is_how_far_beyond_the_boundary_a_point_may_be():
  """guarantees.md: farther along by at most `rtol`; by the default, 1e-5."""
  x = np.array([0.18, -0.24])
  with jax.enable_x64(True):
    for method in ('ray', 'deepfool'):
      solve = lambda method=method, **options: boundary.nearest_point(
        bowl, jnp.asarray(x), 0, method=method, max_gradients=9, **options
      )
      usual = jax.jit(solve)()
      solve = jax.jit(lambda rtol, fn=solve: fn(rtol=rtol))
      found = {rtol: solve(rtol) for rtol in (0.05, 1e-3, 1e-5, 1e-9)}
      for rtol, point in found.items():
        assert 0 < point.distance / 0.7 - 1 <= rtol, (method, rtol)
      assert found[1e-9].distance < found[0.05].distance
      forwards = [int(point.forwards) for point in found.values()]
      assert sorted(forwards) == forwards and forwards[0] < forwards[-1]
      for got, want in zip(usual, found[1e-5], strict=True):
        np.testing.assert_array_equal(got, want)
  assert nearest.RTOL == 1e-5


def test_a_ray_is_probed_64_times_up_to_ten_linear_estimates():
  def thin(x, center):
    # Class 1 within a slab; to first order it is 1 away.
    slope = jnp.where(x[0] < 0.5, 1 - x[0], 1.0)
    inside = jnp.abs(x[0] - center) < 1e-3
    return jnp.stack([jnp.where(inside, -1.0, slope), 0 * x[0]])

  solve = lambda center: boundary.nearest_point(
    lambda x: thin(x, center), jnp.zeros(2), 0, method='ray'
  )
  places = np.arange(1, 2 * 64 + 3) / 2
  found = jax.jit(jax.vmap(solve))(jnp.float32(10 * places / 64))
  hit = (places % 1 == 0) & (places <= 64) & (places > 3.2)
  late = places > 3.5  # Where the slope has ended.
  np.testing.assert_array_equal((found.status == Status.FOUND)[late], hit[late])
  missed = late & ~hit
  assert np.all(found.status[missed] == Status.NOT_FOUND)
  # One forward to look at the input, and one more as the ray's start.
  assert np.all(found.forwards[missed] == 1 + 64 + 1)


def test_the_normal_is_a_gradient_more_or_none():
  x = jnp.array([3.0, 0.5])
  line = lambda v: jnp.stack([v[0] + 2 * v[1], 1.0 + 0 * v[0], v[1] - 90])
  for method, gradients in (('linear', 2), ('ray', 2), ('deepfool', 4)):
    both = jax.jit(
      lambda x, method=method: [
        boundary.nearest_point(line, x, 0, method=method, with_normal=normal)
        for normal in (True, False)
      ]
    )
    found, bare = both(x)
    np.testing.assert_allclose(found.normal, [0.2**0.5, 0.8**0.5], rtol=1e-5)
    assert not np.any(bare.normal) and bare.gradients == gradients
    assert found.gradients == gradients + 1
    np.testing.assert_allclose(bare.distance, 3 / 5**0.5, rtol=2e-5)
    assert bare.status == found.status


def test_classes_at_minus_infinity_are_no_linear_targets():
  @jax.jit
  def solve(others):
    fn = lambda v: jnp.concatenate([v[:1], others + 0 * v[0]])
    return boundary.nearest_point(fn, jnp.array([3.0]), 0, method='linear')

  found = solve(jnp.array([1.0, -jnp.inf]))
  assert (found.distance, found.target, found.status) == (2, 1, Status.ESTIMATE)
  # Nothing else is left: no estimate, and no search.
  found = solve(jnp.array([-jnp.inf, -jnp.inf]))
  assert found.status == Status.NON_FINITE and jnp.isinf(found.distance)


def test_arguments_of_one_example_reach_the_search():
  x = jnp.array([3.0, 0.5])
  line = lambda v: jnp.stack([v[0] + 2 * v[1], 1.0 + 0 * v[0]])
  solve = functools.partial(boundary.nearest_point, line, method='linear')
  assert solve(x, 0, norm=1).distance == 1.5
  assert solve(x, 0, norm=np.inf).distance == 1
  along = solve(x, 0, project=lambda v: v * jnp.array([1.0, 0.0]))
  assert along.distance == 3 and along.point.tolist() == [0, 0.5]
  boxed = solve(x, 0, bounds=(jnp.array([2.5, -9.0]), None))
  np.testing.assert_allclose(boxed.point, [2.5, -0.75], rtol=1e-6)
  assert solve(x, 1).status == Status.MISCLASSIFIED
  # Nothing is refined where the input itself lies beyond.
  beyond = boundary.nearest_point(line, x, 1, method='fmn', max_gradients=2)
  assert (beyond.gradients, beyond.forwards) == (3, 1)
  assert solve(x.astype(jnp.bfloat16), 0).distance.dtype == jnp.float32
  network = nearest.network_lib.trace(line, x)
  assert nearest.nearest_point(network, x, 0, method='ray').status == 0
  with pytest.raises(ValueError, match='project must map'):
    solve(x, 0, project=lambda v: v[:1])
  with pytest.raises(ValueError, match='method must be one of'):
    solve(x, 0, method='magic')
  with pytest.raises(TypeError, match='seed must be an integer'):
    solve(x, 0, seed=0.5, method='ray')
  defaults = {
    k: v.default
    for k, v in inspect.signature(boundary.nearest_point).parameters.items()
    if v.kind == v.KEYWORD_ONLY
  }
  assert defaults == dict(
    norm=2,
    bounds=None,
    project=None,
    groups=None,
    method='portfolio',
    max_gradients=2000,
    seed=0,
    rtol=1e-5,
    with_normal=True,
  )
  # Seeds differ, and repeat.
  wiggly = lambda v: jnp.stack([1.3 - jnp.sum(jnp.sin(3 * v) + v**2), 0.0])
  search = jax.jit(
    lambda seed: (
      boundary.nearest_point(
        wiggly,
        jnp.zeros(3),
        0,
        method='projection',
        max_gradients=40,
        seed=seed,
      ).point
    )
  )
  first = search(3)
  np.testing.assert_array_equal(search(3), first)
  assert np.any(search(4) != first)


def test_searches_go_on_where_debugging_of_nans_is_on():
  """NaN is a signal in searches: they switch the user's checks off."""
  line = lambda v: jnp.stack([v[0] + 2 * v[1], 1.0 + 0 * v[0]])
  with (
    jax.numpy_dtype_promotion('strict'),
    jax.debug_nans(True),
    jax.debug_infs(True),
  ):
    found = boundary.nearest_point(
      line, jnp.array([3.0, 0.5], jnp.float32), 0, method='linear'
    )
    with nearest.plain_arithmetic():
      assert jnp.isnan(jnp.zeros(2) / 0).all()
      assert (jnp.ones(2) / 0 + 1).dtype == jnp.float32
  assert found.distance > 0


def test_margins():
  logits = jnp.array([1.0, 4.0, 2.0])
  assert margins.margin(logits, 1) == 2 and margins.runner_up(logits, 1) == 2
  assert margins.margin(logits, 0) == -3 and margins.runner_up(logits, 0) == 1
  assert margins.margin(logits, 0).shape == ()
  # 4 units of rounding are no lead of another class, 16 are.
  near = lambda units: jnp.array([1.0, 1 + units * 2.0**-23])
  with_tolerance = margins.margin_with_tolerance
  assert with_tolerance(near(4), 0) > 0 > with_tolerance(near(16), 0)
  # The rounding of the two that meet counts, not of a class far away.
  for mask in (-1e9, -jnp.inf):
    masked = jnp.append(near(16), mask)
    assert with_tolerance(masked, 0) == with_tolerance(near(16), 0)


@pytest.mark.parametrize(
  ('method', 'norm', 'root'),
  [
    ('linear', np.inf, jnp.sqrt),
    ('ray', 1, lambda v: jnp.sqrt(jnp.abs(v))),
    ('deepfool', 2, jnp.sqrt),
    ('projection', np.inf, jnp.sqrt),
    ('fast', 2, lambda v: jnp.sqrt(jnp.abs(v))),
  ],
)
def test_gradients_that_are_not_finite_are_told(method, norm, root):
  # guarantees.md: NON_FINITE. Square roots are infinitely steep at 0, and their
  # chain rule may multiply that by 0.
  found = boundary.measure(
    lambda v: jnp.stack([9 + root(v[0]), 0 * v[0]]),
    np.array([[0.0, 1.0]], np.float32),
    norm=norm,
    method=method,
  )
  assert found.status == Status.NON_FINITE and np.isinf(found.distance)


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


def test_thousand_classes():
  rng = np.random.default_rng(3)
  weights, bias = rng.normal(size=(1000, 4)), rng.normal(size=1000)
  given = np.float32(weights), np.float32(bias)
  xs = np.float32(rng.normal(size=(6, 4)))
  found = boundary.measure(
    lambda x: given[0] @ x + given[1], xs, max_gradients=400
  )
  logits = xs @ weights.T + bias
  for x, row, distance in zip(xs, logits, found.distance, strict=True):
    every = np.argsort(-row)
    least, most = (
      min(
        (row[every[0]] - row[c])
        / np.linalg.norm(weights[every[0]] - weights[c])
        for c in classes
      )
      # Of the 18 classes of largest logit the nine nearest are aimed at.
      for classes in (every[1:], every[1:19])
    )
    assert least * (1 - 1e-4) <= distance <= most * (1 + 1e-3) + 1e-5, x
  assert np.all(found.status == Status.FOUND)
