"""The everyday script, at toy size."""

import json

import numpy as np
import pytest
import resume

from dmm_jax import boundary
from dmm_jax import records
from experiments import boundary_distances
from experiments import common

TOY = dict(
  num_examples=20,
  width=32,
  depth=1,
  num_fresh=2,
  epochs=10,
  learning_rate=0.01,
  norms=(2.0,),
  method='fast',
  certify=False,
  batch_size=7,  # Not a multiple of the devices.
  num_points=10,
)
COLUMNS = (
  'network draw norm index label predicted target distance margin status '
  'gradients forwards alignment alignment_unboxed margin_at_point lower'
).split()


@pytest.fixture(autouse=True)
def empty_figures(monkeypatch):
  resume.draw_quickly(monkeypatch)


def toy(workdir, **more):
  return boundary_distances.Config(workdir=str(workdir), **(TOY | more))


@pytest.fixture(scope='module')
def finished(tmp_path_factory):
  return resume.run_keeping_chunks(
    boundary_distances.run, toy, tmp_path_factory.mktemp('run')
  )


def test_rows_are_examples_and_norms(finished):
  run_dir, _, _ = finished
  rows = records.load_columns(run_dir / 'results.npz')
  assert set(rows) == set(COLUMNS)
  assert len(rows['distance']) == 3 * 20
  trained, fresh = (rows['network'] == name for name in ('trained', 'fresh'))
  assert trained.sum() == 20 and set(rows['draw'][fresh]) == {0, 1}
  np.testing.assert_array_equal(rows['index'][trained], np.arange(20))
  wrong = rows['label'] != rows['predicted']
  np.testing.assert_array_equal(rows['distance'] == 0, wrong)
  np.testing.assert_array_equal(
    rows['status'] == boundary.Status.MISCLASSIFIED, wrong
  )
  assert not wrong[fresh].any(), 'untrained networks have their own labels'
  found = rows['status'] == boundary.Status.FOUND
  assert found.sum() > 30
  np.testing.assert_array_equal(np.isinf(rows['distance']), ~found & ~wrong)
  assert np.all(rows['margin'][found] > 0)
  assert np.all(rows['margin_at_point'][found] <= 0)
  assert np.all(rows['target'][found] != rows['label'][found])
  assert np.median(rows['alignment'][found]) > 0.9
  assert np.all(np.isnan(rows['lower']))


def test_points_are_at_their_distance_and_have_their_target(finished):
  run_dir, _, _ = finished
  points = records.load_columns(run_dir / 'points.npz')
  assert points['x'].shape == (3 * 10, 8, 8, 1)
  step = (points['point'] - points['x']).reshape(30, -1)
  there = np.isfinite(points['distance'])
  np.testing.assert_allclose(
    np.linalg.norm(step, axis=1)[there], points['distance'][there], rtol=1e-5
  )
  assert points['point'].min() >= 0 and points['point'].max() <= 1


def test_summary_holds_the_numbers_of_the_rows(finished):
  run_dir, summary, _ = finished
  written = (run_dir / 'summary.json').read_text()
  assert json.dumps(summary, indent=2) + '\n' == written
  trained, fresh = summary['rows']
  rows = records.load_columns(run_dir / 'results.npz')
  own = rows['distance'][rows['network'] == 'trained']
  assert trained['quantiles']['50']['value'] == np.sort(own)[9]
  assert trained['misclassified']['value'] == np.mean(own == 0) < 0.6
  assert (trained['n'], fresh['n'], fresh['examples']) == (20, 40, 20)
  assert len(fresh['by_draw']) == 2 and fresh['misclassified']['value'] == 0
  (compared,) = summary['compared_with_untrained']
  low, high = compared['ratio']['interval']
  assert low <= compared['ratio']['value'] <= high
  assert 'untrained' in compared['verdict']


def test_figures_are_drawn_from_the_files(finished):
  run_dir, _, _ = finished
  for name in ('robust_accuracy', 'histogram', 'points_l2'):
    for ending in ('png', 'pdf'):
      assert (run_dir / f'figures/{name}.{ending}').is_file()


def test_training_learns(finished):
  lines = (finished[0] / 'metrics.jsonl').read_text().splitlines()
  losses = [v['loss'] for v in map(json.loads, lines) if 'loss' in v]
  assert len(losses) == 10 and losses[-1] < 0.7 * losses[0]


def test_a_broken_run_trains_anew_to_the_same_bytes(finished, tmp_path):
  resume.assert_goes_on(
    boundary_distances.run,
    toy,
    finished,
    tmp_path,
    lost='trained0-l2-000007',
    kept=(),
    same=('network.npz', 'results.npz', 'points.npz', 'summary.json'),
  )


def test_fresh_convolutional_network_of_some_classes(tmp_path, capsys):
  summary = boundary_distances.run(
    toy(
      tmp_path,
      model='convolutional',
      width=2,
      network='fresh',
      num_fresh=1,
      classes='3,8',
      norms=(np.inf,),
      box=False,
      num_examples=6,
    )
  )
  assert not summary['compared_with_untrained'] and len(summary['rows']) == 1
  rows = records.load_columns(tmp_path / 'results.npz')
  assert set(rows['label']) <= {3, 8} and set(rows['target']) <= {3, 8, -1}
  # Their numbers in the split, of which a fifth are a 3 or an 8.
  assert rows['index'].max() > 10
  out = capsys.readouterr().out
  assert 'fresh' in out and 'not found' in out and 'figures:' in out


def test_certified_bounds_lie_below_the_distances(tmp_path):
  summary = boundary_distances.run(
    toy(tmp_path, certify=True, num_examples=8, num_fresh=1)
  )
  rows = records.load_columns(tmp_path / 'results.npz')
  assert np.all(rows['lower'] <= rows['distance'] * (1 + 1e-5))
  found = rows['status'] == boundary.Status.FOUND
  assert np.all(rows['lower'][found] > 0)
  for row in summary['rows']:
    assert row['lower_violations'] == 0
    assert 0.3 < row['lower_over_distance'] <= 1


@pytest.mark.parametrize(
  'flags, message',
  [
    (dict(model='vgg'), r'--model=vgg is unknown; it is one of fully_conn'),
    (dict(method='luck'), r'--method=luck: .*portfolio'),
    (dict(norms=(3.0,)), r'--norms=3.0 is unknown'),
    (dict(classes='3'), r'--classes=3 has to name at least two of 0, 1'),
    (dict(classes='3,12'), r'--classes=3,12 has to name'),
    (dict(classes='cat'), r'--classes=cat is neither all nor numbers'),
    (dict(num_examples=0), r'--num_examples=0 is too small; at least 1'),
    (dict(split='validation'), r'--split=validation is unknown'),
  ],
)
def test_bad_flags_are_named_and_nothing_is_written(tmp_path, flags, message):
  with pytest.raises(common.FlagError, match=message):
    boundary_distances.run(toy(tmp_path / 'run', **flags))
  assert not (tmp_path / 'run').exists()


def test_verdict_follows_the_rule():
  verdict = boundary_distances.verdict
  assert verdict((1.1, 2.0), 3.0, [1.0, 2.0]) == 'farther than untrained'
  assert verdict((0.5, 0.9), 0.5, [1.0, 2.0]) == 'nearer than untrained'
  told = 'not told apart from untrained'
  assert verdict((0.9, 2.0), 3.0, [1.0, 2.0]) == told
  assert verdict((1.1, 2.0), 3.0, [1.0, 3.5]) == told
  assert 'too little' in verdict((np.nan, 2.0), 3.0, [1.0])
