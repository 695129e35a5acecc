"""Norms of any p: closed forms, solvers, and the order of norms."""

import itertools
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize

from dmm_jax import boundary
from dmm_jax import certify

SLOW = ('portfolio', 'deepfool')  # Of steps that the others take as well.
EXPONENTS = (1, 1.1, 1.3, 1.5, 2, 3, 4, 10, np.inf)


def linear(seed, num_classes=4, n=12):
  rng = np.random.default_rng(seed)
  weights = rng.normal(size=(num_classes, n)).astype(np.float32)
  x = rng.uniform(size=n).astype(np.float32)
  return weights, x, int(np.argmax(weights @ x))


def planes(weights, x, label):
  """The gap and the gradient of each other class."""
  for other in range(len(weights)):
    if other != label:
      g = weights[label].astype(float) - weights[other]
      yield g @ x, g


@pytest.mark.parametrize(
  'method',
  [
    *(pytest.param(m, marks=pytest.mark.slow) for m in SLOW),
    *('fast', 'ray'),
  ],
)
def test_linear_networks_have_the_closed_form(method):
  find = lambda weights, x, label, p: boundary.nearest_point(
    lambda v: weights @ v, x, label, norm=p, method=method, max_gradients=60
  )
  late = jax.jit(find)
  for seed in range(3):
    weights, x, label = linear(seed)
    for p in EXPONENTS:
      found = late(weights, x, label, jnp.float32(p))
      q = {1: np.inf, np.inf: 1}.get(p) or p / (p - 1)
      want = min(
        gap / np.linalg.norm(g, q) for gap, g in planes(weights, x, label)
      )
      np.testing.assert_allclose(found.distance, want, rtol=1e-3)
      v = np.asarray(found.point, float) - x
      np.testing.assert_allclose(np.linalg.norm(v, p), found.distance, 1e-5)
  early = jax.jit(lambda *v: find(*v, 1.3))(weights, x, label)
  again = late(weights, x, label, jnp.float32(1.3))
  np.testing.assert_allclose(early.distance, again.distance, rtol=1e-5)


def least_in_box(gap, g, x, p):
  """By SLSQP, from the linear step; inf out of reach."""
  most = np.where(g > 0, g * x, -g * (1 - x)).sum()
  if most < gap:
    return np.inf
  out = optimize.minimize(
    lambda v: np.linalg.norm(v, p),
    np.where(g > 0, -x, 1 - x) * gap / most,
    jac=lambda v: np.sign(v) * (np.abs(v) / np.linalg.norm(v, p)) ** (p - 1),
    bounds=list(zip(-x, 1 - x, strict=True)),
    constraints={
      'type': 'eq',
      'fun': lambda v: gap + g @ v,
      'jac': lambda v: g,
    },
    options={'ftol': 1e-13, 'maxiter': 1000},
  )
  return out.fun


def test_linear_networks_in_a_box_agree_with_a_solver():
  find = jax.jit(
    jax.vmap(
      lambda weight, x, p: boundary.nearest_point(
        lambda v: weight @ v,
        x,
        jnp.argmax(weight @ x),
        norm=p,
        bounds=(0.0, 1.0),
        max_gradients=60,
      ),
      in_axes=(0, 0, None),
    )
  )
  for p in (1.1, 1.5, 3, 10):
    weights, xs, want = [], [], []
    for seed in range(5):
      weight, x, label = linear(seed)
      every = [least_in_box(*plane, x.astype(float), p)
               for plane in planes(weight, x, label)]  # fmt: skip
      weights.append(weight), xs.append(x), want.append(min(every))
    found = find(np.array(weights), np.array(xs), jnp.float32(p))
    assert np.isfinite(want).sum() > 3
    np.testing.assert_allclose(found.distance, want, rtol=5e-3)


@pytest.fixture(scope='module')
def digits():
  folder = os.environ.get('DMM_REFERENCE')
  if not folder:
    pytest.skip('no folder of reference networks: set DMM_REFERENCE')
  found = np.load(f'{folder}/digits_mlp_tiny.npz')
  layers = [
    (found[f'fc{i}_kernel'], found[f'fc{i}_bias'])
    for i in range(9)
    if f'fc{i}_kernel' in found
  ]
  return layers, found['x'][:20].reshape(20, -1), found['y'][:20]


def logits(layers, x):
  for w, b in layers[:-1]:
    x = jax.nn.relu(x @ w + b)
  return x @ layers[-1][0] + layers[-1][1]


@pytest.mark.slow
def test_distances_and_bounds_lie_in_the_order_of_norms(digits):
  """d_p >= d_q >= d_p n^(1/q - 1/p) for p < q, of the true distances."""
  layers, xs, labels = digits
  n, found, certified = xs.shape[1], {}, {}
  norms = (1, 1.2, 1.5, 2, 3, 6, np.inf)
  for p in norms:
    given = dict(norm=p, bounds=(0, 1))
    point = boundary.measure(
      logits, xs, labels, params=layers, max_gradients=400, **given
    )
    found[p] = point.distance
    certified[p] = certify.lower_bounds(
      layers, xs, labels, num_steps=0, **given
    )
    assert np.all(certified[p] <= found[p] * (1 + 1e-6))
  for p, q in itertools.pairwise(norms):
    # A search may be off by a little: half a percent of room.
    assert np.all(found[q] <= found[p] * 1.005)
    assert np.all(found[p] <= found[q] * n ** (1 / p - 1 / q) * 1.005)
    # What is found in one norm bounds the distance in another.
    assert np.all(certified[q] <= found[p] * (1 + 1e-6))
