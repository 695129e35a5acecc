"""The run directory: what a run was asked, what it found, how it can go on.

  flags.txt       one --name=value a line; `--flagfile` runs it again
  run.json        command, versions, devices, git commit, started, finished
  metrics.jsonl   one JSON object a step, appended
  chunks/         finished parts of a run that is still under way
  results.npz     columns, one row an example
  report.json     the answer, claims with verdicts, tables with intervals
  figures/        drawn from the files above

Whole files are written aside and renamed, so that a run killed at any moment
leaves no half of one.

Where several processes run as one (`jax.distributed`), all of them make these
calls, process 0 alone writes, and all read: the directory lies on a file system
that they share.
"""

from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Iterator
import contextlib
import dataclasses
import datetime
import functools
import importlib.metadata
import itertools
import json
import os
import pathlib
import shutil
import subprocess
import sys
import time
from typing import Any
import zipfile

import jax
from jax.experimental import multihost_utils
import numpy as np

_PACKAGES = ('dmm_jax', 'jax', 'jaxlib', 'flax', 'numpy', 'scipy')


class RunError(ValueError):
  """A run directory that this run must not write into."""


def is_first() -> bool:
  """Whether this process is the one that writes and reports."""
  return jax.process_index() == 0


def agree(value: int) -> int:
  """Returns the smallest of the processes' values, and waits for all of them.

  For what a process found on disk: what they do next has to be the same.
  """
  if jax.process_count() == 1:
    return value
  return int(np.min(multihost_utils.process_allgather(np.int32(value))))


def _by_first(write):
  """Lets process 0 alone write; the others go on."""

  @functools.wraps(write)
  def by_first(*args, **kwargs):
    if is_first():
      write(*args, **kwargs)

  return by_first


def open_run(workdir: str, config: Any, experiment: str) -> pathlib.Path:
  """Makes a run directory, or opens the one that the same flags made.

  Args:
    workdir: where; parents are made as needed.
    config: a dataclass; each field is a flag.
    experiment: the module that `python -m` runs.

  Raises:
    RunError: if `workdir` holds something else, or a run with other flags, or
      cannot be written. Nothing is changed then.
  """
  run_dir = pathlib.Path(workdir)
  asked = flag_values(config)
  if run_dir.exists() and not run_dir.is_dir():
    raise RunError(f'--workdir={workdir} is a file, not a directory')
  flags_file = run_dir / 'flags.txt'
  if flags_file.exists():
    _refuse_other_flags(flags_file, asked)
  elif run_dir.exists() and any(run_dir.iterdir()):
    found = ', '.join(sorted(p.name for p in run_dir.iterdir())[:5])
    raise RunError(
      f'--workdir={workdir} is not empty and holds no run (it has {found}); '
      'choose a new or an empty directory'
    )
  agree(0)  # All have looked before the first one writes.
  try:
    _begin(run_dir, asked, experiment)
  except OSError as error:
    raise RunError(f'--workdir={workdir} cannot be written: {error}') from error
  agree(0)
  if not _appears(flags_file):
    raise RunError(
      f'--workdir={workdir}: process {jax.process_index()} does not see what '
      'process 0 wrote there; all need one file system'
    )
  return run_dir


@_by_first
def _begin(run_dir, asked, experiment):
  for part in run_dir.rglob('.*.part'):  # Left by a killed run.
    part.unlink()
  lines = [f'--{name}={value}' for name, value in asked.items()]
  write_text(run_dir / 'flags.txt', '\n'.join(lines) + '\n')
  write_json(run_dir / 'run.json', _circumstances(experiment, asked))


@_by_first
def finish_run(
  run_dir: pathlib.Path, seconds: dict[str, float] | None = None
) -> None:
  """Marks the run as finished, and drops its chunks.

  Args:
    run_dir: where.
    seconds: what its parts took, for run.json.
  """
  run = read_json(run_dir / 'run.json')
  run |= {'finished': _now()} | ({'seconds': seconds} if seconds else {})
  write_json(run_dir / 'run.json', run)
  shutil.rmtree(run_dir / 'chunks', ignore_errors=True)


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
  aside = path.with_name(f'.{path.name}.part')
  with open(aside, 'wb') as file:
    yield file
    file.flush()
    os.fsync(file.fileno())
  os.replace(aside, path)


@_by_first
def write_text(path: pathlib.Path, text: str) -> None:
  """Writes a file: whole, or not there. Process 0 alone writes."""
  with _replacing(path) as file:
    file.write(text.encode())


def write_json(path: pathlib.Path, value: Any) -> None:
  """Writes a value as JSON, as `write_text` does."""
  write_text(path, json.dumps(value, indent=2) + '\n')


def read_json(path: pathlib.Path) -> Any:
  """Reads what `write_json` wrote."""
  return json.loads(pathlib.Path(path).read_text())


@_by_first
def log(run_dir: pathlib.Path, **metrics: Any) -> None:
  """Appends one line to metrics.jsonl."""
  with open(run_dir / 'metrics.jsonl', 'a') as file:
    file.write(json.dumps(metrics) + '\n')


def read_log(run_dir: pathlib.Path) -> list[dict]:
  """Returns the lines of metrics.jsonl, less one that a kill cut short."""
  path = run_dir / 'metrics.jsonl'
  if not path.exists():
    return []
  rows = []
  for line in path.read_text().splitlines():
    try:
      rows.append(json.loads(line))
    except json.JSONDecodeError:
      continue
  return rows


@_by_first
def save_columns(path: pathlib.Path, columns: dict[str, np.ndarray]) -> None:
  """Writes columns of equal length; the same ones give the same bytes."""
  lengths = {name: len(column) for name, column in columns.items()}
  if len(set(lengths.values())) > 1:
    raise ValueError(f'columns differ in length: {lengths}')
  with _replacing(path) as file:
    np.savez_compressed(file, **columns)  # type: ignore[arg-type]


def load_columns(path: pathlib.Path) -> dict[str, np.ndarray]:
  """Reads what `save_columns` wrote, once process 0 has written it."""
  _appears(pathlib.Path(path))
  return _read_columns(path)


def _appears(path):
  """Whether a file is there; waits for one that process 0 may be writing."""
  end = time.monotonic() + (0 if is_first() else 60)
  while not path.exists() and time.monotonic() < end:
    time.sleep(0.05)
  return path.exists()


def _read_columns(path):
  with open(path, 'rb') as file, np.load(file) as columns:
    return dict(columns)


def save_chunk(
  run_dir: pathlib.Path, name: str, columns: dict[str, np.ndarray]
) -> None:
  """Keeps a finished part of a run."""
  save_columns(run_dir / 'chunks' / f'{name}.npz', columns)


def load_chunk(
  run_dir: pathlib.Path, name: str
) -> dict[str, np.ndarray] | None:
  """Returns a finished part, or None if there is none that can be read."""
  path = run_dir / 'chunks' / f'{name}.npz'
  try:
    return _read_columns(path)
  except (FileNotFoundError, EOFError, ValueError, zipfile.BadZipFile):
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
  done = agree(len(there))
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
