import dataclasses
import json
import os

import numpy as np
import pytest

from dmm_jax import records


@dataclasses.dataclass(frozen=True)
class Config:
  workdir: str
  seed: int = 0
  sizes: tuple[int, ...] = (1, 2)
  box: bool = True


def open_run(path, **flags):
  return records.open_run(str(path), Config(str(path), **flags), 'tests')


def test_a_run_says_what_it_was_asked(tmp_path):
  run_dir = open_run(tmp_path / 'deep' / 'run')
  lines = (run_dir / 'flags.txt').read_text().splitlines()
  assert lines[1:] == ['--seed=0', '--sizes=1,2', '--box=true']
  run = records.read_json(run_dir / 'run.json')
  assert run['versions']['jax'] and run['devices']['count'] == 2
  assert run['devices']['processes'] == 1
  assert 'finished' not in run
  records.save_chunk(run_dir, 'a', {'x': np.arange(3)})
  records.finish_run(run_dir)
  assert records.read_json(run_dir / 'run.json')['finished']
  assert not (run_dir / 'chunks').exists()


def test_equal_flags_resume_and_others_are_refused(tmp_path):
  open_run(tmp_path)
  open_run(tmp_path)
  before = {p: p.read_bytes() for p in tmp_path.iterdir()}
  with pytest.raises(records.RunError, match=r'--seed=0 there, 3 now'):
    open_run(tmp_path, seed=3)
  more = dataclasses.make_dataclass(
    'More', [('rate', float, 0.1)], bases=(Config,), frozen=True
  )
  with pytest.raises(
    records.RunError, match=r'--rate=\(absent\) there, 0.1 now'
  ):
    records.open_run(str(tmp_path), more(str(tmp_path)), 'tests')
  assert before == {p: p.read_bytes() for p in tmp_path.iterdir()}


def test_foreign_places_are_left_alone(tmp_path):
  (tmp_path / 'thesis.tex').write_text('years of work')
  with pytest.raises(records.RunError, match=r'not empty.*thesis\.tex'):
    open_run(tmp_path)
  assert [p.name for p in tmp_path.iterdir()] == ['thesis.tex']
  with pytest.raises(records.RunError, match='is a file'):
    open_run(tmp_path / 'thesis.tex')


@pytest.mark.skipif(os.geteuid() == 0, reason='root may write anywhere')
def test_unwritable_place(tmp_path):
  tmp_path.chmod(0o500)
  with pytest.raises(records.RunError, match='cannot be written'):
    open_run(tmp_path / 'run')


def test_columns_are_exact_and_reproducible(tmp_path):
  columns = {
    'x': np.array([0.1, np.inf, np.nan], np.float32),
    'name': np.array(['a', 'b', 'c']),
  }
  records.save_columns(tmp_path / 'a.npz', columns)
  records.save_columns(tmp_path / 'b.npz', columns)
  assert (tmp_path / 'a.npz').read_bytes() == (tmp_path / 'b.npz').read_bytes()
  again = records.load_columns(tmp_path / 'a.npz')
  assert again['x'].dtype == np.float32
  np.testing.assert_array_equal(again['x'], columns['x'])
  with pytest.raises(ValueError, match='differ in length'):
    records.save_columns(tmp_path / 'c.npz', {'x': [1], 'y': [1, 2]})
  assert not list(tmp_path.glob('*c.npz*'))


def test_half_written_files_are_no_results(tmp_path):
  run_dir = open_run(tmp_path)
  records.save_chunk(run_dir, 'whole', {'x': np.arange(3)})
  whole = (run_dir / 'chunks' / 'whole.npz').read_bytes()
  for cut in (0, 10, len(whole) // 2, len(whole) - 1):
    (run_dir / 'chunks' / 'half.npz').write_bytes(whole[:cut])
    assert records.load_chunk(run_dir, 'half') is None
  assert records.load_chunk(run_dir, 'absent') is None
  (run_dir / 'chunks' / '.x.npz.part').write_bytes(b'left by a killed run')
  open_run(tmp_path)
  assert not list(run_dir.rglob('*.part'))
  np.testing.assert_array_equal(
    records.load_chunk(run_dir, 'whole')['x'], np.arange(3)
  )


def test_log_appends(tmp_path):
  records.log(tmp_path, step=1, loss=0.5)
  records.log(tmp_path, step=2, loss=0.25)
  assert (tmp_path / 'metrics.jsonl').read_text().count('\n') == 2


def test_runs_go_on_after_the_last_part_that_is_there(tmp_path):
  names, asked = [f'part-{i}' for i in range(4)], []

  def compute(done):
    asked.append(done)
    for i in range(done, 4):
      yield {'x': np.arange(i, i + 2)}

  go = lambda: list(records.resume(tmp_path, names, compute))
  whole = go()
  assert [p['x'][0] for p in whole] == [0, 1, 2, 3]
  (tmp_path / 'chunks' / 'part-2.npz').unlink()
  for again in (go(), go()):
    np.testing.assert_equal(again, whole)
  assert asked == [0, 2]
  lines = (tmp_path / 'metrics.jsonl').read_text().splitlines()
  units = [json.loads(line)['unit'] for line in lines]
  assert units == [*names, 'part-2', 'part-3']


def test_one_process_agrees_with_itself_and_waits_for_nobody(tmp_path):
  assert records.is_first() and records.agree(3) == 3
  with pytest.raises(FileNotFoundError):
    records.load_columns(tmp_path / 'absent.npz')


def test_select_keeps_rows_with_the_values_asked_for():
  table = {'name': np.array(['a', 'b', 'a']), 'p': np.array([1.0, 1.0, np.inf])}
  assert records.select(table, name='a', p=np.inf)['name'].tolist() == ['a']
  assert records.select(table, name='b')['p'].tolist() == [1.0]
  assert len(records.select(table, name='c')['p']) == 0
