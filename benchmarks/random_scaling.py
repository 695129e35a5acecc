"""What a sweep of random networks costs beyond its gradients.

Both sides in one run, the same networks and images, one l^p norm at a time:

  sweep      weights drawn, boundary found and refined, for every network
  draw       weights drawn, nothing measured
  gradient   one jitted, mapped value-and-gradient of the drawn networks

  overhead = (sweep - draw) / (gradients used x gradient)
  with draw = sweep / (gradients used x gradient)

  python -m benchmarks.random_scaling --sizes=16,32 --num_networks=64

Times are minima over repeats; on CPU one device runs one network at a time.
"""

import time

from absl import app
from absl import flags
import jax
import jax.numpy as jnp
import numpy as np
import tqdm

from dmm_jax import margins
from dmm_jax import parallel
from dmm_jax import random_nets
from experiments import common

_ARCHITECTURES = flags.DEFINE_list(
  'architectures', list(random_nets.ARCHITECTURES), 'Networks to time.'
)
_SIZES = flags.DEFINE_list('sizes', ['16', '32'], 'Sides of the images.')
_NORM = flags.DEFINE_float('norm', 2, 'Norm of the distance: 1, 2 or inf.')
_NUM_NETWORKS = flags.DEFINE_integer('num_networks', 64, 'Networks a step.')
_REPEATS = flags.DEFINE_integer('repeats', 5, 'Timings of each side.')


def best_time(fn):
  """Seconds of the fastest of several calls; the first compiles."""
  jax.block_until_ready(fn())
  times = []
  for _ in range(_REPEATS.value):
    start = time.perf_counter()
    jax.block_until_ready(fn())
    times.append(time.perf_counter() - start)
  return min(times)


def measure(name, size):
  """Times the three sides for one architecture at one size."""
  module = random_nets.ARCHITECTURES[name].module(0)
  num, lanes = _NUM_NETWORKS.value, None
  if jax.default_backend() == 'cpu':
    lanes = 1
  keys = jax.vmap(lambda i: jax.random.fold_in(jax.random.key(0), i))(
    jnp.arange(num)
  )
  xs = jax.random.uniform(jax.random.key(1), (num, 1, size, size, 3))
  data = np.asarray(jax.random.key_data(keys)), np.asarray(xs)
  sampler = random_nets.sampler(
    module, exponents=(_NORM.value,), bounds=(0.0, 1.0), method='deepfool'
  )

  def sweep(key, x):
    return sampler(jax.random.wrap_key_data(key), x)

  def draw(key, x):
    return module.init(jax.random.wrap_key_data(key), x[0])

  def touch(key, x):
    return sum(jnp.sum(p) for p in jax.tree.leaves(draw(key, x)))

  def gradient(params, x):
    logits_fn = lambda v: module.apply(params, v)[0]
    label = jnp.argmax(logits_fn(x[0]))
    lead = lambda v: margins.margin(logits_fn(v), label)
    return jax.value_and_grad(lead)(x[0])

  step = lambda fn, *columns: parallel._step(
    columns, (), fn=fn, mesh=parallel._mesh(), lanes=lanes
  )
  # Weights of a subset stay in memory for the gradient's side.
  few = max(2, min(num, 2**28 // sum_of_sizes(module, xs[0, 0])))
  params = jax.jit(jax.vmap(draw))(*(c[:few] for c in data))
  found = step(sweep, *data)
  return {
    'gradients': float(np.mean(found.gradients)),
    'sweep': best_time(lambda: step(sweep, *data)) / num,
    'draw': best_time(lambda: step(touch, *data)) / num,
    'gradient': best_time(lambda: step(gradient, params, data[1][:few])) / few,
  }


def sum_of_sizes(module, x):
  params = jax.eval_shape(module.init, jax.random.key(0), x)
  return sum(p.size for p in jax.tree.leaves(params))


def main(argv):
  del argv
  rows = []
  units = [(a, int(s)) for a in _ARCHITECTURES.value for s in _SIZES.value]
  for name, size in tqdm.tqdm(units, unit='unit'):
    t = measure(name, size)
    work = t['gradients'] * t['gradient']
    rows.append(
      [
        name,
        str(3 * size**2),
        f'{1 / t["sweep"]:.0f}',
        f'{t["gradients"]:.2f}',
        *(f'{1e3 * t[k]:.3f}' for k in ('sweep', 'draw', 'gradient')),
        f'{(t["sweep"] - t["draw"]) / work:.2f}',
        f'{t["sweep"] / work:.2f}',
      ]
    )
  header = 'network, n, per second, gradients, sweep ms, draw ms, gradient ms'
  common.print_table([*header.split(', '), 'overhead', 'with draw'], rows)


if __name__ == '__main__':
  jax.config.update('jax_num_cpu_devices', 2)
  app.run(main)
