"""Training of a map: all codes at once (batch) or one after the other (online).

Kohonen (2001), "Self-Organizing Maps", 3rd edition. Units move towards means of
the codes whatever the distance, as in MiniSom and other libraries.
"""

from collections.abc import Sequence
import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from dmm_jax.som import batches
from dmm_jax.som import chunks
from dmm_jax.som import grids
from dmm_jax.som import initial
from dmm_jax.som import maps
from dmm_jax.som import neighborhoods
from dmm_jax.som import schedules
from dmm_jax.som import searching

METHODS = ('batch', 'online')
_STATIC = (
  'init grid names num_epochs method schedule search_bytes divide'.split()
)


def fit(
  key: jax.Array,
  codes: jax.Array,
  *,
  grid: tuple[int, int] = (20, 20),
  num_epochs: int = 20,
  topology: str = 'rectangular',
  periodic: bool = False,
  method: str = 'batch',
  distance: str = 'euclidean',
  neighborhood: str = 'gaussian',
  init: str | jax.Array = 'sample',
  sigma: Sequence[float] | None = None,
  rate: Sequence[float] = (0.5, 0.01),
  schedule: str = 'exponential',
  search_bytes: int | None = None,
  divide: bool = True,
) -> maps.Map:
  """Train a map of codes.

  Compiles one program for each shape; `vmap` over keys, or over codes of
  several layers (`pad`), runs all of them in one. A width that falls too fast
  folds the map, one that ends too wide makes it coarse: check both
  `topographic_error` and `quantization_error`.

  Args:
    key: a `jax.random` key, for the initial codebook and the order of codes.
    codes: `[n, d]`, real numbers; unusable ones (`searching`) do not count.
    grid: numbers of rows and columns.
    num_epochs: passes over the codes.
    topology: 'rectangular' or 'hexagonal'.
    periodic: whether the grid is a torus.
    method: 'batch'; or 'online', one code after the other in a new random order
      each epoch.
    distance: between codes and units in the search, one of `DISTANCES`; units
      move towards means whatever the distance.
    neighborhood: one of `NEIGHBORHOODS`; 'mexican_hat' needs method 'online'.
    init: one of `INITS`, or a codebook `[rows, cols, d]`.
    sigma: widths of the neighbourhood at the first and the last update, in
      units of the grid; None for half the longer side and 0.7.
    rate: learning rates at the first and the last update, of method 'online'.
    schedule: how both change in between, one of `SCHEDULES`.
    search_bytes: memory for the distances of one search, in bytes; None chooses
      by the backend.
    divide: whether to divide the codes among the devices (method 'batch').
      Set False where the caller has divided the work already.

  Returns:
    A `Map` in the precision of the codes, at least float32. Its codebook is NaN
    where no code is usable.

  Raises:
    ValueError: for an invalid shape, or unknown or incompatible options.
  """
  codes = maps.training_codes(codes)
  grid = grids.check_shape(grid)
  if sigma is None:
    sigma = max(max(grid) / 2, 0.7), 0.7
  _check_key(key)
  _check_options(num_epochs, method, schedule, search_bytes)
  is_named = isinstance(init, str)
  return _fit(
    key,
    codes,
    None if is_named else init,
    _check_ends('sigma', sigma),
    _check_ends('rate', rate),
    init=init if is_named else None,
    grid=grid,
    names=(topology, periodic, distance, neighborhood),
    num_epochs=num_epochs,
    method=method,
    schedule=schedule,
    search_bytes=search_bytes,
    divide=divide,
  )


def _check_key(key):
  """Raises ValueError for anything but one typed or raw key."""
  dtype = getattr(key, 'dtype', None)
  if dtype is not None:
    is_typed = jnp.issubdtype(dtype, jax.dtypes.prng_key)
    if key.ndim == (0 if is_typed else 1) and (is_typed or dtype == jnp.uint32):
      return
  what = 'a ' + type(key).__name__ if dtype is None else f'{dtype}{key.shape}'
  raise ValueError(
    f'key must be one key, such as jax.random.key(0), got {what}'
  )


def _check_options(num_epochs, method, schedule, search_bytes):
  if method not in METHODS:
    raise ValueError(f'method must be one of {METHODS}, got {method!r}')
  schedules.check(schedule)
  if not isinstance(num_epochs, int | np.integer) or num_epochs < 0:
    raise ValueError(
      f'num_epochs must be an integer, at least 0, got {num_epochs!r}'
    )
  chunks.check_bytes(search_bytes)


def _check_ends(name, ends):
  """Returns a pair; checks its values where they are known already."""
  is_pair = np.ndim(ends) == 1 and len(ends) == 2
  known = [v for v in ends if isinstance(v, int | float)] if is_pair else []
  if not is_pair or not all(0 < v < np.inf for v in known):
    raise ValueError(
      f'{name} must be two positive numbers, at the first and the last update, '
      f'got {ends!r}'
    )
  return tuple(ends)


@jax.jit
def step(
  som: maps.Map, x: jax.Array, sigma: jax.Array, rate: jax.Array
) -> maps.Map:
  """Move the units around one code's nearest unit towards it: online.

  Args:
    som: the map.
    x: a code `[d]`; an unusable one (`searching`) moves nothing.
    sigma: width of the neighbourhood, in units of the grid.
    rate: fraction of its distance from the code that the nearest unit moves.

  Returns:
    The map, its `history` unchanged.
  """
  x = maps.check_codes(som, jnp.asarray(x)[None])[0]
  codebook = som.units.reshape(som.codebook.shape)
  codebook, _ = _step(som, codebook, x, sigma, rate)
  return dataclasses.replace(som, codebook=codebook)


def _step(som, codebook, x, sigma, rate):
  """Returns the next codebook and the code's distance, NaN if unusable."""
  usable = searching.is_usable(x, som.distance)
  x = jnp.where(usable, x, 0)[None, None]
  away = searching.measure(x, codebook, som.distance)
  index = jnp.argmin(away)
  influence = neighborhoods.around(
    jnp.stack(jnp.unravel_index(index, som.grid)),
    jnp.asarray(sigma, x.dtype),
    som.grid,
    som.topology,
    som.periodic,
    som.neighborhood,
  )
  step = jnp.where(usable, rate * influence, 0)[..., None].astype(x.dtype)
  codebook = codebook + step * (x - codebook)
  return codebook, jnp.where(usable, away.ravel()[index], jnp.nan)


@functools.partial(jax.jit, static_argnames=_STATIC)
def _fit(
  key,
  codes,
  codebook,
  sigma,
  rate,
  *,
  init,
  grid,
  names,
  num_epochs,
  method,
  schedule,
  search_bytes,
  divide,
):
  draw, order = jax.random.split(key)
  keys = 'topology periodic distance neighborhood'.split()
  som = initial.init(
    draw,
    codes,
    grid=grid,
    init=codebook if init is None else init,
    **dict(zip(keys, names, strict=True)),
  )
  if method == 'batch':
    sigmas = schedules.values(schedule, *sigma, num_epochs)
    return batches.train(som, codes, sigmas, search_bytes, divide)
  num = num_epochs * len(codes)
  sigmas, rates = (
    schedules.values(schedule, *ends, num).reshape(num_epochs, len(codes))
    for ends in (sigma, rate)
  )
  codes = codes.astype(som.codebook.dtype)
  return _train_online(order, som, codes, sigmas, rates)


def _train_online(key, som, codes, sigmas, rates):
  """Returns the map after a pass over all codes for each row `[epochs, n]`."""

  def update(codebook, inputs):
    return _step(som, codebook, *inputs)

  def epoch(codebook, inputs):
    number, sigmas, rates = inputs
    epoch_key = jax.random.fold_in(key, number)
    order = jax.random.permutation(epoch_key, len(codes))
    codebook, away = jax.lax.scan(
      update, codebook, (codes[order], sigmas, rates)
    )
    return codebook, jnp.nanmean(away)

  numbers = jnp.arange(len(sigmas))
  codebook, history = jax.lax.scan(
    epoch, som.codebook, (numbers, sigmas, rates)
  )
  return dataclasses.replace(som, codebook=codebook, history=history)
