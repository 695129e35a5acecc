"""A network as boundary searches see it: traced logits and their gradients."""

from collections.abc import Callable
import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dmm_jax import _xla_cpu
from dmm_jax import margins
from dmm_jax import programs
from dmm_jax.boundary import failures

LogitsFn = Callable[[jax.Array], jax.Array]
Input = jax.Array | jax.ShapeDtypeStruct

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
  with failures.explained(logits_fn, call, shape, params, batch):
    forward = programs.trace(call, shape)
  logits = jax.eval_shape(forward, shape)
  _check_logits(
    logits, x, lambda: failures.other_shape(call, shape, params, batch)
  )
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
  with failures.explained(logits_fn, call, shape, params, None):
    logits = jax.eval_shape(call, shape)
  _check_logits(
    logits, x, lambda: failures.other_shape(call, shape, params, None)
  )
  return logits


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
