"""Digits moved by affine maps."""

import jax
from jax import numpy as jnp
import numpy as np

from dmm_jax.synthetic import sample


def affine(glyph: jax.Array, parameters: jax.Array, size: int) -> jax.Array:
  """Returns a glyph, moved by an affine map: `[size, size]` pixels.

  The glyph is a sum of cubic B-splines, one a pixel: twice continuously
  differentiable in the parameters, within the range of the glyph and 0, and
  somewhat blurred; 0 outside. For `jit`, `vmap` and `grad`.

  Args:
    glyph: `[h, w]`.
    parameters: `[6]`, `(a, b, c, d, s, t)`. The pixel at (x, y), both from -1
      to 1 over the picture, shows the glyph's point `((1 + a) x + b y + s,
      c x + (1 + d) y + t)`; all 0 is the glyph unmoved.
    size: of the picture.
  """
  a, b, c, d, s, t = parameters
  ticks = (2 * jnp.arange(size) + 1) / size - 1
  y, x = jnp.meshgrid(ticks, ticks, indexing='ij')
  h, w = glyph.shape
  rows = _spline((c * x + (1 + d) * y + t + 1) * h / 2 - 0.5, h)
  cols = _spline(((1 + a) * x + b * y + s + 1) * w / 2 - 0.5, w)
  return jnp.einsum('ijh,hw,ijw->ij', rows, glyph, cols)


def affine_parameters(
  key: jax.Array, *, num: int = 1000, deform: float = 0.2, shift: float = 0.2
) -> np.ndarray:
  """Returns parameters `[num, 6]` for `affine`, drawn uniformly.

  (a, b, c, d) within `+-deform`, (s, t) within `+-shift`.
  """
  unit = jax.random.uniform(key, (num, 6), minval=-1.0, maxval=1.0)
  return np.asarray(unit) * np.array([deform] * 4 + [shift] * 2, np.float32)


def glyphs(
  key: jax.Array,
  *,
  num: int = 1000,
  size: int = 16,
  digits: tuple[int, ...] = tuple(range(10)),
  parameters: np.ndarray | None = None,
) -> sample.Sample:
  """Digits moved by affine maps: one 6-dimensional manifold for each class.

  The glyph of a class is the first such digit of scikit-learn's 8x8 digits, the
  same for all its points. Labels are uniform: places in `digits`.

  Args:
    key: of labels and parameters.
    num: points.
    size: of the pictures; `xs` is `[num, size, size, 1]`.
    digits: which ones.
    parameters: `[num, 6]`, as of `affine`; drawn by `affine_parameters` with
      its defaults if None.
  """
  from sklearn import datasets

  images, numbers = datasets.load_digits(return_X_y=True)
  firsts = [np.flatnonzero(numbers == digit)[0] for digit in digits]
  kinds = (images[firsts] / 16).astype(np.float32).reshape(-1, 8, 8)
  if parameters is None:
    parameters = affine_parameters(jax.random.fold_in(key, 1), num=num)
  labels = np.asarray(
    jax.random.randint(
      jax.random.fold_in(key, 2), (len(parameters),), 0, len(digits)
    )
  )

  def both(pair):
    picture = lambda p: affine(pair[0], p, size)
    return picture(pair[1]), jax.jacfwd(picture)(pair[1])

  pairs = kinds[labels], jnp.asarray(parameters, jnp.float32)
  # In parts: derivatives of many pictures at once would fill the memory.
  of_all = jax.jit(lambda pairs: jax.lax.map(both, pairs, batch_size=256))
  xs, slopes = of_all(pairs)
  slopes = np.asarray(slopes, np.float64).reshape(len(xs), -1, 6)
  tangents = sample.orthonormal(slopes.swapaxes(1, 2))
  return sample.rounded(np.asarray(xs)[..., None], labels, tangents)


def _spline(places, n):
  """Returns the weights `[..., n]` of pixels 0 to n - 1 at places `[...]`."""
  u = jnp.abs(places[..., None] - jnp.arange(n)[None, None])
  near = 2 / 3 - u**2 + u**3 / 2
  far = jnp.maximum(2 - u, 0.0) ** 3 / 6
  return jnp.where(u < 1, near, far)
