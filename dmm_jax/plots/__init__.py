"""Figures, drawn from the files of a run directory; nothing else draws."""

from dmm_jax.plots.canvas import save

__all__ = ('save',)
