"""Figures, drawn from the files of a run directory; nothing else draws."""

from dmm_jax.plots.canvas import save
from dmm_jax.plots.codes import som_codes
from dmm_jax.plots.training import learning_curves
from dmm_jax.plots.training import reconstructions

__all__ = (
  'learning_curves',
  'reconstructions',
  'save',
  'som_codes',
)
