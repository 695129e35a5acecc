"""Smooth activations: bounds on intervals, and certificates of networks."""

import itertools

from flax import linen
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dmm_jax import certify
from dmm_jax.certify import activations
from dmm_jax.certify import functions

SIZE = 12
SMOOTH = sorted(activations.SMOOTH)


@pytest.mark.parametrize('name', SMOOTH)
def test_second_derivatives_are_bounded(name):
  smooth = activations.SMOOTH[name]
  with jax.enable_x64(True):
    grid = jnp.linspace(-12, 12, 200001)
    bend = np.asarray(jax.vmap(jax.grad(jax.grad(smooth.fn)))(grid))
  assert 0.995 * smooth.bend < np.abs(bend).max() <= smooth.bend


@pytest.mark.parametrize('name', SMOOTH)
def test_lines_enclose_the_activation(name):
  rng = np.random.default_rng(0)
  middle, width = rng.normal(size=400) * 3, np.exp(rng.normal(size=400) * 2 - 1)
  width[:5] = 0.0, 1e-12, 1e-6, 100.0, 30.0
  low, high = middle - width, middle + width
  kinds = np.full(400, activations.KINDS.index(name))
  with jax.enable_x64(True):
    lines = activations.bounds(kinds, jnp.asarray(low), jnp.asarray(high))
    lower, offset, upper, intercept = map(np.asarray, lines)
    grid = low + (high - low) * np.linspace(0, 1, 3001)[:, None]
    values = np.asarray(activations.SMOOTH[name].fn(grid))
  assert np.all(lower * grid + offset <= values)
  assert np.all(upper * grid + intercept >= values)
  # On a short interval they are close to it, beside its size.
  short = (width > 1e-3) & (width < 0.1)
  gap = np.max(upper * grid + intercept - lower * grid - offset, 0)
  assert short.sum() > 20 and np.all(gap[short] < width[short] ** 2)


NETWORKS = {
  'sigmoid': jax.nn.sigmoid,
  'logistic': linen.sigmoid,
  'tanh': jnp.tanh,
  'gelu': jax.nn.gelu,
  'exact gelu': lambda z: jax.nn.gelu(z, approximate=False),
  'softplus': jax.nn.softplus,
  'silu': jax.nn.silu,
  'own': jax.jit(lambda z: z / (1 + jnp.exp(-z))),
  'both': lambda z: jnp.maximum(jnp.tanh(z), z - 1.0),
}


def network(name, seed=0, widths=(SIZE, 8, 8, 3)):
  rng = np.random.default_rng(seed)
  shapes = itertools.pairwise(widths)
  layers = [
    (np.float32(rng.normal(size=s) * 1.5 / s[0] ** 0.5), rng.normal(size=s[1]))
    for s in shapes
  ]

  def logits_fn(x):
    first = x = x.reshape(-1)
    for w, b in layers[:-1]:
      x = NETWORKS[name](x @ w + np.float32(0.3 * b))
    # A sum of different depths, without a box.
    return 3 * x @ layers[-1][0] + 0.1 * first[:3]

  return logits_fn


@pytest.mark.parametrize('name', NETWORKS)
def test_layers_are_the_function(name):
  fn = network(name)
  box = np.full(SIZE, -np.inf), np.full(SIZE, np.inf)
  layers = functions.as_layers(fn, jnp.zeros(SIZE), *box)
  assert all(len(layer) == 3 for layer in layers[:-1])
  xs = np.random.default_rng(1).normal(size=(20, SIZE))
  with jax.enable_x64(True):
    want = np.asarray(jax.jit(jax.vmap(fn))(jnp.asarray(xs)))
  for x, one in zip(xs, want, strict=True):
    logits = functions.layers_lib.preactivations(layers, x)[-1]
    np.testing.assert_allclose(logits, one, rtol=1e-5)


@pytest.mark.parametrize(
  'name', ['tanh', 'softplus', pytest.param('both', marks=pytest.mark.slow)]
)
def test_no_bound_is_above_a_crossing(name):
  """On the lines from each example to those of other classes."""
  fn = jax.jit(jax.vmap(network(name)))
  xs = 2 * np.random.default_rng(2).normal(size=(18, SIZE)).astype(np.float32)
  labels = np.asarray(jnp.argmax(fn(xs), 1))
  share = np.linspace(0, 1, 501)[:, None]
  ratios = []
  lower = certify.lower_bounds(
    network(name), xs, labels, bounds=(-9.0, 9.0), num_steps=0, batch_size=18
  )
  for x, label, bound in zip(xs, labels, lower, strict=True):
    for end in xs[labels != label]:
      line = x + share * (end - x)
      other = np.asarray(jnp.argmax(fn(line), 1)) != label
      crossing = np.linalg.norm(line[other.argmax()] - x)
      assert 0 < bound <= crossing
      ratios.append(bound / crossing)
  assert len(ratios) > 50 and np.max(ratios) > 0.1


@pytest.mark.slow
def test_both_ends_of_a_smooth_network():
  fn = network('tanh')
  x = np.random.default_rng(3).uniform(size=SIZE)
  label = int(jnp.argmax(fn(x)))
  lower, upper, point = certify.interval(fn, x, label, bounds=(-3.0, 3.0))
  assert 0 < lower <= upper < np.inf
  np.testing.assert_allclose(np.linalg.norm(point - x), upper, rtol=1e-9)
  with jax.enable_x64(True):
    logits = np.asarray(fn(jnp.asarray(point)))
  assert logits[label] - np.delete(logits, label).max() < 1e-5


def test_what_is_no_activation_is_not_taken_for_one():
  almost = jax.jit(lambda z: jnp.tanh(1.001 * z) * (1 + 1e-4))
  fn = lambda x: almost(x)[:3]
  layers = functions.as_layers(
    fn, jnp.zeros(SIZE), np.zeros(SIZE), np.ones(SIZE)
  )
  with jax.enable_x64(True):
    x = np.linspace(-2, 2, SIZE)
    logits = functions.layers_lib.preactivations(layers, x)[-1]
    np.testing.assert_allclose(logits, fn(jnp.asarray(x)), rtol=1e-6)
  with pytest.raises(ValueError, match=r"'exp' \(.*activations.py:\d+\)"):
    certify.lower_bound(lambda x: jnp.exp(x)[:3], np.zeros(SIZE), 0)


def test_chords_are_lines_where_an_activation_bends_one_way():
  """They meet its ends, and the other line is a tangent."""
  low, high = jnp.asarray([0.5, -2.0]), jnp.asarray([2.0, -0.5])
  with jax.enable_x64(True):
    lines = activations.lines_of(activations.SMOOTH['tanh'], low, high)
    lines = [np.asarray(v) for v in lines]
  ends = np.array([[0.5, 2.0], [-2.0, -0.5]])
  chord = np.diff(np.tanh(ends))[:, 0] / 1.5
  below, above = lines[:2], lines[2:]
  for slopes, rest, side in ((*below, 0), (*above, 1)):
    at_ends = slopes[side] * ends[side] + rest[side]
    np.testing.assert_allclose(at_ends, np.tanh(ends[side]), atol=1e-4)
    np.testing.assert_allclose(slopes[side], chord[side])
    other = 1 - side
    tangent = np.min(np.abs(slopes[other] * ends[other] + rest[other]))
    assert np.isfinite(tangent) and slopes[other] != slopes[side]
