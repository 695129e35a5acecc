"""How many bits have to flip until a network changes its mind?

De Palma, Kiani, Lloyd (2019), https://arxiv.org/abs/1812.10156: a random ReLU
network's class of a string of n signs changes within about sqrt(n / (2 pi ln
n)) flips of chosen bits, |f| / 2 sqrt(n / ln n) given the output f in units of
its standard deviation, but only after a share of n flips of random ones. Draws
their networks n-n-n-1 (no biases), starts at the string of ones, and flips
greedily: all single flips are tried, the one that moves the output most is
kept, and again.

  python -m experiments.bit_strings
  python -m experiments.bit_strings --preset=mnist --data_dir=DIR

The first takes 10 minutes on 2 CPU cores, --preset=quick one, whose sizes stop
at 1000 bits, where a is larger: 0.448 [0.442, 0.454]. A run killed at any
moment goes on where it was, to the same bytes.

Seen (default; 2000 networks of 100 bits to 12 of 10,000): greedy flips fit
0.415 [0.404, 0.422] sqrt(n / ln n), within 5 % of the authors' 0.405, with a
residual of 0.32 [0.28, 0.43] flips, beside 0.76 [0.70, 0.88] of 0.142 sqrt(n).
At n = 10,000 they are 13.4 [12.8, 13.9], 13.2 by the infinite network to first
order, 13.15 by its leading order; at n = 100 still 2.48 [2.45, 2.50] beside
2.24 and 1.86: whole flips, of which half a one too many is needed, and
curvature. Their slope on |f| is 0.515 [0.477, 0.548] sqrt(n / ln n) at n =
10,000, correlation 0.997; 1/2 is expected. No flip taken was beyond place 51 of
the gradient's order (10 at n = 10,000), so that the screen changes none of the
3800 networks that were searched fully. All strings of up to 3 flips hold a
nearer one in 2.0 % [0.9 %, 4.3 %] of 300 networks of 100 bits. Random flips are
0.367 [0.344, 0.389] n at n = 1000, the exact law's 0.366; at large n 0.351
[0.341, 0.361] n: undecided whether within 5 % of 0.334, which the law itself,
0.347, is. Some 15 % of networks do not change at all in n random flips.

Seen on MNIST (--preset=mnist, 6 minutes; 5 networks, 99.0 % right at test
images, 20 strings of each kind): 9.8 [8.9, 10.7] flips at images of training,
10.2 [8.9, 11.4] at new ones, 4.9 [3.9, 5.9] at random bits; the authors' are
about 10.5, 10.3 and 4.6. Untrained networks: 4.6 [2.9, 7.0], 5.0 [3.5, 7.7],
7.6 [4.5, 10.8]. Trained ones are farther at images, 2.15 [1.52, 3.24] and 2.03
[1.35, 3.12] times; at random bits that is undecided, 0.64 [0.40, 1.09].

Above --full_size bits, only the --candidates flips that the gradient ranks
first are evaluated, exactly. `rank` is the worst place in that order that a
flip taken had; up to --full_size, where all are evaluated, networks whose rank
reaches --candidates are those that the screen would have changed (`screened`).
Greedy distances of 1 and 2 are exact; at the smallest size all strings up to
--reach flips are tried besides, and `nearer` is the share of networks where
that finds a nearer one. Beside the data stand two predictions without a fit:
the greedy distance of an infinitely wide network to first order, and its random
flips, exactly (`law`). Networks that no random flips change count as n there.

Given --dataset, networks are trained on images of bits (pixels above
--threshold; labels odd or even) and measured, from their own class, at images
that they saw, at new ones and at random strings of 0 and 1, beside untrained
ones.

Means of greedy distances are taken at the known mean of |f|, sqrt(2 / pi) up to
terms of 1 / n, by regression on |f|: the scatter of |f| is most of theirs.
`plain` ones are not. Intervals, at 95 %, are bootstrapped over networks.
Verdicts, by rules fixed here: the constant a of the fit a sqrt(n / ln n), by
least squares of the means, agrees with the authors' 0.405 "within 5 %" if its
interval lies there, "not within 5 %" if it lies outside, else "undecided"; one
fit is "better" than the other, a sqrt(n), if the interval of the difference of
their root mean square residuals excludes 0; flips grow linearly with |f| if the
correlation's interval at the largest n lies above 0.95. Random flips are held
against 0.334 n by the same 5 %: the infinite network's share of n at large n,
from its means c + b / sqrt(n), times the mean ratio of networks to it. Trained
networks are "farther" ("nearer") than untrained ones at images of one kind if
the interval of the ratio of mean distances lies above (below) 1.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from dmm_jax import bit_strings
from dmm_jax import data
from dmm_jax import parallel
from dmm_jax import plots
from dmm_jax import programs
from dmm_jax import records
from dmm_jax import statistics
from dmm_jax import train
from experiments import common
from experiments.lib import flags

# The authors' fits, of their poster at NeurIPS 2019.
GREEDY, RANDOM, TOLERANCE = 0.405, 0.334, 0.05
BITS = (0.0, 1.0)
PARTS = 10  # Of the networks of one size, at most: what a kill can cost.


@dataclasses.dataclass(frozen=True)
class Config:
  preset: str = flags.flag(
    'default', 'Values for the flags not given: default, quick, digits, mnist.'
  )
  workdir: str = flags.flag('runs/bit_strings', 'Run directory.')
  seed: int = flags.flag(0, 'Of weights, orders and strings.', least=0)
  sizes: tuple[int, ...] = flags.flag(
    (100, 250, 500, 1000, 2500, 5000, 10000), 'Bits, flipped greedily.', least=8
  )
  num_networks: tuple[int, ...] = flags.flag(
    (2000, 1000, 500, 300, 80, 30, 12), 'Networks of each size.', least=2
  )
  full_size: int = flags.flag(1000, 'Up to it all flips are tried.', least=1)
  candidates: int = flags.flag(128, 'Flips tried above it.', least=1)
  reach: int = flags.flag(3, 'Flips of the exhaustive search.', least=1)
  num_exhaustive: int = flags.flag(300, 'Networks that have one.', least=2)
  random_sizes: tuple[int, ...] = flags.flag(
    (100, 200, 500, 1000), 'Bits, flipped in random order.', least=8
  )
  num_random: int = flags.flag(600, 'Networks of each of them.', least=2)
  orders: int = flags.flag(4, 'Random orders a network.', least=1)
  dataset: str = flags.flag(
    '', 'Empty for random networks; or digits, or an image set.'
  )
  data_dir: str = flags.flag('', 'Of tensorflow-datasets.')
  threshold: float = flags.flag(
    25 / 255, 'Of pixels that are 1.', least=0, most=1
  )
  num_trained: int = flags.flag(8, 'Networks, if there are images.', least=2)
  num_examples: int = flags.flag(20, 'Images of each kind.', least=1)
  epochs: int = flags.flag(20, 'Of training.', least=1)


PRESETS = {
  'default': {},
  'quick': dict(
    workdir='runs/bit_strings_quick',
    sizes=(100, 250, 500, 1000),
    num_networks=(600, 300, 150, 60),
    full_size=500,
    candidates=64,
    num_exhaustive=60,
    random_sizes=(100, 200, 500),
    num_random=200,
  ),
  'digits': dict(
    workdir='runs/bit_strings_digits',
    dataset='digits',
    threshold=0.5,
    num_trained=20,
    num_examples=50,
  ),
  'mnist': dict(
    workdir='runs/bit_strings_mnist',
    dataset='mnist',
    num_trained=5,
    num_examples=20,
    epochs=2,
  ),
}


def run(config: Config) -> dict:
  """Runs the experiment, and returns what it wrote to summary.json."""
  flags.check(config)
  if len(config.num_networks) != len(config.sizes):
    raise flags.FlagError(
      f'--num_networks has {len(config.num_networks)} numbers, --sizes '
      f'{len(config.sizes)}: one for each'
    )
  work = functools.partial(
    common.conduct, config, 'experiments.bit_strings', draw=plots.bit_strings
  )
  if not config.dataset:
    return work(collect=collect, summarize=summarize, report=report)
  sets = {
    split: as_bits(
      config, *data.load(config.dataset, split, config.data_dir or None)
    )
    for split in ('train', 'test')
  }
  return work(
    collect=lambda config, run_dir: collect_images(config, run_dir, sets),
    summarize=summarize_images,
    report=report_images,
  )


# --- Random networks -------------------------------------------------------


def network_key(config, n, i):
  key = jax.random.fold_in(jax.random.key(config.seed), n)
  return jax.random.fold_in(key, i)


def measure_network(i, *, config, kind, n):
  """Columns of a network by its number, with its weights drawn inside."""
  candidates = 0 if n <= config.full_size else config.candidates
  key = network_key(config, n, i)
  network, x = bit_strings.draw(key, n), jnp.ones(n)
  if kind == 'greedy':
    return bit_strings.greedy(network, x, candidates=candidates)._asdict()
  if kind == 'exhaustive':
    flips = bit_strings.exhaustive(network, x, reach=config.reach)
  else:
    keys = jax.random.split(jax.random.fold_in(key, 1), config.orders)
    one = lambda k: bit_strings.random_flips(k, network, x)
    flips = jax.lax.map(one, keys)
  return {'flips': flips, 'output': bit_strings.output(network, x)}


def units(config):
  """`(kind, n, networks)` of all there is to do."""
  return [
    *(
      ('greedy', n, m)
      for n, m in zip(config.sizes, config.num_networks, strict=True)
    ),
    ('exhaustive', config.sizes[0], config.num_exhaustive),
    *(('random', n, config.num_random) for n in config.random_sizes),
  ]


def collect(config, run_dir):
  """results.npz, one row a (kind, n, network, order)."""
  parts = [
    (kind, n, np.arange(start, min(start + step, m)))
    for kind, n, m in units(config)
    for step in [-(-m // PARTS)]
    for start in range(0, m, step)
  ]

  def compute(done):
    for kind, n, rows in parts[done:]:
      # Every network has its own weights: one after the other.
      measure = programs.bind(measure_network, config=config, kind=kind, n=n)
      found = parallel.map_examples(
        measure, (rows,), batch_size=len(rows), vmap_size=1
      )
      yield to_rows(kind, n, rows, found)

  names = [f'{kind}-{n}-{rows[0]:05d}' for kind, n, rows in parts]
  common.gather(run_dir, names, compute, 'part')


def to_rows(kind, n, networks, found):
  """Columns of one part; those that a kind does not have are NaN."""
  flips = found['flips'].reshape(len(networks), -1)
  orders = flips.shape[1]
  spread = lambda column: np.repeat(column, orders).astype(np.float32)
  missing = np.full(len(networks), np.nan)
  return {
    'kind': np.full(flips.size, kind, 'U10'),
    'n': np.full(flips.size, n, np.int32),
    'network': np.repeat(networks, orders).astype(np.int32),
    'flips': flips.ravel().astype(np.float32),
    'output': spread(found['output']),
    'straight': spread(found.get('straight', missing)),
    'rank': spread(found.get('rank', missing)),
  }


# --- Judging ---------------------------------------------------------------


def law(n):
  """sqrt(n / ln n)."""
  n = np.asarray(n, float)
  return np.sqrt(n / np.log(n))


def margin(part):
  """|f| in units of the output's standard deviation at infinite width."""
  n = part['n']
  return np.abs(part['output']) / np.sqrt(2 * n / (n + 1))


def controlled(values):
  """Mean of flips at the known mean of |f|, of `[..., m, (flips, |f|)]`."""
  flips, size = values[..., 0], values[..., 1]
  slope, _ = line(values)
  return flips.mean(-1) - slope * (size.mean(-1) - np.sqrt(2 / np.pi))


def line(values):
  """`(slope of flips on |f|, their correlation)`, likewise."""
  # NaN where a search found nothing, or all values are the same.
  with np.errstate(invalid='ignore', divide='ignore'):
    centred = values - values.mean(-2, keepdims=True)
    both = (centred[..., 0] * centred[..., 1]).mean(-1)
    spread = (centred**2).mean(-2)
    slope = both / spread[..., 1]
    return slope, both / np.sqrt(spread[..., 0] * spread[..., 1])


def scale(means, basis):
  """Least squares `a` of `means ~ a basis` over the last axis, and its rms."""
  a = means @ basis / (basis @ basis)
  return a, np.sqrt(np.mean((means - a[..., None] * basis) ** 2, axis=-1))


def summarize(config, run_dir):
  """Every number with n, interval, null and verdict."""
  table = records.load_columns(run_dir / 'results.npz')
  part = lambda kind, n: records.select(table, kind=kind, n=n)
  samples = [
    np.stack([found['flips'], margin(found)], -1).astype(float)
    for found in (part('greedy', n) for n in config.sizes)
  ]
  rows = [
    greedy_row(config, n, part('greedy', n), sample)
    for n, sample in zip(config.sizes, samples, strict=True)
  ]
  first = config.sizes[0]
  randomly = [
    random_row(n, part('random', n), config) for n in config.random_sizes
  ]
  return {
    'question': flags.question(__doc__),
    'rows': rows,
    'fit': fits(np.array(config.sizes), samples, rows),
    'exhaustive': nearer(
      config, part('exhaustive', first), part('greedy', first)
    ),
    'random': randomly,
    'random_share': random_share(
      randomly, [part('random', n) for n in config.random_sizes]
    ),
  }


def greedy_row(config, n, found, sample):
  """What one size says of greedy flips."""
  entry = lambda f, v: common.entry(statistics.estimate(f, v, unit='networks'))
  full = n <= config.full_size
  return {
    'n': int(n),
    'networks': len(sample),
    'not_found': common.entry(
      statistics.proportion(np.isinf(found['flips']), unit='networks')
    ),
    'mean': entry(controlled, sample),
    'plain': entry(lambda v: v[..., 0].mean(-1), sample),
    'size': common.entry(statistics.mean(sample[:, 1], unit='networks')),
    'a': entry(lambda v: controlled(v) / law(n), sample),
    'slope': entry(lambda v: line(v)[0] / law(n), sample),
    'correlation': entry(lambda v: line(v)[1], sample),
    'straight': common.entry(
      statistics.mean(found['straight'], unit='networks')
    ),
    'law': float(bit_strings.greedy_law(n).mean()),
    'leading': float(law(n) / np.sqrt(2 * np.pi)),
    'rank': int(found['rank'].max()),
    'tried': int(n if full else config.candidates),
    'screened': common.entry(
      statistics.proportion(found['rank'] >= config.candidates, unit='networks')
    )
    if full
    else None,
  }


def fits(n, samples, rows):
  """Both fits of the means, and the verdicts."""
  bases = {'sqrt(n/ln n)': law(n), 'sqrt(n)': np.sqrt(n)}
  means = lambda *parts: np.stack([controlled(p) for p in parts], -1)
  found = {}
  for name, basis in bases.items():
    for i, what in enumerate(('a', 'residual')):
      of = lambda *parts, i=i, basis=basis: scale(means(*parts), basis)[i]
      found.setdefault(name, {})[what] = common.entry(
        statistics.estimate(of, *samples, unit='networks')
      )

  def worse(*parts):
    values = means(*parts)
    return scale(values, np.sqrt(n))[1] - scale(values, law(n))[1]

  difference = common.entry(
    statistics.estimate(worse, *samples, unit='networks')
  )
  of_law, _ = scale(np.array([row['law'] for row in rows]), law(n))
  return {
    **found,
    'excess_of_sqrt(n)': difference,
    'infinite_a': float(of_law),
    'verdicts': [
      f'a {agreement(found["sqrt(n/ln n)"]["a"]["interval"], GREEDY)} of '
      f'{GREEDY}',
      better(difference['interval']),
      linear(rows[-1]['correlation']['interval']),
    ],
  }


def agreement(interval, value):
  """The rule of the module's docstring, in words."""
  low, high = value * (1 - TOLERANCE), value * (1 + TOLERANCE)
  if low <= interval[0] and interval[1] <= high:
    return 'within 5 %'
  if interval[0] > high or interval[1] < low:
    return 'not within 5 %'
  return 'undecided, within 5 % or not,'


def better(interval):
  if interval[0] > 0:
    return 'sqrt(n/ln n) fits better than sqrt(n)'
  if interval[1] < 0:
    return 'sqrt(n) fits better than sqrt(n/ln n)'
  return 'undecided which fits better'


def linear(interval):
  return 'linear in |f|' if interval[0] > 0.95 else 'not seen to be linear'


def nearer(config, exact, found):
  """Where trying all strings finds a nearer one than greed does."""
  bound = found['flips'][: len(exact['flips'])]
  num = min(len(bound), len(exact['flips']))
  nearest, bound = exact['flips'][:num], bound[:num]
  within = bound <= config.reach
  return {
    'n': int(exact['n'][0]),
    'networks': num,
    'reach': config.reach,
    'within': common.entry(statistics.proportion(within, unit='networks')),
    'nearer': common.entry(
      statistics.proportion(nearest < bound, unit='networks')
    ),
  }


def capped(found, orders):
  """Random flips by network `[m, orders]`, n where none change the class."""
  flips = np.minimum(found['flips'], found['n'])
  return flips.reshape(-1, orders).astype(float)


def random_row(n, found, config):
  drawn = bit_strings.random_law(n)
  mean = lambda v: v.mean((-2, -1)) / n
  flips = capped(found, config.orders)
  never = np.isinf(found['flips']).reshape(flips.shape).astype(float)
  return {
    'n': int(n),
    'networks': len(flips),
    'orders': config.orders,
    'share': common.entry(statistics.estimate(mean, flips, unit='networks')),
    'law': float(np.minimum(drawn, n).mean() / n),
    'never': common.entry(
      statistics.estimate(lambda v: v.mean((-2, -1)), never, unit='networks')
    ),
    'law_never': float(np.isinf(drawn).mean()),
  }


def random_share(rows, parts):
  """The share of n at large n, and its verdict."""
  n = np.array([row['n'] for row in rows], float)
  laws = np.array([row['law'] for row in rows])
  samples = [
    capped(part, row['orders']) for part, row in zip(parts, rows, strict=True)
  ]

  def ratio(*values):
    each = [
      v.mean((-2, -1)) / size for v, size in zip(values, n * laws, strict=True)
    ]
    return np.mean(each, axis=0)

  design = np.stack([np.ones_like(n), n**-0.5], -1)
  limit = float(np.linalg.lstsq(design, laws, rcond=None)[0][0])
  share = common.entry(
    statistics.estimate(lambda *v: limit * ratio(*v), *samples, unit='networks')
  )
  return {
    'infinite_limit': limit,
    'ratio': common.entry(
      statistics.estimate(ratio, *samples, unit='networks')
    ),
    'limit': share,
    'verdict': f'random flips {agreement(share["interval"], RANDOM)} of '
    f'{RANDOM} n',
  }


def report(summary):
  """Prints the summary as tables."""
  show = common.with_interval
  lines = [
    [
      str(row['n']),
      str(row['networks']),
      show(row['mean'], '.2f'),
      f'{row["plain"]["value"]:.2f}',
      f'{row["law"]:.2f}',
      f'{row["leading"]:.2f}',
      show(row['a'], '.3f'),
      show(row['slope'], '.3f'),
      f'{row["correlation"]["value"]:.3f}',
      f'{row["rank"]}/{row["tried"]}',
    ]
    for row in summary['rows']
  ]
  print('\ngreedy flips until the class changes; 95 % intervals\n')
  header = 'bits,networks,mean flips [95 %],plain,law,leading,'
  header += 'over sqrt(n/ln n),slope on |f| over it,correlation,rank'
  common.print_table(header.split(','), lines)
  fit = summary['fit']
  for name in ('sqrt(n/ln n)', 'sqrt(n)'):
    print(
      f'fit {show(fit[name]["a"], ".4f")} {name}, residual '
      f'{show(fit[name]["residual"], ".2f")} flips'
    )
  print(f'infinite width, to first order: {fit["infinite_a"]:.4f} sqrt(n/ln n)')
  print('; '.join(fit['verdicts']))
  best = summary['exhaustive']
  print(
    f'all strings up to {best["reach"]} flips at n = {best["n"]}: nearer in '
    f'{show(best["nearer"], ".1%")} of {best["networks"]} networks\n'
  )
  lines = [
    [
      str(row['n']),
      str(row['networks']),
      show(row['share'], '.3f'),
      f'{row["law"]:.3f}',
      show(row['never'], '.1%'),
      f'{row["law_never"]:.1%}',
    ]
    for row in summary['random']
  ]
  header = 'bits,networks,random flips / n [95 %],law,never,law never'
  common.print_table(header.split(','), lines)
  share = summary['random_share']
  print(
    f'at large n {show(share["limit"], ".3f")}, infinite width '
    f'{share["infinite_limit"]:.3f}: {share["verdict"]}'
  )


# --- Images ----------------------------------------------------------------


def as_bits(config, xs, labels):
  """Images as strings of 0 and 1 `[m, n]`, and parities."""
  bits = (xs > config.threshold).astype(np.float32).reshape(len(xs), -1)
  return bits, data.parity(labels)


def _forward(params, stats, x, key, train):
  del key, train
  value = bit_strings.output(params, x)
  return (jnp.stack([jnp.zeros_like(value), value]), {}), stats


forward = programs.bind(_forward)


def fit(config, key, xs, labels):
  """`(network before training, after)`."""
  weights, order = jax.random.split(key)
  before = bit_strings.draw(weights, xs.shape[1])
  plan = train.TrainConfig(schedule='constant', num_epochs=config.epochs)
  inner = train.make_optimizer(plan, len(xs)).init(before)
  state = train.State(before, {}, inner)
  for pause in train.fit(order, forward, state, xs, labels, config=plan):
    after = pause.state.params
  return jax.device_get((before, after))


def flip_bits(x, network):
  found = bit_strings.greedy(network, x, symbols=BITS)
  return {name: getattr(found, name) for name in ('flips', 'output')}


def collect_images(config, run_dir, sets):
  """results.npz, one row a (network, trained or not, image)."""
  n = sets['train'][0].shape[1]

  def compute(done):
    for i in range(done, config.num_trained):
      key = network_key(config, n, i)
      networks = fit(config, key, *sets['train'])
      xs, labels, kinds = choose(config, key, sets)
      for_each = []
      for trained, network in enumerate(networks):
        found = parallel.map_examples(
          programs.bind(flip_bits), (xs,), shared=(network,), vmap_size=1
        )
        for_each.append(
          {
            'kind': kinds,
            'network': np.full(len(xs), i, np.int32),
            'trained': np.full(len(xs), bool(trained)),
            'n': np.full(len(xs), n, np.int32),
            'right': (found['output'] > 0) == labels,
            **found,
          }
        )
      yield records.concatenate(for_each)

  names = [f'network{i}' for i in range(config.num_trained)]
  common.gather(run_dir, names, compute, 'network')


def choose(config, key, sets):
  """Strings of each kind, drawn for one network: `(xs, labels, kinds)`."""
  draws, shape = [], (config.num_examples, sets['train'][0].shape[1])
  for i, (xs, labels) in enumerate(sets.values()):
    rows = jax.random.choice(jax.random.fold_in(key, i), len(xs), shape[:1])
    draws.append((xs[np.asarray(rows)], labels[np.asarray(rows)]))
  noise = jax.random.bernoulli(jax.random.fold_in(key, 2), shape=shape)
  draws.append((np.asarray(noise, np.float32), np.full(shape[0], -1)))
  xs, labels = (np.concatenate(column) for column in zip(*draws, strict=True))
  return xs, labels, np.repeat(['train', 'test', 'random'], shape[0])


def summarize_images(config, run_dir):
  """Mean distances by kind of string, trained beside untrained."""
  table = records.load_columns(run_dir / 'results.npz')
  grid = lambda part, column: (
    part[column].astype(float).reshape(config.num_trained, -1)
  )
  mean = lambda v: v.mean((-2, -1))
  rows = []
  for kind in ('train', 'test', 'random'):
    of = [
      records.select(table, kind=kind, trained=trained)
      for trained in (False, True)
    ]
    null, found = (grid(part, 'flips') for part in of)
    both = np.stack([found, null], -1)
    ratio = lambda v: v[..., 0].mean(-1) / v[..., 1].mean(-1)
    over = common.entry(
      statistics.estimate(ratio, both.mean(1), unit='networks')
    )
    row = {
      'kind': kind,
      'networks': len(found),
      'strings': found.size,
      'trained': common.entry(
        statistics.estimate(mean, found, unit='networks')
      ),
      'untrained': common.entry(
        statistics.estimate(mean, null, unit='networks')
      ),
      'over_untrained': over,
      'verdict': beside(over['interval']),
    }
    if kind != 'random':
      right = grid(of[1], 'right')
      row['right'] = common.entry(
        statistics.estimate(mean, right, unit='networks')
      )
      for name, keep in (('of_right', right), ('of_wrong', 1 - right)):
        row[name] = among(found, keep)
    rows.append(row)
  n = int(table['n'][0])
  return {
    'question': flags.question(__doc__),
    'dataset': config.dataset,
    'n': n,
    'leading': float(law(n) / np.sqrt(2 * np.pi)),
    'rows': rows,
  }


def among(flips, keep):
  """Mean flips of the strings that are kept, by networks."""
  pair = np.stack([(flips * keep).sum(1), keep.sum(1)], -1)

  def mean(v):
    with np.errstate(invalid='ignore', divide='ignore'):
      return v[..., 0].sum(-1) / v[..., 1].sum(-1)

  return common.entry(statistics.estimate(mean, pair, unit='networks')) | {
    'strings': int(keep.sum())
  }


def beside(interval):
  low, high = interval
  return 'farther' if low > 1 else 'nearer' if high < 1 else 'undecided'


def report_images(summary):
  """Prints the summary as a table."""
  show = common.with_interval
  print(
    f'\n{summary["dataset"]}, {summary["n"]} bits: greedy flips; random '
    f'networks, leading order: {summary["leading"]:.2f}\n'
  )
  lines = [
    [
      row['kind'],
      str(row['networks']),
      str(row['strings']),
      show(row['right'], '.1%') if 'right' in row else '-',
      show(row['trained'], '.2f'),
      show(row['untrained'], '.2f'),
      show(row['over_untrained'], '.2f'),
      *(
        show(row[name], '.1f') if row.get(name, {}).get('strings') else '-'
        for name in ('of_right', 'of_wrong')
      ),
      row['verdict'],
    ]
    for row in summary['rows']
  ]
  header = 'strings,networks,count,right,trained [95 %],untrained,ratio,'
  header += 'where right,where wrong,verdict'
  common.print_table(header.split(','), lines)


if __name__ == '__main__':
  flags.main(run, Config, PRESETS)
