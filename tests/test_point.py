"""How results of searches are printed, and that they are still named tuples."""

import copy
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dmm_jax import boundary
from dmm_jax.boundary.point import Status

FIELDS = boundary.BoundaryPoint._fields


def result(statuses, shape=(28, 28, 1), make=jnp.asarray):
  """Of as many examples as statuses, `[n]` or of more axes."""
  statuses = np.asarray(statuses, np.int32)
  distances = np.arange(1.0, statuses.size + 1).reshape(statuses.shape)
  distances[statuses == Status.MISCLASSIFIED] = 0
  distances[statuses == Status.NOT_FOUND] = np.inf
  images = np.zeros((*statuses.shape, *shape), np.float32)
  numbers = np.zeros(statuses.shape, np.int32)
  margins = distances.astype(np.float32)
  columns = (
    *(margins, images, numbers, images),
    *(margins, statuses, numbers, numbers),
  )
  return boundary.BoundaryPoint(*map(make, columns))


@pytest.mark.parametrize('make', [np.asarray, jnp.asarray])
def test_of_several_examples_two_lines_say_how_they_ended(make):
  statuses = 95 * [0] + 3 * [Status.NOT_FOUND] + 2 * [Status.MISCLASSIFIED]
  found = result(statuses, make=make)
  lines = repr(found).splitlines()
  assert len(lines) == 2
  assert max(map(len, lines)) <= 80
  text = ' '.join(lines)
  for said in (
    'BoundaryPoint(100 examples of shape (28, 28, 1), ',
    f'median distance {np.median(found.distance):.4g}: ',
    ' 95 FOUND, 2 MISCLASSIFIED, 3 NOT_FOUND)',
  ):
    assert said in text
  assert str(found) == f'{found}' == repr(found)


@pytest.mark.parametrize(
  'statuses, said',
  [
    ([0], '(1 example of'),
    ([[0, 1, 2], [0, 0, 0]], '((2, 3) = 6 examples of'),
    (2 * [Status.NOT_FOUND], 'median distance inf:'),
    ([0, 0, 0], 'median distance 2:\n  3 FOUND)'),
  ],
)
def test_of_few_examples_or_of_several_axes(statuses, said):
  assert said in repr(result(statuses))


def test_distances_of_half_precision_have_a_median():
  found = result([0, 0, 0])
  halves = found._replace(distance=found.distance.astype(jnp.bfloat16))
  assert 'median distance 2:' in repr(halves)


@pytest.mark.parametrize('make', [np.asarray, jnp.asarray])
def test_no_example_is_one_line(make):
  found = jax.tree.map(lambda leaf: leaf[:0], result([0, 1], make=make))
  assert repr(found) == 'BoundaryPoint(0 examples of shape (28, 28, 1))'
  found = jax.tree.map(lambda leaf: leaf[:, :0], result([[0, 1]], make=make))
  said = '(1, 0) = 0 examples of shape (28, 28, 1)'
  assert repr(found) == f'BoundaryPoint({said})'


def test_one_example_is_printed_whole():
  found = result(0, shape=(2,))
  text = repr(found)
  assert text.startswith('BoundaryPoint(distance=')
  for name, value in zip(FIELDS, found, strict=True):
    assert f'{name}={value!r}' in text


def test_what_is_no_array_of_examples_is_printed_by_fields():
  found = result([0, 1])
  traced = []
  jax.jit(lambda found: traced.append(repr(found)))(found)
  jax.jit(lambda found: traced.append(repr(found._replace(point=1))))(found)
  for text in (
    *traced,
    repr(jax.eval_shape(lambda found: found, found)),
    repr(boundary.BoundaryPoint(*range(8))),
    repr(boundary.BoundaryPoint(*8 * [None])),
    repr(found._replace(status=jnp.array([77, 0]))),
    repr(found._replace(status=jnp.zeros(3))),
  ):
    assert text.startswith('BoundaryPoint(distance=')
    assert all(f', {name}=' in text for name in FIELDS[1:])


def test_it_is_a_named_tuple_and_a_pytree_as_before():
  found = result([0, 1])
  leaves, tree = jax.tree.flatten(found)
  assert len(leaves) == len(found) == len(FIELDS)
  again = jax.tree.unflatten(tree, leaves)
  for other in (again, copy.copy(found), pickle.loads(pickle.dumps(found))):
    assert type(other) is boundary.BoundaryPoint
    np.testing.assert_array_equal(other.distance, found.distance)
  assert found._replace(target=3).target == 3
  assert found[0] is found.distance
  doubled = jax.jit(lambda found: jax.tree.map(lambda v: 2 * v, found))(found)
  np.testing.assert_array_equal(doubled.distance, 2 * found.distance)


def test_what_measure_returns_prints_in_two_lines():
  xs = np.random.default_rng(0).normal(size=(20, 5)).astype(np.float32)
  fn = lambda x: jnp.stack([1 - jnp.sum(x**2), 0.0])
  found = boundary.measure(fn, xs, method='fast', max_gradients=20)
  lines = repr(found).splitlines()
  assert len(lines) == 2
  assert '20 examples of shape (5,), median distance ' in lines[0]
  for status, count in zip(
    *np.unique(found.status, return_counts=True), strict=True
  ):
    assert f'{count} {Status(status).name}' in lines[1]
