"""Figures, drawn from the files of a run directory; nothing else draws."""

from dmm_jax.plots.canvas import save
from dmm_jax.plots.distances import boundary_distances
from dmm_jax.plots.scaling import random_scaling

__all__ = ('boundary_distances', 'random_scaling', 'save')
