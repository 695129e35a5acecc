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
pixels alone changes, and have networks of their own. Above its own size an
image gains no content.

With r = d_p / ||x||_p, the slope is that of log(median r) on log n (the law's:
-1/2; for p = 1 that of sqrt(n / ln n) / n), and the constant is the median r of
trained networks over that of the same networks before training, as a geometric
mean over sizes. A lower bound survives if no slope is more than 0.05 below the
law's, and no constant below 1 / 1.25. The network is the unit: intervals are
bootstrapped over networks, with their images. Each claim is about an
architecture and all norms together. Nothing is tested where networks of a size
classify test images less than half way from a guess to all, or more than 5 % of
the searches fail.
"""

import dataclasses
import functools

import jax
import numpy as np

from dmm_jax import data
from dmm_jax import models
from dmm_jax import random_nets
from dmm_jax import records
from dmm_jax import scaling
from dmm_jax import statistics
from dmm_jax import train
from dmm_jax.train import populations
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
    sizes=(4, 8, 16),
    models=('mlp',),
    epochs=5,
  ),
  'default': {},
  'mnist': dict(
    dataset='mnist',
    sizes=(7, 14, 28, 40),
    num_train=6000,
    epochs=4,
  ),
  'cifar': dict(
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
  convolves = isinstance(module, models.CNN)
  return populations.fit_ends(
    keys[:, 0],
    keys[:, 1],
    module,
    xs,
    labels,
    config=plan,
    together=not (convolves and jax.default_backend() == 'cpu'),
  )


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
  resize = lambda xs: resized(config, xs, content, size)
  xs, labels = (column[: config.num_train or None] for column in sets['train'])
  test, truth = sets['test']
  module = build(name, int(labels.max()) + 1)
  key = jax.random.fold_in(jax.random.key(config.seed), size)
  states = fit(config, module, key, resize(xs), labels)
  networks = np.arange(config.num_networks, dtype=np.int32)
  inputs = np.stack(
    [to_measure(config, test, i, content, size) for i in networks]
  )
  parts = []
  for trained, flat in enumerate(states):
    found, right = random_nets.measure_networks(
      flat,
      inputs,
      resize(test[:NUM_TESTED]),
      truth[:NUM_TESTED],
      module=module,
      exponents=NORMS,
      bounds=(0.0, 1.0),
      method=config.method,
      max_gradients=config.max_gradients,
    )
    kind = np.repeat(['images', 'noise'], config.num_examples)
    rows = records.broadcast(
      found.distance.shape,  # Networks, inputs, norms.
      model=name,
      content=content,
      n=np.int32(inputs[0, 0].size),
      network=networks[:, None, None],
      trained=bool(trained),
      inputs=kind[:, None],
      norm=np.array(NORMS, np.float32),
      distance=found.distance,
      input_norm=found.input_norm,
      status=found.status,
      accuracy=right[:, None, None],
      guess=data.commonest_share(truth),
    )
    parts.append(rows)
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
    constant = estimate(log_ratio, *self.both)
    self.constant = statistics.transform(constant, np.exp)


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

  def claim(name, place, statement, condition):
    conditions = tuple(
      condition(f'l{case.norm:g}', case) for case in cases
      if case.place == place
    )  # fmt: skip
    where = f'{model}: {name}'
    return claims.Claim(
      PAPER, where, f'{statement} ({where}).', conditions, reason
    )

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
  reasons = []
  for n in np.unique(trained['n']):
    for content in np.unique(trained['content'][trained['n'] == n])[::-1]:
      right = records.select(trained, n=n, content=content)['accuracy'].mean()
      whose = f'networks of n = {n}'
      reasons.append(claims.why_untrained(right, guess, whose=whose))
  reasons.append(claims.why_failed(rows['distance']))
  return next(filter(None, reasons), '')


def answer(config, cases, judged):
  """One sentence."""
  case = next(c for c in cases if (c.norm, c.place) == (2.0, 'images'))
  cell = lambda v: tables.cell(v, '.2f')
  return (
    f'At {config.dataset} images of {case.n[0]:.0f} to {case.n[-1]:.0f} pixels '
    f'the l2 distance over the norm falls as n to the power {cell(case.slope)} '
    f'in trained networks ({case.model}), {cell(case.before)} before training, '
    f'where the lower bound has -0.5, and is {cell(case.constant)} times as '
    f'large as before ({config.num_networks} networks of each size); '
    f'{claims.tally(judged, untested=True)}.'
  )


# --- Tables ----------------------------------------------------------------


def slope_table(cases):
  n = ', '.join(f'{v:.0f}' for v in cases[0].n)
  rows = [
    [c.model, c.norm, c.place, c.law, c.slope, c.before, c.constant]
    for c in cases
  ]
  columns = [
    ('network', ''),
    ('p', 'norm of the distance', '', 'g'),
    ('at', 'inputs; blown up: the content of the smallest size'),
    ('law', "of the random networks' lower bound"),
    ('trained', 'slope'),
    ('untrained', 'of the same networks before training'),
    ('constant', 'trained over untrained median, mean of all n'),
  ]
  title = f'Slopes of log(median d_p / ||x||_p) on log n, n = {n}'
  return tables.table(title, columns, rows, spec='.2f')


def network_table(config, results):
  rows = []
  for model in config.models:
    for content in ('images', 'blown up'):
      of = records.select(results, model=model, content=content, trained=True)
      right = []
      for n in (of['n'].min(), of['n'].max()):
        at = records.by_unit(records.select(of, n=n))['accuracy'][:, 0]
        right.append(statistics.proportion(at, unit='networks'))
      rows.append([model, content, *right, np.isinf(of['distance']).mean()])
  columns = [
    ('network', ''),
    ('trained on', ''),
    ('right, least n', 'share of test images'),
    ('right, largest n', ''),
    ('lost', 'share of searches without result'),
  ]
  return tables.table('Trained networks', columns, rows, spec='.1%')


EXPERIMENT = runner.Experiment(
  'experiments.trained_scaling', __doc__, Config, PRESETS, COLUMNS,
  measure, analyze, figures.draw, load=load, check=check, threads=2,
)  # fmt: skip
run = EXPERIMENT.run

if __name__ == '__main__':
  EXPERIMENT.main()
