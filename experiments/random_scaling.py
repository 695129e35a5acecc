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
import zlib

import jax
import numpy as np
import tqdm

from dmm_jax import data
from dmm_jax import parallel
from dmm_jax import plots
from dmm_jax import predictions
from dmm_jax import random_nets
from dmm_jax import records
from dmm_jax import scaling
from experiments import common


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
  return common.conduct(
    config,
    'experiments.random_scaling',
    collect=collect,
    summarize=summarize,
    draw=plots.random_scaling,
    report=report,
  )


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
  names = [f'{name}-{size}-{start:06d}' for start in chunk_starts(config)]
  compute = functools.partial(measure_chunks, config, name, size, bar)
  parts = []
  for part in records.resume(run_dir, names, compute):
    parts.append(part)
    bar.update()
  return records.concatenate(parts)


def measure_chunks(config, name, size, bar, done):
  """Yields the columns of every chunk but the first `done`."""
  bar.set_description(f'{name} {size}x{size}')
  pool, draw = input_source(config, size)
  sample = random_nets.sampler(
    random_nets.ARCHITECTURES[name].module(config.width),
    exponents=config.norms,
    bounds=box(config),
    method=config.attack,
    max_gradients=config.max_gradients,
  )

  def one(network, pool):
    key_weights, key_inputs = unit_keys(config, name, size, network)
    return sample(key_weights, draw(key_inputs, pool))

  starts = chunk_starts(config)[done:]
  batches = parallel.iterate_batches(
    one,
    (np.arange(starts[0], config.num_networks),),
    shared=(pool,),
    batch_size=config.batch_size,
    # Every network has its own weights: nothing is gained by batching on CPU.
    vmap_size=1 if jax.default_backend() == 'cpu' else None,
  )
  for start, found in zip(starts, batches, strict=True):
    yield to_rows(config, name, size, start, found)


def box(config):
  return (0.0, 1.0) if config.box else None


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
  networks, images, _ = found.distance.shape
  network, image, norm = np.meshgrid(
    np.arange(start, start + networks, dtype=np.int32),
    np.arange(images, dtype=np.int32),
    np.array(config.norms, np.float32),
    indexing='ij',
  )
  columns = {
    'architecture': np.full(network.shape, name, 'U16'),
    'n': np.full(network.shape, config.channels * size**2, np.int32),
    'norm': norm,
    'network': network,
    'image': image,
    'margin': np.broadcast_to(found.margin[..., None], network.shape),
  }
  of_norms = 'distance estimate input_norm status gradients forwards'.split()
  columns |= {field: getattr(found, field) for field in of_norms}
  return {field: column.ravel() for field, column in columns.items()}


# --- Predicting ------------------------------------------------------------


def predict_unit(config, run_dir, name, size, bar):
  """`(scales, bounds)` at the first images that are measured."""

  def compute():
    bar.set_description(f'infinite {name} {size}x{size}')
    xs = [
      first_image(config, name, size, i) for i in range(config.num_predicted)
    ]
    return predictions.law(name, xs, config.norms, bounds=box(config))

  part = kept(run_dir, f'infinite-{name}-{size}', compute, bar)
  is_bound = part.pop('is_bound')
  return tuple(
    {column: values[keep] for column, values in part.items()}
    for keep in (~is_bound, is_bound)
  )


def draw_unit(config, run_dir, size, bar):
  """Infinitely wide dense networks along rays: what curvature adds."""
  name = 'fully_connected'

  def compute():
    bar.set_description(f'infinite rays {size}x{size}')
    key, _ = unit_keys(config, name, size, 0)
    x = first_image(config, name, size, 0)
    return predictions.draws(key, name, x, config.norms, config.infinite_draws)

  return kept(run_dir, f'draws-{size}', compute, bar)


def first_image(config, name, size, network):
  pool, draw = input_source(config, size)
  _, key = unit_keys(config, name, size, network)
  return np.asarray(draw(key, pool))[0]


def kept(run_dir, name, compute, bar):
  """A chunk of the run, computed where it is not there."""
  part = records.load_chunk(run_dir, name)
  if part is None:
    part = compute()
    records.save_chunk(run_dir, name, part)
  bar.update()
  return part


# --- Judging ---------------------------------------------------------------


def summarize(config, run_dir):
  """Every number with n, interval, prediction, and verdict."""
  tables = {
    path.stem: records.load_columns(path) for path in run_dir.glob('*.npz')
  }
  rows = []
  for name in tqdm.tqdm(config.architectures, desc='intervals'):
    for p in config.norms:
      found = scaling.by_dimension(tables, name, p)
      rows.append({'architecture': name, 'norm': str(p), **judge(found)})
  reference = [
    {'n': n, '1.0': one, '2.0': two, 'inf': top}
    for n, one, two, top in random_nets.RELEASED_RESNET20
  ]
  return {
    'question': __doc__.split('\n')[0],
    'inputs': config.inputs,
    'rows': rows,
    'released_resnet20_medians': reference,
  }


def judge(found):
  """Adds the verdict to what `scaling.by_dimension` found."""
  sizes, slope = found.pop('sizes'), found['slope']
  said = 'one size has no slope'
  if slope:
    laws, own = found['laws'], found['infinite_slope']
    said = verdict(slope['value'], slope['interval'], laws, own)
  return {**found, 'verdict': said, 'sizes': sizes}


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
    own = row.get('infinite_slope')
    ratios = ' '.join(f'{s["ratio"]["value"]:.2f}' for s in row['sizes'])
    missed = sum(s['not_found'] for s in row['sizes'])
    rows.append(
      [
        row['architecture'],
        row['norm'].removesuffix('.0'),
        common.with_interval(row['slope'], '+.3f') if row['slope'] else '-',
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
