"""The nearest point of the boundary within one linear region of a network."""

from typing import NamedTuple

import numpy as np
from scipy import optimize

from dmm_jax.certify import functions
from dmm_jax.certify import layers as layers_lib


class Problem(NamedTuple):
  """One input and its perturbations.

  Attributes:
    layers: as `functions.prepare` returns them.
    x: flat input `[n]`, float64.
    label: its class.
    low, high: the box `[n]`, which holds `x`; infinite for no end.
    norm: 1, 2 or inf.
  """

  layers: tuple
  x: np.ndarray
  label: int
  low: np.ndarray
  high: np.ndarray
  norm: float


def distance(problem: Problem, point: np.ndarray) -> float:
  """Return the distance of `point` from `x`, in the norm of the problem."""
  return float(np.linalg.norm(point - problem.x, problem.norm))


def margin(problem: Problem, point: np.ndarray) -> float:
  """Return the label's logit minus the largest other one at `point`."""
  logits = functions.evaluate(problem.layers, point)
  return float(logits[problem.label] - np.delete(logits, problem.label).max())


def verify(problem: Problem, point: np.ndarray) -> np.ndarray | None:
  """Return a point at which the class was seen to change, or None.

  That is `point`, or one up to 1e-6 further along the step where rounding left
  it short of the boundary; or, where none of these is beyond, the first whose
  margin is at most 1e-6 of that at `x`, and 1e-6.
  """
  steps = 1 + np.array([0.0, 1e-10, 1e-9, 1e-8, 1e-7, 1e-6])
  points = problem.x + np.outer(steps, point - problem.x)
  points = np.clip(points, problem.low, problem.high)
  margins = np.array([margin(problem, p) for p in points])
  tolerance = 1e-6 * min(1.0, margin(problem, problem.x))
  for threshold in (0.0, tolerance):
    if np.any(margins <= threshold):
      return points[np.argmax(margins <= threshold)]
  return None


def descend(problem: Problem, point: np.ndarray) -> np.ndarray:
  """Repeat `nearest`, from one linear region to the next, while it helps.

  Returns:
    The last point `[n]`, a local minimum of the distance; at most as far as
    `point`.
  """
  for _ in range(20):
    new = nearest(problem, point)
    limit = distance(problem, point) * (1 - 1e-9)
    if new is None or distance(problem, new) >= limit:
      break
    point = new
  return point


def nearest(problem: Problem, point: np.ndarray) -> np.ndarray | None:
  """Return the boundary point nearest to `x` in the linear region of `point`.

  A linear program, for l2 a least-distance problem. The target is the class
  with the largest logit at `point`, other than the label.

  Returns:
    A verified point `[n]`, or None where rounding leaves none.
  """
  unit = distance(problem, point)
  if not unit > 0:
    return None
  rows, limits = _constraints(problem, point)
  # Unit rows, and steps in units of the present one: all is of order one.
  lengths = np.linalg.norm(rows, axis=1)
  keep = lengths > 0
  rows, limits = rows[keep] / lengths[keep, None], limits[keep] / lengths[keep]
  solve = _solve_l2 if problem.norm == 2 else _solve_linear
  low, high = (
    (problem.low - problem.x) / unit,
    (problem.high - problem.x) / unit,
  )
  step = solve(rows, limits / unit, low, high, problem.norm)
  if step is None:
    return None
  return verify(problem, problem.x + unit * step)


def _constraints(problem, point):
  """Return `rows v <= limits` for steps v from x that stay in the region."""
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


def _solve_linear(rows, limits, low, high, norm):
  """Minimize |v| for l1 (v = p - q) or linf (|v| <= t), by a linear program."""
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


def _solve_l2(rows, limits, low, high, norm):
  """Minimize |v|_2, as non-negative least squares.

  Source: Lawson, Hanson (1974), "Solving least squares problems", chapter 23:
  least-distance programming.
  """
  del norm
  eye = np.eye(low.size)
  below, above = np.isfinite(low), np.isfinite(high)
  rows = np.concatenate([rows, -eye[below], eye[above]])
  limits = np.concatenate([limits, -low[below], high[above]])
  matrix = -np.concatenate([rows.T, limits[None]])
  target = np.append(np.zeros(low.size), 1.0)
  try:
    multipliers, _ = optimize.nnls(matrix, target, maxiter=20 * len(rows))
  except RuntimeError:  # Too many iterations.
    return None
  residual = matrix @ multipliers - target
  return -residual[:-1] / residual[-1] if residual[-1] < -1e-12 else None
