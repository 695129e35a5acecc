"""Do perturbations avoid the data's manifold, more than a random subspace?

Finds for every example the nearest boundary point without restriction, within
the manifold's tangent space and orthogonal to it, and the same for subspaces of
as many dimensions that know nothing of the manifold.

  python -m experiments.manifold_split
  python -m experiments.manifold_split --preset=mnist --data_dir=DIR \
    --checkpoint=runs/mnist_cnn --autoencoder=runs/mnist_autoencoder_small

The first takes 3 minutes on 2 CPU cores, --preset=quick one. It trains a small
classifier and an auto-encoder on digits; --checkpoint and --autoencoder name
runs of train_classifier and train_autoencoder instead. A run killed at any
moment goes on where it was, to the same bytes.

Subspaces (`kind`), each of k dimensions:
  decoder    tangent space of the auto-encoder's decoder at the image's code
  principal  principal directions of the training set
  neighbors  principal directions of the 3 k nearest training images
and the nulls
  random     uniformly random, another one for each image
  frequency  cosines of lowest frequency: the spectrum of images, no more
  untrained  as decoder, of an auto-encoder that was not trained
  other      as decoder, at another image
  permuted   as decoder, of permuted pixels

That a distance is larger within k of n dimensions says nothing by itself: a
random subspace lengthens it by sqrt(n / k). Enrichment A is what is left: how
much more of the boundary normal's squared length falls on a dimension of the
subspace than on one outside, 1 for a random one. It comes from the mean over
images of the squared part f^2 of the normal within the subspace, as f^2 / k
(n - k) / (1 - f^2); once with f^2 as the distances have it, off^2 / (on^2 +
off^2), and once with that of the normals at the free boundary points. Where
the boundary is flat the two agree, and 1 / free^2 = 1 / on^2 + 1 / off^2
(`flatness`: the median of the free distance over that; 1 where flat).

Seen, from images as they are (on/free, A by distance, A by normal; random
subspaces: 5.2, 1.9, 1.0 and 4.8, 1.0, 1.0):
  mnist, small CNN, k = 16, n = 497    decoder 3.3, 5.0, 3.6; another image's
                                       2.9, 6.5, 3.2; principal 2.7, 7.4, 5.1
  cifar10, small CNN, k = 128, n = 152 decoder 4.4, 1.3, 1.2; cosines of lowest
                                       frequency 4.2, 1.4, 1.3
  the same, n = 204                    decoder 4.37 [4.27, 4.47], 1.32 [1.28,
                                       1.36], 1.22 [1.18, 1.26]
All intervals of A are within 6 % of it. Nothing is avoided there, and little of
it is the image's own tangent space.

Misclassified images are counted and left out; a failed search counts as
infinitely far. Ratios are medians of paired ratios, with 95 % bootstrap
intervals over images. Verdict on each subspace, by a rule fixed here:
"favoured" ("avoided") if both intervals of A lie above (below) those of the
random subspace of the same k, which curvature may take away from 1; "not told
apart from random" if neither does; else "the two measures differ".
"""

import dataclasses
import functools
from typing import NamedTuple

import jax
import numpy as np
import tqdm

from dmm_jax import boundary
from dmm_jax import data
from dmm_jax import manifold
from dmm_jax import parallel
from dmm_jax import plots
from dmm_jax import programs
from dmm_jax import records
from dmm_jax import statistics
from experiments import common
from experiments import subspaces
from experiments import training
from experiments.lib import flags

KINDS, SIDES, FIELDS = subspaces.KINDS, subspaces.SIDES, subspaces.FIELDS


@dataclasses.dataclass(frozen=True)
class Config:
  preset: str = flags.flag(
    'default',
    'Values for the flags that are not given: default, quick, mnist, cifar, '
    'full (for a GPU).',
  )
  workdir: str = flags.flag('runs/manifold_split', 'Run directory.')
  seed: int = flags.flag(0, 'Of weights and random subspaces.', least=0)
  dataset: str = flags.flag(
    'digits', 'digits (embedded), or an image set of tensorflow-datasets.'
  )
  data_dir: str = flags.flag('', 'Of tensorflow-datasets.')
  num_examples: int = flags.flag(
    300, 'The first so many of the test set; all, if there are fewer.', least=2
  )
  checkpoint: str = flags.flag(
    '', 'Run of train_classifier; empty for an MLP that is trained here.'
  )
  autoencoder: str = flags.flag(
    '', 'Run of train_autoencoder; empty for one that is trained here.'
  )
  latent: int = flags.flag(8, 'Latents of the one trained here.', least=1)
  epochs: int = flags.flag(40, 'Of what is trained here.', least=1)
  kinds: tuple[str, ...] = flags.flag(
    KINDS, 'Subspaces; see above.', choices=KINDS
  )
  ks: tuple[int, ...] = flags.flag(
    (4, 16),
    'Further dimensions, besides as many as there are latents; of a decoder, '
    'its leading directions.',
    least=1,
  )
  bases: tuple[str, ...] = flags.flag(
    ('image', 'decoded'),
    'From where: the image, or what the auto-encoder makes of it, which lies '
    'on the learned manifold.',
    choices=('image', 'decoded'),
  )
  box: bool = flags.flag(False, 'Keep perturbed pixels in [0, 1].')
  method: str = flags.flag('portfolio', 'Search, as of boundary_distances.')
  max_gradients: int = flags.flag(300, 'Budget of one search.', least=2)
  batch_size: int = flags.flag(128, 'Examples a step.', least=1)
  num_pictures: int = flags.flag(6, 'Examples that are drawn.', least=1)


PRESETS = {
  'default': {},
  'quick': dict(
    workdir='runs/manifold_split_quick',
    num_examples=100,
    kinds=('decoder', 'principal', 'random', 'frequency'),
    ks=(8,),
    bases=('image',),
    epochs=10,
    max_gradients=100,
  ),
  'mnist': dict(
    workdir='runs/manifold_split_mnist',
    dataset='mnist',
    num_examples=500,
    ks=(16,),
    bases=('image',),
    max_gradients=100,
  ),
  'cifar': dict(
    workdir='runs/manifold_split_cifar',
    dataset='cifar10',
    num_examples=200,
    kinds=('decoder', 'principal', 'random', 'frequency', 'other'),
    ks=(128,),
    bases=('image',),
    max_gradients=60,
  ),
  'full': dict(
    workdir='runs/manifold_split_full',
    dataset='mnist',
    num_examples=10000,
    ks=(16, 32),
    max_gradients=1000,
  ),
}


def run(config: Config) -> dict:
  """Runs the experiment, and returns what it wrote to summary.json."""
  flags.check(config)
  flags.check_method(config.method)
  sets: dict[str, tuple] = {
    split: data.load(config.dataset, split, config.data_dir or None)
    for split in ('train', 'test')
  }
  size = sets['test'][0][0].size
  for k in config.ks:
    if k >= size:
      raise flags.FlagError(
        f'--ks={k} has to be less than the {size} numbers of an image'
      )
  # Before the directory is made: a wrong name leaves none behind.
  training.check_given(sets['train'], [config.checkpoint], config.autoencoder)
  return common.conduct(
    config,
    'experiments.manifold_split',
    collect=lambda config, run_dir: collect(config, run_dir, sets),
    summarize=summarize,
    draw=plots.manifold_split,
    report=report,
  )


# --- Networks --------------------------------------------------------------


class Nets(NamedTuple):
  """Modules, and the variables of each."""

  classifier: tuple
  autoencoder: tuple


def load_networks(config, run_dir, sets) -> Nets:
  """Reads both networks, or trains them; written, so that a run can go on."""
  keys = jax.random.split(jax.random.key(config.seed), 2)
  xs, labels = sets['train']
  return Nets(
    training.classifier(
      run_dir, keys[0], config.checkpoint, xs, labels, config.epochs
    ),
    training.autoencoder(
      run_dir, keys[1], config.autoencoder, xs, config.latent, config.epochs
    ),
  )


# --- Subspaces -------------------------------------------------------------


class Unit(NamedTuple):
  """One search of all examples."""

  base: str
  kind: str
  k: int
  side: str

  @property
  def name(self):
    return '-'.join(map(str, self))


def units(config, latent):
  """All searches, of each base the free one first."""
  found = []
  for base in config.bases:
    found.append(Unit(base, 'free', 0, 'free'))
    for kind in config.kinds:
      for k in sorted({latent, *config.ks}):
        if kind not in subspaces.DECODED or k <= latent:
          found += [Unit(base, kind, k, side) for side in SIDES]
  return found


# --- Measuring -------------------------------------------------------------


def collect(config, run_dir, sets):
  """Searches unit by unit.

  results.npz: one row a (unit, example); points.npz: where the searches from
  the first images that are right ended.
  """
  nets = load_networks(config, run_dir, sets)
  train_xs = sets['train'][0]
  xs, labels = (column[: config.num_examples] for column in sets['test'])
  codes, decoded = subspaces.through(nets.autoencoder, xs)
  starts = {'image': xs, 'decoded': decoded}
  options = dict(
    bounds=(0.0, 1.0) if config.box else None,
    method=config.method,
    max_gradients=config.max_gradients,
    batch_size=config.batch_size,
  )
  plan = units(config, codes.shape[1])

  @functools.lru_cache(maxsize=1)  # The same for on and for off.
  def frames(base, kind, k):
    key = jax.random.fold_in(jax.random.key(config.seed), k)
    return subspaces.bases(
      kind, k, key, nets.autoencoder, codes, starts[base], train_xs
    )

  def compute(done):
    for unit in plan[done:]:
      start = starts[unit.base]
      bases, fields, more = None, [*FIELDS, 'point'], {}
      if unit.kind == 'free':
        fields.append('normal')
      else:
        known = records.load_chunk(run_dir, free_of(unit).name)
        step = known['point'] - start
        bases = frames(unit.base, unit.kind, unit.k)
        more = parallel.map_examples(
          programs.bind(subspaces.fractions),
          (known['normal'], step, bases),
          batch_size=config.batch_size,
        )
      found = subspaces.measure(
        nets.classifier, start, labels, unit.side, bases, **options
      )
      yield {name: getattr(found, name) for name in fields} | more

  found = records.resume(run_dir, [unit.name for unit in plan], compute)
  rows, points = [], []
  with tqdm.tqdm(zip(plan, found, strict=True), total=len(plan)) as bar:
    for unit, part in bar:
      bar.set_description(f'{unit.base} {unit.kind} {unit.side} {unit.k}')
      rows.append(to_rows(unit, part, labels))
      if unit == free_of(unit):  # The first of its base.
        wrong = part['status'] == boundary.Status.MISCLASSIFIED
        shown = np.argsort(wrong, kind='stable')[: config.num_pictures]
      points.append(
        {name: v[shown] for name, v in rows[-1].items()}
        | {'x': starts[unit.base][shown], 'point': part['point'][shown]}
      )
  records.save_columns(run_dir / 'points.npz', records.concatenate(points))
  records.save_columns(run_dir / 'results.npz', records.concatenate(rows))


def free_of(unit):
  return Unit(unit.base, 'free', 0, 'free')


def to_rows(unit, part, labels):
  """Columns of one unit."""
  n = len(labels)
  nothing = np.full(n, np.nan, np.float32)
  return {
    'base': np.full(n, unit.base, 'U8'),
    'kind': np.full(n, unit.kind, 'U10'),
    'k': np.full(n, unit.k, np.int32),
    'side': np.full(n, unit.side, 'U4'),
    'index': np.arange(n, dtype=np.int32),
    'label': labels,
    **{name: part[name] for name in FIELDS},
    'normal_fraction': part.get('normal_fraction', nothing),
    'step_fraction': part.get('step_fraction', nothing),
  }


# --- Judging ---------------------------------------------------------------


def summarize(config, run_dir):
  """Every number with n, interval, null and verdict."""
  table = records.load_columns(run_dir / 'results.npz')
  d = records.load_columns(run_dir / 'points.npz')['x'][0].size
  rows, starts = [], []
  for base in config.bases:
    part = records.select(table, base=base)
    free = records.select(part, kind='free')
    right = free['status'] != boundary.Status.MISCLASSIFIED
    starts.append(
      {
        'base': base,
        'n': len(right),
        'misclassified': common.entry(
          statistics.proportion(~right, unit='images')
        ),
        'distance': common.entry(
          statistics.median(free['distance'][right], unit='images')
        ),
      }
    )
    pairs = sorted({*zip(part['kind'], part['k'], strict=True)} - {('free', 0)})
    found = {}
    for kind, k in pairs:
      of = records.select(part, kind=kind, k=k)
      sides = [records.select(of, side=side) for side in SIDES]
      three = [select_rows(columns, right) for columns in (free, *sides)]
      found[kind, k] = compare(*three, int(k), d)
    for kind, k in sorted(found, key=lambda p: (KINDS.index(p[0]), p[1])):
      said = verdict(found[kind, k], found.get(('random', k)))
      if kind == 'random':
        said = 'the null'
      entry = dict(base=base, kind=str(kind), k=int(k))
      rows.append(entry | found[kind, k] | dict(verdict=said))
  return {
    'question': flags.question(__doc__),
    'dataset': config.dataset,
    'inputs': d,
    'starts': starts,
    'rows': rows,
  }


def select_rows(columns, keep):
  return {name: column[keep] for name, column in columns.items()}


def compare(free, on, off, k, d):
  """What the searches of one subspace say, the same images in each."""
  a, b, c = (rows['distance'] for rows in (free, on, off))
  implied = manifold.implied_fraction(b, c) ** 2
  seen = ~np.isnan(implied)
  mean_a = lambda square: manifold.fraction_enrichment(
    np.sqrt(square.mean((-2, -1))), k, d
  )
  by_distance = common.entry(
    statistics.estimate(mean_a, implied[seen][:, None], unit='images')
  )
  usable = np.isfinite(on['normal_fraction'])
  square = on['normal_fraction'][usable] ** 2
  by_normal = common.entry(
    statistics.estimate(mean_a, square[:, None], unit='images')
  )
  return {
    'n': len(a),
    'on_over_free': common.entry(statistics.median(b / a, unit='images')),
    'off_over_free': common.entry(statistics.median(c / a, unit='images')),
    'random_on_over_free': manifold.random_ratio(k, d),
    'random_off_over_free': manifold.random_ratio(d - k, d),
    'enrichment_by_distance': by_distance,
    'enrichment_by_normal': by_normal,
    'fraction': common.entry(
      statistics.median(on['normal_fraction'][usable], unit='images')
    ),
    'random_fraction': float(manifold.fraction_null(k, d).median() ** 0.5),
    'flatness': common.entry(
      statistics.median(a / manifold.unconstrained(b, c), unit='images')
    ),
    'on_not_found': common.entry(
      statistics.proportion(np.isinf(b), unit='images')
    ),
    'off_not_found': common.entry(
      statistics.proportion(np.isinf(c), unit='images')
    ),
  }


MEASURES = 'enrichment_by_distance', 'enrichment_by_normal'


def verdict(found, null):
  """The rule of the module's docstring, in words; against 1 without a null."""
  sides = []
  for name in MEASURES:
    low, high = found[name]['interval']
    least, most = null[name]['interval'] if null else (1.0, 1.0)
    sides.append((low > most) - (high < least))
  if sides[0] != sides[1]:
    return 'the two measures differ'
  return {1: 'favoured', -1: 'avoided', 0: 'not told apart from random'}[
    sides[0]
  ]


def report(summary):
  """Prints the summary as tables."""
  print(
    f'\n{summary["dataset"]}, {summary["inputs"]} inputs: l2 distances to the '
    'boundary from each start\n'
  )
  common.print_table(
    ['start', 'n', 'misclassified', 'median distance [95 %]'],
    [
      [
        row['base'],
        str(row['n']),
        common.with_interval(row['misclassified'], '.1%'),
        common.with_interval(row['distance'], '.4g'),
      ]
      for row in summary['starts']
    ],
  )
  print(
    '\nwithin subspaces of k dimensions (on) and orthogonal to them (off)\n'
  )
  rows = []
  for row in summary['rows']:
    a, b = row['enrichment_by_distance'], row['enrichment_by_normal']
    rows.append(
      [
        f'{row["base"]} {row["kind"]}',
        str(row['k']),
        str(row['n']),
        common.with_interval(row['on_over_free'], '.2f'),
        f'{row["random_on_over_free"]:.2f}',
        common.with_interval(row['off_over_free'], '.3f'),
        f'{row["on_not_found"]["value"]:.1%}',
        common.with_interval(a, '.2f'),
        common.with_interval(b, '.2f'),
        f'{row["flatness"]["value"]:.2f}',
        row['verdict'],
      ]
    )
  header = 'start subspace,k,n,on/free [95 %],random,off/free [95 %],on lost,'
  header += 'A by distance [95 %],A by normal [95 %],flatness,subspace is'
  common.print_table(header.split(','), rows)


if __name__ == '__main__':
  flags.main(run, Config, PRESETS)
