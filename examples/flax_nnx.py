"""A Flax NNX model.

python -m experiments.boundary_distances --network=examples.flax_nnx:network
"""

from flax import nnx

from dmm_jax import interop


class Network(nnx.Module):
  """Of a batch of images."""

  def __init__(self, rngs: nnx.Rngs) -> None:
    self.conv = nnx.Conv(1, 16, (3, 3), rngs=rngs)
    self.dropout = nnx.Dropout(0.1, rngs=rngs)
    self.dense = nnx.Linear(1024, 10, rngs=rngs)

  def __call__(self, x):
    x = self.dropout(nnx.relu(self.conv(x)))
    return self.dense(x.reshape(len(x), -1))


def network():
  return interop.from_nnx(Network(nnx.Rngs(0)))
