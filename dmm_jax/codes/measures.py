"""How many dimensions codes fill, how diverse they are, how evenly units fill.

Units here are numbers `[n]`, such as `som.flat` gives, or clusters of any other
kind; those below 0 are none, and do not count.
"""

from typing import NamedTuple

import numpy as np


class Telescope(NamedTuple):
  """How effective dimensions fall and rise along layers, one row a network.

  Natural logarithms of ratios `[m]`.

  Attributes:
    bare_fall: the input's over the narrowest layer's, whatever that could hold.
    fall: what the narrowest layer could hold of the input's, over what it has.
    rise: the last layer's over the narrowest one's.
  """

  bare_fall: np.ndarray
  fall: np.ndarray
  rise: np.ndarray


def telescope(
  dimensions: np.ndarray,
  ceiling: np.ndarray,
  of_input: float,
  *,
  over_ceiling: bool = False,
) -> Telescope:
  """Returns by how much dimensions fall to the narrowest layer, and rise again.

  The narrowest layer of a network is the one that is narrowest on average in
  all others: the least of a network's own is too small by its noise.

  Args:
    dimensions: of the hidden layers of at least two networks `[m, layers]`.
    ceiling: the largest that they could be, likewise, as of `most_components`.
    of_input: the same dimension of the input.
    over_ceiling: whether layers are compared by dimension over ceiling; then
      `rise` is of that, and what wider layers bring is none.
  """
  logs, most = (np.log(np.maximum(v, 1)) for v in (dimensions, ceiling))
  values = logs - most if over_ceiling else logs
  at = np.arange(len(values)), np.argmin(values.sum(0) - values, axis=1)
  given = np.log(of_input)
  return Telescope(
    given - logs[at],
    np.minimum(given, most[at]) - logs[at],
    values[:, -1] - values[at],
  )


def most_components(codes: np.ndarray, share: float = 0.9) -> int:
  """Returns the largest that `num_components` of such codes `[n, d]` can be.

  That of equal variances: `share` of the features that vary, or of n - 1.
  """
  varying = int(np.sum(np.ptp(codes, axis=0) > 0))
  return int(np.ceil(round(share * min(varying, len(codes) - 1), 9)))


def spectrum(codes: np.ndarray) -> np.ndarray:
  """Returns the variances along principal directions, descending.

  Of the sample, over n; `[min(n, d)]`, eigenvalues in float64, to 1e-15 of the
  largest one.
  """
  centred = np.asarray(codes, float)
  centred = centred - centred.mean(axis=0)
  wide = centred.shape[1] > len(centred)
  square = centred @ centred.T if wide else centred.T @ centred
  found = np.linalg.eigvalsh(square / len(centred))[::-1]
  return np.maximum(found, 0.0)


def num_components(spectrum: np.ndarray, share: float = 0.9) -> int:
  """Returns how many components hold a share of the variance: k90 for 0.9.

  0 where nothing varies.
  """
  total = spectrum.sum()
  if not total > 0:
    return 0
  # A share that is met up to rounding is met.
  reached = np.cumsum(spectrum) >= share * total * (1 - 1e-12)
  return int(np.argmax(reached)) + 1


def participation_ratio(spectrum: np.ndarray) -> float:
  """Returns `(sum l)^2 / sum l^2`: d for d equal variances, 1 for one.

  NaN where nothing varies.
  """
  square = np.sum(np.square(spectrum))
  return float(spectrum.sum() ** 2 / square) if square > 0 else float('nan')


def diversity(codes: np.ndarray, *, centred: bool = False) -> float:
  """Returns the mean cosine distance of pairs of different codes.

  0 where all point the same way, 1 where directions are unrelated; of raw
  codes, since standardized ones have 1 in every layer.

  Args:
    codes: `[n, d]`, of inputs or of a map's units.
    centred: correlation distance, each code less its own mean.

  Returns:
    A number in [0, 2]. Codes of length 0, or not finite, are left out; NaN
    where fewer than two are left.
  """
  codes = np.asarray(codes, float)
  codes = codes[np.all(np.isfinite(codes), axis=1)]
  if centred:
    constant = np.ptp(codes, axis=1) == 0
    codes = codes[~constant]
    codes = codes - codes.mean(axis=1, keepdims=True)
  size = np.linalg.norm(codes, axis=1)
  unit = codes[size > 0] / size[size > 0, None]
  num = len(unit)
  if num < 2:
    return float('nan')
  # The sum over all pairs is the squared length of the sum.
  cosine = (np.sum(unit.sum(axis=0) ** 2) - num) / (num * (num - 1))
  return float(1 - cosine)


def occupancy(units: np.ndarray, num_units: int) -> float:
  """Returns the share of units that any code has.

  A converged map evens out its hits: this and `entropy` say how it was trained,
  hardly how diverse codes are.
  """
  return len(np.unique(units[units >= 0])) / num_units


def entropy(units: np.ndarray, num_units: int) -> float:
  """Returns the entropy of hits over its largest value, log of `num_units`.

  In [0, 1]; NaN without codes, or for one unit.
  """
  counts = np.bincount(units[units >= 0], minlength=num_units)
  if num_units < 2 or not counts.sum():
    return float('nan')
  share = counts[counts > 0] / counts.sum()
  return float(-np.sum(share * np.log(share)) / np.log(num_units)) + 0.0
