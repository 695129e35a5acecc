"""Networks whose layers are linear operators: convolutions without matrices.

A level is an affine function, which is evaluated and transposed, never written
as a matrix, and the activations behind it. Linear bounds of many values are
found together where they depend on different inputs, as do values of a
convolution that are far enough apart: a row of the backward pass then holds a
value of each. Which ones may share a row is read from the network itself, by
what depends on what; the method is that of sparse derivatives (Curtis, Powell,
Reid 1974, https://doi.org/10.1093/imamat/13.1.117).
"""

import dataclasses
import functools
from typing import Any
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dmm_jax import programs
from dmm_jax.certify import activations
from dmm_jax.certify import affine

BATCH = 64  # Inputs pushed through a level at once.
FLOAT32_MAX = float(np.finfo(np.float32).max)
RULES = {'conv_general_dilated': affine.convolve}
WORTH = 0.5  # Rows per value, above which each value has its own row.


class Block(NamedTuple):
  """Activations of one kind, one after the other in a level.

  Attributes:
    kind: of `activations.KINDS` or `activations.MAXIMA`.
    group: number of values that go into one activation.
    size: number of activations; values are `[group, size]`.
  """

  kind: str
  group: int
  size: int


@functools.partial(
  jax.tree_util.register_dataclass,
  data_fields=['affine', 'bias', 'row', 'inputs', 'owner'],
  meta_fields=['blocks', 'num_rows', 'num_inputs'],
)
@dataclasses.dataclass(frozen=True)
class Level:
  """An affine function, and the activations of its values.

  Attributes:
    affine: the function `[n] -> [m]`, float64.
    bias: its value at 0 `[m]`.
    row: number of the row of each value `[m]`.
    inputs: which of the network's inputs each value depends on, `[m, most]`,
      filled up by their number; None where each value has its own row.
    owner: for each activation one of the inputs that it depends on.
    blocks: the activations; () behind the logits.
    num_rows: number of rows.
    num_inputs: number of the values that the function is of.
  """

  affine: programs.Traced
  bias: Any
  row: Any
  inputs: Any
  owner: Any
  blocks: tuple[Block, ...]
  num_rows: int
  num_inputs: int

  def transposed(self, rows: jax.Array) -> jax.Array:
    """Return rows `[r, m]` of values as rows `[r, n]` of what they are of."""
    _, pull = jax.vjp(self.affine, jnp.zeros(self.num_inputs, rows.dtype))
    return jax.vmap(lambda row: pull(row)[0])(rows)


Network = tuple[Level, ...]


def is_network(network: object) -> bool:
  """Return whether these are levels, not layers as matrices."""
  return isinstance(network, tuple) and isinstance(network[0], Level)


def build(program: affine.Program) -> Network:
  """Return the levels of a program, in float64.

  Args:
    program: with maxima as activations; what it ends with are the logits.
  """
  program = affine.pruned(program)
  size = sum(v.size for v in program.starts[0])
  depends, alone, levels = np.eye(size, dtype=bool), False, []
  with jax.enable_x64(True):
    for i, ends in enumerate(program.ends):
      fn = affine.level_function(program, i, RULES)
      width = sum(v.size for v in program.starts[i])
      traced = programs.trace(fn, jax.ShapeDtypeStruct((width,), np.float64))
      blocks = (
        tuple(
          Block(result.kind, value.size // result.size, result.size)
          for value, result in zip(ends, program.starts[i + 1], strict=True)
        )
        if i + 1 < len(program.ends)
        else ()
      )
      depends = _push(traced, depends)
      row, inputs = _share_rows(depends, alone or not blocks)
      depends = _through(blocks, depends)
      # What depends on no input may be of use to values of the same row.
      alone = alone or not depends.any(0).all()
      bias = np.asarray(traced(jnp.zeros(width)))
      owner = depends.argmax(0).astype(np.int32)
      num = int(row.max()) + 1
      levels.append(Level(traced, bias, row, inputs, owner, blocks, num, width))
  return tuple(levels)


def _push(fn, depends):
  """Which of a level's values depend on which inputs `[inputs, m]`.

  Args:
    fn: the level's function.
    depends: the same of what it is of.
  """
  # Terms of random sizes do not cancel.
  sizes = np.random.default_rng(0).uniform(0.5, 1.5, depends.shape[1])
  parts = []
  for start in range(0, len(depends), BATCH):
    tangents = depends[start : start + BATCH] * sizes
    missing = BATCH - len(tangents)
    found = _derivatives(fn, np.pad(tangents, [(0, missing), (0, 0)]))
    parts.append(np.asarray(found)[: BATCH - missing] != 0)
  return np.concatenate(parts)


@jax.jit
def _derivatives(fn, tangents):
  zeros = jnp.zeros(tangents.shape[1:], tangents.dtype)
  derivative = lambda tangent: jax.jvp(fn, (zeros,), (tangent,))[1]
  return jax.vmap(derivative)(tangents)


def _through(blocks, depends):
  """The same for the activations of values."""
  ends = np.cumsum([block.group * block.size for block in blocks])
  parts = (
    [
      part.reshape(len(part), block.group, block.size).any(1)
      for block, part in zip(
        blocks, np.split(depends, ends[:-1], 1), strict=True
      )
    ]
    if blocks
    else [depends]
  )
  return np.concatenate(parts, 1)


def _share_rows(depends, alone):
  """Returns `row [m]` and `inputs [m, most]` of a `Level`.

  Each value takes the first row in which no other depends on the same inputs.
  """
  num_inputs, num = depends.shape
  separate = np.arange(num, dtype=np.int32), None
  if alone:
    return separate
  words = np.packbits(depends.T, 1)
  words = np.pad(words, [(0, 0), (0, -words.shape[1] % 8)])
  words = np.ascontiguousarray(words).view(np.uint64)
  taken = np.zeros((int(WORTH * num) + 1, words.shape[1]), np.uint64)
  row, used = np.zeros(num, np.int32), 0
  for i, own in enumerate(words):
    meets = (taken[:used] & own).any(1)
    row[i] = used if meets.all() else meets.argmin()
    taken[row[i]] |= own
    used = max(used, row[i] + 1)
    if used == len(taken):
      return separate
  inputs = np.full((num, int(depends.sum(0).max())), num_inputs, np.int32)
  value, which = np.nonzero(depends.T)
  first = np.searchsorted(value, np.arange(num))
  inputs[value, np.arange(len(value)) - first[value]] = which
  return row, inputs


def check_range(network: Network, xs: np.ndarray) -> None:
  """Refuse weights, and inputs `[n, ...]` with values, that overflow float32.

  Raises:
    ValueError: with a sentence.
  """
  for i, level in enumerate(network):
    for array in level.affine.arrays:
      if jnp.issubdtype(array.dtype, jnp.floating):
        size = float(np.max(np.abs(array), initial=0.0))
        if not size <= FLOAT32_MAX:
          raise ValueError(
            f'layer {i} has weights of size {size:.3g}, which are not finite '
            'in float32'
          )
  with jax.enable_x64(True):
    sizes = np.asarray(_largest_values(network, xs))
  overflows = ~(sizes <= FLOAT32_MAX)
  if overflows.any():
    raise ValueError(
      f'{overflows.sum()} of {len(xs)} inputs overflow float32 within the '
      f'network (the first is number {overflows.argmax()}); scale weights and '
      'inputs down'
    )


@jax.jit
def _largest_values(network, xs):
  def one(x):
    found = []
    for level in network:
      z = level.affine(x)
      found.append(jnp.max(jnp.abs(z)))
      x = activate(level, z) if level.blocks else z
    return jnp.max(jnp.stack(found))

  return jax.lax.map(one, xs)


def logits(network: Network, x: jax.Array) -> jax.Array:
  """Return the logits `[k]` of a flat input `[n]`."""
  for level in network[:-1]:
    x = activate(level, level.affine(x))
  return network[-1].affine(x)


def activate(level: Level, z: jax.Array) -> jax.Array:
  """Return the activations `[n]` of a level's values `[m]`."""
  parts = [_activate(block.kind, v) for block, v in split(level.blocks, z)]
  return jnp.concatenate(parts)


def _activate(kind, z):
  z = jnp.max(z, 0)
  if kind in activations.SMOOTH:
    return activations.SMOOTH[kind].fn(z)
  return jnp.maximum(z, 0.0) if kind in ('relu', 'relu_max') else z


def split(blocks: tuple[Block, ...], z: jax.Array) -> list:
  """Return `[(block, values [..., group, size]), ...]` of values `[..., m]`."""
  ends = np.cumsum([block.group * block.size for block in blocks])
  parts = jnp.split(z, ends[:-1], -1)
  return [
    (block, part.reshape(*part.shape[:-1], block.group, block.size))
    for block, part in zip(blocks, parts, strict=True)
  ]
