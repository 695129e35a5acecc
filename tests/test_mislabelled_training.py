"""Mislabelled training, at toy size."""

import json

import jax
import numpy as np
import pytest
import resume

from dmm_jax import records
from experiments import mislabelled_training as mislabelled
from experiments.lib import flags

TOY = dict(
  num_train=300,
  epochs=4,
  learning_rate=3e-3,
  num_seeds=2,
  radii=(1.5,),
  attack_steps=5,
  brief_steps=2,
)


@pytest.fixture(autouse=True)
def empty_figures(monkeypatch):
  resume.draw_quickly(monkeypatch)


def toy(workdir, **more):
  return mislabelled.Config(workdir=str(workdir), **(TOY | more))


def test_every_arm_is_trained_and_tested(tmp_path, capsys):
  summary = mislabelled.run(toy(tmp_path))
  rows = records.load_columns(tmp_path / 'results.npz')
  assert len(rows['accuracy']) == 2 * 8
  by_arm = {row['arm']: row for row in summary['rows']}
  assert set(by_arm) == {*mislabelled.FREE, *mislabelled.MOVED}
  # Right labels teach, wrong ones without any step do not.
  assert by_arm['clean']['accuracy']['value'] > 0.6
  assert by_arm['unmoved']['accuracy']['value'] < 0.2
  assert by_arm['random']['reached'] > 0.5
  assert 0 < by_arm['mistakes']['examples'] < 300
  for row in summary['rows']:
    low, high = row['accuracy']['interval']
    assert low <= row['accuracy']['value'] <= high
  assert by_arm['noise']['verdict'] == 'the null'
  written = (tmp_path / 'summary.json').read_text()
  assert json.dumps(summary, indent=2) + '\n' == written
  assert (tmp_path / 'figures/accuracy.png').is_file()
  assert 'trained on' in capsys.readouterr().out
  # A finished run shows its results again.
  before = (tmp_path / 'results.npz').stat().st_mtime_ns
  mislabelled.run(toy(tmp_path))
  assert (tmp_path / 'results.npz').stat().st_mtime_ns == before


def test_wrong_labels_are_wrong_and_uniform():
  labels = np.arange(9000, dtype=np.int32) % 3
  wrong = mislabelled.wrong_labels(jax.random.key(0), labels, 3)
  assert not np.any(wrong == labels)
  np.testing.assert_allclose(np.mean((wrong - labels) % 3 == 1), 0.5, atol=0.03)


def test_noise_is_as_long_as_the_steps():
  xs = np.full((5, 4, 4, 1), 0.5, np.float32)
  moved = xs + 0.05 * np.arange(1, 6, dtype=np.float32)[:, None, None, None]
  noise = mislabelled.noisy(jax.random.key(0), xs, moved) - xs
  size = lambda v: np.linalg.norm(v.reshape(5, -1), axis=1)
  # Nearly all: a few pixels are cut at the range.
  np.testing.assert_allclose(size(noise), size(moved - xs), rtol=0.05)


def test_parts_of_the_steps_make_the_whole():
  xs = np.random.default_rng(0).uniform(0.4, 0.6, (40, 4, 4, 1))
  xs = xs.astype(np.float32)
  moved = xs + 0.1
  config = toy('unused', k=3)
  on, off = (
    mislabelled.in_part(config, xs, moved, arm) - xs for arm in ('on', 'off')
  )
  np.testing.assert_allclose(on + off, moved - xs, atol=1e-5)
  assert np.max(np.abs(np.sum(on * off, axis=(1, 2, 3)))) < 1e-5


def test_verdict_follows_the_rule():
  row = lambda low, high: {
    'arm': 'random',
    'accuracy': {'value': (low + high) / 2, 'interval': [low, high]},
  }
  verdict = mislabelled.verdict
  assert verdict(row(0.4, 0.5), (0.1, 0.2), 0.1) == 'teaches'
  assert verdict(row(0.01, 0.05), (0.08, 0.2), 0.1) == 'teaches the opposite'
  told = 'not told apart from noise'
  assert verdict(row(0.15, 0.5), (0.1, 0.2), 0.1) == told
  assert verdict(row(np.nan, np.nan), (0.1, 0.2), 0.1) == told


def test_bad_flags_are_named(tmp_path):
  with pytest.raises(flags.FlagError, match=r'--num_seeds=1 is too small'):
    mislabelled.run(toy(tmp_path / 'run', num_seeds=1))
