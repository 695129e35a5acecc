"""Segments between samples of different class."""

import jax
import numpy as np

_BATCH = 2_000_000  # Distances at a time.


def opposite_pairs(key: jax.Array, labels: np.ndarray, num: int) -> np.ndarray:
  """Returns pairs of samples of different class, drawn uniformly.

  The order within a pair is random: the mean of any fraction of the way is one
  half by symmetry, and says nothing.

  Args:
    key: of the draw.
    labels: `[n]`, of at least two classes.
    num: how many pairs.

  Returns:
    Rows `[num, 2]` int32; a pair may occur twice.

  Raises:
    ValueError: for labels of one class.
  """
  if len(np.unique(labels)) < 2:
    raise ValueError('labels must have at least two classes')
  rng = np.random.default_rng(np.asarray(jax.random.key_data(key)))
  found = np.zeros((0, 2), np.int64)
  while len(found) < num:
    pairs = rng.integers(0, len(labels), (2 * num, 2))
    apart = labels[pairs[:, 0]] != labels[pairs[:, 1]]
    found = np.concatenate([found, pairs[apart]])
  return found[:num].astype(np.int32)


def nearest_opposite(
  xs: np.ndarray, labels: np.ndarray, rows: np.ndarray
) -> np.ndarray:
  """Returns the nearest sample of another class, in l2, of some samples.

  Args:
    xs, labels: samples `[n, ...]`, `[n]`, of at least two classes.
    rows: of the samples that are asked about `[m]`.

  Returns:
    Rows `[m]` int32; the first of several that are equally near.
  """
  flat = xs.reshape(len(xs), -1)
  squares = np.sum(flat**2, axis=1)
  found, step = [], max(1, _BATCH // len(flat))
  for start in range(0, len(rows), step):
    mine = rows[start : start + step]
    # Squared distances, less what is the same for all others.
    far = squares - 2 * flat[mine] @ flat.T
    far[labels[mine][:, None] == labels] = np.inf
    found.append(far.argmin(1))
  return np.concatenate(found).astype(np.int32)
