"""What layers are: a toy run beside numpy and scikit-learn, planted worlds."""

import jax
import numpy as np
import pytest
import resume
from scipy import stats
from sklearn import decomposition

from dmm_jax import codes
from dmm_jax import models
from dmm_jax import records
from dmm_jax.train import populations
from experiments import som_codes
from experiments.lib import claims
from experiments.lib import flags
from experiments.lib import layer_codes
from experiments.lib import tables

TOY = dict(
  models=('mlp', 'mlp_constant'),
  labels=('right', 'random'),
  num_train=100,
  num_test=60,
  width=8,
  num_networks=3,
  num_steps=40,
  map_size=3,
  num_epochs=4,
)
GROUPS = [
  ('mlp', 'untrained'),
  ('mlp', 'right'),
  ('mlp', 'random'),
  ('mlp_constant', 'untrained'),
  ('mlp_constant', 'right'),
]
LAYERS = ['dense0', 'dense1', 'dense2', 'dense3']


@pytest.fixture(autouse=True)
def empty_figures(monkeypatch):
  resume.draw_quickly(monkeypatch)


def toy(workdir, **more):
  return som_codes.Config(workdir=str(workdir), **(TOY | more))


@pytest.fixture(scope='module')
def finished(tmp_path_factory):
  return resume.run_keeping_chunks(
    som_codes.run, toy, tmp_path_factory.mktemp('run')
  )


@pytest.fixture(scope='module')
def inputs():
  return som_codes.load(toy(''))


# --- Runs ------------------------------------------------------------------


def activations(result, table, column, network, widths, xs):
  """Layers' codes and logits of a network of the run, by numpy."""
  flat = result.tables[table][column][network]
  module, found = models.MLP(widths, 10), []
  unravel = populations.unraveler(module, np.zeros((8, 8, 1)))
  params, _ = jax.device_get(unravel(flat))
  h = xs.reshape(len(xs), -1)
  for layer in LAYERS:
    h = np.maximum(h @ params[layer]['kernel'] + params[layer]['bias'], 0)
    found.append(np.asarray(h))
  return found, np.asarray(
    h @ params['head']['kernel'] + params['head']['bias']
  )


def test_every_network_has_a_row_for_each_layer_and_pooling(finished):
  _, result, _ = finished
  rows = result.table
  of = zip(rows['model'].tolist(), rows['labels'].tolist(), strict=True)
  assert [*dict.fromkeys(of)] == [('', ''), *GROUPS]
  assert len(rows['k90']) == 1 + 5 * 3 * 2 * 4
  assert rows['layer'][:9].tolist() == ['input', *LAYERS, *LAYERS]
  # A vector is its own mean and maximum.
  mean, most = (records.select(rows, pooling=p) for p in ('mean', 'max'))
  for name in ('k90', 'cosine', 'unseen', 'nmi'):
    np.testing.assert_array_equal(mean[name], most[name])
  random = records.select(rows, labels='random')
  assert np.isnan(random['clusters']).all() and np.isnan(random['bits']).all()
  known = records.select(mean, labels='right', layer='dense3')
  assert np.isfinite(known['clusters']).all() and np.all(known['bits'] >= 0)


@pytest.mark.parametrize(
  'table, column, labels, widths, model',
  [
    ('parameters_0', 'end', 'right', (4, 8, 8, 16), 'mlp'),
    ('parameters_0', 'start', 'untrained', (4, 8, 8, 16), 'mlp'),
    ('parameters_2', 'end', 'right', (8, 8, 8, 8), 'mlp_constant'),
  ],
)
def test_networks_are_measured_as_numpy_does(
  finished, inputs, table, column, labels, widths, model
):
  _, result, _ = finished
  for network in range(3):
    found, _ = activations(
      result, table, column, network, widths, inputs.train[0]
    )
    unseen, logits = activations(
      result, table, column, network, widths, inputs.test[0]
    )
    of = dict(model=model, labels=labels, network=network, pooling='mean')
    rows = records.select(result.table, **of)
    right = np.mean(logits.argmax(1) == inputs.test[1])
    np.testing.assert_allclose(rows['accuracy'], right, atol=0.01)
    np.testing.assert_allclose(
      rows['chance'], np.bincount(inputs.test[1]).max() / 60
    )
    for number, raw in enumerate(found):
      live = raw[:, raw.std(0) > 0]
      standard = (live - live.mean(0)) / live.std(0)
      pca = decomposition.PCA(0.9, svd_solver='full').fit(
        standard.astype(float)
      )
      assert rows['k90'][number] == pca.n_components_
      assert rows['ceiling'][number] == np.ceil(0.9 * live.shape[1])
    config = toy('')
    maps = som_codes.fit_maps(
      config, inputs, dict(zip(LAYERS, found, strict=True)), network
    )
    said = codes.map_statistics(
      maps, dict(zip(LAYERS, found, strict=True)), inputs.train[1]
    )
    for name, values in said.items():
      np.testing.assert_allclose(rows[name], values, rtol=1e-3, atol=1e-3)
    on = codes.place(maps, dict(zip(LAYERS, unseen, strict=True)))
    wanted = codes.class_dispersion(maps, on, inputs.test[1])
    np.testing.assert_allclose(rows['unseen'], wanted, rtol=1e-3)


def test_the_input_is_measured_once(finished, inputs):
  row = records.select(finished[1].table, layer='input')
  raw = inputs.train[0].reshape(100, -1)
  live = raw[:, raw.std(0) > 0]
  standard = ((live - live.mean(0)) / live.std(0)).astype(float)
  pca = decomposition.PCA(0.9, svd_solver='full').fit(standard)
  assert row['k90'] == [pca.n_components_]
  assert row['ceiling'] == [np.ceil(0.9 * live.shape[1])]


def test_maps_for_figures_are_those_of_the_first_network(finished, inputs):
  shown = finished[1].tables['maps']
  assert len(shown['layer']) == 2 * 2 * 4
  found, _ = activations(
    finished[1], 'parameters_0', 'end', 0, (4, 8, 8, 16), inputs.train[0]
  )
  maps = som_codes.fit_maps(
    toy(''), inputs, dict(zip(LAYERS, found, strict=True)), 0
  )
  np.testing.assert_array_equal(shown['hits'].sum((1, 2)), 100)
  for number in range(4):
    counts = maps.counts[number].reshape(3, 3, -1)
    np.testing.assert_array_equal(shown['hits'][number], counts.sum(-1))
    empty = counts.sum(-1) == 0
    wanted = np.where(empty, -1, counts.argmax(-1))
    np.testing.assert_array_equal(shown['class'][number], wanted)
  assert np.all(shown['u_matrix'] > 0)


@pytest.mark.parametrize('lost', ['mlp-right-01', 'maps-mlp', 'train-1'])
def test_a_broken_run_ends_with_the_same_bytes(finished, tmp_path, lost):
  measured = resume.assert_same_bytes(
    som_codes.run, toy, finished, tmp_path, lost=[lost]
  )
  assert measured == {lost}


def test_reports_fit_a_terminal(finished):
  report = finished[1].report
  assert report.answer.startswith('Effective dimensions of mlp on digits: ')
  for table in report.tables:
    lines = tables.to_text(table, legend=False).splitlines()
    assert len(table.rows) <= 20 and max(map(len, lines)) <= 104
    assert 'nan' not in ' '.join(lines)


@pytest.mark.parametrize(
  'given, message',
  [
    (dict(layers=('conv0',)), '--layers=conv0: mlp has dense0, dense1'),
    (dict(layers=('dense0', 'dense7')), '--layers=dense7: mlp has dense0'),
    (dict(layers=('dense0',)), 'give two or more'),
    (dict(width=7), '--width=7 is not even'),
    (dict(num_train=2000), '--num_train=2000: there are 1437 images'),
    (dict(num_test=361), '--num_test=361: there are 360 images'),
    (dict(labels=('random',)), '--labels=random has no right'),
    (dict(models=('tree',)), '--models=tree is unknown'),
  ],
)
def test_bad_flags_are_named_and_nothing_is_written(tmp_path, given, message):
  with pytest.raises(flags.FlagError, match=message):
    som_codes.run(toy(tmp_path / 'run', **given))
  assert not (tmp_path / 'run').exists()


def test_architectures_can_be_named_and_so_can_their_layers():
  config = toy('', width=16)
  inputs = som_codes.load(config)
  found = {}
  for model, grows in layer_codes.MODELS.items():
    module = som_codes.build(config, inputs, model)
    names = found[model] = som_codes.layers_of(config, module, inputs, model)
    init = lambda x, m=module: m.init_with_output(jax.random.key(0), x)[0]
    _, shapes = jax.eval_shape(init, inputs.train[0][0])
    widths = {shapes[name].shape[-1] for name in names}
    assert (len(widths) > 1) == grows, (model, widths)
  assert found['cnn'] == ['conv0', 'conv1', 'conv2', 'conv3']
  assert found['vit'][0] == 'embed' and found['resnet18'][-1] == 'pool'
  some = toy('', layers=('pool', 'embed'), width=16)
  module = som_codes.build(some, inputs, 'vit')
  assert som_codes.layers_of(some, module, inputs, 'vit') == ['embed', 'pool']


# --- Planted worlds --------------------------------------------------------

M, INPUT = 8, 40.0
KINDS = [
  (model, labels)
  for model in ('cnn', 'cnn_constant')
  for labels in ('right', 'untrained')
] + [('cnn', 'half_wrong'), ('cnn', 'random')]


def world(
  rng,
  *,
  k90=(20, 20, 20, 40),
  ceiling=(90, 90, 90, 90),
  at_one_width=(20, 20, 20, 40),
  before=(20, 20, 20, 40),
  cosine=(0.2, 0.2),
  unseen=(0.8, 0.8),
  fresh=(0.2, 0.8),
  gap=0.1,
  rise=0.0,
  link=0.0,
  accuracy=0.9,
):
  """Rows of a run at the edge of every claim, unless told otherwise.

  Args:
    rng: of numpy.
    k90, ceiling: of layers of trained networks whose width grows.
    at_one_width, before: k90 of those of one width, and before training.
    cosine, unseen: in the first and the last layer of trained networks.
    fresh: cosine and unseen in all layers of untrained ones.
    gap: unseen less training dispersion.
    rise: of what is known without a map.
    link: correlation of accuracy with how codes diversify, and k90 rises.
    accuracy: of trained networks.
  """
  rows = [dict.fromkeys(som_codes.OF_MAPS, np.nan)]
  rows[0] |= dict(model='', labels='', network=0, pooling='', layer='input')
  rows[0] |= dict(ceiling=90, k90=INPUT, accuracy=np.nan, chance=0.1)
  for model, labels in KINDS:
    trained = labels != 'untrained'
    shape = before if not trained else k90
    if trained and model == 'cnn_constant':
      shape = at_one_width
    for network in range(M):
      right = rng.normal()
      own = link * right + np.sqrt(1 - link**2) * rng.normal(size=2)
      for pooling in som_codes.POOLINGS:
        for i in range(4):
          ends = (
            (cosine, unseen) if trained else ((fresh[0],) * 2, (fresh[1],) * 2)
          )
          (low, high), (far, near) = ends
          last = i == 3
          dispersed = far + (near - far) * i / 3 + 0.03 * rng.normal()
          rows.append(
            {
              'model': model,
              'labels': labels,
              'network': network,
              'pooling': pooling,
              'layer': f'conv{i}',
              'ceiling': ceiling[i],
              'k90': shape[i] * np.exp(
                0.1 * rng.normal() + 0.3 * last * own[1]
              ),
              'cosine': low + (high - low) * i / 3 + 0.02 * (
                rng.normal() + 3 * last * own[0]
              ),
              'unseen': dispersed,
              'dispersion': dispersed - gap + 0.03 * rng.normal(),
              'nmi': 0.5,
              'clusters': 0.5 + rise * last + 0.05 * rng.normal(),
              'bits': 0.5 + rise * last + 0.05 * rng.normal(),
              'folds': 0.1,
              'settled': 5,
              'accuracy': accuracy + 0.01 * right if trained else 0.1,
              'chance': 0.1,
            }
          )  # fmt: skip
  return {name: np.array([row[name] for row in rows]) for name in rows[0]}


def judge(results, **more):
  config = som_codes.Config(num_networks=M, **more)
  return {c.name: c for c in som_codes.judge(config, results)}


CLEAR = dict(
  k90=(10, 8, 20, 70),
  at_one_width=(10, 8, 20, 70),
  cosine=(0.1, 0.6),
  unseen=(0.9, 0.3),
  fresh=(0.1, 0.9),
  gap=0.02,
  rise=0.3,
  link=0.95,
)


def test_worlds_at_the_edge_support_nothing():
  """Each rule errs in at most 5 %: at most 6 of 60 worlds, by the binomial.

  In half of them dimensions clearly fall, so that the rise alone decides: it is
  at its edge though three layers are equally narrow, and one looks narrowest.
  """
  fallen = dict(
    k90=(5, 5, 5, 10), at_one_width=(5, 5, 5, 10), before=(5, 5, 5, 10)
  )
  for shape in ({}, fallen):
    found = [judge(world(np.random.default_rng(s), **shape)) for s in range(60)]
    for name in found[0]:
      held = sum(c[name].verdict == claims.SUPPORTED for c in found)
      assert held <= 6, (name, held)
  # The rules are not silent: an edge is refuted about as rarely.
  one = sum(c['telescope, mean'].verdict == 'not supported' for c in found)
  assert one <= 6


def test_a_clear_world_supports_every_claim():
  for seed in range(3):
    found = judge(world(np.random.default_rng(seed), **CLEAR))
    assert len(found) == 15
    for name, claim in found.items():
      assert claim.verdict == claims.SUPPORTED, (name, claim.reason)
      assert claim.paper == '2205.10952'


@pytest.mark.parametrize(
  'planted, names',
  [
    # Channels that double bring the rise.
    (
      dict(k90=(9, 9, 9, 36), ceiling=(22, 45, 45, 180)),
      {'telescope over width'},
    ),
    # What the first layer can hold is less than half: no fall of its own.
    (
      dict(k90=(18, 60, 60, 70), ceiling=(20, 90, 90, 90)),
      {'telescope', 'telescope over width'},
    ),
    (dict(k90=(10, 8, 8, 8)), {'telescope', 'telescope over width', 'learned'}),
    (dict(at_one_width=(10, 8, 9, 8)), {'telescope at one width', 'learned'}),
    (dict(before=(10, 8, 20, 200)), {'learned'}),
    (dict(cosine=(0.6, 0.1)), {'diverse', 'diverse, learned'}),
    (
      dict(unseen=(0.3, 0.9), fresh=(0.1, 0.5)),
      {'classes', 'classes, learned'},
    ),
    (dict(fresh=(0.1, 0.1)), {'classes, learned'}),
    (dict(rise=-0.3), {'without a map'}),
    (dict(gap=0.3), {'unseen images'}),
    (dict(link=-0.95), {'generalisation', 'generalisation, telescope'}),
  ],
)
def test_what_refutes_each_claim(planted, names):
  found = judge(world(np.random.default_rng(0), **(CLEAR | planted)))
  refuted = {n for n, c in found.items() if c.verdict == 'not supported'}
  wanted = set()
  for name in names:
    if name == 'learned':
      wanted.add('telescope, learned')
    elif name.startswith('telescope'):
      wanted |= {f'{name}, {p}' for p in som_codes.POOLINGS}
    else:
      wanted.add(name)
  assert refuted == wanted


def test_what_cannot_be_tested_is_not():
  poor = judge(world(np.random.default_rng(0), **(CLEAR | dict(accuracy=0.3))))
  assert {c.verdict for c in poor.values()} == {'not tested'}
  assert poor['diverse'].reason.startswith(
    'cnn networks classify 30% of the images correctly, less than 25%'
  )
  clear = world(np.random.default_rng(0), **CLEAR)
  one = judge(clear, models=('cnn',))
  assert one['telescope at one width, mean'].verdict == 'not tested'
  assert one['telescope, mean'].verdict == one['diverse'].verdict == 'supported'
  one = judge(clear, labels=('right',))
  untested = {n for n, c in one.items() if c.verdict == 'not tested'}
  assert untested == {'generalisation', 'generalisation, telescope'}


def test_one_point_a_network_is_linked_to_its_accuracy():
  results = world(np.random.default_rng(3), **CLEAR)
  rows = records.select(results, model='cnn', pooling='max')
  right, rises = [], []
  for labels in ('right', 'half_wrong', 'random'):
    of = records.select(rows, labels=labels)
    cosine = of['cosine'].reshape(M, 4)
    right += of['accuracy'][::4].tolist()
    rises += (cosine[:, 3] - cosine[:, 0]).tolist()
  found = som_codes.links(som_codes.Config(num_networks=M), results)['max'][0]
  assert found.value == pytest.approx(stats.spearmanr(right, rises).statistic)
  assert found.n == 3 * M and found.low < found.value < found.high
