"""Sets of images: read, resized, streamed, and what is refused."""

import itertools
import json
import os
import pathlib
import shutil
import subprocess
import sys
import types

import jax
import numpy as np
import offline
import pytest
from sklearn import datasets
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


@pytest.fixture(autouse=True)
def no_downloads(monkeypatch):
  offline.refuse_downloads(monkeypatch)


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
  images, numbers = datasets.load_digits(return_X_y=True)
  np.testing.assert_allclose(xs.reshape(-1, 64), images[:1437] / 16)
  np.testing.assert_array_equal(labels, numbers[:1437])
  last, numbers_of_last = data.load('digits', 'test')
  np.testing.assert_allclose(last.reshape(-1, 64), images[1437:] / 16)
  np.testing.assert_array_equal(numbers_of_last, numbers[1437:])


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


def test_nothing_is_downloaded_without_tensorflow(fake, monkeypatch):
  monkeypatch.setattr(reading, 'has_tensorflow', lambda: False)
  # It has no download_and_prepare.
  fake([row(4, 4)], prepared=False)
  with pytest.raises(FileNotFoundError, match="No module named 'tensorflow'"):
    data.load('fake')


def test_preparing_leaves_the_gpu_to_jax(fake, monkeypatch):
  name = 'TF_FORCE_GPU_ALLOW_GROWTH'
  for before, after in ((None, 'true'), ('false', 'false')):
    monkeypatch.delenv(name, raising=False)
    if before:
      monkeypatch.setenv(name, before)
    fake([row(4, 4)], prepared=False).download_and_prepare = lambda **_: None
    data.load('fake')
    assert os.environ[name] == after


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


def test_names_and_splits_are_checked(fake):
  with pytest.raises(data.DataError, match=r'no set .mnst.; near to it: mnist'):
    data.load('mnst')
  with pytest.raises(data.DataError, match=r'no set .qqqqqqqqqq.$'):
    data.load('qqqqqqqqqq')
  with pytest.raises(
    data.DataError, match=r'no set .digit.; near to it: digits'
  ):
    data.load('digit')
  with pytest.raises(data.DataError, match=r'9\.9\.9, only: '):
    data.load('mnist:9.9.9')
  fake([])
  with pytest.raises(
    ValueError, match="'fake', split 'train': holds no images"
  ):
    data.load('fake')


def test_names_are_looked_for_here_alone(monkeypatch):
  asked = []
  monkeypatch.setattr(
    tfds, 'list_builders', lambda **given: asked.append(given) or ['mnist']
  )
  with pytest.raises(data.DataError, match='near to it: mnist'):
    data.load('mnst')
  assert asked == [{'with_community_datasets': False}]


def test_a_set_without_classes_is_refused(fake):
  boxes = {'image': tfds.features.Image(), 'objects': tfds.features.Text()}
  fake([row(4, 4)], kinds=boxes)
  with pytest.raises(data.DataError, match='features are image, objects'):
    data.load('fake')
  with pytest.raises(data.DataError, match='features are image, objects'):
    data.num_classes('fake')
  words = {'image': tfds.features.Image(), 'label': tfds.features.Text()}
  fake([row(4, 4)], kinds=words)
  with pytest.raises(
    data.DataError, match="needed are an 'image' and a 'label'"
  ):
    data.num_classes('fake')


def test_unequal_images_need_a_size(fake):
  rows = [row(13, 6, 1), row(6, 13, 2), row(6, 6)]
  fake(rows)
  with pytest.raises(data.DataError, match='pass size='):
    data.load('fake')
  xs, labels = data.load('fake', size=4)
  assert xs.shape == (3, 4, 4, 3) and xs.dtype == np.float32
  assert labels.tolist() == [1, 2, 0] and labels.dtype == np.int32
  # PIL against JAX, on the central squares.
  middles = [rows[0]['image'][3:9], rows[1]['image'][:, 3:9], rows[2]['image']]
  expected = data.resize(np.stack(middles).astype(np.float32) / 255, 4, 3)
  np.testing.assert_allclose(xs, expected, atol=1e-6)


def test_chunks_are_joined(fake, monkeypatch):
  monkeypatch.setattr(sets, 'CHUNK', 2)
  monkeypatch.setattr(reading, '_CHUNK', 2)
  images = [np.full((2, 2, 3), i, np.uint8) for i in range(5)]
  fake([{'image': x, 'label': i % 3} for i, x in enumerate(images)])
  xs, labels = data.load('fake')
  np.testing.assert_allclose(xs[:, 0, 0, 0] * 255, np.arange(5), rtol=1e-6)
  assert labels.tolist() == [0, 1, 2, 0, 1]
  lazy, labels = data.load('fake', in_memory=False)
  assert labels.tolist() == [0, 1, 2, 0, 1] and lazy.shape == (5, 2, 2, 3)


@pytest.mark.parametrize(
  'key, place',
  [(1, 'number 1 of file-0'), (2, 'number 5 of file-1'), (3, '6 of file-1')],
)
def test_broken_records_are_named(fake, key, place):
  fake([row(4, 4)] * key + [RuntimeError('hash mismatch')])
  with pytest.raises(data.DataError) as error:
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


def test_streams_take_a_size_and_whole_epochs(fake):
  pytest.importorskip('grain')
  xs, labels = next(data.stream('digits', 'test', batch_size=4, size=5))
  want, numbers_of = data.load('digits', 'test', size=5)
  np.testing.assert_array_equal(xs, want[:4])
  np.testing.assert_array_equal(labels, numbers_of[:4])
  numbered(fake, 6)
  draw = lambda **options: numbers(
    data.stream('fake', shuffle=True, batch_size=6, **options)
  )
  ((*once,),) = draw()
  assert sorted(once) == list(range(6))
  assert [once] == draw(seed=0, num_epochs=1, shard=(0, 1))


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
  for shard in ((2, 2), (-1, 2)):
    with pytest.raises(
      ValueError, match=r'shard is \(index, count\), 0 <= ind'
    ):
      data.stream('fake', batch_size=2, size=4, shard=shard)
  with pytest.raises(ValueError, match='batch_size 0, of 3 examples'):
    data.stream('fake', batch_size=0, size=4)
  batches = data.stream('fake', batch_size=2, size=4)
  xs, labels = next(batches)
  assert xs.shape == (2, 4, 4, 3) and labels.tolist() == [0, 1]
  with pytest.raises(ValueError, match=r"record 2 of 'fake'.*hash mismatch"):
    next(batches)


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


def test_columns_are_arrays_along_their_first_axis():
  rows = np.arange(24, dtype=np.float32).reshape(6, 2, 2)
  column = data.Column(lambda keys: [rows[k] for k in keys], [5, 0, 3], (2, 2))
  assert column.shape == (3, 2, 2) and column.ndim == 3 and len(column) == 3
  np.testing.assert_array_equal(column[:2].take(np.array([1]))[0], rows[0])
  np.testing.assert_array_equal(np.asarray(column), rows[[5, 0, 3]])
  wide = np.asarray(column, np.float64)
  assert wide.dtype == np.float64 and np.asarray(column).dtype == np.float32
  np.testing.assert_array_equal(wide, rows[[5, 0, 3]])
  assert column.take(np.array([2]), axis=0).shape == (1, 2, 2)
  with pytest.raises(ValueError, match='has rows along axis 0, not 1'):
    column.take(np.array([0]), axis=1)


def test_errors_of_images_on_disk(fake):
  fake([row(4, 4), row(6, 4), row(4, 4)])
  xs, _ = data.load('fake', in_memory=False)
  with pytest.raises(ValueError, match=r'image 1 has shape \(6, 4, 3\).*size='):
    xs[np.arange(3)]
  fake([row(4, 4), row(6, 4, label=7)])
  with pytest.raises(ValueError, match=r"record 1 of 'fake'.*label 7"):
    data.load('fake', in_memory=False, size=4)


@pytest.mark.parametrize('key', ['pythonClassName', 'type'])
def test_classes_of_other_packages_are_not_imported(tmp_path, key):
  """A prepared set may come from anywhere."""
  folder = tmp_path / 'mnist' / '3.0.1'
  folder.mkdir(parents=True)
  (tmp_path / 'evil.py').write_text('raise SystemExit("imported")')
  text = json.dumps({'a': [{key: 'evil.Features'}]})
  escaped = text.replace('e', '\\u0065').replace('tru\\u0065', 'true')
  for features in (text, escaped):
    (folder / 'features.json').write_text(features)
    with pytest.raises(
      data.DataError, match=r"json names the class 'evil\.Fea"
    ):
      data.load('mnist', 'test', str(tmp_path))
  (folder / 'features.json').write_text('{"a')
  with pytest.raises(data.DataError, match=r'features\.json cannot be read'):
    data.load('mnist/x:3.0.1', 'test', str(tmp_path))
