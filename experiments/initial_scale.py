"""Do smaller weights at the start move the boundary away from the data's space?

Data in a subspace of k of n dimensions never change what a network's first
layer does outside it: without weight decay, plain gradient descent leaves the
off-span part of these weights exactly as it was drawn (Melamed, Yehudai, Vardi
2023). That part alone decides how near the boundary is off the data. Here
networks without biases are trained from first layers divided by each of
--factors, and distances to the boundary are measured at training points without
restriction, within the span of the data (on) and orthogonal to it (off).

  python -m experiments.initial_scale
  python -m experiments.initial_scale --widths=784 --workdir=runs/two_layers
  python -m experiments.initial_scale --weight_decay=0.01 --workdir=runs/decay

The first takes 7 minutes on 2 CPU cores, --preset=quick half a minute. A run
killed at any moment goes on where it was, to the same bytes.

The data: points on a sphere (--radius) of a random subspace with random labels;
or images of --dataset, whose span is that of their k principal directions,
about. Weights at the start are uniform, of standard deviation 1 / sqrt(3 n) for
n inputs of a layer. Training is plain gradient descent until every training
point is right, or --max_steps.

To compare with, mean distances over 5 networks that the dimpled manifold
model's author left (3 layers, k = 32 of n = 784), and those seen here, without
weight decay and with 0.01. How many points and what decay there were is not
known; --num_train is what comes near.
          theirs                  here                    here, decay
  factor  free   on     off       free   on     off       free   on     off
  0.5     1.651  5.166  1.730     1.683  4.859  1.787     1.727  4.831  1.842
  1       2.320  4.750  2.622     2.318  4.795  2.627     2.418  4.751  2.785
  3       3.849  4.489  7.289     3.793  4.605  6.531     3.892  4.558  7.284
  5       4.188  4.434  12.334    4.174  4.505  10.78     4.207  4.465  12.19
  7       4.266  4.389  17.452    4.294  4.462  15.31     4.298  4.426  17.45
Without decay three of 15 are 10 to 13 % below theirs, all others within 6 %;
with it all are within 7 %. Off the span both grow with the factor in proportion
from 3 on (slopes 1.003 [0.985, 1.022] and 1.029 [1.002, 1.056]); on it they
stay (-0.034 [-0.042, -0.025] and -0.035 [-0.044, -0.025]). Two layers: off
0.954 [0.937, 0.972], on 0.007 [0.002, 0.013].

A network's distance is the mean over its points that are right and whose
boundary was found; `wrong` and `lost` are the shares of the others. Slopes are
those of log distance against log factor, one a network, with Student's 95 %
interval over networks; off the data once more over the larger half of the
factors. `drift` is the largest change of an off-span weight over the largest
such weight: 0 but for rounding; with weight decay, its difference from (1 -
rate decay)^steps. Verdicts, by rules fixed here: "undecided" where more than 5
% of the points of any factor are wrong or lost; off the data, "proportional to
the factor" if the slope's interval lies within 0.9 and 1.1, else "grows"
("falls") if it lies above (below) 0, else "undecided"; on the data, "constant"
if it lies within -0.1 and 0.1, else likewise.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from dmm_jax import boundary
from dmm_jax import data
from dmm_jax import manifold
from dmm_jax import plots
from dmm_jax import programs
from dmm_jax import records
from dmm_jax import statistics
from dmm_jax import synthetic
from dmm_jax import train
from experiments import common
from experiments.lib import flags

SIDES = {'free': None, 'on': manifold.on, 'off': manifold.off}
CHECK = 10  # Steps, at least, between looks at whether all points are right.
MOST_LOST = 0.05  # Of a factor's points, for a verdict.


@dataclasses.dataclass(frozen=True)
class Config:
  preset: str = flags.flag(
    'default', 'Values for the flags that are not given: default, quick, full.'
  )
  workdir: str = flags.flag('runs/initial_scale', 'Run directory.')
  seed: int = flags.flag(0, 'Of data and weights.', least=0)
  dataset: str = flags.flag(
    'sphere', 'sphere, digits, or an image set of tensorflow-datasets.'
  )
  data_dir: str = flags.flag('', 'Of tensorflow-datasets.')
  num_train: int = flags.flag(375, 'Points to train on.', least=2)
  num_examples: int = flags.flag(
    200, 'The first so many of them are measured.', least=1
  )
  k: int = flags.flag(32, 'Dimensions of the span.', least=1)
  dim: int = flags.flag(784, 'Of the space around the sphere.', least=2)
  radius: float = flags.flag(28.0, 'Of the sphere.', least=0)
  widths: str = flags.flag(
    '784,784', 'Of the hidden layers; none if empty.', numbers=1
  )
  factors: tuple[float, ...] = flags.flag(
    (0.5, 1.0, 3.0, 5.0, 7.0), 'That the first layer is divided by.', least=0
  )
  num_seeds: int = flags.flag(5, 'Networks of each factor.', least=2)
  learning_rate: float = flags.flag(0.03, 'Of gradient descent.', least=0)
  batch_size: int = flags.flag(2000, 'Points a step; all, if fewer.', least=1)
  weight_decay: float = flags.flag(0.0, 'Of all weights.', least=0)
  max_steps: int = flags.flag(4000, 'Of training.', least=1)
  method: str = flags.flag('portfolio', 'Search, as of boundary_distances.')
  max_gradients: int = flags.flag(100, 'Budget of one search.', least=2)


PRESETS = {
  'default': {},
  'quick': dict(
    workdir='runs/initial_scale_quick',
    dim=200,
    k=16,
    num_train=200,
    num_examples=50,
    widths='200,200',
    factors=(1.0, 3.0, 7.0),
    num_seeds=3,
    max_gradients=40,
  ),
  'full': dict(
    workdir='runs/initial_scale_full',
    num_train=100000,
    learning_rate=1e-4,
    max_steps=300000,
  ),
}


def run(config: Config) -> dict:
  """Runs the experiment, and returns what it wrote to summary.json."""
  flags.check(config)
  flags.check_method(config.method)
  hidden = flags.as_numbers('widths', config.widths)
  if min(config.factors) == 0 or min(hidden, default=1) < 1:
    raise flags.FlagError('--factors and --widths have to be above 0')
  xs, labels = load(config)
  for most, what in (
    (xs[0].size, 'numbers of a point'),
    (len(xs), 'points to train on'),
  ):
    if config.k >= most:
      raise flags.FlagError(
        f'--k={config.k} has to be less than the {most} {what}'
      )
  return common.conduct(
    config,
    'experiments.initial_scale',
    collect=lambda config, run_dir: collect(config, run_dir, xs, labels),
    summarize=summarize,
    draw=plots.initial_scale,
    report=report,
  )


# --- Data and networks -----------------------------------------------------


def load(config):
  """Points as vectors `[n, dim]`, and their labels."""
  if config.dataset == 'sphere':
    made = synthetic.sphere(
      jax.random.key(config.seed),
      num=config.num_train,
      k=config.k,
      dim=config.dim,
      radius=config.radius,
      num_tangents=1,
    )
    return made.xs, made.labels
  xs, labels = data.load(config.dataset, 'train', config.data_dir or None)
  xs, labels = xs[: config.num_train], labels[: config.num_train]
  return xs.reshape(len(xs), -1), labels


def logits(weights, x):
  """Of a network without biases; two classes have one output and its null."""
  for layer in weights[:-1]:
    x = jax.nn.relu(layer @ x)
  out = weights[-1] @ x
  return jnp.append(out, 0.0) if len(out) == 1 else out


def _forward(params, stats, x, key, train):
  del key, train
  return (logits(params, x), {}), stats


forward = programs.bind(_forward)


def start(key, sizes, factor):
  """Weights `[outputs, inputs]` of each layer, the first one divided."""
  keys = jax.random.split(key, len(sizes) - 1)
  weights = [
    jax.random.uniform(k, (m, n), minval=-(n**-0.5), maxval=n**-0.5)
    for k, n, m in zip(keys, sizes[:-1], sizes[1:], strict=True)
  ]
  return [weights[0] / factor, *weights[1:]]


def fit(config, key, xs, labels, factor):
  """Trains until all points are right.

  Returns:
    `(weights before, after, steps, share of points that are right)`.
  """
  outputs = int(labels.max()) + 1
  sizes = [xs.shape[1], *flags.as_numbers('widths', config.widths)]
  weights, order = jax.random.split(key)
  before = start(weights, [*sizes, 1 if outputs == 2 else outputs], factor)
  size = min(config.batch_size, len(xs))
  plan = train.TrainConfig(
    optimizer='sgd',
    schedule='constant',
    learning_rate=config.learning_rate,
    weight_decay=config.weight_decay,
    batch_size=size,
    num_epochs=-(-config.max_steps // (len(xs) // size)),
  )
  inner = train.make_optimizer(plan, len(xs)).init(before)
  every = max(CHECK, len(xs) // size)
  for pause in train.fit(
    order,
    forward,
    train.State(before, {}, inner),
    xs,
    labels,
    config=plan,
    pause_steps=(*range(every, config.max_steps, every), config.max_steps),
    each_epoch=False,
  ):
    right = train.accuracy(forward, pause.state, xs, labels)
    if right == 1 or pause.step >= config.max_steps:
      break
  return before, pause.state.params, pause.step, right


def drift(config, before, after, basis, steps):
  """How far off-span weights are from what they should be, by the largest."""
  rest = lambda w: w - w @ basis.T @ basis
  kept = (1 - config.learning_rate * config.weight_decay) ** steps
  change = rest(np.asarray(after[0])) - kept * rest(np.asarray(before[0]))
  return np.abs(change).max() / np.abs(rest(np.asarray(before[0]))).max()


# --- Measuring -------------------------------------------------------------


def measure_sides(config, weights, xs, labels, basis):
  """Columns: distances of points, free, on the span and off it."""
  columns = {}
  for side, project in SIDES.items():
    found = boundary.measure(
      logits,
      xs,
      labels,
      params=weights,
      project=project and functools.partial(project, basis=basis),
      method=config.method,
      max_gradients=config.max_gradients,
    )
    columns |= {side: found.distance, f'{side}_status': found.status}
  return columns


def collect(config, run_dir, xs, labels):
  """Network by network: results.npz, one row a (factor, network, point)."""
  basis = manifold.principal_basis(xs, config.k)
  num = min(config.num_examples, len(xs))
  units = [(f, s) for f in config.factors for s in range(config.num_seeds)]

  def compute(done):
    for factor, seed in units[done:]:
      key = jax.random.key(config.seed + 1 + seed)
      before, after, steps, right = fit(config, key, xs, labels, factor)
      weights = jax.device_get(after)
      part = {
        'factor': np.full(num, factor, np.float32),
        'seed': np.full(num, seed, np.int32),
        'index': np.arange(num, dtype=np.int32),
        'steps': np.full(num, steps, np.int32),
        'right': np.full(num, right, np.float32),
        'drift': np.full(num, drift(config, before, weights, basis, steps)),
      }
      yield part | measure_sides(config, weights, xs[:num], labels[:num], basis)

  names = [f'factor{factor:g}-{seed}' for factor, seed in units]
  common.gather(run_dir, names, compute, 'network')


# --- Judging ---------------------------------------------------------------


def summarize(config, run_dir):
  """Every number with n, interval, null and verdict."""
  table = records.load_columns(run_dir / 'results.npz')
  rows, means = [], {side: [] for side in SIDES}
  wrong = boundary.Status.MISCLASSIFIED
  for factor in config.factors:
    part = records.select(table, factor=np.float32(factor))
    seeds = [records.select(part, seed=s) for s in range(config.num_seeds)]
    row = {
      'factor': factor,
      'n': len(seeds),
      'points': len(seeds[0]['index']),
      'right': float(np.mean(part['right'])),
      'wrong': float(np.mean(part['free_status'] == wrong)),
      'steps': float(np.mean(part['steps'])),
      'drift': float(np.max(part['drift'])),
    }
    for side in SIDES:
      each = np.array([mean_found(seed[side]) for seed in seeds])
      means[side].append(each)
      row[side] = common.entry(statistics.t_mean(each, unit='networks'))
      row[f'{side}_lost'] = float(np.mean(~np.isfinite(part[side])))
    on, off = np.array(means['on'][-1]), np.array(means['off'][-1])
    row['flat'] = common.entry(
      statistics.t_mean(
        manifold.unconstrained(on, off) / means['free'][-1], unit='networks'
      )
    )
    rows.append(row)
  slopes = []
  factors = np.array(config.factors)
  large = factors >= np.median(factors)
  for side, kept in (*((s, factors > 0) for s in SIDES), ('off', large)):
    if kept.sum() < 2:
      continue
    values = np.array(means[side])[kept].T  # [networks, factors]
    entry = common.entry(
      statistics.t_mean(
        statistics.log_slope(factors[kept])(values), unit='networks'
      )
    )
    lost = max(
      row['wrong'] + row[f'{side}_lost']
      for row, used in zip(rows, kept, strict=True)
      if used
    )
    said = verdict(side, entry['interval'], lost)
    spread = [float(factors[kept].min()), float(factors[kept].max())]
    slopes.append(dict(side=side, factors=spread, **entry, verdict=said))
  return {
    'question': flags.question(__doc__),
    'dataset': config.dataset,
    'k': config.k,
    'rows': rows,
    'slopes': slopes,
  }


def mean_found(distance):
  """The mean over the points that are right and whose boundary was found."""
  found = np.isfinite(distance) & (distance > 0)
  return float(np.mean(distance[found])) if found.any() else float('nan')


def verdict(side, interval, lost):
  """The rule of the module's docstring, in words."""
  low, high = interval
  if lost > MOST_LOST:
    return 'undecided'
  if side == 'off' and 0.9 <= low and high <= 1.1:
    return 'proportional to the factor'
  if side == 'on' and -0.1 <= low and high <= 0.1:
    return 'constant'
  return 'grows' if low > 0 else 'falls' if high < 0 else 'undecided'


def report(summary):
  """Prints the summary as a table."""
  print(
    f'\n{summary["dataset"]}, span of {summary["k"]} dimensions: mean l2 '
    'distances to the boundary; 95 % intervals over networks\n'
  )
  rows = [
    [
      f'{row["factor"]:g}',
      str(row['n']),
      str(row['points']),
      f'{row["right"]:.1%}',
      f'{row["steps"]:.0f}',
      f'{row["drift"]:.0e}',
      *(common.with_interval(row[side], '.3f') for side in SIDES),
      f'{row["off"]["value"] / row["factor"]:.3f}',
      f'{row["wrong"]:.1%}',
      '/'.join(f'{row[f"{side}_lost"]:.1%}' for side in SIDES),
      f'{row["flat"]["value"]:.3f}',
    ]
    for row in summary['rows']
  ]
  header = 'factor,networks,points,right,steps,drift,free [95 %],on,off,'
  header += 'off / factor,wrong,lost free/on/off,flat / free'
  common.print_table(header.split(','), rows)
  for entry in summary['slopes']:
    low, high = entry['factors']
    print(
      f'{entry["side"]}: slope against factors {low:g} to {high:g} '
      f'{common.with_interval(entry, ".3f")}: {entry["verdict"]}'
    )


if __name__ == '__main__':
  flags.main(run, Config, PRESETS)
