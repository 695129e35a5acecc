"""What did these runs find? One page of them all, to look at and to pass on.

From a folder of run directories to one HTML file that needs nothing else:
figures lie within it, nothing is loaded from anywhere. Each run has its
question, verdicts, tables, figures, command, and what it was made with; runs
can be searched and sorted, and so can every table.

  python -m experiments.gallery --runs=runs

It takes seconds. Tables are those that the run printed (report.txt); of a run
that was made before there was such a file, those that today's code prints of
its summary.json, else every number there. Folders that hold no run, and runs
that are not finished, are listed with the reason.
"""

import ast
import base64
import collections
from collections.abc import Iterator
import configparser
import contextlib
import dataclasses
import datetime
import functools
import html
import importlib
import importlib.util
import io
import itertools
import math
import pathlib
import re
import shlex
import string
from typing import Any
from typing import NamedTuple

from dmm_jax import records
from experiments import common

HERE = pathlib.Path(__file__).parent
PICTURES = {'.png': 'image/png', '.gif': 'image/gif'}
# Of every number of a run; a page has to stay light.
MOST_NUMBERS = 500
_EXPERIMENT = re.compile(r'experiments\.[a-z0-9_]+')
_RULE = re.compile(r'-+(  -+)+ *')
# 0.5 [0.1, 0.9], 99.1%, 1,234, 3/20, 1e-05, inf, or nothing; several of them.
_ONE = r'(?:[-+]?(?:\d[\d.,e+-]*%?|inf|nan)|-)'
_NUMBER = re.compile(rf'(?:{_ONE}(?:[ /]{_ONE})*(?: \[[^\[\]]*\])?)?')
_AMOUNT = re.compile(r' by [-+][\d.]+')
_INTERVAL = re.compile(r'( ?\[[^\[\]]*\])')


@dataclasses.dataclass(frozen=True)
class Config:
  runs: str = common.flag('runs', 'Folder of run directories.')
  out: str = common.flag('', 'File to write; empty for gallery.html there.')


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


def run(config: Config) -> pathlib.Path:
  """Writes the page, and returns where it is."""
  folder = pathlib.Path(config.runs)
  if not folder.is_dir():
    raise common.FlagError(f'--runs={config.runs} is not a directory')
  out = pathlib.Path(config.out or folder / 'gallery.html')
  runs, others = read(folder)
  try:
    records.write_text(out, page(runs, others))
  except OSError as error:
    raise common.FlagError(f'--out={out} cannot be written: {error}') from None
  size = out.stat().st_size / 2**20
  print(f'{len(runs)} runs, {len(others)} other folders: {out} ({size:.1f} MB)')
  return out


# --- Reading ---------------------------------------------------------------


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


# --- HTML ------------------------------------------------------------------


escape = html.escape


def page(runs: list[Run], others: list[tuple[str, str]]) -> str:
  """The whole page; everything that comes from a file is escaped."""
  template = string.Template((HERE / 'gallery.html').read_text())
  return template.substitute(
    count=len(runs),
    made=escape(datetime.datetime.now(datetime.UTC).strftime('%Y-%m-%d %H:%M')),
    index=''.join(index_row(i, one) for i, one in enumerate(runs)),
    runs=''.join(article(i, one) for i, one in enumerate(runs)),
    others=listed(others),
  )


def index_row(i, one):
  spent = seconds(one.path, one.record)
  said = condensed(verdicts(one.summary))
  when = started(one.record).timestamp()
  return (
    f'<tr data-run="run{i}"><td><a href="#run{i}">{escape(one.name)}</a></td>'
    f'<td class="less">{escape(script(one))}</td>'
    f'<td class="said">{escape(said)}</td>'
    f'<td class="date" data-value="{when:.0f}">{date(one)}</td>'
    f'<td data-value="{spent:.0f}" class="number">{lasting(spent)}</td></tr>\n'
  )


def article(i, one):
  """One run."""
  question = one.summary.get('question') or about_line(one) or script(one)
  found = verdicts(one.summary)
  return (
    f'<article id="run{i}"><h2>{escape(one.name)}</h2>\n'
    f'<p class="question">{escape(str(question))}</p>\n{facts(one)}'
    f'{judged(found)}{results(one, found)}{figures(one)}{fine_print(one)}'
    '</article>\n'
  )


def about_line(one):
  return about(str(one.record.get('experiment'))).split('\n')[0]


def script(one):
  return str(one.record.get('experiment', '?')).removeprefix('experiments.')


def date(one):
  return started(one.record).strftime('%Y-%m-%d %H:%M')


def lasting(spent: float) -> str:
  """Seconds in words."""
  if spent < 99.5:
    return f'{spent:.0f} s'
  minutes = round(spent / 60)
  return f'{minutes} min' if minutes < 100 else f'{spent / 3600:.1f} h'


def facts(one):
  """The line below the question."""
  devices = one.record.get('devices')
  devices = devices if isinstance(devices, dict) else {}
  flags = one.record.get('flags')
  preset = flags.get('preset') if isinstance(flags, dict) else None
  set_name = one.summary.get('dataset')
  told_of = [
    script(one),
    preset and f'preset {preset}',
    isinstance(set_name, str) and f'data: {set_name}',
    date(one),
    lasting(seconds(one.path, one.record)),
    devices and f'{devices.get("count", "?")} x {devices.get("kind", "?")}',
  ]
  return f'<p class="facts">{escape(" · ".join(filter(None, told_of)))}</p>\n'


def judged(found):
  """The verdicts, the first ones open."""
  items = [
    f'<li class="{tone(v.said)}">'
    + (f'{escape(v.name)} ' if v.name else '')
    + f'<span class="chip">{escape(v.said)}</span>'
    + (f' <span class="why">{escape(v.why)}</span>' if v.why else '')
    + '</li>'
    for v in found
  ]
  if not items:
    return ''
  more = ''
  if len(items) > 8:
    more = folded(
      f'{len(items) - 6} more verdicts',
      f'<ul class="verdicts">{"".join(items[6:])}</ul>',
    )
    items = items[:6]
  return f'<ul class="verdicts">{"".join(items)}</ul>\n{more}'


def tone(said):
  """The colour of a verdict, of three words that mean the same anywhere."""
  words = {'not supported': 'no', 'supported': 'yes', 'undecided': 'open'}
  return words.get(said, 'other')


def results(one, found):
  """Tables: those that the run printed, or of every number."""
  every = every_number(one.summary)
  if not one.report.strip():
    return every
  # Verdicts stand above.
  above = {v.said for v in found}
  lines = tuple(f'{v.name}: {v.said}' for v in found)
  made, heads = [], []
  for block in blocks(one.report):
    if isinstance(block, list):
      header, *rows = block
      made.append(
        table(header, rows, script(one), explained=header not in heads)
      )
      heads.append(header)
      continue
    kept = [
      line
      for line in block.splitlines()
      if line not in above
      and not line.startswith(lines)
      and not line.startswith('figures: ')
    ]
    paragraphs = re.split(r'\n\n+', '\n'.join(kept).strip('\n'))
    made += [f'<p class="text">{escape(p)}</p>\n' for p in paragraphs if p]
  return ''.join(made) + folded('Every number', every)


def every_number(summary):
  """A flat table of a summary's numbers."""
  rows = []
  for name, value, ends, n in itertools.islice(
    numbers(summary), MOST_NUMBERS + 1
  ):
    interval = f' [{", ".join(map(shown, ends))}]' if ends else ''
    size = '' if n is None else shown(n)
    rows.append([name, shown(value) + interval, size])
  if not rows:
    return '<p class="text">summary.json has no numbers.</p>\n'
  note = ''
  if len(rows) > MOST_NUMBERS:
    note = f'<p class="text">The first {MOST_NUMBERS}; all: summary.json.</p>\n'
  return table(['number', 'value', 'n'], rows[:MOST_NUMBERS], 'gallery') + note


def shown(value):
  return f'{value:.4g}' if isinstance(value, float) else str(value)


def table(header, rows, experiment, explained=True):
  """A table that can be sorted, and what its columns mean."""
  # What brackets are is said at the top of the page.
  header = [name.removesuffix(' [95 %]') for name in header]
  told_of = {name: meaning(experiment, name) for name in header}
  columns = zip(*rows, strict=True) if rows else [[]] * len(header)
  kinds = [
    ' class="number"' if all(map(_NUMBER.fullmatch, column)) else ''
    for column in columns
  ]
  head = ''.join(
    f'<th scope="col"{kind} title="{escape(told_of[name])}">'
    f'<button type="button">{escape(name) or "&nbsp;"}</button></th>'
    for name, kind in zip(header, kinds, strict=True)
  )
  body = ''.join(f'<tr>{"".join(map(cell, row, kinds))}</tr>\n' for row in rows)
  legend = ''.join(
    f'<dt>{escape(name)}</dt><dd>{escape(text)}</dd>'
    for name, text in told_of.items()
    if text and explained
  )
  legend = legend and folded('What the columns mean', f'<dl>{legend}</dl>')
  return (
    '<div class="wide"><table class="sortable"><thead><tr>'
    f'{head}</tr></thead><tbody>\n{body}</tbody></table></div>\n{legend}'
  )


def cell(text, kind):
  """A cell; the interval in it stands back."""
  if kind:
    text = _INTERVAL.sub(r'<span class="interval">\1</span>', escape(text))
    return f'<td{kind}>{text}</td>'
  return f'<td>{escape(text)}</td>'


@functools.cache
def meanings():
  """What columns mean, by experiment; those under [all] in every one."""
  parser = configparser.ConfigParser(
    delimiters=('=',), interpolation=None, default_section='all'
  )
  parser.optionxform = str
  parser.read_string((HERE / 'gallery_columns.txt').read_text())
  return parser


def meaning(experiment, column):
  """What a column means; '' where nobody has said."""
  parser = meanings()
  if not parser.has_section(experiment):
    return parser.defaults().get(column, '')
  return parser.get(experiment, column, fallback='') if column else ''


def figures(one):
  """Pictures, within the page; what else there is, by name."""
  paths = sorted((one.path / 'figures').glob('*'))
  made, named = [], []
  for path in paths:
    kind = PICTURES.get(path.suffix)
    if not kind or not path.is_file():
      named.append(path.name)
      continue
    data = base64.b64encode(path.read_bytes()).decode()
    made.append(
      '<figure><button type="button" class="enlarge" '
      f'aria-label="Enlarge {escape(path.stem)}">'
      f'<img src="data:{kind};base64,{data}" loading="lazy" '
      f'alt="{escape(path.stem)}, figure of {escape(one.name)}"></button>'
      f'<figcaption>{escape(words(path.stem))}</figcaption></figure>\n'
    )
  films = [name for name in named if name.endswith('.html')]
  note = ''
  if films:
    there = escape(f'{one.path / "figures"}: {", ".join(films)}')
    note = f'<p class="facts">To open by itself, in {there}</p>\n'
  return f'<div class="figures">{"".join(made)}</div>\n{note}' if made else note


def fine_print(one):
  """How the run was made, and how to make it again."""
  record = one.record
  versions = record.get('versions')
  versions = versions if isinstance(versions, dict) else {}
  made_with = [f'{name} {v}' for name, v in versions.items()]
  made_with.append(f'Python {record.get("python", "?")}')
  commit = str(record.get('git') or 'unknown')[:12]
  dirty = ', with changes' if record.get('git_dirty') else ''
  flags = ''
  with contextlib.suppress(OSError, UnicodeDecodeError):
    flags = (one.path / 'flags.txt').read_text()
  said = about(str(record.get('experiment')))
  return (
    f'<pre class="command">{escape(command(record))}</pre>\n'
    + f'<p class="facts">Commit {escape(commit + dirty)} · '
    + f'{escape(", ".join(made_with))}</p>\n'
    + (folded('How it measures and judges', pre(said)) if said else '')
    + (folded('Every flag', pre(flags)) if flags else '')
  )


def command(record):
  given = record.get('command')
  given = given[1:] if isinstance(given, list) else []
  start = f'python -m {record.get("experiment", "?")}'
  return ' '.join([start, shlex.join(map(str, given))]).strip()


def pre(text):
  return f'<pre>{escape(text.strip())}</pre>'


def folded(title, body):
  return f'<details><summary>{escape(title)}</summary>{body}</details>\n'


def listed(others):
  """What is not on the page, and why."""
  if not others:
    return ''
  items = ''.join(
    f'<li><b>{escape(name)}</b> {escape(reason)}</li>'
    for name, reason in others
  )
  return folded(
    f'{len(others)} folders are not shown', f'<ul class="others">{items}</ul>'
  )


if __name__ == '__main__':
  common.main(run, Config)
