"""Figures of `experiments.train_autoencoder`."""

from matplotlib import ticker
import numpy as np

from dmm_jax.plots import canvas
from experiments.lib import tables as tables_lib

CODES = {'image': 'image', 'auto_encoder': 'auto-encoder', 'pca': 'PCA'}


def draw(report, tables):
  """Draws the error against epochs, and a sheet of images returned."""
  return {
    'error': error(report, tables['results']),
    'reconstructions': reconstructions(report, tables['images']),
  }


def error(report, rows):
  """The error of test images along training, and that of PCA."""
  ends = np.isfinite(rows['test_error'])
  figure, ((ax,),) = canvas.grid(1, 1, width=4.5)
  ax.plot(
    rows['epoch'][ends],
    rows['test_error'][ends],
    **canvas.STYLES[0],
    ms=3,
    label='auto-encoder',
  )
  pca = tables_lib.to_dicts(report.tables[0])[1]['squared error'].value
  ax.axhline(pca, color='0.4', linestyle='--', label='PCA')
  canvas.log_values(ax)
  ax.set(xlabel='epoch', ylabel='squared error of a pixel')
  ax.xaxis.set_major_locator(ticker.MaxNLocator(integer=True))
  canvas.legend(figure, ax, ncols=2)
  caption = f'{report.answer} Mean over all test images after each epoch.'
  return figure, caption


def reconstructions(report, pictures):
  """Rows of images: as they are, and as each code returns them."""
  num = len(pictures['image'])
  figure, axes = canvas.grid(len(CODES), num, width=0.9, height=1.0)
  for row, (name, label) in zip(axes, CODES.items(), strict=True):
    for ax, pixels in zip(row, pictures[name], strict=True):
      canvas.image(ax, pixels)
      ax.set(xticks=[], yticks=[])
    row[0].set_ylabel(label, fontsize=8)
  latent = tables_lib.to_dicts(report.tables[1])[0]['numbers a code']
  caption = (
    f'The first {num} test images, and what the auto-encoder and PCA return '
    f'of each from {latent} numbers.'
  )
  return figure, caption
