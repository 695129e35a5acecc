"""How to train: what a recipe says, and the optimizer that follows it."""

import functools
from typing import Any
from typing import NamedTuple

import optax

from dmm_jax import adversarial


class Recipe(NamedTuple):
  """How to train.

  Attributes:
    loss: a key of `losses.LOSSES`.
    optimizer: 'sgd', 'momentum' (0.9), 'adam' or 'adamw'.
    learning_rate: after the warm-up.
    schedule: 'constant', 'cosine' (to 0), or 'steps' (a tenth after half, and
      after three quarters).
    warmup: part of all steps in which the rate rises from 0.
    weight_decay: decoupled for 'adamw', else added to the gradient.
    batch_size: examples a step; all of them where there are fewer.
    num_epochs: passes; the last rows that fill no batch wait for another one.
    crop: pixels that images are shifted by at most, zeros coming in.
    flip: whether images are mirrored half of the time.
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


def steps_per_epoch(recipe: Recipe, num: int) -> int:
  """Steps of a pass over `num` examples: whole batches, the rest left out."""
  return num // min(recipe.batch_size, num)


@functools.cache
def make_optimizer(recipe: Recipe, num: int) -> optax.GradientTransformation:
  """The optimizer of a recipe, for `num` examples."""
  total = recipe.num_epochs * steps_per_epoch(recipe, num)
  warm = round(recipe.warmup * total)
  peak, rest = recipe.learning_rate, max(total - warm, 1)
  schedules = {
    'constant': lambda: optax.constant_schedule(peak),
    'cosine': lambda: optax.cosine_decay_schedule(peak, rest),
    'steps': lambda: optax.piecewise_constant_schedule(
      peak, {rest // 2: 0.1, 3 * rest // 4: 0.1}
    ),
  }
  rate = choice(schedules, recipe.schedule, 'schedule')()
  if warm:
    rise = optax.linear_schedule(0.0, peak, warm)
    rate = optax.join_schedules([rise, rate], [warm])
  decay = recipe.weight_decay
  optimizers = {
    'sgd': lambda: optax.sgd(rate),
    'momentum': lambda: optax.sgd(rate, momentum=0.9),
    'adam': lambda: optax.adam(rate),
    'adamw': lambda: optax.adamw(rate, weight_decay=decay),
  }
  transform = choice(optimizers, recipe.optimizer, 'optimizer')()
  if decay and recipe.optimizer != 'adamw':
    return optax.chain(optax.add_decayed_weights(decay), transform)
  return transform


def choice(options: dict, name: str, what: str) -> Any:
  """Returns the option of a name, or raises ValueError with all the names."""
  if name not in options:
    names = ', '.join(options)
    raise ValueError(f'{what} must be one of {names}; got {name!r}')
  return options[name]


def log_spaced(last: int) -> list[int]:
  """0, 1, 2, 3, 5, 10, 20, 50, 100, ...: steps to look at, up to `last`."""
  decades = [m * 10**e for e in range(1, 13) for m in (1, 2, 5)]
  return [step for step in [0, 1, 2, 3, 5, *decades] if step <= last]
