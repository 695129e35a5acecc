import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import linalg
from scipy import stats

from dmm_jax import boundary
from dmm_jax import manifold
from dmm_jax import models
from dmm_jax import synthetic
from dmm_jax import train


def curved(z, seed=0, d=12):
  """A smooth map R^3 -> R^d, whose Jacobian is known by finite differences."""
  rng = np.random.default_rng(seed)
  a = jnp.asarray(rng.normal(size=(d, 3)))
  b = jnp.asarray(rng.normal(size=(d, 3)))
  return (jnp.tanh(a @ z) + 0.3 * jnp.sin(b @ z)).reshape(3, d // 3)


def projector(basis):
  return np.asarray(basis.T @ basis)


@pytest.mark.parametrize('rank', [None, 3, 1e-6])
def test_tangent_basis_spans_the_jacobian(rank):
  with jax.enable_x64(True):
    z = jnp.array([0.3, -0.2, 0.5])
    basis = np.asarray(manifold.tangent_basis(curved, z, rank))
    h = 1e-6
    columns = np.stack(
      [
        np.ravel(curved(z + h * e) - curved(z - h * e)) / (2 * h)
        for e in np.eye(3)
      ],
      1,
    )
    want = linalg.orth(columns)
  assert basis.shape == (3, 12)
  np.testing.assert_allclose(basis @ basis.T, np.eye(3), atol=1e-12)
  np.testing.assert_allclose(projector(basis), want @ want.T, atol=1e-8)


def test_latents_that_do_nothing_get_no_row():
  decode = lambda z: curved(jnp.array([z[0], z[0] + z[1], z[2]]))
  idle = lambda z: decode(jnp.array([z[0], z[1], 0.0]))
  both = lambda z: decode(jnp.array([z[0] + z[2], z[1], 0.0]))
  z = jnp.array([0.1, 0.2, 0.3])
  for degenerate in (idle, both):
    bases = [manifold.tangent_basis(degenerate, z, r) for r in (None, 0.0)]
    for basis in bases:
      assert np.sum(np.linalg.norm(basis, axis=1) > 0.5) == 2
    np.testing.assert_allclose(*map(projector, bases), atol=1e-4)
  leading = manifold.tangent_basis(decode, z, 1)
  u = np.linalg.svd(np.asarray(jax.jacfwd(decode)(z)).reshape(12, 3))[0]
  np.testing.assert_allclose(
    projector(leading), np.outer(u[:, 0], u[:, 0]), atol=1e-5
  )
  nothing = manifold.tangent_basis(lambda z: 0 * curved(z), z, None)
  assert not np.any(nothing)
  with pytest.raises(ValueError, match='13 latents'):
    manifold.tangent_basis(lambda z: curved(z[:3]), jnp.zeros(13))


def test_tangents_of_known_surfaces():
  circle = lambda t: 2.0 * jnp.array([jnp.cos(t[0]), jnp.sin(t[0])])
  t = jnp.array([0.7])
  (row,) = manifold.tangent_basis(circle, t)
  np.testing.assert_allclose(np.abs(row @ circle(t)), 0, atol=1e-6)
  sample = synthetic.sphere(jax.random.key(0), num=5, k=4, dim=20)
  ball = np.concatenate([sample.tangents, sample.xs[:, None] / 28], 1)
  np.testing.assert_allclose(
    ball @ ball.swapaxes(1, 2), np.broadcast_to(np.eye(4), (5, 4, 4)), atol=1e-5
  )
  frame = ball[0].T @ np.asarray([[1, 0], [0, 1], [0, 0], [0, 0]], np.float32)
  plane = lambda z: jnp.asarray(frame) @ z + 1.0
  basis = manifold.tangent_basis(plane, jnp.zeros(2))
  np.testing.assert_allclose(projector(basis), frame @ frame.T, atol=1e-5)


def test_projections_make_a_whole():
  basis = manifold.random_basis(jax.random.key(0), 5, 30)
  np.testing.assert_allclose(basis @ basis.T, np.eye(5), atol=1e-6)
  v = np.random.default_rng(0).normal(size=(5, 6)).astype(np.float32)
  on, off = manifold.split(v, basis)
  np.testing.assert_allclose(on + off, v, atol=1e-6)
  np.testing.assert_allclose(manifold.on(on, basis), on, atol=1e-6)
  np.testing.assert_allclose(manifold.off(off, basis), off, atol=1e-6)
  assert abs(np.sum(on * off)) < 1e-5
  np.testing.assert_allclose(
    manifold.tangent_fraction(v, basis) ** 2,
    np.sum(np.square(on)) / np.sum(v**2),
    rtol=1e-5,
  )
  assert np.isnan(manifold.tangent_fraction(0 * v, basis))


def test_projection_without_a_basis():
  with jax.enable_x64(True):
    z = jnp.array([0.3, -0.2, 0.5])
    project = manifold.tangent_projection(curved, z, damping=1e-12, tol=1e-12)
    basis = manifold.tangent_basis(curved, z)
    v = jnp.asarray(np.random.default_rng(0).normal(size=(3, 4)))
    np.testing.assert_allclose(project(v), manifold.on(v, basis), atol=1e-8)
    np.testing.assert_allclose(project(project(v)), project(v), atol=1e-8)
    # Where all columns of J have one length, s^2 / (s^2 + mu) = 2 / 3 is kept.
    flat = lambda z: (5.0 * z @ basis).reshape(3, 4)
    damped = manifold.tangent_projection(flat, z, damping=0.5)
    np.testing.assert_allclose(damped(v), manifold.on(v, basis) / 1.5)


def test_random_fractions_follow_beta():
  k, n = 7, 40
  keys = jax.random.split(jax.random.key(1), 4000)
  v = jnp.asarray(np.random.default_rng(0).normal(size=n), jnp.float32)
  fraction = jax.vmap(
    lambda key: manifold.tangent_fraction(v, manifold.random_basis(key, k, n))
  )(keys)
  law = manifold.fraction_null(k, n)
  assert stats.kstest(np.square(fraction), law.cdf).pvalue > 1e-3
  np.testing.assert_allclose(law.mean(), k / n)
  np.testing.assert_allclose(law.var(), 2 * k * (n - k) / (n**2 * (n + 2)))
  np.testing.assert_allclose(
    manifold.random_ratio(k, n), np.median(1 / fraction), rtol=0.02
  )
  np.testing.assert_allclose(manifold.random_ratio(16, 784), 7.0, rtol=0.03)
  with pytest.raises(ValueError, match='no dimension 40'):
    manifold.fraction_null(40, 40)


def test_enrichment_is_one_for_random_subspaces_and_a_ratio_of_variances():
  k, n = 4, 50
  w = np.random.default_rng(0).normal(size=(2000, n))
  w[:, :k] *= 3
  on, off = np.linalg.norm(w[:, :k], axis=1), np.linalg.norm(w[:, k:], axis=1)
  a = manifold.enrichment(1 / on, 1 / off, k, n)
  np.testing.assert_allclose(
    np.mean(on**2 / k) / np.mean(off**2 / (n - k)), 9, rtol=0.1
  )
  np.testing.assert_allclose(np.median(a), 9, rtol=0.2)
  fraction = on / np.hypot(on, off)
  np.testing.assert_allclose(manifold.fraction_enrichment(fraction, k, n), a)
  np.testing.assert_allclose(
    manifold.unconstrained(1 / on, 1 / off), 1 / np.linalg.norm(w, axis=1)
  )
  assert manifold.enrichment(np.inf, 1.0, k, n) == 0
  assert manifold.enrichment(1.0, np.inf, k, n) == np.inf
  assert manifold.unconstrained(np.inf, 2.0) == 2.0


def test_distances_of_linear_models_in_subspaces():
  """d_T = |margin| / |P_T w|, each example in a subspace of its own."""
  rng = np.random.default_rng(0)
  n, d, k = 20, 30, 6
  w = jnp.asarray(rng.normal(size=d), jnp.float32)
  logits_fn = lambda x: jnp.stack([x @ w, 0.0])
  xs = rng.normal(size=(n, d)).astype(np.float32)
  keys = jax.random.split(jax.random.key(0), n)
  bases = jax.vmap(lambda key: manifold.random_basis(key, k, d))(keys)
  found = {}
  for name in ('on', 'off'):
    project = getattr(manifold, name)
    parts = jax.vmap(project, (None, 0))(w, bases)
    found[name] = boundary.measure(
      logits_fn, xs, project=project, project_rows=(bases,), method='fast'
    )
    want = np.abs(xs @ w) / np.linalg.norm(parts, axis=1)
    np.testing.assert_allclose(found[name].distance, want, rtol=1e-4)
    step = found[name].point - xs
    np.testing.assert_allclose(jax.vmap(project)(step, bases), step, atol=1e-4)
  free = boundary.measure(logits_fn, xs, method='fast')
  np.testing.assert_allclose(
    manifold.unconstrained(found['on'].distance, found['off'].distance),
    free.distance,
    rtol=1e-3,
  )


def test_rows_of_misclassified_examples_are_left_out():
  logits_fn = lambda x: jnp.stack([2 * x[0], 0.0])
  xs = np.ones((3, 2), np.float32)
  bases = np.eye(2, dtype=np.float32)[[[0], [1], [0]]]
  found = boundary.measure(
    logits_fn,
    xs,
    np.array([1, 0, 0]),
    project=manifold.on,
    project_rows=(bases,),
    method='fast',
  )
  np.testing.assert_allclose(found.distance, [0, np.inf, 1], rtol=1e-4)
  with pytest.raises(ValueError, match='2 rows'):
    boundary.measure(
      logits_fn, xs, project=manifold.on, project_rows=(bases[:2],)
    )
  with pytest.raises(ValueError, match='project'):
    boundary.measure(logits_fn, xs, project_rows=(bases,))


def test_principal_directions():
  rng = np.random.default_rng(0)
  scales = np.array([5.0, 4.0, 3.0, 0.1, 0.1, 0.1])
  frame = np.linalg.qr(rng.normal(size=(6, 6)))[0]
  xs = (rng.normal(size=(500, 6)) * scales) @ frame + 7.0
  for some in (xs, xs[:5]):
    basis = manifold.principal_basis(some.reshape(-1, 2, 3), 2)
    centred = some - some.mean(0)
    u = np.linalg.svd(centred, full_matrices=False)[2][:2]
    np.testing.assert_allclose(projector(basis), u.T @ u, atol=1e-5)
  with pytest.raises(ValueError, match='no 7 directions'):
    manifold.principal_basis(xs, 7)


def test_neighbors_show_the_tangents_of_a_sphere():
  sample = synthetic.sphere(
    jax.random.key(0), num=4000, k=3, dim=10, radius=1.0
  )
  x = jnp.asarray(sample.xs[7])
  basis = manifold.neighbor_basis(jnp.asarray(sample.xs), x, 2, 40)
  want = sample.tangents[7]
  cosines = np.linalg.svd(np.asarray(basis) @ want.T)[1]
  assert np.min(cosines) > 0.99
  # Neither the point nor copies of it are neighbours of their own.
  line = [[0, 0]] * 3 + [[1, 0], [-1, 0], [1.5, 0], [0, 9], [0, -9]]
  line = jnp.asarray(line, jnp.float32)
  (row,) = manifold.neighbor_basis(line, line[0], 1, 3)
  np.testing.assert_allclose(np.abs(row), [1, 0], atol=1e-6)
  with pytest.raises(ValueError, match='neighbours'):
    manifold.neighbor_basis(jnp.asarray(sample.xs), x, 5, 5)


def test_cosines_of_lowest_frequency():
  basis = manifold.frequency_basis((6, 8, 3), 9)
  np.testing.assert_allclose(basis @ basis.T, np.eye(9), atol=1e-6)
  flat = np.zeros((3, 6, 8, 3))
  flat[np.arange(3), :, :, np.arange(3)] = 48**-0.5
  np.testing.assert_allclose(basis[:3], flat.reshape(3, -1), atol=1e-6)
  # Then the slowest wave along the longer side.
  wave = np.cos(np.pi * (np.arange(8) + 0.5) / 8)
  got = basis[3].reshape(6, 8, 3)[0, :, 0]
  np.testing.assert_allclose(got / got[0], wave / wave[0], atol=1e-5)
  # Of a wide image two waves across are slower than one down.
  wide = manifold.frequency_basis((3, 8, 1), 4).reshape(4, 3, 8)
  assert np.ptp(wide[2], 0).max() < 1e-6 < np.ptp(wide[3], 0).max()
  with pytest.raises(ValueError, match='no 145'):
    manifold.frequency_basis((6, 8, 3), 145)


def test_search_on_a_curved_manifold_has_a_closed_form():
  """A circle in R^5 that a plane cuts: the arc's end, its chord's length."""
  frame = manifold.random_basis(jax.random.key(0), 2, 5)
  angle = lambda z: jnp.tanh(z[0]) * 2 + z[1]  # Two latents, one dimension.
  decode = lambda z: (
    2.0 * jnp.array([jnp.cos(angle(z)), jnp.sin(angle(z))]) @ frame
  )
  logits_fn = lambda x: jnp.stack([frame[0] @ x, jnp.float32(1.0)])
  z = jnp.array([0.1, 0.1])
  found = jax.jit(
    lambda z: manifold.nearest_on_manifold(
      logits_fn, decode, z, 0, max_gradients=200
    )
  )(z)
  turn = np.pi / 3 - float(angle(z))
  np.testing.assert_allclose(found.distance, 4 * np.sin(turn / 2), rtol=1e-4)
  np.testing.assert_allclose(np.linalg.norm(found.point), 2.0, rtol=1e-5)
  assert found.status == boundary.Status.FOUND and found.target == 1
  wrong = manifold.nearest_on_manifold(
    logits_fn, decode, z, 1, method='fast', num_charts=1
  )
  assert wrong.distance == 0 and wrong.status == boundary.Status.MISCLASSIFIED
  nowhere = manifold.nearest_on_manifold(
    lambda x: jnp.stack([0 * x[0], 0 * x[0] - 1]), decode, z, 0, method='fast'
  )
  assert nowhere.distance == np.inf and nowhere.target == -1


def test_later_charts_follow_the_metric():
  # The first one sees z: a point (1.2, 1), where (1.1, 1.1) is the nearest.
  search = functools.partial(
    manifold.nearest_on_manifold,
    lambda x: jnp.stack([2.2 - jnp.sum(x), 0.0]),
    lambda z: jnp.stack([z[0] + 0.2 * z[0] ** 3, z[1]]),
    method='ray',
    num_charts=2,
  )
  distance = jax.jit(search)(jnp.zeros(2), 0).distance
  assert 1.1 * 2**0.5 < distance < 1.56 < np.hypot(1.2, 1)


def test_projection_on_a_curved_manifold():
  decode = lambda z: jnp.array([jnp.cos(z[0]), jnp.sin(z[0]), 0.0])
  x = jnp.array([3.0, 3.0, 1.0])
  code, distance = manifold.project_on_manifold(decode, x, jnp.zeros(1))
  np.testing.assert_allclose(code, [np.pi / 4], atol=1e-4)
  want = np.hypot(np.sqrt(18) - 1, 1)
  np.testing.assert_allclose(distance, want, rtol=1e-6)


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
