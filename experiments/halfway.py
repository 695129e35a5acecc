"""Do networks meet halfway: between samples, under influence, with each other?

"Meet You Halfway" (arXiv 2206.04463) claims one cause for two things: that
networks generalise, and that adversarial examples transfer. Its definitions
could not be had beyond the abstract; these four readings of it are ours, and no
number or theorem here is the paper's.

R1, in space. Between two samples of different class the boundary lies near the
  middle: t* is the fraction of the way where the lead of the first one's class
  over the second one's first changes its sign. Its mean says nothing, being one
  half by the symmetry of random pairs; its spread does. Supported if the spread
  of trained networks lies below that of networks trained on shared random
  labels, and below their own at the first snapshot at which 90 % of the pairs
  cross. R1 in its strong form, that the boundary is that of the nearest
  neighbour, is supported if two networks agree less with each other than with
  the nearer end, at random places between opposite samples.
R2, under influence. A gradient step at one sample moves the output at others:
  the meeting ratio is the change of its class's logit there over that at the
  sample. Supported if it is larger, on average, for unseen samples of the same
  class than of other ones from more than 90 % of the samples on, before any
  training, and this gap is wider at the end.
R3, two networks. Independent networks come to a common function. Supported if
  the concordance of t* between architectures is above 0.7, adversarial
  directions (gradients of the loss) align more than before training and than
  those of networks with own random labels.
R4, half of the data. The same for networks trained on disjoint halves:
  concordance above 0.7, and above that of networks on shared random labels.

Everything is judged by 95 % intervals: supported, not supported, or undecided
where the numbers are not told apart. They are Student's over networks, by the
jackknife for pairs of networks.

Seen on digits (4 networks each, after 1,000 steps): R1 supported, the spread of
t* of MLPs is 0.114 [0.113, 0.116], on shared random labels 0.179 [0.167,
0.192]; its strong form is not (nearer end 0.864 [0.859, 0.869], another MLP
0.951 [0.946, 0.957]); R2 supported (own class carried farther from 99.2 %
[98.5, 100.0] of samples before training); R3 supported (concordance of MLPs and
CNNs 0.913 [0.895, 0.930]; cosine of two MLPs 0.781 [0.770, 0.791]); R4
supported (0.746 [0.725, 0.767] against 0.456 [0.302, 0.609]). Influence added
up over 300 steps explains 99.7 % of the trained network's logits.
On mnist (--preset=mnist --models=mlp,deep_linear,linear; 10,000 training
images): R1 and R4 supported (spread 0.130 [0.127, 0.133] beside 0.234 [0.229,
0.240], of which labels 38 % were learned; halves 0.821 [0.800, 0.842]), the
strong form of R1 is not; R2 undecided (ahead from 95.8 % [91.6, 99.9] of
samples; the gap's interval at the end is wide, as ratios are where a step
hardly moves its own sample); R3 undecided (two MLPs 0.947 [0.939, 0.956], MLPs
and deep linear networks 0.716 [0.664, 0.768]).
On cifar10 (--preset=cifar --models=mlp,deep_linear,linear
--learning_rate=0.005; 3 networks each, MLPs 44 % right) little of it holds: R2,
R3, R4 are not supported (own class carried farther from 32.3 % [30.9, 33.8] of
samples before training; MLPs and linear networks 0.434 [0.223, 0.644]; halves
0.454 [0.350, 0.559]), R1 is undecided (spread 0.225 [0.220, 0.230] beside 0.295
[0.264, 0.326]), its strong form too (nearer end 0.366 [0.329, 0.403], another
MLP 0.595 [0.391, 0.798]).

  python -m experiments.halfway
  python -m experiments.halfway --preset=mnist --data_dir=DIR

A run killed at any moment goes on where it was, to the same bytes.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from sklearn import metrics

from dmm_jax import boundary
from dmm_jax import halfway
from dmm_jax import manifold
from dmm_jax import parallel
from dmm_jax import plots
from dmm_jax import programs
from dmm_jax import records
from dmm_jax import statistics
from dmm_jax import train
from experiments import common
from experiments import populations
from experiments import segments
from experiments.lib import flags

BAND = 0.1  # About one half.
CONCORDANT = 0.7
MOST = 0.9
SURE = ('sure_middle', 'sure_ends')


@dataclasses.dataclass(frozen=True)
class Config(populations.Config):
  workdir: str = flags.flag('runs/halfway', 'Run directory.')
  num_pairs: int = flags.flag(
    3000, 'Opposite samples, of each set; a third of it nearest ones.', least=30
  )
  num_images: int = flags.flag(
    300, 'Of the test set, for directions and influence.', least=10
  )
  num_sources: int = flags.flag(
    100, 'Training samples whose influence is measured.', least=10
  )
  num_normals: int = flags.flag(64, 'Images, for normals.', least=2)
  k: int = flags.flag(8, 'Principal directions of the data.', least=1)
  booked_steps: int = flags.flag(
    300, 'Of training whose influence is added up; 0 for none.', least=0
  )


PRESETS = {
  'default': {},
  'quick': dict(
    workdir='runs/halfway_quick',
    num_steps=200,
    num_networks=4,
    num_pairs=600,
    num_images=100,
    num_sources=50,
    num_normals=20,
    booked_steps=50,
  ),
  'plane': dict(
    workdir='runs/halfway_plane',
    dataset='moons',
    models=('mlp', 'linear'),
    k=1,
  ),
  'mnist': dict(
    workdir='runs/halfway_mnist',
    dataset='mnist',
    num_train=10000,
    num_test=2000,
    num_steps=2000,
    k=16,
    num_images=150,
    num_pairs=600,
  ),
  'cifar': dict(
    workdir='runs/halfway_cifar',
    dataset='cifar10',
    models=('cnn', 'mlp', 'linear'),
    num_train=10000,
    num_test=2000,
    num_steps=2000,
    learning_rate=0.02,
    k=128,
    num_networks=3,
    num_images=80,
    num_pairs=400,
    booked_steps=0,
  ),
  'full': dict(
    workdir='runs/halfway_full',
    dataset='cifar10',
    models=('resnet18', 'playground', 'vgg16', 'mlp', 'linear'),
    num_steps=20000,
    learning_rate=0.02,
    num_networks=8,
    k=128,
    num_images=1000,
    booked_steps=0,
  ),
}


def run(config: Config) -> dict:
  """Runs the experiment, and returns what it wrote to summary.json."""
  flags.check(config)
  populations.check(config)
  sets = populations.load(config)
  return common.conduct(
    config,
    'experiments.halfway',
    collect=lambda config, run_dir: collect(config, run_dir, sets),
    summarize=lambda config, run_dir: summarize(config, run_dir, sets),
    draw=plots.halfway,
    report=report,
  )


# --- What is measured of a network -----------------------------------------


def measure_segment(start, end, labels, place, params, stats, *, forward):
  """Crossings of a segment, and classes at two places of it."""
  logits_fn = populations.logits_of(forward, params, stats)
  found = halfway.crossings(logits_fn, start, end, *labels)
  at = lambda t: logits_fn(start + t * (end - start))
  middle, ends = at(0.5), jnp.stack([at(0.0), at(1.0)])
  highest = lambda v: jax.nn.softmax(v).max(-1)
  return {
    'fraction': found.fraction,
    'count': found.count.astype(jnp.int8),
    'mixed': at(place).argmax().astype(jnp.int16),
    'third': (middle.argmax() != labels[0]) & (middle.argmax() != labels[1]),
    'sure_middle': highest(middle),
    'sure_ends': highest(ends).mean(),
  }


def measure_image(x, label, means, basis, params, stats, *, forward):
  """The adversarial direction of an image, and what that consists of."""
  logits_fn = populations.logits_of(forward, params, stats)
  direction = halfway.loss_direction(logits_fn, x, label)
  explained = halfway.between_means(logits_fn, x, label, means)
  return {
    'direction': direction,
    'means': jnp.sum(direction * explained),
    'principal': manifold.tangent_fraction(direction, basis) ** 2,
  }


def meeting_ratios(x, label, others, params, stats, *, forward):
  """Meeting ratios of other images for one training sample."""
  outputs = lambda p, v: forward(p, stats, v, None, False)[0][0]
  return halfway.meeting_ratio(outputs, params, x, label, others)


def update_rank(before, after, size):
  """Directions that hold 90 % of a first dense layer's change; else NaN."""
  leaves = zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True)
  changes = [b - a for a, b in leaves if a.ndim == 2 and len(a) == size]
  if not changes:
    return np.nan
  return float(halfway.num_directions(np.asarray(changes[0])))


def measure(config, sets, pairs, everyone, step):
  """Columns of every network at a step, one row a network."""
  xs, labels = sets['train']
  means = np.stack([xs[labels == c].mean(0) for c in range(labels.max() + 1)])
  known = means, manifold.principal_basis(xs, config.k)
  ends = segments.ends(pairs, sets)
  rows = [
    measure_one(config, sets, (pairs, ends), known, population, number, step)
    for population in everyone
    for number in range(len(population.labels))
  ]
  table = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
  for name, column in (('cosine', 'direction'), ('normals', 'normal')):
    units = table.pop(column)
    table[name] = halfway.cosines(units).astype(np.float32)
  return table


def measure_one(config, sets, drawn, known, population, number, step):
  """The row of one network; directions `[n, ...]` among it."""
  xs = sets['train'][0]
  images, names = (v[: config.num_images] for v in sets['test'])
  few = slice(config.num_normals)
  (pairs, ends), forward = drawn, population.forward
  network = population.network(step, number)
  given, chosen = population.labels[number], population.rows[number]
  batch = int(np.clip(2**17 // images[0].size, 32, 512))
  each = functools.partial(parallel.map_examples, batch_size=batch)
  right = functools.partial(
    train.accuracy, forward, train.State(*network, ()), batch_size=4 * batch
  )
  labels = segments.labels(pairs, sets, given)
  found = each(
    programs.bind(measure_segment, forward=forward),
    (*ends, labels, pairs.place),
    shared=network,
  )
  of_images = each(
    programs.bind(measure_image, forward=forward),
    (images, names),
    shared=(*known, *network),
  )
  nearest = boundary.measure(
    functools.partial(populations.logits, forward),
    images[few],
    names[few],
    params=network,
    method='projection',
    max_gradients=30,
    batch_size=batch,
  )
  before = population.network(0, number)[0]
  return {
    'population': population.name,
    'network': number,
    'step': step,
    'train_accuracy': right(xs[chosen], given[chosen]),
    'test_accuracy': right(*sets['test']),
    'rank': update_rank(before, network[0], xs[0].size),
    'direction': of_images.pop('direction'),
    'normal': nearest.normal,
    **{name: np.mean(v) for name, v in of_images.items()},
    **influence_of(config, sets, population, number, network),
    **found,
  }


def influence_of(config, sets, population, number, network):
  """Mean meeting ratios, and of how many samples the own class leads.

  Others are test images; for random labels, which these have not, training
  images that are no sources.
  """
  xs = sets['train'][0]
  given, seen = population.labels[number], population.rows[number]
  sources = seen[: config.num_sources]
  if population.condition in ('shared', 'own'):
    rest = seen[config.num_sources :][: config.num_images]
    others, theirs = xs[rest], given[rest]
  else:
    others, theirs = (v[: config.num_images] for v in sets['test'])
  ratios = parallel.map_examples(
    programs.bind(meeting_ratios, forward=population.forward),
    (xs[sources], given[sources]),
    shared=(others, *network),
    batch_size=16,
  )
  same = given[sources][:, None] == theirs
  inside, outside = (
    np.ma.masked_array(ratios, ~(mask & np.isfinite(ratios))).mean(1)
    for mask in (same, ~same)
  )
  return {
    'same': inside.mean(),
    'other': outside.mean(),
    'leads': (inside > outside).mean(),
  }


def booked(config, sets, population, rate):
  """Rows: how well added-up influence gives the trained function."""
  xs, labels = sets['train']
  others, truth = (v[: config.num_images] for v in sets['test'])
  classes = int(labels.max()) + 1
  outputs = lambda stats: (
    lambda p, v: population.forward(p, stats, v, None, False)[0][0]
  )

  @jax.jit  # Of all networks the same.
  def fit(params, stats, xs, labels, batches, others):
    return halfway.accumulate(
      outputs(stats),
      params,
      xs,
      labels,
      batches,
      others,
      num_classes=classes,
      learning_rate=rate,
      momentum=0.9,
    )

  rows = []
  for number in range(config.num_networks):
    params, stats = population.network(0, number)
    key = jax.random.fold_in(jax.random.key(config.seed + 2), number)
    batches = jax.random.randint(
      key, (config.booked_steps, config.batch_size), 0, len(xs)
    )
    last, parts = fit(params, stats, xs, labels, batches, others)
    many = jax.vmap(outputs(stats), in_axes=(None, 0))
    start, end = (np.asarray(many(p, others)) for p in (params, last))
    total = np.asarray(parts.sum(0))
    own = np.asarray(parts)[truth, np.arange(len(truth))]
    error = np.sum((end - start - total) ** 2)
    spread = np.sum((end - start - (end - start).mean(0)) ** 2)
    right = lambda logits: float(np.mean(logits.argmax(1) == truth))
    rows.append(
      {
        'network': number,
        'rate': rate,
        'explained': 1 - error / spread,
        'accuracy': right(end),
        'booked_accuracy': right(start + total),
        'without_own_class': right(start + total - own),
      }
    )
  return {name: np.array([row[name] for row in rows]) for name in rows[0]}


def collect(config, run_dir, sets):
  """Trains, then measures step by step: results.npz, one row a network."""
  everyone = populations.build(config, run_dir, sets)
  pairs = segments.draw(config, sets)
  xs, labels = sets['train']
  start, end = (v.reshape(len(v), -1) for v in segments.ends(pairs, sets))
  mixed = start + pairs.place[:, None] * (end - start)
  near = metrics.pairwise_distances_argmin(mixed, xs.reshape(len(xs), -1))
  records.save_columns(
    run_dir / 'pairs.npz',
    {
      'kind': pairs.kind,
      'start': pairs.rows[:, 0],
      'end': pairs.rows[:, 1],
      'place': pairs.place,
      'labels': segments.labels(pairs, sets, labels),
      'neighbour': labels[near],
    },
  )
  path = run_dir / 'booked.npz'
  if config.booked_steps and not records.agree(path.exists()):
    tables = [
      booked(config, sets, everyone[0], rate)
      for rate in (config.learning_rate, config.learning_rate / 10)
    ]
    records.save_columns(path, records.concatenate(tables))
  steps = everyone[0].steps.tolist()

  def compute(done):
    for step in steps[done:]:
      yield measure(config, sets, pairs, everyone, step)

  common.gather(run_dir, [f'step{s}' for s in steps], compute, 'snapshot')


# --- Judging ---------------------------------------------------------------


def summarize(config, run_dir, sets):
  """Every number with n, interval, null and verdict."""
  table = records.load_columns(run_dir / 'results.npz')
  pairs = records.load_columns(run_dir / 'pairs.npz')
  steps = np.unique(table['step']).tolist()
  by_step = {s: records.select(table, step=s) for s in steps}
  names = populations.names(config)
  curves = {
    name: {
      str(s): describe(records.select(by_step[s], population=name), pairs)
      for s in steps
    }
    for name in names
  }
  between = {
    name: {str(s): relation(by_step[s], pairs, *ends) for s in steps}
    for name, ends in relations(config).items()
  }
  summary = {
    'question': flags.question(__doc__),
    'dataset': config.dataset,
    'networks': config.num_networks,
    'steps': steps,
    'pairs': {
      k: int(np.sum(pairs['kind'] == k)) for k in np.unique(pairs['kind'])
    },
    'images': min(config.num_images, len(sets['test'][1])),
    'inputs': int(sets['train'][0][0].size),
    'k': config.k,
    'nearest_neighbour': neighbour(pairs),
    'populations': curves,
    'relations': between,
    'booked': read_booked(run_dir),
  }
  summary['verdicts'] = judge(config, summary)
  return summary


def describe(part, pairs):
  """Entries of one population at one step, over its networks."""
  of_kind = {k: part['fraction'][:, pairs['kind'] == k] for k in segments.KINDS}
  apart = np.abs(part['fraction'] - 0.5) <= BAND
  share = lambda hits, kind: hits[:, pairs['kind'] == kind].mean(1)
  nearer = np.where(
    pairs['place'] < 0.5, pairs['labels'][:, 0], pairs['labels'][:, 1]
  )
  known = np.isin(pairs['kind'], ('train', 'test'))
  columns = {
    name: part[name].astype(float)
    for name in (
      'train_accuracy test_accuracy rank means principal same other leads'
    ).split()
  }
  columns |= {
    'crossed': share(np.isfinite(part['fraction']), 'train'),
    'single': share(part['count'] == 1, 'train'),
    'band': share(apart, 'train'),
    'near_band': share(apart, 'near'),
    'nearer': (part['mixed'] == nearer)[:, known].mean(1),
    'gap': part['same'] - part['other'],
    **{n: part[n][:, known].mean(1) for n in ('third', *SURE)},
    **{f'spread_{k}': spread(v) for k, v in of_kind.items()},
    'near_mean': spread(of_kind['near'], np.nanmean),
  }
  return {
    name: common.entry(statistics.t_mean(v, unit='networks'))
    for name, v in columns.items()
  }


def spread(fractions, of=np.nanstd):
  """Of each network's crossings; NaN where it has fewer than 3."""
  enough = np.isfinite(fractions).sum(1) > 2
  return np.array(
    [
      of(row) if ok else np.nan
      for row, ok in zip(fractions, enough, strict=True)
    ]
  )


def relations(config):
  """Name -> `(population, networks, population, networks)`."""
  everyone, half = slice(None), config.num_networks
  result = {}
  plain = config.models if 'plain' in config.conditions else ()
  for i, a in enumerate(plain):
    for b in plain[i:]:
      result[f'{a} x {b}'] = a, everyone, b, everyone
  for condition in config.conditions:
    name = f'{config.models[0]}-{condition}'
    if condition == 'halves':
      result[f'{name} x {name}'] = name, slice(half), name, slice(half, None)
    elif condition != 'plain':
      result[f'{name} x {name}'] = name, everyone, name, everyone
  return result


def relation(part, pairs, a, of_a, b, of_b):
  """Entries of the pairs of networks of two populations at one step."""
  rows = np.flatnonzero(part['population'] == a)[of_a]
  columns = np.flatnonzero(part['population'] == b)[of_b]
  mixed = part['mixed'][:, np.isin(pairs['kind'], ('train', 'test'))]
  matrices = {
    'cosine': part['cosine'],
    'normals': part['normals'],
    'agreement': np.mean(mixed[:, None] == mixed[None], axis=-1),
    **{
      f'concordance_{kind}': halfway.concordance(
        part['fraction'][:, pairs['kind'] == kind]
      )
      for kind in segments.KINDS
    },
  }
  same = np.array_equal(rows, columns)
  return {
    name: common.entry(
      statistics.pair_mean(
        matrix[np.ix_(rows, columns)], same=same, unit='networks'
      )
    )
    for name, matrix in matrices.items()
  }


def neighbour(pairs):
  """How often the nearest neighbour's class is the nearer end's."""
  known = np.isin(pairs['kind'], ('train', 'test'))
  side = (pairs['place'] >= 0.5).astype(int)
  nearer = np.take_along_axis(pairs['labels'], side[:, None], 1)[:, 0]
  return common.entry(
    statistics.proportion((nearer == pairs['neighbour'])[known], unit='pairs')
  )


def read_booked(run_dir):
  path = run_dir / 'booked.npz'
  if not path.exists():
    return []
  table = records.load_columns(path)
  return [
    {
      'rate': float(rate),
      **{
        name: common.entry(
          statistics.t_mean(
            records.select(table, rate=rate)[name], unit='networks'
          )
        )
        for name in (
          'explained accuracy booked_accuracy without_own_class'.split()
        )
      },
    }
    for rate in dict.fromkeys(table['rate'])
  ]


def judge(config, summary):
  """The rules of the module's docstring: reading -> verdict and why."""
  if 'plain' not in config.conditions:
    return {}
  everything = summary['populations'] | summary['relations']
  ends = [str(summary['steps'][i]) for i in (0, -1)]
  start, end = (
    {name: curve[step] for name, curve in everything.items()} for step in ends
  )
  first = config.models[0]
  found = {
    'R1': _in_space(summary['populations'][first], end, first),
    'R1, strong form': _as_neighbours(summary, end, first),
    'R2': _under_influence(start, end, first),
    'R3': _together(start, end, first),
    'R4': _from_halves(end, first),
  }
  return {
    name: {'verdict': common.decide(*parts[:2]), 'why': parts[2]}
    for name, parts in found.items()
    if parts
  }


def text(entry):
  return common.with_interval(entry, '.3f')


def _in_space(history, end, first):
  if (null := end.get(f'{first}-shared')) is None:
    return None
  early = (c for c in history.values() if c['crossed']['value'] >= MOST)
  mine = end[first]['spread_train']
  nulls = null['spread_train'], next(early, end[first])['spread_train']
  return (
    [common.below(mine, other) for other in nulls],
    [common.below(other, mine) for other in nulls],
    f'spread of t* {text(mine)}; shared random labels, of which '
    f'{null["train_accuracy"]["value"]:.0%} are learned, {text(nulls[0])}; '
    f'when {MOST:.0%} first crossed {text(nulls[1])}',
  )


def _as_neighbours(summary, end, first):
  mine = end[first]['nearer']
  between = end[f'{first} x {first}']['agreement']
  return (
    [common.below(between, mine)],
    [common.below(mine, between)],
    f'agreement with the nearer end {text(mine)}, with another network '
    f'{text(between)}; the nearest neighbour and the nearer end '
    f'{text(summary["nearest_neighbour"])}',
  )


def _under_influence(start, end, first):
  lead, gaps = start[first]['leads'], (start[first]['gap'], end[first]['gap'])
  null = end.get(f'{first}-own')
  return (
    [common.below(MOST, lead), common.below(*gaps)],
    [common.below(lead, MOST), common.below(*gaps[::-1])],
    f'own class carried farther from {text(lead)} of the samples before '
    f'training; gap {text(gaps[0])} then, {text(gaps[1])} at the end'
    + (f'; own random labels {text(null["gap"])}' if null else ''),
  )


def _together(start, end, first):
  name = f'{first} x {first}'
  agree = {
    n: c['concordance_train']
    for n, c in end.items()
    if ' x ' in n and len({*n.split(' x ')}) > 1
  }
  if not agree:
    return None
  aligned, nulls = end[name]['cosine'], [start[name]['cosine']]
  said = f'cosine {text(aligned)}, before training {text(nulls[0])}'
  if (own := f'{first}-own x {first}-own') in end:
    nulls.append(end[own]['cosine'])
    said += f', own random labels {text(nulls[1])}'
  return (
    [common.below(CONCORDANT, a) for a in agree.values()]
    + [common.below(null, aligned) for null in nulls],
    [common.below(a, CONCORDANT) for a in agree.values()]
    + [common.below(aligned, null) for null in nulls],
    'concordance '
    + ', '.join(f'{n} {text(a)}' for n, a in agree.items())
    + f'; {said}',
  )


def _from_halves(end, first):
  both = [f'{first}-{c} x {first}-{c}' for c in ('halves', 'shared')]
  if not all(name in end for name in both):
    return None
  half, null = (end[name]['concordance_train'] for name in both)
  return (
    [common.below(CONCORDANT, half), common.below(null, half)],
    [common.below(half, CONCORDANT), common.below(half, null)],
    f'concordance of halves {text(half)}, of networks on shared random labels '
    f'{text(null)}',
  )


def report(summary):
  """Prints the summary as tables."""
  last, first = (str(summary['steps'][i]) for i in (-1, 0))
  cell = lambda entry, spec='.3f': (
    '-' if np.isnan(entry['value']) else common.with_interval(entry, spec)
  )
  print(
    f'\n{summary["dataset"]}, {summary["networks"]} networks each, after '
    f'{last} steps; {summary["pairs"]["train"]} pairs of opposite samples. '
    'Means over networks [95 %].\n\nWhere the boundary crosses (t*, 0.5 is '
    'halfway)'
  )
  common.print_table(
    [
      'networks',
      'right, test',
      'fitted',
      'spread, train',
      'spread, test',
      'within .4-.6',
      'one crossing',
      'nearest pairs: mean',
      'within .4-.6',
      'as nearer end',
    ],
    [
      [
        name,
        cell(c[last]['test_accuracy']),
        f'{c[last]["train_accuracy"]["value"]:.3f}',
        cell(c[last]['spread_train']),
        '-' if is_random(name) else cell(c[last]['spread_test']),
        cell(c[last]['band']),
        f'{c[last]["single"]["value"]:.3f}',
        cell(c[last]['near_mean']),
        f'{c[last]["near_band"]["value"]:.3f}',
        '-' if is_random(name) else cell(c[last]['nearer']),
      ]
      for name, c in summary['populations'].items()
    ],
  )
  print('\nBetween networks')
  common.print_table(
    [
      'networks',
      'concordance, train',
      'test',
      'nearest pairs',
      'same class between',
      'cosine',
      f'at step {first}',
      'of normals',
    ],
    [
      [
        name,
        cell(c[last]['concordance_train']),
        '-' if is_random(name) else cell(c[last]['concordance_test']),
        cell(c[last]['concordance_near']),
        cell(c[last]['agreement']),
        cell(c[last]['cosine']),
        cell(c[first]['cosine']),
        cell(c[last]['normals']),
      ]
      for name, c in summary['relations'].items()
    ],
  )
  print(
    '\nOne step at a sample (meeting ratios), and adversarial directions: '
    'cosine with the difference of class means, squared part in the first '
    f'{summary["k"]} principal directions (random '
    f'{summary["k"] / summary["inputs"]:.3f})'
  )
  common.print_table(
    [
      'networks',
      'own class',
      'others',
      'own ahead, step 0',
      'at the end',
      'means',
      'principal',
      'rank of update',
    ],
    [
      [
        name,
        cell(c[last]['same']),
        cell(c[last]['other']),
        cell(c[first]['leads']),
        cell(c[last]['leads']),
        cell(c[last]['means']),
        cell(c[last]['principal']),
        cell(c[last]['rank'], '.1f'),
      ]
      for name, c in summary['populations'].items()
    ],
  )
  for row in summary['booked']:
    print(
      f'\nAdded-up influence at rate {row["rate"]:g}: explains '
      f'{cell(row["explained"])} of the change of logits; right on test '
      f'{cell(row["booked_accuracy"])}, the network {cell(row["accuracy"])}, '
      f'without the own class {cell(row["without_own_class"])}'
    )
  print()
  for name, entry in summary['verdicts'].items():
    print(f'{name}: {entry["verdict"]} ({entry["why"]})')


def is_random(name):
  return name.endswith(('-shared', '-own'))


if __name__ == '__main__':
  flags.main(run, Config, PRESETS)
