"""Figures of what is seen along training, drawn from made-up tables."""

import figures
import numpy as np
from scipy import stats

from dmm_jax import statistics
from experiments.figures import train_autoencoder
from experiments.figures import train_classifier
from experiments.lib import runner
from experiments.lib import tables


def made(epochs, num_test):
  """A report, and rows of three pauses before the first epoch's end."""
  early = np.full(4, np.nan)
  test, train = np.linspace(0.2, 0.9, epochs), np.linspace(0.3, 1, epochs)
  ends = np.arange(1, epochs + 1)
  num = epochs + 4
  rows = {
    'step': np.concatenate([[0, 1, 3, 5], 9 * ends]),
    'epoch': np.concatenate([np.zeros(4, int), ends]),
    'loss': np.concatenate([[np.nan, 2.5, 0.5, 0.25], 0.2 / ends]),
    'train_accuracy': np.concatenate([early, train]),
    'test_accuracy': np.concatenate([early, test]),
    'guess': np.full(num, 0.11),
    'num_test': np.full(num, num_test),
  }
  return runner.Report('So far.', [], []), {'results': rows}


def test_learning_curves():
  report, found = made(45, 50)
  ((figure, caption),) = train_classifier.draw(report, found).values()
  assert caption.startswith('So far. Left: ')
  rows, (left, right) = found['results'], figure.axes
  (line,) = figures.others(left)
  np.testing.assert_allclose(line, [rows['step'][1:], rows['loss'][1:]])
  epochs = np.arange(1, 46)
  test, train = (rows[f'{v}_accuracy'][4:] for v in ('test', 'train'))
  figures.assert_curve(right, 'training images', epochs, 100 * train)
  figures.assert_curve(right, 'test images, 95 %', epochs, 100 * test)
  assert figures.curves(right)['commonest class'][1].tolist() == [11, 11]
  (area,) = figures.areas(right)
  for number in (0, 20, 44):
    k = round(test[number] * 50)
    if abs(k - test[number] * 50) < 1e-9:
      wanted = stats.binomtest(k, 50).proportion_ci(method='wilson')
      np.testing.assert_allclose(area[1:, number], 100 * np.array(wanted))
  figures.assert_looks('train_classifier', {'learning_curves': figure})
  ((figure, _),) = train_classifier.draw(*made(2, 5)).values()
  assert [v.get_markevery() for v in figure.axes[1].lines[:2]] == [1, 1]


def test_reconstructions_stand_below_their_images():
  rng = np.random.default_rng(0)
  pictures = {
    name: rng.uniform(-0.2, 1.2, (2, 3, 4, 1)).astype(np.float32)
    for name in ('image', 'auto_encoder', 'pca')
  }
  rows = dict(epoch=[0, 1, 2, 3], test_error=[np.nan, 0.5, 0.1, 0.05])
  rows = {name: np.array(column) for name, column in rows.items()}
  columns = [tables.Column(name, '', '') for name in ('code', 'squared error')]
  estimate = statistics.Estimate(0.07, 0.06, 0.09, 2, 'images')
  errors = tables.Table('', columns, [['own', None], ['PCA', estimate]])
  network = tables.Table('', [tables.Column('numbers a code', '', '')], [[7]])
  drawn = train_autoencoder.draw(
    runner.Report('So far.', [], [errors, network]),
    {'results': rows, 'images': pictures},
  )
  found = {name: figure for name, (figure, _) in drawn.items()}
  assert drawn['error'][1].startswith('So far. ')
  assert 'The first 2 test images' in drawn['reconstructions'][1]
  assert 'from 7 numbers' in drawn['reconstructions'][1]
  (ax,) = found['error'].axes
  figures.assert_curve(ax, 'auto-encoder', [1, 2, 3], [0.5, 0.1, 0.05])
  assert figures.curves(ax)['PCA'][1].tolist() == [0.07, 0.07]
  panels = np.reshape(found['reconstructions'].axes, (3, 2))
  for line, images in zip(panels, pictures.values(), strict=True):
    for panel, pixels in zip(line, images, strict=True):
      shown = panel.images[0]
      np.testing.assert_array_equal(shown.get_array(), pixels[..., 0])
      assert shown.get_clim() == (0, 1)
  figures.assert_looks('train_autoencoder', found)
