"""What a process may take of its machine, and keeps there for later ones."""

import dataclasses
import hashlib
import os
import pathlib
import platform
import sys

import jax

from dmm_jax import parallel
from experiments.lib import flags

CPU_INFO = pathlib.Path('/proc/cpuinfo')
LEAST_SECONDS = 0.3  # Of compiling, for a program that is kept.


@dataclasses.dataclass(frozen=True)
class Machine:
  """Flags of the machine: no part of a config, nor of flags.txt."""

  compilation_cache: str = flags.flag(
    '~/.cache/dmm_jax',
    'Folder that keeps compiled programs for later runs; empty keeps none. '
    'JAX_COMPILATION_CACHE_DIR, where it is set, goes first.',
  )
  memory_gb: float = flags.flag(
    0.0,
    'Gigabytes, of all devices together, that a batch of searches may take: '
    'batches are made as small as that asks for. 0 sets no limit.',
    least=0,
  )


def set_up(asked: Machine) -> None:
  """Does what the flags ask for, before anything is compiled."""
  flags.check(asked)
  keep_programs(asked)
  parallel.limit_memory(asked.memory_gb or None)


def keep_programs(asked: Machine) -> None:
  """Has JAX keep compiled programs, and find those of earlier runs.

  A damaged one is compiled again, with a warning that names the folder.

  Args:
    asked: with the folder, below which each kind of processor has its own: a
      home directory may serve several, and programs are compiled for one.
  """
  chosen = jax.config.jax_compilation_cache_dir  # type: ignore[attr-defined]
  if chosen or not asked.compilation_cache:
    return
  root = pathlib.Path(asked.compilation_cache).expanduser()
  folder = root / f'programs-{processor()}'
  try:
    folder.mkdir(parents=True, exist_ok=True)
    if not os.access(folder, os.W_OK):
      raise PermissionError(f'{folder} cannot be written')
  except OSError as error:
    print(f'note: compiled programs are not kept: {error}', file=sys.stderr)
    return
  jax.config.update('jax_compilation_cache_dir', str(folder))
  jax.config.update('jax_persistent_cache_min_compile_time_secs', LEAST_SECONDS)
  jax.config.update('jax_persistent_cache_min_entry_size_bytes', -1)


def processor() -> str:
  """Returns a name of the processor's kind: its model and instructions."""
  said = [platform.machine(), platform.processor()]
  if CPU_INFO.exists():
    lines = CPU_INFO.read_text().split('\n\n')[0].splitlines()
    said += [v for v in lines if v.startswith(('model name', 'flags'))]
  return hashlib.sha256('\n'.join(said).encode()).hexdigest()[:12]
