"""Several processes are one: the same numbers, the same files, one end."""

import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from dmm_jax import checkpoints
from dmm_jax import records
from experiments.lib import flags
from experiments.lib import processes

ROOT = pathlib.Path(__file__).parent.parent
DISTANCES = [
  'experiments.boundary_distances',
  '--preset=quick',
  '--epochs=3',
  '--num_examples=30',
  '--width=12',
  '--num_trained=2',
  '--num_untrained=1',
]
TRAINING = [
  'experiments.train_classifier',
  '--preset=quick',
  '--num_train=600',
  '--num_test=99',
]
COUNTS = {'gradients', 'forwards'}  # One more where rounding decides.

# What each process does in `test_processes_get_the_same_rows`.
PROGRAM = """
import pathlib, sys
import jax, jax.numpy as jnp, numpy as np
from dmm_jax import data, parallel, records
from experiments.lib import processes

processes.join(processes.Processes(2, int(sys.argv[1]), sys.argv[2]))
assert jax.device_count() == 4 and jax.local_device_count() == 2
here = pathlib.Path(sys.argv[3])
xs = np.arange(37.0)
key = parallel.replicate(jax.random.key(1))
weights = parallel.replicate({'a': np.array([1, np.nan]), 'b': jnp.ones(2)})
again = parallel.replicate(weights)
fn = lambda x, key, weights: {
  'row': jnp.stack([x, weights['b'][0]]),
  'noise': jax.random.normal(jax.random.fold_in(key, x.astype(int))),
  'steps': jax.lax.while_loop(lambda v: v > 1, lambda v: v / 2, x),
}
out = parallel.map_examples(fn, (xs,), shared=(key, again), batch_size=10)
mean = jax.jit(lambda v: jnp.mean(parallel.constrain(v)))(np.arange(8.0))
assert float(mean) == 3.5
# Of images on disk each process reads its own rows alone, 8 a batch padded.
asked = []
read = lambda keys: (asked.extend(keys), [xs[k : k + 1] for k in keys])[1]
column = data.Column(read, np.arange(37), (1,))
twice = parallel.map_examples(lambda x: 2 * x, (column,), batch_size=8)
np.testing.assert_array_equal(twice[:, 0], 2 * xs)
assert len(asked) == 20
# Found at different times, or not everywhere, files do not part them.
assert records.sync_min(3 + jax.process_index()) == 3
names = ['0', '1', '2']
asked = []
def compute(done):
  asked.append(done)
  for i in range(done, 3):
    yield {'x': np.array([i])}
def load(run_dir, name):  # The other process does not see the last part.
  if jax.process_index() == 1 and name == '1':
    return None
  return records.load_chunk(run_dir, name)
for name in names[:2]:
  records.save_chunk(here, name, {'x': np.array([int(name)])})
records.sync_min(0)
parts = list(records.resume(here, names, compute, load=load))
assert asked == [1] and [int(p['x'][0]) for p in parts] == [0, 1, 2]
records.log(here, process=jax.process_index())
np.savez(here / f'seen-{jax.process_index()}.npz', **out)
print('table', flush=True)
"""


def environment(devices):
  return os.environ | {
    'JAX_NUM_CPU_DEVICES': str(devices),
    'PYTHONPATH': str(ROOT),
  }


def start(*command, devices=2, **options):
  return subprocess.Popen(
    [sys.executable, *map(str, command)],
    cwd=ROOT,
    env=environment(devices),
    text=True,
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    **options,
  )


def free_port():
  with socket.socket() as listening:
    listening.bind(('127.0.0.1', 0))
    return listening.getsockname()[1]


def start_two(module, *flags):
  port = free_port()
  flags = [*flags, '--num_processes=2', f'--coordinator=127.0.0.1:{port}']
  return [
    start('-m', module, *flags, f'--process_id={i}', process_group=0)
    for i in range(2)
  ]


def finish(processes, seconds=300):
  """Returns what the processes said; they have to end well."""
  said = []
  try:
    for process in processes:
      said.append(process.communicate(timeout=seconds)[0])
      assert process.returncode == 0, said[-1]
  finally:
    for process in processes:
      process.kill()
  return said


def compare(one, other):
  for name in ('results', 'points', 'networks'):
    path = one / f'{name}.npz'
    if not path.exists():
      continue
    columns = records.load_columns(path)
    found = records.load_columns(other / f'{name}.npz')
    assert columns.keys() == found.keys()
    for column in columns.keys() - COUNTS:
      check = np.testing.assert_array_equal
      if columns[column].dtype.kind == 'f':
        check = lambda a, b: np.testing.assert_allclose(a, b, 1e-3, 1e-5)
      check(columns[column], found[column])


def files(run_dir):
  found = (p.relative_to(run_dir) for p in run_dir.rglob('*') if p.is_file())
  return {str(p) for p in found if p.parts[0] != 'checkpoints'}


def test_processes_get_the_same_rows(tmp_path):
  where = f'127.0.0.1:{free_port()}'
  processes = [start('-c', PROGRAM, i, where, tmp_path) for i in range(2)]
  said = finish(processes, seconds=120)
  assert 'table' in said[0] and 'table' not in said[1]
  seen = [dict(np.load(tmp_path / f'seen-{i}.npz')) for i in range(2)]
  np.testing.assert_equal(*seen)
  xs = np.arange(37.0, dtype=np.float32)
  np.testing.assert_array_equal(seen[0]['row'][:, 0], xs)
  assert np.all(seen[0]['steps'] <= 1)
  keys = [jax.random.fold_in(jax.random.key(1), i) for i in range(37)]
  noise = [jax.random.normal(key) for key in keys]
  np.testing.assert_allclose(seen[0]['noise'], noise, rtol=1e-5)
  logged = records.read_log(tmp_path)
  assert [row['unit'] for row in logged if 'unit' in row] == ['1', '2']
  assert [row['process'] for row in logged if 'process' in row] == [0]


@pytest.mark.parametrize(
  'asked, message',
  [
    ((2, 0, ''), '--coordinator= is not host:port'),
    ((2, 0, 'host'), '--coordinator=host is not host:port'),
    ((2, 2, 'host:1'), r'--process_id=2 has to be 0 to 1'),
    ((2, -1, 'host:1'), r'--process_id=-1 has to be'),
    ((1, 0, ''), 'need --num_processes of 2 or more'),
    ((0, -1, 'host:1'), 'need --num_processes of 2 or more'),
    ((-1, -1, ''), '--num_processes=-1 is too small'),
  ],
)
def test_flags_that_do_not_fit_are_named(asked, message):
  with pytest.raises(flags.FlagError, match=message):
    processes.join(processes.Processes(*asked))


def test_one_process_joins_nothing():
  processes.join(processes.Processes())
  assert not jax.distributed.is_initialized()


@pytest.mark.slow
def test_distances_of_two_processes_are_those_of_one(tmp_path):
  one, two = tmp_path / 'one', tmp_path / 'two'
  finish([start('-m', *DISTANCES, f'--workdir={one}')])
  said = finish(start_two(*DISTANCES, f'--workdir={two}'))
  compare(one, two)
  assert files(one) == files(two)
  assert 'figures:' in said[0] and 'figures:' not in said[1]
  assert 'unit/s' in said[0] and 'unit/s' not in said[1]
  devices = records.read_json(two / 'run.json', sealed=True)['devices']
  assert devices['count'] == 4 and devices['processes'] == 2
  # Other flags are refused by all; a finished run is shown again.
  for process in start_two(*DISTANCES, f'--workdir={two}', '--seed=1'):
    said = process.communicate(timeout=120)[0]
    assert process.returncode == 2 and '--seed=0 there, 1 now' in said
  said = finish(start_two(*DISTANCES, f'--workdir={two}'))
  assert 'figures:' in said[0]


@pytest.mark.slow
def test_processes_with_other_flags_measure_nothing(tmp_path):
  port = free_port()
  given = [*DISTANCES, f'--workdir={tmp_path}/run', '--num_processes=2']
  given.append(f'--coordinator=127.0.0.1:{port}')
  both = [
    start('-m', *given, f'--process_id={i}', f'--seed={i}') for i in range(2)
  ]
  for process in both:
    said = process.communicate(timeout=120)[0]
    assert process.returncode == 2 and 'were given different flags' in said
  assert not (tmp_path / 'run').exists()


@pytest.mark.slow
def test_sigterm_ends_each_of_two_processes_at_once(tmp_path):
  both = start_two(*DISTANCES, '--batch_size=1', f'--workdir={tmp_path}')
  while not set(tmp_path.glob('chunks/*.npz')):
    assert all(p.poll() is None for p in both)
    time.sleep(0.01)
  for process in both:
    process.send_signal(signal.SIGTERM)
  for process in both:
    said = process.communicate(timeout=5)[0]
    assert process.returncode == 128 + signal.SIGTERM
    assert 'stopped by SIGTERM: what is finished is kept' in said


@pytest.mark.slow
def test_training_of_two_processes_is_that_of_one(tmp_path):
  one, two = tmp_path / 'one', tmp_path / 'two'
  finish([start('-m', *TRAINING, f'--workdir={one}', devices=4)])
  finish(start_two(*TRAINING, f'--workdir={two}'))
  compare(one, two)
  assert files(one) == files(two)
  there = [path / 'checkpoints' for path in (one, two)]
  assert checkpoints.steps(there[0]) == checkpoints.steps(there[1])
  states = [checkpoints.read(path).state['params'] for path in there]
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, 1e-4, 1e-6), *states
  )


@pytest.mark.slow
@pytest.mark.parametrize(
  'command, parts',
  [
    ([*DISTANCES, '--batch_size=1'], 'chunks/*[0-9].npz'),
    ([*TRAINING, '--epochs=40'], 'checkpoints/[0-9]*'),
  ],
)
def test_a_death_ends_the_run_and_it_goes_on(tmp_path, command, parts):
  whole, broken = tmp_path / 'whole', tmp_path / 'broken'
  finish([start('-m', *command, f'--workdir={whole}', devices=4)])
  command = [*command, f'--workdir={broken}']
  for victim in (1, 0):
    seen = set(broken.glob(parts))
    both = start_two(*command)
    while not set(broken.glob(parts)) - seen:
      assert all(p.poll() is None for p in both)
      time.sleep(0.01)
    both[victim].send_signal(signal.SIGKILL)
    other = both[1 - victim]
    said = other.communicate(timeout=3 * processes._SILENCE)[0]
    assert other.returncode not in (0, None)
    assert 'detected fatal errors' in said
    if victim:  # The first one is named by its role.
      assert 'stopped sending heartbeats):\n1\n' in said
      assert 'error: process 0 of 2 cannot reach another one' in said
    both[victim].communicate()
    assert not (broken / 'report.json').exists()
  finish(start_two(*command))
  compare(whole, broken)
  # What two began, one goes on with, and the reverse.
  (broken / 'results.npz').unlink()
  finish([start('-m', *command)])
  compare(whole, broken)
