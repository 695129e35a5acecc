"""How near to its images does an auto-encoder's manifold come? Trains one.

  python -m experiments.train_autoencoder
  python -m experiments.train_autoencoder --preset=mnist --data_dir=DIR \
    --distances=runs/mnist_boundary

The first takes half a minute on 2 CPU cores. A run killed at any moment goes on
from its last checkpoint, to the same parameters.

--distances names a run of `boundary_distances` on the same set: its distances
in l2 are put beside the l2 reconstruction errors. Where the errors are larger,
images do not lie on the learned manifold at the scale of adversarial
perturbations, and on- and off-manifold distances are to be read with that in
mind.

Presets, with the mean squared error of a pixel seen on test images (seed 0):
  default      digits, 8 latents: 0.019, beside 0.025 of PCA
  mnist_small  16 latents: 0.0068, beside 0.027 of PCA; 15 minutes on 2 cores
  mnist        16, the published layers, for a GPU; not run to its end yet (a
               published run has 0.0070)
  cifar        128, for a GPU; not run to its end yet

Intervals are at 95 %, over test images; the draw of the weights is not in them.
Verdict, by a rule fixed here: "better than PCA" if the interval of the
difference to a linear code of as many dimensions, on the same images, lies
below 0.
"""

import dataclasses
import functools

import numpy as np
from sklearn import decomposition

from dmm_jax import models
from dmm_jax import records
from dmm_jax import statistics
from dmm_jax import train
from experiments import networks
from experiments import training
from experiments.figures import train_autoencoder as figures
from experiments.lib import flags
from experiments.lib import runner
from experiments.lib import tables

NUM_PICTURES = 8


@dataclasses.dataclass(frozen=True)
class Config(training.Config):
  workdir: str = flags.workdir('runs/train_autoencoder')
  model: str = flags.flag(
    'convolutional', 'Architecture.', choices=tuple(models.AUTOENCODERS)
  )
  latent: int = flags.flag(8, 'Numbers in a code.', least=1)
  widths: str = flags.flag(
    '32,64',
    "Channels of layers, such as 32,64; empty: the model's own.",
    numbers=1,
  )
  distances: str = flags.flag(
    '', 'Run of boundary_distances to compare errors with; empty: none.'
  )


MNIST = dict(dataset='mnist', latent=16)
PRESETS = {
  'default': {},
  'quick': dict(workdir='runs/autoencoder_quick', epochs=2, widths='8,16'),
  'mnist': dict(workdir='runs/mnist_autoencoder', widths='', **MNIST),
  'mnist_small': dict(
    workdir='runs/mnist_autoencoder_small',
    widths='32,64,128',
    epochs=8,
    learning_rate=2e-3,
    **MNIST,
  ),
  'cifar': dict(
    workdir='runs/cifar_autoencoder',
    dataset='cifar10',
    latent=128,
    widths='',
    flip=True,
  ),
}

COLUMNS = training.COLUMNS | {
  'test_error': (
    'squared input units',
    'mean squared error of a pixel over all test images; NaN within an epoch',
  ),
  'error': ('squared input units', 'mean squared error of a pixel'),
  'pca_error': ('squared input units', 'the same of as many components of PCA'),
  'image': ('input units', 'one of the first test images'),
  'auto_encoder': ('input units', 'the image as the auto-encoder returns it'),
  'pca': ('input units', 'the image as PCA returns it'),
  'distance': (
    'input units',
    'l2 distance of an image to the boundary of the first network of the run '
    'that --distances names',
  ),
}


def load(config):
  """Returns images by split, and distances if a run of them is named."""
  inputs = {name: xs for name, (xs, _) in training.load(config).items()}
  if config.distances:
    inputs['distances'] = read_distances(config.distances)
  describe(config, inputs)  # Refuses attributes that the model does not have.
  return inputs


def read_distances(run_dir):
  """Returns the l2 distances of the first network of boundary_distances."""
  table = records.load_columns(f'{run_dir}/results.npz')
  kinds = table['kind']
  first = (table['norm'] == 2) & (kinds == kinds[0]) & (table['network'] == 0)
  if not first.any():
    raise flags.FlagError(f'--distances={run_dir} has no l2 distances')
  return table['distance'][first]


# --- Measuring -------------------------------------------------------------


def measure(config, inputs):
  """Yields the units: training, which has checkpoints of its own, then errors.

  results: one row a pause of training; errors: one a test image; images: the
  first of them, as they are returned; distances: as --distances has them.
  """
  trained = yield runner.Unit(
    'training', functools.partial(fit, config, inputs)
  )
  trained.result()  # What follows reads the last checkpoint.
  found = functools.cache(functools.partial(reconstruct, config, inputs))
  errors = functools.partial(measure_errors, found)
  yield runner.Unit('errors', errors, 'errors')
  images = functools.partial(choose_images, found)
  yield runner.Unit('images', images, 'images')
  if config.distances:
    distances = functools.partial(dict, distance=inputs['distances'])
    yield runner.Unit('distances', distances, 'distances')


def fit(config, inputs):
  """Trains; the squared error of test images after every epoch."""
  xs, images = inputs['train'], inputs['test']

  def evaluate(forward, state):
    found = train.outputs(forward, state, images)
    return {'test_error': float(np.mean(squared(found, images)))}

  loss = 'evidence' if config.model == 'vae' else 'reconstruction'
  plan = training.train_config(config, loss)
  return training.fit(config, describe(config, inputs), plan, xs, xs, evaluate)


def describe(config, inputs):
  """Returns what checkpoints say of the network, to rebuild it from."""
  shape = list(inputs['train'].shape[1:])
  about = networks.describe(
    'autoencoder',
    config.model,
    latent=config.latent,
    widths=flags.as_numbers('widths', config.widths) or None,
    shape=shape,
    **training.attributes(config),
  )
  return about | {'dataset': config.dataset, 'input_shape': shape}


def reconstruct(config, inputs):
  """Returns test images, and as the last checkpoint and PCA return them."""
  xs = inputs['test']
  found = networks.read(config.workdir, kind='autoencoder')
  forward = train.flax_forward(found.module)
  return {
    'image': xs,
    'auto_encoder': train.outputs(forward, found.state, xs),
    'pca': linear_code(inputs['train'], xs, config.latent),
  }


def measure_errors(reconstruct):
  """Returns columns: the errors of each image."""
  found = reconstruct()
  return {
    'error': squared(found['auto_encoder'], found['image']),
    'pca_error': squared(found['pca'], found['image']),
  }


def choose_images(reconstruct):
  """Returns columns: the first images, and as they are returned."""
  return {name: xs[:NUM_PICTURES] for name, xs in reconstruct().items()}


def squared(images, xs):
  """Returns the mean squared error of each image `[n]`."""
  return np.mean((images - xs).reshape(len(xs), -1) ** 2, axis=1)


def linear_code(train, test, latent):
  """Returns test images from their principal components of the training set."""
  flat = train.reshape(len(train), -1)
  pca = decomposition.PCA(min(latent, *flat.shape), random_state=0).fit(flat)
  codes = pca.transform(test.reshape(len(test), -1))
  return pca.inverse_transform(codes).reshape(test.shape).astype(np.float32)


# --- Judging ---------------------------------------------------------------


def analyze(config, found):
  """Holds the errors of the auto-encoder against those of PCA."""
  errors, pca = found['errors']['error'], found['errors']['pca_error']
  mean = functools.partial(statistics.mean, unit='images')
  median = functools.partial(statistics.median, unit='images')
  pixels = found['images']['image'][0].size
  rows = [
    [name, mean(error), median(np.sqrt(error * pixels))]
    for name, error in (('auto-encoder', errors), ('PCA', pca))
  ]
  difference = mean(errors - pca)
  rows.append(['auto-encoder less PCA', difference, None])
  if 'distances' in found:
    distance = median(found['distances']['distance'])
    rows.append(['decision boundary', None, distance])
  better = statistics.below(difference, 0.0)
  answer = (
    f'With {config.latent} numbers a code, the auto-encoder returns test '
    f'images of {config.dataset} with a squared error of '
    f'{tables.cell(rows[0][1])} a pixel, PCA with {tables.cell(rows[1][1])}: '
    f'{"better" if better else "not better"} than PCA.'
  )
  shown = [error_table(rows), network_table(config, found['results'])]
  return runner.Report(answer, [], shown)


def error_table(rows):
  column = tables.Column
  columns = [
    column('code', '', ''),
    column(
      'squared error',
      'squared input units',
      'of a pixel, mean over test images',
      '#.3g',
    ),
    column(
      'l2 distance',
      'input units',
      'of an image from what is returned, or from the nearest point of the '
      'boundary, median',
      '#.3g',
    ),
  ]
  return tables.Table('Distance of test images', columns, rows)


def network_table(config, results):
  column = tables.Column
  columns = [
    column('model', '', ''),
    column('numbers a code', '', ''),
    column('parameters', '', ''),
    column('steps', '', ''),
    column('loss', '', 'in training, mean since the last pause', '.4f'),
  ]
  last = {name: values[-1].item() for name, values in results.items()}
  row = [
    config.model,
    config.latent,
    last['parameters'],
    last['step'],
    last['loss'],
  ]
  return tables.Table(
    f'The network after training on {config.dataset}', columns, [row]
  )


EXPERIMENT = runner.Experiment(
  'experiments.train_autoencoder', __doc__, Config, PRESETS, COLUMNS,
  measure, analyze, figures.draw, load=load,
)  # fmt: skip
run = EXPERIMENT.run

if __name__ == '__main__':
  EXPERIMENT.main()
