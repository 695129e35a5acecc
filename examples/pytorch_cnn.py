"""A PyTorch module.

python -m experiments.boundary_distances --network=examples.pytorch_cnn:network
"""

import torch

from dmm_jax import interop


def network():
  torch.manual_seed(0)
  module = torch.nn.Sequential(
    torch.nn.Conv2d(1, 16, 3),
    torch.nn.BatchNorm2d(16),
    torch.nn.ReLU(),
    torch.nn.Flatten(),
    torch.nn.Linear(576, 10),
  )
  # module.load_state_dict(torch.load(path))
  logits_fn, params = interop.from_torch(module)
  # Images of the data sets here are [height, width, channels].
  return lambda params, x: logits_fn(params, x.transpose(2, 0, 1)), params
