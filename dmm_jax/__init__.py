"""The geometry of neural networks' decision boundaries, in JAX.

Modules load when first named, so that `import dmm_jax` is quick and brings in
neither neural-tangents (only `nngp` needs it) nor matplotlib (only `plots`).
"""

import importlib
import types

__version__ = '0.1.0'

__all__ = (
  'adversarial',
  'boundary',
  'certify',
  'checkpoints',
  'codes',
  'data',
  'distances',
  'losses',
  'margins',
  'models',
  'nngp',
  'normals',
  'norms',
  'parallel',
  'plots',
  'predictions',
  'random_nets',
  'records',
  'scaling',
  'som',
  'statistics',
  'synthetic',
  'train',
)


def __getattr__(name: str) -> types.ModuleType:
  if name in __all__:
    return importlib.import_module(f'{__name__}.{name}')
  raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
