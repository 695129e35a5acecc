"""Maps in plain numpy, by their definitions, all pairs at once.

Units are numbered row by row; codebooks are `[rows, cols, d]`.
"""

import itertools

import numpy as np


def places(grid, topology):
  """Where units lie, down and right, `[units, 2]`.

  Every second row of hexagons lies half a unit to the left, the last one too.
  """
  out = np.indices(grid).reshape(2, -1).T.astype(float)
  if topology == 'hexagonal':
    out[(grid[0] - 1 - out[:, 0]) % 2 == 0, 1] -= 0.5
    out[:, 0] *= np.sqrt(3) / 2
  return out


def offsets(grid, topology, periodic):
  """Absolute offsets of all pairs, of the nearest copy, `[units, units, 2]`."""
  where = places(grid, topology)
  away = where[:, None] - where[None]
  if not periodic:
    return np.abs(away)
  height = np.sqrt(3) / 2 if topology == 'hexagonal' else 1
  turns = np.array(list(itertools.product((0, -1, 1), repeat=2)))
  copies = away + (turns * [grid[0] * height, grid[1]])[:, None, None]
  best = np.linalg.norm(copies, axis=-1).round(9).argmin(axis=0)
  return np.abs(np.take_along_axis(copies, best[None, ..., None], 0)[0])


def adjacent(grid, topology, periodic):
  """Whether pairs of different units are neighbours, `[units, units]`.

  8 on squares and 6 on hexagons.
  """
  away = offsets(grid, topology, periodic)
  if topology == 'rectangular':
    near = away.max(-1) < 1.01
  else:
    near = np.linalg.norm(away, axis=-1) < 1.01
  return near & ~np.eye(len(near), dtype=bool)


def influence(grid, sigma, topology, periodic, neighborhood):
  """MiniSom's `neighborhood`, with triangles of height 1, `[units, units]`."""
  offset = offsets(grid, topology, periodic)
  square = np.sum(offset**2, -1) / sigma**2
  if neighborhood == 'gaussian':
    return np.exp(-square / 2)
  if neighborhood == 'mexican_hat':
    return np.exp(-square / 2) * (1 - square)
  along = offset / sigma
  if topology == 'hexagonal':
    along = np.sqrt(square)[..., None]
  if neighborhood == 'bubble':
    return np.all(along < 1, -1) * 1.0
  return np.prod(np.maximum(1 - along, 0), -1)


def is_usable(xs, distance):
  """Whether codes `[n, d]` are finite, and have a direction."""
  usable = np.isfinite(xs).all(-1)
  if distance == 'cosine':
    usable &= (xs != 0).any(-1)
  if distance == 'correlation':
    usable &= np.ptp(np.nan_to_num(xs), axis=-1) > 0
  return usable


def all_distances(xs, units, distance='euclidean'):
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


def batch_step(codebook, xs, sigma, distance='euclidean', **names):
  """Each unit becomes the mean of codes by influence of their nearest units.

  Returns the codebook, and the mean distance of codes before.
  """
  options = dict(
    topology='rectangular', periodic=False, neighborhood='gaussian'
  )
  xs = xs[is_usable(xs, distance)]
  units = codebook.reshape(-1, codebook.shape[-1])
  away = all_distances(xs, units, distance)
  h = influence(codebook.shape[:2], sigma, **options | names)
  h = h[:, away.argmin(1)]
  total = h.sum(1, keepdims=True)
  new = np.where(total > 1e-31, h @ xs / np.maximum(total, 1e-99), units)
  return new.reshape(codebook.shape), away.min(1).mean()


def online_step(codebook, x, sigma, rate, distance='euclidean', **names):
  """Units go towards a code by influence of its nearest one.

  Returns the codebook, and the code's distance before.
  """
  options = dict(
    topology='rectangular', periodic=False, neighborhood='gaussian'
  )
  units = codebook.reshape(-1, codebook.shape[-1])
  away = all_distances(x[None], units, distance)[0]
  h = influence(codebook.shape[:2], sigma, **options | names)[away.argmin()]
  new = units + rate * h[:, None] * (x - units)
  return new.reshape(codebook.shape), away.min()


def schedule(name, start, end, num):
  """Values from the first to the last update."""
  t = np.arange(num)
  if name == 'asymptotic':
    return start / (1 + 2 * t / num)
  if name == 'linear':
    return np.linspace(start, end, num)
  return np.geomspace(start, end, num)


def u_matrix(codebook, topology, periodic, reduce=np.mean):
  """Distances from neighbours, 0 without any."""
  units = codebook.reshape(-1, codebook.shape[-1])
  near = adjacent(codebook.shape[:2], topology, periodic)
  away = all_distances(units, units)
  out = [
    reduce(a[n]) if n.any() else 0 for a, n in zip(away, near, strict=True)
  ]
  return np.reshape(out, codebook.shape[:2])


def distortion(codebook, xs, sigma, distance, **names):
  """Mean over codes of squared distances by influence, euclidean."""
  units = codebook.reshape(-1, codebook.shape[-1])
  nearest = all_distances(xs, units, distance).argmin(1)
  h = influence(codebook.shape[:2], sigma, **names)[nearest]
  return np.mean(np.sum(h * all_distances(xs, units) ** 2, axis=1))
