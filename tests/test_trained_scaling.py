"""Distances of trained networks against dimension: toy run, planted worlds."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import resume

from dmm_jax import data
from dmm_jax import models
from dmm_jax import random_nets
from dmm_jax import records
from dmm_jax import scaling
from experiments import trained_scaling
from experiments.lib import claims
from experiments.lib import flags
from experiments.lib import runner
from experiments.lib import tables

TOY = dict(
  sizes=(4, 6),
  models=('mlp',),
  num_networks=2,
  num_train=256,
  num_examples=5,
  epochs=3,
  method='linear',
)
NORMS = trained_scaling.NORMS


def toy(workdir, **more):
  return trained_scaling.Config(workdir=str(workdir), **(TOY | more))


@pytest.fixture(scope='module')
def finished(tmp_path_factory):
  return resume.run_keeping_chunks(
    trained_scaling.run, toy, tmp_path_factory.mktemp('run')
  )


# --- Networks and images -----------------------------------------------------


@pytest.mark.parametrize('name', ['mlp', 'cnn'])
def test_networks_have_a_logit_for_each_class(name):
  net = trained_scaling.build(name, 7)
  x = jax.ShapeDtypeStruct((12, 12, 1), jnp.float32)
  (logits, _), _ = jax.eval_shape(
    lambda x: net.init_with_output(jax.random.key(0), x), x
  )
  assert logits.shape == (7,)


def test_blown_up_images_keep_the_content_of_the_smallest_size():
  xs, _ = data.load('digits', 'test[:3]')
  config = toy('unused', sizes=(4, 8))
  make = functools.partial(trained_scaling.resized, config)
  np.testing.assert_array_equal(make(xs, 'images', 8), xs)
  small = make(xs, 'images', 4)
  np.testing.assert_array_equal(make(xs, 'blown up', 4), small)
  again = data.resize(small, 8, 1)
  np.testing.assert_allclose(make(xs, 'blown up', 8), again, atol=1e-6)
  # Maps of a linear space: of 4 x 4 dimensions, whatever the pixels are.
  many, _ = data.load('digits', 'test[:60]')
  enlarged = make(many, 'blown up', 8).reshape(60, -1)
  assert np.linalg.matrix_rank(enlarged, tol=1e-3) <= 16
  assert np.linalg.matrix_rank(many.reshape(60, -1), tol=1e-3) > 40


def test_each_network_has_its_own_images_at_all_sizes():
  test, _ = data.load('digits', 'test')
  config = toy('', sizes=(4, 8))
  make = functools.partial(trained_scaling.to_measure, config, test)
  own = make(0, 'images', 8)
  assert own.shape == (10, 8, 8, 1)
  gap = np.abs(own[:5, None] - test[None]).max((2, 3, 4))
  assert np.all(gap.min(1) <= trained_scaling.BLEND)
  assert gap[:, :].argmin(1).tolist() != (
    np.abs(make(1, 'images', 8)[:5, None] - test[None])
    .max((2, 3, 4)).argmin(1).tolist()
  )  # fmt: skip
  small = make(0, 'images', 4)
  np.testing.assert_allclose(
    small[:5], data.resize(own[:5], 4, 1), atol=2 * trained_scaling.BLEND
  )
  assert 0.3 < own[5:].mean() < 0.7 and own.min() >= 0 and own.max() <= 1


def test_distances_of_a_linear_network_are_exact():
  net = models.Linear(2)
  x = np.full((1, 2, 2, 1), 0.5, np.float32)
  params = net.init(jax.random.key(0), x[0])['params']
  weights = np.asarray(jax.tree.leaves(params)[-1])
  gap = weights[:, 0] - weights[:, 1]
  flat = jax.flatten_util.ravel_pytree(params)[0]
  found, right = random_nets.measure_trained(
    flat,
    x,
    x,
    np.array([1]),
    module=net,
    exponents=NORMS,
    bounds=(0.0, 1.0),
    method='linear',
  )
  margin = np.abs(x.ravel() @ gap)
  # In l1 the steepest pixels move first, each by 1/2 at most.
  steep, left, greedy = np.sort(np.abs(gap))[::-1], margin, 0.0
  for rate in steep:
    moved = min(left / rate, 0.5)
    left, greedy = left - rate * moved, greedy + moved
  wanted = [greedy, *(margin / np.linalg.norm(gap, p) for p in (2, 1))]
  assert max(wanted[1:]) < 0.5  # There the box is no bound.
  np.testing.assert_allclose(found.distance[0], wanted, rtol=1e-3)
  sizes = [np.linalg.norm(x.ravel(), p) for p in NORMS]
  np.testing.assert_allclose(found.input_norm[0], sizes)
  assert right == float(x.ravel() @ gap < 0)


# --- The run -----------------------------------------------------------------


def test_networks_of_each_size_are_measured(finished, capsys):
  run_dir, result, _ = finished
  rows = result.table
  np.testing.assert_equal(rows, records.load_columns(run_dir / 'results.npz'))
  # Sizes and contents, trained or not, networks, inputs, norms.
  assert len(rows['distance']) == 3 * 2 * 2 * 10 * 3
  blown = records.select(rows, content='blown up')
  assert set(blown['n']) == {36} and set(rows['n']) == {16, 36}
  trained = records.select(rows, trained=True)
  assert trained['accuracy'].mean() > 0.2 > trained['guess'][0] + 0.05
  table = tables.to_dicts(result.report.tables[0])
  assert [(row['p'], row['at']) for row in table] == [
    (p, at) for p in NORMS for at in trained_scaling.PLACES
  ]
  for row in table:
    content, inputs = trained_scaling.PLACES[row['at']]
    medians = np.empty((2, 2))
    for i, state in enumerate((True, False)):
      for j, n in enumerate((16, 36)):
        of = records.select(
          rows, norm=row['p'], inputs=inputs, trained=state, n=n
        )
        of = records.select(of, content=content if n == 36 else 'images')
        medians[i, j] = np.median(of['distance'] / of['input_norm'])
    slopes = np.log(medians[:, 1] / medians[:, 0]) / np.log(36 / 16)
    np.testing.assert_allclose(row['trained'].value, slopes[0], rtol=1e-4)
    np.testing.assert_allclose(row['untrained'].value, slopes[1], rtol=1e-4)
    wanted = np.exp(np.mean(np.log(medians[0] / medians[1])))
    np.testing.assert_allclose(row['constant'].value, wanted, rtol=1e-5)
    law = min(scaling.laws(np.array([16.0, 36]), row['p']).values())
    assert row['law'] == law
  networks = tables.to_dicts(result.report.tables[1])
  for row, content in zip(networks, ('images', 'blown up'), strict=True):
    of = records.select(trained, content=content, n=36)
    np.testing.assert_allclose(row['right, largest n'].value,
                               of['accuracy'].mean(), rtol=1e-6)  # fmt: skip
  saved = json.loads((run_dir / 'report.json').read_text())
  assert saved['answer'] == result.report.answer
  assert len(saved['claims']) == 6
  assert trained_scaling.run(toy(run_dir)).report.answer in (
    capsys.readouterr().out
  )


@pytest.mark.parametrize('lost', ['mlp-006-blown-up', '*'])
def test_a_broken_run_ends_with_the_same_bytes(finished, tmp_path, lost):
  measured = resume.assert_same_bytes(
    trained_scaling.run, toy, finished, tmp_path, lost=[lost]
  )
  chunks = {path.stem for path in finished[2].iterdir()}
  assert measured == (chunks if lost == '*' else {lost})


@pytest.mark.parametrize(
  'given, message',
  [
    (dict(sizes=(4,)), r'--sizes: a slope needs two'),
    (dict(models=('vit',)), r'--models=vit is unknown'),
    (dict(method='luck'), r'--method=luck: .*portfolio'),
  ],
)
def test_bad_flags_are_named(tmp_path, given, message):
  with pytest.raises(flags.FlagError, match=message):
    trained_scaling.run(toy(tmp_path / 'run', **given))
  assert not (tmp_path / 'run').exists()


# --- The rule ----------------------------------------------------------------

NAMES = (
  'mlp: slope at images',
  'mlp: slope at blown up images',
  'mlp: slope at noise',
  'mlp: constant at images',
  'mlp: constant at noise',
  'mlp: slower than before training',
)
N = (16, 64, 256)


def made_up(
  slopes=None, factor=1.0, *, networks=8, images=9, scatter=0.05, seed=0, **more
):
  """Tables of networks whose relative distances are powers of n.

  Args:
    slopes: trained networks' at images, blown up images and noise, less the
      law's; None for as before training.
    factor: of trained networks' distances, at images and at noise.
    networks, images: how many.
    scatter: over networks, of the logarithm.
    seed: of it.
    **more: columns that are the same in all rows.
  """
  slopes = dict.fromkeys(trained_scaling.PLACES, 0.0) | (slopes or {})
  factor = factor if isinstance(factor, dict) else dict.fromkeys(slopes, factor)
  rng, rows = np.random.default_rng(seed), []
  for norm in NORMS:
    law = min(scaling.laws(np.array(N, float), norm).values())
    for place, (content, inputs) in trained_scaling.PLACES.items():
      for n in N:
        if place == 'blown up images' and n == N[0]:
          continue
        for trained in (False, True):
          base = (n / N[0]) ** (law + trained * slopes[place])
          base *= factor[place] if trained else 1.0
          for network in range(networks):
            own = base * np.exp(scatter * rng.normal())
            each = own * rng.uniform(0.8, 1.2, images)
            rows += [
              ('mlp', content, n, network, trained, inputs, norm, d, 1.0, 0.9,
               0.1) for d in each
            ]  # fmt: skip
  names = (
    'model content n network trained inputs norm distance input_norm accuracy '
    'guess'
  ).split()
  found = dict(zip(names, map(np.array, zip(*rows, strict=True)), strict=True))
  for name, value in more.items():
    found[name] = np.full(len(rows), value)
  return {'results': found}


def judge(found):
  num = int(found['results']['network'].max()) + 1
  config = toy('', num_networks=num)
  report = trained_scaling.analyze(config, found)
  json.dumps(runner.to_json(report, '', '', ''), allow_nan=False)
  assert runner.to_text(report)
  return report, {claim.name: claim.verdict for claim in report.claims}


FLATTER = dict.fromkeys(trained_scaling.PLACES, 0.3)


@pytest.mark.filterwarnings('error')
def test_flatter_and_farther_supports_every_claim():
  report, found = judge(made_up(FLATTER, 1.5))
  assert tuple(found) == NAMES
  assert set(found.values()) == {claims.SUPPORTED}
  assert '6 of 6 claims are supported, 0 not tested' in report.answer
  rows = tables.to_dicts(report.tables[0])
  for row in rows:
    np.testing.assert_allclose(row['trained'].value, row['law'] + 0.3, atol=0.1)
    np.testing.assert_allclose(row['untrained'].value, row['law'], atol=0.1)
    # At the smallest size 1.5, and more at larger ones.
    grown = 1.5 * np.exp(0.3 * np.mean(np.log(np.array(N) / N[0])))
    np.testing.assert_allclose(row['constant'].value, grown, rtol=0.1)


@pytest.mark.parametrize(
  'slopes, factor, refuted',
  [
    ({'images': -0.4}, 1.5, (NAMES[0], NAMES[5])),
    ({'blown up images': -0.4}, 1.5, (NAMES[1],)),
    ({'noise': -0.4}, 1.5, (NAMES[2],)),
    # The slope alone would not see these.
    (FLATTER, 0.1, NAMES[3:5]),
    (FLATTER, {'images': 2, 'blown up images': 2, 'noise': 0.3}, (NAMES[4],)),
  ],
)
def test_what_refutes_each_claim(slopes, factor, refuted):
  _, found = judge(made_up(slopes, factor))
  for name in refuted:
    assert found[name] == claims.NOT_SUPPORTED, name


def test_instruments_that_do_not_do_test_nothing():
  report, found = judge(made_up(accuracy=0.4))
  assert set(found.values()) == {claims.NOT_TESTED}
  assert 'n = 16 classify 40% of the images' in report.claims[0].reason
  lost = made_up()
  lost['results']['distance'][::9] = np.inf
  report, found = judge(lost)
  assert set(found.values()) == {claims.NOT_TESTED}
  assert '11% of the searches found no boundary' in report.claims[0].reason


def test_worlds_on_the_border_are_rarely_supported():
  """In at most 5 % of the worlds: slopes at the least, constants too."""
  border = dict.fromkeys(trained_scaling.PLACES, -trained_scaling.SLACK)
  # The constant is a mean over sizes, which the slope lowers too.
  mean = np.mean(np.log(np.array(N) / N[0]))
  factor = np.exp(trained_scaling.SLACK * mean) / trained_scaling.BAND
  hits = dict.fromkeys(NAMES, 0)
  for seed in range(12):
    _, found = judge(made_up(border, factor, scatter=0.3, images=3, seed=seed))
    for name, verdict in found.items():
      hits[name] += verdict == claims.SUPPORTED
  # Three norms have to hold at once: less than 2.5 % each.
  assert max(hits.values()) <= 2
