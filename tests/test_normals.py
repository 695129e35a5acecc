"""Margins, normals, curvature, held to spheres, quadratics, linear models."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dmm_jax import boundary
from dmm_jax import margins
from dmm_jax import normals
from dmm_jax import norms


def draw(*shape, seed=0):
  return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


WEIGHTS, OFFSETS, RELU_HEAD = draw(3, 5), draw(3, seed=1), draw(3, 12)
KEY = jax.random.key(0)


def linear(x):
  return jnp.asarray(WEIGHTS) @ x + jnp.asarray(OFFSETS)


def sphere(x):
  """Class 0 within the sphere of radius 2, class 1 outside."""
  return jnp.stack([4.0 - jnp.sum(x**2), jnp.zeros(())])


def relu_net(x):
  hidden = jax.nn.relu(jnp.asarray(np.tile(WEIGHTS, (4, 1))) @ x + 3.0)
  return jnp.asarray(RELU_HEAD) @ hidden


def test_margins_are_of_the_label_and_the_best_other_class():
  # guarantees.md: what counts as beyond is a margin of more than 8 units of
  # rounding of the two logits that meet, whatever the other classes are.
  logits = np.array([[-3.0, 2.5, -7.0, 1.25], [-1.5, -4.0, -9.0, -1e6]])
  both = jax.jit(
    lambda z, label: (
      margins.margin(z, label),
      margins.runner_up(z, label),
      margins.margin_with_tolerance(z, label, 0.01),
      margins.margin_with_tolerance(z, label),
    )
  )
  for row in logits.astype(np.float32):
    for label in range(4):
      others = np.delete(np.arange(4), label)
      best = others[row[others].argmax()]
      plain = row[label] - row[best]
      size = np.abs(row[[label, best]]).max()
      got = both(row, label)
      want = (plain, best, plain + 0.01 * size, plain + 2**-20 * size)
      np.testing.assert_allclose(got, want, rtol=1e-7)
      assert got[1].dtype == jnp.int32
  assert np.isnan(margins.margin(jnp.array([0, jnp.nan, 1]), 0))
  # A class at minus infinity is never met.
  assert margins.margin(jnp.array([2, -jnp.inf, 1]), 0) == 1
  dtypes = 'float64 float32 float16 bfloat16'.split()
  found = [margins.dtype_resolution(jnp.dtype(v)) for v in dtypes]
  assert found == [2**-49, 2**-20, 2**-10, 2**-7]


def test_jacobian_of_a_linear_model_is_its_weights():
  np.testing.assert_allclose(
    normals.jacobian(linear, jnp.ones(5)), WEIGHTS, rtol=1e-6
  )
  image = lambda x: linear(x.ravel()[:5])
  assert normals.jacobian(image, jnp.ones((2, 3, 1))).shape == (3, 2, 3, 1)


def test_normal_of_a_linear_model():
  x = jnp.asarray(draw(5))
  label, rival = np.argsort(-linear(x))[:2]
  row = WEIGHTS[label] - WEIGHTS[rival]
  found = jax.jit(lambda x: normals.normal(linear, x, label))(x)
  np.testing.assert_allclose(found, row / np.linalg.norm(row), rtol=1e-5)


def test_normals_of_a_sphere_point_into_the_class():
  xs = jnp.asarray(draw(6, 4))
  unit = xs / jnp.linalg.norm(xs, axis=1, keepdims=True)
  of = jax.vmap(lambda x, label: normals.normal(sphere, x, label))
  np.testing.assert_allclose(of(xs, jnp.zeros(6, int)), -unit, atol=1e-6)
  np.testing.assert_allclose(of(xs, jnp.ones(6, int)), unit, atol=1e-6)


def test_there_is_no_normal_without_a_gradient():
  assert not np.any(normals.normal(sphere, jnp.zeros(3), 0))
  broken = lambda x: jnp.stack([jnp.sum(jnp.sqrt(x)), 0.0])
  assert not np.any(normals.normal(broken, jnp.zeros(3), 0))
  tiny = lambda x: 1e-30 * sphere(x)
  np.testing.assert_allclose(
    normals.normal(tiny, jnp.array([0.0, 2.0]), 0), [0, -1], atol=1e-6
  )


@pytest.mark.parametrize('norm', [1, 2, np.inf])
def test_the_smallest_step_is_aligned_and_others_are_not(norm):
  normal = draw(40)
  normal = jnp.asarray(normal / np.linalg.norm(normal))
  x = jax.random.uniform(KEY, (40,))
  x = x.at[:8].set(jnp.tile(jnp.array([0.0, 1.0]), 4))
  align = lambda v, **box: float(
    normals.alignment(v, normal, x, norm=norm, **box)
  )
  free = norms.smallest_step(-normal, 0.3, norm=norm)
  assert align(free) == pytest.approx(1, abs=1e-5)
  boxed = norms.smallest_step(-normal, 1.0, -x, 1 - x, norm=norm)
  assert align(boxed, bounds=(0.0, 1.0)) == pytest.approx(1, abs=1e-4)
  assert align(boxed) < 0.97
  assert align(-free) == pytest.approx(-1, abs=1e-5)
  other = draw(40, seed=1)
  assert abs(align(jnp.asarray(other))) < 0.8


def test_alignment_is_the_share_of_the_largest_decrease():
  v, normal = draw(2, 3, 4).astype(float)
  x = draw(3, 4, seed=1).astype(float)
  for norm in (1, 2, np.inf):
    most = np.linalg.norm(v.ravel(), norm) * np.linalg.norm(
      normal.ravel(), norms.dual(norm)
    )
    found = normals.alignment(*map(jnp.float32, (v, normal, x)), norm=norm)
    np.testing.assert_allclose(found, -np.sum(v * normal) / most, rtol=1e-5)
    tiny = [jnp.float32(1e-30 * a) for a in (v, normal)]
    np.testing.assert_allclose(
      normals.alignment(*tiny, jnp.float32(x), norm=norm), found, rtol=1e-5
    )


def test_alignment_leaves_out_what_the_box_stops():
  # What is left of the way to a bound is 0.5 % of what the first coordinate
  # went down, 2 % of the second; 0.5 and 2 % up of the next two. The fifth
  # lies at its bound and did not move, the last beside it. The normal pushes
  # outwards in all of these, or inwards in all.
  x = jnp.array([0.0, 0, 0, 0, 3, 3])
  v = jnp.array([-0.5, -0.75, 0.25, 0.75, 0, 0])
  low = jnp.array([-0.5025, -0.765, -9, -9, -9, -9])
  high = jnp.array([9, 9, 0.25125, 0.765, 3 + 4e-7, 3 + 1e-5])
  normal = jnp.array([0.6, 0.3, -0.2, -0.8, -0.1, -0.4])

  def share(used, sign=1):
    a, b = np.asarray(v)[used], sign * np.asarray(normal)[used]
    return -a @ b / np.linalg.norm(a) / np.linalg.norm(b)

  align = jax.jit(
    lambda n, slack: normals.alignment(v, n, x, bounds=(low, high), slack=slack)
  )
  plain = normals.alignment(v, normal, x, bounds=(low, high))
  np.testing.assert_allclose(plain, share([1, 3, 5]), rtol=1e-6)
  for slack, used in ((0.01, [1, 3, 5]), (0.04, [5]), (0.0, [0, 1, 2, 3, 5])):
    want = share(used) if slack < 0.04 else np.nan
    np.testing.assert_allclose(align(normal, slack), want, rtol=1e-6)
  # Nothing stops a coordinate whose margin falls towards the inside.
  inwards = normals.alignment(v, -normal, x, bounds=(low, high))
  np.testing.assert_allclose(inwards, share(slice(None), -1), rtol=1e-6)
  # Nor does anything where the normal has no part.
  flat = normal.at[0].set(0)
  a, b = (np.asarray(u)[[0, 1, 3, 5]] for u in (v, flat))
  want = -a @ b / np.linalg.norm(a) / np.linalg.norm(b)
  found = normals.alignment(v, flat, x, bounds=(low, high))
  np.testing.assert_allclose(found, want, rtol=1e-6)


def test_alignment_is_nan_where_it_is_undefined():
  x, e = jnp.zeros(2), jnp.array([1.0, 0.0])
  align = jax.jit(normals.alignment)
  assert np.isnan(align(0 * e, e, x)) and np.isnan(align(e, 0 * e, x))
  assert np.isnan(align(jnp.inf * e, e, x))
  # Both coordinates held by the box: nothing is left to compare.
  corner = normals.alignment(-x, jnp.ones(2), x, bounds=(0.0, 1.0))
  assert np.isnan(corner)
  with pytest.raises(ValueError, match='norm must be a number p >= 1'):
    normals.alignment(e, e, x, norm=0.5)


def test_searches_end_aligned_but_for_the_box():
  two = lambda x: linear(x)[:2]  # No third class, so no kink.
  xs = np.random.default_rng(0).uniform(size=(99, 5)).astype(np.float32)
  box = (0.0, 1.0)
  found = boundary.measure(two, xs, bounds=box, method='fast')
  steps, there = found.point - xs, np.isfinite(found.distance)
  free = lambda v, g, x: normals.alignment(v, g, x, bounds=box)
  values = jax.vmap(free)(steps, found.normal, xs)[there]
  assert len(values) > 50 and np.min(values) > 0.999
  plain = jax.vmap(normals.alignment)(steps, found.normal, xs)[there]
  assert np.mean(plain > 0.999) < 0.9


@pytest.mark.parametrize('radius', [0.5, 2.0])
def test_curvature_of_spheres_has_the_stated_sign(radius):
  x = radius * jnp.array([0.6, 0.8, 0.0])
  tangents = jnp.array([[0.0, 0.0, 3.0], [-0.8, 0.6, 0.0]])
  of = jax.vmap(
    lambda u, label: normals.curvature(sphere, x, label, u), (0, None)
  )
  np.testing.assert_allclose(of(tangents, 0), 2 * [-1 / radius], rtol=1e-5)
  np.testing.assert_allclose(of(tangents, 1), 2 * [1 / radius], rtol=1e-5)


def test_curvature_of_a_quadratic_in_closed_form():
  a = draw(4, 4)
  a, b = (a + a.T) / 2, draw(4, seed=1)
  quadratic = lambda x: jnp.stack([x @ a @ x / 2 + b @ x, jnp.zeros(())])
  xs, us = draw(2, 7, 4)
  of = jax.jit(jax.vmap(lambda x, u: normals.curvature(quadratic, x, 0, u)))
  unit = us / np.linalg.norm(us, axis=1, keepdims=True)
  slope = np.linalg.norm(xs @ a + b, axis=1)
  expected = np.einsum('ni,ij,nj->n', unit, a, unit) / slope
  np.testing.assert_allclose(of(xs, us), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('logits_fn', [linear, relu_net])
def test_piecewise_linear_networks_have_no_curvature(logits_fn):
  xs, us = draw(2, 9, 5)
  of = jax.vmap(lambda x, u: normals.curvature(logits_fn, x, 1, u))
  np.testing.assert_array_equal(of(xs, us), 0)


def test_curvature_is_nan_without_a_gradient_or_a_direction():
  e = jnp.array([1.0, 0.0])
  assert np.isnan(normals.curvature(sphere, 0 * e, 0, e))
  assert np.isnan(normals.curvature(sphere, e, 0, 0 * e))


def test_extreme_curvatures_are_those_of_the_projected_hessian():
  rng = np.random.default_rng(0)
  n = 60
  a = rng.normal(size=(n, n))
  a = (a + a.T) / 2
  x, b = rng.normal(size=(2, n))
  quadratic = lambda x: jnp.stack(
    [x.ravel() @ a @ x.ravel() / 2 + b @ x.ravel(), 0.0 * x[0, 0]]
  )
  slope = a @ x + b
  # An orthonormal basis of what is orthogonal to the slope.
  tangent = np.linalg.svd(slope[None])[2][1:]
  values = np.linalg.eigvalsh(tangent @ a @ tangent.T) / np.linalg.norm(slope)
  with jax.enable_x64(True):
    of = jax.jit(
      lambda key, x, **options: normals.extreme_curvatures(
        key, quadratic, x.reshape(5, 12), 0, **options
      ),
      static_argnames='num_iterations',
    )
    enough, more = (of(KEY, x, num_iterations=m) for m in (n - 1, 199))
    np.testing.assert_allclose(enough, [values[0], values[-1]], rtol=1e-9)
    np.testing.assert_allclose(more, enough, rtol=1e-12)
    # With fewer the range is narrower, by the start; 20 if nothing is said.
    default, fewer = of(KEY, x), of(KEY, x, num_iterations=19)
    np.testing.assert_allclose(default, of(KEY, x, num_iterations=20))
    other = of(jax.random.key(1), x)
  fewer, default, other, enough = np.array([fewer, default, other, enough])
  for inner, outer in ((fewer, default), (default, enough), (other, enough)):
    # By far more than rounding.
    assert inner[0] > outer[0] + 1e-10 and inner[1] < outer[1] - 1e-10
  assert abs(other[0] - default[0]) > 1e-10


def test_extreme_curvatures_when_the_krylov_space_is_exhausted():
  of = lambda f, x: normals.extreme_curvatures(KEY, f, x, 0, num_iterations=6)
  x = jnp.array([0.0, 1.2, 1.6, 0.0, 0.0])
  np.testing.assert_allclose(of(sphere, x), [-0.5, -0.5], rtol=1e-4)
  np.testing.assert_array_equal(of(relu_net, x), [0, 0])
  assert np.all(np.isnan(of(sphere, jnp.zeros(5))))
  assert np.all(np.isnan(of(sphere, jnp.ones(1))))
