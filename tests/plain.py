"""Boundary searches in plain numpy, one example at a time, in float64."""

import dataclasses
import math

import numpy as np

RELIABLE = 1e-6  # Relative to the first margin: what counts as beyond.


def logits(params, x):
  """Logits that are quadratic, of numpy or of JAX arrays alike."""
  weights, curvature, bias = params
  return weights @ x + curvature @ (x * x) + bias


def draw(seed, num_classes=4, size=3, curvature=0.3):
  """Parameters of `logits`."""
  rng = np.random.default_rng(seed)
  shape = num_classes, size
  return (
    rng.normal(size=shape),
    curvature * rng.normal(size=shape),
    rng.normal(size=num_classes),
  )


@dataclasses.dataclass
class Problem:
  """As `problem.Problem`, with a matrix onto the subspace or None."""

  params: tuple
  x: np.ndarray
  label: int
  p: float = 2
  low: np.ndarray | float = -np.inf
  high: np.ndarray | float = np.inf
  project: np.ndarray | None = None

  def __post_init__(self):
    self.low = np.broadcast_to(self.low, self.x.shape)
    self.high = np.broadcast_to(self.high, self.x.shape)
    others = np.argsort(-self.logits(self.x), kind='stable')
    self.targets = [int(c) for c in others if c != self.label]

  @property
  def box(self):
    return self.low - self.x, self.high - self.x

  @property
  def rank(self):
    return np.trace(self.project)

  def logits(self, v):
    return logits(self.params, v)

  def slopes(self, v):
    return self.params[0] + 2 * self.params[1] * v

  def margin(self, v, targets=None):
    """The label's lead, and the class that comes next."""
    z = self.logits(v)
    others = [c for c in range(len(z)) if c != self.label]
    second = max(others if targets is None else targets, key=lambda c: z[c])
    return z[self.label] - z[second], second

  def onto(self, v):
    return v if self.project is None else self.project @ v

  def linearize(self, v, target):
    z, slopes = self.logits(v), self.slopes(v)
    slope = slopes[self.label] - slopes[target]
    return z[self.label] - z[target], self.onto(slope)

  def onto_plane(self, origin, gradient, gap, p):
    box = self.low - origin, self.high - origin
    step = smallest_step(-gradient, gap, *box, p)
    if self.project is None:
      return step
    return project_feasible(self.project, step, -gradient, *box, self.rank)[0]


def norm(v, p):
  return np.linalg.norm(np.ravel(v), p)


def dual(p):
  return {1: np.inf, np.inf: 1}.get(p) or p / (p - 1)


def bisect(falls, low, high):
  """Where a decreasing function of one number is 0."""
  for _ in range(200):
    middle = (low + high) / 2
    if middle in (low, high):
      break
    low, high = (middle, high) if falls(middle) > 0 else (low, middle)
  return high


def smallest_step(g, gap, low, high, p):
  """The least v in a box with g . v = gap, or the corner nearest to that."""
  size, room = np.abs(g), np.where(g > 0, high, -np.asarray(low))
  room = np.where(size > 0, room, 0.0)
  if not size.any():
    return 0 * g
  if p in (0, 1):
    v, left = np.zeros_like(g), gap
    # The steepest first; or what comes farthest.
    with np.errstate(invalid='ignore'):
      order = size if p else np.minimum(np.nan_to_num(size * room), gap)
    for i in np.argsort(-order, kind='stable'):
      if size[i] > 0:
        v[i] = min(room[i], left / size[i])
        left -= size[i] * v[i]
    return np.sign(g) * v
  shape = np.where(size > 0, size ** (1 / (p - 1)), 0.0)
  fill = lambda level: np.minimum(level * shape, room)
  far = 10 * (gap + 1) / np.min(size[size > 0] * shape[size > 0])
  far = max(far, 10 * np.max(room[np.isfinite(room)], initial=0) / shape.max())
  if fill(1e9 * far) @ size <= gap:
    return np.sign(g) * fill(1e9 * far)
  return np.sign(g) * fill(bisect(lambda t: gap - fill(t) @ size, 0, 1e9 * far))


def project_ball(v, radius, low, high, p):
  """The nearest point to v in a ball within a box."""
  size, room = np.abs(v), np.where(v > 0, high, -np.asarray(low))
  boxed = np.minimum(size, room)
  if p == 0:
    saved = size**2 - (size - boxed) ** 2
    kept = np.argsort(-saved, kind='stable')[: int(radius)]
    return np.sign(v) * np.where(np.isin(np.arange(len(v)), kept), boxed, 0)
  if p == np.inf:
    return np.sign(v) * np.minimum(boxed, radius)
  if norm(boxed, p) <= radius:
    return np.sign(v) * boxed
  if p == 2:
    shrink = lambda c: np.minimum((1 - c) * size, room)
  elif p == 1:
    shrink = lambda c: np.minimum(np.maximum(size - c * size.max(), 0), room)
  else:
    shrink = lambda c: np.minimum(powers(size, c / (1 - c), p), room)
  return np.sign(v) * shrink(
    bisect(lambda c: norm(shrink(c), p) - radius, 0, 1)
  )


def powers(size, weight, p):
  """Solves u + weight u^(p-1) = size for each entry."""
  low, high = np.zeros_like(size), size.copy()
  for _ in range(55):
    u = (low + high) / 2
    above = u + weight * u ** (p - 1) > size
    low, high = np.where(above, low, u), np.where(above, u, high)
  return high


def prox(v, weight, low, high, p):
  """Minimises |u - v|^2 / 2 + weight |u|_p in a box."""
  size, room = np.abs(v), np.where(v > 0, high, -np.asarray(low))
  if p == 1:
    u = np.minimum(np.maximum(size - weight, 0), room)
  elif p == 2:
    # Along u = min(c size, room) the cost is convex.
    at = lambda c: np.minimum(c * size, room)
    stay = lambda c: norm(at(c), 2) * (1 - c) - c * weight
    u = at(1.0 - bisect(lambda t: -stay(1 - t), 0.0, 1.0))
  elif p != np.inf:
    # The larger the factor of u^(p-1), the larger the weight that it is for.
    at = lambda c: np.minimum(powers(size, c / (1 - c), p), room)
    of = lambda c: c / (1 - c) * norm(at(c), p) ** (p - 1)
    least = norm(np.where(room > 0, size, 0), dual(p))
    u = 0 * size
    if weight < least:
      u = at(bisect(lambda c: weight - of(c), 0.0, 1 - 1e-15))
  else:
    # What a level cuts off adds up to the weight.
    most = np.minimum(size, room)
    cut = lambda t: np.sum((size - t)[most > t]) - weight
    u = np.minimum(most, bisect(cut, 0.0, most.max()))
  return np.sign(v) * u


# --- Subspaces -------------------------------------------------------------


def reach(step, low, high):
  tolerance = 16 * np.finfo(step.dtype).eps * np.abs(step).max()
  slack = np.where(step > 0, high, -np.asarray(low)) + tolerance
  moved = step != 0
  return np.min(
    (slack / np.where(moved, np.abs(step), 1))[moved], initial=np.inf
  )


def fit(step, low, high):
  return np.clip(step * min(reach(step, low, high), 1.0), low, high)


def project_feasible(matrix, step, g, low, high, rank=np.inf):
  """As `subspace.project_feasible`, by its path where the rank is at most 24.

  Else 3 goals, 8 guesses each, 6 solves each.
  """
  decrease, step = g @ step, matrix @ step
  step = step * (decrease / (g @ step)) if g @ step > 0 else 0 * step
  step = fit(step, low, high)
  downhill = matrix @ g
  if decrease <= 0 or not downhill.any():
    return step, (1.0 if decrease <= 0 else 0.0)
  unit = downhill / norm(downhill, 2)
  length = decrease / norm(downhill, 2)
  fraction, best = unit @ step / length, None
  low_unit, high_unit = low / length, high / length
  if rank <= 24:
    if fraction < 0.999:
      v = follow_path(matrix, unit, low_unit, high_unit)
      if unit @ v > fraction:
        step, fraction = np.clip(length * v, low, high), unit @ v
    return step, min(max(fraction, 0.0), 1.0)
  across = lambda w: matrix @ w - unit * (unit @ w)
  goal = 1.0
  for number in range(24):
    if fraction >= 0.999 * goal:
      break
    if number % 8 == 0:
      goal = goal / 2 if number else goal
      v, multipliers = goal * unit, 0 * unit
    free = v - multipliers
    active = (free < low_unit) | (free > high_unit)
    multipliers = np.where(active, multipliers, 0)
    v = goal * unit + across(multipliers)
    # Conjugate gradients for v = bound where active.
    residual = np.where(active, np.clip(free, low_unit, high_unit) - v, 0)
    direction = residual
    for _ in range(6):
      image = across(direction)
      if not direction @ image > 1e-6 * (direction @ direction):
        direction = residual  # The subspace does not contain it.
        continue
      square = residual @ residual
      t = square / (direction @ image)
      v, multipliers = v + t * image, multipliers + t * direction
      residual = residual - t * np.where(active, image, 0)
      direction = residual + residual @ residual / square * direction
    new = fit(matrix @ v, low_unit, high_unit)
    if unit @ new > fraction:
      fraction, best = unit @ new, new
  if best is not None:
    step = np.clip(length * best, low, high)
  return step, min(max(fraction, 0.0), 1.0)


def follow_path(matrix, unit, low, high):
  """The shortest v in subspace and box, as `unit @ v` grows to 1 or its most.

  Active bounds in a dict `{entry: [side, multiplier]}`, solved anew each turn.
  """
  v, active = np.zeros_like(unit), {}
  for _ in range(48):
    at = list(active)
    pull = np.linalg.solve(matrix[np.ix_(at, at)], unit[at])
    rate = unit - matrix[:, at] @ pull
    rate[at] = 0
    if unit @ rate <= 1e-4:
      break
    goal = (1 - unit @ v) / (unit @ rate)
    turns = [(goal, 'end', None)]
    for entry, by in zip(at, pull, strict=True):
      side, multiplier = active[entry]
      if side * by < 0:
        turns.append((abs(multiplier / by), 'drop', entry))
    for entry in np.flatnonzero(np.abs(rate) > 1e-9 * np.abs(rate).max()):
      end = high[entry] if rate[entry] > 0 else low[entry]
      turns.append((max((end - v[entry]) / rate[entry], 0), 'meet', entry))
    # Of ties the end first, then those that leave.
    t, what, entry = min(turns, key=lambda turn: turn[0])
    v = v + t * rate
    for one, by in zip(at, pull, strict=True):
      active[one][1] += t * by
    if what == 'end':
      break
    if what == 'drop':
      del active[entry]
    else:
      active[entry] = [np.sign(rate[entry]), 0.0]
  return fit(v, low, high)


# --- Rays ------------------------------------------------------------------


def find_crossing(problem, step, num=4):
  """Returns `(point, found, margin, runner_up)`."""
  first = problem.margin(problem.x)[0]
  free = problem.project is None
  most = np.inf if free else reach(step, *problem.box)
  at = lambda t: np.clip(
    problem.x + min(t, most) * step, problem.low, problem.high
  )
  # A little beyond the boundary, where the class will differ again.
  value_at = lambda t: problem.margin(at(t))[0] + 10 * RELIABLE * first
  near, far, found, side = (
    (0.0, first + 10 * RELIABLE * first),
    None,
    False,
    None,
  )
  best, t = None, 1.0
  for k in range(num):
    value = value_at(t)
    margin = problem.margin(at(t))[0]
    beyond = margin < -RELIABLE * first
    before = near
    stays = found and beyond == side
    if beyond:
      far = t, value
      near = (near[0], near[1] / 2) if stays else near
    else:
      near = t, value
      far = (far[0], far[1] / 2) if stays else far
    if beyond or (not found and (best is None or not margin >= best[1])):
      best = t, margin
    found, side = found or beyond, beyond
    if found:
      way = min(max(near[1] / (near[1] - far[1]), 0.01), 0.99)
      t = near[0] + (far[0] - near[0]) * way
    else:
      fall, most_growth = before[1] - value, (1 + k) / 2
      growth = most_growth
      if fall > 0:
        growth = 1.1 * value / fall * (t - before[0]) / t
        growth = min(max(growth, 0.02), most_growth)
      t *= 1 + growth
  point = at(best[0])
  return point, found, *problem.margin(point)


def refine_crossing(margin, fa, fb, rtol, before, most=40):
  """Chandrupatla's method on [0, 1], as published, but for a secant first.

  `rtol` of the way, of which `before` came before 0.

  Returns `(place beyond, its margin, evaluations)`.
  """
  a, b = 0.0, 1.0
  tolerance = rtol * (before + 1)
  t = min(max(fa / (fa - fb), tolerance / 2), 1 - tolerance / 2)
  beyond, used = (b, fb), 0
  while abs(b - a) > tolerance and used < most:
    x = a + t * (b - a)
    f = margin(x)
    used += 1
    if (f < 0) == (fa < 0):
      c, fc = a, fa
    else:
      c, fc, b, fb = b, fb, a, fa
    a, fa = x, f
    beyond = (x, f) if f < 0 else beyond
    xi, phi = (a - b) / (c - b), (fa - fb) / (fc - fb)
    t = 0.5
    if phi**2 < xi and (1 - phi) ** 2 < 1 - xi:
      t = fa / (fb - fa) * fc / (fb - fc)
      t += (c - a) / (b - a) * fa / (fc - fa) * fb / (fc - fb)
    tolerance = rtol * (before + max(a, b))
    least = tolerance / 2 / abs(b - a) if b != a else 0.5
    t = min(max(t, least), 1 - least)
  return *beyond, used


# --- Projection ------------------------------------------------------------


@dataclasses.dataclass
class State:
  """As `projection.State`."""

  point: np.ndarray
  iterate: np.ndarray
  best: np.ndarray
  distance: float
  target: int
  damping: float = 1.0
  found: bool = False
  gradients: int = 0
  forwards: int = 0


def cosine(start, end, fraction):
  return end + (start - end) * (1 + math.cos(math.pi * fraction)) / 2


def follow(problem, s, step):
  point, found, _, runner_up = find_crossing(problem, 1.002 * step)
  length = norm(point - problem.x, problem.p) if found else np.inf
  if length < (1 + 1e-5) * s.distance:
    s.best = point
  s.distance = min(length, s.distance)
  if found or not s.found:
    s.point = s.iterate = point
    s.target = runner_up
  if found:
    s.damping = min(1.3 * s.damping, 1.0)
  elif s.found:
    s.damping /= 2
  s.found = s.found or found
  s.forwards += 4


def run_projection(
  problem, s, noise, rounds, total, smoothing, depth, first, l2
):
  """Runs rounds of projection; `noise(i)` is that of round i."""
  x, p = problem.x, problem.p
  early = 0
  if p != 2 and l2:
    early = max(total // 4, 2) if p < 1.5 else total // 12
  for i in range(rounds):
    q = 2 if i < min(early, 30) else p
    progress = i / max(total - 1, 1)
    fade = max(1 - progress / 0.9, 0)
    v = s.point
    if s.found and fade * (smoothing + depth) > 0:
      random, step = problem.onto(noise(i)), s.point - x
      v = s.point + fade * depth * step
      v = v + fade * smoothing * norm(step, 2) * random / norm(random, 2)
      v = np.clip(v, problem.low, problem.high)
    gap, g = problem.linearize(v, s.target)
    size = s.damping * cosine(first, 0.02, progress)
    if s.found:
      step = problem.onto_plane(x, g, gap + g @ (x - v), q)
      towards = (1 - size) * (s.iterate - x) + size * step
    else:
      gap = 1.02 * gap + 1e-3 * problem.margin(x)[0]
      towards = v - x + problem.onto_plane(v, g, gap, q)
    if problem.project is not None:
      towards = fit(problem.onto(towards), *problem.box)
    s.gradients += 1
    follow(problem, s, towards)
  return s


def polish(problem, s, rounds, size, tightness):
  """Rounds of the proximal bundle method, of `size` cuts."""
  x, p, n = problem.x, problem.p, problem.x.size
  cuts, offsets = np.zeros((size, n)), np.zeros(size)
  on, used, weights = np.zeros(size, bool), np.full(size, -1), np.zeros(size)
  s.point = s.best
  for i in range(rounds):
    gap, g = problem.linearize(s.point, s.target)
    row = np.argmin(np.where(on, used, -1))
    length, best = norm(g, 2), s.best - x
    cuts[row], offsets[row] = g / length, (gap - g @ (s.point - x)) / length
    on &= cuts @ best + offsets <= 1e-3 * norm(best, 2)
    on[row], used[row] = True, i
    weights = np.where(on & (np.arange(size) != row), weights, 0)
    step, weights = _nearest(
      cuts, offsets, on, weights, tightness, best, s.distance, p, *problem.box
    )
    used[weights > 0] = i
    step = problem.onto(step)
    point, found, _, runner_up = find_crossing(problem, 1.0005 * step)
    length = norm(point - x, p)
    gain = s.found and found and length < s.distance
    tightness *= 2 / 3 if gain else 1.5 if found else 1.2
    tightness = min(max(tightness, 0.1), 1e5)
    s.point, s.target = point, runner_up
    if gain:
      s.best, s.distance = point, length
    s.gradients, s.forwards = s.gradients + 1, s.forwards + 4
  s.point = s.iterate = s.best
  return s


def _nearest(
  cuts, offsets, on, weights, tightness, best, distance, p, low, high
):
  """Three sweeps of coordinate ascent on the multipliers of the cuts.

  The step is the least of its cost and the multipliers' within the box:
  |v|_1 + tie/2 |v - best|^2 in l1, |v|^2/2 + tie/2 |v - best|^2 in l2, and
  |v - best|^2/2 within a smaller cube in linf.
  """
  center, threshold, stiffness = best, 0.0, np.ones(len(best))
  if p == 1:
    tie = tightness * distance / (best @ best)
    stiffness = tie * stiffness
    center, threshold = tie * best, 1 / tie
  elif p == 2:
    center, stiffness = tightness * best, (1 + tightness) * stiffness
  elif p != np.inf:
    # |v|^p / p to the second order, in units of its largest entry.
    scale = np.max(np.abs(best))
    unit = np.abs(best) / scale
    least = 0.01 if p < 2 else 0.1
    stiffness = max(p - 1, 1) * np.maximum(unit, least) ** (p - 2)
    stiffness = stiffness * (1 + tightness)
    center = stiffness * best - scale * np.sign(best) * unit ** (p - 1)
  else:
    level = distance * (1 - 0.05 / tightness)
    low, high = np.maximum(low, -level), np.minimum(high, level)

  def primal(weights):
    v = (center - weights @ cuts) / stiffness
    v = np.sign(v) * np.maximum(np.abs(v) - threshold, 0)
    return np.clip(v, low, high)

  weights = weights.copy()
  for _ in range(3):
    for i in range(len(cuts)):
      v = primal(weights)
      # What can move: neither at a bound nor held at 0 by the norm.
      free = (v > low) & (v < high) & ((v != 0) | (threshold == 0))
      give = np.sum((cuts[i] ** 2 / stiffness)[free])
      give = max(give, 1e-3 / np.max(stiffness))
      violated = offsets[i] + cuts[i] @ v
      weights[i] = max(weights[i] + violated / give, 0) * on[i]
  return primal(weights), weights
