"""A traced program as affine operations, by levels between activations."""

from collections.abc import Callable
import functools
from typing import Any
from typing import NamedTuple
from typing import NoReturn

import jax
from jax.extend import core
import jax.numpy as jnp
import numpy as np

from dmm_jax.certify import activations
from dmm_jax.certify import affine
from dmm_jax.certify import rewriting

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
SUPPORTED = (
  'affine operations, ReLU, leaky ReLU, absolute values, maxima, minima, '
  'sigmoid, tanh, GELU, softplus and SiLU'
)
# Operations of one entry of an array at a time, of which activations consist.
POINTWISE = {
  'add',
  'div',
  'erf',
  'erfc',
  'exp',
  'integer_pow',
  'log1p',
  'logistic',
  'mul',
  'neg',
  'square',
  'sub',
  'tanh',
}
# What the programs of smooth activations consist of, besides arithmetic.
TRANSCENDENTAL = {'erf', 'erfc', 'exp', 'exp2', 'log1p', 'logistic', 'tanh'}


class Pointwise(NamedTuple):
  """A function of a value, entry by entry, that is not affine.

  Attributes:
    base: the value.
    fn: the function of an array.
    shape: of the array.
    place: the first operation that is not affine, and where it stands.
  """

  base: affine.Value
  fn: Callable
  shape: tuple
  place: str


class Reader:
  """Sorts a traced program into the levels of a `Program`."""

  def __init__(self, program: affine.Program, maxima: bool = False) -> None:
    """Reads into a program; `maxima` keeps those of windows activations."""
    self.program, self.maxima, self.count = program, maxima, 0
    self.lifted: dict = {}
    self.before: dict = {}  # What the ReLUs are of.
    self.origins: dict = {}  # Values that are functions of others, entrywise.

  def read(self, jaxpr: Any, consts: Any, args: list) -> list:
    """Returns the results of a program: `Value`s, or constants."""
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

  def apply(self, equation: Any, operands: list) -> list:
    """Returns the results of one operation."""
    name, params = equation.primitive.name, equation.params
    values: list[Any] = [
      v for v in operands if isinstance(v, affine.Value | Pointwise)
    ]
    bent = [v for v in operands if isinstance(v, Pointwise)]
    if name in CALLS:
      inner = params[CALLS[name]]
      consts = getattr(inner, 'consts', ())
      call = functools.partial(
        self.read, getattr(inner, 'jaxpr', inner), consts
      )
      kind = _smooth_call(call, inner, equation, operands)
      if kind is not None:
        return [self.activate(values[0], kind)]
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
    if name == 'convert_element_type':
      _check_precision(params['new_dtype'], equation)
      return values
    if bent:
      return [self.bend(equation, operands, bent[0].place)]
    if name == 'max' and _is_zero(operands):
      return [self.activate(values[0])]
    if name in activations.SMOOTH:
      return [self.activate(values[0], name)]
    if name == 'reduce_window_max' and self.maxima:
      return [self.pool(equation, operands[0], params)]
    if name in rewriting.REWRITTEN:
      fn = functools.partial(rewriting.REWRITTEN[name], **params)
      return self.inline(fn, equation, operands)
    if not _is_affine(name, operands):
      place = f'{name!r}{_where(equation)}'
      return [self.bend(equation, operands, place)]
    spot = self.pointwise(equation, operands)
    level = max(v.level for v in values)
    operands = [
      self.lift(v, level) if isinstance(v, affine.Value) else v
      for v in operands
    ]
    results = [self.new(level, v.aval.shape) for v in equation.outvars]
    self.program.operations[level].append(
      affine.Operation(equation.primitive, _doubled(params), operands, results)
    )
    if spot is not None:
      self.origins[results[0]] = spot
    return results

  def pointwise(self, equation: Any, operands: list) -> tuple | None:
    """Returns `(base, fn)` of a result that is one entrywise, or None."""
    shape = equation.outvars[0].aval.shape
    given = [v for v in operands if isinstance(v, affine.Value | Pointwise)]
    chains = [dict(self.chain(v)) for v in given]
    bases = [v for v in chains[0] if all(v in chain for chain in chains)]
    fits = all(v.shape == shape for v in given) and bases
    if equation.primitive.name not in POINTWISE or not fits:
      return None
    of_values = iter(chain[bases[0]] for chain in chains)
    constant = lambda v: lambda z: v
    parts = [
      next(of_values)
      if isinstance(v, affine.Value | Pointwise)
      else constant(v)
      for v in operands
    ]
    bind, params = equation.primitive.bind, _doubled(equation.params)
    return bases[0], lambda z: bind(
      *(jnp.asarray(part(z)) for part in parts), **params
    )

  def chain(self, v: Any) -> list:
    """Returns what an operand is an entrywise function of, and these."""
    fn: Callable = lambda z: z
    base: Any = v
    if isinstance(v, Pointwise):
      base, fn = v.base, v.fn
    found = [(base, fn)]
    while base in self.origins:
      base, inner = self.origins[base]
      fn = lambda z, fn=fn, inner=inner: fn(inner(z))
      found.append((base, fn))
    return found

  def bend(self, equation: Any, operands: list, place: str) -> Any:
    """Returns a result that is not affine: an activation, or a part of one."""
    spot = self.pointwise(equation, operands)
    if spot is None:
      refuse(place)
    shape = equation.outvars[0].aval.shape
    kind = activations.recognize(spot[1], shape)
    if kind is not None:
      return self.activate(spot[0], kind)
    return Pointwise(spot[0], spot[1], shape, place)

  def inline(self, fn: Callable, equation: Any, operands: list) -> list:
    """The results of an operation, in terms of others, as `fn` has them."""
    shapes = [jax.ShapeDtypeStruct(v.shape, np.float64) for v in operands]
    try:
      closed = jax.make_jaxpr(fn)(*shapes)
    except ValueError as error:
      name = equation.primitive.name
      raise ValueError(
        f'network must be of {SUPPORTED}; not {name!r}{_where(equation)} of '
        f'{error}'
      ) from None
    return self.read(closed.jaxpr, closed.consts, operands)

  def pool(self, equation: Any, value: Any, params: dict) -> affine.Value:
    """The largest entries of windows, one activation with a ReLU before it."""
    inner = self.before.get(value, value)
    fn = functools.partial(rewriting.windows, **params)
    [stacked] = self.inline(fn, equation, [inner])
    return self.activate(stacked, 'max' if inner is value else 'relu_max')

  def activate(self, value: affine.Value, kind: str = 'relu') -> affine.Value:
    """The activation of a value; or the value itself, one level further.

    Maxima are over its first axis.
    """
    level = value.level + 1
    for column in self.program:
      if len(column) == level:
        column.append([])
    shape = value.shape[kind in activations.MAXIMA :]
    result = self.new(level, shape, kind)
    if kind == 'relu':
      self.before[result] = value
    self.program.ends[value.level].append(value)
    self.program.starts[level].append(result)
    return result

  def lift(self, value: affine.Value, level: int) -> affine.Value:
    """The value as one of a later level."""
    while value.level < level:
      if value not in self.lifted:
        self.lifted[value] = self.activate(value, 'identity')
      value = self.lifted[value]
    return value

  def new(self, level: int, shape: tuple, kind: str = 'relu') -> affine.Value:
    """A value that nothing else has the name of."""
    self.count += 1
    return affine.Value(self.count, level, tuple(shape), kind)


def refuse(place: str) -> NoReturn:
  """Raises ValueError for an operation, and where it stands."""
  raise ValueError(f'network must be of {SUPPORTED}; {place} is not')


def _is_affine(name, operands):
  """Whether an operation is affine in all values together."""
  places = [i for i, v in enumerate(operands) if isinstance(v, affine.Value)]
  if name in LINEAR:
    return True
  if name == 'select_n' and set(places) <= set(PRODUCTS[name]):
    return True
  return len(places) == 1 and places[0] in PRODUCTS.get(name, ())


def _constant(value):
  """In float64 where it is of floating point."""
  if jnp.issubdtype(getattr(value, 'dtype', np.float64), jax.dtypes.prng_key):
    return value
  value = jnp.asarray(value)
  floating = jnp.issubdtype(value.dtype, jnp.floating)
  return value.astype(jnp.float64) if floating else value


def _smooth_call(call, inner, equation, operands):
  """The name of the activation that a call is, elementwise, or None."""
  values = [v for v in operands if isinstance(v, affine.Value | Pointwise)]
  jaxpr = getattr(inner, 'jaxpr', inner)
  shapes = [v.aval.shape for v in equation.outvars]
  if len(values) != 1 or shapes != [values[0].shape]:
    return None
  if isinstance(values[0], Pointwise):
    return None
  if not TRANSCENDENTAL & _primitives(jaxpr):
    return None
  given = lambda z: [z if v is values[0] else v for v in operands]
  return activations.recognize(lambda z: call(given(z))[0], shapes[0])


def _primitives(jaxpr):
  """The names of a program's operations, and of those in its calls."""
  names = set()
  for equation in jaxpr.eqns:
    name = equation.primitive.name
    names.add(name)
    if name in CALLS:
      inner = equation.params[CALLS[name]]
      names |= _primitives(getattr(inner, 'jaxpr', inner))
  return names


def _doubled(params):
  """The parameters of an operation, in float64."""
  return {
    name: np.dtype('float64') if name == 'preferred_element_type' else value
    for name, value in params.items()
  }


def _is_zero(operands):
  """Whether one of two operands of a maximum is the constant 0."""
  constants = [v for v in operands if not isinstance(v, affine.Value)]
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
