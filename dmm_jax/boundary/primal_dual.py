"""Primal-dual proximal gradient descent on the Lagrangian of the distance."""

import jax
import jax.numpy as jnp

from dmm_jax import norms
from dmm_jax.boundary import descent
from dmm_jax.boundary import point as point_lib
from dmm_jax.boundary.point import Segment


def search(
  logits_fn: point_lib.LogitsFn,
  x: jax.Array,
  label: jax.Array,
  *,
  norm: float,
  low: jax.Array,
  high: jax.Array,
  project: point_lib.Project = None,
  targets: jax.Array,
  max_gradients: int,
  first_step: float = 1.0,
  last_step: float = 0.01,
  first_price: float = 0.1,
  last_price: float = 0.01,
) -> Segment:
  """Descends distance and margin together, at a price that follows.

  Minimises `(1 - share) |step|_p + share margin`. Each round takes a gradient
  step on the margin and a proximal one on the norm, within the box; then the
  log-odds of `share` go up before the boundary and down beyond it. No ball
  constrains the way, which helps in l1, where balls are all corners.

  Source: Matyasko and Chau (2021), "PDPGD: primal-dual proximal gradient
  descent adversarial attack", https://arxiv.org/abs/2106.01538. Deviations:
  gradients are divided by their dual norm, which makes even odds the balance
  at any scale of input and logits, and are followed without Adam's
  preconditioner, so that the proximal step is exact; `share` is that of the
  last round alone, where the authors' code averages the dual variable over
  rounds; it holds the box, too; steps are in units of the l2 length of the
  first linear step.

  Args:
    logits_fn, x, label, low, high, project, targets: as for
      `deepfool.search`; the loss is the margin over the targets.
    norm: 1, 2 or inf.
    max_gradients: budget, all of it used; each round takes one, `x` another.
    first_step, last_step: length of primal steps; between them a cosine.
    first_price, last_price: change of the log-odds in a round, likewise.

  Returns:
    A `Segment` from the input to the nearest point seen beyond the boundary.

  Raises:
    ValueError: for another norm.
  """
  norms.check(norm)
  see = lambda p: descent.look(
    descent.hard_margin, logits_fn, p, label, targets, project
  )
  box = low - x, high - x

  def advance(state):
    segment, seen, p, odds = state
    fraction = segment.gradients / max_gradients
    share = jax.nn.sigmoid(odds)
    stride = scale * descent.cosine(first_step, last_step, fraction)
    size = norms.norm(seen.gradient, 2)
    steepness = norms.norm(seen.gradient, norms.dual(norm))
    weight = stride * (1 - share) * steepness / jnp.where(size > 0, size, 1.0)
    heading = descent.direction(-seen.gradient, jnp.zeros_like(x))
    new = p - x + stride * share * heading
    new = norms.prox(new, weight, *box, norm=norm)
    new = jnp.clip(x + descent.inside(project, new, *box), low, high)
    seen = see(new)
    segment = descent.record(segment, new, seen, norm=norm)
    price = descent.cosine(first_price, last_price, fraction)
    odds = odds + jnp.where(seen.lead < 0, -price, price)
    return segment, seen, new, odds

  first = see(x)
  step, _ = descent.straight_ahead(first, *box, norm=norm)
  scale = norms.norm(step, 2)
  start = descent.begin(x, first), first, x, jnp.zeros((), x.dtype)
  return jax.lax.while_loop(
    lambda state: descent.going(*state[:2], max_gradients), advance, start
  )[0]
