"""Columns of predictions against the functions that they come from."""

import numpy as np

from dmm_jax import nngp
from dmm_jax import predictions

NORMS = (2.0, np.inf)


def inputs():
  return list(np.random.default_rng(0).uniform(size=(2, 3, 3, 1)))


def test_law_and_bound_are_those_of_the_kernel():
  table = predictions.law('fully_connected', inputs(), NORMS, bounds=None)
  kernel_fn = nngp.fully_connected()[2]
  assert set(table['n']) == {9} and len(table['n']) == 2 * (2 + 60)
  for p in NORMS:
    rows = table['norm'] == p
    of_x, by_radius = rows & ~table['is_bound'], rows & table['is_bound']
    want = [nngp.distance_scale(kernel_fn, x, p) for x in inputs()]
    np.testing.assert_allclose(table['scale'][of_x], want, rtol=1e-5)
    norms = [np.linalg.norm(x.ravel(), p) for x in inputs()]
    np.testing.assert_allclose(table['input_norm'][of_x], norms)
    radius = table['radius'][by_radius]
    law = nngp.distance_cdf(want, radius)
    np.testing.assert_allclose(table['law'][by_radius], law, rtol=1e-4)
    bounds = [nngp.flip_bound(kernel_fn, x, radius, p) for x in inputs()]
    np.testing.assert_allclose(
      table['bound'][by_radius], np.mean(bounds, 0), rtol=1e-6
    )


def test_draws_are_rows_by_norm(monkeypatch):
  draw = lambda key, kernel_fn, x, p, num: (np.full(num, p), np.arange(num))
  monkeypatch.setattr(nngp, 'distance_draws', draw)
  x = inputs()[0]
  table = predictions.draws(None, 'fully_connected', x, NORMS, 3)
  np.testing.assert_array_equal(table['norm'], np.repeat(NORMS, 3))
  np.testing.assert_array_equal(table['linear'], table['norm'])
  np.testing.assert_array_equal(table['straight'], 2 * [0, 1, 2])
  np.testing.assert_array_equal(table['n'], 6 * [9])
