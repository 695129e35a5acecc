"""Auto-PGD in balls whose radius is searched by doubling and bisection."""

import functools
import math
from typing import Any
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dmm_jax import norms
from dmm_jax.boundary import problem as problem_lib
from dmm_jax.boundary.attacks import descent
from dmm_jax.boundary.point import Segment
from dmm_jax.boundary.point import Status


class AttackState(NamedTuple):
  """The descent within one ball.

  Attributes:
    steps: taken; -1 where the first point is still to be evaluated.
    p, at: the current point and its evaluation.
    before: the point before it.
    best, at_best: the point of least loss, and its evaluation.
    decreases: steps since the last checkpoint that lowered the loss.
    step_size: in radii.
    changed: whether `step_size` changed at the last checkpoint.
    checked: the least loss at the last checkpoint.
    num_moved: coordinates that a step moves, in l1.
  """

  steps: jax.Array
  p: jax.Array
  at: descent.Evaluation
  before: jax.Array
  best: jax.Array
  at_best: descent.Evaluation
  decreases: jax.Array
  step_size: jax.Array
  changed: jax.Array
  checked: jax.Array
  num_moved: jax.Array


class Search(NamedTuple):
  """A descent and the radii that are still open.

  Attributes:
    segment: to the nearest point beyond the boundary so far.
    attack: the descent under way.
    radius: of its ball.
    below, above: the largest ball that held nothing, the least that did.
  """

  segment: Segment
  attack: AttackState
  radius: jax.Array
  below: jax.Array
  above: jax.Array


def init(p: jax.Array, like: descent.Evaluation, norm: float) -> AttackState:
  """Returns a descent that starts at `p`, which is not yet evaluated.

  `like`, of whatever point, only gives the shapes.
  """
  zero = jnp.zeros((), jnp.int32)
  worst = like._replace(loss=jnp.full_like(like.loss, jnp.inf))
  step_size = jnp.full((), 1.0 if norm == 1 else 2.0, p.dtype)
  changed = jnp.bool_(True)
  num_moved = jnp.full((), max(1.0, p.size / 5), p.dtype)
  return AttackState(
    zero - 1,
    p,
    like,
    p,
    p,
    worst,
    zero,
    step_size,
    changed,
    worst.loss,
    num_moved,
  )


def choose(condition: jax.Array, new: Any, old: Any) -> Any:
  """Returns `jnp.where` of whole trees of arrays."""
  return jax.tree.map(lambda a, b: jnp.where(condition, a, b), new, old)


def update(
  attack: AttackState, new: jax.Array, at: descent.Evaluation
) -> AttackState:
  """Records a step to `new`, or the evaluation of the first point."""
  better = at.loss < attack.at_best.loss
  decreased = (attack.steps >= 0) & (at.loss < attack.at.loss)
  return attack._replace(
    steps=attack.steps + 1,
    p=new,
    at=at,
    before=attack.p,
    best=choose(better, new, attack.best),
    at_best=choose(better, at, attack.at_best),
    decreases=attack.decreases + decreased,
  )


def check(
  attack: AttackState, x: jax.Array, span: jax.Array, norm: float
) -> AttackState:
  """Chooses the step size at a checkpoint, `span` steps after the last."""
  loss = attack.at_best.loss
  if norm == 1:
    num_moved = jnp.maximum(jnp.sum(attack.best != x) / 1.5, 1.0)
    num_moved = num_moved.astype(x.dtype)
    back = num_moved < 0.95 * attack.num_moved
    slower = jnp.maximum(attack.step_size / 1.5, 0.1)
    step_size = jnp.where(back, 1.0, slower)
    attack = attack._replace(num_moved=num_moved)
  else:
    stuck = ~attack.changed & (loss >= attack.checked)
    back = (attack.decreases < 0.75 * span) | stuck
    step_size = jnp.where(back, attack.step_size / 2, attack.step_size)
  return attack._replace(
    p=choose(back, attack.best, attack.p),
    at=choose(back, attack.at_best, attack.at),
    before=choose(back, attack.best, attack.before),
    decreases=jnp.zeros_like(attack.decreases),
    step_size=step_size.astype(x.dtype),
    changed=back,
    checked=loss,
  )


def checkpoints(num_steps: int, norm: float) -> jax.Array:
  """Returns `span [num_steps + 1]`: steps since the last one, 0 between."""
  if norm == 1:
    every = math.ceil(0.04 * num_steps)
    at = list(range(every, num_steps + 1, every))
  else:
    fractions = [0.0, 0.22]
    while fractions[-1] < 1:
      gap = max(fractions[-1] - fractions[-2] - 0.03, 0.06)
      fractions.append(fractions[-1] + gap)
    # Sums of decimals round: 0.57 of 100 steps are 57.
    at = [math.ceil(round(p * num_steps, 6)) for p in fractions[1:] if p <= 1]
    at = sorted(set(at))
  span = np.zeros(num_steps + 1, np.int32)
  span[at] = np.diff([0, *at])
  return jnp.asarray(span)


def steepest(
  gradient: jax.Array, num_moved: jax.Array, norm: float
) -> jax.Array:
  """Returns the direction of descent, of unit l^p norm.

  In l1 it moves `num_moved` coordinates alike, those of largest gradient.
  """
  if norm == 2:
    return descent.direction(-gradient, jnp.zeros_like(gradient))
  if norm == np.inf:
    return -jnp.sign(gradient)
  if norm != 1:
    steepness = norms.norm(gradient, norms.dual(norm))
    return norms.smallest_step(-gradient, steepness, norm=norm)
  size = jnp.abs(gradient)
  last = size.size - jnp.clip(num_moved.astype(jnp.int32), 1, size.size)
  largest = (size >= jnp.sort(size.ravel())[last]) & (size > 0)
  return -jnp.sign(gradient) * largest / jnp.maximum(jnp.sum(largest), 1)


def logit_ratio(
  logits: jax.Array, label: jax.Array, targets: jax.Array
) -> jax.Array:
  """Returns the margin over the targets, by the range of the top three logits.

  The plain margin where fewer than three logits are finite.
  """
  top = jax.lax.top_k(logits, 3)[0]
  third = jnp.where(jnp.isfinite(top[2]), top[2], top[0] - 1)
  spread = top[0] - third
  margin = descent.hard_margin(logits, label, targets)
  return margin / jnp.where(spread > 0, spread, 1.0)


def project_feasible(
  problem: problem_lib.Problem, step: jax.Array, radius: jax.Array
) -> jax.Array:
  """Returns the point of a step, in ball, subspace and box at once."""
  step = norms.project_ball(
    step, radius, *problem.step_bounds, norm=problem.norm
  )
  return descent.into_box(problem, step)


def next_point(
  problem: problem_lib.Problem, attack: AttackState, radius: jax.Array
) -> jax.Array:
  """Returns the point to evaluate next: the first one, or a step on."""
  p, gradient, norm = attack.p, attack.at.gradient, problem.norm
  free = jnp.where(gradient > 0, p > problem.low, p < problem.high)
  heading = steepest(jnp.where(free, gradient, 0.0), attack.num_moved, norm)
  step = p - problem.x + attack.step_size * radius * heading
  new = project_feasible(problem, step, radius)
  if norm != 1:
    # Momentum, once there is a step before.
    weight = jnp.where(attack.steps > 0, 0.75, 1.0).astype(p.dtype)
    mixed = p + weight * (new - p) + (1 - weight) * (p - attack.before)
    new = project_feasible(problem, mixed - problem.x, radius)
  return jnp.where(attack.steps < 0, p, new)


def next_radius(
  state: Search,
  at: descent.Evaluation,
  over: jax.Array,
  limit: jax.Array,
  norm: float,
) -> Search:
  """Doubles or bisects the radius where a descent is over."""
  segment, attack, radius, below, above = state
  below = jnp.where(over & (at.margin >= 0), radius, below)
  above = jnp.minimum(above, descent.distance(segment, norm))
  between = jnp.where(jnp.isinf(above), 2 * radius, (below + above) / 2)
  radius = jnp.where(over, jnp.minimum(between, limit), radius)
  return Search(segment, attack, radius, below, above)


def search(
  problem: problem_lib.Problem,
  budget: int,
  key: jax.Array | None = None,
  *,
  num_steps: int = 40,
  rtol: float = 1e-3,
) -> Segment:
  """Descends the loss in ever smaller balls around the input.

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
    problem: what is searched; the loss is the margin over its likely targets,
      divided by the range of the three largest logits where there are at least
      four classes and two targets.
    budget: gradients; each step takes one.
    key: not used.
    num_steps: in each ball.
    rtol: where bisection stops, relative.

  Returns:
    A `Segment` from the input to the nearest point found beyond the boundary.
  """
  targets = problem.targets
  x, norm = problem.x, problem.norm
  ratio = len(targets) > 1 and problem.network.num_classes >= 4
  loss = logit_ratio if ratio else descent.hard_margin
  evaluate = functools.partial(descent.evaluate, problem)
  span = checkpoints(num_steps, norm)
  first = evaluate(descent.hard_margin, x, targets)
  _, radius = descent.linear_step(problem, first)
  limit = descent.max_radius(problem, radius)

  def advance(state):
    new = next_point(problem, state.attack, state.radius)
    at = evaluate(loss, new, targets)
    segment = descent.update_best(state.segment, new, at, norm=norm)
    attack = update(state.attack, new, at)
    due = span[attack.steps]
    attack = choose(due > 0, check(attack, x, due, norm), attack)
    over = (at.margin < 0) | (attack.steps >= num_steps)
    state = state._replace(segment=segment, attack=attack)
    state = next_radius(state, at, over, limit, norm)
    # The nearest point beyond leads into the next ball, else the best one.
    found = segment.status == Status.FOUND
    entry = jnp.where(found, segment.outer, attack.best)
    fresh = init(project_feasible(problem, entry - x, state.radius), at, norm)
    return state._replace(attack=choose(over, fresh, attack))

  def searching(state):
    open_radii = state.above > (1 + rtol) * state.below
    open_radii &= state.below < limit
    return open_radii & descent.should_continue(
      state.segment, state.attack.at, budget
    )

  radius = jnp.minimum(radius, limit)
  segment, attack = descent.init(x, first), init(x, first, norm)
  far = jnp.full_like(radius, jnp.inf)
  start = Search(segment, attack, radius, jnp.zeros_like(radius), far)
  return jax.lax.while_loop(searching, advance, start).segment
