"""Margins: by how much a class leads the others."""

import jax
import jax.numpy as jnp


def runner_up(logits: jax.Array, label: jax.Array) -> jax.Array:
  """Returns the class, other than `label`, with the largest logit [k >= 2]."""
  return jnp.argmax(_without(logits, label)).astype(jnp.int32)


def margin(logits: jax.Array, label: jax.Array) -> jax.Array:
  """Returns the logit of `label` minus the largest other one.

  Positive inside the region of `label`, 0 on the decision boundary, NaN where
  a logit is NaN. In the units of the logits.
  """
  return logits[label] - jnp.max(_without(logits, label))


def margin_with_tolerance(
  logits: jax.Array, label: jax.Array, resolution: float | None = None
) -> jax.Array:
  """Returns the margin plus what rounding may do to it.

  Negative only where another class leads by more than `resolution` of the
  larger of the two logits that meet, so that the class differs at any batch
  size and under any compilation: what boundary searches take for the far side.
  Other classes, however low or high their logits are, do not matter.

  Args:
    logits: `[k]`.
    label: the class whose margin is meant.
    resolution: relative to these logits; None for that of their dtype.
  """
  if resolution is None:
    resolution = dtype_resolution(logits.dtype)
  others = _without(logits, label)
  first, second = logits[label], jnp.max(others)
  size = jnp.maximum(jnp.abs(first), jnp.abs(second))
  return first - second + resolution * size


def dtype_resolution(dtype: jnp.dtype) -> float:
  """Returns how far, relative to a logit, rounding may move it.

  8 units of rounding of float32 and float64 (9.5e-7 and 1.8e-15), whose sums
  round otherwise in another program; one unit of half precision (9.8e-4 for
  float16, 7.8e-3 for bfloat16), whose sums are taken in float32.
  """
  info = jnp.finfo(dtype)
  return float(info.eps) * (8 if info.bits > 16 else 1)


def _without(logits, label):
  return jnp.where(jnp.arange(logits.size) == label, -jnp.inf, logits)
