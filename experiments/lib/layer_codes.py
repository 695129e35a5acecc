"""What the experiments on codes of layers share: networks, codes, their maps.

Configs have at least the flags `seed`, `dataset`, `data_dir`, `num_train`,
`num_steps`, `learning_rate`, `map_size` and `num_epochs`.
"""

from collections.abc import Callable
from collections.abc import Mapping
from typing import Any
from typing import NamedTuple

from flax import linen as nn
import jax
import numpy as np

from dmm_jax import codes
from dmm_jax import data
from dmm_jax import models
from dmm_jax import programs
from dmm_jax import train
from dmm_jax.train import populations
from experiments.lib import flags

# Whether channels grow along layers.
MODELS = {
  'cnn': True,
  'cnn_constant': False,
  'mlp': True,
  'mlp_constant': False,
  'resnet18': True,
  'vgg16': True,
  'vit': False,
}


# Flags of maps.


def map_size() -> Any:
  """Returns the field `map_size`."""
  return flags.flag(12, 'Units along each side of a map.', least=2, most=100)


def num_epochs() -> Any:
  """Returns the field `num_epochs`."""
  return flags.flag(30, 'Epochs of fitting a map.', least=1)


class Inputs(NamedTuple):
  """Images `[n, ...]` and labels `[n]` of both splits, and one network."""

  train: tuple[np.ndarray, np.ndarray]
  test: tuple[np.ndarray, np.ndarray]
  module: Any = None


def load(config: Any, test_flag: str) -> Inputs:
  """Returns the first images of both splits, as many as flags ask for.

  Args:
    config: with `num_train`, 0 for all.
    test_flag: name of the flag that says how many test images.

  Raises:
    FlagError: where there are fewer.
  """
  sets: list = []
  for split, flag in (('train', 'num_train'), ('test', test_flag)):
    pair = data.load(config.dataset, split, config.data_dir or None)
    num = getattr(config, flag)
    if num > len(pair[1]):
      raise flags.FlagError(f'--{flag}={num}: there are {len(pair[1])} images')
    sets.append(tuple(column[: num or None] for column in pair))
  return Inputs(*sets)


def build(model: str, width: int, inputs: Inputs) -> nn.Module:
  """Returns an untrained network.

  Args:
    model: one of `MODELS`.
    width: channels of a constant network, and of the middle of a growing one.
    inputs: what it classifies.

  Raises:
    FlagError: for an odd width.
  """
  if width % 2:
    raise flags.FlagError(f'--width={width} is not even')
  xs, labels = inputs.train
  num_classes, side = int(labels.max()) + 1, xs.shape[1]
  growing, constant = (width // 2, width, width, 2 * width), (width,) * 4
  strides = (1 if side < 16 else 2, 2, 1, 2)
  cnn = lambda channels: models.CNN(
    channels, (), 0, strides, pooled=True, num_classes=num_classes
  )
  match model:
    case 'cnn':
      return cnn(growing)
    case 'cnn_constant':
      return cnn(constant)
    case 'mlp':
      return models.MLP(growing, num_classes)
    case 'mlp_constant':
      return models.MLP(constant, num_classes)
    case 'resnet18':
      return models.ResNet18(max(1, width // 4), num_classes=num_classes)
    case 'vgg16':
      depths = zip((*growing, 2 * width), (2, 2, 3, 3, 3), strict=True)
      stages = tuple((channels,) * depth for channels, depth in depths)
      return models.VGG16(stages, num_classes=num_classes)
    case 'vit':
      return models.ViT(side // 4, width, 4, 2, num_classes=num_classes)
  raise ValueError(f'model must be one of {", ".join(MODELS)}, got {model!r}')


def train_rows(
  config: Any,
  inputs: Inputs,
  module: nn.Module,
  number: int,
  *,
  optimizer: str = 'momentum',
  adversary: Any = None,
  **options: Any,
) -> dict[str, np.ndarray]:
  """Trains a population; returns variables before and after, `[m, p]` each.

  Args:
    config: flags of training.
    inputs: of which the training images are used.
    module: the network.
    number: of the population, for its seed.
    optimizer, adversary: as of `train.TrainConfig`.
    **options: of `populations.fit`: `num`, `condition`.
  """
  plan = populations.constant_rate(
    config.learning_rate, optimizer, adversary=adversary
  )
  key = jax.random.fold_in(jax.random.key(config.seed), number)
  found = populations.fit(
    key,
    module,
    *inputs.train,
    config=plan,
    num_steps=config.num_steps,
    pause_steps=[0],
    **options,
  )
  return dict(zip(('start', 'end'), found.parameters, strict=True))


def forward_one(x, params, stats, *, forward):
  """Returns logits and codes of one image and one network."""
  return forward(params, stats, x, None, False)[0]


def encode(
  module: nn.Module, network: tuple, xs: np.ndarray, **options: Any
) -> dict[str, Any]:
  """Returns codes of images by layer, as of `codes.of_network`.

  Args:
    module: the network.
    network: its `(params, stats)`.
    xs: images `[n, ...]`.
    **options: those of `codes.of_network`.
  """
  forward = programs.bind(forward_one, forward=train.flax_forward(module))
  return codes.of_network(forward, xs, shared=network, **options)


def unraveler(module: nn.Module, inputs: Inputs) -> Callable:
  """Returns the function from flat variables to `(params, stats)`."""
  return populations.unraveler(module, inputs.train[0][0])


def fit_maps(
  config: Any,
  found: Mapping[str, np.ndarray],
  labels: np.ndarray,
  number: int,
  width: int = 0,
) -> codes.LayerMaps:
  """Returns maps of layers' codes.

  Args:
    config: flags of maps.
    found: codes of training images by layer.
    labels: of these images.
    number: of the network, for the seed.
    width: as of `codes.fit_maps`.
  """
  return codes.fit_maps(
    jax.random.fold_in(jax.random.key(config.seed + 1), number),
    found,
    labels,
    grid=(config.map_size, config.map_size),
    num_epochs=config.num_epochs,
    width=width,
  )


def rise(column: np.ndarray) -> np.ndarray:
  """Returns how much more the last layer has than the first `[networks]`.

  Args:
    column: `[networks, layers]`.
  """
  return column[:, -1] - column[:, 0]
