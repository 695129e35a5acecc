"""Ascent of the duals of quadratic bounds, and the radii that they certify."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from dmm_jax.certify import quadratic
from dmm_jax.certify import relaxation

BLOCK = 6  # Vectors that follow the largest eigenvalues.
PHASES = 4
# Radii of the phases, relative to what is certified: the first, one after a
# whole ball was, and after a part of it.
FIRST_RADIUS, GROWTH, NEXT_RADIUS = 1.6, 1.12, 1.03
TIGHTENING = 20  # Steps of Adam for the intervals.
BISECTIONS = 40
# Steps of Adam, in units of each variable.
RATES = {
  'slopes': 0.05,
  'curvatures': 0.15,
  'centres': 0.03,
  'weights': 0.12,
}
# Beside the ball's multiplier the weights of the input are stiff: the sum of
# their steps is limited.
INPUT_TRAVEL = 1.2


def step_sizes(
  units: quadratic.Units, norm: jax.Array, num_steps: int
) -> quadratic.Duals:
  """Return steps of the duals, from those in `RATES` and the units.

  Args:
    units: as `quadratic.start` returns them.
    norm: 1, 2 or inf, traced.
    num_steps: of the ascent.
  """
  later = len(units.slopes) - 1
  weights, ball = jnp.asarray(RATES['weights']), INPUT_TRAVEL / num_steps
  return quadratic.Duals(
    [RATES['slopes'] * u for u in units.slopes],
    [jnp.asarray(RATES['curvatures'])] * (later + 1),
    # The input's centre stays.
    [jnp.asarray(0.0)] + [RATES['centres'] * u for u in units.widths[:-1]],
    [jnp.where(norm < jnp.inf, ball, weights)] + [weights] * later,
  )


def _adam(num_steps):
  schedule = optax.cosine_decay_schedule(1.0, num_steps)
  return optax.adam(schedule, b1=0.9, b2=0.98)


def _move(value, update, rate):
  return value + rate * update


def ascend(
  duals: quadratic.Duals,
  rates: quadratic.Duals,
  problem: quadratic.Problem,
  num_steps: int,
) -> quadratic.Duals:
  """Return the duals after `num_steps` of Adam that raise a margin's bound.

  Args:
    duals: as of `quadratic.start`.
    rates: steps of each variable, as of `step_sizes`.
    problem: the margin and its region.
    num_steps: 1 or more.
  """
  layers, optimizer = problem.layers, _adam(num_steps)

  def loss(duals, vectors):
    followed = list(vectors)

    def top(i, product):
      estimate, followed[i] = _follow(product, vectors[i])
      return estimate

    tops = quadratic.tops_by(top, duals, problem)
    return -quadratic.margin(duals, tops, problem), followed

  def step(_, state):
    duals, moments, vectors = state
    descent, vectors = jax.grad(loss, has_aux=True)(duals, vectors)
    update, moments = optimizer.update(descent, moments)
    return jax.tree.map(_move, duals, update, rates), moments, vectors

  keys = jax.random.split(jax.random.key(0), len(layers))
  vectors = [
    jax.random.normal(key, (b.size, min(BLOCK, b.size)), b.dtype)
    for key, (_, b) in zip(keys, layers, strict=True)
  ]
  state = duals, optimizer.init(duals), vectors
  return jax.lax.fori_loop(0, num_steps, step, state)[0]


def _follow(product, vectors):
  """Return an estimate of the largest eigenvalue, and the next vectors.

  One step of subspace iteration; the derivative is spread over eigenvalues that
  are close to the largest, as several meet there at the optimum.
  """
  basis, _ = jnp.linalg.qr(vectors)
  image = product(basis)
  small = basis.T @ image
  fixed = jax.lax.stop_gradient((small + small.T) / 2)
  values, vectors = jnp.linalg.eigh(fixed)
  share = jax.nn.softmax(values / (quadratic.SPREAD * values[-1] + 1e-300))
  mean = jnp.sum((vectors * share[None]) @ vectors.T * small)
  top = mean + jax.lax.stop_gradient(values[-1] - mean)
  size = jnp.maximum(jnp.abs(values), 1e-300)
  return top, jax.lax.stop_gradient(image) @ (vectors / size[None])


def largest_radius(
  duals: quadratic.Duals, tops: list, problem: quadratic.Problem
) -> jax.Array:
  """Return a radius, up to the problem's, whose bound is positive, or 0.

  By bisection, as the bound falls with the radius.
  """
  certified = lambda r: quadratic.margin(duals, tops, problem.within(r)) > 0
  cap = problem.region.radius

  def bisect(_, bracket):
    low, high = bracket
    middle = (low + high) / 2
    enough = certified(middle)
    return jnp.where(enough, middle, low), jnp.where(enough, high, middle)

  bracket = jnp.zeros_like(cap), cap
  low, _ = jax.lax.fori_loop(0, BISECTIONS, bisect, bracket)
  return jnp.where(certified(cap), cap, low)


def tighten(duals: quadratic.Duals, problem: quadratic.Problem) -> list:
  """Return narrower intervals of the values before every ReLU but the first's.

  Each is bounded as a margin is, with curvatures of one shape for all units,
  those of `duals`, and a factor for each unit: tops then change by the factor.
  """
  boxes = list(problem.boxes)
  for i, (_, b) in enumerate(problem.layers):
    entries = 2 * b.size * sum(v.size for _, v in problem.layers[:i])
    if i and entries <= relaxation.MAX_SLOPES:
      least = _unit_bounds(i, duals, problem._replace(boxes=boxes))
      low, high = boxes[i]
      # Rounding must not leave an interval empty.
      low = jnp.minimum(jnp.maximum(low, least[: b.size]), high)
      boxes[i] = low, jnp.maximum(low, jnp.minimum(high, -least[b.size :]))
  return boxes


def _unit_bounds(i, duals, problem):
  """Return lower bounds of the values before layer i's ReLUs, and of minus."""
  w, b = problem.layers[i]
  rows, offsets = jnp.concatenate([w.T, -w.T]), jnp.concatenate([b, -b])
  problem = problem._replace(layers=problem.layers[:i], boxes=problem.boxes[:i])
  of_row = lambda row, offset: problem._replace(row=row, offset=offset)
  begin = lambda *given: quadratic.start(of_row(*given))
  first, units = jax.vmap(begin)(rows, offsets)
  size = jnp.sqrt(jnp.mean(duals.slopes[i - 1] ** 2)) + 1e-30
  duals = quadratic.Duals(*(v[:i] for v in duals))
  tops = quadratic.eigenvalues(duals, problem)

  def bound(row, offset, slopes, factor):
    curvatures = [v + factor for v in duals.curvatures]
    scaled = duals._replace(slopes=slopes, curvatures=curvatures)
    grown = [top * jnp.exp(factor) for top in tops]
    return quadratic.margin(scaled, grown, of_row(row, offset))

  bounds = lambda free: jax.vmap(bound)(rows, offsets, *free)
  rates = [RATES['slopes'] * u[:, None] for u in units.slopes]
  sizes = rates, jnp.asarray(RATES['curvatures'])
  optimizer = _adam(TIGHTENING)

  def loss(free):
    found = bounds(free)
    return -jnp.sum(found), found

  def step(_, state):
    free, moments, best = state
    descent, found = jax.grad(loss, has_aux=True)(free)
    update, moments = optimizer.update(descent, moments)
    free = jax.tree.map(_move, free, update, sizes)
    return free, moments, jnp.maximum(best, found)

  free = first.slopes, jnp.log(units.slopes[-1] / size)
  state = free, optimizer.init(free), jnp.full(len(rows), -jnp.inf)
  free, _, best = jax.lax.fori_loop(0, TIGHTENING, step, state)
  return jnp.maximum(best, bounds(free))


def margin_row(
  layers: Any, label: jax.Array, target: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """Return the margin to a class as a function of the last ReLUs' output."""
  w, b = layers[-1]
  return w[:, label] - w[:, target], b[label] - b[target]


def class_radii(
  layers: Any,
  label: jax.Array,
  region_fn: Callable,
  boxes_fn: Callable,
  first: jax.Array,
  cap: jax.Array,
  norm: jax.Array,
  *,
  num_steps: int,
) -> jax.Array:
  """Return radii in which each class is certified not to be reached, `[k]`.

  In each of `PHASES` intervals are computed for one radius and narrowed, and
  all classes' margins are raised there. The radius of the next phase is a
  little larger than that certified for all of them.

  Args:
    layers: as `layers.check` returns them, with a hidden layer at least.
    label: the class of the input.
    region_fn: radius -> region.
    boxes_fn: radius -> intervals of the values before every ReLU.
    first: a radius that the linear relaxation certifies.
    cap: the largest radius of use.
    norm: 1, 2 or inf, traced.
    num_steps: steps of Adam in each phase.
  """
  hidden, classes = layers[:-1], jnp.arange(layers[-1][1].size)
  others = classes != label

  def problem(target, radius, boxes):
    row, offset = margin_row(layers, label, target)
    given = hidden, row, offset, boxes, region_fn(radius), norm
    return quadratic.Problem(*given)

  def one_class(target, duals, rates, radius, boxes):
    given = problem(target, radius, boxes)
    duals = ascend(duals, rates, given, num_steps)
    tops = quadratic.eigenvalues(duals, given)
    return duals, largest_radius(duals, tops, given)

  def phase(_, state):
    duals, best, radius = state
    # The class that is the nearest so far gives the curvatures.
    nearest = jnp.argmin(best)
    one = jax.tree.map(lambda v: v[nearest], duals)
    boxes = tighten(one, problem(nearest, radius, boxes_fn(radius)))
    run = lambda *given: one_class(*given, radius, boxes)
    duals, found = jax.vmap(run)(classes, duals, rates)
    best = jnp.where(others, jnp.maximum(best, found), jnp.inf)
    least = jnp.min(best)
    growth = jnp.where(least >= radius, GROWTH, NEXT_RADIUS)
    return duals, best, jnp.minimum(growth * least, cap)

  radius = jnp.minimum(FIRST_RADIUS * first, cap)
  boxes = boxes_fn(radius)
  begin = lambda target: quadratic.start(problem(target, radius, boxes))
  duals, units = jax.vmap(begin)(classes)
  rates = jax.vmap(lambda u: step_sizes(u, norm, num_steps))(units)
  state = duals, jnp.where(others, first, jnp.inf), radius
  return jax.lax.fori_loop(0, PHASES, phase, state)[1]
