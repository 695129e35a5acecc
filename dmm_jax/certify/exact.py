"""The exact distance of an input from a small network's boundary."""

import time

import jax
from jax.typing import ArrayLike
import numpy as np

from dmm_jax import boundary
from dmm_jax import norms
from dmm_jax.certify import cells
from dmm_jax.certify import crown
from dmm_jax.certify import layers as layers_lib
from dmm_jax.certify import programs

# What is excluded is a point nearer by more than this, relative. l2 needs more
# room for its tangents, and the solver's tolerance is 1e-6.
CUT = {1: 1e-7, np.inf: 1e-7, 2: 1e-5}
# First tangents of the squares, in units of the radius.
GRID = np.array([0.02, 0.05, 0.1, 0.2, 0.4, 0.8])


def exact_distance(
  layers: layers_lib.Layers,
  x: ArrayLike,
  label: int,
  *,
  norm: float = np.inf,
  bounds: tuple | None = None,
  time_limit: float = 60.0,
) -> tuple[float, float, np.ndarray]:
  """Returns the exact distance of one input from the decision boundary.

  A search gives a point of the boundary. Then, class by class and the nearest
  by `crown` first, a mixed-integer program looks for a nearer one, until it is
  proven that there is none. Classes that `crown` proves to be further away need
  no program. In l2 the square of each coordinate's step is bounded by tangents,
  and tangents are added until the program's solution is on them. What programs
  find is improved within its linear region of the network (`cells`), and
  evaluated, before it counts.

  The cost is exponential in the number of ReLUs whose sign may change within
  the distance found: up to about 30 it takes seconds, l2 being the slowest.
  For a network 64-24-24-10 on 8 x 8 digits the median, on one busy core, is one
  second in linf and l1 and three in l2; one input in twenty takes half a
  minute, in l2 more than one.

  Sources: Tjeng, Xiao, Tedrake (2019), https://arxiv.org/abs/1711.07356, and
  for l2, outer approximation of separable functions: Vielma et al. (2017),
  https://doi.org/10.1007/s12532-016-0113-y. The solver is HiGHS.

  Args:
    layers: `[(W [in, out], b [out]), ...]`, a ReLU between each two.
    x: one input, any shape, flattened in C order.
    label: its class.
    norm: 1, 2 or inf.
    bounds: None, or `(low, high)`, numbers or arrays as `x`.
    time_limit: seconds, for all but the compilation and the search.

  Returns:
    `(distance, lower, point)`, input units. `point`, float64 of the shape of
    `x`, has another class, or a lead of at most 1e-6 of that at `x` (and of
    1e-6), and is at `distance`. `lower` is proven, up to the solver's tolerance
    (1e-6): where the search ended in time, `distance` times 1 - 1e-7, for l2
    1 - 1e-5, or more. Where none was found, `distance` is inf and `point` is
    `x`; `lower` is then inf if there provably is none in the box. (0, 0, x)
    where misclassified or tied. Without a box and without any point found there
    is no region to search: `lower` is then that of `crown`.

  Raises:
    ValueError: for an unsupported norm, layers or an input that do not fit.
  """
  norms.check(norm)
  layers = layers_lib.check(layers)
  x, labels = np.asarray(x), np.asarray(label)[None]
  flat, _, low, high = layers_lib.check_examples(
    layers, x[None], labels, bounds
  )
  problem = cells.Problem(layers, flat[0], int(label), low, high, norm)
  if not cells.lead(problem, problem.x) > 0:
    return 0.0, 0.0, x
  point = _search(problem)
  lower = crown.class_bounds(
    layers, problem.x, problem.label, low, high, norm=norm
  )
  point, lower = _prove(problem, point, lower, time.monotonic() + time_limit)
  if point is None:
    return np.inf, lower, x
  distance = cells.distance(problem, point)
  return distance, min(distance, lower), point.reshape(x.shape)


def _search(problem):
  """A boundary point to start from, or None."""
  with jax.enable_x64(True):
    found = _jitted_search(*problem[:-1], np.float64(problem.norm))
  point = None
  if np.isfinite(found.distance):
    point = cells.verified(problem, np.asarray(found.point))
  return None if point is None else cells.descend(problem, point)


@jax.jit
def _jitted_search(layers, x, label, low, high, norm):
  return boundary.nearest_point(
    lambda v: layers_lib.logits(layers, v),
    x,
    label,
    norm=norm,
    bounds=(low, high),
    with_normal=False,
  )


def _prove(problem, point, lower, end):
  """Improves the point and the classes' lower bounds until they meet.

  Returns the best point, None if there is none, and the lower bound.
  """
  corner = np.maximum(problem.x - problem.low, problem.high - problem.x)
  whole = float(np.linalg.norm(corner, problem.norm))
  for target in np.argsort(lower):
    radius = whole if point is None else cells.distance(problem, point)
    proven = lower[target] >= radius * (1 - CUT[problem.norm])
    if proven or not np.isfinite(radius) or time.monotonic() > end:
      continue
    point, proven = _prove_class(
      problem, int(target), radius, point, lower[target], end
    )
    lower[target] = max(lower[target], proven)
  return point, float(lower.min())


def _prove_class(problem, target, radius, point, least, end):
  """Searches a ball for boundary points of one class.

  Args:
    problem: a `cells.Problem`.
    target: the class.
    radius: of the ball: the distance of `point`, or that which holds the box.
    point: the best point so far, or None.
    least: a lower bound of the class's distance.
    end: of the time, as `time.monotonic`.

  Returns:
    The best point, and a lower bound of the class's distance, as far as it is
    below that of the best point.
  """
  x, cut = problem.x, CUT[problem.norm]
  squared = problem.norm == 2
  most = radius if point is None else radius * (1 - cut)
  program, parts = _program(problem, target, radius, least, most)
  while True:
    if squared and point is not None:
      programs.tangents(program, (point - x)[None] / radius)
    result = program.solve(end - time.monotonic(), 1e-2 * cut)
    if result.status == programs.INFEASIBLE:
      # Without a point the ball held the whole box: the box holds none.
      return point, np.inf if point is None else most
    if result.mip_dual_bound is not None:
      value = max(result.mip_dual_bound, 0.0)
      least = max(least, min(most, radius * value ** (0.5 if squared else 1)))
    if result.x is None:
      return point, least
    step = sum(sign * result.x[i : i + x.size] for i, sign in parts)
    point = _nearer(problem, point, x + radius * step)
    best = radius if point is None else cells.distance(problem, point)
    most = min(most, best * (1 - cut))
    # On its tangents, the solution is that of the problem itself.
    exact = not squared or step @ step - result.fun < 1e-6
    if exact or least >= most or time.monotonic() > end:
      return point, least
    programs.tangents(program, step[None])


def _program(problem, target, radius, least, most):
  """The program of one class, for distances between `least` and `most`."""
  neurons = crown.neuron_bounds(
    problem.layers,
    problem.x,
    radius,
    problem.low,
    problem.high,
    norm=problem.norm,
  )
  limits = np.array([least, most]) / radius
  if problem.norm != 2:
    return programs.build(problem, target, radius, neurons, limits)
  program, parts = programs.build(problem, target, radius, neurons, limits**2)
  ones = np.ones(problem.x.size)
  programs.tangents(program, np.outer(np.append(GRID, -GRID), ones))
  return program, parts


def _nearer(problem, point, new):
  """The nearer one of a point, or None, and a candidate that may not be one."""
  new = cells.verified(problem, new)
  if new is None:
    return point
  new = cells.descend(problem, new)
  if point is None:
    return new
  return min(point, new, key=lambda p: cells.distance(problem, p))
