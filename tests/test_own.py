"""A user's own network and examples, in place of what is trained here."""

import dataclasses
import functools
import os
import sys
import types

from flax import linen
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dmm_jax import boundary
from dmm_jax import data
from dmm_jax import halfway
from dmm_jax import records
from dmm_jax import train
from dmm_jax.train import populations
from experiments import boundary_distances
from experiments import crossings
from experiments import dimple_depth
from experiments import transfer
from experiments.lib import flags
from experiments.lib import own
from experiments.lib import tables

rng = np.random.default_rng(0)
WEIGHTS = rng.normal(size=(4, 3)).astype(np.float32)
XS = rng.uniform(-2, 3, size=(7, 2, 2)).astype(np.float32)
LABELS = np.array([0, 1, 2, 0, 1, 2, 0])


def linear(params, x):
  return x.reshape(-1) @ params['w']


def with_params():
  return linear, {'w': WEIGHTS}


def captured():
  return lambda x: linear({'w': WEIGHTS}, x)


def undefined():
  return lambda x: linear({'w': WEIGHTS}, x) * jnp.nan


def nothing():
  return None


def pictures():
  return lambda x: x


def numbers():
  return lambda x: jnp.argsort(x.reshape(-1))


def without_params():
  return linear


def of_batches():
  return lambda xs: xs.reshape(len(xs), 4) @ WEIGHTS


def softmax():
  return lambda params, x: jax.nn.softmax(linear(params, x)), {'w': WEIGHTS}


def narrow():
  return lambda x: x.reshape(-1)[:2]


NUMBER = 3


@pytest.fixture
def mine(monkeypatch):
  """A module that can be imported, of what stands above."""
  module = types.ModuleType('mine')
  module.__dict__.update(globals())
  monkeypatch.setitem(sys.modules, 'mine', module)


def saved(tmp_path, **arrays):
  path = tmp_path / 'mine.npz'
  np.savez(path, **arrays)
  return str(path)


@pytest.mark.parametrize('name', ['with_params', 'captured'])
def test_a_network_is_a_function_of_its_parameters_and_one_input(mine, name):
  found = own.network(f'mine:{name}', XS, LABELS)
  assert found.num_classes == 3
  variables = found.init(jax.random.key(0), XS[0])
  logits, codes = found.apply(variables, XS[0])
  np.testing.assert_allclose(logits, XS[0].reshape(-1) @ WEIGHTS, rtol=1e-5)
  assert codes == {}


@pytest.mark.parametrize(
  ('name', 'words'),
  [
    ('mine', 'has to be package.module:function'),
    ('nowhere_at_all:f', "No module named 'nowhere_at_all'"),
    ('mine:missing', "no attribute 'missing'"),
    ('mine:NUMBER', 'is no function'),
    ('mine:nothing', 'not NoneType'),
    ('mine:pictures', r'returned shape \(2, 2\)'),
    ('mine:numbers', 'returned int32 for an input of float32'),
    ('mine:without_params', r'takes \(params, x\): give a function of x'),
    ('mine:of_batches', r'give lambda x: logits_fn\(x\[None\]\)\[0\]'),
    ('mine:narrow', 'has 2 classes, labels are 0 to 2'),
  ],
)
def test_what_is_no_network_is_said(mine, name, words):
  with pytest.raises(flags.FlagError, match=f'--network={name}.*{words}'):
    own.network(name, XS, LABELS)


def test_inputs_that_a_network_does_not_take_are_said(mine):
  with pytest.raises(
    flags.FlagError, match=r'take params and one input, here of shape \(5,\)'
  ):
    own.network('mine:with_params', np.ones((1, 5), np.float32), LABELS)


def test_examples_are_those_of_the_file(tmp_path):
  path = saved(
    tmp_path, xs=XS, labels=LABELS, train_xs=XS[:2], train_labels=[0, 1]
  )
  for split, xs, labels in (('test', XS, LABELS), ('train', XS[:2], [0, 1])):
    found = own.examples(path, split)
    np.testing.assert_array_equal(found[0], xs)
    np.testing.assert_array_equal(found[1], labels)
    assert found[1].dtype == np.int32


@pytest.mark.parametrize(
  ('arrays', 'words'),
  [
    (dict(xs=XS), 'has no labels; it has xs'),
    (dict(), 'has no xs and no labels; it has nothing'),
    (dict(xs=XS.astype(int), labels=LABELS), 'xs of int64, not of floating'),
    (dict(xs=XS, labels=LABELS / 2), 'labels of float64, not of integers'),
    (dict(xs=XS, labels=LABELS[:3]), r'xs \(7, 2, 2\) and labels \(3,\)'),
    (dict(xs=XS[:0], labels=LABELS[:0]), r'xs \(0, 2, 2\)'),
    (dict(xs=XS * np.nan, labels=LABELS), 'NaN or infinity in xs'),
    (dict(xs=np.array([None]), labels=LABELS), 'cannot be read'),
  ],
)
def test_what_are_no_examples_is_said(tmp_path, arrays, words):
  path = saved(tmp_path, **arrays)
  with pytest.raises(flags.FlagError, match=f'--data=.*{words}'):
    own.examples(path)


def doubled():
  return lambda x: 2 * linear({'w': WEIGHTS}, x)


def shifted():
  return lambda params, x: linear(params, x) + params['b'], {
    'w': WEIGHTS,
    'b': np.ones(3),
  }


def two():
  return lambda x: x.reshape(-1)[:2]


def test_several_networks_are_one_module(mine):
  names = 'mine:with_params,mine:doubled,mine:shifted'
  module = own.several(names, XS, LABELS)
  assert module.num_classes == 3 and len(module.networks) == 3
  assert module.init(None, XS[0])['params'] == 0
  forward = train.flax_forward(module)
  want = XS.reshape(7, -1) @ WEIGHTS
  for number, logits in enumerate((want, 2 * want, want + 1)):
    variables = module.variables(number)
    found = jax.vmap(lambda x, v=variables: module.apply(v, x, train=False)[0])
    np.testing.assert_allclose(found(XS), logits, rtol=1e-5)
    one = populations.logits(forward, (variables['params'], {}), XS[0])
    np.testing.assert_allclose(one, logits[0], rtol=1e-5)
  every = jax.vmap(lambda v: module.apply({'params': v}, XS[0])[0])
  np.testing.assert_allclose(
    every(np.arange(3)), [want[0], 2 * want[0], want[0] + 1], rtol=1e-5
  )
  with pytest.raises(flags.FlagError, match=r'of \[2, 3\] classes'):
    own.several('mine:captured,mine:two', XS, LABELS % 2)
  with pytest.raises(flags.FlagError, match='--network=mine:none'):
    own.several('mine:captured,mine:none', XS, LABELS)


def module():
  return linen.Dense(3)


def test_modules_of_libraries_are_told_their_way(mine):
  with pytest.raises(flags.FlagError, match=r'not Dense; .*from_torch'):
    own.network('mine:module', XS, LABELS)
  with pytest.raises(
    flags.FlagError, match=r"'nothere'; modules are looked for"
  ):
    own.network('nothere:module', XS, LABELS)


def test_a_file_that_is_none_is_said(tmp_path):
  (tmp_path / 'text').write_text('words')
  for name in ('text', 'missing'):
    with pytest.raises(flags.FlagError, match=f'{name} cannot be read'):
      own.examples(str(tmp_path / name))


def config(workdir, **more):
  return flags.with_preset(
    boundary_distances.Config,
    boundary_distances.PRESETS,
    'quick',
    workdir=str(workdir),
    **more,
  )


def test_distances_of_an_own_network_are_those_that_measure_finds(
  mine, tmp_path
):
  path = saved(tmp_path, xs=XS, labels=LABELS)
  given = dict(network='mine:with_params', data=path, bounds=(-2.0, 3.0))
  given['method'] = 'projection'
  result = boundary_distances.run(config(tmp_path / 'run', **given))
  rows = result.tables['results']
  want = boundary.measure(
    linear,
    XS,
    LABELS,
    params={'w': WEIGHTS},
    bounds=(-2.0, 3.0),
    method='projection',
  )
  np.testing.assert_allclose(rows['distance'], want.distance, rtol=1e-4)
  np.testing.assert_array_equal(rows['label'], LABELS)
  assert set(rows['kind']) == {'trained'}
  assert np.any(rows['distance'] > 0)
  *compared, bounds = result.report.claims
  assert {claim.verdict for claim in compared} == {'not tested'}
  said = result.report.answer
  median = np.quantile(want.distance, 0.5, method='inverted_cdf')
  assert (
    f'distance of mine:with_params from its boundary in l2 is {median:.3g}'
    in said
  )
  assert f'at 7 images of {os.path.basename(path)}' in said
  row = tables.to_dicts(result.report.tables[0])[0]
  assert row['correct'][3:] == row['median'][3:] == (7, 'images')
  assert row['networks'] == 'mine:with_params' and row['ratio'] is None
  # A linear network's distances are certified but for rounding.
  assert bounds.name == 'certified bounds' and bounds.verdict == 'supported'
  np.testing.assert_allclose(rows['lower'], want.distance, rtol=1e-3)
  # Some classes: examples of these alone, by their own numbers.
  given['classes'] = 0, 2
  rows = boundary_distances.run(config(tmp_path / 'some', **given)).tables
  chosen = np.isin(LABELS, (0, 2))
  np.testing.assert_allclose(
    rows['results']['distance'], want.distance[chosen], rtol=1e-4
  )
  np.testing.assert_array_equal(
    rows['results']['index'], np.flatnonzero(chosen)
  )


def test_examples_that_cannot_be_measured_are_named(mine, tmp_path):
  path = saved(tmp_path, xs=XS, labels=LABELS)
  given = dict(network='mine:with_params', data=path)
  outside = np.sum((XS < -1).any((1, 2)) | (XS > 3).any((1, 2)))
  words = f'{outside} of 7 inputs lie outside of -1 to 3: they go from'
  with pytest.raises(flags.FlagError, match=f'{words}.*--bounds=LOW,HIGH'):
    boundary_distances.run(
      config(tmp_path / 'run', bounds=(-1.0, 3.0), **given)
    )
  # NaN at one example; the second class is masked at all.
  at = 1.0 - (np.arange(7) == 3)
  network = own.Network(
    lambda params, x: jnp.array([1.0, -jnp.inf]) + jnp.log(x - 0.5), {}, 2
  )
  about = boundary_distances.Config(network='mine:logarithms')
  with pytest.raises(
    flags.FlagError,
    match='mine:logarithms gives NaN or infinity for 1 of 7 '
    'examples, the first of them number 3',
  ):
    own.check_examples(about, network, at[:, None].astype(np.float32), None)
  own.check_examples(about, network, np.ones((7, 1), np.float32), (0.0, 1.0))
  # Every experiment that takes networks asks at its first inputs.
  with pytest.raises(flags.FlagError, match='for 7 of 7 examples'):
    own.several('mine:undefined', XS, LABELS)
  assert not (tmp_path / 'run').exists()


def test_probabilities_are_refused(mine, tmp_path):
  """They are searched by other ways than `boundary.measure`, which warns."""
  words = r'returns numbers in \[0, 1\] .* all of 7 .* the logits before it'
  with pytest.raises(flags.FlagError, match=f'--network=mine:softmax {words}'):
    own.network('mine:softmax', XS, LABELS)
  with pytest.raises(flags.FlagError, match=words):
    own.several('mine:captured,mine:softmax', XS, LABELS)
  given = dict(data=saved(tmp_path, xs=XS, labels=LABELS), bounds=(-2.0, 3.0))
  with pytest.raises(flags.FlagError, match=words):
    boundary_distances.run(
      config(tmp_path / 'run', network='mine:softmax', **given)
    )
  assert not (tmp_path / 'run').exists()
  # One example's logits are any numbers; those of several add up otherwise.
  logits = lambda params, x: jnp.array([0.25, 0.75]) * x[0]
  about = boundary_distances.Config(network='mine:logits')
  for xs in (np.ones((1, 1)), np.array([[1], [0.5]])):
    own.check_examples(
      about, own.Network(logits, {}, 2), xs.astype(np.float32), None
    )


def test_a_network_that_guesses_is_said_to(mine, tmp_path, capsys):
  labels = np.argmin(XS.reshape(7, -1) @ WEIGHTS, axis=1)
  path = saved(tmp_path, xs=XS, labels=labels)
  given = dict(network='mine:with_params', data=path, bounds=(-2.0, 3.0))
  said = boundary_distances.run(config(tmp_path / 'run', **given)).report.answer
  assert '0% are classified correctly, no more than by a guess' in said
  assert '--nocertify leaves it out' in capsys.readouterr().out


@pytest.mark.parametrize(
  ('given', 'words'),
  [
    (dict(checkpoint='runs/net'), 'exclude each other'),
    (dict(bounds=(1.0, 0.0)), 'two numbers'),
    (dict(bounds=(0.0,)), 'two numbers'),
    (dict(classes=(1, 5)), 'no example has them'),
  ],
)
def test_flags_that_contradict_are_said(mine, tmp_path, given, words):
  path = saved(tmp_path, xs=XS, labels=0 * LABELS)
  given |= dict(network='mine:with_params', data=path)
  with pytest.raises(flags.FlagError, match=words):
    boundary_distances.run(config(tmp_path / 'run', **given))
  assert not (tmp_path / 'run').exists()


# --- Networks in experiments that compare several ------------------------


def of_digits(number):
  """A linear network of digits, one a number."""
  weights = np.random.default_rng(number).normal(size=(64, 10)) / 8
  weights = weights.astype(np.float32)
  return lambda params, x: x.reshape(-1) @ params, jnp.asarray(weights)


DIGITS = {f'digits{i}': functools.partial(of_digits, i) for i in range(4)}
NAMES = ','.join(f'digits_of_mine:{name}' for name in DIGITS)


@pytest.fixture
def digits(monkeypatch, tmp_path):
  """Networks that can be imported; a file of digits, in [0, 1]."""
  module = types.ModuleType('digits_of_mine')
  module.__dict__.update(DIGITS)
  monkeypatch.setitem(sys.modules, 'digits_of_mine', module)
  xs, labels = data.load('digits', 'test')
  train_xs, train_labels = data.load('digits', 'train[:200]')
  arrays = dict(xs=xs[:60], labels=labels[:60])
  return saved(tmp_path, train_xs=train_xs, train_labels=train_labels, **arrays)


def test_crossings_of_own_networks_stand_beside_those_trained(digits, tmp_path):
  config = crossings.Config(
    workdir=str(tmp_path / 'run'),
    models=('linear',),
    network=NAMES,
    data=digits,
    num_networks=4,
    num_steps=10,
    num_segments=30,
  )
  result = crossings.run(config)
  mine = records.select(result.table, model='given', trained_on='right labels')
  assert mine['network'].tolist() == [0, 1, 2, 3]
  segments = records.select(result.tables['segments'], pair=1, kind='test')
  xs, labels = own.examples(digits)
  start, end = segments['rows'].T
  fn, weights = of_digits(3)
  want = jax.vmap(
    lambda *row: halfway.crossings(lambda x: fn(weights, x), *row)
  )(xs[start], xs[end], labels[start], labels[end])
  fraction = np.where(want.parted, want.fraction, np.nan)
  np.testing.assert_allclose(mine['fraction'][3][-30:], fraction, atol=1e-4)
  accuracy = np.mean((xs.reshape(60, -1) @ weights).argmax(1) == labels)
  np.testing.assert_allclose(mine['accuracy'][3], accuracy, atol=1e-6)
  assert 'samples of mine.npz (median)' in result.report.answer
  weak = {c.name: c for c in result.report.claims}['R3, weak']
  assert 'linear and given' in str(result.report.tables[1])
  assert weak.verdict == 'not tested'
  with pytest.raises(flags.FlagError, match='4 networks, but --num_networks=6'):
    crossings.run(dataclasses.replace(config, num_networks=6))


@pytest.mark.slow
def test_own_networks_are_attacked_and_attack(digits, tmp_path):
  config = transfer.Config(
    workdir=str(tmp_path / 'run'),
    models=('linear',),
    network=NAMES,
    data=digits,
    parts=(20, 50),
    num_networks=4,
    num_steps=10,
    early_steps=2,
    num_images=30,
    num_segments=40,
  )
  result = transfer.run(config)
  networks = records.select(result.tables['networks'], population='given')
  xs, labels = own.examples(digits)
  for number in range(4):
    weights = of_digits(number)[1]
    accuracy = np.mean((xs.reshape(60, -1) @ weights).argmax(1) == labels)
    np.testing.assert_allclose(networks['accuracy'][number], accuracy)
  names = result.tables['networks']['population'].tolist()
  assert [*dict.fromkeys(names)] == [
    *('linear', 'given', 'linear on 20', 'linear on 50', 'linear, random')
  ]
  given = np.arange(4, 8)
  own_hits = records.select(result.table, kind='own')
  some = np.isin(own_hits['source'], given) & (
    own_hits['source'] == own_hits['target']
  )
  rate = own_hits['hits'][some].sum() / own_hits['images'][some].sum()
  assert rate > 0.5  # A linear network is fooled by its own examples.
  arrays = dict(np.load(digits))
  outside = saved(tmp_path / 'run', **arrays | {'xs': 2 * arrays['xs']})
  with pytest.raises(flags.FlagError, match=r'inputs outside \[0, 1\]'):
    transfer.run(dataclasses.replace(config, data=outside))


@pytest.mark.slow
def test_pairs_of_own_networks_have_depths(digits, tmp_path):
  config = dimple_depth.Config(
    workdir=str(tmp_path / 'run'),
    network=NAMES,
    data=digits,
    num_examples=20,
    latent=2,
    autoencoder_epochs=1,
    max_gradients=40,
  )
  result = dimple_depth.run(config)
  assert set(result.table['kind']) == {'plain', 'plain again', 'given'}
  xs, labels = (column[:20] for column in own.examples(digits))
  for kind, pair, number in (('plain', 0, 0), ('given', 1, 3)):
    fn, weights = of_digits(number)
    want = boundary.measure(fn, xs, labels, params=weights, method='fast')
    rows = records.select(result.table, kind=kind, network=pair)
    right = rows['correct']
    assert (
      right.tolist()
      == ((xs.reshape(20, -1) @ weights).argmax(1) == labels).tolist()
    )
    np.testing.assert_allclose(rows['free'], want.distance, rtol=1e-3)
  with pytest.raises(flags.FlagError, match='3 networks are no pairs'):
    three = NAMES.rsplit(',', 1)[0]
    dimple_depth.run(dataclasses.replace(config, network=three))
  with pytest.raises(flags.FlagError, match='--network excludes --plain'):
    dimple_depth.run(dataclasses.replace(config, plain='runs/a'))


@pytest.mark.parametrize(
  ('name', 'library'),
  [
    ('plain', 'jax'),
    ('flax_linen', 'flax'),
    ('flax_nnx', 'flax'),
    ('equinox_mlp', 'equinox'),
    ('keras_cnn', 'keras'),
    ('pytorch_cnn', 'torchax'),
  ],
)
def test_templates_are_networks_of_digits(name, library):
  if library == 'keras' and os.environ.get('KERAS_BACKEND') != 'jax':
    pytest.skip('Keras runs on another backend')
  pytest.importorskip(library)
  xs, labels = data.load('digits', 'test')
  found = own.network(f'examples.{name}:network', xs, labels)
  assert found.num_classes == 10
  point = boundary.measure(
    lambda params, x: found.apply(params, x)[0],
    xs[:4],
    params=found.params,
    method='ray',
    max_gradients=20,
  )
  assert np.all(np.isfinite(point.distance) & (point.distance > 0))
