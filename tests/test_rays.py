"""Crossings of segments and rays, beside plain numpy and closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import plain
import problems
import pytest

from dmm_jax import boundary
from dmm_jax.boundary import problem as problem_lib
from dmm_jax.boundary import rays
from dmm_jax.boundary.point import Segment
from dmm_jax.boundary.point import Status

EPS = float(jnp.finfo(jnp.float32).eps)


def polynomials(coefficients):
  """Two classes that are polynomials `[2, 6]` of one input, and one at 0."""
  powers = jnp.arange(6)

  def logits_fn(x):
    z = coefficients @ x[0] ** powers
    return jnp.concatenate([z[:1], jnp.zeros(1, z.dtype), z[1:]])

  return logits_fn


# Margins of class 0: almost a line, curves with several roots or steep at one
# end, and a third class that comes first beyond the boundary.
CURVES = np.array(
  [
    [[0.3, -1, 1e-4, 0, 0, 0], [-9, 0, 0, 0, 0, 0]],
    [[0.2, -0.5, 0.7, -3, 0, 0], [-9, 0, 0, 0, 0, 0]],
    [[1.0, 0, 0, 0, 0, -1.7], [-9, 0, 0, 0, 0, 0]],
    [[1.0, -9, 24, -19, 0, 0], [-9, 0, 0, 0, 0, 0]],
    [[0.6, -2, 1, 0.5, -0.9, 0.1], [-1, 1, 0, 2, 0, 0]],
    [[1e-3, -1e-3, 0, 0, -4, -7], [-1, 0, 0, 0, 0, 0.9]],
  ]
)
margin_of = lambda curve, t: min(
  np.polyval(curve[0][::-1], t),
  np.polyval((curve[0] - curve[1])[::-1], t),
)


def test_refinement_evaluates_where_chandrupatla_says():
  def refine(curve, ends, tolerance, before, most):
    logits_fn = polynomials(curve)
    problem = problems.create(logits_fn, jnp.zeros(1), 0)
    inner, outer = ends[:, None]
    near, far = (problem_lib.margin_at(problem, p) for p in (inner, outer))
    segment = Segment(
      inner, outer, near.value, far.value, far.runner_up, Status.FOUND, 0, 0
    )
    return rays.refine_crossing(
      problem,
      segment,
      tolerance=tolerance,
      before=before,
      max_forwards=most,
    )

  cases = [
    (curve, np.array(ends), tolerance, before, most)
    for curve in CURVES
    for ends in ((0.0, 1.0), (-0.2, 2.5))
    for tolerance, before in ((1e-2, 0.0), (1e-4, 2.0), (1e-9, 0.5))
    for most in (1, 2, 3, 4, 6, 40)
    if margin_of(curve, ends[0]) > 0 > margin_of(curve, ends[1])
  ]
  assert len(cases) > 100
  columns = jax.tree.map(lambda *v: np.asarray(v), *cases)
  with jax.enable_x64(True):
    got = jax.device_get(jax.jit(jax.vmap(refine))(*columns))
  evaluations = set()
  for i, (curve, (near, far), tolerance, before, most) in enumerate(cases):
    along = lambda t, c=curve, a=near, b=far: margin_of(c, a + t * (b - a))
    place, margin, used = plain.refine_crossing(
      along, along(0), along(1), tolerance, before, most
    )
    outer, found, target, forwards = (v[i] for v in got)
    assert forwards == used, cases[i]
    want = near + place * (far - near)
    np.testing.assert_allclose(outer[0], want, rtol=1e-8)
    np.testing.assert_allclose(found, margin, rtol=1e-4, atol=1e-13)
    last = np.polyval(curve[1][::-1], want) > 0
    assert target == (2 if last else 1)
    if most == 40:
      # A crossing lies within the tolerance.
      way = tolerance * (before + place) * (1 + 1e-6)
      inside = want - way * (far - near)
      assert margin_of(curve, inside) >= 0 > margin_of(curve, want)
      evaluations.add(used)
  # Two are enough on what is almost a line; where it bends it takes more.
  assert 2 in evaluations and len(evaluations) > 4


def test_at_most_forty_evaluations_refine_a_crossing():
  # No tolerance: to the limit, which is half an interval's each time.
  step = lambda x: jnp.stack([jnp.where(x[0] < 0.3, 1.0, -1.0), 0 * x[0]])
  problem = problems.create(step, jnp.zeros(1), 0)
  segment = Segment(jnp.zeros(1), jnp.ones(1), 1.0, -1.0, 1, Status.FOUND, 0, 0)
  segment = jax.tree.map(jnp.asarray, segment)
  outer, margin, _, forwards = rays.refine_crossing(
    problem, segment, tolerance=0.0
  )
  assert forwards == 40 and margin == -1
  np.testing.assert_allclose(outer, 0.3, rtol=1e-6)
  # Where the inner margin is not known: by bisection.
  unknown = segment._replace(margin_inner=jnp.float32(jnp.nan))
  outer, *_ = rays.refine_crossing(problem, unknown, tolerance=1e-3)
  assert 0.3 <= outer[0] <= 0.3012


def ray_cases():
  """`(params, x, step, low, high)` whose steps end anywhere."""
  for seed in range(12):
    rng = np.random.default_rng(seed)
    params = plain.draw(seed, curvature=(0.0, 0.3, 1.5)[seed % 3])
    x = rng.normal(size=3)
    z = plain.logits(params, x)
    label, second = np.argsort(-z)[:2]
    slope = params[0] + 2 * params[1] * x
    slope = slope[second] - slope[label]
    gap = z[label] - z[second]
    straight = gap * slope / (slope @ slope)
    low, high = np.full((2, 3), [[-np.inf], [np.inf]])
    if seed % 2:
      low, high = x - rng.uniform(0.1, 1.0, 3), x + rng.uniform(0.1, 1.0, 3)
    for length in (0.02, 0.3, 0.9, 1.05, 1.4, 3.0, 20.0, -0.5):
      yield params, x, length * straight, low, high


@pytest.mark.parametrize('within', [False, True], ids=['', 'subspace'])
def test_rays_are_followed_by_regula_falsi_and_secants(within):
  matrix = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 2)))[0]
  matrix = matrix @ matrix.T

  def follow(params, x, step, low, high, num):
    problem = problems.create(
      lambda v: plain.logits(params, v),
      x,
      jnp.argmax(plain.logits(params, x)),
      low=low,
      high=high,
      project=(lambda v: jnp.asarray(matrix) @ v) if within else None,
    )
    return rays.find_crossing(problem, step, num)

  cases = [(*case, num) for case in ray_cases() for num in (1, 2, 3, 4, 6, 9)]
  if within:
    cases = [(a, b, matrix @ c, *rest) for a, b, c, *rest in cases]
  columns = jax.tree.map(lambda *v: np.asarray(v), *cases)
  with jax.enable_x64(True):
    got = jax.device_get(jax.jit(jax.vmap(follow))(*columns))
  for i, (params, x, step, low, high, num) in enumerate(cases):
    label = int(np.argmax(plain.logits(params, x)))
    problem = plain.Problem(
      params, x, label, 2, low, high, matrix if within else None
    )
    point, found, margin, runner_up = plain.find_crossing(problem, step, num)
    row = jax.tree.map(lambda v, i=i: v[i], got)
    assert (row.found, row.runner_up) == (found, runner_up), cases[i]
    np.testing.assert_allclose(row.point, point, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(row.margin, margin, rtol=1e-6, atol=1e-12)
    assert row.forwards == num
  assert 0.2 < np.mean(got.found) < 0.95


def test_four_evaluations_follow_a_ray_and_nan_is_not_beyond():
  logits_fn = lambda x: jnp.stack(
    [jnp.where(x[0] > 1.2, jnp.nan, 1 - 0.1 * x[0]), 0 * x[0]]
  )
  problem = problems.create(logits_fn, jnp.zeros(1), 0)
  ray = rays.find_crossing(problem, jnp.ones(1))
  assert ray.forwards == rays.FORWARDS == 4
  # The first evaluation stays what is known; NaN after it is no progress.
  assert not ray.found and not jnp.isfinite(ray.margin)


def test_a_lead_within_rounding_is_not_yet_beyond():
  # Of a margin of 1 at the input, 1e-6 is what a crossing has to survive.
  logits_fn = lambda x: jnp.stack([1.0 - x[0], jnp.zeros(())])
  problem = problems.create(logits_fn, jnp.zeros(1), 0)
  follow = lambda t, num=1: rays.find_crossing(
    problem, jnp.full(1, 1 + t, jnp.float32), num
  )
  assert not follow(4e-7).found
  assert follow(4e-6).found
  # And ten times that is aimed at.
  assert follow(-0.1, 2).found
  np.testing.assert_allclose(follow(-0.1, 2).point, 1, atol=0.2)


# --- Probes along a ray ----------------------------------------------------

FAR, NUM = 8.0, 8


def slab(center, half=0.01):
  """Class 0 but within a slab; class 1 within, class 2 nowhere."""
  return lambda x: jnp.stack(
    [jnp.abs(x[1] - center) - half, 0 * x[1], 0 * x[1] - 5]
  )


def test_every_probe_is_evaluated_and_nothing_in_between():
  def look(center, direction, **options):
    return boundary.first_crossing(
      slab(center),
      jnp.array([0.5, 0.0]),
      direction * jnp.array([0.0, 3.0]),
      0,
      max_distance=FAR,
      num_probes=NUM,
      **options,
    )

  centers = jnp.arange(1, 2 * NUM + 2) / 2  # On probes and midway between.
  found = jax.jit(jax.vmap(lambda c: look(c, 1.0)))(centers)
  on_probe = np.asarray(centers) % 1 == 0
  np.testing.assert_array_equal(found.found, on_probe & (centers <= FAR))
  hit = np.asarray(found.found)
  edge = np.asarray(centers) - 0.01
  np.testing.assert_allclose(found.distance[hit], edge[hit], rtol=1e-4)
  assert np.all(found.distance[hit] >= edge[hit] * (1 - 1e-6))
  assert np.all(found.target[hit] == 1)
  assert np.all(found.margin[hit] < 0)
  np.testing.assert_allclose(
    found.margin[hit],
    np.abs(found.point[hit, 1] - centers[hit]) - 0.01,
    atol=1e-6,
  )
  np.testing.assert_array_equal(found.point[hit, 0], 0.5)
  missed = ~hit
  assert np.all(np.isinf(found.distance[missed]))
  np.testing.assert_array_equal(found.point[missed], [[0.5, 0]] * missed.sum())
  # One forward at the input, one each probe; a miss refines nothing.
  assert np.all(found.forwards[missed] == NUM + 1)
  assert np.all(found.forwards[hit] > NUM + 2)
  assert not look(1.0, 0.0).found and not look(1.0, -1.0).found


def test_a_ray_stops_at_the_first_of_several_crossings():
  logits_fn = lambda x: jnp.stack([jnp.cos(x[0]), jnp.zeros(())])
  look = jax.jit(
    lambda x, rtol: boundary.first_crossing(
      logits_fn,
      jnp.stack([x, 2.0]),
      jnp.array([7.0, 0.0]),
      0,
      max_distance=20.0,
      rtol=rtol,
    )
  )
  for rtol in (1e-2, 1e-4, 1e-6):
    found = look(0.25, rtol)
    error = found.distance / (np.pi / 2 - 0.25) - 1
    assert -1e-6 <= error <= rtol + 2e-6
    assert found.found and found.target == 1
    # Before the first probe too, though it is far behind.
    close = look(np.pi / 2 - 1e-2, rtol)
    assert -1e-4 <= close.distance / 1e-2 - 1 <= rtol + 1e-4
  defaults = boundary.first_crossing(
    logits_fn, jnp.zeros(1), jnp.ones(1), 0, max_distance=5.0
  )
  assert defaults.forwards > 32
  assert abs(defaults.distance / (np.pi / 2) - 1) <= 1e-4
  inside = boundary.first_crossing(
    logits_fn, jnp.zeros(1), jnp.ones(1), 1, max_distance=5.0
  )
  assert inside.found and inside.distance == 0 and inside.target == 0
  assert inside.forwards == 33


@pytest.mark.parametrize('p, size', [(1, 7.0), (2, 5.0), (np.inf, 4.0)])
def test_distances_of_a_ray_are_in_the_norm_and_within_the_box(p, size):
  # The direction has l1, l2 and linf norms 7, 5 and 4; class 1 from x1 = 2 on.
  logits_fn = lambda x: jnp.stack([2.0 - x[1], jnp.zeros(())])
  direction, start = jnp.array([3.0, 4.0]), jnp.zeros(2)
  look = lambda far, **options: boundary.first_crossing(
    logits_fn, start, direction, 0, max_distance=far, norm=p, **options
  )
  reach = size / 2
  found = look(1.01 * reach)
  np.testing.assert_allclose(found.distance, reach, rtol=1e-4)
  np.testing.assert_allclose(found.point, [1.5, 2.0], rtol=1e-4)
  assert not look(0.99 * reach).found
  # Within a box the path goes on along the box's side.
  boxed = look(1.01 * reach, bounds=(-1.0, jnp.array([1.0, 9.0])))
  np.testing.assert_allclose(boxed.point, [1.0, 2.0], rtol=1e-4)
  np.testing.assert_allclose(
    boxed.distance, np.linalg.norm([1.0, 2.0], p), rtol=1e-4
  )
  assert not look(1.01 * reach, bounds=(jnp.zeros(2), 1.0)).found


def test_a_probe_that_is_not_finite_is_no_boundary():
  logits_fn = lambda x: jnp.stack(
    [jnp.where((x[0] > 1.5) & (x[0] < 2.5), jnp.nan, 3.3 - x[0]), 0 * x[0]]
  )
  look = lambda num: boundary.first_crossing(
    logits_fn, jnp.zeros(1), jnp.ones(1), 0, max_distance=5.0, num_probes=num
  )
  np.testing.assert_allclose(look(5).distance, 3.3, rtol=1e-4)
  # The probe before the first one beyond was NaN.
  late = lambda x: jnp.where(x[0] < 1.5, 1.0, logits_fn(x)[0])
  both = boundary.first_crossing(
    lambda x: jnp.stack([jnp.where(x[0] < 2.5, late(x), -1.0), 0 * x[0]]),
    jnp.zeros(1),
    jnp.ones(1),
    0,
    max_distance=5.0,
    num_probes=5,
  )
  np.testing.assert_allclose(both.distance, 2.5, rtol=2e-4)
