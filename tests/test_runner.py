"""Runs from a config to a report: units, futures, files, resuming, errors."""

import json
import threading

import numpy as np
import pytest
import runs

from dmm_jax import records
from experiments.lib import runner

COLUMNS = {
  'x': ('m', 'a length'),
  'y': ('', 'twice as long'),
  'v': ('', ''),
  'name': ('', ''),
}


def run(workdir, measure, *, analyze=None, draw=lambda *_: {}, **more):
  analyze = analyze or (lambda *_: runs.report())
  experiment = runner.Experiment(
    'experiments.toy',
    'Why?\n\nBecause.',
    runs.Config,
    {},
    COLUMNS,
    measure,
    analyze,
    draw,
    **more,
  )
  return experiment.run(runs.Config(workdir=str(workdir)))


def chain(config, inputs):
  """The second unit needs what the first one found."""
  first = yield runner.Unit('a', lambda: {'x': np.arange(3.0) + inputs})
  x = first.result()['x']
  yield runner.Unit('b', lambda: {'x': 2 * x})
  yield runner.Unit('c', lambda: {'y': x[:1]}, table='other')


@pytest.mark.parametrize('threads', [1, 2])
def test_units_become_tables_in_their_order(tmp_path, threads):
  seen = []

  def analyze(config, tables):
    seen.append((config.workdir, {k: sorted(v) for k, v in tables.items()}))
    return runs.report(answer='Because.')

  found = run(
    tmp_path, chain, load=lambda config: 1.0, threads=threads, analyze=analyze
  )
  assert found.table['x'].tolist() == [1, 2, 3, 2, 4, 6]
  assert found.tables['other']['y'].tolist() == [1]
  assert found.tables['results'] is found.table
  assert seen == [(str(tmp_path), {'results': ['x'], 'other': ['y']})]
  assert found.report.answer == 'Because.' and found.run_dir == tmp_path
  saved = json.loads((tmp_path / 'columns.json').read_text())
  assert saved['results']['x'] == dict(
    unit='m', meaning='a length', dtype='float64', shape=[6]
  )
  report = json.loads((tmp_path / 'report.json').read_text())
  assert report['question'] == 'Why?' and report['answer'] == 'Because.'
  assert report['experiment'] == 'experiments.toy'
  assert runner.from_json(report).tables == found.report.tables
  assert not (tmp_path / 'chunks').exists()
  record = json.loads((tmp_path / 'run.json').read_text())
  assert set(record['seconds']) == {'compile', 'measure', 'analyse', 'draw'}
  assert all(0 <= v < 60 for v in record['seconds'].values())


def test_finished_units_are_not_measured_again(tmp_path):
  def broken(config, inputs):
    yield runner.Unit('a', lambda: {'x': np.arange(2)})
    yield runner.Unit('b', lambda: 1 / 0)

  with pytest.raises(ZeroDivisionError):
    run(tmp_path, broken)
  assert not (tmp_path / 'results.npz').exists()
  calls = []

  def whole(config, inputs):
    for name in 'ab':
      yield runner.Unit(
        name, lambda name=name: calls.append(name) or {'x': np.arange(2)}
      )

  found = run(tmp_path, whole)
  assert calls == ['b'] and found.table['x'].tolist() == [0, 1, 0, 1]
  run(tmp_path, whole)
  assert calls == ['b']  # Nor once all is there.


def test_an_error_in_one_of_two_threads_ends_the_run(tmp_path):
  other = threading.Event()

  def measure(config, inputs):
    yield runner.Unit('fails', lambda: {}[0])
    yield runner.Unit('waits', lambda: other.wait(10) and {'x': np.zeros(1)})
    yield runner.Unit('never', lambda: pytest.fail('it was begun'))
    other.set()

  with pytest.raises(KeyError):
    run(tmp_path, measure, threads=2)


def test_what_experiments_must_not_do_is_named(tmp_path):
  def twice(config, inputs):
    for _ in range(2):
      yield runner.Unit('a', lambda: {'x': np.zeros(1)})

  with pytest.raises(ValueError, match='two units have one name'):
    run(tmp_path / 'twice', twice)

  def unknown(config, inputs):
    yield runner.Unit('a', lambda: {'q': np.zeros(1)})

  with pytest.raises(ValueError, match=r"without a description: \['q'\]"):
    run(tmp_path / 'unknown', unknown)


def test_figures_have_their_captions_beside_them(tmp_path):
  run(tmp_path, runs.measure, draw=runs.draw)
  captions = records.read_json(tmp_path / 'figures/captions.json')
  assert list(captions) == ['second', 'first_of_all']
  for name in captions:
    assert (tmp_path / f'figures/{name}.png').stat().st_size > 100
    assert (tmp_path / f'figures/{name}.pdf').stat().st_size > 100


def test_reports_begin_with_the_answer_and_the_verdicts(tmp_path, capsys):
  made = runs.report(runs.claim('one'), runs.claim('two', holds=False))
  run(tmp_path, runs.measure, analyze=lambda *_: made, draw=runs.draw)
  out = capsys.readouterr().out
  places = [out.index(t) for t in ('It depends.', 'one', 'two', 'Sizes')]
  assert places == sorted(places)
  assert 'not supported' in out and 'refuted: ' in out
  assert 'second.png' in out and 'first_of_all.png' in out
  assert f'captions: {tmp_path / "figures" / "captions.json"}\n' in out
  assert '  verdict: supported if all conditions hold, ' in out
  assert runner.to_text(runs.report()).count('Claims') == 0


def test_foreign_directories_are_refused(tmp_path):
  (tmp_path / 'other.txt').touch()
  with pytest.raises(records.RunError, match='is not empty and holds no run'):
    run(tmp_path, chain, load=lambda config: 0)
