"""What a boundary search is given, and how it evaluates the network."""

from collections.abc import Callable
import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp

from dmm_jax import margins
from dmm_jax.boundary import network as network_lib
from dmm_jax.boundary import subspace

Project = Callable[[jax.Array], jax.Array] | None

MAX_TARGETS = 9  # DeepFool's own choice for ImageNet; all of ten classes.


@dataclasses.dataclass(frozen=True)
class Problem:
  """One input whose nearest boundary point is wanted.

  Attributes:
    network: a `network.Network`.
    x: the input, any shape, within the box.
    label: its class.
    norm: of the distance (see `norms`); may be traced.
    low, high: the box, as `x`; infinite where it has no end.
    project: linear map onto the subspace of allowed perturbations, or None.
    logits: at `x` `[k]`.
    margin: of the label at `x`, with tolerance; NaN where it cannot be used.
    targets: the classes that a search aims at `[t]`.
    classes: which classes count beside the label `[k]`; None for all.
    rank: about the dimensions of the subspace; those of `x` without one.
    groups: for `norm` 0, axes of the input whose entries count once.
  """

  network: network_lib.Network
  x: jax.Array
  label: jax.Array
  norm: float
  low: jax.Array
  high: jax.Array
  project: Project
  logits: jax.Array
  margin: jax.Array
  targets: jax.Array
  classes: jax.Array | None = None
  rank: jax.Array | float = jnp.inf
  groups: tuple[int, ...] | None = None

  @property
  def step_bounds(self) -> tuple[jax.Array, jax.Array]:
    """How far a step from `x` may go down and up."""
    return self.low - self.x, self.high - self.x


class Margin(NamedTuple):
  """The label's margin at a point.

  Attributes:
    value: with tolerance; < 0 beyond the boundary, NaN where a logit is NaN
      or inf, or all that count are -inf.
    runner_up: the class, other than the label, with the largest logit.
    plain: without the tolerance.
  """

  value: jax.Array
  runner_up: jax.Array
  plain: jax.Array


class Linear(NamedTuple):
  """The network to first order: margins of the label over `t` targets.

  Attributes:
    margin: of the label over all other classes, with tolerance.
    runner_up: the class of these with the largest logit.
    gaps: logit of the label minus that of each target, with tolerance `[t]`; 1
      for a target whose logit is -inf.
    gradients: of the gaps `[t, ...]`, within the subspace; 0 for such a target.
  """

  margin: jax.Array
  runner_up: jax.Array
  gaps: jax.Array
  gradients: jax.Array


def create(
  network: network_lib.Network,
  x: jax.Array,
  label: jax.Array,
  *,
  norm: float,
  low: jax.Array,
  high: jax.Array,
  project: Project = None,
  groups: tuple[int, ...] | None = None,
) -> Problem:
  """Returns the problem of one input; evaluates the network there."""
  logits = network_lib.logits(network, x)
  targets = likely_targets(logits, label, MAX_TARGETS)
  onto = None
  if project is not None:
    onto = lambda v: project(v).astype(v.dtype)
  problem = Problem(
    network, x, label, norm, low, high, onto, logits, logits[0], targets
  )
  usable = jnp.all(jnp.isfinite(x))
  margin = jnp.where(usable, margin_of(problem, logits).value, jnp.nan)
  rank = subspace.rank(onto, x) if onto else x.size
  return dataclasses.replace(problem, margin=margin, rank=rank, groups=groups)


def restrict_to_pair(problem: Problem, target: jax.Array) -> Problem:
  """Returns the problem in which no class but the label and a target exists."""
  classes = jnp.arange(problem.logits.size) == target
  return dataclasses.replace(problem, classes=classes, targets=target[None])


def margin_of(problem: Problem, logits: jax.Array) -> Margin:
  """Returns the margin that given logits `[k]` have."""
  usable = ~jnp.any(jnp.isnan(logits) | (logits == jnp.inf))
  if problem.classes is not None:
    counts = problem.classes | (jnp.arange(logits.size) == problem.label)
    logits = jnp.where(counts, logits, -jnp.inf)
  plain = margins.margin(logits, problem.label)
  value = margins.margin_with_tolerance(
    logits, problem.label, problem.network.resolution
  )
  value = jnp.where(usable & jnp.isfinite(plain), value, jnp.nan)
  return Margin(value, margins.runner_up(logits, problem.label), plain)


def margin_at(problem: Problem, p: jax.Array) -> Margin:
  """Evaluates the label's margin at a point."""
  return margin_of(problem, network_lib.logits(problem.network, p))


def likely_targets(logits: jax.Array, label: jax.Array, num: int) -> jax.Array:
  """Returns the `num` classes other than the label with the largest logits.

  All of them where there are fewer.
  """
  own = jnp.arange(logits.size) == label
  # A class at -inf still comes before the label, which is no target of itself.
  lowest = jnp.finfo(logits.dtype).min
  others = jnp.where(own, -jnp.inf, jnp.maximum(logits, lowest))
  return jax.lax.top_k(others, min(num, logits.size - 1))[1].astype(jnp.int32)


def linearize(
  problem: Problem, p: jax.Array, targets: jax.Array | None
) -> Linear:
  """Expands the margins of the label over `targets` `[t]` around a point.

  Without targets, over the class that comes next there.
  """
  logits, pull = network_lib.logits_and_pull(problem.network, p)
  if targets is None:
    targets = margin_of(problem, logits).runner_up[None]
  eye = jnp.eye(logits.size, dtype=logits.dtype)
  rows = eye[problem.label][None] - eye[targets]
  # One row needs no batch axis, and runs faster without it.
  gradients = pull(rows[0])[None] if len(rows) == 1 else jax.vmap(pull)(rows)
  own, others = logits[problem.label], logits[targets]
  masked = others == -jnp.inf
  tolerance = problem.network.resolution * jnp.maximum(
    jnp.abs(own), jnp.abs(others)
  )
  gaps = jnp.where(masked, 1.0, own - others + tolerance)
  shape = (-1,) + (1,) * p.ndim
  gradients = jnp.where(masked.reshape(shape), 0.0, gradients)
  if problem.project is not None:
    gradients = jax.vmap(problem.project)(gradients)
  margin = margin_of(problem, logits)
  return Linear(margin.value, margin.runner_up, gaps, gradients)
