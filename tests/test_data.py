import itertools
import os
import pathlib
import shutil
import socket
import subprocess
import sys
import types

import jax
import numpy as np
import pytest
import tensorflow_datasets as tfds

from dmm_jax import data
from dmm_jax.data import reading
from dmm_jax.data import sets

TFDS = pathlib.Path(
  os.environ.get(
    'TFDS_DATA_DIR', pathlib.Path(__file__).parents[2] / 'shared/tfds'
  )
)
KEY = jax.random.key(3)
ANSWERS = reading._answers


@pytest.fixture(autouse=True)
def no_downloads(monkeypatch):
  def refuse(*_, **__):
    raise ConnectionError('tests download nothing')

  monkeypatch.setattr(
    tfds.core.DatasetBuilder, '_make_download_manager', refuse
  )
  # What is prepared here writes no images, and does without.
  monkeypatch.setattr(reading, 'has_tensorflow', lambda: True)
  monkeypatch.setattr(reading, '_answers', lambda url: True)


class Records(list):
  """What a data source shows; an exception among the rows is raised."""

  def __getitem__(self, key):
    row = super().__getitem__(key)
    if isinstance(row, Exception):
      raise row
    return row

  def __getitems__(self, keys):
    rows = [self[key] for key in keys]
    if hasattr(self, 'decoders'):  # Those that skip images.
      return [{k: v for k, v in row.items() if k != 'image'} for row in rows]
    self.decoded = getattr(self, 'decoded', 0) + len(rows)
    return rows


@pytest.fixture
def fake(monkeypatch):
  """Returns a function that puts `rows` in the place of every set."""

  def install(rows, *, shape=(None, None, 3), kinds=None, prepared=True):
    features = tfds.features.FeaturesDict(
      kinds
      or {
        'image': tfds.features.Image(shape=shape),
        'label': tfds.features.ClassLabel(num_classes=3),
      }
    )
    # Two files: the first two records of one, then from number 5 of another.
    parts = [
      types.SimpleNamespace(filename='file-0', skip=0, take=2),
      types.SimpleNamespace(filename='file-1', skip=5, take=len(rows)),
    ]
    split = types.SimpleNamespace(
      num_examples=len(rows), file_instructions=parts
    )
    info = types.SimpleNamespace(
      name='fake', features=features, splits={'train': split}
    )
    source = Records(rows)
    source.dataset_info, source.split = info, 'train'
    builder = types.SimpleNamespace(
      info=info,
      data_path='/sets/fake/1.0.0',
      data_dir_root='/sets',
      is_prepared=lambda: prepared,
      as_data_source=lambda split: source,
    )
    monkeypatch.setattr(tfds, 'builder', lambda name, data_dir: builder)
    return builder

  return install


def row(height, width, label=0, channels=3, dtype=np.uint8):
  pixels = np.random.default_rng(height * width).integers(
    0, 256, (height, width, channels)
  )
  return {'image': pixels.astype(dtype), 'label': label}


def need(name):
  if not (TFDS / name).exists():
    pytest.skip(f'no {name} in {TFDS}; set TFDS_DATA_DIR')
  return str(TFDS)


def test_digits_are_embedded():
  xs, labels = data.load('digits', 'train')
  assert xs.shape == (1437, 8, 8, 1) and xs.dtype == np.float32
  assert xs.min() == 0 and xs.max() == 1
  assert labels.dtype == np.int32 and set(labels) == set(range(10))
  assert len(data.load('digits', 'test')[0]) == 360
  with pytest.raises(ValueError, match="'train' or 'test'"):
    data.load('digits', 'validation')
  assert data.load('digits', 'test', size=12)[0].shape == (360, 12, 12, 1)


def test_digits_have_slices():
  xs, labels = data.load('digits', 'train')
  some, numbers = data.load('digits', 'test[-3:]+train[5:718]')
  last, _ = data.load('digits', 'test')
  assert len(some) == len(numbers) == 3 + 718 - 5
  np.testing.assert_array_equal(some[:3], last[-3:])
  np.testing.assert_array_equal(some[3:], xs[5:718])
  np.testing.assert_array_equal(numbers[3:], labels[5:718])


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
  command = f'tfds build mnist --file_format=array_record --data_dir={tmp_path}'
  with pytest.raises(
    FileNotFoundError, match='tests download nothing'
  ) as error:
    data.load('mnist', 'test', str(tmp_path))
  assert command in str(error.value)


def test_nothing_is_downloaded_without_tensorflow(fake, monkeypatch):
  monkeypatch.setattr(reading, 'has_tensorflow', lambda: False)
  # It has no download_and_prepare.
  fake([row(4, 4)], prepared=False)
  with pytest.raises(FileNotFoundError, match="No module named 'tensorflow'"):
    data.load('fake')


def test_nothing_is_downloaded_unless_wanted(tmp_path):
  for read in (
    data.load,
    lambda *args, **kwargs: next(data.stream(*args, **kwargs, batch_size=2)),
  ):
    with pytest.raises(FileNotFoundError, match='download is False; pass') as e:
      read('mnist', 'test', str(tmp_path), download=False)
    assert str(tmp_path) in str(e.value)
  assert not list(tmp_path.iterdir())


def test_hosts_that_do_not_answer_are_named_and_nothing_is_written(
  tmp_path, monkeypatch
):
  asked = []
  monkeypatch.setattr(reading, '_answers', lambda url: asked.append(url))
  with pytest.raises(
    FileNotFoundError, match=r'no answer from storage\.googleapis\.com'
  ):
    data.load('mnist', 'test', str(tmp_path))
  assert len(asked) == 1 and not list(tmp_path.iterdir())
  (tmp_path / 'downloads' / 'mnist').mkdir(parents=True)
  with pytest.raises(FileNotFoundError, match='no answer from'):
    data.load('mnist', 'test', str(tmp_path))
  # Files that are there already may suffice.
  (tmp_path / 'downloads' / 'mnist' / 'images.gz').touch()
  with pytest.raises(FileNotFoundError, match='tests download nothing'):
    data.load('mnist', 'test', str(tmp_path))
  assert len(asked) == 2


def test_a_host_that_refuses_does_not_answer():
  with socket.socket() as free:
    free.bind(('127.0.0.1', 0))
    port = free.getsockname()[1]
  assert not ANSWERS(f'http://127.0.0.1:{port}/images.gz')


def test_a_download_that_is_cut_off_leaves_nothing(tmp_path, monkeypatch):
  root = tmp_path / 'sets'

  def cut_off(self, **_):
    folder = root / 'downloads' / 'mnist'
    (root / 'downloads' / 'extracted').mkdir(parents=True)
    (folder / 'images.gz.tmp.0123').mkdir(parents=True)
    (folder / 'images.gz.tmp.0123' / 'images.gz').write_bytes(b'half')
    if kept:
      (folder / 'labels.gz').write_bytes(b'whole')
    raise KeyboardInterrupt

  monkeypatch.setattr(
    type(tfds.builder('mnist')), 'download_and_prepare', cut_off
  )
  root.mkdir()
  for kept in (False, True):
    with pytest.raises(KeyboardInterrupt):
      data.load('mnist', 'test', str(root))
    files = [p.name for p in root.rglob('*') if p.is_file()]
    assert files == ['labels.gz'] * kept
    assert bool(list(root.iterdir())) == kept
  assert not (root / 'downloads' / 'extracted').exists()


@pytest.mark.parametrize('data_dir', ['', '/no/such/place'])
def test_absent_directories_ask_for_one(data_dir):
  with pytest.raises(FileNotFoundError, match=r'no such directory.*; pass the'):
    data.load('mnist', 'test', data_dir)


def test_reading_says_nothing():
  code = f"""
from dmm_jax import data
assert len(data.load('mnist', 'test[:3]', {need('mnist')!r})[0]) == 3
try: data.load('mnist', 'test', '/', download=False)
except FileNotFoundError as error: assert 'is not in /' in str(error)
else: raise AssertionError
"""
  done = subprocess.run(
    [sys.executable, '-c', code], capture_output=True, text=True, check=False
  )
  assert (done.returncode, done.stdout, done.stderr) == (0, '', '')


def test_failed_preparation_leaves_no_set(tmp_path, monkeypatch):
  written = []

  def half(self, **_):
    path = pathlib.Path(self._data_dir) / 'mnist-test.array_record-0'
    path.write_bytes(b'half')
    self.info.write_to_directory(self._data_dir)
    written.append(path)
    raise ModuleNotFoundError("No module named 'tensorflow'")

  monkeypatch.setattr(
    tfds.core.DatasetBuilder, '_make_download_manager', lambda *_, **__: None
  )
  monkeypatch.setattr(
    type(tfds.builder('mnist')), '_download_and_prepare', half
  )
  # The second time, too, it is prepared anew, not read.
  for times in (1, 2):
    with pytest.raises(FileNotFoundError, match='tensorflow'):
      data.load('mnist', 'test', str(tmp_path))
    assert len(written) == times
    assert not list(tmp_path.iterdir())


def test_set_is_prepared_on_first_use_only(fake):
  calls = []
  builder = fake([row(4, 4)], prepared=False)
  builder.download_and_prepare = lambda **kwargs: calls.append(kwargs)
  assert data.load('fake')[0].shape == (1, 4, 4, 3)
  assert calls == [{'file_format': 'array_record'}]
  fake([row(4, 4)]).download_and_prepare = builder.download_and_prepare
  data.load('fake')
  assert len(calls) == 1


def test_other_file_formats_are_refused(fake):
  def as_data_source(split):
    raise NotImplementedError('tfrecord')

  fake([row(4, 4)]).as_data_source = as_data_source
  with pytest.raises(FileNotFoundError, match=r'/sets/fake/1\.0\.0 holds'):
    data.load('fake')


def test_directories_are_checked(tmp_path, monkeypatch):
  with pytest.raises(FileNotFoundError, match=r'no such directory.*absent'):
    data.load('mnist', 'test', str(tmp_path / 'absent'))
  monkeypatch.setattr(os, 'access', lambda path, mode: False)
  with pytest.raises(PermissionError, match=str(tmp_path)):
    data.load('mnist', 'test', str(tmp_path))


def test_names_and_splits_are_checked(fake):
  with pytest.raises(ValueError, match=r'no set .mnst.; near to it: mnist'):
    data.load('mnst')
  with pytest.raises(ValueError, match=r'9\.9\.9, only: '):
    data.load('mnist:9.9.9')
  fake([])
  with pytest.raises(
    ValueError, match="'fake', split 'train': holds no images"
  ):
    data.load('fake')


def test_a_set_without_classes_is_refused(fake):
  boxes = {'image': tfds.features.Image(), 'objects': tfds.features.Text()}
  fake([row(4, 4)], kinds=boxes)
  with pytest.raises(ValueError, match='features are image, objects'):
    data.load('fake')
  with pytest.raises(ValueError, match='features are image, objects'):
    data.num_classes('fake')


def test_unequal_images_need_a_size(fake):
  rows = [row(9, 6, 1), row(6, 9, 2), row(6, 6)]
  fake(rows)
  with pytest.raises(ValueError, match='pass size='):
    data.load('fake')
  xs, labels = data.load('fake', size=4)
  assert xs.shape == (3, 4, 4, 3) and xs.dtype == np.float32
  assert labels.tolist() == [1, 2, 0] and labels.dtype == np.int32
  # PIL against JAX, on the central squares.
  middles = [rows[0]['image'][1:7], rows[1]['image'][:, 1:7], rows[2]['image']]
  expected = data.resize(np.stack(middles).astype(np.float32) / 255, 4, 3)
  np.testing.assert_allclose(xs, expected, atol=1e-6)


def test_chunks_are_joined(fake, monkeypatch):
  monkeypatch.setattr(sets, 'CHUNK', 2)
  images = [np.full((2, 2, 3), i, np.uint8) for i in range(5)]
  fake([{'image': x, 'label': i % 3} for i, x in enumerate(images)])
  xs, labels = data.load('fake')
  np.testing.assert_allclose(xs[:, 0, 0, 0] * 255, np.arange(5), rtol=1e-6)
  assert labels.tolist() == [0, 1, 2, 0, 1]


@pytest.mark.parametrize(
  'key, place',
  [(1, 'number 1 of file-0'), (2, 'number 5 of file-1'), (3, '6 of file-1')],
)
def test_broken_records_are_named(fake, key, place):
  fake([row(4, 4)] * key + [RuntimeError('hash mismatch')])
  with pytest.raises(ValueError) as error:
    data.load('fake')
  for words in (f"record {key} of 'fake', split 'train'", place, 'mismatch'):
    assert words in str(error.value)


@pytest.mark.parametrize(
  'bad, words',
  [
    (row(4, 4, label=3), 'number 1 of file-0.* has label 3, of 3 classes'),
    (row(4, 4, label=-1), 'label -1, .*unlabelled'),
    (row(4, 4, dtype=np.uint16), 'pixels of uint16'),
  ],
)
def test_bad_contents_are_named(fake, bad, words):
  fake([row(4, 4), bad])
  with pytest.raises(ValueError, match=words):
    data.load('fake')


@pytest.mark.parametrize(
  'name, shape', [('mnist', (28, 28, 1)), ('cifar10', (32, 32, 3))]
)
def test_prepared_sets_are_read(name, shape):
  xs, labels = data.load(name, 'test[:2000]', need(name))
  assert xs.shape == (2000, *shape) and xs.dtype == np.float32
  assert 0 <= xs.min() < xs.max() <= 1 and set(labels) == set(range(10))
  # Against the reader of tensorflow-datasets, in bytes.
  source = tfds.builder(name, data_dir=str(TFDS)).as_data_source('test')
  np.testing.assert_array_equal(np.rint(xs[7] * 255), source[7]['image'])
  assert labels[7] == source[7]['label']


def test_a_damaged_file_is_named(tmp_path):
  shutil.copytree(
    pathlib.Path(need('mnist')) / 'mnist',
    tmp_path / 'mnist',
    ignore=shutil.ignore_patterns('*train*'),
    copy_function=shutil.copyfile,
  )
  (path,) = tmp_path.rglob('mnist-test*')
  path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
  with pytest.raises(ValueError, match=rf'record 0 .* of {path}\) cannot be'):
    data.load('mnist', 'test[:3]', str(tmp_path))


def test_classes_are_counted(fake):
  assert data.num_classes('digits') == 10
  assert data.num_classes('cifar100') == 100
  fake([])
  assert data.num_classes('fake') == 3


def test_stream_says_that_it_needs_grain(monkeypatch):
  monkeypatch.setitem(sys.modules, 'grain', None)
  with pytest.raises(ImportError, match='pip install grain'):
    data.stream('digits', batch_size=4)


def test_stream_in_order_is_the_set():
  pytest.importorskip('grain')
  xs, labels = data.load('digits', 'test')
  batches = list(data.stream('digits', 'test', batch_size=100, num_epochs=2))
  assert [len(b[1]) for b in batches] == [100, 100, 100, 60] * 2
  assert batches[0][0].dtype == np.float32 and batches[0][1].dtype == np.int32
  for half in (batches[:4], batches[4:]):
    np.testing.assert_array_equal(np.concatenate([b[0] for b in half]), xs)
    np.testing.assert_array_equal(np.concatenate([b[1] for b in half]), labels)


def numbered(fake, n):
  images = [np.full((2, 2, 3), i, np.uint8) for i in range(n)]
  fake([{'image': x, 'label': 0} for x in images], shape=(2, 2, 3))


def numbers(batches):
  return [np.rint(xs[:, 0, 0, 0] * 255).tolist() for xs, _ in batches]


def test_stream_shuffles_anew_each_epoch(fake):
  pytest.importorskip('grain')
  numbered(fake, 10)
  draw = lambda **kwargs: numbers(
    data.stream('fake', batch_size=3, shuffle=True, **kwargs)
  )
  first, second = draw(num_epochs=2)[:3], draw(num_epochs=2)[3:]
  for epoch in (first, second):
    assert [len(b) for b in epoch] == [3, 3, 3]
    assert len(set(itertools.chain(*epoch))) == 9
  assert first != second
  assert first == draw() and first != draw(seed=1)


@pytest.mark.parametrize('shuffle', [False, True])
def test_stream_shards_are_disjoint(fake, shuffle):
  pytest.importorskip('grain')
  numbered(fake, 11)
  draw = lambda i: numbers(
    data.stream('fake', batch_size=1, shuffle=shuffle, shard=(i, 3))
  )
  parts = [list(itertools.chain(*draw(i))) for i in range(3)]
  assert [len(p) for p in parts] == ([3, 3, 3] if shuffle else [4, 4, 3])
  seen = list(itertools.chain(*parts))
  assert len(set(seen)) == len(seen)
  if not shuffle:
    assert parts[1] == [1, 4, 7, 10]


def test_stream_goes_on_from_its_state(fake):
  pytest.importorskip('grain')
  numbered(fake, 12)
  make = lambda: data.stream(
    'fake', batch_size=2, shuffle=True, num_epochs=None
  )
  batches = make()
  next(batches)
  state = batches.get_state()
  expected = numbers([next(batches) for _ in range(9)])
  again = make()
  again.set_state(state)
  assert numbers([next(again) for _ in range(9)]) == expected


def test_stream_errors(fake):
  pytest.importorskip('grain')
  fake([row(4, 4), row(6, 4, 1), RuntimeError('hash mismatch')])
  with pytest.raises(ValueError, match='pass size='):
    data.stream('fake', batch_size=2)
  with pytest.raises(ValueError, match='batch_size 4, of 3 examples'):
    data.stream('fake', batch_size=4, size=4, shuffle=True)
  with pytest.raises(ValueError, match='shard'):
    data.stream('fake', batch_size=2, size=4, shard=(2, 2))
  batches = data.stream('fake', batch_size=2, size=4)
  xs, labels = next(batches)
  assert xs.shape == (2, 4, 4, 3) and labels.tolist() == [0, 1]
  with pytest.raises(ValueError, match=r"record 2 of 'fake'.*hash mismatch"):
    next(batches)


def test_classes_are_renumbered():
  labels = np.array([5, 3, 8, 3, 0], np.int32)
  xs = np.arange(5.0)[:, None]
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
  with pytest.raises(ValueError, match='class 7 has 2 examples'):
    data.balanced(KEY, few, 3)


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
  with pytest.raises(ValueError, match='num_classes'):
    data.noisy_labels(KEY, np.zeros(3, int), 0.5, 1)
  assert labels.tolist() == [0, 1, 2]


def test_images_on_disk_are_read_when_asked_for(fake):
  rows = [row(4, 4, label=i % 3) for i in range(20)]
  for i, one in enumerate(rows):
    one['image'][0, 0] = i  # No two alike.
  source = fake(rows, shape=(4, 4, 3)).as_data_source('train')
  lazy, same = data.load('fake', in_memory=False)
  assert source.decoded == 1  # For the shape.
  xs, labels = data.load('fake')
  np.testing.assert_array_equal(labels, same)
  assert (lazy.shape, lazy.dtype, lazy.ndim) == (xs.shape, xs.dtype, 4)
  np.testing.assert_array_equal(lazy, xs)
  np.testing.assert_array_equal(lazy[7], xs[7])
  np.testing.assert_array_equal(
    lazy[-2:][np.array([[1], [0]])], xs[[[-1], [-2]]]
  )
  np.testing.assert_array_equal(lazy.take([5, 3])[np.array([1])], xs[[3]])
  assert lazy[np.array([], int)].shape == (0, 4, 4, 3)
  some, numbers, kept = data.of_classes(lazy, labels, np.array([0, 2]))
  np.testing.assert_array_equal(some, xs[kept])
  assert set(numbers) == {0, 1}


def test_errors_of_images_on_disk(fake):
  fake([row(4, 4), row(6, 4), row(4, 4)])
  xs, _ = data.load('fake', in_memory=False)
  with pytest.raises(ValueError, match=r'image 1 has shape \(6, 4, 3\).*size='):
    xs[np.arange(3)]
  fake([row(4, 4), row(6, 4, label=7)])
  with pytest.raises(ValueError, match=r"record 1 of 'fake'.*label 7"):
    data.load('fake', in_memory=False, size=4)
