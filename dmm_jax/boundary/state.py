"""Where a search stands."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from dmm_jax.boundary import problem as problem_lib
from dmm_jax.boundary.point import Status


class State(NamedTuple):
  """Where a search stands.

  Attributes:
    point: where the next gradient is taken.
    iterate: the last boundary point, which steps start from.
    best: the nearest boundary point so far.
    distance: its distance, inf until one was found.
    target: the class whose boundary is linearised next.
    damping: factor of the step size, < 1 after a step that led nowhere.
    status: FOUND, or why not yet.
    gradients, forwards: used so far.
  """

  point: jax.Array
  iterate: jax.Array
  best: jax.Array
  distance: jax.Array
  target: jax.Array
  damping: jax.Array
  status: jax.Array
  gradients: jax.Array
  forwards: jax.Array


def blank(problem: problem_lib.Problem) -> State:
  """Returns the state of a search that has found nothing."""
  zero, x = jnp.int32(0), problem.x
  return State(
    point=x,
    iterate=x,
    best=x,
    distance=jnp.full_like(problem.margin, jnp.inf),
    target=zero,
    damping=jnp.ones_like(problem.margin),
    status=jnp.int32(Status.NOT_FOUND),
    gradients=zero,
    forwards=zero,
  )
