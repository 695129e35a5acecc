"""What networks share, against closed forms, scikit-learn and optax."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from sklearn import metrics
from sklearn import svm

from dmm_jax import halfway
from dmm_jax.halfway import segments

RNG = np.random.default_rng(0)


def cross(logits_fn, start, end, first, second):
  fn = functools.partial(halfway.crossings, logits_fn)
  return jax.jit(jax.vmap(fn))(start, end, first, second)


# --- Segments --------------------------------------------------------------


def test_pairs_are_of_different_class_and_uniform():
  labels = np.repeat([0, 1, 2], [10, 20, 70])
  key = jax.random.key(1)
  pairs = halfway.opposite_pairs(key, labels, 20_000)
  assert pairs.shape == (20_000, 2) and pairs.dtype == np.int32
  of = labels[pairs]
  assert np.all(of[:, 0] != of[:, 1])
  # Ordered pairs of classes in proportion to the products of their sizes.
  sizes = np.array([10, 20, 70])
  wanted = np.outer(sizes, sizes) * (1 - np.eye(3))
  found = np.zeros((3, 3))
  np.add.at(found, tuple(of.T), 1)
  np.testing.assert_allclose(
    found / 20_000, wanted / wanted.sum(), atol=4 * np.sqrt(0.25 / 20_000)
  )
  again = halfway.opposite_pairs(key, labels, 20_000)
  np.testing.assert_array_equal(pairs, again)
  other = halfway.opposite_pairs(jax.random.key(2), labels, 20_000)
  assert not np.array_equal(pairs, other)
  rare = np.append(np.zeros(500, int), 1)
  assert len(halfway.opposite_pairs(key, rare, 50)) == 50
  with pytest.raises(ValueError, match='at least two classes'):
    halfway.opposite_pairs(key, np.zeros(5, int), 3)


def test_nearest_of_another_class_by_scikit_learn(monkeypatch):
  xs = RNG.normal(size=(60, 2, 3)).astype(np.float32)
  labels, rows = RNG.integers(0, 3, 60), RNG.permutation(60)[:25]
  far = metrics.pairwise_distances(xs.reshape(60, -1))
  far[labels[:, None] == labels] = np.inf
  wanted = far[rows].argmin(1)
  found = halfway.nearest_opposite(xs, labels, rows)
  assert found.dtype == np.int32
  np.testing.assert_array_equal(found, wanted)
  monkeypatch.setattr(segments, '_BATCH', 200)  # Three rows at a time.
  found = halfway.nearest_opposite(xs, labels, rows)
  np.testing.assert_array_equal(found, wanted)


# --- Crossings -------------------------------------------------------------


def test_linear_networks_cross_where_their_leads_balance():
  weights = RNG.normal(size=(6, 3)).astype(np.float32)
  start, end = RNG.normal(size=(2, 200, 6)).astype(np.float32)
  logits = start @ weights, end @ weights
  first, second = np.argmax(logits[0], 1), np.argmax(logits[1], 1)
  apart = first != second
  found = cross(lambda x: x @ weights, start, end, first, second)
  rows = np.arange(200)
  leads = [v[rows, first] - v[rows, second] for v in logits]
  wanted = leads[0] / (leads[0] - leads[1] + ~apart)
  assert apart.sum() > 50
  np.testing.assert_allclose(found.fraction[apart], wanted[apart], atol=2e-6)
  assert np.isnan(found.fraction[~apart]).all()
  assert (found.count == apart).all()
  assert (found.parted == apart).all()
  np.testing.assert_allclose(found.ends, np.stack(leads, 1), atol=1e-5)


def test_support_vectors_meet_halfway():
  xs = np.concatenate([RNG.normal(-2, 1, (60, 2)), RNG.normal(2, 1, (60, 2))])
  xs[:, 1] *= 0.3
  labels = np.repeat([0, 1], 60)
  xs[:, 0] += np.where(labels, 2.0, -2.0)
  machine = svm.SVC(kernel='linear', C=1e8, tol=1e-9).fit(xs, labels)
  of = labels[machine.support_]
  pairs = [
    (i, j) for i in machine.support_[of == 0] for j in machine.support_[of == 1]
  ]
  start, end = (
    xs[list(rows)].astype(np.float32) for rows in zip(*pairs, strict=True)
  )
  slope, bias = machine.coef_[0], machine.intercept_[0]
  logits_fn = lambda x: jnp.stack([0.0, x @ jnp.asarray(slope) + bias])
  zeros = np.zeros(len(pairs), int)
  found = cross(logits_fn, start, end, zeros, zeros + 1)
  np.testing.assert_allclose(found.fraction, 0.5, atol=1e-4)


def test_nearest_neighbours_meet_halfway():
  xs = RNG.normal(size=(40, 3)).astype(np.float32)
  labels = np.arange(40) % 2
  far = np.linalg.norm(xs[:, None] - xs, axis=-1)
  other = np.where(labels[:, None] == labels, np.inf, far).argmin(1)
  mutual = np.flatnonzero(other[other] == np.arange(40))
  # Halfway between the two no third point is nearer than both.
  middle = (xs + xs[other]) / 2
  third = np.linalg.norm(middle[:, None] - xs, axis=-1).min(1)
  rows = mutual[third[mutual] > far[mutual, other[mutual]] / 2 - 1e-5]
  assert len(rows) > 4

  def nearest(x):
    distance = jnp.linalg.norm(x[None] - xs, axis=-1)
    of = lambda c: -jnp.min(jnp.where(labels == c, distance, jnp.inf))
    return jnp.stack([of(0), of(1)])

  found = cross(
    nearest, xs[rows], xs[other[rows]], labels[rows], 1 - labels[rows]
  )
  np.testing.assert_allclose(found.fraction, 0.5, atol=1e-5)


def test_every_crossing_counts_and_the_first_is_found():
  wave = lambda x: jnp.stack([jnp.cos(3 * jnp.pi * x[0]), 0.0])
  zero, one = np.zeros((1, 1), np.float32), np.ones((1, 1), np.float32)
  found = cross(wave, zero, one, np.array([0]), np.array([1]))
  assert found.count.tolist() == [3]
  assert found.parted.tolist() == [True]
  np.testing.assert_allclose(found.fraction, 1 / 6, atol=1e-5)
  turned = cross(wave, zero, one, np.array([1]), np.array([0]))
  assert turned.parted.tolist() == [False]
  np.testing.assert_allclose(turned.fraction, 1 / 6, atol=1e-5)


@pytest.mark.parametrize('value', (np.nan, 1.0))
def test_constant_and_undefined_networks_never_cross(value):
  logits_fn = lambda x: jnp.stack([value + 0 * x[0], 0.0])
  zero, one = np.zeros((1, 1), np.float32), np.ones((1, 1), np.float32)
  found = cross(logits_fn, zero, one, np.array([0]), np.array([1]))
  assert np.isnan(found.fraction).all()
  assert found.parted.tolist() == [False]


def test_concordance_is_pearsons_where_both_cross():
  rows = RNG.uniform(size=(3, 50))
  rows[1] += rows[0]
  rows[0, :10] = rows[1, 5:20] = np.nan
  result = halfway.concordance(rows)
  for i, j in [(0, 1), (1, 2), (0, 0)]:
    both = np.isfinite(rows[i] + rows[j])
    wanted = np.corrcoef(rows[i][both], rows[j][both])[0, 1]
    assert result[i, j] == pytest.approx(wanted, abs=1e-10)
    assert result[j, i] == result[i, j]


def test_concordance_of_too_little_is_undefined():
  rows = np.full((3, 5), np.nan)
  rows[0], rows[1, :2] = 0.4, 0.3
  assert np.isnan(halfway.concordance(rows)).all()


# --- Directions ------------------------------------------------------------


def test_directions_of_a_linear_network():
  weights = RNG.normal(size=(5, 3)).astype(np.float32)
  x = RNG.normal(size=5).astype(np.float32)
  logits_fn = lambda v: v @ weights
  wanted = weights @ (np.asarray(jax.nn.softmax(x @ weights)) - np.eye(3)[1])
  got = halfway.loss_direction(logits_fn, x, 1)
  np.testing.assert_allclose(got, wanted / np.linalg.norm(wanted), atol=1e-5)
  flat = halfway.loss_direction(lambda v: 0 * v[:2], x, 1)
  assert not np.any(flat)


def test_cosines_are_means_over_examples():
  units = RNG.normal(size=(3, 20, 2, 2))
  units /= np.linalg.norm(units, axis=(2, 3), keepdims=True)
  units[2, 5:] = 0
  result = halfway.cosines(units)
  np.testing.assert_allclose(np.diag(result), [1, 1, 0.25])
  one = np.mean(
    [np.sum(a * b) for a, b in zip(units[0], units[1], strict=True)]
  )
  assert result[0, 1] == pytest.approx(one)


# --- Influence -------------------------------------------------------------


def affine(params, x):
  return x @ params['w'] + params['b']


def two_layers(params, x):
  return jnp.tanh(x @ params['w']) @ params['v']


def start_of(*shapes):
  names = 'wv' if len(shapes[1]) == 2 else 'wb'
  return {
    n: jnp.asarray(RNG.normal(size=s) / 2, jnp.float32)
    for n, s in zip(names, shapes, strict=True)
  }


def test_influence_of_a_linear_model():
  params = start_of((4, 3), (3,))
  x, others = RNG.normal(size=4), RNG.normal(size=(6, 4))
  own, theirs = halfway.influence(affine, params, x, jnp.int32(2), others)
  pull = np.eye(3)[2] - np.asarray(jax.nn.softmax(affine(params, x)))
  np.testing.assert_allclose(own, (x @ x + 1) * pull, rtol=1e-5)
  wanted = np.outer(others @ x + 1, pull)
  np.testing.assert_allclose(theirs, wanted, rtol=1e-4, atol=1e-6)
  ratio = halfway.meeting_ratio(affine, params, x, jnp.int32(2), others)
  np.testing.assert_allclose(
    ratio, (others @ x + 1) / (x @ x + 1), rtol=1e-4, atol=1e-6
  )


def test_meeting_ratios_of_sure_networks_do_not_underflow():
  """Kernel and biases of a linear model; a gradient of 0 in float32."""
  params = {'w': jnp.zeros((4, 3)), 'b': jnp.asarray([0.0, 200.0, -50.0])}
  x, others = RNG.normal(size=4), RNG.normal(size=(6, 4))
  own, _ = halfway.influence(affine, params, x, jnp.int32(1), others)
  assert np.all(own == 0)
  ratio = halfway.meeting_ratio(affine, params, x, jnp.int32(1), others)
  np.testing.assert_allclose(ratio, (others @ x + 1) / (x @ x + 1), rtol=1e-5)


def test_meeting_ratios_are_those_of_the_cross_entropy():
  params = start_of((4, 5), (5, 3))
  x, others = RNG.normal(size=4), RNG.normal(size=(6, 4))
  for label in range(3):
    given = two_layers, params, x, jnp.int32(label), others
    own, theirs = halfway.influence(*given)
    ratio = halfway.meeting_ratio(*given)
    wanted = theirs[:, label] / own[label]
    np.testing.assert_allclose(ratio, wanted, rtol=1e-3, atol=1e-5)


def test_influence_is_what_a_small_step_does():
  params = start_of((4, 5), (5, 3))
  x, others = RNG.normal(size=4), RNG.normal(size=(6, 4))
  loss = lambda p: optax.losses.softmax_cross_entropy_with_integer_labels(
    two_layers(p, x), 0
  )
  rate = 1e-2
  after = jax.tree.map(
    lambda p, g: p - rate * g, params, jax.grad(loss)(params)
  )
  moved = [two_layers(p, others) for p in (params, after)]
  _, theirs = halfway.influence(two_layers, params, x, jnp.int32(0), others)
  change = (moved[1] - moved[0]) / rate
  np.testing.assert_allclose(theirs, change, atol=0.02 * np.abs(change).max())


@pytest.mark.parametrize('momentum', (0.0, 0.9))
def test_booked_influence_is_the_trained_function(momentum):
  xs = jnp.asarray(RNG.normal(size=(30, 4)), jnp.float32)
  labels = jnp.asarray(RNG.integers(0, 3, 30))
  batches = jnp.asarray(RNG.integers(0, 30, (40, 8)))
  others = jnp.asarray(RNG.normal(size=(7, 4)), jnp.float32)
  params = start_of((4, 3), (3,))
  accumulate = functools.partial(
    halfway.accumulate, num_classes=3, learning_rate=0.1, momentum=momentum
  )
  last, booked = jax.jit(functools.partial(accumulate, affine))(
    params, xs, labels, batches, others
  )
  # Linear in its parameters, the model has nothing of second order.
  many = jax.vmap(affine, in_axes=(None, 0))
  change = many(last, others) - many(params, others)
  np.testing.assert_allclose(booked.sum(0), change, atol=1e-5)
  transform = optax.sgd(0.1, momentum=momentum or None)
  state, again = transform.init(params), params
  for rows in batches:
    loss = lambda p, rows=rows: (
      optax.losses.softmax_cross_entropy_with_integer_labels(
        many(p, xs[rows]), labels[rows]
      ).mean()
    )
    step, state = transform.update(jax.grad(loss)(again), state)
    again = optax.apply_updates(again, step)
  for got, wanted in zip(
    jax.tree.leaves(last), jax.tree.leaves(again), strict=True
  ):
    np.testing.assert_allclose(got, wanted, atol=1e-5)
  # A class that no batch holds has no influence.
  _, booked = accumulate(affine, params, xs, labels % 2, batches, others)
  assert not np.any(booked[2])


def test_medians_leave_out_what_is_not_finite():
  ratios = np.array(
    [
      [0.9, 0.7, np.nan, 0.1, 0.3],
      [0.2, 0.4, 0.6, np.inf, 0.8],
      [np.nan, np.nan, np.nan, 0.5, 0.5],
      [0.5, 0.5, 0.5, 0.5, 0.5],
    ]
  )
  theirs = np.array([0, 0, 0, 1, 1])
  labels = np.array([0, 1, 0, 2])  # The last has no image of its class.
  found = halfway.ratio_statistics(ratios, labels, theirs)
  # Medians of the class 0.8 and 0.8, of others 0.2 and 0.4.
  assert found == pytest.approx(dict(same=0.8, other=0.3, gap=0.5, leads=1.0))
  turned = halfway.ratio_statistics(-ratios, labels, theirs)
  assert turned['leads'] == 0 and turned['gap'] == pytest.approx(-0.5)


def test_ratios_of_linear_networks_are_inner_products():
  rng = np.random.default_rng(0)
  sources, others = rng.normal(size=(2, 2, 3)), rng.normal(size=(4, 2, 3))
  found = halfway.linear_ratios(sources, others)
  for i, x in enumerate(sources):
    for j, y in enumerate(others):
      wanted = (np.sum(x * y) + 1) / (np.sum(x * x) + 1)
      assert found[i, j] == pytest.approx(wanted)
