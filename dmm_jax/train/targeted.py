"""Inputs that are moved towards a label, and noise as long as such steps."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dmm_jax.train import adversarial

Map = Callable[[jax.Array], jax.Array]


def move(
  key: jax.Array,
  logits_fn: Map,
  x: jax.Array,
  label: jax.Array,
  adversary: adversarial.Adversary,
  *,
  project: Map | None = None,
) -> jax.Array:
  """Moves an input towards a label, as `adversarial.perturb` does away from it.

  Increases the label's log-probability, at the projected step; the end is
  projected, and clipped to the adversary's range, which may take it out of the
  subspace again.

  Args:
    key, x, adversary: as for `adversarial.perturb`.
    logits_fn: input -> logits `[k]`.
    label: the class to move towards, an integer.
    project: of steps, linear; None for all directions.
  """
  kept = (lambda v: x + project(v - x)) if project else (lambda v: v)

  def log_probability(v):
    return -optax.losses.softmax_cross_entropy_with_integer_labels(
      logits_fn(kept(v)), label
    )

  moved = adversarial.perturb(key, log_probability, x, adversary)
  return jnp.clip(kept(moved), adversary.low, adversary.high)


def noise_like(key: jax.Array, xs: np.ndarray, moved: np.ndarray) -> np.ndarray:
  """Returns inputs in [0, 1] moved at random, each as far as it was by a step.

  Noise that would leave [0, 1] has the other sign, so that few numbers are cut.

  Args:
    key: of Gaussian noise.
    xs, moved: inputs `[n, ...]` before and after their steps.
  """
  noise = np.asarray(jax.random.normal(key, xs.shape))
  factor = lengths(moved - xs) / lengths(noise)
  noise = noise * factor.reshape(-1, *[1] * (xs.ndim - 1))
  outside = (xs + noise < 0) | (xs + noise > 1)
  return np.clip(xs + np.where(outside, -noise, noise), 0.0, 1.0)


def lengths(steps: np.ndarray) -> np.ndarray:
  """Returns the l2 lengths `[n]` of steps `[n, ...]`."""
  return np.linalg.norm(steps.reshape(len(steps), -1), axis=1)
