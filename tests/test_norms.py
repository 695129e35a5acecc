"""Norms, steps and projections, held to sorting, root finding and scipy.

Oracles work with sizes, as neither norm nor ball knows signs: the size of an
entry, and the room that the box leaves it.
"""

import itertools

import hypothesis
from hypothesis import strategies
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize

from dmm_jax import norms

NORMS = (1, 2, np.inf, 1.1, 1.5, 3, 12.0)
NUM = 6
# Ties and zeros are common among few integers; the last number of a room is
# infinity, so that coordinates without a bound are common too.
ENTRIES = strategies.lists(
  strategies.integers(-5, 5), min_size=NUM, max_size=NUM
).map(lambda v: 0.37 * np.array(v))
ROOMS = strategies.lists(
  strategies.integers(0, 6), min_size=NUM, max_size=NUM
).map(lambda v: np.where(np.array(v) > 5, np.inf, 0.29 * np.array(v)))
AMOUNTS = strategies.integers(0, 25).map(lambda v: 0.23 * v)
EVERY_CASE = hypothesis.settings(
  deadline=None, derandomize=True, max_examples=60
)


def _in_double(function):
  """Compiled once, with the norm as an argument, in double precision."""
  call = jax.jit(
    lambda v, amount, low, high, p: function(v, amount, low, high, norm=p)
  )

  def run(v, amount, low, high, p):
    with jax.enable_x64(True):
      ends = (low + 0 * np.abs(v), high + 0 * np.abs(v))
      return np.asarray(call(v, float(amount), *ends, p))

  return run


RUN = {
  name: _in_double(getattr(norms, name))
  for name in ('smallest_step', 'project_ball', 'prox')
}


def root(decreasing, high):
  """The root of a decreasing function that is above 0 at 0."""
  if decreasing(high) >= 0:
    return high
  return optimize.brentq(decreasing, 0, high, xtol=1e-300, rtol=1e-15)


def room_of(v, low, high):
  return np.where(v == 0, 0, np.where(v > 0, high, -low))


def close(got, want, tolerance=1e-12):
  np.testing.assert_allclose(got, want, rtol=tolerance, atol=tolerance)


# --- Norms -----------------------------------------------------------------


@pytest.mark.parametrize('p', [1, 1.5, 2, 3, np.inf])
def test_norm_is_numpys_at_every_scale(p):
  v = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
  want = np.linalg.norm(v.ravel().astype(float), p)
  for scale in (1, 1e-30, 1e30):
    got = norms.norm(v * np.float32(scale), p)
    np.testing.assert_allclose(got, want * scale, rtol=2e-6)
  assert norms.norm(jnp.zeros(3), p) == 0
  assert norms.norm(jnp.zeros((0, 2)), p) == 0


def test_norms_and_duals_of_an_exponent_known_at_run_time():
  v = np.array([[3.0, -4], [0, 0.5]], np.float32)
  both = jax.jit(lambda p: (norms.norm(v, p), norms.dual(p)))
  duals = (np.inf, 2, 1, 11, 3, 1.5, 12 / 11)
  for p, dual in zip(NORMS, duals, strict=True):
    np.testing.assert_allclose(
      both(jnp.float32(p)), (np.linalg.norm(v.ravel(), p), dual), rtol=1e-6
    )


def test_dual_exponents():
  assert [norms.dual(p) for p in NORMS[:3]] == [np.inf, 2, 1]
  assert norms.dual(3) == pytest.approx(1.5)
  assert norms.dual(1.25) == pytest.approx(5)
  with pytest.raises(ValueError, match=r'norms need p >= 1, got 0\.5'):
    norms.dual(0.5)


@pytest.mark.parametrize(
  'function', [norms.smallest_step, norms.project_ball, norms.prox]
)
def test_other_norms_are_refused(function):
  for p in (0.99, -1, np.nan):
    with pytest.raises(ValueError, match=f'a number p >= 1 or inf.* got {p}'):
      function(jnp.ones(3), 1.0, norm=p)
  for p in ('2', None, True, 1j):
    with pytest.raises(TypeError, match=f'norm must be a number.* got {p!r}'):
      function(jnp.ones(3), 1.0, norm=p)


def test_zero_is_a_norm_where_changes_are_counted():
  norms.check(0, counts=True)
  with pytest.raises(ValueError, match='p >= 1 or inf, got 0'):
    norms.check(0)


def test_the_number_of_entries_that_are_not_zero():
  v = jnp.array([[0.0, -1e-30], [2.0, 0.0]])
  count = norms.norm(v, 0)
  assert count == 2 and count.dtype == v.dtype
  assert norms.norm(jnp.zeros(3), 0) == 0


# --- Steps -----------------------------------------------------------------


def fill(size, room, gap, p):
  """Sizes of the smallest step: by sorting for l1, by root finding else."""
  with np.errstate(invalid='ignore'):
    reach = np.where(size > 0, size * room, 0).sum()
  if reach <= gap:
    return np.where(size > 0, room, 0)
  if p == 1:
    out = np.zeros(len(size))
    for i in np.argsort(-size, kind='stable'):
      if size[i] > 0:
        out[i] = min(room[i], (gap - size @ out) / size[i])
    return out
  unit = np.where(size > 0, size ** (1 / (p - 1)), 0)
  amount = lambda level: np.minimum(level * unit, room)
  used = size > 0
  ends = np.where(np.isfinite(room), room, gap / np.where(used, size, 1))
  high = np.max(ends[used] / unit[used])
  return amount(root(lambda level: gap - size @ amount(level), high))


@EVERY_CASE
@hypothesis.given(
  ENTRIES, ROOMS, ROOMS, AMOUNTS, strategies.sampled_from(NORMS)
)
def test_the_smallest_step_in_a_box(g, below, above, gap, p):
  got = RUN['smallest_step'](g, gap, -below, above, p)
  size, room = np.abs(g), room_of(g, -below, above)
  want = fill(size, room, gap, p)
  assert np.all(got * g >= 0) and np.all(np.abs(got) <= room + 1e-12)
  close(g @ got, size @ want)
  close(np.linalg.norm(got, p), np.linalg.norm(want, p))
  if p != 1:
    close(np.abs(got), want)
  # Which of equally steep coordinates are filled is no matter; how far all of
  # one steepness are filled is.
  same = size[:, None] == size
  close(same @ np.abs(got), same @ want)


def _exact(g, gap, low, high, p):
  """The same by scipy: a linear program, or SLSQP."""
  n = len(g)
  if p not in (1, np.inf):
    out = optimize.minimize(
      lambda v: np.linalg.norm(v, p),
      np.clip(np.sign(g), low, high),
      jac=lambda v: np.sign(v) * (np.abs(v) / np.linalg.norm(v, p)) ** (p - 1),
      bounds=list(zip(low, high, strict=True)),
      constraints={
        'type': 'eq',
        'fun': lambda v: g @ v - gap,
        'jac': lambda v: g,
      },
      options={'ftol': 1e-14, 'maxiter': 500},
    )
    return out.fun
  # v = up - down; linf bounds all by one level t.
  cost = np.r_[np.ones(2 * n), 0] if p == 1 else np.r_[np.zeros(2 * n), 1]
  rows = np.hstack([np.eye(n), np.eye(n), -np.ones((n, 1))])
  out = optimize.linprog(
    cost,
    A_eq=np.r_[g, -g, 0][None],
    b_eq=[gap],
    A_ub=None if p == 1 else rows,
    b_ub=None if p == 1 else np.zeros(n),
    bounds=[(0, h) for h in high] + [(0, -b) for b in low] + [(0, None)],
  )
  return out.fun


@pytest.mark.parametrize('p', NORMS)
def test_the_smallest_step_is_that_of_solvers(p):
  rng = np.random.default_rng(2)
  for share in (0.05, 0.5, 0.95):
    g = rng.normal(size=NUM)
    low, high = -rng.uniform(0, 1, NUM), rng.uniform(0, 1, NUM)
    low[0] = high[1] = 0
    gap = share * np.maximum(g * low, g * high).sum()
    v = RUN['smallest_step'](g, gap, low, high, p)
    np.testing.assert_allclose(
      np.linalg.norm(v, p),
      _exact(g, gap, low, high, p),
      rtol=1e-6 if p in (1, 2, np.inf) else 1e-4,
    )


@pytest.mark.parametrize('p', NORMS)
def test_steps_of_any_scale_and_shape_without_a_box(p):
  rng = np.random.default_rng(1)
  g = rng.normal(size=(4, 5)).astype(np.float32)
  g[1, 2] = 0
  step = jax.jit(lambda g, gap: norms.smallest_step(g, gap, norm=p))
  for scale in (1, 1e-30, 1e15):
    v = np.asarray(step(g * np.float32(scale), np.float32(0.7 * scale)), float)
    np.testing.assert_allclose(np.sum(g * v), 0.7, rtol=1e-5)
    dual = np.linalg.norm(g.ravel(), norms.dual(p))
    np.testing.assert_allclose(
      np.linalg.norm(v.ravel(), p), 0.7 / dual, rtol=1e-5
    )
  assert not np.any(step(0 * g, np.float32(1)))
  assert not np.any(step(g, np.float32(0)))


@pytest.mark.parametrize('p', NORMS)
def test_steps_of_entries_of_any_size_are_finite(p):
  # Out of reach, with an entry that is 0 beside the largest one.
  g = jnp.array([1e3, -1e-37])
  v = norms.smallest_step(g, 1e9, -1.0, 1.0, norm=p)
  np.testing.assert_array_equal(v, [1, -1])
  for function in (norms.smallest_step, norms.project_ball, norms.prox):
    assert function(jnp.zeros((0, 2)), 1.0, norm=p).shape == (0, 2)


@pytest.mark.parametrize('p', NORMS)
def test_equally_steep_coordinates_share_a_step(p):
  g = jnp.array([-2.0, 2, 2, 1])
  v = norms.smallest_step(g, 3.0, norm=p)
  # l1 leaves out what is less steep; l2 goes by steepness; linf by none.
  share = 0 if p == 1 else 0.5 ** (1 / (p - 1))
  each = 3 / (6 + share)
  rest = share * each
  np.testing.assert_allclose(v, [-each, each, each, rest], rtol=1e-5)


@pytest.mark.parametrize('p', NORMS)
def test_a_box_of_numbers_is_one_for_all_coordinates(p):
  g = jnp.array([1.0, -2.0, 0.0])
  v = norms.smallest_step(g, 10.0, -0.5, 1.5, norm=p)
  # Out of reach: the corner of the box.
  np.testing.assert_allclose(v, [1.5, -0.5, 0.0])
  inner = norms.smallest_step(g, 2.0, -0.5, 1.5, norm=p)
  np.testing.assert_allclose(inner, [1, -0.5, 0], rtol=1e-5)
  there = jnp.array([3.0, -4, 0.1])
  for function in (norms.project_ball, norms.prox):
    ends = function(there, 99.0 if function is norms.project_ball else 0.0,
                    -0.5, 1.5, norm=p)  # fmt: skip
    np.testing.assert_allclose(ends, [1.5, -0.5, 0.1], rtol=1e-6)


@EVERY_CASE
@hypothesis.given(ENTRIES, ROOMS, ROOMS, AMOUNTS)
def test_the_fewest_changes_in_a_box(g, below, above, gap):
  with jax.enable_x64(True):
    low, high = jnp.asarray(-below), jnp.asarray(above)
    got = np.asarray(norms.smallest_step(g, float(gap), low, high, norm=0))
  room = room_of(g, -below, above)
  assert np.all(got * g >= 0) and np.all(np.abs(got) <= room + 1e-12)
  with np.errstate(invalid='ignore'):
    gain = np.nan_to_num(np.abs(g) * room, posinf=1e9)
  most = np.cumsum(np.sort(gain)[::-1])
  close(g @ got, min(gap, most[-1]))
  if gap < most[-1] - 1e-9:
    fewest = np.searchsorted(most, gap - 1e-9) + 1 if gap else 0
    assert np.sum(np.abs(got) > 1e-9) == fewest


@EVERY_CASE
@hypothesis.given(ENTRIES, ROOMS, ROOMS, strategies.integers(0, NUM + 1))
def test_the_nearest_points_with_few_changes(v, below, above, num):
  low, high = jnp.asarray(-below), jnp.asarray(above)
  inside = np.clip(v, -below, above)
  size = lambda u: np.sum((np.asarray(u) - v) ** 2)
  got = norms.project_ball(jnp.asarray(v), num + 0.5, low, high, norm=0)
  sets = itertools.combinations(range(NUM), min(num, NUM))
  kept = [np.where(np.isin(np.arange(NUM), s), inside, 0) for s in sets]
  assert np.sum(np.asarray(got) != 0) <= num
  np.testing.assert_allclose(size(got), min(map(size, kept)), atol=1e-5)
  # With a price for each change; the sets are all of any size.
  price = 0.05 + 0.1 * num
  got = norms.prox(jnp.asarray(v), price, low, high, norm=0)
  cost = lambda u: size(u) / 2 + price * np.sum(np.asarray(u) != 0)
  least = min(
    cost(np.where(chosen, inside, 0))
    for chosen in itertools.product((False, True), repeat=NUM)
  )
  np.testing.assert_allclose(cost(got), least, atol=1e-5)


# --- Projections on balls --------------------------------------------------


def shrink(size, room, radius, p):
  """Sizes of the projection: the multiplier by root finding."""
  if p == np.inf:
    return np.minimum(np.minimum(size, room), radius)
  if p == 1:
    at = lambda cut: np.minimum(np.maximum(size - cut, 0), room)
    high = size.max()
  elif p == 2:
    at = lambda more: np.minimum(size / (1 + more), room)
    high = 1e6 * (1 + np.linalg.norm(size))
  else:

    def one(v, more):
      gap = lambda u: v - u - more * u ** (p - 1)
      return root(gap, v) if v > 0 else 0.0

    at = lambda more: np.minimum([one(v, more) for v in size], room)
    high = 1e9 * (1 + np.linalg.norm(size))
  rest = lambda multiplier: np.linalg.norm(at(multiplier), p) - radius
  if radius == 0:
    return np.zeros(len(size))
  return at(0.0) if rest(0.0) <= 0 else at(root(rest, high))


@EVERY_CASE
@hypothesis.given(
  ENTRIES, ROOMS, ROOMS, AMOUNTS, strategies.sampled_from(NORMS)
)
def test_the_nearest_point_of_a_ball_in_a_box(v, below, above, radius, p):
  got = RUN['project_ball'](v, radius, -below, above, p)
  assert np.all(got * v >= 0)
  close(np.abs(got), shrink(np.abs(v), room_of(v, -below, above), radius, p))


@pytest.mark.parametrize('p', NORMS)
def test_projections_of_any_scale_and_shape_without_a_box(p):
  v = np.random.default_rng(3).normal(size=(3, 4)).astype(np.float32)
  v[2, 1] = 0
  project = jax.jit(lambda v, r: norms.project_ball(v, r, norm=p))
  for scale in (1, 1e-30, 1e15):
    for radius in (0.8, 99.0):
      got = project(v * np.float32(scale), np.float32(radius * scale)) / scale
      want = shrink(np.abs(v.astype(float)).ravel(), np.inf, radius, p)
      np.testing.assert_allclose(
        got, np.sign(v) * want.reshape(v.shape), rtol=2e-5, atol=1e-6
      )
  assert not np.any(project(v, np.float32(0)))
  assert not np.any(project(0 * v, np.float32(1)))


def test_projecting_is_no_clipping_of_the_projection_on_the_ball():
  # By hand: the first entry is held at 1, which leaves the others more.
  v, radius = jnp.array([3.0, 3.0, -3.0]), 3.0
  high = jnp.array([1.0, 9.0, 9.0])
  for p, rest in ((1, 1.0), (2, 2.0), (np.inf, 3.0)):
    got = norms.project_ball(v, radius, -high[::-1], high, norm=p)
    rest = min(rest, 1.0) if p == np.inf else rest
    want = {
      1: [1, 1, -1],
      2: [1, np.sqrt(7.0), -1],
      np.inf: [1, 3, -1],
    }[p]
    np.testing.assert_allclose(got, want, rtol=1e-5)


# --- Proximal maps ---------------------------------------------------------


def check_prox(size, room, weight, u, p):
  """The conditions of optimality (KKT) for sizes u in [0, room]."""
  e = 1e-13 if p in (1, np.inf) else 1e-11
  down = size - u  # What the norm and the box take away.
  free, open_ = u < room - e, room > 0
  if p == 1:
    assert np.all(u >= -e) and np.all(u <= room + e)
    close(down[(u > e) & free], weight, e)
    assert np.all(down[(u <= e) & open_] <= weight + e)
    assert np.all(down[(u > e) & ~free] >= weight - e)
    return
  if np.all(u <= e):
    dual = np.linalg.norm(size * open_, norms.dual(p))
    assert dual <= weight + e
    return
  if p != np.inf:
    pull = weight * (u / np.linalg.norm(u, p)) ** (p - 1)
    close(down[free], pull[free], e)
    assert np.all(down[~free] >= pull[~free] - e)
    return
  most = u >= u.max() - e
  assert np.all(down >= -e)
  close(down[free & ~most], 0, e)
  # The box takes part of what is missing at the level, from what it holds.
  assert down[most & free].sum() <= weight + e
  assert down[most].sum() >= weight - e


@EVERY_CASE
@hypothesis.given(
  ENTRIES, ROOMS, ROOMS, AMOUNTS, strategies.sampled_from(NORMS)
)
def test_the_proximal_point_of_a_norm_in_a_box(v, below, above, weight, p):
  got = RUN['prox'](v, weight, -below, above, p)
  assert np.all(got * v >= 0)
  room = room_of(v, -below, above)
  check_prox(np.abs(v), room, weight, np.abs(got), p)


@pytest.mark.parametrize('p', NORMS)
def test_a_proximal_map_takes_off_the_projection_on_the_dual_ball(p):
  # Moreau (1965), without a box: v = prox(v) + projection(v).
  v = np.random.default_rng(4).normal(size=(3, 4)).astype(np.float32)
  both = jax.jit(
    lambda v, w: (
      norms.prox(v, w, norm=p),
      norms.project_ball(v, w, norm=norms.dual(p)),
    )
  )
  for weight in (0.0, 0.3, 1.4, 50.0):
    near, on_ball = both(v, np.float32(weight))
    np.testing.assert_allclose(near + on_ball, v, rtol=1e-4, atol=2e-6)
  assert not np.any(near)


@pytest.mark.parametrize('name', ['smallest_step', 'project_ball', 'prox'])
def test_a_norm_known_early_gives_what_one_known_late_gives(name):
  rng = np.random.default_rng(5)
  v, low, high = rng.normal(size=NUM), -rng.uniform(size=NUM), 0.8
  for p in NORMS:
    with jax.enable_x64(True):
      got = getattr(norms, name)(v, 0.4, low, high, norm=p)
    late = RUN[name](v, 0.4, low, high, p)
    np.testing.assert_allclose(got, late, rtol=1e-12, atol=1e-14)
    # In the precision of `v`, whatever that of the rest is.
    if name != 'smallest_step':
      with jax.enable_x64(True):
        single = getattr(norms, name)(
          jnp.float32(v), np.array(0.4), low, high, norm=p
        )
      assert single.dtype == np.float32
      np.testing.assert_allclose(single, got, rtol=1e-5, atol=1e-6)
