"""The published searches, one by one, and the projections they are made of."""

import functools
import operator

import jax
import jax.numpy as jnp
import numpy as np
import problems
import pytest
from scipy import optimize

from dmm_jax import boundary
from dmm_jax import norms
from dmm_jax.boundary import problem as problem_lib
from dmm_jax.boundary import projection
from dmm_jax.boundary import steps
from dmm_jax.boundary.attacks import apgd
from dmm_jax.boundary.attacks import ddn
from dmm_jax.boundary.attacks import deepfool
from dmm_jax.boundary.attacks import descent
from dmm_jax.boundary.attacks import fab
from dmm_jax.boundary.attacks import fmn
from dmm_jax.boundary.attacks import primal_dual
from dmm_jax.boundary.attacks import superdeepfool
from dmm_jax.boundary.point import Status

NORMS = (1, 2, np.inf)
METHODS = (apgd, ddn, fab, fmn, primal_dual, superdeepfool)
BUDGET = 300
NUM, CLASSES, SIZE = 8, 4, 6
FREE, BOX = (-np.inf, np.inf), (0.0, 1.0)

name = lambda method: method.__name__.rpartition('.')[2]
slow = lambda *values: pytest.param(*values, marks=pytest.mark.slow)
CASES = [(m, p) for m in METHODS for p in NORMS if m is not ddn or p == 2]
each_case = pytest.mark.parametrize(
  'method, p', CASES, ids=[f'{name(m)}-{p}' for m, p in CASES]
)
each_method = pytest.mark.parametrize('method', METHODS, ids=name)


def network(params):
  """Logits that are linear, or spheres: one program for any parameters."""
  weights, bias, curvature = params
  return lambda x: weights @ x + bias + curvature * jnp.sum(x**2)


def linear(seed=0, num_classes=CLASSES):
  rng = np.random.default_rng(seed)
  weights = rng.normal(size=(num_classes, SIZE)).astype(np.float32)
  bias = rng.normal(size=num_classes).astype(np.float32)
  return jnp.asarray(weights), jnp.asarray(bias), jnp.zeros(num_classes)


def inputs(seed=1):
  rng = np.random.default_rng(seed)
  return jnp.asarray(rng.uniform(0, 1, (NUM, SIZE)), jnp.float32)


def refined(problem, segment):
  """How far along the segment the class changes, by bisection."""

  def halve(_, bracket):
    near, far = bracket
    t = (near + far) / 2
    p = segment.inner + t * (segment.outer - segment.inner)
    beyond = problem_lib.margin_at(problem, p).value < 0
    return jnp.where(beyond, near, t), jnp.where(beyond, t, far)

  start = jnp.zeros(()), jnp.ones(())
  return jax.lax.fori_loop(0, 20, halve, start)[1]


@functools.cache
def solver(method, p, together):
  """One compiled search over inputs, and over their targets unless together.

  Together, it is also restricted to a subspace, to compile one program less.
  """

  def solve(params, basis, budget, box, x, label, targets):
    problem = problems.create(
      network(params),
      x,
      label,
      norm=p,
      low=box[0],
      high=box[1],
      project=(lambda v: basis @ (basis.T @ v)) if together else None,
      targets=targets if together else targets[None],
    )
    segment = method.search(problem, budget)
    length = norms.norm(segment.outer - x, p)
    length = length * refined(problem, segment)
    found = segment.status == Status.FOUND
    return segment, jnp.where(found, length, jnp.inf)

  if not together:
    solve = jax.vmap(solve, (None,) * 6 + (0,))
  return jax.jit(jax.vmap(solve, (None,) * 4 + (0, 0, 0)))


def run(method, p, params, xs, *, box=FREE, budget=BUDGET, basis=None):
  """Returns `(labels, targets [n, k - 1], segments, distances)`."""
  logits = np.stack([network(params)(x) for x in xs])
  # NaN: of class 0.
  order = np.argsort(-np.nan_to_num(logits, nan=-9.0), 1, kind='stable')
  labels, targets = jnp.asarray(order[:, 0]), jnp.asarray(order[:, 1:])
  solve = solver(method, p, basis is not None)
  basis = jnp.eye(SIZE) if basis is None else jnp.asarray(basis)
  out = solve(params, basis, budget, box, xs, labels, targets)
  return labels, targets, *out


@functools.cache
def exact_solver(p):
  """Distances of linear boundaries within a box; inf out of its reach."""

  def solve(params, box, x, label, target):
    row = params[0][label] - params[0][target]
    gap = network(params)(x)[label] - network(params)(x)[target]
    step = norms.smallest_step(-row, gap, box[0] - x, box[1] - x, norm=p)
    reached = -(row @ step) >= gap * (1 - 1e-5)
    return jnp.where(reached, norms.norm(step, p), jnp.inf)

  solve = jax.vmap(solve, (None, None, None, None, 0))
  return jax.jit(jax.vmap(solve, (None, None, 0, 0, 0)))


def exact(p, params, xs, labels, targets, box=FREE):
  return exact_solver(p)(params, box, xs, labels, targets)


@each_case
def test_linear_network_has_closed_form(method, p):
  params, xs = linear(), inputs()
  labels, targets, segment, got = run(method, p, params, xs)
  want = jnp.min(exact(p, params, xs, labels, targets), 1)
  np.testing.assert_allclose(jnp.min(got, 1), want, rtol=0.01)
  assert np.all(got >= want[:, None] * (1 - 1e-4))
  assert np.all(segment.status == Status.FOUND)
  assert np.all(segment.gradients <= BUDGET)
  assert np.all(segment.margin_outer < 0) and np.all(segment.margin_inner > 0)
  np.testing.assert_array_equal(segment.inner[:, 0], xs)
  logits = np.asarray(segment.outer) @ np.asarray(params[0]).T
  reached = np.argmax(logits + np.asarray(params[1]), 2)
  np.testing.assert_array_equal(reached, segment.target)


@each_case
def test_box_holds_and_does_not_stall(method, p):
  params = linear(seed=3)
  # Many coordinates start on the box: radii that ignore it stop growing.
  xs = jnp.clip(2 * inputs() - 0.5, *BOX)
  labels, targets, segment, got = run(method, p, params, xs, box=BOX)
  want = jnp.min(exact(p, params, xs, labels, targets, BOX), 1)
  assert np.all(jnp.isfinite(want))
  np.testing.assert_allclose(jnp.min(got, 1), want, rtol=0.02)
  assert np.all(got >= want[:, None] * (1 - 1e-4))
  assert np.all((segment.outer >= 0) & (segment.outer <= 1))


@each_case
def test_what_cannot_be_found_is_a_status(method, p):
  weights, _, flat = linear()
  lead = jnp.array([20.0, 0.0, 0.0, 0.0])
  for params, box, want in (
    ((0 * weights, lead, flat), FREE, [Status.ZERO_GRADIENT]),
    ((weights, jnp.nan * lead, flat), FREE, [Status.NON_FINITE]),
    ((jnp.nan * weights, lead, flat), BOX, [Status.NON_FINITE]),
    ((weights, lead, flat), BOX, [Status.NOT_FOUND]),
    # The margin only ever grows away from its least value: no far side.
    (
      (1e-3 * weights, lead, 1e-3 * lead),
      FREE,
      [Status.NOT_FOUND, Status.NON_FINITE],
    ),
  ):
    xs = inputs()
    *_, segment, got = run(method, p, params, xs, box=box)
    assert np.all(np.isin(segment.status, want)), (segment.status, want)
    assert np.all(jnp.isinf(got))
    np.testing.assert_array_equal(segment.outer[:, 0], xs)
    assert np.all(segment.gradients <= BUDGET)


@each_method
def test_sphere_has_closed_form(method):
  # Class 0 inside the unit sphere, class 1 outside, the others nowhere.
  bias = jnp.array([1.0, 0.0, -99.0, -99.0])
  params = jnp.zeros((CLASSES, SIZE)), bias, -(bias == 1).astype(bias.dtype)
  radii = np.array([0.2, 0.3, 0.5, 0.8, 1.2, 1.7, 2.0, 3.0], np.float32)
  xs = jnp.asarray(np.outer(radii, [0.6, 0.0, -0.8, 0.0, 0.0, 0.0]))
  *_, segment, got = run(method, 2, params, xs)
  # Its nearest target is the other one of the first two classes.
  np.testing.assert_allclose(got[:, 0], np.abs(radii - 1), rtol=0.01)
  assert np.all(segment.status[:, 0] == Status.FOUND)


@each_method
def test_all_targets_together(method):
  params, xs, basis = linear(seed=5), inputs(), jnp.eye(SIZE)
  labels, targets, segment, got = run(method, 2, params, xs, basis=basis)
  want = jnp.min(exact(2, params, xs, labels, targets), 1)
  assert np.all(segment.status == Status.FOUND)
  assert np.all(segment.gradients <= BUDGET)
  # A search ends at one of the boundaries, not always the nearest; DDN's loss
  # is a mixture of them.
  assert np.all(got >= want * (1 - 1e-4))
  assert np.mean(got <= want * (1.1 if method is ddn else 1.01)) >= 0.5
  *_, apart = run(method, 2, params, xs)
  np.testing.assert_allclose(jnp.min(apart, 1), want, rtol=0.01)
  for budget in (3, 7):
    *_, segment, _ = run(method, 2, params, xs, basis=basis, budget=budget)
    assert np.all(segment.gradients <= budget)


@pytest.mark.parametrize(
  'method', [m if m is ddn else slow(m) for m in METHODS], ids=name
)
def test_one_example_of_two_classes_under_jit_vmap_and_without(method):
  params, xs = linear(seed=2, num_classes=2), inputs()[:3]
  labels = jnp.argmax(jnp.stack([network(params)(x) for x in xs]), 1)

  def solve(x, label):
    return method.search(problems.create(network(params), x, label), 60)

  jitted = jax.jit(solve)
  among = jax.jit(jax.vmap(solve))(xs, labels)
  want = exact(2, params, xs, labels, 1 - labels[:, None])[:, 0]
  for i in range(2):
    row = jax.tree.map(operator.itemgetter(i), among)
    results = [jitted(xs[i], labels[i]), row]
    if i == 0:
      results.append(solve(xs[i], labels[i]))
    for result in results:
      length = jnp.linalg.norm(result.outer - xs[i])
      first = jnp.linalg.norm(results[0].outer - xs[i])
      np.testing.assert_allclose(length, first, rtol=2e-3)
      np.testing.assert_allclose(length, want[i], rtol=0.06)
      assert result.status == Status.FOUND
      assert result.gradients == results[0].gradients


@pytest.mark.parametrize(
  'method, p', [*((m, 2) for m in METHODS), (fmn, 1), slow(fmn, np.inf)]
)
def test_perturbations_stay_in_their_subspace(method, p):
  params, xs = linear(seed=7), inputs()
  basis = np.zeros((SIZE, SIZE), np.float32)
  random = np.random.default_rng(5).normal(size=(SIZE, 3))
  basis[:, :3] = np.linalg.qr(random)[0]
  labels, targets, segment, got = run(method, p, params, xs, basis=basis)
  step = np.asarray(segment.outer - segment.inner)
  np.testing.assert_allclose(step @ basis @ basis.T, step, atol=2e-5)
  assert np.all(segment.status == Status.FOUND)
  want = np.asarray(exact(p, params, xs, labels, targets))
  if p == 2:
    # What the subspace leaves of the gradients, for the same gaps.
    rows = np.asarray(params[0][labels][:, None] - params[0][targets])
    steep = lambda rows: np.linalg.norm(rows, axis=2)
    want = want * steep(rows) / steep(rows @ basis)
    close = got <= np.min(want, 1) * (1.1 if method is ddn else 1.01)
    assert np.mean(close) >= 0.5
  assert np.all(got >= np.min(want, 1) * (1 - 1e-4))


def test_budget_of_deepfool_holds():
  # The margin is least at 0, and above it: no far side.
  logits_fn = lambda x: jnp.stack([1 + x @ x, 0.0, -1.0])
  segment = jax.jit(
    lambda x: deepfool.search(problems.create(logits_fn, x, 0), 7)
  )(jnp.ones(3))
  assert segment.gradients == 6 and segment.status == Status.NOT_FOUND


def test_steps_to_the_nearest_plane_by_hand():
  gradients = jnp.array([[3.0, 4.0], [0.0, 2.0]])
  for norm, want in ((1, (0.25, 1.0)), (2, (0.2, 1.0)), (np.inf, (1 / 7, 1))):
    got = steps.plane_distances(jnp.array([1.0, 2.0]), gradients, norm)
    np.testing.assert_allclose(got, want, rtol=1e-6)
  problem = problems.create(lambda x: x, jnp.zeros(2), 0)
  # A fifth more than the gap of 1, or than one of 10 that is not closed yet.
  for least, gap in ((0.5, 1.2), (10.0, 3.0)):
    step, reach, index = steps.nearest_linear(
      problem,
      problem.x,
      jnp.array([1.0, 2.0]),
      gradients,
      overshoot=0.2,
      least_gap=least,
    )
    np.testing.assert_allclose(step, -gap * gradients[0] / 25, rtol=1e-6)
    assert index == 0 and reach == pytest.approx(0.2)


def test_a_linear_estimate_takes_one_look_and_one_gradient():
  found = boundary.nearest_point(
    lambda x: jnp.array([[1.0, 2.0], [0.0, 1.0]]) @ x,
    jnp.ones(2),
    0,
    method='linear',
    with_normal=False,
  )
  assert (found.gradients, found.forwards) == (1, 1)


def test_step_sizes_fall_as_a_cosine():
  got = [float(steps.cosine(1.0, 0.2, t)) for t in (0, 1 / 3, 0.5, 1)]
  np.testing.assert_allclose(got, [1, 0.8, 0.6, 0.2], rtol=1e-6)


def evaluated(loss):
  """An evaluation at a point of R^2, its margin the loss."""
  value = jnp.float32(loss)
  gradient = jnp.array([3.0, 4.0])
  return descent.Evaluation(
    value, gradient, value, jnp.int32(1), jnp.bool_(True)
  )


def test_radii_of_fmn_by_hand():
  @jax.jit
  def radii():
    before = descent.init(jnp.zeros(2), evaluated(1.0))
    point = jnp.array([3.0, 4.0])
    after = descent.update_best(before, point, evaluated(-1.0), norm=2)
    cases = (
      (after, 4.0, True),
      (after, 8.0, True),  # Beyond the point that was found.
      (after, 4.0, False),
      (before, 4.0, False),
      (before, 8.0, False),
    )
    following = [
      fmn.next_radius(segment, radius, 7.0, beyond, 0.1, 2)
      for segment, radius, beyond in cases
    ]
    # The first coordinate is at the bound that descent pushes against.
    place = jnp.array([0.0, 0.5])
    problem = problems.create(lambda x: x, place, 0, low=0.0, high=1.0)
    ahead = fmn.linear_distance(problem, place, evaluated(2.0))
    return jnp.stack([*following, ahead])

  np.testing.assert_allclose(radii(), [3.6, 5, 4.4, 7, 8.8, 0.5], rtol=1e-6)


def test_step_sizes_and_radii_of_apgd_by_hand():
  @jax.jit
  def run():
    x, best = jnp.zeros(2), jnp.array([1.0, 0.0])
    attack = apgd.init(best + 1, evaluated(2.0), 2)._replace(
      best=best, at_best=evaluated(1.0), checked=jnp.float32(3)
    )
    both = [attack._replace(decreases=jnp.int32(n)) for n in (8, 7)]
    checked = [apgd.check(one, x, 10, 2) for one in both]
    segment = descent.init(x, evaluated(1.0))
    far = jnp.float32(jnp.inf)
    state = apgd.Search(segment, attack, jnp.float32(3), jnp.float32(2), far)
    grown = apgd.next_radius(state, evaluated(1.0), True, 99.0, 2)
    segment = descent.update_best(segment, best + 3, evaluated(-1.0), norm=2)
    state = state._replace(segment=segment)
    halved = apgd.next_radius(state, evaluated(-1.0), True, 99.0, 2)
    sides = [(s.radius, s.below, s.above) for s in (grown, halved)]
    return [(out.step_size, out.checked, out.p) for out in checked], sides

  (goes_on, goes_back), sides = run()
  # Of ten steps three quarters have to lower the loss.
  assert goes_on[:2] == (2, 1) and goes_on[2].tolist() == [2, 1]
  assert goes_back[:2] == (1, 1) and goes_back[2].tolist() == [1, 0]
  assert sides == [(6, 3, np.inf), (3.5, 2, 5)]


# --- Rounds on an ellipse, beside plain numpy ------------------------------

AXES = np.array([1.0, 4.0])
INSIDE = np.array([0.3, 0.2])
margin = lambda x: 1 - x @ (AXES * x)
to_plane = lambda gap, g: -gap * g / (g @ g)


def ellipse(x):
  return jnp.stack([1 - x @ (AXES.astype(np.float32) * x), jnp.float32(0)])


def fab_by_hand(rounds):
  """Points beyond the boundary that FAB sees."""
  p, seen = INSIDE, []
  for _ in range(rounds):
    gap, g = margin(p), -2 * AXES * p
    here, there = to_plane(gap, g), to_plane(gap + g @ (INSIDE - p), g)
    near, far = np.linalg.norm(here), np.linalg.norm(there)
    bias = min(near / (near + far), 0.1)
    step = (1 - bias) * (p - INSIDE + 1.05 * here) + bias * 1.05 * there
    p = INSIDE + step
    seen.append(p)
    if margin(p) < 0:
      p = INSIDE + 0.9 * step
      seen.append(p)
  return seen


def superdeepfool_by_hand(rounds):
  """The same of SuperDeepFool, as long as its points come nearer."""
  p, seen, least = INSIDE, [], np.inf
  for _ in range(rounds):
    gap, g = margin(p), -2 * AXES * p
    if gap < 0:
      p = INSIDE + to_plane(g @ (INSIDE - p), g)
    else:
      over = 0.02 * max(gap, 0.05 * margin(INSIDE))
      p = p + to_plane(gap + over, g)
    length = np.linalg.norm(p - INSIDE)
    seen.append(p)
    if margin(p) < 0 and (gap < 0 or length > 0.999 * least):
      break
    least = min(least, length if margin(p) < 0 else np.inf)
  return seen


@pytest.mark.parametrize(
  'method, by_hand',
  [(fab, fab_by_hand), (superdeepfool, superdeepfool_by_hand)],
  ids=['fab', 'superdeepfool'],
)
def test_rounds_by_hand(method, by_hand):
  search = jax.jit(
    lambda x, budget: method.search(problems.create(ellipse, x, 0), budget)
  )
  found = 0
  for rounds in range(1, 7):
    got = search(jnp.float32(INSIDE), rounds + 1)
    beyond = [p for p in by_hand(rounds) if margin(p) < 0]
    assert (got.status == Status.FOUND) == bool(beyond)
    if beyond:
      best = min(beyond, key=lambda p: np.linalg.norm(p - INSIDE))
      np.testing.assert_allclose(got.outer, best, rtol=2e-5)
      found += 1
  assert found > 3


def test_first_step_of_projection_by_hand():
  start = np.array([0.6, 0.4])  # On the ellipse.
  assert margin(start) == pytest.approx(0)
  problem = problems.create(ellipse, jnp.float32(INSIDE), 0)
  at = jnp.float32(start)
  state = projection.blank(problem)._replace(
    point=at, iterate=at, best=at, target=jnp.int32(1), status=jnp.int32(0)
  )
  after = projection.run(
    problem,
    state,
    jax.random.key(0),
    rounds=1,
    total=3,
    smoothing=0.0,
    step_size=0.4,
  )
  g = -2 * AXES * start
  onto = to_plane(g @ (INSIDE - start), g)
  step = 0.6 * (start - INSIDE) + 0.4 * onto
  went = np.asarray(after.iterate) - INSIDE
  assert went[0] * step[1] == pytest.approx(went[1] * step[0], rel=1e-4)
  # A ray ends within 1e-4 of its length, where the margin falls by 1.2 on it.
  assert margin(np.asarray(after.iterate, float)) == pytest.approx(
    0, abs=1.2e-4
  )
  assert after.gradients == 1


def test_ddn_is_for_l2():
  problem = problems.create(lambda x: x, jnp.ones(3), 0, norm=1)
  with pytest.raises(ValueError, match='norm must be 2'):
    ddn.search(problem, 9)


def quadratic_program(v, low, high, p, radius=None, weight=0.0):
  """Minimises |u - v|^2 / 2 + weight |u|_p, |u|_p <= radius, by SLSQP.

  With u = up - down, the norm is linear in l1; in linf it is a variable.
  """
  n = len(v)
  split = lambda z: z[:n] - z[n : 2 * n]
  size = {
    1: lambda z: np.sum(z[: 2 * n]),
    2: lambda z: np.sqrt(np.sum(split(z) ** 2) + 1e-18),
    np.inf: lambda z: z[-1],
  }[p]
  constraints = [
    {'type': 'ineq', 'fun': lambda z: z[-1] - z[:n] - z[n : 2 * n]}
  ]
  if radius is not None:
    constraints.append({'type': 'ineq', 'fun': lambda z: radius - size(z)})
  reach = 10.0
  bounds = [(0, min(h, reach)) for h in high]
  bounds += [(0, min(-b, reach)) for b in low] + [(0, reach)]
  start = np.full(2 * n + 1, 1e-3)
  out = optimize.minimize(
    lambda z: np.sum((split(z) - v) ** 2) / 2 + weight * size(z),
    np.minimum(start, [b for _, b in bounds]),
    bounds=bounds,
    constraints=constraints,
    options={'ftol': 1e-12, 'maxiter': 500},
  )
  return split(out.x)


@functools.cache
def project_ball(p):
  return jax.jit(functools.partial(norms.project_ball, norm=p))


@functools.cache
def prox(p):
  return jax.jit(functools.partial(norms.prox, norm=p))


def random_box(rng, n):
  low, high = -rng.uniform(0, 1.5, n), rng.uniform(0, 1.5, n)
  low[0] = high[1] = 0
  low[2], high[3] = -np.inf, np.inf
  return low, high


@pytest.mark.parametrize('p', NORMS)
@pytest.mark.parametrize('share', [0.1, 0.5, 0.9, 1.5])
def test_projection_on_ball_and_box_is_optimal(p, share):
  rng = np.random.default_rng(int(10 * share))
  for _ in range(4):
    v = rng.normal(size=7)
    low, high = random_box(rng, 7)
    boxed = np.clip(v, low, high)
    radius = share * np.linalg.norm(boxed, p)
    u = project_ball(p)(*map(jnp.float32, (v, radius, low, high)))
    assert np.all((u >= low - 1e-7) & (u <= high + 1e-7))
    assert np.linalg.norm(u, p) <= radius * (1 + 1e-6)
    want = quadratic_program(v, low, high, p, radius=radius)
    if share > 1:
      want = boxed
    np.testing.assert_allclose(u, want, atol=2e-4)
    if share < 1 and p != 1:
      np.testing.assert_allclose(np.linalg.norm(u, p), radius, rtol=1e-6)


@pytest.mark.parametrize('p', NORMS)
@pytest.mark.parametrize('share', [0.0, 0.1, 0.5, 0.9, 1.1])
def test_prox_in_a_box_is_optimal(p, share):
  rng = np.random.default_rng(int(10 * share))
  for _ in range(4):
    v = rng.normal(size=7)
    low, high = random_box(rng, 7)
    # At the dual norm of what the box lets through, everything vanishes.
    inward = np.where(v > 0, high, -low) > 0
    weight = share * np.linalg.norm(v[inward], norms.dual(p))
    u = prox(p)(*map(jnp.float32, (v, weight, low, high)))
    assert np.all((u >= low) & (u <= high))
    want = quadratic_program(v, low, high, p, weight=weight)
    cost = lambda u, v=v, w=weight: (
      np.sum((u - v) ** 2) / 2 + w * np.linalg.norm(u, p)
    )
    assert cost(u) <= cost(want) + 1e-5
    np.testing.assert_allclose(u, want, atol=3e-3)
    if share > 1:
      np.testing.assert_allclose(u, 0, atol=1e-6)


@pytest.mark.parametrize('p', NORMS)
def test_projection_and_prox_meet_moreau(p):
  """v = prox(v) + projection on the dual ball, without a box."""
  q, free = norms.dual(p), jnp.full(7, jnp.inf)
  for v in np.random.default_rng(0).normal(size=(3, 7)).astype(np.float32):
    for radius in (0.1, 1.0, 9.0):
      near = prox(p)(v, radius, -free, free)
      ball = project_ball(q)(v, radius, -free, free)
      np.testing.assert_allclose(ball + near, v, atol=2e-6)
      if np.linalg.norm(v, q) > radius:
        np.testing.assert_allclose(np.linalg.norm(ball, q), radius, rtol=1e-5)
      else:
        np.testing.assert_array_equal(ball, v)


@pytest.mark.parametrize('p', NORMS)
def test_degenerate_projections(p):
  v = jnp.array([1.0, -2.0, 0.0])
  assert not np.any(norms.project_ball(v, 0.0, norm=p))
  assert not np.any(norms.project_ball(0 * v, 1.0, norm=p))
  assert not np.any(norms.prox(0 * v, 1.0, norm=p))
  np.testing.assert_allclose(norms.prox(v, 0.0, norm=p), v, rtol=1e-6)
  stuck = norms.project_ball(v, 1.0, jnp.zeros(3), jnp.zeros(3), norm=p)
  assert not np.any(stuck)
  tiny = norms.project_ball(1e-25 * v, 1e-25, norm=p)
  np.testing.assert_allclose(norms.norm(tiny, p), 1e-25, rtol=1e-5)
  with pytest.raises(ValueError, match='1, 2 or inf'):
    norms.project_ball(v, 1.0, norm=3)
