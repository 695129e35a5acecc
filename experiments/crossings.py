"""Do boundaries lie half way between samples, the same way for all networks?

"Meet You Halfway" (BenShmuel 2022), https://arxiv.org/abs/2206.04463, claims
one cause for generalisation and for the transfer of adversarial examples. Only
its abstract could be had: these readings of it are ours, and no number or
theorem here is the paper's. R2 is in `experiments.influence`.

  python -m experiments.crossings
  python -m experiments.crossings --preset=mnist --data_dir=DIR
  python -m experiments.crossings --preset=cifar --data_dir=DIR
  python -m experiments.crossings --network=my.nets:a,my.nets:b,my.nets:c,... \
    --num_networks=4

The first takes 3 minutes of one core, mnist and cifar 20, --preset=quick 1. A
run that was killed goes on where it was.

On the segment between two samples of different class, t* is the part of the
way where the difference of their classes' logits first changes its sign, if
both ends are on their own sides. A network's deviation is the median of
|t* - 1/2| over segments; those without t* count as 1/2. The mean of t* is 1/2
by the symmetry of the draw, and says nothing. The concordance of two networks
is the correlation of their t* over the segments that both cross.

Networks of the first of --models are trained on right labels, on random labels
that each two networks share, and on disjoint halves, drawn anew for each two.
The unit is the pair of networks, 2i and 2i + 1 of each kind, for which segments
are drawn anew: Student's t, for correlations on Fisher's scale.

The null of deviations is that of random labels, and of the same networks when
90 % of the segments first had a t*; of the nearest samples', that of all; of
the nearer end's class, another network's; of concordance, that of right and
random labels of the same images, and of the same random labels. Nothing is
tested with networks that classify test images less than half way from a guess
to all correctly, nor held against random labels of which less than 0.9 were
learned. 0.1 and 0.7 came from digits, which are no test of them.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from dmm_jax import data
from dmm_jax import halfway
from dmm_jax import models
from dmm_jax import parallel
from dmm_jax import programs
from dmm_jax import records
from dmm_jax import statistics
from dmm_jax import train
from dmm_jax.train import populations
from experiments.figures import crossings as figures
from experiments.lib import claims
from experiments.lib import flags
from experiments.lib import own
from experiments.lib import runner
from experiments.lib import splits
from experiments.lib import tables

BAND, CONCORDANT = 0.1, 0.7
CROSSED = 0.9  # Share of the segments with t*, from which on it is compared.
KINDS = ('train', 'near', 'test')  # Of segments.
RIGHT, HALVES, RANDOM = 'right labels', 'halves', 'random labels'
SAME, OTHER = 'the same random labels', 'right and random labels'
PAIRS = 'pairs of networks'
SMALL = {'cnn': dict(channels=(16, 32), strides=(2, 2), pools=0, widths=())}


@dataclasses.dataclass(frozen=True)
class Config:
  preset: str = flags.preset()
  workdir: str = flags.workdir('runs/crossings')
  seed: int = flags.seed()
  dataset: str = flags.dataset()
  data_dir: str = flags.data_dir()
  num_classes: int = flags.num_classes()
  num_train: int = flags.num_train()
  models: tuple[str, ...] = flags.flag(
    ('mlp', 'cnn', 'linear'),
    'Architectures; the first one also has halves and random labels.',
    choices=('mlp', 'cnn', 'linear', 'deep_linear'),
  )
  network: str = own.beside_models()
  data: str = flags.flag('', own.DATA_HELP)
  num_networks: int = flags.flag(
    12, 'Number of networks of each kind; even.', least=4
  )
  num_steps: int = flags.num_steps(2000, least=10)
  optimizer: str = flags.flag(
    'momentum',
    'SGD with momentum 0.9, or Adam, which learns random labels sooner.',
    choices=('momentum', 'adam'),
  )
  learning_rate: float = flags.flag(0.05, 'Constant learning rate.', least=0)
  num_segments: int = flags.flag(
    500,
    'Segments of each kind, train, nearest and test, for a pair of networks.',
    least=30,
  )


PRESETS = {
  'quick': dict(
    num_train=500,
    models=('mlp', 'linear'),
    num_networks=8,
    num_steps=500,
    num_segments=300,
  ),
  'default': {},
  'mnist': dict(
    dataset='mnist',
    num_train=2000,
    num_segments=1000,
  ),
  'cifar': dict(
    dataset='cifar10',
    num_classes=2,
    num_train=1000,
    models=('mlp', 'cnn'),
    num_networks=8,
    num_steps=3500,
    optimizer='adam',
    learning_rate=1e-3,
    num_segments=200,
  ),
}
COLUMNS = {
  'pair': ('', 'number of the pair of networks, of every kind'),
  'kind': ('', 'ends: both of train or test; near: of train, nearest ones'),
  'rows': ('', 'of the two ends in their set'),
  'place': ('', 'a random part of the way, for between'),
  'model': ('', 'architecture'),
  'trained_on': ('', 'right labels, halves of them, or random labels'),
  'network': ('', 'number; 2i and 2i + 1 share random labels, or are halves'),
  'step': ('', 'steps of training'),
  'fitted': ('', 'share of its training labels that it gives'),
  'guess': ('', 'share of test images of the commonest class'),
  'accuracy': ('', 'share of test images classified correctly'),
  'crossed': ('', 'share of train segments with t*'),
  'deviation': ('', 'median of |t* - 1/2| of train segments'),
  'near': ('', 'median of |t* - 1/2| of near segments, at the end'),
  'nearer': ('', 'share of train places with the class of the nearer end'),
  'fraction': ('', 't* of the segments of its pair; NaN where there is none'),
  'between': ('', 'class at their places; -1, as NaN, where not measured'),
}


def check(config):
  """Raises FlagError for flags that do not go together."""
  if config.num_networks % 2:
    raise flags.FlagError(
      f'--num_networks={config.num_networks} is odd; networks come in pairs'
    )


def load(config):
  """Returns images and labels by split, and the user's networks."""
  sets, given = splits.load_with_networks(config)
  return sets | ({own.GIVEN: given} if given else {})


# --- Measuring -------------------------------------------------------------


def kinds_of(config):
  """Returns what networks share, by `(architecture, what they learn)`."""
  first, *others = own.architectures(config)
  condition = populations.Condition
  return {
    (first, RIGHT): populations.PLAIN,
    (first, RANDOM): condition(random_labels=True, group=2),
    (first, HALVES): condition(parts=2, group=2),
  } | {(model, RIGHT): populations.PLAIN for model in others}


def measure(config, inputs):
  """Yields the units: the segments, then the networks of each kind."""
  draw = functools.partial(draw_segments, config, inputs)
  segments = (yield runner.Unit('segments', draw, 'segments')).result()
  for number, kind in enumerate(kinds_of(config)):
    name = '-'.join(kind).replace(' ', '-')
    key = jax.random.fold_in(jax.random.key(config.seed + 1), number)
    rows = functools.partial(measure_kind, config, inputs, segments, kind, key)
    yield runner.Unit(name, rows)


def draw_segments(config, inputs):
  """Rows: the segments of each pair of networks, one each."""
  (xs, labels), num = inputs['train'], config.num_segments
  found = []
  for pair in range(config.num_networks // 2):
    key = jax.random.fold_in(jax.random.key(config.seed), pair)
    keys = jax.random.split(key, 4)
    start = np.asarray(jax.random.permutation(keys[1], len(xs)))[:num]
    end = halfway.nearest_opposite(xs, labels, start)
    rows = [
      halfway.opposite_pairs(keys[0], labels, num),
      np.stack([start, end], axis=1).astype(np.int32),
      halfway.opposite_pairs(keys[2], inputs['test'][1], num),
    ]
    kind = np.repeat(KINDS, [len(ends) for ends in rows])
    found.append(
      {
        'pair': np.full(len(kind), pair),
        'kind': kind,
        'rows': np.concatenate(rows),
        'place': np.asarray(jax.random.uniform(keys[3], kind.shape)),
      }
    )
  return records.concatenate(found)


def fit(config, inputs, kind, key):
  """Returns the networks of a kind: trained, or the user's."""
  xs, labels = inputs['train']
  model, trained_on = kind
  if model == own.GIVEN:
    num, last = config.num_networks, config.num_steps
    return own.population(inputs[own.GIVEN], xs, labels, num, last)
  module = models.CLASSIFIERS[model](
    num_classes=int(labels.max()) + 1, **SMALL.get(model, {})
  )
  followed = model == config.models[0] and trained_on != HALVES
  along = [step for step in train.log_spaced(config.num_steps) if step >= 10]
  return populations.fit(
    key,
    module,
    xs,
    labels,
    condition=kinds_of(config)[kind],
    num=config.num_networks,
    config=populations.constant_rate(config.learning_rate, config.optimizer),
    num_steps=config.num_steps,
    pause_steps=along if followed else (),
  )


def measure_kind(config, inputs, segments, kind, key):
  """Rows of the networks of a kind; of two kinds also along training."""
  model, trained_on = kind
  found = fit(config, inputs, kind, key)
  return records.stack(
    [
      {'model': model, 'trained_on': trained_on}
      | measure_network(inputs, segments, found, network, step)
      for step in found.steps.tolist()
      for network in range(config.num_networks)
    ]
  )


def measure_network(inputs, segments, found, network, step):
  """The row of a network at a step, without its kind."""
  given, seen = (column[network] for column in found.examples)
  mine = records.select(segments, pair=network // 2)
  kind, rows, place = (mine[name] for name in ('kind', 'rows', 'place'))
  num = np.sum(kind != 'test')  # Those of test come last.
  (xs, _), (images, truth) = inputs['train'], inputs['test']
  ends = np.concatenate([xs[rows[:num]], images[rows[num:]]])
  labels = np.concatenate([given[rows[:num]], truth[rows[num:]]])
  variables = found.network(network, step)
  of_train = kind == 'train'
  # Along training those of train alone.
  some = np.flatnonzero(of_train | (step == found.steps[-1]))
  fraction, between = np.full(len(kind), np.nan), np.full(len(kind), -1)
  fraction[some], between[some] = parallel.map_examples(
    programs.bind(measure_segment, forward=found.forward),
    (ends[some, 0], ends[some, 1], labels[some], place[some]),
    shared=variables,
    batch_size=100,
  )
  state = train.State(*variables, None)
  accuracy = functools.partial(train.accuracy, found.forward, state)
  far = np.nan_to_num(np.abs(fraction - 0.5), nan=0.5).astype(float)
  nearer = np.where(place < 0.5, labels[:, 0], labels[:, 1])
  return {
    'network': network,
    'step': step,
    'fitted': accuracy(xs[seen], given[seen]),
    'guess': data.commonest_share(truth),
    'accuracy': accuracy(images, truth),
    'crossed': np.mean(np.isfinite(fraction[of_train])),
    'deviation': np.median(far[of_train]),
    'near': np.median(far[kind == 'near']),
    'nearer': np.mean((between == nearer)[of_train]),
    'fraction': fraction.astype(np.float32),
    'between': between.astype(np.int16),
  }


def measure_segment(start, end, labels, place, params, stats, *, forward):
  """Returns t*, and the class at a place."""
  logits_fn = functools.partial(populations.logits, forward, (params, stats))
  found = halfway.crossings(logits_fn, start, end, *labels)
  between = jnp.argmax(logits_fn(start + place * (end - start)))
  fraction = jnp.where(found.parted, found.fraction, jnp.nan)
  return fraction, between


# --- Judging ---------------------------------------------------------------


def analyze(config, found):
  """Where boundaries cross, which networks agree, and what the claims say."""
  last = records.select(found['results'], step=config.num_steps)
  kinds = {
    kind: records.select(last, model=kind[0], trained_on=kind[1])
    for kind in kinds_of(config)
  }
  of_segments = records.select(found['segments'], pair=0)['kind']
  between = concordances(config, of_segments, kinds)
  early = first_crossings(config, found['results'])
  judged = judge(config, of_segments, kinds, between, early)
  shown = [crossing_table(config, kinds, early), concordance_table(between)]
  return runner.Report(answer(config, kinds, between, judged), judged, shown)


def first_crossings(config, results):
  """Deviations of networks when most segments had t*, or at the end `[m]`."""
  rows = records.select(results, model=config.models[0], trained_on=RIGHT)
  rows = records.by_unit(rows, unit='step')
  enough = rows['crossed'] >= CROSSED
  enough[-1] = True
  networks = np.arange(config.num_networks)
  return rows['deviation'][enough.argmax(0), networks]


def in_pairs(values):
  """Returns the mean over each pair of networks."""
  return values.reshape(-1, 2).mean(1)


def estimate(values):
  """Estimates the mean of a column of networks; the unit is the pair."""
  return statistics.t_mean(in_pairs(values), unit=PAIRS)


def concordances(config, of_segments, kinds):
  """Returns `(segments, estimate)` by what is held against each other."""
  first, *others = own.architectures(config)

  def between(kind, a, b):
    """Of successive networks `a` and `b`, which share their segments."""
    at = of_segments == kind
    each = [
      halfway.concordance(np.stack([u[at], v[at]]))[0, 1]
      for u, v in zip(a, b, strict=True)
    ]
    if len(each) == config.num_networks:
      each = in_pairs(np.array(each))
    found = statistics.t_mean(np.arctanh(each), unit=PAIRS)
    return kind, statistics.transform(found, np.tanh)

  of = {name: rows['fraction'] for name, rows in kinds.items()}
  right, random, halves = (of[first, v] for v in (RIGHT, RANDOM, HALVES))
  found = {f'{first} and {first}': between('test', right[::2], right[1::2])}
  for model in others:
    name = f'{first} and {model}'
    found[name] = between('test', right, of[model, RIGHT])
  return found | {
    HALVES: between('test', halves[::2], halves[1::2]),
    SAME: between('train', random[::2], random[1::2]),
    OTHER: between('train', right, random),
  }


STATEMENTS = {
  'R1, weak': 'Boundaries between training samples are nearer to the middle '
  'than with random labels, and come nearer in training.',
  'R1, middle': f'Most boundaries lie within {BAND} of the middle between two '
  'training samples.',
  'R1, nearest': 'Boundaries lie no farther from the middle between nearest '
  'samples of different class.',
  'R1, neighbour': 'The boundary is that of the nearest sample.',
  'R3, weak': 'Independent networks cross at one place, which the inputs alone '
  'do not give them.',
  'R3, strong': 'Independent networks cross at places that are correlated '
  f'above {CONCORDANT}.',
  'R4, weak': 'Networks on disjoint halves cross at one place, which the '
  'inputs alone do not give them.',
  'R4, labels': 'Networks on disjoint halves cross at one place more than '
  'those with the same images and random labels.',
  'R4, strong': 'Networks on disjoint halves cross at places that are '
  f'correlated above {CONCORDANT}.',
}


def judge(config, of_segments, kinds, between, early):
  """The claims of the module's docstring."""
  above, below = claims.above, claims.below
  first, *others = own.architectures(config)
  right, random = kinds[first, RIGHT], kinds[first, RANDOM]
  near, deviation = right['near'], right['deviation']
  chance = estimate(deviation - random['deviation'])
  a, b = (right['between'][i::2, of_segments == 'train'] for i in (0, 1))
  agree = np.mean(a == b, axis=1)
  nearer = statistics.t_mean(in_pairs(right['nearer']) - agree, unit=PAIRS)
  value = {name: found for name, (_, found) in between.items()}
  meet = lambda null: [
    above(f'concordance with {v}', value[f'{first} and {v}'], null)
    for v in others
  ]
  halves = lambda null: [above('concordance', value[HALVES], null)]
  poor = why_not_tested(kinds, (first, RIGHT))
  no_null = poor or claims.why_no_null(random['fitted'].mean())
  apart = poor or why_not_tested(kinds, *((v, RIGHT) for v in others))
  half = poor or why_not_tested(kinds, (first, HALVES))
  weak = [
    below('deviation less that of random labels,', chance, 0),
    below('deviation, late less early,', estimate(deviation - early), 0),
  ]
  nearest = below('deviation, nearest less all,', estimate(near - deviation), 0)
  found = [
    (weak, no_null),
    ([below('deviation', estimate(deviation), BAND)], poor),
    ([nearest], poor),
    ([above('nearer end less network', nearer, 0)], poor),
    (meet(value[OTHER]), apart or no_null),
    (meet(CONCORDANT), apart),
    (halves(value[OTHER]), half or no_null),
    (halves(value[SAME]), half or no_null),
    (halves(CONCORDANT), half),
  ]
  return [
    claims.Claim('2206.04463', name, f'{text} (Our reading.)', tuple(c), why)
    for (name, text), (c, why) in zip(STATEMENTS.items(), found, strict=True)
  ]


def why_not_tested(kinds, *names):
  """Why networks say nothing of the claims, or ''."""
  reasons = []
  for model, trained_on in names:
    rows = kinds[model, trained_on]
    right, guess = (rows[v].mean() for v in ('accuracy', 'guess'))
    whose = f'{model} networks on {trained_on}'
    reasons.append(claims.why_untrained(right, guess, whose=whose))
  return next(filter(None, reasons), '')


def answer(config, kinds, between, judged):
  """One sentence."""
  first = config.models[0]
  deviation = estimate(kinds[first, RIGHT]['deviation'])
  random = kinds[first, RANDOM]['deviation'].mean()
  return (
    f'Boundaries of {first} networks cross {tables.cell(deviation, ".3f")} of '
    'the way from the middle between two training samples of '
    f'{own.source(config)} (median), {random:.3f} with random '
    'labels; between test images, networks on disjoint halves cross at places '
    'that are correlated '
    f'by {tables.cell(between[HALVES][1], ".2f")} ({config.num_networks} '
    f'networks of each kind); {claims.tally(judged)}.'
  )


def crossing_table(config, kinds, early):
  """One row a kind of networks, and one when most segments had t*."""
  rows = []
  for name, of in kinds.items():
    right = None if name[1] == RANDOM else of['accuracy'].mean()
    far = estimate(of['deviation']), estimate(of['near'])
    rows.append([*name, right, of['fitted'].mean(), *far, of['nearer'].mean()])
  start = [config.models[0], 'right, at first', None, None, estimate(early)]
  rows.insert(1, [*start, None, None])
  columns = [
    ('model', ''),
    ('trained on', f'at first: when {CROSSED:.0%} had t*'),
    ('correct', 'share of test images', '', '.1%'),
    ('fitted', 'share of its training labels', '', '.1%'),
    ('deviation', 'median |t* - 1/2| of train segments', '', '.3f'),
    ('nearest', 'the same between nearest samples', '', '.3f'),
    ('nearer', 'places with the class of the nearer end', '', '.1%'),
  ]
  return tables.table('Where boundaries cross', columns, rows)


def concordance_table(between):
  """One row a pair of kinds."""
  columns = [
    ('networks', ''),
    ('segments', 'between images of this set'),
    ('concordance', 'correlation of t*', '', '.3f'),
  ]
  rows = [[name, *found] for name, found in between.items()]
  return tables.table('Do networks cross at one place?', columns, rows)


EXPERIMENT = runner.Experiment(
  'experiments.crossings', __doc__, Config, PRESETS, COLUMNS,
  measure, analyze, figures.draw, load=load, check=check,
)  # fmt: skip
run = EXPERIMENT.run

if __name__ == '__main__':
  EXPERIMENT.main()
