"""The distance law at infinite width and its bound, against closed forms."""

import hypothesis
from hypothesis import strategies
import numpy as np
import oracles
import pytest
from scipy import integrate
from scipy import linalg
from scipy import stats

from dmm_jax import nngp
from dmm_jax.nngp import gradients as gradients_lib
from dmm_jax.nngp import law

few = hypothesis.settings(deadline=None, derandomize=True, max_examples=30)
MIXED = np.array([[0.9, 0.3, -0.2], [0.3, 0.4, 0.1], [-0.2, 0.1, 2.0]])
X = np.array([0.3, -1.2, 0.7])
HALF_MEAN = np.sqrt(2 / np.pi)  # Of |N(0, 1)|.
HALF_MEDIAN = stats.norm.ppf(0.75)


def linear(matrix):
  """The kernel x^T M y, whose gradients have covariance M everywhere."""
  return lambda a, b, get: a @ matrix @ (a if b is None else b).T


# The scale of the law.


def test_scales_in_closed_form():
  sigma, stds = 1.7, np.array([0.5, 2.0, 0.1])
  scale = lambda norm, root=stds: nngp.scale_of_gradient(sigma, root, X, norm)
  want = sigma / np.sqrt(np.sum(stds**2))
  np.testing.assert_allclose(scale(2), want, rtol=1e-12)
  want = sigma / (HALF_MEAN * stds.sum())
  np.testing.assert_allclose(scale(np.inf), want, rtol=1e-12)
  # A square root of a covariance: its rows have the standard deviations.
  root = linalg.sqrtm(MIXED).real
  want = sigma / np.sqrt(np.trace(MIXED))
  np.testing.assert_allclose(scale(2, root), want, rtol=1e-12)
  want = sigma / (HALF_MEAN * np.sqrt(np.diag(MIXED)).sum())
  np.testing.assert_allclose(scale(np.inf, root), want, rtol=1e-12)
  assert nngp.scale_of_gradient(0.0, stds, X, 2) == 0
  assert nngp.scale_of_gradient(0.0, stds, X, 1, bounds=(-2.0, 2.0)) == 0
  for norm in (1, 2, np.inf):
    assert scale(norm, 0 * stds) == np.inf
  # Half of a scale below 1 is no scale of 0.
  assert 0 < nngp.scale_of_gradient(0.5, 1e3 * stds, X, 2) < 1e-3


@pytest.mark.parametrize('norm', [1, 1.5, 3])
def test_scales_by_draws(norm):
  """Mean dual norms of correlated and of independent normals."""
  q = np.inf if norm == 1 else norm / (norm - 1)
  rng, options = np.random.default_rng(5), {'num_draws': 40000}
  for covariance, root in (
    (MIXED, linalg.sqrtm(MIXED).real),
    (np.diag([0.3, 0.4, 2.0]), np.sqrt([0.3, 0.4, 2.0])),
  ):
    g = rng.normal(size=(400000, 3)) @ np.linalg.cholesky(covariance).T
    want = 1.7 / np.mean(np.linalg.norm(g, q, axis=1))
    found = nngp.scale_of_gradient(1.7, root, X, norm, **options)
    np.testing.assert_allclose(found, want, rtol=0.015)
  # Two independent ones: the mean of the larger is 2 / sqrt(pi).
  if norm == 1:
    found = nngp.scale_of_gradient(1.0, np.ones(2), X[:2], 1, **options)
    np.testing.assert_allclose(found, 2 * np.arctan(1) ** 0.5 / 2, rtol=0.01)


def test_draws_of_scales_follow_their_options():
  """guarantees.md: by default they are off by about 0.3 %."""
  scale = lambda **o: nngp.scale_of_gradient(
    1.0, np.ones(200), np.ones(200), 1, **o
  )
  assert scale() == scale(num_draws=1000, seed=0)
  found = [scale(seed=s) for s in range(20)]
  assert len(set(found)) == 20
  assert 0.001 < np.std(found) / np.mean(found) < 0.006
  assert scale(num_draws=10) != scale(num_draws=11)


def test_distance_scales_are_those_of_the_kernels_gradient(monkeypatch):
  kernel_fn, sigma = linear(MIXED), np.sqrt(X @ MIXED @ X)
  scale = lambda norm, **o: nngp.distance_scale(kernel_fn, X, norm, **o)
  mean = HALF_MEAN * np.sqrt(np.diag(MIXED)).sum()
  np.testing.assert_allclose(scale(np.inf), sigma / mean, rtol=1e-9)
  root = linalg.sqrtm(MIXED).real
  for options in (
    {'num_draws': 50, 'seed': 3},
    {'num_draws': 70, 'bounds': (-2.0, 1.5)},
    {},
  ):
    want = nngp.scale_of_gradient(sigma, root, X, 1, **options)
    np.testing.assert_allclose(scale(1, **options), want, rtol=1e-6)
  assert scale(1) == scale(1, bounds=None, num_draws=1000, seed=0)
  # By probes where they are asked for, and for large inputs.
  of_probes = lambda **o: (
    sigma
    / (HALF_MEAN * np.sqrt(nngp.gradient_variance(kernel_fn, X, **o)).sum())
  )
  for options in ({'num_probes': 3, 'seed': 2}, {'num_probes': 32}):
    want = of_probes(**options)
    np.testing.assert_allclose(scale(np.inf, **options), want, rtol=1e-12)
  assert scale(np.inf) != of_probes(num_probes=32)
  assert scale(1, num_probes=3, num_draws=9) != scale(1, num_probes=3)
  for module in (law, gradients_lib):
    monkeypatch.setattr(module, 'EXACT_SIZE', 2)
  want = of_probes(num_probes=32)
  np.testing.assert_allclose(scale(np.inf), want, rtol=1e-12)
  monkeypatch.setattr(law, 'EXACT_SIZE', 3)
  np.testing.assert_allclose(scale(np.inf), sigma / mean, rtol=1e-9)
  # A constant has no gradient.
  constant = lambda a, b, get: 0.0 * (a @ (a if b is None else b).T) + 0.5
  assert nngp.distance_scale(constant, X, 2) == np.inf


def test_distance_scale_of_dense_networks_has_closed_form():
  """|x| / sqrt(n) in l2, without biases."""
  x = np.random.default_rng(4).uniform(size=30)
  scale = nngp.distance_scale(nngp.fully_connected(1)[2], x, 2)
  np.testing.assert_allclose(scale, np.linalg.norm(x) / 30**0.5, rtol=1e-6)


# In a box.


@pytest.mark.parametrize('norm', [1, 2, np.inf])
def test_distances_to_planes_within_a_box(norm):
  """Steps that are linear programs, or quadratic ones; inf out of reach."""
  rng = np.random.default_rng(6)
  x, low, high = np.array([0.1, 0.5, -0.2, 0.4]), -0.3, 0.6
  g = rng.normal(size=(12, 4))
  farthest = np.sum(np.where(g > 0, g * (high - x), g * (low - x)), axis=1)
  gaps = farthest * np.linspace(0.1, 1.3, 12)
  found = law._box_distances(
    *(v.astype(np.float32) for v in (g, gaps, x)),
    np.float32(low),
    np.float32(high),
    norm=norm,
  )
  for row, gap, reach, distance in zip(g, gaps, farthest, found, strict=True):
    if gap > reach:
      assert distance == np.inf
    else:
      want = oracles.smallest_step(np.eye(4), row, gap, low - x, high - x, norm)
      np.testing.assert_allclose(distance, want, rtol=1e-3)


def test_scales_in_a_box_have_the_law_s_median():
  """Of one input: the median of |N| / |N| is 1, where the box allows it."""
  scale = lambda sigma, x, **o: nngp.scale_of_gradient(
    sigma, np.array([4.0]), np.array([x]), 1, num_draws=40000, **o
  )
  wide = scale(0.8, 0.2, bounds=(-0.6, 0.9))
  np.testing.assert_allclose(wide, 0.2 / HALF_MEDIAN, rtol=0.03)
  np.testing.assert_allclose(
    scale(0.8, 0.2, bounds=(-9.0, 9.0)), wide, rtol=1e-3
  )
  # The gaps are quantiles, of a single draw the median.
  one = nngp.scale_of_gradient(
    0.8, np.array([4.0]), np.array([0.2]), 1, num_draws=1, bounds=(-99.0, 99.0)
  )
  plain = nngp.scale_of_gradient(
    0.8, np.array([4.0]), np.array([0.2]), 1, num_draws=1
  )
  np.testing.assert_allclose(one, plain, rtol=1e-5)
  # Room on one side alone: less than half of the boundaries are in reach.
  for bounds in ((-0.6, 0.2), (0.2, 0.9)):
    assert scale(0.8, 0.2, bounds=bounds) == np.inf
  # Little room below: F(m) + F(0.1) is 1, with F the law of 0.2 |N| / |N|,
  # 2 / pi arctan(m / 0.2); arctan(2) + arctan(1 / 2) is pi / 2.
  tight = scale(0.8, 0.2, bounds=(0.1, 0.9))
  np.testing.assert_allclose(tight, 0.4 / HALF_MEDIAN, rtol=0.05)


def test_scales_in_a_box_of_many_inputs():
  x = np.full(300, 0.5)
  scale = lambda norm, **o: nngp.scale_of_gradient(
    np.linalg.norm(x), np.ones(300), x, norm, **o
  )
  # A box too far away to matter, and one so near that it must.
  for norm in (2, np.inf):
    far = scale(norm, bounds=(-9.0, 9.0))
    np.testing.assert_allclose(far, scale(norm), rtol=0.02)
  boxed = scale(1, bounds=(0.0, 1.0))
  assert scale(1) * 1.1 < boxed < scale(1) * 2
  # The greedy rule by hand: whole pixels in order of |gradient|.
  rng = np.random.default_rng(0)
  distances = []
  for _ in range(4000):
    gap = abs(rng.normal()) * np.linalg.norm(x)
    g = np.sort(np.abs(rng.normal(size=x.size)))[::-1]
    filled = np.concatenate([[0], np.cumsum(g * 0.5)])
    k = np.searchsorted(filled, gap) - 1
    distances.append(0.5 * k + (gap - filled[k]) / g[k])
  np.testing.assert_allclose(
    boxed, np.median(distances) / HALF_MEDIAN, rtol=0.05
  )


def test_bounds_of_scales_are_checked():
  x = np.array([0.5, 0.2, 0.7])
  scale = lambda *bounds, x=x, norm=1: nngp.scale_of_gradient(
    1.0, 9 * np.ones(3), x, norm, bounds=bounds
  )
  for bounds in ((0.3, 1.0), (0.0, 0.6), (1.0, 0.0), (0.0, np.nan)):
    with pytest.raises(
      ValueError, match='x must lie within bounds, low < high'
    ):
      scale(*bounds)
  with pytest.raises(ValueError, match=r'from 0\.2 to 0\.7 and bounds'):
    nngp.distance_scale(linear(MIXED), x, 1, bounds=(0.3, 1.0))
  with pytest.raises(ValueError, match='x must lie within bounds, low < high'):
    scale(0.5, 0.5, x=np.full(3, 0.5))
  # Rounding is no reason: 1e-6 of the larger of 1 and the bounds.
  for near, bounds in (
    (0.9e-6, (0.2, 0.7)),
    (0.9e-3, (0.2, 1000.0)),
    (0.9e-3, (-1000.0, 0.7)),
  ):
    for over in (near, 1.5 / 0.9 * near):
      xs = np.where(
        x == 0.2, bounds[0] - over, np.where(x == 0.7, bounds[1] + over, x)
      )
      if over == near:
        assert scale(*bounds, x=xs) == scale(*bounds, x=np.clip(xs, *bounds))
      else:
        for one in (np.maximum(xs, bounds[0]), np.minimum(xs, bounds[1])):
          with pytest.raises(ValueError, match='x must lie within bounds'):
            scale(*bounds, x=one)
  assert scale(-np.inf, 1.0) > 0 and scale(-2.0, np.inf) > 0


# The law of several inputs and classes.


@few
@hypothesis.given(
  scales=strategies.lists(strategies.floats(0.1, 9), min_size=1, max_size=4),
  p=strategies.floats(0.02, 0.98),
  num=strategies.integers(2, 6),
)
def test_quantiles_invert_the_distribution(scales, p, num):
  radius = nngp.distance_quantile(scales, p, num)
  np.testing.assert_allclose(
    nngp.distance_cdf(scales, radius, num), p, atol=1e-8
  )
  if len(set(scales)) == 1 and num == 2:
    np.testing.assert_allclose(
      radius, scales[0] * stats.halfnorm.ppf(p), rtol=1e-9
    )


def test_distribution_of_two_classes_is_the_mean_of_half_normals():
  scales, radii = [0.5, 2.0, 3.0], np.array([[0.1, 0.7], [1.0, 4.0]])
  want = np.mean([stats.halfnorm.cdf(radii / s) for s in scales], axis=0)
  found = nngp.distance_cdf(scales, radii)
  np.testing.assert_allclose(found, want, rtol=1e-12)
  assert nngp.distance_cdf(scales, 0.7).shape == ()
  median = nngp.distance_quantile(scales, 0.5)
  np.testing.assert_allclose(nngp.distance_cdf(scales, median), 0.5, rtol=1e-9)
  found = nngp.distance_quantile(np.array([[3.0, 3.0]]), 0.3)
  np.testing.assert_allclose(found, 3 * stats.halfnorm.ppf(0.3), rtol=1e-12)
  np.testing.assert_allclose(nngp.distance_slope(2.0), np.sqrt(2 * np.pi))


@pytest.mark.parametrize('num', [3, 5])
def test_the_law_of_several_classes(num):
  """The gap between the largest two of standard normals, over sqrt(2)."""

  def share(gap):
    """Of the largest at t, with all others at least sqrt(2) gap below it."""
    inner = lambda t: stats.norm.pdf(t) * stats.norm.cdf(t - gap) ** (num - 1)
    return 1 - num * integrate.quad(inner, -9, 9, epsabs=1e-12)[0]

  radii = np.array([0.05, 0.4, 2.0])
  want = np.mean(
    [[share(np.sqrt(2) * r / s) for r in radii] for s in (0.5, 2.0)], axis=0
  )
  found = nngp.distance_cdf([0.5, 2.0], radii, num)
  np.testing.assert_allclose(found, want, rtol=1e-8)
  draws = np.sort(np.random.default_rng(0).normal(size=(200000, num)))
  gaps = (draws[:, -1] - draws[:, -2]) / np.sqrt(2)
  drawn = np.mean([np.mean(gaps * s <= 0.4) for s in (0.5, 2.0)])
  np.testing.assert_allclose(found[1], drawn, atol=0.005)
  # Its slope at 0, and that of its quantiles, which is the inverse.
  step = 1e-5
  density = nngp.distance_cdf([0.5, 2.0], step, num) / step
  slope = nngp.distance_slope([0.5, 2.0], num)
  np.testing.assert_allclose(1 / slope, density, rtol=1e-4)


@pytest.mark.parametrize('num_classes', [2, 3])
def test_the_law_with_scales_of_zero(num_classes):
  scales = [0.0, 1.0]
  cdf = nngp.distance_cdf(scales, [0.0, 0.5], num_classes)
  alone = nngp.distance_cdf([1.0], [0.0, 0.5], num_classes)
  np.testing.assert_allclose(cdf, (1 + alone) / 2, atol=1e-6)
  assert nngp.distance_quantile(scales, 0.3, num_classes) == 0
  median = nngp.distance_quantile([1.0], 0.5, num_classes)
  np.testing.assert_allclose(
    nngp.distance_quantile(scales, 0.75, num_classes), median, rtol=1e-4
  )
  assert nngp.distance_slope(scales, num_classes) == 0
  assert nngp.distance_quantile([0.0, 0.0], 0.3, num_classes) == 0
  # And of infinity, where a gradient is zero.
  assert nngp.distance_quantile([1.0, np.inf], 0.3, num_classes) == np.inf


# The bound.


def mean_dual_norm(n, norm):
  """E||g||_q of n standard normals, or a bound of it."""
  if norm == 1:  # A union bound of the largest of 2 n.
    return np.sqrt(2 * np.log(2 * n))
  if norm == 2:
    return stats.chi(n).mean()
  q = 1 if norm == np.inf else norm / (norm - 1)
  power = stats.norm.expect(lambda v: np.abs(v) ** q, lb=-12, ub=12)
  return (n * power) ** (1 / q)


@pytest.mark.parametrize('norm', [1, 1.5, 2, 3, np.inf])
def test_flip_bound_is_its_formula(norm):
  """guarantees.md: at every n, at most 1."""
  x, gain, variance = np.array([[0.3, -0.7], [2.0, 0.4], [1.0, -1.1]]), 1.7, 0.9
  per_unit = np.sqrt(gain / 6 / variance)
  corner = 6 ** max(
    0, 0.5 - 1 / norm
  )  # l2 length of the ball's farthest point.
  radii = np.array([0.0, 0.02, 0.1, 0.999 / (per_unit * corner)])
  want = HALF_MEAN * per_unit * radii * mean_dual_norm(6, norm)
  want = want / (1 - per_unit * radii * corner)
  bound = lambda radius: nngp.flip_bound(
    None, x, radius, norm, gain=gain, variance=variance
  )
  np.testing.assert_allclose(bound(radii), np.minimum(want, 1), rtol=1e-7)
  assert 0 < bound(radii)[1] < bound(radii)[2] < 1
  beyond = np.array([1.0, 1.001, 50.0]) / (per_unit * corner)
  np.testing.assert_array_equal(bound(beyond), 1)
  assert bound(0.1).shape == () and bound([[0.1]]).shape == (1, 1)
  # A bound of the mean dual norm indeed.
  g = np.random.default_rng(0).normal(size=(20000, 6))
  q = {1: np.inf, np.inf: 1}.get(norm) or norm / (norm - 1)
  drawn = np.mean(np.linalg.norm(g, q, axis=1))
  assert drawn < 1.005 * law._mean_dual_norm(6, norm)
  np.testing.assert_allclose(
    law._mean_dual_norm(6, norm), mean_dual_norm(6, norm), rtol=1e-7
  )


def test_flip_bound_takes_what_is_known_of_the_network():
  radius, x = 0.05, np.arange(1.0, 5.0)
  bound = lambda kernel_fn, **o: nngp.flip_bound(kernel_fn, x, radius, 2, **o)
  plain = linear(np.diag([0.5, 0.7, 2.0, 0.1]))
  want = bound(plain, gain=4 * 2.0, variance=nngp.output_variance(plain, x))
  np.testing.assert_allclose(bound(plain), want, rtol=1e-12)
  own = linear(np.diag([0.5, 0.7, 2.0, 0.1]))
  own.gain = 30.0
  np.testing.assert_allclose(bound(own), bound(plain, gain=30.0), rtol=1e-12)
  np.testing.assert_allclose(bound(own, gain=8.0), want, rtol=1e-12)
  assert bound(own, variance=9.0) == bound(own, variance=9.0, gain=30.0)
  assert bound(own, variance=9.0) != bound(own)
  # Where C is not diagonal, by 32 probes of it.
  mixed = linear(np.eye(4) + 0.3)
  of_probes = nngp.gradient_variance(mixed, x, num_probes=32).max()
  assert bound(mixed) == bound(mixed, gain=4 * of_probes)
  assert bound(mixed, gain=0.0) == 0 and bound(mixed, variance=0.0) == 1
  for name in ('gain', 'variance'):
    for value in (-1.0, np.nan, np.inf):
      with pytest.raises(
        ValueError, match=f'{name} must be finite and not neg'
      ):
        bound(mixed, **{name: value})
  assert 0 < bound(mixed, gain=0.5, variance=0.5) < 1
