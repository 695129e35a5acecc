"""Which searches run, at which targets, under one budget of gradients."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from dmm_jax.boundary import bundle
from dmm_jax.boundary import descent
from dmm_jax.boundary import point as point_lib
from dmm_jax.boundary import projection
from dmm_jax.boundary.point import Segment

MAX_TARGETS = 9  # DeepFool's own choice for ImageNet; all of ten classes.
FAST_GRADIENTS = 40
ANY = -1


class Heat(NamedTuple):
  """One round of a contest between targets.

  Attributes:
    places: how many of the nearest take part.
    runs: projection searches of each, one after the other.
    rounds: of each run.
    polish: rounds of the bundle method afterwards.
  """

  places: int
  runs: int
  rounds: int
  polish: int


def duel(logits_fn, label, target):
  """The network with no other classes than a label and one target.

  Any search of it is a search targeted at that class. The others sink to the
  bottom of the logits' range, so that rounding is judged as before. With
  target `ANY` it is the network itself.
  """

  def dueling(x):
    logits = logits_fn(x)
    classes = jnp.arange(logits.size)
    stays = (classes == label) | (classes == target) | (target == ANY)
    return jnp.where(stays, logits, -jnp.max(jnp.abs(logits)))

  return dueling


def plan(max_gradients: int, num_classes: int) -> tuple[int, list[Heat]]:
  """Splits a budget: gradients at the input, then heats.

  Single searches are 10 to 40 % off where they end in the wrong class, so each
  target gets a short one; the best get longer ones, and the nearest points are
  polished.
  """
  others = num_classes - 1
  small = max_gradients < 100
  looked_at = min(others, 4 if small else 2 * MAX_TARGETS)
  looked_at = max(min(looked_at, max_gradients - 1), 1)
  targets = min(looked_at, MAX_TARGETS)
  rest = max_gradients - looked_at
  if targets == 1 or rest < 12:
    polish = rest // 3
    return looked_at, [Heat(1, 1, rest - polish, polish)]
  scout = max(min(rest // 4 // targets, 10), 1)
  few = min(2 if max_gradients < 300 else 3, targets)
  runs = 1 if max_gradients < 300 else 3
  rest -= scout * targets
  semi = rest * (3 if small else 2) // 10 // few
  if runs > 1:
    # To the place of any target as well: what passes one class's region on the
    # way to another's.
    long = rest * 7 // 10 // (few + 1)
    polish = long // 5
    semi_heat = Heat(few + 1, runs, (long - polish) // runs, polish)
    spent = (few + 1) * (semi_heat.rounds * runs + polish)
  else:
    semi_heat = Heat(few, 1, semi, 0)
    spent = few * semi
  rest -= spent
  polish = rest * 2 // 5
  return looked_at, [
    Heat(targets, 1, scout, 0),
    semi_heat,
    Heat(1, 1, rest - polish, polish),
  ]


def nearest_targets(
  logits_fn, x, label, looked_at, *, norm, project
) -> tuple[point_lib.Linear, jax.Array]:
  """The `MAX_TARGETS` classes whose linearised boundaries are nearest.

  Chosen among the `looked_at` classes of largest logit. Source: Melamed et al.
  (2024), "MALT powers up adversarial attacks",
  https://arxiv.org/abs/2407.02240.

  Returns:
    `(linear, targets)`: nearest first.
  """
  targets = point_lib.likely_targets(logits_fn(x), label, looked_at)
  linear = point_lib.linearize(logits_fn, x, label, targets)
  rows = linear.gradients
  rows = rows if project is None else jax.vmap(project)(rows)
  reach = descent.reaches(linear.gaps, rows, norm)
  order = jnp.argsort(jnp.where(jnp.isnan(reach), jnp.inf, reach))
  order = order[:MAX_TARGETS]
  linear = linear._replace(gaps=linear.gaps[order], gradients=rows[order])
  return linear, targets[order]


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
  seed: jax.Array | int = 0,
) -> Segment:
  """A contest of targets: ever fewer of them are searched ever longer.

  Args:
    logits_fn, x, label, norm, low, high, project: as for `deepfool.search`.
    max_gradients: budget; see `plan` for where it goes.
    seed: of the random points of long searches.

  Returns:
    A `Segment` whose inner end is the input, with the cost of all searches.
  """
  num_classes = jax.eval_shape(logits_fn, x).shape[0]
  looked_at, heats = plan(max_gradients, num_classes)
  space = dict(norm=norm, low=low, high=high, project=project)
  linear, targets = nearest_targets(
    logits_fn, x, label, looked_at, norm=norm, project=project
  )

  def enter(entry):
    gap, gradient, target = entry
    one = linear._replace(gaps=gap[None], gradients=gradient[None])
    fn = duel(logits_fn, label, target)
    return projection.begin(fn, x, label, one, target[None], **space)

  def compete(aim, state, heat, seed):
    fn = duel(logits_fn, label, aim)
    lead = linear.lead
    for run in range(heat.runs):
      state = projection.advance(
        fn,
        x,
        label,
        lead,
        state,
        **space,
        first=0,
        last=heat.rounds,
        total=heat.rounds,
        smoothing=None if run == 0 else (1.0, 0.1)[run - 1],
        seed=seed + run,
      )
    return bundle.polish(
      fn, x, label, lead, state, **space, max_gradients=heat.polish
    )

  states = jax.lax.map(enter, (linear.gaps, linear.gradients, targets))
  aims, gradients, forwards = targets, looked_at, states.forwards[0] * len(targets)
  for number, heat in enumerate(heats):
    order = jnp.argsort(states.distance)
    chosen = order[: heat.places]
    if heat.places > 1 and heat.runs > 1:
      chosen = jnp.append(chosen[:-1], order[0])
    aims = aims[chosen]
    if heat.places > 1 and heat.runs > 1:
      aims = aims.at[-1].set(ANY)
    states = jax.tree.map(lambda column: column[chosen], states)
    before = states.forwards[0]
    run = lambda row, h=heat, n=number: compete(*row, h, seed + 10 * n)
    states = jax.lax.map(run, (aims, states))
    gradients += heat.places * (heat.runs * heat.rounds + heat.polish)
    forwards += heat.places * (states.forwards[0] - before)
  best = jax.tree.map(lambda column: column[jnp.argmin(states.distance)], states)
  best = best._replace(gradients=jnp.int32(gradients), forwards=forwards)
  return projection.finish(logits_fn, x, label, linear.lead, best, low, high)
