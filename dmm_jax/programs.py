"""Functions as values: what is equal compiles once, what changed is seen.

`jax.jit` finds a compiled program by the identity of a Python function, and
freezes the arrays that the function captures: a network that is retrained in
place keeps its old weights. Here a function is hashed by what it computes.
`trace` turns any function into a pytree of the arrays that it captures; its
structure is the traced program. `bind` fixes options of a function that
captures nothing. Both are arguments of `jax.jit`, not reasons to compile.
"""

from collections.abc import Callable
from collections.abc import Hashable
import dataclasses
import functools
from typing import Any
import weakref

import jax
from jax.extend import core
import numpy as np

# Calls that only group equations, and rules for derivatives.
_GROUPS = ('jit', 'pjit', 'closed_call', 'core_call')
_RULES = ('custom_jvp_call', 'custom_vjp_call', 'custom_vjp_call_jaxpr')


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Bound:
  """A module-level function with options; equal where both are equal."""

  fn: Callable
  options: tuple[tuple[str, Hashable], ...]
  types: tuple[type, ...]  # 1, 1.0 and True are equal, and compute otherwise.

  def __call__(self, *args: Any) -> Any:
    """Calls the function with its options."""
    return self.fn(*args, **dict(self.options))


def bind(fn: Callable, **options: Hashable) -> Bound:
  """Returns `fn` with keyword arguments fixed, hashed by value.

  Args:
    fn: a function at the top level of a module: one that captures no arrays.
    **options: hashable values: numbers, strings, tuples, frozen dataclasses,
      Flax Linen modules; functions among them must capture no arrays either.

  Raises:
    TypeError: for a function that may capture arrays, or an option that cannot
      be hashed, such as an array: it should be an argument of the call.
  """
  if not getattr(fn, '__qualname__', '<locals>').isidentifier():
    raise TypeError(
      f'fn must be a function at the top level of a module, got {fn!r}; '
      'arrays that it needs should be arguments'
    )
  for name, value in options.items():
    try:
      hash(value)
    except TypeError:
      raise TypeError(
        f'option {name} of {fn.__qualname__} must be hashable, got '
        f'{type(value).__name__}; pass arrays as arguments of the call'
      ) from None
  pairs = tuple(sorted(options.items()))
  return Bound(fn, pairs, tuple(type(value) for _, value in pairs))


class Program:
  """A traced function without its arrays; equal where the structure is equal.

  Attributes:
    jaxpr: the program; its first inputs are the captured arrays.
    out_tree: structure of its results.
  """

  def __init__(self, jaxpr: core.Jaxpr, out_tree: Any, key: Any) -> None:
    self.jaxpr, self.out_tree, self.key = jaxpr, out_tree, key
    self._hash = hash(key)

  def __hash__(self) -> int:
    return self._hash

  def __eq__(self, other: object) -> bool:
    if not isinstance(other, Program) or self._hash != other._hash:
      return False
    return self is other or self.key == other.key


# One object for each structure in use, so that comparing is cheap.
_PROGRAMS: weakref.WeakValueDictionary = weakref.WeakValueDictionary()


@functools.partial(
  jax.tree_util.register_dataclass,
  data_fields=['arrays'],
  meta_fields=['program'],
)
@dataclasses.dataclass(frozen=True)
class Traced:
  """A traced function: a pytree whose leaves are the arrays that it captures.

  Call it with arguments of the shapes and dtypes that it was traced with.
  """

  arrays: list
  program: Program

  def __call__(self, *args: Any) -> Any:
    """Evaluates the program, on the arrays that were captured."""
    jaxpr = self.program.jaxpr
    leaves = [*self.arrays, *jax.tree.leaves(args)]
    return self.program.out_tree.unflatten(_run(jaxpr, (), leaves, {}))


def trace(fn: Callable, *args: Any) -> Traced:
  """Returns `fn` traced as it is now, with the arrays that it captures.

  Two functions have the same structure, and share what is compiled, where
  tracing them gives the same operations on arrays of the same shapes and
  dtypes. Captured arrays are leaves of the result; Python numbers, numpy
  scalars and arrays inside the body of a loop are part of the structure, so
  that a change of these compiles anew. Rules for derivatives
  (`jax.custom_jvp`, `jax.custom_vjp`) are left out: trace the derivative, to
  which they have been applied, where one is needed. A host callback is called
  whenever the program runs, and is equal to itself alone. What the function
  has under `jax.jit` itself is as old as that.

  Args:
    fn: of pytrees of arrays; any callable.
    *args: examples, arrays or `jax.ShapeDtypeStruct`.
  """
  closed, out = _make_jaxpr(fn, *args)
  flat = jax.tree.map(_shape, jax.tree.leaves(args))
  closed = _rewritten(closed.jaxpr, closed.consts, flat, {})
  jaxpr = closed.jaxpr
  jaxpr = core.Jaxpr(
    (),
    [*jaxpr.constvars, *jaxpr.invars],
    jaxpr.outvars,
    jaxpr.eqns,
    jaxpr.effects,
    jaxpr.debug_info,
  )
  out_tree = jax.tree.structure(out)
  key = out_tree, _jaxpr_key(jaxpr)
  program = _PROGRAMS.get(key)
  if program is None:
    program = _PROGRAMS[key] = Program(jaxpr, out_tree, key)
  return Traced(list(closed.consts), program)


def rewrite(fn: Callable, rules: dict[str, Callable]) -> Callable:
  """Returns `fn` with some of its operations done by other functions.

  Operations within loops and branches too; rules for derivatives stay.

  Args:
    fn: of pytrees of arrays, traced once more than without this.
    rules: by name of the primitive, `(*operands, **params) -> results`.
  """

  def rewritten(*args: Any) -> Any:
    closed, out = _make_jaxpr(fn, *args)
    if not _uses(closed.jaxpr, rules):
      return fn(*args)
    leaves = jax.tree.leaves(args)
    out_tree = jax.tree.structure(out)
    out = _run(closed.jaxpr, closed.consts, leaves, rules)
    return jax.tree.unflatten(out_tree, out)

  return rewritten


def _make_jaxpr(fn, *args):
  # A new function at each call: JAX keeps what it traced of an old one.
  return jax.make_jaxpr(lambda *args: fn(*args), return_shape=True)(*args)


def _shape(leaf):
  return jax.ShapeDtypeStruct(np.shape(leaf), jax.dtypes.result_type(leaf))


def _uses(value, rules):
  """Whether a jaxpr, or any of a tuple of them, has one of the operations."""
  if isinstance(value, tuple):
    return any(_uses(v, rules) for v in value)
  if isinstance(value, core.ClosedJaxpr):
    value = value.jaxpr
  return isinstance(value, core.Jaxpr) and any(
    eqn.primitive.name in rules
    or any(_uses(v, rules) for v in eqn.params.values())
    for eqn in value.eqns
  )


def _rewritten(jaxpr, consts, shapes, rules):
  run = lambda *args: _run(jaxpr, consts, args, rules)
  return jax.make_jaxpr(run)(*shapes)


def _rewritten_param(value, rules):
  """A parameter of an equation; jaxprs in it are rewritten."""
  if isinstance(value, jax.sharding.Sharding) and not rules:
    # Where captured arrays lie, of no meaning where they are arguments.
    return None
  if isinstance(value, tuple):
    parts = [_rewritten_param(v, rules) for v in value]
    changed = any(a is not b for a, b in zip(parts, value, strict=True))
    return tuple(parts) if changed else value
  closed = isinstance(value, core.ClosedJaxpr)
  if not closed and not isinstance(value, core.Jaxpr):
    return value
  if rules and not _uses(value, rules):
    return value
  jaxpr, consts = (value.jaxpr, value.consts) if closed else (value, ())
  shapes = [
    jax.ShapeDtypeStruct(v.aval.shape, v.aval.dtype) for v in jaxpr.invars
  ]
  new = _rewritten(jaxpr, consts, shapes, rules)
  if closed:
    return new
  return value if new.consts else new.jaxpr


def _run(jaxpr, consts, args, rules):
  """Evaluates a jaxpr; without `rules`, groups and derivatives are opened."""
  names = [*jaxpr.constvars, *jaxpr.invars]
  known = dict(zip(names, [*consts, *args], strict=True))
  read = lambda v: v.val if isinstance(v, core.Literal) else known[v]
  for eqn in jaxpr.eqns:
    values = [read(v) for v in eqn.invars]
    name = eqn.primitive.name
    if name in rules:
      out = rules[name](*values, **eqn.params)
    elif name == 'sharding_constraint' and not rules:
      out = values
    elif name in _GROUPS or (name in _RULES and not rules):
      one = next(
        v for v in eqn.params.values() if isinstance(v, core.ClosedJaxpr)
      )
      out = _run(one.jaxpr, one.consts, values, rules)
    else:
      params = {k: _rewritten_param(v, rules) for k, v in eqn.params.items()}
      params = eqn.primitive.get_bind_params(params)
      out = eqn.primitive.bind(*values, **params)
    out = out if isinstance(out, list | tuple) else [out]
    known |= zip(eqn.outvars, out, strict=True)
  return [read(v) for v in jaxpr.outvars]


def _jaxpr_key(jaxpr):
  """What a jaxpr computes, hashable: names of variables do not matter."""
  numbers: dict = {}

  def place(v):
    if isinstance(v, core.Literal):
      return ('literal', _aval_key(v.aval), np.asarray(v.val).tobytes())
    return numbers.setdefault(v, len(numbers))

  inputs = [*jaxpr.constvars, *jaxpr.invars]
  head = tuple((place(v), _aval_key(v.aval)) for v in inputs)
  body = []
  for eqn in jaxpr.eqns:
    operands = tuple(map(place, eqn.invars))
    results = tuple((place(v), _aval_key(v.aval)) for v in eqn.outvars)
    params = tuple((k, _value_key(v)) for k, v in sorted(eqn.params.items()))
    body.append((eqn.primitive, operands, results, params))
  return head, tuple(body), tuple(map(place, jaxpr.outvars))


def _aval_key(aval):
  shape, dtype = getattr(aval, 'shape', None), getattr(aval, 'dtype', None)
  return shape, dtype, getattr(aval, 'weak_type', False)


def _value_key(value):
  """A parameter of an equation, hashable; equal only if the type is."""
  if isinstance(value, core.ClosedJaxpr):
    consts = tuple(_value_key(c) for c in value.consts)
    return 'closed', _jaxpr_key(value.jaxpr), consts
  if isinstance(value, core.Jaxpr):
    return 'jaxpr', _jaxpr_key(value)
  if isinstance(value, list | tuple):
    return type(value), tuple(map(_value_key, value))
  if isinstance(value, dict):
    return dict, tuple((k, _value_key(v)) for k, v in sorted(value.items()))
  if isinstance(value, float):
    return float, repr(value)
  if isinstance(value, jax.Array | np.ndarray):
    array = np.asarray(value)
    return 'array', array.shape, array.dtype, array.tobytes()
  try:
    hash(value)
  except TypeError:
    return _Identity(value)
  return type(value), value


class _Identity:
  """Equal to what holds the same object, which it keeps alive."""

  def __init__(self, value: Any) -> None:
    self.value = value

  def __hash__(self) -> int:
    return id(self.value)

  def __eq__(self, other: object) -> bool:
    return isinstance(other, _Identity) and self.value is other.value
