"""The nearest point of the boundary within one linear region of a network."""

from typing import NamedTuple

import numpy as np
from scipy import optimize

from dmm_jax.certify import layers as layers_lib


class Problem(NamedTuple):
  """One input, and what it may become.

  Attributes:
    layers: as of `layers.check`.
    x: flat input `[n]`.
    label: its class.
    low, high: the box `[n]`.
    norm: 1, 2 or inf.
  """

  layers: tuple
  x: np.ndarray
  label: int
  low: np.ndarray
  high: np.ndarray
  norm: float


def distance(problem: Problem, point: np.ndarray) -> float:
  """Returns how far `point` is from `x`, in the norm of the problem."""
  return float(np.linalg.norm(point - problem.x, problem.norm))


def lead(problem: Problem, point: np.ndarray) -> float:
  """Returns the label's logit minus the largest other one."""
  logits = layers_lib.preactivations(problem.layers, point)[-1]
  return float(logits[problem.label] - np.delete(logits, problem.label).max())


def verified(problem: Problem, point: np.ndarray) -> np.ndarray | None:
  """Returns a point at which the class was seen to change, or None.

  That is `point`, or one up to 1e-6 further along the step where rounding left
  it short of the boundary; or, where none of these is beyond, the first whose
  lead is at most 1e-6 of that at `x`, and 1e-6.
  """
  steps = 1 + np.array([0.0, 1e-10, 1e-9, 1e-8, 1e-7, 1e-6])
  points = problem.x + np.outer(steps, point - problem.x)
  points = np.clip(points, problem.low, problem.high)
  leads = np.array([lead(problem, p) for p in points])
  tolerance = 1e-6 * min(1.0, lead(problem, problem.x))
  for enough in (0.0, tolerance):
    if np.any(leads <= enough):
      return points[np.argmax(leads <= enough)]
  return None


def descend(problem: Problem, point: np.ndarray) -> np.ndarray:
  """Goes from one region's nearest point to the next's, while it helps."""
  for _ in range(20):
    new = nearest(problem, point)
    limit = distance(problem, point) * (1 - 1e-9)
    if new is None or distance(problem, new) >= limit:
      break
    point = new
  return point


def nearest(problem: Problem, point: np.ndarray) -> np.ndarray | None:
  """Returns the boundary point nearest to `x` in the linear region of `point`.

  A linear program, for l2 a least-distance problem. The target is the class
  that leads the label at `point`.

  Returns:
    A verified point `[n]`, or None where rounding leaves none.
  """
  unit = distance(problem, point)
  if not unit > 0:
    return None
  rows, limits = _constraints(problem, point)
  # A row of unit length, in units of the step at hand: all of order one.
  size = np.linalg.norm(rows, axis=1)
  keep = size > 0
  rows, limits = rows[keep] / size[keep, None], limits[keep] / size[keep]
  solve = _least_l2 if problem.norm == 2 else _least_linear
  low, high = (
    (problem.low - problem.x) / unit,
    (problem.high - problem.x) / unit,
  )
  step = solve(rows, limits / unit, low, high, problem.norm)
  if step is None:
    return None
  return verified(problem, problem.x + unit * step)


def _constraints(problem, point):
  """`rows v <= limits` for the steps v from x that stay in the region."""
  slope, value = np.eye(point.size), problem.x
  rows, limits = [], []
  zs = layers_lib.preactivations(problem.layers, point)
  for (w, b), z in zip(problem.layers, zs, strict=True):
    slope, value = slope @ w, value @ w + b
    if z is zs[-1]:
      break
    sign = np.where(z > 0, 1.0, -1.0)
    rows.append(-(slope * sign[None]).T)
    limits.append(value * sign)
    slope, value = slope * (z > 0)[None], value * (z > 0)
  k = np.argmax(np.where(np.arange(z.size) == problem.label, -np.inf, z))
  rows.append((slope[:, problem.label] - slope[:, k])[None])
  limits.append([value[k] - value[problem.label]])
  return np.concatenate(rows), np.concatenate(limits)


def _least_linear(rows, limits, low, high, norm):
  """min |v| for l1 (v = p - q) and linf (|v| <= t), by linear programming."""
  m, n = rows.shape
  if norm == 1:
    cost, zero = np.ones(2 * n), np.zeros(n)
    rows = np.concatenate([rows, -rows], 1)
    bounds = np.concatenate(
      [np.stack([zero, high], 1), np.stack([zero, -low], 1)]
    )
  else:
    cost = np.eye(n + 1)[-1]
    eye, ones = np.eye(n), np.ones((n, 1))
    sides = np.concatenate([np.hstack([s * eye, -ones]) for s in (1, -1)])
    rows = np.concatenate([np.hstack([rows, np.zeros((m, 1))]), sides])
    limits = np.concatenate([limits, np.zeros(2 * n)])
    bounds = np.stack([np.append(low, 0), np.append(high, np.inf)], 1)
  found = optimize.linprog(cost, rows, limits, bounds=bounds, method='highs')
  if found.x is None:
    return None
  return found.x[:n] - found.x[n:] if norm == 1 else found.x[:n]


def _least_l2(rows, limits, low, high, norm):
  """min |v|_2, as non-negative least squares.

  Source: Lawson, Hanson (1974), "Solving least squares problems", chapter 23:
  least-distance programming.
  """
  del norm
  eye = np.eye(low.size)
  below, above = np.isfinite(low), np.isfinite(high)
  rows = np.concatenate([rows, -eye[below], eye[above]])
  limits = np.concatenate([limits, -low[below], high[above]])
  matrix = -np.concatenate([rows.T, limits[None]])
  goal = np.append(np.zeros(low.size), 1.0)
  try:
    multipliers, _ = optimize.nnls(matrix, goal, maxiter=20 * len(rows))
  except RuntimeError:  # Too many iterations.
    return None
  rest = matrix @ multipliers - goal
  return -rest[:-1] / rest[-1] if rest[-1] < -1e-12 else None
