"""Segments between samples of different class, for all networks the same."""

from typing import NamedTuple

import numpy as np
from sklearn import metrics

KINDS = ('train', 'test', 'near')


class Pairs(NamedTuple):
  """Segments between samples of different class, one an entry.

  Attributes:
    kind: 'train' and 'test' are drawn; 'near' are training samples and the
      nearest ones of another class.
    rows: of the ends in the kind's set `[p, 2]`.
    place: a random fraction of the way.
  """

  kind: np.ndarray
  rows: np.ndarray
  place: np.ndarray


def draw(config, sets) -> Pairs:
  """--num_pairs of each set, and a third as many nearest ones."""
  rng = np.random.default_rng(config.seed)
  kinds, rows = [], []
  for kind in ('train', 'test'):
    labels = sets[kind][1]
    both = rng.integers(0, len(labels), (30 * config.num_pairs, 2))
    apart = labels[both[:, 0]] != labels[both[:, 1]]
    rows.append(both[apart][: config.num_pairs])
    kinds += [kind] * len(rows[-1])
  xs, labels = sets['train']
  chosen = rng.permutation(len(xs))[: config.num_pairs // 3]
  rows.append(np.stack([chosen, nearest_other(xs, labels, chosen)], 1))
  kinds += ['near'] * len(chosen)
  place = rng.uniform(size=len(kinds)).astype(np.float32)
  return Pairs(np.array(kinds), np.concatenate(rows).astype(np.int32), place)


def nearest_other(xs, labels, chosen):
  """Rows of the nearest samples of another class."""
  flat = xs.reshape(len(xs), -1)
  found = np.zeros(len(chosen), int)
  for c in np.unique(labels[chosen]):
    mine, others = labels[chosen] == c, np.flatnonzero(labels != c)
    place = metrics.pairwise_distances_argmin(flat[chosen[mine]], flat[others])
    found[mine] = others[place]
  return found


def ends(pairs: Pairs, sets) -> list[np.ndarray]:
  """Inputs of the two ends `[p, ...]` each."""
  inputs = []
  for side in (0, 1):
    parts = [
      sets['test' if kind == 'test' else 'train'][0][
        pairs.rows[pairs.kind == kind, side]
      ]
      for kind in ('train', 'test', 'near')
    ]
    inputs.append(np.concatenate(parts))
  return inputs


def labels(pairs: Pairs, sets, given) -> np.ndarray:
  """Labels of the ends `[p, 2]`; `given` are those of the training set."""
  of_test = (pairs.kind == 'test')[:, None]
  test = sets['test'][1]
  return np.where(
    of_test, test[pairs.rows % len(test)], given[pairs.rows % len(given)]
  )
