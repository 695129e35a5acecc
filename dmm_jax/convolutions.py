"""Convolutions that XLA's CPU compiler does fast inside loops too.

Outside of loops it brings those that JAX's derivatives are made of into the one
order of axes that it has a fast routine for. Inside it does not, and they take
up to ten times as long.
"""

from collections.abc import Callable
from typing import Any

import jax
from jax.extend import core
import jax.numpy as jnp

# Axes in the fast order: batch, pixels, features; pixels, inputs, outputs.
_IMAGES = lambda ndim: (0, ndim - 1, *range(1, ndim - 1))
_KERNEL = lambda ndim: (ndim - 1, ndim - 2, *range(ndim - 2))


def in_order(fn: Callable) -> Callable:
  """Returns `fn` with its convolutions in the fast order; for gradients.

  Values and derivatives are those of `fn`, to rounding. For CPUs: on any other
  device it is `fn` itself. What lies within `jax.checkpoint` or the branches of
  a `cond` stays in its own order.

  Args:
    fn: of pytrees of arrays, traced once more than without this.
  """
  if jax.default_backend() != 'cpu':
    return fn

  def ordered(*args: Any) -> Any:
    jaxpr, shapes = jax.make_jaxpr(fn, return_shape=True)(*args)
    if not _convolves(jaxpr.jaxpr):
      return fn(*args)
    out = _evaluate(jaxpr.jaxpr, jaxpr.consts, *jax.tree.leaves(args))
    return jax.tree.unflatten(jax.tree.structure(shapes), out)

  return ordered


def _inner(eqn):
  """Names of an equation's closed jaxprs that have convolutions in them."""
  return [
    name
    for name, value in eqn.params.items()
    if isinstance(value, core.ClosedJaxpr) and _convolves(value.jaxpr)
  ]


def _convolves(jaxpr):
  return any(
    eqn.primitive.name == 'conv_general_dilated' or _inner(eqn)
    for eqn in jaxpr.eqns
  )


def _evaluate(jaxpr, consts, *args):
  names = [*jaxpr.constvars, *jaxpr.invars]
  known = dict(zip(names, [*consts, *args], strict=True))
  read = lambda v: v.val if isinstance(v, core.Literal) else known[v]
  for eqn in jaxpr.eqns:
    values = [read(v) for v in eqn.invars]
    if eqn.primitive.name == 'conv_general_dilated':
      out = [_convolve(*values, **eqn.params)]
    else:
      params = dict(eqn.params)
      for name in _inner(eqn):
        params[name] = _rewritten(params[name])
      params = eqn.primitive.get_bind_params(params)
      out = eqn.primitive.bind(*values, **params)
      out = out if eqn.primitive.multiple_results else [out]
    known |= zip(eqn.outvars, out, strict=True)
  return [read(v) for v in jaxpr.outvars]


def _rewritten(closed):
  shapes = [jax.ShapeDtypeStruct(a.shape, a.dtype) for a in closed.in_avals]
  return jax.make_jaxpr(
    lambda *args: _evaluate(closed.jaxpr, closed.consts, *args)
  )(*shapes)


def _convolve(images, kernel, *, dimension_numbers, **params):
  """The convolution, of arrays whose axes are brought into order first."""
  lhs, rhs, out = dimension_numbers
  ndim = images.ndim
  wanted = (_IMAGES(ndim), _KERNEL(ndim), _IMAGES(ndim))
  move = lambda array, spec, to: jnp.transpose(
    array, [spec[to.index(axis)] for axis in range(ndim)]
  )
  if lhs != wanted[0]:
    images = move(images, lhs, wanted[0])
  if rhs != wanted[1]:
    # Kept from being undone.
    kernel = jax.lax.optimization_barrier(move(kernel, rhs, wanted[1]))
  found = jax.lax.conv_general_dilated_p.bind(
    images,
    kernel,
    dimension_numbers=jax.lax.ConvDimensionNumbers(*wanted),
    **params,
  )
  return found if out == wanted[2] else move(found, wanted[2], out)
