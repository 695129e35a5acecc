"""Convolutions in another order of axes: the same numbers, fast in loops."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dmm_jax import _xla_cpu

X = jax.random.normal(jax.random.key(0), (9, 8, 4))
KERNEL = jax.random.normal(jax.random.key(1), (3, 3, 4, 6))
SHAPES = ('NHWC', 'HWIO', 'NHWC')


def convolve(
  x, kernel=KERNEL, strides=(1, 1), padding='SAME', shapes=SHAPES, **options
):
  return jax.lax.conv_general_dilated(
    x[None], kernel, strides, padding, dimension_numbers=shapes, **options
  )[0]


def network(x, kernel=KERNEL, **options):
  h = jax.nn.relu(convolve(x, kernel, **options))
  return jnp.sum(jnp.tanh(h) ** 2)


@pytest.mark.parametrize(
  'options',
  [
    {},
    dict(strides=(2, 3)),
    dict(kernel=KERNEL[:, :, :2], feature_group_count=2),
    dict(kernel=KERNEL.transpose(3, 2, 0, 1), shapes=('NHWC', 'OIHW', 'NHWC')),
    dict(strides=(3, 3), padding='VALID'),
    dict(strides=(3, 2), kernel=KERNEL[:, :2], padding='VALID'),
    dict(strides=(3, 3), padding=((1, 0), (0, 1))),
  ],
  ids=['plain', 'strides', 'groups', 'order', 'patches', 'oblong', 'padded'],
)
def test_gradients_are_the_same(options):
  slope = jax.value_and_grad(lambda x: network(x, **options))
  want = slope(X)
  for got in (
    _xla_cpu.channels_last_gradients(slope)(X),
    jax.jit(_xla_cpu.channels_last_gradients(slope))(X),
  ):
    jax.tree.map(
      lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5),
      got,
      want,
    )
  many = jnp.stack([X, 2 * X])
  np.testing.assert_allclose(
    jax.vmap(_xla_cpu.channels_last_gradients(slope))(many)[1],
    jax.vmap(slope)(many)[1],
    rtol=1e-4,
    atol=1e-5,
  )


@pytest.mark.parametrize('strides', [(1, 1), (3, 3)], ids=['plain', 'patches'])
def test_channels_may_come_first_and_images_in_batches(strides):
  """As PyTorch has them; each image keeps its own gradient."""
  kernel = KERNEL.transpose(3, 2, 0, 1)
  pair = jnp.stack([X, X[::-1] / 2]).transpose(0, 3, 1, 2)
  slope = jax.grad(
    lambda v: jnp.sum(
      jnp.sin(jax.lax.conv_general_dilated(v, kernel, strides, 'VALID'))
    )
  )
  np.testing.assert_allclose(
    _xla_cpu.channels_last_gradients(slope)(pair),
    slope(pair),
    rtol=1e-4,
    atol=1e-5,
  )


def test_what_lies_within_other_functions_too():
  def deep(x):
    x = jax.jit(lambda v: v + convolve(v, KERNEL[..., :4]))(x)
    x, _ = jax.lax.scan(lambda v, k: (convolve(v, k), 0), x, KERNELS)
    return jnp.sum(jax.checkpoint(lambda v: jnp.sin(convolve(v)))(x))

  KERNELS = jnp.stack([KERNEL[..., :4], KERNEL[..., 2:]]) / 10
  slope = jax.grad(deep)
  np.testing.assert_allclose(
    _xla_cpu.channels_last_gradients(slope)(X), slope(X), rtol=1e-3, atol=1e-4
  )
  # Without convolutions it is the function itself; pytrees go in and out.
  plain = lambda tree: {'sum': tree['a'] + tree['b']}
  found = _xla_cpu.channels_last_gradients(plain)(
    {'a': 1.0, 'b': np.arange(2.0)}
  )
  np.testing.assert_array_equal(found['sum'], [1, 2])


@pytest.mark.skipif(jax.default_backend() != 'cpu', reason='of CPUs')
@pytest.mark.parametrize('net', [network, jax.jit(network)], ids=['', 'jit'])
@pytest.mark.parametrize('ordered', [False, True])
def test_loops_have_them_in_the_fast_order(ordered, net):
  slope = jax.grad(net)
  slope = _xla_cpu.channels_last_gradients(slope) if ordered else slope
  many = jax.vmap(lambda x: jax.lax.fori_loop(0, 9, lambda _, v: slope(v), x))
  text = jax.jit(many).lower(jnp.stack([X, X])).compile().as_text()
  orders = re.findall(r'dim_labels=(\S+?)[,\s]', text)
  assert len(orders) == 2
  # XLA's own, where they are not: the reason for all this.
  assert (set(orders) == {'b01f_01io->b01f'}) == ordered


def test_patches_are_no_convolutions_of_zeros():
  """A layer of patches, as transformers have: its derivative is a product."""
  patches = lambda x: convolve(x[:9, :6], strides=(3, 3), padding='VALID')
  slope = jax.grad(lambda x: jnp.sum(jnp.sin(patches(x))))
  text = str(jax.make_jaxpr(_xla_cpu.channels_last_gradients(slope))(X))
  convolutions = [v for v in text.split('\n') if 'conv_general_dilated[' in v]
  assert len(convolutions) == 1 and 'lhs_dilation=(3, 3)' not in text
  assert 'lhs_dilation=(3, 3)' in str(jax.make_jaxpr(slope)(X))
