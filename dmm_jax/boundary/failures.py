"""What a network's first call has to be told where it fails: what to do."""

from collections.abc import Callable
from collections.abc import Iterator
import contextlib
import inspect
from typing import Any

import jax

# What makes a function of a module of these libraries, in `dmm_jax.interop`.
CONVERTERS = {
  'torch': 'from_torch(module)',
  'flax': 'from_flax(module, variables) or from_nnx(model)',
  'keras': 'from_keras(model)',
  'equinox': 'from_equinox(model)',
}


@contextlib.contextmanager
def explained(
  logits_fn: Callable,
  call: Callable,
  x: jax.ShapeDtypeStruct,
  params: Any,
  batch: tuple[int, ...] | None,
) -> Iterator[None]:
  """Says what a network has to take, and what to do, where its call fails.

  Args:
    logits_fn: as it was given.
    call: the same, of one input alone.
    x: shape and dtype of the input.
    params: None, or the first argument of `logits_fn`.
    batch: shape of the array of inputs whose first one `x` is, or None.

  Raises:
    TypeError, ValueError: from any error within.
  """
  try:
    yield
  except Exception as error:  # Networks raise what they like.
    said = str(error).strip().split('\n')[0].rstrip('.')
    given = 'one input' if params is None else 'params and one input'
    example = '' if batch is None else ', as xs[0] is'
    remedy = _remedy(logits_fn, call, x, params, batch, error)
    kind = TypeError if isinstance(error, TypeError) else ValueError
    raise kind(
      f'logits_fn must take {given}, here of shape {x.shape}{example}, and '
      f'return its logits [k]. {remedy}{". " if remedy else ""}It raised '
      f'{type(error).__name__}: {said}'
    ) from error


def _remedy(logits_fn, call, x, params, batch, error):
  """What to do about a network that failed, or ''."""
  name = type(logits_fn).__name__
  if of := _library(base.__module__ for base in type(logits_fn).__mro__):
    return (
      f'It is a {name} of {of}: interop.{CONVERTERS[of]} returns '
      '(logits_fn, params)'
    )
  if remedy := _other_arguments(logits_fn, params):
    return remedy
  if remedy := other_shape(call, x, params, batch):
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


def other_shape(
  call: Callable,
  x: jax.ShapeDtypeStruct,
  params: Any,
  batch: tuple[int, ...] | None,
) -> str:
  """Returns what to do where inputs of another shape give logits, or ''.

  Arguments as for `explained`.
  """
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
