"""Runs that are killed, or lose their power, at random moments."""

import contextlib
import pathlib
import random
import subprocess
import sys

import numpy as np
import pytest

from dmm_jax import checkpoints
from dmm_jax import records

ROOT = pathlib.Path(__file__).parents[1]
# Longest wait between an event and its kill, seconds: that of a slow write.
LATEST = 0.02
KILLED = {
  'random_scaling': (
    '--architectures=fully_connected',
    '--norms=2',
    '--sizes=4,6',
    '--width=8',
    '--num_networks=20',
    '--batch_size=4',
    '--methods=ray',
  ),
  'boundary_distances': (
    '--preset=quick',
    '--epochs=3',
    '--num_examples=20',
    '--width=12',
    '--num_trained=2',
    '--num_untrained=2',
    '--method=projection',
    '--norms=2',
  ),
  'train_classifier': (
    '--widths=16',
    '--epochs=4',
    '--num_train=400',
    '--num_test=100',
    '--batch_size=100',
  ),
  'dimple_depth': (
    '--num_examples=20',
    '--num_networks=2',
    '--width=12',
    '--adversaries=PGD l2',
    '--latent=4',
    '--epochs=2',
    '--autoencoder_epochs=2',
    '--attack_steps=2',
  ),
  'mislabelled_training': (
    '--num_train=200',
    '--epochs=3',
    '--num_sources=2',
    '--num_seeds=1',
    '--radii=1.5',
    '--attack_steps=5',
    '--brief_steps=2',
  ),
}


def start(name, workdir, how='count', event=1, delay=0.0):
  """Starts an experiment; returns what became of it."""
  script = (sys.executable, 'tests/interrupted.py', how, f'{event}', f'{delay}')
  module = f'experiments.{name}'
  return subprocess.run(
    [*script, str(workdir), module, f'--workdir={workdir}', *KILLED[name]],
    cwd=ROOT,
    capture_output=True,
    text=True,
    check=False,
  )


def begin(name, workdir):
  """Runs an experiment whole; returns how many moments it may be ended at."""
  whole = start(name, workdir)
  assert whole.returncode == 0, whole.stderr
  return int(whole.stdout.rsplit('events: ', 1)[1])


def finish(name, whole, broken):
  """Runs a broken one to its end, and holds all it found to the unbroken."""
  last = start(name, broken)
  assert last.returncode == 0, last.stderr
  assert not list(broken.rglob('.*.part'))
  files = {p.relative_to(broken) for p in broken.rglob('*') if p.is_file()}
  tables = {p.relative_to(whole) for p in whole.rglob('*.np[yz]')}
  pictures = {p.relative_to(whole) for p in whole.glob('figures/*.png')}
  assert tables and pictures
  told = {pathlib.Path('report.json'), pathlib.Path('figures/captions.json')}
  for path in tables | pictures | (told & files):
    same = (broken / path).read_bytes() == (whole / path).read_bytes()
    assert same, path
  assert records.read_steps(broken) == records.read_steps(whole)
  if (whole / 'checkpoints').exists():
    one, other = (checkpoints.read(d / 'checkpoints') for d in (whole, broken))
    assert one.step == other.step and one.description == other.description
    for part in ('params', 'optimizer'):
      np.testing.assert_equal(one.state[part], other.state[part])


def interrupt(name, tmp_path, parent, how, times, around):
  """Ends runs at so many random moments, and then lets each go to its end.

  Args:
    name: of the experiment.
    tmp_path: for an unbroken run.
    parent: for the broken ones.
    how: `kill` or `power`.
    times: how often.
    around: makes a context for each start.
  """
  rng, whole = random.Random(name), tmp_path / 'whole'
  events, ended, number = begin(name, whole), 0, 0
  while ended < times:
    broken = parent / f'broken{number}'
    moment = rng.randint(1, events), rng.uniform(0, LATEST)
    with around():
      last = start(name, broken, how, *moment)
    assert last.returncode in (0, -9), (moment, last.stderr)
    print(f'{name}: event {moment[0]} of {events}, {last.returncode}')
    ended += last.returncode == -9
    if last.returncode == 0 or ended == times:
      # One that goes on may have less to do than there are events.
      with around():
        finish(name, whole, broken)
      number += 1


@pytest.mark.slow
@pytest.mark.parametrize('name', KILLED)
def test_six_kills_at_random_moments(name, tmp_path):
  interrupt(name, tmp_path, tmp_path, 'kill', 6, contextlib.nullcontext)


@contextlib.contextmanager
def mounted(image, where):
  """A file system of its own; skips where this process may not make one."""
  where.mkdir(exist_ok=True)
  given = dict(capture_output=True, text=True, check=False)
  made = subprocess.run(['mount', '-o', 'loop', image, where], **given)
  if made.returncode:
    pytest.skip(f'no file system can be mounted here: {made.stderr.strip()}')
  try:
    yield
  finally:
    subprocess.run(['umount', where], check=True)


@pytest.mark.slow
@pytest.mark.parametrize('name', ('random_scaling', 'train_classifier'))
def test_six_losses_of_power_at_random_moments(name, tmp_path):
  image, disk = tmp_path / 'image', tmp_path / 'disk'
  with open(image, 'wb') as file:
    file.truncate(200 * 2**20)
  try:
    subprocess.run(['mkfs.ext4', '-q', image], check=True)
  except FileNotFoundError:
    pytest.skip('there is no mkfs.ext4 here')
  around = lambda: mounted(image, disk)
  interrupt(name, tmp_path, disk, 'power', 6, around)
