"""Rules that verdicts follow, on made-up numbers; nothing is trained."""

import numpy as np

from experiments import common


def entry(low, high):
  return {'value': (low + high) / 2, 'interval': [low, high]}


def test_verdicts_are_what_intervals_say():
  assert common.decide([True, True], [False, False]) == 'supported'
  assert common.decide([True, False], [False, False]) == 'undecided'
  assert common.decide([True, False], [False, True]) == 'not supported'
  assert common.below(entry(0, 1), entry(2, 3))
  assert common.below(0.5, entry(0.6, 1)) and common.below(entry(0, 0.2), 0.5)
  assert not common.below(entry(0, 2), entry(1, 3))
  assert not common.below(entry(np.nan, np.nan), 1.0)
