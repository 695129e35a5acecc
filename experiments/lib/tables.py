"""Tables: columns that say what they mean, for terminals, pages and files."""

from collections.abc import Sequence
import csv
import io
import math
import re
from typing import Any
from typing import NamedTuple

from dmm_jax import statistics


class Column(NamedTuple):
  """A column of a table.

  Attributes:
    name: its heading.
    unit: of its numbers; '' where they have none.
    meaning: a sentence for a reader who sees the table alone.
    spec: how numbers are formatted, as of `format`.
  """

  name: str
  unit: str
  meaning: str
  spec: str = '.3g'


class Table(NamedTuple):
  """Rows of cells: text, numbers, `statistics.Estimate`, None for nothing."""

  title: str
  columns: Sequence[Column]
  rows: Sequence[Sequence[Any]]


def table(
  title: str,
  columns: Sequence[tuple[str, ...]],
  rows: Sequence[Sequence[Any]],
  *,
  spec: str = '.3g',
) -> Table:
  """Returns a table of columns `(name, meaning[, unit[, spec]])`.

  Args:
    title: of the table.
    columns: as above; without a unit where numbers have none.
    rows: of cells.
    spec: of the columns that name none.
  """
  made = [
    Column(name, unit, meaning, own)
    for name, meaning, unit, own in (
      (*column, *('', spec)[len(column) - 2 :]) for column in columns
    )
  ]
  return Table(title, made, rows)


def to_dicts(table: Table) -> list[dict[str, Any]]:
  """Returns the rows of a table, each by the names of the columns."""
  names = [column.name for column in table.columns]
  return [dict(zip(names, row, strict=True)) for row in table.rows]


def cell(value: Any, spec: str = '.3g') -> str:
  """Returns a cell as text; '-' where there is nothing to show."""
  value = _plain(value)
  if isinstance(value, statistics.Estimate):
    return f'{cell(value.value, spec)} {interval(value, spec)}'.rstrip()
  if isinstance(value, bool):
    return 'yes' if value else 'no'
  if isinstance(value, float):
    return '-' if math.isnan(value) else format(value, spec)
  if isinstance(value, int):
    return f'{value:,}' if abs(value) >= 10_000 else str(value)
  return '-' if value is None else str(value)


def interval(value: statistics.Estimate, spec: str = '.3g') -> str:
  """Returns the interval of an estimate as text; '' where there is no value."""
  if math.isnan(value.value):
    return ''
  if math.isnan(value.low) or math.isnan(value.high):
    return '(no interval)'
  return f'[{value.low:{spec}}, {value.high:{spec}}]'


def numeric(table: Table) -> list[bool]:
  """Returns whether each column holds numbers, or nothing, and no text."""
  with_text = {
    number
    for row in table.rows
    for number, value in enumerate(row)
    if isinstance(_plain(value), str | bool)
  }
  return [number not in with_text for number in range(len(table.columns))]


def cells(table: Table) -> list[list[str]]:
  """Returns the rows of a table as text."""
  return [
    [cell(v, c.spec) for v, c in zip(row, table.columns, strict=True)]
    for row in table.rows
  ]


def sizes(table: Table, column: int) -> str:
  """Returns what the intervals of a column are over, or an empty text."""
  found = [row[column] for row in table.rows]
  found = [v for v in found if isinstance(v, statistics.Estimate)]
  of = {unit: sorted({v.n for v in found if v.unit == unit}) for unit in
        dict.fromkeys(v.unit for v in found)}  # fmt: skip
  parts = [
    f'n = {n[0]:,} {unit}'
    if len(n) == 1
    else f'n = {n[0]:,} to {n[-1]:,} {unit}'
    for unit, n in of.items()
  ]
  return ', '.join(parts)


def meanings(table: Table) -> list[tuple[str, str]]:
  """Returns `(name, what it means)` of each column that is explained."""
  found = []
  for number, column in enumerate(table.columns):
    parts = [column.meaning, column.unit and f'in {column.unit}']
    over = sizes(table, number)
    parts.append(over and f'95 % interval, {over}')
    text = '; '.join(filter(None, parts))
    if text:
      found.append((column.name, text))
  return found


def to_text(table: Table, *, legend: bool = True) -> str:
  """Returns a table for a terminal, numbers to the right."""
  header = [column.name for column in table.columns]
  rows, numbers = cells(table), numeric(table)
  widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]

  def line(values):
    padded = [
      v.rjust(w) if right else v.ljust(w)
      for v, w, right in zip(values, widths, numbers, strict=True)
    ]
    return '  '.join(padded).rstrip()

  lines = [table.title, line(header), '  '.join('-' * w for w in widths)]
  lines += map(line, rows)
  if legend:
    lines += [f'  {name}: {text}' for name, text in meanings(table)]
  return '\n'.join(lines) + '\n'


def escape(text: str) -> str:
  """Returns text that Markdown shows as it is, also in a cell of a table."""
  text = re.sub(r'([|*`])', r'\\\1', ' '.join(text.split()))
  return re.sub(r'<(?=[\w/!?])', '&lt;', text)


def to_markdown(table: Table) -> str:
  """Returns a table as GitHub's Markdown, its title above it in bold."""
  line = lambda values: f'| {" | ".join(map(escape, values))} |'
  header = [column.name for column in table.columns]
  rule = ['--:' if number else '---' for number in numeric(table)]
  lines = [line(header), f'|{"|".join(rule)}|', *map(line, cells(table))]
  title = [f'**{escape(table.title)}**', ''] if table.title else []
  return '\n'.join(title + lines) + '\n'


def to_csv(table: Table) -> str:
  """Returns a table as CSV; an estimate takes five columns."""
  names: list[str] = []
  split = []
  for number, column in enumerate(table.columns):
    found = [row[number] for row in table.rows]
    split.append(any(isinstance(v, statistics.Estimate) for v in found))
    names.append(column.name)
    if split[-1]:
      names += [
        f'{column.name} {part}' for part in ('low', 'high', 'n', 'unit')
      ]
  out = io.StringIO()
  writer = csv.writer(out, lineterminator='\n')
  writer.writerow(names)
  for row in table.rows:
    line: list[Any] = []
    for value, many in zip(row, split, strict=True):
      if isinstance(value, statistics.Estimate):
        line += value
      else:
        line += [value, *[''] * 4] if many else [value]
    writer.writerow(['' if v is None else v for v in line])
  return out.getvalue()


def to_json(table: Table) -> dict:
  """Returns what report.json holds of a table."""
  return {
    'title': table.title,
    'columns': [column._asdict() for column in table.columns],
    'rows': [[_encode(value) for value in row] for row in table.rows],
  }


def from_json(found: dict) -> Table:
  """Returns the table that `to_json` made."""
  columns = [Column(**column) for column in found['columns']]
  rows = [[_decode(value) for value in row] for row in found['rows']]
  return Table(found['title'], columns, rows)


def _encode(value):
  """JSON has no NaN and no infinity: null, and their names."""
  value = _plain(value)
  if isinstance(value, statistics.Estimate):
    return {name: _encode(v) for name, v in value._asdict().items()}
  if not isinstance(value, float):
    return value
  if math.isnan(value):
    return None
  return str(value) if math.isinf(value) else value


def _plain(value):
  """Numbers of numpy and of JAX as Python's."""
  return value.item() if hasattr(value, 'item') else value


def _decode(value):
  if isinstance(value, dict):
    number = lambda v: math.nan if v is None else float(v)
    ends = [number(value[name]) for name in ('value', 'low', 'high')]
    return statistics.Estimate(*ends, value['n'], value['unit'])
  return float(value) if value in ('inf', '-inf') else value
