"""Random networks by the thousand: their architectures and distances."""

from collections.abc import Callable
from typing import Any
from typing import NamedTuple

from flax import linen as nn
import jax
from jax import flatten_util
import jax.numpy as jnp
import numpy as np

from dmm_jax import boundary
from dmm_jax import margins
from dmm_jax import models
from dmm_jax import norms
from dmm_jax import parallel
from dmm_jax import programs
from dmm_jax import statistics


class Architecture(NamedTuple):
  """A family of random networks with two logits.

  Attributes:
    module: width -> Flax module; width 0 is De Palma et al.'s own.
    infinite: the name in `nngp` of its infinitely wide form, or None.
    min_size: the least side of its input images.
    depth: of the infinitely wide form, if not its default.
    head_variance: features -> variance of the last layer's weights.
  """

  module: Callable[[int], nn.Module]
  infinite: str | None
  min_size: int
  depth: int | None = None
  head_variance: Callable[[int], float] = lambda features: 2 / features


def glorot_variance(features: int) -> float:
  """Returns the variance of a Glorot-initialised layer with two outputs."""
  return 2 / (features + 2)


# De Palma, Kiani, Lloyd (2021), https://arxiv.org/abs/2004.05923, in the form
# of the code they released; the pre-activation ResNet is ours, with one block a
# stack: 8 layers.
ARCHITECTURES = {
  'fully_connected': Architecture(
    lambda width: models.FullyConnected((width or 100,) * 2),
    'fully_connected',
    1,
  ),
  'convolutional': Architecture(
    lambda width: models.Convolutional((width or 128,) * 4),
    'convolutional',
    3,
    head_variance=glorot_variance,
  ),
  'lenet': Architecture(
    lambda width: models.LeNet(width or 128, 4 * (width or 128)),
    'lenet',
    4,
    head_variance=glorot_variance,
  ),
  'resnet': Architecture(
    lambda width: models.ResNet(width or 32, 1, pre_activation=True),
    'resnet',
    4,
    depth=7,
  ),
  'resnet20': Architecture(
    lambda width: models.ResNet(width or 32, pre_activation=False), None, 4
  ),
}


# Distances that De Palma et al. released for their ResNet20 (300 networks x 10
# uniform images, the best of 8 to 12 attacks): of each norm and n the median,
# the 45 % and the 55 % quantile.
RELEASED_RESNET20: dict[float, dict[int, tuple[float, float, float]]] = {
  1.0: {
    432: (5.307, 4.4, 6.265), 768: (5.377, 4.78, 6.331),
    1200: (7.174, 6.229, 8.301), 1728: (8.561, 7.17, 9.995),
    2352: (9.677, 8.456, 11.095), 3072: (11.089, 9.786, 12.669),
    3888: (12.02, 10.49, 13.584), 4800: (12.732, 11.18, 14.327),
    5808: (14.191, 12.546, 16.134), 6912: (15.471, 13.351, 17.513),
    8112: (16.524, 14.357, 18.989), 9408: (17.714, 14.777, 20.359),
    10800: (19.033, 16.52, 21.873),
  },
  2.0: {
    432: (0.498, 0.438, 0.56), 768: (0.5962, 0.54, 0.66),
    1200: (0.5602, 0.498, 0.635), 1728: (0.5912, 0.517, 0.658),
    2352: (0.5428, 0.483, 0.603), 3072: (0.5508, 0.486, 0.63),
    3888: (0.5905, 0.513, 0.65), 4800: (0.5548, 0.497, 0.623),
    5808: (0.6285, 0.555, 0.695), 6912: (0.5729, 0.507, 0.639),
    8112: (0.5008, 0.458, 0.558), 9408: (0.5362, 0.462, 0.613),
    10800: (0.5917, 0.519, 0.658),
  },
  float('inf'): {
    432: (0.03963, 0.0342, 0.046), 768: (0.02508, 0.0216, 0.0286),
    1200: (0.02004, 0.0176, 0.0231), 1728: (0.01534, 0.0137, 0.0174),
    2352: (0.01617, 0.0143, 0.019), 3072: (0.01374, 0.012, 0.0158),
    3888: (0.01161, 0.0103, 0.0132), 4800: (0.01002, 0.0088, 0.0113),
    5808: (0.00934, 0.0083, 0.0106), 6912: (0.00775, 0.0067, 0.009),
    8112: (0.00731, 0.0064, 0.0083), 9408: (0.0069, 0.0061, 0.0078),
    10800: (0.00669, 0.0058, 0.0078),
  },
  0.0: {  # Numbers of inputs; we have not the quantiles.
    432: (16.0, np.nan, np.nan), 1200: (22.0, np.nan, np.nan),
    2352: (27.0, np.nan, np.nan), 3888: (32.0, np.nan, np.nan),
    5808: (41.0, np.nan, np.nan), 8112: (45.0, np.nan, np.nan),
    10800: (49.0, np.nan, np.nan),
  },
}  # fmt: skip


def released(n: int, norm: float) -> statistics.Estimate | None:
  """Returns the median distance released for ResNet20; None if there is none.

  Its interval is ours, NaN for norm 0: a quantile's standard error from the
  slope of the quantile function between 45 and 55 %, with the 300 networks as
  units, since the 10 images of one network are nearly as far as each other.
  """
  found = RELEASED_RESNET20.get(norm, {}).get(n)
  if found is None:
    return None
  median, low, high = found
  half = statistics.Z * (high - low) / 0.1 * 0.5 / 300**0.5
  return statistics.Estimate(
    median, median - half, median + half, 300, 'networks'
  )


def draw_image(
  network: jax.Array | int,
  images: jax.Array,
  *,
  seeds: tuple[int, ...],
  shape: tuple[int, ...],
  noise: float,
) -> tuple[jax.Array, jax.Array]:
  """Draws the image of one of many networks, and the key of its weights.

  Args:
    network: its number.
    images: to draw from `[m, ...]`, of that shape.
    seeds: which networks these are.
    shape: of an image.
    noise: share of uniform noise in it; 1 for nothing else.
  """
  key = jax.random.key(seeds[0])
  for part in (*seeds[1:], network):
    key = jax.random.fold_in(key, part)
  key_weights, key_image = jax.random.split(key)
  key_row, key_noise = jax.random.split(key_image)
  x = jax.random.uniform(key_noise, shape)
  if noise < 1:
    x = (1 - noise) * jax.random.choice(key_row, images) + noise * x
  return x, key_weights


def last_layer_variance(
  module: nn.Module, params: Any, x: jax.Array, head_variance: Callable
) -> jax.Array:
  """Returns E[f(x)^2] over the weights of the last layer alone.

  f, the difference of the two logits, is linear in these, so that its
  derivative by them is all that is needed. The mean over networks is E f^2,
  with a fraction of the scatter of f^2.

  Args:
    module: of Flax, whose last layer is its `head`.
    params: as `module.init` makes them.
    x: one input.
    head_variance: of an `Architecture`.
  """
  weights = params['params']

  def margin(head):
    logits, _ = module.apply({'params': {**weights, 'head': head}}, x)
    return logits[1] - logits[0]

  slope = jax.grad(margin)(weights['head'])['kernel']
  return head_variance(len(slope)) * jnp.sum(slope**2)


class Distances(NamedTuple):
  """Distances of one input from one network's boundary, by norm `[p]`.

  Attributes:
    margin: of the network's own class, in logits; scalar.
    estimate: |margin| / ||its gradient||_q, one gradient's worth.
    distance: what the boundary search found; inf where nothing.
    input_norm: ||x||_p.
    status: a `boundary.Status`.
    gradients, forwards: evaluations that the search used.
  """

  margin: jax.Array
  estimate: jax.Array
  distance: jax.Array
  input_norm: jax.Array
  status: jax.Array
  gradients: jax.Array
  forwards: jax.Array


def distances(
  logits_fn: Callable,
  x: jax.Array,
  *,
  exponents: tuple[float, ...],
  bounds: tuple | None,
  method: str,
  max_gradients: int = 50,
) -> Distances:
  """Measures one input against the class that the network itself gives it.

  Args:
    logits_fn: one input -> logits `[k]`.
    x: one input.
    exponents: exponents of the norms to measure.
    bounds, method, max_gradients: as for `boundary.nearest_point`.
  """
  label = jnp.argmax(logits_fn(x))
  margin, gradient = jax.value_and_grad(
    lambda v: margins.margin(logits_fn(v), label)
  )(x)

  def one(p):
    # Without a box: this is the ratio that the infinite-width law is about.
    steepness = norms.norm(gradient, norms.dual(p))
    estimate = margin / jnp.where(steepness > 0, steepness, 1.0)
    found = boundary.nearest_point(
      logits_fn,
      x,
      label,
      norm=p,
      bounds=bounds,
      method=method,
      max_gradients=max_gradients,
      rtol=1e-4,
      with_normal=False,
    )
    estimate = jnp.where(steepness > 0, estimate, jnp.inf)
    return estimate, found, norms.norm(x, p)

  # One program serves all norms: compiling takes longer than running here.
  estimate, found, input_norm = jax.lax.map(one, jnp.array(exponents))
  return Distances(
    margin,
    estimate,
    found.distance,
    input_norm,
    found.status,
    found.gradients,
    found.forwards,
  )


def sampler(module: nn.Module, **options: Any) -> Callable:
  """Returns `(key, xs [m, ...]) -> Distances [m, p]` of one random network.

  Draws the network's weights from `key` and measures every input of `xs`. Its
  weights exist only while it is measured: map it over keys for as many networks
  as you like. Inputs of one network are correlated; for independent distances
  give each network one input.

  Args:
    module: a Flax module that returns `(logits, codes)`.
    **options: those of `distances`; equal ones compile once.
  """
  return programs.bind(_sample, module=module, **options)


def _sample(key, xs, *, module, **options):
  params = module.init(key, xs[0])
  logits_fn = lambda x: module.apply(params, x)[0]
  return jax.vmap(lambda x: distances(logits_fn, x, **options))(xs)


def measure_trained(
  flat: jax.Array,
  inputs: jax.Array,
  xs: jax.Array,
  labels: jax.Array,
  *,
  module: nn.Module,
  **options: Any,
) -> tuple[Distances, jax.Array]:
  """Measures one network of given weights: distances, and its accuracy.

  Args:
    flat: all its parameters in one array, in the order of `ravel_pytree`, of
      which a set of networks makes one array.
    inputs: `[m, ...]`, what is measured.
    xs, labels: `[n, ...]` and `[n]`, what it has to classify.
    module: a Flax module that returns `(logits, codes)`.
    **options: those of `distances`.

  Returns:
    `Distances [m, p]`, and the share of labels that it gives.
  """
  like = jax.eval_shape(module.init, jax.random.key(0), inputs[0])['params']
  like = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape), like)
  params = flatten_util.ravel_pytree(like)[1](flat)
  logits_fn = lambda x: module.apply({'params': params}, x)[0]
  found = jax.vmap(lambda x: distances(logits_fn, x, **options))(inputs)
  predicted = jax.lax.map(lambda x: logits_fn(x).argmax(), xs, batch_size=100)
  return found, jnp.mean(predicted == labels)


def measure_networks(
  flat: np.ndarray,
  inputs: np.ndarray,
  xs: np.ndarray,
  labels: np.ndarray,
  *,
  module: nn.Module,
  **options: Any,
) -> tuple[Distances, np.ndarray]:
  """Measures networks of one architecture, each at inputs of its own.

  Args:
    flat: parameters of each network `[m, ...]`, as of `measure_trained`.
    inputs: of each network `[m, k, ...]`.
    xs, labels: `[n, ...]` and `[n]`, what all of them have to classify.
    module: a Flax module that returns `(logits, codes)`.
    **options: those of `distances`.

  Returns:
    `Distances [m, k, p]` in numpy, and the shares of labels `[m]`.
  """
  return parallel.map_examples(
    programs.bind(measure_trained, module=module, **options),
    (flat, inputs),
    shared=(xs, labels),
    batch_size=len(inputs),
    # Each network has its own weights: CPUs gain nothing from batching.
    vmap_size=1 if jax.default_backend() == 'cpu' else None,
  )
