"""Codes of a network's layers as vectors."""

import collections
from collections.abc import Callable
from collections.abc import Sequence
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dmm_jax import parallel
from dmm_jax import programs

POOLINGS = ('mean', 'max', 'flat', 'raw')


def pool(code: jax.Array, pooling: str) -> jax.Array:
  """Returns one layer's code of one input as a vector.

  What a map or a spectrum of a convolution says depends on this.

  Args:
    code: `[..., channels]`; spatial axes, or tokens, come first.
    pooling: 'mean' or 'max' over all but the channels, `[channels]`; 'flat',
      all entries in a row; 'raw', as it is.
  """
  if pooling not in POOLINGS:
    raise ValueError(f'pooling: one of {POOLINGS}, not {pooling!r}')
  if pooling == 'raw':
    return code
  if pooling == 'flat':
    return code.ravel()
  spatial = tuple(range(code.ndim - 1))
  return code.mean(axis=spatial) if pooling == 'mean' else code.max(spatial)


def of_network(
  forward: Callable,
  xs: np.ndarray,
  *,
  shared: tuple = (),
  pooling: str | Sequence[str] = 'mean',
  layers: Sequence[str] | None = None,
  batch_size: int = 256,
  progress: str | None = None,
) -> dict[str, Any]:
  """Returns the codes of a data set by layer, in the order of the network.

  Args:
    forward: `forward(x, *shared) -> (logits, codes)`, as all of `models` do. A
      `programs.bind` is compiled once for each shape; any other callable is
      traced at each call, with the arrays that it captures as they are now.
    xs: inputs `[n, ...]`.
    shared: arrays, as parameters of one network of many.
    pooling: of the hidden layers, as for `pool`; of several, each input passes
      the network once.
    layers: which; None for all hidden ones between 'input', flat, and 'logits'.
    batch_size, progress: as for `parallel.map_examples`.

  Returns:
    `{layer: [n, d]}`, at least float32; `[n, ...]` for 'raw'. Of several
    poolings, `{pooling: {layer: [n, d]}}`.
  """
  chosen = None if layers is None else tuple(layers)
  poolings = (pooling,) if isinstance(pooling, str) else tuple(pooling)
  options = dict(forward=forward, poolings=poolings, layers=chosen)
  encode: Callable = functools.partial(_encode, **options)
  if isinstance(forward, programs.Bound):
    encode = programs.bind(_encode, **options)
  found = parallel.map_examples(
    encode,
    (xs,),
    shared=shared,
    batch_size=batch_size,
    progress=progress,
  )
  return found[pooling] if isinstance(pooling, str) else found


def _encode(x, *shared, forward, poolings, layers):
  """Codes of one input by pooling and layer."""
  logits, hidden = forward(x, *shared)
  wide = lambda v: v.astype(jnp.promote_types(v.dtype, jnp.float32))
  # Plain dicts come back from `jit` sorted by name.
  result = collections.OrderedDict()
  for pooling in poolings:
    found = {name: pool(code, pooling) for name, code in hidden.items()}
    found = {'input': x.ravel(), **found, 'logits': logits}
    result[pooling] = collections.OrderedDict(
      (name, wide(found[name])) for name in (layers or found)
    )
  return result


def standardize(codes: np.ndarray, of: np.ndarray | None = None) -> np.ndarray:
  """Returns codes with mean 0 and variance 1 in each feature.

  Before a euclidean map; not before `diversity`, which this makes 1.

  Args:
    codes: `[n, d]`.
    of: the codes whose mean and variance are used; None for these.

  Returns:
    `[n, d]`; 0 in features that do not vary in `of`.
  """
  of = codes if of is None else of
  mean, spread = of.mean(axis=0), of.std(axis=0)
  # What is constant has, by rounding, a spread of its own.
  varies = spread > 1e-6 * np.abs(of).max(axis=0)
  return np.where(varies, (codes - mean) / np.where(varies, spread, 1), 0)
