"""The flagship: its rule, its estimators, its tables, and a toy run."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import resume
from scipy import stats

from dmm_jax import boundary
from dmm_jax import models
from dmm_jax import nngp
from dmm_jax import random_nets
from dmm_jax import scaling
from dmm_jax import statistics
from experiments import random_scaling
from experiments.lib import flags
from experiments.lib import runner
from experiments.lib import tables

N = np.array([192.0, 768.0, 3072.0])
MEDIAN = stats.halfnorm.ppf(0.5)
TOY = dict(
  architectures=('fully_connected',),
  sizes=(4, 8),
  norms=(1.0, 2.0),
  width=8,
  num_networks=19,
  batch_size=8,  # Not a divisor.
  num_predicted=2,
  methods=('ray', 'linear'),
)


@pytest.fixture(autouse=True)
def empty_figures(monkeypatch):
  resume.draw_quickly(monkeypatch)


def toy(workdir, **more):
  return random_scaling.Config(workdir=str(workdir), **(TOY | more))


@pytest.fixture(scope='module')
def finished(tmp_path_factory):
  return resume.run_keeping_chunks(
    random_scaling.run, toy, tmp_path_factory.mktemp('run')
  )


def case(slope=-0.5, networks=400, scatter=0.0, norm=2.0, seed=0, **more):
  """Networks whose distances follow a power of n, times |N(0, 1)|."""
  rng = np.random.default_rng(seed)
  relative, controlled = [], []
  for n in N:
    scale = n**slope * np.exp(scatter * rng.normal(size=networks))
    gap = np.abs(rng.normal(size=networks))
    relative.append(scale * gap)
    controlled.append(scale * MEDIAN)
  sizes = [np.full(networks, 2.0)] * 3
  options = dict(infinite=N**-0.5, scales=[np.ones(networks)] * 3) | more
  return random_scaling.Case(
    'convolutional', norm, N, sizes, relative, controlled, **options
  )


# --- The run ---------------------------------------------------------------


def test_rows_are_networks_and_norms(finished):
  table, report, found, run_dir = finished[1]
  assert set(table) <= set(random_scaling.COLUMNS)
  assert len(table['distance']) == 2 * 2 * 19 * 2
  assert set(table['n']) == {48, 192} and set(table['norm']) == {1.0, 2.0}
  for method in TOY['methods']:
    at = table['method'] == method
    assert sorted(set(table['network'][at])) == list(range(19))
  linear = table['method'] == 'linear'
  assert np.all(table['status'][linear] == boundary.Status.ESTIMATE)
  assert np.all(table['margin'] > 0) and np.all(table['distance'] > 0)
  two = table['norm'] == 2
  np.testing.assert_allclose(
    table['input_norm'][two], table['input_l2'][two], rtol=1e-5
  )
  columns = json.loads((run_dir / 'columns.json').read_text())
  assert set(columns) == {'results', 'outputs', 'predictions'}
  assert columns['results']['distance']['shape'] == [152]
  assert len(found['predictions']['scale']) == 2 * 2 * 2
  names = [table.title for table in report.tables]
  assert len(names) == 3 and names[2].startswith('Searches on the same')
  saved = json.loads((run_dir / 'report.json').read_text())
  assert saved['answer'] == report.answer
  assert len(saved['claims']) == len(report.claims) == 5
  assert '--workdir' not in saved['command']
  assert '--methods=ray,linear' in saved['command']


def test_distances_are_those_of_the_library_on_the_same_networks(finished):
  table = finished[1].table
  setting = random_scaling.Setting(
    toy('.'), 'fully_connected', 8, np.zeros(1, np.float32)
  )
  x, key = random_nets.draw_image(11, setting.images, **setting.draw)
  assert x.shape == (8, 8, 3) and 0 <= x.min() < 0.1 < 0.9 < x.max() <= 1
  params = setting.module.init(key, x)
  logits_fn = lambda v: setting.module.apply(params, v)[0]

  @jax.jit
  def search(x):
    return boundary.nearest_point(
      logits_fn,
      x,
      logits_fn(x).argmax(),
      norm=2.0,
      bounds=(0.0, 1.0),
      method='ray',
      max_gradients=200,
      rtol=1e-4,
    )

  wanted = search(x)
  at = (table['network'] == 11) & (table['n'] == 192) & (table['norm'] == 2)
  at &= table['method'] == 'ray'
  np.testing.assert_allclose(table['distance'][at], wanted.distance, rtol=1e-4)
  np.testing.assert_allclose(
    table['margin'][at], np.abs(np.diff(logits_fn(x))), rtol=1e-4
  )
  np.testing.assert_allclose(
    table['input_l2'][at], np.linalg.norm(x), rtol=1e-5
  )


@pytest.mark.parametrize(
  'lost',
  [
    ['*-ray-000008', 'predicted-*-8'],
    *(pytest.param([v], marks=pytest.mark.slow) for v in ('predicted-*', '*')),
  ],
)
def test_a_broken_run_ends_with_the_same_bytes(finished, tmp_path, lost):
  resume.assert_same_bytes(
    random_scaling.run, toy, finished, tmp_path, lost=lost
  )


def test_a_finished_run_is_shown_again(finished, capsys):
  run_dir = finished[0]
  before = (run_dir / 'results.npz').stat().st_mtime_ns
  again = random_scaling.run(toy(run_dir))
  assert (run_dir / 'results.npz').stat().st_mtime_ns == before
  out = capsys.readouterr().out
  assert again.report.answer in out and 'Claims' in out and 'figures:' in out
  assert out.index(again.report.answer) < out.index('Claims')


def test_real_images_are_blended_with_noise():
  config = toy('.', inputs='digits', channels=1, noise=0.25)
  images = random_scaling.load(config)
  assert {s: v.shape[1:] for s, v in images.items()} == {
    4: (4, 4, 1),
    8: (8, 8, 1),
  }
  setting = random_scaling.Setting(config, 'fully_connected', 8, images[8])
  x, _ = random_nets.draw_image(3, images[8], **setting.draw)
  rest = (np.asarray(x) - 0.75 * images[8]).reshape(len(images[8]), -1)
  inside = np.all((rest >= -1e-6) & (rest <= 0.25 + 1e-6), axis=1)
  assert inside.sum() == 1
  assert random_scaling.load(toy('.')) == {}


@pytest.mark.parametrize(
  'given, message',
  [
    (dict(architectures=('vgg',)), r'--architectures=vgg.*fully_connected'),
    (dict(norms=(0.5,)), r'in norm 0.5: norm must be a number p >= 1'),
    (dict(norms=(0.0,), box=False), r'norm 0 needs --box'),
    (dict(num_networks=0), r'--num_networks=0 is too small; at least 1'),
    (dict(sizes=()), '--sizes is empty'),
    (dict(sizes=(8, 8)), '--sizes names a value twice'),
    (dict(methods=('luck',)), '--methods=luck is unknown'),
    (
      dict(architectures=('lenet',), conv_sizes=(2, 8)),
      r'a side of 2 is too small for lenet, which needs .* at least 4 x 4',
    ),
  ],
)
def test_bad_flags_are_named_and_nothing_is_written(tmp_path, given, message):
  with pytest.raises(flags.FlagError, match=message):
    random_scaling.run(toy(tmp_path / 'run', **given))
  assert not (tmp_path / 'run').exists()


def test_every_architecture_has_its_sizes_norms_networks_and_width():
  config = random_scaling.Config(
    sizes=(1,),
    conv_sizes=(4,),
    resnet20_sizes=(5,),
    norms=(1.0,),
    conv_norms=(2.0,),
    num_networks=5,
    conv_networks=6,
    lenet_networks=3,
    resnet20_networks=7,
    width=8,
    conv_width=9,
  )
  others = {
    'fully_connected': (1, 1.0, 5, 8),
    'lenet': (4, 2.0, 3, 9),
    'resnet20': (5, 2.0, 7, 0),
  }
  for name, of in random_nets.ARCHITECTURES.items():
    side, norm, networks, width = others.get(name, (4, 2.0, 6, 9))
    assert random_scaling.sizes(config, name) == (side,)
    assert random_scaling.norms(config, name) == (norm,)
    assert random_scaling.num_networks(config, name) == networks
    setting = random_scaling.Setting(config, name, side, np.zeros(1))
    assert setting.module == of.module(width)


# --- Estimators ------------------------------------------------------------

QUICK = ('fully_connected', 'lenet')  # Of dense layers, and of all others.


@pytest.mark.parametrize(
  'name',
  [
    pytest.param(name, marks=[pytest.mark.slow] * (name not in QUICK))
    for name in random_nets.ARCHITECTURES
  ],
)
def test_variances_over_the_last_layer_are_those_of_redrawn_layers(name):
  of = random_nets.ARCHITECTURES[name]
  module = models.ResNet(2, 1) if name == 'resnet20' else of.module(3)
  draw = dict(seeds=(0, 1, 2), shape=(4, 4, 3), noise=1.0)
  found, size = random_scaling.last_layer_variance(
    5, np.zeros(1), module=module, head_variance=of.head_variance, **draw
  )
  x, key = random_nets.draw_image(5, np.zeros(1), **draw)
  params = module.init(key, x)['params']

  def margin(key):
    # Heads as they are drawn, of the same other layers.
    head = module.init(key, x)['params']['head']
    logits, _ = module.apply({'params': {**params, 'head': head}}, x)
    return logits[1] - logits[0]

  margins = jax.vmap(margin)(jax.random.split(jax.random.key(0), 20_000))
  np.testing.assert_allclose(found, jnp.mean(margins**2), rtol=0.04)
  np.testing.assert_allclose(size, np.linalg.norm(x), rtol=1e-5)


def made(name='fully_connected', infinite=True):
  """Tables of distances |f| / ||grad f|| with a gradient of a known size."""
  rng = np.random.default_rng(0)
  rows, outputs, predicted = [], [], []
  for n in (108, 432):
    for network in range(50):
      size = rng.uniform(1, 2)
      margin = np.abs(rng.normal()) * 3.0 * size
      rows.append((name, 'fast', n, 2.0, network, margin, margin / n, 7, size))
    outputs += [(name, n, 9.0 * s**2, s) for s in rng.uniform(1, 2, size=20)]
    predicted += [(name, n, 2.0, 3.0 * s / n, s, 3.0 * s, s) for s in (1, 1.5)]
  table = lambda names, rows: dict(
    zip(names.split(), map(np.array, zip(*rows, strict=True)), strict=True)
  )
  return {
    'results': table(
      'architecture method n norm network margin distance input_norm input_l2',
      rows,
    ),
    'outputs': table('architecture n variance input_l2', outputs),
    'predictions': table(
      'architecture n norm scale input_norm sigma input_l2', predicted
    ),
  }


@pytest.mark.parametrize('name', ['fully_connected', 'lenet', 'resnet20'])
def test_controlled_distances_have_no_scatter_of_the_margin(name):
  found = random_scaling.make_case(
    toy('.', methods=('fast',)), made(name), name, 2.0
  )
  for n, relative, controlled in zip(
    (108, 432), found.relative, found.controlled, strict=True
  ):
    rows = made(name)['results']
    at = rows['n'] == n
    np.testing.assert_allclose(relative, rows['distance'][at] / 7)
    # |f| / n over 7, with |f| at its median, which is half-normal here.
    wanted = stats.halfnorm.ppf(0.5) * 3 * rows['input_l2'][at] / n / 7
    np.testing.assert_allclose(controlled, wanted, rtol=1e-5)
  assert (found.infinite is None) == (name == 'resnet20')
  assert [len(s) for s in found.scales] == [20, 20]
  np.testing.assert_allclose(found.scales, 3, rtol=1e-6)
  if found.infinite is not None:
    of = made(name)['predictions']
    for n, value in zip((108, 432), found.infinite, strict=True):
      at = of['n'] == n
      scales = of['scale'][at] / of['input_norm'][at]
      assert value == pytest.approx(nngp.distance_quantile(scales, 0.5))
  assert found.failed == 0


def test_slopes_are_those_of_medians():
  found = case(slope=-0.43, scatter=0.1)
  medians = [np.median(v) for v in found.controlled]
  wanted = np.polyfit(np.log(N), np.log(medians), 1)[0]
  slope = random_scaling.controlled_slope(found)
  assert slope.value == pytest.approx(wanted)
  assert slope.low < wanted < slope.high
  assert (slope.n, slope.unit) == (400, 'networks')
  raw = random_scaling.slope(found, found.relative)
  assert raw.high - raw.low > 4 * (slope.high - slope.low)
  assert random_scaling.infinite_slope(found) == pytest.approx(-0.5)


@pytest.mark.parametrize('name', ['fully_connected', 'lenet', 'resnet20'])
def test_margins_of_a_mixture_are_controlled_to_its_median(name):
  """Networks of two sizes of f: no normal, whose median is not 0.6745 sigma."""
  rng = np.random.default_rng(0)
  known, tables = name == 'fully_connected', made(name)
  rows, of = tables['results'], tables['outputs']
  scale = rng.choice([1.0, 5.0], len(rows['n'])) * rows['input_l2']
  rows['margin'] = np.abs(rng.normal(size=len(scale))) * scale
  rows['distance'] = rows['margin'] / rows['n']
  # In units that the kernel does not know: with it, only the shape counts.
  drawn = np.tile([1.0, 5.0], len(of['n']) // 2) * (3.0 if known else 1.0)
  of['variance'] = (drawn * of['input_l2']) ** 2
  tables['predictions']['sigma'] = (
    np.sqrt(13.0) * tables['predictions']['input_l2']
  )
  found = random_scaling.make_case(
    toy('.', methods=('fast',)), tables, name, 2.0
  )
  # The median of half |N(0, 1)| and half |N(0, 25)|.
  sample = np.abs(rng.normal(size=(2, 200_000))) * [[1.0], [5.0]]
  median = np.median(sample)
  assert median < 0.85 * MEDIAN * np.sqrt(13)
  for n, controlled in zip((108, 432), found.controlled, strict=True):
    wanted = median * rows['input_l2'][rows['n'] == n] / n / 7
    np.testing.assert_allclose(controlled, wanted, rtol=0.01)


def test_medians_have_the_doubt_about_the_margin_in_their_intervals():
  found = case(scatter=0.1, infinite=None)._replace(name='lenet')
  rng = np.random.default_rng(1)
  drawn = np.exp(0.4 * rng.normal(size=100))
  found = found._replace(scales=[drawn] * 3)
  plain = statistics.median(found.controlled[1] * 3.0, unit='networks')
  wide = random_scaling.controlled_median(found, 1, length=3.0)
  assert wide.value == plain.value and (wide.n, wide.unit) == (100, 'networks')
  medians = [
    scaling.mixture_median(rng.choice(drawn, 100)[:, None]) for _ in range(2000)
  ]
  spread = 1.96 * np.std(np.log(medians))
  for end, of in ((wide.low, plain.low), (wide.high, plain.high)):
    want = np.hypot(np.log(of / plain.value), spread)
    assert abs(np.log(end / wide.value)) == pytest.approx(want, rel=0.1)


def test_what_is_uncertain_in_the_median_widens_the_interval_alone():
  found = case(scatter=0.05, infinite=None)
  rng = np.random.default_rng(1)
  drawn = [np.exp(0.4 * rng.normal(size=50)) for _ in N]
  plain = random_scaling.slope(found, found.controlled)
  found = found._replace(name='resnet20')
  wide = random_scaling.controlled_slope(found._replace(scales=drawn))
  assert wide.value == plain.value
  half = lambda e: (e.high - e.low) / 2
  log_slope = statistics.log_slope(N)
  medians = [
    [np.median(np.abs(rng.normal(size=50) * rng.choice(d, 50))) for d in drawn]
    for _ in range(300)
  ]
  # Of draws of |f| themselves the median would be less certain.
  assert np.hypot(half(plain), 1.96 * np.std(log_slope(medians))) > half(wide)
  assert half(wide) > 1.5 * half(plain)
  exact = random_scaling.controlled_slope(
    found._replace(scales=[np.ones(50)] * 3)
  )
  assert half(exact) == pytest.approx(half(plain), rel=1e-6)
  # In units of a known sigma, all but the shape is certain.
  known = random_scaling.controlled_slope(
    found._replace(scales=drawn, name='resnet')
  )
  assert half(plain) < half(known) < half(wide)


# --- The rule --------------------------------------------------------------


def judged_of(found):
  return random_scaling.judge(found, random_scaling.controlled_slope(found))


def verdicts(found):
  return {
    claim.name.split(': ')[1]: claim.verdict for claim in judged_of(found)
  }


def test_claims_follow_the_slope():
  law, own = '||x|| / sqrt(n)', 'as at infinite width'
  assert verdicts(case(scatter=0.05)) == {law: 'supported', own: 'supported'}
  far = case(slope=-0.56, scatter=0.05, infinite=N**-0.56)
  assert verdicts(far) == {law: 'not supported', own: 'supported'}
  wide = case(scatter=0.5, networks=20)
  assert verdicts(wide) == {law: 'undecided', own: 'undecided'}
  assert verdicts(case(infinite=None)) == {law: 'supported'}
  one = case(norm=1.0, slope=-0.57, scatter=0.05, infinite=N**-0.57)
  assert verdicts(one)[law] == 'not supported'
  assert verdicts(one)['sqrt(n / ln n)'] == 'supported'


def test_failed_searches_and_single_sizes_test_nothing():
  found = case(scatter=0.05)
  few = [r.copy() for r in found.relative]
  for r in few:
    r[:8] = np.inf  # 2 % exactly.
  assert 'not tested' not in verdicts(found._replace(relative=few)).values()
  few[0][8] = np.inf
  judged = judged_of(found._replace(relative=few))
  assert {c.verdict for c in judged} == {'not tested'}
  assert '2.1% of the searches found no boundary' in judged[0].reason
  single = found._replace(
    n=N[:1],
    relative=found.relative[:1],
    controlled=found.controlled[:1],
    scales=found.scales[:1],
    infinite=found.infinite[:1],
  )
  judged = judged_of(single._replace(norm=1.0))
  assert {c.reason for c in judged} == {'one size has no slope'}
  assert len(judged) == 3
  assert 'has no slope' not in random_scaling.answer(
    [single], [random_scaling.controlled_slope(single)], judged
  )
  assert np.isnan(random_scaling.controlled_slope(single).value)
  assert random_scaling.infinite_slope(single) is None


@pytest.mark.slow
def test_other_slopes_are_called_supported_in_at_most_5_percent_of_runs():
  # A scatter and a number of networks as of the default run.
  for slope in (-0.56, -0.53):
    said = [
      verdicts(case(slope, 200, scatter=0.17, seed=seed))['||x|| / sqrt(n)']
      for seed in range(200)
    ]
    assert said.count('supported') <= 0.05 * len(said), slope
  said = [
    verdicts(case(-0.5, 200, scatter=0.17, seed=seed))['||x|| / sqrt(n)']
    for seed in range(100)
  ]
  assert said.count('supported') > 90


# --- Tables ----------------------------------------------------------------


def test_medians_stand_beside_the_prediction():
  found = case(scatter=0.1)
  rows = tables.to_dicts(random_scaling.median_table([found]))
  assert [row['n'] for row in rows] == [192, 768, 3072]
  for i, row in enumerate(rows):
    assert row['raw'] == statistics.median(found.relative[i], unit='networks')
    middle = row['controlled']
    plain = statistics.median(found.controlled[i], unit='networks')
    # All networks have one scale: there is no doubt about the median margin.
    np.testing.assert_allclose(middle[:4], plain[:4], rtol=1e-9)
    assert row['networks'] == 400
    assert row['infinite'] == found.infinite[i]
    ratio = row['over infinite']
    for a, b in zip(ratio[:3], middle[:3], strict=True):
      assert a == pytest.approx(b / found.infinite[i])
  blank = random_scaling.median_table([found._replace(infinite=None)])
  row = tables.to_dicts(blank)[0]
  assert row['infinite'] is None and row['over infinite'] is None


@pytest.mark.parametrize(
  'factor, verdict',
  [(1.0, 'supported'), (0.5, 'not supported'), (1.2, 'undecided')],
)
def test_released_medians_are_agreed_with_or_not(factor, verdict):
  n = np.array([300.0, 3072.0])
  exact = 0.5508 * factor / 2
  found = random_scaling.Case(
    'resnet20',
    2.0,
    n,
    [np.full(50, 2.0)] * 2,
    [np.full(50, 9.0)] * 2,
    [np.full(50, exact)] * 2,
    [np.ones(50)] * 2,
    None,
  )
  (table,) = random_scaling.released_table([found])
  (row,) = tables.to_dicts(table)
  assert row['n'] == 3072 and row['agrees'] == verdict
  assert row['raw'].value == 18 and row['controlled'].value == 2 * exact
  assert row['released'] == random_nets.released(3072, 2.0)
  assert row['ratio'].value == pytest.approx(factor)


def test_sizes_that_were_not_released_have_no_table():
  assert random_scaling.released_table([case()._replace(n=N + 1)]) == []
  config = toy('.', methods=('fast',), architectures=('resnet20',))
  config = dataclasses.replace(config, conv_norms=(2.0,))
  found = made('resnet20')
  found = {k: {**v, 'n': v['n'] + 1} for k, v in found.items()}
  report = random_scaling.analyze(config, found)
  assert len(report.tables) == 2 and runner.to_text(report)


def test_verdicts_stand_in_their_own_columns():
  config = toy('.', methods=('fast',), architectures=('resnet20',))
  config = dataclasses.replace(config, conv_norms=(1.0,))
  found = made('resnet20')
  for table in found.values():
    if 'norm' in table:
      table['norm'] = np.ones_like(table['norm'])
  report = random_scaling.analyze(config, found)
  (row,) = tables.to_dicts(report.tables[0])
  # Of l1 without a kernel: the other claim is about sqrt(n / ln n).
  assert len(report.claims) == 2 and row['as infinite'] is None
  assert row['-1/2'] == report.claims[0].verdict


def test_released_intervals_are_of_networks():
  found = random_nets.released(432, np.inf)
  assert found.value == 0.03963 and found.n == 300
  slope = (0.0460 - 0.0342) / 0.1
  half = 1.959964 * slope * 0.5 / np.sqrt(300)
  assert found.high - found.value == pytest.approx(half)
  assert found.value - found.low == pytest.approx(half)
  assert random_nets.released(433, 2.0) is None
  assert random_nets.released(432, 3.0) is None


def test_searches_are_held_against_the_last_on_the_same_networks(finished):
  result = finished[1]
  rows = tables.to_dicts(result.report.tables[2])
  assert len(rows) == 2 * 2 * 2
  table = result.table
  for row in rows:
    at = (table['n'] == row['n']) & (table['norm'] == row['p'])
    of = {
      m: table['distance'][at & (table['method'] == m)] for m in TOY['methods']
    }
    far, best = of[row['search']], of['linear']
    assert row['median'] == statistics.median(far, unit='networks')
    kept = np.isfinite(far) & np.isfinite(best)
    ratio = np.sort(far[kept] / best[kept])
    assert row['ratio'].value == pytest.approx(ratio[(len(ratio) - 1) // 2])
    assert row['failed'].value == pytest.approx(np.isinf(far).mean())
    if row['search'] == 'linear':
      assert row['ratio'][:3] == (1, 1, 1) and row['gradients'] == 1


def test_the_answer_is_about_the_first_l2_case():
  cases = [case(norm=1.0), case(slope=-0.47, scatter=0.05), case(slope=-0.3)]
  judged = [c for one in cases for c in judged_of(one)]
  slopes = [random_scaling.controlled_slope(one) for one in cases]
  sentence = random_scaling.answer(cases, slopes, judged)
  value = random_scaling.controlled_slope(cases[1])
  assert f'{value.value:.3f} [{value.low:.3f}, {value.high:.3f}]' in sentence
  assert 'the l2 distance' in sentence and '-0.50 at infinite width' in sentence
  kept = sum(
    c.verdict == 'supported' for c in judged if c.name.endswith('/ sqrt(n)')
  )
  assert f'in {kept} of 3 cases' in sentence and sentence.endswith('.')
