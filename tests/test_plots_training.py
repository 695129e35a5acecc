"""Figures of what is seen along training, drawn from made-up runs."""

import figures
import numpy as np
from scipy import stats

from dmm_jax import plots
from dmm_jax import records

# --- Training --------------------------------------------------------------


def test_learning_curves(tmp_path):
  records.log(tmp_path, step=0, loss=9.0)
  for step, loss in ((1, 2.5), (3, 0.5), (9, 0.25)):
    records.log(tmp_path, step=step, loss=loss)
  epochs = np.arange(1, 46)
  test, train = np.linspace(0.2, 0.9, 45), np.linspace(0.3, 1, 45)
  found = figures.drawn(
    plots.learning_curves,
    tmp_path,
    {'test_accuracy': {'n': 50}},
    results=dict(epoch=epochs, train_accuracy=train, test_accuracy=test),
  )
  left, right = found['learning_curves'].axes
  (line,) = figures.others(left)
  np.testing.assert_allclose(line, [[1, 3, 9], [2.5, 0.5, 0.25]])
  figures.assert_curve(right, 'training set', epochs, 100 * train)
  figures.assert_curve(right, 'test set, 95 %', epochs, 100 * test)
  (area,) = figures.areas(right)
  for number in (0, 20, 44):
    k = round(test[number] * 50)
    if abs(k - test[number] * 50) < 1e-9:
      wanted = stats.binomtest(k, 50).proportion_ci(method='wilson')
      np.testing.assert_allclose(area[1:, number], 100 * np.array(wanted))
  figures.assert_looks('learning_curves', found)
  few = dict(epoch=[1, 2], train_accuracy=[0.1, 0.2], test_accuracy=[0.3, 0.4])
  found = figures.drawn(
    plots.learning_curves, tmp_path, {'test_accuracy': {'n': 5}}, results=few
  )
  every = [v.get_markevery() for v in found['learning_curves'].axes[1].lines]
  assert every == [1, 1]


def test_reconstructions_stand_below_their_images(tmp_path):
  rng = np.random.default_rng(0)
  pictures = {
    name: rng.uniform(-0.2, 1.2, (2, 3, 4, 1)).astype(np.float32)
    for name in ('image', 'auto_encoder', 'pca')
  }
  found = figures.drawn(
    plots.reconstructions,
    tmp_path,
    {'pca_error': {'value': 0.07}},
    results=dict(epoch=[1, 2, 3], test_error=[0.5, 0.1, 0.05]),
    images=pictures,
  )
  (ax,) = found['error'].axes
  figures.assert_curve(
    ax, 'auto-encoder, test set', [1, 2, 3], [0.5, 0.1, 0.05]
  )
  assert figures.curves(ax)['PCA'][1].tolist() == [0.07, 0.07]
  panels = np.reshape(found['reconstructions'].axes, (3, 2))
  for line, images in zip(panels, pictures.values(), strict=True):
    for panel, pixels in zip(line, images, strict=True):
      shown = panel.images[0].get_array()
      np.testing.assert_array_equal(shown, np.clip(pixels[..., 0], 0, 1))
  figures.assert_looks('reconstructions', found)
