"""Networks of other libraries as functions of parameters and one input.

Each `from_*` returns `(logits_fn, params)`, as `boundary.measure` takes them:

  logits_fn, params = interop.from_torch(module)
  boundary.measure(logits_fn, xs, labels, params=params)

`logits_fn(params, x)` gives the logits `[k]` of one input, in evaluation mode:
running averages, no dropout. Where a network takes batches it is given a batch
of one. Of a tuple of outputs the first counts. Inputs are in the network's own
layout: images of PyTorch are `[channels, height, width]`. A library is imported
when its function is called.
"""

from collections.abc import Callable
import contextlib
import copy
import functools
import importlib
import inspect
import threading
import types
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dmm_jax import _xla_cpu
from dmm_jax import boundary

LogitsFn = Callable[[Any, jax.Array], jax.Array]

# Arguments by which modules are told that they are not being trained.
EVALUATION = {
  'train': False,
  'training': False,
  'is_training': False,
  'deterministic': True,
  'use_running_average': True,
}
# Largest difference between logits here and in PyTorch, of the largest logit.
TOLERANCE = {'float64': 1e-9, 'float32': 1e-4}
LOW_PRECISION = 0.05  # The same of half precision.
CHECKED = 3  # Random inputs on which they are compared.
_CALLING = threading.Lock()
# Torchax puts tracers into the module, and has one mode for all threads.
_TRACING = threading.RLock()
OTHER_WAY = "interop.from_torch(module, via='callback') calls PyTorch instead"
INSTALL = {
  'foolbox.attacks.base': 'foolbox',
  'flax.nnx': 'flax',
  'torchax': '--pre torchax',
}


def from_flax(
  module: Any, variables: Any, **arguments: Any
) -> tuple[LogitsFn, Any]:
  """Returns a Flax Linen module as a function of its variables and one input.

  Args:
    module: a `flax.linen.Module`.
    variables: its parameters and statistics, `{'params': ..., ...}`.
    **arguments: of the call, beside the input; `train`, `deterministic` and the
      like are set to evaluation where they are not given.

  Raises:
    TypeError: for another object, or variables without `params`.
  """
  linen = _require('flax.linen')
  if not isinstance(module, linen.Module):
    raise TypeError(
      f'module must be a flax.linen.Module, got {type(module).__name__}; a '
      'model of flax.nnx goes to interop.from_nnx'
    )
  if not hasattr(variables, 'keys') or 'params' not in variables:
    raise TypeError(
      "variables must be a dict with 'params', as module.init returns it, got "
      f'{_described(variables)}'
    )
  arguments = {**_evaluation(module.__call__), **arguments}

  def call(variables, x):
    return module.apply(variables, x, **arguments)

  return _of_one(call, module), variables


def from_nnx(model: Any, **arguments: Any) -> tuple[LogitsFn, Any]:
  """Returns a Flax NNX model as a function of its state and one input.

  The model itself is not changed; its state is copied by reference, as it is
  now.

  Args:
    model: a `flax.nnx.Module`.
    **arguments: as for `from_flax`.

  Raises:
    TypeError: for another object.
  """
  nnx = _require('flax.nnx')
  if not isinstance(model, nnx.Module):
    raise TypeError(
      f'model must be a flax.nnx.Module, got {type(model).__name__}; a module '
      'of flax.linen goes to interop.from_flax'
    )
  given = {**_evaluation(type(model).__call__), **arguments}
  model = nnx.clone(model)
  model.eval()
  # Keys of dropout are no parameters.
  graph, state, rest = nnx.split(model, nnx.Any(nnx.Param, nnx.BatchStat), ...)

  def call(state, x):
    return nnx.merge(graph, state, rest)(x, **given)

  return _of_one(call, model), state


def from_equinox(
  model: Any, state: Any = None, **arguments: Any
) -> tuple[LogitsFn, Any]:
  """Returns an Equinox model as a function of its arrays and one input.

  Args:
    model: an `equinox.Module` that takes one input.
    state: the `equinox.nn.State` of a model that has one (running averages): it
      is then called as `model(x, state)`.
    **arguments: of the call, beside these.

  Raises:
    TypeError: for another object.
  """
  equinox = _require('equinox')
  if not isinstance(model, equinox.Module) or not callable(model):
    raise TypeError(
      f'model must be an equinox.Module that is called, got '
      f'{type(model).__name__}'
    )
  params, static = equinox.partition(
    (equinox.nn.inference_mode(model), state), equinox.is_array
  )

  def call(params, x):
    model, state = equinox.combine(params, static)
    rest = () if state is None else (state,)
    return model(x, *rest, **arguments)

  fn = _of_one(call, model, batches=(False, True), channels_first=True)
  return fn, params


def from_keras(model: Any) -> tuple[LogitsFn, Any]:
  """Returns a Keras 3 model as a function of its variables and one input.

  Its last layer should give logits: `boundary.measure` warns of probabilities.

  Args:
    model: a built `keras.Model`; Keras has to run on JAX
      (`KERAS_BACKEND=jax` in the environment, before it is imported).

  Raises:
    TypeError: for another object.
    RuntimeError: if Keras runs on another backend.
    ValueError: for a model that is not built.
  """
  keras = _require('keras')
  if not isinstance(model, keras.Model):
    raise TypeError(f'model must be a keras.Model, got {type(model).__name__}')
  if keras.backend.backend() != 'jax':
    raise RuntimeError(
      f'Keras runs on {keras.backend.backend()}: set KERAS_BACKEND=jax in the '
      'environment before it is imported, and load the model again'
    )
  if not model.built:
    raise ValueError(
      'the model has no weights yet: call it once, or model.build(shape)'
    )
  values = lambda variables: [variable.value for variable in variables]
  params = {
    'trainable': values(model.trainable_variables),
    'others': values(model.non_trainable_variables),
  }

  def call(params, x):
    return model.stateless_call(
      params['trainable'], params['others'], x, training=False
    )[0]

  return _of_one(call, model, batches=(True,)), params


def from_torch(module: Any, via: str = 'torchax') -> tuple[LogitsFn, Any]:
  """Returns a PyTorch module as a function of its parameters and one input.

  The first time that inputs of a shape are traced, its logits are compared with
  the module's own, on random inputs.

  Args:
    module: a `torch.nn.Module` that takes a batch `[n, ...]`.
    via: 'torchax' translates a copy of the module, as it is now, to JAX: it
      runs on any device and is several times as fast. 'callback' calls PyTorch
      at each evaluation, on the module's device: for operations that torchax
      does not know. The module is then measured as it is at each call, and
      params are empty. It has first derivatives alone.

  Raises:
    TypeError: for another object.
    ValueError: for another `via`; and, when traced, for operations that torchax
      does not know, or logits that differ from the module's.
  """
  torch = _require('torch')
  if not isinstance(module, torch.nn.Module):
    raise TypeError(
      f'module must be a torch.nn.Module, got {type(module).__name__}'
    )
  if via == 'callback':
    return _called_back(torch, module), {}
  if via != 'torchax':
    raise ValueError(f"via must be 'torchax' or 'callback', got {via!r}")
  torchax = _require('torchax')
  module = copy.deepcopy(module).eval().requires_grad_(False).cpu()
  dtype = _torch_dtype(torch, module)
  # Of the module's own arrays: what is extracted becomes arrays of JAX.
  with _TRACING:
    params, translated = torchax.extract_jax(copy.deepcopy(module))
  known = set()

  call = lambda params, x: translated(params, (x.astype(dtype),))
  one = _of_one(call, module, batches=(True,), channels_first=True)

  def translate(params, x):
    try:
      return one(params, x)
    except ValueError as error:
      raise ValueError(f'{error}; torchax: {OTHER_WAY}') from error

  def logits_fn(current, x):
    with _TRACING:  # What is compiled runs without it.
      if x.shape not in known:
        with jax.ensure_compile_time_eval():
          own = functools.partial(translate, params)
          _compare(torch, module, own, x.shape, dtype)
        known.add(x.shape)
      return translate(current, x)

  return logits_fn, params


# --- Our search among the attacks of others ----------------------------------


def torch_attack(
  *, norm: float = 2, bounds: tuple = (0.0, 1.0), **options: Any
) -> Callable:
  """Returns the search as an attack on PyTorch models.

  As adv-lib's attacks are called, and as AttackBench calls its own:
  `attack(model, inputs, labels) -> adversarial inputs`, of the shape and dtype
  of the inputs and on their device; an input stays where none was found, or
  where it is misclassified. PyTorch is called at each evaluation, so that
  queries of a model that counts them are counted.

  Args:
    norm: of the distance.
    bounds: of the inputs.
    **options: of `boundary.measure`: method, max_gradients, seed, batch_size.
  """
  torch = _require('torch')

  def attack(model, inputs, labels, targets=None, targeted=False, **unknown):
    if targeted or targets is not None or unknown:
      raise ValueError(
        'the search has no targets and no options at the call, got '
        f'{["targets"] if targeted or targets is not None else [*unknown]}'
      )
    logits_fn, params = from_torch(model, via='callback')
    found = boundary.measure(
      logits_fn,
      inputs.detach().cpu().numpy(),
      labels.cpu().numpy(),
      params=params,
      norm=norm,
      bounds=bounds,
      **options,
    )
    points = torch.from_numpy(np.array(found.point)).to(inputs)
    moved = torch.from_numpy(np.isfinite(found.distance) & (found.distance > 0))
    moved = moved.to(inputs.device).reshape(-1, *[1] * (inputs.ndim - 1))
    return torch.where(moved, points, inputs)

  return attack


def foolbox_attack(*, norm: float = 2, **options: Any) -> Any:
  """Returns the search as an attack of Foolbox, on its PyTorch models.

  A `foolbox.attacks.base.MinimizationAttack`: call it as
  `attack(model, inputs, labels, epsilons=None)`. Bounds and preprocessing are
  those of the Foolbox model.

  Args:
    norm, **options: as for `torch_attack`.
  """
  torch: Any = _require('torch')
  base: Any = _require('foolbox.attacks.base')
  criteria = _require('foolbox.criteria')
  distances = _require('foolbox.distances')

  class Wrapped(torch.nn.Module):
    """A model of Foolbox as a module."""

    def __init__(self, model: Any) -> None:
      super().__init__()
      self.model = model

    def forward(self, x):
      return self.model(x)

  class BoundarySearch(base.MinimizationAttack):
    distance = distances.LpDistance(norm)

    def run(self, model, inputs, criterion, *, early_stop=None, **kwargs):
      del early_stop, kwargs
      if isinstance(criterion, criteria.Misclassification):
        criterion = criterion.labels.raw
      if not isinstance(criterion, torch.Tensor):
        raise ValueError(
          'the criterion must be labels, or foolbox.criteria.Misclassification'
        )
      attack = torch_attack(norm=norm, bounds=tuple(model.bounds), **options)
      raw = getattr(inputs, 'raw', inputs)  # Foolbox may wrap tensors.
      points = attack(Wrapped(model), raw, criterion)
      return points if raw is inputs else type(inputs)(points)

  return BoundarySearch()


# --- One input ---------------------------------------------------------------


def _of_one(call, network, batches=(True, False), channels_first=False):
  """`call`, of a batch of one or of one input, as a function of one input.

  Args:
    call: `(params, x)` -> outputs, of which the first are logits.
    network: whose type errors name.
    batches: whether it takes batches, in the order to try.
    channels_first: whether convolutions have their channels before the pixels:
      in loops, CPUs are many times as fast with those behind.
  """
  evaluate = lambda params, x: _first(call(params, x))
  if channels_first:
    evaluate = _xla_cpu.channels_last_gradients(evaluate)

  @jax.numpy_rank_promotion('allow')  # Whatever is set here: it is their code.
  def logits_fn(params, x):
    x, tried = jnp.asarray(x), []
    for batched in batches:
      x_given = x[None] if batched else x
      try:
        logits = evaluate(params, x_given)
      except Exception as error:  # Networks raise what they like.
        tried.append((batched, _first_line(error), error))
        continue
      shape = logits.shape
      if len(shape) == 1 or (batched and len(shape) == 2 and shape[0] == 1):
        return logits.reshape(shape[-1])
      tried.append((batched, f'outputs of shape {shape}', None))
    said = '; '.join(
      f'{"a batch of one" if batched else "one input"}: {what}'
      for batched, what, _ in tried
    )
    raise ValueError(
      f'{type(network).__name__} gives no logits [k] for an input of shape '
      f'{x.shape} ({said})'
    ) from next((error for *_, error in tried if error), None)

  return logits_fn


def _first(outputs):
  """The logits of what a network returns."""
  while isinstance(outputs, tuple | list) and outputs:
    outputs = outputs[0]
  if not hasattr(outputs, 'shape'):
    raise TypeError(f'it returns {_described(outputs)}, not an array of logits')
  return outputs


def _evaluation(call):
  """The arguments of a call that say that it is no training."""
  try:
    known = inspect.signature(call).parameters
  except (TypeError, ValueError):
    return {}
  return {name: value for name, value in EVALUATION.items() if name in known}


# --- PyTorch -----------------------------------------------------------------


def _called_back(torch, module):
  """A module as a function that calls it, with its gradient."""
  host = _Host(torch, module)

  @jax.custom_vjp
  def logits_of(x):
    with _explained(module, x.shape):
      shape = host.logits(np.zeros((1, *x.shape))).shape
    if len(shape) != 2 or shape[0] != 1:
      raise ValueError(
        f'{type(module).__name__} gives no logits [n, k] for inputs of shape '
        f'[n, *{x.shape}], but outputs of shape {shape} for n = 1'
      )

    def call(x):
      lead = x.shape[: x.ndim - size]
      logits = host.logits(np.asarray(x).reshape(-1, *x.shape[len(lead) :]))
      return logits.reshape(*lead, -1).astype(result.dtype)

    size, result = x.ndim, jax.ShapeDtypeStruct(shape[1:], x.dtype)
    return jax.pure_callback(call, result, x, vmap_method='expand_dims')

  def backward(x, weights):
    size = x.ndim
    call = lambda x, w: host.pull_back(np.asarray(x), np.asarray(w), size)
    result = jax.ShapeDtypeStruct(x.shape, x.dtype)
    found = jax.pure_callback(
      call, result, x, weights, vmap_method='expand_dims'
    )
    return (found,)

  logits_of.defvjp(lambda x: (logits_of(x), x), backward)
  return lambda params, x: logits_of(x)


class _Host:
  """A module that is called on numpy arrays, in evaluation mode.

  What was evaluated last is kept until it is differentiated: a value and its
  gradient take one evaluation.
  """

  def __init__(self, torch: Any, module: Any) -> None:
    self._torch, self._module = torch, module
    self._dtype = _torch_dtype(torch, module)
    self._last = None

  def logits(self, xs):
    """Logits `[n, k]`, float64, of a batch `[n, ...]`."""
    with _CALLING:  # Devices call at once, and the module has one mode.
      self._last = self._state(xs), *self._evaluate(xs)
      return self._to_numpy(self._last[2])

  def pull_back(self, xs, weights, size):
    """Gradients of weighted sums of logits.

    Args:
      xs: inputs of `size` axes, behind axes of batches.
      weights: `[..., k]`, of as many axes of batches: 1 where they have the
        same in `xs`, or there are several weights an input.
      size: axes of an input.

    Returns:
      An array `[..., *input]`.
    """
    inner = xs.shape[xs.ndim - size :]
    lead = np.broadcast_shapes(xs.shape[: xs.ndim - size], weights.shape[:-1])
    several = [i for i, n in enumerate(lead) if xs.shape[i] < n]
    rest = [i for i in range(len(lead)) if i not in several]
    weights = np.broadcast_to(weights, (*lead, weights.shape[-1]))
    weights = weights.transpose(*several, *rest, -1)
    sizes = [lead[i] for i in (*several, *rest)]
    xs = np.squeeze(xs, tuple(several)).reshape(-1, *inner)
    rows = weights.reshape(-1, len(xs), weights.shape[-1])
    with _CALLING:
      found = np.stack(self._gradients(xs, rows)).reshape(*sizes, *inner)
    back = np.argsort([*several, *rest])
    axes = range(len(lead), found.ndim)
    return found.transpose(*back, *axes).astype(xs.dtype)

  def _gradients(self, xs, rows):
    """Of each of several weightings `[m, n, k]`, a list of `[n, ...]`."""
    last, self._last = self._last, None
    if last is None or not self._same(last[0], self._state(xs)):
      last = None, *self._evaluate(xs)
    _, leaf, logits = last
    return [
      self._to_numpy(
        self._torch.autograd.grad(
          logits,
          leaf,
          self._torch.from_numpy(np.array(row)).to(logits),
          retain_graph=True,
        )[0]
      )
      for row in rows
    ]

  def _state(self, xs):
    """What logits depend on: inputs, and which version weights are of."""
    tensors = [*self._module.parameters(), *self._module.buffers()]
    return xs, [(t.data_ptr(), t._version) for t in tensors]

  def _same(self, last, now):
    return last[1] == now[1] and np.array_equal(last[0], now[0])

  def _evaluate(self, xs):
    """Inputs as a tensor, and their logits."""
    device = next((p.device for p in self._module.parameters()), 'cpu')
    wide = np.float64 if self._dtype == jnp.float64 else np.float32
    leaf = self._torch.from_numpy(np.array(xs, wide))
    leaf = leaf.to(device, getattr(self._torch, self._dtype.name))
    leaf.requires_grad_(True)
    trains = self._module.training
    self._module.eval()
    try:
      with self._torch.enable_grad():
        return leaf, _first(self._module(leaf))
    finally:
      self._module.train(trains)

  def _to_numpy(self, tensor):
    return tensor.detach().cpu().to(self._torch.float64).numpy()


@contextlib.contextmanager
def _explained(module, shape):
  """Says which inputs a module was called on, where it raises."""
  try:
    yield
  except Exception as error:  # Modules raise what they like.
    sizes = ', '.join(map(str, shape))
    raise ValueError(
      f'{type(module).__name__} cannot be called on inputs of shape '
      f'[n, {sizes}] ({_first_line(error)}); images of PyTorch are [channels, '
      'height, width]: x.transpose(2, 0, 1) of [height, width, channels]'
    ) from error


def _torch_dtype(torch, module):
  """Of the floating-point parameters; float32 where there are none."""
  for tensor in module.parameters():
    if tensor.dtype.is_floating_point:
      return jnp.dtype(str(tensor.dtype).removeprefix('torch.'))
  return jnp.dtype('float32')


def _compare(torch, module, logits_of, shape, dtype):
  """Raises ValueError where logits differ from those of the module."""
  xs = np.random.default_rng(0).uniform(size=(CHECKED, *shape))
  with torch.no_grad(), _explained(module, shape):
    given = torch.from_numpy(xs).to(getattr(torch, dtype.name))
    wanted = _first(module(given)).to(torch.float64).numpy()
  found = np.stack([np.asarray(logits_of(jnp.asarray(x, dtype))) for x in xs])
  largest = max(np.abs(wanted).max(), np.finfo(np.float64).tiny)
  gap = np.abs(found.astype(np.float64) - wanted).max() / largest
  most = TOLERANCE.get(found.dtype.name, LOW_PRECISION)
  if not gap <= most:
    raise ValueError(
      f'translated by torchax the module has other logits: they differ by '
      f'{gap:.1e} of the largest; {OTHER_WAY}'
    )


# --- Libraries ---------------------------------------------------------------


def _require(name: str) -> types.ModuleType:
  """Imports a library.

  Raises:
    ImportError: that says how to install it.
  """
  try:
    return importlib.import_module(name)
  except ImportError as error:
    package = INSTALL.get(name, name.split('.')[0])
    raise ImportError(
      f'{name} cannot be imported ({error}); python -m pip install {package}'
    ) from error


def _first_line(error):
  lines = str(error).strip().splitlines()
  return f'{type(error).__name__}: {lines[0] if lines else ""}'[:200]


def _described(value):
  return f'{type(value).__name__}'
