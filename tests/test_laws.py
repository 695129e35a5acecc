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
KINDS = strategies.sampled_from(['<f4', '<f8', '<i4', '<i8', '?', '<U5'])


@SETTINGS
@hypothesis.given(strategies.lists(strategies.booleans(), min_size=1))
def test_a_proportion_lies_in_its_interval_and_mirrors(hits):
  hits = np.array(hits)
  entry = statistics.proportion(hits)
  low, high = entry['interval']
  assert 0 <= low <= entry['value'] <= high <= 1
  assert low < high
  mirror = statistics.proportion(~hits)
  np.testing.assert_allclose(
    mirror['interval'], [1 - high, 1 - low], atol=1e-12
  )


@SETTINGS
@hypothesis.given(COLUMNS, strategies.floats(0.5, 4), NUMBERS)
def test_intervals_move_with_their_values(values, scale, shift):
  tolerance = dict(rtol=1e-9, atol=1e-6)
  for of in (statistics.mean, statistics.median, statistics.t_mean):
    entry, moved = of(values), of(scale * values + shift)
    low, high = entry['interval']
    assert low <= entry['value'] + 1e-9 and entry['value'] <= high + 1e-9
    wanted = scale * np.array([entry['value'], low, high]) + shift
    got = [moved['value'], *moved['interval']]
    np.testing.assert_allclose(got, wanted, **tolerance)


@SETTINGS
@hypothesis.given(COLUMNS, strategies.integers(1, 100))
def test_quantiles_are_values_and_rise(values, percent):
  found = statistics.quantile(percent)(values[:, None])
  assert found in values
  assert np.mean(values <= found) >= percent / 100 - 1e-12
  assert np.mean(values < found) < percent / 100 + 1e-12


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
