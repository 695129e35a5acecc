"""Does adversarial training deepen dimples, or turn gradients to the manifold?

Distances to the boundary without restriction, within the data's tangent space
and orthogonal to it, of a network trained plainly and of the same network
trained adversarially, at the same images.

  python -m experiments.dimple_depth
  python -m experiments.dimple_depth --preset=mnist --data_dir=DIR \
    --checkpoints=runs/mnist_cnn,runs/mnist_cnn_adversarial \
    --autoencoder=runs/mnist_autoencoder_small

The first takes a minute on 2 CPU cores, and trains small networks on digits:
plain, with projected gradient (PGD) at each --radii, and TRADES at the largest.
--checkpoints names runs of train_classifier instead, the plain one first. A run
killed at any moment goes on where it was.

Three predictions. The dimpled manifold model: adversarial training deepens the
dimples, so that distances off the manifold grow more than those on it. Its
rival (Srinivas, Bordt, Lakkaraju 2023): boundaries' normals turn towards the
tangent space. And the boundary might move as a whole: then the place where it
crosses the line from an image to the nearest one of another class would change
on average, and not only its depth.

Seen on mnist (a CNN trained plainly, and with PGD at an l2 radius of 2; n =
494): free distances grow 2.40 times [2.34, 2.46], on 1.79 [1.71, 1.91], off
2.57 [2.52, 2.62]; the normal's part in the tangent space from 0.249 [0.241,
0.255] to 0.406 [0.388, 0.423], beside 0.140 of a random direction: both the
first prediction and its rival hold, and the boundary moves besides.

Only images that all networks classify correctly count. Ratios are medians of
paired ratios, with 95 % bootstrap intervals over images; a failed search counts
as infinitely far. On each network, by rules fixed here: "dimples deepen" if the
interval of the growth of off-distances over that of on-distances lies above 1
and that of the growth of off-distances does; "normals turn to the manifold"
("away") if the interval of the paired difference of squared tangent fractions,
less that of a random subspace of as many dimensions, lies above (below) 0;
"boundary moves" if the interval of the mean change of the crossing excludes 0.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from dmm_jax import boundary
from dmm_jax import data
from dmm_jax import manifold
from dmm_jax import parallel
from dmm_jax import plots
from dmm_jax import programs
from dmm_jax import records
from dmm_jax import statistics
from dmm_jax.train import adversarial
from experiments import common
from experiments import subspaces
from experiments import training
from experiments.lib import flags

SIDES = ('free', *subspaces.SIDES)


@dataclasses.dataclass(frozen=True)
class Config:
  preset: str = flags.flag(
    'default', 'Values for the flags that are not given: default, quick, mnist.'
  )
  workdir: str = flags.flag('runs/dimple_depth', 'Run directory.')
  seed: int = flags.flag(0, 'Of weights and random subspaces.', least=0)
  dataset: str = flags.flag(
    'digits', 'digits (embedded), or an image set of tensorflow-datasets.'
  )
  data_dir: str = flags.flag('', 'Of tensorflow-datasets.')
  num_examples: int = flags.flag(
    300, 'The first so many of the test set; all, if there are fewer.', least=2
  )
  checkpoints: tuple[str, ...] = flags.flag(
    ('here',), 'Runs of train_classifier, plain first; "here" trains instead.'
  )
  autoencoder: str = flags.flag(
    '', 'Run of train_autoencoder; empty for one that is trained here.'
  )
  latent: int = flags.flag(8, 'Latents of the one trained here.', least=1)
  epochs: int = flags.flag(40, 'Of what is trained here.', least=1)
  radii: tuple[float, ...] = flags.flag(
    (0.3, 0.6), 'Of adversarial training here, input units.', least=0
  )
  norm: float = flags.flag(2.0, 'Of the radii.', choices=(2.0, np.inf))
  trades: float = flags.flag(
    6.0, 'Weight of the divergence; 0 for no TRADES.', least=0
  )
  box: bool = flags.flag(
    False,
    'Keep perturbed pixels in [0, 1]: where many are 0, hardly any step within '
    'a tangent space does.',
  )
  method: str = flags.flag('portfolio', 'Search, as of boundary_distances.')
  max_gradients: int = flags.flag(300, 'Budget of one search.', least=2)
  batch_size: int = flags.flag(128, 'Examples a step.', least=1)


PRESETS = {
  'default': {},
  'quick': dict(
    workdir='runs/dimple_depth_quick',
    num_examples=100,
    radii=(0.5,),
    trades=0.0,
    epochs=10,
    max_gradients=60,
  ),
  'mnist': dict(
    workdir='runs/dimple_depth_mnist', dataset='mnist', num_examples=500
  ),
}


def run(config: Config) -> dict:
  """Runs the experiment, and returns what it wrote to summary.json."""
  flags.check(config)
  flags.check_method(config.method)
  sets = {
    split: data.load(config.dataset, split, config.data_dir or None)
    for split in ('train', 'test')
  }
  given = () if config.checkpoints == ('here',) else config.checkpoints
  training.check_given(sets['train'], given, config.autoencoder)
  return common.conduct(
    config,
    'experiments.dimple_depth',
    collect=lambda config, run_dir: collect(config, run_dir, sets),
    summarize=summarize,
    draw=plots.dimple_depth,
    report=report,
  )


# --- Networks --------------------------------------------------------------


def load_classifiers(config, run_dir, sets):
  """Returns `{name: (module, variables)}`, the plain one first."""
  xs, labels = sets['train']
  key = jax.random.key(config.seed)
  get = functools.partial(
    training.classifier, key=key, xs=xs, labels=labels, epochs=config.epochs
  )
  if config.checkpoints != ('here',):
    return {
      directory: get(run_dir, directory=directory)
      for directory in config.checkpoints
    }
  adversaries = {'plain': None}
  for radius in config.radii:
    adversaries[f'PGD {radius:g}'] = adversarial.Adversary(radius, config.norm)
  if config.trades:
    largest = max(config.radii)
    adversaries[f'TRADES {largest:g}'] = adversarial.Adversary(
      largest, config.norm, trades=config.trades
    )
  return {
    # The same weights and order for all: what differs is the adversary.
    name: get(
      run_dir / name.replace(' ', '_'), directory='', adversary=adversary
    )
    for name, adversary in adversaries.items()
  }


# --- Measuring -------------------------------------------------------------


def crossing_fraction(x, label, other, variables, *, module):
  """Returns the place of the boundary on the way to another image, 0 to 1."""
  way = other - x
  found = boundary.first_crossing(
    lambda v: module.apply(variables, v)[0],
    x,
    way,
    label,
    max_distance=jnp.linalg.norm(way.ravel()),
  )
  return found.distance / jnp.linalg.norm(way.ravel())


def opposite(xs, labels):
  """For each image the nearest one of another class."""
  flat = xs.reshape(len(xs), -1).astype(np.float64)
  squares = np.sum(flat**2, 1)
  gaps = squares[:, None] + squares - 2 * flat @ flat.T
  gaps[labels[:, None] == labels] = np.inf
  return xs[np.argmin(gaps, axis=1)]


def collect(config, run_dir, sets):
  """Searches network by network: results.npz, one row a (network, example)."""
  classifiers = load_classifiers(config, run_dir, sets)
  autoencoder = training.autoencoder(
    run_dir,
    jax.random.key(config.seed + 1),
    config.autoencoder,
    sets['train'][0],
    config.latent,
    config.epochs,
  )
  xs, labels = (column[: config.num_examples] for column in sets['test'])
  codes, _ = subspaces.through(autoencoder, xs)
  key = jax.random.key(config.seed + 2)
  of = lambda kind: subspaces.bases(
    kind, codes.shape[1], key, autoencoder, codes, xs, sets['train'][0]
  )
  tangent, null = of('decoder'), of('random')
  others = opposite(xs, labels)
  options = dict(
    bounds=(0.0, 1.0) if config.box else None,
    method=config.method,
    max_gradients=config.max_gradients,
    batch_size=config.batch_size,
  )
  spread = functools.partial(
    parallel.map_examples, batch_size=config.batch_size
  )

  def compute(done):
    for name in list(classifiers)[done:]:
      module, variables = classifiers[name]
      rows = {
        'network': np.full(len(xs), name, 'U60'),
        'index': np.arange(len(xs), dtype=np.int32),
        'k': np.full(len(xs), codes.shape[1], np.int32),
        'n': np.full(len(xs), xs[0].size, np.int32),
      }
      for side in SIDES:
        found = subspaces.measure(
          classifiers[name], xs, labels, side, tangent, **options
        )
        rows[side], rows[f'{side}_status'] = found.distance, found.status
        if side == 'free':
          normal = found.normal
      inside = programs.bind(manifold.tangent_fraction)
      for kind, basis in (('tangent', tangent), ('random', null)):
        rows[f'{kind}_fraction'] = spread(inside, (normal, basis))
      rows['crossing'] = spread(
        programs.bind(crossing_fraction, module=module),
        (xs, labels, others),
        shared=(variables,),
      )
      yield rows

  names = [f'network{i}' for i in range(len(classifiers))]
  common.gather(run_dir, names, compute, 'network')


# --- Judging ---------------------------------------------------------------


def summarize(config, run_dir):
  """Every number with n, interval, null and verdict."""
  table = records.load_columns(run_dir / 'results.npz')
  names = list(dict.fromkeys(table['network']))
  parts = [records.select(table, network=name) for name in names]
  wrong = boundary.Status.MISCLASSIFIED
  right = np.all([part['free_status'] != wrong for part in parts], axis=0)
  kept = [{c: v[right] for c, v in part.items()} for part in parts]
  plain, rows = kept[0], []
  k, n = int(table['k'][0]), int(table['n'][0])
  for name, part, all_of in zip(names, kept, parts, strict=True):
    rows.append(
      {
        'network': str(name),
        'n': int(right.sum()),
        'accuracy': common.entry(
          statistics.proportion(all_of['free_status'] != wrong, unit='images')
        ),
        **{
          side: common.entry(statistics.median(part[side], unit='images'))
          for side in SIDES
        },
        'not_found': common.entry(
          statistics.proportion(np.isinf(part['on']), unit='images')
        ),
        'fraction': common.entry(
          statistics.median(finite(part['tangent_fraction']), unit='images')
        ),
        'enrichment': enrichment(part, k, n),
        'flatness': common.entry(
          statistics.median(
            part['free'] / manifold.unconstrained(part['on'], part['off']),
            unit='images',
          )
        ),
      }
    )
    if part is not plain:
      rows[-1] |= against(part, plain)
  return {
    'question': flags.question(__doc__),
    'dataset': config.dataset,
    'k': k,
    'inputs': n,
    'random_fraction': float(manifold.fraction_null(k, n).median() ** 0.5),
    'rows': rows,
  }


def finite(values):
  return values[np.isfinite(values)]


def enrichment(part, k, n):
  """A by normals, with its interval."""
  square = finite(part['tangent_fraction'])[:, None] ** 2
  return common.entry(
    statistics.estimate(
      lambda s: manifold.fraction_enrichment(np.sqrt(s.mean((-2, -1))), k, n),
      square,
      unit='images',
    )
  )


def against(part, plain):
  """What differs from the plain network, image by image, and the verdicts."""
  with np.errstate(invalid='ignore'):  # Neither of them found.
    growth = {side: part[side] / plain[side] for side in SIDES}
    shift = part['crossing'] - plain['crossing']
  turn = part['tangent_fraction'] ** 2 - plain['tangent_fraction'] ** 2
  drift = part['random_fraction'] ** 2 - plain['random_fraction'] ** 2
  found = {
    f'{side}_growth': common.entry(
      statistics.median(growth[side], unit='images')
    )
    for side in SIDES
  }
  with np.errstate(invalid='ignore'):
    found['off_over_on_growth'] = common.entry(
      statistics.median(growth['off'] / growth['on'], unit='images')
    )
  found['turn'] = common.entry(
    statistics.mean(finite(turn - drift), unit='images')
  )
  found['shift'] = common.entry(statistics.mean(finite(shift), unit='images'))
  return found | {'verdicts': verdicts(found)}


def verdicts(found):
  """The rules of the module's docstring, in words."""
  said = []
  low, high = found['off_over_on_growth']['interval']
  deeper = found['off_growth']['interval'][0] > 1
  said.append('dimples deepen' if low > 1 and deeper else 'no deeper dimples')
  low, high = found['turn']['interval']
  said.append(
    'normals turn to the manifold'
    if low > 0
    else 'normals turn away'
    if high < 0
    else 'normals stay'
  )
  low, high = found['shift']['interval']
  said.append('boundary moves' if low > 0 or high < 0 else 'boundary stays')
  return said


def report(summary):
  """Prints the summary as a table."""
  print(
    f'\n{summary["dataset"]}: l2 distances, tangent spaces of '
    f'{summary["k"]} of {summary["inputs"]} dimensions; part of a random '
    f'direction in them {summary["random_fraction"]:.3f}\n'
  )
  rows = []
  for row in summary['rows']:
    grown = [
      common.with_interval(row[f'{side}_growth'], '.2f')
      if 'verdicts' in row
      else '1'
      for side in SIDES
    ]
    rows.append(
      [
        row['network'],
        str(row['n']),
        f'{row["accuracy"]["value"]:.1%}',
        *(f'{row[side]["value"]:.3g}' for side in SIDES),
        *grown,
        common.with_interval(row['fraction'], '.3f'),
        f'{row["flatness"]["value"]:.2f}',
        '; '.join(row.get('verdicts', ['the plain one'])),
      ]
    )
  header = 'network,n,right,free,on,off,free grows [95 %],on grows,off grows,'
  header += 'normal in tangents,flatness,verdict'
  common.print_table(header.split(','), rows)


if __name__ == '__main__':
  flags.main(run, Config, PRESETS)
