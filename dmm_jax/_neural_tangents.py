"""neural-tangents 0.6.5, made to import on current JAX; `nt` and `stax`.

Its last release names parts of JAX that have moved or gone, and imports
TensorFlow for an experimental module that nothing here uses (8 s). This file
puts the few missing names back before the import. It is the one place in the
project that touches JAX's private names; delete it when a release imports.

Known to stay broken: `nt.empirical_ntk_fn(implementation=3)`.
"""

import sys
import types
import warnings

import jax
import jax.extend
from jax.interpreters import ad
import jax.random

_CORE = (
  'AbstractValue',
  'Jaxpr',
  'JaxprEqn',
  'Literal',
  'Primitive',
  'ShapedArray',
  'Value',
  'Var',
  'eval_context',
)


def _restore_core():
  missing = [name for name in _CORE if not hasattr(jax.core, name)]
  public = jax.extend.core
  for name in [name for name in missing if hasattr(public, name)]:
    setattr(jax.core, name, getattr(public, name))
  private = [name for name in missing if not hasattr(public, name)]
  if private:
    from jax._src import core

    for name in private:
      setattr(jax.core, name, getattr(core, name))


def _restore_rest():
  if not hasattr(jax, 'tree_map'):
    jax.tree_map = jax.tree.map
  if not hasattr(jax, 'util'):
    util = types.ModuleType('jax.util')
    util.safe_map = lambda f, *xs: list(map(f, *xs))
    util.safe_zip = lambda *xs: list(zip(*xs, strict=True))
    jax.util = sys.modules['jax.util'] = util
  if not hasattr(ad, 'zeros_like_p'):
    # Only compared with, never bound: nothing traces it any more.
    ad.zeros_like_p = jax.extend.core.Primitive('zeros_like')
  if not hasattr(jax.random, 'KeyArray'):
    jax.random.KeyArray = jax.Array
  sys.modules.setdefault(
    'neural_tangents.experimental',
    types.ModuleType('neural_tangents.experimental'),
  )


_restore_core()
_restore_rest()

# It cannot see that the branches of a residual block end in weights of their
# own, and says so at every call.
warnings.filterwarnings('ignore', message='`FanIn` layers assume independent')

import neural_tangents as nt  # noqa: E402
from neural_tangents import stax  # noqa: E402

__all__ = ('nt', 'stax')
