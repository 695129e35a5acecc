"""What every experiment script needs: flags, presets, steps, tables."""

from collections.abc import Callable
import concurrent.futures
import contextlib
import dataclasses
import os
import sys
import typing

from absl import app
from absl import flags
from absl import logging
import jax

from dmm_jax import records


class FlagError(ValueError):
  """A flag whose value cannot be used; the message names it and says why."""


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


def main(run, config_cls, presets: dict) -> None:
  """Makes flags of the config's fields, parses them, and runs."""
  for field in dataclasses.fields(config_cls):
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

  def start(argv):
    try:
      if len(argv) > 1:
        raise FlagError(f'unexpected argument {argv[1]!r}; flags begin with --')
      given = {
        field.name: _parse(field, flags.FLAGS[field.name].value)
        for field in dataclasses.fields(config_cls)
        if flags.FLAGS[field.name].present
      }
      preset = given.pop('preset', 'default')
      config = with_preset(config_cls, presets, preset, **given)
      check(config)
      _set_up()
      run(config)
    except (FlagError, records.RunError, FileNotFoundError) as error:
      print(f'error: {error}', file=sys.stderr)
      sys.exit(2)

  app.run(start)


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
  if 'xla_force_host_platform_device_count' not in os.environ.get(
    'XLA_FLAGS', ''
  ):
    jax.config.update('jax_num_cpu_devices', os.cpu_count())


@contextlib.contextmanager
def workers(num):
  """A pool of threads that an error or Ctrl-C ends without waiting its turn."""
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

  Args:
    config: with a `workdir`.
    experiment: the module that `python -m` runs.
    collect: `(config, run_dir)`, writes results.npz, last of its files; not
      called where that is there.
    summarize: `(config, run_dir) -> summary`.
    draw: `run_dir -> paths` of figures.
    report: prints a summary.

  Returns:
    The summary, as written to summary.json.
  """
  run_dir = records.open_run(config.workdir, config, experiment)
  if not (run_dir / 'results.npz').exists():
    collect(config, run_dir)
  summary = summarize(config, run_dir)
  records.write_json(run_dir / 'summary.json', summary)
  figures = draw(run_dir)
  records.finish_run(run_dir)
  report(summary)
  print(f'\nfigures: {", ".join(map(str, figures))}')
  return summary


def with_interval(entry: dict, spec: str) -> str:
  """A number and its interval as text, each in the format `spec`."""
  low, high = (format(v, spec) for v in entry['interval'])
  return f'{entry["value"]:{spec}} [{low}, {high}]'


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
