"""Training of one network or of many at once, the same for the same key."""

from dmm_jax.train import adversarial
from dmm_jax.train import losses
from dmm_jax.train import populations
from dmm_jax.train.config import TrainConfig
from dmm_jax.train.config import log_spaced
from dmm_jax.train.config import make_optimizer
from dmm_jax.train.config import steps_per_epoch
from dmm_jax.train.evaluation import accuracy
from dmm_jax.train.evaluation import outputs
from dmm_jax.train.loop import Forward
from dmm_jax.train.loop import Progress
from dmm_jax.train.loop import State
from dmm_jax.train.loop import fit
from dmm_jax.train.loop import flax_forward
from dmm_jax.train.loop import init_state

__all__ = (
  'Forward',
  'Progress',
  'State',
  'TrainConfig',
  'accuracy',
  'adversarial',
  'fit',
  'flax_forward',
  'init_state',
  'log_spaced',
  'losses',
  'make_optimizer',
  'outputs',
  'populations',
  'steps_per_epoch',
)
