"""Certified lower bounds of the distance, by linear relaxation (CROWN)."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
import numpy as np

from dmm_jax import norms
from dmm_jax import parallel
from dmm_jax import programs
from dmm_jax.boundary import inputs
from dmm_jax.certify import ascent
from dmm_jax.certify import backward
from dmm_jax.certify import functions
from dmm_jax.certify import layers as layers_lib
from dmm_jax.certify import operators
from dmm_jax.certify import radii
from dmm_jax.certify import regions
from dmm_jax.certify import relaxation


def _distance(
  x, label, classes, low, high, layers, norm, *, num_steps, quadratic_steps
):
  """Return the certified distance of one input from `classes` (mask `[k]`)."""
  down, up = x - low, high - x
  cap = norms.norm(jnp.maximum(down, up), norm)  # The ball then holds the box.
  boxed = jnp.isfinite(cap)
  cap = jnp.where(boxed, cap, 1e60)
  region = lambda radius: regions.Region(x, down, up, radius)
  logits = layers_lib.logits(layers, x)
  margin = jnp.min(jnp.where(classes, logits[label] - logits, jnp.inf))

  def margins(radius, slopes):
    bound = relaxation.margins(layers, label, region(radius), slopes, norm)
    return jnp.where(classes, bound, jnp.inf)

  def search(slopes, start):
    margin_fn = lambda radius: jnp.min(margins(radius, slopes))
    return radii.largest(margin_fn, margin, start, cap)

  default = relaxation.default_slopes(layers)
  slopes = default
  best = search(default, 0.01 * (1.0 + jnp.max(jnp.abs(x))))
  if num_steps:
    _, relaxed = relaxation.neurons(layers, region(best), default, norm)
    slopes = relaxation.free_slopes(layers, relaxed)
    slopes, radius = radii.ascend(margins, best, cap, slopes, num_steps)
    best = jnp.maximum(best, search(slopes, radius))
  if quadratic_steps:
    boxes = lambda radius: relaxation.neurons(
      layers, region(radius), slopes, norm
    )[0]
    given = layers, label, region, boxes, best, cap, norm
    found = ascent.class_radii(*given, num_steps=quadratic_steps)
    found = jnp.min(jnp.where(classes, found, jnp.inf))
    best = jnp.where(best > 0, jnp.maximum(best, found), best)
  return jnp.where(boxed & (best >= cap), jnp.inf, best)


def lower_bounds(
  network: Callable | layers_lib.Layers,
  xs: ArrayLike,
  labels: ArrayLike,
  *,
  norm: float = 2,
  bounds: tuple | None = None,
  num_steps: int = 20,
  quadratic_steps: int = 0,
  batch_size: int = 64,
  progress: bool = False,
) -> np.ndarray:
  """Return certified lower bounds of examples' distances from the boundary.

  No input nearer than this has another class. That holds for the network with
  these weights in exact arithmetic: the bound is computed in float64, and less
  1e-12 of the sum of absolute terms for rounding. A network that runs in
  float32 has logits that differ by their rounding, and where a value overflows
  float32 they are infinite; one that runs in half precision is another network,
  and weights in half precision are refused. Frameworks may store weights in
  float32 and compute in bfloat16: the bound is not one of that network.

  Each radius is tried by CROWN: the margin, and before it the input of every
  activation, is bounded by a linear function of the network's input, whose
  minimum over the ball within the box is known. The tightness falls with depth
  and width: expect 0.5 to 0.9 of the distance for three layers trained without
  regularisation, and little for deep networks. `quadratic_steps` bound squares
  of a layer's values together besides, see `certify.quadratic`, which closes
  about half of what is left, most where layers are wide, less in l1.

  Of layers as matrices, memory and time grow with the square of the widths. A
  function with a layer of more than 2^22 weights as a matrix, as convolutions
  have, is read as linear operators instead (see `operators`): values that
  depend on different inputs are then bounded together, the slopes of the
  margins alone are improved, radii are right to 1 %, and `quadratic_steps` have
  no effect. Expect seconds to a minute an example.

  Sources: Zhang et al. (2018), "Efficient neural network robustness
  certification with general activation functions",
  https://arxiv.org/abs/1811.00866; for the ascent of slopes Xu et al. (2021),
  https://arxiv.org/abs/2011.13824. Deviations: minima are over ball and box
  together; slopes of wide layers are shared by all their rows.

  Args:
    network: one input -> logits `[k]`, of affine operations (dense layers,
      convolutions, mean pooling, batch normalisation in evaluation mode), ReLU,
      leaky ReLU, maxima (max pooling without padding), sigmoid, tanh, softplus,
      SiLU, GELU, and sums of results of different depths (residual), with ReLUs
      alone these within finite bounds where layers are small; it is read as
      dense layers or as operators. Or layers
      `[(W [in, out], b [out]), ...]` with a ReLU between each two, in float32
      or float64; see `dense_from_convolution`.
    xs: inputs `[n, ...]`, floating point, flattened in C order; n may be 0.
    labels: `[n]` integers.
    norm: any p >= 1.
    bounds: None, or `(low, high)`: the box that perturbed inputs stay in. Each
      end is None for no end, a number, an array of one input's shape, or an
      array `[n, ...]` of each input's own. Inputs are compared with it in their
      own dtype; one that is outside by rounding, at most 8 units of it, widens
      its box.
    num_steps: number of steps of gradient ascent on the slopes; 0 for plain
      CROWN, which is 3 to 10 times faster and about 1 % of the distance less.
    quadratic_steps: number of steps of ascent of quadratic bounds, for ReLUs
      and l1, l2 and linf, without effect on others; 0 for none. 60 take seconds
      an example for layers of 256.
    batch_size: number of examples computed together, 1 or more.
    progress: whether to show a progress bar.

  Returns:
    float64 `[n]`, input units. 0 where already misclassified or tied, inf where
    the box is proven to hold no boundary, and more than 1e50 in place of inf
    where there is no box.

  Raises:
    TypeError: for a network that is neither, weights in half precision, inputs
      that are not floating point, labels that are not integers.
    ValueError: for operations that are not supported, with their place in the
      network's code; for values out of range and shapes that do not fit, each
      with a sentence that names the argument; for inputs outside the bounds;
      for weights, or values at an input, that overflow float32.
  """
  norms.check(norm)
  inputs.check_count('num_steps', num_steps, 0)
  inputs.check_count('quadratic_steps', quadratic_steps, 0)
  inputs.check_count('batch_size', batch_size)
  layers, xs, labels, low, high = functions.prepare(network, xs, labels, bounds)
  if not len(xs):
    return np.zeros(0)
  large = operators.is_network(layers)
  num = layers[-1].bias.size if large else len(layers[-1][1])
  classes = np.arange(num)[None] != labels[:, None]
  return _run(
    (xs, labels, classes, low, high),
    layers,
    norm=norm,
    num_steps=num_steps,
    quadratic_steps=quadratic_steps,
    batch_size=batch_size,
    progress='certified distances' if progress else None,
  )


def _run(columns, layers, *, norm, num_steps, quadratic_steps=0, **options):
  # Without a ReLU there are no slopes.
  num_steps = int(num_steps) if len(layers) > 1 else 0
  if operators.is_network(layers):
    with jax.enable_x64(True):
      return parallel.map_examples(
        programs.bind(backward.distance, num_steps=num_steps),
        columns,
        shared=(layers, np.float64(norm)),
        vmap_size=1,
        **options,
      )
  known = norm in layers_lib.NORMS and len(layers) > 1
  known = known and layers_lib.is_relu(layers)
  quadratic_steps = int(quadratic_steps) if known else 0
  with jax.enable_x64(True):
    return parallel.map_examples(
      programs.bind(
        _distance, num_steps=num_steps, quadratic_steps=quadratic_steps
      ),
      columns,
      shared=(layers, np.float64(norm)),
      **options,
    )


def lower_bound(
  network: Callable | layers_lib.Layers,
  x: ArrayLike,
  label: int,
  *,
  norm: float = 2,
  bounds: tuple | None = None,
  num_steps: int = 20,
  quadratic_steps: int = 0,
) -> float:
  """Return a certified lower bound of one input's distance from the boundary.

  As `lower_bounds`, for one input `x` and its class; 0 and inf mean the same.
  """
  xs, labels = np.asarray(x)[None], np.asarray(label)[None]
  found = lower_bounds(
    network,
    xs,
    labels,
    norm=norm,
    bounds=bounds,
    num_steps=num_steps,
    quadratic_steps=quadratic_steps,
  )
  return float(found[0])


def class_bounds(
  layers: Any,
  x: np.ndarray,
  label: int,
  low: np.ndarray,
  high: np.ndarray,
  *,
  norm: float,
  num_steps: int = 0,
  quadratic_steps: int = 0,
) -> np.ndarray:
  """Return certified distances from each class, `[k]`; inf for the label.

  Args:
    layers: as `functions.prepare` returns them; of `operators`, all classes
      have one bound.
    x: flat input `[n]`, float64.
    label: its class.
    low, high: the box `[n]`, which holds `x`.
    norm: any p >= 1.
    num_steps, quadratic_steps: as for `lower_bounds`.
  """
  if operators.is_network(layers):
    given = layers, x, label, low, high
    found = least_bound(*given, norm=norm, num_steps=num_steps)
    num = layers[-1].bias.size
    return np.where(np.arange(num) == label, np.inf, found)
  num = len(layers[-1][1])
  others = np.delete(np.arange(num), label)
  classes = np.eye(num, dtype=bool)[others]
  labels = np.full(num - 1, label, np.int32)
  repeat = lambda v: np.broadcast_to(v, (num - 1, len(v)))
  columns = repeat(x), labels, classes, repeat(low), repeat(high)
  found = _run(
    columns,
    layers,
    norm=norm,
    num_steps=num_steps,
    quadratic_steps=quadratic_steps,
  )
  return np.insert(found, label, np.inf)


def least_bound(
  layers: Any,
  x: np.ndarray,
  label: int,
  low: np.ndarray,
  high: np.ndarray,
  *,
  norm: float,
  num_steps: int = 0,
  quadratic_steps: int = 0,
) -> float:
  """Return the certified distance from all other classes, in one run.

  Arguments are those of `class_bounds`.
  """
  large = operators.is_network(layers)
  num = layers[-1].bias.size if large else len(layers[-1][1])
  one = x, np.asarray(label, np.int32), np.arange(num) != label, low, high
  found = _run(
    tuple(v[None] for v in one),
    layers,
    norm=norm,
    num_steps=num_steps,
    quadratic_steps=quadratic_steps,
  )
  return float(found[0])


def neuron_bounds(
  layers: layers_lib.Layers,
  x: np.ndarray,
  radius: float,
  low: np.ndarray,
  high: np.ndarray,
  *,
  norm: float,
) -> list:
  """Return `[(low, high), ...]` of the values before every ReLU.

  They hold for all inputs within `radius` of `x` and in the box; arguments are
  those of `class_bounds`.
  """
  with jax.enable_x64(True):
    box = map(jnp.asarray, (x, x - low, high - x, np.float64(radius)))
    region = regions.Region(*box)
    found = _jitted_neurons(layers, region, np.float64(norm))
    return jax.tree.map(np.asarray, found)


@jax.jit
def _jitted_neurons(layers, region, norm):
  slopes = relaxation.default_slopes(layers)
  return relaxation.neurons(layers, region, slopes, norm)[0]
