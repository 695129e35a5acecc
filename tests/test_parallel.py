import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest

from dmm_jax import data
from dmm_jax import parallel
from dmm_jax import programs


@pytest.mark.parametrize('vmap_size', [None, 1, 3])
@pytest.mark.parametrize('batch_size', [1, 8, 100])
def test_map_keeps_order_for_any_batching(vmap_size, batch_size):
  assert jax.device_count() == 2  # Odd numbers of rows are padded.
  xs = np.arange(37.0, dtype=np.float32)
  fn = lambda x, y, shift: {'sum': x + y + shift, 'row': jnp.stack([x, y])}
  out = parallel.map_examples(
    fn,
    (xs, 2 * xs),
    shared=(np.float32(1),),
    batch_size=batch_size,
    vmap_size=vmap_size,
  )
  np.testing.assert_allclose(out['sum'], 3 * xs + 1)
  np.testing.assert_allclose(out['row'], np.stack([xs, 2 * xs], 1))


def test_loops_end_by_themselves():
  """A `while_loop` of unequal length in each example, sharded."""
  halve = lambda x: jax.lax.while_loop(lambda v: v > 1, lambda v: v / 2, x)
  xs = np.float32(2.0 ** np.arange(11))
  np.testing.assert_array_equal(parallel.map_examples(halve, (xs,)), 1)


def test_no_examples():
  out = parallel.map_examples(lambda x: x @ x, (np.zeros((0, 3), np.float32),))
  assert out.shape == (0,)


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


@pytest.mark.parametrize('batch_size', [1, 4, 100])
def test_captured_arrays_are_used_as_they_are(batch_size):
  xs, weights = np.arange(10, dtype=np.float32), {}
  closure = lambda x: x * weights['w']
  for seed in range(3):
    weights['w'] = np.float32([seed, 5])
    out = parallel.map_examples(closure, (xs,), batch_size=batch_size)
    np.testing.assert_array_equal(out, xs[:, None] * weights['w'])


def test_batches_come_one_by_one():
  batches = parallel.iterate_batches(lambda x: x, (np.arange(5),), batch_size=2)
  assert [list(b) for b in batches] == [[0, 1], [2, 3], [4]]


def test_batches_have_the_size_asked_for():
  xs = np.arange(10, dtype=np.float32)
  batches = list(parallel.iterate_batches(lambda x: 2 * x, (xs,), batch_size=3))
  assert [len(b) for b in batches] == [3, 3, 3, 1]
  np.testing.assert_array_equal(np.concatenate(batches), 2 * xs)


def test_replicated_arrays_are_whole_on_every_device():
  tree = {'a': np.array([1, np.nan], np.float32), 'key': jax.random.key(3)}
  out = parallel.replicate(parallel.replicate(tree))
  assert all(v.sharding.is_fully_replicated for v in out.values())
  assert all(len(v.sharding.device_set) == 2 for v in out.values())
  np.testing.assert_array_equal(out['a'], tree['a'])
  assert jax.random.bits(out['key']) == jax.random.bits(tree['key'])


def test_shares_of_all_devices_are_added():
  xs = np.arange(6, dtype=np.float32)
  assert len(xs) % parallel.num_shards() == 0
  total = jax.jit(
    lambda x, w: parallel.psum(lambda x, w: w * x.sum(), (x,), (w,))
  )
  assert total(xs, np.float32(2)) == 30


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

  def read(keys):
    asked.append(len(keys))
    return [xs[k] for k in keys]

  column = data.Column(read, np.arange(11), (3,))
  found = parallel.map_examples(
    lambda x, i: x.sum() + i, (column, np.arange(11)), batch_size=4
  )
  np.testing.assert_allclose(found, xs.sum(1) + np.arange(11), rtol=1e-6)
  assert max(asked) <= 2 and sum(asked) == 12
  none = parallel.map_examples(lambda x: x * 2, (column[:0],))
  assert none.shape == (0, 3)
