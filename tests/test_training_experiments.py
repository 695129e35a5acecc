"""The training scripts at toy size: learned, killed, measured, refused."""

import json
import random
import shutil
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
import resume

from dmm_jax import checkpoints
from dmm_jax import records
from dmm_jax import statistics
from dmm_jax import train
from experiments import boundary_distances
from experiments import dimple_depth
from experiments import manifold_split
from experiments import networks
from experiments import train_autoencoder
from experiments import train_classifier
from experiments.lib import flags
from experiments.lib import tables

TOY = dict(widths='16', epochs=3, num_train=400, num_test=100)


@pytest.fixture(autouse=True)
def empty_figures(monkeypatch):
  resume.draw_quickly(monkeypatch)


def classifier(workdir, **more):
  return train_classifier.Config(workdir=str(workdir), **(TOY | more))


def autoencoder(workdir, **more):
  return train_autoencoder.Config(
    workdir=str(workdir), **(TOY | dict(widths='4,8') | more)
  )


def test_a_classifier_is_trained_kept_and_measured(tmp_path, capsys):
  run_dir = tmp_path / 'net'
  result = train_classifier.run(classifier(run_dir, learning_rate=0.01))
  (row,) = tables.to_dicts(result.report.tables[0])
  assert row['verdict'] == 'learned' and row['steps'] == 9
  assert row['parameters'] == 64 * 16 + 16 + 160 + 10
  table, steps = result.table, [0, 1, 2, 3, 5, 6, 9]
  assert table['step'].tolist() == steps
  ends = np.isfinite(table['test_accuracy'])
  assert table['step'][ends].tolist() == [3, 6, 9]
  assert table['epoch'][ends].tolist() == [1, 2, 3]
  assert checkpoints.steps(run_dir / 'checkpoints') == steps
  logged = [row['loss'] for row in records.read_steps(run_dir)]
  np.testing.assert_array_equal(table['loss'], logged)
  xs, labels = train_classifier.load(classifier(run_dir))['test']
  found = networks.read(run_dir)
  apply = lambda x: found.module.apply(networks.variables(found.state), x)[0]
  predicted = np.argmax(jax.vmap(apply)(xs), 1)
  wanted = statistics.proportion(predicted == labels, unit='images')
  np.testing.assert_allclose(row['test set'][:3], wanted[:3])
  assert row['test set'][3:] == (100, 'images')
  assert row['guess'] == np.bincount(labels).max() / 100
  assert (run_dir / 'figures/learning_curves.png').is_file()
  out = capsys.readouterr().out
  assert f'{row["test set"].value:.1%} [' in out and ': learned.' in out

  measured = boundary_distances.run(
    boundary_distances.Config(
      workdir=str(tmp_path / 'measured'),
      checkpoint=str(run_dir),
      num_examples=20,
      num_untrained=1,
      norms=(2.0,),
      method='fast',
    )
  )
  first = records.select(measured.table, kind='trained')
  np.testing.assert_array_equal(first['predicted'], predicted[:20])
  # A dense network has certified bounds.
  assert 0 < measured.report.tables[1].rows[0][6] <= 1
  claim, _ = measured.report.claims
  assert claim.reason.startswith('there is one trained network')


def test_networks_of_one_run_have_one_architecture(tmp_path):
  for name, widths in (('one', '16'), ('other', '8')):
    config = classifier(tmp_path / name, widths=widths, epochs=1, num_train=64)
    train_classifier.run(config)
  for names in (('one', 'other'), ('one', 'one')):
    config = boundary_distances.Config(
      workdir=str(tmp_path / 'measured'),
      checkpoint=','.join(str(tmp_path / name) for name in names),
    )
    with pytest.raises(flags.FlagError, match='different runs, of networks of'):
      boundary_distances.run(config)
  assert not (tmp_path / 'measured').exists()


def test_another_set_is_refused(tmp_path):
  net = str(tmp_path / 'net')
  train_classifier.run(classifier(net, labels='parity', epochs=1))
  for script, flag in (
    (boundary_distances, dict(checkpoint=net)),
    (manifold_split, dict(checkpoints=(net,))),
    (dimple_depth, dict(plain=net, robust=net)),
  ):
    config = script.Config(workdir=str(tmp_path / 'measured'), **flag)
    with pytest.raises(flags.FlagError, match=r'on digits.*2 classes'):
      script.run(config)
  with pytest.raises(checkpoints.CheckpointError, match='of kind'):
    networks.read_for(net, (8, 8, 1), kind='autoencoder')
  with pytest.raises(checkpoints.CheckpointError, match='of kind'):
    networks.read(tmp_path / 'net', kind='autoencoder')
  assert not (tmp_path / 'measured').exists()


@pytest.mark.parametrize(
  'given',
  [
    dict(model='cnn', channels='4,4', radius=0.5, attack_steps=2),
    pytest.param(
      dict(model='resnet20', widths='', epochs=1, optimizer='momentum', crop=1),
      marks=pytest.mark.slow,
    ),
    dict(
      loss='hinge',
      label_noise=0.2,
      dtype='bfloat16',
      flip=True,
    ),
    dict(radius=0.1, norm=np.inf, trades=2.0, attack_steps=2),
  ],
)
def test_every_way_of_training_runs(tmp_path, given):
  small = dict(num_train=64, num_test=20, batch_size=32)
  result = train_classifier.run(classifier(tmp_path, **(small | given)))
  assert np.isfinite(result.table['loss'][1:]).all()


def test_verdicts_are_what_intervals_say():
  config = classifier('')
  for accuracy, said in ((0.3, 'learned'), (0.22, 'not told apart from')):
    last = dict(test_accuracy=accuracy, guess=0.2, num_test=100, step=9)
    rows = last | dict(loss=0.1, train_accuracy=1.0, parameters=5)
    rows = {name: np.array([0, value]) for name, value in rows.items()}
    report = train_classifier.analyze(config, {'results': rows})
    assert report.tables[0].rows[0][-1].startswith(said)
    assert said in report.answer
  config, rng = autoencoder(''), np.random.default_rng(0)
  rows = {name: np.array([0, 9]) for name in ('parameters', 'step', 'loss')}
  images = {'image': np.zeros((1, 4, 4, 1))}
  for shift, said in ((-0.5, 'better'), (0.0, 'not better'), (1, 'not better')):
    pca = rng.uniform(6, 7, 100)
    errors = {'error': pca + rng.normal(shift, 1, 100), 'pca_error': pca}
    report = train_autoencoder.analyze(
      config, {'results': rows, 'errors': errors, 'images': images}
    )
    assert f': {said} than PCA.' in report.answer


@pytest.fixture(scope='module')
def coded(tmp_path_factory):
  """A run of an auto-encoder held against distances, and its chunks."""
  directory = tmp_path_factory.mktemp('coded')
  other = dict(
    kind=np.repeat(['trained', 'untrained'], 20),
    network=np.tile(np.repeat([0, 1], 10), 2),
    norm=np.tile([2.0, np.inf], 20),
    distance=np.arange(40.0),
  )
  records.save_columns(directory / 'distances' / 'results.npz', other)
  config = lambda path: autoencoder(path, distances=f'{directory}/distances')
  finished = resume.run_keeping_chunks(train_autoencoder.run, config, directory)
  return config, finished


def test_an_autoencoder_is_held_against_pca(coded):
  config, (run_dir, result, _) = coded
  xs = train_autoencoder.load(config(run_dir))['test']
  found = networks.read(run_dir, kind='autoencoder')
  forward = train.flax_forward(found.module)
  images = train.outputs(forward, found.state, xs)
  squares = np.mean((images - xs) ** 2, axis=(1, 2, 3))
  errors, pictures = result.tables['errors'], result.tables['images']
  np.testing.assert_allclose(errors['error'], squares, rtol=1e-4)
  np.testing.assert_array_equal(pictures['image'], xs[:8])
  for code, error in (('auto_encoder', 'error'), ('pca', 'pca_error')):
    mean = np.mean((pictures[code] - xs[:8]) ** 2, axis=(1, 2, 3))
    np.testing.assert_allclose(mean, errors[error][:8], rtol=1e-4)
  last = result.table['test_error'][-1]
  assert last == pytest.approx(squares.mean(), rel=1e-4)
  own, pca, less, boundary = tables.to_dicts(result.report.tables[0])
  assert own['squared error'].value == pytest.approx(last, rel=1e-4)
  assert own['squared error'][3:] == (100, 'images')
  lengths = np.sort(np.linalg.norm((images - xs).reshape(100, -1), axis=1))
  assert own['l2 distance'].value == pytest.approx(lengths[49], rel=1e-4)
  assert less['squared error'].value == pytest.approx(
    own['squared error'].value - pca['squared error'].value
  )
  # Of l2 and of the first network alone: 0, 2, ..., 8.
  assert boundary['l2 distance'].value == 4 and boundary['l2 distance'].n == 5
  assert {path.stem for path in (run_dir / 'figures').glob('*.png')} == {
    'error',
    'reconstructions',
  }


@pytest.mark.parametrize(
  'lost', [['errors'], ['images', 'distances'], ['errors', 'images']]
)
def test_errors_that_were_lost_need_no_training(
  coded, tmp_path, monkeypatch, lost
):
  config, finished = coded
  shutil.copytree(
    finished[0] / 'checkpoints', tmp_path / 'broken' / 'checkpoints'
  )
  monkeypatch.delattr(train, 'fit')
  again = resume.assert_same_bytes(
    train_autoencoder.run, config, finished, tmp_path, lost=lost
  )
  assert again == set(lost)


def test_nothing_is_measured_after_training_that_failed(tmp_path):
  config = autoencoder(
    tmp_path, optimizer='sgd', learning_rate=1e30, schedule='constant'
  )
  with pytest.raises(FloatingPointError, match=r'at step \d+'):
    train_autoencoder.run(config)
  assert not list(tmp_path.rglob('errors.npz'))


def test_distances_have_to_be_there(tmp_path):
  other = dict(kind=['a'], network=[0], norm=[1.0], distance=[0.5])
  other = {name: np.array(column) for name, column in other.items()}
  records.save_columns(tmp_path / 'results.npz', other)
  config = autoencoder(tmp_path / 'run', distances=str(tmp_path))
  with pytest.raises(flags.FlagError, match='has no l2 distances'):
    train_autoencoder.run(config)
  assert not (tmp_path / 'run').exists()


def test_a_vae_is_trained(tmp_path):
  result = train_autoencoder.run(
    autoencoder(tmp_path, model='vae', epochs=1, num_train=64, batch_size=32)
  )
  assert result.table['step'][-1] == 2
  assert np.isfinite(result.table['test_error'][-1])


@pytest.mark.parametrize(
  'given, message',
  [
    (dict(widths='a,b'), 'not numbers such as'),
    (dict(channels='3'), "--channels: --model=mlp has no attribute 'channels'"),
    (dict(model='unet'), '--model=unet is unknown'),
    (dict(trades=2.0), '--trades=2.0 needs a --radius'),
    (dict(dataset='nothing_like_it'), 'nothing_like_it'),
  ],
)
def test_bad_flags_are_named(tmp_path, given, message):
  with pytest.raises((ValueError, FileNotFoundError), match=message):
    train_classifier.run(classifier(tmp_path / 'run', **given))
  assert not (tmp_path / 'run').exists()


def test_a_diverging_run_names_the_step_and_keeps_the_last_checkpoint(tmp_path):
  config = classifier(
    tmp_path,
    loss='squared',
    optimizer='sgd',
    learning_rate=1e9,
    schedule='constant',
  )
  with pytest.raises(FloatingPointError, match=r'at step \d+'):
    train_classifier.run(config)
  kept = checkpoints.read(tmp_path / 'checkpoints')
  assert kept.step == max(checkpoints.steps(tmp_path / 'checkpoints'))
  first = checkpoints.read(tmp_path / 'checkpoints', step=0)
  assert all(np.isfinite(v).all() for v in jax.tree.leaves(first.state))


def command(workdir):
  flags = dict(widths=64, epochs=60, num_train=400, batch_size=20)
  given = [f'--{name}={value}' for name, value in flags.items()]
  module = 'experiments.train_classifier'
  return [sys.executable, '-m', module, f'--workdir={workdir}', *given]


def kill_and_finish(tmp_path, kills):
  """Kills a run after some more checkpoints each time; compares to a whole."""
  subprocess.run(command(tmp_path / 'whole'), check=True, capture_output=True)
  broken, rng = tmp_path / 'broken', random.Random(0)
  folder = broken / 'checkpoints'
  for _ in range(kills):
    last = max(checkpoints.steps(folder), default=-1)
    process = subprocess.Popen(
      command(broken), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    while max(checkpoints.steps(folder), default=-1) <= last:
      assert process.poll() is None, 'the run ended before it could be killed'
      time.sleep(0.01)
    time.sleep(rng.uniform(0, 0.5))
    process.send_signal(signal.SIGKILL)
    process.wait()
  subprocess.run(command(broken), check=True, capture_output=True)
  assert_same(tmp_path / 'whole', broken)


def assert_same(whole, broken):
  for name in ('results.npz', 'columns.json', 'report.json'):
    assert (broken / name).read_bytes() == (whole / name).read_bytes(), name
  ends = [checkpoints.read(d / 'checkpoints') for d in (whole, broken)]
  one, other = (jax.tree.leaves(end.state) for end in ends)
  for a, b in zip(one, other, strict=True):
    np.testing.assert_array_equal(a, b)
  assert json.loads((broken / 'run.json').read_text())['finished']


def test_a_broken_run_ends_with_the_same_parameters(tmp_path):
  """guarantees.md: the same bytes as an unbroken run; here at a bad moment."""
  given = dict(batch_size=100, learning_rate=0.01, dataset='digits')
  whole, broken = tmp_path / 'whole', tmp_path / 'broken'
  train_classifier.run(classifier(whole, **given))
  shutil.copytree(whole, broken)
  text = (whole / 'flags.txt').read_text()
  (broken / 'flags.txt').write_text(text.replace(str(whole), str(broken)))
  # The last epoch is lost, and a line of the log is cut short.
  for name in ('results.npz', 'report.json'):
    (broken / name).unlink()
  folder = broken / 'checkpoints'
  last, *_ = checkpoints.steps(folder)[::-1]
  assert last == 12
  for step in (last, 10):
    shutil.rmtree(folder / str(step))
  lines = (broken / 'metrics.jsonl').read_text().splitlines(keepends=True)
  steps = [json.loads(line).get('step', 0) for line in lines]
  cut = next(i for i, step in enumerate(steps) if step > 8)
  (broken / 'metrics.jsonl').write_text(''.join(lines[:cut]) + lines[cut][:9])
  train_classifier.run(classifier(broken, **given))
  assert_same(whole, broken)


def test_what_a_loss_of_power_left_is_trained_again(tmp_path, capsys):
  """A checkpoint without contents; a log without some of its lines; or any."""
  given = dict(batch_size=100, learning_rate=0.01, dataset='digits')
  whole = tmp_path / 'whole'
  train_classifier.run(classifier(whole, **given))
  rows = records.read_steps(whole)
  for name, kept in (('empty', len(rows)), ('short', 3), ('none', 0)):
    broken = tmp_path / name
    shutil.copytree(whole, broken)
    text = (whole / 'flags.txt').read_text()
    (broken / 'flags.txt').write_text(text.replace(str(whole), str(broken)))
    run = records.read_json(broken / 'run.json', sealed=True)
    run.pop('finished')
    records.write_json(broken / 'run.json', run, sealed=True)
    (broken / 'results.npz').unlink()
    lines = (broken / 'metrics.jsonl').read_text().splitlines(keepends=True)
    (broken / 'metrics.jsonl').write_text(''.join(lines[:kept]))
    last = max(checkpoints.steps(broken / 'checkpoints'))
    if name == 'empty':
      for path in (broken / 'checkpoints' / str(last)).rglob('d/*'):
        path.write_bytes(b'')
    capsys.readouterr()
    train_classifier.run(classifier(broken, **given))
    said = capsys.readouterr().err
    assert (f'/{last}' in said and 'an earlier one' in said) == (
      name == 'empty'
    )
    assert_same(whole, broken)
    # What is drawn is the same too.
    assert records.read_steps(broken) == rows


@pytest.mark.slow
def test_a_run_killed_five_times_ends_with_the_same_parameters(tmp_path):
  kill_and_finish(tmp_path, 5)
