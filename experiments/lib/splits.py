"""The images that an experiment's flags name."""

from typing import Any

import numpy as np

from dmm_jax import data
from experiments.lib import own


def load(
  name: str,
  data_dir: str,
  *,
  file: str = '',
  num_train: int = 0,
  num_classes: int = 0,
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
  """Returns images `[n, ...]` and labels `[n]` by split, train and test.

  Args:
    name: of the data set, as `data.load` knows it.
    data_dir: where it is; '' where tensorflow-datasets would look.
    file: of a user's own images, as `own.examples` reads it; '' for none.
    num_train: how many training images, the first ones; 0 is all.
    num_classes: images of the first so many classes; 0 is all.
  """
  sets = {}
  for split, most in (('train', num_train), ('test', 0)):
    if file:
      xs, labels = own.examples(file, split)
    else:
      xs, labels = map(np.asarray, data.load(name, split, data_dir or None))
    if num_classes:
      xs, labels, _ = data.of_classes(xs, labels, np.arange(num_classes))
    sets[split] = xs[: most or None], labels[: most or None]
  return sets


def load_with_networks(config: Any) -> tuple[dict, own.Several | None]:
  """Returns images and labels by split, and a user's networks for them.

  Args:
    config: with the flags `dataset`, `data_dir`, `data`, `num_train`,
      `num_classes`, `network` and `num_networks`.
  """
  sets = load(
    config.dataset,
    config.data_dir,
    file=config.data,
    num_train=config.num_train,
    num_classes=config.num_classes,
  )
  if not config.network:
    return sets, None
  return sets, own.several(config.network, *sets['test'], config.num_networks)
