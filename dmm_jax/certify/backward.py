"""Linear bounds (CROWN) of networks of linear operators.

The bounds are those of `relaxation`; rows go back through the transpose of each
level. An activation may be the largest of several values z_i and 0: with any
c, it is at most c + sum_i relu(z_i - c), each ReLU below its chord; it is at
least any mean of the values.

Sources: Zhang et al. (2018), https://arxiv.org/abs/1811.00866; Xu et al.
(2021), https://arxiv.org/abs/2011.13824, for slopes that are improved.
"""

from typing import Any
from typing import NamedTuple

import jax
import jax.numpy as jnp

from dmm_jax import norms
from dmm_jax.certify import activations
from dmm_jax.certify import operators
from dmm_jax.certify import radii
from dmm_jax.certify import regions

CHUNK = 64  # Rows that go back together.
ROUNDS = 14  # Radii whose intervals are computed, at most.
RTOL = 0.01  # Of the last two of them.
FIRST = 0.3  # First radius, over the linear estimate of the distance.


class Lines(NamedTuple):
  """Bounds: lower . z + below <= activation(z) <= upper . z + above.

  Of one level; the first axis is 1, or that of the rows that they are for.

  Attributes:
    lower, upper: slopes `[.., m]`.
    below, above: the rest, with the bias of the values, `[.., n]`.
  """

  lower: jax.Array
  upper: jax.Array
  below: jax.Array
  above: jax.Array


class Free(NamedTuple):
  """What may be chosen in a level's lines, each of it from 0 to 1.

  Attributes:
    slopes: of the lower lines `[m]`.
    cuts: where c is `[n]`.
  """

  slopes: jax.Array
  cuts: jax.Array


def relax(
  level: operators.Level, low: jax.Array, high: jax.Array, free: Free | None
) -> Lines:
  """Return lines of a level's activations, for values from low to high `[m]`.

  Without `free` lower lines are those of the value, or 0, that is the largest
  in the middle.
  """
  blocks = level.blocks
  pieces = [operators.split(blocks, v) for v in (low, high)]
  if free is None:
    given: Any = [(None, None)] * len(blocks)
  else:
    ends = [sum(b.size for b in blocks[:i]) for i in range(1, len(blocks))]
    slopes = [v for _, v in operators.split(blocks, free.slopes)]
    given = zip(slopes, jnp.split(free.cuts, ends), strict=True)
  found = []
  for (block, least), (_, most), chosen in zip(*pieces, given, strict=True):
    if block.kind in activations.SMOOTH:
      smooth = activations.SMOOTH[block.kind]
      lower, below, upper, above = activations.lines_of(
        smooth, least[0], most[0]
      )
      lines = lower[None], upper[None], below, above
    else:
      zero = block.kind in ('relu', 'relu_max')
      lines = _largest(least, most, zero, *chosen)
    found.append(lines)
  lower, upper, below, above = zip(*found, strict=True)
  biases = [b for _, b in operators.split(blocks, level.bias)]
  add = lambda rests, slopes: [
    rest + jnp.sum(slope * b, 0)
    for rest, slope, b in zip(rests, slopes, biases, strict=True)
  ]
  flat = lambda parts: jnp.concatenate([v.ravel() for v in parts])
  pairs = add(below, lower), add(above, upper)
  return Lines(*map(flat, (lower, upper, *pairs)))


def _largest(low, high, zero, slopes=None, cuts=None):
  """Lines of the largest of values `[group, n]`, and of 0 where `zero`."""
  least, most = low, high
  if zero:
    least, most = (jnp.pad(v, ((0, 1), (0, 0))) for v in (low, high))
  floor = jnp.max(least, 0)
  order = jnp.arange(len(most))[:, None]
  others = jnp.where(order == jnp.argmax(most, 0)[None], -jnp.inf, most)
  second = jnp.max(others, 0, initial=-jnp.inf)
  is_open = second > floor  # Which one is the largest.
  share = 1.0 if cuts is None else jnp.clip(cuts, 0.0, 1.0)
  gap = jnp.where(is_open, second - floor, 0.0)
  cut = floor + share * gap
  start = jnp.minimum(low, cut[None])
  above_cut = high > cut[None]
  width = jnp.where(above_cut, high - start, 1.0)
  upper = jnp.where(above_cut, (high - cut[None]) / width, 0.0)
  above = cut - jnp.sum(upper * start, 0)
  middle = order == jnp.argmax(least + most, 0)[None]
  lower = middle[: len(low)].astype(low.dtype)
  if slopes is not None:
    slopes = jnp.clip(slopes, 0.0, 1.0)
    total = jnp.sum(slopes, 0)
    usable = is_open & (zero | (total > 1e-3))
    whole = jnp.maximum(total, 1.0) if zero else total
    mean = slopes / jnp.where(usable, whole, 1.0)[None]
    lower = jnp.where(usable[None], mean, lower)
  return lower, upper, jnp.zeros_like(floor), above


def _expand(blocks, rows):
  """Rows `[r, n]` of activations, each repeated for its values, `[r, m]`."""
  parts, start = [], 0
  for block in blocks:
    part = rows[:, start : start + block.size]
    parts += [part] * block.group
    start += block.size
  return jnp.concatenate(parts, 1)


def pull_back(
  rows: jax.Array,
  network: operators.Network,
  lines: list,
  owned: bool,
) -> tuple[jax.Array, jax.Array]:
  """Return rows `[r, n]` of the input that are below rows of the last results.

  Args:
    rows: `[r, n']` of what the last of `network`'s activations return.
    network: levels.
    lines: of each of them.
    owned: whether values share rows.

  Returns:
    The rows, and what is to be added to their values: `[r, 1]`, or
    `[r, inputs]` where the sum over the inputs of a value is.
  """
  width = network[0].num_inputs if owned and network else 1
  rest = jnp.zeros((len(rows), width), rows.dtype)
  for level, line in reversed(list(zip(network, lines, strict=True))):
    positive, negative = jnp.maximum(rows, 0.0), jnp.minimum(rows, 0.0)
    terms = positive * line.below + negative * line.above
    if owned:
      rest = rest.T.at[level.owner].add(terms.T).T
    else:
      rest = rest + jnp.sum(terms, 1, keepdims=True)
    positive, negative = (
      _expand(level.blocks, v) for v in (positive, negative)
    )
    rows = level.transposed(positive * line.lower + negative * line.upper)
  return rows, rest


def _for_all_rows(lines):
  return jax.tree.map(lambda v: v[None], lines)


def intervals(
  network: operators.Network, region: regions.Region, norm: jax.Array
) -> list:
  """Bound the values before every activation over a region, each by CROWN.

  Returns:
    `[(low [m], high [m]), ...]`, one a level but the last.
  """
  found: list[tuple] = []
  lines: list[Lines] = []
  for i, level in enumerate(network[:-1]):
    low, high = _intervals(network[: i + 1], lines, region, norm)
    # Rounding must not leave an interval empty.
    high = jnp.maximum(low, high)
    found.append((low, high))
    lines.append(_for_all_rows(relax(level, low, high, None)))
  return found


def _intervals(network, lines, region, norm):
  """Bounds of the values of the last level."""
  *before, level = network
  owned = level.inputs is not None

  def both_sides(numbers):
    first = (level.row[None] == numbers[:, None]).astype(level.bias.dtype)
    rows = level.transposed(first)
    signed = jnp.concatenate([rows, -rows])
    rows, rest = pull_back(signed, tuple(before), lines, owned)
    return rows, rest

  chunk = min(CHUNK, level.num_rows)
  numbers = jnp.arange(-(-level.num_rows // chunk) * chunk)
  found = jax.lax.map(both_sides, numbers.reshape(-1, chunk))
  rows, rest = (
    v.reshape(-1, 2, chunk, v.shape[-1])
    .swapaxes(0, 1)
    .reshape(2, -1, v.shape[-1])
    for v in found
  )
  least = jnp.stack(
    [
      _minimize(level, *pair, region, norm)
      for pair in zip(rows, rest, strict=True)
    ]
  )
  return level.bias + least[0], level.bias - least[1]


def _minimize(level, rows, rest, region, norm):
  """The least values over a region, `[m]`, without the bias."""
  if level.inputs is None:
    rows, rest = rows[: level.num_rows], rest[: level.num_rows]
    return regions.minimize(rows, rest[:, 0], region, norm)
  pad = lambda v: jnp.pad(v, [(0, 0)] * (v.ndim - 1) + [(0, 1)])
  own = lambda v: pad(v)[level.row[:, None], level.inputs]
  ends = [
    pad(jnp.broadcast_to(v, region.x.shape))[level.inputs] for v in region[:3]
  ]

  def one(row, offset, x, down, up):
    part = regions.Region(x, down, up, region.radius)
    return regions.minimize(row[None], offset[None], part, norm)[0]

  return jax.vmap(one)(own(rows), jnp.sum(own(rest), 1), *ends)


def margins(
  network: operators.Network,
  label: jax.Array,
  boxes: list,
  free: list,
  region: regions.Region,
  norm: jax.Array,
) -> jax.Array:
  """Return lower bounds of the label's logit minus each class's, `[k]`.

  Args:
    network: levels.
    label: the class.
    boxes: intervals of the values of each level, that hold in the region.
    free: a `Free` for each level, of each class `[k, ...]`, or None.
    region: a ball within a box.
    norm: any p >= 1, traced.
  """
  last = network[-1]
  eye = jnp.eye(last.bias.size)
  first = eye[label][None] - eye
  lines = []
  for level, box, chosen in zip(network[:-1], boxes, free, strict=True):
    if chosen is None:
      lines.append(_for_all_rows(relax(level, box[0], box[1], None)))
    else:
      of_class = lambda v, level=level, box=box: relax(level, box[0], box[1], v)
      lines.append(jax.vmap(of_class)(chosen))
  rows = last.transposed(first)
  rows, rest = pull_back(rows, network[:-1], lines, False)
  offset = rest[:, 0] + first @ last.bias
  return regions.minimize(rows, offset, region, norm)


def _first_choice(network, boxes):
  """Free variables of each class that change nothing."""
  free = []
  num = network[-1].bias.size
  for level, box in zip(network[:-1], boxes, strict=True):
    lines = relax(level, box[0], box[1], None)
    slopes = jnp.clip(lines.lower, 0.0, 1.0)
    each = lambda v: jnp.broadcast_to(v, (num, *v.shape))
    free.append(Free(each(slopes), each(jnp.ones_like(lines.below))))
  return free


def _linear_estimate(network, label, classes, region, norm):
  """The margin of an input, and the radius where its linearisation is 0."""
  x = region(0.0).x
  logits, pull = jax.vjp(lambda v: operators.logits(network, v), x)
  eye = jnp.eye(logits.size)
  rows = jax.vmap(lambda row: pull(row)[0])(eye[label][None] - eye)
  offsets = logits[label] - logits - rows @ x

  def margin(radius):
    least = regions.minimize(rows, offsets, region(radius), norm)
    return jnp.min(jnp.where(classes, least, jnp.inf))

  now = jnp.min(jnp.where(classes, logits[label] - logits, jnp.inf))
  start = 0.1 * (1 + jnp.max(jnp.abs(x)))
  return now, radii.largest(margin, now, start, jnp.full_like(start, 1e60))


class _Search(NamedTuple):
  """A radius is certified; one that failed, or inf; the next to try."""

  best: jax.Array
  failed: jax.Array
  radius: jax.Array
  rounds: jax.Array


def distance(
  x: jax.Array,
  label: jax.Array,
  classes: jax.Array,
  low: jax.Array,
  high: jax.Array,
  network: operators.Network,
  norm: Any,
  *,
  num_steps: int,
) -> jax.Array:
  """Return the certified distance of one input from `classes` (mask `[k]`).

  Intervals are computed for a radius, and hold for each smaller one: there the
  slopes of the margins are improved, and the largest radius is found that they
  certify. The next radius is between that and the smallest that was not
  certified whole.
  """
  down, up = x - low, high - x
  cap = norms.norm(jnp.maximum(down, up), norm)  # The ball then holds the box.
  boxed = jnp.isfinite(cap)
  cap = jnp.where(boxed, cap, 1e60)
  region = lambda radius: regions.Region(x, down, up, radius)
  margin, estimate = _linear_estimate(network, label, classes, region, norm)

  def step(s):
    boxes = intervals(network, region(s.radius), norm)

    def bounds(radius, free):
      given = network, label, boxes, free, region(radius), norm
      return jnp.where(classes, margins(*given), jnp.inf)

    def search(free, start):
      margin_fn = lambda radius: jnp.min(bounds(radius, free))
      return radii.largest(margin_fn, margin, start, s.radius)

    found = search([None] * len(boxes), s.radius)
    if num_steps:
      start = jnp.where(found > 0, found, 0.1 * s.radius)
      free = _first_choice(network, boxes)
      given = bounds, start, s.radius, free, num_steps
      found = jnp.maximum(found, search(*radii.ascend(*given)))
    best = jnp.maximum(s.best, found)
    smaller = jnp.minimum(s.failed, s.radius)
    failed = jnp.where(found >= s.radius, s.failed, smaller)
    middle = jnp.where(best > 0, (best + failed) / 2, failed / 4)
    radius = jnp.where(jnp.isfinite(failed), middle, 2 * s.radius)
    return _Search(best, failed, jnp.minimum(radius, cap), s.rounds + 1)

  def should_continue(s):
    narrow = jnp.isfinite(s.failed) & (s.best >= (1 - RTOL) * s.failed)
    return (margin > 0) & (s.best < cap) & ~narrow & (s.rounds < ROUNDS)

  first = jnp.clip(FIRST * estimate, 1e-12, cap)
  zero = jnp.zeros_like(first)
  state = _Search(zero, zero + jnp.inf, first, jnp.int32(0))
  best = jax.lax.while_loop(should_continue, step, state).best
  return jnp.where(boxed & (best >= cap), jnp.inf, best)
