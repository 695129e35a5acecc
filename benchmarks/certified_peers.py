"""How much of the distance is certified, how fast? Beside auto_LiRPA.

Lower bounds of `certify.lower_bounds`, linear and quadratic, and those of
alpha-CROWN in auto_LiRPA (torch): the same weights, examples and box, one run.

  python -m pip install auto-LiRPA torch \\
    --extra-index-url https://download.pytorch.org/whl/cpu
  python -m benchmarks.certified_peers --reference=DIR --num_examples=8
  python -m benchmarks.certified_peers ... --norm=2 --peer=false

DIR holds dense networks as NAME.npz, as of `benchmarks.boundary_peers`; the
ratio is of the bound over the best known distance. auto_LiRPA answers whether a
radius is certified, so the largest one is found by bisection, --rounds times,
of all examples at once: its own radius of each. In l1 and l2 auto_LiRPA knows
no box, so that there its ball is larger. Seconds are of the processor, all
threads together; ours include the compilation, and are shown without it too.
"""

import time

from absl import app
from absl import flags
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
PEER = flags.DEFINE_bool('peer', True, 'Measure auto_LiRPA too.')
OURS = flags.DEFINE_bool('ours', True, 'Measure ours too.')


def load():
  """Returns `(layers, xs, labels, best)`."""
  file = np.load(f'{REFERENCE.value}/{NETWORK.value}.npz')
  names = sorted(name for name in file if name.endswith('_kernel'))
  if any('conv' in name for name in names):
    raise app.UsageError('--network has convolutions; give a dense one')
  pairs = [(file[n], file[n.replace('kernel', 'bias')]) for n in names]
  num, norm = NUM.value, f'best_l{NORM.value:g}'
  xs = file['x'][:num].reshape(num, -1)
  return pairs, xs, file['y'][:num], file[norm][:num]


def ours(layers, xs, labels, quadratic_steps):
  return certify.lower_bounds(
    layers,
    xs,
    labels,
    norm=NORM.value,
    bounds=(0.0, 1.0),
    num_steps=STEPS.value,
    quadratic_steps=quadratic_steps,
    batch_size=len(xs),
  )


def peer(layers, xs, labels, best):
  """Radii that alpha-CROWN certifies, by bisection up to the best known."""
  import auto_LiRPA
  import torch

  torch.set_num_threads(1)
  parts = []
  for w, b in layers:
    linear = torch.nn.Linear(*w.shape)
    linear.weight.data, linear.bias.data = torch.tensor(w.T), torch.tensor(b)
    parts += [linear, torch.nn.ReLU()]
  given = torch.tensor(xs)
  options = {'optimize_bound_args': {'iteration': STEPS.value}}
  model = auto_LiRPA.BoundedModule(
    torch.nn.Sequential(*parts[:-1]), given, bound_opts=options
  )
  k = len(layers[-1][1])
  eye = torch.eye(k)
  others = [[j for j in range(k) if j != label] for label in labels]
  rows = torch.stack(
    [eye[int(label)] - eye[j] for label, j in zip(labels, others, strict=True)]
  )

  def certified(radii):
    radius = torch.tensor(radii, dtype=torch.float32)[:, None]
    if np.isinf(NORM.value):
      box = {
        'x_L': torch.clamp(given - radius, min=0),
        'x_U': torch.clamp(given + radius, max=1),
      }
    else:
      box = {'eps': radius}
    ball = auto_LiRPA.PerturbationLpNorm(norm=NORM.value, **box)
    bounded = auto_LiRPA.BoundedTensor(given, ball)
    low, _ = model.compute_bounds(
      x=(bounded,), C=rows, method='CROWN-Optimized', bound_upper=False
    )
    return low.detach().numpy().min(1) > 0

  low, high = np.zeros(len(xs)), np.array(best, float)
  for _ in range(ROUNDS.value):
    middle = (low + high) / 2
    enough = certified(middle)
    low, high = np.where(enough, middle, low), np.where(enough, high, middle)
  return low


def report(name, fn, best):
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
  layers, xs, labels, best = load()
  print(f'{NETWORK.value}, l{NORM.value:g}, {len(xs)} examples')
  if OURS.value:
    for steps in (0, QUADRATIC.value):
      run = lambda steps=steps: ours(layers, xs, labels, steps)
      name = f'ours, {steps} quadratic steps'
      report(f'{name}, compiling', run, best)
      report(name, run, best)
  if PEER.value:
    run = lambda: peer(layers, xs, labels, best)
    report('auto_LiRPA, alpha-CROWN', run, best)


if __name__ == '__main__':
  app.run(main)
