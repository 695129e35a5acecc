"""Functions as values: equal programs are one, what changed is another."""

import functools
import gc

import jax
from jax.extend import core
import jax.numpy as jnp
import numpy as np
import pytest

from dmm_jax import programs

X = jax.ShapeDtypeStruct((3,), np.float32)
POINT = np.array([0.5, -1.0, 2.0], np.float32)
W = np.array([[1.0, 2, 3], [4, 5, 6], [7, 8, 10]], np.float32)


def affine(w, x, *, scale=1, shift=0.0):
  return w @ x * scale + shift


class Callable:
  def __call__(self, x):
    return x


# --- bind --------------------------------------------------------------------


def test_options_are_bound_by_value():
  bind = functools.partial(programs.bind, affine)
  one = bind(scale=2, shift=0.5)
  assert one == bind(shift=0.5, scale=2)
  assert hash(one) == hash(bind(shift=0.5, scale=2))
  np.testing.assert_array_equal(one(W, POINT), 2 * W @ POINT + 0.5)
  np.testing.assert_array_equal(bind()(W, POINT), W @ POINT)
  different = [bind(), one, bind(scale=2), bind(scale=3), bind(shift=2)]
  different += [bind(scale=2.0), bind(scale=True), bind(scale=1)]
  different.append(programs.bind(np.linalg.norm))
  assert len(set(different)) == len(different)
  # An argument of `jax.jit` itself, which compiles once for equal ones.
  traced = []

  @jax.jit
  def call(fn, x):
    traced.append(fn)
    return fn(W, x)

  for scale in (2, 2, 3, 2):
    np.testing.assert_array_equal(
      call(bind(scale=scale), POINT), scale * W @ POINT
    )
  assert len(traced) == 2


def test_what_may_hold_arrays_cannot_be_bound():
  inside = lambda x: x
  for fn in (inside, Callable().__call__, functools.partial(affine, W)):
    with pytest.raises(TypeError, match='top level of a module, got'):
      programs.bind(fn)
  with pytest.raises(TypeError, match='option w of affine must be hashable'):
    programs.bind(affine, v=1, w=W)
  with pytest.raises(TypeError, match='got list; pass arrays as arguments'):
    programs.bind(affine, w=[1])


# --- trace -------------------------------------------------------------------


def program(fn, *shapes):
  return programs.trace(fn, *(shapes or (X,))).program


def test_captured_arrays_are_leaves_and_not_structure():
  def net(w, t):
    return lambda x: {'a': jnp.tanh(jnp.asarray(w) @ x), 'b': (t * x[0],)}

  one = programs.trace(net(W, 2.0), X)
  other = programs.trace(net(3 * W, 2.0), X)
  assert one.program is other.program
  leaves, tree = jax.tree.flatten(one)
  assert tree == jax.tree.structure(other)
  np.testing.assert_array_equal(leaves[0], W)
  for traced, w in ((one, W), (other, 3 * W)):
    got = traced(jnp.asarray(POINT))
    np.testing.assert_allclose(got['a'], np.tanh(w @ POINT), rtol=1e-6)
    assert got['b'] == (1.0,)
  compiled = []

  @jax.jit
  def call(traced, x):
    compiled.append(1)
    return traced(x)['a']

  for traced, w in ((one, W), (other, 3 * W)):
    np.testing.assert_allclose(
      call(traced, POINT), np.tanh(w @ POINT), rtol=1e-6
    )
  assert len(compiled) == 1
  # Arguments are pytrees too, and arrays are examples as good as shapes.
  pair = programs.trace(
    lambda a, b: a['v'] - 2 * b, {'v': POINT}, np.float32(1)
  )
  np.testing.assert_array_equal(pair({'v': POINT}, 3.0), POINT - 6)


def test_equal_structure_is_one_program():
  relu = lambda w: lambda x: jax.nn.relu(w @ x)
  assert program(relu(W)) is program(relu(-W))
  assert program(jax.jit(relu(W))) is program(relu(W))
  nested = lambda x: jax.jit(jax.jit(relu(W)))(x)
  assert program(nested) is program(relu(W))
  loop = lambda k: lambda x: jax.lax.fori_loop(0, k, lambda _, v: v * 2, x)
  assert program(loop(2)) is program(loop(2)) is not program(loop(3))
  inner = lambda t: (
    lambda x: jax.lax.cond(x[0] > 0, lambda v: v * t, lambda v: v, x)
  )
  assert program(inner(2.0)) is program(inner(2.0)) is not program(inner(3.0))
  # Derivative rules are opened: only what they compute counts.
  ruled = jax.custom_jvp(lambda x: x * 2.0)
  ruled.defjvp(lambda primals, tangents: (ruled(*primals), tangents[0]))
  assert program(ruled) is program(lambda x: x * 2.0)
  backward = jax.custom_vjp(lambda x: x * 2.0)
  backward.defvjp(lambda x: (backward(x), None), lambda _, g: (g,))
  assert program(backward) is program(lambda x: x * 2.0)


def test_different_structure_is_another_program():
  body = lambda w: (
    lambda x: jax.lax.scan(lambda v, _: (w @ v, 0), x, None, 2)[0]
  )
  different = [
    lambda x: x,
    lambda x: W @ x,
    lambda x: W[:2] @ x,
    lambda x: W @ (W @ x),
    lambda x: jnp.tanh(W @ x),
    lambda x: (W @ x)[::-1],
    lambda x: W.astype(np.float16) @ x,
    lambda x: W @ x * 0.5,
    lambda x: W @ x * 0.25,
    lambda x: x - 2 * x[0],
    lambda x: 2 * x[0] - x,
    lambda x: (x, x + 1),
    lambda x: (x + 1, x),
    lambda x: [x, x + 1],
    lambda x: {'a': x, 'b': x + 1},
    lambda x: -0.0 * x,
    lambda x: 0.0 * x,
    lambda x: jax.lax.cumsum(x),
    lambda x: jax.lax.cumsum(x, reverse=True),
    # Arrays within the body of a loop belong to the structure.
    body(np.float32(np.eye(3))),
    lambda x: x.astype(np.int32),
    lambda x: x.astype(np.float16),
  ]
  assert len({program(fn) for fn in different}) == len(different)
  double = lambda x: x * 2
  shapes = [X, jax.ShapeDtypeStruct((4,), np.float32)]
  shapes += [jax.ShapeDtypeStruct((3,), np.float16)]
  assert len({program(double, s) for s in shapes}) == 3
  assert program(double) != 'a program' and program(double) == program(double)


def test_host_callbacks_are_equal_to_themselves_alone():
  call = lambda fn: lambda x: jax.pure_callback(fn, x, x)
  host = lambda v: np.asarray(v) * 2
  assert program(call(host)) is program(call(host))
  assert program(call(host)) is not program(call(lambda v: np.asarray(v) * 2))
  np.testing.assert_array_equal(programs.trace(call(host), X)(POINT), 2 * POINT)


def test_programs_that_nobody_uses_are_forgotten():
  before = len(programs._PROGRAMS)
  traced = programs.trace(lambda x: jnp.sinh(jnp.cosh(x)), X)
  assert len(programs._PROGRAMS) == before + 1
  del traced
  gc.collect()
  assert len(programs._PROGRAMS) <= before


def test_a_function_is_traced_anew_at_each_call():
  state = {'t': 2.0}
  fn = lambda x: x * state['t']
  first = programs.trace(fn, X)
  state['t'] = 3.0
  second = programs.trace(fn, X)
  assert first.program is not second.program
  np.testing.assert_array_equal(first(POINT), 2 * POINT)
  np.testing.assert_array_equal(second(POINT), 3 * POINT)


def test_values_of_parameters_are_told_apart_by_type_and_content():
  key = programs._value_key
  different = [
    1,
    1.0,
    True,
    0.0,
    -0.0,
    '1',
    None,
    (1,),
    [1],
    (1, 2),
    {'a': 1},
    {'a': 2},
    {'b': 1},
    np.zeros(2),
    np.zeros(3),
    np.zeros((1, 2)),
    np.ones(2),
    np.zeros(2, np.float32),
  ]
  assert len({key(v) for v in different}) == len(different)
  for value in (*different, float('nan')):
    assert key(value) == key(value) and hash(key(value)) == hash(key(value))
  assert key({'a': 1, 'b': 2}) == key({'b': 2, 'a': 1})
  assert key(np.zeros(2)) == key(np.zeros(2))
  assert key(jnp.zeros(2)) == key(np.zeros(2, np.float32))
  # What cannot be hashed is equal to itself alone.
  one, other = {1}, {1}
  assert key(one) == key(one) != key(other)
  assert hash(key(one)) == hash(key(one)) and key(one) != one
  # Constants of a closed jaxpr count; names of variables do not.
  closed = lambda w: jax.make_jaxpr(lambda x: jnp.asarray(w) @ x)(POINT)
  assert key(closed(W)) == key(closed(W)) != key(closed(2 * W))


# --- rewrite -----------------------------------------------------------------

RULES = {'sin': lambda x, **_: jnp.cos(x)}


def test_operations_are_done_by_other_functions():
  rewrite = lambda fn: programs.rewrite(fn, RULES)
  sine = lambda x: 2 * jnp.sin(x)
  np.testing.assert_allclose(rewrite(sine)(POINT), 2 * np.cos(POINT), rtol=1e-6)
  # Pytrees go in and out; what else is computed stays.
  both = lambda t: {'s': jnp.sin(t['a']) + t['b'][0], 'e': jnp.exp(t['a'])}
  got = rewrite(both)({'a': POINT, 'b': [1.0]})
  np.testing.assert_allclose(got['s'], np.cos(POINT) + 1, rtol=1e-6)
  np.testing.assert_allclose(got['e'], np.exp(POINT), rtol=1e-6)
  # Within other functions, loops and branches, with constants of their own.
  w = jnp.asarray(W) / 10
  hidden = {
    'jit': lambda x: jax.jit(lambda v: jnp.sin(w @ v))(x),
    'scan': lambda x: jax.lax.scan(
      lambda v, _: (jnp.sin(w @ v), 0), x, None, 1
    )[0],
    'while': lambda x: jax.lax.while_loop(
      lambda s: s[0] < 1, lambda s: (s[0] + 1, jnp.sin(w @ s[1])), (0, x)
    )[1],
    'cond': lambda x: jax.lax.cond(
      x[0] > 0, lambda v: jnp.sin(w @ v), lambda v: v, x
    ),
    'checkpoint': lambda x: jax.checkpoint(lambda v: jnp.sin(w @ v))(x),
  }
  for name, fn in hidden.items():
    want = np.cos(W / 10 @ POINT)
    for found in (rewrite(fn)(POINT), jax.jit(rewrite(fn))(POINT)):
      np.testing.assert_allclose(found, want, rtol=1e-5, err_msg=name)
  slope = jax.grad(lambda x: jnp.sum(jnp.sin(x) ** 2))
  # Of the derivative, 2 sin cos: the sine is one of its operations.
  np.testing.assert_allclose(
    rewrite(slope)(POINT), 2 * np.cos(POINT) ** 2, rtol=1e-5
  )


def test_a_function_without_these_operations_is_itself():
  marker = []

  def plain(x):
    marker.append(type(x))
    return jnp.exp(x)

  out = programs.rewrite(plain, RULES)(POINT)
  np.testing.assert_allclose(out, np.exp(POINT), rtol=1e-6)
  assert marker[-1] is np.ndarray  # It was called, and not what was traced.
  assert not programs._uses(jax.make_jaxpr(plain)(POINT), RULES)
  for inner in (jnp.sin, jax.jit(jnp.sin)):
    closed = jax.make_jaxpr(inner)(POINT)
    assert programs._uses(closed, RULES) and programs._uses(closed.jaxpr, RULES)
    assert programs._uses((1, (closed,)), RULES)
  assert not programs._uses((1, 'sin'), RULES)


def test_rules_for_derivatives_stay_when_rewritten():
  ruled = jax.custom_jvp(lambda x: jnp.exp(x))
  ruled.defjvp(lambda primals, tangents: (ruled(*primals), 7 * tangents[0]))
  fn = programs.rewrite(lambda x: jnp.sum(jnp.sin(x) + ruled(x)), RULES)
  np.testing.assert_allclose(jax.grad(fn)(POINT), -np.sin(POINT) + 7, rtol=1e-5)
  # A trace opens them.
  traced = programs.trace(lambda x: jnp.sum(ruled(x)), X)
  np.testing.assert_allclose(jax.grad(traced)(POINT), np.exp(POINT), rtol=1e-5)


def test_where_captured_arrays_lie_is_no_part_of_a_program():
  devices = jax.devices()
  mesh = jax.sharding.Mesh(np.array(devices[:2]), 'd')
  every = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
  lies = lambda v: jax.lax.with_sharding_constraint(v, every)
  assert program(lambda x: lies(x) * 2.0) is program(lambda x: x * 2.0)
  inner = lambda put: (
    lambda x: jax.lax.scan(lambda v, _: (put(v) * 2.0, 0), x, None, 2)[0]
  )
  assert program(inner(lies)) is program(inner(lambda v: v))


def test_what_has_none_of_the_operations_stays_the_same_object():
  jaxpr = jax.make_jaxpr(lambda x: jnp.sin(x) * 2)(POINT).jaxpr
  light = programs._rewritten_param(jaxpr, RULES)
  assert isinstance(light, core.Jaxpr) and light is not jaxpr
  assert light.eqns[0].primitive.name == 'cos'
  closed = jax.make_jaxpr(jnp.exp)(POINT)
  assert programs._rewritten_param(closed, RULES) is closed
  both = (closed, jax.make_jaxpr(jnp.sin)(POINT))
  new = programs._rewritten_param(both, RULES)
  assert new[0] is closed and new[1] is not both[1]
  same = (closed, 3)
  assert programs._rewritten_param(same, RULES) is same
