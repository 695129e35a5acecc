import jax
import numpy as np
import pytest
from sklearn import datasets

from dmm_jax import synthetic

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
  'glyphs': lambda key: synthetic.glyphs(key, num=30, size=10),
}
RANKS = {
  'line': 1,
  'chessboard': 2,
  'subspace': 4,
  'circle': 1,
  'sphere': 4,
  'patch': 3,
  'glyphs': 6,
}


@pytest.mark.parametrize('name', SAMPLES)
def test_samples_are_uniform(name):
  xs, labels, tangents = SAMPLES[name](KEY)
  n, d = len(xs), xs[0].size
  assert xs.dtype == tangents.dtype == np.float32 and labels.dtype == np.int32
  assert labels.shape == (n,) and tangents.shape == (n, RANKS[name], d)
  assert labels.min() == 0 and labels.max() > 0
  grams = tangents @ tangents.swapaxes(1, 2)
  expected = np.broadcast_to(np.eye(RANKS[name]), grams.shape)
  np.testing.assert_allclose(grams, expected, atol=2e-6)


@pytest.mark.parametrize('name', SAMPLES)
def test_samples_are_functions_of_the_key(name):
  one, two = SAMPLES[name](KEY), SAMPLES[name](KEY)
  for a, b in zip(one, two, strict=True):
    np.testing.assert_array_equal(a, b)
  assert not np.array_equal(one.xs, SAMPLES[name](jax.random.key(6)).xs)


@pytest.mark.parametrize('name', ['circle', 'sphere', 'patch'])
def test_neighbours_lie_along_the_tangents(name):
  # Neighbours are off the tangents by second order in the distance.
  draw = {
    'circle': lambda: synthetic.circle(KEY, num=3000, dim=5, rotate=True),
    'sphere': lambda: synthetic.sphere(KEY, num=3000, k=3, dim=5, radius=1.0),
    'patch': lambda: synthetic.patch(KEY, num=3000, dim=5, rotate=True),
  }
  xs, _, tangents = draw[name]()
  for i in range(20):
    steps = xs.astype(np.float64) - xs[i]
    lengths = np.linalg.norm(steps, axis=1)
    near = (lengths > 0) & (lengths < 0.2)
    assert near.sum() > 5
    on = steps[near] @ tangents[i].T
    off = np.linalg.norm(steps[near] - on @ tangents[i], axis=1)
    # All have curvatures of at most 1.
    assert np.all(off <= 0.55 * lengths[near] ** 2 + 1e-6)


def test_line_of_the_pictures():
  xs, labels, tangents = synthetic.line(KEY)
  places = [0.05, 0.30, 0.55, 0.80, 1.05]
  np.testing.assert_allclose(xs, [[x, 0.5] for x in places], atol=1e-6)
  assert labels.tolist() == [0, 1, 0, 1, 0]
  np.testing.assert_array_equal(tangents, np.tile([[[1, 0]]], (5, 1, 1)))


def test_chessboard_of_the_pictures():
  xs, labels, _ = synthetic.chessboard(KEY)
  ticks = np.linspace(0, 1, 5)
  expected = [[x, y, 0.5] for x in ticks for y in ticks]
  np.testing.assert_allclose(xs, expected, atol=1e-6)
  odd = np.isin(xs[:, :2], [0.25, 0.75])
  np.testing.assert_array_equal(labels, odd[:, 0] == odd[:, 1])


@pytest.mark.parametrize(
  'build',
  [
    synthetic.line,
    synthetic.chessboard,
    lambda key, **kwargs: synthetic.circle(key, num=20, **kwargs),
    lambda key, **kwargs: synthetic.patch(key, num=20, **kwargs),
  ],
)
def test_rotation_is_an_isometry(build):
  flat, turned = build(KEY, dim=6), build(KEY, dim=6, rotate=True)
  assert not np.allclose(flat.xs, turned.xs, atol=0.1)
  np.testing.assert_allclose(
    flat.xs @ flat.xs.T, turned.xs @ turned.xs.T, atol=2e-6
  )
  # Tangents turn with the points: the same products with them.
  of = lambda s: np.einsum('nkd,md->nkm', s.tangents, s.xs)
  np.testing.assert_allclose(of(flat), of(turned), atol=2e-6)
  np.testing.assert_array_equal(flat.labels, turned.labels)


def test_dimensions_are_checked():
  with pytest.raises(ValueError, match='dim is at least 3 here, got 2'):
    synthetic.chessboard(KEY, dim=2)


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


def test_frames_are_uniform():
  # A random line's share of each axis is 1 / dim on average; no sign preferred.
  draw = lambda key: synthetic.line(key, dim=3, rotate=True).tangents[0, 0]
  frames = np.array([draw(jax.random.key(i)) for i in range(300)])
  np.testing.assert_allclose((frames**2).mean(0), 1 / 3, atol=0.08)
  np.testing.assert_allclose(frames.mean(0), 0, atol=0.15)


def test_circle():
  xs, labels, tangents = synthetic.circle(KEY, num=3000, arcs=6, radius=2.0)
  np.testing.assert_allclose(np.linalg.norm(xs, axis=1), 2, rtol=1e-6)
  np.testing.assert_allclose((tangents[:, 0] * xs).sum(1), 0, atol=1e-6)
  angles = np.arctan2(xs[:, 1], xs[:, 0]) % (2 * np.pi)
  inside = np.abs(np.sin(3 * angles)) > 1e-4
  parts = np.floor(angles / (np.pi / 3)) % 2
  np.testing.assert_array_equal(labels[inside], parts[inside])
  counts = np.histogram(angles, 6, (0, 2 * np.pi))[0]
  np.testing.assert_allclose(counts, 500, atol=100)


def test_sphere():
  xs, labels, tangents = synthetic.sphere(
    KEY, num=2000, num_classes=3, num_tangents=50
  )
  assert tangents.shape == (50, 31, 784)
  np.testing.assert_allclose(np.linalg.norm(xs, axis=1), 28, rtol=1e-6)
  along = np.einsum('nkd,nd->nk', tangents, xs[:50] / 28)
  np.testing.assert_allclose(along, 0, atol=1e-6)
  # All in one subspace: that of a point and its tangents.
  basis = np.concatenate([xs[:1] / 28, tangents[0]])
  onto = lambda v: v @ basis.T @ basis
  np.testing.assert_allclose(onto(xs), xs, atol=1e-5)
  np.testing.assert_allclose(onto(tangents[9]), tangents[9], atol=1e-6)
  # Labels: equally often, and the same on average wherever the points are.
  np.testing.assert_allclose(np.bincount(labels) / 2000, 1 / 3, atol=0.04)
  shares = [(labels[(xs @ axis) > 0] == 0).mean() for axis in basis[:5]]
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
  assert np.all(np.abs(z) <= 0.7) and np.abs(z).max() > 0.69
  np.testing.assert_allclose(xs[:, 3], 0.5 * z**2 @ c, atol=1e-6)
  np.testing.assert_array_equal(xs[:, 4:], 0)
  np.testing.assert_array_equal(labels, z[:, 0] > 0)

  def embed(z):
    return np.append(z, 0.5 * (z**2 @ c))

  for x, basis in zip(z[:20].astype(np.float64), tangents, strict=False):
    slopes = np.array(
      [(embed(x + e) - embed(x - e)) / 2e-4 for e in 1e-4 * np.eye(3)]
    )
    off = slopes - slopes @ basis[:, :4].T @ basis[:, :4]
    np.testing.assert_allclose(off, 0, atol=2e-6)


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
  picture = jax.jit(jax.vmap(lambda g, p: synthetic.affine(g, p, 12).ravel()))
  of = lambda p: np.asarray(picture(kinds[labels], p), np.float64)
  np.testing.assert_allclose(xs.reshape(12, -1), of(parameters), atol=1e-6)
  # Differences against the span of the tangents, to their own error.
  for e in 1e-2 * np.eye(6, dtype=np.float32):
    slopes = (of(parameters + e) - of(parameters - e)) / 2e-2
    on = np.einsum('nkd,nd->nk', tangents, slopes)
    off = slopes - np.einsum('nk,nkd->nd', on, tangents)
    lengths = np.linalg.norm(slopes, axis=1)
    assert np.all(np.linalg.norm(off, axis=1) < 5e-3 * lengths)


def test_affine_maps():
  glyph = np.zeros((8, 8), np.float32)
  glyph[2, 5] = 1
  moved = jax.jit(synthetic.affine, static_argnums=2)
  draw = lambda *p, size=8: np.asarray(
    moved(glyph, np.array(p, np.float32), size)
  )
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
  # Shown smaller: the total falls with the area. Nothing outside.
  np.testing.assert_allclose(
    draw(1, 0, 0, 1, 0, 0, size=64).sum() / 64, 1 / 4, rtol=1e-3
  )
  assert draw(0, 0, 0, 0, 3, 0).max() == 0


def test_affine_is_smooth():
  # Slopes by JAX against differences, over the joints of the splines.
  glyph = np.random.default_rng(0).random((8, 8)).astype(np.float32)
  picture = jax.jit(lambda p: synthetic.affine(glyph, p, 8).ravel())
  slopes = jax.jit(jax.jacfwd(picture))
  for t in np.linspace(0, 0.5, 7):
    p = np.array([0.1, 0, -0.1, 0, t, 0], np.float32)
    step = np.array([0, 0, 0, 0, 1e-2, 0], np.float32)
    got = (picture(p + step) - picture(p - step)) / 2e-2
    np.testing.assert_allclose(got, slopes(p)[:, 4], atol=0.02)
  assert np.abs(slopes(p)).max() > 0.5


def test_affine_parameters():
  p = synthetic.affine_parameters(KEY, num=2000, deform=0.3, shift=0.1)
  bounds = np.array([0.3] * 4 + [0.1] * 2)
  assert np.all(np.abs(p) <= bounds)
  # Uniform: standard deviations of 1 / sqrt 3 of the bounds.
  np.testing.assert_allclose(p.std(0) / bounds, 3**-0.5, rtol=0.06)
