"""Does training first bring the boundary to the data, and bend it only later?

Shamir, Melamed, BenShmuel (2021), https://arxiv.org/abs/2106.10151: at first
the boundary moves until it lies along the image manifold (clinging); then
shallow bulges put each example on its side (dimpling).

  python -m experiments.clinging_dimpling
  python -m experiments.clinging_dimpling --preset=quick --film --surface
  python -m experiments.clinging_dimpling --preset=mnist --data_dir=DIR

The first takes 2 minutes on 2 CPU cores, as mnist does, --preset=quick 1 and
cifar 5. A run that was killed goes on where it was.

Dense networks are trained by Adam at a constant rate. At log-spaced steps the
l2 distance to the boundary of the class that a network predicts is measured, at
training and test images that each network draws for itself, and at points that
are no data (`draw_images`): what the boundary does there too, it does not do
because of the image manifold. The gap is a network's median distance; intervals
are over networks, of mean logarithms of the gap over the same network's at step
0. The law is the gap of infinitely wide random networks at the same images. The
least gap is read where the mean over the other networks is least; phases are
three straight pieces over log10(1 + step) (`curves`).

  clings           refuted by a least gap above the start, at training or test
                   images
  to data          refuted by a gap that falls farther at a kind of non-data
  before accuracy  refuted if less of the fall comes before training accuracy
                   begins to rise than after it
  two phases       refuted by a gap whose first piece rises, or whose last falls
                   more steeply
  shallow dimples  refuted by a last gap above the start, as for `clings`
  retreat (ours)   refuted by a last gap below the start there, or by one that
                   has risen more at a kind of non-data

None is tested where more than 5 % of the searches failed; `OF_ACCURACY` not
where training accuracy rose by less than half of what it could.
"""

import dataclasses
import functools
import operator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dmm_jax import boundary
from dmm_jax import curves
from dmm_jax import data
from dmm_jax import manifold
from dmm_jax import models
from dmm_jax import nngp
from dmm_jax import parallel
from dmm_jax import programs
from dmm_jax import records
from dmm_jax import statistics
from dmm_jax import synthetic
from dmm_jax import train
from experiments import networks
from experiments.figures import clinging_dimpling as figures
from experiments.lib import claims
from experiments.lib import flags
from experiments.lib import runner
from experiments.lib import splits
from experiments.lib import tables as tables_lib

PAPER = '2106.10151'
DATA = ('train', 'test')
KINDS = {
  'train': 'training images',
  'test': 'test images',
  'permuted': 'permuted pixels',
  'noise': 'noise',
  'box': 'random points',
}
STATEMENTS = {
  'clings': 'First the boundary gets close to the image manifold',
  'to data': 'It is the image manifold that the boundary gets close to',
  'before accuracy': 'The boundary gets close before it puts examples on their '
  'sides',
  'two phases': 'Training has two phases: the boundary comes close, then '
  'something else',
  'shallow dimples': 'While it puts examples on their sides the boundary stays '
  'close',
  'retreat': 'In the end the boundary has moved away from data, and from data '
  'farther than from non-data (ours)',
}
# Claims that need networks that have learnt their labels.
OF_ACCURACY = ('before accuracy', 'shallow dimples', 'retreat')
COURSE = 'Along training'  # Title of the table that figures are drawn from.
MOST_FAILED = 0.05  # Share of the searches, where a claim is tested.
NUM_SCORED = 1000  # Images of each split, at most, that accuracies are of.
NUM_DRAWN = 1000  # Infinitely wide networks.


@dataclasses.dataclass(frozen=True)
class Config:
  preset: str = flags.preset()
  workdir: str = flags.workdir('runs/clinging_dimpling')
  seed: int = flags.seed()
  dataset: str = flags.dataset()
  data_dir: str = flags.data_dir()
  num_train: int = flags.num_train(5000)
  num_images: int = flags.flag(
    20, 'Images of each kind that a network is measured at.', least=1
  )
  widths: tuple[int, ...] = flags.flag(
    (100, 250), 'Units of both layers; the first is the main one.', least=1
  )
  init_scales: tuple[float, ...] = flags.flag(
    (1.0, 0.3, 3.0),
    'Factors of all weights at the start; the first is the main one.',
    least=1e-3,
  )
  shuffled: bool = flags.flag(True, 'Train on shuffled labels too.')
  num_networks: int = flags.flag(32, 'Networks of each setting.', least=1)
  train_batch: int = flags.flag(
    8, 'Networks trained, measured and saved together.', least=1
  )
  steps: int = flags.flag(2500, 'Training steps, in whole epochs.', least=1)
  steps_per_decade: int = flags.flag(
    5, 'Measurements for each factor of 10 in steps.', least=1, most=20
  )
  batch_size: int = flags.flag(128, 'Images of a training step.', least=1)
  learning_rate: float = flags.flag(1e-3, 'Constant rate of Adam.', least=0)
  method: str = flags.method('fast')
  max_gradients: int = flags.max_gradients(200)
  film: bool = flags.flag(
    False, 'Film the boundary around five points of a line (GIF).'
  )
  surface: bool = flags.flag(
    False, 'Draw the boundary around a chessboard, to be turned (HTML).'
  )


PRESETS = {
  'quick': dict(
    widths=(100,),
    init_scales=(1.0,),
    num_networks=24,
    train_batch=12,
    steps=1500,
    steps_per_decade=4,
  ),
  'default': {},
  'mnist': dict(
    dataset='mnist',
    widths=(100,),
    init_scales=(1.0, 3.0),
    num_networks=16,
  ),
  'cifar': dict(
    dataset='cifar10',
    widths=(100,),
    init_scales=(1.0,),
    num_networks=16,
    learning_rate=3e-4,
  ),
}
COLUMNS = {
  'setting': ('', 'width, factor of the weights at the start, labels'),
  'network': ('', 'number of the network; its images are the same throughout'),
  'step': ('', 'training steps taken'),
  'kind': ('', f'what is measured at: {", ".join(KINDS)}'),
  'image': ('', 'number of the image among those of its network and kind'),
  'distance': ('input units', 'l2 distance to the boundary; inf: not found'),
  'train_accuracy': ('', 'of the network, on the labels it is trained on'),
  'test_accuracy': ('', 'of the network'),
  'law': ('input units', 'gap of an infinitely wide network there; geometric '
          'mean over networks'),
  'margin': ('logits', 'class 1 over class 0 on a grid'),
  'axis': ('input units', 'coordinates of the grid; the same for each'),
  'points': ('input units', 'training points in the coordinates of the grid'),
  'labels': ('', 'of the points'),
  'gap': ('input units', 'median distance of the points to the boundary'),
}  # fmt: skip


def check(config):
  """Raises FlagError for flags that do not go together."""
  flags.check_method(config.method)


class Inputs(NamedTuple):
  """Training and test set: images `[n, ...]` and labels `[n]`."""

  xs: np.ndarray
  labels: np.ndarray
  test_xs: np.ndarray
  test_labels: np.ndarray


def load(config):
  """Returns `Inputs`."""
  known, test = splits.load(
    config.dataset, config.data_dir, num_train=config.num_train
  ).values()
  found = Inputs(*map(np.asarray, known + test))
  fewest = min(len(found.xs), len(found.test_xs))
  if config.num_images > fewest:
    raise flags.FlagError(
      f'--num_images={config.num_images} is too many; there are {fewest}'
    )
  return found


class Setting(NamedTuple):
  """What the networks of a group have in common."""

  width: int
  init_scale: float
  labels: str

  @property
  def name(self) -> str:
    """As tables have it."""
    more = ', shuffled labels' if self.labels == 'shuffled' else ''
    return f'width {self.width}, scale {self.init_scale:g}{more}'


def settings(config):
  """The main setting, shuffled labels, other scales, other widths."""
  width, scale = config.widths[0], config.init_scales[0]
  return [
    Setting(width, scale, 'true'),
    *([Setting(width, scale, 'shuffled')] if config.shuffled else []),
    *(Setting(width, other, 'true') for other in config.init_scales[1:]),
    *(Setting(other, scale, 'true') for other in config.widths[1:]),
  ]


# --- Measuring -------------------------------------------------------------


def measure(config, inputs):
  """Yields the units: networks that train together, the law, toy problems.

  results: one row a (setting, network, step, kind, image); law: one row a
  (network, kind); line and chessboard: one row a step.
  """
  for setting in settings(config):
    for start in range(0, config.num_networks, config.train_batch):
      stop = min(start + config.train_batch, config.num_networks)
      where = f'width{setting.width}-scale{setting.init_scale:g}'
      yield runner.Unit(
        f'{where}-{setting.labels}-{start:03d}',
        functools.partial(follow, config, inputs, setting, range(start, stop)),
      )
  yield runner.Unit('law', functools.partial(law, config, inputs), 'law')
  for toy, asked in (('line', config.film), ('chessboard', config.surface)):
    if asked:
      yield runner.Unit(toy, functools.partial(film, config, toy), toy)


def draw_images(config, inputs, number):
  """Returns the images of a network, kind after kind `[5 n, ...]`.

  Those that are no data: the training images with the pixels of each in a
  random order, Gaussian noise as long as they are, uniformly random pixels.
  """
  rng = np.random.default_rng((config.seed, number))
  take = lambda xs: xs[rng.choice(len(xs), config.num_images, replace=False)]
  xs, test_xs = take(inputs.xs), take(inputs.test_xs)
  pixels = xs.reshape(len(xs), -1, xs.shape[-1])  # Colours stay together.
  order = np.argsort(rng.uniform(size=pixels.shape[:2]), axis=1)
  permuted = np.take_along_axis(pixels, order[..., None], 1).reshape(xs.shape)
  noise = rng.standard_normal(xs.shape)
  axes = tuple(range(1, xs.ndim))
  size = lambda v: np.sqrt(np.sum(v**2, axis=axes, keepdims=True))
  kinds = xs, test_xs, permuted, noise * size(xs) / size(noise)
  return np.concatenate([*kinds, rng.uniform(size=xs.shape)]).astype(np.float32)


def pause_steps(last, per_decade):
  """Steps to measure at: 0, then log-spaced, and the last."""
  num = int(per_decade * np.log10(last)) + 1
  spaced = {round(10 ** (i / per_decade)) for i in range(num)}
  return tuple(sorted({0, *spaced, last}))


def trained(config, module, scale, numbers, xs, targets):
  """Yields `(step, parameters [m, ...])` of networks trained together.

  The same weights to begin with, but for the scale, and the same order in all
  settings: what differs is the setting alone.
  """
  size = min(config.batch_size, len(xs))
  plan = train.TrainConfig(
    schedule='constant',
    learning_rate=config.learning_rate,
    batch_size=size,
    num_epochs=-(-config.steps // (len(xs) // size)),
  )
  optimizer = train.make_optimizer(plan, len(xs))
  seed = jax.random.key(config.seed)
  keys = jax.vmap(lambda i: jax.random.fold_in(seed, i))(jnp.array(numbers))
  weights, order = jax.vmap(jax.random.split, out_axes=1)(keys)
  state = train.init_state(weights, module, xs[0], optimizer)
  state = state._replace(params=optax.tree.scale(scale, state.params))
  last = plan.num_epochs * (len(xs) // size)
  for pause in train.fit(
    order,
    train.flax_forward(module),
    state,
    xs,
    targets,
    config=plan,
    data_axes=(None, 0, None),
    pause_steps=pause_steps(last, config.steps_per_decade),
    each_epoch=False,
  ):
    yield pause.step, jax.device_get(pause.state.params)


def targets_of(config, inputs, setting, number):
  """The labels that a network is trained on."""
  if setting.labels == 'true':
    return inputs.labels
  key = jax.random.fold_in(jax.random.key(config.seed + 1), number)
  return data.shuffle_labels(key, inputs.labels)


def follow(config, inputs, setting, numbers):
  """Rows of some networks: trains them, measuring along the way."""
  module = models.MLP(2 * (setting.width,), int(inputs.labels.max()) + 1)
  images = [draw_images(config, inputs, number) for number in numbers]
  targets = [targets_of(config, inputs, setting, n) for n in numbers]
  known, test = slice(NUM_SCORED), (inputs.test_xs, inputs.test_labels)
  score = lambda own, xs, labels: np.float32(
    np.mean(networks.predictions(module, own, xs[known]) == labels[known])
  )
  rows = []
  for step, params in trained(
    config, module, setting.init_scale, numbers, inputs.xs, np.stack(targets)
  ):
    for i, number in enumerate(numbers):
      own, num = jax.tree.map(operator.itemgetter(i), params), len(images[i])
      far = parallel.map_examples(
        search(config, module), (images[i],), shared=(own,), batch_size=num
      )
      shape, variables = (len(KINDS), config.num_images), {'params': own}
      rows.append(
        records.broadcast(
          shape,
          setting=setting.name,
          network=np.int32(number),
          step=np.int32(step),
          kind=np.array([*KINDS])[:, None],
          image=np.arange(shape[1], dtype=np.int32),
          distance=far.reshape(shape),
          train_accuracy=score(variables, inputs.xs, targets[i]),
          test_accuracy=score(variables, *test),
        )
      )
  return records.concatenate(rows)


def search(config, module):
  """`distance` as the flags say; equal ones compile once."""
  return programs.bind(
    distance,
    module=module,
    method=config.method,
    max_gradients=config.max_gradients,
  )


def distance(x, params, *, module, method, max_gradients):
  """The distance of one input from the boundary of the predicted class."""
  logits_fn = lambda v: module.apply({'params': params}, v)[0]
  return boundary.nearest_point(
    logits_fn,
    x,
    jnp.argmax(logits_fn(x)),
    method=method,
    max_gradients=max_gradients,
    with_normal=False,
  ).distance


def law(config, inputs):
  """The gap of infinitely wide random networks at the images of each network.

  In the geometric mean.
  """
  kernel_fn = jax.jit(nngp.fully_connected(2)[2], static_argnames='get')
  num_classes = int(inputs.labels.max()) + 1
  rows = []
  for number in range(config.num_networks):
    rng = np.random.default_rng((config.seed, number, 1))
    images = draw_images(config, inputs, number)
    for kind, xs in zip(KINDS, np.split(images, len(KINDS)), strict=True):
      gaps = nngp.median_distances(
        rng, kernel_fn, xs, num_classes, num_draws=NUM_DRAWN
      )
      law = np.exp(np.mean(np.log(gaps)))
      rows.append({'network': number, 'kind': kind, 'law': law})
  return records.stack(rows)


def film(config, toy):
  """Margins of a network on a grid around a toy problem, at each step."""
  key = jax.random.key(config.seed)
  if toy == 'line':
    sample = synthetic.line(key)
    axis = np.linspace(-0.2, 1.3, 151, dtype=np.float32)
    grid, points = np.stack(np.meshgrid(axis, axis), -1), sample.xs
  else:
    sample = synthetic.chessboard(key, dim=10, rotate=True)
    axis = np.linspace(-0.25, 1.25, 37, dtype=np.float32)
    corner, frame = sample.xs[0], sample.tangents[0]
    up = np.asarray(manifold.off(corner, frame))
    across = np.stack(np.meshgrid(axis, axis, axis - 0.5, indexing='ij'), -1)
    space = np.concatenate([frame, up[None] / np.linalg.norm(up)])
    grid, points = corner + across @ space, (sample.xs - corner) @ frame.T
  module = models.MLP(2 * (config.widths[0],), 2)
  on_grid = programs.bind(class_margin, module=module)
  flat, rows = grid.reshape(-1, grid.shape[-1]), []
  scale, targets = config.init_scales[0], sample.labels[None]
  for step, params in trained(config, module, scale, [0], sample.xs, targets):
    own = (jax.tree.map(operator.itemgetter(0), params),)
    margin = parallel.map_examples(
      on_grid, (flat,), shared=own, batch_size=8192
    )
    far = parallel.map_examples(
      search(config, module), (sample.xs,), shared=own
    )
    row = {'step': step, 'gap': np.median(far), 'axis': axis, 'points': points}
    row |= {'margin': margin.reshape(grid.shape[:-1]), 'labels': sample.labels}
    rows.append(row)
  return records.stack(rows)


def class_margin(x, params, *, module):
  """Margin of class 1 over class 0."""
  return jnp.diff(module.apply({'params': params}, x)[0])[0]


# --- Judging ---------------------------------------------------------------


class Case(NamedTuple):
  """The curves of a setting's m networks at T steps.

  Attributes:
    name: of the setting.
    steps: `[T]`.
    gaps: by kind, log of the gap over that at step 0, `[m, T]`.
    beside: by kind, log of the gap over the law's, `[m, T]`.
    right, tested: accuracies on training and test images `[m, T]`.
    failed: share of the searches.
  """

  name: str
  steps: np.ndarray
  gaps: dict[str, np.ndarray]
  beside: dict[str, np.ndarray]
  right: np.ndarray
  tested: np.ndarray
  failed: float

  @property
  def x(self) -> np.ndarray:
    """What curves are straight pieces over."""
    return np.log10(1.0 + self.steps)


def analyze(config, tables):
  """Falls, phases and retreats of each setting, with their claims."""
  cases = [make_case(tables, setting.name) for setting in settings(config)]
  judged = [judge(case) for case in cases]
  shown = [gap_table(cases), phase_table(cases), verdict_table(cases, judged)]
  if len(cases) > 1:
    shown.append(contrast_table(cases))
  shown.append(course_table(cases[0]))
  said = answer(config, cases[0], judged[0])
  every = [claim for of in judged for claim in of]
  return runner.Report(said, every, shown)


def make_case(tables, name):
  rows = records.select(tables['results'], setting=name)
  steps, numbers = np.unique(rows['step']), np.unique(rows['network'])
  order = np.lexsort([rows[k] for k in ('image', 'kind', 'step', 'network')])
  shape = len(numbers), len(steps), len(KINDS), -1
  grid = lambda column: rows[column][order].reshape(shape)
  far, gaps, beside = grid('distance'), {}, {}
  with np.errstate(divide='ignore'):
    logs = np.log(np.median(far, axis=-1))
    logs = np.where(np.isfinite(logs), logs, np.nan)
    for place, kind in enumerate(sorted(KINDS)):
      found = records.select(tables['law'], kind=kind)
      of = np.log(found['law'][np.argsort(found['network'])])
      gaps[kind] = logs[:, :, place] - logs[:, :1, place]
      beside[kind] = logs[:, :, place] - of[:, None]
  right, tested = (
    grid(f'{split}_accuracy')[:, :, 0, 0] for split in ('train', 'test')
  )
  failed = float(np.mean(~np.isfinite(far)))
  return Case(name, steps, gaps, beside, right, tested, failed)


def mean(values):
  return statistics.t_mean(values, unit='networks')


def ratio(logs):
  """The geometric mean over networks, with Student's interval of the logs."""
  return statistics.transform(mean(logs), np.exp)


def judge(case):
  """The claims on one setting."""
  gaps = case.gaps
  slope, change, more = np.zeros((3, 0))  # NaN, where nothing is tested.
  low = {kind: curves.least(gaps[kind]) for kind in KINDS}
  end = {kind: gaps[kind][:, -1] for kind in KINDS}
  below, above = claims.below, claims.above
  at_data = lambda of, check, what: [
    check(f'{what} gap over start at {KINDS[k]}', ratio(of[k]), 1.0)
    for k in DATA
  ]
  versus = lambda of, check: [
    check(f'the same over that at {KINDS[k]}', ratio(of['train'] - of[k]), 1.0)
    for k in KINDS
    if k not in DATA
  ]
  trouble, unfit = why_not_tested(case)
  if not trouble:
    slope, change = curves.slopes(case.x, gaps['train'])
    more = curves.fall_ahead(case.x, gaps['train'], case.right)
  more, slope, change = map(mean, (more, slope, change))
  made = {
    'clings': at_data(low, below, 'least'),
    'to data': versus(low, below),
    'before accuracy': [
      at_data(low, below, 'least')[0],
      above('fall before accuracy rises, less the fall after', more, 0.0),
    ],
    'two phases': [
      below('slope of the first piece', slope, 0.0),
      above('slope of the last piece less that', change, 0.0),
    ],
    'shallow dimples': at_data(end, below, 'last'),
    'retreat': at_data(end, above, 'last') + versus(end, above),
  }
  judged = []
  for name, conditions in made.items():
    why = unfit if name in OF_ACCURACY else trouble
    kept = () if why else tuple(conditions)
    said = f'{STATEMENTS[name]} ({case.name}).'
    where = f'{case.name}: {name}'
    judged.append(claims.Claim(PAPER, where, said, kept, why))
  return judged


def why_not_tested(case):
  """Why nothing is tested, and why nothing that needs accuracy; or ''."""
  trouble = ''
  if len(case.right) < 2:
    trouble = 'there is one network, which says nothing of others'
  elif len(case.steps) < 5:
    trouble = f'{len(case.steps)} steps are too few for three pieces'
  elif case.failed > MOST_FAILED:
    trouble = f'{case.failed:.0%} of the searches found no boundary'
  first, last = case.right[:, 0].mean(), case.right[:, -1].mean()
  if trouble or last >= (1 + first) / 2:
    return trouble, trouble
  return '', (
    f'training accuracy is {last:.0%} at the end, less than half way from '
    f'{first:.0%} at the start to all'
  )


# --- Tables ----------------------------------------------------------------


def gap_table(cases):
  rows = []
  for case in cases:
    for kind, text in KINDS.items():
      gaps, beside = case.gaps[kind], case.beside[kind]
      step = int(case.steps[1 + np.argmin(gaps.mean(0)[1:])])
      ends = ratio(gaps[:, -1]), ratio(beside[:, -1])
      least = ratio(curves.least(gaps))
      rows.append([case.name, text, ratio(beside[:, 0]), least, step, *ends])
  return tables_lib.table(
    'The gap: median distance of a network from the boundary',
    [
      ('setting', ''),
      ('at', ''),
      ('start/law', 'gap at step 0 over that of infinitely wide networks'),
      ('least/start', 'least gap over that at step 0'),
      ('step', 'where the mean over networks is least'),
      ('last/start', 'last gap over that at step 0'),
      ('last/law', 'last gap over that of infinitely wide networks'),
    ],
    rows,
    spec='.2f',
  )


def phase_table(cases):
  rows = []
  for case in cases:
    gaps, x, found = case.gaps['train'], case.x, 5 * [None]
    if not why_not_tested(case)[0]:
      bends = [curves.bends(x, v)[:, 0] for v in (gaps, case.right)]
      found = [ratio(np.log1p(case.steps[of])) for of in bends]
      more = curves.fall_ahead(x, gaps, case.right)
      found += map(mean, (*curves.slopes(x, gaps), more))
    ends = mean(case.right[:, -1]), mean(case.tested[:, -1])
    rows.append([case.name, *found, *ends])
  logs = 'logarithm of the gap'
  return tables_lib.table(
    'Phases at training images: three straight pieces over log10(1 + step)',
    [
      ('setting', ''),
      ('gap bends', 'end of the first piece', '1 + steps', '.3g'),
      ('accuracy rises', 'likewise, of accuracy', '1 + steps', '.3g'),
      ('slope', 'of the first piece', f'{logs} per decade'),
      ('change', 'slope of the last piece less that', f'{logs} per decade'),
      ('ahead', 'fall before accuracy rises, less that after', logs),
      ('train', 'training accuracy at the end', '', '.1%'),
      ('test', 'test accuracy at the end', '', '.1%'),
    ],
    rows,
    spec='.2f',
  )


def verdict_table(cases, judged):
  names = [claim.name.split(': ')[1] for claim in judged[0]]
  rows = [
    [case.name, *(claim.verdict for claim in of)]
    for case, of in zip(cases, judged, strict=True)
  ]
  header = [(name, '') for name in ('setting', *names)]
  return tables_lib.table('Verdicts by setting', header, rows)


def contrast_table(cases):
  (main, *others), rows = cases, []
  for case in others:
    row = [case.name]
    for kind in DATA:
      own, plain = case.gaps[kind], main.gaps[kind]
      row.append(ratio(curves.least(own) - curves.least(plain)))
      row.append(ratio(own[:, -1] - plain[:, -1]))
    rows.append(row)
  header = [
    (f'{what}, {kind}', f'{what} gap at {KINDS[kind]}')
    for kind in DATA
    for what in ('least', 'last')
  ]
  return tables_lib.table(
    f'What settings change: gap over start, over that of {main.name}',
    [('setting', ''), *header],
    rows,
    spec='.2f',
  )


def course_table(case):
  """The main setting at every step: what a figure of it needs."""
  rows = [
    [
      int(step),
      *(ratio(case.beside[kind][:, place]) for kind in KINDS),
      mean(case.right[:, place]),
      mean(case.tested[:, place]),
    ]
    for place, step in enumerate(case.steps)
  ]
  return tables_lib.table(
    f'{COURSE}: gap over that of infinitely wide networks, {case.name}',
    [
      ('step', 'training steps taken'),
      *((kind, f'at {text}') for kind, text in KINDS.items()),
      ('train accuracy', 'on training images', '', '.1%'),
      ('test accuracy', 'on test images', '', '.1%'),
    ],
    rows,
    spec='.2f',
  )


def answer(config, case, judged):
  """One sentence, with the verdicts on the main setting."""
  of = [case.gaps[kind] for kind in ('train', 'permuted')]
  cell = lambda logs: tables_lib.cell(ratio(logs), '.2f')
  least = [cell(curves.least(gaps)) for gaps in of]
  last = [cell(gaps[:, -1]) for gaps in of]
  words = {}
  for claim in judged:
    words.setdefault(claim.verdict, []).append(claim.name.split(': ')[1])
  return (
    'The median distance from training images to the boundary first falls to '
    f'{least[0]} of what it is before training ({least[1]} where their pixels '
    f'are permuted), and ends at {last[0]} of it ({last[1]}), in '
    f'{len(case.right)} networks on {config.dataset}, {case.name}; '
    + '; '.join(f'{word}: {", ".join(names)}' for word, names in words.items())
    + '.'
  )


EXPERIMENT = runner.Experiment(
  'experiments.clinging_dimpling', __doc__, Config, PRESETS, COLUMNS,
  measure, analyze, figures.draw, load=load, check=check,
)  # fmt: skip
run = EXPERIMENT.run

if __name__ == '__main__':
  EXPERIMENT.main()
