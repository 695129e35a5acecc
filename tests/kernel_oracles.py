"""Finite networks and their infinitely wide limit, layer by layer in numpy.

A network is a list of layers: 'flatten', 'dense', 'activate', 'pool' (2 x 2),
`('convolve', size, stride)` and `('add', branch, shortcut)`. Kernels follow the
covariances of all pairs of pixels; convolutions are sums of shifts.
"""

import itertools

import numpy as np
import oracles
from scipy import special

CONVOLVE, HALVE, SHORTCUT = (
  ('convolve', size, stride) for size, stride in ((3, 1), (3, 2), (1, 2))
)


def fully_connected(depth):
  return ['flatten', *['dense', 'activate'] * depth, 'dense']


def convolutional(depth):
  return [*[CONVOLVE, 'activate'] * depth, 'flatten', 'dense']


def lenet():
  stage = [CONVOLVE, 'activate', CONVOLVE, 'activate', 'pool']
  return [*stage * 2, *fully_connected(2)]


def resnet(depth):
  layers = [CONVOLVE]
  for stack, block in itertools.product(range(3), range((depth - 1) // 6)):
    halves = stack > 0 and block == 0
    branch = ['activate', HALVE if halves else CONVOLVE, 'activate', CONVOLVE]
    layers.append(('add', branch, [SHORTCUT] if halves else []))
  return [*layers, 'activate', 'flatten', 'dense']


def forward(layers, params, image, sigma_w, sigma_b, activation):
  """Output of the finite network; `params`: weights in order, and biases."""
  arrays = iter(params)

  def run(layers, v, shape):
    for layer in layers:
      if layer == 'flatten':
        v, shape = v.reshape(1, -1), (1, 1)
      elif layer == 'activate':
        v = special.erf(v) if activation == 'erf' else np.maximum(v, 0.0)
      elif layer == 'pool':
        mean, shape = pooling(shape)
        v = mean @ v
      elif layer[0] == 'add':
        first, after = run(layer[1], v, shape)
        second, _ = run(layer[2], v, shape)
        v, shape = first + second, after
      else:
        moved, shape = shifts(layer, shape)
        w = next(arrays)
        w = w.reshape(len(moved), v.shape[1], w.shape[-1])
        v = sum(s @ v @ part for s, part in zip(moved, w, strict=True))
        v = v * sigma_w / np.sqrt(w[..., 0].size)
        if sigma_b:
          v = v + sigma_b * next(arrays).reshape(1, -1)
    return v, shape

  v, _ = run(layers, image.reshape(-1, image.shape[-1]), image.shape[:2])
  assert next(arrays, None) is None
  return v.ravel()


def kernel(layers, x, y, sigma_w, sigma_b, activation='relu'):
  """K(x, y) of the infinitely wide network between images `[h, w, c]`."""

  def run(layers, k, shape):
    for layer in layers:
      if layer == 'flatten':
        k, shape = np.einsum('kpp->k', k)[:, None, None] / k.shape[1], (1, 1)
      elif layer == 'activate':
        k = _activate(k, activation)
      elif layer == 'pool':
        mean, shape = pooling(shape)
        k = mean @ k @ mean.T
      elif layer[0] == 'add':
        first, after = run(layer[1], k, shape)
        second, _ = run(layer[2], k, shape)
        k, shape = first + second, after
      else:
        moved, shape = shifts(layer, shape)
        k = sum(s @ k @ s.T for s in moved) / len(moved)
        k = sigma_b**2 + sigma_w**2 * k
    return k, shape

  shape = np.shape(x)[:-1] if np.ndim(x) == 3 else (len(x), 1)
  x, y = (np.reshape(v, (-1, np.shape(v)[-1])) for v in (x, y))
  pairs = np.stack([a @ b.T for a, b in ((x, x), (y, y), (x, y))])
  return run(layers, pairs / x.shape[1], shape)[0][2].item()


def kernels(layers, xs, ys, *options):
  """`kernel` of all pairs, `[n1, n2]`."""
  return np.array([[kernel(layers, x, y, *options) for y in ys] for x in xs])


def _activate(k, activation):
  """E phi(u) phi(v) of pairs (x, x), (y, y) and (x, y), `[3, p, p]`."""
  own = np.maximum(np.einsum('kpp->kp', k), 1e-150)
  first, second = own[[0, 1, 0]][:, :, None], own[[0, 1, 1]][:, None]
  return oracles._expect(k, first, second, activation)


def shifts(layer, shape):
  """What an output pixel sees at each place of the window, and their shape."""
  if layer == 'dense':
    return [np.eye(1)], shape
  _, size, stride = layer
  places, after = [], []
  for n in shape:
    out = -(-n // stride)
    pad = max((out - 1) * stride + size - n, 0) // 2
    rows = np.arange(out)[:, None] * stride - pad
    places.append([rows + i == np.arange(n) for i in range(size)])
    after.append(out)
  return [np.kron(a, b) for a, b in itertools.product(*places)], tuple(after)


def pooling(shape):
  """Mean of 2 x 2 pixels; an odd last line is left out."""
  halves = [np.kron(np.eye(n // 2), [[0.5, 0.5]]) for n in shape]
  wide = [
    np.pad(v, ((0, 0), (0, n % 2))) for v, n in zip(halves, shape, strict=True)
  ]
  return np.kron(*wide), tuple(n // 2 for n in shape)
