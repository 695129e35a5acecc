"""Distances against dimension: tables to medians, predictions and slopes."""

import itertools

import numpy as np
import pytest
from scipy import special
from scipy import stats

from dmm_jax import boundary
from dmm_jax import scaling
from dmm_jax import statistics

UNIT = stats.halfnorm.ppf(0.5)
N = (12, 48, 108)


def columns(names, rows):
  return dict(
    zip(names.split(), map(np.array, zip(*rows, strict=True)), strict=True)
  )


def made():
  """Five networks at three images each, and what was predicted."""
  rng = np.random.default_rng(0)
  cases = [*itertools.product(('fully_connected', 'resnet20'), (1.0, 2.0), N)]
  numbers = lambda: rng.exponential(size=4)
  rows = [
    (*case, image, *numbers(), int(rng.integers(6)), int(rng.integers(1, 90)))
    for case in cases
    for _ in range(5)
    for image in range(3)
  ]
  names = 'architecture norm n image distance estimate input_norm margin '
  tables = {'results': columns(names + 'status gradients', rows)}
  own = [case for case in cases if case[0] == 'fully_connected']
  rows = [(*case, *rng.exponential(size=2)) for case in own for _ in range(4)]
  names = 'architecture norm n scale input_norm'
  tables['predictions'] = columns(names, rows)
  rows = [
    (*case, radius, 0.1 * radius * case[1])
    for case in own
    for radius in (1.0, 0.5)
  ]
  tables['bounds'] = columns('architecture norm n radius bound', rows)
  rows = [
    (norm, n, *rng.exponential(size=2))
    for norm, n in itertools.product((1.0, 2.0), N[:2])
    for _ in range(6)
  ]
  tables['infinite'] = columns('norm n straight linear', rows)
  return tables


def pick(table, **wanted):
  keep = np.all([table[k] == v for k, v in wanted.items()], axis=0)
  return {k: v[keep] for k, v in table.items()}


def entry(statistic, values):
  return statistics.estimate(statistic, values)


def median_of_law(scales):
  """Of a mixture of half-normal laws, by bisection."""
  low, high = 0.0, 10 * max(scales)
  for _ in range(80):
    middle = (low + high) / 2
    share = np.mean(special.erf(middle / scales / np.sqrt(2)))
    low, high = (middle, high) if share < 0.5 else (low, middle)
  return low


def test_every_dimension_has_its_medians_and_predictions():
  tables = made()
  for name, norm in itertools.product(
    ('fully_connected', 'resnet20'), (1.0, 2.0)
  ):
    found = scaling.by_dimension(tables, name, norm)
    assert [row['n'] for row in found['sizes']] == [*N]
    for row in found['sizes']:
      of = dict(architecture=name, norm=norm, n=row['n'])
      part = pick(tables['results'], **of)
      grid = {k: v.reshape(5, 3) for k, v in part.items()}
      median, far = statistics.sample_median, grid['distance']
      assert (row['networks'], row['images']) == (5, 15)
      lost = [
        s not in (boundary.Status.FOUND, boundary.Status.ESTIMATE)
        for s in part['status']
      ]
      assert row['not_found'] == sum(lost)
      assert row['gradients'] == part['gradients'].mean()
      estimate = grid['estimate']
      wanted = {
        'median': (median, far),
        'relative': (median, far / grid['input_norm']),
        'excess': (median, far / estimate),
      }
      wanted = {k: entry(*v) for k, v in wanted.items()}
      for percent in (40, 60):
        ratio = lambda v, q=percent: (
          np.percentile(v, q, axis=(-2, -1)) / np.median(v, axis=(-2, -1))
        )
        wanted[f'quantile_{percent}_50'] = entry(ratio, estimate)
      if name == 'resnet20':
        size = np.sqrt(np.mean(part['margin'] ** 2))
        slope = np.mean(part['margin'] / part['estimate'])
        predicted, source = UNIT * size / slope, 'finite networks'
        assert 'bound_excess' not in row and 'predicted_relative' not in row
      else:
        law, bound = (pick(tables[k], **of) for k in ('predictions', 'bounds'))
        predicted, source = median_of_law(law['scale']), 'infinite width'
        relative = median_of_law(law['scale'] / law['input_norm'])
        assert row['predicted_relative'] == pytest.approx(relative, rel=1e-3)
        excess = max(
          np.mean(part['distance'] <= r) - b
          for r, b in zip(bound['radius'], bound['bound'], strict=True)
        )
        assert row['bound_excess'] == pytest.approx(excess)
        # Massart's band, of five networks.
        chance = np.sqrt(np.log(1 / 0.05) / (2 * 5))
        assert row['bound_excess_by_chance'] == pytest.approx(chance)
      assert row['predicted'] == pytest.approx(predicted, rel=1e-3)
      assert row['predicted_from'] == source
      for key, values in (('ratio', far), ('estimate_ratio', estimate)):
        over = lambda v: np.median(v, axis=(-2, -1)) / row['predicted']  # noqa: B023
        wanted[key] = entry(over, values)
      drawn = pick(tables['infinite'], norm=norm, n=row['n'])
      if name == 'fully_connected' and row['n'] != 108:
        ratio = drawn['straight'] / drawn['linear']
        wanted['infinite_excess'] = entry(median, ratio[:, None])
      for key, value in wanted.items():
        assert row[key]['value'] == pytest.approx(value['value']), key
        assert row[key]['interval'] == pytest.approx(value['interval']), key
      assert ('infinite_excess' in row) == ('infinite_excess' in wanted)


def test_slopes_of_relative_medians_and_of_predictions():
  tables = made()
  logs = lambda v: np.polyfit(np.log(N), np.log(v), 1)[0]
  for name, norm in (('fully_connected', 1.0), ('resnet20', 2.0)):
    found = scaling.by_dimension(tables, name, norm)
    relative = [row['relative']['value'] for row in found['sizes']]
    assert found['slope']['value'] == pytest.approx(logs(relative))
    part = pick(tables['results'], architecture=name, norm=norm)
    ratio = part['distance'] / part['input_norm']
    samples = [ratio[part['n'] == n].reshape(5, 3) for n in N]
    wanted = statistics.estimate(
      scaling.median_slope(np.array(N, float)), *samples
    )
    assert found['slope'] == wanted
    assert found['laws'] == scaling.laws(np.array(N, float), norm)
    own = None
    if name == 'fully_connected':
      own = logs([row['predicted_relative'] for row in found['sizes']])
      own = pytest.approx(own)
    assert found['infinite_slope'] == own
  # Predictions of some dimensions alone have no slope, nor has one dimension.
  keep = tables['predictions']['n'] != 48
  fewer = {k: v[keep] for k, v in tables['predictions'].items()}
  found = scaling.by_dimension(
    tables | {'predictions': fewer}, 'fully_connected', 2.0
  )
  assert found['infinite_slope'] is None
  for sizes in (N[:1], N[:2]):
    few = {
      k: {c: column[np.isin(v['n'], sizes)] for c, column in v.items()}
      for k, v in tables.items()
      if k != 'infinite'
    }
    found = scaling.by_dimension(few, 'fully_connected', 1.0)
    assert (found['slope'] is None) == (len(sizes) == 1)
    assert 'infinite_excess' not in found['sizes'][0]
    laws = scaling.laws(np.array(sizes, float), 1.0)
    assert found['laws'] == pytest.approx(laws, nan_ok=True)


def test_laws_are_slopes_of_what_distances_grow_as():
  n = np.array([10.0, 20, 50, 100])
  assert scaling.laws(n, 2.0) == {'sqrt(n)': -0.5}
  found = scaling.laws(n, 1.0)
  want = np.polyfit(np.log(n), np.log((n * np.log(n)) ** -0.5), 1)[0]
  assert found == {'sqrt(n)': -0.5, 'sqrt(n/ln n)': pytest.approx(want)}


def test_median_slopes_are_of_many_resamples_at_once():
  rng = np.random.default_rng(0)
  n = np.array([10.0, 30.0, 200.0])
  rows = [
    rng.exponential(size=(4, m, 2)) * v**-0.3
    for m, v in zip((5, 7, 3), n, strict=True)
  ]
  found = scaling.median_slope(n)(*rows)
  for number, slope in enumerate(found):
    medians = [np.median(r[number].ravel()) for r in rows]
    want = np.polyfit(np.log(n), np.log(medians), 1)[0]
    assert slope == pytest.approx(want)
