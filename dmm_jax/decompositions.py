"""Matrix decompositions that many examples may ask for at once.

jaxlib's batched ones (`eigh`, `qr`, `svd`) can wait for each other for ever on
CPUs where several devices of one process call them at once.
"""

import jax
import jax.numpy as jnp

from dmm_jax import norms


def eigh(matrix: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Returns eigenvalues `[k]`, ascending, and eigenvectors in columns `[k, k]`.

  Of a symmetric matrix, as `jnp.linalg.eigh`; under `vmap` one example after
  the other on CPUs, and there without reverse-mode derivatives.
  """
  plain = lambda m: tuple(jnp.linalg.eigh(m))
  if jax.default_backend() == 'cpu':
    plain = jax.custom_batching.sequential_vmap(plain)
  return plain(matrix)


def orthonormalize(rows: jax.Array) -> jax.Array:
  """Returns orthonormal rows `[k, d]` of the same span.

  Gram and Schmidt's method, each row twice ("twice is enough", Kahan): as
  orthogonal as rounding allows. Rows that depend on those before them, to
  rounding, become zeros.
  """
  eps = max(rows.shape) * jnp.finfo(rows.dtype).eps

  def add(i, basis):
    row = rows[i]
    size = norms.norm(row, 2)
    row = row / jnp.where(size > 0, size, 1.0)
    for _ in range(2):
      row = row - (basis @ row) @ basis
      rest = norms.norm(row, 2)
      row = jnp.where(rest > eps, row / jnp.where(rest > 0, rest, 1.0), 0.0)
    return basis.at[i].set(row)

  return jax.lax.fori_loop(0, len(rows), add, jnp.zeros_like(rows))
