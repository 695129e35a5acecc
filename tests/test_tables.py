"""Tables as text, Markdown, CSV and JSON."""

import csv
import io
import json
import math

from hypothesis import given
from hypothesis import strategies as st
import jax.numpy as jnp
import numpy as np
import pytest

from dmm_jax import statistics
from experiments.lib import tables

NAN, INF = float('nan'), float('inf')
numbers = st.floats(allow_nan=True, allow_infinity=True)
# As JSON has no infinities, their names stand for them.
texts = st.text().filter(lambda text: text not in ('inf', '-inf'))
estimates = st.builds(
  statistics.Estimate, numbers, numbers, numbers, st.integers(0), texts
)
values = st.one_of(
  st.none(), st.booleans(), st.integers(), numbers, texts, estimates
)


@st.composite
def any_table(draw):
  num = draw(st.integers(1, 4))
  columns = [tables.Column(*draw(st.tuples(texts, texts, texts)))] * num
  rows = draw(st.lists(st.lists(values, min_size=num, max_size=num)))
  return tables.Table(draw(texts), columns, rows)


def estimate(value, low, high, n=20, unit='networks'):
  return statistics.Estimate(value, low, high, n, unit)


TABLE = tables.Table(
  'Slopes | all',
  [
    tables.Column('network', '', ''),
    tables.Column('n', '', 'input dimension'),
    tables.Column('time', 's', ''),
    tables.Column('slope', '1/bit', 'of log on log', '.2f'),
    tables.Column('holds', '', ''),
  ],
  [
    ['dense|wide', 12288, 1.5, estimate(-0.5, -0.55, -0.45), True],
    ['a <b>\n*c*', None, NAN, estimate(NAN, NAN, NAN, 3), False],
    ['', 7, INF, None, True],
  ],
)


@pytest.mark.parametrize(
  ('value', 'spec', 'text'),
  [
    (None, '.3g', '-'),
    (NAN, '.3g', '-'),
    (True, '.3g', 'yes'),
    (False, '.3g', 'no'),
    (0.12345, '.3g', '0.123'),
    (0.12345, '.1%', '12.3%'),
    (-INF, '.2f', '-inf'),
    (9999, '.3g', '9999'),
    (10_000, '.3g', '10,000'),
    (-10_000, '.3g', '-10,000'),
    ('text', '.3g', 'text'),
    ('', '.3g', ''),
    (estimate(0.5, 0.25, 1), '.2f', '0.50 [0.25, 1.00]'),
    (estimate(0.5, -INF, INF), '.3g', '0.5 [-inf, inf]'),
    (estimate(0.5, NAN, 1), '.3g', '0.5 (no interval)'),
    (estimate(0.5, 0.1, NAN), '.3g', '0.5 (no interval)'),
    (estimate(NAN, 0.1, 1.0), '.3g', '-'),
    (np.float32(0.5), '.3f', '0.500'),
    (np.int64(123456), '.3g', '123,456'),
    (np.bool_(True), '.3g', 'yes'),
    (np.str_('a'), '.3g', 'a'),
    (jnp.float32(0.25), '.3g', '0.25'),
    (np.array(2.0), '.2f', '2.00'),
  ],
)
def test_cells(value, spec, text):
  assert tables.cell(value, spec) == text


def test_cells_take_three_digits_unless_they_are_told():
  assert tables.cell(1.23456) == '1.23'
  assert tables.cell(estimate(1.23456, 1.0, 2.0)) == '1.23 [1, 2]'
  assert tables.interval(estimate(0.0, 1.23456, 2.0)) == '[1.23, 2]'


def test_the_formats_of_columns_are_those_of_their_cells():
  assert tables.cells(TABLE) == [
    ['dense|wide', '12,288', '1.5', '-0.50 [-0.55, -0.45]', 'yes'],
    ['a <b>\n*c*', '-', '-', '-', 'no'],
    ['', '7', 'inf', '-', 'yes'],
  ]
  with pytest.raises(ValueError, match='argument 2 is longer'):
    tables.cells(TABLE._replace(rows=[[1]]))


def test_a_column_with_text_or_truth_values_is_not_of_numbers():
  assert tables.numeric(TABLE) == [False, True, True, True, False]
  assert tables.numeric(TABLE._replace(rows=[])) == 5 * [True]
  of = lambda *column: tables.Table(
    '', TABLE.columns[:1], [[v] for v in column]
  )
  assert tables.numeric(of(1.0, np.bool_(True))) == [False]
  assert tables.numeric(of(np.str_('a'), 1.0)) == [False]
  assert tables.numeric(of(1.0, np.int32(2), None)) == [True]


def test_columns_from_their_parts():
  columns = ('a', 'first'), ('b', 'second', 'm'), ('c', '', 's', '.1f')
  found = tables.table('Title', columns, [[1, 2, 3]], spec='.2f')
  assert found.columns == [
    tables.Column('a', '', 'first', '.2f'),
    tables.Column('b', 'm', 'second', '.2f'),
    tables.Column('c', 's', '', '.1f'),
  ]
  assert found.title == 'Title' and found.rows == [[1, 2, 3]]
  assert tables.table('', [('a', '')], []).columns[0].spec == '.3g'


def test_rows_by_name():
  rows = tables.to_dicts(TABLE)
  assert len(rows) == 3 and [*rows[2]] == [c.name for c in TABLE.columns]
  assert rows[2] == dict(network='', n=7, time=INF, slope=None, holds=True)
  with pytest.raises(ValueError, match='argument 2 is'):
    tables.to_dicts(TABLE._replace(rows=[[1]]))


def test_sizes_say_what_intervals_are_over():
  of = lambda *column: tables.Table(
    '', TABLE.columns[:1], [[v] for v in column]
  )
  many = [estimate(0, 0, 0, n, u) for n, u in (
    (3000, 'images'), (5, 'networks'), (20, 'images'), (5, 'networks'),
    (100, 'images'))]  # fmt: skip
  want = 'n = 20 to 3,000 images, n = 5 networks'
  assert tables.sizes(of('text', *many, 3.0), 0) == want
  assert tables.sizes(of(estimate(0, 0, 0, 1234)), 0) == 'n = 1,234 networks'
  assert tables.sizes(of(1.0, None), 0) == ''
  assert tables.sizes(TABLE, 3) == 'n = 3 to 20 networks'


def test_meanings_are_of_columns_that_have_one():
  assert tables.meanings(TABLE) == [
    ('n', 'input dimension'),
    ('time', 'in s'),
    (
      'slope',
      'of log on log; in 1/bit; 95 % interval, n = 3 to 20 networks',
    ),
  ]


def test_text_for_a_terminal():
  table = TABLE._replace(rows=[TABLE.rows[0], ['b', 5, 22.25, None, False]])
  lines = [
    'Slopes | all',
    'network          n  time                 slope  holds',
    '----------  ------  ----  --------------------  -----',
    'dense|wide  12,288   1.5  -0.50 [-0.55, -0.45]  yes',
    'b                5  22.2                     -  no',
  ]
  legend = [
    '  n: input dimension',
    '  time: in s',
    '  slope: of log on log; in 1/bit; 95 % interval, n = 20 networks',
  ]
  assert tables.to_text(table, legend=False) == '\n'.join(lines) + '\n'
  assert tables.to_text(table) == '\n'.join([*lines, *legend]) + '\n'
  empty = tables.Table('T', [tables.Column('long name', '', '')], [])
  assert tables.to_text(empty) == 'T\nlong name\n---------\n'


def test_markdown():
  assert tables.to_markdown(TABLE) == '\n'.join([
    r'**Slopes \| all**',
    '',
    '| network | n | time | slope | holds |',
    '|---|--:|--:|--:|---|',
    r'| dense\|wide | 12,288 | 1.5 | -0.50 [-0.55, -0.45] | yes |',
    r'| a &lt;b> \*c\* | - | - | - | no |',
    '|  | 7 | inf | - | yes |',
    '',
  ])  # fmt: skip
  table = TABLE._replace(title='')
  assert tables.to_markdown(table).startswith('| network | n |')


def test_escaped_text_is_one_line_without_markup():
  escaped = tables.escape('a`b`  c\n\nd <!-- x --> </a> <?y 1 < 2 <= 3')
  assert escaped == r'a\`b\` c d &lt;!-- x --> &lt;/a> &lt;?y 1 < 2 <= 3'


@given(any_table())
def test_markdown_has_a_line_a_row_and_a_cell_a_column(table):
  lines = tables.to_markdown(table._replace(title='')).split('\n')
  assert len(lines) == len(table.rows) + 3 and lines[-1] == ''
  for line in lines[:-1]:
    bars = line.replace(r'\|', '').count('|')
    assert bars == len(table.columns) + 1, line


def test_csv():
  assert tables.to_csv(TABLE) == '\n'.join([
    'network,n,time,slope,slope low,slope high,slope n,slope unit,holds',
    'dense|wide,12288,1.5,-0.5,-0.55,-0.45,20,networks,True',
    '"a <b>\n*c*",,nan,nan,nan,nan,3,networks,False',
    ',7,inf,,,,,,True',
    '',
  ])  # fmt: skip
  mixed = TABLE._replace(
    columns=TABLE.columns[3:4],
    rows=[['none'], [0.5], [estimate(1.0, 0.5, 2.0)]],
  )
  rows = list(csv.reader(io.StringIO(tables.to_csv(mixed))))
  assert rows[1:] == [
    ['none', *4 * ['']],
    ['0.5', *4 * ['']],
    ['1.0', '0.5', '2.0', '20', 'networks'],
  ]


def same(a, b):
  """Whether two cells are the same; None and NaN are both nothing."""
  if isinstance(a, statistics.Estimate) and isinstance(b, statistics.Estimate):
    return all(map(same, a, b))
  nothing = lambda v: v is None or (isinstance(v, float) and math.isnan(v))
  return (nothing(a) and nothing(b)) or (type(a) is type(b) and a == b)


@given(any_table())
def test_tables_survive_json(table):
  saved = json.dumps(tables.to_json(table), allow_nan=False)
  again = tables.from_json(json.loads(saved))
  assert again.title == table.title and again.columns == table.columns
  for row, other in zip(table.rows, again.rows, strict=True):
    assert all(map(same, row, other)), (row, other)
    assert len(row) == len(other)
  assert tables.to_text(again) == tables.to_text(table)
  assert tables.to_json(again) == tables.to_json(table)


def test_the_form_of_a_table_in_a_file():
  row = [np.float32(0.5), np.int64(3), np.bool_(True), NAN, -INF, 'x', None]
  columns = [tables.Column(name, 's', 'why', '.2f') for name in 'abcdefg']
  saved = tables.to_json(tables.Table('T', columns, [row, 7 * [INF]]))
  assert saved['title'] == 'T'
  assert saved['columns'][1] == {
    'name': 'b',
    'unit': 's',
    'meaning': 'why',
    'spec': '.2f',
  }
  assert saved['rows'][0] == [0.5, 3, True, None, '-inf', 'x', None]
  assert list(map(type, saved['rows'][0][:3])) == [float, int, bool]
  assert saved['rows'][1] == 7 * ['inf']
  held = tables._encode(estimate(np.float32(0.5), -INF, NAN, np.int32(4)))
  assert held == {
    'value': 0.5,
    'low': '-inf',
    'high': None,
    'n': 4,
    'unit': 'networks',
  }
  # As others may write it: formats are ours.
  bare = {'name': 'a', 'unit': '', 'meaning': ''}
  found = tables.from_json({'title': '', 'columns': [bare], 'rows': [[0.5]]})
  assert found.columns[0].spec == '.3g'
