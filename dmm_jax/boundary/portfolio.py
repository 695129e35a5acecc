"""Which searches run, at which targets, under one budget of gradients."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from dmm_jax import norms
from dmm_jax.boundary import bundle
from dmm_jax.boundary import descent
from dmm_jax.boundary import point as point_lib
from dmm_jax.boundary import projection
from dmm_jax.boundary.point import Segment

MAX_TARGETS = 9  # DeepFool's own choice for ImageNet; all of ten classes.
FAST_GRADIENTS = 40
ANY = -1
ASIDE = 1.5
SM = (0.3, 0.0, 1.0, 0.0, 3.0, 0.3)
SH = (0.3, 0.25, 0.25)
ST = 6


class Heat(NamedTuple):
  """One round of a contest between targets.

  Attributes:
    places: how many of the nearest take part.
    rounds: of projection, each.
    polish: rounds of the bundle method afterwards.
    stride: the first; 1 forgets where it started, shorter ones do not.
    total: rounds after which strides would be shortest, if not `rounds`.
    starts: anew, from so many points of the boundary; 0 to continue.
  """

  places: int
  rounds: int
  polish: int = 0
  stride: float = 1.0
  total: int | None = None
  starts: int = 0


def duel(logits_fn, label, target):
  """The network with no other classes than a label and one target.

  Any search of it is a search targeted at that class. The others sink to the
  bottom of the logits' range, so that rounding is judged as before. With
  target `ANY` it is the network itself.
  """

  def dueling(x):
    logits = logits_fn(x)
    classes = jnp.arange(logits.size)
    stays = (classes == label) | (classes == target) | (target == ANY)
    return jnp.where(stays, logits, -jnp.max(jnp.abs(logits)))

  return dueling


def plan(max_gradients: int, num_classes: int) -> tuple[int, list[Heat]]:
  """Splits a budget: gradients at the input, then heats."""
  others = num_classes - 1
  small, large = max_gradients < 100, max_gradients >= 400
  looked_at = min(others, 6 if small else 2 * MAX_TARGETS)
  looked_at = max(min(looked_at, max_gradients - 1), 1)
  rest = max_gradients - looked_at
  targets = min(looked_at, 4 if small else MAX_TARGETS if large else 5)
  if rest < 4 * targets:
    polish = rest // 3
    return looked_at, [Heat(1, rest - polish, polish)]
  heats = []

  def add(places, share, polish=0.0, starts=0, most=10**6, **kwargs):
    each = min(int(rest * share) // (places * max(starts, 1)), most)
    polish = int(each * polish)
    heats.append(Heat(places, each - polish, polish, starts=starts, **kwargs))

  few = min(3 if large else 2, targets)
  if targets > 1:
    add(targets, 0.25, most=10)
    heats[-1] = heats[-1]._replace(total=2 * heats[-1].rounds)
  if large:
    add(few, SH[0], starts=ST, polish=0.3)
    add(6, SH[1], 0.4, stride=0.5)
    add(3, SH[2], 0.4, stride=0.5)
  elif targets > 1:
    add(few, 0.3 if small else 0.2)
  spent = sum(
    h.places * max(h.starts, 1) * (h.rounds + h.polish) for h in heats
  )
  rest -= spent
  polish = rest * 2 // 5
  heats.append(Heat(1, rest - polish, polish, stride=0.5 if large else 1.0))
  return looked_at, heats


def nearest_targets(
  logits_fn, x, label, looked_at, *, norm, project
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
  order = jnp.argsort(jnp.where(jnp.isnan(reach), jnp.inf, reach))
  order = order[:MAX_TARGETS]
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
  project=None,
  max_gradients: int,
  seed: jax.Array | int = 0,
) -> Segment:
  """A contest of targets: ever fewer of them are searched ever longer.

  Args:
    logits_fn, x, label, norm, low, high, project: as for `deepfool.search`.
    max_gradients: budget; see `plan` for where it goes.
    seed: of the random points of long searches.

  Returns:
    A `Segment` whose inner end is the input, with the cost of all searches.
  """
  num_classes = jax.eval_shape(logits_fn, x).shape[0]
  looked_at, heats = plan(max_gradients, num_classes)
  space = dict(norm=norm, low=low, high=high, project=project)
  linear, targets = nearest_targets(
    logits_fn, x, label, looked_at, norm=norm, project=project
  )

  def enter(aim, start, gap, gradient):
    """The first boundary point on the way to a target, or beside it."""
    noise = jax.random.normal(jax.random.key(seed + start), x.shape, x.dtype)
    noise = noise if project is None else project(noise)
    size = norms.norm(gradient, 2) / norms.norm(noise, 2)
    gradient = gradient + jnp.where(start > 0, ASIDE * size, 0.0) * noise
    one = linear._replace(gaps=gap[None], gradients=gradient[None])
    fn = duel(logits_fn, label, aim)
    return projection.begin(fn, x, label, one, aim[None], **space)

  def compete(aim, start, state, heat, number):
    fn = duel(logits_fn, label, aim)
    smoothing = None
    if heat.starts:
      smoothing = jnp.asarray(SM, x.dtype)[start % len(SM)]
    state = projection.advance(
      fn,
      x,
      label,
      linear.lead,
      state,
      **space,
      first=0,
      last=heat.rounds,
      total=heat.total or heat.rounds,
      smoothing=smoothing,
      seed=seed + 100 * number + start,
      stride=heat.stride,
    )
    return bundle.polish(
      fn, x, label, linear.lead, state, **space, max_gradients=heat.polish
    )

  num_targets = heats[0].places
  rows = jnp.arange(num_targets)  # Whose linearisation an entry starts from.
  aims = targets[:num_targets]
  starts = jnp.zeros_like(rows)
  states = jax.lax.map(
    lambda row: enter(*row),
    (aims, starts, linear.gaps[:num_targets], linear.gradients[:num_targets]),
  )
  gradients, forwards = looked_at, 4 * num_targets + 1
  for number, heat in enumerate(heats):
    if number:
      order = jnp.argsort(states.distance)[: heat.places]
      rows, aims, starts = rows[order], aims[order], starts[order]
      states = jax.tree.map(lambda column: column[order], states)
    if heat.starts:
      best = jax.tree.map(lambda c: c[:1], states)
      rows = jnp.repeat(rows, heat.starts)
      aims = jnp.repeat(aims, heat.starts)
      starts = jnp.tile(jnp.arange(heat.starts), heat.places)
      states = jax.lax.map(
        lambda row: enter(*row),
        (aims, starts, linear.gaps[rows], linear.gradients[rows]),
      )
      forwards += 4 * len(aims)
    run = lambda row, h=heat, n=number: compete(*row, h, n)
    states = jax.lax.map(run, (aims, starts, states))
    each = heat.rounds + heat.polish
    gradients += len(aims) * each
    forwards += len(aims) * 4 * each
    if heat.starts:
      append = lambda a, b: jnp.concatenate([a, b])
      states = jax.tree.map(append, states, best)
      aims, rows, starts = (
        append(aims, aims[:1]),
        append(rows, rows[:1]),
        append(starts, starts[:1]),
      )
  best = jax.tree.map(
    lambda column: column[jnp.argmin(states.distance)], states
  )
  best = best._replace(
    gradients=jnp.int32(gradients), forwards=jnp.int32(forwards)
  )
  return projection.finish(logits_fn, x, label, linear.lead, best, low, high)
