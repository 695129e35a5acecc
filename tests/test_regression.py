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


def two_kinds(a, b, get):
  """Linear features for 'nngp', and their squares besides for 'ntk'."""
  a, b = (v.reshape(len(v), -1) for v in (a, b))
  linear = a @ b.T
  return linear if get == 'nngp' else linear + 2 * linear**2


@pytest.mark.parametrize(
  'kind, ridge, num_classes', [('nngp', 0.3, 4), ('ntk', 0.02, None)]
)
def test_every_option_is_that_of_the_regression(kind, ridge, num_classes):
  """In float64 the weights solve it; guarantees of float32 for the rest."""
  k = num_classes or 3
  xs, new = XS.astype(float), NEW.astype(float)
  matrix = two_kinds(xs, xs, kind)
  ridged = matrix + ridge * np.mean(np.diag(matrix)) * np.eye(30)
  want = np.linalg.solve(ridged, np.eye(k)[LABELS] - 1 / k)
  options = {'kind': kind, 'ridge': ridge, 'num_classes': num_classes}
  fitted = nngp.fit_regression(two_kinds, xs, LABELS, **options)
  assert fitted.xs.dtype == fitted.weights.dtype == np.float32
  np.testing.assert_array_equal(fitted.xs, XS)
  np.testing.assert_allclose(fitted.weights, want, rtol=1e-5, atol=1e-5)
  want = two_kinds(new, xs, kind) @ want
  logits_fn = nngp.regressor(two_kinds, xs, LABELS, **options)
  for one in (
    logits_fn,
    lambda x: nngp.posterior_mean(two_kinds, fitted, x, kind=kind),
  ):
    np.testing.assert_allclose([one(x) for x in NEW], want, atol=1e-4)
  found = nngp.kernel_matrix(two_kinds, xs, kind=kind)
  np.testing.assert_allclose(found, matrix, rtol=1e-12)


def test_defaults_are_the_nngp_and_a_small_ridge():
  fit = lambda **o: nngp.fit_regression(two_kinds, XS, LABELS, **o)
  fitted = fit()
  again = fit(kind='nngp', ridge=1e-4, num_classes=3)
  np.testing.assert_array_equal(fitted.weights, again.weights)
  want = nngp.posterior_mean(two_kinds, fitted, NEW[0], kind='nngp')
  got = nngp.posterior_mean(two_kinds, fitted, NEW[0])
  np.testing.assert_array_equal(got, want)
  np.testing.assert_array_equal(
    nngp.regressor(two_kinds, XS, LABELS)(NEW[0]), want
  )
  np.testing.assert_array_equal(
    nngp.kernel_matrix(two_kinds, XS),
    nngp.kernel_matrix(two_kinds, XS, kind='nngp'),
  )
  # One class among the labels is one of two.
  alone = nngp.fit_regression(two_kinds, XS, 0 * LABELS)
  assert alone.weights.shape == (30, 2)


def test_a_matrix_that_is_not_positive_definite_is_refused():
  negative = lambda a, b, get: -two_kinds(a, b, get)
  with pytest.raises(np.linalg.LinAlgError):
    nngp.fit_regression(negative, XS, LABELS, ridge=0.0)
  # No ridge is a ridge, where the matrix has full rank.
  full = lambda a, b, get: two_kinds(a, b, 'ntk') ** 3
  found = nngp.fit_regression(full, XS[:5], [0, 1, 0, 1, 1], ridge=0)
  matrix = full(XS[:5].astype(float), XS[:5].astype(float), 'nngp')
  want = np.eye(2)[[0, 1, 0, 1, 1]] - 0.5
  np.testing.assert_allclose(matrix @ found.weights, want, atol=1e-2)


def test_matrices_come_in_parts(monkeypatch):
  matrix = np.random.default_rng(2).normal(size=(6, 6))
  matrix, rows = matrix @ matrix.T, []

  def kernel_fn(a, b, get):
    rows.append((len(a), len(b)))
    a, b = (v.reshape(len(v), -1) for v in (a, b))
    return a @ matrix @ b.T

  flat = XS.reshape(30, 6).astype(float)
  for part, num in ((regression._PART, 30), (7 * 30 * 6 + 5, 7), (1, 1)):
    monkeypatch.setattr(regression, '_PART', part)
    rows.clear()
    parts = nngp.kernel_matrix(kernel_fn, XS)
    assert set(rows) == {(num, 30)}
    np.testing.assert_allclose(parts, flat @ matrix @ flat.T, rtol=1e-12)
    np.testing.assert_array_equal(parts, parts.T)


def test_bad_kinds_are_named():
  kernel_fn = nngp.fully_connected(0)[2]
  for call in (
    lambda: nngp.fit_regression(kernel_fn, XS, LABELS, kind='cntk', ridge=-1.0),
    lambda: nngp.kernel_matrix(kernel_fn, XS, kind='cntk'),
  ):
    with pytest.raises(ValueError, match=r"'nngp', 'ntk'.*got 'cntk'"):
      call()


@pytest.mark.parametrize(
  'labels, error, words',
  [
    (0 * LABELS - 1, ValueError, r'labels must lie in \[0, k\), got .* -1'),
    (LABELS + 1, ValueError, 'labels .* none of class 0 and some of class 3'),
    (0 * LABELS + 99, ValueError, 'none of class 0 and some of class 99'),
    (2 * LABELS, ValueError, 'labels .* none of class 1 .* pass num_classes'),
    (LABELS[:, None], ValueError, r'labels .* got \(30, 1\); pass labels'),
    (LABELS[:-1], ValueError, r'labels must have shape \(30,\), got \(29,\)'),
    (LABELS.astype(float), TypeError, 'labels must be integers, got float'),
    (LABELS * np.nan, TypeError, 'labels must be integers, got float'),
  ],
)
def test_labels_that_are_no_classes_are_refused(labels, error, words):
  kernel_fn = nngp.fully_connected(0)[2]
  for fit in (nngp.fit_regression, nngp.regressor):
    with pytest.raises(error, match=words):
      fit(kernel_fn, XS, labels)


def test_classes_without_examples_are_told_by_their_number():
  kernel_fn = nngp.fully_connected(0)[2]
  fitted = nngp.fit_regression(kernel_fn, XS, 2 * LABELS, num_classes=7)
  assert fitted.weights.shape == (30, 7)
  three = nngp.fit_regression(kernel_fn, XS, LABELS)
  np.testing.assert_allclose(
    np.diff(fitted.weights[:, [0, 2, 4]], axis=1),
    np.diff(three.weights, axis=1),
    rtol=1e-3,
    atol=1e-3 * float(np.abs(three.weights).max()),
  )
  with pytest.raises(ValueError, match=r'labels must lie in \[0, 4\)'):
    nngp.fit_regression(kernel_fn, XS, 2 * LABELS, num_classes=4)
  with pytest.raises(ValueError, match='num_classes must be at least 2'):
    nngp.regressor(kernel_fn, XS, 0 * LABELS, num_classes=1)


@pytest.mark.parametrize('ridge', [-0.1, np.nan])
def test_ridges_are_checked(ridge):
  with pytest.raises(ValueError, match='ridge must be 0 or larger'):
    nngp.fit_regression(nngp.fully_connected(0)[2], XS, LABELS, ridge=ridge)


@pytest.mark.parametrize('kind', ['nngp', 'ntk'])
@pytest.mark.parametrize('value', [np.nan, np.inf])
def test_numbers_that_are_not_finite(kind, value):
  kernel_fn = nngp.fully_connected(2)[2]
  broken = np.where(np.arange(30) == 4, value, XS.T).T
  with pytest.raises(ValueError, match=r'xs must be finite .* 6 of 180 are'):
    nngp.fit_regression(kernel_fn, broken, LABELS, kind=kind)
  with pytest.raises(ValueError, match='xs must be finite'):
    nngp.kernel_matrix(kernel_fn, broken)
  # One number of an input, within `jit`.
  fitted = nngp.fit_regression(kernel_fn, XS, LABELS, kind=kind)
  one = lambda x: nngp.posterior_mean(kernel_fn, fitted, x, kind=kind)
  x = NEW[0].copy()
  x[1, 1] = value
  assert not np.isfinite(jax.jit(one)(x)).any()
  if np.isnan(value):
    assert np.isnan(jax.jit(one)(x)).all()
    assert np.isnan(jax.jit(jax.grad(lambda x: one(x)[0]))(x)).any()


def test_kernels_that_capture_an_array_are_those_of_the_call():
  held = {}
  kernel_fn = lambda a, b, get: (
    (a.reshape(len(a), -1) * held['scale']) @ b.reshape(len(b), -1).T
  )
  for factor in (1.0, 3.0):
    held['scale'] = np.full((1, 6), factor)
    flat = XS.reshape(30, -1).astype(float)
    want = factor * flat @ flat.T
    found = nngp.kernel_matrix(kernel_fn, XS)
    np.testing.assert_allclose(found, want, rtol=1e-6)
    fitted = nngp.fit_regression(kernel_fn, XS, LABELS, ridge=0.1)
    penalty = 0.1 * np.mean(np.diag(want)) * np.eye(30)
    new = factor * NEW.reshape(5, -1) @ flat.T
    np.testing.assert_allclose(
      [nngp.posterior_mean(kernel_fn, fitted, x) for x in NEW],
      new @ np.linalg.solve(want + penalty, TARGETS),
      atol=1e-4,
    )
