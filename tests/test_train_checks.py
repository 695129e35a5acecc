"""What training refuses, at the call and before anything is compiled."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dmm_jax import data
from dmm_jax import train
from dmm_jax.train import checks

KEY = jax.random.key(1)
RNG = np.random.default_rng(0)
LABELS = RNG.integers(0, 3, 50).astype(np.int32)
LABELS[:3] = 0, 1, 2
XS = RNG.normal(size=(50, 4)).astype(np.float32)
ROWS = np.eye(3, dtype=np.float32)[LABELS]
ADVERSARY = train.adversarial.Adversary(0.1, np.inf, num_steps=2)


def linear(params, stats, x, key, train):
  return (params @ x, {}), stats


def fit(
  xs=XS, targets=LABELS, *, loss='cross_entropy', key=KEY, forward=linear, **kw
):
  """Calls `train.fit`, and takes no step."""
  config = kw.pop('config', train.TrainConfig(loss, num_epochs=1))
  state = train.State(jnp.zeros((3, 4)), {}, ())
  if key.ndim:
    state = jax.tree.map(lambda v: jnp.stack([v] * len(key)), state)
  return train.fit(key, forward, state, xs, targets, config=config, **kw)


WRONG_LABELS = {
  'unlabelled': (lambda y: 0 * y - 1, ValueError, r'in \[0, 3\), got .* -1'),
  'another set': (lambda y: 0 * y + 99, ValueError, r'in \[0, 3\), got .* 99'),
  'from 1': (lambda y: y + 1, ValueError, r'in \[0, 3\), got .* from 1 to 3'),
  'a column': (lambda y: y[:, None], ValueError, r'shape \(50,\).*\(50, 1\)'),
  'floats': (lambda y: y.astype(float), TypeError, 'integers, got float'),
  'NaN': (lambda y: y * np.nan, TypeError, 'integers, got float'),
  'truths': (lambda y: y > 0, TypeError, 'integers, got bool'),
  'words': (lambda y: y.astype(str), TypeError, 'targets must be numbers, got'),
  'fewer': (lambda y: y[:-1], ValueError, 'each of 50 inputs, got 49 rows'),
  'four classes': (lambda y: np.eye(4)[y], ValueError, r'shape \(4,\) an exam'),
  'two numbers': (
    lambda y: np.stack([y, y], 1),
    ValueError,
    r'must be labels, one class number an example.*; got .*\(2,\) an example',
  ),
  'one number': (
    lambda y: y[0],
    ValueError,
    r'targets must have shape \[n, ...\] got \(\)',
  ),
}


@pytest.mark.parametrize('loss', ['cross_entropy', 'squared', 'hinge'])
@pytest.mark.parametrize('name', WRONG_LABELS)
def test_labels_that_are_no_classes_are_refused_at_the_call(name, loss):
  change, error, words = WRONG_LABELS[name]
  with pytest.raises(error, match=words) as caught:
    fit(targets=change(LABELS), loss=loss)
  assert 'label' in str(caught.value) or 'target' in str(caught.value)
  assert ('or vectors of shape (3,)' in str(caught.value)) == (
    name in ('four classes', 'two numbers') and loss != 'hinge'
  )
  if name not in ('words', 'one number'):
    with pytest.raises(error):
      fit(targets=jnp.asarray(change(LABELS)), loss=loss)


def test_labels_of_each_of_many_networks_are_checked():
  keys = jax.random.split(KEY, 2)
  many, axes = np.stack([LABELS, LABELS]), (None, 0, None)
  fit(targets=many, key=keys, data_axes=axes)
  for wrong in (-1, 3):
    bad = many.copy()
    bad[1, 7] = wrong
    with pytest.raises(ValueError, match=r'labels must lie in \[0, 3\)'):
      fit(targets=bad, key=keys, data_axes=axes)
  with pytest.raises(ValueError, match=r'shape \(2, 50\), got \(2, 50, 1\)'):
    fit(targets=many[..., None], key=keys, data_axes=axes)
  for rows in (LABELS, np.stack([LABELS] * 3)):
    with pytest.raises(
      ValueError, match=r'targets must have shape \[2, n, ...\], as data_axes'
    ):
      fit(targets=rows, key=keys, data_axes=axes)
  with pytest.raises(ValueError, match=r'one row for each of 50 inputs, got 2'):
    fit(targets=many, key=keys)


@pytest.mark.parametrize('own', [False, True])
def test_columns_come_back_with_their_axes(own):
  # Of many networks, each with its own of some columns.
  weights = np.arange(5.0, dtype=np.float32)
  wide = lambda v: np.stack([v] * 3) if own else v
  xs, axes = XS[:5], (None, 0, 0) if own else (None, None, None)
  table, found, num = checks.columns(
    xs, wide(LABELS[:5]), wide(weights), axes, 3
  )
  assert found == axes and num == 5
  for column, want in zip(
    table, (xs, wide(LABELS[:5]), wide(weights)), strict=True
  ):
    np.testing.assert_array_equal(column, want)
  # Without weights they are 1, and no network's own.
  table, found, _ = checks.columns(xs, wide(LABELS[:5]), None, axes, 3)
  assert found == (*axes[:2], None)
  np.testing.assert_array_equal(table[2], np.ones(5))
  assert table[2].dtype == np.float32
  # A single network has no axes.
  _, found, _ = checks.columns(xs, LABELS[:5], weights, (0, 0, 0), None)
  assert found == (None, None, None)
  # Inputs of their own.
  _, found, num = checks.columns(
    np.stack([xs] * 3), LABELS[:5], None, (0, None, None), 3
  )
  assert found == (0, None, None) and num == 5
  given = jnp.asarray(xs)
  assert checks.columns(given, LABELS[:5], None, axes[:1] * 3, 3)[0][0] is given


def test_probabilities_are_checked():
  soft = 0.9 * ROWS + 0.1 / 3
  good = (ROWS, soft, soft.astype(np.float16), ROWS.astype(int), ROWS > 0)
  # What rounds may miss the sum by more: two units of bfloat16 are 0.016.
  rough = jnp.asarray(1.014 * ROWS).astype(jnp.bfloat16)
  for rows in (*good, 1.0009 * ROWS, 0.9991 * ROWS, rough):
    fit(targets=rows)
  many = 0.02 * np.eye(50, dtype=np.float16)[:, :3] + ROWS.astype(np.float16)
  for rows in (
    2 * ROWS,
    ROWS - soft,
    -ROWS,
    1.5 * ROWS - 0.5 / 3,
    1.0011 * ROWS,
    0.9989 * ROWS,
    0.5 * ROWS.astype(np.float16),
    2 * ROWS.astype(int),
    many,
    1.02 * jnp.asarray(ROWS).astype(jnp.bfloat16),
  ):
    with pytest.raises(
      ValueError, match=r'targets .* class probabilities, not neg.* pass class'
    ):
      fit(targets=rows)
    fit(targets=rows, loss='squared')
  for loss in ('cross_entropy', 'squared'):
    for bad in (np.nan, np.inf, -np.inf):
      with pytest.raises(ValueError, match='targets must be finite, got NaN'):
        fit(targets=np.where(ROWS > 0, bad, ROWS), loss=loss)
  with pytest.raises(ValueError, match='one class number an example; got'):
    fit(targets=soft, loss='hinge')


def test_probabilities_of_half_precision_are_summed_in_single():
  # A running sum of a thousand equal ones in bfloat16 stalls at one half.
  rows = np.asarray(jnp.full((2, 1000), 1e-3, jnp.bfloat16))
  outputs = (jax.ShapeDtypeStruct((1000,), np.float32),)
  checks.check_targets(rows, train.TrainConfig(), outputs, False)


def test_networks_return_logits_of_enough_classes():
  def check(shape, targets, loss):
    outputs = jax.ShapeDtypeStruct(shape, np.float32), ()
    checks.check_targets(targets, train.TrainConfig(loss), outputs, False)

  check((2,), LABELS % 2, 'cross_entropy')
  check((2,), LABELS % 2, 'squared')
  check((1,), XS[:, :1], 'squared')
  for shape, targets, loss, least in (
    ((1,), LABELS * 0, 'cross_entropy', 2),
    ((1,), LABELS * 0, 'squared', 2),
    ((1,), XS[:, :1], 'cross_entropy', 2),
    ((1,), XS[:, :1], 'hinge', 2),
    ((0,), XS[:, :1], 'squared', 1),
    ((), LABELS * 0, 'cross_entropy', 2),
    ((2, 3), LABELS % 2, 'cross_entropy', 2),
    ((2, 3), np.zeros((50, 2, 3)), 'squared', 2),
  ):
    with pytest.raises(
      ValueError, match=rf'{loss}.* of at least {least} classes, got outputs of'
    ):
      check(shape, targets, loss)


def test_images_have_the_shape_of_the_outputs():
  def coding(params, stats, x, key, train):
    return (params @ x, (x[:2], x[2:])), stats

  for loss in ('reconstruction', 'evidence'):
    targets = XS[:, :3]
    fit(targets=targets, loss=loss, forward=coding)
    with pytest.raises(ValueError, match=r'targets .* \(3,\), got \(4,\)'):
      fit(targets=XS, loss=loss)
    with pytest.raises(ValueError, match=r'targets .* \(3,\), got \(\)'):
      fit(targets=LABELS, loss=loss)
    with pytest.raises(TypeError, match=r'targets .* floating .* got uint8'):
      fit(targets=targets.astype(np.uint8), loss=loss)
    for bad in (np.inf, -np.inf, np.nan):
      broken = targets.copy()
      broken[4, 1] = bad
      with pytest.raises(ValueError, match='targets must be finite'):
        fit(targets=broken, loss=loss)


@pytest.mark.parametrize(
  'weights, error, words',
  [
    (np.full(50, np.nan), ValueError, 'finite and not negative'),
    (np.full(50, np.inf), ValueError, 'finite and not negative'),
    (np.r_[np.inf, np.ones(49)], ValueError, 'got weights from 1 to inf'),
    (np.arange(50) - 1.0, ValueError, 'got weights from -1 to 48'),
    (np.arange(50) - 0.5, ValueError, 'got weights from -0.5 to 48.5'),
    (np.zeros(50), ValueError, 'not all 0'),
    (np.ones(49), ValueError, 'weights must have one row.* 50 inputs, got 49'),
    (np.ones((50, 1)), ValueError, r'one number an example, got .*\(50, 1\)'),
    (np.full(50, 'one'), TypeError, 'weights must be numbers'),
  ],
)
def test_weights_are_checked(weights, error, words):
  with pytest.raises(error, match=words):
    fit(weights=weights)


def test_weights_of_each_of_many_networks_are_checked():
  keys, axes = jax.random.split(KEY, 2), (None, None, 0)
  for part in (
    np.eye(2)[:, [0] * 49 + [1]],
    np.full((2, 50), 1e-3),
    LABELS > 0,
  ):
    own = part.ndim == 2
    fit(weights=part, key=keys, data_axes=axes if own else (None,) * 3)
  none = np.stack([np.zeros(50), np.ones(50)])
  with pytest.raises(ValueError, match='not all 0'):
    fit(weights=none, key=keys, data_axes=axes)
  for shape in ((2, 50, 1), (2,)):
    with pytest.raises(ValueError, match='weights must'):
      fit(weights=np.ones(shape), key=keys, data_axes=axes)


def test_inputs_are_checked():
  with pytest.raises(TypeError, match=r'inputs must be floating.*uint8.*/ 255'):
    fit((255 * XS).astype(np.uint8))
  with pytest.raises(ValueError, match=r'one example, got shape \(0, 4\)'):
    fit(XS[:0], LABELS[:0])
  with pytest.raises(
    ValueError, match=r'inputs must have shape \[n, ...\] got'
  ):
    fit(XS[0, 0])
  keys = jax.random.split(KEY, 2)
  for key, words in (
    (jax.random.PRNGKey(0), r'got uint32 of shape \(2,\)'),
    (keys[None], r'got key<fry> of shape \(1, 2\)'),
    (3, r'got int of shape \(\)'),
  ):
    with pytest.raises(TypeError, match=rf'jax\.random\.key, .*{words}'):
      train.fit(key, linear, (), XS, LABELS, config=train.TrainConfig())
  for axes in ((0, None), (None, 1, None), (None,) * 4):
    with pytest.raises(ValueError, match='data_axes must be three of None or'):
      fit(data_axes=axes)
  with pytest.raises(ValueError, match=r"loss must be one of .*; got 'magic'"):
    fit(loss='magic')


@pytest.mark.parametrize(
  'forward',
  [
    lambda params, stats, x, key, train: params @ x,
    lambda params, stats, x, key, train: (params @ x, stats),
    lambda params, stats, x, key, train: ((params @ x, {}), {}, {}),
    lambda params, stats, x, key, train: [(params @ x, {}), {}],
  ],
)
def test_networks_return_outputs_and_other_variables(forward):
  with pytest.raises(TypeError, match=r'must return \(\(outputs, codes\), sta'):
    fit(forward=forward)


def test_what_lies_on_disk_is_checked_but_not_read():
  def refuse(rows):
    raise AssertionError('read')

  column = data.Column(refuse, np.arange(50), (4,))
  square = lambda params, stats, x, key, train: ((params[0] * x, {}), stats)
  config = train.TrainConfig(
    'reconstruction', num_epochs=1, adversary=ADVERSARY
  )
  fit(column, column, forward=square, config=config)
  fit(column, LABELS)
  fit(XS[:, :4], column, forward=square, loss='cross_entropy')
  with pytest.raises(ValueError, match=r'targets .* \(3,\), got \(4,\)'):
    fit(column, column, loss='reconstruction')
  with pytest.raises(ValueError, match='must be labels, one class'):
    fit(column, column)
  with pytest.raises(ValueError, match='labels must lie in'):
    fit(column, LABELS + 1)


def test_inputs_lie_in_the_range_of_the_adversary():
  xs = XS / np.abs(XS).max()
  low, high = float(xs.min()), float(xs.max())
  eps = float(np.finfo(np.float32).eps)

  def check(xs=xs, **changes):
    config = train.TrainConfig(adversary=ADVERSARY._replace(**changes))
    fit(xs, config=config)

  with pytest.raises(ValueError, match='low=0 to high=1, got inputs from -'):
    check()
  # Rounding is eight units, of 1 at least and of the finite ends.
  for scale in (0.5, 1.0, 64.0):
    for name, end, sign in (('low', low, 1), ('high', high, -1)):
      wide = dict(low=-np.inf, high=np.inf)
      size = eps * max(1.0, abs(end) * scale)
      good = end * scale + sign * 7.5 * size
      bad = end * scale + sign * 8.5 * size
      check(xs * np.float32(scale), **{**wide, name: good})
      with pytest.raises(ValueError, match='in the range of the adversary'):
        check(xs * np.float32(scale), **{**wide, name: bad})
  check(low=-np.inf, high=np.inf)
  check(xs=np.full((50, 4), 0.5, np.float32))
  with pytest.raises(ValueError, match=f'low={low:g} to high=0.1, got'):
    check(low=low, high=0.1)
  with pytest.raises(ValueError, match='radius of an adversary must be finite'):
    check(radius=-1.0)
