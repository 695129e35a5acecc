"""Sequential boundary projection: the nearest point, not just some point."""

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from dmm_jax import norms
from dmm_jax.boundary import point as point_lib
from dmm_jax.boundary import problem as problem_lib
from dmm_jax.boundary import rays
from dmm_jax.boundary import steps
from dmm_jax.boundary import subspace
from dmm_jax.boundary.point import Status

LAST_STEP = 0.02  # Of the way to the projection, in the last round.
OVERSHOOT = 1.002  # Of a step, so that it tends to cross the boundary.
EQUAL = 1e-5  # Distances that differ by less are the same.
SMOOTHED = 0.9  # Of all rounds take gradients at random points close by.
LEAST_ROUNDS = 30  # Fewer rounds than these cannot average noise out.


class State(NamedTuple):
  """Where a search stands.

  Attributes:
    point: where the next gradient is taken.
    iterate: the last boundary point, which steps start from.
    best: the nearest boundary point so far.
    distance: its distance, inf until one was found.
    target: the class whose boundary is linearised next.
    damping: factor of the step size, < 1 after a step that led nowhere.
    status: FOUND, or why not yet.
    gradients, forwards: used so far.
  """

  point: jax.Array
  iterate: jax.Array
  best: jax.Array
  distance: jax.Array
  target: jax.Array
  damping: jax.Array
  status: jax.Array
  gradients: jax.Array
  forwards: jax.Array


def search(
  problem: problem_lib.Problem, budget: int, key: jax.Array
) -> point_lib.Segment:
  """Repeatedly projects the input onto the linearised boundary.

  Each round linearises the margin at a boundary point, projects the *original*
  input on that hyperplane within the box, steps towards the projection, and
  follows the ray from the input to the boundary, inwards or outwards; the
  nearest point of all rounds counts. Step sizes fall from 1 to `LAST_STEP` as a
  cosine, whether a round gained or not: they average the gradients of ever
  smaller surroundings, where a search that only accepts gains stops at the
  first kink. Long searches also take each gradient at a random point close to
  the boundary point, ever closer, which hides kinks and shallow local optima
  until the deep ones are found. l1 and linf start with rounds in l2, whose
  steps use all inputs: with few inputs saturated, the first linearisations may
  show no boundary at all. It finds a local optimum, of the class that it meets
  first.

  Ours; a step is that of FAB (Croce and Hein 2020,
  https://arxiv.org/abs/1907.02044) taken from the input alone; step sizes as in
  Loshchilov and Hutter (2017), https://arxiv.org/abs/1608.03983; smoothing as
  in Duchi, Bartlett, Wainwright (2012), https://arxiv.org/abs/1103.4296.

  Args:
    problem: what is searched. The nearest of its likely targets to first order
      is the first class aimed at, and then whichever is met.
    budget: gradients; one a target, the rest one a round. May be traced.
    key: of the random points.

  Returns:
    A `Segment` whose inner end is the input.
  """
  targets = problem.targets
  linear = problem_lib.linearize(problem, problem.x, targets)
  state = first_crossings(problem, linear, targets)
  rounds = jnp.maximum(budget - len(targets), 1)
  return finish(problem, run(problem, state, key, rounds=rounds))


def usual_smoothing(norm: float, rounds: int | jax.Array) -> jax.Array:
  """Returns 0 for short searches, which cannot average; least for linf."""
  usual = jnp.where(norm == jnp.inf, 0.5, 1.5)
  return jnp.where(rounds < LEAST_ROUNDS, 0.0, usual)


def blank(problem: problem_lib.Problem) -> State:
  """Returns the state of a search that has found nothing."""
  zero, x = jnp.int32(0), problem.x
  return State(
    point=x,
    iterate=x,
    best=x,
    distance=jnp.full_like(problem.margin, jnp.inf),
    target=zero,
    damping=jnp.ones_like(problem.margin),
    status=jnp.int32(Status.NOT_FOUND),
    gradients=zero,
    forwards=zero,
  )


def first_crossings(
  problem: problem_lib.Problem, linear: problem_lib.Linear, targets: jax.Array
) -> State:
  """Returns the nearest crossing on the rays of first steps to all targets."""
  norm = problem.norm
  distances = steps.plane_distances(linear.gaps, linear.gradients, norm)
  # In l1, a step in l2 starts: it uses all inputs.
  traced = isinstance(norm, jax.Array)
  first_norm = jnp.where(norm == 1, 2, norm) if traced else max(norm, 2)

  def cross(row):
    gradient, gap, distance, target = row
    step = steps.onto_plane(problem, problem.x, gradient, gap, first_norm)
    status = jnp.select(
      [~jnp.isfinite(linear.margin), distance == jnp.inf],
      [Status.NON_FINITE, steps.why_none(gradient)],
      Status.NOT_FOUND,
    )
    state = blank(problem)
    state = state._replace(target=target, status=status.astype(jnp.int32))
    return _follow(problem, state, step)

  every = jax.lax.map(
    cross, (linear.gradients, linear.gaps, distances, targets)
  )
  # Where none is met: towards the nearest to first order. So too in l1, whose
  # distances the points of steps in l2 do not show.
  met = jnp.any(every.status == Status.FOUND) & (norm != 1)
  i = jnp.argmin(jnp.where(met, every.distance, distances))
  first = jax.tree.map(lambda column: column[i], every)
  return first._replace(
    gradients=jnp.int32(len(targets)),
    forwards=jnp.sum(every.forwards, dtype=jnp.int32),
  )


def run(
  problem: problem_lib.Problem,
  state: State,
  key: jax.Array,
  *,
  rounds: int | jax.Array,
  total: int | jax.Array | None = None,
  smoothing: jax.Array | float | None = None,
  depth: jax.Array | float = 0.0,
  step_size: jax.Array | float = 1.0,
  from_l2: jax.Array | bool = True,
) -> State:
  """Runs the first `rounds` of a search of `total` rounds. All may be traced.

  Args:
    problem: what is searched.
    state: where to go on from.
    key: of the random points.
    rounds: how many now, of one gradient each.
    total: after how many step sizes would be smallest; None for `rounds`.
    smoothing: distance of the first random point from the boundary point, as
      a fraction of the l2 length of the perturbation; None for
      `usual_smoothing`.
    depth: how far beyond the boundary the first gradient is taken, as a
      fraction of the perturbation; falls as `smoothing` does. The network has
      other linear pieces there, which lead to other local optima.
    step_size: the first; 1 forgets the point that it starts from.
    from_l2: whether searches in l1 and linf start with rounds in l2.
  """
  norm, dtype = problem.norm, problem.x.dtype
  total = rounds if total is None else total
  smoothing = usual_smoothing(norm, total) if smoothing is None else smoothing
  smoothing, depth, step_size = (
    jnp.asarray(v, dtype) for v in (smoothing, depth, step_size)
  )
  span = jnp.maximum(total - 1, 1)

  def one_round(i, s, norm_of_step):
    progress = (i / span).astype(dtype)
    fade = jnp.maximum(1 - progress / SMOOTHED, 0)
    noise = jax.random.normal(
      jax.random.fold_in(key, i), problem.x.shape, dtype
    )
    p = _nearby(problem, s, fade * smoothing, noise, fade * depth)
    size = s.damping * steps.cosine(step_size, LAST_STEP, progress)
    return _follow(problem, *_round(problem, s, p, size, norm_of_step))

  # Rounds in l2 come first: their steps use all inputs.
  in_l2 = jnp.where(norm == 1, jnp.maximum(total // 4, 2), total // 12)
  switch = jnp.clip(
    jnp.where((norm != 2) & from_l2, in_l2, 0), 0, jnp.minimum(30, rounds)
  )
  if isinstance(norm, jax.Array) or norm != 2:
    each = functools.partial(one_round, norm_of_step=2)
    state = jax.lax.fori_loop(0, switch, each, state)
  each = functools.partial(one_round, norm_of_step=norm)
  return jax.lax.fori_loop(switch, rounds, each, state)


def _nearby(problem, s, smoothing, noise, depth):
  """A point of the box, close to and beyond where the search stands."""
  noise = noise if problem.project is None else problem.project(noise)
  step, size = s.point - problem.x, norms.norm(noise, 2)
  size = smoothing * norms.norm(step, 2) / jnp.where(size > 0, size, 1.0)
  point = s.point + (depth * step + size * noise)
  moves = (s.status == Status.FOUND) & ((smoothing > 0) | (depth > 0))
  return jnp.where(moves, jnp.clip(point, problem.low, problem.high), s.point)


def _round(problem, s, p, size, norm):
  """The state after a gradient at `p`, and the next step from the input."""
  x = problem.x
  linear = problem_lib.linearize(problem, p, s.target[None])
  gradient, gap = linear.gradients[0], linear.gaps[0]
  found = s.status == Status.FOUND
  # Until a boundary point is known, DeepFool's steps lead there.
  origin = jnp.where(found, x, p)
  gap = gap + jnp.sum(gradient * (origin - p))
  gap = jnp.where(found, gap, 1.02 * gap + 1e-3 * problem.margin)
  step = steps.onto_plane(problem, origin, gradient, gap, norm)
  towards = (1 - size) * (s.iterate - x) + size * step
  towards = jnp.where(found, towards, p - x + step)
  if problem.project is not None:
    # Every cut at the box is within rounding of the subspace; they add up.
    towards = subspace.fit(problem.project(towards), *problem.step_bounds)
  return s._replace(gradients=s.gradients + 1), towards


def _follow(problem, s, step):
  """Follows a step, and the ray it lies on, to the boundary."""
  ray = rays.find_crossing(problem, OVERSHOOT * step)
  length = norms.norm(ray.point - problem.x, problem.norm)
  length = jnp.where(ray.found, length, jnp.inf)
  # Of equals the last: late rounds know the direction best.
  gain = length < (1 + EQUAL) * s.distance
  before = s.status == Status.FOUND
  finite = jnp.isfinite(ray.margin)
  moves = ray.found | (~before & finite)
  status = jnp.where(finite, s.status, jnp.int32(Status.NON_FINITE))
  status = jnp.where(ray.found, jnp.int32(Status.FOUND), status)
  return s._replace(
    point=jnp.where(moves, ray.point, s.point),
    iterate=jnp.where(moves, ray.point, s.iterate),
    best=jnp.where(gain, ray.point, s.best),
    distance=jnp.minimum(length, s.distance),
    target=jnp.where(moves, ray.runner_up, s.target),
    damping=jnp.where(
      ray.found, jnp.minimum(1.3 * s.damping, 1.0), s.damping / (1 + before)
    ),
    status=jnp.where(before, s.status, status),
    forwards=s.forwards + ray.forwards,
  )


def finish(problem: problem_lib.Problem, s: State) -> point_lib.Segment:
  """Returns the segment from the input to the best point, evaluated again.

  Recompilation changes rounding. Where the point is no longer beyond the
  boundary, one a little further is taken.
  """
  x, step = problem.x, s.best - problem.x
  inside = problem.project is None
  most = jnp.inf if inside else subspace.reach(step, *problem.step_bounds)

  def further(by):
    p = x + jnp.minimum(1 + by, most) * step
    return jnp.clip(p, problem.low, problem.high)

  points = jnp.stack([s.best, further(1e-5), further(1e-3)])
  every = dataclasses.replace(problem, classes=None)
  margin = jax.vmap(functools.partial(problem_lib.margin_at, every))(points)
  i = jnp.argmax(margin.value < 0)
  lost = (s.status == Status.FOUND) & ~(margin.value[i] < 0)
  return point_lib.Segment(
    x,
    points[i],
    problem.margin,
    margin.value[i],
    margin.runner_up[i],
    jnp.where(lost, Status.NOT_FOUND, s.status).astype(jnp.int32),
    s.gradients,
    s.forwards + len(points),
  )
