"""Subspaces for each example, and searches on and off them."""

import jax
import numpy as np

from dmm_jax import boundary
from dmm_jax import manifold
from dmm_jax import parallel

# Subspaces that an auto-encoder is needed for.
DECODED = ('decoder', 'untrained', 'other', 'permuted')
KINDS: tuple[str, ...] = (
  'decoder',
  'principal',
  'neighbors',
  'random',
  'frequency',
  *DECODED[1:],
)
SIDES = {'on': manifold.on, 'off': manifold.off}
FIELDS = 'distance target status gradients'.split()


def through(autoencoder, xs):
  """Returns the codes of images, and what is made of them.

  `autoencoder` is `(module, variables)`.
  """
  module, variables = autoencoder

  def one(x, variables):
    z = module.apply(variables, x, method='encode')
    return z, module.apply(variables, z, method='decode')

  return parallel.map_examples(one, (xs,), shared=(variables,))


def bases(kind, k, key, autoencoder, codes, xs, train_xs):
  """Returns a subspace for each of the images `[n, k, d]`.

  Args:
    kind: of `KINDS`; see `experiments.manifold_split`.
    k: dimensions.
    key: of random subspaces, weights and permutations.
    autoencoder: `(module, variables)`.
    codes: of the images, as of `through`.
    xs: images `[n, ...]`.
    train_xs: those that principal directions are of.
  """
  n, d = len(xs), xs[0].size
  spread = lambda basis: np.broadcast_to(basis, (n, *basis.shape))
  if kind == 'random':
    draw = lambda i: manifold.random_basis(jax.random.fold_in(key, i), k, d)
    return parallel.map_examples(draw, (np.arange(n),))
  if kind == 'frequency':
    return spread(manifold.frequency_basis(xs.shape[1:], k))
  if kind == 'principal':
    return spread(manifold.principal_basis(train_xs, k))
  if kind == 'neighbors':
    near = lambda x, xs: manifold.neighbor_basis(xs, x, k, 3 * k)
    return parallel.map_examples(near, (xs,), shared=(train_xs,))
  module, variables = autoencoder
  if kind == 'untrained':
    variables = module.init({'params': key, 'latent': key}, xs[0])
  rank = None if k == codes.shape[1] else k

  def tangent(z, variables):
    decode = lambda z: module.apply(variables, z, method='decode')
    return manifold.tangent_basis(decode, z, rank)

  # k derivatives of each example at once: 256 examples would fill 20 GB with
  # those of a large decoder for 128 latents.
  few = max(2, 2048 // codes.shape[1])
  found = parallel.map_examples(
    tangent, (codes,), shared=(variables,), batch_size=few
  )
  if kind == 'other':
    return np.roll(found, 1, axis=0)
  if kind == 'permuted':
    return found[:, :, np.asarray(jax.random.permutation(key, d))]
  return found


def measure(classifier, xs, labels, side, bases, **options):
  """Returns the nearest boundary points of images, on or off their subspaces.

  Args:
    classifier: `(module, variables)`.
    xs, labels: images `[n, ...]` and their classes `[n]`.
    side: of `SIDES`; or 'free', everywhere.
    bases: a subspace for each image `[n, k, d]`; not used if free.
    **options: further ones of `boundary.measure`.
  """
  module, variables = classifier
  free = side == 'free'
  return boundary.measure(
    lambda variables, x: module.apply(variables, x)[0],
    xs,
    labels,
    params=variables,
    project=None if free else SIDES[side],
    project_rows=() if free else (bases,),
    **options,
  )


def fractions(normal, step, basis):
  """Parts within a subspace of the free normal and of the free perturbation."""
  return {
    'normal_fraction': manifold.tangent_fraction(normal, basis),
    'step_fraction': manifold.tangent_fraction(step, basis),
  }
