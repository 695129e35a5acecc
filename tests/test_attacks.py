"""Published attacks, step by step beside plain numpy, and what they share."""

import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import plain
import problems
import published
import pytest

from dmm_jax import boundary
from dmm_jax.boundary.attacks import apgd
from dmm_jax.boundary.attacks import ddn
from dmm_jax.boundary.attacks import deepfool
from dmm_jax.boundary.attacks import descent
from dmm_jax.boundary.attacks import fab
from dmm_jax.boundary.attacks import fmn
from dmm_jax.boundary.attacks import primal_dual
from dmm_jax.boundary.attacks import sigma_zero
from dmm_jax.boundary.attacks import superdeepfool
from dmm_jax.boundary.point import Status

NORMS = (1, 2, np.inf, 1.5)
# Values of every option, unlike its default.
OTHER = {
  ddn: dict(gamma=0.2, first_step=0.6, last_step=0.1),
  deepfool: dict(overshoot=0.3),
  superdeepfool: dict(overshoot=0.2, rtol=0.2),
  fab: dict(overshoot=0.2, max_bias=0.3, shrink=0.7),
  fmn: dict(gamma=0.3, last_gamma=0.05, first_step=0.5, last_step=0.2),
  primal_dual: dict(
    first_step=0.7, last_step=0.1, first_change=0.6, last_change=0.2
  ),
  apgd: dict(rtol=0.17),
  sigma_zero: dict(
    first_step=0.6,
    last_step=0.1,
    sharpness=0.1,
    threshold=0.2,
    change=0.2,
  ),
}
BUDGETS = {
  apgd: (1, 2, 3, 5, 8, 13, 21, 34),
  deepfool: (3, 5, 6, 8, 9, 15, 24),
  superdeepfool: (3, 5, 6, 9, 12, 15, 24),
  fab: (3, 5, 6, 9, 12, 18),
  primal_dual: (1, 3, 9, 30),
}
CASES = [(m, None) for m in OTHER if m not in (apgd, ddn, sigma_zero)]
CASES += [(ddn, 2), *((apgd, p) for p in NORMS), (sigma_zero, 0), (fmn, 0)]
name = lambda v: v.__name__.rpartition('.')[2] if inspect.ismodule(v) else None


def examples(finite=False):
  """`(params, x, low, high)`: free, and in boxes that some inputs touch."""
  for seed in range(3):
    rng = np.random.default_rng(10 + seed)
    x = rng.normal(size=3)
    low, high = -np.inf * np.ones(3), np.inf * np.ones(3)
    if seed == 1:
      low = x - [0.0, 0.9, 0.4]
      high = x + np.array([0.8, 0.0, 1.3])
    elif seed == 2:
      low = x - [2.5, 0.1, np.inf]
      high = x + np.array([0.1, np.inf, 0.6])
    if finite:
      low, high = np.maximum(low, x - 2), np.minimum(high, x + 3)
    yield plain.draw(seed), x, low, high


def solver(method, p, static):
  def solve(params, x, low, high, p, budget, options):
    label = jnp.argmax(plain.logits(params, x))
    problem = problems.create(
      lambda v: plain.logits(params, v), x, label, norm=p, low=low, high=high
    )
    return method.search(problem, budget, **static, **options)

  if p is not None:
    fn = lambda params, x, low, high, _, *rest: solve(
      params, x, low, high, p, *rest
    )
  else:
    fn = solve
  return jax.jit(jax.vmap(fn))


@pytest.mark.parametrize('method, p', CASES, ids=name)
def test_every_evaluation_is_that_of_the_publication(method, p):
  """After each number of gradients, with and without a box."""
  reference = getattr(published, name(method))
  given = inspect.signature(method.search).parameters
  usual = {
    k: v.default
    for k, v in inspect.signature(reference).parameters.items()
    if v.kind == v.KEYWORD_ONLY
  }
  assert {k: given[k].default for k in usual} == usual
  static = {'num_steps': 6} if method is apgd else {}
  budgets = BUDGETS.get(method, (1, 2, 3, 4, 6, 9, 14))
  if p == 1.5:  # Whose projection takes numpy long.
    budgets = budgets[:-1:2]
  cases = [
    (*example, norm, budget, options)
    for example in examples(finite=p == 0)
    for norm in (NORMS if p is None else (p,))
    for budget in budgets
    for options in ({k: usual[k] for k in OTHER[method]}, OTHER[method])
  ]
  columns = jax.tree.map(lambda *v: np.asarray(v), *cases)
  with jax.enable_x64(True):
    got = jax.device_get(solver(method, p, static)(*columns))
  found = 0
  for i, (params, x, low, high, norm, budget, options) in enumerate(cases):
    label = int(np.argmax(plain.logits(params, x)))
    problem = plain.Problem(params, x, label, norm, low, high)
    want = reference(problem, budget, **static, **options)
    case = f'{norm=} {budget=} {options=} {low=}'
    row = jax.tree.map(lambda v, i=i: v[i], got)
    assert row.status == want.status, case
    assert row.gradients == want.gradients, case
    assert row.forwards == want.forwards, case
    np.testing.assert_allclose(row.outer, want.outer, rtol=1e-7, err_msg=case)
    np.testing.assert_allclose(
      row.margin_outer, want.margin, rtol=1e-5, err_msg=case
    )
    assert row.target == want.target, case
    inner = getattr(want, 'inner', x)
    np.testing.assert_allclose(row.inner, inner, rtol=1e-7, err_msg=case)
    np.testing.assert_allclose(
      row.margin_inner, problem.margin(inner)[0], rtol=1e-6, err_msg=case
    )
    found += want.status == Status.FOUND
  assert found > len(cases) / 6


# --- What they share ---------------------------------------------------------

SOME = jnp.array([3.0, 4.0])


def evaluated(loss, gradient=SOME, *, finite=True, runner_up=1):
  """An evaluation at a point of R^2, its margin the loss."""
  value = jnp.float32(loss)
  return descent.Evaluation(
    value, gradient, value, jnp.int32(runner_up), jnp.bool_(finite)
  )


def line(**options):
  return problems.create(
    lambda x: jnp.array([[2.0, 1.0], [0.0, -1.0], [1.0, 3.0]]) @ x,
    jnp.array([1.0, 0.5]),
    0,
    **options,
  )


def test_losses_are_the_margin_and_cross_entropys():
  z, targets = jnp.array([1.0, 5.0, 2.0, 4.0]), jnp.array([0, 3])
  assert descent.hard_margin(z, 2, targets) == -2
  want = 2 - np.log(np.exp(1) + np.exp(4))
  np.testing.assert_allclose(
    descent.soft_margin(z, 2, targets), want, rtol=1e-6
  )
  for label, targets, want in (
    (2, [0, 3], -2 / 3),  # Of the label over its targets, by the top three.
    (1, [3, 0], 1 / 3),
  ):
    got = apgd.logit_ratio(z, label, jnp.array(targets))
    np.testing.assert_allclose(got, want, rtol=1e-6)
  two = jnp.array([-jnp.inf, 5.0, -jnp.inf, 4.0])
  assert apgd.logit_ratio(two, 1, jnp.array([3])) == 1
  assert apgd.logit_ratio(jnp.ones(3), 1, jnp.array([0, 2])) == 0


@jax.jit
def both_evaluations(project):
  """Of `line` at a point, in the subspace of some coordinates."""
  at = jnp.array([2.0, 1.0])
  free, within = line(), line(project=lambda v: v * project)
  hard = lambda problem: descent.evaluate(
    problem, descent.hard_margin, at, jnp.array([1])
  )
  return hard(free), hard(within), descent.expand(within, at, jnp.array([2, 1]))


def test_evaluations_tell_loss_gradient_and_margin():
  free, within, every = both_evaluations(np.array([0.0, 1.0], np.float32))
  # Logits there are 5, -1 and 5: the loss is of the targets, the margin of all.
  for got in (free, within):
    assert (got.loss, got.runner_up) == (6, 2) and got.finite
    np.testing.assert_allclose(got.margin, 0, atol=1e-5)
  np.testing.assert_array_equal(free.gradient, [2, 2])
  np.testing.assert_array_equal(within.gradient, [0, 2])
  np.testing.assert_allclose(every.loss, [0, 6], atol=1e-5)
  np.testing.assert_array_equal(every.gradient, [[0, -2], [0, 2]])
  assert every.runner_up == 2 and every.finite
  np.testing.assert_allclose(every.margin, 0, atol=1e-5)


def test_evaluations_tell_what_is_not_finite():
  def every(nan):
    # An infinite slope, and a logit that is NaN.
    root = lambda x: jnp.stack([1 + jnp.sqrt(x[0]), 0 * x[1]])
    broken = lambda x: jnp.stack([nan + x[0], 0 * x[1]])
    for fn in (root, broken):
      problem = problems.create(fn, jnp.array([0.0, 1.0]), 0)
      one = jnp.array([1])
      yield descent.evaluate(
        problem, descent.hard_margin, problem.x, one
      ).finite
      yield descent.expand(problem, problem.x, one).finite

  finite = jax.jit(lambda nan: list(every(nan)))
  assert not any(finite(np.nan))
  assert [bool(v) for v in finite(0.0)] == [False, False, True, True]


def test_a_search_begins_with_what_the_input_tells():
  x = jnp.array([1.0, 2.0])
  for first, status in (
    (evaluated(1.0), Status.NOT_FOUND),
    (evaluated(-1.0), Status.FOUND),
    (evaluated(1.0, 0 * SOME), Status.ZERO_GRADIENT),
    (evaluated(-1.0, finite=False), Status.NON_FINITE),
    (evaluated(1.0, jnp.array([0.0, 1.0])), Status.NOT_FOUND),
  ):
    got = descent.init(x, first, 3)
    assert got.status == status and got.status.dtype == jnp.int32
    assert (got.gradients, got.forwards, got.target) == (3, 0, 1)
    assert got.margin_inner == got.margin_outer == first.margin
    np.testing.assert_array_equal(got.inner, x)
    np.testing.assert_array_equal(got.outer, x)
  assert descent.init(x, evaluated(1.0)).gradients == 1


def test_the_nearest_point_beyond_is_kept():
  x = jnp.array([1.0, 1.0])
  first = descent.init(x, evaluated(1.0))
  see = functools.partial(descent.update_best, norm=1)
  assert jnp.isinf(descent.distance(first, 1))
  before = see(first, x + 1, evaluated(0.5), gradients=2, forwards=5)
  assert (before.gradients, before.forwards) == (3, 5)
  assert before.status == Status.NOT_FOUND
  np.testing.assert_array_equal(before.outer, x)
  found = see(before, x + SOME, evaluated(-0.5, runner_up=2))
  assert found.status == Status.FOUND and found.target == 2
  assert (found.gradients, found.forwards) == (4, 5)
  assert (found.margin_inner, found.margin_outer) == (1, -0.5)
  assert descent.distance(found, 1) == 7 and descent.distance(found, 2) == 5
  for point, new in (
    (x + SOME, evaluated(-0.7)),  # No nearer.
    (x + 4, evaluated(-0.7)),
    (x + 1, evaluated(0.7)),  # Nearer, but not beyond.
    (x + 1, evaluated(0.0)),
    (x + 1, evaluated(np.nan, finite=False)),
  ):
    same = see(found, point, new)
    np.testing.assert_array_equal(same.outer, found.outer)
    assert same.status == Status.FOUND and same.target == 2
    assert same.margin_outer == -0.5
  nearer = see(found, x - 2, evaluated(-0.1))
  np.testing.assert_array_equal(nearer.outer, x - 2)
  np.testing.assert_array_equal(nearer.inner, x)
  lost = see(before, x + 1, evaluated(np.nan, finite=False))
  assert lost.status == Status.NON_FINITE
  # Once lost it stays so until a point is found.
  assert see(lost, x + 1, evaluated(1.0)).status == Status.NON_FINITE


def test_a_search_goes_on_while_it_can_and_may():
  ok = descent.init(SOME, evaluated(1.0))._replace(gradients=jnp.int32(6))
  go = lambda segment, last, budget: bool(
    descent.should_continue(segment, last, budget)
  )
  assert go(ok, evaluated(1.0), 7) and not go(ok, evaluated(1.0), 6)
  assert not go(ok, evaluated(1.0, finite=False), 9)
  assert go(ok._replace(status=Status.FOUND), evaluated(1.0), 9)
  assert not go(ok._replace(status=Status.ZERO_GRADIENT), evaluated(1.0), 9)


def test_steps_are_clipped_or_shrunk_in_a_subspace():
  box = dict(low=jnp.array([0.0, 0.0]), high=jnp.array([4.0, 1.5]))
  into = lambda step, **more: descent.into_box(
    line(**box, **more), jnp.array(step)
  ).tolist()
  assert into([2.0, 3.0]) == [3.0, 1.5] and into([-2.0, 0.5]) == [0.0, 1.0]
  onto = lambda v: v * jnp.array([1.0, 1.0])
  assert into([2.0, 0.5], project=onto) == [3.0, 1.0]
  assert into([2.0, 2.0], project=onto) == [2.0, 1.5]
  assert into([-2.0, 0.25], project=onto) == [0.0, 0.625]
  assert into([-2.0, 9.0], project=lambda v: v * jnp.array([1.0, 0])) == [
    0,
    0.5,
  ]


def test_the_first_step_and_the_largest_radius():
  @jax.jit
  @jax.vmap
  def measure(p):
    first = evaluated(-10.0)
    # Where the box blocks all of it: the length that it would have.
    blocked = line(norm=p, low=jnp.array([1.0, 0.5]))
    boxes = (
      line(norm=p),
      line(norm=p, low=-1.0),
      line(norm=p, low=-1e9, high=1e9),
      line(norm=p, low=jnp.array([-3.0, 0.0]), high=2.0),
    )
    radii = [descent.max_radius(one, 3.0) for one in boxes]
    steps = descent.linear_step(line(norm=p), first)
    return steps, descent.linear_step(blocked, first), jnp.stack(radii)

  (step, size), (none, free), radii = measure(jnp.array(NORMS))
  want = [[0, -2.5], [-1.2, -1.6], [-10 / 7] * 2, [-90 / 91, -160 / 91]]
  np.testing.assert_allclose(step, want, rtol=1e-6)
  most = 10 / 91 ** (1 / 3)  # 3^3 + 4^3.
  np.testing.assert_allclose(size, [2.5, 2, 10 / 7, most], rtol=1e-6)
  np.testing.assert_allclose(free, size, rtol=1e-6)
  assert not np.any(none)
  for p, row in zip(NORMS, radii, strict=True):
    huge = 1e6 * (3 + np.linalg.norm([1, 0.5], p))
    corner = np.linalg.norm([4, 1.5], p)
    np.testing.assert_allclose(row, [huge, huge, huge, corner], rtol=1e-6)


def test_directions_have_unit_length_or_stay():
  np.testing.assert_allclose(
    descent.direction(-SOME, SOME), [-0.6, -0.8], rtol=1e-6
  )
  np.testing.assert_array_equal(descent.direction(0 * SOME, SOME), SOME)


def test_ddn_is_for_l2():
  for p in (1, np.inf, jnp.float32(2)):
    with pytest.raises(ValueError, match=r'ddn.* norm|norm .* ddn'):
      boundary.nearest_point(
        lambda x: x, jnp.ones(3), 0, norm=p, method='ddn', max_gradients=9
      )


def test_auto_pgd_looks_back_at_its_checkpoints():
  for num_steps in (6, 40, 100):
    for p in NORMS:
      want = np.zeros(num_steps + 1, int)
      places = published.checkpoints(num_steps, p)
      want[places] = np.diff([0, *places])
      np.testing.assert_array_equal(apgd.checkpoints(num_steps, p), want)
  # As printed in the paper, of 100 steps.
  assert published.checkpoints(100, 2) == [22, 41, 57, 70, 80, 87, 93, 99]


def test_auto_pgd_ends_where_the_largest_ball_holds_nothing():
  weights = jnp.array([[2.0, 1.0], [0.0, -1.0], [1.0, 3.0]])

  @jax.jit
  def search(x):
    problem = problems.create(
      lambda v: weights @ v, x, 0, low=x - 0.1, high=x + 0.1
    )
    return apgd.search(problem, 500)

  end = search(jnp.array([3.0, 0.5]))
  assert end.status == Status.NOT_FOUND
  # The input, and a ball's first point and forty steps.
  assert end.gradients == 1 + 1 + 40


def test_auto_pgd_halves_its_steps_where_they_do_not_help():
  x, best = jnp.zeros(2), jnp.array([1.0, 0.0])
  attack = apgd.init(best + 1, evaluated(2.0), 2)._replace(
    best=best,
    at_best=evaluated(1.0),
    checked=jnp.float32(3),
    before=best + 2,
  )
  check = lambda norm=2, **given: apgd.check(
    attack._replace(**{k: jnp.asarray(v) for k, v in given.items()}),
    x,
    10,
    norm,
  )
  # Of ten steps three quarters have to lower the loss.
  on, back = check(decreases=8), check(decreases=7)
  assert (on.step_size, on.checked, on.decreases) == (2, 1, 0)
  assert on.p.tolist() == [2, 1] and on.before.tolist() == [3, 2]
  assert not on.changed and on.at.loss == 2
  assert (back.step_size, back.checked, back.decreases) == (1, 1, 0)
  assert back.p.tolist() == back.before.tolist() == [1, 0]
  assert back.changed and back.at.loss == 1
  # Or the least loss, with a step size that was not changed before.
  stuck = dict(decreases=9, checked=1.0, changed=False)
  assert check(**stuck).step_size == 1
  assert check(**(stuck | dict(changed=True))).step_size == 2
  assert check(**(stuck | dict(checked=1.1))).step_size == 2
  # In l1 the coordinates that the best point has moved count.
  fewer = check(1, num_moved=1.2, step_size=0.6)
  assert (fewer.step_size, fewer.num_moved) == (1, 1) and fewer.changed
  same = check(1, num_moved=1.0, step_size=0.6)
  np.testing.assert_allclose(same.step_size, 0.4, rtol=1e-6)
  assert not same.changed and same.p.tolist() == [2, 1]
  assert check(1, num_moved=1.04, step_size=0.6).step_size < 1
  np.testing.assert_allclose(
    check(1, num_moved=1.0, step_size=0.11).step_size, 0.1
  )
  many = attack._replace(best=best + 1)
  np.testing.assert_allclose(apgd.check(many, x, 5, 1).num_moved, 2 / 1.5)
  assert apgd.init(x, evaluated(1.0), 1).step_size == 1
  sizes = [
    apgd.init(jnp.zeros(n), evaluated(1.0), 2).num_moved for n in (3, 20)
  ]
  assert sizes == [1, 4]
