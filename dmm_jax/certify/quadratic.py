"""Lower bounds of margins that use quadratic terms (Lagrangian relaxation).

A linear relaxation bounds each ReLU within its own interval, as if all of them
could be extreme at once. How far the values of a layer can be from a centre
together is limited by the layer's spectral norm, which terms in the squares of
these values express. With any slopes g_i, curvatures L_i >= 0 and weights
d_i > 0 the margin is at least

  sum_i sum_j min_z [a relu(z) - e/2 (relu(z) - h)^2 - g z + L/2 (z - c)^2]
  + min_x [terms of the input] + sum_i g_i . b_i,

where each minimum is of one unit j of layer i, over its interval, and is a
closed form: a = W_{i+1} g_{i+1} and e = t_{i+1} d_{i+1} come from the layer
behind, and t_i = max eigenvalue of L_i^(1/2) W_i' D_i^-1 W_i L_i^(1/2), so that
the squares behind W_i are at most those before it. In an l1 ball of radius r
the first layer's are at most r^2 max_k sum_j L_j W_kj^2: a convex function is
largest at a vertex. Nothing has to be optimal for the bound to hold; with L = 0
it is the dual of the linear relaxation. A ReLU whose interval has one sign is
linear: its g and L are such that its term is constant.

Sources: the semidefinite relaxation of Raghunathan, Steinhardt, Liang (2018),
https://arxiv.org/abs/1811.01057, its dual and first-order ascent with an
eigenvalue by Dathathri et al. (2020), https://arxiv.org/abs/2010.11645, the
minimum over single units by Dvijotham et al. (2018),
https://arxiv.org/abs/1803.06567. Deviations: one eigenvalue for each layer
instead of one for the whole network, and exact minima over single ReLUs.
"""

from collections.abc import Callable
from typing import Any
from typing import NamedTuple

import jax
import jax.numpy as jnp

from dmm_jax.certify import regions
from dmm_jax.certify import relaxation

EIGENVALUE_RTOL = 1e-9  # Above any rounding of `eigvalsh` in float64.
EVEN = 0.02  # First curvature of every ReLU, in units of slopes over widths.
# Logs of the factors of curvatures that are tried at the start, and how many;
# with smaller ones the ascent has far to go.
FACTORS, NUM_FACTORS = (-2.3, 4.6), 7
POWER_STEPS = 8  # For t of each of these.
# Of the eigenvalues, or columns, that count, relative to the largest.
SPREAD = 0.02
BISECTIONS = 16  # For the multiplier of the ball.
CONSTANT = 12.0  # Log of the weight of what is always 0.


class Problem(NamedTuple):
  """A margin `row @ h + offset` over a region, h the output of the last ReLUs.

  Attributes:
    layers: hidden layers `[(W, b), ...]`, float64.
    row, offset: the margin as a function of h.
    boxes: `[(low, high), ...]` of the values before every ReLU; they have to
      hold in the region.
    region: a ball within a box.
    norm: 1, 2 or inf, traced.
  """

  layers: Any
  row: jax.Array
  offset: jax.Array
  boxes: list
  region: regions.Region
  norm: jax.Array

  def within(self, radius: jax.Array) -> 'Problem':
    """Return the problem of a ball that is not larger."""
    return self._replace(region=self.region._replace(radius=radius))


class Duals(NamedTuple):
  """Dual variables of one margin; each list has an entry for each hidden layer.

  Attributes:
    slopes: g_i `[n_i]`; those of ReLUs of one sign have no effect.
    curvatures: log L_i `[n_i]`, as `slopes`; see `bend`.
    centres: of what goes into layer i `[n_(i-1)]`; of the input first.
    weights: log d_i of the same.
  """

  slopes: list
  curvatures: list
  centres: list
  weights: list


class Units(NamedTuple):
  """Sizes, one a layer: of slopes, and of half the intervals."""

  slopes: list
  widths: list


class Term(NamedTuple):
  """The term of each ReLU of a layer, `[n]` each.

  a relu(z) - e/2 (relu(z) - h)^2 - g z + curvature/2 (z - centre)^2
  """

  a: jax.Array
  e: jax.Array
  h: jax.Array
  g: jax.Array
  curvature: jax.Array
  centre: jax.Array

  def value(self, z: jax.Array) -> jax.Array:
    """Return the terms at values z before the ReLU."""
    r = jnp.maximum(z, 0.0)
    bent = self.curvature * (z - self.centre) ** 2 - self.e * (r - self.h) ** 2
    return self.a * r - self.g * z + bent / 2

  def minima(self, low: jax.Array, high: jax.Array) -> tuple:
    """Return where the terms are least, on either side of 0.

    They are quadratic there: least at an end or where the slope is 0. Sides
    that are outside `[low, high]` are empty, and have its nearest end.
    """
    zero = jnp.clip(0.0, low, high)
    pull = self.g + self.curvature * self.centre
    convex = self.curvature - self.e
    below = _turning_point(self.curvature, pull, low, zero)
    above = _turning_point(convex, pull - self.a - self.e * self.h, zero, high)
    best = lambda u, v: jnp.where(self.value(u) < self.value(v), u, v)
    below, above = best(best(low, zero), below), best(best(high, zero), above)
    return jax.lax.stop_gradient((below, above))

  def least(self, low: jax.Array, high: jax.Array) -> jax.Array:
    """Return the terms' minima over `[low, high]`."""
    below, above = self.minima(low, high)
    return jnp.minimum(self.value(below), self.value(above))


def _turning_point(bend, slope, low, high):
  """Where bend/2 z^2 - slope z is least within an interval, if it is convex."""
  z = jnp.where(bend > 0, slope / jnp.where(bend > 0, bend, 1.0), low)
  return jnp.clip(z, low, high)


def margin(duals: Duals, tops: list, problem: Problem) -> jax.Array:
  """Return a lower bound of a margin over its region.

  What rounding may do is subtracted, as in `regions`.

  Args:
    duals: any.
    tops: for each hidden layer an upper bound of its t, as `eigenvalues` gives.
    problem: the margin and the region.
  """
  terms, (a, e, h) = unit_terms(duals, tops, problem)
  total, size = problem.offset, jnp.abs(problem.offset)
  for term, (_, b), (low, high) in zip(
    terms, problem.layers, problem.boxes, strict=True
  ):
    total = total + jnp.sum(term.least(low, high)) + term.g @ b
    size = size + _rounded(term, b, jnp.maximum(jnp.abs(low), jnp.abs(high)))
  total = total + _input_minimum(a, e, h, problem) - _l1_term(tops, problem)
  reach = jnp.abs(problem.region.x) + problem.region.radius
  size = size + jnp.sum(jnp.abs(a) * reach + e * (reach + jnp.abs(h)) ** 2)
  return total - regions.ROUNDING * jax.lax.stop_gradient(size)


def _rounded(term, b, reach):
  """Return the sum of the sizes of what a layer adds to a margin."""
  linear = (jnp.abs(term.a) + jnp.abs(term.g)) * reach
  linear = linear + jnp.abs(term.g) * (jnp.abs(b) + reach)
  bent = term.curvature * (reach + jnp.abs(term.centre)) ** 2
  return jnp.sum(linear + bent + term.e * (reach + jnp.abs(term.h)) ** 2)


def unit_terms(duals: Duals, tops: list, problem: Problem) -> tuple:
  """Return the `Term` of each layer, and a, e, h of the input.

  Arguments are those of `margin`.
  """
  layers, row, region = problem.layers, problem.row, problem.region
  # In l1 the ball's vertices are around x; what is always 0 is at its centre.
  centres = [jnp.where(problem.norm == 1, region.x, duals.centres[0])] + [
    jnp.where(high > 0, h, 0.0)
    for h, (_, high) in zip(duals.centres[1:], problem.boxes, strict=False)
  ]
  terms, a, e, h = [], row, jnp.zeros_like(row), jnp.zeros_like(row)
  for i in reversed(range(len(layers))):
    (w, b), box = layers[i], problem.boxes[i]
    z, curvature = centres[i] @ w + b, bend(duals.curvatures[i], e, box)
    g = _by_sign(box, 0.0, duals.slopes[i], a + e * (h - z))
    terms.append(Term(a, e, h, g, curvature, z))
    a, e, h = w @ g, tops[i] * jnp.exp(duals.weights[i]), centres[i]
  return terms[::-1], (a, jnp.where(problem.norm == 1, 0.0, e), h)


def _by_sign(box, off, both, on):
  """Return a value for ReLUs that are always 0, of both signs, or linear."""
  return jnp.where(box[1] <= 0, off, jnp.where(box[0] >= 0, on, both))


def bend(curvatures: jax.Array, e: jax.Array, box: tuple) -> jax.Array:
  """Return L `[n]` of a layer's ReLUs.

  That of one that is linear makes up for e, so that its term is constant; one
  that is always 0 needs none.

  Args:
    curvatures: the duals of this name.
    e: of the layer behind.
    box: intervals of the values before the ReLUs.
  """
  return _by_sign(box, 0.0, jnp.exp(curvatures), e)


def _input_minimum(q, e, centre, problem):
  """Return a lower bound of the terms of the input over a region, a scalar.

  These are q . x' - e/2 (x' - centre)^2. In linf the ball is a part of the box;
  in l1 and l2 it is relaxed by its multiplier, near the best one, which lies
  where the minimum leaves the ball: on both sides of it minima may differ, and
  the derivative is that of their mixture which is on the sphere.
  """
  region, ball = problem.region, problem.norm < jnp.inf
  slope = q + e * (centre - region.x)
  fixed = jax.lax.stop_gradient((slope, e))
  above, below = _multipliers(*fixed, problem)
  value = _ball_terms(slope, e, above, problem)
  inner, outer = (
    _minimizer(*fixed, multiplier, problem) for multiplier in (above, below)
  )
  room, excess = -_excess(inner, problem), _excess(outer, problem)
  split = ball & (excess > 0) & (room > 0)
  share = jnp.where(split, room / jnp.where(split, room + excess, 1.0), 0.0)
  least = value(inner)
  mixed = share * value(outer) + (1 - share) * least
  least = mixed + jax.lax.stop_gradient(least - mixed)
  at_x = jnp.sum(q * region.x - e * (region.x - centre) ** 2 / 2)
  return at_x + least - above * _limit(problem)


def _l1_term(tops, problem):
  """Return what the squares of the first layer take in l1, at most."""
  return jnp.where(problem.norm == 1, tops[0] * problem.region.radius**2 / 2, 0)


def _ends(region):
  """Return the interval of each coordinate of a step in a region."""
  low = -jnp.minimum(region.down, region.radius)
  return low, jnp.minimum(region.up, region.radius)


def _limit(problem):
  """Return the most that the multiplier's term is in the ball."""
  radius = problem.region.radius
  return jnp.where(problem.norm == 1, radius, radius**2 / 2)


def _excess(v, problem):
  """Return by how much the multiplier's term exceeds its limit."""
  of_l1, of_l2 = jnp.sum(jnp.abs(v)), jnp.sum(v**2) / 2
  return jnp.where(problem.norm == 1, of_l1, of_l2) - _limit(problem)


def _ball_terms(slope, e, multiplier, problem):
  """Return the sum over coordinates of the terms of a step, as a function."""
  l1 = jnp.where(problem.norm == 1, multiplier, 0.0)
  l2 = jnp.where(problem.norm == 2, multiplier, 0.0)
  return lambda v: jnp.sum(slope * v + (l2 - e) * v**2 / 2 + l1 * jnp.abs(v))


def _minimizer(slope, e, multiplier, problem):
  """Return the step at which the terms of each coordinate are least."""
  low, high = _ends(problem.region)
  l1 = jnp.where(problem.norm == 1, multiplier, 0.0)
  convex = jnp.where(problem.norm == 2, multiplier, 0.0) - e
  pull = jnp.sign(slope) * jnp.maximum(jnp.abs(slope) - l1, 0.0)
  turn = jnp.where(convex > 0, -pull / jnp.where(convex > 0, convex, 1.0), 0.0)
  best = jnp.clip(turn, low, high)
  value = lambda v: slope * v + convex * v**2 / 2 + l1 * jnp.abs(v)
  for end in (low, high):
    best = jnp.where(value(end) < value(best), end, best)
  return best


def _multipliers(slope, e, problem):
  """Return multipliers of the ball on both sides of the best, the larger first.

  Both are 0 in linf.
  """
  l2 = jnp.max(e) + jnp.linalg.norm(slope) / (problem.region.radius + 1e-30)
  l1 = jnp.max(jnp.abs(slope) + e * problem.region.radius)
  most = jnp.select([problem.norm == 1, problem.norm == 2], [l1, l2], 0.0)

  def bisect(_, bracket):
    below, above = bracket
    middle = (below + above) / 2
    outside = _excess(_minimizer(slope, e, middle, problem), problem) > 0
    return jnp.where(outside, middle, below), jnp.where(outside, above, middle)

  bracket = jnp.zeros_like(most), most
  below, above = jax.lax.fori_loop(0, BISECTIONS, bisect, bracket)
  return above, below


def tops_by(top_fn: Callable, duals: Duals, problem: Problem) -> list:
  """Return what `top_fn` gives for each layer's matrix of t.

  In l1 the first is that of the largest column instead.

  Args:
    top_fn: number of the layer, and the function that applies the matrix to
      columns -> t.
    duals, problem: as of `margin`.
  """
  return _backward(top_fn, lambda i, e: duals.curvatures[i], duals, problem)[0]


def _backward(top_fn, curvature_fn, duals, problem):
  """Return t of each layer, and log curvatures, from the last on.

  A layer's curvatures may depend on e, which the t behind gives.
  """
  tops, curvatures, e = [], [], jnp.zeros_like(problem.layers[-1][1])
  for i in reversed(range(len(problem.layers))):
    w, _ = problem.layers[i]
    curvatures.append(curvature_fn(i, e))
    bent = bend(curvatures[-1], e, problem.boxes[i])
    top = top_fn(i, _product(w, bent, duals.weights[i]))
    if i == 0:
      top = jnp.where(problem.norm == 1, _largest_column(w, bent), top)
    tops.append(top)
    e = top * jnp.exp(duals.weights[i])
  return tops[::-1], curvatures[::-1]


def _product(w, curvature, weight):
  """Return the function that applies L^(1/2) W' D^-1 W L^(1/2) to columns."""
  bent = curvature > 0
  root = jnp.where(bent, jnp.sqrt(jnp.where(bent, curvature, 1.0)), 0.0)
  root, inner = root[:, None], jnp.exp(-weight)[:, None]
  return lambda v: root * (w.T @ (inner * (w @ (root * v))))


def _largest_column(w, curvature):
  """Return an upper bound of v' W L W' v over all v of l1 norm 1.

  It is convex, so largest at a vertex. The derivative is spread over the inputs
  that are close to the largest, as several meet there at the optimum.
  """
  sizes = w**2 @ curvature
  fixed = jax.lax.stop_gradient(sizes)
  top = jnp.max(fixed) * (1 + EIGENVALUE_RTOL)
  mean = jax.nn.softmax(fixed / (SPREAD * top + 1e-300)) @ sizes
  return mean + jax.lax.stop_gradient(top - mean)


def eigenvalues(duals: Duals, problem: Problem) -> list:
  """Return an upper bound of each layer's t."""

  def largest(i, product):
    matrix = product(jnp.eye(problem.layers[i][1].size))
    top = jnp.linalg.eigvalsh((matrix + matrix.T) / 2)[-1]
    return jnp.maximum(top, 0.0) * (1 + EIGENVALUE_RTOL)

  return tops_by(largest, duals, problem)


def start(problem: Problem) -> tuple[Duals, Units]:
  """Return duals of the linear relaxation, with curvatures, and their units."""
  slopes: list[jax.Array] = []
  bends: list[jax.Array] = []
  units: list[jax.Array] = []
  widths: list[jax.Array] = []
  a = problem.row
  for (w, _), (low, high) in reversed(
    list(zip(problem.layers, problem.boxes, strict=True))
  ):
    relaxed = relaxation.relax(low, high)
    slopes.append(a * jnp.where(a < 0, relaxed.upper, relaxed.lower))
    units.append(jnp.sqrt(jnp.mean(a**2)) + 1e-30)
    width = jnp.mean(high - low) / 2
    widths.append(jnp.where(width > 0, width, 1.0))
    # Of concave kinks, which lose most, by their height over their width.
    own = jnp.where(high > low, high - low, 1.0)
    bends.append(jnp.maximum(-a, 0.0) / own + EVEN * units[-1] / widths[-1])
    a = w @ slopes[-1]
  slopes, bends, units, widths = (
    v[::-1] for v in (slopes, bends, units, widths)
  )
  centres, weights = _centres(problem)
  duals = Duals(slopes, [jnp.log(v) for v in bends], centres, weights)
  return _scale(duals, problem), Units(units, widths)


def _scale(duals, problem):
  """Return the duals with curvatures of the best size, a factor a layer.

  Besides, each layer's make up for what the layer behind takes.
  """

  def scaled(factors):
    own = lambda i: jnp.exp(duals.curvatures[i] + factors[i])
    total = lambda i, e: jnp.log(own(i) + e)
    tops, curvatures = _backward(power, total, duals, problem)
    return duals._replace(curvatures=curvatures), tops

  def power(i, product):
    """An estimate of t, by the power method."""
    size = problem.layers[i][1].size
    v = jax.random.normal(jax.random.key(0), (size, 1), problem.row.dtype)
    for _ in range(POWER_STEPS):
      v = product(v / (jnp.linalg.norm(v) + 1e-300))
    return jnp.linalg.norm(v)

  def best(i, factors):
    """The factors, that of layer i the best of all choices."""
    given = lambda f: [*factors[:i], f, *factors[i + 1 :]]
    values = jax.lax.map(lambda f: margin(*scaled(given(f)), problem), choices)
    return given(choices[jnp.argmax(values)])

  choices = jnp.linspace(*FACTORS, NUM_FACTORS)
  factors = [choices[0]] * len(problem.layers)
  for i in reversed(range(len(factors))):
    factors = best(i, factors)
  return scaled(factors)[0]


def _centres(problem):
  """Return centres and log weights of what goes into each layer."""
  region = problem.region
  low, high = _ends(region)
  # In linf the ball is a box, and has a middle; in l1 and l2 it is around x.
  shift = jnp.where(problem.norm == jnp.inf, (low + high) / 2, 0.0)
  centres = [region.x + shift]
  weights = [-jnp.log((high - low) / 2 + 0.05 * region.radius)]
  for (w, b), (_, high) in zip(
    problem.layers[:-1], problem.boxes[:-1], strict=True
  ):
    value = jnp.maximum(centres[-1] @ w + b, 0.0)
    centres.append(jnp.where(high <= 0, 0.0, value))
    weights.append(jnp.where(high <= 0, CONSTANT, 0.0))
  return centres, weights
