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

import base64
import configparser
import contextlib
import dataclasses
import datetime
import functools
import html
import itertools
import pathlib
import re
import shlex
import string

from dmm_jax import records
from experiments import common
from experiments import findings

HERE = pathlib.Path(__file__).parent
PICTURES = {'.png': 'image/png', '.gif': 'image/gif'}
# Of every number of a run; a page has to stay light.
MOST_NUMBERS = 500
# 0.5 [0.1, 0.9], 99.1%, 1,234, 3/20, 1e-05, inf, or nothing; several of them.
_ONE = r'(?:[-+]?(?:\d[\d.,e+-]*%?|inf|nan)|-)'
_NUMBER = re.compile(rf'(?:{_ONE}(?:[ /]{_ONE})*(?: \[[^\[\]]*\])?)?')
_INTERVAL = re.compile(r'( ?\[[^\[\]]*\])')


@dataclasses.dataclass(frozen=True)
class Config:
  runs: str = common.flag('runs', 'Folder of run directories.')
  out: str = common.flag('', 'File to write; empty for gallery.html there.')


def run(config: Config) -> pathlib.Path:
  """Writes the page, and returns where it is."""
  folder = pathlib.Path(config.runs)
  if not folder.is_dir():
    raise common.FlagError(f'--runs={config.runs} is not a directory')
  out = pathlib.Path(config.out or folder / 'gallery.html')
  runs, others = findings.read(folder)
  try:
    records.write_text(out, page(runs, others))
  except OSError as error:
    raise common.FlagError(f'--out={out} cannot be written: {error}') from None
  size = out.stat().st_size / 2**20
  print(f'{len(runs)} runs, {len(others)} other folders: {out} ({size:.1f} MB)')
  return out


escape = html.escape


def page(runs: list[findings.Run], others: list[tuple[str, str]]) -> str:
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
  spent = findings.seconds(one.path, one.record)
  said = findings.condensed(findings.verdicts(one.summary))
  when = findings.started(one.record).timestamp()
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
  found = findings.verdicts(one.summary)
  return (
    f'<article id="run{i}"><h2>{escape(one.name)}</h2>\n'
    f'<p class="question">{escape(str(question))}</p>\n{facts(one)}'
    f'{judged(found)}{results(one, found)}{figures(one)}{fine_print(one)}'
    '</article>\n'
  )


def about_line(one):
  return findings.about(str(one.record.get('experiment'))).split('\n')[0]


def script(one):
  return str(one.record.get('experiment', '?')).removeprefix('experiments.')


def date(one):
  return findings.started(one.record).strftime('%Y-%m-%d %H:%M')


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
    lasting(findings.seconds(one.path, one.record)),
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
  tones = {'not supported': 'no', 'supported': 'yes', 'undecided': 'open'}
  return tones.get(said, 'other')


def results(one, found):
  """Tables: those that the run printed, or of every number."""
  every = every_number(one.summary)
  if not one.report.strip():
    return every
  # Verdicts stand above.
  above = {v.said for v in found}
  lines = tuple(f'{v.name}: {v.said}' for v in found)
  made, heads = [], []
  for block in findings.blocks(one.report):
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
    findings.numbers(summary), MOST_NUMBERS + 1
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
      f'<figcaption>{escape(findings.words(path.stem))}</figcaption></figure>\n'
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
  said = findings.about(str(record.get('experiment')))
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
