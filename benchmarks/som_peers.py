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

Seen on two quiet cores: ours/fastersom 1.1 [1.07, 1.52], 1.1 [1.01, 1.14] and
0.38 [0.37, 0.40] from small to large; on one core (--clock=processors
--threads=1) 0.67 [0.58, 0.70], 0.57 [0.54, 0.58] and 0.28 (one round), where it
was 0.96 and 1.16 on middle and large before coarser maps narrowed the search.
Compiling takes 3 to 8 seconds of a core. Quantization errors are equal,
topographic ones 0.014, 0.020 and 0.026 beside 0.016, 0.020 and 0.027.
Torchsom's on the small size is 0.008, with a quantization error of 3.743 beside
3.732; ours are 0.007 and 3.706 after 40 epochs from a width of 5 to 1, one draw
of the codes.

Codes are 20 normal blobs in d dimensions, standardized. Writes summary.json.
"""

import multiprocessing
import os
import pathlib
import time

from absl import app
from absl import flags

from benchmarks import _som_report
from benchmarks import _som_sides
from benchmarks import printing
from dmm_jax import records

_OUT_DIR = flags.DEFINE_string('out_dir', 'runs/som_peers', 'Results.')
_SIZES = flags.DEFINE_list('sizes', ['small', 'middle', 'large'], 'Which.')
_SIDES = flags.DEFINE_list(
  'sides', ['ours', 'fastersom', 'minisom', 'torchsom'], 'Which; also xpysom.'
)
_REPEATS = flags.DEFINE_integer('repeats', 5, 'Rounds that are timed.')
_THREADS = flags.DEFINE_integer('threads', os.cpu_count(), 'Cores, each side.')
_CLOCK = flags.DEFINE_enum(
  'clock',
  'wall',
  ['wall', 'processors'],
  'Time that passes; or, where others work too, time that processors work for '
  'a side, with --threads=1.',
)
_MAX_STEPS = flags.DEFINE_integer(
  'max_steps', 50_000, 'Codes times epochs of the slow sides.'
)


class Workers:
  """The sides that are installed, each in its own process."""

  def __init__(self, names, threads, clock):
    context = multiprocessing.get_context('spawn')
    self.pipes, self._processes = {}, []
    for name in names:
      pipe, end = context.Pipe()
      process = context.Process(
        target=_som_sides.serve,
        args=(end, name, threads, clock),
        daemon=True,
      )
      process.start()
      if missing := pipe.recv():
        print(f'without {name} ({missing}); see benchmarks/requirements.txt')
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


def main(argv):
  del argv
  workers = Workers(_SIDES.value, _THREADS.value, _CLOCK.value)
  rows, out_dir = [], pathlib.Path(_OUT_DIR.value)
  for name in _SIZES.value:
    job = _som_report.draw(_som_report.SIZES[name])
    found = _som_report.compare(
      workers.run, list(workers.pipes), job, _REPEATS.value, _MAX_STEPS.value
    )
    rows += _som_report.summarize(name, *found, job[0])
    load = os.getloadavg()
    records.write_json(
      out_dir / 'summary.json',
      dict(rows=rows, cores=os.cpu_count(), load=load),
    )
    printing.print_table(_som_report.HEADER, _som_report.table(rows))
    print(f'load {load[0]:.1f} of {os.cpu_count()} cores', flush=True)
  workers.close()


if __name__ == '__main__':
  app.run(main)
