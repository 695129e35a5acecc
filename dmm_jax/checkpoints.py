"""Checkpoints of training by orbax: whole, or not there."""

from collections.abc import Callable
from collections.abc import Iterator
import contextlib
import hashlib
import os
import pathlib
from typing import Any
from typing import NamedTuple
import warnings

import jax
import numpy as np
from orbax.checkpoint import v1 as orbax

_training = orbax.training
_policies = _training.preservation_policies


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
  directory: str | os.PathLike, description: dict, *, keep: tuple[int, ...] = ()
) -> Iterator[Callable[[int, Any], None]]:
  """Gives `save(step, state)`, which returns while the files are written.

  A checkpoint has its own directory, written aside and renamed, and a checksum
  of its arrays, which `read` checks. The last two stay, and those of the steps
  `keep`. All processes call it; each writes its share.

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
    custom_metadata=description,
    cleanup_tmp_directories=True,
  )
  with _explained('write to', directory):
    directory.mkdir(parents=True, exist_ok=True)
    manager = _training.Checkpointer(directory, **options)

  def save(step: int, state: Any) -> None:
    with _explained('write to', directory):
      manager.save_async(
        step,
        state,
        force=True,
        overwrite=True,
        custom_metadata={'sha256': _checksum(state)},
      )

  try:
    yield save
  finally:
    with _explained('write to', directory):
      manager.close()


def _checksum(state: Any) -> str:
  """Of all arrays by name; '' where this process does not hold them whole."""
  digest = hashlib.sha256()
  # Without a pattern the containers are others, and so is their order.
  for name, leaf in sorted(_named(state), key=lambda pair: pair[0]):
    if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
      if not leaf.is_fully_replicated:
        return ''
      leaf = leaf.addressable_data(0)
    array = np.asarray(leaf)
    digest.update(f'{name} {array.dtype} {array.shape} '.encode())
    digest.update(np.ascontiguousarray(array).tobytes())
  return digest.hexdigest()


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
  with _explained('read', where), _training.Checkpointer(directory) as manager:
    arrays = manager.metadata(step).metadata
    if like is not None:
      _compare(arrays, like, where)
      state = manager.load(step, like)
    else:
      here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
      shape = lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=here)
      state = manager.load(step, jax.tree.map(shape, arrays))
      state = jax.device_get(state)
    known = (manager.metadata(step).custom_metadata or {}).get('sha256')
    description = manager.root_metadata().custom_metadata or {}
  if known is None or known not in ('', _checksum(state)):
    raise DamagedCheckpointError(
      f'cannot read the checkpoint {where}: its arrays are not those that were '
      'written, or an earlier version wrote it'
    )
  return Checkpoint(step, state, dict(description))


def _compare(found, like, where):
  """Refuses a checkpoint whose arrays have other names or shapes."""
  ours, theirs = dict(_shapes(like)), dict(_shapes(found))
  both = sorted(set(ours) | set(theirs))
  if not theirs:
    raise DamagedCheckpointError(
      f'cannot read the checkpoint {where}: no array in it'
    )
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
    kind = DamagedCheckpointError if verb == 'read' else CheckpointError
    raise kind(
      f'cannot {verb} the checkpoint {where}: {text.splitlines()[0]}'
    ) from error
