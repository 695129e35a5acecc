"""Distances on and off subspaces: one program for all of them."""

from collections.abc import Sequence
from typing import Any
from typing import NamedTuple

import jax
import numpy as np

from dmm_jax import boundary
from dmm_jax.boundary.network import LogitsFn
from dmm_jax.manifold.splits import on

# How much of a step a search keeps: a factor of all of it, and one of its part
# in the subspace.
SIDES = {'free': (1.0, 0.0), 'on': (0.0, 1.0), 'off': (1.0, -1.0)}


class SideTask(NamedTuple):
  """Where searches start, and what they keep to.

  Attributes:
    xs: inputs `[n, ...]`.
    bases: of a subspace at each `[n, k, d]`; of 'free' the shape alone counts.
    side: a key of `SIDES`.
  """

  xs: np.ndarray
  bases: np.ndarray
  side: str


def restrict(
  vector: jax.Array, basis: jax.Array, weights: jax.Array
) -> jax.Array:
  """Returns the part of a vector that the weights of one of `SIDES` keep."""
  return weights[0] * vector + weights[1] * on(vector, basis)


def measure_sides(
  logits_fn: LogitsFn,
  tasks: Sequence[SideTask],
  labels: np.ndarray,
  **options: Any,
) -> list[boundary.BoundaryPoint]:
  """Measures distances without restriction, within subspaces and off them.

  The side is data of each example, so that one program, compiled once, serves
  all tasks. A box goes with it, but hardly any step within a subspace stays in
  one where many entries are at its ends.

  Args:
    logits_fn: as for `boundary.measure`.
    tasks: of the same number of inputs, and bases of one shape.
    labels: of the inputs `[n]`, the same in all tasks.
    **options: of `boundary.measure`, but for `project` and `project_rows`.

  Returns:
    The boundary points of each task, in order.
  """
  num = len(labels)
  weights = np.array([SIDES[task.side] for task in tasks], np.float32)
  project: Any = restrict  # Of rows as well.
  found = boundary.measure(
    logits_fn,
    np.concatenate([task.xs for task in tasks]),
    np.tile(labels, len(tasks)),
    project=project,
    project_rows=(
      np.concatenate([task.bases for task in tasks]),
      np.repeat(weights, num, axis=0),
    ),
    **options,
  )
  return [
    jax.tree.map(lambda v, i=i: v[i * num : (i + 1) * num], found)
    for i in range(len(tasks))
  ]
