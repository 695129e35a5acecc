"""Figures, drawn from the files of a run directory; nothing else draws."""

from dmm_jax.plots.canvas import save
from dmm_jax.plots.codes import som_codes

__all__ = (
  'save',
  'som_codes',
)
