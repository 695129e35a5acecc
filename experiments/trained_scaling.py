"""Does the guarantee of random networks, distance ~ sqrt(n), survive training?

De Palma, Kiani, Lloyd (2021), https://arxiv.org/abs/2004.05923, prove for
random networks that the l^p distance of an input from the boundary is about
||x||_p / sqrt(n) for n pixels, and conjecture that trained networks keep that.
Trains networks on the same images resized to each of --sizes, and measures l1,
l2 and linf distances within [0, 1] of test images and of uniform noise, of the
trained networks and of the same ones before training.

  python -m experiments.trained_scaling
  python -m experiments.trained_scaling --preset=mnist --data_dir=DIR
  python -m experiments.trained_scaling --preset=cifar10 --data_dir=DIR

The first takes 6 minutes on 2 CPU cores, --preset=quick one and a half. A run
killed at any moment goes on where it was.

Seen on digits (default; 8 networks a size, 16 to 576 pixels): the guarantee
survives, with much to spare. Slopes of the trained networks at images of true
content, beside the law's -0.62 in l1 and -0.50: mlp l1 +0.02 [-0.00, 0.03], l2
+0.05 [0.03, 0.06], linf -0.03 [-0.04, -0.00]; cnn +0.08 [0.02, 0.14], +0.17
[0.10, 0.24], +0.14 [0.08, 0.21]. Part of that is content, which 16 pixels lose:
from the images' own 64 on they are -0.13 [-0.15, -0.11], -0.15 [-0.16, -0.14],
-0.22 [-0.25, -0.21]; -0.20 [-0.26, -0.13], -0.13 [-0.16, -0.07], -0.15 [-0.20,
-0.10]. With more pixels of the same content: mlp -0.18 [-0.21, -0.16], -0.10
[-0.12, -0.09], -0.12 [-0.13, -0.09]; cnn -0.21 [-0.27, -0.14], -0.03 [-0.10,
0.04], -0.01 [-0.08, 0.05]. Before training the same networks have -0.58 to
-0.88 at images, give or take 0.2, and -0.47 to -0.65 at noise; training adds
0.46 to 0.95, all intervals above 0. At noise networks trained on true content
fall as n to the power of -0.25 to -0.41.

On MNIST (--preset=mnist, 10 minutes on a busy machine; 4 networks a size, 49 to
1600 pixels, l1's law -0.59) it survives too. True content: mlp l1 +0.04 [0.02,
0.07], l2 +0.01 [-0.02, 0.04], linf +0.01 [-0.02, 0.05]; cnn -0.19 [-0.23,
-0.13], +0.01 [-0.02, 0.05], +0.14 [0.09, 0.18]. The same content: mlp -0.20
[-0.22, -0.19], -0.15 [-0.20, -0.12], -0.17 [-0.21, -0.13]; cnn -0.38 [-0.43,
-0.30], -0.12 [-0.16, -0.07], -0.12 [-0.17, -0.07]. Untrained, true content: mlp
-0.38 [-0.51, -0.27], -0.38 [-0.48, -0.30], -0.40 [-0.49, -0.31]; cnn -0.74
[-0.96, -0.56], -0.69 [-0.93, -0.49], -0.66 [-0.94, -0.44]: bootstraps of four
networks are too narrow to judge the untrained ones' law by, for which there is
random_scaling.

On CIFAR-10 (--preset=cifar10, 10 to 25 minutes; 4 networks a size, 192 to 6912
numbers, l1's law -0.57) networks are hardly trained, mlps 25 to 29 % right,
cnns 14 to 25 %, some to a single class: a weak test, which wants a GPU and more
--epochs. True content, where it survives: mlp -0.17 [-0.28, -0.08], -0.15
[-0.24, -0.07], -0.20 [-0.31, -0.11]; cnn -0.11 [-0.22, 0.01], -0.15 [-0.23,
-0.02], -0.12 [-0.24, -0.04]. The same content: mlp -0.13 [-0.21, -0.06], -0.12
[-0.20, -0.06], -0.11 [-0.21, -0.04]; cnn undecided. Untrained mlps: -0.55
[-0.81, -0.27], -0.49 [-0.73, -0.23], -0.49 [-0.73, -0.25].

Larger images differ in two ways: they have more pixels, and more to see. Hence
two contents. `true`: the images resized to each size. `same`: first made as
small as the smallest size, then enlarged, so that only the number of pixels
changes. Resizing is bilinear, antialiased when it shrinks; above its own size
an image gains no content in either. Distances are from the network's own class,
as noise has no other one; accuracies are beside them. A failed search counts as
infinitely far. Of what is found --method=fast finds up to 3 % less, in twice
the time to compile, which is most of the time here.

Slopes are those of log(median d_p / ||x||_p) on log n, with 95 % bootstrap
intervals over networks, the images being the same; the law's is -1/2 (for p = 1
that of sqrt(n / ln n) / n). The guarantee is a lower bound. Verdicts at images,
by rules fixed here: it "survives" if the slope's interval lies above the law's
slope less 0.05, "does not survive" if it lies below that, else it is
"undecided", as it is with an interval wider than 0.3. Training makes distances
fall "more slowly" ("faster") with n if the interval of the paired difference of
slopes, trained less untrained, lies above (below) 0, else "no difference seen".
Content "matters" if the interval of the difference of the trained networks'
slopes, true less same, excludes 0. An infinite interval, where networks came to
give one class alone, says nothing.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from dmm_jax import boundary
from dmm_jax import data
from dmm_jax import models
from dmm_jax import norms
from dmm_jax import parallel
from dmm_jax import plots
from dmm_jax import programs
from dmm_jax import records
from dmm_jax import scaling
from dmm_jax import statistics
from dmm_jax import train
from experiments import common
from experiments.lib import flags

NORMS = (1.0, 2.0, np.inf)
CONTENTS = ('true', 'same')
INPUTS = ('images', 'noise')
# Of a slope: below the law's by more than this, it is another law.
SLACK, WIDEST = 0.05, 0.3


@dataclasses.dataclass(frozen=True)
class Config:
  preset: str = flags.flag(
    'default',
    'Values for the flags not given: default, quick, mnist, cifar10.',
  )
  workdir: str = flags.flag('runs/trained_scaling', 'Run directory.')
  seed: int = flags.flag(0, 'Of weights, orders and noise.', least=0)
  dataset: str = flags.flag(
    'digits', 'digits (embedded), or an image set of tensorflow-datasets.'
  )
  data_dir: str = flags.flag('', 'Of tensorflow-datasets.')
  sizes: tuple[int, ...] = flags.flag(
    (4, 8, 12, 16, 24), 'Sides of the images; n = channels side^2.', least=2
  )
  models: tuple[str, ...] = flags.flag(
    ('mlp', 'cnn'), 'Networks.', choices=('mlp', 'cnn')
  )
  num_networks: int = flags.flag(8, 'Seeds of each network.', least=2)
  num_train: int = flags.flag(0, 'Only the first so many; 0: all.', least=0)
  num_test: int = flags.flag(1000, 'Images of the accuracy.', least=1)
  num_examples: int = flags.flag(
    32, 'Test images that are measured, and as much noise.', least=1
  )
  blend: float = flags.flag(
    1 / 256,
    'Uniform noise blended into measured images: pixels that are exactly 0 put '
    'untrained networks on the kinks of their ReLUs.',
    least=0,
    most=1,
  )
  epochs: int = flags.flag(15, 'Of training.', least=1)
  method: str = flags.flag('projection', 'Search, as of boundary_distances.')
  max_gradients: int = flags.flag(40, 'Budget of one search.', least=2)


PRESETS = {
  'default': {},
  'quick': dict(
    workdir='runs/trained_scaling_quick',
    models=('mlp',),
    num_networks=4,
    num_examples=16,
    epochs=5,
  ),
  'mnist': dict(
    workdir='runs/trained_scaling_mnist',
    dataset='mnist',
    sizes=(7, 10, 14, 20, 28, 40),
    num_networks=4,
    num_train=3000,
    num_examples=16,
    epochs=4,
  ),
  'cifar10': dict(
    workdir='runs/trained_scaling_cifar10',
    dataset='cifar10',
    sizes=(8, 12, 16, 24, 32, 48),
    num_networks=4,
    num_train=3000,
    num_examples=16,
    epochs=4,
  ),
}


def run(config: Config) -> dict:
  """Runs the experiment, and returns what it wrote to summary.json."""
  flags.check(config)
  flags.check_method(config.method)
  if len(config.sizes) < 2:
    raise flags.FlagError('--sizes: a slope needs two of them')
  sets = {
    split: data.load(config.dataset, split, config.data_dir or None)
    for split in ('train', 'test')
  }
  return common.conduct(
    config,
    'experiments.trained_scaling',
    collect=lambda config, run_dir: collect(config, run_dir, sets),
    summarize=summarize,
    draw=plots.trained_scaling,
    report=report,
  )


# --- Images and networks ---------------------------------------------------


def resized(config, xs, content, size):
  """Images of one size, of their own content or of the smallest one's."""
  channels = xs.shape[-1]
  if content == 'same':
    xs = data.resize(xs, min(config.sizes), channels)
  return data.resize(xs, size, channels)


def module(name, num_classes):
  if name == 'mlp':
    return models.MLP((128, 128), num_classes=num_classes)
  return models.CNN((8, 16), (32,), pools=1, num_classes=num_classes)


def fit(config, net, key, xs, labels):
  """Trains --num_networks networks: `(states before, after)`, stacked."""
  keys = jax.random.split(key, config.num_networks)
  weights, orders = jnp.moveaxis(jax.vmap(jax.random.split)(keys), 1, 0)
  plan = train.TrainConfig(learning_rate=2e-3, num_epochs=config.epochs)
  optimizer = train.make_optimizer(plan, len(xs))
  before = jax.vmap(lambda k: train.init_state(k, net, xs[0], optimizer))(
    weights
  )
  forward = train.flax_forward(net)

  def last(key, state):
    for pause in train.fit(key, forward, state, xs, labels, config=plan):
      after = pause.state
    return after

  if isinstance(net, models.CNN) and jax.default_backend() == 'cpu':
    # Convolutions of many networks at once are 3 times slower there.
    each = [
      last(orders[i], jax.tree.map(lambda v, i=i: v[i], before))
      for i in range(config.num_networks)
    ]
    after = jax.tree.map(lambda *leaves: np.stack(leaves), *each)
  else:
    after = last(orders, before)
  return jax.device_get((before, after))


def measure_image(x, params, norm, *, net, method, max_gradients):
  """Distance of one input from the boundary of its own prediction.

  The norm is an argument, so that all norms share what is compiled.
  """
  logits_fn = lambda v: net.apply({'params': params}, v)[0]
  found = boundary.nearest_point(
    logits_fn,
    x,
    jnp.argmax(logits_fn(x)),
    norm=norm,
    bounds=(0.0, 1.0),
    method=method,
    max_gradients=max_gradients,
    with_normal=False,
  )
  return {
    'distance': found.distance,
    'input_norm': norms.norm(x, norm),
    'status': found.status,
  }


# --- Measuring -------------------------------------------------------------


def to_measure(config, xs, key):
  """The test images with a little noise, then as much noise."""
  keys = jax.random.split(key)
  noise = [np.asarray(jax.random.uniform(k, xs.shape)) for k in keys]
  blended = (1 - config.blend) * xs + config.blend * noise[0]
  return np.concatenate([blended, noise[1]]).astype(np.float32)


def unit(config, sets, name, content, size):
  """Columns of one network on images of one size, trained and untrained."""
  xs, labels = sets['train']
  num = config.num_train or len(xs)
  xs = resized(config, xs[:num], content, size)
  net = module(name, int(labels.max()) + 1)
  key = jax.random.fold_in(jax.random.key(config.seed), size)
  states = fit(config, net, key, xs, labels[:num])
  test, truth = (column[: config.num_test] for column in sets['test'])
  test = resized(config, test, content, size)
  probes = to_measure(
    config, test[: config.num_examples], jax.random.fold_in(key, 1)
  )
  kinds = np.repeat(INPUTS, len(probes) // 2)
  measure = programs.bind(
    measure_image,
    net=net,
    method=config.method,
    max_gradients=config.max_gradients,
  )
  parts = []
  for trained, state in enumerate(states):
    for i in range(config.num_networks):
      one = jax.tree.map(lambda v, i=i: v[i], state)
      right = train.accuracy(train.flax_forward(net), one, test, truth)
      for norm in NORMS:
        found = parallel.map_examples(
          measure, (probes,), shared=(one.params, np.float32(norm))
        )
        same = dict(
          model=name,
          content=content,
          trained=bool(trained),
          network=np.int32(i),
          n=np.int32(probes[0].size),
          norm=np.float32(norm),
          accuracy=np.float32(right),
        )
        parts.append(
          {
            **{k: np.full(len(probes), v) for k, v in same.items()},
            'inputs': kinds,
            **found,
          }
        )
  return records.concatenate(parts)


def collect(config, run_dir, sets):
  """results.npz, one row a (model, content, n, trained, network, norm, x)."""
  units = [
    (name, content, size)
    for name in config.models
    for size in config.sizes
    for content in CONTENTS
  ]

  def compute(done):
    for name, content, size in units[done:]:
      yield unit(config, sets, name, content, size)

  names = [f'{name}-{size}-{content}' for name, content, size in units]
  common.gather(run_dir, names, compute, 'training')


# --- Judging ---------------------------------------------------------------


def summarize(config, run_dir):
  """Every number with n, interval, null and verdict."""
  table = records.load_columns(run_dir / 'results.npz')
  rows = []
  for name in config.models:
    for norm in NORMS:
      both = [
        row_of(config, records.select(table, model=name, norm=norm), content)
        for content in CONTENTS
      ]
      samples = [row.pop('samples') for row in both]
      both[0]['content_effect'] = content_effect(both[0], *samples)
      rows += [{'model': name, 'norm': str(norm), **row} for row in both]
  return {
    'question': flags.question(__doc__),
    'dataset': config.dataset,
    'networks': config.num_networks,
    'examples': config.num_examples,
    'rows': rows,
  }


def by_network(config, part, column):
  return part[column].astype(float).reshape(config.num_networks, -1)


def relative(config, part):
  """d_p / ||x||_p by network, `[networks, images]`."""
  return by_network(config, part, 'distance') / by_network(
    config, part, 'input_norm'
  )


def row_of(config, table, content):
  """Slopes of one model, norm and content, and what they say."""
  table = records.select(table, content=content)
  n = np.unique(table['n']).astype(float)
  series, samples = {}, {}
  for inputs in INPUTS:
    for trained in (True, False):
      parts = [
        records.select(table, inputs=inputs, trained=trained, n=v) for v in n
      ]
      what = f'{"trained" if trained else "untrained"}_{inputs}'
      samples[what] = [relative(config, part) for part in parts]
      series[what] = described(config, n, parts, samples[what])
  law = min(scaling.laws(n, float(table['norm'][0])).values())
  pairs = [
    np.concatenate(pair, 1)
    for pair in zip(
      samples['trained_images'], samples['untrained_images'], strict=True
    )
  ]
  difference = common.entry(
    statistics.estimate(slope_difference(n), *pairs, unit='networks')
  )
  trained = records.select(table, trained=True)
  accuracy = [
    common.entry(
      statistics.t_mean(
        by_network(config, records.select(trained, n=v), 'accuracy').mean(1),
        unit='networks',
      )
    )
    for v in n
  ]
  slope = series['trained_images']['slope']
  return {
    'content': content,
    'n': [int(v) for v in n],
    'law': law,
    'accuracy': accuracy,
    'not_found': common.entry(
      statistics.proportion(np.isinf(table['distance']), unit='searches')
    ),
    'series': series,
    'trained_less_untrained': difference,
    'verdicts': [
      survival(slope['interval'], law),
      change(difference['interval']),
    ],
    'samples': samples['trained_images'],
  }


def described(config, n, parts, samples):
  """The slope of one kind of network and input, and its medians."""
  median = lambda values: common.entry(
    statistics.estimate(statistics.sample_median, values, unit='networks')
  )
  return {
    'slope': common.entry(
      statistics.estimate(scaling.median_slope(n), *samples, unit='networks')
    ),
    'relative': [median(sample) for sample in samples],
    'distance': [median(by_network(config, p, 'distance')) for p in parts],
  }


def slope_difference(n):
  """A statistic of `[networks, trained then untrained]`, one sample each n."""
  slope = scaling.median_slope(n)

  def difference(*samples):
    half = samples[0].shape[-1] // 2
    first, second = zip(
      *((s[..., :half], s[..., half:]) for s in samples), strict=True
    )
    return slope(*first) - slope(*second)

  return difference


def content_effect(row, true, same):
  """The slope at true content less that at the same content."""
  slope = scaling.median_slope(np.array(row['n'], float))
  entry = common.entry(
    statistics.estimate(
      lambda *samples: (
        slope(*samples[: len(true)]) - slope(*samples[len(true) :])
      ),
      *true,
      *same,
      unit='networks',
    )
  )
  low, high = entry['interval']
  seen = np.isfinite(high - low) and (low > 0 or high < 0)
  said = 'content matters' if seen else 'content: nothing seen'
  return entry | {'verdict': said}


def survival(interval, law):
  """The rule of the module's docstring, in words."""
  low, high = interval
  if not high - low <= WIDEST:
    return 'undecided'
  if low > law - SLACK:
    return 'survives'
  return 'does not survive' if high < law - SLACK else 'undecided'


def change(interval):
  """Likewise, of training."""
  low, high = interval
  if not np.isfinite(high - low):
    return 'no difference seen'
  if low > 0:
    return 'falls more slowly than untrained'
  return 'falls faster than untrained' if high < 0 else 'no difference seen'


def report(summary):
  """Prints the summary as a table."""
  show = common.with_interval
  first = summary['rows'][0]
  print(
    f'\n{summary["dataset"]}: slopes of log(median d_p / ||x||_p) on log n, '
    f'n = {", ".join(map(str, first["n"]))}; 95 % intervals over '
    f'{summary["networks"]} networks\n'
  )
  lines = []
  for row in summary['rows']:
    slopes = {name: s['slope'] for name, s in row['series'].items()}
    right = row['accuracy']
    lines.append(
      [
        f'{row["model"]} l{row["norm"].removesuffix(".0")} {row["content"]}',
        f'{right[0]["value"]:.0%}-{right[-1]["value"]:.0%}',
        f'{row["law"]:+.2f}',
        show(slopes['trained_images'], '+.2f'),
        show(slopes['untrained_images'], '+.2f'),
        show(row['trained_less_untrained'], '+.2f'),
        f'{slopes["trained_noise"]["value"]:+.2f}',
        f'{slopes["untrained_noise"]["value"]:+.2f}',
        f'{row["not_found"]["value"]:.1%}',
        '; '.join(row['verdicts']),
      ]
    )
  header = 'network norm content,right,law,trained [95 %],untrained,difference,'
  header += 'noise: trained,untrained,not found,verdicts'
  common.print_table(header.split(','), lines)
  for row in summary['rows']:
    if row['content'] == CONTENTS[0]:
      effect = row['content_effect']
      print(
        f'{row["model"]} l{row["norm"].removesuffix(".0")}: slope at true less '
        f'same content {show(effect, "+.2f")}: {effect["verdict"]}'
      )


if __name__ == '__main__':
  flags.main(run, Config, PRESETS)
