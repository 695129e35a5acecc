"""Figures of what layers are, drawn from made-up tables."""

import figures
import numpy as np
import pytest
from scipy import stats

from experiments.figures import som_codes
from experiments.lib import runner

MODELS, NUM = ('cnn', 'cnn_constant'), 3
LAYERS = ['conv0', 'conv1', 'conv2']
TEXTS = ['mean, trained', 'mean, untrained', 'max, trained', 'max, untrained']


@pytest.fixture(scope='module')
def drawn():
  rng = np.random.default_rng(0)
  rows = [('', '', 0, '', 'input', 50, 30, np.nan, np.nan, np.nan)]
  for model in MODELS:
    for labels in ('right', 'untrained', 'random'):
      for network in range(NUM):
        for pooling in ('mean', 'max'):
          for i, layer in enumerate(LAYERS):
            of = model, labels, network, pooling, layer, 20 * (i + 1)
            rows.append((*of, rng.uniform(5, 20), *rng.uniform(size=3)))
  names = 'model labels network pooling layer ceiling k90 cosine unseen nmi'
  results = {
    name: np.array(column)
    for name, column in zip(names.split(), zip(*rows, strict=True), strict=True)
  }
  maps = {
    'model': np.repeat(MODELS, 6),
    'pooling': np.tile(np.repeat(['mean', 'max'], 3), 2),
    'layer': np.tile(LAYERS, 4),
    'u_matrix': rng.uniform(size=(12, 2, 2)),
    'hits': rng.integers(0, 9, (12, 2, 2)),
    'class': rng.integers(-1, 10, (12, 2, 2)),
  }
  made = som_codes.draw(
    runner.Report('So far.', [], []), {'results': results, 'maps': maps}
  )
  pictures = {name: figure for name, (figure, _) in made.items()}
  captions = {name: caption for name, (_, caption) in made.items()}
  return results, maps, pictures, captions


def values_of(results, model, text, column):
  pooling, when = text.split(', ')
  rows = (results['model'] == model) & (results['pooling'] == pooling)
  rows &= results['labels'] == ('right' if when == 'trained' else when)
  return results[column][rows].reshape(NUM, -1)


def interval(values):
  mean = values.mean(0)
  half = stats.t.ppf(0.975, NUM - 1) * values.std(0, ddof=1) / np.sqrt(NUM)
  return mean, mean - half, mean + half


def test_dimensions_stand_under_their_ceiling(drawn):
  results, _, pictures, captions = drawn
  axes = np.reshape(pictures['telescope'].axes, (2, 2))
  for (top, bottom), model in zip(axes.T, MODELS, strict=True):
    assert top.get_title() == model
    for number, text in enumerate(TEXTS):
      mean, low, high = interval(values_of(results, model, text, 'k90'))
      figures.assert_curve(top, text, range(4), [30, *mean])
      area = figures.areas(top)[number]
      np.testing.assert_allclose(area[1:, 1:], [low, high])
      mean, *_ = interval(
        values_of(results, model, text, 'k90')
        / values_of(results, model, text, 'ceiling')
      )
      figures.assert_curve(bottom, text, [1, 2, 3], mean)
    figures.assert_curve(top, 'ceiling', range(4), [50, 20, 40, 60])
    assert figures.others(bottom)[0][1].tolist() == [0.6, 0.6]
    names = [v.get_text() for v in top.get_xticklabels()]
    assert names == ['input', *LAYERS] and bottom.get_ylim() == (0, 1)
  assert captions['telescope'].startswith('So far. Above, principal')
  figures.assert_looks('som_codes', pictures)


def test_trained_maps_stand_beside_untrained_ones(drawn):
  results, _, pictures, _ = drawn
  axes = np.reshape(pictures['maps_by_layer'].axes, (2, 3))
  for line, model in zip(axes, MODELS, strict=True):
    for ax, column in zip(line, ('cosine', 'unseen', 'nmi'), strict=True):
      for text, area in zip(TEXTS, figures.areas(ax), strict=True):
        mean, low, high = interval(values_of(results, model, text, column))
        figures.assert_curve(ax, text, range(3), mean)
        np.testing.assert_allclose(area, [range(3), low, high])


def test_maps_of_all_layers_have_one_scale(drawn):
  _, maps, pictures, captions = drawn
  for first, pooling in ((0, 'mean'), (3, 'max')):
    figure = pictures[f'maps_{pooling}']
    shown = [ax for ax in figure.axes if ax.images]
    for line, column in zip(
      np.reshape(shown[:9], (3, 3)), ('u_matrix', 'hits', 'class'), strict=True
    ):
      scales = {ax.images[0].get_clim() for ax in line}
      assert len(scales) == 1
      for i, ax in enumerate(line):
        value = maps[column][first + i].astype(float)
        if column == 'class':
          value[value < 0] = np.nan
          texts = {t.get_position()[::-1]: t.get_text() for t in ax.texts}
          known = np.argwhere(np.isfinite(value))
          assert texts == {(i, j): f'{value[i, j]:.0f}' for i, j in known}
        got = np.ma.filled(ax.images[0].get_array().astype(float), np.nan)
        np.testing.assert_array_equal(got, value)
    assert [ax.get_title() for ax in shown[:3]] == LAYERS
    assert f'one cnn network, {pooling} over' in captions[f'maps_{pooling}']


def test_of_many_layers_some_are_named_and_mapped():
  _, ax = som_codes.canvas.grid(1, 1)
  som_codes.layer_axis(ax[0, 0], [f'l{i}' for i in range(30)])
  names = [v.get_text() for v in ax[0, 0].get_xticklabels()]
  assert names == [f'l{i}' for i in range(0, 30, 3)]
