"""Maps in plain numpy, by their definitions; weights `[x, y, d]` as MiniSom's.

x runs across (our columns), y down (our rows).
"""

import itertools

import numpy as np


def places(shape, topology):
  """Where units lie, `[x, y, 2]`."""
  x, y = np.indices(shape).astype(float)
  if topology == 'hexagonal':
    x[:, ::-2] -= 0.5
    y *= np.sqrt(3) / 2
  return np.stack([x, y], -1)


def influence(shape, unit, sigma, topology, neighborhood):
  """MiniSom's `neighborhood(unit, sigma)`, with triangles of height 1."""
  where = places(shape, topology)
  offset = np.abs(where - where[unit])
  if topology == 'hexagonal' or neighborhood in ('gaussian', 'mexican_hat'):
    away = np.sqrt(np.sum(offset**2, -1))
    return {
      'gaussian': np.exp(-(away**2) / (2 * sigma**2)),
      'mexican_hat': np.exp(-(away**2) / (2 * sigma**2))
      * (1 - away**2 / sigma**2),
      'bubble': (away < sigma) * 1.0,
      'triangle': np.maximum(1 - away / sigma, 0),
    }[neighborhood]
  if neighborhood == 'bubble':
    return np.all(offset < sigma, -1) * 1.0
  return np.prod(np.maximum(1 - offset / sigma, 0), -1)


def measure(x, weights, distance):
  away = x - weights
  if distance == 'euclidean':
    return np.linalg.norm(away, axis=-1)
  if distance == 'l1':
    return np.abs(away).sum(-1)
  if distance == 'linf':
    return np.abs(away).max(-1)
  if distance == 'correlation':
    x, weights = x - x.mean(), weights - weights.mean(-1, keepdims=True)
  size = np.linalg.norm(x) * np.linalg.norm(weights, axis=-1)
  return 1 - weights @ x / size


def winner(x, weights, distance='euclidean'):
  away = measure(x, weights, distance)
  return np.unravel_index(np.argmin(away), away.shape)


def online(weights, xs, sigmas, rates, topology, neighborhood, distance):
  """MiniSom's `update`, code after code."""
  for x, sigma, rate in zip(xs, sigmas, rates, strict=True):
    unit = winner(x, weights, distance)
    g = rate * influence(weights.shape[:2], unit, sigma, topology, neighborhood)
    weights = weights + g[..., None] * (x - weights)
  return weights


def batch(weights, xs, sigma, topology, neighborhood, distance='euclidean'):
  """XPySom's epoch with std_coeff 1: numerator over denominator."""
  above, below = np.zeros_like(weights), np.zeros(weights.shape[:2])
  for x in xs:
    unit = winner(x, weights, distance)
    g = influence(weights.shape[:2], unit, sigma, topology, neighborhood)
    above += g[..., None] * x
    below += g
  reached = below > 0
  mean = above / np.where(reached, below, 1)[..., None]
  return np.where(reached[..., None], mean, weights)


def two_best(x, weights):
  order = np.argsort(measure(x, weights, 'euclidean').ravel(), kind='stable')
  return [np.unravel_index(i, weights.shape[:2]) for i in order[:2]]


def topographic_error(weights, xs, topology):
  """MiniSom's: farther than 1.42 on squares, not at 1 on hexagons."""
  where = places(weights.shape[:2], topology)
  pairs = [two_best(x, weights) for x in xs]
  away = np.array([np.linalg.norm(where[a] - where[b]) for a, b in pairs])
  if topology == 'hexagonal':
    return 1 - np.mean(np.isclose(away, 1))
  return np.mean(away > 1.42)


def quantization_error(weights, xs):
  return np.mean([measure(x, weights, 'euclidean').min() for x in xs])


def u_matrix(weights, topology):
  """Mean distance from the units that lie within 1.42, or at 1."""
  where = places(weights.shape[:2], topology)
  out = np.zeros(weights.shape[:2])
  for unit in itertools.product(*map(range, out.shape)):
    away = np.linalg.norm(where - where[unit], axis=-1)
    near = (away > 0) & (away < (1.01 if topology == 'hexagonal' else 1.42))
    if near.any():
      out[unit] = measure(weights[unit], weights[near], 'euclidean').mean()
  return out


def all_distances(xs, units, distance):
  """Distances of all codes from all units in float64, `[n, k]`."""
  xs, units = xs.astype(float), units.astype(float)
  away = xs[:, None] - units[None]
  if distance == 'euclidean':
    return np.linalg.norm(away, axis=-1)
  if distance == 'l1':
    return np.abs(away).sum(-1)
  if distance == 'linf':
    return np.abs(away).max(-1)
  if distance == 'correlation':
    xs, units = (v - v.mean(-1, keepdims=True) for v in (xs, units))
  lengths = [np.linalg.norm(v, axis=-1, keepdims=True) for v in (xs, units)]
  xs, units = (
    v / np.maximum(size, 1e-99)
    for v, size in zip((xs, units), lengths, strict=True)
  )
  away = np.sum((xs[:, None] - units[None]) ** 2, axis=-1) / 2
  return np.where((lengths[0] > 0) & (lengths[1].T > 0), away, 1)


def distortion(weights, xs, sigma):
  """Mean over codes of squared distances by influence, euclidean."""
  total = 0
  for x in xs:
    h = influence(
      weights.shape[:2], winner(x, weights), sigma, 'rectangular', 'gaussian'
    )
    total += np.sum(h * np.sum((x - weights) ** 2, -1))
  return total / len(xs)


def torus_distances(grid, topology):
  """Least distance over the nine nearest copies, `[units, units]`."""
  rows, cols = grid
  where = places((cols, rows), topology).swapaxes(0, 1).reshape(-1, 2)
  height = np.sqrt(3) / 2 if topology == 'hexagonal' else 1
  copies = [
    np.linalg.norm(
      where[:, None] - where[None] + [i * cols, j * rows * height], axis=-1
    )
    for i, j in itertools.product((-1, 0, 1), repeat=2)
  ]
  return np.min(copies, axis=0)
