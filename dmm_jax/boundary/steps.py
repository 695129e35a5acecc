"""Steps onto linearised boundaries, within the box and the subspace."""

import jax
import jax.numpy as jnp

from dmm_jax import norms
from dmm_jax.boundary import paths
from dmm_jax.boundary import problem as problem_lib
from dmm_jax.boundary import subspace
from dmm_jax.boundary.point import Status


def plane_distances(
  gaps: jax.Array, gradients: jax.Array, norm: float
) -> jax.Array:
  """Returns how far linearised boundaries `[t]` are; inf without a gradient.

  A gradient of NaN or infinity is none.
  """
  dual = norms.dual(norm)
  sizes = jax.vmap(lambda gradient: norms.norm(gradient, dual))(gradients)
  usable = (sizes > 0) & jnp.isfinite(sizes)
  return jnp.where(usable, gaps / sizes, jnp.inf)


def linear_distances(
  problem: problem_lib.Problem, gaps: jax.Array, gradients: jax.Array
) -> jax.Array:
  """Returns how far boundaries linearised at the input are, as above `[t]`.

  For `norm` 0 the number of changes within the box; all that change anything,
  where they are not enough.
  """
  if not paths.counts(problem):
    return plane_distances(gaps, gradients, problem.norm)

  def count(gap, gradient):
    path = paths.steepest(problem, gradient)
    usable = jnp.all(jnp.isfinite(gradient)) & (path.moving > 0)
    return jnp.where(usable, paths.needed(path, gap), jnp.inf)

  return jax.vmap(count)(gaps, gradients).astype(gaps.dtype)


def why_none(gradients: jax.Array) -> jax.Array:
  """Returns the status where no gradient leads anywhere."""
  zero = jnp.all(jnp.isfinite(gradients))
  return jnp.where(zero, Status.ZERO_GRADIENT, Status.NON_FINITE)


def onto_plane(
  problem: problem_lib.Problem,
  origin: jax.Array,
  gradient: jax.Array,
  gap: jax.Array,
  norm: float,
  *,
  in_l2: jax.Array | bool = False,
) -> jax.Array:
  """Returns the smallest step by which a linearised margin falls by `gap`.

  Args:
    problem: gives the box and the subspace.
    origin: a point of the box.
    gradient: of the margin, within the subspace.
    gap: >= 0.
    norm: in which the step is smallest.
    in_l2: whether it is to be smallest in l2 instead; may be traced.

  Returns:
    A step, as `origin`; where box or subspace do not reach the plane, one that
    comes close to it.
  """
  box = problem.low - origin, problem.high - origin
  smallest = lambda p: norms.smallest_step(-gradient, gap, *box, norm=p)
  if isinstance(norm, jax.Array):
    step = smallest(jnp.where(in_l2, 2, norm))
  elif norm == 2 or isinstance(in_l2, bool):
    step = smallest(norm if norm == 2 or not in_l2 else 2)
  else:
    step = jax.lax.cond(in_l2, lambda: smallest(2), lambda: smallest(norm))
  if problem.project is None:
    return step
  return subspace.project_feasible(
    problem.project, step, -gradient, *box, problem.rank
  )[0]


def nearest_linear(
  problem: problem_lib.Problem,
  p: jax.Array,
  gaps: jax.Array,
  gradients: jax.Array,
  *,
  overshoot: float = 0.0,
  least_gap: jax.Array | float = 0.0,
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Returns the smallest step from `p` that closes the nearest target's gap.

  Args:
    problem: gives norm, box and subspace.
    p: where the margins were linearised.
    gaps, gradients: as in `problem.Linear`.
    overshoot: how much more than the gap is closed, as a fraction of it.
    least_gap: and of which at least this much.

  Returns:
    `(step, distance, index)`; a step of zeros and inf where no gradient leads
    anywhere.
  """
  distances = linear_distances(problem, gaps, gradients)
  i = jnp.argmin(distances)
  gap = gaps[i] + overshoot * jnp.maximum(gaps[i], least_gap)
  if paths.counts(problem):
    path = paths.steepest(problem, gradients[i])
    end = paths.point(path, problem, paths.needed(path, gap))
    return end - problem.x, distances[i], i
  step = onto_plane(problem, p, gradients[i], gap, problem.norm)
  return step, distances[i], i


def cosine(
  start: jax.Array | float, end: float, fraction: jax.Array
) -> jax.Array:
  """Goes from `start` to `end` as `fraction` goes from 0 to 1, as a cosine."""
  return end + (start - end) * (1 + jnp.cos(jnp.pi * fraction)) / 2
