"""What a boundary search returns."""

import enum
from typing import Any
from typing import NamedTuple

import jax
import numpy as np

from dmm_jax import frames


class Status(enum.IntEnum):
  """How a boundary search ended."""

  FOUND = 0
  MISCLASSIFIED = 1  # The input is already on the far side: distance 0.
  NOT_FOUND = 2  # The budget ran out, or the box was exhausted: inf.
  ZERO_GRADIENT = 3  # No direction changes the margin, to first order: inf.
  NON_FINITE = 4  # NaN or infinite input, logits, margin or gradients: inf.
  ESTIMATE = 5  # A linear estimate, not verified by evaluating the network.


class BoundaryPoint(NamedTuple):
  """The nearest boundary point that a search found.

  Attributes:
    distance: l^p norm of `point - x`, in input units. 0 where the input is
      already misclassified, inf where no boundary point was found.
    point: just beyond the boundary, as `x`; `x` itself where `distance` is 0 or
      inf.
    target: the class on the far side; -1 where none was found.
    normal: unit l2 gradient, at `point`, of the label's margin, pointing back
      into the label's region; zeros where there is none.
    margin: the label's margin at `point`, in logits: negative where found.
    status: a `Status`.
    gradients: value-and-gradient evaluations used, one for each class's row.
    forwards: forward-only evaluations used.
  """

  distance: jax.Array
  point: jax.Array
  target: jax.Array
  normal: jax.Array
  margin: jax.Array
  status: jax.Array
  gradients: jax.Array
  forwards: jax.Array

  def __repr__(self) -> str:
    """Of arrays of examples how their searches ended; else all fields."""
    found = _summary(self) or ', '.join(
      f'{name}={value!r}' for name, value in self._asdict().items()
    )
    return f'{type(self).__name__}({found})'

  def to_frame(self, most: float = 0) -> Any:
    """Returns a `pandas.DataFrame`, one row an example.

    `status` is by name. Units and meanings are in `attrs['columns']`.

    Args:
      most: numbers an example of `point` and `normal`, one column each; where
        they have more, they are left out.

    Raises:
      ImportError: without pandas.
    """
    rows = np.reshape(self.distance, -1).size
    columns = {
      name: np.reshape(
        value, (rows, *np.shape(value)[np.ndim(self.distance) :])
      )
      for name, value in self._asdict().items()
    }
    statuses = np.asarray(columns['status']).tolist()
    columns['status'] = np.array([Status(v).name for v in statuses])
    about = {
      name: dict(zip(('unit', 'meaning'), text, strict=True))
      for name, text in _MEANINGS.items()
    }
    return frames.make(columns, about, max(most, 1))


def _summary(point):
  """At most two lines about arrays of examples; '' of one, and of tracers."""
  if not (_has_values(point.distance) and _has_values(point.status)):
    return ''
  distances, statuses = np.asarray(point.distance), np.asarray(point.status)
  values, counts = np.unique(statuses, return_counts=True)
  if (
    not distances.ndim
    or distances.shape != statuses.shape
    or not np.isin(values, list(Status)).all()
  ):
    return ''
  several = '' if distances.ndim == 1 else f'{distances.shape} = '
  number = f'{distances.size} example{"s"[: distances.size != 1]}'
  shape = np.shape(point.point)[distances.ndim :]
  if not distances.size:
    return f'{several}{number} of shape {shape}'
  median = np.median(distances.astype(float))
  ended = [
    f'{count} {Status(value).name}'
    for value, count in zip(values, counts, strict=True)
  ]
  return (
    f'{several}{number} of shape {shape}, median distance {median:.4g}:\n'
    f'  {", ".join(ended)}'
  )


def _has_values(array):
  """Whether an array is neither traced nor on other processes' devices."""
  return isinstance(array, np.ndarray) or (
    isinstance(array, jax.Array)
    and not isinstance(array, jax.core.Tracer)
    and array.is_fully_addressable
  )


_MEANINGS = {
  'distance': (
    'input units',
    '0 where misclassified, inf where no boundary point was found; in norm 0 '
    'the number of changed inputs',
  ),
  'point': ('input units', 'just beyond the boundary; the input if not found'),
  'target': ('', 'class on the far side; -1 where none was found'),
  'normal': ('', "unit gradient of the label's margin at the point"),
  'margin': ('logits', "the label's margin at the point; negative if found"),
  'status': ('', 'how the search ended, a boundary.Status'),
  'gradients': ('', 'value-and-gradient evaluations used'),
  'forwards': ('', 'forward-only evaluations used'),
}


class Segment(NamedTuple):
  """Bracket returned by a search, for refinement: a step across the boundary.

  Attributes:
    inner, outer: its ends, on the label's side and beyond, as `x`.
    margin_inner, margin_outer: the label's margin there, with tolerance
      (`margins.margin_with_tolerance`).
    target: the class that leads at the outer end.
    status: FOUND if `outer` is beyond the boundary, else why it is not.
    gradients, forwards: as in `BoundaryPoint`.
  """

  inner: jax.Array
  outer: jax.Array
  margin_inner: jax.Array
  margin_outer: jax.Array
  target: jax.Array
  status: jax.Array
  gradients: jax.Array
  forwards: jax.Array
