"""Medians over inputs that one infinitely wide network is seen at."""

from collections.abc import Callable

import numpy as np


def median_distances(
  rng: np.random.Generator,
  kernel_fn: Callable,
  xs: np.ndarray,
  num_classes: int,
  *,
  num_draws: int = 1000,
) -> np.ndarray:
  """Draws the median distance of inputs from infinitely wide networks.

  Logits are Gaussian processes, one for each class, and those of one network at
  several inputs depend on each other. To first order the distance is the lead
  of the largest over sqrt(2) of their standard deviation, times ||x|| /
  sqrt(n): `distance_scale` of dense ReLU networks without biases.

  Args:
    rng: of numpy.
    kernel_fn: of such networks.
    xs: inputs `[m, ...]`, none of them zero.
    num_classes: at least 2.
    num_draws: networks.

  Returns:
    `[num_draws]`, in l2.
  """
  flat = xs.reshape(len(xs), -1)
  kernel = np.asarray(kernel_fn(flat, flat, get='nngp'), float)
  sigma = np.sqrt(np.diag(kernel))
  values, vectors = np.linalg.eigh(kernel / sigma[:, None] / sigma)
  root = np.sqrt(np.maximum(values, 0))[:, None] * vectors.T
  logits = rng.standard_normal((num_classes, num_draws, len(xs))) @ root
  second, first = np.partition(logits, (-2, -1), axis=0)[-2:]
  scale = np.linalg.norm(flat, axis=1) / np.sqrt(flat.shape[1])
  return np.median((first - second) / np.sqrt(2) * scale, axis=1)
