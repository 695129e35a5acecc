"""Figures of what attacks do in layers, drawn from made-up tables."""

import figures
from matplotlib import text as text_lib
import numpy as np
import pytest
from scipy import stats

from experiments.figures import attack_codes
from experiments.lib import runner

LAYERS, NUM = ['conv0', 'conv1'], 4
COLUMNS = (
  'shift noise_shift hit noise_hit auroc noise_auroc crowding crowding_start'
).split()


@pytest.fixture(scope='module')
def drawn():
  rng, rows = np.random.default_rng(0), []
  for training in ('plain', 'adversarial'):
    for network in range(NUM):
      for kind in attack_codes.KINDS:
        for layer in LAYERS:
          of = training, network, kind, layer
          rows.append((*of, *rng.uniform(0.2, 0.9, len(COLUMNS))))
  names = ['training', 'network', 'kind', 'layer', *COLUMNS]
  results = {
    k: np.array(v) for k, v in zip(names, zip(*rows, strict=True), strict=True)
  }
  results['hit'][0] = np.nan  # No image was fooled.
  ways = {
    'layer': np.array(LAYERS),
    'class': rng.integers(-1, 10, (2, 3, 3)),
    'before': np.array([[0, 4], [8, 2]]),
    'after': np.array([[1, 4], [3, 6]]),
    'class_before': np.array([[5, 6], [5, 6]]),
    'class_after': np.array([[7, 8], [7, 8]]),
  }
  images = lambda: rng.uniform(size=(8, 3, 3, 1))
  units = {
    'network': np.repeat([0, 1], 4),
    'layer': np.tile(np.repeat(LAYERS, 2), 2),
    'mean': images(),
    'nearest': images(),
    'synthesized': images(),
    'aimed': np.array([True, False, False, True] * 2),
  }
  tables = {'results': results, 'trajectories': ways, 'features': units}
  made = attack_codes.draw(runner.Report('So far.', [], []), tables)
  pictures = {name: figure for name, (figure, _) in made.items()}
  captions = {name: caption for name, (_, caption) in made.items()}
  return tables, pictures, captions


def values_of(results, kind, column):
  rows = (results['training'] == 'plain') & (results['kind'] == kind)
  return results[column][rows].reshape(NUM, 2)


def interval(values):
  kept = values[np.isfinite(values)]
  half = stats.t.ppf(0.975, len(kept) - 1) * stats.sem(kept)
  return kept.mean(), kept.mean() - half, kept.mean() + half


def test_attacks_stand_beside_noise(drawn):
  tables, pictures, captions = drawn
  results = tables['results']
  shift, hit, tell = pictures['attacks'].axes
  for number, kind in enumerate(attack_codes.KINDS):
    logs = np.log(
      values_of(results, kind, 'shift')
      / values_of(results, kind, 'noise_shift')
    )
    wanted = np.exp([interval(v) for v in logs.T]).T
    figures.assert_curve(shift, kind, [0, 1], wanted[0])
    np.testing.assert_allclose(figures.areas(shift)[number][1:], wanted[1:])
    for ax, column in ((hit, 'hit'), (tell, 'auroc')):
      for i, (prefix, text) in enumerate((('', ''), ('noise_', ': noise'))):
        values = values_of(results, kind, prefix + column)
        wanted = np.array([interval(v) for v in values.T]).T
        figures.assert_curve(ax, kind + text, [0, 1], wanted[0])
        area = figures.areas(ax)[2 * number + i]
        np.testing.assert_allclose(area[1:], wanted[1:])
  assert [v[1].tolist() for v in figures.others(shift)] == [[1, 1]]
  assert captions['attacks'].startswith('So far. Left, how far attacks')
  assert '(AUROC, the area under the' in captions['attacks']
  figures.assert_looks('attack_codes', pictures)


def test_crowding_stands_beside_the_layer_before_training(drawn):
  tables, pictures, _ = drawn
  (ax,) = pictures['crowding'].axes
  for column, label in (
    ('crowding', 'trained layer'),
    ('crowding_start', 'the layer before training'),
  ):
    values = values_of(tables['results'], 'ascent', column)
    figures.assert_curve(ax, label, [0, 1], values.mean(0))
  assert [v[1].tolist() for v in figures.others(ax)] == [[0, 0]]


def test_arrows_lead_from_units_to_units_on_one_scale(drawn):
  tables, pictures, captions = drawn
  ways, axes = tables['trajectories'], pictures['trajectories'].axes[:2]
  assert len({ax.images[0].get_clim() for ax in axes}) == 1
  for place, ax in enumerate(axes):
    assert ax.get_title() == LAYERS[place]
    arrows = [t for t in ax.texts if isinstance(t, text_lib.Annotation)]
    others = [t for t in ax.texts if t not in arrows]
    for number, arrow in enumerate(arrows):
      ends = [
        divmod(int(ways[v][place, number]), 3) for v in ('before', 'after')
      ]
      assert arrow.get_position() == ends[0][::-1]
      assert arrow.xy == ends[1][::-1]
      pair = others[2 * number : 2 * number + 2]
      assert [t.get_position() for t in pair] == [e[::-1] for e in ends]
      said = [
        str(ways[f'class_{v}'][place, number]) for v in ('before', 'after')
      ]
      assert [t.get_text() for t in pair] == said
    assert len(arrows) == 2
  assert 'ways of 2 images' in captions['trajectories']


def test_units_of_the_first_network_show_their_inputs(drawn):
  tables, pictures, _ = drawn
  units, axes = (
    tables['features'],
    np.reshape(pictures['features'].axes, (6, 2)),
  )
  for i in range(2):
    for j, kind in enumerate(('mean', 'nearest', 'synthesized')):
      for k, ax in enumerate(axes[3 * i + j]):
        shown = ax.images[0].get_array()
        np.testing.assert_array_equal(shown, units[kind][2 * i + k][..., 0])
    widths = [ax.spines['left'].get_linewidth() for ax in axes[3 * i + 2]]
    assert (np.array(widths) > 2).tolist() == units['aimed'][2 * i :][
      :2
    ].tolist()


def test_nothing_is_drawn_of_no_fooled_image(drawn):
  tables, _, _ = drawn
  ways = {
    k: v[:, :0] if k != 'layer' else v
    for k, v in tables['trajectories'].items()
  }
  found = attack_codes.draw(
    runner.Report('', [], []), tables | {'trajectories': ways}
  )
  assert [*found] == ['attacks', 'crowding', 'features']
