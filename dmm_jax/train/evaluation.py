"""Outputs and accuracy of trained networks over a data set."""

from collections.abc import Callable
import functools
from typing import Any

import numpy as np

from dmm_jax import data
from dmm_jax import parallel
from dmm_jax import programs
from dmm_jax.train.loop import Forward
from dmm_jax.train.loop import State


def outputs(
  forward: Forward, state: State, xs: np.ndarray, **options: Any
) -> np.ndarray:
  """Returns a network's first outputs `[n, ...]`: logits, or reconstructions.

  Args:
    forward: as for `fit`.
    state: its parameters and other variables.
    xs: inputs `[n, ...]`.
    **options: those of `parallel.map_examples`.
  """
  fn: Callable = functools.partial(_first_output, forward=forward)
  if isinstance(forward, programs.Bound):
    fn = programs.bind(_first_output, forward=forward)
  shared = state.params, state.stats
  return parallel.map_examples(fn, (xs,), shared=shared, **options)


def _first_output(x, params, stats, *, forward):
  return forward(params, stats, x, None, False)[0][0]


def accuracy(
  forward: Forward,
  state: State,
  xs: np.ndarray,
  labels: np.ndarray,
  **options: Any,
) -> float:
  """Returns the proportion of examples whose largest logit is their label's.

  Non-finite logits are wrong; other arguments as for `outputs`.
  """
  data.check_labels(labels, (len(xs),))
  logits = outputs(forward, state, xs, **options)
  right = np.argmax(logits, axis=1) == np.asarray(labels)
  return float(np.mean(right & np.isfinite(logits).all(1)))
