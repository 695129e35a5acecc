"""Decompositions against numpy's, and many at once on several devices."""

import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dmm_jax import decompositions


@pytest.mark.parametrize('k', (1, 7))
def test_eigenvalues_and_vectors_are_numpys(k):
  rng = np.random.default_rng(0)
  rows = rng.normal(size=(5, k, k)).astype(np.float32)
  rows = rows + rows.swapaxes(1, 2)
  values, vectors = jax.jit(jax.vmap(decompositions.eigh))(rows)
  np.testing.assert_allclose(values, np.linalg.eigvalsh(rows), atol=1e-5)
  again = vectors * values[:, None] @ vectors.swapaxes(1, 2)
  np.testing.assert_allclose(again, rows, atol=1e-5)
  one, _ = decompositions.eigh(rows[0])
  np.testing.assert_allclose(one, values[0], atol=1e-6)


def test_many_are_decomposed_one_after_the_other_on_cpus(monkeypatch):
  matrices = jnp.broadcast_to(jnp.eye(3), (5, 3, 3))
  traced = lambda: str(jax.make_jaxpr(jax.vmap(decompositions.eigh))(matrices))
  assert 'f32[5,3,3] = eigh' not in traced() and 'scan' in traced()
  # Elsewhere at once, and with reverse-mode derivatives.
  monkeypatch.setattr(jax, 'default_backend', lambda: 'gpu')
  assert 'scan' not in traced()
  largest = jax.grad(lambda m: decompositions.eigh(m)[0][-1])
  np.testing.assert_allclose(largest(jnp.diag(jnp.arange(3.0)))[2, 2], 1)


orthonormalize = jax.jit(decompositions.orthonormalize)


@pytest.mark.parametrize('scale', (1e-30, 1.0, 1e30))
def test_rows_become_orthonormal_and_keep_their_span(scale):
  rng = np.random.default_rng(0)
  rows = rng.normal(size=(6, 20)).astype(np.float32)
  rows[3] = rows[0] + 2 * rows[2]  # Nothing of its own.
  rows[4] = 0
  basis = orthonormalize(jnp.asarray(rows * np.float32(scale)))
  wanted = np.diag([1.0, 1, 1, 0, 0, 1])
  np.testing.assert_allclose(basis @ basis.T, wanted, atol=1e-6)
  np.testing.assert_allclose(rows @ basis.T @ basis, rows, atol=1e-5)
  assert not np.any(basis[3:5])
  # In order: each row is within the span of those up to it, and ahead.
  np.testing.assert_allclose(
    basis[0], rows[0] / np.linalg.norm(rows[0]), atol=1e-6
  )
  signs = np.diag(basis @ rows.T)[[0, 1, 2, 5]]
  assert np.all(signs > 0)
  np.testing.assert_allclose(np.triu(basis @ rows.T, 1)[[3, 4]], 0, atol=1e-5)


def test_rows_that_almost_depend_become_orthonormal_too():
  rng = np.random.default_rng(0)
  rows = rng.normal(size=(3, 20)).astype(np.float32)
  # One pass would leave rounding of the long part, 1e4 times as large.
  rows[2] = rows[0] - rows[1] + 1e-4 * rows[2]
  basis = orthonormalize(jnp.asarray(rows))
  np.testing.assert_allclose(basis @ basis.T, np.eye(3), atol=1e-6)


@pytest.mark.parametrize('rest, kept', [(2.0, False), (2.1, True)])
def test_rows_depend_to_rounding_of_the_longer_side(rest, kept):
  rows = np.zeros((2, 16), np.float32)
  rows[:, 0] = 1
  # Relative to the row itself, of length 1.
  rows[1, 1] = rest * np.finfo(np.float32).eps * 8
  basis = orthonormalize(jnp.asarray(rows))
  assert bool(np.any(basis[1])) == kept


# With jaxlib 0.10.2's batched eigh the two threads soon wait for each other.
BATCHED = """
import jax, numpy as np
jax.config.update('jax_num_cpu_devices', 2)
from dmm_jax import decompositions, parallel
xs = np.random.default_rng(0).random((16, 128, 784)).astype(np.float32)
bases = lambda x: decompositions.eigh(x @ x.T)[1]
for _ in range(40):
  result = parallel.map_examples(bases, (xs,))
print(result.shape)
"""


def test_devices_do_not_wait_for_each_other():
  root = pathlib.Path(__file__).parent.parent
  out = subprocess.run(
    [sys.executable, '-c', BATCHED],
    cwd=root,
    capture_output=True,
    text=True,
    timeout=100,
    check=True,
  )
  assert '(16, 128, 128)' in out.stdout
