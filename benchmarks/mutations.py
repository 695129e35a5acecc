"""Whether the tests notice small wrong changes of the library.

  python -m benchmarks.mutations
  python -m benchmarks.mutations --only=som
  python -m benchmarks.mutations --clean

Makes each change of mutations.txt, one at a time, in a copy of the tree, and
runs the tests named there until one fails. What survives is a line that no test
depends on, or a change that means nothing. Half a minute each, most of it
compiling; no slow tests. With --clean nothing is changed: what fails then says
nothing of mutations.
"""

import os
import pathlib
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from typing import NamedTuple

from absl import app
from absl import flags

ROOT = pathlib.Path(__file__).parent.parent
TABLE = ROOT / 'benchmarks' / 'mutations.txt'
# Of pytest's exit status; what else it may be is no answer.
OUTCOMES = {0: 'survived', 1: 'caught'}

_ONLY = flags.DEFINE_string(
  'only', None, 'A module, as som; without it, all of them.'
)
_CLEAN = flags.DEFINE_bool('clean', False, 'Run the tests alone.')
_FROM = flags.DEFINE_integer('start', 1, 'Number of the first one to run.')
_LIMIT = flags.DEFINE_integer('limit', 900, 'Seconds; what hangs is caught.')


class Mutation(NamedTuple):
  """A wrong change, and who should notice.

  Attributes:
    file: within `dmm_jax`.
    old, new: text; the old one occurs once in the file.
    tests: arguments of pytest, files within `tests`.
  """

  file: str
  old: str
  new: str
  tests: list[str]

  @property
  def module(self) -> str:
    """The part of the library."""
    return pathlib.PurePath(self.file).parts[0].removesuffix('.py')


def read(table: str) -> list[Mutation]:
  """Returns the mutations of a table: blocks apart by empty lines.

  A block is `@ file: tests`, and lines of `- old` and `+ new` text.
  """
  found = []
  for block in table.split('\n\n'):
    lines = [v for v in block.splitlines() if v[:2] in ('@ ', '- ', '+ ')]
    if lines:
      sides = {
        mark: '\n'.join(v[2:] for v in lines if v[0] == mark) for mark in '@-+'
      }
      file, tests = sides['@'].split(': ', 1)
      found.append(Mutation(file, sides['-'], sides['+'], shlex.split(tests)))
  return found


def check(mutations: list[Mutation], library: pathlib.Path) -> None:
  """Raises ValueError where an old text does not occur exactly once."""
  for m in mutations:
    count = (library / m.file).read_text().count(m.old)
    if count != 1:
      raise ValueError(f'{m.file} has {count} times, not once: {m.old}')


def try_out(mutation: Mutation, tree: pathlib.Path, limit: float) -> str:
  """Returns what became of a mutation in a copy of the tree."""
  path = tree / 'dmm_jax' / mutation.file
  text = path.read_text()
  files = [v if v[:5] != 'test_' else f'tests/{v}' for v in mutation.tests]
  command = [sys.executable, '-m', 'pytest', '-q', '-x', '-n', '0', *files]
  cache = ROOT / '.pytest_cache' / 'xla'
  # Bytecode is told apart by size and second alone, and some mutants are not.
  env = {'JAX_COMPILATION_CACHE_DIR': str(cache), **os.environ}
  env['PYTHONDONTWRITEBYTECODE'] = '1'
  path.write_text(text.replace(mutation.old, mutation.new))
  try:
    done = subprocess.run(
      command, cwd=tree, env=env, capture_output=True, timeout=limit
    )
  except subprocess.TimeoutExpired:
    return 'caught'
  finally:
    path.write_text(text)
  return OUTCOMES.get(done.returncode, f'error {done.returncode}')


def run(mutations: list[Mutation], first: int, limit: float) -> list[str]:
  """Prints a line for each mutation; returns what became of them."""
  found = []
  with tempfile.TemporaryDirectory() as directory:
    tree = pathlib.Path(directory) / 'tree'
    ignore = shutil.ignore_patterns('.*', '__pycache__', 'runs')
    shutil.copytree(ROOT, tree, ignore=ignore)
    for number, m in enumerate(mutations[first - 1 :], first):
      start = time.monotonic()
      found.append(try_out(m, tree, limit))
      seconds = time.monotonic() - start
      head = f'{number:3} {found[-1]:9}{seconds:5.0f} s  {m.file}'
      print(f'{head:50} {m.new.strip()}', flush=True)
  return found


def main(argv):
  del argv
  everything = read(TABLE.read_text())
  check(everything, ROOT / 'dmm_jax')
  chosen = [m for m in everything if _ONLY.value in (None, m.module)]
  if _CLEAN.value:
    alone = {tuple(m.tests): m for m in chosen}.values()
    chosen = [m._replace(new=m.old) for m in alone]
  if not chosen:
    modules = ', '.join(sorted({m.module for m in everything}))
    raise app.UsageError(f'--only: one of {modules}')
  found = run(chosen, _FROM.value, _LIMIT.value)
  caught = found.count('caught')
  print(f'{caught} of {len(found)} caught ({caught / len(found):.0%})')


if __name__ == '__main__':
  app.run(main)
