"""Image sets as numpy arrays: whole, in batches, in part, relabelled.

Pixels are float32 in [0, 1], labels int32.
"""

from dmm_jax.data.columns import Column
from dmm_jax.data.images import resize
from dmm_jax.data.labels import balanced
from dmm_jax.data.labels import check_labels
from dmm_jax.data.labels import commonest_share
from dmm_jax.data.labels import noisy_labels
from dmm_jax.data.labels import of_classes
from dmm_jax.data.labels import parity
from dmm_jax.data.labels import shuffle_labels
from dmm_jax.data.reading import DataError
from dmm_jax.data.sets import load
from dmm_jax.data.sets import num_classes
from dmm_jax.data.sets import stream

__all__ = (
  'Column',
  'DataError',
  'balanced',
  'check_labels',
  'commonest_share',
  'load',
  'noisy_labels',
  'num_classes',
  'of_classes',
  'parity',
  'resize',
  'shuffle_labels',
  'stream',
)
