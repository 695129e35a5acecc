"""Clinging and dimpling: toy runs, and worlds whose answer is known."""

import functools
import itertools

import jax
import numpy as np
import pytest
import resume

from dmm_jax import boundary
from dmm_jax import models
from dmm_jax import nngp
from dmm_jax import records
from dmm_jax import statistics
from experiments import clinging_dimpling as clinging
from experiments import networks
from experiments.lib import claims
from experiments.lib import flags
from experiments.lib import tables

TOY = dict(
  num_train=150,
  num_images=4,
  widths=(8,),
  init_scales=(1.0, 2.0),
  num_networks=3,
  train_batch=2,
  steps=20,
  steps_per_decade=3,
  batch_size=70,
  learning_rate=0.01,
  method='projection',
  max_gradients=20,
  film=True,
  surface=True,
)
STEPS = [0, 1, 2, 5, 10, 20]  # Ten epochs of two steps.
NAMES = [
  'width 8, scale 1',
  'width 8, scale 1, shuffled labels',
  'width 8, scale 2',
]
KINDS = [*clinging.KINDS]


@pytest.fixture(autouse=True)
def empty_figures(monkeypatch):
  resume.draw_quickly(monkeypatch)


def toy(workdir, **more):
  return clinging.Config(workdir=str(workdir), **(TOY | more))


@pytest.fixture(scope='module')
def finished(tmp_path_factory):
  return resume.run_keeping_chunks(
    clinging.run, toy, tmp_path_factory.mktemp('run')
  )


# --- Runs ------------------------------------------------------------------


def test_rows_are_images_of_networks_at_steps(finished):
  rows = finished[1].table
  keys = ('setting', 'network', 'step', 'kind', 'image')
  found = {
    tuple(row) for row in zip(*(rows[k].tolist() for k in keys), strict=True)
  }
  wanted = itertools.product(NAMES, range(3), STEPS, KINDS, range(4))
  assert found == {*wanted} and len(rows['step']) == len(found)
  assert np.all(rows['distance'] > 0)
  for name in ('train_accuracy', 'test_accuracy'):
    values = rows[name].reshape(-1, 20)  # One of a network and step.
    assert np.ptp(values, axis=1).max() == 0
  plain = records.select(rows, setting=NAMES[0])
  first, last = (
    records.select(plain, step=step)['train_accuracy'].mean()
    for step in (0, 20)
  )
  assert first < last - 0.1


def test_settings_begin_with_the_same_boundary(finished):
  """A factor of all weights moves no boundary of a network without biases."""
  rows = records.select(finished[1].table, step=0)
  plain, shuffled, scaled = (
    records.select(rows, setting=name)['distance'] for name in NAMES
  )
  np.testing.assert_allclose(shuffled, plain, rtol=1e-5)
  np.testing.assert_allclose(scaled, plain, rtol=1e-3)
  rows = records.select(finished[1].table, step=20)
  ends = [records.select(rows, setting=n)['distance'] for n in NAMES]
  for a, b in itertools.combinations(ends, 2):
    assert np.median(np.abs(a / b - 1)) > 0.05


@pytest.mark.parametrize(
  'lost',
  [
    *(['width8-scale1-shuffled-002', 'law'], ['line']),
    pytest.param(['*'], marks=pytest.mark.slow),
  ],
)
def test_a_broken_run_ends_with_the_same_bytes(finished, tmp_path, lost):
  measured = resume.assert_same_bytes(
    clinging.run, toy, finished, tmp_path, lost=lost
  )
  chunks = {path.stem for path in finished[2].iterdir()}
  assert len(chunks) == 3 * 2 + 3
  assert measured == (chunks if lost == ['*'] else {*lost})


def test_columns_are_described_and_films_are_written(finished, capsys):
  run_dir, result, _ = finished
  described = records.read_json(run_dir / 'columns.json')
  assert described.keys() == {'results', 'law', 'line', 'chessboard'}
  for name in ('line_film.gif', 'chessboard.html'):
    assert (run_dir / 'figures' / name).stat().st_size > 1000
  captions = records.read_json(run_dir / 'figures/captions.json')
  assert [*captions] == 'retreat settings line line_film chessboard'.split()
  assert len(result.report.claims) == 3 * 6
  assert [t.title.split(':')[0] for t in result.report.tables] == [
    'The gap',
    'Phases at training images',
    'Verdicts by setting',
    'What settings change',
    'Along training',
  ]


def test_the_course_is_the_gap_over_the_law_step_by_step(finished):
  result = finished[1]
  rows = tables.to_dicts(result.report.tables[-1])
  assert [row['step'] for row in rows] == STEPS
  own, of = result.tables['results'], result.tables['law']
  own = records.select(own, setting=NAMES[0])
  for row, kind in itertools.product(rows, KINDS):
    at = records.select(own, step=row['step'], kind=kind)
    logs = [
      np.log(np.median(at['distance'][at['network'] == i]))
      - np.log(of['law'][(of['network'] == i) & (of['kind'] == kind)][0])
      for i in range(3)
    ]
    wanted = statistics.t_mean(np.array(logs), unit='networks')
    assert row[kind].n == 3 and row[kind].unit == 'networks'
    np.testing.assert_allclose(row[kind][:3], np.exp(wanted[:3]), rtol=1e-6)
  for name in ('train', 'test'):
    for row in rows:
      at = records.select(own, step=row['step'])[f'{name}_accuracy']
      found = row[f'{name} accuracy'].value
      np.testing.assert_allclose(found, at.mean(), rtol=1e-6)


@pytest.mark.parametrize(
  'given, message',
  [
    (dict(dataset='digit'), "no set 'digit'; near to it: digits"),
    (dict(widths=(8, 8)), r'--widths names a value twice'),
    (dict(init_scales=(0.0,)), r'--init_scales=0.0 is too small'),
    (dict(num_images=151), r'--num_images=151 is too many; there are 150'),
    (dict(num_networks=0), r'--num_networks=0 is too small'),
    (dict(method='luck'), r'--method=luck: .*portfolio'),
  ],
)
def test_bad_flags_are_named_and_nothing_is_written(tmp_path, given, message):
  with pytest.raises(flags.EXPECTED, match=message):
    clinging.run(toy(tmp_path / 'run', **given))
  assert not (tmp_path / 'run').exists()


# --- Measuring -------------------------------------------------------------


def made_up_inputs(shape=(5, 4, 3), num=12):
  rng = np.random.default_rng(0)
  xs = rng.uniform(size=(2, num, *shape)).astype(np.float32)
  labels = np.arange(num, dtype=np.int32) % 3
  return clinging.Inputs(xs[0], labels, xs[1], labels[::-1])


def test_images_of_five_kinds_are_matched():
  inputs, config = made_up_inputs(), toy('')
  images = clinging.draw_images(config, inputs, 1)
  assert images.shape == (20, 5, 4, 3) and images.dtype == np.float32
  found = dict(zip(KINDS, np.split(images, 5), strict=True))
  for kind, xs in (('train', inputs.xs), ('test', inputs.test_xs)):
    rows = [np.flatnonzero((xs == x).all((1, 2, 3))) for x in found[kind]]
    assert len({*np.concatenate(rows)}) == 4
  # Pixels change their places, and keep their colours.
  for image, moved in zip(found['train'], found['permuted'], strict=True):
    pixels, others = image.reshape(-1, 3), moved.reshape(-1, 3)
    assert sorted(pixels.tolist()) == sorted(others.tolist())
    assert np.any(pixels != others, axis=1).sum() > 10
  size = lambda xs: np.linalg.norm(xs.reshape(len(xs), -1), axis=1)
  np.testing.assert_allclose(size(found['noise']), size(found['train']), 1e-5)
  assert abs(found['noise'].mean()) < 0.1 and found['noise'].min() < -0.5
  assert 0 <= found['box'].min() and found['box'].max() <= 1
  np.testing.assert_array_equal(images, clinging.draw_images(config, inputs, 1))
  for other in (
    clinging.draw_images(config, inputs, 2),
    clinging.draw_images(toy('', seed=1), inputs, 1),
  ):
    assert not np.any(np.isclose(other[8:], images[8:]).all((1, 2, 3)))


def test_settings_differ_from_the_main_one_in_one_thing():
  config = toy('', widths=(8, 6, 4))
  names = [setting.name for setting in clinging.settings(config)]
  assert names == [*NAMES, 'width 6, scale 1', 'width 4, scale 1']
  few = toy('', init_scales=(0.5,), shuffled=False)
  assert clinging.settings(few) == [(8, 0.5, 'true')]


def test_steps_are_log_spaced():
  assert clinging.pause_steps(100, 2) == (0, 1, 3, 10, 32, 100)
  assert clinging.pause_steps(7, 3) == (0, 1, 2, 5, 7)
  assert clinging.pause_steps(1, 5) == (0, 1)


def test_shuffled_labels_are_those_of_a_network():
  inputs, config = made_up_inputs(), toy('')
  of = lambda labels, number: clinging.targets_of(
    config, inputs, clinging.Setting(8, 1.0, labels), number
  )
  np.testing.assert_array_equal(of('true', 1), inputs.labels)
  first, second = of('shuffled', 1), of('shuffled', 2)
  assert sorted(first) == sorted(inputs.labels)
  assert np.any(first != inputs.labels) and np.any(first != second)
  np.testing.assert_array_equal(first, of('shuffled', 1))


def test_distances_and_accuracies_are_those_of_each_network():
  inputs, module = made_up_inputs((4,), 30), models.MLP((6,), 3)
  keys = jax.random.split(jax.random.key(0), 2)
  params = jax.vmap(lambda k: module.init(k, inputs.xs[0])['params'])(keys)
  own = [jax.tree.map(lambda v, i=i: v[i], params) for i in range(2)]
  logits = [
    np.array([module.apply({'params': p}, x)[0] for x in inputs.xs])
    for p in own
  ]
  for one, of in zip(own, logits, strict=True):
    found = networks.predictions(module, {'params': one}, inputs.xs)
    np.testing.assert_array_equal(found, of.argmax(1))
  x = inputs.xs[3]
  options = dict(method='ray', max_gradients=40)
  measure = functools.partial(clinging.distance, module=module, **options)
  far = jax.jit(measure)(x, own[1])
  search = functools.partial(
    boundary.nearest_point,
    lambda v: module.apply({'params': own[1]}, v)[0],
    **options,
  )
  known = jax.jit(search)(x, logits[1][3].argmax())
  np.testing.assert_allclose(far, known.distance, rtol=1e-5)
  margin = clinging.class_margin(
    x,
    own[1] | {'head': {k: v[..., :2] for k, v in own[1]['head'].items()}},
    module=models.MLP((6,), 2),
  )
  np.testing.assert_allclose(margin, logits[1][3, 1] - logits[1][3, 0], 1e-5)


def test_the_law_is_that_of_infinitely_wide_networks(monkeypatch):
  monkeypatch.setattr(clinging, 'NUM_DRAWN', 40_000)
  inputs = made_up_inputs((3, 3, 1))
  inputs = inputs._replace(labels=np.arange(12, dtype=np.int32) % 10)
  config = toy('', num_images=1, num_networks=2)
  found = clinging.law(config, inputs)
  assert found['network'].tolist() == 5 * [0] + 5 * [1]
  assert found['kind'].tolist() == 2 * KINDS
  *_, kernel_fn = nngp.fully_connected(2)
  x = clinging.draw_images(config, inputs, 1)[3]
  scale = nngp.distance_scale(kernel_fn, x, 2)
  np.testing.assert_allclose(scale, np.linalg.norm(x) / 3, rtol=1e-4)
  quantiles = [
    nngp.distance_quantile(scale, (i + 0.5) / 500, 10) for i in range(500)
  ]
  mean = np.exp(np.mean(np.log(quantiles)))
  np.testing.assert_allclose(found['law'][8], mean, rtol=0.02)


def test_the_law_is_of_a_median_over_images_that_depend_on_each_other(
  monkeypatch,
):
  monkeypatch.setattr(clinging, 'NUM_DRAWN', 20_000)
  inputs = made_up_inputs((3, 3, 1))
  config = toy('', num_images=4, num_networks=1)
  one = np.random.default_rng(1).uniform(size=(3, 3, 1))
  same = lambda *_: np.broadcast_to(one, (20, 3, 3, 1)).astype(np.float32)
  monkeypatch.setattr(clinging, 'draw_images', same)
  together = clinging.law(config, inputs)['law']
  monkeypatch.setattr(clinging, 'draw_images', lambda *_: same()[:5])
  alone = clinging.law(config, inputs)['law']
  np.testing.assert_allclose(together, alone, rtol=0.03)


def test_films_hold_the_boundary_around_the_toy_problems(finished):
  line, board = (finished[1].tables[k] for k in ('line', 'chessboard'))
  for film, size in ((line, (151, 151)), (board, (37, 37, 37))):
    # One batch an epoch: the flags ask for 20 steps.
    assert film['step'].tolist() == STEPS
    assert film['margin'].shape == (6, *size)
    assert np.all(np.ptp(film['points'], axis=0) == 0)
    assert np.all(film['gap'] > 0)
  places = [[0.05 + 0.25 * i, 0.5] for i in range(5)]
  np.testing.assert_allclose(line['points'][0], places, rtol=1e-6)
  assert line['labels'][0].tolist() == [0, 1, 0, 1, 0]
  # The points lie in the plane of the board, 0.25 apart.
  points = board['points'][0]
  wanted = [(0.25 * i, 0.25 * j) for i in range(5) for j in range(5)]
  np.testing.assert_allclose(points, wanted, atol=1e-6)
  # A point's distance to the boundary is at most that along the grid.
  axis, margin = line['axis'][0], line['margin'][-1]
  for film in (line, board):
    flat = film['margin'].reshape(6, -1)
    assert np.all(flat.std(1) > 0)
  grid = np.stack(np.meshgrid(axis, axis), -1)
  least = []
  for place in places:
    at = np.argmin(np.linalg.norm(grid - place, axis=-1))
    beyond = np.sign(margin) != np.sign(margin.flat[at])
    away = np.linalg.norm(grid - place, axis=-1)[beyond]
    least.append(away.min() if away.size else np.inf)
  gap = np.median(least)
  if np.isfinite(gap):
    assert abs(gap - line['gap'][-1]) < 0.02


# --- Worlds ----------------------------------------------------------------

X = np.log10(1.0 + np.array(clinging.pause_steps(1000, 3)))
LAST = X[-1]
ACCURACY = ([0, 1, 2, LAST], [0.1, 0.12, 0.95, 0.99])
FALL = ([0, 0.8, 1.2, LAST], [0, -1, -1, -1])
RETREAT = ([0, 0.8, 1.8, LAST], [0, -1, 1, 1])
FLAT = ([0, LAST], [0, 0])


def world(rng, curves, accuracy=ACCURACY, *, networks=8, images=3, luck=0.5):
  """Tables of one setting whose mean log gaps are known.

  Args:
    rng: numpy generator.
    curves: by kind, corners of the mean of log gap; those left out are flat.
    accuracy: corners of the training accuracy.
    networks, images: how many.
    luck: standard deviation of a network's log gap at the start. It is lost
      along training, and new luck is drawn; half of it is that of all kinds.
  """
  steps = clinging.pause_steps(1000, 3)
  shape = networks, len(steps), len(KINDS)
  means = [np.interp(X, *curves.get(kind, FLAT)) for kind in KINDS]

  def lucky(*shape):
    """Random walks that stay as wide as they begin."""
    walk = [rng.normal(size=shape)]
    for _ in steps[1:]:
      walk.append(0.8 * walk[-1] + 0.6 * rng.normal(size=shape))
    return luck / np.sqrt(2) * np.moveaxis(walk, 0, 1)

  logs = np.stack(means, -1) + lucky(networks, 1) + lucky(networks, len(KINDS))
  far = np.exp(logs[..., None] + rng.normal(0, 0.3, (*shape, images)))
  right = np.interp(X, *accuracy) + rng.normal(0, 0.01, shape[:2])
  full = np.broadcast_shapes(far.shape)
  column = lambda v, axis: np.broadcast_to(
    np.reshape(v, [-1 if i == axis else 1 for i in range(4)]), full
  ).ravel()
  each = np.broadcast_to(right[..., None, None], full).ravel()
  results = {
    'setting': np.full(far.size, 'width 100, scale 1'),
    'network': column(np.arange(networks), 0),
    'step': column(steps, 1),
    'kind': column(KINDS, 2),
    'image': column(np.arange(images), 3),
    'distance': far.ravel(),
    'train_accuracy': each,
    'test_accuracy': each - 0.1,
  }
  law = {
    'network': np.repeat(np.arange(networks), len(KINDS)),
    'kind': np.tile(KINDS, networks),
    'law': np.full(networks * len(KINDS), 0.5),
  }
  return {'results': results, 'law': law}


CONFIG = clinging.Config(widths=(100,), init_scales=(1.0,), shuffled=False)


def verdicts(made):
  report = clinging.analyze(CONFIG, made)
  return {c.name.split(': ')[1]: c.verdict for c in report.claims}


def supported(curves, *, runs, **more):
  """Shares of supported claims over runs of a world, by name."""
  rng = np.random.default_rng(0)
  with pytest.MonkeyPatch.context() as patch:
    # Of Student's quantiles there is one; scipy takes its time for it.
    patch.setattr(statistics, '_t', functools.cache(statistics._t))
    resume.leave_out_tables(patch, clinging)
    found = [verdicts(world(rng, curves, **more)) for _ in range(runs)]
  return {
    name: np.mean([v[name] == claims.SUPPORTED for v in found])
    for name in found[0]
  }


def data_alone(corners):
  return {'train': corners, 'test': corners}


def everywhere(corners):
  return dict.fromkeys(KINDS, corners)


S, N = claims.SUPPORTED, claims.NOT_SUPPORTED


@pytest.mark.parametrize(
  'curves, accuracy, wanted',
  [
    (data_alone(FALL), ACCURACY, 'SSSSSN'),  # The paper's.
    (data_alone(RETREAT), ACCURACY, 'SSSSNS'),
    (everywhere(RETREAT), ACCURACY, 'S?SSN?'),
    (
      {'train': FALL, 'test': FALL, 'box': ([0, 0.8, LAST], [0, -3, -3])},
      ACCURACY,
      'SNSSSN',
    ),
    # The boundary comes near as examples are fitted, and then stays.
    (
      data_alone(([0, 1, 2, LAST], [0, 0, -1.5, -1.5])),
      ([0, 1, 2, LAST], [0.1, 0.1, 0.9, 0.9]),
      'SSN?SN',
    ),
    # One trend from the first step to the last.
    (data_alone(([0, LAST], [0, -3])), ACCURACY, 'SS??SN'),
    (data_alone(([0, LAST], [0, 3])), ACCURACY, 'N??NNS'),
  ],
)
def test_worlds_with_a_clear_answer(curves, accuracy, wanted):
  made = world(
    np.random.default_rng(0), curves, accuracy, networks=24, luck=0.2
  )
  found = verdicts(made)
  for verdict, said in zip(found.values(), wanted, strict=True):
    assert said == '?' or verdict == {'S': S, 'N': N}[said], found


def test_null_worlds_are_seldom_called_supported():
  """Nothing moves: 2.5 % of one condition, and less of several."""
  found = supported({}, runs=400)
  assert max(found.values()) <= 0.04, found
  found = supported({}, runs=200, networks=24, images=1)
  assert max(found.values()) <= 0.05, found


@pytest.mark.parametrize('corners', [FALL, RETREAT])
def test_what_happens_at_non_data_too_is_not_of_data(corners):
  found = supported(everywhere(corners), runs=200, luck=0.2)
  assert found['to data'] <= 0.03, found
  if corners is RETREAT:
    assert found['shallow dimples'] == 0 and found['retreat'] <= 0.03, found
  assert min(found['clings'], found['two phases']) > 0.9, found


def test_a_fall_with_accuracy_is_not_before_it():
  """Gap and accuracy have one curve, in both halves and steep or slow."""
  for end in (1.2, 2.0, 2.8):
    corners = [0, 0.5, end, LAST]
    accuracy = corners, [0.1, 0.1, 0.95, 0.95]
    curves = data_alone((corners, [0, 0, -1.5, -1.5]))
    found = supported(curves, runs=150, accuracy=accuracy)
    assert found['before accuracy'] <= 0.03, (end, found)
    assert found['clings'] > 0.9


def test_as_much_before_as_after_is_called_before_in_1_of_40():
  at = X[4]  # Bends are found where there was a measurement.
  curves = data_alone(([0, at - 0.5, at + 0.5, LAST], [0, 0, -1.5, -1.5]))
  accuracy = [0, at, at + 1, LAST], [0.1, 0.1, 0.95, 0.95]
  found = supported(curves, runs=300, accuracy=accuracy, luck=0.3)
  assert found['before accuracy'] <= 0.05, found


@pytest.mark.parametrize('end', [-2.0, -0.5, 2.0])
def test_one_trend_is_seldom_called_two_phases(end):
  found = supported(everywhere(([0, LAST], [0, end])), runs=300)
  assert found['two phases'] <= 0.05, found


def test_intervals_are_over_networks():
  made = world(np.random.default_rng(0), data_alone(RETREAT))
  report = clinging.analyze(CONFIG, made)
  rows = tables.to_dicts(report.tables[0])
  far = made['results']['distance'].reshape(8, len(X), 5, 3)
  logs = np.log(np.median(far, -1))
  for place, row in enumerate(rows):
    gaps = logs[:, :, place]
    for name, values in (
      ('last/start', gaps[:, -1] - gaps[:, 0]),
      ('start/law', gaps[:, 0] - np.log(0.5)),
      ('last/law', gaps[:, -1] - np.log(0.5)),
    ):
      wanted = statistics.t_mean(values, unit='networks')
      np.testing.assert_allclose(row[name][:3], np.exp(wanted[:3]))
      assert row[name][3:] == (8, 'networks')
    change = (gaps - gaps[:, :1]).mean(0)
    assert row['step'] == clinging.pause_steps(1000, 3)[1 + change[1:].argmin()]
  said = tables.cell(rows[0]['last/start'], '.2f')
  assert f'ends at {said} of it' in report.answer
  assert 'in 8 networks on digits, width 100, scale 1; ' in report.answer
  phases = tables.to_dicts(report.tables[1])[0]
  assert phases['train'].value == pytest.approx(0.99, abs=0.01)
  assert phases['test'].value == pytest.approx(0.89, abs=0.01)
  assert phases['gap bends'].value == pytest.approx(10**0.8, rel=0.5)
  assert phases['accuracy rises'].value == pytest.approx(10, rel=0.2)
  # Rows in another order are the same table.
  order = np.random.default_rng(1).permutation(far.size)
  made['results'] = {k: v[order] for k, v in made['results'].items()}
  assert clinging.analyze(CONFIG, made) == report


def test_settings_are_compared_network_by_network():
  rng = np.random.default_rng(0)
  made = world(rng, data_alone(RETREAT))
  other = {k: v.copy() for k, v in made['results'].items()}
  other['setting'] = np.full(len(other['step']), 'width 200, scale 1')
  other['distance'][other['step'] == 1000] *= 2.0
  made['results'] = records.concatenate([made['results'], other])
  config = clinging.Config(
    widths=(100, 200), init_scales=(1.0,), shuffled=False
  )
  (row,) = tables.to_dicts(clinging.analyze(config, made).tables[3])
  for kind in ('train', 'test'):
    np.testing.assert_allclose(row[f'last, {kind}'][:3], 2)
    np.testing.assert_allclose(row[f'least, {kind}'][:3], 1)


@pytest.mark.filterwarnings('error')
@pytest.mark.parametrize(
  'more, few, why',
  [
    (dict(networks=1), 0, 'there is one network'),
    (dict(failed=0.06), 0, '6% of the searches found no boundary'),
    (
      dict(accuracy=([0, LAST], [0.1, 0.5])),
      3,
      'accuracy is 50% at the end, less than half way from 10% at the start',
    ),
  ],
)
def test_what_cannot_be_tested_says_why(more, few, why):
  failed = more.pop('failed', 0)
  made = world(np.random.default_rng(0), data_alone(FALL), **more)
  lost = round(failed * len(made['results']['distance']))
  made['results']['distance'][:lost] = np.inf
  judged = clinging.analyze(CONFIG, made).claims
  tested = [c for c in judged if c.verdict != claims.NOT_TESTED]
  assert len(tested) == few
  assert all(why in c.reason for c in judged if c not in tested)
