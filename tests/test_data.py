import os
import pathlib

import numpy as np
import pytest

from dmm_jax import data

TFDS = pathlib.Path(
  os.environ.get(
    'TFDS_DATA_DIR', pathlib.Path(__file__).parents[2] / 'shared/tfds'
  )
)


def test_digits_are_embedded():
  xs, labels = data.load('digits', 'train')
  assert xs.shape == (1437, 8, 8, 1) and xs.dtype == np.float32
  assert xs.min() == 0 and xs.max() == 1
  assert labels.dtype == np.int32 and set(labels) == set(range(10))
  assert len(data.load('digits', 'test')[0]) == 360
  with pytest.raises(ValueError, match="'train' or 'test'"):
    data.load('digits', 'validation')


@pytest.mark.parametrize('size', [8, 5, 20])
@pytest.mark.parametrize('channels', [1, 3])
def test_resize_keeps_the_picture(size, channels):
  xs, _ = data.load('digits', 'test')
  out = data.resize(xs, size, channels)
  assert out.shape == (360, size, size, channels)
  assert out.min() >= 0 and out.max() <= 1
  np.testing.assert_allclose(out.mean(), xs.mean(), rtol=0.05)
  if size == 8:
    np.testing.assert_allclose(out, np.broadcast_to(xs, out.shape), atol=1e-6)
  np.testing.assert_allclose(
    data.resize(out, size, 1), out.mean(-1, keepdims=True), atol=1e-6
  )


def test_absent_set_says_how_to_prepare_it(tmp_path):
  with pytest.raises(FileNotFoundError, match='tfds build mnist'):
    data.load('mnist', 'test', str(tmp_path))


@pytest.mark.parametrize(
  'name, shape', [('mnist', (28, 28, 1)), ('cifar10', (32, 32, 3))]
)
def test_prepared_sets_are_read(name, shape):
  if not (TFDS / name).exists():
    pytest.skip(f'no {name} in {TFDS}; set TFDS_DATA_DIR')
  xs, labels = data.load(name, 'test', str(TFDS))
  assert xs.shape[1:] == shape and xs.dtype == np.float32
  assert 0 <= xs.min() < xs.max() <= 1 and set(labels) == set(range(10))


def test_classes_are_renumbered():
  labels = np.array([5, 3, 8, 3, 0], np.int32)
  xs = np.arange(5.0)[:, None]
  got, numbers, rows = data.of_classes(xs, labels, np.array([3, 8]))
  assert rows.tolist() == [1, 2, 3] and numbers.tolist() == [0, 1, 0]
  np.testing.assert_array_equal(got, xs[rows])
