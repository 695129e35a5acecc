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

Claims, and what would refute each; numbers are the authors':

  at least sqrt(n / (2 pi ln n))  the fit a sqrt(n / ln n) to the mean flips has
                      an a below 1 / sqrt(2 pi), or the mean lower bound at the
                      smallest size is below theirs
  as sqrt(n / ln n)   a fit a sqrt(n), or a constant, leaves no larger residual
  0.405 sqrt(n / ln n)  a lies outside of 5 %
  linear in |f|       the correlation with |f| is at most 0.95, at the largest n
  random flips linear in n  the slope of their log mean on log n lies outside of
                      1 +- 0.1; it is 1/2 if they go as sqrt(n)
  0.334 n             random flips at large n lie outside of 5 %: the infinite
                      network's, extrapolated from its means by c + b / sqrt(n),
                      times the mean ratio of networks to it

Random flips that never change the class count as n. Nothing is tested where
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
    workdir='runs/bit_strings_quick',
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


def law(n):
  """sqrt(n / ln n)."""
  n = np.asarray(n, float)
  return np.sqrt(n / np.log(n))


def controlled(values):
  """Mean of flips at the known mean of |f|, of `[..., m, (flips, |f|)]`."""
  slope, _ = line(values)
  flips, size = values[..., 0].mean(-1), values[..., 1].mean(-1)
  return flips - slope * (size - np.sqrt(2 / np.pi))


def line(values):
  """`(slope of flips on |f|, their correlation)`, likewise."""
  # NaN where a search found nothing, or all values are the same.
  with np.errstate(invalid='ignore', divide='ignore'):
    centred = values - values.mean(-2, keepdims=True)
    both = (centred[..., 0] * centred[..., 1]).mean(-1)
    scatter = (centred**2).mean(-2)
    return both / scatter[..., 1], both / np.sqrt(scatter.prod(-1))


def fit(means, basis):
  """Least squares `a` of `means ~ a basis` over the last axis, and its rms."""
  a = means @ basis / (basis @ basis)
  return a, np.sqrt(np.mean((means - a[..., None] * basis) ** 2, axis=-1))


def estimate(statistic, *samples):
  return statistics.estimate(statistic, *samples, unit='networks')


def analyze(config, found):
  """Fits, and every number beside its prediction."""
  n = np.array(config.sizes, float)
  parts = [records.select(found['results'], n=size) for size in config.sizes]
  # |f| in units of its standard deviation at infinite width.
  samples = [
    np.stack([p['flips'], np.abs(p['output']) / np.sqrt(2 * v / (v + 1))], -1)
    for p, v in zip(parts, n, strict=True)
  ]
  means = lambda *parts: np.stack([controlled(p) for p in parts], -1)
  bases = {
    'sqrt(n / ln n)': law(n),
    'sqrt(n)': np.sqrt(n),
    'constant': np.ones_like(n),
  }
  fits = {
    name: [
      estimate(lambda *v, b=basis, i=i: fit(means(*v), b)[i], *samples)
      for i in range(2)
    ]
    for name, basis in bases.items()
  }
  worse = {
    name: estimate(
      lambda *v, b=basis: fit(means(*v), b)[1] - fit(means(*v), law(n))[1],
      *samples,
    )
    for name, basis in [*bases.items()][1:]
  }
  at_most = records.select(found['exhaustive'], n=min(config.sizes))['flips']
  bound = np.minimum(at_most, REACH + 1)
  correlation = estimate(lambda v: line(v)[1], samples[int(n.argmax())])
  randomly = Random(config, found['random'])
  reason = why_not_tested(config, parts)
  claim = lambda name, said, *conditions, why=reason: claims.Claim(
    PAPER, name, said, conditions, why
  )
  a = fits['sqrt(n / ln n)'][0]
  judged = [
    claim(
      'at least sqrt(n / (2 pi ln n))',
      'For any given input bit string, the average Hamming distance of the '
      'closest input bit string with a different classification is at least '
      'sqrt(n / (2 pi ln n)).',
      claims.above('a', a, LEAST),
      claims.above(
        f'lower bound at n = {min(config.sizes)}',
        statistics.mean(bound, unit='networks'),
        float(law(min(config.sizes)) * LEAST),
      ),
    ),
    claim(
      'as sqrt(n / ln n)',
      'Greedy distances go as sqrt(n / ln n), not as sqrt(n) or not at all.',
      *(
        claims.above(f'residual as {name}, less that,', gap, 0.0)
        for name, gap in worse.items()
      ),
    ),
    claim(
      f'{GREEDY} sqrt(n / ln n)',
      f'Greedy distances fit {GREEDY} sqrt(n / ln n).',
      claims.within('a', a, GREEDY, TOLERANCE * GREEDY),
    ),
    claim(
      'linear in |f|',
      'The distance grows linearly with |f|.',
      claims.above(
        f'correlation at n = {n.max():g}', correlation, LEAST_CORRELATION
      ),
    ),
    claim(
      'random flips linear in n',
      'If the bits of the initial string are flipped randomly, the average '
      'number of flips required to change the classification grows linearly '
      'with n.',
      claims.within('slope', randomly.slope, 1.0, SLOPE_TOLERANCE),
      why='',
    ),
    claim(
      f'{RANDOM} n',
      f'Random flips required are {RANDOM} n.',
      claims.within('share', randomly.limit, RANDOM, TOLERANCE * RANDOM),
      why='',
    ),
  ]
  made = [
    greedy_table(config, samples),
    fit_table(n, fits),
    search_table(config, parts, samples, at_most),
    random_table(config, randomly),
  ]
  return runner.Report(answer(config, a, randomly), judged, made)


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


def why_not_tested(config, parts):
  """Why greedy flips say nothing of the claims, or ''."""
  lost = sum(np.isinf(p['flips']).sum() for p in parts)
  if lost:
    return f'{lost} greedy searches did not change the class'
  ranks = np.concatenate(
    [p['rank'] for p, n in zip(parts, config.sizes, strict=True)
     if config.candidates < n <= config.full_size] or [np.zeros(1)]
  )  # fmt: skip
  screened = np.mean(ranks >= config.candidates)
  if screened > MOST_SCREENED:
    return (
      f'--candidates={config.candidates} would have changed {screened:.0%} of '
      'the networks that were searched fully'
    )
  return ''


def answer(config, a, randomly):
  """One sentence."""
  return (
    f'Until a random network changes its mind, {tables.cell(a, ".3f")} '
    f'sqrt(n / ln n) of n chosen bits have to flip (at least {LEAST:.3f} in '
    f'theory, {GREEDY} of the authors), but '
    f'{tables.cell(randomly.limit, ".3f")} n random ones ({RANDOM}; '
    f'{min(config.num_networks)} to {max(config.num_networks)} networks of '
    f'{min(config.sizes)} to {max(config.sizes)} bits).'
  )


# --- Tables ----------------------------------------------------------------

column = tables.Column


def greedy_table(config, samples):
  rows = [
    [
      n,
      len(sample),
      estimate(controlled, sample),
      estimate(lambda v: v[..., 0].mean(-1), sample),
      float(bit_strings.greedy_law(n).mean()),
      float(law(n) * LEAST),
      estimate(lambda v, n=n: controlled(v) / law(n), sample),
    ]
    for n, sample in zip(config.sizes, samples, strict=True)
  ]
  columns = [
    column('bits', '', 'n'),
    column('networks', '', ''),
    column('flips', '', 'mean greedy flips at the known mean of |f|', '.2f'),
    column('raw', '', 'mean greedy flips', '.2f'),
    column('infinite', '', 'at infinite width, to first order', '.2f'),
    column('least', '', 'sqrt(n / (2 pi ln n))', '.2f'),
    column('a', '', 'flips over sqrt(n / ln n)', '.3f'),
  ]
  return tables.Table('Greedy flips until the class changes', columns, rows)


def fit_table(n, fits):
  of_infinite = np.array([bit_strings.greedy_law(int(v)).mean() for v in n])
  rows = [[name, *found] for name, found in fits.items()]
  rows.append(['infinite', *map(float, fit(of_infinite, law(n)))])
  columns = [
    column('flips as', '', 'infinite: the infinite column, sqrt(n / ln n)'),
    column('a', '', 'factor, by least squares', '.3f'),
    column('residual', 'flips', 'root mean square', '.2f'),
  ]
  return tables.Table('Fits of greedy flips', columns, rows)


def search_table(config, parts, samples, at_most):
  rows = []
  for n, part, sample in zip(config.sizes, parts, samples, strict=True):
    nearer = None
    if n == min(config.sizes):
      num = min(len(at_most), len(part['flips']))
      nearer = statistics.proportion(
        at_most[:num] < part['flips'][:num], unit='networks'
      )
    rows.append(
      [
        n,
        estimate(lambda v, n=n: line(v)[0] / law(n), sample),
        estimate(lambda v: line(v)[1], sample),
        int(part['rank'].max()),
        n if n <= config.full_size else min(n, config.candidates),
        nearer,
      ]
    )
  columns = [
    column('bits', '', 'n'),
    column('slope', '', 'on |f|, over sqrt(n / ln n); expected: 1/2', '.3f'),
    column('correlation', '', 'of flips and |f|', '.3f'),
    column('rank', '', "worst place in the gradient's order of a flip taken"),
    column('tried', '', 'flips tried at each step'),
    column(
      'nearer', '', f'share where a string within {REACH} flips is '
      'nearer than greed found', '.1%',
    ),
  ]  # fmt: skip
  return tables.Table('Greedy flips against |f|, and the search', columns, rows)


def random_table(config, randomly):
  mean = lambda v: v.mean((-2, -1))
  rows = [
    [
      n,
      len(share),
      estimate(mean, share),
      law_share,
      statistics.proportion(never, unit='networks'),
      law_never,
    ]
    for n, share, law_share, never, law_never in zip(
      config.random_sizes,
      randomly.shares,
      randomly.law,
      randomly.never,
      randomly.law_never,
      strict=True,
    )
  ]
  columns = [
    column('bits', '', 'n'),
    column('networks', '', f'with {ORDERS} orders each'),
    column('flips / n', '', 'mean share of bits', '.3f'),
    column('infinite', '', 'at infinite width, exactly', '.3f'),
    column('never', '', 'share of orders that do not change it', '.1%'),
    column('infinite never', '', 'the same at infinite width', '.1%'),
  ]
  return tables.Table('Random flips until the class changes', columns, rows)


EXPERIMENT = runner.Experiment(
  'experiments.bit_strings', __doc__, Config, PRESETS, COLUMNS,
  measure, analyze, figures.draw, check=check, threads=2,
)  # fmt: skip
run = EXPERIMENT.run

if __name__ == '__main__':
  EXPERIMENT.main()
