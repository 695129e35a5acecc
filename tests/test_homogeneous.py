"""Networks without biases, against numpy."""

import jax
import numpy as np

from dmm_jax.models import homogeneous


def test_weights_are_uniform_of_their_deviation():
  first, last = homogeneous.draw(jax.random.key(0), [200, 300, 7])
  assert (first.shape, last.shape) == ((300, 200), (7, 300))
  np.testing.assert_allclose(np.std(first), (3 * 200) ** -0.5, rtol=0.01)
  assert np.abs(first).max() <= 200**-0.5 and np.abs(last).max() <= 300**-0.5


def test_logits_are_those_of_relus_and_go_with_every_factor():
  x = np.random.default_rng(0).normal(size=5).astype(np.float32)
  for outputs in (1, 3):
    weights = homogeneous.draw(jax.random.key(1), [5, 8, 6, outputs])
    h = x
    for layer in weights[:-1]:
      h = np.maximum(np.asarray(layer) @ h, 0)
    wanted = np.asarray(weights[-1]) @ h
    wanted = np.append(wanted, 0.0) if outputs == 1 else wanted
    found = homogeneous.logits(weights, x)
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)
    (same, codes), stats = homogeneous.forward(weights, {}, x, None, True)
    np.testing.assert_array_equal(same, found)
    assert codes == {} == stats
    scaled = homogeneous.logits([weights[0] / 4, *weights[1:]], x)
    np.testing.assert_allclose(scaled, found / 4, rtol=1e-5, atol=1e-6)
