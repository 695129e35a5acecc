"""What the attacks share: evaluations, the nearest point so far, steps."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from dmm_jax import norms
from dmm_jax.boundary import network as network_lib
from dmm_jax.boundary import paths
from dmm_jax.boundary import problem as problem_lib
from dmm_jax.boundary.point import Segment
from dmm_jax.boundary.point import Status


class Evaluation(NamedTuple):
  """Loss, gradient and margin at a point.

  Attributes:
    loss: lower is nearer to, or deeper in, another class.
    gradient: of the loss, within the subspace of allowed perturbations.
    margin, runner_up: as in `problem.Margin`.
    finite: whether all of these are.
  """

  loss: jax.Array
  gradient: jax.Array
  margin: jax.Array
  runner_up: jax.Array
  finite: jax.Array


def evaluate(
  problem: problem_lib.Problem,
  loss: Callable,
  p: jax.Array,
  targets: jax.Array,
) -> Evaluation:
  """Evaluates `loss(logits, label, targets)` and its gradient at a point."""
  logits, pull = network_lib.logits_and_pull(problem.network, p)
  value, weights = jax.value_and_grad(loss)(logits, problem.label, targets)
  gradient = pull(weights)
  margin = problem_lib.margin_of(problem, logits)
  finite = jnp.isfinite(margin.value) & jnp.all(jnp.isfinite(gradient))
  if problem.project is not None:
    gradient = problem.project(gradient)
  return Evaluation(value, gradient, margin.value, margin.runner_up, finite)


def expand(
  problem: problem_lib.Problem, p: jax.Array, targets: jax.Array
) -> Evaluation:
  """Evaluates all targets: losses are gaps `[t]`, gradients `[t, ...]`."""
  linear = problem_lib.linearize(problem, p, targets)
  finite = jnp.isfinite(linear.margin) & jnp.all(jnp.isfinite(linear.gradients))
  return Evaluation(
    linear.gaps, linear.gradients, linear.margin, linear.runner_up, finite
  )


def hard_margin(
  logits: jax.Array, label: jax.Array, targets: jax.Array
) -> jax.Array:
  """Returns the label's logit minus the largest of the targets'."""
  return logits[label] - jnp.max(logits[targets])


def soft_margin(
  logits: jax.Array, label: jax.Array, targets: jax.Array
) -> jax.Array:
  """Returns `hard_margin` with a smooth maximum: cross-entropy's log-odds.

  Cross-entropy is an increasing function of it, so that the two gradients have
  one direction; this one does not vanish where the network is confident.
  """
  return logits[label] - jax.nn.logsumexp(logits[targets])


def distance(segment: Segment, norm: float) -> jax.Array:
  """Returns how far the outer end of a segment is; inf if not beyond."""
  found = segment.status == Status.FOUND
  length = norms.norm(segment.outer - segment.inner, norm)
  return jnp.where(found, length, jnp.inf)


def init(x: jax.Array, first: Evaluation, rows: int = 1) -> Segment:
  """Returns the segment of a search that has evaluated `x` alone.

  NOT_FOUND where the search can go on; FOUND, at distance 0, where `x` itself
  lies beyond the boundary. The evaluation took `rows` gradients.
  """
  zero = jnp.zeros((), jnp.int32)
  status = jnp.select(
    [~first.finite, first.margin < 0, ~jnp.any(first.gradient)],
    [Status.NON_FINITE, Status.FOUND, Status.ZERO_GRADIENT],
    Status.NOT_FOUND,
  ).astype(jnp.int32)
  return Segment(
    x,
    x,
    first.margin,
    first.margin,
    first.runner_up,
    status,
    zero + rows,
    zero,
  )


def update_best(
  segment: Segment,
  p: jax.Array,
  new: Evaluation,
  *,
  norm: float,
  gradients: jax.Array | int = 1,
  forwards: jax.Array | int = 0,
) -> Segment:
  """Counts an evaluation at `p`; keeps `p` if beyond and the nearest so far.

  NON_FINITE after NaN or infinity, unless a point has been found before.
  """
  length = norms.norm(p - segment.inner, norm)
  keep = (new.margin < 0) & (length < distance(segment, norm))
  found = keep | (segment.status == Status.FOUND)
  status = jnp.select(
    [found, new.finite], [Status.FOUND, segment.status], Status.NON_FINITE
  )
  return Segment(
    inner=segment.inner,
    outer=jnp.where(keep, p, segment.outer),
    margin_inner=segment.margin_inner,
    margin_outer=jnp.where(keep, new.margin, segment.margin_outer),
    target=jnp.where(keep, new.runner_up, segment.target),
    status=status.astype(jnp.int32),
    gradients=segment.gradients + gradients,
    forwards=segment.forwards + forwards,
  )


def should_continue(
  segment: Segment, last: Evaluation, budget: int
) -> jax.Array:
  """Returns whether a search can and may evaluate another gradient.

  It cannot after NaN or infinity, nor where the first gradient was zero.
  """
  able = segment.status != Status.ZERO_GRADIENT
  return able & last.finite & (segment.gradients < budget)


def into_box(problem: problem_lib.Problem, step: jax.Array) -> jax.Array:
  """Returns the point of a step from the input, in subspace and box.

  Without a subspace the step is clipped; in a subspace it is shrunk towards
  zero, so that an active bound that it pushes against stops it altogether.
  """
  low, high = problem.step_bounds
  if problem.project is not None:
    step = problem.project(step)
    size = jnp.abs(step)
    slack = jnp.where(step > 0, high, -low)
    fits = jnp.min(jnp.where(size > 0, slack / size, jnp.inf))
    step = step * jnp.minimum(1.0, fits)
  return jnp.clip(problem.x + step, problem.low, problem.high)


def linear_step(
  problem: problem_lib.Problem, first: Evaluation
) -> tuple[jax.Array, jax.Array]:
  """Returns the smallest step that closes a gap to first order, and its norm.

  Where the box blocks every coordinate, the norm is what it would be without.
  """
  gap, norm = jnp.abs(first.loss), problem.norm
  step = norms.smallest_step(
    -first.gradient, gap, *problem.step_bounds, norm=norm
  )
  length = norms.norm(step, norm)
  if paths.counts(problem):
    return step, length
  size = norms.norm(first.gradient, norms.dual(norm))
  return step, jnp.where(length > 0, length, gap / size)


def direction(v: jax.Array, otherwise: jax.Array) -> jax.Array:
  """Returns `v` at unit l2 length, or another vector where `v` is zero."""
  size = norms.norm(v, 2)
  return jnp.where(size > 0, v / size, otherwise)


def max_radius(problem: problem_lib.Problem, length: jax.Array) -> jax.Array:
  """Returns a radius that no search exceeds: the box's, or a huge one."""
  low, high = problem.step_bounds
  slack = jnp.maximum(high, -low)
  corner = norms.norm(slack, problem.norm)
  huge = 1e6 * (length + norms.norm(problem.x, problem.norm))
  # The l2 norm of infinities is NaN.
  return jnp.where(jnp.all(slack < jnp.inf), jnp.minimum(corner, huge), huge)
