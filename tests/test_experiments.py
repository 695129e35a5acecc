"""Every script, at toy size: run it, kill it, then read what it wrote."""

import dataclasses
import importlib
import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import resume

from dmm_jax import boundary
from dmm_jax import records
from experiments import common
from experiments import random_scaling

ROOT = pathlib.Path(__file__).parent.parent
SCRIPTS = [
  path.stem
  for path in sorted((ROOT / 'experiments').glob('*.py'))
  if 'PRESETS = {' in path.read_text()
]
TOY = dict(
  architectures=('fully_connected', 'resnet20'),
  sizes=(6, 12),
  width=8,
  num_networks=20,
  batch_size=8,
  num_predicted=1,
  infinite_draws=10,
  # Searches run in `test_random_scaling_on_real_images`.
  attack='linear',
)


@pytest.fixture(autouse=True)
def empty_figures(monkeypatch):
  resume.draw_quickly(monkeypatch)


def toy(workdir, **more):
  return random_scaling.Config(workdir=str(workdir), **(TOY | more))


def test_random_scaling(tmp_path, capsys):
  summary = random_scaling.run(toy(tmp_path))
  rows = records.load_columns(tmp_path / 'results.npz')
  assert len(rows['distance']) == 2 * 2 * 20 * 3
  assert set(rows['n']) == {108, 432}
  found = rows['status'] == boundary.Status.ESTIMATE
  assert found.all()
  assert np.all(np.isinf(rows['distance'][~found]))
  assert np.all(rows['distance'][found] > 0)
  assert np.unique(rows['network']).size == 20
  # As text: a NaN, where too little was found, equals none.
  written = (tmp_path / 'summary.json').read_text()
  assert json.dumps(summary, indent=2) + '\n' == written
  assert len(summary['rows']) == 6
  dense = summary['rows'][1]
  assert dense['architecture'] == 'fully_connected' and dense['norm'] == '2.0'
  low, high = dense['slope']['interval']
  assert low < dense['slope']['value'] < high
  assert -0.6 < dense['infinite_slope'] < -0.4
  for size in dense['sizes']:
    assert size['images'] == 20 and size['predicted_from'] == 'infinite width'
    assert size['bound_excess'] < 0.3
  for name in ('distance', 'relative', 'law', 'margin', 'excess'):
    for ending in ('png', 'pdf'):
      assert (tmp_path / f'figures/{name}.{ending}').is_file()
  out = capsys.readouterr().out
  assert 'verdict' in out and 'resnet20' in out and 'figures:' in out
  # A finished run shows its results again, and measures nothing.
  before = (tmp_path / 'results.npz').stat().st_mtime_ns
  random_scaling.run(toy(tmp_path))
  assert (tmp_path / 'results.npz').stat().st_mtime_ns == before


@pytest.mark.parametrize(
  'attack', [pytest.param('linear', marks=pytest.mark.slow), 'ray']
)
def test_random_scaling_on_real_images(tmp_path, attack):
  summary = random_scaling.run(
    toy(
      tmp_path,
      architectures=('convolutional',),
      inputs='digits',
      attack=attack,
      num_images=2,
      sizes=(6, 12),
      channels=1,
      norms=(2.0,),
      box=attack == 'ray',
    )
  )
  (row,) = summary['rows']
  assert row['sizes'][0]['images'] == 40 and row['sizes'][0]['networks'] == 20


def test_verdict_follows_the_numbers():
  laws = {'sqrt(n)': -0.5}
  judge = random_scaling.verdict
  assert judge(-0.49, (-0.52, -0.46), laws, None) == 'sqrt(n) holds'
  assert 'within 0.03' in judge(-0.48, (-0.49, -0.47), laws, None)
  far = judge(-0.30, (-0.33, -0.27), laws, -0.31)
  assert far == 'sqrt(n) deviates by +0.200; infinite width holds'
  assert judge(-0.5, (-0.9, -0.1), laws, None) == 'too small to tell'
  assert judge(np.nan, (np.nan, np.nan), laws, None) == 'too small to tell'


@pytest.mark.parametrize(
  'flags, message',
  [
    (dict(architectures=('vgg',)), r'--architectures=vgg.*fully_connected'),
    (dict(norms=(3.0,)), r'--norms=3.0 is unknown; it is one of 1.0, 2.0, inf'),
    (dict(num_networks=0), r'--num_networks=0 is too small; at least 1'),
    (dict(sizes=()), '--sizes is empty'),
    (dict(sizes=(8, 8)), '--sizes names a value twice'),
    (
      dict(architectures=('lenet',), sizes=(2, 8)),
      r'--sizes=2 is too small for lenet, which needs images of at least 4 x 4',
    ),
  ],
)
def test_bad_flags_are_named_and_nothing_is_written(tmp_path, flags, message):
  with pytest.raises(common.FlagError, match=message):
    random_scaling.run(toy(tmp_path / 'run', **flags))
  assert not (tmp_path / 'run').exists()


def test_presets_give_way_to_explicit_flags():
  config = common.with_preset(
    random_scaling.Config, random_scaling.PRESETS, 'paper', num_images=1
  )
  assert config.sizes == tuple(range(12, 61, 4)) and config.num_images == 1


@pytest.mark.parametrize('name', SCRIPTS)
def test_presets_are_valid(name):
  script = importlib.import_module(f'experiments.{name}')
  for preset in script.PRESETS:
    common.check(common.with_preset(script.Config, script.PRESETS, preset))


def command(workdir, *flags):
  config = toy(
    workdir,
    architectures=('fully_connected', 'convolutional'),
    norms=(2.0,),
    sizes=(4, 6),
    batch_size=2,
    infinite_draws=0,
  )
  lines = records.flag_values(config)
  lines.pop('preset')
  given = [f'--{name}={value}' for name, value in lines.items()]
  module = 'experiments.random_scaling'
  return [sys.executable, '-m', module, *given, *flags]


def test_command_line(tmp_path):
  run = lambda *flags: subprocess.run(
    [sys.executable, '-m', 'experiments.random_scaling', *flags],
    capture_output=True,
    text=True,
    cwd=ROOT,
    check=False,
  )
  out = run(f'--workdir={tmp_path}', '--preset=huge')
  assert out.returncode == 2
  assert '--preset=huge is unknown; it is one of quick' in out.stderr
  assert 'Traceback' not in out.stderr and not any(tmp_path.iterdir())
  fields = {v.name: v for v in dataclasses.fields(random_scaling.Config)}
  with pytest.raises(common.FlagError, match='--sizes=eight is not int'):
    common._parse(fields['sizes'], 'eight')
  out = run('--helpshort')
  assert '--num_networks' in out.stdout and 'Networks a size' in out.stdout


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
  assert not (broken / 'summary.json').exists()
  again = command(broken, f'--flagfile={broken}/flags.txt')
  subprocess.run(again, cwd=ROOT, check=True, capture_output=True)
  for name in ('results.npz', 'predictions.npz', 'bounds.npz', 'summary.json'):
    whole = (tmp_path / 'whole' / name).read_bytes()
    assert (broken / name).read_bytes() == whole, name
  assert json.loads((broken / 'run.json').read_text())['finished']
  assert os.listdir(broken / 'figures')
