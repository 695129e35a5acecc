"""What the experiments that are not yet on `experiments.lib` share."""

import collections
from collections.abc import Callable
import configparser
import contextlib
import functools
import io
import itertools
import pathlib
import re
from typing import Any
from typing import NamedTuple

import tqdm

from dmm_jax import records
from dmm_jax import statistics
from experiments.lib import runner
from experiments.lib import tables

HERE = pathlib.Path(__file__).parent
# What `print_table` printed since a report began.
_printed: list[tables.Table] = []
_AMOUNT = re.compile(r' by [-+][\d.]+')


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
    report: prints a summary; the tables that it prints go into report.json.

  Returns:
    The summary, as written to summary.json.
  """
  with records.open_run(config.workdir, config, experiment) as run_dir:
    if not records.agree((run_dir / 'results.npz').exists()):
      collect(config, run_dir)
    records.agree(0)  # What follows reads what process 0 has written.
    summary = summarize(config, run_dir)
    records.write_json(run_dir / 'summary.json', summary)
    if records.is_first():
      figures = draw(run_dir)
      _printed.clear()
      with contextlib.redirect_stdout(io.StringIO()) as text:
        report(summary)
      saved = to_report(experiment, config, summary, _printed)
      records.write_json(run_dir / 'report.json', saved)
      records.finish_run(run_dir)
      print(text.getvalue(), end='')
      print(f'\nfigures: {", ".join(map(str, figures))}')
    records.agree(0)  # None leaves while another one works.
  return summary


def to_report(experiment, config, summary, printed) -> dict:
  """What report.json holds: tables as they were printed, verdicts as a table.

  Verdicts are in each experiment's own words, and no claims of papers.
  """
  found = verdicts(summary)
  explained = [
    table._replace(
      columns=[
        column._replace(meaning=meaning(experiment, column.name))
        for column in table.columns
      ]
    )
    for table in printed
  ]
  heads = [tables.Column(name, '', '') for name in ('of', 'verdict', 'why')]
  report = runner.Report(
    condensed(found),
    [],
    [tables.Table('Verdicts', heads, found), *explained],
  )
  values = records.flag_values(config)
  given = [f'--{k}={v}' for k, v in values.items() if k != 'workdir']
  command = ' '.join(['python -m', experiment, *given])
  question = str(summary.get('question', ''))
  return runner.to_json(report, experiment, question, command)


@functools.cache
def _meanings():
  """What columns mean, by experiment; those under [all] in every one."""
  parser = configparser.ConfigParser(
    delimiters=('=',), interpolation=None, default_section='all'
  )
  parser.optionxform = str  # type: ignore[method-assign, assignment]
  parser.read_string((HERE / 'common_columns.txt').read_text())
  return parser


def meaning(experiment: str, column: str) -> str:
  """What a column of a printed table means; '' where nobody has said."""
  parser, name = _meanings(), experiment.removeprefix('experiments.')
  if not parser.has_section(name):
    return parser.defaults().get(column, '')
  return parser.get(name, column, fallback='') if column else ''


class Verdict(NamedTuple):
  """What a run says of one thing; `name` and `why` may be empty."""

  name: str
  said: str
  why: str


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
  name = lambda row: ', '.join(describe(key, row[key]) for key in chosen)
  return [(name(row), row) for row in rows]


def is_text(value) -> bool:
  return isinstance(value, str)


def is_size(value) -> bool:
  """Whether it is a number, or a pair of them, from one to the other."""
  pair = value if isinstance(value, list) and len(value) == 2 else [value]
  return all(isinstance(v, int | float) for v in pair)


def describe(key, value) -> str:
  """A field as a name: text speaks for itself, numbers need theirs."""
  if isinstance(value, list):
    return f'{words(key)} {value[0]:g} to {value[1]:g}'
  try:
    return f'{words(key)} {float(value):g}'
  except ValueError:
    return str(value)


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


def entry(found: statistics.Estimate) -> dict:
  """Returns an estimate in the form that summary.json holds."""
  return {'value': found.value, 'interval': [found.low, found.high]}


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
  heads = [tables.Column(name, '', '') for name in header]
  _printed.append(tables.Table('', heads, [list(row) for row in rows]))
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
