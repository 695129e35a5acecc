"""One run as several processes: joining them, silencing and ending them.

See SCALING.md. Process 0 alone writes and reports.
"""

import contextlib
import dataclasses
import functools
import os
import re
import signal
import socket
import sys
import threading
import time

import jax
import tqdm

from dmm_jax import records
from experiments.lib import flags

# Seconds until a process that does not answer counts as dead.
_SILENCE = 30


@dataclasses.dataclass(frozen=True)
class Processes:
  """Flags of the process: no part of a config, nor of flags.txt.

  A run may go on with another number of processes.
  """

  num_processes: int = flags.flag(
    1, 'Number of processes of this run; 0 takes what the cluster says.',
    least=0,
  )  # fmt: skip
  process_id: int = flags.flag(-1, 'Number of this process, from 0.', least=-1)
  coordinator: str = flags.flag('', 'host:port at which process 0 listens.')


def join(asked: Processes) -> None:
  """Joins the processes of a run, before any of them uses a device.

  Raises:
    FlagError: for flags that do not fit together, or where there is nothing to
      join. The runtime itself ends a process that waits for another in vain.
  """
  flags.check(asked)
  num, number, where = dataclasses.astuple(asked)
  if num < 2:
    if number >= 0 or where:
      raise flags.FlagError(
        '--process_id and --coordinator need --num_processes of 2 or more'
      )
    if num == 1:
      return
    number = None
  else:
    host, _, port = where.rpartition(':')
    if not host or not re.fullmatch('[0-9]{1,5}', port):
      raise flags.FlagError(f'--coordinator={where} is not host:port')
    if number not in range(num):
      raise flags.FlagError(
        f'--process_id={number} has to be 0 to {num - 1}, another one for each '
        f'of --num_processes={num}'
      )
    waiting = f'process {number} of {num}: waiting for the others at {where}'
    print(waiting, file=sys.stderr, flush=True)
  try:
    jax.distributed.initialize(
      where or None,
      num or None,
      number,
      heartbeat_timeout_seconds=_SILENCE,
      shutdown_timeout_seconds=2 * _SILENCE,
    )
  except (ValueError, RuntimeError) as error:
    raise flags.FlagError(
      f'--num_processes={num} --coordinator={where}: {error}'
      if num
      else f'--num_processes=0: JAX knows no cluster here ({error}); give '
      '--num_processes, --process_id and --coordinator'
    ) from error
  if not records.is_main_process():
    _silence()


def _silence():
  """Leaves progress bars and tables to process 0; errors still show."""
  os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
  tqdm.tqdm.__init__ = functools.partialmethod(tqdm.tqdm.__init__, disable=True)


def end_on_signals() -> None:
  """Lets Ctrl-C and SIGTERM end this process at once, whatever it computes.

  What is on the disk is whole at any moment, so that nothing has to be tidied
  up. A handler in Python would wait for the computation under way, and its
  exception can be swallowed in a callback. Call it after `join`: the runtime of
  several processes has a handler of its own for SIGTERM.
  """
  reading, writing = socket.socketpair()
  writing.setblocking(False)
  signal.set_wakeup_fd(writing.fileno(), warn_on_full_buffer=False)
  for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, lambda *_: None)  # The thread does what there is.
  thread = threading.Thread(target=_end, args=(reading, writing), daemon=True)
  thread.start()


def _end(reading, writing):
  """Waits for a signal, and ends the process; keeps both ends open."""
  number = reading.recv(1)[0]
  said = (
    f'\nstopped by {signal.Signals(number).name}: what is finished is kept, '
    'and the same command goes on from there\n'
  )
  with contextlib.suppress(OSError):  # Not through `sys`, which may be locked.
    os.write(2, said.encode())
  os._exit(128 + number)


def explain(error: BaseException) -> None:
  """Prints what ended this process, one of several."""
  causes = []
  cause: BaseException | None = error
  while cause:
    causes.append(cause)
    cause = cause.__cause__ or cause.__context__
  who = f'process {jax.process_index()} of {jax.process_count()}'
  lost = any(isinstance(c, jax.errors.JaxRuntimeError) for c in causes)
  if not lost or any('RESOURCE_EXHAUSTED' in str(c) for c in causes):
    print(f'error: {who} failed, and ends the others', file=sys.stderr)
    return
  print(
    f'error: {who} cannot reach another one, which has probably died; the '
    f'runtime names it ("tasks") within {_SILENCE} seconds. Start all of them '
    'again with the same flags, and the run goes on where it was.',
    file=sys.stderr,
    flush=True,
  )
  time.sleep(_SILENCE + 10)  # The runtime ends this process meanwhile.


def leave(status: int) -> None:
  """Ends this process, and with it a run of several."""
  if not jax.distributed.is_initialized():
    sys.exit(status)
  sys.stdout.flush()
  sys.stderr.flush()
  if records.is_main_process():
    time.sleep(2)  # Its end cuts off the others' messages.
  # Exit hooks would wait for the others, which may wait for this one.
  os._exit(status)
