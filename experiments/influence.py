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

Claims, and what would refute each:

  R2, weak       before any training, most sources lead: refuted by a share of
                 at most 1/2, that of classes which do not matter
  R2, strong     refuted by a share below 0.9
  R2, network    the network sees more than the inputs' likeness: refuted by a
                 gap before training below that of the inputs' inner products,
                 which are the influence in a linear network
  R2, training   training widens the gap: refuted by a gap at the end below that
                 before, or that of networks with random labels
  R2, in all     over training, a class's samples raise its logit more at unseen
                 images of the class than at others: refuted by a ratio below 1

The claims about training are not tested with networks that classify test images
less than half way from a guess to all correctly, with random labels of which
less than 0.9 were learned, or where added-up influence explains less than 0.9
of the change of the logits. 0.9 came from digits, which are no test of it.
"""

import dataclasses
import functools

import jax
import numpy as np

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

MOST = 0.9
LEARNED = 0.9  # Share of random labels, where they are a null.
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
  num_steps: int = flags.flag(2000, 'Steps of training.', least=10)
  learning_rate: float = flags.flag(
    0.05, 'Learning rate of SGD with momentum 0.9; constant.', least=0
  )
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
    workdir='runs/influence_quick',
    num_train=500,
    num_networks=8,
    num_steps=500,
    num_sources=40,
    num_others=100,
    influence_steps=40,
  ),
  'default': {},
  'mnist': dict(
    workdir='runs/influence_mnist',
    dataset='mnist',
    num_train=2000,
    influence_steps=50,
  ),
  'cifar': dict(
    workdir='runs/influence_cifar',
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
  module = models.CLASSIFIERS[config.model](
    num_classes=int(inputs['train'][1].max()) + 1
  )
  key = jax.random.key(config.seed)
  for number, name in enumerate(CONDITIONS):
    own = jax.random.fold_in(key, number)
    rows = functools.partial(
      measure_networks, config, inputs, module, name, own
    )
    yield runner.Unit(name.replace(' ', '-'), rows)
  for number in range(config.num_networks):
    rows = functools.partial(
      add_up, config, inputs, module, number, jax.random.fold_in(key, 2)
    )
    yield runner.Unit(f'sum-{number:02d}', rows, 'sums')


def measure_networks(config, inputs, module, name, key):
  """Rows: networks along training, one each and step."""
  found = populations.fit(
    key,
    module,
    *inputs['train'],
    condition=CONDITIONS[name],
    num=config.num_networks,
    config=train.TrainConfig(
      optimizer='momentum',
      learning_rate=config.learning_rate,
      schedule='constant',
      batch_size=BATCH,
    ),
    num_steps=config.num_steps,
    pause_steps=[s for s in (0, 1, 10, 100) if s < config.num_steps],
  )
  rows = [
    {'trained_on': name, 'network': number, 'step': step}
    | measure_network(config, inputs, name, found, number, step)
    for step in found.steps.tolist()
    for number in range(config.num_networks)
  ]
  return {column: np.stack([row[column] for row in rows]) for column in rows[0]}


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
  rows = lambda v: v.reshape(len(v), -1)
  products = rows(sources) @ rows(others).T + 1
  products /= np.sum(rows(sources) ** 2, axis=1, keepdims=True) + 1
  inputs_alone = describe(products, labels, theirs)
  state = train.State(*network, None)
  return {
    'fitted': train.accuracy(found.forward, state, xs, given),
    'guess': np.bincount(truth).max() / len(truth),
    'accuracy': train.accuracy(found.forward, state, images, truth),
    'unusable': np.mean(~np.isfinite(ratios)),
    'inputs_gap': inputs_alone['gap'],
    'inputs_leads': inputs_alone['leads'],
    **describe(ratios, labels, theirs),
  }


def draw_rows(config, number, num):
  """Returns the rows of `num` images in an order that is a network's own."""
  key = jax.random.fold_in(jax.random.key(config.seed + 1), number)
  return np.asarray(jax.random.permutation(key, num))


def meeting_ratios(x, label, others, params, stats, *, forward):
  """Returns the meeting ratios of other images for one source `[n]`."""
  outputs = lambda p, v: populations.logits(forward, (p, stats), v)
  return halfway.meeting_ratio(outputs, params, x, label, others)


def describe(ratios, labels, theirs):
  """Returns medians of meeting ratios `[sources, others]`, and who leads."""
  mine = labels[:, None] == theirs
  parts = [
    np.where(of & np.isfinite(ratios), ratios, np.nan).astype(float)
    for of in (mine, ~mine)
  ]
  # A source without an image of its class, or without a ratio, says nothing.
  usable = np.all([np.isfinite(part).any(1) for part in parts], axis=0)
  same, other = (np.nanmedian(part[usable], axis=1) for part in parts)
  return {
    'same': np.median(same),
    'other': np.median(other),
    'gap': np.median(same - other),
    'leads': np.mean(same > other),
  }


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
  num_classes = int(labels.max()) + 1
  end, parts = accumulate(
    params,
    *(xs, labels, batches, others),
    forward=forward,
    num_classes=num_classes,
    learning_rate=config.learning_rate,
  )
  logits = lambda params: np.asarray(
    jax.vmap(lambda x: populations.logits(forward, (params, {}), x))(others)
  )
  start, end, parts = logits(params), logits(end), np.asarray(parts)
  change, total = end - start, parts.sum(0)
  error = np.sum((change - total) ** 2)
  # What class c did to logit c `[classes, others]`.
  own = parts[np.arange(num_classes), :, np.arange(num_classes)]
  mine = np.arange(num_classes)[:, None] == truth
  row = {
    'network': number,
    'explained': 1 - error / np.sum((change - change.mean(0)) ** 2),
    'ratio': own[mine].mean() / own[~mine].mean(),
    'accuracy': np.mean(end.argmax(1) == truth),
    'by_influence': np.mean((start + total).argmax(1) == truth),
  }
  return {name: np.array([value]) for name, value in row.items()}


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


def analyze(config, found):
  """Meeting ratios along training, and what the claims say."""
  sums = found['sums']
  last = lambda name: of_step(found['results'], name, config.num_steps)
  start, end = of_step(found['results'], RIGHT, 0), last(RIGHT)
  judged = judge(start, end, last(RANDOM), sums)
  shown = [ratio_table(found['results']), sum_table(sums)]
  return runner.Report(answer(config, start, end, judged), judged, shown)


def of_step(results, name, step):
  return records.select(results, trained_on=name, step=step)


def judge(start, end, random, sums):
  """The claims of the module's docstring."""
  mean = functools.partial(statistics.t_mean, unit='networks')
  less = functools.partial(statistics.paired_difference, unit='networks')
  leads = statistics.proportion(start['leads'], unit='networks')
  beyond = less(start['gap'], start['inputs_gap'])
  wider = less(end['gap'], start['gap'])
  gaps = mean(end['gap']), mean(random['gap'])
  trouble = why_not_tested(end)
  found = [
    ([claims.above('sources that lead', leads, 0.5)], ''),
    ([claims.above('sources that lead', leads, MOST)], ''),
    ([claims.above('gap of network less inputs,', beyond, 0.0)], ''),
    (
      [
        claims.above('gap, end less start,', wider, 0.0),
        claims.above('gap at the end', *gaps),
      ],
      trouble or why_no_null(random),
    ),
    (
      [claims.above('ratio of rises', geometric(sums['ratio']), 1.0)],
      trouble or why_no_sum(sums),
    ),
  ]
  return [
    claims.Claim('2206.04463', name, f'{text} (Our reading.)', tuple(c), why)
    for (name, text), (c, why) in zip(STATEMENTS.items(), found, strict=True)
  ]


def geometric(ratios):
  """Estimates the geometric mean; NaN where a ratio is not positive."""
  logs = np.log(np.where(ratios > 0, ratios, np.nan))
  found = statistics.t_mean(logs, unit='networks')
  value, low, high = np.exp(found[:3]).tolist()
  return found._replace(value=value, low=low, high=high)


def why_not_tested(end):
  """Why networks say nothing of training, or ''."""
  right, guess = end['accuracy'].mean(), end['guess'].mean()
  if right < (1 + guess) / 2:
    return (
      f'{right:.0%} of test images are classified correctly, less than half '
      f'way from a guess ({guess:.0%}) to all'
    )
  return ''


def why_no_null(random):
  """Why random labels are no null, or ''."""
  learned = random['fitted'].mean()
  if learned < LEARNED:
    return f'{learned:.0%} of the random labels were learned, not {LEARNED:.0%}'
  return ''


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
  share = lambda rows: tables.cell(
    statistics.proportion(rows['leads'], unit='networks'), '.0%'
  )
  inputs = start['inputs_leads'].mean()
  held = sum(claim.verdict == claims.SUPPORTED for claim in judged)
  return (
    f'From {share(start)} of the training samples of {config.dataset}, a '
    'gradient step carries unseen samples of the same class farther than '
    f'others before any training, by the likeness of the inputs from '
    f'{inputs:.0%}, and after training from {share(end)} '
    f'({config.num_networks} networks); {held} of {len(judged)} claims are '
    'supported.'
  )


# --- Tables ----------------------------------------------------------------


def ratio_table(results):
  """One row a kind of labels and step, and one of the inputs alone."""
  mean = functools.partial(statistics.t_mean, unit='networks')
  share = functools.partial(statistics.proportion, unit='networks')
  rows = []
  for name in CONDITIONS:
    steps = np.unique(results['step'][results['trained_on'] == name])
    for step in steps.tolist():
      at = of_step(results, name, step)
      rows.append(
        [
          name,
          step,
          float(at['fitted'].mean()),
          float(at['accuracy'].mean()) if name == RIGHT else None,
          *(float(at[column].mean()) for column in ('same', 'other')),
          mean(at['gap']),
          share(at['leads']),
        ]
      )
  at = of_step(results, RIGHT, 0)
  alone = [float(at[v].mean()) for v in ('inputs_gap', 'inputs_leads')]
  rows.insert(0, ['inputs alone', *[None] * 5, *alone])
  column = tables.Column
  return tables.Table(
    'Meeting ratios of one step at a sample',
    [
      column('labels', '', 'inputs alone: inner products, as without layers'),
      column('step', '', 'of training'),
      column('fitted', '', 'training labels given', '.1%'),
      column('correct', '', 'share of test images', '.1%'),
      column('same', '', 'median at images of the class', '.3f'),
      column('other', '', 'median at images of other classes', '.3f'),
      column('gap', '', 'median difference of the two', '.3f'),
      column('leads', '', 'samples whose class is carried farther', '.1%'),
    ],
    rows,
  )


def sum_table(sums):
  """Influence that was added up over training."""
  share = functools.partial(statistics.proportion, unit='networks')
  explained = statistics.t_mean(sums['explained'], unit='networks')
  column = tables.Column
  return tables.Table(
    'Influence added up over training',
    [
      column('explained', '', "of the logits' change at test images", '.1%'),
      column('correct', '', 'share of them', '.1%'),
      column('by influence', '', 'from the start and the sum', '.1%'),
      column(
        'ratio', '', 'rise by its class, at its images over others', '.2f'
      ),
    ],
    [
      [
        explained,
        share(sums['accuracy']),
        share(sums['by_influence']),
        geometric(sums['ratio']),
      ]
    ],
  )


EXPERIMENT = runner.Experiment(
  'experiments.influence', __doc__, Config, PRESETS, COLUMNS,
  measure, analyze, figures.draw, load=load,
)  # fmt: skip
run = EXPERIMENT.run

if __name__ == '__main__':
  EXPERIMENT.main()
