"""Curves along training, one of each network: least points, straight pieces.

Curves are `[m, T]`, of m networks at T steps. Where a network's own noise would
choose the place at which it is read, the place is that of the mean curve of all
other networks: without a trend, what is read there has the mean of any place.
"""

import functools
import itertools

import numpy as np


def others_mean(curves: np.ndarray) -> np.ndarray:
  """Returns for each network the mean curve of all others `[m, T]`.

  NaN of one network.
  """
  with np.errstate(invalid='ignore'):
    return (curves.sum(0) - curves) / (len(curves) - 1)


def least(curves: np.ndarray) -> np.ndarray:
  """Returns curves where the others' mean is least after the start `[m]`."""
  place = least_place(curves)
  return curves[np.arange(len(curves)), place]


def least_place(curves: np.ndarray) -> np.ndarray:
  """Returns where the others' mean curve is least after the start `[m]`."""
  return 1 + np.argmin(others_mean(curves)[:, 1:], axis=1)


def bends(x: np.ndarray, curves: np.ndarray) -> np.ndarray:
  """Returns the two bends of each curve's best three straight pieces `[m, 2]`.

  By least squares over all pairs of places; the pieces are connected.

  Args:
    x: of the steps `[T]`, rising, T >= 4.
    curves: `[m, T]`; NaN count as 0.

  Returns:
    Places between 1 and T - 2.
  """
  places, bases = _every_basis(tuple(x))
  # The basis that explains most leaves the least squares.
  kept = np.einsum('ctb,mt->mcb', bases, np.nan_to_num(curves))
  return places[np.argmax(np.sum(kept**2, axis=-1), axis=1)]


def slopes(x: np.ndarray, curves: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Returns the first piece's slope, and the last's less it; each `[m]`.

  The bends are those of the others' mean curve: chosen on the curve itself,
  noise would look like a bend. Arguments as for `bends`.
  """
  found = [
    np.linalg.lstsq(_pieces(x, of), curve)[0]
    for of, curve in zip(bends(x, others_mean(curves)), curves, strict=True)
  ]
  _, slope, first, second = np.array(found).T
  return slope, first + second


def fall_ahead(
  x: np.ndarray, curves: np.ndarray, other: np.ndarray
) -> np.ndarray:
  """Returns by how much a fall before another curve's exceeds that after `[m]`.

  The fall from the start to `least`; the other curve begins to rise at the
  first of its own `bends`.

  Args:
    x: of the steps `[T]`.
    curves: `[m, T]`, 0 at the start.
    other: `[m, T]`.
  """
  place = least_place(curves)
  onset = np.minimum(bends(x, other)[:, 0], place)
  rows = np.arange(len(curves))
  return curves[rows, place] - 2 * curves[rows, onset]


@functools.cache
def _every_basis(x):
  """All pairs of bends `[c, 2]`, and orthonormal bases `[c, T, 4]`."""
  pairs = itertools.combinations(range(1, len(x) - 1), 2)
  places = np.array(list(pairs), int).reshape(-1, 2)
  return places, np.linalg.qr(_pieces(np.array(x), places))[0]


def _pieces(x, places):
  """Columns that span three pieces with bends at places `[..., 2]`."""
  over = np.maximum(0, x[:, None] - x[places][..., None, :])
  plain = np.stack([np.ones(len(x)), x], axis=1)
  plain = np.broadcast_to(plain, (*over.shape[:-1], 2))
  return np.concatenate([plain, over], axis=-1)
