"""Clinging and dimpling, at toy size."""

import json

import jax
import numpy as np
import pytest
import resume

from dmm_jax import records
from experiments import clinging_dimpling as clinging
from experiments.lib import flags

TOY = dict(
  datasets=('line', 'chessboard'),
  widths='16',
  num_seeds=2,
  init_scales=(1.0, 2.0),
  weight_decays=(0.0, 0.1),
  num_examples=8,
  steps=5,
)


def toy(workdir, **more):
  return clinging.Config(workdir=str(workdir), **(TOY | more))


@pytest.fixture(scope='module')
def finished(tmp_path_factory):
  return resume.run_keeping_chunks(
    clinging.run, toy, tmp_path_factory.mktemp('run')
  )


def test_every_step_of_every_network_is_measured(finished):
  run_dir, summary, _ = finished
  rows = records.load_columns(run_dir / 'results.npz')
  assert len(np.unique(rows['condition'])) == 4
  assert set(rows['step']) == {0, 1, 2, 3, 5}
  line = records.select(rows, dataset='line')
  assert len(line['index']) == 4 * 2 * 5 * 5
  assert np.all(line['distance'] > 0) and not np.isnan(line['distance']).any()
  # Margins of one's own class are never negative.
  assert np.all(rows['own_margin'] >= np.abs(rows['margin']) - 1e-6)
  for row in summary['rows']:
    assert len(row['words']) == 2 and row['verdict'] == 'undecided'
  first, *_ = summary['rows']
  of = records.select(line, condition=first['condition'], seed=0, step=5)
  assert (
    np.mean(of['margin'] > 0)
    == clinging.curves(line_of(first, line))[1]['right'][0, -1]
  )


def line_of(row, table):
  return records.select(table, condition=row['condition'])


def test_networks_are_those_of_their_condition(finished):
  rows = records.load_columns(finished[0] / 'results.npz')
  line = records.select(rows, dataset='line', step=0)
  plain = records.select(line, condition='scale 1, decay 0, true')
  decayed = records.select(line, condition='scale 1, decay 0.1, true')
  shuffled = records.select(line, condition='scale 1, decay 0, shuffled')
  scaled = records.select(line, condition='scale 2, decay 0, true')
  for other in (decayed, shuffled):
    np.testing.assert_allclose(other['gradient'], plain['gradient'], rtol=1e-5)
  # Two layers, without biases at the start.
  np.testing.assert_allclose(
    scaled['gradient'], 4 * plain['gradient'], rtol=1e-4
  )


def test_figures_are_drawn(finished):
  names = 'curves.png conditions.png line.png line.gif chessboard.html'
  for name in names.split():
    assert (finished[0] / 'figures' / name).is_file()


def test_a_broken_run_ends_with_the_same_bytes(finished, tmp_path):
  resume.assert_goes_on(
    clinging.run,
    toy,
    finished,
    tmp_path,
    lost='chessboard-0.1',
    kept=('line.npz', 'chessboard.npz'),
    same=('results.npz', 'summary.json'),
  )


STEPS = np.array([0, 1, 10, 100, 1000])


@pytest.mark.parametrize(
  'gap, right, word, clings, fits',
  [
    ([1, 0.9, 0.1, 0.1, 0.2], [0.5, 0.5, 0.5, 0.6, 1], 'two phases', 10, 1000),
    ([1, 0.9, 0.9, 0.1, 0.1], [0.5, 0.5, 0.9, 1.0, 1], 'together', 100, 10),
    ([1, 0.9, 0.8, 0.7, 0.9], [0.5, 0.5, 0.9, 1.0, 1], 'no clinging', 10, 10),
    ([1, 0.9, 0.1, 0.1, 0.1], [0.5, 0.5, 0.5, 0.6, 0.6], 'not fitted', 10, 100),
    (
      [np.inf, 1, 0.1, 0.1, 0.1],
      [0.5, 0.5, 0.5, 0.6, 1],
      'two phases',
      10,
      1000,
    ),
    ([np.inf] * 5, [0.5, 0.5, 0.5, 0.6, 1], 'no clinging', np.nan, 1000),
  ],
)
def test_phases_follow_the_rule(gap, right, word, clings, fits):
  found = clinging.phases(
    STEPS, np.array(gap, float), np.array(right), np.ones(5)
  )
  assert (found.word, found.fits) == (word, fits)
  np.testing.assert_equal(found.clings, float(clings))
  # Gradients did not grow: the fall is all the margins'.
  assert found.by_gradient == 0 or np.isnan(found.by_gradient)


def test_what_gradients_make_of_the_fall():
  gap, gradient = (
    np.array([1, 0.5, 0.25, 0.25, 0.25]),
    np.array([1, 1, 2, 2, 9]),
  )
  right = np.linspace(0, 1, 5)
  found = clinging.phases(STEPS, gap, right, gradient)
  np.testing.assert_allclose(found.by_gradient, 0.5)


def test_verdict_follows_the_rule():
  assert clinging.verdict(5 * ['together']) == 'together'
  assert clinging.verdict(4 * ['together'] + ['two phases']) == 'undecided'


def test_flips_are_found():
  row = dict(dataset='a', weight_decay=0.0, labels='true')
  rows = [
    row | dict(init_scale=1.0, verdict='x'),
    row | dict(init_scale=1.0, verdict='z', labels='shuffled'),
    row | dict(init_scale=0.3, verdict='y'),
    row | dict(init_scale=3.0, verdict='x'),
  ]
  (flip,) = clinging.flips(rows)
  assert flip == dict(dataset='a', between=[0.3, 1.0], before='y', after='x')


@pytest.mark.parametrize(
  'given, message',
  [
    (dict(datasets=('line', 'line')), r'--datasets names a value twice'),
    (dict(widths='a'), 'not numbers such as'),
    (dict(num_seeds=0), r'--num_seeds=0 is too small'),
  ],
)
def test_bad_flags_are_named_and_nothing_is_written(tmp_path, given, message):
  with pytest.raises(flags.FlagError, match=message):
    clinging.run(toy(tmp_path / 'run', **given))
  assert not (tmp_path / 'run').exists()


def test_sets_have_tangents_for_what_is_measured():
  config = toy('unused', num_examples=5)
  for name in (*clinging.SYNTHETIC, 'digits'):
    sample = clinging.load(config, name)
    assert len(sample.tangents) == 5 and len(sample.xs) >= 5
    gram = sample.tangents @ sample.tangents.swapaxes(1, 2)
    eye = np.broadcast_to(np.eye(gram.shape[1]), gram.shape)
    np.testing.assert_allclose(gram, eye, atol=1e-4)
    key = jax.random.key(0)
    condition = clinging.conditions(config)[1]
    labels = clinging.labels_of(condition, key, sample.labels)
    np.testing.assert_array_equal(np.sort(labels), np.sort(sample.labels))


def test_a_summary_is_what_was_written(finished):
  run_dir, summary, _ = finished
  written = (run_dir / 'summary.json').read_text()
  assert json.dumps(summary, indent=2) + '\n' == written
