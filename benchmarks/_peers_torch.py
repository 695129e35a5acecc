"""Public minimal-norm attacks in PyTorch, for `boundary_peers`.

adv-lib 0.2.8 (https://github.com/jeromerony/adversarial-library) and foolbox
3.3.4 (https://github.com/bethgelab/foolbox), with the settings that their
authors or AttackBench (https://github.com/attackbench/AttackBench) give them;
two also with longer steps, which find fewer changed inputs here.

No public attack minimises an l^p norm other than of p = 0, 1, 2 and inf: for
these `torch_pgd` and `torch_pgd_t` stand in, written here, from nothing of
`dmm_jax`.
"""

from collections.abc import Callable
from collections.abc import Container
import importlib
import math
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


class Network(torch.nn.Module):
  """A reference network.

  Takes `[n, channels, rows, columns]`, or `[n, d]` where there is no
  convolution.
  """

  def __init__(self, weights):
    super().__init__()
    layers = [k.removesuffix('_bias') for k in weights if k.endswith('_bias')]
    self._convs = [name for name in layers if name.startswith('conv')]
    self._denses = [name for name in layers if name.startswith('fc')]
    for name in layers:
      kernel = torch.from_numpy(weights[f'{name}_kernel'])
      kernel = kernel.permute(3, 2, 0, 1) if kernel.ndim == 4 else kernel.T
      self.register_buffer(f'{name}_kernel', kernel.contiguous())
      bias = torch.from_numpy(weights[f'{name}_bias'])
      self.register_buffer(f'{name}_bias', bias)

  def _layer(self, name):
    return getattr(self, f'{name}_kernel'), getattr(self, f'{name}_bias')

  def forward(self, xs):
    for name in self._convs:
      xs = functional.conv2d(xs, *self._layer(name), padding=1)
      xs = functional.max_pool2d(functional.relu(xs), 2)
    if self._convs:  # The stored weights flatten rows, columns, channels.
      xs = xs.permute(0, 2, 3, 1).flatten(1)
    for name in self._denses[:-1]:
      xs = functional.relu(functional.linear(xs, *self._layer(name)))
    return functional.linear(xs, *self._layer(self._denses[-1]))


class Model(torch.nn.Module):
  """A reference network; counts rows evaluated and rows differentiated."""

  def __init__(self, weights):
    super().__init__()
    self.network = Network(weights)
    self.counts = dict(forwards=0, gradients=0)

  def forward(self, xs):
    self.counts['forwards'] += len(xs)
    return _Tally.apply(self.network(xs), self.counts)


class Peer(NamedTuple):
  """An attack of others.

  Attributes:
    norms: that it minimises; 0 for the number of changed inputs.
    run: `(model, xs, ys, norm, budget, largest) -> points`; `largest` is the
      largest best known distance, for attacks that bisect the radius, or None.
    own_budget: whether it stops by itself, and `budget` means nothing to it.
  """

  norms: Container[float]
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


def _fmn_long(model, xs, ys, norm, budget, largest):
  return adv.fmn(model, xs, ys, norm=norm, steps=budget, α_init=10)


def _sigma_zero(model, xs, ys, norm, budget, largest):
  return adv.sigma_zero(model, xs, ys, num_steps=budget)


def _vfga(model, xs, ys, norm, budget, largest):
  return adv.vfga(model, xs, ys, targeted=False)


def _pdpgd(model, xs, ys, norm, budget, largest, **options):
  if norm == 0:  # The operator of l^(2/3), which its authors prefer to l0's.
    options['proximal_operator'] = 23
  return adv.pdpgd(model, xs, ys, norm=norm, num_steps=budget, **options)


def _pdpgd_long(*args):
  return _pdpgd(*args, primal_lr=1.0)


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
  name = {0: 'L0', 1: 'L1', 2: 'L2', np.inf: 'LInf'}[norm] + 'FMNAttack'
  return _foolbox(getattr(foolbox.attacks, name)(steps=budget), model, xs, ys)


def _foolbox_ead(model, xs, ys, norm, budget, largest):
  attack = foolbox.attacks.EADAttack(
    binary_search_steps=9, steps=max(budget // 9, 1), decision_rule='L1'
  )
  return _foolbox(attack, model, xs, ys)


def _foolbox_bb(model, xs, ys, norm, budget, largest):
  # Its own search for a starting point fails on some; it walks from DDN's. In
  # l0 from sigma-zero's, which is nearer, or VFGA's.
  names = {0: 'L0', 1: 'L1', 2: 'L2', np.inf: 'Linfinity'}
  attack = getattr(foolbox.attacks, names[norm] + 'BrendelBethgeAttack')
  if norm == 0:
    start = adv.sigma_zero(model, xs, ys, num_steps=50)
    with torch.no_grad():
      missed = model(start).argmax(1) == ys
    if missed.any():
      start[missed] = adv.vfga(model, xs[missed], ys[missed], targeted=False)
  else:
    start = _foolbox(foolbox.attacks.DDNAttack(steps=50), model, xs, ys)
  walk = attack(steps=max(budget - 50, 1))
  return _foolbox(walk, model, xs, ys, starting_points=start)


def _foolbox_pointwise(model, xs, ys, norm, budget, largest):
  # Puts inputs back one by one. Its search along each of them changes no count.
  attack = foolbox.attacks.PointwiseAttack(l2_binary_search=False)
  return _foolbox(attack, model, xs, ys)


def _norms(deltas, p):
  """l^p norms `[n]` of rows of any shape; small entries do not underflow."""
  flat = deltas.flatten(1)
  largest = flat.abs().amax(1).clamp_min(1e-30)
  return largest * torch.linalg.vector_norm(flat / largest[:, None], p, 1)


def _each(numbers, deltas):
  """Numbers `[n]`, to multiply or choose rows of `deltas` by."""
  return numbers.view(-1, *[1] * (deltas.ndim - 1))


class _BallSearch:
  """Projected gradient descent in l^p balls of bisected radius, 1 < p < inf.

  A row for each example, or for each example and class to reach. Every row has
  a ball of its own. It descends by the steepest step of the norm, shorter and
  shorter along a cosine, scaled back into the ball and clipped to [0, 1]: what
  stays where it is satisfies the conditions of an optimum in both. A point of
  another class is pulled back along its segment and bounds the radius from
  above; a round of steps without one bounds it from below. Once the bounds
  meet, the lower is taken back by 5 %, and rounds are twice as long.

  Its settings were chosen on l2: there `torch_pgd_t` ends 0.3 % (mnist_mlp) and
  1 % (mnist_cnn) above the best known distances, on average, of 1000 gradients.

  Attributes:
    found: rows for which some point is of another class.
    best, size: the nearest such change of a row, and its norm.
  """

  _FIRST_ROUND = 12  # Steps.
  _LENGTHS = 2.0, 0.02  # Of the first and last step of a round, in radii.
  _GAP = 3e-4  # Between bounds that meet.
  _BACK = 0.05

  def __init__(self, model, xs, ys, targets, p):
    self._model, self._p = model, p
    self._xs, self._ys, self._targets = xs, ys, targets
    self.found = torch.zeros(len(xs), dtype=torch.bool)
    self.best = torch.zeros_like(xs)
    self.size = _norms(torch.maximum(xs, 1 - xs), p)
    self._delta = torch.zeros_like(xs)
    self._radius = torch.full_like(self.size, torch.nan)
    self._failed = torch.zeros_like(self.size)
    self._step = torch.zeros_like(self.size)
    self._round = torch.full_like(self.size, self._FIRST_ROUND)

  def keep(self, rows):
    """Goes on with these rows alone."""
    for name, value in vars(self).items():
      if isinstance(value, torch.Tensor):
        setattr(self, name, value[rows])

  def run(self, steps):
    """Takes so many gradients of every row."""
    for _ in range(steps):
      points = (self._xs + self._delta).requires_grad_()
      fooled, margin = self._margins(points, self._ys, self._targets)
      gradient = torch.autograd.grad(margin.sum(), points)[0]
      self._judge(fooled.detach() > 0, margin.detach(), gradient)
      self._descend(gradient)

  def _margins(self, points, ys, targets):
    """Of the best other logit, and of the one to reach, over the true one."""
    logits = self._model(points)
    own = logits.gather(1, ys[:, None])[:, 0]
    best = logits.scatter(1, ys[:, None], -torch.inf).amax(1)
    aim = best
    if targets is not None:
      aim = logits.gather(1, targets[:, None])[:, 0]
    return best - own, aim - own

  def _judge(self, fooled, margin, gradient):
    """Moves the bounds, and begins new rounds where one has ended."""
    self._step += 1
    dual = self._p / (self._p - 1)
    linear = -margin / _norms(gradient, dual).clamp_min(1e-12)
    start = torch.minimum(1.5 * linear.clamp_min(1e-6), self.size)
    self._radius = torch.where(self._radius.isnan(), start, self._radius)
    if fooled.any():
      self._pull_back(fooled.nonzero()[:, 0])
    failed = (self._step >= self._round) & ~fooled
    reached = torch.maximum(self._failed, self._radius)
    self._failed = torch.where(failed, reached, self._failed)
    ended = fooled | failed
    gap = self.size - self._failed
    meet = ended & self.found & (gap < self._GAP * self.size)
    back = self.size * (1 - self._BACK)
    self._failed = torch.where(meet, back, self._failed)
    self._round = torch.where(meet, 2 * self._round, self._round)
    middle = (self._failed + self.size) / 2
    larger = torch.minimum(2 * self._radius, self.size)
    radius = torch.where(self.found, middle, larger)
    self._radius = torch.where(ended, radius, self._radius)
    again = _each(ended & self.found, self.best)
    self._delta = torch.where(again, self.best, self._delta)
    self._step = torch.where(ended, 0.0, self._step)

  @torch.no_grad()
  def _pull_back(self, rows):
    xs, ys, deltas = self._xs[rows], self._ys[rows], self._delta[rows]
    low = torch.zeros(len(rows))
    high = torch.ones(len(rows))
    for _ in range(8):
      middle = (low + high) / 2
      points = xs + deltas * _each(middle, deltas)
      fooled = self._margins(points, ys, None)[0] > 0
      low = torch.where(fooled, low, middle)
      high = torch.where(fooled, middle, high)
    deltas = deltas * _each(high, deltas)
    sizes = _norms(deltas, self._p)
    nearer = sizes < self.size[rows]
    self.size[rows[nearer]] = sizes[nearer]
    self.best[rows[nearer]] = deltas[nearer]
    self.found[rows] = True

  def _descend(self, gradient):
    """The steepest step that the box lets go, then back into the ball."""
    first, last = self._LENGTHS
    cosine = (1 + torch.cos(math.pi * self._step / self._round)) / 2
    length = (last + (first - last) * cosine) * self._radius
    low, high = -self._xs, 1 - self._xs
    free = torch.where(gradient > 0, self._delta < high, self._delta > low)
    slope = gradient * free
    largest = slope.abs().flatten(1).amax(1).clamp_min(1e-30)
    steepest = (slope.abs() / _each(largest, slope)) ** (1 / (self._p - 1))
    length = length / _norms(steepest, self._p).clamp_min(1e-30)
    ahead = self._delta + slope.sign() * steepest * _each(length, slope)
    self._delta = self._into_ball(ahead, low, high)

  def _into_ball(self, deltas, low, high):
    """Scales rows down until, clipped, they are of the radius at most."""
    clipped = torch.clamp(deltas, low, high)
    inside = _norms(clipped, self._p) <= self._radius
    small, large = torch.zeros_like(self.size), torch.ones_like(self.size)
    for _ in range(20):
      scale = (small + large) / 2
      scaled = torch.clamp(deltas * _each(scale, deltas), low, high)
      beyond = _norms(scaled, self._p) > self._radius
      small = torch.where(beyond, small, scale)
      large = torch.where(beyond, scale, large)
    scaled = torch.clamp(deltas * _each(small, deltas), low, high)
    return torch.where(_each(inside, deltas), clipped, scaled)


def _pgd(model, xs, ys, norm, budget, largest):
  search = _BallSearch(model, xs, ys, None, norm)
  search.run(budget)
  return xs + search.best


def _pgd_targeted(model, xs, ys, norm, budget, largest):
  """Half the gradients on all classes alike, the rest on the nearest two."""
  with torch.no_grad():
    others = model(xs[:1]).shape[1] - 1
  nearest = min(2, others)
  size = len(xs)
  targets = (ys[:, None] + torch.arange(1, others + 1)) % (others + 1)
  rows = torch.arange(size).repeat_interleave(others)
  search = _BallSearch(model, xs[rows], ys[rows], targets.flatten(), norm)
  steps = max(budget // 2 // others, 1)
  search.run(steps)
  sizes = torch.where(search.found, search.size, torch.inf)
  order = sizes.view(size, others).argsort(1)[:, :nearest]
  search.keep((order + others * torch.arange(size)[:, None]).flatten())
  search.run(max(budget - steps * others, 0) // nearest)
  sizes = torch.where(search.found, search.size, torch.inf)
  chosen = sizes.view(size, nearest).argmin(1)
  return xs + search.best[chosen + nearest * torch.arange(size)]


class _OtherNorms:
  """Exponents of norms for which there are no public attacks."""

  def __contains__(self, norm):
    return norm > 1 and norm not in _ALL


_ALL = (1.0, 2.0, np.inf)
PEERS = {
  'advlib_ddn': Peer((2.0,), _ddn),
  'advlib_alma': Peer((1.0, 2.0), _alma),
  'advlib_fmn': Peer((0.0, *_ALL), _fmn),
  'advlib_fmn_long': Peer((0.0,), _fmn_long),
  'advlib_sigma_zero': Peer((0.0,), _sigma_zero),
  'advlib_vfga': Peer((0.0,), _vfga, own_budget=True),
  'advlib_pdpgd': Peer((0.0, *_ALL), _pdpgd),
  'advlib_pdpgd_long': Peer((0.0,), _pdpgd_long),
  'advlib_pdgd': Peer((2.0,), _pdgd),
  'advlib_fab': Peer(_ALL, _fab),
  'advlib_fab_t': Peer(_ALL, _fab_targeted),
  'advlib_apgd_t': Peer(_ALL, _apgd_targeted),
  'advlib_deepfool': Peer((2.0, np.inf), _deepfool, own_budget=True),
  'advlib_superdeepfool': Peer((2.0,), _superdeepfool, own_budget=True),
  'advlib_tr': Peer((2.0, np.inf), _trust_region, own_budget=True),
  'foolbox_ddn': Peer((2.0,), _foolbox_ddn),
  'foolbox_fmn': Peer((0.0, *_ALL), _foolbox_fmn),
  'foolbox_ead': Peer((1.0,), _foolbox_ead),
  'foolbox_bb': Peer((0.0, *_ALL), _foolbox_bb),
  'foolbox_pointwise': Peer((0.0,), _foolbox_pointwise, own_budget=True),
  'torch_pgd': Peer(_OtherNorms(), _pgd),
  'torch_pgd_t': Peer(_OtherNorms(), _pgd_targeted),
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
  np.random.seed(0)  # noqa: NPY002  foolbox draws from it.
  model.counts.update(forwards=0, gradients=0)
  points = []
  for start in range(0, len(xs), batch_size):
    part = slice(start, start + batch_size)
    batch = to_torch(xs[part]), torch.from_numpy(np.asarray(ys[part], np.int64))
    found = PEERS[name].run(model, *batch, norm, budget, largest)
    points.append(to_numpy(found))
  spent = (model.counts[key] / len(xs) for key in ('gradients', 'forwards'))
  return np.concatenate(points), *spent
