"""Does the guarantee of random networks survive training?

De Palma, Kiani, Lloyd, https://arxiv.org/abs/2004.05923: in random networks the
l^p distance of any input from the boundary scales at least as ||x||_p / sqrt(n)
for n pixels, and the share of inputs that the boundary comes nearer to than r
is at most in proportion to r. "Given the results of our experiments on MNIST
and CIFAR10, we conjecture that the proof of our adversarial robustness
guarantee can be extended to trained deep neural networks" (version 1; figures 3
and 4).

  python -m experiments.trained_vs_random
  python -m experiments.trained_vs_random --preset=mnist --data_dir=DIR
  python -m experiments.trained_vs_random --preset=cifar --data_dir=DIR
  python -m experiments.trained_vs_random --preset=paper --data_dir=DIR

The first takes 6 minutes on 2 CPU cores, --preset=quick 1, mnist and cifar 25
on one; paper (cifar10: add --dataset=cifar10 --epochs=25) is for a GPU. A run
that was killed goes on where it was.

Networks learn the parity of the class, as the authors' do. Each has images of
its own, of the training set, of the test set, and of uniformly random pixels;
they are the same before training, the null. Distances are to the boundary of
the network's own class, pixels kept in [0, 1]. The preset paper has the
authors' ResNet20, 250 networks and 20 images of each type, Adam at 1e-4 in
batches of 32; mnist and cifar are reduced. Everywhere: one search in place of
their 8 to 12 attacks, no second start of networks that learn nothing in an
epoch, and 1/256 of noise in images, whose zeros put patches on the kinks of
ReLUs.

The constant is the median distance, the start the slope of the sorted distances
against their share in the first quarter (the authors' line); both after over
before training. A lower bound survives if neither falls below 1 / 1.25. The
profile is the start over the median, of distances over s(x): the law of random
networks, a distance of |N(0, 1)| s(x), has one profile for all inputs. s(x) is
that of the infinitely wide network, without a fit; of ResNet20, without a
closed form, one number. The network is the unit: intervals are bootstrapped
over networks, with their images; a failed search counts as infinitely far. Each
claim is about an architecture and all norms together. Nothing is tested where
networks classify test images less than half way from a guess to all, or more
than 5 % of the searches fail.
"""

import dataclasses
import functools
import zlib

import jax
import jax.numpy as jnp
import numpy as np

from dmm_jax import data
from dmm_jax import nngp
from dmm_jax import predictions
from dmm_jax import random_nets
from dmm_jax import ratios
from dmm_jax import records
from dmm_jax import statistics
from dmm_jax import train
from dmm_jax.train import populations
from experiments.figures import trained_vs_random as figures
from experiments.lib import claims
from experiments.lib import flags
from experiments.lib import runner
from experiments.lib import splits
from experiments.lib import tables

PAPER = '2004.05923'
TYPES = ('train', 'test', 'random')
BAND = 1.25  # What still counts as the same.
BLEND = 1 / 256  # Of uniform noise in images.
UNIT = nngp.distance_quantile(1.0, 0.5)  # Median of |N(0, 1)|.


@dataclasses.dataclass(frozen=True)
class Config:
  preset: str = flags.preset()
  workdir: str = flags.workdir('runs/trained_vs_random')
  seed: int = flags.seed()
  dataset: str = flags.dataset()
  data_dir: str = flags.data_dir()
  num_train: int = flags.num_train(1000)
  architectures: tuple[str, ...] = flags.flag(
    ('fully_connected', 'convolutional'),
    'Networks to train.',
    choices=tuple(random_nets.ARCHITECTURES),
  )
  widths: str = flags.flag(
    '256,8',
    "Units or channels of each one's first layer; 0 is the paper's.",
    numbers=0,
  )
  num_networks: int = flags.flag(60, 'Networks of each architecture.', least=2)
  train_batch: int = flags.flag(
    20, 'Networks trained and saved together.', least=1
  )
  num_images: int = flags.flag(
    5, 'Images of each type for each network.', least=2
  )
  norms: tuple[float, ...] = flags.flag(
    (1.0, 2.0, np.inf), 'Norms p of the distance.', choices=(1.0, 2.0, np.inf)
  )
  learning_rate: float = flags.flag(1e-3, 'Of Adam, constant.', least=0)
  weight_decay: float = flags.flag(
    0.0, 'Factor of the weights in their gradients.', least=0
  )
  epochs: int = flags.flag(20, 'Passes over the training images.', least=1)
  method: str = flags.method('fast')
  max_gradients: int = flags.max_gradients(40)


_REDUCED = dict(
  architectures=('fully_connected', 'resnet20'),
  widths='100,8',
  num_networks=8,
  train_batch=1,
  num_images=10,
  num_train=10000,
)
PRESETS = {
  'quick': dict(
    architectures=('fully_connected',),
    widths='100',
    train_batch=60,
    num_train=500,
  ),
  'default': {},
  'mnist': _REDUCED | dict(dataset='mnist', epochs=3),
  'cifar': _REDUCED | dict(dataset='cifar10', epochs=2),
  'paper': dict(
    dataset='mnist',
    architectures=('resnet20',),
    widths='0',
    num_train=0,
    num_networks=250,
    train_batch=25,
    num_images=20,
    learning_rate=1e-4,
    # The gradient of l2 regularisation by 1e-4; theirs leaves out the head.
    weight_decay=2e-4,
    epochs=15,
  ),
}
COLUMNS = {
  'architecture': ('', 'of random_nets.ARCHITECTURES'),
  'trained': ('', 'whether it is measured after training, or before'),
  'type': ('', 'of the image: of the training or test set, or random pixels'),
  'norm': ('', 'p of the distance'),
  'network': ('', 'number of the network'),
  'image': ('', 'number of the image among those of its type and network'),
  'distance': ('input units', 'from the boundary; inf: not found'),
  'status': ('', 'how the search ended, a boundary.Status'),
  'gradients': ('', 'gradients that the search took'),
  'scale': ('input units', 's of the law; NaN without a closed form'),
  'accuracy': ('', 'share of test images that it classifies correctly'),
  'guess': ('', 'share of test images of the commoner parity'),
}  # fmt: skip


def check(config):
  """Raises FlagError for flags that do not go together."""
  flags.check_method(config.method, config.norms, together=True)
  modules(config)


# --- Networks and images ---------------------------------------------------


def load(config):
  """Returns images and their parities by split."""
  sets = splits.load(
    config.dataset, config.data_dir, num_train=config.num_train
  )
  return {name: (xs, data.parity(v)) for name, (xs, v) in sets.items()}


def modules(config):
  """Returns modules by architecture."""
  widths = flags.as_numbers('widths', config.widths, least=0)
  if len(widths) != len(config.architectures):
    raise flags.FlagError(
      f'--widths={config.widths} has {len(widths)} numbers, --architectures '
      f'{len(config.architectures)}: one for each'
    )
  return {
    name: random_nets.ARCHITECTURES[name].module(width)
    for name, width in zip(config.architectures, widths, strict=True)
  }


def images_of(config, sets, network):
  """Returns a network's images `[types * num_images, ...]`, type by type."""
  rng = np.random.default_rng((config.seed, network))
  shape = (config.num_images, *sets['train'][0].shape[1:])
  draw = lambda: rng.uniform(size=shape).astype(np.float32)
  blocks = []
  for split in ('train', 'test'):
    xs, _ = sets[split]
    rows = xs[rng.integers(len(xs), size=config.num_images)]
    blocks.append((1 - BLEND) * rows + BLEND * draw())
  return np.concatenate([*blocks, draw()]).astype(np.float32)


def fit(config, name, module, sets, numbers):
  """Trains networks at once; returns `[networks, parameters]` before, after."""
  plan = train.TrainConfig(
    learning_rate=config.learning_rate,
    schedule='constant',
    weight_decay=config.weight_decay,
    batch_size=32,
    num_epochs=config.epochs,
  )
  seed = jax.random.key(config.seed)
  seed = jax.random.fold_in(seed, zlib.crc32(name.encode()))
  split = lambda i: jax.random.split(jax.random.fold_in(seed, i))
  keys = jnp.moveaxis(jax.vmap(split)(numbers), 1, 0)
  return populations.fit_ends(*keys, module, *sets['train'], config=plan)


# --- Measuring -------------------------------------------------------------


def measure(config, sets):
  """Yields the units, each some networks before and after training.

  results: one row a (network, trained or not, image, norm).
  """
  for name, module in modules(config).items():
    for start in range(0, config.num_networks, config.train_batch):
      stop = min(start + config.train_batch, config.num_networks)
      rows = functools.partial(
        measure_networks, config, sets, name, module, np.arange(start, stop)
      )
      yield runner.Unit(f'{name}-{start:04d}', rows)


def measure_networks(config, sets, name, module, numbers):
  """Rows of some networks of one architecture."""
  images = np.stack([images_of(config, sets, i) for i in numbers])
  flat = images.reshape(-1, *images.shape[2:])
  scale = predictions.scales(name, flat, config.norms, bounds=(0.0, 1.0))
  image, (xs, labels) = np.arange(images.shape[1])[:, None], sets['test']
  parts = []
  for trained, weights in enumerate(fit(config, name, module, sets, numbers)):
    found, right = random_nets.measure_networks(
      weights,
      *(images, xs, labels),
      module=module,
      exponents=config.norms,
      bounds=(0.0, 1.0),
      method=config.method,
      max_gradients=config.max_gradients,
    )
    shape = found.distance.shape  # Networks, images, norms.
    rows = records.broadcast(
      shape,
      architecture=np.array(name, 'U16'),
      trained=bool(trained),
      type=np.array(TYPES)[image // config.num_images],
      norm=np.array(config.norms, np.float32),
      network=numbers[:, None, None].astype(np.int32),
      image=(image % config.num_images).astype(np.int32),
      distance=found.distance,
      status=found.status,
      gradients=found.gradients,
      scale=scale.reshape(shape),
      accuracy=right[:, None, None],
      guess=data.commonest_share(labels),
    )
    parts.append(rows)
  return records.concatenate(parts)


# --- Judging ---------------------------------------------------------------

MEDIAN = statistics.sample_quantile(50)
ratio = functools.partial(ratios.sample_ratio, unit='networks')


def profile(values):
  """Where distances begin, over their median."""
  return ratios.start_slope(values) / MEDIAN(values)


class Case:
  """Distances of one architecture and norm at one type of image.

  Attributes:
    both: after training, and before it, `[networks, images]`.
    over_law: before training, over the median that the law gives at the image;
      NaN without a closed form.
    constant, start, profile: after over before training.
  """

  def __init__(self, results, architecture, norm, kind):
    rows = records.select(
      results, architecture=architecture, norm=np.float32(norm), type=kind
    )
    after, before = (
      records.by_unit(records.select(rows, trained=v)) for v in (True, False)
    )
    self.both = [of['distance'].astype(float) for of in (after, before)]
    scale = before['scale'].astype(float)
    self.over_law = self.both[1] / scale / UNIT
    # Without a closed form, one number; it cancels in profiles.
    known = np.where(np.isnan(scale), 1.0, scale)
    self.constant = ratio(MEDIAN, *self.both)
    self.start = ratio(ratios.start_slope, *self.both)
    self.profile = ratio(profile, *(v / known for v in self.both))


def analyze(config, found):
  """Holds distances after training against those before."""
  results = found['results']
  cases = {
    (name, norm, kind): Case(results, name, norm, kind)
    for name in config.architectures
    for norm in config.norms
    for kind in TYPES
  }
  judged = []
  for name in config.architectures:
    judged += judge(config, results, cases, name)
  shown = [
    median_table(config, cases),
    ratio_table(cases),
    network_table(config, results),
  ]
  return runner.Report(answer(config, cases, judged), judged, shown)


EXTENDS = (
  'The adversarial robustness guarantee extends to trained deep neural '
  'networks: '
)
LAW = "Trained networks keep the random networks' law of distances (ours)"
AWAY = (
  'Training moves the boundary away from images of the data more than from '
  'random images (ours)'
)
CONJECTURE = {
  'constant': 'distances are at least those of random ones',
  'start': 'the share of images with an adversarial example within r grows at '
  'most as in random ones',
}


def judge(config, results, cases, name):
  """The claims on one architecture."""
  above, norms, main = claims.above, config.norms, main_norm(config)
  reason = why_not_tested(results, name)

  def claim(what, statement, conditions):
    where = f'{SHORT[name]}: {what}'
    return claims.Claim(
      PAPER, where, f'{statement} ({where}).', tuple(conditions), reason
    )

  judged = []
  for kind in ('test', 'random'):
    of = {p: cases[name, p, kind] for p in norms}
    for what, statement in CONJECTURE.items():
      least = [above(f'l{p:g}', getattr(of[p], what), 1 / BAND) for p in norms]
      judged.append(
        claim(f'{what} at {kind} images', EXTENDS + statement, least)
      )
    both = [
      side(f'{what}, l{main:g}', getattr(of[main], what), bound)
      for what in ('constant', 'profile')
      for side, bound in ((above, 1 / BAND), (claims.below, BAND))
    ]
    judged.append(claim(f'law at {kind} images', LAW, both))
  gaps = []
  for p in norms:
    images, null = (cases[name, p, kind].both for kind in ('test', 'random'))
    gaps.append(above(f'l{p:g}', ratio(MEDIAN, *images, *null[::-1]), 1.0))
  return [*judged, claim('away from data alone', AWAY, gaps)]


def main_norm(config):
  """The norm in which the law is exactly half-normal, or the first one."""
  return 2.0 if 2.0 in config.norms else config.norms[0]


def accuracies(results, name, trained):
  """Accuracy of each network, of one architecture."""
  of = records.select(results, architecture=name, trained=trained)
  _, first = np.unique(of['network'], return_index=True)
  return of['accuracy'][first].astype(float)


def why_not_tested(results, name):
  """Why networks of an architecture say nothing of the claims, or ''."""
  rows = records.select(results, architecture=name)
  right, guess = accuracies(results, name, True).mean(), rows['guess'][0]
  why = claims.why_untrained(right, guess)
  return why or claims.why_failed(rows['distance'])


def answer(config, cases, judged):
  """One sentence."""
  name, main = config.architectures[0], main_norm(config)
  of = lambda kind: tables.cell(cases[name, main, kind].constant, '.2f')
  return (
    f'Training on the parity of {config.dataset} makes the median l{main:g} '
    f'distance from the boundary of {SHORT[name]} networks {of("test")} times '
    f'as large at test images and {of("random")} times at random ones '
    f'({config.num_networks} networks); {claims.tally(judged, untested=True)}.'
  )


# --- Tables ----------------------------------------------------------------

SHORT = {name: name for name in random_nets.ARCHITECTURES} | {
  'fully_connected': 'dense',
  'convolutional': 'conv',
}
WHERE = [
  ('network', ''),
  ('p', 'norm of the distance', '', 'g'),
  ('at', 'images of the training or test set, or random pixels'),
]


def median_table(config, cases):
  rows = [
    [
      SHORT[name],
      p,
      kind,
      *(ratio(MEDIAN, v) for v in (*c.both[::-1], c.over_law)),
    ]
    for (name, p, kind), c in cases.items()
  ]
  columns = [
    ('untrained', '', 'pixel values'),
    ('trained', '', 'pixel values'),
    ('over law', "untrained, over the law's at the image", '', '.2f'),
  ]
  title = f'Median distances, parity of {config.dataset}'
  return tables.table(title, WHERE + columns, rows)


def ratio_table(cases):
  rows = [
    [SHORT[name], p, kind, c.constant, c.start, c.profile]
    for (name, p, kind), c in cases.items()
  ]
  columns = [
    ('constant', 'median distance'),
    ('start', 'slope of the sorted distances'),
    ('profile', 'start over median, of distances over s(x)'),
  ]
  title = 'After over before training'
  return tables.table(title, WHERE + columns, rows, spec='.2f')


def network_table(config, results):
  rows = []
  for name in config.architectures:
    of = records.select(results, architecture=name)
    right = [
      statistics.proportion(accuracies(results, name, v), unit='networks')
      for v in (False, True)
    ]
    rows.append([SHORT[name], *right, np.isinf(of['distance']).mean()])
  columns = [
    ('network', ''),
    ('right before', 'share of test images'),
    ('right after', 'share of test images'),
    ('lost', 'share of searches without result'),
  ]
  return tables.table('Networks', columns, rows, spec='.1%')


EXPERIMENT = runner.Experiment(
  'experiments.trained_vs_random', __doc__, Config, PRESETS, COLUMNS,
  measure, analyze, figures.draw, load=load, check=check,
)  # fmt: skip
run = EXPERIMENT.run

if __name__ == '__main__':
  EXPERIMENT.main()
