"""Lines, planes, spheres and curved patches in R^dim.

Each is built in R^k or R^(k+1) and laid into R^dim by an orthonormal frame: the
first axes, or a random one (Haar). The frame depends on the key, `dim` and k
alone, so that the same key with another `num` gives points of the same
manifold.
"""

import jax
import numpy as np

from dmm_jax.synthetic import sample


def line(
  key: jax.Array,
  *,
  num: int = 5,
  start: float = 0.05,
  spacing: float = 0.25,
  offset: float = 0.5,
  dim: int = 2,
  rotate: bool = False,
) -> sample.Sample:
  """Points at equal distances on a line, of alternating labels 0, 1, 0, ...

  By default the five points `(0.05, 0.5), (0.30, 0.5), ..., (1.05, 0.5)` of the
  clinging and dimpling pictures of https://arxiv.org/abs/2106.10151.

  Args:
    key: of the frame.
    num: points.
    start, spacing: place of the first along the line, and between neighbours.
    offset: distance of the line from the origin, along the frame's second row.
    dim: of the space, at least 2.
    rotate: whether the frame is random.
  """
  places = start + spacing * np.arange(num)
  return _flat(
    _frame(key, 2, dim, rotate), places[:, None], offset, np.arange(num) % 2
  )


def chessboard(
  key: jax.Array,
  *,
  side: int = 5,
  spacing: float = 0.25,
  offset: float = 0.5,
  dim: int = 3,
  rotate: bool = False,
) -> sample.Sample:
  """A square grid in a plane, coloured as a chessboard; label 1 at the corner.

  By default {0, 0.25, 0.5, 0.75, 1}^2 at height 0.5 in R^3.

  Args:
    key: of the frame.
    side: points along an edge; the sample has `side^2`, row by row.
    spacing: between neighbours. The first point is at (0, 0).
    offset: distance of the plane from the origin, along the frame's third row.
    dim: of the space, at least 3.
    rotate: whether the frame is random.
  """
  cells = np.stack(np.divmod(np.arange(side**2), side), -1)
  labels = 1 - cells.sum(-1) % 2
  return _flat(_frame(key, 3, dim, rotate), spacing * cells, offset, labels)


def subspace(
  key: jax.Array, *, num: int = 1000, k: int = 10, dim: int = 100
) -> sample.Sample:
  """Gaussian points of a random linear subspace, halved by a hyperplane.

  Standard normal in k dimensions. The label is 1 on the positive side of the
  hyperplane through the origin whose normal is the first tangent.
  """
  z = _normal(key, 1, (num, k))
  return _flat(_frame(key, k, dim, True), z, 0.0, z[:, 0] > 0)


def circle(
  key: jax.Array,
  *,
  num: int = 1000,
  arcs: int = 2,
  radius: float = 1.0,
  dim: int = 2,
  rotate: bool = False,
) -> sample.Sample:
  """Uniform points of a circle around the origin, of labels that alternate.

  Args:
    key: of points and frame.
    num: points.
    arcs: equal parts of the circle, from angle 0 on; the label is the parity
      of the part, 0 in the first.
    radius: of the circle.
    dim: of the space, at least 2.
    rotate: whether the frame is random.
  """
  turns = np.asarray(jax.random.uniform(jax.random.fold_in(key, 1), (num,)))
  angles = 2 * np.pi * turns.astype(np.float64)
  frame = _frame(key, 2, dim, rotate)
  points = np.stack([np.cos(angles), np.sin(angles)], -1)
  tangents = np.stack([-np.sin(angles), np.cos(angles)], -1)[:, None]
  labels = np.floor(turns * arcs) % 2
  return sample.rounded(radius * points @ frame, labels, tangents @ frame)


def sphere(
  key: jax.Array,
  *,
  num: int = 1000,
  k: int = 32,
  dim: int = 784,
  radius: float = 28.0,
  num_classes: int = 2,
  num_tangents: int | None = None,
) -> sample.Sample:
  """Uniform points of a sphere in a random subspace, with random labels.

  The sphere S^(k-1) around the origin, in a k-dimensional subspace: tangents
  are k - 1. Labels are uniform and independent of the points.

  Args:
    key: of points, labels and subspace.
    num: points.
    k: dimension of the subspace.
    dim: of the space.
    radius: of the sphere.
    num_classes: labels are 0 to `num_classes - 1`.
    num_tangents: for how many points, from the first on, tangents are returned
      (`[num_tangents, k - 1, dim]`); all if None. A point takes
      `4 (k - 1) dim` bytes: 100000 points of the default size, 9.7 GB.
  """
  frame = _frame(key, k, dim, True)
  units = _normal(key, 1, (num, k))
  units /= np.linalg.norm(units, axis=1, keepdims=True)
  labels = jax.random.randint(
    jax.random.fold_in(key, 2), (num,), 0, num_classes
  )
  # Reflections that take the first axis to the point, up to sign, take the
  # other axes to its tangents. The sign keeps v away from 0.
  first = units[:num_tangents]
  v = first.copy()
  v[:, 0] += np.where(v[:, 0] < 0, -1.0, 1.0)
  scale = 2 / (v**2).sum(-1)[:, None, None]
  tangents = np.eye(k)[1:] - scale * v[:, 1:, None] * v[:, None]
  # As one product; numpy would take one for each point.
  tangents = (tangents.reshape(-1, k) @ frame).reshape(-1, k - 1, dim)
  return sample.rounded(radius * units @ frame, np.asarray(labels), tangents)


def patch(
  key: jax.Array,
  *,
  num: int = 1000,
  curvatures: tuple[float, ...] = (1.0, -1.0),
  extent: float = 1.0,
  dim: int = 3,
  rotate: bool = False,
) -> sample.Sample:
  """Points of a curved surface, the graph of a quadratic.

  At z, uniform in the cube `[-extent, extent]^k`, the surface has height
  `sum_i c_i z_i^2 / 2`; at the vertex z = 0 the c_i are its principal
  curvatures. The label is 1 where `z_0 > 0`. Points are uniform in z, not in
  area.

  Args:
    key: of points and frame.
    num: points.
    curvatures: the c_i; their number is k, and a point in the frame's
      coordinates is (z_0, ..., z_(k-1), height).
    extent: half the edge of the cube.
    dim: of the space, at least k + 1.
    rotate: whether the frame is random.
  """
  c = np.asarray(curvatures, float)
  k = len(c)
  z = np.asarray(
    jax.random.uniform(
      jax.random.fold_in(key, 1), (num, k), minval=-extent, maxval=extent
    ),
    np.float64,
  )
  points = np.append(z, (c * z**2).sum(-1, keepdims=True) / 2, -1)
  slopes = np.broadcast_to(np.eye(k), (num, k, k))
  slopes = np.append(slopes, (c * z)[..., None], -1)
  frame = _frame(key, k + 1, dim, rotate)
  return sample.rounded(
    points @ frame, z[:, 0] > 0, sample.orthonormal(slopes) @ frame
  )


def _normal(key, index, shape):
  draw = jax.random.normal(jax.random.fold_in(key, index), shape)
  return np.array(draw, np.float64)


def _frame(key, k, dim, rotate):
  """Returns orthonormal rows `[k, dim]`: the first axes, or random ones."""
  if dim < k:
    raise ValueError(f'dim is at least {k} here, got {dim}')
  if not rotate:
    return np.eye(k, dim)
  return sample.orthonormal(_normal(key, 0, (k, dim)))


def _flat(frame, places, offset, labels):
  """Returns a sample of a flat piece, from places `[n, k]` in it.

  `offset` moves it along the frame's row k, if there is one.
  """
  k = places.shape[1]
  xs = places @ frame[:k] + offset * frame[k:].sum(0)
  tangents = np.broadcast_to(
    frame[:k].astype(np.float32), (len(xs), *frame[:k].shape)
  )
  return sample.rounded(xs, labels, tangents)
