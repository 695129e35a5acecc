"""Do smaller weights at the start move the boundary away from the data's space?

Melamed, Yehudai, Vardi (2023), https://arxiv.org/abs/2303.00783: data in a
subspace never change what a first layer does outside of it, so that "decreasing
the initialization scale of the training algorithm [...] can make the trained
network more robust to adversarial perturbations orthogonal to the data". The
dimpled manifold model, https://arxiv.org/abs/2106.10151, says that these are
small, and those on the manifold of the data large.

  python -m experiments.initial_scale
  python -m experiments.initial_scale --preset=mnist --data_dir=DIR
  python -m experiments.initial_scale --weight_decay=0.01 --workdir=runs/decay

The first takes 5 minutes on 2 CPU cores, --preset=quick 1, mnist 3. A run that
was killed goes on where it was.

Networks without biases are trained by gradient descent from first layers that
are divided by each of --factors, which before training changes no distance:

  sphere  points on a sphere of a random subspace of --k dimensions, random
          labels; trained until all are right, and measured at the first
  images  of which the subspace is that of --k principal directions; trained
          until --accuracy of 1000 test images are right, measured at these

The l2 distance to the boundary is measured without restriction (whole), within
the subspace (on), orthogonal to it (off) and to a random one as large (off
random: the null). A network's distance is the mean over its examples, of which
a misclassified one counts as 0, as in the author's means. The unit is the
network: weights, order, random subspace and, on the sphere, data are its own.
`judge` has the claims and what refutes them. None is tested where a network did
not get to its accuracy, or more than 5 % of the searches failed.

`THEIRS` are means over 5 networks that Melamed left in code of 2023-24 without
the settings: the factors, and of mnist that training ended at 87 % and pixels
were in [0, 1], are inferred. --num_points was chosen so that the level at
factor 1 comes near: what is tested on the sphere is the rest of the table.
"""

import dataclasses
import functools
from typing import NamedTuple

import jax
import numpy as np
from scipy import stats

from dmm_jax import boundary
from dmm_jax import data
from dmm_jax import manifold
from dmm_jax import programs
from dmm_jax import records
from dmm_jax import statistics
from dmm_jax import synthetic
from dmm_jax import train
from dmm_jax.models import homogeneous
from experiments.figures import initial_scale as figures
from experiments.lib import claims
from experiments.lib import flags
from experiments.lib import runner
from experiments.lib import tables

PAPER, FOLLOW_UP = '2106.10151', '2303.00783'
SIDES = {
  'whole': None,
  'on': manifold.on,
  'off': manifold.off,
  'off random': manifold.off,
}
TOLERANCE = 0.1  # Of slopes, and of ratios to the author's means.
MOST_LOST = 0.05  # Share of a factor's searches, where a claim is tested.
MOST_DRIFT = 1e-4  # Of a weight, by rounding.
CHECK = 10  # Steps between tests whether training has ended.
NUM_CHECKED = 1000  # Test images of these.
# Mean and standard deviation over 5 networks, by factor, of these.
THEIR_SIDES = 'whole', 'on', 'off'
THEIR_SETTING = dict(k=32, dim=784, radius=28.0, widths='784,784')
THEIR_NETWORKS = 5
THEIRS = {
  'sphere': {
    0.5: ((1.651, 0.035), (5.166, 0.152), (1.730, 0.040)),
    1.0: ((2.320, 0.026), (4.750, 0.130), (2.622, 0.050)),
    3.0: ((3.849, 0.072), (4.489, 0.129), (7.289, 0.230)),
    5.0: ((4.188, 0.122), (4.434, 0.137), (12.334, 0.267)),
    7.0: ((4.266, 0.108), (4.389, 0.120), (17.452, 0.309)),
  },
  'mnist': {
    0.2: ((0.740, 0.015), (1.406, 0.028), (0.881, 0.018)),
    0.5: ((0.967, 0.030), (1.359, 0.040), (1.417, 0.046)),
    1.0: ((1.080, 0.021), (1.254, 0.024), (2.328, 0.056)),
    3.0: ((1.111, 0.041), (1.177, 0.041), (5.127, 0.212)),
    5.0: ((1.157, 0.084), (1.216, 0.088), (6.763, 0.580)),
    7.0: ((1.194, 0.056), (1.252, 0.059), (7.733, 0.420)),
  },
}

STATEMENTS = {
  'farther off the subspace': 'Decreasing the initialization scale of the '
  'training algorithm can make the trained network more robust to adversarial '
  'perturbations orthogonal to the data',
  'in proportion': 'Distances orthogonal to the data grow in proportion to the '
  'factor, where it is large (follows from its theory)',
  'unchanged on the subspace': 'Distances within the subspace of the data do '
  'not depend on the factor (ours, the control)',
  'frozen weights': 'Training does not change the first layer outside of the '
  'subspace, but for weight decay (follows from its theory)',
}
OF_DIMPLES = {
  'on farther than off': 'On-manifold and off-manifold adversarial '
  'perturbations have very different properties: those on it need larger norms',
  'beyond a random subspace': 'They need larger ones by more than for a random '
  'subspace of as many dimensions (the strong form, ours)',
} | {
  f"as the author's, {side}": f'Mean distances, {side}, are those that the '
  "model's author found"
  for side in THEIR_SIDES
}


@dataclasses.dataclass(frozen=True)
class Config:
  preset: str = flags.preset()
  workdir: str = flags.workdir('runs/initial_scale')
  seed: int = flags.seed()
  datasets: tuple[str, ...] = flags.flag(
    ('sphere',),
    'Data: sphere, digits (embedded), or image sets of tensorflow-datasets.',
  )
  data_dir: str = flags.data_dir()
  num_points: int = flags.flag(375, 'Points on the sphere.', least=2)
  num_train: int = flags.num_train()
  num_examples: int = flags.flag(50, 'Examples to measure, at most.', least=1)
  k: int = flags.flag(32, 'Dimensions of the subspace.', least=1)
  dim: int = flags.flag(784, 'Dimensions around the sphere.', least=2)
  radius: float = flags.flag(28.0, 'Radius of the sphere.', least=0)
  widths: str = flags.flag(
    '784,784', 'Units of the hidden layers; empty for none.', numbers=1
  )
  factors: tuple[float, ...] = flags.flag(
    (0.5, 1.0, 3.0, 5.0, 7.0),
    'Numbers above 0 that the first layer is divided by.',
    least=0,
  )
  num_seeds: int = flags.flag(5, 'Networks of each factor.', least=2)
  learning_rate: float = flags.flag(0.03, 'Rate of gradient descent.', least=0)
  batch_size: int = flags.flag(2000, 'Examples in a step, at most.', least=1)
  weight_decay: float = flags.flag(0.0, 'Decay, added to gradients.', least=0)
  accuracy: float = flags.flag(
    0.87, 'Share of test images at which training ends.', least=0, most=1
  )
  max_steps: int = flags.flag(4000, 'Most steps of training.', least=1)
  method: str = flags.method('fast')
  max_gradients: int = flags.max_gradients(40)


PRESETS = {
  'quick': dict(
    datasets=('sphere', 'digits'),
    dim=200,
    k=16,
    num_points=200,
    widths='200,200',
    factors=(1.0, 3.0, 7.0),
    batch_size=200,
  ),
  'default': {},
  'mnist': dict(
    datasets=('mnist',),
    factors=(0.2, 0.5, 1.0, 3.0, 5.0, 7.0),
    num_examples=100,
    batch_size=200,
  ),
  'full': dict(
    num_points=100000,
    num_examples=200,
    learning_rate=1e-4,
    max_steps=300000,
    method='portfolio',
    max_gradients=200,
  ),
}
COLUMNS = {
  'data': ('', 'sphere, or the set of images'),
  'factor': ('', 'the first layer was divided by it before training'),
  'network': ('', 'number of the network among those of its factor'),
  'index': ('', 'number of the example'),
  'dimensions': ('', 'numbers of an example'),
  'steps': ('', 'steps of training'),
  'right': ('', 'share at the end of training of what it ends at'),
  'drift': (
    '',
    'largest change of an off-subspace weight, beyond that of weight decay, '
    'over the largest such weight; NaN of images',
  ),
} | {
  f'{side}{what}': of
  for side in SIDES
  for what, of in (
    ('', ('input units', f'distance, {side}; 0 misclassified, inf not found')),
    (' status', ('', f'how that search ended, a boundary.Status: {side}')),
  )
}


def check(config):
  """Raises FlagError for flags that do not go together."""
  flags.check_method(config.method)
  if min(config.factors) == 0:
    raise flags.FlagError('--factors have to be above 0')
  sphere = config.num_points, config.dim
  if 'sphere' in config.datasets and config.k >= min(sphere):
    raise flags.FlagError(too_many(config.k, 'sphere', *sphere))


# --- Data and networks -----------------------------------------------------


class Data(NamedTuple):
  """Data of one network."""

  xs: np.ndarray  # To train on `[n, d]`.
  labels: np.ndarray
  points: np.ndarray  # When these are right training ends; the first of them
  point_labels: np.ndarray  # are measured.
  accuracy: float  # The share of them at which it ends.
  basis: np.ndarray  # Of their subspace `[k, d]`.
  within: bool  # Whether the examples lie in it.


def load(config):
  """Returns `Data` by name; None of the sphere, drawn for each network."""
  return {name: load_one(config, name) for name in config.datasets}


def load_one(config, name):
  if name == 'sphere':
    return None
  first = {'train': config.num_train or None, 'test': NUM_CHECKED}
  columns = []
  for split, num in first.items():
    xs, labels = data.load(name, split, config.data_dir or None)
    columns += [xs[:num].reshape(len(xs[:num]), -1), labels[:num]]
  if config.k >= min(columns[0].shape):
    raise flags.FlagError(too_many(config.k, name, *columns[0].shape))
  basis = manifold.principal_basis(columns[0], config.k)
  return Data(*columns, config.accuracy, basis, False)


def too_many(k, name, num, size):
  return (
    f'--k={k} has to be less than the {num} examples to train on, and than the '
    f'{size} numbers of each ({name})'
  )


def draw_sphere(config, key):
  made = synthetic.sphere(
    key,
    num=config.num_points,
    k=config.k,
    dim=config.dim,
    radius=config.radius,
    num_tangents=1,
  )
  pair = made.xs, made.labels
  return Data(
    *pair, *pair, 1.0, manifold.principal_basis(made.xs, config.k), True
  )


def start(key, sizes, factor):
  """Weights of a network, the first layer divided."""
  first, *rest = homogeneous.draw(key, sizes)
  return [first / factor, *rest]


def fit(config, key, of, factor):
  """Trains a network on `Data`.

  Returns:
    `(weights before, after, steps, share of its points that are right)`.
  """
  outputs = int(of.labels.max()) + 1
  hidden = flags.as_numbers('widths', config.widths)
  sizes = [of.xs.shape[1], *hidden, 1 if outputs == 2 else outputs]
  weights, order = jax.random.split(key)
  before = start(weights, sizes, factor)
  size = min(config.batch_size, len(of.xs))
  plan = train.TrainConfig(
    optimizer='sgd',
    schedule='constant',
    learning_rate=config.learning_rate,
    weight_decay=config.weight_decay,
    batch_size=size,
    num_epochs=-(-config.max_steps // (len(of.xs) // size)),
  )
  forward = programs.bind(homogeneous.forward)
  inner = train.make_optimizer(plan, len(of.xs)).init(before)
  for pause in train.fit(
    order,
    forward,
    train.State(before, {}, inner),
    of.xs,
    of.labels,
    config=plan,
    pause_steps=(*range(CHECK, config.max_steps, CHECK), config.max_steps),
    each_epoch=False,
  ):
    right = train.accuracy(
      forward, pause.state, of.points, of.point_labels, batch_size=NUM_CHECKED
    )
    if right >= of.accuracy or pause.step >= config.max_steps:
      break
  return before, pause.state.params, pause.step, right


def drift(config, before, after, basis, steps):
  """How far off-subspace weights are from what they should be, at most."""
  kept = (1 - config.learning_rate * config.weight_decay) ** steps
  first, last = (
    w - w @ basis.T @ basis for w in (np.asarray(v[0]) for v in (before, after))
  )
  return np.abs(last - kept * first).max() / np.abs(first).max()


# --- Measuring -------------------------------------------------------------


def measure(config, inputs):
  """Yields the units, network by network: one row an example."""
  for name, of in inputs.items():
    for factor in config.factors:
      for number in range(config.num_seeds):
        rows = functools.partial(
          measure_network, config, name, of, factor, number
        )
        yield runner.Unit(f'{name}-factor{factor:g}-{number:02d}', rows)


def measure_network(config, name, of, factor, number):
  """Rows of one network: one an example."""
  # Networks of one number differ in the factor alone.
  key = jax.random.fold_in(jax.random.key(config.seed), number)
  points, weights, subspace = jax.random.split(key, 3)
  of = of or draw_sphere(config, points)
  before, after, steps, right = fit(config, weights, of, factor)
  after = jax.device_get(after)
  null = np.asarray(manifold.random_basis(subspace, *of.basis.shape))
  num = min(config.num_examples, len(of.points))
  moved = drift(config, before, after, of.basis, steps) if of.within else np.nan
  found = measure_sides(
    config, after, of.points[:num], of.point_labels[:num], of.basis, null
  )
  return records.broadcast(
    (num,),
    data=name,
    factor=factor,
    network=np.int32(number),
    index=np.arange(num, dtype=np.int32),
    dimensions=np.int32(of.xs.shape[1]),
    steps=np.int32(steps),
    right=right,
    drift=moved,
    **found,
  )


def measure_sides(config, weights, xs, labels, basis, null):
  """Columns: distances of examples, and how their searches ended."""
  columns = {}
  for side, project in SIDES.items():
    given = null if side == 'off random' else basis
    found = boundary.measure(
      homogeneous.logits,
      xs,
      labels,
      params=weights,
      project=project and functools.partial(project, basis=given),
      method=config.method,
      max_gradients=config.max_gradients,
    )
    columns |= {side: found.distance, f'{side} status': found.status}
  return columns


# --- Judging ---------------------------------------------------------------


class Found(NamedTuple):
  """What was found on one set of data, network by network.

  Attributes:
    config: flags.
    name: of the data.
    size: numbers of an example.
    factors: `[f]`, rising.
    means: mean distances of each side `[networks, f]`.
    lost: share of searches that found nothing, by side `[f]`.
    wrong: share of misclassified examples `[f]`.
    steps, right, drift: of each network `[networks, f]`.
  """

  config: Config
  name: str
  size: int
  factors: np.ndarray
  means: dict
  lost: dict
  wrong: np.ndarray
  steps: np.ndarray
  right: np.ndarray
  drift: np.ndarray

  def distance(self, side: str, place: int) -> statistics.Estimate:
    return statistics.t_mean(self.means[side][:, place], unit='networks')

  def slopes(self, side: str, first: int = 0) -> np.ndarray:
    """Slopes of log distance against log factor `[networks]`."""
    of = statistics.log_slope(self.factors[first:])
    return of(self.means[side][:, first:])

  def slope(self, side: str, first: int = 0) -> statistics.Estimate:
    return statistics.t_mean(self.slopes(side, first), unit='networks')

  def on_over_off(self, place: int) -> statistics.Estimate:
    with np.errstate(divide='ignore', invalid='ignore'):
      ratio = self.means['on'][:, place] / self.means['off'][:, place]
    return statistics.geometric_mean(ratio, unit='networks')


def collect(config, results, name):
  """Returns `Found` of one set of data."""
  rows = records.select(results, data=name)
  factors = np.unique(rows['factor'])
  shape = len(factors), config.num_seeds, -1
  order = np.lexsort((rows['index'], rows['network'], rows['factor']))
  column = lambda c: rows[c][order].reshape(shape)
  far = {side: column(side) for side in SIDES}
  return Found(
    config,
    name,
    int(rows['dimensions'][0]),
    factors,
    {side: mean_found(v).T for side, v in far.items()},
    {side: np.isinf(v).mean((1, 2)) for side, v in far.items()},
    (far['whole'] == 0).mean((1, 2)),
    *(column(c)[:, :, 0].T for c in ('steps', 'right', 'drift')),
  )


def mean_found(distances):
  """Returns the mean over the last axis of what was found; NaN of nothing."""
  found = np.isfinite(distances)
  with np.errstate(invalid='ignore'):
    return np.sum(np.where(found, distances, 0), -1) / found.sum(-1)


def analyze(config, found):
  """Slopes, distances beside the author's, and what they say of the claims."""
  every = [collect(config, found['results'], name) for name in config.datasets]
  judged = [claim for of in every for claim in judge(of)]
  shown = [distance_table(every), slope_table(every)]
  beside = author_rows(every)
  shown += [author_table(beside)] if beside else []
  return runner.Report(answer(every[0], judged), judged, shown)


def judge(of):
  """The claims on one set of data."""
  trouble = why_not_tested(of)
  few = trouble or ('' if len(of.factors) > 1 else 'one factor has no slope')
  large = larger_half(of.factors)
  few_large = '' if large < len(of.factors) - 1 else 'one factor is large'
  inexact = np.isnan(of.drift).any()
  gap = statistics.paired_difference(
    of.slopes('off'), of.slopes('off random'), unit='networks'
  )
  at_one = np.flatnonzero(of.factors == 1)
  no_one = '' if len(at_one) else 'factor 1 was not measured'
  # What a flat boundary has at a random subspace.
  null = float(np.sqrt((of.size - of.config.k) / of.config.k))
  above = lambda least: [
    claims.above('on-distance over off-distance', of.on_over_off(place), least)
    for place in at_one
  ]
  made = {
    'farther off the subspace': (
      [
        claims.above('slope of off-distances', of.slope('off'), 0.0),
        claims.above('less that off a random subspace', gap, 0.0),
      ],
      few,
    ),
    'in proportion': (
      [claims.within('slope', of.slope('off', large), 1.0, TOLERANCE)],
      few or few_large,
    ),
    'unchanged on the subspace': (
      [claims.within('slope', of.slope('on'), 0.0, TOLERANCE)],
      few,
    ),
    'frozen weights': (
      [frozen(of)],
      'the images lie in no subspace exactly' if inexact else '',
    ),
    'on farther than off': (above(1.0), trouble or no_one),
    'beyond a random subspace': (above(null), trouble or no_one),
  } | as_the_authors(of, trouble)
  judged = []
  for name, (conditions, why) in made.items():
    paper = PAPER if name in OF_DIMPLES else FOLLOW_UP
    said = f'{(STATEMENTS | OF_DIMPLES)[name]} ({of.name}).'
    name = f'{of.name}: {name}'
    judged.append(claims.Claim(paper, name, said, tuple(conditions), why))
  return judged


def as_the_authors(of, trouble):
  """Conditions that distances agree with the author's, and why not tested.

  By claim; none of other data.
  """
  if of.name not in THEIRS:
    return {}
  why = other_setting(of)
  found = {side: [] for side in THEIR_SIDES}
  for side, factor, _, _, ratio in [] if why else compared(of):
    what = f'ratio at factor {factor:g}'
    found[side].append(claims.within(what, ratio, 1.0, TOLERANCE))
  return {
    f"as the author's, {side}": (conditions, why or trouble)
    for side, conditions in found.items()
  }


def other_setting(of):
  """Why the author has no numbers to compare with, or ''."""
  for name, value in THEIR_SETTING.items():
    given = getattr(of.config, name)
    if given != value and (of.name == 'sphere' or name in ('k', 'widths')):
      return f'the author has numbers at {name} {value}, not {given}'
  if not set(of.factors) & set(THEIRS[of.name]):
    return 'the author has no numbers at these factors'
  return ''


def compared(of):
  """Yields `(side, factor, ours, theirs, ratio)`, of each that there is."""
  for number, side in enumerate(THEIR_SIDES):
    for place, factor in enumerate(of.factors.tolist()):
      if factor in THEIRS[of.name]:
        theirs = their_mean(*THEIRS[of.name][factor][number])
        ours = of.distance(side, place)
        yield side, factor, ours, theirs, statistics.ratio(ours, theirs)


def their_mean(mean, deviation):
  """The author's mean, with Student's interval over networks."""
  num = THEIR_NETWORKS
  half = stats.t.ppf(0.975, num - 1) * deviation / np.sqrt(num)
  return statistics.Estimate(mean, mean - half, mean + half, num, 'networks')


def larger_half(factors):
  """Returns the place of the first factor that is not below their median."""
  return int(np.searchsorted(factors, np.median(factors)))


def frozen(of):
  largest = float(of.drift.max())
  text = f'largest change {largest:.1e} of a weight, at most {MOST_DRIFT:.0e}'
  kept = largest <= MOST_DRIFT
  return claims.Condition(text, kept, float(not kept))


def why_not_tested(of):
  """Why the distances say nothing of the claims, or ''."""
  target = 1.0 if of.name == 'sphere' else of.config.accuracy
  short = of.right < target
  if short.any():
    return (
      f'{short.sum()} of {short.size} networks did not get '
      f'{target:.0%} right in {of.config.max_steps} steps'
    )
  for side, lost in of.lost.items():
    if lost.max() > MOST_LOST:
      return (
        f'{lost.max():.0%} of the searches found no boundary ({side}, factor '
        f'{of.factors[lost.argmax()]:g})'
      )
  return ''


def answer(of, judged):
  """One sentence."""
  count = claims.tally(judged)
  where = f'{of.name}, {of.config.num_seeds} networks of each factor'
  if len(of.factors) < 2:
    return f'One factor has no slope ({where}); {count}.'
  least, most = of.factors[[0, -1]]
  power = {side: tables.cell(of.slope(side), '.2f') for side in SIDES}
  return (
    f'As the first layer starts {most / least:.3g} times as small, distances '
    f'from the boundary orthogonal to the data grow as the factor to the power '
    f'{power["off"]}, beside {power["off random"]} orthogonal to a random '
    f"subspace and {power['on']} within the data's ({where}); {count}."
  )


# --- Tables ----------------------------------------------------------------


def distance_table(every):
  rows = []
  for of in every:
    for place, factor in enumerate(of.factors.tolist()):
      at = {side: means[:, place] for side, means in of.means.items()}
      flat = manifold.unconstrained(at['on'], at['off']) / at['whole']
      lost = max(lost[place] for lost in of.lost.values())
      rows.append(
        [
          of.name,
          factor,
          *(of.distance(side, place) for side in SIDES),
          of.on_over_off(place),
          statistics.geometric_mean(flat, unit='networks'),
          float(of.steps[:, place].mean()),
          float(of.wrong[place]),
          float(lost),
        ]
      )
  return tables.table(
    'Mean l2 distances to the boundary',
    [
      ('data', ''),
      ('factor', 'that the first layer was divided by', '', 'g'),
      ('whole', 'without restriction', 'input units'),
      ('on', "within the data's subspace", 'input units'),
      ('off', 'orthogonal to it', 'input units'),
      ('off random', 'orthogonal to a random one', 'input units'),
      ('on/off', 'geometric mean over networks', '', '.2f'),
      ('flat', 'what a flat boundary makes of on and off, / whole'),
      ('steps', 'of training, mean', '', '.0f'),
      ('wrong', 'share of misclassified examples', '', '.1%'),
      ('lost', 'largest share of searches without result', '', '.1%'),
    ],
    rows,
  )


def slope_table(every):
  rows = []
  for of in every:
    large, last = larger_half(of.factors), len(of.factors) - 1
    for side in SIDES:
      found = [
        of.slope(side, first) if first < last else None for first in (0, large)
      ]
      rows.append([of.name, side, *found, f'{of.factors[large]:g}'])
  return tables.table(
    'Slopes of log distance against log factor',
    [
      ('data', ''),
      ('distance', ''),
      ('all', 'over all factors'),
      ('large', 'over the larger half of the factors'),
      ('from', 'the least of these'),
    ],
    rows,
    spec='.3f',
  )


def author_rows(every):
  return [
    [of.name, *row, claims.within('', row[-1], 1.0, TOLERANCE).holds]
    for of in every
    if of.name in THEIRS and not other_setting(of)
    for row in compared(of)
  ]


def author_table(rows):
  return tables.table(
    "Distances beside the author's",
    [
      ('data', ''),
      ('distance', ''),
      ('factor', 'that the first layer was divided by', '', 'g'),
      ('ours', 'mean', 'input units'),
      ('theirs', 'mean', 'input units'),
      ('ratio', 'ours over theirs', '', '.2f'),
      ('agrees', f'within {TOLERANCE:.0%} of 1; - is undecided'),
    ],
    rows,
  )


EXPERIMENT = runner.Experiment(
  'experiments.initial_scale', __doc__, Config, PRESETS, COLUMNS,
  measure, analyze, figures.draw, load=load, check=check,
)  # fmt: skip
run = EXPERIMENT.run

if __name__ == '__main__':
  EXPERIMENT.main()
