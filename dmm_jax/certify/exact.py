"""The exact distance of an input from a small network's boundary."""

from collections.abc import Callable
import time

import jax
from jax.typing import ArrayLike
import numpy as np

from dmm_jax import boundary
from dmm_jax import norms
from dmm_jax.certify import branch
from dmm_jax.certify import cells
from dmm_jax.certify import crown
from dmm_jax.certify import functions
from dmm_jax.certify import layers as layers_lib
from dmm_jax.certify import programs

# Points nearer by more than this are excluded, relative to the distance. In l2
# tangents approach the square, and the solver's tolerance is 1e-6.
RTOL = {1: 1e-7, np.inf: 1e-7, 2: 1e-5}
# ReLUs of both signs beyond which branch and bound takes the place of programs.
LARGE = 60
QUADRATIC_STEPS = 60  # Of `crown.lower_bounds`, before branch and bound.
# First points of tangents to the squares, in units of the radius.
TANGENT_POINTS = np.array([0.02, 0.05, 0.1, 0.2, 0.4, 0.8])


def exact_distance(
  layers: layers_lib.Layers,
  x: ArrayLike,
  label: int,
  *,
  norm: float = 2,
  bounds: tuple | None = None,
  time_limit: float = 60.0,
) -> tuple[float, float, np.ndarray]:
  """Return the exact distance of one input from the decision boundary.

  A search gives a point of the boundary. Then, class by class and the nearest
  by `crown` first, a mixed-integer program looks for a nearer one, until it is
  proven that there is none. Classes that `crown` proves to be further away need
  no program. In l2 the square of each coordinate's step is bounded by tangents,
  and tangents are added until the program's solution is on them. What programs
  find is improved within its linear region of the network (`cells`), and
  evaluated, before it counts.

  Like `lower_bounds`, it describes the network in exact arithmetic: one that
  runs in float32 has its boundary there up to the rounding of its logits, and
  one that runs in half precision is another network.

  The cost is exponential in the number of ReLUs whose sign may change within
  the distance found: up to about 30 it takes seconds, l2 being the slowest.
  For a network 64-24-24-10 on 8 x 8 digits the median, on one busy core, is one
  second in linf and l1 and three in l2; one input in twenty takes half a
  minute, in l2 more than one.

  Sources: Tjeng, Xiao, Tedrake (2019), https://arxiv.org/abs/1711.07356, and
  for l2, outer approximation of separable functions: Vielma et al. (2017),
  https://doi.org/10.1007/s12532-016-0113-y. The solver is HiGHS.

  Args:
    layers: `[(W [in, out], b [out]), ...]` with a ReLU between each two, in
      float32 or float64.
    x: one input, any shape, floating point, flattened in C order.
    label: its class.
    norm: 1, 2 or inf.
    bounds: None, or `(low, high)`, each None for no end, a number or an array
      as `x`. `x` is compared with it in its own dtype; where it is outside by
      rounding, at most 8 units of it, it widens the box.
    time_limit: seconds, for all but the compilation and the search; inf for no
      limit.

  Returns:
    `(distance, lower, point)`, input units. `point`, float64 of the shape of
    `x`, has another class, or a margin of at most 1e-6 of that at `x` (and of
    1e-6), and is at `distance`. `lower` is proven, up to the solver's tolerance
    (1e-6): where the search ended in time, `distance` times 1 - 1e-7, for l2
    1 - 1e-5, or more. Where none was found, `distance` is inf and `point` is
    `x`; `lower` is then inf if there provably is none in the box. (0, 0, x)
    where misclassified or tied. Without a box and without any point found there
    is no region to search: `lower` is then that of `crown`.

  Raises:
    TypeError, ValueError: as `lower_bounds`; for a `time_limit` that is not a
      number of seconds.
  """
  layers_lib.check_norm(norm)
  layers_lib.check_seconds('time_limit', time_limit)
  layers_lib.check(layers)
  lower, distance, point = _two_sided(
    layers, x, label, norm, bounds, time_limit
  )
  return distance, lower, point


def interval(
  network: Callable | layers_lib.Layers,
  x: ArrayLike,
  label: int,
  *,
  norm: float = 2,
  bounds: tuple | None = None,
  time_limit: float = 60.0,
) -> tuple[float, float, np.ndarray]:
  """Return both ends of one input's distance from the decision boundary.

  From above the nearest point that was found, from below what is proven: first
  by `lower_bounds`, with its ascent of slopes. For ReLUs, in l1, l2 and linf,
  the rest of the time moves the ends towards each other. Where at most `LARGE`
  ReLUs have both signs within the distance found, mixed-integer programs do so,
  as in `exact_distance`, until they meet. For more, quadratic bounds and then
  branch and bound raise the lower end alone, all the time (see
  `certify.branch`), and the programs have what they leave. Other norms and
  activations, and networks that are read as operators (see `lower_bounds`),
  have the first two alone.

  Args:
    network, x, bounds: as of `lower_bounds`, for one input of any shape.
    label: its class.
    norm: any p >= 1.
    time_limit: seconds, for all but the search and the linear and quadratic
      bounds; inf for no limit, 0 for the search and the linear bound alone.
      What is compiled counts: branch and bound takes some ten seconds of it at
      the first call.

  Returns:
    `(lower, upper, point)`, input units, float64. `point`, of the shape of `x`,
    is at `upper` and beyond the boundary, as that of `exact_distance` is. Both
    ends are inf where the box provably holds no boundary, and `upper` is where
    none was found; `point` is then `x`. (0, 0, x) where misclassified or tied.

  Raises:
    TypeError, ValueError: as `lower_bounds`; for a `time_limit` that is not a
      number of seconds.
  """
  norms.check(norm)
  layers_lib.check_seconds('time_limit', time_limit)
  return _two_sided(network, x, label, norm, bounds, time_limit, num_steps=20)


def _two_sided(network, x, label, norm, bounds, time_limit, num_steps=0):
  """Returns `(lower, upper, point)`."""
  x = np.asarray(x)
  layers, flat, labels, low, high = functions.prepare(
    network, x[None], np.asarray(label)[None], bounds
  )
  problem = cells.Problem(
    layers, flat[0], int(labels[0]), low[0], high[0], norm
  )
  if not cells.margin(problem, problem.x) > 0:
    return 0.0, 0.0, flat[0].reshape(x.shape)
  point = _search(problem)
  lower = crown.class_bounds(
    layers,
    problem.x,
    problem.label,
    problem.low,
    problem.high,
    norm=norm,
    num_steps=num_steps,
  )
  bound = float(lower.min())
  if norm in layers_lib.NORMS and layers_lib.is_relu(layers):
    searched = point is not None and num_steps and time_limit > 0
    large = searched and _is_large(problem, point)
    if large:
      lower = np.maximum(lower, _quadratic_bound(problem))
    deadline = time.monotonic() + time_limit
    if large:
      distance = cells.distance(problem, point)
      lower = branch.raise_bounds(problem, lower, distance, deadline)
    point, bound = _close_gap(problem, point, lower, deadline)
  if point is None:
    return bound, np.inf, flat[0].reshape(x.shape)
  distance = cells.distance(problem, point)
  return min(distance, bound), distance, point.reshape(x.shape)


def _quadratic_bound(problem):
  """Returns a bound of all classes."""
  options = {'num_steps': 20, 'quadratic_steps': QUADRATIC_STEPS}
  return crown.least_bound(*problem[:-1], norm=problem.norm, **options)


def _is_large(problem, point):
  """Whether more ReLUs are of both signs than programs are for."""
  radius = cells.distance(problem, point)
  neurons = crown.neuron_bounds(
    *problem[:2], radius, problem.low, problem.high, norm=problem.norm
  )
  return sum(np.sum((low < 0) & (high > 0)) for low, high in neurons) > LARGE


def _search(problem):
  """Return a boundary point to start from, or None."""
  with jax.enable_x64(True):
    found = _jitted_search(*problem[:-1], np.float64(problem.norm))
  point = None
  if np.isfinite(found.distance):
    point = cells.verify(problem, np.asarray(found.point))
  known = problem.norm in layers_lib.NORMS
  if point is None or not (known and layers_lib.is_relu(problem.layers)):
    return point
  return cells.descend(problem, point)


@jax.jit
def _jitted_search(layers, x, label, low, high, norm):
  return boundary.nearest_point(
    lambda v: functions.logits(layers, v),
    x,
    label,
    norm=norm,
    bounds=(low, high),
    with_normal=False,
  )


def _close_gap(problem, point, lower, deadline):
  """Improve the point and the classes' lower bounds until they meet.

  Returns the best point, None if there is none, and the lower bound.
  """
  farthest = np.maximum(problem.x - problem.low, problem.high - problem.x)
  box_radius = float(np.linalg.norm(farthest, problem.norm))
  for target in np.argsort(lower):
    radius = box_radius if point is None else cells.distance(problem, point)
    proven = lower[target] >= radius * (1 - RTOL[problem.norm])
    if proven or not np.isfinite(radius) or time.monotonic() > deadline:
      continue
    point, bound = _search_class(
      problem, int(target), radius, point, lower[target], deadline
    )
    lower[target] = max(lower[target], bound)
  return point, float(lower.min())


def _search_class(problem, target, radius, point, lower, deadline):
  """Search a ball for boundary points of one class.

  Args:
    problem: a `cells.Problem`.
    target: the class.
    radius: of the ball: the distance of `point`, or that which holds the box.
    point: the best point so far, or None.
    lower: a lower bound of the class's distance.
    deadline: end of the time, as `time.monotonic`.

  Returns:
    The best point, and a lower bound of the class's distance, as far as it is
    below that of the best point.
  """
  x, rtol = problem.x, RTOL[problem.norm]
  squared = problem.norm == 2
  upper = radius if point is None else radius * (1 - rtol)
  program, parts = _program(problem, target, radius, lower, upper)
  while True:
    if squared and point is not None:
      programs.add_tangents(program, (point - x)[None] / radius)
    result = program.solve(deadline - time.monotonic(), 1e-2 * rtol)
    if result.status == programs.INFEASIBLE:
      # Without a point the ball held the whole box: the box holds none.
      return point, np.inf if point is None else upper
    if result.mip_dual_bound is not None:
      value = max(result.mip_dual_bound, 0.0) ** (0.5 if squared else 1)
      lower = max(lower, min(upper, radius * value))
    if result.x is None:
      return point, lower
    step = sum(sign * result.x[i : i + x.size] for i, sign in parts)
    point = _nearer(problem, point, x + radius * step)
    best = radius if point is None else cells.distance(problem, point)
    upper = min(upper, best * (1 - rtol))
    # On its tangents, the solution is that of the problem itself.
    exact = not squared or step @ step - result.fun < 1e-6
    if exact or lower >= upper or time.monotonic() > deadline:
      return point, lower
    programs.add_tangents(program, step[None])


def _program(problem, target, radius, lower, upper):
  """Return the program of one class, for distances from lower to upper."""
  neurons = crown.neuron_bounds(
    problem.layers,
    problem.x,
    radius,
    problem.low,
    problem.high,
    norm=problem.norm,
  )
  limits = np.array([lower, upper]) / radius
  if problem.norm != 2:
    return programs.build(problem, target, radius, neurons, limits)
  program, parts = programs.build(problem, target, radius, neurons, limits**2)
  signed = np.append(TANGENT_POINTS, -TANGENT_POINTS)
  programs.add_tangents(program, np.outer(signed, np.ones(problem.x.size)))
  return program, parts


def _nearer(problem, point, new):
  """Return the nearer of a point, or None, and a candidate to be verified."""
  new = cells.verify(problem, new)
  if new is None:
    return point
  new = cells.descend(problem, new)
  if point is None:
    return new
  return min(point, new, key=lambda p: cells.distance(problem, p))
