"""Image sets as numpy arrays in memory, pixels in [0, 1]."""

import jax
import numpy as np


def load(
  name: str, split: str = 'train', data_dir: str | None = None
) -> tuple[np.ndarray, np.ndarray]:
  """Returns `(xs [n, h, w, c] float32 in [0, 1], labels [n] int32)`.

  Args:
    name: 'digits' (1797 images, 8x8, embedded in scikit-learn) or an image
      classification set of tensorflow-datasets, such as 'mnist' or 'cifar10'.
    split: 'train' or 'test'. For 'digits' the last 360 images are the test.
    data_dir: where tensorflow-datasets keeps prepared sets.

  Raises:
    FileNotFoundError: if the set has not been prepared in `data_dir`.
  """
  if name == 'digits':
    return _digits(split)
  import tensorflow_datasets as tfds

  try:
    source = tfds.data_source(
      name, split=split, data_dir=data_dir, download=False
    )
  except (
    AssertionError,
    NotImplementedError,
    OSError,
    tfds.core.DatasetNotFoundError,
  ) as error:
    raise FileNotFoundError(
      f'data set {name!r}, split {split!r} is not to be had in '
      f'{data_dir or "~/tensorflow_datasets"}.\n'
      'Prepare it once where TensorFlow and the network are, with `tfds build '
      f'{name} --file_format=array_record --data_dir=DIR`, and pass that '
      'directory as data_dir.'
    ) from error
  rows = source.__getitems__(range(len(source)))
  xs = np.stack([row['image'] for row in rows]).astype(np.float32) / 255
  return xs, np.array([row['label'] for row in rows], np.int32)


def _digits(split):
  from sklearn import datasets

  images, labels = datasets.load_digits(return_X_y=True)
  xs = (images / 16).astype(np.float32).reshape(-1, 8, 8, 1)
  rows = {'train': slice(None, -360), 'test': slice(-360, None)}
  if split not in rows:
    raise ValueError(f"split of 'digits' is 'train' or 'test', got {split!r}")
  return xs[rows[split]], labels[rows[split]].astype(np.int32)


def of_classes(
  xs: np.ndarray, labels: np.ndarray, classes: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Returns the examples of some classes, these renumbered from 0.

  Args:
    xs, labels: `[n, ...]`, and `[n]` integers.
    classes: the ones to keep, in rising order.

  Returns:
    `(xs [m, ...], numbers [m], rows [m])`: places among `classes`, and in `xs`.
  """
  rows = np.flatnonzero(np.isin(labels, classes)).astype(np.int32)
  numbers = np.searchsorted(classes, labels[rows]).astype(np.int32)
  return xs[rows], numbers, rows


def resize(xs: np.ndarray, size: int, channels: int) -> np.ndarray:
  """Returns images of `size` x `size` pixels and 1 or 3 channels.

  Bilinear, antialiased when shrinking, so that pixels stay within [0, 1]. Grey
  images are repeated for colour; colours are averaged for grey.
  """
  n, *_, c = xs.shape
  out = jax.image.resize(xs, (n, size, size, c), 'linear')
  if channels != c:
    out = out.mean(-1, keepdims=True).repeat(channels, -1)
  return np.clip(np.asarray(out), 0.0, 1.0)
