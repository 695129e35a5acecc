"""Sequential boundary projection: the nearest point, not just some point."""

import dataclasses
import functools

import jax
import jax.numpy as jnp

from dmm_jax import norms
from dmm_jax.boundary import bundle
from dmm_jax.boundary import point as point_lib
from dmm_jax.boundary import problem as problem_lib
from dmm_jax.boundary import rays
from dmm_jax.boundary import steps
from dmm_jax.boundary import subspace
from dmm_jax.boundary.point import Status
from dmm_jax.boundary.state import State
from dmm_jax.boundary.state import blank

LAST_STEP = 0.02  # Of the way to the projection, in the last round.
OVERSHOOT = 1.002  # Of a step, so that it tends to cross the boundary.
EQUAL = 1e-5  # Distances that differ by less are the same.
SMOOTHED = 0.9  # Of all rounds take gradients at random points close by.
SPARSE = 1.5  # Steps in norms below it leave most inputs as they are.
LEAST_ROUNDS = 30  # Fewer rounds than these cannot average noise out.


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
  until the deep ones are found. Other norms than l2 start with rounds in l2,
  whose steps use all inputs: with few inputs saturated, the first
  linearisations may show no boundary at all. It finds a local optimum, of the
  class that it meets first.

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
  usual = 0.5 + 2 / jnp.maximum(norm, 2)
  return jnp.where(rounds < LEAST_ROUNDS, 0.0, usual)


def begin(
  problem: problem_lib.Problem, linear: problem_lib.Linear, target: jax.Array
) -> State:
  """Returns the state before the first step toward a target.

  Its status says why there is none, if there is none.
  """
  distances = steps.plane_distances(linear.gaps, linear.gradients, problem.norm)
  status = jnp.select(
    [~jnp.isfinite(linear.margin), distances[0] == jnp.inf],
    [Status.NON_FINITE, steps.why_none(linear.gradients)],
    Status.NOT_FOUND,
  )
  return blank(problem)._replace(target=target, status=status.astype(jnp.int32))


def first_crossings(
  problem: problem_lib.Problem, linear: problem_lib.Linear, targets: jax.Array
) -> State:
  """Returns the nearest crossing on the rays of first steps to all targets."""
  norm = problem.norm
  distances = steps.plane_distances(linear.gaps, linear.gradients, norm)
  sparse = norm < SPARSE  # Then a step in l2 starts: it uses all inputs.

  def cross(row):
    gradient, gap, target = row
    one = linear._replace(gaps=gap[None], gradients=gradient[None])
    step = steps.onto_plane(
      problem, problem.x, gradient, gap, norm, in_l2=sparse
    )
    ray = rays.find_crossing(problem, OVERSHOOT * step)
    return _follow(problem, begin(problem, one, target), ray)

  every = jax.lax.map(cross, (linear.gradients, linear.gaps, targets))
  # Where none is met: towards the nearest to first order. So too after steps in
  # l2, whose points do not show other distances.
  met = jnp.any(every.status == Status.FOUND) & ~jnp.bool_(sparse)
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
  polish: int | jax.Array = 0,
  first: problem_lib.Linear | None = None,
  starts: bool | jax.Array = True,
  total: int | jax.Array | None = None,
  smoothing: jax.Array | float | None = None,
  depth: jax.Array | float = 0.0,
  step_size: jax.Array | float = 1.0,
  from_l2: jax.Array | bool = True,
) -> State:
  """Runs the first `rounds` of a search of `total` rounds, and polishes.

  All may be traced. The network and its gradient stand once in this loop,
  whatever a round does: they are most of what there is to compile.

  Args:
    problem: what is searched.
    state: where to go on from.
    key: of the random points.
    rounds: how many now, of one gradient each.
    polish: rounds of the bundle method afterwards, from the best point.
    first: the network to first order at the input, toward one target: the step
      that it says comes before all rounds; None for no such step.
    starts: whether there is that step.
    total: after how many step sizes would be smallest; None for `rounds`.
    smoothing: distance of the first random point from the boundary point, as
      a fraction of the l2 length of the perturbation; None for
      `usual_smoothing`.
    depth: how far beyond the boundary the first gradient is taken, as a
      fraction of the perturbation; falls as `smoothing` does. The network has
      other linear pieces there, which lead to other local optima.
    step_size: the first; 1 forgets the point that it starts from.
    from_l2: whether searches in other norms start with rounds in l2.

  Returns:
    The state after it, at the best point.
  """
  norm, dtype = problem.norm, problem.x.dtype
  total = rounds if total is None else total
  smoothing = usual_smoothing(norm, total) if smoothing is None else smoothing
  smoothing, depth, step_size = (
    jnp.asarray(v, dtype) for v in (smoothing, depth, step_size)
  )
  span = jnp.maximum(total - 1, 1)
  # Rounds in l2 come first: their steps use all inputs.
  many = jnp.where(norm < SPARSE, jnp.maximum(total // 4, 2), total // 12)
  switch = jnp.clip(jnp.where(from_l2, many, 0), 0, jnp.minimum(30, rounds))
  in_l2 = lambda i: jnp.where(i < 0, norm < SPARSE, i < switch)

  def progress(i):
    return (i / span).astype(dtype)

  def nearby(i, s):
    fade = jnp.maximum(1 - progress(i) / SMOOTHED, 0)
    noise = jax.random.normal(
      jax.random.fold_in(key, i), problem.x.shape, dtype
    )
    return _nearby(problem, s, fade * smoothing, noise, fade * depth)

  def projected(i, s, p, linear):
    size = s.damping * steps.cosine(step_size, LAST_STEP, progress(i))
    step = _towards(problem, s, p, linear, size, in_l2=in_l2(i), starts=i < 0)
    return OVERSHOOT * step

  def one_round(i, carry):
    s, model = carry
    begins, polishes = i < 0, i >= first_polish
    s = s._replace(point=jnp.where(i == first_polish, s.best, s.point))
    p = jax.lax.cond(begins | polishes, lambda: s.point, lambda: nearby(i, s))
    linear = either(
      begins,
      lambda: first,
      lambda: problem_lib.linearize(problem, p, s.target[None]),
      needed=first is not None,
    )
    step, model = either(
      polishes,
      lambda: bundle.next_step(problem, s, model, linear, i - first_polish),
      lambda: (projected(i, s, p, linear), model),
      needed=may_polish,
    )
    ray = rays.find_crossing(problem, step)
    s, model = either(
      polishes,
      lambda: bundle.follow(problem, s, model, ray),
      lambda: (_follow(problem, s, ray), model),
      needed=may_polish,
    )
    return s._replace(gradients=s.gradients + jnp.where(begins, 0, 1)), model

  def either(which, one, other, *, needed):
    return jax.lax.cond(which, one, other) if needed else other()

  may_polish = isinstance(polish, jax.Array) or polish > 0
  first_polish = jnp.asarray(rounds, jnp.int32)
  begin = -jnp.asarray(first is not None and starts, jnp.int32)
  end = jnp.asarray(rounds + polish, jnp.int32)
  carry = state, bundle.empty(problem)
  s, _ = jax.lax.fori_loop(begin, end, one_round, carry)
  return s._replace(point=s.best, iterate=s.best)


def _nearby(problem, s, smoothing, noise, depth):
  """A point of the box, close to and beyond where the search stands."""
  noise = noise if problem.project is None else problem.project(noise)
  step, size = s.point - problem.x, norms.norm(noise, 2)
  size = smoothing * norms.norm(step, 2) / jnp.where(size > 0, size, 1.0)
  point = s.point + (depth * step + size * noise)
  moves = (s.status == Status.FOUND) & ((smoothing > 0) | (depth > 0))
  return jnp.where(moves, jnp.clip(point, problem.low, problem.high), s.point)


def _towards(problem, s, p, linear, size, *, in_l2, starts):
  """The next step from the input, after a gradient at `p`."""
  x = problem.x
  gradient, gap = linear.gradients[0], linear.gaps[0]
  found = s.status == Status.FOUND
  # Until a boundary point is known, DeepFool's steps lead there.
  origin = jnp.where(found, x, p)
  gap = gap + jnp.sum(gradient * (origin - p))
  further = 1.02 * gap + 1e-3 * problem.margin
  gap = jnp.where(found | starts, gap, further)
  step = steps.onto_plane(
    problem, origin, gradient, gap, problem.norm, in_l2=in_l2
  )
  towards = (1 - size) * (s.iterate - x) + size * step
  towards = jnp.where(found, towards, p - x + step)
  if problem.project is not None:
    # Every cut at the box is within rounding of the subspace; they add up.
    fitted = subspace.fit(problem.project(towards), *problem.step_bounds)
    towards = jnp.where(starts, towards, fitted)
  return towards


def _follow(problem, s, ray):
  """The state after the ray along a step was followed to the boundary."""
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
