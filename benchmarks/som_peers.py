"""How good are our self-organising maps, and how fast, beside other libraries?

`som.fit` beside fastersom, XPySom, MiniSom and torchsom on the CPU: the same
codes, initial codebook and width in every epoch, one judge. Peers live in an
environment of their own; the library never needs them:

  python -m pip install -r benchmarks/requirements.txt \\
    --extra-index-url https://download.pytorch.org/whl/cpu

  python -m benchmarks.som_peers
  python -m benchmarks.som_peers --sizes=small --sides=ours,fastersom

Each side runs in its own process, since thread pools of two libraries in one
get in each other's way; only one works at a time, by turns. `first` is the
first call, with compilation; then --repeats rounds, of which `seconds` is the
median and `ours/side` the median over rounds of our time over that side's, with
the least and the largest. The judge takes errors of each codebook by our own
functions, which the tests hold to MiniSom's.

MiniSom and torchsom take one code, or 32, after the other: where codes times
epochs exceed --max_steps they get a part of the codes in one epoch, their time
is scaled to all (marked ~), and no error is given. MiniSom's rate is its
default, torchsom's its documentation's.

Codes are 20 normal blobs in d dimensions, standardized. Writes summary.json.
"""

import multiprocessing
import os
import pathlib
import time
from typing import NamedTuple

from absl import app
from absl import flags
import jax
import numpy as np

from benchmarks import _som_sides
from dmm_jax import records
from dmm_jax import som
from experiments import common

_OUT_DIR = flags.DEFINE_string('out_dir', 'runs/som_peers', 'Results.')
_SIZES = flags.DEFINE_list('sizes', ['small', 'middle', 'large'], 'Which.')
_SIDES = flags.DEFINE_list(
  'sides', ['ours', 'fastersom', 'minisom', 'torchsom'], 'Which; also xpysom.'
)
_REPEATS = flags.DEFINE_integer('repeats', 5, 'Rounds that are timed.')
_THREADS = flags.DEFINE_integer('threads', os.cpu_count(), 'Cores, each side.')
_MAX_STEPS = flags.DEFINE_integer(
  'max_steps', 50_000, 'Codes times epochs of the slow sides.'
)
HEADER = 'size side first seconds ours/side QE QE/best TE'.split()


class Size(NamedTuple):
  """Codes, features, units along a side, epochs."""

  n: int
  d: int
  side: int
  epochs: int


SIZES = {
  'small': Size(4_000, 64, 20, 10),
  'middle': Size(20_000, 512, 20, 10),
  'large': Size(50_000, 512, 50, 10),
}


def draw(size: Size, seed: int = 0):
  """Returns codes, the initial codebook and the width in each epoch."""
  rng = np.random.default_rng(seed)
  centres = rng.normal(size=(20, size.d))
  xs = centres[rng.integers(0, 20, size.n)]
  xs = xs + rng.normal(size=xs.shape) / 2
  xs = ((xs - xs.mean(0)) / xs.std(0)).astype(np.float32)
  rows = rng.choice(size.n, size.side**2, replace=False)
  begin = xs[rows].reshape(size.side, size.side, size.d)
  ends = size.side / 2, 1.0
  return xs, begin, np.geomspace(*ends, size.epochs).tolist()


def part(name: str, job: tuple, max_steps: int):
  """What a side is given of a job, and by what its time is to be scaled."""
  xs, begin, sigmas = job
  steps = len(xs) * len(sigmas)
  if name not in _som_sides.ONLINE or steps <= max_steps:
    return job, 1.0
  few = min(len(xs), max(max_steps // 20, 1))
  return (xs[:few], begin, sigmas[:1]), steps / few


class Workers:
  """The sides that are installed, each in its own process."""

  def __init__(self, names, threads):
    context = multiprocessing.get_context('spawn')
    self.pipes, self._processes = {}, []
    for name in names:
      pipe, end = context.Pipe()
      process = context.Process(
        target=_som_sides.serve, args=(end, name, threads), daemon=True
      )
      process.start()
      if missing := pipe.recv():
        print(
          f'without {name} ({missing}); see benchmarks/requirements_som.txt'
        )
        continue
      self.pipes[name] = pipe
      self._processes.append(process)

  def run(self, name, job):
    """Returns the seconds that a side took, and its codebook."""
    # Threads of the last side may spin for a while after their work.
    time.sleep(0.5)
    self.pipes[name].send(job)
    return self.pipes[name].recv()

  def close(self):
    for pipe in self.pipes.values():
      pipe.send(None)
    for process in self._processes:
      process.join()


def compare(run, names, job, repeats, max_steps):
  """Returns seconds by side, the first call's first, and the codebooks.

  Args:
    run: `run(name, job) -> (seconds, codebook)`.
    names: the sides.
    job: codes, initial codebook, widths.
    repeats: rounds after the first.
    max_steps: of slow sides, which run once and once more.

  Returns:
    `{name: [1 + repeats]}`, NaN where a side did not run again, and
    `{name: codebook}`, None of sides that got a part of the codes.
  """
  seconds = {name: [] for name in names}
  codebooks = {}
  for repeat in range(1 + repeats):
    for name in names:
      own, scale = part(name, job, max_steps)
      if name in _som_sides.ONLINE and repeat > 1:
        seconds[name].append(np.nan)
        continue
      taken, codebook = run(name, own)
      seconds[name].append(taken * scale)
      codebooks[name] = codebook if scale == 1 else None
  return seconds, codebooks


def summarize(size_name, seconds, codebooks, xs):
  """Returns a row of numbers for each side."""
  rows = []
  for name, times in seconds.items():
    row = dict(size=size_name, side=name, first=times[0], times=times[1:])
    row['seconds'] = float(np.nanmedian(times[1:]))
    row['scaled'] = codebooks[name] is None
    ratios = np.divide(seconds.get('ours', np.nan), times)[1:]
    row['ratio'] = [
      float(f(ratios)) for f in (np.nanmedian, np.nanmin, np.nanmax)
    ]
    row['quantization'] = row['topographic'] = None
    if codebooks[name] is not None:
      trained = som.Map(jax.numpy.asarray(codebooks[name], np.float32))
      row['quantization'] = float(som.quantization_error(trained, xs))
      row['topographic'] = float(som.topographic_error(trained, xs))
    rows.append(row)
  known = [r['quantization'] for r in rows if r['quantization'] is not None]
  for row in rows:
    value = row['quantization']
    row['over_best'] = None if value is None else value / min(known)
  return rows


def table(rows):
  """Returns the lines of the printed table."""
  text = lambda v, spec: '-' if v is None else format(v, spec)
  lines = []
  for r in rows:
    mark = '~' if r['scaled'] else ''
    middle, low, high = r['ratio']
    lines.append(
      [
        r['size'],
        r['side'],
        f'{mark}{r["first"]:.3g}',
        f'{mark}{r["seconds"]:.3g}',
        f'{middle:.3g} [{low:.3g}, {high:.3g}]',
        text(r['quantization'], '.4f'),
        text(r['over_best'], '.4f'),
        text(r['topographic'], '.4f'),
      ]
    )
  return lines


def main(argv):
  del argv
  workers = Workers(_SIDES.value, _THREADS.value)
  rows, out_dir = [], pathlib.Path(_OUT_DIR.value)
  for name in _SIZES.value:
    job = draw(SIZES[name])
    found = compare(
      workers.run, list(workers.pipes), job, _REPEATS.value, _MAX_STEPS.value
    )
    rows += summarize(name, *found, job[0])
    load = os.getloadavg()
    records.write_json(
      out_dir / 'summary.json',
      dict(rows=rows, cores=os.cpu_count(), load=load),
    )
    common.print_table(HEADER, table(rows))
    print(f'load {load[0]:.1f} of {os.cpu_count()} cores', flush=True)
  workers.close()


if __name__ == '__main__':
  app.run(main)
