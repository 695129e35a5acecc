"""A PyTorch ResNet-18, measured here and by PyTorch's own attacks.

The same weights on four sides, in one run, with equally many gradients: our
search on the module through `interop.from_torch`, our search on the same
network in Flax, and the best attack of adv-lib and of foolbox on the module.

  python -m benchmarks.interop_peers --data_dir=DIR
  python -m benchmarks.interop_peers --train_steps=0 --width=16 --data_dir=DIR

Needs the environment of `boundary_peers` and torchax (`.[interop]`). The module
is trained for a few steps, or has random weights; labels are its own
predictions, so that no example is misclassified. Which attack of a library is
its best is found on the first examples: the least mean distance.

A point counts if, clipped to [0, 1], the module in float64 gives the label no
more than another class, to 1e-5; else its distance is infinite. Seconds are of
all examples, without the first call of each of our sides, which compiles, on
one batch. PyTorch and JAX have the same cores.
"""

import copy
import dataclasses
import os
import time

import jax
import numpy as np
import torch
from torch import nn
from torch.nn import functional
import tqdm

from benchmarks import _peers_torch
from benchmarks import printing
from dmm_jax import boundary
from dmm_jax import data
from dmm_jax import interop
from dmm_jax import models
from experiments.lib import flags

HEADER = 'side gradients success median mean first seconds'.split()
_TOLERANCE = 1e-5  # Of the judge, in logits.


@dataclasses.dataclass(frozen=True)
class Config:
  data_dir: str = flags.data_dir()
  dataset: str = flags.flag('cifar10', 'Images of 3 channels.')
  width: int = flags.flag(64, 'Channels of the first stack.', least=1)
  train_steps: int = flags.flag(
    100, 'Batches of 64 images; 0 leaves the weights random.', least=0
  )
  num_examples: int = flags.flag(100, 'Test images.', least=1)
  norm: float = flags.flag(2.0, 'Norm: 1, 2 or inf.', least=1, infinite=True)
  method: str = flags.flag('portfolio', 'Our search.')
  gradients: int = flags.flag(100, 'Gradients of every side.', least=2)
  batch_size: int = flags.flag(25, 'Examples a batch.', least=1)
  pilot: int = flags.flag(10, 'Examples that choose the attacks.', least=1)
  peers: str = flags.flag(
    '', 'Attacks, separated by commas; empty finds the best of each library.'
  )
  callback: bool = flags.flag(False, "Measure via='callback' too.")


class ResNet18(nn.Module):
  """ResNet-18 with a CIFAR stem, its layers named as `models.ResNet18`'s are.

  He, Zhang, Ren, Sun (2016), https://arxiv.org/abs/1512.03385.
  """

  def __init__(self, width):
    super().__init__()
    self.width = width
    self._add('conv0', 3, width)
    self.blocks, before = [], width
    for stack in range(4):
      features = width * 2**stack
      for block in range(2):
        name, stride = f'stack{stack}_block{block}', 1 + (stack and not block)
        self._add(f'{name}_conv0', before, features, stride)
        self._add(f'{name}_conv1', features, features)
        if before != features:
          self._add(f'{name}_skip', before, features, stride, size=1)
        self.blocks.append(name)
        before = features
    self.head = nn.Linear(before, 10)

  def _add(self, name, before, features, stride=1, size=3):
    conv = nn.Conv2d(
      before, features, size, stride, padding=size // 2, bias=False
    )
    nn.init.kaiming_normal_(conv.weight, nonlinearity='relu')
    setattr(self, name, conv)
    setattr(self, f'{name}_norm', nn.BatchNorm2d(features))

  def _of(self, name, x):
    return getattr(self, f'{name}_norm')(getattr(self, name)(x))

  def forward(self, x):
    x = functional.relu(self._of('conv0', x))
    for name in self.blocks:
      h = functional.relu(self._of(f'{name}_conv0', x))
      h = self._of(f'{name}_conv1', h)
      if hasattr(self, f'{name}_skip'):
        x = self._of(f'{name}_skip', x)
      x = functional.relu(x + h)
    return self.head(x.mean((2, 3)))


class Counted(nn.Module):
  """A module that counts the rows that go forward and backward."""

  def __init__(self, module):
    super().__init__()
    self.module, self.counts = module, dict(forwards=0, gradients=0)

  def forward(self, x):
    self.counts['forwards'] += len(x)
    return _peers_torch._Tally.apply(self.module(x), self.counts)


def to_flax(module):
  """Returns `(module, variables)` of Flax with the weights of a `ResNet18`."""
  params, stats = {}, {}
  array = lambda tensor: tensor.detach().numpy().copy()
  for name, layer in module.named_children():
    if isinstance(layer, nn.Conv2d):
      params[name] = {'kernel': array(layer.weight.permute(2, 3, 1, 0))}
    elif isinstance(layer, nn.BatchNorm2d):
      params[name] = {'scale': array(layer.weight), 'bias': array(layer.bias)}
      mean, var = array(layer.running_mean), array(layer.running_var)
      stats[name] = {'mean': mean, 'var': var}
    else:
      kernel = array(layer.weight.T)
      params[name] = {'kernel': kernel, 'bias': array(layer.bias)}
  variables = {'params': params, 'batch_stats': stats}
  return models.ResNet18(width=module.width), variables


def train(module, xs, labels, steps):
  """Trains for so many batches of 64 images, by SGD with momentum."""
  optimizer = torch.optim.SGD(module.parameters(), 0.05, momentum=0.9)
  schedule = torch.optim.lr_scheduler.CosineAnnealingLR(
    optimizer, max(steps, 1)
  )
  module.train()
  rng = np.random.default_rng(0)
  for _ in tqdm.trange(steps, desc='training', unit='batch'):
    rows = rng.integers(len(xs), size=64)
    batch = _peers_torch.to_torch(xs[rows])
    logits = module(batch)
    wanted = torch.from_numpy(labels[rows]).long()
    loss = functional.cross_entropy(logits, wanted)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    schedule.step()


def predict(module, xs):
  """Classes `[n]` that a module gives images `[n, 32, 32, 3]`."""
  with torch.no_grad():
    parts = [
      module(_peers_torch.to_torch(xs[i : i + 100])).argmax(1)
      for i in range(0, len(xs), 100)
    ]
  return torch.cat(parts).numpy().astype(np.int32)


def judge(exact, xs, ys, points, norm):
  """Distances `[n]`; inf where the module, in float64, keeps the class."""
  points = np.clip(np.asarray(points, float), 0, 1)
  with torch.no_grad():
    moved = torch.from_numpy(np.ascontiguousarray(np.moveaxis(points, -1, 1)))
    logits = exact(moved).numpy()
  rows = np.arange(len(ys))
  own = logits[rows, ys]
  logits[rows, ys] = -np.inf
  lengths = np.linalg.norm((points - xs).reshape(len(xs), -1), norm, axis=1)
  return np.where(logits.max(1) - own >= -_TOLERANCE, lengths, np.inf)


def run_ours(config, logits_fn, params, xs, ys):
  """Our search: points and gradients, seconds of a first batch and of all."""
  measure = lambda num: boundary.measure(
    logits_fn,
    xs[:num],
    ys[:num],
    params=params,
    norm=config.norm,
    bounds=(0.0, 1.0),
    method=config.method,
    max_gradients=config.gradients,
    batch_size=min(config.batch_size, len(xs)),
  )
  start = time.process_time()
  measure(config.batch_size)
  middle = time.process_time()
  found = measure(len(xs))
  end = time.process_time()
  return found.point, found.gradients.mean(), middle - start, end - middle


def run_peer(config, model, name, xs, ys):
  """A peer's attack: points, gradients, no first call, and its seconds."""
  start = time.process_time()
  points, gradients, _ = _peers_torch.attack(
    *(model, name, xs, ys, config.norm, config.gradients, None),
    batch_size=config.batch_size,
  )
  return points, gradients, 0.0, time.process_time() - start


def best_peers(config, model, exact, xs, ys):
  """The attack of each library that finds the least mean distance here."""
  found = {}
  for name, peer in _peers_torch.PEERS.items():
    library = name.split('_')[0]
    # One is told how far to look, others draw a start; none stops by itself.
    skipped = peer.own_budget or name in ('advlib_apgd_t', 'foolbox_bb')
    if library == 'torch' or skipped or config.norm not in peer.norms:
      continue
    points, gradients, _, seconds = run_peer(config, model, name, xs, ys)
    mean = judge(exact, xs, ys, points, config.norm).mean()
    print(
      f'{name}: mean {mean:.4g}, {gradients:.0f} gradients, {seconds:.0f} s'
    )
    found.setdefault(library, []).append((mean, name))
  return [min(pairs)[1] for pairs in found.values()]


def sides(config, module):
  """Our sides: `{name: (logits_fn, params)}` of images `[32, 32, 3]`."""
  found = {}
  for via in ('torchax', 'callback')[: 1 + config.callback]:
    of_torch, params = interop.from_torch(module, via=via)
    turned = lambda params, x, fn=of_torch: fn(params, x.transpose(2, 0, 1))
    found[f'ours, from_torch ({via})'] = turned, params
  found['ours, the same in Flax'] = interop.from_flax(*to_flax(module))
  return found


def check(module, ours, xs):
  """Raises where the sides have other logits."""
  with torch.no_grad():
    wanted = module(_peers_torch.to_torch(xs)).numpy()
  for name, (fn, params) in ours.items():
    found = jax.jit(jax.vmap(fn, (None, 0)))(params, xs)
    np.testing.assert_allclose(found, wanted, atol=1e-4, err_msg=name)


def run(config: Config) -> list:
  """Measures all sides; returns the rows of the table."""
  torch.set_num_threads(len(os.sched_getaffinity(0)))
  torch.manual_seed(0)
  module = ResNet18(config.width)
  xs, _ = data.load(config.dataset, 'test', config.data_dir or None)
  if config.train_steps:
    train_set = data.load(config.dataset, 'train', config.data_dir or None)
    train(module, *train_set, config.train_steps)
  module.eval().requires_grad_(False)
  xs = xs[: config.num_examples]
  ys = predict(module, xs)
  exact, model = copy.deepcopy(module).double(), Counted(module)
  ours, pilot = sides(config, module), slice(config.pilot)
  check(module, ours, xs[:3])
  runs = {
    name: lambda pair=pair: run_ours(config, *pair, xs, ys)
    for name, pair in ours.items()
  }
  chosen = (
    config.peers.split(',')
    if config.peers
    else best_peers(config, model, exact, xs[pilot], ys[pilot])
  )
  for name in chosen:
    runs[name] = lambda name=name: run_peer(config, model, name, xs, ys)
  rows = []
  for name, run in runs.items():
    points, gradients, first, seconds = run()
    found = judge(exact, xs, ys, points, config.norm)
    good = found[np.isfinite(found)]
    rows.append(
      [
        name,
        f'{gradients:.0f}',
        f'{len(good) / len(found):.2f}',
        f'{np.quantile(found, 0.5, method="inverted_cdf"):.5f}',
        f'{good.mean() if len(good) else np.inf:.5f}',
        f'{first:.0f} s' if first else '-',
        f'{seconds:.0f} s',
      ]
    )
    print(*rows[-1], flush=True)
  printing.print_table(HEADER, rows)
  return rows


if __name__ == '__main__':
  flags.main(run, Config)
