"""How far is each example of a data set from the network's boundary?

Trains a network (or draws one at random), finds for every example the nearest
point where its class changes, in each norm, and puts the distances beside those
of untrained networks of the same architecture on the same examples.

  python -m experiments.boundary_distances
  python -m experiments.boundary_distances --dataset=mnist --data_dir=DIR \
    --model=convolutional --width=32 --depth=3 --workdir=runs/mnist

The first takes 3 to 5 minutes on 2 CPU cores, --preset=quick half a minute. A
run killed at any moment goes on where it was when started again, to the same
bytes; training, which is short, begins anew.

A distance is that of a point that was seen to have another class: an upper
bound, which a longer search may lower. Misclassified examples have 0, failed
searches infinity; both are counted, and both stay in the quantiles. Fully
connected networks get a certified lower bound besides. Untrained networks know
no class: their labels are their own predictions, so that none of theirs is 0.
Intervals are 95 %, over examples; what the draw of an untrained network does is
seen in the median of each (`by_draw`).

To expect on digits: the trained network's median distance is three to four
times that of untrained ones in every norm (0.5 in l2), their 95 % quantile
three to four times their median. Once coordinates at the box are left out,
perturbations follow the normal to within 1 % (`aligned`); with them in, the l2
cosine is 0.91 (trained) and 0.85 (untrained).

Verdict on each norm, by a rule fixed here: "farther" ("nearer") than untrained
if the interval of the ratio of medians lies above (below) 1 and the median lies
above (below) that of every untrained network; else "not told apart".
"""

import dataclasses
import math
from typing import NamedTuple

import jax
from jax import flatten_util
import numpy as np
import tqdm

from dmm_jax import certify
from dmm_jax import data
from dmm_jax import distances
from dmm_jax import models
from dmm_jax import parallel
from dmm_jax import plots
from dmm_jax import programs
from dmm_jax import records
from dmm_jax import train
from experiments import common
from experiments import networks

MODELS = {
  'fully_connected': lambda config, k: models.FullyConnected(
    config.depth * (config.width,), k
  ),
  'convolutional': lambda config, k: models.Convolutional(
    config.depth * (config.width,), k
  ),
  'resnet': lambda config, k: models.ResNet(
    config.width, config.depth, num_classes=k
  ),
}


@dataclasses.dataclass(frozen=True)
class Config:
  preset: str = common.flag(
    'default', 'Values for the flags that are not given: quick, default.'
  )
  workdir: str = common.flag('runs/boundary_distances', 'Run directory.')
  seed: int = common.flag(0, 'Seed of weights and training.', least=0)
  dataset: str = common.flag(
    'digits', 'digits (embedded), or an image set of tensorflow-datasets.'
  )
  data_dir: str = common.flag('', 'Of tensorflow-datasets.')
  in_memory: bool = common.flag(
    True,
    'Hold all images in memory; false reads each batch from disk, for sets '
    'larger than memory.',
  )
  split: str = common.flag(
    'test', 'Whose examples are measured.', choices=('train', 'test')
  )
  num_examples: int = common.flag(
    300, 'The first so many are measured; all, if there are fewer.', least=1
  )
  classes: str = common.flag(
    'all', 'Classes to keep, such as 3,8; the network knows no others.'
  )
  model: str = common.flag(
    'fully_connected', 'Architecture.', choices=tuple(MODELS)
  )
  width: int = common.flag(100, 'Units or channels of a layer.', least=1)
  depth: int = common.flag(
    2, 'Hidden layers; of a resnet, blocks of each of three stacks.', least=1
  )
  checkpoint: str = common.flag(
    '',
    'Run directory of train_classifier, whose network is measured; --model, '
    '--width, --depth, --epochs and --learning_rate then mean nothing.',
  )
  network: str = common.flag(
    'trained',
    'Trained here and held against untrained ones, or only these.',
    choices=('trained', 'fresh'),
  )
  num_fresh: int = common.flag(5, 'Untrained networks.', least=1)
  epochs: int = common.flag(40, 'Of training.', least=1)
  learning_rate: float = common.flag(3e-3, 'Of Adam, at the start.', least=0)
  norms: tuple[float, ...] = common.flag(
    (1.0, 2.0, np.inf), 'Norms of the distance.', choices=(1.0, 2.0, np.inf)
  )
  method: str = common.flag(
    'portfolio', 'Search: portfolio (nearest), fast, or one by name.'
  )
  max_gradients: int = common.flag(2000, 'Budget of one search.', least=2)
  box: bool = common.flag(True, 'Keep perturbed pixels in [0, 1].')
  certify: bool = common.flag(
    True, 'Certified lower bounds; of fully connected networks only.'
  )
  batch_size: int = common.flag(100, 'Examples a saved chunk.', least=1)
  num_points: int = common.flag(
    8, 'Examples whose nearest points are written and drawn.', least=1
  )


PRESETS = {
  'quick': dict(
    workdir='runs/boundary_distances_quick',
    num_examples=100,
    width=50,
    num_fresh=2,
    epochs=20,
    norms=(2.0,),
    method='fast',
  ),
  'default': {},
}


def run(config: Config) -> dict:
  """Runs the experiment, and returns what it wrote to summary.json."""
  common.check(config)
  common.check_method(config.method)
  # Before the directory is made: a set that is not there leaves none behind.
  sets = load_sets(config)
  model = load_model(config, *sets)
  return common.conduct(
    config,
    'experiments.boundary_distances',
    collect=lambda config, run_dir: collect(config, run_dir, model, *sets),
    summarize=summarize,
    draw=plots.boundary_distances,
    report=report,
  )


def load_sets(config):
  """Returns `(classes [k], (xs, labels) to train on, examples)`.

  Labels count the classes that are kept; an example is a row (x, label, its
  number in the split).
  """
  sets = {
    split: data.load(
      config.dataset,
      split,
      config.data_dir or None,
      in_memory=config.in_memory,
    )
    for split in dict.fromkeys(('train', config.split))
  }
  classes = np.unique(sets['train'][1])
  if config.classes != 'all':
    classes = chosen_classes(config, classes)
  kept = {name: data.of_classes(*pair, classes) for name, pair in sets.items()}
  examples = tuple(v[: config.num_examples] for v in kept[config.split])
  return classes, kept['train'][:2], examples


def chosen_classes(config, there):
  try:
    chosen = np.unique([int(part) for part in config.classes.split(',')])
  except ValueError:
    raise common.FlagError(
      f'--classes={config.classes} is neither all nor numbers such as 3,8'
    ) from None
  if len(chosen) < 2 or not np.all(np.isin(chosen, there)):
    known = ', '.join(map(str, there))
    raise common.FlagError(
      f'--classes={config.classes} has to name at least two of {known}'
    )
  return chosen


# --- Networks --------------------------------------------------------------


def load_model(config, classes, train_set, examples):
  """Returns `(module, its variables if it is trained, else None)`."""
  if not config.checkpoint:
    return MODELS[config.model](config, len(classes)), None
  shape = examples[0].shape[1:]
  found = networks.read_for(config.checkpoint, shape, len(classes))
  return found.module, networks.variables(found.state)


def collection(config, run_dir, model, train_set):
  """Returns `(names, draws, parameters)` of the networks, trained one first.

  Written to network.npz, one row a network, so that a run that goes on has the
  same ones whatever the hardware.
  """
  module, trained = model
  keys = jax.random.split(jax.random.key(config.seed), config.num_fresh + 2)
  one = train_set[0][0]
  flat, unravel = flatten_util.ravel_pytree(module.init(keys[0], one))
  path = run_dir / 'network.npz'
  if not records.agree(path.exists()):
    drawn = (module.init(key, one) for key in keys[2:])
    rows = [flatten_util.ravel_pytree(params)[0] for params in drawn]
    if config.network == 'trained':
      params = trained
      if params is None:
        params = fit(config, run_dir, keys[1], module, unravel(flat), train_set)
      rows.insert(0, flatten_util.ravel_pytree(params)[0])
    names = ['trained'] * (config.network == 'trained')
    names += ['fresh'] * config.num_fresh
    draws = [0] * (len(rows) - config.num_fresh) + [*range(config.num_fresh)]
    table = {
      'network': np.array(names, 'U8'),
      'draw': np.array(draws, np.int32),
      'parameters': np.stack(rows),
    }
    records.save_columns(path, table)
  table = records.load_columns(path)
  params = [unravel(row) for row in table['parameters']]
  names, draws = table['network'].tolist(), table['draw'].tolist()
  return list(zip(names, draws, params, strict=True))


def fit(config, run_dir, key, module, params, train_set):
  plan = train.TrainConfig(
    num_epochs=config.epochs, learning_rate=config.learning_rate
  )
  optimizer = train.make_optimizer(plan, len(train_set[0]))
  state = train.State(params, {}, optimizer.init(params))

  def forward(params, stats, x, key, train):
    return module.apply(params, x), stats

  history = train.fit(key, forward, state, *train_set, config=plan)
  with tqdm.tqdm(
    history, desc='training', total=config.epochs, unit='epoch'
  ) as bar:
    for pause in bar:
      records.log(run_dir, epoch=pause.epoch, loss=float(pause.loss))
      bar.set_postfix(loss=f'{pause.loss:.4f}')
  return pause.state.params


# --- Measuring -------------------------------------------------------------


class Unit(NamedTuple):
  """One network in one norm."""

  name: str
  draw: int
  norm: float
  params: dict


def collect(config, run_dir, model, classes, train_set, examples):
  """Measures network by network and norm by norm, and writes the columns.

  results.npz: one row a (network, norm, example); points.npz: the nearest
  points of the first examples. results.npz comes last: it ends the work.
  """
  module, _ = model
  nets = collection(config, run_dir, model, train_set)
  units = [
    Unit(name, draw, p, params)
    for name, draw, params in nets
    for p in config.norms
  ]
  parts = []
  total = len(units) * len(examples[0])
  with tqdm.tqdm(total=total, unit='example', smoothing=0.05) as bar:
    for unit in units:
      bar.set_description(f'{unit.name} {unit.draw}, l{unit.norm:g}')
      measure = programs.bind(
        measure_image, config=config, module=module, norm=unit.norm
      )
      for part in measure_unit(
        config, run_dir, unit, measure, classes, examples
      ):
        parts.append(part)
        bar.update(len(part[0]['index']))
  rows, points = (records.concatenate(t) for t in zip(*parts, strict=True))
  records.save_columns(run_dir / 'points.npz', points)
  records.save_columns(run_dir / 'results.npz', rows)


def measure_image(x, label, params, *, config, module, norm):
  """Returns `distances.examine` of one image and one network."""
  return distances.examine(
    lambda v: module.apply(params, v)[0],
    x,
    label,
    norm=norm,
    bounds=box(config),
    method=config.method,
    max_gradients=config.max_gradients,
  )


def box(config):
  return (0.0, 1.0) if config.box else None


def measure_unit(config, run_dir, unit, measure, classes, examples):
  """Yields `(rows, points)` of one unit, chunk by chunk."""
  xs, labels, index = examples
  if unit.name == 'fresh':
    labels = np.full_like(labels, -1)  # Its own predictions.
  size = min(config.batch_size, len(xs))
  starts = range(0, len(xs), size)

  def compute(done):
    # Whole batches, the last one filled up from the first: a run that goes on
    # computes in the same shapes as an unbroken one, and so to the same bits.
    rows = (np.array(starts[done:])[:, None] + np.arange(size)) % len(xs)
    batches = parallel.iterate_batches(
      measure,
      (xs.take(rows.ravel(), axis=0), labels[rows.ravel()]),
      shared=(unit.params,),
      batch_size=size,
    )
    for start, batch, found in zip(starts[done:], rows, batches, strict=True):
      found['lower'] = lower_bounds(config, unit, xs, batch, found)
      count = min(size, len(xs) - start)
      found = {name: column[:count] for name, column in found.items()}
      shown = xs[batch[: min(count, max(config.num_points - start, 0))]]
      yield to_part(unit, classes, shown, index, start, found)

  prefix = f'{unit.name}{unit.draw}-l{unit.norm:g}'
  names = [f'{prefix}-{start:06d}' for start in starts]
  return records.resume(run_dir, names, compute, load=load_part, save=save_part)


def load_part(run_dir, name):
  names = name, f'{name}-points'
  part = tuple(records.load_chunk(run_dir, name) for name in names)
  return None if None in part else part


def save_part(run_dir, name, part):
  rows, points = part
  records.save_chunk(run_dir, f'{name}-points', points)
  records.save_chunk(run_dir, name, rows)


def lower_bounds(config, unit, xs, rows, found):
  """Certified lower bounds of the distances `[n]`; NaN where there are none."""
  none = np.full(len(rows), np.nan)
  try:
    layers = models.dense_layers(unit.params) if config.certify else None
  except KeyError:  # Other layers than dense ones.
    layers = None
  if layers is None:
    return none
  # Without the ascent of slopes: a little lower, several times faster.
  lower = certify.lower_bounds(
    layers,
    xs[rows].reshape(len(rows), -1),
    found['label'],
    norm=unit.norm,
    bounds=box(config),
    num_steps=0,
    batch_size=len(rows),
  )
  return np.where(found['label'] == found['predicted'], lower, 0.0)


def to_part(unit, classes, shown, index, start, found):
  """Columns of one chunk; classes go by the data set's own numbers.

  `shown` are the first images of it, whose points are kept.
  """
  count = len(found['label'])
  named = lambda v: np.where(v < 0, -1, classes[v]).astype(np.int32)
  head = {
    'network': np.full(count, unit.name, 'U8'),
    'draw': np.full(count, unit.draw, np.int32),
    'norm': np.full(count, unit.norm, np.float32),
    'index': index[start : start + count],
    **{c: named(found[c]) for c in ('label', 'predicted', 'target')},
  }
  points = found.pop('point')
  table = head | {'distance': found['distance'], 'point': points}
  table = {name: column[: len(shown)] for name, column in table.items()}
  return found | head, table | {'x': shown}


# --- Judging ---------------------------------------------------------------


def summarize(config, run_dir):
  """Every number with n, interval, null and verdict."""
  results = records.load_columns(run_dir / 'results.npz')
  rows, compared = [], []
  for p in tqdm.tqdm(config.norms, desc='intervals'):
    fresh = records.select(results, network='fresh', norm=p)
    null = distances.describe(fresh)
    if config.network == 'trained':
      trained = records.select(results, network='trained', norm=p)
      rows.append(distances.describe(trained))
      ratio = distances.ratio_of_medians(trained, fresh)
      (median,) = rows[-1]['by_draw']
      said = verdict(ratio['interval'], median, null['by_draw'])
      compared.append({'norm': str(p), 'ratio': ratio, 'verdict': said})
    rows.append(null)
  return {
    'question': __doc__.split('\n')[0],
    'dataset': config.dataset,
    'split': config.split,
    'rows': rows,
    'compared_with_untrained': compared,
  }


def verdict(interval, median, nulls):
  """The rule of the module's docstring, in words."""
  if not np.all(np.isfinite(interval)):
    return 'too little found to tell'
  if interval[0] > 1 and median > np.max(nulls):
    return 'farther than untrained'
  if interval[1] < 1 and median < np.min(nulls):
    return 'nearer than untrained'
  return 'not told apart from untrained'


def report(summary):
  """Prints the summary as a table."""
  said = {row['norm']: row for row in summary['compared_with_untrained']}
  rows = []
  for row in summary['rows']:
    null = said.get(row['norm']) if row['network'] == 'trained' else None
    lower = row['lower_over_distance']
    rows.append(
      [
        row['network'],
        row['norm'].removesuffix('.0'),
        str(row['n']),
        *(f'{row["quantiles"][q]["value"]:.3g}' for q in ('5', '25')),
        common.with_interval(row['quantiles']['50'], '.3g'),
        *(f'{row["quantiles"][q]["value"]:.3g}' for q in ('75', '95')),
        f'{row["misclassified"]["value"]:.1%}',
        f'{row["not_found"]["value"]:.1%}',
        f'{row["gradients"]:.0f}',
        f'{row["alignment"]:.3f}',
        '-' if math.isnan(lower) else f'{lower:.2f}',
        ''
        if null is None
        else f'{null["ratio"]["value"]:.2f} times: {null["verdict"]}',
      ]
    )
  print(
    f'\ndistance to the boundary, {summary["dataset"]} {summary["split"]}, in '
    'input units (pixels in [0, 1]);\nquantiles in %, median with its 95 % '
    'interval; untrained networks by their own labels\n'
  )
  header = 'network,p,n,5,25,median,75,95,wrong,not found,gradients,aligned'
  header = [*header.split(','), 'certified', 'median against untrained']
  common.print_table(header, rows)


if __name__ == '__main__':
  common.main(run, Config, PRESETS)
