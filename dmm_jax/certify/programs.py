"""Boundary distance as a mixed-integer linear program, for one target class."""

from typing import NamedTuple

import numpy as np
from scipy import optimize
from scipy import sparse

from dmm_jax.certify import cells
from dmm_jax.certify import layers as layers_lib

INFEASIBLE = 2  # Status of `scipy.optimize.milp`.


class Block(NamedTuple):
  """Rows `lower <= matrix @ v <= upper` over some of the columns."""

  columns: list  # Start of each part of `matrix`.
  parts: list  # Matrices `[m, width]`.
  lower: np.ndarray
  upper: np.ndarray


class Program:
  """Variables with bounds and costs, and rows; grown piece by piece."""

  def __init__(self) -> None:
    self.low: list[np.ndarray] = []
    self.high: list[np.ndarray] = []
    self.cost: list[np.ndarray] = []
    self.integer: list[np.ndarray] = []
    self.blocks: list[Block] = []
    self.size = 0

  def add(
    self,
    low: np.ndarray,
    high: np.ndarray,
    cost: float = 0.0,
    integer: bool = False,
  ) -> int:
    """Adds variables; returns the index of the first."""
    low, high = np.broadcast_arrays(low, high)
    start, self.size = self.size, self.size + low.size
    self.low.append(low)
    self.high.append(high)
    self.cost.append(np.full(low.size, cost))
    self.integer.append(np.full(low.size, int(integer)))
    return start

  def require(
    self,
    parts: list,
    lower: np.ndarray | float = -np.inf,
    upper: np.ndarray | float = np.inf,
  ) -> None:
    """Adds rows: `parts` are pairs of a first column and a matrix."""
    columns, matrices = zip(*parts, strict=True)
    rows = [sparse.coo_array(m) for m in matrices]
    fill = lambda v: np.broadcast_to(v, rows[0].shape[:1])
    self.blocks.append(Block(list(columns), rows, fill(lower), fill(upper)))

  def solve(self, time_limit: float, rel_gap: float) -> optimize.OptimizeResult:
    """Returns scipy's result of minimising the cost."""
    entries, top = [], 0
    for block in self.blocks:
      for start, part in zip(block.columns, block.parts, strict=True):
        row, column = part.coords
        entries.append((part.data, row + top, column + start))
      top += block.lower.size
    data, row, column = (np.concatenate(v) for v in zip(*entries, strict=True))
    matrix = sparse.csr_array((data, (row, column)), shape=(top, self.size))
    return optimize.milp(
      np.concatenate(self.cost),
      integrality=np.concatenate(self.integer),
      bounds=optimize.Bounds(
        np.concatenate(self.low), np.concatenate(self.high)
      ),
      constraints=optimize.LinearConstraint(
        matrix,
        np.concatenate([b.lower for b in self.blocks]),
        np.concatenate([b.upper for b in self.blocks]),
      ),
      options=dict(time_limit=max(time_limit, 0.01), mip_rel_gap=rel_gap),
    )


def build(
  problem: cells.Problem,
  target: int,
  radius: float,
  neurons: list,
  limits: tuple[float, float],
) -> tuple[Program, list]:
  """Returns the program for one class, and where its step is.

  All is in units of `radius` and relative to `x`: step u = (x' - x) / radius,
  behind a ReLU (a - a_x) / radius. Then all numbers are of order one, as
  solvers' tolerances ask for, however small the distance is. The value is the
  distance over `radius`, for l2 its square from below (see `tangents`).

  Source: Tjeng, Xiao, Tedrake (2019), "Evaluating robustness of neural
  networks with mixed integer programming", https://arxiv.org/abs/1711.07356.

  Args:
    problem: a `cells.Problem`.
    target: the class to reach.
    radius: of the ball that is searched.
    neurons: `[(low, high), ...]` before every ReLU, valid in that ball.
    limits: what the value is at least and at most.

  Returns:
    `(program, parts)`; `parts` are pairs of a first column and a sign, whose
    sum is u.
  """
  program = Program()
  parts = _add_step(program, problem, radius, *limits)
  zs = layers_lib.preactivations(problem.layers, problem.x)
  inputs = [(start, sign * np.eye(problem.x.size)) for start, sign in parts]
  for (w, _), z, bounds in zip(
    problem.layers[:-1], zs[:-1], neurons, strict=True
  ):
    low, high = bounds
    linear = [(start, w.T @ spread) for start, spread in inputs]
    inputs = _add_relus(program, linear, z, low, high, radius)
  w = problem.layers[-1][0]
  row = (w[:, target] - w[:, problem.label])[None]
  gap = (zs[-1][problem.label] - zs[-1][target]) / radius
  program.require([(start, row @ spread) for start, spread in inputs], gap)
  return program, parts


def _add_step(program, problem, radius, least, most):
  """Adds the step, its bounds, and its length as the cost."""
  low = np.maximum((problem.low - problem.x) / radius, -1.0)
  high = np.minimum((problem.high - problem.x) / radius, 1.0)
  n = problem.x.size
  eye, ones = np.eye(n), np.ones((1, n))
  if problem.norm == 1:
    up = program.add(np.zeros(n), high, cost=1.0)
    down = program.add(np.zeros(n), -low, cost=1.0)
    program.require([(up, ones), (down, ones)], least, most)
    return [(up, 1.0), (down, -1.0)]
  u = program.add(low, high)
  if problem.norm == 2:
    squares = program.add(np.zeros(n), np.full(n, n), cost=1 / n)
    program.require([(squares, ones / n)], least, most)
  else:
    t = program.add(np.full(1, least), np.full(1, most), cost=1.0)
    program.require([(u, eye), (t, -ones.T)], upper=0.0)
    program.require([(u, eye), (t, ones.T)], lower=0.0)
  return [(u, 1.0)]


def _add_relus(program, linear, z, low, high, radius):
  """Adds a layer; returns its outputs as columns and spreading matrices."""
  a = np.maximum(z, 0.0)
  active, unstable = low >= 0, (low < 0) & (high > 0)
  pick = lambda mask: [(start, part[mask]) for start, part in linear]
  outputs = []
  if active.any():
    count = active.sum()
    start = program.add(np.full(count, -np.inf), np.full(count, np.inf))
    program.require([(start, -np.eye(count)), *pick(active)], 0.0, 0.0)
    outputs.append((start, np.eye(len(z))[:, active]))
  if unstable.any():
    z, a, low, high = (v[unstable] / radius for v in (z, a, low, high))
    eye = np.eye(len(z))
    start = program.add(-a, high - a)
    on = program.add(np.zeros(len(z)), np.ones(len(z)), integer=True)
    before = [(c, -part) for c, part in pick(unstable)]
    program.require([(start, eye), *before], lower=z - a)
    # Either a = z (on) or a = 0.
    program.require([(start, eye), (on, -np.diag(high))], upper=-a)
    program.require(
      [(start, eye), *before, (on, -np.diag(low))], upper=z - a - low
    )
    outputs.append((start, np.eye(len(unstable))[:, unstable]))
  return outputs or [(0, np.zeros((len(unstable), 1)))]


def tangents(program: Program, points: np.ndarray) -> None:
  """Adds `square_i >= 2 c u_i - c^2` for c = `points` `[m, n]`.

  The program's first variables are u and the squares, these in units of 1 / n
  so that tolerances do not add up.
  """
  n = points.shape[1]
  for c in points:
    program.require([(0, 2 * n * np.diag(c)), (n, -np.eye(n))], upper=n * c**2)
