"""Auto-encoders in numpy, and what they do in training."""

import re

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import numpy_layers as ref
import pytest

from dmm_jax import models
from dmm_jax.models import autoencoders
from dmm_jax.models import layers

SHAPE = (10, 13, 2)
SMALL = {
  'convolutional': dict(widths=(4, 6, 8)),
  'vae': dict(widths=(4, 6, 8)),
  'segnet': dict(stages=((4, 3), (6, 5, 7))),
}


def images(n, shape):
  return jax.random.uniform(jax.random.key(0), (n, *shape))


def small(name, shape=SHAPE, **options):
  return models.AUTOENCODERS[name](shape, 5, **SMALL[name], **options)


def softplus(h):
  return np.logaddexp(0, 100 * h) / 100


def norm(h, p, stats, name):
  if f'{name}_norm' not in stats:
    return h
  return ref.norm(h, p.get(f'{name}_norm', {}), stats[f'{name}_norm'])


def encode_convolutional(h, p, stats):
  for i in range(3):
    h = ref.conv(h, p[f'conv{i}'], 2, padding=1)
    h = softplus(norm(h, p, stats, f'conv{i}'))
  return ref.dense(h, p['head'])


def decode_convolutional(z, p, stats):
  # 3 x 4 pixels, doubled twice, of which the middle is kept.
  h = softplus(ref.dense(z, p['dense'])).reshape(3, 4, 8)
  for i in range(2):
    h = ref.doubled(h, p[f'conv{i}'])
    h = softplus(norm(h, p, stats, f'conv{i}'))
  assert h.shape == (12, 16, 4)
  return 1 / (1 + np.exp(-ref.conv(h[1:11, 1:14], p['out'])))


def encode_segnet(h, p, stats):
  for i, depth in enumerate((2, 3)):
    for j in range(depth):
      name = f'stage{i}_conv{j}'
      h = ref.relu(norm(ref.conv(h, p[name]), p, stats, name))
    h = ref.max_pool(h)
  return ref.dense(h, p['head'])


def decode_segnet(z, p, stats):
  h = ref.dense(z, p['dense']).reshape(3, 4, 7)
  for i, (rows, cols), widths in (
    (1, (5, 7), (5, 6, 3)),
    (0, (10, 13), (4, 2)),
  ):
    h = h.repeat(2, 0).repeat(2, 1)[:rows, :cols]
    for j, width in enumerate(widths):
      name = f'stage{i}_conv{j}'
      h = norm(ref.conv(h, p[name]), p, stats, name)
      assert h.shape[-1] == width
      if name != 'stage0_conv1':
        h = ref.relu(h)
  return 1 / (1 + np.exp(-h))


@pytest.mark.parametrize(
  'name, batch_norm, encode, decode',
  [
    ('convolutional', True, encode_convolutional, decode_convolutional),
    ('vae', False, encode_convolutional, decode_convolutional),
    ('segnet', True, encode_segnet, decode_segnet),
    ('segnet', False, encode_segnet, decode_segnet),
  ],
)
def test_codes_and_images_in_numpy(name, batch_norm, encode, decode):
  module = small(name, batch_norm=batch_norm)
  (x,) = images(1, SHAPE)
  variables = ref.init(module, SHAPE)

  @jax.jit
  def run(x):
    code = module.apply(variables, x, method='encode')
    return (
      module.apply(variables, x),
      code,
      module.apply(variables, code, method='decode'),
    )

  (out, z), code, decoded = run(x)
  p = ref.numbers(variables['params'])
  stats = ref.numbers(variables.get('batch_stats', {}))
  of = lambda part: (p[part], stats.get(part, {}))
  want = encode(np.asarray(x, float), *of('encoder'))
  if name == 'vae':
    # The first half is the mean; without training the image is that of it.
    z, log_variance = z
    np.testing.assert_allclose(log_variance, want[5:], rtol=1e-3, atol=1e-4)
    want = want[:5]
  for found in (z, code):
    np.testing.assert_allclose(found, want, rtol=1e-3, atol=1e-4)
  image = decode(np.asarray(code, float), *of('decoder'))
  assert np.ptp(image) > 0.05 and image.shape == SHAPE
  for found in (out, decoded):
    np.testing.assert_allclose(found, image, rtol=1e-3, atol=1e-4)


def test_a_smooth_relu():
  h = jnp.array([-0.3, -0.01, 0.0, 0.02, 2.0])
  wide = np.asarray(h, float)
  for sharpness, options in ((100, {}), (3, {'sharpness': 3.0})):
    np.testing.assert_allclose(
      autoencoders.softplus(h, **options),
      np.logaddexp(0, sharpness * wide) / sharpness,
      rtol=1e-5,
      atol=1e-7,
    )


@pytest.mark.parametrize('name', models.AUTOENCODERS)
def test_half_precision_and_biases(name):
  for shape in (SHAPE, (8, 8, 1)):
    module = small(name, shape, dtype=jnp.bfloat16)
    variables = ref.shapes(module, shape)
    x = jnp.zeros(shape)
    out, code = jax.eval_shape(module.apply, variables, x)
    assert out.shape == shape
    assert {v.dtype for v in jax.tree.leaves(out)} == {jnp.float32.dtype}
    assert {v.shape for v in jax.tree.leaves(code)} == {(5,)}
    assert {v.dtype for v in jax.tree.leaves(code)} == {jnp.float32.dtype}
  # All is computed in it but the code.
  jaxpr = str(jax.make_jaxpr(module.apply)(variables, x))
  names = 'dot_general|conv_general_dilated|log1p|reduce_max'
  products = re.findall(rf':(\w+)\[[\d,]*\] = (?:{names})\b', jaxpr)
  assert len(products) > 5 and products.count('f32') == 1
  assert set(products) == {'f32', 'bf16'}
  # Biases stand where there is no norm.
  for batch_norm in (True, False):
    params = ref.shapes(small(name, batch_norm=batch_norm), SHAPE)['params']
    for part in ('encoder', 'decoder'):
      for layer, values in params[part].items():
        if 'kernel' in values:
          normed = f'{layer}_norm' in params[part]
          assert ('bias' in values) != normed, layer
          assert normed <= batch_norm
      assert batch_norm == any(k.endswith('_norm') for k in params[part])


@pytest.mark.parametrize('name', models.AUTOENCODERS)
def test_autoencoders_train_by_the_batch(name):
  module = small(name, (8, 8, 1))
  variables = ref.init(module, (8, 8, 1))
  xs = images(3, (8, 8, 1))

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
  # Each part alone, too, asks for the rest of the batch in training.
  methods = ['encode', 'decode'] + ['posterior'] * (name == 'vae')
  for method in methods:
    of = jnp.zeros(5) if method == 'decode' else xs[0]
    call = lambda train, method=method, of=of: jax.eval_shape(
      lambda: module.apply(
        variables, of, train, method=method, mutable=['batch_stats']
      )
    )
    with pytest.raises(NameError, match='batch'):
      call(True)
    call(False)
    jax.eval_shape(
      lambda m=method, of=of: module.apply(variables, of, method=m)
    )


class Transparent(models.VAE):
  """Shows its sample: the decoder is left out."""

  def decode(self, z, train=False):
    return z


def test_vae_samples_in_training_only():
  module = Transparent((4, 4, 1), 2, (4, 6), batch_norm=False)
  (x,) = images(1, (4, 4, 1))
  variables = ref.init(module, x.shape)
  z, (mean, log_variance) = module.apply(variables, x)
  np.testing.assert_array_equal(z, mean)
  sample = lambda key: module.apply(
    variables, x, train=True, rngs={'latent': key}
  )[0]
  num = 4000
  keys = jax.random.split(jax.random.key(5), num)
  zs = np.asarray(jax.jit(jax.vmap(sample))(keys))
  deviation = np.exp(log_variance / 2)
  assert np.abs(deviation - 1).min() > 1e-3
  np.testing.assert_array_less(
    np.abs(zs.mean(0) - mean), 4 * deviation / np.sqrt(num)
  )
  np.testing.assert_allclose(zs.std(0), deviation, rtol=4 / np.sqrt(2 * num))
  assert np.abs(np.corrcoef(zs.T)[0, 1]) < 4 / np.sqrt(num)
  # Normal: 0.27 % lie beyond three deviations.
  beyond = np.mean(np.abs(zs - np.asarray(mean)) > 3 * np.asarray(deviation))
  assert 0.0005 < beyond < 0.006


@pytest.mark.parametrize('size', [(3, 5), (1, 1)])
def test_doubling_is_flax_transposed_convolution(size):
  h = jax.random.normal(jax.random.key(0), (*size, 3))
  ours = layers.Doubling(4)
  theirs = nn.ConvTranspose(4, (4, 4), strides=(2, 2))
  params = ref.init(theirs, h.shape)
  shapes = lambda module: jax.tree.map(jnp.shape, ref.shapes(module, h.shape))
  assert shapes(ours) == shapes(theirs)
  for module, other, own in (
    (ours, theirs, params),
    (
      layers.Doubling(4, use_bias=False),
      nn.ConvTranspose(4, (4, 4), strides=(2, 2), use_bias=False),
      {'params': {'kernel': params['params']['kernel']}},
    ),
  ):
    np.testing.assert_allclose(
      module.apply(own, h), other.apply(own, h), atol=1e-5
    )
  np.testing.assert_allclose(
    ours.apply(params, h),
    ref.doubled(np.asarray(h), ref.numbers(params['params'])),
    atol=1e-5,
  )
