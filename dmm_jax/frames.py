"""Columns as pandas data frames, which is imported when they are made."""

from collections.abc import Mapping
import math
from typing import Any

import numpy as np

NEEDS_PANDAS = (
  "data frames need pandas: python -m pip install pandas, or -e '.[tables]'"
)


def make(
  columns: Mapping[str, np.ndarray],
  about: Mapping[str, Mapping[str, str]],
  most: float,
) -> Any:
  """Returns columns `[n, ...]` as a frame of n rows.

  A column of arrays is split into `name[0]`, `name[1]`, ..., with an index for
  each axis.

  Args:
    columns: by name.
    about: unit and meaning by name, `{'unit': ..., 'meaning': ...}`.
    most: numbers a row; columns of more are left out.

  Returns:
    A `pandas.DataFrame`. `attrs['columns']` has unit and meaning of its columns
    by name, `attrs['left_out']` numbers a row of those that it does not have.

  Raises:
    ImportError: without pandas.
  """
  try:
    import pandas as pd
  except ImportError as error:
    raise ImportError(NEEDS_PANDAS) from error
  split, described, left_out = {}, {}, {}
  for name, column in columns.items():
    size = math.prod(column.shape[1:])
    if not 0 < size <= most:
      left_out[name] = size
      continue
    known = {key: about.get(name, {}).get(key, '') for key in _DESCRIBED}
    for place in np.ndindex(column.shape[1:]):
      suffix = f'[{",".join(map(str, place))}]' if place else ''
      split[name + suffix] = column[(slice(None), *place)]
      described[name + suffix] = known
  frame = pd.DataFrame(split)
  frame.attrs.update(columns=described, left_out=left_out)
  return frame


_DESCRIBED = 'unit', 'meaning'
