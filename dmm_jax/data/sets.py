"""Whole sets in memory, or streams of batches."""

from collections.abc import Iterator

import numpy as np

from dmm_jax.data import columns
from dmm_jax.data import images
from dmm_jax.data import prepared
from dmm_jax.data import raw
from dmm_jax.data import reading

# Images decoded at a time, so that no second copy of a whole set is held.
CHUNK = 256


def load(
  name: str,
  split: str = 'train',
  data_dir: str | None = None,
  *,
  size: int | None = None,
  in_memory: bool = True,
  download: bool = True,
) -> tuple[np.ndarray | columns.Column, np.ndarray]:
  """Returns `(xs [n, h, w, c] float32 in [0, 1], labels [n] int32)`.

  A set that is not on disk is downloaded and prepared on first use: those of
  `raw.SETS` ('mnist', 'fashion_mnist', 'kmnist', 'cifar10', 'cifar100' and
  'svhn_cropped') from their publishers' files, which takes minutes, and which a
  broken download continues. Other sets need TensorFlow and, for some, hours and
  many gigabytes; let one process do it: several at once would each download.
  Where no host answers, it fails within seconds, and says what to do elsewhere.

  Args:
    name: 'digits' (1797 images, 8x8, embedded in scikit-learn) or an image
      classification set of tensorflow-datasets, such as 'mnist', 'cifar10' or
      'imagenette/160px-v2'.
    split: as tensorflow-datasets has it: 'test', 'train[:1000]', 'train+test'.
      For 'digits' the last 360 images are the test.
    data_dir: directory of the prepared sets; None stands for $TFDS_DATA_DIR or
      `~/tensorflow_datasets`.
    size: if given, each image's central square, resized to `size` x `size` as
      by `resize`. Sets whose images differ in size need it.
    in_memory: False leaves the images on disk, for sets larger than memory: xs
      is then a `Column`, whose rows are read when they are asked for, and whose
      errors of reading show then. Not of 'digits'.
    download: False reads what is on disk alone: a set that is not there raises
      FileNotFoundError, and nothing is written.

  Raises:
    FileNotFoundError: if the set is not in `data_dir` and could not be prepared
      there, or if there is no such directory (PermissionError: no access).
    DataError: a ValueError, for an unknown set or split, a set without images
      and classes, images of unequal sizes, an unreadable record, a label out of
      range.
  """
  if name == 'digits':
    xs, labels = _digits(split)
    return xs if size is None else images.resize(xs, size, 1), labels
  source = _source(name, split, data_dir, download)
  n = len(source)
  if not in_memory:
    read = lambda keys: [x for x, _ in reading.examples(source, keys, size)]
    (first,) = read([0])
    xs = columns.Column(read, np.arange(n), first.shape)
    return xs, reading.labels(source)
  xs, labels = None, np.empty(n, np.int32)
  for start in range(0, n, CHUNK):
    keys = range(start, min(start + CHUNK, n))
    for i, (x, label) in enumerate(reading.examples(source, keys, size), start):
      if xs is None:
        xs = np.empty((n, *x.shape), np.float32)
      if x.shape != xs.shape[1:]:
        raise reading.DataError(
          f'images of {name!r} differ in size ({xs.shape[1:]}, then {x.shape}):'
          ' pass size=, in pixels, to have each resized'
        )
      xs[i], labels[i] = x, label
  return xs, labels


def stream(
  name: str,
  split: str = 'train',
  data_dir: str | None = None,
  *,
  batch_size: int,
  size: int | None = None,
  seed: int = 0,
  shuffle: bool = False,
  num_epochs: int | None = 1,
  shard: tuple[int, int] = (0, 1),
  download: bool = True,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
  """Returns an iterator of batches `(xs, labels)`, for sets larger than memory.

  By grain (https://google-grain.readthedocs.io), whose iterators have
  `get_state` and `set_state`, to go on later from the same batch.

  Args:
    name, split, data_dir, size, download: as in `load`.
    batch_size: examples in a batch. The last batch of an epoch may be smaller,
      or is left out with `shuffle`.
    seed: of the order with `shuffle`, which is a new one each epoch.
    shuffle: the order is random, else that of `load`.
    num_epochs: passes over the set; None is for ever.
    shard: `(index, count)`, this process and how many there are. Each reads
      every count-th example from its index on; with `shuffle` up to count - 1
      are left out each epoch, so that all processes take equal steps.

  Raises:
    ImportError: without grain.
    DataError, FileNotFoundError: as `load`; if a batch is larger than a shard.
  """
  try:
    import grain
  except ImportError as error:
    raise ImportError('data.stream needs grain: pip install grain') from error
  index, count = shard
  if not 0 <= index < count:
    raise reading.DataError(
      f'shard is (index, count), 0 <= index < count; got {shard}'
    )
  n, example = _examples(name, split, data_dir, size, download)
  order = grain.MapDataset.range(n)
  if shuffle:
    order = order.shuffle(seed=seed)[: n - n % count]
  order = order[index::count]
  if batch_size < 1 or (shuffle and batch_size > len(order)):
    raise reading.DataError(
      f'batch_size {batch_size}, of {len(order)} examples'
    )
  batches = order.map(example).batch(batch_size, drop_remainder=shuffle)
  # Counted in batches, of which grain would keep 500 in memory.
  options = grain.ReadOptions(num_threads=8, prefetch_buffer_size=8)
  return iter(batches.repeat(num_epochs).to_iter_dataset(options))


def num_classes(name: str, data_dir: str | None = None) -> int:
  """Returns a set's number of classes, without reading or preparing it."""
  if name == 'digits':
    return 10
  if name in raw.SETS:
    reading.check_directory(data_dir)
    return raw.SETS[name].num_classes
  return reading.num_classes(reading.find(name, data_dir), name)


def _source(name, split, data_dir, download):
  """Returns the records of a split, which is prepared first if need be."""
  if name not in raw.SETS or not reading.is_local(data_dir):
    return reading.records(name, split, data_dir, download)
  reading.check_directory(data_dir)
  if not prepared.path_of(name, data_dir).exists():
    if reading.find(name, data_dir).is_prepared():
      return reading.records(name, split, data_dir, download)
    if not download:
      raise FileNotFoundError(
        f'data set {name!r} is not in {prepared.root(data_dir)}, and download '
        'is False; pass the directory that holds it as data_dir, or prepare it '
        f'with `{prepared.command(name, data_dir)}`'
      )
    prepared.prepare(name, data_dir)
  return prepared.records(name, split, data_dir)


def _digits(split):
  from sklearn import datasets

  xs, labels = datasets.load_digits(return_X_y=True)
  xs = (xs / 16).astype(np.float32).reshape(-1, 8, 8, 1)
  rows = {'train': np.arange(1437), 'test': np.arange(1437, 1797)}
  sizes = {key: len(numbers) for key, numbers in rows.items()}
  parts = reading.slices('digits', sizes, split)
  kept = np.concatenate([rows[key][some] for key, some in parts])
  return xs[kept], labels[kept].astype(np.int32)


def _examples(name, split, data_dir, size, download):
  """Returns `(n, i -> (x, label))`."""
  if name == 'digits':
    xs, labels = load(name, split, size=size)
    return len(xs), lambda i: (xs[i], labels[i])
  source = _source(name, split, data_dir, download)
  if size is None and None in source.dataset_info.features['image'].shape:
    raise reading.DataError(
      f'images of {name!r} may differ in size: pass size=, in pixels, to have '
      'each resized'
    )
  return len(source), lambda i: next(reading.examples(source, [i], size))
