"""What a search is given: margins, targets, linearisations, traced networks."""

import jax
import jax.numpy as jnp
import numpy as np
import plain
import problems
import pytest

from dmm_jax import margins
from dmm_jax.boundary import network as network_lib
from dmm_jax.boundary import problem as problem_lib
from dmm_jax.boundary import steps

NORMS = (1, 2, np.inf)
INF = np.inf
EPS = 2.0**-23


def create(logits, label=0, **options):
  """The problem of a network with these logits at its input."""
  z = jnp.array(logits, jnp.float32)
  return problems.create(lambda x: z + 0 * x[0], jnp.zeros(2), label, **options)


def test_margins_have_a_tolerance_and_a_runner_up():
  problem = create([3.0, 7.0, -20.0, 5.0], label=3)
  found = problem_lib.margin_of(problem, problem.logits)
  assert found.plain == -2 and found.runner_up == 1
  # Eight units of the larger of the two that meet, not of one farther away.
  np.testing.assert_allclose(found.value + 2, 7 * 8 * EPS, atol=3e-7)
  assert found.value > -2 and problem.margin == found.value
  at = problem_lib.margin_at(problem, jnp.ones(2))
  assert at == found


@pytest.mark.parametrize(
  'logits, plain_margin, usable',
  [
    ([1.0, -INF, 0.5], 0.5, True),
    ([1.0, np.nan, 0.5], None, False),
    ([1.0, INF, 0.5], None, False),
    ([INF, 1.0, 0.5], None, False),
    ([-INF, 1.0, 0.5], None, False),
    ([1.0, -INF, -INF], None, False),
    ([-INF, -INF, -INF], None, False),
  ],
)
def test_margins_that_cannot_be_used_are_nan(logits, plain_margin, usable):
  problem = create(logits)
  assert jnp.isfinite(problem.margin) == usable
  assert jnp.isnan(problem.margin) != usable
  if usable:
    found = problem_lib.margin_of(problem, problem.logits)
    assert found.plain == plain_margin


@pytest.mark.parametrize('x', [[np.nan, 0.0], [0.0, INF], [-INF, 1.0]])
def test_inputs_that_are_not_finite_have_no_margin(x):
  blind = lambda v: jnp.array([1.0, 0.0, 0.5])
  problem = problems.create(blind, jnp.array(x), 0)
  assert jnp.isnan(problem.margin)
  np.testing.assert_array_equal(problem.logits, [1.0, 0.0, 0.5])


def test_a_pair_knows_no_other_class():
  logits = jnp.array([4.0, 9.0, 1.0, 3.0])
  problem = create(logits, label=3)
  pair = problem_lib.restrict_to_pair(problem, jnp.int32(2))
  found = problem_lib.margin_of(pair, logits)
  assert found.plain == 2 and found.runner_up == 2
  assert pair.targets.tolist() == [2]
  assert pair.classes.tolist() == [False, False, True, False]
  assert problem_lib.margin_of(problem, logits).plain == -6
  # NaN and infinity count, whatever class has them.
  for bad in (jnp.nan, INF):
    assert jnp.isnan(problem_lib.margin_of(pair, logits.at[1].set(bad)).value)
  assert problem_lib.margin_of(pair, logits.at[1].set(-INF)).plain == 2


def test_likely_targets_are_the_largest_but_the_label():
  logits = jnp.array([0.5, 9.0, -INF, 3.0, 4.0])
  for label, num, want in (
    (1, 9, [4, 3, 0, 2]),
    (1, 2, [4, 3]),
    (4, 3, [1, 3, 0]),
    # A class at -inf comes before the label, which is none.
    (2, 9, [1, 4, 3, 0]),
    (0, 4, [1, 4, 3, 2]),
  ):
    got = problem_lib.likely_targets(logits, label, num)
    assert got.tolist() == want and got.dtype == jnp.int32
  many = create(jnp.arange(20.0), label=19)
  assert many.targets.tolist() == list(range(18, 9, -1))


def test_a_problem_is_what_it_was_given():
  x, low, high = jnp.array([1.0, 2.0]), jnp.array([0.0, -1.0]), 7.0
  problem = problems.create(
    lambda v: jnp.stack([v[0], v[1]]), x, 1, norm=1, low=low, high=high
  )
  down, up = problem.step_bounds
  np.testing.assert_array_equal(down, [-1, -3])
  np.testing.assert_array_equal(up, [6, 5])
  assert problem.label == 1 and problem.norm == 1 and problem.classes is None
  assert problem.project is None and problem.rank == 2
  np.testing.assert_array_equal(problem.logits, x)
  # A projection keeps the dtype of the geometry.
  within = problems.create(
    lambda v: v, x, 1, project=lambda v: v.astype(jnp.float16)
  )
  assert within.project(jnp.ones(2)).dtype == jnp.float32


@pytest.mark.parametrize('targets', [[2], [3, 0, 2]])
@pytest.mark.parametrize('within', [False, True])
def test_linearisations_are_those_of_the_closed_form(targets, within):
  params = plain.draw(3, size=2)
  x, p = np.array([0.3, -0.8]), np.array([0.7, 0.4])
  matrix = np.array([[0.5, 0.5], [0.5, 0.5]])
  with jax.enable_x64(True):
    problem = problems.create(
      lambda v: plain.logits(params, v),
      x,
      1,
      project=(lambda v: matrix @ v) if within else None,
    )
    got = problem_lib.linearize(problem, jnp.asarray(p), jnp.array(targets))
  want = plain.Problem(params, x, 1, project=matrix if within else None)
  gaps, gradients = zip(*(want.linearize(p, c) for c in targets), strict=True)
  np.testing.assert_allclose(got.gaps, gaps, rtol=1e-12)
  np.testing.assert_allclose(got.gradients, gradients, rtol=1e-12)
  margin, runner_up = want.margin(p)
  np.testing.assert_allclose(got.margin, margin, rtol=1e-12)
  assert got.runner_up == runner_up
  # Gaps have the tolerance of the two logits.
  z = want.logits(p)
  tolerance = (
    np.maximum(abs(z[1]), np.abs(z[targets])) * 8 * np.finfo(float).eps
  )
  np.testing.assert_allclose(
    np.asarray(got.gaps) - gaps, tolerance, atol=6e-16, rtol=0.3
  )


def test_gaps_have_a_tolerance_and_masked_targets_have_none():
  offsets = jnp.array([1000.0, 990.0, -4000.0, -INF])
  problem = problems.create(
    lambda x: offsets + jnp.array([2.0, 1.0, 3.0, 1.0]) * x[0], jnp.ones(1), 0
  )
  got = problem_lib.linearize(problem, problem.x, jnp.array([1, 2, 3]))
  want = np.array([11.0, 4999.0, 1.0])
  allowed = 8 * EPS * np.array([1002.0, 3997.0, 0.0])
  np.testing.assert_allclose(got.gaps - want, allowed, rtol=0.1, atol=1e-6)
  np.testing.assert_array_equal(got.gradients[:, 0], [1, -1, 0])


# --- Networks ---------------------------------------------------------------


def test_a_traced_network_has_logits_and_gradients():
  weights = jnp.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
  fn = lambda x: jnp.tanh(weights @ x.ravel())
  x = jnp.array([[0.1, -0.2, 0.3]])
  network = network_lib.trace(fn, x)
  assert network.num_classes == 2
  assert network.dtype == network.input_dtype == np.float32
  assert network.resolution == margins.dtype_resolution(jnp.float32)
  np.testing.assert_allclose(network_lib.logits(network, x), fn(x), rtol=1e-6)
  value, pull = network_lib.logits_and_pull(network, x)
  np.testing.assert_allclose(value, fn(x), rtol=1e-6)
  want = (jnp.array([2.0, -1.0]) * (1 - fn(x) ** 2)) @ weights
  got = pull(jnp.array([2.0, -1.0]))
  assert got.shape == x.shape
  np.testing.assert_allclose(got, want[None], rtol=1e-6)


@pytest.mark.parametrize(
  'given, returned, resolution',
  [
    (jnp.float16, jnp.float16, 2.0**-10),
    (jnp.bfloat16, jnp.float32, 2.0**-7),
    (jnp.float32, jnp.bfloat16, 2.0**-7),
    (jnp.float32, jnp.float16, 2.0**-10),
  ],
)
def test_half_precision_is_seen_in_float32(given, returned, resolution):
  seen = []

  def fn(x):
    seen.append(x.dtype)
    return jnp.stack([x[0], 3 * x[1]]).astype(returned)

  x = jnp.array([0.25, 0.5], given)
  network = network_lib.trace(fn, x)
  assert set(seen) == {jnp.dtype(given)}
  assert network.input_dtype == given and network.dtype == np.float32
  assert network.resolution == resolution
  at = jnp.array([0.3, 0.7])  # Of the geometry, rounded for the network.
  logits = network_lib.logits(network, at)
  value, pull = network_lib.logits_and_pull(network, at)
  assert logits.dtype == value.dtype == np.float32
  np.testing.assert_array_equal(logits, value)
  np.testing.assert_array_equal(logits, fn(at.astype(given)).astype(np.float32))
  slope = pull(jnp.array([1.0, -2.0]))
  assert slope.dtype == np.float32
  np.testing.assert_array_equal(slope, [1, -6])
  assert network_lib.geometry_dtype(given) == np.float32
  assert network_lib.geometry_dtype(np.float64) == np.float64


@pytest.mark.parametrize(
  'error, text, fn, dtype',
  [
    (TypeError, 'logits_fn must be a function of one input', 3, float),
    (TypeError, r'floating point, got int32.*rescale first', 'id', int),
    (
      TypeError,
      r'input \(3,\).*returned a tuple; select',
      lambda x: (x, 1),
      float,
    ),
    (TypeError, r'returned a dict', lambda x: {'logits': x}, float),
    (ValueError, r'k >= 2, but returned shape \(1,\)', lambda x: x[:1], float),
    (ValueError, r'shape \(1, 3\); for one output', lambda x: x[None], float),
    (ValueError, r'shape \(\)', lambda x: x[0], float),
    (TypeError, r'returned int32 for an input of float32', 'sort', float),
  ],
)
def test_what_is_no_network_is_named(error, text, fn, dtype):
  fn = (
    {'id': lambda x: x, 'sort': jnp.argsort}.get(fn, fn)
    if (isinstance(fn, str))
    else fn
  )
  with pytest.raises(error, match=text):
    network_lib.trace(fn, jnp.zeros(3, dtype))


# --- Steps -------------------------------------------------------------------


def test_planes_are_as_far_as_dual_norms_say():
  gradients = jnp.array([[3.0, 4.0], [0.0, 2.0], [0.0, 0.0], [jnp.nan, 1.0]])
  gaps = jnp.array([1.0, 2.0, 5.0, 1.0])
  for p, want in ((1, (0.25, 1)), (2, (0.2, 1)), (INF, (1 / 7, 1))):
    got = steps.plane_distances(gaps, gradients, p)
    np.testing.assert_allclose(got, [*want, INF, INF], rtol=1e-6)


def test_the_nearest_plane_is_stepped_on_and_over():
  gradients = jnp.array([[0.0, 2.0], [3.0, 4.0]])
  gaps = jnp.array([2.0, 1.0])
  problem = problems.create(
    lambda x: x, jnp.zeros(2), 0, low=-1.0, high=jnp.array([1.0, 0.2])
  )
  p = jnp.array([0.5, -0.25])
  # A fifth more than the gap of 1, or than one of 10 that is not closed yet.
  for options, gap in (
    ({}, 1.0),
    (dict(overshoot=0.2), 1.2),
    (dict(overshoot=0.2, least_gap=0.5), 1.2),
    (dict(overshoot=0.2, least_gap=10.0), 3.0),
  ):
    step, reach, index = steps.nearest_linear(
      problem, p, gaps, gradients, **options
    )
    np.testing.assert_allclose(step, -gap * gradients[1] / 25, rtol=1e-6)
    assert index == 1 and reach == pytest.approx(0.2)
  # The box is that of the point: the second coordinate has 0.75 left.
  step = steps.onto_plane(problem, p, gradients[1], jnp.float32(5.1), 2)
  np.testing.assert_allclose(step, [-0.7, -0.75], rtol=1e-6)
  upward = steps.onto_plane(problem, p, -gradients[1], jnp.float32(2.4), 2)
  np.testing.assert_allclose(upward, [0.288, 0.384], rtol=1e-5)
  none = steps.nearest_linear(problem, p, gaps, 0 * gradients)
  assert jnp.isinf(none[1]) and not jnp.any(none[0])


def test_steps_onto_planes_stay_in_the_subspace():
  onto = jnp.array([[0.5, 0.5], [0.5, 0.5]])
  problem = problems.create(
    lambda x: x, jnp.zeros(2), 0, high=1.0, low=-1.0, project=lambda v: onto @ v
  )
  g = onto @ jnp.array([3.0, 1.0])
  step = steps.onto_plane(problem, problem.x, g, jnp.float32(2.0), 1)
  np.testing.assert_allclose(step, [-0.5, -0.5], rtol=1e-6)


def test_step_sizes_fall_as_a_cosine():
  got = [float(steps.cosine(1.0, 0.2, t)) for t in (0, 1 / 3, 0.5, 1)]
  np.testing.assert_allclose(got, [1, 0.8, 0.6, 0.2], rtol=1e-6)
