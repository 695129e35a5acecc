"""A network that is given as a function, read as dense layers.

Its traced program is read operation by operation. What lies between two ReLUs
has to be affine; its matrix is found by evaluation at the unit vectors, in
float64. Maxima are written by ReLUs. A value that is needed after the next
ReLUs, as in a residual network, goes through them raised by so much that it is
positive in the whole box: to a certificate that is no ReLU at all.
"""

from collections.abc import Callable
import functools
from typing import Any
from typing import NamedTuple

import jax
from jax.extend import core
import jax.numpy as jnp
from jax.typing import ArrayLike
import numpy as np

from dmm_jax.boundary import inputs
from dmm_jax.certify import layers as layers_lib

# Affine in all operands together.
LINEAR = {
  'add',
  'add_any',
  'broadcast_in_dim',
  'concatenate',
  'copy',
  'copy_p',
  'cumsum',
  'expand_dims',
  'neg',
  'optimization_barrier',
  'pad',
  'reduce_sum',
  'reduce_window_sum',
  'reshape',
  'rev',
  'slice',
  'split',
  'squeeze',
  'stack',
  'sub',
  'tile',
  'transpose',
  'unstack',
}
# Affine in one operand where the others are constants; which ones may be it.
PRODUCTS = {
  'conv_general_dilated': (0, 1),
  'div': (0,),
  'dot_general': (0, 1),
  'dynamic_slice': (0,),
  'gather': (0,),
  'mul': (0, 1),
  'select_n': (1, 2, 3, 4, 5, 6, 7, 8, 9),
}
# Calls of a program: where it stands. Others have programs of another meaning:
# of one step of a loop, or of how two entries are reduced.
CALLS = {
  'checkpoint': 'jaxpr',
  'closed_call': 'call_jaxpr',
  'core_call': 'call_jaxpr',
  'custom_jvp_call': 'call_jaxpr',
  'custom_vjp_call': 'call_jaxpr',
  'custom_vjp_call_jaxpr': 'fun_jaxpr',
  'jit': 'jaxpr',
  'pjit': 'jaxpr',
  'remat2': 'jaxpr',
}
AGREE = 0.02  # Between logits, where a device rounds products to bfloat16.
LARGEST = 2**28  # Entries of a matrix: 2 GiB.
BATCH = 1024  # Unit vectors at once.
SUPPORTED = (
  'affine operations, ReLU, leaky ReLU, absolute values, maxima and minima'
)


def _maximum(a, b):
  return jnp.maximum(a - b, 0) + b


def _minimum(a, b):
  return a - jnp.maximum(a - b, 0)


def _absolute(x):
  return 2 * jnp.maximum(x, 0) - x


def _clamp(low, x, high):
  return _minimum(_maximum(x, low), high)


def _leaky(x, slope):
  return slope * x + (1 - slope) * jnp.maximum(x, 0)


def _reduce_max(x, *, axes, **_):
  for axis in sorted(axes, reverse=True):
    parts = [
      jax.lax.index_in_dim(x, i, axis, False) for i in range(x.shape[axis])
    ]
    x = _largest(parts)
  return x


def _pool_max(x, *, window_dimensions, window_strides, padding, **rest):
  if any(map(any, padding)) or any(d != 1 for key in rest for d in rest[key]):
    raise ValueError('windows that are padded or dilated')
  lengths = [
    (n - w) // s + 1
    for n, w, s in zip(x.shape, window_dimensions, window_strides, strict=True)
  ]
  parts = []
  for start in np.ndindex(*window_dimensions):
    ends = [
      i + (n - 1) * s + 1
      for i, n, s in zip(start, lengths, window_strides, strict=True)
    ]
    parts.append(jax.lax.slice(x, start, ends, window_strides))
  return _largest(parts)


def _largest(parts):
  """The maximum of arrays, two by two."""
  while len(parts) > 1:
    pairs = zip(parts[::2], parts[1::2], strict=False)
    parts = [_maximum(a, b) for a, b in pairs] + parts[len(parts) & ~1 :]
  return parts[0]


# What an operation is in terms of others.
REWRITTEN: dict[str, Callable] = {
  'abs': _absolute,
  'clamp': _clamp,
  'leaky_relu': _leaky,
  'max': _maximum,
  'min': _minimum,
  'reduce_max': _reduce_max,
  'reduce_window_max': _pool_max,
}


class _Value(NamedTuple):
  """A number of the program that depends on the input.

  Attributes:
    name: a number, different for each.
    level: ReLUs before it.
    shape: of the array.
    carried: whether it stands for one of the level before, raised.
  """

  name: int
  level: int
  shape: tuple
  carried: bool = False

  @property
  def size(self) -> int:
    return int(np.prod(self.shape, dtype=int))


class _Operation(NamedTuple):
  """An affine operation on values of one level, and on constants."""

  primitive: Any
  params: dict
  operands: list
  results: list


class _Program(NamedTuple):
  """What a function does, level by level.

  Attributes:
    operations: by level.
    starts: what a level starts from: the input, or results of ReLUs.
    ends: what goes into the ReLUs after it, or the logits.
  """

  operations: list
  starts: list
  ends: list


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
  layers = layers_lib.check(network)
  return layers, *layers_lib.check_examples(layers, xs, labels, bounds)


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
    program = _Program([[]], [[_Value(0, 0, tuple(x.shape))]], [[]])
    reader = _Reader(program)
    logits = reader.read(closed.jaxpr, closed.consts, program.starts[0])[0]
    if not isinstance(logits, _Value):
      zeros = np.zeros((low.size, len(logits)))
      return [(zeros, np.asarray(logits, np.float64))]
    logits = reader.lift(logits, len(program.starts) - 1)
    program.ends[-1].append(logits)
    layers, raised = [], np.zeros(low.size)
    for level in range(len(program.starts)):
      w, b = _matrix(program, level, raised)
      if level < len(program.starts) - 1:
        low, high = _interval(w, b, low, high)
        after = program.starts[level + 1]
        carried = np.repeat([v.carried for v in after], [v.size for v in after])
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


class _Reader:
  """Sorts a traced program into the levels of a `_Program`."""

  def __init__(self, program: _Program) -> None:
    self.program, self.count = program, 0
    self.lifted: dict = {}

  def read(self, jaxpr, consts, args):
    """Returns the results of a program: `_Value`s, or constants."""
    known: dict = {}
    names = [*jaxpr.constvars, *jaxpr.invars]
    for name, value in zip(
      names, [*map(_constant, consts), *args], strict=True
    ):
      known[name] = value
    look = lambda v: (
      _constant(v.val) if isinstance(v, core.Literal) else known[v]
    )
    for equation in jaxpr.eqns:
      operands = list(map(look, equation.invars))
      results = self.apply(equation, operands)
      known.update(zip(equation.outvars, results, strict=True))
    return list(map(look, jaxpr.outvars))

  def apply(self, equation, operands):
    """Returns the results of one operation."""
    name, params = equation.primitive.name, equation.params
    values = [v for v in operands if isinstance(v, _Value)]
    if name in CALLS:
      inner = params[CALLS[name]]
      consts = getattr(inner, 'consts', ())
      call = functools.partial(
        self.read, getattr(inner, 'jaxpr', inner), consts
      )
      if not values or params.get('name') != 'leaky_relu':
        return call(operands)
      # The slope is that below 0, as its program has it.
      given = [v if v is not values[0] else -np.ones(v.shape) for v in operands]
      operands, params = [values[0], -call(given)[0]], {}
      name = 'leaky_relu'
    if not values:
      found = equation.primitive.bind(*operands, **params)
      found = found if equation.primitive.multiple_results else [found]
      return list(map(_constant, found))
    if name == 'max' and _is_zero(operands):
      return [self.rectify(values[0])]
    if name in REWRITTEN:
      return self.rewrite(name, equation, operands, params)
    if name == 'convert_element_type':
      _check_precision(params['new_dtype'], equation)
      return values
    self.check(equation, operands)
    level = max(v.level for v in values)
    operands = [
      self.lift(v, level) if isinstance(v, _Value) else v for v in operands
    ]
    results = [self.new(level, v.aval.shape) for v in equation.outvars]
    self.program.operations[level].append(
      _Operation(equation.primitive, _doubled(params), operands, results)
    )
    return results

  def check(self, equation, operands):
    """Raises ValueError for an operation that is not affine."""
    name = equation.primitive.name
    places = [i for i, v in enumerate(operands) if isinstance(v, _Value)]
    if name in LINEAR:
      return
    if name == 'select_n' and set(places) <= set(PRODUCTS[name]):
      return
    if len(places) == 1 and places[0] in PRODUCTS.get(name, ()):
      return
    raise ValueError(
      f'network must be of {SUPPORTED}; {name!r}{_where(equation)} is not'
    )

  def rewrite(self, name, equation, operands, params):
    """The results of an operation, in terms of others."""
    fn = functools.partial(REWRITTEN[name], **params)
    shapes = [jax.ShapeDtypeStruct(v.shape, np.float64) for v in operands]
    try:
      closed = jax.make_jaxpr(fn)(*shapes)
    except ValueError as error:
      raise ValueError(
        f'network must be of {SUPPORTED}; not {name!r}{_where(equation)} of '
        f'{error}'
      ) from None
    return self.read(closed.jaxpr, closed.consts, operands)

  def rectify(self, value, carried=False):
    """The ReLU of a value; or the value itself, one level further."""
    level = value.level + 1
    for column in self.program:
      if len(column) == level:
        column.append([])
    result = self.new(level, value.shape, carried)
    self.program.ends[value.level].append(value)
    self.program.starts[level].append(result)
    return result

  def lift(self, value, level):
    """The value as one of a later level."""
    while value.level < level:
      if value not in self.lifted:
        self.lifted[value] = self.rectify(value, carried=True)
      value = self.lifted[value]
    return value

  def new(self, level, shape, carried=False):
    """A value that nothing else has the name of."""
    self.count += 1
    return _Value(self.count, level, tuple(shape), carried)


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
    look = lambda v: known[v.name] if isinstance(v, _Value) else v
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


def _constant(value):
  """In float64 where it is of floating point."""
  if jnp.issubdtype(getattr(value, 'dtype', np.float64), jax.dtypes.prng_key):
    return value
  value = jnp.asarray(value)
  floating = jnp.issubdtype(value.dtype, jnp.floating)
  return value.astype(jnp.float64) if floating else value


def _doubled(params):
  """The parameters of an operation, in float64."""
  return {
    name: np.dtype('float64') if name == 'preferred_element_type' else value
    for name, value in params.items()
  }


def _is_zero(operands):
  """Whether one of two operands of a maximum is the constant 0."""
  constants = [v for v in operands if not isinstance(v, _Value)]
  return len(constants) == 1 and not np.any(np.asarray(constants[0]))


def _check_precision(dtype, equation):
  if not jnp.issubdtype(dtype, jnp.floating) or jnp.dtype(dtype).itemsize < 4:
    raise TypeError(
      f'network computes in {jnp.dtype(dtype).name}{_where(equation)}: no '
      'bound holds of its rounding; certify it in float32'
    )


def _where(equation):
  """Where in the user's code an operation stands, as far as that is known."""
  trace = getattr(equation.source_info, 'traceback', None)
  for frame in trace.frames if trace is not None else ():
    path = frame.file_name
    if 'site-packages' not in path and 'dmm_jax/certify' not in path:
      return f' ({path}:{frame.line_num})'
  return ''
