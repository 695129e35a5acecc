"""Does training on images of bits make their class harder to flip?

De Palma, Kiani, Lloyd (2019), https://arxiv.org/abs/1812.10156: a random
network's class of n bits changes within about sqrt(n / (2 pi ln n)) chosen
flips (experiments.bit_strings). On their poster networks trained on the parity
of MNIST, pixels made bits, need about 10.5 flips at training images, 10.3 at
test images and 4.6 at random bits, beside 4.3 for random networks; images that
are misclassified need fewer.

  python -m experiments.bit_images
  python -m experiments.bit_images --preset=mnist --data_dir=DIR

The first takes less than a minute on 2 CPU cores, mnist 3. A run that was
killed goes on where it was.

Networks n-n-n-1 without biases are drawn as the authors draw them and trained
on bits (pixels above --threshold; labels odd or even) with Adam; in batches of
128 and for --epochs, where they take 32 and 20. From the network's own class
bits are flipped greedily, the one that moves the output most each time, at
images that it was trained on, at test images, at test images that it
misclassifies, and at random bits; the same strings before training are the
null. A search that changes no class counts as n flips. Of mnist only the flips
that the gradient ranks among the first --candidates are tried; `rank`, the
worst place there of a flip that was taken, says whether that could matter.

The network is the unit: ratios are geometric means over networks of ratios of
each network's mean flips, with Student's intervals. Where random bits gain as
much as images, it is the network's output that grew more steadily, not its
distance from data. The authors' means, of mnist, are to lie within 10 %. No
claim is tested where networks do not classify test images at least half way
from a guess to all, or more than 5 % of the searches change no class.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from dmm_jax import bit_strings
from dmm_jax import data
from dmm_jax import parallel
from dmm_jax import programs
from dmm_jax import records
from dmm_jax import statistics
from dmm_jax import train
from experiments.figures import bit_images as figures
from experiments.lib import claims
from experiments.lib import flags
from experiments.lib import runner
from experiments.lib import splits
from experiments.lib import tables

PAPER = '1812.10156'
KINDS = {
  'train': 'training images',
  'test': 'test images',
  'wrong': 'misclassified test images',
  'random': 'random bits',
}
# Of MNIST, read off the bars of their poster.
THEIRS = {'train': 10.5, 'test': 10.3, 'random': 4.6}
TOLERANCE = 0.1


@dataclasses.dataclass(frozen=True)
class Config:
  preset: str = flags.preset()
  workdir: str = flags.workdir('runs/bit_images')
  seed: int = flags.seed()
  dataset: str = flags.dataset()
  data_dir: str = flags.data_dir()
  threshold: float = flags.flag(
    0.5, 'Value above which a pixel is 1.', least=0, most=1
  )
  num_networks: int = flags.flag(60, 'Networks to train.', least=2)
  num_examples: int = flags.flag(
    50, 'Strings of each kind for each network; at most all.', least=1
  )
  epochs: int = flags.flag(20, 'Passes over the training images.', least=1)
  candidates: int = flags.flag(
    0,
    'Flips tried at each step, the ones that the gradient ranks first; 0 tries '
    'all.',
    least=0,
  )


PRESETS = {
  'default': {},
  'quick': dict(num_networks=20, num_examples=30),
  'mnist': dict(
    dataset='mnist',
    threshold=25 / 255,
    num_networks=8,
    num_examples=20,
    epochs=2,
    candidates=128,
  ),
}
COLUMNS = {
  'network': ('', 'number of the network'),
  'trained': ('', 'whether it is measured after training, or before'),
  'kind': ('', f'of the string: {", ".join(KINDS)}'),
  'index': ('', 'row of the image in its split; -1 of random bits'),
  'n': ('bits', 'length of the string'),
  'right': ('', 'whether the network classifies it correctly'),
  'accuracy': ('', 'share of all test images that it classifies correctly'),
  'guess': ('', 'share of test images of the commoner parity'),
  'flips': ('flips', 'greedy, until the class changes; inf: it does not'),
  'output': ('', 'of the network at the string; its sign is the class'),
  'rank': ('', "worst place, from 0, of a flip taken in the gradient's order"),
}


def load(config):
  """Returns images as bits `[m, n]`, and whether labels are odd, by split."""
  sets = splits.load(config.dataset, config.data_dir)
  return {name: as_bits(*pair, config.threshold) for name, pair in sets.items()}


def as_bits(xs, labels, threshold):
  bits = (xs > threshold).astype(np.float32).reshape(len(xs), -1)
  return bits, data.parity(labels)


# --- Measuring -------------------------------------------------------------


def measure(config, sets):
  """Yields the units, one a network: rows are strings, before and after."""
  for number in range(config.num_networks):
    rows = functools.partial(measure_network, config, sets, number)
    yield runner.Unit(f'network-{number:03d}', rows)


def measure_network(config, sets, number):
  """Rows of one network: one a (before or after training, string)."""
  key = jax.random.fold_in(jax.random.key(config.seed), number)
  states = fit(config, key, *sets['train'])
  xs, labels = sets['test']
  calls = [is_odd(network, xs) for network in states]
  strings = choose(config, key, sets, np.flatnonzero(calls[1] != labels))
  num, parts = len(strings['kind']), []
  for trained, (network, odd) in enumerate(zip(states, calls, strict=True)):
    found = parallel.map_examples(
      programs.bind(flip_bits, candidates=config.candidates),
      (strings['x'],),
      shared=(network,),
      batch_size=4 * config.num_examples,
      vmap_size=1,  # Searches differ in length.
    )
    same = dict(
      network=np.int32(number),
      trained=bool(trained),
      n=np.int32(xs.shape[1]),
      accuracy=np.mean(odd == labels),
      guess=data.commonest_share(labels),
    )
    parts.append(
      {name: np.full(num, value) for name, value in same.items()}
      | {'kind': strings['kind'], 'index': strings['index']}
      | {'right': (found['output'] > 0) == strings['odd']}
      | found
    )
  return records.concatenate(parts)


def fit(config, key, xs, odd):
  """Returns a network before training, and after it."""
  weights, order = jax.random.split(key)
  before = bit_strings.draw(weights, xs.shape[1])
  plan = train.TrainConfig(schedule='constant', num_epochs=config.epochs)
  inner = train.make_optimizer(plan, len(xs)).init(before)
  state = train.State(before, {}, inner)
  *_, last = train.fit(
    order, forward, state, xs, odd, config=plan, each_epoch=False
  )
  return jax.device_get((before, last.state.params))


def _forward(params, stats, x, key, train):
  del key, train
  value = bit_strings.output(params, x)
  return (jnp.stack([jnp.zeros_like(value), value]), {}), stats


forward = programs.bind(_forward)


def is_odd(network, xs):
  """Returns the class that a network gives each string."""
  one = programs.bind(_is_odd)
  return parallel.map_examples(one, (xs,), shared=(network,)).astype(np.int32)


def _is_odd(x, network):
  return bit_strings.output(network, x) > 0


def flip_bits(x, network, *, candidates):
  found = bit_strings.greedy(
    network, x, symbols=(0.0, 1.0), candidates=candidates
  )
  return {name: getattr(found, name) for name in ('flips', 'output', 'rank')}


def choose(config, key, sets, wrong):
  """Draws a network's strings of each kind, without replacement.

  Args:
    config, key, sets: flags, of the draws, and both splits.
    wrong: rows of the test set that the network misclassifies.

  Returns:
    Columns: the strings `x`, their parity, kind, and row in their split.
  """
  rng = np.random.default_rng(np.asarray(jax.random.key_data(key)))
  parts = []
  for kind in KINDS:
    xs, odd = sets['train' if kind == 'train' else 'test']
    rows = rng.permutation(wrong if kind == 'wrong' else len(xs))
    rows = rows[: config.num_examples]
    x, odd = xs[rows], odd[rows]
    if kind == 'random':
      x = rng.integers(2, size=x.shape).astype(np.float32)
      rows, odd = 0 * rows - 1, 0 * odd - 1
    names = np.full(len(rows), kind, 'U6')
    parts.append({'x': x, 'odd': odd, 'kind': names, 'index': rows})
  return records.concatenate(parts)


# --- Judging ---------------------------------------------------------------


class Found:
  """Mean flips of each network, by kind of string."""

  def __init__(self, results):
    self.results = results

  def mean(self, kind, trained, right=None):
    """Mean flips `[networks]`; NaN of a network that has no such string."""
    keep = self.results['kind'] == kind
    keep &= self.results['trained'] == trained
    if right is not None:
      keep &= self.results['right'] == right
    network = self.results['network']
    flips = np.minimum(self.results['flips'], self.results['n'])
    num = network.max() + 1
    with np.errstate(invalid='ignore'):
      return np.bincount(network, keep * flips, num) / np.bincount(
        network, keep, num
      )


def times(values):
  """Estimates the geometric mean over networks that have a value."""
  return statistics.geometric_mean(values[np.isfinite(values)], unit='networks')


def mean(values):
  """Estimates the mean over networks that have a value."""
  return statistics.t_mean(values[np.isfinite(values)], unit='networks')


def analyze(config, found):
  """Holds flips after training against those before, and the authors'."""
  results = found['results']
  of, reason = Found(results), why_not_tested(results)
  gain = {kind: of.mean(kind, True) / of.mean(kind, False) for kind in KINDS}
  judged = judge(config, of, gain, reason)
  shown = [flip_table(config, of, gain), accuracy_table(results)]
  return runner.Report(answer(config, of, gain, reason), judged, shown)


STATEMENTS = {
  'farther at images': 'The class of an image takes more flips to change in a '
  'trained network than in a random one.',
  'more than at random bits': 'Training moves the boundary away from images, '
  'more than from random bits (ours).',
  'wrong ones nearer': 'Misclassified images are much closer to the boundary '
  'than correctly classified ones.',
  'as the authors': 'Greedy flips are about 10.5 at training images, 10.3 at '
  'test images and 4.6 at random bits.',
}


def judge(config, of, gain, reason):
  """Returns the claims."""
  above = claims.above
  beyond = times(gain['test'] / gain['random'])
  wrong = of.mean('wrong', True) / of.mean('test', True, right=True)
  found = [
    [above(KINDS[kind], times(gain[kind]), 1.0) for kind in ('train', 'test')],
    [above('gain at test images over that at random bits', beyond, 1.0)],
    [claims.below('flips of wrong over right ones', times(wrong), 1.0)],
    [
      claims.within(
        KINDS[kind], mean(of.mean(kind, True)), theirs, TOLERANCE * theirs
      )
      for kind, theirs in THEIRS.items()
    ],
  ]
  num = np.isfinite(wrong).sum()
  few = f'{num} of the networks misclassify a test image' if num < 2 else ''
  other = '' if config.dataset == 'mnist' else 'their numbers are of mnist'
  reasons = reason, reason, reason or few, reason or other
  return [
    claims.Claim(PAPER, name, text, tuple(conditions), why)
    for (name, text), conditions, why in zip(
      STATEMENTS.items(), found, reasons, strict=True
    )
  ]


def accuracies(results, trained):
  """Accuracy of each network, before or after training."""
  rows = records.select(results, trained=trained)
  _, first = np.unique(rows['network'], return_index=True)
  return rows['accuracy'][first]


def why_not_tested(results):
  """Why the flips say nothing of the claims, or ''."""
  guess = float(results['guess'][0])
  why = claims.why_untrained(accuracies(results, True).mean(), guess)
  return why or claims.why_failed(results['flips'])


def answer(config, of, gain, reason):
  """One sentence."""
  if reason:
    return f'Nothing is tested: {reason}.'
  flips, ratio = (
    {kind: tables.cell(fn(kind), spec) for kind in ('test', 'random')}
    for fn, spec in (
      (lambda kind: mean(of.mean(kind, True)), '.1f'),
      (lambda kind: times(gain[kind]), '.2f'),
    )
  )
  return (
    f'The class of a test image of {config.dataset} takes {flips["test"]} '
    f'flips of bits to change in trained networks, {ratio["test"]} times as '
    f'many as before training, and that of random bits {flips["random"]}, '
    f'{ratio["random"]} times as many ({config.num_networks} networks).'
  )


def flip_table(config, of, gain):
  rows = []
  for kind, name in KINDS.items():
    num = np.sum(records.select(of.results, kind=kind)['trained'])
    means = mean(of.mean(kind, True)), mean(of.mean(kind, False))
    theirs = THEIRS.get(kind) if config.dataset == 'mnist' else None
    rows.append([name, num, *means, times(gain[kind]), theirs])
  columns = [
    ('strings', ''),
    ('number', 'of all networks together'),
    ('trained', 'mean greedy flips', '', '.2f'),
    ('untrained', 'the same, before training', '', '.2f'),
    ('ratio', 'geometric mean over networks', '', '.2f'),
    ('authors', 'trained, read off their bars'),
  ]
  n = int(of.results['n'][0])
  least = np.sqrt(n / (2 * np.pi * np.log(n)))
  title = f'Flips that change the class of {n} bits; sqrt(n / (2 pi ln n)) is '
  return tables.table(f'{title}{least:.2f}', columns, rows)


def accuracy_table(results):
  rows = []
  for name, trained in (('trained', True), ('untrained', False)):
    of = records.select(results, trained=trained)
    right = accuracies(results, trained)
    right = statistics.proportion(right, unit='networks')
    rows.append([name, right, np.isinf(of['flips']).mean(), of['rank'].max()])
  columns = [
    ('networks', ''),
    ('right', 'share of test images classified correctly', '', '.1%'),
    ('lost', 'share of searches that changed no class', '', '.1%'),
    ('rank', "worst place in the gradient's order of a flip taken"),
  ]
  return tables.table('Networks', columns, rows)


EXPERIMENT = runner.Experiment(
  'experiments.bit_images', __doc__, Config, PRESETS, COLUMNS,
  measure, analyze, figures.draw, load=load,
)  # fmt: skip
run = EXPERIMENT.run

if __name__ == '__main__':
  EXPERIMENT.main()
