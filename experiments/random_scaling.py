"""How does the distance to a random network's boundary shrink with dimension?

De Palma, Kiani, Lloyd (2021), https://arxiv.org/abs/2004.05923: in random deep
networks the l^p distance of any input from the decision boundary scales as
||x||_p / sqrt(n), n the input dimension. Draws random networks of each
architecture, gives each its own image, finds the distance to the boundary, and
puts it beside what the infinitely wide network predicts without any fit.

  python -m experiments.random_scaling
  python -m experiments.random_scaling --preset=paper --workdir=runs/paper

The first takes 5 minutes on 2 CPU cores, quick one; paper (the authors' 13
sizes, 300 networks x 10 images) is meant for a GPU. A run killed at any moment
goes on where it was when started again.

To expect: slopes of log(median d_p / ||x||_p) on log n near -1/2 for p = 2 and
inf. For p = 1 sqrt(n / ln n) takes the place of sqrt(n) in the numerator.
Average pooling (lenet) makes all distances about three times larger. Real
images have pixels at the bounds, which the box lets move one way only: that
steepens the infinitely wide network's own slopes by 0.03 to 0.1 (compare
--box=false).
DeepFool overshoots where margins curve, at small n; --attack=projection does
not, at four times the cost: lenet deviates in linf at n = 192 for that reason
(its one-gradient estimates do not).

Verdict on each architecture and norm, by a rule fixed here: the law "holds" if
its slope lies in the 95 % interval of ours, "holds within 0.03" if it differs
from our slope by no more than that, else "deviates"; with an interval wider
than 0.3 the run is "too small to tell". The same rule compares ours with the
slope that the infinitely wide network has over the same sizes.
"""

import dataclasses
import functools
import time
import zlib

import jax
import numpy as np
from scipy import stats
import tqdm

from dmm_jax import boundary
from dmm_jax import data
from dmm_jax import nngp
from dmm_jax import parallel
from dmm_jax import plots
from dmm_jax import random_nets
from dmm_jax import records
from experiments import common

# Medians that the authors released for their ResNet20 (300 networks x 10
# uniform images, the best of 8 to 12 attacks): n, l1, l2, linf.
RELEASED = (
  (432, 5.307, 0.4980, 0.03963),
  (768, 5.377, 0.5962, 0.02508),
  (1200, 7.174, 0.5602, 0.02004),
  (1728, 8.561, 0.5912, 0.01534),
  (2352, 9.677, 0.5428, 0.01617),
  (3072, 11.089, 0.5508, 0.01374),
  (3888, 12.020, 0.5905, 0.01161),
  (4800, 12.732, 0.5548, 0.01002),
  (5808, 14.191, 0.6285, 0.00934),
  (6912, 15.471, 0.5729, 0.00775),
  (8112, 16.524, 0.5008, 0.00731),
  (9408, 17.714, 0.5362, 0.00690),
  (10800, 19.033, 0.5917, 0.00669),
)


@dataclasses.dataclass(frozen=True)
class Config:
  preset: str = common.flag(
    'default', 'Values for the flags that are not given: quick, default, paper.'
  )
  workdir: str = common.flag('runs/random_scaling', 'Run directory.')
  seed: int = common.flag(0, 'Seed of every random draw.')
  architectures: tuple[str, ...] = common.flag(
    tuple(random_nets.ARCHITECTURES),
    'Random networks to draw.',
    choices=tuple(random_nets.ARCHITECTURES),
  )
  norms: tuple[float, ...] = common.flag(
    (1.0, 2.0, np.inf), 'Norms of the distance.', choices=(1.0, 2.0, np.inf)
  )
  sizes: tuple[int, ...] = common.flag(
    (8, 16, 32), 'Sides of the images; n = channels side^2.', least=1
  )
  inputs: str = common.flag(
    'uniform',
    'Pixels uniform in [0, 1], or real images resized to each side.',
    choices=('uniform', 'digits', 'mnist', 'cifar10'),
  )
  data_dir: str = common.flag('', 'Of tensorflow-datasets, for mnist, cifar10.')
  noise: float = common.flag(
    1 / 256,
    'Uniform noise blended into real images: pixels that are exactly 0 put '
    'whole patches on the kink of every ReLU, where there is no gradient.',
    least=0,
  )
  channels: int = common.flag(3, 'Colour channels.', choices=(1, 3))
  width: int = common.flag(
    0,
    "Of the first hidden layer; 0 is the paper's (100, 128, 128, 32).",
    least=0,
  )
  num_networks: int = common.flag(150, 'Networks a size.', least=1)
  num_images: int = common.flag(
    1, 'Images a network; those of one network are correlated.', least=1
  )
  attack: str = common.flag(
    'deepfool',
    'How the boundary is found: the one-gradient estimate, straight along its '
    'direction, iterated until something is found, or until it is nearest.',
    choices=('linear', 'ray', 'deepfool', 'projection'),
  )
  max_gradients: int = common.flag(50, 'Budget of one search.', least=2)
  box: bool = common.flag(True, 'Keep perturbed pixels in [0, 1].')
  batch_size: int = common.flag(50, 'Networks a saved chunk.', least=1)
  num_predicted: int = common.flag(
    4, 'Images whose infinite-width prediction is computed.', least=1
  )
  infinite_draws: int = common.flag(
    500, 'Infinitely wide dense networks drawn along rays, n <= 1500.', least=0
  )


PRESETS = {
  'quick': dict(
    workdir='runs/random_scaling_quick',
    architectures=('fully_connected', 'convolutional'),
    sizes=(8, 12, 16),
    width=32,
    num_networks=150,
    num_predicted=2,
    infinite_draws=100,
  ),
  'default': {},
  'paper': dict(
    workdir='runs/random_scaling_paper',
    architectures=('resnet20', 'fully_connected', 'convolutional', 'lenet'),
    sizes=tuple(range(12, 61, 4)),
    num_networks=300,
    num_images=10,
    num_predicted=2,
  ),
}


def run(config: Config) -> dict:
  """Runs the experiment, and returns what it wrote to summary.json."""
  common.check(config)
  check_sizes(config)
  run_dir = records.open_run(
    config.workdir, config, 'experiments.random_scaling'
  )
  if not (run_dir / 'results.npz').exists():
    collect(config, run_dir)
  summary = summarize(config, run_dir)
  records.write_json(run_dir / 'summary.json', summary)
  figures = plots.random_scaling(run_dir)
  records.finish_run(run_dir)
  report(summary)
  print(f'\nfigures: {", ".join(map(str, figures))}')
  return summary


def check_sizes(config):
  for name in config.architectures:
    least = random_nets.ARCHITECTURES[name].min_size
    if min(config.sizes) < least:
      raise common.FlagError(
        f'--sizes={min(config.sizes)} is too small for {name}, which needs '
        f'images of at least {least} x {least}'
      )


# --- Measuring -------------------------------------------------------------


def collect(config, run_dir):
  """Measures and predicts, unit by unit, and writes the columns.

  results.npz: one row a (network, image, norm); predictions.npz: the law's
  scale by image; bounds.npz: law and flip bound by radius; infinite.npz: draws
  of infinitely wide networks. results.npz comes last: it ends the work.
  """
  units = [(a, s) for a in config.architectures for s in config.sizes]
  known = [u for u in units if random_nets.ARCHITECTURES[u[0]].infinite]
  drawn = [
    size
    for size in config.sizes
    if 'fully_connected' in config.architectures
    and config.infinite_draws
    and config.channels * size**2 <= 1500
  ]
  steps = len(units) * len(chunk_starts(config)) + len(known) + len(drawn)
  # Two threads: one unit compiles, on one core, while another one runs.
  with (
    tqdm.tqdm(total=steps, unit='step', smoothing=0.05) as bar,
    common.workers(2) as pool,
  ):
    jobs = {
      'predictions': [
        pool.submit(predict_unit, config, run_dir, *u, bar) for u in known
      ],
      'infinite': [
        pool.submit(draw_unit, config, run_dir, s, bar) for s in drawn
      ],
      'results': [
        pool.submit(measure_unit, config, run_dir, *u, bar) for u in units
      ],
    }
    tables = {
      name: [job.result() for job in group] for name, group in jobs.items()
    }
  tables['bounds'] = [bounds for _, bounds in tables['predictions']]
  tables['predictions'] = [scales for scales, _ in tables['predictions']]
  for name in ('predictions', 'bounds', 'infinite', 'results'):
    if tables[name]:
      table = records.concatenate(tables[name])
      records.save_columns(run_dir / f'{name}.npz', table)


def chunk_starts(config):
  return range(0, config.num_networks, config.batch_size)


def measure_unit(config, run_dir, name, size, bar):
  """One architecture at one size, chunk by chunk."""
  starts = chunk_starts(config)
  label = lambda start: f'{name}-{size}-{start:06d}'
  parts = []
  while len(parts) < len(starts):
    part = records.load_chunk(run_dir, label(starts[len(parts)]))
    if part is None:
      break
    parts.append(part)
    bar.update()
  starts = starts[len(parts) :]
  if not starts:
    return records.concatenate(parts)
  bar.set_description(f'{name} {size}x{size}')
  pool, draw = input_source(config, size)
  sample = random_nets.sampler(
    random_nets.ARCHITECTURES[name].module(config.width),
    exponents=config.norms,
    bounds=(0.0, 1.0) if config.box else None,
    method=config.attack,
    max_gradients=config.max_gradients,
  )

  def one(network, pool):
    key_weights, key_inputs = unit_keys(config, name, size, network)
    return sample(key_weights, draw(key_inputs, pool))

  batches = parallel.iterate_batches(
    one,
    (np.arange(starts[0], config.num_networks),),
    shared=(pool,),
    batch_size=config.batch_size,
    # Every network has its own weights: nothing is gained by batching on CPU.
    lanes=1 if jax.default_backend() == 'cpu' else None,
  )
  tick = time.perf_counter()
  for start, found in zip(starts, batches, strict=True):
    part = to_rows(config, name, size, start, found)
    records.save_chunk(run_dir, label(start), part)
    parts.append(part)
    bar.update()
    tock = time.perf_counter()
    # The first of a unit's times includes compilation.
    seconds = round(tock - tick, 4)
    records.log(run_dir, unit=label(start), seconds=seconds)
    tick = tock
  return records.concatenate(parts)


def input_source(config, size):
  """Returns `(pool, draw)`; `draw(key, pool)` gives one network's images."""
  shape = (config.num_images, size, size, config.channels)
  if config.inputs == 'uniform':
    return np.zeros(1, np.float32), lambda key, _: jax.random.uniform(
      key, shape
    )
  xs, _ = data.load(config.inputs, 'train', config.data_dir or None)
  pool = data.resize(xs[:2000], size, config.channels)

  def draw(key, pool):
    key_rows, key_noise = jax.random.split(key)
    images = jax.random.choice(key_rows, pool, shape[:1])
    noise = config.noise * jax.random.uniform(key_noise, shape)
    return (1 - config.noise) * images + noise

  return pool, draw


def unit_keys(config, name, size, network):
  """Keys for weights and inputs, independent of what else the run measures."""
  key = jax.random.key(config.seed)
  for part in (zlib.crc32(name.encode()), size, network):
    key = jax.random.fold_in(key, part)
  return jax.random.split(key)


def to_rows(config, name, size, start, found):
  """Flattens `Distances [networks, images, norms]` into columns."""
  shape = found.distance.shape
  spread = lambda v, axis: np.broadcast_to(
    np.expand_dims(v, tuple(i for i in range(3) if i != axis)), shape
  ).ravel()
  return {
    'architecture': np.full(found.distance.size, name, 'U16'),
    'n': np.full(found.distance.size, config.channels * size**2, np.int32),
    'norm': spread(np.array(config.norms, np.float32), 2),
    'network': spread(np.arange(start, start + shape[0], dtype=np.int32), 0),
    'image': spread(np.arange(shape[1], dtype=np.int32), 1),
    'margin': np.repeat(found.margin.ravel(), shape[2]),
    **{
      field: getattr(found, field).ravel()
      for field in (
        'distance',
        'estimate',
        'input_norm',
        'status',
        'gradients',
        'forwards',
      )
    },
  }


# --- Predicting ------------------------------------------------------------


def predict_unit(config, run_dir, name, size, bar):
  """`(scales, bounds)` at the first images that are measured."""
  label = f'infinite-{name}-{size}'
  part = records.load_chunk(run_dir, label)
  if part is None:
    bar.set_description(f'infinite {name} {size}x{size}')
    part = predict_rows(config, name, size)
    records.save_chunk(run_dir, label, part)
  bar.update()
  is_bound = part.pop('is_bound')
  return tuple(
    {column: values[keep] for column, values in part.items()}
    for keep in (~is_bound, is_bound)
  )


def predict_rows(config, name, size):
  kernel_fn = infinite(name)
  pool, draw = input_source(config, size)
  keys = [
    unit_keys(config, name, size, i)[1] for i in range(config.num_predicted)
  ]
  xs = [np.asarray(draw(key, pool))[0] for key in keys]
  laws = []
  for x in xs:
    # Pooling alone couples pixels; without it one probe is exact.
    probes = 8 if name == 'lenet' else 1
    variance = nngp.gradient_variance(kernel_fn, x, num_probes=probes)
    gain = kernel_fn.gain or x.size * float(variance.max())
    sigma = nngp.output_variance(kernel_fn, x) ** 0.5
    laws.append((x, sigma, np.sqrt(variance).ravel(), gain))
  rows = []
  for p in config.norms:
    scales = [
      nngp.scale_of_gradient(
        sigma, root, x, p, bounds=(0.0, 1.0) if config.box else None
      )
      for x, sigma, root, _ in laws
    ]
    for x, scale in zip(xs, scales, strict=True):
      rows.append((False, p, scale, np.linalg.norm(x.ravel(), p), 0, 0, 0))
    # Radii up to the law's 99.7 % quantile.
    radii = 3 * np.mean(scales) * np.arange(1, 61) / 60
    bound = np.mean(
      [
        nngp.flip_bound(kernel_fn, x, radii, p, gain=gain, variance=sigma**2)
        for x, sigma, _, gain in laws
      ],
      axis=0,
    )
    law = nngp.distance_cdf(scales, radii)
    for values in zip(radii, law, bound, strict=True):
      rows.append((True, p, np.mean(scales), 0, *values))
  names = 'is_bound norm scale input_norm radius law bound'.split()
  columns = map(np.array, zip(*rows, strict=True))
  return {
    'architecture': np.full(len(rows), name, 'U16'),
    'n': np.full(len(rows), config.channels * size**2, np.int32),
    **dict(zip(names, columns, strict=True)),
  }


def infinite(name):
  return getattr(nngp, random_nets.ARCHITECTURES[name].infinite)()[2]


def draw_unit(config, run_dir, size, bar):
  """Infinitely wide dense networks along rays: what curvature adds."""
  label = f'draws-{size}'
  part = records.load_chunk(run_dir, label)
  if part is None:
    bar.set_description(f'infinite rays {size}x{size}')
    pool, draw = input_source(config, size)
    keys = unit_keys(config, 'fully_connected', size, 0)
    x = np.asarray(draw(keys[1], pool))[0]
    kernel_fn = infinite('fully_connected')
    found = [
      nngp.distance_draws(keys[0], kernel_fn, x, p, config.infinite_draws)
      for p in config.norms
    ]
    linear, straight = (np.concatenate(v) for v in zip(*found, strict=True))
    part = {
      'n': np.full(linear.size, x.size, np.int32),
      'norm': np.repeat(config.norms, config.infinite_draws),
      'linear': linear,
      'straight': straight,
    }
    records.save_chunk(run_dir, label, part)
  bar.update()
  return part


# --- Judging ---------------------------------------------------------------


def summarize(config, run_dir):
  """Every number with n, interval, prediction, and verdict."""
  results, predictions, bounds, draws = (
    records.load_columns(path) if path.exists() else None
    for name in ('results', 'predictions', 'bounds', 'infinite')
    for path in [run_dir / f'{name}.npz']
  )
  rows = []
  for name in tqdm.tqdm(config.architectures, desc='intervals'):
    for p in config.norms:
      of = functools.partial(select, architecture=name, norm=p)
      sizes = [
        at_size(config, of(results, n=n), of(predictions, n=n), of(bounds, n=n))
        for n in sorted({config.channels * s**2 for s in config.sizes})
      ]
      for row in sizes if name == 'fully_connected' and draws else ():
        drawn = select(draws, norm=p, n=row['n'])
        if len(drawn['n']):
          ratio = (drawn['straight'] / drawn['linear'])[:, None]
          row['infinite_excess'] = with_interval(_median, ratio)
      rows.append(
        {
          'architecture': name,
          'norm': str(p),
          **judge(config, of(results), sizes, p),
          'sizes': sizes,
        }
      )
  reference = [
    {'n': n, '1.0': one, '2.0': two, 'inf': top}
    for n, one, two, top in RELEASED
  ]
  return {
    'question': __doc__.split('\n')[0],
    'inputs': config.inputs,
    'rows': rows,
    'released_resnet20_medians': reference,
  }


def select(table, **wanted):
  """The rows of a table where the named columns have the values given."""
  if table is None:
    return None
  keep = np.ones(len(table['n']), bool)
  for column, value in wanted.items():
    keep &= table[column] == value
  return {name: column[keep] for name, column in table.items()}


def at_size(config, found, prediction, bound):
  """What was measured and predicted at one size."""
  grid = lambda column: found[column].reshape(-1, config.num_images)
  distance, estimate = grid('distance'), grid('estimate')
  relative = distance / grid('input_norm')
  row = {
    'n': int(found['n'][0]),
    'networks': len(distance),
    'images': distance.size,
    'not_found': int(np.sum(found['status'] != FOUND[config.attack])),
    'median': with_interval(_median, distance),
    'relative': with_interval(_median, relative),
    'excess': with_interval(_median, distance / estimate),
    'quantile_40_50': with_interval(_quantile_ratio(40), estimate),
    'quantile_60_50': with_interval(_quantile_ratio(60), estimate),
    'gradients': float(np.mean(found['gradients'])),
  }
  if prediction is None or not len(prediction['n']):
    # No closed form: the finite networks' own root mean square margin over
    # their mean gradient, which knows nothing of the boundary's place.
    gradient = found['margin'] / found['estimate']
    scale = np.sqrt(np.mean(found['margin'] ** 2)) / np.mean(gradient)
    row |= {'predicted': float(stats.halfnorm.ppf(0.5) * scale)}
    row |= {'predicted_from': 'finite networks'}
  else:
    row |= {
      'predicted': nngp.distance_quantile(prediction['scale'], 0.5),
      'predicted_relative': nngp.distance_quantile(
        prediction['scale'] / prediction['input_norm'], 0.5
      ),
      'predicted_from': 'infinite width',
      'bound_excess': bound_excess(distance.ravel(), bound),
      # One-sided 95 % band of an empirical distribution (Massart 1990).
      'bound_excess_by_chance': float(np.sqrt(np.log(20) / 2 / len(distance))),
    }
  for name, values in (('ratio', distance), ('estimate_ratio', estimate)):
    row[name] = with_interval(lambda v: _median(v) / row['predicted'], values)
  return row


FOUND = {
  'linear': boundary.Status.ESTIMATE,
  'ray': boundary.Status.FOUND,
  'deepfool': boundary.Status.FOUND,
  'projection': boundary.Status.FOUND,
}


def _median(values):
  return np.median(values, axis=(-2, -1))


def _quantile_ratio(percent):
  def ratio(values):
    return np.percentile(values, percent, axis=(-2, -1)) / _median(values)

  return ratio


def with_interval(statistic, values):
  low, high = common.bootstrap(statistic, [values])
  return {'value': float(statistic(values)), 'interval': [low, high]}


def bound_excess(distance, bound):
  """By how much the empirical distribution exceeds the flip bound, at most."""
  below = np.mean(distance[None] <= bound['radius'][:, None], axis=1)
  return float(np.max(below - bound['bound']))


def judge(config, found, sizes, p):
  """The slope of log(median d_p / ||x||_p) on log n, held against the law."""
  n = np.array([row['n'] for row in sizes], float)
  relative = found['distance'] / found['input_norm']
  samples = [
    relative[found['n'] == size].reshape(-1, config.num_images) for size in n
  ]
  slope = slope_on(n)
  laws = {'sqrt(n)': -0.5}
  if p == 1:
    laws['sqrt(n/ln n)'] = float(slope(np.sqrt(n / np.log(n)) / n))
  if len(n) < 2:
    return {'slope': None, 'laws': laws, 'verdict': 'one size has no slope'}
  of_samples = lambda *rows: slope(np.stack([_median(r) for r in rows], -1))
  interval = common.bootstrap(of_samples, samples)
  value = float(of_samples(*samples))
  own = None
  if all('predicted_relative' in row for row in sizes):
    own = float(slope(np.array([row['predicted_relative'] for row in sizes])))
  return {
    'slope': {'value': value, 'interval': list(interval)},
    'laws': laws,
    'infinite_slope': own,
    'verdict': verdict(value, interval, laws, own),
  }


def slope_on(n):
  """Least squares of log y on log n, over the last axis."""
  centred = np.log(n) - np.mean(np.log(n))

  def slope(y):
    # A median of infinity, where most searches failed, has no slope: NaN.
    with np.errstate(divide='ignore', invalid='ignore'):
      return np.log(y) @ centred / (centred @ centred)

  return slope


def verdict(value, interval, laws, own):
  """The rule of the module's docstring, in words."""
  if not np.isfinite(value) or not interval[1] - interval[0] <= 0.3:
    return 'too small to tell'

  def compare(law):
    if interval[0] <= law <= interval[1]:
      return 'holds'
    if abs(value - law) <= 0.03:
      return 'holds within 0.03'
    return f'deviates by {value - law:+.3f}'

  said = [f'{name} {compare(law)}' for name, law in laws.items()]
  if own is not None:
    said.append(f'infinite width {compare(own)}')
  return '; '.join(said)


def report(summary):
  """Prints the summary as a table."""
  rows = []
  for row in summary['rows']:
    slope = row['slope']
    text = '-'
    if slope:
      low, high = slope['interval']
      text = f'{slope["value"]:+.3f} [{low:+.3f}, {high:+.3f}]'
    own = row.get('infinite_slope')
    ratios = ' '.join(f'{s["ratio"]["value"]:.2f}' for s in row['sizes'])
    missed = sum(s['not_found'] for s in row['sizes'])
    rows.append(
      [
        row['architecture'],
        row['norm'].removesuffix('.0'),
        text,
        f'{own:+.3f}' if own is not None else '-',
        ratios,
        f'{missed}/{sum(s["images"] for s in row["sizes"])}',
        row['verdict'],
      ]
    )
  dimensions = ', '.join(str(s['n']) for s in summary['rows'][0]['sizes'])
  print(
    f'\nslope of log(median d_p/|x|_p) on log n, 95 % interval, against -1/2;\n'
    f'measured / predicted median at n = {dimensions}\n'
    '(predicted at infinite width; for resnet20, which has no closed form, '
    'from its own |f| and gradient)\n'
  )
  common.print_table(
    ['network', 'p', 'slope', 'infinite', 'ratio', 'not found', 'verdict'], rows
  )


if __name__ == '__main__':
  common.main(run, Config, PRESETS)
