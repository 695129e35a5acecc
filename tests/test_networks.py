"""Networks as users have them: retrained, masked, in any precision and form.

The network is linear, so that every distance has a closed form.
"""

import dataclasses
import itertools
import resource
import types

import flax
from flax import linen as nn
from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest

from dmm_jax import boundary
from dmm_jax import margins
from dmm_jax import norms
from dmm_jax import parallel
from dmm_jax.boundary import network as network_lib
from dmm_jax.boundary.point import Status

SIZE, CLASSES, NUM = 6, 3, 4
NORMS = (1, 2, np.inf)
QUICK = ('linear', 'ray')
# Norm 0 has tests of its own.
SLOW = tuple(m for m in boundary.METHODS if m not in (*QUICK, 'sigma_zero'))
slow = lambda *values: pytest.param(*values, marks=pytest.mark.slow)
each_method = pytest.mark.parametrize('method', (*QUICK, *map(slow, SLOW)))
# How much farther than the least distance a search may end, of a network with
# several classes: published attacks may end in another class.
EXCESS = {'fab': 0.3, 'ddn': 0.3, 'fmn': 0.3, 'apgd': 0.3, 'primal_dual': 0.5}


def draw(seed, num_classes=CLASSES):
  rng = np.random.default_rng(seed)
  return {
    'w': rng.normal(size=(SIZE, num_classes)).astype(np.float32),
    'b': rng.normal(size=num_classes).astype(np.float32),
  }


def inputs(seed=100, num=NUM):
  rng = np.random.default_rng(seed)
  return rng.uniform(size=(num, SIZE)).astype(np.float32)


def truth(params, xs, p=2):
  """Distances in exact arithmetic, and the gap that the nearest one closes."""
  w, b = (np.asarray(params[k], float) for k in 'wb')
  logits = np.asarray(xs, float) @ w + b
  rows = np.arange(len(xs))
  label = logits.argmax(1)
  gaps = logits[rows, label][:, None] - logits
  steep = np.linalg.norm(w[:, label].T[:, None] - w.T, norms.dual(p), axis=-1)
  with np.errstate(divide='ignore', invalid='ignore'):
    every = np.where(np.arange(w.shape[1]) == label[:, None], np.inf, gaps)
    every = every / steep
  nearest = every.argmin(1)
  return every[rows, nearest], gaps[rows, nearest]


def assert_right(found, params, xs, p=2, *, resolution=1e-6, excess=2e-4):
  """Distances are those of points beyond, and as near as they should be.

  `resolution` is relative to logits, whose rounding moves the boundary.
  """
  want, gap = truth(params, xs, p)
  w, b = (np.asarray(params[k], float) for k in 'wb')
  size = np.abs(np.asarray(xs, float) @ w + b).max(1) + gap
  moved = resolution * size / gap * want
  assert np.all(found.distance >= want * (1 - 1e-4) - moved)
  assert np.all(found.distance <= want * (1 + excess) + 2 * moved)
  length = np.linalg.norm((found.point - xs).astype(float), p, axis=1)
  np.testing.assert_allclose(found.distance, length, rtol=1e-4)


# --- The network as it is at each call --------------------------------------


class Model:
  def set(self, params):
    self.params = params

  def logits(self, x):
    return x @ self.params['w'] + self.params['b']


@dataclasses.dataclass
class Plain:
  w: np.ndarray
  b: np.ndarray

  def __call__(self, x):
    return x @ self.w + self.b


class Node(flax.struct.PyTreeNode):
  w: jax.Array
  b: jax.Array

  def __call__(self, x):
    return x @ self.w + self.b


def bound_method():
  model = Model()
  return model.logits, model.set


def closure_over_a_dict():
  params = {}
  return lambda x: x @ params['w'] + params['b'], params.update


def jitted_closure():
  """A new function at each change, jitted by the user."""
  state = {}

  def change(params):
    inner = jax.jit(lambda x: x @ params['w'] + params['b'])
    state['fn'] = lambda x: inner(x)

  return lambda x: state['fn'](x), change


def nnx_module():
  module = nnx.Linear(SIZE, CLASSES, rngs=nnx.Rngs(0))

  def change(params):
    module.kernel[...], module.bias[...] = params['w'], params['b']

  return module, change


def linen_bind():
  state = {}

  def change(params):
    variables = {'params': {'kernel': params['w'], 'bias': params['b']}}
    state['module'] = nn.Dense(CLASSES).bind(variables)

  return lambda x: state['module'](x), change


def dataclass():
  model = Plain(*draw(0).values())

  def change(params):
    model.w, model.b = params['w'], params['b']

  return model, change


def struct_node():
  state = {}

  def change(params):
    state['node'] = Node(*map(jnp.asarray, params.values()))

  return lambda x: state['node'](x), change


FORMS = (
  bound_method,
  closure_over_a_dict,
  jitted_closure,
  nnx_module,
  linen_bind,
  dataclass,
  struct_node,
)


@pytest.mark.parametrize(
  'form, method',
  [
    *((form, 'ray') for form in FORMS),
    *((bound_method, m) for m in QUICK if m != 'ray'),
    *(slow(form, m) for form in FORMS for m in SLOW),
  ],
  ids=lambda v: getattr(v, '__name__', v),
)
def test_retrained_networks_are_measured_as_they_are(form, method):
  # guarantees.md: the network is measured as it is at each call.
  logits_fn, change = form()
  for seed in range(3):
    change(draw(seed))
    found = boundary.measure(logits_fn, inputs(), method=method)
    if method == 'linear':
      np.testing.assert_allclose(
        found.distance, truth(draw(seed), inputs())[0], rtol=1e-5
      )
    else:
      excess = EXCESS.get(method, 2e-4)
      assert_right(found, draw(seed), inputs(), excess=excess)


def apply(params, x):
  return x @ params['w'] + params['b']


@pytest.mark.parametrize('labelled', (False, True))
def test_params_are_read_at_each_call_and_compile_once(labelled):
  xs = inputs()
  first = lambda params: np.argmax(xs @ params['w'] + params['b'], 1)
  solve = lambda fn, params: boundary.measure(
    fn, xs, first(params) if labelled else None, params=params, method='ray'
  )
  jax.clear_caches()
  with oracles.compilations() as compiled:
    solve(apply, draw(0))
  assert compiled
  with oracles.compilations() as compiled:
    for seed in range(1, 4):
      found = solve(lambda params, x: apply(params, x), draw(seed))
      assert_right(found, draw(seed), xs)
  assert not compiled
  # Numbers among the parameters are no constants either.
  scaled = lambda params, x: params['t'] * apply(params, x)
  solve(scaled, draw(0) | {'t': 1.0})
  with oracles.compilations() as compiled:
    for t in (0.5, 3.0):
      assert_right(solve(scaled, draw(0) | {'t': t}), draw(0), xs)
  assert not compiled


@pytest.mark.parametrize('labelled', (slow(False), True))
def test_params_may_lie_on_all_devices(labelled):
  """As those of a network that `train.fit` has returned."""
  module, xs = nn.Sequential([nn.Dense(8), nn.relu, nn.Dense(3)]), inputs()
  held = module.init(jax.random.key(0), xs[0])
  labels = np.asarray(module.apply(held, xs).argmax(1)) if labelled else None
  measure = lambda fn: boundary.measure(fn, xs, labels, method='ray')
  want = measure(lambda x: module.apply(held, x))
  everywhere = parallel.replicate(held)
  with oracles.compilations() as compiled:
    found = measure(lambda x: module.apply(everywhere, x))
  np.testing.assert_array_equal(found.distance, want.distance)
  assert len(compiled) <= 3  # For where the arrays lie, not for the network.
  found = boundary.measure(module.apply, xs, params=everywhere, method='ray')
  np.testing.assert_array_equal(found.distance, want.distance)


def test_a_projection_that_changes_is_used_as_it_is():
  state, xs = {}, inputs()
  project = lambda v: state['basis'].T @ (state['basis'] @ v)
  for seed in range(2):
    rng = np.random.default_rng(seed)
    basis = np.linalg.qr(rng.normal(size=(SIZE, 3)))[0].T.astype(np.float32)
    state['basis'] = basis
    found = boundary.measure(
      apply, xs, params=draw(0), method='ray', project=project
    )
    inside = {'w': basis.T @ basis @ draw(0)['w'], 'b': draw(0)['b']}
    logits = xs @ draw(0)['w'] + draw(0)['b']
    rows, label = np.arange(NUM), logits.argmax(1)
    gaps = logits[rows, label][:, None] - logits
    w = inside['w'].T
    steep = np.linalg.norm(w[label][:, None] - w, axis=-1)
    gaps[rows, label], steep[rows, label] = np.inf, 1
    np.testing.assert_allclose(found.distance, (gaps / steep).min(1), rtol=2e-4)


@pytest.mark.slow
def test_memory_stays_flat_over_many_networks():
  xs, sizes = inputs(num=16), []
  for seed in range(300):
    params = draw(seed)
    boundary.measure(lambda x, p=params: apply(p, x), xs, method='fast')
    sizes.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10)
  assert sizes[-1] - sizes[99] < 20  # MiB, over 200 calls.


def test_derivative_rules_of_the_network_are_used():
  @jax.custom_vjp
  def steps(z):
    return jnp.round(z)

  # A staircase has no gradient; the rule gives it that of a line.
  steps.defvjp(lambda z: (steps(z), None), lambda _, g: (g,))
  fn = lambda x: jnp.stack([0.0 * x[0], steps(100 * x[0] - 55) / 100])
  found = boundary.measure(fn, np.full((1, 1), 0.2, np.float32), method='ray')
  # From 0.555 on the second logit is above 0.
  np.testing.assert_allclose(found.distance, 0.355, rtol=1e-3)


def test_a_host_callback_is_called_as_it_is():
  state = {}
  host = lambda x: (np.asarray(x) @ state['w'] + state['b']).astype(np.float32)
  shape = jax.ShapeDtypeStruct((CLASSES,), np.float32)

  @jax.custom_vjp
  def logits_fn(x):
    return jax.pure_callback(host, shape, x, vmap_method='expand_dims')

  back = lambda g: (state['w'] @ np.asarray(g)[..., None])[..., 0]

  def bwd(x, g):
    out = jax.ShapeDtypeStruct(x.shape, x.dtype)
    return (jax.pure_callback(back, out, g, vmap_method='expand_dims'),)

  logits_fn.defvjp(lambda x: (logits_fn(x), x), bwd)
  for seed in range(2):
    state |= draw(seed)
    found = boundary.measure(logits_fn, inputs(), method='ray')
    assert_right(found, draw(seed), inputs())


# --- Precision --------------------------------------------------------------


def half(dtype):
  return lambda params, x: apply(params, x).astype(dtype)


@each_method
@pytest.mark.parametrize('dtype', (slow(jnp.float16), jnp.bfloat16))
def test_half_precision_logits(method, dtype):
  # guarantees.md: half precision is measured in float32.
  xs = inputs()
  found = boundary.measure(
    half(dtype), xs, params=draw(1), method=method, max_gradients=300
  )
  assert found.distance.dtype == np.float32
  if method != 'linear':
    assert np.all(found.status == Status.FOUND)
    resolution = margins.dtype_resolution(dtype)
    excess = EXCESS.get(method, 2e-4)
    assert_right(found, draw(1), xs, resolution=2 * resolution, excess=excess)
    logits = np.asarray(
      jax.vmap(lambda x: half(dtype)(draw(1), x))(found.point)
    )
    clean = np.asarray(jax.vmap(lambda x: half(dtype)(draw(1), x))(xs))
    assert np.all(
      logits.astype(float).argmax(1) != clean.astype(float).argmax(1)
    )


@pytest.mark.parametrize('method', (*QUICK, slow('deepfool')))
def test_half_precision_inputs_are_measured_in_float32(method):
  xs = inputs().astype(jnp.bfloat16)
  dense = nn.Dense(CLASSES, dtype=jnp.bfloat16, param_dtype=jnp.bfloat16)
  kernel, bias = (jnp.asarray(v, jnp.bfloat16) for v in draw(1).values())
  variables = {'params': {'kernel': kernel, 'bias': bias}}
  found = boundary.measure(dense.bind(variables), xs, method=method)
  assert found.distance.dtype == found.point.dtype == np.float32
  rounded = {'w': np.asarray(kernel, float), 'b': np.asarray(bias, float)}
  want, _ = truth(rounded, xs.astype(np.float32))
  np.testing.assert_allclose(found.distance, want, rtol=0.1)
  # The network is given each point in its own precision.
  seen = dense.apply(variables, jnp.asarray(found.point, jnp.bfloat16))
  own = dense.apply(variables, xs)
  if method != 'linear':
    assert np.all(seen.argmax(1) != own.argmax(1))


@each_method
@pytest.mark.parametrize('dtype', (np.float32, np.float64))
def test_double_precision_is_switched_on(method, dtype):
  with jax.enable_x64(True):
    xs = inputs().astype(dtype)
    found = boundary.measure(apply, xs, params=draw(2), method=method)
    assert found.distance.dtype == found.point.dtype == dtype
    if method != 'linear':
      assert_right(found, draw(2), xs, excess=EXCESS.get(method, 2e-4))


@each_method
def test_strict_promotion_and_debugging_of_nans(method):
  xs = inputs()
  options = dict(params=draw(2), method=method, bounds=(0.0, 1.0))
  want = boundary.measure(apply, xs, **options)
  with (
    jax.numpy_dtype_promotion('strict'),
    jax.debug_nans(True),
    jax.debug_infs(True),
  ):
    found = boundary.measure(apply, xs, **options)
    labels = np.zeros(NUM, int)
    boundary.measure(apply, xs, labels, **options)
  np.testing.assert_array_equal(found.distance, want.distance)


# --- Rounding ---------------------------------------------------------------


def masked(params, x):
  """A linear network in between classes that never win."""
  low, logits = params['mask'], apply(params, x)
  return jnp.concatenate([low[:1], logits + params['offset'], low[1:]])


@each_method
@pytest.mark.parametrize('p', (slow(1), 2, np.inf))
def test_masks_and_offsets_do_not_matter(method, p):
  # guarantees.md: other classes do not matter, however low or high.
  if method == 'ddn' and p != 2:
    return
  xs = inputs()
  for seed, (mask, offset) in enumerate(
    itertools.product((-1e2, -1e4, -1e9, -np.inf), (0.0, 1e3, -1e3))
  ):
    params = draw(seed) | {
      'mask': np.full(2, mask + offset, np.float32),
      'offset': np.float32(offset),
    }
    found = boundary.measure(
      masked, xs, params=params, method=method, norm=p, max_gradients=300
    )
    resolution = 1e-6 * (1 + 4 * abs(offset))
    if method == 'linear':
      want, _ = truth(params, xs, p)
      # Rounding of the logits, of slopes above 1, once for either.
      atol = 1e-6 * (1 + abs(offset))
      np.testing.assert_allclose(found.distance, want, rtol=1e-5, atol=atol)
    elif method in EXCESS:
      # Whatever class they reach, it is the one of a mask that is just low.
      # Three classes alone would not do: apgd has another loss for so few.
      low = params | {
        'mask': np.full(2, -1e2, np.float32),
        'offset': np.float32(0),
      }
      plain = boundary.measure(
        masked, xs, params=low, method=method, norm=p, max_gradients=300
      )
      rtol = 0.02 if offset else 1e-3
      np.testing.assert_allclose(found.distance, plain.distance, rtol=rtol)
      np.testing.assert_array_equal(found.target, plain.target)
      assert_right(found, params, xs, p, resolution=resolution, excess=np.inf)
    else:
      assert_right(found, params, xs, p, resolution=resolution)
      assert np.all((found.target > 0) & (found.target < CLASSES + 1))


@each_method
def test_what_is_not_finite_is_said(method):
  xs = inputs(num=6)
  added = {
    'nan': (0, np.nan, 0),
    'inf': (0, np.inf, 0),
    'alone': (-np.inf, 0, -np.inf),
    'none': (-np.inf,) * 3,
  }
  shifted = lambda params, x: apply(params, x) + params['added']
  for name, row in added.items():
    params = draw(0) | {'added': np.float32(row)}
    found = boundary.measure(
      shifted, xs, params=params, method=method, max_gradients=50
    )
    assert np.all(found.status == Status.NON_FINITE), name
    assert np.all(np.isinf(found.distance)), name
  # An input that is not finite, though the network does not see it.
  broken = xs.copy()
  broken[1, 0], broken[2, 0] = np.nan, np.inf
  blind = lambda x: apply(draw(0), x.at[0].set(0.5))
  # As published, 50 steps of ddn are not enough for the last one.
  most = 100 if method == 'ddn' else 50
  found = boundary.measure(blind, broken, method=method, max_gradients=most)
  assert np.all(found.status[1:3] == Status.NON_FINITE)
  assert np.all(np.isinf(found.distance[1:3]))
  assert np.all(np.isfinite(found.distance[3:]))


# --- A thousand random cases ------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize('method', (*QUICK, *SLOW))
def test_a_thousand_random_cases(method):
  """12 methods x 3 norms x 3 dtypes x 10 networks, with masks and offsets."""
  rng = np.random.default_rng(boundary.METHODS.index(method))
  ratios = []
  for p, dtype in itertools.product(
    NORMS, (jnp.float32, jnp.float16, jnp.bfloat16)
  ):
    if method == 'ddn' and p != 2:
      continue
    fn = lambda params, x, dtype=dtype: masked(params, x).astype(dtype)
    exact = margins.dtype_resolution(dtype)
    for _ in range(10):
      offset = rng.choice([0.0, 1.0, 30.0] if dtype == jnp.float32 else [0.0])
      mask = rng.choice([-1e2, -1e4, -np.inf])
      params = draw(rng.integers(2**31)) | {
        'mask': np.full(2, mask, np.float32),
        'offset': np.float32(offset),
      }
      xs = inputs(rng.integers(2**31))
      found = boundary.measure(
        fn, xs, params=params, method=method, norm=p, max_gradients=300
      )
      if method == 'linear':
        continue
      done = found.status == Status.FOUND
      assert done.all() or dtype != jnp.float32
      some = jax.tree.map(lambda v, done=done: v[done], found)
      assert_right(
        some,
        params,
        xs[done],
        p,
        resolution=2 * exact * (1 + abs(offset)),
        # Published attacks promise a point beyond, not the nearest class.
        excess=np.inf if method in EXCESS else 1e-3,
      )
      ratios += list(some.distance / truth(params, xs[done], p)[0])
  # Nor are they far off as a rule.
  assert method == 'linear' or np.median(ratios) <= 1.1


# --- Arguments -------------------------------------------------------------


def box_of(n, low=-9.0, high=9.0):
  return np.full((n, SIZE), low, np.float32), np.full((n, SIZE), high)


@pytest.mark.parametrize('method', (*QUICK, slow('deepfool')))
def test_bounds_of_each_example_and_open_ends(method):
  xs, params = inputs(num=8), draw(3, 2)
  measure = lambda xs, bounds: boundary.measure(
    apply, xs, params=params, method=method, bounds=bounds, batch_size=3
  )
  low, high = box_of(8)
  low[::2] = xs[::2] - 0.01
  own = measure(xs, (low, high))
  together = measure(xs, (None, high[0]))
  alone = [measure(xs[i : i + 1], (low[i], high[i])) for i in range(8)]
  for i, one in enumerate(alone):
    np.testing.assert_allclose(own.distance[i], one.distance[0], rtol=1e-4)
  if method != 'linear':
    assert np.all(own.point >= low)
  np.testing.assert_allclose(
    together.distance, measure(xs, (-np.inf, 9.0)).distance, rtol=1e-6
  )
  assert np.any(own.distance > together.distance * 1.01)


@pytest.mark.parametrize('dtype', (np.float32, np.float64))
def test_inputs_that_were_clipped_lie_within_their_bounds(dtype):
  rng = np.random.default_rng(0)
  raw = rng.uniform(size=(50, SIZE)).round().astype(dtype)
  mean, scale = dtype(0.1307), dtype(0.3081)
  bounds = ((0 - 0.1307) / 0.3081, (1 - 0.1307) / 0.3081)
  for xs in (np.clip(raw, 0.1, 0.9), (raw - mean) / scale):
    box = (0.1, 0.9) if xs.max() < 1 else bounds
    found = boundary.measure(
      apply, xs, params=draw(0), method='ray', bounds=box
    )
    # To the rounding of the inputs, which the box is widened to hold.
    assert np.all(found.point >= np.float32(box[0]) * (1 + 1e-6) - 1e-6)
    assert np.all(found.point <= np.float32(box[1]) * (1 + 1e-6))


nan = float('nan')


@pytest.mark.parametrize(
  'error, text, options',
  [
    (ValueError, 'bounds must not be NaN', dict(bounds=(0.0, nan))),
    (ValueError, 'low <= high', dict(bounds=(1.0, 0.0))),
    (ValueError, 'got shape .* for low', dict(bounds=(np.zeros(5), 1.0))),
    (ValueError, 'bounds must be None or a pair', dict(bounds=1.0)),
    (ValueError, 'lie outside bounds', dict(bounds=(0.9, 1.0))),
    (TypeError, 'batch_size must be an integer', dict(batch_size=2.5)),
    (ValueError, 'batch_size must be an integer', dict(batch_size=0)),
    (TypeError, 'max_gradients must be', dict(max_gradients='9')),
    (ValueError, 'max_gradients must be', dict(max_gradients=0)),
    (TypeError, 'seed must be an integer', dict(seed=0.5)),
    (TypeError, 'seed must be an integer', dict(seed=jax.random.key(0))),
    (ValueError, 'norm must be', dict(norm=0.5)),
    (TypeError, 'norm must be', dict(norm='2')),
    (ValueError, 'method must be', dict(method='magic')),
    (TypeError, 'argmax', dict(labels=np.eye(CLASSES)[[0] * NUM])),
    (TypeError, 'labels must be integers', dict(labels=np.zeros(NUM))),
    (ValueError, 'as many labels', dict(labels=np.zeros((NUM, 1), int))),
    (ValueError, r'\[0, 3\)', dict(labels=np.full(NUM, 3))),
    (ValueError, r'\[0, 3\)', dict(labels=np.full(NUM, -1))),
    (ValueError, 'project must map', dict(project=lambda v: v[:2])),
    (TypeError, 'project must be', dict(project=np.eye(SIZE))),
  ],
)
def test_arguments_that_cannot_be_used_are_named(error, text, options):
  with pytest.raises(error, match=text):
    boundary.measure(apply, inputs(), params=draw(0), **options)


def test_one_label_is_checked():
  solve = lambda label: boundary.nearest_point(
    lambda x: x, jnp.ones(3), label, method='ray'
  )
  for label in (3, -1, np.int64(3)):
    with pytest.raises(ValueError, match='label must lie in'):
      solve(label)
  for label in (0.0, jnp.zeros(2, int), jnp.float32(1)):
    with pytest.raises(TypeError, match='label must be one integer'):
      solve(label)


def test_no_example_and_one_gradient():
  for labels in (None, np.zeros(0, int)):
    found = boundary.measure(
      apply, inputs()[:0], labels, params=draw(0), method='fast'
    )
    assert found.point.shape == (0, SIZE) and found.status.shape == (0,)
  found = boundary.measure(apply, inputs(), params=draw(0), max_gradients=1)
  assert np.all(found.gradients <= 2)
  assert_right(found, draw(0), inputs(), excess=1.0)


# --- First calls that fail --------------------------------------------------

WEIGHTS = np.random.default_rng(1).normal(size=(SIZE, CLASSES))
IMAGES = np.random.default_rng(2).uniform(size=(NUM, 2, 3)).astype(np.float32)


def of_image(x):
  return x.reshape(SIZE) @ jnp.asarray(WEIGHTS, jnp.float32)


def of_images(xs):
  return xs.reshape(len(xs), SIZE) @ jnp.asarray(WEIGHTS, jnp.float32)


def with_params(params, x):
  return x.reshape(SIZE) @ params


def with_three(params, x, train):
  return with_params(params, x) * train


class Dense(nn.Module):
  @nn.compact
  def __call__(self, x):
    return nn.Dense(CLASSES)(x.reshape(-1))


class Torch:
  """Fails as a module of PyTorch does that is given a tracer."""

  __module__ = 'torch.nn.modules.linear'

  def __call__(self, x):
    raise TypeError(f'must be Tensor, not {type(x).__name__}')


@pytest.mark.parametrize(
  'fn, params, error, words',
  [
    (
      *(with_params, None, TypeError),
      r'It takes \(params, x\): give a function of x alone, or one of '
      r'\(params, x\) and params=params\. It raised TypeError: .*missing 1',
    ),
    (with_three, WEIGHTS, TypeError, r'takes \(params, x, train\): '),
    (of_image, WEIGHTS, TypeError, 'params were given: leave params'),
    (lambda: of_image, None, TypeError, 'no argument: call it, and'),
    (
      *(of_images, None, TypeError),
      r'a batch of inputs: give lambda x: logits_fn\(x\[None\]\)\[0\]\.',
    ),
    (
      *(lambda p, xs: of_images(xs), (), TypeError),
      r'a batch .*: give lambda params, x: logits_fn\(params, x\[None\]\)\[0\]',
    ),
    (
      *(Torch(), None, TypeError),
      r'It is a Torch of torch: interop\.from_torch\(module\) returns '
      r'\(logits_fn, params\)\. It raised TypeError: must be Tensor',
    ),
    (
      *(Dense(), None, ValueError),
      r'It is a Dense of flax: interop\.from_flax\(module, variables\)',
    ),
    (
      *(lambda x: 0 * of_image(x) if x.sum() else x, None, TypeError),
      r'needs the numbers of its input.* It raised TracerBoolConversionError',
    ),
    (
      *(lambda x: np.dot(x.reshape(SIZE), WEIGHTS), None, TypeError),
      r'write it in jax\.numpy',
    ),
    (lambda x: {}[x.shape], None, ValueError, r'It raised KeyError: \(2, 3\)$'),
  ],
)
def test_a_first_call_that_fails_says_what_to_do(fn, params, error, words):
  given = 'one input' if params is None else 'params and one input'
  wanted = (
    rf'^logits_fn must take {given}, here of shape \(2, 3\), as xs\[0\] is, '
    rf'and return its logits \[k\]\. .*{words}'
  )
  with pytest.raises(error, match=wanted) as found:
    boundary.measure(fn, IMAGES, params=params)
  assert isinstance(found.value.__cause__, Exception)
  assert type(found.value.__cause__).__name__ in str(found.value)


@pytest.mark.parametrize(
  'fn, xs, words',
  [
    (of_image, IMAGES[0], r'\(3,\), as xs\[0\] .* itself one input: give xs\['),
    (
      *(of_images, IMAGES[0]),
      r'itself one input, and logits_fn takes a batch: give xs\[None\], and '
      r'lambda x: logits_fn\(x\[None\]\)\[0\]',
    ),
    (of_image, IMAGES[None], r'xs \(1, 4, 2, 3\) has an axis too many'),
  ],
)
def test_inputs_of_other_shapes_are_named(fn, xs, words):
  with pytest.raises((TypeError, ValueError), match=words):
    boundary.measure(fn, xs)


def test_wrong_shapes_of_logits_have_the_same_remedies():
  """Functions that take any shape, and give logits for another one alone."""
  each = lambda x: x @ jnp.ones((3, CLASSES))
  with pytest.raises(
    ValueError, match=r'returned shape \(2, 3\); it takes an input of shape'
  ):
    boundary.nearest_point(each, IMAGES[0], 0)
  with pytest.raises(
    ValueError, match=r'returned shape \(\); the array that was .* xs\[None\]'
  ):
    boundary.measure(lambda x: x.sum(-1), IMAGES[0])


def test_one_input_of_a_batch_is_asked_for_by_nearest_point():
  with pytest.raises(
    TypeError,
    match=r'one input, here of shape \(4, 2, 3\), and .*shape \(2, 3\): x has '
    'an axis too many, as a batch has; boundary.measure takes a batch',
  ):
    boundary.nearest_point(of_image, IMAGES, 0)


def test_a_function_that_calls_pytorch_is_sent_to_interop():
  module = types.ModuleType('torch.nn.functional')
  exec('def linear(x): raise TypeError("must be Tensor")', module.__dict__)
  with pytest.raises(TypeError, match=r'calls PyTorch.*from_torch\(module\)'):
    boundary.measure(lambda x: module.linear(x), IMAGES)


def test_what_fails_later_is_not_dressed_up():
  """A gradient that is asked for after the first call raises as it is."""
  fn = jax.custom_vjp(of_image)
  fn.defvjp(lambda x: (of_image(x), None), lambda kept, w: 1 / 0)
  with pytest.raises(ZeroDivisionError):
    boundary.measure(fn, IMAGES)


def test_probabilities_lie_in_0_to_1_and_add_up_to_1():
  first = [0.2, 1.0, 0.5, 1.0005, -0.5, 0.5, 0.5, -0.0005]
  second = [0.8, 0.0, 0.4995, 0.0, 1.5, 0.4, 0.6, 1.0]
  rows = np.stack([first, second], axis=1)
  found = network_lib.are_probabilities(rows)
  assert found.tolist() == 3 * [True] + 5 * [False]
  assert network_lib.are_probabilities(rows, 0.2).tolist()[5:7] == [True, True]
  assert bool(network_lib.are_probabilities(jnp.asarray(rows[0])))
