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


def command(workdir, *more):
  given = dict(
    architectures='fully_connected',
    norms='2',
    sizes='4,6',
    width=8,
    num_networks=20,
    batch_size=2,
    workdir=workdir,
  )
  module = 'experiments.random_scaling'
  asked = [f'--{name}={value}' for name, value in given.items()]
  return [sys.executable, '-m', module, *asked, *more]


def test_command_line(tmp_path):
  run = lambda *given: subprocess.run(
    [sys.executable, '-m', 'experiments.random_scaling', *given],
    capture_output=True,
    text=True,
    cwd=ROOT,
    check=False,
  )
  out = run(f'--workdir={tmp_path}', '--preset=huge')
  assert out.returncode and 'Traceback' not in out.stderr
  assert 'flag --preset=huge' in out.stderr and 'quick' in out.stderr
  assert not any(tmp_path.iterdir())
  out = run('--helpshort')
  assert '--num_networks' in out.stdout and 'for each size' in out.stdout
  assert 'quick: --workdir=' in ' '.join(out.stdout.split())


@pytest.mark.slow  # Broken runs of other experiments are quicker.
def test_killed_runs_end_with_the_same_bytes(tmp_path):
  subprocess.run(
    command(tmp_path / 'whole'), cwd=ROOT, check=True, capture_output=True
  )
  rng, kills = random.Random(0), 0
  broken = tmp_path / 'broken'
  while kills < 3:
    # Kill at a random moment after the next chunk.
    seen = len(list(broken.glob('chunks/*.npz')))
    process = subprocess.Popen(
      command(broken),
      cwd=ROOT,
      stdout=subprocess.DEVNULL,
      stderr=subprocess.DEVNULL,
    )
    while len(list(broken.glob('chunks/*.npz'))) <= seen:
      assert process.poll() is None, 'the run ended before it could be killed'
      time.sleep(0.01)
    time.sleep(rng.uniform(0, 1.0))
    process.send_signal(signal.SIGKILL)
    process.wait()
    kills += 1
  assert not (broken / 'report.json').exists()
  again = command(broken, f'--flagfile={broken}/flags.txt')
  subprocess.run(again, cwd=ROOT, check=True, capture_output=True)
  for name in ('results.npz', 'predictions.npz', 'report.json'):
    whole = (tmp_path / 'whole' / name).read_bytes()
    assert (broken / name).read_bytes() == whole, name
  assert json.loads((broken / 'run.json').read_text())['finished']
  assert os.listdir(broken / 'figures')
