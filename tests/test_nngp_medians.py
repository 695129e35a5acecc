"""Medians over inputs of one infinitely wide network, against closed forms."""

import numpy as np

from dmm_jax import nngp


def draws(xs, num_classes, num_draws=20_000):
  _, _, kernel_fn = nngp.fully_connected(2)
  rng = np.random.default_rng(0)
  return nngp.median_distances(
    rng, kernel_fn, xs, num_classes, num_draws=num_draws
  )


def test_of_one_input_they_are_the_law_of_its_distance():
  x = np.random.default_rng(1).uniform(size=(3, 3, 1)).astype(np.float32)
  _, _, kernel_fn = nngp.fully_connected(2)
  scale = nngp.distance_scale(kernel_fn, x, 2)
  for num_classes in (2, 10):
    found = draws(x[None], num_classes)
    for probability in (0.25, 0.5, 0.9):
      wanted = nngp.distance_quantile(scale, probability, num_classes)
      got = np.quantile(found, probability)
      np.testing.assert_allclose(got, wanted, rtol=0.04)


def test_equal_inputs_are_as_one_and_independent_ones_scatter_less():
  x = np.random.default_rng(1).uniform(size=(1, 9)).astype(np.float32)
  alone, same = draws(x, 3), draws(np.repeat(x, 5, axis=0), 3)
  spread = lambda v: np.std(np.log(v))
  np.testing.assert_allclose(spread(same), spread(alone), rtol=0.05)
  apart = np.concatenate([np.eye(5, 9), -np.eye(5, 9)]).astype(np.float32)
  assert spread(draws(apart, 3)) < 0.8 * spread(alone)
