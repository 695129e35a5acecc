"""Projection, bundle and subspaces, round by round beside plain numpy."""

import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import plain
import problems
import pytest

from dmm_jax import norms
from dmm_jax.boundary import bundle
from dmm_jax.boundary import problem as problem_lib
from dmm_jax.boundary import projection
from dmm_jax.boundary import state as state_lib
from dmm_jax.boundary import subspace
from dmm_jax.boundary.point import Status

NORMS = (1, 2, np.inf, 1.5)
SIZE = 4
FREE = np.full((2, SIZE), [[-np.inf], [np.inf]])


def basis(seed, rank=3, size=SIZE):
  random = np.random.default_rng(seed).normal(size=(size, rank))
  return np.linalg.qr(random)[0]


MATRIX = basis(0) @ basis(0).T


def example(seed):
  """`(params, x, low, high)`: free, or in a box that the input is close to."""
  rng = np.random.default_rng(10 + seed)
  x, (low, high) = rng.normal(size=SIZE), FREE
  if seed % 2:
    low = x - [0.02, 0.9, 0.4, 0.3]
    high = x + np.array([0.8, 0.1, 1.3, np.inf])
  return plain.draw(seed, size=SIZE), x, low, high


def create(params, x, low, high, p, within):
  return problems.create(
    lambda v: plain.logits(params, v),
    x,
    jnp.argmax(plain.logits(params, x)),
    norm=p,
    low=low,
    high=high,
    project=(lambda v: jnp.asarray(MATRIX) @ v) if within else None,
  )


def by_hand(params, x, low, high, p, within):
  label = int(np.argmax(plain.logits(params, x)))
  project = MATRIX if within else None
  return plain.Problem(params, x, label, p, low, high, project)


def first_state(problem):
  """As `projection.first_crossings`: the nearest of the rays to all targets."""
  x, p, q = problem.x, problem.p, plain.dual(problem.p)
  every = []
  for target in problem.targets:
    gap, g = problem.linearize(x, target)
    s = plain.State(x, x, x, np.inf, target)
    plain.follow(problem, s, problem.onto_plane(x, g, gap, 2 if p < 1.5 else p))
    every.append((gap / plain.norm(g, q), s))
  if p >= 1.5 and any(s.found for _, s in every):
    best = min((s for _, s in every), key=lambda s: s.distance)
  else:
    best = min(every, key=lambda v: v[0])[1]
  best.gradients = len(every)
  best.forwards = 4 * len(every)
  return best


def assert_state(got, want, case):
  for name in ('point', 'iterate', 'best', 'distance', 'damping'):
    np.testing.assert_allclose(
      getattr(got, name),
      getattr(want, name),
      rtol=1e-6,
      atol=1e-9,
      err_msg=f'{name} {case}',
    )
  for name in ('target', 'gradients', 'forwards'):
    assert getattr(got, name) == getattr(want, name), (name, case)
  assert (got.status == Status.FOUND) == want.found, case


# (rounds, polish, total, smoothing, depth, step_size, from_l2)
ROUNDS = (
  (0, 0, 9, 0.0, 0.0, 1.0, True),
  (1, 0, 3, 0.0, 0.0, 0.4, False),
  (2, 1, 2, 0.0, 0.0, 1.0, True),
  (4, 0, 30, 0.5, 0.0, 1.0, True),
  (5, 2, 40, 0.2, 0.4, 0.7, True),
  (6, 0, 6, 0.0, 0.6, 1.0, False),
  (7, 3, 7, 0.3, 0.1, 0.5, True),
)


def after_polish(problem, s, rounds):
  """Rounds of the bundle with its usual options, once there is a point."""
  if s.found:
    return plain.polish(problem, s, rounds, 8, 3.0)
  s.point = s.iterate = s.best
  return s


# Without a subspace there is less to do.
WITHIN = [
  pytest.param(False, marks=pytest.mark.slow, id='whole'),
  pytest.param(True, id='subspace'),
]


@pytest.mark.parametrize('within', WITHIN)
def test_rounds_of_projection_are_those_of_plain_numpy(within):
  key = jax.random.key(5)

  def run(params, x, low, high, p, rounds, polish, total, *options):
    problem = create(params, x, low, high, p, within)
    linear = problem_lib.linearize(problem, problem.x, problem.targets)
    first = projection.first_crossings(problem, linear, problem.targets)
    smoothing, depth, step_size, from_l2 = options
    after = projection.run(
      problem,
      first,
      key,
      rounds=rounds,
      polish=polish,
      total=total,
      smoothing=smoothing,
      depth=depth,
      step_size=step_size,
      from_l2=from_l2,
    )
    return after, projection.finish(problem, after)

  cases = [
    (*example(seed), p, *options)
    for seed in range(4)
    for p in NORMS
    for options in ROUNDS
  ]
  columns = jax.tree.map(lambda *v: np.asarray(v), *cases)
  with jax.enable_x64(True):
    noise = [
      np.asarray(jax.random.normal(jax.random.fold_in(key, i), (SIZE,), float))
      for i in range(9)
    ]
    got, segment = jax.device_get(jax.jit(jax.vmap(run))(*columns))
  found = 0
  for i, (
    *problem,
    rounds,
    polish,
    total,
    smoothing,
    depth,
    size,
    l2,
  ) in enumerate(cases):
    problem = by_hand(*problem, within)
    want = plain.run_projection(
      problem,
      first_state(problem),
      noise.__getitem__,
      rounds,
      total,
      smoothing,
      depth,
      size,
      l2,
    )
    if polish and not want.found:
      assert np.isinf(got.distance[i]) and got.status[i] != Status.FOUND
      continue
    want = after_polish(problem, want, polish)
    row, end = (jax.tree.map(lambda v, i=i: v[i], v) for v in (got, segment))
    assert_state(row, want, cases[i])
    found += want.found
    # The end of a search is its best point, evaluated again.
    assert (end.gradients, end.forwards) == (row.gradients, row.forwards + 3)
    assert end.status == row.status
    np.testing.assert_array_equal(end.inner, problem.x)
    margin, runner_up = problem.margin(problem.x)
    np.testing.assert_allclose(end.margin_inner, margin)
    if want.found:
      np.testing.assert_allclose(end.outer, want.best, rtol=1e-6, atol=1e-9)
      margin, runner_up = problem.margin(end.outer)
      np.testing.assert_allclose(
        end.margin_outer, margin, rtol=1e-6, atol=1e-12
      )
      assert end.target == runner_up
  assert found > len(cases) / 3


def test_a_long_search_in_l1_starts_with_thirty_rounds_in_l2():
  def run(params, x, low, high, rounds):
    problem = create(params, x, low, high, jnp.float64(1), False)
    linear = problem_lib.linearize(problem, problem.x, problem.targets)
    first = projection.first_crossings(problem, linear, problem.targets)
    return projection.run(
      problem, first, jax.random.key(0), rounds=rounds, total=160, smoothing=0.0
    )

  with jax.enable_x64(True):
    run = jax.jit(run)
    for rounds in (29, 30, 31, 33):
      got = run(*example(1), rounds)
      problem = by_hand(*example(1), 1, False)
      first = first_state(problem)
      want = plain.run_projection(
        problem, first, None, rounds, 160, 0.0, 0.0, 1.0, True
      )
      want = after_polish(problem, want, 0)
      assert_state(got, want, rounds)


@pytest.mark.parametrize('within', [False, True], ids=['', 'subspace'])
def test_a_search_starts_with_the_step_that_it_is_given(within):
  """Toward one target, in l1 by a step in l2; and not where it goes on."""

  def run(params, x, low, high, p, starts, rounds):
    problem = create(params, x, low, high, p, within)
    linear = problem_lib.linearize(problem, problem.x, problem.targets[1:2])
    # Not the gradient of the network: what is given counts.
    first = linear._replace(gradients=1.5 * linear.gradients + 0.1)
    if within:
      first = first._replace(
        gradients=jax.vmap(problem.project)(first.gradients)
      )
    begun = projection.begin(problem, first, problem.targets[1])
    options = dict(total=9, smoothing=0.0, from_l2=False)
    return begun, projection.run(
      problem,
      begun,
      jax.random.key(0),
      rounds=rounds,
      first=first,
      starts=starts,
      **options,
    )

  cases = [
    (*example(seed), p, starts, rounds)
    for seed in range(4)
    for p in NORMS
    for starts, rounds in ((True, 0), (True, 2), (False, 2))
  ]
  columns = jax.tree.map(lambda *v: np.asarray(v), *cases)
  with jax.enable_x64(True):
    one_by_one = jax.jit(lambda *v: jax.lax.map(lambda row: run(*row), v))
    begun, got = jax.device_get(one_by_one(*columns))
  for i, (*problem, starts, rounds) in enumerate(cases):
    problem, p = by_hand(*problem, within), problem[4]
    x, target = problem.x, problem.targets[1]
    want = plain.State(x, x, x, np.inf, target)
    assert begun.status[i] == Status.NOT_FOUND and begun.target[i] == target
    if starts:
      gap, g = problem.linearize(x, target)
      g = problem.onto(1.5 * g + 0.1)
      step = problem.onto_plane(x, g, gap, 2 if p < 1.5 else p)
      plain.follow(problem, want, step)
    want = plain.run_projection(
      problem, want, None, rounds, 9, 0.0, 0.0, 1.0, False
    )
    want = after_polish(problem, want, 0)
    assert_state(jax.tree.map(lambda v, i=i: v[i], got), want, cases[i])


def polish(problem, state, *, rounds, monkeypatch, **options):
  """Rounds of the bundle alone."""
  with monkeypatch.context() as patch:
    patch.setattr(bundle, 'empty', functools.partial(bundle.empty, **options))
    key = jax.random.key(0)
    return projection.run(problem, state, key, rounds=0, polish=rounds)


@pytest.mark.parametrize('within', WITHIN)
def test_rounds_of_the_bundle_are_those_of_plain_numpy(within, monkeypatch):
  def run(params, x, low, high, p, rounds, tightness):
    problem = create(params, x, low, high, p, within)
    linear = problem_lib.linearize(problem, problem.x, problem.targets)
    first = projection.first_crossings(problem, linear, problem.targets)
    return polish(
      problem,
      first,
      rounds=rounds,
      size=3,
      tightness=tightness,
      monkeypatch=monkeypatch,
    )

  cases = [
    (*example(seed), p, rounds, tightness)
    for seed in range(4)
    for p in NORMS
    for rounds in (0, 1, 2, 3, 5, 8)
    for tightness in (0.3, 3.0)
  ]
  columns = jax.tree.map(lambda *v: np.asarray(v), *cases)
  with jax.enable_x64(True):
    got = jax.device_get(jax.jit(jax.vmap(run))(*columns))
  gains = 0
  for i, (*problem, rounds, tightness) in enumerate(cases):
    problem = by_hand(*problem, within)
    first = first_state(problem)
    if not first.found:
      continue
    before = first.distance
    want = plain.polish(problem, first, rounds, 3, tightness)
    assert_state(jax.tree.map(lambda v, i=i: v[i], got), want, cases[i])
    gains += want.distance < before
  assert gains > 20


def kink(size, monkeypatch):
  """Polishes on max(a, b) = 1, whose nearest point is where two pieces meet."""
  cuts = jnp.array([[2.0, -1.0], [-1.0, 2.0]])
  logits_fn = lambda x: jnp.stack([1.0, jnp.min(cuts @ x)])

  @jax.jit
  def polished(rounds, tightness):
    start = jnp.array([1.25, 1.5])  # On the first piece.
    problem = problems.create(logits_fn, jnp.zeros(2), 0)
    state = state_lib.blank(problem)._replace(
      point=start,
      iterate=start,
      best=start,
      distance=jnp.linalg.norm(start),
      target=jnp.int32(1),
      status=jnp.int32(Status.FOUND),
    )
    return polish(
      problem,
      state,
      rounds=rounds,
      size=size,
      tightness=tightness,
      monkeypatch=monkeypatch,
    )

  return polished


def test_a_bundle_finds_the_bottom_of_a_kink(monkeypatch):
  options = inspect.signature(bundle.empty).parameters
  assert (options['size'].default, options['tightness'].default) == (8, 3)
  polish_8, polish_1 = (kink(size, monkeypatch) for size in (8, 1))
  end = polish_8(30, 3.0)
  np.testing.assert_allclose(end.distance, 2**0.5, rtol=3e-3)
  assert end.distance >= 2**0.5 * (1 - 1e-5)
  np.testing.assert_array_equal(end.point, end.best)
  np.testing.assert_array_equal(end.iterate, end.best)
  assert end.gradients == 30 and end.forwards == 120
  # A tie that is heavy lets it move little; one cut sees one piece only.
  assert polish_8(2, 1e4).distance > 1.9
  assert polish_1(30, 3.0).distance > end.distance


def test_nothing_is_polished_before_a_point_is_found(monkeypatch):
  problem = problems.create(
    lambda x: jnp.stack([1 + x @ x, 0 * x[0]]), jnp.ones(2), 0
  )
  end = polish(
    problem, state_lib.blank(problem), rounds=2, monkeypatch=monkeypatch
  )
  assert end.status == Status.NOT_FOUND and jnp.isinf(end.distance)
  np.testing.assert_array_equal(end.best, problem.x)
  assert end.gradients == 2


def test_smoothing_waits_for_thirty_rounds_and_is_less_in_linf():
  usual = projection.usual_smoothing
  norms = (1, 1.5, 2, 4, np.inf)
  assert [float(usual(p, 29)) for p in norms] == [0] * 5
  assert [float(usual(p, 30)) for p in norms] == [1.5, 1.5, 1.5, 1.0, 0.5]


@pytest.mark.parametrize('p', [1, np.inf])
def test_a_search_is_first_crossings_and_then_rounds(p):
  params, *rest = example(2)
  with jax.enable_x64(True):
    key = jax.random.key(3)

    @jax.jit
    def both(budget):
      problem = create(params, *rest, p, False)
      linear = problem_lib.linearize(problem, problem.x, problem.targets)
      first = projection.first_crossings(problem, linear, problem.targets)
      rounds = jnp.maximum(budget - 3, 1)
      state = projection.run(
        problem,
        first,
        key,
        rounds=rounds,
        total=rounds,
        smoothing=jnp.where(rounds < 30, 0.0, 0.5 if p == np.inf else 1.5),
        depth=0.0,
        step_size=1.0,
        from_l2=True,
      )
      want = projection.finish(problem, state)
      return projection.search(problem, budget, key), want

    for budget in (1, 3, 9, 40):
      got, want = both(budget)
      jax.tree.map(np.testing.assert_array_equal, got, want)
      assert got.gradients == max(budget, 4)


def test_a_point_that_is_no_longer_beyond_moves_a_little_further():
  """Its margin, and those of points beyond, are as rounding may leave them."""

  def finish(margins, high, within=False):
    places = jnp.array([0.0, 1.0, 1 + 1e-5, 1 + 1e-3])
    logits_fn = lambda x: jnp.stack(
      [jnp.interp(x[0], places, margins), 0 * x[0], 0 * x[0] - 9]
    )
    project = (lambda v: v) if within else None
    problem = problems.create(
      logits_fn, jnp.zeros(1), 0, high=high, project=project
    )
    state = state_lib.blank(problem)._replace(
      best=jnp.ones(1), status=jnp.int32(0), gradients=7, forwards=9
    )
    return projection.finish(problem, state)

  with jax.enable_x64(True):
    for within in (False, True):
      end_of = jax.jit(functools.partial(finish, within=within))
      for margins, moved in (
        ((-1.0, -2.0, -3.0), 1.0),
        ((0.1, -2.0, -3.0), 1 + 1e-5),
        ((0.1, 0.2, -3.0), 1 + 1e-3),
      ):
        end = end_of(np.array([1.0, *margins]), np.inf)
        np.testing.assert_allclose(end.outer, moved, rtol=1e-9)
        assert end.status == Status.FOUND and end.target == 1
        assert end.margin_outer < 0 and end.margin_inner > 0.9
        assert (end.gradients, end.forwards) == (7, 12)
      lost = end_of(np.array([1, 0.1, 0.2, 0.3]), np.inf)
      assert lost.status == Status.NOT_FOUND
      # Never out of the box.
      stays = end_of(np.array([1, 0.1, 0.1, -3.0]), 1.0)
      assert stays.status == Status.NOT_FOUND and stays.outer[0] <= 1


def test_first_crossings_tell_why_there_are_none():
  def status(logits_fn, x=(1.0, 2.0)):
    problem = problems.create(logits_fn, jnp.array(x), 0)
    linear = problem_lib.linearize(problem, problem.x, problem.targets)
    return projection.first_crossings(problem, linear, problem.targets).status

  assert status(lambda x: jnp.stack([1 + 0 * x[0], 0.0])) == (
    Status.ZERO_GRADIENT
  )
  assert status(lambda x: jnp.stack([x[0], jnp.nan])) == Status.NON_FINITE
  assert status(lambda x: jnp.stack([1 + x @ x, 0.0])) == Status.NOT_FOUND
  trap = lambda x: jnp.stack([jnp.where(x[0] < 0.5, jnp.nan, x[0]), 0.0])
  assert status(trap) == Status.NON_FINITE
  assert status(lambda x: jnp.stack([x[0], 0.0])) == Status.FOUND


# --- Subspaces -------------------------------------------------------------


@pytest.mark.parametrize('dims', (9, np.inf))
def test_steps_in_subspace_and_box_are_those_of_plain_numpy(dims):
  cases = []
  for seed in range(10):
    rng = np.random.default_rng(seed)
    rank = (2, 5, 9)[seed % 3]
    matrix = basis(seed, rank, 12) @ basis(seed, rank, 12).T
    x = rng.uniform(size=12)
    x[: seed % 4] = 0
    g = matrix @ rng.normal(size=12)
    for share in (0.02, 0.3, 1.0, 4.0, -0.5):
      step = share * rng.uniform(0.2, 1, size=12) * g
      cases.append((matrix, step, g, -x, 1 - x))
  cases.append((matrix, step, 0 * g, -x, 1 - x))
  columns = map(np.stack, zip(*cases, strict=True))
  with jax.enable_x64(True):
    solve = lambda matrix, *rest: subspace.project_feasible(
      lambda v: matrix @ v, *rest, dims
    )
    got = jax.device_get(jax.jit(jax.vmap(solve))(*columns))
  halved = 0
  for step, left, case in zip(*got, cases, strict=True):
    want, share = plain.project_feasible(*case, dims)
    np.testing.assert_allclose(left, share, rtol=1e-5, atol=1e-9)
    np.testing.assert_allclose(step, want, rtol=1e-4, atol=1e-7)
    halved += 0 < share < 0.9
  assert halved > 5


@pytest.mark.parametrize('dims', (8, np.inf))
@pytest.mark.parametrize('p', (1, 2, np.inf))
def test_steps_in_subspace_and_box_agree_with_scipy(p, dims):
  """`share` of what the subspace and the box allow at most is predicted."""
  followed = dims == 8
  project = jax.jit(
    lambda basis, *args: subspace.project_feasible(
      lambda v: basis @ (basis.T @ v), *args, dims
    )
  )
  for share in (0.3, 0.8, 1.5):
    reached, lengths = [], []
    for seed in range(6):
      rng = np.random.default_rng(seed)
      columns = basis(seed, 8, 20)
      x = rng.uniform(size=20)
      x[:3] = 0
      g, low, high = columns @ (columns.T @ rng.normal(size=20)), -x, 1 - x
      most = oracles.largest_gain(columns, g, low, high)
      gap = share * most
      step = norms.smallest_step(*map(jnp.float32, (g, gap, low, high)), norm=p)
      decrease = g @ np.asarray(step)
      step, left = project(*map(jnp.float32, (columns, step, g, low, high)))
      step = np.asarray(step, float)
      assert np.all((step >= np.float32(low)) & (step <= np.float32(high)))
      off = np.linalg.norm(step - columns @ (columns.T @ step))
      assert off <= 1e-5 * np.linalg.norm(step)
      gain = g @ step
      np.testing.assert_allclose(gain / decrease, left, atol=1e-3)
      assert gain <= most * (1 + 1e-5)
      reached.append(gain / min(decrease, most))
      want = oracles.smallest_step(columns, g, gain, low, high, p)
      lengths.append(np.linalg.norm(step, p) / want)
    least = 0.8 if followed else 0.35
    assert min(reached) >= (0.999 if share < 0.5 else least)
    usual = {0.8: 0.999, 1.5: 0.95} if followed else {0.8: 0.8, 1.5: 0.6}
    assert np.mean(reached) >= usual.get(share, 0.999)
    assert min(lengths) >= 1 - 1e-3
    assert np.median(lengths) <= (1.01 if p == 2 else 1.6)
    if followed and p == 2:
      assert max(lengths) <= 1.001


def test_dimensions_of_a_subspace_are_estimated():
  found = []
  for seed in range(40):
    matrix = basis(seed, 16, 100) @ basis(seed, 16, 100).T
    rank = subspace.rank(lambda v, m=matrix: m @ v, jnp.zeros(100))
    found.append(float(rank))
  assert abs(np.mean(found) / 16 - 1) < 4 * np.sqrt(2 / (8 * 16 * 40))
  assert 0.5 < np.std(found) / 16 / np.sqrt(2 / (8 * 16)) < 1.5


def test_reach_is_to_the_box_and_sixteen_units_of_rounding_beyond():
  eps = float(jnp.finfo(jnp.float32).eps)
  low, high = jnp.array([-1.0, 0.0, -9.0]), jnp.array([2.0, 9.0, 9.0])
  # (step, the coordinate that ends it, its slack)
  for step, i, slack in (
    ([-0.5, 0.5, 0.0], 0, 1.0),
    ([0.8, 0.5, 0.25], 0, 2.0),
    ([1.0, -0.125, 0.0], 1, 0.0),
    ([0.25, 0.0, -8.0], 2, 9.0),
  ):
    size = max(map(abs, step))
    want = (slack + 16 * eps * size) / abs(step[i])
    got = subspace.reach(jnp.array(step), low, high)
    np.testing.assert_allclose(got, want, rtol=1e-6)
    fitted = subspace.fit(jnp.array(step), low, high)
    want = np.clip(np.array(step) * min(want, 1.0), low, high)
    np.testing.assert_allclose(fitted, want, rtol=1e-6)
  assert jnp.isinf(subspace.reach(jnp.zeros(3), low, high))
  assert jnp.isinf(subspace.reach(jnp.array([0.0, 1.0, 0.0]), -9, jnp.inf))
