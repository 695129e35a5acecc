"""Intervals and quantiles against scipy, and against their own coverage."""

import math

import numpy as np
import pytest
from scipy import stats

from dmm_jax import statistics


def mean(v):
  return np.mean(v, axis=(-2, -1))


def covers(entry, truth):
  return entry['interval'][0] <= truth <= entry['interval'][1]


# --- Coverage. guarantees.md: all intervals are at 95 % --------------------


def test_bootstraps_of_networks_cover_their_mean_95_percent_of_the_time():
  rng = np.random.default_rng(0)
  # Images of one network are nearly the same: the unit is the network.
  draws = rng.exponential(size=(600, 150, 1)) + rng.normal(size=(600, 150, 3))
  ends = np.array(
    [statistics.bootstrap(mean, [v], resamples=200) for v in draws]
  )
  covered = np.mean((ends[:, 0] <= 1) & (1 <= ends[:, 1]))
  assert 0.93 < covered < 0.97


def test_medians_of_columns_cover_the_median_95_percent_of_the_time():
  rng = np.random.default_rng(0)
  draws = rng.exponential(size=(400, 41))
  hits = [covers(statistics.median(v), np.log(2)) for v in draws]
  assert 0.925 < np.mean(hits) < 0.975


def test_students_intervals_cover_the_mean_95_percent_of_the_time():
  rng = np.random.default_rng(0)
  draws = 3 + rng.normal(size=(1500, 4))
  hits = [covers(statistics.t_mean(v), 3) for v in draws]
  assert 0.935 < np.mean(hits) < 0.965


@pytest.mark.parametrize('same', (True, False))
def test_means_over_pairs_cover_their_mean_95_percent_of_the_time(same):
  rng = np.random.default_rng(0)
  hits = []
  for _ in range(2000):
    rows, columns = rng.normal(size=(2, 5))
    # Sources and targets differ: the matrix is not symmetric.
    other = 0.5 * rows if same else columns
    entry = statistics.pair_mean(rows[:, None] + other, same=same)
    hits.append(covers(entry, 0))
  # Two sides have more degrees of freedom than the fewer of them.
  low, high = (0.935, 0.965) if same else (0.95, 0.985)
  assert low < np.mean(hits) < high


def test_welchs_intervals_cover_the_difference_95_percent_of_the_time():
  rng = np.random.default_rng(0)
  a, b = rng.normal(size=(800, 4)), 2 + 3 * rng.normal(size=(800, 9))
  pairs = zip(a, b, strict=True)
  hits = [covers(statistics.welch(*pair), 2) for pair in pairs]
  assert 0.935 < np.mean(hits) < 0.965


def test_wilsons_intervals_cover_the_proportion_95_percent_of_the_time():
  rng = np.random.default_rng(0)
  # Of one proportion it depends on whole counts: over many.
  truth = rng.uniform(0.1, 0.9, 30000)
  low, high = statistics.wilson(rng.binomial(200, truth) / 200, 200)
  assert 0.945 < np.mean((low <= truth) & (truth <= high)) < 0.955


# --- Bootstrap -------------------------------------------------------------


def resampled(statistic, samples, num=8000):
  """Percentile bootstrap, resample by resample."""
  rng, found = np.random.default_rng(99), []
  for _ in range(num):
    rows = [rng.integers(0, len(s), len(s)) for s in samples]
    found.append(statistic(*(s[r] for s, r in zip(samples, rows, strict=True))))
  return np.percentile(found, [2.5, 97.5])


def test_bootstraps_are_percentiles_over_resampled_units():
  rng = np.random.default_rng(0)
  # Skewed, of unlike sizes: other kinds of bootstrap lie elsewhere.
  samples = [rng.exponential(size=(12, 2)) ** 2, rng.exponential(size=(30, 1))]
  ratio = lambda a, b: mean(a) / mean(b)
  want = resampled(ratio, samples)
  found = statistics.bootstrap(ratio, samples, resamples=8000, seed=3)
  np.testing.assert_allclose(found, want, rtol=0.04)
  entry = statistics.estimate(ratio, *samples)
  assert entry['value'] == ratio(*samples)
  assert entry['interval'] == [*statistics.bootstrap(ratio, samples)]


def test_bootstraps_have_a_thousand_resamples_of_a_seed():
  rng = np.random.default_rng(0)
  samples = [rng.normal(size=(20, 1))]
  of = lambda **options: statistics.bootstrap(mean, samples, **options)
  assert of() == of(resamples=1000, seed=0) == of()
  ends = {of(seed=1), of(), of(resamples=999), of(resamples=1001)}
  assert len(ends) == 4


def test_one_unit_has_no_interval():
  one, two = np.ones((1, 5)), np.array([[1.0, 2.0], [3.0, 5.0]])
  first = lambda a, b: mean(a)
  assert np.isnan(statistics.bootstrap(first, [two, one])).all()
  assert np.isnan(statistics.bootstrap(first, [one, two])).all()
  entry = statistics.estimate(mean, two)
  assert (entry['value'], entry['interval']) == (2.75, [1.5, 4.0])


@pytest.mark.filterwarnings('error')
def test_infinite_and_equal_values_are_meant():
  """guarantees.md: an infinite end, where failed searches reach into it."""
  values = np.array([[0.0], [1.0], [np.inf], [np.inf]])
  of = lambda q: statistics.quantile(q)(values)
  assert (of(5), of(50), of(75)) == (0, 1, np.inf)
  entry = statistics.estimate(statistics.quantile(50), np.tile(values, (5, 1)))
  assert entry['value'] == 1 and entry['interval'] == [1, np.inf]
  assert statistics.median(np.full(9, 2))['interval'] == [2, 2]
  assert statistics.mean(np.full(9, np.inf))['value'] == np.inf
  entry = statistics.mean(np.array([1, np.inf, 2, 2]))
  assert entry['interval'][0] < np.inf == entry['interval'][1]


# --- Entries ---------------------------------------------------------------


@pytest.mark.parametrize('percent', [5, 25, 50, 75, 95, 100])
def test_quantiles_are_values_that_so_many_do_not_exceed(percent):
  rng = np.random.default_rng(0)
  for num in range(1, 60):
    values = rng.normal(size=(2, num, 1)).astype(np.float32)
    values[rng.uniform(size=values.shape) < 0.2] = np.inf
    place = math.ceil(percent / 100 * num) - 1
    want = np.sort(values[..., 0], axis=1)[:, place]
    np.testing.assert_array_equal(statistics.quantile(percent)(values), want)


def test_medians_and_means_of_samples_and_of_columns():
  rng = np.random.default_rng(0)
  values = rng.exponential(size=(2, 3, 4))
  want = [np.median(v.ravel()) for v in values]
  np.testing.assert_allclose(statistics.sample_median(values), want)
  column = np.array([3, 9, 1, 2])
  entry = statistics.median(column)
  assert entry['value'] == 2.0 and entry['interval'] == [1, 9]
  entry = statistics.mean(column)
  assert entry['value'] == 3.75
  samples = [column[:, None].astype(float)]
  want = resampled(mean, samples)
  np.testing.assert_allclose(entry['interval'], want, atol=0.3)


def test_wilson_is_scipys():
  for num in (1, 7, 360):
    counts = np.arange(num + 1)
    low, high = statistics.wilson(counts / num, num)
    for k in counts:
      want = stats.binomtest(int(k), num).proportion_ci(method='wilson')
      np.testing.assert_allclose((low[k], high[k]), want, rtol=1e-12)
    assert low[0] == 0 and high[-1] == 1  # Without rounding.
  # A unit may count in part; the formula, in its usual form.
  low, high = statistics.wilson(0.123, 10)
  z, n = stats.norm.ppf(0.975), 10
  half = z * np.sqrt(0.123 * 0.877 / n + z**2 / 4 / n**2)
  ends = (0.123 + z**2 / 2 / n + half * np.array([-1, 1])) / (1 + z**2 / n)
  np.testing.assert_allclose((low, high), ends)
  entry = statistics.proportion(np.arange(50) < 3)
  want = stats.binomtest(3, 50).proportion_ci(method='wilson')
  assert entry['value'] == 0.06
  np.testing.assert_allclose(entry['interval'], want, rtol=1e-12)


def test_students_interval():
  entry = statistics.t_mean(np.array([0.1, 0.2, 0.6]))
  want = stats.ttest_1samp([0.1, 0.2, 0.6], 0).confidence_interval()
  assert entry['value'] == pytest.approx(0.3)
  np.testing.assert_allclose(entry['interval'], want)


def test_welchs_interval():
  a, b = np.array([0.0, 0.1, 0.2]), np.array([1.0, 3.0, 5.0, 2.0])
  parts = [np.var(v, ddof=1) / len(v) for v in (a, b)]
  # Satterthwaite's degrees of freedom.
  freedom = sum(parts) ** 2 / (parts[0] ** 2 / 2 + parts[1] ** 2 / 3)
  half = stats.t.ppf(0.975, freedom) * sum(parts) ** 0.5
  entry = statistics.welch(a, b)
  assert entry['value'] == pytest.approx(2.65)
  np.testing.assert_allclose(entry['interval'], [2.65 - half, 2.65 + half])


# --- Pairs of networks -----------------------------------------------------


def jackknife(values, same):
  """Mean over pairs and its interval, leaving out network after network."""
  pairs = {
    (i, j): v
    for (i, j), v in np.ndenumerate(values)
    if not (np.isnan(v) or (same and i == j))
  }
  total = 0.0
  for side in (0,) if same else (0, 1):
    num = values.shape[side]
    means = []
    for out in range(num):
      inside = lambda i, j: (
        out not in (i, j) if same else (i, j)[side] != out  # noqa: B023
      )
      means.append(np.mean([v for k, v in pairs.items() if inside(*k)]))
    total += (num - 1) / num * np.sum((means - np.mean(means)) ** 2)
  value = np.mean([*pairs.values()])
  half = stats.t.ppf(0.975, min(values.shape) - 1) * total**0.5
  return value, [value - half, value + half]


@pytest.mark.parametrize(
  'shape, same', [((5, 5), True), ((3, 5), False), ((6, 4), False)]
)
def test_pairs_are_resampled_by_leaving_out_networks(shape, same):
  rng = np.random.default_rng(0)
  values = rng.exponential(size=shape)
  values[1, 2] = values[2, 0] = np.nan
  before = values.copy()
  entry = statistics.pair_mean(values, same=same)
  value, interval = jackknife(values, same)
  np.testing.assert_allclose(entry['value'], value)
  np.testing.assert_allclose(entry['interval'], interval)
  np.testing.assert_array_equal(values, before)


def test_one_pair_that_is_left_is_enough():
  values = np.full((3, 2), np.nan)
  values[0, 0], values[1, 1], values[2, 1] = 1.0, 2.0, 6.0
  entry = statistics.pair_mean(values, same=False)
  value, interval = jackknife(values, same=False)
  np.testing.assert_allclose(entry['value'], value)
  np.testing.assert_allclose(entry['interval'], interval)


def test_pairs_of_sums_are_their_networks():
  rng = np.random.default_rng(0)
  rows = rng.normal(size=6)
  entry = statistics.pair_mean(rows[:, None] + rows, same=True)
  wanted = statistics.t_mean(2 * rows)
  assert entry['value'] == pytest.approx(wanted['value'])
  assert entry['interval'] == pytest.approx(wanted['interval'])


@pytest.mark.parametrize(
  'shape, same, known',
  [
    ((2, 2), True, False),
    ((3, 3), True, True),
    ((1, 4), False, False),
    ((4, 1), False, False),
    ((2, 2), False, True),
  ],
)
@pytest.mark.filterwarnings('error')
def test_too_few_networks_have_no_interval(shape, same, known):
  """guarantees.md: NaN in place of an interval, of too few units."""
  values = np.arange(math.prod(shape), dtype=int).reshape(shape) ** 2
  entry = statistics.pair_mean(values, same=same)
  off = ~np.eye(*shape, dtype=bool) if same else np.ones(shape, bool)
  assert entry['value'] == pytest.approx(values[off].mean())
  assert np.isfinite(entry['interval']).all() == known
  nothing = statistics.pair_mean(np.full(shape, np.nan), same=same)
  assert np.isnan([nothing['value'], *nothing['interval']]).all()
  # Without one network no pair is left.
  lonely = np.full((3, 3), np.nan)
  lonely[0, 1] = 2.0
  entry = statistics.pair_mean(lonely, same=same)
  assert entry['value'] == 2 and np.isnan(entry['interval']).all()


# --- Correlations, slopes, excess ------------------------------------------


def columns(num=40):
  """Three columns that go together, with ties."""
  rng = np.random.default_rng(0)
  z = rng.integers(0, 9, num)
  x, y = z + rng.integers(0, 6, num), rng.integers(0, 9, num) - z
  return x.astype(float), y + 0.5 * x, z.astype(float)


def test_partial_correlation_is_that_of_three_correlations():
  x, y, z = columns()
  of = lambda a, b: stats.spearmanr(a, b).statistic
  want = of(x, y) - of(x, z) * of(y, z)
  want /= np.sqrt((1 - of(x, z) ** 2) * (1 - of(y, z) ** 2))
  np.testing.assert_allclose(statistics.partial_rank(x, y, z), want)
  # Nothing is left of a column that the third one gives.
  assert np.isnan(statistics.partial_rank(z**3, y, z))
  assert np.isnan(statistics.partial_rank(x, 1 - z, z))
  assert not np.isnan(statistics.partial_rank(x, y, 0 * z))


@pytest.mark.filterwarnings('error')
def test_rank_correlation_is_spearmans():
  x, y, _ = columns()
  spearman = lambda v: stats.spearmanr(v[:, 0], v[:, 1]).statistic
  entry = statistics.rank_correlation(x, y)
  assert entry['value'] == pytest.approx(stats.spearmanr(x, y).statistic)
  want = resampled(spearman, [np.stack([x, y], 1)], 1500)
  np.testing.assert_allclose(entry['interval'], want, atol=0.04)
  same = statistics.rank_correlation(x, x**3)
  assert same['value'] == pytest.approx(1)
  assert same['interval'] == pytest.approx([1, 1])
  assert np.isnan(statistics.rank_correlation(x, 0 * x)['value'])


@pytest.mark.filterwarnings('error')
def test_slopes_are_least_squares_of_logarithms():
  rng = np.random.default_rng(0)
  n = np.array([10.0, 40.0, 90.0, 1000.0])
  y = rng.exponential(size=(2, 4)) * n**-0.7
  want = [np.polyfit(np.log(n), np.log(v), 1)[0] for v in y]
  np.testing.assert_allclose(statistics.log_slope(n)(y), want)
  y[0, 1], y[1, 2] = np.inf, 0.0
  assert not np.isfinite(statistics.log_slope(n)(y)).any()
  y[0, 2] = np.inf
  assert np.isnan(statistics.log_slope(n)(np.full(4, np.inf)))


def test_excess_is_the_largest_gap():
  values = np.array([1.0, 2.0, 3.0, np.inf])
  at = np.array([0.5, 1.5, 3.5])
  assert statistics.excess(values, at, np.array([0.1, 0.2, 0.5])) == 0.25
  assert statistics.excess(values, at, np.array([0.1, 0.5, 1.0])) == -0.1
  # What lies at the place itself counts.
  assert statistics.excess(values, values[:2], np.zeros(2)) == 0.5
