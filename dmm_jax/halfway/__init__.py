"""What networks have in common: where they cross, what moves them, and how.

Readings of "Meet You Halfway" (BenShmuel 2022, https://arxiv.org/abs/2206.04463)
and of its sibling https://arxiv.org/abs/2206.04472; the definitions are ours.
"""

from dmm_jax.halfway.crossings import Crossings
from dmm_jax.halfway.crossings import concordance
from dmm_jax.halfway.crossings import crossings
from dmm_jax.halfway.directions import cosines
from dmm_jax.halfway.directions import loss_direction
from dmm_jax.halfway.explained import Explained
from dmm_jax.halfway.explained import explained
from dmm_jax.halfway.explained import pair_errors
from dmm_jax.halfway.explained import pair_ratio
from dmm_jax.halfway.influence import accumulate
from dmm_jax.halfway.influence import influence
from dmm_jax.halfway.influence import linear_ratios
from dmm_jax.halfway.influence import meeting_ratio
from dmm_jax.halfway.influence import ratio_statistics
from dmm_jax.halfway.influence import sum_statistics
from dmm_jax.halfway.segments import nearest_opposite
from dmm_jax.halfway.segments import opposite_pairs
from dmm_jax.halfway.transferred import count_hits
from dmm_jax.halfway.transferred import matched_radius
from dmm_jax.halfway.transferred import step_and_noise

__all__ = (
  'Crossings',
  'Explained',
  'accumulate',
  'concordance',
  'cosines',
  'count_hits',
  'crossings',
  'explained',
  'influence',
  'linear_ratios',
  'loss_direction',
  'matched_radius',
  'meeting_ratio',
  'nearest_opposite',
  'opposite_pairs',
  'pair_errors',
  'pair_ratio',
  'ratio_statistics',
  'step_and_noise',
  'sum_statistics',
)
