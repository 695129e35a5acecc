"""Crossings, directions and influence against closed forms, to all digits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

from dmm_jax import halfway

RNG = np.random.default_rng(7)


@pytest.fixture(autouse=True)
def same_numbers(monkeypatch):
  """The same draws in each test, whichever others run."""
  monkeypatch.setitem(globals(), 'RNG', np.random.default_rng(0))


# --- Crossings -------------------------------------------------------------


def cubic(x):
  """Three logits; the last one's lead over the first is a cubic of x[0]."""
  t, coefficients = x[0], x[1:]
  lead = coefficients @ jnp.stack([t**0, t, t**2, t**3])
  return jnp.stack([0.3, 5.0, 0.3 + lead])


def step(x):
  """The lead jumps from -1 to 1 at x[1]; it is not a number at x[2]."""
  lead = jnp.where(x[0] == x[2], jnp.nan, jnp.where(x[0] > x[1], 1.0, -1.0))
  return jnp.stack([-lead, 0.0, 0.0])


def dip(x):
  """The lead is -1 within x[2] of x[1], else 1."""
  lead = jnp.where(jnp.abs(x[0] - x[1]) < x[2], -1.0, 1.0)
  return jnp.stack([0.0, lead, 0.0])


def cross(logits_fn, rows, first, second, **options):
  """Crossings on segments along which only the first number changes."""
  rows = np.asarray(rows, np.float32)
  start, end = (
    jnp.asarray(np.insert(rows, 0, t, 1).astype(np.float32)) for t in (0, 1)
  )
  one = lambda a, b: halfway.crossings(
    logits_fn, a, b, first, second, **options
  )
  return jax.tree.map(np.asarray, jax.jit(jax.vmap(one))(start, end))


def test_cubics_cross_at_their_roots():
  rows = {
    # Coefficients: where it first crosses, how often, and whether it falls.
    (0.3, -1.0, 0.0, 0.0): (0.3, 1, True),
    (-0.3, 1.0, 0.0, 0.0): (0.3, 1, False),
    (0.003, -0.01, 0.0, 0.0): (0.3, 1, True),
    # At a point of the finest grid, from above and from below.
    (0.25 + 3 / 2048, -1.0, 0.0, 0.0): (0.25 + 3 / 2048, 1, True),
    (-0.25 - 3 / 2048, 1.0, 0.0, 0.0): (0.25 + 3 / 2048, 1, False),
    # No lead at the start, and none at the end.
    (0.0, -1.0, 0.0, 0.0): (np.nan, 0, False),
    (1.0, -1.0, 0.0, 0.0): (1.0, 1, True),
    (-1.0, 1.0, 0.0, 0.0): (np.nan, 0, False),
    # (t - 1/5) (t - 1/2) (t - 9/10), and minus it.
    (-0.09, 0.73, -1.6, 1.0): (0.2, 3, False),
    (0.09, -0.73, 1.6, -1.0): (0.2, 3, True),
    (0.1, 0.0, 0.0, 0.0): (np.nan, 0, False),
    (-0.2, 0.0, 0.0, 0.1): (np.nan, 0, False),
    (0.4, -1.0, 0.0, 1.0): (None, 0, False),
    (0.3, -1.0, 0.0, 1.0): (None, 2, False),
  }
  found = cross(cubic, list(rows), 2, 0)
  for i, (row, (fraction, count, parted)) in enumerate(rows.items()):
    if fraction is None:
      roots = np.roots(row[::-1])
      real = roots[np.isreal(roots)].real
      fraction = min(real[(real > 0) & (real < 1)], default=np.nan)
    np.testing.assert_allclose(found.fraction[i], fraction, atol=2e-6)
    assert found.count[i] == count and found.parted[i] == parted, row
    np.testing.assert_allclose(found.ends[i], [row[0], sum(row)], atol=1e-6)


def test_jumps_are_found_to_the_last_cell():
  places = RNG.uniform(0.01, 0.99, 40)
  rows = np.stack([places, np.full(40, 9.0)], 1)
  for options, cells in (({}, 32), (dict(num_cells=5), 5)):
    found = cross(step, rows, 1, 0, **options)
    # The middle of one of 64 cells of a cell.
    want = (np.floor(places * 64 * cells) + 0.5) / (64 * cells)
    np.testing.assert_allclose(found.fraction, want, atol=1e-6)
    assert np.all(found.count == 1) and not found.parted.any()
  # One value that is not a number, elsewhere on the grid.
  rows[:, 1] = 0.75
  found = cross(step, rows, 1, 0)
  assert np.all(np.isnan(found.fraction))


def test_two_crossings_within_a_cell_show_none():
  rows = [[0.5, 0.004], [0.5 + 1 / 64, 0.004], [0.2, 0.1]]
  found = cross(dip, rows, 1, 2)
  assert found.count.tolist() == [2, 0, 2]
  np.testing.assert_allclose(
    found.fraction, [0.496, np.nan, 0.1], atol=1 / 2048
  )
  found = cross(dip, rows, 1, 2, num_cells=33)
  assert found.count.tolist() == [0, 2, 2]


def test_concordance_is_pearsons_to_all_digits():
  rows = 0.5 + 1e-5 * RNG.normal(size=(4, 60))
  rows[1] += 0.5 * (rows[0] - 0.5)
  rows[3] = 1 - rows[2]
  rows[0, :11] = rows[1, 5:22] = rows[2, 50:] = np.nan
  result = halfway.concordance(rows)
  for i, j in np.ndindex(4, 4):
    both = np.isfinite(rows[i] + rows[j])
    want = np.corrcoef(rows[i][both], rows[j][both])[0, 1]
    np.testing.assert_allclose(result[i, j], want, atol=1e-9)
  assert result[2, 3] < -1 + 1e-9 and result.min() >= -1 and result.max() <= 1


def test_concordance_needs_three_segments_and_a_spread():
  rows = np.full((4, 6), np.nan)
  rows[0] = [0.1, 0.2, 0.4, 0.8, 0.3, 0.5]
  rows[1, :3] = [0.3, 0.2, 0.6]
  rows[2, :2] = [0.3, 0.2]
  rows[3] = 0.4
  result = halfway.concordance(rows)
  want = np.corrcoef(rows[0, :3], rows[1, :3])[0, 1]
  np.testing.assert_allclose(result[0, 1], want, atol=1e-12)
  assert np.isnan(result[0, 2]) and np.isnan(result[2, 2])
  assert np.all(np.isnan(result[3])) and np.all(np.isnan(result[:, 3]))
  # Variances of 1.5e-12 are a spread.
  few = 0.5 + 1.5e-12**0.5 * np.array([[1.0, -1.0] * 5])
  np.testing.assert_allclose(halfway.concordance(few), 1)


# --- Directions ------------------------------------------------------------


def test_directions_of_a_linear_network():
  weights = 0.01 * RNG.normal(size=(6, 4)).astype(np.float32)
  x = RNG.normal(size=(2, 3)).astype(np.float32)
  logits_fn = lambda v: v.ravel() @ weights
  logits = x.ravel() @ weights
  find = jax.jit(lambda label: halfway.loss_direction(logits_fn, x, label))
  for label in (1, int(np.argmax(logits))):
    slope = find(label)
    pull = weights @ (special.softmax(logits) - np.eye(4)[label])
    np.testing.assert_allclose(
      slope, (pull / np.linalg.norm(pull)).reshape(2, 3), atol=1e-5
    )
  # Zeros where there is no direction: a gradient of 0, and an infinite one.
  for bad in (
    lambda v: 0 * v.ravel()[:2],
    lambda v: jnp.stack([jnp.log(0 * v[0, 0]), 0.0]),
  ):
    none = jax.jit(lambda x, bad=bad: halfway.loss_direction(bad, x, 1))(x)
    assert none.shape == (2, 3) and not np.any(none)


def test_cosines_are_means_over_examples():
  units = RNG.normal(size=(3, 20, 2, 3))
  units /= np.linalg.norm(units, axis=(2, 3), keepdims=True)
  units[2, 5:] = 0
  products = (units[:, None] * units[None]).sum((3, 4))
  np.testing.assert_allclose(halfway.cosines(units), products.mean(2))


# --- Influence -------------------------------------------------------------


def affine(params, x):
  return x @ params['w'] + params['b']


W = RNG.normal(size=(4, 3)).astype(np.float32)
B = RNG.normal(size=3).astype(np.float32)
PARAMS = {'w': jnp.asarray(W), 'b': jnp.asarray(B)}
OTHERS = RNG.normal(size=(7, 4)).astype(np.float32)


def test_influence_of_a_linear_model():
  x, label = OTHERS[0], jnp.int32(2)
  pull = np.eye(3)[2] - special.softmax(x @ W + B)
  kernel = OTHERS @ x + 1

  @jax.jit
  def find(scale):
    network = lambda params, x: scale * affine(params, x)
    given = network, PARAMS, x, label, OTHERS[1:]
    return halfway.influence(*given), halfway.meeting_ratio(*given)

  (own, theirs), ratio = find(1.0)
  np.testing.assert_allclose(own, kernel[0] * pull, rtol=1e-4)
  np.testing.assert_allclose(
    theirs, np.outer(kernel[1:], pull), rtol=1e-4, atol=1e-6
  )
  np.testing.assert_allclose(
    ratio, kernel[1:] / kernel[0], rtol=1e-4, atol=1e-6
  )
  # Where nothing moves there is no ratio.
  _, ratio = find(0.0)
  assert ratio.shape == (6,) and np.all(np.isnan(ratio))


@pytest.mark.parametrize('momentum', [None, 0.6])
def test_booked_influence_in_numpy(momentum):
  xs = RNG.normal(size=(30, 4)).astype(np.float32)
  labels = RNG.integers(0, 3, 30)
  batches = RNG.integers(0, 30, (5, 8))
  options = {} if momentum is None else {'momentum': momentum}
  last, booked = jax.jit(
    lambda *args: halfway.accumulate(
      affine, *args, num_classes=3, learning_rate=0.3, **options
    )
  )(PARAMS, xs, jnp.asarray(labels), jnp.asarray(batches), OTHERS)
  # One matrix, whose last row are the biases.
  matrix = np.vstack([W, B]).astype(float)
  wide = lambda v: np.append(v, np.ones((len(v), 1)), 1)
  velocity, total = np.zeros((3, 5, 3)), np.zeros((3, 7, 3))
  for rows in batches:
    pull = np.eye(3)[labels[rows]] - special.softmax(wide(xs[rows]) @ matrix, 1)
    for c in range(3):
      of_class = (labels[rows] == c)[:, None] * pull
      part = wide(xs[rows]).T @ of_class / 8
      velocity[c] = (momentum or 0) * velocity[c] + part
      total[c] += 0.3 * wide(OTHERS) @ velocity[c]
    matrix = matrix + 0.3 * velocity.sum(0)
  np.testing.assert_allclose(booked, total, atol=1e-5)
  np.testing.assert_allclose(last['w'], matrix[:4], atol=1e-5)
  np.testing.assert_allclose(last['b'], matrix[4], atol=1e-5)
