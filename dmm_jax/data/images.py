"""Images made larger or smaller."""

import jax
import numpy as np


def resize(xs: np.ndarray, size: int, channels: int) -> np.ndarray:
  """Returns images of `size` x `size` pixels and 1 or 3 channels.

  Bilinear, antialiased when shrinking, so that pixels stay within [0, 1]. Grey
  images are repeated for colour; colours are averaged for grey.
  """
  n, *_, c = xs.shape
  out = jax.image.resize(xs, (n, size, size, c), 'linear')
  if channels != c:
    out = out.mean(-1, keepdims=True).repeat(channels, -1)
  return np.clip(np.asarray(out), 0.0, 1.0)


def square(x: np.ndarray, size: int) -> np.ndarray:
  """Returns the central square of one image, resized to `[size, size, c]`.

  With the filter of `resize`, but by PIL: JAX would compile for every shape.
  """
  from PIL import Image

  h, w, c = x.shape
  side = min(h, w)
  top, left = (h - side) // 2, (w - side) // 2
  planes = [
    Image.fromarray(x[top : top + side, left : left + side, k]).resize(
      (size, size), Image.Resampling.BILINEAR
    )
    for k in range(c)
  ]
  return np.clip(np.stack([np.asarray(p) for p in planes], -1), 0.0, 1.0)
