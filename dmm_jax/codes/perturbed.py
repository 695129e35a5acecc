"""What attacks and noise do on the maps of layers."""

from collections.abc import Mapping

import jax.numpy as jnp
import numpy as np
from sklearn import metrics

from dmm_jax import statistics
from dmm_jax.codes import maps as maps_lib
from dmm_jax.codes import shifts


def class_separation(
  maps: maps_lib.LayerMaps,
  codes: Mapping[str, np.ndarray],
  labels: np.ndarray,
  noisy: Mapping[str, np.ndarray],
) -> np.ndarray:
  """Returns how far codes' units are from those of other classes `[L, n]`.

  The distance of the unit's code from that of the nearest unit whose commonest
  class is not the label, over the mean distance that noise moves codes.

  Args:
    maps: of the layers.
    codes, labels: by layer `[n, d]`, and their classes `[n]`.
    noisy: codes of the same inputs under noise.

  Returns:
    `[L, n]`; inf where no unit is of another class; NaN without a unit, and
    where noise moves no code: a layer that has died.
  """
  clean, moved = (maps_lib.scale(maps, v) for v in (codes, noisy))
  units, found = maps_lib.place(maps, codes), []
  for number, name in enumerate(maps.layers):
    own, at = maps.layer(name).units, units[number]
    away, _ = shifts.nearest_other_class(
      own[jnp.maximum(at, 0)],
      jnp.asarray(labels),
      own,
      jnp.asarray(maps.classes[number]),
    )
    size = np.linalg.norm(moved[number] - clean[number], axis=1).mean()
    known = (at >= 0) & (size > 0)
    found.append(np.where(known, away / (size or 1.0), np.nan))
  return np.array(found)


def crowding(
  separation: np.ndarray, distance: np.ndarray, margin: np.ndarray
) -> np.ndarray:
  """Returns how separation goes with distance to the boundary `[L]`.

  The partial rank correlation over inputs, given the margin of the logits:
  inputs with a small margin are near to the boundary and to other classes.

  Args:
    separation: of codes by layer `[L, n]`, as of `class_separation`; inputs
      where it is NaN do not count.
    distance, margin: of the inputs `[n]`.

  Returns:
    `[L]`, NaN where fewer than 4 inputs count.
  """
  found = []
  for of_layer in separation:
    known = ~np.isnan(of_layer)
    columns = (v[known] for v in (distance, of_layer, margin))
    enough = known.sum() > 3
    found.append(statistics.partial_rank(*columns) if enough else np.nan)
  return np.array(found)


def agreement(
  maps: maps_lib.LayerMaps,
  units: np.ndarray,
  predicted: np.ndarray,
  labels: np.ndarray,
) -> dict[str, np.ndarray]:
  """Returns whether units are of predicted classes, a column `[L]` each.

  agreement: share of codes whose unit's commonest class is the predicted one;
  lean: among wrongly classified ones, that share less the share of those whose
  unit is of the right class; NaN without such codes.

  Args:
    maps: of the layers.
    units: `[L, n]`, as of `place`.
    predicted, labels: classes `[n]`.
  """
  found = _classes_at(maps, units)
  wrong = predicted != labels
  lean = np.full(len(units), np.nan)
  if wrong.any():
    share = lambda classes: np.mean(found[:, wrong] == classes[wrong], axis=1)
    lean = share(predicted) - share(labels)
  return {'agreement': np.mean(found == predicted, axis=1), 'lean': lean}


def attack_statistics(
  maps: maps_lib.LayerMaps,
  before: np.ndarray,
  after: np.ndarray,
  noisy: np.ndarray,
  *,
  predicted: np.ndarray,
  predicted_noisy: np.ndarray,
  wrong: np.ndarray,
) -> dict[str, np.ndarray]:
  """Returns what an attack and noise do to n inputs, a column `[L]` each.

  shift, noise_shift: mean distance on the grid; hit, noise_hit: share of the
  fooled inputs that lie on a unit of the class that the attack leads to; auroc,
  noise_auroc: of telling them from clean inputs by `class_uncertainty` of the
  class that is then predicted. Those of noise are of the same inputs. NaN where
  none is fooled.

  Args:
    maps: of the layers.
    before, after, noisy: units `[L, n]`, as of `place`.
    predicted, predicted_noisy: classes of clean and of noisy inputs `[n]`.
    wrong: classes that the attack leads to; fooled are those that it changes.
  """
  fooled = wrong != predicted
  doubt = lambda units, classes: maps_lib.class_uncertainty(
    maps, units, classes
  )
  clean = doubt(before, predicted)
  found: dict[str, np.ndarray] = {}
  for name, units, classes in (
    ('', after, wrong),
    ('noise_', noisy, predicted_noisy),
  ):
    away = maps_lib.unit_distance(maps.trained, before, units)
    hit = _classes_at(maps, units)[:, fooled] == wrong[fooled]
    tell = doubt(units, classes)[:, fooled]
    none = np.full(len(units), np.nan)
    found |= {
      f'{name}shift': np.nanmean(away, axis=1),
      f'{name}hit': hit.mean(axis=1) if fooled.any() else none,
      f'{name}auroc': np.array(
        [_auroc(yes, no) for yes, no in zip(tell, clean, strict=True)]
      ),
    }
  return found


def _classes_at(maps, units):
  """Commonest classes of units `[L, n]`; -1 for no unit."""
  found = np.take_along_axis(maps.classes, np.maximum(units, 0), axis=1)
  return np.where(units < 0, -1, found)


def _auroc(yes, no):
  """Of a detector that is larger for `yes`; NaN where one is empty."""
  if not len(yes) or not len(no):
    return np.nan
  truth = np.r_[np.ones(len(yes)), np.zeros(len(no))]
  return float(metrics.roc_auc_score(truth, np.r_[yes, no]))
