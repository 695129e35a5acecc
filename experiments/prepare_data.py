"""Prepares an image set from its publisher's files, without TensorFlow.

  python -m experiments.prepare_data --dataset=mnist
  python -m experiments.prepare_data --dataset=cifar10 --data_dir=DIR
  python -m experiments.prepare_data --dataset=svhn_cropped --raw=FOLDER

The first two download the files; what a broken download has left is continued.
The third takes files that were downloaded elsewhere, at any depth of a folder.
All files are checked by their SHA-256. Experiments prepare what they need by
themselves: this is for machines without a network, or before a long run.
"""

import dataclasses
import pathlib

import numpy as np

from dmm_jax.data import prepared
from dmm_jax.data import raw
from experiments.lib import flags


@dataclasses.dataclass(frozen=True)
class Config:
  dataset: str = flags.flag('mnist', 'Set to prepare.', choices=tuple(raw.SETS))
  raw: str = flags.flag('', 'Folder of downloaded files; empty downloads them.')
  data_dir: str = flags.flag(
    '',
    'Directory of prepared sets, made if need be; empty: $TFDS_DATA_DIR or '
    '~/tensorflow_datasets.',
  )


def run(config: Config) -> pathlib.Path:
  """Prepares the set, unless it is there; returns the path of its file."""
  path = prepared.prepare(
    config.dataset, config.data_dir or None, config.raw or None
  )
  with np.load(path) as file:
    sizes = {key: file[key].shape for key in file if key.endswith('_images')}
  print(f'{path}: {raw.SETS[config.dataset].num_classes} classes')
  for key, (n, *shape) in sizes.items():
    pixels = ' x '.join(map(str, shape))
    print(f'  {key.removesuffix("_images")}: {n} images of {pixels}')
  return path


if __name__ == '__main__':
  flags.main(run, Config)
