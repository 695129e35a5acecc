"""Tables of a run as CSV and Parquet: what comes out is what went in."""

import csv
import io
import sys

import numpy as np
import pytest
import runs

from dmm_jax import records
from experiments import export
from experiments.lib import flags

parquet = pytest.importorskip('pyarrow.parquet')

COLUMNS = {
  'whole': np.arange(3),
  'small': np.array([1, 2, 255], np.uint8),
  'real': np.array([0.1, np.nan, -np.inf], np.float32),
  'half': np.array([0.5, 1, 2], np.float16),
  'true': np.array([True, False, True]),
  'name': np.array(['a', 'b, "c"', '']),
  'pair': np.arange(6.0).reshape(3, 2),
  'grid': np.asfortranarray(np.arange(24).reshape(3, 2, 4)),
}


@pytest.fixture(scope='module')
def run_dir(tmp_path_factory):
  return runs.make(tmp_path_factory.mktemp('runs') / 'run')


def start(run_dir, **more):
  return export.run(export.Config(run=str(run_dir), **more))


def test_every_table_of_a_run_is_written(run_dir, tmp_path, capsys):
  paths = start(run_dir, out=str(tmp_path / 'new/out'))
  names = ['table_1_sizes.csv', 'other.csv', 'results.csv']
  assert paths == [tmp_path / 'new/out' / name for name in names]
  assert capsys.readouterr().out == '\n'.join(map(str, paths)) + '\n'
  rows = list(csv.reader(paths[0].open(newline='')))
  assert rows[0][:4] == ['network', 'size', 'size low', 'size high']
  assert rows[1][:6] == ['plain', '2.5', '2.0', '3.0', '10', 'networks']
  assert rows[2][0] == runs.EVIL
  assert paths[2].read_bytes() == b'x\n0.0\n1.0\n2.0\n'
  other = list(csv.reader(paths[1].open(newline='')))
  assert other[0] == ['v[0]', 'v[1]', 'name'] and other[1] == ['0', '1', 'a']
  assert other[3] == ['4', '5', runs.EVIL]


def test_parquet_holds_meanings_too(run_dir):
  paths = start(run_dir, format='parquet')
  names = ['table_1_sizes.csv', 'other.parquet', 'results.parquet']
  assert paths == [run_dir / 'export' / name for name in names]
  assert sorted(path.name for path in (run_dir / 'export').iterdir()) == sorted(
    names
  )
  field = parquet.read_table(paths[2]).schema.field('x')
  assert field.metadata[b'unit'] == b'cm'
  assert field.metadata[b'meaning'].decode() == f'where {runs.EVIL}'
  assert field.metadata[b'shape'] == b'[3]'


def test_numbers_are_the_same_in_csv():
  rows = list(csv.reader(io.StringIO(export.to_csv(COLUMNS))))
  assert rows[0] == [
    *('whole', 'small', 'real', 'half', 'true', 'name', 'pair[0]', 'pair[1]'),
    *(f'grid[{i},{j}]' for i in range(2) for j in range(4)),
  ]
  columns = dict(zip(rows[0], zip(*rows[1:], strict=True), strict=True))
  for name in ('whole', 'small', 'real', 'half'):
    found = np.array(columns[name], float).astype(COLUMNS[name].dtype)
    np.testing.assert_array_equal(found, COLUMNS[name])
  assert columns['true'] == ('True', 'False', 'True')
  assert columns['name'] == ('a', 'b, "c"', '')
  np.testing.assert_array_equal(
    np.array(columns['grid[1,2]'], int), COLUMNS['grid'][:, 1, 2]
  )
  empty = {name: column[:0] for name, column in COLUMNS.items()}
  assert export.to_csv(empty).count('\n') == 1


@pytest.mark.parametrize('num', [3, 0])
def test_columns_are_the_same_in_parquet(num):
  columns = {name: column[:num] for name, column in COLUMNS.items()}
  meanings = {'pair': {'unit': 'm', 'meaning': 'é', 'shape': [num, 2]}}
  table = parquet.read_table(io.BytesIO(export.to_parquet(columns, meanings)))
  assert table.column_names == [*columns] and table.num_rows == num
  for name, column in columns.items():
    found = np.array(table.column(name).to_pylist(), column.dtype)
    np.testing.assert_array_equal(found.reshape(column.shape), column)
  kinds = {name: str(table.schema.field(name).type) for name in columns}
  assert kinds['small'] == 'uint8' and kinds['half'] == 'halffloat'
  assert kinds['pair'] == 'fixed_size_list<element: double>[2]'
  assert kinds['grid'].endswith('[4]>[2]')
  assert table.schema.field('pair').metadata == {
    b'unit': b'm',
    b'meaning': 'é'.encode(),
    b'shape': f'[{num}, 2]'.encode(),
  }
  assert not table.schema.field('whole').metadata


def test_columns_that_are_too_many_or_none_are_named(tmp_path, capsys):
  path = runs.make(tmp_path / 'run')
  records.save_columns(
    path / 'results.npz',
    {
      'x': np.zeros(2),
      'wide': np.zeros((2, 5, 13)),
      'fits': np.zeros((2, 8, 8)),
      'none': np.zeros((2, 0)),
    },
  )
  paths = start(path)
  out = capsys.readouterr().out
  assert 'results.npz: wide is left out: 65 numbers a row\n' in out
  assert 'results.npz: none is left out: 0 numbers a row\n' in out
  assert out.count('left out') == 2
  header = paths[-1].read_text().split('\n')[0]
  assert header.startswith('x,"fits[0,0]",') and header.count('fits') == 64
  paths = start(path, format='parquet')
  assert capsys.readouterr().out.count('left out') == 1
  assert parquet.read_table(paths[-1]).column_names == ['x', 'wide', 'fits']


def test_titles_become_names_of_files(tmp_path):
  path = runs.make(tmp_path / 'run')
  saved = records.read_json(path / 'report.json')
  (table,) = saved['tables']
  titles = ['', 'Größe / l2: 3 %', 39 * 'a' + ' b', '../x']
  runs.edit(path / 'report.json', tables=[table | {'title': t} for t in titles])
  found = start(path)[: len(titles)]
  assert [file.name for file in found] == [
    'table_1.csv',
    'table_2_gr_e_l2_3.csv',
    f'table_3_{39 * "a"}.csv',
    'table_4_x.csv',
  ]


def test_what_cannot_be_done_is_told(run_dir, tmp_path, monkeypatch):
  with pytest.raises(flags.FlagError, match=r'--run=nowhere: not a run'):
    start('nowhere')
  (tmp_path / 'file').write_text('')
  with pytest.raises(flags.FlagError, match=r'--out=.*file cannot be written'):
    start(run_dir, out=str(tmp_path / 'file'))
  monkeypatch.setitem(sys.modules, 'pyarrow', None)
  with pytest.raises(
    flags.FlagError, match=r"needs pyarrow: .* '.\[parquet\]'"
  ):
    start(run_dir, out=str(tmp_path / 'new'), format='parquet')
  assert not (tmp_path / 'new').exists()
  assert len(start(run_dir, out=str(tmp_path / 'new'))) == 3
