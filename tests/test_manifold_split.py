"""On- and off-manifold distances, at toy size."""

import json

import numpy as np
import pytest
import resume

from dmm_jax import boundary
from dmm_jax import manifold
from dmm_jax import records
from experiments import manifold_split
from experiments.lib import flags

TOY = dict(
  num_examples=30,
  latent=4,
  epochs=3,
  ks=(4,),
  method='projection',
  max_gradients=30,
  batch_size=16,
  num_pictures=3,
)


def toy(workdir, **more):
  return manifold_split.Config(workdir=str(workdir), **(TOY | more))


@pytest.fixture(scope='module')
def finished(tmp_path_factory):
  return resume.run_keeping_chunks(
    manifold_split.run, toy, tmp_path_factory.mktemp('run')
  )


def test_every_subspace_is_searched_on_and_off(finished):
  run_dir, summary, _ = finished
  rows = records.load_columns(run_dir / 'results.npz')
  # Two starts: free, and on and off 8 subspaces.
  assert len(rows['distance']) == 30 * 2 * (1 + 2 * 8)
  assert len(summary['rows']) == 2 * 8
  image = records.select(rows, base='image')
  free = records.select(image, kind='free')
  right = free['status'] == boundary.Status.FOUND
  assert right.sum() > 15
  for side in ('on', 'off'):
    distance = records.select(image, kind='random', k=4, side=side)['distance']
    assert np.median(distance[right] / free['distance'][right]) >= 0.999
    np.testing.assert_array_equal(distance == 0, free['distance'] == 0)
  # A frame of 4 random directions has the tangent fraction that it should.
  drawn = records.select(image, kind='random', k=4, side='on')
  square = drawn['normal_fraction'][right] ** 2
  assert abs(square.mean() - 4 / 64) < 4 * (4 * 60 * 2 / 64**2 / 66 / 15) ** 0.5


def test_points_differ_from_images_within_the_subspace(finished):
  run_dir, _, _ = finished
  points = records.load_columns(run_dir / 'points.npz')
  of = records.select(points, base='image', kind='principal', k=4, side='on')
  xs = manifold_split.data.load('digits', 'train')[0]
  basis = manifold.principal_basis(xs, 4)
  step = of['point'] - of['x']
  np.testing.assert_allclose(
    [manifold.off(v, basis) for v in step], 0, atol=1e-4
  )
  there = np.isfinite(of['distance'])
  np.testing.assert_allclose(
    np.linalg.norm(step.reshape(len(step), -1), axis=1)[there],
    of['distance'][there],
    rtol=1e-4,
  )


def test_summary_tells_n_intervals_and_nulls(finished):
  run_dir, summary, _ = finished
  written = (run_dir / 'summary.json').read_text()
  assert json.dumps(summary, indent=2) + '\n' == written
  for row in summary['rows']:
    low, high = row['enrichment_by_normal']['interval']
    assert low <= row['enrichment_by_normal']['value'] <= high
    assert row['n'] <= 30 and row['random_on_over_free'] > 3
    null = row['kind'] == 'random'
    assert (row['verdict'] == 'the null') == null
  for name in ('ratios', 'enrichment', 'pictures'):
    assert (run_dir / f'figures/{name}.png').is_file()


def test_a_broken_run_ends_with_the_same_bytes(finished, tmp_path):
  resume.assert_goes_on(
    manifold_split.run,
    toy,
    finished,
    tmp_path,
    lost='decoded-other-4-on',
    kept=('classifier.npz', 'autoencoder.npz'),
    same=('results.npz', 'points.npz', 'summary.json'),
  )


@pytest.mark.parametrize(
  'given, message',
  [
    (dict(kinds=('moon',)), r'--kinds=moon is unknown.*decoder'),
    (dict(ks=(0,)), r'--ks=0 is too small'),
    (dict(ks=(64,)), r'--ks=64 .*64'),
  ],
)
def test_bad_flags_are_named_and_nothing_is_written(tmp_path, given, message):
  with pytest.raises(flags.FlagError, match=message):
    manifold_split.run(toy(tmp_path / 'run', **given))
  assert not (tmp_path / 'run').exists()
