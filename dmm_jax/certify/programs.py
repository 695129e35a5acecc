"""Boundary distance as a mixed-integer linear program, for one target class."""

from typing import NamedTuple

import numpy as np
from scipy import optimize
from scipy import sparse

from dmm_jax.certify import cells
from dmm_jax.certify import layers as layers_lib

INFEASIBLE = 2  # Status of `scipy.optimize.milp`.


class Block(NamedTuple):
  """Rows `lower <= matrix @ v <= upper` over some of the columns.

  Attributes:
    columns: first column of each part of `matrix`.
    parts: matrices `[m, width]`.
    lower, upper: limits `[m]`.
  """

  columns: list
  parts: list
  lower: np.ndarray
  upper: np.ndarray


class Program:
  """A mixed-integer linear program: variables with costs, and rows."""

  def __init__(self) -> None:
    self.low: list[np.ndarray] = []
    self.high: list[np.ndarray] = []
    self.cost: list[np.ndarray] = []
    self.integer: list[np.ndarray] = []
    self.blocks: list[Block] = []
    self.size = 0

  def add_variables(
    self,
    low: np.ndarray,
    high: np.ndarray,
    cost: float = 0.0,
    integer: bool = False,
  ) -> int:
    """Add variables and return the index of the first."""
    low, high = np.broadcast_arrays(low, high)
    start, self.size = self.size, self.size + low.size
    self.low.append(low)
    self.high.append(high)
    self.cost.append(np.full(low.size, cost))
    self.integer.append(np.full(low.size, int(integer)))
    return start

  def add_rows(
    self,
    parts: list,
    lower: np.ndarray | float = -np.inf,
    upper: np.ndarray | float = np.inf,
  ) -> None:
    """Add rows; `parts` are pairs of a first column and a matrix."""
    columns, matrices = zip(*parts, strict=True)
    rows = [sparse.coo_array(m) for m in matrices]
    expand = lambda v: np.broadcast_to(v, rows[0].shape[:1])
    block = Block(list(columns), rows, expand(lower), expand(upper))
    self.blocks.append(block)

  def solve(self, time_limit: float, rel_gap: float) -> optimize.OptimizeResult:
    """Return scipy's result of minimising the cost.

    Args:
      time_limit: seconds; inf for none.
      rel_gap: relative gap between solution and bound at which it stops.
    """
    entries, num_rows = [], 0
    for block in self.blocks:
      for start, part in zip(block.columns, block.parts, strict=True):
        row, column = part.coords
        entries.append((part.data, row + num_rows, column + start))
      num_rows += block.lower.size
    data, row, column = (np.concatenate(v) for v in zip(*entries, strict=True))
    matrix = sparse.csr_array(
      (data, (row, column)), shape=(num_rows, self.size)
    )
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
  """Return the program for one class, and the variables of its step.

  Variables are in units of `radius` and relative to `x`: step u = (x' - x) /
  radius, behind a ReLU (a - a_x) / radius. Then all numbers are of order one,
  as solvers' tolerances ask for, however small the distance is. The cost is the
  distance over `radius`, for l2 a lower bound of its square (see
  `add_tangents`).

  Source: Tjeng, Xiao, Tedrake (2019), "Evaluating robustness of neural
  networks with mixed integer programming", https://arxiv.org/abs/1711.07356.

  Args:
    problem: a `cells.Problem`.
    target: the class to reach.
    radius: of the ball that is searched, input units.
    neurons: `[(low, high), ...]` before every ReLU, valid in that ball.
    limits: bounds of the cost from below and above.

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
    linear = [(start, w.T @ matrix) for start, matrix in inputs]
    inputs = _add_relus(program, linear, z, low, high, radius)
  w = problem.layers[-1][0]
  row = (w[:, target] - w[:, problem.label])[None]
  gap = (zs[-1][problem.label] - zs[-1][target]) / radius
  program.add_rows([(start, row @ matrix) for start, matrix in inputs], gap)
  return program, parts


def _add_step(program, problem, radius, lower, upper):
  """Add the step, its bounds, and its length as the cost."""
  low = np.maximum((problem.low - problem.x) / radius, -1.0)
  high = np.minimum((problem.high - problem.x) / radius, 1.0)
  n = problem.x.size
  eye, ones = np.eye(n), np.ones((1, n))
  if problem.norm == 1:
    up = program.add_variables(np.zeros(n), high, cost=1.0)
    down = program.add_variables(np.zeros(n), -low, cost=1.0)
    program.add_rows([(up, ones), (down, ones)], lower, upper)
    return [(up, 1.0), (down, -1.0)]
  u = program.add_variables(low, high)
  if problem.norm == 2:
    squares = program.add_variables(np.zeros(n), np.full(n, n), cost=1 / n)
    program.add_rows([(squares, ones / n)], lower, upper)
  else:
    t = program.add_variables(np.full(1, lower), np.full(1, upper), cost=1.0)
    program.add_rows([(u, eye), (t, -ones.T)], upper=0.0)
    program.add_rows([(u, eye), (t, ones.T)], lower=0.0)
  return [(u, 1.0)]


def _add_relus(program, linear, z, low, high, radius):
  """Add ReLUs and return their outputs: pairs of a first column, a matrix.

  The sum of matrices times columns is the layer's output, `[n]`.
  """
  a = np.maximum(z, 0.0)
  active, unstable = low >= 0, (low < 0) & (high > 0)
  select = lambda mask: [(start, part[mask]) for start, part in linear]
  outputs = []
  if active.any():
    count = active.sum()
    start = program.add_variables(
      np.full(count, -np.inf), np.full(count, np.inf)
    )
    program.add_rows([(start, -np.eye(count)), *select(active)], 0.0, 0.0)
    outputs.append((start, np.eye(len(z))[:, active]))
  if unstable.any():
    z, a, low, high = (v[unstable] / radius for v in (z, a, low, high))
    eye = np.eye(len(z))
    start = program.add_variables(-a, high - a)
    is_on = program.add_variables(
      np.zeros(len(z)), np.ones(len(z)), integer=True
    )
    before = [(c, -part) for c, part in select(unstable)]
    program.add_rows([(start, eye), *before], lower=z - a)
    # Either a = z (is_on = 1) or a = 0.
    program.add_rows([(start, eye), (is_on, -np.diag(high))], upper=-a)
    program.add_rows(
      [(start, eye), *before, (is_on, -np.diag(low))], upper=z - a - low
    )
    outputs.append((start, np.eye(len(unstable))[:, unstable]))
  return outputs or [(0, np.zeros((len(unstable), 1)))]


def add_tangents(program: Program, points: np.ndarray) -> None:
  """Add `square_i >= 2 c u_i - c^2` for c = `points` `[m, n]`, for l2.

  The program's first variables are u and the squares, these in units of 1 / n
  so that tolerances do not add up.
  """
  n = points.shape[1]
  for c in points:
    program.add_rows([(0, 2 * n * np.diag(c)), (n, -np.eye(n))], upper=n * c**2)
