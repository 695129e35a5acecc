"""The everyday script at toy size, and what its claims are made of."""

import concurrent.futures
import json
import re
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import resume

from dmm_jax import boundary
from dmm_jax import models
from dmm_jax import normals
from dmm_jax import records
from dmm_jax import statistics
from experiments import boundary_distances
from experiments import networks
from experiments.lib import claims
from experiments.lib import flags
from experiments.lib import own
from experiments.lib import runner
from experiments.lib import tables

TOY = dict(
  num_examples=20,
  width=32,
  depth=1,
  num_trained=2,
  num_untrained=3,
  epochs=10,
  learning_rate=0.01,
  norms=(2.0,),
  method='fast',
  batch_size=7,  # Not a multiple of the devices.
)
RESULTS = (
  'kind network norm index label predicted target distance lower status '
  'gradients forwards margin alignment'
).split()
FOUND, NOT_FOUND = boundary.Status.FOUND, boundary.Status.NOT_FOUND
WRONG = boundary.Status.MISCLASSIFIED


@pytest.fixture(autouse=True)
def empty_figures(monkeypatch):
  resume.draw_quickly(monkeypatch)


def toy(workdir, **more):
  return boundary_distances.Config(workdir=str(workdir), **(TOY | more))


@pytest.fixture(scope='module')
def finished(tmp_path_factory):
  return resume.run_keeping_chunks(
    boundary_distances.run, toy, tmp_path_factory.mktemp('run')
  )


# --- Runs ------------------------------------------------------------------


def test_rows_are_examples_of_networks(finished):
  run_dir, result, _ = finished
  rows = records.load_columns(run_dir / 'results.npz')
  np.testing.assert_equal(rows, result.table)
  assert set(rows) == set(RESULTS)
  assert len(rows['distance']) == 5 * 20
  trained = rows['kind'] == 'trained'
  assert trained.tolist() == 40 * [True] + 60 * [False]
  assert rows['network'].tolist() == np.repeat([0, 1, 0, 1, 2], 20).tolist()
  np.testing.assert_array_equal(rows['index'], np.tile(np.arange(20), 5))
  assert all(np.ptp(v) == 0 for v in rows['label'].reshape(5, 20).T)
  wrong = trained & (rows['label'] != rows['predicted'])
  assert 0 < wrong.sum() < 20
  np.testing.assert_array_equal(rows['distance'] == 0, wrong)
  np.testing.assert_array_equal(rows['status'] == WRONG, wrong)
  # Untrained networks are measured against their own predictions.
  assert np.mean((rows['label'] == rows['predicted'])[~trained]) < 0.5
  found = rows['status'] == FOUND
  assert found.sum() > 60
  np.testing.assert_array_equal(np.isinf(rows['distance']), ~found & ~wrong)
  assert np.all(rows['margin'][found] <= 0)
  assert np.all(rows['target'][found] != rows['predicted'][found])
  assert np.median(rows['alignment'][found]) > 0.9


def test_certified_bounds_lie_below_the_distances(finished):
  _, result, _ = finished
  rows = result.table
  assert np.all(rows['lower'] <= rows['distance'] * (1 + 1e-5))
  found = rows['status'] == FOUND
  assert np.all(rows['lower'][found] > 0)
  *_, claim = result.report.claims
  assert claim.name == 'certified bounds' and claim.verdict == claims.SUPPORTED
  assert claim.reason == (
    'holds: 0 of 100 certified bounds exceed the distance found'
  )
  for row in tables.to_dicts(result.report.tables[1]):
    assert 0.3 < row['certified'] <= 1 and row['beyond'] == 0


def test_points_are_at_their_distance_and_have_their_target(finished):
  run_dir, result, _ = finished
  points = records.load_columns(run_dir / 'points.npz')
  assert set(points) == {*RESULTS, 'x', 'point'}
  assert points['x'].shape == points['point'].shape == (7, 8, 8, 1)
  step = (points['point'] - points['x']).reshape(7, -1)
  there = np.isfinite(points['distance'])
  np.testing.assert_allclose(
    np.linalg.norm(step, axis=1)[there], points['distance'][there], rtol=1e-5
  )
  assert points['point'].min() >= 0 and points['point'].max() <= 1
  for name in RESULTS:  # The first rows of results.npz.
    np.testing.assert_array_equal(points[name], result.table[name][:7])


def test_networks_are_those_that_were_measured(finished):
  _, result, _ = finished
  made = result.tables['networks']
  assert made['kind'].tolist() == 2 * ['trained'] + 3 * ['untrained']
  assert len({row.tobytes() for row in made['parameters']}) == 5
  xs = result.tables['points']['x']
  for i, row in enumerate(made['parameters']):
    dense, head = np.split(row, [64 * 32])
    hidden = np.maximum(xs.reshape(7, -1) @ dense.reshape(64, 32), 0)
    predicted = (hidden @ head.reshape(32, 10)).argmax(1)
    wanted = result.table['predicted'].reshape(5, 20)[i, :7]
    np.testing.assert_array_equal(predicted, wanted)
  right = (result.table['predicted'] == result.table['label']).reshape(5, 20)
  assert np.all(right[:2].mean(1) > 0.55)


def test_the_report_holds_the_numbers_of_the_rows(finished):
  run_dir, result, _ = finished
  saved = json.loads((run_dir / 'report.json').read_text())
  assert runner.from_json(saved).answer == result.report.answer
  assert saved['question'].endswith('away from the data?')
  trained, untrained = tables.to_dicts(result.report.tables[0])
  far = result.table['distance'].reshape(5, 20)
  medians = np.sort(far, axis=1)[:, 9]
  for row, rows in ((trained, slice(2)), (untrained, slice(2, 5))):
    assert row['norm'] == 'l2'
    mean = np.exp(np.mean(np.log(medians[rows])))
    np.testing.assert_allclose(row['median'].value, mean, rtol=1e-5)
    assert row['median'].n == len(far[rows])
    flat = np.sort(far[rows].ravel())
    for percent in (5, 25, 75, 95):
      place = int(np.ceil(percent / 100 * flat.size)) - 1
      assert row[f'{percent} %'] == flat[place]
  ratio = trained['ratio']
  np.testing.assert_allclose(
    ratio.value, trained['median'].value / untrained['median'].value
  )
  assert ratio.low < ratio.value < ratio.high
  assert 0.3 < trained['at least'].value / ratio.value < 1
  assert untrained['ratio'] is None
  claim, _ = result.report.claims
  assert claim.name == 'farther in l2' and not claim.not_tested
  assert f'above 1: {ratio.value:.3g}' in claim.conditions[0].text
  assert f'{ratio.value:.2f} [' in result.report.answer
  assert '(2 trained and 3 untrained networks, 20 test' in result.report.answer
  for row in tables.to_dicts(result.report.tables[1]):
    assert row['gradients'] > 10 and row['alignment'] > 0.9


def test_columns_are_described(finished):
  run_dir, result, _ = finished
  described = records.read_json(run_dir / 'columns.json')
  assert described.keys() == {'networks', 'points', 'results'}
  for table, columns in described.items():
    assert columns.keys() == result.tables[table].keys()
    assert all(column['meaning'] for column in columns.values())
  assert described['results']['distance']['unit'] == 'input units'


@pytest.mark.parametrize(
  'lost, again',
  [
    (['trained-001-l2-000007'], {'trained-001-l2-000007'}),
    (['points-l2', 'trained-000-l2-000000', 'network-trained-001'], None),
    (['*'], None),
  ],
)
def test_a_broken_run_ends_with_the_same_bytes(finished, tmp_path, lost, again):
  measured = resume.assert_same_bytes(
    boundary_distances.run, toy, finished, tmp_path, lost=lost
  )
  chunks = {path.stem for path in finished[2].iterdir()}
  assert measured == (again or (chunks if lost == ['*'] else set(lost)))


def test_untrained_convolutional_networks_of_some_classes(tmp_path, capsys):
  result = boundary_distances.run(
    toy(
      tmp_path,
      model='convolutional',
      width=2,
      num_trained=0,
      num_untrained=1,
      classes=(8, 3),
      norms=(np.inf,),
      box=False,
      num_examples=6,
    )
  )
  rows = result.table
  assert set(rows['label']) <= {3, 8} and set(rows['target']) <= {3, 8, -1}
  # Their numbers in the split, of which a fifth are a 3 or an 8.
  assert rows['index'].max() > 10
  assert np.isnan(rows['lower']).all()
  verdicts = [claim.verdict for claim in result.report.claims]
  assert verdicts == 2 * [claims.NOT_TESTED]
  assert 'there are no trained networks' in result.report.answer
  out = capsys.readouterr().out
  assert 'there are no certified bounds' in out and 'figures:' in out


@pytest.mark.parametrize(
  'given, message',
  [
    (dict(model='vgg'), r'--model=vgg is unknown; it is one of fully_conn'),
    (dict(method='luck'), r'--method=luck: .*portfolio'),
    (dict(norms=(0.5,)), r'in norm 0.5: norm must be a number p >= 1'),
    (dict(norms=(0.0,), box=False), r'norm 0 needs --box'),
    (dict(classes=(3,)), r'--classes=3 has to name at least two of 0, 1'),
    (dict(classes=(3, 12)), r'--classes=3,12 has to name'),
    (dict(num_examples=0), r'--num_examples=0 is too small; at least 1'),
    (dict(num_trained=0, num_untrained=0), r'--num_untrained=0: no networks'),
    (dict(split='validation'), r'--split=validation is unknown'),
  ],
)
def test_bad_flags_are_named_and_nothing_is_written(tmp_path, given, message):
  with pytest.raises(flags.FlagError, match=message):
    boundary_distances.run(toy(tmp_path / 'run', **given))
  assert not (tmp_path / 'run').exists()


def measure_checkpoint(module, **more):
  """Inputs with a checkpoint of random variables, and rows of points.npz."""
  rng = np.random.default_rng(0)
  xs = rng.uniform(size=(9, 8, 8, 1)).astype(np.float32)
  variables = jax.tree.map(
    lambda v: rng.uniform(0.5, 2, v.shape).astype(np.float32),
    module.init(jax.random.key(0), xs[0]),
  )
  labels, rows = np.zeros(9, np.int32), np.arange(9)
  trained = networks.Group(module, [variables], 1)
  inputs = boundary_distances.Inputs(
    trained, np.array([2, 5, 7]), (xs, labels), xs, labels, rows
  )
  config = toy('', num_untrained=0, max_gradients=9, **more)
  units = boundary_distances.measure(config, inputs)
  network, done = next(units), concurrent.futures.Future()
  done.set_result(network.measure())
  points = units.send(done)
  assert (network.table, points.table) == ('networks', 'points')
  return inputs, points.measure()


@pytest.mark.parametrize(
  'method', ['linear', pytest.param('ddn', marks=pytest.mark.slow)]
)
def test_a_checkpoint_is_measured_with_all_its_variables(method):
  module = models.ResNet20(4, (1,), num_classes=3)  # With batch norm.
  inputs, found = measure_checkpoint(module, method=method)
  (variables,) = inputs.trained.given
  logits = jax.vmap(lambda x: module.apply(variables, x)[0])(inputs.xs)
  wanted = inputs.classes[logits.argmax(1)]
  np.testing.assert_array_equal(found['predicted'], wanted[:7])
  np.testing.assert_array_equal(found['x'], inputs.xs[:7])


@pytest.mark.parametrize(
  'dtype, certify, there',
  [(None, True, True), (jnp.bfloat16, True, False), (None, False, False)],
)
def test_dense_networks_of_full_precision_are_certified(dtype, certify, there):
  module = models.MLP((4,), 3, dtype)
  _, found = measure_checkpoint(module, method='linear', certify=certify)
  assert np.all(np.isnan(found['lower']) != there)


def test_a_network_that_is_not_read_has_no_bounds_and_is_told_why(capsys):
  weights = np.eye(4, 3, dtype=np.float32)
  given = np.full((1, 4), 0.5, np.float32), np.zeros(1, np.int32)

  def read(fn, bounds=(0.0, 1.0)):
    network = own.Network(fn, weights, 3)
    return own.can_be_certified(network, *given, bounds)

  assert read(lambda w, x: jnp.tanh(x) @ w) and not capsys.readouterr().out
  assert not read(lambda w, x: jnp.sin(x) @ w)
  assert re.match(
    r"No certified bounds: network must be of .* 'sin' \(.*\.py:\d+\) is not",
    capsys.readouterr().out,
  )
  # A sum of different depths, without a box.
  residual = lambda w, x: (jnp.maximum(x - 1, 0) + x) @ w
  assert read(residual) and not read(residual, None)
  assert 'within finite bounds' in capsys.readouterr().out


# --- One example -----------------------------------------------------------

WEIGHTS = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
LINEAR = types.SimpleNamespace(apply=lambda weights, v: (v @ weights, {}))


def test_an_example_is_measured_against_its_label_or_its_own_class(monkeypatch):
  asked = []
  found = boundary.BoundaryPoint(
    distance=2.5,
    point=jnp.float32([0.9, 0.1, 0.5, 0.0]),
    target=2,
    normal=jnp.float32([0.5, -0.5, 0.5, 0.5]),
    margin=-0.25,
    status=3,
    gradients=11,
    forwards=13,
  )

  def nearest_point(logits_fn, x, label, **options):
    asked.append((logits_fn(x), x, int(label), options))
    return found

  monkeypatch.setattr(boundary, 'nearest_point', nearest_point)
  x = np.float32([0.6, 0.3, 0.2, 0.0])
  order = np.argsort(x @ WEIGHTS)
  options = dict(bounds=(0.0, 1.0), method='deepfool', max_gradients=17)
  for label in (-1, order[0], order[2]):
    measured = boundary_distances.measure_example(
      x, jnp.int32(label), WEIGHTS, module=LINEAR, norm=2.0, **options
    )
    logits, *given = asked[-1]
    np.testing.assert_array_equal(logits, x @ WEIGHTS)
    said = order[2] if label < 0 else label
    assert given == [x, said, options | {'norm': 2.0}]
    assert measured['predicted'] == order[2]
    for (
      name
    ) in 'distance target status gradients forwards margin point'.split():
      assert measured[name] is getattr(found, name)
    wanted = normals.alignment(
      found.point - x, found.normal, x, norm=2.0, bounds=(0.0, 1.0)
    )
    np.testing.assert_allclose(measured['alignment'], wanted)


def test_the_distance_of_a_linear_network_is_exact():
  rng = np.random.default_rng(0)
  xs = rng.uniform(0.3, 0.7, (6, 4)).astype(np.float32)
  measure = lambda x: boundary_distances.measure_example(
    x,
    jnp.int32(-1),
    WEIGHTS,
    module=LINEAR,
    norm=2.0,
    bounds=None,
    method='deepfool',
    max_gradients=20,
  )
  found = jax.jit(jax.vmap(measure))(xs)
  logits = xs @ WEIGHTS
  top, rows = logits.argmax(1), np.arange(6)
  gaps = logits[rows, top][:, None] - logits
  with np.errstate(invalid='ignore'):
    flat = gaps / np.linalg.norm(WEIGHTS.T[top][:, None] - WEIGHTS.T, axis=2)
  np.testing.assert_allclose(found['distance'], np.nanmin(flat, 1), rtol=1e-3)
  np.testing.assert_allclose(found['alignment'], 1, atol=1e-4)


# --- Claims ----------------------------------------------------------------

CLASSES = 4


def made_up(trained, untrained, *, wrong=0, failed=0, num_classes=CLASSES):
  """Results of 20 examples in l2, whose distances spread around a median.

  Args:
    trained, untrained: medians, one of each network.
    wrong: examples that each trained network gets wrong.
    failed: searches that each untrained network loses.
    num_classes: of equally many examples.
  """
  parts = []
  for kind, medians in (('trained', trained), ('untrained', untrained)):
    for network, median in enumerate(medians):
      far = median * np.linspace(0.5, 1.5, 21)[:20]
      label = np.arange(20) % num_classes
      predicted = np.array(label)
      status = np.full(20, FOUND)
      if kind == 'trained' and wrong:
        status[:wrong], far[:wrong] = WRONG, 0
        predicted[:wrong] = (label[:wrong] + 1) % num_classes
      if kind == 'untrained' and failed:
        status[-failed:], far[-failed:] = NOT_FOUND, np.inf
      parts.append(
        {
          'kind': np.full(20, kind),
          'network': np.full(20, network),
          'norm': np.full(20, 2.0),
          'label': label,
          'predicted': predicted,
          'status': status,
          'distance': far,
          'lower': np.full(20, np.nan),
          'alignment': np.full(20, 0.75),
          'gradients': np.arange(20),
        }
      )
  return records.concatenate(parts)


def judge(results, **more):
  report = boundary_distances.analyze(toy('', **more), {'results': results})
  return report, *report.claims


FAR, NEAR = [3.0, 3.1, 2.9], [1.0, 1.1, 0.9]


@pytest.mark.filterwarnings('error')
@pytest.mark.parametrize(
  'results, verdict, why',
  [
    (made_up(FAR, NEAR), claims.SUPPORTED, 'above 1: 3.0'),
    (made_up(NEAR, FAR), claims.NOT_SUPPORTED, 'above 1: 0.33'),
    (made_up([2.0, 0.5], [1.0, 1.1]), claims.UNDECIDED, 'above 1'),
    (made_up(FAR[:1], NEAR), claims.NOT_TESTED, 'there is one trained'),
    (made_up(FAR, NEAR[:1]), claims.NOT_TESTED, 'there is one untrained'),
    (made_up([], NEAR), claims.NOT_TESTED, 'there are no trained'),
    (made_up(FAR, []), claims.NOT_TESTED, 'there are no untrained'),
    # Half way from chance, 1/4, to all is 12.5 of 20.
    (made_up(FAR, NEAR, wrong=7), claims.SUPPORTED, 'above 1'),
    (made_up(FAR, NEAR, wrong=8), claims.NOT_TESTED, 'classify 60% .*25%'),
    (made_up(FAR, NEAR, wrong=20), claims.NOT_TESTED, 'classify 0%'),
    # Of two classes 15 of 20.
    (made_up(FAR, NEAR, wrong=5, num_classes=2), claims.SUPPORTED, ''),
    (made_up(FAR, NEAR, wrong=6, num_classes=2), claims.NOT_TESTED, '70%'),
    (made_up(FAR, NEAR, failed=1), claims.SUPPORTED, ''),
    (
      made_up(FAR, NEAR, failed=2),
      claims.NOT_TESTED,
      'untrained networks: 10% of the searches found no boundary',
    ),
    (made_up(FAR, NEAR, failed=20), claims.NOT_TESTED, '100% of the searches'),
  ],
)
def test_claims_follow_the_rule(results, verdict, why):
  report, claim, bounds = judge(results)
  assert (claim.verdict, claim.paper) == (verdict, '')
  assert re.search(why, claim.reason)
  assert bounds.verdict == claims.NOT_TESTED
  assert bounds.reason == 'there are no certified bounds'
  tested = verdict != claims.NOT_TESTED
  assert report.answer.startswith('Images lie ' if tested else 'The median dis')
  json.dumps(runner.to_json(report, '', '', ''), allow_nan=False)
  for table in report.tables:
    tables.to_text(table)


@pytest.mark.filterwarnings('error')
def test_a_median_of_0_leaves_it_open():
  results = made_up(FAR, NEAR)
  one = (results['kind'] == 'trained') & (results['network'] == 1)
  one &= np.tile(np.arange(20) < 11, 6)
  results['distance'][one], results['status'][one] = 0, WRONG
  results['predicted'][one] = (results['label'][one] + 1) % CLASSES
  report, claim, _ = judge(results)
  assert claim.verdict == claims.UNDECIDED
  assert 'undefined, as the median of a network is 0' in claim.reason
  assert 'undefined' in report.answer
  trained, untrained = tables.to_dicts(report.tables[0])
  for name in ('median', 'ratio', 'at least'):
    assert np.isnan(trained[name][:3]).all()
  assert untrained['median'].value == pytest.approx(1, rel=0.1)
  # All but the median are of all distances: 11 of 60 are 0.
  assert trained['5 %'] == 0 < trained['25 %']


def test_the_ratio_is_over_networks():
  report, claim, _ = judge(made_up(FAR, NEAR))
  trained, untrained = tables.to_dicts(report.tables[0])
  each = [
    statistics.t_mean(np.log(v), unit='networks') for v in (FAR, NEAR)
  ]  # The tenth of 20 examples is at 0.95 of what made_up calls the median.
  for row, wanted in zip((trained, untrained), each, strict=True):
    found = np.log(np.array(row['median'][:3]) / 0.95)
    np.testing.assert_allclose(found, wanted[:3], atol=1e-9)
    assert row['median'][3:] == (3, 'networks')
  wanted = np.exp(statistics.difference(*each)[:3])
  np.testing.assert_allclose(trained['ratio'][:3], wanted)
  assert claim.conditions[0].holds and claim.conditions[0].p < 0.025
  # Twice as many examples of each say nothing more of other networks.
  twice = {k: np.repeat(v, 2) for k, v in made_up(FAR, NEAR).items()}
  report, *_ = judge(twice)
  assert tables.to_dicts(report.tables[0])[0]['ratio'] == trained['ratio']


def test_searches_are_told():
  results = made_up(FAR, NEAR, wrong=2, failed=1)
  results['lower'] = 0.5 * results['distance']
  results['alignment'][3::4] = np.nan
  report, _, bounds = judge(results)
  trained, untrained = tables.to_dicts(report.tables[1])
  assert (trained['examples'], untrained['examples']) == (60, 60)
  assert (trained['failed'], untrained['failed']) == (0, 1 / 20)
  for row in (trained, untrained):
    assert row['gradients'] == 9.5 and row['alignment'] == 0.75
    assert row['certified'] == 0.5 and row['beyond'] == 0
  assert bounds.verdict == claims.SUPPORTED
  row, _ = tables.to_dicts(report.tables[0])
  half = np.array(row['ratio'][:3]) / 2
  np.testing.assert_allclose(row['at least'][:3], half)
  nothing = made_up(FAR, NEAR)
  nothing['status'][:] = NOT_FOUND
  report, *_ = judge(nothing)
  row, _ = tables.to_dicts(report.tables[1])
  assert np.isnan([row['alignment'], row['certified']]).all()


@pytest.mark.parametrize('over, beyond', [(0.99e-4, 0), (1.1e-4, 1)])
def test_lower_bounds_may_exceed_distances_by_rounding(over, beyond):
  results = made_up(FAR, NEAR)
  results['lower'][3] = results['distance'][3] * (1 + over)
  report, _, bounds = judge(results)
  row, _ = tables.to_dicts(report.tables[1])
  assert row['beyond'] == beyond
  wanted = claims.NOT_SUPPORTED if beyond else claims.SUPPORTED
  assert bounds.verdict == wanted
  assert f'{beyond} of 1 certified bounds' in bounds.reason


def test_the_answer_is_in_l2_if_it_is_measured():
  parts = []
  for norm in (1.0, 2.0):
    part = made_up(FAR, NEAR)
    part['norm'][:] = norm
    parts.append(part)
  results = records.concatenate(parts)
  for norms, said in (((1.0, 2.0), 'ones in l2 ('), ((1.0,), 'ones in l1 (')):
    report, *judged = judge(results, norms=norms)
    assert said in report.answer
    names = [f'farther in l{norm:g}' for norm in norms]
    assert [c.name for c in judged] == [*names, 'certified bounds']


def test_architectures_follow_the_flags():
  build = lambda **more: boundary_distances.build(toy('', **more), 7)
  assert build(depth=2) == models.FullyConnected((32, 32), 7)
  assert build(model='convolutional') == models.Convolutional((32,), 7)
  resnet = models.ResNet(32, 3, num_classes=7)
  assert build(model='resnet', depth=3) == resnet
