"""Checks of arguments: what passes, and a sentence for what does not."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dmm_jax import boundary
from dmm_jax.boundary import inputs

EPS = np.finfo(np.float32).eps


def call(name, *args):
  return getattr(inputs, name)(*args)


@pytest.mark.parametrize(
  'error, text, name, args',
  [
    (
      ValueError,
      'norm must be a number p >= 1 or inf',
      'check_options',
      (0.5, 'a', 'ab', 9),
    ),
    (
      ValueError,
      r"method must be one of \('a', 'b'\), got 'c'",
      'check_options',
      (2, 'c', ('a', 'b'), 9),
    ),
    (
      ValueError,
      'max_gradients must be an integer, 1 or more, got 0',
      'check_options',
      (2, 'a', ('a',), 0),
    ),
    (
      ValueError,
      'rows must be an integer, 5 or more',
      'check_count',
      ('rows', 4, 5),
    ),
    (TypeError, 'rows must be an integer, 1 or', 'check_count', ('rows', 2.0)),
    (TypeError, 'got True', 'check_count', ('rows', True)),
    (TypeError, 'seed must be an integer, got True', 'check_seed', (True,)),
    (TypeError, 'seed must be an integer, got 0.5', 'check_seed', (0.5,)),
    (TypeError, 'seed must be', 'check_seed', (jnp.zeros(2, int),)),
    (TypeError, 'seed must be', 'check_seed', (jnp.float32(3),)),
    (
      TypeError,
      'floating point, got int64',
      'check_inputs',
      (np.ones(3, int),),
    ),
    (ValueError, 'got a single number', 'check_inputs', (np.float32(3),)),
    (
      TypeError,
      r'one integer, got float32 of shape \(\)',
      'check_label',
      (0.5, 3),
    ),
    (
      TypeError,
      r'int32 of shape \(2,\)',
      'check_label',
      (jnp.zeros(2, int), 3),
    ),
    (ValueError, r'lie in \[0, 3\), got 3', 'check_label', (3, 3)),
    (ValueError, r'lie in \[0, 3\), got -1', 'check_label', (np.int64(-1), 3)),
    (TypeError, 'argmax', 'check_labels', (np.eye(3, dtype=int), 3, 3)),
    (
      TypeError,
      r'integers \[2\], got float64',
      'check_labels',
      (np.ones(2), 2, 3),
    ),
    (
      ValueError,
      r'4 inputs need as many labels \[4\], got shape \(3,\)',
      'check_labels',
      (np.zeros(3, int), 4, 3),
    ),
    (
      ValueError,
      r'as many labels \[2\], got shape \(2, 1\)',
      'check_labels',
      (np.zeros((2, 1), int), 2, 3),
    ),
    (
      ValueError,
      'labels from -1 to 2',
      'check_labels',
      (np.array([2, -1]), 2, 3),
    ),
    (
      ValueError,
      'labels from 0 to 3',
      'check_labels',
      (np.array([3, 0]), 2, 3),
    ),
    (ValueError, r'None or a pair', 'pair', (1.0,)),
    (ValueError, r'None or a pair', 'pair', ((1.0, 2.0, 3.0),)),
    (ValueError, r'None or a pair', 'pair', ('ab',)),
    (ValueError, r'None or a pair', 'pair', ({'low': 0, 'high': 1},)),
    (ValueError, "got 'a' for low", 'ends', (('a', 1),)),
    (ValueError, r'got \[1, \[2\]\] for high', 'ends', ((0, [1, [2]]), (2,))),
    (
      ValueError,
      'must not be NaN, got 2 in high',
      'ends',
      ((0, [np.nan, 1, np.nan]), (3,)),
    ),
    (
      ValueError,
      r'shape \(3,\) or \(4, 3\), got shape \(4,\) for low',
      'ends',
      ((np.zeros(4), 1), (3,), (4, 3)),
    ),
    (ValueError, 'low > high in 2 entries', 'ends', (([1, 0, 2], 0.5), (3,))),
    (
      ValueError,
      r'2 of 4 inputs lie outside bounds \(the first is number 1\)',
      'check_bounds',
      (np.array([[0, 1], [2, 0], [1, 1], [0, -1]], np.float32), (0, 1)),
    ),
    (
      ValueError,
      r'shape \(2,\), got shape \(3,\) for high',
      'check_box',
      ((0.0, jnp.ones(3)), jnp.zeros(2)),
    ),
    (ValueError, 'low > high', 'check_box', ((1.0, 0.0), jnp.zeros(2))),
    (ValueError, 'None or a pair', 'check_box', (1.0, jnp.zeros(2))),
    (TypeError, 'function or None, got 3', 'check_project', (3, jnp.zeros(2))),
    (
      ValueError,
      r'an array \(2,\) to one of that shape, got \(1,\)',
      'check_project',
      (lambda v: v[:1], jnp.zeros(2)),
    ),
    (
      ValueError,
      r'of that shape, got None',
      'check_project',
      (lambda v: (v, v), jnp.zeros(2)),
    ),
    (
      ValueError,
      'arguments of project, which is None',
      'check_rows',
      (None, (np.ones(3),), np.ones((3, 2))),
    ),
    (
      ValueError,
      '3 inputs need as many rows, got 2 rows',
      'check_rows',
      (abs, (np.ones(3), np.ones(2)), np.ones((3, 2))),
    ),
  ],
)
def test_what_cannot_be_used_is_named(error, text, name, args):
  with pytest.raises(error, match=text):
    call(name, *args)


def test_options_that_exist_pass():
  for p in (1, 2, np.inf, 1.0, 1.5, np.float32(3)):
    assert inputs.check_options(p, 'b', ('a', 'b'), 1) is None

  @jax.jit
  def traced(p):
    inputs.check_options(p, 'fmn', ('fmn',), 1)
    for method in ('apgd', 'ddn'):
      with pytest.raises(
        ValueError, match=f'{method} needs a norm that is not'
      ):
        inputs.check_options(p, method, ('apgd', 'ddn'), 1)
    return p

  traced(2.0)


def test_counts_and_seeds_are_integers_of_any_kind():
  assert inputs.check_count('n', np.int64(7), 7) == 7
  assert type(inputs.check_count('n', np.int64(7))) is int
  assert inputs.check_count('n', 1) == 1
  for seed, want in (
    (3, 3),
    (np.int8(3), 3),
    (2**31 + 5, 5),
    (-1, 2**31 - 1),
    (2**40 + 9, 9),
  ):
    got = inputs.check_seed(seed)
    assert got == want and got.dtype == np.int32
  traced = jnp.int32(4)
  assert inputs.check_seed(traced) is traced


def test_inputs_have_a_dtype_of_jax():
  doubles = np.arange(6.0).reshape(3, 2)
  assert inputs.check_inputs(doubles).dtype == np.float32
  with jax.enable_x64(True):
    assert inputs.check_inputs(doubles).dtype == np.float64
  halves = doubles.astype(jnp.bfloat16)
  assert inputs.check_inputs(halves) is halves
  np.testing.assert_array_equal(inputs.check_inputs(doubles.tolist()), doubles)


def test_labels_are_classes():
  for label in (0, 2, np.int8(1), jnp.int32(7), jnp.uint8(1)):
    got = inputs.check_label(label, 3)
    assert got == label and got.dtype == jnp.int32
  got = inputs.check_labels([2, 0, 1], 3, 3)
  assert got.dtype == np.int32 and got.tolist() == [2, 0, 1]
  assert inputs.check_labels([], 0, 3).shape == (0,)
  # As many classes as inputs: still one class each.
  assert inputs.check_labels(np.array([1, 1]), 2, 2).tolist() == [1, 1]


def test_open_ends_are_infinite():
  assert inputs.pair(None) == (-np.inf, np.inf)
  assert inputs.pair((None, 3)) == (-np.inf, 3)
  assert inputs.pair([0.5, None]) == (0.5, np.inf)
  low, high = inputs.ends(([0, 1], None), (2,))
  assert low.dtype == high.dtype == np.float64
  assert low.tolist() == [0, 1] and high == np.inf
  low, high = inputs.ends((1, 1))  # A box may be flat.
  assert low == high == 1


def test_boxes_are_of_one_input_or_of_each():
  xs = np.array([[0.0, 1.0, 0.5], [0.25, 0.75, 0.0]], np.float32)
  low, high = inputs.check_bounds(xs, (0, np.array([1.0, 2, 3])))
  assert low.shape == high.shape == (3,)
  assert low.dtype == high.dtype == np.float32
  np.testing.assert_array_equal([low, high], [[0] * 3, [1, 2, 3]])
  low, high = inputs.check_bounds(xs, (xs - 1, 5.0))
  assert low.shape == high.shape == (2, 3)
  np.testing.assert_array_equal(low, xs - 1)
  np.testing.assert_array_equal(high, np.full((2, 3), 5))
  low, high = inputs.check_bounds(xs, (None, xs + 2))
  assert np.all(low == -np.inf) and high.shape == (2, 3)
  # On the bound is inside, where there is nothing to round too.
  for flat in ((None, 0.0), (0.0, None), (0.0, 0.0)):
    inputs.check_bounds(np.zeros((2, 3), np.float32), flat)
  # What the dtype cannot hold is no end.
  low, high = inputs.check_bounds(xs, (-1e300, 1e300))
  assert np.all(low == -np.inf) and np.all(high == np.inf)


@pytest.mark.parametrize('end', ['low', 'high'])
def test_inputs_may_lie_outside_by_eight_units_of_rounding(end):
  # Of the larger of the two bounds.
  sign = 1 if end == 'high' else -1
  for large in (4.0, 0.25):
    bounds = (-large, 1.0) if end == 'high' else (-1.0, large)
    unit = EPS * max(large, 1.0)
    for units, fits in ((7, True), (9, False)):
      x = np.full((1, 2), sign * (1 + units * unit), np.float32)
      if fits:
        inputs.check_bounds(x, bounds)
      else:
        with pytest.raises(ValueError, match='1 of 1 inputs lie outside'):
          inputs.check_bounds(x, bounds)
  # An infinite end lends no rounding.
  x = np.full((1, 2), sign * 1.001, np.float32)
  bounds = (-np.inf, 1.0) if end == 'high' else (-1.0, np.inf)
  with pytest.raises(ValueError, match='outside'):
    inputs.check_bounds(x, bounds)


def test_the_box_of_one_input_is_widened_to_hold_it():
  x = jnp.array([0.0, 1.5, -2.0])
  low, high = inputs.check_box((-1.0, jnp.array([1.0, 1, 1])), x)
  np.testing.assert_array_equal(low, [-1, -1, -2])
  np.testing.assert_array_equal(high, [1, 1.5, 1])
  low, high = inputs.check_box(None, x)
  assert np.all(low == -np.inf) and np.all(high == np.inf)
  assert low.shape == high.shape == (3,) and low.dtype == x.dtype
  # Ends may be traced; then their order is not known.
  low, high = jax.jit(lambda b: inputs.check_box((b, None), x))(0.25)
  np.testing.assert_array_equal(low, [0, 0.25, -2])
  assert np.all(high == np.inf)


def test_projections_and_rows_that_fit_pass():
  x = jax.ShapeDtypeStruct((2, 3), np.float32)
  row = jax.ShapeDtypeStruct((3,), np.float32)
  assert inputs.check_project(lambda v, r: v + jnp.sum(r), x, row) is None
  xs = np.ones((4, 2))
  assert inputs.check_rows(None, (), xs) == ()
  rows = inputs.check_rows(abs, ([1, 2, 3, 4], np.ones((4, 5))), xs)
  assert [row.shape for row in rows] == [(4,), (4, 5)]
  assert isinstance(rows[0], np.ndarray)


def test_what_has_no_length_is_no_pair():
  endless = types.SimpleNamespace()
  with pytest.raises(ValueError, match='None or a pair'):
    inputs.pair(endless)


def test_inputs_are_narrowed_where_jax_has_no_64_bits():
  wide = np.full((2, 3), 1 / 3)
  assert inputs.check_inputs(wide).dtype == np.float32
  with jax.enable_x64(True):
    assert inputs.check_inputs(wide).dtype == np.float64
    point = boundary.measure(lambda x: 2 * x, wide, method='linear')
  assert point.point.dtype == np.float64
