"""Architectures as triples, and their kernels."""

from collections.abc import Callable
import functools
import math

import jax

from dmm_jax import pooled_kernel
from dmm_jax._neural_tangents import stax

SQRT_2 = math.sqrt(2.0)

# `(init_fn, apply_fn, kernel_fn)`, as in neural-tangents.
Triple = tuple[Callable, Callable, Callable]

# The library's own ReLU kernel subtracts infinities in the second derivatives
# at coincident inputs: they hang on the last bit of its cosines.
_ACTIVATIONS = {
  'relu': lambda: stax.Elementwise(
    jax.nn.relu, pooled_kernel.expect_relu, pooled_kernel.expect_both_active
  ),
  'erf': stax.Erf,
}
# Largest E(phi(u) - phi(v))^2 / E(u - v)^2 over jointly normal u, v.
_ACTIVATION_GAIN = {'relu': 0.5, 'erf': 4 / math.pi}


def fully_connected(
  depth: int = 2,
  sigma_w: float = SQRT_2,
  sigma_b: float = 0.0,
  *,
  width: int = 100,
  activation: str = 'relu',
) -> Triple:
  """Returns `(init_fn, apply_fn, kernel_fn)` of a dense network, scalar output.

  Args:
    depth: hidden layers.
    sigma_w: weights are N(0, sigma_w^2 / fan_in).
    sigma_b: biases are N(0, sigma_b^2).
    width: of hidden layers of the finite network; the kernel has none.
    activation: 'relu' or 'erf'.
  """
  dense = functools.partial(_dense, sigma_w=sigma_w, sigma_b=sigma_b)
  layers = [stax.Flatten()]
  for _ in range(depth):
    layers += [dense(width), _activation(activation)]
  gain = _gain(depth, sigma_w, activation)
  return _triple([*layers, dense(1)], gain)


def convolutional(
  depth: int = 4,
  sigma_w: float = SQRT_2,
  sigma_b: float = 0.0,
  *,
  width: int = 128,
  activation: str = 'relu',
) -> Triple:
  """Returns the triple of `depth` 3x3 convolutions, then a dense readout.

  Inputs are `[h, w, c]`; padding is SAME. Arguments as `fully_connected`;
  `width` counts channels.
  """
  layers = []
  for _ in range(depth):
    layers += [_conv(width, sigma_w, sigma_b), _activation(activation)]
  layers += [stax.Flatten(), _dense(1, sigma_w, sigma_b)]
  return _triple(layers, _gain(depth, sigma_w, activation))


def lenet(
  sigma_w: float = SQRT_2,
  sigma_b: float = 0.0,
  *,
  width: int = 128,
  dense_width: int = 512,
  activation: str = 'relu',
) -> Triple:
  """Returns the triple of De Palma et al.'s LeNet: 4 convolutions, 2 dense.

  Average pooling, 2x2, follows the second and the fourth convolution. Inputs
  are `[h, w, c]` with h, w >= 4. Its NNGP kernel is our own (`pooled_kernel`).
  """
  conv = lambda: _conv(width, sigma_w, sigma_b)
  dense = functools.partial(_dense, sigma_w=sigma_w, sigma_b=sigma_b)
  act = lambda: _activation(activation)
  pool = lambda: stax.AvgPool((2, 2), strides=(2, 2))
  stage = lambda: [conv(), act(), conv(), act(), pool()]
  head = [dense(dense_width), act(), dense(dense_width), act(), dense(1)]
  # Averaging lengthens no difference of features, so pooling adds no gain.
  gain = _gain(6, sigma_w, activation)
  fast = pooled_kernel.kernel_fn(
    convs=(2, 2),
    dense=2,
    sigma_w=sigma_w,
    sigma_b=sigma_b,
    expect=pooled_kernel.EXPECT[activation],
  )
  return _triple([*stage(), *stage(), stax.Flatten(), *head], gain, fast)


def resnet(
  depth: int = 19,
  sigma_w: float = SQRT_2,
  sigma_b: float = 0.0,
  *,
  width: int = 32,
  activation: str = 'relu',
) -> Triple:
  """Returns the triple of a pre-activation residual network, three stacks.

  Channels are `width` times 1, 2, 4; the second and third stack halve the
  image, with a 1x1 convolution on the shortcut. `depth` counts the hidden 3x3
  convolutions, 1 + 6 per block of each stack: 19 is a ResNet-20 with its
  readout. The post-addition form of De Palma et al. has no closed kernel.
  """
  if depth < 7 or depth % 6 != 1:
    raise ValueError(f'depth must be 7, 13, 19, ..., got {depth}')
  act = lambda: _activation(activation)
  layers = [_conv(width, sigma_w, sigma_b)]
  for stack in range(3):
    for block in range((depth - 1) // 6):
      channels, stride = width * 2**stack, 2 if stack and not block else 1
      conv = functools.partial(
        _conv, channels, sigma_w=sigma_w, sigma_b=sigma_b
      )
      skip = stax.Identity() if stride == 1 else conv(size=1, stride=2)
      branch = stax.serial(act(), conv(stride=stride), act(), conv())
      layers += [stax.FanOut(2), stax.parallel(branch, skip), stax.FanInSum()]
  layers += [act(), stax.Flatten(), _dense(1, sigma_w, sigma_b)]
  return _triple(layers, None)


def _activation(name):
  if name not in _ACTIVATIONS:
    known = ', '.join(_ACTIVATIONS)
    raise ValueError(f'activation must be one of {known}, got {name!r}')
  return _ACTIVATIONS[name]()


def _dense(width, sigma_w, sigma_b):
  return stax.Dense(width, W_std=sigma_w, b_std=sigma_b or None)


def _conv(width, sigma_w, sigma_b, *, size=3, stride=1):
  return stax.Conv(
    width,
    (size, size),
    strides=(stride, stride),
    padding='SAME',
    W_std=sigma_w,
    b_std=sigma_b or None,
  )


def _gain(depth, sigma_w, activation):
  """M^2 with E(f(x) - f(y))^2 <= M^2 ||x - y||_2^2 / n, for plain stacks."""
  _activation(activation)
  return sigma_w**2 * (sigma_w**2 * _ACTIVATION_GAIN[activation]) ** depth


def _triple(layers, gain, fast=None):
  init_fn, apply_fn, full_kernel_fn = stax.serial(*layers)

  def kernel_fn(xs1, xs2=None, get='nngp', **options):
    """Returns the kernel `[n1, n2]` between the rows of `xs1` and `xs2`."""
    if fast is not None and get == 'nngp' and not options:
      return fast(xs1, xs2)
    return full_kernel_fn(xs1, xs2, get, **options)

  kernel_fn.gain = gain
  kernel_fn.captures_nothing = True
  return init_fn, apply_fn, kernel_fn
