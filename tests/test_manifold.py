"""Bases of subspaces, and parts of vectors in them, against numpy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special
from scipy import stats

from dmm_jax import manifold
from dmm_jax import models
from dmm_jax import synthetic
from dmm_jax import train

RNG = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def same_numbers(monkeypatch):
  """The same draws in each test, whichever others run."""
  monkeypatch.setitem(globals(), 'RNG', np.random.default_rng(0))


def projector(basis):
  return np.asarray(basis.T @ basis)


def assert_same_rows(found, want, atol=1e-5):
  """Rows agree, each up to its sign."""
  found = np.asarray(found, float)
  signs = np.sign((found * want).sum(1, keepdims=True))
  np.testing.assert_allclose(signs * found, want, atol=atol)


def frames(d, k):
  """Orthonormal columns `[d, k]` and a rotation `[k, k]`."""
  left = np.linalg.qr(RNG.normal(size=(d, k)))[0]
  return left, np.linalg.qr(RNG.normal(size=(k, k)))[0]


# --- Tangent spaces --------------------------------------------------------

LEFT, RIGHT = frames(12, 4)


@functools.partial(jax.jit, static_argnums=(1, 2))
def tangents(sizes, rank, bent=False):
  """Of a decoder with these singular values, in single precision."""
  columns = (jnp.asarray(LEFT, jnp.float32) * sizes[None]) @ jnp.asarray(
    RIGHT, jnp.float32
  )

  def decode(z):
    w = z - 0.5 + bent * (z - 0.5) ** 3 if bent else z
    return (columns @ w + 1.0).reshape(3, 4)

  return manifold.tangent_basis(decode, jnp.full(4, 0.5), rank)


def test_leading_tangents_are_singular_vectors():
  sizes = 0.1 * jnp.array([4.0, 3.0, 1.2, 0.4])
  left = np.asarray(LEFT.T)
  whole = tangents(sizes, None)
  np.testing.assert_allclose(whole @ whole.T, np.eye(4), atol=1e-6)
  np.testing.assert_allclose(projector(whole), LEFT @ LEFT.T, atol=1e-5)
  for rank, kept, shape in (
    # That many, or those of at least this share of the largest.
    (1, 1, 1),
    (0.0, 4, 4),
    (0.29, 3, 4),
    (0.35, 2, 4),
  ):
    basis = tangents(sizes, rank)
    assert basis.shape == (shape, 12)
    assert_same_rows(basis[:kept], left[:kept])
    assert not np.any(basis[kept:])
  bent = tangents(sizes, None, True)
  np.testing.assert_allclose(projector(bent), LEFT @ LEFT.T, atol=1e-5)


def test_latents_that_do_nothing_get_no_row():
  for sizes, rank, kept in (
    ((1.0, 0.5, 0.0, 0.0), None, 2),
    ((1.0, 0.5, 0.0, 0.0), 0.0, 2),
    ((0.0, 0.0, 0.0, 0.0), None, 0),
    ((0.0, 0.0, 0.0, 0.0), 0.35, 0),
    # Shares below the root of the rounding unit times d, 1.2e-3, count as 0.
    ((1.0, 0.5, 3e-3, 4e-4), 0.0, 3),
  ):
    basis = np.asarray(tangents(jnp.array(sizes), rank))
    lengths = np.linalg.norm(basis, axis=1)
    assert np.sum(lengths > 0.5) == kept and np.sum(lengths == 0) == 4 - kept
    np.testing.assert_allclose(
      projector(basis), LEFT[:, :kept] @ LEFT[:, :kept].T, atol=2e-3
    )


def test_tangents_of_a_curved_surface_in_double_precision():
  a, b = RNG.normal(size=(2, 5, 5))
  with jax.enable_x64(True):
    decode = lambda z: (jnp.tanh(a @ z) + 0.3 * jnp.sin(b @ z)).reshape(5, 1)
    z = RNG.normal(size=5)
    slopes = (1 - np.tanh(a @ z) ** 2)[:, None] * a
    slopes += 0.3 * np.cos(b @ z)[:, None] * b
    u = np.linalg.svd(slopes)[0]
    # As many latents as entries are allowed.
    basis = jax.jit(lambda z: manifold.tangent_basis(decode, z, 3))(z)
    assert_same_rows(basis, u.T[:3], atol=1e-10)
    with pytest.raises(ValueError, match=r'6 latents cannot span .* 5 entries'):
      manifold.tangent_basis(lambda z: z[:5], jnp.zeros(6), None)


# --- Subspaces of data -----------------------------------------------------


def test_principal_directions():
  xs = (RNG.normal(size=(40, 6)) * [5.0, 4.0, 3.0, 2.0, 1.0, 0.5]) @ frames(
    6, 6
  )[1] + 7.0
  # More points than entries, as many, and fewer.
  for some in (xs, xs[:6], xs[:4]):
    most = min(len(some) - 1, 6)
    want = np.linalg.svd(some - some.mean(0), full_matrices=False)[2]
    for k in (1, 2, most):
      basis = manifold.principal_basis(some.reshape(-1, 2, 3), k)
      assert basis.dtype == np.float32
      assert_same_rows(basis, want[:k])
    for k in (0, most + 1):
      with pytest.raises(ValueError, match=f'6 entries have no {k} directions'):
        manifold.principal_basis(some, k)


def test_directions_of_neighbours():
  k, num = 2, 7
  xs = 0.1 * RNG.normal(size=(50, 3, 2)).astype(np.float32) + 2
  # Neither the point nor copies of it are neighbours of their own.
  xs[10:13] = xs[:3]
  centres = np.concatenate([xs[:6], xs[:1] + 0.05, xs[:1] - 0.08])
  found = jax.jit(
    jax.vmap(lambda x: manifold.neighbor_basis(jnp.asarray(xs), x, k, num))
  )(centres)
  flat = xs.reshape(50, 6).astype(float)
  for x, basis in zip(centres, found, strict=True):
    gaps = np.linalg.norm(flat - x.ravel(), axis=1)
    order = np.argsort(np.where(gaps == 0, np.inf, gaps))[:num]
    near = flat[order] - flat[order].mean(0)
    assert_same_rows(basis, np.linalg.svd(near)[2][:k], atol=2e-4)
  for k, num in ((0, 3), (3, 3), (4, 3), (2, 50)):
    with pytest.raises(ValueError, match=f'{num} of 50 neigh.* no {k} direct'):
      manifold.neighbor_basis(jnp.asarray(xs), xs[0], k, num)
  one = jax.eval_shape(
    lambda xs: manifold.neighbor_basis(xs, xs[0], 1, 2), jnp.zeros((3, 5))
  )
  assert one.shape == (1, 5)


def test_cosines_of_lowest_frequency():
  for shape, k in (((4, 6, 3), 17), ((3, 8, 1), 24), ((1, 1, 2), 1)):
    rows, cols, channels = shape
    wave = lambda u, n: (
      np.cos(np.pi * u * (np.arange(n) + 0.5) / n)
      * np.sqrt((2 if u else 1) / n)
    )
    indices = sorted(
      np.ndindex(shape),
      key=lambda i: ((i[0] / rows) ** 2 + (i[1] / cols) ** 2, *i),
    )
    want = [
      np.multiply.outer(
        np.outer(wave(u, rows), wave(v, cols)), np.eye(channels)[c]
      )
      for u, v, c in indices[:k]
    ]
    found = manifold.frequency_basis(shape, k)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, np.reshape(want, (k, -1)), atol=1e-6)
  for k in (0, 73):
    with pytest.raises(ValueError, match=rf'\(4, 6, 3\) have no {k} cosines'):
      manifold.frequency_basis((4, 6, 3), k)
  assert manifold.frequency_basis((4, 6, 3), 72).shape == (72, 72)


# --- Parts of vectors ------------------------------------------------------


def test_parts_of_a_vector():
  basis = frames(12, 4)[0].T.astype(np.float32)
  v = (0.1 * RNG.normal(size=(3, 4))).astype(np.float32)
  want = (basis.T @ (basis @ v.ravel())).reshape(3, 4)
  on, off = manifold.split(v, basis)
  for found, wanted in (
    (on, want),
    (manifold.on(v, basis), want),
    (off, v - want),
    (manifold.off(v, basis), v - want),
  ):
    np.testing.assert_allclose(found, wanted, atol=1e-6)
  fraction = jax.jit(manifold.tangent_fraction)
  np.testing.assert_allclose(
    fraction(v, basis), np.linalg.norm(want) / np.linalg.norm(v), rtol=1e-5
  )
  assert np.isnan(fraction(0 * v, basis))
  # Not even by rounding above 1.
  inside = jnp.asarray((RNG.normal(size=(300, 4)) @ basis).astype(np.float32))
  found = jax.jit(jax.vmap(manifold.tangent_fraction, (0, None)))(inside, basis)
  assert found.max() == 1 and found.min() > 0.999


def test_projection_without_a_basis():
  # Columns that are orthogonal, and of unequal lengths.
  sizes = np.array([2.0, 0.7, 0.05])
  u = frames(12, 3)[0]
  with jax.enable_x64(True):
    columns = jnp.asarray(u * sizes)
    decode = lambda z: (columns @ z).reshape(3, 4)
    v = jnp.asarray(RNG.normal(size=(3, 4)))
    parts = u.T @ v.ravel()

    @jax.jit
    def project(**options):
      z = jnp.zeros(3)
      return manifold.tangent_projection(decode, z, **options)(v).ravel()

    shrunk = lambda damping: (
      u @ (parts * sizes**2 / (sizes**2 + damping * np.mean(sizes**2)))
    )
    # By default the shortest column's part loses 6e-4 of its length.
    np.testing.assert_allclose(project(), shrunk(1e-6), atol=2e-6)
    exact = dict(tol=1e-14, damping=0.01)
    np.testing.assert_allclose(
      project(**exact, max_steps=9), shrunk(0.01), atol=1e-10
    )
    # One step of conjugate gradients goes down the residual, to its minimum.
    first = sizes * parts
    mu = 0.01 * np.mean(sizes**2)
    length = first @ first / (first @ ((sizes**2 + mu) * first))
    np.testing.assert_allclose(
      project(**exact, max_steps=1), u @ (sizes * length * first), atol=1e-10
    )
    loose = project(damping=0.01, tol=0.5, max_steps=9)
    assert np.abs(loose - shrunk(0.01)).max() > 1e-3


def test_random_fractions_follow_beta():
  k, n = 7, 40
  keys = jax.random.split(jax.random.key(1), 4000)
  v = jnp.asarray(RNG.normal(size=n), jnp.float32)
  fraction = jax.jit(
    jax.vmap(
      lambda key: manifold.tangent_fraction(v, manifold.random_basis(key, k, n))
    )
  )(keys)
  law = manifold.fraction_null(k, n)
  assert stats.kstest(np.square(fraction), law.cdf).pvalue > 1e-3
  np.testing.assert_allclose(law.mean(), k / n)
  np.testing.assert_allclose(law.var(), 2 * k * (n - k) / (n**2 * (n + 2)))
  # Half of the fractions are below the median.
  median = manifold.random_ratio(k, n) ** -2
  np.testing.assert_allclose(
    special.betainc(k / 2, (n - k) / 2, median), 0.5, rtol=1e-9
  )
  np.testing.assert_allclose(manifold.random_ratio(16, 784), 7.0, rtol=0.03)
  for k in (1, 39):
    assert 0 < manifold.fraction_null(k, 40).mean() < 1
  for k in (0, 40):
    with pytest.raises(ValueError, match=rf'of R\^40 has no dimension {k}'):
      manifold.fraction_null(k, 40)


def test_readings_of_two_distances():
  k, n = 4, 50
  normal = RNG.normal(size=(20, n))
  normal[:, :k] *= 3
  on, off = (np.linalg.norm(v, axis=1) for v in (normal[:, :k], normal[:, k:]))
  fraction = on / np.hypot(on, off)
  want = (on**2 / k) / (off**2 / (n - k))
  # Distances of a plane are the inverse of the parts of its normal.
  np.testing.assert_allclose(manifold.enrichment(1 / on, 1 / off, k, n), want)
  np.testing.assert_allclose(manifold.fraction_enrichment(fraction, k, n), want)
  np.testing.assert_allclose(
    manifold.implied_fraction(1 / on, 1 / off), fraction
  )
  np.testing.assert_allclose(
    manifold.unconstrained(1 / on, 1 / off), 1 / np.linalg.norm(normal, axis=1)
  )
  # Failed searches, which are infinitely far, and misclassified inputs.
  inf, nan = np.inf, np.nan
  for function, values in (
    (functools.partial(manifold.enrichment, k=k, n=n), (0, inf, nan)),
    (manifold.implied_fraction, (0, 1, nan)),
    (manifold.unconstrained, (2.0, 2.0, inf)),
  ):
    found = [
      function(np.float64(a), np.float64(b))
      for a, b in ((inf, 2.0), (2.0, inf), (inf, inf))
    ]
    np.testing.assert_equal(np.array(found), np.array(values))
  assert manifold.fraction_enrichment(1.0, k, n) == inf
  assert manifold.unconstrained(0.0, 2.0) == 0
  assert manifold.enrichment(0.0, 2.0, k, n) == inf
  assert manifold.implied_fraction(2.0, 0.0) == 0


@pytest.mark.parametrize('decay', [0.0, 0.3])
def test_training_leaves_weights_across_the_data_alone(decay):
  """Off the data's span, gradients are 0: weights stay, or decay by
  (1 - rate * decay) a step, exactly; so Melamed, Yehudai and Vardi (2023)."""
  sample = synthetic.subspace(jax.random.key(0), num=64, k=5, dim=40)
  module = models.FullyConnected((30,), 2)
  rate, steps = 0.1, 24
  config = train.TrainConfig(
    optimizer='sgd',
    schedule='constant',
    learning_rate=rate,
    weight_decay=decay,
    batch_size=16,
    num_epochs=6,
  )
  optimizer = train.make_optimizer(config, 64)
  first = train.init_state(jax.random.key(1), module, sample.xs[0], optimizer)

  def forward(params, stats, x, key, train):
    del key, train
    return module.apply({'params': params}, x), stats

  *_, last = train.fit(
    jax.random.key(2),
    forward,
    first,
    sample.xs,
    sample.labels,
    config=config,
  )
  before, after = (
    np.asarray(state.params['dense0']['kernel'])
    for state in (first, last.state)
  )
  basis = sample.tangents[0]
  off = np.eye(40) - basis.T @ basis
  kept = (1 - rate * decay) ** steps
  np.testing.assert_allclose(off @ after, kept * (off @ before), atol=3e-6)
  on = basis @ after - kept * basis @ before
  assert np.max(np.abs(on)) > 0.01


# --- Beside tangent spaces ---------------------------------------------------


def test_errors_of_planes_of_neighbours():
  """As by numpy; images on a plane of that many dimensions have none."""
  rng = np.random.default_rng(3)
  known = rng.normal(size=(40, 2, 3, 1)).astype(np.float32)
  x = rng.normal(size=(2, 3, 1)).astype(np.float32)
  found = manifold.neighbor_error(known, x, 2, 6)
  gaps = np.linalg.norm((known - x).reshape(40, -1), axis=1)
  near = known[np.argsort(gaps)[:6]].reshape(6, -1)
  centre = near.mean(0)
  basis = np.linalg.svd(near - centre)[2][:2]
  rest = x.ravel() - centre
  wanted = np.mean((rest - basis.T @ (basis @ rest)) ** 2)
  np.testing.assert_allclose(found, wanted, rtol=1e-3)
  flat = (rng.normal(size=(50, 2)) @ rng.normal(size=(2, 6)) + 1).astype('f4')
  flat = flat.reshape(50, 2, 3, 1)
  none = manifold.neighbor_error(flat[1:], flat[0], 2, 6)
  assert float(none) < 1e-8


def test_principal_residuals_are_what_pca_leaves():
  rng = np.random.default_rng(4)
  known = rng.normal(size=(30, 3, 2)) * np.arange(1, 7).reshape(3, 2) + 1
  xs = rng.normal(size=(5, 3, 2))
  found = manifold.principal_residuals(xs, known, 2)
  centre = known.reshape(30, 6).mean(0)
  vectors = np.linalg.svd(known.reshape(30, 6) - centre)[2][:2]
  rest = xs.reshape(5, 6) - centre
  wanted = rest - rest @ vectors.T @ vectors
  np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_nulls_are_bases_and_those_of_tangent_spaces_are_moved():
  xs, key = np.zeros((5, 8, 8, 1), np.float32), jax.random.key(1)
  known = np.random.default_rng(5).normal(size=(40, 8, 8, 1))
  common = manifold.common_nulls(key, xs, known, 4)
  assert [*common] == ['random', 'frequency', 'principal']
  principal = manifold.principal_basis(known, 4)
  np.testing.assert_array_equal(common['principal'][3], principal)
  assert np.abs(common['random'][0] - common['random'][1]).max() > 0.1
  own = manifold.own_nulls(key, common['random'])
  other = common['random'][[4, 0, 1, 2, 3]]
  np.testing.assert_array_equal(own['other'], other)
  entries = jax.random.permutation(key, 64)
  permuted = common['random'][..., entries]
  np.testing.assert_array_equal(own['permuted'], permuted)
  for basis in [*common.values(), *own.values()]:
    gram = np.einsum('nkd,nld->nkl', basis, basis)
    np.testing.assert_allclose(gram, np.tile(np.eye(4), (5, 1, 1)), atol=1e-4)
