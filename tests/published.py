"""Published attacks in plain numpy, with the deviations that are documented.

Each is `(plain.Problem, budget, **options) -> Best`, the defaults as published
or documented.
"""

import math

import numpy as np
import plain
from plain import cosine
from plain import norm

from dmm_jax.boundary.point import Status


class Best:
  """The nearest point beyond the boundary so far, and what it took."""

  def __init__(self, problem, rows):
    self.problem, self.outer, self.distance = problem, problem.x, np.inf
    self.margin, self.target = problem.margin(problem.x)
    self.status, self.gradients, self.forwards = Status.NOT_FOUND, rows, 0

  def see(self, p, gradients=1, forwards=0):
    """Counts an evaluation; returns the margin there."""
    margin, runner_up = self.problem.margin(p)
    length = norm(p - self.problem.x, self.problem.p)
    if margin < 0 and length < self.distance:
      self.outer, self.distance, self.status = p, length, Status.FOUND
      self.margin, self.target = margin, runner_up
    self.gradients += gradients
    self.forwards += forwards
    return margin


def hard(problem, p):
  """The margin over the targets and its gradient."""
  gap, target = problem.margin(p, problem.targets)
  return gap, problem.linearize(p, target)[1]


def clip(problem, step):
  return np.clip(problem.x + step, problem.low, problem.high)


def linear_step(problem, gap, g):
  """The smallest step to the linear boundary, its length, the most allowed."""
  step = plain.smallest_step(-g, abs(gap), *problem.box, problem.p)
  length = norm(step, problem.p)
  if not length and problem.p:
    length = abs(gap) / norm(g, plain.dual(problem.p))
  most = 1e6 * (length + norm(problem.x, problem.p))
  low, high = problem.box
  if np.all(np.isfinite(low) & np.isfinite(high)):
    most = min(most, norm(np.maximum(high, -low), problem.p))
  return step, length, most


def nearest_plane(problem, p, gaps=None):
  """Gaps and gradients of all targets, and which linear boundary is nearest."""
  every = [problem.linearize(p, c) for c in problem.targets]
  q = plain.dual(problem.p)
  return every, int(np.argmin([abs(gap) / norm(g, q) for gap, g in every]))


def deepfool(problem, budget, *, overshoot=0.02):
  """Returns the last segment as well: its ends, and their margins."""
  p, rows = problem.x, len(problem.targets)
  best = Best(problem, rows)
  best.inner, best.margin_inner = p, best.margin
  least = 0.05 * min(problem.linearize(p, c)[0] for c in problem.targets)
  while best.status == Status.NOT_FOUND and best.gradients + rows <= budget:
    every, i = nearest_plane(problem, p)
    gap, g = every[i]
    gap += overshoot * max(gap, least)
    box = problem.low - p, problem.high - p
    best.inner, best.margin_inner = p, best.margin
    p = np.clip(
      p + plain.smallest_step(-g, gap, *box, problem.p),
      problem.low,
      problem.high,
    )
    best.see(p, rows)
    best.outer, (best.margin, best.target) = p, problem.margin(p)
  return best


def superdeepfool(problem, budget, *, overshoot=0.02, rtol=1e-3):
  x, p, rows = problem.x, problem.x, len(problem.targets)
  best, done = Best(problem, rows), False
  gaps = [problem.linearize(x, c)[0] for c in problem.targets]
  least_gap = 0.05 * np.abs(gaps).min()
  margin = best.margin
  while not done and best.gradients + rows <= budget:
    every, i = nearest_plane(problem, p)
    before, crossed = best.distance, margin < 0
    if crossed:
      g = min(every, key=lambda v: v[0])[1]
      gain = max(g @ (x - p), 0.0)
      step = plain.smallest_step(-g, gain, *problem.box, problem.p)
    else:
      gap, g = every[i]
      gap += overshoot * max(gap, least_gap)
      box = problem.low - p, problem.high - p
      step = p - x + plain.smallest_step(-g, gap, *box, problem.p)
    p = clip(problem, step)
    margin = best.see(p, rows)
    stalls = norm(p - x, problem.p) > (1 - rtol) * before
    done = margin < 0 and (crossed or stalls)
  return best


def fab(problem, budget, *, overshoot=0.05, max_bias=0.1, shrink=0.9):
  x, p, rows = problem.x, problem.x, len(problem.targets)
  best = Best(problem, rows)

  def onto(gap, g, origin):
    box = problem.low - origin, problem.high - origin
    downhill = -g if gap >= 0 else g
    return plain.smallest_step(downhill, abs(gap), *box, problem.p)

  while best.gradients + rows <= budget:
    every, i = nearest_plane(problem, p)
    gap, g = every[i]
    here, there = onto(gap, g, p), onto(gap + g @ (x - p), g, x)
    near, far = norm(here, problem.p), norm(there, problem.p)
    bias = min(near / (near + far), max_bias)
    here = p - x + (1 + overshoot) * here
    p = clip(problem, (1 - bias) * here + bias * (1 + overshoot) * there)
    if best.see(p, 0, 1) < 0:
      p = clip(problem, shrink * (p - x))
    best.see(p, rows)
  return best


def ddn(problem, budget, *, gamma=0.05, first_step=1.0, last_step=0.01):
  x = problem.x

  def soft(p):
    z, slopes = problem.logits(p), problem.slopes(p)
    others = np.exp(z[problem.targets] - z[problem.targets].max())
    others /= others.sum()
    return slopes[problem.label] - others @ slopes[problem.targets]

  # The gap of the smooth maximum.
  z = problem.logits(x)
  gap = z[problem.label] - np.log(np.sum(np.exp(z[problem.targets])))
  g, best = soft(x), Best(problem, 1)
  _, radius, most = linear_step(problem, gap, g)
  p, radius, heading = x, min(radius, most), 0 * x
  while best.gradients < budget:
    size = radius * cosine(first_step, last_step, best.gradients / budget)
    heading = -g / norm(g, 2)
    new = p - x + size * heading
    p = clip(problem, radius * new / norm(new, 2))
    if best.see(p) < 0:
      radius = (1 - gamma) * min(radius, norm(p - x, 2))
    else:
      radius = min((1 + gamma) * radius, most)
    g = soft(p)
  return best


def fmn(
  problem,
  budget,
  *,
  gamma=0.05,
  last_gamma=0.001,
  first_step=1.0,
  last_step=0.01,
):
  x, counts = problem.x, problem.p == 0
  q = None if counts else plain.dual(problem.p)

  def ahead(p, gap, g):
    """Linear distance along what the box leaves free; or one change."""
    free = np.where(g > 0, p > problem.low, p < problem.high)
    if counts:
      return float(np.any(g * free))
    return abs(gap) / norm(g * free, q) if np.any(g * free) else 0.0

  (gap, g), best = hard(problem, x), Best(problem, 1)
  step, _, most = linear_step(problem, gap, g)
  p, scale, radius = x, norm(step, 2), min(ahead(x, gap, g), most)
  while best.gradients < budget:
    fraction = best.gradients / budget
    size = scale * cosine(first_step, last_step, fraction)
    new = p - x - size * g / norm(g, 2)
    p = clip(problem, plain.project_ball(new, radius, *problem.box, problem.p))
    margin = best.see(p)
    gap, g = hard(problem, p)
    change = cosine(gamma, last_gamma, fraction)
    grown, shrunk = (1 + change) * radius, (1 - change) * radius
    if counts:
      grown = max(math.ceil(grown), radius + 1)
      shrunk = min(math.floor(shrunk), radius - 1)
    if margin < 0:
      radius = min(shrunk, best.distance)
    elif best.status == Status.FOUND:
      radius = grown
    else:
      estimate = norm(p - x, problem.p) + ahead(p, gap, g)
      radius = max(grown, estimate)
    radius = min(radius, most)
  return best


def primal_dual(
  problem,
  budget,
  *,
  first_step=1.0,
  last_step=0.01,
  first_change=0.1,
  last_change=0.01,
):
  x, q = problem.x, plain.dual(problem.p)
  (gap, g), best = hard(problem, x), Best(problem, 1)
  step, *_ = linear_step(problem, gap, g)
  p, scale, odds = x, norm(step, 2), 0.0
  while best.gradients < budget:
    fraction = best.gradients / budget
    dual = 1 / (1 + math.exp(-odds))
    length = scale * cosine(first_step, last_step, fraction)
    new = p - x - length * dual * g / norm(g, 2)
    weight = length * (1 - dual) * norm(g, q) / norm(g, 2)
    p = clip(problem, plain.prox(new, weight, *problem.box, problem.p))
    change = cosine(first_change, last_change, fraction)
    odds += -change if best.see(p) < 0 else change
    g = hard(problem, p)[1]
  return best


def sigma_zero(
  problem,
  budget,
  *,
  first_step=1.0,
  last_step=0.0,
  sharpness=1e-3,
  threshold=0.3,
  change=0.01,
):
  x, width = problem.x, problem.high - problem.low
  unit = np.where(width > 0, width, 1.0)
  (_, g), best, p = hard(problem, x), Best(problem, 1), x
  margin = problem.margin(x)[0]
  while best.gradients < budget:
    size = cosine(first_step, last_step, best.gradients / budget)
    v = (p - x) / unit
    slope = 2 * v * sharpness / (v**2 + sharpness) ** 2 / len(v)
    slope += g * unit * (margin > 0)
    v = v - size * slope / (np.abs(slope).max() or 1.0)
    p = clip(problem, unit * v)
    p = np.where(np.abs(p - x) < threshold * unit, x, p)
    margin = best.see(p)
    g = hard(problem, p)[1]
    threshold += (change if margin < 0 else -change) * size
    threshold = min(max(threshold, 0.0), 1.0)
  return best


# --- Auto-PGD --------------------------------------------------------------


def checkpoints(num_steps, p):
  """Steps at which Auto-PGD looks back."""
  if p == 1:
    every = math.ceil(0.04 * num_steps)
    return list(range(every, num_steps + 1, every))
  w = [0, 22]  # In hundredths.
  while w[-1] <= 100:
    w.append(w[-1] + max(w[-1] - w[-2] - 3, 6))
  return sorted({-(-v * num_steps // 100) for v in w[1:] if v <= 100})


def steepest(g, num_moved, p):
  if p == 2:
    return -g / norm(g, 2)
  if p == np.inf:
    return -np.sign(g)
  if p != 1:
    return plain.smallest_step(-g, norm(g, plain.dual(p)), -np.inf, np.inf, p)
  order = np.argsort(-np.abs(g))[: max(int(num_moved), 1)]
  order = [i for i in order if g[i] != 0]
  step = np.zeros_like(g)
  step[order] = -np.sign(g[order]) / max(len(order), 1)
  return step


def ratio(problem, p):
  """The margin over the range of the top three logits, and its gradient."""
  z, slopes = problem.logits(p), problem.slopes(p)
  margin, target = problem.margin(p, problem.targets)
  first, _, third = np.argsort(-z)[:3]
  spread = z[first] - z[third]
  slope = slopes[problem.label] - slopes[target]
  change = slopes[first] - slopes[third]
  return margin / spread, slope / spread - margin / spread**2 * change


def apgd(problem, budget, *, num_steps=40, rtol=1e-3):
  x, p, n = problem.x, problem.p, problem.x.size
  many = len(problem.logits(x)) >= 4 and len(problem.targets) > 1
  loss_of = ratio if many else hard
  best = Best(problem, 1)
  _, radius, most = linear_step(problem, *hard(problem, x))
  radius, below, above = min(radius, most), 0.0, np.inf
  into = lambda step, r: clip(
    problem, plain.project_ball(step, r, *problem.box, p)
  )

  def descend(start, radius):
    """Yields the points of one ball; ends where one lies beyond."""
    at, loss = start, np.inf
    lowest, lowest_at, before = np.inf, start, start
    size, changed, checked = 1.0 if p == 1 else 2.0, True, np.inf
    num_moved, decreases, last = max(1.0, n / 5), 0, 0
    g = None
    for k in range(num_steps + 1):
      if k:
        free = np.where(g > 0, at > problem.low, at < problem.high)
        heading = steepest(g * free, num_moved, p) if (g * free).any() else 0
        new = into(at - x + size * radius * heading, radius)
        if p != 1:
          weight = 0.75 if k > 1 else 1.0
          mixed = at + weight * (new - at) + (1 - weight) * (at - before)
          new = into(mixed - x, radius)
        before, at = at, new
      old, (loss, g) = loss, loss_of(problem, at)
      decreases += k > 0 and loss < old
      if loss < lowest:
        lowest, lowest_at, lowest_g = loss, at, g
      yield at, lowest_at, k == num_steps
      if k in checkpoints(num_steps, p):
        if p == 1:
          fewer = max(np.sum(lowest_at != x) / 1.5, 1.0)
          back = fewer < 0.95 * num_moved
          num_moved, size = fewer, 1.0 if back else max(size / 1.5, 0.1)
        else:
          back = decreases < 0.75 * (k - last)
          back = back or (not changed and lowest >= checked)
          size = size / 2 if back else size
        if back:
          at = before = lowest_at
          loss, g = lowest, lowest_g
        decreases, last, changed, checked = 0, k, back, lowest

  entry = x
  while (
    best.gradients < budget and above > (1 + rtol) * below < (1 + rtol) * most
  ):
    for found in descend(entry, radius):
      at, lowest, last = found
      margin = best.see(at)
      above = min(above, best.distance)
      if margin < 0 or last or best.gradients >= budget:
        break
    if margin >= 0 and last:
      below = radius
    radius = 2 * radius if np.isinf(above) else (below + above) / 2
    radius = min(radius, most)
    entry = into((best.outer if above < np.inf else lowest) - x, radius)
  return best
