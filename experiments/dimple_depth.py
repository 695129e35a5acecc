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
for a GPU. A run that was killed goes on where it was.

Networks are trained plainly, with projected gradient (PGD) in l2 and in linf,
and by TRADES, from the same weights in the same order; and plainly from other
weights, which shows what retraining alone changes. At the same images:

  distances  without restriction, within an auto-encoder's tangent space ("on")
             and orthogonal to it ("off"), and for a random subspace as large.
             At a flat boundary off/on = f / sqrt(1 - f^2), f the normal's part
             in the tangent space: that off-distances grow more, and that
             normals turn to the manifold, is one statement.
  depth      the nearest boundary point's distance, less that at which the same
             ray meets the boundary of the mean logits over a ball. 0 of a plane
             wherever it lies; negative of ripples, as the point is the nearest.
  bend       curvature toward the image, of secants as long as the ball's
             radius, along the manifold and in random directions.
  place      of the first crossing of the line to the nearest image of another
             class, from 0 (the image) over 1/2 (the middle) to 1.

`judge_kind` has the conditions; every kind of adversarial training can refute a
claim. The unit is the network; the images are the same for all, and those count
that both networks of a pair classify correctly. Nothing is tested where robust
accuracy was not raised, and nothing of the manifold where an auto-encoder is
worse than as many principal components. There is no box: where many pixels are
0, hardly any step of a tangent space stays in it.
"""

import dataclasses
import functools
from typing import Any
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dmm_jax import boundary
from dmm_jax import data
from dmm_jax import halfway
from dmm_jax import manifold
from dmm_jax import margins
from dmm_jax import models
from dmm_jax import parallel
from dmm_jax import programs
from dmm_jax import records
from dmm_jax import statistics
from dmm_jax.boundary import secants
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
ADVERSARIES = tuple(pairs.ADVERSARIES)
# Of each search, what it is named after: the subspace, and the side of it.
SIDES = {
  'free': ('tangent', 'free'),
  'on': ('tangent', 'on'),
  'off': ('tangent', 'off'),
  'random_on': ('random', 'on'),
  'random_off': ('random', 'off'),
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
    150, 'Test images to measure: the first, at most all.', least=10
  )
  num_networks: int = flags.flag(10, 'Pairs of networks, each kind.', least=1)
  model: str = flags.flag(
    'mlp', 'Architecture, of two hidden layers.', choices=('mlp', 'cnn')
  )
  width: int = flags.flag(100, 'Units of a hidden layer, or channels.', least=1)
  epochs: int = flags.flag(30, 'Passes over the training set.', least=1)
  adversaries: tuple[str, ...] = flags.flag(
    ADVERSARIES, 'Kinds of adversarial training.', choices=ADVERSARIES
  )
  radius: float = flags.flag(0.6, 'Radius of l2 adversaries.', least=0)
  radius_linf: float = flags.flag(0.1, 'Radius in linf.', least=0)
  trades: float = flags.flag(6.0, 'Weight of TRADES.', least=1e-6)
  attack_steps: int = flags.flag(5, 'Steps of an attack in training.', least=1)
  plain: str = flags.flag(
    '', 'Plain networks: runs of train_classifier, by commas; empty trains.'
  )
  robust: str = flags.flag(
    '', 'As many adversarially trained ones, in the order of --plain.'
  )
  network: str = flags.flag(
    '',
    own.SEVERAL_HELP + 'Pairs: a plain network, then the adversarially trained '
    'one. Empty: --plain and --robust.',
  )
  data: str = flags.flag('', own.DATA_HELP)
  autoencoder: str = flags.flag(
    '', 'Run of train_autoencoder; empty trains one for each pair.'
  )
  latent: int = flags.flag(8, 'Latent numbers of auto-encoders.', least=1)
  autoencoder_epochs: int = flags.flag(60, 'Passes of auto-encoders.', least=1)
  ball: float = flags.flag(
    0.5,
    'Radius of the ball that smooths, as a share of the median distance '
    'between an image and the nearest one of another class.',
    least=1e-3,
  )
  method: str = flags.method('fast')
  max_gradients: int = flags.max_gradients(300)
  batch_size: int = flags.flag(1000, 'Searches at once.', least=1)


PRESETS = {
  'quick': dict(
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
    dataset='mnist',
    num_train=15000,
    num_networks=4,
    width=200,
    epochs=6,
    adversaries=('PGD l2', 'PGD linf'),
    radius=1.5,
    latent=16,
    autoencoder_epochs=8,
  ),
  'cifar': dict(
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
  'error': ('input units^2', "auto-encoder's mean squared error, test images"),
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
  'smoothed': ('input units', 'distance of the boundary of mean logits on the '
               'ray; negative behind the image, infinite if not found'),
  'bend': ('1 / input unit', 'curvature toward the image along the manifold'),
  'random_bend': ('1 / input unit', 'the same in random directions'),
  'other': ('', 'nearest image of another class: its row among those measured'),
  'place': ('', 'first crossing on the way to that image, from 0 to 1'),
}  # fmt: skip


def check(config):
  """Raises FlagError for flags that do not go together."""
  flags.check_method(config.method)
  if config.network and (config.plain or config.robust):
    raise flags.FlagError('--network excludes --plain and --robust')


# --- Data and networks -----------------------------------------------------


class Inputs(NamedTuple):
  """What is measured, and what networks are made of."""

  module: Any  # Of all networks.
  given: dict  # As of `pairs.read`.
  encoder: tuple  # Module of the auto-encoders, and variables of a given one.
  train_set: tuple
  test_set: tuple
  xs: np.ndarray  # The images to measure, and their classes.
  labels: np.ndarray
  others: np.ndarray  # Row of the nearest image of another class of each.
  scale: float  # The median distance to it.


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
    given = pairs.read_own(config.network, *test_set)
  else:
    given = pairs.read(config.plain, config.robust, shape, num_classes)
  most = min(xs[0].size, len(train_set[0])) - 1
  encoder: tuple = (models.DenseAutoEncoder(shape, config.latent), None)
  if config.autoencoder:
    one = networks.read_for(config.autoencoder, shape, kind='autoencoder')
    encoder = one.module, networks.variables(one.state)
  elif config.latent > most:
    raise flags.FlagError(
      f'--latent={config.latent} is too large; at most {most}'
    )
  module = given.get('module') or build(config, num_classes)
  # In double precision: which image is the nearest is no matter of rounding.
  exact = xs.reshape(len(xs), -1).astype(float)
  others = halfway.nearest_opposite(exact, labels, np.arange(len(xs)))
  scale = np.median(np.linalg.norm(exact - exact[others], axis=1))
  rest = xs, labels, others, float(scale)
  return Inputs(module, given, encoder, train_set, test_set, *rest)


def build(config, num_classes):
  if config.model == 'mlp':
    return models.MLP(2 * (config.width,), num_classes)
  channels = config.width, 2 * config.width
  return models.CNN(channels, (4 * config.width,), num_classes=num_classes)


def make_plan(config, inputs):
  """Returns how networks are trained, and how many of a kind there are."""
  same = 'seed epochs radius radius_linf trades attack_steps'.split()
  num = len(inputs.given.get(pairs.PLAIN, ())) or config.num_networks
  return pairs.Plan(num=num, **{name: getattr(config, name) for name in same})


def make_networks(config, inputs, kind):
  """Rows of networks.npz: all networks of a kind, and their accuracies."""
  if inputs.given:
    plain, robust = inputs.given[pairs.PLAIN], inputs.given[pairs.GIVEN]
    # Each pair's plain network again is the plain one of the next pair.
    of = {pairs.PLAIN: plain, pairs.AGAIN: [*plain[1:], plain[0]]}
    flat = np.stack([networks.flatten(v) for v in of.get(kind, robust)])
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
    flat = np.stack(plan.num * [networks.flatten(variables)])
  error, of_pca = pairs.reconstruction_errors(
    module, flat, test, xs, batch_size=config.batch_size
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
  variables = networks.unflatten(module, xs[0], flat)
  tangent = pairs.tangents(inputs.encoder[0], decoder, xs)
  num, k, d = tangent.shape
  key = jax.random.fold_in(jax.random.key(config.seed), 3 + number)
  null = parallel.map_examples(
    programs.bind(random_basis, k=k, d=d), (np.arange(num),), shared=(key,)
  )
  spaces = {'tangent': tangent, 'random': null}
  found = manifold.measure_sides(
    lambda variables, x: module.apply(variables, x)[0],
    [manifold.SideTask(xs, spaces[of], side) for of, side in SIDES.values()],
    labels,
    params=variables,
    method=config.method,
    max_gradients=config.max_gradients,
    batch_size=config.batch_size,
  )
  free = found[0]
  shape = parallel.map_examples(
    programs.bind(measure_shape, module=module),
    (xs, labels, xs[inputs.others], free.point, free.normal, tangent),
    shared=(
      variables,
      np.float32([config.ball, 2.0]) * np.float32(inputs.scale),
      probes(config.seed, xs.shape[1:], k),
    ),
    batch_size=config.batch_size,
    vmap_size=SHAPES_AT_ONCE,
  )
  return records.broadcast(
    (num,),
    kind=kind,
    network=np.int32(number),
    index=np.arange(num, dtype=np.int32),
    label=labels,
    correct=free.status != boundary.Status.MISCLASSIFIED,
    other=inputs.others.astype(np.int32),
    **{side: of.distance for side, of in zip(SIDES, found, strict=True)},
    **shape,
  )


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
  bends = lambda rows: secants.bend(
    margin, point, normal, rows.reshape(-1, *x.shape), radius, reach
  )
  way = other - x
  length = jnp.linalg.norm(way.ravel())
  met = boundary.first_crossing(logits_fn, x, way, label, max_distance=length)
  return {
    'fraction': manifold.tangent_fraction(normal, basis),
    'smoothed': secants.signed_crossing(smooth, x, point - x, reach),
    'bend': bends(codes @ basis),
    'random_bend': bends(directions),
    'place': met.distance / length,
  }


# --- Judging ---------------------------------------------------------------


def analyze(config, found):
  """Compares the networks of each pair, and judges the claims."""
  results = {
    kind: records.by_unit(records.select(found['results'], kind=kind))
    for kind in kinds(config)
  }
  made = {
    kind: records.select(found['networks'], kind=kind) for kind in kinds(config)
  }
  plain, *others = kinds(config)
  rows = {kind: compare(results[plain], results[kind]) for kind in others}
  labels = results[plain]['label'][0]
  trouble = {
    kind: why_not_tested(kind, row, made, labels)
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
  said = answer(config, rows, trouble, len(labels))
  return runner.Report(said, judged, shown)


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
    moved = b['place'][both] - a['place'][both]
    rows.append(
      {f'{name} 0': value for name, value in before.items()}
      | after
      | {'displaced': average(np.abs(moved)), 'shift': average(moved)}
      | {'images': kept.sum()}
    )
  return records.stack(rows)


def summary(network, kept, both):
  """Medians over the images of a network that are kept; NaN where none is."""
  of = {name: column[kept] for name, column in network.items()}
  fraction = np.minimum(of['fraction'], 1 - 1e-6)
  with np.errstate(invalid='ignore', divide='ignore'):
    columns = {
      **{name: of[name] for name in (*SIDES, 'bend', 'random_bend')},
      'off/on': of['off'] / of['on'],
      'random off/on': of['random_off'] / of['random_on'],
      'by normals': fraction / np.sqrt(1 - fraction**2),
      'depth': of['free'] - of['smoothed'],
    }
  median = lambda column: statistics.median(column, unit='images').value
  return {name: median(column) for name, column in columns.items()} | {
    'failed': max(average(np.isinf(of[side])) for side in SIDES),
    'middle': average(np.abs(network['place'][both] - 0.5)),
  }


def average(values):
  return float(np.mean(values)) if len(values) else np.nan


def growth(row, name, over=None):
  """Geometric mean over networks of a median over the plain network's.

  Network by network over that of another median, where one is named.
  """
  with np.errstate(divide='ignore', invalid='ignore'):
    ratio = row[name] / row[f'{name} 0']
    if over:
      ratio = ratio / (row[over] / row[f'{over} 0'])
  return statistics.geometric_mean(ratio, unit='networks')


def mean(values):
  """Mean over networks; NaN if one of them has none."""
  usable = np.where(np.isfinite(values), values, np.nan)
  return statistics.t_mean(usable, unit='networks')


def change(row, name):
  return mean(row[name] - row[f'{name} 0'])


def judge(rows, trouble, encoders):
  """The claims: conditions of every kind of training that can be tested."""
  found = {name: () for name in STATEMENTS}
  for kind in (kind for kind, why in trouble.items() if not why):
    for name, new in judge_kind(kind, rows[kind], rows[pairs.AGAIN]).items():
      found[name] += tuple(new)
  untested = '; '.join(f'{kind}: {why}' for kind, why in trouble.items() if why)
  judged = []
  for name, conditions in found.items():
    why = encoders if name in ON_MANIFOLD else ''
    why = why if conditions else untested
    judged.append(claims.Claim(PAPER, name, STATEMENTS[name], conditions, why))
  return judged


def judge_kind(kind, row, again):
  """Conditions of the claims on one kind of adversarial training, by name."""
  above = lambda what, *pair: claims.above(f'{kind}: {what}', *pair)
  within = lambda what, *rest: claims.within(f'{kind}: {what}', *rest)
  below = lambda what, *pair: claims.below(f'{kind}: {what}', *pair)
  versus = growth(row, 'off/on', 'random off/on')
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
  guess = data.commonest_share(labels)
  for name in (pairs.PLAIN, kind):
    right = made[name]['accuracy'].mean()
    why = claims.why_untrained(right, guess, whose=f'{name} networks')
    if why:
      return why
  column = robust_column(kind)
  gain = mean(made[kind][column] - made[pairs.PLAIN][column])
  if not statistics.above(gain, 0.0):
    return f'robust accuracy was not raised: by {tables.cell(gain)}'
  fewest, failed = row['images'].min(), (row['failed'], row['failed 0'])
  if fewest < LEAST_IMAGES:
    return (
      f'a pair of networks classifies {fewest} images correctly, fewer than '
      f'{LEAST_IMAGES}'
    )
  most = max(column.mean() for column in failed)
  if most > MOST_FAILED:
    return f'{most:.0%} of the searches on one side failed'
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


def answer(config, rows, trouble, num_images):
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
    f'({kind}; {len(row["free"])} pairs of networks, {num_images} images of '
    f'{own.source(config)}).'
  )


# --- Tables ----------------------------------------------------------------


def distance_table(rows):
  names = 'free', 'on', 'off', 'off/on', 'random off/on', 'by normals'
  return tables.table(
    'Distances over those of the plain network',
    [
      ('trained', ''),
      ('free', 'distance in any direction'),
      ('on', 'distance within the tangent space'),
      ('off', 'distance orthogonal to it'),
      ('off/on', 'median over images of the ratio'),
      ('random', 'the same for a random subspace'),
      ('by normals', 'the same of a flat boundary with these normals'),
    ],
    [[kind, *(growth(row, n) for n in names)] for kind, row in rows.items()],
    spec='.2f',
  )


def depth_table(rows):
  length, curved = 'input units', '1 / input unit'
  depth, bend, random = (
    mean(rows[pairs.AGAIN][f'{n} 0']) for n in ('depth', 'bend', 'random_bend')
  )
  shown = [[pairs.PLAIN, None, depth, None, bend, None, random]]
  for kind, row in rows.items():
    both = [(mean(row[name]), change(row, name)) for name in ('depth', 'bend')]
    rest = *both[0], *both[1], mean(row['random_bend'])
    shown.append([kind, change(row, 'free'), *rest])
  return tables.table(
    'Depth under the smoothed boundary, and bend',
    [
      ('trained', ''),
      ('distance', 'change of the median', length),
      ('depth', 'median of the distance less the smoothed one', length),
      ('change', 'of depth', length),
      ('bend', 'along the manifold, toward the image', curved),
      ('its change', '', curved),
      ('random bend', 'the same in random directions', curved),
    ],
    shown,
    spec='.2g',
  )


def place_table(rows):
  again, shown = rows[pairs.AGAIN], []
  for kind, row in rows.items():
    beyond = mean(row['displaced'] - again['displaced'])
    beyond = None if row is again else beyond
    shift, middle = mean(row['shift']), mean(row['middle'])
    shown.append(
      [kind, mean(row['displaced']), beyond, shift, middle,
       change(row, 'middle')]
    )  # fmt: skip
  return tables.table(
    'Crossings of the line to the nearest image of another class, 0 to 1',
    [
      ('trained', ''),
      ('displaced', 'mean absolute change of the crossing'),
      ('beyond', 'the same less that by retraining'),
      ('shift', 'mean change; positive is away from the image'),
      ('from middle', 'mean distance of crossings from 1/2'),
      ('its change', ''),
    ],
    shown,
    spec='.3f',
  )


def network_table(rows, made, trouble):
  share = lambda kind, name: statistics.proportion(
    made[kind][name], unit='networks'
  )
  shown = [
    [
      kind,
      share(kind, 'accuracy'),
      share(kind, robust_column(kind)),
      share(pairs.PLAIN, robust_column(kind)),
      int(row['images'].min()),
      float(row['failed'].mean()),
      'null' if kind == pairs.AGAIN else trouble[kind] or 'yes',
    ]
    for kind, row in rows.items()
  ]
  return tables.table(
    'Networks',
    [
      ('trained', ''),
      ('accuracy', f'share of {NUM_TEST} test images at most'),
      ('robust', 'share after an attack as in training'),
      ('plain', 'the same of plain networks'),
      ('images', 'least that both of a pair classify correctly'),
      ('failed', 'share of the searches on the worst side'),
      ('used', 'whether claims are tested on it'),
    ],
    shown,
    spec='.1%',
  )


EXPERIMENT = runner.Experiment(
  'experiments.dimple_depth', __doc__, Config, PRESETS, COLUMNS,
  measure, analyze, figures.draw, load=load, check=check,
)  # fmt: skip
run = EXPERIMENT.run

if __name__ == '__main__':
  EXPERIMENT.main()
