"""What networks have in common: where they cross, what moves them, and how.

Readings of "Meet You Halfway" (BenShmuel 2022, https://arxiv.org/abs/2206.04463)
and of its siblings https://arxiv.org/abs/2206.04472 and
https://arxiv.org/abs/2206.04490; the definitions are ours.
"""

from dmm_jax.halfway.crossings import Crossings
from dmm_jax.halfway.crossings import concordance
from dmm_jax.halfway.crossings import crossings
from dmm_jax.halfway.directions import between_means
from dmm_jax.halfway.directions import cosines
from dmm_jax.halfway.directions import loss_direction
from dmm_jax.halfway.influence import accumulate
from dmm_jax.halfway.influence import influence
from dmm_jax.halfway.influence import meeting_ratio
from dmm_jax.halfway.linear import num_directions
from dmm_jax.halfway.linear import product_change
from dmm_jax.halfway.linear import product_of
from dmm_jax.halfway.segments import nearest_opposite
from dmm_jax.halfway.segments import opposite_pairs

__all__ = (
  'Crossings',
  'accumulate',
  'between_means',
  'concordance',
  'cosines',
  'crossings',
  'influence',
  'loss_direction',
  'meeting_ratio',
  'nearest_opposite',
  'num_directions',
  'opposite_pairs',
  'product_change',
  'product_of',
)
