"""Does training cling first and dimple later? The boundary, step by step.

The dimpled manifold model says: at first the boundary moves until it lies along
the data, whatever their labels (clinging); then shallow bulges put each example
on its side (dimpling). Here networks are trained on sets whose manifold is
known, or estimated, and at log-spaced steps of training the boundary is looked
for around every example.

  python -m experiments.clinging_dimpling
  python -m experiments.clinging_dimpling --datasets=mnist,cifar10 \
    --data_dir=DIR --workdir=runs/clinging_images

The first takes 4 minutes on 2 CPU cores, --preset=quick one. A run killed at
any moment goes on where it was, to the same bytes.

Sets: line (five points in the plane, alternating labels), chessboard (25 points
of a plane in R^10), sphere (random labels, S^7 in R^64), digits, and image sets
of tensorflow-datasets; of images, tangents are local principal directions.

Conditions: as it is, each other --init_scales (all weights at the start times
so much), each other --weight_decays, and shuffled labels, which is the null:
what happens there too is no matter of the data. --num_seeds networks of each
train together.

At each step, over the measured training examples: the gap, the median distance
to the boundary of the network's own prediction; the share on its own label's
side; the median part of the boundary's unit normal within the tangent space,
beside that of a random direction; and the gradient's length. A gap of margin /
gradient shrinks where margins shrink or gradients grow: `by gradient` is the
share of the gap's fall, in logarithms, that the latter makes.

Seen (20 networks each; of mnist and cifar10 10): two phases on the line and the
chessboard as they are, on the chessboard with shuffled labels too, and on the
sphere and cifar10 only from weights three times as large; no clinging on
digits, mnist and cifar10 as they are.

Verdict on each network, by a rule fixed here. The gap falls if it comes to half
of what it was at the start, or less; of the largest that was found, where none
was found at the start. The time of clinging is the first step at
which half of that fall, in logarithms, is over; the time of fitting the first
at which half of the rise of the share of right examples is over. "two phases":
the gap falls, and clings earlier than it fits; "together": it falls, not
earlier; "no clinging": it does not fall; "not fitted": the share rises by less
than 0.2. Verdict on a condition: the word whose share of networks has a 95 %
Wilson interval above one half, else "undecided".
"""

import dataclasses
import itertools
import operator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tqdm

from dmm_jax import boundary
from dmm_jax import data
from dmm_jax import manifold
from dmm_jax import margins
from dmm_jax import models
from dmm_jax import norms
from dmm_jax import parallel
from dmm_jax import plots
from dmm_jax import programs
from dmm_jax import records
from dmm_jax import statistics
from dmm_jax import synthetic
from dmm_jax import train
from experiments import common
from experiments.lib import flags

NUM_NEIGHBORS = 3  # As many times as there are directions.


class Setting(NamedTuple):
  """How a set is trained on.

  Attributes:
    steps: of training, about; whole epochs.
    batch_size: examples a step.
    learning_rate: of Adam, constant.
    k: directions of local principal components; 0 where tangents are known.
  """

  steps: int
  batch_size: int
  learning_rate: float
  k: int = 0


SYNTHETIC = {
  'line': lambda key: synthetic.line(key),
  'chessboard': lambda key: synthetic.chessboard(key, dim=10, rotate=True),
  'sphere': lambda key: synthetic.sphere(key, num=200, k=8, dim=64, radius=8.0),
}
SETTINGS = {
  'line': Setting(2000, 5, 1e-3),
  'chessboard': Setting(2000, 25, 1e-3),
  'sphere': Setting(2000, 200, 1e-3),
  'digits': Setting(500, 128, 1e-3, k=8),
}
IMAGES = Setting(2000, 128, 1e-3, k=16)


@dataclasses.dataclass(frozen=True)
class Config:
  preset: str = flags.flag(
    'default', 'Values for the flags that are not given: default, quick, full.'
  )
  workdir: str = flags.flag('runs/clinging_dimpling', 'Run directory.')
  seed: int = flags.flag(0, 'Of data and weights.', least=0)
  datasets: tuple[str, ...] = flags.flag(
    tuple(SETTINGS),
    f'Of {", ".join(SETTINGS)}, and image sets of tensorflow-datasets.',
  )
  data_dir: str = flags.flag('', 'Of tensorflow-datasets.')
  num_train: int = flags.flag(5000, 'Images to train on, at most.', least=50)
  num_examples: int = flags.flag(
    100, 'Training examples that are measured, at most.', least=2
  )
  widths: str = flags.flag('100,100', 'Of the hidden layers.', numbers=1)
  num_seeds: int = flags.flag(20, 'Networks of each condition.', least=1)
  init_scales: tuple[float, ...] = flags.flag(
    (1.0, 0.3, 3.0),
    'Of the weights at the start; the first is as it is.',
    least=0,
  )
  weight_decays: tuple[float, ...] = flags.flag(
    (0.0, 1e-2), 'Decoupled; the first is as it is.', least=0
  )
  steps: int = flags.flag(0, "Of training; 0 for each set's own.", least=0)
  max_gradients: int = flags.flag(40, 'Budget of one search.', least=2)


PRESETS = {
  'default': {},
  'quick': dict(
    workdir='runs/clinging_quick',
    datasets=('line', 'digits'),
    num_seeds=6,
    init_scales=(1.0, 3.0),
    weight_decays=(0.0,),
    steps=200,
    num_examples=40,
  ),
  'full': dict(
    workdir='runs/clinging_full',
    datasets=(*SETTINGS, 'mnist', 'cifar10'),
    num_train=50000,
    num_examples=500,
    widths='256,256',
    num_seeds=10,
    init_scales=(1.0, 0.1, 0.3, 3.0, 10.0),
    weight_decays=(0.0, 1e-3, 1e-2, 1e-1),
    max_gradients=200,
  ),
}


class Condition(NamedTuple):
  """What differs from the way it is."""

  init_scale: float
  weight_decay: float
  labels: str

  @property
  def name(self):
    return (
      f'scale {self.init_scale:g}, decay {self.weight_decay:g}, {self.labels}'
    )


def conditions(config):
  first, *scales = config.init_scales
  plain, *decays = config.weight_decays
  return [
    Condition(first, plain, 'true'),
    Condition(first, plain, 'shuffled'),
    *(Condition(scale, plain, 'true') for scale in scales),
    *(Condition(first, decay, 'true') for decay in decays),
  ]


def run(config: Config) -> dict:
  """Runs the experiment, and returns what it wrote to summary.json."""
  flags.check(config)
  samples = {name: load(config, name) for name in config.datasets}
  return common.conduct(
    config,
    'experiments.clinging_dimpling',
    collect=lambda config, run_dir: collect(config, run_dir, samples),
    summarize=summarize,
    draw=plots.clinging_dimpling,
    report=report,
  )


# --- Data and networks -----------------------------------------------------


def load(config, name) -> synthetic.Sample:
  """A set to train on, with tangents at the first `num_examples` points."""
  num = config.num_examples
  if name in SYNTHETIC:
    sample = SYNTHETIC[name](jax.random.key(config.seed))
    return sample._replace(tangents=sample.tangents[:num])
  xs, labels = data.load(name, 'train', config.data_dir or None)
  xs, labels = np.asarray(xs[: config.num_train]), labels[: config.num_train]
  k = setting(config, name).k
  near = lambda x, xs: manifold.neighbor_basis(xs, x, k, NUM_NEIGHBORS * k)
  bases = parallel.map_examples(near, (xs[:num],), shared=(xs,), vmap_size=1)
  return synthetic.Sample(xs, labels, bases)


def setting(config, name):
  found = SETTINGS.get(name, IMAGES)
  return found._replace(steps=config.steps or found.steps)


def module_of(config, sample):
  return models.MLP(
    flags.as_numbers('widths', config.widths),
    max(int(sample.labels.max()) + 1, 2),
  )


def train_config(config, name, decay, num):
  chosen = setting(config, name)
  size = min(chosen.batch_size, num)
  return train.TrainConfig(
    optimizer='adamw',
    schedule='constant',
    learning_rate=chosen.learning_rate,
    weight_decay=decay,
    batch_size=size,
    num_epochs=-(-chosen.steps // (num // size)),
  )


def history(config, name, sample, decay, chosen):
  """Trains all networks of the conditions that share a weight decay.

  Yields `(step, parameters [networks, ...])`, networks of the first condition
  first.
  """
  plan = train_config(config, name, decay, len(sample.xs))
  module = module_of(config, sample)
  optimizer = train.make_optimizer(plan, len(sample.xs))
  # The same seeds in every condition: what differs is the condition alone.
  keys = jax.random.split(jax.random.key(config.seed + 1), config.num_seeds)
  begin = lambda key: train.init_state(key, module, sample.xs[0], optimizer)
  states, targets = [], []
  for condition in chosen:
    state = jax.vmap(begin)(keys)
    scaled = optax.tree.scale(condition.init_scale, state.params)
    states.append(state._replace(params=scaled))
    targets += [labels_of(condition, key, sample.labels) for key in keys]
  stack = lambda *leaves: jnp.concatenate(leaves)
  per_epoch = train.steps_per_epoch(plan, len(sample.xs))
  pause_steps = tuple(train.log_spaced(plan.num_epochs * per_epoch))
  for pause in train.fit(
    jnp.concatenate([keys] * len(chosen)),
    train.flax_forward(module),
    jax.tree.map(stack, *states),
    sample.xs,
    np.stack(targets),
    config=plan,
    data_axes=(None, 0, None),
    pause_steps=pause_steps,
    each_epoch=False,
  ):
    yield pause.step, pause.state.params


def labels_of(condition, key, labels):
  if condition.labels == 'true':
    return labels
  return data.shuffle_labels(jax.random.fold_in(key, 7), labels)


# --- Measuring -------------------------------------------------------------


def measure_example(x, label, basis, params, *, module, max_gradients):
  """Distance, margins and directions of one example."""
  logits_fn = lambda v: module.apply({'params': params}, v)[0]
  logits = logits_fn(x)
  own = jnp.argmax(logits)
  value, slope = jax.value_and_grad(
    lambda v: margins.margin(logits_fn(v), own)
  )(x)
  found = boundary.nearest_point(logits_fn, x, own, max_gradients=max_gradients)
  return {
    'margin': margins.margin(logits, label),
    'own_margin': value,
    'gradient': norms.norm(slope, 2),
    'distance': found.distance,
    'fraction': manifold.tangent_fraction(found.normal, basis),
    'gradient_fraction': manifold.tangent_fraction(slope, basis),
  }


def class_margin(x, params, *, module):
  """Margin of class 1 over class 0."""
  return jnp.diff(module.apply({'params': params}, x)[0])[0]


def collect(config, run_dir, samples):
  """Trains and measures set by set and decay by decay.

  results.npz: one row a (set, condition, network, step, example).
  line.npz: margins on a grid of the plane at each step, of the first network as
  it is; chessboard.npz: likewise in three dimensions around its plane.
  """
  groups = [
    (name, decay) for name in config.datasets for decay in config.weight_decays
  ]

  def compute(done):
    for name, decay in groups[done:]:
      yield measure_group(config, run_dir, name, samples[name], decay)

  names = [f'{name}-{decay:g}' for name, decay in groups]
  common.gather(run_dir, names, compute, 'set')


def measure_group(config, run_dir, name, sample, decay):
  """Rows of the conditions of one set that share a weight decay."""
  chosen = [c for c in conditions(config) if c.weight_decay == decay]
  module = module_of(config, sample)
  measure = programs.bind(
    measure_example, module=module, max_gradients=config.max_gradients
  )
  num = len(sample.tangents)
  rows, frames = [], []
  keys = jax.random.split(jax.random.key(config.seed + 1), config.num_seeds)
  for step, params in tqdm.tqdm(
    history(config, name, sample, decay, chosen), desc=name, leave=False
  ):
    params = jax.device_get(params)
    for number in range(len(chosen) * config.num_seeds):
      condition = chosen[number // config.num_seeds]
      seed = number % config.num_seeds
      own = jax.tree.map(operator.itemgetter(number), params)
      labels = labels_of(condition, keys[seed], sample.labels)[:num]
      found = parallel.map_examples(
        measure, (sample.xs[:num], labels, sample.tangents), shared=(own,)
      )
      rows.append(
        {
          'dataset': np.full(num, name, 'U20'),
          'condition': np.full(num, condition.name, 'U60'),
          'seed': np.full(num, seed, np.int32),
          'step': np.full(num, step, np.int32),
          'index': np.arange(num, dtype=np.int32),
          'k': np.full(num, sample.tangents.shape[1], np.int32),
          'n': np.full(num, sample.xs[0].size, np.int32),
          **found,
        }
      )
      if number == 0 and condition == conditions(config)[0]:
        frames.append((step, own))
  if name in ('line', 'chessboard') and frames:
    film(run_dir, name, module, sample, frames)
  return records.concatenate(rows)


def film(run_dir, name, module, sample, frames):
  """Margins of class 1 over 0 on a grid, at each step; see `collect`."""
  if name == 'line':
    axis = np.linspace(-0.2, 1.3, 151, dtype=np.float32)
    points = np.stack(np.meshgrid(axis, axis), -1)
    coordinates = sample.xs
  else:
    axis = np.linspace(-0.25, 1.25, 37, dtype=np.float32)
    corner, frame = sample.xs[0], sample.tangents[0]
    up = manifold.off(corner, frame)
    up = np.asarray(up / np.linalg.norm(up))
    grid = np.stack(np.meshgrid(axis, axis, axis - 0.5, indexing='ij'), -1)
    points = corner + grid @ np.concatenate([frame, up[None]])
    coordinates = (sample.xs - corner) @ frame.T
  values = [
    parallel.map_examples(
      programs.bind(class_margin, module=module),
      (points.reshape(-1, points.shape[-1]),),
      shared=(params,),
      batch_size=8192,
    ).reshape(points.shape[:-1])
    for _, params in frames
  ]
  table = {
    'step': np.array([step for step, _ in frames]),
    'margin': np.stack(values).astype(np.float32),
  }
  # The same in every row: one a step.
  for key, value in (
    ('axis', axis),
    ('points', coordinates),
    ('labels', sample.labels),
  ):
    table[key] = np.stack(len(frames) * [value])
  records.save_columns(run_dir / f'{name}.npz', table)


# --- Judging ---------------------------------------------------------------


def curves(table):
  """`(steps, {name: [networks, steps]})` of one set in one condition."""
  steps, seeds = np.unique(table['step']), np.unique(table['seed'])
  order = np.lexsort((table['index'], table['step'], table['seed']))
  shape = len(seeds), len(steps), -1
  grid = lambda name: table[name][order].reshape(shape)
  middle = lambda name: np.median(grid(name), axis=-1)
  lines = {
    'gap': middle('distance'),
    'right': np.mean(grid('margin') > 0, axis=-1),
    'gradient': middle('gradient'),
    'own_margin': middle('own_margin'),
  }
  # Where no boundary was found there is no normal.
  fraction = np.ma.masked_invalid(grid('fraction'))
  lines['fraction'] = np.ma.median(fraction, axis=-1).filled(np.nan)
  return steps, lines


class Phases(NamedTuple):
  """What the rule of the module's docstring says of one network."""

  word: str
  clings: float
  fits: float
  fall: float
  by_gradient: float


def phases(steps, gap, right, gradient) -> Phases:
  """Judges the curves of one network."""
  rise = right[-1] - right[0]
  fits = float(steps[np.argmax(right >= right[0] + rise / 2)])
  found = np.isfinite(gap)
  if not found.any():
    word = 'not fitted' if rise < 0.2 else 'no clinging'
    return Phases(word, np.nan, fits, np.nan, np.nan)
  low = int(np.argmin(gap))
  first = gap[0] if found[0] else np.max(gap[found])
  fall = float(gap[low] / first)
  clings = float(steps[np.argmax(gap <= np.sqrt(first * gap[low]))])
  grown = np.log(gradient[low] / gradient[0])
  grown = float(grown / -np.log(fall)) if 0 < fall < 1 else np.nan
  if rise < 0.2:
    word = 'not fitted'
  elif not fall <= 0.5:
    word = 'no clinging'
  else:
    word = 'two phases' if clings < fits else 'together'
  return Phases(word, clings, fits, fall, grown)


def summarize(config, run_dir):
  """Every number with n, interval, null and verdict."""
  table = records.load_columns(run_dir / 'results.npz')
  rows = []
  for name in config.datasets:
    of_set = records.select(table, dataset=name)
    for condition in conditions(config):
      part = records.select(of_set, condition=condition.name)
      steps, lines = curves(part)
      each = [
        phases(steps, *(lines[c][i] for c in ('gap', 'right', 'gradient')))
        for i in range(len(lines['gap']))
      ]
      rows.append(
        {
          'dataset': name,
          **condition._asdict(),
          'condition': condition.name,
          'n': len(each),
          'examples': len(np.unique(part['index'])),
          'steps': steps.tolist(),
          'curves': {
            key: {
              'median': np.median(v, axis=0).tolist(),
              'low': np.min(v, axis=0).tolist(),
              'high': np.max(v, axis=0).tolist(),
            }
            for key, v in lines.items()
          },
          'fall': common.entry(
            statistics.mean([p.fall for p in each], unit='networks')
          ),
          'by_gradient': by_gradient(each),
          'clings': float(np.median([p.clings for p in each])),
          'fits': float(np.median([p.fits for p in each])),
          'right': common.entry(
            statistics.mean(lines['right'][:, -1], unit='networks')
          ),
          'fraction': common.entry(
            statistics.mean(lines['fraction'][:, -1], unit='networks')
          ),
          'random_fraction': random_fraction(part),
          'words': [p.word for p in each],
          'verdict': verdict([p.word for p in each]),
        }
      )
  return {
    'question': flags.question(__doc__),
    'rows': rows,
    'flips': flips(rows),
  }


def by_gradient(each):
  """The mean over the networks whose gap falls."""
  values = np.array([p.by_gradient for p in each])
  values = values[np.isfinite(values)]
  nothing = {'value': float('nan'), 'interval': [float('nan')] * 2}
  entry = (
    common.entry(statistics.mean(values, unit='networks'))
    if len(values)
    else nothing
  )
  return entry | {'n': len(values)}


def random_fraction(part):
  """The median tangent fraction of a random direction."""
  k, n = int(part['k'][0]), int(part['n'][0])
  return float(manifold.fraction_null(k, n).median() ** 0.5)


def verdict(words):
  """The word of most networks, if more than half for certain."""
  word = max(sorted(set(words)), key=words.count)
  low, _ = statistics.wilson(words.count(word) / len(words), len(words))
  return word if low > 0.5 else 'undecided'


def flips(rows):
  """Where the verdict changes along the scale of the weights at the start."""
  found = []
  for name in dict.fromkeys(row['dataset'] for row in rows):
    plain = rows[0]['weight_decay']
    line = sorted(
      (row['init_scale'], row['verdict'])
      for row in rows
      if row['dataset'] == name
      and row['labels'] == 'true'
      and row['weight_decay'] == plain
    )
    for (a, before), (b, after) in itertools.pairwise(line):
      if before != after:
        found.append(
          dict(dataset=name, between=[a, b], before=before, after=after)
        )
  return found


def report(summary):
  """Prints the summary as a table."""
  print('\ngap and normals along training; means over networks with 95 %\n')
  common.print_table(
    [
      'set: condition',
      'networks',
      'gap falls to [95 %]',
      'by gradient',
      'clings at',
      'fits at',
      'right at the end',
      'normal in tangents',
      'random',
      'verdict',
    ],
    [
      [
        f'{row["dataset"]}: {row["condition"]}',
        str(row['n']),
        common.with_interval(row['fall'], '.2f'),
        f'{row["by_gradient"]["value"]:.2f}',
        f'{row["clings"]:.0f}',
        f'{row["fits"]:.0f}',
        common.with_interval(row['right'], '.2f'),
        common.with_interval(row['fraction'], '.2f'),
        f'{row["random_fraction"]:.2f}',
        row['verdict'],
      ]
      for row in summary['rows']
    ],
  )
  for flip in summary['flips']:
    low, high = flip['between']
    print(
      f'{flip["dataset"]}: "{flip["before"]}" turns to "{flip["after"]}" '
      f'between init scales {low:g} and {high:g}'
    )


if __name__ == '__main__':
  flags.main(run, Config, PRESETS)
