"""Labelled points on manifolds that are known exactly, tangents and all.

Every sampler returns a `Sample`. Its tangents span the tangent space of the
manifold at each point; the normal space is their orthogonal complement in R^d,
where d is the number of entries of a point. Computed in double precision on the
host and rounded to float32; only `affine` is for `jit`.
"""

from dmm_jax.synthetic.pictures import affine
from dmm_jax.synthetic.pictures import affine_parameters
from dmm_jax.synthetic.pictures import glyphs
from dmm_jax.synthetic.sample import Sample
from dmm_jax.synthetic.surfaces import chessboard
from dmm_jax.synthetic.surfaces import circle
from dmm_jax.synthetic.surfaces import line
from dmm_jax.synthetic.surfaces import patch
from dmm_jax.synthetic.surfaces import sphere
from dmm_jax.synthetic.surfaces import subspace

__all__ = (
  'Sample',
  'affine',
  'affine_parameters',
  'chessboard',
  'circle',
  'glyphs',
  'line',
  'patch',
  'sphere',
  'subspace',
)
