"""Do trained networks keep random networks' lower bound as images grow?

De Palma, Kiani, Lloyd, https://arxiv.org/abs/2004.05923: in random networks the
l^p distance of any input from the boundary scales at least as ||x||_p / sqrt(n)
for n pixels, "and we conjecture that the proof of our adversarial robustness
guarantee can be extended to trained deep neural networks" (version 1).

  python -m experiments.trained_scaling
  python -m experiments.trained_scaling --preset=mnist --data_dir=DIR
  python -m experiments.trained_scaling --preset=cifar --data_dir=DIR

The first takes 8 minutes on 2 CPU cores, --preset=quick 1, mnist and cifar 25
on one. A run that was killed goes on where it was.

Networks are trained on the same images resized to each of --sizes, and measured
in l1, l2 and linf, pixels kept in [0, 1], each at test images of its own and at
uniform noise; so are the same networks before training, the null. Distances are
from the class that the network itself gives. Larger images have more pixels and
more to see, hence two contents: `images` are resized to each size; `blown up`
ones were first made as small as the smallest size, so that the number of their
pixels alone changes, and have networks of their own.

With r = d_p / ||x||_p, the slope is that of log(median r) on log n (the law's:
-1/2; for p = 1 that of sqrt(n / ln n) / n), and the constant is the median r of
trained networks over that of the same networks before training, as a geometric
mean over sizes. A lower bound survives if neither falls. The network is the
unit: intervals are bootstrapped over networks, with their images.

Claims, for each architecture, all norms together, and what would refute each:

  slope at images, at blown up images, at noise
      a slope more than 0.05 below the law's
  constant at images, at noise
      a constant below 1 / 1.25
  slower than before training
      slopes at images, less those of the same networks before training, of 0 or
      less (ours)

Nothing is tested where networks of a size classify test images less than half
way from a guess to all, or more than 5 % of the searches fail. Above its own
size an image gains no content.
"""

import dataclasses
import functools
import operator

import jax
from jax import flatten_util
import numpy as np

from dmm_jax import data
from dmm_jax import models
from dmm_jax import parallel
from dmm_jax import programs
from dmm_jax import random_nets
from dmm_jax import records
from dmm_jax import scaling
from dmm_jax import statistics
from dmm_jax import train
from experiments.figures import trained_scaling as figures
from experiments.lib import claims
from experiments.lib import flags
from experiments.lib import runner
from experiments.lib import splits
from experiments.lib import tables

PAPER = '2004.05923'
NORMS = (1.0, 2.0, np.inf)
# Where networks are measured: content of the images that they were trained on,
# and inputs.
PLACES = {
  'images': ('images', 'images'),
  'blown up images': ('blown up', 'images'),
  'noise': ('images', 'noise'),
}
SLACK = 0.05  # By how much a slope may be below the law's.
BAND = 1.25  # What still counts as the same constant.
MOST_FAILED = 0.05  # Share of the searches, where a claim is tested.
NUM_TESTED = 1000  # Test images of the accuracy, at most.
# Uniform noise blended into images: pixels that are exactly 0 put untrained
# networks on the kinks of their ReLUs.
BLEND = 1 / 256


@dataclasses.dataclass(frozen=True)
class Config:
  preset: str = flags.preset()
  workdir: str = flags.workdir('runs/trained_scaling')
  seed: int = flags.seed()
  dataset: str = flags.dataset()
  data_dir: str = flags.data_dir()
  num_classes: int = flags.num_classes()
  sizes: tuple[int, ...] = flags.flag(
    (4, 8, 16, 24), 'Sides of the images, in pixels.', least=2
  )
  models: tuple[str, ...] = flags.flag(
    ('mlp', 'cnn'), 'Architectures.', choices=('mlp', 'cnn')
  )
  num_networks: int = flags.flag(8, 'Networks of each size.', least=2)
  num_train: int = flags.num_train()
  num_examples: int = flags.flag(
    16, 'Test images for each network, and as much noise.', least=1
  )
  epochs: int = flags.flag(15, 'Passes over the training images.', least=1)
  method: str = flags.method('fast')
  max_gradients: int = flags.max_gradients(40)


PRESETS = {
  'quick': dict(
    workdir='runs/trained_scaling_quick',
    sizes=(4, 8, 16),
    models=('mlp',),
    epochs=5,
  ),
  'default': {},
  'mnist': dict(
    workdir='runs/trained_scaling_mnist',
    dataset='mnist',
    sizes=(7, 14, 28, 40),
    num_train=6000,
    epochs=4,
  ),
  'cifar': dict(
    workdir='runs/trained_scaling_cifar',
    dataset='cifar10',
    num_classes=2,
    sizes=(8, 16, 32),
    models=('cnn',),
    epochs=12,
  ),
}
COLUMNS = {
  'model': ('', 'architecture'),
  'content': ('', 'images, or blown up: as if from the smallest size'),
  'n': ('', 'numbers of an input: channels times pixels'),
  'network': ('', 'number of the network among those of its size'),
  'trained': ('', 'whether it is measured after training, or before'),
  'inputs': ('', 'images of the test set, or uniform noise'),
  'norm': ('', 'p of the distance'),
  'distance': ('input units', 'from the boundary; inf: not found'),
  'input_norm': ('input units', '||x||_p'),
  'status': ('', 'how the search ended, a boundary.Status'),
  'accuracy': ('', 'share of test images that it classifies correctly'),
  'guess': ('', 'share of test images of the commonest class'),
}  # fmt: skip


def check(config):
  """Raises FlagError for flags that do not go together."""
  flags.check_method(config.method, NORMS, together=True)
  if len(config.sizes) < 2:
    raise flags.FlagError('--sizes: a slope needs two of them')


# --- Images and networks ---------------------------------------------------


def load(config):
  """Returns images and labels by split."""
  return splits.load(
    config.dataset, config.data_dir, num_classes=config.num_classes
  )


def resized(config, xs, content, size):
  """Returns images of one size, of their own content or of the smallest."""
  channels = xs.shape[-1]
  if content == 'blown up':
    xs = data.resize(xs, min(config.sizes), channels)
  return data.resize(xs, size, channels)


def build(name, num_classes):
  if name == 'mlp':
    return models.MLP((128, 128), num_classes=num_classes)
  return models.CNN((8, 16), (32,), pools=1, num_classes=num_classes)


def fit(config, module, key, xs, labels):
  """Trains --num_networks: parameters before, after `[networks, p]`."""
  keys = jax.random.split(key, (config.num_networks, 2))
  plan = train.TrainConfig(learning_rate=2e-3, num_epochs=config.epochs)
  optimizer = train.make_optimizer(plan, len(xs))
  before = train.init_state(keys[:, 0], module, xs[0], optimizer)
  flatten = lambda params: flatten_util.ravel_pytree(params)[0]
  advance = functools.partial(
    train.fit, forward=train.flax_forward(module), xs=xs, targets=labels,
    config=plan, each_epoch=False,
  )  # fmt: skip
  if isinstance(module, models.CNN) and jax.default_backend() == 'cpu':
    # Convolutions of many networks at once are 3 times slower there.
    on_host = jax.device_get(before)
    states = [
      jax.tree.map(operator.itemgetter(i), on_host) for i in range(len(keys))
    ]
    after = [
      flatten(last.state.params)
      for order, state in zip(keys[:, 1], states, strict=True)
      for last in advance(order, state=state)
    ]
  else:
    (last,) = advance(keys[:, 1], state=before)
    after = jax.vmap(flatten)(last.state.params)
  return jax.device_get((jax.vmap(flatten)(before.params), after))


def to_measure(config, test, network, content, size):
  """Test images of one network, with a little noise, then noise alone."""
  # Equal rows for all contents and sizes.
  rng = np.random.default_rng((config.seed, network))
  rows = rng.integers(len(test), size=config.num_examples)
  xs = resized(config, test[rows], content, size)
  noise = rng.uniform(size=(2, *xs.shape)).astype(np.float32)
  return np.concatenate([(1 - BLEND) * xs + BLEND * noise[0], noise[1]])


# --- Measuring -------------------------------------------------------------


def measure(config, sets):
  """Yields the units, one an (architecture, size, content).

  results: one row a (network, trained or not, input, norm).
  """
  for name in config.models:
    for size in config.sizes:
      for content in ('images', 'blown up'):
        # At the smallest size the contents are one.
        if content == 'images' or size > min(config.sizes):
          rows = functools.partial(
            measure_networks, config, sets, name, content, size
          )
          label = f'{name}-{size:03d}-{content.replace(" ", "-")}'
          yield runner.Unit(label, rows)


def measure_networks(config, sets, name, content, size):
  """Rows of the networks of one architecture, size and content."""
  xs, labels = (column[: config.num_train or None] for column in sets['train'])
  test, truth = sets['test']
  module = build(name, int(labels.max()) + 1)
  key = jax.random.fold_in(jax.random.key(config.seed), size)
  states = fit(config, module, key, resized(config, xs, content, size), labels)
  num = config.num_networks
  inputs = np.stack(
    [to_measure(config, test, i, content, size) for i in range(num)]
  )
  one = programs.bind(
    random_nets.measure_trained,
    module=module,
    exponents=NORMS,
    bounds=(0.0, 1.0),
    method=config.method,
    max_gradients=config.max_gradients,
  )
  parts = []
  for trained, flat in enumerate(states):
    found, right = parallel.map_examples(
      one,
      (np.stack(flat), inputs),
      shared=(
        resized(config, test[:NUM_TESTED], content, size),
        truth[:NUM_TESTED],
      ),
      batch_size=num,
      # Each network has its own weights: CPUs gain nothing from batching.
      vmap_size=1 if jax.default_backend() == 'cpu' else None,
    )
    shape = found.distance.shape  # Networks, inputs, norms.
    network, place, _ = np.indices(shape, np.int32)
    columns = {
      'model': np.full(shape, name),
      'content': np.full(shape, content),
      'n': np.full(shape, inputs[0, 0].size, np.int32),
      'network': network,
      'trained': np.full(shape, bool(trained)),
      'inputs': np.array(['images', 'noise'])[place // config.num_examples],
      'norm': np.broadcast_to(np.array(NORMS, np.float32), shape),
      'accuracy': right[network],
      'guess': np.full(shape, np.bincount(truth).max() / len(truth)),
    }
    names = 'distance input_norm status'.split()
    columns |= {field: getattr(found, field) for field in names}
    parts.append({field: column.ravel() for field, column in columns.items()})
  return records.concatenate(parts)


# --- Judging ---------------------------------------------------------------


class Case:
  """Relative distances of one architecture and norm at one of `PLACES`.

  Attributes:
    n: numbers of an input, by size.
    law: slope of the random networks' law.
    both: by size, of trained networks and of the same before training,
      `[networks, 2 * inputs]`.
    slope, before, change: slopes of both, and their difference.
    constant: trained over untrained medians, a geometric mean over sizes.
  """

  def __init__(self, results, model, norm, place):
    self.model, self.norm, self.place = model, norm, place
    content, inputs = PLACES[place]
    rows = records.select(results, model=model, norm=norm, inputs=inputs)
    self.n = np.unique(rows['n']).astype(float)
    self.law = min(scaling.laws(self.n, norm).values())
    self.both = []
    for n in self.n:
      of = records.select(rows, n=n)
      here = content if content in of['content'] else 'images'
      of = records.select(of, content=here)
      relative = (of['distance'] / of['input_norm']).astype(float)
      num = of['network'].max() + 1
      untrained, trained = relative.reshape(2, num, -1)
      self.both.append(np.concatenate([trained, untrained], axis=1))
    slope = scaling.median_slope(self.n)
    trained, untrained = zip(*map(halves, self.both), strict=True)
    self.slope = estimate(slope, *trained)
    self.before = estimate(slope, *untrained)
    self.change = estimate(
      lambda *both: np.subtract(
        *(slope(*half) for half in zip(*map(halves, both), strict=True))
      ),
      *self.both,
    )
    found = estimate(log_ratio, *self.both)
    value, low, high = np.exp(found[:3]).tolist()
    self.constant = found._replace(value=value, low=low, high=high)


def halves(both):
  """Splits `[..., trained, then untrained]`."""
  half = both.shape[-1] // 2
  return both[..., :half], both[..., half:]


def log_ratio(*both):
  """Mean over sizes of the log ratio of trained to untrained medians."""
  with np.errstate(invalid='ignore', divide='ignore'):
    logs = [
      np.subtract(*(np.log(statistics.sample_median(h)) for h in halves(v)))
      for v in both
    ]
  return np.mean(logs, axis=0)


def estimate(statistic, *samples):
  return statistics.estimate(statistic, *samples, unit='networks')


def analyze(config, found):
  """Holds slopes against the law's, and constants against 1."""
  results = found['results']
  cases = [
    Case(results, model, norm, place)
    for model in config.models
    for norm in NORMS
    for place in PLACES
  ]
  judged = []
  for model in config.models:
    judged += judge(results, model, [c for c in cases if c.model == model])
  shown = [slope_table(cases), network_table(config, results)]
  return runner.Report(answer(config, cases, judged), judged, shown)


def judge(results, model, cases):
  """The claims of the module's docstring on one architecture."""
  reason = why_not_tested(results, model)
  conjecture = (
    'The adversarial robustness guarantee, a distance from the boundary that '
    'scales at least as ||x||_p / sqrt(n), extends to trained deep neural '
    'networks'
  )

  def claim(name, place, said, condition):
    conditions = tuple(
      condition(f'l{case.norm:g}', case) for case in cases
      if case.place == place
    )  # fmt: skip
    where = f'{model}: {name}'
    return claims.Claim(PAPER, where, f'{said} ({where}).', conditions, reason)

  slope = lambda what, case: claims.above(what, case.slope, case.law - SLACK)
  constant = lambda what, case: claims.above(what, case.constant, 1 / BAND)
  change = lambda what, case: claims.above(what, case.change, 0.0)
  return [
    *(claim(f'slope at {p}', p, conjecture, slope) for p in PLACES),
    *(
      claim(f'constant at {p}', p, conjecture, constant)
      for p in ('images', 'noise')
    ),
    claim(
      'slower than before training',
      'images',
      'Training makes distances at images fall more slowly with n (ours)',
      change,
    ),
  ]


def why_not_tested(results, model):
  """Why networks of an architecture say nothing of the claims, or ''."""
  rows = records.select(results, model=model)
  trained, guess = records.select(rows, trained=True), float(rows['guess'][0])
  for n in np.unique(trained['n']):
    for content in ('images', 'blown up'):
      right = records.select(trained, n=n, content=content)['accuracy']
      if right.size and right.mean() < (1 + guess) / 2:
        return (
          f'networks of n = {n} classify {right.mean():.0%} of test images '
          f'correctly, less than half way from a guess ({guess:.0%}) to all'
        )
  failed = np.mean(np.isinf(rows['distance']))
  if failed > MOST_FAILED:
    return f'{failed:.0%} of the searches found no boundary'
  return ''


def answer(config, cases, judged):
  """One sentence."""
  case = next(c for c in cases if (c.norm, c.place) == (2.0, 'images'))
  tested = [c for c in judged if c.verdict != claims.NOT_TESTED]
  held = sum(c.verdict == claims.SUPPORTED for c in tested)
  cell = lambda v: tables.cell(v, '.2f')
  return (
    f'At {config.dataset} images of {case.n[0]:.0f} to {case.n[-1]:.0f} pixels '
    f'the l2 distance over the norm falls as n to the power {cell(case.slope)} '
    f'in trained networks ({case.model}), {cell(case.before)} before training, '
    f'where the lower bound has -0.5, and is {cell(case.constant)} times as '
    f'large as before ({config.num_networks} networks of each size); {held} of '
    f'{len(judged)} claims are supported, {len(judged) - len(tested)} not '
    'tested.'
  )


# --- Tables ----------------------------------------------------------------

column = tables.Column


def slope_table(cases):
  n = ', '.join(f'{v:.0f}' for v in cases[0].n)
  return tables.Table(
    f'Slopes of log(median d_p / ||x||_p) on log n, n = {n}',
    [
      column('network', '', ''),
      column('p', '', 'norm of the distance', 'g'),
      column('at', '', 'inputs; blown up: the content of the smallest size'),
      column('law', '', "of the random networks' lower bound", '.2f'),
      column('trained', '', 'slope', '.2f'),
      column('untrained', '', 'of the same networks before training', '.2f'),
      column(
        'constant', '', 'trained over untrained median, mean of all n', '.2f'
      ),
    ],
    [
      [c.model, c.norm, c.place, c.law, c.slope, c.before, c.constant]
      for c in cases
    ],
  )


def network_table(config, results):
  rows = []
  for model in config.models:
    for content in ('images', 'blown up'):
      of = records.select(results, model=model, content=content, trained=True)
      right = []
      for n in (of['n'].min(), of['n'].max()):
        at = records.select(of, n=n)
        each = at['accuracy'].reshape(config.num_networks, -1)[:, 0]
        right.append(statistics.proportion(each, unit='networks'))
      failed = float(np.mean(np.isinf(of['distance'])))
      rows.append([model, content, *right, failed])
  return tables.Table(
    'Trained networks',
    [
      column('network', '', ''),
      column('trained on', '', ''),
      column('right, least n', '', 'share of test images', '.1%'),
      column('right, largest n', '', '', '.1%'),
      column('lost', '', 'share of searches without result', '.1%'),
    ],
    rows,
  )


EXPERIMENT = runner.Experiment(
  'experiments.trained_scaling', __doc__, Config, PRESETS, COLUMNS,
  measure, analyze, figures.draw, load=load, check=check, threads=2,
)  # fmt: skip
run = EXPERIMENT.run

if __name__ == '__main__':
  EXPERIMENT.main()
