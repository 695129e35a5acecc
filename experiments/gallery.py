"""What did these runs find? One page of them all, to look at and to pass on.

From a folder of run directories to one HTML file that needs nothing else:
figures lie within it, nothing is loaded from anywhere. Answers and verdicts
come first, then each run: its claims, figures, tables and command. Runs can be
searched and sorted, and so can every table.

  python -m experiments.gallery --runs=runs

It takes seconds. Folders that hold no run, and runs that are not finished, are
listed with the reason.
"""

import ast
import base64
import dataclasses
import datetime
import importlib.util
import pathlib
import re
import shlex
import sys

import jinja2

from dmm_jax import records
from experiments.lib import claims
from experiments.lib import flags
from experiments.lib import results
from experiments.lib import tables

HERE = pathlib.Path(__file__).parent
PICTURES = {'.png': 'image/png', '.gif': 'image/gif'}
# CSS class and mark of each verdict.
STYLES = {
  claims.SUPPORTED: ('yes', '✓'),
  claims.NOT_SUPPORTED: ('no', '✗'),
  claims.UNDECIDED: ('open', '?'),
  claims.NOT_TESTED: ('other', '○'),
}


@dataclasses.dataclass(frozen=True)
class Config:
  runs: str = flags.flag('runs', 'Folder of run directories.')
  out: str = flags.flag('', 'File to write; empty for gallery.html there.')


def run(config: Config) -> pathlib.Path:
  """Writes the page, and returns where it is."""
  folder = pathlib.Path(config.runs)
  if not folder.is_dir():
    raise flags.FlagError(f'--runs={config.runs} is not a directory')
  out = pathlib.Path(config.out or folder / 'gallery.html')
  runs, others = results.read(folder)
  try:
    records.write_text(out, page(runs, others))
  except OSError as error:
    raise flags.FlagError(f'--out={out} cannot be written: {error}') from None
  size = out.stat().st_size / 2**20
  print(f'{len(runs)} runs, {len(others)} other folders: {out} ({size:.1f} MB)')
  return out


def page(runs: list[results.Run], others: list[tuple[str, str]]) -> str:
  """Returns the page; the template escapes all that comes from files."""
  runs = results.by_paper(runs)
  environment = jinja2.Environment(
    loader=jinja2.FileSystemLoader(HERE),
    autoescape=True,
    trim_blocks=True,
    lstrip_blocks=True,
  )
  return environment.get_template('gallery.html').render(
    runs=runs,
    claims=results.claims_by_paper(runs),
    others=others,
    number={found.path: i for i, found in enumerate(runs)},
    made=datetime.datetime.now(datetime.UTC),
    results=results,
    tables=tables,
    command=command,
    figures=figures,
    interactive=interactive,
    format_duration=format_duration,
    docstring=docstring,
    styles=STYLES,
  )


def figures(found: results.Run) -> list[tuple[str, str, str]]:
  """Returns `(name, address, caption)` of pictures, as they were drawn.

  Less those that are not as the run has left them: a page is passed on, and a
  link would take any file along.
  """
  files = sorted(found.path.glob('figures/*'))
  paths = {path.stem: path for path in files if path.suffix in PICTURES}
  shown = []
  for name in dict.fromkeys([*found.captions, *paths]):
    if name not in paths:
      continue
    try:
      records.check_file(paths[name], found.path, found.record)
    except records.DamagedError as error:
      print(f'note: {error}; it is not shown', file=sys.stderr)
      continue
    data = base64.b64encode(records.read_bytes(paths[name])).decode()
    address = f'data:{PICTURES[paths[name].suffix]};base64,{data}'
    caption = found.captions.get(name, name.replace('_', ' '))
    shown.append((name, address, caption))
  return shown


def command(found: results.Run) -> str:
  """Returns the command of a run, fit to be copied into a shell.

  '' where it is not of an experiment; a report may come from anywhere.
  """
  try:
    words = shlex.split(str(found.raw.get('command')))
  except ValueError:
    return ''
  wanted = ['python', '-m', f'experiments.{found.experiment}']
  known = re.fullmatch('[a-z0-9_]+', found.experiment)
  return shlex.join(words) if known and words[:3] == wanted else ''


def interactive(found: results.Run) -> list[pathlib.Path]:
  """Returns figures that are HTML pages of their own."""
  return sorted(found.path.glob('figures/*.html'))


def format_duration(spent: float) -> str:
  """Returns seconds in words."""
  if spent < 99.5:
    return f'{spent:.0f} s'
  minutes = round(spent / 60)
  return f'{minutes} min' if minutes < 100 else f'{spent / 3600:.1f} h'


def docstring(experiment: str) -> str:
  """Returns how an experiment measures and judges; '' of a foreign one."""
  if not re.fullmatch('[a-z0-9_]+', experiment):
    return ''
  spec = importlib.util.find_spec(f'experiments.{experiment}')
  text = pathlib.Path(spec.origin).read_text() if spec and spec.origin else ''
  return ast.get_docstring(ast.parse(text)) or ''


if __name__ == '__main__':
  flags.main(run, Config)
