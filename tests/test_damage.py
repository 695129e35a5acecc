"""Files of a run that are damaged: no effect, computed anew, or named."""

import io
import shutil

import jax
import numpy as np
import pytest
import resume
import runs

from dmm_jax import checkpoints
from dmm_jax import records
from experiments import gallery
from experiments import random_scaling
from experiments import train_classifier
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
  methods=('linear',),
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
  for number in range(2):
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


def test_200_random_damages_of_checkpoints_and_logs(tmp_path):
  key = lambda step: jax.random.normal(jax.random.key(step), (3, 4))
  state = lambda step: {'params': {'w': key(step)}, 'stats': {'n': step}}
  about, steps = {'model': 'mlp', 'widths': [3, 4]}, (1, 4)
  folder = tmp_path / 'checkpoints'
  with checkpoints.writer(folder, about, keep=steps) as save:
    for step in steps:
      save(step, state(step))
      records.log(tmp_path, step=step, loss=float(key(step)[0, 0]))
  wanted = {step: checkpoints.read(folder, step=step) for step in steps}
  rows = records.read_steps(tmp_path)
  assert [row['step'] for row in rows] == [1, 4]
  rng, refused = np.random.default_rng(2), 0
  files = [path for path in tmp_path.rglob('*') if path.is_file()]
  for _ in range(200):
    file = files[rng.integers(len(files))]
    whole = file.read_bytes()
    file.write_bytes(damage(rng, whole))
    assert all(row in rows for row in records.read_steps(tmp_path))
    step = 4 if folder / '4' in file.parents else 1
    try:
      found = checkpoints.read(folder, step=step)
      np.testing.assert_equal(found, wanted[step])
    except checkpoints.DamagedCheckpointError as error:
      assert str(folder / str(step)) in str(error)
      assert len(str(error).splitlines()) == 1
      refused += 1
    file.write_bytes(whole)
  assert refused > 60


@pytest.mark.slow
def test_damaged_training_goes_on_to_the_same_network(tmp_path, monkeypatch):
  resume.draw_quickly(monkeypatch)
  toy = dict(widths='16', epochs=3, num_train=300, num_test=100, batch_size=100)
  config = lambda path: train_classifier.Config(workdir=str(path), **toy)
  train_classifier.run(config(tmp_path / 'whole'))
  wanted = checkpoints.read(tmp_path / 'whole' / 'checkpoints')
  rng = np.random.default_rng(3)
  for number in range(4):
    broken = shutil.copytree(tmp_path / 'whole', tmp_path / str(number))
    text = (broken / 'flags.txt').read_text()
    text = text.replace(str(tmp_path / 'whole'), str(broken))
    (broken / 'flags.txt').write_text(text)
    run = records.read_json(broken / 'run.json', sealed=True)
    run.pop('finished')
    records.write_json(broken / 'run.json', run, sealed=True)
    for name in ('results.npz', 'report.json'):
      (broken / name).unlink()
    for file in [*broken.rglob('checkpoints/**/*'), broken / 'metrics.jsonl']:
      if file.is_file() and rng.uniform() < 0.2 * number:
        file.write_bytes(damage(rng, file.read_bytes()))
    train_classifier.run(config(broken))
    for name in ('results.npz', 'report.json'):
      same = (tmp_path / 'whole' / name).read_bytes()
      assert (broken / name).read_bytes() == same
    found = checkpoints.read(broken / 'checkpoints')
    np.testing.assert_equal(found, wanted)
    assert records.read_steps(broken) == records.read_steps(tmp_path / 'whole')
