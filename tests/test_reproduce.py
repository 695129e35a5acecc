"""All experiments in one go: order, kills, failures, what is told."""

import dataclasses
import fcntl
import importlib
import os
import pathlib
import signal
import sys
import threading
import time

import pytest

from dmm_jax import records
from experiments import reproduce
from experiments.lib import flags

ROOT = pathlib.Path(__file__).parent.parent
# Stands for an experiment: says that it runs, does what its file `act` says,
# and ends as one does. Without JAX, so that it starts at once.
FAKE = """
import hashlib, json, os, pathlib, sys, time
def write(path, value):
  text = json.dumps(value, sort_keys=True).encode()
  value = value | dict(checksum=hashlib.sha256(text).hexdigest())
  path.write_text(json.dumps(value))
run_dir = pathlib.Path(sys.argv[1])
run_dir.mkdir(exist_ok=True)
print('working on', run_dir.name, *sys.argv[2:], flush=True)
record = dict(experiment='experiments.fake', started='2026-01-01T00:00:00')
write(run_dir / 'run.json', record)
(run_dir / 'flags.txt').write_text('')
claimed = {}
act = run_dir.parent / (run_dir.name + '.act')
if act.exists():
  exec(act.read_text())
report = dict(answer=run_dir.name + ' holds', claims=[], tables=[])
claim = dict(paper='', name='', statement='', reason='')
for holds, verdict in claimed.items():
  conditions = [dict(text='', holds=holds)]
  claim |= dict(conditions=conditions, verdict=verdict)
  report['claims'] += [dict(claim)] * (1 + (holds is True))
text = json.dumps(report)
(run_dir / 'report.json').write_text(text)
digest = hashlib.sha256(text.encode()).hexdigest()
record |= dict(finished='2026-01-01T00:00:01', sha256={'report.json': digest})
write(run_dir / 'run.json', record)
"""
THREE = ('bit_strings', 'crossings', 'dimple_depth')


@pytest.fixture
def folder(tmp_path, monkeypatch):
  command = lambda job, run_dir: [
    *(sys.executable, '-I', '-S', '-c', FAKE),
    *(str(run_dir), *job.given),
  ]
  monkeypatch.setattr(reproduce, 'command', command)
  return tmp_path / 'all'


def start(folder, **more):
  more = {'only': THREE} | more
  return reproduce.run(reproduce.Config(workdir=str(folder), **more))


def test_all_run_in_order_and_only_once(folder, capsys):
  outcomes = start(folder)
  names = ['bit_strings_quick', 'dimple_depth_quick', 'crossings_quick']
  assert [one.job.name for one in outcomes] == names
  out = capsys.readouterr()
  lines = out.out.splitlines()
  assert '3 runs, 0 other folders' in out.out
  for line, name in zip(lines[-3:], names, strict=True):
    assert line.startswith(name.removesuffix('_quick'))
    assert str(folder / name) in line and f'{name} holds' in line
  assert '3 of 3: crossings_quick, ' in out.err
  log = folder / 'crossings_quick.log'
  assert 'working on crossings_quick --preset=quick' in log.read_text()
  assert 'crossings_quick holds' in (folder / 'gallery.html').read_text()
  spent = records.read_json(folder / 'minutes.json', sealed=True)
  assert list(spent) == names and all(0 <= v < 1 for v in spent.values())
  # Again: nothing is left to do; another preset is something else.
  before = log.read_text()
  assert [o.said for o in start(folder)] == [o.said for o in outcomes]
  assert log.read_text() == before
  other = start(folder, preset='default', only=('crossings',))
  assert other[0].job.name == 'crossings_default'


def test_verdicts_are_counted_before_the_answer(folder, capsys):
  folder.mkdir()
  act = folder / 'crossings_quick.act'
  act.write_text(
    'claimed = {True: "supported", None: "undecided", False: "not supported"}'
  )
  (outcome,) = start(folder, only=('crossings',))
  counts = '2 supported, 1 undecided, 1 not supported'
  assert outcome.said == f'{counts}: crossings_quick holds'
  header, rule, line = capsys.readouterr().out.splitlines()[-3:]
  assert header.split() == ['experiment', 'minutes', 'where', 'answer']
  assert set(rule) == {'-', ' '}
  where = folder / 'crossings_quick'
  minutes = f'{outcome.minutes:.1f}'
  assert line.split()[:3] == ['crossings', minutes, str(where)]
  assert line.endswith(f'  {where}  {outcome.said}')


def test_a_failure_does_not_end_the_others(folder, capsys):
  folder.mkdir()
  act = folder / 'bit_strings_quick.act'
  act.write_text('raise ValueError("no luck")')
  (folder / 'crossings_quick.act').write_text('sys.exit(0)')
  with pytest.raises(SystemExit) as ended:
    start(folder)
  assert ended.value.code == 1
  out = capsys.readouterr().out
  log = folder / 'bit_strings_quick.log'
  assert f'failed (exit status 1), see {log}' in out
  assert 'no luck' in log.read_text()
  assert 'dimple_depth_quick holds' in out
  # One that says that all is well, and wrote nothing.
  assert 'failed: unfinished: the run did not reach its end' in out
  assert '1 runs, 2 other folders' in out
  act.unlink()
  (folder / 'crossings_quick.act').unlink()
  assert not any(one.failed for one in start(folder))


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_child_too_and_the_next_start_goes_on(
  folder, number, capsys
):
  folder.mkdir()
  act = folder / 'dimple_depth_quick.act'
  pid_file = folder / 'pid'
  act.write_text(
    f'open({str(pid_file)!r} + "0", "w").write(str(os.getpid()))\n'
    f'os.rename({str(pid_file)!r} + "0", {str(pid_file)!r})\n'
    'time.sleep(60)'
  )

  def stop():
    while not pid_file.exists():
      time.sleep(0.01)
    os.kill(os.getpid(), number)

  threading.Thread(target=stop, daemon=True).start()
  before = signal.getsignal(number)
  with pytest.raises(SystemExit) as ended:
    start(folder)
  assert ended.value.code == 128 + number
  assert signal.getsignal(number) is before
  assert 'the same command goes on' in capsys.readouterr().err
  with pytest.raises(ProcessLookupError):
    os.kill(int(pid_file.read_text()), 0)
  assert reproduce.is_finished(folder / 'bit_strings_quick')
  assert not reproduce.is_finished(folder / 'dimple_depth_quick')
  assert not (folder / 'crossings_quick').exists()
  act.unlink()
  logs = [folder / f'{name}_quick.log' for name in THREE]
  assert len(start(folder)) == 3
  assert [log.read_text().count('\nworking') for log in logs] == [1, 1, 2]


def test_what_outlived_a_kill_is_waited_for(folder, capsys):
  folder.mkdir()
  lock = open(folder / '.lock', 'a')
  fcntl.flock(lock, fcntl.LOCK_EX)
  began = time.monotonic()
  threading.Timer(0.4, lock.close).start()
  assert len(start(folder, only=('crossings',))) == 1
  assert time.monotonic() - began > 0.4
  assert 'waiting for what an earlier start' in capsys.readouterr().err


def test_files_of_a_kill_at_a_bad_moment_are_no_news(folder):
  (folder / 'crossings_quick').mkdir(parents=True)
  (folder / 'crossings_quick/run.json').write_text('{"fini')
  (folder / 'minutes.json').write_text('{"half')
  (outcome,) = start(folder, only=('crossings',))
  assert outcome.said == 'crossings_quick holds' and outcome.minutes >= 0


def test_what_needs_data_is_skipped_without_and_says_so(folder, capsys):
  outcomes = start(folder, preset='full')
  said = {one.job.name: one.said for one in outcomes}
  assert said == {
    'bit_strings_default': 'bit_strings_default holds',
    'dimple_depth_mnist': 'skipped: needs --data_dir',
    'crossings_mnist': 'skipped: needs --data_dir',
    'crossings_cifar': 'skipped: needs --data_dir',
  }
  assert 'skipped: needs --data_dir' in capsys.readouterr().out
  outcomes = start(folder, preset='full', data_dir='/data', only=('crossings',))
  assert [one.said for one in outcomes] == [
    'crossings_mnist holds',
    'crossings_cifar holds',
  ]
  log = (folder / 'crossings_cifar.log').read_text()
  assert '--preset=cifar --data_dir=/data' in log


def test_bad_flags_are_named(folder):
  with pytest.raises(flags.FlagError, match='--only=half is unknown; it is'):
    start(folder, only=('half',))
  with pytest.raises(flags.FlagError, match='--preset=paper is unknown'):
    start(folder, preset='paper')
  assert not folder.exists()


def test_the_time_left_follows_the_pace_of_this_machine(tmp_path, capsys):
  jobs = [reproduce.Job(name, name, [], m) for name, m in (('a', 1), ('b', 3))]
  with reproduce.Progress(jobs, tmp_path) as progress:
    said = lambda: progress.bar.desc
    progress.begin(jobs[0])
    assert said() == '1 of 2: a, about 4 min left'
    progress.show(30)
    assert said().endswith('about 4 min left') and progress.bar.n == 0.5
    progress.show(500)  # Longer than it should.
    assert progress.bar.n < 1
    progress.done(jobs[0], 2.0)
    progress.begin(jobs[1])
    assert said() == '2 of 2: b, about 6 min left' and progress.bar.n == 1
    progress.show(180)
    assert said().endswith('about 3 min left') and progress.bar.n == 2.5


def test_no_experiment_is_forgotten_and_all_flags_are_good():
  scripts = [
    path.stem
    for path in (ROOT / 'experiments').glob('*.py')
    if 'PRESETS = {' in path.read_text()
  ]
  papers = {name for name in scripts if not name.startswith('train_')}
  assert papers <= set(reproduce.MINUTES)
  for preset in ('quick', 'default', 'full'):
    config = reproduce.Config(preset=preset, data_dir='DIR')
    jobs = reproduce.planned(config)
    assert {job.experiment for job in jobs} == papers
    assert len({job.name for job in jobs}) == len(jobs)
    for job in jobs:
      check(job)


def check(job):
  """Holds a job's flags to what its experiment takes."""
  script = importlib.import_module(f'experiments.{job.experiment}')
  fields = {field.name: field for field in dataclasses.fields(script.Config)}
  given = dict(flag.removeprefix('--').split('=') for flag in job.given)
  preset = given.pop('preset', 'default')
  config = flags.with_preset(
    script.Config,
    script.PRESETS,
    preset,
    **{k: flags._parser(fields[k]).parse(text) for k, text in given.items()},
  )
  flags.check(config)
