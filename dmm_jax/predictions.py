"""What infinite width says of random networks' distances, as columns."""

from collections.abc import Callable
import functools

import numpy as np

from dmm_jax import nngp
from dmm_jax import random_nets


def law(
  name: str,
  xs: list[np.ndarray],
  exponents: tuple[float, ...],
  *,
  bounds: tuple[float, float] | None,
) -> dict[str, np.ndarray]:
  """Returns the law's scale at some inputs, as columns.

  Args:
    name: of one of `random_nets.ARCHITECTURES` with an infinitely wide form.
    xs: inputs, of one shape.
    exponents: of the norms.
    bounds: None, or the box; as for `nngp.distance_scale`.

  Returns:
    One row an input and norm: `norm`, `scale` and `input_norm` in it,
    `input_l2`, and `sigma`, the standard deviation of two logits' difference.
  """
  rows = []
  for x in xs:
    sigma, root = _at(kernel(name), x, name)
    for p in exponents:
      scale = nngp.scale_of_gradient(sigma, root, x, p, bounds=bounds)
      sizes = np.linalg.norm(x.ravel(), p), np.linalg.norm(x)
      # The kernel is that of one logit.
      rows.append((p, scale, *sizes, np.sqrt(2) * sigma))
  names = 'norm scale input_norm input_l2 sigma'.split()
  return dict(zip(names, np.array(rows).T, strict=True))


def scales(
  name: str,
  xs: np.ndarray,
  exponents: tuple[float, ...],
  *,
  bounds: tuple[float, float] | None,
  num_draws: int = 200,
) -> np.ndarray:
  """Returns the law's scale `[n, p]` at inputs `xs [n, ...]`.

  Args:
    name, exponents, bounds: as for `law`.
    xs: inputs.
    num_draws: as for `nngp.distance_scale`; a scale's error is about 1 %.

  Returns:
    NaN for an architecture without an infinitely wide form.
  """
  if random_nets.ARCHITECTURES[name].infinite is None:
    return np.full((len(xs), len(exponents)), np.nan)
  kernel_fn = kernel(name)
  laws = [(x, *_at(kernel_fn, x, name)) for x in xs]
  rows = [
    [
      nngp.scale_of_gradient(
        sigma, root, x, p, bounds=bounds, num_draws=num_draws
      )
      for p in exponents
    ]
    for x, sigma, root in laws
  ]
  return np.array(rows)


@functools.cache
def kernel(name: str) -> Callable:
  """Returns the `kernel_fn` of an architecture, always the same object.

  A kernel captures no arrays: programs of the same one are compiled once.
  """
  of = random_nets.ARCHITECTURES[name]
  depth = {} if of.depth is None else {'depth': of.depth}
  return getattr(nngp, str(of.infinite))(**depth)[2]


def _at(kernel_fn, x, name):
  """`(sigma, root)` of one input, as `nngp.scale_of_gradient` wants them."""
  # Pooling alone couples pixels; without it one probe is exact.
  probes = 8 if name == 'lenet' else 1
  variance = nngp.gradient_variance(kernel_fn, x, num_probes=probes)
  sigma = nngp.output_variance(kernel_fn, x) ** 0.5
  return sigma, np.sqrt(variance).ravel()
