"""Checks of what `fit` is given, once, before anything is compiled."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dmm_jax import data
from dmm_jax.train import adversarial
from dmm_jax.train import config as config_lib
from dmm_jax.train import losses

_IMAGE_LOSSES = ('reconstruction', 'evidence')
# How far the sum of a row of probabilities may be from 1.
_SUM_TOLERANCE = 1e-3


def check_key(key: jax.Array) -> None:
  """Raises unless `key` is one typed key, or an array `[m]` of them."""
  dtype = getattr(key, 'dtype', None)
  typed = dtype is not None and jnp.issubdtype(dtype, jax.dtypes.prng_key)
  if not typed or key.ndim > 1:
    raise TypeError(
      'key must be one key of jax.random.key, or [m] of them for m networks, '
      f'got {dtype if dtype is not None else type(key).__name__} of shape '
      f'{np.shape(key)}'
    )


def columns(
  xs: Any, targets: Any, weights: Any, data_axes: tuple, many: int | None
) -> tuple[tuple, tuple, int]:
  """Returns what `fit` trains on, if it has one row an example.

  Args:
    xs, targets, weights, data_axes: as for `fit`.
    many: how many networks train at once; None for a single one.

  Returns:
    `((inputs, targets, weights), data_axes, number of examples)`. Axes are all
    None for a single network.
  """
  axes = tuple(data_axes)
  if len(axes) != 3 or any(axis not in (None, 0) for axis in axes):
    raise ValueError(
      'data_axes must be three of None or 0, for inputs, targets and weights, '
      f'got {data_axes!r}'
    )
  axes = (None,) * 3 if many is None else axes
  xs = _array(xs)
  num = _num_rows(xs, 'inputs', axes[0], many)
  if not num:
    raise ValueError(
      f'inputs must hold at least one example, got shape {xs.shape}'
    )
  if not jnp.issubdtype(xs.dtype, jnp.floating):
    raise TypeError(
      f'inputs must be floating point, got {xs.dtype}; for pixels pass '
      'xs / 255 in float32'
    )
  if weights is None:
    weights, axes = np.ones(num, np.float32), (*axes[:2], None)
  table = xs, _array(targets), _array(weights)
  for column, name, axis in zip(
    table[1:], ('targets', 'weights'), axes[1:], strict=True
  ):
    rows = _num_rows(column, name, axis, many)
    if rows != num:
      raise ValueError(
        f'{name} must have one row for each of {num} inputs, got {rows} rows'
      )
  _check_weights(table[2], int(axes[2] == 0))
  return table, axes, num


def _array(column):
  """An array on the host or on devices, or a `data.Column`."""
  if isinstance(column, data.Column | jax.Array):
    return column
  return np.asarray(column)


def _num_rows(column, name, axis, many):
  own = int(axis == 0)
  if column.ndim <= own or (own and column.shape[0] != many):
    wanted = f'[{many}, n, ...], as data_axes says,' if own else '[n, ...]'
    raise ValueError(f'{name} must have shape {wanted} got {column.shape}')
  return column.shape[own]


def _check_weights(weights, own):
  if weights.ndim != 1 + own:
    raise ValueError(
      f'weights must be one number an example, got shape {weights.shape}'
    )
  if not _is_number(weights.dtype):
    raise TypeError(f'weights must be numbers, got {weights.dtype}')
  low, high = _range(weights)
  # A network whose weights are all 0 has no loss: 0 / 0.
  least = _range(weights.sum(-1))[0] if np.isfinite(high) else high
  if not (low >= 0 and np.isfinite(high) and least > 0):
    raise ValueError(
      'weights must be finite and not negative, and not all 0, got weights '
      f'from {low:g} to {high:g}'
    )


def check_targets(
  targets: Any, config: config_lib.TrainConfig, outputs: Any, own: bool
) -> None:
  """Raises unless targets are what the loss compares with the outputs.

  Args:
    targets: `[n, ...]`, or `[m, n, ...]` where each network has its own.
    config: names the loss.
    outputs: shapes of the network's outputs for one example.
    own: whether each network has its own targets.
  """
  config_lib.choice(losses.LOSSES, config.loss, 'loss')
  if not _is_number(targets.dtype):
    raise TypeError(f'targets must be numbers, got {targets.dtype}')
  rows, shape = targets.shape[: 1 + own], targets.shape[1 + own :]
  first = outputs[0].shape
  if config.loss in _IMAGE_LOSSES:
    _check_images(targets, config.loss, shape, first)
    return
  least = 1 if config.loss == 'squared' and len(shape) == 1 else 2
  if len(first) != 1 or first[0] < least:
    raise ValueError(
      f'the loss {config.loss!r} needs a network that returns logits [k] of at '
      f'least {least} classes, got outputs of shape {first}'
    )
  if shape == first and config.loss != 'hinge':
    _check_probabilities(targets, config.loss)
    return
  if shape and shape != (1,):
    also = '' if config.loss == 'hinge' else f', or vectors of shape {first}'
    raise ValueError(
      f'targets of the loss {config.loss!r} must be labels, one class number '
      f'an example{also}; got an array of shape {shape} an example'
    )
  data.check_labels(targets, rows, first[0])


def _check_images(targets, loss, shape, wanted):
  if shape != wanted:
    raise ValueError(
      f'targets of the loss {loss!r} must have the shape of what the network '
      f'returns, {wanted}, got {shape}'
    )
  if not jnp.issubdtype(targets.dtype, jnp.floating):
    raise TypeError(
      f'targets of the loss {loss!r} must be floating point, got '
      f'{targets.dtype}; for pixels pass targets / 255 in float32'
    )
  _check_finite(targets)


def _check_probabilities(targets, loss):
  _check_finite(targets)
  if loss != 'cross_entropy' or isinstance(targets, data.Column):
    return
  low, _ = _range(targets)
  least, most = _range(targets.sum(-1, dtype=np.float32))
  floating = jnp.issubdtype(targets.dtype, jnp.floating)
  resolution = 2 * float(jnp.finfo(targets.dtype).eps) if floating else 0.0
  if low < 0 or max(1 - least, most - 1) > max(_SUM_TOLERANCE, resolution):
    raise ValueError(
      'targets [n, k] of the cross entropy must be class probabilities, not '
      f'negative and of sum 1, got numbers from {low:g} and sums from '
      f'{least:g} to {most:g}; for labels pass class numbers [n]'
    )


def _check_finite(targets):
  # What lies on disk is not read twice.
  if isinstance(targets, data.Column):
    return
  if not np.all(np.isfinite(_range(targets))):
    raise ValueError('targets must be finite, got NaN or infinite ones')


def check_adversary(xs: Any, adversary: adversarial.Adversary | None) -> None:
  """Raises unless inputs lie in the range that an adversary keeps them in.

  Not for a `data.Column`, whose images are in [0, 1] and are not read twice.
  """
  if adversary is None:
    return
  adversarial.check(adversary)
  if isinstance(xs, data.Column):
    return
  low, high = _range(xs)
  ends = [abs(v) for v in (adversary.low, adversary.high) if np.isfinite(v)]
  rounding = 8 * float(jnp.finfo(xs.dtype).eps) * max([1.0, *ends])
  if low < adversary.low - rounding or high > adversary.high + rounding:
    raise ValueError(
      f'inputs must lie in the range of the adversary, from low='
      f'{adversary.low:g} to high={adversary.high:g}, got inputs from {low:g} '
      f'to {high:g}; give the adversary the range of the inputs, for '
      'standardised pixels (0 - mean) / deviation and (1 - mean) / deviation'
    )


def _is_number(dtype):
  return any(jnp.issubdtype(dtype, kind) for kind in (jnp.number, jnp.bool_))


def _range(values):
  """Returns the least and the largest of an array; NaN if one is."""
  return float(values.min()), float(values.max())
