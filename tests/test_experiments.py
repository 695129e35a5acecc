"""Every script, at toy size: run it, kill it, then read what it wrote."""

import importlib
import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import time

import pytest

from experiments.lib import flags

ROOT = pathlib.Path(__file__).parent.parent
SCRIPTS = [
  path.stem
  for path in sorted((ROOT / 'experiments').glob('*.py'))
  if 'PRESETS = {' in path.read_text()
]


@pytest.mark.parametrize('name', SCRIPTS)
def test_presets_are_valid(name):
  script = importlib.import_module(f'experiments.{name}')
  for preset in script.PRESETS:
    flags.check(flags.with_preset(script.Config, script.PRESETS, preset))


KILLED = {
  'random_scaling': [
    '--architectures=fully_connected',
    '--norms=2',
    '--sizes=4,6',
    '--width=8',
    '--num_networks=20',
    '--batch_size=2',
  ],
  'boundary_distances': [
    '--preset=quick',
    '--epochs=3',
    '--num_examples=30',
    '--width=12',
    '--num_trained=3',
    '--num_untrained=3',
    '--batch_size=5',
  ],
}


def command(name, workdir):
  module = f'experiments.{name}'
  return [sys.executable, '-m', module, *KILLED[name], f'--workdir={workdir}']


def test_command_line(tmp_path):
  run = lambda *given, name='random_scaling': subprocess.run(
    [sys.executable, '-m', f'experiments.{name}', *given],
    capture_output=True,
    text=True,
    cwd=ROOT,
    check=False,
  )
  out = run(f'--workdir={tmp_path}', '--preset=huge')
  assert out.returncode and 'Traceback' not in out.stderr
  assert 'flag --preset=huge' in out.stderr and 'quick' in out.stderr
  assert not any(tmp_path.iterdir())
  of = ('--dataset=mnst', f'--workdir={tmp_path}/run')
  out = run(*of, name='boundary_distances')
  assert (
    out.returncode == 2 and "no set 'mnst'; near to it: mnist" in out.stderr
  )
  assert 'Traceback' not in out.stderr and not any(tmp_path.iterdir())
  out = run('--helpshort')
  assert '--num_networks' in out.stdout and 'for each size' in out.stdout
  assert 'quick: --workdir=' in ' '.join(out.stdout.split())


@pytest.mark.slow  # Broken runs of other tests are quicker.
@pytest.mark.parametrize('name', KILLED)
def test_killed_runs_end_with_the_same_bytes(name, tmp_path):
  run = lambda *given: subprocess.run(
    given, cwd=ROOT, check=True, capture_output=True
  )
  start = time.monotonic()
  run(*command(name, tmp_path / 'whole'))
  whole = time.monotonic() - start
  rng, broken = random.Random(0), tmp_path / 'broken'
  for _ in range(5):
    process = subprocess.Popen(
      command(name, broken),
      cwd=ROOT,
      stdout=subprocess.DEVNULL,
      stderr=subprocess.DEVNULL,
    )
    time.sleep(whole * rng.uniform(0.3, 0.95))
    process.send_signal(signal.SIGKILL)
    process.wait()
  again = command(name, broken)[:3]
  run(*again, f'--flagfile={broken}/flags.txt')
  written = [*(tmp_path / 'whole').glob('*.npz')]
  for path in [*written, tmp_path / 'whole/report.json']:
    assert (broken / path.name).read_bytes() == path.read_bytes(), path.name
  assert json.loads((broken / 'run.json').read_text())['finished']
  assert os.listdir(broken / 'figures')
