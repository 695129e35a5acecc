"""What a subspace costs: tangent bases, and searches within them.

  python -m benchmarks.subspaces

Both sides in one run, in turns, fastest of --repeats: tangent bases by k
forward derivatives beside the Jacobian by n backward ones, of an auto-encoder
for 28 x 28 pixels; and seconds a gradient of `boundary.measure` on and off a
subspace of k dimensions beside those without one, of an MLP on such images.
Random weights: times do not depend on them.
"""

import functools

from absl import app
from absl import flags
import jax
import numpy as np

from benchmarks import timing
from dmm_jax import boundary
from dmm_jax import decompositions
from dmm_jax import manifold
from dmm_jax import models

_K = flags.DEFINE_integer('k', 16, 'Dimensions of the subspace.')
_BATCH = flags.DEFINE_integer('batch', 16, 'Examples.')
_REPEATS = flags.DEFINE_integer('repeats', 5, 'Timings of each.')
SHAPE = (28, 28, 1)


def bases(k, batch, repeats):
  """Prints the time of a batch of tangent bases, both ways."""
  module = models.ConvAutoEncoder(SHAPE, k, (32, 64, 128))
  variables = module.init(jax.random.key(0), np.zeros(SHAPE, np.float32))
  decode = lambda z: module.apply(variables, z, method='decode')
  zs = jax.random.normal(jax.random.key(1), (batch, k))
  forward = jax.jit(jax.vmap(lambda z: manifold.tangent_basis(decode, z)))

  def backward_one(z):
    columns = jax.jacrev(lambda z: decode(z).ravel())(z)
    return decompositions.orthonormalize(columns.T)

  # One example after the other: n backward passes of a batch fill the memory.
  backward = jax.jit(lambda zs: jax.lax.map(backward_one, zs))
  found = timing.best_times(
    {'forward': lambda: forward(zs), 'backward': lambda: backward(zs)}, repeats
  )
  ratio = found['backward'] / found['forward']
  print(
    f'{batch} tangent bases, k = {k}: {found["forward"]:.3f} s by k forward '
    f'derivatives, {found["backward"]:.3f} s by n backward ones: '
    f'{ratio:.1f} times as long',
    flush=True,
  )


def searches(k, batch, repeats):
  """Prints the time of a gradient, with and without a subspace."""
  module = models.MLP()
  xs = np.asarray(jax.random.uniform(jax.random.key(0), (batch, *SHAPE)))
  params = module.init(jax.random.key(1), xs[0])
  logits_fn = lambda x: module.apply(params, x)[0]
  keys = jax.random.split(jax.random.key(2), batch)
  rows = np.asarray(
    jax.vmap(lambda key: manifold.random_basis(key, k, xs[0].size))(keys)
  )
  sides = {'free': {}}
  for name in ('on', 'off'):
    project = getattr(manifold, name)
    sides[name] = dict(project=project, project_rows=(rows,))
  for bounds in (None, (0.0, 1.0)):
    runs = {
      name: functools.partial(
        boundary.measure,
        logits_fn,
        xs,
        bounds=bounds,
        max_gradients=200,
        **options,
      )
      for name, options in sides.items()
    }
    gradients = {name: run().gradients.mean() for name, run in runs.items()}
    found = timing.best_times(runs, repeats)
    cost = {name: found[name] / gradients[name] for name in sides}
    print(
      f'{batch} searches, box {bounds}: {found["free"]:.3f} s free; seconds a '
      f'gradient, times the free ones: on {cost["on"] / cost["free"]:.2f}, off '
      f'{cost["off"] / cost["free"]:.2f}',
      flush=True,
    )


def main(argv):
  del argv
  setting = _K.value, _BATCH.value, _REPEATS.value
  bases(*setting)
  searches(*setting)


if __name__ == '__main__':
  app.run(main)
