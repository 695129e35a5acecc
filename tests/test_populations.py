"""Networks that differ in one thing, and what they have in common."""

import json

import jax
import numpy as np
import pytest
import resume

from dmm_jax import records
from dmm_jax import train
from experiments import halfway
from experiments import populations
from experiments import segments
from experiments import transfer
from experiments.lib import flags

TOY = dict(
  models=('linear', 'mlp'),
  num_train=300,
  num_test=60,
  num_networks=3,
  num_steps=10,
  num_pairs=60,
  num_images=30,
)


@pytest.fixture(autouse=True)
def empty_figures(monkeypatch):
  resume.draw_quickly(monkeypatch)


def halfway_toy(workdir, **more):
  few = dict(num_sources=10, num_normals=3, booked_steps=4)
  return halfway.Config(workdir=str(workdir), **(TOY | few | more))


def transfer_toy(workdir, **more):
  few = dict(
    early=0, radii=(0.2,), factors=(2.0,), parts=(20, 100), attack_steps=5
  )
  return transfer.Config(workdir=str(workdir), **(TOY | few | more))


# --- Data, labels, segments ------------------------------------------------


def test_digits_are_drawn_anew_and_nothing_is_lost():
  sets = populations.load(halfway_toy('', num_train=0, num_test=0))
  assert [len(xs) for xs, _ in sets.values()] == [1400, 397]
  everything = np.concatenate([xs for xs, _ in sets.values()])
  assert len(np.unique(everything.reshape(1797, -1), axis=0)) == 1797
  few = populations.load(halfway_toy(''))
  assert [len(xs) for xs, _ in few.values()] == [300, 60]


@pytest.mark.parametrize('name', populations.PLANE)
def test_sets_of_the_plane_fill_the_unit_square(name):
  sets = populations.load(halfway_toy('', dataset=name, num_train=0))
  xs, labels = sets['train']
  assert xs.shape == (500, 2) and xs.min() >= 0 and xs.max() <= 1
  assert set(labels) == {0, 1}


def test_conditions_share_what_they_say():
  labels = np.arange(200) % 10
  task = lambda c, m=4: populations.task(jax.random.key(0), c, labels, m)
  given, rows = task('plain')
  assert np.all(given == labels) and np.all(rows == np.arange(200))
  given, rows = task('halves')
  assert np.all(rows[0] == rows[1]) and np.all(rows[2] == rows[3])
  assert len(np.union1d(rows[0], rows[2])) == 200
  _, rows = task('part30')
  assert len(np.union1d(rows[0], rows[2])) == 60
  given, _ = task('shared')
  assert np.all(given == given[0]) and np.mean(given[0] == labels) < 0.3
  given, _ = task('own')
  assert np.mean(given[0] == given[1]) < 0.3
  assert np.all(np.sort(given, axis=1) == np.sort(labels))


def test_segments_part_classes_and_near_ones_are_nearest():
  config = halfway_toy('')
  sets = populations.load(config)
  pairs = segments.draw(config, sets)
  assert [np.sum(pairs.kind == k) for k in segments.KINDS] == [60, 60, 20]
  xs, labels = sets['train']
  names = segments.labels(pairs, sets, labels)
  assert np.all(names[:, 0] != names[:, 1])
  start, end = segments.ends(pairs, sets)
  far = np.linalg.norm((start - end).reshape(len(start), -1), axis=1)
  flat = xs.reshape(len(xs), -1)
  for place in np.flatnonzero(pairs.kind == 'near')[:5]:
    others = flat[labels != names[place, 0]]
    gaps = np.linalg.norm(others - start[place].ravel(), axis=1)
    assert far[place] == pytest.approx(gaps.min(), rel=1e-5)


def test_flags_that_do_not_fit_are_refused(tmp_path):
  with pytest.raises(flags.FlagError, match='needs images'):
    halfway.run(halfway_toy(tmp_path, dataset='moons', models=('cnn',)))
  with pytest.raises(flags.FlagError, match='two of them need 400'):
    transfer.run(transfer_toy(tmp_path, parts=(200,)))
  with pytest.raises(flags.FlagError, match='too large; at most 1'):
    transfer.run(transfer_toy(tmp_path, success=2.0))
  assert not any(tmp_path.iterdir())


# --- Halfway ---------------------------------------------------------------


def no_training(*args, **kwargs):
  raise AssertionError('trained again')


def test_networks_are_held_against_each_other(tmp_path, capsys, monkeypatch):
  config = halfway_toy(tmp_path)
  summary = halfway.run(config)
  out = capsys.readouterr().out
  assert 'R4: ' in out and 'linear-halves' in out
  sets = populations.load(config)
  pairs = segments.draw(config, sets)
  table = records.load_columns(tmp_path / 'results.npz')
  # A linear network crosses where its leads balance, whatever its labels are.
  (linear,) = [
    p for p in populations.build(config, tmp_path, sets) if p.name == 'linear'
  ]
  params, _ = linear.network(10, 1)
  kernel, bias = (np.asarray(params['head'][n]) for n in ('kernel', 'bias'))
  leads = []
  names = segments.labels(pairs, sets, sets['train'][1])
  for end in segments.ends(pairs, sets):
    logits = end.reshape(len(end), -1) @ kernel + bias
    leads.append(np.diff(np.take_along_axis(logits, names, 1))[:, 0])
  wanted = leads[0] / (leads[0] - leads[1])
  wanted[np.sign(leads[0]) == np.sign(leads[1])] = np.nan
  (row,) = np.flatnonzero(
    (table['population'] == 'linear')
    & (table['network'] == 1)
    & (table['step'] == 10)
  )
  np.testing.assert_allclose(table['fraction'][row], wanted, atol=1e-4)
  last = records.select(table, step=10, population='linear')
  train_pairs = last['fraction'][:, pairs.kind == 'train']
  entry = summary['populations']['linear']['10']
  assert entry['spread_train']['value'] == pytest.approx(
    np.mean(np.nanstd(train_pairs, axis=1))
  )
  # Influence of a linear model is that of its inputs: the same at all steps.
  start = summary['populations']['linear']['0']
  assert start['same']['value'] == pytest.approx(entry['same']['value'])
  assert start['rank']['value'] == 0 < entry['rank']['value']
  # Linear in its parameters, it has nothing of second order.
  assert summary['booked'][0]['explained']['value'] == pytest.approx(1)
  assert set(summary['verdicts']) == {'R1', 'R1, strong form', 'R2', 'R3', 'R4'}
  written = (tmp_path / 'summary.json').read_text()
  assert json.dumps(summary, indent=2) + '\n' == written
  for figure in ('crossings', 'training', 'influence'):
    assert (tmp_path / f'figures/{figure}.png').is_file()
  # What is trained stays: a run that goes on has the same networks.
  before = (tmp_path / 'results.npz').read_bytes()
  (tmp_path / 'results.npz').unlink()
  monkeypatch.setattr(train, 'fit', no_training)
  halfway.run(config)
  assert (tmp_path / 'results.npz').read_bytes() == before


# --- Transfer --------------------------------------------------------------


def test_sources_attack_targets(tmp_path, capsys):
  config = transfer_toy(
    tmp_path, models=('linear',), conditions=('plain', 'halves'), num_steps=20
  )
  summary = transfer.run(config)
  assert 'directions align before' in capsys.readouterr().out
  table = records.load_columns(tmp_path / 'results.npz')
  networks = records.load_columns(tmp_path / 'networks.npz')
  assert networks['population'].tolist() == (
    3 * ['linear']
    + 6 * ['linear-halves']
    + 6 * ['linear-part20']
    + 6 * ['linear-part100']
  )
  last = records.select(table, step=20)
  assert len(last['attack']) == 21 * len(transfer.names_of(config))
  # A network's own examples fool it; matched ones as often as asked.
  linear = records.select(last, population='linear', attack='linf matched')
  assert np.all((linear['fooled'] >= 0.85) & (linear['fooled'] <= 1))
  far = records.select(last, population='linear', attack='l2 x2')
  assert np.all(far['fooled'] > 0.95)
  np.testing.assert_allclose(np.diagonal(far['transfer'][:, :3]), 1.0)
  fixed = records.select(last, attack='linf 0.2')
  assert np.all(fixed['linf'] <= 0.2 + 1e-6)
  block = far['transfer'][:, :3]
  mine = summary['attacks']['l2 x2']['linear']['linear']['transfer']['value']
  wanted = np.nanmean(block[~np.eye(3, dtype=bool)])
  assert mine == pytest.approx(wanted, abs=1e-6)
  assert [row['samples'] for row in summary['parts']] == [20, 100]
  for figure in ('matrices', 'training', 'parts'):
    assert (tmp_path / f'figures/{figure}.png').is_file()


def test_regression_finds_what_explains():
  rng = np.random.default_rng(0)
  fractions = rng.normal(size=(12, 400)) * 0.05 + 0.5
  fractions += np.linspace(0, 1, 12)[:, None] * rng.normal(size=400) * 0.2
  accuracy = rng.uniform(size=12)
  networks = {
    'accuracy': accuracy,
    'fraction': fractions,
    'cosine': rng.normal(size=(12, 12)),
  }
  agree = np.corrcoef(fractions)
  noise = rng.normal(size=agree.shape) * 0.01
  found = transfer.regression(networks, 0.2 + 0.5 * agree + noise)
  assert found['common']['value'] > 0.95
  assert found['accuracy']['value'] < 0.5
  other = transfer.regression(networks, accuracy[None] + noise)
  assert other['accuracy']['value'] > 0.95 > 0.5 > other['added']['value']
