"""Figures, drawn from the files of a run directory; nothing else draws."""

from dmm_jax.plots.canvas import save
from dmm_jax.plots.clinging import clinging_dimpling
from dmm_jax.plots.codes import som_codes
from dmm_jax.plots.depth import dimple_depth
from dmm_jax.plots.halfway import halfway
from dmm_jax.plots.initial import initial_scale
from dmm_jax.plots.mislabelled import mislabelled_training
from dmm_jax.plots.resized import trained_scaling
from dmm_jax.plots.splits import manifold_split
from dmm_jax.plots.strings import bit_strings
from dmm_jax.plots.trained import trained_vs_random
from dmm_jax.plots.training import learning_curves
from dmm_jax.plots.training import reconstructions
from dmm_jax.plots.transfer import transfer

__all__ = (
  'bit_strings',
  'clinging_dimpling',
  'dimple_depth',
  'halfway',
  'initial_scale',
  'learning_curves',
  'manifold_split',
  'mislabelled_training',
  'reconstructions',
  'save',
  'som_codes',
  'trained_scaling',
  'trained_vs_random',
  'transfer',
)
