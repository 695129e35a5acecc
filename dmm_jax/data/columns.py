"""Images that stay on disk until their rows are asked for."""

from collections.abc import Callable
import concurrent.futures
import itertools

from jax.typing import DTypeLike
import numpy as np

_THREADS = 8


class Column:
  """Images of a set larger than memory, used as an array `[n, h, w, c]` is.

  `column[2:9]` and `column.take(rows)` read nothing; `column[rows]`, with an
  integer or an array of them, reads these rows, several at once.
  """

  def __init__(
    self, read: Callable[[list[int]], list], rows: np.ndarray, shape: tuple
  ) -> None:
    """Takes `read`, numbers of records -> images, its rows, and one's shape."""
    self._read, self._rows = read, np.asarray(rows)
    self.shape = (len(self._rows), *shape)
    self.dtype = np.dtype(np.float32)

  @property
  def ndim(self) -> int:
    """The number of axes, as of an array."""
    return len(self.shape)

  def __len__(self) -> int:
    return len(self._rows)

  def take(self, rows: slice | np.ndarray, axis: int = 0) -> 'Column':
    """Returns these rows, unread."""
    if axis != 0:
      raise ValueError(f'a column has rows along axis 0, not {axis}')
    return Column(self._read, self._rows[rows], self.shape[1:])

  def __getitem__(self, key: slice | int | np.ndarray) -> 'Column | np.ndarray':
    if isinstance(key, slice):
      return self.take(key)
    rows = self._rows[key]
    out = np.empty((rows.size, *self.shape[1:]), self.dtype)
    # No empty part: readers want a record.
    parts = [p for p in np.array_split(rows.ravel(), _THREADS) if p.size]
    with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
      read = pool.map(lambda part: self._read(part.tolist()), parts)
      for i, x in enumerate(itertools.chain.from_iterable(read)):
        if x.shape != self.shape[1:]:
          raise ValueError(
            f'image {rows.ravel()[i]} has shape {x.shape}, the first one '
            f'{self.shape[1:]}: pass size=, in pixels, to have each resized'
          )
        out[i] = x
    return out.reshape(*rows.shape, *self.shape[1:])

  def __array__(
    self, dtype: DTypeLike | None = None, copy: bool | None = None
  ) -> np.ndarray:
    return np.asarray(self[np.arange(len(self))]).astype(
      dtype or self.dtype, copy=False
    )
