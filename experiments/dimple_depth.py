"""Does adversarial training deepen dimples, or does it move the boundary?

Shamir, Melamed, BenShmuel (2021), https://arxiv.org/abs/2106.10151: "the main
effect of adversarial training is just to deepen the generated dimples in the
decision boundary".

  python -m experiments.dimple_depth
  python -m experiments.dimple_depth --preset=mnist --data_dir=DIR
  python -m experiments.dimple_depth --plain=runs/a,runs/b \
    --robust=runs/c,runs/d
  python -m experiments.dimple_depth --network=my.nets:plain,my.nets:robust

The first takes 2 minutes on 2 CPU cores, --preset=quick 1 and mnist 4; cifar is
for a GPU. --plain and --robust name runs of train_classifier instead, in pairs;
--network names functions that return networks, plain and robust by turns.
A run that was killed goes on where it was.

From the same weights and in the same order, networks are trained plainly, with
projected gradient (PGD) in l2 and in linf, and by TRADES; from other weights
plainly again, which shows what retraining alone changes. At the same images:

  distances  without restriction, within the tangent space of an auto-encoder
             ("on" the manifold) and orthogonal to it ("off"), and both for a
             random subspace of as many dimensions. Where the boundary is flat,
             off/on = f / sqrt(1 - f^2), with f the normal's part in the tangent
             space: that off-distances grow more than on-distances and that
             normals turn to the manifold is one statement, not two.
  depth      the distance of the nearest boundary point, less that at which the
             same ray crosses the boundary of the smoothed network (mean logits
             over a ball). A plane has depth 0 wherever it lies, and a boundary
             that moves as a whole keeps its depth. The point is chosen for
             being near, so that mere ripples have a negative depth.
  bend       curvature toward the image, 2 h / s^2 from the height h of the
             boundary over its tangent plane at a distance s (the ball's radius)
             from the nearest point, along the manifold and in random
             directions. Kinks of ReLUs show in no second derivative.
  place      of the first crossing of the line to the nearest image of another
             class, from 0 (the image) over 1/2 (the middle) to 1.

A claim is about every kind of adversarial training; one can refute it:

  off grows more than on: the growth of off-distances and of off/on lies above
    1, and that of off/on above the random subspace's. Refuted where distances
    grow alike in all directions.
  on-manifold distances stay: their growth is 1, to within 0.1. Refuted where
    the boundary moves on the manifold too.
  depth grows: it lies above 0, and above the plain network's. Refuted where
    there are no dimples, or the smoothed boundary moves as far.
  main effect: depth grows by more than half of what the distance does. Refuted
    where most of the growth is a boundary that moves.
  dimples bend more: the bend along the manifold lies above 0, and above the
    plain network's. Refuted where the boundary is as flat as before.
  boundary stays in place: crossings are displaced by at most 0.05 of the line
    more than by retraining, and their mean distance from the middle changes by
    less than that. Refuted beyond.

The unit is the network; the images are the same for all, and those count that
both networks of a pair classify correctly. A claim is not tested where
adversarial training did not raise robust accuracy or, if it speaks of the
manifold, where an auto-encoder is worse than as many principal components.
There is no box: where many pixels are 0, hardly any step of a tangent space
stays in it.
"""

import dataclasses
import functools
from typing import Any
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dmm_jax import boundary
from dmm_jax import manifold
from dmm_jax import margins
from dmm_jax import models
from dmm_jax import parallel
from dmm_jax import programs
from dmm_jax import records
from dmm_jax import statistics
from experiments import networks
from experiments import pairs
from experiments.figures import dimple_depth as figures
from experiments.lib import claims
from experiments.lib import flags
from experiments.lib import own
from experiments.lib import runner
from experiments.lib import splits
from experiments.lib import tables

PAPER = '2106.10151'
# Subspace of each search: shares of a vector, and of its part in the span.
SIDES = {
  'free': (1.0, 0.0),
  'on': (0.0, 1.0),
  'off': (1.0, -1.0),
  'random_on': (0.0, 1.0),
  'random_off': (1.0, -1.0),
}
NUM_POINTS = 64  # Of the ball, in opposite pairs: planes stay where they are.
NUM_DIRECTIONS = 16  # In opposite pairs.
SHAPES_AT_ONCE = 8  # Images; each fills memory with the ball's points.
ON_TOLERANCE = 0.1  # Of growth.
PLACE_TOLERANCE = 0.05  # Of the line to the other image.
MOST_FAILED = 0.05  # Share of the searches on a side.
NUM_TEST = 1000  # Test images, the first, for accuracies and errors.
LEAST_IMAGES = 10  # That both networks of a pair classify correctly.

OFF, ON = 'off grows more than on', 'on-manifold distances stay'
DEPTH, MAIN = 'depth grows', 'main effect'
BEND, PLACE = 'dimples bend more', 'boundary stays in place'
ON_MANIFOLD = (OFF, ON, BEND)  # Claims that need tangent spaces.
STATEMENTS = {
  OFF: 'Adversarial training deepens dimples: distances off the manifold grow, '
  'and more than those on it; that is, normals turn to the manifold.',
  ON: 'Adversarial training just deepens dimples: distances on the manifold '
  'stay as they are (its strong form, ours).',
  DEPTH: 'Adversarial training deepens the generated dimples in the decision '
  'boundary.',
  MAIN: 'The main effect of adversarial training is just to deepen the '
  'generated dimples in the decision boundary.',
  BEND: 'Deeper dimples bend the boundary more around each image (ours).',
  PLACE: 'Adversarial training does not move the boundary between images of '
  'different classes (its strong form, ours).',
}


@dataclasses.dataclass(frozen=True)
class Config:
  preset: str = flags.preset()
  workdir: str = flags.workdir('runs/dimple_depth')
  seed: int = flags.seed()
  dataset: str = flags.dataset()
  data_dir: str = flags.data_dir()
  num_train: int = flags.num_train()
  num_examples: int = flags.flag(
    150, 'Number of test images to measure: the first, at most all.', least=10
  )
  num_networks: int = flags.flag(
    10,
    'Number of networks of each kind, each a pair with a plain one.',
    least=1,
  )
  model: str = flags.flag(
    'mlp',
    'Architecture: mlp with two hidden layers, or cnn with two convolutions.',
    choices=('mlp', 'cnn'),
  )
  width: int = flags.flag(
    100, 'Units of each hidden layer; of a cnn, channels.', least=1
  )
  epochs: int = flags.flag(30, 'Passes over the training set.', least=1)
  adversaries: tuple[str, ...] = flags.flag(
    tuple(pairs.ADVERSARIES),
    'Kinds of adversarial training.',
    choices=tuple(pairs.ADVERSARIES),
  )
  radius: float = flags.flag(
    0.6, 'Radius of adversarial training in l2, input units.', least=0
  )
  radius_linf: float = flags.flag(
    0.1, 'Radius of adversarial training in linf, input units.', least=0
  )
  trades: float = flags.flag(
    6.0, 'Weight of the divergence in TRADES.', least=1e-6
  )
  attack_steps: int = flags.flag(
    5, 'Gradient steps of an attack in training.', least=1
  )
  plain: str = flags.flag(
    '',
    'Runs of train_classifier, separated by commas: plain networks. Empty '
    'trains networks here, and flags of training then have an effect.',
  )
  robust: str = flags.flag(
    '',
    'As many runs of adversarially trained networks, in the order of --plain; '
    'empty with it.',
  )
  network: str = flags.flag(
    '',
    own.SEVERAL_HELP + 'Pairs: a plain network, then the adversarially trained '
    'one. Empty: --plain and --robust.',
  )
  data: str = flags.flag('', own.DATA_HELP)
  autoencoder: str = flags.flag(
    '',
    'Run of train_autoencoder, for all networks; empty trains one for each '
    'pair here.',
  )
  latent: int = flags.flag(
    8, 'Latent numbers of auto-encoders trained here.', least=1
  )
  autoencoder_epochs: int = flags.flag(
    60, 'Passes over the training set of auto-encoders.', least=1
  )
  ball: float = flags.flag(
    0.5,
    'Radius of the ball that smooths, as a share of the median distance '
    'between an image and the nearest one of another class.',
    least=1e-3,
  )
  method: str = flags.method('fast')
  max_gradients: int = flags.max_gradients(300)
  batch_size: int = flags.flag(
    1000, 'Number of searches that run together.', least=1
  )


PRESETS = {
  'quick': dict(
    workdir='runs/dimple_depth_quick',
    num_examples=80,
    num_networks=8,
    width=50,
    epochs=15,
    adversaries=('PGD l2', 'PGD linf'),
    attack_steps=4,
    autoencoder_epochs=40,
  ),
  'default': {},
  'mnist': dict(
    workdir='runs/dimple_depth_mnist',
    dataset='mnist',
    num_train=15000,
    num_networks=4,
    width=200,
    epochs=6,
    adversaries=('PGD l2', 'PGD linf'),
    radius=1.5,
    radius_linf=0.1,
    latent=16,
    autoencoder_epochs=8,
  ),
  'cifar': dict(
    workdir='runs/dimple_depth_cifar',
    dataset='cifar10',
    num_examples=100,
    model='cnn',
    width=64,
    radius=0.5,
    radius_linf=0.03,
    latent=128,
    batch_size=100,
  ),
}
COLUMNS = {
  'kind': ('', 'how the network was trained; plain again: from other weights'),
  'network': ('', 'number of the pair that it belongs to'),
  'parameters': ('', 'variables of the network, as ravel_pytree orders them'),
  'accuracy': ('', f'share of the first {NUM_TEST} test images that is right'),
  'robust_l2': ('', 'the same after an attack of the l2 radius'),
  'robust_linf': ('', 'the same after an attack of the linf radius'),
  'error': (
    'input units^2',
    "auto-encoder's mean squared error on test images",
  ),
  'pca_error': ('input units^2', 'the same of as many principal components'),
  'index': ('', 'row of the image in the test set'),
  'label': ('', 'class of the image'),
  'correct': ('', 'whether the network classifies the image correctly'),
  'free': ('input units', 'l2 distance of the boundary; inf: not found'),
  'on': ('input units', 'the same within the tangent space'),
  'off': ('input units', 'the same orthogonal to the tangent space'),
  'random_on': ('input units', 'the same within a random subspace'),
  'random_off': ('input units', 'the same orthogonal to the random subspace'),
  'fraction': ('', 'part of the unit normal within the tangent space'),
  'smoothed': (
    'input units',
    "distance of the smoothed network's boundary on the ray to the nearest "
    'point; negative behind the image, infinite if not found',
  ),
  'bend': ('1 / input unit', 'curvature toward the image along the manifold'),
  'random_bend': ('1 / input unit', 'the same in random directions'),
  'other': ('', 'nearest image of another class: its row among those measured'),
  'place': ('', 'first crossing on the way to that image, from 0 to 1'),
}


def check(config):
  """Raises FlagError for flags that do not go together."""
  flags.check_method(config.method)
  if config.network and (config.plain or config.robust):
    raise flags.FlagError('--network excludes --plain and --robust')


# --- Data and networks -----------------------------------------------------


class Inputs(NamedTuple):
  """What is measured, and what networks are made of.

  Attributes:
    module: of all networks.
    given: as of `pairs.read`.
    encoder: module of the auto-encoders, and variables of a given one.
    train_set, test_set: images and labels.
    xs, labels: the images to measure and their classes.
    others: row of the nearest image of another class of each.
    scale: the median distance to it.
  """

  module: Any
  given: dict
  encoder: tuple
  train_set: tuple
  test_set: tuple
  xs: np.ndarray
  labels: np.ndarray
  others: np.ndarray
  scale: float


def load(config):
  """Returns `Inputs`; all that flags name has to be there."""
  train_set, test_set = splits.load(
    config.dataset, config.data_dir, file=config.data
  ).values()
  num_classes = int(train_set[1].max()) + 1
  train_set = tuple(c[: config.num_train or None] for c in train_set)
  xs, labels = (column[: config.num_examples] for column in test_set)
  test_set = tuple(column[:NUM_TEST] for column in test_set)
  if len(np.unique(labels)) < 2:
    raise flags.FlagError(f'{own.source(config)}: all images are of one class')
  shape = xs.shape[1:]
  if config.network:
    given = own_pairs(config.network, *test_set)
  else:
    given = pairs.read(config.plain, config.robust, shape, num_classes)
  most = min(xs[0].size, len(train_set[0])) - 1
  encoder: tuple = (pairs.AutoEncoder(shape, config.latent), None)
  if config.autoencoder:
    one = networks.read_for(config.autoencoder, shape, kind='autoencoder')
    encoder = one.module, networks.variables(one.state)
  elif config.latent > most:
    raise flags.FlagError(
      f'--latent={config.latent} is too large; at most {most}'
    )
  module = given.get('module') or build(config, num_classes)
  nearest = opposite(xs, labels)
  return Inputs(
    module, given, encoder, train_set, test_set, xs, labels, *nearest
  )


def own_pairs(names, xs, labels):
  """As `pairs.read`, of the user's networks: plain and robust by turns."""
  module = own.several(names, xs, labels)
  num = len(module.networks)
  if num % 2:
    raise flags.FlagError(f'--network={names}: {num} networks are no pairs')
  plain, robust = (
    [module.variables(number) for number in range(first, num, 2)]
    for first in (0, 1)
  )
  return {'module': module, pairs.PLAIN: plain, pairs.GIVEN: robust}


def opposite(xs, labels):
  """Returns the nearest image of another class of each: rows `[n]`.

  And the median distance to it.
  """
  flat = xs.reshape(len(xs), -1).astype(np.float64)
  squares = np.sum(flat**2, 1)
  gaps = squares[:, None] + squares - 2 * flat @ flat.T
  gaps[labels[:, None] == labels] = np.inf
  return np.argmin(gaps, 1), float(np.median(np.sqrt(np.min(gaps, 1))))


def build(config, num_classes):
  if config.model == 'mlp':
    return models.MLP(2 * (config.width,), num_classes)
  channels = config.width, 2 * config.width
  return models.CNN(channels, (4 * config.width,), num_classes=num_classes)


def make_plan(config, inputs):
  same = 'seed epochs radius radius_linf trades attack_steps'.split()
  num = len(inputs.given.get('plain', ())) or config.num_networks
  return pairs.Plan(num=num, **{name: getattr(config, name) for name in same})


def make_networks(config, inputs, kind):
  """Rows of networks.npz: all networks of a kind, and their accuracies."""
  if inputs.given:
    plain, robust = inputs.given['plain'], inputs.given[pairs.GIVEN]
    of = {'plain': plain, pairs.GIVEN: robust}
    # Each pair's plain network again is the plain one of the next pair.
    flat = pairs.flatten(of.get(kind, [*plain[1:], plain[0]]))
  else:
    plan = make_plan(config, inputs)
    flat = pairs.train_kind(plan, inputs.module, *inputs.train_set, kind)
  right = functools.partial(
    pairs.accuracies,
    inputs.module,
    flat,
    *inputs.test_set,
    batch_size=config.batch_size,
  )
  return {
    'kind': np.full(len(flat), kind, 'U12'),
    'network': np.arange(len(flat), dtype=np.int32),
    'parameters': flat,
    'accuracy': right(radius=0.0, norm=2.0),
    'robust_l2': right(radius=config.radius, norm=2.0),
    'robust_linf': right(radius=config.radius_linf, norm=np.inf),
  }


def make_autoencoders(config, inputs):
  """Rows of autoencoders.npz: one for each pair of networks, and its error."""
  (module, variables), plan = inputs.encoder, make_plan(config, inputs)
  xs, test = inputs.train_set[0], inputs.test_set[0]
  if variables is None:
    epochs = config.autoencoder_epochs
    flat = pairs.train_autoencoders(plan, module, xs, epochs)
  else:
    flat = pairs.flatten(plan.num * [variables])
  error, of_pca = pairs.reconstruction_errors(
    module, flat, test, xs, config.batch_size
  )
  return {
    'network': np.arange(plan.num, dtype=np.int32),
    'parameters': flat,
    'error': error,
    'pca_error': np.full(plan.num, of_pca),
  }


# --- Measuring -------------------------------------------------------------


def kinds(config):
  """Of networks, plain ones first."""
  given = config.plain or config.network
  hard = (pairs.GIVEN,) if given else config.adversaries
  return (pairs.PLAIN, pairs.AGAIN, *hard)


def measure(config, inputs):
  """Yields the units: networks of each kind, auto-encoders, then each network.

  networks, autoencoders: one row a network; results: one row a (network,
  image).
  """
  made = {}
  for kind in kinds(config):
    rows = functools.partial(make_networks, config, inputs, kind)
    unit = runner.Unit(f'networks-{kind.replace(" ", "-")}', rows, 'networks')
    made[kind] = (yield unit).result()['parameters']
  rows = functools.partial(make_autoencoders, config, inputs)
  decoders = (yield runner.Unit('autoencoders', rows, 'autoencoders')).result()
  for number, decoder in enumerate(decoders['parameters']):
    for kind, flat in made.items():
      rows = functools.partial(
        measure_network, config, inputs, kind, number, flat[number], decoder
      )
      yield runner.Unit(f'{kind.replace(" ", "-")}-{number:03d}', rows)


def measure_network(config, inputs, kind, number, flat, decoder):
  """Rows of one network, one an image."""
  xs, labels, module = inputs.xs, inputs.labels, inputs.module
  variables = pairs.unflatten(module, xs[0], flat)
  tangent = pairs.tangents(inputs.encoder[0], decoder, xs)
  num, k, d = tangent.shape
  key = jax.random.fold_in(jax.random.key(config.seed), 3 + number)
  null = parallel.map_examples(
    programs.bind(random_basis, k=k, d=d), (np.arange(num),), shared=(key,)
  )
  found = boundary.measure(
    lambda variables, x: module.apply(variables, x)[0],
    np.concatenate(len(SIDES) * [xs]),
    np.concatenate(len(SIDES) * [labels]),
    params=variables,
    project=restrict,  # One program for all sides.
    project_rows=(
      np.concatenate([null if 'random' in s else tangent for s in SIDES]),
      np.repeat(np.float32([*SIDES.values()]), num, axis=0),
    ),
    method=config.method,
    max_gradients=config.max_gradients,
    batch_size=config.batch_size,
  )
  nearest = found.point[:num], found.normal[:num]
  shape = parallel.map_examples(
    programs.bind(measure_shape, module=module),
    (xs, labels, xs[inputs.others], *nearest, tangent),
    shared=(
      variables,
      np.float32([config.ball, 2.0]) * np.float32(inputs.scale),
      probes(config.seed, xs.shape[1:], k),
    ),
    batch_size=config.batch_size,
    vmap_size=SHAPES_AT_ONCE,
  )
  return {
    'kind': np.full(num, kind, 'U12'),
    'network': np.full(num, number, np.int32),
    'index': np.arange(num, dtype=np.int32),
    'label': labels,
    'correct': found.status[:num] != boundary.Status.MISCLASSIFIED,
    **dict(zip(SIDES, found.distance.reshape(len(SIDES), num), strict=True)),
    'other': inputs.others.astype(np.int32),
    **shape,
  }


def restrict(v, basis, share):
  """A vector as it is, in the span of a basis, or orthogonal to it."""
  return share[0] * v + share[1] * manifold.on(v, basis)


def random_basis(number, key, *, k, d):
  return manifold.random_basis(jax.random.fold_in(key, number), k, d)


def probes(seed, shape, k):
  """Points of the unit ball, codes and directions, the same for all images.

  `[NUM_POINTS, ...]`, and `[NUM_DIRECTIONS, k]` and `[NUM_DIRECTIONS, d]`; the
  second half of each is the opposite of the first.
  """
  ball, along, across = jax.random.split(jax.random.key(seed), 3)
  d = int(np.prod(shape))
  found = (
    jax.random.ball(ball, d, shape=(NUM_POINTS // 2,)).reshape(-1, *shape),
    jax.random.normal(along, (NUM_DIRECTIONS // 2, k)),
    jax.random.normal(across, (NUM_DIRECTIONS // 2, d)),
  )
  return [np.concatenate([v, -v]) for v in map(np.asarray, found)]


def measure_shape(
  x, label, other, point, normal, basis, variables, lengths, probe, *, module
):
  """What else is measured at one image, whose nearest boundary point is known.

  Args:
    x, label, other: image, class, and an image of another class.
    point, normal: nearest boundary point, and the unit normal into the class.
    basis: of the tangent space `[k, d]`.
    variables: of the network.
    lengths: radius of the ball and offset of the bend; and how far crossings
      are sought.
    probe: as of `probes`.
    module: of the network.

  Returns:
    Columns by name; without meaning where the image is misclassified.
  """
  (radius, reach), (points, codes, directions) = lengths, probe
  logits_fn = lambda v: module.apply(variables, v)[0]
  margin = lambda v: margins.margin(logits_fn(v), label)
  nearby = jax.vmap(lambda u, v: logits_fn(v + radius * u), (0, None))
  smooth = lambda v: margins.margin(jnp.mean(nearby(points, v), 0), label)
  bends = lambda rows: bend(
    margin, point, normal, rows.reshape(-1, *x.shape), radius, reach
  )
  way = other - x
  length = jnp.linalg.norm(way.ravel())
  met = boundary.first_crossing(logits_fn, x, way, label, max_distance=length)
  return {
    'fraction': manifold.tangent_fraction(normal, basis),
    'smoothed': signed_crossing(smooth, x, point - x, reach),
    'bend': bends(codes @ basis),
    'random_bend': bends(directions),
    'place': met.distance / length,
  }


def signed_crossing(margin, start, direction, reach):
  """Returns where a margin changes its sign on a line, nearest to its start.

  Forwards from within the class; backwards, as a negative number, from beyond
  its boundary. Infinite where the sign stays the same as far as `reach`.
  """
  inside = margin(start) >= 0
  sign = jnp.where(inside, 1.0, -1.0)
  found = boundary.first_crossing(
    lambda v: jnp.stack([margin(v), jnp.zeros(())]),
    start,
    sign * direction,
    jnp.where(inside, 0, 1),
    max_distance=reach,
  )
  return sign * found.distance


def bend(margin, point, normal, directions, offset, reach):
  """Returns the curvature of a boundary toward the class whose margin it is.

  2 h / offset^2, with h the mean height of the boundary over its tangent plane
  at an offset in each direction; heights beyond `reach` count as `reach`. For a
  class inside a sphere of radius r: 1 / r, to a relative (offset / 2r)^2.

  Args:
    margin: of the class.
    point, normal: of the boundary, and its unit normal into the class.
    directions: `[m, ...]`, made unit tangents.
    offset, reach: lengths.
  """

  def height(u):
    u = u - jnp.sum(u * normal) * normal
    size = jnp.linalg.norm(u.ravel())
    u = u / jnp.where(size > 0, size, 1.0)
    away = signed_crossing(margin, point + offset * u, -normal, reach)
    return -jnp.clip(away, -reach, reach)

  return 2 * jnp.mean(jax.lax.map(height, directions)) / offset**2


# --- Judging ---------------------------------------------------------------


def analyze(config, found):
  """Compares the networks of each pair, and judges the claims."""
  plain = per_network(found['results'], pairs.PLAIN)
  made = {
    kind: records.select(found['networks'], kind=kind) for kind in kinds(config)
  }
  rows = {
    kind: compare(plain, per_network(found['results'], kind))
    for kind in kinds(config)[1:]
  }
  trouble = {
    kind: why_not_tested(kind, row, made, plain['label'])
    for kind, row in rows.items()
    if kind != pairs.AGAIN
  }
  judged = judge(rows, trouble, bad_encoders(found['autoencoders']))
  shown = [
    distance_table(rows),
    depth_table(rows),
    place_table(rows),
    network_table(rows, made, trouble),
  ]
  return runner.Report(
    answer(config, rows, trouble, plain['label'][0]), judged, shown
  )


def per_network(results, kind):
  """Columns of the networks of a kind `[networks, images]`."""
  rows = records.select(results, kind=kind)
  num = rows['network'].max() + 1
  return {name: column.reshape(num, -1) for name, column in rows.items()}


def compare(plain, other):
  """Returns numbers of each pair of networks `[m]`, by name.

  `free 0` is the plain network's median, `free` that of the other one, over the
  images that both classify correctly; likewise all that `summary` returns.
  """
  rows = []
  for i in range(len(plain['correct'])):
    a, b = ({k: v[i] for k, v in of.items()} for of in (plain, other))
    kept = a['correct'] & b['correct']
    both = kept & kept[a['other']]
    before, after = summary(a, kept, both), summary(b, kept, both)
    row = {f'{name} 0': value for name, value in before.items()} | after
    moved = b['place'][both] - a['place'][both]
    row |= {'displaced': average(np.abs(moved)), 'shift': average(moved)}
    rows.append(row | {'images': kept.sum()})
  return {name: np.array([row[name] for row in rows]) for name in rows[0]}


def summary(network, kept, both):
  """Medians over the images of a network that are kept; NaN where none is."""
  of = {name: column[kept] for name, column in network.items()}
  fraction = np.minimum(of['fraction'], 1 - 1e-6)
  with np.errstate(invalid='ignore', divide='ignore'):
    columns = {
      **{side: of[side] for side in SIDES},
      'off/on': of['off'] / of['on'],
      'random off/on': of['random_off'] / of['random_on'],
      'by normals': fraction / np.sqrt(1 - fraction**2),
      'depth': of['free'] - of['smoothed'],
      'bend': of['bend'],
      'random_bend': of['random_bend'],
    }
  medians = {name: median(column) for name, column in columns.items()}
  failed = max(average(np.isinf(of[side])) for side in SIDES)
  middle = average(np.abs(network['place'][both] - 0.5))
  return medians | {'failed': failed, 'middle': middle}


def median(values):
  """Without interpolation, as some are infinite; NaN of none."""
  if not len(values) or np.isnan(values).any():
    return np.nan
  return float(np.quantile(values, 0.5, method='inverted_cdf'))


def average(values):
  return float(np.mean(values)) if len(values) else np.nan


def growth(row, name):
  """Geometric mean over networks of a median over the plain network's."""
  with np.errstate(divide='ignore', invalid='ignore'):
    logs = np.log(row[name] / row[f'{name} 0'])
  found = statistics.t_mean(
    np.where(np.isfinite(logs), logs, np.nan), unit='networks'
  )
  value, low, high = np.exp(found[:3]).tolist()
  return found._replace(value=value, low=low, high=high)


def relative_growth(row, name, other):
  """The growth of one thing over that of another, network by network."""
  both = {k: row[name + k] / row[other + k] for k in ('', ' 0')}
  return growth({'': both[''], ' 0': both[' 0']}, '')


def mean(values):
  """Mean over networks; NaN if one of them has none."""
  usable = np.where(np.isfinite(values), values, np.nan)
  return statistics.t_mean(usable, unit='networks')


def change(row, name):
  return mean(row[name] - row[f'{name} 0'])


def judge(rows, trouble, encoders):
  """The claims: conditions of every kind of training that can be tested."""
  found: dict[str, list] = {name: [] for name in STATEMENTS}
  for kind in (kind for kind, why in trouble.items() if not why):
    conditions = judge_kind(kind, rows[kind], rows[pairs.AGAIN])
    for name, new in conditions.items():
      found[name] += new
  why = '; '.join(f'{kind}: {why}' for kind, why in trouble.items() if why)
  made = []
  for name, conditions in found.items():
    untested = encoders if name in ON_MANIFOLD else ''
    untested = untested if conditions else why
    made.append(
      claims.Claim(PAPER, name, STATEMENTS[name], (*conditions,), untested)
    )
  return made


def judge_kind(kind, row, again):
  """Conditions of the claims on one kind of adversarial training, by name."""
  above = lambda what, *pair: claims.above(f'{kind}: {what}', *pair)
  within = lambda what, *rest: claims.within(f'{kind}: {what}', *rest)
  below = lambda what, *pair: claims.below(f'{kind}: {what}', *pair)
  versus = relative_growth(row, 'off/on', 'random off/on')
  deeper, farther = (row[n] - row[f'{n} 0'] for n in ('depth', 'free'))
  excess = mean(row['displaced'] - again['displaced'])
  return {
    OFF: [
      above('growth of off-distances', growth(row, 'off'), 1.0),
      above('growth of off/on', growth(row, 'off/on'), 1.0),
      above('that over the random subspace', versus, 1.0),
    ],
    ON: [within('growth', growth(row, 'on'), 1.0, ON_TOLERANCE)],
    DEPTH: [
      above('depth', mean(row['depth']), 0.0),
      above('change of depth', mean(deeper), 0.0),
    ],
    MAIN: [
      above('change of distance', mean(farther), 0.0),
      above('change of depth less half of it', mean(deeper - farther / 2), 0.0),
    ],
    BEND: [
      above('bend', mean(row['bend']), 0.0),
      above('change of bend', change(row, 'bend'), 0.0),
    ],
    PLACE: [
      below('displacement beyond retraining', excess, PLACE_TOLERANCE),
      within('change of distance from the middle', change(row, 'middle'), 0.0,
             PLACE_TOLERANCE),
    ],
  }  # fmt: skip


def why_not_tested(kind, row, made, labels):
  """Why networks of a kind say nothing of the claims, or ''."""
  if len(row['free']) < 2:
    return 'there is one pair of networks, which says nothing of others'
  _, counts = np.unique(labels[0], return_counts=True)
  chance = counts.max() / counts.sum()
  for name in ('plain', kind):
    right = made[name]['accuracy'].mean()
    if right < (1 + chance) / 2:
      return (
        f'{name} networks classify {right:.0%} correctly, less than half way '
        f'from chance ({chance:.0%}) to all'
      )
  column = robust_column(kind)
  gain = mean(made[kind][column] - made['plain'][column])
  if not statistics.above(gain, 0.0):
    return f'robust accuracy was not raised: by {tables.cell(gain)}'
  if row['images'].min() < LEAST_IMAGES:
    return (
      f'a pair of networks classifies {row["images"].min()} images correctly, '
      f'fewer than {LEAST_IMAGES}'
    )
  failed = max(row['failed'].mean(), row['failed 0'].mean())
  if failed > MOST_FAILED:
    return f'{failed:.0%} of the searches on one side failed'
  return ''


def robust_column(kind):
  return 'robust_linf' if pairs.ADVERSARIES.get(kind) == np.inf else 'robust_l2'


def bad_encoders(made):
  """Why tangent spaces of auto-encoders are not used, or ''."""
  worse = made['error'] > made['pca_error']
  if not worse.any():
    return ''
  return (
    f'{worse.sum()} of {len(worse)} auto-encoders have a larger error '
    f'({made["error"].max():.3g}) than as many principal components '
    f'({made["pca_error"].max():.3g})'
  )


def answer(config, rows, trouble, labels):
  """One sentence, of the first kind of training that was tested."""
  kind = next((kind for kind, why in trouble.items() if not why), None)
  if kind is None:
    return f'Not tested: {"; ".join(dict.fromkeys(trouble.values()))}.'
  row, cell = rows[kind], tables.cell
  return (
    'Adversarial training takes the boundary '
    f'{cell(growth(row, "off"), ".2f")} times as far off the manifold and '
    f'{cell(growth(row, "on"), ".2f")} times as far on it; of '
    f'{cell(change(row, "free"), ".2g")} that it moves away, '
    f'{cell(change(row, "depth"), ".2g")} is depth under the smoothed boundary '
    f'({kind}; {len(row["free"])} pairs of networks, {len(labels)} images of '
    f'{own.source(config)}).'
  )


def distance_table(rows):
  column = functools.partial(tables.Column, spec='.2f')
  names = 'free', 'on', 'off', 'off/on', 'random off/on', 'by normals'
  return tables.Table(
    'Distances over those of the plain network',
    [
      column('trained', '', ''),
      column('free', '', 'distance in any direction'),
      column('on', '', 'distance within the tangent space'),
      column('off', '', 'distance orthogonal to it'),
      column('off/on', '', 'median over images of the ratio'),
      column('random', '', 'the same for a random subspace'),
      column(
        'by normals', '', 'the same of a flat boundary with these normals'
      ),
    ],
    [[kind, *(growth(row, n) for n in names)] for kind, row in rows.items()],
  )


def depth_table(rows):
  column = functools.partial(tables.Column, spec='.2g')
  length, curved = 'input units', '1 / input unit'
  again = rows[pairs.AGAIN]
  before = [mean(again[f'{n} 0']) for n in ('depth', 'bend', 'random_bend')]
  return tables.Table(
    'Depth under the smoothed boundary, and bend',
    [
      column('trained', '', ''),
      column('distance', length, 'change of the median'),
      column('depth', length, 'median of the distance less the smoothed one'),
      column('change', length, 'of depth'),
      column('bend', curved, 'along the manifold, toward the image'),
      column('its change', curved, ''),
      column('random bend', curved, 'the same in random directions'),
    ],
    [
      [pairs.PLAIN, None, before[0], None, before[1], None, before[2]],
      *(
        [
          kind,
          change(row, 'free'),
          *(mean(row['depth']), change(row, 'depth')),
          *(mean(row['bend']), change(row, 'bend')),
          mean(row['random_bend']),
        ]
        for kind, row in rows.items()
      ),
    ],
  )


def place_table(rows):
  column = functools.partial(tables.Column, spec='.3f')
  again = rows[pairs.AGAIN]
  return tables.Table(
    'Crossings of the line to the nearest image of another class, 0 to 1',
    [
      column('trained', '', ''),
      column('displaced', '', 'mean absolute change of the crossing'),
      column('beyond', '', 'the same less that by retraining'),
      column('shift', '', 'mean change; positive is away from the image'),
      column('from middle', '', 'mean distance of crossings from 1/2'),
      column('its change', '', ''),
    ],
    [
      [
        kind,
        mean(row['displaced']),
        None if row is again else mean(row['displaced'] - again['displaced']),
        mean(row['shift']),
        *(mean(row['middle']), change(row, 'middle')),
      ]
      for kind, row in rows.items()
    ],
  )


def network_table(rows, made, trouble):
  column = functools.partial(tables.Column, spec='.1%')
  of = lambda kind, name: statistics.proportion(
    made[kind][name], unit='networks'
  )
  return tables.Table(
    'Networks',
    [
      column('trained', '', ''),
      column('accuracy', '', f'share of {NUM_TEST} test images at most'),
      column('robust', '', 'share after an attack as in training'),
      column('plain', '', 'the same of plain networks'),
      column('images', '', 'least that both of a pair classify correctly'),
      column('failed', '', 'share of the searches on the worst side'),
      column('used', '', 'whether claims are tested on it'),
    ],
    [
      [
        kind,
        of(kind, 'accuracy'),
        of(kind, robust_column(kind)),
        of(pairs.PLAIN, robust_column(kind)),
        int(row['images'].min()),
        float(row['failed'].mean()),
        'null' if kind == pairs.AGAIN else trouble[kind] or 'yes',
      ]
      for kind, row in rows.items()
    ],
  )


EXPERIMENT = runner.Experiment(
  'experiments.dimple_depth', __doc__, Config, PRESETS, COLUMNS,
  measure, analyze, figures.draw, load=load, check=check,
)  # fmt: skip
run = EXPERIMENT.run

if __name__ == '__main__':
  EXPERIMENT.main()
