"""Where the class changes on a segment or a ray."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dmm_jax import margins
from dmm_jax import norms
from dmm_jax.boundary import point as point_lib
from dmm_jax.boundary import subspace
from dmm_jax.boundary.point import Status

FORWARDS = 4  # Of `meet`; enough for steps that end close to the boundary.
CLEARLY = 1e-6  # Of the first lead: seen beyond now, and when looked at again.


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


def pull_back(
  logits_fn: point_lib.LogitsFn,
  label: jax.Array,
  segment: point_lib.Segment,
  *,
  tolerance: jax.Array | float,
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
    logits_fn: one input -> logits `[k]`.
    label: the class at the inner end.
    segment: a `Segment`, crossing (`lead_inner` >= 0 > `lead_outer`).
    tolerance: as a fraction of the segment's length; > 0.
    max_forwards: evaluations at most.

  Returns:
    `(outer, margin, target, forwards)`: a point with margin < 0, at most
    `tolerance` segment lengths beyond a crossing, and the class that leads the
    label there.
  """

  def unfinished(s):
    wide = jnp.abs(s['b'] - s['a']) > tolerance
    return wide & (s['forwards'] < max_forwards)

  def step(s):
    t = s['a'] + s['t'] * (s['b'] - s['a'])
    p = segment.inner + t * (segment.outer - segment.inner)
    logits = logits_fn(p)
    f = margins.lead(logits, label)
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
      margin=jnp.where(beyond, margins.margin(logits, label), s['margin']),
      target=jnp.where(beyond, margins.runner_up(logits, label), s['target']),
      forwards=s['forwards'] + 1,
    )

  fa, fb = segment.lead_inner, segment.lead_outer
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
    target=segment.target,
    forwards=jnp.zeros((), jnp.int32),
  )
  end = jax.lax.while_loop(unfinished, step, start)
  return end['outer'], end['margin'], end['target'], end['forwards']


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


class Meeting(NamedTuple):
  """Where a ray was seen beyond the boundary.

  Attributes:
    point: just beyond the boundary; the nearest to it if none was found.
    found: whether `point` lies beyond.
    lead, target: the label's lead over the others, and the class of these that
      comes nearest, at `point`.
    forwards: forward evaluations used.
  """

  point: jax.Array
  found: jax.Array
  lead: jax.Array
  target: jax.Array
  forwards: int


def meet(
  logits_fn: point_lib.LogitsFn,
  x: jax.Array,
  step: jax.Array,
  label: jax.Array,
  *,
  lead: jax.Array,
  bounds: tuple,
  straight: jax.Array | bool = False,
  num_forwards: int = FORWARDS,
) -> Meeting:
  """Follows the ray along a step to the boundary, inwards or outwards.

  For steps that end close to the boundary: regula falsi between the input and
  the step's end (the Illinois variant), once one of these lies beyond; else
  secants outwards, that grow where the margin does not fall. The path is the
  ray's projection on the box, or the ray within it. Costs the same for every
  example.

  Args:
    logits_fn: one input -> logits `[k]`.
    x, label, lead: the input, its class, and the class's lead there; > 0.
    step: as `x`.
    bounds: the box.
    straight: whether the path ends where the ray leaves the box.
    num_forwards: evaluations.

  Returns:
    A `Meeting`. The point is the innermost that was seen beyond.
  """
  low, high = bounds
  # A path that follows the box leaves the subspace that a step lies in.
  most = subspace.reach(step, low - x, high - x) if straight else jnp.inf
  along = lambda t: jnp.clip(x + jnp.minimum(t, most) * step, low, high)
  # Aims a little beyond: what ends on the label's side would not count.
  aim = 10 * CLEARLY * lead

  def look(k, s):
    t = s['next']
    ahead, target = point_lib.leads(logits_fn(along(t)), label)
    beyond = ahead < -CLEARLY * lead
    found = s['found'] | beyond
    # A side that stays twice counts half: it would stay forever.
    again = s['found'] & (k > 0) & (beyond == s['beyond'])
    half = jnp.where(again, 0.5, 1.0)
    value = ahead + aim
    inner = jnp.where(beyond, s['inner'] * half, value)
    outer = jnp.where(beyond, value, s['outer'] * half)
    a, b = jnp.where(beyond, s['a'], t), jnp.where(beyond, t, s['b'])
    share = inner / jnp.where(inner > outer, inner - outer, 1.0)
    within = a + (b - a) * jnp.clip(share, 0.01, 0.99)
    fall = s['inner'] - value
    reach = 1.1 * value * (t - s['a']) / jnp.where(fall > 0, fall * t, 1.0)
    widest = 0.5 + 0.5 * k
    grown = t * (1 + jnp.where(fall > 0, jnp.clip(reach, 0.02, widest), widest))
    nearer = beyond | (~s['found'] & ~(ahead >= s['lead']))
    keep = lambda new, old: jnp.where(nearer, new, old)
    return dict(
      a=a,
      b=b,
      inner=inner,
      outer=outer,
      beyond=beyond,
      next=jnp.where(found, within, grown),
      found=found,
      seen=keep(t, s['seen']),
      lead=keep(ahead, s['lead']),
      target=keep(target, s['target']),
    )

  one = jnp.ones_like(lead)
  start = dict(
    a=0 * one,
    b=one,
    inner=lead + aim,
    outer=-one,
    beyond=jnp.bool_(False),
    next=one,
    found=jnp.bool_(False),
    seen=one,
    lead=jnp.inf * one,
    target=jnp.int32(0),
  )
  s = jax.lax.fori_loop(0, num_forwards, look, start)
  point = along(s['seen'])
  return Meeting(point, s['found'], s['lead'], s['target'], num_forwards)


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
  along = lambda t: jnp.clip(x + t * unit, *bounds)
  spacing = max_distance / num_probes
  reach = jnp.arange(num_probes + 1, dtype=x.dtype) * spacing
  logits = jax.vmap(lambda t: logits_fn(along(t)))(reach)
  seen = jax.vmap(lambda row: margins.lead(row, label))(logits)
  i = jnp.argmax(seen < 0)
  before = jnp.maximum(i - 1, 0)
  found = (seen[i] < 0) & (size > 0)
  segment = point_lib.Segment(
    inner=along(reach[before]),
    outer=along(reach[i]),
    lead_inner=jnp.where(found, seen[before], 1.0),
    lead_outer=jnp.where(found, seen[i], -1.0),
    target=margins.runner_up(logits[i], label),
    status=jnp.where(found, Status.FOUND, Status.NOT_FOUND),
    gradients=jnp.int32(0),
    forwards=jnp.int32(0),
  )
  # A search that is not needed ends at once: its tolerance is infinite.
  tolerance = jnp.where(found & (i > 0), rtol * jnp.maximum(i, 1), jnp.inf)
  crossing, margin, target, forwards = pull_back(
    logits_fn, label, segment, tolerance=tolerance
  )
  crossing = jnp.where(found, crossing, x)
  distance = jnp.where(found, norms.norm(crossing - x, norm), jnp.inf)
  return Crossing(
    distance, crossing, found, target, margin, forwards + num_probes + 1
  )
