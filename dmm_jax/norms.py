"""l^p norms of a perturbation, and the smallest step onto a hyperplane.

A norm is named by its exponent: 1, 2, `np.inf`, or any p >= 1 where a function
says so. A traced exponent, always one of 1, 2 and inf, chooses at run time:
several norms then share one compiled program. Arrays of any shape count as one
vector.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

SEARCHABLE = (1, 2, np.inf)


def check(norm: float) -> None:
  """Raises ValueError for a norm that boundary searches do not support."""
  if not isinstance(norm, jax.Array) and norm not in SEARCHABLE:
    raise ValueError(f'norm must be 1, 2 or inf, got {norm!r}')


def _choose(branch, p, *args):
  """Calls `branch(*args, p)` with the traced `p` made static."""
  index = jnp.where(p == 1, 0, jnp.where(p == 2, 1, 2))
  branches = [functools.partial(_swap, branch, q) for q in SEARCHABLE]
  return jax.lax.switch(index, branches, *args)


def _swap(branch, p, *args):
  return branch(*args, p)


def norm(v: jax.Array, p: float) -> jax.Array:
  """Returns the l^p norm, p >= 1, of all entries of `v`; 0 if it is empty."""
  if isinstance(p, jax.Array):
    return _choose(norm, p, v)
  a = jnp.abs(v).ravel()
  if p == np.inf:
    return jnp.max(a, initial=0.0)
  if p == 1:
    return jnp.sum(a)
  # Scaling by the largest entry keeps squares of tiny gradients from vanishing.
  scale = jnp.max(a, initial=0.0)
  unit = a / jnp.where(scale > 0, scale, 1.0)
  return scale * jnp.sum(unit**p) ** (1 / p)


def dual(p: float) -> float:
  """Returns q with 1/p + 1/q = 1, the norm that gradients are measured in."""
  if isinstance(p, jax.Array):
    return jnp.where(p == 1, jnp.inf, jnp.where(p == 2, 2.0, 1.0))
  if p < 1:
    raise ValueError(f'l^p norms need p >= 1, got {p!r}')
  if p == 1:
    return np.inf
  return 1.0 if p == np.inf else p / (p - 1)


def smallest_step(
  gradient: jax.Array,
  gap: jax.Array,
  low: jax.Array | float = -np.inf,
  high: jax.Array | float = np.inf,
  *,
  norm: float = 2,
) -> jax.Array:
  """Returns the smallest v with `gradient . v = gap` and low <= v <= high.

  The exact projection of the origin, in the l^p norm, on a hyperplane within a
  box. Without active bounds it is the dual direction of the gradient. With
  them, l2 and linf fill every coordinate up to one common level (times
  |gradient| for l2), found by Newton's method on a concave piecewise linear
  function, which ends after finitely many rounds, usually two or three; l1
  fills coordinates in order of |gradient|.

  Args:
    gradient: any shape; a zero gradient gives a zero step.
    gap: scalar >= 0, how far the linear function has to move.
    low: scalar or as `gradient`, at most 0.
    high: likewise, at least 0.
    norm: 1, 2 or inf.

  Returns:
    The step, of the shape of `gradient`. Where the box does not reach the
    hyperplane: the corner of the box nearest to it, so that
    `gradient . v < gap`.
  """
  check(norm)
  size = jnp.abs(gradient)
  room = jnp.where(gradient > 0, high, -jnp.asarray(low))
  room = jnp.where(size > 0, room, 0.0)
  fill = _choose if isinstance(norm, jax.Array) else _swap
  amount = fill(_fill, norm, size.ravel(), room.ravel(), gap)
  return jnp.sign(gradient) * amount.reshape(gradient.shape)


def _fill(size, room, gap, p):
  return {1: _fill_steepest, 2: _fill_l2, np.inf: _fill_level}[p](
    size, room, gap
  )


def _fill_level(size, room, gap):
  return jnp.minimum(_water_level(size, room, gap), room)


def _fill_l2(size, room, gap):
  # In units of the largest entry: squares of tiny gradients stay above zero.
  largest = jnp.max(size, initial=0.0)
  unit = size / jnp.where(largest > 0, largest, 1.0)
  reach = jnp.where(size > 0, room / jnp.where(size > 0, unit, 1.0), 0.0)
  level = _water_level(unit**2, reach, gap / jnp.where(largest > 0, largest, 1))
  return jnp.where(size > 0, jnp.minimum(level * unit, room), 0.0)


def _fill_steepest(size, room, gap):
  order = jnp.argsort(-size)
  size, room = size[order], room[order]
  gain = jnp.where(size > 0, size * room, 0.0)
  before = jnp.concatenate([jnp.zeros(1, gain.dtype), jnp.cumsum(gain)[:-1]])
  need = jnp.maximum(gap - before, 0.0) / jnp.where(size > 0, size, 1.0)
  amount = jnp.where(size > 0, jnp.minimum(need, room), 0.0)
  return jnp.zeros_like(amount).at[order].set(amount, unique_indices=True)


def _water_level(weight, depth, gap):
  """Solves sum_i weight_i min(level, depth_i) = gap; inf where it cannot.

  The left side is concave in `level`, so Newton's method from a level below
  the root climbs to it without overshooting and stops on the root's piece.
  """

  def newton(level):
    full = depth <= level
    rest = gap - jnp.sum(jnp.where(full & (weight > 0), weight * depth, 0.0))
    slope = jnp.sum(jnp.where(full, 0.0, weight))
    return jnp.where(slope > 0, rest / jnp.where(slope > 0, slope, 1.0), np.inf)

  def climbing(state):
    level, new, rounds = state
    return (new > level) & (rounds < depth.size)

  def step(state):
    _, level, rounds = state
    return level, newton(level), rounds + 1

  start = jnp.zeros((), weight.dtype)
  first = newton(start - 1)
  _, level, _ = jax.lax.while_loop(climbing, step, (start - 1, first, 0))
  return jnp.maximum(level, 0.0)
