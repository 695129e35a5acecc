"""Strings of two symbols under ReLU networks: how many flips change the class.

The networks are those of De Palma, Kiani, Lloyd (2019), "Random deep neural
networks are biased towards simple functions",
https://arxiv.org/abs/1812.10156: two hidden ReLU layers, no biases, one output
whose sign is the class. Distances are numbers of flipped bits (Hamming).
"""

import itertools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dmm_jax import models
from dmm_jax import nngp

SIGNS = (-1.0, 1.0)
# Strings that the exhaustive search evaluates at once.
_CHUNK = 4096


class Network(NamedTuple):
  """Weights, inputs before outputs.

  Attributes:
    first: `[n, h]`.
    second: `[h, h]`.
    head: `[h]`.
  """

  first: jax.Array
  second: jax.Array
  head: jax.Array


class Greedy(NamedTuple):
  """Where a greedy search ended.

  Attributes:
    flips: Hamming distance of the string found; inf where none was.
    rank: the worst place, from 0, that a flip taken had in the order of the
      gradient: how many candidates were needed, less one.
    straight: flips that the first gradient alone asks for; inf likewise.
    output: of the network at the start.
  """

  flips: jax.Array
  rank: jax.Array
  straight: jax.Array
  output: jax.Array


def draw(key: jax.Array, n: int) -> Network:
  """A random network n-n-n-1, drawn as the authors' code does it.

  He-normal (truncated) hidden layers and a Glorot-uniform head: for strings of
  signs the output's variance is 2 n / (n + 1), up to relative terms of 1 / n.
  """
  keys = jax.random.split(key, 3)
  return Network(
    models.he_normal(keys[0], (n, n)),
    models.he_normal(keys[1], (n, n)),
    models.glorot_uniform(keys[2], (n, 1))[:, 0],
  )


def output(network: Network, x: jax.Array) -> jax.Array:
  """The output of one string `[n]`."""
  return _from_sums(network, x @ network.first)


def _from_sums(network, sums):
  """Outputs from what enters the first layer, `[..., h] -> [...]`."""
  hidden = jax.nn.relu(sums) @ network.second
  return jax.nn.relu(hidden) @ network.head


def greedy(
  network: Network,
  x: jax.Array,
  *,
  symbols: tuple[float, float] = SIGNS,
  candidates: int = 0,
) -> Greedy:
  """Flips one bit at a time, each time the one that moves the output most.

  One flip adds one row of weights to what enters the first layer; the second
  layer is then evaluated for each candidate. With fewer candidates than bits
  these are the ones that the gradient ranks first, evaluated exactly: the
  search differs from the full one only if the best flip is not among them,
  which `rank` far below their number makes unlikely. No bit is flipped twice.

  Args:
    network: as of `draw`, or trained.
    x: one string `[n]`.
    symbols: the two values of a bit.
    candidates: flips evaluated at each step; 0 for all.

  Returns:
    A `Greedy`: an upper bound of the distance to the nearest string of the
    other class, exact up to 2 flips where all candidates are evaluated.
  """
  n = len(x)
  candidates = min(candidates or n, n)
  change = sum(symbols) - 2 * x
  start, slope = jax.value_and_grad(lambda v: output(network, v))(x)
  sign = jnp.where(start > 0, 1.0, -1.0)

  def going(carry):
    _, flips, _, value = carry
    return (value * sign > 0) & (flips < n)

  def step(carry):
    flipped, flips, rank, _ = carry
    here = x + flipped * change
    sums = here @ network.first
    gradient = jax.grad(lambda v: output(network, v))(here)
    gain = jnp.where(flipped > 0, -jnp.inf, -sign * gradient * change)
    _, rows = jax.lax.top_k(gain, candidates)
    tried = sums[None] + change[rows][:, None] * network.first[rows]
    values = sign * _from_sums(network, tried)
    values = jnp.where(flipped[rows] > 0, jnp.inf, values)
    best = jnp.argmin(values)
    flipped = flipped.at[rows[best]].set(1.0)
    return flipped, flips + 1, jnp.maximum(rank, best), sign * values[best]

  zero = jnp.int32(0)
  _, flips, rank, value = jax.lax.while_loop(
    going, step, (jnp.zeros_like(x), zero, zero, start)
  )
  gains = jnp.cumsum(jnp.sort(-sign * slope * change, descending=True))
  met = gains >= sign * start
  return Greedy(
    jnp.where(value * sign > 0, jnp.inf, flips),
    rank,
    jnp.where(met.any(), met.argmax() + 1.0, jnp.inf),
    start,
  )


def random_flips(
  key: jax.Array,
  network: Network,
  x: jax.Array,
  *,
  symbols: tuple[float, float] = SIGNS,
  block: int = 64,
) -> jax.Array:
  """Bits flipped in random order until the class first changes; inf if never.

  Args:
    key: of the order.
    network, x, symbols: as for `greedy`.
    block: flips evaluated at once.
  """
  n = len(x)
  change = sum(symbols) - 2 * x
  order = jax.random.permutation(key, n)
  sums = x @ network.first
  sign = jnp.where(_from_sums(network, sums) > 0, 1.0, -1.0)

  def step(carry):
    begin, sums, _ = carry
    places = begin + jnp.arange(block)
    rows = order[jnp.minimum(places, n - 1)]
    added = jnp.where(places < n, change[rows], 0.0)[:, None]
    path = sums[None] + jnp.cumsum(added * network.first[rows], axis=0)
    crossed = (sign * _from_sums(network, path) <= 0) & (places < n)
    met = jnp.where(crossed.any(), begin + crossed.argmax() + 1.0, jnp.inf)
    return begin + block, path[-1], met

  going = lambda carry: jnp.isinf(carry[2]) & (carry[0] < n)
  start = jnp.int32(0), sums, jnp.float32(jnp.inf)
  return jax.lax.while_loop(going, step, start)[2]


def exhaustive(
  network: Network,
  x: jax.Array,
  *,
  symbols: tuple[float, float] = SIGNS,
  reach: int = 3,
) -> jax.Array:
  """The distance of the nearest string of the other class, of all strings.

  Args:
    network, x, symbols: as for `greedy`.
    reach: how many flips to try at most; costs n^(reach + 2) / reach!.

  Returns:
    The distance; inf if it is above `reach`.
  """
  n = len(x)
  moves = (sum(symbols) - 2 * x)[:, None] * network.first
  sums = x @ network.first
  sign = jnp.where(_from_sums(network, sums) > 0, 1.0, -1.0)

  def crossed(rows):
    changed = sums[None] + moves[rows].sum(1)
    return (sign * _from_sums(network, changed) <= 0).any()

  found = jnp.float32(jnp.inf)
  for size in range(1, reach + 1):
    sets = np.array([*itertools.combinations(range(n), size)], np.int32)
    # The last set stands in for those that are missing.
    fill = np.repeat(sets[-1:], -len(sets) % min(_CHUNK, len(sets)), axis=0)
    chunks = np.concatenate([sets, fill]).reshape(
      -1, min(_CHUNK, len(sets)), size
    )
    found = jax.lax.cond(
      jnp.isinf(found),
      lambda size=size, chunks=chunks: jnp.where(
        jax.lax.map(crossed, chunks).any(), jnp.float32(size), jnp.inf
      ),
      lambda found=found: found,
    )
  return found


# --- At infinite width -----------------------------------------------------


def greedy_law(n: int, num: int = 4000, seed: int = 0) -> np.ndarray:
  """Draws of the greedy distance at infinite width, to first order.

  The output f at a string of signs and its gradient g are Gaussian, g with
  covariance 1 / n, and f = x . g, since f is homogeneous. Flips of the largest
  2 |g_i| are counted until they make up for |f|. Leading order for large n:
  |f| / 2 sqrt(n / ln n), with mean sqrt(n / (2 pi ln n)).

  Returns:
    `[num]` counts.
  """
  rng = np.random.default_rng(seed)
  counts = np.empty(num)
  for start in range(0, num, 100):
    rows = min(100, num - start)
    gradient = rng.normal(size=(rows, n))  # Its scale cancels.
    value = gradient.sum(1, keepdims=True)
    gain = -np.sort(-2 * np.sign(value) * gradient, axis=1)
    reached = np.cumsum(gain, axis=1) >= np.abs(value)
    counts[start : start + rows] = reached.argmax(1) + 1
  return counts


def random_law(n: int, num: int = 40000, seed: int = 0) -> np.ndarray:
  """Draws of the number of random flips at infinite width, exact; inf if never.

  Along flips the output is a stationary Gaussian process, with the kernel of
  two hidden layers at x . x' = n - 2 |t - t'|.

  Returns:
    `[num]` counts.
  """
  _, _, kernel_fn = nngp.fully_connected(depth=2)
  path = np.where(np.tri(n + 1, n, -1), -1.0, 1.0).astype(np.float32)
  row = np.asarray(kernel_fn(path[:1], path, 'nngp'))[0].astype(float)
  lags = np.abs(np.arange(n + 1)[:, None] - np.arange(n + 1))
  covariance = row[lags] / row[0] + 1e-9 * np.eye(n + 1)
  root = np.linalg.cholesky(covariance).T.astype(np.float32)
  rng, counts = np.random.default_rng(seed), np.empty(num)
  for start in range(0, num, 2000):
    rows = min(2000, num - start)
    values = rng.standard_normal((rows, n + 1), np.float32) @ root
    crossed = values * values[:, :1] <= 0
    first = np.where(crossed.any(1), crossed.argmax(1), np.inf)
    counts[start : start + rows] = first
  return counts


# --- What flips grow as ----------------------------------------------------


def growth(n: np.ndarray | float) -> np.ndarray:
  """Returns sqrt(n / ln n), what chosen flips go as."""
  n = np.asarray(n, float)
  return np.sqrt(n / np.log(n))


def output_line(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Returns the slope of flips on |f|, and their correlation.

  Args:
    values: flips and |f| of m networks `[..., m, 2]`.

  Returns:
    `[...]` each; NaN where a search found nothing, or all values are the same.
  """
  with np.errstate(invalid='ignore', divide='ignore'):
    centred = values - values.mean(-2, keepdims=True)
    both = (centred[..., 0] * centred[..., 1]).mean(-1)
    scatter = (centred**2).mean(-2)
    return both / scatter[..., 1], both / np.sqrt(scatter.prod(-1))


def controlled_mean(values: np.ndarray) -> np.ndarray:
  """Returns mean flips at the known mean of |f|, sqrt(2 / pi), by regression.

  Most of the scatter of flips is that of |f|.

  Args:
    values: flips, and |f| in units of its standard deviation, of m networks
      `[..., m, 2]`.
  """
  slope, _ = output_line(values)
  flips, size = values[..., 0].mean(-1), values[..., 1].mean(-1)
  return flips - slope * (size - np.sqrt(2 / np.pi))


def fit_factor(
  means: np.ndarray, basis: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """Returns `a` of `means ~ a basis` by least squares, and the rms residual.

  Args:
    means: `[..., k]`.
    basis: `[k]`.
  """
  a = means @ basis / (basis @ basis)
  return a, np.sqrt(np.mean((means - a[..., None] * basis) ** 2, axis=-1))
