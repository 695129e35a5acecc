"""What attacks do in layers: a toy run beside numpy, and planted worlds."""

import jax
import numpy as np
import pytest
import resume
from scipy import stats

from dmm_jax import codes
from dmm_jax import records
from dmm_jax import som
from dmm_jax import statistics
from dmm_jax.train import populations
from experiments import attack_codes
from experiments.lib import claims
from experiments.lib import flags
from experiments.lib import tables

TOY = dict(
  model='mlp',
  num_train=200,
  num_images=60,
  width=16,
  num_networks=3,
  num_robust=3,
  num_steps=100,
  map_size=4,
  num_epochs=5,
  num_units=2,
)
LAYERS = ['dense0', 'dense1', 'dense2', 'dense3']


@pytest.fixture(autouse=True)
def empty_figures(monkeypatch):
  resume.draw_quickly(monkeypatch)


def toy(workdir, **more):
  return attack_codes.Config(workdir=str(workdir), **(TOY | more))


@pytest.fixture(scope='module')
def finished(tmp_path_factory):
  return resume.run_keeping_chunks(
    attack_codes.run, toy, tmp_path_factory.mktemp('run')
  )


@pytest.fixture(scope='module')
def inputs():
  return attack_codes.load(toy(''))


def network_of(result, inputs, training, number, when='end'):
  flat = result.tables[f'parameters_{training}'][when][number]
  unravel = populations.unraveler(inputs.module, inputs.train[0][0])
  return jax.device_get(unravel(flat))


def activations(network, xs):
  """Codes and logits of a network, by numpy."""
  params, found, h = network[0], {}, xs.reshape(len(xs), -1)
  for name in LAYERS:
    h = found[name] = np.maximum(
      h @ params[name]['kernel'] + params[name]['bias'], 0
    )
  return found | {
    'logits': h @ params['head']['kernel'] + params['head']['bias']
  }


# --- Runs ------------------------------------------------------------------


@pytest.mark.parametrize('training', ['plain', 'adversarial'])
def test_networks_are_measured_as_numpy_does(finished, inputs, training):
  _, result, _ = finished
  config, (xs, labels) = toy(''), inputs.test
  network = network_of(result, inputs, training, 1)
  found = attack_codes.attack(config, inputs, network)
  clean = activations(network, xs)
  right = clean['logits'].argmax(1) == labels
  rows = records.select(result.table, training=training, network=1)
  assert rows['layer'].tolist() == 2 * LAYERS
  np.testing.assert_allclose(rows['accuracy'], right.mean(), atol=0.02)
  np.testing.assert_allclose(
    rows['distance'], np.median(found.distance[right]), rtol=1e-4
  )
  trained_on = activations(network, inputs.train[0])
  trained_on = {name: trained_on[name] for name in LAYERS}
  maps = codes.fit_maps(
    jax.random.fold_in(jax.random.key(1), 1),
    trained_on, inputs.train[1], grid=(4, 4), num_epochs=5,
  )  # fmt: skip
  units = codes.place(maps, clean)
  for number, kind in enumerate(attack_codes.KINDS):
    after, noisy = (
      activations(network, v[number]) for v in (found.moved, found.noisy)
    )
    wanted = codes.attack_statistics(
      maps,
      units[:, right],
      codes.place(maps, after)[:, right],
      codes.place(maps, noisy)[:, right],
      predicted=labels[right],
      predicted_noisy=noisy['logits'].argmax(1)[right],
      wrong=found.wrong[number][right],
    ) | codes.agreement(maps, units, clean['logits'].argmax(1), labels)
    of = records.select(rows, kind=kind)
    for name, value in wanted.items():
      np.testing.assert_allclose(of[name], value, atol=0.02, err_msg=name)
    fooled = np.mean(found.wrong[number][right] != labels[right])
    np.testing.assert_allclose(of['fooled'], fooled, atol=0.02)
  np.testing.assert_allclose(
    of['cosine'],
    codes.map_statistics(maps, trained_on, inputs.train[1])['cosine'],
    atol=1e-3,
  )


def test_crowding_is_a_partial_correlation_over_right_images(finished, inputs):
  _, result, _ = finished
  config, (xs, labels) = toy(''), inputs.test
  network = network_of(result, inputs, 'plain', 0)
  found = attack_codes.attack(config, inputs, network)
  logits = activations(network, xs)['logits']
  top = np.sort(logits, axis=1)
  margin, right = top[:, -1] - top[:, -2], logits.argmax(1) == labels
  rows = records.select(
    result.table, training='plain', network=0, kind='ascent'
  )
  for when, column in (('end', 'crowding'), ('start', 'crowding_start')):
    of = network_of(result, inputs, 'plain', 0, when)
    trained_on = activations(of, inputs.train[0])
    maps = codes.fit_maps(
      jax.random.fold_in(jax.random.key(1), 0),
      {name: trained_on[name] for name in LAYERS},
      inputs.train[1], grid=(4, 4), num_epochs=5,
    )  # fmt: skip
    away = codes.class_separation(
      maps, activations(of, xs), labels, activations(of, found.noisy[0])
    )
    r = lambda a, b: stats.spearmanr(a[right], b[right]).statistic
    for number in range(4):
      x, y, z = found.distance, away[number], margin
      wanted = (r(x, y) - r(x, z) * r(y, z)) / np.sqrt(
        (1 - r(x, z) ** 2) * (1 - r(y, z) ** 2)
      )
      assert rows[column][number] == pytest.approx(wanted, abs=0.05)


def test_attacks_and_noise_are_of_one_size(finished, inputs):
  network = network_of(finished[1], inputs, 'plain', 2)
  found = attack_codes.attack(toy(''), inputs, network)
  xs, labels = inputs.test
  called = activations(network, xs)['logits'].argmax(1)
  steps = found.moved - xs, found.noisy - xs
  largest = [np.abs(v[0]).reshape(60, -1).max(1) for v in steps]
  np.testing.assert_allclose(largest[0], 0.1, atol=1e-5)
  np.testing.assert_allclose(largest[1], 0.1, atol=1e-5)
  lengths = [np.linalg.norm(v[1].reshape(60, -1), axis=1) for v in steps]
  np.testing.assert_allclose(lengths[0], found.distance, atol=1e-4)
  assert np.all(lengths[1] <= lengths[0] + 1e-4) and lengths[1].max() > 0.1
  assert np.all((found.moved >= 0) & (found.moved <= 1))
  np.testing.assert_array_equal(found.distance == 0, called != labels)
  after = activations(network, found.moved[0])['logits'].argmax(1)
  assert np.mean(found.wrong[0] == after) > 0.95
  right = called == labels
  assert np.all(found.wrong[1][right] != labels[right])
  assert np.mean(after != labels) > np.mean(called != labels) + 0.1


def test_units_are_shown_by_their_images(finished, inputs):
  rows = finished[1].tables['features']
  assert rows['layer'].tolist() == 3 * (2 * ['dense0'] + 2 * ['dense3'])
  network = network_of(finished[1], inputs, 'plain', 1)
  xs, labels = inputs.train
  found = activations(network, xs)
  maps = codes.fit_maps(
    jax.random.fold_in(jax.random.key(1), 1),
    {name: found[name] for name in LAYERS}, labels, grid=(4, 4), num_epochs=5,
  )  # fmt: skip
  mine = records.select(rows, network=1)
  for layer, start in ((0, 0), (3, 2)):
    hits = np.bincount(maps.units[layer], minlength=16)
    order = np.argsort(-hits, kind='stable')[:2]
    away = np.asarray(som.distances(
      maps.layer(LAYERS[layer]), codes.scale(maps, found)[layer]
    ))  # fmt: skip
    for number, unit in enumerate(order):
      on = maps.units[layer] == unit
      at = start + number
      assert mine['hits'][at] == on.sum()
      np.testing.assert_allclose(mine['mean'][at], xs[on].mean(0), atol=1e-6)
      nearest = np.flatnonzero(on)[np.argmin(away[on])]
      np.testing.assert_array_equal(mine['nearest'][at], xs[nearest])
      for image, column in (('synthesized', 'aimed'), ('mean', 'mean_aimed')):
        code = activations(network, mine[image][at][None])
        assert (codes.place(maps, code)[layer, 0] == unit) == mine[column][at]
  made = rows['synthesized']
  assert np.all((made >= 0) & (made <= 1)) and rows['aimed'].mean() > 0.5


def test_ways_on_the_maps_are_of_fooled_images(finished, inputs):
  rows = finished[1].tables['trajectories']
  assert rows['layer'].tolist() == LAYERS
  network = network_of(finished[1], inputs, 'plain', 0)
  found = attack_codes.attack(toy(''), inputs, network)
  labels = inputs.test[1]
  right = activations(network, inputs.test[0])['logits'].argmax(1) == labels
  fooled = np.flatnonzero(right & (found.wrong[0] != labels))[:10]
  assert len(fooled) == 10
  for layer in range(4):
    assert rows['class_before'][layer].tolist() == labels[fooled].tolist()
    assert (
      rows['class_after'][layer].tolist() == found.wrong[0][fooled].tolist()
    )
  assert rows['before'].shape == (4, 10) and rows['class'].shape == (4, 4, 4)
  assert np.any(rows['before'] != rows['after'])


@pytest.mark.parametrize('lost', ['plain-01', 'features-02', 'trajectories'])
def test_a_broken_run_ends_with_the_same_bytes(finished, tmp_path, lost):
  measured = resume.assert_same_bytes(
    attack_codes.run, toy, finished, tmp_path, lost=[lost]
  )
  assert measured == {lost}


def test_reports_fit_a_terminal(finished):
  report = finished[1].report
  assert report.answer.startswith(
    'Attacks within 0.1 move codes on the maps of'
  )
  for table in report.tables:
    lines = tables.to_text(table, legend=False).splitlines()
    assert len(table.rows) <= 20 and max(map(len, lines)) <= 115
    assert 'nan' not in ' '.join(lines)


@pytest.mark.parametrize(
  'given, message',
  [
    (dict(width=7), '--width=7 is not even'),
    (dict(num_units=17), '--num_units=17: a map has 16'),
    (dict(num_train=2000), '--num_train=2000: there are 1437 images'),
    (dict(num_images=361), '--num_images=361: there are 360 images'),
    (dict(model='vit'), '--model=vit is unknown'),
    (dict(pooling='flat'), '--pooling=flat is unknown'),
  ],
)
def test_bad_flags_are_named_and_nothing_is_written(tmp_path, given, message):
  with pytest.raises(flags.FlagError, match=message):
    attack_codes.run(toy(tmp_path / 'run', **given))
  assert not (tmp_path / 'run').exists()


# --- Planted worlds --------------------------------------------------------

M, R = 16, 8


def world(
  rng,
  *,
  ratio=(2.0, 2.0),
  hit=(0.5, 0.5),
  noise_hit=0.5,
  agreement=(0.6, 0.6),
  lean=0.0,
  crowding=0.0,
  start=0.0,
  robust=1.0,
  far=2.0,
  auroc=0.6,
  aimed=0.5,
  accuracy=0.9,
  fooled=0.4,
):
  """Tables of a run at the edge of every claim, unless told otherwise.

  Args:
    rng: of numpy.
    ratio, hit, agreement: in the first and the last layer.
    noise_hit: under noise, in all layers.
    lean: of wrong images.
    crowding, start: correlations in the trained and the untrained layers.
    robust: cosine distance of robust networks over that of others.
    far: distance of robust networks; 1 of others.
    auroc: of attacks; 0.6 of noise.
    aimed: probability that a synthesized input lies on its unit.
    accuracy, fooled: of the networks.
  """
  rows, noise = [], lambda: 0.05 * rng.normal()
  along = lambda pair, i: pair[0] + (pair[1] - pair[0]) * i / 3
  for training, num in (('plain', M), ('adversarial', R)):
    strong = training == 'adversarial'
    for network in range(num):
      same = {
        'training': training,
        'network': network,
        'accuracy': accuracy,
        'chance': 0.1,
        'distance': np.exp(noise()) * (far if strong else 1),
        'fooled': fooled,
      }
      for kind in attack_codes.KINDS:
        for i in range(4):
          rows.append(
            same
            | {
              'layer': f'conv{i}',
              'kind': kind,
              'shift': along(ratio, i) * np.exp(2 * noise()),
              'noise_shift': 1.0,
              'hit': np.nan if network == 3 else along(hit, i) + noise(),
              'noise_hit': noise_hit + noise(),
              'auroc': auroc + noise(),
              'noise_auroc': 0.6 + noise(),
              'agreement': along(agreement, i) + noise(),
              'lean': lean + 4 * noise(),
              'cosine': np.exp(noise()) * (robust if strong else 1),
              'crowding': crowding + noise(),
              'crowding_start': start + noise(),
            }
          )
  results = {k: np.array([row[k] for row in rows]) for k in rows[0]}
  network, layer = np.indices((M, 20)).reshape(2, -1)
  features = {
    'network': network,
    'layer': np.where(layer < 10, 'conv0', 'conv3'),
    'aimed': rng.uniform(size=M * 20) < aimed,
    'mean_aimed': rng.uniform(size=M * 20) < 0.5,
  }
  return results, features


def judge(tables_of):
  return {c.name: c for c in attack_codes.judge(*tables_of)}


CLEAR = dict(
  ratio=(1.2, 4.0),
  hit=(0.1, 0.8),
  noise_hit=0.1,
  agreement=(0.5, 0.9),
  lean=0.6,
  crowding=0.3,
  start=0.1,
  robust=2.0,
  auroc=0.9,
  aimed=0.9,
)


def test_worlds_at_the_edge_support_nothing():
  """Each rule errs in at most 5 %: at most 9 of 100 worlds, by the binomial.

  Of conditions that have to hold together, all are at their edge; then the
  second one of each claim alone.
  """
  alone = dict(hit=(0.7, 0.7))
  for planted in ({}, alone):
    found = [
      judge(world(np.random.default_rng(s), **planted)) for s in range(100)
    ]
    for name in attack_codes.STATEMENTS:
      held = sum(c[name].verdict == claims.SUPPORTED for c in found)
      assert held <= 9, (name, held)
  refuted = sum(c['crowding'].verdict == 'not supported' for c in found)
  assert refuted <= 9


def test_a_clear_world_supports_every_claim():
  for seed in range(3):
    found = judge(world(np.random.default_rng(seed), **CLEAR))
    assert [*found] == [*attack_codes.STATEMENTS]
    for name, claim in found.items():
      assert claim.verdict == claims.SUPPORTED, (name, claim.reason)
      assert claim.paper == '2205.10952'


@pytest.mark.parametrize(
  'planted, name, verdict',
  [
    (dict(ratio=(4.0, 1.2)), 'shifts', 'not supported'),
    (dict(noise_hit=1.0), 'adversarial units', 'not supported'),
    (dict(hit=(1.0, 0.8)), 'adversarial units', 'not supported'),
    (dict(agreement=(0.9, 0.5)), 'predictions', 'not supported'),
    (dict(lean=-0.6), 'predictions, strong', 'not supported'),
    (dict(crowding=-0.3, start=-0.5), 'crowding', 'not supported'),
    (dict(start=0.5), 'crowding, learned', 'not supported'),
    (dict(robust=0.5), 'robust', 'not supported'),
    (dict(far=0.5), 'robust', 'not tested'),
    (dict(auroc=0.4), 'detection', 'not supported'),
    (dict(aimed=0.1), 'features', 'not supported'),
  ],
)
def test_what_refutes_each_claim(planted, name, verdict):
  found = judge(world(np.random.default_rng(0), **(CLEAR | planted)))
  assert found[name].verdict == verdict, found[name].reason
  others = [claim.verdict for key, claim in found.items() if key != name]
  assert others == 8 * ['supported']


def test_instruments_that_fail_test_nothing():
  found = judge(world(np.random.default_rng(0), **(CLEAR | dict(accuracy=0.2))))
  assert {claim.verdict for claim in found.values()} == {'not tested'}
  found = judge(world(np.random.default_rng(0), **(CLEAR | dict(fooled=0.05))))
  untested = {n for n, c in found.items() if c.verdict == 'not tested'}
  assert untested == {'shifts', 'adversarial units', 'detection'}
  assert found['shifts'].reason == 'ascent fools 5% of the images'
  results, features = world(np.random.default_rng(0), **CLEAR)
  one = (results['training'] == 'adversarial') & (results['network'] == 2)
  failed = results | {'accuracy': np.where(one, 0.25, results['accuracy'])}
  reason = judge((failed, features))['robust'].reason
  assert reason.startswith(
    'the worst adversarially trained networks classify 25%'
  )
  results = records.select(results, training='plain')
  found = judge((results, features))
  assert found['robust'].reason == 'no network was trained adversarially'


def test_shares_of_units_are_of_networks():
  _, features = world(np.random.default_rng(1), **CLEAR)
  rows = records.select(features, layer='conv3')
  shares = [rows['aimed'][rows['network'] == i].mean() for i in range(M)]
  wanted = statistics.proportion(np.array(shares), unit='networks')
  assert attack_codes.of_units(features, 'conv3', 'aimed') == wanted
