"""Measures of codes, by definition, by scikit-learn and scipy, by hand."""

import collections

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import spatial
from scipy import stats
from sklearn import cluster
from sklearn import decomposition

from dmm_jax import codes
from dmm_jax import programs
from dmm_jax import som

KEY = jax.random.key(0)


def draw(n=40, d=6, seed=0):
  return np.random.default_rng(seed).normal(size=(n, d)).astype(np.float32)


# --- Layers ----------------------------------------------------------------

WEIGHTS = draw(2, 3, seed=1)


def network(x, weights, offset):
  """Two layers, in no order of the alphabet, for an image `[2, 3, 2]`."""
  wide = x @ weights
  tokens = (jnp.sum(wide, axis=0) + offset).astype(jnp.float16)
  return jnp.sum(wide, axis=(0, 1))[:2], {'wide': wide, 'tokens': tokens}


def test_layers_of_a_network_are_pooled_vectors_in_its_order(capfd):
  xs = draw(5, 12).reshape(5, 2, 3, 2)
  shared = jnp.asarray(WEIGHTS), jnp.asarray(0.5)
  wide = xs @ WEIGHTS
  tokens = (wide.sum(1) + 0.5).astype(np.float16).astype(np.float32)
  found = codes.of_network(network, xs, shared=shared)
  want = {
    'input': xs.reshape(5, -1),
    'wide': wide.mean((1, 2)),
    'tokens': tokens.mean(1),
    'logits': wide.sum((1, 2))[:, :2],
  }
  assert list(found) == list(want)
  for name, value in want.items():
    assert found[name].dtype == np.float32, name
    tolerance = 2e-3 if name == 'tokens' else 1e-5
    np.testing.assert_allclose(found[name], value, atol=tolerance)
  assert not capfd.readouterr().err
  # Some layers, in the order asked for, otherwise pooled, a few at once.
  some = codes.of_network(
    network,
    xs,
    shared=shared,
    pooling='raw',
    layers=['logits', 'wide'],
    batch_size=2,
    progress='a label',
  )
  assert list(some) == ['logits', 'wide']
  np.testing.assert_allclose(some['wide'], wide, atol=1e-5)
  assert 'a label' in capfd.readouterr().err


def test_codes_of_a_bound_network_compile_once_a_batch_size():
  xs = draw(5, 12).reshape(5, 2, 3, 2)
  traced = []
  global _watched

  def _watched(x, weights, offset):
    traced.append(x.shape)
    return network(x, weights, offset)

  _watched.__qualname__ = '_watched'
  bound = programs.bind(_watched)
  run = lambda seed, size: codes.of_network(
    bound,
    xs,
    shared=(jnp.asarray(draw(2, 3, seed)), jnp.asarray(1.0)),
    layers=('logits',),
    batch_size=size,
  )['logits']
  counts = []
  for seed, size in ((2, 4), (3, 4), (3, 2)):
    want = (xs @ draw(2, 3, seed)).sum((1, 2))[:, :2]
    np.testing.assert_allclose(run(seed, size), want, atol=1e-5)
    counts.append(len(traced))
  assert 0 < counts[0] == counts[1] < counts[2]


def test_pooling_is_over_all_but_the_channels():
  code = draw(6, 4).reshape(2, 3, 4)
  pool = lambda name: codes.pool(jnp.asarray(code), name)
  np.testing.assert_allclose(pool('mean'), code.mean((0, 1)), atol=1e-6)
  np.testing.assert_array_equal(pool('max'), code.max((0, 1)))
  np.testing.assert_array_equal(pool('flat'), code.ravel())
  np.testing.assert_array_equal(pool('raw'), code)
  assert codes.POOLINGS == ('mean', 'max', 'flat', 'raw')
  with pytest.raises(ValueError, match=r"pooling: one of .* not 'sum'"):
    codes.pool(code, 'sum')


def test_standardize_by_these_or_by_other_codes():
  raw, of = draw() * 3 + 2, draw(30, 6, seed=1) * [1, 2, 3, 4, 5, 6] - 1
  np.testing.assert_allclose(
    codes.standardize(raw), (raw - raw.mean(0)) / raw.std(0), rtol=1e-4
  )
  # Constant but for rounding; and small, but varying.
  of[:, 2], of[:, 3] = 7.0 + 1e-7 * of[:, 2], 7.0 + 1e-4 * of[:, 3]
  want = (raw - of.mean(0)) / of.std(0)
  want[:, 2] = 0
  np.testing.assert_allclose(codes.standardize(raw, of), want, rtol=1e-4)
  assert not np.any(codes.standardize(np.zeros((3, 2))))
  assert codes.standardize(raw[:0], of).shape == (0, 6)


# --- Measures --------------------------------------------------------------


@pytest.mark.parametrize('n, d', [(40, 6), (5, 7)])
def test_the_spectrum_is_that_of_principal_components(n, d):
  raw = (draw(n, d) * (np.arange(d) + 0.5) + 3).astype(np.float32)
  want = decomposition.PCA().fit(raw.astype(float)).explained_variance_
  found = codes.spectrum(raw)
  assert found.shape == (min(n, d),) and found.dtype == np.float64
  np.testing.assert_allclose(
    found, want * (n - 1) / n, rtol=1e-6, atol=1e-9 * want[0]
  )
  assert found.min() >= 0


def test_components_and_participation_of_a_spectrum_by_hand():
  spectrum = np.array([5.0, 3, 1.5, 0.5])
  for share, num in ((0.4, 1), (0.5, 1), (0.51, 2), (0.9, 3), (1.0, 4)):
    assert codes.num_components(spectrum, share) == num
  # A share that is met up to rounding; 90 % if nothing is said.
  assert codes.num_components(np.ones(10)) == 9
  assert codes.num_components(np.ones(40)) == 36
  assert codes.num_components(np.full(10, 1e-3), 0.7) == 7
  assert codes.participation_ratio(spectrum) == pytest.approx(100 / 36.5)
  assert codes.participation_ratio(np.full(7, 0.1)) == pytest.approx(7)
  nothing = codes.spectrum(np.ones((5, 3)))
  assert codes.num_components(nothing) == 0
  assert np.isnan(codes.participation_ratio(nothing))


def test_diversity_is_the_mean_distance_of_pairs():
  raw = draw() + 1
  pairs = spatial.distance.pdist(raw.astype(float), 'cosine')
  plain = pytest.approx(pairs.mean(), abs=1e-9)
  assert codes.diversity(raw) == plain
  pairs = spatial.distance.pdist(raw.astype(float), 'correlation')
  centred = pytest.approx(pairs.mean(), abs=1e-9)
  assert codes.diversity(raw, centred=True) == centred
  # Codes without a length, or not finite in one entry, are left out; and those
  # that are constant where each is centred.
  holed = np.concatenate([raw, 0 * raw[:2], raw[:2]])
  holed[-1, 2], holed[-2, 1] = np.nan, np.inf
  assert codes.diversity(holed) == plain
  same = np.full((1, 6), 0.1, np.float32)
  flat = np.concatenate([raw, same])
  assert codes.diversity(flat, centred=True) == centred
  assert abs(codes.diversity(flat) - codes.diversity(raw)) > 1e-3
  assert np.isnan(codes.diversity(raw[:1]))
  two = codes.diversity(np.array([[3.0, 0], [0, -0.1]]))
  assert two == pytest.approx(1)
  # The trap: standardized codes are diverse in every layer.
  assert codes.diversity(codes.standardize(draw(400))) > 0.99


def test_occupancy_and_entropy_of_units():
  units = np.array([0, 0, 0, 1, 1, 3, -1])
  assert codes.occupancy(units, 5) == 3 / 5
  share = np.array([3, 2, 1]) / 6
  want = -np.sum(share * np.log(share)) / np.log(5)
  assert codes.entropy(units, 5) == pytest.approx(want)
  assert codes.entropy(np.arange(2), 2) == pytest.approx(1)
  single = codes.entropy(np.array([3, 3, -1]), 4)
  assert single == 0 and not np.signbit(single)
  assert np.isnan(codes.entropy(0 * units, 1))
  assert np.isnan(codes.entropy(np.array([-1]), 4))


# --- Units and classes -----------------------------------------------------


def test_units_and_classes_by_hand():
  units = np.array([0, 0, 0, 1, 1, 3, -1, -1])
  labels = np.array([1, 1, 3, 3, 3, 4, 1, 4])
  assert codes.purity(units, labels) == pytest.approx(5 / 6)
  # 2 I / (H + H), from the table of both.
  table = np.array([[2, 0, 0], [1, 2, 0], [0, 0, 1]]) / 6
  plain = lambda p: -np.sum(p[p > 0] * np.log(p[p > 0]))
  sides = plain(table.sum(0)) + plain(table.sum(1))
  want = 2 * (sides - plain(table.ravel())) / sides
  assert codes.nmi(units, labels) == pytest.approx(want)
  none = np.full(8, -1)
  assert np.isnan(codes.nmi(none, labels))
  assert np.isnan(codes.purity(none, labels))


def test_majorities_and_their_accuracy_by_hand():
  units = np.array([0, 0, 0, 1, 1, 1, 3, 3, -1, 4, 4])
  labels = np.array([2, 2, 4, 4, 4, 2, 4, 1, 0, -1, -1])
  found = codes.majorities(units, labels, 6)
  # The lowest of equally common ones; none without a code that has a label.
  np.testing.assert_array_equal(found, [2, 4, -1, 1, -1, -1])
  nobody = codes.majorities(units[:0], labels[:0], 2)
  np.testing.assert_array_equal(nobody, [-1, -1])
  zero = codes.majorities(np.array([1, 1]), np.array([0, 0]), 2)
  np.testing.assert_array_equal(zero, [-1, 0])
  new_units = np.array([0, 1, 3, 2, -1, 0, 2, -1])
  new_labels = np.array([2, 4, 2, 2, -1, 2, -1, 1])
  assert codes.accuracy(new_units, new_labels, found) == 3 / 8
  assert codes.accuracy(
    np.array([0, 1]), np.array([0, 3]), np.array([0, 1])
  ) == (1 / 2)


def spread(where, spans):
  """The mean distance from the middle, on a torus from its nearest copy."""
  middle = where.mean(axis=0)
  if spans is not None:
    angle = where * 2 * np.pi / spans
    middle = np.arctan2(np.sin(angle).sum(0), np.cos(angle).sum(0))
    middle = middle * spans / (2 * np.pi)
  copies = [np.zeros(2)]
  if spans is not None:
    steps = np.stack(np.meshgrid(*2 * [np.arange(-2, 3)]), -1).reshape(-1, 2)
    copies = list(steps * spans)
  away = [np.linalg.norm(where - middle + c, axis=1) for c in copies]
  return np.min(away, axis=0).mean()


@pytest.mark.parametrize('topology', som.TOPOLOGIES)
@pytest.mark.parametrize('periodic', [False, True])
def test_dispersion_of_classes_on_a_grid(topology, periodic):
  rng = np.random.default_rng(0)
  grid = 6, 11
  trained = som.Map(jnp.zeros((*grid, 1)), topology=topology, periodic=periodic)
  labels = rng.choice([2, 3, 7], 300, p=[0.6, 0.3, 0.1])
  units = np.array([[0, 1], [5, 4], [3, 9]])[np.searchsorted([2, 3, 7], labels)]
  units = (units + rng.integers(-2, 2, (300, 2))) % grid
  height = np.sqrt(0.75) if topology == 'hexagonal' else 1
  where = units * [height, 1.0]
  if topology == 'hexagonal':
    where[:, 1] -= 0.5 * (units[:, 0] % 2 == 1)
  spans = np.array([6 * height, 11]) if periodic else None
  own = [spread(where[labels == c], spans) for c in (2, 3, 7)]
  want = np.mean(own) / spread(where, spans)
  # Codes without a unit do not count.
  units = np.concatenate([units, [[-1, -1], [-1, -1]]])
  found = codes.dispersion(trained, units, np.r_[labels, 2, 9])
  assert found == pytest.approx(want, rel=1e-9)


def test_dispersion_where_nothing_is_spread():
  labels = np.arange(8) % 2
  trained = som.Map(jnp.zeros((3, 4, 1)))
  apart = np.array([[0, 1], [2, 3]])[labels]
  assert codes.dispersion(trained, apart, labels) == 0
  near = np.array([[0, 1], [0, 2]])[labels]
  assert codes.dispersion(trained, near, 0 * labels) == pytest.approx(1)
  assert np.isnan(codes.dispersion(trained, 0 * apart, labels))
  assert np.isnan(codes.dispersion(trained, -1 + 0 * apart, labels))
  # Across the seam of a torus nothing changes.
  torus = som.Map(jnp.zeros((3, 4, 1)), periodic=True)
  shifted = [
    codes.dispersion(torus, (apart // [1, 2] + s) % [3, 4], labels // 2 % 2)
    for s in ([0, 0], [1, 3], [2, 1])
  ]
  np.testing.assert_allclose(shifted, shifted[0], rtol=1e-9)


# --- Shifts ----------------------------------------------------------------


def test_unit_shift_by_hand():
  units = np.array([[0.0, 1, 3, 7], [20, 30, 50, 60], [80, 95, 99, 300]])
  before = np.array([[0.1], [0.1], [52], [np.nan], [78], [1]])
  after = np.array([[0.2], [310], [33], [1], [np.inf], [83]])
  starts = np.array([[0, 0], [0, 0], [1, 2], [0, 0], [2, 0], [0, 1]])
  ends = np.array([[0, 0], [2, 3], [1, 1], [0, 1], [0, 0], [2, 0]])
  known = np.array([1, 1, 1, 0, 0, 1], bool)
  mean = spatial.distance.pdist(units.reshape(-1, 1)).mean()
  gone = [0, 300, 20, np.nan, np.nan, 79]
  for periodic in (False, True):
    trained = som.Map(jnp.asarray(units)[..., None] / 1e3, periodic=periodic)
    shift = codes.unit_shift(trained, before / 1e3, after / 1e3)
    away = np.abs(starts - ends)
    away = np.minimum(away, [3, 4] - away) if periodic else away
    want = np.where(known, np.hypot(*away.T), np.nan)
    np.testing.assert_allclose(shift.grid, want, rtol=1e-6)
    np.testing.assert_array_equal(shift.changed, [0, 1, 1, 0, 0, 1])
    np.testing.assert_allclose(shift.code, np.array(gone) / mean, rtol=1e-5)
  same = codes.unit_shift(
    som.Map(jnp.ones((3, 4, 1)), periodic=True), before, after
  )
  assert np.all(np.isnan(same.code)) and same.grid[0] == 0


def test_matched_noise_is_as_large_as_the_perturbation():
  x = draw(20, 15)
  perturbed = x + 0.3 * draw(20, 15, 1)
  delta = perturbed - x
  noise = lambda key, **more: codes.matched_noise(key, x, perturbed, **more) - x
  signs = noise(KEY)
  size = np.abs(delta).max()
  np.testing.assert_allclose(np.abs(signs), size, rtol=1e-5)
  ball = noise(KEY, norm=2)
  length = np.linalg.norm(delta)
  assert np.linalg.norm(ball) == pytest.approx(length, rel=1e-5)
  # Of no direction, each entry by itself, and another for another key.
  other = jax.random.key(1)
  for norm in (np.inf, 2):
    one, two = noise(KEY, norm=norm), noise(other, norm=norm)
    for a, b in ((one, two), (one, np.ones_like(one)), (one[1:], one[:-1])):
      cosine = np.sum(a * b) / np.linalg.norm(a) / np.linalg.norm(b)
      assert abs(cosine) < 0.25
    np.testing.assert_array_equal(one, noise(KEY, norm=norm))
  assert np.unique(np.abs(ball)).size > 200
  low, high = np.float32(x - 0.1), np.float32(0.5)
  boxed = codes.matched_noise(KEY, x, perturbed, bounds=(low, high))
  np.testing.assert_allclose(boxed, np.clip(signs + x, low, high), rtol=1e-5)
  with pytest.raises(ValueError, match='norm: 2 or inf, not 1'):
    codes.matched_noise(KEY, x, perturbed, norm=1)


def test_nearest_other_class():
  raw, labels = draw(), np.arange(40) % 3
  others, theirs = draw(25, 6, seed=1) + 1, np.arange(25) % 4 - 1
  away, which = codes.nearest_other_class(raw, labels, others, theirs)
  table = spatial.distance.cdist(raw, others)
  table[(labels[:, None] == theirs) | (theirs < 0)] = np.inf
  np.testing.assert_array_equal(which, table.argmin(1))
  np.testing.assert_allclose(away, table.min(1), rtol=1e-5)
  # Units without a class count for nothing; with none left, infinitely far.
  alone = np.where(theirs == 0, 0, -1)
  away, which = codes.nearest_other_class(raw, labels, others, alone)
  np.testing.assert_array_equal(np.isinf(away), labels == 0)
  np.testing.assert_array_equal(which < 0, labels == 0)
  assert np.all(which[labels == 0] == -1)
  assert np.all(alone[which[labels > 0]] == 0)


# --- What a unit stands for ------------------------------------------------


def test_top_inputs_of_each_unit():
  ours = som.Map(jnp.array([0.0, 500, 50, 5, 900, 700]).reshape(2, 3, 1))
  raw = np.array([[1.0], [0.1], [4.0], [0.5], [0.5], [0.2], [np.nan], [480]])
  top = codes.top_inputs(ours, raw, 4)
  want = np.full((2, 3, 4), -1)
  # Of equally near ones the first.
  want[0, 0], want[1, 0, 0], want[0, 1, 0] = [1, 5, 3, 4], 2, 7
  np.testing.assert_array_equal(top, want)
  assert codes.top_inputs(ours, raw).shape == (2, 3, 9)


def test_reencoded_is_whether_both_row_and_column_are_met():
  ours = som.Map(jnp.arange(6.0).reshape(2, 3, 1))
  units = np.array([[0, 1], [1, 1], [0, 2], [1, 2], [0, 0]])
  met = codes.reencoded(ours, np.array([[1.0]] * 4 + [[0.1]]), units)
  np.testing.assert_array_equal(met, [True, False, False, False, True])


def adam(x, target, weights, steps, rate, bounds, roughness, shrinkage):
  """The best input of numpy's Adam on the objective, with slopes by hand."""
  scale = np.sum(target**2) or 1.0
  axes = range(min(x.ndim, 2))
  mean = second = np.zeros_like(x)
  best, out = np.inf, x
  for t in range(steps + 1):
    miss = weights @ x.ravel() - target
    value = miss @ miss / scale + shrinkage * np.mean(x**2)
    slope = (2 / scale * weights.T @ miss).reshape(x.shape)
    slope = slope + 2 * shrinkage * x / x.size
    for axis in axes:
      step = np.diff(x, axis=axis)
      value += roughness * np.mean(step**2)
      ends = [(0, 0)] * x.ndim
      ends[axis] = (1, 1)
      slope -= (
        2 * roughness / step.size * np.diff(np.pad(step, ends), axis=axis)
      )
    if value < best:
      best, out = value, x
    mean, second = 0.9 * mean + 0.1 * slope, 0.999 * second + 0.001 * slope**2
    change = mean / (1 - 0.9 ** (t + 1))
    change /= np.sqrt(second / (1 - 0.999 ** (t + 1))) + 1e-8
    x = x - rate * change
    x = x if bounds is None else np.clip(x, *bounds)
  return out


@pytest.mark.parametrize('shape', [(3, 4, 2), (7,)])
def test_synthesis_is_adam_on_the_objective(shape):
  rng = np.random.default_rng(0)
  start = rng.uniform(size=shape)
  weights = rng.normal(size=(5, start.size))
  target = weights @ rng.uniform(size=start.size)
  low = np.float64(0.1) * rng.uniform(size=shape)
  encode = lambda x: jnp.asarray(weights) @ x.ravel()
  with jax.enable_x64(True):
    make = lambda target, **options: codes.synthesize(
      KEY, encode, target, jnp.asarray(start), **options
    )
    by_default = make(target)
    chosen = dict(bounds=None, roughness=0.3, shrinkage=0.7)
    free = make(target / 30, num_steps=9, rate=0.2, **chosen)
    boxed = make(0 * target, num_steps=30, rate=0.03, bounds=(low, 0.8))
  want = adam(start, target, weights, 200, 0.05, (0, 1), 0, 0)
  np.testing.assert_allclose(by_default, want, atol=1e-9)
  assert np.sum((target / 30) ** 2) < 1 < np.sum(target**2)
  want = adam(start, target / 30, weights, 9, 0.2, None, 0.3, 0.7)
  np.testing.assert_allclose(free, want, atol=1e-9)
  want = adam(start, 0 * target, weights, 30, 0.03, (low, 0.8), 0, 0)
  np.testing.assert_allclose(boxed, want, atol=1e-9)


def test_the_best_input_that_was_met_is_returned():
  # One step of 1 goes too far, and the start was better; one of 0.1 is not.
  make = lambda rate: codes.synthesize(
    KEY,
    lambda x: x,
    jnp.ones(2),
    jnp.full(2, 0.9),
    bounds=None,
    num_steps=1,
    rate=rate,
  )
  np.testing.assert_allclose(make(1.0), 0.9, rtol=1e-6)
  np.testing.assert_allclose(make(0.1), 1.0, rtol=1e-6)


def test_jitter_moves_the_image_by_so_many_pixels_at_random():
  # The code is one pixel, which the image is rolled under: what is changed are
  # the pixels that came to lie there.
  encode = lambda x: x[3, 4]
  make = jax.jit(
    lambda key, jitter: codes.synthesize(
      key,
      encode,
      jnp.ones(2),
      jnp.zeros((7, 9, 2)),
      num_steps=60,
      jitter=jitter,
      rate=0.02,
    ),
    static_argnums=1,
  )
  touched = [np.asarray(make(KEY, j)) != 0 for j in (1, 2)]
  for j, found in zip((1, 2), touched, strict=True):
    rows, cols, _ = np.nonzero(found)
    assert rows.min() == 3 - j and rows.max() == 3 + j
    assert cols.min() == 4 - j and cols.max() == 4 + j
  assert np.any(make(jax.random.key(1), 1) != make(KEY, 1))
  # What is returned was met unrolled: its own code is near the target.
  still = make(KEY, 0)
  assert np.count_nonzero(still) == 2
  np.testing.assert_allclose(still[3, 4], 1, atol=0.1)


# --- Controls --------------------------------------------------------------


def test_kmeans_is_scikit_learns():
  raw = draw(50, 3, seed=2)
  holed = np.concatenate([raw, raw[:2]])
  holed[50, 0], holed[51, 2] = np.nan, np.inf
  plain = lambda **more: cluster.KMeans(7, random_state=4, **more).fit(raw)
  ours = codes.kmeans(4, holed, 7)
  assert ours.grid == (1, 7)
  want = plain(n_init=3).cluster_centers_
  np.testing.assert_allclose(ours.codebook[0], want, rtol=1e-5)
  once = codes.kmeans(4, holed, 7, n_init=1, max_iter=2).codebook[0]
  want = plain(n_init=1, max_iter=2).cluster_centers_
  np.testing.assert_allclose(once, want, rtol=1e-5)
  assert np.abs(once - ours.codebook[0]).max() > 1e-3
  assert np.any(codes.kmeans(5, raw, 7).codebook != ours.codebook)
  assert codes.kmeans(0, raw[:2], 3).grid == (1, 2)


def test_random_bits_are_sides_of_hyperplanes_through_the_mean():
  # Whole numbers, so that the mean is exactly 0.
  raw = np.round(4 * draw(60, 3))
  raw = np.concatenate([raw, -raw, np.zeros((1, 3))])
  bits = codes.random_bits(KEY, raw, 8)
  # Opposite codes differ in every bit; the mean is on no positive side.
  np.testing.assert_array_equal(bits[:60] ^ bits[60:-1], 2**8 - 1)
  assert bits[-1] == 0
  table = bits[:-1, None] >> np.arange(8) & 1
  assert np.all(np.ptp(table, axis=0) == 1)
  assert len(np.unique(table.T, axis=0)) == 8
  # What is not finite has none, and moves no mean.
  holed = np.concatenate([raw + 2, raw[:2]])
  holed[-1, 1], holed[-2, 0] = np.nan, np.inf
  found = codes.random_bits(KEY, holed, 8)
  np.testing.assert_array_equal(found[-2:], [-1, -1])
  np.testing.assert_array_equal(found[:-3], bits[:-1])
  np.testing.assert_array_equal(codes.random_bits(KEY, holed[-2:], 8), -1)
  assert codes.random_bits(KEY, holed[-3:], 8)[0] == 0
  # The share of bits that differ is angle / pi.
  turn = np.arange(12) * np.pi / 6
  pair = np.stack([np.cos(turn), np.sin(turn)], axis=1).astype(np.float32)
  differ = collections.defaultdict(list)
  for seed in range(8):
    bits = codes.random_bits(jax.random.key(seed), pair, 30)
    for step in (1, 2, 3):
      for b in bits ^ np.roll(bits, step):
        differ[step].append(bin(b).count('1') / 30)
  for step, shares in differ.items():
    assert np.mean(shares) == pytest.approx(step / 6, abs=0.02)
  assert set(codes.random_bits(KEY, raw, 1)) == {0, 1}
  for num in (0, 31):
    with pytest.raises(ValueError, match=f'num_bits: 1 to 30, not {num}'):
      codes.random_bits(KEY, pair, num)


# --- Telescopes --------------------------------------------------------------


def test_the_narrowest_layer_is_that_of_other_networks():
  k90 = np.array([[3.0, 10, 8], [20, 4, 16], [20, 5, 40]])
  ceiling = np.array([[90.0, 6, 90], [15, 30, 90], [90, 90, 90]])
  found = codes.telescope(k90, ceiling, 60)
  # By products of the others: 400, 20, 640; 60, 50, 320; 60, 40, 128.
  np.testing.assert_allclose(np.exp(found.bare_fall), [6, 15, 12])
  np.testing.assert_allclose(np.exp(found.fall), [6 / 10, 30 / 4, 60 / 5])
  np.testing.assert_allclose(np.exp(found.rise), [0.8, 4, 8])
  over = codes.telescope(k90, ceiling, 60, over_ceiling=True)
  # Over the ceiling the narrowest layers are 1, 0, 2.
  rise = (8 / 90) / (10 / 6), (16 / 90) / (20 / 15), 1
  np.testing.assert_allclose(np.exp(over.rise), rise)
  np.testing.assert_allclose(np.exp(over.fall), [6 / 10, 15 / 20, 60 / 40])


def test_the_least_of_a_networks_own_layers_would_be_too_small():
  """Three layers of one width look like a telescope by their noise alone."""
  rng = np.random.default_rng(0)
  k90 = 20 * np.exp(0.3 * rng.normal(size=(4000, 4)))
  found = codes.telescope(k90, np.full_like(k90, 90), 20)
  assert abs(found.rise.mean()) < 0.02 and abs(found.fall.mean()) < 0.02
  own = np.log(k90[:, -1]) - np.log(k90.min(1))
  assert own.mean() > 0.25


def test_no_spectrum_has_more_components_than_equal_variances():
  for n, d in ((50, 10), (6, 10), (50, 1), (30, 20)):
    raw = draw(n, d)
    raw = np.hstack([raw, np.ones((n, 2), np.float32)])
    most = codes.most_components(raw)
    # Whitened: all variances are equal.
    _, _, v = np.linalg.svd(
      raw[:, :d] - raw[:, :d].mean(0), full_matrices=False
    )
    white = (raw[:, :d] - raw[:, :d].mean(0)) @ v.T
    white /= np.maximum(white.std(0), 1e-4)
    assert codes.num_components(codes.spectrum(raw)) <= most
    assert codes.num_components(codes.spectrum(white)) == most, (n, d)
  assert codes.most_components(np.ones((5, 3))) == 0


# --- Maps of layers ----------------------------------------------------------

# Units at 0, 1, 2, 3 in a row, of classes 0, 0, 1, 1; one of unit 2 is a 0.
ROW = np.array([0, 0.1, 1, 2, 2.1, 2.2, 2.9, 3], np.float32)[:, None]
OF_ROW = np.array([0, 0, 0, 1, 0, 1, 1, 1])
BEFORE = np.array([0.2, 1.1, 2.2, 2.8], np.float32)[:, None]
AFTER = np.array([2.1, 0.9, 2.3, 1.2], np.float32)[:, None]
TRUTH, CALLED = np.array([0, 1, 1, 1]), np.array([0, 0, 1, 1])


def by_hand():
  """A map made by hand, of one layer twice, the second one half as large."""
  trained = som.Map(
    jnp.tile(jnp.arange(4.0)[None, None, :, None], (2, 1, 1, 1)),
    history=jnp.array([[2.0, 1.04, 1], [3, 2, 1]]),
  )
  counts = np.array([[2, 0], [1, 0], [1, 2], [0, 2]])
  units = np.array([0, 0, 1, 2, 2, 2, 3, 3])
  return codes.LayerMaps(
    ('a', 'b'),
    trained,
    np.zeros((2, 1), np.float32),
    np.array([[1.0], [0.5]], np.float32),
    np.stack([units, units]),
    np.stack([counts, counts]),
  )


def both(values):
  return {'a': values, 'b': values / 2}


def test_codes_lie_on_the_units_of_their_layers_map():
  maps = by_hand()
  np.testing.assert_array_equal(codes.place(maps, both(ROW)), maps.units)
  np.testing.assert_array_equal(maps.classes, [[0, 0, 1, 1]] * 2)
  lost = BEFORE.copy()
  lost[1] = np.nan
  assert codes.place(maps, both(lost))[:, 1].tolist() == [-1, -1]
  np.testing.assert_allclose(
    codes.unit_codes(maps, 'b', 1), [[0], [0.5], [1], [1.5]]
  )
  said = codes.map_statistics(maps, both(ROW), OF_ROW)
  assert said['settled'].tolist() == [1, 2]
  np.testing.assert_allclose(said['nmi'], codes.nmi(maps.units[0], OF_ROW))
  # All along one line: no directions to differ but that of the unit at 0.
  np.testing.assert_allclose(said['cosine'], 0, atol=1e-6)
  # Middles 3/4 and 11/4 of four units each, and 13/8 of all.
  away = lambda v: np.mean(np.abs(v - np.mean(v)))
  zeros, ones, of = (
    np.array([0, 0, 1, 2]),
    np.array([2, 2, 3, 3]),
    maps.units[0],
  )
  wanted = (away(zeros) + away(ones)) / 2 / away(of)
  np.testing.assert_allclose(said['dispersion'], wanted)
  # The last codes are nearest to 3, then to 2: none folds.
  np.testing.assert_allclose(said['folds'], 0)


def test_units_doubt_classes_that_their_codes_are_not_of():
  maps, units = by_hand(), np.array([[0, 2, 2, -1], [3, 1, 2, 0]])
  found = codes.class_uncertainty(maps, units, np.array([0, 0, 1, 1]))
  np.testing.assert_allclose(found, [[0, 2 / 3, 1 / 3, 1], [1, 0, 1 / 3, 1]])


def test_distances_on_the_grid_are_between_rows_and_columns():
  trained = som.Map(jnp.zeros((3, 4, 2)))
  before, after = (
    np.array([0, 5, 11, -1]),
    np.array([[6, 5, 0, 2], [1, -1, 3, 0]]),
  )
  found = codes.unit_distance(trained, np.tile(before, (2, 1)), after)
  nan = np.nan
  np.testing.assert_allclose(
    found, [[5**0.5, 0, 13**0.5, nan], [1, nan, 2, nan]]
  )


def test_units_agree_with_predictions_and_lean_to_them():
  maps = by_hand()
  units = codes.place(maps, both(BEFORE))
  found = codes.agreement(maps, units, CALLED, TRUTH)
  # Units 0, 1, 2, 3 are of 0, 0, 1, 1; the one wrong image lies on one of 0.
  assert found['agreement'].tolist() == [1, 1] == found['lean'].tolist()
  found = codes.agreement(maps, np.array([[0, 3, -1, 3]] * 2), CALLED, TRUTH)
  assert found['agreement'].tolist() == [0.5, 0.5]
  assert found['lean'].tolist() == [-1, -1]
  assert np.isnan(codes.agreement(maps, units, TRUTH, TRUTH)['lean']).all()


def test_attacks_stand_beside_noise_on_the_same_images():
  maps = by_hand()
  before, after, noisy = (
    codes.place(maps, both(v)) for v in (BEFORE, AFTER, BEFORE + 0.45)
  )
  found = codes.attack_statistics(
    maps,
    before,
    after,
    noisy,
    predicted=CALLED,
    predicted_noisy=CALLED,
    wrong=np.array([1, 1, 1, 0]),
  )
  wanted = {
    # Units 0, 1, 2, 3 go to 2, 1, 2, 1; by noise to 1, 2, 3, 3.
    'shift': 1,
    'noise_shift': 3 / 4,
    # Fooled: the first, second and last; units of 1, 0, 0 for 1, 1, 0.
    'hit': 2 / 3,
    'noise_hit': 1 / 3,
    # Doubt there 1/3, 1, 0; of the images as they were 0, 0, 1/3, 0.
    'auroc': (3.5 + 4 + 1.5) / 12,
    # By noise on units 1, 2, 3; of what is then said, 0, 0, 1: 0, 2/3, 0.
    'noise_auroc': (1.5 + 4 + 1.5) / 12,
  }
  for name, value in wanted.items():
    np.testing.assert_allclose(found[name], value, err_msg=name)
  none = codes.attack_statistics(
    maps, before, after, noisy,
    predicted=CALLED, predicted_noisy=CALLED, wrong=CALLED,
  )  # fmt: skip
  assert np.isnan([none['hit'], none['noise_auroc']]).all()
  np.testing.assert_allclose(none['shift'], 1)


def test_separation_is_from_units_of_other_classes_by_noise():
  maps = by_hand()
  noisy = both(BEFORE + np.float32(0.45))
  found = codes.class_separation(maps, both(BEFORE), TRUTH, noisy)
  # Units of another class than the label are 2, 0 or 1 away, 1, 2.
  wanted = np.array([2, 0, 1, 2]) / 0.45
  np.testing.assert_allclose(found, [wanted, wanted], rtol=1e-5)
  still = codes.class_separation(maps, both(BEFORE), TRUTH, both(BEFORE))
  assert np.isnan(still).all()
  lost = BEFORE.copy()
  lost[1] = np.nan
  noisy = both(np.nan_to_num(lost, nan=1.0) + np.float32(0.45))
  found = codes.class_separation(maps, both(lost), TRUTH, noisy)
  assert np.isnan(found[:, 1]).all()


def test_crowding_is_a_partial_rank_correlation():
  separation, (distance, margin) = draw(2, 30), draw(2, 30, seed=1)
  separation[0] += distance
  separation[1, 3:] = np.nan
  separation[0, :5] = np.nan
  found = codes.crowding(separation, distance, margin)
  r = lambda a, b: stats.spearmanr(a[5:], b[5:]).statistic
  x, y, z = distance, separation[0], margin
  wanted = (r(x, y) - r(x, z) * r(y, z)) / np.sqrt(
    (1 - r(x, z) ** 2) * (1 - r(y, z) ** 2)
  )
  assert found[0] == pytest.approx(wanted) and wanted > 0.3
  assert np.isnan(found[1])  # Three inputs are left.


def test_layers_are_fitted_as_one_map_each_would_be():
  given = {'wide': 3 * draw(60, 5) + 1, 'thin': draw(60, 2, seed=3)}
  given['wide'][:, 2] = 7
  labels = np.arange(60) % 3
  maps = codes.fit_maps(KEY, given, labels, grid=(3, 4), num_epochs=6, width=9)
  keys = jax.random.split(KEY, 2)
  plain = codes.fit_maps(KEY, given, labels, grid=(2, 2), num_epochs=1)
  assert plain.mean.shape == (2, 5) and maps.mean.shape == (2, 9)
  for number, (name, raw) in enumerate(given.items()):
    standard = codes.standardize(raw)
    wide = np.pad(standard, ((0, 0), (0, 9 - raw.shape[1])))
    alone = som.fit(keys[number], wide, grid=(3, 4), num_epochs=6, divide=False)
    np.testing.assert_allclose(
      maps.layer(name).codebook, alone.codebook, atol=1e-4
    )
    units = som.flat(alone, som.best_matching_units(alone, wide))
    np.testing.assert_array_equal(maps.units[number], units)
    np.testing.assert_allclose(
      codes.scale(maps, given)[number], wide, atol=1e-5
    )
    for unit in range(12):
      of = labels[maps.units[number] == unit]
      assert (
        maps.counts[number, unit].tolist()
        == np.bincount(of, minlength=3).tolist()
      )
    back = codes.unit_codes(maps, name, raw.shape[1])
    wanted = np.asarray(alone.units)[:, : raw.shape[1]] * raw.std(0) + raw.mean(
      0
    )
    np.testing.assert_allclose(back, wanted, atol=1e-3)


def test_several_poolings_pass_the_network_once():
  xs = draw(5, 12).reshape(5, 2, 3, 2)
  shared = jnp.asarray(WEIGHTS), jnp.asarray(0.5)
  found = codes.of_network(network, xs, shared=shared, pooling=('max', 'mean'))
  assert [*found] == ['max', 'mean']
  for pooling in found:
    alone = codes.of_network(network, xs, shared=shared, pooling=pooling)
    assert (
      [*alone] == [*found[pooling]] == ['input', 'wide', 'tokens', 'logits']
    )
    for name, value in alone.items():
      np.testing.assert_array_equal(found[pooling][name], value)
