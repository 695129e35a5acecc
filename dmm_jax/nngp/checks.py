"""Checks of what the functions of `nngp` are given, and arrays in float64."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
import numpy as np


def as_double(x: ArrayLike, name: str = 'inputs') -> jax.Array:
  """Returns an array in float64, if its numbers are finite.

  For use within `gradients.double_precision`.
  """
  return jnp.asarray(check_finite(x, name))


def check_finite(x: ArrayLike, name: str = 'inputs') -> np.ndarray:
  """Returns an array of the host in float64, if its numbers are finite."""
  array = np.asarray(x, np.float64)
  wrong = array.size - np.count_nonzero(np.isfinite(array))
  if wrong or not array.size:
    share = f' of which {wrong} of {array.size} are NaN or infinite'
    raise ValueError(
      f'{name} must be finite numbers, at least one, got an array of shape '
      f'{array.shape}{share if wrong else ""}; leave such inputs out'
    )
  return array


def check_norm(norm: float, bounds: tuple | None = None) -> None:
  """Raises ValueError unless p >= 1, or 0 where a box has two finite ends."""
  if norm == 0 and bounds is not None:
    if np.all(np.isfinite(bounds)):
      return
    raise ValueError(f'norm 0 needs two finite bounds, got {bounds!r}')
  if not norm >= 1:
    raise ValueError(
      f'norm must be a number p >= 1 or inf, of an l^p norm, got {norm!r}'
    )


def check_radius(radius: ArrayLike) -> np.ndarray:
  """Returns radii in float64, if none is NaN or negative."""
  array = np.asarray(radius, np.float64)
  if not np.all(array >= 0):
    raise ValueError(
      f'radius must be 0 or larger, got {np.min(array):g} (NaN counts)'
    )
  return array
