"""How much of the distance is certified, how fast? Beside auto_LiRPA.

Lower bounds of `certify.lower_bounds` (CROWN, with slopes that are improved,
and quadratic ones), and those of CROWN and alpha-CROWN in auto_LiRPA (torch):
the same weights, examples and box, one run.

  python -m pip install auto-LiRPA torch \\
    --extra-index-url https://download.pytorch.org/whl/cpu
  python -m benchmarks.certified_peers --reference=DIR --num_examples=100
  python -m benchmarks.certified_peers --reference=DIR --network=mnist_cnn \\
    --num_examples=4 --ours=crown,slopes --peer=CROWN,CROWN-Optimized

DIR holds networks as NAME.npz, as of `benchmarks.boundary_peers`: convolutions
with a ReLU and max pooling each, then dense layers. The ratio is of the bound
over the best known distance. auto_LiRPA answers whether a radius is certified,
so the largest one is found by bisection, --rounds times, of all examples at
once: its own radius of each. In l1 and l2 auto_LiRPA knows no box, so that
there its ball is larger. Its alpha-CROWN improves the slopes of the margins
alone, as it does by default; those of a network with convolutions are shared by
a layer's rows, for memory. Seconds are of the processor, all threads together;
ours are shown with and without the compilation.
"""

import time

from absl import app
from absl import flags
import jax
import jax.numpy as jnp
import numpy as np

from dmm_jax import certify

REFERENCE = flags.DEFINE_string('reference', '', 'Directory of networks.')
NETWORK = flags.DEFINE_string('network', 'mnist_mlp', 'Name of the network.')
NORM = flags.DEFINE_float('norm', np.inf, 'Norm: 1, 2 or inf.')
NUM = flags.DEFINE_integer('num_examples', 8, 'Number of examples.')
STEPS = flags.DEFINE_integer(
  'num_steps', 20, 'Steps of the slopes, both sides.'
)
QUADRATIC = flags.DEFINE_integer('quadratic_steps', 60, 'Steps of our duals.')
ROUNDS = flags.DEFINE_integer('rounds', 10, 'Bisections of the peer.')
PEER = flags.DEFINE_list(
  'peer', 'CROWN,CROWN-Optimized', 'Methods of auto_LiRPA; empty for none.'
)
OURS = flags.DEFINE_list(
  'ours', 'crown,slopes', 'Of crown, slopes, quadratic; empty for none.'
)
BATCH = flags.DEFINE_integer('batch_size', 10, 'Examples at once, ours.')
COMPILE = flags.DEFINE_bool('compile', True, 'Time ours with compilation too.')


def load():
  """Returns `(weights by name, names of convolutions, of dense layers)`."""
  file = np.load(f'{REFERENCE.value}/{NETWORK.value}.npz')
  weights = {
    k: file[k] for k in file if k.endswith('_kernel') or k.endswith('_bias')
  }
  names = sorted(k.removesuffix('_kernel') for k in weights if 'kernel' in k)
  convolutions = [n for n in names if n.startswith('conv')]
  dense = [n for n in names if not n.startswith('conv')]
  best = file[f'best_l{NORM.value:g}']
  columns = [v[: NUM.value] for v in (file['x'], file['y'], best)]
  return (weights, convolutions, dense), columns


def in_jax(weights, convolutions, dense):
  """The network as a function of one image."""
  weights = {name: jnp.asarray(v) for name, v in weights.items()}
  shape = 'NHWC', 'HWIO', 'NHWC'

  def logits_fn(x):
    x = x[None] if convolutions else x.reshape(-1)
    for name in convolutions:
      kernel, bias = weights[f'{name}_kernel'], weights[f'{name}_bias']
      x = jax.lax.conv_general_dilated(
        x, kernel, (1, 1), 'SAME', dimension_numbers=shape
      )
      pair = (1, 2, 2, 1)
      x = jax.lax.reduce_window(
        jax.nn.relu(x + bias), -jnp.inf, jax.lax.max, pair, pair, 'VALID'
      )
    x = x.reshape(-1)
    for name in dense:
      x = x @ weights[f'{name}_kernel'] + weights[f'{name}_bias']
      x = x if name == dense[-1] else jax.nn.relu(x)
    return x

  return logits_fn


def in_torch(weights, convolutions, dense, shape):
  """The network as a torch module, of images [n, channels, h, w]."""
  import torch

  tensor = lambda name: torch.tensor(np.ascontiguousarray(weights[name]))
  parts = []
  height, width = shape[:2] if convolutions else (0, 0)
  for name in convolutions:
    kernel = weights[f'{name}_kernel'].transpose(3, 2, 0, 1)
    layer = torch.nn.Conv2d(*kernel.shape[1::-1], kernel.shape[2:], padding=1)
    layer.weight.data = torch.tensor(np.ascontiguousarray(kernel))
    layer.bias.data = tensor(f'{name}_bias')
    parts += [layer, torch.nn.ReLU(), torch.nn.MaxPool2d(2)]
    height, width = height // 2, width // 2
  parts.append(torch.nn.Flatten())
  for name in dense:
    kernel = weights[f'{name}_kernel']
    if convolutions and name == dense[0]:  # Channels last there, first here.
      images = kernel.reshape(height, width, -1, kernel.shape[1])
      kernel = images.transpose(2, 0, 1, 3).reshape(kernel.shape)
    layer = torch.nn.Linear(*kernel.shape)
    layer.weight.data = torch.tensor(np.ascontiguousarray(kernel.T))
    layer.bias.data = tensor(f'{name}_bias')
    parts += [layer, torch.nn.ReLU()]
  return torch.nn.Sequential(*parts[:-1])


def ours(logits_fn, xs, labels, method):
  return certify.lower_bounds(
    logits_fn,
    xs,
    labels,
    norm=NORM.value,
    bounds=(0.0, 1.0),
    num_steps=0 if method == 'crown' else STEPS.value,
    quadratic_steps=QUADRATIC.value if method == 'quadratic' else 0,
    batch_size=BATCH.value,
  )


def peer(network, xs, labels, best, method):
  """Radii that auto_LiRPA certifies, by bisection up to the best known."""
  import auto_LiRPA
  import torch

  torch.set_num_threads(1)
  module = in_torch(*network, xs.shape[1:])
  if network[1]:
    xs = np.ascontiguousarray(xs.transpose(0, 3, 1, 2))
  given = torch.tensor(xs)
  # Slopes of each value of a convolution take it more than 16 GB of memory.
  slopes = {'iteration': STEPS.value, 'use_shared_alpha': bool(network[1])}
  options = {'optimize_bound_args': slopes}
  model = auto_LiRPA.BoundedModule(module, given, bound_opts=options)
  k = len(network[0][f'{network[2][-1]}_bias'])
  eye = torch.eye(k)
  others = [[j for j in range(k) if j != label] for label in labels]
  rows = torch.stack(
    [eye[int(label)] - eye[j] for label, j in zip(labels, others, strict=True)]
  )

  def certified(radii):
    radius = torch.tensor(radii, dtype=torch.float32)
    radius = radius.reshape(-1, *[1] * (given.ndim - 1))
    if np.isinf(NORM.value):
      box = {
        'x_L': torch.clamp(given - radius, min=0),
        'x_U': torch.clamp(given + radius, max=1),
      }
    else:
      box = {'eps': radius.reshape(-1, 1)}
    ball = auto_LiRPA.PerturbationLpNorm(norm=NORM.value, **box)
    bounded = auto_LiRPA.BoundedTensor(given, ball)
    low, _ = model.compute_bounds(
      x=(bounded,), C=rows, method=method, bound_upper=False
    )
    return low.detach().numpy().min(1) > 0

  low, high = np.zeros(len(xs)), np.array(best, float)
  for _ in range(ROUNDS.value):
    middle = (low + high) / 2
    enough = certified(middle)
    low, high = np.where(enough, middle, low), np.where(enough, high, middle)
  return low


def report(name, fn, best):
  """Prints how much of the distance a method certifies, and its time."""
  start = time.process_time()
  found = fn()
  seconds = time.process_time() - start
  ratio = found / best
  print(
    f'{name:34} median {np.median(ratio):.3f}, least {ratio.min():.3f}, most '
    f'{ratio.max():.3f}; {seconds:.1f} s of the processor',
    flush=True,
  )


def main(argv):
  del argv
  network, (xs, labels, best) = load()
  print(f'{NETWORK.value}, l{NORM.value:g}, {len(xs)} examples')
  logits_fn = in_jax(*network)
  for method in OURS.value:
    run = lambda method=method: ours(logits_fn, xs, labels, method)
    if COMPILE.value:
      report(f'ours, {method}, compiling', run, best)
    report(f'ours, {method}', run, best)
  for method in PEER.value:
    run = lambda method=method: peer(network, xs, labels, best, method)
    report(f'auto_LiRPA, {method}', run, best)


if __name__ == '__main__':
  app.run(main)
