"""Where the class changes on a segment or a ray."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dmm_jax import margins
from dmm_jax import norms
from dmm_jax.boundary import point as point_lib


class Crossing(NamedTuple):
  """Where the class first changes on a ray.

  Attributes:
    distance: from the start, in the norm asked for; inf if not found.
    point: the crossing, on its far side; the start itself if not found.
    found: whether the class changed within reach.
    forwards: forward evaluations used.
  """

  distance: jax.Array
  point: jax.Array
  found: jax.Array
  forwards: jax.Array


def pull_back(margin_fn, segment, *, tolerance, max_forwards=40):
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
    margin_fn: a point -> the label's margin there.
    segment: a `Segment`, crossing (`margin_inner` >= 0 > `margin_outer`).
    tolerance: as a fraction of the segment's length; > 0.
    max_forwards: evaluations at most.

  Returns:
    `(outer, margin_outer, forwards)`: a point with margin < 0, at most
    `tolerance` segment lengths beyond a crossing.
  """

  def at(t):
    p = segment.inner + t * (segment.outer - segment.inner)
    return p, margin_fn(p)

  def unfinished(s):
    wide = jnp.abs(s['b'] - s['a']) > tolerance
    return wide & (s['forwards'] < max_forwards)

  def step(s):
    t = s['a'] + s['t'] * (s['b'] - s['a'])
    p, f = at(t)
    beyond = f < 0
    same = beyond == (s['fa'] < 0)
    c, fc = jnp.where(same, s['a'], s['b']), jnp.where(same, s['fa'], s['fb'])
    b, fb = jnp.where(same, s['b'], s['a']), jnp.where(same, s['fb'], s['fa'])
    return dict(
      a=t,
      b=b,
      fa=f,
      fb=fb,
      t=_next_fraction(t, b, c, f, fb, fc, tolerance),
      outer=jnp.where(beyond, p, s['outer']),
      margin=jnp.where(beyond, f, s['margin']),
      forwards=s['forwards'] + 1,
    )

  fa, fb = segment.margin_inner, segment.margin_outer
  secant = jnp.where(fa > fb, fa / jnp.where(fa > fb, fa - fb, 1.0), 0.5)
  zero = jnp.zeros_like(fa)
  start = dict(
    a=zero,
    b=zero + 1,
    fa=fa,
    fb=fb,
    t=jnp.clip(secant, tolerance / 2, 1 - tolerance / 2),
    outer=segment.outer,
    margin=fb,
    forwards=jnp.zeros((), jnp.int32),
  )
  end = jax.lax.while_loop(unfinished, step, start)
  return end['outer'], end['margin'], end['forwards']


def _next_fraction(a, b, c, fa, fb, fc, tolerance):
  """Where to look next between a and b, as a fraction of the way to b."""
  safe = lambda d: jnp.where(d == 0, 1.0, d)
  xi, phi = (a - b) / safe(c - b), (fa - fb) / safe(fc - fb)
  trusted = (phi**2 < xi) & ((1 - phi) ** 2 < 1 - xi)
  inverse = fa / safe(fb - fa) * fc / safe(fb - fc)
  inverse += (c - a) / safe(b - a) * fa / safe(fc - fa) * fb / safe(fc - fb)
  t = jnp.where(trusted, inverse, 0.5)
  least = jnp.minimum(tolerance / 2 / safe(jnp.abs(b - a)), 0.5)
  return jnp.clip(jnp.where(jnp.isfinite(t), t, 0.5), least, 1 - least)


def first_crossing(
  logits_fn: point_lib.LogitsFn,
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
  size = norms.norm(direction, norm)
  unit = direction / jnp.where(size > 0, size, 1.0)
  margin_fn = lambda p: margins.margin(logits_fn(p), label)
  along = lambda t: jnp.clip(x + t * unit, *bounds)
  reach = jnp.arange(num_probes + 1, dtype=x.dtype) * (
    max_distance / num_probes
  )
  seen = jax.vmap(lambda t: margin_fn(along(t)))(reach)
  beyond = seen < 0
  i = jnp.argmax(beyond)
  before = jnp.maximum(i - 1, 0)
  segment = point_lib.Segment(
    along(reach[before]), along(reach[i]), seen[before], seen[i], 0, 0, 0
  )
  found = beyond[i] & (size > 0)
  segment = segment._replace(
    margin_inner=jnp.where(found, seen[before], 1.0),
    margin_outer=jnp.where(found, seen[i], -1.0),
  )
  # A search that is not needed ends at once: its tolerance is infinite.
  needed = found & (i > 0)
  tolerance = jnp.where(needed, rtol * jnp.maximum(i, 1), jnp.inf)
  crossing, _, forwards = pull_back(margin_fn, segment, tolerance=tolerance)
  crossing = jnp.where(found, crossing, x)
  distance = jnp.where(found, norms.norm(crossing - x, norm), jnp.inf)
  return Crossing(distance, crossing, found, forwards + num_probes + 1)
