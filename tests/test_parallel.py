"""One example at a time over a data set, on two devices."""

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest

from dmm_jax import data
from dmm_jax import parallel
from dmm_jax import programs


@pytest.mark.parametrize(
  'batch_size, vmap_size',
  [(1, None), (8, None), (100, None), (8, 1), (8, 3), (100, 3)],
)
def test_map_keeps_order_for_any_batching(batch_size, vmap_size):
  assert jax.device_count() == 2  # Odd numbers of rows are padded.
  xs = np.arange(37.0, dtype=np.float32)
  out = parallel.map_examples(
    rows_of_two,
    (xs, 2 * xs),
    shared=(np.float32(1), np.float32(-3)),
    batch_size=batch_size,
    vmap_size=vmap_size,
  )
  np.testing.assert_allclose(out['sum'], 3 * xs + 1)
  np.testing.assert_allclose(out['row'], np.stack([xs, 2 * xs - 3], 1))


def rows_of_two(x, y, shift, other):
  return {'sum': x + y + shift, 'row': jnp.stack([x, y + other])}


@pytest.mark.parametrize(
  'vmap_size, seen', [(None, {5}), (1, set()), (2, {2, 1}), (3, {3, 2})]
)
def test_so_many_examples_are_evaluated_at_once(vmap_size, seen):
  sizes = set()

  @jax.custom_batching.custom_vmap
  def twice(x):
    return 2 * x

  @twice.def_vmap
  def _(size, batched, x):
    sizes.add(size)
    return 2 * x, batched[0]

  # Nine examples on two devices: five each, the last one a copy.
  xs = np.arange(9.0)
  out = parallel.map_examples(twice, (xs,), vmap_size=vmap_size)
  np.testing.assert_array_equal(out, 2 * xs)
  assert sizes == seen


def test_loops_end_by_themselves():
  """A `while_loop` of unequal length in each example, sharded."""
  halve = lambda x: jax.lax.while_loop(lambda v: v > 1, lambda v: v / 2, x)
  xs = np.float32(2.0 ** np.arange(11))
  np.testing.assert_array_equal(parallel.map_examples(halve, (xs,)), 1)


def test_no_examples():
  for shape in ((0, 3), (0,)):
    nothing = np.zeros(shape, np.float32)
    out = parallel.map_examples(
      lambda x, y: {'a': jnp.stack([x, x + y]), 'b': jnp.int8(3)},
      (nothing,),
      shared=(1.0,),
    )
    assert out['a'].shape == (0, 2, *shape[1:]) and out['b'].shape == (0,)
    assert out['b'].dtype == np.int8
  assert not [*parallel.iterate_batches(lambda x: x, (nothing,))]


def scale(x, factor):
  return factor * x


def test_equal_functions_compile_once():
  xs = np.arange(10, dtype=np.float32)
  weights = {'w': np.float32([1, 2])}
  closure = lambda x: x * weights['w']
  calls = [
    lambda w: parallel.map_examples(programs.bind(scale, factor=3), (xs,)),
    lambda w: parallel.map_examples(closure, (xs,), batch_size=4),
    lambda w: parallel.map_examples(lambda x: x * w - 1, (xs,), batch_size=4),
  ]
  for call in calls:
    call(weights['w'])
    with oracles.compilations() as compiled:
      for seed in range(3):
        weights['w'] = np.float32([seed, 5])
        out = call(weights['w'])
    assert not compiled
  np.testing.assert_array_equal(out, xs[:, None] * np.float32([2, 5]) - 1)


def test_captured_arrays_are_used_as_they_are():
  xs, weights = np.arange(10, dtype=np.float32), {}
  closure = lambda x: x * weights['w']
  for seed in range(3):
    weights['w'] = np.float32([seed, 5])
    out = parallel.map_examples(closure, (xs,), batch_size=4)
    np.testing.assert_array_equal(out, xs[:, None] * weights['w'])


def counted(asked, xs):
  """A column that tells how many rows were read at once."""
  read = lambda keys: (asked.append(len(keys)), [xs[k] for k in keys])[1]
  return data.Column(read, np.arange(len(xs)), xs.shape[1:])


def test_the_next_batch_is_under_way_while_the_last_one_is_used():
  asked = []
  column = counted(asked, np.arange(5.0)[:, None])
  batches = parallel.iterate_batches(lambda x: 2 * x, (column,), batch_size=2)
  assert not asked
  for number, size in enumerate((2, 2, 1)):
    out = next(batches)
    wanted = 2 * np.arange(2 * number, 2 * number + size)
    np.testing.assert_array_equal(out[:, 0], wanted)
    # One row a device; the last batch begins anew with the first row.
    assert sum(asked) == min(2 * number + 4, 6)
  assert next(batches, None) is None


def test_batches_have_the_size_asked_for():
  xs = np.arange(300, dtype=np.float32)
  of = lambda **options: [
    len(v) for v in parallel.iterate_batches(jnp.negative, (xs,), **options)
  ]
  assert of() == [256, 44] and of(batch_size=299) == [299, 1]
  asked = []
  parallel.map_examples(jnp.negative, (counted(asked, xs[:, None]),))
  assert sum(asked) == 2 * 256


def test_progress_is_shown_by_the_first_process(capsys, monkeypatch):
  xs = np.arange(7.0)
  go = lambda **more: parallel.map_examples(
    lambda x: x, (xs,), batch_size=3, **more
  )
  go()
  assert not capsys.readouterr().err
  go(progress='measuring')
  said = capsys.readouterr().err
  assert 'measuring: 100%' in said and '7/7' in said and 'example/s' in said
  monkeypatch.setattr(jax, 'process_index', lambda: 1)
  go(progress='measuring')
  assert not capsys.readouterr().err


def test_several_processes_get_all_rows(monkeypatch):
  """What differs where there are several, on one that plays two."""
  waited, fetched = [], []
  wait, fetch = jax.block_until_ready, parallel._fetch
  monkeypatch.setattr(
    jax, 'block_until_ready', lambda v: (waited.append(v), wait(v))[1]
  )
  monkeypatch.setattr(
    parallel, '_fetch', lambda out, *v: (fetched.append(out), fetch(out, *v))[1]
  )
  parallel.map_examples(jnp.negative, (np.arange(3.0),))
  assert len(fetched) == 1 and not waited
  fetched.clear()
  monkeypatch.setattr(jax, 'process_count', lambda: 2)
  copied, replicate = [], parallel.replicate
  monkeypatch.setattr(
    parallel, 'replicate', lambda v: (copied.append(v), replicate(v))[1]
  )
  xs, w = np.arange(9.0), np.float32([3, np.nan])
  out = parallel.map_examples(
    lambda x, w: x * w + 0.5, (xs,), shared=(w,), batch_size=4
  )
  np.testing.assert_array_equal(out, xs[:, None] * w + 0.5)
  assert len(waited) == len(fetched) == 3
  (((_, shared),),) = [copied]
  np.testing.assert_array_equal(shared[0], w)
  assert all(v.sharding.is_fully_replicated for v in fetched)


@pytest.mark.parametrize('processes', (1, 2))
def test_replicated_arrays_are_whole_on_every_device(processes, monkeypatch):
  monkeypatch.setattr(jax, 'process_count', lambda: processes)
  tree = {
    'a': np.array([1, np.nan], np.float32),
    'key': jax.random.key(3, impl='rbg'),
    'b': [jnp.arange(6).reshape(2, 3), 4.0],
  }
  out = parallel.replicate(parallel.replicate(tree))
  for v in jax.tree.leaves(out):
    assert v.sharding.is_fully_replicated
    assert len(v.sharding.device_set) == 2
  np.testing.assert_array_equal(out['a'], tree['a'])
  np.testing.assert_array_equal(out['b'][0], tree['b'][0])
  assert out['b'][1] == 4
  assert jax.random.key_impl(out['key']) == jax.random.key_impl(tree['key'])
  assert jax.random.bits(out['key']) == jax.random.bits(tree['key'])


def shards(array):
  return [v.data.shape[0] for v in array.addressable_shards]


def test_rows_are_divided_among_the_devices_if_they_divide():
  xs = np.arange(24.0).reshape(8, 3)
  for rows, of in (([5, 1, 2, 2], [2, 2]), ([4, 0, 7], [3, 3])):
    put, other = parallel.put_rows((xs, [*range(8)]), np.array(rows))
    np.testing.assert_array_equal(put, xs[rows])
    np.testing.assert_array_equal(other, rows)
    assert shards(put) == shards(other) == of
  both = parallel.shard({'a': jnp.asarray(xs), 'b': jnp.arange(2)})
  assert (shards(both['a']), shards(both['b'])) == ([4, 4], [1, 1])
  np.testing.assert_array_equal(both['a'], xs)
  columns = {'a': xs, 'b': xs[:7]}
  parts = jax.jit(parallel.constrain)(columns)
  assert shards(parts['a']) == [4, 4] and set(shards(parts['b'])) == {7}
  jax.tree.map(np.testing.assert_array_equal, parts, columns)


def test_shares_of_all_devices_are_added(monkeypatch):
  xs = np.arange(6, dtype=np.float32)
  assert parallel.num_shards() == 2
  sizes = []

  def add(x, y, w):
    sizes.append(len(x))
    return {'sum': w * (x + y).sum(), 'number': w[None]}

  total = lambda: jax.jit(
    lambda x, w: parallel.psum(add, (x, 2 * x), (w,))
  )(xs, np.float32(2))  # fmt: skip
  found = total()
  assert found['sum'] == 90 and found['number'].tolist() == [4] and sizes == [3]
  count = jax.jit(lambda x: parallel.psum(lambda x: x.shape[0], (x,)))
  assert count(xs) == 6
  one = jax.make_mesh((1,), ('other',), devices=jax.devices()[:1])
  monkeypatch.setattr(parallel, '_mesh', lambda: one)
  found = total()
  assert (
    found['sum'] == 90 and found['number'].tolist() == [2] and sizes == [3, 6]
  )


def test_columns_of_any_type_and_kind():
  """Doubles become floats, as elsewhere in JAX; lists and JAX arrays do."""
  columns = [1.0, 2.0, 3.0], jnp.arange(3), np.arange(3, dtype=np.int64)
  out = parallel.map_examples(lambda *row: jnp.stack(row), columns)
  assert out.dtype == np.float32
  np.testing.assert_array_equal(out, [[1, 0, 0], [2, 1, 1], [3, 2, 2]])
  with jax.enable_x64(True):
    out = parallel.map_examples(lambda x: x, (np.array([1 / 3, 1]),))
  assert out.dtype == np.float64 and out[0] == 1 / 3


def test_rows_on_disk_are_read_batch_by_batch():
  xs = np.random.default_rng(0).normal(size=(11, 3)).astype(np.float32)
  asked = []
  column = counted(asked, xs)
  found = parallel.map_examples(
    lambda x, i: x.sum() + i, (column, np.arange(11)), batch_size=4
  )
  np.testing.assert_allclose(found, xs.sum(1) + np.arange(11), rtol=1e-6)
  assert max(asked) <= 2 and sum(asked) == 12
  none = parallel.map_examples(lambda x: x * 2, (column[:0],))
  assert none.shape == (0, 3)


@pytest.fixture
def limit():
  yield parallel.limit_memory
  parallel.limit_memory(None)


def test_batches_are_as_small_as_memory_asks_for(limit):
  """A row takes a table of 0.8 MB; results and their order stay."""
  sizes = set()

  @jax.custom_batching.custom_vmap
  def seen(x):
    return x

  @seen.def_vmap
  def _(size, batched, x):
    sizes.add(2 * size)  # Two devices.
    return x, batched[0]

  def row(x):
    table = jnp.sin(seen(x) + jnp.arange(2e5, dtype=np.float32))
    return jnp.abs(jnp.fft.rfft(table))[::33_000]

  xs = np.arange(20.0, dtype=np.float32)
  want = parallel.map_examples(row, (xs,), batch_size=16)
  assert sizes == {16}
  for gigabytes, largest in ((0.03, 16), (0.01, 12), (0.004, 4)):
    limit(gigabytes)
    found = parallel.map_examples(row, (xs,), batch_size=16)
    np.testing.assert_allclose(found, want, rtol=1e-6)
    assert sizes, gigabytes
    assert min(sizes) <= largest
    sizes.clear()
  limit(0.001)
  with pytest.raises(MemoryError, match=r'2 examples at once take 0\.00'):
    parallel.map_examples(row, (xs,), batch_size=16)
  assert parallel.map_examples(row, (xs[:0],)).shape == (0, 4)
  for wrong in (0, -1.0, np.nan):
    with pytest.raises(ValueError, match='above 0'):
      limit(wrong)
