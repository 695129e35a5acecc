"""Codes of a network's layers as vectors."""

from collections.abc import Callable
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from dmm_jax import parallel

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
  pooling: str = 'mean',
  layers: Sequence[str] | None = None,
  batch_size: int = 256,
  progress: str | None = None,
) -> dict[str, np.ndarray]:
  """Returns the codes of a data set by layer, in the order of the network.

  Args:
    forward: one input -> `(logits, codes)`, as all of `models` do.
    xs: inputs `[n, ...]`.
    pooling: of the hidden layers, as for `pool`.
    layers: which; None for all hidden ones between 'input', flat, and 'logits'.
    batch_size, progress: as for `parallel.map_examples`.

  Returns:
    `{layer: [n, d]}`, at least float32; `[n, ...]` for 'raw'.
  """

  def encode(x):
    logits, hidden = forward(x)
    found = {name: pool(code, pooling) for name, code in hidden.items()}
    found = {'input': x.ravel(), **found, 'logits': logits}
    # A tuple: dicts come back from `jit` sorted by name.
    chosen = found if layers is None else layers
    names.extend(chosen if not names else ())
    wide = lambda v: v.astype(jnp.promote_types(v.dtype, jnp.float32))
    return tuple(wide(found[name]) for name in chosen)

  names: list[str] = []
  columns = parallel.map_examples(
    encode, (xs,), batch_size=batch_size, progress=progress
  )
  return dict(zip(names, columns, strict=True))


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
  varies = spread > 1e-6 * np.abs(of).max(axis=0, initial=0)
  return np.where(varies, (codes - mean) / np.where(varies, spread, 1), 0)
