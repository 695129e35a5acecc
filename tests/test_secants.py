"""Shapes of boundaries by crossings: lines, spheres, kinks."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dmm_jax.boundary import secants


def test_a_signed_crossing_lies_ahead_behind_or_nowhere():
  normal = jnp.float32([0.6, 0.8])
  cross = lambda start, reach: secants.signed_crossing(
    lambda v: 1.5 - v @ normal, jnp.float32(start), 3 * normal, reach
  )
  np.testing.assert_allclose(cross([0, 0], 4.0), 1.5, rtol=1e-4)
  np.testing.assert_allclose(cross([3.0, 1.0], 4.0), 1.5 - 2.6, rtol=1e-4)
  assert cross([0, 0], 1.0) == np.inf
  assert cross([30.0, 1.0], 1.0) == -np.inf


@pytest.mark.parametrize('inside', [True, False])
def test_the_bend_of_a_sphere_is_one_over_its_radius(inside):
  r, s, d = 2.0, 0.3, 5
  sign = 1.0 if inside else -1.0
  point = jnp.zeros(d).at[0].set(r)
  margin = lambda v: sign * (r - jnp.linalg.norm(v))
  directions = jax.random.normal(jax.random.key(0), (8, d))
  found = secants.bend(margin, point, -sign * point / r, directions, s, 1.0)
  height = r - np.sqrt(r**2 - s**2)
  np.testing.assert_allclose(found, sign * 2 * height / s**2, rtol=1e-3)
  np.testing.assert_allclose(found, sign / r, rtol=0.01)


def test_the_bend_of_a_kink_and_of_a_plane():
  # Two planes meet at the point: a valley of slope 1 to either side of axis 1.
  margin = lambda v: v[0] - 0.5 * jnp.abs(v[1])
  bend = functools.partial(
    secants.bend, point=jnp.zeros(3), normal=jnp.eye(3)[0], reach=4.0
  )
  along = jnp.float32([[0, 1, 0], [0, -1, 0]])
  across = jnp.float32([[0, 0, 1], [2, 0, -1]])  # The normal's part goes.
  for s in (0.5, 0.8):
    found = bend(margin, directions=along, offset=s)
    np.testing.assert_allclose(found, 2 * 0.5 * s / s**2, rtol=1e-4)
    flat = bend(margin, directions=across, offset=s)
    np.testing.assert_allclose(flat, 0, atol=1e-5)
  tilted = lambda v: v[0] - 0.3 * v[1]  # Opposite directions cancel.
  np.testing.assert_allclose(
    bend(tilted, directions=along, offset=0.5), 0, atol=1e-4
  )
