"""How units and classes belong together.

Units are numbers `[n]` (`som.flat`, or clusters of any kind), those below 0
none, which do not count.
"""

import numpy as np
from sklearn import metrics

from dmm_jax import som


def nmi(units: np.ndarray, labels: np.ndarray) -> float:
  """Returns `2 I(units; labels) / (H(units) + H(labels))`, in [0, 1].

  Normalized mutual information, also called symmetric uncertainty. Not
  corrected for chance: with as many units as codes it is far above 0.
  """
  known = units >= 0
  if not known.any():
    return float('nan')
  return float(
    metrics.normalized_mutual_info_score(labels[known], units[known])
  )


def purity(units: np.ndarray, labels: np.ndarray) -> float:
  """Returns the share of codes of the commonest class of their own unit.

  1 where every unit has one code: compare at equal numbers of units alone.
  """
  known = units >= 0
  if not known.any():
    return float('nan')
  table = metrics.cluster.contingency_matrix(labels[known], units[known])
  return float(table.max(axis=0).sum() / table.sum())


def majorities(
  units: np.ndarray, labels: np.ndarray, num_units: int
) -> np.ndarray:
  """Returns each unit's commonest class, integers `[num_units]`; -1 if none.

  The lowest of equally common ones.
  """
  known = (units >= 0) & (labels >= 0)
  num_classes = labels.max(initial=0) + 1
  counts = np.zeros((num_units, num_classes), int)
  np.add.at(counts, (units[known], labels[known]), 1)
  return np.where(counts.any(axis=1), counts.argmax(axis=1), -1)


def accuracy(
  units: np.ndarray, labels: np.ndarray, majorities: np.ndarray
) -> float:
  """Returns the share of codes whose unit's class is their own.

  Args:
    units, labels: of codes, best others than `majorities` were made of; labels
      may be a network's predictions.
    majorities: the class of each unit.

  Returns:
    A share; codes without a unit, or whose unit has no class, are wrong.
  """
  found = np.where(units >= 0, majorities[units], -1)
  return float(np.mean((found == labels) & (found >= 0)))


def dispersion(
  trained: som.Map, units: np.ndarray, labels: np.ndarray
) -> float:
  """Returns how spread classes are on a map, over how spread all codes are.

  The mean over classes of the mean distance, on the grid, of their codes' units
  from the middle of these; over the same with all codes as one class. 1 where
  classes lie anywhere, 0 where each has one unit. On a torus the middle is the
  circular mean along both sides.

  Args:
    trained: the map.
    units: row and column of codes' units, `[n, 2]`.
    labels: classes, integers `[n]`.

  Returns:
    A ratio; NaN where all codes share one unit, or none has any.
  """
  known = units[:, 0] >= 0
  units, labels = np.asarray(units)[known], np.asarray(labels)[known]
  if not len(units):
    return float('nan')
  where = som.coordinates(trained.grid, trained.topology)
  where = where[units[:, 0], units[:, 1]]
  spans = (
    som.spans(trained.grid, trained.topology) if trained.periodic else None
  )
  all_codes = _radius(where, spans)
  own = [_radius(where[labels == c], spans) for c in np.unique(labels)]
  return float(np.mean(own) / all_codes) if all_codes > 0 else float('nan')


def _radius(where, spans):
  """The mean distance of places `[m, 2]` from their middle."""
  if spans is None:
    return np.linalg.norm(where - where.mean(axis=0), axis=1).mean()
  angles = where / spans * 2 * np.pi
  middle = np.angle(np.exp(1j * angles).mean(axis=0)) / (2 * np.pi) * spans
  away = np.abs(where - middle) % spans
  return np.linalg.norm(np.minimum(away, spans - away), axis=1).mean()
