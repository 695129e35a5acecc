"""What runs found: their directories, read back; committed results; pages.

  python -m experiments.lib.results --add=runs/random_scaling
  python -m experiments.lib.results

The first copies the report of a finished run to results/NAME.json and renews
RESULTS.md and docs/papers/*.md; the second renews the pages alone. Pages are
prose, with blocks that are generated between markers, <!-- end --> after each:

  <!-- results -->                      what every result says of every claim
  <!-- results: NAME -->                one result, whole
  <!-- results: NAME claims tables -->  parts of it: answer, claims, tables, run
"""

from collections.abc import Iterator
import contextlib
import dataclasses
import datetime
import json
import math
import pathlib
import re
from typing import Any
from typing import NamedTuple

from dmm_jax import records
from experiments.lib import claims as claims_lib
from experiments.lib import flags
from experiments.lib import runner
from experiments.lib import tables

ROOT = pathlib.Path(__file__).parents[2]
# Papers in their order on every page.
PAPERS = {
  '2004.05923': 'Random networks',
  '1812.10156': 'Random networks, bits',
  '2106.10151': 'Dimpled manifolds',
  '2206.04463': 'Halfway',
  '2205.10952': 'Codes',
  '2206.04472': 'Early transfer',
  '2303.00783': 'Weights at the start',
}
LOST = ' †'  # Undecided by Holm's correction over the claims of a paper.
_BLOCK = re.compile(
  r'(?s)(<!-- results:? ?([^\n]*?) ?-->\n)(?:(?!<!--).)*(<!-- end -->)'
)


class Run(NamedTuple):
  """A finished run, or a committed result, as its files have it.

  Attributes:
    name: of its directory, within the folder that was read; of its file.
    path: of the directory or the file.
    record: run.json: how it was made.
    raw: report.json.
    report: the same, typed.
    columns: columns.json; {} where there is none.
    captions: of its figures, by name.
  """

  name: str
  path: pathlib.Path
  record: dict
  raw: dict
  report: runner.Report
  columns: dict
  captions: dict

  @property
  def experiment(self) -> str:
    """The name of the script."""
    return str(self.raw.get('experiment')).removeprefix('experiments.')


# --- Directories of runs -----------------------------------------------------


def read(folder: pathlib.Path) -> tuple[list[Run], list[tuple[str, str]]]:
  """Returns the finished runs, oldest first, and `(name, reason)` of others."""
  runs, others = [], []
  for path in _directories(folder):
    name = str(path.relative_to(folder))
    try:
      runs.append(read_run(name, path))
    except (OSError, ValueError) as error:
      others.append((name, str(error)))
  return sorted(runs, key=lambda run: (started(run.record), run.name)), others


def _directories(folder, depth=3) -> Iterator[pathlib.Path]:
  """Yields run directories, and those that neither are runs nor hold any."""
  for path in sorted(folder.iterdir()):
    if path.name.startswith('.') or not path.is_dir():
      continue
    inner: list[pathlib.Path] = []
    if depth > 1 and not path.is_symlink() and not _is_run(path):
      inner = list(_directories(path, depth - 1))
    yield from inner if any(map(_is_run, inner)) else [path]


def _is_run(path):
  return (path / 'run.json').exists() or (path / 'flags.txt').exists()


def read_run(name: str, path: pathlib.Path) -> Run:
  """Reads a run directory.

  Raises:
    ValueError: if it is none, is not finished, or cannot be read.
  """
  if not _is_run(path):
    raise ValueError('not a run: it has neither run.json nor flags.txt')
  if not (path / 'run.json').exists():
    raise ValueError('it has no run.json')
  record = records.read_json(path / 'run.json', sealed=True)
  started(record)
  if not record.get('finished'):
    raise ValueError('unfinished: the run did not reach its end')
  if not (path / 'report.json').exists():
    raise ValueError(
      'it has no report.json; started again with its flags, the run writes one'
    )
  found = []
  for file in ('report.json', 'columns.json', 'figures/captions.json'):
    exists = (path / file).exists()
    if exists:
      records.check_file(path / file, path, record)
    found.append(records.read_json(path / file) if exists else {})
  return _checked(name, path, record, *found)


def _committed_dict(path):
  """A file of results/, which people may edit."""
  try:
    found = json.loads(path.read_text())
  except (OSError, ValueError) as error:
    raise ValueError(f'{path.name} cannot be read: {error}') from None
  if not isinstance(found, dict):
    raise ValueError(f'{path.name} is no JSON object')
  return found


def _checked(name, path, record, raw, columns, captions) -> Run:
  """A run that can be shown: of the right types, and complete."""
  for key in ('flags', 'versions', 'devices', 'seconds'):
    if not isinstance(record.get(key), dict):
      record[key] = {}
  try:
    report = runner.from_json(raw)
    runner.to_text(report)
  except (AttributeError, LookupError, TypeError, ValueError) as error:
    raise ValueError(f'report.json is no report: {error!r}') from None
  for table in columns.values():
    described = table.values() if isinstance(table, dict) else [table]
    if not all(isinstance(column, dict) for column in described):
      raise ValueError('columns.json describes no columns')
  return Run(name, path, record, raw, report, columns, captions)


def started(record: dict) -> datetime.datetime:
  """Returns when a run was started; ValueError if it is unknown."""
  try:
    when = datetime.datetime.fromisoformat(record['started'])
    return when if when.tzinfo else when.replace(tzinfo=datetime.UTC)
  except (KeyError, TypeError, ValueError):
    raise ValueError('run.json does not say when the run was started') from None


def seconds(path: pathlib.Path, record: dict) -> float:
  """Returns how long a run took: its last start, or its units if that is more.

  A run that is shown again, or goes on after a kill, has a new start. Units
  that ran side by side count one by one.
  """
  logged = 0.0
  with contextlib.suppress(OSError, records.DamagedError):
    rows = [row for row in records.read_log(path) if isinstance(row, dict)]
    logged = sum(_finite(row.get('seconds')) for row in rows)
  with contextlib.suppress(KeyError, TypeError, ValueError):
    end = datetime.datetime.fromisoformat(record['finished'])
    return max(logged, (end - started(record)).total_seconds())
  return logged


def _finite(value) -> float:
  good = isinstance(value, int | float) and math.isfinite(value)
  return float(value) if good else 0.0


def commit(record: dict) -> str:
  """Returns the commit of a run; '+' behind it if files had been changed."""
  short = str(record.get('git') or 'unknown')[:12]
  return short + '+' * bool(record.get('git_dirty'))


def by_paper(runs: list[Run]) -> list[Run]:
  """Returns runs by the paper of their first claim, those without one last."""
  papers = lambda run: [claim.paper for claim in run.report.claims] + ['~']
  return sorted(runs, key=lambda run: _place(papers(run)[0]))


def claims_by_paper(runs: list[Run]) -> list[tuple[claims_lib.Claim, Run]]:
  """Returns all claims with their runs, by paper, experiment and claim.

  Claims of an experiment stand in its own order, that of one claim's runs.
  """
  found: dict[tuple, list] = {}
  for run in runs:
    for claim in run.report.claims:
      place = (*_place(claim.paper), run.experiment)
      found.setdefault((place, claim.name), []).append((claim, run))
  keys = sorted(found, key=lambda key: key[0])
  return [pair for key in keys for pair in found[key]]


def _place(paper):
  return [*PAPERS, paper].index(paper), paper


# --- Committed results -------------------------------------------------------


def committed(root: pathlib.Path = ROOT) -> list[Run]:
  """Returns the results in results/, by name; other files have no claims."""
  paths = sorted((root / 'results').glob('*.json'))
  found = [(path, _committed_dict(path)) for path in paths]
  return [
    _checked(path.stem, path, raw['run'], raw, {}, {})
    for path, raw in found
    if 'claims' in raw
  ]


def add(
  run_dir: str,
  name: str = '',
  root: pathlib.Path = ROOT,
  *,
  with_claims: bool = True,
) -> str:
  """Copies what a finished run says to results/NAME.json; returns NAME.

  Args:
    run_dir: of the run.
    name: of the result; '' takes that of the experiment.
    root: of the repository.
    with_claims: False for a run that serves its tables alone. Its claims would
      be tested a second time, and count in Holm's correction.
  """
  try:
    run = read_run(run_dir, pathlib.Path(run_dir))
  except ValueError as error:
    raise flags.FlagError(f'--add={run_dir}: {error}') from None
  name = name or run.experiment
  path = root / 'results' / f'{name}.json'
  if not re.fullmatch('[a-z0-9_]+', name):
    raise flags.FlagError(f'--name={name} has to match [a-z0-9_]+')
  if path.exists() and 'claims' not in _committed_dict(path):
    raise flags.FlagError(f'--name={name}: {path} is not the result of a run')
  record = run.record
  kept: dict[str, Any] = {key: record[key] for key in ('started', 'devices')}
  kept['versions'] = {'python': record.get('python'), **record['versions']}
  kept |= {'git': commit(record), 'seconds': record['seconds']}
  # Where the data lie says nothing to others.
  command = re.sub(r'(--data_dir)=\S+', r'\1=DIR', run.raw['command'])
  result = {'name': name, **run.raw, 'command': command, 'run': kept}
  if not with_claims:
    result['claims'] = []
  records.write_text(path, json.dumps(result, indent=1, allow_nan=False) + '\n')
  return name


# --- Pages -------------------------------------------------------------------


def pages(root: pathlib.Path = ROOT) -> dict[pathlib.Path, str]:
  """Returns the pages as they should be, by path."""
  found = committed(root)
  paths = [root / 'RESULTS.md', *sorted((root / 'docs/papers').glob('*.md'))]
  return {path: render(path.read_text(), found) for path in paths}


def render(text: str, results: list[Run]) -> str:
  """Returns a page with its blocks generated anew.

  Raises:
    ValueError: for a block without an end, or of what is not there.
  """
  markers = [m[2].split() for m in _BLOCK.finditer(text)]
  linked = {words[0] for words in markers if _shows_claims(words)}
  generate = lambda m: (
    f'{m[1]}\n{_generated(m[2].split(), results, linked)}\n{m[3]}'
  )
  new, count = _BLOCK.subn(generate, text)
  if count != text.count('<!-- results'):
    raise ValueError('each <!-- results --> needs an <!-- end --> of its own')
  return new


def _shows_claims(words):
  """Whether a block is of one result, and shows its claims."""
  return bool(words) and (len(words) == 1 or 'claims' in words)


def _generated(words, results, linked) -> str:
  """What stands in a block, of the words in its marker.

  Args:
    words: of the marker.
    results: all of them.
    linked: names of those whose claims have a block on the same page.
  """
  if not words:
    return _summary(results, linked)
  name, *parts = words
  known = {run.name: run for run in results}
  if name not in known or not {*parts} <= {*_PARTS}:
    raise ValueError(
      f'<!-- results: {" ".join(words)} -->: a result is one of {[*known]}, a '
      f'part of it one of {[*_PARTS]}'
    )
  found = [_PARTS[part](known[name]) for part in parts or _PARTS]
  return '\n'.join(filter(None, found))


def _summary(results, linked) -> str:
  """Answers in short; a row a claim, a column a run; how runs were made."""
  pairs = claims_by_paper(results)
  found = [f'### In short\n\n{_short(results, linked)}'] if pairs else []
  for paper in dict.fromkeys(claim.paper for claim, _ in pairs):
    of_paper = [pair for pair in pairs if pair[0].paper == paper]
    found.append(f'### {_paper(paper)}\n\n{_verdicts(of_paper)}')
  runs = [[run.name, _made(run)] for run in results]
  found.append(f'### Runs\n\n{_markdown(("run", "made"), runs)}')
  return '\n'.join(found) if results else 'No run has been added yet.\n'


def _short(results, linked):
  """Every question with the answers of its runs, and what became of claims."""
  answers: dict[str, list] = {}
  for run in by_paper([run for run in results if run.report.claims]):
    name = f'[{run.name}](#{run.name})' if run.name in linked else run.name
    said = tables.escape(run.report.answer)
    outcome = tables.escape(_outcome(run.report.claims))
    line = f'- {said} ({name}: {outcome})\n'
    answers.setdefault(run.raw['question'], []).append((run, line))
  parts = []
  for question, found in answers.items():
    found.sort(key=lambda pair: _order(_column(pair[0])))
    said = ''.join(line for _, line in found)
    parts.append(f'**{tables.escape(question)}**\n\n{said}')
  return '\n'.join(parts)


def _outcome(claims, most=5):
  """How many claims have each verdict, and which are not supported, if few."""
  verdicts = [claim.verdict for claim in claims]
  refuted = claims_lib.NOT_SUPPORTED
  kinds = [kind for kind in claims_lib.VERDICTS if kind != refuted] + [refuted]
  counts = [(verdicts.count(kind), kind) for kind in kinds]
  said = ', '.join(f'{count} {kind}' for count, kind in counts if count)
  names = [claim.name for claim in claims if claim.verdict == refuted]
  return said + (f': {"; ".join(names)}' if 0 < len(names) <= most else '')


def _verdicts(pairs):
  """What each run says of each claim of a paper."""
  kept = claims_lib.holm(claim for claim, _ in pairs)
  rows: dict[tuple, dict] = {}
  for (claim, run), keeps in zip(pairs, kept, strict=True):
    lost = claim.verdict == claims_lib.SUPPORTED and not keeps
    said = f'{claim.verdict}{LOST if lost else ""}'
    row = rows.setdefault((run.experiment, claim.name), {'': claim.statement})
    row[_column(run)] = said
  runs = sorted({_column(run) for _, run in pairs}, key=_order)
  heads = ['experiment', 'claim', *runs]
  shown, before = [], ''
  said = _distinguished([(name, row['']) for (_, name), row in rows.items()])
  for (experiment, _), row, statement in zip(
    rows, rows.values(), said, strict=True
  ):
    first = experiment if experiment != before else ''
    shown.append([first, statement, *(row.get(name, '') for name in runs)])
    before = experiment
  return _markdown(heads, shown)


def _column(run):
  """What tells a run from others of its experiment."""
  return run.name.removeprefix(run.experiment).strip('_') or 'default'


def _order(column):
  """Default runs first, then by data set, the small one first."""
  sets = ['default', 'mnist', 'cifar']
  found = [place for place, name in enumerate(sets) if name in column]
  return min([*found, len(sets)]), column


def _paper(number):
  name = PAPERS.get(number, '')
  if re.fullmatch(r'\d{4}\.\d{4,5}', number):
    number = f'[{number}](https://arxiv.org/abs/{number})'
  return ', '.join(filter(None, [name, tables.escape(number)])) or 'Ours'


def _markdown(heads, rows):
  columns = [tables.Column(name, '', '') for name in heads]
  return tables.to_markdown(tables.Table('', columns, rows))


def _claims(run):
  """The claims and their verdicts, where `_short` leads to."""
  every = run.report.claims
  said = _distinguished([(claim.name, claim.statement) for claim in every])
  rows = [
    [statement, claim.verdict, claim.reason]
    for statement, claim in zip(said, every, strict=True)
  ]
  table = _markdown(('claim', 'verdict', 'why'), rows)
  return f'<a id="{run.name}"></a>\n\n{table}' if rows else ''


def _distinguished(named):
  """Statements of `(name, statement)`, with names where several are equal."""
  said = [statement for _, statement in named]
  return [f'{s} ({name})' if said.count(s) > 1 else s for name, s in named]


def _tables(run):
  """All tables, each with a paragraph of what its columns mean."""
  found = []
  for table in run.report.tables:
    meanings = [map(tables.escape, pair) for pair in tables.meanings(table)]
    legend = '. '.join(f'*{name}*: {text}' for name, text in meanings)
    found += [tables.to_markdown(table), legend and f'{legend}.\n']
  return '\n'.join(filter(None, found))


def _made(run):
  """When, at which commit, with and on what."""
  record = run.record
  devices, versions = record['devices'], record['versions']
  return (
    f'{started(record):%d %B %Y}, {record["git"]}, Python '
    f'{versions["python"]}, JAX {versions["jax"]}, {devices["count"]} x '
    f'{devices["kind"]}'
  )


def _run(run):
  return f'    {run.raw["command"]}\n\n{_made(run)}.\n'


_PARTS = {
  'answer': lambda run: f'**{tables.escape(run.report.answer)}**\n',
  'claims': _claims,
  'tables': _tables,
  'run': _run,
}


@dataclasses.dataclass(frozen=True)
class Config:
  add: str = flags.flag('', 'Directory of a finished run to add; empty: none.')
  name: str = flags.flag('', 'Name of its result; empty: of its experiment.')
  claims: bool = flags.flag(
    True, 'Copy its claims too; false for a run that serves its tables alone.'
  )


def run(config: Config, root: pathlib.Path = ROOT) -> None:
  """Adds a run, if one is given, and renews the pages."""
  if config.add:
    name = add(config.add, config.name, root, with_claims=config.claims)
    print(f'results/{name}.json')
  try:
    found = pages(root)
  except ValueError as error:
    raise flags.FlagError(f'the pages were not renewed: {error}') from None
  for path, text in found.items():
    if text != path.read_text():
      records.write_text(path, text)
      print(path)


if __name__ == '__main__':
  flags.main(run, Config)
