"""Our search in AttackBench: its query counts, its optimality, its attacks.

AttackBench (Cina et al. 2024, https://arxiv.org/abs/2404.19460) runs attacks on
PyTorch models, cuts them off after a number of propagations, forward and
backward, and keeps the nearest adversarial example that each has evaluated. Its
own code does so here, from a checkout of
https://github.com/attackbench/AttackBench, for `interop.torch_attack` and for
its own attacks with its own settings, on one small network:

  python -m benchmarks.attackbench --attackbench=DIR --dataset=digits
  python -m benchmarks.attackbench --attackbench=DIR --data_dir=DIR --norm=linf

Needs the environment of `boundary_peers`. PyTorch is called at each evaluation,
without torchax, so that AttackBench counts it. Our searches evaluate a network
several times a gradient, and batches are filled up with their first examples,
to which AttackBench charges both: ours get a twentieth of the propagations
as gradients, so that none is cut off, which would count as failed.

Local optimality is 1 where an attack is as near as the best of all on every
example. AttackBench measures time by CUDA; without a GPU, the clock of the
machine stands in.
"""

import dataclasses
import functools
import importlib
import inspect
import json
import pathlib
import sys
import textwrap
import time

import jax
import numpy as np
import torch
from torch import nn
from torch.nn import functional

from benchmarks import _peers_torch
from benchmarks import printing
from dmm_jax import data
from dmm_jax import interop
from experiments.lib import flags

DEFAULTS = {
  'l1': ['adv_lib_alma_l1', 'adv_lib_fmn', 'adv_lib_pdpgd', 'adv_lib_fab'],
  'l2': ['adv_lib_alma_l2', 'adv_lib_ddn_NQ', 'adv_lib_fmn', 'adv_lib_pdgd'],
  'linf': ['adv_lib_fmn_linf', 'adv_lib_pdpgd', 'adv_lib_fab', 'adv_lib_tr'],
}
HEADER = (
  'attack, optimality, success, median, mean, forwards, backwards, seconds'
).split(', ')


@dataclasses.dataclass(frozen=True)
class Config:
  attackbench: str = flags.flag('', 'Its checkout.')
  out_dir: str = flags.flag('runs/attackbench', 'Folder of results.')
  dataset: str = flags.flag('mnist', 'Image set.')
  data_dir: str = flags.data_dir()
  norm: str = flags.flag('l2', 'Threat model.', choices=tuple(DEFAULTS))
  attacks: str = flags.flag(
    '',
    "AttackBench's configurations of adv-lib, separated by commas; empty: some "
    'for the norm.',
  )
  methods: tuple[str, ...] = flags.flag(('portfolio', 'fast'), 'Our searches.')
  propagations: int = flags.flag(2000, 'Budget of an example.', least=2)
  gradients: int = flags.flag(
    0, 'Of our searches; 0 takes a twentieth of the propagations.', least=0
  )
  num_examples: int = flags.flag(50, 'Test images.', least=1)
  batch_size: int = flags.flag(50, 'Examples a batch.', least=1)
  train_steps: int = flags.flag(300, 'Batches of 64 images.', least=0)


class _Clock:
  """A CUDA event, where there is no CUDA."""

  def __init__(self, **_):
    self._time = 0.0

  def record(self):
    self._time = time.perf_counter()

  def elapsed_time(self, other):
    """Milliseconds from this event to another."""
    return 1000 * (other._time - self._time)


class AttackBench:
  """What is used of a checkout."""

  def __init__(self, checkout):
    if not (pathlib.Path(checkout) / 'attack_evaluation').is_dir():
      raise flags.FlagError(f'--attackbench={checkout} is no checkout of it')
    sys.path[:0] = [str(checkout), str(pathlib.Path(checkout) / 'analysis')]
    if not torch.cuda.is_available():
      torch.cuda.Event = _Clock
      torch.cuda.synchronize = lambda *_: None
    if not hasattr(np, 'trapz'):  # Until NumPy 2.
      setattr(np, 'trapz', np.trapezoid)  # noqa: B010
    self.run = importlib.import_module('attack_evaluation.utils').run_attack
    wrapper = importlib.import_module(
      'attack_evaluation.models.benchmodel_wrapper'
    )
    self.model = wrapper.BenchModel
    self._adv_lib = importlib.import_module('attack_evaluation.attacks.adv_lib')
    self._configs = importlib.import_module(
      'attack_evaluation.attacks.adv_lib.configs'
    )
    self.optimality = importlib.import_module('utils').eval_optimality
    self._read = importlib.import_module('read')
    self._read.get_model_key = lambda model: model

  def attack(self, name, norm):
    """One of its attacks, with its settings, as it calls it."""
    body = inspect.getsource(getattr(self._configs, name)).split('\n', 1)[1]
    values = {}
    exec(textwrap.dedent(body), vars(self._configs), values)  # By sacred there.
    values['threat_model'] = norm
    make = getattr(self._configs, f'get_adv_lib_{values["name"]}')
    wanted = inspect.signature(make).parameters
    made = make(**{k: v for k, v in values.items() if k in wanted})
    wrapper = self._configs._wrapper
    if isinstance(made, dict):
      return functools.partial(wrapper, **made)
    return functools.partial(wrapper, attack=made)

  def distances(self, folder):
    """`{hash of the example: distance}` of a run, as it reads them."""
    return self._read.read_distances(folder / 'info.json')[1]


class SmallCNN(nn.Sequential):
  """Two convolutions and two dense layers."""

  def __init__(self, size, channels):
    super().__init__(
      nn.Conv2d(channels, 16, 3, padding=1),
      nn.ReLU(),
      nn.MaxPool2d(2),
      nn.Conv2d(16, 32, 3, padding=1),
      nn.ReLU(),
      nn.MaxPool2d(2),
      nn.Flatten(),
      nn.Linear(32 * (size // 4) ** 2, 64),
      nn.ReLU(),
      nn.Linear(64, 10),
    )


def train(module, xs, labels, steps):
  optimizer = torch.optim.Adam(module.parameters(), 2e-3)
  rng = np.random.default_rng(0)
  for _ in range(steps):
    rows = rng.integers(len(xs), size=64)
    logits = module(_peers_torch.to_torch(xs[rows]))
    wanted = torch.from_numpy(labels[rows]).long()
    optimizer.zero_grad()
    functional.cross_entropy(logits, wanted).backward()
    optimizer.step()


def predict(module, xs):
  with torch.no_grad():
    return module(_peers_torch.to_torch(xs)).argmax(1).numpy()


def measure(config, bench, module, batches, name, attack, out_dir):
  """Runs an attack by AttackBench's code; returns what it counted."""
  folder = out_dir / name
  folder.mkdir(parents=True, exist_ok=True)
  torch.manual_seed(0)
  model = bench.model(module, num_max_propagations=config.propagations)
  model.eval()
  info = bench.run(model, batches, attack, threat_model=config.norm)
  described = {
    'model': {'dataset': config.dataset, 'name': 'SmallCNN'},
    'dataset': {'batch_size': config.batch_size},
    'attack': {'threat_model': config.norm},
  }
  (folder / 'config.json').write_text(json.dumps(described))
  (folder / 'info.json').write_text(json.dumps(info))
  return info


def report(bench, infos, out_dir):
  """Rows of the table, from the nearest attack to the farthest."""
  found = {name: bench.distances(out_dir / name) for name in infos}
  keys = list(next(iter(found.values())))
  columns = {name: np.array([d[k] for k in keys]) for name, d in found.items()}
  best = np.min(list(columns.values()), axis=0)
  rows = []
  for name, distances in columns.items():
    info, good = infos[name], distances[np.isfinite(distances)]
    rows.append(
      [
        name,
        f'{bench.optimality(distances, best.tolist()):.4f}',
        f'{info["ASR"]:.2f}',
        f'{np.quantile(distances, 0.5, method="inverted_cdf"):.4f}',
        f'{good.mean() if len(good) else np.inf:.4f}',
        f'{np.mean(info["num_forwards"]):.0f}',
        f'{np.mean(info["num_backwards"]):.0f}',
        f'{sum(info["times"]):.0f}',
      ]
    )
  return sorted(rows, key=lambda row: -float(row[1]))


def run(config: Config) -> list:
  """Runs all attacks; returns the rows of the table."""
  bench = AttackBench(config.attackbench)
  out_dir = pathlib.Path(config.out_dir) / config.norm
  torch.manual_seed(0)
  xs, labels = data.load(config.dataset, 'test', config.data_dir or None)
  module = SmallCNN(xs.shape[1], xs.shape[3])
  train_set = data.load(config.dataset, 'train', config.data_dir or None)
  train(module, *train_set, config.train_steps)
  module.eval().requires_grad_(False)
  print('accuracy', (predict(module, xs) == labels).mean())
  num = config.num_examples
  pairs = torch.utils.data.TensorDataset(
    _peers_torch.to_torch(xs[:num]), torch.from_numpy(labels[:num]).long()
  )
  batches = torch.utils.data.DataLoader(pairs, config.batch_size)
  norm = {'l1': 1, 'l2': 2, 'linf': np.inf}[config.norm]
  gradients = config.gradients or max(config.propagations // 20, 2)
  attacks = {
    f'ours_{method}': interop.torch_attack(
      norm=norm, method=method, max_gradients=gradients
    )
    for method in config.methods
  }
  chosen = [name for name in config.attacks.split(',') if name]
  for name in chosen or DEFAULTS[config.norm]:
    attacks[name] = bench.attack(name, config.norm)
  infos = {
    name: measure(config, bench, module, batches, name, attack, out_dir)
    for name, attack in attacks.items()
  }
  rows = report(bench, infos, out_dir)
  printing.print_table(HEADER, rows)
  return rows


if __name__ == '__main__':
  # AttackBench keeps what belongs to the last call: one device calls.
  jax.config.update('jax_num_cpu_devices', 1)
  flags.main(run, Config)
