"""Does a gradient step at one sample carry unseen samples of its class along?

"Meet You Halfway" (BenShmuel 2022), https://arxiv.org/abs/2206.04463, claims
one cause for generalisation and for the transfer of adversarial examples. Only
its abstract could be had: this reading of it, R2, is ours, and no number or
theorem here is the paper's. R1, R3 and R4 are in `experiments.crossings`.

  python -m experiments.influence
  python -m experiments.influence --preset=mnist --data_dir=DIR
  python -m experiments.influence --preset=cifar --data_dir=DIR

The first takes 2 minutes of one core, mnist and cifar 10, --preset=quick 1. A
run that was killed goes on where it was.

A gradient step at a training sample, the source, moves the logit of its class
there and everywhere. The meeting ratio of another image is the change there
over that at the source. A source leads if the median ratio of test images of
its class is above that of test images of other classes; the difference of the
two medians is its gap. A network has the share of its sources that lead, and
their median gap: means of ratios have heavy tails.

Networks are trained on right labels, and on random labels of their own, for
which training images that are no sources stand in for test images. Influence
that is added up over the first --influence_steps steps, to first order in the
learning rate, says what the samples of each class did to the logits of unseen
images. The unit is the network, for which images are drawn anew: Student's t,
for shares on the logit scale and for ratios on the logarithmic one.

The null of sources that lead is 1/2, that of classes which do not matter; of
the gap of an untrained network, that of the inputs' inner products, which are
the influence in a linear network; of the gap at the end, those before training
and with random labels. The claims about training are not tested with networks
that classify test images less than half way from a guess to all correctly, with
random labels of which less than 0.9 were learned, or where added-up influence
explains less than 0.9 of the change of the logits. 0.9 came from digits, which
are no test of it.
"""

import dataclasses
import functools

import jax
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
from experiments.figures import influence as figures
from experiments.lib import claims
from experiments.lib import flags
from experiments.lib import runner
from experiments.lib import splits
from experiments.lib import tables

MOST = 0.9  # Of the samples, in the strong claim.
EXPLAINED = 0.9  # Of the logits' change, by added-up influence.
RIGHT, RANDOM = 'right labels', 'random labels'
CONDITIONS = {
  RIGHT: populations.PLAIN,
  RANDOM: populations.Condition(random_labels=True),
}
BATCH, MOMENTUM = 64, 0.9  # Of training.


@dataclasses.dataclass(frozen=True)
class Config:
  preset: str = flags.preset()
  workdir: str = flags.workdir('runs/influence')
  seed: int = flags.seed()
  dataset: str = flags.dataset()
  data_dir: str = flags.data_dir()
  num_classes: int = flags.num_classes()
  num_train: int = flags.num_train()
  model: str = flags.flag(
    'mlp', 'Architecture of all networks.', choices=('mlp', 'deep_linear')
  )
  num_networks: int = flags.flag(
    12, 'Number of networks on right and on random labels.', least=3
  )
  num_steps: int = flags.num_steps(2000, least=10)
  learning_rate: float = flags.learning_rate(0.05)
  num_sources: int = flags.flag(
    100,
    'Training images that a step is made at, drawn for each network.',
    least=10,
  )
  num_others: int = flags.flag(
    200, 'Images that are carried along, drawn likewise.', least=20
  )
  influence_steps: int = flags.flag(
    100, 'Steps of training whose influence is added up.', least=1
  )


PRESETS = {
  'quick': dict(
    num_train=500,
    num_networks=8,
    num_steps=500,
    num_sources=40,
    num_others=100,
    influence_steps=40,
  ),
  'default': {},
  'mnist': dict(
    dataset='mnist',
    num_train=2000,
    influence_steps=50,
  ),
  'cifar': dict(
    dataset='cifar10',
    num_classes=2,
    num_train=2000,
    learning_rate=0.01,
    num_sources=50,
    num_others=100,
    influence_steps=50,
  ),
}
COLUMNS = {
  'trained_on': ('', 'right or random labels'),
  'network': ('', 'number of the network'),
  'step': ('', 'steps of training'),
  'fitted': ('', 'share of its training labels that it gives'),
  'guess': ('', 'share of test images of the commonest class'),
  'accuracy': ('', 'share of test images classified correctly'),
  'same': ('', 'median ratio of images of the class, median over sources'),
  'other': ('', 'the same of images of other classes'),
  'gap': ('', 'median over sources of the difference of the two'),
  'leads': ('', 'share of sources whose class is carried farther'),
  'inputs_gap': ('', 'gap of the inner products of the inputs'),
  'inputs_leads': ('', 'share of sources that lead by inner products'),
  'unusable': ('', 'share of ratios that are not finite'),
  'explained': ('', "share of the logits' change that influence explains"),
  'ratio': ('', 'rise of a logit by its class, at its images over others'),
  'by_influence': ('', 'accuracy of the start and added-up influence'),
}


def load(config):
  """Returns images and labels by split."""
  inputs = splits.load(
    config.dataset,
    config.data_dir,
    num_train=config.num_train,
    num_classes=config.num_classes,
  )
  num = min(len(labels) for _, labels in inputs.values())
  if config.num_sources + config.num_others > num:
    raise flags.FlagError(
      f'--num_sources={config.num_sources} and --num_others='
      f'{config.num_others} need as many images of each set, got {num}'
    )
  return inputs


# --- Measuring -------------------------------------------------------------


def measure(config, inputs):
  """Yields the units: networks on right and on random labels, then sums."""
  num_classes = int(inputs['train'][1].max()) + 1
  module = models.CLASSIFIERS[config.model](num_classes=num_classes)
  keys = [jax.random.fold_in(jax.random.key(config.seed), i) for i in range(3)]
  for name, key in zip(CONDITIONS, keys[:2], strict=True):
    rows = functools.partial(
      measure_networks, config, inputs, module, name, key
    )
    yield runner.Unit(name.replace(' ', '-'), rows)
  for number in range(config.num_networks):
    rows = functools.partial(add_up, config, inputs, module, number, keys[2])
    yield runner.Unit(f'sum-{number:02d}', rows, 'sums')


def measure_networks(config, inputs, module, name, key):
  """Rows: networks along training, one each and step."""
  found = populations.fit(
    key,
    module,
    *inputs['train'],
    condition=CONDITIONS[name],
    num=config.num_networks,
    config=populations.constant_rate(config.learning_rate, batch_size=BATCH),
    num_steps=config.num_steps,
    pause_steps=[s for s in (0, 1, 10, 100) if s < config.num_steps],
  )
  return records.stack(
    [
      {'trained_on': name, 'network': number, 'step': step}
      | measure_network(config, inputs, name, found, number, step)
      for step in found.steps.tolist()
      for number in range(config.num_networks)
    ]
  )


def measure_network(config, inputs, name, found, number, step):
  """Returns the meeting ratios of a network in numbers, and its accuracy."""
  xs, (images, truth) = inputs['train'][0], inputs['test']
  given, network = found.examples.labels[number], found.network(number, step)
  rows = draw_rows(config, number, len(xs))
  sources, labels = (v[rows[: config.num_sources]] for v in (xs, given))
  carried = (xs, given) if name == RANDOM else (images, truth)
  rows = draw_rows(config, number, len(carried[0]))[config.num_sources :]
  others, theirs = (v[rows[: config.num_others]] for v in carried)
  ratios = parallel.map_examples(
    programs.bind(meeting_ratios, forward=found.forward),
    (sources, labels),
    shared=(others, *network),
    batch_size=10,
  )
  linear = halfway.linear_ratios(sources, others)
  inputs_alone = halfway.ratio_statistics(linear, labels, theirs)
  state = train.State(*network, None)
  return {
    'fitted': train.accuracy(found.forward, state, xs, given),
    'guess': data.commonest_share(truth),
    'accuracy': train.accuracy(found.forward, state, images, truth),
    'unusable': np.mean(~np.isfinite(ratios)),
    'inputs_gap': inputs_alone['gap'],
    'inputs_leads': inputs_alone['leads'],
    **halfway.ratio_statistics(ratios, labels, theirs),
  }


def draw_rows(config, number, num):
  """Returns the rows of `num` images in an order that is a network's own."""
  key = jax.random.fold_in(jax.random.key(config.seed + 1), number)
  return np.asarray(jax.random.permutation(key, num))


def meeting_ratios(x, label, others, params, stats, *, forward):
  """Returns the meeting ratios of other images for one source `[n]`."""
  outputs = lambda p, v: populations.logits(forward, (p, stats), v)
  return halfway.meeting_ratio(outputs, params, x, label, others)


def add_up(config, inputs, module, number, key):
  """The row of a network whose influence is added up over its training."""
  (xs, labels), (others, truth) = inputs['train'], inputs['test']
  rows = draw_rows(config, number, len(truth))[: config.num_others]
  others, truth = others[rows], truth[rows]
  weights, order = jax.random.split(jax.random.fold_in(key, number))
  forward = train.flax_forward(module)
  params = module.init(weights, xs[0])['params']
  size = (config.influence_steps, BATCH)
  batches = jax.random.randint(order, size, 0, len(xs))
  end, parts = accumulate(
    params,
    *(xs, labels, batches, others),
    forward=forward,
    num_classes=int(labels.max()) + 1,
    learning_rate=config.learning_rate,
  )
  logits = lambda params: np.asarray(
    jax.vmap(lambda x: populations.logits(forward, (params, {}), x))(others)
  )
  found = halfway.sum_statistics(
    logits(params), logits(end), np.asarray(parts), truth
  )
  return records.stack([{'network': number} | found])


@functools.partial(jax.jit, static_argnames=('forward', 'num_classes'))
def accumulate(
  params, xs, labels, batches, others, *, forward, num_classes, learning_rate
):
  return halfway.accumulate(
    lambda p, v: populations.logits(forward, (p, {}), v),
    *(params, xs, labels, batches, others),
    num_classes=num_classes,
    learning_rate=learning_rate,
    momentum=MOMENTUM,
  )


# --- Judging ---------------------------------------------------------------

STATEMENTS = {
  'R2, weak': 'Before any training, a step at a sample carries unseen samples '
  'of its class farther than others.',
  'R2, strong': 'Before any training, a step carries the class farther from '
  f'more than {MOST:.0%} of samples.',
  'R2, network': 'An untrained network carries samples of the class farther '
  'than the likeness of the inputs does.',
  'R2, training': 'Training widens the gap between the class and others, by '
  'what the labels say.',
  'R2, in all': 'Over training, the samples of a class raise its logit more at '
  'unseen samples of the class than at others.',
}
mean = functools.partial(statistics.t_mean, unit='networks')
share = functools.partial(statistics.proportion, unit='networks')
times = functools.partial(statistics.geometric_mean, unit='networks')


def analyze(config, found):
  """Meeting ratios along training, and what the claims say."""
  results, sums = found['results'], found['sums']
  last = lambda name: of_step(results, name, config.num_steps)
  start, end = of_step(results, RIGHT, 0), last(RIGHT)
  judged = judge(start, end, last(RANDOM), sums)
  shown = [ratio_table(results), sum_table(sums)]
  return runner.Report(answer(config, start, end, judged), judged, shown)


def of_step(results, name, step):
  return records.select(results, trained_on=name, step=step)


def judge(start, end, random, sums):
  """The claims of the module's docstring."""
  above = claims.above
  leads, rises = share(start['leads']), times(sums['ratio'])
  beyond = mean(start['gap'] - start['inputs_gap'])
  wider = mean(end['gap'] - start['gap'])
  gaps = mean(end['gap']), mean(random['gap'])
  right, guess = end['accuracy'].mean(), end['guess'].mean()
  poor = claims.why_untrained(right, guess)
  no_null = poor or claims.why_no_null(random['fitted'].mean())
  no_sum = poor or why_no_sum(sums)
  found = [
    ([above('sources that lead', leads, 0.5)], ''),
    ([above('sources that lead', leads, MOST)], ''),
    ([above('gap of network less inputs,', beyond, 0)], ''),
    (
      [
        above('gap, end less start,', wider, 0),
        above('gap at the end', *gaps),
      ],
      no_null,
    ),
    ([above('ratio of rises', rises, 1)], no_sum),
  ]
  return [
    claims.Claim('2206.04463', name, f'{text} (Our reading.)', tuple(c), why)
    for (name, text), (c, why) in zip(STATEMENTS.items(), found, strict=True)
  ]


def why_no_sum(sums):
  """Why added-up influence says nothing of training, or ''."""
  explained = sums['explained'].min()
  if explained < EXPLAINED:
    return (
      f'added-up influence explains {explained:.0%} of the change of logits of '
      f'a network, not {EXPLAINED:.0%}'
    )
  return ''


def answer(config, start, end, judged):
  """One sentence."""
  before, after = (
    tables.cell(share(rows['leads']), '.0%') for rows in (start, end)
  )
  inputs = start['inputs_leads'].mean()
  return (
    f'From {before} of the training samples of {config.dataset}, a '
    'gradient step carries unseen samples of the same class farther than '
    f'others before any training, by the likeness of the inputs from '
    f'{inputs:.0%}, and after training from {after} '
    f'({config.num_networks} networks); {claims.tally(judged)}.'
  )


# --- Tables ----------------------------------------------------------------


def ratio_table(results):
  """One row a kind of labels and step, and one of the inputs alone."""
  at = of_step(results, RIGHT, 0)
  alone = (at[v].mean() for v in ('inputs_gap', 'inputs_leads'))
  rows = [['inputs alone', *[None] * 5, *alone]]
  for name in CONDITIONS:
    of = records.select(results, trained_on=name)
    for step in np.unique(of['step']).tolist():
      at = of_step(results, name, step)
      right = at['accuracy'].mean() if name == RIGHT else None
      medians = at['same'].mean(), at['other'].mean()
      pair = mean(at['gap']), share(at['leads'])
      rows.append([name, step, at['fitted'].mean(), right, *medians, *pair])
  columns = [
    ('labels', 'inputs alone: inner products, as without layers'),
    ('step', 'of training'),
    ('fitted', 'training labels given', '', '.1%'),
    ('correct', 'share of test images', '', '.1%'),
    ('same', 'median at images of the class'),
    ('other', 'median at images of other classes'),
    ('gap', 'median difference of the two'),
    ('leads', 'samples whose class is carried farther', '', '.1%'),
  ]
  title = 'Meeting ratios of one step at a sample'
  return tables.table(title, columns, rows, spec='.3f')


def sum_table(sums):
  """Influence that was added up over training."""
  right = [share(sums[name]) for name in ('accuracy', 'by_influence')]
  rows = [[mean(sums['explained']), *right, times(sums['ratio'])]]
  columns = [
    ('explained', "of the logits' change at test images", '', '.1%'),
    ('correct', 'share of them', '', '.1%'),
    ('by influence', 'from the start and the sum', '', '.1%'),
    ('ratio', 'rise by its class, at its images over others', '', '.2f'),
  ]
  return tables.table('Influence added up over training', columns, rows)


EXPERIMENT = runner.Experiment(
  'experiments.influence', __doc__, Config, PRESETS, COLUMNS,
  measure, analyze, figures.draw, load=load,
)  # fmt: skip
run = EXPERIMENT.run

if __name__ == '__main__':
  EXPERIMENT.main()
