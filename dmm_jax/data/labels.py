"""Examples chosen by their labels, and labels changed.

Random changes are functions of a JAX key: the same key, the same result.
"""

import jax
from jax.typing import ArrayLike
import numpy as np


def check_labels(
  labels: ArrayLike, shape: tuple[int, ...], num_classes: int | None = None
) -> None:
  """Raises unless labels are class numbers, one for each example.

  Args:
    labels: what was given.
    shape: that they have to have, such as `(n,)`.
    num_classes: labels have to lie below it; None for any number of classes.

  Raises:
    TypeError: for labels that are not integers.
    ValueError: for another shape, a negative label, or one of no class.
  """
  array = labels if isinstance(labels, jax.Array) else np.asarray(labels)
  if array.shape != shape:
    column = array.ndim == len(shape) + 1 and array.shape[-1] == 1
    remedy = 'labels[..., 0]' if column else 'one class number an example'
    raise ValueError(
      f'labels must have shape {shape}, got {array.shape}; pass {remedy}'
    )
  if not np.issubdtype(array.dtype, np.integer):
    raise TypeError(
      f'labels must be integers, got {array.dtype}; for class numbers stored '
      'as another type pass labels.astype(np.int32)'
    )
  if not array.size:
    return
  low, high = int(array.min()), int(array.max())
  if low < 0 or (num_classes is not None and high >= num_classes):
    end = 'k' if num_classes is None else num_classes
    raise ValueError(
      f'labels must lie in [0, {end}), got labels from {low} to {high}; number '
      'the classes from 0, and leave out examples without a class'
    )


def commonest_share(labels: np.ndarray) -> float:
  """Returns the share of the commonest class: what a guess without inputs gets.

  Args:
    labels: `[n]` integers from 0, at least one.
  """
  return float(np.bincount(labels).max() / len(labels))


def of_classes(
  xs: np.ndarray, labels: np.ndarray, classes: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Returns the examples of some classes, these renumbered from 0.

  Args:
    xs, labels: `[n, ...]`, and `[n]` integers.
    classes: the ones to keep, in rising order.

  Returns:
    `(xs [m, ...], numbers [m], rows [m])`: places among `classes`, and in `xs`.
  """
  rows = np.flatnonzero(np.isin(labels, classes)).astype(np.int32)
  numbers = np.searchsorted(classes, labels[rows]).astype(np.int32)
  return xs.take(rows, axis=0), numbers, rows


def balanced(key: jax.Array, labels: np.ndarray, per_class: int) -> np.ndarray:
  """Returns rows `[num_classes * per_class]` with equally many of each class.

  Rows are in rising order, drawn without replacement; a class is a value that
  occurs in `labels` `[n]`.

  Raises:
    ValueError: if a class has fewer than `per_class` examples.
  """
  classes, counts = np.unique(labels, return_counts=True)
  if not 0 <= per_class <= counts.min():
    raise ValueError(
      f'per_class {per_class}: class {classes[counts.argmin()]} has '
      f'{counts.min()} examples'
    )
  # The first of each class in one random order of all.
  order = np.asarray(jax.random.permutation(key, len(labels)))
  rows = [order[labels[order] == c][:per_class] for c in classes]
  return np.sort(np.concatenate(rows)).astype(np.int32)


def parity(labels: np.ndarray) -> np.ndarray:
  """Returns labels of two classes, int32: 1 where a label is odd, else 0."""
  return (labels % 2).astype(np.int32)


def shuffle_labels(key: jax.Array, labels: np.ndarray) -> np.ndarray:
  """Returns `labels` `[n]` in random order: each class keeps its count.

  About one in `num_classes` examples keeps its label by chance.
  """
  return labels[np.asarray(jax.random.permutation(key, len(labels)))]


def noisy_labels(
  key: jax.Array, labels: np.ndarray, fraction: float, num_classes: int
) -> np.ndarray:
  """Returns labels of which a share is wrong: symmetric label noise.

  Args:
    key: of the noise.
    labels: `[n]`, integers from 0 to `num_classes - 1`.
    fraction: exactly `round(fraction * n)` labels change, each to one of the
      other classes, all equally likely.
    num_classes: at least 2.

  Returns:
    Labels `[n]` int32.
  """
  if not 0 <= fraction <= 1:
    raise ValueError(f'fraction is between 0 and 1, got {fraction}')
  if num_classes < 2 or not np.all((labels >= 0) & (labels < num_classes)):
    raise ValueError(
      f'num_classes is at least 2 and above all labels, got {num_classes}'
    )
  n = len(labels)
  which, step = jax.random.split(key)
  rows = np.asarray(jax.random.permutation(which, n))[: round(fraction * n)]
  steps = np.asarray(jax.random.randint(step, rows.shape, 1, num_classes))
  out = labels.astype(np.int32)
  out[rows] = (out[rows] + steps) % num_classes
  return out
