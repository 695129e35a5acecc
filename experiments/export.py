"""Writes the tables of a run as CSV or Parquet.

  python -m experiments.export runs/random_scaling
  python -m experiments.export runs/random_scaling --format=parquet

The tables of the report are always CSV, named after their titles; an estimate
takes five columns. The columns of results.npz, and of what other .npz files a
run has, are CSV or Parquet, as `records.to_frame` has them: a column of arrays
is split into columns name[0], name[1], ..., where they are not too many, and in
Parquet unit and meaning are metadata of each column.
"""

import dataclasses
import io
import pathlib
import re
import sys
from typing import Any

from dmm_jax import records
from experiments.lib import flags
from experiments.lib import results
from experiments.lib import tables


@dataclasses.dataclass(frozen=True)
class Config:
  run: str = flags.flag('', 'Directory of a finished run; or without a flag.')
  format: str = flags.flag('csv', 'Of .npz tables.', choices=('csv', 'parquet'))
  out: str = flags.flag('', 'Folder to write to; empty: export/ in the run.')
  most_columns: int = flags.flag(
    64, 'Columns that a column of arrays may be split into.', least=1
  )


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
  write = to_csv if config.format == 'csv' else to_parquet
  for path in sorted(run_dir.glob('*.npz')):
    try:
      frame = records.to_frame(run_dir, path.stem, config.most_columns)
      files[f'{path.stem}.{config.format}'] = write(frame)
    except ImportError as error:
      raise flags.FlagError(str(error)) from None
    for name, size in frame.attrs['left_out'].items():
      print(f'{path.name}: {name} is left out: {size} numbers a row')
  out = pathlib.Path(config.out or run_dir / 'export')
  try:
    out.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
      (out / name).write_bytes(data)
  except OSError as error:
    raise flags.FlagError(f'--out={out} cannot be written: {error}') from None
  print('\n'.join(str(out / name) for name in files))
  return [out / name for name in files]


def to_csv(frame: Any) -> bytes:
  """Returns a frame as CSV; numbers are read back as they were."""
  text = frame.to_csv(index=False, na_rep='nan', lineterminator='\n')
  return text.encode()


def to_parquet(frame: Any) -> bytes:
  """Returns a frame as Parquet, units and meanings with its columns."""
  try:
    import pyarrow
    from pyarrow import parquet
  except ImportError as error:
    raise ImportError(
      "--format=parquet needs pyarrow: python -m pip install -e '.[tables]'"
    ) from error
  table = pyarrow.Table.from_pandas(frame, preserve_index=False)
  about = frame.attrs['columns']
  fields = [field.with_metadata(about[field.name]) for field in table.schema]
  schema = pyarrow.schema(fields, table.schema.metadata)
  out = io.BytesIO()
  parquet.write_table(table.cast(schema), out)
  return out.getvalue()


if __name__ == '__main__':
  if len(sys.argv) > 1 and not sys.argv[1].startswith('-'):
    sys.argv[1] = f'--run={sys.argv[1]}'
  flags.main(run, Config)
