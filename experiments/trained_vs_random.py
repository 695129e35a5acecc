"""Does training keep the random network's law of distances to the boundary?

De Palma, Kiani, Lloyd (2021), https://arxiv.org/abs/2004.05923, figures 3 and
4: distances of training, test and random images from the boundary, of networks
before and after training. Beside them what the infinitely wide random network
predicts at the same input without any fit, and the infinitely wide network
itself, trained on the same images: regression with its kernel, by Bayes (nngp)
and by gradient descent (ntk), measured by the same search.

  python -m experiments.trained_vs_random
  python -m experiments.trained_vs_random --preset=mnist --data_dir=DIR
  python -m experiments.trained_vs_random --preset=paper --data_dir=DIR

The first takes 5 minutes on 2 CPU cores, and trains small networks on digits;
--preset=quick one, mnist and cifar10 about 6; paper (the authors' ResNet20, 250
networks, 20 images of each type; for CIFAR10 add --dataset=cifar10 --epochs=25)
is meant for a GPU. A run killed at any moment goes on where it was.

Every network has its own images, --num_images of each type: of the training
set, of the test set (with --noise, see there), and uniformly random pixels; the
same before and after training. Distances are to the boundary of the network's
own prediction, pixels kept in [0, 1], by the search `fast`. Labels are
parities, as the authors have them, or ten classes. The authors' networks here
have no biases, theirs have some in ResNet20, at 0 before training; theirs
started anew where an epoch taught nothing, ours all count (`right`).

The law: a distance is |N(0, 1)| s(x), s(x) of the infinitely wide network at
the input (in l1 and in the box: of that median); its quantiles begin straight,
with slope 1.2533 s(x). Of ten classes the gap of the largest two of ten normals
takes the place of |N|. For resnet20, which has no closed form, s is that of its
own one-gradient estimates before training.

Seen in l2, parities of 1000 training images; medians after over before
training, then after training over the law at the same input:
                    training images    test images        random images
  digits, dense     1.29 [1.12, 1.53]  1.30 [1.09, 1.56]  0.62 [0.45, 0.75]
  (100 networks)    1.38 [1.33, 1.45]  1.34 [1.26, 1.41]  0.56 [0.48, 0.63]
  digits, conv      1.52 [1.24, 1.80]  1.64 [1.31, 1.85]  0.77 [0.58, 0.95]
  (100)             1.19 [1.13, 1.24]  1.21 [1.14, 1.26]  0.54 [0.47, 0.59]
  mnist, dense      3.68 [2.37, 4.84]  3.17 [2.51, 4.29]  0.56 [0.41, 0.71]
  (30)              2.99 [2.78, 3.37]  2.98 [2.78, 3.21]  0.49 [0.42, 0.58]
  mnist, conv       3.83 [2.49, 5.34]  3.05 [2.17, 4.99]  2.54 [1.43, 3.97]
  (30)              1.79 [1.40, 2.01]  1.63 [1.38, 2.09]  1.30 [0.93, 1.76]
  cifar10, dense    3.58 [1.91, 5.23]  3.87 [2.27, 5.13]  1.84 [1.19, 2.59]
  (20)              2.01 [1.49, 2.46]  2.22 [1.70, 2.87]  1.33 [0.98, 1.62]
  cifar10, conv     2.68 [1.58, 4.00]  1.56 [1.10, 2.76]  1.45 [0.86, 2.20]
  (20)              0.62 [0.40, 0.75]  0.39 [0.31, 0.47]  0.63 [0.44, 0.84]
With l1 and linf the law is not kept in 50 of 54 cases, and not shown to be in
the other 4: training moves the boundary away from images of the data (in l1 on
digits that is not shown), and towards random ones on digits and of dense
networks on mnist. On digits and mnist training images near the boundary become
rare (profile 1.95 [1.85, 2.04] on digits, dense; before training 1.00 [0.82,
1.19]), random ones there do not (0.78 [0.66, 0.90]); on cifar10, of which
little is learnt (64 % of test images right, digits 97, mnist 94), no profile is
decided. Distances still follow the margin: mean rank correlations of 0.74 to
0.98. Before training, dense networks have the law's medians (1.07 [0.92, 1.20],
1.01, 0.92 on digits); convolutional ones of width 8 and 4 are too narrow for it
(0.75 [0.65, 0.91], 0.52 [0.34, 0.76], 0.20 [0.15, 0.33] on the three sets). The
infinitely wide trained networks' medians over the finite ones' at the same
training, test and random images: nngp 1.11 [1.05, 1.17], 1.05 [0.98, 1.14],
1.59 [1.32, 1.98] on digits, 0.47 [0.34, 0.69], 0.19 [0.16, 0.28], 0.40 [0.20,
0.61] on cifar10; ntk 1.28 [1.22, 1.34], 1.26 [1.18, 1.37], 1.09 [0.89, 1.42]
and 1.22 [0.89, 1.79], 0.40 [0.29, 0.76], 0.62 [0.34, 1.09]. The finite ones are
trained on cross-entropy, not on squares, nor to the end.

Intervals are at 95 %, by bootstrap over networks, each with its own images
(what comes from one network is correlated), and over images for infinitely wide
ones, which are one function; a failed search counts as infinitely far.
`profile` is the slope of a line through 0 fitted to the first quarter of the
sorted distances, each over s(x), against their share, over their median, and
over the same of the law. Verdicts, by rules fixed here. On each trained
network, norm and type of image, against the same networks before training: the
scale is "kept" if the interval of the ratio of medians lies within 1/1.25 and
1.25, else "grows" ("shrinks") if it lies above (below) 1, else "undecided"; the
profile likewise "kept", else "fewer near" ("more near") the boundary if the
ratio of profiles lies above (below) 1. The law is "kept" where both are. An
infinitely wide trained network "agrees" with the finite ones if the interval of
the ratio of medians at the same images lies within the same bounds, else is
"farther" ("nearer"), or "undecided". The distance "follows the margin" if the
mean rank correlation over networks, of the distances of one type of image with
|margin|, has an interval above 0.
"""

import dataclasses
import functools
import zlib

import jax
from jax import flatten_util
import jax.numpy as jnp
import numpy as np
from scipy import stats
import tqdm

from dmm_jax import data
from dmm_jax import nngp
from dmm_jax import parallel
from dmm_jax import plots
from dmm_jax import predictions
from dmm_jax import programs
from dmm_jax import random_nets
from dmm_jax import records
from dmm_jax import statistics
from dmm_jax import train
from experiments import common
from experiments.lib import flags

TYPES = ('train', 'test', 'random')
BOUNDS = (0.0, 1.0)
BAND = 1.25  # What still counts as the same.
QUARTER = 0.25  # Of the sorted distances, for the profile's start.


@dataclasses.dataclass(frozen=True)
class Config:
  preset: str = flags.flag(
    'default',
    'Values for the flags that are not given: default, quick, mnist, cifar10, '
    'paper.',
  )
  workdir: str = flags.flag('runs/trained_vs_random', 'Run directory.')
  seed: int = flags.flag(0, 'Of weights, order and images.', least=0)
  dataset: str = flags.flag(
    'digits', 'digits (embedded), or an image set of tensorflow-datasets.'
  )
  data_dir: str = flags.flag('', 'Of tensorflow-datasets.')
  labels: str = flags.flag(
    'parity',
    'Whether the number of the class is odd, or that number.',
    choices=('parity', 'classes'),
  )
  num_train: int = flags.flag(
    1000, 'The first so many of the training set; 0 for all.', least=0
  )
  num_test: int = flags.flag(1000, 'Likewise, of the test set.', least=0)
  architectures: tuple[str, ...] = flags.flag(
    ('fully_connected', 'convolutional'),
    'Networks to train.',
    choices=tuple(random_nets.ARCHITECTURES),
  )
  widths: str = flags.flag(
    '256,8', "Of each one's first hidden layer; 0 is the paper's.", numbers=0
  )
  num_networks: int = flags.flag(100, 'Of each architecture.', least=2)
  together: int = flags.flag(
    20, 'So many train at once, and are saved at once.', least=1
  )
  num_images: int = flags.flag(5, 'Of each type, a network.', least=2)
  norms: tuple[float, ...] = flags.flag(
    (1.0, 2.0, np.inf), 'Norms of the distance.', choices=(1.0, 2.0, np.inf)
  )
  noise: float = flags.flag(
    1 / 256,
    'Uniform noise blended into real images that are measured: pixels that are '
    'exactly 0 put whole patches on the kink of every ReLU.',
    least=0,
    most=1,
  )
  loss: str = flags.flag(
    'cross_entropy', 'Of training.', choices=('cross_entropy', 'squared')
  )
  learning_rate: float = flags.flag(1e-3, 'Of Adam, constant.', least=0)
  weight_decay: float = flags.flag(0.0, 'Added to gradients.', least=0)
  batch_size: int = flags.flag(32, 'Images a step.', least=1)
  epochs: int = flags.flag(20, 'Passes over the training images.', least=1)
  method: str = flags.flag('fast', 'Search, as of boundary_distances.')
  max_gradients: int = flags.flag(40, 'Budget of one search.', least=2)
  infinite: tuple[str, ...] = flags.flag(
    ('fully_connected',),
    'Of these, infinitely wide, besides; or none. Convolutional ones take a '
    'hundred times as long.',
    choices=('fully_connected', 'convolutional', 'lenet', 'resnet', 'none'),
  )
  kinds: tuple[str, ...] = flags.flag(
    ('nngp', 'ntk'), 'Of their kernels.', choices=('nngp', 'ntk')
  )
  num_infinite: int = flags.flag(
    200, 'Images of each type for them; those of the first networks.', least=2
  )
  ridge: float = flags.flag(
    1e-4, "Of regression, in units of the kernel's mean diagonal.", least=0
  )


PRESETS = {
  'default': {},
  'quick': dict(
    workdir='runs/trained_vs_random_quick',
    architectures=('fully_connected',),
    widths='100',
    num_networks=60,
    together=60,
    num_train=500,
    num_infinite=100,
  ),
  'mnist': dict(
    workdir='runs/trained_vs_random_mnist',
    dataset='mnist',
    widths='256,4',
    num_networks=30,
    together=15,
    epochs=10,
  ),
  'cifar10': dict(
    workdir='runs/trained_vs_random_cifar10',
    dataset='cifar10',
    widths='100,4',
    num_networks=20,
    together=10,
    epochs=10,
    num_infinite=60,
  ),
  'paper': dict(
    workdir='runs/trained_vs_random_paper',
    dataset='mnist',
    architectures=('resnet20',),
    widths='0',
    num_train=0,
    num_test=0,
    num_networks=250,
    together=25,
    num_images=20,
    noise=0.0,
    learning_rate=1e-4,
    # On the gradient of l2 regularisation by 1e-4; theirs leaves out the head.
    weight_decay=2e-4,
    epochs=15,
    infinite=('none',),
  ),
}


def run(config: Config) -> dict:
  """Runs the experiment, and returns what it wrote to summary.json."""
  flags.check(config)
  flags.check_method(config.method, config.norms, together=True)
  modules(config, 2)
  sets = {split: load(config, split) for split in ('train', 'test')}
  return common.conduct(
    config,
    'experiments.trained_vs_random',
    collect=lambda config, run_dir: collect(config, run_dir, sets),
    summarize=summarize,
    draw=plots.trained_vs_random,
    report=report,
  )


# --- Data and networks -----------------------------------------------------


def load(config, split):
  """`(xs, labels)` of a split, as many as are asked for."""
  xs, labels = data.load(config.dataset, split, config.data_dir or None)
  num = getattr(config, f'num_{split}') or len(xs)
  if config.labels == 'parity':
    labels = data.parity(labels)
  return xs[:num], labels[:num]


def modules(config, num_classes):
  """`{architecture: module}`."""
  widths = flags.as_numbers('widths', config.widths, least=0)
  if len(widths) != len(config.architectures):
    raise flags.FlagError(
      f'--widths={config.widths} is not {len(config.architectures)} numbers, '
      'one for each of --architectures'
    )
  return {
    name: random_nets.ARCHITECTURES[name]
    .module(width)
    .clone(num_classes=num_classes)
    for name, width in zip(config.architectures, widths, strict=True)
  }


def forward_of(module):
  """The network as a function of one input, as `train.fit` takes it."""
  return programs.bind(_forward, module=module)


def _forward(params, stats, x, key, train, *, module):
  del key, train
  return module.apply({'params': params}, x), stats


def images_of(config, sets, network):
  """The images of one network, `[types * num_images, ...]`, type by type."""
  rng = np.random.default_rng((config.seed, network))
  shape = (config.num_images, *sets['train'][0].shape[1:])
  draw = lambda: rng.uniform(size=shape).astype(np.float32)
  blocks = []
  for split in ('train', 'test'):
    xs, _ = sets[split]
    rows = xs[rng.integers(len(xs), size=config.num_images)]
    blocks.append((1 - config.noise) * rows + config.noise * draw())
  return np.concatenate([*blocks, draw()]).astype(np.float32)


def fit(config, name, module, sets, first, last):
  """Trains networks `first` to `last` at once: weights before and after.

  Returns:
    Two arrays `[networks, parameters]`.
  """
  xs, labels = sets['train']
  plan = train.TrainConfig(
    loss=config.loss,
    learning_rate=config.learning_rate,
    schedule='constant',
    weight_decay=config.weight_decay,
    batch_size=config.batch_size,
    num_epochs=config.epochs,
  )
  optimizer = train.make_optimizer(plan, len(xs))
  key = jax.random.fold_in(
    jax.random.key(config.seed), zlib.crc32(name.encode())
  )
  keys = jax.vmap(lambda i: jax.random.split(jax.random.fold_in(key, i)))(
    jnp.arange(first, last)
  )
  state = jax.vmap(lambda k: train.init_state(k, module, xs[0], optimizer))(
    keys[:, 0]
  )
  flat = jax.vmap(lambda params: flatten_util.ravel_pytree(params)[0])
  before = np.asarray(flat(state.params))
  history = train.fit(
    keys[:, 1], forward_of(module), state, xs, labels, config=plan
  )
  with tqdm.tqdm(
    history, desc='training', total=config.epochs, unit='epoch', leave=False
  ) as bar:
    for pause in bar:
      bar.set_postfix(loss=f'{np.mean(pause.loss):.4g}')
  return before, np.asarray(flat(pause.state.params))


# --- Measuring -------------------------------------------------------------


def search_options(config):
  """The options of `random_nets.distances`."""
  return dict(
    exponents=config.norms,
    bounds=BOUNDS,
    method=config.method,
    max_gradients=config.max_gradients,
  )


def logits_of(flat, module, shape):
  """A network, given its weights as a vector, as a function of one input."""
  x = jax.ShapeDtypeStruct(shape, np.float32)
  example = jax.eval_shape(module.init, jax.random.key(0), x)['params']
  blank = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape), example)
  _, unravel = flatten_util.ravel_pytree(blank)
  params = unravel(flat)
  return lambda v: module.apply({'params': params}, v)[0]


def measure_network(flat, images, *, module, **options):
  """Returns `random_nets.Distances` of one network's images."""
  logits_fn = logits_of(flat, module, images.shape[1:])
  return jax.vmap(lambda x: random_nets.distances(logits_fn, x, **options))(
    images
  )


def accuracy(flat, xs, labels, *, module):
  """Returns the proportion of examples that one network classifies right."""
  logits_fn = logits_of(flat, module, xs.shape[1:])
  found = jax.lax.map(lambda v: jnp.argmax(logits_fn(v)), xs, batch_size=100)
  return jnp.mean(found == labels)


def infinite_logits(x, *fitted, name, kind):
  """Logits of a trained infinitely wide network at one input."""
  kernel_fn, fitted = predictions.kernel(name), nngp.Regression(*fitted)
  return nngp.posterior_mean(kernel_fn, fitted, x, kind=kind)


def measure_infinite_image(x, *fitted, name, kind, **options):
  """Returns `random_nets.Distances` of one input of such a network."""
  logits_fn = lambda v: infinite_logits(v, *fitted, name=name, kind=kind)
  return random_nets.distances(logits_fn, x, **options)


def collect(config, run_dir, sets):
  """Part by part: results.npz, one row a (network, state, image, norm)."""
  num_classes = int(sets['train'][1].max()) + 1
  known = modules(config, num_classes)
  groups = [
    (name, first)
    for name in known
    for first in range(0, config.num_networks, config.together)
  ]
  limits = [
    (n, k) for n in config.infinite for k in config.kinds if n != 'none'
  ]

  def compute(done):
    for name, first in groups[done:]:
      yield measure_group(config, sets, first, name, known[name])
    for name, kind in limits[max(done - len(groups), 0) :]:
      yield measure_infinite(config, name, kind, sets)

  names = [f'{name}-{first:04d}' for name, first in groups]
  names += [f'infinite-{name}-{kind}' for name, kind in limits]
  common.gather(run_dir, names, compute, 'part')


def measure_group(config, sets, first, name, module):
  """Rows of some networks of one architecture, before and after training."""
  last = min(first + config.together, config.num_networks)
  images = np.stack([images_of(config, sets, i) for i in range(first, last)])
  scales = scales_of(config, name, images)
  before, after = fit(config, name, module, sets, first, last)
  # Every network has its own weights: nothing is gained by batching on CPU.
  spread = functools.partial(
    parallel.map_examples,
    batch_size=last - first,
    vmap_size=1 if jax.default_backend() == 'cpu' else None,
  )
  measure = programs.bind(
    measure_network, module=module, **search_options(config)
  )
  right = programs.bind(accuracy, module=module)
  parts = []
  for state, flat in (('untrained', before), ('trained', after)):
    found = spread(measure, (flat, images))
    rates = [spread(right, (flat,), shared=sets[s]) for s in ('train', 'test')]
    parts.append(rows_of(config, name, state, first, found, scales, *rates))
  return records.concatenate(parts)


def measure_infinite(config, name, kind, sets):
  """Rows of the trained infinitely wide network, one function."""
  num = -(-config.num_infinite // config.num_images)
  num = min(num, config.num_networks)
  images = np.stack([images_of(config, sets, i) for i in range(num)])
  fitted = nngp.fit_regression(
    predictions.kernel(name),
    *sets['train'],
    kind=kind,
    ridge=config.ridge,
    num_classes=int(sets['train'][1].max()) + 1,
  )
  found = parallel.map_examples(
    programs.bind(
      measure_infinite_image, name=name, kind=kind, **search_options(config)
    ),
    (images.reshape(-1, *images.shape[2:]),),
    shared=tuple(fitted),
    batch_size=100,
    progress=f'{name} {kind}',
  )
  found = jax.tree.map(
    lambda v: v.reshape(*images.shape[:2], *v.shape[1:]), found
  )
  logits = programs.bind(infinite_logits, name=name, kind=kind)
  rates = []
  for split in ('train', 'test'):
    xs, labels = sets[split]
    out = parallel.map_examples(logits, (xs,), shared=tuple(fitted))
    rates.append(np.full(num, np.mean(out.argmax(1) == labels)))
  scales = scales_of(config, name, images)
  return rows_of(config, name, kind, 0, found, scales, *rates)


def scales_of(config, name, images):
  """The law's scale `[networks, images, norms]`."""
  flat = images.reshape(-1, *images.shape[2:])
  scales = predictions.scales(name, flat, config.norms, bounds=BOUNDS)
  return scales.reshape(*images.shape[:2], -1)


def rows_of(config, name, state, first, found, scales, train_right, test_right):
  """Flattens `Distances [networks, images, norms]` into columns."""
  shape = networks, images, _ = found.distance.shape
  network, image, norm = np.meshgrid(
    np.arange(first, first + networks, dtype=np.int32),
    np.arange(images, dtype=np.int32),
    np.array(config.norms, np.float32),
    indexing='ij',
  )
  fill = lambda values: np.broadcast_to(values, shape)
  columns = {
    'architecture': fill(np.array(name, 'U16')),
    'state': fill(np.array(state, 'U10')),
    'type': np.array(TYPES, 'U6')[image // config.num_images],
    'norm': norm,
    'network': network,
    'image': image % config.num_images,
    'train_right': fill(train_right[:, None, None]).astype(np.float32),
    'test_right': fill(test_right[:, None, None]).astype(np.float32),
    'margin': fill(found.margin[..., None]),
    'scale': scales,
  }
  of_norms = 'distance estimate status gradients'.split()
  columns |= {field: getattr(found, field) for field in of_norms}
  return {field: column.ravel() for field, column in columns.items()}


# --- Judging ---------------------------------------------------------------


def summarize(config, run_dir):
  """Every number with n, interval, prediction, and verdict."""
  table = records.load_columns(run_dir / 'results.npz')
  num_classes = 2
  if config.labels == 'classes':
    num_classes = data.num_classes(config.dataset, config.data_dir or None)
  rows = []
  cases = [
    (name, kind, norm)
    for name in dict.fromkeys(table['architecture'])
    for norm in config.norms
    for kind in TYPES
  ]
  for name, kind, norm in tqdm.tqdm(cases, desc='intervals'):
    part = records.select(
      table, architecture=name, type=kind, norm=np.float32(norm)
    )
    rows += compare(part, num_classes)
  return {
    'question': flags.question(__doc__),
    'dataset': config.dataset,
    'labels': config.labels,
    'num_classes': num_classes,
    'unit': nngp.distance_quantile(1.0, 0.5, num_classes),
    'num_train': config.num_train,
    'rows': rows,
    'verdicts': [
      f'{name}: the law is kept in {kept} of {num} cases'
      for name, kept, num in tally(rows)
    ],
  }


def tally(rows):
  """`(architecture, cases where the law is kept, cases)`."""
  trained = [row for row in rows if row['state'] == 'trained']
  for name in dict.fromkeys(row['architecture'] for row in trained):
    said = [r['verdict'] for r in trained if r['architecture'] == name]
    yield name, sum(s.startswith('law kept') for s in said), len(said)


def compare(part, num_classes):
  """Rows of the summary, one a state, of one architecture, type and norm."""
  states = {
    str(state): records.select(part, state=state)
    for state in dict.fromkeys(part['state'])
  }
  unit = nngp.distance_quantile(1.0, 0.5, num_classes)
  own = None
  if 'untrained' in states and np.isnan(part['scale']).any():
    # No closed form: the random networks' own one-gradient estimates.
    own = float(np.median(states['untrained']['estimate'])) / unit
  rows, grids = [], {}
  for state, rows_of_state in states.items():
    grid = lambda column, table=rows_of_state: by_network(table, column)
    distance, scale = grid('distance'), grid('scale')
    scale = np.full(scale.shape, own) if own else scale
    grids[state] = distance, distance / scale, grid('network')[:, 0]
    rows.append(
      {
        **{c: str(part[c][0]) for c in ('architecture', 'type', 'norm')},
        'state': state,
        **describe(rows_of_state, distance, scale, num_classes),
      }
    )
  found = {row['state']: row for row in rows}
  for state, row in found.items():
    if state == 'trained':
      row |= against_untrained(grids['trained'], grids['untrained'])
    elif state != 'untrained' and 'trained' in grids:
      row |= against_trained(grids[state], grids['trained'])
  return rows


def by_network(table, column):
  """`[networks, images]`: the images of one network stay together."""
  return table[column].reshape(-1, table['image'].max() + 1)


def units(values, one_function):
  """What is drawn independently: networks, or a single one's images."""
  return values.reshape(-1, 1) if one_function else values


def describe(table, distance, scale, num_classes):
  """What one state of the networks shows by itself, beside the law."""
  single = str(table['state'][0]) in ('nngp', 'ntk')
  over = lambda values: units(values, single)
  unit = nngp.distance_quantile(1.0, 0.5, num_classes)
  law = law_profile(num_classes)
  follows = correlation(by_network(table, 'margin'), distance, single)
  q45, q55 = (float(statistics.sample_quantile(q)(distance)) for q in (45, 55))
  rates = {
    f'{s}_right': right_share(by_network(table, f'{s}_right')[:, 0], single)
    for s in ('train', 'test')
  }
  return {
    'n': 1 if single else len(distance),
    'images': distance.size,
    **rates,
    'not_found': float(np.mean(np.isinf(distance))),
    'median': common.entry(
      statistics.estimate(
        MEDIAN, over(distance), unit='images' if single else 'networks'
      )
    ),
    'q45': q45,
    'q55': q55,
    'predicted': nngp.distance_quantile(scale, 0.5, num_classes),
    'relative': common.entry(
      statistics.estimate(
        MEDIAN,
        over(distance / scale / unit),
        unit='images' if single else 'networks',
      )
    ),
    'slope': common.entry(
      statistics.estimate(
        start, over(distance), unit='images' if single else 'networks'
      )
    ),
    'predicted_slope': nngp.distance_slope(scale, num_classes),
    'profile': common.entry(
      statistics.estimate(
        lambda v: start(v) / MEDIAN(v) / law,
        over(distance / scale),
        unit='images' if single else 'networks',
      )
    ),
    'correlation': follows,
    'margin': 'follows' if follows['interval'][0] > 0 else 'not shown',
  }


MEDIAN = statistics.sample_quantile(50)


def right_share(rates, single):
  value = float(rates[0])
  if single:
    return {'value': value, 'interval': [value, value]}
  return common.entry(statistics.t_mean(rates, unit='networks'))


def start(values):
  """The slope of the sorted values against their share, in its first quarter.

  Least squares of a line through 0; infinite where so many failed.
  """
  flat = values.reshape(*values.shape[:-2], -1)
  num = max(2, int(QUARTER * flat.shape[-1]))
  share = (np.arange(num) + 0.5) / flat.shape[-1]
  first = np.sort(flat, axis=-1)[..., :num]
  return first @ share / (share @ share)


@functools.cache
def law_profile(num_classes):
  """The start of the law's own quantiles, over their median."""
  shares = (np.arange(400) + 0.5) / 400
  flat = [nngp.distance_quantile(1.0, p, num_classes) for p in shares]
  flat = np.array(flat)[:, None]
  return float(start(flat) / MEDIAN(flat))


def correlation(margins, distance, single):
  """Of ranks: the mean over networks, or that of a single one."""
  ranks = lambda v: stats.rankdata(v, axis=-1)
  if single:
    pairs = np.stack([ranks(v.ravel()) for v in (margins, distance)], -1)
    return common.entry(
      statistics.estimate(
        lambda v: correlate(v[..., 0], v[..., 1]), pairs, unit='images'
      )
    )
  each = correlate(ranks(margins), ranks(distance))
  if not np.isfinite(each).any():
    return {'value': float('nan'), 'interval': [float('nan')] * 2}
  return common.entry(statistics.mean(each[np.isfinite(each)], unit='networks'))


def correlate(a, b):
  """Pearson's, over the last axis; NaN of what is constant."""
  centred = [v - v.mean(-1, keepdims=True) for v in (a, b)]
  sizes = [np.sqrt(np.sum(v**2, -1)) for v in centred]
  with np.errstate(invalid='ignore', divide='ignore'):
    return np.sum(centred[0] * centred[1], -1) / (sizes[0] * sizes[1])


def ratio(statistic, found, null):
  """Of a statistic of the same networks or images, as an entry."""
  half = found.shape[1]

  def over(values):
    # Infinite medians, where most searches failed, have no ratio: NaN.
    with np.errstate(invalid='ignore', divide='ignore'):
      return statistic(values[..., :half]) / statistic(values[..., half:])

  return common.entry(
    statistics.estimate(
      over, np.concatenate([found, null], axis=1), unit='networks'
    )
  )


def against_untrained(trained, untrained):
  """Ratios to the same networks before training, and the verdict."""
  scale = ratio(MEDIAN, trained[0], untrained[0])
  profile = ratio(lambda v: start(v) / MEDIAN(v), trained[1], untrained[1])
  said = [
    verdict(scale['interval'], 'kept', 'grows', 'shrinks'),
    verdict(profile['interval'], 'kept', 'fewer near', 'more near'),
  ]
  law = 'kept' if said == ['kept', 'kept'] else 'not shown to be kept'
  if {'grows', 'shrinks', 'fewer near', 'more near'} & set(said):
    law = 'not kept'
  return {
    'ratio': scale,
    'profile_ratio': profile,
    'verdict': f'law {law}: scale {said[0]}, profile {said[1]}',
  }


def against_trained(infinite, trained):
  """The ratio to finite networks at the same images, and the verdict."""
  same = np.isin(trained[2], infinite[2])
  found = ratio(MEDIAN, infinite[0], trained[0][same])
  said = verdict(found['interval'], 'agrees', 'farther', 'nearer')
  return {'ratio': found, 'verdict': f'infinite width: {said}'}


def verdict(interval, same, above, below):
  """The rule of the module's docstring, in words."""
  low, high = interval
  if 1 / BAND <= low and high <= BAND:
    return same
  return above if low > 1 else below if high < 1 else 'undecided'


def report(summary):
  """Prints the summary as a table."""
  print(
    f'\n{summary["dataset"]}, {summary["labels"]}: distances to the boundary; '
    'ratio: of medians, trained over untrained,\ninfinite over trained; over '
    'law: median of distance over that predicted at the same input;\nprofile: '
    'start of the sorted distances, 1 for the law; 95 % intervals\n'
  )
  rows = []
  for row in summary['rows']:
    rows.append(
      [
        row['architecture'],
        row['state'],
        row['type'],
        row['norm'].removesuffix('.0'),
        str(row['n']),
        f'{row["test_right"]["value"]:.1%}',
        f'{row["median"]["value"]:.3g} [{row["q45"]:.3g}, {row["q55"]:.3g}]',
        common.with_interval(row['relative'], '.2f'),
        common.with_interval(row['profile'], '.2f'),
        common.with_interval(row['correlation'], '.2f'),
        common.with_interval(row['ratio'], '.2f') if 'ratio' in row else '-',
        f'{row["not_found"]:.1%}',
        row.get('verdict', '-'),
      ]
    )
  header = 'network,state,images,p,n,right,median [45; 55 %],over law,profile,'
  header += 'rank correlation with margin,ratio,not found,verdict'
  common.print_table([h.replace(';', ',') for h in header.split(',')], rows)
  print()
  print('\n'.join(summary['verdicts']))


if __name__ == '__main__':
  flags.main(run, Config, PRESETS)
