"""Programs of affine operations, by levels between activations."""

from collections.abc import Callable
from typing import Any
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


class Value(NamedTuple):
  """A number of the program that depends on the input.

  Attributes:
    name: a number, different for each.
    level: activations before it.
    shape: of the array.
    kind: the activation that it is the result of, of `activations.KINDS` or
      `activations.MAXIMA`; identity for a value of the level before.
  """

  name: int
  level: int
  shape: tuple
  kind: str = 'relu'

  @property
  def size(self) -> int:
    """Number of entries."""
    return int(np.prod(self.shape, dtype=int))


class Operation(NamedTuple):
  """An affine operation on values of one level, and on constants."""

  primitive: Any
  params: dict
  operands: list
  results: list


class Program(NamedTuple):
  """What a function does, level by level.

  Attributes:
    operations: by level.
    starts: what a level starts from: the input, or results of activations.
    ends: what goes into the activations after it, one for each start of the
      next level; or the logits.
  """

  operations: list
  starts: list
  ends: list


def empty(shape: tuple) -> Program:
  """Return the program of an input of one shape, without operations."""
  return Program([[]], [[Value(0, 0, tuple(shape))]], [[]])


def pruned(program: Program) -> Program:
  """Return the program without activations that nothing needs."""
  needed = set(program.ends[-1])
  levels = []
  for level in reversed(range(len(program.starts))):
    operations = []
    for one in reversed(program.operations[level]):
      if needed & set(one.results):
        needed |= {v for v in one.operands if isinstance(v, Value)}
        operations.append(one)
    starts, ends = program.starts[level], program.ends[level]
    if level:
      before = program.ends[level - 1]
      both = zip(starts, before, strict=True)
      pairs = [pair for pair in both if pair[0] in needed]
      starts = [start for start, _ in pairs]
      program.ends[level - 1][:] = [end for _, end in pairs]
      needed |= set(program.ends[level - 1])
    levels.append((operations[::-1], starts, ends))
  return Program(*map(list, zip(*levels[::-1], strict=True)))


def largest_matrix(program: Program) -> tuple[int, int]:
  """Return the numbers of rows and columns of the level with most weights."""
  count = lambda values: sum(v.size for v in values)
  pairs = zip(program.starts, program.ends, strict=True)
  sizes = [(count(starts), count(ends)) for starts, ends in pairs]
  return max(sizes, key=lambda pair: pair[0] * pair[1])


def level_function(
  program: Program, level: int, rules: dict[str, Callable] | None = None
) -> Callable:
  """Return the affine function of one level, flat starts `[n]` -> ends `[m]`.

  Args:
    program, level: which.
    rules: by name of the primitive, `(*operands, **params) -> result`: what is
      done in its place.
  """
  starts, ends = program.starts[level], program.ends[level]

  def evaluate(h):
    known = {}
    parts = jnp.split(h, np.cumsum([v.size for v in starts])[:-1])
    for value, part in zip(starts, parts, strict=True):
      known[value.name] = part.reshape(value.shape)
    look = lambda v: known[v.name] if isinstance(v, Value) else v
    for operation in program.operations[level]:
      primitive = operation.primitive
      rule = (rules or {}).get(primitive.name, primitive.bind)
      found = rule(*map(look, operation.operands), **operation.params)
      many = primitive.multiple_results
      for value, one in zip(
        operation.results, found if many else [found], strict=True
      ):
        known[value.name] = one
    return jnp.concatenate([known[v.name].ravel() for v in ends])

  return evaluate


def convolve(
  x: jax.Array,
  kernel: jax.Array,
  *,
  window_strides: tuple,
  padding: tuple,
  lhs_dilation: tuple,
  rhs_dilation: tuple,
  dimension_numbers: Any,
  feature_group_count: int,
  batch_group_count: int,
  **_: Any,
) -> jax.Array:
  """Return a convolution as products of matrices, one an entry of the window.

  XLA has fast convolutions of float32 alone on CPUs: those of float64 take
  some twenty times as long. Arguments are those of
  `jax.lax.conv_general_dilated_p`.
  """
  if batch_group_count != 1:
    raise ValueError('a convolution in groups of the batch is not supported')
  of_x, of_kernel, of_out = dimension_numbers
  x = jnp.transpose(x, (of_x[0], *of_x[2:], of_x[1]))
  kernel = jnp.transpose(kernel, (*of_kernel[2:], of_kernel[1], of_kernel[0]))
  window, groups = kernel.shape[:-2], feature_group_count
  kernel = kernel.reshape(*kernel.shape[:-1], groups, -1)
  ends = [(*ends, d - 1) for ends, d in zip(padding, lhs_dilation, strict=True)]
  x = jax.lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), *ends, (0, 0, 0)])
  steps = tuple(window_strides)
  lengths = [
    (size - (k - 1) * d - 1) // step + 1
    for size, k, d, step in zip(
      x.shape[1:-1], window, rhs_dilation, steps, strict=True
    )
  ]
  total: Any = 0.0
  for place in np.ndindex(*window):
    first = [i * d for i, d in zip(place, rhs_dilation, strict=True)]
    last = [
      i + (n - 1) * step + 1
      for i, n, step in zip(first, lengths, steps, strict=True)
    ]
    part = jax.lax.slice(
      x, (0, *first, 0), (len(x), *last, x.shape[-1]), (1, *steps, 1)
    )
    part = part.reshape(*part.shape[:-1], groups, -1)
    product = jnp.einsum('...gi,igo->...go', part, kernel[place])
    total = total + product
  total = total.reshape(*total.shape[:-2], -1)
  order = (of_out[0], *of_out[2:], of_out[1])
  return jnp.transpose(total, np.argsort(order).tolist())
