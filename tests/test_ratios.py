"""How distributions begin, and ratios of statistics, beside numpy."""

import functools

import numpy as np

from dmm_jax import nngp
from dmm_jax import ratios
from dmm_jax import statistics

MEDIAN = statistics.sample_quantile(50)
ratio = functools.partial(ratios.sample_ratio, unit='networks')


def test_starts_are_slopes_of_sorted_values():
  straight = np.arange(0.5, 400)[::-1].reshape(100, 4) / 400
  np.testing.assert_allclose(ratios.start_slope(3 * straight), 3)
  straight[straight > 0.26] = np.inf
  np.testing.assert_allclose(ratios.start_slope(3 * straight), 3)
  # The law's quantiles begin with its slope, up to what they bend.
  shares = (np.arange(400) + 0.5) / 400
  law = np.array([nngp.distance_quantile(1.0, p) for p in shares])
  np.testing.assert_allclose(
    ratios.start_slope(law[:, None]), nngp.distance_slope(1.0), rtol=0.02
  )


def test_ratios_multiply_and_divide_in_turn():
  rng = np.random.default_rng(0)
  parts = [rng.uniform(1, 2, (9, k)) for k in (3, 5, 3, 4)]
  found = ratio(MEDIAN, *parts)
  one, two, three, four = (MEDIAN(v) for v in parts)
  np.testing.assert_allclose(found.value, one / two * three / four)
  assert found.low < found.value < found.high and found.n == 9
  alone = ratio(MEDIAN, parts[0])
  np.testing.assert_allclose(alone.value, one)
  few = ratio(MEDIAN, parts[0][:2] ** 9)
  assert few.low > 0  # On the log scale.
