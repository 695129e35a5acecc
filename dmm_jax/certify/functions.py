"""A network that is given as a function, read as dense layers.

Its traced program is read operation by operation. What lies between two ReLUs
has to be affine; its matrix is found by evaluation at the unit vectors, in
float64. Maxima are written by ReLUs. A value that is needed after the next
ReLUs, as in a residual network, goes through them raised by so much that it is
positive in the whole box: to a certificate that is no ReLU at all. Beside
activations that are smooth it goes through the identity instead. Functions with
large layers are read as operators, see `operators`.
"""

from collections.abc import Callable
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
import numpy as np

from dmm_jax import programs
from dmm_jax.boundary import inputs
from dmm_jax.certify import activations
from dmm_jax.certify import affine
from dmm_jax.certify import layers as layers_lib
from dmm_jax.certify import operators
from dmm_jax.certify import reading

AGREE = 0.02  # Between logits, where a device rounds products to bfloat16.
LARGEST = 2**28  # Entries of a matrix: 2 GiB.
DENSE = 2**22  # Entries beyond which a function is read as operators: 32 MiB.
BATCH = 1024  # Unit vectors at once.


def prepare(
  network: Callable | layers_lib.Layers,
  xs: ArrayLike,
  labels: ArrayLike,
  bounds: tuple | None,
) -> tuple[Any, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
  """Returns `(layers, xs, labels, low, high)`, as `layers` checks them.

  In place of layers, a function with large ones has levels of `operators`.

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
    found = _read_all(network, xs[0], *ends)
    _compare(network, found, xs[0])
    if operators.is_network(found):
      sizes = found[0].num_inputs, found[-1].bias.size
      columns = layers_lib.check_columns(*sizes, xs, labels, bounds)
      operators.check_range(found, columns[0])
      return found, *columns
    if not layers_lib.is_relu(found[:-1]):
      layers = layers_lib.check_smooth(found)
      return layers, *layers_lib.check_examples(layers, xs, labels, bounds)
  layers = layers_lib.check(found if callable(network) else network)
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


def _compare(logits_fn, found, x):
  """Raises ValueError where what was read is not the function."""
  want = np.asarray(logits_fn(jnp.asarray(x)), np.float64)
  logits = evaluate(found, x.ravel().astype(np.float64))
  usable = np.isfinite(want).all()
  if usable and np.abs(logits - want).max() > AGREE * (np.abs(want).max() + 1):
    raise ValueError(
      'network was read as layers that have other logits: '
      f'{logits} instead of {want}; please report it'
    )


def evaluate(network: Any, x: np.ndarray) -> np.ndarray:
  """Return the logits `[k]` of a flat input in float64.

  Args:
    network: layers, or levels of `operators`.
    x: `[n]`.
  """
  if not operators.is_network(network):
    return layers_lib.preactivations(network, x)[-1]
  with jax.enable_x64(True):
    return np.asarray(_jitted_logits(network, x))


_jitted_logits = jax.jit(operators.logits)


def logits(network: Any, x: jax.Array) -> jax.Array:
  """Return the logits `[k]` of a flat input in JAX, as `evaluate` takes it."""
  if operators.is_network(network):
    return operators.logits(network, x)
  return layers_lib.logits(network, x)


def _read_all(logits_fn, x, low, high):
  """The layers, or `operators` where their matrices would be large."""
  program, logits = _read(logits_fn, x)
  rows, columns = affine.largest_matrix(program)
  if logits is None and rows * columns > DENSE:
    return operators.build(_read(logits_fn, x, maxima=True)[0])
  return as_layers(logits_fn, x, low, high)


def _read(logits_fn, x, maxima=False):
  """Returns the program of a function, and logits that are constant or None."""
  closed = jax.make_jaxpr(logits_fn)(jax.ShapeDtypeStruct(x.shape, x.dtype))
  if len(closed.out_avals) != 1 or len(closed.out_avals[0].shape) != 1:
    shapes = [getattr(aval, 'shape', aval) for aval in closed.out_avals]
    raise ValueError(
      f'network must return one array of logits [k], got shapes {shapes}'
    )
  with jax.enable_x64(True):
    program = affine.empty(x.shape)
    reader = reading.Reader(program, maxima)
    logits = reader.read(closed.jaxpr, closed.consts, program.starts[0])[0]
    if isinstance(logits, reading.Pointwise):
      reading.refuse(logits.place)
    if not isinstance(logits, affine.Value):
      return program, logits
    program.ends[-1].append(reader.lift(logits, len(program.starts) - 1))
  return program, None


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
  program, logits = _read(logits_fn, x)
  if logits is not None:
    zeros = np.zeros((low.size, len(logits)))
    return [(zeros, np.asarray(logits, np.float64))]
  with jax.enable_x64(True):
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


@jax.jit
def _evaluated_rows(fn, h):
  return jax.vmap(fn)(h)


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

  start = jax.ShapeDtypeStruct((sum(sizes),), np.float64)
  fn = programs.trace(affine.level_function(program, level), start)
  evaluate = functools.partial(_evaluated_rows, fn)
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
