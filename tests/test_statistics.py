"""Intervals against scipy, closed forms, and their own coverage."""

import math
import pathlib
import re

import numpy as np
import pytest
from scipy import stats

from dmm_jax import statistics

Estimate = statistics.Estimate
GUARANTEES = pathlib.Path(__file__).parent.parent / 'docs/guarantees.md'
DIMENSIONS = np.array([192.0, 768.0, 3072.0])
SIZES = 4, 8, 20, 150


def ends(found):
  return found.low, found.high


def average(v):
  return np.mean(v, axis=(-2, -1))


# --- Coverage --------------------------------------------------------------


def median_slope(*samples):
  medians = np.stack([statistics.sample_median(s) for s in samples], -1)
  return statistics.log_slope(DIMENSIONS)(medians)


def distances(rng, networks, spread=0.3, images=6):
  """Half-normal; networks differ by a factor, as random ones do."""
  factor = np.exp(spread * rng.normal(size=(networks, 1)))
  return factor * np.abs(rng.normal(size=(networks, images)))


def uniform_hits(rng, n):
  """Hits, and their probability, which coverage depends on: over many."""
  chance = rng.uniform(0.05, 0.95)
  return statistics.proportion(rng.random(n) < chance, unit='images'), chance


def of_pairs(rng, n, same):
  rows, columns = rng.normal(size=(2, n))
  # Sources and targets differ: the matrix is not symmetric.
  values = rows[:, None] + (0.5 * rows if same else columns)
  return statistics.pair_mean(values, same=same, unit='networks')


def correlated(rng, n):
  x, y = rng.normal(size=(2, n))
  y = 0.5 * x + math.sqrt(0.75) * y
  return statistics.rank_correlation(x, y, unit='networks')


def compared(rng, n, of):
  a, b = 3 * rng.exponential(size=n), rng.exponential(size=2 * n)
  return of(*(statistics.mean(v, unit='networks') for v in (a, b)))


def differing_hits(rng, n):
  (a, of_a), (b, of_b) = uniform_hits(rng, n), uniform_hits(rng, n)
  return statistics.difference(a, b), of_a - of_b


NETWORKS = dict(unit='networks')
MEAN = math.sqrt(2 / math.pi)
# Name in the table of guarantees.md -> (rng, n) -> estimate, truth unless it
# comes along, and draws at up to 20 units and at 150.
SIMULATIONS = {
  'median': (
    lambda r, n: statistics.median(r.exponential(size=n), **NETWORKS),
    math.log(2),
    (600, 600),
  ),
  'quantile 95 %': (
    lambda r, n: statistics.quantile(r.exponential(size=n), 0.95, **NETWORKS),
    math.log(20),
    (600, 600),
  ),
  'paired_ratio': (
    lambda r, n: statistics.paired_ratio(
      2 * np.abs(r.normal(size=n)), np.abs(r.normal(size=n)), **NETWORKS
    ),
    2,
    (600, 600),
  ),
  't_mean': (
    lambda r, n: statistics.t_mean(r.normal(size=n), **NETWORKS),
    0,
    (600, 600),
  ),
  'mean': (
    lambda r, n: statistics.mean(np.abs(r.normal(size=n)), **NETWORKS),
    MEAN,
    (600, 600),
  ),
  'mean, exponential': (
    lambda r, n: statistics.mean(r.exponential(size=n), **NETWORKS),
    1,
    (600, 600),
  ),
  'paired_difference': (
    lambda r, n: statistics.paired_difference(
      1 + r.normal(size=n), r.normal(size=n), **NETWORKS
    ),
    1,
    (600, 600),
  ),
  'welch': (
    lambda r, n: statistics.welch(
      r.normal(size=n), 2 + 3 * r.normal(size=2 * n), **NETWORKS
    ),
    2,
    (600, 600),
  ),
  'ratio_of_sums': (
    lambda r, n: statistics.ratio_of_sums(
      2 * np.abs(r.normal(size=n)), np.abs(r.normal(size=n)), **NETWORKS
    ),
    2,
    (600, 600),
  ),
  'pair_mean, same networks': (
    lambda r, n: of_pairs(r, n, True),
    0,
    (1000, 500),
  ),
  'pair_mean, others': (lambda r, n: of_pairs(r, n, False), 0, (1000, 500)),
  'proportion of hits': (uniform_hits, None, (600, 600)),
  'proportion of shares': (
    lambda r, n: statistics.proportion(
      r.binomial(200, r.beta(8, 2, size=n)) / 200, **NETWORKS
    ),
    0.8,
    (600, 600),
  ),
  'rank_correlation': (correlated, 6 / math.pi * math.asin(0.25), (500, 200)),
  'difference of means': (
    lambda r, n: compared(r, n, statistics.difference),
    2,
    (500, 500),
  ),
  'difference of hits': (differing_hits, None, (800, 800)),
  'ratio of means': (
    lambda r, n: compared(r, n, statistics.ratio),
    3,
    (500, 500),
  ),
  'estimate, medians': (
    lambda r, n: statistics.estimate(
      statistics.sample_median, distances(r, n), **NETWORKS
    ),
    0.6596541445,
    (250, 50),
  ),
  'estimate, means': (
    lambda r, n: statistics.estimate(average, distances(r, n), **NETWORKS),
    MEAN * math.exp(0.045),
    (500, 150),
  ),
  'estimate, slopes': (
    lambda r, n: statistics.estimate(
      median_slope, *(distances(r, n) * v**-0.5 for v in DIMENSIONS), **NETWORKS
    ),
    -0.5,
    (200, 40),
  ),
  'estimate, means, two levels': (
    lambda r, n: statistics.estimate(
      average, distances(r, n), levels=2, **NETWORKS
    ),
    MEAN * math.exp(0.045),
    (250, 60),
  ),
}
# In percent at 4, 8, 20 and 150 units, from many more draws.
COVERAGE = {
  'median': (100, 99, 96, 96),
  'quantile 95 %': (99, 99, 98, 97),
  'paired_ratio': (100, 99, 96, 96),
  't_mean': (95, 95, 95, 95),
  'mean': (93, 95, 95, 95),
  'mean, exponential': (91, 93, 95, 95),
  'paired_difference': (95, 95, 95, 95),
  'welch': (95, 95, 95, 95),
  'ratio_of_sums': (95, 95, 95, 95),
  'pair_mean, same networks': (95, 95, 95, 95),
  'pair_mean, others': (96, 95, 95, 95),
  'proportion of hits': (96, 96, 95, 95),
  'proportion of shares': (95, 95, 95, 95),
  'rank_correlation': (100, 99, 98, 96),
  'difference of means': (92, 94, 95, 95),
  'difference of hits': (95, 95, 95, 95),
  'ratio of means': (97, 96, 96, 95),
  'estimate, medians': (92, 93, 94, 94),
  'estimate, means': (93, 94, 94, 94),
  'estimate, slopes': (96, 96, 96, 95),
  'estimate, means, two levels': (99, 98, 98, 98),
}


SLOW = ('estimate, medians', 'estimate, slopes')  # As 'estimate, means'.


def coverage(name, n, draws, seed):
  """How often the intervals of a simulation hold the truth."""
  draw, truth, _ = SIMULATIONS[name]
  rng, hits = np.random.default_rng(seed), 0
  for _ in range(draws):
    found, true = (draw(rng, n), truth) if truth is not None else draw(rng, n)
    hits += found.low <= true <= found.high
  return hits / draws


@pytest.mark.usefixtures('quick_quantiles')
@pytest.mark.parametrize(
  'name',
  [
    pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW))
    for name in SIMULATIONS
  ],
)
def test_intervals_cover_as_often_as_documented(name):
  for n, percent in zip(SIZES, COVERAGE[name], strict=True):
    draws = SIMULATIONS[name][2][n == SIZES[-1]]
    documented = percent / 100
    spread = max(documented * (1 - documented), 0.0025)
    # Half a percent of rounding, and three standard errors.
    error = 0.005 + 3 * math.sqrt(spread / draws)
    assert coverage(name, n, draws, seed=0) == pytest.approx(
      documented, abs=error
    ), n


def test_the_documented_coverage_is_the_one_that_is_tested():
  lines = re.findall(r'(?m)^\|.*\|$', GUARANTEES.read_text())
  cells = [[c.strip(' `') for c in line.split('|')[1:-1]] for line in lines]
  rows = {row[0].replace('`', ''): row[-4:] for row in cells if len(row) == 7}
  for name, percents in COVERAGE.items():
    assert rows[name] == [str(p) for p in percents], name
  assert rows.keys() - COVERAGE.keys() == {'function', '---'}


def test_wilsons_intervals_cover_the_proportion_95_percent_of_the_time():
  rng = np.random.default_rng(0)
  # Of one proportion it depends on whole counts: over many.
  truth = rng.uniform(0.1, 0.9, 30000)
  low, high = statistics.wilson(rng.binomial(200, truth) / 200, 200)
  assert 0.945 < np.mean((low <= truth) & (truth <= high)) < 0.955


def test_bootstraps_resample_networks_not_their_images():
  rng = np.random.default_rng(0)
  # Images of one network are nearly the same: the unit is the network.
  draws = rng.exponential(size=(400, 150, 1)) + rng.normal(size=(400, 150, 3))
  found = np.array(
    [statistics.bootstrap(average, [v], resamples=200) for v in draws]
  )
  covered = np.mean((found[:, 0] <= 1) & (1 <= found[:, 1]))
  assert 0.93 < covered < 0.97


# --- Quantiles -------------------------------------------------------------


def test_an_estimate_is_what_a_report_holds():
  found = statistics.t_mean([1.0, 2.0], unit='images')
  assert list(found._asdict()) == ['value', 'low', 'high', 'n', 'unit']
  assert found[3:] == (2, 'images')
  assert [type(v) for v in found] == [float, float, float, int, str]


@pytest.mark.parametrize('probability', [0.05, 0.3, 0.5, 0.55, 0.95])
@pytest.mark.parametrize('num', [1, 5, 6, 19, 20, 71, 72, 100, 150])
def test_ends_of_quantiles_leave_out_at_most_2_5_percent(num, probability):
  values = np.random.default_rng(0).permutation(num) + 1.0
  found = statistics.quantile(values, probability, unit='images')
  # The order statistics that are the farthest in of all that are allowed.
  counts = np.arange(num + 1)
  chance = stats.binom.pmf(counts, num, probability)
  too_low = [chance[counts < r].sum() <= 0.025 for r in range(1, num + 1)]
  too_high = [chance[counts >= s].sum() <= 0.025 for s in range(1, num + 1)]
  low, high = sum(too_low), num + 1 - sum(too_high)
  assert found.low == (low if low else -np.inf)
  assert found.high == (high if high <= num else np.inf)
  assert found.value == math.ceil(round(probability * num, 9))
  assert found[3:] == (num, 'images')


def test_a_quantile_counts_infinite_values_and_says_where_it_has_no_bound():
  of = lambda v, p=0.5: statistics.quantile(v, p, unit='images')[:4]
  assert of([3, 1, 2, 5, 4]) == (3, -np.inf, np.inf, 5)
  assert of([3, 1, 2, 5, 4, 6]) == (3, 1, 6, 6)
  assert of([np.inf, 1, np.inf, 2, 3, np.inf, 4]) == (4, 1, np.inf, 7)
  assert of(np.arange(72), 0.95) == (68, 63, 71, 72)
  assert of(np.arange(71), 0.95) == (67, 62, np.inf, 71)
  assert of(np.full(9, 2)) == (2, 2, 2, 9)
  assert np.isnan(of([])[:3]).all() and of([])[3] == 0
  assert np.isnan(of([1, 2, 3, 4, 5, np.nan, 7])[:3]).all()
  for probability in (0, 1, 50, -0.1, np.nan):
    with pytest.raises(ValueError, match='between 0 and 1'):
      of([1.0, 2.0], probability)
  with pytest.raises(ValueError, match=r'got shape \(2, 1\)'):
    of([[1.0], [2.0]])


def test_a_median_is_a_quantile():
  values = np.random.default_rng(0).exponential(size=31)
  found = statistics.median(values, unit='images')
  assert found == statistics.quantile(values, 0.5, unit='images')
  ordered = np.sort(values)
  # Of Conover's table: the 10th smallest and the 10th largest of 31.
  assert found[:3] == (ordered[15], ordered[9], ordered[21])


@pytest.mark.filterwarnings('error')
def test_ratios_of_pairs_are_medians():
  rng = np.random.default_rng(0)
  a, b = rng.exponential(size=(2, 20))
  a[0], b[1] = np.inf, 0.0
  found = statistics.paired_ratio(a, b, unit='images')
  with np.errstate(divide='ignore'):
    assert found == statistics.median(a / b, unit='images')
  b[0] = np.inf
  assert np.isnan(statistics.paired_ratio(a, b, unit='images').value)
  with pytest.raises(ValueError, match='got 20 and 19'):
    statistics.paired_ratio(a, b[1:], unit='images')


@pytest.mark.parametrize('percent', [0, 5, 25, 50, 55, 75, 95, 100])
def test_quantiles_are_values_that_so_many_do_not_exceed(percent):
  rng = np.random.default_rng(0)
  for num in [*range(1, 40), 100]:
    values = rng.normal(size=(2, num // 2 + 1, 2)).astype(np.float32)
    values[rng.uniform(size=values.shape) < 0.2] = np.inf
    size = values[0].size
    place = max(math.ceil(percent * size / 100) - 1, 0)
    want = np.sort(values.reshape(2, -1), axis=1)[:, place]
    found = statistics.sample_quantile(percent)(values)
    np.testing.assert_array_equal(found, want)
  one = statistics.sample_quantile(percent)(np.array([[3.0]]))
  assert one == 3
  values[1, 0, 1] = np.nan
  found = statistics.sample_quantile(percent)(values)
  np.testing.assert_array_equal(np.isnan(found), [False, True])


def test_percentages_lie_between_0_and_100():
  for percent in (-1, 101):
    with pytest.raises(ValueError, match=f'got {percent}'):
      statistics.sample_quantile(percent)


def test_medians_of_samples_are_over_the_last_two_axes():
  values = np.random.default_rng(0).exponential(size=(2, 3, 4))
  want = [np.median(v.ravel()) for v in values]
  np.testing.assert_allclose(statistics.sample_median(values), want)


# --- Means -----------------------------------------------------------------


def test_students_interval():
  found = statistics.t_mean(np.array([0.1, 0.2, 0.6]), unit='networks')
  want = stats.ttest_1samp([0.1, 0.2, 0.6], 0).confidence_interval()
  assert found.value == pytest.approx(0.3)
  np.testing.assert_allclose(ends(found), want)


def test_geometric_means_are_means_of_logarithms():
  values = np.exp(np.random.default_rng(0).normal(size=9))
  found = statistics.geometric_mean(values, unit='networks')
  half = stats.t.ppf(0.975, 8) * stats.sem(np.log(values))
  expected = stats.gmean(values) * np.exp([0, -half, half])
  np.testing.assert_allclose(found[:3], expected, rtol=1e-12)
  assert found[3:] == (9, 'networks')
  one = statistics.geometric_mean(values[:1], unit='networks')
  assert one.value == pytest.approx(values[0]) and np.isnan(one[1:3]).all()


@pytest.mark.parametrize('bad', [0.0, -1.0, np.inf, np.nan])
def test_geometric_means_need_positive_finite_values(bad):
  found = statistics.geometric_mean(np.array([1.0, bad, 2.0]), unit='networks')
  assert np.isnan(found[:3]).all() and found.n == 3


def test_estimates_of_functions():
  found = statistics.transform(Estimate(0.0, -1.0, 1e4, 3, 'pairs'), np.exp)
  assert found == (1.0, math.exp(-1), math.inf, 3, 'pairs')
  assert all(type(v) is float for v in found[:3])


@pytest.mark.parametrize('size', [0.3, 0.5, 1.0, -0.5])
def test_as_many_units_as_are_needed_decide_4_times_in_5(size):
  values = size + np.array([-1.0, 1.0]) * math.sqrt(0.5)  # A spread of 1.
  num = statistics.num_needed(values)
  freedom, edge = num - 1, stats.t.ppf(0.975, num - 1)
  power = stats.nct.sf(edge, freedom, abs(size) * math.sqrt(num))
  assert 0.8 <= power + 0.005 and power < 0.9
  fewer = stats.t.ppf(0.975, num - 3), num - 3
  assert stats.nct.sf(*fewer, abs(size) * math.sqrt(num - 2)) < 0.8


def test_how_many_units_are_needed_at_the_ends():
  assert statistics.num_needed(np.array([-1.0, 1.0])) is None
  assert statistics.num_needed(np.array([1.0, np.nan])) is None
  assert statistics.num_needed(np.array([2.0, 2.0])) == 2


@pytest.mark.parametrize('num', [2, 3, 4, 20, 150])
def test_hall_s_transformation_makes_the_interval_of_a_mean_students(num):
  rng = np.random.default_rng(num)
  for values in (rng.exponential(size=num), -(rng.normal(size=num) ** 4)):
    found = statistics.mean(values, unit='images')
    assert found.value == pytest.approx(values.mean())
    skewness = stats.skew(values)
    for end, sign in ((found.low, 1), (found.high, -1)):
      t = (found.value - end) / values.std(ddof=1)
      cubic = t + skewness * t**2 / 3 + skewness**2 * t**3 / 27
      reach = (cubic + skewness / (6 * num)) * math.sqrt(num)
      assert reach == pytest.approx(sign * stats.t.ppf(0.975, num - 1))
    # The long tail is on the side of the skewness.
    longer = found.high - found.value > found.value - found.low
    assert num == 2 or longer == (skewness > 0)


def test_the_mean_of_symmetric_values_has_students_interval():
  values = np.array([-3.0, -1.0, 0.0, 1.0, 3.0, 7.0, -7.0])
  found = statistics.mean(values + 5, unit='images')
  assert found == pytest.approx(statistics.t_mean(values + 5, unit='images'))


@pytest.mark.filterwarnings('error')
@pytest.mark.parametrize('of', [statistics.mean, statistics.t_mean])
def test_means_of_few_equal_or_infinite_values(of):
  of_values = lambda v: of(v, unit='images')[:4]
  assert of_values(np.full(9, 2)) == (2, 2, 2, 9)
  nothing, one, infinite, unknown = map(
    of_values, ([], [3], [1, np.inf, 2, 2], [1, np.nan])
  )
  assert np.isnan(nothing[:3]).all() and nothing[3] == 0
  assert one[0] == 3 and np.isnan(one[1:3]).all()
  assert infinite[0] == np.inf and np.isnan(infinite[1:3]).all()
  assert np.isnan(unknown[:3]).all()
  with pytest.raises(ValueError, match=r'got shape \(2, 2\)'):
    of_values(np.ones((2, 2)))


@pytest.mark.filterwarnings('error')
def test_differences_of_pairs_are_students():
  rng = np.random.default_rng(0)
  a, b = rng.normal(size=(2, 9))
  found = statistics.paired_difference(a, b, unit='images')
  want = stats.ttest_rel(a, b).confidence_interval()
  assert found.value == pytest.approx(np.mean(a - b))
  np.testing.assert_allclose(ends(found), want)
  assert found[3:] == (9, 'images')
  a[0] = b[0] = np.inf
  assert np.isnan(statistics.paired_difference(a, b, unit='images').value)
  with pytest.raises(ValueError, match='got 9 and 8'):
    statistics.paired_difference(a, b[1:], unit='images')


@pytest.mark.filterwarnings('error')
def test_welchs_interval():
  a, b = np.array([0.0, 0.1, 0.2]), np.array([1.0, 3.0, 5.0, 2.0])
  want = stats.ttest_ind(b, a, equal_var=False).confidence_interval()
  found = statistics.welch(a, b, unit='networks')
  assert found.value == pytest.approx(2.65)
  np.testing.assert_allclose(ends(found), want)
  assert found[3:] == (3, 'networks')
  assert statistics.welch(b, a, unit='').value == pytest.approx(-2.65)
  with pytest.raises(ValueError, match=r'got shape \(3, 1\)'):
    statistics.welch(a[:, None], b, unit='')
  one = statistics.welch(a[:1], b, unit='')
  assert one.value == pytest.approx(2.75) and np.isnan(ends(one)).all()
  assert statistics.welch([1, 1], [4, 4, 4], unit='')[:4] == (3, 3, 3, 2)


def test_ratios_of_sums_leave_out_pair_after_pair():
  rng = np.random.default_rng(0)
  a, b = rng.exponential(size=7), 2 + rng.normal(size=7)
  found = statistics.ratio_of_sums(a, b, unit='images')
  without = [
    np.log(np.delete(a, i).sum() / np.delete(b, i).sum()) for i in range(7)
  ]
  error = np.sqrt(6 / 7 * np.sum((without - np.mean(without)) ** 2))
  half = stats.t.ppf(0.975, 6) * error
  value = a.sum() / b.sum()
  want = value, value * np.exp(-half), value * np.exp(half)
  np.testing.assert_allclose(found[:3], want)
  assert found[3:] == (7, 'images')
  # About that of the delta method, where there are many.
  a, b = rng.exponential(size=(2, 4000))
  found = statistics.ratio_of_sums(a, b, unit='images')
  rest = a / a.mean() - b / b.mean()
  half = 1.9605 * rest.std(ddof=1) / math.sqrt(4000)
  assert math.log(found.high / found.value) == pytest.approx(half, rel=1e-3)


@pytest.mark.filterwarnings('error')
def test_ratios_of_sums_without_an_interval():
  of = lambda a, b: statistics.ratio_of_sums(a, b, unit='images')[:4]
  assert of([2, 2], [1, 1]) == pytest.approx((2, 2, 2, 2))
  for a, b, value in (
    ([], [], np.nan),
    ([3], [2], 1.5),
    ([0, 0], [1, 1], 0),
    ([1, 0], [1, 1], 0.5),
    # Without the last unit the sum is negative.
    ([1, -2, 4], [1, 1, 1], 1),
    ([1, 1], [0, 0], np.inf),
    ([0, 0], [0, 0], np.nan),
    ([-1, -1], [1, 1], -1),
  ):
    found = of(a, b)
    np.testing.assert_allclose(found[0], value)
    assert np.isnan(found[1:3]).all()
  with pytest.raises(ValueError, match='got 2 and 1'):
    of([1, 2], [1])


# --- Pairs of networks -----------------------------------------------------


def jackknife(values, same):
  """Mean over pairs and its interval, leaving out network after network."""
  pairs = {
    (i, j): v
    for (i, j), v in np.ndenumerate(values)
    if not (np.isnan(v) or (same and i == j))
  }
  parts = []
  for side in (0,) if same else (0, 1):
    num = values.shape[side]
    means = []
    for out in range(num):
      inside = lambda i, j: (
        out not in (i, j) if same else (i, j)[side] != out  # noqa: B023
      )
      means.append(np.mean([v for k, v in pairs.items() if inside(*k)]))
    square = (num - 1) / num * np.sum((means - np.mean(means)) ** 2)
    parts.append((square, num - 1))
  value = np.mean([*pairs.values()])
  total = sum(v for v, _ in parts)
  freedom = total**2 / sum(v**2 / d for v, d in parts)
  half = stats.t.ppf(0.975, freedom) * total**0.5
  return value, value - half, value + half


@pytest.mark.parametrize(
  'shape, same', [((5, 5), True), ((3, 5), False), ((6, 4), False)]
)
def test_pairs_are_resampled_by_leaving_out_networks(shape, same):
  rng = np.random.default_rng(0)
  values = rng.exponential(size=shape)
  values[1, 2] = values[2, 0] = np.nan
  before = values.copy()
  found = statistics.pair_mean(values, same=same, unit='networks')
  np.testing.assert_allclose(found[:3], jackknife(values, same))
  assert found[3:] == (min(shape), 'networks')
  np.testing.assert_array_equal(values, before)


def test_one_pair_that_is_left_is_enough():
  values = np.full((3, 2), np.nan)
  values[0, 0], values[1, 1], values[2, 1] = 1.0, 2.0, 6.0
  found = statistics.pair_mean(values, same=False, unit='networks')
  np.testing.assert_allclose(found[:3], jackknife(values, same=False))


def test_pairs_of_sums_are_their_networks():
  rng = np.random.default_rng(0)
  rows = rng.normal(size=6)
  found = statistics.pair_mean(rows[:, None] + rows, same=True, unit='')
  assert found == pytest.approx(statistics.t_mean(2 * rows, unit=''))


@pytest.mark.filterwarnings('error')
def test_few_networks_have_no_interval_over_pairs():
  of = lambda v, same: statistics.pair_mean(np.array(v), same=same, unit='')
  values = np.arange(9.0).reshape(3, 3)
  assert of(values, True).n == 3
  assert np.isfinite(ends(of(values, True))).all()
  two = of(values[:2, :2], True)
  assert two.value == 2 and np.isnan(ends(two)).all()
  assert np.isfinite(ends(of(values[:2, :2], False))).all()
  one = of(values[:1], False)
  assert one[0] == 1 and np.isnan(ends(one)).all() and one.n == 1
  nothing = of(np.full((3, 3), np.nan), True)
  assert np.isnan(nothing[:3]).all()
  # A network that is in no pair.
  values[:, 1] = np.nan
  assert np.isfinite(of(values, False).value)


# --- Proportions -----------------------------------------------------------


def test_wilson_is_scipys():
  for num in (1, 7, 10, 16, 360):
    counts = np.arange(num + 1)
    low, high = statistics.wilson(counts / num, num)
    for k in counts:
      want = stats.binomtest(int(k), num).proportion_ci(method='wilson')
      np.testing.assert_allclose((low[k], high[k]), want, rtol=1e-12)
    assert low[0] == 0 and high[-1] == 1  # Without rounding.
  # A unit may count in part; the formula, in its usual form.
  low, high = statistics.wilson([0.123], 10)
  z, n = stats.norm.ppf(0.975), 10
  half = z * np.sqrt(0.123 * 0.877 / n + z**2 / 4 / n**2)
  want = (0.123 + z**2 / 2 / n + half * np.array([-1, 1])) / (1 + z**2 / n)
  np.testing.assert_allclose((*low, *high), want)


@pytest.mark.filterwarnings('error')
def test_proportions_of_hits_are_wilsons():
  for hits in (np.arange(50) < 3, np.arange(50) < 3.0, np.arange(50) // 47):
    of = statistics.proportion(hits, unit='images')
    count = int(np.sum(hits))
    want = stats.binomtest(count, 50).proportion_ci(method='wilson')
    assert of.value == pytest.approx(count / 50)
    np.testing.assert_allclose(ends(of), want, rtol=1e-12)
    assert of[3:] == (50, 'images')
  for value in (0.0, 1.0):
    found = statistics.proportion([value] * 4, unit='')
    np.testing.assert_allclose(ends(found), statistics.wilson(value, 4))


@pytest.mark.filterwarnings('error')
def test_proportions_of_shares_are_students_on_the_logit_scale():
  shares = np.array([0.2, 0.0, 0.5, 0.1, 1.0])
  found = statistics.proportion(shares, unit='networks')
  logit = math.log(0.36 / 0.64)
  error = shares.std(ddof=1) / math.sqrt(5) / (0.36 * 0.64)
  half = stats.t.ppf(0.975, 4) * error
  want = [1 / (1 + math.exp(-logit - s * half)) for s in (0, -1, 1)]
  np.testing.assert_allclose(found[:3], want)
  assert found[3:] == (5, 'networks')
  one = statistics.proportion([0.3], unit='')
  assert one.value == 0.3 and np.isnan(ends(one)).all()
  for values in ([], [0.2, np.nan], [np.nan, np.nan]):
    assert np.isnan(statistics.proportion(values, unit='')[:3]).all()
  for values in ([0.5, 1.01], [-0.01, 0.5]):
    with pytest.raises(ValueError, match=f'got {values[0]} to {values[1]}'):
      statistics.proportion(values, unit='')


# --- Rank correlations -----------------------------------------------------


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
  # What is left by rounding is more where there are many.
  z = np.random.default_rng(0).permutation(20_000).astype(float)
  assert np.isnan(statistics.partial_rank(z**3, z[::-1], z))


def spearman_interval(x, y):
  """The larger of two standard errors on Fisher's scale, pair after pair."""
  num = len(x)
  of = lambda a, b: stats.spearmanr(a, b).statistic
  value = of(x, y)
  without = [of(np.delete(x, i), np.delete(y, i)) for i in range(num)]
  without = np.arctanh(without)
  jackknife = np.sqrt((num - 1) / num * np.sum((without - without.mean()) ** 2))
  closed = math.sqrt((1 + value**2 / 2) / (num - 3))
  half = stats.t.ppf(0.975, num - 2) * max(jackknife, closed)
  center = math.atanh(value)
  return (value, *np.tanh([center - half, center + half])), jackknife > closed


@pytest.mark.filterwarnings('error')
def test_rank_correlation_is_spearmans(monkeypatch):
  x, y, _ = columns()
  want, jackknife_is_larger = spearman_interval(x, y)
  found = statistics.rank_correlation(x, y, unit='networks')
  np.testing.assert_allclose(found[:3], want)
  assert found[3:] == (40, 'networks') and not jackknife_is_larger
  # Scatter that grows with |x|: the closed form would be too narrow.
  rng = np.random.default_rng(1)
  x = rng.normal(size=30)
  y = x + 2 * np.abs(x) * rng.normal(size=30)
  want, jackknife_is_larger = spearman_interval(x, y)
  assert jackknife_is_larger
  found = statistics.rank_correlation(x, y, unit='networks')
  np.testing.assert_allclose(found[:3], want)
  # Infinite values rank as such.
  again = statistics.rank_correlation(
    x, np.where(y == y.max(), np.inf, y), unit='networks'
  )
  assert again == found
  # With ties, and in several parts, as where there are many.
  x, y = np.round(2 * x), np.round(y)
  want, jackknife_is_larger = spearman_interval(x, y)
  assert jackknife_is_larger and len(np.unique(x)) < 15
  sizes, cosine = [], statistics._cosine
  counted = lambda a, b: sizes.append(a.shape) or cosine(a, b)
  monkeypatch.setattr(statistics, '_cosine', counted)
  for batch, shapes in ((30 * 13, [(13, 30), (13, 30), (4, 30)]), (1, None)):
    monkeypatch.setattr(statistics, '_BATCH', batch)
    sizes.clear()
    found = statistics.rank_correlation(x, y, unit='networks')
    np.testing.assert_allclose(found[:3], want)
    assert sizes == [(30,), *(shapes or [(1, 30)] * 30)]


@pytest.mark.filterwarnings('error')
def test_perfect_and_missing_rank_correlations():
  x = columns()[0]
  of = lambda a, b: statistics.rank_correlation(a, b, unit='')[:3]
  for num, low in ((4, -0.98), (8, 0.86)):
    same = np.arange(num)
    # Half a step of the statistic below 1.
    limit = 1 - 6 / (num * (num**2 - 1))
    without = 1 - 6 / ((num - 1) * ((num - 1) ** 2 - 1))
    assert without < limit
    closed = math.sqrt((1 + limit**2 / 2) / (num - 3))
    half = stats.t.ppf(0.975, num - 2) * closed
    end = math.tanh(math.atanh(limit) - half)
    assert of(same, same**3) == pytest.approx((1, end, 1))
    assert of(same, -same) == pytest.approx((-1, -1, -end))
    assert end == pytest.approx(low, abs=0.02)
  assert np.isnan(of(x, 0 * x)).all()
  few = of([1, 2, 3], [1, 3, 2])
  assert few[0] == pytest.approx(0.5) and np.isnan(few[1:]).all()
  for values in ([], [1.0], [1, 2, 3, np.nan, 4]):
    assert np.isnan(of(values, values)).all()
  # Constant without the last unit.
  one = of([0, 0, 0, 0, 1], [1, 2, 3, 4, 5])
  assert one[0] == pytest.approx(0.70711, abs=1e-5)
  assert np.isnan(one[1:]).all()
  with pytest.raises(ValueError, match='got 2 and 3'):
    of([1, 2], [1, 2, 3])


# --- Bootstrap -------------------------------------------------------------


def resampled(statistic, samples, levels=1, num=6000):
  """Statistics of resamples, one by one, and whose rows are in them."""
  rng, found, drawn = np.random.default_rng(99), [], []
  for _ in range(num):
    rows = [rng.integers(0, len(s), len(s)) for s in samples]
    taken = [s[r] for s, r in zip(samples, rows, strict=True)]
    if levels == 2:
      taken = [np.array([rng.choice(v, len(v)) for v in s]) for s in taken]
    found.append(statistic(*taken))
    drawn.append(rows)
  return np.array(found), drawn


@pytest.mark.parametrize('levels', [1, 2])
def test_bootstraps_are_widened_percentiles_over_resampled_units(levels):
  rng = np.random.default_rng(0)
  # Skewed: other kinds of bootstrap lie elsewhere.
  sample = rng.exponential(size=(7, 3)) ** 2
  of = lambda v: np.log(average(v))
  found, _ = resampled(of, [sample], levels)
  value = of(sample)
  wider = math.sqrt(7 / 6) * stats.t.ppf(0.975, 6) / stats.norm.ppf(0.975)
  want = value + wider * (np.percentile(found, [2.5, 97.5]) - value)
  got = statistics.bootstrap(
    of, [sample], levels=levels, resamples=8000, seed=3
  )
  np.testing.assert_allclose(got - value, want - value, rtol=0.04)
  assert want[1] - value < 0.8 * (value - want[0])
  entry = statistics.estimate(of, sample, levels=levels, unit='networks')
  assert entry.value == value
  assert ends(entry) == statistics.bootstrap(of, [sample], levels=levels)
  assert entry[3:] == (7, 'networks')


def test_two_levels_add_the_variance_within_units():
  """guarantees.md: at 4 networks 1.6 to 1.7 times as wide, at many 1.4."""
  rng = np.random.default_rng(0)
  for num, wider in ((4, 1.65), (150, 1.4)):
    ratios = []
    for _ in range(10):
      sample = [rng.normal(size=(num, 30))]
      one, two = (
        np.ptp(statistics.bootstrap(average, sample, levels=v)) for v in (1, 2)
      )
      ratios.append(two / one)
    assert np.median(ratios) == pytest.approx(wider, rel=0.12)
  # Nothing is within units whose values are equal.
  sample = [np.repeat(rng.normal(size=(9, 1)), 3, axis=1)]
  one, two = (
    np.ptp(statistics.bootstrap(average, sample, levels=v)) for v in (1, 2)
  )
  assert two == pytest.approx(one, rel=0.1)


def test_freedom_is_satterthwaites_over_samples():
  rng = np.random.default_rng(0)
  sides = lambda a, b: average(a) - average(b)
  for scale in (0.05, 1.0, 20.0):
    a, b = rng.normal(size=(4, 1)), scale * rng.normal(size=(9, 2))
    parts = np.array([np.var(v.mean(1), ddof=1) / len(v) for v in (a, b)])
    freedom = parts.sum() ** 2 / (parts[0] ** 2 / 3 + parts[1] ** 2 / 8)
    # Resamples of four are no normal ones: what they come to by themselves.
    drawn, _ = resampled(sides, [a, b])
    value = sides(a, b)
    shrunk = np.sum(parts * [3 / 4, 8 / 9]) / parts.sum()
    wider = stats.t.ppf(0.975, freedom) / stats.norm.ppf(0.975) / shrunk**0.5
    want = wider * (np.percentile(drawn, [2.5, 97.5]) - value)
    got = statistics.bootstrap(sides, [a, b], resamples=8000)
    np.testing.assert_allclose(got - value, want, rtol=0.06)


def test_parts_of_the_variance_are_those_of_the_samples():
  rng = np.random.default_rng(0)
  # The last one hardly varies.
  shapes = (5, 1.0), (60, 3.0), (400, 1e-6)
  sizes = np.array([m for m, _ in shapes])
  samples = [scale * rng.normal(size=(m, 2)) for m, scale in shapes]
  total = lambda *v: sum(map(average, v))
  want = [np.var(s.mean(1)) / len(s) for s in samples]
  found, rows = statistics._resample(total, samples, 1, 4000, rng)
  assert [r.shape for r in rows] == [(4000, m) for m in sizes]
  # A thousand resamples of as many units fit into memory.
  assert {r.dtype for r in rows} == {np.dtype('int32')}
  got = statistics._variance_parts(found, rows, sizes)
  np.testing.assert_allclose(got[:2], want[:2], rtol=0.1)
  # Monte Carlo errors alone would be 0.1 of the variance.
  assert got[2] < 0.03 * sum(want)
  # What is infinite does not count.
  found[:1000] = np.inf
  got = statistics._variance_parts(found, rows, sizes)
  np.testing.assert_allclose(got[:2], want[:2], rtol=0.12)
  # A sample that causes none is no reason to forget the others.
  even = np.tile(np.arange(4), (4000, 1))
  got = statistics._variance_parts(found, [even, rows[1]], np.array([4, 60]))
  assert got[0] == 0 and got[1] == pytest.approx(want[1], rel=0.12)
  # Unit by unit.
  kept = found[1000:1200]
  got = statistics._variance_parts(kept, [r[1000:1200] for r in rows], sizes)
  for part, drawn, size in zip(got, rows, sizes, strict=True):
    counts = np.sum(drawn[1000:1200, :, None] == np.arange(size), axis=1)
    covariance = [np.cov(kept, c, ddof=0)[0, 1] for c in counts.T]
    noise = (size - 1) * kept.var() / 200
    assert part == pytest.approx(max(np.sum(np.square(covariance)) - noise, 0))


def test_bootstraps_have_a_thousand_resamples_of_a_seed(monkeypatch):
  rng = np.random.default_rng(0)
  samples = [rng.normal(size=(20, 1))]
  of = lambda **options: statistics.bootstrap(average, samples, **options)
  assert of() == of(resamples=1000, seed=0, levels=1) == of()
  found = {of(seed=1), of(), of(resamples=960), of(resamples=1040)}
  assert len(found) == 4
  # Many units: resampled in several parts.
  many = []
  counted = lambda v: many.append(v.shape) or average(v)
  monkeypatch.setattr(statistics, '_BATCH', 20 * 300)
  statistics.bootstrap(counted, samples)
  assert many == [(20, 1), *[(300, 20, 1)] * 3, (100, 20, 1)]
  monkeypatch.setattr(statistics, '_BATCH', 1)
  many.clear()
  statistics.bootstrap(counted, samples, resamples=3)
  assert many == [(20, 1), *[(1, 20, 1)] * 3]
  # Lists are samples too.
  found = statistics.bootstrap(average, [[[1.0], [3.0]]], resamples=1)
  assert np.isfinite(found).all()


def test_one_unit_has_no_interval():
  one, two = np.ones((1, 5)), np.array([[1.0, 2.0], [3.0, 5.0]])
  first = lambda a, b: average(a)
  assert np.isnan(statistics.bootstrap(first, [two, one])).all()
  assert np.isnan(statistics.bootstrap(first, [one, two])).all()
  found = statistics.estimate(first, two, one, unit='networks')
  assert found.value == 2.75 and found.n == 1
  found = statistics.estimate(average, two, unit='networks')
  # Both ends are resamples of one unit, sqrt(2) t_1 / z times as far.
  half = 1.25 * math.sqrt(2) * stats.t.ppf(0.975, 1) / stats.norm.ppf(0.975)
  np.testing.assert_allclose(found[:3], (2.75, 2.75 - half, 2.75 + half))


def test_samples_are_refused_with_a_sentence():
  column = np.arange(5.0)
  with pytest.raises(ValueError, match=r'column\[:, None\]'):
    statistics.estimate(average, column, unit='')
  with pytest.raises(ValueError, match='got 3'):
    statistics.estimate(average, column[:, None], levels=3, unit='')


@pytest.mark.filterwarnings('error')
def test_infinite_and_equal_values_are_meant():
  """guarantees.md: an infinite end, where failed searches reach into it."""
  values = np.array([[0.0], [1.0], [np.inf], [np.inf]])
  of = lambda q: statistics.sample_quantile(q)(values)
  assert (of(5), of(50), of(75)) == (0, 1, np.inf)
  median = statistics.sample_quantile(50)
  found = statistics.estimate(median, np.tile(values, (5, 1)), unit='')
  assert found[:3] == (1, 1, np.inf)
  # About an infinite value nothing can be widened.
  sample = np.repeat([[1.0], [2.0], [np.inf]], [1, 12, 18], axis=0)
  found = statistics.estimate(median, sample, unit='')
  assert found[:3] == (np.inf, 2, np.inf)
  assert statistics.estimate(median, np.full((9, 1), 2.0), unit='')[:3] == (
    2,
    2,
    2,
  )
  # Neither of two medians was found: they have no ratio.
  undefined = statistics.estimate(
    lambda a, b: median(a) / median(b), sample, sample[::-1], unit=''
  )
  assert np.isnan(undefined[:3]).all()


@pytest.mark.filterwarnings('error')
def test_an_undefined_resample_has_no_interval():
  sample = np.array([[0.0], [0.0], [1.0], [2.0]])

  def inverse(v):
    total = v.sum((-2, -1))
    return np.where(total == 0, np.nan, 1 / np.where(total == 0, 1, total))

  found = statistics.estimate(inverse, sample, unit='')
  assert found.value == pytest.approx(1 / 3) and np.isnan(ends(found)).all()
  # And an undefined value, of resamples that are not.
  odd = lambda v: np.where(v.sum((-2, -1)) == 3, np.nan, 0 * v.sum((-2, -1)))
  assert np.isnan(statistics.bootstrap(odd, [sample])).all()


@pytest.mark.filterwarnings('error')
def test_a_sample_that_never_varies_leaves_the_freedom_of_the_fewest():
  constant = [np.ones((m, 1)) for m in (9, 4, 6)]
  parts = statistics._variance_parts(
    np.zeros(10),
    [np.zeros((10, m), int) for m in (9, 4, 6)],
    np.array([9, 4, 6]),
  )
  np.testing.assert_array_equal(parts, [0, 1, 0])
  total = lambda *v: sum(map(average, v))
  assert statistics.bootstrap(total, constant) == (3, 3)
  # Never finite: likewise.
  infinite = statistics._variance_parts(
    np.full(10, np.inf),
    [np.zeros((10, m), int) for m in (4, 9)],
    np.array([4, 9]),
  )
  np.testing.assert_array_equal(infinite, [1, 0])


# --- Comparisons -----------------------------------------------------------

A = Estimate(2.0, 1.0, 3.5, 5, 'networks')
B = Estimate(1.0, 0.5, 2.0, 4, 'images')


def test_differences_add_distances_as_squares():
  found = statistics.difference(A, B)
  want = 1.0, 1 - math.hypot(1, 1), 1 + math.hypot(1.5, 0.5)
  assert found == pytest.approx((*want, 4, 'networks'))
  back = statistics.difference(B, A)
  assert back == pytest.approx((-1, -want[2], -want[1], 4, 'images'))
  # Newcombe (1998), method 10, his example (a): 56/70 - 48/80.
  hits = [np.arange(n) < k for k, n in ((56, 70), (48, 80))]
  found = statistics.difference(
    *(statistics.proportion(v, unit='patients') for v in hits)
  )
  assert found[:3] == pytest.approx((0.2, 0.0524, 0.3339), abs=5e-5)


def test_differences_of_normal_means_are_welchs_of_many():
  rng = np.random.default_rng(0)
  a, b = rng.normal(size=3000), 3 * rng.normal(size=2000)
  of = lambda v: statistics.t_mean(v, unit='networks')
  want = statistics.welch(a, b, unit='networks')
  got = statistics.difference(of(b), of(a))
  np.testing.assert_allclose(got[:3], want[:3], rtol=1e-3)


def test_ratios_are_differences_of_logarithms():
  found = statistics.ratio(A, B)
  low = math.exp(math.log(2) - math.hypot(math.log(2), math.log(2)))
  high = math.exp(math.log(2) + math.hypot(math.log(1.75), math.log(2)))
  assert found == pytest.approx((2, low, high, 4, 'networks'))
  back = statistics.ratio(B, A)
  assert back == pytest.approx((0.5, 1 / high, 1 / low, 4, 'images'))


@pytest.mark.filterwarnings('error')
def test_infinite_and_missing_ends_of_comparisons():
  inf, nan = math.inf, math.nan
  far, none = A._replace(value=inf, high=inf), A._replace(low=nan, high=nan)
  open_ended = A._replace(high=inf)
  three = lambda e: e[:3]
  assert three(statistics.difference(far, B)) == (inf, -1, inf)
  assert three(statistics.difference(B, far)) == (-inf, -inf, 1)
  assert three(statistics.difference(open_ended, B)) == pytest.approx(
    (1, 1 - math.sqrt(2), inf)
  )
  assert np.isnan(three(statistics.difference(far, far))).all()
  found = three(statistics.difference(none, B))
  assert found[0] == 1 and np.isnan(found[1:]).all()
  # Positive numbers only; an end below 0 counts as 0.
  assert three(statistics.ratio(far, B)) == (inf, 0.5, inf)
  assert three(statistics.ratio(B, far)) == (0, 0, 2)
  below = B._replace(low=-1.0)
  assert three(statistics.ratio(A, below))[2] == inf
  assert three(statistics.ratio(below, A))[1] == 0
  nothing = Estimate(0.0, 0.0, 0.5, 9, 'images')
  assert three(statistics.ratio(nothing, B)) == pytest.approx((0, 0, 1))
  for a, b in ((A._replace(value=-1.0), B), (nothing, nothing), (far, far)):
    assert np.isnan(three(statistics.ratio(a, b))).all()
  assert statistics.difference(far, far._replace(n=3))[3:] == (3, 'networks')
  found = three(statistics.ratio(none, B))
  assert found[0] == pytest.approx(2) and np.isnan(found[1:]).all()


def test_within_is_an_equivalence():
  of = lambda low, high: statistics.within(
    Estimate(0.0, low, high, 9, 'images'), -0.5, 0.25
  )
  assert of(-0.6, -0.4) is True
  assert of(-0.75, -0.25) is True
  for outside in ((-0.2, 0.3), (-2.0, -0.8), (-0.249, -0.2), (-0.8, -0.751)):
    assert of(*outside) is False
  for open_ends in (
    (-0.8, -0.4),
    (-0.6, -0.2),
    (-0.9, 0.0),
    (-0.25, 0.0),
    (-1.0, -0.75),
    (-math.inf, math.inf),
    (math.nan, math.nan),
  ):
    assert of(*open_ends) is None


def test_above_and_below_a_number():
  above, below = statistics.above, statistics.below
  for target, is_above in (
    (0.9, True),
    (1.0, None),
    (2.0, None),
    (3.5, None),
    (3.6, False),
    (math.nan, None),
  ):
    assert above(A, target) is is_above
    assert below(A, target) is (None if is_above is None else not is_above)
  none = A._replace(low=math.nan, high=math.nan)
  assert above(none, 0) is None and below(none, 0) is None


def test_above_and_below_an_estimate_are_of_the_difference():
  above, below = statistics.above, statistics.below
  # The intervals overlap, that of the difference lies above 0.
  a, b = (Estimate(v, v - 1, v + 1, 9, 'images') for v in (1.6, 0.0))
  assert a.low < b.high
  assert above(a, b) is True and below(a, b) is False
  assert above(b, a) is False and below(b, a) is True
  c = Estimate(1.4, 0.4, 2.4, 9, 'images')
  assert above(c, b) is None and below(c, b) is None


# --- Slopes, excess --------------------------------------------------------


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
