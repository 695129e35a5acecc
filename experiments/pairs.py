"""Pairs of networks that differ in how they were trained, and auto-encoders.

All networks of one kind train at once, from the same weights and in the same
order for every kind: a pair differs in the adversary alone.
"""

import dataclasses
from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from dmm_jax import manifold
from dmm_jax import parallel
from dmm_jax import programs
from dmm_jax import train
from dmm_jax.train import adversarial
from experiments import networks
from experiments.lib import flags
from experiments.lib import own

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
  both = [*paths[0], *paths[1]]
  found = networks.read_group(
    'plain and --robust', both, shape, num_classes=num_classes
  )
  num = len(paths[0])
  return {
    'module': found.module,
    PLAIN: found.given[:num],
    GIVEN: found.given[num:],
  }


def read_own(names: str, xs: np.ndarray, labels: np.ndarray) -> dict:
  """As `read`, of the user's networks: plain and robust ones by turns."""
  module = own.several(names, xs, labels)
  num = len(module.networks)
  if num % 2:
    raise flags.FlagError(f'--network={names}: {num} networks are no pairs')
  every = [module.variables(number) for number in range(num)]
  return {'module': module, PLAIN: every[::2], GIVEN: every[1::2]}


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
  return np.stack([networks.flatten(one(i)) for i in range(plan.num)])


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
      shared=(networks.unflatten(module, xs[0], row), np.float32(radius)),
      batch_size=batch_size,
    )
    for row in flat
  ]
  return np.mean(found, axis=1)


def _is_right(x, label, number, variables, radius, *, module, norm):
  logits_fn = lambda v: module.apply(variables, v)[0]
  key = jax.random.fold_in(jax.random.key(0), number)
  attack = adversarial.Adversary(radius, norm, num_steps=20)
  attacked = adversarial.attack(key, logits_fn, x, label, attack)
  return jnp.argmax(logits_fn(attacked)) == label


def reconstruction_errors(
  module: nn.Module,
  flat: np.ndarray,
  xs: np.ndarray,
  train_xs: np.ndarray,
  **options: Any,
) -> tuple[np.ndarray, float]:
  """Returns mean squared errors of auto-encoders `[m]`, and that of PCA.

  Of principal components of the training images, as many as latents, at the
  images `xs`; options are those of `parallel.map_examples`.
  """
  errors = []
  for row in flat:
    coder = networks.unflatten(module, xs[0], row)
    _, made = networks.reconstructions(module, coder, xs, **options)
    errors.append(np.mean((made - xs) ** 2, dtype=float))
  rest = manifold.principal_residuals(xs, train_xs, module.latent)
  return np.array(errors), float(np.mean(rest**2, dtype=float))


def tangents(
  module: nn.Module, flat: np.ndarray, xs: np.ndarray, batch_size: int = 100
) -> np.ndarray:
  """Returns tangent spaces of one auto-encoder at images `[n, k, d]`."""
  return parallel.map_examples(
    programs.bind(_tangent, module=module),
    (xs,),
    shared=(networks.unflatten(module, xs[0], flat),),
    batch_size=batch_size,
  )


def _tangent(x, variables, *, module):
  decode = lambda z: module.apply(variables, z, method='decode')
  z = module.apply(variables, x, method='encode')
  return manifold.tangent_basis(decode, z)
