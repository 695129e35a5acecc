"""How the neighbourhood's width and the learning rate fall."""

import jax
import jax.numpy as jnp

SCHEDULES = ('linear', 'exponential', 'asymptotic')


def values(name: str, start: float, end: float, num: int) -> jax.Array:
  """Returns `num` values from `start` to `end`, `[num]`.

  'asymptotic' is MiniSom's `start / (1 + 2 t / num)`, whatever `end` is.
  """
  if name not in SCHEDULES:
    raise ValueError(f'schedule: one of {SCHEDULES}, not {name!r}')
  step = jnp.arange(num)
  if name == 'asymptotic':
    return start / (1 + 2 * step / num)
  share = step / max(num - 1, 1)
  if name == 'linear':
    return start + (end - start) * share
  return start * (end / start) ** share
