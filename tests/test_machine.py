"""Compiled programs that are kept: where, for whom, and what if they cannot."""

import os
import pathlib
import subprocess
import sys

import jax
import pytest

from experiments.lib import machine


@pytest.fixture
def unset():
  """No folder, as without the environment's variable; then the one before."""
  before = jax.config.jax_compilation_cache_dir
  jax.config.update('jax_compilation_cache_dir', None)
  yield lambda: jax.config.jax_compilation_cache_dir
  jax.config.update('jax_compilation_cache_dir', before)


def test_each_kind_of_processor_has_its_folder(tmp_path, unset, monkeypatch):
  info = tmp_path / 'cpuinfo'
  monkeypatch.setattr(machine, 'CPU_INFO', info)
  names = set()
  for flags, clock in (('avx avx2', '1'), ('avx avx2', '2'), ('avx', '2')):
    info.write_text(f'model name\t: x\nMHz: {clock}\nflags\t: {flags}\n\nb: 1')
    names.add(machine.processor())
  assert len(names) == 2
  machine.keep_programs(machine.Machine(str(tmp_path / 'kept')))
  found = pathlib.Path(unset())
  assert found.parent == tmp_path / 'kept' and found.is_dir()
  assert found.name == f'programs-{machine.processor()}'


def test_who_wants_none_or_has_chosen_gets_none(tmp_path, unset):
  machine.keep_programs(machine.Machine(''))
  assert unset() is None
  jax.config.update('jax_compilation_cache_dir', str(tmp_path / 'mine'))
  machine.keep_programs(machine.Machine(str(tmp_path / 'kept')))
  assert unset() == str(tmp_path / 'mine')
  assert not (tmp_path / 'kept').exists()


def test_a_folder_that_cannot_be_is_named(tmp_path, unset, capsys):
  (tmp_path / 'file').write_text('')
  machine.keep_programs(machine.Machine(str(tmp_path / 'file')))
  assert unset() is None
  said = capsys.readouterr().err
  assert 'are not kept' in said and str(tmp_path / 'file') in said


@pytest.mark.slow
def test_a_second_run_finds_the_programs_of_the_first(tmp_path):
  """And one whose programs are damaged ends with the same bytes."""
  environment = dict(os.environ, HOME=str(tmp_path), JAX_PLATFORMS='cpu')
  for name in ('JAX_COMPILATION_CACHE_DIR', 'XLA_FLAGS'):
    environment.pop(name, None)

  def run(name):
    command = [sys.executable, '-m', 'experiments.random_scaling']
    command += ['--preset=quick', '--sizes=2,3', '--num_networks=2']
    command += ['--architectures=fully_connected', '--norms=2']
    command.append(f'--workdir={tmp_path / name}')
    subprocess.run(command, env=environment, check=True, capture_output=True)
    return (tmp_path / name / 'results.npz').read_bytes()

  whole = run('whole')
  kept = list((tmp_path / '.cache/dmm_jax').glob('programs-*/*-cache'))
  assert kept
  times = {path: path.stat().st_mtime_ns for path in kept}
  assert run('again') == whole
  assert {path: path.stat().st_mtime_ns for path in kept} == times
  for path in kept:
    path.write_bytes(path.read_bytes()[:100])
  assert run('damaged') == whole
