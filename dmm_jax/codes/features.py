"""Which inputs a unit of a map stands for."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dmm_jax import _xla_cpu
from dmm_jax import parallel
from dmm_jax import som
from dmm_jax.codes import maps as maps_lib


def top_inputs(trained: som.Map, codes: jax.Array, num: int = 9) -> np.ndarray:
  """Returns the inputs of each unit whose codes are nearest to its own.

  Args:
    trained: the map.
    codes: `[n, d]`.
    num: how many a unit.

  Returns:
    Rows of `codes`, nearest first, `[rows, cols, num]`; -1 where a unit has
    fewer.
  """
  unit = np.asarray(som.flat(trained, som.best_matching_units(trained, codes)))
  away = np.asarray(som.distances(trained, codes))
  out = np.full((trained.units.shape[0], num), -1)
  for i, own in enumerate(out):
    mine = np.flatnonzero(unit == i)
    mine = mine[np.argsort(away[mine], kind='stable')][:num]
    own[: len(mine)] = mine
  return out.reshape(*trained.grid, num)


def synthesize(
  key: jax.Array,
  encode: Callable,
  target: jax.Array,
  start: jax.Array,
  *,
  bounds: tuple | None = (0.0, 1.0),
  num_steps: int = 200,
  rate: float = 0.05,
  roughness: float = 0.0,
  shrinkage: float = 0.0,
  jitter: int = 0,
) -> jax.Array:
  """Returns an input whose code is near a target: gradient synthesis.

  Adam on `|encode(x) - target|^2 / |target|^2` and two penalties. What comes
  out is one of many inputs with that code, and may look like none of the data:
  check it by `reencoded`. Mahendran, Vedaldi (2015),
  https://arxiv.org/abs/1412.0035, with Adam for their momentum.

  Args:
    key: of the jitter.
    encode: one input -> its code, as the map has it.
    target: a unit's code.
    start: an input `[...]`, of which the shape is taken.
    bounds: None, or the box that the input is kept in.
    num_steps: of Adam.
    rate: its learning rate, in units of the input.
    roughness: weight of the mean squared difference of neighbouring pixels,
      along the first two axes.
    shrinkage: weight of the mean squared entry.
    jitter: pixels by which the image is rolled at random each step, along the
      first two axes; 0 for none.

  Returns:
    The input of the least objective that was met, unjittered.
  """
  scale = jnp.sum(target**2)
  scale = jnp.where(scale > 0, scale, 1)
  spatial = tuple(range(min(start.ndim, 2)))

  def objective(x, roll):
    shown = jnp.roll(x, tuple(roll), spatial) if jitter else x
    rough = sum(jnp.mean(jnp.diff(x, axis=i) ** 2) for i in spatial)
    miss = jnp.sum((encode(shown) - target) ** 2) / scale
    return miss + roughness * rough + shrinkage * jnp.mean(x**2)

  adam = optax.adam(rate)
  slope_of = _xla_cpu.channels_last_gradients(jax.value_and_grad(objective))

  def step(carry, number):
    x, inner, best = carry
    own = jax.random.fold_in(key, number)
    roll = jax.random.randint(own, (len(spatial),), -jitter, jitter + 1)
    value, slope = slope_of(x, roll)
    best = jax.tree.map(
      lambda old, new: jnp.where(value < best[0], new, old), best, (value, x)
    )
    change, inner = adam.update(slope, inner)
    x = optax.apply_updates(x, change)
    x = x if bounds is None else jnp.clip(x, *bounds)
    return (x, inner, best), None

  begin = start, adam.init(start), (jnp.asarray(jnp.inf, start.dtype), start)
  (x, _, best), _ = jax.lax.scan(step, begin, jnp.arange(num_steps))
  last = objective(x, jnp.zeros(len(spatial), int))
  return jnp.where(last < best[0], x, best[1])


def reencoded(
  trained: som.Map, codes: jax.Array, units: jax.Array
) -> np.ndarray:
  """Whether codes' best-matching units are those that were aimed at, `[n]`.

  Args:
    trained: the map.
    codes: of synthesized inputs, `[n, d]`.
    units: rows and columns, `[n, 2]`.
  """
  found = som.best_matching_units(trained, codes)
  return np.asarray(jnp.all(found == jnp.asarray(units), axis=-1))


def unit_inputs(
  encode: Callable,
  network: Any,
  maps: maps_lib.LayerMaps,
  name: str,
  units: np.ndarray,
  codes: np.ndarray,
  xs: np.ndarray,
  *,
  num_steps: int = 100,
  roughness: float = 0.01,
) -> dict[str, np.ndarray]:
  """Returns inputs `[m, ...]` that units of a layer stand for, by kind.

  mean: of the inputs that lie on the unit, zeros without any; nearest: the
  input whose code is nearest to the unit's; synthesized: as of `synthesize`,
  from grey.

  Args:
    encode: `(network, x) -> code [d]` of the layer, as it is.
    network: its parameters.
    maps: of layers; its inputs are `xs`.
    name: of the layer.
    units: by number `[m]`.
    codes: of `xs` in the layer, as they are `[n, d]`.
    xs: inputs `[n, ...]` within [0, 1].
    num_steps, roughness: as of `synthesize`.
  """
  layer, width = maps.layers.index(name), codes.shape[1]
  mean, spread = maps.mean[layer, :width], maps.spread[layer, :width]
  targets = np.asarray(maps.layer(name).units)[units, :width]

  def make(number, target, start, mean, spread, network):
    standard = lambda x: (encode(network, x) - mean) / spread
    return synthesize(
      jax.random.key(number), standard, target, start,
      num_steps=num_steps, roughness=roughness,
    )  # fmt: skip

  grey = np.full_like(xs[0], 0.5)
  synthesized = parallel.map_examples(
    make, (units, targets), shared=(grey, mean, spread, network)
  )
  seen = (codes - mean) / spread
  nearest = [np.argmin(np.sum((seen - own) ** 2, axis=1)) for own in targets]
  on = [xs[maps.units[layer] == unit] for unit in units]
  means = [v.mean(axis=0) if len(v) else np.zeros_like(xs[0]) for v in on]
  return {
    'mean': np.stack(means),
    'nearest': xs[nearest],
    'synthesized': synthesized,
  }
