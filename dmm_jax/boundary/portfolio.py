"""Which searches run, at which targets, under one budget of gradients."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from dmm_jax import norms
from dmm_jax.boundary import bundle
from dmm_jax.boundary import descent
from dmm_jax.boundary import point as point_lib
from dmm_jax.boundary import projection
from dmm_jax.boundary import rays
from dmm_jax.boundary.point import Segment

MAX_TARGETS = 9  # DeepFool's own choice for ImageNet; all of ten classes.
FAST_GRADIENTS = 40
SCOUT = 3  # Rounds of a short search, at least.
# Fresh starts differ in how far they look around and beyond the boundary, and
# in their first direction: beside the gradient by `ASIDE` of its lengths.
ASIDE = 1.5
SMOOTHINGS = (0.0, 0.3, 1.0, 2.0, 1.0, 2.0)
DEPTHS = (0.5, 0.0, 0.0, 0.0, 0.0, 0.0)


class Heat(NamedTuple):
  """One round of a contest between targets.

  Attributes:
    places: how many of the nearest take part.
    rounds: of projection, each.
    polish: rounds of the bundle method afterwards.
    stride: the first; 1 forgets where it started, shorter ones do not.
    total: rounds after which strides would be shortest, if not `rounds`.
    starts: anew at each place's target, with these numbers; () to continue.
  """

  places: int
  rounds: int
  polish: int = 0
  stride: float = 1.0
  total: int = 0
  starts: tuple[int, ...] = ()

  @property
  def cost(self) -> int:
    """The gradients that it takes."""
    return self.places * max(len(self.starts), 1) * (self.rounds + self.polish)


class Job(NamedTuple):
  """What one place of one heat does; columns of all heats.

  Attributes:
    place: whose turn it is, in order of distance when the heat began.
    rounds, polish, stride, total: as for `Heat`.
    start: number of the fresh start, or -1 to continue.
    slot: where a fresh start is kept.
    scout: whether places are targets, not yet in order of distance.
    opens: whether a heat begins, and places are to be put in order.
  """

  place: jax.Array
  rounds: jax.Array
  polish: jax.Array
  stride: jax.Array
  total: jax.Array
  start: jax.Array
  slot: jax.Array
  scout: jax.Array
  opens: jax.Array


def duel(
  logits_fn: point_lib.LogitsFn, label: jax.Array, target: jax.Array
) -> point_lib.LogitsFn:
  """The network with no other classes than a label and one target.

  Any search of it is a search targeted at that class. The others sink to the
  bottom of the logits' range, so that rounding is judged as before.
  """

  def dueling(x):
    logits = logits_fn(x)
    classes = jnp.arange(logits.size)
    stays = (classes == label) | (classes == target)
    return jnp.where(stays, logits, -jnp.max(jnp.abs(logits)))

  return dueling


def plan(max_gradients: int, num_classes: int) -> tuple[int, list[Heat]]:
  """Splits a budget: gradients at the input, then heats."""
  small, large = max_gradients < 100, max_gradients >= 400
  looked_at = min(num_classes - 1, 6 if small else 2 * MAX_TARGETS)
  looked_at = max(min(looked_at, max_gradients - 1), 1)
  rest = max_gradients - looked_at
  targets = min(looked_at, 4 if small else MAX_TARGETS if large else 5)
  heats = [Heat(targets, 0, starts=(0,))]

  def share(part, places, polish=0.0, **options):
    each = int(rest * part) // (places * max(len(options.get('starts', ())), 1))
    polish = int(each * polish)
    heats.append(Heat(places, each - polish, polish, **options))

  if targets > 1 and rest >= 4 * targets:
    scout = min(max(rest // 4 // targets, SCOUT), 10)
    heats = [Heat(targets, scout, total=2 * scout, starts=(0,))]
    rest -= heats[0].cost
    if large:
      share(0.3, min(3, targets), 0.2, starts=(0, 3))
      share(0.55, 1, 0.1, starts=(2, 3, 4))
      share(0.1, 3, 0.6, stride=0.5)
    else:
      share(0.3 if small else 0.2, 2)
  elif large:
    share(0.5, 1, 0.3, starts=tuple(range(len(SMOOTHINGS))))
    share(0.3, 3, 0.4, stride=0.5)
  rest -= sum(heat.cost for heat in heats[1:])
  share(1, 1, 0.4, stride=0.5 if large else 1.0)
  return looked_at, heats


def _jobs(heats):
  """The places of all heats, in order."""
  jobs, slot = [], 0
  for number, heat in enumerate(heats):
    for place in range(heat.places):
      for turn, start in enumerate(heat.starts or (-1,)):
        total = heat.total or heat.rounds
        shape = heat.rounds, heat.polish, heat.stride, total
        opens = place == turn == 0
        jobs.append(Job(place, *shape, start, slot, number == 0, opens))
        slot += start >= 0
  return Job(*(jnp.array(column) for column in zip(*jobs, strict=True)))


def nearest_targets(
  logits_fn: point_lib.LogitsFn,
  x: jax.Array,
  label: jax.Array,
  looked_at: int,
  *,
  norm: float,
  project: point_lib.Project,
) -> tuple[point_lib.Linear, jax.Array]:
  """The `MAX_TARGETS` classes whose linearised boundaries are nearest.

  Chosen among the `looked_at` classes of largest logit. Source: Melamed et al.
  (2024), "MALT powers up adversarial attacks",
  https://arxiv.org/abs/2407.02240.

  Returns:
    `(linear, targets)`: nearest first.
  """
  targets = point_lib.likely_targets(logits_fn(x), label, looked_at)
  linear = point_lib.linearize(logits_fn, x, label, targets)
  rows = linear.gradients
  rows = rows if project is None else jax.vmap(project)(rows)
  reach = descent.reaches(linear.gaps, rows, norm)
  order = jnp.argsort(reach)[:MAX_TARGETS]  # NaN comes last.
  linear = linear._replace(gaps=linear.gaps[order], gradients=rows[order])
  return linear, targets[order]


def search(
  logits_fn: point_lib.LogitsFn,
  x: jax.Array,
  label: jax.Array,
  *,
  norm: float,
  low: jax.Array,
  high: jax.Array,
  project: point_lib.Project = None,
  max_gradients: int,
  seed: jax.Array | int = 0,
) -> Segment:
  """A contest of targets: ever fewer of them are searched ever longer.

  Single searches are 10 to 40 % off where they end in the wrong class, so each
  of the likely targets gets a short search; the nearest get longer ones, with
  large budgets from several starts, and the nearest points of all are polished.

  Args:
    logits_fn, x, label, norm, low, high, project: as for `deepfool.search`.
    max_gradients: budget; see `plan` for where it goes.
    seed: of the starts, and of the random points of long searches.

  Returns:
    A `Segment` whose inner end is the input, with the cost of all searches.
  """
  num_classes = jax.eval_shape(logits_fn, x).size
  looked_at, heats = plan(max_gradients, num_classes)
  jobs = _jobs(heats)
  space = dict(norm=norm, low=low, high=high, project=project)
  linear, targets = nearest_targets(
    logits_fn, x, label, looked_at, norm=norm, project=project
  )
  lead = linear.lead
  slots = sum(heat.places * len(heat.starts) for heat in heats)

  def enter(row, start):
    """The first boundary point on the way to a target, or beside it."""
    noise = jax.random.normal(jax.random.key(seed + start), x.shape, x.dtype)
    noise = noise if project is None else project(noise)
    gradient, most = linear.gradients[row], norms.norm(noise, 2)
    size = ASIDE * norms.norm(gradient, 2) / jnp.where(most > 0, most, 1.0)
    gradient = gradient + jnp.where(start > 0, size, 0.0) * noise
    one = linear._replace(gaps=linear.gaps[row][None], gradients=gradient[None])
    target = targets[row]
    fn = duel(logits_fn, label, target)
    return projection.begin(fn, x, label, one, target[None], **space)

  def compete(i, contest):
    table, rows, order = contest
    job = jax.tree.map(lambda column: column[i], jobs)
    # Points of steps in l2 do not show l1 distances: the nearest to first order
    # goes on whatever its short search found.
    second = heats[0].places
    seeded = (norm == 1) & (jnp.arange(slots) == 0) & (i == second)
    order = jax.lax.cond(
      job.opens,
      lambda: jnp.argsort(jnp.where(seeded, -jnp.inf, table.distance)),
      lambda: order,
    )
    slot = order[job.place]
    row = jnp.where(job.scout, job.place, rows[slot])
    state = jax.lax.cond(
      job.start >= 0,
      lambda: enter(row, job.start),
      lambda: jax.tree.map(lambda column: column[slot], table),
    )
    usual = projection.usual_smoothing(norm, job.total)
    several = (job.start >= 0) & ~job.scout
    fn = duel(logits_fn, label, targets[row])
    state = projection.advance(
      fn,
      x,
      label,
      lead,
      state,
      **space,
      rounds=job.rounds,
      total=job.total,
      smoothing=jnp.where(several, jnp.array(SMOOTHINGS)[job.start], usual),
      depth=jnp.where(several, jnp.array(DEPTHS)[job.start], 0.0),
      seed=seed + 100 * i,
      stride=job.stride,
      from_l2=(job.start >= 0) | (job.total >= projection.WITHOUT),
    )
    state = bundle.polish(
      fn, x, label, lead, state, **space, max_gradients=job.polish
    )
    slot = jnp.where(job.start >= 0, job.slot, slot)
    put = lambda rows, row: rows.at[slot].set(row.astype(rows.dtype))
    return jax.tree.map(put, table, state), put(rows, row), order

  blank = projection.blank(x, lead)
  table = jax.tree.map(lambda v: jnp.stack([v] * slots), blank)
  contest = table, jnp.zeros(slots, jnp.int32), jnp.arange(slots)
  table, *_ = jax.lax.fori_loop(0, len(jobs.place), compete, contest)
  nearest = jnp.argmin(table.distance)
  best = jax.tree.map(lambda column: column[nearest], table)
  rounds = sum(heat.cost for heat in heats)
  best = best._replace(
    gradients=jnp.int32(looked_at + rounds),
    forwards=jnp.int32(1 + rays.FORWARDS * (slots + rounds)),
  )
  return projection.finish(logits_fn, x, label, lead, best, low, high, project)
