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
from typing import NamedTuple

import jax
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
  """What is measured; labels are places in `classes`, `rows` in the split.

  `trained` are networks, given or to be trained.
  """

  trained: networks.Group
  classes: np.ndarray
  train_set: tuple
  xs: np.ndarray | data.Column
  labels: np.ndarray
  rows: np.ndarray
  certified: bool = False  # Whether a --network is read by `certify`.

  @property
  def module(self):
    """The network without variables."""
    return self.trained.module


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
  made = [networks.variables(one.state) for one in given]
  trained = networks.Group(module, made, len(made) or config.num_trained)
  return Inputs(trained, classes, kept['train'][:2], *examples)


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
  one, bounds = [v[:1] for v in examples[:2]], bounds_of(config)
  own.check_examples(config, network, examples[0], bounds)
  certified = config.certify and own.can_be_certified(network, *one, bounds)
  if certified:
    print(
      'Lower bounds are certified too; with convolutions that can take '
      'minutes, and --nocertify leaves it out'
    )
  trained = networks.Group(network, [network.params], 1)
  return Inputs(trained, classes, examples[:2], *examples, certified)


def bounds_of(config):
  return config.bounds if config.box else None


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
  key = jax.random.fold_in(jax.random.key(config.seed), KINDS.index(kind))
  key, (xs, labels) = jax.random.fold_in(key, number), inputs.train_set
  plan = train.TrainConfig(
    num_epochs=config.epochs, learning_rate=config.learning_rate
  )
  if kind == 'trained':
    variables = inputs.trained.variables(number, key, xs, labels, plan)
  else:
    weights, _ = jax.random.split(key)
    optimizer = train.make_optimizer(plan, len(xs))
    state = train.init_state(weights, inputs.module, xs[0], optimizer)
    variables = networks.variables(state)
  return {
    'kind': np.array([kind], 'U9'),
    'network': np.array([number]),
    'parameters': networks.flatten(variables)[None],
  }


# --- Measuring -------------------------------------------------------------


def measure(config, inputs):
  """Yields the units: all networks, then the examples of each, norm by norm.

  networks: one row a network; results: one row a (network, norm, example);
  points: the same of the first network's first examples, with their points.
  """
  made = []
  # Of a network that is a function it is not known what it was at the start.
  untrained = 0 if config.network else config.num_untrained
  for kind, num in zip(KINDS, (inputs.trained.num, untrained), strict=True):
    for number in range(num):
      row = functools.partial(make_network, config, inputs, kind, number)
      unit = runner.Unit(f'network-{kind}-{number:03d}', row, 'networks')
      # One by one, before the rest: devices wait for each other in training.
      made.append((kind, number, (yield unit).result()['parameters'][0]))
  unravel = functools.partial(networks.unflatten, inputs.module, inputs.xs[0])
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
  # Below 0: the class that the network itself predicts.
  asked = np.full(size, -1) if kind == 'untrained' else labels
  search = programs.bind(
    measure_example,
    module=inputs.module,
    norm=norm,
    bounds=bounds_of(config),
    method=config.method,
    max_gradients=config.max_gradients,
  )
  found = parallel.map_examples(
    search, (xs, asked), shared=(variables,), batch_size=size
  )
  left = found['predicted'] if kind == 'untrained' else labels
  named = lambda v: np.where(v < 0, -1, inputs.classes[v])
  columns = found | {
    'kind': np.full(size, kind, 'U9'),
    'network': np.full(size, number),
    'norm': np.full(size, norm),
    'index': inputs.rows[rows],
    'label': named(labels),
    'predicted': named(found['predicted']),
    'target': named(found['target']),
    'lower': lower_bounds(
      config, inputs, variables, norm, np.asarray(xs), left
    ),
  }
  return {name: column[: num - start] for name, column in columns.items()}


def lower_bounds(config, inputs, variables, norm, xs, labels):
  """Returns certified lower bounds `[n]`; NaN where there are none."""
  half = getattr(inputs.module, 'dtype', None)  # No bound is of its rounding.
  dense = isinstance(inputs.module, DENSE) and half is None
  if not (config.certify and (dense or inputs.certified) and norm > 0):
    return np.full(len(xs), np.nan)
  return certify.lower_bounds(
    models.dense_layers(variables)
    if dense
    else as_function(inputs.module, variables),
    xs.reshape(len(xs), -1) if dense else xs,
    labels,
    norm=norm,
    bounds=bounds_of(config),
    num_steps=0,  # Several times faster, and lower by about 1 %.
    batch_size=len(xs),
  )


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

NOTHING = statistics.Estimate(np.nan, np.nan, np.nan, 0, 'networks')


def groups_of(results, norm):
  """Returns columns `[networks, examples]` in a norm, by kind of network."""
  return {
    kind: records.by_unit(records.select(results, kind=kind, norm=norm))
    for kind in KINDS
    if kind in results['kind']
  }


def median_of(distances):
  """Estimates a network's median; NaN if one of them is 0 or infinite."""
  medians = statistics.sample_quantile(50)(distances[:, None])
  return statistics.geometric_mean(medians, unit='networks')


def within_one(distances):
  """As `median_of`; of one network over its images, which say more of it."""
  if len(distances) > 1:
    return median_of(distances)
  return statistics.median(distances[0], unit='images')


def ratio_of(groups, column='distance'):
  """Estimates trained over untrained medians; NaN where one kind is missing.

  `lower` in place of trained networks' distances gives a certified bound.
  """
  if len(groups) < 2:
    return NOTHING
  ends = groups['trained'][column], groups['untrained']['distance']
  return statistics.ratio(*map(median_of, ends))


def analyze(config, found):
  """Compares the distances of trained networks with those of untrained ones."""
  results = found['results']
  cases = {norm: groups_of(results, norm) for norm in config.norms}
  judged = {norm: farther(norm, groups) for norm, groups in cases.items()}
  main = 2.0 if 2.0 in cases else config.norms[0]
  sentence = answer(config, main, cases[main], judged[main])
  names = {kind: kind for kind in KINDS}
  if config.network:
    names['trained'] = config.network
  shown = [distance_table(cases, names), search_table(cases, names)]
  judged = [*judged.values(), check_bounds(results)]
  return runner.Report(sentence, judged, shown)


def beyond(rows):
  """Where a certified bound exceeds the distance of a point found."""
  found = rows['status'] == boundary.Status.FOUND
  return found & (rows['lower'] > rows['distance'] * (1 + ROUNDING))


def farther(norm, groups):
  """The claim that training moves the boundary away from examples."""
  ratio = ratio_of(groups)
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
  labels = groups['trained']['label']
  right = np.mean(labels == groups['trained']['predicted'])
  guess = np.unique(labels, return_counts=True)[1].max() / labels.size
  reasons = [claims.why_untrained(right, guess, whose='trained networks')]
  for kind, rows in groups.items():
    why = claims.why_failed(rows['distance'][rows['distance'] > 0])
    reasons.append(why and f'{kind} networks: {why}')
  return next(filter(None, reasons), '')


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


def answer(config, norm, groups, claim):
  """One sentence."""
  if config.network:
    return answer_own(config, norm, groups['trained'])
  counts = ' and '.join(
    f'{len(rows["distance"])} {kind}' for kind, rows in groups.items()
  )
  num = next(iter(groups.values()))['distance'].shape[1]
  source = own.source(config)
  where = f'{counts} networks, {num} {config.split} images of {source}'
  ratio = ratio_of(groups)
  undefined = UNDEFINED if np.isnan(ratio.value) else ''
  if not (why := claim.not_tested or undefined):
    return (
      f'Images lie {tables.cell(ratio, ".2f")} times as far from the boundary '
      f'of trained networks as of untrained ones in l{norm:g} ({where}).'
    )
  parts = [
    f'{tables.cell(within_one(rows["distance"]))} ({kind})'
    for kind, rows in groups.items()
  ]
  return (
    f'The median distance from the boundary in l{norm:g} is '
    f'{" and ".join(parts)}, without a ratio: {why} ({where}).'
  )


def answer_own(config, norm, rows):
  """One sentence about the user's network."""
  far, right = rows['distance'][0], rows['label'] == rows['predicted']
  low, high = (statistics.sample_quantile(p)(far[None]) for p in (5, 95))
  _, counts = np.unique(rows['label'], return_counts=True)
  poor = right.mean() <= counts.max() / far.size
  hint = ', no more than by a guess: see to labels and scaling' if poor else ''
  return (
    f'The median distance of {config.network} from its boundary in l{norm:g} '
    f'is {tables.cell(statistics.median(far, unit="images"))} at {far.size} '
    f'images of {own.source(config)} (5 to 95 %: {low:.3g} to {high:.3g}); '
    f'{right.mean():.0%} are classified correctly{hint}, and the '
    f'search failed at {np.isinf(far).mean():.0%}.'
  )


# --- Tables ----------------------------------------------------------------


def distance_table(cases, names):
  """Quantiles of distances; `names` of networks in rows, by kind."""
  rows = []
  for norm, groups in cases.items():
    both = ratio_of(groups), ratio_of(groups, 'lower')
    for kind, of in groups.items():
      right = of['label'] == of['predicted']
      right = (
        statistics.proportion(right[0], unit='images')
        if len(right) == 1
        else statistics.proportion(right.mean(1), unit='networks')
      )
      low, lower, higher, high = (
        statistics.sample_quantile(p)(of['distance']) for p in (5, 25, 75, 95)
      )
      quantiles = low, lower, within_one(of['distance']), higher, high
      compared = kind == 'trained' and len(groups) > 1
      ratios = both if compared else (None, None)
      rows.append([f'l{norm:g}', names[kind], right, *quantiles, *ratios])
  columns = [
    ('norm', ''),
    ('networks', ''),
    ('correct', 'share of examples classified correctly', '', '.1%'),
    ('5 %', 'quantile of all distances, as 25, 75, 95 %', 'input units'),
    ('25 %', '', 'input units'),
    ('median', 'of several networks the geometric mean', 'input units'),
    ('75 %', '', 'input units'),
    ('95 %', '', 'input units'),
    ('ratio', 'of medians, trained over untrained', '', '.2f'),
    ('at least', 'ratio with certified bounds of trained', '', '.2f'),
  ]
  return tables.table('Distances from the boundary', columns, rows)


def middle(values):
  """The median of what is finite."""
  values = values[np.isfinite(values)]
  return np.median(values) if values.size else np.nan


def search_table(cases, names):
  """How searches went, and certified bounds; `names` as above."""
  rows = []
  for norm, groups in cases.items():
    for kind, of in groups.items():
      far, there = of['distance'], of['status'] == boundary.Status.FOUND
      means = np.isinf(far).mean(), of['gradients'].mean()
      medians = (
        middle(of['alignment'][there]),
        middle(of['lower'][there] / far[there]),
      )
      row = [f'l{norm:g}', names[kind], far.size, *means, *medians]
      rows.append([*row, beyond(of).sum()])
  columns = [
    ('norm', ''),
    ('networks', ''),
    ('examples', 'of all networks'),
    ('failed', 'share whose search found no boundary', '', '.1%'),
    ('gradients', 'mean number in a search', '', '.0f'),
    ('alignment', f'{COLUMNS["alignment"][1]}; median', '', '.4f'),
    ('certified', 'lower bound over the distance; median', '', '.3f'),
    ('beyond', 'lower bounds that exceed the distance found'),
  ]
  return tables.table('Searches and certified bounds', columns, rows)


EXPERIMENT = runner.Experiment(
  'experiments.boundary_distances', __doc__, Config, PRESETS, COLUMNS,
  measure, analyze, figures.draw, load=load, check=check, threads=2,
)  # fmt: skip
run = EXPERIMENT.run

if __name__ == '__main__':
  EXPERIMENT.main()
