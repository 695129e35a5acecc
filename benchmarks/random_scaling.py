"""What a sweep of random networks costs beyond its gradients.

Both sides in one run, the same networks and images, one l^p norm at a time:

  sweep      weights drawn, boundary found and refined, for every network
  gradients  weights drawn, then as many value-and-gradients as the sweep used,
             one after the other in a jitted loop
  draw       the same program with no gradient: weights drawn

  overhead = (sweep - draw) / (gradients - draw)
  with draw = sweep / gradients

  python -m benchmarks.random_scaling --sizes=16,32 --num_networks=64

Times are minima over repeats; on CPU one device runs one network at a time.
Where `draw` dominates (dense networks), `with draw` is the figure to trust.
"""

from absl import app
from absl import flags
import jax
import jax.numpy as jnp
import numpy as np
import tqdm

from benchmarks import printing
from benchmarks import timing
from dmm_jax import margins
from dmm_jax import parallel
from dmm_jax import programs
from dmm_jax import random_nets

_ARCHITECTURES = flags.DEFINE_list(
  'architectures', list(random_nets.ARCHITECTURES), 'Networks to time.'
)
_SIZES = flags.DEFINE_list('sizes', ['16', '32'], 'Sides of the images.')
_NORM = flags.DEFINE_float('norm', 2, 'Norm of the distance: 1, 2 or inf.')
_NUM_NETWORKS = flags.DEFINE_integer('num_networks', 64, 'Networks a step.')
_REPEATS = flags.DEFINE_integer('repeats', 5, 'Timings of each side.')


def measure(name, size):
  """Times the three sides for one architecture at one size."""
  module = random_nets.ARCHITECTURES[name].module(0)
  num = _NUM_NETWORKS.value
  xs = np.random.default_rng(1).uniform(size=(num, size, size, 3))
  columns = np.arange(num), xs.astype(np.float32)
  sampler = random_nets.sampler(
    module, exponents=(_NORM.value,), bounds=(0.0, 1.0), method='deepfool'
  )
  key = lambda i: jax.random.fold_in(jax.random.key(0), i)

  def sweep(i, x):
    return sampler(key(i), x[None])

  def gradients(i, x, count):
    params = module.init(key(i), x)
    logits_fn = lambda v: module.apply(params, v)[0]
    label = jnp.argmax(logits_fn(x))
    margin = lambda v: margins.margin(logits_fn(v), label)
    # Each from where the last one led: nothing to be hoisted from the loop.
    step = lambda _, v: v - 1e-6 * jax.grad(margin)(v)
    return jnp.sum(jax.lax.fori_loop(0, count, step, x))

  def side(fn, *more):
    given = (*columns, *more)
    # Traced before: only running it is timed.
    fn = programs.trace(fn, *(column[0] for column in given))
    return lambda: parallel.map_examples(
      fn,
      given,
      batch_size=num,
      vmap_size=1 if jax.default_backend() == 'cpu' else None,
    )

  run_sweep = side(sweep)
  used = run_sweep().gradients.ravel()
  sides = {
    'sweep': run_sweep,
    'gradients': side(gradients, used),
    'draw': side(gradients, np.zeros_like(used)),
  }
  times = timing.best_times(sides, _REPEATS.value)
  return times | {'used': float(np.mean(used)), 'num': num}


def main(argv):
  del argv
  rows = []
  units = [(a, int(s)) for a in _ARCHITECTURES.value for s in _SIZES.value]
  for name, size in tqdm.tqdm(units, unit='unit'):
    t = measure(name, size)
    extra = (t['sweep'] - t['draw']) / (t['gradients'] - t['draw'])
    rows.append(
      [
        name,
        str(3 * size**2),
        f'{t["num"] / t["sweep"]:.0f}',
        f'{t["used"]:.2f}',
        *(
          f'{1e3 * t[k] / t["num"]:.3f}' for k in ('sweep', 'gradients', 'draw')
        ),
        f'{extra:.2f}',
        f'{t["sweep"] / t["gradients"]:.2f}',
      ]
    )
  header = 'network, n, per second, used, sweep ms, gradients ms, draw ms'
  printing.print_table([*header.split(', '), 'overhead', 'with draw'], rows)


if __name__ == '__main__':
  jax.config.update('jax_num_cpu_devices', 2)
  app.run(main)
