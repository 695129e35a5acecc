"""Attacks on a network at many inputs, each beside noise of the same size."""

from collections.abc import Callable
import functools
from typing import Any
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dmm_jax import boundary
from dmm_jax import parallel
from dmm_jax.codes import shifts
from dmm_jax.train import adversarial


class Attacked(NamedTuple):
  """Inputs after two attacks: ascent in linf, and the nearest point in l2.

  Attributes:
    moved: the inputs after each attack `[2, n, ...]`.
    noisy: after noise of the size of each attack `[2, n, ...]`.
    wrong: the class that each attack leads to `[2, n]`; the label where no
      nearest point was found.
    distance: of the nearest point `[n]`, 0 of inputs that are wrong already.
  """

  moved: np.ndarray
  noisy: np.ndarray
  wrong: np.ndarray
  distance: np.ndarray


def attacked(
  logits_fn: Callable,
  network: Any,
  xs: np.ndarray,
  labels: np.ndarray,
  *,
  radius: float,
  bounds: tuple[float, float] = (0.0, 1.0),
) -> Attacked:
  """Returns inputs after attacks on their labels, and after noise.

  Ascent takes 20 steps of a fifth of the radius; the nearest point is that of
  `boundary.measure` by its method `fast`: an upper bound of the distance.

  Args:
    logits_fn: `(network, x) -> logits [k]`.
    network: its parameters.
    xs: inputs `[n, ...]`.
    labels: classes that attacks lead away from `[n]`.
    radius: of ascent in linf.
    bounds: of inputs.
  """
  ball = adversarial.Adversary(
    radius, np.inf, num_steps=20, step_size=0.2, low=bounds[0], high=bounds[1]
  )

  def ascend(x, label, number, network):
    logits = functools.partial(logits_fn, network)
    moved = adversarial.attack(jax.random.key(number), logits, x, label, ball)
    return moved, logits(moved).argmax()

  numbers = np.arange(len(xs))
  ascended, called = parallel.map_examples(
    ascend, (xs, labels, numbers), shared=(network,)
  )
  found = boundary.measure(
    logits_fn, xs, labels, params=network, bounds=bounds, method='fast'
  )
  moved = np.stack([ascended, found.point])
  keys, noisy = jax.vmap(jax.random.key)(numbers + len(xs)), []
  for norm, of in zip((np.inf, 2), jnp.asarray(moved), strict=True):
    like = functools.partial(shifts.matched_noise, norm=norm, bounds=bounds)
    noisy.append(np.asarray(jax.vmap(like)(keys, jnp.asarray(xs), of)))
  wrong = np.stack([called, np.where(found.target < 0, labels, found.target)])
  return Attacked(moved, np.stack(noisy), wrong, np.asarray(found.distance))
