"""Claims of papers: conditions on estimates, and the verdicts that follow.

A claim is a statement in its paper's words with conditions that were fixed in
advance. Support needs evidence: a claim is supported if all its conditions
hold, not supported if one is refuted, else undecided; and not tested where the
instrument was not good enough, with the reason.
"""

from collections.abc import Iterable
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import special

from dmm_jax import statistics
from experiments.lib import tables

SUPPORTED = 'supported'
NOT_SUPPORTED = 'not supported'
UNDECIDED = 'undecided'
NOT_TESTED = 'not tested'
VERDICTS = SUPPORTED, NOT_SUPPORTED, UNDECIDED, NOT_TESTED
# Of one side of a 95 % interval.
LEVEL = 0.025
_DECISIVE: dict[str, tuple[str, bool | None]] = {
  SUPPORTED: ('holds', True),
  NOT_SUPPORTED: ('refuted', False),
  UNDECIDED: ('open', None),
}


class Condition(NamedTuple):
  """What an estimate has to satisfy.

  Attributes:
    text: the condition and the estimate that it is about.
    holds: True or False where the 95 % interval decides, else None.
    p: one-sided p-value of the hypothesis that it does not hold, from the
      interval's half-width by the normal approximation; at most `LEVEL` where
      it holds.
  """

  text: str
  holds: bool | None
  p: float = 1.0


class Claim(NamedTuple):
  """A statement of a paper, and the conditions under which it is supported.

  Attributes:
    paper: its arXiv number.
    name: short, unique within an experiment.
    statement: in the paper's words, or ours where it is ours.
    conditions: all have to hold.
    not_tested: why the claim was not tested; '' if it was.
  """

  paper: str
  name: str
  statement: str
  conditions: tuple[Condition, ...]
  not_tested: str = ''

  @property
  def verdict(self) -> str:
    """One of the four words above."""
    holds = [condition.holds for condition in self.conditions]
    if self.not_tested or not holds:
      return NOT_TESTED
    if False in holds:
      return NOT_SUPPORTED
    return UNDECIDED if None in holds else SUPPORTED

  @property
  def reason(self) -> str:
    """The conditions that decide, in words."""
    return self.short_reason()

  def short_reason(self, most: int | None = None) -> str:
    """Returns the reason, with so many conditions at most; None: all."""
    if self.verdict == NOT_TESTED:
      return self.not_tested or 'there was nothing to test it on'
    word, wanted = _DECISIVE[self.verdict]
    texts = [c.text for c in self.conditions if c.holds is wanted]
    rest = len(texts[most:]) if most else 0
    more = f'; and {rest} more' if rest else ''
    return f'{word}: {"; ".join(texts[:most])}{more}'

  @property
  def p(self) -> float:
    """The largest p-value of its conditions: all of them have to hold."""
    return max((c.p for c in self.conditions), default=1.0)


def above(
  what: str, a: statistics.Estimate, b: statistics.Estimate | float
) -> Condition:
  """Returns the condition that `a` lies above `b`.

  Args:
    what: the estimate's name.
    a: the estimate.
    b: a number, or another independent estimate, to which the interval of the
      difference is made. Of paired estimates give their difference, and 0.
  """
  text = f'{what} above {tables.cell(b)}: {tables.cell(a)}'
  return _condition(text, statistics.above(a, b), _tail(a, b, upward=True))


def below(
  what: str, a: statistics.Estimate, b: statistics.Estimate | float
) -> Condition:
  """Returns the condition that `a` lies below `b`; arguments as for `above`."""
  text = f'{what} below {tables.cell(b)}: {tables.cell(a)}'
  return _condition(text, statistics.below(a, b), _tail(a, b, upward=False))


def within(
  what: str, a: statistics.Estimate, target: float, tolerance: float
) -> Condition:
  """Returns the condition that `a` agrees with a target: an equivalence test.

  It holds if the whole interval lies within the tolerance, and is refuted if
  the whole interval lies outside. Schuirmann (1987),
  https://doi.org/10.1007/BF01068419: two one-sided tests.

  Args:
    what, a: as for `above`.
    target: number that it is to agree with.
    tolerance: how far it may be from the target, stated in advance.
  """
  text = f'{what} within {tolerance:.3g} of {target:.3g}: {tables.cell(a)}'
  p = max(
    _tail(a, target - tolerance, upward=True),
    _tail(a, target + tolerance, upward=False),
  )
  return _condition(text, statistics.within(a, target, tolerance), p)


def why_untrained(
  accuracy: float, guess: float, *, whose: str = 'networks', way: float = 0.5
) -> str:
  """Returns why networks say nothing of trained ones, or ''.

  Args:
    accuracy: share of images that they classify correctly.
    guess: that of always naming the commonest class.
    whose: the subject of the sentence, plural.
    way: share of the way from a guess to no errors that they have to get.
  """
  if accuracy >= guess + way * (1 - guess):
    return ''
  return (
    f'{whose} classify {accuracy:.0%} of the images correctly, less than '
    f'{way:.0%} of the way from a guess ({guess:.0%}) to all'
  )


def why_failed(distances: np.ndarray, most: float = 0.05) -> str:
  """Returns why distances are too incomplete to say anything, or ''.

  Args:
    distances: of searches, inf where they found nothing.
    most: share of them that may have.
  """
  failed = np.mean(np.isinf(distances)) if np.size(distances) else 0.0
  if failed <= most:
    return ''
  return f'{failed:.0%} of the searches found no boundary'


def why_no_null(learned: float, least: float = 0.9) -> str:
  """Returns why networks on random labels are no null, or ''.

  Args:
    learned: share of their labels that they give.
    least: share that they have to.
  """
  if learned >= least:
    return ''
  return f'{learned:.0%} of the random labels were learned, not {least:.0%}'


def tally(judged: Sequence[Claim], *, untested: bool = False) -> str:
  """Returns how many claims are supported, as the end of a sentence.

  Args:
    judged: all claims of a run.
    untested: whether to say also how many were not tested.
  """
  verdicts = [claim.verdict for claim in judged]
  text = f'{verdicts.count(SUPPORTED)} of {len(judged)} claims are supported'
  rest = f', {verdicts.count(NOT_TESTED)} not tested'
  return text + rest * untested


def _condition(text, holds, p):
  """A condition; the interval decides, also where it has no half-width."""
  return Condition(text, holds, min(p, LEVEL) if holds else p)


def _tail(a, b, *, upward):
  """P-value of the hypothesis that `a` lies on the other side of `b`."""
  if isinstance(b, statistics.Estimate):
    a, b = statistics.difference(a, b), 0.0
  half = a.value - a.low if upward else a.high - a.value
  gap = a.value - b if upward else b - a.value
  if not np.isfinite(half) or not np.isfinite(gap):
    return 1.0
  if half == 0:
    return 0.0 if gap > 0 else 1.0
  return float(special.ndtr(-gap / half * statistics.Z))


def holm(claims: Iterable[Claim]) -> list[bool]:
  """Says which supported claims of one paper stay so, tested together.

  Holm (1979), https://www.jstor.org/stable/4615733: the smallest of m p-values
  is held against `LEVEL` / m, the next one against `LEVEL` / (m - 1), and so on
  to the first that exceeds its level. Claims that were not tested do not count.

  Args:
    claims: all claims of the paper.

  Returns:
    One value a claim; False where it is not supported anyway.
  """
  claims = list(claims)
  tested = [i for i, c in enumerate(claims) if c.verdict != NOT_TESTED]
  kept = [False] * len(claims)
  for rank, i in enumerate(sorted(tested, key=lambda i: claims[i].p)):
    if claims[i].p > LEVEL / (len(tested) - rank):
      break
    kept[i] = claims[i].verdict == SUPPORTED
  return kept


def to_json(claim: Claim) -> dict:
  """Returns what report.json holds of a claim."""
  return {
    'paper': claim.paper,
    'name': claim.name,
    'statement': claim.statement,
    'verdict': claim.verdict,
    'reason': claim.reason,
    'conditions': [condition._asdict() for condition in claim.conditions],
  }


def from_json(found: dict) -> Claim:
  """Returns the claim that `to_json` made."""
  conditions = tuple(Condition(**c) for c in found['conditions'])
  reason = found['reason'] if found['verdict'] == NOT_TESTED else ''
  of = {name: str(found[name]) for name in ('paper', 'name', 'statement')}
  return Claim(**of, conditions=conditions, not_tested=reason)
