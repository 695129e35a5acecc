"""Runs that take no time, for the tests of what reads them."""

import dataclasses
import hashlib
import json

from matplotlib import figure as figure_lib
import numpy as np

from dmm_jax import records
from dmm_jax import statistics
from experiments.lib import claims
from experiments.lib import flags
from experiments.lib import runner
from experiments.lib import tables

EVIL = '<script>alert("x")</script> & \'"|`'


@dataclasses.dataclass(frozen=True)
class Config:
  workdir: str = flags.flag('', 'Run directory.')
  preset: str = flags.flag('quick', 'Preset.')
  data_dir: str = flags.flag('', 'Of data.')


def estimate(value, low, high, n=10, unit='networks'):
  return statistics.Estimate(value, low, high, n, unit)


def claim(name, holds=True, paper='2004.05923', p=0.001, **more):
  conditions = [
    claims.Condition(f'{name} {h} {EVIL}', h, p) for h in (holds, True, holds)
  ]
  statement = f'Claim {name}.'
  return claims.Claim(paper, name, statement, (*conditions,), **more)


def report(*made, answer='It depends.'):
  columns = [
    tables.Column('network', '', EVIL),
    tables.Column('size', 's', 'how large', '.2f'),
    tables.Column('n', '', ''),
  ]
  rows = [
    ['plain', estimate(2.5, 2, 3), 10],
    [EVIL, estimate(-1e-5, -2, 1), 9],
    ['other', None, 100],
  ]
  return runner.Report(answer, made, [tables.Table('Sizes', columns, rows)])


def measure(config, inputs):
  yield runner.Unit('a', lambda: {'x': np.arange(3.0)})
  rows = {'v': np.arange(6).reshape(3, 2), 'name': np.array(['a', 'b', EVIL])}
  yield runner.Unit('b', lambda: rows, table='other')


def draw(report, columns):
  figures = {}
  for name in ('second', 'first_of_all'):
    figure = figure_lib.Figure(figsize=(1, 1))
    figure.subplots().plot([0, 1])
    figures[name] = (figure, f'A line, {name}: {EVIL}')
  return figures


COLUMNS = {
  'x': ('cm', f'where {EVIL}'),
  'v': ('', 'a pair'),
  'name': ('', 'what it is called'),
}


def make(workdir, *made, experiment='experiments.gallery', **more):
  """A run directory, by what makes all of them."""
  made = made or (claim('one'), claim('two', None), claim('three', False))
  data_dir = more.pop('data_dir', '')
  analyze = lambda *_: report(*made, **more)
  found = runner.Experiment(
    experiment,
    f'How {EVIL}?',
    Config,
    {'quick': {}},
    COLUMNS,
    measure,
    analyze,
    draw,
  )
  return found.run(Config(workdir=str(workdir), data_dir=data_dir)).run_dir


def edit(path, **changes):
  """Changes entries of a run's JSON file; those that become `...` go."""
  found = json.loads(path.read_text()) | changes
  found.pop(records.CHECKSUM, None)
  found = {key: v for key, v in found.items() if v is not ...}
  records.write_json(path, found, sealed=path.name == 'run.json')
  run_dir = path.parent if path.parent.name != 'figures' else path.parents[1]
  if path.name != 'run.json':
    reseal(run_dir)


def reseal(run_dir, *more):
  """Lets run.json say that its files, and more, are as they are now."""
  run = records.read_json(run_dir / 'run.json', sealed=True)
  for name in (*run['sha256'], *more):
    if (run_dir / name).exists():
      data = (run_dir / name).read_bytes()
      run['sha256'][name] = hashlib.sha256(data).hexdigest()
  records.write_json(run_dir / 'run.json', run, sealed=True)
