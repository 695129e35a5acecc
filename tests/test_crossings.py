"""Where boundaries cross: what is measured, the rule, and a toy run."""

import json
import re

import jax
import numpy as np
import pytest
import resume
from scipy import special
from scipy import stats

from dmm_jax import models
from dmm_jax import records
from dmm_jax import train
from dmm_jax.train import populations
from experiments import crossings
from experiments.lib import claims
from experiments.lib import flags
from experiments.lib import runner
from experiments.lib import tables

TOY = dict(
  num_train=200,
  models=('mlp', 'linear'),
  num_networks=4,
  num_steps=30,
  num_segments=40,
)
RIGHT, HALVES, RANDOM = crossings.RIGHT, crossings.HALVES, crossings.RANDOM


@pytest.fixture(autouse=True)
def empty_figures(monkeypatch):
  resume.draw_quickly(monkeypatch)


def toy(workdir, **more):
  return crossings.Config(workdir=str(workdir), **(TOY | more))


@pytest.fixture(scope='module')
def finished(tmp_path_factory):
  return resume.run_keeping_chunks(
    crossings.run, toy, tmp_path_factory.mktemp('run')
  )


# --- The run ---------------------------------------------------------------


def test_rows_are_networks_of_kinds_along_training(finished):
  run_dir, result, _ = finished
  rows, segments = result.table, result.tables['segments']
  np.testing.assert_equal(rows, records.load_columns(run_dir / 'results.npz'))
  steps = {
    (model, name): set(
      rows['step'][(rows['model'] == model) & (rows['trained_on'] == name)]
    )
    for model in TOY['models']
    for name in (RIGHT, HALVES, RANDOM)
  }
  along = {10, 20, 30}
  assert steps == {
    ('mlp', RIGHT): along,
    ('mlp', RANDOM): along,
    ('mlp', HALVES): {30},
    ('linear', RIGHT): {30},
    ('linear', HALVES): set(),
    ('linear', RANDOM): set(),
  }
  assert len(rows['step']) == 4 * (3 + 3 + 1 + 1)
  assert rows['fraction'].shape == (32, 120)
  last = rows['step'] == 30
  # Along training, only segments of train.
  kind = segments['kind'][:120]
  for name, nothing in (('fraction', np.isnan), ('between', np.signbit)):
    assert nothing(rows[name][~last][:, kind != 'train']).all()
    assert not nothing(rows[name][last][:, kind != 'train']).all()
    assert not nothing(rows[name][~last][:, kind == 'train']).all()
  of = lambda name: rows['accuracy'][last & (rows['trained_on'] == name)]
  assert of(RIGHT).min() > 0.6 and of(RANDOM).max() < 0.3
  kinds = segments['kind'].tolist()
  assert kinds == 2 * (40 * ['train'] + 40 * ['near'] + 40 * ['test'])
  assert segments['pair'].tolist() == 120 * [0] + 120 * [1]
  first, second = segments['rows'].reshape(2, -1)
  assert not np.array_equal(first, second)


def test_segments_are_of_different_class(finished):
  segments = finished[1].tables['segments']
  inputs = crossings.load(toy(''))
  for kind, split in (('train', 'train'), ('near', 'train'), ('test', 'test')):
    xs, labels = inputs[split]
    at = (segments['kind'] == kind) & (segments['pair'] == 1)
    start, end = segments['rows'][at].T
    assert np.all(labels[start] != labels[end])
    if kind == 'near':
      assert len(set(start)) == 40
      flat = xs.reshape(len(xs), -1)
      far = np.linalg.norm(flat[start][:, None] - flat, axis=2)
      far[labels[start][:, None] == labels] = np.inf
      np.testing.assert_array_equal(far.argmin(1), end)
  assert 0.3 < segments['place'].mean() < 0.7


def test_the_report_holds_the_numbers_of_the_rows(finished):
  run_dir, result, _ = finished
  saved = json.loads((run_dir / 'report.json').read_text())
  assert runner.from_json(saved).answer == result.report.answer
  assert saved['question'].startswith('Do boundaries lie half way')
  rows, kinds = result.table, result.tables['segments']['kind'][:120]
  crossed, between = map(tables.to_dicts, result.report.tables)
  names = [('mlp', RIGHT), ('mlp', RANDOM), ('mlp', HALVES), ('linear', RIGHT)]
  first = crossed.pop(1)
  assert first['trained on'] == 'right, at first'
  assert [(row['model'], row['trained on']) for row in crossed] == names
  last = {}
  for row, (model, name) in zip(crossed, names, strict=True):
    at = (rows['model'] == model) & (rows['trained_on'] == name)
    at &= rows['step'] == 30
    last[model, name] = rows['fraction'][at]
    far = np.abs(rows['fraction'][at].astype(float) - 0.5)
    far[np.isnan(far)] = 0.5
    for kind, column in (('train', 'deviation'), ('near', 'nearest')):
      each = np.median(far[:, kinds == kind], axis=1).reshape(2, 2).mean(1)
      half = stats.t.ppf(0.975, 1) * np.std(each, ddof=1) / np.sqrt(2)
      wanted = [each.mean(), each.mean() - half, each.mean() + half]
      np.testing.assert_allclose(row[column][:3], wanted)
      assert row[column].n == 2 and row[column].unit == crossings.PAIRS
    for column, name in (('fitted', 'fitted'), ('nearer', 'nearer')):
      assert row[column] == pytest.approx(rows[name][at].mean())

  def agree(a, b, kind):
    """Fisher's mean of correlations where both have t*."""
    each = []
    for pair in zip(a, b, strict=True):
      u, v = np.array(pair)[:, kinds == kind]
      both = np.isfinite(u) & np.isfinite(v)
      each.append(np.corrcoef(u[both], v[both])[0, 1])
    return np.tanh(np.mean(np.arctanh(np.reshape(each, (2, -1)).mean(1))))

  found = {row['networks']: row['concordance'] for row in between}
  right, random = last['mlp', RIGHT], last['mlp', RANDOM]
  halves = last['mlp', HALVES]
  wanted = {
    'mlp and mlp': agree(right[::2], right[1::2], 'test'),
    'mlp and linear': agree(right, last['linear', RIGHT], 'test'),
    HALVES: agree(halves[::2], halves[1::2], 'test'),
    crossings.SAME: agree(random[::2], random[1::2], 'train'),
    crossings.OTHER: agree(right, random, 'train'),
  }
  assert list(found) == list(wanted)
  for name, value in wanted.items():
    assert found[name].value == pytest.approx(value, abs=1e-6), name


def test_a_finished_run_is_shown_again(finished, capsys):
  run_dir = finished[0]
  before = (run_dir / 'results.npz').stat().st_mtime_ns
  again = crossings.run(toy(run_dir))
  assert (run_dir / 'results.npz').stat().st_mtime_ns == before
  out = capsys.readouterr().out
  assert again.report.answer in out and 'trained on' in out
  assert max(map(len, tables.to_text(again.report.tables[0]).split('\n'))) < 101


@pytest.mark.parametrize('lost', [['mlp-halves'], ['segments', 'linear-*']])
def test_a_broken_run_ends_with_the_same_bytes(finished, tmp_path, lost):
  measured = resume.assert_same_bytes(
    crossings.run, toy, finished, tmp_path, lost=lost
  )
  assert len(measured) == len(lost)


@pytest.mark.parametrize(
  'given, message',
  [
    (dict(num_networks=5), r'--num_networks=5 is odd'),
    (dict(num_networks=2), r'--num_networks=2 is too small'),
    (dict(models=('vit',)), r'--models=vit is unknown'),
    (dict(num_classes=1), r'--num_classes=1 is too small'),
  ],
)
def test_bad_flags_are_named_and_nothing_is_written(tmp_path, given, message):
  with pytest.raises(flags.FlagError, match=message):
    crossings.run(toy(tmp_path / 'run', **given))
  assert not (tmp_path / 'run').exists()


# --- Measuring -------------------------------------------------------------


def test_linear_networks_cross_where_their_leads_balance():
  config = toy('')
  inputs = crossings.load(config)
  xs, labels = inputs['train']
  segments = crossings.draw_segments(config, inputs)
  mine = records.select(segments, pair=1)
  found = populations.fit(
    jax.random.key(0),
    models.Linear(10),
    xs,
    labels,
    condition=populations.Condition(random_labels=True, group=2),
    num=4,
    config=train.TrainConfig('cross_entropy', 'sgd', 0.5),
    num_steps=200,
  )
  (start, end), place = mine['rows'].T, mine['place']
  of_test = mine['kind'] == 'test'
  ends = [
    np.where(
      of_test[:, None, None, None],
      inputs['test'][0][rows % len(inputs['test'][0])],
      xs[rows % len(xs)],
    )
    for rows in (start, end)
  ]
  row = crossings.measure_network(inputs, segments, found, 3, 200)
  params, _ = found.network(3)
  kernel, bias = (np.asarray(params['head'][n]) for n in ('kernel', 'bias'))
  given = found.examples.labels[3]
  names = np.stack(
    [
      np.where(
        of_test,
        inputs['test'][1][rows % len(inputs['test'][1])],
        given[rows % len(given)],
      )
      for rows in (start, end)
    ]
  )
  logits = lambda x: x.reshape(len(x), -1) @ kernel + bias
  each = np.arange(len(place))
  leads = [logits(x)[each, names[0]] - logits(x)[each, names[1]] for x in ends]
  wanted = leads[0] / (leads[0] - leads[1] + (names[0] == names[1]))
  parted = (leads[0] > 0) & (leads[1] < 0)
  wanted[~parted] = np.nan
  assert 20 < parted.sum() < 115
  np.testing.assert_allclose(row['fraction'], wanted, atol=1e-4)
  far = np.where(parted, np.abs(wanted - 0.5), 0.5)
  of = lambda kind: mine['kind'] == kind
  assert row['deviation'] == pytest.approx(
    np.median(far[of('train')]), abs=1e-4
  )
  assert row['near'] == pytest.approx(np.median(far[of('near')]), abs=1e-4)
  assert row['crossed'] == pytest.approx(parted[of('train')].mean())
  steps = place[:, None, None, None] * (ends[1] - ends[0])
  between = logits(ends[0] + steps).argmax(1)
  assert np.mean(row['between'] == between) > 0.98  # But for ties by rounding.
  hits = (between == np.where(place < 0.5, *names))[of('train')]
  assert row['nearer'] == pytest.approx(hits.mean(), abs=0.03)
  assert row['fitted'] == pytest.approx((logits(xs).argmax(1) == given).mean())
  images, truth = inputs['test']
  right = logits(images).argmax(1) == truth
  assert row['accuracy'] == pytest.approx(right.mean())
  assert row['guess'] == pytest.approx(np.bincount(truth).max() / len(truth))


def test_classes_and_images_are_the_first_ones():
  inputs = crossings.load(toy('', num_classes=3, num_train=50))
  assert len(inputs['train'][1]) == 50
  for _, labels in inputs.values():
    assert set(labels) == {0, 1, 2}


# --- The rule --------------------------------------------------------------

ALL = tuple(crossings.STATEMENTS)
KINDS = (('mlp', RIGHT), ('mlp', RANDOM), ('mlp', HALVES), ('cnn', RIGHT))
# Of readings that are right: spread of t* and what it has in common.
WORLD = dict(
  sd={('mlp', RIGHT): 0.1, ('mlp', RANDOM): 0.2}
  | dict.fromkeys(KINDS[2:], 0.1),
  early=0.2,
  near=0.6,  # Times that of random pairs.
  common=dict.fromkeys(KINDS, 0.9) | {('mlp', RANDOM): 0.05},
  pair=0.5,  # What random labels that are the same add.
  nearer=0.95,
  agree=0.85,
  accuracy=dict.fromkeys(KINDS, 0.95),
  fitted=0.99,
)
NUM, SEGMENTS, STEPS = 8, 150, (10, 100)


def made_up(seed=0, scatter=0.05, num=NUM, **changes):
  """Tables of networks whose t* are normal about the middle."""
  world = WORLD | changes
  rng, rows = np.random.default_rng(seed), []
  kind = np.repeat(crossings.KINDS, SEGMENTS)
  shared = rng.normal(size=(num // 2, len(kind)))
  vary = lambda: np.exp(scatter * rng.normal())
  for model, name in KINDS:
    pairs = rng.normal(size=(num // 2, len(kind)))
    for step in STEPS if (model, name) == KINDS[0] else STEPS[1:]:
      for network in range(num):
        sd = world['sd'][model, name] if step == 100 else world['early']
        scale = np.where(kind == 'near', world['near'] * vary(), 1.0)
        logit = special.logit(world['common'][model, name])
        r = special.expit(logit + 4 * scatter * rng.normal())
        of_pair = world['pair'] if name == RANDOM else 0.0
        of_pair = min(of_pair, 1 - r)
        t = (
          np.sqrt(r) * shared[network // 2]
          + np.sqrt(of_pair) * pairs[network // 2]
        )
        t = t + np.sqrt(1 - r - of_pair) * rng.normal(size=len(kind))
        t = np.clip(0.5 + sd * vary() * scale * t, 0, 1)
        # The second of a pair has the class of the first one so often.
        p = special.expit(
          special.logit(world['agree']) + scatter * rng.normal()
        )
        other = network % 2 * (rng.uniform(size=len(kind)) > p)
        near = special.logit(world['nearer']) + scatter * rng.normal()
        far = np.abs(t - 0.5)
        rows.append(
          {
            'model': model,
            'trained_on': name,
            'network': network,
            'step': step,
            'fitted': world['fitted'],
            'guess': 0.1,
            'accuracy': world['accuracy'][model, name],
            'crossed': 0.95,
            'deviation': np.median(far[kind == 'train']),
            'near': np.median(far[kind == 'near']),
            'nearer': special.expit(near),
            'fraction': t,
            'between': other.astype(np.int16),
          }
        )
  results = {name: np.array([row[name] for row in rows]) for name in rows[0]}
  segments = {'kind': np.tile(kind, num // 2)}
  segments['pair'] = np.repeat(np.arange(num // 2), len(kind))
  return {'results': results, 'segments': segments}


def analyze(found, num=NUM):
  config = toy('', models=('mlp', 'cnn'), num_networks=num, num_steps=100)
  return crossings.analyze(config, found)


def judge(found, num=NUM):
  report = analyze(found, num)
  json.dumps(runner.to_json(report, '', '', ''), allow_nan=False)
  return report, {claim.name: claim for claim in report.claims}


@pytest.mark.filterwarnings('error')
def test_a_world_as_the_readings_say_supports_every_claim():
  report, judged = judge(made_up())
  assert tuple(judged) == ALL
  assert {c.verdict for c in judged.values()} == {claims.SUPPORTED}
  assert '9 of 9 claims are supported' in report.answer
  assert runner.to_text(report)


def of_kind(name, key, value):
  return {name: WORLD[name] | {key: value}}


@pytest.mark.filterwarnings('error')
@pytest.mark.parametrize(
  'changes, refuted',
  [
    (of_kind('sd', KINDS[1], 0.05), {ALL[0]}),
    (dict(early=0.05), {ALL[0]}),
    (of_kind('sd', KINDS[0], 0.18), {ALL[1]}),
    (dict(near=1.4), {ALL[2]}),
    (dict(nearer=0.7), {ALL[3]}),
    (of_kind('common', KINDS[3], 0.2), {ALL[5]}),
    (of_kind('common', KINDS[3], 1e-9), {ALL[4], ALL[5]}),
    (of_kind('common', KINDS[2], 0.2), {ALL[7], ALL[8]}),
    (of_kind('common', KINDS[2], 1e-9), {ALL[6], ALL[7], ALL[8]}),
    (dict(pair=0.95), {ALL[7]}),
  ],
)
def test_each_claim_can_be_refuted(changes, refuted):
  _, judged = judge(made_up(**changes))
  wrong = {k for k, c in judged.items() if c.verdict == claims.NOT_SUPPORTED}
  # No more concordance than the null's leaves it open, less refutes.
  open_ones = {k for k, c in judged.items() if c.verdict == claims.UNDECIDED}
  assert refuted - {ALL[4], ALL[6]} <= wrong <= refuted
  assert refuted <= wrong | open_ones


@pytest.mark.parametrize(
  'changes, names, why',
  [
    (
      of_kind('accuracy', KINDS[0], 0.5),
      ALL,
      'mlp networks on right labels classify 50% .*10%',
    ),
    (
      of_kind('accuracy', KINDS[3], 0.5),
      ALL[4:6],
      'cnn networks on right labels classify 50%',
    ),
    (
      of_kind('accuracy', KINDS[2], 0.5),
      ALL[6:],
      'mlp networks on halves classify 50% of',
    ),
    (
      dict(fitted=0.8),
      (ALL[0], ALL[4], ALL[6], ALL[7]),
      '80% of the random labels were learned, not 90%',
    ),
  ],
)
def test_what_cannot_be_tested_is_not(changes, names, why):
  _, judged = judge(made_up(**changes))
  for name, claim in judged.items():
    tested = claim.verdict != claims.NOT_TESTED
    assert tested == (name not in names), name
    assert tested or re.search(why, claim.reason)


def test_one_architecture_leaves_nothing_to_hold_against_it():
  found = made_up()
  config = toy('', models=('mlp',), num_networks=NUM, num_steps=100)
  report = crossings.analyze(config, found)
  untested = {c.name for c in report.claims if c.verdict == claims.NOT_TESTED}
  assert untested == {'R3, weak', 'R3, strong'}


def test_deviations_are_compared_from_where_most_segments_cross():
  rows = {
    'model': np.full(9, 'mlp'),
    'trained_on': np.full(9, RIGHT),
    'step': np.repeat([1, 2, 3], 3),
    'network': np.tile([0, 1, 2], 3),
    'crossed': np.array([0.9, 0.5, 0.2, 0.95, 0.9, 0.3, 1.0, 1.0, 0.8]),
    'deviation': np.arange(9) / 10,
  }
  config = toy('', num_networks=3)
  found = crossings.first_crossings(config, rows)
  # The first one at once, the second at the second step, the third at last.
  np.testing.assert_allclose(found, [0.0, 0.4, 0.8])


@pytest.mark.usefixtures('quick_quantiles')
def test_null_worlds_are_called_supported_in_at_most_5_percent(monkeypatch):
  """Every number is just at its null: spreads, agreement, concordances."""
  resume.leave_out_tables(monkeypatch, crossings)
  sd = 0.1 / stats.norm.ppf(0.75)  # Half of the t* lie within 0.1.
  null = dict(
    sd=dict.fromkeys(KINDS, sd),
    early=sd,
    near=1.0,
    common=dict.fromkeys(KINDS, 0.7),
    pair=0.0,
    nearer=0.85,
    agree=0.85,
  )
  num = 300
  for scatter in (0.02, 0.1):
    counts = dict.fromkeys(ALL, 0)
    for seed in range(num):
      for claim in analyze(made_up(seed, scatter, **null)).claims:
        counts[claim.name] += claim.verdict == claims.SUPPORTED
    assert max(counts.values()) <= 0.05 * num, (scatter, counts)


def test_clear_effects_are_called_supported():
  counts = dict.fromkeys(ALL, 0)
  for seed in range(50):
    _, judged = judge(made_up(seed, scatter=0.1))
    for name, claim in judged.items():
      counts[name] += claim.verdict == claims.SUPPORTED
  assert min(counts.values()) >= 45, counts
