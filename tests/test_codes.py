"""Measures of codes, by definition, by scikit-learn, by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import spatial
from sklearn import decomposition

from dmm_jax import codes
from dmm_jax import models
from dmm_jax import som

KEY = jax.random.key(0)


def draw(n=40, d=6, seed=0):
  return np.random.default_rng(seed).normal(size=(n, d)).astype(np.float32)


def row_map(values, **names):
  return som.Map(jnp.asarray(values, jnp.float32)[None, :, None], **names)


def test_layers_of_a_network():
  module = models.CNN((3, 4), (5,))
  xs = draw(7, 64).reshape(7, 8, 8, 1)
  variables = module.init(KEY, xs[0])
  forward = lambda x: module.apply(variables, x)
  logits, hidden = jax.vmap(forward)(xs)
  found = codes.of_network(forward, xs, batch_size=3)
  assert list(found) == ['input', 'conv0', 'conv1', 'dense0', 'logits']
  np.testing.assert_allclose(found['input'], xs.reshape(7, -1))
  np.testing.assert_allclose(found['logits'], logits, atol=1e-5)
  conv = np.asarray(hidden['conv0'])
  np.testing.assert_allclose(found['conv0'], conv.mean((1, 2)), atol=1e-5)
  np.testing.assert_allclose(found['dense0'], hidden['dense0'], atol=1e-5)
  # Other poolings of one layer.
  want = {
    'max': conv.max((1, 2)),
    'flat': conv.reshape(7, -1),
    'raw': conv,
  }
  for pooling, value in want.items():
    one = jax.vmap(lambda c, p=pooling: codes.pool(c, p))(conv)
    np.testing.assert_allclose(one, value, atol=1e-6)
  with pytest.raises(ValueError, match='pooling'):
    codes.pool(conv, 'sum')


def test_standardize():
  raw = draw() * 3 + 2
  raw[:, 2] = 0.1
  out = codes.standardize(raw)
  np.testing.assert_allclose(out.mean(0), 0, atol=1e-5)
  np.testing.assert_allclose(out.std(0), [1, 1, 0, 1, 1, 1], atol=1e-5)
  np.testing.assert_allclose(codes.standardize(raw[:3], raw), out[:3])


def test_spectrum():
  raw = draw() * [5, 3, 1, 1, 0.1, 0]
  want = decomposition.PCA().fit(raw)
  spectrum = codes.spectrum(raw)
  np.testing.assert_allclose(
    spectrum * 40 / 39, want.explained_variance_, rtol=1e-4, atol=1e-8
  )
  cut = np.cumsum(want.explained_variance_ratio_)
  assert codes.num_components(spectrum) == 1 + np.sum(cut < 0.9)
  assert codes.num_components(np.ones(10)) == 9
  assert codes.participation_ratio(np.ones(7)) == pytest.approx(7)
  assert codes.participation_ratio(np.eye(1, 7)[0]) == pytest.approx(1)
  nothing = codes.spectrum(np.ones((5, 3)))
  assert codes.num_components(nothing) == 0
  assert np.isnan(codes.participation_ratio(nothing))


def test_diversity():
  raw = draw() + 1
  pairs = spatial.distance.pdist(raw, 'cosine')
  assert codes.diversity(raw) == pytest.approx(pairs.mean(), abs=1e-6)
  pairs = spatial.distance.pdist(raw, 'correlation')
  value = codes.diversity(raw, centred=True)
  assert value == pytest.approx(pairs.mean(), abs=1e-6)
  same = np.outer(np.arange(1, 5), [1.0, 2, 3])
  assert codes.diversity(same) == pytest.approx(0, abs=1e-9)
  # Codes of zeros, or with NaN, are left out.
  holed = np.concatenate([raw, 0 * raw[:2], np.nan * raw[:2]])
  assert codes.diversity(holed) == pytest.approx(codes.diversity(raw))
  assert np.isnan(codes.diversity(raw[:1]))
  # The trap: standardized codes are diverse in every layer.
  assert codes.diversity(codes.standardize(draw(400))) > 0.99


def test_units_and_classes_by_hand():
  units = np.array([0, 0, 0, 1, 1, 3, -1])
  labels = np.array([0, 0, 1, 1, 1, 2, 0])
  assert codes.purity(units, labels) == pytest.approx(5 / 6)
  found = codes.majorities(units, labels, 4)
  np.testing.assert_array_equal(found, [0, 1, -1, 2])
  new_units, new_labels = np.array([0, 1, 2, -1]), np.array([0, 2, 0, 0])
  assert codes.accuracy(new_units, new_labels, found) == 1 / 4
  assert codes.occupancy(units, 4) == 3 / 4
  share = np.array([3, 2, 1]) / 6
  entropy = -np.sum(share * np.log(share)) / np.log(4)
  assert codes.entropy(units, 4) == pytest.approx(entropy)
  assert codes.entropy(np.arange(4), 4) == pytest.approx(1)
  assert np.isnan(codes.entropy(units, 1))
  # 2 I / (H + H), from the table of both.
  table = np.array([[2, 0, 0], [1, 2, 0], [0, 0, 1]]) / 6
  plain = lambda p: -np.sum(p[p > 0] * np.log(p[p > 0]))
  sides = plain(table.sum(0)) + plain(table.sum(1))
  want = 2 * (sides - plain(table.ravel())) / sides
  assert codes.nmi(units, labels) == pytest.approx(want)
  none = np.full(7, -1)
  assert np.isnan(codes.nmi(none, labels))
  assert np.isnan(codes.purity(none, labels))


def test_dispersion():
  rng = np.random.default_rng(0)
  labels = rng.integers(0, 4, 4000)
  corners = np.array([[1, 1], [1, 8], [8, 1], [8, 8]])
  flat = som.Map(jnp.zeros((10, 10, 1)))
  spread = corners[labels] + rng.integers(-1, 2, (4000, 2))
  middle = spread.mean(0)
  want = np.mean(
    [
      np.linalg.norm(
        spread[labels == c] - spread[labels == c].mean(0), axis=1
      ).mean()
      for c in range(4)
    ]
  )
  want /= np.linalg.norm(spread - middle, axis=1).mean()
  assert codes.dispersion(flat, spread, labels) == pytest.approx(want)
  # The null: classes that know nothing of units.
  value = codes.dispersion(flat, spread, rng.permutation(labels))
  assert value == pytest.approx(1, abs=0.02)
  assert codes.dispersion(flat, corners[labels], labels) == 0
  assert np.isnan(codes.dispersion(flat, 0 * spread, labels))
  # Across the seam of a torus nothing changes.
  torus = som.Map(jnp.zeros((10, 10, 1)), periodic=True)
  within = (corners * [1, 0])[labels] + rng.integers(-1, 2, (4000, 2))
  shifted = [
    codes.dispersion(torus, (within + s) % 10, labels) for s in (0, 3, 5)
  ]
  np.testing.assert_allclose(shifted, shifted[0], rtol=1e-6)


def test_unit_shift():
  ours = row_map([0.0, 1.0, 3.0, 7.0])
  before = np.array([[0.1], [0.1], [3.2], [np.nan]])
  after = np.array([[0.2], [6.0], [1.4], [1.0]])
  shift = codes.unit_shift(ours, before, after)
  np.testing.assert_allclose(shift.grid, [0, 3, 1, np.nan], rtol=1e-6)
  np.testing.assert_array_equal(shift.changed, [False, True, True, False])
  mean = np.mean([1, 3, 7, 2, 6, 4])
  want = [0, 7 / mean, 2 / mean, np.nan]
  np.testing.assert_allclose(shift.code, want, rtol=1e-6)
  # Round the torus it is one step.
  torus = row_map([0.0, 1.0, 3.0, 7.0], periodic=True)
  assert codes.unit_shift(torus, before, after).grid[1] == 1


def test_matched_noise():
  x, perturbed = draw(2, 50)
  noise = codes.matched_noise(KEY, x, perturbed)
  size = np.abs(perturbed - x).max()
  np.testing.assert_allclose(np.abs(noise - x), size, rtol=1e-4)
  noise = codes.matched_noise(KEY, x, perturbed, norm=2)
  lengths = [np.linalg.norm(v - x) for v in (noise, perturbed)]
  np.testing.assert_allclose(*lengths, rtol=1e-5)
  noise = codes.matched_noise(KEY, x, perturbed, bounds=(-1.0, 1.0))
  assert np.abs(noise).max() <= 1
  with pytest.raises(ValueError, match='norm'):
    codes.matched_noise(KEY, x, perturbed, norm=1)


def test_nearest_other_class():
  raw, labels = draw(), np.arange(40) % 3
  away, which = codes.nearest_other_class(raw, labels, raw, labels)
  table = spatial.distance.cdist(raw, raw)
  table[labels[:, None] == labels] = np.inf
  np.testing.assert_array_equal(which, table.argmin(1))
  np.testing.assert_allclose(away, table.min(1), rtol=1e-4)
  # Units without a class count for nothing; with none left, infinitely far.
  alone = np.where(labels == 0, 0, -1)
  away, which = codes.nearest_other_class(raw, 0 * labels, raw, alone)
  assert np.all(np.isinf(away)) and np.all(which == -1)


def test_top_inputs():
  ours = row_map([0.0, 5.0, 50.0])
  raw = np.array([[1.0], [0.1], [4.0], [0.5], [0.2]])
  top = codes.top_inputs(ours, raw, 3)
  np.testing.assert_array_equal(top, [[[1, 4, 3], [2, -1, -1], [-1, -1, -1]]])


def test_synthesis_meets_a_code_that_can_be_met():
  weights = jnp.asarray(draw(16, 4, seed=1))
  encode = lambda x: x.ravel() @ weights
  inside = jax.random.uniform(KEY, (3, 4, 4))
  targets = jax.vmap(encode)(inside)
  ours = som.Map(targets[None])
  make = jax.vmap(
    lambda t: codes.synthesize(
      KEY, encode, t, jnp.full((4, 4), 0.5), num_steps=300, rate=0.02
    )
  )
  made = make(targets)
  assert made.min() >= 0 and made.max() <= 1
  np.testing.assert_allclose(jax.vmap(encode)(made), targets, atol=0.05)
  units = np.array([[0, 0], [0, 1], [0, 2]])
  found = jax.vmap(encode)(made)
  np.testing.assert_array_equal(codes.reencoded(ours, found, units), True)
  wrong = codes.reencoded(ours, found, units[::-1])
  np.testing.assert_array_equal(wrong, [False, True, False])


def test_the_best_input_that_was_met_is_returned():
  start = jnp.full(2, 0.9)
  found = codes.synthesize(
    KEY, lambda x: x, jnp.ones(2), start, bounds=None, num_steps=1, rate=1.0
  )
  np.testing.assert_array_equal(found, start)


def test_roughness_smooths_what_is_synthesized():
  weights = jnp.asarray(draw(16, 1, seed=2))
  encode = lambda x: x.ravel() @ weights
  make = lambda roughness: codes.synthesize(
    KEY,
    encode,
    jnp.ones(1),
    jax.random.uniform(KEY, (4, 4)),
    roughness=roughness,
    num_steps=100,
    jitter=1,
  )
  rough = [np.mean(np.diff(make(r), axis=0) ** 2) for r in (0.0, 10.0)]
  assert rough[1] < 0.2 * rough[0]


def test_controls():
  centres = np.array([[0, 0], [10, 0], [0, 10]], np.float32)
  labels = np.arange(60) % 3
  raw = centres[labels] + draw(60, 2)
  ours = codes.kmeans(0, np.concatenate([raw, [[np.nan, 0]]]), 3)
  unit = np.asarray(som.flat(ours, som.best_matching_units(ours, raw)))
  assert codes.nmi(unit, labels) == pytest.approx(1)
  assert codes.kmeans(0, raw[:2], 3).grid == (1, 2)
  # Hashing: opposite codes differ in every bit, equal directions in none.
  raw = np.concatenate([raw - raw.mean(0), raw.mean(0) - raw])
  bits = codes.random_bits(KEY, raw, 8)
  np.testing.assert_array_equal(bits[:60] ^ bits[60:], 2**8 - 1)
  assert codes.nmi(bits[:60], labels) > 0.3
  # The share of equal bits falls with the angle, as 1 - angle / pi.
  pair = np.array([[1.0, 0], [0, 1], [-1, 0], [0, -1]], np.float32)
  bits = codes.random_bits(KEY, pair, 30)
  differ = np.mean([bin(b).count('1') / 30 for b in bits[:3] ^ bits[1:]])
  assert abs(differ - 0.5) < 0.25
  # Hyperplanes go through the mean, wherever that is.
  np.testing.assert_array_equal(codes.random_bits(KEY, pair + 4, 30), bits)
  with pytest.raises(ValueError, match='num_bits'):
    codes.random_bits(KEY, pair, 31)
  holed = np.concatenate([pair, [[np.nan, 0]]])
  assert codes.random_bits(KEY, holed, 4)[-1] == -1
