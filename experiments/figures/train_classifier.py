"""Figures of `experiments.train_classifier`."""

from matplotlib import ticker
import numpy as np

from dmm_jax import statistics
from dmm_jax.plots import canvas


def draw(report, tables):
  """Draws the loss against steps, and accuracies against epochs."""
  rows = tables['results']
  figure, ((left, right),) = canvas.grid(1, 2, width=4)
  left.plot(rows['step'][1:], rows['loss'][1:], ms=3, **canvas.STYLES[0])
  left.set(xscale='log', yscale='log', xlabel='step', ylabel='training loss')
  # Plain numbers, within one decade too.
  left.yaxis.set_major_formatter(ticker.StrMethodFormatter('{x:g}'))
  left.yaxis.set_minor_formatter(ticker.LogFormatter())
  ends = np.isfinite(rows['test_accuracy'])
  epochs, test = rows['epoch'][ends], rows['test_accuracy'][ends]
  every = dict(ms=3, markevery=max(len(epochs) // 20, 1))
  for values, look, label in (
    (rows['train_accuracy'][ends], canvas.STYLES[1], 'training images'),
    (test, canvas.STYLES[0], 'test images, 95 %'),
  ):
    right.plot(epochs, 100 * values, **look, **every, label=label)
  low, high = statistics.wilson(test, rows['num_test'][0])
  color = canvas.STYLES[0]['color']
  right.fill_between(epochs, 100 * low, 100 * high, color=color, alpha=0.2)
  guess = 100 * rows['guess'][0]
  right.axhline(guess, color='0.4', linestyle=':', label='commonest class')
  right.set(xlabel='epoch', ylabel='classified correctly, %')
  right.xaxis.set_major_locator(ticker.MaxNLocator(integer=True))
  canvas.legend(figure, right, ncols=3)
  caption = (
    f'{report.answer} Left: loss in training, the mean over the steps since '
    'the point before. Right: images classified correctly after each epoch, '
    'of equally many training and test images; band: 95 % over test images.'
  )
  return {'learning_curves': (figure, caption)}
