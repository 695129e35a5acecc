"""What a step at one sample does to others: measured, judged, a toy run."""

import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import resume
from scipy import special
from scipy import stats

from dmm_jax import models
from dmm_jax import records
from dmm_jax import train
from dmm_jax.train import populations
from experiments import influence
from experiments.lib import claims
from experiments.lib import flags
from experiments.lib import runner
from experiments.lib import tables

TOY = dict(
  num_train=150,
  num_networks=3,
  num_steps=30,
  num_sources=12,
  num_others=60,
  influence_steps=6,
)
RIGHT, RANDOM = influence.RIGHT, influence.RANDOM


@pytest.fixture(autouse=True)
def empty_figures(monkeypatch):
  resume.draw_quickly(monkeypatch)


def toy(workdir, **more):
  return influence.Config(workdir=str(workdir), **(TOY | more))


@pytest.fixture(scope='module')
def finished(tmp_path_factory):
  return resume.run_keeping_chunks(
    influence.run, toy, tmp_path_factory.mktemp('run')
  )


# --- The run ---------------------------------------------------------------


def test_rows_are_networks_along_training_and_sums(finished):
  run_dir, result, _ = finished
  rows, sums = result.table, result.tables['sums']
  np.testing.assert_equal(rows, records.load_columns(run_dir / 'results.npz'))
  assert rows['step'].tolist() == 2 * (3 * [0] + 3 * [1] + 3 * [10] + 3 * [30])
  assert rows['trained_on'].tolist() == 12 * [RIGHT] + 12 * [RANDOM]
  assert rows['network'].tolist() == 8 * [0, 1, 2]
  assert sums['network'].tolist() == [0, 1, 2]
  assert np.all(rows['unusable'] == 0)
  # What the inputs alone do is the same at all steps of a network.
  for name in ('inputs_gap', 'inputs_leads'):
    right = rows[name][rows['trained_on'] == RIGHT].reshape(4, 3)
    assert np.all(right == right[0])
  assert len(set(rows['inputs_gap'][:3])) == 3
  end = (rows['step'] == 30) & (rows['trained_on'] == RIGHT)
  assert rows['accuracy'][end].min() > 0.6
  assert np.all((sums['explained'] > 0.5) & (sums['explained'] <= 1))


def test_the_report_holds_the_numbers_of_the_rows(finished):
  run_dir, result, _ = finished
  saved = json.loads((run_dir / 'report.json').read_text())
  assert runner.from_json(saved).answer == result.report.answer
  assert saved['question'].startswith('Does a gradient step at one sample')
  rows, (ratios, sums) = result.table, result.report.tables
  alone, *found = tables.to_dicts(ratios)
  assert alone['labels'] == 'inputs alone' and len(found) == 8
  assert alone['gap'] == pytest.approx(rows['inputs_gap'][:3].mean())
  for row in found:
    at = rows['trained_on'] == row['labels']
    at &= rows['step'] == row['step']
    gaps, leads = rows['gap'][at], rows['leads'][at]
    half = stats.t.ppf(0.975, 2) * np.std(gaps, ddof=1) / np.sqrt(3)
    wanted = [gaps.mean(), gaps.mean() - half, gaps.mean() + half]
    np.testing.assert_allclose(row['gap'][:3], wanted)
    assert row['gap'].n == 3 and row['gap'].unit == 'networks'
    assert row['leads'].value == pytest.approx(leads.mean())
    assert 0 <= row['leads'].low <= row['leads'].high <= 1
    for name in ('same', 'other', 'fitted'):
      assert row[name] == pytest.approx(rows[name][at].mean())
  (row,) = tables.to_dicts(sums)
  logs = np.log(result.tables['sums']['ratio'])
  assert row['ratio'].value == pytest.approx(np.exp(logs.mean()))
  half = stats.t.ppf(0.975, 2) * np.std(logs, ddof=1) / np.sqrt(3)
  ends = np.exp([logs.mean() - half, logs.mean() + half])
  np.testing.assert_allclose(row['ratio'][1:3], ends)


def test_a_finished_run_is_shown_again(finished, capsys):
  run_dir = finished[0]
  before = (run_dir / 'results.npz').stat().st_mtime_ns
  again = influence.run(toy(run_dir))
  assert (run_dir / 'results.npz').stat().st_mtime_ns == before
  out = capsys.readouterr().out
  assert again.report.answer in out and 'inputs alone' in out
  for table in again.report.tables:
    assert max(map(len, tables.to_text(table).split('\n'))) < 101


@pytest.mark.parametrize('lost', [['random-labels'], ['right-*', 'sum-01']])
def test_a_broken_run_ends_with_the_same_bytes(finished, tmp_path, lost):
  measured = resume.assert_same_bytes(
    influence.run, toy, finished, tmp_path, lost=lost
  )
  assert len(measured) == len(lost)


@pytest.mark.parametrize(
  'given, message',
  [
    (dict(num_networks=2), r'--num_networks=2 is too small'),
    (dict(model='vit'), r'--model=vit is unknown'),
    (
      dict(num_sources=100),
      r'--num_sources=100 and --num_others=60 need as many images .* got 150',
    ),
  ],
)
def test_bad_flags_are_named_and_nothing_is_written(tmp_path, given, message):
  with pytest.raises(flags.FlagError, match=message):
    influence.run(toy(tmp_path / 'run', **given))
  assert not (tmp_path / 'run').exists()


# --- Measuring -------------------------------------------------------------


def test_ratios_of_a_linear_network_are_inner_products():
  config = toy('')
  inputs = influence.load(config)
  xs, labels = inputs['train']
  found = populations.fit(
    jax.random.key(0),
    models.Linear(10),
    xs,
    labels,
    condition=influence.CONDITIONS[RANDOM],
    num=2,
    config=train.TrainConfig(),
    num_steps=5,
  )
  for name in (RIGHT, RANDOM):
    row = influence.measure_network(config, inputs, name, found, 1, 5)
    given = found.examples.labels[1]
    order = influence.draw_rows(config, 1, len(xs))
    sources, labels = xs[order[:12]], given[order[:12]]
    others, theirs = xs[order[12:72]], given[order[12:72]]
    if name == RIGHT:
      order = influence.draw_rows(config, 1, len(inputs['test'][1]))
      others, theirs = (v[order[12:72]] for v in inputs['test'])
    rows = lambda v: v.reshape(len(v), -1)
    kernel = rows(sources) @ rows(others).T + 1
    kernel /= np.diag(rows(sources) @ rows(sources).T)[:, None] + 1
    mine = labels[:, None] == theirs
    gaps = []
    for values, of in zip(kernel, mine, strict=True):
      if of.any():
        gaps.append(np.median(values[of]) - np.median(values[~of]))
    assert row['gap'] == pytest.approx(np.median(gaps), abs=1e-5)
    assert row['inputs_gap'] == pytest.approx(row['gap'], abs=1e-5)
    assert row['leads'] == pytest.approx(np.mean(np.array(gaps) > 0))
    assert row['inputs_leads'] == row['leads']
    params, _ = found.network(1)
    kernel, bias = (np.asarray(params['head'][n]) for n in ('kernel', 'bias'))
    fitted = np.mean((rows(xs) @ kernel + bias).argmax(1) == given)
    assert row['fitted'] == pytest.approx(fitted)


def test_added_up_influence_is_exact_where_nothing_is_curved():
  config = toy('', learning_rate=0.3)
  inputs = influence.load(config)
  row = influence.add_up(
    config, inputs, models.Linear(10), 1, jax.random.key(3)
  )
  row = {name: value.item() for name, value in row.items()}
  assert row['explained'] == pytest.approx(1, abs=1e-6)
  assert row['accuracy'] == row['by_influence']
  # The same by hand: what the samples of each class did, in numpy.
  xs, labels = inputs['train']
  order = influence.draw_rows(config, 1, len(inputs['test'][1]))[:60]
  others, truth = (v[order] for v in inputs['test'])
  key = jax.random.fold_in(jax.random.key(3), 1)
  weights, order = jax.random.split(key)
  head = models.Linear(10).init(weights, xs[0])['params']['head']
  matrix = np.vstack([head['kernel'], head['bias']]).astype(float)
  batches = np.asarray(jax.random.randint(order, (6, 64), 0, len(xs)))
  wide = lambda v: np.append(v.reshape(len(v), -1), np.ones((len(v), 1)), 1)
  velocity, total = np.zeros((10, *matrix.shape)), np.zeros((10, 60, 10))
  for rows in batches:
    pull = np.eye(10)[labels[rows]] - special.softmax(
      wide(xs[rows]) @ matrix, 1
    )
    for c in range(10):
      part = wide(xs[rows]).T @ ((labels[rows] == c)[:, None] * pull) / 64
      velocity[c] = 0.9 * velocity[c] + part
      total[c] += 0.3 * wide(others) @ velocity[c]
    matrix = matrix + 0.3 * velocity.sum(0)
  own = np.array([total[c, :, c] for c in range(10)])
  mine = np.arange(10)[:, None] == truth
  wanted = own[mine].mean() / own[~mine].mean()
  assert row['ratio'] == pytest.approx(wanted, rel=1e-3)
  right = (wide(others) @ matrix).argmax(1) == truth
  assert row['accuracy'] == pytest.approx(right.mean())


def test_sums_are_of_the_network_that_trains():
  """A dense network: what it comes to, by a loop of plain gradients."""
  module = models.MLP((5,), 3)
  rng = np.random.default_rng(0)
  xs, labels = map(
    jnp.asarray, (rng.normal(size=(20, 4)), rng.integers(0, 3, 20))
  )
  batches = rng.integers(0, 20, (4, 6))
  params = module.init(jax.random.key(0), xs[0])['params']
  last, _ = influence.accumulate(
    params,
    *map(jnp.asarray, (xs, labels, batches, xs)),
    forward=train.flax_forward(module),
    num_classes=3,
    learning_rate=0.2,
  )
  loss = lambda p, rows: (
    -jnp.mean(
      jax.nn.log_softmax(
        jax.vmap(lambda x: module.apply({'params': p}, x)[0])(xs[rows])
      )[jnp.arange(6), labels[rows]]
    )
  )
  velocity = jax.tree.map(jnp.zeros_like, params)
  gradient = jax.jit(jax.grad(loss))
  for rows in batches:
    slope = gradient(params, rows)
    velocity = jax.tree.map(lambda v, g: 0.9 * v + g, velocity, slope)
    params = jax.tree.map(lambda p, v: p - 0.2 * v, params, velocity)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), last, params
  )


# --- The rule --------------------------------------------------------------

ALL = tuple(influence.STATEMENTS)
WORLD = dict(  # In which every reading is right.
  leads=0.97,
  inputs_gap=0.05,
  start=0.1,
  end=0.3,
  random=0.02,
  ratio=1.6,
  accuracy=0.95,
  fitted=0.99,
  explained=0.98,
)
NUM = 8


def made_up(seed=0, scatter=0.05, **changes):
  """Tables of networks that scatter about a world."""
  world = WORLD | changes
  rng, rows = np.random.default_rng(seed), []
  logit = lambda p: special.expit(special.logit(p) + 4 * scatter * rng.normal())
  for name in (RIGHT, RANDOM):
    for network in range(NUM):
      own = scatter * rng.normal() / 10  # Of a network, at all steps.
      for step in (0, 100):
        gap = world['start' if step == 0 else 'end']
        gap = world['random'] if name == RANDOM else gap
        gap += own + scatter * rng.normal() / 10
        rows.append(
          {
            'trained_on': name,
            'network': network,
            'step': step,
            'fitted': world['fitted'],
            'guess': 0.1,
            'accuracy': world['accuracy'],
            'same': 0.6,
            'other': 0.5,
            'gap': gap,
            'leads': logit(world['leads']),
            'inputs_gap': world['inputs_gap'] + own,
            'inputs_leads': 0.7,
          }
        )
  results = {name: np.array([row[name] for row in rows]) for name in rows[0]}
  sums = {
    'explained': np.full(NUM, world['explained']),
    'ratio': world['ratio'] * np.exp(scatter * rng.normal(size=NUM)),
    'accuracy': np.full(NUM, 0.9),
    'by_influence': np.full(NUM, 0.8),
  }
  return {'results': results, 'sums': sums}


def analyze(found):
  return influence.analyze(toy('', num_networks=NUM, num_steps=100), found)


def judge(found):
  report = analyze(found)
  json.dumps(runner.to_json(report, '', '', ''), allow_nan=False)
  return report, {claim.name: claim for claim in report.claims}


@pytest.mark.filterwarnings('error')
def test_a_world_as_the_reading_says_supports_every_claim():
  report, judged = judge(made_up())
  assert tuple(judged) == ALL
  assert {c.verdict for c in judged.values()} == {claims.SUPPORTED}
  assert '5 of 5 claims are supported' in report.answer
  assert runner.to_text(report)


@pytest.mark.filterwarnings('error')
@pytest.mark.parametrize(
  'changes, refuted',
  [
    (dict(leads=0.7), {ALL[1]}),
    (dict(leads=0.3), {ALL[0], ALL[1]}),
    (dict(inputs_gap=0.2), {ALL[2]}),
    (dict(start=0.5), {ALL[3]}),
    (dict(random=0.5), {ALL[3]}),
    (dict(ratio=0.8), {ALL[4]}),
  ],
)
def test_each_claim_can_be_refuted(changes, refuted):
  _, judged = judge(made_up(**changes))
  wrong = {k for k, c in judged.items() if c.verdict == claims.NOT_SUPPORTED}
  assert wrong == refuted


@pytest.mark.parametrize(
  'changes, names, why',
  [
    (dict(accuracy=0.5), ALL[3:], 'networks classify 50% .* guess .10%'),
    (dict(fitted=0.8), ALL[3:4], '80% of the random labels were learned'),
    (dict(explained=0.8), ALL[4:], 'explains 80% of the change'),
  ],
)
def test_what_cannot_be_tested_is_not(changes, names, why):
  _, judged = judge(made_up(**changes))
  for name, claim in judged.items():
    tested = claim.verdict != claims.NOT_TESTED
    assert tested == (name not in names), name
    assert tested or re.search(why, claim.reason)


def test_a_ratio_that_is_not_positive_leaves_it_open():
  found = made_up()
  found['sums']['ratio'][0] = -0.1
  _, judged = judge(found)
  assert judged['R2, in all'].verdict == claims.UNDECIDED


@pytest.mark.usefixtures('quick_quantiles')
def test_null_worlds_are_called_supported_in_at_most_5_percent(monkeypatch):
  resume.leave_out_tables(monkeypatch, influence)
  num = 300
  worlds = {
    (ALL[0],): dict(leads=0.5),
    (ALL[1], ALL[2], ALL[3], ALL[4]): dict(
      leads=0.9, inputs_gap=0.1, end=0.1, random=0.1, ratio=1.0
    ),
  }
  for names, world in worlds.items():
    for scatter in (0.02, 0.2):
      counts = dict.fromkeys(names, 0)
      for seed in range(num):
        for claim in analyze(made_up(seed, scatter, **world)).claims:
          if claim.name in names:
            counts[claim.name] += claim.verdict == claims.SUPPORTED
      assert max(counts.values()) <= 0.05 * num, (scatter, counts)


def test_clear_effects_are_called_supported():
  counts = dict.fromkeys(ALL, 0)
  for seed in range(50):
    _, judged = judge(made_up(seed, scatter=0.1))
    for name, claim in judged.items():
      counts[name] += claim.verdict == claims.SUPPORTED
  assert min(counts.values()) >= 45, counts
