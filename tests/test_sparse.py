"""Norm 0: the fewest changed inputs, against counting and brute force."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import problems
import pytest

from dmm_jax import boundary
from dmm_jax.boundary import inputs
from dmm_jax.boundary import paths
from dmm_jax.boundary import sparse
from dmm_jax.boundary.point import Status

BOX = (0.0, 1.0)
# (gradients, classes) -> (linearised, screened, rounds of each, candidates,
# rounds and exchanges of each).
SPLITS = {
  (12, 4): (3, 3, 1, 1, 1, 5),
  (40, 10): (4, 3, 3, 1, 6, 21),
  (300, 10): (9, 9, 8, 2, 27, 82),
  (1000, 3): (2, 2, 10, 2, 60, 429),
  (1000, 10): (9, 9, 10, 3, 60, 240),
}


def linear(seed, num_classes=4, shape=(3, 4, 2)):
  """Weights of a linear network, and an input with its class."""
  rng = np.random.default_rng(seed)
  weights = rng.normal(size=(num_classes, *shape)).astype(np.float32)
  x = rng.uniform(size=shape).astype(np.float32)
  x[0] = np.round(x[0])  # At an end of the box.
  return (
    weights,
    x,
    int(np.argmax(weights.reshape(num_classes, -1) @ x.ravel())),
  )


def fewest(weights, x, label, axes=None):
  """The least number of changes that a linear network needs in [0, 1]."""
  every = []
  for other in range(len(weights)):
    if other != label:
      g = weights[label].astype(float) - weights[other]
      gain = np.where(g > 0, g * x, -g * (1 - x))
      gain = gain.sum(axes).ravel() if axes else gain.ravel()
      most = np.cumsum(np.sort(gain)[::-1])
      gap = np.sum(g * x)
      every.append(1 + np.searchsorted(most, gap) if most[-1] > gap else np.inf)
  return min(every)


def apply(weights, x):
  return jnp.tensordot(weights, x, x.ndim)


@pytest.mark.parametrize('groups', [None, -1, (0, 2)])
@pytest.mark.parametrize('method', ['portfolio', 'fast', 'ray', 'linear'])
def test_a_linear_network_has_the_fewest_changes_by_counting(method, groups):
  axes = {-1: (2,), None: None}.get(groups, groups)
  find = jax.jit(
    lambda weights, x, label: boundary.nearest_point(
      lambda v: apply(weights, v),
      x,
      label,
      norm=0,
      bounds=BOX,
      method=method,
      max_gradients=100,
      groups=groups,
    )
  )
  finite = 0
  for seed in range(25):
    weights, x, label = linear(seed)
    found, want = find(weights, x, label), fewest(weights, x, label, axes)
    if np.isinf(want):
      assert method == 'linear' or found.distance == np.inf
      continue
    finite += 1
    assert found.distance == want, seed
    changed = np.asarray(found.point) != x
    assert np.sum(changed.any(axes) if axes else changed) == want
    assert np.all((found.point >= 0) & (found.point <= 1))
    if method == 'linear':
      assert found.status == Status.ESTIMATE
    else:
      values = apply(weights, found.point)
      assert found.status == Status.FOUND and values[label] < values.max()
  assert finite > 15


def relu_network(seed, n=7, width=10, num_classes=3):
  rng = np.random.default_rng(seed)
  first = rng.normal(size=(n, width)) * 2 / np.sqrt(n), rng.normal(size=width)
  last = rng.normal(size=(width, num_classes)), np.zeros(num_classes)
  return (*first, *last), rng.uniform(size=n)


def logits(params, x):
  w, b, v, c = params
  return jnp.maximum(x @ w + b, 0) @ v + c


def all_changes(n, num):
  """Which inputs go to which end, of all choices of `num` inputs."""
  for chosen in itertools.combinations(range(n), num):
    for ends in itertools.product(BOX, repeat=num):
      yield chosen, ends


def brute_force(params, x, label):
  for num in range(1, len(x) + 1):
    points = []
    for chosen, ends in all_changes(len(x), num):
      p = x.copy()
      p[list(chosen)] = ends
      points.append(p)
    hidden = np.maximum(np.array(points) @ params[0] + params[1], 0)
    values = hidden @ params[2]
    rest = np.delete(values, label, 1).max(1)
    if np.any(values[:, label] - rest < -1e-5):
      return num
  return np.inf


def test_small_networks_have_the_fewest_changes_by_brute_force():
  """Among changes to the ends of the box; each method's point is verified."""
  find = jax.jit(
    lambda params, x, label, method: boundary.nearest_point(
      lambda v: logits(params, v),
      x,
      label,
      norm=0,
      bounds=BOX,
      method=method,
      max_gradients=200,
    ),
    static_argnums=3,
  )
  least, excess = 0, {'portfolio': [], 'fast': [], 'sigma_zero': [], 'fmn': []}
  for seed in range(40):
    params, x = relu_network(seed)
    label = int(np.argmax(logits(params, x)))
    want = brute_force(params, x, label)
    if not np.any(x @ params[0] + params[1] > 0):
      continue  # Without a gradient there is no search.
    for method, more in excess.items():
      found = find(params, x, label, method)
      if found.status == Status.FOUND:
        point = np.asarray(found.point, float)
        assert np.sum(point != np.float32(x)) == found.distance
        values = np.asarray(logits(params, point))
        assert values[label] < np.delete(values, label).max() + 1e-5
      if method == 'portfolio' or np.isfinite(want):
        more.append(float(found.distance) - want if np.isfinite(want) else 0)
    least += want > 1 and np.isfinite(want)
  assert least > 10
  # An input may be of use halfway, which only the descents can find.
  assert np.all(np.array(excess['portfolio']) <= 0)
  assert np.mean(np.array(excess['fast']) <= 0) >= 0.85
  for name in ('sigma_zero', 'fmn'):
    assert np.mean(excess[name]) >= np.mean(excess['portfolio'])


def problem_of(weights, x, label, groups=None):
  return problems.create(
    lambda v: apply(weights, v), x, label, norm=0, low=0.0, high=1.0,
    groups=groups,
  )  # fmt: skip


def test_paths_go_by_what_inputs_can_do():
  gradient = jnp.array([1.0, -3.0, 0.0, 2.0, 0.5])
  x = jnp.array([0.5, 0.9, 0.5, 0.0, 1.0])
  problem = problem_of(jnp.stack([gradient, 0 * gradient]), x, 0)
  path = paths.steepest(problem, gradient)
  # They can lower it by 0.5, 0.3, 0, 0 and 0.5; equals in their order.
  np.testing.assert_allclose(path.gains, [0, 0.5, 1, 1.3, 1.3, 1.3], rtol=1e-6)
  assert path.moving == 3
  for num, want in (
    (0, x),
    (1, [0, 0.9, 0.5, 0, 1]),
    (3, [0, 1, 0.5, 0, 0]),
  ):
    np.testing.assert_allclose(paths.point(path, problem, num), want)
  for gap, num in ((0.0, 0), (0.2, 1), (0.6, 2), (1.1, 3), (9.0, 3)):
    assert paths.needed(path, gap) == num
  nothing = paths.steepest(problem, jnp.full(5, jnp.nan))
  assert nothing.moving == 0 and not np.any(nothing.gains)


@jax.jit
def follow_bent(g, x, gap, bend, start):
  """Follows the path of a margin that bends; and its value at every number."""

  def margin(v):
    fall = g @ (x - v)
    return gap - fall * (1 + bend * fall)

  problem = problems.create(
    lambda v: jnp.stack([margin(v), 0.0]), x, 0, norm=0, low=0.0, high=1.0
  )
  path = paths.steepest(problem, g)
  point = lambda num: paths.point(path, problem, num)
  values = jnp.stack([margin(point(k)) for k in range(len(x) + 1)])
  return sparse.follow(problem, path, start, 12), values


def test_a_path_is_followed_to_its_first_point_beyond():
  rng = np.random.default_rng(0)
  crossed = 0
  for bend, _ in itertools.product((0.0, 0.4, -0.1), range(10)):
    g, x = rng.uniform(0.1, 1, 12), rng.uniform(0.3, 1, 12)
    gap = rng.uniform(0.1, 0.8) * (g @ x)
    for start in (1, 5, 12):
      (point, found), values = follow_bent(g, x, gap, bend, start)
      beyond = np.asarray(values) < 0
      assert found == beyond.any() or not np.all(np.diff(beyond * 1) >= 0)
      if found:
        crossed += 1
        assert np.sum(point != np.float32(x)) == np.argmax(beyond)
      else:
        assert np.all(point == 0)
  assert crossed > 60


@pytest.mark.parametrize('num_classes', [2, 3, 10, 1000])
def test_no_more_gradients_are_spent_than_there_are(num_classes):
  for budget in (1, 2, 3, 5, 9, 10, 17, 40, 99, 100, 399, 400, 1000, 5000):
    plan = sparse.split(budget, num_classes)
    assert 0 < plan.cost <= budget or budget == 1
    assert plan.screened <= plan.expanded < num_classes
    assert plan.cost >= 0.9 * budget - 3 or budget < 5


def test_inputs_that_need_no_search_and_those_that_have_no_boundary():
  x = jnp.array([0.2, 0.8, 0.5])

  def find(logits_fn, label=0, method='portfolio'):
    options = dict(norm=0, bounds=BOX, max_gradients=30, method=method)
    one = lambda v: boundary.nearest_point(logits_fn, v, label, **options)
    return jax.jit(one)(x)

  plane = lambda v: jnp.stack([v @ jnp.array([1.0, 2.0, -1.0]), 1.0])
  assert find(plane, 1).status == Status.MISCLASSIFIED
  for method in ('portfolio', 'ray', 'fmn', 'sigma_zero'):
    far = find(lambda v: jnp.stack([9 + v[0], 0.0]), method=method)
    assert far.distance == jnp.inf and far.status == Status.NOT_FOUND, method
    flat = find(lambda v: jnp.stack([1 + 0 * v[0], 0.0]), method=method)
    assert flat.distance == jnp.inf, method
    assert flat.status == Status.ZERO_GRADIENT, method
    broken = find(lambda v: jnp.stack([v[0] * jnp.nan, 0.0]), method=method)
    assert broken.status == Status.NON_FINITE, method
  # A fixed input is never changed.
  fixed = boundary.nearest_point(
    plane,
    x,
    0,
    norm=0,
    bounds=(jnp.array([0.2, 0.0, 0.0]), jnp.array([0.2, 1.0, 1.0])),
  )
  assert fixed.distance == 1 and fixed.point[0] == x[0]


def test_one_call_measures_many():
  weights = [linear(seed)[0] for seed in range(3)]
  xs = np.stack([linear(seed)[1] for seed in range(5)])
  for weight in weights:
    found = boundary.measure(apply, xs, params=weight, norm=0, bounds=BOX)
    labels = [int(np.argmax(apply(weight, x))) for x in xs]
    want = [fewest(weight, x, c) for x, c in zip(xs, labels, strict=True)]
    np.testing.assert_array_equal(found.distance, want)
    pixels = boundary.measure(
      apply, xs, params=weight, norm=0, bounds=BOX, groups=-1
    )
    assert np.all(pixels.distance <= found.distance)


@pytest.mark.parametrize(
  'error, text, options',
  [
    (ValueError, 'two finite ends', dict()),
    (ValueError, 'two finite ends', dict(bounds=(0, None))),
    (ValueError, 'either norm=0 or project', dict(project=lambda v: v)),
    (ValueError, 'deepfool has no steps for norm 0', dict(method='deepfool')),
    (ValueError, 'norm must be 0 for method sig',
     dict(norm=1, method='sigma_zero')),
    (ValueError, 'groups are for norm 0', dict(norm=2, groups=-1)),
    (ValueError, 'groups are for norm 0', dict(method='fmn', groups=-1)),
    (ValueError, 'axes of an input of shape', dict(groups=3)),
    (ValueError, 'axes of an input of shape', dict(groups=())),
    (TypeError, 'an axis or axes', dict(groups='pixels')),
    (TypeError, 'an axis or axes', dict(groups=True)),
  ],
)  # fmt: skip
def test_what_does_not_go_with_counting_is_named(error, text, options):
  weights, x, label = linear(0)
  given = {'norm': 0, 'bounds': BOX} | options
  if not options:
    given['bounds'] = None
  for call in (
    lambda: boundary.nearest_point(
      lambda v: apply(weights, v), x, label, **given
    ),
    lambda: boundary.measure(lambda v: apply(weights, v), x[None], **given),
  ):
    with pytest.raises(error, match=text):
      call()


def test_methods_that_count_are_methods():
  assert set(inputs.GROUPING) < set(inputs.COUNTING) < set(boundary.METHODS)
  assert paths.check_groups((-1, 0, 2), (3, 4, 2)) == (0, 2)


def test_how_a_budget_is_split():
  """Classes linearised, screened, rounds of each; then of the nearest ones."""
  for given, want in SPLITS.items():
    assert tuple(sparse.split(*given)) == want, given


def test_gradients_are_averaged_with_falling_weight():
  rng = np.random.default_rng(4)
  first, curve = rng.normal(size=6), rng.normal(size=6)
  x, p, slope = rng.uniform(size=6), rng.uniform(size=6), rng.normal(size=6)
  margin = lambda v: 2 + first @ v + curve @ (v * v)
  problem = problems.create(
    lambda v: jnp.stack([margin(v), 0.0]),
    jnp.asarray(x, jnp.float32),
    0,
    norm=0,
    low=0.0,
    high=1.0,
  )
  state = sparse.State(
    point=jnp.asarray(p, jnp.float32),
    slope=jnp.asarray(slope, jnp.float32),
    offset=jnp.float32(0.7),
    best=problem.x,
    changes=jnp.float32(jnp.inf),
  )
  gradient = first + 2 * curve * p
  offset = margin(p) - gradient @ (p - x)
  for progress, weight in ((0.0, 1.0), (0.5, 0.55), (1.0, 0.1)):
    new = sparse._follow_path(problem, state, jnp.float32(progress))
    want = (1 - weight) * slope + weight * gradient
    np.testing.assert_allclose(new.slope, want, rtol=1e-4, atol=1e-5)
    want = (1 - weight) * 0.7 + weight * offset
    np.testing.assert_allclose(new.offset, want, rtol=1e-4, atol=1e-4)
    # A point on the path down the average.
    path = paths.steepest(problem, new.slope)
    num = np.sum(np.asarray(new.point != problem.x))
    np.testing.assert_array_equal(
      new.point, paths.point(path, problem, int(num))
    )


@pytest.mark.slow
def test_rounds_on_paths_begin_at_zero_and_end_before_one(monkeypatch):
  seen, real = [], sparse._follow_path

  def record(pair, state, progress):
    seen.append(float(progress))
    return real(pair, state, progress)

  monkeypatch.setattr(sparse, '_follow_path', record)
  problem = problem_of(*linear(1))
  with jax.disable_jit():
    sparse.search(problem, 20, jax.random.key(0))
  assert min(seen) == 0 and 0.5 < max(seen) < 1
