"""Run directories: whole or not there, and never another one's."""

import dataclasses
import hashlib
import json
import os
import re
import subprocess
import sys
import types

import jax
from jax.experimental import multihost_utils
import numpy as np
import pytest

from dmm_jax import records


@dataclasses.dataclass(frozen=True)
class Config:
  workdir: str
  seed: int = 0
  sizes: tuple[int, ...] = (1, 2)
  box: bool = True


def opened(path, **given):
  return records.open_run(str(path), Config(str(path), **given), 'tests')


def open_run(path, **given):
  """Opens a run directory, and lets go of it."""
  with opened(path, **given) as run_dir:
    return run_dir


def test_a_run_says_what_it_was_asked(tmp_path):
  where = tmp_path / 'deep' / 'run'
  run_dir = open_run(where)
  assert run_dir == where
  text = (run_dir / 'flags.txt').read_text()
  lines = [f'--workdir={where}', '--seed=0', '--sizes=1,2', '--box=true', '']
  assert text == '\n'.join(lines)
  run = records.read_json(run_dir / 'run.json', sealed=True)
  assert run['flags'] == dict(
    workdir=str(where), seed='0', sizes='1,2', box='true'
  )
  assert run['experiment'] == 'tests' and run['command'] == sys.argv
  assert run['versions']['numpy'] == np.__version__
  assert run['versions']['jax'] == jax.__version__
  assert 'dmm_jax' in run['versions']
  assert run['python'] == '.'.join(map(str, sys.version_info[:3]))
  kind = jax.devices()[0].device_kind
  assert run['devices'] == dict(kind=kind, count=2, processes=1)
  assert run['settings'] == {
    'jax_enable_x64': 'False',
    'jax_default_matmul_precision': str(
      jax.config.jax_default_matmul_precision
    ),
    'jax_default_prng_impl': 'threefry2x32',
    'jax_threefry_partitionable': 'True',
  }
  assert re.fullmatch(r'[-0-9]{10}T[:0-9]{8}\+00:00', run['started'])
  assert 'finished' not in run
  records.save_chunk(run_dir, 'a', {'x': np.arange(3)})
  for _ in range(2):  # The second time there are no chunks.
    records.finish_run(run_dir)
    after = records.read_json(run_dir / 'run.json', sealed=True)
    kept = after.pop('sha256')
    assert {**after, 'finished': None} == {**run, 'finished': None}
    assert after['finished'] >= run['started']
    assert not (run_dir / 'chunks').exists()
    assert [*kept] == ['flags.txt']


def test_a_finished_run_knows_its_files(tmp_path):
  run_dir = open_run(tmp_path / 'run')
  records.save_columns(run_dir / 'results.npz', {'x': np.arange(3)})
  records.write_json(run_dir / 'report.json', {'answer': 42})
  records.write_text(run_dir / 'figures' / 'a.png', 'picture')
  records.log(run_dir, step=1)
  (run_dir / 'figures' / '.b.png.1-2.part').write_text('half')
  (run_dir / 'checkpoints').mkdir()
  records.finish_run(run_dir)
  run = records.read_json(run_dir / 'run.json', sealed=True)
  names = ['figures/a.png', 'flags.txt', 'report.json', 'results.npz']
  assert [*run['sha256']] == names
  for name in names:
    path = run_dir / name
    records.check_file(path, run_dir, run)
    whole = path.read_bytes()
    assert run['sha256'][name] == hashlib.sha256(whole).hexdigest()
    path.write_bytes(whole[:-1] + b'?')
    with pytest.raises(records.DamagedError, match=f'{name} is damaged'):
      records.check_file(path, run_dir, run)
  records.write_text(run_dir / 'new.json', '{}')
  with pytest.raises(records.DamagedError):
    records.check_file(run_dir / 'new.json', run_dir, run)
  # Shown again, after they were written anew.
  records.finish_run(run_dir)
  run = records.read_json(run_dir / 'run.json', sealed=True)
  records.check_file(run_dir / 'new.json', run_dir, run)


def test_a_run_says_what_git_says(monkeypatch):
  asked, said = [], iter(['  abc\n', ''])

  def run(command, **options):
    asked.append((command[0], command[3:], options))
    return types.SimpleNamespace(stdout=next(said))

  monkeypatch.setattr(subprocess, 'run', run)
  monkeypatch.setattr(records, '_PACKAGES', ('numpy', 'no_such_package'))
  devices = [types.SimpleNamespace(device_kind=v) for v in 'ab']
  monkeypatch.setattr(jax, 'devices', lambda: devices)
  found = records._circumstances('tests', {})
  assert (found['git'], found['git_dirty']) == ('abc', False)
  assert found['versions'] == {'numpy': np.__version__}
  assert found['devices']['kind'] == 'a'
  options = dict(capture_output=True, text=True, check=True)
  status = ['status', '--porcelain', '--untracked-files=no']
  assert asked == [
    ('git', ['rev-parse', 'HEAD'], options),
    ('git', status, options),
  ]
  for error in (OSError(), subprocess.CalledProcessError(1, 'git')):

    def fail(*args, error=error, **options):
      raise error

    monkeypatch.setattr(subprocess, 'run', fail)
    assert records._git('status') is None


def test_equal_flags_resume_and_others_are_refused(tmp_path):
  open_run(tmp_path)
  open_run(tmp_path)
  said = r'other flags:\n  --seed=0 there, 3=4=5 now\nchoose'
  with pytest.raises(records.RunError, match=said):
    open_run(tmp_path, seed='3=4=5')
  text = (tmp_path / 'flags.txt').read_text()
  (tmp_path / 'flags.txt').write_text(text.replace('=0', '=3=4=5'))
  open_run(tmp_path, seed='3=4=5')
  (tmp_path / 'flags.txt').write_text(text)
  before = contents(tmp_path)
  more = dataclasses.make_dataclass(
    'More', [('rate', float, 0.1)], bases=(Config,), frozen=True
  )
  with pytest.raises(
    records.RunError, match=r'--rate=\(absent\) there, 0.1 now'
  ):
    with records.open_run(str(tmp_path), more(str(tmp_path)), 'tests'):
      pass
  assert before == contents(tmp_path)


def contents(path):
  """The files of a run, but for who holds it."""
  paths = [p for p in path.iterdir() if p.name != records.LOCK]
  return {p: p.read_bytes() for p in paths}


def test_foreign_places_are_left_alone(tmp_path):
  (tmp_path / 'thesis.tex').write_text('years of work')
  with pytest.raises(records.RunError, match=r'not empty.*thesis\.tex'):
    open_run(tmp_path)
  assert [p.name for p in tmp_path.iterdir()] == ['thesis.tex']
  with pytest.raises(records.RunError, match='is a file'):
    open_run(tmp_path / 'thesis.tex')
  with pytest.raises(records.RunError, match=r'cannot be used: .*thesis'):
    open_run(tmp_path / 'thesis.tex' / 'run')
  for name in 'fedcba':
    (tmp_path / name).touch()
  with pytest.raises(records.RunError, match=r'\(it has a, b, c, d, e\)'):
    open_run(tmp_path)
  (tmp_path / 'empty').mkdir()
  open_run(tmp_path / 'empty')


@pytest.mark.skipif(os.geteuid() == 0, reason='root may write anywhere')
def test_unwritable_place(tmp_path):
  tmp_path.chmod(0o500)
  with pytest.raises(records.RunError, match='cannot be used'):
    open_run(tmp_path / 'run')


def test_a_name_that_no_file_system_takes(tmp_path):
  with pytest.raises(records.RunError, match=r'cannot be used: .*too long'):
    open_run(tmp_path / ('a' * 300))


def test_a_full_disk_at_the_start_blocks_nothing_later(tmp_path, monkeypatch):
  def fail(number):
    raise OSError(28, 'No space left on device')

  for file in ('run.json', 'flags.txt'):
    run_dir, seen = tmp_path / file, []

    def sync(number, file=file, seen=seen, run_dir=run_dir):
      seen.extend(p.name for p in run_dir.iterdir())
      if any(file in name for name in seen):
        fail(number)

    with monkeypatch.context() as patch:
      patch.setattr(os, 'fsync', sync)
      with pytest.raises(records.RunError, match=r'used: .*No space left'):
        open_run(run_dir)
    assert not list(run_dir.rglob('*.part'))
    # As a kill at the same place leaves it.
    (run_dir / '.flags.txt.7-8.part').write_text('--wor')
    open_run(run_dir, seed=5)
    assert '--seed=5' in (run_dir / 'flags.txt').read_text()
    assert not list(run_dir.rglob('*.part'))


def test_a_directory_is_one_processs_at_a_time(tmp_path):
  with opened(tmp_path):
    code = (
      'import test_records as t, sys\n'
      'try: t.open_run(sys.argv[1])\n'
      'except t.records.RunError as error: print(error)'
    )
    here = os.path.dirname(__file__)
    out = subprocess.run(
      [sys.executable, '-c', code, str(tmp_path)],
      capture_output=True,
      text=True,
      check=True,
      cwd=here,
    )
    said = f'--workdir={tmp_path} is in use by process {os.getpid()} on '
    assert out.stdout.startswith(said) and 'choose another' in out.stdout
    with pytest.raises(records.RunError, match='is in use'):
      open_run(tmp_path)
  open_run(tmp_path)


def test_later_starts_are_recorded_until_the_run_is_finished(
  tmp_path, monkeypatch, capsys
):
  run = lambda: records.read_json(tmp_path / 'run.json', sealed=True)
  open_run(tmp_path)
  first = run()
  open_run(tmp_path)
  assert capsys.readouterr().err == ''
  assert len(run()['resumed']) == 1
  monkeypatch.setattr(records, '_git', lambda *args: 'another')
  open_run(tmp_path)
  said = capsys.readouterr().err
  assert said.startswith(f'note: the run in {tmp_path} goes on with other code')
  assert 'git' in said and '-> another' in said
  *_, last = run()['resumed']
  assert last['git'] == 'another' and {'experiment', 'flags'}.isdisjoint(last)
  with monkeypatch.context() as patch:
    other = {'jax_enable_x64': 'True'}
    real = records._circumstances
    patch.setattr(
      records,
      '_circumstances',
      lambda *args: real(*args) | {'settings': first['settings'] | other},
    )
    said = 'jax_enable_x64 was False, and is True now; use those, or choose'
    with pytest.raises(records.RunError, match=said):
      open_run(tmp_path)
    records.finish_run(tmp_path)
    before = run()
    open_run(tmp_path)  # Shown again.
    records.finish_run(tmp_path, seconds={'draw': 3.0})
  assert run() == before and len(before['resumed']) == 2
  later = ('resumed', 'finished', 'sha256')
  without = {k: v for k, v in before.items() if k not in later}
  assert without == first


@pytest.mark.parametrize('name', ['a.json', 'a.npz'])
def test_no_damage_is_read_as_something_else(tmp_path, name):
  """Every byte: flipped in each bit, or the file cut before it."""
  path = tmp_path / name
  if name == 'a.json':
    records.write_json(path, {'x': [1, 2.5], 'name': 'b'}, sealed=True)
    read = lambda: records.read_json(path, sealed=True)
  else:
    records.save_columns(path, {'x': np.arange(3.0), 'y': np.arange(3)})
    read = lambda: {
      k: v.tolist() for k, v in records.load_columns(path).items()
    }
  whole, wanted = path.read_bytes(), read()
  accepted = 0
  for place in range(len(whole)):
    flipped = [
      whole[:place] + bytes([whole[place] ^ 1 << bit]) + whole[place + 1 :]
      for bit in range(8)
    ]
    for data in (*flipped, whole[:place]):
      path.write_bytes(data)
      try:
        assert read() == wanted
        accepted += 1
      except records.DamagedError as error:
        assert str(path) in str(error)
  # White space of JSON, the length of the archive's comment.
  assert accepted < (60 if name == 'a.json' else 17)
  for data in (
    b'',
    b'null',
    b'[]',
    b'\x93NUMPY',
    os.urandom(500),
    whole + whole,
  ):
    path.write_bytes(data)
    with pytest.raises(records.DamagedError, match=name):
      read()
  if name == 'a.npz':
    np.savez(path, x=np.arange(3.0))
    with pytest.raises(records.DamagedError, match=name):
      read()


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
  assert not list(tmp_path.glob('.*'))


def test_files_are_on_the_disk_before_they_take_their_place(
  tmp_path, monkeypatch
):
  """guarantees.md: tables and JSON files are whole or not there."""
  path, seen = tmp_path / 'a' / 'b' / 'c.json', []

  def sync(number):
    size = os.fstat(number).st_size
    seen.append((size, path.exists(), sorted(os.listdir(path.parent))))

  monkeypatch.setattr(os, 'fsync', sync)
  for number in range(2):
    records.write_json(path, {'a': [number]}, sealed=True)
  digest = hashlib.sha256(b'{"a": [1]}').hexdigest()
  text = f'{{\n  "a": [\n    1\n  ],\n  "checksum": "{digest}"\n}}\n'
  assert path.read_text() == text
  (size, *first), directory, second, again = seen
  (part,) = first[1]
  assert re.fullmatch(r'\.c\.json\.\d+-\d+\.part', part)
  assert (size, first[0]) == (len(text), False)
  assert second == (len(text), True, [part, 'c.json'])
  # The directory, which has the new name.
  assert directory[1:] == again[1:] == (True, ['c.json'])
  assert records.read_json(str(path), sealed=True) == {'a': [1]}
  plain = records.read_json(path)
  assert plain == {'a': [1], 'checksum': digest}
  records.write_json(path, plain)
  assert path.read_text() == text
  for data in (b'[1]', b'{"a', b'\xff', b'[' * 99999):
    path.write_bytes(data)
    with pytest.raises(records.DamagedError, match=r'c\.json is damaged'):
      records.read_json(path)


def test_half_written_files_are_no_results(tmp_path):
  run_dir = open_run(tmp_path)
  records.save_chunk(run_dir, 'whole', {'x': np.arange(3)})
  whole = (run_dir / 'chunks' / 'whole.npz').read_bytes()
  for cut in (0, 10, len(whole) // 2, len(whole) - 1):
    (run_dir / 'chunks' / 'half.npz').write_bytes(whole[:cut])
    assert records.load_chunk(run_dir, 'half') is None
  assert records.load_chunk(run_dir, 'absent') is None
  left = run_dir / 'chunks' / '.x.npz.12-34.part'
  left.write_bytes(b'left by a killed run')
  open_run(tmp_path)
  assert not list(run_dir.rglob('*.part'))
  np.testing.assert_array_equal(
    records.load_chunk(run_dir, 'whole')['x'], np.arange(3)
  )


def test_log_appends_and_a_line_cut_short_is_left_out(tmp_path):
  assert records.read_log(tmp_path) == []
  path = tmp_path / 'metrics.jsonl'
  records.log(tmp_path, step=1, loss=0.5)
  with open(path, 'a') as file:
    file.write('{"step": 2, "lo')
  records.log(tmp_path, step=3, loss=0.25)
  wanted = [{'step': 1, 'loss': 0.5}, {'step': 3, 'loss': 0.25}]
  assert records.read_log(tmp_path) == wanted
  # Nor is a line with another number in it, or one that is no object.
  text = path.read_text()
  path.write_text(text.replace('0.25', '0.35') + '[1]\n3\n\n')
  assert records.read_log(tmp_path) == wanted[:1]
  path.write_bytes(text.encode() + b'\xff\xfe\n')
  assert records.read_log(tmp_path) == wanted


def test_of_a_step_that_was_taken_twice_the_last_line_counts(tmp_path):
  for step, loss in ((0, 4), (1, 3), (2, 2), (1, 5), (3, 1)):
    records.log(tmp_path, step=step, loss=loss)
  records.log(tmp_path, unit='a')
  losses = [(row['step'], row['loss']) for row in records.read_steps(tmp_path)]
  assert losses == [(0, 4), (1, 5), (2, 2), (3, 1)]


def test_lines_of_the_log_are_on_the_disk(tmp_path, monkeypatch):
  """Before what is saved after them, as checkpoints are."""
  sizes = []
  sync = lambda number: sizes.append(os.fstat(number).st_size)
  monkeypatch.setattr(os, 'fsync', sync)
  records.log(tmp_path, step=1)
  assert sizes == [(tmp_path / 'metrics.jsonl').stat().st_size]


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


def test_parts_have_their_own_files_and_seconds(tmp_path, monkeypatch):
  kept = {}
  ticks = iter([1.0, 2.23456, 5.0])
  monkeypatch.setattr(records.time, 'perf_counter', lambda: next(ticks))
  load = lambda run_dir, name: kept.get((run_dir, name))
  save = lambda run_dir, name, part: kept.update({(run_dir, name): part})
  parts = records.resume(
    tmp_path, ['a', 'b'], lambda done: iter([3, 4]), load=load, save=save
  )
  assert list(parts) == [3, 4]
  assert kept == {(tmp_path, 'a'): 3, (tmp_path, 'b'): 4}
  assert records.read_log(tmp_path) == [
    {'unit': 'a', 'seconds': 1.2346},
    {'unit': 'b', 'seconds': 2.7654},
  ]


class Clock:
  """Time that only sleeping takes."""

  def __init__(self, patch):
    self.now, self.sleeps = 100.0, 0
    patch.setattr(records.time, 'monotonic', lambda: self.now)
    patch.setattr(records.time, 'sleep', self.sleep)

  def sleep(self, seconds):
    self.now, self.sleeps = self.now + seconds, self.sleeps + 1


def test_one_process_agrees_with_itself_and_waits_for_nobody(
  tmp_path, monkeypatch
):
  assert records.is_main_process() and records.sync_min(3) == 3
  clock = Clock(monkeypatch)
  with pytest.raises(FileNotFoundError):
    records.load_columns(tmp_path / 'absent.npz')
  assert clock.sleeps == 0


def test_other_processes_wait_and_do_not_write(tmp_path, monkeypatch):
  run_dir = open_run(tmp_path / 'run')
  before = contents(run_dir)
  clock = Clock(monkeypatch)
  monkeypatch.setattr(jax, 'process_index', lambda: 1)
  assert not records.is_main_process()
  records.write_json(run_dir / 'a.json', {'a': 1})
  records.save_columns(run_dir / 'a.npz', {'x': np.ones(1)})
  records.log(run_dir, step=1)
  records.finish_run(run_dir)
  assert open_run(run_dir) == run_dir
  assert before == contents(run_dir)
  assert clock.sleeps == 0
  with pytest.raises(records.RunError, match=r'process 1 does not see what'):
    open_run(tmp_path / 'elsewhere')
  assert clock.now == pytest.approx(160, abs=0.1)
  assert clock.sleeps == pytest.approx(60 / 0.05, abs=1)
  # A file that comes meanwhile is read.
  path = tmp_path / 'late.npz'
  with monkeypatch.context() as patch:
    patch.setattr(jax, 'process_index', lambda: 0)
    records.save_columns(tmp_path / 'other.npz', {'x': np.arange(3)})

  def come(seconds):
    clock.now += seconds
    if clock.now > 170:
      (tmp_path / 'other.npz').replace(path)

  monkeypatch.setattr(records.time, 'sleep', come)
  assert records.load_columns(str(path))['x'].tolist() == [0, 1, 2]


def test_processes_agree_on_the_least_that_each_has(tmp_path, monkeypatch):
  there = []

  def gather(value):
    if np.ndim(value):  # What all have to have the same.
      return np.stack([value, value, value])
    there.append((tmp_path / 'run' / 'flags.txt').exists())
    return np.array([value + 2, value, value + 1])

  monkeypatch.setattr(multihost_utils, 'process_allgather', gather)
  assert records.sync_min(4) == 4 and there == []
  monkeypatch.setattr(jax, 'process_count', lambda: 3)
  assert records.sync_min(4) == 4
  # All have looked before the first one writes, and wait until it has.
  open_run(tmp_path / 'run')
  assert there == [False, False, True]


def test_processes_with_other_flags_are_refused(tmp_path, monkeypatch):
  texts = []

  def gather(value):
    texts.append(np.asarray(value).tobytes())
    return np.stack([value, value + len(texts) - 1])

  monkeypatch.setattr(multihost_utils, 'process_allgather', gather)
  assert records.same_everywhere('alone') and not texts
  monkeypatch.setattr(jax, 'process_count', lambda: 2)
  assert records.same_everywhere('text')
  assert texts == [hashlib.sha256(b'text').digest()]
  with pytest.raises(records.RunError, match='were given different flags'):
    open_run(tmp_path / 'run')
  assert not (tmp_path / 'run').exists()


def test_select_keeps_rows_with_the_values_asked_for():
  table = {'name': np.array(['a', 'b', 'a']), 'p': np.array([1.0, 1.0, np.inf])}
  assert records.select(table, name='a', p=np.inf)['name'].tolist() == ['a']
  assert records.select(table, name='b')['p'].tolist() == [1.0]
  assert len(records.select(table, name='c')['p']) == 0


def test_tables_are_joined_below_each_other():
  parts = [
    {'x': np.arange(2), 'y': np.ones((2, 3))},
    {'y': np.zeros((1, 3)), 'x': np.array([7])},
  ]
  whole = records.concatenate(parts)
  assert whole['x'].tolist() == [0, 1, 7] and whole['y'].shape == (3, 3)
  assert records.concatenate(parts[:1])['x'].tolist() == [0, 1]


def test_rows_become_columns_and_columns_those_of_units():
  rows = [{'network': i // 3, 'x': 10 * i, 'v': [i, -i]} for i in range(6)]
  table = records.stack(rows)
  assert table['x'].tolist() == [0, 10, 20, 30, 40, 50]
  of = records.by_unit(table)
  assert of['x'].tolist() == [[0, 10, 20], [30, 40, 50]]
  assert of['v'].shape == (2, 3, 2) and of['v'][1, 2].tolist() == [5, -5]
  assert records.by_unit(table, unit='x')['network'].shape == (6, 1)
  none = records.by_unit(records.select(table, network=7))
  assert none['v'].shape == (0, 0, 2)


def test_arrays_of_one_shape_become_rows():
  values = np.arange(6.0).reshape(2, 3)
  rows = records.broadcast((2, 3), x=values, i=np.array([[7], [8]]), name='a')
  assert rows['x'].tolist() == [0, 1, 2, 3, 4, 5]
  assert rows['i'].tolist() == [7, 7, 7, 8, 8, 8]
  assert rows['name'].tolist() == 6 * ['a']
