"""Writes the tables of a run as CSV or Parquet.

  python -m experiments.export --run=runs/random_scaling
  python -m experiments.export --run=runs/random_scaling --format=parquet

The tables of the report are always CSV, named after their titles; an estimate
takes five columns. The columns of results.npz, and of what other .npz files a
run has, are CSV or Parquet: in Parquet a column of arrays is a fixed-size list,
and unit and meaning are metadata of its field; in CSV it is split into columns
name[0], name[1], ..., where they are not too many.
"""

import csv
import dataclasses
import io
import math
import pathlib
import re

import numpy as np

from experiments.lib import flags
from experiments.lib import results
from experiments.lib import runner
from experiments.lib import tables

# Columns of a CSV file that a column of arrays may be split into.
MOST_COLUMNS = 64


@dataclasses.dataclass(frozen=True)
class Config:
  run: str = flags.flag('', 'Directory of a finished run.')
  format: str = flags.flag('csv', 'Of .npz tables.', choices=('csv', 'parquet'))
  out: str = flags.flag('', 'Folder to write to; empty: export/ in the run.')


def run(config: Config) -> list[pathlib.Path]:
  """Writes the files; returns their paths."""
  run_dir = pathlib.Path(config.run)
  try:
    found = results.read_run(config.run, run_dir)
  except ValueError as error:
    raise flags.FlagError(f'--run={config.run}: {error}') from None
  files = {}
  for number, table in enumerate(found.report.tables, 1):
    title = re.sub('[^a-z0-9]+', '_', table.title.lower())[:40].strip('_')
    name = '_'.join(filter(None, ['table', str(number), title]))
    files[f'{name}.csv'] = tables.to_csv(table).encode()
  for name, columns in runner.load_tables(run_dir).items():
    sizes = {key: math.prod(v.shape[1:]) for key, v in columns.items()}
    most = MOST_COLUMNS if config.format == 'csv' else math.inf
    kept = {k: columns[k] for k, size in sizes.items() if 0 < size <= most}
    for key in [key for key in sizes if key not in kept]:
      print(f'{name}.npz: {key} is left out: {sizes[key]} numbers a row')
    if config.format == 'csv':
      files[f'{name}.csv'] = to_csv(kept).encode()
    else:
      meanings = found.columns.get(name, {})
      files[f'{name}.parquet'] = to_parquet(kept, meanings)
  out = pathlib.Path(config.out or run_dir / 'export')
  try:
    out.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
      (out / name).write_bytes(data)
  except OSError as error:
    raise flags.FlagError(f'--out={out} cannot be written: {error}') from None
  print('\n'.join(str(out / name) for name in files))
  return [out / name for name in files]


def to_csv(columns: runner.Columns) -> str:
  """Returns columns as CSV; those of arrays are split."""
  split = {}
  for name, column in columns.items():
    for place in np.ndindex(column.shape[1:]):
      suffix = f'[{",".join(map(str, place))}]' if place else ''
      split[name + suffix] = column[(slice(None), *place)].tolist()
  out = io.StringIO()
  writer = csv.writer(out, lineterminator='\n')
  writer.writerow(split)
  writer.writerows(zip(*split.values(), strict=True))
  return out.getvalue()


def to_parquet(columns: runner.Columns, meanings: dict) -> bytes:
  """Returns columns as Parquet.

  Args:
    columns: of a table.
    meanings: by name, what columns.json says; kept as metadata of fields.
  """
  try:
    import pyarrow
    from pyarrow import parquet
  except ImportError:
    raise flags.FlagError(
      "--format=parquet needs pyarrow: python -m pip install -e '.[parquet]'"
    ) from None
  fields, arrays = [], []
  for name, column in columns.items():
    array = pyarrow.array(column.reshape(-1))
    for size in reversed(column.shape[1:]):
      array = pyarrow.FixedSizeListArray.from_arrays(array, size)
    about = {key: str(value) for key, value in meanings.get(name, {}).items()}
    fields.append(pyarrow.field(name, array.type, metadata=about))
    arrays.append(array)
  table = pyarrow.Table.from_arrays(arrays, schema=pyarrow.schema(fields))
  out = io.BytesIO()
  parquet.write_table(table, out)
  return out.getvalue()


if __name__ == '__main__':
  flags.main(run, Config)
