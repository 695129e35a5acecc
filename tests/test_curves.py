"""Curves along training: least points and pieces, searched and planted."""

import itertools

import numpy as np
import pytest

from dmm_jax import curves as training_curves

# Log-spaced, 4 to a factor of 10.
STEPS = np.array([0, 1, 2, 3, 6, 10, 18, 32, 56, 100, 178, 316, 562, 1000])


def test_means_of_the_others():
  curves = np.arange(12.0).reshape(4, 3) ** 2
  found = training_curves.others_mean(curves)
  for i, mean in enumerate(found):
    np.testing.assert_allclose(mean, np.delete(curves, i, 0).mean(0))
  assert np.isnan(training_curves.others_mean(curves[:1])).all()


def test_three_pieces_are_the_best_of_all():
  rng = np.random.default_rng(0)
  x = np.sort(rng.uniform(0, 3, 8))
  curves = rng.normal(size=(5, 8))
  found = training_curves.bends(x, curves)
  for curve, bends in zip(curves, found, strict=True):
    rests = {}
    for i, j in itertools.combinations(range(1, 7), 2):
      design = np.stack(
        [x**0, x, np.maximum(x - x[i], 0), np.maximum(x - x[j], 0)], 1
      )
      rests[i, j] = np.linalg.lstsq(design, curve)[1].sum()
    assert tuple(bends) == min(rests, key=rests.get)


def test_bends_and_slopes_that_were_planted():
  x = np.log10(1.0 + STEPS)
  curve = np.interp(x, [x[0], x[4], x[9], x[-1]], [0, -1, 2, 2])
  curves = curve + np.zeros((3, 1))
  assert training_curves.bends(x, curves).tolist() == 3 * [[4, 9]]
  slope, change = training_curves.slopes(x, curves)
  np.testing.assert_allclose(slope, -1 / x[4], rtol=1e-6)
  np.testing.assert_allclose(change, 1 / x[4], rtol=1e-6)


def test_bends_are_found_in_noise():
  """Of a fall by 1 and a rise by 2, in networks that scatter by 0.1."""
  rng = np.random.default_rng(0)
  x = np.log10(1.0 + STEPS)
  curve = np.interp(x, [x[0], x[4], x[9], x[-1]], [0, -1, 1, 1])
  curves = curve + rng.normal(0, 0.1, (1000, len(x)))
  first, second = training_curves.bends(x, curves).T
  assert np.mean(np.abs(first - 4) <= 1) > 0.95
  assert np.mean(np.abs(second - 9) <= 1) > 0.9


def test_the_least_gap_is_where_the_others_have_it():
  curves = np.random.default_rng(0).normal(size=(4, 6))
  place = training_curves.least_place(curves)
  value = training_curves.least(curves)
  for i in range(4):
    others = np.delete(curves, i, axis=0).mean(0)
    assert place[i] == 1 + others[1:].argmin()
    assert value[i] == curves[i, place[i]]


@pytest.mark.parametrize(
  'rise, wanted',
  [
    (2, -0.2 - (1 - 0.2)),  # Accuracy bends where 0.2 of 1 is over.
    (4, 0.6 - 0.4),
    (6, 1.0),
    (8, 1.0),
  ],
)
def test_the_fall_before_accuracy_rises_less_that_after(rise, wanted):
  x = np.arange(12.0)
  gap = np.interp(x, [0, 2, 4, 6, 10, 11], [0, -0.2, -0.6, -1, 1, 1])
  right = np.interp(x, [0, rise, rise + 2, 11], [0.1, 0.1, 0.9, 1.0])
  copies = lambda v: np.tile(v, (3, 1))
  found = training_curves.fall_ahead(x, copies(gap), copies(right))
  wanted = 0.2 - 0.8 if rise == 2 else wanted
  np.testing.assert_allclose(found, wanted, atol=1e-9)
