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

LogitsFn = Callable[[jax.Array], jax.Array]


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


def trace(logits_fn: LogitsFn, x: jax.Array | jax.ShapeDtypeStruct) -> Network:
  """Traces a network and its gradient, for inputs like `x`.

  The arrays that it captures are taken as they are now (`programs.trace`).

  Raises:
    TypeError, ValueError: for what is no network of one floating-point input.
  """
  check_callable(logits_fn)
  if not jnp.issubdtype(x.dtype, jnp.floating):
    raise TypeError(
      f'inputs must be floating point, got {x.dtype}: '
      'distances between integers are not defined; convert and rescale first'
    )
  shape = jax.ShapeDtypeStruct(x.shape, x.dtype)
  forward = programs.trace(logits_fn, shape)
  logits = jax.eval_shape(forward, shape)
  _check_logits(logits, x)
  structure = []

  def expand(x):
    logits, pull = jax.vjp(lambda v: logits_fn(v), x)
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


def _check_logits(logits, x):
  what = f'for one input {x.shape}, logits_fn must return one array of logits'
  if not isinstance(logits, jax.ShapeDtypeStruct):
    raise TypeError(
      f'{what} [k], k >= 2, but returned a {type(logits).__name__}; select the '
      'logits, for example lambda x: logits_fn(x)[0]'
    )
  if len(logits.shape) != 1 or logits.shape[0] < 2:
    raise ValueError(
      f'{what} [k], k >= 2, but returned shape {logits.shape}; for one output '
      'z return [z, 0], for a network of batches use '
      'lambda x: logits_fn(x[None])[0]'
    )
  if not jnp.issubdtype(logits.dtype, jnp.floating):
    raise TypeError(
      f'{what} of a floating-point dtype, but returned {logits.dtype} for an '
      f'input of {x.dtype}'
    )


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
