"""Figures of what networks share and of codes, of made-up runs."""

import figures
import matplotlib.pyplot as plt
import numpy as np
import pytest

from dmm_jax import plots
from dmm_jax.plots import canvas
from dmm_jax.plots import codes

# --- Codes -----------------------------------------------------------------

MEASURES = 'k90 diversity_units nmi dispersion_train_train link_unit_room'
SHIFTED = 'ratio adopted auroc adopted_noise auroc_noise'
ATTACKS = ['linf', 'l2', 'noise']


def layer_rows(values, names):
  return [
    {
      'layer': name,
      **values.entries(MEASURES),
      **{k: [values.entry() for _ in ATTACKS] for k in SHIFTED.split()},
    }
    for name in names
  ]


def layer_maps(name, rows=2, columns=3, images=20):
  rng = np.random.default_rng(sum(map(ord, name)))
  counts = rng.integers(0, 5, (1, rows, columns, 4))
  counts[0, 1, 2] = 0
  said = rng.integers(0, 4, (1, images))
  moved = np.repeat(said[:, None], 3, axis=1)
  moved[0, 1, 2:18] = (said[0, 2:18] + 1) % 4  # The last attack but noise.
  at = lambda *n: np.stack([rng.integers(0, v, n) for v in (rows, columns)], -1)
  return {
    'layer': np.array([name]),
    'counts': counts,
    'u_matrix': rng.uniform(size=(1, rows, columns)),
    'said': said,
    'said_moved': moved,
    'start': at(1, images),
    'moved': at(1, 3, images),
  }


@pytest.fixture(scope='module')
def of_codes(tmp_path_factory):
  rng = np.random.default_rng(0)
  values = figures.Values()
  names = ['conv', 'dense']
  groups = lambda: {
    'mlp untrained': layer_rows(values, names),
    'mlp': layer_rows(values, names),
    'mlp step 10': layer_rows(values, names),
    'mlp shuffled': layer_rows(values, names),
    'cnn': layer_rows(values, ['other', 'layers']),
  }
  summary = {
    'dataset': 'digits',
    'attacks': ATTACKS,
    'layers': {'mean': groups(), 'max': groups()},
  }
  # Within a decade the axis has numbers of its own; here it has not.
  summary['layers']['max']['mlp'][0]['k90']['interval'] = [1e-4, 1.0]
  maps = {
    f'maps__{pooling}-{i}': layer_maps(f'{pooling} {i}')
    for pooling in ('mean', 'max')
    for i in range(2)
  }
  pictures = lambda num: {
    'unit': np.arange(num),
    **{
      k: rng.uniform(size=(num, 3, 2, 1))
      for k in ('mean', 'nearest', 'synthesized')
    },
    'reencoded': np.arange(num) % 2 == 1,
  }
  features = {'features__a': pictures(3), 'features__b': pictures(2)}
  run_dir = tmp_path_factory.mktemp('codes')
  found = figures.drawn(plots.som_codes, run_dir, summary, **maps, **features)
  return summary, maps, features, found


def test_measures_of_layers_stand_beside_controls(of_codes):
  summary, *_, found = of_codes
  names = 'telescope shifts maps_mean trajectories_mean maps_max '
  assert [*found] == (names + 'trajectories_max features').split()
  panels = np.reshape(found['telescope'].axes, (2, 4))
  for line, groups in zip(panels, summary['layers'].values(), strict=True):
    for ax, measure in zip(line, MEASURES.split(), strict=False):
      # Not a snapshot, and not another architecture; the trained ones first.
      shown = ['mlp', 'mlp untrained', 'mlp shuffled']
      assert [*figures.curves(ax)] == shown
      for name in shown:
        entries = [row[measure] for row in groups[name]]
        figures.assert_band(ax, name, [0, 1], entries)
  kinds = [type(ax.yaxis.get_minor_locator()).__name__ for ax in panels[:, 0]]
  assert kinds == ['NullLocator', 'LogLocator']
  figures.assert_looks('codes', found)


def test_shifts_stand_beside_noise(of_codes):
  summary, *_, found = of_codes
  shift, adopted, detect, link = found['shifts'].axes
  groups = summary['layers']['mean']
  rows = groups['mlp']
  for ax, kind in ((shift, 'ratio'), (adopted, 'adopted'), (detect, 'auroc')):
    for number, attack in enumerate(ATTACKS):
      figures.assert_band(ax, attack, [0, 1], [r[kind][number] for r in rows])
    noise = figures.others(ax)
    level = [v[1, 0] for v in noise if v[0].tolist() != [0, 1] or ax is shift]
    if ax is not shift:
      for number in range(3):
        wanted = [r[f'{kind}_noise'][number]['value'] for r in rows]
        np.testing.assert_allclose(noise[number], [[0, 1], wanted])
      level = [v[1, 0] for v in noise[3:]]
    assert level == {shift: [1], adopted: [], detect: [0.5]}[ax]
  for name, label in (('mlp', 'trained'), ('mlp untrained', 'untrained layer')):
    entries = [row['link_unit_room'] for row in groups[name]]
    figures.assert_band(link, label, [0, 1], entries)
  assert [v[1].tolist() for v in figures.others(link)] == [[0, 0]]


def test_maps_show_neighbours_hits_and_classes(of_codes):
  _, maps, _, found = of_codes
  for pooling in ('mean', 'max'):
    panels = np.reshape(found[f'maps_{pooling}'].axes, (3, 2))
    for number, line in enumerate(panels.T):
      layer = {k: v[0] for k, v in maps[f'maps__{pooling}-{number}'].items()}
      hits = layer['counts'].sum(-1)
      commonest = np.where(hits > 0, layer['counts'].argmax(-1), np.nan)
      for ax, wanted in zip(
        line, (layer['u_matrix'], hits, commonest), strict=False
      ):
        shown = np.ma.filled(ax.images[0].get_array().astype(float), np.nan)
        np.testing.assert_array_equal(shown, wanted)
      assert line[0].get_title() == layer['layer']
      said = {t.get_position()[::-1]: t.get_text() for t in line[2].texts}
      assert said == {
        (i, j): f'{v:.0f}'
        for (i, j), v in np.ndenumerate(commonest)
        if np.isfinite(v)
      }


def test_arrows_lead_from_an_images_unit_to_that_after_the_attack(of_codes):
  _, maps, _, found = of_codes
  axes = found['trajectories_mean'].axes
  for number, ax in enumerate(axes):
    layer = {k: v[0] for k, v in maps[f'maps__mean-{number}'].items()}
    first = maps['maps__mean-0']
    fooled = np.flatnonzero(first['said_moved'][0, 1] != first['said'][0])[:12]
    assert fooled.tolist() == [*range(2, 14)]
    arrows = [t for t in ax.texts if isinstance(t, plt.Annotation)]
    others = [t for t in ax.texts if t not in arrows]
    for arrow, image in zip(arrows, fooled, strict=True):
      assert arrow.xy == tuple(layer['moved'][1][image][::-1])
      assert arrow.get_position() == tuple(layer['start'][image][::-1])
    for text, image in zip(others[::2], fooled, strict=True):
      assert text.get_position() == tuple(layer['start'][image][::-1])
      assert text.get_text() == str(layer['said'][image])
    for text, image in zip(others[1::2], fooled, strict=True):
      assert text.get_position() == tuple(layer['moved'][1][image][::-1])
      assert text.get_text() == str(layer['said_moved'][1][image])
    counts = layer['counts']
    wanted = np.where(counts.sum(-1) > 0, counts.argmax(-1), np.nan)
    shown = np.ma.filled(ax.images[0].get_array().astype(float), np.nan)
    np.testing.assert_array_equal(shown, wanted)
  assert (
    'of 12 images before' in found['trajectories_mean']._suptitle.get_text()
  )


def test_features_of_units(of_codes):
  *_, features, found = of_codes
  panels = np.reshape(found['features'].axes, (6, 3))
  for number, table in enumerate(features.values()):
    for row, kind in enumerate(('mean', 'nearest', 'synthesized')):
      line = panels[3 * number + row]
      for ax, pixels in zip(line, table[kind], strict=False):
        np.testing.assert_array_equal(ax.images[0].get_array(), pixels[..., 0])
      assert not any(ax.images for ax in line[len(table['unit']) :])
    said = [ax.get_xlabel() for ax in panels[3 * number + 2]]
    assert said == ['another', 'its unit', ['another', ''][number]]


def test_many_layers_have_small_upright_names():
  _, ((few, many),) = canvas.grid(1, 2)
  for ax, num, look in ((few, 8, (45, 7)), (many, 9, (90, 5))):
    codes._name_layers(ax, [f'l{i}' for i in range(num)])
    texts = ax.get_xticklabels()
    assert [t.get_text() for t in texts] == [f'l{i}' for i in range(num)]
    assert {(t.get_rotation(), t.get_fontsize()) for t in texts} == {look}
  with pytest.raises(ValueError, match='no trained network'):
    codes._trained({'mlp untrained': []})
