"""Sets of tensorflow-datasets: found, prepared, read record by record.

Records are read from array_record files without TensorFlow; preparing them
needs it, and the network. Some sets are prepared without: see `prepared`.
"""

from collections.abc import Iterable
from collections.abc import Iterator
import copy
import difflib
import functools
from importlib import util
import json
import logging
import os
import pathlib
import re
import shutil
import time
import types
from typing import Any
from urllib import parse

import numpy as np

from dmm_jax.data import images

# Records read at a time.
_CHUNK = 4096
_TFDS = 'tensorflow_datasets.'
# Seconds that a host has to answer in.
_TIMEOUT = 5.0


class DataError(ValueError):
  """A set that cannot be used as it was asked for; the message says why."""


def is_local(data_dir: str | None) -> bool:
  """Returns whether sets lie on this machine's file systems."""
  return data_dir is None or '://' not in str(data_dir)


def check_directory(data_dir: str | None) -> None:
  """Raises FileNotFoundError or PermissionError for one without use."""
  if data_dir is None or not is_local(data_dir):
    return
  if not os.path.isdir(data_dir):
    raise FileNotFoundError(
      f'no such directory: data_dir {str(data_dir)!r}; pass the directory '
      'that holds the prepared sets, or None for the default one'
    )
  if not os.access(data_dir, os.R_OK | os.X_OK):
    raise PermissionError(
      f'data_dir {str(data_dir)!r} may not be read; change its permissions'
    )


def find(name: str, data_dir: str | None) -> Any:
  """Returns the tensorflow-datasets builder of a set."""
  check_directory(data_dir)
  if data_dir is not None and is_local(data_dir):
    _refuse_foreign_classes(pathlib.Path(data_dir) / re.split('[/:]', name)[0])
  import tensorflow_datasets as tfds

  _hide_advice()
  try:
    return tfds.builder(name, data_dir=data_dir)
  except tfds.core.DatasetNotFoundError:
    known = ['digits', *tfds.list_builders(with_community_datasets=False)]
    near = difflib.get_close_matches(name, known)
    hint = f'; near to it: {", ".join(near)}' if near else ''
    # Not `from`: that message lists hundreds of sets.
    raise DataError(
      f'tensorflow-datasets knows no set {name!r}{hint}'
    ) from None
  except (AssertionError, ValueError) as error:
    said = str(error).splitlines()[0] if str(error) else type(error).__name__
    raise DataError(f'data set {name!r}: {said}') from error


def _refuse_foreign_classes(folder):
  """Refuses a set whose files name a class of another package.

  tensorflow-datasets imports the module of every class in features.json.
  """
  for path in folder.glob('**/features.json'):
    try:
      classes = list(_classes(json.loads(path.read_bytes())))
    except ValueError as error:
      raise DataError(f'{path} cannot be read: {error}') from None
    foreign = [v for v in classes if not str(v).startswith(_TFDS)]
    if foreign:
      raise DataError(
        f'{path} names the class {foreign[0]!r}, whose module would be '
        'imported; only classes of tensorflow-datasets are read'
      )


def _classes(value):
  """Yields what features.json, of any version, names as a class."""
  if isinstance(value, list):
    for part in value:
      yield from _classes(part)
  if isinstance(value, dict):
    for key, part in value.items():
      if key in ('pythonClassName', 'type', 'py_class_name'):
        yield part
      else:
        yield from _classes(part)


@functools.cache
def _hide_advice():
  """Leaves out messages that ask for nothing, or that errors here tell."""
  needless = 'OpenCV is not installed', 'Variant folder'
  logging.getLogger('absl').addFilter(
    lambda record: not str(record.msg).startswith(needless)
  )


def num_classes(builder: Any, name: str) -> int:
  """Returns how many classes a set has; refuses what is no set of images."""
  import tensorflow_datasets as tfds

  wanted = {'image': tfds.features.Image, 'label': tfds.features.ClassLabel}
  features = builder.info.features
  for key, kind in wanted.items():
    if key not in features or not isinstance(features[key], kind):
      raise DataError(
        f'{name!r} is not a set of images with classes: its features are '
        f"{', '.join(features)}; needed are an 'image' and a 'label'"
      )
  return features['label'].num_classes


def records(
  name: str, split: str, data_dir: str | None, download: bool = True
) -> Any:
  """Returns a split as a sequence of records.

  A set that is not there is downloaded and prepared, if `download` says so.
  """
  builder = find(name, data_dir)
  num_classes(builder, name)
  if not builder.is_prepared():
    if not download:
      raise FileNotFoundError(
        f'data set {name!r} is not in {builder.data_dir_root}, and download is '
        'False; pass the directory that holds it as data_dir, or prepare it '
        f'with `{_command(name, builder.data_dir_root)}`'
      )
    _prepare(builder, name)
  try:
    if not builder.info.splits[split].num_examples:
      raise ValueError('holds no images')
    return builder.as_data_source(split=split)
  except ValueError as error:
    raise DataError(f'{name!r}, split {split!r}: {error}') from error
  except NotImplementedError as error:
    raise FileNotFoundError(
      f'{builder.data_path} holds {name!r} in a format without random access.\n'
      f'Prepare it elsewhere: `{_command(name, "OTHER_DIR")}`.'
    ) from error


def slices(
  name: str, sizes: dict[str, int], split: str
) -> list[tuple[str, slice]]:
  """Returns the parts of a split in tensorflow-datasets' language.

  Args:
    name: of the set.
    sizes: numbers of examples by split.
    split: such as 'train', 'test[:10%]' or 'train+test'.

  Raises:
    DataError: for another one.
  """
  if split in sizes:
    return [(split, slice(None))]
  import tensorflow_datasets as tfds

  # All that is asked of a split is its size.
  known = {k: types.SimpleNamespace(num_examples=n) for k, n in sizes.items()}
  try:
    parts = tfds.core.ReadInstruction.from_spec(split).to_absolute(known)
  except ValueError as error:
    raise DataError(
      f'split of {name!r} is {" or ".join(map(repr, sizes))}, or slices, got '
      f'{split!r}'
    ) from error
  return [(part.splitname, slice(part.from_, part.to)) for part in parts]


def has_tensorflow() -> bool:
  """Returns whether sets can be prepared here."""
  return util.find_spec('tensorflow') is not None


def _command(name, data_dir):
  return f'tfds build {name} --file_format=array_record --data_dir={data_dir}'


def _prepare(builder, name):
  """Downloads a set and writes its records.

  tensorflow-datasets writes next to the set's directory and renames at the end,
  so that a failure leaves nothing that reads as a set. What else it leaves, of
  downloads that were cut off, is removed.
  """
  # Or TensorFlow, which encodes the images, would take the whole GPU from JAX.
  os.environ.setdefault('TF_FORCE_GPU_ALLOW_GROWTH', 'true')
  root = builder.data_dir_root
  failed = f'data set {name!r} is not in {root}, and preparing it there failed:'
  remedy = (
    'Prepare it once where TensorFlow and the network are, with '
    f'`{_command(name, root)}`, and pass that directory as data_dir.'
  )
  # Or the lack of either would show after minutes or after the download.
  if not has_tensorflow():
    raise FileNotFoundError(f"{failed}\nNo module named 'tensorflow'\n{remedy}")
  if silent := _silent_hosts(builder):
    raise FileNotFoundError(
      f'{failed}\nno answer from {", ".join(silent)}, where it is to be '
      f'downloaded from\n{remedy}'
    )
  remove = _remover(builder)
  try:
    builder.download_and_prepare(file_format='array_record')
  # What fails is TensorFlow's, the network's, the host's or the file system's.
  except Exception as error:
    remove()
    raise FileNotFoundError(
      f'{failed}\n{type(error).__name__}: {error}\n{remedy}'
    ) from error
  except BaseException:
    remove()
    raise


def _silent_hosts(builder):
  """Hosts of a set's files, if none of them answers within seconds.

  None of them where files that were downloaded by hand or before may suffice.
  """
  urls = [u for u in getattr(builder, 'url_infos', {}) if u[:4] == 'http']
  downloads = pathlib.Path(builder.data_dir_root) / 'downloads'
  if (
    not urls
    or builder.MANUAL_DOWNLOAD_INSTRUCTIONS
    or any(p.is_file() for p in downloads.rglob('*'))
  ):
    return []
  first = {parse.urlsplit(url).netloc: url for url in reversed(urls)}
  # A host that is down is no reason, one of three that answers is enough.
  hosts = sorted(first)[:3]
  return [] if any(_answers(first[host]) for host in hosts) else hosts


def _answers(url):
  import requests

  try:
    requests.head(url, timeout=_TIMEOUT, allow_redirects=False)
  except requests.RequestException:
    return False
  return True


def _remover(builder):
  """Returns the function that removes what an unfinished download leaves.

  That is directories with temporary names that are younger than this call, and
  empty ones that were not there before.
  """
  if '://' in str(builder.data_dir_root):
    return lambda: None
  begin, top = time.time(), pathlib.Path(builder.data_dir_root)
  downloads = top / 'downloads'
  own = [p for p in pathlib.Path(builder.data_path).parents if top in p.parents]
  candidates = lambda: [*downloads.glob('*'), downloads, *own, top]
  before = {p for p in candidates() if p.exists()}

  def remove():
    for pattern in ('*.tmp.*', '*/*.tmp.*'):
      for path in downloads.glob(pattern):
        # Some file systems round times to seconds.
        if path.stat().st_mtime > begin - 2:
          shutil.rmtree(path, ignore_errors=True)
    for path in candidates():
      new = path not in before and path.is_dir()
      if new and not any(path.iterdir()):
        path.rmdir()

  return remove


def labels(source: Any) -> np.ndarray:
  """Returns the labels of all records `[n]`, and decodes no image."""
  import tensorflow_datasets as tfds

  bare = copy.copy(source)
  bare.decoders = {'image': tfds.decode.SkipDecoding()}
  found = np.empty(len(bare), np.int32)
  for start in range(0, len(bare), _CHUNK):
    keys = range(start, min(start + _CHUNK, len(bare)))
    for key, row in zip(keys, _rows(bare, keys), strict=True):
      found[key] = _label(bare, key, row)
  return found


def examples(
  source: Any, keys: Iterable[int], size: int | None
) -> Iterator[tuple[np.ndarray, int]]:
  """Yields `(x [h, w, c] in [0, 1], label)` of the records at `keys`."""
  for key, row in zip(keys, _rows(source, keys), strict=True):
    image, label = row['image'], _label(source, key, row)
    if image.dtype != np.uint8:
      raise DataError(f'{_where(source, key)} has pixels of {image.dtype}')
    x = image / np.float32(255)
    yield (x if size is None else images.square(x, size)), label


def _label(source, key, row):
  label = np.int32(row['label'])
  classes = source.dataset_info.features['label'].num_classes
  if not 0 <= label < classes:
    raise DataError(
      f'{_where(source, key)} has label {label}, of {classes} classes'
      + (': this split is unlabelled' if label == -1 else '')
    )
  return label


def _rows(source, keys):
  try:
    return source.__getitems__(keys)
  # The readers' errors name neither the record nor, always, the file.
  except Exception:
    for key in keys:
      try:
        source[key]
      except Exception as error:
        raise DataError(
          f'{_where(source, key)} cannot be read: {error}'
        ) from error
    raise


def _where(source, key):
  """Returns the words that name a record."""
  info, rest = source.dataset_info, key
  for part in info.splits[source.split].file_instructions:
    if rest < part.take:
      break
    rest -= part.take
  return (
    f'record {key} of {info.name!r}, split {source.split!r} (number '
    f'{part.skip + rest} of {part.filename})'
  )
