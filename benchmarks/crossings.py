"""What crossing fractions cost, and how exact they are.

  python -m benchmarks.crossings

For --networks MLPs on 8 x 8 images, in one run: seconds of all crossings of
--pairs segments, at each of --snapshots, by `halfway.crossings` and by 201
points with linear interpolation between two of them; and the largest difference
from 20,001 points. Random weights: times do not depend on them.
"""

from absl import app
from absl import flags
import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import timing
from dmm_jax import halfway
from dmm_jax import models
from dmm_jax import parallel
from dmm_jax import programs

_NETWORKS = flags.DEFINE_integer('networks', 16, 'Of each snapshot.')
_SNAPSHOTS = flags.DEFINE_integer('snapshots', 13, 'Of training.')
_PAIRS = flags.DEFINE_integer('pairs', 3000, 'Segments.')
_REPEATS = flags.DEFINE_integer('repeats', 3, 'Timings of each.')


def on_grid(logits_fn, start, end, first, second, num):
  """The first crossing among `num` points, interpolated between two."""
  grid = jnp.linspace(0.0, 1.0, num)

  def difference(t):
    logits = logits_fn(start + t * (end - start))
    return logits[first] - logits[second]

  values = jax.lax.map(difference, grid, batch_size=min(num, 201))
  changes = (values[1:] > 0) != (values[:-1] > 0)
  i = jnp.argmax(changes)
  part = values[i] / (values[i] - values[i + 1])
  return jnp.where(jnp.any(changes), (i + part) / (num - 1), jnp.nan)


def crossing_fraction(logits_fn, start, end, first, second):
  return halfway.crossings(logits_fn, start, end, first, second).fraction


def find(start, end, labels, variables, *, module, method):
  """The crossing fraction of one segment and one network, by a method."""
  logits_fn = lambda x: module.apply(variables, x)[0]
  return method(logits_fn, start, end, *labels)


def run(networks, snapshots, pairs, repeats):
  """Prints seconds and differences of both sides."""
  module = models.MLP()
  draw = jax.random.split(jax.random.key(0), 4)
  start, end = (
    np.asarray(jax.random.uniform(key, (pairs, 8, 8, 1))) for key in draw[:2]
  )
  labels = np.asarray(jax.random.randint(draw[2], (pairs, 2), 0, 10))
  everyone = [
    module.init(key, start[0]) for key in jax.random.split(draw[3], networks)
  ]

  def side(method, **options):
    fn = programs.bind(
      find, module=module, method=programs.bind(method, **options)
    )
    return lambda chosen=everyone: [
      parallel.map_examples(
        fn, (start, end, labels), shared=(variables,), batch_size=512
      )
      for variables in chosen
    ]

  ours = side(crossing_fraction)
  theirs = side(on_grid, num=201)
  exact = side(on_grid, num=20_001)
  found = timing.best_times({'ours': ours, 'grid': theirs}, repeats)
  few = everyone[:1]
  truth, *both = (np.array(fn(few)) for fn in (exact, ours, theirs))
  error = [np.nanmax(np.abs(v - truth)) for v in both]
  missed = [np.mean(np.isnan(v) != np.isnan(truth)) for v in both]
  print(
    f'{networks} networks x {snapshots} snapshots x {pairs} segments: '
    f'{found["ours"] * snapshots:.1f} s, {found["grid"] * snapshots:.1f} s by '
    f'201 points ({found["grid"] / found["ours"]:.1f} times); largest error '
    f'{error[0]:.1e}, {error[1]:.1e}; not seen to cross as by 20,001 points '
    f'{missed[0]:.2%}, {missed[1]:.2%}'
  )


def main(argv):
  del argv
  jax.config.update('jax_num_cpu_devices', 2)
  run(_NETWORKS.value, _SNAPSHOTS.value, _PAIRS.value, _REPEATS.value)


if __name__ == '__main__':
  app.run(main)
