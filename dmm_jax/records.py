"""The run directory: what a run was asked, what it found, how it can go on.

  flags.txt       one --name=value a line; `--flagfile` runs it again
  run.json        command, versions, settings, devices, git commit, started,
                  finished; the same of each later start under `resumed`
  run.lock        held by the process that works here
  metrics.jsonl   one JSON object a step, appended
  chunks/         finished parts of a run that is still under way
  results.npz     columns, one row an example
  report.json     the answer, claims with verdicts, tables with intervals
  figures/        drawn from the files above

Whole files are written aside, flushed and renamed, so that a run that is killed
at any moment, or loses its power, leaves no half of one. Tables, run.json and
the lines of metrics.jsonl carry a checksum, and run.json has those of all other
files of a finished run. What is damaged is not read as something else: a chunk
counts as absent, any other file is an error that names it.

Where several processes run as one (`jax.distributed`), all of them make these
calls, process 0 alone writes, and all read: the directory lies on a file system
that they share.
"""

from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Sequence
import contextlib
import dataclasses
import datetime
import functools
import hashlib
import importlib.metadata
import io
import itertools
import json
import os
import pathlib
import shutil
import socket
import stat
import subprocess
import sys
import threading
import time
from typing import Any
import zlib

import filelock
import jax
from jax.experimental import multihost_utils
import numpy as np

from dmm_jax import frames

LOCK = 'run.lock'
# Files of a run directory that change without it.
_CHANGING = ('run.json', LOCK, 'metrics.jsonl')
CHECKSUM = 'checksum'  # Of the rest of a JSON object: its last key.
_DIGEST = 64  # Characters of a checksum.
_PACKAGES = ('dmm_jax', 'jax', 'jaxlib', 'flax', 'numpy', 'scipy')
# Settings of JAX on which numbers depend, beyond rounding.
_SETTINGS = (
  'jax_enable_x64',
  'jax_default_matmul_precision',
  'jax_default_prng_impl',
  'jax_threefry_partitionable',
)


class RunError(ValueError):
  """A run directory that this run must not write into."""


class DamagedError(RunError):
  """A file that is not as it was written; the message names it."""


def is_main_process() -> bool:
  """Whether this process is the one that writes and reports."""
  return jax.process_index() == 0


def sync_min(value: int) -> int:
  """Returns the smallest of the processes' values, and waits for all of them.

  For what a process found on disk: what they do next has to be the same.
  """
  if jax.process_count() == 1:
    return value
  return int(np.min(multihost_utils.process_allgather(np.int32(value))))


def _by_main_process(write):
  """Lets process 0 alone write; the others go on."""

  @functools.wraps(write)
  def by_main_process(*args, **kwargs):
    if is_main_process():
      write(*args, **kwargs)

  return by_main_process


def same_everywhere(text: str) -> bool:
  """Returns whether all processes have the same text, and waits for them."""
  if jax.process_count() == 1:
    return True
  digest = np.frombuffer(hashlib.sha256(text.encode()).digest(), np.int32)
  every = multihost_utils.process_allgather(digest)
  return bool(np.all(every == every[0]))


@contextlib.contextmanager
def open_run(
  workdir: str, config: Any, experiment: str
) -> Iterator[pathlib.Path]:
  """Makes a run directory, or opens the one that the same flags made.

  It is this process's, and of those that run as one with it, until the end of
  the `with` block.

  Args:
    workdir: where; parents are made as needed.
    config: a dataclass; each field is a flag.
    experiment: the module that `python -m` runs.

  Yields:
    The directory.

  Raises:
    RunError: if `workdir` holds something else, or a run with other flags or
      settings of JAX, or one that another process works on, or cannot be
      written. Nothing is changed then.
  """
  run_dir = pathlib.Path(workdir)
  asked = flag_values(config)
  own = {name: value for name, value in asked.items() if name != 'workdir'}
  if not same_everywhere(json.dumps([experiment, own])):
    raise RunError(
      'the processes of this run were given different flags; give all of them '
      'the same ones, but for --process_id'
    )
  with contextlib.ExitStack() as held:
    with _named(workdir):
      _refuse(run_dir, asked)
      sync_min(0)  # All have looked before the first one writes.
      if is_main_process():
        held.enter_context(_lock(run_dir))
        _refuse(run_dir, asked)  # Another process may have begun meanwhile.
        _begin(run_dir, asked, experiment)
    sync_min(0)
    if not _appears(run_dir / 'flags.txt'):
      raise RunError(
        f'--workdir={workdir}: process {jax.process_index()} does not see what '
        'process 0 wrote there; all need one file system'
      )
    yield run_dir


@contextlib.contextmanager
def _named(workdir):
  """Explains what the file system refuses."""
  try:
    yield
  except OSError as error:
    raise RunError(f'--workdir={workdir} cannot be used: {error}') from error


def _refuse(run_dir, asked):
  """Raises RunError for a place that is not this run's."""
  if run_dir.exists() and not run_dir.is_dir():
    raise RunError(f'--workdir={run_dir} is a file, not a directory')
  flags_file = run_dir / 'flags.txt'
  if flags_file.exists():
    _refuse_other_flags(flags_file, asked)
    return
  if not run_dir.exists():
    return
  found = sorted(p.name for p in run_dir.iterdir() if not _is_ours(p))
  if found:
    raise RunError(
      f'--workdir={run_dir} is not empty and holds no run (it has '
      f'{", ".join(found[:5])}); choose a new or an empty directory'
    )


def _is_ours(path):
  """Whether a run that ended before it had flags.txt may have left a file."""
  if path.name == 'run.json':
    with contextlib.suppress(RunError):
      return bool(read_json(path, sealed=True))
  return path.name == LOCK or _is_part(path.name)


@contextlib.contextmanager
def _lock(run_dir):
  """Holds a run directory; a process that ends in any way lets go of it."""
  run_dir.mkdir(parents=True, exist_ok=True)
  path = run_dir / LOCK
  lock = filelock.FileLock(path, timeout=0)
  try:
    lock.acquire()
  except filelock.Timeout:
    who = path.read_text(errors='replace').strip() or 'another process'
    raise RunError(
      f'--workdir={run_dir} is in use by {who}; wait for it, stop it, or '
      'choose another --workdir'
    ) from None
  try:
    path.write_text(
      f'process {os.getpid()} on {socket.gethostname()}, started {_now()}\n'
    )
    yield
  finally:
    lock.release()


def _begin(run_dir, asked, experiment):
  for part in run_dir.rglob('.*.part'):  # Left by a killed run.
    part.unlink()
  now = _circumstances(experiment, asked)
  path, flags_file = run_dir / 'run.json', run_dir / 'flags.txt'
  begun = flags_file.exists() and path.exists()
  before = read_json(path, sealed=True) if begun else None
  if before is None:
    write_json(path, now, sealed=True)
  elif not before.get('finished'):
    _refuse_other_settings(run_dir, before, now)
    again = {k: v for k, v in now.items() if k not in ('experiment', 'flags')}
    starts = {'resumed': [*before.get('resumed', []), again]}
    write_json(path, before | starts, sealed=True)
  # Last: without it nothing has begun, and other flags may be given.
  if not flags_file.exists():
    lines = [f'--{name}={value}' for name, value in asked.items()]
    write_text(flags_file, '\n'.join(lines) + '\n')


def _refuse_other_settings(run_dir, before, now):
  """Refuses to join chunks of other arithmetic; says what else has changed."""
  there, here = before.get('settings', {}), now['settings']
  other = [
    f'{name} was {there.get(name)}, and is {value} now'
    for name, value in here.items()
    if there.get(name) != value
  ]
  if other:
    raise RunError(
      f'--workdir={run_dir} holds a run that was begun with other settings of '
      f'JAX: {"; ".join(other)}; use those, or choose another --workdir'
    )
  last = [before, *before.get('resumed', [])][-1]
  changed = [
    f'{name} {last.get(name)} -> {now[name]}'
    for name in ('git', 'git_dirty', 'python', 'versions', 'devices')
    if last.get(name) != now[name]
  ]
  if changed:
    print(
      f'note: the run in {run_dir} goes on with other code or devices, which '
      f'run.json records: {"; ".join(changed)}',
      file=sys.stderr,
    )


@_by_main_process
def finish_run(
  run_dir: pathlib.Path, seconds: dict[str, float] | None = None
) -> None:
  """Marks the run as finished, records what its files are, drops its chunks.

  A run that was finished before keeps its date.

  Args:
    run_dir: where.
    seconds: what its parts took, for run.json.
  """
  run = read_json(run_dir / 'run.json', sealed=True)
  if not run.get('finished'):
    run |= {'finished': _now()} | ({'seconds': seconds} if seconds else {})
  kept = [
    *(p for p in run_dir.glob('*.*') if p.name not in _CHANGING),
    *run_dir.glob('figures/*'),
  ]
  run['sha256'] = {
    str(path.relative_to(run_dir)): _digest(path.read_bytes())
    for path in sorted(kept)
    if path.is_file() and not _is_part(path.name)
  }
  write_json(run_dir / 'run.json', run, sealed=True)
  shutil.rmtree(run_dir / 'chunks', ignore_errors=True)


def check_file(path: pathlib.Path, run_dir: pathlib.Path, run: dict) -> None:
  """Raises DamagedError for a file that is not as the run has left it.

  Args:
    path: of the file, in `run_dir`.
    run_dir: of a finished run.
    run: its run.json.
  """
  known = run.get('sha256', {}).get(str(path.relative_to(run_dir)))
  if known != _digest(read_bytes(path)):
    raise _damaged(path)


def flag_values(config: Any) -> dict[str, str]:
  """Returns every field of a config as its flag's text."""
  return {
    field.name: flag_text(getattr(config, field.name))
    for field in dataclasses.fields(config)
  }


def flag_text(value: Any) -> str:
  """Returns a flag's value as `--name=value` has it."""
  if isinstance(value, bool):
    return str(value).lower()
  if isinstance(value, tuple):
    return ','.join(flag_text(v) for v in value)
  return str(value)


def _refuse_other_flags(flags_file, asked):
  lines = flags_file.read_text().splitlines()
  there = dict(line[2:].split('=', 1) for line in lines if '=' in line)
  names = sorted((there.keys() | asked.keys()) - {'workdir'})
  other = [
    f'--{name}={there.get(name, "(absent)")} there, '
    f'{asked.get(name, "(absent)")} now'
    for name in names
    if there.get(name) != asked.get(name)
  ]
  if other:
    raise RunError(
      f'--workdir={flags_file.parent} holds a run with other flags:\n  '
      + '\n  '.join(other)
      + '\nchoose another --workdir, or give the flags of that run '
      f'(--flagfile={flags_file})'
    )


def _circumstances(experiment, asked):
  versions = {}
  for package in _PACKAGES:
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
      versions[package] = importlib.metadata.version(package)
  devices = jax.devices()
  kind, processes = devices[0].device_kind, jax.process_count()
  return {
    'experiment': experiment,
    'flags': asked,
    'command': sys.argv,
    'git': _git('rev-parse', 'HEAD'),
    'git_dirty': bool(_git('status', '--porcelain', '--untracked-files=no')),
    'python': sys.version.split()[0],
    'versions': versions,
    'settings': {name: str(jax.config.values[name]) for name in _SETTINGS},
    'devices': dict(kind=kind, count=len(devices), processes=processes),
    'started': _now(),
  }


def _git(*args):
  """What git says of the checkout that this file lies in; None outside one."""
  try:
    here = pathlib.Path(__file__).parent
    out = subprocess.run(
      ['git', '-C', str(here), *args],
      capture_output=True,
      text=True,
      check=True,
    )
  except (OSError, subprocess.CalledProcessError):
    return None
  return out.stdout.strip()


def _now():
  return datetime.datetime.now(datetime.UTC).isoformat(timespec='seconds')


@contextlib.contextmanager
def _replacing(path):
  """Yields a file beside `path` that takes its place once it is complete."""
  path.parent.mkdir(parents=True, exist_ok=True)
  # Two processes, or threads, that write one file do not meet.
  number = f'{os.getpid()}-{threading.get_ident()}'
  aside = path.with_name(f'.{path.name}.{number}.part')
  try:
    with open(aside, 'wb') as file:
      yield file
      file.flush()
      os.fsync(file.fileno())
    os.replace(aside, path)
  finally:
    aside.unlink(missing_ok=True)
  _flush(path.parent)


@_by_main_process
def flush(directory: pathlib.Path) -> None:
  """Puts a directory that was renamed, and all below it, on the disk."""
  for path in (*directory.rglob('*'), directory, directory.parent):
    _flush(path)


def _flush(path):
  """A file, or the names in a directory, where the system can."""
  with contextlib.suppress(OSError):
    number = os.open(path, os.O_RDONLY)
    try:
      os.fsync(number)
    finally:
      os.close(number)


def _is_part(name):
  return name.startswith('.') and name.endswith('.part')


@_by_main_process
def write_text(path: pathlib.Path, text: str) -> None:
  """Writes a file: whole, or not there. Process 0 alone writes."""
  with _replacing(path) as file:
    file.write(text.encode())


def write_json(
  path: pathlib.Path, value: dict, *, sealed: bool = False
) -> None:
  """Writes an object as JSON, as `write_text` does; sealed: with a checksum."""
  if sealed:
    value = value | {CHECKSUM: _checksum(value)}
  write_text(path, json.dumps(value, indent=2) + '\n')


def _checksum(value):
  text = json.dumps(value, sort_keys=True)
  return hashlib.sha256(text.encode()).hexdigest()


def read_json(path: pathlib.Path, *, sealed: bool = False) -> dict:
  """Reads what `write_json` wrote, less the checksum.

  Raises:
    DamagedError: for anything else.
  """
  data = read_bytes(path)
  try:
    value = json.loads(data)
    found = value.pop(CHECKSUM) if sealed else None
  except (AttributeError, KeyError, RecursionError, TypeError, ValueError):
    raise _damaged(path) from None
  if not isinstance(value, dict) or (sealed and found != _checksum(value)):
    raise _damaged(path)
  return value


def read_bytes(path: pathlib.Path) -> bytes:
  """Reads a plain file of a run directory, which may come from anywhere.

  Raises:
    FileNotFoundError: if it is not there.
    DamagedError: for a link, which may lead to any file, and for what never
      ends or is no file.
  """
  try:
    number = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
  except FileNotFoundError:
    raise
  except OSError as error:
    raise DamagedError(f'{path} cannot be read: {error.strerror}') from error
  if not stat.S_ISREG(os.fstat(number).st_mode):
    os.close(number)
    raise DamagedError(f'{path} is no plain file')
  with open(number, 'rb') as file:
    return file.read()


def _damaged(path):
  return DamagedError(
    f'{path} is damaged, or was not written by this version; delete it (with a '
    'whole run directory, start the run again with --flagfile=flags.txt)'
  )


@_by_main_process
def log(run_dir: pathlib.Path, **metrics: Any) -> None:
  """Appends one line to metrics.jsonl, flushed to the disk."""
  line = json.dumps(metrics | {CHECKSUM: _crc(metrics)})
  with open(run_dir / 'metrics.jsonl', 'a') as file:
    if file.tell() and not _ends_line(run_dir / 'metrics.jsonl'):
      file.write('\n')  # After a line that a kill cut short.
    file.write(line + '\n')
    file.flush()
    os.fsync(file.fileno())


def _ends_line(path):
  with open(path, 'rb') as file:
    file.seek(-1, os.SEEK_END)
    return file.read(1) == b'\n'


def _crc(metrics):
  return f'{zlib.crc32(json.dumps(metrics, sort_keys=True).encode()):08x}'


def read_log(run_dir: pathlib.Path) -> list[dict]:
  """Returns the lines of metrics.jsonl, less those cut short or damaged."""
  path = run_dir / 'metrics.jsonl'
  if not path.exists():
    return []
  rows = []
  for line in read_bytes(path).splitlines():
    with contextlib.suppress(ValueError):
      row = json.loads(line)
      if isinstance(row, dict) and row.pop(CHECKSUM, None) == _crc(row):
        rows.append(row)
  return rows


def read_steps(run_dir: pathlib.Path) -> list[dict]:
  """Returns the lines of steps, in order; of a step taken twice the last."""
  rows = {row['step']: row for row in read_log(run_dir) if 'step' in row}
  return [rows[step] for step in sorted(rows)]


@_by_main_process
def save_columns(path: pathlib.Path, columns: dict[str, np.ndarray]) -> None:
  """Writes columns of equal length; the same ones give the same bytes.

  An .npz file whose checksum is the comment of the archive.
  """
  lengths = {name: len(column) for name, column in columns.items()}
  if len(set(lengths.values())) > 1:
    raise ValueError(f'columns differ in length: {lengths}')
  whole = io.BytesIO()
  np.savez_compressed(whole, **columns)  # type: ignore[arg-type]
  archive = whole.getvalue()
  # The archive's last two bytes are the length of its comment.
  size = _DIGEST.to_bytes(2, 'little')
  with _replacing(path) as file:
    file.write(archive[:-2] + size + _digest(archive[:-2]).encode())


def _digest(data):
  return hashlib.sha256(data).hexdigest()


def load_columns(path: pathlib.Path) -> dict[str, np.ndarray]:
  """Reads what `save_columns` wrote, once process 0 has written it.

  Raises:
    DamagedError: for anything else.
  """
  _appears(pathlib.Path(path))
  return _read_columns(path)


def _appears(path):
  """Whether a file is there; waits for one that process 0 may be writing."""
  end = time.monotonic() + (0 if is_main_process() else 60)
  while not path.exists() and time.monotonic() < end:
    time.sleep(0.05)
  return path.exists()


def _read_columns(path):
  data = read_bytes(path)
  if _digest(data[: -_DIGEST - 2]).encode() != data[-_DIGEST:]:
    raise _damaged(path)
  with np.load(io.BytesIO(data), allow_pickle=False) as columns:
    return dict(columns)


def to_frame(
  run_dir: str | pathlib.Path, table: str = 'results', most: float = 64
) -> Any:
  """Returns a table of a run as a `pandas.DataFrame`.

  Columns of arrays are split, `point[0,1]`. `attrs['columns']` has unit and
  meaning of each column, `attrs['left_out']` those with too many numbers.

  Args:
    run_dir: of the run.
    table: its name: that of the .npz file.
    most: numbers a row; columns of more are left out.

  Raises:
    FileNotFoundError: if the run has no such table.
    DamagedError: for what is not as it was written.
    ImportError: without pandas.
  """
  run_dir = pathlib.Path(run_dir)
  path = run_dir / f'{table}.npz'
  if not path.exists():
    known = sorted(file.stem for file in run_dir.glob('*.npz'))
    raise FileNotFoundError(
      f'{run_dir} has no table {table!r}; it has {", ".join(known) or "none"}'
    )
  meanings = run_dir / 'columns.json'
  about = read_json(meanings).get(table, {}) if meanings.exists() else {}
  return frames.make(load_columns(path), about, most)


def save_chunk(
  run_dir: pathlib.Path, name: str, columns: dict[str, np.ndarray]
) -> None:
  """Keeps a finished part of a run."""
  save_columns(run_dir / 'chunks' / f'{name}.npz', columns)


def load_chunk(
  run_dir: pathlib.Path, name: str
) -> dict[str, np.ndarray] | None:
  """Returns a finished part, or None if there is none that is whole."""
  path = run_dir / 'chunks' / f'{name}.npz'
  try:
    return _read_columns(path)
  except (FileNotFoundError, DamagedError):
    return None


def resume(
  run_dir: pathlib.Path,
  names: list[str],
  compute: Callable[[int], Iterable[Any]],
  *,
  load: Callable = load_chunk,
  save: Callable = save_chunk,
) -> Iterator[Any]:
  """Yields the parts of a run in order: those that are there, then the rest.

  Each is saved before it is yielded, and its seconds, the first one's with
  compilation, are logged.

  Args:
    run_dir: where.
    names: of the parts; those after the first missing one are computed anew.
    compute: number of parts that are there -> the others.
    load, save: `(run_dir, name) -> part or None`, `(run_dir, name, part)`; for
      parts that are more than one table.
  """
  found = (load(run_dir, name) for name in names)
  there = list(itertools.takewhile(lambda part: part is not None, found))
  done = sync_min(len(there))
  yield from there[:done]
  if done == len(names):
    return
  tick = time.perf_counter()
  for name, part in zip(names[done:], compute(done), strict=True):
    save(run_dir, name, part)
    tock = time.perf_counter()
    log(run_dir, unit=name, seconds=round(tock - tick, 4))
    tick = tock
    yield part


def select(
  table: dict[str, np.ndarray], **wanted: Any
) -> dict[str, np.ndarray]:
  """Returns the rows of a table where the named columns have these values."""
  keep = np.logical_and.reduce(
    [table[column] == value for column, value in wanted.items()]
  )
  return {name: column[keep] for name, column in table.items()}


def concatenate(parts: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
  """Joins parts with the same columns, one below the other."""
  return {name: np.concatenate([p[name] for p in parts]) for name in parts[0]}


def stack(rows: Sequence[dict[str, Any]]) -> dict[str, np.ndarray]:
  """Returns rows, dicts with the same names, as columns."""
  return {name: np.array([row[name] for row in rows]) for name in rows[0]}


def by_unit(
  table: dict[str, np.ndarray], unit: str = 'network'
) -> dict[str, np.ndarray]:
  """Returns the columns of a table as `[units, rows of each, ...]`.

  Args:
    table: whose rows are ordered by units, as many of each.
    unit: the column that tells units apart.
  """
  num = len(np.unique(table[unit]))
  each = len(table[unit]) // max(1, num)
  return {
    name: column.reshape(num, each, *column.shape[1:])
    for name, column in table.items()
  }


def broadcast(shape: tuple[int, ...], **columns: Any) -> dict[str, np.ndarray]:
  """Returns columns with a row for each entry of arrays of one shape.

  Args:
    shape: of the arrays.
    **columns: by name; a number, a text, or an array that broadcasts.
  """
  return {
    name: np.broadcast_to(column, shape).ravel()
    for name, column in columns.items()
  }
