"""Rules that verdicts follow, on made-up numbers; nothing is trained."""

import types

import numpy as np
import pytest

from experiments import common
from experiments import halfway
from experiments import segments
from experiments import transfer


def entry(low, high):
  return {'value': (low + high) / 2, 'interval': [low, high]}


def decide(parts):
  return common.decide(*parts[:2])


def test_verdicts_are_what_intervals_say():
  assert common.decide([True, True], [False, False]) == 'supported'
  assert common.decide([True, False], [False, False]) == 'undecided'
  assert common.decide([True, False], [False, True]) == 'not supported'
  assert common.below(entry(0, 1), entry(2, 3))
  assert common.below(0.5, entry(0.6, 1)) and common.below(entry(0, 0.2), 0.5)
  assert not common.below(entry(0, 2), entry(1, 3))
  assert not common.below(entry(np.nan, np.nan), 1.0)


# --- Halfway ---------------------------------------------------------------


def test_the_nearer_end_is_the_one_that_is_less_than_half_the_way_off():
  rng = np.random.default_rng(0)
  kinds = np.array(['train', 'test', 'near', 'train', 'test'])
  pairs = {
    'kind': kinds,
    'place': np.array([0.2, 0.7, 0.1, 0.5, 0.49]),
    'labels': np.array([[0, 1], [2, 3], [4, 5], [6, 7], [8, 9]]),
    'neighbour': np.array([0, 3, 5, 6, 8]),
  }
  # Nearer: 0, 3, (4), 7, 8; nearest pairs have no such place.
  assert halfway.neighbour(pairs)['value'] == 3 / 4
  num = 3
  part = {
    name: rng.uniform(size=num)
    for name in (
      'train_accuracy test_accuracy rank means principal same other leads'
    ).split()
  }
  fraction = np.array(
    [[0.4, 0.1, 0.5, 0.7, 0.6], [0.1, np.nan, 0.8, 0.61, 0.5], [0.5] * 5]
  )
  part |= {
    'fraction': fraction,
    'count': np.array([[1, 1, 1, 3, 1], [1, 0, 1, 1, 1], [2, 1, 1, 2, 1]]),
    'mixed': np.array([[0, 3, 5, 7, 8], [1, 3, 5, 7, 9], [1, 2, 4, 6, 8]]),
    'third': np.zeros((num, 5)),
    'sure_middle': np.full((num, 5), 0.5),
    'sure_ends': np.full((num, 5), 0.75),
  }
  told = {k: v['value'] for k, v in halfway.describe(part, pairs).items()}
  assert told['nearer'] == pytest.approx((1 + 0.5 + 0.25) / 3)
  assert told['crossed'] == 1  # Of the training pairs alone.
  assert told['single'] == pytest.approx((0.5 + 1 + 0) / 3)
  assert told['band'] == pytest.approx((0.5 + 0 + 1) / 3)
  assert told['near_band'] == pytest.approx(2 / 3)
  assert told['gap'] == pytest.approx(np.mean(part['same'] - part['other']))
  assert told['sure_ends'] == 0.75


def test_spreads_need_three_crossings():
  rows = np.array([[0.1, 0.2, 0.6, np.nan], [0.1, 0.2, np.nan, np.nan]])
  found = halfway.spread(rows)
  assert found[0] == pytest.approx(np.std([0.1, 0.2, 0.6]))
  assert np.isnan(found[1])
  assert halfway.spread(rows, np.nanmean)[0] == pytest.approx(0.3)


@pytest.mark.parametrize(
  'lead, gaps, wanted',
  [
    (entry(0.91, 0.95), (entry(0, 1), entry(2, 3)), 'supported'),
    (entry(0.85, 0.95), (entry(0, 1), entry(2, 3)), 'undecided'),
    # More than half of the samples are not more than 90 % of them.
    (entry(0.6, 0.8), (entry(0, 1), entry(2, 3)), 'not supported'),
    (entry(0.91, 0.95), (entry(0, 2), entry(1, 3)), 'undecided'),
    (entry(0.91, 0.95), (entry(2, 3), entry(0, 1)), 'not supported'),
  ],
)
def test_influence_has_two_conditions(lead, gaps, wanted):
  start = {'mlp': {'leads': lead, 'gap': gaps[0]}}
  end = {'mlp': {'leads': entry(0, 1), 'gap': gaps[1]}}
  end['mlp-own'] = {'gap': entry(0, 1)}
  parts = halfway._under_influence(start, end, 'mlp')
  assert decide(parts) == wanted and 'own random labels' in parts[2]


@pytest.mark.parametrize(
  'mine, null, early, wanted',
  [
    (entry(1, 2), entry(3, 4), entry(5, 6), 'supported'),
    (entry(1, 3.5), entry(3, 4), entry(5, 6), 'undecided'),
    (entry(1, 2), entry(3, 4), entry(1.5, 6), 'undecided'),
    (entry(4.5, 5), entry(3, 4), entry(5, 6), 'not supported'),
    (entry(1, 2), entry(3, 4), entry(0.1, 0.5), 'not supported'),
  ],
)
def test_crossings_are_held_against_random_labels_and_the_start(
  mine, null, early, wanted
):
  of = lambda crossed, spread: {
    'crossed': entry(crossed, crossed),
    'spread_train': spread,
  }
  # The first snapshot at which 90 % of the pairs cross.
  history = {'0': of(0.89, entry(9, 9)), '1': of(0.9, early)}
  history |= {'2': of(1.0, entry(7, 7)), '3': of(1.0, mine)}
  end = {'mlp': history['3']}
  assert halfway._in_space(history, end, 'mlp') is None
  end['mlp-shared'] = {'spread_train': null, 'train_accuracy': entry(1, 1)}
  assert decide(halfway._in_space(history, end, 'mlp')) == wanted


def test_architectures_have_to_agree_and_directions_to_align():
  def said(agree, aligned, own=None):
    end = {
      'a x a': {'concordance_train': entry(0, 0), 'cosine': aligned},
      'a x b': {'concordance_train': agree},
    }
    if own:
      end['a-own x a-own'] = {'cosine': own, 'concordance_train': entry(0, 0)}
    start = {'a x a': {'cosine': entry(0, 0.1)}}
    return decide(halfway._together(start, end, 'a'))

  assert said(entry(0.75, 0.8), entry(0.2, 0.3)) == 'supported'
  assert said(entry(0.6, 0.8), entry(0.2, 0.3)) == 'undecided'
  assert said(entry(0.4, 0.6), entry(0.2, 0.3)) == 'not supported'
  assert said(entry(0.75, 0.8), entry(0.05, 0.3)) == 'undecided'
  own = entry(0.25, 0.5)
  assert said(entry(0.75, 0.8), entry(0.2, 0.3), own) == 'undecided'
  own = entry(0.4, 0.5)
  assert said(entry(0.75, 0.8), entry(0.2, 0.3), own) == 'not supported'
  one = {'a x a': {'cosine': entry(0, 1), 'concordance_train': entry(1, 1)}}
  assert halfway._together(one, one, 'a') is None


@pytest.mark.parametrize(
  ('half', 'null', 'wanted'),
  (
    (entry(0.75, 0.8), entry(0.2, 0.4), 'supported'),
    (entry(0.6, 0.8), entry(0.2, 0.4), 'undecided'),
    (entry(0.5, 0.6), entry(0.2, 0.4), 'not supported'),
    (entry(0.75, 0.8), entry(0.7, 0.9), 'undecided'),
    (entry(0.75, 0.8), entry(0.85, 0.9), 'not supported'),
  ),
)
def test_the_rule_of_halves(half, null, wanted):
  at_end = {
    'mlp-halves x mlp-halves': {'concordance_train': half},
    'mlp-shared x mlp-shared': {'concordance_train': null},
  }
  assert decide(halfway._from_halves(at_end, 'mlp')) == wanted
  assert halfway._from_halves({}, 'mlp') is None


def test_the_strong_form_needs_an_interval():
  rule = lambda mine, between: decide(
    halfway._as_neighbours(
      {'nearest_neighbour': entry(0.9, 1)},
      {'a': {'nearer': mine}, 'a x a': {'agreement': between}},
      'a',
    )
  )
  assert rule(entry(0.96, 0.98), entry(0.85, 0.95)) == 'supported'
  assert rule(entry(0.8, 0.9), entry(0.85, 0.95)) == 'undecided'
  assert rule(entry(0.8, 0.84), entry(0.85, 0.95)) == 'not supported'
  assert rule(entry(0.8, 0.9), entry(np.nan, np.nan)) == 'undecided'


# --- Transfer --------------------------------------------------------------


def transfer_summary(**more):
  """Every claim of it is supported."""
  fit = {'accuracy': entry(0.1, 0.2), 'pairs': 30}
  fit |= {'common': entry(0.75, 0.8), 'added': entry(0.1, 0.2)}
  aligned = [
    (0, 0.1, entry(0.9, 1)),
    (1, 0.11, entry(0.06, 0.1)),
    (2, 0.5, entry(0, 1)),
  ]
  summary = {
    'success': 0.9,
    'attacks': {
      transfer.MATCHED: {
        'mlp': {'mlp': {'transfer': entry(0.5, 0.6), 'noise': entry(0.1, 0.2)}}
      }
    },
    'regression': fit,
    'regression_above_noise': fit,
    'alignment': {
      'chance': 0.1,
      'rows': [
        {'step': s, 'accuracy': entry(a, a), 'cosine': c} for s, a, c in aligned
      ],
    },
    'parts': [
      {'samples': 50, 'concordance': entry(0.1, 0.2)},
      {'samples': 100, 'concordance': entry(0, 1)},
      {'samples': 700, 'concordance': entry(0.3, 0.4)},
    ],
  }
  return summary | more


def transfer_verdicts(**more):
  config = types.SimpleNamespace(models=('mlp', 'cnn'))
  found = transfer.judge(config, transfer_summary(**more))
  names = [
    'transfer',
    'common boundaries explain it',
    'and what exceeds noise',
    'directions align before accuracy rises',
    'more data bring networks nearer',
  ]
  assert [*found] == names
  return [found[name]['verdict'] for name in names]


def test_every_claim_of_transfer_can_be_supported():
  assert transfer_verdicts() == 5 * ['supported']


@pytest.mark.parametrize(
  'common_part, added, wanted',
  [
    (entry(0.6, 0.8), entry(0.1, 0.2), 'undecided'),
    (entry(0.75, 0.8), entry(0.01, 0.2), 'undecided'),
    (entry(0.5, 0.6), entry(0.1, 0.2), 'not supported'),
    (entry(0.75, 0.8), entry(0.01, 0.04), 'not supported'),
  ],
)
def test_both_conditions_of_common_boundaries_count(common_part, added, wanted):
  fit = {'accuracy': entry(0, 1), 'pairs': 30}
  fit |= {'common': common_part, 'added': added}
  found = transfer_verdicts(regression=fit)
  assert found == ['supported', wanted, *3 * ['supported']]
  found = transfer_verdicts(regression_above_noise=fit)
  assert found == [*2 * ['supported'], wanted, *2 * ['supported']]


@pytest.mark.parametrize(
  'rows, wanted',
  [
    # At most 2 points above chance; the start does not count.
    ([(0, 0.1, entry(0.9, 1)), (1, 0.119, entry(0.06, 1))], 'supported'),
    ([(0, 0.1, entry(0.9, 1)), (1, 0.13, entry(0.06, 1))], 'undecided'),
    ([(0, 0.1, entry(0.9, 1)), (1, 0.1, entry(0.04, 1))], 'undecided'),
    ([(1, 0.1, entry(0, 0.04)), (2, 0.1, entry(0.06, 1))], 'supported'),
    ([(1, 0.1, entry(0, 0.04)), (2, 0.1, entry(0.04, 1))], 'undecided'),
    ([(1, 0.1, entry(0, 0.04)), (2, 0.1, entry(0, 0.03))], 'not supported'),
  ],
)
def test_directions_have_to_align_before_accuracy_rises(rows, wanted):
  rows = [{'step': s, 'accuracy': entry(a, a), 'cosine': c} for s, a, c in rows]
  found = transfer_verdicts(alignment={'chance': 0.1, 'rows': rows})
  assert found == [*3 * ['supported'], wanted, 'supported']


def test_transfer_is_held_against_noise_and_parts_against_each_other():
  for moved, wanted in (
    (entry(0.15, 0.6), 'undecided'),
    (entry(0.0, 0.05), 'not supported'),
  ):
    pair = {'transfer': moved, 'noise': entry(0.1, 0.2)}
    attacks = {transfer.MATCHED: {'mlp': {'mlp': pair}}}
    assert transfer_verdicts(attacks=attacks)[0] == wanted
  parts = transfer_summary()['parts']
  assert transfer_verdicts(parts=parts[::-1])[-1] == 'not supported'
  assert transfer_verdicts(parts=parts[:2])[-1] == 'undecided'


# --- On and off a manifold -------------------------------------------------


def test_kinds_of_segments_are_those_that_rules_name():
  assert set(segments.KINDS) == {'train', 'test', 'near'}
