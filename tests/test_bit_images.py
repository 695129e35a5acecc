"""Flips of networks trained on bits: a toy run, planted worlds."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import resume
from scipy import stats

from dmm_jax import bit_strings
from dmm_jax import data
from dmm_jax import records
from dmm_jax import statistics
from experiments import bit_images
from experiments.lib import claims
from experiments.lib import flags
from experiments.lib import runner
from experiments.lib import tables

TOY = dict(num_networks=3, num_examples=6, epochs=4)
NAMES = (
  'farther at images',
  'more than at random bits',
  'wrong ones nearer',
  'as the authors',
)


def toy(workdir, **more):
  return bit_images.Config(workdir=str(workdir), **(TOY | more))


@pytest.fixture(scope='module')
def finished(tmp_path_factory):
  return resume.run_keeping_chunks(
    bit_images.run, toy, tmp_path_factory.mktemp('run')
  )


# --- The run -----------------------------------------------------------------


def test_rows_are_strings_before_and_after_training(finished):
  run_dir, result, _ = finished
  rows = result.table
  np.testing.assert_equal(rows, records.load_columns(run_dir / 'results.npz'))
  before, after = (records.select(rows, trained=v) for v in (False, True))
  for name in ('network', 'kind', 'index'):
    np.testing.assert_array_equal(before[name], after[name])
  assert len(after['flips']) == 3 * 4 * 6
  assert np.all(after['accuracy'] > 0.75) and set(after['n']) == {64}
  assert not np.any(after['right'][after['kind'] == 'wrong'])
  assert np.all(after['index'][after['kind'] == 'random'] == -1)
  _, labels = data.load('digits', 'test')
  guess = np.bincount(labels % 2).max() / len(labels)
  np.testing.assert_allclose(rows['guess'], guess)
  odd = after['output'] > 0
  known = after['kind'] == 'test'
  np.testing.assert_array_equal(
    after['right'][known], odd[known] == (labels % 2)[after['index'][known]]
  )
  # Networks differ in their strings.
  drawn = {tuple(v) for v in after['index'][known].reshape(3, 6)}
  assert len(drawn) == 3


def test_networks_learn_and_their_flips_are_theirs():
  config = toy('')
  sets = bit_images.load(config)
  xs, odd = sets['train']
  assert set(np.unique(xs)) == {0, 1} and xs.shape[1] == 64
  pixels, labels = data.load('digits', 'train')
  np.testing.assert_array_equal(xs, pixels.reshape(len(xs), 64) > 0.5)
  np.testing.assert_array_equal(odd, labels % 2)
  key = jax.random.key(3)
  before, after = bit_images.fit(config, key, xs, odd)
  assert before.first.shape == (64, 64)
  rate = [np.mean(bit_images.is_odd(v, xs) == odd) for v in (before, after)]
  assert rate[1] > 0.8 > rate[0]
  strings = bit_images.choose(config, key, sets, np.array([4, 9]))
  assert strings['kind'].tolist() == [
    *6 * ['train'], *6 * ['test'], *2 * ['wrong'], *6 * ['random']
  ]  # fmt: skip
  assert sorted(strings['index'][12:14]) == [4, 9]
  for split, rows in (('train', slice(0, 6)), ('test', slice(6, 14))):
    for name, column in zip(('x', 'odd'), sets[split], strict=True):
      wanted = column[strings['index'][rows]]
      np.testing.assert_array_equal(strings[name][rows], wanted)
  assert len(set(strings['index'][:6])) == 6
  assert 0.4 < strings['x'][14:].mean() < 0.6
  x = jnp.asarray(strings['x'][0])
  after = jax.tree.map(jnp.asarray, after)
  found = bit_images.flip_bits(x, after, candidates=9)
  wanted = bit_strings.greedy(after, x, symbols=(0.0, 1.0), candidates=9)
  assert found['flips'] == wanted.flips > 0


def test_the_report_holds_the_numbers_of_the_rows(finished):
  run_dir, result, _ = finished
  rows = result.table
  saved = json.loads((run_dir / 'report.json').read_text())
  assert runner.from_json(saved).answer == result.report.answer
  flips, networks = map(tables.to_dicts, result.report.tables)
  for row, kind in zip(flips, bit_images.KINDS, strict=True):
    means = {}
    for name, trained in (('trained', True), ('untrained', False)):
      of = records.select(rows, kind=kind, trained=trained)
      means[name] = of['flips'].reshape(3, 6).mean(1)
      np.testing.assert_allclose(row[name].value, means[name].mean())
    logs = np.log(means['trained'] / means['untrained'])
    half = stats.t.ppf(0.975, 2) * np.std(logs, ddof=1) / np.sqrt(3)
    wanted = np.exp([logs.mean(), logs.mean() - half, logs.mean() + half])
    np.testing.assert_allclose(row['ratio'][:3], wanted)
    assert row['number'] == 18 and row['authors'] is None
  assert networks[0]['right'].value > 0.75 > networks[1]['right'].value
  assert 'sqrt(n / (2 pi ln n)) is 1.56' in result.report.tables[0].title
  assert result.report.claims[3].reason == 'their numbers are of mnist'


@pytest.mark.parametrize('lost', ['network-001', '*'])
def test_a_broken_run_ends_with_the_same_bytes(finished, tmp_path, lost):
  measured = resume.assert_same_bytes(
    bit_images.run, toy, finished, tmp_path, lost=[lost]
  )
  chunks = {path.stem for path in finished[2].iterdir()}
  assert measured == (chunks if lost == '*' else {lost})


@pytest.mark.parametrize(
  'given, message',
  [
    (dict(num_networks=1), r'--num_networks=1 is too small'),
    (dict(threshold=2.0), r'--threshold=2.0 is too large'),
  ],
)
def test_bad_flags_are_named(tmp_path, given, message):
  with pytest.raises(flags.FlagError, match=message):
    bit_images.run(toy(tmp_path / 'run', **given))
  assert not (tmp_path / 'run').exists()


# --- The rule ----------------------------------------------------------------

WORLD = {'train': 10.5, 'test': 10.3, 'wrong': 2.0, 'random': 4.6}


def made_up(
  trained=WORLD, untrained=4.6, *, networks=10, scatter=0.05, seed=0, **more
):
  """Rows of networks whose mean flips scatter about those of a world.

  Args:
    trained: mean flips after training, by kind.
    untrained: before it.
    networks: how many.
    scatter: standard deviation over networks, of the logarithm.
    seed: of it.
    **more: columns that are the same in all rows.
  """
  rng, rows = np.random.default_rng(seed), []
  for network in range(networks):
    for state in (False, True):
      for kind, mean in trained.items():
        mean = (mean if state else untrained) * np.exp(scatter * rng.normal())
        right = kind != 'wrong' or not state
        rows += [(network, state, kind, 784, right, 0.97, 0.5, 3, mean)] * 2
  names = 'network trained kind n right accuracy guess rank flips'.split()
  found = dict(zip(names, map(np.array, zip(*rows, strict=True)), strict=True))
  for name, value in more.items():
    found[name] = np.full(len(rows), value)
  return {'results': found}


def verdicts(found, dataset='mnist'):
  report = bit_images.analyze(toy('', dataset=dataset), found)
  json.dumps(runner.to_json(report, '', '', ''), allow_nan=False)
  assert runner.to_text(report)
  return {claim.name: claim.verdict for claim in report.claims}


@pytest.mark.filterwarnings('error')
def test_a_world_as_the_authors_say_supports_every_claim():
  found = verdicts(made_up())
  assert tuple(found) == NAMES
  assert set(found.values()) == {claims.SUPPORTED}
  assert verdicts(made_up(), 'digits')[NAMES[3]] == claims.NOT_TESTED


@pytest.mark.parametrize(
  'changes, changed',
  [
    (dict(untrained=20.0), NAMES[0]),
    (dict(trained=WORLD | {'train': 4.0}), NAMES[0]),
    (dict(trained=WORLD | {'random': 20.0}), NAMES[1]),
    (dict(trained=WORLD | {'wrong': 12.0}), NAMES[2]),
    (dict(trained=WORLD | {'test': 14.0}), NAMES[3]),
  ],
)
def test_what_refutes_each_claim(changes, changed):
  assert verdicts(made_up(**changes))[changed] == claims.NOT_SUPPORTED


def test_instruments_that_do_not_do_test_nothing():
  weak = made_up(accuracy=0.7)
  report = bit_images.analyze(toy('', dataset='mnist'), weak)
  assert {c.verdict for c in report.claims} == {claims.NOT_TESTED}
  said = 'networks classify 70% of the images correctly'
  assert said in report.answer
  lost = made_up()
  lost['results']['flips'][::10] = np.inf
  report = bit_images.analyze(toy('', dataset='mnist'), lost)
  assert report.claims[0].reason == '10% of the searches found no boundary'
  # A few count as n flips.
  few = made_up(trained=WORLD | {'random': np.inf})
  few['results']['flips'] = np.minimum(few['results']['flips'], 1e9)
  of = bit_images.Found(few['results'])
  np.testing.assert_allclose(of.mean('random', True), 784)


def test_networks_without_mistakes_say_nothing_of_them():
  found = made_up()
  keep = (found['results']['kind'] != 'wrong') | (
    found['results']['network'] == 0
  )
  found = {'results': {k: v[keep] for k, v in found['results'].items()}}
  assert verdicts(found)[NAMES[2]] == claims.NOT_TESTED
  assert verdicts(found)[NAMES[0]] == claims.SUPPORTED


def test_training_that_does_nothing_is_rarely_called_something():
  """In at most 5 % of worlds in which training changes no distance."""
  same = dict.fromkeys(WORLD, 4.6)
  hits = dict.fromkeys(NAMES[:3], 0)
  for seed in range(100):
    found = verdicts(made_up(same, networks=8, scatter=0.4, seed=seed))
    for name in hits:
      hits[name] += found[name] == claims.SUPPORTED
  assert max(hits.values()) <= 7  # At 2.5 %: more in 1 of 100 tests.


def test_geometric_means_are_over_networks_that_have_a_value():
  found = bit_images.times(np.array([1.0, 4.0, np.nan, 2.0]))
  assert found.value == pytest.approx(2) and found.n == 3
  wanted = statistics.t_mean(np.log([1.0, 4.0, 2.0]), unit='networks')
  assert found.low == pytest.approx(np.exp(wanted.low))
