"""The fewest inputs to change: paths by averaged gradients, then exchanges.

There is no ray to follow and no cut to add where changes are counted. What a
projection is to norms, a path is here (`paths`): the inputs in the order of
what they can do to first order, each changed all the way. And what polishes
norms, a bundle, is here a search among neighbours: one input less, or another
in place of one.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dmm_jax.boundary import paths
from dmm_jax.boundary import point as point_lib
from dmm_jax.boundary import problem as problem_lib
from dmm_jax.boundary import rays
from dmm_jax.boundary import steps
from dmm_jax.boundary.point import Status

FORWARDS = 5  # On a path.
LAST_WEIGHT = (
  0.1  # Of a new gradient among the earlier ones, in the last round.
)
LEAVING, ENTERING = 2, 4  # Inputs that an exchange considers.
TRIED = LEAVING * ENTERING
NEIGHBOURS = TRIED + 3  # Two at random, and one for the ends.
# Rounds for which an input that was exchanged stays where it is.
KEEP_OUT, KEEP_IN = 6, 3


class State(NamedTuple):
  """Where a search toward one class stands.

  Attributes:
    point: where the next gradient is taken.
    slope, offset: the margin by averaged gradients, offset + slope . v.
    best: the point beyond the boundary with the fewest changes so far.
    changes: how many it has; inf until one was found.
  """

  point: jax.Array
  slope: jax.Array
  offset: jax.Array
  best: jax.Array
  changes: jax.Array


def search(
  problem: problem_lib.Problem, budget: int, key: jax.Array
) -> point_lib.Segment:
  """Finds a point beyond the boundary that differs in few inputs.

  Rounds toward each likely class follow a path to the boundary, take the
  gradient there, and average it with those before, with falling weight; the
  nearest classes get more rounds. From the best points an exchange then takes
  away one input after the other: where a point is beyond the boundary, the one
  that is missed least, else one input gives way to another, and may not come
  back for some rounds (a tabu search). Which of the neighbours is best is told
  by evaluating the most promising ones. It finds a local optimum in which every
  change goes to an end of the box; the last search on the line between input
  and point, the caller's, shortens all changes alike.

  Ours. One input after the other by its effect is Papernot et al. (2016),
  https://arxiv.org/abs/1511.07528; the exchange is Glover (1989), "Tabu search,
  part I", https://doi.org/10.1287/ijoc.1.3.190.

  Args:
    problem: what is searched; its box has two ends for every input.
    budget: gradients.
    key: of the random exchanges.

  Returns:
    A `Segment` from the input to the best point.
  """
  plan = split(budget, problem.network.num_classes)
  targets = problem_lib.likely_targets(
    problem.logits, problem.label, plan.expanded
  )
  linear = problem_lib.linearize(problem, problem.x, targets)
  distances = steps.linear_distances(problem, linear.gaps, linear.gradients)
  nearest = jnp.argsort(distances)[: plan.screened]

  def run_task(i, carry):
    """Screens a class; or goes on with one of the nearest, and exchanges."""
    table, order = carry
    screening = i < plan.screened
    order = jnp.where(i <= plan.screened, jnp.argsort(table.changes), order)
    row = jnp.where(screening, i, order[i - plan.screened])
    state = jax.tree.map(lambda column: column[row], table)
    pair = problem_lib.restrict_to_pair(problem, targets[nearest[row]])
    first = jnp.where(screening, 0, plan.rounds)
    last = plan.rounds + jnp.where(screening, 0, plan.more)
    state = jax.lax.fori_loop(
      first, last, lambda k, s: _follow_path(pair, s, k / plan.total), state
    )
    exchanges = jnp.where(screening, 0, plan.exchanges)
    state = _exchange(problem, state, exchanges, jax.random.fold_in(key, i))
    put = lambda column, new: column.at[row].set(new.astype(column.dtype))
    return jax.tree.map(put, table, state), order

  start = lambda i: State(
    problem.x,
    linear.gradients[i],
    linear.gaps[i],
    problem.x,
    jnp.full_like(problem.margin, jnp.inf),
  )
  carry = jax.vmap(start)(nearest), jnp.arange(len(nearest))
  num_tasks = plan.screened + plan.candidates
  table, _ = jax.lax.fori_loop(0, num_tasks, run_task, carry)
  best = table.best[jnp.argmin(table.changes)]
  margin = problem_lib.margin_at(problem, best)
  status = jnp.select(
    [margin.value < 0, jnp.isfinite(margin.value)],
    [Status.FOUND, Status.NOT_FOUND],
    Status.NON_FINITE,
  )
  usable = jnp.isfinite(distances[nearest[0]])
  status = jnp.where(usable, status, steps.why_none(linear.gradients))
  on_paths = plan.screened * plan.rounds + plan.candidates * plan.more
  return point_lib.Segment(
    problem.x,
    best,
    problem.margin,
    margin.value,
    margin.runner_up,
    status.astype(jnp.int32),
    jnp.int32(plan.cost),
    jnp.int32(
      1 + FORWARDS * on_paths + NEIGHBOURS * plan.candidates * plan.exchanges
    ),
  )


class Plan(NamedTuple):
  """How a budget of gradients is spent.

  Attributes:
    expanded: classes that are linearised at the input.
    screened: the nearest of these, searched for `rounds` rounds each.
    rounds: likewise.
    candidates: the nearest of these, searched further.
    more: rounds of each on paths.
    exchanges: rounds of each afterwards.
  """

  expanded: int
  screened: int
  rounds: int
  candidates: int
  more: int
  exchanges: int

  @property
  def total(self) -> int:
    """Rounds on paths, one at least."""
    return max(self.rounds + self.more, 1)

  @property
  def cost(self) -> int:
    """The gradients that it takes."""
    further = self.candidates * (self.more + self.exchanges)
    return self.expanded + self.screened * self.rounds + further


def split(budget: int, num_classes: int) -> Plan:
  """Splits a budget of gradients."""
  small = budget < 100
  expanded = min(num_classes - 1, 4 if small else problem_lib.MAX_TARGETS)
  expanded = max(min(expanded, budget - 1), 1)
  rest = budget - expanded
  screened = min(expanded, 3 if small else expanded)
  rounds = max(min(rest // 4 // screened, 10), min(rest, 1))
  screened = min(screened, max(rest, 1))
  rest -= screened * rounds
  candidates = min(screened, 1 if small else 2 if budget < 400 else 3)
  each = rest // candidates
  more = min(each // 4, 60)
  return Plan(expanded, screened, rounds, candidates, more, each - more)


def _follow_path(pair, s, progress):
  """One gradient, and the path down the average of all so far."""
  target = pair.targets
  linear = problem_lib.linearize(pair, s.point, target)
  slope, gap = linear.gradients[0], linear.gaps[0]
  offset = gap - jnp.sum(slope * (s.point - pair.x))
  weight = steps.cosine(1.0, LAST_WEIGHT, progress).astype(slope.dtype)
  usable = jnp.all(jnp.isfinite(slope)) & jnp.isfinite(offset)
  weight = jnp.where(usable, weight, 0.0)
  mix = lambda old, new: old + jnp.where(usable, weight * (new - old), 0.0)
  s = s._replace(slope=mix(s.slope, slope), offset=mix(s.offset, offset))
  path = paths.steepest(pair, s.slope)
  point, found = follow(pair, path, paths.needed(path, s.offset))
  count = paths.count(point - pair.x, pair.groups)
  fewer = found & (count < s.changes)
  return s._replace(
    point=point,
    best=jnp.where(fewer, point, s.best),
    changes=jnp.where(fewer, count, s.changes),
  )


def follow(
  problem: problem_lib.Problem,
  path: paths.Path,
  start: jax.Array,
  num_forwards: int = FORWARDS,
) -> tuple[jax.Array, jax.Array]:
  """Finds where a path crosses the boundary, by the number of its changes.

  Regula falsi, in units of what the changes do to first order, between the last
  number that is not beyond and the first one that is; before there is one, at
  most twice as many each time.

  Args:
    problem: whose input is the path's start.
    path: from `paths.steepest`.
    start: the first number of changes to try.
    num_forwards: evaluations.

  Returns:
    `(point, found)`: the one beyond with the fewest changes, or without any the
    one with the most.
  """
  first, most = problem.margin, jnp.maximum(path.moving, 1)

  def evaluate(_, s):
    num = s['next']
    value = problem_lib.margin_at(
      problem, paths.point(path, problem, num)
    ).value
    beyond = value < -rays.RELIABLE * first
    low, high = (
      jnp.where(beyond, s['low'], num),
      jnp.where(beyond, num, s['high']),
    )
    inner = jnp.where(beyond, s['inner'], value)
    outer = jnp.where(beyond, value, s['outer'])
    found = high <= most
    near, beside = path.gains[low], path.gains[jnp.minimum(high, most)]
    inside = near + (beside - near) * inner / (inner - outer)
    further = 1.1 * path.gains[num] * first / (first - inner)
    aim = jnp.where(found, inside, further)
    aim = jnp.searchsorted(path.gains, aim).astype(num.dtype)
    last = jnp.where(found, high - 1, jnp.minimum(2 * low + 1, most))
    # Where nothing is left between, the first one beyond again.
    ahead = jnp.maximum(jnp.minimum(aim, last), low + 1)
    return dict(
      low=low, high=high, inner=inner, outer=outer,
      next=jnp.minimum(ahead, jnp.where(found, high, most)),
    )  # fmt: skip

  zero = jnp.zeros_like(path.moving)
  s = dict(
    low=zero,
    high=most + 1,
    inner=first,
    outer=-first,
    next=jnp.clip(start, 1, most),
  )
  s = jax.lax.fori_loop(0, num_forwards, evaluate, s)
  found = s['high'] <= most
  num = jnp.where(found, s['high'], jnp.maximum(s['low'], 1))
  return paths.point(path, problem, num), found


def _exchange(problem, state, rounds, key):
  """Rounds of a tabu search among the neighbours of the best point."""
  x = problem.x
  shape = paths.by_group(problem, x).shape
  numbers = jnp.arange(np.prod(shape, dtype=int))
  changed = lambda p: _any(problem, p != x).ravel()
  wide = lambda v: jnp.broadcast_to(v.reshape(shape), x.shape)
  value = lambda p: problem_lib.margin_at(problem, p).value
  reliable = rays.RELIABLE * problem.margin

  def neighbours(i, point, linear, free, most):
    """Points, and the inputs that leave and enter."""
    ends, gain = paths.effects(problem, linear.gradients[0])
    gain = paths.by_group(problem, gain).ravel()
    beyond, chosen = linear.margin < -reliable, changed(point)
    # What is missed least leaves, what does most enters.
    missed = jnp.where(chosen & (free | beyond), gain, jnp.inf)
    leave = jax.lax.top_k(-missed, min(TRIED, len(gain)))[1]
    enter = jnp.where(~chosen & free, gain, -1.0)
    enter = jax.lax.top_k(enter, min(ENTERING, len(gain)))[1]
    k = jnp.arange(TRIED)
    one_less = leave[k % len(leave)]
    out = jnp.where(beyond, one_less, leave[k // ENTERING % len(leave)])
    # Below the number that is aimed at nothing has to leave.
    room = ~beyond & (jnp.sum(chosen) < most - 1)
    out = jnp.where(room, -1, out)
    into = jnp.where(beyond, -1, enter[k % len(enter)])
    # Two at random, one of them against its gradient; and none, but every
    # change goes where the gradient says.
    pair = jax.random.randint(jax.random.fold_in(key, i), (2,), 0, len(gain))
    out = jnp.append(out, jnp.stack([out[0], out[0], -1]))
    into = jnp.append(into, jnp.append(jnp.where(beyond, -1, pair), -1))

    def make(k, out, into):
      p = jnp.where(wide(numbers == out), x, point)
      against = problem.low + problem.high - ends
      there = jnp.where(k == TRIED + 1, against, ends)
      p = jnp.where(wide(numbers == into), there, p)
      return jnp.where((k == TRIED + 2) & wide(changed(p)), ends, p)

    return jax.vmap(make)(jnp.arange(NEIGHBOURS), out, into), out, into

  def one_round(i, s):
    state, point, until = s
    linear = problem_lib.linearize(problem, point, None)
    points, out, into = neighbours(i, point, linear, until <= i, state.changes)
    margins = jax.vmap(value)(points)
    stays = jax.vmap(lambda p: jnp.all(p == point))(points)
    best = jnp.argmin(jnp.where(jnp.isnan(margins) | stays, jnp.inf, margins))
    new, count = points[best], paths.count(points[best] - x, problem.groups)
    fewer = (margins[best] < -reliable) & (count < state.changes)
    state = state._replace(
      best=jnp.where(fewer, new, state.best),
      changes=jnp.where(fewer, count, state.changes),
    )
    until = jnp.where(numbers == out[best], i + min(KEEP_OUT, most), until)
    until = jnp.where(numbers == into[best], i + min(KEEP_IN, most), until)
    return state, new, until

  most = len(numbers) // 4  # Of few inputs none may be kept for long.
  start = state, state.best, jnp.zeros(len(numbers), jnp.int32)
  return jax.lax.fori_loop(0, rounds, one_round, start)[0]


def _any(problem, changed):
  axes = problem.groups
  return changed if axes is None else jnp.any(changed, axes, keepdims=True)


def cross_path(
  problem: problem_lib.Problem, most: jax.Array, *, num_probes: int
) -> rays.Crossing:
  """Returns where the class first changes on the path of the nearest class.

  Evaluates evenly spaced numbers of changes, then bisects the first interval at
  whose end the class differs.

  Args:
    problem: whose input is the path's start.
    most: number of changes to look at.
    num_probes: evaluated together as one batch.

  Returns:
    A `Crossing`, whose distance is a number of changes.
  """
  linear = problem_lib.linearize(problem, problem.x, problem.targets)
  distances = steps.linear_distances(problem, linear.gaps, linear.gradients)
  path = paths.steepest(problem, linear.gradients[jnp.argmin(distances)])
  most = jnp.minimum(most, path.moving).astype(jnp.float32)
  numbers = jnp.ceil(most * jnp.arange(1, num_probes + 1) / num_probes)
  numbers = numbers.astype(jnp.int32)
  value = lambda num: problem_lib.margin_at(
    problem, paths.point(path, problem, num)
  )
  beyond = jax.vmap(value)(numbers).value < 0
  i = jnp.argmax(beyond)
  found = beyond[i] & (numbers[i] > 0)

  def halve(_, bracket):
    low, high = bracket
    middle = (low + high) // 2
    inside = (middle > low) & (value(middle).value < 0)
    return jnp.where(inside, low, middle), jnp.where(inside, middle, high)

  below = jnp.where(i > 0, numbers[i - 1], 0)
  rounds = int(np.ceil(np.log2(problem.x.size / num_probes + 2)))
  _, num = jax.lax.fori_loop(0, rounds, halve, (below, numbers[i]))
  point = paths.point(path, problem, jnp.where(found, num, 0))
  margin = problem_lib.margin_at(problem, point)
  return rays.Crossing(
    jnp.where(found, paths.length(problem, point - problem.x), jnp.inf),
    point,
    found,
    margin.runner_up,
    margin.plain,
    jnp.int32(num_probes + rounds + 1),
  )
