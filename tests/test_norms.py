import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize

from dmm_jax import norms

NORMS = (1, 2, np.inf)


@pytest.mark.parametrize('p', [1, 1.5, 2, 3, np.inf])
def test_norm_agrees_with_numpy(p):
  v = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
  want = np.linalg.norm(v.ravel(), p)
  np.testing.assert_allclose(norms.norm(v, p), want, rtol=1e-6)


def test_norm_of_tiny_and_zero_vectors():
  tiny = jnp.full(4, 1e-30)
  np.testing.assert_allclose(norms.norm(tiny, 2), 2e-30, rtol=1e-5)
  assert norms.norm(jnp.zeros(3), 2) == 0


def test_dual():
  assert [norms.dual(p) for p in (1, 2, np.inf)] == [np.inf, 2, 1]
  assert norms.dual(3) == pytest.approx(1.5)
  with pytest.raises(ValueError, match='p >= 1'):
    norms.dual(0.5)


@pytest.mark.parametrize('p', NORMS)
def test_step_without_box_has_closed_form(p):
  g = np.random.default_rng(1).normal(size=20).astype(np.float32)
  v = jax.jit(lambda g: norms.smallest_step(g, 0.7, norm=p))(g)
  q = norms.dual(p)
  np.testing.assert_allclose(g @ v, 0.7, rtol=1e-5)
  np.testing.assert_allclose(
    np.linalg.norm(v, p), 0.7 / np.linalg.norm(g, q), rtol=1e-5
  )


def _exact(g, gap, low, high, p):
  """The same projection by scipy: a linear program, or SLSQP for l2."""
  n = len(g)
  if p == 2:
    out = optimize.minimize(
      lambda v: v @ v,
      np.clip(np.sign(g), low, high),
      jac=lambda v: 2 * v,
      bounds=list(zip(low, high, strict=True)),
      constraints={
        'type': 'eq',
        'fun': lambda v: g @ v - gap,
        'jac': lambda v: g,
      },
      options={'ftol': 1e-14, 'maxiter': 500},
    )
    return np.sqrt(out.fun)
  # v = up - down; linf bounds all by one level t.
  cost = np.r_[np.ones(2 * n), 0] if p == 1 else np.r_[np.zeros(2 * n), 1]
  rows = np.hstack([np.eye(n), np.eye(n), -np.ones((n, 1))])
  out = optimize.linprog(
    cost,
    A_eq=np.r_[g, -g, 0][None],
    b_eq=[gap],
    A_ub=None if p == 1 else rows,
    b_ub=None if p == 1 else np.zeros(n),
    bounds=[(0, h) for h in high] + [(0, -b) for b in low] + [(0, None)],
  )
  return out.fun


@pytest.mark.parametrize('p', NORMS)
@pytest.mark.parametrize('share', [0.05, 0.5, 0.95])
def test_step_in_a_box_is_optimal(p, share):
  rng = np.random.default_rng(2)
  for _ in range(5):
    g = rng.normal(size=12)
    low, high = -rng.uniform(0, 1, 12), rng.uniform(0, 1, 12)
    low[0] = high[1] = 0
    gap = share * np.maximum(g * low, g * high).sum()
    v = norms.smallest_step(*map(jnp.float32, (g, gap, low, high)), norm=p)
    assert np.all((v >= low - 1e-6) & (v <= high + 1e-6))
    np.testing.assert_allclose(g @ v, gap, rtol=1e-4)
    np.testing.assert_allclose(
      np.linalg.norm(v, p), _exact(g, gap, low, high, p), rtol=2e-4
    )


@pytest.mark.parametrize('p', NORMS)
def test_step_out_of_reach_is_the_corner(p):
  g = jnp.array([1.0, -2.0, 0.0])
  v = norms.smallest_step(g, 10.0, -jnp.ones(3) * 0.5, jnp.ones(3), norm=p)
  np.testing.assert_allclose(v, [1.0, -0.5, 0.0])


@pytest.mark.parametrize('p', NORMS)
def test_degenerate_steps_are_zero(p):
  assert not np.any(norms.smallest_step(jnp.zeros(3), 1.0, norm=p))
  assert not np.any(norms.smallest_step(jnp.ones(3), 0.0, norm=p))
  tiny = norms.smallest_step(jnp.full(4, 1e-25), 1e-25, norm=p)
  np.testing.assert_allclose(jnp.sum(tiny), 1.0, rtol=1e-5)


def test_unknown_norm_is_refused():
  with pytest.raises(ValueError, match='1, 2 or inf'):
    norms.smallest_step(jnp.ones(3), 1.0, norm=3)
