"""Points with labels and tangents."""

from typing import NamedTuple

import numpy as np


class Sample(NamedTuple):
  """Points of a manifold.

  Attributes:
    xs: the points `[n, ...]`, float32.
    labels: `[n]` int32, from 0.
    tangents: orthonormal rows `[n, k, d]`, float32, of the tangent space at
      each point, its entries in the order of `xs[i].ravel()`. May be read-only.
  """

  xs: np.ndarray
  labels: np.ndarray
  tangents: np.ndarray


def rounded(xs: np.ndarray, labels: np.ndarray, tangents: np.ndarray) -> Sample:
  """Returns a sample in single precision."""
  return Sample(
    np.asarray(xs, np.float32),
    np.asarray(labels, np.int32),
    np.asarray(tangents, np.float32),
  )


def orthonormal(rows: np.ndarray) -> np.ndarray:
  """Returns orthonormal rows of the same span, `[..., k, d]`.

  The first keeps its direction. Of Gaussian rows, a frame by Haar's measure:
  the signs make the factorisation unique.
  """
  q, r = np.linalg.qr(rows.swapaxes(-1, -2))
  signs = np.where(np.diagonal(r, axis1=-2, axis2=-1) < 0, -1.0, 1.0)
  return (q * signs[..., None, :]).swapaxes(-1, -2)
