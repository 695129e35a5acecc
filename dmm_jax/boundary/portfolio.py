"""Which searches run, at which targets, under one budget of gradients."""

import jax
import jax.numpy as jnp
import numpy as np

from dmm_jax import norms
from dmm_jax.boundary import bundle
from dmm_jax.boundary import fmn
from dmm_jax.boundary import point as point_lib
from dmm_jax.boundary import projection
from dmm_jax.boundary.point import Segment
from dmm_jax.boundary.point import Status

MAX_TARGETS = 9  # DeepFool's own choice for ImageNet; all of ten classes.
FAST_GRADIENTS = 40


def duel(logits_fn, label, target):
  """The network with no other classes than a label and one target.

  Any search of it is a search targeted at that class. The others sink to the
  bottom of the logits' range, so that rounding is judged as before.
  """

  def dueling(x):
    logits = logits_fn(x)
    classes = jnp.arange(logits.size)
    bottom = -jnp.max(jnp.abs(logits))
    return jnp.where((classes == label) | (classes == target), logits, bottom)

  return dueling


def nearest_targets(logits_fn, x, label, num_classes, *, norm, project):
  """The `MAX_TARGETS` classes whose linearised boundaries are nearest.

  Where there are more classes, they are chosen among twice as many of largest
  logit. Source: Melamed et al. (2024), "MALT powers up adversarial attacks",
  https://arxiv.org/abs/2407.02240.

  Returns:
    `(targets, gradients)`: nearest first, and the number of gradients used.
  """
  looked_at = min(num_classes - 1, 2 * MAX_TARGETS)
  targets = point_lib.likely_targets(logits_fn(x), label, looked_at)
  linear = point_lib.linearize(logits_fn, x, label, targets)
  rows = linear.gradients
  if project is not None:
    rows = jax.vmap(project)(rows)
  sizes = jax.vmap(lambda g: norms.norm(g, norms.dual(norm)))(rows)
  reach = jnp.where(
    sizes > 0, linear.gaps / jnp.where(sizes > 0, sizes, 1.0), jnp.inf
  )
  order = jnp.argsort(jnp.where(jnp.isnan(reach), jnp.inf, reach))
  return targets[order][:MAX_TARGETS], looked_at


def search(
  logits_fn: point_lib.LogitsFn,
  x: jax.Array,
  label: jax.Array,
  *,
  norm: float,
  low: jax.Array,
  high: jax.Array,
  project=None,
  max_gradients: int,
  fast: bool = False,
) -> Segment:
  """Projection at every target, other starts at the best, then polish.

  Single searches are 10 to 40 % off where they end in the wrong class, so each
  target gets a search of its own. Of `max_gradients`, a quarter goes to all
  targets alike and to no target, half to the three best again (from other
  starts, and by FMN), the rest to polishing these. `fast` skips the other
  starts, and looks at three targets only.

  Args:
    logits_fn, x, label, norm, low, high, project: as for `deepfool.search`.
    max_gradients: budget.
    fast: for budgets of tens of gradients.

  Returns:
    The best `Segment`, charged with all of the cost.
  """
  (num_classes,) = jax.eval_shape(logits_fn, x).shape
  space = dict(norm=norm, low=low, high=high, project=project)
  targets, spent = nearest_targets(
    logits_fn, x, label, num_classes, norm=norm, project=project
  )
  budget = max(max_gradients - spent, 4)
  few = min(3, len(targets))

  def aim(target, share, start_norm, last_stride=0.02):
    return projection.search(
      duel(logits_fn, label, target),
      x,
      label,
      **space,
      targets=target[None],
      max_gradients=max(share, 2),
      start_norm=start_norm,
      last_stride=last_stride,
    )

  def polish(target, start, share):
    return bundle.polish(
      duel(logits_fn, label, target),
      x,
      label,
      start,
      **space,
      max_gradients=share,
    )

  if fast:
    share = budget * 4 // 5 // few
    ends = jax.lax.map(lambda t: aim(t, share, norm, 0.1), targets[:few])
    best = jnp.argmin(_length(ends, x, norm))
    last = polish(targets[best], _pick(ends, best), budget - few * share)
    spent += jnp.sum(ends.gradients) - ends.gradients[best]
    forwards = jnp.sum(ends.forwards) - ends.forwards[best]
    return last._replace(
      gradients=last.gradients + spent, forwards=last.forwards + forwards
    )
  share = budget * 3 // 20 // len(targets)
  ends = jax.lax.map(lambda t: aim(t, share, 2), targets)
  if len(targets) > 1:
    # At no target: what passes through one class's region into another's.
    loose = projection.search(
      logits_fn,
      x,
      label,
      **space,
      targets=targets,
      max_gradients=max(budget // 10, 2 * len(targets)),
    )
    targets = jnp.append(targets, loose.target)
    ends = jax.tree.map(
      lambda rows, one: jnp.concatenate([rows, one[None]]), ends, loose
    )
  best = jnp.argsort(_length(ends, x, norm))[:few]
  share, last_share = budget // 2 // few // 3, budget // 4 // few

  def improve(row):
    target, start = row
    again = jax.lax.map(
      lambda p: aim(target, share, p), jnp.array([1.0, np.inf], x.dtype)
    )
    other = fmn.search(
      duel(logits_fn, label, target),
      x,
      label,
      **space,
      targets=target[None],
      max_gradients=share,
    )
    again = jax.tree.map(
      lambda more, one: jnp.concatenate([more, one[None]]), again, other
    )
    every = jax.tree.map(
      lambda one, more: jnp.concatenate([one[None], more]), start, again
    )
    nearest = _pick(every, jnp.argmin(_length(every, x, norm)))
    # The cost of the first search is counted with its kind, below.
    nearest = nearest._replace(
      gradients=jnp.sum(again.gradients), forwards=jnp.sum(again.forwards)
    )
    return polish(target, nearest, last_share)

  ours = jax.tree.map(lambda column: column[best], ends)
  finals = jax.lax.map(improve, (targets[best], ours))
  winner = _pick(finals, jnp.argmin(_length(finals, x, norm)))
  return winner._replace(
    gradients=spent + jnp.sum(ends.gradients) + jnp.sum(finals.gradients),
    forwards=jnp.sum(ends.forwards) + jnp.sum(finals.forwards),
  )


def _length(segments, x, norm):
  """Distance of every outer end from the input; inf where none was found."""
  length = jax.vmap(lambda p: norms.norm(p - x, norm))(segments.outer)
  return jnp.where(segments.status == Status.FOUND, length, jnp.inf)


def _pick(segments, i):
  return jax.tree.map(lambda column: column[i], segments)
