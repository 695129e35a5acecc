"""A network that is given as a function, read as dense layers.

Its traced program is read operation by operation. What lies between two ReLUs
has to be affine; its matrix is found by evaluation at the unit vectors, in
float64. Maxima are written by ReLUs. A value that is needed after the next
ReLUs, as in a residual network, goes through them raised by so much that it is
positive in the whole box: to a certificate that is no ReLU at all. Beside
activations that are smooth it goes through the identity instead.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
import numpy as np

from dmm_jax.boundary import inputs
from dmm_jax.certify import activations
from dmm_jax.certify import layers as layers_lib
from dmm_jax.certify import reading

AGREE = 0.02  # Between logits, where a device rounds products to bfloat16.
LARGEST = 2**28  # Entries of a matrix: 2 GiB.
BATCH = 1024  # Unit vectors at once.


def prepare(
  network: Callable | layers_lib.Layers,
  xs: ArrayLike,
  labels: ArrayLike,
  bounds: tuple | None,
) -> tuple[Any, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
  """Returns `(layers, xs, labels, low, high)`, as `layers` checks them.

  Args:
    network: one input -> logits `[k]`, or layers.
    xs, labels, bounds: as for `layers.check_examples`.
  """
  if callable(network):
    inputs.check_inputs(xs)
    xs = np.asarray(xs)
    if not len(xs):
      return None, xs, xs, xs, xs
    low, high = layers_lib.check_bounds(xs, bounds)
    ends = low.reshape(len(xs), -1).min(0), high.reshape(len(xs), -1).max(0)
    found = as_layers(network, xs[0], *ends)
    _compare(network, found, xs[0])
    network = found
    if not layers_lib.is_relu(network[:-1]):
      layers = layers_lib.check_smooth(network)
      return layers, *layers_lib.check_examples(layers, xs, labels, bounds)
  layers = layers_lib.check(network)
  return layers, *layers_lib.check_examples(layers, xs, labels, bounds)


def check_network(
  network: Callable | layers_lib.Layers,
  xs: ArrayLike,
  labels: ArrayLike,
  *,
  bounds: tuple | None = None,
) -> None:
  """Raise what `lower_bounds` would raise for a network, inputs and bounds.

  Args:
    network, xs, labels, bounds: as of `lower_bounds`.

  Raises:
    TypeError, ValueError: with a sentence, as `lower_bounds`.
  """
  prepare(network, xs, labels, bounds)


def _compare(logits_fn, layers, x):
  """Raises ValueError where layers are not the function."""
  want = np.asarray(logits_fn(jnp.asarray(x)), np.float64)
  found = layers_lib.preactivations(layers, x.ravel().astype(np.float64))[-1]
  usable = np.isfinite(want).all()
  if usable and np.abs(found - want).max() > AGREE * np.abs(want).max() + AGREE:
    raise ValueError(
      'network was read as layers that have other logits: '
      f'{found} instead of {want}; please report it'
    )


def as_layers(
  logits_fn: Callable, x: Any, low: np.ndarray, high: np.ndarray
) -> list:
  """Returns the layers `[(W [in, out], b [out]), ...]` that equal a function.

  A ReLU stands between each two. All ReLUs of one depth are one layer.

  Args:
    logits_fn: one input -> logits `[k]`.
    x: an input, or its shape and dtype.
    low, high: the box `[n]` in which they have to be equal; infinite for no
      end.

  Raises:
    ValueError: for an operation that is not supported, with the place in the
      code of the network; for other than one array of logits; for a residual
      network without a box; for a matrix of more than `LARGEST` entries.
    TypeError: for a network that computes in half precision.
  """
  closed = jax.make_jaxpr(logits_fn)(jax.ShapeDtypeStruct(x.shape, x.dtype))
  if len(closed.out_avals) != 1 or len(closed.out_avals[0].shape) != 1:
    shapes = [getattr(aval, 'shape', aval) for aval in closed.out_avals]
    raise ValueError(
      f'network must return one array of logits [k], got shapes {shapes}'
    )
  with jax.enable_x64(True):
    program = reading.Program(
      [[]], [[reading.Value(0, 0, tuple(x.shape))]], [[]]
    )
    reader = reading.Reader(program)
    logits = reader.read(closed.jaxpr, closed.consts, program.starts[0])[0]
    if isinstance(logits, reading.Pointwise):
      reading.refuse(logits.place)
    if not isinstance(logits, reading.Value):
      zeros = np.zeros((low.size, len(logits)))
      return [(zeros, np.asarray(logits, np.float64))]
    logits = reader.lift(logits, len(program.starts) - 1)
    program.ends[-1].append(logits)
    if any(
      v.kind in activations.SMOOTH for part in program.starts for v in part
    ):
      return _smooth_layers(program)
    layers, raised = [], np.zeros(low.size)
    for level in range(len(program.starts)):
      w, b = _matrix(program, level, raised)
      if level < len(program.starts) - 1:
        low, high = _interval(w, b, low, high)
        after = program.starts[level + 1]
        carried = _per_unit(after, [v.kind == 'identity' for v in after])
        raised = np.where(carried, np.maximum(-low, 0.0), 0.0)
        if not np.isfinite(raised).all():
          raise ValueError(
            'results of different depths come together, as in a residual '
            'network: it can be certified within finite bounds alone'
          )
        b, low, high = b + raised, low + raised, high + raised
        low, high = np.maximum(low, 0.0), np.maximum(high, 0.0)
      layers.append((w, b))
    return layers


def _smooth_layers(program):
  """The layers `[(W, b, kinds), ..., (W, b)]` of activations of any kind."""
  layers = []
  for level, starts in enumerate(program.starts):
    found = _matrix(program, level, np.zeros(sum(v.size for v in starts)))
    if level < len(program.starts) - 1:
      after = program.starts[level + 1]
      kinds = [activations.KINDS.index(v.kind) for v in after]
      found = *found, _per_unit(after, kinds)
    layers.append(found)
  return layers


def _per_unit(values, numbers):
  """Numbers of values, one for each entry of theirs."""
  return np.repeat(numbers, [v.size for v in values])


def _interval(w, b, low, high):
  """The ends of `h @ w + b`, for h from low to high."""
  up, down = np.maximum(w, 0.0), np.minimum(w, 0.0)
  with np.errstate(invalid='ignore'):
    times = lambda h, m: np.where(m.any(0), h @ m, 0.0)
    ends = (
      times(low, up) + times(high, down),
      times(high, up) + times(low, down),
    )
  # Raised by a little more than needed: of the rounding of these sums.
  slack = 1e-9 * (np.abs(ends[0]) + np.abs(ends[1]))
  return b + ends[0] - slack, b + ends[1] + slack


def _matrix(program, level, raised):
  """Returns `(W, b)` of one level, whose inputs were raised by `raised`."""
  starts, ends = program.starts[level], program.ends[level]
  sizes = [v.size for v in starts]
  width = sum(v.size for v in ends)
  if sum(sizes) * width > LARGEST:
    raise ValueError(
      f'the network has a layer of {sum(sizes)} x {width} weights as a matrix; '
      f'at most {LARGEST} can be certified'
    )

  @jax.jit
  @jax.vmap
  def evaluate(h):
    known = {}
    parts = jnp.split(h, np.cumsum(sizes)[:-1])
    for value, part in zip(starts, parts, strict=True):
      known[value.name] = part.reshape(value.shape)
    look = lambda v: known[v.name] if isinstance(v, reading.Value) else v
    for operation in program.operations[level]:
      operands = list(map(look, operation.operands))
      found = operation.primitive.bind(*operands, **operation.params)
      many = operation.primitive.multiple_results
      for value, one in zip(
        operation.results, found if many else [found], strict=True
      ):
        known[value.name] = one
    return jnp.concatenate([known[v.name].ravel() for v in ends])

  offset = np.asarray(evaluate(jnp.zeros((1, sum(sizes)))))[0]
  rows = []
  for start in range(0, sum(sizes), BATCH):
    num = min(BATCH, sum(sizes) - start)
    units = jnp.zeros((num, sum(sizes))).at[
      jnp.arange(num), start + jnp.arange(num)
    ]
    rows.append(np.asarray(evaluate(units.set(1.0))) - offset)
  w = np.concatenate(rows)
  return w, offset - raised @ w
