"""One example's distance with what has to be known, and columns of them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dmm_jax import boundary
from dmm_jax import distances
from dmm_jax import normals
from dmm_jax import statistics

WEIGHTS = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
FOUND, NOT_FOUND = boundary.Status.FOUND, boundary.Status.NOT_FOUND
WRONG = boundary.Status.MISCLASSIFIED


def test_an_example_is_measured_against_its_label_or_its_own_class(monkeypatch):
  asked = []
  found = boundary.BoundaryPoint(
    distance=2.5,
    point=jnp.float32([0.9, 0.1, 0.5, 0.0]),
    target=2,
    normal=jnp.float32([0.5, -0.5, 0.5, 0.5]),
    margin=-0.25,
    status=3,
    gradients=11,
    forwards=13,
  )

  def nearest_point(logits_fn, x, label, **options):
    asked.append((logits_fn, x, int(label), options))
    return found

  monkeypatch.setattr(boundary, 'nearest_point', nearest_point)
  logits_fn = lambda x: x @ WEIGHTS
  x = np.float32([0.6, 0.3, 0.2, 0.0])
  logits = x @ WEIGHTS
  order = np.argsort(logits)
  options = dict(
    norm=2.0, bounds=(0.0, 1.0), method='deepfool', max_gradients=17
  )
  for label in (-1, order[0], order[2]):
    told = distances.examine(logits_fn, x, jnp.int8(label), **options)
    said = order[2] if label < 0 else label
    assert asked[-1] == (logits_fn, x, said, options)
    assert told['label'] == said and told['predicted'] == order[2]
    assert told['label'].dtype == told['predicted'].dtype == jnp.int8
    other = logits[order[1 if said == order[2] else 2]]
    np.testing.assert_allclose(told['margin'], logits[said] - other, rtol=1e-5)
    for name in distances.FIELDS:
      assert told[name] is getattr(found, name)
    assert told['margin_at_point'] == -0.25
    for name, bounds in (
      ('alignment', (0.0, 1.0)),
      ('alignment_unboxed', None),
    ):
      wanted = normals.alignment(
        found.point - x, found.normal, x, norm=2.0, bounds=bounds
      )
      np.testing.assert_allclose(told[name], wanted)
    assert told['alignment'] != told['alignment_unboxed']
  assert distances.FIELDS == (
    'distance target status gradients forwards point'.split()
  )


def test_the_distance_of_a_linear_network_is_exact():
  rng = np.random.default_rng(0)
  examine = lambda x, label: distances.examine(
    lambda x: x @ WEIGHTS,
    x,
    label,
    norm=2.0,
    bounds=None,
    method='deepfool',
    max_gradients=20,
  )
  xs = rng.uniform(0.3, 0.7, (6, 4)).astype(np.float32)
  found = jax.jit(jax.vmap(examine))(xs, np.full(6, -1))
  logits = xs @ WEIGHTS
  top, rows = logits.argmax(1), np.arange(6)
  gaps = logits[rows, top][:, None] - logits
  with np.errstate(invalid='ignore'):
    flat = gaps / np.linalg.norm(WEIGHTS.T[top][:, None] - WEIGHTS.T, axis=2)
  np.testing.assert_allclose(found['distance'], np.nanmin(flat, 1), rtol=1e-3)
  np.testing.assert_allclose(found['alignment'], 1, atol=1e-4)


def columns():
  """Two draws of three examples; shares of a quarter nowhere."""
  return {
    'network': np.full(6, 'fresh'),
    'norm': np.full(6, 2.0),
    'draw': np.repeat([0, 1], 3),
    'distance': np.array([1, 2, np.inf, 3, 5, 0]),
    'status': np.array([FOUND, FOUND, NOT_FOUND, FOUND, FOUND, WRONG]),
    'lower': np.array([0.5, 2.5, np.nan, 2.7, np.nan, np.nan]),
    'alignment': np.array([1, 0.9, 7, 0.8, np.nan, 7]),
    'alignment_unboxed': np.array([0.1, 0.5, 7, 0.2, 0.3, 7]),
    'gradients': np.arange(6) ** 2,
    'forwards': np.arange(6) ** 3,
  }


def test_columns_are_told_by_example():
  told = distances.describe(columns())
  assert (told['network'], told['norm']) == ('fresh', '2.0')
  assert (told['n'], told['examples'], told['draws']) == (6, 3, 2)
  for name in ('misclassified', 'not_found'):
    hits = np.arange(6) == 0
    assert told[name] == statistics.proportion(hits)
  # guarantees.md: infinity is a failed search and counts, 0 stays in.
  together = np.array([[1, 3], [2, 5], [np.inf, 0]])
  assert [*told['quantiles']] == ['5', '25', '50', '75', '95']
  for q, found in told['quantiles'].items():
    wanted = statistics.estimate(statistics.quantile(int(q)), together)
    assert found == wanted
  values = [v['value'] for v in told['quantiles'].values()]
  assert values == [0, 1, 2, 5, np.inf]
  assert told['by_draw'] == [2, 3]
  assert told['alignment'] == pytest.approx(0.9)
  assert told['alignment_unboxed'] == pytest.approx(0.25)
  assert (told['gradients'], told['forwards']) == (55 / 6, 225 / 6)
  # Of what has both: 0.5, 1.25, 0.9.
  assert told['lower_over_distance'] == pytest.approx(0.9)
  assert told['lower_violations'] == 1


@pytest.mark.parametrize('over, violations', [(0.99e-4, 0), (1.1e-4, 1)])
def test_lower_bounds_may_exceed_distances_by_rounding(over, violations):
  found = columns()
  found['lower'] = np.full(6, np.nan)
  found['lower'][3] = 3 * (1 + over)
  assert distances.describe(found)['lower_violations'] == violations


def test_without_a_point_found_there_is_no_middle():
  found = columns()
  found['status'][:] = NOT_FOUND
  told = distances.describe(found)
  assert np.isnan(told['alignment']) and np.isnan(told['lower_over_distance'])
  assert told['lower_violations'] == 0


@pytest.mark.filterwarnings('error')
def test_ratios_of_medians_are_of_the_same_examples():
  one = {'draw': np.zeros(3, int), 'distance': np.array([4.0, 6.0, np.inf])}
  null = columns()
  entry = distances.ratio_of_medians(one, null)
  assert entry['value'] == 6 / 2
  both = np.array([[4, 1, 3], [6, 2, 5], [np.inf, np.inf, 0]])
  middle = statistics.quantile(50)

  def ratio(v):
    with np.errstate(invalid='ignore', divide='ignore'):
      return middle(v[..., :1]) / middle(v[..., 1:])

  wanted = statistics.estimate(ratio, both)
  np.testing.assert_array_equal(entry['interval'], wanted['interval'])
  one['distance'][:2] = np.inf
  null['distance'][:4] = np.inf
  assert np.isnan(distances.ratio_of_medians(one, null)['value'])
