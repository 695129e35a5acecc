"""Whether the tests notice small wrong changes of the library.

  python -m benchmarks.mutations --seed=1 --number=60
  python -m benchmarks.mutations --seed=1 --number=60 --only=boundary,norms.py
  python -m benchmarks.mutations --seed=1 --number=60 --list

Draws changes at random among all that `_mutants` knows, makes each one in a
copy of the tree, and runs the tests that execute the line, the quickest first,
until one fails. Seconds each, but for those that nothing notices: a line that
no test depends on, or a change without effect. The latter stand in
`equivalent.txt`, each with its reason. Which test executes which line is found
first (half an hour on two cores), and again later for the tests that were
changed since.

No slow tests. A test that fails of itself would catch everything: those that
caught something are run without any change at the end. Needs pytest-cov.
"""

import bisect
import collections
import concurrent.futures
import hashlib
import itertools
import json
import multiprocessing
import os
import pathlib
import random
import shutil
import subprocess
import sys
import tempfile
import time
from typing import NamedTuple

from absl import app
from absl import flags

from benchmarks import _mutants

ROOT = pathlib.Path(__file__).parent.parent
LIBRARY = ROOT / 'dmm_jax'
EQUIVALENT = ROOT / 'benchmarks' / 'equivalent.txt'
CACHE = ROOT / '.pytest_cache' / 'mutations'
# Imported once, by the process that those of the mutants are forked from; they
# start no threads.
PRELOADED = ('jax', 'flax.linen', 'optax', 'scipy.stats', 'sklearn', 'pytest')
CAUGHT, SURVIVED, EQUAL, UNTESTED = (
  'caught',
  'survived',
  'equivalent',
  'untested',
)

_SEED = flags.DEFINE_integer('seed', 0, 'Of the draw.')
_NUMBER = flags.DEFINE_integer('number', 60, 'How many mutants.', 1)
_ONLY = flags.DEFINE_list('only', [], 'Files or folders of the library.')
_TESTS = flags.DEFINE_list('tests', [], 'Test files that count; all of them.')
_JOBS = flags.DEFINE_integer('jobs', os.cpu_count(), 'At once.', 1)
_BUDGET = flags.DEFINE_float(
  'budget', 60, 'Seconds of tests that come first.', 1
)
_LIST = flags.DEFINE_bool('list', False, 'Show the mutants and run no test.')
_OUT = flags.DEFINE_string('out', None, 'A file for the outcomes, as JSON.')


class Equivalent(NamedTuple):
  """A change without effect: file, lines before and after, and why."""

  file: str
  old: str
  new: str
  reason: str


def read_equivalent(text: str) -> list[Equivalent]:
  """Returns the blocks of equivalent.txt, which are apart by empty lines."""
  found = []
  for block in text.split('\n\n'):
    lines = {v[0]: v[2:] for v in block.splitlines() if v[1:2] == ' '}
    if set(lines) >= set('@-+#'):
      found.append(Equivalent(*(lines[mark] for mark in '@-+#')))
  return found


def check_equivalent(entries: list[Equivalent]) -> None:
  """Raises ValueError for an entry that is no mutant of the file as it is."""
  known = collections.defaultdict(set)
  for file in {v.file for v in entries}:
    text = (LIBRARY / file).read_bytes()
    known[file] = {m.sides(text) for m in _mutants.mutants(file, text)}
  for v in entries:
    if (v.old, v.new) not in known[v.file]:
      raise ValueError(f'no mutant of {v.file} any more: {v.old} -> {v.new}')


def every_mutant(only: list[str]) -> list[_mutants.Mutant]:
  """Returns all mutants of the library, or of files and folders of it."""
  found = []
  for path in sorted(LIBRARY.rglob('*.py')):
    file = path.relative_to(LIBRARY).as_posix()
    if not only or any(file == v or file.startswith(f'{v}/') for v in only):
      found += _mutants.mutants(file, path.read_bytes())
  return found


def environment(**more: str) -> dict[str, str]:
  """Returns the variables for tests: programs are kept, however small."""
  return {
    **os.environ,
    'JAX_PLATFORMS': 'cpu',
    'JAX_COMPILATION_CACHE_DIR': str(CACHE / 'xla'),
    'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0.1',
    'OPENBLAS_NUM_THREADS': '1',
    # Bytecode is told apart by size and second alone, and some mutants are not.
    'PYTHONDONTWRITEBYTECODE': '1',
    **more,
  }


# Which tests execute which lines.


def tests_by_line(jobs: int) -> tuple[dict[str, float], dict]:
  """Returns seconds of each test, and `{file: {line: set of tests}}`.

  From the cache, where neither a test file nor a file of the library that it
  executes has changed.
  """
  CACHE.mkdir(parents=True, exist_ok=True)
  paths = sorted((ROOT / 'tests').glob('test_*.py'))
  paths = [v for v in paths if not _TESTS.value or v.name in _TESTS.value]
  stale = [path for path in paths if not _fresh(path)]
  with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
    for path in pool.map(_cover, stale):
      print(f'covered by {path.name}', flush=True)
  seconds: dict[str, float] = {}
  lines: dict = collections.defaultdict(lambda: collections.defaultdict(set))
  for path in paths:
    entry = json.loads(_entry(path).read_text())
    for test, (duration, executed) in entry['tests'].items():
      seconds[test] = duration
      for file, numbers in executed.items():
        for number in numbers:
          lines[file][number].add(test)
  return seconds, lines


def _entry(path: pathlib.Path) -> pathlib.Path:
  return CACHE / f'{path.stem}.json'


def _digest(path: pathlib.Path) -> str:
  found = path.read_bytes() if path.exists() else b''
  return hashlib.sha256(found).hexdigest()


def _fresh(path: pathlib.Path) -> bool:
  if not _entry(path).exists():
    return False
  files = json.loads(_entry(path).read_text())['files']
  return all(_digest(ROOT / k) == v for k, v in files.items())


def _cover(path: pathlib.Path) -> pathlib.Path:
  """Runs a test file under coverage, each test as if alone; keeps the lines."""
  import coverage

  with tempfile.TemporaryDirectory() as directory:
    times, data = (pathlib.Path(directory) / v for v in ('times', 'data'))
    options = (
      '-q -n 0 -o addopts= -p benchmarks._alone --cov=dmm_jax --cov-report= '
      '--cov-context=test'
    )
    command = [sys.executable, '-m', 'pytest', *options.split(), str(path)]
    subprocess.run(
      [*command, '-m', 'not slow'],
      cwd=ROOT,
      env=environment(TIMES=str(times), COVERAGE_FILE=str(data)),
      capture_output=True,
    )
    tests = {
      k: (v[0], set(v[1])) for k, v in json.loads(times.read_text()).items()
    }
    found = coverage.CoverageData(str(data))
    found.read()
    executed: dict = {k: collections.defaultdict(set) for k in tests}
    for name in found.measured_files():
      file = pathlib.Path(name).relative_to(LIBRARY).as_posix()
      for number, contexts in found.contexts_by_lineno(name).items():
        for context in filter(None, contexts):
          test, phase = context.rsplit('|', 1)
          users = [test]
          if phase == 'setup':
            # What a fixture runs is seen by all that use one of the same.
            own = tests[test][1]
            users = [k for k, v in tests.items() if own & v[1] - COMMON]
          for user in users:
            executed[user][file].add(number)
  files = {f'tests/{path.name}': _digest(path)}
  for of_test in executed.values():
    for file in of_test:
      files[f'dmm_jax/{file}'] = _digest(LIBRARY / file)
  kept = {
    k: [tests[k][0], {f: sorted(n) for f, n in v.items()}]
    for k, v in executed.items()
  }
  _entry(path).write_text(json.dumps({'files': files, 'tests': kept}))
  return path


COMMON = {'alone', 'forget_programs', 'request', 'tmp_path', 'monkeypatch'}
COMMON |= {'capsys', 'capfd', 'caplog', 'tmp_path_factory', 'recwarn'}


def choose(
  mutant: _mutants.Mutant, seconds: dict[str, float], lines: dict, budget: float
) -> tuple[list[str], list[str]]:
  """Returns the tests of a mutant: the quickest, up to a budget, and others."""
  of_file = lines[mutant.file]
  numbers = (
    range(mutant.lines[0], mutant.lines[1] + 1) if mutant.lines else of_file
  )
  tests = set().union(*(of_file.get(v, ()) for v in numbers))
  # What runs as the file is imported, inside a function: all that use the file.
  tests = tests or set().union(*of_file.values())
  tests = sorted(tests, key=lambda v: (seconds[v], v))
  total = list(itertools.accumulate(seconds[v] for v in tests))
  first = max(bisect.bisect_right(total, budget), 1)
  return _by_file(tests[:first]), _by_file(tests[first:])


def _by_file(tests):
  """A file's tests one after the other: they share what its fixtures make."""
  order = list(dict.fromkeys(v.partition('::')[0] for v in tests))
  return sorted(tests, key=lambda v: order.index(v.partition('::')[0]))


# What becomes of a mutant.


class Outcome(NamedTuple):
  """What became of a mutant, by which test, and after how long."""

  word: str
  test: str
  seconds: float


def run_tests(tree: str, tests: list[str], report: str) -> None:
  """Runs tests within a tree until one fails; ends the process with a status.

  The failing one is named in the file `report`.
  """
  import pytest

  class Recorder:
    def pytest_runtest_logreport(self, report):
      if report.failed:
        note.write_text(report.nodeid)

  note = pathlib.Path(report)
  os.chdir(tree)
  sys.path[:0] = [tree]
  nothing = os.open(os.devnull, os.O_WRONLY)
  os.dup2(nothing, 1)
  os.dup2(nothing, 2)
  options = '-q -x -n 0 -p no:cacheprovider -o addopts='.split()
  os._exit(pytest.main([*options, *tests], plugins=[Recorder()]))


def judge(
  tree: pathlib.Path, tests: list[str], limit: float, context
) -> tuple[str, str]:
  """Returns what tests say of a tree, and the one that failed."""
  report = tree.parent / f'{tree.name}.failed'
  report.write_text('')
  process = context.Process(
    target=run_tests, args=(str(tree), tests, str(report)), daemon=True
  )
  process.start()
  process.join(limit)
  if process.is_alive():
    process.kill()
    process.join()
    return CAUGHT, 'time limit'
  # 0: all pass. 1: one failed. 2: the library cannot be imported, or collected.
  # Below 0: it crashed.
  status = process.exitcode
  words = {0: SURVIVED, 1: CAUGHT, 2: CAUGHT}
  word = words.get(status, CAUGHT if status < 0 else f'error {status}')
  return word, report.read_text() or f'status {status}'


class Bench:
  """Copies of the tree, one for each job, in which mutants are tried."""

  def __init__(self, directory: str, jobs: int):
    ignore = shutil.ignore_patterns('.*', '__pycache__', 'runs')
    self.free = []
    for job in range(jobs):
      tree = pathlib.Path(directory) / f'{job}' / ROOT.name
      shutil.copytree(ROOT, tree, ignore=ignore)
      self.free.append(tree)
    self.context = multiprocessing.get_context('forkserver')
    self.context.set_forkserver_preload(list(PRELOADED))
    os.environ.update(environment())

  def run(
    self, mutant: _mutants.Mutant | None, tests: list[str], expected: float
  ) -> Outcome:
    """Returns what becomes of a mutant, or of the tree as it is.

    Args:
      mutant: None for the tree as it is.
      tests: to be run.
      expected: seconds that they take; what takes several times as long hangs.
    """
    start = time.monotonic()
    tree = self.free.pop()
    path, text = None, b''
    try:
      if mutant:
        path = tree / 'dmm_jax' / mutant.file
        text = path.read_bytes()
        path.write_bytes(mutant.apply(text))
      word, test = judge(tree, tests, 60 + 3 * expected, self.context)
    finally:
      if path:
        path.write_bytes(text)
      self.free.append(tree)
    return Outcome(word, test, time.monotonic() - start)


def describe(mutant: _mutants.Mutant, outcome: Outcome) -> str:
  """Returns the lines that tell of a mutant."""
  text = (LIBRARY / mutant.file).read_bytes()
  number = text[: mutant.place[0]].count(b'\n') + 1
  old, new = mutant.sides(text)
  head = f'{outcome.word:10} {outcome.seconds:4.0f} s  {mutant.file}:{number}'
  return f'{head}  {mutant.kind}  {outcome.test}\n  - {old}\n  + {new}'


def main(argv):
  del argv
  entries = read_equivalent(EQUIVALENT.read_text())
  check_equivalent(entries)
  equal = {v[:3] for v in entries}
  everything = every_mutant(_ONLY.value)
  if not everything:
    raise app.UsageError(f'--only: no file of dmm_jax is {_ONLY.value}')
  number = min(_NUMBER.value, len(everything))
  drawn = random.Random(_SEED.value).sample(everything, number)
  if _LIST.value:
    for m in drawn:
      print(describe(m, Outcome('', '', 0)))
    return
  seconds, lines = tests_by_line(_JOBS.value)

  def try_out(m):
    text = (LIBRARY / m.file).read_bytes()
    outcome = Outcome(UNTESTED, '', 0)
    if (m.file, *m.sides(text)) in equal:
      outcome = Outcome(EQUAL, '', 0)
    else:
      for tests in choose(m, seconds, lines, _BUDGET.value):
        if tests and outcome.word in (UNTESTED, SURVIVED):
          outcome = bench.run(m, tests, sum(seconds[v] for v in tests))
    print(describe(m, outcome), flush=True)
    return outcome

  with (
    tempfile.TemporaryDirectory() as directory,
    concurrent.futures.ThreadPoolExecutor(_JOBS.value) as pool,
  ):
    bench = Bench(directory, _JOBS.value)
    outcomes = list(pool.map(try_out, drawn))
    # A test that fails of itself catches everything.
    catchers = sorted({v.test for v in outcomes if '::' in v.test})
    by_file = [
      [v for v in catchers if v.startswith(f'{file}::')]
      for file in sorted({v.partition('::')[0] for v in catchers})
    ]
    unchanged = lambda v: bench.run(None, v, sum(seconds[w] for w in v))
    for alone in pool.map(unchanged, by_file):
      if alone.word != SURVIVED:
        print(f'fails without any change: {alone.test}')
  if _OUT.value:
    rows = [
      {'mutant': describe(m, v), **v._asdict()}
      for m, v in zip(drawn, outcomes, strict=True)
    ]
    pathlib.Path(_OUT.value).write_text(json.dumps(rows, indent=1))
  words = collections.Counter(v.word for v in outcomes)
  counted = number - words[EQUAL]
  print(', '.join(f'{v} {k}' for k, v in words.most_common()))
  share = words[CAUGHT] / max(counted, 1)
  print(
    f'seed {_SEED.value}: {words[CAUGHT]} of {counted} caught ({share:.0%})'
  )


if __name__ == '__main__':
  app.run(main)
