"""Where the class changes on a segment or a ray."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dmm_jax import norms
from dmm_jax.boundary import network as network_lib
from dmm_jax.boundary import point as point_lib
from dmm_jax.boundary import problem as problem_lib
from dmm_jax.boundary import subspace
from dmm_jax.boundary.point import Status

FORWARDS = 4  # Of `find_crossing`; enough for steps that end close by.
# Margin, relative to that at the input, at which a crossing survives
# re-evaluation.
RELIABLE = 1e-6


class Crossing(NamedTuple):
  """Where the class first changes on a ray.

  Attributes:
    distance: from the start, in the norm asked for; inf if not found.
    point: the crossing, on its far side; the start itself if not found.
    found: whether the class changed within reach.
    target: the class there; meaningless if not found.
    margin: the label's margin there, in logits; likewise.
    forwards: forward evaluations used.
  """

  distance: jax.Array
  point: jax.Array
  found: jax.Array
  target: jax.Array
  margin: jax.Array
  forwards: jax.Array


def refine_crossing(
  problem: problem_lib.Problem,
  segment: point_lib.Segment,
  *,
  tolerance: jax.Array | float,
  before: jax.Array | float = 0.0,
  max_forwards: int = 40,
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
  """Moves the outer end of a crossing segment inwards, onto the boundary.

  Chandrupatla's bracketed root finder, started with a secant step: inverse
  quadratic interpolation where it can be trusted, else bisection. The bracket
  always holds a crossing; where the segment holds several, any may be found.

  Source: Chandrupatla (1997), "A new hybrid quadratic/bisection algorithm for
  finding the zero of a nonlinear function without using derivatives",
  https://doi.org/10.1016/S0965-9978(96)00051-8. The first step is a secant
  instead of a bisection: margins of ReLU networks are piecewise linear, and on
  a linear piece two evaluations then finish.

  Args:
    problem: gives the network and the label.
    segment: crossing (`margin_inner` >= 0 > `margin_outer`).
    tolerance: as a fraction of the way to the crossing; > 0.
    before: length of that way as far as the segment's inner end, in units of
      the segment's length.
    max_forwards: evaluations at most.

  Returns:
    `(outer, margin, target, forwards)`: a point with margin < 0, at most
    `tolerance` of the way to it beyond a crossing, and the class that leads
    there.
  """
  allowed = lambda a, b: tolerance * (before + jnp.maximum(a, b))

  def unfinished(s):
    wide = jnp.abs(s['b'] - s['a']) > allowed(s['a'], s['b'])
    return wide & (s['forwards'] < max_forwards)

  def step(s):
    t = s['a'] + s['t'] * (s['b'] - s['a'])
    p = segment.inner + t * (segment.outer - segment.inner)
    margin = problem_lib.margin_at(problem, p)
    f, beyond = margin.value, margin.value < 0
    same = beyond == (s['fa'] < 0)
    c, fc = jnp.where(same, s['a'], s['b']), jnp.where(same, s['fa'], s['fb'])
    b, fb = jnp.where(same, s['b'], s['a']), jnp.where(same, s['fb'], s['fa'])
    return dict(
      a=t,
      b=b,
      fa=f,
      fb=fb,
      t=_next_fraction(t, b, c, f, fb, fc, allowed(t, b)),
      outer=jnp.where(beyond, p, s['outer']),
      margin=jnp.where(beyond, margin.plain, s['margin']),
      target=jnp.where(beyond, margin.runner_up, s['target']),
      forwards=s['forwards'] + 1,
    )

  fa, fb = segment.margin_inner, segment.margin_outer
  # Where the inner margin is NaN: bisection.
  first = jnp.where(fa > fb, fa / (fa - fb), 0.5)
  zero = jnp.zeros_like(fa)
  start = dict(
    a=zero,
    b=zero + 1,
    fa=fa,
    fb=fb,
    t=jnp.clip(first, allowed(0, 1) / 2, 1 - allowed(0, 1) / 2),
    outer=segment.outer,
    margin=fb,
    target=segment.target,
    forwards=jnp.zeros((), jnp.int32),
  )
  end = jax.lax.while_loop(unfinished, step, start)
  return end['outer'], end['margin'], end['target'], end['forwards']


def _next_fraction(a, b, c, fa, fb, fc, tolerance):
  """The next evaluation between a and b, as a fraction of the way to b."""
  xi, phi = (a - b) / (c - b), (fa - fb) / (fc - fb)
  trusted = (phi**2 < xi) & ((1 - phi) ** 2 < 1 - xi)
  inverse = fa / (fb - fa) * fc / (fb - fc)
  inverse += (c - a) / (b - a) * fa / (fc - fa) * fb / (fc - fb)
  least = tolerance / 2 / jnp.abs(b - a)
  return jnp.clip(jnp.where(trusted, inverse, 0.5), least, 1 - least)


class RayPoint(NamedTuple):
  """The point of a ray nearest to the boundary that was evaluated.

  Attributes:
    point: just beyond the boundary; the nearest to it if none was found.
    found: whether `point` lies beyond.
    margin, runner_up: as in `problem.Margin`, at `point`.
    forwards: forward evaluations used.
  """

  point: jax.Array
  found: jax.Array
  margin: jax.Array
  runner_up: jax.Array
  forwards: int


def find_crossing(
  problem: problem_lib.Problem, step: jax.Array, num_forwards: int = FORWARDS
) -> RayPoint:
  """Follows the ray along a step to the boundary, inwards or outwards.

  For steps that end close to the boundary: regula falsi between the input and
  the step's end (the Illinois variant), once one of these lies beyond; else
  secants outwards, that grow where the margin does not fall. The path is the
  ray's projection on the box; in a subspace, which that path would leave, it is
  the ray up to where it leaves the box. Costs the same for every example.

  Args:
    problem: whose input is the ray's start.
    step: as the input.
    num_forwards: evaluations.

  Returns:
    A `RayPoint`, the innermost that was beyond.
  """
  x, low, high, first = problem.x, problem.low, problem.high, problem.margin
  straight = problem.project is not None
  most = subspace.reach(step, *problem.step_bounds) if straight else jnp.inf
  along = lambda t: jnp.clip(x + jnp.minimum(t, most) * step, low, high)
  # Aims a little beyond: what ends on the label's side would not count.
  aim = 10 * RELIABLE * first

  def evaluate(k, s):
    t = s['next']
    margin = problem_lib.margin_at(problem, along(t))
    beyond = margin.value < -RELIABLE * first
    found = s['found'] | beyond
    # Illinois rule: halve the value at the retained endpoint.
    again = s['found'] & (beyond == s['beyond'])
    half = jnp.where(again, 0.5, 1.0).astype(x.dtype)
    value = margin.value + aim
    inner = jnp.where(beyond, s['inner'] * half, value)
    outer = jnp.where(beyond, value, s['outer'] * half)
    a, b = jnp.where(beyond, s['a'], t), jnp.where(beyond, t, s['b'])
    fraction = inner / (inner - outer)
    between = a + (b - a) * jnp.clip(fraction, 0.01, 0.99)
    fall = s['inner'] - value
    secant = 1.1 * value * (t - s['a']) / (fall * t)
    widest = (0.5 + 0.5 * k).astype(x.dtype)
    growth = jnp.where(fall > 0, jnp.clip(secant, 0.02, widest), widest)
    nearer = beyond | (~s['found'] & ~(margin.value >= s['margin']))
    keep = lambda new, old: jnp.where(nearer, new, old)
    return dict(
      a=a,
      b=b,
      inner=inner,
      outer=outer,
      beyond=beyond,
      next=jnp.where(found, between, t * (1 + growth)),
      found=found,
      best=keep(t, s['best']),
      margin=keep(margin.value, s['margin']),
      runner_up=keep(margin.runner_up, s['runner_up']),
    )

  one = jnp.ones_like(first)
  start = dict(
    a=0 * one,
    b=one,
    inner=first + aim,
    outer=one,
    beyond=jnp.bool_(False),
    next=one,
    found=jnp.bool_(False),
    best=one,
    margin=jnp.inf * one,
    runner_up=jnp.zeros((), jnp.int32),
  )
  s = jax.lax.fori_loop(0, num_forwards, evaluate, start)
  point = along(s['best'])
  return RayPoint(point, s['found'], s['margin'], s['runner_up'], num_forwards)


def first_crossing(
  logits_fn: network_lib.LogitsFn,
  x: jax.Array,
  direction: jax.Array,
  label: jax.Array,
  *,
  max_distance: float | jax.Array,
  norm: float = 2,
  bounds: tuple = (-np.inf, np.inf),
  num_probes: int = 32,
  rtol: float = 1e-4,
) -> Crossing:
  """Returns where the class first differs from `label` along a ray.

  Evaluates evenly spaced probes, then refines the first one that lies beyond
  the boundary. A far region thinner than `max_distance / num_probes` can be
  stepped over. With bounds, the path is the ray's projection on the box.

  Args:
    logits_fn: one input -> logits `[k]`.
    x: the start, any shape.
    direction: as `x`; only its direction matters.
    label: the class at the start.
    max_distance: how far to look, in `norm`.
    norm: any p >= 1, what distances are measured in.
    bounds: `(low, high)`, scalars or as `x`.
    num_probes: evaluated together as one batch.
    rtol: error of `distance`, relative, where the path is straight.

  Returns:
    A `Crossing`; at distance 0 where the start has another class already, not
    found where the direction is zero or nothing changed within reach.
  """
  network = network_lib.trace(logits_fn, x)
  x = x.astype(network.dtype)
  low, high = (
    jnp.broadcast_to(jnp.asarray(b, x.dtype), x.shape) for b in bounds
  )
  problem = problem_lib.create(network, x, label, norm=norm, low=low, high=high)
  return cross_ray(
    problem, direction, max_distance, num_probes=num_probes, rtol=rtol
  )


def cross_ray(
  problem: problem_lib.Problem,
  direction: jax.Array,
  max_distance: float | jax.Array,
  *,
  num_probes: int,
  rtol: float,
) -> Crossing:
  """Returns `first_crossing` from the input of a problem."""
  x, norm = problem.x, problem.norm
  size = norms.norm(direction, norm)
  unit = direction / jnp.where(size > 0, size, 1.0)
  along = lambda t: jnp.clip(x + t * unit, problem.low, problem.high)
  spacing = jnp.asarray(max_distance, x.dtype) / num_probes
  radii = jnp.arange(num_probes + 1, dtype=x.dtype) * spacing
  probes = jax.vmap(lambda t: problem_lib.margin_at(problem, along(t)))(radii)
  i = jnp.argmax(probes.value < 0)
  found = (probes.value[i] < 0) & (size > 0)
  segment = point_lib.Segment(
    inner=along(radii[i - 1]),
    outer=along(radii[i]),
    margin_inner=probes.value[i - 1],
    margin_outer=probes.value[i],
    target=probes.runner_up[i],
    status=jnp.where(found, Status.FOUND, Status.NOT_FOUND),
    gradients=jnp.int32(0),
    forwards=jnp.int32(0),
  )
  # A search that is not needed ends at once: its tolerance is infinite.
  tolerance = jnp.where(found & (i > 0), rtol, jnp.inf).astype(x.dtype)
  point, margin, target, forwards = refine_crossing(
    problem, segment, tolerance=tolerance, before=(i - 1).astype(x.dtype)
  )
  point = jnp.where(found, point, x)
  distance = jnp.where(found, norms.norm(point - x, norm), jnp.inf)
  return Crossing(
    distance, point, found, target, margin, forwards + num_probes + 1
  )
