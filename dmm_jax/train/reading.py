"""What trained networks say of a data set."""

import functools
from typing import Any

import numpy as np

from dmm_jax import parallel
from dmm_jax.train.loop import Forward
from dmm_jax.train.loop import State


def outputs(
  forward: Forward, state: State, xs: np.ndarray, **options: Any
) -> np.ndarray:
  """A network's first outputs `[n, ...]`: logits, or images given back.

  `options` are those of `parallel.map_examples`.
  """
  shared = state.params, state.stats
  return parallel.map_examples(
    _first_output(forward), (xs,), shared=shared, **options
  )


@functools.cache
def _first_output(forward):
  # The same function for the same network: compiled once.
  return lambda x, params, stats: forward(params, stats, x, None, False)[0][0]


def accuracy(
  forward: Forward,
  state: State,
  xs: np.ndarray,
  labels: np.ndarray,
  **options: Any,
) -> float:
  """The share of examples whose largest logit is their label's.

  Non-finite logits are wrong; `options` as for `outputs`.
  """
  logits = outputs(forward, state, xs, **options)
  right = np.argmax(logits, axis=1) == np.asarray(labels)
  return float(np.mean(right & np.isfinite(logits).all(1)))
