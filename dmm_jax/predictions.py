"""What infinite width says of random networks' distances, as columns."""

from collections.abc import Callable
import functools

import jax
import numpy as np

from dmm_jax import nngp
from dmm_jax import random_nets


def law(
  name: str,
  xs: list[np.ndarray],
  exponents: tuple[float, ...],
  *,
  bounds: tuple[float, float] | None,
  num_radii: int = 60,
) -> dict[str, np.ndarray]:
  """Returns the law's scale at some inputs, and law and bound by radius.

  Args:
    name: of one of `random_nets.ARCHITECTURES` with an infinitely wide form.
    xs: inputs, of one shape.
    exponents: of the norms.
    bounds: None, or the box, for the scales; as for `nngp.distance_scale`.
    num_radii: up to the law's 99.7 % quantile.

  Returns:
    Columns. Rows without `is_bound`: `scale` and `input_norm` of an input. Rows
    with it: `law` and `bound`, the probabilities of a distance up to `radius`,
    averaged over the inputs; the bound knows of no box.
  """
  kernel_fn = kernel(name)
  laws = [_at(kernel_fn, x, name) for x in xs]
  rows: list[tuple] = []
  for p in exponents:
    scales = [
      nngp.scale_of_gradient(sigma, root, x, p, bounds=bounds)
      for x, sigma, root, _ in laws
    ]
    for x, scale in zip(xs, scales, strict=True):
      rows.append((False, p, scale, np.linalg.norm(x.ravel(), p), 0, 0, 0))
    radii = 3 * np.mean(scales) * np.arange(1, num_radii + 1) / num_radii
    bound = np.mean(
      [
        nngp.flip_bound(kernel_fn, x, radii, p, gain=gain, variance=sigma**2)
        for x, sigma, _, gain in laws
      ],
      axis=0,
    )
    cdf = nngp.distance_cdf(scales, radii)
    for values in zip(radii, cdf, bound, strict=True):
      rows.append((True, p, np.mean(scales), 0, *values))
  names = 'is_bound norm scale input_norm radius law bound'.split()
  columns = map(np.array, zip(*rows, strict=True))
  return {
    'architecture': np.full(len(rows), name, 'U16'),
    'n': np.full(len(rows), xs[0].size, np.int32),
    **dict(zip(names, columns, strict=True)),
  }


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
  laws = [_at(kernel_fn, x, name) for x in xs]
  rows = [
    [
      nngp.scale_of_gradient(
        sigma, root, x, p, bounds=bounds, num_draws=num_draws
      )
      for p in exponents
    ]
    for x, sigma, root, _ in laws
  ]
  return np.array(rows)


@functools.cache
def kernel(name: str) -> Callable:
  """Returns the `kernel_fn` of an architecture, always the same object.

  A kernel captures no arrays: programs of the same one are compiled once.
  """
  return getattr(nngp, str(random_nets.ARCHITECTURES[name].infinite))()[2]


def _at(kernel_fn, x, name):
  """`(x, sigma, root, gain)` of one input, as `nngp.law` wants them."""
  # Pooling alone couples pixels; without it one probe is exact.
  probes = 8 if name == 'lenet' else 1
  variance = nngp.gradient_variance(kernel_fn, x, num_probes=probes)
  gain = kernel_fn.gain or x.size * float(variance.max())
  sigma = nngp.output_variance(kernel_fn, x) ** 0.5
  return x, sigma, np.sqrt(variance).ravel(), gain


def draws(
  key: jax.Array,
  name: str,
  x: np.ndarray,
  exponents: tuple[float, ...],
  num: int,
) -> dict[str, np.ndarray]:
  """Returns what `nngp.distance_draws` draws at `x`, as columns.

  Args:
    key: for all draws.
    name, exponents: as for `law`.
    x: one input.
    num: draws a norm.
  """
  kernel_fn = kernel(name)
  found = [nngp.distance_draws(key, kernel_fn, x, p, num) for p in exponents]
  linear, straight = (np.concatenate(v) for v in zip(*found, strict=True))
  return {
    'n': np.full(linear.size, x.size, np.int32),
    'norm': np.repeat(exponents, num),
    'linear': linear,
    'straight': straight,
  }
