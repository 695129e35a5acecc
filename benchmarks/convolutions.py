"""What the order of axes of convolutions costs inside the searches on CPUs.

  python -m benchmarks.convolutions

`boundary.measure` of the same images by `_xla_cpu.channels_last_gradients` and
without it, by turns in one run: seconds, their ratio, and by how much distances
differ.
Untrained networks of the customary sizes: times hardly depend on the weights.

Seen on 2 cores beside other work, `fast`, l2, 64 images: 1.5 times as fast with
the small CNN, 2.0 with the customary one for CIFAR10, 3.7 with a narrow
ResNet-18; distances equal to 0.1 %, their medians to 1e-5. One gradient inside
a loop takes 3.6 times as long without, that of the ResNet 10 times.
"""

from unittest import mock

from absl import app
from absl import flags
import jax
import numpy as np

from benchmarks import printing
from benchmarks import timing
from dmm_jax import _xla_cpu
from dmm_jax import boundary
from dmm_jax import models

_IMAGES = flags.DEFINE_integer('images', 64, 'Of each network.')
_METHOD = flags.DEFINE_string('method', 'fast', 'Search.')
_GRADIENTS = flags.DEFINE_integer('gradients', 40, 'Of a search.')
_REPEATS = flags.DEFINE_integer('repeats', 3, 'Timings of each.')
NETWORKS = {
  'cnn, 28 x 28 x 1': (models.CNN(), (28, 28, 1)),
  'cnn, 32 x 32 x 3': (models.CNN((32, 64, 64), (64,)), (32, 32, 3)),
  'resnet18 / 4, 32 x 32 x 3': (models.ResNet18(width=16), (32, 32, 3)),
}


def compare(module, shape):
  """Best seconds and distances of both sides: ordered, and plain."""
  xs = np.random.default_rng(0).random((_IMAGES.value, *shape), np.float32)
  variables = module.init({'params': jax.random.key(0)}, xs[0])
  logits_fn = lambda x: module.apply(variables, x)[0]
  found = {}

  def side(name, switch):
    def measure():
      # The network is traced at each call: each side is a program of its own.
      with mock.patch.object(_xla_cpu, 'channels_last_gradients', switch):
        found[name] = boundary.measure(
          logits_fn,
          xs,
          norm=2,
          bounds=(0.0, 1.0),
          method=_METHOD.value,
          max_gradients=_GRADIENTS.value,
        ).distance
      return found[name]

    return measure

  ordered = side('ordered', _xla_cpu.channels_last_gradients)
  plain = side('plain', lambda fn: fn)
  sides = {'ordered': ordered, 'plain': plain}
  return timing.best_times(sides, _REPEATS.value), found


def main(argv):
  del argv
  rows = []
  for name, task in NETWORKS.items():
    best, found = compare(*task)
    ratio = found['ordered'] / found['plain']
    rows.append(
      [
        name,
        f'{best["ordered"]:.3g}',
        f'{best["plain"]:.3g}',
        f'{best["plain"] / best["ordered"]:.2f}',
        f'{np.median(ratio):.5f} [{ratio.min():.4f}, {ratio.max():.4f}]',
      ]
    )
  header = ['network', 'seconds', 'without', 'times faster', 'distances, range']
  printing.print_table(header, rows)


if __name__ == '__main__':
  app.run(main)
