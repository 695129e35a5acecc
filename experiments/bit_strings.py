"""How many bits have to flip until a random network changes its mind?

De Palma, Kiani, Lloyd (2019), https://arxiv.org/abs/1812.10156: random deep
networks "are biased towards simple functions". To reach the closest string of
another class takes sqrt(n / (2 pi ln n)) flips of n bits at least, on average,
and flips of random bits take a share of n; in a uniformly random function both
would be 1 and 2.

  python -m experiments.bit_strings

It takes 5 minutes on 2 CPU cores, --preset=quick 1. A run that was killed goes
on where it was. What training does to strings: experiments.bit_images.

Networks n-n-n-1 without biases are drawn as the authors draw them. From the
string of ones bits are flipped greedily, all single flips tried and that kept
which moves the output f most; and in random order. Greed finds an upper bound
of the distance, exact up to 2 flips. Above --full_size bits only the
--candidates flips that the gradient ranks first are tried; `rank`, the worst
place there of a flip that was taken, says whether that could matter. At the
smallest size all strings up to 3 flips are tried: a lower bound.

Beside the data stand two predictions without a fit: greedy flips of an
infinitely wide network to first order, and its random flips, exactly. The
network is the unit of all intervals. Means of greedy flips are taken at the
known mean of |f| in units of its standard deviation, sqrt(2 / pi), by
regression on |f|, whose scatter is most of theirs; `raw` ones are not.

The share of n that random flips take at large n is that of the infinite
network, extrapolated from its means by c + b / sqrt(n), times the mean ratio of
networks to it; flips that never change the class count as n. Numbers in claims
are the authors'; ours have to lie within 5 % of them. Nothing is tested where
greed did not change a class, or the screen had changed more than 5 % of the
networks that were searched fully.
"""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np

from dmm_jax import bit_strings
from dmm_jax import parallel
from dmm_jax import programs
from dmm_jax import records
from dmm_jax import statistics
from experiments.figures import bit_strings as figures
from experiments.lib import claims
from experiments.lib import flags
from experiments.lib import runner
from experiments.lib import tables

PAPER = '1812.10156'
# The authors' fits, of their poster at NeurIPS 2019, and how near ours must be.
GREEDY, RANDOM, TOLERANCE = 0.405, 0.334, 0.05
LEAST = 1 / np.sqrt(2 * np.pi)
LEAST_CORRELATION = 0.95
SLOPE_TOLERANCE = 0.1
MOST_SCREENED = 0.05  # Share of networks, where a claim is tested.
REACH = 3  # Most flips of strings that are all tried.
ORDERS = 4  # Random ones, of each network.
PARTS = 10  # Of the networks of one size, at most: what a kill can cost.


@dataclasses.dataclass(frozen=True)
class Config:
  preset: str = flags.preset()
  workdir: str = flags.workdir('runs/bit_strings')
  seed: int = flags.seed()
  sizes: tuple[int, ...] = flags.flag(
    (100, 250, 500, 1000, 2500, 5000, 10000),
    'Numbers of bits, flipped greedily.',
    least=8,
  )
  num_networks: tuple[int, ...] = flags.flag(
    (2000, 1000, 500, 300, 80, 30, 12), 'Networks of each size.', least=2
  )
  full_size: int = flags.flag(
    1000, 'Number of bits up to which all single flips are tried.', least=1
  )
  candidates: int = flags.flag(
    128, 'Flips tried where there are more bits.', least=1
  )
  num_exhaustive: int = flags.flag(
    300, 'Networks of the smallest size whose strings are tried.', least=2
  )
  random_sizes: tuple[int, ...] = flags.flag(
    (100, 200, 500, 1000), 'Numbers of bits, flipped in random order.', least=8
  )
  num_random: int = flags.flag(600, 'Networks of each of them.', least=2)


PRESETS = {
  'default': {},
  'quick': dict(
    sizes=(100, 250, 500, 1000),
    num_networks=(600, 300, 150, 60),
    full_size=500,
    candidates=64,
    num_exhaustive=60,
    random_sizes=(100, 200, 500),
  ),
}
COLUMNS = {
  'n': ('bits', 'length of the string'),
  'network': ('', 'number of the network among those of its size'),
  'order': ('', 'number of the random order'),
  'flips': ('flips', 'until the class changes; inf: it does not'),
  'output': ('', 'f at the start; its sign is the class'),
  'straight': ('flips', 'that the first gradient alone asks for'),
  'rank': ('', "worst place, from 0, of a flip taken in the gradient's order"),
}


def check(config):
  """Raises FlagError for flags that do not go together."""
  if len(config.num_networks) != len(config.sizes):
    raise flags.FlagError(
      f'--num_networks has {len(config.num_networks)} numbers, --sizes '
      f'{len(config.sizes)}: one for each'
    )
  for name in ('sizes', 'random_sizes'):
    if len(getattr(config, name)) < 2:
      raise flags.FlagError(f'--{name}: a slope needs two sizes')


# --- Measuring -------------------------------------------------------------


def measure(config, inputs):
  """Yields the units: some networks of one size each.

  results: greedy flips, one row a network; exhaustive: likewise; random: one
  row a (network, order).
  """
  del inputs
  small = min(config.sizes)
  kinds = [
    *(('results', n, m)
      for n, m in zip(config.sizes, config.num_networks, strict=True)),
    ('exhaustive', small, config.num_exhaustive),
    *(('random', n, config.num_random) for n in config.random_sizes),
  ]  # fmt: skip
  # Part by part: two units never compile one program.
  for part, (kind, n, num) in itertools.product(range(PARTS), kinds):
    networks = np.arange(num)[part * -(-num // PARTS) :][: -(-num // PARTS)]
    if len(networks):
      rows = functools.partial(measure_networks, config, kind, n, networks)
      yield runner.Unit(f'{kind}-{n}-{networks[0]:05d}', rows, kind)


def measure_networks(config, kind, n, networks):
  """Rows of some networks, each measured alone: it has its own weights."""
  candidates = 0 if n <= config.full_size else config.candidates
  one = programs.bind(
    measure_network, n=n, seed=config.seed, kind=kind, candidates=candidates
  )
  num = len(networks)
  found = parallel.map_examples(one, (networks,), batch_size=num, vmap_size=1)
  orders = found['flips'][0].size
  found |= {'n': np.full(num, n, np.int32), 'network': networks}
  rows = {
    name: v.ravel() if v.ndim == 2 else np.repeat(v, orders)
    for name, v in found.items()
  }
  if kind == 'random':
    rows['order'] = np.tile(np.arange(orders, dtype=np.int32), num)
  return rows


def measure_network(i, *, n, seed, kind, candidates):
  """Columns of a network by its number; its weights are drawn here."""
  key = jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), n), i)
  network, x = bit_strings.draw(key, n), jnp.ones(n)
  if kind == 'results':
    return bit_strings.greedy(network, x, candidates=candidates)._asdict()
  if kind == 'exhaustive':
    return {'flips': bit_strings.exhaustive(network, x, reach=REACH)}
  keys = jax.random.split(jax.random.fold_in(key, 1), ORDERS)
  one = lambda k: bit_strings.random_flips(k, network, x)
  return {
    'flips': jax.lax.map(one, keys),
    'output': bit_strings.output(network, x),
  }


# --- Judging ---------------------------------------------------------------


def correlation(values):
  """Of flips and |f|."""
  return bit_strings.output_line(values)[1]


def estimate(statistic, *samples):
  return statistics.estimate(statistic, *samples, unit='networks')


BASES = {
  'sqrt(n / ln n)': bit_strings.growth,
  'sqrt(n)': np.sqrt,
  'constant': np.ones_like,
}


class Greedy:
  """Greedy flips of each size, and what they grow as.

  Attributes:
    n: the sizes.
    rows: of each.
    samples: of each flips, and |f| in units of its standard deviation at
      infinite width `[networks, 2]`.
    fits: factor and residual by `BASES`.
    worse: residuals less that of the first of these.
  """

  def __init__(self, config, rows):
    self.n = np.array(config.sizes, float)
    self.rows = [records.select(rows, n=n) for n in config.sizes]
    self.samples = []
    for of, n in zip(self.rows, self.n, strict=True):
      size = np.abs(of['output']) / np.sqrt(2 * n / (n + 1))
      self.samples.append(np.stack([of['flips'], size], -1))

    def fitted(name):
      """Factor, residual, and the residual less that of the first basis."""

      def fit(*samples):
        means = [bit_strings.controlled_mean(v) for v in samples]
        means = np.stack(means, -1)
        first, own = (
          bit_strings.fit_factor(means, basis(self.n))
          for basis in (bit_strings.growth, BASES[name])
        )
        return *own, own[1] - first[1]

      return [
        estimate(lambda *v, i=i: fit(*v)[i], *self.samples) for i in range(3)
      ]

    found = {name: fitted(name) for name in BASES}
    self.fits = {name: of[:2] for name, of in found.items()}
    self.worse = {name: found[name][2] for name in ('sqrt(n)', 'constant')}


class Random:
  """Random flips of each size, over n, beside the infinitely wide network."""

  def __init__(self, config, rows):
    self.n = np.array(config.random_sizes, float)
    of = [records.select(rows, n=n)['flips'] for n in config.random_sizes]
    of = [np.reshape(v, (-1, ORDERS)) for v in of]
    self.shares = [
      np.minimum(v, n) / n for v, n in zip(of, self.n, strict=True)
    ]
    self.never = [np.isinf(v).mean(1) for v in of]
    drawn = [bit_strings.random_law(n) for n in config.random_sizes]
    self.law = np.array(
      [np.minimum(v, n).mean() / n for v, n in zip(drawn, self.n, strict=True)]
    )
    self.law_never = [float(np.isinf(v).mean()) for v in drawn]
    means = lambda *parts: np.stack([v.mean((-2, -1)) for v in parts], -1)
    design = np.stack([np.ones_like(self.n), self.n**-0.5], -1)
    self.infinite = float(np.linalg.lstsq(design, self.law, rcond=None)[0][0])
    self.limit = estimate(
      lambda *v: self.infinite * np.mean(means(*v) / self.law, -1),
      *self.shares,
    )
    log_slope = statistics.log_slope(self.n)
    self.slope = estimate(
      lambda *v: log_slope(means(*v) * self.n), *self.shares
    )


def analyze(config, found):
  """Fits, and every number beside its prediction."""
  greedy = Greedy(config, found['results'])
  randomly = Random(config, found['random'])
  at_most = records.select(found['exhaustive'], n=min(config.sizes))['flips']
  judged = judge(config, greedy, randomly, at_most)
  shown = [
    greedy_table(greedy),
    fit_table(greedy),
    search_table(config, greedy, at_most),
    random_table(randomly),
  ]
  return runner.Report(answer(config, greedy, randomly), judged, shown)


STATEMENTS = {
  'at least sqrt(n / (2 pi ln n))': 'For any given input bit string, the '
  'average Hamming distance of the closest input bit string with a different '
  'classification is at least sqrt(n / (2 pi ln n)).',
  'as sqrt(n / ln n)': 'Greedy distances go as sqrt(n / ln n), not as sqrt(n) '
  'or not at all.',
  f'{GREEDY} sqrt(n / ln n)': f'Greedy distances fit {GREEDY} sqrt(n / ln n).',
  'linear in |f|': 'The distance grows linearly with |f|.',
  'random flips linear in n': 'If the bits of the initial string are flipped '
  'randomly, the average number of flips required to change the classification '
  'grows linearly with n.',
  f'{RANDOM} n': f'Random flips required are {RANDOM} n.',
}


def judge(config, greedy, randomly, at_most):
  """Returns the claims; `at_most`: flips of the nearest string, or inf."""
  above, within, small = claims.above, claims.within, min(config.sizes)
  a, _ = greedy.fits['sqrt(n / ln n)']
  bound = statistics.mean(np.minimum(at_most, REACH + 1), unit='networks')
  share, slope = randomly.limit, randomly.slope
  largest = greedy.samples[int(greedy.n.argmax())]
  found = [
    [
      above('a', a, LEAST),
      above(
        f'lower bound at n = {small}',
        bound,
        float(bit_strings.growth(small) * LEAST),
      ),
    ],
    [
      above(f'residual as {name}, less that,', gap, 0)
      for name, gap in greedy.worse.items()
    ],
    [within('a', a, GREEDY, TOLERANCE * GREEDY)],
    [
      above(
        f'correlation at n = {greedy.n.max():g}',
        estimate(correlation, largest),
        LEAST_CORRELATION,
      )
    ],
    [within('slope', slope, 1.0, SLOPE_TOLERANCE)],
    [within('share', share, RANDOM, TOLERANCE * RANDOM)],
  ]
  why = why_not_tested(config, greedy)
  reasons = [why, why, why, why, '', '']  # Random flips need no search.
  return [
    claims.Claim(PAPER, name, text, tuple(conditions), reason)
    for (name, text), conditions, reason in zip(
      STATEMENTS.items(), found, reasons, strict=True
    )
  ]


def why_not_tested(config, greedy):
  """Why greedy flips say nothing of the claims, or ''."""
  lost = sum(np.isinf(rows['flips']).sum() for rows in greedy.rows)
  if lost:
    return f'{lost} greedy searches did not change the class'
  ranks = [
    rows['rank']
    for rows, n in zip(greedy.rows, config.sizes, strict=True)
    if config.candidates < n <= config.full_size
  ]
  screened = np.mean(np.concatenate([*ranks, [0]]) >= config.candidates)
  if screened > MOST_SCREENED:
    return (
      f'--candidates={config.candidates} would have changed {screened:.0%} of '
      'the networks that were searched fully'
    )
  return ''


def answer(config, greedy, randomly):
  """One sentence."""
  a = tables.cell(greedy.fits['sqrt(n / ln n)'][0], '.3f')
  share = tables.cell(randomly.limit, '.3f')
  return (
    f'Until a random network changes its mind, {a} sqrt(n / ln n) of n chosen '
    f'bits have to flip (at least {LEAST:.3f} in theory, {GREEDY} of the '
    f'authors), but {share} n random ones ({RANDOM}; '
    f'{min(config.num_networks)} to {max(config.num_networks)} networks of '
    f'{min(config.sizes)} to {max(config.sizes)} bits).'
  )


# --- Tables ----------------------------------------------------------------


def greedy_table(greedy):
  rows = [
    [
      int(n),
      len(sample),
      estimate(bit_strings.controlled_mean, sample),
      estimate(lambda v: v[..., 0].mean(-1), sample),
      bit_strings.greedy_law(int(n)).mean(),
      bit_strings.growth(n) * LEAST,
      estimate(
        lambda v, n=n: bit_strings.controlled_mean(v) / bit_strings.growth(n),
        sample,
      ),
    ]
    for n, sample in zip(greedy.n, greedy.samples, strict=True)
  ]
  columns = [
    ('bits', 'n'),
    ('networks', ''),
    ('flips', 'mean greedy flips at the known mean of |f|'),
    ('raw', 'mean greedy flips'),
    ('infinite', 'at infinite width, to first order'),
    ('least', 'sqrt(n / (2 pi ln n))'),
    ('a', 'flips over sqrt(n / ln n)', '', '.3f'),
  ]
  title = 'Greedy flips until the class changes'
  return tables.table(title, columns, rows, spec='.2f')


def fit_table(greedy):
  n = greedy.n
  infinite = np.array([bit_strings.greedy_law(int(v)).mean() for v in n])
  rows = [[name, *found] for name, found in greedy.fits.items()]
  rows.append(
    ['infinite', *bit_strings.fit_factor(infinite, bit_strings.growth(n))]
  )
  columns = [
    ('flips as', 'infinite: the infinite column, sqrt(n / ln n)'),
    ('a', 'factor, by least squares', '', '.3f'),
    ('residual', 'root mean square', 'flips', '.2f'),
  ]
  return tables.table('Fits of greedy flips', columns, rows)


def search_table(config, greedy, at_most):
  rows, share = [], functools.partial(statistics.proportion, unit='networks')
  for n, part, sample in zip(
    config.sizes, greedy.rows, greedy.samples, strict=True
  ):
    slope = estimate(
      lambda v, n=n: bit_strings.output_line(v)[0] / bit_strings.growth(n),
      sample,
    )
    linked = estimate(correlation, sample)
    tried = n if n <= config.full_size else min(n, config.candidates)
    nearer = None
    if n == min(config.sizes):
      num = min(len(at_most), len(part['flips']))
      nearer = share(at_most[:num] < part['flips'][:num])
    rows.append([n, slope, linked, part['rank'].max(), tried, nearer])
  reached = (
    f'share where a string within {REACH} flips is nearer than greed found'
  )
  columns = [
    ('bits', 'n'),
    ('slope', 'on |f|, over sqrt(n / ln n); expected: 1/2', '', '.3f'),
    ('correlation', 'of flips and |f|', '', '.3f'),
    ('rank', "worst place in the gradient's order of a flip taken"),
    ('tried', 'flips tried at each step'),
    ('nearer', reached, '', '.1%'),
  ]
  return tables.table('Greedy flips against |f|, and the search', columns, rows)


def random_table(randomly):
  rows = [
    [
      int(n),
      len(share),
      estimate(lambda v: v.mean((-2, -1)), share),
      randomly.law[i],
      statistics.proportion(randomly.never[i], unit='networks'),
      randomly.law_never[i],
    ]
    for i, (n, share) in enumerate(
      zip(randomly.n, randomly.shares, strict=True)
    )
  ]
  columns = [
    ('bits', 'n'),
    ('networks', f'with {ORDERS} orders each'),
    ('flips / n', 'mean share of bits'),
    ('infinite', 'at infinite width, exactly'),
    ('never', 'share of orders that do not change it', '', '.1%'),
    ('infinite never', 'the same at infinite width', '', '.1%'),
  ]
  title = 'Random flips until the class changes'
  return tables.table(title, columns, rows, spec='.3f')


EXPERIMENT = runner.Experiment(
  'experiments.bit_strings', __doc__, Config, PRESETS, COLUMNS,
  measure, analyze, figures.draw, check=check, threads=2,
)  # fmt: skip
run = EXPERIMENT.run

if __name__ == '__main__':
  EXPERIMENT.main()
