"""Does training move the decision boundary away from the data?

Trains several networks, finds for every example the nearest point where each
network's class changes, in each norm, and holds the distances against those of
untrained networks of the same architecture on the same examples.

  python -m experiments.boundary_distances
  python -m experiments.boundary_distances --dataset=mnist --data_dir=DIR \
    --model=convolutional --width=32 --depth=3 --workdir=runs/mnist
  python -m experiments.boundary_distances --checkpoint=runs/net0,runs/net1
  python -m experiments.boundary_distances --network=my.module:function \
    --data=my_images.npz --workdir=runs/mine

The first takes 4 minutes on 2 CPU cores, --preset=quick 40 seconds. A run
that was killed goes on where it was.

A distance is that of a point that was seen to have another class: an upper
bound, which a longer search may lower. Dense networks, and a --network of
supported operations, get certified lower bounds besides. Misclassified examples
have distance 0, failed searches infinity; both count in every quantile. An
untrained network's distances are from the boundary of the class that it
predicts, so that none is 0, which makes the comparison harder to pass.

The unit is the network. The ratio of median distances, trained over untrained,
is that of the geometric means of the networks' medians; its interval is over
networks, given the examples, which all of them share. An interval below 1
refutes the claim.
"""

import dataclasses
import functools
from typing import Any
from typing import NamedTuple

import jax
from jax import flatten_util
import jax.numpy as jnp
import numpy as np

from dmm_jax import boundary
from dmm_jax import certify
from dmm_jax import data
from dmm_jax import models
from dmm_jax import normals
from dmm_jax import parallel
from dmm_jax import programs
from dmm_jax import records
from dmm_jax import statistics
from dmm_jax import train
from experiments import networks
from experiments.figures import boundary_distances as figures
from experiments.lib import claims
from experiments.lib import flags
from experiments.lib import own
from experiments.lib import runner
from experiments.lib import tables

KINDS = ('trained', 'untrained')
MODELS = ('fully_connected', 'convolutional', 'resnet')
DENSE = (models.FullyConnected, models.MLP, models.Linear)  # To be certified.
MOST_FAILED = 0.05  # Share of the searches, where a claim is tested.
ROUNDING = 1e-4  # By which a certified bound may exceed a distance.
UNDEFINED = 'undefined, as the median of a network is 0 or infinite'


@dataclasses.dataclass(frozen=True)
class Config:
  preset: str = flags.preset()
  workdir: str = flags.workdir('runs/boundary_distances')
  seed: int = flags.seed()
  dataset: str = flags.dataset()
  data_dir: str = flags.data_dir()
  in_memory: bool = flags.flag(
    True, 'Hold all images in memory; false reads each batch from disk.'
  )
  split: str = flags.flag(
    'test', 'Split to measure: train or test.', choices=('train', 'test')
  )
  num_examples: int = flags.flag(
    100, 'Number of examples: the first of the split, at most all.', least=1
  )
  classes: tuple[int, ...] = flags.flag(
    (-1,), 'Classes to train on and to measure; -1 keeps all.', least=-1
  )
  model: str = flags.flag(
    'fully_connected', f'Architecture: {", ".join(MODELS)}.', choices=MODELS
  )
  width: int = flags.flag(100, 'Units or channels of a layer.', least=1)
  depth: int = flags.flag(
    2, 'Hidden layers; of a resnet, blocks of each of three stacks.', least=1
  )
  checkpoint: str = flags.flag(
    '',
    'Runs of train_classifier, separated by commas, whose networks are '
    'measured; --model, --width, --depth, --num_trained, --epochs and '
    '--learning_rate then have no effect. Empty trains networks here.',
  )
  network: str = flags.flag('', own.HELP)
  data: str = flags.flag('', own.DATA_HELP)
  num_trained: int = flags.flag(
    8, 'Number of networks to train; 0 measures untrained ones alone.', least=0
  )
  num_untrained: int = flags.flag(
    16, 'Number of untrained networks; 0 measures trained ones alone.', least=0
  )
  epochs: int = flags.flag(40, 'Passes over the training set.', least=1)
  learning_rate: float = flags.flag(
    3e-3, 'Learning rate of Adam at the start; falls to 0.', least=0
  )
  norms: tuple[float, ...] = flags.flag(
    (1.0, 2.0, np.inf),
    'Norms of the distance: any p >= 1, inf, or 0 for the number of changed '
    'inputs.',
    least=0,
    infinite=True,
  )
  method: str = flags.method('portfolio')
  max_gradients: int = flags.max_gradients(2000)
  box: bool = flags.flag(True, 'Keep perturbed inputs within --bounds.')
  bounds: tuple[float, ...] = flags.flag(
    (0.0, 1.0), 'Least and largest value of an input.'
  )
  certify: bool = flags.flag(
    True,
    'Certify lower bounds of dense networks, and of a --network whose '
    'operations are supported and whose layers fit into memory as matrices.',
  )
  batch_size: int = flags.flag(
    100, 'Number of examples measured and saved together.', least=1
  )


PRESETS = {
  'quick': dict(
    workdir='runs/boundary_distances_quick',
    num_examples=50,
    width=50,
    epochs=20,
    norms=(2.0,),
    method='fast',
  ),
  'default': {},
}
COLUMNS = {
  'kind': ('', 'trained or untrained'),
  'network': ('', 'number of the network among those of its kind'),
  'parameters': ('', 'variables of the network, as ravel_pytree orders them'),
  'norm': ('', 'exponent of the norm; 0 counts changed inputs'),
  'index': ('', 'row of the example in its split'),
  'label': ('', 'class of the example; classes by their numbers in the set'),
  'predicted': ('', 'class that the network predicts'),
  'target': ('', 'class beyond the boundary; -1 where none was found'),
  'distance': (
    'input units',
    '0 where misclassified, inf if the search failed',
  ),
  'lower': ('input units', 'certified lower bound; NaN where there is none'),
  'status': ('', 'how the search ended, a boundary.Status'),
  'gradients': ('', 'value-and-gradient evaluations of the search'),
  'forwards': ('', 'forward evaluations of the search'),
  'margin': ('logits', 'at the point, of the class whose boundary it is on'),
  'alignment': ('', 'with the normal, but for pixels that the box stops'),
  'x': ('input units', 'the example'),
  'point': ('input units', 'nearest boundary point; x where none was found'),
}


def check(config):
  """Raises FlagError for flags that do not go together."""
  flags.check_method(config.method, config.norms)
  if 0 in config.norms and not config.box:
    raise flags.FlagError('norm 0 needs --box: inputs have no other end')
  if len(config.bounds) != 2 or not config.bounds[0] < config.bounds[1]:
    raise flags.FlagError('--bounds has to be two numbers, the least first')
  if config.network and config.checkpoint:
    raise flags.FlagError('--network and --checkpoint exclude each other')
  given = config.checkpoint or config.network
  if not (config.num_trained or config.num_untrained or given):
    raise flags.FlagError('--num_trained=0 and --num_untrained=0: no networks')


# --- Data and networks -----------------------------------------------------


class Inputs(NamedTuple):
  """What is measured; labels are places in `classes`, `rows` in the split."""

  module: Any
  checkpoints: list  # Variables of trained networks; empty to train them.
  classes: np.ndarray
  train_set: tuple
  xs: np.ndarray | data.Column
  labels: np.ndarray
  rows: np.ndarray
  certified: bool = False  # Whether a --network is read by `certify`.


def load(config):
  """Returns `Inputs`: the examples, and what networks are made of."""
  if config.network:
    return load_own(config)
  sets = {
    split: own.read(config, split, in_memory=config.in_memory)
    for split in dict.fromkeys(('train', config.split))
  }
  known = classes = np.unique(sets['train'][1])
  if config.classes != (-1,):
    classes = np.unique(config.classes)
  if len(classes) < 2 or not np.isin(classes, known).all():
    raise flags.FlagError(
      f'--classes={",".join(map(str, config.classes))} has to name at least '
      f'two of {", ".join(map(str, known))}'
    )
  kept = {name: data.of_classes(*pair, classes) for name, pair in sets.items()}
  examples = [column[: config.num_examples] for column in kept[config.split]]
  paths = [path for path in config.checkpoint.split(',') if path]
  given = [
    networks.read_for(path, examples[0].shape[1:], len(classes))
    for path in paths
  ]
  module = given[0].module if given else build(config, len(classes))
  if len(set(paths)) < len(paths) or any(one.module != module for one in given):
    raise flags.FlagError(
      f'--checkpoint={config.checkpoint} has to name different runs, of '
      'networks of one architecture'
    )
  trained = [networks.variables(one.state) for one in given]
  return Inputs(module, trained, classes, kept['train'][:2], *examples)


def load_own(config):
  """As `load`, for a network of the user's, whose classes are its logits."""
  xs, labels = own.read(config, config.split, in_memory=config.in_memory)
  network = own.network(config.network, xs[:1], labels)
  classes = np.arange(network.num_classes)
  kept = classes if config.classes == (-1,) else np.array(config.classes)
  rows = np.flatnonzero(np.isin(labels, kept))[: config.num_examples]
  if not len(rows):
    raise flags.FlagError(
      f'--classes={",".join(map(str, config.classes))}: no example has them'
    )
  examples = xs.take(rows, axis=0), labels[rows], rows
  inputs = Inputs(network, [network.params], classes, examples[:2], *examples)
  return inputs._replace(certified=config.certify and is_read(config, inputs))


def is_read(config, inputs):
  """Whether `certify` reads a user's network; prints why it does not."""
  try:
    certify.check_network(
      as_function(inputs.module, inputs.checkpoints[0]),
      inputs.xs[:1],
      inputs.labels[:1],
      bounds=config.bounds if config.box else None,
    )
  except (TypeError, ValueError) as error:
    print(f'No certified bounds: {error}')
    return False
  return True


def as_function(module, variables):
  """A network as a function of one input alone."""
  return lambda x: module.apply(variables, x)[0]


def build(config, num_classes):
  if config.model == 'resnet':
    return models.ResNet(config.width, config.depth, num_classes=num_classes)
  dense = config.model == 'fully_connected'
  kind = models.FullyConnected if dense else models.Convolutional
  return kind(config.depth * (config.width,), num_classes)


def make_network(config, inputs, kind, number):
  """A row of networks.npz: a network from a checkpoint, drawn, or trained."""
  if kind == 'trained' and inputs.checkpoints:
    variables = inputs.checkpoints[number]
  else:
    xs, labels = inputs.train_set
    plan = train.TrainConfig(
      num_epochs=config.epochs, learning_rate=config.learning_rate
    )
    optimizer = train.make_optimizer(plan, len(xs))
    key = jax.random.fold_in(jax.random.key(config.seed), KINDS.index(kind))
    of_weights, of_order = jax.random.split(jax.random.fold_in(key, number))
    state = train.init_state(of_weights, inputs.module, xs[0], optimizer)
    if kind == 'trained':
      forward = programs.bind(to_train, module=inputs.module)
      for pause in train.fit(of_order, forward, state, xs, labels, config=plan):
        state = pause.state
    variables = networks.variables(state)
  return {
    'kind': np.array([kind], 'U9'),
    'network': np.array([number]),
    'parameters': flatten_util.ravel_pytree(variables)[0][None],
  }


def to_train(params, stats, x, key, train, *, module):
  """A network as `train.fit` takes it."""
  del key, train
  return module.apply({'params': params}, x), stats


# --- Measuring -------------------------------------------------------------


def measure(config, inputs):
  """Yields the units: all networks, then the examples of each, norm by norm.

  networks: one row a network; results: one row a (network, norm, example);
  points: the same of the first network's first examples, with their points.
  """
  made = []
  trained = len(inputs.checkpoints) or config.num_trained
  # Of a network that is a function it is not known what it was at the start.
  untrained = 0 if config.network else config.num_untrained
  for kind, num in zip(KINDS, (trained, untrained), strict=True):
    for number in range(num):
      row = functools.partial(make_network, config, inputs, kind, number)
      unit = runner.Unit(f'network-{kind}-{number:03d}', row, 'networks')
      # One by one, before the rest: devices wait for each other in training.
      made.append((kind, number, (yield unit).result()['parameters'][0]))
  like = jax.eval_shape(inputs.module.init, jax.random.key(0), inputs.xs[0])
  like = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), like)
  _, unravel = flatten_util.ravel_pytree(like)
  made = [(kind, number, unravel(flat)) for kind, number, flat in made]
  points = {}
  for norm in config.norms:  # First: what compiles.
    rows = functools.partial(measure_batch, config, inputs, made[0], norm, 0)
    rows = functools.partial(with_examples, rows, inputs.xs)
    points[norm] = yield runner.Unit(f'points-l{norm:g}', rows, 'points')
  for network in made:
    for norm in config.norms:
      for start in range(0, len(inputs.xs), config.batch_size):
        rows = functools.partial(
          measure_batch, config, inputs, network, norm, start
        )
        if start == 0 and network is made[0]:
          rows = points[norm].result
        yield runner.Unit(
          f'{network[0]}-{network[1]:03d}-l{norm:g}-{start:06d}',
          functools.partial(without_points, rows),
        )


def measure_batch(config, inputs, network, norm, start):
  """Rows of one network, norm and batch of examples, with the points."""
  kind, number, variables = network
  num = len(inputs.xs)
  size = min(config.batch_size, num)
  # The last batch is filled up from the first example: one shape, one program.
  rows = (start + np.arange(size)) % num
  xs, labels = inputs.xs.take(rows, axis=0), inputs.labels[rows]
  own = np.full(size, -1)  # The class that the network itself predicts.
  bounds = config.bounds if config.box else None
  search = programs.bind(
    measure_example,
    module=inputs.module,
    norm=norm,
    bounds=bounds,
    method=config.method,
    max_gradients=config.max_gradients,
  )
  found = parallel.map_examples(
    search,
    (xs, own if kind == 'untrained' else labels),
    shared=(variables,),
    batch_size=size,
  )
  lower = np.full(size, np.nan)
  half = getattr(inputs.module, 'dtype', None)  # No bound is of its rounding.
  dense = isinstance(inputs.module, DENSE) and half is None
  if config.certify and (dense or inputs.certified) and norm > 0:
    lower = certify.lower_bounds(
      models.dense_layers(variables)
      if dense
      else as_function(inputs.module, variables),
      np.asarray(xs).reshape(size, -1) if dense else np.asarray(xs),
      found['predicted'] if kind == 'untrained' else labels,
      norm=norm,
      bounds=bounds,
      num_steps=0,  # Several times faster, and lower by about 1 %.
      batch_size=size,
    )
  named = lambda v: np.where(v < 0, -1, inputs.classes[v])
  columns = found | {
    'kind': np.full(size, kind, 'U9'),
    'network': np.full(size, number),
    'norm': np.full(size, norm),
    'index': inputs.rows[rows],
    'label': named(labels),
    'predicted': named(found['predicted']),
    'target': named(found['target']),
    'lower': lower,
  }
  return {name: column[: num - start] for name, column in columns.items()}


def measure_example(x, label, variables, *, module, norm, **options):
  """Measures one example; a label below 0 is the class that is predicted."""
  logits_fn = lambda v: module.apply(variables, v)[0]
  predicted = jnp.argmax(logits_fn(x))
  label = jnp.where(label < 0, predicted, label)
  found = boundary.nearest_point(logits_fn, x, label, norm=norm, **options)
  alignment = jnp.nan  # A count has no direction.
  if norm:
    alignment = normals.alignment(
      found.point - x, found.normal, x, norm=norm, bounds=options['bounds']
    )
  columns = found._asdict() | {'predicted': predicted, 'alignment': alignment}
  return {name: columns[name] for name in COLUMNS if name in columns}


def with_examples(rows, xs):
  columns = rows()
  return columns | {'x': xs[np.arange(len(columns['index']))]}


def without_points(rows):
  return {k: v for k, v in rows().items() if k not in ('x', 'point')}


# --- Judging ---------------------------------------------------------------


def analyze(config, found):
  """Compares the distances of trained networks with those of untrained ones."""
  column = tables.Column
  distances = tables.Table(
    'Distances from the boundary',
    [
      column('norm', '', ''),
      column('networks', '', ''),
      column('correct', '', 'share of examples classified correctly', '.1%'),
      column(
        '5 %', 'input units', 'quantile of all distances, as 25, 75, 95 %'
      ),
      column('25 %', 'input units', ''),
      column('median', 'input units', 'geometric mean over networks'),
      column('75 %', 'input units', ''),
      column('95 %', 'input units', ''),
      column('ratio', '', 'of medians, trained over untrained', '.2f'),
      column('at least', '', 'ratio with certified bounds of trained', '.2f'),
    ],
    [],
  )
  searches = tables.Table(
    'Searches and certified bounds',
    [
      column('norm', '', ''),
      column('networks', '', ''),
      column('examples', '', 'of all networks'),
      column('failed', '', 'share whose search found no boundary', '.1%'),
      column('gradients', '', 'mean number in a search', '.0f'),
      column('alignment', '', f'{COLUMNS["alignment"][1]}; median', '.4f'),
      column('certified', '', 'lower bound over the distance; median', '.3f'),
      column('beyond', '', 'lower bounds that exceed the distance found'),
    ],
    [],
  )
  judged, answers = [], {}
  for norm in config.norms:
    groups = {
      kind: per_network(found['results'], kind, norm)
      for kind in KINDS
      if kind in found['results']['kind']
    }
    medians = {k: median_of(rows['distance']) for k, rows in groups.items()}
    ratio, at_least = NOTHING, NOTHING
    if len(groups) == 2:
      ratio = statistics.ratio(medians['trained'], medians['untrained'])
      bound = median_of(groups['trained']['lower'])
      at_least = statistics.ratio(bound, medians['untrained'])
    for kind, rows in groups.items():
      far, there = rows['distance'], rows['status'] == boundary.Status.FOUND
      q = lambda p, far=far: float(statistics.sample_quantile(p)(far))
      right = np.mean(rows['label'] == rows['predicted'], axis=1)
      distances.rows.append(
        [
          f'l{norm:g}',
          kind,
          statistics.proportion(right, unit='networks'),
          *(q(5), q(25), medians[kind], q(75), q(95)),
          *((ratio, at_least) if kind == 'trained' else (None, None)),
        ]
      )
      searches.rows.append(
        [
          f'l{norm:g}',
          kind,
          far.size,
          float(np.mean(np.isinf(far))),
          float(np.mean(rows['gradients'])),
          middle(rows['alignment'][there]),
          middle(rows['lower'][there] / far[there]),
          int(beyond(rows).sum()),
        ]
      )
    judged.append(farther(norm, ratio, groups))
    answers[norm] = answer(config, norm, groups, medians, ratio, judged[-1])
  judged.append(check_bounds(found['results']))
  main = 2.0 if 2.0 in config.norms else config.norms[0]
  return runner.Report(answers[main], judged, [distances, searches])


NOTHING = statistics.Estimate(np.nan, np.nan, np.nan, 0, 'networks')


def per_network(results, kind, norm):
  """Columns of the networks of a kind `[networks, examples]`."""
  rows = records.select(results, kind=kind, norm=norm)
  num = rows['network'].max() + 1
  return {name: column.reshape(num, -1) for name, column in rows.items()}


def median_of(distances):
  """Estimates a network's median; NaN if one of them is 0 or infinite."""
  medians = statistics.sample_quantile(50)(distances[:, None])
  usable = (medians > 0) & np.isfinite(medians)
  found = statistics.t_mean(
    np.log(np.where(usable, medians, np.nan)), unit='networks'
  )
  value, low, high = np.exp(found[:3]).tolist()
  return found._replace(value=value, low=low, high=high)


def middle(values):
  """The median of what is finite."""
  values = values[np.isfinite(values)]
  return float(np.median(values)) if values.size else np.nan


def beyond(rows):
  """Where a certified bound exceeds the distance of a point found."""
  found = rows['status'] == boundary.Status.FOUND
  return found & (rows['lower'] > rows['distance'] * (1 + ROUNDING))


def farther(norm, ratio, groups):
  """The claim that training moves the boundary away from examples."""
  what = 'ratio of trained to untrained median distances'
  if np.isnan(ratio.value):
    what += f' ({UNDEFINED})'
  return claims.Claim(
    '',
    f'farther in l{norm:g}',
    f'Training moves the boundary away from examples of the data in l{norm:g}.',
    (claims.above(what, ratio, 1.0),),
    why_not_tested(groups),
  )


def why_not_tested(groups):
  """Why the distances say nothing of the claim, or ''."""
  for kind in KINDS:
    if kind not in groups:
      return f'there are no {kind} networks'
    if len(groups[kind]['distance']) < 2:
      return f'there is one {kind} network, which says nothing of others'
  right = groups['trained']['label'] == groups['trained']['predicted']
  _, counts = np.unique(groups['trained']['label'], return_counts=True)
  chance = counts.max() / counts.sum()
  if right.mean() < (1 + chance) / 2:
    return (
      f'trained networks classify {right.mean():.0%} of the examples '
      f'correctly, less than half way from chance ({chance:.0%}) to all'
    )
  for kind, rows in groups.items():
    failed = np.isinf(rows['distance']).sum() / (rows['distance'] > 0).sum()
    if failed > MOST_FAILED:
      return f'{failed:.0%} of the searches at {kind} networks failed'
  return ''


def check_bounds(results):
  """The claim, of our own instruments, that certified bounds are bounds."""
  num, wrong = np.sum(~np.isnan(results['lower'])), beyond(results).sum()
  text = f'{wrong} of {num} certified bounds exceed the distance found'
  return claims.Claim(
    '',
    'certified bounds',
    'No certified lower bound exceeds a distance that was found (a check of '
    'our own instruments).',
    (claims.Condition(text, bool(wrong == 0), float(wrong > 0)),),
    '' if num else 'there are no certified bounds',
  )


def answer(config, norm, groups, medians, ratio, claim):
  """One sentence."""
  counts = ' and '.join(
    f'{median.n} {kind}' for kind, median in medians.items()
  )
  num = next(iter(groups.values()))['distance'].shape[1]
  where = f'{counts} networks, {num} {config.split} images of {config.dataset}'
  why = claim.not_tested or (UNDEFINED if np.isnan(ratio.value) else '')
  if not why:
    return (
      f'Images lie {tables.cell(ratio, ".2f")} times as far from the boundary '
      f'of trained networks as of untrained ones in l{norm:g} ({where}).'
    )
  parts = [
    f'{tables.cell(median)} ({kind})' for kind, median in medians.items()
  ]
  return (
    f'The median distance from the boundary in l{norm:g} is '
    f'{" and ".join(parts)}, without a ratio: {why} ({where}).'
  )


EXPERIMENT = runner.Experiment(
  'experiments.boundary_distances', __doc__, Config, PRESETS, COLUMNS,
  measure, analyze, figures.draw, load=load, check=check, threads=2,
)  # fmt: skip
run = EXPERIMENT.run

if __name__ == '__main__':
  EXPERIMENT.main()
