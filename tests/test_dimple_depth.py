"""Depth of dimples, at toy size."""

import json

import numpy as np
import pytest
import resume

from dmm_jax import boundary
from dmm_jax import records
from experiments import dimple_depth
from experiments.lib import flags

TOY = dict(
  num_examples=30,
  batch_size=16,
  latent=4,
  epochs=4,
  radii=(0.5,),
  trades=0.0,
  method='projection',
  max_gradients=30,
)


@pytest.fixture(autouse=True)
def empty_figures(monkeypatch):
  resume.draw_quickly(monkeypatch)


def toy(workdir, **more):
  return dimple_depth.Config(workdir=str(workdir), **(TOY | more))


def test_networks_are_measured_and_held_against_the_plain_one(tmp_path, capsys):
  summary = dimple_depth.run(toy(tmp_path))
  rows = records.load_columns(tmp_path / 'results.npz')
  assert len(rows['free']) == 2 * 30
  found = rows['free_status'] == boundary.Status.FOUND
  for side in ('on', 'off'):
    assert np.all(rows[side][found] >= rows['free'][found] * 0.98)
  flat = found & np.isfinite(rows['on'] + rows['off'])
  whole = (rows['on'][flat] ** -2.0 + rows['off'][flat] ** -2.0) ** -0.5
  assert 0.8 < np.median(rows['free'][flat] / whole) < 1.25
  crossing = rows['crossing'][found]
  assert np.all((crossing > 0) & ((crossing <= 1) | np.isinf(crossing)))
  plain, hard = summary['rows']
  assert plain['network'] == 'plain' and 'verdicts' not in plain
  assert len(hard['verdicts']) == 3 and plain['n'] == hard['n']
  mine = records.select(rows, network='PGD 0.5')
  other = records.select(rows, network='plain')
  both = (mine['free'] > 0) & (other['free'] > 0)
  growth = np.sort(mine['free'][both] / other['free'][both])
  want = growth[(len(growth) - 1) // 2]
  np.testing.assert_allclose(hard['free_growth']['value'], want, rtol=1e-6)
  written = (tmp_path / 'summary.json').read_text()
  assert json.dumps(summary, indent=2) + '\n' == written
  assert (tmp_path / 'figures/depth.png').is_file()
  assert 'normal in tangents' in capsys.readouterr().out


def entries(**intervals):
  return {name: {'interval': pair} for name, pair in intervals.items()}


def test_verdicts_follow_the_rules():
  deep = entries(
    off_over_on_growth=(1.1, 1.2),
    off_growth=(1.5, 2.0),
    turn=(0.1, 0.2),
    shift=(-0.1, 0.1),
  )
  assert dimple_depth.verdicts(deep) == [
    'dimples deepen',
    'normals turn to the manifold',
    'boundary stays',
  ]
  flat = entries(
    off_over_on_growth=(1.1, 1.2),
    off_growth=(0.9, 2.0),
    turn=(-0.2, -0.1),
    shift=(0.01, 0.1),
  )
  assert dimple_depth.verdicts(flat) == [
    'no deeper dimples',
    'normals turn away',
    'boundary moves',
  ]
  nothing = entries(
    off_over_on_growth=(np.nan, np.nan),
    off_growth=(1.5, 2.0),
    turn=(-0.2, 0.1),
    shift=(np.nan, np.nan),
  )
  assert dimple_depth.verdicts(nothing) == [
    'no deeper dimples',
    'normals stay',
    'boundary stays',
  ]


def test_the_nearest_image_of_another_class():
  xs = np.array([[0.0], [1.0], [3.0], [3.5]])
  labels = np.array([0, 0, 1, 0])
  np.testing.assert_array_equal(
    dimple_depth.opposite(xs, labels), [[3.0], [3.0], [3.5], [3.0]]
  )


def test_bad_flags_are_named(tmp_path):
  with pytest.raises(flags.FlagError, match=r'--norm=1.0 is unknown'):
    dimple_depth.run(toy(tmp_path / 'run', norm=1.0))
