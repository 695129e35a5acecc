"""Figures of the training experiments."""

import pathlib

import numpy as np

from dmm_jax import records
from dmm_jax import statistics
from dmm_jax.plots import canvas


def learning_curves(run_dir: pathlib.Path) -> list[pathlib.Path]:
  """Draws loss and accuracy against epochs; returns the figures' paths."""
  run_dir = pathlib.Path(run_dir)
  curves = records.load_columns(run_dir / 'results.npz')
  log = [row for row in records.read_steps(run_dir) if row['step']]
  num = records.read_json(run_dir / 'summary.json')['test_accuracy']['n']
  figure, axes = canvas.grid(1, 2, width=4)
  left, right = axes[0]
  left.plot(
    [row['step'] for row in log],
    [row['loss'] for row in log],
    **canvas.STYLES[0],
    markersize=3,
  )
  left.set(
    xscale='log',
    yscale='log',
    xlabel='step',
    ylabel='training loss',
  )
  epochs, accuracy = curves['epoch'], curves['test_accuracy']
  every = dict(markersize=3, markevery=max(len(epochs) // 20, 1))
  right.plot(
    epochs,
    100 * curves['train_accuracy'],
    **canvas.STYLES[1],
    **every,
    label='training set',
  )
  right.plot(
    epochs, 100 * accuracy, **canvas.STYLES[0], **every, label='test set, 95 %'
  )
  low, high = statistics.wilson(np.asarray(accuracy), num)
  right.fill_between(epochs, 100 * low, 100 * high, color='#0b3c5d', alpha=0.2)
  right.set(xlabel='epoch', ylabel='accuracy, %')
  right.legend(fontsize=8)
  return [canvas.save(figure, run_dir / 'figures' / 'learning_curves')]


def reconstructions(run_dir: pathlib.Path) -> list[pathlib.Path]:
  """Draws the error against epochs, and a sheet of images given back."""
  run_dir = pathlib.Path(run_dir)
  curves = records.load_columns(run_dir / 'results.npz')
  summary = records.read_json(run_dir / 'summary.json')
  figure, ((ax,),) = canvas.grid(1, 1, width=4.5)
  ax.plot(
    curves['epoch'],
    curves['test_error'],
    **canvas.STYLES[0],
    markersize=3,
    label='auto-encoder, test set',
  )
  ax.axhline(
    summary['pca_error']['value'], color='0.4', linestyle='--', label='PCA'
  )
  ax.set(xlabel='epoch', ylabel='squared error of a pixel', yscale='log')
  ax.legend(fontsize=8)
  pictures = records.load_columns(run_dir / 'images.npz')
  return [
    canvas.save(figure, run_dir / 'figures' / 'error'),
    canvas.save(_sheet(pictures), run_dir / 'figures' / 'reconstructions'),
  ]


def _sheet(pictures):
  """Rows of images: as they are, and as each code gives them back."""
  names = {'image': 'image', 'auto_encoder': 'auto-encoder', 'pca': 'PCA'}
  columns = len(pictures['image'])
  figure, axes = canvas.grid(len(names), columns, width=0.9, height=1.0)
  for row, (name, label) in zip(axes, names.items(), strict=True):
    for ax, image in zip(row, pictures[name], strict=True):
      ax.imshow(np.clip(image, 0, 1).squeeze(), cmap='gray', vmin=0, vmax=1)
      ax.set(xticks=[], yticks=[])
    row[0].set_ylabel(label, fontsize=8)
  return figure
