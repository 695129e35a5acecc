"""Strict JAX, on two CPU devices so that sharded code runs sharded."""

import functools
import gc
from importlib.metadata import version
import os
import pathlib

os.environ.setdefault('JAX_PLATFORMS', 'cpu')
# Two workers, and threads of either that wait by turning in circles.
os.environ.setdefault('OPENBLAS_NUM_THREADS', '1')
# Tests compile more than they compute: less optimisation halves the time, and
# programs are kept, for the scripts that tests start and for the next run.
# `oracles.optimized` is for those that compute more.
os.environ.setdefault(
  'XLA_FLAGS',
  '--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true'
  ' --xla_cpu_parallel_codegen_split_count=1'
  # Later ones do not know it, and end.
  + ' --xla_cpu_use_fusion_emitters=false'
  * (version('jaxlib') < '0.11'),
)
os.environ.setdefault(
  'JAX_COMPILATION_CACHE_DIR',
  str(pathlib.Path(__file__).parent.parent / '.pytest_cache' / 'xla'),
)
# Unoptimised ones take less than the second from which JAX keeps them.
os.environ.setdefault('JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS', '0')

import jax
import matplotlib
import pytest
from scipy import stats

from dmm_jax import _xla_cpu

jax.config.update('jax_num_cpu_devices', 2)
jax.config.update('jax_numpy_rank_promotion', 'raise')
matplotlib.use('Agg')
# Tracing makes many objects that live: looking through them is a tenth of it.
gc.freeze()
gc.set_threshold(100_000, 20, 100)

search_options = _xla_cpu.compiler_options


def quick_options():
  """Returns the options of searches, without the optimisation they ask for."""
  options = search_options()
  level = 'xla_backend_optimization_level'
  return options | {level: 0} if level in options else options


_xla_cpu.compiler_options = quick_options


@pytest.fixture(scope='module', autouse=True)
def forget_programs():
  """A process that keeps every module's programs runs out of memory maps."""
  yield
  maps = pathlib.Path('/proc/self/maps')
  # 65,530 are allowed on Linux, where nobody has changed that.
  if not maps.exists() or maps.read_bytes().count(b'\n') > 20_000:
    jax.clear_caches()


@pytest.fixture
def quick_quantiles(monkeypatch):
  """Computes equal quantiles once: most of the time of many made-up runs."""

  def remember(ppf):
    kept = functools.cache(ppf)
    return lambda q, *args: kept(tuple(q) if isinstance(q, list) else q, *args)

  for law in (stats.binom, stats.t):
    monkeypatch.setattr(law, 'ppf', remember(law.ppf))
