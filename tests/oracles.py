"""Independent implementations that the tests hold the library to."""

import numpy as np


def dense_kernel(xs1, xs2, depth, sigma_w, sigma_b, activation='relu'):
  """NNGP kernel of a dense network, by the layer recursion, `[n1, n2]`.

  Cho and Saul (2009) for ReLU, Williams (1997) for erf.
  """
  rows = [np.reshape(np.asarray(v, float), (len(v), -1)) for v in (xs1, xs2)]
  n = rows[0].shape[1]
  first = lambda a, b: sigma_b**2 + sigma_w**2 * (a @ b.T) / n
  k12 = first(*rows)
  k1, k2 = (np.diag(first(r, r)) for r in rows)
  for _ in range(depth):
    k12, k1, k2 = (
      sigma_b**2 + sigma_w**2 * _expect(a, b, c, activation)
      for a, b, c in (
        (k12, k1[:, None], k2[None]),
        (k1, k1, k1),
        (k2, k2, k2),
      )
    )
  return k12


def _expect(k12, k1, k2, activation):
  """E[phi(u) phi(v)] for jointly normal u, v."""
  if activation == 'erf':
    ratio = 2 * k12 / np.sqrt((1 + 2 * k1) * (1 + 2 * k2))
    return 2 / np.pi * np.arcsin(ratio)
  size = np.sqrt(k1 * k2)
  cosine = np.clip(k12 / size, -1, 1)
  angle = np.arccos(cosine)
  return size * (np.sin(angle) + (np.pi - angle) * cosine) / (2 * np.pi)
