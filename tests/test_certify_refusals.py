"""What certificates refuse, each with a sentence, and what they accept."""

import itertools

import certify_oracles
import jax.numpy as jnp
import numpy as np
import pytest

from dmm_jax import certify
from dmm_jax.certify import layers as layers_lib

network = certify_oracles.network
HALVES = np.eye(2) / 2

FUNCTIONS = {
  'lower_bounds': lambda layers, x, label, **options: certify.lower_bounds(
    layers, np.asarray(x)[None], np.asarray(label)[None], **options
  ),
  'lower_bound': certify.lower_bound,
  'exact_distance': certify.exact_distance,
}
each_function = pytest.mark.parametrize('function', FUNCTIONS)


@pytest.mark.parametrize(
  'bounds, message',
  (
    (1.0, 'must be None or a pair'),
    ((0.0, 0.5, 1.0), 'must be None or a pair'),
    ('01', 'must be None or a pair'),
    ({'low': 0.0, 'high': 1.0}, 'must be None or a pair'),
    ((np.nan, 1.0), 'must not be NaN, got 1 in low'),
    ((None, [1.0, np.nan, np.nan]), 'must not be NaN, got 2 in high'),
    ((1.0, -1.0), 'low > high in 1 entries'),
    ((np.array([-1.0, 2.0, 3.0]), 1.0), 'low > high in 2 entries'),
    ((np.zeros(4), 1.0), r'of shape \(3,\).* shape \(4,\) for low'),
    ((-1.0, np.ones((5, 3))), r'got shape \(5, 3\) for high'),
    ((-1.0, np.ones((3, 1))), r'got shape \(3, 1\) for high'),
    ((-1.0, np.ones(1)), r'got shape \(1,\) for high.* np.broadcast_to'),
    (('low', 1.0), "numbers, arrays or None, got 'low' for low"),
    ((-1.0, [1.0, [2.0]]), 'numbers, arrays or None, got .* for high'),
    ((-1.0, 1j), 'numbers, arrays or None, got 1j for high'),
    ((0.5, 1.0), '1 of 1 inputs lie outside bounds'),
    ((None, -0.5), '1 of 1 inputs lie outside bounds'),
  ),
)
@each_function
def test_refuses_bad_bounds(function, bounds, message):
  layers = network((3, 4, 2), seed=0)
  with pytest.raises(ValueError, match=f'bounds.*{message}|{message}'):
    FUNCTIONS[function](layers, np.zeros(3), 0, bounds=bounds)


@pytest.mark.parametrize(
  'label, error, message',
  (
    (np.array([1.0, 0.0]), TypeError, 'labels.argmax'),
    (np.array([1, 0]), TypeError, 'labels.argmax'),
    (1.0, TypeError, 'labels must be integers .* float64'),
    (True, TypeError, 'labels must be integers .* bool'),
    (None, TypeError, 'labels must be integers .* object'),
    (np.array([1]), ValueError, r'need as many labels \[1\], got .*1, 1'),
    (2, ValueError, r'labels must lie in \[0, 2\), got .* 2'),
    (-1, ValueError, r'labels must lie in \[0, 2\), got .* -1'),
  ),
)
@each_function
def test_refuses_bad_labels(function, label, error, message):
  layers = network((3, 4, 2), seed=0)
  with pytest.raises(error, match=message):
    FUNCTIONS[function](layers, np.zeros(3), label)


@pytest.mark.parametrize(
  'x, error, message',
  (
    (np.zeros(4), ValueError, r'takes 3 inputs an example, .* \(1, 4\)'),
    (np.zeros(()), ValueError, r'takes 3 inputs an example, .* \(1,\)'),
    (np.zeros(3, np.uint8), TypeError, 'inputs must be floating .* uint8'),
    (np.zeros(3, bool), TypeError, 'inputs must be floating .* bool'),
    (np.array([0, np.nan, 0]), ValueError, '1 of 1 inputs are not finite'),
    (np.array([0, 0, np.inf]), ValueError, '1 of 1 inputs are not finite'),
  ),
)
@each_function
def test_refuses_bad_inputs(function, x, error, message):
  layers = network((3, 4, 2), seed=0)
  with pytest.raises(error, match=message):
    FUNCTIONS[function](layers, x, 0)


@pytest.mark.parametrize('count', (4, 6, 0))
def test_refuses_too_many_or_too_few_labels(count):
  layers = network((3, 4, 2), seed=0)
  with pytest.raises(ValueError, match=rf'5 inputs .* \({count},\)'):
    certify.lower_bounds(layers, np.zeros((5, 3)), np.zeros(count, np.int32))


@pytest.mark.parametrize(
  'option, functions, error, values',
  (
    ('norm', FUNCTIONS, ValueError, (0.5, 0, np.nan)),
    ('norm', ('lower_bounds',), TypeError, ('2', None, [2])),
    ('norm', ('exact_distance',), ValueError, (3, 1.5, '2', None, [2])),
    ('batch_size', ('lower_bounds',), ValueError, (0, -1)),
    ('batch_size', ('lower_bounds',), TypeError, (2.0, True, '8', None)),
    ('num_steps', ('lower_bounds', 'lower_bound'), ValueError, (-1,)),
    ('num_steps', ('lower_bounds', 'lower_bound'), TypeError, (1.0, False)),
    ('time_limit', ('exact_distance',), ValueError, (np.nan, -1.0, -np.inf)),
    ('time_limit', ('exact_distance',), TypeError, ('60', None, [1.0])),
  ),
)
def test_refuses_bad_options(option, functions, error, values):
  allowed = {
    'norm': '(a number|1, 2 or inf)',
    'batch_size': 'an integer, 1 or more',
    'num_steps': 'an integer, 0 or more',
    'time_limit': 'a number of seconds, 0 or more',
  }
  layers = network((3, 4, 2), seed=0)
  for function, value in itertools.product(functions, values):
    with pytest.raises(
      error, match=f'{option} must be {allowed[option]}.* got'
    ):
      FUNCTIONS[function](layers, np.zeros(3), 0, **{option: value})


W, B = np.zeros((3, 2)), np.zeros(2)
FORM = r'must be layers \[\(W \[in, out\], b \[out\]\), \.\.\.\]'


@pytest.mark.parametrize(
  'layers, error, message',
  (
    ({'dense0': (W, B)}, TypeError, f'{FORM}.* got dict'),
    (None, TypeError, f'{FORM}.* got NoneType'),
    ('layers', TypeError, f'{FORM}.* got str'),
    ([], ValueError, f'{FORM}.* got none'),
    ((W, B), TypeError, f'{FORM}.* a ndarray as layer 0'),
    ([W], TypeError, f'{FORM}.* a ndarray as layer 0'),
    ([(W, B, B)], TypeError, f'{FORM}.* a tuple of 3 as layer 0'),
    ([(W, B), {'kernel': W}], TypeError, f'{FORM}.* a dict as layer 1'),
    ([(W.T, np.zeros(2))], ValueError, 'layer 0 must have .* pass W.T'),
    ([(np.eye(3), np.zeros(3)), (W.T, B)], ValueError, 'layer 1 .* pass W.T'),
    ([(np.eye(3), np.zeros(3)), (np.eye(4), np.zeros(4))], ValueError, 'layer'),
    ([(W, np.zeros(3))], ValueError, r'layer 0 .* \(3, 2\) and \(3,\)'),
    ([(W, 0.0)], ValueError, r'layer 0 .* \(3, 2\) and \(\)'),
    ([(W[:, :0], B[:0])], ValueError, 'layer 0 must have'),
    ([(W, None)], TypeError, 'b of layer 0 must be .* real numbers'),
    ([(W + 1j, B)], TypeError, 'W of layer 0 must be .* complex128'),
    ([([[1.0], [1.0, 2.0]], B)], TypeError, 'W of layer 0 must be'),
    ([(W, np.array([0.0, np.nan]))], ValueError, 'layer 0 .* not finite'),
    ([(W - np.inf, B)], ValueError, 'layer 0 .* not finite'),
    ([(W[:, :1], B[:1])], ValueError, 'at least two classes, got 1'),
  ),
)
@each_function
def test_refuses_what_is_not_layers(function, layers, error, message):
  with pytest.raises(error, match=message):
    FUNCTIONS[function](layers, np.zeros(3), 0)


@pytest.mark.parametrize('dtype', ('float16', 'bfloat16', 'float8_e4m3fn'))
@pytest.mark.parametrize('which', ('W of layer 0', 'b of layer 1'))
@each_function
def test_refuses_weights_in_half_precision(function, which, dtype):
  # guarantees.md: half precision is refused. Linear and exact in it: its values
  # are not what is missing.
  names = ('W of layer 0', 'b of layer 0'), ('W of layer 1', 'b of layer 1')
  arrays = (np.eye(3), np.zeros(3)), (np.eye(3)[:, :2], np.zeros(2))
  layers = [
    tuple(
      jnp.asarray(v, dtype if name == which else jnp.float32)
      for name, v in zip(*pair, strict=True)
    )
    for pair in zip(names, arrays, strict=True)
  ]
  with pytest.raises(TypeError, match=f'{which} is {dtype}.* to float32'):
    FUNCTIONS[function](layers, np.array([1.0, 0.0, 0.0], np.float32), 0)


@pytest.mark.parametrize('size', (1e39, -1e39))
@each_function
def test_refuses_weights_beyond_float32(function, size):
  layers = network((3, 4, 2), seed=0)
  layers[1][1][0] = size
  with pytest.raises(ValueError, match=r'layer 1 has .* size 1e\+39'):
    FUNCTIONS[function](layers, np.zeros(3), 0)


@each_function
def test_refuses_inputs_that_overflow_float32_in_the_network(function):
  # Logits of 1e40 and 2e40; a run in float32 has inf - inf.
  scale = np.float32(1e20)
  layers = [
    (scale * np.eye(2, dtype=np.float32), np.zeros(2, np.float32)),
    (scale * np.eye(2, dtype=np.float32), np.zeros(2, np.float32)),
  ]
  x = np.array([1.0, 2.0], np.float32)
  run = layers_lib.logits(layers, jnp.asarray(x))
  assert run.dtype == np.float32 and np.all(np.isinf(run))
  with pytest.raises(ValueError, match='1 of 1 inputs overflow float32'):
    FUNCTIONS[function](layers, x, 1)
  with pytest.raises(ValueError, match='1 of 1 inputs overflow float32'):
    FUNCTIONS[function](network((2, 2), 0), np.array([1e39, 0.0]), 1)
  # Smaller ones do not overflow, though the weights would allow it.
  small = np.float32(1e-4) * x
  assert np.all(np.isfinite(layers_lib.logits(layers, jnp.asarray(small))))
  found = certify.lower_bound(layers, small, 1)
  np.testing.assert_allclose(found, 0.5**0.5 * 1e-4, rtol=1e-4)


@pytest.mark.parametrize(
  'change, error, message',
  (
    (dict(stride=0), ValueError, 'stride must be an integer'),
    (dict(stride=1.0), TypeError, 'stride must be an integer'),
    (dict(kernel=np.zeros((3, 3, 4))), ValueError, 'kernel must be'),
    (dict(bias=np.zeros(1)), ValueError, r'bias \[out\] .* \(1,\)'),
    (dict(bias=np.zeros((6, 4))), ValueError, r'bias \[out\] .* \(6, 4\)'),
    (dict(input_shape=(7, 6, 1)), ValueError, r'input_shape .*\(7, 6, 1\)'),
    (dict(input_shape=(7, 6)), ValueError, r'input_shape .*\(7, 6\)'),
    (
      dict(kernel=np.zeros((3, 3, 2, 4), np.float16)),
      TypeError,
      'kernel is float16',
    ),
  ),
)
def test_refuses_what_is_no_convolution(change, error, message):
  given = dict(
    kernel=np.zeros((3, 3, 2, 4)), bias=np.zeros(4), input_shape=(7, 6, 2)
  )
  with pytest.raises(error, match=message):
    certify.dense_from_convolution(**(given | change))


@pytest.mark.parametrize(
  'layers, x, overflows',
  [
    # Sums of absolute terms of one layer, and its bias, in units of the limit.
    ([([[0.6, 0], [-0.3, 0.2]], [0.0, 0.0])], [1, 1], False),
    ([([[0.6, 0], [-0.5, 0.2]], [0.0, 0.0])], [1, 1], True),
    ([([[0.1, 0.6], [0.2, -0.5]], [0.0, 0.0])], [-1, 1], True),
    ([([[0.4, 0], [0.4, 0.2]], [-0.3, 0.0])], [1, -1], True),
    ([([[0.4, 0], [0.4, 0.2]], [-0.1, 0.0])], [1, -1], False),
    ([([[0.4, 0], [0.4, 0.2]], [0.1, 0.3])], [1, 1], False),
    # Behind a ReLU, what is off does not count, and what is on does.
    ([(HALVES, [0, 0]), ([[0.9, 0], [0, 0.1]], [0, 0])], [-5, 1], False),
    ([(HALVES, [0, 0]), ([[0.9, 0], [0, 0.1]], [0, 0])], [5, 1], True),
    ([(HALVES, [1, 0]), ([[0.9, 0], [0, 0.1]], [0, 0])], [0.4, 1], True),
    ([(HALVES, [-1, 0]), ([[0.9, 0], [0, 0.1]], [0, 0])], [4, 1], False),
  ],
)
def test_overflow_is_that_of_the_terms_at_the_inputs(layers, x, overflows):
  limit = layers_lib.FLOAT32_MAX
  arrays = [tuple(np.array(v, float) for v in pair) for pair in layers]
  arrays[-1] = tuple(limit * v for v in arrays[-1])
  xs = np.array([[0.0, 0.0], x, [0.0, 0.1]])
  if not overflows:
    layers_lib._check_range(arrays, xs)
    return
  words = r'1 of 3 inputs overflow float32 .*the first is number 1\)'
  with pytest.raises(ValueError, match=words):
    layers_lib._check_range(arrays, xs)


def test_what_overflows_may_be_small_again_later():
  """Inputs, and values of a first layer, before weights that are tiny."""
  tiny = (1e-30 * np.eye(2), np.zeros(2))
  xs = np.array([[1.0, 0], [0, 0], [0, 1]])
  words = r'2 of 3 inputs .* is number 0'
  for size in (1e39, -1e39):
    with pytest.raises(ValueError, match=words):
      layers_lib._check_range([tiny], size * xs)
  large = (1e38 * np.eye(2), np.zeros(2))
  with pytest.raises(ValueError, match=words):
    layers_lib._check_range([large, tiny], 9 * xs)
  layers_lib._check_range([large, tiny], 3 * xs)
  layers_lib._check_range([large, tiny], np.zeros((0, 2)))


def test_layers_may_be_integers_and_lists():
  layers = [
    ([[1, -2], [3, 4]], [0, 1]),
    (np.eye(2, dtype=np.float32), [0.5, 0]),
  ]
  found = layers_lib.check(iter(layers))
  assert isinstance(found, tuple)
  for (w, b), (given, offset) in zip(found, layers, strict=True):
    assert w.dtype == b.dtype == np.float64
    np.testing.assert_array_equal(w, given)
    np.testing.assert_array_equal(b, offset)
  # The limit itself is finite in float32.
  layers_lib.check([(np.eye(2) * layers_lib.FLOAT32_MAX, [0, 0])])
  for dtype in (np.float32, np.float64, np.int8, np.int64):
    assert layers_lib._to_float64('W', np.ones(2, dtype)).dtype == np.float64


def test_inputs_are_told_by_their_number():
  layers = network((2, 3), seed=0)
  xs = np.zeros((3, 2))
  xs[1, 0], xs[2] = np.inf, np.nan
  with pytest.raises(ValueError, match=r'2 of 3 inputs are not finite .*ber 1'):
    certify.lower_bounds(layers, xs, [0, 0, 0])
  # One number is no array of inputs, though the network takes one.
  with pytest.raises(ValueError, match=r'takes 1 inputs an example, .* \(\)'):
    certify.lower_bounds(network((1, 2), seed=0), 0.5, 0)


def test_examples_come_flat_with_their_boxes():
  layers = layers_lib.check(network((6, 3), seed=0))
  xs = np.arange(24.0, dtype=np.float32).reshape(4, 3, 2)
  low = np.arange(6.0).reshape(3, 2) - 9
  flat, labels, low_ends, high_ends = layers_lib.check_examples(
    layers, xs, [2, 0, 1, 2], (low, None)
  )
  np.testing.assert_array_equal(flat, np.arange(24.0).reshape(4, 6))
  assert flat.dtype == low_ends.dtype == np.float64
  assert labels.tolist() == [2, 0, 1, 2] and labels.dtype == np.int32
  np.testing.assert_array_equal(low_ends, np.tile(low.ravel(), (4, 1)))
  assert np.all(np.isposinf(high_ends)) and high_ends.shape == (4, 6)


def test_times_and_norms_are_numbers():
  for value in (0, 0.0, 1e-9, np.float32(3), np.inf):
    layers_lib.check_seconds('time', value)
  for value in (True, np.array([1.0]), '1'):
    with pytest.raises(TypeError, match='time must be a number of seconds'):
      layers_lib.check_seconds('time', value)
  for value in (1, 2.0, np.float32(2), np.inf):
    layers_lib.check_norm(value)
