"""What the largest inputs take: time and memory at the shape of ImageNet.

  python -m benchmarks.sizes
  python -m benchmarks.sizes --methods=portfolio --gradients=200

Images of 224 x 224 x 3 and 1,000 classes, by a vision transformer with random
weights (ViT-S/16 by default, 22 million of them: Steiner et al., 2022,
https://arxiv.org/abs/2106.10270): times and memory hardly depend on weights.
Each method in a process of its own, so that its peak of memory is its own:
that of the process, with what it holds before the search beside.
"""

import resource
import subprocess
import sys
import time

from absl import app
from absl import flags
import jax
import numpy as np

from dmm_jax import boundary
from dmm_jax import models
from dmm_jax import parallel

_METHODS = flags.DEFINE_list('methods', ['fast'], 'Searches, by name.')
_GRADIENTS = flags.DEFINE_integer('gradients', 40, 'Of a search.', 2)
_EXAMPLES = flags.DEFINE_integer('examples', 4, 'How many, at once.', 1)
_WIDTH = flags.DEFINE_integer('width', 384, 'Of a token.', 6)
_DEPTH = flags.DEFINE_integer('depth', 12, 'Blocks.', 1)
_MEMORY = flags.DEFINE_float('memory_gb', 0, 'That a batch may take; 0: any.')
_ALONE = flags.DEFINE_bool('alone', False, 'In this process.')


def peak():
  """Gigabytes that this process has had at most (Linux)."""
  return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def measure(method):
  """Prints what a method takes for some examples, and for them again."""
  module = models.ViT(
    patch=16,
    width=_WIDTH.value,
    depth=_DEPTH.value,
    heads=6,
    num_classes=1000,
  )
  shape = (_EXAMPLES.value, 224, 224, 3)
  xs = np.random.default_rng(0).random(shape, np.float32)
  variables = jax.jit(module.init)(jax.random.key(0), xs[0])
  parallel.limit_memory(_MEMORY.value or None)
  before, seconds = peak(), []
  for _ in range(2):
    start = time.perf_counter()
    found = boundary.measure(
      lambda params, x: module.apply(params, x)[0],
      xs,
      params=variables,
      bounds=(0.0, 1.0),
      method=method,
      max_gradients=_GRADIENTS.value,
    )
    seconds.append(time.perf_counter() - start)
  each = seconds[1] / found.gradients.sum()
  print(
    f'{method}, {len(xs)} examples, {found.gradients.mean():.0f} gradients: '
    f'{seconds[1]:.1f} s ({seconds[0]:.1f} with compiling), {each:.2f} s a '
    f'gradient, all found: {np.isfinite(found.distance).all()}; peak '
    f'{peak():.2f} GB, {before:.2f} before',
    flush=True,
  )


def main(argv):
  del argv
  if _ALONE.value:
    measure(_METHODS.value[0])
    return
  for method in _METHODS.value:
    command = [sys.executable, '-m', 'benchmarks.sizes', *sys.argv[1:]]
    subprocess.run([*command, f'--methods={method}', '--alone'], check=True)


if __name__ == '__main__':
  app.run(main)
