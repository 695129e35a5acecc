"""How to train: the configuration, and the optimizer that it describes."""

from typing import Any
from typing import NamedTuple

import optax

from dmm_jax.train import adversarial


class TrainConfig(NamedTuple):
  """How to train.

  Attributes:
    loss: a key of `losses.LOSSES`.
    optimizer: 'sgd', 'momentum' (0.9), 'adam' or 'adamw'.
    learning_rate: the rate after the warm-up.
    schedule: of the rate: 'constant', 'cosine' (to 0), or 'steps' (a tenth of
      it after half of the steps, a hundredth after three quarters).
    warmup: fraction of all steps in which the rate rises from 0.
    weight_decay: decoupled for 'adamw', else added to the gradient.
    batch_size: examples a step; all of them where there are fewer.
    num_epochs: passes over the examples. Each is a new permutation, whose last
      rows are left out where they do not fill a batch.
    crop: largest random shift of images in pixels; zeros fill the rest.
    flip: whether images are mirrored with a probability of one half.
    adversary: None, or how examples are perturbed in training.
  """

  loss: str = 'cross_entropy'
  optimizer: str = 'adam'
  learning_rate: float = 1e-3
  schedule: str = 'cosine'
  warmup: float = 0.0
  weight_decay: float = 0.0
  batch_size: int = 128
  num_epochs: int = 10
  crop: int = 0
  flip: bool = False
  adversary: adversarial.Adversary | None = None


def steps_per_epoch(config: TrainConfig, num: int) -> int:
  """Returns the steps of a pass over `num` examples: its whole batches."""
  return num // min(config.batch_size, num)


def make_optimizer(
  config: TrainConfig, num: int
) -> optax.GradientTransformation:
  """Returns the optimizer of a configuration, for `num` examples."""
  total = config.num_epochs * steps_per_epoch(config, num)
  warm = round(config.warmup * total)
  peak, rest = config.learning_rate, max(total - warm, 1)
  schedules = {
    'constant': lambda: optax.constant_schedule(peak),
    'cosine': lambda: optax.cosine_decay_schedule(peak, rest),
    'steps': lambda: optax.piecewise_constant_schedule(
      peak, {rest // 2: 0.1, 3 * rest // 4: 0.1}
    ),
  }
  rate = choice(schedules, config.schedule, 'schedule')()
  if warm:
    rise = optax.linear_schedule(0.0, peak, warm)
    rate = optax.join_schedules([rise, rate], [warm])
  decay = config.weight_decay
  optimizers = {
    'sgd': lambda: optax.sgd(rate),
    'momentum': lambda: optax.sgd(rate, momentum=0.9),
    'adam': lambda: optax.adam(rate),
    'adamw': lambda: optax.adamw(rate, weight_decay=decay),
  }
  transform = choice(optimizers, config.optimizer, 'optimizer')()
  if decay and config.optimizer != 'adamw':
    return optax.chain(optax.add_decayed_weights(decay), transform)
  return transform


def choice(options: dict, name: str, what: str) -> Any:
  """Returns the option of a name, or raises ValueError with all the names."""
  if name not in options:
    names = ', '.join(options)
    raise ValueError(f'{what} must be one of {names}; got {name!r}')
  return options[name]


def log_spaced(last: int) -> list[int]:
  """Returns log-spaced steps up to `last`: 0, 1, 2, 3, 5, 10, 20, 50, ..."""
  decades = [m * 10**e for e in range(1, 13) for m in (1, 2, 5)]
  return [step for step in [0, 1, 2, 3, 5, *decades] if step <= last]
