"""Networks to train, held to published sizes and to numpy."""

import inspect

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import numpy_layers as ref
import pytest

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


def images(n, shape, seed=0):
  return jax.random.uniform(jax.random.key(seed), (n, *shape))


def apply(module, variables, x):
  return jax.jit(module.apply)(variables, x)


def small(name, **attributes):
  module = models.CLASSIFIERS[name](num_classes=3, **SMALL[name], **attributes)
  shape = CIFAR if name == 'playground' else (16, 12, 2)
  return module, shape


def count(module, shape):
  params = ref.shapes(module, shape)['params']
  return sum(p.size for p in jax.tree.leaves(params))


@pytest.mark.parametrize(
  'module, shape, published',
  [
    (models.Linear(), MNIST, 7850),
    (models.MLP(), MNIST, 269_322),
    (models.DeepLinear(), MNIST, 269_322),
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
    # Without global pooling the head sees 8 x 8 pixels.
    (models.Residual(pooled=False), CIFAR, 269_722 + 63 * 64 * 10),
    # DeiT-Ti, without class token and its position; then half as deep, with
    # patches of 4 of 32 pixels.
    (models.ViT(16, 192, 12, 3, 1000), (224, 224, 3), 5_717_416 - 2 * 192),
    (models.ViT(), CIFAR, 6 * 444_864 + (49 + 64) * 192 + 2 * 192 + 1930),
    # Of De Palma et al., without biases, for 28 x 28 pixels.
    (models.FullyConnected(), MNIST, 784 * 100 + 100**2 + 100 * 2),
    (
      models.Convolutional(),
      MNIST,
      9 * (128 + 3 * 128**2) + 784 * 128 * 2,
    ),
    (
      models.LeNet(),
      MNIST,
      9 * (128 + 3 * 128**2) + 49 * 128 * 512 + 512**2 + 512 * 2,
    ),
    (
      models.ResNet(),
      MNIST,
      9 * (32 + 6 * 32**2 + 32 * 64 + 5 * 64**2 + 64 * 128 + 5 * 128**2)
      + 32 * 64
      + 64 * 128
      + 49 * 128 * 2,
    ),
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
    # Twice as many numbers of the encoder.
    (models.VAE(), MNIST, 22_325_649 - 2816 + 16 * 1025),
    # Both halves have VGG16's kernels. Of the second 3712 channels are
    # normalised, and the last three have biases in its place.
    (
      models.SegNetAutoEncoder(),
      CIFAR,
      2 * (14_710_464 + 4224 + 3712)
      + (512 * 128 + 128)
      + (128 * 512 + 512)
      + 3,
    ),
  ],
  ids=lambda v: type(v).__name__ if hasattr(v, 'init') else '',
)
def test_sizes_are_the_published_ones(module, shape, published):
  assert count(module, shape) == published


def test_initial_variances():
  """He's before a ReLU, 1 / n without one, Glorot's for attention."""
  glorot = lambda kernel: 2 / (np.prod(kernel[:-1]) + kernel[-1])
  he, lecun = (lambda k, c=c: c / np.prod(k[:-1]) for c in (2, 1))
  # By name of the layer, else of the module.
  rules = {
    'cnn': (models.CNN((4, 5), (6,), num_classes=3), (5, 4, 2), he, lecun),
    'linear': (models.DeepLinear((7,), 3), (5,), lecun, lecun),
    'random': (models.FullyConnected((7,), 3), (5,), he, he),
    'conv': (models.Convolutional((4,), 3), (4, 3, 2), he, glorot),
    'residual': (models.ResNet(2, 1, num_classes=3), (4, 4, 1), he, he),
    'vit': (models.ViT(2, 8, 1, 2, 3), (4, 2, 2), None, lecun),
    'auto': (
      models.ConvAutoEncoder((4, 4, 1), 3, (2, 3)),
      (4, 4, 1),
      he,
      lecun,
    ),
    'segnet': (
      models.SegNetAutoEncoder((4, 4, 1), 3, ((2, 3),)),
      (4, 4, 1),
      he,
      None,
    ),
  }

  @jax.jit
  @jax.vmap
  def draw(key):
    return {
      name: module.init(key, jnp.zeros(shape))['params']
      for name, (module, shape, _, _) in rules.items()
    }

  def attention(name, shape):
    # Queries, keys and values map all of the width to two heads of half of it.
    if name in ('query', 'key', 'value'):
      return 2 / (shape[0] + np.prod(shape[1:]))
    return 2 / (np.prod(shape[:-1]) + shape[-1])

  def wanted(path, shape):
    (model, *_, leaf), layer = path, path[-2]
    if leaf == 'positions':
      return 0.02**2
    if model == 'segnet' and layer in ('head', 'dense'):
      return 0.01**2
    if model == 'vit' and layer == 'embed':
      return lecun(shape)
    if model == 'vit' and layer != 'head':
      return attention(layer, shape)
    _, _, hidden, last = rules[model]
    return (last if layer in ('head', 'out') else hidden)(shape)

  flat = jax.tree_util.tree_flatten_with_path(
    draw(jax.random.split(jax.random.key(0, impl='unsafe_rbg'), 400))
  )[0]
  for path, leaf in flat:
    names, values = [v.key for v in path], np.asarray(leaf, float)
    if names[-1] in ('bias', 'scale'):
      assert np.all(values == (names[-1] == 'scale')), names
      continue
    np.testing.assert_allclose(
      np.mean(values**2),
      wanted(names, values.shape[1:]),
      rtol=5 * np.sqrt(2 / values.size),
      err_msg=str(names),
    )
    if names[0] == 'vit' and names[-2] not in ('embed', 'vit', 'head'):
      # Glorot's is a uniform law, which ends at sqrt 3 deviations.
      end = np.sqrt(3 * wanted(names, values.shape[1:]))
      assert 0.98 * end < np.abs(values).max() <= end * (1 + 1e-6), names
    # Every number is drawn apart.
    assert (
      abs(np.corrcoef(values[:, ...].reshape(400, -1)[:, :2].T)[0, 1]) < 0.3
    )


@pytest.mark.parametrize('name', models.CLASSIFIERS)
def test_every_classifier_maps_one_input_to_logits_and_codes(name):
  for dtype in (None, jnp.bfloat16):
    module, shape = small(name, dtype=dtype)
    x = jnp.zeros(shape)
    variables = ref.shapes(module, shape)
    logits, codes = jax.eval_shape(module.apply, variables, x)
    assert logits.shape == (3,) and logits.dtype == jnp.float32
    assert {v.dtype for v in jax.tree.leaves(variables)} == {jnp.float32.dtype}
    assert bool(codes) == (name != 'linear')
    for layer, code in codes.items():
      want = dtype if dtype and layer != 'pool' else jnp.float32
      assert code.dtype == want, layer
    products = list(dtypes_of_products(module, variables, x))
    # All are computed in the wanted type but the head and what softmax takes.
    single = 1 + getattr(module, 'depth', 0)
    assert sum(v != (dtype or jnp.float32) for v in products) == (
      single if dtype else 0
    )


def test_networks_are_in_inference_unless_told():
  for network in (*models.CLASSIFIERS.values(), *models.AUTOENCODERS.values()):
    train = inspect.signature(network.__call__).parameters['train']
    assert train.default is False, network


def dtypes_of_products(module, variables, x):
  todo = [jax.make_jaxpr(module.apply)(variables, x).jaxpr]
  while todo:
    for eqn in todo.pop().eqns:
      if eqn.primitive.name in ('dot_general', 'conv_general_dilated'):
        yield eqn.outvars[0].aval.dtype
      for v in jax.tree.leaves(
        list(eqn.params.values()), is_leaf=lambda v: hasattr(v, 'eqns')
      ):
        inner = getattr(v, 'jaxpr', v)
        if hasattr(inner, 'eqns'):
          todo.append(inner)


def test_codes_keep_their_order():
  module = models.DeepLinear((2,) * 12, 3)
  mapped = jax.jit(jax.vmap(module.apply, (None, 0)))
  _, codes = jax.eval_shape(mapped, ref.shapes(module, (4,)), jnp.zeros((2, 4)))
  assert list(codes) == [f'linear{i}' for i in range(12)]
  module, shape = small('resnet20')
  _, codes = jax.eval_shape(
    jax.jit(module.apply), ref.shapes(module, shape), jnp.zeros(shape)
  )
  assert list(codes) == [
    'conv0',
    'stack0_block0_conv0',
    'stack0_block0',
    'stack1_block0_conv0',
    'stack1_block0',
    'pool',
  ]


def test_dense_layers_are_those_of_certify():
  for module in (models.MLP((7, 6), 3), models.FullyConnected((7, 6), 3)):
    variables = ref.init(module, (4, 2))
    found = models.dense_layers(variables)
    assert [w.shape for w, _ in found] == [(8, 7), (7, 6), (6, 3)]
    params = variables['params']
    for (w, b), name in zip(found, ('dense0', 'dense1', 'head'), strict=True):
      np.testing.assert_array_equal(w, params[name]['kernel'])
      assert b.shape == w.shape[1:] and b.dtype == np.float32
      np.testing.assert_array_equal(b, params[name].get('bias', 0 * b))
  with pytest.raises(KeyError):
    models.dense_layers(ref.shapes(models.DeepLinear((7,), 3), (4,)))


def training_call(module, variables, xs, out_axes=(0, None)):
  def forward(x):
    return module.apply(variables, x, train=True, mutable=['batch_stats'])

  return jax.vmap(forward, axis_name='batch', out_axes=out_axes)(xs)


def test_batch_norm_in_numpy():
  module = models.VGG16(((4, 3),), num_classes=3)
  xs = images(5, (6, 4, 2))
  variables = ref.init(module, xs.shape[1:])
  params, old = ref.numbers(variables['params']), variables['batch_stats']
  (_, codes), copies = jax.jit(
    lambda xs: training_call(module, variables, xs, out_axes=0)
  )(xs)
  hs = np.asarray(xs, float)
  for name in ('stage0_conv0', 'stage0_conv1'):
    hs = np.stack([ref.conv(h, params[name]) for h in hs])
    stats = dict(mean=hs.mean((0, 1, 2)), var=hs.var((0, 1, 2)))
    for key, value in stats.items():
      want = 0.9 * np.asarray(old[f'{name}_norm'][key]) + 0.1 * value
      copy = copies['batch_stats'][f'{name}_norm'][key]
      # Each example is handed those of the whole batch.
      np.testing.assert_allclose(
        copy, np.broadcast_to(want, copy.shape), rtol=1e-4
      )
    hs = ref.relu(ref.norm(hs, params[f'{name}_norm'], stats))
    np.testing.assert_allclose(codes[name], hs, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize('name', ['playground', 'resnet18', 'vgg16'])
def test_training_reaches_every_norm(name):
  module, shape = small(name)
  variables = ref.shapes(module, shape)
  _, stats = jax.eval_shape(
    lambda v, xs: training_call(module, v, xs), variables, images(2, shape)
  )
  assert jax.tree.map(jnp.shape, stats['batch_stats']) == jax.tree.map(
    jnp.shape, variables['batch_stats']
  )
  with pytest.raises(NameError, match='batch'):
    jax.eval_shape(
      lambda v, x: module.apply(v, x, train=True, mutable=['batch_stats']),
      variables,
      images(1, shape)[0],
    )


def test_inference_is_a_function_of_one_input():
  module, shape = small('resnet18')
  xs = images(4, shape)
  others = images(4, shape, seed=1).at[0].set(xs[0])
  variables = ref.init(module, shape)
  trained = jax.jit(lambda v, xs: training_call(module, v, xs))
  (logits, _), stats = trained(variables, xs)
  (changed, _), _ = trained(variables, others)
  assert np.abs(changed[0] - logits[0]).max() > 1e-2
  variables = {**variables, **stats}
  logits_fn = jax.jit(lambda x: module.apply(variables, x)[0])
  alone = logits_fn(xs[0])
  assert np.abs(logits[0] - alone).max() > 1e-2
  batched = jax.jit(jax.vmap(logits_fn))
  for batch in (xs, others):
    np.testing.assert_allclose(batched(batch)[0], alone, rtol=1e-4, atol=1e-5)


def test_gradients_pass_through_the_batch():
  module, shape = small('resnet20')
  xs = images(4, shape)
  variables = ref.init(module, shape)

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


def test_without_batch_norm_training_is_inference():
  for module in (
    *(small(name)[0] for name in ('linear', 'deep_linear', 'mlp', 'lenet5')),
    small('cnn')[0],
    small('vit')[0],
    small('vgg16', batch_norm=False)[0],
    small('resnet18', batch_norm=False)[0],
  ):
    shape = (16, 12, 2)
    variables = ref.shapes(module, shape)
    assert list(variables) == ['params']
    texts = {
      str(
        jax.make_jaxpr(
          lambda v, x, flag=flag, module=module: module.apply(v, x, train=flag)
        )(variables, jnp.zeros(shape))
      )
      for flag in (True, False)
    }
    assert len(texts) == 1


@pytest.mark.parametrize('name', ['mlp', 'vit'])
def test_bfloat16_is_near_float32(name):
  module, shape = small(name)
  (x,) = images(1, shape)
  variables = ref.init(module, shape)
  want, codes = apply(module, variables, x)
  rough, rough_codes = apply(module.clone(dtype=jnp.bfloat16), variables, x)
  scale = np.linalg.norm(want)
  assert 0 < np.linalg.norm(rough - want) < 0.03 * scale
  for layer, code in codes.items():
    error = np.linalg.norm(rough_codes[layer].astype(jnp.float32) - code)
    assert error < 0.03 * np.linalg.norm(code), layer


@pytest.mark.parametrize(
  'module, shape, message',
  [
    (models.LeNet5(), (8, 8, 1), 'conv1 of size 5 leaves nothing of'),
    (models.PlaygroundCNN(4), (8, 8, 1), 'conv6 of size 3 .* too small'),
    (models.ConvAutoEncoder((8, 8, 1)), (8, 8, 1), 'too small'),
    (models.ViT(), (30, 32, 3), 'patches of 4 pixels do not tile an image of'),
    (models.ViT(), (32, 30, 3), 'do not tile'),
  ],
)
def test_images_that_do_not_fit_are_refused(module, shape, message):
  with pytest.raises(ValueError, match=message):
    ref.shapes(module, shape)


# --- Layers ----------------------------------------------------------------


@pytest.mark.parametrize('size', [(6, 8), (7, 5), (1, 1)])
def test_pooling_is_flax_pooling_and_so_is_its_gradient(size):
  h = jax.random.normal(jax.random.key(0), (*size, 3))
  weights = jax.random.normal(jax.random.key(1), layers.max_pool(h).shape)
  theirs = lambda h: nn.max_pool(h, (2, 2), strides=(2, 2), padding='SAME')
  found, wanted = (
    jax.jit(
      jax.value_and_grad(
        lambda h, pool=pool: (jnp.sum(weights * pool(h)), pool(h))[0]
      )
    )(h)
    for pool in (layers.max_pool, theirs)
  )
  np.testing.assert_array_equal(found[0], wanted[0])
  np.testing.assert_array_equal(found[1], wanted[1])
  np.testing.assert_allclose(layers.max_pool(h), ref.max_pool(np.asarray(h)))


@pytest.mark.parametrize('strides', [(1, 1), (2, 3)])
def test_convolution_by_patches_is_lax_convolution(strides):
  x = jax.random.normal(jax.random.key(0), (2, 7, 9, 3))
  kernel = jax.random.normal(jax.random.key(1), (3, 2, 3, 4))
  want = jax.lax.conv_general_dilated(
    x, kernel, strides, 'SAME', dimension_numbers=('NHWC', 'HWIO', 'NHWC')
  )
  got = jax.jit(models.conv_by_patches, static_argnums=(2, 3))(
    x, kernel, strides, 'SAME'
  )
  np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)
  with pytest.raises(
    ValueError, match="only SAME padding is supported, got 'V"
  ):
    models.conv_by_patches(x, kernel, strides, 'VALID')
