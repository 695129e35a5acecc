"""The geometry of neural networks' decision boundaries, in JAX.

Modules load when first named, so that `import dmm_jax` is quick and brings in
neither neural-tangents (only `nngp` needs it) nor matplotlib (only `plots`).
"""

import importlib
import pkgutil
import types

__version__ = '0.2.0'

# Every public module of this directory.
__all__ = tuple(
  sorted(
    module.name
    for module in pkgutil.iter_modules(__path__)
    if not module.name.startswith('_')
  )
)


def __getattr__(name: str) -> types.ModuleType:
  if name in __all__:
    return importlib.import_module(f'{__name__}.{name}')
  raise AttributeError(f'module {__name__!r} has no attribute {name!r}')


def __dir__() -> list[str]:
  return sorted({*globals(), *__all__})
