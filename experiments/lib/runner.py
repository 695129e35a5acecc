"""From a config to a report: measure unit by unit, analyse, draw, write, tell.

A run directory (`dmm_jax.records`) ends with

  results.npz    columns, one row a measured thing; other tables beside it
  columns.json   what each column of each table is: unit, meaning, dtype, shape
  report.json    question, command, one-sentence answer, claims, tables
  figures/       .png and .pdf, and captions.json

Measuring stops and goes on anywhere: a unit that is finished is a file in
chunks/, and a kill loses the units under way alone. Started again with the
same flags, a run ends with the same bytes.
"""

from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
import concurrent.futures
import contextlib
import pathlib
import time
from typing import Any
from typing import NamedTuple

import jax
from matplotlib import figure as figure_lib
import numpy as np
import tqdm

from dmm_jax import plots
from dmm_jax import records
from experiments.lib import claims as claims_lib
from experiments.lib import flags
from experiments.lib import tables as tables_lib

Columns = dict[str, np.ndarray]


class Unit(NamedTuple):
  """A part of the measuring that is done, saved and resumed whole.

  Attributes:
    name: unique; of a file.
    measure: `() -> columns`, arrays of one length.
    table: the table that the columns are rows of.
  """

  name: str
  measure: Callable[[], Columns]
  table: str = 'results'


class Report(NamedTuple):
  """What a run says.

  Attributes:
    answer: one sentence.
    claims: of the papers, with their verdicts.
    tables: with every number that a reader wants.
  """

  answer: str
  claims: Sequence[claims_lib.Claim]
  tables: Sequence[tables_lib.Table]


class Result(NamedTuple):
  """What `run` returns: every number as an array, and what they say.

  Attributes:
    table: columns of results.npz.
    report: claims and tables.
    tables: all tables by name, `table` among them.
    run_dir: where the files are.
  """

  table: Columns
  report: Report
  tables: dict[str, Columns]
  run_dir: pathlib.Path


# A unit goes out, and its columns come back as a future.
Units = Iterator[Unit]
# A figure, or what writes a file itself: `(path without its suffix) -> path`.
Drawing = figure_lib.Figure | Callable[[pathlib.Path], pathlib.Path]
Figures = dict[str, tuple[Drawing, str]]


class Experiment(NamedTuple):
  """A question, and the functions that answer it.

  Attributes:
    name: the module that `python -m` runs.
    doc: its docstring; the first line is the question.
    config: its dataclass of flags, with a `workdir`.
    presets: of the config's flags, by name.
    columns: `(unit, meaning)` of each column of each table, by name.
    measure: `(config, inputs) -> generator of Unit`. What it is sent back for
      each is a future: `columns = (yield unit).result()`.
    analyze: `(config, tables) -> Report`.
    draw: `(report, tables) -> {name: (figure, caption)}`; a function in place
      of a figure writes a file, such as a film, and returns its path.
    load: `config -> inputs`, data and networks, before the directory is made.
    check: `config ->`, raises FlagError for flags that do not go together.
    threads: units at a time, where there is one process: 2 compile one unit, on
      one core, while another one runs.
  """

  name: str
  doc: str | None
  config: Any
  presets: dict
  columns: Mapping[str, tuple[str, str]]
  measure: Callable
  analyze: Callable[[Any, dict[str, Columns]], Report]
  draw: Callable[[Report, dict[str, Columns]], Figures]
  load: Callable[[Any], Any] = lambda config: None
  check: Callable[[Any], None] = lambda config: None
  threads: int = 1

  def main(self) -> None:
    """Makes flags of the config, parses them, and runs."""
    flags.main(self.run, self.config, self.presets)

  def run(self, config: Any) -> Result:
    """Runs in the config's directory; a finished run is shown again.

    Of several processes, all measure and analyse; process 0 draws and reports.
    """
    flags.check(config)
    self.check(config)
    inputs = self.load(config)
    clock = _Clock()
    with records.open_run(config.workdir, config, self.name) as run_dir:
      if not records.sync_min((run_dir / 'results.npz').exists()):
        units = self.measure(config, inputs)
        found = _measure(units, run_dir, self.threads)
        for name in sorted(found, key=lambda name: name == 'results'):
          records.save_columns(run_dir / f'{name}.npz', found[name])
      records.sync_min(0)  # What follows reads what process 0 has written.
      clock.lap('measure')
      tables = load_tables(run_dir)
      described = _describe(tables, self.columns)
      records.write_json(run_dir / 'columns.json', described)
      report = self.analyze(config, tables)
      clock.lap('analyse')
      command = flags.command(self.name, config, self.presets)
      saved = to_json(report, self.name, flags.question(self.doc), command)
      records.write_json(run_dir / 'report.json', saved)
      if records.is_main_process():
        paths = _draw(self.draw(report, tables), run_dir)
        clock.lap('draw')
        records.finish_run(run_dir, seconds=clock.seconds)
        print(to_text(report))
        print(f'figures: {", ".join(map(str, paths))}')
        print(f'their captions: {run_dir / "figures" / "captions.json"}')
        print(clock.text())
      records.sync_min(0)  # None leaves while another one works.
    return Result(tables['results'], report, tables, run_dir)


def load_tables(run_dir: pathlib.Path) -> dict[str, Columns]:
  """Returns the tables of a run by name."""
  return {
    path.stem: records.load_columns(path)
    for path in sorted(pathlib.Path(run_dir).glob('*.npz'))
  }


class _Clock:
  """Seconds of a run's parts, and of compiling within them."""

  compiled = 0.0  # Of the process.

  def __init__(self):
    self.seconds: dict[str, float] = {'compile': 0.0}
    self.start, self.before = time.perf_counter(), _Clock.compiled

  def lap(self, name):
    now = time.perf_counter()
    self.seconds[name] = round(now - self.start, 2)
    self.seconds['compile'] = round(_Clock.compiled - self.before, 2)
    self.start = now

  def text(self):
    total = sum(v for name, v in self.seconds.items() if name != 'compile')
    return f'seconds: {total:.0f}, {self.seconds["compile"]:.0f} of compiling'


def _listen(event: str, duration_secs: float, **_: str | int | float) -> None:
  if event.endswith('backend_compile_duration'):
    _Clock.compiled += duration_secs


jax.monitoring.register_event_duration_secs_listener(_listen)


# --- Measuring ---------------------------------------------------------------


def _measure(units, run_dir, threads) -> dict[str, Columns]:
  """Runs all units; returns the tables that they make."""
  jobs: list[tuple[Unit, concurrent.futures.Future]] = []
  ended = [0.0]  # When the last unit did.
  with workers(threads) as pool, tqdm.tqdm(unit='unit', total=0) as bar:
    future = None
    with contextlib.suppress(StopIteration):
      while True:
        unit = units.send(future)
        bar.total += 1
        bar.refresh()
        future = pool.submit(_measure_unit, unit, run_dir, bar, ended)
        jobs.append((unit, future))
    futures = [future for _, future in jobs]
    concurrent.futures.wait(futures, return_when='FIRST_EXCEPTION')
    failed = [f for f in futures if f.done() and f.exception()]
    for future in failed or futures:
      future.result()
  names = [unit.name for unit, _ in jobs]
  if len(set(names)) < len(names):
    raise ValueError(f'two units have one name: {names}')
  found: dict[str, list] = {}
  for unit, future in jobs:
    found.setdefault(unit.table, []).append(future.result())
  return {name: records.concatenate(parts) for name, parts in found.items()}


def _measure_unit(unit, run_dir, bar, ended) -> Columns:
  """One unit: read if it is there, else measured and saved."""
  part = records.load_chunk(run_dir, unit.name)
  if not records.sync_min(part is not None):
    bar.set_description(unit.name)
    start = time.perf_counter()
    part = {k: np.asarray(v) for k, v in unit.measure().items()}
    records.save_chunk(run_dir, unit.name, part)
    # Of units side by side, what has passed since the last one: a sum of logged
    # seconds is the time that the run took.
    now = time.perf_counter()
    spent, ended[0] = now - max(start, ended[0]), now
    records.log(run_dir, unit=unit.name, seconds=round(spent, 4))
  bar.update()
  assert part is not None
  return part


@contextlib.contextmanager
def workers(num: int) -> Iterator[concurrent.futures.ThreadPoolExecutor]:
  """Yields a pool of threads; an error or Ctrl-C ends it without waiting.

  One thread where there are several processes: all have to use their devices in
  one order.
  """
  num = num if jax.process_count() == 1 else 1
  pool = concurrent.futures.ThreadPoolExecutor(num)
  try:
    yield pool
  finally:
    pool.shutdown(cancel_futures=True)


# --- Telling -----------------------------------------------------------------


def _describe(tables, columns) -> dict:
  """What columns.json holds."""
  missing = {name for table in tables.values() for name in table} - set(columns)
  if missing:
    raise ValueError(f'columns without a description: {sorted(missing)}')
  return {
    table: {
      name: {
        'unit': columns[name][0],
        'meaning': columns[name][1],
        'dtype': str(column.dtype),
        'shape': list(column.shape),
      }
      for name, column in found.items()
    }
    for table, found in tables.items()
  }


def to_json(
  report: Report, experiment: str, question: str, command: str
) -> dict:
  """Returns what report.json holds."""
  return {
    'experiment': experiment,
    'question': question,
    'command': command,
    'answer': report.answer,
    'claims': [claims_lib.to_json(claim) for claim in report.claims],
    'tables': [tables_lib.to_json(table) for table in report.tables],
  }


def from_json(found: dict) -> Report:
  """Returns the report that `to_json` made."""
  return Report(
    found['answer'],
    [claims_lib.from_json(claim) for claim in found['claims']],
    [tables_lib.from_json(table) for table in found['tables']],
  )


def verdicts(report: Report) -> tables_lib.Table:
  """Returns the claims of a report as a table."""
  column = tables_lib.Column
  return tables_lib.Table(
    'Claims',
    [
      column('claim', '', ''),
      column(
        'verdict',
        '',
        'supported if all conditions hold, not supported if one is refuted,'
        ' else undecided; not tested where an instrument was not good enough',
      ),
      column('why', '', 'conditions that decide: estimates [95 % intervals]'),
    ],
    [[claim.name, claim.verdict, claim.reason] for claim in report.claims],
  )


def to_text(report: Report) -> str:
  """Returns a report for a terminal: answer, verdicts, tables."""
  parts = [report.answer + '\n']
  if report.claims:
    parts.append(tables_lib.to_text(verdicts(report)))
  parts += map(tables_lib.to_text, report.tables)
  return '\n' + '\n'.join(parts)


def _draw(figures: Figures, run_dir) -> list[pathlib.Path]:
  """Saves figures and their captions; returns the paths."""
  folder = run_dir / 'figures'
  paths = [
    figure(folder / name)
    if callable(figure)
    else plots.save(figure, folder / name)
    for name, (figure, _) in figures.items()
  ]
  captions = {name: caption for name, (_, caption) in figures.items()}
  records.write_json(folder / 'captions.json', captions)
  return paths
