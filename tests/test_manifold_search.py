"""Searches along the manifold, against closed forms and scipy."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize

from dmm_jax import boundary
from dmm_jax import manifold
from dmm_jax.manifold import curved

Status = boundary.Status


def test_distances_of_linear_models_in_subspaces():
  """d_T = |margin| / |P_T w|, each example in a subspace of its own."""
  rng = np.random.default_rng(0)
  n, d, k = 20, 30, 6
  w = (rng.normal(size=d) * (np.arange(d) < d - k)).astype(np.float32)
  logits_fn = lambda x: jnp.stack([x @ w, 0.0])
  xs = rng.normal(size=(n, d)).astype(np.float32)
  bases = np.linalg.qr(rng.normal(size=(n, d, k)))[0].swapaxes(1, 2)
  bases = bases.astype(np.float32)
  # One that does not see the weights, and one that is misclassified.
  bases[3] = np.eye(d)[-k:]
  labels = (xs @ w <= 0).astype(int)
  labels[5] = 1 - labels[5]
  parts = np.einsum('nkd,d->nk', bases, w) @ bases
  parts = np.stack([parts[i, i] for i in range(n)])
  for project, sides in ((manifold.on, parts), (manifold.off, w - parts)):
    found = boundary.measure(
      logits_fn,
      xs,
      labels,
      project=project,
      project_rows=(bases,),
      method='ray',
    )
    lengths = np.linalg.norm(sides, axis=1)
    want = np.abs(xs @ w) / np.where(lengths > 0, lengths, 1)
    want[5] = 0
    if project is manifold.on:
      want[3] = np.inf
    np.testing.assert_allclose(found.distance, want, rtol=1e-4)
    # Steps lie in their own subspaces.
    inside = np.isfinite(want) & (want > 0)
    steps = (found.point - xs)[inside]
    along = sides[inside] / lengths[inside, None]
    np.testing.assert_allclose(
      np.abs((steps * along).sum(1)), want[inside], rtol=1e-4
    )
  with pytest.raises(ValueError, match='2 rows'):
    boundary.measure(
      logits_fn, xs, project=manifold.on, project_rows=(bases[:2],)
    )
  with pytest.raises(ValueError, match='project'):
    boundary.measure(logits_fn, xs, project_rows=(bases,))


def ring(z, radius):
  """A circle in R^3: two latents, one dimension."""
  angle = 2 * jnp.tanh(z[0]) + z[1]
  return radius * jnp.stack([jnp.cos(angle), jnp.sin(angle), 0 * angle])


def test_search_on_a_curved_manifold_has_a_closed_form():
  """A circle that a plane cuts: the arc's end, its chord's length."""

  @jax.jit
  @jax.vmap
  def search(radius, height, label):
    # The plane is at x = height * radius.
    logits_fn = lambda x: jnp.stack([x[0] / radius, height])
    return manifold.nearest_on_manifold(
      logits_fn,
      lambda z: ring(z, radius),
      z,
      label,
      method='ray',
      max_gradients=200,
    )

  z = jnp.array([0.1, 0.1])
  radius = np.array([2.0, 200.0, 0.005, 2.0, 2.0], np.float32)
  height = np.array([0.5, 0.5, 0.5, 0.5, -2.0], np.float32)
  label = np.array([0, 0, 0, 1, 0])
  found = search(radius, height, label)
  assert found.status.tolist()[:4] == [Status.FOUND] * 3 + [
    Status.MISCLASSIFIED
  ]
  assert found.status[4] not in (Status.FOUND, Status.MISCLASSIFIED)
  assert found.target.tolist() == [1, 1, 1, 0, -1]
  turn = np.pi / 3 - 2 * np.tanh(0.1) - 0.1
  want = 2 * radius * np.sin(turn / 2)
  want[3:] = 0, np.inf
  np.testing.assert_allclose(found.distance, want, rtol=1e-4)
  points = np.asarray(jax.vmap(ring)(found.code, radius))
  np.testing.assert_allclose(found.point[:3], points[:3], rtol=1e-5)
  ends = radius[:3, None] * [[0.5, 0.75**0.5, 0]]
  np.testing.assert_allclose(
    np.asarray(found.point[:3]) / radius[:3, None],
    ends / radius[:3, None],
    atol=1e-4,
  )


def test_later_charts_follow_the_metric():
  """Each is a ray along the gradient in the metric half way to the best."""
  bend = lambda x: x + 0.2 * x**3

  def end(where):
    """The end of the ray whose metric is that at `where`."""
    slope = 1 + 0.6 * where[0] ** 2
    # u -> (u_0 / slope, u_1), and the lead's gradient there is (1 / slope, 1)
    # at the start, where the decoder's own slope is 1.
    at = lambda s: np.array([s / slope**2, s])
    lead = lambda s: 2.2 - bend(at(s)[0]) - at(s)[1]
    return at(optimize.brentq(lead, 0, 3))

  length = lambda code: np.hypot(bend(code[0]), code[1])
  best = end(np.zeros(2))
  assert length(best) == pytest.approx(np.hypot(1.2, 1))
  for num_charts in (1, 2, 3):
    if num_charts > 1:
      new = end(best / 2)
      best = min(best, new, key=length)
    found = jax.jit(
      lambda z, num=num_charts: manifold.nearest_on_manifold(
        lambda x: jnp.stack([2.2 - jnp.sum(x), 0.0]),
        lambda z: jnp.stack([bend(z[0]), z[1]]),
        z,
        0,
        method='ray',
        num_charts=num,
      )
    )(jnp.zeros(2))
    np.testing.assert_allclose(found.distance, length(best), rtol=1e-4)
    np.testing.assert_allclose(found.code, best, atol=1e-3)
  # The nearest point of all is (1.1, 1.1).
  assert 1.1 * 2**0.5 < length(best) < np.hypot(1.2, 1) - 1e-3


def fake_search(place, status=Status.FOUND):
  """Stands for `boundary.nearest_point`: ends at `place(seed)`."""
  calls = []

  def nearest_point(logits_fn, u, label, *, seed, **options):
    calls.append((u.shape, label, options))
    return types.SimpleNamespace(
      point=u.at[0].add(place(seed)),
      distance=jnp.asarray(jnp.inf, u.dtype),
      target=jnp.int32(1),
      status=jnp.int32(status),
    )

  return nearest_point, calls


def test_charts_are_searched_with_seeds_of_their_own(monkeypatch):
  def search(place, status=Status.FOUND, **options):
    fake, calls = fake_search(place, status)
    monkeypatch.setattr(curved.boundary, 'nearest_point', fake)
    found = manifold.nearest_on_manifold(
      lambda x: x, lambda z: z, jnp.array([2.0, 3.0]), 1, **options
    )
    ((shape, label, used),) = calls
    assert shape == (2,) and label == 1
    # Normals of the latent space are of no use.
    assert used.pop('with_normal') is False
    return found, used

  found, used = search(lambda seed: seed, seed=5)
  assert used == dict(method='portfolio', max_gradients=500)
  # The nearest, of seeds 5, 6 and 7; then of the last.
  np.testing.assert_allclose(found.distance, 5, rtol=1e-4)
  np.testing.assert_allclose(found.point, [7, 3], rtol=1e-4)
  found, used = search(
    lambda seed: 12.0 - seed, seed=5, method='fast', max_gradients=7
  )
  assert used == dict(method='fast', max_gradients=7)
  np.testing.assert_allclose(found.distance, 5, rtol=1e-4)
  found, _ = search(lambda seed: 12.0 - seed, num_charts=2)
  np.testing.assert_allclose(found.distance, 11, rtol=1e-4)
  found, _ = search(lambda seed: 12.0 - seed, status=Status.NOT_FOUND)
  assert found.distance == np.inf and found.status == Status.NOT_FOUND


def test_projection_on_a_circle():
  decode = lambda z: jnp.array([jnp.cos(z[0]), jnp.sin(z[0]), 0.0])
  project = jax.jit(lambda x, z: manifold.project_on_manifold(decode, x, z))
  x = jnp.array([3.0, 3.0, 1.0])
  # Also from where the first steps overshoot.
  for start in (0.0, 1.6, 3.2):
    code, distance = project(x, jnp.array([start]))
    angle = np.remainder(code[0], 2 * np.pi)
    np.testing.assert_allclose(angle, np.pi / 4, atol=1e-4)
    want = np.hypot(np.sqrt(18) - 1, 1)
    np.testing.assert_allclose(distance, want, rtol=1e-6)


def test_projection_is_scipys_least_squares():
  rng = np.random.default_rng(3)
  a, b = rng.normal(size=(2, 6, 3))
  bend = lambda z, lib: lib.tanh(a @ z) + 0.3 * lib.sin(b @ z)
  slopes = lambda z: (
    (1 - np.tanh(a @ z) ** 2)[:, None] * a + 0.3 * np.cos(b @ z)[:, None] * b
  )
  z, off = 0.1 * rng.normal(size=3), 0.1 * rng.normal(size=6)
  x = bend(rng.normal(size=3), np) + off
  with jax.enable_x64(True):
    decode = lambda z: bend(z, jnp).reshape(2, 3)

    @jax.jit
    def project(num_steps):
      return manifold.project_on_manifold(
        decode, x.reshape(2, 3), jnp.asarray(z), num_steps=num_steps
      )

    want = optimize.least_squares(
      lambda z: bend(z, np) - x, z, slopes, xtol=1e-15, ftol=1e-15, gtol=1e-15
    )
    code, distance = project(60)
    np.testing.assert_allclose(code, want.x, atol=1e-6)
    np.testing.assert_allclose(distance, np.sqrt(2 * want.cost), rtol=1e-9)
    # Steps that come no nearer are not taken, and without any it stays.
    lengths = [float(project(i)[1]) for i in range(12)]
    assert lengths[0] == pytest.approx(np.linalg.norm(bend(z, np) - x))
    assert np.all(np.diff(lengths) <= 0) and lengths[1] < lengths[0]
    np.testing.assert_array_equal(project(0)[0], z)
    # The first is that of Gauss and Newton, damped by a thousandth.
    metric = slopes(z).T @ slopes(z)
    lifted = metric + 1e-3 * np.trace(metric) / 3 * np.eye(3)
    step = np.linalg.solve(lifted, slopes(z).T @ (bend(z, np) - x))
    assert np.linalg.norm(bend(z - step, np) - x) < lengths[0]
    np.testing.assert_allclose(project(1)[0], z - step, atol=1e-9)


# --- On and off subspaces ----------------------------------------------------

WEIGHTS = np.random.default_rng(0).normal(size=12).astype(np.float32)


def linear(weights, x):
  return jnp.stack([jnp.sum(weights * x.ravel()), 0.0])


def test_distances_on_and_off_at_a_linear_network():
  """d_T = |margin| / |P_T w|, and shares that distances imply, exactly."""
  rng = np.random.default_rng(1)
  xs = rng.normal(size=(6, 2, 3, 2)).astype(np.float32)
  labels = (xs.reshape(6, -1) @ WEIGHTS <= 0).astype(np.int32)
  labels[4] = 1 - labels[4]
  bases = np.linalg.qr(rng.normal(size=(6, 12, 3)))[0].swapaxes(1, 2)
  bases = bases.astype(np.float32)
  tasks = [manifold.SideTask(xs, bases, side) for side in manifold.SIDES]
  free, on, off = manifold.measure_sides(
    linear, tasks, labels, params=WEIGHTS, method='ray', batch_size=18
  )
  gaps = np.abs(xs.reshape(6, -1) @ WEIGHTS) * (np.arange(6) != 4)
  inside = np.linalg.norm(bases @ WEIGHTS, axis=1)
  length = np.linalg.norm(WEIGHTS)
  outside = np.sqrt(length**2 - inside**2)
  for found, size in ((free, length), (on, inside), (off, outside)):
    np.testing.assert_allclose(found.distance, gaps / size, rtol=1e-4)
  share = manifold.shares(free.point - xs, bases)
  np.testing.assert_allclose(
    np.delete(share, 4), np.delete((inside / length) ** 2, 4), rtol=1e-3
  )
  assert np.isnan(share[4])


def test_one_program_searches_everywhere_on_and_off_a_subspace():
  """Of three classes, within whichever is nearest."""
  rng = np.random.default_rng(0)
  weights = rng.normal(size=(6, 3)).astype(np.float32)
  xs = rng.normal(size=(4, 6)).astype(np.float32)
  basis = np.linalg.qr(rng.normal(size=(6, 2)))[0].T.astype(np.float32)
  top = (xs @ weights).argmax(1)
  bases = np.stack(4 * [basis])
  tasks = [manifold.SideTask(xs, bases, side) for side in manifold.SIDES]
  sides = manifold.measure_sides(
    lambda v: v @ weights, tasks, top, method='fast'
  )
  on = basis.T @ basis
  for found, matrix in zip(sides, (np.eye(6), on, np.eye(6) - on), strict=True):
    for x, label, far in zip(xs, top, found.distance, strict=True):
      gaps = [
        (x @ weights)[label] - (x @ weights)[j] for j in range(3) if j != label
      ]
      sizes = [
        np.linalg.norm(matrix @ (weights[:, label] - weights[:, j]))
        for j in range(3)
        if j != label
      ]
      np.testing.assert_allclose(far, min(np.divide(gaps, sizes)), rtol=1e-3)


def test_curved_search_of_a_linear_decoder_is_that_of_the_plane():
  rng = np.random.default_rng(2)
  columns = rng.normal(size=(12, 3)).astype(np.float32)
  z = np.float32([0.5, -1.0, 0.3])
  x = columns @ z
  found = manifold.nearest_on_manifold(
    lambda x: linear(WEIGHTS, x),
    lambda z: (columns @ z).reshape(2, 3, 2),
    jnp.asarray(z),
    int(x @ WEIGHTS <= 0),
    method='ray',
    max_gradients=20,
  ).distance
  basis = np.linalg.qr(columns)[0].T
  wanted = np.abs(x @ WEIGHTS) / np.linalg.norm(basis @ WEIGHTS)
  np.testing.assert_allclose(found, wanted, rtol=1e-3)
