"""Branch and bound on the signs of ReLUs, with quadratic bounds at the nodes.

A node is a class and the signs of some ReLUs. Each node has a radius in which
the class is certified not to be reached with these signs; the least radius of
all leaves bounds the distance, and the leaf that has it is split at a ReLU of
both signs. So no radius has to be given, and the bound rises from the start.

Sources: Bunel et al. (2020), "Branch and bound for piecewise linear neural
network verification", https://arxiv.org/abs/1909.06588; for a sign as a bound
of the value before the ReLU, with a free dual variable, Wang et al. (2021),
beta-CROWN, https://arxiv.org/abs/2103.06624. Deviations: bounds are those of
`quadratic`; a node has a radius instead of a margin at a given one.
"""

import heapq
import itertools
import time
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dmm_jax.certify import ascent
from dmm_jax.certify import cells
from dmm_jax.certify import quadratic
from dmm_jax.certify import regions
from dmm_jax.certify import relaxation

BATCH = 16  # Nodes bounded together.
NUM_STEPS = 40  # Steps of Adam at a node.
ROOT_ROUNDS = 4  # Times that many at the root.
REACH = 1.15  # Radius of the intervals, over the least bound.
AHEAD = 1.05  # Radius at which a node's margin is raised, over its own.
EVEN = 0.01  # Weight of whole intervals in the choice of a ReLU.


class Node(NamedTuple):
  """A leaf of the search.

  Attributes:
    target: the class.
    boxes: `[(low, high), ...]` of the values before every ReLU.
    duals: a `quadratic.Duals`.
    rates: steps of the duals.
    radius: certified, input units.
    choice: number of the ReLU to split, of all layers' one after the other.
  """

  target: np.ndarray
  boxes: list
  duals: quadratic.Duals
  rates: quadratic.Duals
  radius: np.ndarray
  choice: np.ndarray


class _Setting(NamedTuple):
  """What all nodes share: arrays of the problem, in float64."""

  layers: tuple
  label: jax.Array
  region: regions.Region  # Its radius is that of the boxes.
  norm: jax.Array


def raise_bounds(
  problem: cells.Problem, lower: np.ndarray, upper: float, deadline: float
) -> np.ndarray:
  """Return improved lower bounds of each class's distance, `[k]`.

  First up to a radius a little larger than the least bound, as intervals are
  narrower there; then, from the root again, up to a larger one.

  Args:
    problem: with a norm of 1, 2 or inf.
    lower: certified distances of the classes `[k]`.
    upper: a distance at which there is a boundary point, finite.
    deadline: end of the time, as `time.monotonic`.

  Returns:
    At most `upper`, or `lower` where that is more.
  """
  while True:
    least = float(lower.min())
    reach = min(REACH * least, upper) if least > 0 else upper
    lower = _raise_to(problem, lower, reach, deadline)
    if lower.min() < reach or reach >= upper or time.monotonic() > deadline:
      return lower


def _raise_to(problem, lower, reach, deadline):
  """As `raise_bounds`, of bounds up to a radius."""
  with jax.enable_x64(True):
    arrays = problem.x, problem.x - problem.low, problem.high - problem.x
    region = regions.Region(*map(jnp.asarray, (*arrays, np.float64(reach))))
    setting = _Setting(
      problem.layers,
      jnp.int32(problem.label),
      region,
      jnp.float64(problem.norm),
    )
    targets = np.flatnonzero(lower < reach)
    nodes = _roots(setting, targets, lower, deadline)
    return _search(setting, nodes, lower, reach, deadline)


def _roots(setting, targets, lower, deadline):
  """Return a node for each class, its intervals narrowed on the way."""
  nodes = [_root(setting, target, lower[target]) for target in targets]
  for _ in range(ROOT_ROUNDS):
    if time.monotonic() > deadline or not nodes:
      break
    nodes = _improve(setting, nodes)
    nearest = min(nodes, key=lambda node: node.radius)
    boxes = jax.tree.map(np.asarray, _narrow(setting, nearest))
    nodes = [node._replace(boxes=boxes) for node in nodes]
  return nodes


@jax.jit
def _root(setting, target, radius):
  slopes = relaxation.default_slopes(setting.layers)
  boxes, _ = relaxation.neurons(
    setting.layers, setting.region, slopes, setting.norm
  )
  duals, units = quadratic.start(_problem(setting, target, boxes))
  rates = ascent.step_sizes(units, setting.norm, NUM_STEPS)
  return Node(target, boxes, duals, rates, radius, jnp.int32(-1))


@jax.jit
def _narrow(setting, node):
  problem = _problem(setting, node.target, node.boxes)
  return ascent.tighten(node.duals, problem)


def _problem(setting, target, boxes):
  row, offset = ascent.margin_row(setting.layers, setting.label, target)
  given = setting.layers[:-1], row, offset, boxes, setting.region, setting.norm
  return quadratic.Problem(*given)


def _improve(setting, nodes):
  """Return the nodes with new duals, radii and choices."""
  done = []
  for start in range(0, len(nodes), BATCH):
    part = nodes[start : start + BATCH]
    padded = part + [part[0]] * (BATCH - len(part))
    batch = jax.tree.map(lambda *v: np.stack(v), *padded)
    batch = jax.tree.map(np.asarray, _improve_batch(setting, batch))
    done += [jax.tree.map(lambda v, i=i: v[i], batch) for i in range(len(part))]
  return done


@jax.jit
def _improve_batch(setting, batch):
  return jax.vmap(lambda node: _improve_one(setting, node))(batch)


def _improve_one(setting, node):
  """Raise the margin of a node, and find its radius and the ReLU to split."""
  problem = _problem(setting, node.target, node.boxes)
  ahead = jnp.minimum(AHEAD * node.radius, setting.region.radius)
  duals = ascent.ascend(
    node.duals, node.rates, problem.within(ahead), NUM_STEPS
  )
  tops = quadratic.eigenvalues(duals, problem)
  radius = ascent.largest_radius(duals, tops, problem)
  # A bound that is not a number says nothing.
  radius = jnp.fmax(radius, _linear_radius(problem, ahead))
  radius = jnp.fmax(radius, node.radius)
  choice = _choose(duals, tops, problem)
  return node._replace(duals=duals, radius=radius, choice=choice)


def _linear_radius(problem, ahead):
  """Return what linear bounds certify: all there is where no sign is open."""
  duals, _ = quadratic.start(problem.within(ahead))
  flat = [jnp.full_like(v, -jnp.inf) for v in duals.curvatures]
  none = [jnp.zeros_like(ahead)] * len(flat)
  duals = duals._replace(curvatures=flat)
  return ascent.largest_radius(duals, none, problem)


def _choose(duals, tops, problem):
  """Return the ReLU whose relaxation loses most, or -1 without any.

  That is by the triangle between the minima of its term on both sides of 0, to
  which that of its interval counts a little.
  """
  area = lambda low, high: -low * high / jnp.where(high > low, high - low, 1.0)
  scores = []
  terms, _ = quadratic.unit_terms(duals, tops, problem)
  for term, (low, high) in zip(terms, problem.boxes, strict=True):
    inner = area(*term.minima(low, high))
    score = jnp.abs(term.a) * (inner + EVEN * area(low, high))
    scores.append(jnp.where((low < 0) & (high > 0), score, -1.0))
  every = jnp.concatenate(scores)
  choice = jnp.argmax(every).astype(jnp.int32)
  return jnp.where(jnp.max(every) >= 0, choice, -1)


def _search(setting, nodes, lower, upper, deadline):
  """Split the leaves of least radius until the time is over, or none is left.

  Returns the classes' lower bounds.
  """
  count = itertools.count()
  leaves: list = []
  finished = np.full(len(lower), upper)
  while True:
    for node in nodes:
      if node.radius >= upper:
        continue
      if node.choice < 0:  # All signs are known: nothing is left to split.
        finished[node.target] = min(finished[node.target], node.radius)
      else:
        heapq.heappush(leaves, (float(node.radius), next(count), node))
    if not leaves or leaves[0][0] >= finished.min():
      break
    if time.monotonic() > deadline:
      break
    chosen = [
      heapq.heappop(leaves)[2] for _ in range(min(len(leaves), BATCH // 2))
    ]
    nodes = _improve(setting, [kid for node in chosen for kid in _split(node)])
  for radius, _, node in leaves:
    finished[node.target] = min(finished[node.target], radius)
  return np.maximum(lower, finished)


def _split(node):
  """Return the two nodes in which the chosen ReLU has one sign each."""
  sizes = [low.size for low, _ in node.boxes]
  starts = np.cumsum([0, *sizes])
  layer = int(np.searchsorted(starts, node.choice, side='right')) - 1
  unit = int(node.choice) - starts[layer]
  kids = []
  for end in (0, 1):
    boxes = [tuple(np.array(v) for v in box) for box in node.boxes]
    boxes[layer][1 - end][unit] = 0.0
    kids.append(node._replace(boxes=boxes))
  return kids
