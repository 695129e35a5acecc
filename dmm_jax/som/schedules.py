"""Schedules of the neighbourhood's width and of the learning rate."""

import jax
import jax.numpy as jnp

SCHEDULES = ('linear', 'exponential', 'asymptotic')


def check(name: str) -> None:
  """Raise ValueError for an unknown schedule."""
  if name not in SCHEDULES:
    raise ValueError(f'schedule must be one of {SCHEDULES}, got {name!r}')


def values(name: str, start: float, end: float, num: int) -> jax.Array:
  """Return `num` values from `start` to `end`, `[num]`.

  'asymptotic' is MiniSom's `start / (1 + 2 t / num)`, which ignores `end`.
  """
  check(name)
  step = jnp.arange(num)
  if name == 'asymptotic':
    return start / (1 + 2 * step / num)
  share = step / max(num - 1, 1)
  if name == 'linear':
    return start + (end - start) * share
  return start * (end / start) ** share
