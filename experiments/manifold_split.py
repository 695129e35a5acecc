"""Do perturbations avoid the data's manifold, more than a random subspace?

Shamir, Melamed, BenShmuel (2021), https://arxiv.org/abs/2106.10151:
"adversarial perturbations are roughly perpendicular to the low dimensional
manifold which contains all the training examples", and on the manifold they are
larger than off it.

  python -m experiments.manifold_split
  python -m experiments.manifold_split --preset=mnist --data_dir=DIR
  python -m experiments.manifold_split --network=my.module:function

The first takes 2 minutes on 2 CPU cores, --preset=quick 1, mnist 11 and cifar
12, with 128 principal directions for the tangent space. A run that was killed
goes on where it was.

Several classifiers and several auto-encoders are trained, and crossed: each
classifier is measured beside each auto-encoder, whose decoder's derivative at
an image's code spans the manifold's tangent space there, k of d dimensions.
Each classifier has test images of its own. From every image that it gets right
the nearest boundary point is searched without restriction (the perturbation),
within the tangent space (on) and orthogonal to it (off); and the same for
subspaces of k dimensions that do not know the image's own tangents, the nulls:

  random     uniformly random, another one for each image
  frequency  cosines of lowest frequency: smooth, as images are
  other      the tangent space at another image
  principal  principal directions of the training images
  permuted   the tangent space, with its pixels permuted

Two shares of squared length say how much of a perturbation lies in a subspace:
that of the perturbation itself (by direction), and off^2 / (on^2 + off^2),
which is the same where the boundary is flat (by distance). Both are k / d on
average for a random subspace at a flat boundary: any small subspace is "roughly
perpendicular". The enrichment A is the odds of a share over those of k / d.

Claims, and what refutes each:

  roughly perpendicular (weak)  the share by direction is above 1/2: an angle of
      less than 45 degrees
  longer on the manifold (weak)  perturbations on the manifold are shorter than
      off it: in the tangent plane, or on the curved manifold, which is searched
      through the decoder from the image as decoded
  less than in NULL (strong)  the odds of the share, by direction or by
      distance, are larger in the tangent space than in the null

The unit is the network. Of each classifier beside each auto-encoder the mean
share over images is taken, on the logit scale; intervals are Student's, by the
jackknife over classifiers (with their images) and over auto-encoders. Nothing
is tested where an auto-encoder reconstructs held-out images worse than PCA with
as many numbers, where classifiers are less than half way from chance to
perfect, or where more than 5 % of the free searches fail.

--manifold=neighbors or principal takes principal directions of the nearest or
of all training images for the tangent space, without auto-encoders.
"""

import dataclasses
import functools
from typing import Any
from typing import NamedTuple

import jax
from jax import flatten_util
import jax.numpy as jnp
import numpy as np
from scipy import special

from dmm_jax import boundary
from dmm_jax import manifold
from dmm_jax import models
from dmm_jax import parallel
from dmm_jax import programs
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
MANIFOLDS = ('decoder', 'neighbors', 'principal')
OWN = 'manifold'  # The kind of subspace that is asked about.
NULLS = {
  'random': 'random subspaces',
  'frequency': 'cosines of lowest frequency',
  'other': "another image's tangent space",
  'principal': 'principal directions',
  'permuted': 'the tangent space with permuted pixels',
}
# What reports call the manifold's subspace at an image.
SPACES = {
  'decoder': 'the tangent space',
  'neighbors': "the neighbours' directions",
  'principal': 'the principal directions',
}
# By the manifold, why it has not these nulls.
ABSENT = {'principal': ('other', 'principal')}
# How much of a step lies in a subspace: (1, 0) all, (0, 1) on, (1, -1) off.
SIDES = {'free': (1.0, 0.0), 'on': (0.0, 1.0), 'off': (1.0, -1.0)}
MOST_FAILED = 0.05
HELD_OUT = 1000  # Images of the check of auto-encoders, at most.


@dataclasses.dataclass(frozen=True)
class Config:
  preset: str = flags.preset()
  workdir: str = flags.workdir('runs/manifold_split')
  seed: int = flags.seed()
  dataset: str = flags.dataset()
  data_dir: str = flags.data_dir()
  num_examples: int = flags.flag(
    100, 'Test images drawn for each classifier, at most all.', least=2
  )
  num_classifiers: int = flags.flag(8, 'Classifiers to train.', least=1)
  model: str = flags.flag(
    'mlp',
    'Architecture of classifiers: mlp, cnn, or playground (7 convolutions).',
    choices=('mlp', 'cnn', 'playground'),
  )
  width: int = flags.flag(
    16, 'Channels of the first convolution of playground.', least=1
  )
  augment: bool = flags.flag(
    False,
    'Mirror images, and shift them by up to 2 pixels, to train classifiers.',
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
    choices=MANIFOLDS,
  )
  num_autoencoders: int = flags.flag(4, 'Auto-encoders to train.', least=1)
  latent: int = flags.flag(
    8, 'Dimensions k; those of --autoencoders are their own.', least=1
  )
  widths: tuple[int, ...] = flags.flag(
    (16, 32), "Channels of the auto-encoders' layers, different ones.", least=1
  )
  autoencoder_epochs: int = flags.flag(
    40, 'Passes that train auto-encoders.', least=1
  )
  autoencoders: tuple[str, ...] = flags.flag(
    HERE, 'Runs of train_autoencoder; "here" trains auto-encoders here.'
  )
  box: bool = flags.flag(
    False,
    'Keep perturbed pixels in [0, 1]: where many are 0, hardly any step within '
    'a subspace does.',
  )
  method: str = flags.method('fast')
  max_gradients: int = flags.max_gradients(200)
  batch_size: int = flags.flag(300, 'Searches at once.', least=1)


PRESETS = {
  'default': {},
  'quick': dict(
    workdir='runs/manifold_split_quick',
    num_examples=50,
    num_classifiers=6,
    num_autoencoders=3,
    epochs=10,
    autoencoder_epochs=20,
  ),
  'mnist': dict(
    workdir='runs/manifold_split_mnist',
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
    workdir='runs/manifold_split_cifar',
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
    workdir='runs/manifold_split_full',
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
}
NUM_POINTS = 6


def check(config):
  """Raises FlagError for flags that do not go together."""
  flags.check_method(config.method)
  if config.network and config.checkpoints != HERE:
    raise flags.FlagError('--network and --checkpoints exclude each other')


# --- Data and networks -------------------------------------------------------


class Group(NamedTuple):
  """Networks of one architecture; `given` are read, or empty to train `num`."""

  module: Any
  given: list
  num: int


class Inputs(NamedTuple):
  """What is measured: networks, and `(xs, labels)` of two splits."""

  classifiers: Group
  autoencoders: Group
  train_set: tuple
  test_set: tuple
  k: int


def load(config):
  """Returns `Inputs`, having checked all that flags may have wrong."""
  sets = [own_lib.read(config, split) for split in ('train', 'test')]
  shape, num_classes = sets[0][0].shape[1:], int(sets[0][1].max()) + 1
  if config.model == 'playground' and min(shape[:2]) < 32:
    raise flags.FlagError(
      f'--model=playground needs images of at least 32 x 32 pixels, those of '
      f'{config.dataset} are {shape[0]} x {shape[1]}'
    )
  module = {
    'mlp': models.MLP(num_classes=num_classes),
    'cnn': models.CNN(num_classes=num_classes),
    'playground': models.PlaygroundCNN(config.width, num_classes=num_classes),
  }[config.model]
  classifiers = group(
    'checkpoints',
    config.checkpoints,
    module,
    config.num_classifiers,
    functools.partial(networks.read_for, shape=shape, num_classes=num_classes),
  )
  if config.network:
    found = own_lib.network(config.network, *sets[1])
    classifiers = Group(found, [found.params], 1)
  coders = config.autoencoders if config.manifold == 'decoder' else HERE
  autoencoders = group(
    'autoencoders',
    coders,
    models.ConvAutoEncoder(shape, config.latent, config.widths),
    config.num_autoencoders if config.manifold == 'decoder' else 0,
    functools.partial(networks.read_for, shape=shape, kind='autoencoder'),
  )
  k, size = autoencoders.module.latent, int(np.prod(shape))
  num = 3 * k if config.manifold == 'neighbors' else k
  if k >= size or num >= len(sets[0][0]):
    raise flags.FlagError(
      f'--latent={k} has to be less than the {size} numbers of an image, and '
      f'than the {len(sets[0][0])} training images (of neighbors a third)'
    )
  return Inputs(classifiers, autoencoders, *sets, k)


def group(flag, paths, module, num, read):
  """Returns a `Group`: networks of run directories, or to be trained here."""
  if paths == HERE:
    return Group(module, [], num)
  found = [read(path) for path in paths]
  if any(one.module != found[0].module for one in found):
    names = ','.join(paths)
    raise flags.FlagError(f'--{flag}={names} has networks that differ in shape')
  given = [networks.variables(one.state) for one in found]
  return Group(found[0].module, given, len(given))


def make_network(config, inputs, name, number):
  """A row of a table of networks: one that was given, or one trained here."""
  xs, labels = inputs.train_set
  made, targets, loss, epochs = {
    'classifier': (inputs.classifiers, labels, 'cross_entropy', config.epochs),
    'autoencoder': (
      inputs.autoencoders, xs, 'reconstruction', config.autoencoder_epochs
    ),
  }[name]  # fmt: skip
  if made.given:
    variables = made.given[number]
  else:
    augment = config.augment and name == 'classifier'
    plan = train.TrainConfig(
      loss,
      num_epochs=epochs,
      learning_rate=3e-3,
      batch_size=64,
      crop=2 * augment,
      flip=augment,
    )
    # The lengths of the two names differ, and so do their random streams.
    key = jax.random.fold_in(jax.random.key(config.seed), len(name))
    of_weights, of_order = jax.random.split(jax.random.fold_in(key, number))
    optimizer = train.make_optimizer(plan, len(xs))
    state = train.init_state(of_weights, made.module, xs[0], optimizer)
    forward = train.flax_forward(made.module)
    for pause in train.fit(of_order, forward, state, xs, targets, config=plan):
      state = pause.state
    variables = networks.variables(state)
  row = {
    name: np.array([number]),
    'parameters': flatten_util.ravel_pytree(variables)[0][None],
  }
  if name == 'classifier':
    xs, labels = inputs.test_set
    predict = lambda x: jnp.argmax(made.module.apply(variables, x)[0])
    found = parallel.map_examples(predict, (xs,))
    row['accuracy'] = np.array([np.mean(found == labels)])
    row['chance'] = np.array([np.bincount(labels).max() / len(labels)])
  return row


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
      made[name].append(unravel(of.module, inputs.train_set[0][0], flat))
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


def unravel(module, x, flat):
  """Returns the variables whose numbers stand in one row."""
  like = jax.eval_shape(module.init, {'params': jax.random.key(0)}, x)
  like = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), like)
  return flatten_util.ravel_pytree(like)[1](flat)


def first(rows):
  """The rows of the first images that are classified correctly."""
  columns = rows()
  right = np.unique(columns['index'][columns['free'] > 0])[:NUM_POINTS]
  keep = np.isin(columns['index'], right)
  return {name: column[keep] for name, column in columns.items()}


def without_points(rows):
  return {k: v for k, v in rows().items() if k != 'x' and 'point' not in k}


def errors(inputs, number, coder):
  """Errors of reconstructing held-out images: the manifold's, and PCA's."""
  known, xs = inputs.train_set[0], inputs.test_set[0][:HELD_OUT]
  flat = xs.reshape(len(xs), -1)
  centre = known.reshape(len(known), -1).mean(0)
  basis = manifold.principal_basis(known, inputs.k)
  rest = flat - centre
  linear = np.mean((rest - rest @ basis.T @ basis) ** 2, axis=1)
  if coder is not None:
    _, decoded = through(inputs, coder, xs)
    found = np.mean((decoded.reshape(flat.shape) - flat) ** 2, axis=1)
  else:
    local = lambda x, known: local_error(x, known, inputs.k)
    found = parallel.map_examples(local, (xs,), shared=(known,), batch_size=32)
  return {
    'autoencoder': np.full(len(xs), number),
    'error': found,
    'principal_error': linear,
  }


def local_error(x, known, k):
  """Error of an image's nearest point on the plane of its neighbours."""
  basis = manifold.neighbor_basis(known, x, k, 3 * k)
  gaps = jnp.sum((known - x[None]) ** 2, axis=range(1, known.ndim))
  centre = jnp.mean(known[jax.lax.top_k(-gaps, 3 * k)[1]], axis=0)
  return jnp.mean(manifold.off(x - centre, basis) ** 2)


def through(inputs, coder, xs):
  """Returns the codes of images, and the images that are made of them."""
  module = inputs.autoencoders.module

  def one(x):
    z = module.apply(coder, x, method='encode')
    return z, module.apply(coder, z, method='decode')

  return parallel.map_examples(one, (xs,))


def subspaces(config, inputs, cell, xs, codes, key):
  """Returns subspaces of images by kind, `[n, k, d]` each.

  Beside an auto-encoder those that its decoder makes; else the others.
  """
  n, k, size = len(xs), inputs.k, xs[0].size
  known = inputs.train_set[0]
  every = lambda basis: np.broadcast_to(basis, (n, k, size))
  found = {}
  if cell.coder is None:
    draw = lambda i: manifold.random_basis(jax.random.fold_in(key, i), k, size)
    found = {
      'random': parallel.map_examples(draw, (np.arange(n),)),
      'frequency': every(manifold.frequency_basis(xs.shape[1:], k)),
      'principal': every(manifold.principal_basis(known, k)),
    }
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
  pixels = np.asarray(jax.random.permutation(key, size))
  found |= {OWN: own, 'other': np.roll(own, 1, 0), 'permuted': own[..., pixels]}
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
  starts, codes = {'image': xs[rows]}, None
  if cell.coder is not None:
    codes, starts['decoded'] = through(inputs, cell.coder, xs[rows])
  key = jax.random.fold_in(of_bases, cell.autoencoder + 1)
  bases = subspaces(config, inputs, cell, starts['image'], codes, key)
  plan = [('image', kind) for kind in bases]
  plan += [('decoded', OWN)] if 'decoded' in starts else []
  unused = next(iter(bases.values()))
  tasks = [(xs, unused, 'free') for xs in starts.values()]
  for start, kind in plan:
    tasks += [(starts[start], bases[kind], side) for side in ('on', 'off')]
  found = nearest(config, inputs, cell, labels[rows], tasks)
  free = dict(zip(starts, found, strict=False))
  same = lambda value: np.full(len(rows), value)
  parts = []
  for start, kind in plan:
    on, off = found[len(starts) + 2 * len(parts) :][:2]
    curved = same(np.nan)
    if start == 'decoded':
      curved = search_curved(config, inputs, cell, codes, labels[rows])
    columns = {
      'classifier': same(cell.classifier),
      'autoencoder': same(cell.autoencoder),
      'start': same(start),
      'kind': same(kind),
      'k': same(inputs.k),
      'd': same(xs[0].size),
      'index': rows,
      'label': labels[rows],
      'share': share_within(free[start].point - starts[start], bases[kind]),
      'curved': curved,
      'x': starts[start],
    }
    for name, one in (('free', free[start]), ('on', on), ('off', off)):
      columns |= {name: one.distance, f'{name}_point': one.point}
    parts.append(columns)
  return records.concatenate(parts)


def nearest(config, inputs, cell, labels, tasks):
  """Boundary points of tasks `(xs, bases, side)`; one program serves all."""
  num, module = len(labels), inputs.classifiers.module
  stacked = lambda place: np.concatenate([task[place] for task in tasks])
  weights = np.array([SIDES[side] for *_, side in tasks], np.float32)
  found = boundary.measure(
    lambda variables, x: module.apply(variables, x)[0],
    stacked(0),
    np.tile(labels, len(tasks)),
    params=cell.variables,
    bounds=(0.0, 1.0) if config.box else None,
    project=restrict,
    project_rows=(stacked(1), np.repeat(weights, num, axis=0)),
    method=config.method,
    max_gradients=config.max_gradients,
    batch_size=min(config.batch_size, 3 * num),
  )
  of_task = lambda i: jax.tree.map(lambda v: v[i * num : (i + 1) * num], found)
  return [of_task(i) for i in range(len(tasks))]


def restrict(v, basis, weights):
  """The part of a vector that one of `SIDES` leaves."""
  return weights[0] * v + weights[1] * manifold.on(v, basis)


def share_within(step, bases):
  """Share of squared length within subspaces `[n]`; NaN of no step."""
  flat = step.reshape(len(step), -1)
  inside = np.einsum('nkd,nd->nk', bases, flat)
  with np.errstate(invalid='ignore'):
    return (inside**2).sum(1) / (flat**2).sum(1)


def search_curved(config, inputs, cell, codes, labels):
  """Distances on the curved manifold from decoded images."""
  one = programs.bind(
    on_manifold,
    module=inputs.classifiers.module,
    coder_module=inputs.autoencoders.module,
    method=config.method,
    max_gradients=config.max_gradients,
  )
  return parallel.map_examples(
    one, (codes, labels), shared=(cell.variables, cell.coder)
  )


def on_manifold(z, label, variables, coder, *, module, coder_module, **options):
  return manifold.nearest_on_manifold(
    lambda x: module.apply(variables, x)[0],
    lambda z: coder_module.apply(coder, z, method='decode'),
    z,
    label,
    **options,
  ).distance


# --- Judging -----------------------------------------------------------------

NOTHING = statistics.Estimate(np.nan, np.nan, np.nan, 0, 'networks')


def analyze(config, found):
  """Holds the tangent space's part of perturbations against the nulls'."""
  results = found['results']
  kinds = [kind for kind in (OWN, *NULLS) if kind in results['kind']]
  instruments, reason = check_instruments(found)
  parts = {
    kind: [share(results, 'image', kind, measure) for measure in MEASURES]
    for kind in kinds
  }
  contrasts = {
    kind: [odds_ratio(results, kind, measure) for measure in MEASURES]
    for kind in kinds[1:]
  }
  on_curved = share(results, 'decoded', OWN, by_curved_distance)
  judged = [
    perpendicular(results, parts, reason),
    longer(config, parts, on_curved, reason),
    *[avoided(config, kind, contrasts.get(kind), reason) for kind in NULLS],
  ]
  made = [
    part_table(config, results, parts),
    tables.Table(
      f'{SPACES[config.manifold].capitalize()} beside each null',
      CONTRAST_COLUMNS,
      [[space(config, kind), *pair] for kind, pair in contrasts.items()],
    ),
    *curved_tables(results),
    instruments,
  ]
  return runner.Report(answer(config, found, parts, reason), judged, made)


def space(config, kind):
  """What a report calls a kind of subspace."""
  own = SPACES[config.manifold]
  return NULLS.get(kind, own).replace(SPACES['decoder'], own)


def dimensions(results):
  """Returns k and d."""
  return int(results['k'][0]), int(results['d'][0])


def cells(results, start, kind, statistic):
  """A statistic of each classifier beside each auto-encoder `[c, a]`."""
  rows = records.select(results, start=start, kind=kind)
  # Of images that are classified correctly; where no boundary was found the
  # check of instruments counts.
  keep = (rows['free'] > 0) & np.isfinite(rows['free'])
  rows = {name: column[keep] for name, column in rows.items()}
  places = [np.unique(results['classifier']), np.unique(rows['autoencoder'])]
  found = np.full([len(place) for place in places], np.nan)
  for at in np.ndindex(found.shape):
    where = (rows['classifier'] == places[0][at[0]]) & (
      rows['autoencoder'] == places[1][at[1]]
    )
    if where.any():
      found[at] = statistic({n: column[where] for n, column in rows.items()})
  return found


def by_direction(rows):
  """Log odds of the mean share of perturbations within the subspace."""
  return special.logit(np.mean(rows['share']))


def by_distance(rows, on='on'):
  """Log odds of the mean share that distances on and off imply."""
  implied = manifold.implied_fraction(rows[on], rows['off']) ** 2
  with np.errstate(divide='ignore'):
    return special.logit(np.mean(implied))


def by_curved_distance(rows):
  return by_distance(rows, on='curved')


MEASURES = by_direction, by_distance
NAMES = 'by direction', 'by distance'


def over_networks(values):
  """Estimates the mean over networks of cells `[c, a]`.

  Student's, by the jackknife over classifiers and over auto-encoders; of one
  column over classifiers. NaN where one cell is not finite.
  """
  if not np.isfinite(values).all() or not values.size:
    return NOTHING
  if values.shape[1] == 1:
    return statistics.t_mean(values[:, 0], unit='classifiers')
  return statistics.pair_mean(values, same=False, unit='networks of each kind')


def transform(found, fn):
  """Maps an estimate and its ends by an increasing function."""
  value, low, high = (float(fn(v)) for v in found[:3])
  return found._replace(value=value, low=low, high=high)


def share(results, start, kind, measure):
  return transform(
    over_networks(cells(results, start, kind, measure)), special.expit
  )


def ratio(results, start, kind, column, over='free'):
  """Median ratio of two distances."""
  statistic = lambda rows: np.log(np.median(rows[column] / rows[over]))
  return transform(
    over_networks(cells(results, start, kind, statistic)), np.exp
  )


def enrichment(results, found):
  """A, of a share."""
  k, d = dimensions(results)
  of = lambda v: manifold.fraction_enrichment(np.sqrt(v), k, d)
  return transform(found, of)


def odds_ratio(results, kind, measure):
  """Odds of the tangent space's share over the odds of a null's, paired."""
  own, null = (cells(results, 'image', v, measure) for v in (OWN, kind))
  return transform(over_networks(own - null), np.exp)


def lost(results, start, kind, column):
  """Share of the searches, from images that are right, that found nothing."""
  rows = records.select(results, start=start, kind=kind)
  return float(np.mean(np.isinf(rows[column][rows['free'] > 0])))


def perpendicular(results, parts, reason):
  k, d = dimensions(results)
  what = 'share of squared length within the tangent space'
  what += f' (random subspace: {k / d:.3g})'
  return claims.Claim(
    PAPER,
    'roughly perpendicular',
    'Adversarial perturbations are roughly perpendicular to the low '
    'dimensional manifold which contains all the training examples (weak form: '
    'more of their squared length is off it than on it, as of any small '
    'subspace).',
    (claims.below(what, parts[OWN][0], 0.5),),
    reason,
  )


def longer(config, parts, on_curved, reason):
  """The claim that perturbations on the manifold are longer."""

  def norms(found):  # On over off, which falls as the share rises.
    value, high, low = (float(np.sqrt(1 / v - 1)) for v in found[:3])
    return found._replace(value=value, low=low, high=high)

  null = norms(parts['random'][1]).value
  what = f'norm on over off, in the tangent plane (random subspace: {null:.3g})'
  conditions = [claims.above(what, norms(parts[OWN][1]), 1.0)]
  if config.manifold == 'decoder':
    what = 'norm on over off, on the curved manifold'
    conditions.append(claims.above(what, norms(on_curved), 1.0))
  return claims.Claim(
    PAPER,
    'longer on the manifold',
    'On-manifold adversarial perturbations have a larger norm than '
    'off-manifold ones (weak form: as in any small subspace).',
    tuple(conditions),
    reason,
  )


def avoided(config, kind, contrast, reason):
  """The claim that the tangent space is avoided more than a null."""
  if not reason and contrast is None:
    reason = f'with --manifold={config.manifold} the two are the same'
  conditions = [
    claims.below(f'ratio of odds {name}', found, 1.0)
    for name, found in zip(NAMES, contrast or (), strict=False)
  ]
  return claims.Claim(
    PAPER,
    f'less than in {NULLS[kind]}',
    'Adversarial perturbations are perpendicular to the manifold (strong form: '
    f'less of them lies in its tangent space than in {NULLS[kind]} of as many '
    'dimensions).',
    tuple(conditions),
    reason,
  )


class Check(NamedTuple):
  """An instrument, and whether it is good enough; `why`: if it is not."""

  name: str
  value: Any
  rule: str
  holds: bool
  why: str


def check_instruments(found):
  """Returns a table of the instruments, and why nothing is tested, or ''."""
  checks = [check_classifiers(found['classifiers'])]
  for number, error in reconstruction(found).items():
    name = f'auto-encoder {number}' if number >= 0 else 'neighbours'
    why = f'the squared error of {name} at held-out images is {error.value:.2f}'
    why += ' times that of PCA with as many numbers'
    holds = error.value <= 1
    checks.append(
      Check(f'error over that of PCA, {name}', error, 'at most 1', holds, why)
    )
  free = found['results']['free']
  failed = float(np.mean(np.isinf(free[free > 0])))
  checks.append(
    Check(
      'failed free searches',
      failed,
      f'at most {MOST_FAILED:g}',
      failed <= MOST_FAILED,
      f'{failed:.0%} of the free searches found nothing',
    )
  )
  reasons = [check.why for check in checks if not check.holds]
  for name in ('classifiers', 'autoencoders'):
    if name in found and len(found[name]['parameters']) < 2:
      reasons.append(f'of {name} there is one, which says nothing of others')
  rows = [check[:3] for check in checks]
  table = tables.Table('Instruments', INSTRUMENT_COLUMNS, rows)
  return table, next(iter(reasons), '')


def check_classifiers(of):
  right = statistics.proportion(of['accuracy'], unit='classifiers')
  least = float(1 + of['chance'][0]) / 2
  return Check(
    'accuracy of classifiers',
    right,
    f'at least {least:.3g}',
    right.value >= least,
    f'classifiers are right in {right.value:.0%} of test images, less than '
    'half way from chance to all',
  )


def reconstruction(found):
  """Errors over those of PCA on held-out images, by auto-encoder."""
  rows = found.get('errors', {'autoencoder': np.zeros(0)})
  estimates = {}
  for number in np.unique(rows['autoencoder']):
    one = records.select(rows, autoencoder=number)
    estimates[int(number)] = statistics.ratio_of_sums(
      one['error'], one['principal_error'], unit='images'
    )
  return estimates


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
  title = f'Nearest perturbations, and subspaces of k = {k} of {d} dimensions'
  return tables.Table(title, PART_COLUMNS, rows)


def curved_tables(results):
  """The tangent plane and the curved search side by side, from decoded images.

  None where there is no curved manifold.
  """
  if 'decoded' not in results['start']:
    return []
  rows = []
  for name, column, measure in (
    ('tangent plane', 'on', by_distance),
    ('curved manifold', 'curved', by_curved_distance),
  ):
    of = functools.partial(ratio, results, 'decoded', OWN, column)
    rows.append(
      [
        name,
        of(),
        of('off'),
        of('on') if column == 'curved' else None,
        enrichment(results, share(results, 'decoded', OWN, measure)),
        lost(results, 'decoded', OWN, column),
      ]
    )
  title = 'Tangent plane and curved search, from images as decoded'
  return [tables.Table(title, CURVED_COLUMNS, rows)]


def answer(config, found, parts, reason):
  """One sentence."""
  if reason:
    return f'Nothing is tested: {reason}.'
  k, d = dimensions(found['results'])
  own = parts[OWN][0]
  counts = f'{len(found["classifiers"]["parameters"])} classifiers'
  if 'autoencoders' in found:
    num = len(found['autoencoders']['parameters'])
    counts += f' beside {num} auto-encoders'
  times = tables.cell(enrichment(found['results'], own), '.2f')
  return (
    f'The {k} of {d} dimensions of {SPACES[config.manifold]} hold '
    f'{tables.cell(own, ".1%")} of the squared length of the nearest '
    f'perturbations, those of a random subspace {k / d:.1%}: {times} times as '
    f'much for each dimension as outside ({counts}, {config.dataset}).'
  )


PART_COLUMNS = [
  tables.Column('subspace', '', ''),
  tables.Column('share', '', 'of squared length within it', '.1%'),
  tables.Column(
    'A', '', 'odds of the share over the odds of k / d; random: 1', '.2f'
  ),
  tables.Column(
    'A by distance', '', 'the same with off^2 / (on^2 + off^2)', '.2f'
  ),
  tables.Column('on / free', '', 'median ratio of distances', '.2f'),
  tables.Column('off / free', '', '', '.3f'),
  tables.Column('lost', '', 'share of searches on it without result', '.1%'),
]
CONTRAST_COLUMNS = [
  tables.Column('null', '', ''),
  tables.Column(
    'by direction', '', "odds of the manifold's share over the null's"
  ),
  tables.Column('by distance', '', 'the same with off^2 / (on^2 + off^2)'),
]
CURVED_COLUMNS = [
  tables.Column('search', '', ''),
  tables.Column('over free', '', 'median ratio of distances', '.2f'),
  tables.Column('over off', '', 'to that orthogonal to the plane', '.2f'),
  tables.Column('over plane', '', 'to that in the tangent plane', '.3f'),
  tables.Column('A by distance', '', 'as above', '.2f'),
  tables.Column('lost', '', 'share of searches without result', '.1%'),
]
INSTRUMENT_COLUMNS = [
  tables.Column('instrument', '', ''),
  tables.Column('value', '', ''),
  tables.Column('required', '', ''),
]


EXPERIMENT = runner.Experiment(
  'experiments.manifold_split', __doc__, Config, PRESETS, COLUMNS,
  measure, analyze, figures.draw, load=load, check=check,
)  # fmt: skip
run = EXPERIMENT.run

if __name__ == '__main__':
  EXPERIMENT.main()
