"""Steps away from images that fool networks, and whom they fool."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dmm_jax.train import adversarial


def matched_radius(distances: np.ndarray, share: float = 0.9) -> float:
  """Returns the radius within which most nearest boundary points lie.

  Args:
    distances: of nearest points `[n]`, inf where none was found and 0 of images
      that are wrong, which do not count.
    share: of the images whose nearest point is to lie within.

  Returns:
    An order statistic; 1 where no image counts.
  """
  far = np.sort(distances[np.isfinite(distances) & (distances > 0)])
  return float(far[int(share * len(far))]) if len(far) else 1.0


def step_and_noise(
  logits_fn: Callable,
  x: jax.Array,
  label: jax.Array,
  number: jax.Array,
  radius: Any,
) -> tuple[jax.Array, jax.Array]:
  """Returns an image after an attack, and after noise of the same size.

  The attack takes 20 steps of projected gradient ascent in linf, within [0, 1];
  noise has a random sign at each pixel.

  Args:
    logits_fn: image -> logits `[k]`.
    x: the image.
    label: the class that the attack leads away from.
    number: of the image, for its seed.
    radius: of both, in linf; a scalar, which JAX may trace.
  """
  start, of_noise = jax.random.split(jax.random.key(number))
  ball = adversarial.Adversary(radius, np.inf, num_steps=20)
  noise = radius * jax.random.rademacher(of_noise, x.shape, x.dtype)
  moved = adversarial.attack(start, logits_fn, x, label, ball)
  return moved, jnp.clip(x + noise, 0.0, 1.0)


def count_hits(
  before: np.ndarray, after: np.ndarray, labels: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """Returns images that targets have right, and those no longer after steps.

  Args:
    before: classes that t targets give images `[t, n]`.
    after: those after steps of m sources `[t, m, kinds, n]`.
    labels: of the images `[n]`.

  Returns:
    Two counts `[m, t, kinds, 2]`, of every other image and of the rest: two
    independent measurements.
  """
  known = (before == labels)[:, None, None]
  hits = known & (after != labels)
  known = np.broadcast_to(known, hits.shape)
  images, hits = (
    np.stack([v[..., ::2].sum(-1), v[..., 1::2].sum(-1)], -1).swapaxes(0, 1)
    for v in (known, hits)
  )
  return images, hits
