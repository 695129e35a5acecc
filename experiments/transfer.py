"""Why do adversarial examples of one network fool another, and since when?

Every network of several populations (other seed, other architecture, trained on
the other half of the data, on random labels) attacks every other one. An
example transfers if the target's class changes, among images that both networks
gave the same class and whose own attack changed the source's. Beside it stands
noise of the same size: random signs, or a random direction.

Attacks on test images, within [0, 1]:
  linf R        20 steps of projected gradient at each of --radii
  linf matched  the same at the radius at which it succeeds on --success of the
                images, found by bisection for each source
  l2 xF         to the nearest boundary point, and F times as far
  l2 on, l2 off the parts of the last step in the first --k principal directions
                of the data and orthogonal to them, each as long as the whole

Verdicts, by rules fixed here, on 95 % intervals (Student's by the jackknife
over networks, each of which is in many pairs; of few networks they may pass 0
and 1):
- transfer: supported if, at matched success, the rate between networks of the
  first architecture lies above that of noise.
- common boundaries explain it: rates of all pairs of networks, at matched
  success, are regressed on concordance (of crossings t*; see
  `experiments.halfway`), cosine (of adversarial directions) and on both
  networks' accuracy. Supported if the first two explain more than 70 % of the
  variance, and add more than 5 % to what accuracy explains; bootstrap over
  networks. The same of rates less those of noise of the same size, a form that
  was added after the first run on digits: networks on random labels change
  under noise as much as under attacks.
- directions align before accuracy rises ("Early Transferability", arXiv
  2206.04472): of the snapshots whose mean accuracy is at most 2 points above
  chance. Supported if at one of them the mean cosine lies above 0.05; not
  supported if it lies below at all of them; undecided if there is none.
- more data bring networks nearer: parts of --parts samples, two of each size
  without a common sample. Supported if the concordance between the two is
  higher for the largest than for the smallest parts.

Seen on digits (4 networks each, after 1,000 steps): transfer supported, at
matched success 0.796 [0.753, 0.839] between MLPs, 0.75 [0.69, 0.82] to CNNs,
0.58 [0.52, 0.64] between halves of the data, noise 0.026 [0.014, 0.039];
networks on random labels fool no trained one. Concordance and cosine explain
0.576 [0.503, 0.665] of the variance over all pairs, accuracy 0.607 [0.466,
0.705]: not supported; of what exceeds noise 0.913 [0.884, 0.933], 0.223 [0.171,
0.285] more than accuracy: supported. Concordance of parts of 50 samples 0.410
[0.363, 0.456], of 700 0.759 [0.731, 0.788]: supported. Accuracy rises with the
first step: undecided there. On mnist (--preset=mnist
--models=mlp,deep_linear,linear; 3 networks each): between MLPs 0.496 [0.407,
0.586], from linear networks to MLPs 0.25 [0.19, 0.30] and back 0.62 [0.60,
0.65], noise 0.004 [-0.012, 0.020]; of what exceeds noise the two explain 0.745
[0.658, 0.813], undecided; parts of 100 samples 0.503 [0.435, 0.571], of 5,000
0.839 [0.819, 0.859]. On cifar10 (--preset=cifar
--models=mlp,deep_linear,linear --learning_rate=0.005): between MLPs 0.42 [0.13,
0.72], linear networks 0.68 [0.60, 0.76], noise 0.01 [-0.04, 0.07]; the two
explain 0.780 [0.700, 0.833], accuracy 0.282 [0.127, 0.453]: undecided; of what
exceeds noise 0.794 [0.718, 0.844]: supported. Directions do not align before
accuracy rises: at most -0.000 [-0.018, 0.017] up to step 5 there; on digits in
small steps (--preset=early) at most -0.001 [-0.015, 0.013] up to step 7.

  python -m experiments.transfer
  python -m experiments.transfer --preset=early   # small steps, 8 networks
  python -m experiments.transfer --preset=mnist --data_dir=DIR

A run killed at any moment goes on where it was, to the same bytes.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from dmm_jax import boundary
from dmm_jax import halfway
from dmm_jax import manifold
from dmm_jax import norms
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

MATCHED = 'linf matched'
CHANCE = 0.02  # Above it accuracy counts as risen.
ALIGNED = 0.05
EXPLAINED, ADDED = 0.7, 0.05
FEWEST = 10  # Images of which a rate is taken.


@dataclasses.dataclass(frozen=True)
class Config(populations.Config):
  workdir: str = flags.flag('runs/transfer', 'Run directory.')
  early: int = flags.flag(
    20, 'Snapshots of every step up to this one, beside 1, 2, 5, ...', least=0
  )
  radii: tuple[float, ...] = flags.flag(
    (0.1, 0.2, 0.3),
    'Of linf attacks; the middle one of unfinished sources.',
    least=0,
  )
  factors: tuple[float, ...] = flags.flag(
    (1.5, 3.0), 'Multiples of the nearest distance, l2.', least=1
  )
  success: float = flags.flag(
    0.9, 'On the source, where matched.', least=0.01, most=1
  )
  attack_steps: int = flags.flag(20, 'Of projected gradient.', least=1)
  num_images: int = flags.flag(300, 'Of the test set, attacked.', least=20)
  num_pairs: int = flags.flag(1000, 'Segments, for concordance.', least=30)
  parts: tuple[int, ...] = flags.flag(
    (50, 100, 200, 400, 700), 'Samples of each part.', least=10
  )
  k: int = flags.flag(8, 'Principal directions of the data.', least=1)


PRESETS = {
  'default': {},
  'quick': dict(
    workdir='runs/transfer_quick',
    models=('mlp', 'linear'),
    num_steps=200,
    num_networks=3,
    num_images=100,
    num_pairs=300,
    parts=(50, 400),
    radii=(0.1, 0.2),
    early=5,
  ),
  'early': dict(
    workdir='runs/transfer_early',
    models=('mlp',),
    conditions=('plain',),
    learning_rate=0.002,
    num_networks=8,
    num_steps=500,
    parts=(50, 700),
  ),
  'mnist': dict(
    workdir='runs/transfer_mnist',
    dataset='mnist',
    num_train=10000,
    num_test=2000,
    num_steps=2000,
    parts=(100, 1000, 5000),
    num_images=100,
    num_pairs=300,
    num_networks=3,
    early=5,
    k=16,
  ),
  'cifar': dict(
    workdir='runs/transfer_cifar',
    dataset='cifar10',
    models=('cnn', 'mlp', 'linear'),
    num_train=10000,
    num_test=2000,
    num_steps=2000,
    learning_rate=0.02,
    parts=(500, 5000),
    radii=(0.01, 0.02, 0.04),
    num_images=80,
    num_pairs=300,
    num_networks=3,
    early=5,
    k=128,
  ),
}


def run(config: Config) -> dict:
  """Runs the experiment, and returns what it wrote to summary.json."""
  flags.check(config)
  populations.check(config)
  sets = populations.load(config)
  num = len(sets['train'][0])
  if 2 * max(config.parts) > num:
    raise flags.FlagError(
      f'--parts={max(config.parts)}: two of them need '
      f'{2 * max(config.parts)} samples of {num}'
    )
  return common.conduct(
    config,
    'experiments.transfer',
    collect=lambda config, run_dir: collect(config, run_dir, sets),
    summarize=lambda config, run_dir: summarize(config, run_dir, sets),
    draw=plots.transfer,
    report=report,
  )


# --- Attacks ---------------------------------------------------------------


def names_of(config) -> list[str]:
  """Of the attacks, in order."""
  return [
    *(f'linf {r:g}' for r in config.radii),
    MATCHED,
    *(f'l2 x{f:g}' for f in config.factors),
    'l2 on',
    'l2 off',
  ]


def middle(config):
  return config.radii[len(config.radii) // 2]


def is_fooled(x, label, number, radius, params, stats, *, forward, steps):
  """Whether projected gradient changes the class of an image."""
  logits_fn = populations.logits_of(forward, params, stats)
  key = jax.random.key(number)
  moved = populations.ascend(key, logits_fn, x, label, radius, steps)
  return logits_fn(moved).argmax() != label


def attack_once(
  x, label, number, radii, basis, params, stats, *, forward, steps
):
  """One attack on an image, and noise, as of `attack_image`."""
  del basis
  logits_fn = populations.logits_of(forward, params, stats)
  key = jax.random.key(number)
  moved = populations.ascend(key, logits_fn, x, label, radii[0], steps)
  noise = jnp.clip(x + radii[0] * signs_of(x, number), 0.0, 1.0)
  return moved[None], noise[None]


def signs_of(x, number):
  return jax.random.rademacher(jax.random.key(number + 1), x.shape, x.dtype)


def attack_image(
  x, label, number, radii, basis, params, stats, *, forward, steps, factors
):
  """All attacks on an image `[a, ...]`, and noise of their sizes likewise."""
  logits_fn = populations.logits_of(forward, params, stats)
  ascended = jax.vmap(
    lambda radius: populations.ascend(
      jax.random.key(number), logits_fn, x, label, radius, steps
    )
  )(radii)
  found = boundary.nearest_point(
    logits_fn,
    x,
    label,
    bounds=(0.0, 1.0),
    method='projection',
    max_gradients=40,
  )
  step = found.point - x
  longest = factors[-1] * norms.norm(step, 2)
  scaled = lambda v: v * longest / jnp.maximum(norms.norm(v, 2), 1e-12)
  on, off = manifold.split(step, basis)
  moves = jnp.stack([f * step for f in factors] + [scaled(on), scaled(off)])
  sign = signs_of(x, number)
  noise = jax.random.normal(jax.random.key(number + 2), x.shape)
  sizes = jax.vmap(lambda v: norms.norm(v, 2))(moves)
  spread = lambda v, by: v[None] * by.reshape(-1, *[1] * x.ndim)
  same = jnp.concatenate(
    [spread(sign, radii), spread(noise / norms.norm(noise, 2), sizes)]
  )
  moved = jnp.concatenate([ascended, x[None] + moves])
  return jnp.clip(moved, 0.0, 1.0), jnp.clip(x[None] + same, 0.0, 1.0)


def matched_radius(config, forward, network, images, own):
  """The least linf radius of the wanted success, to 2 %; 1 if there is none."""
  low, high = 0.0, 1.0
  numbers = np.arange(len(images))
  fooled = programs.bind(is_fooled, forward=forward, steps=config.attack_steps)
  while high - low > 0.02 * high and high > 1e-3:
    radius = np.sqrt(max(low, high / 64) * high)
    hits = parallel.map_examples(
      fooled,
      (images, own, numbers),
      shared=(np.float32(radius), *network),
    )
    enough = hits.mean() >= config.success
    low, high = (low, radius) if enough else (radius, high)
  return high


# --- Measuring -------------------------------------------------------------


def crossing_fraction(start, end, labels, params, stats, *, forward):
  """The first crossing of a segment, as a fraction of the way."""
  logits_fn = populations.logits_of(forward, params, stats)
  return halfway.crossings(logits_fn, start, end, *labels).fraction


def loss_direction(x, label, params, stats, *, forward):
  """The adversarial direction of an image."""
  logits_fn = populations.logits_of(forward, params, stats)
  return halfway.loss_direction(logits_fn, x, label)


def everyone(found, step=None):
  """`(population, number, network)` of all, at a step or at the end."""
  for population in found:
    at = population.steps[-1] if step is None else step
    for number in range(len(population.labels)):
      yield population, number, population.network(at, number)


def collect(config, run_dir, sets):
  """Trains, then attacks source by source: results.npz, a row an attack."""
  found = populations.build(config, run_dir, sets, config.parts)
  images, truth = (v[: config.num_images] for v in sets['test'])
  finished = list(everyone(found))
  batch = int(np.clip(2**17 // images[0].size, 32, 512))
  each = functools.partial(parallel.map_examples, batch_size=batch)
  seen = np.stack(
    [
      populations.classes(population, network, images, batch_size=batch)
      for population, _, network in finished
    ]
  )
  for name, describe in (
    (
      'networks',
      lambda: describe_networks(config, sets, finished, seen == truth, each),
    ),
    ('alignment', lambda: alignment(sets, found[0], images, truth, each)),
  ):
    path = run_dir / f'{name}.npz'
    if not records.agree(path.exists()):
      records.save_columns(path, describe())
  basis = manifold.principal_basis(sets['train'][0], config.k)
  last = int(found[0].steps[-1])
  sources = [(p, number, int(p.steps[-1]), net) for p, number, net in finished]
  sources += [
    (p, number, step, net)
    for step in found[0].steps[:-1].tolist()
    for p, number, net in everyone(found[:1], step)
  ]

  def compute(done):
    for population, number, step, network in sources[done:]:
      yield attack(
        config,
        (population, number, step, network),
        finished,
        (images, seen, basis),
        each,
        unfinished=step < last,
      )

  names = [f'{p.name}-{number}-step{step}' for p, number, step, _ in sources]
  common.gather(run_dir, names, compute, 'source')


def describe_networks(config, sets, finished, right, each):
  """Columns of all networks at the end, one row each."""
  pairs = segments.draw(config, sets)
  images, truth = (v[: config.num_images] for v in sets['test'])
  ends = segments.ends(pairs, sets)
  drawn = pairs.kind != 'near'
  rows, directions = [], []
  for (population, number, network), hits in zip(finished, right, strict=True):
    labels = segments.labels(pairs, sets, population.labels[number])
    direction = programs.bind(loss_direction, forward=population.forward)
    directions.append(each(direction, (images, truth), shared=network))
    rows.append(
      {
        'population': population.name,
        'network': number,
        'samples': len(population.rows[number]),
        'accuracy': hits.mean(),
        'fraction': each(
          programs.bind(crossing_fraction, forward=population.forward),
          (*(v[drawn] for v in ends), labels[drawn]),
          shared=network,
        ),
      }
    )
  table = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
  return table | {'cosine': halfway.cosines(np.stack(directions))}


def alignment(sets, population, images, truth, each):
  """Columns of one population along training, one row a network and step."""
  rows = []
  direction = programs.bind(loss_direction, forward=population.forward)
  for step in population.steps.tolist():
    networks = [net for _, _, net in everyone([population], step)]
    directions = [
      each(direction, (images, truth), shared=net) for net in networks
    ]
    cosines = halfway.cosines(np.stack(directions))
    for number, net in enumerate(networks):
      state = train.State(*net, ())
      accuracy = train.accuracy(population.forward, state, *sets['test'])
      rows.append((step, number, accuracy, cosines[number]))
  names = 'step', 'network', 'accuracy', 'cosine'
  return {
    name: np.array(column)
    for name, column in zip(names, zip(*rows, strict=True), strict=True)
  }


def attack(config, source, finished, given, each, *, unfinished):
  """Rows of one source: of every attack, the rates at every target."""
  population, number, step, network = source
  images, seen, basis = given
  forward = population.forward
  classify = functools.partial(populations.classes, **each.keywords)
  own = classify(population, network, images)
  radii, names = [middle(config)], [f'linf {middle(config):g}']
  options = dict(forward=forward, steps=config.attack_steps)
  run_attacks = programs.bind(attack_once, **options)
  if not unfinished:
    matched = matched_radius(config, forward, network, images, own)
    radii, names = [*config.radii, matched], names_of(config)
    run_attacks = programs.bind(attack_image, **options, factors=config.factors)
  tried = each(
    run_attacks,
    (images, own, np.arange(len(images))),
    shared=(np.array(radii, np.float32), basis, *network),
  )
  moved, noise = (np.moveaxis(v, 1, 0) for v in tried)
  flat = np.concatenate([moved, noise]).reshape(-1, *images.shape[1:])
  given_to = lambda population, net: classify(population, net, flat).reshape(
    2, len(names), len(images)
  )
  fooled = given_to(population, network)[0] != own
  rates = np.full((2, len(names), len(finished)), np.nan)
  for place, (target, _, net) in enumerate(finished):
    if unfinished and target.name != population.name:
      continue
    agree = seen[place] == own
    changed = given_to(target, net) != seen[place]
    counted = fooled & agree
    enough = counted.sum(1) >= FEWEST
    hits = (changed & counted).sum(2) / np.maximum(counted.sum(1), 1)
    rates[:, :, place] = np.where(enough, hits, np.nan)
  count = len(names)
  size = np.abs(moved - images[None]).reshape(count, len(images), -1)
  return {
    'population': np.full(count, population.name, 'U40'),
    'network': np.full(count, number, np.int32),
    'step': np.full(count, step, np.int32),
    'attack': np.array(names, 'U20'),
    'fooled': fooled.mean(1),
    'linf': np.median(size.max(2), axis=1),
    'l2': np.median(np.linalg.norm(size, axis=2), axis=1),
    'transfer': rates[0].astype(np.float32),
    'noise': rates[1].astype(np.float32),
  }


# --- Judging ---------------------------------------------------------------


def summarize(config, run_dir, sets):
  """Every number with n, interval, null and verdict."""
  table = records.load_columns(run_dir / 'results.npz')
  networks = records.load_columns(run_dir / 'networks.npz')
  last = table['step'].max()
  final = records.select(table, step=last)
  shown = populations.names(config)
  matrices = {
    name: records.select(final, attack=name) for name in names_of(config)
  }
  blocks = {
    name: {
      source: {
        target: block(config, networks, part, source, target)
        for target in shown
      }
      for source in shown
    }
    for name, part in matrices.items()
  }
  first, matched = config.models[0], matrices[MATCHED]
  summary = {
    'question': flags.question(__doc__),
    'dataset': config.dataset,
    'images': min(config.num_images, len(sets['test'][1])),
    'networks': {
      name: {
        'n': int(np.sum(networks['population'] == name)),
        'accuracy': common.entry(
          statistics.t_mean(
            networks['accuracy'][networks['population'] == name],
            unit='networks',
          )
        ),
        'radius': common.entry(
          statistics.t_mean(
            records.select(matched, population=name)['linf'], unit='networks'
          )
        ),
        'fooled': {
          kind: float(records.select(part, population=name)['fooled'].mean())
          for kind, part in matrices.items()
        },
      }
      for name in shown
    },
    'attacks': blocks,
    'unfinished': unfinished(config, table, networks, first),
    'parts': parts(config, networks, matched),
    'alignment': aligned(run_dir, sets),
    'regression': regression(networks, matched['transfer']),
    'regression_above_noise': regression(
      networks, matched['transfer'] - matched['noise']
    ),
    'success': config.success,
  }
  summary['verdicts'] = judge(config, summary)
  return summary


def ends_of(config, networks, source, target):
  """Places of the networks of two populations; of halves, one each."""
  rows = np.flatnonzero(networks['population'] == source)
  columns = np.flatnonzero(networks['population'] == target)
  if source == target and len(rows) > config.num_networks:
    return rows[: config.num_networks], columns[config.num_networks :]
  return rows, columns


def block(config, networks, part, source, target):
  """Rates of transfer and of noise between two populations, as entries."""
  rows, columns = ends_of(config, networks, source, target)
  same = np.array_equal(rows, columns)
  return {
    name: common.entry(
      statistics.pair_mean(
        part[name][np.ix_(rows, columns)], same=same, unit='networks'
      )
    )
    for name in ('transfer', 'noise')
  }


def unfinished(config, table, networks, first):
  """Transfer of sources that are still training to finished networks."""
  name = f'linf {middle(config):g}'
  place = np.flatnonzero(networks['population'] == first)
  rows = []
  for step in np.unique(table['step']).tolist():
    part = records.select(table, population=first, step=step, attack=name)
    rows.append(
      {
        'step': step,
        'fooled': float(part['fooled'].mean()),
        **{
          kind: common.entry(
            statistics.pair_mean(
              part[kind][:, place], same=True, unit='networks'
            )
          )
          for kind in ('transfer', 'noise')
        },
      }
    )
  return {'attack': name, 'rows': rows}


def parts(config, networks, part):
  """What two networks have in common that saw parts of the data."""
  rows = []
  agree = halfway.concordance(networks['fraction'])
  for num in sorted(config.parts):
    name = f'{config.models[0]}-part{num}'
    ends = ends_of(config, networks, name, name)
    of = networks['population'] == name
    pick = lambda m, ends=ends: common.entry(
      statistics.pair_mean(m[np.ix_(*ends)], same=False, unit='networks')
    )
    rows.append(
      {
        'samples': num,
        'accuracy': common.entry(
          statistics.t_mean(networks['accuracy'][of], unit='networks')
        ),
        'spread': common.entry(
          statistics.t_mean(
            np.nanstd(networks['fraction'][of], axis=1), unit='networks'
          )
        ),
        'concordance': pick(agree),
        'cosine': pick(networks['cosine']),
        'transfer': pick(part['transfer']),
        'noise': pick(part['noise']),
      }
    )
  return rows


def aligned(run_dir, sets):
  """Accuracy and cosine of the first population along training."""
  table = records.load_columns(run_dir / 'alignment.npz')
  rows = []
  for step in np.unique(table['step']).tolist():
    part = records.select(table, step=step)
    rows.append(
      {
        'step': step,
        'accuracy': common.entry(
          statistics.t_mean(part['accuracy'], unit='networks')
        ),
        'cosine': common.entry(
          statistics.pair_mean(part['cosine'], same=True, unit='networks')
        ),
      }
    )
  labels = sets['test'][1]
  return {
    'chance': float(np.bincount(labels).max() / len(labels)),
    'rows': rows,
  }


def regression(networks, transfer):
  """How much of the rates' variance what explains; bootstrap over networks."""
  accuracy = networks['accuracy']
  features = {
    'concordance': halfway.concordance(networks['fraction']),
    'cosine': networks['cosine'],
    'source': np.broadcast_to(accuracy[:, None], transfer.shape),
    'target': np.broadcast_to(accuracy[None], transfer.shape),
  }
  models = {
    'common': ('concordance', 'cosine'),
    'accuracy': ('source', 'target'),
    'both': tuple(features),
  }

  def explained(chosen):
    """Shares, of the pairs among the chosen networks."""
    pairs = [(i, j) for i in chosen for j in chosen if i != j]
    rows, columns = np.array(pairs).T
    y = transfer[rows, columns]
    xs = {n: f[rows, columns] for n, f in features.items()}
    there = np.isfinite(y) & np.all(
      [np.isfinite(x) for x in xs.values()], axis=0
    )
    shares = {}
    for name, used in models.items():
      design = np.stack(
        [np.ones(there.sum()), *(xs[u][there] for u in used)], 1
      )
      fit = np.linalg.lstsq(design, y[there], rcond=None)[0]
      rest = y[there] - design @ fit
      shares[name] = 1 - rest.var() / y[there].var()
    shares['added'] = shares['both'] - shares['accuracy']
    return {**shares, 'pairs': int(there.sum())}

  everyone = np.arange(len(accuracy))
  rng = np.random.default_rng(0)
  draws = [explained(rng.choice(everyone, len(everyone))) for _ in range(200)]
  value = explained(everyone)
  entry = lambda name: {
    'value': float(value[name]),
    'interval': np.percentile([d[name] for d in draws], [2.5, 97.5]).tolist(),
  }
  return {
    'pairs': value.pop('pairs'),
    **{name: entry(name) for name in value},
  }


def judge(config, summary):
  """The rules of the module's docstring: claim -> verdict and why."""
  text = lambda entry: common.with_interval(entry, '.3f')
  first = config.models[0]
  between = summary['attacks'][MATCHED][first][first]
  moved, noise = between['transfer'], between['noise']
  fits = {
    'common boundaries explain it': summary['regression'],
    'and what exceeds noise': summary['regression_above_noise'],
  }
  rows, chance = summary['alignment']['rows'], summary['alignment']['chance']
  early = [
    row
    for row in rows
    if row['step'] and row['accuracy']['value'] <= chance + CHANCE
  ]
  ends = summary['parts'][0]['concordance'], summary['parts'][-1]['concordance']
  below = common.below
  found = {
    'transfer': (
      [below(noise, moved)],
      [below(moved, noise)],
      f'at {summary["success"]:.0%} success on the source '
      f'{text(moved)}, noise {text(noise)}',
    ),
    **{
      name: (
        [below(EXPLAINED, part['common']), below(ADDED, part['added'])],
        [below(part['common'], EXPLAINED), below(part['added'], ADDED)],
        f'share of variance {text(part["common"])}, accuracy '
        f'{text(part["accuracy"])}, added to it {text(part["added"])}; '
        f'{part["pairs"]} pairs',
      )
      for name, part in fits.items()
    },
    'directions align before accuracy rises': (
      [any(below(ALIGNED, row['cosine']) for row in early)],
      [bool(early) and all(below(row['cosine'], ALIGNED) for row in early)],
      '; '.join(
        f'step {row["step"]} cosine {text(row["cosine"])} at accuracy '
        f'{row["accuracy"]["value"]:.3f}'
        for row in early
      )
      or f'accuracy rises at the first step, to {text(rows[1]["accuracy"])}',
    ),
    'more data bring networks nearer': (
      [below(*ends)],
      [below(*ends[::-1])],
      f'concordance of parts of {summary["parts"][0]["samples"]} '
      f'{text(ends[0])}, of {summary["parts"][-1]["samples"]} {text(ends[1])}',
    ),
  }
  return {
    name: {'verdict': common.decide(*parts[:2]), 'why': parts[2]}
    for name, parts in found.items()
  }


def report(summary):
  """Prints the summary as tables."""
  cell = lambda entry, spec='.2f': (
    '-' if np.isnan(entry['value']) else common.with_interval(entry, spec)
  )
  names = list(summary['networks'])
  print(
    f'\n{summary["dataset"]}, {summary["images"]} test images; rows attack, '
    'columns are fooled. Means over pairs of networks [95 %].'
  )
  for attack, rows in summary['attacks'].items():
    print(f'\n{attack}')
    common.print_table(
      ['source', 'own success', *names, 'noise at the first'],
      [
        [
          source,
          f'{summary["networks"][source]["fooled"][attack]:.2f}',
          *(cell(rows[source][target]['transfer']) for target in names),
          cell(rows[source][names[0]]['noise']),
        ]
        for source in names
      ],
    )
  print(f'\nSources that still train, {summary["unfinished"]["attack"]}')
  common.print_table(
    ['step', 'own success', 'transfer', 'noise', ''],
    [
      [
        str(row['step']),
        f'{row["fooled"]:.2f}',
        cell(row['transfer']),
        cell(row['noise']),
        '',
      ]
      for row in summary['unfinished']['rows']
    ],
  )
  print('\nTwo parts of the data without a common sample')
  common.print_table(
    [
      'samples',
      'accuracy',
      'spread of t*',
      'concordance',
      'cosine',
      'transfer',
    ],
    [
      [
        str(row['samples']),
        *(
          cell(row[name], '.3f')
          for name in 'accuracy spread concordance cosine transfer'.split()
        ),
      ]
      for row in summary['parts']
    ],
  )
  print()
  for name, entry in summary['verdicts'].items():
    print(f'{name}: {entry["verdict"]} ({entry["why"]})')


if __name__ == '__main__':
  flags.main(run, Config, PRESETS)
