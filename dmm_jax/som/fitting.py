"""Training a map: all codes at once (batch) or one after the other (online).

Kohonen (2001), "Self-Organizing Maps", 3rd edition. Under l1, linf, cosine and
correlation too units move towards the mean of codes as they are, as MiniSom and
others have it.
"""

from collections.abc import Sequence
import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from dmm_jax.som import batches
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
  """Returns a map of codes.

  One jitted program for each shape; under `vmap` over keys, or over codes of
  several layers (`pad`), one for all of them. A width that falls too fast makes
  a map that is folded, one that ends too wide a coarse one: look at both
  errors, the topographic and that of quantization.

  Args:
    key: of the initial codebook and of the order of the codes (online).
    codes: `[n, d]`; those without a nearest unit (`searching`) do not count.
    grid: rows and columns.
    num_epochs: passes over the codes.
    topology: 'rectangular' or 'hexagonal'.
    periodic: whether the grid is a torus.
    method: 'batch', or 'online', one code after the other in a new random order
      each epoch.
    distance: of the search, one of `DISTANCES`; all move towards means.
    neighborhood: one of `NEIGHBORHOODS`; 'mexican_hat' online only.
    init: one of `INITS`, or a codebook `[rows, cols, d]`.
    sigma: width of the neighbourhood at the first and the last update, in units
      of the grid; None for half the longer side and 0.7.
    rate: the learning rate likewise, online.
    schedule: of both in between, one of `SCHEDULES`.
    search_bytes: memory for the distances of one search; None for what is fast.
    divide: whether each device takes a share of the codes (batch). False where
      the caller has divided the work already.

  Returns:
    A `Map`, of codes' precision, at least float32. NaN where no code is usable.

  Raises:
    ValueError: for what does not exist, or goes together not at all.
  """
  # Not on a device: of several processes each hands over the whole.
  codes = codes if isinstance(codes, jax.Array) else np.asarray(codes)
  if codes.ndim != 2 or not codes.size:
    raise ValueError(f'codes: [n, d], neither 0, not {codes.shape}')
  if method not in METHODS:
    raise ValueError(f'method: one of {METHODS}, not {method!r}')
  if num_epochs < 0:
    raise ValueError(f'num_epochs: 0 or more, not {num_epochs}')
  if sigma is None:
    sigma = max(max(grid) / 2, 0.7), 0.7
  for name, ends in {'sigma': sigma, 'rate': rate}.items():
    if all(isinstance(v, int | float) for v in ends) and min(ends) <= 0:
      raise ValueError(f'{name}: above 0, not {ends}')
  named = isinstance(init, str)
  return _fit(
    key,
    codes,
    None if named else init,
    tuple(sigma),
    tuple(rate),
    init=init if named else None,
    grid=tuple(map(int, grid)),
    names=(topology, periodic, distance, neighborhood),
    num_epochs=num_epochs,
    method=method,
    schedule=schedule,
    search_bytes=search_bytes,
    divide=divide,
  )


@jax.jit
def step(
  som: maps.Map, x: jax.Array, sigma: jax.Array, rate: jax.Array
) -> maps.Map:
  """Moves the units around one code's nearest unit towards it: online.

  Args:
    som: the map.
    x: a code `[d]`; one without a nearest unit (`searching`) moves nothing.
    sigma: width of the neighbourhood, in units of the grid.
    rate: the share of its way that the nearest unit goes.

  Returns:
    The map, its `history` as it was.
  """
  x = jnp.asarray(x, som.codebook.dtype)
  codebook, _ = _step(som, som.codebook, x, sigma, rate)
  return dataclasses.replace(som, codebook=codebook)


def _step(som, codebook, x, sigma, rate):
  """Returns the next codebook, and how far the code was, NaN if unusable."""
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
  share = jnp.where(usable, rate * influence, 0)[..., None].astype(x.dtype)
  codebook = codebook + share * (x - codebook)
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
  falling = lambda ends: schedules.values(
    schedule, *ends, num_epochs * len(codes)
  ).reshape(num_epochs, -1)
  codes = codes.astype(som.codebook.dtype)
  return _train_online(order, som, codes, falling(sigma), falling(rate))


def _train_online(key, som, codes, sigmas, rates):
  """Returns the map after a pass over all codes for each row `[epochs, n]`."""

  def one(codebook, now):
    x, sigma, rate = now
    return _step(som, codebook, x, sigma, rate)

  def epoch(codebook, now):
    number, sigmas, rates = now
    own = jax.random.fold_in(key, number)
    order = jax.random.permutation(own, len(codes))
    codebook, away = jax.lax.scan(one, codebook, (codes[order], sigmas, rates))
    return codebook, jnp.nanmean(away)

  numbers = jnp.arange(len(sigmas))
  codebook, history = jax.lax.scan(
    epoch, som.codebook, (numbers, sigmas, rates)
  )
  return dataclasses.replace(som, codebook=codebook, history=history)
