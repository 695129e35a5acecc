"""Distances from the boundary with what has to be known of them.

One example in, one result out (`examine`), and what columns of such results
say (`describe`, `ratio_of_medians`).
"""

from collections.abc import Callable

import jax
import numpy as np

from dmm_jax import boundary
from dmm_jax import margins
from dmm_jax import normals
from dmm_jax import statistics

QUANTILES = (5, 25, 50, 75, 95)
FIELDS = 'distance target status gradients forwards point'.split()


def examine(
  logits_fn: Callable,
  x: jax.Array,
  label: jax.Array,
  *,
  norm: float,
  bounds: tuple | None,
  method: str,
  max_gradients: int,
) -> dict[str, jax.Array]:
  """Returns the distance of one example, and how its nearest point lies.

  Args:
    logits_fn, x, norm, bounds, method, max_gradients: as for
      `boundary.nearest_point`.
    label: its class; below 0 for the network's own prediction.

  Returns:
    Of `boundary.BoundaryPoint` the `FIELDS`, and its margin as
    `margin_at_point`; `label`, `predicted` and `margin` at the input; and
    `normals.alignment` with the bounds (`alignment`) and without them
    (`alignment_unboxed`).
  """
  logits = logits_fn(x)
  predicted = logits.argmax().astype(label.dtype)
  label = jax.lax.select(label < 0, predicted, label)
  found = boundary.nearest_point(
    logits_fn,
    x,
    label,
    norm=norm,
    bounds=bounds,
    method=method,
    max_gradients=max_gradients,
  )
  align = lambda box: normals.alignment(
    found.point - x, found.normal, x, norm=norm, bounds=box
  )
  return {
    'label': label,
    'predicted': predicted,
    'margin': margins.margin(logits, label),
    'alignment': align(bounds),
    'alignment_unboxed': align(None),
    'margin_at_point': found.margin,
    **{name: getattr(found, name) for name in FIELDS},
  }


def describe(found: dict[str, np.ndarray]) -> dict:
  """Returns what the columns of one network, or of several draws, say.

  Args:
    found: results of `examine` in one norm, one draw of the network after the
      other on the same examples, with columns `network`, `draw`, `norm` and
      `lower`, a certified lower bound or NaN.

  Returns:
    Shares and quantiles of the distance as entries (see `statistics`), over
    examples; the median of each draw (`by_draw`), medians of alignments and of
    `lower` over distance where a point was found, mean costs.
  """
  distance = _by_example(found)
  there = found['status'] == boundary.Status.FOUND
  wrong = found['status'] == boundary.Status.MISCLASSIFIED
  ratio = found['lower'][there] / found['distance'][there]
  return {
    'network': str(found['network'][0]),
    'norm': str(float(found['norm'][0])),
    'n': distance.size,
    'examples': len(distance),
    'draws': distance.shape[1],
    'misclassified': statistics.proportion(wrong),
    'not_found': statistics.proportion(np.isinf(found['distance'])),
    'quantiles': {
      str(q): statistics.estimate(statistics.quantile(q), distance)
      for q in QUANTILES
    },
    'by_draw': [float(v) for v in _median(distance.T[:, :, None])],
    'alignment': _middle(found['alignment'][there]),
    'alignment_unboxed': _middle(found['alignment_unboxed'][there]),
    'gradients': float(np.mean(found['gradients'])),
    'forwards': float(np.mean(found['forwards'])),
    'lower_over_distance': _middle(ratio),
    # Must be 0: a bound above a point that was seen.
    'lower_violations': int(np.sum(ratio > 1 + 1e-4)),
  }


def ratio_of_medians(found: dict, null: dict) -> dict:
  """Returns the ratio of two networks' medians, on the same examples.

  Args:
    found, null: as for `describe`; the first of one draw.

  Returns:
    An entry: value and interval, over examples.
  """

  def ratio(values):
    # Infinite medians, where most searches failed, have no ratio: NaN.
    with np.errstate(divide='ignore', invalid='ignore'):
      return _median(values[..., :1]) / _median(values[..., 1:])

  both = np.concatenate([_by_example(found), _by_example(null)], axis=1)
  return statistics.estimate(ratio, both)


def _by_example(found):
  """`[examples, draws]`: the distances of one example stay together."""
  return found['distance'].reshape(found['draw'].max() + 1, -1).T


_median = statistics.quantile(50)


def _middle(values):
  """The median of what is finite; NaN if nothing is."""
  values = values[np.isfinite(values)]
  return float(np.median(values)) if len(values) else float('nan')
