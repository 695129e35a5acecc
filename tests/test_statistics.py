"""Intervals and quantiles against scipy, and against their own coverage."""

import math

import numpy as np
import pytest
from scipy import stats

from dmm_jax import statistics


def test_slope_recovers_a_power_law_with_its_interval():
  rng = np.random.default_rng(0)
  n = np.array([100.0, 400.0, 1600.0])
  covered = 0
  slope = statistics.log_slope(n)

  def of(*rows):
    return slope(np.stack([np.median(r, (-2, -1)) for r in rows], -1))

  for _ in range(40):
    samples = [np.abs(rng.normal(size=(60, 1))) * v**-0.7 for v in n]
    low, high = statistics.bootstrap(of, samples, resamples=200)
    covered += low < -0.7 < high
  assert 33 <= covered <= 40


def test_bootstrap_keeps_a_networks_images_together():
  values = np.repeat(np.random.default_rng(0).normal(size=(50, 1)), 20, axis=1)
  mean = lambda v: np.mean(v, axis=(-2, -1))
  low, high = statistics.bootstrap(mean, [values])
  error = np.std(values[:, 0]) / np.sqrt(50)
  assert 0.8 * 3.92 * error < high - low < 1.2 * 3.92 * error


def test_quantiles_survive_infinite_distances():
  values = np.array([[0.0], [1.0], [np.inf], [np.inf]])
  of = lambda q: statistics.quantile(q)(values)
  assert (of(5), of(50), of(75)) == (0, 1, np.inf)
  interval = statistics.estimate(
    statistics.quantile(50), np.tile(values, (5, 1))
  )
  assert interval['value'] == 1 and interval['interval'][1] == np.inf


@pytest.mark.parametrize('percent', [5, 25, 50, 75, 95, 100])
def test_quantiles_are_values_that_so_many_do_not_exceed(percent):
  rng = np.random.default_rng(percent)
  for num in range(1, 60):
    values = rng.normal(size=(num, 1)).astype(np.float32)
    values[rng.uniform(size=num) < 0.2] = np.inf
    want = np.sort(values, axis=None)[math.ceil(percent / 100 * num) - 1]
    assert statistics.quantile(percent)(values) == want


def test_wilson_is_scipys():
  for num in (1, 7, 360):
    counts = np.arange(num + 1)
    low, high = statistics.wilson(counts / num, num)
    for k in counts:
      want = stats.binomtest(int(k), num).proportion_ci(method='wilson')
      np.testing.assert_allclose((low[k], high[k]), want, rtol=1e-12)
  hits = np.arange(50) < 3
  want = stats.binomtest(3, 50).proportion_ci(method='wilson')
  entry = statistics.proportion(hits)
  assert entry['value'] == 0.06
  np.testing.assert_allclose(entry['interval'], want, rtol=1e-12)


def test_excess_is_the_largest_gap():
  values = np.array([1.0, 2.0, 3.0, np.inf])
  at = np.array([0.5, 1.5, 3.5])
  assert statistics.excess(values, at, np.array([0.1, 0.2, 0.5])) == 0.25
  assert statistics.excess(values, at, np.array([0.1, 0.5, 1.0])) == -0.1
  # What lies at the place itself counts.
  assert statistics.excess(values, values[:2], np.zeros(2)) == 0.5


def test_entries_of_a_column():
  values = np.array([3.0, np.inf, 1.0, 2.0])
  assert statistics.median(values)['value'] == 2.0
  assert statistics.median(np.arange(99))['interval'][0] > 35
  entry = statistics.mean(np.arange(100))
  # Standard error 28.9 / sqrt(100).
  np.testing.assert_allclose(
    entry['interval'], [49.5 - 5.7, 49.5 + 5.7], atol=1
  )


def test_students_interval():
  entry = statistics.t_mean(np.array([0.1, 0.2, 0.3]))
  # t of 2 degrees of freedom: 4.303; standard error 0.1 / sqrt(3).
  np.testing.assert_allclose(
    entry['interval'], 0.2 + 4.303 * 0.1 / 3**0.5 * np.array([-1, 1]), rtol=1e-3
  )


def test_welchs_interval():
  a, b = np.array([0.0, 0.1, 0.2]), np.array([1.0, 3.0, 5.0, 2.0])
  parts = [np.var(v, ddof=1) / len(v) for v in (a, b)]
  # Satterthwaite's degrees of freedom.
  freedom = sum(parts) ** 2 / (parts[0] ** 2 / 2 + parts[1] ** 2 / 3)
  half = stats.t.ppf(0.975, freedom) * sum(parts) ** 0.5
  entry = statistics.welch(a, b)
  assert entry['value'] == pytest.approx(2.65)
  np.testing.assert_allclose(entry['interval'], [2.65 - half, 2.65 + half])


@pytest.mark.parametrize('same', (True, False))
def test_means_over_pairs_have_their_level(same):
  rng = np.random.default_rng(0)
  hits = 0
  for _ in range(400):
    rows, columns = rng.normal(size=(2, 5))
    # Sources and targets differ: the matrix is not symmetric.
    other = 0.5 * rows if same else columns
    entry = statistics.pair_mean(rows[:, None] + other, same=same)
    hits += entry['interval'][0] <= 0 <= entry['interval'][1]
  assert 0.92 < hits / 400 < 0.99


def test_pairs_of_sums_are_their_networks():
  rows = np.random.default_rng(0).normal(size=6)
  entry = statistics.pair_mean(rows[:, None] + rows, same=True)
  wanted = statistics.t_mean(2 * rows)
  assert entry['value'] == pytest.approx(wanted['value'])
  assert entry['interval'] == pytest.approx(wanted['interval'])


def test_pairs_that_are_undefined_do_not_count():
  values = np.arange(9.0).reshape(3, 3)
  values[0, 1] = np.nan
  assert statistics.pair_mean(values, same=True)['value'] == np.mean(
    [2, 3, 5, 6, 7]
  )
  nothing = statistics.pair_mean(np.full((2, 2), np.nan), same=False)
  assert np.isnan(nothing['value'])
