"""The same weights through every library: equal logits, equal distances."""

from concurrent import futures
import copy
import itertools
import os
import re
import threading
import time

os.environ.setdefault('KERAS_BACKEND', 'jax')

from flax import linen
from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dmm_jax import boundary
from dmm_jax import interop

SIZES = 6, 12, 12, 3
rng = np.random.default_rng(0)
LAYERS = [
  (
    rng.normal(size=(n, m)).astype(np.float32) / n**0.5,
    0.1 * rng.normal(size=m),
  )
  for n, m in itertools.pairwise(SIZES)
]
XS = rng.normal(size=(12, 6)).astype(np.float32)


def plain(params, x):
  for w, b in params[:-1]:
    x = jax.nn.relu(x @ w + b)
  return x @ params[-1][0] + params[-1][1]


def of_plain():
  return plain, [(w, b.astype(np.float32)) for w, b in LAYERS]


class Linen(linen.Module):
  @linen.compact
  def __call__(self, x, train):
    x = x.reshape(len(x), -1)
    for number, m in enumerate(SIZES[1:]):
      x = linen.Dense(m, name=f'd{number}')(x)
      if number < 2:
        x = linen.relu(x)
        x = linen.Dropout(0.5, deterministic=not train)(x)
    return x, {'codes': None}


def of_linen():
  params = {
    f'd{i}': {'kernel': w, 'bias': b.astype(np.float32)}
    for i, (w, b) in enumerate(LAYERS)
  }
  return interop.from_flax(Linen(), {'params': params})


def of_nnx():
  rngs = nnx.Rngs(0)
  layers = []
  for w, b in LAYERS:
    layer = nnx.Linear(*w.shape, rngs=rngs)
    layer.kernel[...], layer.bias[...] = jnp.asarray(w), jnp.float32(b)
    layers += [layer, nnx.relu, nnx.Dropout(0.5, rngs=rngs)]
  return interop.from_nnx(nnx.Sequential(*layers[:-2]))


def of_equinox():
  eqx = pytest.importorskip('equinox')
  net = eqx.nn.MLP(6, 3, 12, 2, key=jax.random.key(0))
  for i, (w, b) in enumerate(LAYERS):
    where = lambda net, i=i: (net.layers[i].weight, net.layers[i].bias)
    net = eqx.tree_at(where, net, (jnp.asarray(w.T), jnp.float32(b)))
  return interop.from_equinox(net)


def of_keras():
  keras = pytest.importorskip('keras')
  if keras.backend.backend() != 'jax':
    pytest.skip('Keras was imported on another backend')
  layers = [keras.layers.Input((6,))]
  for i, m in enumerate(SIZES[1:]):
    layers += [keras.layers.Dense(m, activation='relu' if i < 2 else None)]
    layers += [keras.layers.Dropout(0.5)] if i < 2 else []
  model = keras.Sequential(layers)
  model.set_weights([v for w, b in LAYERS for v in (w, b)])
  return interop.from_keras(model)


def torch_module():
  torch = pytest.importorskip('torch')
  layers = []
  for w, b in LAYERS:
    layer = torch.nn.Linear(*w.shape)
    with torch.no_grad():
      layer.weight.copy_(torch.tensor(w.T))
      layer.bias.copy_(torch.tensor(b))
    layers += [layer, torch.nn.ReLU(), torch.nn.Dropout(0.5)]
  return torch.nn.Sequential(*layers[:-2])


def of_torchax():
  pytest.importorskip('torchax')
  return interop.from_torch(torch_module())


def of_callback():
  return interop.from_torch(torch_module(), via='callback')


LIBRARIES = of_linen, of_nnx, of_equinox, of_keras, of_torchax, of_callback


def wanted(x):
  for w, b in LAYERS[:-1]:
    x = np.maximum(x @ w.astype(float) + b, 0)
  return x @ LAYERS[-1][0] + LAYERS[-1][1]


@pytest.mark.parametrize('library', (of_plain, *LIBRARIES))
def test_logits_of_one_input_and_of_many_are_those_of_numpy(library):
  logits_fn, params = library()
  for x in XS[:3]:
    np.testing.assert_allclose(
      logits_fn(params, jnp.asarray(x)), wanted(x), rtol=1e-5, atol=1e-5
    )
  batch = jax.jit(jax.vmap(logits_fn, (None, 0)))(params, XS)
  np.testing.assert_allclose(batch, wanted(XS), rtol=1e-5, atol=1e-5)
  slope = jax.jacrev(lambda x: logits_fn(params, x))(jnp.asarray(XS[0]))
  truth = jax.jacrev(lambda x: plain(of_plain()[1], x))(jnp.asarray(XS[0]))
  np.testing.assert_allclose(slope, truth, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('library', LIBRARIES)
@pytest.mark.parametrize(
  'method',
  [
    'deepfool',
    *(pytest.param(m, marks=pytest.mark.slow) for m in ('fast', 'portfolio')),
  ],
)
def test_distances_are_those_of_the_plain_network(library, method):
  for norm in (2, np.inf):
    found = []
    for fn, params in (library(), of_plain()):
      options = dict(params=params, norm=norm, method=method)
      point = boundary.measure(fn, XS[:6], max_gradients=60, **options)
      found.append(point.distance)
    np.testing.assert_allclose(*found, rtol=1e-3)


@pytest.mark.parametrize('library', LIBRARIES[:-1])
def test_other_parameters_are_another_network(library):
  logits_fn, params = library()
  halved = jax.tree.map(lambda v: v * 0, params)
  x = jnp.asarray(XS[0])
  np.testing.assert_allclose(logits_fn(halved, x), 0)
  assert np.abs(logits_fn(params, x)).max() > 0.1


def test_a_module_that_is_called_back_is_measured_as_it_is():
  torch = pytest.importorskip('torch')
  module = torch_module().train()
  logits_fn, params = interop.from_torch(module, via='callback')
  fn = jax.jit(lambda x: logits_fn(params, x))
  first = fn(XS[0])
  assert module.training
  with torch.no_grad():
    module[-1].bias += 1
  np.testing.assert_allclose(fn(XS[0]), first + 1, rtol=1e-5)


def counted(module):
  """The rows of each evaluation of a module, in a list."""
  rows = []
  module.register_forward_hook(lambda module, xs, out: rows.append(len(xs[0])))
  return rows


def test_a_value_and_its_gradients_evaluate_a_module_once():
  pytest.importorskip('torch')
  module = torch_module()
  logits_fn, params = interop.from_torch(module, via='callback')

  def both(x):
    logits, pull_back = jax.vjp(lambda x: logits_fn(params, x), x)
    return logits, jax.vmap(pull_back)(jnp.eye(3, dtype=x.dtype))[0]

  fn = jax.jit(jax.vmap(both))
  fn(XS[:4])
  rows = counted(module)
  logits, slopes = fn(XS[:4])
  assert rows == [4]
  np.testing.assert_allclose(logits, wanted(XS[:4]), atol=1e-5)
  truth = jax.vmap(jax.jacrev(lambda x: plain(of_plain()[1], x)))(XS[:4])
  np.testing.assert_allclose(slopes, truth, rtol=1e-4, atol=1e-5)


def test_batches_of_batches_and_shared_inputs_have_their_own_gradients():
  pytest.importorskip('torch')
  truth = of_plain()
  weights = np.random.default_rng(3).normal(size=(5, 4, 3)).astype(np.float32)
  pull = lambda fn, params: jax.jit(
    lambda x, w: jax.vjp(lambda x: fn(params, x), x)[1](w)[0]
  )
  several = lambda pull: {
    'inputs and weights': jax.vmap(pull)(XS[:4], weights[0]),
    'weights': jax.vmap(pull, (None, 0))(XS[0], weights[0]),
    'inputs': jax.vmap(pull, (0, None))(XS[:4], weights[0, 0]),
    'weights of inputs': jax.vmap(jax.vmap(pull, (None, 0)))(XS[:5], weights),
    'inputs of weights': jax.vmap(jax.vmap(pull, (0, None)), (None, 0))(
      XS[:3], weights[0]
    ),
    'crossed': jax.vmap(jax.vmap(pull), (None, 0))(XS[:4], weights),
    'in batches': jax.vmap(jax.vmap(pull))(XS.reshape(3, 4, 6), weights[:3]),
  }
  found, want = several(pull(*of_callback())), several(pull(*truth))
  for name, value in want.items():
    np.testing.assert_allclose(found[name], value, atol=1e-5, err_msg=name)


def test_a_changed_module_is_evaluated_anew_for_its_gradient():
  torch = pytest.importorskip('torch')
  module = torch_module()
  logits_fn, params = interop.from_torch(module, via='callback')
  fn = jax.jit(lambda x: logits_fn(params, x))
  slope = jax.jit(jax.grad(lambda x: logits_fn(params, x)[0]))
  first = slope(XS[0])
  fn(XS[0])
  with torch.no_grad():
    module[-1].weight *= 2
  np.testing.assert_allclose(slope(XS[0]), 2 * first, rtol=1e-5)
  fn(XS[1])
  np.testing.assert_allclose(slope(XS[0]), 2 * first, rtol=1e-5)


def test_threads_do_not_put_each_other_into_training():
  module = torch_module().train()
  logits_fn, params = interop.from_torch(module, via='callback')
  fn = jax.jit(lambda x: logits_fn(params, x))
  run = lambda x: np.stack([fn(x) for _ in range(100)])
  with futures.ThreadPoolExecutor(4) as pool:
    found = list(pool.map(run, XS[:8]))
  for x, rows in zip(XS[:8], found, strict=True):
    np.testing.assert_allclose(rows, np.tile(wanted(x), (100, 1)), atol=1e-5)


def slow_module(pause):
  """A module that lets other threads go on while it is called."""
  torch = pytest.importorskip('torch')

  class Pause(torch.nn.Module):
    inside = most = 0  # Calls at once, now and at most.

    def forward(self, x):
      Pause.inside += 1
      Pause.most = max(Pause.most, Pause.inside)
      time.sleep(pause)
      Pause.inside -= 1
      return x

  layers = [layer for one in torch_module() for layer in (one, Pause())]
  return torch.nn.Sequential(*layers), Pause


def in_two_threads(fn):
  """Results `[2]` of `fn()`, called in two threads at the same time."""
  start = threading.Barrier(2)

  def run():
    start.wait()
    return fn()

  with futures.ThreadPoolExecutor(2) as pool:
    return [one.result() for one in [pool.submit(run) for _ in range(2)]]


@pytest.mark.parametrize('shared', [True, False])
def test_threads_trace_torch_modules_one_after_the_other(shared):
  pytest.importorskip('torchax')
  module, pause = slow_module(1e-3)
  made = interop.from_torch(module)
  if shared:  # Checked already: the translation alone is called.
    jax.eval_shape(*made, XS[0])

  def trace():
    logits_fn, params = made if shared else interop.from_torch(module)
    # Other functions each time: JAX keeps what it has traced.
    for _ in range(8):
      out = jax.jit(lambda x: logits_fn(params, x))(XS[0])
    return out

  for logits in in_two_threads(trace):
    np.testing.assert_allclose(logits, wanted(XS[0]), rtol=1e-5, atol=1e-5)
  assert pause.most == 1


def test_a_torch_module_is_checked_once_by_several_threads():
  pytest.importorskip('torchax')
  module, pause = slow_module(1e-2)
  rows = []
  handle = lambda self, xs, out: rows.append(len(xs[0]))
  module.register_forward_hook(handle)
  logits_fn, params = interop.from_torch(module)
  trace = lambda: jax.jit(lambda x: logits_fn(params, x))(XS[0])
  for logits in in_two_threads(trace):
    np.testing.assert_allclose(logits, wanted(XS[0]), rtol=1e-5, atol=1e-5)
  assert pause.most == 1
  assert rows.count(interop.CHECKED) == 1


class Averages(linen.Module):
  """One input, running averages."""

  @linen.compact
  def __call__(self, x, use_running_average):
    x = linen.BatchNorm(use_running_average=use_running_average)(x)
    return linen.Dense(2)(x.mean((0, 1)))


def test_running_averages_are_used_and_one_input_is_tried_after_a_batch():
  x = jax.random.normal(jax.random.key(0), (4, 4, 3))
  module = Averages()
  variables = module.init(jax.random.key(1), x, True)
  stats = {'mean': jnp.ones(3), 'var': 4 * jnp.ones(3)}
  variables = {**variables, 'batch_stats': {'BatchNorm_0': stats}}
  logits_fn, params = interop.from_flax(module, variables)
  dense = params['params']['Dense_0']
  want = ((x - 1) / 2).mean((0, 1)) @ dense['kernel'] + dense['bias']
  np.testing.assert_allclose(logits_fn(params, x), want, atol=1e-4)


def test_images_of_torch_are_channels_first_and_batch_norm_averages():
  torch = pytest.importorskip('torch')
  pytest.importorskip('torchax')
  torch.manual_seed(0)
  module = torch.nn.Sequential(
    torch.nn.Conv2d(3, 4, 3),
    torch.nn.BatchNorm2d(4),
    torch.nn.ReLU(),
    torch.nn.AdaptiveAvgPool2d(2),
    torch.nn.Flatten(),
    torch.nn.Linear(16, 5),
  )
  module[1].running_mean += 1
  xs = np.random.default_rng(0).uniform(size=(2, 3, 8, 8)).astype(np.float32)
  with torch.no_grad():
    want = module.eval()(torch.tensor(xs)).numpy()
  module.train()
  for via in ('torchax', 'callback'):
    logits_fn, params = interop.from_torch(module, via=via)
    for x, one in zip(xs, want, strict=True):
      np.testing.assert_allclose(logits_fn(params, x), one, atol=1e-5)
  np.testing.assert_allclose(module[1].running_mean, 1 + 0 * want[0, :4])


def test_small_logits_beside_large_ones_are_no_wrong_translation():
  torch = pytest.importorskip('torch')
  pytest.importorskip('torchax')
  module = torch.nn.Linear(500, 2)
  with torch.no_grad():
    module.weight *= torch.tensor([[1e4], [0.0]])
    module.bias.copy_(torch.tensor([1.0, 1e-12]))
  x = np.random.default_rng(0).uniform(size=500).astype(np.float32)
  logits_fn, params = interop.from_torch(module)
  with torch.no_grad():
    want = module(torch.tensor(x)).numpy()
  np.testing.assert_allclose(logits_fn(params, x), want, rtol=1e-5)


@pytest.mark.parametrize('via', ['torchax', 'callback'])
def test_channels_that_are_last_are_told(via):
  torch = pytest.importorskip('torch')
  pytest.importorskip('torchax')
  logits_fn, params = interop.from_torch(torch.nn.Conv2d(3, 4, 3), via=via)
  with pytest.raises(
    ValueError,
    match=r'Conv2d cannot be called on inputs of shape \[n, 8, 8, 3\]',
  ) as error:
    logits_fn(params, jnp.zeros((8, 8, 3)))
  assert 'x.transpose(2, 0, 1)' in str(error.value)


def test_convolutions_have_the_layout_that_cpus_are_fast_with():
  torch = pytest.importorskip('torch')
  pytest.importorskip('torchax')
  eqx = pytest.importorskip('equinox')
  flat = torch.nn.Sequential(torch.nn.Conv2d(3, 2, 3), torch.nn.Flatten())
  model = eqx.nn.Sequential(
    [
      eqx.nn.Conv2d(3, 2, 3, key=jax.random.key(0)),
      eqx.nn.Lambda(jnp.ravel),
    ]
  )
  x = jnp.zeros((3, 5, 5))
  for made in (interop.from_torch(flat), interop.from_equinox(model)):
    text = str(jax.make_jaxpr(made[0])(made[1], x))
    # Batch, channels and pixels are these axes of the images.
    assert re.findall(r'lhs_spec=(\(.*?\))', text) == ['(0, 3, 1, 2)']


def test_a_wrong_translation_is_found(monkeypatch):
  pytest.importorskip('torch')
  torchax = pytest.importorskip('torchax')
  extract = torchax.extract_jax

  def other(module):
    params, fn = extract(module)
    return params, lambda params, xs: fn(params, xs) * 1.01

  monkeypatch.setattr(torchax, 'extract_jax', other)
  logits_fn, params = interop.from_torch(torch_module())
  with pytest.raises(ValueError, match=r"differ by .*via='callback'"):
    jax.jit(logits_fn)(params, XS[0])


def test_what_torchax_does_not_know_is_said():
  torch = pytest.importorskip('torch')
  pytest.importorskip('torchax')

  class Odd(torch.nn.Module):
    def forward(self, x):
      return torch.from_numpy(np.asarray(x.detach().numpy()) * 2)

  logits_fn, params = interop.from_torch(Odd())
  with pytest.raises(ValueError, match="via='callback'"):
    logits_fn(params, jnp.asarray(XS[0]))
  logits_fn, params = interop.from_torch(Odd(), via='callback')
  np.testing.assert_allclose(logits_fn(params, XS[0]), 2 * XS[0])


def test_what_is_no_network_is_refused(monkeypatch):
  linear = linen.Dense(3)
  variables = linear.init(jax.random.key(0), XS[0])
  for fn, given, words in (
    (interop.from_flax, (3, {}), 'flax.linen.Module, got int'),
    (interop.from_flax, (linear, variables['params']), "with 'params'"),
    (interop.from_nnx, (linear,), 'interop.from_flax'),
  ):
    with pytest.raises(TypeError, match=words):
      fn(*given)
  nested = linen.Sequential([lambda x: {'logits': x}])
  logits_fn, params = interop.from_flax(nested, {'params': {}})
  with pytest.raises(ValueError, match=r'gives no logits .*returns dict'):
    logits_fn(params, XS[0])
  picture = linen.Sequential([lambda x: jnp.zeros((*x.shape, 2))])
  logits_fn, params = interop.from_flax(picture, {'params': {}})
  with pytest.raises(ValueError, match=r'outputs of shape \(1, 6, 2\)'):
    logits_fn(params, XS[0])
  monkeypatch.setattr(interop, 'INSTALL', {'nothere.at_all': '--pre nothere'})
  with pytest.raises(ImportError, match='pip install --pre nothere'):
    interop._require('nothere.at_all')


def test_what_is_no_equinox_module_that_is_called_is_refused():
  eqx = pytest.importorskip('equinox')

  class Silent(eqx.Module):
    width: int = 3

  for model, name in ((jnp.tanh, ''), (Silent(), 'Silent')):
    with pytest.raises(TypeError, match=f'that is called, got {name}'):
      interop.from_equinox(model)


def test_what_is_no_torch_module_is_refused():
  pytest.importorskip('torch')
  with pytest.raises(TypeError, match=r'torch\.nn\.Module, got Dense'):
    interop.from_torch(linen.Dense(3))
  with pytest.raises(ValueError, match=r"'torchax' or 'callback'"):
    interop.from_torch(torch_module(), via='onnx')


def test_an_attack_of_torch_has_the_bounds_that_are_given():
  """The boundary is at -2, outside of [0, 1]."""
  torch = pytest.importorskip('torch')
  module = torch.nn.Linear(2, 2)
  module.load_state_dict(
    {
      'weight': torch.tensor([[1.0, 0.0], [0.0, 0.0]]),
      'bias': torch.tensor([2.0, 0.0]),
    }
  )
  xs, labels = torch.tensor([[0.5, 0.25]]), torch.tensor([0])
  for bounds, want in (((0.0, 1.0), 0.5), ((-3.0, 3.0), -2.0)):
    attack = interop.torch_attack(bounds=bounds, method='fast')
    points = attack(module, xs, labels).detach().numpy()
    np.testing.assert_allclose(points, [[want, 0.25]], atol=1e-4)


@pytest.mark.parametrize('norm', [2, np.inf])
def test_the_search_is_an_attack_of_torch_and_of_foolbox(norm):
  torch = pytest.importorskip('torch')
  module = torch_module().eval()
  xs = torch.tensor((XS - XS.min()) / (XS.max() - XS.min()))
  with torch.no_grad():
    labels = module(xs).argmax(1)
  labels[0] = (labels[0] + 1) % 3  # Misclassified: it stays.
  options = dict(norm=norm, method='fast', max_gradients=40)
  logits_fn, params = of_callback()
  found = boundary.measure(
    logits_fn,
    xs.numpy(),
    labels.numpy(),
    params=params,
    bounds=(0.0, 1.0),
    **options,
  )
  points = interop.torch_attack(**options)(module, xs, labels)
  assert points.dtype == xs.dtype
  lengths = np.linalg.norm((points - xs).numpy(), norm, axis=1)
  there = np.isfinite(found.distance)
  assert there.sum() > 4
  np.testing.assert_allclose(lengths[there], found.distance[there], rtol=1e-4)
  np.testing.assert_array_equal(lengths[~there], 0)
  with torch.no_grad():
    changed = (module(points).argmax(1) != labels).numpy()
  assert changed[there].all()
  with pytest.raises(ValueError, match='no targets'):
    interop.torch_attack()(module, xs, labels, targets=labels, targeted=True)
  # Of inputs that JAX would round, those that stay are as they were.
  wide = xs.double() + 1e-12
  stay = torch.tensor([True] + 11 * [False])
  moved = interop.torch_attack(**options)(
    copy.deepcopy(module).double(), wide, labels
  )
  assert moved.dtype == wide.dtype
  np.testing.assert_array_equal(moved[stay], wide[stay])
  assert (moved[~stay] != wide[~stay]).any()
  foolbox = pytest.importorskip('foolbox')
  model = foolbox.PyTorchModel(module, bounds=(0, 1), device='cpu')
  raw, _, success = interop.foolbox_attack(**options)(
    model, xs, labels, epsilons=None
  )
  np.testing.assert_allclose(raw.numpy(), points.numpy(), atol=1e-6)
  np.testing.assert_array_equal(success.numpy()[there], True)
