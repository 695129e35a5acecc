"""Perturbations and the data's manifold: toy runs, and planted worlds."""

import dataclasses
import sys
import types

import jax
import numpy as np
import pytest
import resume
from scipy import special
from scipy import stats

from dmm_jax import data
from dmm_jax import manifold
from dmm_jax import models
from dmm_jax import records
from dmm_jax import train
from experiments import manifold_split
from experiments import networks
from experiments import train_autoencoder
from experiments import train_classifier
from experiments.lib import claims
from experiments.lib import flags
from experiments.lib import tables

TOY = dict(
  num_examples=12,
  num_classifiers=2,
  num_autoencoders=2,
  latent=4,
  widths=(4,),
  epochs=6,
  autoencoder_epochs=3,
  method='ray',
  batch_size=24,
)
NULLS = tuple(manifold_split.NULLS)


@pytest.fixture(autouse=True)
def empty_figures(monkeypatch):
  resume.draw_quickly(monkeypatch)


def toy(workdir, **more):
  return manifold_split.Config(workdir=str(workdir), **(TOY | more))


@pytest.fixture(scope='module')
def finished(tmp_path_factory):
  return resume.run_keeping_chunks(
    manifold_split.run, toy, tmp_path_factory.mktemp('run')
  )


# --- Runs ------------------------------------------------------------------


def test_rows_are_images_of_cells(finished):
  run_dir, result, _ = finished
  rows = records.load_columns(run_dir / 'results.npz')
  np.testing.assert_equal(rows, result.table)
  # Without an auto-encoder 3 subspaces; beside each 3, and once more decoded.
  assert len(rows['free']) == 2 * (3 + 2 * 4) * 12
  known = ['random', 'frequency', 'principal', 'manifold', 'other', 'permuted']
  assert [*dict.fromkeys(rows['kind'])] == known
  without = np.isin(rows['kind'], known[:3])
  np.testing.assert_array_equal(rows['autoencoder'] == -1, without)
  assert set(rows['kind'][rows['start'] == 'decoded']) == {'manifold'}
  _, labels = data.load('digits', 'test')
  np.testing.assert_array_equal(rows['label'], labels[rows['index']])
  drawn = [np.unique(rows['index'][rows['classifier'] == c]) for c in (0, 1)]
  assert len(drawn[0]) == len(drawn[1]) == 12 != len({*drawn[0]} & {*drawn[1]})
  image = rows['start'] == 'image'
  for c in (0, 1):  # The free distance is the same beside all auto-encoders.
    free = rows['free'][image & (rows['classifier'] == c)].reshape(-1, 12)
    np.testing.assert_allclose(free, free[:1].repeat(len(free), 0), rtol=1e-3)
  assert 0.4 < np.mean(rows['free'] > 0)
  np.testing.assert_array_equal(
    np.isnan(rows['curved']), rows['start'] == 'image'
  )
  assert np.unique(rows['k']) == 4 and np.unique(rows['d']) == 64


def test_shares_and_points_are_those_of_the_subspaces(finished):
  """From the networks as they were saved, by numpy."""
  _, result, _ = finished
  inputs = manifold_split.load(toy(''))
  xs, _ = data.load('digits', 'test')
  module = inputs.autoencoders.module
  flat = result.tables['autoencoders']['parameters'][1]
  coder = networks.unflatten(module, xs[0], flat)
  points = manifold_split.records.select(result.tables['points'], start='image')
  assert set(points['autoencoder']) == {1} and set(points['classifier']) == {0}
  decode = lambda z: module.apply(coder, z, method='decode').ravel()
  codes = [module.apply(coder, x, method='encode') for x in points['x']]
  of = inputs.classifiers.module
  flat = result.tables['classifiers']['parameters'][0]
  variables = networks.unflatten(of, xs[0], flat)
  classify = lambda x: of.apply(variables, x)[0]
  images = list(dict.fromkeys(points['index'].tolist()))
  for i, kind in enumerate(points['kind']):
    x, free, on, off = (
      points[name][i].ravel()
      for name in ('x', 'free_point', 'on_point', 'off_point')
    )
    np.testing.assert_array_equal(x, xs[points['index'][i]].ravel())
    for name, point in (('free', free), ('on', on), ('off', off)):
      wanted = np.linalg.norm(point - x)
      if np.isfinite(points[name][i]):
        np.testing.assert_allclose(points[name][i], wanted, rtol=1e-4)
        logits = classify(point.reshape(points['x'][i].shape))
        target = points[f'{name}_target'][i]
        assert target == np.argmax(logits) != points['label'][i]
      else:
        assert points[f'{name}_target'][i] == -1
    if kind == 'manifold':
      columns = np.asarray(jax.jacfwd(decode)(codes[i]))
      basis = np.linalg.qr(columns)[0].T
      inside = np.sum((basis @ (free - x)) ** 2) / np.sum((free - x) ** 2)
      np.testing.assert_allclose(points['share'][i], inside, rtol=1e-3)
      np.testing.assert_allclose(manifold.off(on - x, basis), 0, atol=1e-3)
      np.testing.assert_allclose(manifold.on(off - x, basis), 0, atol=1e-3)
  assert len(images) == 6 and set(points['kind']) == {
    'manifold', 'other', 'permuted'
  }  # fmt: skip


def test_augmentation_is_of_classifiers_alone(monkeypatch):
  plans = {}

  def fit(key, forward, state, xs, targets, *, config):
    del key, forward, xs, targets
    plans[config.loss] = config
    return [train.loop.Progress(0, 0, state, np.nan)]

  monkeypatch.setattr(train, 'fit', fit)
  for augment in (False, True):
    config = toy('', augment=augment)
    inputs = manifold_split.load(config)
    for name in ('classifier', 'autoencoder'):
      manifold_split.make_network(config, inputs, name, 0)
    plan = plans['cross_entropy']
    assert (plan.crop, plan.flip) == (2 * augment, augment)
    plan = plans['reconstruction']
    assert (plan.crop, plan.flip) == (0, 0)


def test_playground_needs_images_that_it_can_halve(monkeypatch):
  config = toy('', model='playground', width=9)
  with pytest.raises(flags.FlagError, match='digits are 8 x 8'):
    manifold_split.load(config)
  load = lambda *_: (np.zeros((20, 32, 40, 3), np.float32), np.arange(20) % 10)
  monkeypatch.setattr(data, 'load', load)
  module = manifold_split.load(config).classifiers.module
  assert module == models.PlaygroundCNN(9, num_classes=10)


def test_subspaces_of_images(finished):
  """Other images' spaces, permuted ones and those that need no decoder."""
  config = toy('')
  inputs = manifold_split.load(config)
  xs, key = inputs.test_set[0][:5], jax.random.key(1)
  module = inputs.autoencoders.module
  coder = module.init(jax.random.key(0), xs[0])
  codes, decoded = networks.reconstructions(module, coder, xs)
  np.testing.assert_allclose(
    decoded[2], module.apply(coder, xs[2])[0], atol=1e-5
  )
  beside = manifold_split.subspaces(
    config, inputs, manifold_split.Cell(0, None, 0, coder), xs, codes, key
  )
  own, pixels = beside['manifold'], jax.random.permutation(key, 64)
  np.testing.assert_array_equal(beside['other'], own[[4, 0, 1, 2, 3]])
  np.testing.assert_array_equal(beside['permuted'], own[..., pixels])
  alone = manifold_split.Cell(0, None, -1, None)
  found = manifold_split.subspaces(config, inputs, alone, xs, None, key)
  assert [*found] == ['random', 'frequency', 'principal']
  principal = manifold.principal_basis(inputs.train_set[0], 4)
  np.testing.assert_array_equal(found['principal'][3], principal)
  assert np.abs(found['random'][0] - found['random'][1]).max() > 0.1
  for basis in [*found.values(), own]:
    assert basis.shape == (5, 4, 64)
    gram = np.einsum('nkd,nld->nkl', basis, basis)
    np.testing.assert_allclose(gram, np.tile(np.eye(4), (5, 1, 1)), atol=1e-4)


def test_errors_are_those_of_held_out_images(finished):
  _, result, _ = finished
  rows = records.select(result.tables['errors'], autoencoder=1)
  (xs, _), (known, _) = (data.load('digits', s) for s in ('test', 'train'))
  inputs = manifold_split.load(toy(''))
  module = inputs.autoencoders.module
  flat = result.tables['autoencoders']['parameters'][1]
  coder = networks.unflatten(module, xs[0], flat)
  made = jax.vmap(lambda x: module.apply(coder, x)[0])(xs)
  wanted = np.mean((np.asarray(made) - xs) ** 2, axis=(1, 2, 3))
  np.testing.assert_allclose(rows['error'], wanted, rtol=1e-3, atol=1e-6)
  flat, centre = xs.reshape(-1, 64), known.reshape(-1, 64).mean(0)
  vectors = np.linalg.svd(known.reshape(-1, 64) - centre)[2][:4]
  rest = flat - centre
  wanted = np.mean((rest - rest @ vectors.T @ vectors) ** 2, axis=1)
  np.testing.assert_allclose(rows['principal_error'], wanted, rtol=1e-3)


@pytest.mark.parametrize(
  'lost',
  [
    *('searches-001-000', 'points'),
    pytest.param('*', marks=pytest.mark.slow),
  ],
)
def test_a_broken_run_ends_with_the_same_bytes(finished, tmp_path, lost):
  measured = resume.assert_same_bytes(
    manifold_split.run, toy, finished, tmp_path, lost=[lost]
  )
  chunks = {path.stem for path in finished[2].iterdir()}
  assert measured == (chunks if lost == '*' else {lost})


@pytest.mark.parametrize('name, kinds', [('principal', 4), ('neighbors', 6)])
def test_manifolds_without_auto_encoders(tmp_path, capsys, name, kinds):
  result = manifold_split.run(toy(tmp_path, manifold=name))
  rows = result.table
  assert 'autoencoders' not in result.tables
  assert len(rows['free']) == 2 * kinds * 12
  absent = manifold_split.ABSENT.get(name, ())
  assert set(rows['kind']) == {'manifold', *NULLS} - {*absent}
  verdicts = {c.name: c.verdict for c in result.report.claims}
  for kind, text in manifold_split.NULLS.items():
    not_tested = verdicts[f'less than in {text}'] == claims.NOT_TESTED
    assert not_tested == (kind in absent)
  assert ('errors' in result.tables) == (name == 'neighbors')
  assert len(result.report.tables) == 3  # None of a curved search.
  out = capsys.readouterr().out
  assert ('=principal the two are the same' in out) == (name == 'principal')
  # Nothing is said of tangent spaces, but what claims say.
  parts = result.report.tables[0]
  assert parts.rows[0][0] == manifold_split.SPACES[name]
  found = [result.report.answer, *(row[0] for row in parts.rows)]
  assert not any('the tangent space' in text for text in found)
  assert 'beside each null' in result.report.tables[1].title


@pytest.mark.slow
def test_networks_of_other_runs_are_measured(tmp_path):
  net, coders = str(tmp_path / 'net'), [str(tmp_path / v) for v in 'ab']
  train_classifier.run(
    train_classifier.Config(workdir=net, epochs=10, widths='16')
  )
  for seed, coder in enumerate(coders):
    config = train_autoencoder.Config(
      workdir=coder, seed=seed, epochs=1, widths='4', latent=3
    )
    train_autoencoder.run(config)
  config = toy('', checkpoints=(net,), autoencoders=tuple(coders))
  inputs = manifold_split.load(config)
  assert inputs.k == 3 and inputs.classifiers.module.widths == (16,)
  assert [len(g.given) for g in inputs[:2]] == [1, 2]
  row = manifold_split.make_network(config, inputs, 'classifier', 0)
  given = jax.tree.leaves(inputs.classifiers.given[0])
  assert row['parameters'].size == sum(np.size(v) for v in given)
  assert 0.2 < row['accuracy'][0] < 1 and 0.09 < row['chance'][0] < 0.12
  other = toy('', checkpoints=(net,), autoencoders=('here',), latent=64)
  with pytest.raises(flags.FlagError, match='--latent=64 has to be less than'):
    manifold_split.load(other)


def mine():
  """As --network names it: the nearest mean of each class."""
  xs, labels = data.load('digits', 'train')
  means = np.stack([xs[labels == c].mean(0).ravel() for c in range(10)])
  offsets = -np.sum(means**2, 1) / 2
  return lambda params, x: x.ravel() @ params[0].T + params[1], (means, offsets)


def test_an_own_network_is_measured(tmp_path, monkeypatch):
  module = types.ModuleType('mine')
  module.mine = mine
  monkeypatch.setitem(sys.modules, 'mine', module)
  given = dict(network='mine:mine', manifold='principal', method='deepfool')
  config = toy(tmp_path / 'run', **given)
  result = manifold_split.run(config)
  rows = result.table
  assert set(rows['classifier']) == {0} and np.all(np.isfinite(rows['free']))
  means, offsets = mine()[1]
  flat = data.load('digits', 'test')[0].reshape(360, -1)[rows['index']]
  logits = flat @ means.T + offsets
  label = rows['label']
  own_logit = np.take_along_axis(logits, label[:, None], 1)[:, 0]
  gaps = own_logit[:, None] - logits
  slopes = np.linalg.norm(means[label][:, None] - means[None], axis=2)
  with np.errstate(divide='ignore', invalid='ignore'):
    far = np.where(slopes > 0, gaps / slopes, np.inf).min(1)
  np.testing.assert_allclose(rows['free'], np.maximum(far, 0), rtol=1e-3)
  assert {c.verdict for c in result.report.claims} == {'not tested'}
  with pytest.raises(flags.FlagError, match='exclude each other'):
    manifold_split.run(dataclasses.replace(config, checkpoints=('runs/net',)))


@pytest.mark.parametrize(
  'given, message',
  [
    (dict(manifold='moon'), r'--manifold=moon is unknown.*decoder'),
    (dict(latent=0), r'--latent=0 is too small'),
    (dict(latent=64), r'--latent=64 .*64'),
    (dict(latent=500, manifold='neighbors'), r'--latent=500 .*64'),
    (dict(method='luck'), r'--method=luck'),
  ],
)
def test_bad_flags_are_named_and_nothing_is_written(tmp_path, given, message):
  with pytest.raises(flags.FlagError, match=message):
    manifold_split.run(toy(tmp_path / 'run', **given))
  assert not (tmp_path / 'run').exists()


# --- Planted worlds ----------------------------------------------------------

K, D = 8, 64


def world(
  rng,
  own=0.0,
  nulls=0.0,
  *,
  classifiers=6,
  coders=3,
  images=6,
  spread=(0.2, 0.2, 0.1, 0.5),
  curve=1.0,
):
  """Tables of flat boundaries, log odds of shares planted.

  Args:
    rng: of numpy.
    own, nulls: mean log odds, less those of k / d, of the tangent space and of
      the nulls.
    classifiers, coders, images: how many.
    spread: standard deviations over classifiers, auto-encoders, pairs of them,
      and images, of each subspace by itself.
    curve: distances on the curved manifold, over those in the plane.
  """
  parts = []
  shape = classifiers, coders, images
  for kind in ('manifold', *NULLS):
    alone = kind in ('random', 'frequency', 'principal')
    for start in ('image', 'decoded') if kind == 'manifold' else ('image',):
      scales = zip(
        spread,
        ((classifiers, 1, 1), (1, coders, 1), (*shape[:2], 1), shape),
        strict=True,
      )
      mean = own if kind == 'manifold' else nulls
      logits = special.logit(K / D) + mean + np.zeros(shape)
      for size, of in scales:
        logits = logits + size * rng.normal(size=of)
      logits = logits[:, :1] if alone else logits
      share = special.expit(logits)
      c, a, i = np.indices(share.shape)
      on = share**-0.5
      columns = {
        'classifier': c,
        'autoencoder': a - alone,
        'index': i,
        'share': share,
        'free': np.ones_like(share),
        'on': on,
        'off': (1 - share) ** -0.5,
        'curved': on * curve if start == 'decoded' else np.nan * on,
        'kind': np.full(share.shape, kind),
        'start': np.full(share.shape, start),
        'k': np.full(share.shape, K),
        'd': np.full(share.shape, D),
      }
      parts.append({name: v.ravel() for name, v in columns.items()})
  number = np.repeat(np.arange(coders), 20)
  return {
    'results': records.concatenate(parts),
    'classifiers': {
      'parameters': np.zeros((classifiers, 1)),
      'accuracy': np.full(classifiers, 0.9)
      + 0.01 * (np.arange(classifiers) % 2),
      'chance': np.full(classifiers, 0.1),
    },
    'autoencoders': {'parameters': np.zeros((coders, 1))},
    'errors': {
      'autoencoder': number,
      'error': np.full(len(number), 0.5) + 0.01 * (np.arange(len(number)) % 7),
      'principal_error': np.full(len(number), 0.8),
    },
  }


def judge(found, **more):
  return manifold_split.analyze(toy('', **more), found)


def verdicts(found, **more):
  return {c.name: c.verdict for c in judge(found, **more).claims}


def strong(found):
  return [v for name, v in verdicts(found).items() if name.startswith('less')]


@pytest.mark.filterwarnings('error')
@pytest.mark.parametrize(
  'own, nulls, weak, avoids',
  [
    (-1.5, 0.0, claims.SUPPORTED, claims.SUPPORTED),
    (1.0, 0.0, claims.SUPPORTED, claims.NOT_SUPPORTED),
    (4.0, 0.0, claims.NOT_SUPPORTED, claims.NOT_SUPPORTED),
  ],
)
def test_clear_worlds_are_told(own, nulls, weak, avoids):
  found = world(np.random.default_rng(0), own, nulls)
  said = verdicts(found)
  assert said.pop('roughly perpendicular') == weak
  assert said.pop('longer on the manifold') == weak
  assert len(said) == len(NULLS) and set(said.values()) == {avoids}


def test_each_null_has_its_claim():
  """What is planted in one null alone is seen by its claim alone."""
  found = world(np.random.default_rng(1), -0.8, 0.0, spread=(0.1, 0.1, 0, 0.3))
  rows = found['results']
  there = rows['kind'] == 'other'
  share = special.expit(special.logit(rows['share'][there]) - 1.6)
  rows['share'][there] = share
  rows['on'][there], rows['off'][there] = share**-0.5, (1 - share) ** -0.5
  said = verdicts(found)
  text = manifold_split.NULLS['other']
  assert said.pop(f'less than in {text}') == claims.NOT_SUPPORTED
  assert set(said.values()) == {claims.SUPPORTED}


def test_both_measures_and_both_searches_have_to_agree():
  rng = np.random.default_rng(2)
  found = world(rng, -1.5)
  rows = found['results']
  own = (rows['kind'] == 'manifold') & (rows['start'] == 'image')
  rows['on'][own] /= 6  # Distances say the contrary of directions.
  said = strong(found)
  assert set(said) == {claims.NOT_SUPPORTED}
  # A curved manifold on which perturbations are short.
  said = verdicts(world(rng, -1.5, curve=0.1))
  assert said['longer on the manifold'] == claims.NOT_SUPPORTED
  assert said['roughly perpendicular'] == claims.SUPPORTED


def test_numbers_of_the_tables():
  """Against numpy and scipy: means of cells, Student's by the jackknife."""
  found = world(np.random.default_rng(3), 0.7, classifiers=5, coders=3)
  rows = found['results']
  rows['free'][rows['index'] == 0] = 0  # Misclassified: they do not count.
  parts, contrasts, curved, instruments = map(
    tables.to_dicts, judge(found).tables
  )

  def cells(kind, start='image'):
    of = records.select(rows, kind=kind, start=start)
    share = of['share'].reshape(5, -1, 6)[..., 1:].mean(-1)
    return special.logit(share)

  def interval(values):
    """Two crossed factors, by the jackknife, with Satterthwaite's freedom."""
    parts = []
    for axis in (0, 1):
      means = values.mean(1 - axis)
      parts.append((means.var(ddof=1) / len(means), len(means) - 1))
    total = sum(v for v, _ in parts)
    freedom = total**2 / sum(v**2 / f for v, f in parts)
    half = stats.t.ppf(0.975, freedom) * total**0.5
    return values.mean() + np.array([0, -half, half])

  own, null = cells('manifold'), cells('random')
  wanted = interval(own)
  np.testing.assert_allclose(parts[0]['share'][:3], special.expit(wanted))
  odds = np.exp(wanted) * (D - K) / K
  np.testing.assert_allclose(parts[0]['A'][:3], odds)
  np.testing.assert_allclose(parts[0]['A by distance'][:3], odds)
  assert parts[0]['share'][3:] == (3, 'networks of each kind')
  wanted = stats.t.interval(0.95, 4, null.mean(), stats.sem(null[:, 0]))
  np.testing.assert_allclose(parts[1]['share'][1:3], special.expit(wanted))
  assert parts[1]['share'][3:] == (5, 'classifiers')
  for name in ('by direction', 'by distance'):
    wanted = np.exp(interval(own - null))
    np.testing.assert_allclose(contrasts[0][name][:3], wanted)
  of = records.select(rows, kind='manifold', start='image')
  ratio = np.log(np.median(of['on'].reshape(5, 3, 6)[..., 1:], -1))
  np.testing.assert_allclose(parts[0]['on / free'][:3], np.exp(interval(ratio)))
  plane, bent = curved
  np.testing.assert_allclose(plane['over free'][:3], bent['over free'][:3])
  np.testing.assert_allclose(bent['over plane'][:3], 1)
  assert plane['over plane'] is None
  odds = np.exp(interval(cells('manifold', 'decoded'))) * (D - K) / K
  np.testing.assert_allclose(bent['A by distance'][:3], odds)
  assert [row['value'] for row in instruments][-1] == 0
  error = found['errors']['error'][:20]
  np.testing.assert_allclose(instruments[1]['value'].value, error.mean() / 0.8)


def test_failed_searches_within_a_subspace_are_infinitely_far():
  found = world(np.random.default_rng(4), -1.0)
  rows = found['results']
  own = (rows['kind'] == 'manifold') & (rows['start'] == 'image')
  rows['on'][own & (rows['index'] == 2)] = np.inf
  row = tables.to_dicts(judge(found).tables[0])[0]
  assert row['lost'] == pytest.approx(1 / 6)
  assert row['A by distance'].value < row['A'].value
  rows['on'][own] = np.inf  # No median and no odds: nothing is estimated.
  report = judge(found)
  row = tables.to_dicts(report.tables[0])[0]
  assert np.isnan([row['on / free'].value, row['A by distance'].value]).all()
  assert report.claims[1].verdict == claims.UNDECIDED


def bad_coder(found):
  found['errors']['error'][found['errors']['autoencoder'] == 1] = 0.9


def bad_classifiers(found):
  found['classifiers']['accuracy'][:] = 0.44


def bad_searches(found):
  found['results']['free'][::10] = np.inf


def one_coder(found):
  keep = found['results']['autoencoder'] < 1
  found['results'] = {k: v[keep] for k, v in found['results'].items()}
  found['autoencoders']['parameters'] = np.zeros((1, 1))


def one_classifier(found):
  keep = found['results']['classifier'] < 1
  found['results'] = {k: v[keep] for k, v in found['results'].items()}
  for name, column in found['classifiers'].items():
    found['classifiers'][name] = column[:1]


@pytest.mark.parametrize(
  'spoil, why',
  [
    (
      bad_coder,
      'error of auto-encoder 1 at held-out images is 1.12 times that',
    ),
    (bad_classifiers, 'classify 44% of the images correctly, less than'),
    (bad_searches, '10% of the free searches found nothing'),
    (one_coder, 'of autoencoders there is one, which says nothing'),
    (one_classifier, 'of classifiers there is one, which says nothing'),
  ],
)
def test_what_the_instruments_cannot_test_is_not_tested(spoil, why):
  found = world(np.random.default_rng(5), -1.5)
  spoil(found)
  report = judge(found)
  assert {c.verdict for c in report.claims} == {claims.NOT_TESTED}
  assert all(why in c.reason for c in report.claims)
  assert (
    report.answer.startswith('Nothing is tested: ') and why in report.answer
  )


@pytest.mark.parametrize(
  'coders, scale',
  [
    pytest.param(2, 0.0, marks=pytest.mark.slow),
    *((2, 0.2), (3, 0.2)),
  ],
)
def test_worlds_without_an_effect_are_seldom_called_supported(coders, scale):
  """At most 5 % of worlds in which the tangent space is as the nulls."""
  rng = np.random.default_rng(6)
  said, held, num = [], 0, 60
  truth = None
  for _ in range(num):
    found = world(rng, images=3, coders=coders, spread=(0.2, scale, 0.1, 0.5))
    report = judge(found)
    said += [c.verdict for c in report.claims if c.name.startswith('less')]
    share = tables.to_dicts(report.tables[0])[0]['share']
    truth = truth or mean_share((0.2, scale, 0.1, 0.5))
    held += share.low <= truth <= share.high
  for verdict in (claims.SUPPORTED, claims.NOT_SUPPORTED):
    assert np.mean([v == verdict for v in said]) <= 0.05
  assert held >= 0.88 * num


def mean_share(spread):
  """What cells' mean log odds of shares tend to, in a world without effect."""
  rng = np.random.default_rng(7)
  within = special.logit(K / D) + np.hypot(*spread[:2]) * rng.normal(
    size=(40000, 1)
  )
  cell = within + spread[2] * rng.normal(size=(40000, 1))
  share = special.expit(cell + spread[3] * rng.normal(size=(40000, 3)))
  return special.expit(special.logit(share.mean(1)).mean())
