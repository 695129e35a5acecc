"""Networks of every architecture in numpy, layer by layer."""

import itertools

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import numpy_layers as ref
import pytest

from dmm_jax import models


def draw(shape):
  return jax.random.uniform(jax.random.key(0), shape)


# Each yields codes by name, then the logits.


def dense_net(h, p, act, prefix, depth):
  for i in range(depth):
    h = act(ref.dense(h, p[f'{prefix}{i}']))
    yield f'{prefix}{i}', h
  yield 'logits', ref.dense(h, p['head'])


def cnn(h, p, strides, pools, pooled, depth):
  for i, stride in enumerate(strides):
    h = ref.relu(ref.conv(h, p[f'conv{i}'], stride))
    yield f'conv{i}', h
    h = ref.max_pool(h) if i < pools else h
  h = h.mean((0, 1)) if pooled else h
  yield from dense_net(h, p, ref.relu, 'dense', depth)


def lenet5(h, p):
  for i, padding in enumerate(('SAME', 'VALID')):
    h = ref.relu(ref.conv(h, p[f'conv{i}'], padding=padding))
    yield f'conv{i}', h
    h = ref.max_pool(h)
  yield from dense_net(h, p, ref.relu, 'dense', 2)


def playground(h, p, stats):
  for i in range(7):
    h = ref.conv(h, p[f'conv{i}'], padding='VALID' if i == 6 else 'SAME')
    h = ref.relu(ref.norm(h, {}, stats[f'conv{i}_norm']))
    yield f'conv{i}', h
    h = ref.max_pool(h) if i in (1, 3, 5, 6) else h
  yield 'logits', ref.dense(h, p['head'])


def vgg(h, p, stats, stages):
  for i, stage in enumerate(stages):
    for j in range(len(stage)):
      name = f'stage{i}_conv{j}'
      h = ref.norm(
        ref.conv(h, p[name]), p[f'{name}_norm'], stats[f'{name}_norm']
      )
      h = ref.relu(h)
      yield name, h
    h = ref.max_pool(h)
  yield 'logits', ref.dense(h, p['head'])


def random_lenet(h, p):
  for i in range(4):
    h = ref.relu(ref.conv(h, p[f'conv{i}']))
    yield f'conv{i}', h
    h = ref.mean_pool(h) if i in (1, 3) else h
  yield from dense_net(h, p, ref.relu, 'dense', 2)


def random_resnet(h, p, blocks, pre):
  before = ref.relu if pre else lambda v: v
  after = (lambda v: v) if pre else ref.relu
  h = after(ref.conv(h, p['conv0']))
  for stack, block in itertools.product(range(3), range(blocks)):
    name, stride = f'stack{stack}_block{block}', 2 if stack and not block else 1
    skip = ref.conv(h, p[f'{name}_skip'], 2) if stride == 2 else h
    h = ref.relu(ref.conv(before(h), p[f'{name}_conv0'], stride))
    h = after(skip + ref.conv(h, p[f'{name}_conv1']))
    yield name, h
  yield 'logits', ref.dense(before(h), p['head'])


@pytest.mark.parametrize(
  'module, shape, reference, options',
  [
    (models.Linear(3), (4, 2), dense_net, (None, '', 0)),
    (models.MLP((7, 6), 3), (4, 2), dense_net, (ref.relu, 'dense', 2)),
    (
      models.FullyConnected((7, 6), 3),
      (4, 2),
      dense_net,
      (ref.relu, 'dense', 2),
    ),
    (
      models.DeepLinear((7, 6), 3),
      (4, 2),
      dense_net,
      (lambda v: v, 'linear', 2),
    ),
    (
      models.CNN((4, 5, 3), (6,), num_classes=3),
      (7, 8, 2),
      cnn,
      ((1, 1, 1), 2, False, 1),
    ),
    (
      models.CNN((4, 5), (6, 5), pools=1, strides=(1, 2), pooled=True),
      (7, 11, 2),
      cnn,
      ((1, 2), 1, True, 2),
    ),
    (models.LeNet5(3), (11, 14, 2), lenet5, ()),
    (models.PlaygroundCNN(2, num_classes=3), (17, 20, 2), playground, None),
    (
      models.VGG16(((4, 3), (5,)), num_classes=3),
      (6, 5, 2),
      vgg,
      (((4, 3), (5,)),),
    ),
    (
      models.Convolutional((4, 3), 3),
      (5, 4, 2),
      cnn,
      ((1, 1), 0, False, 0),
    ),
    (models.LeNet(3, 5, 3), (6, 9, 2), random_lenet, ()),
    (models.ResNet(2, 2, False, 3), (7, 10, 2), random_resnet, (2, False)),
    (models.ResNet(2, 1, True, 3), (7, 10, 2), random_resnet, (1, True)),
  ],
  ids=lambda v: type(v).__name__ if hasattr(v, 'init') else '',
)
def test_networks_in_numpy(module, shape, reference, options):
  x = draw(shape)
  variables = ref.init(module, shape)
  logits, codes = jax.jit(module.apply)(variables, x)
  p = ref.numbers(variables['params'])
  if 'batch_stats' in variables:
    options = ref.numbers(variables['batch_stats']), *(options or ())
  wanted = dict(reference(np.asarray(x, float), p, *options))
  for name, want in wanted.items():
    got = logits if name == 'logits' else codes[name]
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=2e-5, err_msg=name)
  assert list(codes) == [name for name in wanted if name != 'logits']


def residual(h, p, stats, *, pre, projection, batch_norm, pooled):
  """Two stacks of one and two blocks, in numpy."""
  norm = lambda v, name: (
    ref.norm(v, p[f'{name}_norm'], stats[f'{name}_norm']) if batch_norm else v
  )
  act = lambda v, name: ref.relu(norm(v, name))
  h = ref.conv(h, p['conv0'], padding=1)
  h = h if pre else act(h, 'conv0')
  yield 'conv0', h
  for name, stride in (
    ('stack0_block0', 1),
    ('stack1_block0', 2),
    ('stack1_block1', 1),
  ):
    skip, h = h, act(h, f'{name}_conv0') if pre else h
    if stride == 2:
      skip = h[::2, ::2]
      if projection:
        skip = ref.conv(skip, p[f'{name}_skip'], padding=0)
        skip = skip if pre else norm(skip, f'{name}_skip')
      else:
        skip = np.concatenate([skip, 0 * skip], -1)
    h = ref.conv(h, p[f'{name}_conv0'], stride, 1)
    h = act(h, f'{name}_conv1' if pre else f'{name}_conv0')
    yield f'{name}_conv0', h
    h = ref.conv(h, p[f'{name}_conv1'], padding=1)
    h = skip + h if pre else ref.relu(skip + norm(h, f'{name}_conv1'))
    yield name, h
  if pre:
    h = act(h, 'last')
    yield 'last', h
  if pooled:
    h = h.mean((0, 1))
    yield 'pool', h
  yield 'logits', ref.dense(h, p['head'])


@pytest.mark.parametrize(
  'pre, projection, batch_norm, pooled',
  [
    (False, False, True, True),
    (False, True, True, False),
    (False, True, False, True),
    (True, True, True, True),
    (True, False, False, False),
  ],
)
def test_residual_networks_in_numpy(pre, projection, batch_norm, pooled):
  # Four columns: as many as channels.
  module = models.Residual(4, (1, 2), 3, batch_norm, pre, projection, pooled)
  x = draw((7, 4, 2))
  variables = ref.init(module, x.shape)
  logits, codes = jax.jit(module.apply)(variables, x)
  numbers = ref.numbers(variables)
  wanted = dict(
    residual(
      np.asarray(x, float),
      numbers['params'],
      numbers.get('batch_stats'),
      pre=pre,
      projection=projection,
      batch_norm=batch_norm,
      pooled=pooled,
    )
  )
  assert list(codes) == list(wanted)[:-1]
  for name, want in wanted.items():
    got = logits if name == 'logits' else codes[name]
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4, err_msg=name)
  # Biases stand in the place of batch norm.
  for name, layer in numbers['params'].items():
    if 'kernel' in layer and name != 'head':
      assert ('bias' in layer) == (not batch_norm), name


def test_vit_in_numpy():
  module, shape = models.ViT(4, 12, 2, 2, 3), (16, 12, 2)
  x = draw(shape)
  variables = ref.init(module, shape)
  params = ref.numbers(variables['params'])
  got, codes = jax.jit(module.apply)(variables, x)

  def normed(h, name):
    h = (h - h.mean(1, keepdims=True)) / np.sqrt(h.var(1, keepdims=True) + 1e-6)
    return h * params[name]['scale'] + params[name]['bias']

  def dense(h, layer, spec='nd,d...->n...'):
    return np.einsum(spec, h, layer['kernel']) + layer['bias']

  # 4 x 3 patches, row by row.
  h = np.asarray(x, float).reshape(4, 4, 3, 4, 2).swapaxes(1, 2)
  h = np.einsum(
    'nijc,ijcd->nd', h.reshape(12, 4, 4, 2), params['embed']['kernel']
  )
  h = h + params['embed']['bias'] + params['positions']
  np.testing.assert_allclose(codes['embed'], h, rtol=1e-4, atol=1e-5)
  for i in range(2):
    own = params[f'block{i}_attention']
    a = normed(h, f'block{i}_norm0')
    query, key, value = (dense(a, own[n]) for n in ('query', 'key', 'value'))
    # Two heads of width 6.
    weights = jax.nn.softmax(np.einsum('nhd,mhd->hnm', query, key) / 6**0.5)
    mixed = np.einsum('hnm,mhd->nhd', weights, value)
    h = h + dense(mixed, own['out'], 'nhe,hed->nd')
    np.testing.assert_allclose(
      codes[f'block{i}_attention'], h, rtol=1e-3, atol=1e-4
    )
    a = dense(normed(h, f'block{i}_norm1'), params[f'block{i}_dense0'])
    h = h + dense(np.asarray(nn.gelu(a)), params[f'block{i}_dense1'])
    np.testing.assert_allclose(codes[f'block{i}'], h, rtol=1e-3, atol=1e-4)
  want = normed(h, 'norm').mean(0)
  np.testing.assert_allclose(codes['pool'], want, rtol=1e-3, atol=1e-4)
  np.testing.assert_allclose(
    got, ref.dense(want, params['head']), rtol=1e-3, atol=1e-4
  )
  # A set of patches, once positions are gone.
  logits_fn = jax.jit(lambda v, x: module.apply(v, x)[0])
  swapped = jnp.concatenate([x[4:], x[:4]])
  blind = {
    'params': variables['params']
    | {'positions': 0 * variables['params']['positions']}
  }
  np.testing.assert_allclose(
    logits_fn(blind, swapped), logits_fn(blind, x), rtol=1e-4, atol=1e-5
  )
