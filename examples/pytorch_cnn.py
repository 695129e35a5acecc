"""A PyTorch module.

python -m experiments.boundary_distances --network=examples.pytorch_cnn:network
"""

import torch

from dmm_jax import interop

MEAN, STD = 0.3, 0.4  # By which the network normalises pixels in [0, 1].


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

  def of_pixels(params, x):
    """Of [height, width, channels] in [0, 1]: distances are of pixels."""
    return logits_fn(params, (x.transpose(2, 0, 1) - MEAN) / STD)

  return of_pixels, params
