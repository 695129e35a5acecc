"""What do all experiments find here? Runs them one after another.

  python -m experiments.reproduce
  python -m experiments.reproduce --preset=default
  python -m experiments.reproduce --preset=full --data_dir=DIR
  python -m experiments.reproduce --only=crossings,transfer

The experiments of the four papers, in their order, each in a process of its
own; then one page of all (`experiments.gallery`) and a table of answers, with
the number of claims that were supported, and so on.

  quick     small versions of all, without any data: about 10 minutes on 2 CPU
            cores
  default   as they are described in their own files: an hour and a quarter
  full      real images and the papers' sizes: for a GPU and a day. Of what
            needs --data_dir nothing runs without it, and the table says so.

A run killed at any moment goes on where it was when started again; what is
finished is not run again. What an experiment prints is in a .log file beside
its run directory. One that fails does not end the others; the exit status is
then 1, and the table names its log.
"""

import collections
import contextlib
import dataclasses
import fcntl
import importlib.util
import os
import pathlib
import signal
import subprocess
import sys
import time
from typing import NamedTuple

import tqdm

from dmm_jax import records
from experiments import gallery
from experiments.lib import flags
from experiments.lib import results
from experiments.lib import tables

# Minutes of `quick` and `default` on 2 CPU cores, to begin with; those that are
# measured are kept in --workdir.
MINUTES = {
  'random_scaling': (1, 5),
  'trained_vs_random': (1, 6),
  'trained_scaling': (1, 8),
  'bit_strings': (1, 5),
  'bit_images': (0.5, 1),
  'boundary_distances': (0.5, 5),
  'manifold_split': (1, 3),
  'initial_scale': (1.5, 6),
  'clinging_dimpling': (1, 5),
  'dimple_depth': (1, 3),
  'mislabelled_training': (1, 2),
  'crossings': (1, 3),
  'influence': (1, 2),
  'transfer': (1, 3),
  'som_codes': (1, 3),
  'attack_codes': (1, 4),
}
# What `full` runs: flags of each run, after the name of its directory.
FULL = {
  'random_scaling': {'full': ['--preset=full']},
  'trained_vs_random': {
    'paper_mnist': ['--preset=paper', '--data_dir'],
    'paper_cifar10': [
      '--preset=paper',
      '--dataset=cifar10',
      '--epochs=25',
      '--data_dir',
    ],
  },
  'trained_scaling': {
    'mnist': ['--preset=mnist', '--data_dir'],
    'cifar': ['--preset=cifar', '--data_dir'],
  },
  'bit_images': {'mnist': ['--preset=mnist', '--data_dir']},
  'boundary_distances': {
    'mnist': [
      '--dataset=mnist',
      '--model=convolutional',
      '--width=32',
      '--depth=3',
      '--data_dir',
    ]
  },
  'manifold_split': {
    'full': ['--preset=full', '--data_dir'],
    'cifar': ['--preset=cifar', '--data_dir'],
  },
  'initial_scale': {
    'full': ['--preset=full'],
    'mnist': ['--preset=mnist', '--data_dir'],
  },
  'clinging_dimpling': {
    'mnist': ['--preset=mnist', '--data_dir'],
    'cifar': ['--preset=cifar', '--data_dir'],
  },
  'dimple_depth': {'mnist': ['--preset=mnist', '--data_dir']},
  'mislabelled_training': {
    'mnist': ['--preset=mnist', '--data_dir'],
    'cifar': ['--preset=cifar', '--data_dir'],
  },
  'crossings': {
    'mnist': ['--preset=mnist', '--data_dir'],
    'cifar': ['--preset=cifar', '--data_dir'],
  },
  'influence': {
    'mnist': ['--preset=mnist', '--data_dir'],
    'cifar': ['--preset=cifar', '--data_dir'],
  },
  'transfer': {
    'mnist': ['--preset=mnist', '--data_dir'],
    'cifar': ['--preset=cifar', '--data_dir'],
  },
  'som_codes': {
    'mnist': ['--preset=mnist', '--data_dir'],
    'cifar': ['--preset=cifar', '--data_dir'],
    'modern': ['--preset=modern'],
  },
  'attack_codes': {
    'mnist': ['--preset=mnist', '--data_dir'],
    'cifar': ['--preset=cifar', '--data_dir'],
  },
}
# Of those that have nothing larger.
DEFAULT = {'default': ['--preset=default']}
# A guess, for the bar alone: hours on a GPU have not been measured.
FULL_MINUTES = 60


@dataclasses.dataclass(frozen=True)
class Config:
  preset: str = flags.flag(
    'quick',
    'Which version of every experiment.',
    choices=('quick', 'default', 'full'),
  )
  workdir: str = flags.flag('runs/reproduce', 'Folder of the runs.')
  data_dir: str = flags.data_dir()
  only: tuple[str, ...] = flags.flag(
    ('all',), 'Only these experiments, in the order of the papers.'
  )


class Job(NamedTuple):
  """One run of one experiment."""

  name: str  # Of its directory in --workdir.
  experiment: str
  given: list[str]
  minutes: float  # About.
  skipped: str = ''  # Why it is not run, if it is not.


class Outcome(NamedTuple):
  """What became of a job."""

  job: Job
  minutes: float | None
  said: str
  where: pathlib.Path
  failed: bool = False


def run(config: Config) -> list[Outcome]:
  """Runs what is not finished; raises SystemExit(1) if anything failed."""
  flags.check(config)
  folder = pathlib.Path(config.workdir)
  jobs = planned(config)
  try:
    folder.mkdir(parents=True, exist_ok=True)
  except OSError as error:
    raise flags.FlagError(
      f'--workdir={folder} cannot be made: {error}'
    ) from None
  with ended_by_signals(), alone(folder) as lock:
    known = measured(folder)
    jobs = [j._replace(minutes=known.get(j.name, j.minutes)) for j in jobs]
    outcomes = run_all(folder, jobs, lock)
  print()
  gallery.run(gallery.Config(runs=str(folder)))
  report(outcomes)
  if any(outcome.failed for outcome in outcomes):
    raise SystemExit(1)
  return outcomes


# --- What to run -----------------------------------------------------------


def planned(config: Config) -> list[Job]:
  """The jobs of a preset, in order."""
  there = {name: one for name, one in MINUTES.items() if exists(name)}
  wanted = list(there) if config.only == ('all',) else config.only
  for name in wanted:
    if name not in there:
      known = ', '.join(there)
      raise flags.FlagError(f'--only={name} is unknown; it is one of {known}')
  jobs = []
  for name, (quick, default) in there.items():
    if name not in wanted:
      continue
    if config.preset == 'full':
      jobs += full(name, config.data_dir)
    else:
      about = quick if config.preset == 'quick' else default
      given = [f'--preset={config.preset}']
      jobs.append(Job(f'{name}_{config.preset}', name, given, about))
  return jobs


def full(name, data_dir):
  """The jobs of one experiment on real data, and at the papers' sizes."""
  jobs = []
  for label, given in FULL.get(name, DEFAULT).items():
    skipped = ''
    if '--data_dir' in given:
      given = [*given[:-1], f'--data_dir={data_dir}']
      skipped = '' if data_dir else 'needs --data_dir'
    jobs.append(Job(f'{name}_{label}', name, given, FULL_MINUTES, skipped))
  return jobs


def exists(name: str) -> bool:
  return importlib.util.find_spec(f'experiments.{name}') is not None


def command(job: Job, run_dir: pathlib.Path) -> list[str]:
  """What runs a job."""
  module = f'experiments.{job.experiment}'
  return [sys.executable, '-m', module, *job.given, f'--workdir={run_dir}']


def is_finished(run_dir: pathlib.Path) -> bool:
  """Whether run.json says so; no, where it cannot be read."""
  with contextlib.suppress(OSError, ValueError):
    return bool(
      records.read_json(run_dir / 'run.json', sealed=True).get('finished')
    )
  return False


# --- Running ---------------------------------------------------------------


@contextlib.contextmanager
def alone(folder: pathlib.Path):
  """Holds a lock on a folder; yields its descriptor, for children to hold too.

  Waits for another process that holds it: SIGKILL ends a start of this script,
  and leaves the experiment under way to itself.
  """
  with open(folder / '.lock', 'a') as lock:
    try:
      fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
      said = (
        f'{folder}: waiting for what an earlier start is still running there'
      )
      print(said, file=sys.stderr, flush=True)
      fcntl.flock(lock, fcntl.LOCK_EX)
    yield lock.fileno()


@contextlib.contextmanager
def ended_by_signals():
  """Lets Ctrl-C and SIGTERM end this process, its children first."""

  def stop(number, _):
    said = '\nstopped; the same command goes on where it was'
    print(said, file=sys.stderr, flush=True)
    raise SystemExit(128 + number)

  numbers = signal.SIGINT, signal.SIGTERM
  before = [signal.signal(number, stop) for number in numbers]
  try:
    yield
  finally:
    for number, handler in zip(numbers, before, strict=True):
      signal.signal(number, handler)


def measured(folder) -> dict[str, float]:
  """Minutes of what was run to its end here, by job."""
  with contextlib.suppress(OSError, TypeError, ValueError):
    found = records.read_json(folder / 'minutes.json', sealed=True)
    return {name: float(spent) for name, spent in found.items()}
  return {}


def run_all(folder, jobs, lock) -> list[Outcome]:
  """Runs jobs one after another, behind one bar."""
  outcomes = []
  with Progress(jobs, folder) as progress:
    for job in jobs:
      run_dir = folder / job.name
      if job.skipped:
        said = f'skipped: {job.skipped}'
        outcomes.append(Outcome(job, None, said, run_dir))
        continue
      status = 0
      if not is_finished(run_dir):
        progress.begin(job)
        status = run_one(job, run_dir, lock, progress)
      outcomes.append(outcome(folder, job, run_dir, status))
  return outcomes


def run_one(job, run_dir, lock, progress) -> int:
  """Runs a job to its end; returns its exit status."""
  folder, began = run_dir.parent, time.monotonic()
  argv = command(job, run_dir)
  with open(log_of(run_dir), 'a') as log:
    print(f'$ {" ".join(argv)}', file=log, flush=True)
    child = subprocess.Popen(
      argv,
      stdin=subprocess.DEVNULL,
      stdout=log,
      stderr=subprocess.STDOUT,
      # Lines are there at once; what was compiled is, after a kill.
      env={
        'JAX_COMPILATION_CACHE_DIR': str(folder.resolve() / '.xla'),
        **os.environ,
        'PYTHONUNBUFFERED': '1',
      },
      pass_fds=(lock,),
      start_new_session=True,  # Ctrl-C comes here alone.
    )
    try:
      while child.poll() is None:
        progress.show(time.monotonic() - began)
        with contextlib.suppress(subprocess.TimeoutExpired):
          child.wait(0.5)
    finally:
      end(child)
  spent = (time.monotonic() - began) / 60
  if child.returncode == 0:
    # Of one that went on where it was, the earlier parts too.
    whole = max(spent, results.seconds(run_dir, {}) / 60)
    kept = measured(folder) | {job.name: round(whole, 2)}
    records.write_json(folder / 'minutes.json', kept, sealed=True)
  progress.done(job, spent)
  return child.returncode


def end(child, patience=10):
  """Ends a child and its own children, if they still run."""
  for number in (signal.SIGTERM, signal.SIGKILL):
    if child.poll() is not None:
      return
    with contextlib.suppress(ProcessLookupError):
      os.killpg(child.pid, number)
    with contextlib.suppress(subprocess.TimeoutExpired):
      child.wait(patience)


def log_of(run_dir):
  return run_dir.parent / f'{run_dir.name}.log'


class Progress:
  """A bar over minutes of work, known beforehand, with the time left.

  The time left is that of what is to come as it was measured before, times how
  much slower than that this run has been so far.
  """

  def __init__(self, jobs, folder):
    self.jobs = [
      job
      for job in jobs
      if not job.skipped and not is_finished(folder / job.name)
    ]
    self.known = self.spent = 0.0
    self.now = None
    self.bar = tqdm.tqdm(
      total=sum(job.minutes for job in self.jobs) or 1,
      bar_format='{percentage:3.0f}%|{bar}| {desc}',
    )

  def __enter__(self):
    return self

  def __exit__(self, *_):
    self.bar.close()

  def begin(self, job):
    self.now = job
    self.show(0.0)

  def show(self, seconds):
    """Shows the job under way, `seconds` after its start."""
    pace = self.spent / self.known if self.known else 1.0
    due = self.now.minutes * pace
    # One that takes longer than it should does not push the bar further.
    part = min(seconds / 60 / max(due, 1e-9), 0.99) * self.now.minutes
    self.bar.n = self.known + part
    left = 60 * (self.bar.total - self.bar.n) * pace
    number = self.jobs.index(self.now) + 1
    self.bar.set_description_str(
      f'{number} of {len(self.jobs)}: {self.now.name}, '
      + (
        f'about {gallery.format_duration(left)} left'
        if left > 2
        else 'nearly done'
      )
    )

  def done(self, job, minutes):
    self.known += job.minutes
    self.spent += minutes
    self.bar.n = self.known
    self.bar.set_description_str(f'{job.name} done')


# --- Telling ---------------------------------------------------------------


def outcome(folder, job, run_dir, status) -> Outcome:
  """What a job that was run, now or before, came to."""
  minutes = measured(folder).get(job.name)
  if status:
    # Below zero: the signal that ended it, as of want of memory.
    why = f'failed (exit status {status}), see {log_of(run_dir)}'
    return Outcome(job, None, why, run_dir, failed=True)
  try:
    found = results.read_run(job.name, run_dir)
  except (OSError, ValueError) as error:
    said = f'failed: {error}, see {log_of(run_dir)}'
    return Outcome(job, minutes, said, run_dir, failed=True)
  if minutes is None:  # It outlived a kill of this script.
    minutes = results.seconds(run_dir, found.record) / 60
  counts = collections.Counter(claim.verdict for claim in found.report.claims)
  said = ', '.join(f'{count} {verdict}' for verdict, count in counts.items())
  answer = ': '.join(filter(None, [said, found.report.answer]))
  return Outcome(job, minutes, answer, run_dir)


def report(outcomes: list[Outcome]) -> None:
  """Prints the outcomes as a table."""
  heads = 'experiment', 'minutes', 'where', 'answer'
  columns = [tables.Column(name, '', '', '.1f') for name in heads]
  rows = [
    [one.job.experiment, one.minutes, str(one.where), one.said]
    for one in outcomes
  ]
  print(tables.to_text(tables.Table('', columns, rows)), end='')


if __name__ == '__main__':
  flags.main(run, Config)
