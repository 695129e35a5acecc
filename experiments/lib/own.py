"""A user's own network and data, as flags name them.

  --network=package.module:function   in the current directory or installed
  --data=FILE.npz                     arrays xs and labels

The function takes nothing and returns `logits_fn`, from one input to logits
`[k]`, or `(logits_fn, params)` with `logits_fn(params, input)`, as those of
`dmm_jax.interop` are.
"""

from collections.abc import Callable
import dataclasses
import importlib
import os
import sys
from typing import Any
import zipfile

import jax
import jax.numpy as jnp
import numpy as np

from dmm_jax import certify
from dmm_jax import data
from dmm_jax import margins
from dmm_jax import parallel
from dmm_jax import train
from dmm_jax.boundary import network as network_lib
from dmm_jax.train import populations
from experiments.lib import flags

FIRST = 256  # Inputs at which a network has to have finite logits.
HELP = (
  'Your own network, as package.module:function; the function returns '
  '(logits_fn, params) or logits_fn. Empty trains networks here.'
)
SEVERAL_HELP = (
  'Your own networks, as package.module:function, separated by commas; each '
  'function returns (logits_fn, params) or logits_fn. '
)
DATA_HELP = (
  'Your own examples: an .npz file with xs [n, ...] and labels [n], and '
  'train_xs and train_labels where something is trained. Empty: --dataset.'
)
GIVEN = 'given'  # The architecture, or population, of a user's networks.
LIBRARIES = 'torch', 'flax', 'keras'  # Of modules that are no logits_fn.
PAIRS = {'test': ('xs', 'labels'), 'train': ('train_xs', 'train_labels')}


def beside_models() -> Any:
  """Returns the field `network`, of as many as --num_networks."""
  text = (
    'As many as --num_networks: they stand beside --models, and were trained '
    'on the same images. Empty: none.'
  )
  return flags.flag('', SEVERAL_HELP + text)


def architectures(config: Any) -> list[str]:
  """Returns the --models of a config, and `GIVEN` where it has a --network."""
  return [*config.models, *([GIVEN] if config.network else [])]


@dataclasses.dataclass(frozen=True, eq=False)
class Network:
  """A function in place of a Flax module.

  Attributes:
    logits_fn: `(params, input)` -> logits `[k]`.
    params: a pytree of arrays.
    num_classes: k.
  """

  logits_fn: Callable
  params: Any
  num_classes: int

  def init(self, *args: Any) -> Any:
    """Returns the parameters, whatever a module would be given."""
    del args
    return self.params

  def apply(self, variables: Any, x: jax.Array) -> tuple[jax.Array, dict]:
    """Returns the logits of one input, and no codes."""
    return self.logits_fn(variables, x), {}


@dataclasses.dataclass(frozen=True, eq=False)
class Several:
  """Networks as one Flax module, whose only parameter is their number.

  Attributes:
    networks: of the same classes.
    num_classes: their number.
  """

  networks: tuple[Network, ...]
  num_classes: int

  def variables(self, number: int) -> dict:
    """Returns the variables of a network, as of a module."""
    return {'params': np.int32(number)}

  def init(self, *args: Any) -> dict:
    """Returns variables, whatever a module would be given."""
    del args
    return {'params': jnp.int32(0)}

  def apply(
    self, variables: dict, x: jax.Array, **options: Any
  ) -> tuple[jax.Array, dict]:
    """Returns the logits of one input, and no codes; options do nothing."""
    del options
    calls = [
      lambda x, one=one: one.apply(one.params, x)[0].astype(jnp.float32)
      for one in self.networks
    ]
    return jax.lax.switch(variables['params'], calls, x), {}


def check_examples(
  config: Any, network: Network, xs: np.ndarray, bounds: tuple | None
) -> None:
  """Raises FlagError where a network's examples cannot be measured.

  Args:
    config: flags `network` and `data`.
    network: the user's.
    xs: inputs `[n, ...]`.
    bounds: of inputs, or None.

  Raises:
    FlagError: for inputs outside of the bounds, and for logits that are NaN,
      have no largest one, or are probabilities.
  """
  flat = np.asarray(xs).reshape(len(xs), -1)
  low, high = bounds or (-np.inf, np.inf)
  outside = (flat.min(1) < low) | (flat.max(1) > high)
  if outside.any():
    raise flags.FlagError(
      f'{source(config)}: {outside.sum()} of {len(flat)} inputs lie outside '
      f'of {low:g} to {high:g}: they go from {flat.min():.4g} to '
      f'{flat.max():.4g}; give their range as --bounds=LOW,HIGH'
    )
  _check_logits(config.network, network, xs)


def _check_logits(name, network, xs):
  """Raises FlagError where logits are NaN, have no largest one, or saturate."""
  logits = lambda x, params: network.logits_fn(params, x)
  found = parallel.map_examples(logits, (xs,), shared=(network.params,))
  resolution = margins.dtype_resolution(found.dtype)
  found = np.asarray(found, np.float32)
  bad = ~np.isfinite(np.max(found, axis=1))
  if bad.any():
    raise flags.FlagError(
      f'--network={name} gives NaN or infinity for {bad.sum()} of {len(bad)} '
      f'examples, the first of them number {bad.argmax()}'
    )
  # One example's logits may add up to 1 by chance.
  if len(found) > 1 and network_lib.are_probabilities(found, resolution).all():
    raise flags.FlagError(
      f'--network={name} returns numbers in [0, 1] that add up to 1 for all of '
      f'{len(bad)} examples: these look like probabilities. A softmax '
      'saturates and its gradients vanish, so that boundaries are missed; '
      'return the logits before it instead'
    )


def can_be_certified(
  network: Network, xs: np.ndarray, labels: np.ndarray, bounds: tuple | None
) -> bool:
  """Returns whether `certify` reads a network; prints why it does not.

  Args:
    network: the user's.
    xs, labels: examples `[n, ...]` and their classes `[n]`.
    bounds: of inputs, or None.
  """
  logits_fn = lambda x: network.apply(network.params, x)[0]
  try:
    certify.check_network(logits_fn, xs, labels, bounds=bounds)
  except (TypeError, ValueError) as error:
    print(f'No certified bounds: {error}')
    return False
  return True


def population(
  module: Any, xs: np.ndarray, labels: np.ndarray, num: int, step: int
) -> populations.Population:
  """Returns a user's networks as if they had been trained here to the end.

  Args:
    module: as of `several`.
    xs, labels: what they were trained on.
    num: how many networks.
    step: the only one.
  """
  return populations.Population(
    train.flax_forward(module),
    populations.Examples(
      np.tile(labels, (num, 1)), np.tile(np.arange(len(xs)), (num, 1))
    ),
    np.array([step]),
    np.arange(num, dtype=np.int32)[None, :, None],
    populations.unraveler(module, xs[0]),
  )


def several(
  names: str, xs: np.ndarray, labels: np.ndarray, wanted: int = 0
) -> Several:
  """Returns the networks that a flag names, as one module.

  Args:
    names: of functions, separated by commas.
    xs, labels: as of `network`.
    wanted: how many there have to be, as --num_networks says; 0 for any number.

  Raises:
    FlagError: as of `network`, and for other numbers of networks or classes.
  """
  parts = [name for name in names.split(',') if name]
  if wanted and len(parts) != wanted:
    raise flags.FlagError(
      f'--network={names}: {len(parts)} networks, but --num_networks={wanted}'
    )
  found = [network(name, xs, labels) for name in parts]
  sizes = {one.num_classes for one in found}
  if len(sizes) > 1:
    raise flags.FlagError(
      f'--network={names}: networks of {sorted(sizes)} classes'
    )
  return Several(tuple(found), sizes.pop())


def network(name: str, xs: np.ndarray, labels: np.ndarray) -> Network:
  """Returns the network that a flag names.

  Args:
    name: `package.module:function`.
    xs: `[n, ...]`, its inputs; at the first of them it is evaluated.
    labels: `[n]`, their classes.

  Raises:
    FlagError: if there is no such function, or what it returns is no network of
      these inputs and classes.
  """
  made = _call(name)
  fn, params = made if isinstance(made, tuple) else (made, None)
  owners = {base.__module__.split('.')[0] for base in type(fn).__mro__}
  if not callable(fn) or not owners.isdisjoint(LIBRARIES):
    raise flags.FlagError(
      f'--network={name} has to return logits_fn or (logits_fn, params), not '
      f'{type(fn).__name__}; modules of PyTorch, Flax and Keras become such a '
      'pair by dmm_jax.interop: from_torch(module), from_flax, from_nnx, '
      'from_keras'
    )
  pair = isinstance(made, tuple)
  logits_fn = fn if pair else lambda params, x: fn(x)
  params = jax.tree.map(jnp.asarray, {} if params is None else params)
  try:
    x = jnp.asarray(xs[0])
    num_classes = network_lib.check(fn, x, params if pair else None).size
  except (TypeError, ValueError) as error:
    raise flags.FlagError(
      f'--network={name} has to return logits_fn or (logits_fn, params): '
      f'{error}'
    ) from error
  if labels.min() < 0 or labels.max() >= num_classes:
    raise flags.FlagError(
      f'--network={name} has {num_classes} classes, labels are '
      f'{labels.min()} to {labels.max()}'
    )
  found = Network(logits_fn, params, num_classes)
  _check_logits(name, found, np.asarray(xs[:FIRST]))
  return found


def _call(name):
  """What the function of that name returns."""
  module, _, function = name.partition(':')
  if not module or not function:
    raise flags.FlagError(f'--network={name} has to be package.module:function')
  if os.getcwd() not in sys.path:
    sys.path.insert(0, os.getcwd())
  try:
    found = getattr(importlib.import_module(module), function)
  except (ImportError, AttributeError, ValueError) as error:
    raise flags.FlagError(
      f'--network={name}: {error}; modules are looked for in {os.getcwd()}, in '
      '$PYTHONPATH, and among what is installed'
    ) from error
  if not callable(found):
    raise flags.FlagError(f'--network={name} is no function')
  return found()


def read(config: Any, split: str, **options: Any) -> tuple[Any, np.ndarray]:
  """Returns `(xs [n, ...], labels [n])` of a split, as flags say.

  Args:
    config: with `data`, a file or '', `dataset` and `data_dir`.
    split: 'train' or 'test'.
    **options: of `data.load`.
  """
  if config.data:
    return examples(config.data, split)
  return data.load(config.dataset, split, config.data_dir or None, **options)


def source(config: Any) -> str:
  """Returns what to call the examples: the name of the file, or of the set."""
  return os.path.basename(config.data) or config.dataset


def examples(path: str, split: str = 'test') -> tuple[np.ndarray, np.ndarray]:
  """Returns `(xs [n, ...], labels [n])` of a file.

  Args:
    path: of an .npz file, without pickled objects.
    split: 'test', or 'train' for `train_xs` and `train_labels`.

  Raises:
    FlagError: if it cannot be read, or has no such arrays.
  """
  names = PAIRS[split]
  try:
    with np.load(path, allow_pickle=False) as file:
      known = list(file)
      missing = [name for name in names if name not in known]
      if missing:
        raise flags.FlagError(
          f'--data={path} has no {" and no ".join(missing)}; it has '
          f'{", ".join(known) or "nothing"}'
        )
      xs, labels = (file[name] for name in names)
  except (OSError, ValueError, TypeError, zipfile.BadZipFile) as error:
    if isinstance(error, flags.FlagError):
      raise
    raise flags.FlagError(f'--data={path} cannot be read: {error}') from error
  _check(path, names, xs, labels)
  return xs, labels.astype(np.int32)


def _check(path, names, xs, labels):
  """Raises FlagError for what are no examples."""
  wrong = None
  if not np.issubdtype(xs.dtype, np.floating):
    wrong = f'{names[0]} of {xs.dtype}, not of floating-point numbers'
  elif not np.issubdtype(labels.dtype, np.integer):
    wrong = f'{names[1]} of {labels.dtype}, not of integers'
  elif xs.ndim < 2 or labels.shape != xs.shape[:1] or not len(xs):
    wrong = f'{names[0]} {xs.shape} and {names[1]} {labels.shape}'
  elif not np.isfinite(xs).all():
    wrong = f'NaN or infinity in {names[0]}'
  if wrong:
    raise flags.FlagError(f'--data={path} has {wrong}')
