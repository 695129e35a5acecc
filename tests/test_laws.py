"""What holds for all inputs: intervals, tables, splits and alignments."""

import pathlib
import tempfile

import hypothesis
from hypothesis import strategies
from hypothesis.extra import numpy as arrays
import jax
import numpy as np

from dmm_jax import manifold
from dmm_jax import normals
from dmm_jax import records
from dmm_jax import statistics

SETTINGS = hypothesis.settings(deadline=None, derandomize=True, max_examples=50)
NUMBERS = strategies.floats(-1e3, 1e3).map(lambda v: round(v, 3))
COLUMNS = arrays.arrays(float, strategies.integers(3, 30), elements=NUMBERS)
# Of positive numbers.
ESTIMATES = strategies.tuples(
  *[strategies.floats(0.1, 100), *[strategies.floats(1.01, 3)] * 2]
).map(
  lambda v: statistics.Estimate(v[0], v[0] / v[1], v[0] * v[2], 9, 'images')
)
KINDS = strategies.sampled_from(['<f4', '<f8', '<i4', '<i8', '?', '<U5'])


@SETTINGS
@hypothesis.given(strategies.lists(strategies.booleans(), min_size=1))
def test_a_proportion_lies_in_its_interval_and_mirrors(hits):
  hits = np.array(hits)
  found = statistics.proportion(hits, unit='images')
  assert 0 <= found.low <= found.value <= found.high <= 1
  assert found.low < found.high
  mirror = statistics.proportion(~hits, unit='images')
  np.testing.assert_allclose(
    mirror[:3], [1 - found.value, 1 - found.high, 1 - found.low], atol=1e-12
  )


@SETTINGS
@hypothesis.given(
  arrays.arrays(
    float,
    strategies.integers(2, 30),
    elements=strategies.floats(0, 1).map(lambda v: round(v, 3)),
  )
)
def test_shares_lie_in_their_interval_and_mirror(shares):
  found = statistics.proportion(shares, unit='networks')
  assert 0 <= found.low <= found.value + 1e-9
  assert found.value - 1e-9 <= found.high <= 1
  mirror = statistics.proportion(1 - shares, unit='networks')
  np.testing.assert_allclose(
    mirror[:3], [1 - found.value, 1 - found.high, 1 - found.low], atol=1e-6
  )


@SETTINGS
@hypothesis.given(COLUMNS, strategies.floats(0.5, 4), NUMBERS)
def test_intervals_move_with_their_values(values, scale, shift):
  sample = lambda v, unit: statistics.estimate(
    statistics.sample_median, v[:, None], unit=unit
  )
  for of in (statistics.mean, statistics.median, statistics.t_mean, sample):
    found = of(values, unit='images')
    moved = of(scale * values + shift, unit='images')
    wanted = scale * np.array(found[:3]) + shift
    np.testing.assert_allclose(moved[:3], wanted, rtol=1e-6, atol=1e-5)
    turned = of(-values, unit='images')
    if of not in (statistics.median, sample):
      mirrored = -found.value, -found.high, -found.low
      np.testing.assert_allclose(turned[:3], mirrored, rtol=1e-9, atol=1e-9)


@SETTINGS
@hypothesis.given(COLUMNS)
def test_means_lie_in_their_intervals(values):
  for of in (statistics.mean, statistics.t_mean, statistics.median):
    found = of(values, unit='images')
    assert found.low <= found.value + 1e-9
    assert found.value - 1e-9 <= found.high
    assert found[3:] == (len(values), 'images')


@SETTINGS
@hypothesis.given(COLUMNS, strategies.integers(1, 100))
def test_quantiles_are_values_and_rise(values, percent):
  found = statistics.sample_quantile(percent)(values[:, None])
  assert found in values
  assert np.mean(values <= found) >= percent / 100 - 1e-12
  assert np.mean(values < found) < percent / 100 + 1e-12


@SETTINGS
@hypothesis.given(COLUMNS, strategies.integers(1, 99))
def test_quantiles_of_columns_are_in_order_and_bracket(values, percent):
  found = statistics.quantile(values, percent / 100, unit='images')
  assert found.value == statistics.sample_quantile(percent)(values[:, None])
  assert found.low <= found.value <= found.high
  assert {found.low, found.high} <= {*values, -np.inf, np.inf}
  # A rising function of the values moves all three.
  rising = statistics.quantile(np.arctan(values), percent / 100, unit='')
  ends = np.array(found[1:3])
  want = np.where(np.isfinite(ends), np.arctan(ends), ends)
  np.testing.assert_array_equal(
    rising[:3], [np.arctan(found.value), *want.tolist()]
  )


@SETTINGS
@hypothesis.given(ESTIMATES, ESTIMATES)
def test_differences_and_ratios_turn_around(a, b):
  found, back = statistics.difference(a, b), statistics.difference(b, a)
  want = -back.value, -back.high, -back.low
  np.testing.assert_allclose(found[:3], want, atol=1e-9)
  # Narrower than interval arithmetic, wider than either.
  assert a.low - b.high - 1e-9 <= found.low <= found.value
  assert found.value <= found.high <= a.high - b.low + 1e-9
  width = found.high - found.low
  assert width >= max(a.high - a.low, b.high - b.low) - 1e-9
  found, back = statistics.ratio(a, b), statistics.ratio(b, a)
  want = 1 / back.value, 1 / back.high, 1 / back.low
  np.testing.assert_allclose(found[:3], want, rtol=1e-9)


@SETTINGS
@hypothesis.given(ESTIMATES, ESTIMATES, NUMBERS)
def test_comparisons_agree_with_each_other(a, b, number):
  above, below = statistics.above, statistics.below
  assert above(a, b) is below(b, a)
  assert not (above(a, b) and below(a, b))
  # Apart, they are compared as apart.
  assert a.low <= b.high or above(a, b)
  assert (above(a, number), below(a, number)) in (
    (True, False),
    (False, True),
    (None, None),
  )
  if statistics.within(a, number, 1.0):
    assert below(a, number + 1.01) and above(a, number - 1.01)


@SETTINGS
@hypothesis.given(COLUMNS, strategies.floats(0.5, 4))
def test_ratios_of_sums_scale_and_turn_around(values, scale):
  a, b = np.abs(values) + 1, np.abs(values[::-1]) + 2
  found = statistics.ratio_of_sums(a, b, unit='images')
  moved = statistics.ratio_of_sums(scale * a, b, unit='images')
  np.testing.assert_allclose(moved[:3], scale * np.array(found[:3]), rtol=1e-9)
  back = statistics.ratio_of_sums(b, a, unit='images')
  want = 1 / back.value, 1 / back.high, 1 / back.low
  np.testing.assert_allclose(found[:3], want, rtol=1e-9)


@SETTINGS
@hypothesis.given(COLUMNS, strategies.integers(0, 99))
def test_rank_correlations_know_ranks_only(values, seed):
  other = values + np.random.default_rng(seed).normal(size=len(values)) * 300
  found = statistics.rank_correlation(values, other, unit='images')
  rising = statistics.rank_correlation(
    np.exp(values / 300), 3 * other - 1, unit='images'
  )
  np.testing.assert_allclose(found[:3], rising[:3], atol=1e-9)
  falling = statistics.rank_correlation(values, -other, unit='images')
  want = -falling.value, -falling.high, -falling.low
  np.testing.assert_allclose(found[:3], want, atol=1e-9)
  if np.isfinite(found.low):
    assert -1 <= found.low <= found.value <= found.high <= 1


@SETTINGS
@hypothesis.given(strategies.data(), strategies.integers(0, 5))
def test_tables_come_back_as_they_were(data, num):
  names = data.draw(
    strategies.lists(
      strategies.text('abc_xyz', min_size=1), min_size=1, unique=True
    )
  )
  table = {
    name: data.draw(
      arrays.arrays(
        data.draw(KINDS), (num, *data.draw(arrays.array_shapes(max_dims=2)))
      )
    )
    for name in names
  }
  with tempfile.TemporaryDirectory() as directory:
    path, again = (pathlib.Path(directory) / f'{v}.npz' for v in 'ab')
    records.save_columns(path, table)
    found = records.load_columns(path)
    records.save_columns(again, found)
    assert path.read_bytes() == again.read_bytes()
  assert list(found) == list(table)
  for name, column in table.items():
    assert found[name].dtype == column.dtype
    np.testing.assert_array_equal(found[name], column)


SIZE, RANK = 6, 2
SPLIT = jax.jit(manifold.split)
ALIGNMENT = jax.jit(normals.alignment, static_argnames=('norm',))
VECTORS = arrays.arrays(
  np.float32, SIZE, elements=strategies.integers(-9, 9).map(float)
)


@SETTINGS
@hypothesis.given(VECTORS, strategies.integers(0, 99))
def test_parts_on_and_off_a_subspace_are_a_right_angle(vector, seed):
  rows = np.random.default_rng(seed).normal(size=(SIZE, RANK))
  basis = np.linalg.qr(rows)[0].T.astype(np.float32)
  on, off = SPLIT(vector, basis)
  np.testing.assert_allclose(on + off, vector, atol=1e-5)
  np.testing.assert_allclose(basis @ off, 0, atol=1e-5)
  square = lambda v: float(np.sum(np.square(v, dtype=float)))
  np.testing.assert_allclose(
    square(on) + square(off), square(vector), rtol=1e-5, atol=1e-6
  )
  # What is on it stays: once more changes nothing.
  np.testing.assert_allclose(SPLIT(on, basis)[0], on, atol=1e-5)


@SETTINGS
@hypothesis.given(
  VECTORS, VECTORS, strategies.sampled_from([1, 2, np.inf]), NUMBERS
)
def test_alignments_are_at_most_one_whatever_the_scale(step, normal, p, x):
  hypothesis.assume(np.any(step) and np.any(normal))
  point = np.full(SIZE, x, np.float32)
  found = ALIGNMENT(step, normal, point, norm=p)
  assert -1 - 1e-5 <= found <= 1 + 1e-5
  scaled = ALIGNMENT(8 * step, normal / 4, point, norm=p)
  np.testing.assert_allclose(scaled, found, rtol=1e-5, atol=1e-6)
  turned = ALIGNMENT(-step, normal, point, norm=p)
  np.testing.assert_allclose(turned, -found, rtol=1e-5, atol=1e-6)
