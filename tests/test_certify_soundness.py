"""No bound above the distance: random small networks of each operation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dmm_jax import boundary
from dmm_jax import certify
from dmm_jax.certify import functions

SHAPE = 4, 4, 2
NUM = 60  # Networks of each structure and norm.
BOX = 0.0, 1.0
relu = jax.nn.relu


def convolve(x, kernel, stride=1, padding='SAME', groups=1):
  return jax.lax.conv_general_dilated(
    x[None],
    kernel,
    (stride, stride),
    padding,
    dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
    feature_group_count=groups,
  )[0]


def pool(x, operation, start, window, stride):
  given = (window, window, 1), (stride, stride, 1), 'VALID'
  return jax.lax.reduce_window(x, start, operation, *given)


def largest(x, window=2, stride=2):
  return pool(x, jax.lax.max, -jnp.inf, window, stride)


def dense(p, name, x):
  return x.reshape(-1) @ p[name] + p[f'{name}_bias']


def activated(fn):
  return lambda p, x: dense(p, 'b', fn(dense(p, 'a', x)))


WEIGHTS = {
  'a': (32, 8),
  'b': (8, 3),
  'c': (3, 3, 2, 2),
  'd': (2, 2, 2, 3),
  'e': (3, 3, 1, 2),
  'f': (8, 8),
  's': (8,),
}
STRUCTURES = {
  'relu': activated(relu),
  'deep': lambda p, x: dense(
    p, 'b', relu(dense(p, 'f', relu(dense(p, 'a', x))))
  ),
  'leaky': activated(jax.nn.leaky_relu),
  'absolute': activated(jnp.abs),
  'clipped': activated(lambda z: jnp.clip(z, -0.3, 0.5)),
  'maximum': activated(lambda z: jnp.maximum(z, z[::-1] / 2)),
  'minimum': activated(lambda z: jnp.minimum(z, 0.2)),
  'sigmoid': activated(jax.nn.sigmoid),
  'tanh': activated(jnp.tanh),
  'softplus': activated(jax.nn.softplus),
  'silu': activated(jax.nn.silu),
  'gelu': activated(lambda z: jax.nn.gelu(z, approximate=False)),
  'gelu_tanh': activated(jax.nn.gelu),
  'normalised': lambda p, x: dense(
    p, 'b', relu((dense(p, 'a', x) - 0.1) / 1.3 * p['s'] + p['s'][::-1])
  ),
  'residual': lambda p, x: dense(
    p, 'b', relu(dense(p, 'a', x)) + dense(p, 'f', relu(dense(p, 'a', x)))
  ),
  'convolution': lambda p, x: dense(
    p, 'b', pool(relu(convolve(x, p['c'])), jax.lax.add, 0.0, 2, 2)
  ),
  'max_pool': lambda p, x: dense(p, 'b', largest(relu(convolve(x, p['c'])))),
  'overlapping': lambda p, x: dense(p, 'b', largest(convolve(x, p['c']), 3, 1)),
  'groups': lambda p, x: dense(
    p, 'b', relu(convolve(x, p['e'], 2, 'SAME', groups=2))
  ),
  'joined': lambda p, x: dense(
    p,
    'b',
    jnp.concatenate(
      [
        relu(convolve(x, p['c'], 2)).transpose(2, 0, 1).ravel()[:4],
        jnp.where(jnp.arange(4) > 1, x[0].ravel()[:4], -x[1].ravel()[4:]),
      ]
    ),
  ),
  'largest': lambda p, x: (
    dense(p, 'f', relu(dense(p, 'a', x))).reshape(4, 2).max(1)
  ),
}
RELUS = [
  name
  for name in STRUCTURES
  if name not in ('sigmoid', 'tanh', 'softplus', 'silu', 'gelu', 'gelu_tanh')
]
CONVOLUTIONS = 'convolution', 'max_pool', 'overlapping', 'groups', 'joined'


def draw(seed):
  """Weights, and inputs near which there is a boundary."""
  rng = np.random.default_rng(seed)
  params = {}
  for name, shape in WEIGHTS.items():
    size = np.prod(shape[:-1]) if len(shape) > 1 else 1
    params[name] = rng.normal(size=shape) * (2 / size) ** 0.5
    params[f'{name}_bias'] = 0.3 * rng.normal(size=shape[-1])
  xs = rng.uniform(size=(4, *SHAPE))
  params = {k: jnp.asarray(v, jnp.float32) for k, v in params.items()}
  return params, xs.astype(np.float32)


def check(name, norm, seeds):
  """Returns how many bounds were compared with a point that was found."""
  apply, compared = STRUCTURES[name], 0
  predict = jax.jit(jax.vmap(lambda p, x: apply(p, x).argmax(), (None, 0)))
  for seed in seeds:
    params, xs = draw(seed)
    labels = np.asarray(predict(params, xs))
    options = dict(norm=norm, bounds=BOX)
    found = boundary.measure(
      apply, xs, labels, params=params, max_gradients=60, **options
    ).distance
    fn = lambda x, params=params: apply(params, x)
    lower = certify.lower_bounds(fn, xs, labels, num_steps=3, **options)
    assert np.all(lower <= found * (1 + 1e-5) + 1e-6), (seed, lower, found)
    assert np.all(lower >= 0)
    compared += np.sum(np.isfinite(found) & (lower > 0))
  return compared


@pytest.mark.slow
@pytest.mark.parametrize('norm', [1, 2, np.inf])
@pytest.mark.parametrize('name', STRUCTURES)
def test_no_bound_is_above_a_point(name, norm):
  start = 1000 * list(STRUCTURES).index(name)
  assert check(name, norm, range(start, start + NUM)) > NUM / 2


@pytest.mark.slow
@pytest.mark.parametrize('norm', [1, 2, np.inf])
@pytest.mark.parametrize('name', CONVOLUTIONS)
def test_no_bound_of_operators_is_above_a_point(monkeypatch, name, norm):
  monkeypatch.setattr(functions, 'DENSE', 0)
  start = 100_000 + 1000 * list(STRUCTURES).index(name)
  assert check(name, norm, range(start, start + NUM)) > NUM / 2


@pytest.mark.slow
@pytest.mark.parametrize('norm', [1, 2, np.inf])
@pytest.mark.parametrize('name', RELUS)
def test_no_bound_is_above_the_distance(name, norm):
  for seed in range(3):
    params, xs = draw(200_000 + seed)
    fn = lambda x, params=params: STRUCTURES[name](params, x)
    label, options = int(fn(xs[0]).argmax()), dict(norm=norm, bounds=BOX)
    box = np.zeros(xs[0].size), np.ones(xs[0].size)
    layers = functions.as_layers(fn, xs[0], *box)
    distance, _, _ = certify.exact_distance(layers, xs[0], label, **options)
    for steps in (0, 5):
      lower = certify.lower_bound(
        fn, xs[0], label, num_steps=5, quadratic_steps=steps, **options
      )
      assert lower <= distance * (1 + 1e-6)
