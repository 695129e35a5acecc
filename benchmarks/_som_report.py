"""What is compared of maps, and the table of it; no flags, for tests."""

from typing import NamedTuple

import jax
import numpy as np

from benchmarks import _som_sides
from dmm_jax import som

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
