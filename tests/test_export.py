"""Tables of a run as CSV and Parquet: what comes out is what went in."""

import csv
import io
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest
import runs

from dmm_jax import boundary
from dmm_jax import frames
from dmm_jax import records
from experiments import export
from experiments.lib import flags

parquet = pytest.importorskip('pyarrow.parquet')
pandas = pytest.importorskip('pandas')

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

NAMES = [
  *('whole', 'small', 'real', 'half', 'true', 'name', 'pair[0]', 'pair[1]'),
  *(f'grid[{i},{j}]' for i in range(2) for j in range(4)),
]


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
  frame = pandas.read_parquet(paths[1])
  assert list(frame.columns) == ['v[0]', 'v[1]', 'name']
  assert frame['name'].tolist() == ['a', 'b', runs.EVIL]
  assert frame['v[1]'].tolist() == [1, 3, 5]


def frame_of(num=3, most=64):
  columns = {name: column[:num] for name, column in COLUMNS.items()}
  return frames.make(columns, {'pair': {'unit': 'm', 'meaning': 'é'}}, most)


def test_a_frame_has_named_columns_with_units():
  frame = frame_of()
  assert list(frame.columns) == NAMES
  for name in ('whole', 'small', 'real', 'half', 'true', 'name'):
    np.testing.assert_array_equal(frame[name].to_numpy(), COLUMNS[name])
  for name in ('whole', 'small', 'real', 'half', 'true'):
    assert frame[name].dtype == COLUMNS[name].dtype
  np.testing.assert_array_equal(frame['grid[1,2]'], COLUMNS['grid'][:, 1, 2])
  known = {'unit': 'm', 'meaning': 'é'}
  assert frame.attrs['columns']['pair[1]'] == known
  assert frame.attrs['columns']['whole'] == {'unit': '', 'meaning': ''}
  assert frame.attrs['left_out'] == {}
  few = frame_of(most=2)
  assert list(few.columns) == NAMES[:-8]
  assert few.attrs['left_out'] == {'grid': 8}
  assert list(few.attrs['columns']) == NAMES[:-8]
  assert frame_of(num=0).shape == (0, len(NAMES))


def test_numbers_are_the_same_in_csv():
  rows = list(csv.reader(io.StringIO(export.to_csv(frame_of()).decode())))
  assert rows[0] == NAMES
  columns = dict(zip(rows[0], zip(*rows[1:], strict=True), strict=True))
  for name in ('whole', 'small', 'real', 'half'):
    found = np.array(columns[name], float).astype(COLUMNS[name].dtype)
    np.testing.assert_array_equal(found, COLUMNS[name])
  assert columns['true'] == ('True', 'False', 'True')
  assert columns['name'] == ('a', 'b, "c"', '')
  np.testing.assert_array_equal(
    np.array(columns['grid[1,2]'], int), COLUMNS['grid'][:, 1, 2]
  )
  assert export.to_csv(frame_of(num=0)).count(b'\n') == 1


@pytest.mark.parametrize('num', [3, 0])
def test_columns_are_the_same_in_parquet(num):
  table = parquet.read_table(io.BytesIO(export.to_parquet(frame_of(num))))
  assert table.column_names == NAMES and table.num_rows == num
  for name in ('whole', 'small', 'real', 'half', 'true', 'name'):
    found = np.array(table.column(name).to_pylist(), COLUMNS[name].dtype)
    np.testing.assert_array_equal(found, COLUMNS[name][:num])
  kinds = {name: str(table.schema.field(name).type) for name in NAMES}
  assert kinds['small'] == 'uint8' and kinds['half'] == 'halffloat'
  assert table.schema.field('pair[0]').metadata == {
    b'unit': b'm',
    b'meaning': 'é'.encode(),
  }


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
  paths = start(path, format='parquet', most_columns=65)
  assert capsys.readouterr().out.count('left out') == 1
  assert len(parquet.read_table(paths[-1]).column_names) == 1 + 65 + 64


def test_a_table_of_a_run_is_a_frame(run_dir):
  frame = records.to_frame(run_dir)
  assert frame['x'].tolist() == [0, 1, 2]
  assert frame.attrs['columns']['x']['unit'] == 'cm'
  other = records.to_frame(str(run_dir), 'other', most=1)
  assert list(other.columns) == ['name'] and other.attrs['left_out'] == {'v': 2}
  with pytest.raises(
    FileNotFoundError, match=r"no table 'some'; it has other, results"
  ):
    records.to_frame(run_dir, 'some')
  with pytest.raises(FileNotFoundError, match='it has none'):
    records.to_frame(run_dir / 'figures')


def test_a_run_without_descriptions_is_a_frame(tmp_path):
  records.save_columns(tmp_path / 'results.npz', {'x': np.arange(2)})
  assert records.to_frame(tmp_path)['x'].tolist() == [0, 1]


def test_boundary_points_are_a_frame():
  weights = np.array([[1.0, -1.0], [2.0, 0.0]], np.float32)
  xs = np.array([[1.0, 1.0], [3.0, 0.5], [-1.0, 0.0]], np.float32)
  labels = np.array([0, 0, 0])
  logits_fn = lambda x: x @ weights
  found = boundary.measure(logits_fn, xs, labels, method='ray')
  frame = found.to_frame()
  assert list(frame.columns) == [
    *('distance', 'target', 'margin', 'status', 'gradients', 'forwards')
  ]
  np.testing.assert_array_equal(frame['distance'], found.distance)
  assert frame['status'].tolist() == ['FOUND', 'FOUND', 'MISCLASSIFIED']
  assert frame['target'].tolist() == found.target.tolist()
  assert frame.attrs['columns']['distance']['unit'] == 'input units'
  assert all(text['meaning'] for text in frame.attrs['columns'].values())
  assert frame.attrs['left_out'] == {'point': 2, 'normal': 2}
  more = found.to_frame(most=2)
  np.testing.assert_array_equal(
    more[['point[0]', 'point[1]']].to_numpy(), found.point
  )
  assert 'normal[1]' in more.columns and not more.attrs['left_out']
  find = lambda x: boundary.nearest_point(logits_fn, x, 0, method='ray')
  one = jax.jit(find)(xs[0])
  assert one.to_frame(most=2).shape == (1, 10)
  assert len(one._fields) == 8


def test_frames_without_pandas_are_told(monkeypatch):
  monkeypatch.setitem(sys.modules, 'pandas', None)
  with pytest.raises(ImportError, match='pip install pandas'):
    frame_of()


def test_a_run_may_be_named_without_its_flag(run_dir, tmp_path):
  out = f'--out={tmp_path / "out"}'
  done = subprocess.run(
    [sys.executable, '-m', 'experiments.export', str(run_dir), out],
    cwd=pathlib.Path(__file__).parent.parent,
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == 0, done.stderr
  assert (tmp_path / 'out' / 'results.csv').exists()


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
  with pytest.raises(flags.FlagError, match=r"needs pyarrow: .* '.\[tables\]'"):
    start(run_dir, out=str(tmp_path / 'new'), format='parquet')
  monkeypatch.setitem(sys.modules, 'pandas', None)
  with pytest.raises(flags.FlagError, match='need pandas'):
    start(run_dir, out=str(tmp_path / 'new'))
  assert not (tmp_path / 'new').exists()
  monkeypatch.undo()
  assert len(start(run_dir, out=str(tmp_path / 'new'))) == 3
