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
the squares behind W_i are at most those before it. Nothing has to be optimal
for the bound to hold; with L = 0 it is the dual of the linear relaxation.

Sources: the semidefinite relaxation of Raghunathan, Steinhardt, Liang (2018),
https://arxiv.org/abs/1811.01057, its dual and first-order ascent with an
eigenvalue by Dathathri et al. (2020), https://arxiv.org/abs/2010.11645, the
minimum over single units by Dvijotham et al. (2018),
https://arxiv.org/abs/1803.06567. Deviations: one eigenvalue for each layer
instead of one for the whole network, and exact minima over single ReLUs.
"""

import functools
from typing import Any
from typing import NamedTuple

import jax
import jax.numpy as jnp

from dmm_jax.certify import regions
from dmm_jax.certify import relaxation

EIGENVALUE_RTOL = 1e-9  # Above any rounding of `eigvalsh` in float64.
FIRST, LATER = 4.0, 0.5  # First curvatures, in units of slopes over widths.
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
    slopes: g_i `[n_i]`.
    curvatures: log L_i `[n_i]`.
    centres: of what goes into layer i `[n_(i-1)]`; of the input first.
    weights: log d_i of the same.
    ball: log of the multiplier of the input's norm, for l1 and l2.
  """

  slopes: list
  curvatures: list
  centres: list
  weights: list
  ball: jax.Array


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
    bend = self.curvature - self.e
    below = _turning_point(self.curvature, pull, low, zero)
    above = _turning_point(bend, pull - self.a - self.e * self.h, zero, high)
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
  multiplier = jnp.where(problem.norm == jnp.inf, 0.0, jnp.exp(duals.ball))
  total = total + _input_minimum(a, e, h, multiplier, problem)
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
  layers, row = problem.layers, problem.row
  # What is always 0 is at its centre.
  centres = [duals.centres[0]] + [
    jnp.where(high > 0, h, 0.0)
    for h, (_, high) in zip(duals.centres[1:], problem.boxes, strict=False)
  ]
  terms, a, e, h = [], row, jnp.zeros_like(row), jnp.zeros_like(row)
  for i in reversed(range(len(layers))):
    w, b = layers[i]
    g, curvature = duals.slopes[i], jnp.exp(duals.curvatures[i])
    terms.append(Term(a, e, h, g, curvature, centres[i] @ w + b))
    a, e, h = w @ g, tops[i] * jnp.exp(duals.weights[i]), centres[i]
  return terms[::-1], (a, e, h)


def _input_minimum(q, e, centre, multiplier, problem):
  """Return the minimum over a region of the terms of the input, a scalar.

  These are q . x' - e/2 (x' - centre)^2; the ball is relaxed by its multiplier
  in l1 and l2, and is a part of the box in linf.
  """
  region, norm = problem.region, problem.norm
  low = -jnp.minimum(region.down, region.radius)
  high = jnp.minimum(region.up, region.radius)
  l1, l2 = norm == 1, norm == 2

  def value(v):
    bent = jnp.where(l2, multiplier, 0.0) * v**2
    bent = bent - e * (region.x + v - centre) ** 2
    return q * (region.x + v) + bent / 2 + jnp.where(l1, multiplier, 0) * abs(v)

  bend = jnp.where(l2, multiplier, 0.0) - e
  slope = e * (centre - region.x) + q
  least = jnp.where(bend > 0, -slope / jnp.where(bend > 0, bend, 1.0), low)
  least = jax.lax.stop_gradient(jnp.clip(least, low, high))
  zero = jnp.zeros_like(low)
  ends = [value(v) for v in (low, high, zero, least)]
  limit = jnp.where(l1, region.radius, jnp.where(l2, region.radius**2 / 2, 0.0))
  return jnp.sum(functools.reduce(jnp.minimum, ends)) - multiplier * limit


def products(duals: Duals, layers: Any) -> list:
  """Return functions that apply each layer's matrix of t to columns."""

  def product(w, curvature, weight):
    root = jnp.exp(curvature / 2)[:, None]
    return lambda v: (
      root * (w.T @ ((w @ (root * v)) / jnp.exp(weight)[:, None]))
    )

  return [
    product(w, *of_layer)
    for (w, _), *of_layer in zip(
      layers, duals.curvatures, duals.weights, strict=True
    )
  ]


def eigenvalues(duals: Duals, layers: Any) -> list:
  """Return an upper bound of each layer's t."""
  found = []
  for product, (_, b) in zip(products(duals, layers), layers, strict=True):
    matrix = product(jnp.eye(b.size))
    top = jnp.linalg.eigvalsh((matrix + matrix.T) / 2)[-1]
    found.append(jnp.maximum(top, 0.0) * (1 + EIGENVALUE_RTOL))
  return found


def start(problem: Problem) -> tuple[Duals, Units]:
  """Return duals of the linear relaxation, with curvatures, and their units."""
  layers, row, _, boxes, region, norm = problem
  slopes: list[jax.Array] = []
  units: list[jax.Array] = []
  widths: list[jax.Array] = []
  a = row
  for (w, _), (low, high) in reversed(list(zip(layers, boxes, strict=True))):
    relaxed = relaxation.relax(low, high)
    slopes.append(a * jnp.where(a < 0, relaxed.upper, relaxed.lower))
    units.append(jnp.sqrt(jnp.mean(a**2)) + 1e-30)
    width = jnp.mean(high - low) / 2
    widths.append(jnp.where(width > 0, width, 1.0))
    a = w @ slopes[-1]
  slopes, units, widths = (v[::-1] for v in (slopes, units, widths))
  centres, weights = _centres(problem)
  curvatures = [
    jnp.full(b.size, jnp.log(FIRST if i == 0 else LATER) + jnp.log(s / v))
    for i, ((_, b), s, v) in enumerate(zip(layers, units, widths, strict=True))
  ]
  ball = _ball(a, region, norm)
  duals = Duals(slopes, curvatures, centres, weights, ball)
  return duals, Units(units, widths)


def _centres(problem):
  """Return centres and log weights of what goes into each layer."""
  region = problem.region
  down = jnp.minimum(region.down, region.radius)
  up = jnp.minimum(region.up, region.radius)
  # In linf the ball is a box, and has a middle; in l1 and l2 it is around x.
  shift = jnp.where(problem.norm == jnp.inf, (up - down) / 2, 0.0)
  centres = [region.x + shift]
  weights = [-jnp.log((down + up) / 2 + 0.05 * region.radius)]
  for (w, b), (_, high) in zip(
    problem.layers[:-1], problem.boxes[:-1], strict=True
  ):
    value = jnp.maximum(centres[-1] @ w + b, 0.0)
    centres.append(jnp.where(high <= 0, 0.0, value))
    weights.append(jnp.where(high <= 0, CONSTANT, 0.0))
  return centres, weights


def _ball(q, region, norm):
  """Return the log of the ball's multiplier that suits a linear function."""
  size = jnp.abs(q)[None]
  slack = jnp.where(q > 0, region.down, region.up)[None]
  slack = jnp.minimum(slack, region.radius)
  of_l1 = regions.dual_l1(size, slack, region.radius)[0]
  of_l2 = 1 / regions.scale_l2(size, slack, region.radius)[0]
  found = jnp.where(norm == 1, of_l1, of_l2)
  return jnp.log(found + 1e-3 * jnp.mean(size) + 1e-30)
