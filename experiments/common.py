"""What every experiment script needs: flags, presets, steps, tables.

Every script runs as one process or as several; see SCALING.md.
"""

from collections.abc import Callable
import concurrent.futures
import contextlib
import dataclasses
import functools
import io
import os
import sys
import time
import traceback
import typing

from absl import app
from absl import flags
from absl import logging
import jax
import tqdm

from dmm_jax import boundary
from dmm_jax import checkpoints
from dmm_jax import records

# Seconds until a process that says nothing counts as dead.
_SILENCE = 30


class FlagError(ValueError):
  """A flag whose value cannot be used; the message names it and says why."""


# What a user can mend, told without a traceback.
EXPECTED = (
  FlagError,
  records.RunError,
  checkpoints.CheckpointError,
  FileNotFoundError,
  FloatingPointError,
)


def flag(default, help_text: str, *, least=None, choices=None):
  """A dataclass field that becomes a flag.

  Args:
    default: its value unless a preset or the command line says otherwise.
    help_text: what it does, for `--help`.
    least: the smallest number allowed, of each entry where there are several.
    choices: the values allowed, likewise.
  """
  if choices is not None:
    help_text += f' One of {", ".join(map(str, choices))}.'
  metadata = dict(help=help_text, least=least, choices=choices)
  return dataclasses.field(default=default, metadata=metadata)


def with_preset(config_cls, presets: dict, preset: str, **explicit):
  """Returns a config: defaults, overridden by a preset, then by `explicit`."""
  if preset not in presets:
    known = ', '.join(presets)
    raise FlagError(f'--preset={preset} is unknown; it is one of {known}')
  return config_cls(**{'preset': preset, **presets[preset], **explicit})


def check(config) -> None:
  """Raises FlagError for the first value outside what its flag allows."""
  for field in dataclasses.fields(config):
    value = getattr(config, field.name)
    least, choices = field.metadata['least'], field.metadata['choices']
    values = value if isinstance(value, tuple) else (value,)
    if not values:
      raise FlagError(f'--{field.name} is empty; give at least one value')
    if len(set(values)) < len(values):
      raise FlagError(f'--{field.name} names a value twice: {values}')
    for v in values:
      if choices is not None and v not in choices:
        known = ', '.join(map(str, choices))
        raise FlagError(f'--{field.name}={v} is unknown; it is one of {known}')
      if least is not None and not v >= least:
        raise FlagError(f'--{field.name}={v} is too small; at least {least}')


def check_method(method: str) -> None:
  """Raises FlagError for a method that `boundary.nearest_point` has not."""
  if method not in boundary.METHODS:
    known = ', '.join(boundary.METHODS)
    raise FlagError(f'--method={method}: the method must be one of {known}')


@dataclasses.dataclass(frozen=True)
class Processes:
  """What else a script is told: no part of its config, nor of flags.txt.

  A run may go on with another number of processes.
  """

  num_processes: int = flag(
    1, 'Processes of this run; 0 for what the cluster says.', least=0
  )
  process_id: int = flag(-1, 'Number of this process, from 0.', least=-1)
  coordinator: str = flag('', 'host:port where process 0 listens.')


def main(run, config_cls, presets: dict | None = None) -> None:
  """Makes flags of the config's fields, parses them, and runs."""
  _define(config_cls)
  _define(Processes)

  def start(argv):
    try:
      if len(argv) > 1:
        raise FlagError(f'unexpected argument {argv[1]!r}; flags begin with --')
      given = _given(config_cls)
      if presets is None:
        config = config_cls(**given)
      else:
        preset = given.pop('preset', 'default')
        config = with_preset(config_cls, presets, preset, **given)
      check(config)
      _set_up()
      _join(Processes(**_given(Processes)))
      run(config)
    except EXPECTED as error:
      print(f'error: {error}', file=sys.stderr)
      _leave(2)
    except (Exception, KeyboardInterrupt) as error:
      if not jax.distributed.is_initialized():
        raise
      traceback.print_exc()
      _explain(error)
      _leave(1)

  app.run(start)


def _define(cls):
  """Makes flags of a dataclass's fields."""
  for field in dataclasses.fields(cls):
    default = field.default
    if isinstance(default, tuple):
      default = ','.join(map(str, default))
    # Text at first: a preset gives way to a flag only if the flag was given.
    flags.DEFINE_string(
      field.name, None, f'{field.metadata["help"]} [{default}]'
    )
    flags.FLAGS.register_key_flag_for_module(
      sys.argv[0], flags.FLAGS[field.name]
    )


def _given(cls):
  return {
    field.name: _parse(field, flags.FLAGS[field.name].value)
    for field in dataclasses.fields(cls)
    if flags.FLAGS[field.name].present
  }


def _join(asked: Processes) -> None:
  """Joins the processes of a run, before any of them uses a device.

  Raises:
    FlagError: for flags that do not fit together, or where there is nothing to
      join. The runtime itself ends a process that waits for another in vain.
  """
  check(asked)
  num, number, where = dataclasses.astuple(asked)
  if num < 2:
    if number >= 0 or where:
      raise FlagError(
        '--process_id and --coordinator need --num_processes of 2 or more'
      )
    if num == 1:
      return
    number = None
  else:
    host, _, port = where.rpartition(':')
    if not host or not port.isdigit():
      raise FlagError(f'--coordinator={where} is not host:port')
    if number not in range(num):
      raise FlagError(
        f'--process_id={number} has to be 0 to {num - 1}, another one for each '
        f'of --num_processes={num}'
      )
    said = f'process {number} of {num}: waiting for the others at {where}'
    print(said, file=sys.stderr, flush=True)
  try:
    jax.distributed.initialize(
      where or None,
      num or None,
      number,
      heartbeat_timeout_seconds=_SILENCE,
      shutdown_timeout_seconds=2 * _SILENCE,
    )
  except (ValueError, RuntimeError) as error:
    raise FlagError(
      f'--num_processes={num} --coordinator={where}: {error}'
      if num
      else f'--num_processes=0: JAX knows no cluster here ({error}); give '
      '--num_processes, --process_id and --coordinator'
    ) from error
  if not records.is_first():
    _silence()


def _silence():
  """Leaves bars and tables to process 0; errors still show."""
  os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
  tqdm.tqdm.__init__ = functools.partialmethod(tqdm.tqdm.__init__, disable=True)


def _explain(error):
  """Says what ended this process, one of several."""
  causes = []
  while error:
    causes.append(error)
    error = error.__cause__ or error.__context__
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


def _leave(status):
  """Ends this process, and with it a run of several."""
  if not jax.distributed.is_initialized():
    sys.exit(status)
  sys.stdout.flush()
  sys.stderr.flush()
  if records.is_first():
    time.sleep(2)  # Its end cuts off the others' messages.
  # Exit hooks would wait for the others, which may wait for this one.
  os._exit(status)


def _parse(field, text):
  """Turns a flag's text into its field's type."""
  kind = field.type
  many = typing.get_origin(kind) is tuple
  kind = typing.get_args(kind)[0] if many else kind
  parts = [p for p in text.split(',') if p] if many else [text]
  try:
    values = [_BOOLEANS[p.lower()] if kind is bool else kind(p) for p in parts]
  except (KeyError, ValueError):
    raise FlagError(f'--{field.name}={text} is not {kind.__name__}') from None
  return tuple(values) if many else values[0]


_BOOLEANS = {'true': True, 'false': False, '1': True, '0': False}


def _set_up():
  # Libraries report every file they write.
  logging.set_verbosity(logging.WARNING)
  # Geometry needs real float32: TPU and GPU matmuls round to fewer bits.
  jax.config.update('jax_default_matmul_precision', 'highest')
  asked = 'xla_force_host_platform_device_count' in os.environ.get(
    'XLA_FLAGS', ''
  )
  if not asked and jax.config.jax_num_cpu_devices < 0:
    jax.config.update('jax_num_cpu_devices', os.cpu_count())


@contextlib.contextmanager
def workers(num):
  """A pool of threads that an error or Ctrl-C ends without waiting its turn.

  One thread where there are several processes: all have to use their devices in
  one order.
  """
  num = num if jax.process_count() == 1 else 1
  pool = concurrent.futures.ThreadPoolExecutor(num)
  try:
    yield pool
  finally:
    pool.shutdown(cancel_futures=True)


def conduct(
  config,
  experiment: str,
  *,
  collect: Callable,
  summarize: Callable,
  draw: Callable,
  report: Callable,
) -> dict:
  """Goes from a run directory to its report; a finished run shows it again.

  Of several processes, all collect and summarize; process 0 draws and reports.

  Args:
    config: with a `workdir`.
    experiment: the module that `python -m` runs.
    collect: `(config, run_dir)`, writes results.npz, last of its files; not
      called where that is there.
    summarize: `(config, run_dir) -> summary`.
    draw: `run_dir -> paths` of figures.
    report: prints a summary; what it prints is kept as report.txt.

  Returns:
    The summary, as written to summary.json.
  """
  run_dir = records.open_run(config.workdir, config, experiment)
  if not records.agree((run_dir / 'results.npz').exists()):
    collect(config, run_dir)
  records.agree(0)  # What follows reads what process 0 has written.
  summary = summarize(config, run_dir)
  records.write_json(run_dir / 'summary.json', summary)
  if records.is_first():
    figures = draw(run_dir)
    with contextlib.redirect_stdout(io.StringIO()) as text:
      report(summary)
    records.write_text(run_dir / 'report.txt', text.getvalue())
    records.finish_run(run_dir)
    print(text.getvalue(), end='')
    print(f'\nfigures: {", ".join(map(str, figures))}')
  records.agree(0)  # None leaves while another one works.
  return summary


def gather(run_dir, names: list[str], compute: Callable, unit: str) -> None:
  """Writes results.npz from the parts of a run, behind a progress bar.

  Args:
    run_dir, names, compute: as for `records.resume`.
    unit: what a part is, for the bar.
  """
  parts = []
  with tqdm.tqdm(total=len(names), unit=unit) as bar:
    for name, part in zip(
      names, records.resume(run_dir, names, compute), strict=True
    ):
      bar.set_description(name)
      parts.append(part)
      bar.update()
  records.save_columns(run_dir / 'results.npz', records.concatenate(parts))


def with_interval(entry: dict, spec: str) -> str:
  """A number and its interval as text, each in the format `spec`."""
  low, high = (format(v, spec) for v in entry['interval'])
  return f'{entry["value"]:{spec}} [{low}, {high}]'


def decide(holds: list[bool], fails: list[bool]) -> str:
  """A verdict of parts that must all hold.

  Args:
    holds: which of them do, their intervals say.
    fails: which do not; one is enough.
  """
  if any(fails):
    return 'not supported'
  return 'supported' if all(holds) else 'undecided'


def below(a: dict | float, b: dict | float) -> bool:
  """Whether an entry or a number lies below another, intervals and all."""
  ends = lambda v: v['interval'] if isinstance(v, dict) else (v, v)
  return ends(a)[1] < ends(b)[0]


def print_table(header: list[str], rows: list[list[str]]) -> None:
  """Prints columns; the first and the last are left-aligned."""
  lines = [header, *rows]
  widths = [max(len(line[i]) for line in lines) for i in range(len(header))]
  for number, line in enumerate(lines):
    cells = [
      c.ljust(w) if i in (0, len(header) - 1) else c.rjust(w)
      for i, (c, w) in enumerate(zip(line, widths, strict=True))
    ]
    print('  '.join(cells).rstrip())
    if number == 0:
      print('  '.join('-' * w for w in widths))
