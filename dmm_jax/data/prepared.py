"""Sets that were prepared from their publishers' files: one .npz file each.

`DIR/dmm_jax/NAME.npz`, beside the folders of tensorflow-datasets, holds
`SPLIT_images` (uint8) and `SPLIT_labels`; broken downloads wait in
`DIR/dmm_jax/downloads`.
"""

from collections.abc import Iterable
from collections.abc import Mapping
import contextlib
import os
import pathlib
import shutil
import types
from typing import Any
import zipfile

import filelock
import numpy as np

from dmm_jax.data import downloads
from dmm_jax.data import raw
from dmm_jax.data import reading


class Records:
  """A split in memory, as tensorflow-datasets would give its records."""

  def __init__(
    self, name: str, split: str, images: np.ndarray, labels: np.ndarray
  ) -> None:
    """Takes images uint8 `[n, h, w, c]` and labels `[n]`."""
    self._images, self._labels = images, labels
    self.split = split
    classes = types.SimpleNamespace(num_classes=raw.SETS[name].num_classes)
    shape = types.SimpleNamespace(shape=images.shape[1:])
    self.dataset_info = types.SimpleNamespace(
      name=name, features={'image': shape, 'label': classes}
    )

  def __len__(self) -> int:
    return len(self._labels)

  def __getitems__(self, keys: Iterable[int]) -> list[dict[str, Any]]:
    return [{'image': self._images[k], 'label': self._labels[k]} for k in keys]


def root(data_dir: str | None) -> pathlib.Path:
  """Returns the folder of all sets; that of tensorflow-datasets by default."""
  if data_dir is not None:
    return pathlib.Path(data_dir)
  default = os.environ.get('TFDS_DATA_DIR', '~/tensorflow_datasets')
  return pathlib.Path(default).expanduser()


def path_of(name: str, data_dir: str | None) -> pathlib.Path:
  """Returns the path of a set, which need not be there."""
  return root(data_dir) / 'dmm_jax' / f'{name}.npz'


def command(name: str, data_dir: str | None, folder: str = '') -> str:
  """Returns the command that prepares a set."""
  parts = [f'python -m experiments.prepare_data --dataset={name}']
  parts += [f'--raw={folder}'] if folder else []
  parts += [f'--data_dir={data_dir}'] if data_dir is not None else []
  return ' '.join(parts)


def records(name: str, split: str, data_dir: str | None) -> Records:
  """Returns a split of a set that is prepared.

  Raises:
    DataError: for an unknown split, or a file that cannot be read.
  """
  path = path_of(name, data_dir)
  try:
    with np.load(path, allow_pickle=False) as file:
      known = [key.removesuffix('_labels') for key in file if 'labels' in key]
      sizes = {key: len(file[f'{key}_labels']) for key in known}
      parts = reading.slices(name, sizes, split)
      columns = [
        np.concatenate([file[f'{key}_{kind}'][some] for key, some in parts])
        for kind in ('images', 'labels')
      ]
  except (OSError, KeyError, zipfile.BadZipFile, EOFError) as error:
    raise reading.DataError(
      f'{path} cannot be read ({type(error).__name__}: {error}); delete it, '
      f'and prepare the set with `{command(name, data_dir)}`'
    ) from error
  if not len(columns[1]):
    raise reading.DataError(f'{name!r}, split {split!r}: holds no images')
  return Records(name, split, *columns)


def prepare(
  name: str,
  data_dir: str | None = None,
  folder: str | None = None,
  *,
  sources: Mapping[str, downloads.Source] | None = None,
  progress: bool = True,
) -> pathlib.Path:
  """Prepares a set from its publisher's files; returns the path of it.

  A set that is there stays as it is. Several processes may call this at once:
  one works, the others wait.

  Args:
    name: one of `raw.SETS`.
    data_dir: as of `load`; made if need be.
    folder: that holds the files, at any depth; None downloads them.
    sources: by file, where they are and their checksums; None takes those that
      tensorflow-datasets knows.
    progress: whether to show progress bars.

  Raises:
    FileNotFoundError: if files are missing, or cannot be downloaded; the
      message has their addresses, and the command to go on with.
    DataError: for a file with another checksum, or of another format.
  """
  path = path_of(name, data_dir)
  if path.exists():
    return path
  sources = raw.sources(name) if sources is None else sources
  path.parent.mkdir(parents=True, exist_ok=True)
  with filelock.FileLock(path.with_name(f'.{name}.lock')):
    if path.exists():
      return path
    place = path.parent / 'downloads' / name
    if folder is None:
      with _tidy(place):
        files = _download(name, data_dir, sources, place, progress)
    else:
      files = _find(name, data_dir, sources, pathlib.Path(folder))
    _write(path, _read(name, files))
    shutil.rmtree(place, ignore_errors=True)
  return path


@contextlib.contextmanager
def _tidy(place):
  """A folder for downloads, of which nothing is left if there are none."""
  place.mkdir(parents=True, exist_ok=True)
  try:
    yield
  except BaseException:
    for folder in (place, place.parent):
      if not any(folder.iterdir()):
        folder.rmdir()
    raise


def _download(name, data_dir, sources, place, progress):
  """Paths of the files by name, once they are there."""
  for file, source in sources.items():
    try:
      downloads.fetch(source, place / file, progress=progress)
    except ConnectionError as error:
      raise FileNotFoundError(
        f'data set {name!r} is not in {root(data_dir)}, and cannot be '
        f'downloaded: {error}\n{_by_hand(name, data_dir, sources)}'
      ) from error
    except ValueError as error:
      raise reading.DataError(str(error)) from error
  return {file: place / file for file in sources}


def _by_hand(name, data_dir, sources):
  """How to prepare a set where there is no network."""
  urls = '\n'.join(f'  {source.url}' for source in sources.values())
  return (
    f'Go on later with `{command(name, data_dir)}`, or download\n{urls}\n'
    f'elsewhere, and run `{command(name, data_dir, "FOLDER")}` with the folder '
    'that holds them.'
  )


def _find(name, data_dir, sources, folder):
  """Paths of the files in a folder by name, all of them checked."""
  if not folder.is_dir():
    raise FileNotFoundError(f'no such directory: {folder}')
  files = {file: sorted(folder.rglob(file)) for file in sources}
  missing = [file for file, found in files.items() if not found]
  if missing:
    raise FileNotFoundError(
      f'{folder} has no {", no ".join(missing)}, of the files of {name!r}.\n'
      f'{_by_hand(name, data_dir, sources)}'
    )
  for file, source in sources.items():
    found = {path: downloads.digest(path) for path in files[file]}
    files[file] = [path for path in found if found[path] == source.checksum]
    if not files[file]:
      path, other = next(iter(found.items()))
      raise reading.DataError(
        f'{path} is not the file of {name!r}: its SHA-256 is {other}, not '
        f'{source.checksum}; download it anew from {source.url}'
      )
  return {file: found[0] for file, found in files.items()}


def _read(name, files):
  try:
    return raw.read(name, files)
  # What a file of another format makes of its readers.
  except Exception as error:
    raise reading.DataError(
      f'the files of {name!r} cannot be read: {error}'
    ) from error


def _write(path, splits):
  """Writes a set: whole, or not at all."""
  aside = path.with_name(f'.{path.name}.part')
  columns = {
    f'{split}_{kind}': column
    for split, pair in splits.items()
    for kind, column in zip(('images', 'labels'), pair, strict=True)
  }
  try:
    with open(aside, 'wb') as file:
      np.savez(file, allow_pickle=False, **columns)
      file.flush()
      os.fsync(file.fileno())
    aside.replace(path)
  finally:
    aside.unlink(missing_ok=True)
