"""On the manifold itself, not its tangent space: searches through a decoder."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from dmm_jax import boundary
from dmm_jax import norms
from dmm_jax.boundary.network import LogitsFn
from dmm_jax.manifold.bases import Decode


class CurvedPoint(NamedTuple):
  """Where the manifold meets the decision boundary.

  Attributes:
    distance: l2 distance of `point` from the start `decode(z)`, straight; 0
      where that is misclassified, infinite where nothing was found.
    point: on the manifold, to rounding: `decode(code)`.
    code: its latent code.
    target: the class there, -1 if none was found.
    status: `boundary.Status`.
  """

  distance: jax.Array
  point: jax.Array
  code: jax.Array
  target: jax.Array
  status: jax.Array


def nearest_on_manifold(
  logits_fn: LogitsFn,
  decode: Decode,
  z: jax.Array,
  label: jax.Array,
  *,
  method: str = 'portfolio',
  max_gradients: int = 500,
  num_charts: int = 3,
  seed: jax.Array | int = 0,
) -> CurvedPoint:
  """Returns the nearest boundary point within the image of a decoder.

  `boundary.nearest_point` in coordinates of the latent space in which lengths
  are, to first order, those in the image: `z + R^-1 u` where J = QR. Its result
  is the nearest in u, so the search is repeated in charts whose metric is taken
  along the way that was found, and the result nearest in the image is kept: an
  upper bound of the true distance, as all distances here.

  Args:
    logits_fn: one input -> logits.
    decode: one code `[k]` -> input.
    z: the code to start from.
    label: class of `decode(z)`.
    method, max_gradients, seed: as for `boundary.nearest_point`, for each
      chart.
    num_charts: searches: with the metric at z, then half way to the last
      result, and so on.
  """
  start = decode(z)
  k = z.size
  identity = jnp.eye(k, dtype=z.dtype)

  def search(where, number):
    columns = jax.jacfwd(decode)(where).reshape(-1, k)
    # Latents that move nothing would make the chart infinite.
    scale = jnp.linalg.norm(columns) * k**-0.5 + jnp.finfo(z.dtype).tiny
    metric = columns.T @ columns + (1e-3 * scale) ** 2 * identity
    factor = jnp.linalg.cholesky(metric).T
    chart = lambda u: z + jax.scipy.linalg.solve_triangular(factor, u)
    found = boundary.nearest_point(
      lambda u: logits_fn(decode(chart(u))),
      jnp.zeros_like(z),
      label,
      method=method,
      max_gradients=max_gradients,
      seed=jnp.asarray(seed) + number,
      with_normal=False,
    )
    code = chart(found.point)
    point = decode(code)
    hit = found.status == boundary.Status.FOUND
    distance = jnp.where(hit, norms.norm(point - start, 2), found.distance)
    return CurvedPoint(distance, point, code, found.target, found.status)

  def better(number, best):
    new = search((z + best.code) / 2, number)
    taken = (new.distance < best.distance) | jnp.isinf(best.distance)
    return jax.tree.map(lambda a, b: jnp.where(taken, a, b), new, best)

  integer = lambda v: jnp.asarray(v, jnp.int32)
  nowhere = CurvedPoint(
    jnp.asarray(jnp.inf, start.dtype),
    start,
    z,
    integer(-1),
    integer(boundary.Status.NOT_FOUND),
  )
  return jax.lax.fori_loop(0, num_charts, better, nowhere)


def project_on_manifold(
  decode: Decode, x: jax.Array, z: jax.Array, *, num_steps: int = 20
) -> tuple[jax.Array, jax.Array]:
  """Returns `(code, distance)` of a decoder's image point near to `x`, in l2.

  Levenberg and Marquardt's steps from the code `z`, of which those that come no
  nearer are not taken: a local minimum, at least as near as `decode(z)`.

  Source: Nielsen (1999), "Damping parameter in Marquardt's method".
  """
  gap = lambda code: (decode(code) - x).ravel()
  value = lambda code: norms.norm(gap(code), 2)

  def advance(_, carry):
    code, size, damping = carry
    columns, rest = jax.jacfwd(gap)(code), gap(code)
    metric = columns.T @ columns
    scale = jnp.trace(metric) / code.size + jnp.finfo(x.dtype).tiny
    lifted = metric + damping * scale * jnp.eye(code.size, dtype=x.dtype)
    step = jnp.linalg.solve(lifted, columns.T @ rest)
    new = code - step
    length = value(new)
    nearer = length < size
    code = jnp.where(nearer, new, code)
    damping = jnp.where(nearer, damping / 3, damping * 4)
    return code, jnp.where(nearer, length, size), damping

  first = z, value(z), jnp.asarray(1e-3, x.dtype)
  code, distance, _ = jax.lax.fori_loop(0, num_steps, advance, first)
  return code, distance
