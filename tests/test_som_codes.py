"""Measures of layers on maps made by hand, and the experiment on a toy."""

import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from dmm_jax import records
from dmm_jax import som
from dmm_jax import statistics
from dmm_jax.train import populations as train_populations
from experiments import layer_codes
from experiments import populations
from experiments import som_codes
from experiments.lib import flags

TOY = dict(
  models=('mlp',),
  conditions=('plain', 'adversarial'),
  num_train=60,
  num_test=60,
  num_networks=2,
  num_steps=20,
  steps=(0,),
  train_steps=1,
  num_images=60,
  side=3,
  num_maps=2,
  num_epochs=3,
  radii=(0.3,),
  attack_steps=3,
  max_gradients=6,
)


def toy(workdir, **more):
  return som_codes.Config(workdir=str(workdir), **(TOY | more))


# --- By hand ---------------------------------------------------------------

# Units at 0, 1, 2, 3 in a row, of classes 0, 0, 1, 1.
UNITS = som.Map(jnp.arange(4.0)[None, :, None], history=jnp.array([2.0, 1, 1]))
TRAIN = np.array([0, 0.1, 1, 2, 2.1, 2.2, 2.9, 3], np.float32)[:, None]
LABELS = np.array([0, 0, 0, 1, 0, 1, 1, 1])
TEST = np.array([0.2, 1.1, 2.2, 2.8], np.float32)[:, None]
FACTS = {
  'train': LABELS,
  'test': np.array([0, 1, 1, 1]),
  'said': np.array([0, 0, 1, 1]),
  'said_moved': np.array([[1, 1, 1, 0]]),
  'said_noise': np.array([[0, 0, 1, 1]]),
  'num_classes': 2,
}


def by_hand():
  laid = layer_codes.Laid(
    lambda v: v, TRAIN, TEST, [UNITS], [UNITS], {'k90': 1}
  )
  moved = np.array([[2.1, 0.9, 2.3, 1.2]], np.float32)[..., None]
  seen = layer_codes.Seen(
    {}, {}, {'a': moved}, {'a': TEST[None] + np.float32(0.45)}
  )
  return layer_codes.describe(laid, seen, 'a', FACTS)


def test_a_map_by_hand():
  found = {k: v[0] for k, v in by_hand().items()}
  # Units 0, 0, 1, 2, 2, 2, 3, 3: one code of unit 2 is of the other class.
  assert found['purity'] == pytest.approx(7 / 8)
  assert found['agreement'] == 1 and found['accuracy'] == 3 / 4
  # The one wrong image, said 0, lies on unit 1, which is of class 0.
  assert found['wrong_said'] == 1 and found['wrong_true'] == 0
  # Doubt of what is said: 0 for it, 0, 1/3 and 0 for the right ones.
  assert found['auroc_error'] == pytest.approx((2 * 0.5 + 0) / 3)
  assert found['settled'] == 1 and found['k90'] == 1


def test_shifts_by_hand():
  found = {k: v[0] for k, v in by_hand().items()}
  # Units 0, 1, 2, 3 go to 2, 1, 2, 1; by noise to 1, 2, 3, 3.
  assert found['shift0'] == pytest.approx((2 + 0 + 0 + 2) / 4)
  assert found['changed0'] == 1 / 2
  assert found['still0'] == pytest.approx(3 / 4)
  # Fooled: the first, second and last; units of class 1, 0, 0 for 1, 1, 0.
  assert found['adopted0'] == pytest.approx(2 / 3)
  # Doubt there 1/3, 1, 0; of the images as they were 0, 0, 1/3, 0.
  assert found['auroc0'] == pytest.approx((3.5 + 4 + 1.5) / 12)
  # By noise these lie on units of class 0, 1, 1; doubt of what is then said,
  # 0, 0, 1, is 0, 2/3, 0 there.
  assert found['adopted_noise0'] == pytest.approx(1 / 3)
  assert found['auroc_noise0'] == pytest.approx((1.5 + 4 + 1.5) / 12)
  # Codes of another class than the label: at 2, 1, 2.1 and 2.1.
  np.testing.assert_allclose(
    found['room'], np.array([1.8, 0.1, 0.1, 0.7]) / 0.45, rtol=1e-5
  )
  np.testing.assert_allclose(
    found['unit_room'], np.array([2, 0, 1, 2]) / 0.45, rtol=1e-5
  )


def test_partial_and_rank_correlation():
  rng = np.random.default_rng(0)
  z = rng.normal(size=60)
  x, y = z + rng.normal(size=60), z + rng.normal(size=60)
  r = lambda a, b: stats.spearmanr(a, b).statistic
  xy, xz, yz = r(x, y), r(x, z), r(y, z)
  want = (xy - xz * yz) / np.sqrt((1 - xz**2) * (1 - yz**2))
  assert statistics.partial_rank(x, y, z) == pytest.approx(want, abs=1e-12)
  assert np.isnan(statistics.partial_rank(x, y, np.exp(x)))
  found = statistics.rank_correlation(x, y, unit='units')
  assert found.value == pytest.approx(xy)
  assert found.low < xy < found.high < 1


def test_welch_covers_the_difference():
  rng = np.random.default_rng(0)
  hits = 0
  for _ in range(300):
    a, b = rng.normal(size=4), 1 + 3 * rng.normal(size=5)
    found = statistics.welch(a, b, unit='networks')
    hits += found.low < 1 < found.high
  assert 0.92 < hits / 300 < 0.98


def test_links_are_of_right_images_given_the_margin():
  rng = np.random.default_rng(0)
  distance, margin, other = rng.uniform(size=(3, 1, 40))
  right = np.arange(40)[None] >= 10
  # What the network has wrong would reverse the correlation.
  distance[~right], other[~right] = 9 * other[~right], -9 * other[~right]
  # What was not found ranks last, as the largest distance would.
  distance[0, 20] = np.inf
  room = np.stack([distance, -distance, other, 0 * other], axis=1)
  target = dict(distance=distance, right=right, margin=margin)
  found = som_codes.links(room, target)[0]
  assert found[0] == pytest.approx(1) and found[1] == pytest.approx(-1)
  distance[0, 20] = 99
  r = lambda *pair: stats.spearmanr(*(v[right] for v in pair)).statistic
  xy, xz, yz = r(distance, other), r(distance, margin), r(other, margin)
  want = (xy - xz * yz) / np.sqrt((1 - xz**2) * (1 - yz**2))
  assert found[2] == pytest.approx(want)
  assert np.isnan(found[3])


def test_codes_without_a_unit_count_for_no_class():
  laid = layer_codes.Laid(
    lambda v: v, TRAIN, np.full_like(TEST, np.nan), [UNITS], [UNITS], {}
  )
  placed = layer_codes.place(UNITS, laid, FACTS)
  assert np.all(placed.test == -1)
  assert np.all(placed.classes[placed.test] == -1)
  assert np.all(placed.doubt[placed.test] == 1)


def group(seed, accuracy, **layers):
  """Four networks of five layers, whose measures hardly vary."""
  rng = np.random.default_rng(seed)
  flat = dict.fromkeys(
    'k90 diversity_units dispersion_train_train agreement shift0 still0 '
    'link_unit_room nmi_kmeans nmi_bits'.split(),
    (1, 1, 1, 1, 1),
  )
  vary = lambda v: np.array(v) * (1 + 0.01 * rng.normal(size=(4, 5)))
  found = {name: vary(values) for name, values in (flat | layers).items()}
  return found | {'test_accuracy': accuracy + 0.01 * rng.normal(size=4)}


def test_claims_are_judged_as_written():
  rising = (0.1, 0.1, 0.2, 0.3, 0.4)
  groups = {
    'mlp': group(
      0,
      0.9,
      k90=(30, 5, 10, 20, 5),
      diversity_units=rising,
      dispersion_train_train=rising[::-1],
      agreement=rising,
      shift0=(1, 1, 2, 4, 4),
      link_unit_room=(0.3,) * 5,
      nmi_kmeans=rising,
    ),
    'mlp untrained': group(
      1, 0.1, k90=(30, 5, 20, 40, 5), link_unit_room=(0.1,) * 5
    ),
    'mlp-adversarial': group(2, 0.8, diversity_units=(0.2,) * 5),
  }
  config = toy('')
  said = lambda claim: som_codes.judge(config, groups)[claim]['verdict']
  assert said('telescope') == 'supported'
  assert said('telescope is learned') == 'not supported'
  for claim in (
    'codes become diverse',
    'classes gather',
    'units are for predictions',
    'attacks grow in deep layers',
    'crowded shallow codes are vulnerable',
    'robust networks have diverse codes',
  ):
    assert said(claim) == 'supported', claim
  # Random bits do not show what k-means does.
  assert said("not the map's doing") in ('undecided', 'not supported')
  groups['mlp']['k90'] = group(3, 0.9, k90=(30, 20, 25, 22, 5))['k90']
  assert said('telescope') == 'not supported'
  # Networks that are no better than untrained ones are not robust.
  groups['mlp-adversarial'] = group(2, 0.1, diversity_units=(0.2,) * 5)
  assert said('robust networks have diverse codes') == 'undecided'


# --- The experiment --------------------------------------------------------


def test_a_toy_run_is_judged_and_goes_on(tmp_path, capsys, monkeypatch):
  config = toy(tmp_path, conditions=('plain',), layers=('dense1',))
  summary = som_codes.run(config)
  said = capsys.readouterr().out
  assert 'telescope: ' in said and 'mlp untrained' in said
  assert list(summary['networks']) == ['mlp untrained', 'mlp']
  table = records.load_columns(tmp_path / 'results.npz')
  # 4 networks, 3 layers, 2 maps; vectors are the same under both poolings.
  assert len(table['layer']) == 4 * 2 * 3 * 2
  mean, most = (records.select(table, pooling=p) for p in ('mean', 'max'))
  np.testing.assert_array_equal(mean['nmi'], most['nmi'])
  # Of the input nothing depends on the network.
  given = records.select(table, layer='input')
  assert len(np.unique(given['k90'])) == 1
  fresh = summary['networks']['mlp untrained']['accuracy']['value']
  assert fresh < summary['networks']['mlp']['accuracy']['value'] - 0.2
  before = (tmp_path / 'results.npz').read_bytes()
  (tmp_path / 'results.npz').unlink()

  def no_training(*args, **kwargs):
    raise AssertionError('trained again')

  monkeypatch.setattr(train_populations, 'fit', no_training)
  som_codes.run(config)
  assert (tmp_path / 'results.npz').read_bytes() == before


@pytest.mark.slow
def test_convolutions_differ_under_poolings(tmp_path):
  config = toy(tmp_path, models=('cnn', 'mlp'), topology='hexagonal')
  summary = som_codes.run(config)
  rows = {
    pooling: groups['cnn'] for pooling, groups in summary['layers'].items()
  }
  assert 'cnn-adversarial' in summary['networks']
  names = [row['layer'] for row in rows['mean']]
  assert names == ['input', 'conv0', 'conv1', 'conv2', 'conv3', 'logits']
  value = lambda pooling, place: rows[pooling][place]['k90']['value']
  assert value('mean', 1) < value('max', 1)
  assert value('mean', 0) == value('max', 0)
  assert len(list((tmp_path / 'maps').iterdir())) == 12


def test_flags_that_do_not_fit_are_refused(tmp_path):
  refused = {
    'without plain': dict(conditions=('own',)),
    'snapshots are of': dict(steps=(7,)),
    'no hidden layers': dict(models=('mlp', 'linear')),
  }
  for match, more in refused.items():
    with pytest.raises(flags.FlagError, match=match):
      som_codes.run(toy(tmp_path, **more))
  assert not any(tmp_path.iterdir())
  with pytest.raises(flags.FlagError, match='dense0, dense1'):
    som_codes.run(toy(tmp_path / 'layers', layers=('conv0',), num_steps=1))


def test_wrong_labels_are_as_many_as_said():
  given = {
    name: condition.wrong
    for name, condition in populations.CONDITIONS.items()
    if condition.wrong
  }
  assert given == {'labels25': 0.25, 'labels50': 0.5}


def test_digits_are_drawn_anew_and_nothing_is_lost():
  sets = populations.load(toy('', num_train=0, num_test=0))
  assert [len(xs) for xs, _ in sets.values()] == [1400, 397]
  everything = np.concatenate([xs for xs, _ in sets.values()])
  assert len(np.unique(everything.reshape(1797, -1), axis=0)) == 1797
  few = populations.load(toy('', num_train=300, num_test=60))
  assert [len(xs) for xs, _ in few.values()] == [300, 60]
