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
  log = [row for row in records.read_log(run_dir) if row['step']]
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
    ylabel='training loss, mean since the last point',
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
