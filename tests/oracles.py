"""Independent implementations that the tests hold the library to."""

import contextlib

import jax
import numpy as np
from scipy import optimize


@contextlib.contextmanager
def compilations():
  """Yields a list that grows by an entry whenever XLA compiles a program."""
  compiled, counting = [], True

  def listen(event, duration, **_):
    if counting and event == '/jax/core/compile/backend_compile_duration':
      compiled.append(duration)

  jax.monitoring.register_event_duration_secs_listener(listen)
  yield compiled
  counting = False


def optimized(fn):
  """`jax.jit` at full optimisation, which tests otherwise do without."""
  options = {
    'xla_backend_optimization_level': 3,
    'xla_llvm_disable_expensive_passes': False,
  }
  return jax.jit(fn, compiler_options=options)


def dense_kernel(xs1, xs2, depth, sigma_w, sigma_b, activation='relu'):
  """NNGP kernel of a dense network, by the layer recursion, `[n1, n2]`.

  Cho and Saul (2009) for ReLU, Williams (1997) for erf.
  """
  rows = [np.reshape(np.asarray(v, float), (len(v), -1)) for v in (xs1, xs2)]
  n = rows[0].shape[1]
  first = lambda a, b: sigma_b**2 + sigma_w**2 * (a @ b.T) / n
  k12 = first(*rows)
  k1, k2 = (np.diag(first(r, r)) for r in rows)
  for _ in range(depth):
    k12, k1, k2 = (
      sigma_b**2 + sigma_w**2 * _expect(a, b, c, activation)
      for a, b, c in (
        (k12, k1[:, None], k2[None]),
        (k1, k1, k1),
        (k2, k2, k2),
      )
    )
  return k12


def _expect(k12, k1, k2, activation):
  """E[phi(u) phi(v)] for jointly normal u, v."""
  if activation == 'erf':
    ratio = 2 * k12 / np.sqrt((1 + 2 * k1) * (1 + 2 * k2))
    return 2 / np.pi * np.arcsin(ratio)
  size = np.sqrt(k1 * k2)
  cosine = np.clip(k12 / size, -1, 1)
  angle = np.arccos(cosine)
  return size * (np.sin(angle) + (np.pi - angle) * cosine) / (2 * np.pi)


def largest_gain(basis, g, low, high):
  """The largest `g . v` of v = basis @ c within a box, by a linear program."""
  out = optimize.linprog(
    -(g @ basis),
    A_ub=np.vstack([basis, -basis]),
    b_ub=np.r_[high, -low],
    bounds=(None, None),
  )
  return -out.fun


def smallest_step(basis, g, gap, low, high, p):
  """The least l^p norm of v = basis @ c in a box with `g . v = gap`.

  By SLSQP for l2; for l1 and linf by a linear program in c and bounds of |v|.
  """
  n, k = basis.shape
  if p == 2:
    inside = lambda c: np.concatenate([high - basis @ c, basis @ c - low])
    out = optimize.minimize(
      lambda c: c @ c,
      np.zeros(k),
      jac=lambda c: 2 * c,
      method='SLSQP',
      constraints=[
        {'type': 'eq', 'fun': lambda c: g @ basis @ c - gap},
        {'type': 'ineq', 'fun': inside},
      ],
      options={'ftol': 1e-14, 'maxiter': 1000},
    )
    return np.sqrt(out.fun)
  sizes = np.eye(n) if p == 1 else np.ones((n, 1))
  none = np.zeros_like(sizes)
  out = optimize.linprog(
    np.r_[np.zeros(k), np.ones(sizes.shape[1])],
    A_ub=np.block(
      [[basis, -sizes], [-basis, -sizes], [basis, none], [-basis, none]]
    ),
    b_ub=np.r_[np.zeros(2 * n), high + 1e-7, 1e-7 - low],
    A_eq=np.r_[g @ basis, none[0]][None],
    b_eq=[gap],
    bounds=[(None, None)] * k + [(0, None)] * sizes.shape[1],
  )
  return out.fun
