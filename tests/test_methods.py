"""The projections and proximal steps that published searches are made of."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize

from dmm_jax import norms

NORMS = (1, 2, np.inf)


def quadratic_program(v, low, high, p, radius=None, weight=0.0):
  """Minimises |u - v|^2 / 2 + weight |u|_p, |u|_p <= radius, by SLSQP.

  With u = up - down, the norm is linear in l1; in linf it is a variable.
  """
  n = len(v)
  split = lambda z: z[:n] - z[n : 2 * n]
  size = {
    1: lambda z: np.sum(z[: 2 * n]),
    2: lambda z: np.sqrt(np.sum(split(z) ** 2) + 1e-18),
    np.inf: lambda z: z[-1],
  }[p]
  constraints = [
    {'type': 'ineq', 'fun': lambda z: z[-1] - z[:n] - z[n : 2 * n]}
  ]
  if radius is not None:
    constraints.append({'type': 'ineq', 'fun': lambda z: radius - size(z)})
  reach = 10.0
  bounds = [(0, min(h, reach)) for h in high]
  bounds += [(0, min(-b, reach)) for b in low] + [(0, reach)]
  start = np.full(2 * n + 1, 1e-3)
  out = optimize.minimize(
    lambda z: np.sum((split(z) - v) ** 2) / 2 + weight * size(z),
    np.minimum(start, [b for _, b in bounds]),
    bounds=bounds,
    constraints=constraints,
    options={'ftol': 1e-12, 'maxiter': 500},
  )
  return split(out.x)


@functools.cache
def project_ball(p):
  return jax.jit(functools.partial(norms.project_ball, norm=p))


@functools.cache
def prox(p):
  return jax.jit(functools.partial(norms.prox, norm=p))


def random_box(rng, n):
  low, high = -rng.uniform(0, 1.5, n), rng.uniform(0, 1.5, n)
  low[0] = high[1] = 0
  low[2], high[3] = -np.inf, np.inf
  return low, high


@pytest.mark.parametrize('p', NORMS)
@pytest.mark.parametrize('share', [0.1, 0.5, 0.9, 1.5])
def test_projection_on_ball_and_box_is_optimal(p, share):
  rng = np.random.default_rng(int(10 * share))
  for _ in range(4):
    v = rng.normal(size=7)
    low, high = random_box(rng, 7)
    boxed = np.clip(v, low, high)
    radius = share * np.linalg.norm(boxed, p)
    u = project_ball(p)(*map(jnp.float32, (v, radius, low, high)))
    assert np.all((u >= low - 1e-7) & (u <= high + 1e-7))
    assert np.linalg.norm(u, p) <= radius * (1 + 1e-6)
    want = quadratic_program(v, low, high, p, radius=radius)
    if share > 1:
      want = boxed
    np.testing.assert_allclose(u, want, atol=2e-4)
    if share < 1 and p != 1:
      np.testing.assert_allclose(np.linalg.norm(u, p), radius, rtol=1e-6)


@pytest.mark.parametrize('p', NORMS)
@pytest.mark.parametrize('share', [0.0, 0.1, 0.5, 0.9, 1.1])
def test_prox_in_a_box_is_optimal(p, share):
  rng = np.random.default_rng(int(10 * share))
  for _ in range(4):
    v = rng.normal(size=7)
    low, high = random_box(rng, 7)
    # At the dual norm of what the box lets through, everything vanishes.
    inward = np.where(v > 0, high, -low) > 0
    weight = share * np.linalg.norm(v[inward], norms.dual(p))
    u = prox(p)(*map(jnp.float32, (v, weight, low, high)))
    assert np.all((u >= low) & (u <= high))
    want = quadratic_program(v, low, high, p, weight=weight)
    cost = lambda u, v=v, w=weight: (
      np.sum((u - v) ** 2) / 2 + w * np.linalg.norm(u, p)
    )
    assert cost(u) <= cost(want) + 1e-5
    np.testing.assert_allclose(u, want, atol=3e-3)
    if share > 1:
      np.testing.assert_allclose(u, 0, atol=1e-6)


@pytest.mark.parametrize('p', NORMS)
def test_projection_and_prox_meet_moreau(p):
  """v = prox(v) + projection on the dual ball, without a box."""
  q, free = norms.dual(p), jnp.full(7, jnp.inf)
  for v in np.random.default_rng(0).normal(size=(3, 7)).astype(np.float32):
    for radius in (0.1, 1.0, 9.0):
      near = prox(p)(v, radius, -free, free)
      ball = project_ball(q)(v, radius, -free, free)
      np.testing.assert_allclose(ball + near, v, atol=2e-6)
      if np.linalg.norm(v, q) > radius:
        np.testing.assert_allclose(np.linalg.norm(ball, q), radius, rtol=1e-5)
      else:
        np.testing.assert_array_equal(ball, v)


@pytest.mark.parametrize('p', NORMS)
def test_degenerate_projections(p):
  v = jnp.array([1.0, -2.0, 0.0])
  assert not np.any(norms.project_ball(v, 0.0, norm=p))
  assert not np.any(norms.project_ball(0 * v, 1.0, norm=p))
  assert not np.any(norms.prox(0 * v, 1.0, norm=p))
  np.testing.assert_allclose(norms.prox(v, 0.0, norm=p), v, rtol=1e-6)
  stuck = norms.project_ball(v, 1.0, jnp.zeros(3), jnp.zeros(3), norm=p)
  assert not np.any(stuck)
  tiny = norms.project_ball(1e-25 * v, 1e-25, norm=p)
  np.testing.assert_allclose(norms.norm(tiny, p), 1e-25, rtol=1e-5)
  with pytest.raises(ValueError, match='p >= 1 or inf'):
    norms.project_ball(v, 1.0, norm=0.9)
