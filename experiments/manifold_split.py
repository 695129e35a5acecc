"""Do perturbations avoid the data's manifold, more than a random subspace?

Shamir, Melamed, BenShmuel (2021), https://arxiv.org/abs/2106.10151:
"adversarial perturbations are roughly perpendicular to the low dimensional
manifold which contains all the training examples", and on the manifold they are
larger than off it.

  python -m experiments.manifold_split
  python -m experiments.manifold_split --preset=mnist --data_dir=DIR
  python -m experiments.manifold_split --network=my.module:function

The first takes 2 minutes on 2 CPU cores, --preset=quick 1, mnist 11 and cifar
12. A run that was killed goes on where it was.

Classifiers and auto-encoders are trained and crossed. The derivative of an
auto-encoder's decoder at an image's code spans the manifold's tangent space, k
of d dimensions. From each image that a classifier gets right the nearest
boundary point is searched without restriction (the perturbation), within the
tangent space (on) and orthogonal to it (off), and likewise for the subspaces of
`NULLS`. How much of a perturbation lies in a subspace is its share of squared
length, by direction; or off^2 / (on^2 + off^2), by distance, the same at a flat
boundary. Of a random subspace both are k / d on average: any small one is
"roughly perpendicular". The enrichment A is the odds of a share over those of
k / d.

  roughly perpendicular   refuted by a share by direction above 1/2
  longer on the manifold  refuted by perturbations that are shorter on it than
                          off it: in the tangent plane, or on the curved
                          manifold, searched through the decoder
  less than in NULL       (the strong form) refuted by odds of the share, by
                          direction or by distance, larger than in the null

The unit is the network: mean shares over the images of each classifier beside
each auto-encoder, on the logit scale; Student's, by the jackknife over both.
Nothing is tested where an auto-encoder is worse than PCA at held-out images,
classifiers are less than half way from a guess to perfect, or more than 5 % of
the free searches fail.
"""

import dataclasses
import functools
from typing import Any
from typing import NamedTuple

import jax
import numpy as np
from scipy import special

from dmm_jax import data
from dmm_jax import manifold
from dmm_jax import models
from dmm_jax import parallel
from dmm_jax import records
from dmm_jax import statistics
from dmm_jax import train
from experiments import networks
from experiments.figures import manifold_split as figures
from experiments.lib import claims
from experiments.lib import flags
from experiments.lib import own as own_lib
from experiments.lib import runner
from experiments.lib import tables

PAPER = '2106.10151'
HERE = ('here',)
OWN = 'manifold'  # The kind of subspace that is asked about.
NULLS = {
  'random': 'random subspaces',
  'frequency': 'cosines of lowest frequency',
  'other': "another image's tangent space",
  'principal': 'principal directions',
  'permuted': 'the tangent space with permuted pixels',
}
STATEMENTS = {
  'roughly perpendicular': 'Adversarial perturbations are roughly '
  'perpendicular to the low dimensional manifold which contains all the '
  'training examples (weak form: more of their squared length is off it than '
  'on it, as of any small subspace).',
  'longer on the manifold': 'On-manifold adversarial perturbations have a '
  'larger norm than off-manifold ones (weak form: as in any small subspace).',
} | {
  f'less than in {null}': 'Adversarial perturbations are perpendicular to the '
  'manifold (strong form: less of them lies in its tangent space than in '
  f'{null} of as many dimensions).'
  for null in NULLS.values()
}
# What stands for the manifold at an image, as reports call it.
SPACES = {
  'decoder': 'the tangent space',
  'neighbors': "the neighbours' directions",
  'principal': 'the principal directions',
}
# By the manifold, why it has not these nulls.
ABSENT = {'principal': ('other', 'principal')}
MOST_FAILED = 0.05
HELD_OUT = 1000  # Images of the check of auto-encoders, at most.
NUM_POINTS = 6  # Images whose boundary points are kept.


@dataclasses.dataclass(frozen=True)
class Config:
  preset: str = flags.preset()
  workdir: str = flags.workdir('runs/manifold_split')
  seed: int = flags.seed()
  dataset: str = flags.dataset()
  data_dir: str = flags.data_dir()
  num_examples: int = flags.flag(100, 'Test images of a classifier.', least=2)
  num_classifiers: int = flags.flag(8, 'Classifiers to train.', least=1)
  model: str = flags.flag(
    'mlp', 'Architecture of classifiers.', choices=('mlp', 'cnn', 'playground')
  )
  width: int = flags.flag(16, 'Channels of playground, at first.', least=1)
  augment: bool = flags.flag(
    False, 'Mirror and shift images, by up to 2 pixels, to train classifiers.'
  )
  epochs: int = flags.flag(20, 'Passes that train classifiers.', least=1)
  checkpoints: tuple[str, ...] = flags.flag(
    HERE, 'Runs of train_classifier to measure; "here" trains classifiers here.'
  )
  network: str = flags.flag('', own_lib.HELP)
  data: str = flags.flag('', own_lib.DATA_HELP)
  manifold: str = flags.flag(
    'decoder',
    'Tangent space: that of a decoder, or principal directions of the nearest '
    'training images (neighbors) or of all (principal).',
    choices=tuple(SPACES),
  )
  num_autoencoders: int = flags.flag(4, 'Auto-encoders to train.', least=1)
  latent: int = flags.flag(8, 'Dimensions k of auto-encoders.', least=1)
  widths: tuple[int, ...] = flags.flag(
    (16, 32), "Channels of the auto-encoders' layers, different ones.", least=1
  )
  autoencoder_epochs: int = flags.flag(40, 'Passes of auto-encoders.', least=1)
  autoencoders: tuple[str, ...] = flags.flag(
    HERE, 'Runs of train_autoencoder; "here" trains auto-encoders here.'
  )
  box: bool = flags.flag(False, 'Keep perturbed pixels in [0, 1].')
  method: str = flags.method('fast')
  max_gradients: int = flags.max_gradients(200)
  batch_size: int = flags.flag(300, 'Searches at once.', least=1)


PRESETS = {
  'default': {},
  'quick': dict(
    num_examples=50,
    num_classifiers=6,
    num_autoencoders=3,
    epochs=10,
    autoencoder_epochs=20,
  ),
  'mnist': dict(
    dataset='mnist',
    num_examples=60,
    num_classifiers=5,
    num_autoencoders=3,
    model='cnn',
    epochs=2,
    latent=16,
    widths=(16, 32, 64),
    autoencoder_epochs=2,
  ),
  'cifar': dict(
    dataset='cifar10',
    num_examples=60,
    num_classifiers=3,
    model='playground',
    epochs=12,
    augment=True,
    manifold='principal',
    latent=128,
    batch_size=60,
  ),
  'full': dict(
    dataset='mnist',
    model='cnn',
    num_examples=1000,
    num_classifiers=20,
    num_autoencoders=10,
    latent=16,
    widths=(32, 64, 128),
    method='portfolio',
    max_gradients=1000,
  ),
}
COLUMNS = {
  'classifier': ('', 'number of the classifier'),
  'autoencoder': ('', 'number of the auto-encoder; -1: none is involved'),
  'parameters': ('', 'variables of the network, as ravel_pytree orders them'),
  'accuracy': ('', 'share of all test images that it classifies correctly'),
  'chance': ('', 'share of the largest class among the test images'),
  'error': ('input units^2', 'mean squared error of its reconstruction'),
  'principal_error': ('input units^2', 'the same of PCA with as many numbers'),
  'start': ('', 'the image, or what the auto-encoder makes of it (decoded)'),
  'kind': ('', f'subspace: {OWN} or a null'),
  'k': ('', 'dimensions of the subspace'),
  'd': ('', 'dimensions of an image'),
  'index': ('', 'row of the image in the test set'),
  'label': ('', 'class of the image'),
  'free': ('input units', 'distance; 0: misclassified, inf: nothing found'),
  'on': ('input units', 'distance within the subspace'),
  'off': ('input units', 'distance orthogonal to the subspace'),
  'share': ('', 'of squared length of the free perturbation, in the subspace'),
  'curved': ('input units', 'distance on the curved manifold; NaN: no search'),
  'x': ('input units', 'where the searches start'),
  'free_point': ('input units', 'nearest boundary point'),
  'on_point': ('input units', 'the same within the subspace'),
  'off_point': ('input units', 'the same orthogonal to the subspace'),
  'free_target': ('', 'class of free_point; -1 where none was found'),
  'on_target': ('', 'class of on_point; -1 where none was found'),
  'off_target': ('', 'class of off_point; -1 where none was found'),
}


def check(config):
  """Raises FlagError for flags that do not go together."""
  flags.check_method(config.method)
  if config.network and config.checkpoints != HERE:
    raise flags.FlagError('--network and --checkpoints exclude each other')


# --- Data and networks -------------------------------------------------------


class Inputs(NamedTuple):
  """What is measured: networks, and `(xs, labels)` of two splits."""

  classifiers: networks.Group
  autoencoders: networks.Group
  train_set: tuple
  test_set: tuple
  k: int


def load(config):
  """Returns `Inputs`, having checked all that flags may have wrong."""
  sets = [own_lib.read(config, split) for split in ('train', 'test')]
  xs, labels = sets[0]
  shape, num_classes = xs.shape[1:], int(labels.max()) + 1
  if config.network:
    found = own_lib.network(config.network, *sets[1])
    classifiers = networks.Group(found, [found.params], 1)
  elif config.checkpoints != HERE:
    classifiers = networks.read_group(
      'checkpoints', config.checkpoints, shape, num_classes=num_classes
    )
  else:
    module = classifier(config, shape, num_classes)
    classifiers = networks.Group(module, [], config.num_classifiers)
  with_coders = config.manifold == 'decoder'
  if with_coders and config.autoencoders != HERE:
    autoencoders = networks.read_group(
      'autoencoders', config.autoencoders, shape, kind='autoencoder'
    )
  else:
    module = models.ConvAutoEncoder(shape, config.latent, config.widths)
    num = config.num_autoencoders * with_coders
    autoencoders = networks.Group(module, [], num)
  k = autoencoders.module.latent
  num = 3 * k if config.manifold == 'neighbors' else k
  if k >= xs[0].size or num >= len(xs):
    raise flags.FlagError(
      f'--latent={k} has to be less than the {xs[0].size} numbers of an image, '
      f'and than the {len(xs)} training images (of neighbors a third)'
    )
  return Inputs(classifiers, autoencoders, *sets, k)


def classifier(config, shape, num_classes):
  """Returns the module of classifiers that are trained here."""
  if config.model == 'playground' and min(shape[:2]) < 32:
    raise flags.FlagError(
      f'--model=playground needs images of at least 32 x 32 pixels, those of '
      f'{config.dataset} are {shape[0]} x {shape[1]}'
    )
  made = {
    'mlp': models.MLP,
    'cnn': models.CNN,
    'playground': functools.partial(models.PlaygroundCNN, config.width),
  }
  return made[config.model](num_classes=num_classes)


def make_network(config, inputs, name, number):
  """Row of a network: one that was given, or one trained here."""
  xs, labels = inputs.train_set
  plan = train.TrainConfig(learning_rate=3e-3, batch_size=64)
  if name == 'classifier':
    of, targets, size = inputs.classifiers, labels, config.augment
    plan = plan._replace(num_epochs=config.epochs, crop=2 * size, flip=size)
  else:
    of, targets = inputs.autoencoders, xs
    epochs = config.autoencoder_epochs
    plan = plan._replace(loss='reconstruction', num_epochs=epochs)
  # The lengths of the two names differ, and so do their random streams.
  key = jax.random.fold_in(jax.random.key(config.seed), len(name))
  key = jax.random.fold_in(key, number)
  made = of.variables(number, key, xs, targets, plan)
  row = {name: number, 'parameters': networks.flatten(made)}
  if name == 'classifier':
    xs, labels = inputs.test_set
    right = networks.predictions(of.module, made, xs) == labels
    row['accuracy'] = np.mean(right)
    row['chance'] = data.commonest_share(labels)
  return {column: np.array([value]) for column, value in row.items()}


# --- Measuring ---------------------------------------------------------------


class Cell(NamedTuple):
  """A classifier beside an auto-encoder; or -1 and None: beside none."""

  classifier: int
  variables: Any
  autoencoder: int
  coder: Any


def measure(config, inputs):
  """Yields the units: networks, the check of auto-encoders, then the searches.

  classifiers, autoencoders: one row a network; errors: one a (network, held-out
  image); results: one a (classifier, auto-encoder, start, subspace, image);
  points: those of the first images, with their boundary points.
  """
  made = {'autoencoder': [], 'classifier': []}
  for name in made:
    of = getattr(inputs, f'{name}s')
    for number in range(of.num):
      row = functools.partial(make_network, config, inputs, name, number)
      unit = runner.Unit(f'{name}-{number:03d}', row, f'{name}s')
      flat = (yield unit).result()['parameters'][0]
      x = inputs.train_set[0][0]
      made[name].append(networks.unflatten(of.module, x, flat))
  coders = dict(enumerate(made['autoencoder']))
  checked = [(-1, None)] if config.manifold == 'neighbors' else coders.items()
  for number, coder in checked:
    rows = functools.partial(errors, inputs, number, coder)
    yield runner.Unit(f'errors-{number:03d}', rows, 'errors')
  for number, variables in enumerate(made['classifier']):
    for place, coder in [(-1, None), *coders.items()]:
      cell = Cell(number, variables, place, coder)
      rows = functools.partial(search, config, inputs, cell)
      if number == 0 and place == max(coders, default=-1):
        rows = functools.cache(rows)  # Two units of one search.
        yield runner.Unit('points', functools.partial(first, rows), 'points')
      name = f'searches-{number:03d}-{place:03d}'
      yield runner.Unit(name, functools.partial(without_points, rows))


def first(rows):
  """The rows of the first images that are classified correctly."""
  columns = rows()
  right = np.unique(columns['index'][columns['free'] > 0])[:NUM_POINTS]
  keep = np.isin(columns['index'], right)
  return {name: column[keep] for name, column in columns.items()}


def without_points(rows):
  """The rows, but for the columns of points.npz alone."""
  ends = ('_point', '_target')
  return {k: v for k, v in rows().items() if k != 'x' and not k.endswith(ends)}


def errors(inputs, number, coder):
  """Errors of reconstructing held-out images: the manifold's, and PCA's."""
  known, xs = inputs.train_set[0], inputs.test_set[0][:HELD_OUT]
  linear = manifold.principal_residuals(xs, known, inputs.k)
  if coder is not None:
    module = inputs.autoencoders.module
    _, decoded = networks.reconstructions(module, coder, xs)
    found = np.mean((decoded - xs) ** 2, axis=tuple(range(1, xs.ndim)))
  else:
    one = lambda x, known: manifold.neighbor_error(
      known, x, inputs.k, 3 * inputs.k
    )
    found = parallel.map_examples(one, (xs,), shared=(known,), batch_size=32)
  return {
    'autoencoder': np.full(len(xs), number),
    'error': found,
    'principal_error': np.mean(linear**2, axis=1),
  }


def subspaces(config, inputs, cell, xs, codes, key):
  """Returns subspaces of images by kind, `[n, k, d]` each.

  Beside an auto-encoder those that its decoder makes; else the others.
  """
  known, k, found = inputs.train_set[0], inputs.k, {}
  if cell.coder is None:
    found = manifold.common_nulls(key, xs, known, k)
    if config.manifold == 'decoder':
      return found
    own = found['principal']
    if config.manifold == 'neighbors':
      near = lambda x, known: manifold.neighbor_basis(known, x, k, 3 * k)
      own = parallel.map_examples(near, (xs,), shared=(known,), batch_size=32)
  else:
    decode = functools.partial(
      inputs.autoencoders.module.apply, cell.coder, method='decode'
    )
    tangent = lambda z: manifold.tangent_basis(decode, z)
    # k derivatives of each image at once take memory.
    few = max(2, 2048 // k)
    own = parallel.map_examples(tangent, (codes,), batch_size=few)
  found |= {OWN: own, **manifold.own_nulls(key, own)}
  absent = ABSENT.get(config.manifold, ())
  return {kind: v for kind, v in found.items() if kind not in absent}


def search(config, inputs, cell):
  """Rows of one cell: distances on and off each subspace, and the points."""
  key = jax.random.fold_in(jax.random.key(config.seed), cell.classifier)
  of_images, of_bases = jax.random.split(key)
  xs, labels = inputs.test_set
  # The same images beside every auto-encoder.
  rows = np.asarray(jax.random.permutation(of_images, len(xs)))
  rows = np.sort(rows[: config.num_examples])
  starts, codes, labels = {'image': xs[rows]}, None, labels[rows]
  if cell.coder is not None:
    codes, starts['decoded'] = networks.reconstructions(
      inputs.autoencoders.module, cell.coder, xs[rows]
    )
  key = jax.random.fold_in(of_bases, cell.autoencoder + 1)
  bases = subspaces(config, inputs, cell, starts['image'], codes, key)
  places = [('image', kind) for kind in bases]
  places += [('decoded', OWN)] if 'decoded' in starts else []
  unused = next(iter(bases.values()))
  tasks = [manifold.SideTask(v, unused, 'free') for v in starts.values()]
  for start, kind in places:
    for side in ('on', 'off'):
      tasks.append(manifold.SideTask(starts[start], bases[kind], side))
  found = iter(nearest(config, inputs, cell, labels, tasks))
  free = {start: next(found) for start in starts}
  parts = []
  for start, kind in places:
    curved = np.full(len(rows), np.nan)
    if start == 'decoded':
      curved = search_curved(config, inputs, cell, codes, labels)
    where = dict(classifier=cell.classifier, autoencoder=cell.autoencoder)
    where |= dict(start=start, kind=kind, k=inputs.k, d=xs[0].size)
    columns = records.broadcast(
      rows.shape, index=rows, label=labels, curved=curved, **where
    )
    step = free[start].point - starts[start]
    columns |= {'share': manifold.shares(step, bases[kind]), 'x': starts[start]}
    sides = {'free': free[start], 'on': next(found), 'off': next(found)}
    for name, one in sides.items():
      columns |= {name: one.distance, f'{name}_point': one.point}
      columns[f'{name}_target'] = one.target
    parts.append(columns)
  return records.concatenate(parts)


def nearest(config, inputs, cell, labels, tasks):
  """Boundary points of each `manifold.SideTask`."""
  module = inputs.classifiers.module
  return manifold.measure_sides(
    lambda variables, x: module.apply(variables, x)[0],
    tasks,
    labels,
    params=cell.variables,
    bounds=(0.0, 1.0) if config.box else None,
    method=config.method,
    max_gradients=config.max_gradients,
    batch_size=min(config.batch_size, 3 * len(labels)),
  )


def search_curved(config, inputs, cell, codes, labels):
  """Distances on the curved manifold from decoded images."""
  classify, coder = inputs.classifiers.module.apply, inputs.autoencoders.module
  one = lambda z, label: (
    manifold.nearest_on_manifold(
      lambda x: classify(cell.variables, x)[0],
      lambda z: coder.apply(cell.coder, z, method='decode'),
      z,
      label,
      method=config.method,
      max_gradients=config.max_gradients,
    ).distance
  )
  return parallel.map_examples(one, (codes, labels))


# --- Judging -----------------------------------------------------------------


def by_direction(rows):
  """Log odds of the mean share of perturbations within the subspace."""
  return special.logit(np.mean(rows['share']))


def by_distance(rows, on='on'):
  """Log odds of the mean share that distances on and off imply."""
  implied = manifold.implied_fraction(rows[on], rows['off']) ** 2
  with np.errstate(divide='ignore'):
    return special.logit(np.mean(implied))


by_curved_distance = functools.partial(by_distance, on='curved')
MEASURES = {'by direction': by_direction, 'by distance': by_distance}


def analyze(config, found):
  """Holds the tangent space's part of perturbations against the nulls'."""
  results = found['results']
  kinds = [kind for kind in (OWN, *NULLS) if kind in results['kind']]
  parts = {
    kind: [share(results, 'image', kind, of) for of in MEASURES.values()]
    for kind in kinds
  }
  contrasts = {
    kind: [odds_ratio(results, kind, of) for of in MEASURES.values()]
    for kind in kinds[1:]
  }
  instruments, reason = check_instruments(found)
  judged = judge(config, results, parts, contrasts, reason)
  made = [part_table(config, results, parts), null_table(config, contrasts)]
  if 'decoded' in results['start']:
    made.append(curved_table(results))
  said = answer(config, found, parts[OWN][0], reason)
  return runner.Report(said, judged, [*made, instruments])


def cells(results, start, kind, statistic):
  """A statistic of each classifier beside each auto-encoder `[c, a]`."""
  rows = records.select(results, start=start, kind=kind)
  # Of images that are classified correctly; where no boundary was found the
  # check of instruments counts.
  keep = (rows['free'] > 0) & np.isfinite(rows['free'])
  rows = {name: column[keep] for name, column in rows.items()}
  axes = np.unique(results['classifier']), np.unique(rows['autoencoder'])
  found = np.full([len(axis) for axis in axes], np.nan)
  for i, j in np.ndindex(found.shape):
    one = records.select(rows, classifier=axes[0][i], autoencoder=axes[1][j])
    if len(one['free']):
      found[i, j] = statistic(one)
  return found


def over_networks(values, back):
  """Estimates the mean of cells `[c, a]`, transformed back.

  Student's, by the jackknife over classifiers and over auto-encoders; of one
  column over classifiers. NaN where one cell is not finite.
  """
  if not np.isfinite(values).all() or not values.size:
    return statistics.Estimate(np.nan, np.nan, np.nan, 0, 'networks')
  if values.shape[1] == 1:
    found = statistics.t_mean(values[:, 0], unit='classifiers')
  else:
    unit = 'networks of each kind'
    found = statistics.pair_mean(values, same=False, unit=unit)
  return statistics.transform(found, back)


def share(results, start, kind, measure):
  """Share of squared length in a subspace, by one of `MEASURES`."""
  return over_networks(cells(results, start, kind, measure), special.expit)


def odds_ratio(results, kind, measure):
  """Odds of the tangent space's share over the odds of a null's, paired."""
  own, null = (cells(results, 'image', v, measure) for v in (OWN, kind))
  return over_networks(own - null, np.exp)


def ratio(results, start, kind, column, over='free'):
  """Median ratio of two distances."""
  logs = lambda rows: np.log(np.median(rows[column] / rows[over]))
  return over_networks(cells(results, start, kind, logs), np.exp)


def enrichment(results, found):
  """A, of a share."""
  of = lambda v: manifold.fraction_enrichment(np.sqrt(v), *dimensions(results))
  return statistics.transform(found, of)


def dimensions(results):
  """Returns k and d."""
  return int(results['k'][0]), int(results['d'][0])


def lost(results, start, kind, column):
  """Share of the searches, from images that are right, that found nothing."""
  rows = records.select(results, start=start, kind=kind)
  return float(np.mean(np.isinf(rows[column][rows['free'] > 0])))


def on_over_off(found):
  """The norm ratio that a share by distance stands for: it falls with it."""
  found = statistics.transform(found, lambda v: np.sqrt(1 / v - 1))
  return found._replace(low=found.high, high=found.low)


def judge(config, results, parts, contrasts, reason):
  """The claims of the module's docstring."""
  k, d = dimensions(results)
  direction, distance = parts[OWN]
  what = 'share of squared length within the tangent space (random subspace: '
  what += f'{k / d:.3g})'
  null = on_over_off(parts['random'][1]).value
  longer = {f'in the tangent plane (random subspace: {null:.3g})': distance}
  if 'decoded' in results['start']:
    curved = share(results, 'decoded', OWN, by_curved_distance)
    longer['on the curved manifold'] = curved
  made = {
    'roughly perpendicular': [claims.below(what, direction, 0.5)],
    'longer on the manifold': [
      claims.above(f'norm on over off, {where}', on_over_off(found), 1.0)
      for where, found in longer.items()
    ],
  } | {
    f'less than in {null}': [
      claims.below(f'ratio of odds {name}', found, 1.0)
      for name, found in zip(MEASURES, contrasts.get(kind, ()), strict=False)
    ]
    for kind, null in NULLS.items()
  }
  absent = f'with --manifold={config.manifold} the two are the same'
  judged = []
  for name, conditions in made.items():
    said, why = STATEMENTS[name], '' if conditions else absent
    claim = claims.Claim(PAPER, name, said, tuple(conditions), reason or why)
    judged.append(claim)
  return judged


def check_instruments(found):
  """Returns a table of the instruments, and why nothing is tested, or ''."""
  made, free = found['classifiers'], found['results']['free']
  right = statistics.proportion(made['accuracy'], unit='classifiers')
  chance = float(made['chance'][0])
  reasons = [claims.why_untrained(right.value, chance, whose='classifiers')]
  least = f'at least {(1 + chance) / 2:.3g}'
  rows = [['accuracy of classifiers', right, least]]
  errors = found.get('errors', {'autoencoder': np.zeros(0, int)})
  for number in np.unique(errors['autoencoder']).tolist():
    one = records.select(errors, autoencoder=number)
    error = statistics.ratio_of_sums(
      one['error'], one['principal_error'], unit='images'
    )
    name = f'auto-encoder {number}' if number >= 0 else 'neighbours'
    rows.append([f'error over that of PCA, {name}', error, 'at most 1'])
    if not error.value <= 1:
      reasons.append(
        f'the squared error of {name} at held-out images is {error.value:.2f} '
        'times that of PCA with as many numbers'
      )
  failed = float(np.mean(np.isinf(free[free > 0])))
  rows.append(['failed free searches', failed, f'at most {MOST_FAILED:g}'])
  if failed > MOST_FAILED:
    reasons.append(f'{failed:.0%} of the free searches found nothing')
  for name in ('classifiers', 'autoencoders'):
    if name in found and len(found[name]['parameters']) < 2:
      reasons.append(f'of {name} there is one, which says nothing of others')
  table = tables.table(
    'Instruments',
    [
      ('instrument', ''),
      ('value', 'as measured'),
      ('required', 'or nothing is tested'),
    ],
    rows,
  )
  return table, next(filter(None, reasons), '')


def answer(config, found, own, reason):
  """One sentence."""
  if reason:
    return f'Nothing is tested: {reason}.'
  k, d = dimensions(found['results'])
  counts = f'{len(found["classifiers"]["parameters"])} classifiers'
  if 'autoencoders' in found:
    num = len(found['autoencoders']['parameters'])
    counts += f' beside {num} auto-encoders'
  times = tables.cell(enrichment(found['results'], own), '.2f')
  return (
    f'The {k} of {d} dimensions of {SPACES[config.manifold]} hold '
    f'{tables.cell(own, ".1%")} of the squared length of the nearest '
    f'perturbations, those of a random subspace {k / d:.1%}: {times} times as '
    f'much for each dimension as outside ({counts}, {own_lib.source(config)}).'
  )


# --- Tables ------------------------------------------------------------------


def space(config, kind):
  """What a report calls a kind of subspace."""
  own = SPACES[config.manifold]
  return NULLS.get(kind, own).replace(SPACES['decoder'], own)


def part_table(config, results, parts):
  """Shares, enrichments and distances of every subspace."""
  k, d = dimensions(results)
  rows = [
    [
      space(config, kind),
      direction,
      enrichment(results, direction),
      enrichment(results, distance),
      ratio(results, 'image', kind, 'on'),
      ratio(results, 'image', kind, 'off'),
      lost(results, 'image', kind, 'on'),
    ]
    for kind, (direction, distance) in parts.items()
  ]
  return tables.table(
    f'Nearest perturbations, and subspaces of k = {k} of {d} dimensions',
    [
      ('subspace', ''),
      ('share', 'of squared length within it', '', '.1%'),
      (
        'A',
        'enrichment, the odds of the share over those of k / d (random: 1)',
      ),
      ('A by distance', 'the same with off^2 / (on^2 + off^2)'),
      ('on / free', 'distance within it, over that of a free search; median'),
      ('off / free', 'distance orthogonal to it, over the same', '', '.3f'),
      ('lost', 'share of searches on it without result', '', '.1%'),
    ],
    rows,
    spec='.2f',
  )


def null_table(config, contrasts):
  return tables.table(
    f'{SPACES[config.manifold].capitalize()} beside each null',
    [
      ('null', ''),
      ('by direction', "odds of the manifold's share over the null's"),
      ('by distance', 'the same with off^2 / (on^2 + off^2)'),
    ],
    [[space(config, kind), *pair] for kind, pair in contrasts.items()],
  )


def curved_table(results):
  """The tangent plane and the curved search, from decoded images."""
  over = functools.partial(ratio, results, 'decoded', OWN)
  rows = [
    [
      name,
      over(column),
      over(column, 'off'),
      over(column, 'on') if column == 'curved' else None,
      enrichment(results, share(results, 'decoded', OWN, measure)),
      lost(results, 'decoded', OWN, column),
    ]
    for name, column, measure in (
      ('tangent plane', 'on', by_distance),
      ('curved manifold', 'curved', by_curved_distance),
    )
  ]
  return tables.table(
    'Tangent plane and curved search, from images as decoded',
    [
      ('search', ''),
      ('over free', 'distance, over that of a free search; median'),
      ('over off', 'over that orthogonal to the plane'),
      ('over plane', 'over that in the tangent plane', '', '.3f'),
      ('A by distance', 'enrichment, as above'),
      ('lost', 'share of searches without result', '', '.1%'),
    ],
    rows,
    spec='.2f',
  )


EXPERIMENT = runner.Experiment(
  'experiments.manifold_split', __doc__, Config, PRESETS, COLUMNS,
  measure, analyze, figures.draw, load=load, check=check,
)  # fmt: skip
run = EXPERIMENT.run

if __name__ == '__main__':
  EXPERIMENT.main()
