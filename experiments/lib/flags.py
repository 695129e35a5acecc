"""Flags from the fields of a config: absl's own types, with presets.

A config is a frozen dataclass; a script's flags are its fields:

  @dataclasses.dataclass(frozen=True)
  class Config:
    preset: str = flags.flag('default', 'Preset.')
    sizes: tuple[int, ...] = flags.flag((8, 16), 'Sides of images.', least=1)

A preset gives values to the flags that the command line does not name.
"""

from collections.abc import Callable
from collections.abc import Sequence
import dataclasses
import math
import os
import re
import sys
import traceback
import typing
from typing import Any

from absl import app
from absl import flags
from absl import logging
import jax
import jax.numpy as jnp

from dmm_jax import boundary
from dmm_jax import checkpoints
from dmm_jax import data
from dmm_jax import records
from dmm_jax.boundary import inputs


class FlagError(ValueError):
  """A flag whose value cannot be used; the message names it and says why."""


LARGEST = 2**31 - 1  # Of integers: JAX would wrap larger ones around.

# User errors, reported without a traceback.
EXPECTED = (
  FlagError,
  records.RunError,
  checkpoints.CheckpointError,
  data.DataError,
  OSError,  # Such as a full disk.
  FloatingPointError,
  MemoryError,  # Of --memory_gb.
)


def flag(
  default: Any,
  help_text: str,
  *,
  least: float | None = None,
  most: float | None = None,
  choices: Sequence | None = None,
  numbers: int | None = None,
  infinite: bool = False,
) -> Any:
  """Returns a dataclass field that becomes a flag.

  Args:
    default: its value unless a preset or the command line gives another.
    help_text: what it sets, its unit, and what 0 or empty means.
    least: the smallest number allowed, of each entry where there are several.
    most: the largest number allowed, likewise; integers have to fit 32 bits.
    choices: the values allowed, likewise.
    numbers: for text such as "256,256", the smallest of its numbers allowed.
    infinite: whether inf is allowed.
  """
  metadata = dict(
    help=help_text,
    least=least,
    most=most,
    choices=choices,
    numbers=numbers,
    infinite=infinite,
  )
  return dataclasses.field(default=default, metadata=metadata)


# Fields that most experiments have.


def preset() -> Any:
  """Returns the field `preset`, whose help text lists all of them."""
  return flag('default', 'Values of flags that are not given.')


def workdir(default: str) -> Any:
  """Returns the field `workdir`."""
  return flag(default, 'Run directory; a preset adds its name.')


def seed() -> Any:
  """Returns the field `seed`."""
  return flag(0, 'Seed of every random draw.', least=0)


def dataset() -> Any:
  """Returns the field `dataset`."""
  return flag('digits', 'digits (embedded), or the name of an image set.')


def data_dir() -> Any:
  """Returns the field `data_dir`."""
  return flag('', 'Directory of data sets; empty: that of tensorflow-datasets.')


def num_train(default: int = 0) -> Any:
  """Returns the field `num_train`."""
  return flag(default, 'Training images, the first ones; 0 is all.', least=0)


def num_classes() -> Any:
  """Returns the field `num_classes`."""
  return flag(10, 'Classes, the first of the set.', least=2, most=1000)


def num_steps(default: int, least: int = 1) -> Any:
  """Returns the field `num_steps`, of training."""
  return flag(default, 'Steps of training.', least=least)


def learning_rate(default: float) -> Any:
  """Returns the field `learning_rate`, of SGD with momentum."""
  text = 'Learning rate of SGD with momentum 0.9; constant.'
  return flag(default, text, least=0)


def method(default: str) -> Any:
  """Returns the field `method`, of a search."""
  return flag(default, 'Search: portfolio (nearest), fast, or another by name.')


def max_gradients(default: int) -> Any:
  """Returns the field `max_gradients`, of a search."""
  return flag(default, 'Gradients of a search; fast takes 40 at most.', least=2)


def with_preset(
  config_cls: Any, presets: dict, preset: str, **explicit: Any
) -> Any:
  """Returns a config: defaults, overridden by a preset, then by `explicit`.

  A preset without a `workdir` adds its name to the default one.
  """
  if preset not in presets:
    known = ', '.join(presets)
    raise FlagError(f'--preset={preset} is unknown; it is one of {known}')
  given = {'preset': preset, **presets[preset], **explicit}
  fields = {field.name: field for field in dataclasses.fields(config_cls)}
  if preset != 'default' and 'workdir' in fields:
    given.setdefault('workdir', f'{fields["workdir"].default}_{preset}')
  return config_cls(**given)


def question(docstring: str | None) -> str:
  """Returns the first line of a docstring; '' where `python -OO` drops it."""
  return (docstring or '').split('\n')[0]


def check(config: Any) -> None:
  """Raises FlagError for the first value outside what its flag allows."""
  for field in dataclasses.fields(config):
    value = getattr(config, field.name)
    values = value if isinstance(value, tuple) else (value,)
    if not values:
      raise FlagError(f'--{field.name} is empty; give at least one value')
    if len(set(values)) < len(values):
      raise FlagError(f'--{field.name} names a value twice: {values}')
    for v in values:
      _check_value(field.name, v, **field.metadata)


def _check_value(name, v, *, least, most, choices, numbers, infinite, help):
  """Raises FlagError for one value of a flag."""
  del help
  if numbers is not None:
    as_numbers(name, v, least=numbers)
  if choices is not None:
    if v not in choices:
      known = ', '.join(map(str, choices))
      raise FlagError(f'--{name}={v} is unknown; it is one of {known}')
    return
  if isinstance(v, bool | str):
    return
  if not math.isfinite(v) and not (infinite and v == math.inf):
    raise FlagError(f'--{name}={v} is not finite')
  if isinstance(v, int):
    most = LARGEST if most is None else most
  if least is not None and v < least:
    raise FlagError(f'--{name}={v} is too small; at least {least}')
  if most is not None and v > most:
    raise FlagError(f'--{name}={v} is too large; at most {most}')


def as_numbers(name: str, text: str, *, least: int = 1) -> tuple[int, ...]:
  """Returns the numbers of a flag such as --widths=256,256; () if it is empty.

  Raises:
    FlagError: for anything else.
  """
  parts = text.split(',') if text else []
  if not all(re.fullmatch('[0-9]{1,9}', part) for part in parts):
    raise FlagError(f'--{name}={text} is not numbers such as 256,256')
  found = tuple(map(int, parts))
  if found and min(found) < least:
    raise FlagError(f'--{name}={text}: each is at least {least}')
  return found


def check_method(
  method: str, norms: Sequence = (2.0,), *, together: bool = False
) -> None:
  """Raises FlagError for a method that has not these norms, or is none.

  Args:
    method: of `boundary.nearest_point`.
    norms: that it is to measure in.
    together: whether one program measures in all of them.
  """
  if method not in boundary.METHODS:
    known = ', '.join(boundary.METHODS)
    raise FlagError(f'--method={method}: the method must be one of {known}')
  for norm in norms:
    try:
      inputs.check_options(norm, method, boundary.METHODS, 2)
      if norm and together and sum(map(bool, norms)) > 1:
        traced = jnp.float32(norm)
        inputs.check_options(traced, method, boundary.METHODS, 2)
    except ValueError as error:
      raise FlagError(f'--method={method} in norm {norm:g}: {error}') from None


def command(experiment: str, config: Any, presets: dict) -> str:
  """Returns the command that repeats a run, without its directory."""
  preset = getattr(config, 'preset', '')
  known = preset in presets
  base = with_preset(type(config), presets, preset) if known else type(config)()
  there, asked = records.flag_values(base), records.flag_values(config)
  given = [
    f'--{name}={value}'
    for name, value in asked.items()
    if name not in ('workdir', 'preset') and value != there[name]
  ]
  if known and preset != 'default':
    given.insert(0, f'--preset={preset}')
  return ' '.join([f'python -m {experiment}', *given])


def main(run: Callable, config_cls: Any, presets: dict | None = None) -> None:
  """Makes flags of the config's fields, parses them, and runs.

  Args:
    run: config -> anything.
    config_cls: a dataclass whose fields are `flag`.
    presets: by name, the values that each sets; None for a script without.
  """
  from experiments.lib import machine  # They have flags themselves.
  from experiments.lib import processes

  for name in ('stdout', 'stderr'):
    if getattr(sys, name) is None:  # Closed by who started this process.
      setattr(sys, name, open(os.devnull, 'w'))
  _define(config_cls, presets)
  _define(processes.Processes)
  _define(machine.Machine)

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
      set_up()
      machine.set_up(machine.Machine(**_given(machine.Machine)))
      processes.join(processes.Processes(**_given(processes.Processes)))
      if presets is not None:  # Other scripts have children, or end in seconds.
        processes.end_on_signals()
      run(config)
    except EXPECTED as error:
      print(f'error: {error}', file=sys.stderr)
      processes.leave(2)
    except (Exception, KeyboardInterrupt) as error:
      if not jax.distributed.is_initialized():
        raise
      traceback.print_exc()
      processes.explain(error)
      processes.leave(1)

  app.run(start, flags_parser=_parse)


def _parse(argv):
  """Parses flags; a wrong one is reported as other user errors are."""
  try:
    return flags.FLAGS(argv)
  except flags.Error as error:
    said = ' '.join(str(error).split())
    print(f'error: {said}; --helpshort lists all flags', file=sys.stderr)
    sys.exit(2)


def set_up() -> None:
  """Sets what every experiment wants of JAX and absl, before any array."""
  # Libraries report every file they write.
  logging.set_verbosity(logging.WARNING)
  # Geometry needs real float32: TPU and GPU matmuls round to fewer bits.
  jax.config.update('jax_default_matmul_precision', 'highest')
  asked = 'xla_force_host_platform_device_count' in os.environ.get(
    'XLA_FLAGS', ''
  )
  num_devices = jax.config.jax_num_cpu_devices  # type: ignore[attr-defined]
  if not asked and num_devices < 0:
    jax.config.update('jax_num_cpu_devices', os.cpu_count())


def _define(cls, presets=None):
  """Makes absl flags of a dataclass's fields."""
  for field in dataclasses.fields(cls):
    text, choices = field.metadata['help'], field.metadata['choices']
    if field.name == 'preset' and presets is not None:
      text, choices = _preset_help(presets), tuple(presets)
    holder: Any = None
    if field.type is bool:
      holder = flags.DEFINE_boolean(field.name, field.default, text)
    elif field.type is str and choices is not None:
      holder = flags.DEFINE_enum(field.name, field.default, choices, text)
    else:
      parser, serializer = _parser(field), flags.ArgumentSerializer()
      if isinstance(parser, _Several):
        serializer = flags.ListSerializer(',')
      holder = flags.DEFINE(
        parser, field.name, field.default, text, serializer=serializer
      )
    flags.FLAGS.register_key_flag_for_module(
      sys.argv[0], flags.FLAGS[holder.name]
    )


def _preset_help(presets):
  """What each preset sets, as help text."""
  parts = []
  for name, values in presets.items():
    text = ' '.join(
      f'--{key}={records.flag_text(value)}' for key, value in values.items()
    )
    parts.append(f'{name}: {text or "the defaults below"}')
  return 'Values of the flags that are not given. ' + '; '.join(parts) + '.'


def _parser(field):
  """The absl parser of a field's type."""
  kind = field.type
  many = typing.get_origin(kind) is tuple
  kind = typing.get_args(kind)[0] if many else kind
  least, choices = field.metadata['least'], field.metadata['choices']
  one: Any
  if choices is not None:
    one = _Choices(kind, choices)
  elif kind is int:
    one = flags.IntegerParser(lower_bound=least)
  elif kind is float:
    one = flags.FloatParser(lower_bound=least)
  else:
    one = flags.ArgumentParser()
  return _Several(one) if many else one


class _Choices(flags.ArgumentParser):
  """One of several values."""

  def __init__(self, kind, choices):
    super().__init__()
    self.kind, self.choices = kind, choices
    self.syntactic_help = ' or '.join(map(str, choices))

  def parse(self, argument):
    value = self.kind(argument)
    if value not in self.choices:
      raise ValueError(f'it is one of {self.syntactic_help}')
    return value

  def flag_type(self):
    return self.kind.__name__


class _Several(flags.ListParser):
  """Values separated by commas, each parsed by another parser."""

  def __init__(self, one):
    super().__init__()
    self.one = one
    if one.syntactic_help:
      self.syntactic_help = f'{self.syntactic_help}, each {one.syntactic_help}'

  def parse(self, argument):
    if isinstance(argument, tuple | list):
      return tuple(argument)
    return tuple(self.one.parse(part) for part in super().parse(argument))


def _given(cls):
  return {
    field.name: flags.FLAGS[field.name].value
    for field in dataclasses.fields(cls)
    if flags.FLAGS[field.name].present
  }
