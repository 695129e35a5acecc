"""A network as boundary searches see it: traced logits and their gradients."""

from collections.abc import Callable
from collections.abc import Iterator
import contextlib
import dataclasses
import functools
import inspect
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dmm_jax import _xla_cpu
from dmm_jax import margins
from dmm_jax import programs

LogitsFn = Callable[[jax.Array], jax.Array]
Input = jax.Array | jax.ShapeDtypeStruct

# What makes a function of a module of these libraries, in `dmm_jax.interop`.
CONVERTERS = {
  'torch': 'from_torch(module)',
  'flax': 'from_flax(module, variables) or from_nnx(model)',
  'keras': 'from_keras(model)',
  'equinox': 'from_equinox(model)',
}
# Within this of 1 numbers in [0, 1] add up to it, if they are probabilities.
SUM_TOLERANCE = 1e-3


@functools.partial(
  jax.tree_util.register_dataclass,
  data_fields=['forward', 'expand', 'pull'],
  meta_fields=['num_classes', 'input_dtype', 'dtype', 'resolution'],
)
@dataclasses.dataclass(frozen=True)
class Network:
  """A traced network; a pytree whose leaves are its arrays.

  Attributes:
    forward: input -> logits.
    expand: input -> logits and what their gradient needs.
    pull: what `expand` kept and weights of the logits -> gradient.
    num_classes: k.
    input_dtype: what the network is given.
    dtype: of the geometry: that of the input, at least float32.
    resolution: of the logits, as in `margins.margin_with_tolerance`.
  """

  forward: programs.Traced
  expand: programs.Traced
  pull: programs.Traced
  num_classes: int
  input_dtype: np.dtype
  dtype: np.dtype
  resolution: float


def geometry_dtype(dtype: Any) -> np.dtype:
  """Returns the dtype in which distances of such inputs are computed."""
  return jnp.promote_types(dtype, jnp.float32)


def check_callable(logits_fn: Any) -> None:
  """Raises TypeError for what is no function, and says what it is."""
  if isinstance(logits_fn, tuple) and logits_fn and callable(logits_fn[0]):
    raise TypeError(
      'logits_fn is a pair, as interop.from_torch and its like return: take it '
      'apart, logits_fn, params = ..., and give boundary.measure params=params'
    )
  if not callable(logits_fn):
    raise TypeError(
      'logits_fn must be a function of one input, got '
      f'{type(logits_fn).__name__}'
    )


def with_params(logits_fn: Callable, params: Any) -> LogitsFn:
  """Returns a network of one input alone; params None: it is one already."""
  if params is None:
    return logits_fn
  # Numbers too are arguments of the program, not constants.
  number = lambda v: isinstance(v, float | np.generic)
  params = jax.tree.map(lambda v: jnp.asarray(v) if number(v) else v, params)
  return lambda x: logits_fn(params, x)


def trace(
  logits_fn: Callable,
  x: Input,
  params: Any = None,
  *,
  batch: tuple[int, ...] | None = None,
) -> Network:
  """Traces a network and its gradient, for inputs like `x`.

  The arrays that it captures are taken as they are now (`programs.trace`).

  Args:
    logits_fn: one input -> logits `[k]`, or `(params, input)` -> logits.
    x: an input, or its shape and dtype.
    params: None, or the first argument of `logits_fn`.
    batch: shape of the array of inputs whose first one `x` is; for errors.

  Raises:
    TypeError, ValueError: for what is no network of one floating-point input,
      or fails when it is called: from its error, with what it has to take,
      and a remedy where one is known.
  """
  check_callable(logits_fn)
  if not jnp.issubdtype(x.dtype, jnp.floating):
    raise TypeError(
      f'inputs must be floating point, got {x.dtype}: '
      'distances between integers are not defined; convert and rescale first'
    )
  shape = jax.ShapeDtypeStruct(x.shape, x.dtype)
  call = with_params(logits_fn, params)
  with _explained(logits_fn, shape, params, batch):
    forward = programs.trace(call, shape)
  logits = jax.eval_shape(forward, shape)
  _check_logits(logits, x, lambda: _other_shape(call, shape, params, batch))
  structure = []

  def expand(x):
    logits, pull = jax.vjp(lambda v: call(v), x)
    kept, tree = jax.tree.flatten(pull)
    structure.append(tree)
    return logits, kept

  traced = programs.trace(expand, shape)
  _, kept = jax.eval_shape(traced, shape)

  def pull(kept, weights):
    return structure[0].unflatten(kept)(weights)[0]

  pull = _xla_cpu.channels_last_gradients(pull)
  return Network(
    forward,
    traced,
    programs.trace(pull, kept, logits),
    logits.size,
    np.dtype(x.dtype),
    np.dtype(geometry_dtype(x.dtype)),
    max(map(margins.dtype_resolution, (logits.dtype, x.dtype))),
  )


def check(
  logits_fn: Callable, x: Input, params: Any = None
) -> jax.ShapeDtypeStruct:
  """Returns shape and dtype of a network's logits at an input like `x`.

  Args, raises: as of `trace`, which makes the same checks.
  """
  check_callable(logits_fn)
  shape = jax.ShapeDtypeStruct(x.shape, x.dtype)
  call = with_params(logits_fn, params)
  with _explained(logits_fn, shape, params, None):
    logits = jax.eval_shape(call, shape)
  _check_logits(logits, x, lambda: _other_shape(call, shape, params, None))
  return logits


@contextlib.contextmanager
def _explained(
  logits_fn: Callable,
  x: jax.ShapeDtypeStruct,
  params: Any,
  batch: tuple[int, ...] | None,
) -> Iterator[None]:
  """Says what a network has to take, and what to do, where its call fails."""
  try:
    yield
  except Exception as error:  # Networks raise what they like.
    said = str(error).strip().split('\n')[0].rstrip('.')
    given = 'one input' if params is None else 'params and one input'
    example = '' if batch is None else ', as xs[0] is'
    remedy = _remedy(logits_fn, x, params, batch, error)
    kind = TypeError if isinstance(error, TypeError) else ValueError
    raise kind(
      f'logits_fn must take {given}, here of shape {x.shape}{example}, and '
      f'return its logits [k]. {remedy}{". " if remedy else ""}It raised '
      f'{type(error).__name__}: {said}'
    ) from error


def _remedy(logits_fn, x, params, batch, error):
  """What to do about a network that failed, or ''."""
  name = type(logits_fn).__name__
  if of := _library(base.__module__ for base in type(logits_fn).__mro__):
    return (
      f'It is a {name} of {of}: interop.{CONVERTERS[of]} returns '
      '(logits_fn, params)'
    )
  if remedy := _other_arguments(logits_fn, params):
    return remedy
  call = with_params(logits_fn, params)
  if remedy := _other_shape(call, x, params, batch):
    return remedy
  if _library(_modules_of(error)) == 'torch':
    return (
      'It calls PyTorch, which JAX does not trace: '
      f'interop.{CONVERTERS["torch"]} returns (logits_fn, params)'
    )
  untraced = (
    jax.errors.ConcretizationTypeError,
    jax.errors.TracerArrayConversionError,
    jax.errors.TracerIntegerConversionError,
  )
  if isinstance(error, untraced):
    return (
      'It needs the numbers of its input, which JAX does not have while it '
      'traces: write it in jax.numpy, with jnp.where or jax.lax.cond for if'
    )
  return ''


def _other_arguments(logits_fn, params):
  """What to do about a function of more or fewer arguments, or ''."""
  try:
    signature = inspect.signature(logits_fn)
  except (TypeError, ValueError):
    return ''
  takes = lambda *args: _succeeds(lambda: signature.bind(*args))
  wanted = (0,) if params is None else (0, 0)
  if takes(*wanted):
    return ''
  if takes():
    return 'It takes no argument: call it, and give what it returns'
  if params is not None and takes(0):
    return (
      'It takes one argument, but params were given: leave params out, or make '
      'it a function of (params, x)'
    )
  names = [
    name
    for name, one in signature.parameters.items()
    if one.default is one.empty and one.kind not in (one.VAR_POSITIONAL,
                                                     one.VAR_KEYWORD)
  ]  # fmt: skip
  return (
    f'It takes ({", ".join(names)}): give a function of x alone, or one of '
    '(params, x) and params=params'
  )


def _other_shape(call, x, params, batch):
  """What to do about a function that returns logits of another shape, or ''."""
  one = 'x' if params is None else 'params, x'
  batched = one.replace('x', 'x[None]')
  wrapped = f'lambda {one}: logits_fn({batched})[0]'
  whole = 'The array that was given is itself one input'
  tried = [
    ((1, *x.shape), 2, f'It takes a batch of inputs: give {wrapped}'),
    (x.shape[1:], 1, f'It takes an input of shape {x.shape[1:]}: x has an axis '
     'too many, as a batch has; boundary.measure takes a batch xs'),
  ]  # fmt: skip
  if batch is not None:
    tried = [
      (batch, 1, f'{whole}: give xs[None]'),
      tried[0],
      ((1, *batch), 2, f'{whole}, and logits_fn takes a batch: give xs[None], '
       f'and {wrapped}'),
      (x.shape[1:], 1, 'It takes an input of shape '
       f'{x.shape[1:]}: xs {batch} has an axis too many'),
    ]  # fmt: skip
  for shape, axes, remedy in tried:
    if shape != x.shape and _returns_logits(call, shape, x.dtype, axes):
      return remedy
  return ''


def _returns_logits(call, shape, dtype, axes):
  """Whether inputs of a shape give logits `[k]`, or of a batch of one."""
  found = []
  x = jax.ShapeDtypeStruct(shape, dtype)
  if not _succeeds(lambda: found.append(jax.eval_shape(call, x))):
    return False
  shape = getattr(found[0], 'shape', ())
  return len(shape) == axes and shape[-1] >= 2 and shape[:-1] in ((), (1,))


def _succeeds(call):
  try:
    call()
  except Exception:  # Networks raise what they like.
    return False
  return True


def _library(modules):
  """The first library of `CONVERTERS` among names of modules, or ''."""
  names = (name.split('.')[0] for name in modules)
  return next((name for name in names if name in CONVERTERS), '')


def _modules_of(error):
  """Names of the modules that an error passed through."""
  step = error.__traceback__
  while step is not None:
    yield step.tb_frame.f_globals.get('__name__', '')
    step = step.tb_next


def _check_logits(logits, x, other_shape):
  what = f'for one input {x.shape}, logits_fn must return one array of logits'
  if not isinstance(logits, jax.ShapeDtypeStruct):
    raise TypeError(
      f'{what} [k], k >= 2, but returned a {type(logits).__name__}; select the '
      'logits, for example lambda x: logits_fn(x)[0]'
    )
  if len(logits.shape) != 1 or logits.shape[0] < 2:
    remedy = other_shape() or (
      'for one output z return [z, 0], for a network of batches use '
      'lambda x: logits_fn(x[None])[0]'
    )
    remedy = remedy[0].lower() + remedy[1:]
    raise ValueError(
      f'{what} [k], k >= 2, but returned shape {logits.shape}; {remedy}'
    )
  if not jnp.issubdtype(logits.dtype, jnp.floating):
    raise TypeError(
      f'{what} of a floating-point dtype, but returned {logits.dtype} for an '
      f'input of {x.dtype}'
    )


def are_probabilities(logits: Any, resolution: float = 0.0) -> Any:
  """Returns whether logits are rather probabilities, as a softmax returns.

  Args:
    logits: `[..., k]`, of numpy or JAX.
    resolution: of the numbers, relative to 1.

  Returns:
    Booleans `[...]`: all k lie in [0, 1], and they add up to 1, within
    `SUM_TOLERANCE` or the resolution.
  """
  inside = ((logits >= 0) & (logits <= 1)).all(-1)
  gap = abs(logits.sum(-1) - 1)
  return inside & (gap <= max(SUM_TOLERANCE, resolution))


def logits(network: Network, x: jax.Array) -> jax.Array:
  """Returns the logits `[k]` of one input, in the dtype of the geometry."""
  return network.forward(x.astype(network.input_dtype)).astype(network.dtype)


def logits_and_pull(
  network: Network, x: jax.Array
) -> tuple[jax.Array, Callable[[jax.Array], jax.Array]]:
  """Returns the logits, and weights `[k]` -> gradient of their weighted sum."""
  value, kept = network.expand(x.astype(network.input_dtype))

  def pull(weights):
    gradient = network.pull(kept, weights.astype(value.dtype))
    return gradient.astype(network.dtype)

  return value.astype(network.dtype), pull
