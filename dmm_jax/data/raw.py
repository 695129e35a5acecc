"""Image sets from the files of their publishers, without TensorFlow.

Addresses of files, their sizes and checksums are those of tensorflow-datasets;
so are the names of the sets, the classes and the order of the examples, which
it shuffles by a hash: a set is the same, whichever way it was prepared.
"""

from collections.abc import Callable
from collections.abc import Mapping
import functools
import gzip
import hashlib
import math
import pathlib
import tarfile
from typing import NamedTuple

import numpy as np

from dmm_jax.data import downloads

Files = Mapping[str, pathlib.Path]
Splits = dict[str, tuple[np.ndarray, np.ndarray]]


class Set(NamedTuple):
  """How to read a set.

  Attributes:
    files: names of the publisher's files.
    read: their paths by name -> `(images uint8 [n, h, w, c], labels [n])` of
      each split, in the publisher's order.
    num_classes: of its labels.
  """

  files: tuple[str, ...]
  read: Callable[[Files], Splits]
  num_classes: int


def sources(name: str) -> dict[str, downloads.Source]:
  """Returns where the files of a set are, by name."""
  import tensorflow_datasets as tfds

  infos = tfds.builder_cls(name).url_infos
  by_name = {url.rsplit('/', 1)[1]: url for url in infos}
  return {
    file: downloads.Source(
      by_name[file],
      int(infos[by_name[file]].size),
      infos[by_name[file]].checksum,
    )
    for file in SETS[name].files
  }


def read(name: str, files: Files) -> Splits:
  """Returns the splits of a set, in the order of tensorflow-datasets.

  Args:
    name: of the set.
    files: paths of the publisher's files, by name.

  Returns:
    `(images uint8 [n, h, w, c], labels int32 [n])` by split.

  Raises:
    ValueError: for files of another format.
  """
  found = {}
  for split, (images, labels) in SETS[name].read(files).items():
    labels = labels.astype(np.int32)
    if images.ndim != 4 or labels.shape != images.shape[:1] or not len(labels):
      raise ValueError(
        f'{name}, split {split}: images {images.shape}, labels {labels.shape}'
      )
    if labels.min() < 0 or labels.max() >= SETS[name].num_classes:
      raise ValueError(
        f'{name}, split {split}: labels {labels.min()} to {labels.max()}, of '
        f'{SETS[name].num_classes} classes'
      )
    rows = order(split, len(labels))
    found[split] = images[rows], labels[rows]
  return found


def order(split: str, n: int) -> np.ndarray:
  """Returns the rows of a split `[n]` as tensorflow-datasets orders them.

  By the MD5 of the split's name and the example's number.
  """
  key = lambda i: hashlib.md5(
    f'{split}{i}'.encode(), usedforsecurity=False
  ).digest()
  return np.array(sorted(range(n), key=key))


def _read_idx(files):
  """MNIST and what has its format."""
  return {
    split: (
      _idx(files[f'{prefix}-images-idx3-ubyte.gz'])[..., None],
      _idx(files[f'{prefix}-labels-idx1-ubyte.gz']),
    )
    for split, prefix in {'train': 'train', 'test': 't10k'}.items()
  }


def _idx(path):
  """An array of bytes: two zeros, 8, the number of axes; sizes; values."""
  data = gzip.decompress(path.read_bytes())
  if data[:3] != b'\0\0\x08':
    raise ValueError(f'{path} is no idx file of bytes')
  start = 4 + 4 * data[3]
  shape = np.frombuffer(data[4:start], '>i4')
  if len(data) - start != math.prod(shape.tolist()):
    raise ValueError(f'{path} holds {len(data) - start} values, not {shape}')
  return np.frombuffer(data, np.uint8, offset=start).reshape(shape)


def _read_cifar(files, name, batches, num_labels):
  """Records of labels, of which the last is the class, and planes of colour."""
  found = {}
  with tarfile.open(files[name]) as archive:
    for split, members in batches.items():
      parts = [archive.extractfile(member) for member in members]
      data = np.frombuffer(b''.join(part.read() for part in parts), np.uint8)
      rows = data.reshape(-1, num_labels + 3 * 32 * 32)
      images = rows[:, num_labels:].reshape(-1, 3, 32, 32)
      found[split] = images.transpose(0, 2, 3, 1), rows[:, num_labels - 1]
  return found


def _read_svhn(files):
  """House numbers of Matlab; the digit 0 is stored as 10."""
  from scipy import io

  found = {}
  for split in ('train', 'test'):
    data = io.loadmat(files[f'{split}_32x32.mat'])
    images = np.moveaxis(data['X'], -1, 0)
    found[split] = images, data['y'].reshape(-1) % 10
  return found


def _cifar(name, folder, train, test, num_labels, num_classes):
  batches = {
    'train': [f'{folder}/{file}' for file in train],
    'test': [f'{folder}/{file}' for file in test],
  }
  reader = functools.partial(
    _read_cifar, name=name, batches=batches, num_labels=num_labels
  )
  return Set((name,), reader, num_classes)


_IDX = Set(
  tuple(
    f'{prefix}-{what}-ubyte.gz'
    for prefix in ('train', 't10k')
    for what in ('images-idx3', 'labels-idx1')
  ),
  _read_idx,
  10,
)
SETS = {
  'mnist': _IDX,
  'fashion_mnist': _IDX,
  'kmnist': _IDX,
  'cifar10': _cifar(
    'cifar-10-binary.tar.gz',
    'cifar-10-batches-bin',
    [f'data_batch_{i}.bin' for i in range(1, 6)],
    ['test_batch.bin'],
    num_labels=1,
    num_classes=10,
  ),
  'cifar100': _cifar(
    'cifar-100-binary.tar.gz',
    'cifar-100-binary',
    ['train.bin'],
    ['test.bin'],
    num_labels=2,
    num_classes=100,
  ),
  # Without the 1.2 GB of its split 'extra'.
  'svhn_cropped': Set(
    ('train_32x32.mat', 'test_32x32.mat'), _read_svhn, num_classes=10
  ),
}
