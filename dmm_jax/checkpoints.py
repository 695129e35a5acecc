"""Checkpoints of training by orbax: whole, or not there."""

from collections.abc import Callable
from collections.abc import Iterator
import contextlib
import hashlib
import os
import pathlib
import shutil
import textwrap
from typing import Any
from typing import NamedTuple
import warnings

import jax
from orbax.checkpoint import v1 as orbax

from dmm_jax import records

_training = orbax.training
_policies = _training.preservation_policies
_DIGESTS = 'sha256.json'  # Of a checkpoint's files.
_STATE = 'state'  # What orbax calls what it saves.


class CheckpointError(RuntimeError):
  """A checkpoint that cannot be written or read; says which, and why."""


class DamagedCheckpointError(CheckpointError):
  """One whose files are not as they were written."""


class Checkpoint(NamedTuple):
  """What was read.

  Attributes:
    step: it was saved at.
    state: a pytree, as saved.
    description: of what it belongs to; as given to `writer`.
  """

  step: int
  state: Any
  description: dict


@contextlib.contextmanager
def writer(
  directory: str | os.PathLike,
  description: dict,
  *,
  keep: tuple[int, ...] = (),
  since: int | None = None,
) -> Iterator[Callable[[int, Any], None]]:
  """Gives `save(step, state)`, which returns while the files are written.

  A checkpoint has its own directory, written aside and renamed, with the
  description, and at last the checksums of its files, which `read` checks.
  Before another one begins, and at the end, all this is on the disk. The last
  two stay, and those of the steps `keep`. All processes call it; each writes
  its share.

  Args:
    directory: of the checkpoints; made as needed.
    description: of what they belong to, as JSON has it.
    keep: steps.
    since: the step that training goes on from, -1 for none; checkpoints of
      later ones are removed. None for all to stay.

  Raises:
    CheckpointError: from the next `save` or at the end, where a checkpoint
      could not be written. The ones before are as they were.
  """
  directory = pathlib.Path(directory).absolute()
  policies = [_policies.LatestN(2)]
  if keep:
    policies.append(_policies.CustomSteps(keep))
  options = dict(
    preservation_policy=_policies.AnyPreservationPolicy(policies),
    cleanup_tmp_directories=True,
  )
  with _explained('write to', directory):
    directory.mkdir(parents=True, exist_ok=True)
    if since is not None and records.is_main_process():
      for step in steps(directory):
        if step > since:
          shutil.rmtree(directory / str(step))
    records.sync_min(0)
    manager = _training.Checkpointer(directory, **options)

  under_way: list[tuple[int, Any]] = []

  def settle() -> None:
    while under_way:
      step, response = under_way.pop()
      response.result()
      if records.is_main_process():
        _seal(directory / str(step))

  def save(step: int, state: Any) -> None:
    with _explained('write to', directory):
      settle()
      response = manager.save_async(
        step, state, force=True, overwrite=True, custom_metadata=description
      )
      under_way.append((step, response))

  try:
    yield save
  finally:
    with _explained('write to', directory):
      manager.close()
      settle()


def _seal(where: pathlib.Path) -> None:
  """Puts a checkpoint on the disk, and then the checksums of its files."""
  records.flush(where)
  paths = sorted(path for path in where.rglob('*') if path.is_file())
  digests = {str(path.relative_to(where)): _digest(path) for path in paths}
  records.write_json(where / _DIGESTS, digests, sealed=True)


def _digest(path: pathlib.Path) -> str:
  with open(path, 'rb') as file:
    return hashlib.file_digest(file, 'sha256').hexdigest()


def check(directory: str | os.PathLike, step: int) -> None:
  """Raises DamagedCheckpointError for one whose files are not as written."""
  where = pathlib.Path(directory) / str(step)
  try:
    digests = records.read_json(where / _DIGESTS, sealed=True)
  except (records.DamagedError, OSError):
    raise _damaged(where, _DIGESTS) from None
  for name, digest in digests.items():
    try:
      found = _digest(where / name)
    except OSError:
      found = ''
    if found != digest:
      raise _damaged(where, name)


def _damaged(where, name):
  return DamagedCheckpointError(
    f'cannot read the checkpoint {where}: its {name} is not as it was written; '
    'take another step, or train again'
  )


def steps(directory: str | os.PathLike) -> list[int]:
  """The steps whose checkpoints are there, in order."""
  directory = pathlib.Path(directory)
  if not directory.is_dir():
    return []
  names = [path.name for path in directory.iterdir()]
  return sorted(int(name) for name in names if name.isdigit())


def read(
  directory: str | os.PathLike, like: Any = None, step: int | None = None
) -> Checkpoint:
  """Reads the last checkpoint that is whole, or that of a step.

  Warns of later ones that are not whole, as a loss of power can leave them.

  Args:
    directory: as given to `writer`.
    like: a pytree of arrays or shapes, which the checkpoint must match; its
      arrays come back where these lie. None for nested dicts and lists of
      numpy arrays.
    step: None for the last.

  Raises:
    CheckpointError: where there is none, none can be read, or it belongs to
      something else.
  """
  directory = pathlib.Path(directory).absolute()
  there = steps(directory)
  if not there or (step is not None and step not in there):
    which = 'no checkpoint' if step is None else f'no checkpoint of step {step}'
    has = f'; it has those of {", ".join(map(str, there))}' if there else ''
    raise CheckpointError(f'{which} in {directory}{has}')
  if step is not None:
    return _read(directory, like, step)
  damaged = []
  for last in reversed(there):
    try:
      found = _read(directory, like, last)
    except DamagedCheckpointError as error:
      damaged.append(error)
      continue
    for other in damaged:
      warnings.warn(f'{other}; goes on from that of step {last}', stacklevel=2)
    return found
  raise damaged[0]


def _read(directory, like, step):
  """Reads one checkpoint."""
  where = directory / str(step)
  check(directory, step)
  with _explained('read', where):
    about = orbax.metadata(where, _STATE)
    if like is not None:
      _compare(about.metadata, like, where)
      state = orbax.load(where, like, checkpointable_name=_STATE)
    else:
      here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
      place = lambda a: (
        jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=here)
        if hasattr(a, 'shape')
        else a  # A plain number.
      )
      wanted = jax.tree.map(place, about.metadata)
      state = orbax.load(where, wanted, checkpointable_name=_STATE)
      state = jax.device_get(state)
  return Checkpoint(step, state, about.custom_metadata or {})


def _compare(found, like, where):
  """Refuses a checkpoint whose arrays have other names or shapes."""
  ours, theirs = dict(_shapes(like)), dict(_shapes(found))
  both = sorted(set(ours) | set(theirs))
  differ = [name for name in both if ours.get(name) != theirs.get(name)]
  if differ:
    name = differ[0]
    raise CheckpointError(
      f'{where} belongs to another network: {name} is '
      f'{theirs.get(name, "absent")} there, {ours.get(name, "absent")} here '
      f'({len(differ)} of {len(both)} arrays differ)'
    )


def _shapes(tree: Any) -> Iterator[tuple[str, tuple]]:
  for name, leaf in _named(tree):
    yield name, tuple(getattr(leaf, 'shape', ()))


def _named(tree: Any) -> Iterator[tuple[str, Any]]:
  for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
    name = '/'.join(str(getattr(p, 'key', getattr(p, 'name', p))) for p in path)
    yield name, leaf


@contextlib.contextmanager
def _explained(verb, where):
  """Turns what the file system and orbax raise into one kind of error."""
  try:
    yield
  # The latter: another process has died; no fault of the file system.
  except (CheckpointError, jax.errors.JaxRuntimeError):
    raise
  except Exception as error:  # Orbax raises many kinds, bare ones included.
    text = str(error).strip() or type(error).__name__
    text = textwrap.shorten(text.splitlines()[0], 120, placeholder=' ...')
    raise CheckpointError(
      f'cannot {verb} the checkpoint {where}: {text}'
    ) from error
