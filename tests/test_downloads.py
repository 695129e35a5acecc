"""Sets that are not there: what is downloaded, removed and said."""

import os
import pathlib
import socket
import time
import types

import offline
import pytest
import requests
import tensorflow_datasets as tfds

from dmm_jax import data
from dmm_jax.data import reading

ANSWERS = reading._answers
HAS_TENSORFLOW = reading.has_tensorflow


@pytest.fixture(autouse=True)
def no_downloads(monkeypatch):
  offline.refuse_downloads(monkeypatch)


def test_absent_set_says_how_to_prepare_it(tmp_path):
  command = f'tfds build beans --file_format=array_record --data_dir={tmp_path}'
  with pytest.raises(
    FileNotFoundError, match='tests download nothing'
  ) as error:
    data.load('beans', 'test', str(tmp_path))
  assert command in str(error.value)


def test_nothing_is_downloaded_unless_wanted(tmp_path):
  for read in (
    data.load,
    lambda *args, **kwargs: next(data.stream(*args, **kwargs, batch_size=2)),
  ):
    with pytest.raises(FileNotFoundError, match='download is False; pass') as e:
      read('mnist', 'test', str(tmp_path), download=False)
    assert str(tmp_path) in str(e.value)
  assert not list(tmp_path.iterdir())


def test_streams_download_by_default(tmp_path):
  pytest.importorskip('grain')
  with pytest.raises(FileNotFoundError, match='tests download nothing'):
    data.stream('beans', 'test', str(tmp_path), batch_size=2)


def test_hosts_that_do_not_answer_are_named_and_nothing_is_written(
  tmp_path, monkeypatch
):
  asked = []
  monkeypatch.setattr(reading, '_answers', lambda url: asked.append(url))
  with pytest.raises(
    FileNotFoundError, match=r'no answer from storage\.googleapis\.com'
  ):
    data.load('beans', 'test', str(tmp_path))
  assert len(asked) == 1 and not list(tmp_path.iterdir())
  (tmp_path / 'downloads' / 'beans').mkdir(parents=True)
  with pytest.raises(FileNotFoundError, match='no answer from'):
    data.load('beans', 'test', str(tmp_path))
  # Files that are there already may suffice.
  (tmp_path / 'downloads' / 'beans' / 'images.gz').touch()
  with pytest.raises(FileNotFoundError, match='tests download nothing'):
    data.load('beans', 'test', str(tmp_path))
  assert len(asked) == 2


def test_three_hosts_are_asked_before_a_download(tmp_path, monkeypatch):
  urls = 'https://d/1 https://b/2 http://a/3 https://b/4 ftp://aa/5 https://c/6'
  asked, answering = [], set()

  def answers(url):
    asked.append(url)
    return url in answering

  monkeypatch.setattr(reading, '_answers', answers)

  def silent(**changes):
    asked.clear()
    builder = dict(
      url_infos=dict.fromkeys(urls.split()),
      data_dir_root=str(tmp_path),
      MANUAL_DOWNLOAD_INSTRUCTIONS=None,
    )
    return reading._silent_hosts(types.SimpleNamespace(**builder | changes))

  assert silent() == ['a', 'b', 'c']
  # The first file of each.
  assert asked == ['http://a/3', 'https://b/2', 'https://c/6']
  for url in ('https://c/6', 'http://a/3'):
    answering.add(url)
    assert silent() == []
    answering.clear()
  # None where files by hand may suffice, or nothing is to be downloaded.
  assert silent(MANUAL_DOWNLOAD_INSTRUCTIONS='by hand') == [] == asked
  assert silent(url_infos={'ftp://aa/5': None}) == [] == asked
  (tmp_path / 'downloads' / 'empty').mkdir(parents=True)
  assert silent() == ['a', 'b', 'c']
  (tmp_path / 'downloads' / 'images.gz').touch()
  assert silent() == [] == asked


def test_hosts_have_five_seconds_to_answer(monkeypatch):
  calls = []
  monkeypatch.setattr(
    requests, 'head', lambda url, **options: calls.append((url, options))
  )
  assert ANSWERS('https://a/b')
  assert calls == [('https://a/b', dict(timeout=5, allow_redirects=False))]


def test_what_an_unfinished_download_leaves_is_removed(tmp_path):
  builder = types.SimpleNamespace(
    data_dir_root=str(tmp_path), data_path=tmp_path / 'fake' / '1.0.0'
  )
  downloads = tmp_path / 'downloads'
  for name in ('empty', 'old.tmp.1'):
    (downloads / name).mkdir(parents=True)
  hour = time.time() - 3600
  os.utime(downloads / 'old.tmp.1', (hour, hour))
  remove = reading._remover(builder)
  for name in ('new.tmp.2', 'fake/new.tmp.3', 'fresh'):
    (downloads / name).mkdir(parents=True)
    (downloads / name / 'part').touch()
  (downloads / 'fresh' / 'part').unlink()
  (tmp_path / 'fake').mkdir()
  remove()
  left = {p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob('*')}
  # What was there, empty or not, and younger calls' directories alone.
  assert left == {'downloads', 'downloads/empty', 'downloads/old.tmp.1'}
  # Nothing is removed where the sets do not lie on this machine.
  builder.data_dir_root = 'gs://bucket/sets'
  assert reading._remover(builder)() is None
  # All of it, where none of it was there.
  root = tmp_path / 'root'
  builder = types.SimpleNamespace(
    data_dir_root=str(root), data_path=root / 'fake' / '1.0.0'
  )
  remove = reading._remover(builder)
  (root / 'downloads' / 'x.tmp.1').mkdir(parents=True)
  (root / 'fake').mkdir()
  remove()
  assert not root.exists()


@pytest.mark.parametrize('there', [True, False])
def test_tensorflow_is_looked_for(monkeypatch, there):
  find = lambda name: {'tensorflow': there or None}[name]
  monkeypatch.setattr(reading.util, 'find_spec', find)
  assert HAS_TENSORFLOW() is there


def test_a_host_that_refuses_does_not_answer():
  with socket.socket() as free:
    free.bind(('127.0.0.1', 0))
    port = free.getsockname()[1]
  assert not ANSWERS(f'http://127.0.0.1:{port}/images.gz')


def test_a_download_that_is_cut_off_leaves_nothing(tmp_path, monkeypatch):
  root = tmp_path / 'sets'

  def cut_off(self, **_):
    folder = root / 'downloads' / 'beans'
    (root / 'downloads' / 'extracted').mkdir(parents=True)
    (folder / 'images.gz.tmp.0123').mkdir(parents=True)
    (folder / 'images.gz.tmp.0123' / 'images.gz').write_bytes(b'half')
    if kept:
      (folder / 'labels.gz').write_bytes(b'whole')
    raise KeyboardInterrupt

  monkeypatch.setattr(
    type(tfds.builder('beans')), 'download_and_prepare', cut_off
  )
  root.mkdir()
  for kept in (False, True):
    with pytest.raises(KeyboardInterrupt):
      data.load('beans', 'test', str(root))
    files = [p.name for p in root.rglob('*') if p.is_file()]
    assert files == ['labels.gz'] * kept
    assert bool(list(root.iterdir())) == kept
  assert not (root / 'downloads' / 'extracted').exists()


@pytest.mark.parametrize('data_dir', ['', '/no/such/place'])
def test_absent_directories_ask_for_one(data_dir):
  with pytest.raises(FileNotFoundError, match=r'no such directory.*; pass the'):
    data.load('mnist', 'test', data_dir)


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
    type(tfds.builder('beans')), '_download_and_prepare', half
  )
  # The second time, too, it is prepared anew, not read.
  for times in (1, 2):
    with pytest.raises(FileNotFoundError, match='tensorflow'):
      data.load('beans', 'test', str(tmp_path))
    assert len(written) == times
    assert not list(tmp_path.iterdir())


def test_directories_are_checked(tmp_path, monkeypatch):
  with pytest.raises(FileNotFoundError, match=r'no such directory.*absent'):
    data.load('mnist', 'test', str(tmp_path / 'absent'))
  modes = []
  monkeypatch.setattr(os, 'access', lambda path, mode: modes.append(mode))
  with pytest.raises(PermissionError, match=str(tmp_path)):
    data.load('mnist', 'test', str(tmp_path))
  assert modes == [os.R_OK | os.X_OK]
  with pytest.raises(FileNotFoundError, match='no such directory'):
    data.num_classes('mnist', str(tmp_path / 'absent'))
  # Those on other machines are left to tensorflow-datasets.
  found = []
  monkeypatch.setattr(
    tfds, 'builder', lambda name, data_dir: found.append((name, data_dir))
  )
  reading.find('mnist', 'gs://bucket/sets')
  assert found == [('mnist', 'gs://bucket/sets')]
