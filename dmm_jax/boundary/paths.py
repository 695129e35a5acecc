"""Paths that change one input after the other, the most effective first.

What a ray is to norms, such a path is to the number of changed inputs: to first
order the fewest changes that close a gap are the first ones of it. Inputs go to
the end of the box that lowers the margin.
"""

from typing import Any
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dmm_jax import norms
from dmm_jax.boundary import problem as problem_lib


class Path(NamedTuple):
  """An order of inputs, or of groups that count once, and where each one goes.

  Attributes:
    ends: where each input goes, as the input.
    rank: which position in the order it has, as the input.
    gains: by how much the first ones together lower the margin to first order,
      `[groups + 1]` from 0 for none.
    moving: number of groups that can lower it at all.
  """

  ends: jax.Array
  rank: jax.Array
  gains: jax.Array
  moving: jax.Array


def steepest(problem: problem_lib.Problem, gradient: jax.Array) -> Path:
  """Returns the path down a linear margin, from the problem's input."""
  ends, gain = effects(problem, gradient)
  groups = by_group(problem, gain)
  order = jnp.argsort(-groups.ravel())
  rank = jnp.zeros_like(order).at[order].set(jnp.arange(order.size))
  gains = jnp.cumsum(jnp.maximum(groups.ravel()[order], 0.0))
  return Path(
    ends,
    jnp.broadcast_to(rank.reshape(groups.shape), ends.shape),
    jnp.concatenate([jnp.zeros_like(gains[:1]), gains]),
    jnp.sum(groups > 0, dtype=jnp.int32),
  )


def effects(
  problem: problem_lib.Problem, gradient: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """Returns where each input would go, and how much that lowers the margin."""
  ends = jnp.where(gradient > 0, problem.low, problem.high)
  gain = -gradient * (ends - problem.x)
  # NaN is none.
  return ends, jnp.where(gain > 0, gain, 0.0)


def by_group(problem: problem_lib.Problem, v: jax.Array) -> jax.Array:
  """Returns sums over the axes whose inputs count once, which stay as 1."""
  axes = problem.groups
  return v if axes is None else jnp.sum(v, axes, keepdims=True)


def point(
  path: Path, problem: problem_lib.Problem, num: jax.Array
) -> jax.Array:
  """Returns the input with the first `num` of a path changed."""
  return jnp.where(path.rank < num, path.ends, problem.x)


def needed(path: Path, gap: jax.Array) -> jax.Array:
  """Returns how many changes close a gap to first order; all where none do."""
  num = jnp.searchsorted(path.gains, gap).astype(jnp.int32)
  return jnp.minimum(num, path.moving)


def counts(problem: problem_lib.Problem) -> bool:
  """Whether changes are counted; a traced norm is one of the others."""
  return not isinstance(problem.norm, jax.Array) and problem.norm == 0


def length(problem: problem_lib.Problem, v: jax.Array) -> jax.Array:
  """Returns the norm of a perturbation, or the number of its changes."""
  if counts(problem):
    return count(v, problem.groups)
  return norms.norm(v, problem.norm)


def count(v: jax.Array, groups: tuple[int, ...] | None) -> jax.Array:
  """Returns how many inputs, or groups, a perturbation changes."""
  changed = v != 0
  if groups is not None:
    changed = jnp.any(changed, groups)
  return jnp.sum(changed, dtype=v.dtype)


def check_groups(groups: Any, shape: tuple[int, ...]) -> tuple[int, ...] | None:
  """Returns axes as non-negative numbers in order.

  Raises:
    TypeError, ValueError: for what are no axes of an input of this shape.
  """
  if groups is None:
    return None
  axes = groups if isinstance(groups, tuple | list) else (groups,)
  for axis in axes:
    if isinstance(axis, bool) or not isinstance(axis, int | np.integer):
      raise TypeError(f'groups must be None, an axis or axes, got {groups!r}')
  if not axes or not all(-len(shape) <= axis < len(shape) for axis in axes):
    raise ValueError(
      f'groups must be axes of an input of shape {shape}, such as -1 for the '
      f'channels of an image [height, width, channels], got {groups!r}'
    )
  return tuple(sorted({int(axis) % len(shape) for axis in axes}))
