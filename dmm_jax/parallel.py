"""A one-example function over a data set, on all devices."""

from collections.abc import Callable
from collections.abc import Iterator
import functools
from typing import Any

import jax
from jax.sharding import AxisType
from jax.sharding import PartitionSpec
import numpy as np
import tqdm


def map_examples(
  fn: Callable,
  columns: tuple,
  *,
  shared: tuple = (),
  batch_size: int = 256,
  lanes: int | None = None,
  progress: str | None = None,
) -> Any:
  """Returns `fn` of every example, as numpy columns in order.

  Args:
    fn: `fn(*example, *shared)` -> pytree of arrays, jittable; the same object
      in later calls is compiled once for each shape.
    columns: arrays `[n, ...]`, one row an example.
    shared: arrays that every example sees whole.
    batch_size: examples a step, over all devices together; the last batch is
      padded, so that it compiles no second time.
    lanes: examples evaluated at once by one device: None for its whole share
      of a batch (`vmap`), 1 for one after the other, which is faster on CPUs
      where every example has its own weights.
    progress: the label of a progress bar, or None for no bar.

  Returns:
    The pytree of `fn` with numpy leaves `[n, ...]`; `[0, ...]` for no example.
  """
  batches = iterate_batches(
    fn,
    columns,
    shared=shared,
    batch_size=batch_size,
    lanes=lanes,
    progress=progress,
  )
  outs = list(batches)
  if not outs:
    rows = [jax.ShapeDtypeStruct(c.shape[1:], _dtype(c)) for c in columns]
    out = jax.eval_shape(fn, *rows, *shared)
    return jax.tree.map(lambda o: np.zeros((0, *o.shape), o.dtype), out)
  return jax.tree.map(lambda *parts: np.concatenate(parts), *outs)


def iterate_batches(
  fn: Callable,
  columns: tuple,
  *,
  shared: tuple = (),
  batch_size: int = 256,
  lanes: int | None = None,
  progress: str | None = None,
) -> Iterator[Any]:
  """Yields what `map_examples` returns, batch by batch.

  The next batch is under way while the caller uses the last one.
  """
  mesh = _mesh()
  num = len(columns[0])
  batch_size = min(batch_size, max(num, 1))
  # Devices take equal shares: a batch is padded for them, by its successors.
  padded = -(-batch_size // mesh.size) * mesh.size
  pending = None
  with tqdm.tqdm(
    total=num, desc=progress, disable=progress is None, unit='example'
  ) as bar:
    for start in range(0, num, batch_size):
      rows = np.arange(start, start + padded) % num
      batch = tuple(np.asarray(c)[rows] for c in columns)
      out = _step(batch, shared, fn=fn, mesh=mesh, lanes=lanes)
      if pending is not None:
        yield _fetch(*pending, bar)
      pending = out, min(batch_size, num - start)
    if pending is not None:
      yield _fetch(*pending, bar)


def _fetch(out, count, bar):
  """Copies a result to the host and trims the padding."""
  out = jax.tree.map(lambda o: o[:count], jax.device_get(out))
  bar.update(count)
  return out


def replicate(tree: Any) -> Any:
  """Puts arrays on every device, whole."""
  whole = jax.sharding.NamedSharding(_mesh(), PartitionSpec())
  return jax.device_put(tree, whole)


def share(tree: Any) -> Any:
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


@functools.cache
def _mesh():
  # Auto axes: under make_mesh's default, Explicit, `vmap` of a `while_loop`
  # over sharded arrays does not trace.
  return jax.make_mesh(
    (jax.device_count(),), ('examples',), axis_types=(AxisType.Auto,)
  )


@functools.partial(jax.jit, static_argnames=('fn', 'mesh', 'lanes'))
def _step(batch, shared, *, fn, mesh, lanes):
  """One batch; every device loops by itself, no collective in any loop."""

  def share(batch, shared):
    one = lambda example: fn(*example, *shared)
    if lanes is None:
      return jax.vmap(one)(batch)
    if lanes == 1:
      return jax.lax.map(one, batch)
    return jax.lax.map(one, batch, batch_size=lanes)

  rows, whole = PartitionSpec('examples'), PartitionSpec()
  return jax.shard_map(
    share, mesh=mesh, in_specs=(rows, whole), out_specs=rows, check_vma=False
  )(batch, shared)


def _dtype(column):
  return jax.dtypes.canonicalize_dtype(np.asarray(column).dtype)
