"""Training of one network or of many at once, the same for the same key."""

from dmm_jax.train.loop import Forward
from dmm_jax.train.loop import Progress
from dmm_jax.train.loop import State
from dmm_jax.train.loop import fit
from dmm_jax.train.loop import flax_forward
from dmm_jax.train.loop import start
from dmm_jax.train.reading import accuracy
from dmm_jax.train.reading import outputs
from dmm_jax.train.recipes import Recipe
from dmm_jax.train.recipes import log_spaced
from dmm_jax.train.recipes import make_optimizer
from dmm_jax.train.recipes import steps_per_epoch

__all__ = (
  'Forward',
  'Progress',
  'Recipe',
  'State',
  'accuracy',
  'fit',
  'flax_forward',
  'log_spaced',
  'make_optimizer',
  'outputs',
  'start',
  'steps_per_epoch',
)
