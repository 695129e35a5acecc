"""The benchmarks beside PyTorch's own attacks: the same network, its judge."""

import copy
import pathlib

import numpy as np
import pytest

torch = pytest.importorskip('torch')
pytest.importorskip('foolbox')
try:
  from benchmarks import attackbench
  from benchmarks import interop_peers
except ImportError as missing:
  pytest.skip(str(missing), allow_module_level=True)
from dmm_jax import interop  # noqa: E402
from experiments.lib import flags  # noqa: E402


def test_a_resnet_and_its_flax_twin_have_the_same_logits():
  torch.manual_seed(0)
  module = interop_peers.ResNet18(2)
  for name, value in module.state_dict().items():
    if 'running' in name:  # As if it had been trained.
      value += torch.rand(value.shape)
  xs = np.random.default_rng(0).uniform(size=(2, 32, 32, 3))
  xs = xs.astype(np.float32)
  with torch.no_grad():
    want = module.eval()(torch.tensor(xs.transpose(0, 3, 1, 2))).numpy()
  logits_fn, params = interop.from_flax(*interop_peers.to_flax(module))
  for x, logits in zip(xs, want, strict=True):
    np.testing.assert_allclose(logits_fn(params, x), logits, atol=1e-4)
  # The counts are of rows.
  counted = interop_peers.Counted(module)
  leaf = torch.tensor(xs.transpose(0, 3, 1, 2), requires_grad=True)
  counted(leaf).sum().backward()
  assert counted.counts == {'forwards': 2, 'gradients': 2}


def test_the_judge_counts_what_the_module_confuses():
  module = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3, 2))
  with torch.no_grad():
    module[1].weight.copy_(torch.tensor([[1.0, 0, 0], [0, 0, 0]]))
    module[1].bias.copy_(torch.tensor([-0.5, 0]))
  exact = copy.deepcopy(module).double()
  xs = np.full((4, 1, 1, 3), 0.8)
  points = xs.copy()
  points[:, 0, 0, 0] = 0.4, 0.5 + 0.9e-5, 0.5 + 1.1e-5, -3.0
  found = interop_peers.judge(exact, xs, np.zeros(4, int), points, 2)
  np.testing.assert_allclose(found, [0.4, 0.3, np.inf, 0.8], atol=1e-4)
  labels = interop_peers.predict(module, points.astype(np.float32))
  assert labels.tolist() == [1, 0, 0, 1]


def test_a_folder_that_is_no_attackbench_is_told(tmp_path):
  with pytest.raises(flags.FlagError, match='is no checkout of it'):
    attackbench.AttackBench(pathlib.Path(tmp_path))


def test_clocks_stand_in_for_events_of_cuda():
  start, end = attackbench._Clock(enable_timing=True), attackbench._Clock()
  start.record()
  end.record()
  assert 0 <= start.elapsed_time(end) < 1000
