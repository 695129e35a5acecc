"""Depth of dimples: instruments, planted worlds, rules, and a toy run."""

import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import resume

from dmm_jax import margins
from dmm_jax import records
from dmm_jax import statistics
from experiments import dimple_depth
from experiments import networks
from experiments.lib import claims
from experiments.lib import flags
from experiments.lib import runner
from experiments.lib import tables

PAIRS = 3
TOY = dict(
  num_examples=30,
  num_networks=PAIRS,
  width=32,
  epochs=15,
  adversaries=('PGD l2',),
  radius=0.5,
  attack_steps=2,
  latent=4,
  autoencoder_epochs=5,
  ball=0.3,
  method='deepfool',
  max_gradients=60,
  batch_size=64,
)
OFF, ON = dimple_depth.OFF, dimple_depth.ON
DEPTH, MAIN = dimple_depth.DEPTH, dimple_depth.MAIN
BEND, PLACE = dimple_depth.BEND, dimple_depth.PLACE


@pytest.fixture(autouse=True)
def empty_figures(monkeypatch):
  resume.draw_quickly(monkeypatch)


def toy(workdir, **more):
  return dimple_depth.Config(workdir=str(workdir), **(TOY | more))


# --- Runs ------------------------------------------------------------------


@pytest.fixture(scope='module')
def finished(tmp_path_factory):
  return resume.run_keeping_chunks(
    dimple_depth.run, toy, tmp_path_factory.mktemp('run')
  )


def rows_of(result, kind):
  rows = records.select(result.table, kind=kind)
  return {name: column.reshape(PAIRS, 30) for name, column in rows.items()}


def test_rows_are_images_of_networks(finished):
  run_dir, result, _ = finished
  rows = records.load_columns(run_dir / 'results.npz')
  np.testing.assert_equal(rows, result.table)
  assert len(rows['free']) == 3 * PAIRS * 30
  assert [*dict.fromkeys(rows['kind'])] == ['plain', 'plain again', 'PGD l2']
  right = rows['correct']
  assert 2 / 3 < right.mean() < 1
  np.testing.assert_array_equal(rows['free'] == 0, ~right)
  for side in ('on', 'off', 'random_on', 'random_off'):
    # Searches of 40 gradients: a few are not the nearest.
    shorter = rows[side][right] < rows['free'][right] * 0.98
    assert shorter.mean() < 0.03
    assert np.all(rows[side][right] >= rows['free'][right] * 0.9)
  for prefix in ('', 'random_'):
    on, off = rows[f'{prefix}on'], rows[f'{prefix}off']
    flat = right & np.isfinite(on + off)
    whole = (on[flat] ** -2.0 + off[flat] ** -2.0) ** -0.5
    assert 0.8 < np.median(rows['free'][flat] / whole) < 1.25
  both = right & right.reshape(-1, 30)[:, rows['other'][:30]].ravel()
  assert np.all((rows['place'][both] > 0) & (rows['place'][both] < 1))
  assert np.all(rows['label'] != rows['label'][:30][rows['other']])
  assert np.all((rows['fraction'][right] > 0) & (rows['fraction'][right] <= 1))
  # A boundary of so few units is nearly flat: smoothing moves it little.
  gap = np.abs(rows['smoothed'] - rows['free'])[right]
  assert np.median(gap) < 0.2 * np.median(rows['free'][right])


def test_networks_of_a_pair_start_alike_and_are_judged_by_their_accuracy(
  finished,
):
  _, result, _ = finished
  made, xs = result.tables['networks'], dimple_depth.load(toy('')).test_set
  assert made['network'].tolist() == [*range(PAIRS)] * 3
  hidden = lambda row: np.maximum(0, row[0] @ row[2] + row[1])
  for flat, right in zip(made['parameters'], made['accuracy'], strict=True):
    params = networks.unflatten(dimple_depth.build(toy(''), 10), xs[0][0], flat)
    params = jax.tree.map(np.asarray, params)
    h = xs[0].reshape(len(xs[0]), -1)
    for name in ('dense0', 'dense1'):
      layer = params['params'][name]
      h = hidden((h, layer['bias'], layer['kernel']))
    (head,) = (v for k, v in params['params'].items() if 'dense' not in k)
    predicted = (h @ head['kernel'] + head['bias']).argmax(1)
    np.testing.assert_allclose(right, np.mean(predicted == xs[1]), atol=1e-6)
  for name in ('robust_l2', 'robust_linf'):
    assert np.all(made[name] < made['accuracy'])
  gain = made['robust_l2'].reshape(3, PAIRS)[[1, 2]] - made['robust_l2'][:PAIRS]
  assert gain[1].mean() > gain[0].mean() + 0.03
  encoders = result.tables['autoencoders']
  assert len(encoders['error']) == PAIRS and np.ptp(encoders['pca_error']) == 0


def test_the_report_holds_the_numbers_of_the_rows(finished):
  run_dir, result, _ = finished
  saved = json.loads((run_dir / 'report.json').read_text())
  assert runner.from_json(saved).answer == result.report.answer
  plain, hard = rows_of(result, 'plain'), rows_of(result, 'PGD l2')
  distances, depths, places, nets = map(tables.to_dicts, result.report.tables)
  logs, depth, moved = [], [], []
  for i in range(PAIRS):
    kept = plain['correct'][i] & hard['correct'][i]
    middle = lambda v, kept=kept: np.sort(v[kept])[(kept.sum() - 1) // 2]
    logs.append(np.log(middle(hard['off'][i]) / middle(plain['off'][i])))
    depth.append(
      middle(hard['free'][i] - hard['smoothed'][i])
      - middle(plain['free'][i] - plain['smoothed'][i])
    )
    both = kept & kept[plain['other'][i]]
    moved.append(np.abs(hard['place'][i] - plain['place'][i])[both].mean())
  np.testing.assert_allclose(
    distances[1]['off'].value, np.exp(np.mean(logs)), rtol=1e-5
  )
  wanted = statistics.t_mean(np.array(depth), unit='networks')
  np.testing.assert_allclose(depths[2]['change'][:3], wanted[:3], atol=1e-6)
  np.testing.assert_allclose(
    places[1]['displaced'].value, np.mean(moved), rtol=1e-5
  )
  assert [row['trained'] for row in nets] == ['plain again', 'PGD l2']
  assert 'PGD l2; 3 pairs of networks, 30 images' in result.report.answer
  names = [claim.name for claim in result.report.claims]
  assert names == [OFF, ON, DEPTH, MAIN, BEND, PLACE]


def test_columns_are_described(finished):
  run_dir, result, _ = finished
  described = records.read_json(run_dir / 'columns.json')
  assert described.keys() == {'networks', 'autoencoders', 'results'}
  for table, columns in described.items():
    assert columns.keys() == result.tables[table].keys()
    assert all(column['meaning'] for column in columns.values())


@pytest.mark.parametrize(
  'lost', [['PGD-l2-001', 'autoencoders'], ['networks-plain-again']]
)
def test_a_broken_run_ends_with_the_same_bytes(finished, tmp_path, lost):
  again = resume.assert_same_bytes(
    dimple_depth.run, toy, finished, tmp_path, lost=lost
  )
  assert again == set(lost)


@pytest.mark.parametrize(
  'given, message',
  [
    (dict(adversaries=('PGD',)), r'--adversaries=PGD is unknown'),
    (dict(method='luck'), r'--method=luck: .*portfolio'),
    (dict(plain='runs/a'), r'--plain names 1 runs and --robust 0'),
    (dict(latent=64), r'--latent=64 is too large; at most 63'),
    (dict(radius=-1.0), r'--radius=-1.0 is too small'),
  ],
)
def test_bad_flags_are_named_and_nothing_is_written(tmp_path, given, message):
  with pytest.raises(flags.FlagError, match=message):
    dimple_depth.run(toy(tmp_path / 'run', **given))
  assert not (tmp_path / 'run').exists()


# --- Instruments -----------------------------------------------------------


def test_the_nearest_image_of_another_class():
  inputs = dimple_depth.load(toy(''))
  flat = inputs.xs.reshape(len(inputs.xs), -1).astype(float)
  far = np.linalg.norm(flat[:, None] - flat[None], axis=2)
  far[inputs.labels[:, None] == inputs.labels] = np.inf
  np.testing.assert_array_equal(inputs.others, far.argmin(1))
  assert inputs.scale == pytest.approx(np.median(far.min(1)))


class Planted:
  """A network of two classes with a margin that is known."""

  def __init__(self, margin):
    self.margin = margin

  def __hash__(self):
    return id(self)

  def apply(self, variables, v):
    return jnp.stack([self.margin(v), jnp.zeros(())]), {}


def shape_at(margin, x, normal, distance, radius, d=4):
  x, normal = jnp.float32(x), jnp.float32(normal)
  basis = jnp.eye(d, dtype=jnp.float32)[1:3]
  other = x + 4 * normal * -1
  return dimple_depth.measure_shape(
    x,
    jnp.int32(0),
    other,
    x - distance * normal,
    normal,
    basis,
    {},
    jnp.float32([radius, 6.0]),
    dimple_depth.probes(0, (d,), 2),
    module=Planted(margin),
  )


@pytest.mark.parametrize('distance', [0.3, 1.2])
def test_a_plane_has_no_depth_wherever_it_lies(distance):
  found = shape_at(
    lambda v: v[0] + distance, np.zeros(4), [1, 0, 0, 0], distance, 1.0
  )
  np.testing.assert_allclose(found['smoothed'], distance, rtol=1e-3)
  for name in ('bend', 'random_bend'):
    np.testing.assert_allclose(found[name], 0, atol=1e-4)
  np.testing.assert_allclose(found['place'], distance / 4, rtol=1e-3)
  np.testing.assert_allclose(found['fraction'], 0, atol=1e-6)


@pytest.mark.parametrize('moved', [0.0, 0.4])
@pytest.mark.parametrize('deep', [0.5, 1.0])
def test_a_dimple_has_the_depth_that_smoothing_takes_from_it(deep, moved):
  # A bowl below x along axis 1, of curvature `deep`, at a distance of 0.6 +
  # moved: smoothing lifts it by the ball's mean square along that axis.
  far, radius = 0.6 + moved, 0.8
  margin = lambda v: v[0] + far - deep / 2 * v[1] ** 2
  found = shape_at(margin, np.zeros(4), [1, 0, 0, 0], far, radius)
  points = dimple_depth.probes(0, (4,), 2)[0]
  lift = deep / 2 * radius**2 * np.mean(points[:, 1] ** 2)
  np.testing.assert_allclose(far - found['smoothed'], lift, rtol=0.01)
  # In a ball of d dimensions it is r^2 / (d + 2), but for 64 points.
  assert lift == pytest.approx(deep / 2 * radius**2 / 6, rel=0.4)
  codes = dimple_depth.probes(0, (4,), 2)[1]
  share = np.mean(codes[:, 0] ** 2 / np.sum(codes**2, 1))
  np.testing.assert_allclose(found['bend'], deep * share, rtol=0.01)


def test_behind_a_smoothed_boundary_is_negative():
  # A spike that only x sees: its class is nowhere else.
  margin = lambda v: jnp.where(jnp.sum(v**2) < 0.01, 1.0, v[0] - 1.0)
  found = shape_at(margin, np.zeros(4), [1, 0, 0, 0], 0.1, 0.5)
  np.testing.assert_allclose(found['smoothed'], -1.0, rtol=0.05)


def test_probes_are_opposite_pairs_in_the_unit_ball():
  points, codes, directions = dimple_depth.probes(3, (2, 3, 1), 4)
  assert points.shape == (dimple_depth.NUM_POINTS, 2, 3, 1)
  assert codes.shape == (dimple_depth.NUM_DIRECTIONS, 4)
  assert directions.shape == (dimple_depth.NUM_DIRECTIONS, 6)
  for rows in (points, codes, directions):
    half = len(rows) // 2
    np.testing.assert_array_equal(rows[:half], -rows[half:])
  size = np.linalg.norm(points.reshape(len(points), -1), axis=1)
  assert np.all(size <= 1) and np.median(size) == pytest.approx(
    0.5 ** (1 / 6), abs=0.1
  )


# --- Claims ----------------------------------------------------------------

KIND = 'PGD l2'
STAYS = dict(on=1.0, off=1.0, random=1.0, depth=0.0, bend=0.0, moved=0.0)
# Deeper where the smoothed boundary and that on the manifold stay.
DEEPER = STAYS | dict(off=2.0, depth=0.35, bend=0.5)


def world(effects, *, num=8, images=24, noise=0.04, seed=0, base=0.1, gain=0.2):
  """Tables of a planted world.

  Args:
    effects: by kind; factors of the distances on, off, and of a random
      subspace, additions to depth and bend, and how far crossings are moved.
    num, images: pairs of networks, and images of each.
    noise: of networks, relative for distances.
    seed: of all that is drawn.
    base: depth and bend of plain networks.
    gain: of robust accuracy.
  """
  rng = np.random.default_rng(seed)
  shared = rng.lognormal(0, 0.3, images)
  place = rng.uniform(0.3, 0.7, images)
  label = np.arange(images) % 3
  parts, made = [], []
  for kind, effect in {'plain': STAYS, 'plain again': STAYS, **effects}.items():
    for network in range(num):
      own = np.exp(noise * rng.normal(size=4))
      on = 2.0 * shared * effect['on'] * own[0]
      off = 0.5 * shared * effect['off'] * own[1]
      free = (on**-2 + off**-2) ** -0.5
      shift = 0.05 * noise * rng.normal(size=2)
      depth = base + effect['depth'] * np.median(free) + shift[0]
      sign = rng.choice([-1, 1], images)
      stir = np.abs(rng.normal(0, 0.02, images))
      parts.append(
        {
          'kind': np.full(images, kind, 'U12'),
          'network': np.full(images, network),
          'label': label,
          'correct': np.ones(images, bool),
          'free': free,
          'on': on,
          'off': off,
          'random_on': 1.5 * shared * effect['random'] * own[2],
          'random_off': 0.6 * shared * effect['random'] * own[3],
          'fraction': free / on,
          'smoothed': free - depth,
          'bend': np.full(images, base + effect['bend'] + shift[1]),
          'random_bend': np.full(images, shift[1]),
          'other': (np.arange(images) + 1) % images,
          'place': place + (kind != 'plain') * sign * (stir + effect['moved']),
        }
      )
      robust = 0.4 + (kind in effects) * gain + 0.02 * rng.normal()
      made.append((kind, network, 0.9, robust, robust))
  columns = 'kind network accuracy robust_l2 robust_linf'.split()
  nets = map(np.array, zip(*made, strict=True))
  return {
    'results': records.concatenate(parts),
    'networks': dict(zip(columns, nets, strict=True)),
    'autoencoders': {
      'error': np.full(num, 0.01),
      'pca_error': np.full(num, 0.02),
    },
  }


def judge(found, **more):
  config = toy('', **({'adversaries': (KIND,)} | more))
  report = dimple_depth.analyze(config, found)
  json.dumps(runner.to_json(report, '', '', ''), allow_nan=False)
  for table in report.tables:
    tables.to_text(table)
  return report, {claim.name: claim for claim in report.claims}


def verdicts(found, **more):
  return {k: v.verdict for k, v in judge(found, **more)[1].items()}


def test_deeper_dimples_support_every_claim():
  report, judged = judge(world({KIND: DEEPER}))
  assert {claim.verdict for claim in judged.values()} == {claims.SUPPORTED}
  assert {claim.paper for claim in judged.values()} == {'2106.10151'}
  row = tables.to_dicts(report.tables[0])[1]
  assert row['off'].value == pytest.approx(2, rel=0.1)
  assert row['off/on'].value == pytest.approx(2, rel=0.1)
  # What the normals of a flat boundary say is the same.
  assert row['by normals'].value == pytest.approx(row['off/on'].value, rel=1e-6)
  assert report.answer.startswith('Adversarial training takes the boundary ')


def test_a_boundary_that_moves_as_a_whole_refutes_depth_as_the_main_effect():
  moves = STAYS | dict(on=1.5, off=1.5, random=1.5)
  found = verdicts(world({KIND: moves}))
  assert found[ON] == found[MAIN] == claims.NOT_SUPPORTED
  assert found[OFF] != claims.SUPPORTED and found[DEPTH] != claims.SUPPORTED
  assert found[BEND] != claims.SUPPORTED


def test_normals_that_turn_without_distance_are_no_deeper_dimples():
  turns = STAYS | dict(on=0.6, off=1.05)
  found = verdicts(world({KIND: turns}, noise=0.01))
  assert found[ON] == claims.NOT_SUPPORTED
  # off/on grows, but little of it is distance, and none of it depth.
  assert found[DEPTH] != claims.SUPPORTED != found[MAIN]


def test_growth_alike_in_random_subspaces_is_none_of_the_manifold():
  found = world({KIND: DEEPER})
  hard = found['results']['kind'] == KIND
  found['results']['random_off'][hard] *= 3
  _, judged = judge(found)
  assert judged[OFF].verdict == claims.NOT_SUPPORTED
  assert 'that over the random subspace above 1' in judged[OFF].reason


def test_crossings_that_move_more_than_by_retraining_refute():
  found = verdicts(world({KIND: DEEPER | dict(moved=0.15)}))
  assert found[PLACE] == claims.NOT_SUPPORTED


def test_one_kind_of_training_refutes_a_claim_of_all():
  moves = STAYS | dict(on=1.5, off=1.5, random=1.5)
  effects = {KIND: DEEPER, 'TRADES': moves}
  _, judged = judge(world(effects), adversaries=(KIND, 'TRADES'))
  assert judged[ON].verdict == claims.NOT_SUPPORTED
  assert judged[ON].reason.startswith('refuted: TRADES: growth within 0.1 of 1')


@pytest.mark.parametrize(
  'change, untested, why',
  [
    (dict(gain=0.0), None, 'robust accuracy was not raised: by'),
    (dict(num=1), None, 'one pair of networks'),
    (dict(accuracy=0.5), None, 'classify 50% of the images correctly, less'),
    (dict(failed=0.2), None, '21% of the searches on one side failed'),
    (dict(images=9), None, 'classifies 9 images correctly, fewer than 10'),
    (dict(error=0.03), (OFF, ON, BEND), '1 of 8 auto-encoders have a larger'),
  ],
)
def test_what_an_instrument_does_not_show_is_not_tested(change, untested, why):
  given = {k: v for k, v in change.items() if k in ('gain', 'num', 'images')}
  found = world({KIND: DEEPER}, **given)
  if 'accuracy' in change:
    found['networks']['accuracy'][:] = change['accuracy']
  if 'failed' in change:
    on = found['results']['on'].reshape(-1, 24)
    on[:, : round(24 * change['failed'])] = np.inf
  if 'error' in change:
    found['autoencoders']['error'][3] = change['error']
  report, judged = judge(found)
  for name, claim in judged.items():
    tested = untested is not None and name not in untested
    assert (claim.verdict == claims.NOT_TESTED) != tested, name
    assert tested or re.search(why, claim.reason)
  assert report.answer.startswith('Not tested') == (untested is None)


def test_only_images_that_both_networks_of_a_pair_know_count():
  found = world({KIND: DEEPER}, noise=0.0)
  wrong = world({KIND: DEEPER}, noise=0.0)
  results = wrong['results']
  bad = (results['kind'] == KIND) & (np.arange(len(results['on'])) % 24 < 5)
  results['correct'][bad] = False
  for name in ('free', 'on', 'off'):
    results[name][bad] = 0.0
  table = tables.to_dicts(judge(wrong)[0].tables[3])[1]
  assert table['images'] == 19
  one, other = (
    tables.to_dicts(judge(v)[0].tables[0])[1]['off'].value
    for v in (found, wrong)
  )
  assert one == pytest.approx(other, rel=1e-6)


def supported_share(effect, runs, **more):
  counts = dict.fromkeys(dimple_depth.STATEMENTS, 0)
  config = toy('', adversaries=(KIND,))
  with pytest.MonkeyPatch.context() as patch:
    resume.leave_out_tables(patch, dimple_depth)
    for seed in range(runs):
      found = world({KIND: effect}, seed=seed, **more)
      for claim in dimple_depth.analyze(config, found).claims:
        counts[claim.name] += claim.verdict == claims.SUPPORTED
  return {name: count / runs for name, count in counts.items()}


@pytest.mark.usefixtures('quick_quantiles')
def test_no_rule_supports_more_than_5_percent_of_null_worlds():
  """At the edge of each claim; 2.5 % are meant, and 5 % of 300 is 15."""
  # Alike in all directions, just beyond the tolerance, no deeper, no more bent,
  # and crossings displaced by just the tolerance beyond retraining.
  edge = STAYS | dict(on=1.1, off=1.1, random=1.1, moved=0.05)
  found = supported_share(edge, 300, num=6)
  for name in (OFF, ON, DEPTH, MAIN, BEND, PLACE):
    assert found[name] <= 0.05, (name, found)
  assert found[ON] + found[DEPTH] + found[BEND] + found[PLACE] > 0  # Not dead.


def test_depth_of_half_the_growth_is_no_main_effect():
  count, runs = 0, 300
  for seed in range(runs):
    rng = np.random.default_rng(seed)
    row = {
      'depth 0': rng.normal(0.1, 0.02, 6),
      'free 0': rng.normal(0.5, 0.05, 6),
    }
    row |= {
      'depth': row['depth 0'] + 0.15 + rng.normal(0, 0.02, 6),
      'free': row['free 0'] + 0.3 + rng.normal(0, 0.04, 6),
    }
    deeper, farther = (row[n] - row[f'{n} 0'] for n in ('depth', 'free'))
    half = dimple_depth.mean(deeper - farther / 2)
    count += bool(claims.above('', half, 0.0).holds)
  assert 0 < count / runs <= 0.05


@pytest.mark.usefixtures('quick_quantiles')
def test_a_clear_effect_is_called_supported():
  found = supported_share(DEEPER, 30)
  assert min(found.values()) >= 0.9, found


def test_architectures_follow_the_flags():
  mlp = dimple_depth.build(toy(''), 7)
  assert (mlp.widths, mlp.num_classes) == ((32, 32), 7)
  cnn = dimple_depth.build(toy('', model='cnn'), 7)
  assert (cnn.channels, cnn.widths) == ((32, 64), (128,))


def test_the_margin_of_a_smoothed_network_is_that_of_its_mean():
  # Of three classes: mean logits first, then the margin.
  rng = np.random.default_rng(0)
  points = dimple_depth.probes(0, (3,), 2)[0]
  weights = rng.normal(size=(3, 3)).astype(np.float32)
  logits_fn = lambda v: jnp.tanh(v @ weights)
  x = jnp.float32(rng.normal(size=3))
  logits = np.mean(np.tanh((np.asarray(x) + 0.7 * points) @ weights), axis=0)
  wanted = margins.margin(jnp.asarray(logits), 1)
  mean = jnp.mean(jax.vmap(lambda u: logits_fn(x + 0.7 * u))(points), 0)
  np.testing.assert_allclose(margins.margin(mean, 1), wanted, rtol=1e-4)


def test_given_networks_are_taken_in_pairs_and_the_next_one_is_the_null():
  inputs = dimple_depth.load(toy(''))
  inputs = inputs._replace(test_set=tuple(c[:40] for c in inputs.test_set))
  make = lambda seed: inputs.module.init(jax.random.key(seed), inputs.xs[0])
  given = {'plain': [make(i) for i in range(3)]}
  given['given'] = [make(i) for i in range(3, 6)]
  inputs = inputs._replace(given=given)
  config = toy('', plain='a,b,c', robust='d,e,f')
  assert dimple_depth.kinds(config) == ('plain', 'plain again', 'given')
  assert dimple_depth.make_plan(config, inputs).num == 3
  rows = {
    kind: dimple_depth.make_networks(config, inputs, kind)
    for kind in dimple_depth.kinds(config)
  }
  flat = {kind: row['parameters'] for kind, row in rows.items()}
  for kind, every in given.items():
    wanted = [networks.flatten(v) for v in every]
    np.testing.assert_array_equal(flat[kind], wanted)
  again = flat['plain'][[1, 2, 0]]
  np.testing.assert_array_equal(flat['plain again'], again)
  right = rows['plain']['accuracy'][[1, 2, 0]]
  np.testing.assert_array_equal(rows['plain again']['accuracy'], right)
