"""Files of a run that are damaged: no effect, computed anew, or named."""

import io
import shutil

import numpy as np
import pytest
import resume
import runs

from dmm_jax import records
from experiments import gallery
from experiments import random_scaling
from experiments.lib import flags
from experiments.lib import results
from experiments.lib import runner

TOY = dict(
  architectures=('fully_connected',),
  sizes=(4, 6),
  norms=(2.0,),
  width=8,
  num_networks=12,
  batch_size=4,
  num_predicted=1,
  methods=('ray',),
)


def damage(rng, data):
  """Flips a bit, cuts, empties, or puts something else in place."""
  kind = rng.integers(5)
  if kind == 0 and data:
    place = rng.integers(len(data))
    flipped = bytes([data[place] ^ 1 << rng.integers(8)])
    return data[:place] + flipped + data[place + 1 :]
  if kind == 1:
    return data[: rng.integers(len(data) + 1)]
  if kind == 2:
    return b''
  if kind == 3:
    return rng.bytes(rng.integers(1, 300))
  foreign = io.BytesIO()
  np.savez(foreign, x=np.arange(3.0))
  return rng.choice([b'{"a": 1}\n', b'[]', foreign.getvalue()])


def everything(path):
  """What a page and a reader of tables make of a run."""
  found = results.read_run('run', path)
  tables = runner.load_tables(path)
  shown = {name: text for name, _, text in gallery.figures(found)}
  columns = {
    (table, name): column.tolist()
    for table, of in tables.items()
    for name, column in of.items()
  }
  return found.report, found.columns, columns, shown, found.record['started']


def test_200_random_damages_of_a_finished_run(tmp_path, capsys):
  path, rng = runs.make(tmp_path / 'run'), np.random.default_rng(0)
  wanted = everything(path)
  files = [p for p in path.rglob('*') if p.is_file() and p.name != records.LOCK]
  assert len(files) > 8
  named = 0
  for _ in range(200):
    file = files[rng.integers(len(files))]
    whole = file.read_bytes()
    file.write_bytes(damage(rng, whole))
    capsys.readouterr()
    try:
      found = everything(path)
      if file.suffix == '.png' and found != wanted:
        # A picture that is not the run's is left out, and named.
        lost = wanted[3].keys() - found[3].keys()
        assert lost == {file.stem} and str(file) in capsys.readouterr().err
        found = (*found[:3], wanted[3], found[4])
        named += 1
      assert found == wanted, file
    except ValueError as error:
      assert file.name in str(error), (file, error)
      named += 1
    finally:
      file.write_bytes(whole)
  assert named > 100


def test_damaged_chunks_are_measured_again(tmp_path, monkeypatch):
  resume.draw_quickly(monkeypatch)
  config = lambda path: random_scaling.Config(workdir=str(path), **TOY)
  whole, result, chunks = resume.run_keeping_chunks(
    random_scaling.run, config, tmp_path
  )
  rng = np.random.default_rng(1)
  text = (whole / 'flags.txt').read_text()
  for number in range(4):
    broken = tmp_path / str(number)
    shutil.copytree(chunks, broken / 'chunks')
    (broken / 'flags.txt').write_text(text.replace(str(whole), str(broken)))
    for file in (broken / 'chunks').iterdir():
      if rng.uniform() < 0.6:
        file.write_bytes(damage(rng, file.read_bytes()))
    random_scaling.run(config(broken))
    for name in ('results.npz', 'outputs.npz', 'report.json'):
      assert (broken / name).read_bytes() == (whole / name).read_bytes(), name
  # Tables of a finished run have no chunks to be made from.
  for name in ('results.npz', 'outputs.npz', 'stray.npz', 'run.json'):
    file = whole / name
    data = file.read_bytes() if file.exists() else None
    file.write_bytes(damage(rng, data or b'PK'))
    with pytest.raises(flags.EXPECTED, match=f'{name} is damaged'):
      random_scaling.run(config(whole))
    file.write_bytes(data) if data else file.unlink()
  again = random_scaling.run(config(whole))
  assert runner.to_text(again.report) == runner.to_text(result.report)
