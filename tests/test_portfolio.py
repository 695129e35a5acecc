"""How the portfolio splits its budget, and which searches it runs in turn."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import problems
import pytest

from dmm_jax import norms
from dmm_jax.boundary import portfolio
from dmm_jax.boundary import problem as problem_lib
from dmm_jax.boundary import projection
from dmm_jax.boundary import state as state_lib
from dmm_jax.boundary.point import Status

Stage = portfolio.Stage
# By budget and classes: gradients at the input, and stages that take the rest.
PLANS = {
  # Too little to screen the classes: one search, of the nearest.
  (1, 2): (1, [Stage(1, 0, starts=(0,)), Stage(1, 0)]),
  (5, 10): (4, [Stage(4, 0, starts=(0,)), Stage(1, 1)]),
  (12, 9): (6, [Stage(4, 0, starts=(0,)), Stage(1, 4, 2)]),
  (17, 5): (4, [Stage(4, 0, starts=(0,)), Stage(1, 8, 5)]),
  (40, 2): (1, [Stage(1, 0, starts=(0,)), Stage(1, 24, 15)]),
  # Short: 4 classes, then two, then one; two fifths of its rounds polish.
  (20, 5): (
    4,
    [Stage(4, 3, total=6, starts=(0,)), Stage(2, 0), Stage(1, 3, 1)],
  ),
  (40, 10): (
    6,
    [Stage(4, 3, total=6, starts=(0,)), Stage(2, 3), Stage(1, 10, 6)],
  ),
  (99, 4): (
    3,
    [Stage(3, 8, total=16, starts=(0,)), Stage(2, 10), Stage(1, 32, 20)],
  ),
  # Medium: 5 classes of up to 18, and less for the second stage.
  (100, 10): (
    9,
    [Stage(5, 4, total=8, starts=(0,)), Stage(2, 7), Stage(1, 35, 22)],
  ),
  (399, 30): (
    18,
    [Stage(5, 10, total=20, starts=(0,)), Stage(2, 33), Stage(1, 159, 106)],
  ),
  # Long: nine classes, several starts toward the nearest.
  (400, 3): (
    2,
    [
      Stage(2, 10, total=20, starts=(0,)),
      Stage(2, 23, 5, starts=(0, 3)),
      Stage(1, 63, 6, starts=(2, 3, 4)),
      Stage(3, 5, 7, step_size=0.5),
      Stage(1, 14, 9, step_size=0.5),
    ],
  ),
  (2000, 1000): (
    18,
    [
      Stage(9, 10, total=20, starts=(0,)),
      Stage(3, 76, 18, starts=(0, 3)),
      Stage(1, 312, 34, starts=(2, 3, 4)),
      Stage(3, 26, 37, step_size=0.5),
      Stage(1, 61, 40, step_size=0.5),
    ],
  ),
  (1000, 2): (
    1,
    [
      Stage(1, 0, starts=(0,)),
      Stage(1, 59, 24, starts=(0, 1, 2, 3, 4, 5)),
      Stage(3, 60, 39, step_size=0.5),
      Stage(1, 123, 81, step_size=0.5),
    ],
  ),
}


@pytest.mark.parametrize('budget, classes', PLANS)
def test_a_budget_is_split_into_stages_that_take_all_of_it(budget, classes):
  expanded, stages = portfolio.plan(budget, classes)
  assert (expanded, stages) == PLANS[budget, classes]
  assert expanded + sum(stage.cost for stage in stages) == budget
  tasks = portfolio._tasks(stages, jnp.float32)
  rounds = int(np.sum(tasks.rounds + tasks.polish))
  assert rounds == budget - expanded
  rows = [
    (
      candidate,
      stage.rounds,
      stage.polish,
      stage.step_size,
      stage.total or stage.rounds,
      start,
      number == 0,
      candidate == 0 and start in (-1, *stage.starts[:1]),
    )
    for number, stage in enumerate(stages)
    for candidate in range(stage.candidates)
    for start in stage.starts or (-1,)
  ]
  columns = tasks._replace(row=tasks.candidate)
  got = [
    (v[0], *v[1:6], *v[7:])
    for v in zip(*map(np.ndarray.tolist, map(np.asarray, columns)), strict=True)
  ]
  np.testing.assert_allclose(got, rows)
  # Each new start is kept in a row of its own.
  new = np.asarray(tasks.start) >= 0
  np.testing.assert_array_equal(tasks.row[new], np.arange(new.sum()))
  kinds = [np.asarray(v).dtype for v in tasks]
  assert kinds == [np.int32] * 3 + [np.float32] + [np.int32] * 3 + [bool] * 2


def many_classes(num=12, size=3, seed=0, low=None):
  """A linear problem of many classes, one of them at -inf."""
  rng = np.random.default_rng(seed)
  weights, bias = rng.normal(size=(num, size)), rng.normal(size=num)
  x = rng.normal(size=size)
  logits = weights @ x + bias
  if low is not None:
    bias[low] = -np.inf
  label = int(np.argmax(logits))
  fn = lambda v: jnp.float32(weights) @ v + jnp.float32(bias)
  return fn, jnp.float32(x), label, weights, logits


@pytest.mark.parametrize('p', [1, 2, np.inf])
def test_targets_are_the_nearest_to_first_order_among_the_likely(p):
  fn, x, label, weights, logits = many_classes()
  problem = problems.create(fn, x, label, norm=p)
  for expanded in (3, 11):
    linear, targets = portfolio.nearest_targets(problem, expanded)
    likely = [c for c in np.argsort(-logits) if c != label][:expanded]
    gaps = {c: logits[label] - logits[c] for c in likely}
    rows = {c: weights[label] - weights[c] for c in likely}
    reach = {
      c: gaps[c] / np.linalg.norm(rows[c], norms.dual(p)) for c in likely
    }
    want = sorted(likely, key=reach.get)[:9]
    assert targets.tolist() == want
    np.testing.assert_allclose(linear.gaps, [gaps[c] for c in want], rtol=1e-5)
    np.testing.assert_allclose(
      linear.gradients, [rows[c] for c in want], rtol=1e-5
    )


# --- Which searches run, in which order -------------------------------------


def fake_first(pair, linear, number, start, key):
  """Tells what it was given."""
  said = jax.random.uniform(jax.random.fold_in(key, jnp.int32(start)))
  mark = said + 10.0 * number + jnp.sum(pair.classes)
  gradients = linear.gradients[number][None]
  return linear._replace(gaps=mark[None], gradients=gradients)


def fake_begin(pair, first, target):
  """Nothing found yet; the damping tells what it began from."""
  mark = first.gaps[0] + target
  return state_lib.blank(pair)._replace(
    damping=mark.astype(pair.x.dtype), target=target
  )


def fake_run(pair, state, first, task, key):
  """A distance that depends on all that a search is given."""
  much = 0.3 * task.rounds + 0.7 * task.polish + 0.1 * task.total
  much = much + 3 * task.step_size + task.start + jax.random.uniform(key)
  much = much + jnp.where(task.start >= 0, first.gaps[0], 0.0)
  mark = jnp.sin(50 * (state.damping + much)) + 1.1
  # Classes of the pair count: the search is for these two alone.
  mark = mark + 0.3 * jnp.sin(jnp.argmax(pair.classes) + 0.0)
  nearer = mark < state.distance
  return state._replace(
    distance=jnp.minimum(mark, state.distance),
    best=jnp.where(nearer, pair.x + mark, state.best),
    damping=state.damping + 1,
    status=jnp.int32(Status.FOUND),
    gradients=state.gradients + 99,
  )


def orchestrated(problem, budget, key):
  """The nearest point of all searches, one after the other."""
  expanded, stages = portfolio.plan(budget, problem.network.num_classes)
  linear, targets = portfolio.nearest_targets(problem, expanded)
  starts_key, rounds_key = jax.random.split(key)
  rows, done, num_starts = [], 0, 0
  for number, stage in enumerate(stages):
    order = sorted(range(len(rows)), key=lambda i: rows[i][0].distance)
    if number == 1 and problem.norm == 1:
      # The nearest to first order goes on, whatever its search has found.
      order = [0, *(i for i in order if i != 0)]
    for place in range(stage.candidates):
      for start in stage.starts or (-1,):
        rank = place if number == 0 else rows[order[place]][1]
        pair = problem_lib.restrict_to_pair(problem, targets[rank])
        first = fake_first(pair, linear, rank, start, starts_key)
        if start >= 0:
          state = fake_begin(pair, first, targets[rank])
          rows.append([state, rank])
          row, num_starts = len(rows) - 1, num_starts + 1
        else:
          row = order[place]
        task = portfolio.Task(
          place,
          stage.rounds,
          stage.polish,
          stage.step_size,
          stage.total or stage.rounds,
          start,
          0,
          number == 0,
          False,
        )
        one = jax.random.fold_in(rounds_key, done)
        rows[row][0] = fake_run(pair, rows[row][0], first, task, one)
        done += 1
  best = min((row[0] for row in rows), key=lambda s: s.distance)
  rounds = sum(stage.cost for stage in stages)
  return best, expanded + rounds, 1 + 4 * (num_starts + rounds)


@pytest.mark.parametrize(
  'budget, p', [(40, 1), (40, 2), (150, np.inf), (450, 1), (450, 2)]
)
def test_searches_run_in_the_order_of_what_was_found(budget, p, monkeypatch):
  monkeypatch.setattr(portfolio, '_first', fake_first)
  monkeypatch.setattr(projection, 'begin', fake_begin)
  monkeypatch.setattr(portfolio, '_run_stage', fake_run)
  fn, x, label, *_ = many_classes()
  problem = problems.create(fn, x, label, norm=p)
  search = jax.jit(lambda key: portfolio.search(problem, budget, key))
  for seed in range(3):
    got = search(jax.random.key(seed))
    best, gradients, forwards = orchestrated(
      problem, budget, jax.random.key(seed)
    )
    assert got.gradients == gradients == budget
    assert got.forwards == forwards + 3  # The end is evaluated again.
    np.testing.assert_array_equal(got.inner, x)
    # `finish` may move it by 1e-3 of the way.
    np.testing.assert_allclose(got.outer, best.best, rtol=2e-3, atol=2e-3)


def test_each_search_is_given_what_its_task_says(monkeypatch):
  seen = {}

  def run(problem, state, key, **options):
    seen['run'] = (problem, key, options)
    return state._replace(gradients=state.gradients + 1)

  monkeypatch.setattr(projection, 'run', run)
  fn, x, label, *_ = many_classes()
  usual = {1: 1.5, 2: 1.5, np.inf: 0.5}
  # Smoothing and depth of the starts; 0 is the plain one, a little beyond.
  smoothings, depths = (0.0, 0.3, 1.0, 2.0, 1.0, 2.0), (0.5, *[0.0] * 5)
  for p in usual:
    problem = problems.create(fn, x, label, norm=p)
    pair = problem_lib.restrict_to_pair(problem, problem.targets[1])
    for total, start, screening in (
      (20, 0, True),
      (20, -1, False),
      (29, -1, False),
      (30, -1, False),
      *((50, i, False) for i in range(6)),
    ):
      task = portfolio.Task(
        *map(jnp.asarray, (0, 7, 3, 0.5, total, start, 2, screening, False))
      )
      key = jax.random.key(total)
      first = object()
      end = portfolio._run_stage(pair, state_lib.blank(pair), first, task, key)
      assert end.gradients == 1
      problem_seen, key_seen, options = seen['run']
      assert problem_seen is pair and key_seen is key
      new = start >= 0 and not screening
      default = usual[p] if total >= 30 else 0.0
      want = dict(
        rounds=7,
        polish=3,
        starts=start >= 0,
        total=total,
        smoothing=smoothings[start] if new else default,
        depth=depths[start] if new else 0.0,
        step_size=0.5,
        from_l2=start >= 0 or total >= 30,
      )
      assert options.pop('first') is first
      assert set(options) == set(want)
      for k, v in want.items():
        np.testing.assert_allclose(options[k], v, rtol=1e-6, err_msg=k)


@pytest.mark.parametrize('within', [False, True], ids=['', 'subspace'])
def test_starts_leave_along_the_gradient_and_noise(within):
  fn, x, label, *_ = many_classes()
  q = np.linalg.qr(np.random.default_rng(1).normal(size=(3, 2)))[0]
  matrix = jnp.float32(q @ q.T)
  project = (lambda v: matrix @ v) if within else None
  problem = problems.create(fn, x, label, project=project)
  linear, targets = portfolio.nearest_targets(problem, 5)
  key, number = jax.random.key(9), 2
  pair = problem_lib.restrict_to_pair(problem, targets[number])
  for start in (0, 1, 3):
    one = portfolio._first(pair, linear, number, start, key)
    np.testing.assert_array_equal(one.gaps, linear.gaps[number][None])
    g = np.asarray(linear.gradients[number])
    noise = jax.random.normal(jax.random.fold_in(key, start), (3,))
    noise = np.asarray(matrix @ noise if within else noise)
    if start:
      g = g + 1.5 * np.linalg.norm(g) * noise / np.linalg.norm(noise)
    np.testing.assert_allclose(one.gradients, g[None], rtol=1e-5)
  # A subspace of nothing has no noise.
  nothing = dataclasses.replace(pair, project=lambda v: 0 * v)
  one = portfolio._first(nothing, linear, number, 1, key)
  np.testing.assert_array_equal(one.gradients[0], linear.gradients[number])
