"""The trained infinitely wide network, against primal and dense regression."""

import jax
import numpy as np
import oracles
import pytest

from dmm_jax import boundary
from dmm_jax import nngp
from dmm_jax._neural_tangents import nt
from dmm_jax.nngp import regression

RNG = np.random.default_rng(0)
XS = RNG.uniform(size=(30, 3, 2, 1)).astype(np.float32)
LABELS = RNG.integers(0, 3, size=30)
NEW = RNG.uniform(size=(5, 3, 2, 1)).astype(np.float32)
TARGETS = np.eye(3)[LABELS] - 1 / 3


def logits_of(kernel_fn, kind, ridge, xs):
  fitted = nngp.fit_regression(kernel_fn, XS, LABELS, kind=kind, ridge=ridge)
  one = lambda x: nngp.posterior_mean(kernel_fn, fitted, x, kind=kind)
  return jax.jit(jax.vmap(one))(xs)


def test_a_linear_network_is_ridge_regression():
  # Two of three classes: their boundary is a plane.
  labels = LABELS % 2
  kernel_fn = nngp.fully_connected(0, 1.3, 0.0)[2]
  logits_fn = nngp.regressor(kernel_fn, XS, labels, ridge=0.1)
  features = XS.reshape(30, -1) * 1.3 / np.sqrt(6)
  penalty = 0.1 * np.mean(np.sum(features**2, 1))
  gram = features.T @ features + penalty * np.eye(6)
  want = np.linalg.solve(gram, features.T @ (np.eye(2)[labels] - 0.5))
  want *= 1.3 / np.sqrt(6)  # [6, 2], of the inputs themselves.
  got = jax.vmap(logits_fn)(NEW)
  np.testing.assert_allclose(got, NEW.reshape(5, -1) @ want, atol=1e-5)
  slope = want[:, 0] - want[:, 1]
  found = boundary.measure(logits_fn, NEW, norm=2, method='linear')
  gap = np.abs(NEW.reshape(5, -1) @ slope) / np.linalg.norm(slope)
  np.testing.assert_allclose(found.distance, gap, rtol=1e-3)


def test_a_dense_network_is_regression_with_the_recursion():
  kernel_fn = nngp.fully_connected(2, 1.4, 0.3)[2]
  own = lambda a, b: oracles.dense_kernel(a, b, 2, 1.4, 0.3)
  matrix = own(XS, XS)
  ridge = 0.01 * np.mean(np.diag(matrix)) * np.eye(30)
  want = own(NEW, XS) @ np.linalg.solve(matrix + ridge, TARGETS)
  got = logits_of(kernel_fn, 'nngp', 0.01, NEW)
  np.testing.assert_allclose(got, want, atol=1e-4)


def test_agrees_with_neural_tangents():
  kernel_fn = nngp.fully_connected(2)[2]
  both = jax.jit(lambda a, b: kernel_fn(a, b, ('nngp', 'ntk')))
  with jax.enable_x64(True):
    xs = XS.astype(float)
    predict = nt.predict.gp_inference(both(xs, xs), TARGETS, diag_reg=1e-3)
    want = predict(('nngp', 'ntk'), both(NEW.astype(float), xs))
  for kind in ('nngp', 'ntk'):
    got = logits_of(kernel_fn, kind, 1e-3, NEW)
    np.testing.assert_allclose(got, getattr(want, kind), atol=2e-4)


@pytest.mark.parametrize('kind', ['nngp', 'ntk'])
def test_gradients_are_differences_also_at_training_inputs(kind):
  kernel_fn = nngp.fully_connected(2)[2]
  fitted = nngp.fit_regression(kernel_fn, XS, LABELS, kind=kind, ridge=1e-2)
  one = lambda x: nngp.posterior_mean(kernel_fn, fitted, x, kind=kind)[0]
  points = np.concatenate([XS[:4], NEW[:2], np.zeros_like(NEW[:1])])
  got = jax.jit(jax.vmap(jax.grad(one)))(points)
  assert got.dtype == np.float32 and np.isfinite(got).all()
  steps = 1e-4 * np.eye(6).reshape(6, 1, 3, 2, 1)
  with jax.enable_x64(True):
    f = jax.jit(jax.vmap(one))
    # By symmetry the cusp of a tangent kernel cancels.
    ahead, behind = (
      np.asarray(f((points[:6] + s * steps).reshape(-1, 3, 2, 1)))
      for s in (1, -1)
    )
  want = (ahead - behind).reshape(6, 6).T.reshape(6, 3, 2, 1) / 2e-4
  np.testing.assert_allclose(got[:6], want, atol=2e-3)


def test_matrices_come_in_parts(monkeypatch):
  kernel_fn = nngp.fully_connected(1)[2]
  monkeypatch.setattr(regression, '_PART', 7 * 30 * 6)
  parts = nngp.kernel_matrix(kernel_fn, XS)
  want = oracles.dense_kernel(XS, XS, 1, np.sqrt(2), 0.0)
  np.testing.assert_allclose(parts, want, rtol=1e-7)
  np.testing.assert_array_equal(parts, parts.T)


def test_bad_kinds_are_named():
  kernel_fn = nngp.fully_connected(0)[2]
  with pytest.raises(ValueError, match="'nngp', 'ntk'"):
    nngp.fit_regression(kernel_fn, XS, LABELS, kind='cntk')


@pytest.mark.parametrize('num', [2, 3, 10])
def test_the_law_of_several_classes(num):
  draws = np.sort(np.random.default_rng(0).normal(size=(100000, num)))
  gaps = (draws[:, -1] - draws[:, -2]) / np.sqrt(2)
  both = np.concatenate([gaps, 2 * gaps])
  for p in (0.1, 0.5, 0.9):
    got = nngp.distance_quantile([1.0, 2.0], p, num)
    np.testing.assert_allclose(got, np.quantile(both, p), rtol=0.02)
  share = nngp.distance_cdf([1.0, 2.0], 0.3, num)
  np.testing.assert_allclose(share, np.mean(both <= 0.3), atol=0.005)
  tiny = nngp.distance_quantile([1.0, 2.0], 1e-4, num) / 1e-4
  np.testing.assert_allclose(
    nngp.distance_slope([1.0, 2.0], num), tiny, rtol=1e-3
  )
  if num == 2:
    np.testing.assert_allclose(nngp.distance_slope(2.0), np.sqrt(2 * np.pi))
