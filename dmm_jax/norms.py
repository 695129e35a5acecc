"""l^p norms of a perturbation, and the smallest step onto a hyperplane.

A norm is named by its exponent: any real p >= 1 or `np.inf`; or 0, which is no
norm: the number of entries that are not zero. A traced exponent, of at least 1,
chooses at run time: several norms then share one compiled program. Arrays of
any shape count as one vector.

For 1, 2 and inf there are rules without powers. Those of all other p work with
logarithms where the powers 1 / (p - 1), as p nears 1, would overflow or vanish.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

PLAIN = (1, 2, np.inf)  # Have rules of their own.
STEEP = 1.3  # Below, powers 1 / (p - 1) of small numbers vanish in float32.


def check(norm: float, *, counts: bool = False) -> None:
  """Raises ValueError for an exponent that is none, TypeError for no number.

  Args:
    norm: p.
    counts: whether 0 is one.
  """
  if isinstance(norm, jax.Array):
    return
  if isinstance(norm, bool) or not isinstance(norm, int | float | np.number):
    raise TypeError(f'norm must be a number, of an l^p norm, got {norm!r}')
  if not (norm >= 1 or (counts and norm == 0)):
    count = ', or 0 for the number of changed inputs' if counts else ''
    raise ValueError(
      f'norm must be a number p >= 1 or inf{count}, got {norm!r}'
    )


def _choose(branch, p, *args):
  """Calls `branch(*args, p)`; one of `PLAIN` is made static if it is traced."""
  if not isinstance(p, jax.Array):
    return branch(*args, p)
  index = jnp.select([p == q for q in PLAIN], range(len(PLAIN)), len(PLAIN))
  plain = [functools.partial(_swap, branch, q) for q in PLAIN]
  any_other = lambda *args: branch(*args, p.astype(args[0].dtype))
  return jax.lax.switch(index, [*plain, any_other], *args)


def _swap(branch, p, *args):
  return branch(*args, p)


def _is(p, q):
  """Whether an exponent is known to be `q`; a traced one is any other."""
  return not isinstance(p, jax.Array) and p == q


def norm(v: jax.Array, p: float) -> jax.Array:
  """Returns the l^p norm of all entries of `v`; 0 if it is empty."""
  return _choose(_norm, p, v)


def _norm(v, p):
  if _is(p, 0):
    return jnp.sum(v != 0, dtype=v.dtype)
  a = jnp.abs(v).ravel()
  if _is(p, np.inf):
    return jnp.max(a, initial=0.0)
  if _is(p, 1):
    return jnp.sum(a)
  # Scaling by the largest entry keeps squares of tiny gradients from vanishing.
  scale = jnp.max(a, initial=0.0)
  unit = a / _divisor(scale)
  return scale * jnp.sum(unit**p) ** (1 / p)


def _divisor(v):
  """`v` where it is positive, 1 elsewhere: quotients have no effect there."""
  return jnp.where(v > 0, v, 1.0)


def dual(p: float) -> float:
  """Returns q with 1/p + 1/q = 1, the norm that gradients are measured in."""
  if isinstance(p, jax.Array):
    ends = [p == 1, p == jnp.inf]
    return jnp.select(ends, [jnp.inf, 1.0], p / (p - 1))
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
  them, entries grow as |gradient|^(1 / (p - 1)) times one common level, each up
  to its bound; the level is found by Newton's method on a concave piecewise
  linear function, which ends after finitely many rounds, usually two or three;
  l1 fills coordinates from the largest |gradient| down to a cut; p = 0 those
  that can lower the gap most.

  Args:
    gradient: any shape; a zero gradient gives a zero step.
    gap: scalar >= 0, how far the linear function has to move.
    low: scalar or as `gradient`, at most 0.
    high: likewise, at least 0.
    norm: any p >= 1, or 0.

  Returns:
    The step, of the shape of `gradient`. Where the box does not reach the
    hyperplane: the corner of the box nearest to it, so that
    `gradient . v < gap`.
  """
  check(norm, counts=True)
  size = jnp.abs(gradient)
  room = jnp.where(gradient > 0, high, -jnp.asarray(low))
  room = jnp.where(size > 0, room, 0.0)
  amount = _choose(_fill, norm, size.ravel(), room.ravel(), gap)
  return jnp.sign(gradient) * amount.reshape(gradient.shape)


def _fill(size, room, gap, p):
  if _is(p, 0):
    return _fill_fewest(size, room, gap)
  if _is(p, 1):
    return _fill_steepest(size, room, gap)
  if _is(p, np.inf):
    return _fill_level(size, room, gap)
  if isinstance(p, jax.Array) or p < STEEP:
    return _fill_logarithms(size, room, gap, p)
  return _fill_powers(size, room, gap, p)


def _fill_level(size, room, gap):
  return jnp.minimum(_water_level(size, room, gap), room)


def _fill_powers(size, room, gap, p):
  # In units of the largest entry: powers of tiny gradients stay above zero.
  largest = jnp.max(size, initial=0.0)
  unit = size / _divisor(largest)
  growth = unit if p == 2 else unit ** (1 / (p - 1))
  reach = room / _divisor(growth)
  level = _water_level(unit * growth, reach, gap / _divisor(largest))
  # An infinite level would make NaN of entries so small that `growth` is 0.
  return jnp.where(level == np.inf, room, jnp.minimum(level * growth, room))


def _fill_fewest(size, room, gap):
  room = jnp.minimum(room, gap / _divisor(size))
  gain = size * room
  order = jnp.argsort(-gain)
  ordered = gain[order]
  rest = gap - (jnp.cumsum(ordered) - ordered)
  share = jnp.clip(rest / _divisor(ordered), 0.0, 1.0)
  return room * jnp.zeros_like(gain).at[order].set(share)


def _fill_logarithms(size, room, gap, p):
  # Sizes in units of the largest, and their logarithms: a power 1 / (p - 1) of
  # them is below any number as p nears 1.
  largest = jnp.max(size, initial=0.0)
  moves = (size > 0) & (room > 0)
  unit = _log_where(moves, size) - jnp.log(_divisor(largest))
  growth = unit / (p - 1)
  depth = jnp.where(moves, _log_where(moves, room) - growth, -jnp.inf)
  gain = jnp.where(moves, size / _divisor(largest) * room, 0.0)
  slope = jnp.where(moves, growth + unit, -jnp.inf)

  def newton(level):
    full = depth <= level
    rest = gap / _divisor(largest) - jnp.sum(jnp.where(full, gain, 0.0))
    steepness = jax.nn.logsumexp(jnp.where(full, -jnp.inf, slope))
    rest = jnp.where(rest > 0, jnp.log(_divisor(rest)), -jnp.inf)
    return jnp.where(jnp.all(full), jnp.inf, rest - steepness)

  level = _climb(newton, jnp.full((), -jnp.inf, size.dtype))
  return jnp.where(moves, jnp.minimum(jnp.exp(level + growth), room), 0.0)


def _log_where(usable, v):
  return jnp.log(jnp.where(usable, v, 1.0))


def _fill_steepest(size, room, gap):
  # The cut between full and empty is bisected, which beats sorting; what lies
  # at it has one size, but for rounding, and shares the rest.
  room = jnp.minimum(room, gap / _divisor(size))
  gain = size * room
  gained = lambda cut: jnp.sum(jnp.where(size > cut, gain, 0.0))
  low, high = _bisect(
    lambda cut: gained(cut) - gap,
    jnp.zeros((), size.dtype),
    jnp.max(size, initial=0.0),
  )
  at = (size > low) & (size <= high)
  rest = jnp.maximum(gap - gained(high), 0.0)
  shared = jnp.sum(jnp.where(at, gain, 0.0))
  share = jnp.minimum(rest / _divisor(shared), 1.0)
  return jnp.where(size > high, room, jnp.where(at, share * room, 0.0))


def _water_level(weight, depth, gap):
  """Solves sum_i weight_i min(level, depth_i) = gap; inf where it cannot.

  The left side is concave in `level`, so Newton's method from a level below
  the root climbs to it without overshooting and stops on the root's piece.
  """

  def newton(level):
    full = depth <= level
    rest = gap - jnp.sum(jnp.where(full, weight * depth, 0.0))
    slope = jnp.sum(jnp.where(full, 0.0, weight))
    return jnp.where(slope > 0, rest / _divisor(slope), np.inf)

  return _climb(newton, jnp.zeros((), weight.dtype))


def _climb(newton, level):
  """Repeats Newton's step up to the root, from below.

  Ends: each round fills one more entry at least, or finds the same level. By
  rounding, the last may find a lower one, even far lower.
  """
  before, level = jax.lax.while_loop(
    lambda state: state[1] > state[0],
    lambda state: (state[1], newton(state[1])),
    (level, newton(level)),
  )
  return jnp.maximum(before, level)


def project_ball(
  v: jax.Array,
  radius: jax.Array | float,
  low: jax.Array | float = -np.inf,
  high: jax.Array | float = np.inf,
  *,
  norm: float,
) -> jax.Array:
  """Returns the point nearest to `v`, in l2, in an l^p ball within a box.

  Exact but for rounding: the KKT conditions leave one multiplier. linf clips;
  l2 scales and clips, by a factor from Newton's method on a piecewise linear
  function; l1 lowers all sizes by one amount and clips, the amount bisected
  until its linear piece is known and solved for there; other norms bisect the
  multiplier's logarithm; p = 0 keeps the entries that are missed most. Clipping
  the projection on the ball alone is another point: where the box is active it
  stays short of the ball's surface.

  Args:
    v: any shape.
    radius: scalar >= 0.
    low: scalar or as `v`, at most 0; -inf for none.
    high: likewise, at least 0; inf for none.
    norm: any p >= 1, of the ball; or 0, where `radius` is a number of entries.

  Returns:
    As `v`. The norm is at most `radius`, to a relative error of a few units of
    rounding (of `v.size` of them times max|v| for l1).
  """
  return _shrink(_shrink_to_ball, v, radius, low, high, norm)


def prox(
  v: jax.Array,
  weight: jax.Array,
  low: jax.Array | float = -np.inf,
  high: jax.Array | float = np.inf,
  *,
  norm: float,
) -> jax.Array:
  """Returns the minimiser in a box of `|u - v|_2^2 / 2 + weight |u|_p`.

  l1 is the soft threshold, clipped; l2 scales and clips by a bisected factor;
  linf caps sizes at a bisected level; others bisect the logarithm of a
  multiplier; p = 0 is the hard threshold. The box takes part in the search for
  the factor and the level, so that clipping afterwards is not the same.

  Args:
    v, low, high, norm: as for `project_ball`.
    weight: scalar >= 0.

  Returns:
    As `v`, to an absolute error of a few units of rounding of max|v|.
  """
  return _shrink(_shrink_by_prox, v, weight, low, high, norm)


def _shrink(rule, v, amount, low, high, p):
  """Applies a rule for sizes; neither the ball nor the norm knows signs."""
  check(p, counts=True)
  room = jnp.where(v > 0, high, -jnp.asarray(low)).astype(v.dtype)
  amount = jnp.asarray(amount, v.dtype)
  size = _choose(rule, p, jnp.abs(v).ravel(), room.ravel(), amount)
  return jnp.sign(v) * size.reshape(v.shape)


def _shrink_to_ball(size, room, radius, p):
  if _is(p, 0):
    kept = jnp.minimum(size, room)
    missed = size**2 - (size - kept) ** 2
    rank = jnp.argsort(jnp.argsort(-missed))
    return jnp.where(rank < jnp.floor(radius), kept, 0.0)
  if isinstance(p, jax.Array) or p not in PLAIN:
    return _ball_power(size, room, radius, p)
  return {1: _ball_l1, 2: _ball_l2, np.inf: _ball_linf}[p](size, room, radius)


def _shrink_by_prox(size, room, weight, p):
  if _is(p, 0):
    kept = jnp.minimum(size, room)
    return jnp.where(size**2 - (size - kept) ** 2 > 2 * weight, kept, 0.0)
  if isinstance(p, jax.Array) or p not in PLAIN:
    return _prox_power(size, room, weight, p)
  return {1: _prox_l1, 2: _prox_l2, np.inf: _prox_linf}[p](size, room, weight)


def _ball_linf(size, room, radius):
  return jnp.minimum(size, jnp.minimum(room, radius))


def _ball_l2(size, room, radius):
  # Lengths in units of the radius, sizes in units of the largest: squares stay
  # clear of underflow.
  largest = jnp.max(size, initial=0.0)
  unit = size / _divisor(largest)
  depth = room / _divisor(radius) / _divisor(unit)
  level = radius * jnp.sqrt(_water_level(unit**2, depth**2, 1.0))
  scaled = jnp.where(level < largest, level * unit, size)
  return jnp.where(radius > 0, jnp.minimum(scaled, room), 0.0)


def _ball_l1(size, room, radius):
  rest = lambda cut: jnp.sum(_prox_l1(size, room, cut)) - radius
  low, high = _bisect(rest, jnp.zeros((), size.dtype), jnp.max(size, initial=0))
  middle = (low + high) / 2
  full = size - middle >= room
  free = (size > middle) & ~full
  held = jnp.sum(jnp.where(free, size, 0.0)) + jnp.sum(
    jnp.where(full, room, 0.0)
  )
  count = jnp.sum(free)
  cut = (held - radius) / jnp.maximum(count, 1)
  cut = jnp.where(count > 0, jnp.clip(cut, low, high), high)
  return _prox_l1(size, room, jnp.where(rest(0.0) > 0, cut, 0.0))


def _prox_l1(size, room, weight):
  return jnp.minimum(jnp.maximum(size - weight, 0.0), room)


def _prox_l2(size, room, weight):
  """u = min(c size, room), where c = |u| / (|u| + weight)."""
  scaled = lambda c: jnp.minimum(c * size, room)
  rest = lambda c: norm(scaled(c), 2) * (1 - c) - c * weight
  low, _ = _bisect(rest, jnp.zeros((), size.dtype), jnp.ones((), size.dtype))
  return scaled(jnp.where(weight > 0, low, 1.0))


def _prox_linf(size, room, weight):
  """u = min(size, room, level): what `level` cuts off adds up to `weight`."""
  reach = jnp.minimum(size, room)

  def rest(level):
    return jnp.sum(jnp.where(reach > level, size - level, 0.0)) - weight

  low, high = _bisect(
    rest, jnp.zeros((), size.dtype), jnp.max(reach, initial=0)
  )
  # Where `reach` jumps over the root, the level is that of the jump.
  cut = reach > (low + high) / 2
  count = jnp.sum(cut)
  level = (jnp.sum(jnp.where(cut, size, 0.0)) - weight) / jnp.maximum(count, 1)
  level = jnp.where(count > 0, jnp.clip(level, low, high), high)
  level = jnp.where(rest(jnp.zeros((), size.dtype)) > 0, level, 0.0)
  return jnp.minimum(reach, level)


def _ball_power(size, room, radius, p):
  # In units of the largest size, as all that follows.
  largest, given = _divisor(jnp.max(size, initial=0.0)), room
  size, room, radius = size / largest, room / largest, radius / largest
  steepest = jnp.log(_divisor(norm(size, dual(p))))
  steepest = steepest - (p - 1) * jnp.log(_divisor(radius))
  shrunk = lambda weight: jnp.minimum(_shrunk(size, weight, p), room)
  _, high = _bisect(
    lambda weight: norm(shrunk(weight), p) - radius,
    steepest - 40,  # Less than rounding.
    steepest,
  )
  within = jnp.minimum(size, room)
  outside = norm(within, p) > radius
  result = jnp.where(outside, shrunk(high), within)
  # What is at its bound stays there, to the bit.
  result = jnp.where(result < room, largest * result, given)
  return jnp.where(radius > 0, result, 0.0)


def _prox_power(size, room, weight, p):
  """u + m u^(p-1) = size within the box, where m |u|_p^(p-1) = weight."""
  largest, given = _divisor(jnp.max(size, initial=0.0)), room
  size, room, weight = size / largest, room / largest, weight / largest
  shrunk = lambda m: jnp.minimum(_shrunk(size, m, p), room)
  start = jnp.log(_divisor(weight))
  left = lambda m: start - m - (p - 1) * jnp.log(_divisor(norm(shrunk(m), p)))
  low, _ = _bisect(
    left,
    start - (p - 1) * jnp.log(_divisor(norm(size, p))),
    start + (p - 1) * 20,
  )
  open_size = jnp.where(room > 0, size, 0.0)
  some = (weight < norm(open_size, dual(p))) & (weight > 0)
  result = jnp.where(weight > 0, 0.0, jnp.minimum(size, room))
  result = jnp.where(some, shrunk(low), result)
  return jnp.where(result < room, largest * result, given)


def _shrunk(size, log_weight, p):
  """Solves u + weight u^(p-1) = size for each entry, 0 <= u <= size <= 1.

  By Newton's method for log(u / size), which descends to the root of a convex
  function from a start above it.
  """
  growing = size > 0
  log_factor = log_weight + (p - 2) * _log_where(growing, size)
  start = jnp.minimum(-log_factor / (p - 1), 0.0)

  def step(y):
    one, other = jnp.exp(y), jnp.exp(log_factor + (p - 1) * y)
    return y - (one + other - 1) / (one + (p - 1) * other)

  # Of entries that have become too small to matter none is waited for.
  tolerance = 4 * jnp.finfo(size.dtype).eps
  moves = lambda y, new: jnp.exp(y) * (y - new) > tolerance
  _, y, _ = jax.lax.while_loop(
    lambda s: jnp.any(moves(s[0], s[1])) & (s[2] < 60),
    lambda s: (s[1], step(s[1]), s[2] + 1),
    (start, step(start), 0),
  )
  return jnp.where(growing, size * jnp.exp(y), 0.0)


def _bisect(decreasing, low, high):
  """Narrows a bracket of a decreasing function's root to rounding."""

  def halve(_, bracket):
    low, high = bracket
    middle = (low + high) / 2
    right = decreasing(middle) > 0
    return jnp.where(right, middle, low), jnp.where(right, high, middle)

  rounds = jnp.finfo(low.dtype).nmant + 17
  return jax.lax.fori_loop(0, rounds, halve, (low, high))
