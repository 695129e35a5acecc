"""Polishing by a bundle of linearisations: down to the bottom of a kink."""

import jax
import jax.numpy as jnp

from dmm_jax import norms
from dmm_jax.boundary import point as point_lib
from dmm_jax.boundary import rays
from dmm_jax.boundary.point import Segment
from dmm_jax.boundary.projection import settle

VALID = 1e-3  # How far the best point may violate a cut, of its l2 length.
BEYOND = 1.0005  # How far beyond its model of the boundary a round looks.
LEVEL = 0.05  # What a round hopes to gain, for linf, at tightness 1.


def polish(
  logits_fn: point_lib.LogitsFn,
  x: jax.Array,
  label: jax.Array,
  start: Segment,
  *,
  norm: float,
  low: jax.Array,
  high: jax.Array,
  project=None,
  max_gradients: int,
  size: int = 8,
  tightness: float = 3.0,
) -> Segment:
  """Improves a boundary point until it is a local optimum, kinks included.

  A proximal bundle method. The nearest point of a piecewise linear boundary
  usually lies where several pieces meet, and one linearisation sees one piece.
  The last `size` linearisations together are a polyhedron; each round finds
  its nearest point to the input that is also close to the best point so far,
  looks there, and adds the linearisation that it finds. Gains loosen the tie
  to the best point, failures tighten it. Cuts that the best point violates
  belong to a non-convex kink and are dropped. From 0.5 % above a local
  optimum, 40 rounds come within 0.03 % of it; it does not look for others.

  Source: Kiwiel (1990), "Proximity control in bundle methods for convex
  nondifferentiable minimization", https://doi.org/10.1007/BF01585731; here the
  constraint, not the objective, is the nonsmooth one.

  Args:
    logits_fn, x, label, norm, low, high, project: as for `deepfool.search`.
    start: what a search found from `x`; nothing happens unless FOUND.
    max_gradients: rounds, of one gradient each.
    size: linearisations kept.
    tightness: of the first tie to the best point, relative to the objective.

  Returns:
    A `Segment` whose inner end is the input; its counts include `start`'s.
  """
  lead = point_lib.leads(logits_fn(x), label)[0]
  least, most = (low - x).ravel(), (high - x).ravel()
  rounds = jnp.where(start.status == point_lib.Status.FOUND, max_gradients, 0)

  def look(s, i):
    """Adds the linearisation at `here`; returns the cuts that may be used."""
    linear = point_lib.linearize(logits_fn, s['here'], label, s['target'][None])
    g = linear.gradients[0]
    g = (g if project is None else project(g)).ravel()
    length = jnp.maximum(norms.norm(g, 2), jnp.finfo(g.dtype).tiny)
    offset = linear.gaps[0] - g @ (s['here'] - x).ravel()
    row = jnp.argmin(jnp.where(s['on'], s['used'], -1))
    cuts = s['cuts'].at[row].set(g / length)
    offsets = s['offsets'].at[row].set(offset / length)
    best = (s['best'] - x).ravel()
    valid = cuts @ best + offsets <= VALID * norms.norm(best, 2)
    on = (s['on'] & valid).at[row].set(True)
    return cuts, offsets, on, s['used'].at[row].set(i)

  def advance(i, s):
    cuts, offsets, on, used = look(s, i)
    best = (s['best'] - x).ravel()
    step, weights = _nearest(
      cuts,
      offsets,
      on,
      least,
      most,
      best,
      norm=norm,
      distance=s['distance'],
      tightness=s['tightness'],
    )
    step = step.reshape(x.shape)
    if project is not None:
      step = project(step)
    new = jnp.clip(x + BEYOND * step, low, high)
    ahead, rival = point_lib.leads(logits_fn(new), label)
    beyond = ahead < 0
    crossing, _, rival, forwards = rays.pull_back(
      logits_fn,
      label,
      Segment(x, new, lead, ahead, rival, start.status, 0, 0),
      tolerance=jnp.where(beyond, 1e-5, jnp.inf),
      max_forwards=10,
    )
    length = jnp.where(beyond, norms.norm(crossing - x, norm), jnp.inf)
    gain = length < s['distance']
    factor = jnp.where(gain, 1 / 1.5, jnp.where(beyond, 2.0, 1.4))
    return dict(
      here=jnp.where(beyond, crossing, new),
      target=jnp.where(beyond, rival, s['target']),
      best=jnp.where(gain, crossing, s['best']),
      distance=jnp.where(gain, length, s['distance']),
      tightness=jnp.clip(s['tightness'] * factor, 0.1, 1e5),
      cuts=cuts,
      offsets=offsets,
      on=on,
      # A cut that holds the step stays; the others leave, oldest first.
      used=jnp.where(weights > 0, i, used),
      forwards=s['forwards'] + forwards + 1,
    )

  state = dict(
    here=start.outer,
    target=start.target,
    best=start.outer,
    distance=norms.norm(start.outer - x, norm),
    tightness=jnp.asarray(tightness, x.dtype),
    cuts=jnp.zeros((size, x.size), x.dtype),
    offsets=jnp.zeros(size, x.dtype),
    on=jnp.zeros(size, bool),
    used=jnp.full(size, -1),
    forwards=start.forwards,
  )
  state = jax.lax.fori_loop(0, rounds, advance, state)
  counts = start.gradients + rounds, state['forwards']
  return settle(logits_fn, x, label, lead, state['best'], start, counts)


def _nearest(
  cuts, offsets, on, low, high, best, *, norm, distance, tightness, sweeps=15
):
  """The short step, close to `best`, that satisfies all cuts.

  Minimises |v|_1 + t/2 |v - best|^2, |v|^2/2 + t/2 |v - best|^2, or for linf
  |v - best|^2/2 within a cube somewhat smaller than the distance, subject to
  cuts . v + offsets <= 0 and the box, by coordinate ascent on the dual: the
  primal solution is separable.

  Returns:
    `(v [n], weights [m])`, the cuts' multipliers.
  """
  squares = jnp.maximum(jnp.sum(best**2), jnp.finfo(best.dtype).tiny)
  # For l1 in units in which |v|_1 and |v|^2 weigh the same at `best`.
  tie = jnp.where(norm == 1, tightness * distance / squares, tightness)
  tie = jnp.where(norm == jnp.inf, 1.0, tie)
  stiffness = jnp.where(norm == 2, 1 + tie, tie)
  threshold = jnp.where(norm == 1, 1 / tie, 0.0)
  level = jnp.where(
    norm == jnp.inf, distance * (1 - LEVEL / tightness), jnp.inf
  )
  low, high = jnp.maximum(low, -level), jnp.minimum(high, level)

  def primal(weights):
    v = (tie * best - weights @ cuts) / stiffness
    shrunk = jnp.sign(v) * jnp.maximum(jnp.abs(v) - threshold, 0.0)
    return jnp.clip(shrunk, low, high)

  def ascend(k, weights):
    i = k % len(cuts)
    v = primal(weights)
    free = (v > low) & (v < high) & ((v != 0) | (threshold == 0))
    slope = jnp.maximum(jnp.sum(jnp.where(free, cuts[i] ** 2, 0.0)), 1e-3)
    moved = weights[i] + stiffness * (offsets[i] + cuts[i] @ v) / slope
    return weights.at[i].set(jnp.where(on[i], jnp.maximum(moved, 0.0), 0.0))

  weights = jax.lax.fori_loop(
    0, sweeps * len(cuts), ascend, jnp.zeros_like(offsets)
  )
  return primal(weights), weights
