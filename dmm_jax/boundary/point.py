"""What a boundary search starts from and what it returns."""

from collections.abc import Callable
import enum
from typing import NamedTuple

import jax
import jax.numpy as jnp

from dmm_jax import convolutions
from dmm_jax import margins

LogitsFn = Callable[[jax.Array], jax.Array]
Project = Callable[[jax.Array], jax.Array] | None


class Status(enum.IntEnum):
  """How a boundary search ended."""

  FOUND = 0
  MISCLASSIFIED = 1  # The input is already on the far side: distance 0.
  NOT_FOUND = 2  # The budget ran out, or the box was exhausted: inf.
  ZERO_GRADIENT = 3  # No direction changes the margin, to first order: inf.
  NON_FINITE = 4  # NaN or infinite logits or gradients: inf.
  ESTIMATE = 5  # A linear estimate, not verified by evaluating the network.


class BoundaryPoint(NamedTuple):
  """The nearest boundary point that a search found.

  Attributes:
    distance: l^p norm of `point - x`, in input units. 0 where the input is
      already misclassified, inf where no boundary point was found.
    point: just beyond the boundary, as `x`; `x` itself where `distance` is 0 or
      inf.
    target: the class on the far side; -1 where none was found.
    normal: unit l2 gradient, at `point`, of the label's margin, pointing back
      into the label's region; zeros where there is none.
    margin: the label's margin at `point`, in logits: negative where found.
    status: a `Status`.
    gradients: value-and-gradient evaluations used, one for each class's row.
    forwards: forward-only evaluations used.
  """

  distance: jax.Array
  point: jax.Array
  target: jax.Array
  normal: jax.Array
  margin: jax.Array
  status: jax.Array
  gradients: jax.Array
  forwards: jax.Array


class Segment(NamedTuple):
  """A step that crosses the boundary: what a search hands over to be refined.

  Attributes:
    inner, outer: its ends, on the label's side and beyond, as `x`.
    lead_inner, lead_outer: the label's lead there (`margins.lead`).
    target: the class that leads the label at the outer end.
    status: FOUND if `outer` is beyond the boundary, else why it is not.
    gradients, forwards: as in `BoundaryPoint`.
  """

  inner: jax.Array
  outer: jax.Array
  lead_inner: jax.Array
  lead_outer: jax.Array
  target: jax.Array
  status: jax.Array
  gradients: jax.Array
  forwards: jax.Array


class Linear(NamedTuple):
  """The network to first order: margins of a label over `t` targets.

  Attributes:
    lead: of the label over all other classes; < 0 beyond the boundary.
    rival: the class of these with the largest logit.
    gaps: logit of the label minus that of each target `[t]`.
    gradients: of the gaps `[t, ...]`.
  """

  lead: jax.Array
  rival: jax.Array
  gaps: jax.Array
  gradients: jax.Array


def likely_targets(logits: jax.Array, label: jax.Array, num: int) -> jax.Array:
  """Returns the `num` classes other than `label` with the largest logits."""
  others = jnp.where(jnp.arange(logits.size) == label, -jnp.inf, logits)
  return jax.lax.top_k(others, num)[1]


def leads(logits: jax.Array, label: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Returns the lead, NaN unless all logits are finite, and the rival."""
  finite = jnp.all(jnp.isfinite(logits))
  lead = jnp.where(finite, margins.lead(logits, label), jnp.nan)
  return lead, margins.runner_up(logits, label)


def linearize(
  logits_fn: LogitsFn, x: jax.Array, label: jax.Array, targets: jax.Array
) -> Linear:
  """Expands the margins of `label` over `targets` `[t]` around `x`."""
  logits, pull_back = jax.vjp(logits_fn, x)
  pull_back = convolutions.in_order(pull_back)
  eye = jnp.eye(logits.size, dtype=logits.dtype)
  rows = eye[label][None] - eye[targets]
  # One row needs no batch axis, and runs faster without it.
  if len(rows) == 1:
    gradients = pull_back(rows[0])[0][None]
  else:
    gradients = jax.vmap(lambda row: pull_back(row)[0])(rows)
  gaps = logits[label] - logits[targets]
  return Linear(*leads(logits, label), gaps, gradients)
