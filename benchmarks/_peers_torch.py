"""Public minimal-norm attacks in PyTorch, for `boundary_peers`.

adv-lib 0.2.8 (https://github.com/jeromerony/adversarial-library) and foolbox
3.3.4 (https://github.com/bethgelab/foolbox), with the settings that their
authors or AttackBench (https://github.com/attackbench/AttackBench) give them.
"""

from collections.abc import Callable
import importlib
import sys
import types
from typing import NamedTuple

import numpy as np
import torch
from torch.nn import functional


def _stub(name, **attributes):
  """Puts an empty module where adv-lib imports one that it does not need."""
  try:
    importlib.import_module(name)
  except Exception:  # A torchvision of another torch raises RuntimeError.
    module = types.ModuleType(name)
    vars(module).update(attributes)
    sys.modules[name] = module


_stub('visdom', Visdom=None)  # Plots the progress.
_stub('torchvision', models=types.ModuleType('models'))  # LPIPS distance.

from adv_lib import attacks as adv  # noqa: E402
from adv_lib.attacks import auto_pgd  # noqa: E402
import foolbox  # noqa: E402


class _Tally(torch.autograd.Function):
  """The identity, which counts the rows whose gradients pass through it."""

  @staticmethod
  def forward(ctx, logits, counts):
    ctx.counts = counts
    return logits.clone()

  @staticmethod
  def backward(ctx, gradient):
    ctx.counts['gradients'] += len(gradient)
    return gradient, None


class Model(torch.nn.Module):
  """A reference network; counts rows evaluated and rows differentiated.

  Takes `[n, channels, rows, columns]`, or `[n, d]` where there is no
  convolution.
  """

  def __init__(self, weights):
    super().__init__()
    self.counts = dict(forwards=0, gradients=0)
    tensor = lambda name: torch.from_numpy(weights[name])
    pair = lambda name: (tensor(f'{name}_kernel'), tensor(f'{name}_bias'))
    layers = [k.removesuffix('_bias') for k in weights if k.endswith('_bias')]
    convs = [pair(name) for name in layers if name.startswith('conv')]
    self.convs = [(k.permute(3, 2, 0, 1).contiguous(), b) for k, b in convs]
    denses = [pair(name) for name in layers if name.startswith('fc')]
    self.denses = [(kernel.T.contiguous(), b) for kernel, b in denses]

  def forward(self, xs):
    self.counts['forwards'] += len(xs)
    for kernel, bias in self.convs:
      xs = functional.relu(functional.conv2d(xs, kernel, bias, padding=1))
      xs = functional.max_pool2d(xs, 2)
    if self.convs:  # The stored weights flatten rows, columns, channels.
      xs = xs.permute(0, 2, 3, 1).flatten(1)
    for kernel, bias in self.denses[:-1]:
      xs = functional.relu(functional.linear(xs, kernel, bias))
    return _Tally.apply(functional.linear(xs, *self.denses[-1]), self.counts)


class Peer(NamedTuple):
  """An attack of others.

  Attributes:
    norms: that it minimises.
    run: `(model, xs, ys, norm, budget, largest) -> points`; `largest` is the
      largest best known distance, for attacks that bisect the radius.
    own_budget: whether it stops by itself, and `budget` means nothing to it.
  """

  norms: tuple[float, ...]
  run: Callable
  own_budget: bool = False


def _ddn(model, xs, ys, norm, budget, largest):
  return adv.ddn(model, xs, ys, steps=budget, levels=None)


def _alma(model, xs, ys, norm, budget, largest):
  return adv.alma(
    model,
    xs,
    ys,
    num_steps=budget,
    distance=f'l{norm:.0f}',
    init_lr_distance={1: 0.5, 2: 0.1}[norm],
    α=0.5 if budget <= 100 else 0.9,
  )


def _fmn(model, xs, ys, norm, budget, largest):
  step = 10 if norm == np.inf else 1
  return adv.fmn(model, xs, ys, norm=norm, steps=budget, α_init=step)


def _pdpgd(model, xs, ys, norm, budget, largest):
  return adv.pdpgd(model, xs, ys, norm=norm, num_steps=budget)


def _pdgd(model, xs, ys, norm, budget, largest):
  return adv.pdgd(model, xs, ys, num_steps=budget)


def _fab(model, xs, ys, norm, budget, largest):
  # One gradient a step for each class but the true one.
  return adv.fab(model, xs, ys, norm=norm, n_iter=max(budget // 9, 1))


def _fab_targeted(model, xs, ys, norm, budget, largest):
  steps = max(budget // 9, 1)
  return adv.fab(model, xs, ys, norm=norm, n_iter=steps, targeted_restarts=True)


def _apgd_targeted(model, xs, ys, norm, budget, largest):
  # At most this many gradients; fewer where the first targets succeed. The
  # bisection is told where to start, which no user could.
  searches, targets = 10, 3
  return auto_pgd.minimal_apgd(
    model,
    xs,
    ys,
    norm=norm,
    max_eps=0.6 * largest,
    binary_search_steps=searches,
    targeted_version=True,
    num_targets=targets,
    n_iter=max(budget // searches // targets - 1, 1),
    use_large_reps=False,
  )


def _deepfool(model, xs, ys, norm, budget, largest):
  return adv.df(model, xs, ys, norm=norm, steps=100)


def _superdeepfool(model, xs, ys, norm, budget, largest):
  return adv.sdf(model, xs, ys)


def _trust_region(model, xs, ys, norm, budget, largest):
  return adv.tr(model, xs, ys, p=norm, iter=200, adaptive=True)


def _foolbox(attack, model, xs, ys, **options):
  wrapped = foolbox.PyTorchModel(model.eval(), bounds=(0, 1))
  return attack(wrapped, xs, ys, epsilons=None, **options)[1]


def _foolbox_ddn(model, xs, ys, norm, budget, largest):
  return _foolbox(foolbox.attacks.DDNAttack(steps=budget), model, xs, ys)


def _foolbox_fmn(model, xs, ys, norm, budget, largest):
  name = {1: 'L1', 2: 'L2', np.inf: 'LInf'}[norm] + 'FMNAttack'
  return _foolbox(getattr(foolbox.attacks, name)(steps=budget), model, xs, ys)


def _foolbox_ead(model, xs, ys, norm, budget, largest):
  attack = foolbox.attacks.EADAttack(
    binary_search_steps=9, steps=max(budget // 9, 1), decision_rule='L1'
  )
  return _foolbox(attack, model, xs, ys)


def _foolbox_bb(model, xs, ys, norm, budget, largest):
  # Its own search for a starting point fails on some; it walks from DDN's.
  name = {1: 'L1', 2: 'L2', np.inf: 'Linfinity'}[norm] + 'BrendelBethgeAttack'
  attack = getattr(foolbox.attacks, name)(steps=max(budget - 50, 1))
  start = _foolbox(foolbox.attacks.DDNAttack(steps=50), model, xs, ys)
  return _foolbox(attack, model, xs, ys, starting_points=start)


_ALL = (1.0, 2.0, np.inf)
PEERS = {
  'advlib_ddn': Peer((2.0,), _ddn),
  'advlib_alma': Peer((1.0, 2.0), _alma),
  'advlib_fmn': Peer(_ALL, _fmn),
  'advlib_pdpgd': Peer(_ALL, _pdpgd),
  'advlib_pdgd': Peer((2.0,), _pdgd),
  'advlib_fab': Peer(_ALL, _fab),
  'advlib_fab_t': Peer(_ALL, _fab_targeted),
  'advlib_apgd_t': Peer(_ALL, _apgd_targeted),
  'advlib_deepfool': Peer((2.0, np.inf), _deepfool, own_budget=True),
  'advlib_superdeepfool': Peer((2.0,), _superdeepfool, own_budget=True),
  'advlib_tr': Peer((2.0, np.inf), _trust_region, own_budget=True),
  'foolbox_ddn': Peer((2.0,), _foolbox_ddn),
  'foolbox_fmn': Peer(_ALL, _foolbox_fmn),
  'foolbox_ead': Peer((1.0,), _foolbox_ead),
  'foolbox_bb': Peer(_ALL, _foolbox_bb),
}


def to_torch(xs):
  """`[n, rows, columns, channels]` or `[n, d]`, as `Model` takes them."""
  xs = np.moveaxis(xs, -1, 1) if xs.ndim == 4 else xs
  return torch.from_numpy(np.ascontiguousarray(xs, np.float32))


def to_numpy(points):
  points = points.detach().numpy()
  return np.moveaxis(points, 1, -1) if points.ndim == 4 else points


def attack(model, name, xs, ys, norm, budget, largest, batch_size=256):
  """Runs one attack over a data set.

  Returns:
    `(points, gradients, forwards)`: points as `xs`; the others are numbers an
    example, rows of batches that went backward and forward.
  """
  torch.manual_seed(0)
  model.counts.update(forwards=0, gradients=0)
  points = []
  for start in range(0, len(xs), batch_size):
    part = slice(start, start + batch_size)
    batch = to_torch(xs[part]), torch.from_numpy(np.asarray(ys[part], np.int64))
    found = PEERS[name].run(model, *batch, norm, budget, largest)
    points.append(to_numpy(found))
  spent = (model.counts[key] / len(xs) for key in ('gradients', 'forwards'))
  return np.concatenate(points), *spent
