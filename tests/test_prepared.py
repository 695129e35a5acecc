"""Sets from their publishers' files: read, downloaded, refused."""

import contextlib
import gzip
import hashlib
import http.server
import io
import os
import pathlib
import socket
import tarfile
import threading
import time

import numpy as np
import offline
import pytest
import requests
from scipy import io as matlab
import tensorflow_datasets as tfds
from tensorflow_datasets.core import hashing

from dmm_jax import data
from dmm_jax.data import downloads
from dmm_jax.data import prepared
from dmm_jax.data import raw
from experiments import prepare_data

SIZES = {'train': 7, 'test': 5}
rng = np.random.default_rng(0)


def pixels(n, *shape):
  return rng.integers(0, 256, (n, *shape)).astype(np.uint8)


def classes(n, num):
  return rng.permutation(np.arange(n) % num).astype(np.uint8)


def idx(array):
  """A file as MNIST's publishers write it."""
  sizes = b''.join(n.to_bytes(4, 'big') for n in array.shape)
  return gzip.compress(
    b'\0\0\x08' + bytes([array.ndim]) + sizes + array.tobytes()
  )


def tar(members):
  out = io.BytesIO()
  with tarfile.open(fileobj=out, mode='w:gz') as archive:
    for name, content in members.items():
      info = tarfile.TarInfo(name)
      info.size = len(content)
      archive.addfile(info, io.BytesIO(content))
  return out.getvalue()


def mnist():
  """Files by name, and what they hold."""
  truth = {s: (pixels(n, 28, 28, 1), classes(n, 10)) for s, n in SIZES.items()}
  files = {}
  for split, prefix in (('train', 'train'), ('test', 't10k')):
    images, labels = truth[split]
    files[f'{prefix}-images-idx3-ubyte.gz'] = idx(images[..., 0])
    files[f'{prefix}-labels-idx1-ubyte.gz'] = idx(labels)
  return files, truth


def records(images, *labels):
  planes = images.transpose(0, 3, 1, 2).reshape(len(images), -1)
  return np.concatenate([*(v[:, None] for v in labels), planes], 1).tobytes()


def cifar10():
  truth = {s: (pixels(n, 32, 32, 3), classes(n, 10)) for s, n in SIZES.items()}
  images, labels = truth['train']
  members = {'cifar-10-batches-bin/readme.html': b'words'}
  for i, some in enumerate(np.array_split(np.arange(7), 5), 1):
    name = f'cifar-10-batches-bin/data_batch_{i}.bin'
    members[name] = records(images[some], labels[some])
  members['cifar-10-batches-bin/test_batch.bin'] = records(*truth['test'])
  return {'cifar-10-binary.tar.gz': tar(members)}, truth


def cifar100():
  truth = {
    s: (pixels(n, 32, 32, 3), 95 + classes(n, 5)) for s, n in SIZES.items()
  }
  members = {
    f'cifar-100-binary/{split}.bin': records(images, labels // 5, labels)
    for split, (images, labels) in truth.items()
  }
  return {'cifar-100-binary.tar.gz': tar(members)}, truth


def svhn_cropped():
  truth = {s: (pixels(n, 32, 32, 3), classes(n, 10)) for s, n in SIZES.items()}
  files = {}
  for split, (images, labels) in truth.items():
    out = io.BytesIO()
    digits = np.where(labels == 0, 10, labels)[:, None]
    matlab.savemat(out, {'X': np.moveaxis(images, 0, -1), 'y': digits})
    files[f'{split}_32x32.mat'] = out.getvalue()
  return files, truth


MAKERS = {
  'mnist': mnist,
  'fashion_mnist': mnist,
  'kmnist': mnist,
  'cifar10': cifar10,
  'cifar100': cifar100,
  'svhn_cropped': svhn_cropped,
}


def sources_of(files, url='http://nowhere.invalid'):
  return {
    name: downloads.Source(
      f'{url}/{name}', len(content), hashlib.sha256(content).hexdigest()
    )
    for name, content in files.items()
  }


def saved(folder, files):
  folder.mkdir(parents=True, exist_ok=True)
  for name, content in files.items():
    (folder / name).write_bytes(content)
  return folder


@pytest.fixture(autouse=True)
def no_downloads(monkeypatch):
  offline.refuse_downloads(monkeypatch)


@pytest.mark.parametrize('name', MAKERS)
def test_a_set_is_what_its_files_hold(name, tmp_path, monkeypatch):
  files, truth = MAKERS[name]()
  monkeypatch.setattr(raw, 'sources', lambda _: sources_of(files))
  folder = saved(tmp_path / 'mine' / 'deep', files)
  root = tmp_path / 'sets'
  path = prepare_data.run(
    prepare_data.Config(name, str(folder.parent), str(root))
  )
  assert path == root / 'dmm_jax' / f'{name}.npz'
  assert [p.name for p in path.parent.glob('*') if p != path] == [
    f'.{name}.lock'
  ]
  for split, (images, labels) in truth.items():
    hasher = hashing.Hasher(split)
    rows = sorted(range(len(labels)), key=hasher.hash_key)
    assert rows != list(range(len(labels)))
    xs, found = data.load(name, split, str(root))
    assert xs.dtype == np.float32 and found.dtype == np.int32
    np.testing.assert_array_equal(xs, images[rows] / np.float32(255))
    np.testing.assert_array_equal(found, labels[rows])
  assert data.num_classes(name, str(root)) == (100 if '100' in name else 10)
  assert sorted(p.name for p in folder.iterdir()) == sorted(files)


@pytest.fixture
def root(tmp_path, monkeypatch):
  """A folder with a prepared MNIST of 12 images."""
  files, _ = mnist()
  monkeypatch.setattr(raw, 'sources', lambda name: sources_of(files))
  prepared.prepare('mnist', str(tmp_path), str(saved(tmp_path / 'raw', files)))
  return str(tmp_path)


def test_splits_sizes_and_rows_of_a_prepared_set(root):
  xs, labels = data.load('mnist', 'train', root)
  more, numbers = data.load('mnist', 'train[2:5]+test[:50%]', root)
  assert len(more) == 5 or len(more) == 6
  np.testing.assert_array_equal(more[:3], xs[2:5])
  np.testing.assert_array_equal(numbers[:3], labels[2:5])
  lazy, same = data.load('mnist', 'train', root, in_memory=False)
  assert isinstance(lazy, data.Column) and lazy.shape == xs.shape
  np.testing.assert_array_equal(lazy[np.array([6, 0])], xs[[6, 0]])
  np.testing.assert_array_equal(same, labels)
  small, _ = data.load('mnist', 'train', root, size=14)
  np.testing.assert_allclose(small, data.resize(xs, 14, 1), atol=1e-6)
  pytest.importorskip('grain')
  batches = list(data.stream('mnist', 'train', root, batch_size=4))
  np.testing.assert_array_equal(np.concatenate([b[0] for b in batches]), xs)
  for split, words in (
    ('validation', "'train' or 'test', or"),
    ('test[:0]', 'no'),
  ):
    with pytest.raises(data.DataError, match=words):
      data.load('mnist', split, root)


def test_a_prepared_set_needs_neither_files_nor_network(root, monkeypatch):
  monkeypatch.setattr(raw, 'sources', lambda name: pytest.fail('asked for'))
  path = pathlib.Path(root) / 'dmm_jax' / 'mnist.npz'
  before = path.read_bytes()
  assert prepared.prepare('mnist', root) == path
  assert path.read_bytes() == before
  assert len(data.load('mnist', 'test', root, download=False)[0]) == 5
  path.write_bytes(before[: len(before) // 2])
  with pytest.raises(
    data.DataError, match=r'mnist\.npz cannot be read .*; delete it, and prep'
  ):
    data.load('mnist', 'test', root)


def test_the_default_folder_is_that_of_tensorflow_datasets(monkeypatch):
  monkeypatch.delenv('TFDS_DATA_DIR', raising=False)
  home = pathlib.Path('~/tensorflow_datasets').expanduser()
  assert prepared.path_of('mnist', None) == home / 'dmm_jax' / 'mnist.npz'
  assert prepared.command('mnist', None).endswith(
    'prepare_data --dataset=mnist'
  )
  monkeypatch.setenv('TFDS_DATA_DIR', '/sets')
  assert prepared.root(None) == pathlib.Path('/sets')


def test_files_that_are_missing_or_others_are_named(tmp_path):
  files, _ = mnist()
  sources = sources_of(files)
  start = lambda folder: prepared.prepare(
    'mnist', str(tmp_path / 'sets'), str(folder), sources=sources
  )
  with pytest.raises(FileNotFoundError, match=r'no such directory.*nowhere'):
    start(tmp_path / 'nowhere')
  folder = saved(tmp_path / 'raw', dict(list(files.items())[1:]))
  with pytest.raises(FileNotFoundError) as error:
    start(folder)
  first = next(iter(files))
  assert f'{folder} has no {first}, of' in str(error.value)
  assert f'\n  http://nowhere.invalid/{first}\n' in str(error.value)
  assert (
    f'prepare_data --dataset=mnist --raw=FOLDER --data_dir={tmp_path / "sets"}`'
    in str(error.value)
  )
  saved(folder, {first: files[first][:-1]})
  with pytest.raises(
    data.DataError, match=rf'{first} is not the file.*SHA-256'
  ):
    start(folder)
  # A good one beside it is taken.
  saved(folder / 'more', {first: files[first]})
  assert start(folder).exists()


@pytest.mark.parametrize(
  ('file', 'content', 'words'),
  [
    ('t10k-labels-idx1-ubyte.gz', b'words', 'gzip'),
    ('t10k-labels-idx1-ubyte.gz', gzip.compress(b'word' * 9), 'no idx file'),
    ('t10k-labels-idx1-ubyte.gz', idx(np.zeros(4, np.uint8)), r'labels \(4,\)'),
    ('t10k-labels-idx1-ubyte.gz', idx(np.full(5, 10, np.uint8)), '10 to 10'),
    (
      't10k-labels-idx1-ubyte.gz',
      gzip.compress(gzip.decompress(idx(np.zeros(5, np.uint8))) + b'\0'),
      r'holds 6 values',
    ),
  ],
  ids=['no gzip', 'no idx', 'other number', 'other classes', 'too long'],
)
def test_files_of_another_format_are_refused(file, content, words, tmp_path):
  files = mnist()[0] | {file: content}
  folder = saved(tmp_path / 'raw', files)
  with pytest.raises(data.DataError, match=f"'mnist' cannot be read.*{words}"):
    prepared.prepare(
      'mnist', str(tmp_path), str(folder), sources=sources_of(files)
    )
  assert not list(tmp_path.glob('dmm_jax/*.npz'))
  assert not list(tmp_path.glob('dmm_jax/.*npz*'))


def test_sources_are_those_of_tensorflow_datasets():
  for name, spec in raw.SETS.items():
    found = raw.sources(name)
    assert tuple(found) == spec.files
    for file, source in found.items():
      assert source.url.endswith(f'/{file}') and source.size > 1000
      assert len(source.checksum) == 64
    assert tfds.builder(name).info.features['label'].num_classes == (
      spec.num_classes
    )


def test_the_order_is_that_of_tensorflow_datasets():
  """Its MNIST, put back in order, begins as the publisher's does."""
  folder = os.environ.get(
    'TFDS_DATA_DIR', pathlib.Path(__file__).parents[2] / 'shared/tfds'
  )
  if not (pathlib.Path(folder) / 'mnist').exists():
    pytest.skip(f'no mnist in {folder}; set TFDS_DATA_DIR')
  _, labels = data.load('mnist', 'test', str(folder), in_memory=False)
  rows = np.argsort(raw.order('test', len(labels)))
  assert labels[rows[:12]].tolist() == [7, 2, 1, 0, 4, 1, 4, 9, 5, 9, 0, 6]


# --- Downloads ---------------------------------------------------------------


class Host(http.server.ThreadingHTTPServer):
  """Serves files; `behave` says how each request is answered.

  Each behaviour is used once, the last for ever: 'whole', 'cut' (half of what
  is asked for), 'stall' (the same, then silence), 'slow' (in small parts), 'no
  range' (the whole, whatever is asked for), or a status to refuse with.
  """

  daemon_threads = True

  def __init__(self, files):
    super().__init__(('127.0.0.1', 0), Handler)
    self.files, self.behave, self.asked = files, ['whole'], []
    self.url = f'http://127.0.0.1:{self.server_port}'

  def handle_error(self, *_):
    """Clients go away."""


class Handler(http.server.BaseHTTPRequestHandler):
  def log_message(self, *_):
    pass

  def do_GET(self):
    host = self.server
    how = host.behave.pop(0) if len(host.behave) > 1 else host.behave[0]
    asked = self.headers.get('Range')
    host.asked.append((self.path[1:], asked))
    if isinstance(how, int):
      self.send_error(how)
      return
    content = host.files[self.path[1:]]
    start = int(asked[6:-1]) if asked and how != 'no range' else 0
    content = content[start:]
    self.send_response(206 if start else 200)
    self.send_header('Content-Length', str(len(content)))
    self.end_headers()
    if how in ('cut', 'stall'):
      self.wfile.write(content[: (len(content) + 1) // 2])
      self.wfile.flush()
      time.sleep(1.0 if how == 'stall' else 0)
    elif how == 'slow':
      for i in range(0, len(content), 64):
        self.wfile.write(content[i : i + 64])
        self.wfile.flush()
        time.sleep(0.01)
    else:
      self.wfile.write(content)


CONTENT = bytes(range(256)) * 4


@pytest.fixture
def host():
  with Host({'file': CONTENT}) as found:
    thread = threading.Thread(target=found.serve_forever, daemon=True)
    thread.start()
    yield found
    found.shutdown()


def get(host, path, **options):
  source = sources_of(host.files, host.url)['file']
  downloads.fetch(source, path, timeout=(1.0, 0.3), progress=False, **options)


@pytest.mark.parametrize(
  ('behave', 'ranges'),
  [
    (['whole'], [None]),
    (['slow'], [None]),
    (['cut', 'cut', 'whole'], [None, 'bytes=512-', 'bytes=768-']),
    (['stall', 'whole'], [None, 'bytes=512-']),
    (['cut', 'no range'], [None, 'bytes=512-']),
    ([503, 'whole'], [None, None]),
    (['cut', 503, 'whole'], [None, 'bytes=512-', 'bytes=512-']),
  ],
)
def test_a_broken_download_goes_on(host, tmp_path, behave, ranges):
  host.behave = behave
  get(host, tmp_path / 'file')
  assert (tmp_path / 'file').read_bytes() == CONTENT
  assert [asked for _, asked in host.asked] == ranges
  assert [path.name for path in tmp_path.iterdir()] == ['file']
  get(host, tmp_path / 'file')  # It is there.
  assert len(host.asked) == len(ranges)


def test_a_later_call_goes_on(host, tmp_path):
  host.behave = ['cut', 503]
  with pytest.raises(ConnectionError, match=f'{host.url}/file: 503 Service'):
    get(host, tmp_path / 'file')
  assert (tmp_path / 'file.part').read_bytes() == CONTENT[:512]
  host.behave, host.asked = ['whole'], []
  get(host, tmp_path / 'file')
  assert host.asked == [('file', 'bytes=512-')]
  assert (tmp_path / 'file').read_bytes() == CONTENT


@pytest.mark.parametrize('rest', [b'something', CONTENT + b'.', b'x' * 1024])
def test_a_rest_of_another_file_is_replaced(host, tmp_path, rest):
  (tmp_path / 'file.part').write_bytes(rest)
  get(host, tmp_path / 'file')
  assert (tmp_path / 'file').read_bytes() == CONTENT
  (tmp_path / 'file').write_bytes(rest)
  get(host, tmp_path / 'file')
  assert (tmp_path / 'file').read_bytes() == CONTENT


def test_another_file_is_refused(host, tmp_path):
  source = downloads.Source(f'{host.url}/file', len(CONTENT), 64 * '0')
  digest = hashlib.sha256(CONTENT).hexdigest()
  with pytest.raises(ValueError, match=f'{digest}, not {64 * "0"}'):
    downloads.fetch(source, tmp_path / 'file', progress=False)
  assert not list(tmp_path.iterdir()) and len(host.asked) == 1


@pytest.mark.parametrize(
  ('behave', 'count', 'words'),
  [
    ([400], 1, '400 Bad Request'),
    ([404], 1, '404 Not Found'),
    ([500], 2, '500 Internal'),
    (['stall', 503], 3, '503'),
  ],
)
def test_a_host_that_refuses_is_not_asked_for_ever(
  host, tmp_path, behave, count, words
):
  host.behave = behave
  with pytest.raises(ConnectionError, match=words):
    get(host, tmp_path / 'file')
  assert len(host.asked) == count


def test_progress_is_shown(host, tmp_path, capsys):
  host.behave = ['cut', 'whole']
  source = sources_of(host.files, host.url)['file']
  downloads.fetch(source, tmp_path / 'file')
  shown = capsys.readouterr().err
  assert 'file:  50%' in shown and '1.02k/1.02k' in shown


def test_time_is_limited_to_seconds(monkeypatch, tmp_path):
  calls = []

  def silent(url, **options):
    calls.append(options)
    raise requests.ConnectTimeout('too long')

  monkeypatch.setattr(requests, 'get', silent)
  source = downloads.Source('http://a/file', 5, '')
  with pytest.raises(ConnectionError, match='no answer in time'):
    downloads.fetch(source, tmp_path / 'file')
  assert len(calls) == 2 and sum(c['timeout'][0] for c in calls) <= 10
  assert calls[0]['headers'] == {'Accept-Encoding': 'identity'}


@pytest.mark.parametrize('name', ['mnist', 'svhn_cropped'])
def test_a_set_is_downloaded_and_prepared_on_first_use(
  name, host, tmp_path, monkeypatch
):
  host.files, truth = MAKERS[name]()
  host.behave = ['cut', 'whole']
  monkeypatch.setattr(
    raw, 'sources', lambda _: sources_of(host.files, host.url)
  )
  assert len(data.load(name, 'test', str(tmp_path))[0]) == 5
  assert {file for file, _ in host.asked} == set(host.files)
  num = len(host.asked)
  assert len(data.load(name, 'train', str(tmp_path))[0]) == 7
  assert len(host.asked) == num
  assert not (tmp_path / 'dmm_jax/downloads' / name).exists()
  del truth


def test_threads_that_prepare_at_once_download_once(host, tmp_path):
  host.files, _ = mnist()
  host.behave = ['slow']
  sources = sources_of(host.files, host.url)
  start = lambda: prepared.prepare(
    'mnist', str(tmp_path), sources=sources, progress=False
  )
  threads = [threading.Thread(target=start) for _ in range(3)]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()
  assert len(host.asked) == 4
  assert len(data.load('mnist', 'train', str(tmp_path))[0]) == 7


def test_without_a_network_the_command_is_said_within_seconds(
  tmp_path, monkeypatch
):
  with socket.socket() as free:
    free.bind(('127.0.0.1', 0))
    url = f'http://127.0.0.1:{free.getsockname()[1]}'
  sources = sources_of(mnist()[0], url)
  monkeypatch.setattr(raw, 'sources', lambda _: sources)
  start = time.monotonic()
  with pytest.raises(FileNotFoundError) as error:
    data.load('mnist', 'test', str(tmp_path))
  assert time.monotonic() - start < 10
  said = str(error.value)
  base = 'python -m experiments.prepare_data --dataset=mnist'
  assert f'and cannot be downloaded: {url}/train-images' in said
  assert ': no connection\n' in said
  assert f'`{base} --data_dir={tmp_path}`' in said
  assert f'`{base} --raw=FOLDER --data_dir={tmp_path}`' in said
  assert all(source.url in said for source in sources.values())
  assert not list((tmp_path / 'dmm_jax').glob('*downloads*'))
  with pytest.raises(FileNotFoundError, match='is False; pass') as error:
    data.load('mnist', 'test', str(tmp_path), download=False)
  assert f'`{base} --data_dir={tmp_path}`' in str(error.value)


def test_a_wrong_download_is_refused(host, tmp_path, monkeypatch):
  host.files, _ = mnist()
  wrong = {
    name: source._replace(checksum=64 * 'a')
    for name, source in sources_of(host.files, host.url).items()
  }
  monkeypatch.setattr(raw, 'sources', lambda _: wrong)
  with pytest.raises(data.DataError, match='is another file than expected'):
    data.load('mnist', 'test', str(tmp_path))


def test_a_killed_preparation_leaves_no_set(tmp_path, monkeypatch):
  files, _ = mnist()
  folder = str(saved(tmp_path / 'raw', files))
  sources = sources_of(files)

  def cut_off(file, **_):
    file.write(b'half')
    raise KeyboardInterrupt

  with monkeypatch.context() as patch, contextlib.suppress(KeyboardInterrupt):
    patch.setattr(np, 'savez', cut_off)
    prepared.prepare('mnist', str(tmp_path), folder, sources=sources)
  left = [p.name for p in (tmp_path / 'dmm_jax').iterdir()]
  assert not [name for name in left if 'npz' in name]
  assert prepared.prepare('mnist', str(tmp_path), folder, sources=sources)
