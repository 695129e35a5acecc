"""How does the distance to a random network's boundary shrink with dimension?

De Palma, Kiani, Lloyd (2021), https://arxiv.org/abs/2004.05923: in random deep
networks the l^p distance of any input from the decision boundary scales as
||x||_p / sqrt(n), n the input dimension.

  python -m experiments.random_scaling
  python -m experiments.random_scaling --preset=full --workdir=runs/full

The first takes 2 to 6 minutes on 2 CPU cores and --preset=quick less than 1;
full has the authors' networks at their 13 sizes, for a GPU. A run that was
killed goes on where it was.

Each network is drawn at random and measured at one image of its own. The law
is about the slope of log(median of d_p / ||x||_p) on log n; two estimates of it
stand side by side:

  raw         of the medians as they are. Their scatter is that of |f(x)|, the
              margin: d_p = |f| / ||grad f||_q to first order.
  controlled  of the medians of d_p / ||x||_p times m / |f|, where m is the
              median of |f(x)|. If |f| is independent of the gradient, as at
              infinite width, both have one value; without the scatter of |f|
              the interval is several times narrower.

m is known far better than from the |f| that are measured: given all layers but
the last, f(x) is normal, and m is the median of the mixture of these normals
over 1000 more networks, a forward pass each. Where nothing is pooled, this is
its ratio to the root of E f^2, which the kernel of the infinitely wide network
has exactly. That network also predicts the medians without any fit
(`nngp.distance_scale`).

A claim is supported if the whole 95 % interval of the controlled slope, over
networks, lies within 0.03 of the law's slope, and refuted if it lies outside.
It is not tested where more than 2 % of the searches failed.
"""

import dataclasses
import functools
import itertools
from typing import NamedTuple
import zlib

import jax
import jax.numpy as jnp
import numpy as np

from dmm_jax import boundary
from dmm_jax import data
from dmm_jax import nngp
from dmm_jax import norms as dmm_norms
from dmm_jax import parallel
from dmm_jax import predictions
from dmm_jax import programs
from dmm_jax import random_nets
from dmm_jax import records
from dmm_jax import scaling
from dmm_jax import statistics
from experiments.figures import random_scaling as figures
from experiments.lib import claims
from experiments.lib import flags
from experiments.lib import runner
from experiments.lib import tables as tables_lib

PAPER = '2004.05923'
TOLERANCE = 0.03  # Of slopes.
RELEASED_TOLERANCE = 0.25  # Of ratios to released medians, which are +-14 %.
MOST_FAILED = 0.02
LAW, AS_INFINITE = '||x|| / sqrt(n)', 'as at infinite width'
FORWARD_PASSES = 1000
NAMES = tuple(random_nets.ARCHITECTURES)
SHORT = {name: name for name in NAMES} | {'fully_connected': 'dense'}
# Architectures whose E f^2 is that of their kernel at any width.
EXACT = ('fully_connected', 'convolutional', 'resnet')


@dataclasses.dataclass(frozen=True)
class Config:
  preset: str = flags.preset()
  workdir: str = flags.workdir('runs/random_scaling')
  seed: int = flags.seed()
  architectures: tuple[str, ...] = flags.flag(
    NAMES, 'Random networks to draw.', choices=NAMES
  )
  norms: tuple[float, ...] = flags.flag(
    (1.0, 1.5, 2.0, 3.0, np.inf),
    'Norms p of dense networks: p >= 1, inf, or 0: number of changed inputs.',
    least=0,
    infinite=True,
  )
  sizes: tuple[int, ...] = flags.flag(
    (8, 16, 32), 'Sides of the images of dense networks, pixels.', least=1
  )
  num_networks: int = flags.flag(200, 'Dense networks for each size.', least=1)
  conv_norms: tuple[float, ...] = flags.flag(
    (2.0,),
    'Norms of other networks, which take 10 to 50 times as long.',
    least=0,
    infinite=True,
  )
  conv_sizes: tuple[int, ...] = flags.flag(
    (8, 32), 'Sides of the images of other networks, pixels.', least=1
  )
  conv_networks: int = flags.flag(80, 'Other networks, each size.', least=1)
  lenet_networks: int = flags.flag(
    200, 'LeNets for each size; pooled, they scatter more.', least=1
  )
  resnet20_sizes: tuple[int, ...] = flags.flag(
    (8, 16), "Sides of the images of the authors' ResNet20.", least=1
  )
  resnet20_networks: int = flags.flag(100, 'ResNet20s, each size.', least=1)
  width: int = flags.flag(0, 'Units of dense layers; 0 is 100.', least=0)
  conv_width: int = flags.flag(
    32,
    'Channels of the first convolution, but for resnet20; 0 is 128, and 32 of '
    'resnet.',
    least=0,
  )
  inputs: str = flags.flag(
    'uniform',
    'Pixels drawn uniformly from [0, 1], or real images resized to each side.',
    choices=('uniform', 'digits', 'mnist', 'cifar10'),
  )
  data_dir: str = flags.data_dir()
  noise: float = flags.flag(
    1 / 256,
    'Uniform noise blended into real images: pixels of exactly 0 put whole '
    'patches on the kink of every ReLU, where there is no gradient.',
    least=0,
    most=1,
  )
  channels: int = flags.flag(3, 'Colour channels.', choices=(1, 3))
  methods: tuple[str, ...] = flags.flag(
    ('fast',),
    'Searches, all on the same networks: claims are about the first, and the '
    'last is the reference of the others.',
    choices=tuple(boundary.METHODS),
  )
  max_gradients: int = flags.max_gradients(200)
  box: bool = flags.flag(True, 'Keep perturbed pixels in [0, 1].')
  batch_size: int = flags.flag(50, 'Networks measured together.', least=1)
  num_predicted: int = flags.flag(2, 'Images of predicted laws.', least=1)


PRESETS = {
  'quick': dict(
    architectures=('fully_connected',),
    sizes=(8, 24),
    num_networks=300,
    num_predicted=1,
  ),
  'default': {},
  'full': dict(
    sizes=tuple(range(12, 61, 4)),
    num_networks=5000,
    conv_norms=(1.0, 2.0, np.inf),
    conv_sizes=tuple(range(12, 61, 4)),
    conv_networks=1000,
    lenet_networks=1000,
    resnet20_sizes=tuple(range(12, 61, 4)),
    resnet20_networks=1000,
    conv_width=0,
    batch_size=100,
  ),
}

COLUMNS = {
  'architecture': ('', 'name of the random network'),
  'method': ('', 'search for the boundary'),
  'n': ('', 'input dimension: channels times pixels'),
  'norm': ('', 'p of the distance'),
  'network': ('', 'number of the network; each has its own image'),
  'margin': ('logits', '|f(x)|, the difference of the two logits'),
  'distance': ('pixel values', 'distance to the boundary; inf: not found'),
  'input_norm': ('pixel values', '||x||_p'),
  'input_l2': ('pixel values', '||x||_2'),
  'status': ('', 'how the search ended, a boundary.Status'),
  'gradients': ('', 'gradients that the search took'),
  'scale': ('pixel values', 's of the law |N(0, 1)| s of the distance'),
  'sigma': ('logits', 'standard deviation of f(x) over networks'),
  'variance': ('logits^2', 'variance of f(x) over its last layer alone'),
}


def check(config):
  """Raises FlagError for flags that do not go together."""
  for name in config.architectures:
    least = random_nets.ARCHITECTURES[name].min_size
    if 0 in norms(config, name) and not config.box:
      raise flags.FlagError('norm 0 needs --box: inputs have no other end')
    for method in config.methods:
      flags.check_method(method, norms(config, name), together=True)
    if min(sizes(config, name)) < least:
      raise flags.FlagError(
        f'a side of {min(sizes(config, name))} is too small for {name}, which '
        f'needs images of at least {least} x {least}'
      )


def group(name):
  """The flags that an architecture goes by."""
  return {'fully_connected': '', 'resnet20': 'resnet20_'}.get(name, 'conv_')


def sizes(config, name):
  return getattr(config, f'{group(name)}sizes')


def norms(config, name):
  """In the order in which they are measured: 0 has its own program."""
  found = config.norms if name == 'fully_connected' else config.conv_norms
  return tuple(sorted(found, key=lambda p: p == 0))


def num_networks(config, name):
  own = {
    'fully_connected': config.num_networks,
    'lenet': config.lenet_networks,
    'resnet20': config.resnet20_networks,
  }
  return own.get(name, config.conv_networks)


def load(config):
  """Returns real images `[m, side, side, channels]` by side; {} for noise."""
  if config.inputs == 'uniform':
    return {}
  xs, _ = data.load(config.inputs, 'train', config.data_dir or None)
  every = {s for name in config.architectures for s in sizes(config, name)}
  return {s: data.resize(xs[:2000], s, config.channels) for s in every}


# --- Measuring -------------------------------------------------------------


def measure(config, images):
  """Yields the units: distances, variances of outputs, predictions.

  results: one row a (network, norm); outputs: variances of forward passes;
  predictions: scale and sigma by image.
  """
  settings = [
    Setting(config, name, size, images.get(size, np.zeros(1, np.float32)))
    for name in reversed(config.architectures)  # The slowest to compile first.
    for size in sizes(config, name)
  ]
  most = max(num_networks(config, name) for name in config.architectures)
  # Size by size, then round by round: two units never compile one program.
  for start in range(0, most, config.batch_size):
    for method in config.methods:
      for setting in settings:
        num = num_networks(config, setting.name)
        stop = min(start + config.batch_size, num)
        if start < stop:
          yield runner.Unit(
            f'{setting.name}-{setting.size}-{method}-{start:06d}',
            functools.partial(distances, setting, method, start, stop),
          )
  for setting in settings:
    where = f'{setting.name}-{setting.size}'
    yield runner.Unit(
      f'outputs-{where}', functools.partial(outputs, setting), 'outputs'
    )
    if setting.architecture.infinite is not None:
      yield runner.Unit(
        f'predicted-{where}',
        functools.partial(predicted, setting),
        'predictions',
      )


class Setting(NamedTuple):
  """An architecture at one size of images."""

  config: Config
  name: str
  size: int
  images: np.ndarray

  @property
  def architecture(self):
    return random_nets.ARCHITECTURES[self.name]

  @property
  def module(self):
    of = {'': self.config.width, 'conv_': self.config.conv_width}
    return self.architecture.module(of.get(group(self.name), 0))

  @property
  def draw(self):
    """Options of `random_nets.draw_image`, whatever else the run measures."""
    config = self.config
    return {
      'seeds': (config.seed, zlib.crc32(self.name.encode()), self.size),
      'shape': (self.size, self.size, config.channels),
      'noise': config.noise if config.inputs != 'uniform' else 1.0,
    }

  def table(self, **columns):
    """Returns columns, with those that tell where this is."""
    shape = np.broadcast_shapes(*map(np.shape, columns.values()))
    n = np.int32(self.config.channels * self.size**2)
    return records.broadcast(shape, architecture=self.name, n=n, **columns)


def measure_network(network, images, *, module, exponents, box, search, **draw):
  """Returns columns of one network, one row a norm."""
  x, key = random_nets.draw_image(network, images, **draw)
  params = module.init(key, x)
  logits_fn = lambda v: module.apply(params, v)[0]
  logits = logits_fn(x)

  def one(p):
    found = boundary.nearest_point(
      logits_fn,
      x,
      logits.argmax(),  # The class that the network itself gives.
      norm=p,
      bounds=(0.0, 1.0) if box else None,
      method=search[0],
      max_gradients=search[1],
      rtol=1e-4,
      with_normal=False,
    )
    fields = 'distance status gradients'.split()
    return {name: getattr(found, name) for name in fields} | {
      'margin': jnp.abs(logits[0] - logits[1]),
      'input_norm': dmm_norms.norm(x, p),
      'input_l2': jnp.linalg.norm(x),
    }

  several = [p for p in exponents if p]
  if len(several) < 2:  # A norm that is no array compiles faster.
    parts = [one(p) for p in exponents]
    return jax.tree.map(lambda *column: jnp.stack(column), *parts)
  # One program serves all norms: compiling takes longer than running here.
  found = jax.lax.map(one, jnp.array(several))
  if 0 not in exponents:
    return found
  return jax.tree.map(lambda c, new: jnp.append(c, new), found, one(0))


def distances(setting, method, start, stop):
  """Distances from the networks `start` to `stop`, all norms of each."""
  config, exponents = setting.config, norms(setting.config, setting.name)
  one = programs.bind(
    measure_network,
    module=setting.module,
    exponents=exponents,
    box=config.box,
    search=(method, config.max_gradients),
    **setting.draw,
  )
  found = map_networks(setting, one, start, config.batch_size)
  found = {name: v[: stop - start] for name, v in found.items()}
  return setting.table(
    network=np.arange(start, stop, dtype=np.int32)[:, None],
    norm=np.array(exponents, np.float32),
    method=method,
    **found,
  )


def map_networks(setting, one, start, num):
  """Whole batches, so that the last one compiles no second time."""
  return parallel.map_examples(
    one,
    (np.arange(start, start + num),),
    shared=(setting.images,),
    batch_size=num,
    # Each network has its own weights: CPUs gain nothing from batching.
    vmap_size=1 if jax.default_backend() == 'cpu' else None,
  )


def outputs(setting):
  """Variances of f(x) over the last layer, of networks with fresh weights."""
  one = programs.bind(
    last_layer_variance,
    module=setting.module,
    head_variance=setting.architecture.head_variance,
    **setting.draw,
  )
  fresh = 1 << 20  # Not those that are measured.
  variance, input_l2 = map_networks(setting, one, fresh, FORWARD_PASSES)
  return setting.table(variance=variance, input_l2=input_l2)


def last_layer_variance(network, images, *, module, head_variance, **draw):
  """Returns E[f(x)^2] over the weights of the last layer alone, and ||x||_2."""
  x, key = random_nets.draw_image(network, images, **draw)
  params = module.init(key, x)
  variance = random_nets.last_layer_variance(module, params, x, head_variance)
  return variance, jnp.linalg.norm(x)


def predicted(setting):
  """The infinitely wide network's law at the first images."""
  config = setting.config
  draw = functools.partial(
    random_nets.draw_image, images=setting.images, **setting.draw
  )
  numbers = range(config.num_predicted)
  found = predictions.law(
    setting.name,
    [np.asarray(draw(number)[0]) for number in numbers],
    norms(config, setting.name),
    bounds=(0.0, 1.0) if config.box else None,
  )
  return setting.table(**found)


# --- Judging ---------------------------------------------------------------


class Case(NamedTuple):
  """What was found of one architecture in one norm, size by size.

  Attributes:
    n: input dimensions `[k]`.
    input_norm: of each, ||x||_p of its networks.
    relative: of each, d_p / ||x||_p of its networks.
    controlled: of each, the same times m / |f|.
    scales: of each, f's standard deviations over last layers, over ||x||_2.
    infinite: predicted medians of d_p / ||x||_p; None without a kernel.
  """

  name: str
  norm: float
  n: np.ndarray
  input_norm: list[np.ndarray]
  relative: list[np.ndarray]
  controlled: list[np.ndarray]
  scales: list[np.ndarray]
  infinite: np.ndarray | None

  @property
  def failed(self) -> float:
    return float(np.mean([np.isinf(r).mean() for r in self.relative]))


def analyze(config, tables):
  """Slopes, medians and their verdicts."""
  cases = [
    make_case(config, tables, name, p)
    for name in config.architectures
    for p in norms(config, name)
  ]
  slopes = [controlled_slope(case) for case in cases]
  claimed = [judge(*pair) for pair in zip(cases, slopes, strict=True)]
  rows = []
  for case, controlled, of in zip(cases, slopes, claimed, strict=True):
    verdicts = {claim.name.split(': ')[1]: claim.verdict for claim in of}
    rows.append(
      [
        SHORT[case.name],
        case.norm,
        slope(case, case.relative),
        controlled,
        infinite_slope(case),
        f'{case.failed:.1%}',
        verdicts[LAW],
        verdicts.get(AS_INFINITE),
      ]
    )
  shown = [slope_table(rows, cases), median_table(cases)]
  if 'resnet20' in config.architectures and config.inputs == 'uniform':
    shown += released_table([c for c in cases if c.name == 'resnet20'])
  if len(config.methods) > 1:
    shown.append(search_table(config, tables['results']))
  judged = [claim for of in claimed for claim in of]
  return runner.Report(answer(cases, slopes, judged), judged, shown)


def make_case(config, tables, name, p):
  rows = records.select(
    tables['results'], architecture=name, norm=p, method=config.methods[0]
  )
  sizes_of, relative, controlled, scales, infinite = [], [], [], [], []
  n = np.unique(rows['n'])
  for size in n:
    at = records.select(rows, n=size)
    sizes_of.append(at['input_norm'])
    relative.append(at['distance'] / at['input_norm'])
    of = records.select(tables['outputs'], architecture=name, n=size)
    # f is homogeneous: its size goes with that of the input.
    scales.append(np.sqrt(of['variance']) / of['input_l2'])
    median = median_margin(name, scales[-1][:, None])
    if random_nets.ARCHITECTURES[name].infinite is not None:
      of = records.select(
        tables['predictions'], architecture=name, n=size, norm=p
      )
      if name in EXACT:
        median = median * np.mean(of['sigma'] / of['input_l2'])
      law = of['scale'] / of['input_norm']
      infinite.append(nngp.distance_quantile(law, 0.5))
    margin = at['margin'] / at['input_l2']
    # A number of changes is not in proportion to the margin.
    controlled.append(relative[-1] * (median / margin if p else 1))
  law = np.array(infinite) if infinite else None
  found = sizes_of, relative, controlled, scales, law
  return Case(name, p, n.astype(float), *found)


def median_margin(name, scales):
  """The median of |f| / ||x||_2; in units of E f^2's root, if that is known."""
  median = scaling.mixture_median(scales)
  if name not in EXACT:
    return median
  return median / np.sqrt((scales**2).mean((-2, -1)))


def estimate(statistic, samples):
  """Of samples at each n, one value a network."""
  columns = [sample[:, None] for sample in samples]
  return statistics.estimate(statistic, *columns, unit='networks')


def slope(case, samples):
  """The slope of log median on log n, over networks."""
  if len(case.n) < 2:
    return statistics.Estimate(*[np.nan] * 3, len(samples[0]), 'networks')
  return estimate(scaling.median_slope(case.n), samples)


def controlled_slope(case):
  """The controlled slope, with what is uncertain in the median of |f|."""
  found = slope(case, case.controlled)
  if len(case.n) < 2 or not case.norm:
    return found
  log_slope = statistics.log_slope(case.n)
  of_median = lambda *scales: log_slope(
    np.stack([median_margin(case.name, s) for s in scales], -1)
  )
  return scaling.less_certain(found, estimate(of_median, case.scales))


def controlled_median(case, i, length=1.0):
  """The median of d_p / ||x||_p times `length` at one size, likewise."""
  found = statistics.median(case.controlled[i] * length, unit='networks')
  if not case.norm:
    return found
  of_median = functools.partial(median_margin, case.name)
  of = estimate(of_median, case.scales[i : i + 1])
  return scaling.less_certain(found, of, factor=True)


def infinite_slope(case):
  if case.infinite is None or len(case.n) < 2:
    return None
  return float(statistics.log_slope(case.n)(case.infinite))


def judge(case, found):
  """The claims on one architecture and norm, of its controlled slope."""
  where, trouble = f'{SHORT[case.name]}, l{case.norm:g}', ''
  if len(case.n) < 2:
    trouble = 'one size has no slope'
  elif case.failed > MOST_FAILED:
    trouble = f'{case.failed:.1%} of the searches found no boundary'
  law = (
    'The l^p distance of any input from the decision boundary scales as '
    '||x||_p / sqrt(n)'
  )
  if not case.norm:
    law = 'The number of inputs that have to change scales as sqrt(n) (ours)'
  made = [(LAW, law, -0.5)]
  if case.infinite is not None:
    law = 'Finite random networks have the slope of infinitely wide ones '
    made.append((AS_INFINITE, f'{law}(neural-tangents)', infinite_slope(case)))
  if case.norm == 1:
    own = scaling.laws(case.n, 1.0)['sqrt(n/ln n)'] if not trouble else None
    law = 'In l^1 the distance grows as sqrt(n / ln n), not as sqrt(n) (ours)'
    made.append(('sqrt(n / ln n)', law, own))
  return [
    claims.Claim(
      PAPER,
      f'{where}: {name}',
      f'{said} ({where}).',
      () if trouble else (claims.within('slope', found, target, TOLERANCE),),
      trouble,
    )
    for name, said, target in made
  ]


def answer(cases, slopes, judged):
  """One sentence."""
  first = next((i for i, case in enumerate(cases) if case.norm == 2), 0)
  case, found = cases[first], slopes[first]
  own = infinite_slope(case)
  beside = '' if own is None else f' and {own:.2f} at infinite width'
  laws = [claim.verdict for claim in judged if claim.name.endswith(LAW)]
  every = [claim.verdict for claim in judged]
  return (
    f'In random {SHORT[case.name]} networks the l{case.norm:g} distance from '
    f'the boundary, over the norm of the input, falls as n to the power '
    f'{tables_lib.cell(found, ".3f")}, beside -1/2 in the law{beside} '
    f'({found.n} networks at each n); within {TOLERANCE} the law holds in '
    f'{laws.count(claims.SUPPORTED)} of {len(laws)} cases, and '
    f'{every.count(claims.SUPPORTED)} of all {len(every)} claims are supported.'
  )


# --- Tables ----------------------------------------------------------------

PLACE = [('network', ''), ('p', 'norm of the distance', '', 'g')]


def slope_table(rows, cases):
  dimensions = sorted({int(n) for case in cases for n in case.n})
  return tables_lib.table(
    f'Slopes of log(median of d_p / ||x||_p) on log n, n = '
    f'{", ".join(map(str, dimensions))}',
    [
      *PLACE,
      ('raw', 'slope of the medians as they are'),
      ('controlled', 'slope without the scatter of the margin'),
      ('infinite', 'the infinitely wide network, no fit'),
      ('failed', 'searches that found no boundary'),
      ('-1/2', f'controlled slope within {TOLERANCE} of -1/2'),
      ('as infinite', f'within {TOLERANCE} of the infinite slope'),
    ],
    rows,
    spec='.3f',
  )


def median_table(cases):
  rows = []
  for case in cases:
    for i, n in enumerate(case.n):
      found, own, ratio = controlled_median(case, i), None, None
      if case.infinite is not None:
        own = float(case.infinite[i])
        ratio = statistics.transform(found, lambda v, own=own: v / own)
      raw = statistics.median(case.relative[i], unit='networks')
      place = SHORT[case.name], case.norm, int(n), len(case.relative[i])
      rows.append([*place, raw, found, own, ratio])
  return tables_lib.table(
    'Medians of the distance over the norm of the input',
    [
      *PLACE,
      ('n', 'input dimension'),
      ('networks', 'random networks, one image each'),
      ('raw', 'median of d_p / ||x||_p'),
      ('controlled', 'the same without the scatter of the margin'),
      ('infinite', 'predicted at infinite width, no fit'),
      ('over infinite', 'controlled over predicted', '', '.2f'),
    ],
    rows,
  )


def released_table(cases):
  """Our medians beside those that De Palma et al. released, as a list.

  Empty where they released none of our sizes.
  """
  rows, most = [], 1 + RELEASED_TOLERANCE
  for case in cases:
    for i, n in enumerate(case.n):
      theirs = random_nets.released(int(n), case.norm)
      if theirs is None:
        continue
      length = case.input_norm[i]
      raw = statistics.median(case.relative[i] * length, unit='networks')
      controlled = controlled_median(case, i, length)
      ratio = statistics.ratio(controlled, theirs)
      ends = claims.above('', ratio, 1 / most), claims.below('', ratio, most)
      agrees = claims.Claim(PAPER, '', '', ends).verdict
      place = case.norm, int(n)
      rows.append([*place, raw, controlled, theirs, ratio, agrees])
  table = tables_lib.table(
    'ResNet20 beside the medians that the authors released',
    [
      PLACE[1],
      ('n', 'input dimension'),
      ('raw', 'our median distance', 'pixel values'),
      ('controlled', 'without the scatter of the margin', 'pixel values'),
      (
        'released',
        'best of 8 to 12 attacks, interval from their 45 and 55 % percentiles '
        'with one network as the unit',
        'pixel values',
      ),
      ('ratio', 'controlled over released', '', '.2f'),
      ('agrees', f'ratio within {RELEASED_TOLERANCE:.0%} of 1, up or down'),
    ],
    rows,
  )
  return [table] if rows else []


def search_table(config, results):
  """Searches on the same networks: medians, and ratios to the last one."""
  reference, rows = config.methods[-1], []
  median = functools.partial(statistics.median, unit='networks')
  for name in config.architectures:
    of_name = records.select(results, architecture=name)
    for p, n in itertools.product(norms(config, name), np.unique(of_name['n'])):
      at = records.select(of_name, norm=p, n=n)
      best = records.select(at, method=reference)['distance']
      for method in config.methods:
        of = records.select(at, method=method)
        far = of['distance']
        kept = np.isfinite(far) & np.isfinite(best)
        failed = statistics.proportion(np.isinf(far), unit='networks')
        ratio = statistics.paired_ratio(far[kept], best[kept], unit='networks')
        gradients = float(of['gradients'].mean())
        place = SHORT[name], p, int(n), method
        rows.append([*place, gradients, failed, median(far), ratio])
  return tables_lib.table(
    f'Searches on the same networks, beside {reference}',
    [
      *PLACE,
      ('n', 'input dimension'),
      ('search', 'method of boundary.measure'),
      ('gradients', 'mean gradients of a search', '', '.0f'),
      ('failed', 'share of searches that found nothing', '', '.2f'),
      ('median', 'median distance', 'pixel values', '.4f'),
      (
        'ratio',
        f'median of the distance over that of {reference}, by network',
        '',
        '.3f',
      ),
    ],
    rows,
  )


EXPERIMENT = runner.Experiment(
  'experiments.random_scaling', __doc__, Config, PRESETS, COLUMNS,
  measure, analyze, figures.draw, load=load, check=check, threads=2,
)  # fmt: skip
run = EXPERIMENT.run

if __name__ == '__main__':
  EXPERIMENT.main()
