"""How a process of an experiment ends."""

import pathlib
import signal
import subprocess
import sys
import time

import pytest

ROOT = pathlib.Path(__file__).parents[1]
# A computation that has no end, in the thread that signals go to.
ENDLESS = """
import jax
from experiments.lib import processes
processes.end_on_signals()
below = lambda v: v[0] < 9
spin = jax.jit(lambda x: jax.lax.while_loop(below, jax.numpy.sin, x))
x = jax.numpy.ones(99)
spin.lower(x).compile()
print('ready', flush=True)
jax.block_until_ready(spin(x))
"""


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_signals_end_a_computation_at_once_and_in_one_line(number):
  with subprocess.Popen(
    [sys.executable, '-c', ENDLESS],
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    cwd=ROOT,
  ) as process:
    assert process.stdout.readline() == b'ready\n'
    time.sleep(0.3)
    assert process.poll() is None
    start = time.monotonic()
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
  assert time.monotonic() - start < 5
  assert process.returncode == 128 + number
  (line,) = said.decode().split('\n')[-2:-1]
  assert line.startswith(f'stopped by {number.name}: ')
  assert 'the same command' in line and b'Traceback' not in said


@pytest.mark.slow
def test_closed_streams_and_stripped_docstrings(tmp_path):
  small = (
    '--architectures=fully_connected',
    '--norms=2',
    '--sizes=2,3',
    '--width=4',
    '--num_networks=9',
    f'--workdir={tmp_path}/run',
  )
  script = [sys.executable, '-OO', '-m', 'experiments.random_scaling', *small]
  closed = ['sh', '-c', 'exec "$@" 1>&- 2>&-', 'sh', *script]
  assert subprocess.run(closed, cwd=ROOT, check=False).returncode == 0
  assert (tmp_path / 'run' / 'report.json').exists()
