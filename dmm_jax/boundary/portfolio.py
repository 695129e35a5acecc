"""Which searches run, toward which classes, under one budget of gradients."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dmm_jax import norms
from dmm_jax.boundary import point as point_lib
from dmm_jax.boundary import problem as problem_lib
from dmm_jax.boundary import projection
from dmm_jax.boundary import rays
from dmm_jax.boundary import state as state_lib
from dmm_jax.boundary import steps

FAST_GRADIENTS = 40
LEAST_ROUNDS = 3  # Of a screening search.
# Starts differ in the smoothing and the depth of their random points, and in
# their first direction: the gradient plus `NOISE` of its length of noise.
NOISE = 1.5
SMOOTHINGS = (0.0, 0.3, 1.0, 2.0, 1.0, 2.0)
DEPTHS = (0.5, 0.0, 0.0, 0.0, 0.0, 0.0)


class Stage(NamedTuple):
  """One round of searches, of the nearest classes so far.

  Attributes:
    candidates: how many of the nearest are searched.
    rounds: of projection, each.
    polish: rounds of the bundle method afterwards.
    step_size: the first; 1 forgets where it started, shorter ones do not.
    total: rounds after which steps would be shortest, if not `rounds`.
    starts: numbers of the new starts toward each candidate; () to continue.
  """

  candidates: int
  rounds: int
  polish: int = 0
  step_size: float = 1.0
  total: int = 0
  starts: tuple[int, ...] = ()

  @property
  def cost(self) -> int:
    """The gradients that it takes."""
    searches = self.candidates * max(len(self.starts), 1)
    return searches * (self.rounds + self.polish)


class Task(NamedTuple):
  """One search of one stage; columns of all stages.

  Attributes:
    candidate: which, in order of distance when the stage began.
    rounds, polish, step_size, total: as for `Stage`.
    start: number of the new start, or -1 to continue.
    row: of the table, where a new start is kept.
    screening: whether candidates are classes, not yet in order of distance.
    starts_stage: whether candidates are to be put in order first.
  """

  candidate: jax.Array
  rounds: jax.Array
  polish: jax.Array
  step_size: jax.Array
  total: jax.Array
  start: jax.Array
  row: jax.Array
  screening: jax.Array
  starts_stage: jax.Array


def plan(max_gradients: int, num_classes: int) -> tuple[int, list[Stage]]:
  """Splits a budget: gradients at the input, then stages."""
  small, large = max_gradients < 100, max_gradients >= 400
  most = problem_lib.MAX_TARGETS
  expanded = min(num_classes - 1, 6 if small else 2 * most)
  expanded = max(min(expanded, max_gradients - 1), 1)
  rest = max_gradients - expanded
  targets = min(expanded, 4 if small else most if large else 5)
  stages = [Stage(targets, 0, starts=(0,))]

  def add(part, candidates, polish=0.0, **options):
    searches = candidates * max(len(options.get('starts', ())), 1)
    each = int(rest * part) // searches
    polish = int(each * polish)
    stages.append(Stage(candidates, each - polish, polish, **options))

  if targets > 1 and rest >= 4 * targets:
    rounds = min(max(rest // 4 // targets, LEAST_ROUNDS), 10)
    stages = [Stage(targets, rounds, total=2 * rounds, starts=(0,))]
    rest -= stages[0].cost
    if large:
      add(0.3, min(3, targets), 0.2, starts=(0, 3))
      add(0.55, 1, 0.1, starts=(2, 3, 4))
      add(0.1, 3, 0.6, step_size=0.5)
    else:
      add(0.3 if small else 0.2, 2)
  elif large:
    add(0.5, 1, 0.3, starts=tuple(range(len(SMOOTHINGS))))
    add(0.3, 3, 0.4, step_size=0.5)
  rest -= sum(stage.cost for stage in stages[1:])
  add(1, 1, 0.4, step_size=0.5 if large else 1.0)
  return expanded, stages


def _tasks(stages, dtype):
  """The searches of all stages, in order."""
  tasks, row = [], 0
  for number, stage in enumerate(stages):
    for candidate in range(stage.candidates):
      for turn, start in enumerate(stage.starts or (-1,)):
        total = stage.total or stage.rounds
        shape = stage.rounds, stage.polish, stage.step_size, total
        first = candidate == turn == 0
        tasks.append(Task(candidate, *shape, start, row, number == 0, first))
        row += start >= 0
  columns = Task(*map(np.array, zip(*tasks, strict=True)))
  kinds = {'i': jnp.int32, 'f': dtype, 'b': bool}
  return jax.tree.map(lambda v: jnp.asarray(v, kinds[v.dtype.kind]), columns)


def nearest_targets(
  problem: problem_lib.Problem, expanded: int
) -> tuple[problem_lib.Linear, jax.Array]:
  """Returns the `MAX_TARGETS` classes whose linearised boundaries are nearest.

  Chosen among the `expanded` classes of largest logit. Source: Melamed et al.
  (2024), "MALT powers up adversarial attacks",
  https://arxiv.org/abs/2407.02240.

  Returns:
    `(linear, targets)`: nearest first.
  """
  targets = problem_lib.likely_targets(problem.logits, problem.label, expanded)
  linear = problem_lib.linearize(problem, problem.x, targets)
  distances = steps.plane_distances(linear.gaps, linear.gradients, problem.norm)
  # NaN comes last.
  order = jnp.argsort(distances)[: problem_lib.MAX_TARGETS]
  linear = linear._replace(
    gaps=linear.gaps[order], gradients=linear.gradients[order]
  )
  return linear, targets[order]


def search(
  problem: problem_lib.Problem, budget: int, key: jax.Array
) -> point_lib.Segment:
  """Searches toward each likely class, then longer toward the nearest ones.

  Single searches are 10 to 40 % off where they end in the wrong class, so each
  of the likely targets gets a short search; the nearest get longer ones, with
  large budgets from several starts, and the nearest points of all are polished.

  Args:
    problem: what is searched.
    budget: gradients; `plan` splits them.
    key: of the starts, and of the random points of long searches.

  Returns:
    A `Segment` whose inner end is the input, with the cost of all searches.
  """
  expanded, stages = plan(budget, problem.network.num_classes)
  tasks = _tasks(stages, problem.x.dtype)
  linear, targets = nearest_targets(problem, expanded)
  num_rows = sum(stage.candidates * len(stage.starts) for stage in stages)
  second = stages[0].candidates  # The first task of the second stage.
  starts_key, rounds_key = jax.random.split(key)

  def run_task(i, carry):
    table, classes, order = carry
    task = jax.tree.map(lambda column: column[i], tasks)
    # Points of steps in l2 do not show other distances: the nearest to first
    # order goes on whatever its short search found.
    seeded = (
      (problem.norm < projection.SPARSE)
      & (jnp.arange(num_rows) == 0)
      & (i == second)
    )
    order = jax.lax.cond(
      task.starts_stage,
      lambda: jnp.argsort(jnp.where(seeded, -jnp.inf, table.distance)),
      lambda: order,
    )
    row = order[task.candidate]
    number = jnp.where(task.screening, task.candidate, classes[row])
    pair = problem_lib.restrict_to_pair(problem, targets[number])
    first = _first(pair, linear, number, task.start, starts_key)
    state = jax.lax.cond(
      task.start >= 0,
      lambda: projection.begin(pair, first, targets[number]),
      lambda: jax.tree.map(lambda column: column[row], table),
    )
    each_key = jax.random.fold_in(rounds_key, i)
    state = _run_stage(pair, state, first, task, each_key)
    row = jnp.where(task.start >= 0, task.row, row)
    put = lambda rows, new: rows.at[row].set(new.astype(rows.dtype))
    return jax.tree.map(put, table, state), put(classes, number), order

  blank = state_lib.blank(problem)
  table = jax.tree.map(lambda v: jnp.stack([v] * num_rows), blank)
  rows = jnp.arange(num_rows, dtype=jnp.int32)
  carry = table, 0 * rows, jnp.argsort(table.distance)
  table, *_ = jax.lax.fori_loop(0, len(tasks.row), run_task, carry)
  nearest = jnp.argmin(table.distance)
  best = jax.tree.map(lambda column: column[nearest], table)
  rounds = sum(stage.cost for stage in stages)
  best = best._replace(
    gradients=jnp.int32(expanded + rounds),
    forwards=jnp.int32(1 + rays.FORWARDS * (num_rows + rounds)),
  )
  return projection.finish(problem, best)


def _first(pair, linear, number, start, key):
  """The first linearisation toward a target, or one close to it."""
  shape, dtype = pair.x.shape, pair.x.dtype
  noise = jax.random.normal(jax.random.fold_in(key, start), shape, dtype)
  noise = noise if pair.project is None else pair.project(noise)
  gradient, most = linear.gradients[number], norms.norm(noise, 2)
  size = NOISE * norms.norm(gradient, 2) / jnp.where(most > 0, most, 1.0)
  gradient = gradient + jnp.where(start > 0, size, 0.0) * noise
  return linear._replace(
    gaps=linear.gaps[number][None], gradients=gradient[None]
  )


def _run_stage(pair, state, first, task, key):
  """Runs one task: rounds of projection, then of the bundle method."""
  usual = projection.usual_smoothing(pair.norm, task.total)
  several = (task.start >= 0) & ~task.screening
  return projection.run(
    pair,
    state,
    key,
    rounds=task.rounds,
    polish=task.polish,
    first=first,
    starts=task.start >= 0,
    total=task.total,
    smoothing=jnp.where(several, jnp.array(SMOOTHINGS)[task.start], usual),
    depth=jnp.where(several, jnp.array(DEPTHS)[task.start], 0.0),
    step_size=task.step_size,
    from_l2=(task.start >= 0) | (task.total >= projection.LEAST_ROUNDS),
  )
