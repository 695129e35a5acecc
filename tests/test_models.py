"""Networks to train, held to published sizes and to numpy and scipy."""

import itertools

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import signal

from dmm_jax import models
from dmm_jax.models import layers

MNIST, CIFAR = (28, 28, 1), (32, 32, 3)
# Every module, small enough to run.
SMALL = {
  'linear': {},
  'deep_linear': dict(widths=(7, 6)),
  'mlp': dict(widths=(7, 6)),
  'cnn': dict(channels=(4, 5), widths=(6,)),
  'lenet5': {},
  'playground': dict(width=2),
  'vgg16': dict(stages=((4, 4), (5,))),
  'resnet18': dict(width=4, blocks=(1, 1)),
  'resnet20': dict(width=4, blocks=(1, 1)),
  'vit': dict(patch=4, width=12, depth=2, heads=2),
}
SMALL_AUTOENCODERS = {
  'convolutional': dict(widths=(4, 6, 8)),
  'vae': dict(widths=(4, 6, 8)),
  'segnet': dict(stages=((4, 4), (6, 6, 6))),
}


def images(n, shape, seed=0):
  return jax.random.uniform(jax.random.key(seed), (n, *shape))


def init(module, shape, seed=0):
  """Variables of random numbers, also where initialisers put 0 or 1."""
  rng = np.random.default_rng(seed)

  def draw(path, leaf):
    normal = rng.normal(size=leaf.shape)
    if path[-1].key == 'kernel':
      value = normal * np.sqrt(2 / np.prod(leaf.shape[:-1]))
    else:
      value = 0.3 * normal + (path[-1].key in ('scale', 'var'))
    if path[-1].key == 'var':
      value = np.abs(value) + 0.1
    return jnp.asarray(value, leaf.dtype)

  return jax.tree_util.tree_map_with_path(draw, shapes(module, shape))


def shapes(module, shape):
  return jax.eval_shape(module.init, jax.random.key(0), jnp.zeros(shape))


def apply(module, variables, x):
  return jax.jit(module.apply)(variables, x)


def small(name, **attributes):
  module = models.CLASSIFIERS[name](num_classes=3, **SMALL[name], **attributes)
  shape = CIFAR if name == 'playground' else (16, 12, 2)
  return module, shape


def count(module, shape):
  params = shapes(module, shape)['params']
  return sum(p.size for p in jax.tree.leaves(params))


@pytest.mark.parametrize(
  'module, shape, published',
  [
    (models.Linear(), MNIST, 7850),
    (models.MLP(), MNIST, 269_322),
    (models.CNN(), MNIST, 421_642),
    # All 16 maps see all 6, pooling has no weights, the head is linear.
    (models.LeNet5(), MNIST, 61_706),
    # Its public code keeps 2816 biases that batch norm takes out.
    (models.PlaygroundCNN(), CIFAR, 9_306_250 - 2816),
    # kuangliu/pytorch-cifar, which keeps 4224 such biases.
    (models.VGG16(), CIFAR, 14_728_266 - 4224),
    # Keras' VGG16 without its top, and a head.
    (models.VGG16(batch_norm=False), CIFAR, 14_714_688 + 5130),
    # kuangliu/pytorch-cifar; the second without a norm before its pooling.
    (models.ResNet18(), CIFAR, 11_173_962),
    (models.ResNet18(pre_activation=True), CIFAR, 11_171_146 + 1024),
    # He et al.: 0.27 million.
    (models.ResNet20(), CIFAR, 269_722),
    # DeiT-Ti, without class token and its position.
    (models.ViT(16, 192, 12, 3, 1000), (224, 224, 3), 5_717_416 - 2 * 192),
    # Karner's code, less 2816 biases before batch norm; then 3 channels for 1,
    # an image of 2 x 2 for 1 x 1 before the latent numbers, and 128 for 16.
    (models.ConvAutoEncoder(), MNIST, 22_325_649 - 2816),
    (
      models.ConvAutoEncoder(CIFAR, 128),
      CIFAR,
      22_322_833
      + 2 * (16 * 128 + 129)
      + (4096 * 128 + 128 - 1024 * 16 - 16)
      + (128 - 16) * 16384,
    ),
  ],
  ids=lambda v: type(v).__name__ if hasattr(v, 'init') else '',
)
def test_sizes_are_the_published_ones(module, shape, published):
  assert count(module, shape) == published


def test_initialisers():
  module = models.CNN((16, 32), (64,))
  params = jax.jit(module.init)(jax.random.key(0), jnp.zeros((8, 8, 8)))
  for name, layer in params['params'].items():
    assert not np.any(layer['bias'])
    kernel = np.asarray(layer['kernel'])
    variance = (1 if name == 'head' else 2) / np.prod(kernel.shape[:-1])
    # 640 weights or more: the sample's variance is within 4 deviations.
    error = 4 * np.sqrt(2 / kernel.size)
    np.testing.assert_allclose(kernel.var(), variance, rtol=error)


@pytest.mark.parametrize('name', models.CLASSIFIERS)
def test_every_classifier_maps_one_input_to_logits_and_codes(name):
  for dtype in (None, jnp.bfloat16):
    module, shape = small(name, dtype=dtype)
    x = jnp.zeros(shape)
    variables = shapes(module, shape)
    logits, codes = jax.eval_shape(module.apply, variables, x)
    assert logits.shape == (3,) and logits.dtype == jnp.float32
    assert {v.dtype for v in jax.tree.leaves(variables)} == {jnp.float32.dtype}
    assert bool(codes) == (name != 'linear')
    for layer, code in codes.items():
      want = dtype if dtype and layer != 'pool' else jnp.float32
      assert code.dtype == want, layer


def test_codes_keep_their_order():
  module = models.DeepLinear((2,) * 12, 3)
  mapped = jax.jit(jax.vmap(module.apply, (None, 0)))
  _, codes = jax.eval_shape(mapped, shapes(module, (4,)), jnp.zeros((2, 4)))
  assert list(codes) == [f'linear{i}' for i in range(12)]
  module, shape = small('resnet20')
  _, codes = jax.eval_shape(
    jax.jit(module.apply), shapes(module, shape), jnp.zeros(shape)
  )
  assert list(codes) == [
    'conv0',
    'stack0_block0_conv0',
    'stack0_block0',
    'stack1_block0_conv0',
    'stack1_block0',
    'pool',
  ]


@pytest.mark.parametrize(
  'module',
  [
    models.Linear(3),
    models.MLP((7, 6), 3),
    models.FullyConnected((7, 6), 3),
  ],
)
def test_dense_networks_in_numpy(module):
  (x,) = images(1, (4, 2))
  variables = init(module, x.shape)
  logits, codes = apply(module, variables, x)
  layers = models.dense_layers(variables)
  h = np.asarray(x).ravel()
  for i, (w, b) in enumerate(layers[:-1]):
    h = np.maximum(h @ w + b, 0)
    np.testing.assert_allclose(codes[f'dense{i}'], h, rtol=1e-5, atol=1e-6)
  w, b = layers[-1]
  np.testing.assert_allclose(logits, h @ w + b, rtol=1e-5, atol=1e-6)
  assert bool(np.any(b)) == isinstance(module, models.Linear | models.MLP)


def test_a_deep_linear_network_is_linear():
  module, shape = small('deep_linear')
  variables = init(module, shape)
  a, b = images(2, shape)
  f = jax.jit(lambda x: module.apply(variables, x)[0])
  np.testing.assert_allclose(f(2 * a - b), 2 * f(a) - f(b), rtol=1e-3)
  assert np.abs(f(a) - f(b)).max() > 1e-2
  with pytest.raises(KeyError):
    models.dense_layers(variables)


def convolve(h, layer):
  """scipy's convolution, with padding of zeros."""
  kernel = np.asarray(layer['kernel'], np.float64)
  out = np.zeros((*h.shape[:2], kernel.shape[-1]))
  for i, j in itertools.product(*map(range, kernel.shape[2:])):
    out[..., j] += signal.correlate2d(h[..., i], kernel[..., i, j], 'same')
  return out + np.asarray(layer.get('bias', 0.0))


def test_cnn_in_scipy():
  module = models.CNN((4, 5, 3), (6,), num_classes=3)
  (x,) = images(1, (7, 8, 2))
  variables = init(module, x.shape)
  params = variables['params']
  logits, codes = apply(module, variables, x)
  h = np.asarray(x)
  for i in range(3):
    h = np.maximum(convolve(h, params[f'conv{i}']), 0)
    np.testing.assert_allclose(codes[f'conv{i}'], h, rtol=1e-4, atol=1e-5)
    if i < 2:
      odd = ((0, h.shape[0] % 2), (0, h.shape[1] % 2), (0, 0))
      h = np.pad(h, odd, constant_values=-np.inf)
      h = h.reshape(h.shape[0] // 2, 2, h.shape[1] // 2, 2, -1).max((1, 3))
  layer = params['dense0']
  h = np.maximum(h.ravel() @ layer['kernel'] + layer['bias'], 0)
  np.testing.assert_allclose(codes['dense0'], h, rtol=1e-4)
  want = h @ params['head']['kernel'] + params['head']['bias']
  np.testing.assert_allclose(logits, want, rtol=1e-4)


@pytest.mark.parametrize('pre_activation', [False, True])
@pytest.mark.parametrize('projection', [False, True])
def test_residual_blocks_in_scipy(pre_activation, projection):
  module = models.Residual(
    4,
    (1, 1),
    3,
    batch_norm=False,
    pre_activation=pre_activation,
    projection=projection,
  )
  (x,) = images(1, (6, 8, 2))
  variables = init(module, x.shape)
  params = variables['params']
  logits, codes = apply(module, variables, x)
  relu = lambda v: np.maximum(v, 0)
  before = relu if pre_activation else lambda v: v
  after = (lambda v: v) if pre_activation else relu
  h = after(convolve(np.asarray(x), params['conv0']))
  for name, stride in (('stack0_block0', 1), ('stack1_block0', 2)):
    skip, h = h, before(h)
    if stride == 2:
      # Strided outputs are every second of the others: shortcuts are aligned.
      skip = h[::2, ::2]
      if projection:
        skip = convolve(skip, params[f'{name}_skip'])
      else:
        skip = np.concatenate([skip, 0 * skip], -1)
    h = relu(convolve(h, params[f'{name}_conv0'])[::stride, ::stride])
    np.testing.assert_allclose(codes[f'{name}_conv0'], h, rtol=1e-4, atol=1e-4)
    h = after(skip + convolve(h, params[f'{name}_conv1']))
    np.testing.assert_allclose(codes[name], h, rtol=1e-4, atol=1e-4)
  h = before(h).mean((0, 1))
  np.testing.assert_allclose(codes['pool'], h, rtol=1e-4)
  want = h @ params['head']['kernel'] + params['head']['bias']
  np.testing.assert_allclose(logits, want, rtol=1e-4, atol=1e-4)


def training_call(module, variables, xs, out_axes=(0, None)):
  def forward(x):
    return module.apply(variables, x, train=True, mutable=['batch_stats'])

  return jax.jit(jax.vmap(forward, axis_name='batch', out_axes=out_axes))(xs)


def test_batch_norm_in_numpy():
  module = models.VGG16(((4, 3),), num_classes=3)
  xs = images(5, (6, 4, 2))
  variables = init(module, xs.shape[1:])
  params, old = variables['params'], variables['batch_stats']
  (_, codes), stats = training_call(module, variables, xs)
  _, copies = training_call(module, variables, xs, out_axes=0)
  hs = np.asarray(xs)
  for name in ('stage0_conv0', 'stage0_conv1'):
    hs = np.stack([convolve(h, params[name]) for h in hs])
    mean, var = hs.mean((0, 1, 2)), hs.var((0, 1, 2))
    for key, value in (('mean', mean), ('var', var)):
      got = stats['batch_stats'][f'{name}_norm'][key]
      want = 0.9 * np.asarray(old[f'{name}_norm'][key]) + 0.1 * value
      np.testing.assert_allclose(got, want, rtol=1e-4)
      copy = copies['batch_stats'][f'{name}_norm'][key]
      assert copy.shape == (5, *got.shape)
      np.testing.assert_array_equal(copy, np.broadcast_to(got, copy.shape))
    affine = jax.tree.map(np.asarray, params[f'{name}_norm'])
    hs = (hs - mean) / np.sqrt(var + 1e-5) * affine['scale'] + affine['bias']
    hs = np.maximum(hs, 0)
    np.testing.assert_allclose(codes[name], hs, rtol=1e-3, atol=1e-4)


def test_inference_is_a_function_of_one_input():
  module, shape = small('resnet18')
  xs = images(4, shape)
  others = images(4, shape, seed=1).at[0].set(xs[0])
  variables = init(module, shape)
  (trained, _), stats = training_call(module, variables, xs)
  variables = {**variables, **stats}
  logits_fn = jax.jit(lambda x: module.apply(variables, x)[0])
  alone = logits_fn(xs[0])
  for batch in (xs, others):
    logits = jax.jit(jax.vmap(logits_fn))(batch)
    np.testing.assert_allclose(logits[0], alone, rtol=1e-4, atol=1e-5)
  assert np.abs(trained[0] - alone).max() > 1e-2
  (changed, _), _ = training_call(module, variables, others)
  assert np.abs(changed[0] - trained[0]).max() > 1e-2
  with pytest.raises(NameError, match='batch'):
    module.apply(variables, xs[0], train=True, mutable=['batch_stats'])


def test_gradients_pass_through_the_batch():
  module, shape = small('resnet20')
  xs = images(4, shape)
  variables = init(module, shape)

  def logit(params):
    (logits, _), stats = training_call(module, {**variables, **params}, xs)
    return logits[:, 0].sum() ** 2, stats

  params = {'params': variables['params']}
  slope, stats = jax.jit(jax.grad(logit, has_aux=True))(params)
  assert jax.tree.structure(stats) == jax.tree.structure(
    {'batch_stats': variables['batch_stats']}
  )
  for leaf in jax.tree.leaves(slope):
    assert np.isfinite(leaf).all()
  # What scales the stem is divided out again by the batch's own deviation.
  stem = params['params']['conv0']['kernel'], slope['params']['conv0']['kernel']
  along = np.vdot(*stem) / np.linalg.norm(stem[0]) / np.linalg.norm(stem[1])
  assert abs(along) < 1e-2


def test_without_batch_norm_the_recipe_holds():
  module, shape = small('cnn')
  xs = images(2, shape)
  variables = init(module, shape)
  (logits, _), stats = training_call(module, variables, xs)
  assert not stats
  want, _ = apply(module, variables, xs[1])
  np.testing.assert_allclose(logits[1], want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('name', ['mlp', 'cnn', 'resnet18', 'vit'])
def test_bfloat16_is_near_float32(name):
  module, shape = small(name)
  (x,) = images(1, shape)
  variables = init(module, shape)
  want, codes = apply(module, variables, x)
  rough, rough_codes = apply(module.clone(dtype=jnp.bfloat16), variables, x)
  scale = np.linalg.norm(want)
  assert 0 < np.linalg.norm(rough - want) < 0.03 * scale
  for layer, code in codes.items():
    error = np.linalg.norm(rough_codes[layer].astype(jnp.float32) - code)
    assert error < 0.03 * np.linalg.norm(code), layer


def test_vit_in_numpy():
  module, shape = small('vit')
  (x,) = images(1, shape)
  variables = init(module, shape)
  params = jax.tree.map(lambda v: np.asarray(v, float), variables['params'])
  got, codes = apply(module, variables, x)

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
  for i in range(2):
    own = params[f'block{i}_attention']
    a = normed(h, f'block{i}_norm0')
    query, key, value = (dense(a, own[n]) for n in ('query', 'key', 'value'))
    # Two heads of width 6.
    weights = jax.nn.softmax(np.einsum('nhd,mhd->hnm', query, key) / 6**0.5)
    mixed = np.einsum('hnm,mhd->nhd', weights, value)
    h = h + dense(mixed, own['out'], 'nhe,hed->nd')
    a = dense(normed(h, f'block{i}_norm1'), params[f'block{i}_dense0'])
    h = h + dense(np.asarray(nn.gelu(a)), params[f'block{i}_dense1'])
    np.testing.assert_allclose(codes[f'block{i}'], h, rtol=1e-3, atol=1e-4)
  want = normed(h, 'norm').mean(0)[None]
  np.testing.assert_allclose(
    got, dense(want, params['head'])[0], rtol=1e-3, atol=1e-4
  )


def test_vit_sees_patches_as_a_set_once_positions_are_gone():
  module, shape = small('vit')
  (x,) = images(1, shape)
  variables = init(module, shape)
  logits_fn = jax.jit(lambda v, x: module.apply(v, x)[0])
  swapped = jnp.concatenate([x[4:], x[:4]])
  positions = variables['params']['positions']
  assert positions.shape == (4 * 3, 12)
  blind = {'params': variables['params'] | {'positions': 0 * positions}}
  np.testing.assert_allclose(
    logits_fn(blind, swapped), logits_fn(blind, x), rtol=1e-4, atol=1e-5
  )
  change = logits_fn(variables, swapped) - logits_fn(variables, x)
  assert np.abs(change).max() > 1e-3


@pytest.mark.parametrize(
  'module, shape, message',
  [
    (models.LeNet5(), (8, 8, 1), 'too small'),
    (models.PlaygroundCNN(4), (8, 8, 1), 'too small'),
    (models.ConvAutoEncoder((8, 8, 1)), (8, 8, 1), 'too small'),
    (models.ViT(), (30, 32, 3), 'do not tile'),
  ],
)
def test_images_that_do_not_fit_are_refused(module, shape, message):
  with pytest.raises(ValueError, match=message):
    shapes(module, shape)


@pytest.mark.parametrize('name', models.AUTOENCODERS)
@pytest.mark.parametrize('shape', [(10, 13, 2), (8, 8, 1)])
def test_autoencoders(name, shape):
  attributes = SMALL_AUTOENCODERS[name]
  module = models.AUTOENCODERS[name](shape, 5, **attributes)
  (x,) = images(1, shape)
  variables = init(module, shape)
  out, z = apply(module, variables, x)
  if name == 'vae':
    z, log_variance = z
    assert log_variance.shape == (5,)
  assert out.shape == shape and z.shape == (5,)
  assert out.min() >= 0 and out.max() <= 1 and np.ptp(out) > 1e-4
  encode = jax.jit(lambda x: module.apply(variables, x, method='encode'))
  code = encode(x)
  np.testing.assert_allclose(code, z, rtol=1e-4, atol=1e-5)
  decode = jax.jit(lambda z: module.apply(variables, z, method='decode'))
  np.testing.assert_allclose(decode(code), out, rtol=1e-3, atol=1e-5)
  rough = jax.eval_shape(module.clone(dtype=jnp.bfloat16).apply, variables, x)
  assert {v.dtype for v in jax.tree.leaves(rough)} == {jnp.float32.dtype}


@pytest.mark.parametrize('name', models.AUTOENCODERS)
def test_autoencoders_train_by_the_batch(name):
  shape = (8, 8, 1)
  module = models.AUTOENCODERS[name](shape, 5, **SMALL_AUTOENCODERS[name])
  variables = init(module, shape)
  xs = images(3, shape)

  def forward(x, key):
    return module.apply(
      variables,
      x,
      train=True,
      rngs={'latent': key},
      mutable=['batch_stats'],
    )

  mapped = jax.vmap(forward, axis_name='batch', out_axes=(0, None))
  keys = jax.random.split(jax.random.key(0), 3)
  (out, _), stats = jax.jit(mapped)(xs, keys)
  assert out.shape == xs.shape
  for new, old in zip(
    jax.tree.leaves(stats),
    jax.tree.leaves(variables['batch_stats']),
    strict=True,
  ):
    assert new.shape == old.shape and np.abs(new - old).max() > 0


class Transparent(models.VAE):
  """Shows its sample: the decoder is left out."""

  def decode(self, z, train=False):
    return z


def test_vae_samples_in_training_only():
  module = Transparent((8, 8, 1), 2, (4, 6), batch_norm=False)
  (x,) = images(1, (8, 8, 1))
  variables = init(module, x.shape)
  z, (mean, log_variance) = apply(module, variables, x)
  np.testing.assert_array_equal(z, mean)
  sample = lambda key: module.apply(
    variables, x, train=True, rngs={'latent': key}
  )[0]
  num = 4000
  zs = jax.vmap(sample)(jax.random.split(jax.random.key(5), num))
  deviation = np.exp(log_variance / 2)
  assert np.abs(deviation - 1).min() > 1e-3
  np.testing.assert_array_less(
    np.abs(zs.mean(0) - mean), 4 * deviation / np.sqrt(num)
  )
  np.testing.assert_allclose(zs.std(0), deviation, rtol=4 / np.sqrt(2 * num))
  assert np.abs(np.corrcoef(zs.T)[0, 1]) < 4 / np.sqrt(num)


@pytest.mark.parametrize('size', [(6, 8), (7, 5), (1, 1)])
def test_pooling_is_flax_pooling_and_so_is_its_gradient(size):
  h = jax.random.normal(jax.random.key(0), (*size, 3))
  ours = layers.max_pool
  theirs = lambda h: nn.max_pool(h, (2, 2), strides=(2, 2), padding='SAME')
  np.testing.assert_array_equal(ours(h), theirs(h))
  weights = jax.random.normal(jax.random.key(1), ours(h).shape)
  slope = lambda pool: jax.grad(lambda h: jnp.sum(weights * pool(h)))(h)
  np.testing.assert_array_equal(slope(ours), slope(theirs))


@pytest.mark.parametrize('size', [(3, 5), (1, 1)])
def test_doubling_is_flax_transposed_convolution(size):
  h = jax.random.normal(jax.random.key(0), (*size, 3))
  ours = layers.Doubling(4)
  theirs = nn.ConvTranspose(4, (4, 4), strides=(2, 2))
  params = theirs.init(jax.random.key(1), h)
  params['params']['bias'] = jnp.arange(4.0)
  shapes = lambda module: jax.tree.map(
    jnp.shape, module.init(jax.random.key(1), h)
  )
  assert shapes(ours) == shapes(theirs)
  np.testing.assert_allclose(
    ours.apply(params, h), theirs.apply(params, h), atol=1e-5
  )
