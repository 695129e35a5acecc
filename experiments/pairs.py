"""Pairs of networks that differ in how they were trained, and auto-encoders.

All networks of one kind train at once, from the same weights and in the same
order for every kind: a pair differs in the adversary alone.
"""

import dataclasses
from typing import Any

from flax import linen as nn
import jax
from jax import flatten_util
import jax.numpy as jnp
import numpy as np
from optax import losses

from dmm_jax import manifold
from dmm_jax import parallel
from dmm_jax import programs
from dmm_jax import train
from dmm_jax.train import adversarial
from experiments import networks
from experiments.lib import flags

# Norms of the adversaries by kind of training.
ADVERSARIES = {'PGD l2': 2.0, 'PGD linf': np.inf, 'TRADES': 2.0}
PLAIN, AGAIN = 'plain', 'plain again'  # The second from other weights.
GIVEN = 'given'  # Adversarially trained networks that were read.
# Parts of the seed.
_WEIGHTS, _OTHER_WEIGHTS, _AUTOENCODERS = range(3)


@dataclasses.dataclass(frozen=True)
class Plan:
  """How many networks train, and how.

  Attributes:
    seed: of weights and order.
    num: how many of each kind.
    epochs: passes over the training set.
    radius, radius_linf: of adversaries in l2 and linf, input units.
    trades: weight of the divergence in TRADES.
    attack_steps: gradient steps of an adversary.
  """

  seed: int
  num: int
  epochs: int
  radius: float
  radius_linf: float
  trades: float
  attack_steps: int


class AutoEncoder(nn.Module):
  """A smooth auto-encoder of dense layers: small, and trained in seconds.

  Attributes:
    shape: of the images.
    latent: how many numbers stand for an image.
  """

  shape: tuple[int, ...]
  latent: int

  def setup(self) -> None:
    """Makes the layers."""
    width = 16 * max(8, self.latent)
    self.inner = nn.Dense(width), nn.Dense(self.latent)
    self.outer = nn.Dense(width), nn.Dense(int(np.prod(self.shape)))

  def encode(self, x: jax.Array) -> jax.Array:
    """Returns the code `[latent]` of an image."""
    return self.inner[1](_softplus(self.inner[0](x.ravel())))

  def decode(self, z: jax.Array) -> jax.Array:
    """Returns the image in [0, 1] of a code."""
    out = self.outer[1](_softplus(self.outer[0](z)))
    return nn.sigmoid(out).reshape(self.shape)

  def __call__(
    self, x: jax.Array, train: bool = False
  ) -> tuple[jax.Array, jax.Array]:
    """Returns `(reconstruction, code)` of an image."""
    del train
    z = self.encode(x)
    return self.decode(z), z


def _softplus(h):
  """A smooth ReLU: a decoder made of it has tangents everywhere."""
  return nn.softplus(10 * h) / 10


# --- Reading ---------------------------------------------------------------


def read(plain: str, robust: str, shape: tuple, num_classes: int) -> dict:
  """Returns networks of runs of train_classifier by kind, and their module.

  Args:
    plain, robust: directories, separated by commas; pairs in this order.
    shape, num_classes: that they have to fit.

  Returns:
    `{'module': ..., 'plain': variables, 'given': variables}`; {} for none.

  Raises:
    FlagError, CheckpointError: where there are no such pairs.
  """
  paths = [[p for p in text.split(',') if p] for text in (plain, robust)]
  if len(paths[0]) != len(paths[1]):
    raise flags.FlagError(
      f'--plain names {len(paths[0])} runs and --robust {len(paths[1])}; they '
      'have to be pairs'
    )
  if not paths[0]:
    return {}
  found = [
    [networks.read_for(p, shape, num_classes) for p in some] for some in paths
  ]
  module = found[0][0].module
  if any(one.module != module for some in found for one in some):
    raise flags.FlagError('--plain and --robust name different architectures')
  return {
    kind: [networks.variables(one.state) for one in some]
    for kind, some in zip((PLAIN, GIVEN), found, strict=True)
  } | {'module': module}


def flatten(given: list) -> np.ndarray:
  """Returns the variables of networks as rows `[m, p]`."""
  return np.stack([flatten_util.ravel_pytree(v)[0] for v in given])


def unflatten(module: nn.Module, x: np.ndarray, flat: np.ndarray) -> Any:
  """Returns variables from a row of `flatten`; `x` is one input."""
  keys = {'params': jax.random.key(0), 'latent': jax.random.key(0)}
  like = jax.eval_shape(module.init, keys, x)
  like = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), like)
  return flatten_util.ravel_pytree(like)[1](jnp.asarray(flat))


# --- Training --------------------------------------------------------------


def adversary(plan: Plan, kind: str) -> adversarial.Adversary | None:
  """Returns how networks of a kind are attacked in training; None: not."""
  if kind not in ADVERSARIES:
    return None
  norm = ADVERSARIES[kind]
  return adversarial.Adversary(
    plan.radius if norm == 2 else plan.radius_linf,
    norm,
    num_steps=plan.attack_steps,
    trades=plan.trades if kind == 'TRADES' else 0.0,
  )


def train_kind(
  plan: Plan, module: nn.Module, xs: np.ndarray, labels: np.ndarray, kind: str
) -> np.ndarray:
  """Returns the networks of a kind, trained, as rows `[num, p]`."""
  part = _OTHER_WEIGHTS if kind == AGAIN else _WEIGHTS
  config = train.TrainConfig(
    learning_rate=3e-3, num_epochs=plan.epochs, adversary=adversary(plan, kind)
  )
  return _fit(plan, part, module, xs, labels, config)


def train_autoencoders(
  plan: Plan, module: nn.Module, xs: np.ndarray, epochs: int
) -> np.ndarray:
  """Returns an auto-encoder for each pair of networks, likewise."""
  config = train.TrainConfig(
    learning_rate=3e-3, num_epochs=epochs, loss='reconstruction'
  )
  return _fit(plan, _AUTOENCODERS, module, xs, xs, config)


def _fit(plan, part, module, xs, targets, config):
  optimizer = train.make_optimizer(config, len(xs))
  base = jax.random.fold_in(jax.random.key(plan.seed), part)
  own = jnp.stack([jax.random.fold_in(base, i) for i in range(plan.num)])
  weights, orders = jax.vmap(jax.random.split, out_axes=1)(own)
  *_, last = train.fit(
    orders,
    train.flax_forward(module),
    train.init_state(weights, module, xs[0], optimizer),
    xs,
    targets,
    config=config,
    each_epoch=False,
  )
  # On the host: devices that hold networks of their own need not wait there.
  params = jax.device_get(last.state.params)
  one = lambda i: {'params': jax.tree.map(lambda v: v[i], params)}
  return flatten([one(i) for i in range(plan.num)])


# --- Instruments -----------------------------------------------------------


def accuracies(
  module: nn.Module,
  flat: np.ndarray,
  xs: np.ndarray,
  labels: np.ndarray,
  *,
  radius: float,
  norm: float,
  batch_size: int = 1000,
) -> np.ndarray:
  """Returns the accuracy of networks `[m]` under an attack of 20 PGD steps.

  Args:
    module, flat: the networks.
    xs, labels: images and classes.
    radius, norm: of the attack; a radius of 0 is none.
    batch_size: images at once.
  """
  right = programs.bind(_is_right, module=module, norm=norm)
  columns = (xs, labels, np.arange(len(xs)))
  found = [
    parallel.map_examples(
      right,
      columns,
      # One program for all radii.
      shared=(unflatten(module, xs[0], row), np.float32(radius)),
      batch_size=batch_size,
    )
    for row in flat
  ]
  return np.mean(found, axis=1)


def _is_right(x, label, number, variables, radius, *, module, norm):
  logits_fn = lambda v: module.apply(variables, v)[0]
  loss = lambda v: losses.softmax_cross_entropy_with_integer_labels(
    logits_fn(v), label
  )
  key = jax.random.fold_in(jax.random.key(0), number)
  attack = adversarial.Adversary(radius, norm, num_steps=20)
  attacked = adversarial.perturb(key, loss, x, attack)
  return jnp.argmax(logits_fn(attacked)) == label


def reconstruction_errors(
  module: nn.Module,
  flat: np.ndarray,
  xs: np.ndarray,
  train_xs: np.ndarray,
  batch_size: int = 1000,
) -> tuple[np.ndarray, float]:
  """Returns mean squared errors of auto-encoders `[m]`, and that of PCA.

  Of principal components of the training images, as many as latents, at the
  images `xs`.
  """
  errors, shape = [], None
  for row in flat:
    made, codes = parallel.map_examples(
      programs.bind(_reconstruct, module=module),
      (xs,),
      shared=(unflatten(module, xs[0], row),),
      batch_size=batch_size,
    )
    errors.append(np.mean((made - xs) ** 2, dtype=float))
    shape = codes.shape
  assert shape is not None
  centred = (xs - train_xs.mean(0)).reshape(len(xs), -1)
  basis = manifold.principal_basis(train_xs, shape[1])
  rest = centred - centred @ basis.T @ basis
  return np.array(errors), float(np.mean(rest**2, dtype=float))


def _reconstruct(x, variables, *, module):
  z = module.apply(variables, x, method='encode')
  return module.apply(variables, z, method='decode'), z


def tangents(
  module: nn.Module, flat: np.ndarray, xs: np.ndarray, batch_size: int = 100
) -> np.ndarray:
  """Returns tangent spaces of one auto-encoder at images `[n, k, d]`."""
  return parallel.map_examples(
    programs.bind(_tangent, module=module),
    (xs,),
    shared=(unflatten(module, xs[0], flat),),
    batch_size=batch_size,
  )


def _tangent(x, variables, *, module):
  decode = lambda z: module.apply(variables, z, method='decode')
  z = module.apply(variables, x, method='encode')
  return manifold.tangent_basis(decode, z)
