"""What a perturbation does to codes, beside noise of the same size."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dmm_jax import som
from dmm_jax.som import searching


class Shift(NamedTuple):
  """How far units of codes moved, one row a code, `[n]`.

  Attributes:
    grid: distance on the grid; NaN where one of the two has no unit.
    changed: whether the unit changed; False there.
    code: euclidean distance of the two units' codes, over the mean distance of
      different units' codes; NaN there, or for a map whose units are all one.
  """

  grid: jax.Array
  changed: jax.Array
  code: jax.Array


@jax.jit
def unit_shift(trained: som.Map, before: jax.Array, after: jax.Array) -> Shift:
  """Returns how far the best-matching units of codes move on a map.

  To be held against `matched_noise` of the same inputs: ratios of the means.

  Args:
    trained: the map.
    before, after: codes of the inputs and of the perturbed ones, `[n, d]`.
  """
  start, end = (som.best_matching_units(trained, v) for v in (before, after))
  known = (start[:, 0] >= 0) & (end[:, 0] >= 0)
  place = (trained.grid, trained.topology, trained.periodic)
  away = jnp.sqrt(som.squared_distances(start, end, *place))
  unit = lambda at: trained.codebook[at[:, 0], at[:, 1]]
  code = searching.measure(unit(start), unit(end), 'euclidean')
  units = trained.units
  to_all = lambda u: searching.measure(u[None], units, 'euclidean').sum()
  pairs = len(units) * (len(units) - 1)
  mean = jax.lax.map(to_all, units).sum() / max(pairs, 1)
  return Shift(
    jnp.where(known, away, jnp.nan),
    known & jnp.any(start != end, axis=1),
    jnp.where(known & (mean > 0), code / mean, jnp.nan),
  )


def matched_noise(
  key: jax.Array,
  x: jax.Array,
  perturbed: jax.Array,
  *,
  norm: float = np.inf,
  bounds: tuple | None = None,
) -> jax.Array:
  """Returns one input with noise as large as a perturbation of it.

  Args:
    key: of the noise.
    x, perturbed: the input and what became of it, any shape.
    norm: of equal size: inf for signs, 2 for a random direction.
    bounds: None, or the box that `x` stays in; clipping makes noise smaller, as
      it did the perturbation if that was clipped.
  """
  delta = perturbed - x
  if norm == np.inf:
    size = jnp.max(jnp.abs(delta))
    noise = size * jax.random.rademacher(key, x.shape, x.dtype)
  elif norm == 2:
    noise = jax.random.normal(key, x.shape, x.dtype)
    length = lambda v: jnp.sqrt(jnp.sum(v**2))
    noise = noise * length(delta) / length(noise)
  else:
    raise ValueError(f'norm: 2 or inf, not {norm}')
  out = x + noise
  return out if bounds is None else jnp.clip(out, *bounds)


@jax.jit
def nearest_other_class(
  codes: jax.Array,
  labels: jax.Array,
  others: jax.Array,
  other_labels: jax.Array,
) -> tuple[jax.Array, jax.Array]:
  """Returns the distance of the nearest code of another class, and which.

  Args:
    codes, labels: `[n, d]` and integers `[n]`.
    others, other_labels: what is searched, `[m, d]` and `[m]`: the same ones,
      or a map's units and their `majorities`. Labels below 0 count for nothing.

  Returns:
    Euclidean distances `[n]`, inf where there is none, and rows of `others`,
    -1 there.
  """
  prepared = searching.prepare(others, 'euclidean')

  def nearest(x, label):
    values = searching.scores(x[None], prepared, 'euclidean')
    other = (other_labels != label) & (other_labels >= 0)
    index, _ = searching.smallest(jnp.where(other[:, None], values, jnp.inf))
    away = searching.measure(x, others[index[0]], 'euclidean')
    there = jnp.any(other)
    return jnp.where(there, away, jnp.inf), jnp.where(there, index[0], -1)

  return jax.lax.map(lambda v: nearest(*v), (codes, labels), batch_size=256)
