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

Intervals are 95 % bootstrap intervals over test images. Verdict, by a rule
fixed here: "better than PCA" if the interval of the difference to a linear code
of as many dimensions, on the same images, lies below 0.
"""

import dataclasses
import math

import numpy as np
from sklearn import decomposition

from dmm_jax import data
from dmm_jax import models
from dmm_jax import plots
from dmm_jax import records
from dmm_jax import statistics
from dmm_jax import train
from experiments import common
from experiments import networks
from experiments import training
from experiments.lib import flags

NUM_PICTURES = 8


@dataclasses.dataclass(frozen=True)
class Config(training.Config):
  workdir: str = flags.workdir('runs/train_autoencoder')
  model: str = flags.flag(
    'convolutional', 'Architecture.', choices=tuple(models.AUTOENCODERS)
  )
  latent: int = flags.flag(8, 'Numbers in a code.', least=1)
  widths: str = flags.flag(
    '32,64', "Channels, such as 32,64; empty for the model's own.", numbers=1
  )
  distances: str = flags.flag(
    '', 'A run of boundary_distances to compare the errors with.'
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


def run(config: Config) -> dict:
  """Runs the experiment, and returns what it wrote to summary.json."""
  flags.check(config)
  distances_of(config.distances)  # It can be read.
  sets = {}
  for split, most in (('train', config.num_train), ('test', config.num_test)):
    xs, _ = data.load(config.dataset, split, config.data_dir or None)
    sets[split] = xs[: most or None]
  return common.conduct(
    config,
    'experiments.train_autoencoder',
    collect=lambda config, run_dir: collect(config, run_dir, sets),
    summarize=summarize,
    draw=plots.reconstructions,
    report=report,
  )


def collect(config, run_dir, sets):
  """Trains; the squared error of test images after every epoch."""
  about = networks.describe(
    'autoencoder',
    config.model,
    latent=config.latent,
    widths=flags.as_numbers('widths', config.widths) or None,
    shape=list(sets['train'].shape[1:]),
    **training.attributes(config),
  )
  about['dataset'] = config.dataset
  about['input_shape'] = list(sets['train'].shape[1:])
  loss = 'evidence' if config.model == 'vae' else 'reconstruction'

  def evaluate(forward, state):
    images = train.outputs(forward, state, sets['test'])
    return {'test_error': float(np.mean(squared(images, sets['test'])))}

  plan = training.train_config(config, loss)
  xs = sets['train']
  state, curves = training.run(config, run_dir, about, plan, xs, xs, evaluate)
  forward = train.flax_forward(networks.build(about))
  compare(config, run_dir, train.outputs(forward, state, sets['test']), sets)
  records.save_columns(run_dir / 'results.npz', curves)


def compare(config, run_dir, images, sets):
  """Writes errors.npz, one row a test image, and images.npz, the first ones."""
  xs = sets['test']
  linear = linear_code(sets['train'], xs, config.latent)
  errors = dict(auto_encoder=squared(images, xs), pca=squared(linear, xs))
  records.save_columns(run_dir / 'errors.npz', errors)
  pictures = dict(image=xs, auto_encoder=images, pca=linear)
  pictures = {name: column[:NUM_PICTURES] for name, column in pictures.items()}
  records.save_columns(run_dir / 'images.npz', pictures)


def summarize(config, run_dir):
  found = networks.read(run_dir, kind='autoencoder')
  table = records.load_columns(run_dir / 'errors.npz')
  errors, pca = table['auto_encoder'], table['pca']
  difference = common.entry(statistics.mean(errors - pca, unit='images'))
  better = difference['interval'][1] < 0
  lengths = np.sqrt(errors * math.prod(found.description['input_shape']))
  curves = records.load_columns(run_dir / 'results.npz')
  return {
    'question': flags.question(__doc__),
    'dataset': config.dataset,
    'model': config.model,
    'latent': config.latent,
    'parameters': networks.size(found.state.params),
    'steps': int(curves['step'][-1]),
    'n': len(errors),
    'test_error': common.entry(statistics.mean(errors, unit='images')),
    'pca_error': common.entry(statistics.mean(pca, unit='images')),
    'difference': difference,
    'l2_error': common.entry(
      statistics.estimate(
        statistics.sample_median, lengths[:, None], unit='images'
      )
    ),
    'boundary_distance': distances_of(config.distances),
    'verdict': 'better than PCA' if better else 'not better than PCA',
  }


def squared(images, xs):
  """The mean squared error of each image `[n]`."""
  return np.mean((images - xs).reshape(len(xs), -1) ** 2, axis=1)


def linear_code(train, test, latent):
  """Test images as principal components of the training set give them back."""
  flat = train.reshape(len(train), -1)
  pca = decomposition.PCA(min(latent, *flat.shape), random_state=0).fit(flat)
  codes = pca.transform(test.reshape(len(test), -1))
  return pca.inverse_transform(codes).reshape(test.shape).astype(np.float32)


def distances_of(run_dir):
  """The median l2 distance of a run of boundary_distances, or None."""
  if not run_dir:
    return None
  table = records.load_columns(f'{run_dir}/results.npz')
  kinds = table['kind']
  first = (table['norm'] == 2) & (kinds == kinds[0]) & (table['network'] == 0)
  if not first.any():
    raise flags.FlagError(f'--distances={run_dir} has no l2 distances')
  values = table['distance'][first]
  return common.entry(
    statistics.estimate(
      statistics.sample_median, values[:, None], unit='images'
    )
  )


def report(summary):
  """Prints the summary as a table."""
  print(
    f'\n{summary["model"]} auto-encoder of {summary["dataset"]}, '
    f'{summary["latent"]} latents, {summary["parameters"]:,} parameters, '
    f'{summary["steps"]} steps\n'
  )
  rows = [
    ['squared error of a pixel', summary['test_error'], summary['verdict']],
    ['the same of a linear code', summary['pca_error'], ''],
    ['l2 error of an image, median', summary['l2_error'], ''],
  ]
  distance = summary['boundary_distance']
  if distance is not None:
    rows.append(['l2 distance to the boundary, median', distance, ''])
  common.print_table(
    ['on test images', 'value [95 %]', 'n', 'verdict'],
    [
      [name, common.with_interval(entry, '.4g'), str(summary['n']), said]
      for name, entry, said in rows
    ],
  )


if __name__ == '__main__':
  flags.main(run, Config, PRESETS)
