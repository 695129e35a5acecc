"""Training on wrong labels: what networks see, the rule, and a toy run."""

import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import resume
from scipy import special
from scipy import stats

from dmm_jax import manifold
from dmm_jax import records
from experiments import mislabelled_training as mislabelled
from experiments.lib import claims
from experiments.lib import flags
from experiments.lib import runner
from experiments.lib import tables

TOY = dict(
  num_train=300,
  epochs=4,
  learning_rate=3e-3,
  num_sources=2,
  num_seeds=2,
  radii=(0.5, 2.0),
  attack_steps=5,
  brief_steps=2,
)
SMALL = ('random', 'noise')  # Arms at the smaller radius too.


@pytest.fixture(autouse=True)
def empty_figures(monkeypatch):
  resume.draw_quickly(monkeypatch)


def toy(workdir, **more):
  return mislabelled.Config(workdir=str(workdir), **(TOY | more))


@pytest.fixture(scope='module')
def finished(tmp_path_factory):
  return resume.run_keeping_chunks(
    mislabelled.run, toy, tmp_path_factory.mktemp('run')
  )


# --- The run ---------------------------------------------------------------


def test_rows_are_new_networks_of_arms_and_sources(finished):
  run_dir, result, _ = finished
  rows = result.table
  np.testing.assert_equal(rows, records.load_columns(run_dir / 'results.npz'))
  assert len(rows['accuracy']) == 2 * 2 * (len(mislabelled.ARMS) + 2)
  assert set(rows['arm']) == set(mislabelled.ARMS)
  for arm in mislabelled.ARMS:
    radii = set(rows['radius'][rows['arm'] == arm])
    free = arm in mislabelled.WITHOUT_STEP
    assert radii == ({0} if free else {0.5, 2} if arm in SMALL else {2})
  of = lambda arm, column: mislabelled.Found(toy(''), rows).of(arm, column)
  # Right labels teach, wrong ones without any step do not.
  assert np.all(of('clean', 'accuracy') > 0.6)
  assert np.all(of('unmoved', 'accuracy') < 0.2)
  assert np.all(of('random', 'reached') > 0.5)
  assert np.all(of('unmoved', 'reached') < 0.1)
  assert np.all(of('clean', 'reached') > 0.6)
  assert np.all(of('random', 'length') <= 2 + 1e-5)
  np.testing.assert_allclose(
    of('noise', 'length'), of('random', 'length'), rtol=0.01
  )
  assert np.all(of('unmoved', 'length') == 0)
  few = of('mistakes', 'examples')
  assert np.all((few > 0) & (few < 300))
  np.testing.assert_array_equal(few, of('mistakes_moved', 'examples'))
  # Sources differ, and the new networks of each.
  assert len(set(rows['accuracy'][rows['arm'] == 'random'])) > 2
  made = result.tables['sources']
  assert made['source'].tolist() == [0, 0, 1, 1]
  assert made['step'].tolist() == [2, 8, 2, 8]
  assert not np.array_equal(made['parameters'][1], made['parameters'][3])
  early, late = made['accuracy'][::2], made['accuracy'][1::2]
  assert np.all(early < late)


def test_the_report_holds_the_numbers_of_the_rows(finished):
  run_dir, result, _ = finished
  saved = json.loads((run_dir / 'report.json').read_text())
  assert runner.from_json(saved).answer == result.report.answer
  assert saved['question'].endswith('teach the right ones?')
  rows = result.table
  table = tables.to_dicts(result.report.tables[0])
  assert len(table) == len(mislabelled.ARMS) + 2
  means = {}
  for row in table:
    at = rows['arm'] == row['arm']
    at &= rows['radius'] == (row['radius'] or 0)
    each = rows['accuracy'][at].reshape(2, 2).mean(1)
    means[row['arm'], row['radius']] = each
    assert row['accuracy'].value == pytest.approx(each.mean())
    assert row['accuracy'].n == 2 and row['accuracy'].unit == mislabelled.UNIT
    for name, column in (('images', 'examples'), ('length', 'length')):
      assert row[name] == pytest.approx(rows[column][at].mean())
    for name in ('reached', 'fitted'):
      assert row[name] == pytest.approx(rows[name][at].mean())
  for row in table:
    null = means.get(('noise', row['radius']))
    if row['over noise'] is None:
      assert null is None or row['arm'] == 'noise'
      continue
    gap = means[row['arm'], row['radius']] - null
    half = stats.t.ppf(0.975, 1) * np.std(gap, ddof=1) / np.sqrt(2)
    wanted = [gap.mean(), gap.mean() - half, gap.mean() + half]
    np.testing.assert_allclose(row['over noise'][:3], wanted)
  early, late = tables.to_dicts(result.report.tables[1])
  made = result.tables['sources']
  assert (early['step'], late['step']) == (2, 8)
  assert early['accuracy'].value == pytest.approx(made['accuracy'][::2].mean())
  assert late['fitted'].value == pytest.approx(made['fitted'][1::2].mean())


def test_a_finished_run_is_shown_again(finished, capsys):
  run_dir = finished[0]
  before = (run_dir / 'results.npz').stat().st_mtime_ns
  again = mislabelled.run(toy(run_dir))
  assert (run_dir / 'results.npz').stat().st_mtime_ns == before
  out = capsys.readouterr().out
  assert again.report.answer in out and 'trained on' in out
  assert 'figures:' in out


@pytest.mark.parametrize(
  'lost',
  [
    ['next-2-01', 'off-2-00', 'noise-0.5-01'],
    ['source-01', 'mistakes_moved-2-01'],
  ],
)
def test_a_broken_run_ends_with_the_same_bytes(finished, tmp_path, lost):
  measured = resume.assert_same_bytes(
    mislabelled.run, toy, finished, tmp_path, lost=lost
  )
  assert measured == set(lost)


@pytest.mark.parametrize(
  'given, message',
  [
    (dict(num_sources=1), r'--num_sources=1 is too small'),
    (dict(num_seeds=0), r'--num_seeds=0 is too small'),
    (dict(k=64), r'--k=64 has to be less than the 64 numbers of an image'),
    (dict(num_train=9), r'--k=8 has to be less than .* the 9 images less 1'),
    (dict(brief_steps=8), r'--brief_steps=8 has to be less than the 8 steps'),
    (dict(model='vit'), r'--model=vit is unknown'),
  ],
)
def test_bad_flags_are_named_and_nothing_is_written(tmp_path, given, message):
  with pytest.raises(flags.FlagError, match=message):
    mislabelled.run(toy(tmp_path / 'run', **given))
  assert not (tmp_path / 'run').exists()


# --- What new networks are trained on --------------------------------------

CENTRES = np.random.default_rng(0).normal(size=(16, 3)).astype(np.float32)


class Linear:
  """A network of one matrix."""

  def apply(self, weights, v):
    return v.ravel() @ weights, {}


LINEAR = Linear()


def made_inputs(num=60, classes=3):
  rng = np.random.default_rng(1)
  xs = rng.uniform(0.45, 0.55, (num, 4, 4, 1)).astype(np.float32)
  labels = (np.arange(num) % classes).astype(np.int32)
  return mislabelled.Inputs(LINEAR, xs, labels, (xs, labels), classes)


def test_wrong_labels_are_wrong_uniform_and_drawn_for_each_source():
  inputs = made_inputs(9000)
  wrong = [
    mislabelled.wrong_labels(toy(''), inputs, source, 'random')
    for source in (0, 1)
  ]
  for labels in wrong:
    assert not np.any(labels == inputs.labels)
    one = np.mean((labels - inputs.labels) % 3 == 1)
    np.testing.assert_allclose(one, 0.5, atol=0.03)
  assert 0.4 < np.mean(wrong[0] == wrong[1]) < 0.6
  following = mislabelled.wrong_labels(toy(''), inputs, 0, 'next')
  np.testing.assert_array_equal(following, (inputs.labels + 1) % 3)


def test_steps_go_towards_the_label_and_stay_in_their_subspace():
  inputs, rows = made_inputs(), np.arange(60)
  source = mislabelled.Source(0, CENTRES, inputs.labels)
  labels = (inputs.labels + 1) % 3
  basis = np.asarray(manifold.random_basis(jax.random.key(3), 4, 16))
  config = toy('', attack_steps=60)
  rate = lambda images: (images.reshape(60, -1) @ CENTRES)[rows, labels]
  before, of = rate(inputs.xs), {}
  for side in ('', 'on', 'off'):
    images = mislabelled.move(
      config, inputs, source, rows, labels, 0.3, side, basis
    )
    step = (images - inputs.xs).reshape(60, -1)
    size = np.linalg.norm(step, axis=1)
    assert np.all(size <= 0.3 + 1e-5) and np.median(size) > 0.28
    assert np.all(rate(images) > before)
    of[side] = step
  inside = of['on'] @ basis.T @ basis
  np.testing.assert_allclose(inside, of['on'], atol=1e-5)
  np.testing.assert_allclose(of['off'] @ basis.T, 0, atol=1e-5)
  # With two classes the steepest way is that of the difference of weights.
  pair = CENTRES[:, :2]
  source, labels = mislabelled.Source(0, pair, labels), rows * 0
  for side, project in (('', None), ('on', manifold.on), ('off', manifold.off)):
    images = mislabelled.move(
      config, inputs, source, rows, labels.astype(np.int32), 0.3, side, basis
    )
    way = jnp.array(pair[:, 0] - pair[:, 1])
    way = np.asarray(project(way, basis) if project else way)
    step = (images - inputs.xs).reshape(60, -1)
    cosine = step @ way / np.linalg.norm(step, axis=1) / np.linalg.norm(way)
    assert cosine.min() > 0.93


def test_every_arm_has_its_images_labels_and_rows():
  inputs = made_inputs()
  early = inputs.labels.copy()
  early[[7, 20, 33]] = (early[[7, 20, 33]] + 2) % 3
  source = mislabelled.Source(0, CENTRES, early)
  config = toy('', k=3)
  asked = []

  def moved(number, goal, radius):
    asked.append((number, goal, radius))
    return inputs.xs + {'random': 0.01, 'next': 0.02}[goal]

  found = {
    arm: mislabelled.examples(config, inputs, moved, source, arm, 0.2)
    for arm in mislabelled.ARMS
  }
  random = mislabelled.wrong_labels(config, inputs, 0, 'random')
  for arm, (images, labels, rows) in found.items():
    assert len(images) == len(labels) == len(rows) == 60, arm
    assert images.dtype == np.float32 and labels.dtype == np.int32
    if arm.startswith('mistakes'):
      assert rows.tolist() == 20 * [7, 20, 33]
      np.testing.assert_array_equal(labels, early[rows])
      continue
    np.testing.assert_array_equal(rows, np.arange(60))
    wanted = {'clean': inputs.labels, 'next': (inputs.labels + 1) % 3}
    np.testing.assert_array_equal(labels, wanted.get(arm, random))
  assert asked == [(0, 'random', 0.2), (0, 'next', 0.2), (0, 'random', 0.2)]
  for arm in ('clean', 'unmoved', 'mistakes'):
    images, _, rows = found[arm]
    np.testing.assert_array_equal(images, inputs.xs[rows])
  np.testing.assert_allclose(found['random'][0], inputs.xs + 0.01)
  np.testing.assert_allclose(found['next'][0], inputs.xs + 0.02)
  basis = manifold.principal_basis(inputs.xs, 3)
  step = lambda arm: (found[arm][0] - inputs.xs[found[arm][2]]).reshape(60, -1)
  np.testing.assert_allclose(step('off') @ basis.T, 0, atol=1e-5)
  np.testing.assert_allclose(
    step('on'), step('on') @ basis.T @ basis, atol=1e-5
  )
  for arm in ('on', 'off'):
    assert np.linalg.norm(step(f'{arm}_null') - step(arm)) > 0.1
  moved_there = step('mistakes_moved')
  np.testing.assert_allclose(moved_there[:3], moved_there[3:6])
  assert 0.1 < np.linalg.norm(moved_there[0]) <= 0.2 + 1e-5
  nothing = source._replace(early=inputs.labels)
  for arm in ('mistakes', 'mistakes_moved'):
    found = mislabelled.examples(config, inputs, moved, nothing, arm, 0.2)
    assert [len(v) for v in found] == [0, 0, 0]


# --- The rule --------------------------------------------------------------

WORLD = {  # Of a model that is right: off the manifold, and beyond all nulls.
  'clean': 0.95,
  'random': 0.8,
  'next': 0.7,
  'off': 0.75,
  'on': 0.2,
  'off_null': 0.75,
  'on_null': 0.6,
  'noise': 0.05,
  'unmoved': 0.05,
  'mistakes': 0.5,
  'mistakes_moved': 0.7,
}
ALL = (
  'most test images, random targets',
  'better than a guess, random targets',
  'most test images, next targets',
  'better than a guess, next targets',
  'more than mistakes alone',
  'a step adds to mistakes',
  'off the manifold',
  'off more than on',
  'off more than on, beyond a random subspace',
)


def made_up(
  world=WORLD, *, sources=3, seeds=2, scatter=0.05, within=0.05, seed=0, **more
):
  """Tables of networks whose accuracies scatter about those of a world.

  Args:
    world: mean accuracy of each arm.
    sources, seeds: how many.
    scatter, within: standard deviations, of the logit, of the sources and arms,
      and of the new networks within them.
    seed: of these.
    **more: columns that are the same in all rows, or a dict by arm.
  """
  rng, rows = np.random.default_rng(seed), []
  columns = dict(examples=100, length=1.0, reached=0.9, fitted=0.99) | more
  for arm, mean in world.items():
    radius = 0.0 if arm in mislabelled.WITHOUT_STEP else 2.0
    for source in range(sources):
      middle = special.logit(mean) + scatter * rng.normal()
      for number in range(seeds):
        accuracy = special.expit(middle + within * rng.normal())
        fixed = [
          v.get(arm, 0.9) if isinstance(v, dict) else v
          for v in columns.values()
        ]
        rows.append((arm, radius, source, number, accuracy, *fixed))
  names = ('arm', 'radius', 'source', 'seed', 'accuracy', *columns)
  results = dict(
    zip(names, map(np.array, zip(*rows, strict=True)), strict=True)
  )
  sources = {
    'source': np.repeat(np.arange(sources), 2),
    'step': np.tile([5, 50], sources),
    'guess': np.full(2 * sources, 0.1),
    'fitted': np.tile([0.6, 0.99], sources),
    'accuracy': np.tile([0.55, 0.95], sources),
  }
  return {'results': results, 'sources': sources}


def judge(found):
  config = toy('', radii=(2.0,))
  report = mislabelled.analyze(config, found)
  json.dumps(runner.to_json(report, '', '', ''), allow_nan=False)
  return report, {claim.name: claim for claim in report.claims}


@pytest.mark.filterwarnings('error')
def test_a_world_as_the_model_says_supports_every_claim():
  report, judged = judge(made_up())
  assert tuple(judged) == ALL
  assert {c.verdict for c in judged.values()} == {claims.SUPPORTED}
  assert '9 of 9 claims are supported' in report.answer
  assert runner.to_text(report)


@pytest.mark.filterwarnings('error')
@pytest.mark.parametrize(
  'changes, verdicts',
  [
    ({'random': 0.3}, {ALL[0]: 'not supported', ALL[1]: 'supported'}),
    ({'random': 0.3}, {ALL[4]: 'not supported'}),
    ({'random': 0.05}, {ALL[1]: 'not supported', ALL[3]: 'supported'}),
    # Below a guess refutes, whatever noise does; and noise alone does too.
    ({'noise': 0.9}, {ALL[1]: 'not supported', ALL[6]: 'not supported'}),
    ({'noise': 0.9}, {ALL[3]: 'supported', ALL[0]: 'supported'}),
    ({'next': 0.3}, {ALL[2]: 'not supported', ALL[3]: 'supported'}),
    ({'next': 0.05}, {ALL[3]: 'not supported', ALL[1]: 'supported'}),
    ({'mistakes': 0.9}, {ALL[4]: 'not supported', ALL[5]: 'not supported'}),
    ({'mistakes_moved': 0.4}, {ALL[4]: 'supported', ALL[5]: 'not supported'}),
    ({'off': 0.05}, {ALL[6]: 'not supported', ALL[7]: 'not supported'}),
    ({'on': 0.9}, {ALL[6]: 'supported', ALL[7]: 'not supported'}),
    ({'on_null': 0.05}, {ALL[7]: 'supported', ALL[8]: 'not supported'}),
  ],
)
def test_each_claim_can_be_refuted(changes, verdicts):
  _, judged = judge(made_up(WORLD | changes))
  found = {name: judged[name].verdict for name in verdicts}
  assert found == verdicts


@pytest.mark.filterwarnings('error')
@pytest.mark.parametrize(
  'found, names, why',
  [
    (
      made_up(WORLD | {'clean': 0.5}),
      ALL,
      '5[01]% .* of the way from a guess .10%',
    ),
    (
      made_up(reached=dict.fromkeys(WORLD, 0.9) | {'random': 0.4}),
      (ALL[0], ALL[1], ALL[4]),
      '40% of the steps up to 2 reach their target: moved to a random',
    ),
    (
      made_up(reached=dict.fromkeys(WORLD, 0.9) | {'next': 0.4}),
      (ALL[2], ALL[3]),
      '40% of the steps .*: moved to the class after',
    ),
    (
      made_up(reached=dict.fromkeys(WORLD, 0.9) | {'off': 0.4}),
      ALL[6:],
      '40% of the steps .* off the manifold',
    ),
    (
      made_up(examples=dict.fromkeys(WORLD, 9) | {'mistakes': 0}),
      (ALL[4], ALL[5]),
      'no mistakes early',
    ),
  ],
)
def test_what_cannot_be_tested_is_not(found, names, why):
  _, judged = judge(found)
  for name, claim in judged.items():
    tested = claim.verdict != claims.NOT_TESTED
    assert tested == (name not in names), name
    assert tested or re.search(why, claim.reason)


def test_the_unit_is_the_source_network():
  _, judged = judge(made_up(scatter=0.5, within=0.0))
  found = made_up(scatter=0.5, within=0.0, seeds=20)
  _, many = judge(found)
  # More new networks of the same sources say nothing more.
  half = lambda c: np.diff(
    np.array(re.findall(r'[\d.]+', c.reason))[-2:].astype(float)
  )
  assert half(many[ALL[0]]) > 0.5 * half(judged[ALL[0]])
  rows = found['results']
  each = rows['accuracy'][rows['arm'] == 'random'].reshape(3, 20).mean(1)
  estimate = mislabelled.Found(toy('', radii=(2.0,)), rows).accuracy('random')
  value = each.mean()
  spread = each.std(ddof=1) / np.sqrt(3) / (value * (1 - value))
  ends = special.expit(
    special.logit(value) + np.array([-1, 1]) * stats.t.ppf(0.975, 2) * spread
  )
  np.testing.assert_allclose(estimate[1:3], ends)


NULL = {  # Every claim is just not so.
  'clean': 0.95,
  'random': 0.5,
  'next': 0.5,
  'off': 0.5,
  'on': 0.5,
  'off_null': 0.5,
  'on_null': 0.5,
  'noise': 0.5,
  'unmoved': 0.05,
  'mistakes': 0.5,
  'mistakes_moved': 0.5,
}
GUESSES = dict.fromkeys(WORLD, 0.1) | {'clean': 0.95, 'noise': 0.02}


@pytest.mark.usefixtures('quick_quantiles')
@pytest.mark.parametrize(
  'world, names',
  [
    (NULL, [ALL[i] for i in (0, 1, 2, 4, 5, 6, 7, 8)]),
    (GUESSES, [ALL[i] for i in (1, 3, 6)]),
  ],
)
def test_null_worlds_are_called_supported_in_at_most_5_percent(world, names):
  num = 500
  for scatter in (0.05, 0.4):
    counts = dict.fromkeys(names, 0)
    for seed in range(num):
      of = made_up(world, scatter=scatter, within=scatter, seed=seed)
      judged = mislabelled.judge(
        mislabelled.Found(toy('', radii=(2.0,)), of['results']), 0.1
      )
      for claim in judged:
        if claim.name in names:
          counts[claim.name] += claim.verdict == claims.SUPPORTED
    assert max(counts.values()) <= 0.05 * num, (scatter, counts)


def test_clear_effects_are_called_supported_with_three_sources():
  counts = dict.fromkeys(ALL, 0)
  for seed in range(100):
    _, judged = judge(made_up(scatter=0.1, within=0.1, seed=seed))
    for name, claim in judged.items():
      counts[name] += claim.verdict == claims.SUPPORTED
  assert min(counts.values()) >= 90, counts
