"""Labels: checked, chosen, shuffled and made wrong."""

import jax
import numpy as np
import pytest

from dmm_jax import data

KEY = jax.random.key(3)


def test_classes_are_renumbered():
  labels = np.array([5, 3, 8, 3, 0], np.int32)
  xs = np.arange(10.0).reshape(5, 2)
  got, numbers, rows = data.of_classes(xs, labels, np.array([3, 8]))
  assert rows.tolist() == [1, 2, 3] and numbers.tolist() == [0, 1, 0]
  np.testing.assert_array_equal(got, xs[rows])


def test_balanced_rows():
  labels = data.load('digits', 'train')[1]
  rows = data.balanced(KEY, labels, 30)
  assert rows.dtype == np.int32 and np.all(np.diff(rows) > 0)
  assert np.bincount(labels[rows]).tolist() == [30] * 10
  np.testing.assert_array_equal(rows, data.balanced(KEY, labels, 30))
  other = data.balanced(jax.random.key(4), labels, 30)
  assert not np.array_equal(rows, other)
  few = np.array([0, 0, 0, 7, 7])
  assert data.balanced(KEY, few, 2)[-2:].tolist() == [3, 4]
  assert data.balanced(KEY, few, 0).tolist() == []
  for wrong in (3, -1):
    with pytest.raises(ValueError, match=f'{wrong}: class 7 has 2 examples'):
      data.balanced(KEY, few, wrong)


def test_balanced_rows_are_equally_likely():
  labels = np.repeat(np.arange(2), [4, 6])
  picks = [data.balanced(jax.random.key(i), labels, 2) for i in range(400)]
  shares = np.bincount(np.concatenate(picks), minlength=10) / 400
  # Standard errors of at most 0.025.
  np.testing.assert_allclose(
    shares, np.repeat([1 / 2, 1 / 3], [4, 6]), atol=0.1
  )


def test_parity():
  got = data.parity(np.arange(5))
  assert got.tolist() == [0, 1, 0, 1, 0] and got.dtype == np.int32


def test_shuffled_labels():
  labels = np.repeat(np.arange(10, dtype=np.int32), 1000)
  got = data.shuffle_labels(KEY, labels)
  assert got.dtype == np.int32
  assert np.bincount(got).tolist() == [1000] * 10
  # One in ten stays, by chance: standard error 0.003.
  np.testing.assert_allclose((got == labels).mean(), 0.1, atol=0.012)
  np.testing.assert_array_equal(got, data.shuffle_labels(KEY, labels))


@pytest.mark.parametrize('fraction', [0.0, 0.3, 0.12345, 1.0])
def test_noisy_labels(fraction):
  labels = np.repeat(np.arange(4, dtype=np.int32), 5000)
  got = data.noisy_labels(KEY, labels, fraction, 4)
  wrong = got != labels
  assert wrong.sum() == round(fraction * 20000) and got.dtype == np.int32
  if fraction == 1:
    # Each of the other classes, equally often: a third of 5000 +- 33.
    table = np.histogram2d(labels, got, bins=4)[0]
    np.testing.assert_allclose(table + np.eye(4) * 5000 / 3, 5000 / 3, atol=170)
  if fraction == 0.3:
    again = data.noisy_labels(KEY, labels, fraction, 4)
    np.testing.assert_array_equal(got, again)
    # Spread over the rows, not the first ones.
    np.testing.assert_allclose(wrong[:10000].mean(), 0.3, atol=0.03)


@pytest.mark.parametrize(
  'labels, error, words',
  [
    (np.array([0, -1, 2]), ValueError, r'in \[0, 3\), got labels from -1 to 2'),
    (np.array([1, 2, 3]), ValueError, r'in \[0, 3\), got labels from 1 to 3'),
    (np.array([[0], [1], [2]]), ValueError, r'got \(3, 1\); pass labels'),
    (np.array([0, 1]), ValueError, r'shape \(3,\), got \(2,\)'),
    (np.array([0.0, 1.0, np.nan]), TypeError, 'integers, got float64'),
    (np.array([True, False, True]), TypeError, 'integers, got bool'),
    (np.array(['0', '1', '2']), TypeError, 'labels must be integers'),
  ],
)
@pytest.mark.parametrize('on_device', [False, True])
def test_labels_that_are_no_classes(labels, error, words, on_device):
  if on_device and labels.dtype.kind != 'U':
    labels, words = jax.numpy.asarray(labels), words.replace('64', '32')
  with pytest.raises(error, match=words):
    data.check_labels(labels, (3,), 3)


def test_labels_that_are_classes():
  data.check_labels([0, 2, 1], (3,), 3)
  data.check_labels(np.array([[7, 0]], np.uint8), (1, 2))
  data.check_labels(jax.numpy.array([], int), (0,), 2)


def test_noise_is_checked():
  labels = np.array([0, 1, 2])
  with pytest.raises(ValueError, match='fraction'):
    data.noisy_labels(KEY, labels, 1.1, 3)
  with pytest.raises(ValueError, match='num_classes'):
    data.noisy_labels(KEY, labels, 0.5, 2)
  with pytest.raises(
    ValueError, match='at least 2 and above all labels, got 1'
  ):
    data.noisy_labels(KEY, np.zeros(3, int), 0.5, 1)
  with pytest.raises(ValueError, match=r'between 0 and 1, got -0\.1'):
    data.noisy_labels(KEY, labels, -0.1, 3)
  with pytest.raises(ValueError, match='num_classes is at least 2'):
    data.noisy_labels(KEY, labels - 1, 0.5, 3)
  assert labels.tolist() == [0, 1, 2]
  # Of two classes each other one is the wrong one.
  flipped = data.noisy_labels(KEY, labels[:2], 1.0, 2)
  assert flipped.tolist() == [1, 0]


def test_labels_of_another_shape_are_told_what_to_pass():
  for labels, shape, remedy in (
    (np.zeros((3, 1), int), (3,), r'labels\[..., 0\]'),
    (np.zeros((3, 2), int), (3,), 'one class number an example'),
    (np.zeros((1, 3), int), (3,), 'one class number an example'),
    (np.zeros(1, int), (3,), 'one class number an example'),
    (np.zeros((3, 1, 1), int), (3,), 'one class number an example'),
    (np.zeros((2, 3, 1), int), (2, 3), r'labels\[..., 0\]'),
  ):
    with pytest.raises(ValueError, match=f'; pass {remedy}$'):
      data.check_labels(labels, shape)
  with pytest.raises(ValueError, match=r'in \[0, k\), got labels from -2 to 7'):
    data.check_labels([7, -2], (2,))


def test_labels_on_devices_stay_there(monkeypatch):
  labels = jax.numpy.arange(3)
  monkeypatch.setattr(np, 'asarray', None)
  data.check_labels(labels, (3,), 3)


def test_a_guess_gets_the_commonest_class():
  assert data.commonest_share(np.array([2, 0, 2, 1, 2])) == 3 / 5
  assert data.commonest_share(np.array([0, 1, 1, 0])) == 1 / 2
  assert type(data.commonest_share(np.zeros(3, np.int32))) is float
