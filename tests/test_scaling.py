"""Slopes of medians over dimensions, against numpy."""

import numpy as np
import pytest
from scipy import stats

from dmm_jax import scaling
from dmm_jax import statistics


def test_laws_are_slopes_of_what_distances_grow_as():
  n = np.array([10.0, 20, 50, 100])
  assert scaling.laws(n, 2.0) == {'sqrt(n)': -0.5}
  found = scaling.laws(n, 1.0)
  want = np.polyfit(np.log(n), np.log((n * np.log(n)) ** -0.5), 1)[0]
  assert found == {'sqrt(n)': -0.5, 'sqrt(n/ln n)': pytest.approx(want)}


def test_the_median_of_a_mixture_of_normals():
  assert scaling.mixture_median(np.full((3, 2), 4.0)) == pytest.approx(
    4 * stats.halfnorm.ppf(0.5), rel=1e-12
  )
  rng = np.random.default_rng(0)
  scales = np.exp(2 * rng.normal(size=(5, 7, 3)))  # Far apart.
  scales[0] *= 1e-20
  found = scaling.mixture_median(scales)
  for of, median in zip(scales, found, strict=True):
    below = stats.halfnorm.cdf(median, scale=of).mean()
    assert below == pytest.approx(0.5, abs=1e-12)
  # Networks whose output is always 0.
  some = np.array([[0.0], [0.0], [2.0], [2.0], [2.0]])
  median = scaling.mixture_median(some)
  below = stats.halfnorm.cdf(median, scale=2.0)
  assert (2 + 3 * below) / 5 == pytest.approx(0.5, abs=1e-12)
  assert scaling.mixture_median(some[:4]) == 0
  assert scaling.mixture_median(some[:3]) == 0
  assert scaling.mixture_median(some[:2]) == 0


def test_median_slopes_are_of_many_resamples_at_once():
  rng = np.random.default_rng(0)
  n = np.array([10.0, 30.0, 200.0])
  rows = [
    rng.exponential(size=(4, m, 2)) * v**-0.3
    for m, v in zip((5, 7, 3), n, strict=True)
  ]
  found = scaling.median_slope(n)(*rows)
  for number, slope in enumerate(found):
    medians = [np.median(r[number].ravel()) for r in rows]
    want = np.polyfit(np.log(n), np.log(medians), 1)[0]
    assert slope == pytest.approx(want)


def test_what_is_uncertain_in_a_constant_widens_the_interval_alone():
  """Of a sum and of a product, as if both parts were drawn."""
  found = statistics.Estimate(3.0, 2.0, 4.0, 50, 'networks')
  term = statistics.Estimate(5.0, 4.25, 5.75, 30, 'networks')
  wide = scaling.less_certain(found, term)
  np.testing.assert_allclose(wide[:3], [3, 3 - 1.25, 3 + 1.25])
  assert wide.n == 30
  wide = scaling.less_certain(found, term, factor=True)
  half = [
    np.hypot(np.log(a / 3), np.log(b / 5)) for a, b in ((2, 4.25), (4, 5.75))
  ]
  np.testing.assert_allclose(
    wide[:3], [3, 3 / np.exp(half[0]), 3 * np.exp(half[1])]
  )
  exact = statistics.Estimate(5.0, 5.0, 5.0, 30, 'networks')
  for factor in (False, True):
    kept = scaling.less_certain(found, exact, factor=factor)
    np.testing.assert_allclose(kept[:3], found[:3])
