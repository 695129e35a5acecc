"""What a GPU or TPU does with the library, in one file of figures.

  python -m benchmarks.accelerator --out=accelerator.json
  python -m benchmarks.accelerator --small --out=small.json

Eight minutes or more; --small is the same at sizes for a CPU. Section by
section, each written as it ends: started again with the same --out, it goes on
with the sections that are missing.

  device   which one, versions, and the rate of matrix products: 8192^3, of
           float32 at 'highest' precision and of bfloat16
  map      `som.fit`, 480,000 codes of 34 on 30 x 30, 10 epochs
  many     64 MLPs at once beside one after the other
  search   examples a second of `boundary.measure`, and the share of the float32
           rate that its gradients amount to (operations as XLA counts them)
  train    a step of `train.fit`, ResNet-18, beside the bare step
  figure1  De Palma, Kiani, Lloyd (2021), https://arxiv.org/abs/2004.05923,
           Figure 1: their ResNet20, 13 sizes, 300 networks x 10 uniform images,
           in as many sizes and rounds as fit the time; medians beside those
           released, and all distances in a file .npz beside --out
  memory   the largest batch of ResNet-18 that `fast` takes

Seen on an H100, JAX 0.11.2: the first four in `results/accelerator.json`.
Compiling took most of it, 70 to 160 s a search (six at once); figure1's 13
sizes compiled at once were not through after 5 minutes.

Needs no data, and of requirements.txt neither tensorflow-datasets nor
neural-tangents. Compiling is told apart; float32 throughout, 'highest'.
"""

from concurrent import futures
import functools
import importlib.metadata
import itertools
import json
import pathlib
import time

from absl import app
from absl import flags
import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks import timing
from dmm_jax import boundary
from dmm_jax import models
from dmm_jax import parallel
from dmm_jax import random_nets
from dmm_jax import som
from dmm_jax import train

_OUT = flags.DEFINE_string('out', 'accelerator.json', 'File for the figures.')
_SMALL = flags.DEFINE_bool('small', False, 'Sizes for a CPU.')
_SECTIONS = flags.DEFINE_list('sections', [], 'Of these alone; all of them.')
_SECONDS = flags.DEFINE_float('seconds', 240, 'For figure1.', 1)
NORMS = (1.0, 2.0, np.inf)
# The first ones first, should time run out.
SIDES = (12, 20, 32, 60, 40, 16, 24, 28, 36, 44, 48, 52, 56)


def pick(large, small):
  return small if _SMALL.value else large


def device():
  """Names, versions, and the rate of matrix products."""
  here = jax.devices()[0]
  names = ('jax', 'jaxlib', 'flax', 'optax', 'numpy')
  return {
    'device': here.device_kind,
    'devices': jax.device_count(),
    'memory_gb': (here.memory_stats() or {}).get('bytes_limit', 0) / 1e9,
    'versions': {name: importlib.metadata.version(name) for name in names},
    'float32_flops': matmul_rate(jnp.float32),
    'bfloat16_flops': matmul_rate(jnp.bfloat16),
  }


@functools.cache
def matmul_rate(dtype):
  """Floating-point operations a second of one large matrix product."""
  size, repeats = pick(8192, 512), 10
  a, b = jax.random.normal(jax.random.key(0), (2, size, size), dtype)
  # Each product takes the last one: none can be left out.
  product = jax.jit(
    lambda a, b: jax.lax.fori_loop(0, repeats, lambda _, v: v @ b / size, a)
  )
  seconds = timing.best_times({'': lambda: product(a, b)}, 3)['']
  return 2 * size**3 * repeats / seconds


def networks():
  """Untrained networks of customary sizes: times hardly depend on weights."""
  small = {'mnist_cnn': (models.CNN((4,), (8,)), (12, 12, 1), 16)}
  large = {
    'mnist_cnn': (models.CNN(), (28, 28, 1), 4096),
    'resnet18': (models.ResNet18(), (32, 32, 3), 512),
    'vit': (models.ViT(), (32, 32, 3), 512),
  }
  return pick(large, small)


def prepare(module, shape, num):
  """`(logits_fn, variables, xs)` of a network."""
  xs = np.random.default_rng(0).random((num, *shape), np.float32)
  variables = jax.jit(module.init)({'params': jax.random.key(0)}, xs[0])
  return lambda v, x: module.apply(v, x)[0], variables, xs


def gradient_cost(logits_fn, variables, x):
  """Floating-point operations of one logit's gradient, as XLA counts them."""
  fn = jax.jit(jax.value_and_grad(lambda x, v: logits_fn(v, x)[0]))
  # Before it is compiled: a GPU's library calls do not count in what comes out.
  return fn.lower(x, variables).cost_analysis()['flops']


def search():
  runs, flops = {}, {}
  for name, (module, shape, num) in networks().items():
    logits_fn, variables, xs = prepare(module, shape, num)
    for method, count, part in (('fast', 40, 1), ('portfolio', 200, 4)):
      rows = xs[: num // part]
      flops[name, method] = gradient_cost(logits_fn, variables, xs[0])
      runs[name, method] = functools.partial(
        boundary.measure,
        logits_fn,
        rows,
        params=variables,
        bounds=(0.0, 1.0),
        method=method,
        max_gradients=count,
        batch_size=len(rows),
      )
  first = side_by_side(runs)
  found = {}
  for name, run in runs.items():
    out, seconds = timing.timed(run)
    # A third of a value and its gradient is what a forward pass takes.
    work = flops[name] * (out.gradients.sum() + out.forwards.sum() / 3)
    num = len(out.distance)
    found[' '.join(name)] = {
      'examples': num,
      'seconds_with_compiling': first[name][1],
      'seconds': seconds,
      'examples_per_second': num / seconds,
      'gradients': float(out.gradients.mean()),
      'forwards': float(out.forwards.mean()),
      'share_of_rate': float(work / seconds / matmul_rate(jnp.float32)),
      'median_distance': float(np.median(out.distance)),
    }
  return found


def side_by_side(runs):
  """First calls, which compile for the most part, in threads: by name."""
  with futures.ThreadPoolExecutor(6) as pool:
    return dict(zip(runs, pool.map(timing.timed, runs.values()), strict=True))


def memory():
  """Doubles the batch until it does not fit."""
  module, shape, num = networks()[pick('resnet18', 'mnist_cnn')]
  logits_fn, variables, _ = prepare(module, shape, 1)
  found = {}
  while num <= pick(16384, 32):
    xs = np.random.default_rng(0).random((num, *shape), np.float32)
    run = functools.partial(
      boundary.measure,
      logits_fn,
      xs,
      params=variables,
      bounds=(0.0, 1.0),
      method='fast',
      max_gradients=6,
      batch_size=num,
    )
    try:
      _, seconds = timing.timed(run)
    except jax.errors.JaxRuntimeError as error:
      found['stopped'] = str(error).splitlines()[0][:200]
      break
    peak = (jax.devices()[0].memory_stats() or {}).get('peak_bytes_in_use', 0)
    found |= {'largest_batch': num, 'peak_gb': peak / 1e9, 'seconds': seconds}
    num *= 2
  return found


def figure1():
  """Distances of random ResNet20s by size, in rounds over all sizes."""
  name, width = pick(('resnet20', 0), ('lenet', 4))
  sides, images = pick(SIDES, (12, 16)), pick(10, 2)
  per_round, rounds = pick(50, 4), pick(6, 2)
  sample = random_nets.sampler(
    random_nets.ARCHITECTURES[name].module(width),
    exponents=NORMS,
    bounds=(0.0, 1.0),
    method='fast',
    max_gradients=40,
  )

  def measure(side, number):
    def one(network):
      key = jax.random.fold_in(jax.random.key(side), network)
      key_weights, key_inputs = jax.random.split(key)
      shape = (images, side, side, 3)
      return sample(key_weights, jax.random.uniform(key_inputs, shape))

    return parallel.map_examples(
      one,
      (np.arange(number * per_round, (number + 1) * per_round),),
      batch_size=per_round,
      vmap_size=pick(None, 1),
    )

  start, found = time.monotonic(), {}
  in_time = lambda: time.monotonic() - start < _SECONDS.value
  # Three sizes at a time: on a GPU each takes minutes to compile.
  for first in range(0, len(sides), 3):
    if in_time():
      group = sides[first : first + 3]
      runs = {v: functools.partial(measure, v, 0) for v in group}
      found |= {v: [out] for v, (out, _) in side_by_side(runs).items()}
      print(f'figure1: {group}, {time.monotonic() - start:.0f} s', flush=True)
  sides, seconds = list(found), dict.fromkeys(found, 0.0)
  for number, side in itertools.product(range(1, rounds), sides):
    if in_time():
      out, took = timing.timed(functools.partial(measure, side, number))
      found[side].append(out)
      seconds[side] += took
  rows, columns = [], {}
  for side in sides:
    parts = jax.tree.map(lambda *v: np.concatenate(v), *found[side])
    n = 3 * side**2
    columns[f'distance_{n}'] = parts.distance
    columns[f'estimate_{n}'] = parts.estimate
    columns[f'margin_{n}'] = parts.margin
    columns[f'input_norm_{n}'] = parts.input_norm
    columns[f'status_{n}'] = parts.status
    for i, p in enumerate(NORMS):
      values = parts.distance[..., i]
      rows.append(
        {
          'n': n,
          'norm': str(p),
          'networks': len(values),
          'images': values.size,
          'median': float(np.median(values)),
          'estimate_median': float(np.median(parts.estimate[..., i])),
          'released': (random_nets.released(n, p) or [None])[0],
          'found': float(np.mean(np.isfinite(values))),
          'gradients': float(parts.gradients[..., i].mean()),
        }
      )
  np.savez_compressed(pathlib.Path(_OUT.value).with_suffix('.npz'), **columns)
  return {
    'architecture': name,
    'rows': rows,
    'seconds_after_the_first_round': {3 * k**2: v for k, v in seconds.items()},
  }


def map_of_codes():
  num, grid = pick(480_000, 500), pick((30, 30), (5, 5))
  codes = jax.random.normal(jax.random.key(0), (num, 34))
  run = lambda: som.fit(jax.random.key(1), codes, grid=grid, num_epochs=10)
  fitted, first = timing.timed(run)
  fitted, again = timing.timed(run)
  return {
    'codes': num,
    'first_seconds': first,
    'seconds': again,
    'quantization_error': float(som.quantization_error(fitted, codes)),
  }


def fit_seconds(module, key, xs, labels, config):
  """Seconds of a second `train.fit`, from the start to its last state."""
  optimizer = train.make_optimizer(config, len(xs))
  start = lambda key: train.init_state(key, module, xs[0], optimizer)
  state = jax.vmap(start)(key) if key.ndim else start(key)

  def run():
    *_, last = train.fit(
      key,
      train.flax_forward(module),
      state,
      xs,
      labels,
      config=config,
      each_epoch=False,
    )
    return last.state.params

  timing.timed(run)
  return timing.timed(run)[1]


def labelled(num, shape):
  rng = np.random.default_rng(0)
  xs = rng.random((num, *shape), np.float32)
  return xs, rng.integers(0, 10, num).astype(np.int32)


def many():
  count, num = pick((64, 8192), (3, 256))
  xs, labels = labelled(num, (28, 28, 1))
  module, config = models.MLP(), train.TrainConfig(num_epochs=2)
  keys = jax.random.split(jax.random.key(0), count)
  together = fit_seconds(module, keys, xs, labels, config)
  one = fit_seconds(module, keys[0], xs, labels, config)
  return {
    'networks': count,
    'seconds_together': together,
    'seconds_of_one': one,
    'times_as_fast': count * one / together,
  }


def step():
  module = pick(models.ResNet18(), models.CNN((4,), (8,)))
  num, batch = pick((4096, 256), (64, 16))
  xs, labels = labelled(num, (32, 32, 3))
  config = train.TrainConfig(
    num_epochs=2, batch_size=batch, schedule='constant'
  )
  seconds = fit_seconds(module, jax.random.key(0), xs, labels, config)
  optimizer = train.make_optimizer(config, num)
  variables = module.init({'params': jax.random.key(0)}, xs[0])
  params = variables.pop('params')

  def loss(params, rest, xs, labels):
    apply = lambda x: module.apply(
      {'params': params, **rest}, x, train=True, mutable=[*rest]
    )
    mapped = jax.vmap(apply, axis_name='batch', out_axes=(0, None))
    (logits, _), rest = mapped(xs)
    losses = optax.losses.softmax_cross_entropy_with_integer_labels(
      logits, labels
    )
    return losses.mean(), rest

  @jax.jit
  def bare(params, rest, state, xs, labels):
    slope, rest = jax.grad(loss, has_aux=True)(params, rest, xs, labels)
    update, state = optimizer.update(slope, state, params)
    return optax.apply_updates(params, update), rest, state

  rows = jnp.asarray(xs[:batch]), jnp.asarray(labels[:batch])
  steps = config.num_epochs * (num // batch)

  def loop():
    found = params, variables, optimizer.init(params)
    for _ in range(steps):
      found = bare(*found, *rows)
    return found

  timing.timed(loop)
  return {
    'step_ms': 1e3 * seconds / steps,
    'bare_step_ms': 1e3 * timing.timed(loop)[1] / steps,
  }


# The longest last; after what runs out of memory little of it may be left.
SECTIONS = {
  'device': device,
  'map': map_of_codes,
  'many': many,
  'search': search,
  'train': step,
  'figure1': figure1,
  'memory': memory,
}


def main(argv):
  del argv
  path = pathlib.Path(_OUT.value)
  path.parent.mkdir(parents=True, exist_ok=True)
  found = json.loads(path.read_text()) if path.exists() else {}
  for name in _SECTIONS.value or SECTIONS:
    if name not in SECTIONS:
      raise app.UsageError(f'--sections: some of {", ".join(SECTIONS)}')
    if name in found:
      continue
    entry, seconds = timing.timed(SECTIONS[name])
    found[name] = {**entry, 'section_seconds': seconds}
    path.write_text(json.dumps(found, indent=1) + '\n')
    print(f'{name}: {json.dumps(found[name])[:400]}', flush=True)


if __name__ == '__main__':
  jax.config.update('jax_default_matmul_precision', 'highest')
  app.run(main)
