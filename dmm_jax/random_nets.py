"""Random networks by the thousand: their architectures and distances."""

from collections.abc import Callable
from typing import Any
from typing import NamedTuple

from flax import linen as nn
import jax
import jax.numpy as jnp

from dmm_jax import boundary
from dmm_jax import margins
from dmm_jax import models
from dmm_jax import norms
from dmm_jax import programs


class Architecture(NamedTuple):
  """A family of random networks with two logits.

  Attributes:
    module: width -> Flax module; width 0 is De Palma et al.'s own.
    infinite: the name in `nngp` of its infinitely wide form, or None.
    min_size: the least side of its input images.
  """

  module: Callable[[int], nn.Module]
  infinite: str | None
  min_size: int


def _resnet(width, pre_activation):
  return models.ResNet(width or 32, pre_activation=pre_activation)


# De Palma, Kiani, Lloyd (2021), https://arxiv.org/abs/2004.05923, in the form
# of the code they released; the pre-activation ResNet is ours.
ARCHITECTURES = {
  'fully_connected': Architecture(
    lambda width: models.FullyConnected((width or 100,) * 2),
    'fully_connected',
    1,
  ),
  'convolutional': Architecture(
    lambda width: models.Convolutional((width or 128,) * 4), 'convolutional', 3
  ),
  'lenet': Architecture(
    lambda width: models.LeNet(width or 128, 4 * (width or 128)), 'lenet', 4
  ),
  'resnet': Architecture(
    lambda width: _resnet(width, pre_activation=True), 'resnet', 4
  ),
  'resnet20': Architecture(
    lambda width: _resnet(width, pre_activation=False), None, 4
  ),
}


# Medians of distances that De Palma et al. released for their ResNet20 (300
# networks x 10 uniform images, the best of 8 to 12 attacks): n, l1, l2, linf.
RELEASED_RESNET20 = (
  (432, 5.307, 0.4980, 0.03963),
  (768, 5.377, 0.5962, 0.02508),
  (1200, 7.174, 0.5602, 0.02004),
  (1728, 8.561, 0.5912, 0.01534),
  (2352, 9.677, 0.5428, 0.01617),
  (3072, 11.089, 0.5508, 0.01374),
  (3888, 12.020, 0.5905, 0.01161),
  (4800, 12.732, 0.5548, 0.01002),
  (5808, 14.191, 0.6285, 0.00934),
  (6912, 15.471, 0.5729, 0.00775),
  (8112, 16.524, 0.5008, 0.00731),
  (9408, 17.714, 0.5362, 0.00690),
  (10800, 19.033, 0.5917, 0.00669),
)


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
