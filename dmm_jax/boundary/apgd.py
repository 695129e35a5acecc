"""Auto-PGD in balls whose radius is searched by doubling and bisection."""

from collections.abc import Callable
import math
from typing import Any
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dmm_jax import norms
from dmm_jax.boundary import descent
from dmm_jax.boundary import point as point_lib
from dmm_jax.boundary.point import Segment
from dmm_jax.boundary.point import Status


class Trial(NamedTuple):
  """The descent within one ball.

  Attributes:
    steps: taken; -1 where the first point is still to be looked at.
    p, seen: the current point and the look at it.
    before: the point before it.
    best, best_seen: the point of least loss.
    falls: steps since the last checkpoint that lowered the loss.
    stride: length of steps, in radii.
    changed: whether `stride` changed at the last checkpoint.
    checked: the least loss at the last checkpoint.
    count: coordinates that a step moves, in l1.
  """

  steps: jax.Array
  p: jax.Array
  seen: descent.Look
  before: jax.Array
  best: jax.Array
  best_seen: descent.Look
  falls: jax.Array
  stride: jax.Array
  changed: jax.Array
  checked: jax.Array
  count: jax.Array  # type: ignore[assignment]


class Search(NamedTuple):
  """A trial and the radii that are still open.

  Attributes:
    segment: to the nearest point beyond the boundary so far.
    trial: the one under way.
    radius: of its ball.
    below, above: the largest ball that held nothing, the least that did.
  """

  segment: Segment
  trial: Trial
  radius: jax.Array
  below: jax.Array
  above: jax.Array


def enter(p: jax.Array, seen: descent.Look, norm: float) -> Trial:
  """Returns a trial that starts at `p`, before the look at it.

  `seen`, of whatever point, only gives the shapes.
  """
  zero = jnp.zeros((), jnp.int32)
  far = seen._replace(loss=jnp.full_like(seen.loss, jnp.inf))
  stride = jnp.full((), 1.0 if norm == 1 else 2.0, p.dtype)
  changed = jnp.bool_(True)
  count = jnp.full((), max(1.0, p.size / 5), p.dtype)
  return Trial(
    zero - 1, p, seen, p, p, far, zero, stride, changed, far.loss, count
  )


def choose(condition: jax.Array, new: Any, old: Any) -> Any:
  """`jnp.where` on whole trees of arrays."""
  return jax.tree.map(lambda a, b: jnp.where(condition, a, b), new, old)


def follow(trial: Trial, new: jax.Array, seen: descent.Look) -> Trial:
  """Takes note of a step to `new`, or of the look at the first point."""
  better = seen.loss < trial.best_seen.loss
  fell = (trial.steps >= 0) & (seen.loss < trial.seen.loss)
  return trial._replace(
    steps=trial.steps + 1,
    p=new,
    seen=seen,
    before=trial.p,
    best=choose(better, new, trial.best),
    best_seen=choose(better, seen, trial.best_seen),
    falls=trial.falls + fell,
  )


def check(trial: Trial, x: jax.Array, span: jax.Array, norm: float) -> Trial:
  """At a checkpoint, `span` steps after the last: a new stride, or not."""
  loss = trial.best_seen.loss
  if norm == 1:
    count = jnp.maximum(jnp.sum(trial.best != x) / 1.5, 1.0)
    back = count < 0.95 * trial.count
    slower = jnp.maximum(trial.stride / 1.5, 0.1)
    stride = jnp.where(back, 1.0, slower)
    trial = trial._replace(count=count.astype(x.dtype))
  else:
    stuck = ~trial.changed & (loss >= trial.checked)
    back = (trial.falls < 0.75 * span) | stuck
    stride = jnp.where(back, trial.stride / 2, trial.stride)
  return trial._replace(
    p=choose(back, trial.best, trial.p),
    seen=choose(back, trial.best_seen, trial.seen),
    before=choose(back, trial.best, trial.before),
    falls=jnp.zeros_like(trial.falls),
    stride=stride.astype(x.dtype),
    changed=back,
    checked=loss,
  )


def checkpoints(num_steps: int, norm: float) -> jax.Array:
  """Returns `span [num_steps + 1]`: steps since the last one, 0 between."""
  if norm == 1:
    every = math.ceil(0.04 * num_steps)
    at = list(range(every, num_steps + 1, every))
  else:
    shares = [0.0, 0.22]
    while shares[-1] < 1:
      gap = max(shares[-1] - shares[-2] - 0.03, 0.06)
      shares.append(shares[-1] + gap)
    at = sorted({math.ceil(p * num_steps) for p in shares[1:] if p <= 1})
  span = np.zeros(num_steps + 1, np.int32)
  span[at] = np.diff([0, *at])
  return jnp.asarray(span)


def steepest(gradient: jax.Array, count: jax.Array, norm: float) -> jax.Array:
  """Returns the direction of descent, of unit l^p norm.

  In l1 it moves `count` coordinates alike, those of largest gradient.
  """
  if norm == 2:
    return descent.direction(-gradient, jnp.zeros_like(gradient))
  if norm == np.inf:
    return -jnp.sign(gradient)
  size = jnp.abs(gradient)
  last = size.size - jnp.clip(count.astype(jnp.int32), 1, size.size)
  largest = (size >= jnp.sort(size.ravel())[last]) & (size > 0)
  return -jnp.sign(gradient) * largest / jnp.maximum(jnp.sum(largest), 1)


def logit_ratio(
  logits: jax.Array, label: jax.Array, targets: jax.Array
) -> jax.Array:
  """The margin over the targets, in units of the range of the top three."""
  top = jax.lax.top_k(logits, 3)[0]
  spread = top[0] - top[2]
  margin = descent.hard_margin(logits, label, targets)
  return margin / jnp.where(spread > 0, spread, 1.0)


def into_ball(
  x: jax.Array,
  low: jax.Array,
  high: jax.Array,
  project: point_lib.Project,
  norm: float,
) -> Callable:
  """Returns `(step, radius) -> point`: into ball, subspace and box at once."""
  box = low - x, high - x

  def into(step, radius):
    step = norms.project_ball(step, radius, *box, norm=norm)
    return jnp.clip(x + descent.inside(project, step, *box), low, high)

  return into


def descend(
  trial: Trial,
  x: jax.Array,
  radius: jax.Array,
  low: jax.Array,
  high: jax.Array,
  into: Callable,
  norm: float,
) -> jax.Array:
  """The point that a trial looks at next: its first, or one step on."""
  p, gradient = trial.p, trial.seen.gradient
  free = jnp.where(gradient > 0, p > low, p < high)
  heading = steepest(jnp.where(free, gradient, 0.0), trial.count, norm)
  new = into(p - x + trial.stride * radius * heading, radius)
  if norm != 1:
    # Momentum, once there is something to go on with.
    share = jnp.where(trial.steps > 0, 0.75, 1.0)
    mixed = p + share * (new - p) + (1 - share) * (p - trial.before)
    new = into(mixed - x, radius)
  return jnp.where(trial.steps < 0, p, new)


def next_radius(
  state: Search,
  seen: descent.Look,
  over: jax.Array,
  limit: jax.Array,
  norm: float,
) -> Search:
  """Doubles or bisects the radius where a trial is over, with its last look."""
  segment, trial, radius, below, above = state
  below = jnp.where(over & (seen.lead >= 0), radius, below)
  above = jnp.minimum(above, descent.distance(segment, norm))
  between = jnp.where(jnp.isinf(above), 2 * radius, (below + above) / 2)
  radius = jnp.where(over, jnp.minimum(between, limit), radius)
  return Search(segment, trial, radius, below, above)


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
  num_steps: int = 40,
  rtol: float = 1e-3,
) -> Segment:
  """Asks for a point beyond the boundary in smaller and smaller balls.

  The first radius is the linear estimate. It doubles until a ball holds a
  point beyond, and is bisected from then on; a ball is left at once where one
  is found, after `num_steps` where none is. Robust where gradients mislead,
  but most of the budget goes into balls that hold nothing. A ball that the
  descent fails in counts as empty, so that its failures are final.

  Source: Croce and Hein (2020), "Reliable evaluation of adversarial robustness
  with an ensemble of diverse parameter-free attacks",
  https://arxiv.org/abs/2003.01690; for l1 Croce and Hein (2021), "Mind the
  box: l1-APGD for sparse adversarial attacks on image classifiers",
  https://arxiv.org/abs/2103.01208. Deviations: the radius is searched, each
  ball entered at the projection of the nearest point so far; projections are
  on the ball and the box at once in every norm, and steps leave out
  coordinates that the box blocks; no random start.

  Args:
    logits_fn, x, label, low, high, project, targets: as for
      `deepfool.search`; the loss is the margin over the targets, divided by
      the range of the three largest logits where there are at least four
      classes and two targets.
    norm: 1, 2 or inf.
    max_gradients: budget; each step takes one.
    num_steps: in each ball.
    rtol: where bisection stops, relative.

  Returns:
    A `Segment` from the input to the nearest point seen beyond the boundary.

  Raises:
    ValueError: for another norm.
  """
  norms.check(norm)
  num_classes = jax.eval_shape(logits_fn, x).size
  ratio = len(targets) > 1 and num_classes >= 4
  loss = logit_ratio if ratio else descent.hard_margin
  see = lambda loss, p: descent.look(
    loss, logits_fn, p, label, targets, project
  )
  into = into_ball(x, low, high, project, norm)
  span = checkpoints(num_steps, norm)
  first = see(descent.hard_margin, x)
  _, radius = descent.straight_ahead(first, low - x, high - x, norm=norm)
  limit = descent.farthest(x, low, high, radius, norm=norm)

  def advance(state):
    new = descend(state.trial, x, state.radius, low, high, into, norm)
    seen = see(loss, new)
    segment = descent.record(state.segment, new, seen, norm=norm)
    trial = follow(state.trial, new, seen)
    due = span[trial.steps]
    trial = choose(due > 0, check(trial, x, due, norm), trial)
    over = (seen.lead < 0) | (trial.steps >= num_steps)
    state = state._replace(segment=segment, trial=trial)
    state = next_radius(state, seen, over, limit, norm)
    # The nearest point beyond leads into the next ball, else the best guess.
    found = segment.status == Status.FOUND
    lead_in = jnp.where(found, segment.outer, trial.best)
    fresh = enter(into(lead_in - x, state.radius), seen, norm)
    return state._replace(trial=choose(over, fresh, trial))

  def searching(state):
    unsettled = state.above > (1 + rtol) * state.below
    unsettled &= state.below < limit
    going = descent.going(state.segment, state.trial.seen, max_gradients)
    return unsettled & going

  radius = jnp.minimum(radius, limit)
  segment, trial = descent.begin(x, first), enter(x, first, norm)
  far = jnp.full_like(radius, jnp.inf)
  start = Search(segment, trial, radius, jnp.zeros_like(radius), far)
  return jax.lax.while_loop(searching, advance, start).segment
