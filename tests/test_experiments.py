"""Every script, at toy size: run it, kill it, then read what it wrote."""

import dataclasses
import importlib
import json
import math
import os
import pathlib
import random
import signal
import subprocess
import sys
import time
import typing

import numpy as np
import pytest

from dmm_jax import records
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


WRONG = {
  int: (-2, 2**32, 10**20),
  float: (-0.5, math.inf, math.nan),
  str: ('mnits', '', '0', 'a,b', '-3', '²'),
}


def wrong_values(script):
  """Values that no flag of a kind should take, but for those that it may."""
  for field in dataclasses.fields(script.Config):
    many = typing.get_origin(field.type) is tuple
    kind = typing.get_args(field.type)[0] if many else field.type
    known = ('preset', 'workdir', 'data_dir')
    if kind is bool or field.name in known:
      continue
    for value in WRONG[kind]:
      choices = field.metadata['choices'] or ()
      least = field.metadata['numbers']
      fine = value in choices or (value == '' and kind is str)
      fine |= field.metadata['infinite'] and value == math.inf
      if not fine and not (least == 0 and value == '0'):
        yield field.name, (value,) if many else value


@pytest.mark.parametrize('name', SCRIPTS)
def test_wrong_values_are_named_before_anything_is_made(
  name, tmp_path, monkeypatch
):
  """One line each, and no directory; 900 values over all experiments."""
  script = importlib.import_module(f'experiments.{name}')

  def opened(*_):
    raise AssertionError('a directory would be made')

  monkeypatch.setattr(records, 'open_run', opened)
  workdir, tried = str(tmp_path / 'run'), 0
  for flag, value in wrong_values(script):
    given = {flag: value, 'workdir': workdir}
    config = flags.with_preset(script.Config, script.PRESETS, 'quick', **given)
    with pytest.raises(flags.EXPECTED) as error:
      script.run(config)
    assert 0 < len(str(error.value).splitlines()) < 3, (flag, value)
    tried += 1
  assert tried > 20


def test_methods_without_a_norm_are_found_before_training(tmp_path):
  check = flags.check_method
  for given in (('ddn', (2.0,)), ('apgd', (1.0,)), ('fast', (1.0, 2.0))):
    check(*given, together=True)
  check('apgd', (1.0, 2.0))
  for given, together, said in (
    (('ddn', (2.0, np.inf)), False, 'norm must be 2 for method ddn, got inf'),
    (('apgd', (1.0, 2.0)), True, 'one norm at a time'),
    (('deepfool', (0.0,)), False, 'has no steps for norm 0'),
    (('fast', (0.5,)), False, 'a number p >= 1 or inf, or 0 for'),
    (('luck', (2.0,)), False, 'the method must be one of portfolio'),
  ):
    with pytest.raises(
      flags.FlagError, match=f'--method={given[0]}.*: .*{said}'
    ):
      check(*given, together=together)


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
  assert out.returncode == 2 and out.stderr.count('\n') == 1
  assert out.stderr.startswith('error: flag --preset=huge: value should be one')
  assert 'quick' in out.stderr and '--helpshort lists all flags' in out.stderr
  assert not any(tmp_path.iterdir())
  of = ('--dataset=mnst', f'--workdir={tmp_path}/run')
  out = run(*of, name='boundary_distances')
  assert (
    out.returncode == 2 and "no set 'mnst'; near to it: mnist" in out.stderr
  )
  assert 'Traceback' not in out.stderr and not any(tmp_path.iterdir())
  out = run('--helpshort')
  assert '--num_networks' in out.stdout and 'for each size' in out.stdout
  assert 'quick: --architectures=' in ' '.join(out.stdout.split())


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
