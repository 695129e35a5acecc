"""Claims: what conditions add up to, p-values, Holm's correction, JSON."""

import itertools
import json
import math

from hypothesis import given
from hypothesis import strategies as st
import pytest
from scipy import stats

from dmm_jax import statistics
from experiments.lib import claims

NAN, INF = float('nan'), float('inf')
finite = st.floats(-1e3, 1e3).map(lambda v: round(v, 3))
width = st.floats(0.0, 1e3).map(lambda v: round(v, 3))
PS = st.floats(0.0, 1.0)
HOLDS = st.sampled_from([True, False, None])


def estimate(value, low, high, n=10, unit='networks'):
  return statistics.Estimate(value, low, high, n, unit)


@st.composite
def estimates(draw):
  value = draw(finite)
  return estimate(value, value - draw(width), value + draw(width))


def claim(*holds, not_tested='', p=0.0, name='law'):
  conditions = [claims.Condition(f'c{i}', h, p) for i, h in enumerate(holds)]
  return claims.Claim('2004.05923', name, 'It is.', (*conditions,), not_tested)


# --- Verdicts ----------------------------------------------------------------


@pytest.mark.parametrize('num', range(4))
def test_a_verdict_is_the_conjunction_in_three_valued_logic(num):
  for holds in itertools.product([True, False, None], repeat=num):
    # Kleene: false below open below true; all of them is the least.
    least = min({False: 0, None: 1, True: 2}[h] for h in holds) if num else None
    words = {0: 'not supported', 1: 'undecided', 2: 'supported'}
    assert claim(*holds).verdict == words.get(least, 'not tested')
    skipped = claim(*holds, not_tested='44 % right')
    assert (skipped.verdict, skipped.reason) == ('not tested', '44 % right')


@pytest.mark.parametrize(
  ('holds', 'reason', 'short'),
  [
    ([True, True, True], 'holds: c0; c1; c2', 'holds: c0; c1; and 1 more'),
    ([True, False, None, False], 'refuted: c1; c3', 'refuted: c1; c3'),
    ([None, True], 'open: c0', 'open: c0'),
    ([], 'there was nothing to test it on', 'there was nothing to test it on'),
  ],
)
def test_the_reason_is_what_decides(holds, reason, short):
  assert claim(*holds).reason == claim(*holds).short_reason() == reason
  assert claim(*holds).short_reason(2) == short


def test_the_reason_can_be_cut_to_one_condition():
  assert claim(*3 * [True]).short_reason(1) == 'holds: c0; and 2 more'


def test_all_conditions_have_to_hold_so_the_largest_p_counts():
  ps = [claims.Condition('', True, p) for p in (0.01, 0.02, 0.001)]
  assert claims.Claim('', '', '', (*ps,)).p == 0.02
  assert claims.Claim('', '', '', ()).p == 1.0


# --- Conditions --------------------------------------------------------------


def tail(gap, half):
  """P-value of a normal estimate whose 95 % interval reaches `half` far."""
  if half == 0:
    return 0.0 if gap > 0 else 1.0
  return stats.norm.sf(gap / (half / stats.norm.ppf(0.975)))


@given(estimates(), finite)
def test_above_and_below_a_number(a, b):
  above, below = claims.above('x', a, b), claims.below('x', a, b)
  assert above.holds == (True if a.low > b else False if a.high < b else None)
  assert below.holds == (True if a.high < b else False if a.low > b else None)
  assert above.p == pytest.approx(tail(a.value - b, a.value - a.low), abs=1e-9)
  assert below.p == pytest.approx(tail(b - a.value, a.high - a.value), abs=1e-9)


@given(estimates(), estimates())
def test_above_and_below_another_estimate_judge_the_difference(a, b):
  difference = statistics.difference(a, b)
  for compare in (claims.above, claims.below):
    text, *found = compare('x', a, b)
    assert found == [*compare('x', difference, 0.0)[1:]]
    assert f'{b.value:.3g} [' in text


@given(estimates(), finite, width)
def test_within_is_two_one_sided_tests(a, target, tolerance):
  found = claims.within('x', a, target, tolerance)
  low, high = target - tolerance, target + tolerance
  want = None
  if low <= a.low and a.high <= high:
    want = True
  if a.high < low or a.low > high:
    want = False
  assert found.holds == want
  sides = (
    tail(a.value - low, a.value - a.low),
    tail(high - a.value, a.high - a.value),
  )
  if not want:  # Else at most the level, also where the width is 0.
    assert found.p == pytest.approx(max(sides), abs=1e-9)
  elif a.low < a.value < a.high:
    assert found.p == pytest.approx(min(max(sides), 0.025), abs=1e-9)


@given(estimates(), finite, width)
def test_what_holds_is_significant_by_itself_and_nothing_else_is(a, b, c):
  found = claims.above('', a, b), claims.below('', a, b)
  for condition in (*found, claims.within('', a, b, c)):
    if condition.holds:
      assert condition.p <= claims.LEVEL
    else:
      assert condition.p >= claims.LEVEL * (1 - 1e-9)


def test_intervals_without_a_width_do_not_say_by_how_much():
  infinite = estimate(INF, 5.0, INF)
  assert claims.above('x', infinite, 2.0)[1:] == (True, 0.025)
  assert claims.below('x', infinite, 2.0)[1:] == (False, 1.0)
  assert claims.above('x', infinite, 7.0)[1:] == (None, 1.0)
  one_end = estimate(3.0, -INF, 4.0)
  assert claims.above('x', one_end, 2.0)[1:] == (None, 1.0)
  assert claims.below('x', one_end, 5.0).p == pytest.approx(tail(2.0, 1.0))
  for missing in (estimate(0.5, NAN, NAN), estimate(NAN, NAN, NAN)):
    for found in (
      claims.above('', missing, 0.0),
      claims.below('', missing, 0.0),
      claims.within('', missing, 0.0, 9.0),
      claims.above('', estimate(1, 0, 2), missing),
    ):
      assert found[1:] == (None, 1.0)
  exact = estimate(2.0, 2.0, 2.0)
  assert claims.above('', exact, 1.0)[1:] == (True, 0.0)
  assert claims.above('', exact, 2.0)[1:] == (None, 1.0)
  assert claims.below('', exact, 1.0)[1:] == (False, 1.0)
  assert claims.within('', exact, 1.0, 1.0)[1:] == (True, 0.025)


def test_networks_that_learned_too_little_say_nothing():
  assert claims.why_untrained(0.55, 0.1) == claims.why_untrained(0.6, 0.1) == ''
  assert claims.why_untrained(0.54, 0.1) == (
    'networks classify 54% of the images correctly, less than 50% of the way '
    'from a guess (10%) to all'
  )
  few = claims.why_untrained(0.3, 0.2, whose='plain networks', way=0.25)
  assert few.startswith('plain networks classify 30%')
  assert 'less than 25% of the way from a guess (20%)' in few
  assert claims.why_untrained(0.4, 0.2, way=0.25) == ''
  assert claims.why_untrained(float('nan'), 0.2)


def test_instruments_that_failed_say_nothing():
  lost = [1.0, INF] + 18 * [2.0]
  assert claims.why_failed(lost) == claims.why_failed([INF, 1.0], 0.5) == ''
  assert claims.why_failed([]) == ''
  assert claims.why_failed([*lost, INF]) == (
    '10% of the searches found no boundary'
  )
  assert claims.why_no_null(0.9) == claims.why_no_null(0.5, 0.5) == ''
  assert claims.why_no_null(0.89) == (
    '89% of the random labels were learned, not 90%'
  )


def test_claims_are_counted():
  judged = [claim(True), claim(False), claim(None), claim(True, not_tested='x')]
  assert claims.tally(judged) == '1 of 4 claims are supported'
  assert claims.tally(judged, untested=True) == (
    '1 of 4 claims are supported, 1 not tested'
  )


def test_conditions_are_text_with_their_numbers():
  a, b = estimate(-0.4912, -0.5123, -0.473), estimate(0.5, NAN, NAN, 3)
  text = '-0.491 [-0.512, -0.473]'
  assert claims.above('slope', a, -0.6).text == f'slope above -0.6: {text}'
  assert claims.below('slope', a, 0).text == f'slope below 0: {text}'
  within = claims.within('slope', a, -0.5, 0.03)
  assert within.text == f'slope within 0.03 of -0.5: {text}'
  against = claims.below('rise', a, b).text
  assert against == f'rise below 0.5 (no interval): {text}'
  assert claims.above('x', estimate(NAN, NAN, NAN), 1.0).text == 'x above 1: -'


# --- Holm --------------------------------------------------------------------


def rejected(ps, level):
  """Holm's procedure, by adjusted p-values as statsmodels has them."""
  order = sorted(range(len(ps)), key=lambda i: ps[i])
  adjusted, largest = {}, 0.0
  for rank, i in enumerate(order):
    largest = max(largest, (len(ps) - rank) * ps[i])
    adjusted[i] = largest
  return [adjusted[i] <= level for i in range(len(ps))]


@given(st.lists(st.tuples(PS | st.floats(0.0, 0.03), HOLDS), max_size=8))
def test_holm_is_holm(parts):
  found = [claim(holds, p=p) for p, holds in parts]
  want = rejected([p for p, _ in parts], 0.025)
  # Division and multiplication round differently at the level itself.
  near = [abs(p * m - 0.025) < 1e-12 for p, _ in parts for m in range(1, 9)]
  if not any(near):
    kept = [w and h is True for w, (_, h) in zip(want, parts, strict=True)]
    assert claims.holm(iter(found)) == kept


def test_holm_step_by_step():
  ps = [0.012, 0.001, 0.02, 0.0083]
  of = lambda **more: [claim(True, p=p, **more) for p in ps]
  # 0.001 <= 0.025 / 4, 0.0083 <= 0.025 / 3, 0.012 <= 0.025 / 2, 0.02 <= 0.025.
  assert claims.holm(of()) == [True] * 4
  # Nothing counts after the first that exceeds its level.
  assert claims.holm([claim(True, p=p) for p in (0.001, 0.013, 0.014)]) == [
    True,
    False,
    False,
  ]
  # What was not tested takes nothing from the level of the others.
  assert claims.holm([*of(not_tested='why'), claim(True, p=0.025)]) == [
    *4 * [False],
    True,
  ]
  # What is undecided does.
  assert claims.holm([claim(None, p=0.5), claim(True, p=0.02)]) == 2 * [False]
  assert claims.holm([claim(None, p=0.5), claim(True, p=0.0125)]) == [
    False,
    True,
  ]
  assert claims.holm([]) == []


# --- Files -------------------------------------------------------------------


@given(st.lists(st.tuples(st.text(), HOLDS, PS), max_size=4), st.text())
def test_claims_survive_json(parts, why):
  conditions = tuple(claims.Condition(*part) for part in parts)
  made = claims.Claim('2106.10151', 'a', 'In words.', conditions, why)
  saved = claims.to_json(made)
  again = claims.from_json(json.loads(json.dumps(saved, allow_nan=False)))
  assert claims.to_json(again) == saved
  assert (again.verdict, again.reason) == (made.verdict, made.reason)
  assert again.conditions == conditions
  if conditions or why:
    assert again == made


def test_the_form_of_a_claim_in_a_file():
  made = claim(True, None, p=0.5)
  assert claims.to_json(made) == {
    'paper': '2004.05923',
    'name': 'law',
    'statement': 'It is.',
    'verdict': 'undecided',
    'reason': 'open: c1',
    'conditions': [
      {'text': 'c0', 'holds': True, 'p': 0.5},
      {'text': 'c1', 'holds': None, 'p': 0.5},
    ],
  }
  # As others may write it: p-values are ours.
  bare = claims.to_json(made) | {'conditions': [{'text': 'c', 'holds': True}]}
  found = claims.from_json(bare)
  assert (found.verdict, found.p) == ('supported', 1.0)
  found = claims.from_json(bare | {'paper': 7, 'name': None, 'statement': 1.5})
  assert found[:3] == ('7', 'None', '1.5')


def test_p_values_of_real_conditions_are_strict_json():
  for value in (INF, -INF, NAN, 0.0):
    for end in (INF, NAN, 1.0):
      a = estimate(value, -end, end)
      for b in (0.0, estimate(1.0, 0.0, 2.0)):
        for made in (claims.above('', a, b), claims.below('', a, b)):
          assert math.isfinite(made.p)
      assert 0 <= claims.within('', a, 0.0, 1.0).p <= 1
