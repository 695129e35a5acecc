"""Sequential boundary projection: the nearest point, not just some point."""

import functools
from typing import Any
from typing import NamedTuple

import jax
import jax.numpy as jnp

from dmm_jax import norms
from dmm_jax.boundary import deepfool
from dmm_jax.boundary import descent
from dmm_jax.boundary import point as point_lib
from dmm_jax.boundary import rays
from dmm_jax.boundary import subspace
from dmm_jax.boundary.point import Segment
from dmm_jax.boundary.point import Status

LAST_STRIDE = 0.02  # Of the way to the projection, in the last round.
BEYOND = 1.002  # How far beyond a stride looks, so that it tends to cross.
EQUAL = 1e-5  # Distances that differ by less are the same.
SMOOTH = 0.9  # Of all rounds look around; the last ones straight ahead.
WITHOUT = 30  # Fewer rounds than these cannot average noise out.


class State(NamedTuple):
  """Where a search stands.

  Attributes:
    here: where the next gradient is taken.
    base: the last boundary point, which strides start from.
    best: the nearest boundary point so far.
    distance: its distance, inf until one was found.
    target: the class whose boundary is linearised next.
    damp: factor of the strides, < 1 after one that led nowhere.
    status: FOUND, or why not yet.
    gradients, forwards: used so far.
  """

  here: jax.Array
  base: jax.Array
  best: jax.Array
  distance: jax.Array
  target: jax.Array
  damp: jax.Array
  status: jax.Array
  gradients: jax.Array
  forwards: jax.Array


def search(
  logits_fn: point_lib.LogitsFn,
  x: jax.Array,
  label: jax.Array,
  *,
  norm: float,
  low: jax.Array,
  high: jax.Array,
  project: point_lib.Project = None,
  targets: jax.Array,
  max_gradients: int,
  smoothing: float | None = None,
  seed: jax.Array | int = 0,
) -> Segment:
  """Projects the input, again and again, on the boundary seen from afar.

  Each round linearises the margin at a boundary point, projects the *original*
  input on that hyperplane within the box, strides towards the projection, and
  follows the ray from the input to the boundary, inwards or outwards; the
  nearest point of all rounds counts. Strides fall from 1 to `LAST_STRIDE` as a
  cosine, whether a round gained or not: they average the gradients of ever
  smaller surroundings, where a search that only accepts gains stops at the
  first kink. Long searches also take each gradient at a random point close to
  the boundary point, ever closer, which hides kinks and shallow local optima
  until the deep ones are found. l1 and linf start with rounds in l2, whose
  steps use all inputs: with few inputs saturated, the first linearisations may
  show no boundary at all.

  Ours; a step is that of FAB (Croce and Hein 2020,
  https://arxiv.org/abs/1907.02044) taken from the input alone; strides as in
  Loshchilov and Hutter (2017), https://arxiv.org/abs/1608.03983; smoothing as
  in Duchi, Bartlett, Wainwright (2012), https://arxiv.org/abs/1103.4296.

  Args:
    logits_fn, x, label, norm, low, high, project, targets: as for
      `deepfool.search`. The nearest of `targets` to first order is the first
      class aimed at, and then whichever is met.
    max_gradients: budget; one a target, the rest one a round.
    smoothing: distance of the first random point from the boundary point, as
      a fraction of the l2 length of the perturbation; None for
      `usual_smoothing`.
    seed: of the random points.

  Returns:
    A `Segment` whose inner end is the input.
  """
  rounds = max(max_gradients - len(targets), 1)
  linear = point_lib.linearize(logits_fn, x, label, targets)
  space: dict[str, Any] = dict(norm=norm, low=low, high=high, project=project)
  state = begin(logits_fn, x, label, linear, targets, **space)
  state = advance(
    logits_fn,
    x,
    label,
    linear.lead,
    state,
    **space,
    rounds=rounds,
    smoothing=smoothing,
    seed=seed,
  )
  return finish(logits_fn, x, label, linear.lead, state, low, high, project)


def usual_smoothing(norm: float, rounds: int) -> jax.Array:
  """0 for short searches, which cannot average; least for linf."""
  usual = jnp.where(norm == jnp.inf, 0.5, 1.5)
  return jnp.where(rounds < WITHOUT, 0.0, usual)


def blank(x: jax.Array, lead: jax.Array) -> State:
  """The state of a search that has found nothing."""
  zero = jnp.int32(0)
  return State(
    here=x,
    base=x,
    best=x,
    distance=jnp.full_like(lead, jnp.inf),
    target=zero,
    damp=jnp.ones_like(lead),
    status=jnp.int32(Status.NOT_FOUND),
    gradients=zero,
    forwards=zero,
  )


def begin(
  logits_fn: point_lib.LogitsFn,
  x: jax.Array,
  label: jax.Array,
  linear: point_lib.Linear,
  targets: jax.Array,
  *,
  norm: float,
  low: jax.Array,
  high: jax.Array,
  project: point_lib.Project,
) -> State:
  """The nearest meeting of the boundary with the first steps to all targets."""
  rows = linear.gradients
  rows = rows if project is None else jax.vmap(project)(rows)
  reaches = descent.reaches(linear.gaps, rows, norm)
  space: dict[str, Any] = dict(norm=norm, low=low, high=high, project=project)
  least, most = low - x, high - x
  # In l1, a step in l2 starts: it uses all inputs.
  traced = isinstance(norm, jax.Array)
  wide = jnp.where(norm == 1, 2, norm) if traced else max(norm, 2)

  def meet(row):
    g, gap, reach, target = row
    step = norms.smallest_step(-g, gap, least, most, norm=wide)
    step = deepfool.within(project, step, -g, least, most)
    status = jnp.select(
      [~jnp.isfinite(linear.lead) | jnp.isnan(reach), jnp.isinf(reach)],
      [Status.NON_FINITE, Status.ZERO_GRADIENT],
      Status.NOT_FOUND,
    )
    s = blank(x, linear.lead)
    s = s._replace(target=target, status=status.astype(jnp.int32))
    return _meet(logits_fn, x, label, linear.lead, s, step, **space)

  every = jax.lax.map(meet, (rows, linear.gaps, reaches, targets))
  # Where none is met: towards the nearest to first order. So too in l1, whose
  # distances the points of steps in l2 do not show.
  met = jnp.any(every.status == Status.FOUND) & (norm != 1)
  i = jnp.argmin(jnp.where(met, every.distance, reaches))
  first = jax.tree.map(lambda column: column[i], every)
  return first._replace(
    gradients=jnp.int32(len(targets)),
    forwards=jnp.sum(every.forwards, dtype=jnp.int32),
  )


def advance(
  logits_fn: point_lib.LogitsFn,
  x: jax.Array,
  label: jax.Array,
  lead: jax.Array,
  state: State,
  *,
  norm: float,
  low: jax.Array,
  high: jax.Array,
  project: point_lib.Project,
  rounds: int,
  total: int | None = None,
  smoothing: jax.Array | float | None = None,
  depth: float = 0.0,
  seed: jax.Array | int = 0,
  stride: float = 1.0,
  from_l2: bool = True,
) -> State:
  """Runs the first `rounds` of a search of `total` rounds.

  Args:
    lead: the label's lead at `x`.
    state: where to go on from.
    depth: how far beyond the boundary the first gradient is taken, as a
      fraction of the perturbation; falls as `smoothing` does. The network has
      other linear pieces there, which lead to other local optima.
    stride: the first; 1 forgets the point that it starts from.
    from_l2: whether searches in l1 and linf start with rounds in l2.
    logits_fn, x, label, norm, low, high, project, smoothing, seed: as for
      `search`. Numbers may be traced.
  """
  total = rounds if total is None else total
  smoothing = usual_smoothing(norm, total) if smoothing is None else smoothing
  key = jax.random.key(seed)
  space: dict[str, Any] = dict(norm=norm, low=low, high=high, project=project)
  span = jnp.maximum(total - 1, 1)

  def one_round(i, s, norm_of_step):
    progress = (i / span).astype(x.dtype)
    fade = jnp.maximum(1 - progress / SMOOTH, 0)
    noise = jax.random.normal(jax.random.fold_in(key, i), x.shape, x.dtype)
    noise = noise if project is None else project(noise)
    here = _nearby(s, x, fade * smoothing, noise, fade * depth, low, high)
    linear = point_lib.linearize(logits_fn, here, label, s.target[None])
    g = linear.gradients[0] if project is None else project(linear.gradients[0])
    found = s.status == Status.FOUND
    # Until a boundary point is known, DeepFool's steps lead there.
    origin = jnp.where(found, x, here)
    gap = linear.gaps[0] + jnp.sum(g * (origin - here))
    gap = jnp.where(found, gap, 1.02 * gap + 1e-3 * lead)
    least, most = low - origin, high - origin
    step = norms.smallest_step(-g, gap, least, most, norm=norm_of_step)
    step = deepfool.within(project, step, -g, least, most)
    share = s.damp * descent.cosine(stride, LAST_STRIDE, progress)
    onwards = (1 - share) * (s.base - x) + share * step
    onwards = jnp.where(found, onwards, here - x + step)
    s = s._replace(gradients=s.gradients + 1)
    if project is not None:
      # Every cut at the box is within rounding of the subspace; they add up.
      onwards = subspace.fit(project(onwards), low - x, high - x)
    return _meet(logits_fn, x, label, lead, s, onwards, **space)

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


def _nearby(s, x, smoothing, noise, depth, low, high):
  """A point of the box, beside and beyond where the search stands."""
  step = s.here - x
  size = norms.norm(noise, 2)
  size = smoothing * norms.norm(step, 2) / jnp.where(size > 0, size, 1.0)
  point = s.here + (depth * step + size * noise).astype(x.dtype)
  moves = (s.status == Status.FOUND) & ((smoothing > 0) | (depth > 0))
  return jnp.where(moves, jnp.clip(point, low, high), s.here)


def _meet(logits_fn, x, label, lead, s, step, *, norm, low, high, project):
  """Follows a step, and the ray it lies on, to the boundary."""
  meeting = rays.meet(
    logits_fn,
    x,
    BEYOND * step,
    label,
    lead=lead,
    bounds=(low, high),
    straight=project is not None,
  )
  length = jnp.where(
    meeting.found, norms.norm(meeting.point - x, norm), jnp.inf
  )
  # Of equals the last: late rounds know the direction best.
  gain = length < (1 + EQUAL) * s.distance
  before = s.status == Status.FOUND
  moves = meeting.found | (~before & jnp.isfinite(meeting.lead))
  status = jnp.where(
    jnp.isfinite(meeting.lead), s.status, jnp.int32(Status.NON_FINITE)
  )
  status = jnp.where(meeting.found, jnp.int32(Status.FOUND), status)
  return s._replace(
    here=jnp.where(moves, meeting.point, s.here),
    base=jnp.where(moves, meeting.point, s.base),
    best=jnp.where(gain, meeting.point, s.best),
    distance=jnp.minimum(length, s.distance),
    target=jnp.where(moves, meeting.target, s.target),
    damp=jnp.where(
      meeting.found, jnp.minimum(1.3 * s.damp, 1.0), s.damp / (1 + before)
    ),
    status=jnp.where(before, s.status, status),
    forwards=s.forwards + meeting.forwards,
  )


def finish(
  logits_fn: point_lib.LogitsFn,
  x: jax.Array,
  label: jax.Array,
  lead: jax.Array,
  s: State,
  low: jax.Array,
  high: jax.Array,
  project: point_lib.Project = None,
) -> Segment:
  """The segment from the input to the best point, looked at once more.

  Programs compiled otherwise round otherwise. Where the point is no longer seen
  beyond the boundary, one a little further is taken.
  """
  step = s.best - x
  most = jnp.inf if project is None else subspace.reach(step, low - x, high - x)
  out = lambda far: jnp.clip(x + jnp.minimum(1 + far, most) * step, low, high)
  points = jnp.stack([s.best, out(1e-5), out(1e-3)])
  leads, targets = jax.vmap(lambda p: point_lib.leads(logits_fn(p), label))(
    points
  )
  i = jnp.argmax(leads < 0)
  lost = (s.status == Status.FOUND) & ~(leads[i] < 0)
  return Segment(
    x,
    points[i],
    lead,
    leads[i],
    targets[i],
    jnp.where(lost, Status.NOT_FOUND, s.status).astype(jnp.int32),
    s.gradients,
    s.forwards + len(points),
  )
