"""Manifolds that are known exactly, against their own definitions."""

import jax
import numpy as np
import pytest
from scipy import interpolate
from sklearn import datasets

from dmm_jax import synthetic
from dmm_jax.synthetic import pictures
from dmm_jax.synthetic import sample

KEY = jax.random.key(5)
SAMPLES = {
  'line': lambda key: synthetic.line(key, num=9, dim=7, rotate=True),
  'chessboard': lambda key: synthetic.chessboard(key, dim=8, rotate=True),
  'subspace': lambda key: synthetic.subspace(key, num=60, k=4, dim=9),
  'circle': lambda key: synthetic.circle(key, num=60, dim=6, rotate=True),
  'sphere': lambda key: synthetic.sphere(key, num=60, k=5, dim=11),
  'patch': lambda key: synthetic.patch(
    key, num=60, curvatures=(2.0, 0.0, -1.0), dim=9, rotate=True
  ),
}
RANKS = dict(line=1, chessboard=2, subspace=4, circle=1, sphere=4, patch=3)


def assert_orthonormal(rows):
  grams = rows @ rows.swapaxes(-1, -2)
  expected = np.broadcast_to(np.eye(rows.shape[-2]), grams.shape)
  np.testing.assert_allclose(grams, expected, atol=2e-6)


@pytest.mark.parametrize('name', SAMPLES)
def test_samples_are_uniform_functions_of_the_key(name):
  one, two = SAMPLES[name](KEY), SAMPLES[name](KEY)
  xs, labels, tangents = one
  n, d = len(xs), xs[0].size
  assert xs.dtype == tangents.dtype == np.float32 and labels.dtype == np.int32
  assert labels.shape == (n,) and tangents.shape == (n, RANKS[name], d)
  assert set(labels) == {0, 1}
  assert_orthonormal(tangents)
  for a, b in zip(one, two, strict=True):
    np.testing.assert_array_equal(a, b)
  assert not np.array_equal(xs, SAMPLES[name](jax.random.key(6)).xs)


def test_samples_without_options():
  # Sizes, dimensions of points and tangents, and classes.
  for name, num, shape, rank, classes in (
    ('line', 5, (2,), 1, 2),
    ('chessboard', 25, (3,), 2, 2),
    ('subspace', 1000, (100,), 10, 2),
    ('circle', 1000, (2,), 1, 2),
    ('sphere', 1000, (784,), 31, 2),
    ('patch', 1000, (3,), 2, 2),
  ):
    xs, labels, tangents = getattr(synthetic, name)(KEY)
    assert xs.shape == (num, *shape) and labels.shape == (num,), name
    assert tangents.shape == (num, rank, np.prod(shape)), name
    assert set(labels) == set(range(classes)), name
    if name == 'sphere':
      np.testing.assert_allclose(np.linalg.norm(xs, axis=1), 28, rtol=1e-6)
    if name == 'circle':
      np.testing.assert_allclose(np.linalg.norm(xs, axis=1), 1, rtol=1e-6)
      np.testing.assert_array_equal(labels, xs[:, 1] < 0)
    if name == 'patch':
      np.testing.assert_allclose(
        xs[:, 2], (xs[:, 0] ** 2 - xs[:, 1] ** 2) / 2, atol=1e-6
      )
      assert 0.99 < np.abs(xs[:, :2]).max() <= 1
  parameters = synthetic.affine_parameters(KEY)
  assert parameters.shape == (1000, 6)
  np.testing.assert_allclose(np.abs(parameters).max(0), 0.2, rtol=0.01)


def test_orthonormal_rows_are_those_of_gram_and_schmidt():
  rows = np.random.default_rng(0).normal(size=(4, 3, 5))
  found = sample.orthonormal(rows)
  # rows = L q with L lower triangular, of positive diagonal.
  lower = np.linalg.cholesky(rows @ rows.swapaxes(1, 2))
  np.testing.assert_allclose(found, np.linalg.solve(lower, rows), atol=1e-12)


# --- Flat ones -------------------------------------------------------------


def test_line_of_the_pictures():
  xs, labels, tangents = synthetic.line(KEY)
  places = [0.05, 0.30, 0.55, 0.80, 1.05]
  np.testing.assert_allclose(xs, [[x, 0.5] for x in places], atol=1e-6)
  assert labels.tolist() == [0, 1, 0, 1, 0]
  np.testing.assert_array_equal(tangents, np.tile([[[1, 0]]], (5, 1, 1)))


def test_lines_lie_where_they_are_put():
  options = dict(num=6, start=-0.3, spacing=0.7, offset=1.5, dim=4)
  places = -0.3 + 0.7 * np.arange(6)
  flat = synthetic.line(KEY, **options)
  np.testing.assert_allclose(
    flat.xs, [[x, 1.5, 0, 0] for x in places], atol=1e-6
  )
  turned = synthetic.line(KEY, **options, rotate=True)
  along = turned.tangents[0, 0]
  aside = (turned.xs - places[:, None] * along) / 1.5
  np.testing.assert_allclose(aside, np.tile(aside[:1], (6, 1)), atol=1e-6)
  assert_orthonormal(np.stack([along, aside[0]]))
  assert flat.labels.tolist() == turned.labels.tolist() == [0, 1] * 3


def test_chessboard_of_the_pictures():
  xs, labels, tangents = synthetic.chessboard(KEY)
  ticks = np.linspace(0, 1, 5)
  expected = [[x, y, 0.5] for x in ticks for y in ticks]
  np.testing.assert_allclose(xs, expected, atol=1e-6)
  odd = np.isin(xs[:, :2], [0.25, 0.75])
  np.testing.assert_array_equal(labels, odd[:, 0] == odd[:, 1])
  np.testing.assert_array_equal(tangents[7], np.eye(2, 3))


def test_chessboards_lie_where_they_are_put():
  xs, labels, _ = synthetic.chessboard(
    KEY, side=4, spacing=0.75, offset=2.0, dim=5
  )
  rows, cols = np.indices((4, 4)).reshape(2, -1)
  zero = np.zeros(16)
  want = np.stack([0.75 * rows, 0.75 * cols, zero + 2, zero, zero], 1)
  np.testing.assert_allclose(xs, want, atol=1e-6)
  np.testing.assert_array_equal(labels, (rows + cols + 1) % 2)


@pytest.mark.parametrize('name', ['line', 'chessboard', 'circle', 'patch'])
def test_rotation_is_an_isometry(name):
  build = getattr(synthetic, name)
  num = {} if name == 'chessboard' else {'num': 20}
  flat = build(KEY, dim=6, **num)
  turned = build(KEY, dim=6, rotate=True, **num)
  assert not np.allclose(flat.xs, turned.xs, atol=0.1)
  np.testing.assert_allclose(
    flat.xs @ flat.xs.T, turned.xs @ turned.xs.T, rtol=1e-5, atol=2e-6
  )
  # Tangents turn with the points: the same products with them.
  of = lambda s: np.einsum('nkd,md->nkm', s.tangents, s.xs)
  np.testing.assert_allclose(of(flat), of(turned), rtol=1e-5, atol=2e-6)
  np.testing.assert_array_equal(flat.labels, turned.labels)


def test_dimensions_are_checked():
  for name, least in (('line', 2), ('chessboard', 3), ('circle', 2)):
    with pytest.raises(ValueError, match=f'dim is at least {least} here, got'):
      getattr(synthetic, name)(KEY, dim=least - 1)
  for name, least in (('subspace', 4), ('sphere', 4), ('patch', 5)):
    build = getattr(synthetic, name)
    size = dict(curvatures=(1.0,) * 4) if name == 'patch' else dict(k=4)
    assert build(KEY, num=3, dim=least, **size).xs.shape == (3, least)
    with pytest.raises(ValueError, match=f'dim is at least {least} here, got'):
      build(KEY, num=3, dim=least - 1, **size)


def test_subspace():
  xs, labels, tangents = synthetic.subspace(KEY, num=4000, k=3, dim=20)
  basis = tangents[0]
  np.testing.assert_array_equal(tangents[-1], basis)
  z = xs @ basis.T
  np.testing.assert_allclose(z @ basis, xs, atol=2e-6)
  np.testing.assert_array_equal(labels, z[:, 0] > 0)
  # Standard errors: 0.016 of means, 0.022 of variances.
  np.testing.assert_allclose(z.mean(0), 0, atol=0.07)
  np.testing.assert_allclose(np.cov(z.T), np.eye(3), atol=0.1)
  # Points and subspace are drawn apart, and the latter whatever the number.
  few = synthetic.subspace(KEY, num=200, k=1, dim=200)
  cosine = np.corrcoef(few.xs @ few.tangents[0, 0], few.tangents[0, 0])[0, 1]
  assert abs(cosine) < 0.35
  fewer = synthetic.subspace(KEY, num=7, k=3, dim=20)
  np.testing.assert_array_equal(fewer.tangents[0], basis)


def test_frames_are_uniform():
  # A random line's share of each axis is 1 / dim on average; no sign preferred.
  draw = lambda key: synthetic.line(key, dim=3, rotate=True).tangents[0, 0]
  frames = np.array([draw(jax.random.key(i)) for i in range(300)])
  np.testing.assert_allclose((frames**2).mean(0), 1 / 3, atol=0.08)
  np.testing.assert_allclose(frames.mean(0), 0, atol=0.15)


# --- Curved ones -----------------------------------------------------------


def test_circle():
  xs, labels, tangents = synthetic.circle(
    KEY, num=3000, arcs=6, radius=2.0, dim=3
  )
  np.testing.assert_allclose(np.linalg.norm(xs, axis=1), 2, rtol=1e-6)
  np.testing.assert_array_equal(xs[:, 2], 0)
  # A quarter turn on, the tangent.
  want = np.stack([-xs[:, 1], xs[:, 0], xs[:, 2]], 1) / 2
  np.testing.assert_allclose(tangents[:, 0], want, atol=1e-6)
  angles = np.arctan2(xs[:, 1], xs[:, 0]) % (2 * np.pi)
  inside = np.abs(np.sin(3 * angles)) > 1e-4
  parts = np.floor(angles / (np.pi / 3)) % 2
  np.testing.assert_array_equal(labels[inside], parts[inside])
  counts = np.histogram(angles, 6, (0, 2 * np.pi))[0]
  np.testing.assert_allclose(counts, 500, atol=100)


def test_sphere():
  xs, labels, tangents = synthetic.sphere(
    KEY, num=2000, k=5, dim=30, radius=4.0, num_classes=3, num_tangents=50
  )
  assert tangents.shape == (50, 4, 30) and xs.shape == (2000, 30)
  np.testing.assert_allclose(np.linalg.norm(xs, axis=1), 4, rtol=1e-6)
  assert_orthonormal(np.concatenate([xs[:50, None] / 4, tangents], 1))
  # All in one subspace: that of a point and its tangents.
  basis = np.concatenate([xs[:1] / 4, tangents[0]])
  onto = lambda v: v @ basis.T @ basis
  np.testing.assert_allclose(onto(xs), xs, atol=1e-5)
  np.testing.assert_allclose(onto(tangents[9]), tangents[9], atol=1e-6)
  # Uniform: E x x^T is r^2 / k within the subspace.
  moments = basis @ (xs.T @ xs) @ basis.T / 2000
  np.testing.assert_allclose(moments, np.eye(5) * 16 / 5, atol=0.4)
  # Labels: equally often, and the same on average wherever the points are.
  np.testing.assert_allclose(np.bincount(labels) / 2000, 1 / 3, atol=0.04)
  shares = [(labels[(xs @ axis) > 0] == 0).mean() for axis in basis]
  np.testing.assert_allclose(shares, 1 / 3, atol=0.06)


def test_sphere_gives_tangents_of_the_first_points():
  every = synthetic.sphere(KEY, num=30, k=4, dim=6)
  some = synthetic.sphere(KEY, num=30, k=4, dim=6, num_tangents=7)
  assert some.tangents.shape == (7, 3, 6) and some.xs.shape == (30, 6)
  np.testing.assert_array_equal(some.tangents, every.tangents[:7])
  # The same sphere again, of other size.
  more = synthetic.sphere(KEY, num=50, k=4, dim=6)
  basis = np.concatenate([every.xs[:1] / 28, every.tangents[0]])
  np.testing.assert_allclose(more.xs @ basis.T @ basis, more.xs, atol=2e-5)


def test_patch():
  c = np.array([1.5, -0.5, 3.0])
  xs, labels, tangents = synthetic.patch(
    KEY, num=500, curvatures=tuple(c), extent=0.7, dim=6
  )
  z = xs[:, :3]
  assert -0.7 <= z.min() < -0.69 and 0.69 < z.max() <= 0.7
  np.testing.assert_allclose(z.mean(0), 0, atol=0.08)
  np.testing.assert_allclose(xs[:, 3], 0.5 * z**2 @ c, atol=1e-6)
  np.testing.assert_array_equal(xs[:, 4:], 0)
  np.testing.assert_array_equal(labels, z[:, 0] > 0)
  assert_orthonormal(tangents)
  # The slopes are (e_i, c_i z_i): the normal is (-c z, 1).
  normals = np.concatenate([-c * z, np.ones((500, 1)), 0 * z[:, :2]], 1)
  np.testing.assert_allclose(
    np.einsum('nkd,nd->nk', tangents, normals), 0, atol=2e-6
  )
  np.testing.assert_array_equal(tangents[..., 4:], 0)


# --- Pictures --------------------------------------------------------------


def picture_of(glyph, parameters, size):
  """The sum of cubic B-splines, pixel by pixel."""
  spline = interpolate.BSpline.basis_element([-2, -1, 0, 1, 2], False)
  weight = lambda v: np.nan_to_num(spline(v))
  a, b, c, d, s, t = np.asarray(parameters, float)
  h, w = glyph.shape
  out = np.zeros((size, size))
  for i, j in np.ndindex(size, size):
    # Pixels' centres, from -1 to 1 over the picture, and back on the glyph.
    x, y = (2 * j + 1) / size - 1, (2 * i + 1) / size - 1
    right, down = (1 + a) * x + b * y + s, c * x + (1 + d) * y + t
    col = weight((right + 1) / 2 * w - 0.5 - np.arange(w))
    row = weight((down + 1) / 2 * h - 0.5 - np.arange(h))
    out[i, j] = row @ glyph @ col
  return out


def test_affine_maps_are_those_of_scipys_splines():
  glyph = np.random.default_rng(0).random((5, 7)).astype(np.float32)
  moved = jax.jit(synthetic.affine, static_argnums=2)
  for parameters in (
    (0.0, 0.0, 0.0, 0.0, 0.0, 0.0),
    (0.3, -0.2, 0.15, -0.25, 0.1, -0.35),
    (-0.2, 0.25, -0.1, 0.4, -0.3, 0.2),
    (0.0, 0.0, 0.0, 0.0, 3.0, 0.0),
  ):
    p = np.array(parameters, np.float32)
    np.testing.assert_allclose(
      moved(glyph, p, 9), picture_of(glyph, p, 9), atol=2e-6
    )


def test_affine_maps_move_the_picture():
  glyph = np.zeros((8, 8), np.float32)
  glyph[2, 5] = 1
  moved = jax.jit(synthetic.affine, static_argnums=2)
  draw = lambda *p: np.asarray(moved(glyph, np.array(p, np.float32), 8))
  # Unmoved: the B-spline's weights 1/6, 2/3, 1/6 around the pixel.
  weights = np.zeros((8, 8))
  weights[1:4, 4:7] = np.outer([1, 4, 1], [1, 4, 1]) / 36
  np.testing.assert_allclose(draw(0, 0, 0, 0, 0, 0), weights, atol=1e-6)
  # s shifts by columns: a pixel is 2 / 8 wide. The picture moves the other way.
  np.testing.assert_allclose(
    draw(0, 0, 0, 0, 0.25, 0), np.roll(weights, -1, 1), atol=1e-6
  )
  np.testing.assert_allclose(
    draw(0, 0, 0, 0, 0, -0.25), np.roll(weights, 1, 0), atol=1e-6
  )
  # (x, y) -> (y, x) transposes.
  np.testing.assert_allclose(draw(-1, 1, 1, -1, 0, 0), weights.T, atol=1e-6)


def test_glyphs_lie_on_their_manifold():
  digits, pick = (0, 3, 7), jax.random.key(1)
  parameters = synthetic.affine_parameters(KEY, num=12)
  xs, labels, tangents = synthetic.glyphs(
    pick, size=12, digits=digits, parameters=parameters
  )
  assert xs.shape == (12, 12, 12, 1) and set(labels) == {0, 1, 2}
  images, numbers = datasets.load_digits(return_X_y=True)
  firsts = [np.flatnonzero(numbers == digit)[0] for digit in digits]
  kinds = images[firsts].reshape(3, 8, 8) / 16
  of = lambda i, p: picture_of(kinds[labels[i]], p, 12).ravel()
  for i in range(3):
    np.testing.assert_allclose(xs[i].ravel(), of(i, parameters[i]), atol=2e-6)
    # Central differences in double precision span the tangents.
    slopes = np.array(
      [
        of(i, parameters[i] + e) - of(i, parameters[i] - e)
        for e in 1e-4 * np.eye(6)
      ]
    )
    slopes /= np.linalg.norm(slopes, axis=1, keepdims=True)
    off = slopes - slopes @ tangents[i].T @ tangents[i]
    np.testing.assert_allclose(off, 0, atol=1e-4)
  assert_orthonormal(tangents)


def test_glyphs_without_options_are_a_thousand_of_ten_digits(monkeypatch):
  drawn = []

  def few(key, *, num):
    drawn.append((key, num))
    return np.linspace(-0.2, 0.2, 60 * 6, dtype=np.float32).reshape(60, 6)

  monkeypatch.setattr(pictures, 'affine_parameters', few)
  xs, labels, tangents = synthetic.glyphs(KEY)
  assert xs.shape == (60, 16, 16, 1) and tangents.shape == (60, 6, 256)
  assert labels.shape == (60,) and set(labels) == set(range(10))
  assert_orthonormal(tangents)
  assert 0 <= xs.min() and 0.8 < xs.max() <= 1
  ((key, num),) = drawn
  # Drawn apart from the labels, but from the same key.
  assert num == 1000 and not np.array_equal(
    jax.random.key_data(key), jax.random.key_data(KEY)
  )


def test_affine_parameters():
  p = synthetic.affine_parameters(KEY, num=2000, deform=0.3, shift=0.1)
  bounds = np.array([0.3] * 4 + [0.1] * 2)
  assert p.shape == (2000, 6) and np.all(np.abs(p) <= bounds)
  # Uniform: standard deviations of 1 / sqrt 3 of the bounds, mean 0.
  np.testing.assert_allclose(p.std(0) / bounds, 3**-0.5, rtol=0.06)
  np.testing.assert_allclose(p.mean(0) / bounds, 0, atol=0.07)
