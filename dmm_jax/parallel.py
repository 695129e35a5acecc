"""A one-example function over a data set, on all devices of all processes.

With several processes (`jax.distributed`) each of them makes the same calls in
the same order and gives the same arguments, whole; only its own rows go to its
devices, and every process gets all results.
"""

from collections.abc import Callable
from collections.abc import Iterator
import functools
from typing import Any

import jax
from jax.sharding import AxisType
from jax.sharding import PartitionSpec
import numpy as np
import tqdm

from dmm_jax import _xla_cpu
from dmm_jax import data
from dmm_jax import programs

# Bytes of all devices together that a batch may take; None for no limit. And
# the batches that were found to fit it.
_limit: dict[str, float | None] = {'bytes': None}
_fitting: dict[Any, int] = {}


def limit_memory(gigabytes: float | None) -> None:
  """Has every later batch be small enough for so much memory.

  Of all devices of this process together: for a batch's program as XLA counts
  it, its inputs and outputs among it. The data set, on the host, and what other
  programs hold are not counted. A batch that has to be smaller compiles its
  program once more; results are those of a smaller `batch_size`.

  Args:
    gigabytes: above 0; None takes the limit away.
  """
  if gigabytes is not None and not gigabytes > 0:
    raise ValueError(f'gigabytes must be above 0, got {gigabytes}')
  _limit['bytes'] = gigabytes and 1e9 * gigabytes
  _fitting.clear()


def map_examples(
  fn: Callable,
  columns: tuple,
  *,
  shared: tuple = (),
  batch_size: int = 256,
  vmap_size: int | None = None,
  progress: str | None = None,
) -> Any:
  """Returns `fn` of every example, as numpy columns in order.

  Args:
    fn: `fn(*example, *shared)` -> pytree of arrays, jittable. A
      `programs.bind` or `programs.trace` is compiled once for equal ones. Any
      other callable is traced at each call: arrays that it captures are used as
      they are now, and equal structure compiles once (see `programs.trace`).
    columns: arrays `[n, ...]`, one row an example; or `data.Column`, of which
      every process reads its own rows alone, a batch at a time.
    shared: arrays that every example sees whole.
    batch_size: examples a step, over all devices together, at most: see
      `limit_memory`. The last batch is padded, and compiles no second time.
    vmap_size: examples evaluated at once by one device: None for its whole
      part of a batch, 1 for one after the other, which is faster on CPUs where
      every example has its own weights.
    progress: the label of a progress bar, or None for no bar.

  Returns:
    The pytree of `fn` with numpy leaves `[n, ...]`; `[0, ...]` for no example.
  """
  batches = iterate_batches(
    fn,
    columns,
    shared=shared,
    batch_size=batch_size,
    vmap_size=vmap_size,
    progress=progress,
  )
  outs = list(batches)
  if not outs:
    out = jax.eval_shape(fn, *_example(_host(columns)), *shared)
    return jax.tree.map(lambda o: np.zeros((0, *o.shape), o.dtype), out)
  return jax.tree.map(lambda *parts: np.concatenate(parts), *outs)


def iterate_batches(
  fn: Callable,
  columns: tuple,
  *,
  shared: tuple = (),
  batch_size: int = 256,
  vmap_size: int | None = None,
  progress: str | None = None,
) -> Iterator[Any]:
  """Yields what `map_examples` returns, batch by batch.

  The next batch is under way while the caller uses the last one.
  """
  mesh = _mesh()
  columns = _host(columns)
  fn = _traced(fn, columns, shared)
  num = len(columns[0])
  batch_size = min(batch_size, max(num, 1))
  if jax.process_count() > 1:
    fn, shared = replicate((fn, shared))
  if _limit['bytes'] and num:
    batch_size = _fit(fn, columns, shared, batch_size, mesh, vmap_size)
  # Devices take equal shares: a batch is padded for them, by its successors.
  padded = _padded(batch_size, mesh)
  silent = progress is None or jax.process_index() > 0
  pending = None
  with tqdm.tqdm(
    total=num, desc=progress, disable=silent, unit='example'
  ) as bar:
    for start in range(0, num, batch_size):
      rows = np.arange(start, start + padded) % num
      batch = tuple(_divide(column, rows, mesh) for column in columns)
      out = _step()(fn, batch, shared, mesh=mesh, vmap_size=vmap_size)
      if jax.process_count() > 1 and jax.default_backend() == 'cpu':
        # Queued collectives can lock each other out there, as in training.
        jax.block_until_ready(out)
      if pending is not None:
        yield _fetch(*pending, bar)
      pending = out, min(batch_size, num - start)
    if pending is not None:
      yield _fetch(*pending, bar)


def _padded(batch_size, mesh):
  return -(-batch_size // mesh.size) * mesh.size


def _fit(fn, columns, shared, batch_size, mesh, vmap_size):
  """The largest batch, of at most `batch_size`, that the limit allows.

  Raises:
    MemoryError: if one example a device is too large.
  """
  limit = _limit['bytes']
  assert limit is not None
  dtype = lambda c: jax.dtypes.canonicalize_dtype(c.dtype)
  described = [(c.shape[1:], dtype(c)) for c in columns]
  leaves, structure = jax.tree.flatten((fn, shared))
  leaves = [(np.shape(leaf), jax.dtypes.result_type(leaf)) for leaf in leaves]
  key = (structure, *leaves, *described, batch_size, vmap_size)
  if key in _fitting:
    return _fitting[key]
  size = batch_size
  while True:
    padded = _padded(size, mesh)
    spec = jax.sharding.NamedSharding(mesh, PartitionSpec('examples'))
    batch = tuple(
      jax.ShapeDtypeStruct((padded, *shape), dtype, sharding=spec)
      for shape, dtype in described
    )
    program = _step().lower(fn, batch, shared, mesh=mesh, vmap_size=vmap_size)
    used = program.compile().memory_analysis()
    taken = jax.local_device_count() * (
      used.temp_size_in_bytes
      + used.argument_size_in_bytes
      + used.output_size_in_bytes
    )
    if taken <= limit:
      _fitting[key] = size
      return size
    if padded <= mesh.size:
      raise MemoryError(
        f'{padded} examples at once take {taken / 1e9:.3g} GB, and '
        f'{limit / 1e9:.3g} GB are allowed'
      )
    size = max(int(0.95 * padded * limit / taken), 1)


def _host(columns):
  """Columns that rows can be taken of on the host; those on disk stay there."""
  return tuple(
    c if isinstance(c, data.Column) else np.asarray(c) for c in columns
  )


def _example(columns):
  """The shape of one row of each column."""
  dtype = lambda c: jax.dtypes.canonicalize_dtype(c.dtype)
  return [jax.ShapeDtypeStruct(c.shape[1:], dtype(c)) for c in columns]


def _traced(fn, columns, shared):
  """A function as a pytree, with the arrays that it captures as they are."""
  if isinstance(fn, programs.Bound | programs.Traced):
    return fn
  return programs.trace(fn, *_example(columns), *shared)


def _fetch(out, count, bar):
  """Copies a result to the host and trims the padding."""
  out = jax.tree.map(lambda o: o[:count], jax.device_get(out))
  bar.update(count)
  return out


def _divide(column, rows, mesh):
  """Puts rows of a column on the devices; each process reads its own alone."""
  spec = PartitionSpec('examples' if len(rows) % mesh.size == 0 else None)
  return jax.make_array_from_callback(
    (len(rows), *column.shape[1:]),
    jax.sharding.NamedSharding(mesh, spec),
    lambda part: column[rows[part[0]]],
  )


def put_rows(columns: tuple, rows: np.ndarray) -> list:
  """Puts rows of columns on the devices, divided among them if they divide."""
  return [_divide(column, rows, _mesh()) for column in _host(columns)]


def replicate(tree: Any) -> Any:
  """Puts arrays on every device of every process, whole."""
  whole = jax.sharding.NamedSharding(_mesh(), PartitionSpec())
  if jax.process_count() == 1:
    return jax.device_put(tree, whole)
  return jax.tree.map(lambda leaf: _copy(leaf, whole), tree)


def _copy(leaf, whole):
  if isinstance(leaf, jax.Array):
    if not leaf.is_fully_addressable:  # It lies on all processes already.
      return jax.device_put(leaf, whole)
    if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
      data = _copy(jax.random.key_data(leaf), whole)
      return jax.random.wrap_key_data(data, impl=jax.random.key_impl(leaf))
  # Not `device_put`, which compares the processes' values, and NaN with NaN.
  value = np.asarray(leaf)
  return jax.make_array_from_callback(
    value.shape, whole, lambda part: value[part]
  )


def shard(tree: Any) -> Any:
  """Divides the first axis of arrays among the devices of one process."""
  rows = jax.sharding.NamedSharding(_mesh(), PartitionSpec('examples'))
  return jax.device_put(tree, rows)


def constrain(tree: Any) -> Any:
  """Under `jit`: gives each device its part of a batch's rows, if they divide.

  What is computed from them is then divided likewise.
  """
  mesh = _mesh()

  def part(column):
    if column.shape[0] % mesh.size:
      return column
    rows = jax.sharding.NamedSharding(mesh, PartitionSpec('examples'))
    return jax.lax.with_sharding_constraint(column, rows)

  return jax.tree.map(part, tree)


def num_shards() -> int:
  """Returns how many devices `psum` divides rows among."""
  return _mesh().size


def psum(fn: Callable, columns: tuple, shared: tuple = ()) -> Any:
  """Under `jit`: sums over devices what `fn` is of each one's rows.

  Args:
    fn: `fn(*columns, *shared)` -> pytree of arrays, of some of the rows.
    columns: arrays `[n, ...]`, n a multiple of `num_shards()`.
    shared: arrays that every device sees whole.
  """
  mesh = _mesh()
  if mesh.size == 1:
    return fn(*columns, *shared)
  rows, whole = PartitionSpec('examples'), PartitionSpec()
  total = lambda own, all: jax.lax.psum(fn(*own, *all), 'examples')
  return jax.shard_map(
    total, mesh=mesh, in_specs=(rows, whole), out_specs=whole, check_vma=False
  )(columns, shared)


@functools.cache
def _mesh():
  # Auto axes: under make_mesh's default, Explicit, `vmap` of a `while_loop`
  # over sharded arrays does not trace.
  return jax.make_mesh(
    (jax.device_count(),), ('examples',), axis_types=(AxisType.Auto,)
  )


@functools.cache
def _step():
  """The jitted `_run_batch`."""
  return jax.jit(
    _run_batch,
    static_argnames=('mesh', 'vmap_size'),
    compiler_options=_xla_cpu.compiler_options(),
  )


def _run_batch(fn, batch, shared, *, mesh, vmap_size):
  """One batch; every device loops by itself, no collective in any loop.

  Several processes share their rows at the end, so that each can read them all.
  """

  def part(batch, fixed):
    fn, shared = fixed
    one = lambda example: fn(*example, *shared)
    if vmap_size is None:
      return jax.vmap(one)(batch)
    if vmap_size == 1:
      return jax.lax.map(one, batch)
    return jax.lax.map(one, batch, batch_size=vmap_size)

  rows, whole = PartitionSpec('examples'), PartitionSpec()
  out = jax.shard_map(
    part, mesh=mesh, in_specs=(rows, whole), out_specs=rows, check_vma=False
  )(batch, (fn, shared))
  if jax.process_count() == 1:
    return out
  everywhere = jax.sharding.NamedSharding(mesh, whole)
  return jax.lax.with_sharding_constraint(out, everywhere)
