"""Normals of the decision boundary, and how it curves.

One input in, one result out. The boundary of a class is a level set of its
margin over all other classes (`margins.margin`); its normal is the margin's
gradient, and points back into the class's region.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from dmm_jax import decompositions
from dmm_jax import margins
from dmm_jax import norms

LogitsFn = Callable[[jax.Array], jax.Array]


def jacobian(logits_fn: LogitsFn, x: jax.Array) -> jax.Array:
  """Returns the gradients `[k, ...]` of all logits at `x`.

  By k backward passes.

  Args:
    logits_fn: one input -> logits `[k]`.
    x: one input, floating point. At a kink (a ReLU's 0) JAX's choice of
      subgradient is returned, which is 0 for `nn.relu`.
  """
  return jax.jacrev(logits_fn)(x)


def normal(logits_fn: LogitsFn, x: jax.Array, label: jax.Array) -> jax.Array:
  """Returns the unit l2 gradient, at `x`, of the margin of `label`.

  At a point of the boundary: its normal, pointing into the label's region.
  Where several other classes lead equally it is that of their mean.

  Returns:
    An array as `x`: zeros where the gradient vanishes or is not finite.
  """
  gradient = jax.grad(_margin(logits_fn, label))(x)
  size = norms.norm(gradient, 2)
  usable = jnp.isfinite(size) & (size > 0)
  return jnp.where(usable, gradient / jnp.where(usable, size, 1.0), 0.0)


def alignment(
  perturbation: jax.Array,
  normal: jax.Array,
  x: jax.Array,
  *,
  norm: float = 2,
  bounds: tuple | None = None,
  slack: float = 0.01,
) -> jax.Array:
  """Returns how well a perturbation uses its size to go down the normal.

  The decrease of a linear margin, `-normal . v`, over the largest one that any
  v of the same l^p norm achieves, `|v|_p |normal|_q` with 1/p + 1/q = 1: the
  cosine for l2. Coordinates that the box stops are left out of both: those
  that have come to a bound, which `-normal` would push further. What is left
  has alignment 1 at a local optimum where the boundary is smooth, by the
  Karush-Kuhn-Tucker conditions. Without `bounds` all coordinates count, which
  understates optima that touch the box. Where the boundary has a kink, as
  those of ReLU networks do, an optimum may lie on it and stay below 1.

  Args:
    perturbation: boundary point minus input, any shape.
    normal: unit gradient of the margin at the boundary point, likewise.
    x: the input, likewise.
    norm: 1, 2 or inf: that of the perturbation.
    bounds: None, or `(low, high)`, numbers or arrays as `x`.
    slack: a coordinate is at its bound if what is left of the way there is no
      more than this share of what it went: searches overshoot a little, and
      then pull the whole step back.

  Returns:
    A number in [-1, 1]; NaN where it is undefined: nothing moves or has a
    normal outside the coordinates left out, or an entry is not finite.
  """
  norms.check(norm)
  free = jnp.ones(x.shape, bool)
  if bounds is not None:
    low, high = (jnp.asarray(b, x.dtype) for b in bounds)
    point = x + perturbation
    rounding = 8 * jnp.finfo(x.dtype).eps
    near = slack * jnp.abs(perturbation) + rounding * jnp.abs(x)
    free &= ~((point <= low + near) & (normal > 0))
    free &= ~((point >= high - near) & (normal < 0))
  v, g = (jnp.where(free, a, 0.0) for a in (perturbation, normal))
  size, steepness = norms.norm(v, norm), norms.norm(g, norms.dual(norm))
  # Both to unit size first: products of tiny numbers would vanish.
  gain = -jnp.sum((v / size) * (g / steepness))
  return jnp.clip(gain, -1.0, 1.0)


def curvature(
  logits_fn: LogitsFn, x: jax.Array, label: jax.Array, direction: jax.Array
) -> jax.Array:
  """Returns the second derivative of the margin along a direction, by slope.

  `u . H u / |g|` with u the direction made unit, g and H the margin's gradient
  and Hessian: for a tangent u the normal curvature of the level set through
  `x`. Negative where the level set bends towards the label's region (a label
  inside a sphere of radius r: -1/r), positive where it bends away (+1/r, label
  outside). Costs one forward-over-backward pass. Networks of ReLUs have 0
  almost everywhere: what bends their boundary are kinks, which no derivative
  sees.

  Args:
    logits_fn: one input -> logits `[k]`.
    x: one input.
    label: the class whose margin is meant.
    direction: as `x`, of any length.

  Returns:
    A number in 1 / input unit; NaN where gradient or direction is 0.
  """
  unit = direction / norms.norm(direction, 2)
  gradient, turn = _hessian_product(logits_fn, x, label)(unit)
  size = norms.norm(gradient, 2)
  return jnp.sum(unit * turn) / jnp.where(size > 0, size, jnp.nan)


class Curvatures(NamedTuple):
  """The extreme normal curvatures of a level set, in 1 / input unit."""

  lowest: jax.Array
  highest: jax.Array


def extreme_curvatures(
  key: jax.Array,
  logits_fn: LogitsFn,
  x: jax.Array,
  label: jax.Array,
  *,
  num_iterations: int = 20,
) -> Curvatures:
  """Returns the lowest and highest `curvature` over all tangent directions.

  Lanczos with full reorthogonalisation on the Hessian restricted to the
  tangent space, from a random start. Ritz values: both lie within the true
  range but for rounding, and reach its ends, with probability one, when
  `num_iterations` is at least the number of distinct principal curvatures.

  Args:
    key: of the start.
    logits_fn, x, label: as for `curvature`.
    num_iterations: Hessian-vector products, at most one less than the number
      of coordinates.

  Returns:
    `Curvatures`; NaN where the gradient is 0 or there is no tangent direction.
  """
  if x.size < 2:
    return Curvatures(*2 * [jnp.full((), jnp.nan, x.dtype)])
  m = min(num_iterations, x.size - 1)
  product = _hessian_product(logits_fn, x, label)
  gradient, _ = product(jnp.zeros_like(x))
  size = norms.norm(gradient, 2)
  normal = (gradient / jnp.where(size > 0, size, 1.0)).ravel()
  tangent = lambda v: v - normal * (normal @ v)

  def step(i, state):
    basis, along, across = state
    v = basis[i]
    w = tangent(product(v.reshape(x.shape))[1].ravel())
    along = along.at[i].set(v @ w)
    scale = jnp.linalg.norm(w)
    # Twice is enough: rounding leaves nothing of the earlier vectors.
    for _ in range(2):
      w = tangent(w - basis.T @ (basis @ w))
    rest = jnp.linalg.norm(w)
    goes_on = rest > 100 * jnp.finfo(x.dtype).eps * scale
    across = across.at[i].set(jnp.where(goes_on, rest, 0.0))
    w = jnp.where(goes_on, w / jnp.where(goes_on, rest, 1.0), 0.0)
    return basis.at[i + 1].set(w), along, across

  start = tangent(jax.random.normal(key, (x.size,), x.dtype))
  basis = jnp.zeros((m + 1, x.size), x.dtype)
  basis = basis.at[0].set(start / jnp.linalg.norm(start))
  zeros = jnp.zeros(m, x.dtype)
  basis, along, across = jax.lax.fori_loop(0, m, step, (basis, zeros, zeros))
  # Where the Krylov space is exhausted its first Ritz value, which lies
  # between the extremes, takes the place of zeros, which may not.
  real = jnp.any(basis[:m] != 0, axis=1)
  along = jnp.where(real, along, along[0])
  off = jnp.diag(across[:-1], 1)
  values, _ = decompositions.eigh(jnp.diag(along) + off + off.T)
  values = values / jnp.where(size > 0, size, jnp.nan)
  return Curvatures(values[0], values[-1])


def _margin(logits_fn, label):
  return lambda x: margins.margin(logits_fn(x), label)


def _hessian_product(logits_fn, x, label):
  """Returns `v -> (gradient, H v)` of the margin at `x`."""
  gradient = jax.grad(_margin(logits_fn, label))
  return lambda v: jax.jvp(gradient, (x,), (v,))
