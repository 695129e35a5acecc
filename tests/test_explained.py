"""What explains pairs of networks, against least squares and planted shares."""

import numpy as np
import pytest

from dmm_jax import halfway
from dmm_jax import statistics


def world(rng, m=8, kinds=3, effect=0.0, nodes=1.0, noise=0.3):
  """Pairs of networks of several populations; features that have an effect.

  Returns:
    `(halves, features, strata)`, as of `halfway.explained`.
  """
  num = kinds * m
  sides = lambda: rng.normal(size=(num, 1)) + rng.normal(size=(1, num))
  common = np.stack([sides(), rng.normal(size=(num, num))], -1)
  other = sides()[..., None]
  y = nodes * sides() + effect * common.sum(-1)
  kind = np.repeat(np.arange(kinds), m)
  strata = kind[:, None] * kinds + kind
  y = y + 5 * rng.normal(size=kinds**2)[strata]
  halves = y[..., None] + noise * rng.normal(size=(num, num, 2))
  return halves, {'common': common, 'other': other}, strata


def test_pairs_are_predicted_by_a_fit_without_their_networks():
  """As by least squares on dummy variables, pair by pair."""
  rng = np.random.default_rng(0)
  halves, features, strata = world(rng, m=4, kinds=2, effect=0.5)
  y, x = halves[..., 0], features['common']
  y[2, 5] = np.nan
  found = halfway.pair_errors(y, x, strata)
  nothing = halfway.pair_errors(y, x[..., :0], strata)
  known = np.isfinite(y) & ~np.eye(8, dtype=bool)
  np.testing.assert_array_equal(np.isfinite(found), known)
  for i, j in np.argwhere(known):
    rest = known.copy()
    rest[[i, j]] = rest[:, [i, j]] = False
    dummies = np.eye(4)[strata]
    for errors, design in (
      (found, np.concatenate([dummies, x], -1)),
      (nothing, dummies),
    ):
      fit = np.linalg.lstsq(design[rest], y[rest])[0]
      wanted = (y[i, j] - design[i, j] @ fit) ** 2
      np.testing.assert_allclose(errors[i, j], wanted, rtol=1e-6)


def test_strata_of_two_networks_leave_nothing_to_predict_from():
  strata = np.zeros((6, 6), int)
  strata[0, 1] = strata[1, 0] = 1
  found = halfway.pair_errors(np.ones((6, 6)), np.zeros((6, 6, 0)), strata)
  assert np.isnan(found[0, 1]) and found[2, 3] == 0


def test_ratios_of_sums_over_pairs():
  rng = np.random.default_rng(1)
  a, b = rng.uniform(1, 2, (2, 9, 9))
  a[3, 4] = np.inf
  found = halfway.pair_ratio(a, b, unit='networks')
  keep = np.isfinite(a) & ~np.eye(9, dtype=bool)
  assert found.value == pytest.approx(a[keep].sum() / b[keep].sum())
  assert found.n == 9 and found.unit == 'networks'
  # Of a denominator that does not vary: the mean over it.
  plain = halfway.pair_ratio(a, np.full((9, 9), 2.0), unit='networks')
  wanted = statistics.pair_mean(a / 2, same=True, unit='networks')
  np.testing.assert_allclose(plain[:3], wanted[:3])
  # As the jackknife of the ratio itself, to first order.
  left = []
  for k in range(9):
    rest = keep.copy()
    rest[k] = rest[:, k] = False
    left.append(a[rest].sum() / b[rest].sum())
  error = np.sqrt(8 * np.var(left))
  assert found.high - found.low == pytest.approx(2 * 2.306 * error, rel=0.05)


def test_planted_shares_are_found():
  """Of pairs without effects of networks all variances are known."""
  rng = np.random.default_rng(2)
  m = 60
  x, other, rest = rng.normal(size=(3, m, m))
  halves = (x + rest)[..., None] + rng.normal(size=(m, m, 2))
  found = halfway.explained(
    halves,
    {'x': x[..., None], 'other': other[..., None]},
    np.zeros((m, m), int),
    unit='networks',
  )
  # Variances: 1 explained, 1 not, 1/2 of the draw of halves.
  for estimate, wanted in (
    (found.alone['x'], 1 / 2.5),
    (found.added['x'], 1 / 2.5),
    (found.together, 1 / 2.5),
    (found.left, 2 / 2.5),
    (found.of_left['x'], 1 / 2),
  ):
    assert estimate.low < wanted < estimate.high
    assert estimate.value == pytest.approx(wanted, abs=0.05)
  # What is unrelated predicts a little worse than nothing.
  for estimate in (found.alone['other'], found.added['other']):
    assert -0.01 < estimate.value < 0


@pytest.mark.parametrize('nodes', (0.0, 3.0))
def test_what_is_unrelated_explains_nothing(nodes):
  """Also where all pairs of a network share an effect: never, of 60 worlds."""
  supported = 0
  for seed in range(60):
    rng = np.random.default_rng(seed)
    found = halfway.explained(*world(rng, m=5, nodes=nodes), unit='networks')
    supported += found.alone['common'].low > 0
  assert supported <= 3


def test_effects_are_found_within_strata_alone():
  halves, features, strata = world(np.random.default_rng(0), effect=1.0)
  found = halfway.explained(halves, features, strata, unit='networks')
  assert found.alone['common'].low > 0 and found.added['common'].low > 0
  # What differs between populations alone is no part of it.
  level = {'level': 10.0 * strata[..., None]}
  within = halfway.explained(halves, level, strata, unit='networks')
  assert within.alone['level'].value == pytest.approx(0, abs=1e-9)
  # A pair with a feature that is not known does not count.
  features['common'][3, 7, 0] = np.nan
  fewer = halfway.explained(halves, features, strata, unit='networks')
  assert fewer.left.value != found.left.value
