"""What finished runs say, read back from their directories: text, numbers."""

import ast
import collections
from collections.abc import Iterator
import contextlib
import datetime
import importlib
import importlib.util
import io
import itertools
import math
import pathlib
import re
from typing import Any
from typing import NamedTuple

from dmm_jax import records

_EXPERIMENT = re.compile(r'experiments\.[a-z0-9_]+')
_RULE = re.compile(r'-+(  -+)+ *')
_AMOUNT = re.compile(r' by [-+][\d.]+')


class Verdict(NamedTuple):
  """What a run says of one thing; `name` and `why` may be empty."""

  name: str
  said: str
  why: str


class Run(NamedTuple):
  """A finished run, as its files have it."""

  name: str
  path: pathlib.Path
  record: dict  # run.json
  summary: dict
  report: str


# --- Directories -----------------------------------------------------------


def read(folder: pathlib.Path) -> tuple[list[Run], list[tuple[str, str]]]:
  """Returns the finished runs, oldest first, and `(name, reason)` of others."""
  runs, others = [], []
  for path in directories(folder):
    name = str(path.relative_to(folder))
    try:
      runs.append(read_run(name, path))
    except (OSError, ValueError, LookupError, TypeError) as error:
      others.append((name, str(error)))
  return sorted(runs, key=lambda one: (started(one.record), one.name)), others


def directories(folder: pathlib.Path, depth: int = 3) -> Iterator[pathlib.Path]:
  """Yields run directories, and those that neither are runs nor hold any."""
  for path in sorted(folder.iterdir()):
    if path.name.startswith('.') or not path.is_dir():
      continue
    inner: list[pathlib.Path] = []
    if depth > 1 and not path.is_symlink() and not is_run(path):
      inner = list(directories(path, depth - 1))
    yield from inner if any(map(is_run, inner)) else [path]


def is_run(path: pathlib.Path) -> bool:
  return (path / 'run.json').exists() or (path / 'flags.txt').exists()


def read_run(name: str, path: pathlib.Path) -> Run:
  """Reads a run directory.

  Raises:
    ValueError: if it is none, is not finished, or cannot be read.
  """
  if not is_run(path):
    raise ValueError('not a run: it has neither run.json nor flags.txt')
  record = read_dict(path / 'run.json')
  started(record)
  if not (path / 'summary.json').exists():
    raise ValueError('unfinished: it has no summary.json')
  if not record.get('finished'):
    raise ValueError('unfinished: it was begun, or begun again, and not ended')
  summary = read_dict(path / 'summary.json')
  experiment = str(record.get('experiment', ''))
  return Run(name, path, record, summary, reported(path, experiment, summary))


def read_dict(path):
  try:
    found = records.read_json(path)
  except (OSError, ValueError) as error:
    raise ValueError(f'{path.name} cannot be read: {error}') from None
  if not isinstance(found, dict):
    raise ValueError(f'{path.name} is no JSON object')
  return found


def reported(path: pathlib.Path, experiment: str, summary: dict) -> str:
  """What a run printed at its end; '' where that cannot be had."""
  with contextlib.suppress(OSError, UnicodeDecodeError):
    return (path / 'report.txt').read_text()
  if not located(experiment):
    return ''
  # An older summary may lack what today's table shows, or have it in another
  # form.
  with contextlib.suppress(Exception):
    module = importlib.import_module(experiment)
    with contextlib.redirect_stdout(io.StringIO()) as text:
      module.report(summary)
    return text.getvalue()
  return ''


def located(experiment: str) -> pathlib.Path | None:
  """The file of a script of this package; None for anything else."""
  if not _EXPERIMENT.fullmatch(experiment):
    return None
  spec = importlib.util.find_spec(experiment)
  return pathlib.Path(spec.origin) if spec and spec.origin else None


def about(experiment: str) -> str:
  """The docstring of a script: how it measures, and how it judges."""
  path = located(experiment)
  if not path:
    return ''
  return ast.get_docstring(ast.parse(path.read_text())) or ''


def started(record: dict) -> datetime.datetime:
  try:
    when = datetime.datetime.fromisoformat(record['started'])
    return when if when.tzinfo else when.replace(tzinfo=datetime.UTC)
  except (KeyError, TypeError, ValueError):
    raise ValueError('run.json does not say when the run was started') from None


def seconds(path: pathlib.Path, record: dict) -> float:
  """How long a run took: its last start, or its logged parts if that is more.

  A run that is shown again, or goes on after a kill, has a new start.
  """
  logged = 0.0
  with contextlib.suppress(OSError):
    rows = [row for row in records.read_log(path) if isinstance(row, dict)]
    logged = sum(number(row.get('seconds')) for row in rows)
  with contextlib.suppress(KeyError, TypeError, ValueError):
    end = datetime.datetime.fromisoformat(record['finished'])
    return max(logged, (end - started(record)).total_seconds())
  return logged


def number(value) -> float:
  """A finite number as it is, anything else as 0."""
  good = isinstance(value, int | float) and math.isfinite(value)
  return float(value) if good else 0.0


# --- Summaries -------------------------------------------------------------


def verdicts(summary: dict) -> list[Verdict]:
  """Every verdict of a summary, named after where it stands.

  They are text under 'verdict', with 'why' beside it at times, or lists of text
  under 'verdicts'. Those at the top, where there are any, stand for all.
  """
  top = {k: v for k, v in summary.items() if k in ('verdict', 'verdicts')}
  return list(dict.fromkeys(_verdicts(top or summary, ())))


def _verdicts(value, where):
  if not isinstance(value, dict):
    for name, part in parts(value):
      yield from _verdicts(part, (*where, name))
    return
  named = ', '.join(filter(None, where))
  said = value.get('verdict')
  if isinstance(said, str) and said:
    yield Verdict(named, said, str(value.get('why') or ''))
  for key, part in value.items():
    if key == 'verdicts' and isinstance(part, list):
      said = [s for s in part if isinstance(s, str)]
      # Of one thing, or each with its name in it.
      for text in ['; '.join(said)] if named and said else said:
        yield Verdict(named, text, '')
    if isinstance(part, dict | list):
      hidden = key in ('rows', 'verdicts', 'sizes')
      yield from _verdicts(part, where if hidden else (*where, words(key)))


def condensed(found: list[Verdict], most: int = 6) -> str:
  """Verdicts in one line; of many, how often each is given."""
  if len(found) <= most:
    return '; '.join(
      f'{v.name}: {v.said}' if v.name and len(found) > 1 else v.said
      for v in found
    )
  # By how much a law is missed differs from case to case.
  counts = collections.Counter(_AMOUNT.sub('', v.said) for v in found)
  said = [f'{count} x {said}' for said, count in counts.most_common(3)]
  rest = len(found) - sum(count for _, count in counts.most_common(3))
  return ' | '.join(said + [f'{rest} others'] * (rest > 0))


def words(key) -> str:
  return str(key).replace('_', ' ')


def parts(value) -> list[tuple[str, Any]]:
  """The dictionaries of a list, each with the name that tells it apart.

  That is the fewest texts that do so, with numbers besides where they do not.
  """
  rows = value if isinstance(value, list) else []
  rows = [row for row in rows if isinstance(row, dict)]
  if not rows:
    return []
  fields = lambda good: [
    key
    for key, v in rows[0].items()
    if good(v) and key not in ('verdict', 'value', 'why')
    if all(good(row.get(key)) for row in rows)
  ]
  different = lambda keys: len(
    {repr([row[key] for key in keys]) for row in rows}
  )
  texts = fields(is_text)
  sizes = range(min(len(texts), 3) + 1)
  some = [c for size in sizes for c in itertools.combinations(texts, size)]
  chosen = list(max(some, key=different))  # The first of the best is shortest.
  for key in fields(is_size):
    if different([*chosen, key]) > different(chosen):
      chosen.append(key)
  chosen = chosen or (texts + fields(is_size))[:1]
  name = lambda row: ', '.join(told(key, row[key]) for key in chosen)
  return [(name(row), row) for row in rows]


def is_text(value) -> bool:
  return isinstance(value, str)


def is_size(value) -> bool:
  """Whether it is a number, or a pair of them, from one to the other."""
  pair = value if isinstance(value, list) and len(value) == 2 else [value]
  return all(isinstance(v, int | float) for v in pair)


def told(key, value) -> str:
  """A field as a name: text speaks for itself, numbers need theirs."""
  if isinstance(value, list):
    return f'{words(key)} {value[0]:g} to {value[1]:g}'
  try:
    return f'{words(key)} {float(value):g}'
  except ValueError:
    return str(value)


def numbers(value, where=()) -> Iterator[tuple[str, Any, list | None, Any]]:
  """Yields `(name, value, interval or None, n or None)` of every number.

  A dictionary with 'value' and 'interval' is one number; lists of numbers,
  which are curves, are left to the figures.
  """
  if isinstance(value, bool):
    return
  if isinstance(value, int | float):
    yield ' / '.join(where), value, None, None
  elif isinstance(value, list):
    for name, part in parts(value):
      yield from numbers(part, (*where, name))
  elif isinstance(value, dict):
    ends = value.get('interval')
    if isinstance(ends, list) and len(ends) == 2 and 'value' in value:
      yield ' / '.join(where), value['value'], ends, value.get('n')
      value = {k: v for k, v in value.items() if k not in ('value', 'n')}
    for key, part in value.items():
      if key != 'interval':
        yield from numbers(
          part, where if key == 'rows' else (*where, words(key))
        )


# --- Reports ---------------------------------------------------------------


def blocks(report: str) -> Iterator[str | list[list[str]]]:
  """Splits what a run printed into text and tables, lines of cells.

  A table, as `common.print_table` writes it, is a line of names above one of
  dashes, which shows where columns begin; two blanks part them, which text
  never has.
  """
  lines, text = report.splitlines(), []
  while lines:
    line = lines.pop(0)
    if not (lines and _RULE.fullmatch(lines[0])):
      text.append(line)
      continue
    yield '\n'.join(text).strip('\n')
    text, rule = [], lines.pop(0)
    starts = [m.start() for m in re.finditer('-+', rule)]
    table = [cells(line, starts)]
    while lines and is_row(lines[0], starts):
      table.append(cells(lines.pop(0), starts))
    yield table
  yield '\n'.join(text).strip('\n')


def is_row(line, starts):
  return (
    bool(line.strip())
    and all(
      line[start - 2 : start].isspace()
      for start in starts[1:]
      if start < len(line)
    )
    and len(line) > starts[1]
  )


def cells(line, starts):
  ends = [*starts[1:], None]
  return [line[a:b].strip() for a, b in zip(starts, ends, strict=True)]
