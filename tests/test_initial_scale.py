"""Distances against the scale of the start, at toy size."""

import json

import jax
import numpy as np
import pytest
import resume

from dmm_jax import manifold
from dmm_jax import records
from experiments import initial_scale
from experiments.lib import flags

TOY = dict(
  num_train=30,
  num_examples=12,
  k=6,
  dim=20,
  radius=4.0,
  widths='40',
  factors=(1.0, 4.0),
  num_seeds=2,
  max_steps=1500,
  method='projection',
  max_gradients=40,
)


@pytest.fixture(autouse=True)
def empty_figures(monkeypatch):
  resume.draw_quickly(monkeypatch)


def toy(workdir, **more):
  return initial_scale.Config(workdir=str(workdir), **(TOY | more))


@pytest.fixture(scope='module')
def finished(tmp_path_factory):
  return resume.run_keeping_chunks(
    initial_scale.run, toy, tmp_path_factory.mktemp('run')
  )


def test_networks_of_each_factor_are_measured(finished, capsys):
  run_dir, summary, _ = finished
  rows = records.load_columns(run_dir / 'results.npz')
  assert len(rows['free']) == 2 * 2 * 12
  one, four = summary['rows']
  assert one['right'] == four['right'] == 1 and one['wrong'] == 0
  # Weights outside the span are those of the start, divided.
  assert one['drift'] < 1e-5 and four['drift'] < 1e-5
  assert 2 < four['off']['value'] / one['off']['value'] < 8
  assert initial_scale.mean_found(np.array([0, 1, 2, np.inf])) == 1.5
  nearest = np.minimum(rows['on'], rows['off'])
  assert np.all(rows['free'] <= nearest * 1.02)
  written = (run_dir / 'summary.json').read_text()
  assert json.dumps(summary, indent=2) + '\n' == written
  assert (run_dir / 'figures/initial_scale.png').is_file()
  initial_scale.report(summary)
  assert 'off: slope against factors 1 to 4' in capsys.readouterr().out


def test_a_broken_run_ends_with_the_same_bytes(finished, tmp_path):
  resume.assert_goes_on(
    initial_scale.run,
    toy,
    finished,
    tmp_path,
    lost='factor4-0',
    kept=(),
    same=('results.npz', 'summary.json'),
  )


def test_weight_decay_shrinks_weights_outside_the_span_by_its_law():
  config = toy('unused', weight_decay=0.1, max_steps=60)
  xs, labels = initial_scale.load(config)
  basis = manifold.principal_basis(xs, config.k)
  before, after, steps, right = initial_scale.fit(
    config, jax.random.key(0), xs, labels, 1.0
  )
  assert 0 < steps <= 60 and 0.4 < right <= 1
  assert initial_scale.drift(config, before, after, basis, steps) < 1e-5
  # And the rule can fail.
  assert initial_scale.drift(config, before, after, basis, 0) > 0.01


def test_distances_of_a_linear_network_are_exact():
  config = toy('unused', widths='', max_steps=20)
  xs, labels = initial_scale.load(config)
  basis = manifold.principal_basis(xs, config.k)
  _, weights, *_ = initial_scale.fit(config, jax.random.key(0), xs, labels, 2.0)
  (w,) = np.asarray(weights[0])
  parts = {'free': w, 'on': basis.T @ basis @ w, 'off': w - basis.T @ basis @ w}
  label = np.array([xs[0] @ w < 0], np.int32)
  found = initial_scale.measure_sides(config, weights, xs[:1], label, basis)
  for side, part in parts.items():
    wanted = abs(xs[0] @ w) / np.linalg.norm(part)
    np.testing.assert_allclose(found[side], wanted, rtol=1e-4)


def test_verdicts_follow_the_rules():
  verdict = initial_scale.verdict
  assert verdict('off', (0.95, 1.05), 0.0) == 'proportional to the factor'
  assert verdict('off', (0.95, 1.05), 0.1) == 'undecided'
  assert verdict('off', (0.5, 1.05), 0.0) == 'grows'
  assert verdict('on', (-0.05, 0.05), 0.05) == 'constant'
  assert verdict('on', (-0.3, -0.1), 0.0) == 'falls'
  assert verdict('free', (-0.3, 0.1), 0.0) == 'undecided'


def test_images_may_be_the_data(tmp_path, monkeypatch):
  sizes = []

  def measure_sides(config, weights, xs, labels, basis):
    sizes.append((xs.shape, labels.shape, basis.shape))
    far = {side: np.ones(len(xs)) for side in initial_scale.SIDES}
    return far | {f'{side}_status': np.zeros(len(xs), int) for side in far}

  monkeypatch.setattr(initial_scale, 'measure_sides', measure_sides)
  summary = initial_scale.run(
    toy(
      tmp_path,
      dataset='digits',
      num_train=60,
      num_examples=5,
      max_steps=50,
      factors=(1.0,),
    )
  )
  (row,) = summary['rows']
  assert row['points'] == 5 and not summary['slopes']
  assert sizes == 2 * [((5, 64), (5,), (6, 64))]


@pytest.mark.parametrize(
  'given, message',
  [
    (dict(k=20), r'--k=20 has to be less than the 20 numbers'),
    (dict(widths='a'), 'not numbers such as'),
    (dict(num_seeds=1), r'--num_seeds=1 is too small'),
    (dict(k=19, num_train=19), r'--k=19 .* the 19 points to train on'),
    (dict(factors=(0.0, 1.0)), r'--factors and --widths have to be above 0'),
    (dict(method='luck'), r'--method=luck: .*portfolio'),
  ],
)
def test_bad_flags_are_named(tmp_path, given, message):
  with pytest.raises(flags.FlagError, match=message):
    initial_scale.run(toy(tmp_path / 'run', **given))
  assert not (tmp_path / 'run').exists()


def test_training_ends_at_the_most_steps():
  config = toy('unused', batch_size=7, max_steps=13, learning_rate=0.0)
  xs, labels = initial_scale.load(config)
  *_, steps, right = initial_scale.fit(
    config, jax.random.key(0), xs, labels, 1.0
  )
  assert steps == 13 and right < 1
